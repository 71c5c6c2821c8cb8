"""The sources of the notebooks, and the rules that each of them keeps; used by several tests."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests" / "demo"
sys.path[:0] = [str(ROOT / "tools"), str(DEMO)]

builder = importlib.import_module("build_notebooks")

from build_notebooks import ROLES, Source, read_source, role  # noqa: E402
from names import bound_and_used  # noqa: E402
from nbformat import NotebookNode  # noqa: E402

from mi_helpers.suite.claims import load_claims  # noqa: E402

REAL = sorted((ROOT / "notebooks" / "src").glob("*.py"))
PATHS = [*REAL, DEMO / "99_demo.py"]
KNOWN = {*dir(builtins), "display", "get_ipython", "__name__", "__file__"}
PLOTTING = {"plotly", "matplotlib", "seaborn", "circuitsvis", "altair", "bokeh"}


def claims_file(path: Path) -> Path:
    """The claims file that belongs to a source."""
    folder = DEMO if path.parent == DEMO else ROOT / "data" / "claims"
    return folder / f"{path.stem}.toml"


def code_cells(source: Source) -> Iterator[tuple[NotebookNode, ast.Module]]:
    """Each code cell with its syntax tree."""
    for cell in source.cells:
        if cell.cell_type == "code":
            yield cell, ast.parse(cell.source)


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements below a node."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """All calls below a node, with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def long_cells(source: Source) -> list[str]:
    """Code cells of over 15 lines, or 25 in an exercise, without blanks and comments."""
    found = []
    for cell, _ in code_cells(source):
        lines = [li for li in cell.source.splitlines() if li.strip() and li.strip()[0] != "#"]
        limit = 25 if role(cell) in ("exercise", "solution") else 15
        if len(lines) > limit:
            found.append(f"{len(lines)} lines, {limit} allowed: {lines[0]}")
    return found


def lost_figures(source: Source) -> list[str]:
    """Figures made before the last line of a cell and not displayed: nobody sees them."""
    made = [
        ast.unparse(statement.value.func)
        for _, tree in code_cells(source)
        for statement in tree.body[:-1]
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    return [name for name in made if re.fullmatch(r"(mi\.)?figures\.\w+", name)]


def forbidden_code(source: Source) -> list[str]:
    """Plotting libraries, and models loaded outside the set-up cell."""
    found = []
    for _, tree in code_cells(source):
        for node in imports(tree):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if module.split(".")[0] in PLOTTING:
                found.append(f"plotting in a cell: {ast.unparse(node)}")
        found += [f"loads a model: {name}" for name, _ in calls(tree) if "load_model" in name]
    return found


def prose_decimals(source: Source) -> list[str]:
    """Decimal numbers in prose, outside of code, formulas and the addresses of links."""
    found = []
    for cell in source.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|\$\$.*?\$\$", "", cell.source, flags=re.DOTALL)
            text = re.sub(r"`[^`]*`|\$[^$\n]+\$|\]\([^)]*\)", "", text)
            found += re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)", text)
    return found


def claim_ids(source: Source) -> list[str]:
    """The ids of the claims that a source makes, in order; code where there should be a text."""
    found = []
    for _, tree in code_cells(source):
        for name, call in calls(tree):
            if name == "claim":
                first = call.args[0] if call.args else call
                literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
                found.append(first.value if literal else ast.unparse(first))
    return found


def claim_faults(source: Source, declared: Path) -> list[str]:
    """Claims not declared (or whose id is not a plain text), never made, or made twice."""
    made = claim_ids(source)
    known = set(load_claims(declared)) if made or declared.exists() else set()
    return [
        *(f"not declared: {claim}" for claim in sorted(set(made) - known)),
        *(f"never made: {claim}" for claim in sorted(known - set(made))),
        *(f"made twice: {claim}" for claim in sorted({c for c in made if made.count(c) > 1})),
    ]


def exercises(source: Source) -> list[dict[str, NotebookNode]]:
    """The exercises' cells by role; a new exercise starts at each task."""
    found: list[dict[str, NotebookNode]] = []
    for cell in source.cells:
        part = role(cell)
        if part == "task" or (part and not found):
            found.append({})
        if part:
            found[-1].setdefault(part, cell)
    return found


def exercise_faults(source: Source) -> list[str]:
    """Exercises that lack a part, have it out of order or repeated, or do not state their size."""
    parts = [part for cell in source.cells if (part := role(cell))]
    found = []
    if parts != list(ROLES) * parts.count("task"):
        found.append(f"an exercise is {', '.join(ROLES)}, in this order; here: {', '.join(parts)}")
    for cells in exercises(source):
        size = cells["task"].metadata if "task" in cells else {}
        if size.get("difficulty") not in (1, 2, 3) or not isinstance(size.get("minutes"), int):
            found.append(f"no difficulty from 1 to 3, or no minutes: {size}")
        if "check" in cells and not re.match(r"check\.\w+\(", cells["check"].source):
            found.append(f"a check cell calls check.name(answer): {cells['check'].source}")
    return found


def defined(tree: ast.Module) -> set[str]:
    """The names that a cell gives to the notebook, without those that stay inside a function."""
    found, open_nodes = set(), list(ast.iter_child_nodes(tree))
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.DictComp)):
            open_nodes += ast.iter_child_nodes(node)
    return found


def leaks(source: Source) -> list[str]:
    """Names that only a solution defines and that a later cell outside of exercises uses."""
    found, given, solved = [], set(), set()
    for cell, tree in code_cells(source):
        if role(cell) == "solution":
            solved |= defined(tree) - given
        elif role(cell) is None:
            given |= defined(tree)
            solved -= given
            own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            found += sorted((names - own) & solved)
    return found


def count_faults(source: Source) -> list[str]:
    """Too few claims, exercises or widgets, or too many cells, for a notebook but the start."""
    tree = ast.parse(source.code())
    names = [name for name, _ in calls(tree)]
    counts = {
        "claims": (len(claim_ids(source)), 8),
        "exercises": (len(exercises(source)), 4),
        "widgets": (sum(bool(re.search(r"\b(explore|twin|interact)$", n)) for n in names), 1),
    }
    few = [f"{n} {what}, {least} wanted" for what, (n, least) in counts.items() if n < least]
    long = main_path(source)
    return few + [f"{long} code cells before the appendix, 60 allowed"] * (long > 60)


def main_path(source: Source) -> int:
    """How many code cells a reader runs before the appendix."""
    count = 0
    for cell in source.cells:
        if cell.cell_type == "markdown" and re.search(r"^## Appendix", cell.source, re.M):
            break
        count += cell.cell_type == "code" and role(cell) != "exercise"
    return count


def counts_matter(path: Path, source: Source) -> bool:
    """Whether a source is a whole notebook: neither the start, nor a draft, nor the example."""
    return path in REAL and path.stem[:2] != "00" and not source.draft


def faults(path: Path) -> list[str]:
    """Everything that a source does against the rules."""
    source = read_source(path)
    found = {
        "length": long_cells(source),
        "figure lost": lost_figures(source),
        "code": forbidden_code(source),
        "decimal in prose": prose_decimals(source),
        "claim": claim_faults(source, claims_file(path)),
        "exercise": exercise_faults(source),
        "solution used later": leaks(source),
        "count": count_faults(source) if counts_matter(path, source) else [],
    }
    return [f"{rule}: {fault}" for rule, list_ in found.items() for fault in list_]


def missing(cells: Iterable[str], given: Iterable[str] = ()) -> list[tuple[int, str]]:
    """(number of the cell, name) of what cells run in this order use and nothing has bound.

    What a function uses may come after it, in any of the cells.
    """
    there, found, later = {*given, *KNOWN}, [], []
    for number, code in enumerate(cells):
        bound, used = bound_and_used(code)
        now = bound_and_used(code, inside=False)[1]
        found += [(number, name) for name in sorted(now - there)]
        later += [(number, name) for name in sorted(used - now)]
        there |= bound
    return found + [one for one in later if one[1] not in there]
