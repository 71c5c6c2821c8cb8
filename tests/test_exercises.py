"""Exercises: the frame, and every check with its solution, its stub and wrong answers."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from nbformat import NotebookNode
from sources import DEMO, PATHS, ROOT, Source, code_cells, exercises, imports, read_source

from mi_helpers.exercises import (
    Check,
    CheckFailed,
    Exercise,
    NotDone,
    Refused,
    check,
    close,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)

DEMO_CHECK = Check("demo_checks")
UNDIAGNOSED = "The values differ"
SEEDS = range(5)


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a strict run, whatever the surroundings say."""
    monkeypatch.delenv("MI_STRICT", raising=False)


# ---------------------------------------------------------------------- every committed exercise


class Given:
    """Stands in for ``check`` and keeps what it was given, by name."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda answer: self.answers.setdefault(name, answer)


def namespace(source: Source) -> dict[str, Any]:
    """What a solution may use: torch, mi, and what the notebook's cells import."""
    names: dict[str, Any] = {"torch": torch, "mi": __import__("mi_helpers")}
    for _, tree in code_cells(source):
        for node in imports(tree):
            exec(ast.unparse(node), names)  # noqa: S102
    return names


def answer(source: Source, cell: NotebookNode, check_cell: NotebookNode, model: Any) -> tuple:
    """Name of the check and the answer that a cell gives to it."""
    names = namespace(source) | {"check": (given := Given()), "model": model}
    exec(cell.source, names)  # noqa: S102
    exec(check_cell.source, names)  # noqa: S102
    ((name, found),) = given.answers.items()
    return name, found


def all_exercises() -> list[Any]:
    """Every exercise of every source: path, number, and the id to show."""
    return [
        pytest.param(path, number, id=f"{path.stem}-{number + 1}")
        for path in PATHS
        for number in range(len(exercises(read_source(path))))
    ]


def wrong_answers(path: Path) -> dict[str, list[Any]]:
    """The wrong answers that belong to a source, by name of the check."""
    folder = (DEMO if path.parent == DEMO else ROOT / "tests") / "wrong_answers"
    file = folder / f"nb{path.stem[:2]}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{file.stem}", file)
    assert spec and spec.loader, f"no {file}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


@pytest.mark.parametrize(("path", "number"), all_exercises())
def test_solution_passes_and_stub_and_wrong_answers_do_not(
    path: Path, number: int, request: pytest.FixtureRequest
) -> None:
    source = read_source(path)
    checks = DEMO_CHECK if path.parent == DEMO else check
    cells = exercises(source)[number]
    asked = f"{cells['solution'].source}\n{cells['check'].source}"
    words = {n.id for n in ast.walk(ast.parse(asked)) if isinstance(n, ast.Name)}
    model = request.getfixturevalue("pocket") if "model" in words else None

    name, solution = answer(source, cells["solution"], cells["check"], model)
    for seed in SEEDS:
        result = checks.result(name, solution, seed=seed)
        assert result.ok, f"{name}, seed {seed}: the solution is refused: {result}"

    stub_name, stub = answer(source, cells["exercise"], cells["check"], model)
    assert stub_name == name
    assert checks.result(name, stub).status == "not done"

    wrong = wrong_answers(path)[name]
    assert len(wrong) >= 3
    for seed in SEEDS:
        results = [checks.result(name, item, seed=seed) for item in wrong]
        messages = [result.message for result in results]
        assert [result.status for result in results] == ["wrong"] * len(wrong), messages
        assert len(set(messages)) == len(messages), f"{name}, seed {seed}: {messages}"
        assert not [m for m in messages if UNDIAGNOSED in m], messages


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_wrong_answers_are_for_exercises_that_exist(path: Path) -> None:
    source = read_source(path)
    asked = {c["check"].source.split("(")[0].removeprefix("check.") for c in exercises(source)}
    assert asked == (set(wrong_answers(path)) if asked else set())


def test_every_check_is_asked_by_a_notebook() -> None:
    asked = {
        cells["check"].source.split("(")[0].removeprefix("check.")
        for path in PATHS
        if path.parent != DEMO
        for cells in exercises(read_source(path))
    }
    assert {name for name in dir(check) if not name.startswith("_")} - {"result"} == asked


@pytest.mark.parametrize("path", sorted((ROOT / "mi_helpers" / "checks").glob("nb*.py")), ids=str)
def test_checks_import_no_model_library(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in imports(tree)
    }
    assert {name.split(".")[0] for name in imported}.isdisjoint(
        {"transformer_lens", "transformers"}
    )


# ------------------------------------------------------------------------------------- the frame


def right(logits, right_answer, wrong_answer):
    rows = torch.arange(len(logits))
    return logits[rows, right_answer] - logits[rows, wrong_answer]


def stub(*_):
    raise NotImplementedError


def test_check_shows_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for given in (right, stub, ..., None, lambda *_: torch.zeros(3)):
        assert DEMO_CHECK.logit_difference(given) is None
    assert [result.status for result in shown] == ["correct"] + ["not done"] * 3 + ["wrong"]
    assert [repr(result) for result in shown[:2]] == ["Correct.", "Not done yet."]
    assert "Expected shape (4,), got (3,)" in shown[-1]._repr_html_()


def test_strict_run_stops_at_a_wrong_answer_but_not_at_a_stub(monkeypatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda _: None)
    monkeypatch.setenv("MI_STRICT", "1")
    DEMO_CHECK.logit_difference(right)
    DEMO_CHECK.logit_difference(stub)
    with pytest.raises(CheckFailed, match=r"logit_difference \(seed \d+\): .*sign is reversed"):
        DEMO_CHECK.logit_difference(lambda *inputs: -right(*inputs))


def test_inputs_are_fresh_and_a_seed_gives_them_again() -> None:
    seen: list[torch.Tensor] = []

    def spy(logits, *answers):
        seen.append(logits)
        return right(logits, *answers)

    first = DEMO_CHECK.result("logit_difference", spy)
    DEMO_CHECK.result("logit_difference", spy)
    DEMO_CHECK.result("logit_difference", spy, seed=first.seed)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_unknown_check_names_near_matches() -> None:
    with pytest.raises(AttributeError, match="'logit_diff'; did you mean logit_difference"):
        _ = DEMO_CHECK.logit_diff
    with pytest.raises(AttributeError, match="'logit_diff'; did you mean logit_difference"):
        DEMO_CHECK.result("logit_diff", right)
    assert "logit_difference" in dir(DEMO_CHECK)


@pytest.mark.parametrize(
    "files",
    [
        {"nb01": "@exercise\ndef twin(a, r): ...", "nb02": "@exercise\ndef twin(a, r): ..."},
        {"nb01": "@exercise\ndef result(a, r): ..."},
    ],
)
def test_names_are_unique_and_not_reserved(files: dict, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / f"checks_{len(files)}"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in files.items():
        (package / f"{name}.py").write_text(f"from mi_helpers.exercises import exercise\n{text}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="already taken"):
        Check(package.name).result("twin", 1)


def test_a_broken_check_is_not_taken_for_a_wrong_answer(monkeypatch) -> None:
    broken = Exercise("broken", lambda given, rng: 1 / 0)
    monkeypatch.setattr(Check, "_exercises", lambda self: {"broken": broken})
    with pytest.raises(ZeroDivisionError):
        Check().result("broken", right)


def test_values_can_be_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    @exercise
    def best_head(given, rng):
        expect_type(given, tuple, hint="(layer, head)")
        refuse_if(given == (3, 2), "You swapped layer and head.")
        refuse_if(given != (2, 3), "Look at the brightest square.")

    monkeypatch.setattr(Check, "_exercises", lambda self: {"best_head": best_head})
    outcome = {given: Check().result("best_head", given) for given in (..., 5, (3, 2), (2, 3))}
    assert [result.status for result in outcome.values()] == [
        "not done",
        "wrong",
        "wrong",
        "correct",
    ]
    assert outcome[5].message == "Not yet right. Expected tuple, got int. (layer, head)"
    assert "swapped" in outcome[3, 2].message


def test_run_passes_arguments_and_result_through() -> None:
    assert run(lambda a, *, b: (a, b), 1, b=2) == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "Give the function itself to the check, not a int"),
        (torch.zeros(2), "Give the function itself to the check, not a Tensor"),
        (lambda x: None, "returns nothing"),
        (lambda x: x.add_(1), "changes its input in place"),
        (lambda x: x[7], r"raises IndexError on inputs of shapes \(2,\)"),
        (lambda: 0, r"raises TypeError on inputs of shapes \(2,\)"),
    ],
)
def test_run_refuses(given: Any, message: str) -> None:
    with pytest.raises(Refused, match=message):
        run(given, torch.zeros(2))


def test_run_knows_a_stub() -> None:
    with pytest.raises(NotDone):
        run(stub, torch.zeros(2))
    with pytest.raises(NotDone):
        run(lambda x: ..., torch.zeros(2))


def test_shape_and_type_are_checked_with_the_hint() -> None:
    expect_shape(torch.zeros(2, 3), (2, 3))
    with pytest.raises(Refused, match=r"Expected shape \(2, 3\), got \(3, 2\). Transpose it."):
        expect_shape(torch.zeros(3, 2), (2, 3), hint="Transpose it.")
    with pytest.raises(Refused, match="Expected Tensor, got list"):
        expect_shape([1.0], (1,))
    with pytest.raises(Refused, match="Expected int or float, got str"):
        expect_type("a", (int, float))


def test_close_compares_shape_and_value() -> None:
    assert close(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert close(0.5, torch.tensor(0.5))
    assert not close(torch.ones(2), torch.ones(1, 2))
    assert not close(torch.ones(2), torch.ones(2) + 1e-3)
    assert not close(torch.tensor(float("nan")), torch.tensor(float("nan")))


def test_expect_close_names_the_mistake_and_never_refuses_the_right_answer() -> None:
    want = torch.tensor([1.0, 2.0])
    mistakes = {"Same by chance.": want, "Reversed.": want.flip(0)}
    expect_close(want, want, mistakes)
    with pytest.raises(Refused, match="Reversed"):
        expect_close(want.flip(0), want, mistakes)
    with pytest.raises(Refused, match="differ by up to 1 on fresh inputs"):
        expect_close(want + 1, want, mistakes)
    with pytest.raises(Refused, match=r"Expected shape \(2,\), got \(3,\)"):
        expect_close(torch.zeros(3), want)
    with pytest.raises(Refused, match="contains NaN"):
        expect_close(want * float("nan"), want)
