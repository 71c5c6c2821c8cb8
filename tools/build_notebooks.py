#!/usr/bin/env python3
"""Make the notebooks from their sources.

    python tools/build_notebooks.py [NN_name ...]    write the notebooks
    python tools/build_notebooks.py --check          write nothing; exit 1 and name the stale

Each ``notebooks/src/NN_name.py`` (jupytext's percent format) becomes two notebooks without outputs:
``notebooks/NN_name.ipynb``, the full one (solutions folded, stubs dropped), and the learner's,
``notebooks/exercises/NN_name.ipynb`` (stubs, solutions as text to open). Title, Colab badge, links
and the one set-up cell are generated around the source's first cell. How a source is written:
``notebooks/src/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mi_helpers.reading import cite_markdown

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "notebooks/src"
ROLES = ("task", "hint", "exercise", "solution", "check")
COLAB_LACKS = ("transformer-lens", "circuitsvis")  # with what they bring; the rest is preinstalled
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

SETUP = """\
# On Colab this cell installs what is missing there; elsewhere it only imports.
import sys

if "google.colab" in sys.modules:
    %pip install -q {pins}
    %pip install -q --no-deps "mi-helpers @ git+{url}@v{version}"

import torch

import mi_helpers as mi
"""


class SourceError(ValueError):
    """A source that cannot be built; the message names file and fault."""


@dataclass(frozen=True)
class Project:
    """What the generated cells say about the package."""

    url: str
    version: str
    pins: str


@dataclass(frozen=True)
class Source:
    """A notebook's source: its header and its cells, as jupytext reads them."""

    name: str
    title: str
    minutes: int
    cells: tuple[NotebookNode, ...]
    measured: str = ""

    def code(self) -> str:
        """All code."""
        return "\n".join(cell.source for cell in self.cells if cell.cell_type == "code")


def read_project(root: Path) -> Project:
    """Repository, version and the pins for Colab, from pyproject.toml and requirements.lock."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    pins = [re.search(rf"^{name}==[^\s;\\]+", lock, re.MULTILINE) for name in COLAB_LACKS]
    if not all(pins):
        raise SourceError(f"requirements.lock does not pin all of {', '.join(COLAB_LACKS)}")
    pinned = " ".join(pin.group() for pin in pins if pin)
    return Project(project["urls"]["Repository"], project["version"], pinned)


def read_source(path: Path) -> Source:
    """Parse a source; raises SourceError for a bad header, an unknown tag or a missing table."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# ---\n((?:#.*\n)*?)# ---\n", text)
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) or not match:
        raise SourceError(f"{path.name}: expected NN_name.py that starts with a '# ---' header")
    header = yaml.safe_load(re.sub(r"^# ?", "", match[1], flags=re.MULTILINE)) or {}
    if not {"title", "minutes"} <= set(header) <= {"title", "minutes", "measured"}:
        raise SourceError(f"{path.name}: header needs title and minutes, and may have measured")
    cells = tuple(jupytext.reads(text[match.end() :].lstrip(), fmt="py:percent").cells)
    source = Source(name=path.stem, cells=cells, **header)
    _validate(source)
    return source


def _validate(source: Source) -> None:
    if not source.cells or source.cells[0].cell_type != "markdown":
        raise SourceError(f"{source.name}: the first cell must be Markdown")
    for cell in source.cells:
        if unknown := set(cell.metadata.get("tags", [])) - set(ROLES):
            raise SourceError(f"{source.name}: unknown tag {sorted(unknown)[0]!r}: not in {ROLES}")
        kind = "markdown" if role(cell) in ("task", "hint") else "code"
        if role(cell) == "task" and not {"minutes", "difficulty"} <= set(cell.metadata):
            raise SourceError(f"{source.name}: a task needs minutes and difficulty: {cell.source}")
        if role(cell) and cell.cell_type != kind:
            raise SourceError(f"{source.name}: a {role(cell)} cell must be {kind}: {cell.source!r}")
    last = [cell.source.strip() for cell in source.cells if cell.cell_type == "code"][-1:]
    if re.search(r"\bclaim\(", source.code()) and last != ["claim.table()"]:
        raise SourceError(f"{source.name}: the last code cell must be claim.table()")


def role(cell: NotebookNode) -> str | None:
    """The tag that says what part of an exercise a cell is, or None."""
    tags = cell.metadata.get("tags", [])
    return tags[0] if tags else None


def title_cell(source: Source, project: Project, learner: bool) -> NotebookNode:
    """Title, badge, time, and the link to the notebook's other form."""
    folder = "notebooks/exercises" if learner else "notebooks"
    github = f"{project.url}/blob/v{project.version}/{folder}/{source.name}.ipynb"
    colab = github.replace("https://github.com/", "https://colab.research.google.com/github/")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    other = "[with solutions](../" if learner else "[with the exercises to solve](exercises/"
    facts = [
        f"About {source.minutes} minutes",
        source.measured,
        f"the same notebook {other}{source.name}.ipynb)",
    ]
    lines = [
        f"# {source.name[:2]} · {source.title}",
        f"[![Open in Colab]({badge})]({colab})",
        " · ".join(fact for fact in facts if fact),
    ]
    return new_markdown_cell("\n\n".join(lines))


def setup_cell(source: Source, project: Project) -> NotebookNode:
    """The one set-up cell, from the one template."""
    code = source.code()
    text = SETUP.format(pins=project.pins, url=project.url, version=project.version)
    text += "from mi_helpers import check\n" if re.search(r"\bcheck\.", code) else ""
    text += "\ntorch.manual_seed(0)\nmodel = mi.load_model()\n"
    if re.search(r"\bclaim\(", code):
        text += f'claim = mi.Claims("{source.name}", model)\n'
    return new_code_cell(text.strip(), metadata={"tags": ["setup"]})


def folded(summary: str, text: str) -> NotebookNode:
    """A Markdown cell that shows its text when opened."""
    return new_markdown_cell(f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>")


def render(cell: NotebookNode, learner: bool) -> Iterator[NotebookNode]:
    """The cells that one cell of the source becomes."""
    part = role(cell)
    if cell.cell_type == "markdown":
        text = re.sub(r"\]\(\.\./", "](../../", cell.source) if learner else cell.source
        if part == "hint":
            yield folded("Hint", text)
            return
        if part == "task":
            size = "Difficulty {difficulty} of 3, about {minutes} minutes."
            text += f"\n\n*{size.format(**cell.metadata)}*"
        yield new_markdown_cell(text)
    elif part == "solution" and learner:
        yield folded("Solution", f"```python\n{cell.source}\n```")
    elif part == "solution":
        yield new_markdown_cell("**Solution** (open the folded cell below)")
        hidden = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["solution"]}
        yield new_code_cell(f"# @title Solution\n{cell.source}", metadata=hidden)
    elif part != "exercise" or learner:
        yield new_code_cell(cell.source, metadata={"tags": [part]} if part else {})


def build(source: Source, project: Project, learner: bool) -> NotebookNode:
    """One notebook, without outputs and with cell ids that depend on its content alone."""
    first, *rest = (new for cell in source.cells for new in render(cell, learner))
    cells = [title_cell(source, project, learner), first, setup_cell(source, project), *rest]
    seen: Counter[str] = Counter()
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = cite_markdown(cell.source)
        digest = hashlib.sha256(f"{source.name}\0{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    notebook = new_notebook(cells=cells)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    nbformat.validate(notebook)
    return notebook


def build_all(root: Path, names: Sequence[str] = ()) -> dict[Path, str]:
    """Path and exact content of the notebooks of all sources, or of those named."""
    project, made = read_project(root), {}
    paths = [root / SOURCES / f"{name}.py" for name in names]
    for path in paths or sorted((root / SOURCES).glob("*.py")):
        source = read_source(path)
        for learner, folder in ((False, "notebooks"), (True, "notebooks/exercises")):
            notebook = build(source, project, learner)
            text = nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False)
            made[root / folder / f"{path.stem}.ipynb"] = text.rstrip("\n") + "\n"
    return made


def drift(made: dict[Path, str], root: Path) -> list[Path]:
    """Notebooks that are missing, differ from what is made now, or have no source."""
    there = {*root.glob("notebooks/*.ipynb"), *root.glob("notebooks/exercises/*.ipynb")}
    stale = [p for p, text in made.items() if p not in there or p.read_text("utf-8") != text]
    orphans = [p for p in there if not (root / SOURCES / f"{p.stem}.py").exists()]
    return sorted([*stale, *orphans])


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their sources.")
    parser.add_argument("names", nargs="*", help="sources, such as 01_residual_stream; default all")
    parser.add_argument("--check", action="store_true", help="write nothing, report drift")
    options = parser.parse_args(arguments)
    made = build_all(ROOT, options.names)
    stale = drift(made, ROOT)
    for path in stale:
        if options.check or path not in made:
            verb = "differs from its" if path in made else "has no"
            print(f"{path.relative_to(ROOT)} {verb} source; run tools/build_notebooks.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
