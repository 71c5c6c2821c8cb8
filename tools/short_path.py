"""The short way through a notebook: the cells that its source marks, and what those need.

A source marks a cell with `short=true` behind its `# %%`; of an exercise, its task alone. What
marked code uses and unmarked cells compute is drawn in: the statements that matter, without figures
and claims, in one folded cell before the next marked one.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from names import bound_and_used, changed
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from mi_helpers.suite.rejoin import quiet

NEEDED = "needed"  # the tag of a cell that was drawn in
SETTINGS = ("torch.set_", "torch.manual_seed")  # calls that all cells after them depend on
GIVEN = {"torch", "mi", "model", "check", "claim", "figures"}  # by the set-up cell


def marked(cells: Sequence[NotebookNode], roles: Sequence[str | None]) -> list[bool]:
    """For each cell whether it is on the short way: marked, the first, or of a marked exercise."""
    found: list[bool] = []
    for cell, part in zip(cells, roles, strict=True):
        own = bool(cell.metadata.get("short"))
        inside = part is not None and part != "task" and bool(found) and found[-1]
        found.append(own or inside or not found)
    return found


def short_cells(cells: Sequence[NotebookNode], roles: Sequence[str | None]) -> list[NotebookNode]:
    """The cells of the short way, in order; those that are drawn in have the tag NEEDED."""
    kept = marked(cells, roles)
    needed: set[str] = set()
    drawn: list[list[str]] = [[] for _ in cells]
    for number in reversed(range(len(cells))):
        cell, part = cells[number], roles[number]
        if cell.cell_type != "code" or part == "solution":
            continue
        if kept[number]:
            bound, used = bound_and_used(cell.source)
            needed = (needed - bound) | (used - GIVEN)
        elif part is None:
            drawn[number], needed = _statements(cell.source, needed)
    found: list[NotebookNode] = []
    waiting: list[str] = []
    for cell, here, statements in zip(cells, kept, drawn, strict=True):
        waiting += statements
        if here and waiting:
            text = "\n".join(["# @title What the cells below need", *waiting])
            found.append(new_code_cell(text, metadata={"tags": [NEEDED]}))
            waiting = []
        found += [cell] if here else []
    return found


def _statements(source: str, needed: set[str]) -> tuple[list[str], set[str]]:
    """The statements of a cell that later ones need, and what they and these need before them."""
    kept: list[str] = []
    lines = source.splitlines()
    for node in reversed(list(quiet(source))):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        bound, used = bound_and_used(text)
        said = ast.unparse(node) if isinstance(node, ast.Expr) else ""
        wanted = bool((bound | changed(text)) & needed) or said.startswith(SETTINGS)
        if said.startswith("claim") or not wanted:
            continue
        needed = (needed - bound) | (used - GIVEN)
        kept.insert(0, f"\n{text}\n" if isinstance(node, ast.FunctionDef | ast.ClassDef) else text)
    return kept, needed
