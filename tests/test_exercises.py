"""Exercises: the frame, and every check with its solution, its stub and wrong answers."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nbformat import NotebookNode
from sources import DEMO, PATHS, ROOT, Source, code_cells, exercises, imports, read_source

from mi_helpers.suite.exercises import (
    Check,
    CheckFailed,
    Exercise,
    NotDone,
    Refused,
    as_tensor,
    check,
    close,
    compare,
    crossed,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_number,
    expect_parts,
    expect_shape,
    expect_type,
    refuse_if,
    run,
    smallest,
)

DEMO_CHECK = Check("demo_checks")
UNDIAGNOSED = ("A small example:", "values are wrong", "The check cannot read")
SEEDS = range(5)
MANY_SEEDS = range(20)


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
    for seed in MANY_SEEDS:
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
        assert not [m for m in messages if any(words in m for words in UNDIAGNOSED)], messages
        assert all(f"`{name}`" in message for message in messages), messages


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
    own = {"result", "summary", "keep", "forget"}
    assert {name for name in dir(check) if not name.startswith("_")} - own == asked


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_checks_stand_in_the_order_of_the_notebook(path: Path) -> None:
    checks = DEMO_CHECK if path.parent == DEMO else check
    for number, cells in enumerate(exercises(read_source(path)), start=1):
        name = cells["check"].source.split("(")[0].removeprefix("check.")
        assert checks.result(name, ...).message == f"Exercise {number}, `{name}`: not done yet."


# ------------------------------------------------------------------------------- the adversary


@functools.cache
def solutions() -> dict[str, Callable[..., Any]]:
    """The solution of every exercise of the suite, by name of the check."""
    found = {}
    for path in PATHS:
        if path.parent != DEMO:
            source = read_source(path)
            for cells in exercises(source):
                name, solution = answer(source, cells["solution"], cells["check"], None)
                found[name] = solution
    return found


NAMES = sorted(
    cells["check"].source.split("(")[0].removeprefix("check.")
    for path in PATHS
    if path.parent != DEMO
    for cells in exercises(read_source(path))
)

LAZY: dict[str, Any] = {
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "a half": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "complex": 1j,
    "text": "a",
    "empty text": "",
    "bytes": b"a",
    "none": None,
    "an object": object(),
    "a class": int,
    "a generator": (i for i in range(3)),
    "empty list": [],
    "empty tuple": (),
    "empty set": set(),
    "empty dict": {},
    "ragged list": [[1.0], [1.0, 2.0]],
    "list of text": ["a", "b"],
    "pair of text": ("a", "b"),
    "three texts": ("a", "b", "c"),
    "pair of none": (None, None),
    "pair of zeros": (0, 0),
    "set of numbers": {1, 2},
    "set of pairs": {("embed", "logits")},
    "zero tensor": torch.tensor(0.0),
    "integer tensor": torch.tensor(3),
    "no elements": torch.zeros(0),
    "no rows": torch.zeros(0, 4),
    "vector": torch.zeros(4),
    "matrix": torch.zeros(4, 4),
    "high rank": torch.zeros(1, 2, 3, 4, 5),
    "NaN tensor": torch.full((4,), float("nan")),
    "complex tensor": torch.zeros(4, dtype=torch.complex64),
    "meta tensor": torch.zeros(4, device="meta"),
    "sparse tensor": torch.eye(4).to_sparse(),
    "numpy text": np.array(["a", "b"]),
    "numpy objects": np.array([None, "a"], dtype=object),
    "numpy scalar": np.float64(0.25),
}


@pytest.mark.parametrize("name", NAMES)
def test_no_constant_passes_and_none_ends_in_a_traceback(name: str) -> None:
    for seed, (what, value) in enumerate(LAZY.items()):
        result = check.result(name, lambda *_, given=value: given, seed=seed)
        assert result.status == "wrong", f"{what}: {result}"
        assert f"`{name}`" in result.message, what


@pytest.mark.parametrize("name", NAMES)
def test_values_given_for_a_function_are_refused(name: str) -> None:
    for value in (0, "a", torch.zeros(3), [1], {}):
        assert "Give the function itself" in check.result(name, value, seed=0).message


@pytest.mark.parametrize("name", NAMES)
def test_exceptions_of_an_answer_are_verdicts_with_its_own_line(name: str) -> None:
    def fails(*args):
        return args[99]  # the line to be shown

    for error in (ValueError, KeyError, RecursionError, AssertionError, StopIteration):

        def raises(*args, kind=error):
            raise kind("told")

        message = check.result(name, raises, seed=0).message
        assert error.__name__ in message and "told" in message
    result = check.result(name, fails, seed=0)
    assert result.status == "wrong"
    assert "IndexError" in result.message and "return args[99]" in result.message


def shape_of(values: Any, change: Callable[[Any], Any]) -> Any:
    """A solution's output in another form: each tensor and number of it changed."""
    if isinstance(values, (torch.Tensor, float, int)) and not isinstance(values, bool):
        return change(values)
    if isinstance(values, (tuple, list)):
        return type(values)(shape_of(value, change) for value in values)
    return values


def floats(values: Any) -> Any:
    wide = isinstance(values, torch.Tensor) and values.is_floating_point()
    return values.double() if wide else values


def half(values: Any) -> Any:
    wide = isinstance(values, torch.Tensor) and values.is_floating_point()
    return values.to(torch.bfloat16) if wide else values


def listed(values: Any) -> Any:
    return values.tolist() if isinstance(values, torch.Tensor) else values


def with_gradient(values: Any) -> Any:
    wide = isinstance(values, torch.Tensor) and values.is_floating_point()
    return values.clone().requires_grad_() if wide else values


def in_an_array(values: Any) -> Any:
    return np.asarray(values)


FORMS = {
    "numpy": in_an_array,
    "numpy scalars": lambda v: in_an_array(v)[()],
    "lists": listed,
    "float64": floats,
    "bfloat16": half,
    "with a gradient": with_gradient,
    "tensors": torch.as_tensor,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_right_answers_pass_in_every_form(name: str, form: str) -> None:
    if form == "bfloat16" and name in {"corrupt_subject"}:
        pytest.skip("what the noise must leave untouched is rounded")

    def other_form(*args):
        return shape_of(solutions()[name](*args), FORMS[form])

    for seed in (0, 1, 2):
        result = check.result(name, other_form, seed=seed)
        assert result.ok, f"{form}, seed {seed}: {result}"


TWISTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sign": lambda v: -v,
    "mean": lambda v: v.mean().expand(v.shape),
    "one more": lambda v: v + 1,
    "one less": lambda v: v - 1,
    "twice": lambda v: 2 * v,
    "reversed": lambda v: v.flip(0) if v.ndim else v + 0.1,
    "transposed": lambda v: v.mT if v.ndim > 1 and v.shape[-1] == v.shape[-2] else v + 0.1,
    "shifted": lambda v: v.roll(1, 0) if v.ndim and len(v) > 1 else v + 0.1,
    "a little off": lambda v: v + 2e-3 * v.abs().max().clamp_min(1e-3),
    "one place": lambda v: (
        v
        + torch.nn.functional.one_hot(torch.tensor(0), max(v.numel(), 1))[: v.numel()].view(v.shape)
    ),
    "absolute": lambda v: v.abs() + 1e-2,
    "zeroed": lambda v: torch.zeros_like(v),
}


@pytest.mark.parametrize("name", NAMES)
def test_twisted_solutions_are_refused(name: str) -> None:
    """The right output of each call, and something done to all of it."""

    if name in {"verdict", "which_gate", "on_a_path"}:
        pytest.skip("words and sets")
    for what, change in TWISTS.items():
        for seed in (0, 1, 2):
            changed: list[bool] = []

            def twisted(*args, change=change, changed=changed):
                out = solutions()[name](*args)
                whole = out[0] if isinstance(out, tuple) else out
                right = torch.as_tensor(whole).double()
                wrong = change(right)
                changed.append(not close(wrong, right))
                return (wrong, *out[1:]) if isinstance(out, tuple) else wrong

            result = check.result(name, twisted, seed=seed)
            assert result.status == "wrong" or not any(changed), f"{what}, seed {seed}: {result}"


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_to_another_input_is_refused(name: str) -> None:
    """A solution that answers what it was asked the first time, ever after."""
    first: list[Any] = []

    def remembers(*args):
        if not first:
            first.append(solutions()[name](*args))
        return first[0]

    results = [check.result(name, remembers, seed=seed).status for seed in SEEDS]
    assert results[1:] == ["wrong"] * (len(results) - 1)


IGNORED = {
    ("attention_pattern", "b_K"): "adds the same to all scores of a query: the softmax ignores it",
}


@pytest.mark.parametrize("name", NAMES)
def test_no_argument_can_be_ignored(name: str) -> None:
    """The solution with one argument frozen at its first value is refused."""
    solution = solutions()[name]
    parameters = [
        p.name
        for p in inspect.signature(solution).parameters.values()
        if p.kind != p.VAR_POSITIONAL
    ]
    for number, parameter in enumerate(parameters):
        first: list[Any] = []

        def frozen(*args, number=number, first=first):
            if not first:
                first.append(args[number])
            return solution(*args[:number], first[0], *args[number + 1 :])

        statuses = [check.result(name, frozen, seed=seed).status for seed in SEEDS]
        passes = statuses.count("correct")
        if (name, parameter) not in IGNORED:
            assert passes <= 1, f"{parameter} may be ignored: {statuses}"


def test_what_may_be_ignored_is_right_without() -> None:
    def without_b_K(x, W_Q, b_Q, W_K, b_K):
        return solutions()["attention_pattern"](x, W_Q, b_Q, W_K, torch.zeros_like(b_K))

    assert set(IGNORED) == {("attention_pattern", "b_K")}
    assert check.result("attention_pattern", without_b_K, seed=0).ok


SMALL = (int, float)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_can_be_written_into_the_answer(name: str) -> None:
    """A number that was right for the first call is refused within the same check."""
    solution = solutions()[name]
    seen: list[tuple] = []

    def spy(*args):
        seen.append(args)
        return solution(*args)

    assert check.result(name, spy, seed=0).ok
    scalars = [i for i, value in enumerate(seen[0]) if isinstance(value, SMALL)]
    for number in scalars:
        for seed in SEEDS:
            first: list[Any] = []

            def written(*args, number=number, first=first):
                if not first:
                    first.append(args[number])
                return solution(*args[:number], first[0], *args[number + 1 :])

            result = check.result(name, written, seed=seed)
            assert result.status == "wrong", f"argument {number} may be fixed, seed {seed}"


@pytest.mark.parametrize("name", NAMES)
def test_inputs_changed_in_place_are_noticed(name: str) -> None:
    """Tensors, lists, sets and dictionaries alike."""
    solution = solutions()[name]

    def spoils(*args):
        out = solution(*args)
        for value in args:
            if isinstance(value, torch.Tensor):
                value.add_(1) if value.dtype != torch.bool else value.logical_not_()
            elif isinstance(value, list):
                value.append(value[0])
            elif isinstance(value, set):
                value.clear()
            elif isinstance(value, dict):
                value.popitem()
        return out

    kinds: list[type] = []

    def spy(*args):
        kinds.extend(map(type, args))
        return solution(*args)

    check.result(name, spy, seed=0)
    if {torch.Tensor, list, set, dict} & set(kinds):
        assert "in place" in check.result(name, spoils, seed=0).message


@pytest.mark.parametrize(
    "path", sorted((ROOT / "mi_helpers" / "suite" / "checks").glob("nb*.py")), ids=str
)
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
    called = "Exercise 1, `logit_difference`:"
    assert [repr(result) for result in shown[:2]] == [
        f"{called} correct.",
        f"{called} not done yet.",
    ]
    assert "Expected shape (4,), got shape (3,)" in shown[-1]._repr_html_()


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
        (package / f"{name}.py").write_text(
            f"from mi_helpers.suite.exercises import exercise\n{text}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="already taken"):
        Check(package.name).result("twin", 1)


def test_a_broken_check_is_not_taken_for_a_wrong_answer(monkeypatch) -> None:
    broken = Exercise("broken", lambda given, rng: 1 / 0)
    monkeypatch.setattr(Check, "_numbered", lambda self: {"broken": (1, broken)})
    with pytest.raises(ZeroDivisionError):
        Check().result("broken", right)


def test_values_can_be_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    @exercise
    def best_head(given, rng):
        expect_type(given, tuple, hint="(layer, head)")
        refuse_if(given == (3, 2), "You swapped layer and head.")
        refuse_if(given != (2, 3), "Look at the brightest square.")

    monkeypatch.setattr(Check, "_numbered", lambda self: {"best_head": (2, best_head)})
    outcome = {given: Check().result("best_head", given) for given in (..., 5, (3, 2), (2, 3))}
    assert [result.status for result in outcome.values()] == [
        "not done",
        "wrong",
        "wrong",
        "correct",
    ]
    assert outcome[5].message == (
        "Exercise 2, `best_head`: not yet right. Expected tuple, got an int, 5. (layer, head)"
    )
    assert "swapped" in outcome[3, 2].message


def test_run_passes_arguments_and_result_through() -> None:
    assert run(lambda a, *, b: (a, b), 1, b=2) == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "Give the function itself to the check, without calling it, not an int, 3"),
        (torch.zeros(2), r"Give the function itself .* not a Tensor of shape \(2,\)"),
        (lambda x: None, "returns nothing"),
        (lambda x: x.add_(1), "changes its input in place: `x`"),
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
    with pytest.raises(
        Refused, match=r"Expected shape \(2, 3\), got shape \(3, 2\). Transpose it."
    ):
        expect_shape(torch.zeros(3, 2), (2, 3), hint="Transpose it.")
    with pytest.raises(Refused, match="Expected numbers, got a str, 'a'. A number."):
        expect_shape("a", (1,), "A number.")
    with pytest.raises(Refused, match="Expected int or float, got a str, 'a'"):
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
    with pytest.raises(
        Refused, match=r"All your values differ .* by \+1\. At \[0\] expected 1, got 2"
    ):
        expect_close(want + 1, want, mistakes)
    with pytest.raises(Refused, match=r"1 of 2 values are wrong"):
        expect_close(torch.tensor([1.0, 7.0]), want, mistakes)
    with pytest.raises(Refused, match=r"Expected shape \(2,\), got shape \(3,\)"):
        expect_close(torch.zeros(3), want)
    with pytest.raises(Refused, match="contains NaN"):
        expect_close(want * float("nan"), want)


def test_two_mistakes_at_once_are_named_together() -> None:
    want = torch.tensor([1.0, 2.0])
    with pytest.raises(Refused, match="Two things at once. Half of it. Then: The sign"):
        expect_close(-want / 2, want, {"Half of it.": want / 2})
    with pytest.raises(Refused, match=r"2 times what they should be"):
        expect_close(2 * want, want)
    with pytest.raises(Refused, match="All your values are 3, whatever the input"):
        expect_close(want * 0 + 3, want)
    with pytest.raises(Refused, match="Rows and columns are exchanged"):
        expect_close(torch.arange(4.0).view(2, 2).T, torch.arange(4.0).view(2, 2))


def test_numbers_are_read_from_whatever_holds_them() -> None:
    for held in (
        0.5,
        np.float32(0.5),
        torch.tensor(0.5),
        [0.5],
        np.array([0.5]),
        torch.ones(1) / 2,
    ):
        assert expect_number(held) == 0.5
    for held in (2, 2.0, np.int64(2), torch.tensor([2]), [2]):
        assert expect_integer(held) == 2
    for held in (True, 2.5, float("nan"), "2", [1, 2], None):
        with pytest.raises(Refused):
            expect_integer(held)
    assert as_tensor([torch.tensor(1), 2.5]).tolist() == [1.0, 2.5]
    assert as_tensor(np.array([1, 2], dtype="uint16")).tolist() == [1, 2]
    for held in ("a", {}, {1}, [[1], [1, 2]], [None], np.array(["a"]), 1j, object()):
        with pytest.raises(Refused, match="numbers"):
            as_tensor(held)
    assert [int(part) for part in expect_parts(torch.tensor([3, 4]), 2, "")] == [3, 4]
    with pytest.raises(Refused, match="Expected 2 things, got 3. A pair."):
        expect_parts((1, 2, 3), 2, "A pair.")


def test_half_precision_is_compared_as_closely_as_it_allows() -> None:
    want = torch.tensor([1.0, 2.0, 100.0])
    assert close((want * 1.001).to(torch.bfloat16), want)
    assert not close((want * 1.2).to(torch.bfloat16), want)
    assert not close(want * 1.001, want)


def test_the_smallest_counter_example_is_shown() -> None:
    def right(x):
        return x.sum(0)

    shown = smallest(lambda x: x.mean(0), right, {"x [row column]": torch.randn(5, 7)})
    assert "x = [[" in shown and "expected:" in shown and "yours:" in shown
    assert shown.count("], [") == 1  # two rows: with one, sum and mean agree
    assert smallest(right, right, {"x [row column]": torch.randn(5, 7)}) == ""
    with pytest.raises(Refused, match=r"(?s)A small example:.*expected: \[.*yours: "):
        compare(lambda x: x.sum(0) ** 2 + 1, right, {"x [row column]": torch.randn(5, 7)})


def test_true_and_false_are_drawn_beside_each_other() -> None:
    tokens = torch.tensor([[1, 2, 1, 2, 1, 2]])

    def right(tokens):
        return tokens[:, :, None] == tokens[:, None, :]

    shown = smallest(
        lambda t: ~right(t) | (t[:, :, None] < 0), right, {"tokens [batch pos]": tokens}
    )
    assert shown.splitlines()[-2:] == ["expected    yours", "#           ."]


def test_draws_are_distinct_and_crossed_inputs_matter() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = distinct(rng, 2, 5, 3)
        assert sorted(drawn) == [2, 3, 4]
    assert crossed(lambda a, b: a + b, (1, 2), (3, 5))
    assert not crossed(lambda a, b: a, (1, 2), (3, 5))


def test_a_stub_is_told_from_an_operation_that_does_not_exist() -> None:
    def missing(*_):
        return torch.zeros(1, device="meta").cpu()  # torch raises NotImplementedError, too

    result = DEMO_CHECK.result("logit_difference", missing, seed=0)
    assert result.status == "wrong" and "NotImplementedError" in result.message

    def told(*_):
        raise NotImplementedError("write me")

    assert DEMO_CHECK.result("logit_difference", told, seed=0).status == "not done"


@exercise
def _unreadable(given: Any, rng: torch.Generator) -> None:
    run(given, 1)["key"]  # what the check does not expect of an answer


def test_a_traceback_after_the_call_is_a_verdict_about_the_answer(monkeypatch) -> None:
    monkeypatch.setattr(Check, "_numbered", lambda self: {"unreadable": (1, _unreadable)})
    result = Check().result("unreadable", lambda x: 7)
    assert result.status == "wrong"
    assert "your function returns an int, 7 (TypeError" in result.message


# ----------------------------------------------------------------------------------- the summary


def test_summary_says_what_is_solved_wrong_and_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda _: None)
    fresh = Check("demo_checks")
    headings = {"logit_difference": "Exercise 1: the <difference>"}
    assert "open: 1" in repr(fresh.summary(headings))
    assert "solved: 0 · wrong: 0 · open: 0" in repr(fresh.summary())
    fresh.logit_difference(lambda *_: torch.zeros(3))
    html = fresh.summary(headings)._repr_html_()
    assert "wrong: 1" in html and "Expected shape (4,)" in html
    assert 'href="#Exercise-1:-the-&lt;difference&gt;"' in html
    fresh.logit_difference(stub)
    assert "open: 1" in repr(fresh.summary(headings))
    fresh.logit_difference(right)
    assert repr(fresh.summary(headings)).splitlines() == [
        "Exercises · solved: 1 · wrong: 0 · open: 0",
        "solved: Exercise 1: the <difference>",
    ]
    with pytest.raises(AttributeError, match="did you mean logit_difference"):
        fresh.summary({"logit_diff": "x"})
