"""A late learner goes on from any section: what the rest needs is there, and nothing is shown."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marks import alike, mark
from names import bound_and_used
from short_path import GIVEN
from sources import missing

import mi_helpers as mi
from mi_helpers.suite import rejoin

ROOT = Path(__file__).resolve().parents[1]
CHEAP = ("00", "02")  # of which every section is run here; `make rejoin-test` runs those of all
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def learners_cells(path: Path) -> tuple[list[str], dict[str, int]]:
    """The code of the learner's notebook, and how many cells of it stand above each heading."""
    code, above = [], {}
    cells = json.loads((path.parent / "exercises" / path.name).read_text("utf-8"))["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            above |= {h: len(code) for h in re.findall(r"^## (.+)$", source, re.MULTILINE)}
        elif "setup" not in cell["metadata"].get("tags", []):
            code.append(source)
    return code, above


def run_before(path: Path, section: str) -> list[str]:
    """The code that `start_at` runs."""
    before, _ = rejoin.parts(rejoin.sections(path), section)
    kept = [rejoin.quiet(code) for one in before for _, code in one.cells]
    return [ast.unparse(ast.Module(list(nodes), [])) for nodes in kept]


# ------------------------------------------------------------------- every section, without running


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_from_every_section_on_all_names_are_there(path: Path) -> None:
    code, above = learners_cells(path)
    for section in rejoin.sections(path):
        before = run_before(path, section.called)
        assert section.heading in above, f"{section.called}: no such heading for learners"
        found = missing([*before, *code[above[section.heading] :]], GIVEN)
        assert not found, f"{section.called} of {path.stem}: {found}"


def test_what_is_not_run_would_be_missed() -> None:
    assert missing(["x = 1", "y = x + z"]) == [(1, "z")]
    assert missing(["def f(a):\n    return a + later", "f(1)"]) == [(0, "later")]
    assert missing(["[one for one in many]", "for i in range(3):\n    print(i)"]) == [(0, "many")]
    assert missing(["n = n + 1", "m += 1", "for i in []:\n    k = k + i"]) == [
        (0, "n"), (1, "m"), (2, "k")
    ]  # fmt: skip
    assert missing(["def f():\n    return after", "after = 1"]) == []
    assert missing(["def top(a):\n    b = a\n    return [b for _ in a]", "[x := 1]; x"]) == []
    assert missing(["def f(n):\n    return f(n - 1)", "import torch as t", "t.eye(len('a'))"]) == []
    assert bound_and_used("a, (b, *c) = d = e") == ({"a", "b", "c", "d"}, {"e"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_section_has_a_name_of_its_own(path: Path) -> None:
    called = [one.called for one in rejoin.sections(path)]
    assert len(set(called)) == len(called) > 5 and all(called)


def test_figures_checks_and_answers_are_left_out() -> None:
    [path] = [path for path in NOTEBOOKS if path.stem.startswith("02")]
    code = "\n".join(run_before(path, "6"))
    assert "claim(" in code and "def pattern_by_hand" in code
    shown = [
        node for node in ast.parse(code).body
        if isinstance(node, ast.Expr) and "figures." in ast.unparse(node.value)[:12]
    ]  # fmt: skip
    assert not shown and "check." not in code and "load_model" not in code
    assert "print(" not in [line[:6] for line in code.splitlines()]
    assert "def attention_pattern" not in code, "an answer would pass for the learner's own"


CHANGES = {  # names of calls that change what they are given, draw numbers, or set something
    "add", "append", "backward", "bernoulli", "clear", "extend", "manual_seed", "multinomial",
    "next", "normal", "pop", "rand", "rand_like", "randint", "randn", "randn_like", "randperm",
    "remove", "sample", "set_grad_enabled", "setdefault", "shuffle", "step", "train", "update",
}  # fmt: skip


def changes(node: ast.AST) -> list[str]:
    """What a statement does beside showing something, as far as its text tells."""
    found = []
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            name = ast.unparse(part.func).rpartition(".")[2]
            drawn = any(word.arg == "generator" for word in part.keywords)
            if drawn or name in CHANGES or (name.endswith("_") and not name.startswith("_")):
                found.append(ast.unparse(part))
        elif isinstance(part, ast.NamedExpr):
            found.append(ast.unparse(part))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_not_run_changes_nothing(path: Path) -> None:
    for section in rejoin.sections(path):
        for number, source in section.cells:
            kept = {ast.unparse(node) for node in rejoin.quiet(source)}
            for node in ast.parse(source).body:
                if ast.unparse(node) not in kept:
                    assert not changes(node), f"cell {number} of {path.stem}: {changes(node)}"


def test_a_change_in_what_is_not_run_is_seen() -> None:
    for code in ("print(x.append(1))", "mi.figures.bars(torch.rand(2))", "print(y := 1)",
                 "print(f(generator=g))", "print(x.add_(1))"):  # fmt: skip
        assert changes(ast.parse(code)), code
    assert not changes(ast.parse("mi.figures.bars(f(x), title='rand')"))


# ------------------------------------------------------------------------------------- really run


def test_marks_tell_values_apart_but_for_rounding() -> None:
    def same(one: object, other: object) -> bool:
        return alike(mark(one), mark(other))

    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    swapped = x.clone()
    swapped[0], swapped[1] = x[1], x[0]
    assert same({"x": [x, 1.5, "a"]}, {"x": [x * (1 + 1e-7), 1.5 + 1e-8, "a"]})
    assert not same(x, swapped) and not same(x, x * 1.0001) and not same(x, x.view(20, 50))
    assert not same(x > 0, x > 0.01) and not same([1, 2], [2, 1]) and not same(0, 0.0)
    assert same(x.where(x > 0, float("nan")), x.where(x > 0, float("nan")))
    assert not same(x.where(x > 0, float("nan")), x.where(x > 0, 0.0))
    linear = torch.nn.Linear(2, 2)
    before = mark(linear)
    handle = linear.register_forward_hook(lambda *_: None)
    assert not alike(before, mark(linear)), "a hook that stays is seen"
    handle.remove()
    assert alike(before, mark(linear)) and not alike(before, mark(linear.eval()))
    graph = mi.circuits.EdgeGraph(1, 2)
    before = mark(graph)
    assert graph.valid is not None and alike(before, mark(graph)), "what is only kept is no change"
    drawn = torch.Generator().manual_seed(0)
    state = mark(drawn)
    torch.rand(1, generator=drawn)
    assert not alike(state, mark(drawn))


def walked(*arguments: str) -> tuple[int, str]:
    """Status and words of the tool that starts every section from where `start_at` ends."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "rejoin_test.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
@pytest.mark.parametrize("number", CHEAP)
def test_every_section_runs_from_where_start_at_ends(number: str) -> None:
    status, said = walked(number)
    [path] = [path for path in NOTEBOOKS if path.stem.startswith(number)]
    count = len(rejoin.sections(path))
    assert status == 0 and f"{path.stem}: {count} sections, 0 with something found" in said, said


PLANTED = [
    ("markdown", "# T"),
    ("code", "import torch\nimport mi_helpers as mi\nclaim = mi.Claims('99_demo', 'pocket', "
             f"folder={str(ROOT / 'tests' / 'demo')!r})\nseen = []", "setup"),
    ("markdown", "## 1. Fine"),
    ("code", "import time\na, at = torch.rand(2), time.perf_counter()\nlate = at + 1\nprint(late)"),
    ("code", "def answer(x):\n    raise NotImplementedError", "exercise"),
    ("markdown", "## 2. Draws"), ("code", "print(torch.rand(1))"),
    ("markdown", "## 3. Changes"), ("code", "a = a + len(seen)\nprint(seen.append(1))"),
    ("markdown", "## 4. Shows"), ("code", "class Odd:\n    def _repr_html_(self): return 1 / 0"),
    ("code", "Odd()"),
    ("markdown", "## 5. Sets"), ("code", "print(torch.set_grad_enabled(False))"),
    ("markdown", "## 6. Lacks"), ("code", "answer(torch.ones(1))", "check"),
    ("markdown", "## 7. Fails"), ("code", "claim('demo.shift_invariant', 1, control=3)"),
    ("markdown", "## Summary"), ("code", "claim.table()"),
]  # fmt: skip
FOUND = [
    "2: the section leaves torch's random numbers otherwise than start_at does",
    "3: seen is another for the learner than for start_at",
    "4: cell 11: ZeroDivisionError: division by zero",
    "5: the section leaves whether gradients are recorded otherwise than start_at does",
    "6: cell 15: NameError: name 'answer' is not defined",
    "7: cell 17: ClaimError: ",
    "7: claim demo.shift_invariant fails",
    "7: start_at: cell 17 of 99_planted, in section '7. Fails', failed with ClaimError",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")
def test_what_names_cannot_show_is_found(tmp_path: Path) -> None:
    cells = [
        {"cell_type": kind, "source": [source], "metadata": {"tags": tags}}
        for kind, source, *tags in PLANTED
    ]
    (tmp_path / "exercises").mkdir()
    for folder in (tmp_path, tmp_path / "exercises"):
        (folder / "99_planted.ipynb").write_text(json.dumps({"cells": cells}))
    status, said = walked("--folder", str(tmp_path), "99")
    lines = [line.removeprefix("99_planted, ") for line in said.splitlines() if ", " in line[:12]]
    assert status == 1 and len(lines) == len(FOUND), said
    assert all(line.startswith(found) for line, found in zip(lines, FOUND, strict=True)), said
    assert "99_planted: 7 sections, 6 with something found; " in said


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The namespace of a notebook of three sections, after its set-up cell."""
    texts = [
        ("markdown", "# T"), ("code", "raise SystemError('the set-up cell')", "setup"),
        ("markdown", "Text.\n\n## 1. One"), ("code", "seen.append(1); a = 1\nprint('one')\na"),
        ("code", "def twice(n):\n    return 2 * n", "solution"),
        ("code", "check.twice(1)", "check"),
        ("markdown", "## Appendix A: two"), ("code", "from math import pi\nb = a / zero"),
        ("markdown", "## Summary"),
    ]  # fmt: skip
    cells = [
        {"cell_type": kind, "source": [source], "metadata": {"tags": tags}}
        for kind, source, *tags in texts
    ]
    claims = mi.Claims(NOTEBOOKS[0].stem, "pocket")
    (tmp_path / f"{claims.notebook}.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(rejoin, "notebooks_folder", lambda: tmp_path)
    return {"mi": mi, "claim": claims, "seen": [], "zero": 2}


def test_what_is_run_is_said_in_one_line_and_the_answers_stay_the_learners(small, capsys) -> None:
    exec("mi.start_at('summary')", small)
    assert small["seen"] == [1] and small["b"] == 0.5 and "twice" not in small
    said = capsys.readouterr().out
    assert said == (
        "Running the 2 cells of sections 1 to Appendix A ... 0 s. Go on from section 'Summary'.\n"
    )
    exec("mi.start_at('a')", small)
    assert "cells of section 1 ..." in capsys.readouterr().out
    exec("mi.start_at(1)", small)
    assert "is the first" in capsys.readouterr().out and small["seen"] == [1, 1]


def test_what_goes_wrong_says_what_to_do(small) -> None:
    small["zero"] = 0
    with pytest.raises(RuntimeError, match="in section 'Appendix A: two', failed with ZeroDiv"):
        exec("mi.start_at('Summary')", small)
    with pytest.raises(ValueError, match="no section 7; there are: 1, Appendix A, Summary"):
        exec("mi.start_at(7)", small)
    with pytest.raises(NameError, match="run the set-up cell first"):
        exec("mi.start_at(1)", {"mi": mi})


def test_where_the_file_is_not_at_hand_it_says_what_to_do(small, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(rejoin, "notebooks_folder", lambda: tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="Run All Above .* Runtime > Run before on Colab"):
        exec("mi.start_at(2)", small)
