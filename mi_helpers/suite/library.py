"""Glossary, literature and the map of the notebooks: read from files, cited, shown as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from html import escape
from importlib import metadata, resources
from pathlib import Path
from typing import Any, TypeVar

from IPython.display import HTML

from mi_helpers.suite import progress

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

_CITATION = re.compile(r"\[(@[^\]\s@]+(?:; ?@[^\]\s@]+)*)\]")
# The rows hide as one types; where no script runs, all of them stay.
_SEARCH = (
    "const words=this.value.toLowerCase().split(/\\s+/),box=this.parentNode;let hits=0;"
    "for(const row of box.querySelectorAll('tbody tr')){"
    "const hit=words.every(word=>row.textContent.toLowerCase().includes(word));"
    "row.style.display=hit?'':'none';hits+=hit}"
    "box.querySelector('output').textContent=hits?'':'Nothing here has these words.'"
)
_CELL = "text-align:left;vertical-align:top;padding:4px 12px 4px 0;white-space:normal"
_RULE = "border-top:1px solid rgba(128,128,128,0.35)"

Record = TypeVar("Record", "Work", "Entry")


@dataclass(frozen=True)
class Work:
    """One work of the literature; ``year`` is that of its first public version."""

    key: str
    authors: str
    title: str
    year: int
    url: str
    topics: tuple[str, ...]

    @property
    def label(self) -> str:
        """How prose cites it: "Elhage et al. (2021)"."""
        return f"{self.authors} ({self.year})"


@dataclass(frozen=True)
class Entry:
    """One term of the glossary.

    ``definition`` is Markdown; ``sources`` are keys of the literature; ``notebook`` is the name of
    the notebook that shows the term ("" where none does), whether it exists yet or not.
    """

    term: str
    definition: str
    sources: tuple[str, ...]
    notebook: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notebook:
    """One notebook of the suite, as its first two cells introduce it; ``question`` is Markdown.

    ``exercises`` are the names of their checks.
    """

    name: str
    title: str
    question: str
    minutes: int
    exercises: tuple[str, ...] = ()


def notebooks() -> list[Notebook]:
    """The notebooks beside ``data/`` in reading order; none where only the package is installed.

    Raises ValueError for a notebook that does not state its title, question and minutes.
    """
    return [_notebook(path) for path in sorted(notebooks_folder().glob("[0-9]*.ipynb"))]


def literature() -> dict[str, Work]:
    """The works the suite cites, by key, in the order of ``data/literature.toml``."""
    content = _read("literature.toml")
    return {key: _record(Work, {"key": key, **raw}, key) for key, raw in content.items()}


def glossary() -> list[Entry]:
    """The terms of the field, in the order of ``data/glossary.toml``."""
    entries = _read("glossary.toml")["entry"]
    return [_record(Entry, raw, raw.get("term", f"entry {i}")) for i, raw in enumerate(entries)]


def cite_markdown(text: str) -> str:
    """Turn each ``[@key]`` of a Markdown text into a link, "[Elhage et al. (2021)](https://…)".

    ``[@one; @two]`` cites two works. Raises KeyError for a key the literature lacks.
    """
    if "[@" not in text:
        return text
    works = literature()

    def links(match: re.Match[str]) -> str:
        return "; ".join(f"[{work.label}]({work.url})" for work in _cited(match, works))

    return _CITATION.sub(links, text)


def notebooks_html() -> HTML:
    """The map of the notebooks: each with its question and minutes, linked.

    Where exercises were solved in this folder, it also says how many of each notebook's. Where only
    the package is installed it is a link to the release. Raises as `notebooks`.
    """
    found = notebooks()
    if not found:
        url = escape(_release())
        where = f': <a href="{url}">{url}</a>' if url else ""
        return HTML(f"The notebooks are in the repository of this package{where}.")
    works = literature()
    rows = [
        (
            f'<a href="{one.name}.ipynb">{escape(one.title)}</a>',
            _markdown(one.question, works),
            str(one.minutes),
        )
        for one in found
    ]
    if solved := progress.read():
        done = [(progress.count(solved.get(one.name, {}), one.exercises), one) for one in found]
        bars = [progress.bar_html(n, len(one.exercises)) for n, one in done]
        return _table(
            ("Notebook", "Question", "Minutes", "Exercises"),
            [(*row, bar) for row, bar in zip(rows, bars, strict=True)],
        )
    return _table(("Notebook", "Question", "Minutes"), rows)


def glossary_html() -> HTML:
    """The glossary from A to Z as one table with a search box, for the end of a cell.

    It needs neither network nor style sheet. Only notebooks that exist are linked.
    Raises KeyError for a source the literature lacks.
    """
    works = literature()
    there = {path.stem for path in notebooks_folder().glob("*.ipynb")}
    rows = []
    for entry in sorted(glossary(), key=lambda entry: entry.term.lower()):
        also = f"<br><small>{escape(', '.join(entry.aliases))}</small>" if entry.aliases else ""
        sources = "<br>".join(_link(_work(works, key)) for key in entry.sources)
        shown = entry.notebook if entry.notebook in there else ""
        seen = f'<a href="{shown}.ipynb">{shown[:2]}</a>' if shown else ""
        term = f"<b>{escape(entry.term)}</b>{also}"
        rows.append((term, _markdown(entry.definition, works), sources, seen))
    return _table(("Term", "Meaning", "Sources", "Notebook"), rows)


def literature_html(topic: str | None = None) -> HTML:
    """The reading map as one table with a search box; ``topic`` keeps the works on one topic.

    Works come in the order of their first topic, which is the order of the notebooks.
    Raises ValueError for a topic that no work has.
    """
    works = list(literature().values())
    topics = list(dict.fromkeys(name for work in works for name in work.topics))
    if topic is not None and topic not in topics:
        raise ValueError(f"no work on {topic!r}; topics are: {', '.join(topics)}")
    kept = [work for work in works if topic is None or topic in work.topics]
    rows = [
        (escape(", ".join(work.topics)), _link(work), f"<i>{escape(work.title)}</i>")
        for work in kept
    ]
    return _table(("Topic", "Work", "Title"), rows)


def _read(name: str) -> dict[str, Any]:
    return _parsed((resources.files("mi_data") / name).read_text(encoding="utf-8"))


_parsed = lru_cache(maxsize=4)(tomllib.loads)  # citations of each cell ask for the same file


def _record(kind: type[Record], raw: Mapping[str, Any], name: str) -> Record:
    """A Work or an Entry from its table; raises ValueError for a missing or unknown key."""
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    known = {field.name for field in fields(kind)}
    if missing := sorted(needed - set(raw)):
        raise ValueError(f"{kind.__name__} {name!r} lacks {', '.join(missing)}")
    if unknown := sorted(set(raw) - known):
        raise ValueError(f"{kind.__name__} {name!r} has an unknown key {', '.join(unknown)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return kind(**values)


def _work(works: Mapping[str, Work], key: str) -> Work:
    if key not in works:
        near = get_close_matches(key, works, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise KeyError(f"no work {key!r} in data/literature.toml{hint}")
    return works[key]


def _cited(match: re.Match[str], works: Mapping[str, Work]) -> list[Work]:
    return [_work(works, part.strip().removeprefix("@")) for part in match[1].split(";")]


def notebooks_folder() -> Path:
    """Beside ``data/``; it does not exist where only the package is installed."""
    return Path(str(resources.files("mi_data"))).parent / "notebooks"


def _release() -> str:
    """The address of the release that pyproject.toml names; empty while there is none."""
    urls = metadata.metadata("mi-helpers").get_all("Project-URL") or []
    return next((url.split(", ", 1)[1] for url in urls if url.startswith("Release, ")), "")


def _notebook(path: Path) -> Notebook:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    head, first = sources[:2]
    title = re.search(r"^# (.+)$", head, re.M)
    minutes = re.search(r"About (\d+) minutes", head)
    question = re.search(r"\*\*The question\.?\*\*:?\s+(.+?)(?=\n\s*\n|\Z)", first, re.S)
    if not (title and minutes and question):
        raise ValueError(f"{path.name}: its first two cells lack title, question or minutes")
    names = [one for text in sources for one in re.findall(r"^check\.(\w+)\(", text, re.MULTILINE)]
    asked = " ".join(question[1].split())
    return Notebook(path.stem, title[1], asked, int(minutes[1]), tuple(dict.fromkeys(names)))


def _link(work: Work) -> str:
    label = f'<span style="white-space:nowrap">{escape(work.label)}</span>'
    return f'<a href="{escape(work.url)}" title="{escape(work.title)}">{label}</a>'


def _markdown(text: str, works: Mapping[str, Work]) -> str:
    """The little Markdown that definitions use, as HTML: `code`, *emphasis* and [@key]."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    text = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
    return _CITATION.sub(lambda match: "; ".join(map(_link, _cited(match, works))), text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> HTML:
    """A table of HTML cells under a search box that hides the rows lacking a typed word."""
    titles = "".join(f'<th scope="col" style="{_CELL}">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL};{_RULE}">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    box = (
        '<input type="search" placeholder="Search" aria-label="Search the table" '
        f'style="margin:4px 0 8px;padding:4px 8px;width:18em" oninput="{escape(_SEARCH)}"> '
        "<output></output>"
    )
    table = f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>"
    return HTML(
        f'<div>{box}<div style="max-height:36em;overflow-y:auto">'
        f'<table style="border-collapse:collapse">{table}</table></div></div>'
    )
