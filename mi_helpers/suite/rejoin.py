"""Going on from the head of any section: what the sections before it compute, run quietly."""

from __future__ import annotations

import ast
import json
import linecache
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_helpers.suite.claims import Claims
from mi_helpers.suite.library import notebooks_folder

_LEFT_OUT = {"setup", "solution", "exercise", "check"}
_SHOWS = re.compile(r"(print|display|(mi\.)?(figures|library|check)\.\w+|claim\.(judge|table))$")
BY_HAND = (
    "Run what stands before it by hand instead: Run > Run All Above Selected Cell in JupyterLab, "
    "Runtime > Run before on Colab, Execute Above Cells in VS Code."
)


@dataclass(frozen=True)
class Section:
    """A heading of a notebook and the code cells below it, as (number of the cell, source)."""

    heading: str
    cells: tuple[tuple[int, str], ...]

    @property
    def called(self) -> str:
        """What it is asked for by: "4" or "Appendix A", or else the whole heading."""
        short = re.match(r"(\d+)\. |(Appendix [A-Z])\b", self.heading)
        return (short[1] or short[2]) if short else self.heading


def start_at(section: int | str) -> None:
    """Run what a notebook computes before a section, and say so in one line.

    For whoever comes late, or has restarted the kernel: run the set-up cell, then, in a cell of its
    own, `mi.start_at(4)` or `mi.start_at("Appendix A")`, and go on from that section's head. What
    runs is the suite's own code, not what the cells of your copy have become. Figures and checks
    are left out, and so are exercises, whose answers no other cell needs. Claims are made without
    being shown, so that the table at the end is whole.

    Args:
        section: Number of the section, or what its heading starts with.

    Raises:
        NameError: the set-up cell was not run.
        ValueError: the notebook has no such section; the message names those it has.
        FileNotFoundError: the notebook's file is not here; the message says what to do instead.
        RuntimeError: a cell failed; the message says which.
    """
    namespace = sys._getframe(1).f_globals  # of the notebook that calls
    claim = namespace.get("claim")
    if not isinstance(claim, Claims):
        raise NameError("run the set-up cell first, the first code cell of the notebook")
    path = notebooks_folder() / f"{claim.notebook}.ipynb"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is not beside the package, so section {section} cannot be prepared. "
            + BY_HAND
        )
    before, at = parts(sections(path), section)
    if not before:
        print(f"Section {at.called} is the first: it needs the set-up cell alone.")
        return
    first, last = before[0].called, before[-1].called
    said = f"section {first}" if first == last else f"sections {first} to {last}"
    count = sum(len(one.cells) for one in before)
    print(f"Running the {count} cells of {said} ...", end=" ", flush=True)
    start = time.monotonic()
    for one in before:
        _run(one, claim.notebook, namespace)
    print(f"{time.monotonic() - start:.0f} s. Go on from section {at.heading!r}.")


def parts(found: Sequence[Section], section: int | str) -> tuple[Sequence[Section], Section]:
    """The sections before the one that is asked for, and that one.

    Raises ValueError where there is none.
    """
    asked = str(section).strip().lower()
    for number, one in enumerate(found):
        names = {one.called.lower(), one.called.lower().removeprefix("appendix ")}
        if asked in names or (len(asked) > 2 and one.heading.lower().startswith(asked)):
            return found[:number], one
    there = ", ".join(one.called for one in found)
    raise ValueError(f"there is no section {section!r}; there are: {there}")


def sections(path: Path) -> list[Section]:
    """The sections of a notebook with solutions, each with the code that others may need."""
    found: list[tuple[str, list[tuple[int, str]]]] = [("", [])]
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found += [(heading, []) for heading in re.findall(r"^## (.+)$", source, re.MULTILINE)]
        elif not _LEFT_OUT & set(cell["metadata"].get("tags", [])):
            found[-1][1].append((number, source))
    return [Section(heading, tuple(cells)) for heading, cells in found if heading or cells]


def quiet(source: str) -> Iterator[ast.stmt]:
    """The statements of a cell but those that only show something."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Expr):
            called = node.value
            if not isinstance(called, ast.Call) or _SHOWS.match(ast.unparse(called.func)):
                continue
        yield node


def _run(section: Section, notebook: str, namespace: dict[str, Any]) -> None:
    """Run a section's cells as if they stood in the notebook, and swallow what they show."""
    from IPython.utils.capture import capture_output

    for number, source in section.cells:
        name = f"<{notebook}, cell {number}>"  # under which tracebacks show the lines
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = len(source), None, lines, name
        code = compile(ast.Module(list(quiet(source)), []), name, "exec", dont_inherit=True)
        try:
            with capture_output():
                exec(code, namespace)
        except Exception as err:
            raise RuntimeError(
                f"cell {number} of {notebook}, in section {section.heading!r}, failed with "
                f"{type(err).__name__}: {err}. {BY_HAND}"
            ) from err
