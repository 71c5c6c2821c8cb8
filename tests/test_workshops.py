"""The workshop plans: they name what is there, and their minutes add up."""

from __future__ import annotations

import json
import re
import sys
from difflib import get_close_matches
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workshops"
PLANS = ["60-minutes.md", "90-minutes.md", "180-minutes.md", "two-days.md"]
LINK = re.compile(r"\]\((?:<([^>]+)>|([^)\s]+))\)")


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def anchors(notebook: Path) -> list[str]:
    """What a heading's link ends in, in JupyterLab and on the site."""
    texts = ["".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "markdown"]
    heads = re.findall(r"^#{1,6} (.+)$", "\n".join(texts), re.M)
    return [re.sub(r"[`*]", "", head).strip().replace(" ", "-") for head in heads]


def links(path: Path) -> list[str]:
    return [one or other for one, other in LINK.findall(path.read_text(encoding="utf-8"))]


def rows(text: str) -> list[tuple[int, str]]:
    """(minutes, the rest) of each row of the plan's tables."""
    return [(int(n), rest) for n, rest in re.findall(r"^\| (\d+) \| (.+)\|$", text, re.M)]


def exercise_minutes() -> dict[str, int]:
    """What each notebook gives each of its exercises, by address."""
    found = {}
    for path in sorted((ROOT / "notebooks" / "src").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        tasks = re.findall(r'tags=\["task"\] minutes=(\d+)[^\n]*\n# ### (Exercise .+)', text)
        for minutes, title in tasks:
            anchor = re.sub(r"[`*]", "", title).strip().replace(" ", "-")
            found[f"../notebooks/{path.stem}.ipynb#{anchor}"] = int(minutes)
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.name)
def test_every_link_names_a_file_and_a_heading_of_it(path: Path) -> None:
    for link in links(path):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve()
        assert target.is_file(), f"{path.name}: no {name}"
        if anchor:
            there = anchors(target)
            near = get_close_matches(anchor, there, n=1, cutoff=0.3)
            assert anchor in there, f"{path.name}: no #{anchor} in {name}; nearest: {near}"


@pytest.mark.parametrize("name", PLANS)
def test_minutes_add_up(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    parts = re.split(r"^## .*\((\d+) minutes\)$", text, flags=re.M)
    sessions = list(zip(parts[1::2], parts[2::2], strict=True))
    assert len(sessions) == (4 if name == "two-days.md" else 1)
    for minutes, body in sessions:
        table = body.partition("\n## ")[0]
        assert sum(n for n, _ in rows(table)) == int(minutes), f"{name}: {minutes} minutes"
        assert all(n % 5 == 0 for n, _ in rows(table))


@pytest.mark.parametrize("name", PLANS)
def test_exercises_get_the_minutes_that_their_notebook_gives_them(name: str) -> None:
    given, told = exercise_minutes(), 0
    for minutes, rest in rows((FOLDER / name).read_text(encoding="utf-8")):
        needed = [
            given[one or other] for one, other in LINK.findall(rest) if (one or other) in given
        ]
        told += len(needed)
        assert sum(needed) <= minutes, f"{name}: {rest} has {minutes} of {sum(needed)} minutes"
    assert told >= 2


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_every_part(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert text.startswith("# ") and "**Aims.**" in text
    wanted = ("When you are late", "Questions to ask the room", "What usually goes wrong")
    for head in wanted:
        assert head in heads
        body = text.partition(f"## {head}\n")[2].partition("\n## ")[0]
        assert len(body.split()) > 25, head
    assert f"]({name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_menu_entries_that_are_named_are_jupyterlabs() -> None:
    scripts = (Path(sys.prefix) / "share" / "jupyter" / "lab" / "static").glob("*.js")
    lab = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    named = [
        (path.name, entry)
        for path in sorted(FOLDER.glob("*.md"))
        for menu in re.findall(r"\*([A-Z]\w+ → [^*]+)\*", path.read_text(encoding="utf-8"))
        for entry in menu.split(" → ")[1:]
    ]
    assert len(named) >= 2
    for page, entry in named:
        assert entry in lab, f"{page}: JupyterLab has no entry {entry!r}"
