"""Speaking notes: what there is to ask, to show and to claim in each section of each notebook.

They are taken from the notebooks as executed, so that they say what the figures on the pages say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from typing import Any

from mi_helpers.figures.rendering import PLOTLY
from mi_helpers.suite.expectations import Declaration

KINDS = {"ask": "Ask", "show": "Show", "claim": "Claim", "do": "Do together"}


@dataclass
class Section:
    """A section of a notebook: its heading, and (kind of KINDS, text) in the notebook's order."""

    heading: str
    notes: list[tuple[str, str]] = field(default_factory=list)


def sections(notebook: Any, claims: Mapping[str, Declaration]) -> list[Section]:
    """The sections of an executed notebook that hold anything to say."""
    found = [Section("")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in re.split(r"^(?=#{2,3} )", cell.source, flags=re.M):
                head = re.match(r"#{2,3} (.+)", line)
                if head and head[1].startswith("Exercise"):
                    found[-1].notes.append(("do", head[1]))
                    break  # what follows is the task, not the talk
                if head:
                    found.append(Section(head[1]))
                if found[-1].heading:  # before, there is the notebook's own question
                    found[-1].notes += [("ask", text) for text in questions(line)]
        else:
            found[-1].notes += [("show", text) for text in titles(cell)]
            made = re.findall(r"\bclaim\(\s*\"([\w.]+)\"", cell.source)
            found[-1].notes += [
                ("claim", f"{claims[key].statement} Control: {claims[key].control}.")
                for key in made
                if key in claims
            ]
    return [one for one in found if one.notes]


def questions(markdown: str) -> Iterator[str]:
    """The sentences of a text that ask; those of hints and solutions are not asked of a room."""
    text = re.sub(r"<details>.*?</details>|^#[^\n]*$|```.*?```", " ", markdown, flags=re.S | re.M)
    text = re.sub(r"\]\([^)]*\)|\[@[^\]]*\]|[\[*`]", "", " ".join(text.split()))
    for sentence in re.findall(r"[^.!?:;]*\?", text):
        words = sentence.strip(" -\u201c\u201d\"'")
        if len(words.split()) >= 4:
            yield words


def titles(cell: Any) -> Iterator[str]:
    """The titles of a cell's figures: what each shows."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if PLOTLY in data:
            layout = data[PLOTLY].get("layout", {})
            told = layout.get("meta", {}).get("title") or layout.get("title", {}).get("text", "")
        else:
            html = data.get("text/html", "")
            found = re.search(r"<(figcaption|caption)[^>]*>(.*?)(?:<div|</\1>)", html, re.S)
            told = unescape(found[2]) if found else ""
        told = " ".join(re.sub(r"<[^>]+>", " ", unescape(str(told))).split())
        if told and not re.search(r" \u00b7 (holds|FAILS|NOT MADE|no expectation)", told):
            yield told


def page_body(notebooks: Sequence[tuple[str, str, str, list[Section]]]) -> str:
    """The page below its heading, of (title, address, question, sections) of each notebook."""
    parts = [
        "<p>What to ask, to show, to claim and to do, section by section, as the notebooks have "
        "it. Open a notebook's page beside it, and talk from the figures.</p>"
    ]
    for title, url, question, found in notebooks:
        parts.append(f'<h2 id="{escape(url)}"><a href="{escape(url)}">{escape(title)}</a></h2>')
        parts.append(f"<p><b>{escape(question)}</b></p>")
        for section in found:
            head = f"<h3>{escape(section.heading.replace('`', ''))}</h3>" if section.heading else ""
            items = "".join(
                f"<li><b>{KINDS[kind]}:</b> {escape(text)}</li>"
                for kind, text in dict.fromkeys(section.notes)
            )
            parts.append(f"{head}<ul>{items}</ul>")
    return "".join(parts)
