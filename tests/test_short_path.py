"""The short way through a notebook is short, and whole: nothing it uses is missing."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import lab
import nbformat
import pytest
import short_path
from names import bound_and_used
from sources import REAL, ROOT, builder, missing, role

import mi_helpers as mi

SOURCES = {path.stem: builder.read_source(path) for path in REAL}
MARKED = [name for name, one in SOURCES.items() if any(c.metadata.get("short") for c in one.cells)]
PROJECT = builder.Project(None, "", {})
LINK = re.compile(r"\]\((\.\.?/[^)#\s]+|\d\d_\w+\.ipynb)")


def built(name: str) -> nbformat.NotebookNode:
    return builder.build(builder.shortened(SOURCES[name]), PROJECT, learner=True, short=True)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def draw(*cells: tuple[str, str]) -> list[str]:
    """The code of the short way of cells given as (their head, their code)."""
    text = "# ---\n# title: T\n# minutes: 1\n# ---\n\n# %% [markdown]\n# First.\n\n"
    text += "\n\n".join(f"# %%{head}\n{code}" for head, code in cells)
    found = builder.jupytext.reads(text.partition("# ---\n\n")[2], fmt="py:percent").cells
    kept = short_path.short_cells(found, [*map(role, found)])
    return [cell.source for cell in kept if cell.cell_type == "code"]


# --------------------------------------------------------------------------------- what is drawn in


def test_only_what_is_needed_is_drawn_in() -> None:
    first = "x = [1]\nx.append(2)\nfigures.lines(x)\nclaim('a.b', x[0], control=2)\ny = 3\nz = x"
    last = "x[0] = 5\nprint(x, z)\nw = 1"
    assert draw(("", first), (" short=true", "total = sum(x)"), (" short=true", last)) == [
        "# @title What the cells below need\nx = [1]\nx.append(2)\nz = x", "total = sum(x)", last
    ]  # fmt: skip
    between = [("", first), (" short=true", "total = sum(x)"), ("", "spare = total\nv = total")]
    assert draw(*between, (" short=true", "v")) == [
        "# @title What the cells below need\nx = [1]\nx.append(2)", "total = sum(x)",
        "# @title What the cells below need\nv = total", "v",
    ]  # fmt: skip


def test_what_torch_is_told_to_do_is_drawn_in() -> None:
    [drawn, _] = draw(("", "torch.set_grad_enabled(False)\nx = 1"), (" short=true", "2"))
    assert drawn.splitlines()[1:] == ["torch.set_grad_enabled(False)"]


def test_needs_of_what_is_drawn_in_are_drawn_in_too() -> None:
    helper = "from math import pi\n\n\n@staticmethod\ndef area(r):\n    return pi * r * factor"
    cells = [("", "factor = 2\nspare = 3"), ("", helper), ("", "big = [area(n) for n in (1, 2)]")]
    [drawn, asked] = draw(*cells, (" short=true", "big"))
    assert asked == "big" and missing([drawn, asked]) == [] and "spare" not in drawn
    assert "@staticmethod\ndef area" in drawn


def test_an_exercise_is_marked_at_its_task_and_no_solution_is_drawn_in() -> None:
    task = (' [markdown] tags=["task"] minutes=5 difficulty=1 short=true', "# ### Exercise")
    rest = [
        (' [markdown] tags=["hint"]', "# Hint"), (' tags=["exercise"]', "answer = ..."),
        (' tags=["solution"]', "answer = 7"), (' tags=["check"]', "check.it(answer)"),
    ]  # fmt: skip
    other = (' [markdown] tags=["task"] minutes=5 difficulty=1', "# ### Exercise")
    assert draw(task, *rest, other, *rest) == ["answer = ...", "answer = 7", "check.it(answer)"]
    assert draw(other, *rest, (" short=true", "print(1)")) == ["print(1)"]


def test_a_source_without_marks_has_no_short_way(tmp_path: Path) -> None:
    (tmp_path / builder.SOURCES).mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / builder.SOURCES / "99_plain.py"
    text = "# ---\n# title: T\n# minutes: 1\n# ---\n\n# %% [markdown]\n# First.\n\n# %%\n1\n"
    path.write_text(text)
    assert builder.write_short(tmp_path, tmp_path / "short") == []
    path.write_text(text.replace("# %%\n1", "# %% short=true\n1"))
    [written] = builder.write_short(tmp_path, tmp_path / "short")
    assert written.name == "99_plain_short.ipynb"


# ------------------------------------------------------------------------------- the real notebooks


def test_every_notebook_has_a_short_way() -> None:
    assert MARKED == [name for name, one in SOURCES.items() if not one.draft]


@pytest.mark.parametrize("name", MARKED)
def test_every_name_is_there(name: str) -> None:
    assert missing(code_of(built(name))) == []


@pytest.mark.parametrize("name", MARKED)
def test_it_is_short(name: str) -> None:
    source = SOURCES[name]
    kept = short_path.marked(source.cells, [*map(role, source.cells)])
    cells = [cell for cell, here in zip(source.cells, kept, strict=True) if here]
    own = [cell for cell in cells if cell.cell_type == "code" and role(cell) is None]
    tasks = [cell for cell in cells if role(cell) == "task"]
    assert 7 <= len(own) <= 13 and len(tasks) == 2
    assert sum(task.metadata["minutes"] for task in tasks) <= 25
    notebook = built(name)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "claim.table()" not in text, "most claims are not made"
    assert text.count("check.summary(") == 1 and "about 30 minutes" in notebook.cells[0].source


@pytest.mark.parametrize("name", MARKED)
def test_what_is_drawn_in_is_folded_and_shows_nothing(name: str) -> None:
    for cell in built(name).cells:
        if short_path.NEEDED in cell.metadata.get("tags", []):
            assert cell.metadata["jupyter"] == {"source_hidden": True}
            assert not re.search(r"^(claim|print|figures\.|mi\.figures\.)", cell.source, re.M)


def test_it_is_copied_beside_the_whole_one_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    for path in ROOT.iterdir():
        if path.name not in ("notebooks", "work", "build", ".git", ".venv"):
            os.symlink(path, tmp_path / path.name)
    learners, short = tmp_path / "notebooks" / "exercises", tmp_path / "notebooks" / "short"
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=lambda *_: ["short"])
    assert len(builder.write_short(ROOT, short)) == len(MARKED)
    lab.update(learners, tmp_path / "work")
    copies = sorted((tmp_path / "work").glob("*_short.ipynb"))
    assert [path.name for path in copies] == [f"{name}_short.ipynb" for name in MARKED]
    for path in copies:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        links = LINK.findall(text)
        assert f"{path.stem.removesuffix('_short')}.ipynb" in links
        for link in links:
            assert (path.parent / link).exists(), f"{path.name}: {link}"
    assert lab.update(learners, tmp_path / "work") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MARKED if name[:2] in ("00", "02")])
def test_it_runs_and_its_claims_hold(name: str, pocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_STRICT", "1")
    monkeypatch.setattr(mi, "load_model", lambda: pocket, raising=False)
    monkeypatch.setattr("IPython.display.display", lambda *_: None)
    namespace: dict = {}
    for code in code_of(built(name)):
        exec(re.sub(r"^check\.keep.*", "", code, flags=re.M), namespace)
    table = namespace["claim"].table  # strict: claims of the long way are missing, none fails
    with pytest.raises(AssertionError, match="never made"):
        table()
    assert all(line.status == "holds" for line in namespace["claim"]._made.values())
    assert len(namespace["claim"]._made) >= 2


def test_set_up_gives_what_is_taken_as_given() -> None:
    [setup] = [c for c in built(MARKED[0]).cells if "setup" in c.metadata.get("tags", [])]
    assert short_path.GIVEN <= bound_and_used(setup.source)[0]
