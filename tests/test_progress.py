"""What is solved is kept: by several kernels at once, from day to day, for learner and host."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import progress as table  # tools/progress.py
import pytest
import sources
import torch

from mi_helpers.files import locked
from mi_helpers.suite import library, progress
from mi_helpers.suite.exercises import Check

HEADINGS = {"logit_difference": "Exercise 1: the difference"}


def right(logits, right, wrong):
    rows = torch.arange(len(logits))
    return logits[rows, right] - logits[rows, wrong]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and nothing displayed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MI_STRICT", raising=False)  # a wrong answer is a verdict, as for a learner
    monkeypatch.setattr("IPython.display.display", lambda _: None)
    return tmp_path


def opened() -> Check:
    """What a learner's set-up cell makes, in a new kernel."""
    check = Check("demo_checks")
    check.keep("99_demo")
    return check


# -------------------------------------------------------------------------------------- one learner


def test_what_was_solved_is_solved_the_next_day(here: Path) -> None:
    check = opened()
    check.logit_difference(lambda *_: torch.zeros(3))
    assert not list(here.iterdir()), "nothing is written for a wrong answer"
    check.logit_difference(right)
    again = opened().summary(HEADINGS)
    assert repr(again).splitlines()[1:] == [
        "solved: Exercise 1: the difference",
        "# 1 of 1 solved",
        "Kept in mi-progress.json beside the notebook; check.forget() starts it over.",
    ]
    assert "width:100%" in again._repr_html_() and "check.forget()" in again._repr_html_()
    later = opened()
    later.logit_difference(lambda *_: torch.zeros(3))
    assert "wrong: Exercise 1" in repr(later.summary(HEADINGS)), "what was said last"


def test_starting_over_leaves_the_other_notebooks(here: Path) -> None:
    progress.add("01_other", "some")
    check = opened()
    check.logit_difference(right)
    check.forget()
    assert "open: Exercise 1" in repr(check.summary(HEADINGS))
    assert "width:0%" in check.summary(HEADINGS)._repr_html_()
    assert list(progress.read()) == ["01_other"]


def test_only_a_notebook_that_asks_for_it_keeps_anything(here: Path) -> None:
    check = Check("demo_checks")
    check.logit_difference(right)
    check.forget()
    assert not list(here.iterdir())
    assert repr(check.summary(HEADINGS)).count("\n") == 1
    for learner in (False, True):
        source = sources.read_source(sources.DEMO / "99_demo.py")
        project = sources.builder.Project(None, "", {})
        cells = sources.builder.build(source, project, learner).cells
        assert ('check.keep("99_demo")' in cells[2].source) == learner


def test_a_first_day_stays_and_another_folder_is_another_learner(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "_today", lambda: "2026-01-01")
    progress.add("a", "x")
    monkeypatch.setattr(progress, "_today", lambda: "2026-01-02")
    progress.add("a", "x")
    assert progress.read() == {"a": {"x": "2026-01-01"}}
    (here / "other").mkdir()
    assert progress.read("other") == {}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_nothing_can_be_written_the_work_goes_on(here: Path, monkeypatch, number) -> None:
    progress.add("01_other", "some")
    before = (here / progress.FILE).read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("mi_helpers.files.os.replace", refuse)
        check = opened()
        check.logit_difference(right)
    shown = repr(check.summary(HEADINGS))
    said = "no space left for" if number == errno.ENOSPC else os.strerror(number)
    assert "solved: Exercise 1" in shown and f"Not kept for another day: {said}" in shown
    assert (here / progress.FILE).read_bytes() == before
    check.logit_difference(right)  # and once there is room, it is kept
    assert "Not kept" not in repr(check.summary(HEADINGS)) and len(progress.read()) == 2


def test_a_file_that_cannot_be_read_is_put_aside(here: Path) -> None:
    for broken in ("half a {", "[1]"):
        (here / progress.FILE).write_text(broken)
        assert progress.read() == {}
        progress.add("a", "x")
        assert list(progress.read()) == ["a"]
        assert (here / "mi-progress.unreadable").read_text() == broken
    (here / progress.FILE).write_text('{"a": 3, "b": {"x": 1, "y": "2026-01-01"}}')
    assert progress.read() == {"b": {"y": "2026-01-01"}}


# ---------------------------------------------------------------------------------- several kernels

MANY = """
import sys
from mi_helpers.suite import progress
for n in range(20):
    progress.add(sys.argv[1], f"exercise {n}")
"""
HOLD = """
import sys, time
from mi_helpers.files import locked
with locked("mi-progress.json"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_kernels_that_write_at_once_lose_nothing(here: Path) -> None:
    kernels = [subprocess.Popen([sys.executable, "-c", MANY, f"notebook {n}"]) for n in range(4)]
    assert [kernel.wait(60) for kernel in kernels] == [0] * 4
    assert {name: len(days) for name, days in progress.read().items()} == {
        f"notebook {n}": 20 for n in range(4)
    }
    assert sorted(path.name for path in here.iterdir()) == [".mi-progress.json.lock", progress.FILE]


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_a_kernel_that_dies_with_the_lock_lets_it_go(here: Path) -> None:
    kernel = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None and kernel.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError, match="has held mi-progress.json for 0 seconds"):
        with locked(progress.FILE, patience=0.1):
            pass
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    progress.add("a", "x")
    assert progress.read()["a"]


# ----------------------------------------------------------------------------- the map of notebooks


def test_the_map_shows_progress_where_there_is_some(here: Path) -> None:
    assert "Exercises" not in library.notebooks_html().data
    first, *others = library.notebooks()
    assert all(one.exercises for one in (first, *others))
    progress.add(first.name, first.exercises[0])
    progress.add(first.name, "one that is gone")
    html = library.notebooks_html().data
    assert f">1 of {len(first.exercises)} solved<" not in html  # the bar stands before it
    assert f"</span></span> 1 of {len(first.exercises)} solved" in html
    assert html.count('role="img"') == 1 + len(others)
    assert f"</span></span> 0 of {len(others[0].exercises)} solved" in html


def test_every_exercise_of_the_map_has_a_check() -> None:
    known = Check()._exercises()
    assert [name for one in library.notebooks() for name in one.exercises] == list(known)


# --------------------------------------------------------------------------------------- the host


def solve(folder: Path, notebook: library.Notebook, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in notebook.exercises[:count]:
        progress.add(notebook.name, name, folder)


def test_a_host_sees_all_learners_in_one_table(tmp_path: Path, capsys) -> None:
    homes = tmp_path / "homes"
    zero, one, *_ = library.notebooks()
    solve(homes / "ada" / "suite" / "work", zero, 2)
    solve(homes / "ada" / "elsewhere", zero, 1)
    solve(homes / "ada" / "elsewhere", one, 1)
    solve(homes / "bob", one, 3)
    solve(homes / "bob" / ".local", zero, 1)  # hidden: not looked into
    (homes / "cyd").mkdir()
    (homes / "cyd" / progress.FILE).symlink_to(homes / "bob" / progress.FILE)
    (homes / "dan").mkdir()
    (homes / "dan" / progress.FILE).write_text("x" * (2 << 20))
    assert table.main([str(homes), "--csv", str(tmp_path / "solved.csv")]) == 0
    shown = capsys.readouterr()
    lines = [line.split(",") for line in (tmp_path / "solved.csv").read_text().splitlines()]
    assert lines[0] == [
        "learner", f"00 of {len(zero.exercises)}", f"01 of {len(one.exercises)}", "all", "last day",
    ]  # fmt: skip
    assert [line[:4] for line in lines[1:]] == [
        ["ada", "2", "1", "3"], ["bob", "0", "3", "3"], ["cyd", "0", "0", "0"],
        ["dan", "0", "0", "0"],
    ]  # fmt: skip
    assert lines[1][4] == progress._today() and lines[3][4] == ""
    assert shown.out.splitlines()[1].split()[0] == "ada"
    assert "too large" in shown.err and "dan" in shown.err


def test_a_learners_own_folder_is_a_table_too(tmp_path: Path, capsys) -> None:
    solve(tmp_path / "work", library.notebooks()[0], 1)
    assert table.main([str(tmp_path / "work")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["work", "1"]
    assert table.main([str(tmp_path / "nobody")]) == 1
    assert "name the one that holds the homes" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_a_learners_file_cannot_steer_the_hosts_terminal(tmp_path: Path, capsys) -> None:
    (tmp_path / "\x1b[2Jeve").mkdir()
    (tmp_path / "\x1b[2Jeve" / progress.FILE).write_bytes(b" " * table.TOO_LARGE)
    assert table.main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "too large" in said.err and "\x1b" not in said.out + said.err
    heads, rows = table.table(table.learners(tmp_path, []), library.notebooks())
    assert "\x1b" not in table.as_text(heads, rows)
    assert json.loads(json.dumps(rows))[0][1] == "0"


def test_a_day_that_is_no_day_is_nothing_solved(tmp_path: Path) -> None:
    kept = {"00_start_here": {"one": "=HYPERLINK(1)", "two": "2026-11-27", "three": 7}}
    (tmp_path / progress.FILE).write_text(json.dumps(kept))
    assert progress.read(tmp_path) == {"00_start_here": {"two": "2026-11-27"}}
    (tmp_path / progress.FILE).write_text("[" * 100_000)
    assert progress.read(tmp_path) == {}
