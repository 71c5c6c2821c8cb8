#!/usr/bin/env python3
"""Make the notebooks from their sources.

    python tools/build_notebooks.py [NN_name ...]    write the notebooks
    python tools/build_notebooks.py --check          write nothing; exit 1 and name the stale
    python tools/build_notebooks.py --short          write the short ways, to notebooks/short

Each ``notebooks/src/NN_name.py`` (jupytext's percent format) becomes two notebooks without outputs:
``notebooks/NN_name.ipynb``, the full one (solutions folded, stubs dropped), and the learner's,
``notebooks/exercises/NN_name.ipynb`` (stubs, solutions as text to open). Title, times, links and
the one set-up cell are generated around the source's first cell. The measured times are those of
``data/results.json``; Colab is named once pyproject.toml names a release. How a source is written:
``notebooks/src/README.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from release import Release, read_release
from short_path import NEEDED, short_cells

from mi_helpers.suite.library import cite_markdown

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "notebooks/src"
SHORT, SHORT_MINUTES = "notebooks/short", 30
ROLES = ("task", "hint", "exercise", "solution", "check")
PACKAGE = "mi-helpers"
COLAB_LACKS = ("transformer-lens", "circuitsvis")  # with what they bring; the rest is preinstalled
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

IMPORTS = """\
import torch

import mi_helpers as mi
"""
ON_COLAB = """\
# On Colab this cell installs what is missing there; elsewhere it only imports.
import sys
from importlib.util import find_spec

if "google.colab" in sys.modules:
    %pip install -q {pins}
    %pip install -q --no-deps "{package}"
    if not find_spec("mi_helpers"):
        print("No release {tag} to be had (pip says why). Instead comes the newest state, which")
        print("may differ from this notebook: {repository}")
        %pip install -q --no-deps "{newest}"
    if not all(map(find_spec, {modules})):
        sys.exit("The installation failed (pip says why above): see to the network, run it again.")

"""
LATE = """\
# Late, or started anew? After this cell, mi.start_at(4) runs what stands before section 4.
"""


class SourceError(ValueError):
    """A source that cannot be built; the message names file and fault."""


@dataclass(frozen=True)
class Project:
    """What the generated cells say: the release, if any, the pins for Colab, measured times."""

    release: Release | None
    pins: str
    measured: dict[str, str]


@dataclass(frozen=True)
class Source:
    """A notebook's source: its header and its cells, as jupytext reads them."""

    name: str
    title: str
    minutes: int
    cells: tuple[NotebookNode, ...]
    draft: bool = False

    def code(self) -> str:
        """All code."""
        return "\n".join(cell.source for cell in self.cells if cell.cell_type == "code")


def read_project(root: Path) -> Project:
    """The release, the pins for Colab from requirements.lock, the times of data/results.json."""
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    pins = [re.search(rf"^{name}==[^\s;\\]+", lock, re.MULTILINE) for name in COLAB_LACKS]
    if not all(pins):
        raise SourceError(f"requirements.lock does not pin all of {', '.join(COLAB_LACKS)}")
    pinned = " ".join(pin.group() for pin in pins if pin)
    return Project(read_release(root), pinned, measured_times(root))


def measured(run: dict[str, Any]) -> str:
    """What a recorded run took, in words: in headers, in README.md and in docs/results.md.

    Processor seconds, because those of a clock say as much about what else the machine did.
    """
    seconds = f"{run.get('cpu_seconds') or run['seconds']:.0f} s"
    return f"{seconds} and {run['peak_gib']:.1f} GiB" if run["peak_gib"] else seconds


def measured_times(root: Path) -> dict[str, str]:
    """`measured` of each notebook's recorded run on pocket, by the notebook's name."""
    path = root / "data" / "results.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
    return {run["notebook"]: measured(run) for run in runs if run["model"] == "pocket"}


def read_source(path: Path) -> Source:
    """Parse a source; raises SourceError for a bad header, an unknown tag or a missing table."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r"# ---\n((?:#.*\n)*?)# ---\n", text)
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) or not match:
        raise SourceError(f"{path.name}: expected NN_name.py that starts with a '# ---' header")
    header = yaml.safe_load(re.sub(r"^# ?", "", match[1], flags=re.MULTILINE)) or {}
    if not {"title", "minutes"} <= set(header) <= {"title", "minutes", "draft"}:
        raise SourceError(f"{path.name}: header needs title and minutes, and may have draft")
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
    return tags[0] if tags and tags[0] in ROLES else None


def title_cell(source: Source, project: Project, learner: bool, short: bool) -> NotebookNode:
    """Title, times, and the links to the notebook's other form and to Colab."""
    if short:
        whole = f"[the whole notebook](../exercises/{source.name}.ipynb)"
        line = f"The short way: about {SHORT_MINUTES} minutes · {whole}"
        return new_markdown_cell(f"# {source.name[:2]} · {source.title}\n\n{line}")
    folder = "notebooks/exercises" if learner else "notebooks"
    other = "[with solutions](../" if learner else "[with the exercises to solve](exercises/"
    took = project.measured.get(source.name)
    facts = [
        "Draft" if source.draft else "",
        f"About {source.minutes} minutes",
        f"runs in {took} on pocket" if took else "",
        f"the same notebook {other}{source.name}.ipynb)",
    ]
    if project.release:
        colab = project.release.colab(f"{folder}/{source.name}.ipynb")
        facts.append(f"[open in Colab]({colab})")
    line = " · ".join(fact for fact in facts if fact)
    return new_markdown_cell(f"# {source.name[:2]} · {source.title}\n\n{line}")


def setup_cell(source: Source, project: Project, learner: bool, short: bool) -> NotebookNode:
    """The one set-up cell, from the one template; the learner's keeps what is solved."""
    code, text = source.code(), IMPORTS
    if project.release:
        release = project.release
        modules = [name.replace("-", "_") for name in (*COLAB_LACKS, PACKAGE)]
        on_colab = ON_COLAB.format(
            pins=project.pins,
            package=release.requirement(PACKAGE),
            newest=release.requirement(PACKAGE, newest=True),
            tag=release.tag,
            repository=release.repository,
            modules=json.dumps(modules),
        )
        text = on_colab + text
    text += "from mi_helpers import check\n" if re.search(r"\bcheck\.", code) else ""
    text += "\ntorch.manual_seed(0)\nmodel = mi.load_model()\n"
    if re.search(r"(?<![\w.])figures\.", code):
        text += "figures = mi.figures.labelled(mi.model_id(model))\n"
    if re.search(r"\bclaim\(", code):
        text += f'claim = mi.Claims("{source.name}", mi.model_id(model))\n'
        text += "" if short else LATE
    if learner and re.search(r"\bcheck\.", code):
        text += f'check.keep("{source.name}")\n'
    return new_code_cell(text.strip(), metadata={"tags": ["setup"]})


OWN_WORK = """\
## Your exercises

What the checks said last about each of your answers; a line leads to its exercise. *Open* is what
you have not answered yet."""

OTHER_WORK = """\
## The notebook's claims

The table below is about the findings of this notebook, which hold with or without your answers. It
says nothing about the exercises."""


def summary_cells(source: Source) -> list[NotebookNode]:
    """What ends a learner's notebook: the exercises, each with its heading, then the claims."""
    headings: dict[str, str] = {}
    heading = ""
    for cell in source.cells:
        if role(cell) == "task" and (match := re.search(r"^#+ (.+)$", cell.source, re.MULTILINE)):
            heading = re.sub(r"[`*]", "", match[1].strip())
        if role(cell) == "check" and (match := re.match(r"check\.(\w+)\(", cell.source)):
            headings[match[1]] = heading
    if not headings:
        return []
    lines = "".join(f'        "{name}": {json.dumps(text)},\n' for name, text in headings.items())
    code = f"check.summary(\n    {{\n{lines}    }}\n)"
    cells = [new_markdown_cell(OWN_WORK), new_code_cell(code)]
    return [*cells, new_markdown_cell(OTHER_WORK)] if _ends_with_claims(source) else cells


def _ends_with_claims(source: Source) -> bool:
    """Whether the last cell is the table of claims."""
    return source.cells[-1].source.strip() == "claim.table()"


def closing_cell(source: Source) -> NotebookNode:
    """What ends the short way: where the rest is."""
    whole = f"[The whole notebook](../exercises/{source.name}.ipynb)"
    return new_markdown_cell(
        f"## The rest\n\nThis was the short way. {whole} has what the summary names beyond it, "
        "every control, the other exercises, and all claims in one table. What you have solved "
        "here is solved there."
    )


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
    elif NEEDED in cell.metadata.get("tags", []):
        hidden = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": [NEEDED]}
        yield new_code_cell(cell.source, metadata=hidden)
    elif part != "exercise" or learner:
        yield new_code_cell(cell.source, metadata={"tags": [part]} if part else {})


def build(source: Source, project: Project, learner: bool, short: bool = False) -> NotebookNode:
    """One notebook, without outputs and with cell ids that depend on its content alone.

    The short way is a learner's notebook; `source` is then what `shortened` made of it.
    """
    first, *rest = (new for cell in source.cells for new in render(cell, learner))
    if learner:
        end = len(rest) - 1 if _ends_with_claims(source) else len(rest)
        rest[end:end] = summary_cells(source)
    heads = [make(source, project, learner, short) for make in (title_cell, setup_cell)]
    closing = [closing_cell(source)] if short else []
    cells = [heads[0], first, heads[1], *rest, *closing]
    seen: Counter[str] = Counter()
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = cite_markdown(cell.source)
            if short:  # the other notebooks are not beside it
                cell.source = re.sub(r"\]\((\d\d_\w+\.ipynb)", r"](../exercises/\1", cell.source)
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
    for path in _source_paths(root, names):
        source = read_source(path)
        for learner, folder in ((False, "notebooks"), (True, "notebooks/exercises")):
            made[root / folder / f"{path.stem}.ipynb"] = _text(build(source, project, learner))
    return made


def _source_paths(root: Path, names: Sequence[str]) -> list[Path]:
    """The sources that are named, or all."""
    return [root / SOURCES / f"{name}.py" for name in names] or sorted(
        (root / SOURCES).glob("*.py")
    )


def _text(notebook: NotebookNode) -> str:
    """What a notebook's file says, always in the same form."""
    text = nbformat.writes(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    return text.rstrip("\n") + "\n"


def shortened(source: Source) -> Source:
    """The short way as a source of its own; it has one cell where the source marks none."""
    return replace(source, cells=tuple(short_cells(source.cells, [*map(role, source.cells)])))


def write_short(root: Path, folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write the short way of each source that marks one; returns their paths.

    Where none is named, those that were written before are deleted first.
    """
    project, written = read_project(root), []
    folder.mkdir(parents=True, exist_ok=True)
    for old in () if names else folder.glob("*_short.ipynb"):
        old.unlink()
    for path in _source_paths(root, names):
        source = shortened(read_source(path))
        if len(source.cells) > 1:
            written.append(folder / f"{path.stem}_short.ipynb")
            text = _text(build(source, project, learner=True, short=True))
            written[-1].write_text(text, encoding="utf-8")
    return written


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
    parser.add_argument("--short", action="store_true", help="write the short ways instead")
    options = parser.parse_args(arguments)
    if options.short:
        for path in write_short(ROOT, ROOT / SHORT, options.names):
            print(f"wrote {path.relative_to(ROOT)}")
        return 0
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
