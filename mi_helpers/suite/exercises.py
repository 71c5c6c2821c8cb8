"""Exercises: checks that say what is wrong with an answer, and the parts they are written with.

A check lives in `mi_helpers/suite/checks/nbNN.py`, in the order of the notebook, and runs in
stages: first type and shape, then each usual mistake by name, then values, on fresh inputs::

    @exercise
    def residual_sum(answer, rng):
        for pos in distinct(rng, 3, 7):
            parts = torch.randn(3, pos, 8, generator=rng)
            compare(
                answer,
                lambda parts: parts.sum(0),
                {"parts [part pos d_model]": parts},
                {"You averaged over the parts. The stream is their sum.": parts.mean(0)},
                hint="sum over the parts, keep position and d_model",
            )

In a notebook `check.residual_sum(my_function)` shows the outcome, and `check.summary()` what
became of all exercises. Whatever goes wrong with an answer is a verdict, never a traceback.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch

from mi_helpers.suite import progress
from mi_helpers.suite.answers import (
    NotDone,
    Recorded,
    Refused,
    as_tensor,
    describe,
    expect_integer,
    expect_number,
    expect_parts,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)
from mi_helpers.suite.comparing import close, compare, expect_close, show, smallest

__all__ = [
    "Check",
    "CheckFailed",
    "Exercise",
    "NotDone",
    "Refused",
    "Result",
    "Summary",
    "as_tensor",
    "check",
    "close",
    "compare",
    "crossed",
    "distinct",
    "exercise",
    "expect_close",
    "expect_integer",
    "expect_number",
    "expect_parts",
    "expect_shape",
    "expect_type",
    "refuse_if",
    "run",
    "show",
    "smallest",
]


class CheckFailed(AssertionError):
    """A wrong answer was given to a check while `MI_STRICT=1`."""


Stages = Callable[[Any, torch.Generator], None]


@dataclass(frozen=True)
class Exercise:
    """A named check; `stages` raises Refused or NotDone, or returns if the answer is right."""

    name: str
    stages: Stages


def exercise(stages: Stages) -> Exercise:
    """Make a check out of a function of (answer, rng), under the function's own name."""
    return Exercise(stages.__name__, stages)


def distinct(rng: torch.Generator, low: int, high: int, count: int = 2) -> list[int]:
    """So many different whole numbers from low to high, high left out, in random order.

    What an exercise takes as a size or an index is drawn so, and tried with each: then no answer
    that ignores it passes.
    """
    return (low + torch.randperm(high - low, generator=rng)[:count]).tolist()


def crossed(right: Callable[..., Any], first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether each of the second inputs matters: the first one in its place changes the answer."""
    want = right(*second)
    for number, other in enumerate(first):
        try:
            if bool(right(*second[:number], other, *second[number + 1 :]) == want):
                return False
        except (ArithmeticError, LookupError, RuntimeError, ValueError):
            continue  # does not even fit
    return True


Status = Literal["correct", "wrong", "not done"]

_COLOURS = {"correct": "#1a7f37", "wrong": "#cf222e", "not done": "#6e7781"}
_WORDS = {"correct": "solved", "wrong": "wrong", "not done": "open"}


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found; `seed` generates the same inputs again."""

    status: Status
    message: str
    seed: int

    @property
    def ok(self) -> bool:
        """Whether the answer is right."""
        return self.status == "correct"

    def __repr__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        border = f"border-left:4px solid {_COLOURS[self.status]};padding:2px 0 2px 10px"
        first, _, rest = self.message.partition("\n")
        more = f'<pre style="margin:4px 0 0;white-space:pre-wrap">{escape(rest)}</pre>'
        return f'<div style="{border}">{escape(first)}{more if rest else ""}</div>'


@dataclass(frozen=True, repr=False)
class Summary:
    """What became of some exercises: for each its heading, its status and the last message."""

    lines: tuple[tuple[str, Status, str], ...]
    note: str = ""
    """Where it is kept."""

    def _solved(self) -> tuple[int, int]:
        return sum(status == "correct" for _, status, _ in self.lines), len(self.lines)

    def _counts(self) -> str:
        tally = Counter[str](status for _, status, _ in self.lines)
        return " · ".join(f"{word}: {tally[status]}" for status, word in _WORDS.items())

    def __repr__(self) -> str:
        lines = [f"{_WORDS[status]}: {heading}" for heading, status, _ in self.lines]
        notes = [progress.bar_text(*self._solved()), self.note] if self.note else []
        return "\n".join([f"Exercises · {self._counts()}", *lines, *notes])

    def _repr_html_(self) -> str:
        rows = "".join(self._row(*line) for line in self.lines)
        bar = f"<div>{progress.bar_html(*self._solved())}</div>" if self.lines else ""
        note = f'<div style="opacity:0.75">{escape(self.note)}</div>' if self.note else ""
        return (
            '<table style="color:inherit"><caption>'
            f"Exercises · {self._counts()}</caption><tbody>{rows}</tbody></table>{bar}{note}"
        )

    @staticmethod
    def _row(heading: str, status: Status, message: str) -> str:
        cell = "text-align:left;vertical-align:top"
        badge = (
            f'<span style="background:{_COLOURS[status]};color:#ffffff;padding:0 6px;'
            f'border-radius:3px">{_WORDS[status]}</span>'
        )
        link = f'<a href="#{escape(_anchor(heading))}">{escape(heading)}</a>'
        first = message.partition("\n")[0]
        said = escape(first.partition("not yet right. ")[2]) if status == "wrong" else ""
        return (
            "<tr>" + "".join(f'<td style="{cell}">{c}</td>' for c in (badge, link, said)) + "</tr>"
        )


def _anchor(heading: str) -> str:
    """The fragment under which JupyterLab finds a heading."""
    return heading.replace(" ", "-")


class Check:
    """All checks of a package, each an attribute: `check.name(answer)`."""

    def __init__(self, package: str = "mi_helpers.suite.checks") -> None:
        """Look for checks in the modules `nbNN` of `package`, when one is first asked for."""
        self._package = package
        self._last: dict[str, Result] = {}
        self._notebook, self._folder, self._unkept = "", Path(), ""

    def _exercises(self) -> dict[str, Exercise]:
        return {name: item for name, (_, item) in self._numbered().items()}

    def _numbered(self) -> dict[str, tuple[int, Exercise]]:
        """Each check with its exercise's number: they stand in the order of the notebook."""
        package = importlib.import_module(self._package)
        found: dict[str, tuple[int, Exercise]] = {}
        for info in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            number = 0
            for item in vars(importlib.import_module(info.name)).values():
                if not isinstance(item, Exercise):
                    continue
                if item.name in found or hasattr(Check, item.name):
                    raise ValueError(f"{info.name}: the name {item.name!r} is already taken")
                number += 1
                found[item.name] = number, item
        return found

    def _find(self, name: str) -> tuple[int, Exercise]:
        exercises = self._numbered()
        if name not in exercises:
            near = difflib.get_close_matches(name, exercises, n=3, cutoff=0.4) or sorted(exercises)
            raise AttributeError(f"no check is called {name!r}; did you mean {', '.join(near)}?")
        return exercises[name]

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._exercises()])

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        if name.startswith("_"):
            raise AttributeError(name)
        self._find(name)

        def show(answer: Any) -> None:
            from IPython.display import display

            result = self._last[name] = self.result(name, answer)
            display(result)
            if result.ok:
                self._note(name)
            if result.status == "wrong" and os.environ.get("MI_STRICT") == "1":
                raise CheckFailed(f"{name} (seed {result.seed}): {result.message}")

        show.__name__ = name
        return show

    def keep(self, notebook: str) -> None:
        """Keep from now on which exercises of a notebook are solved, in a file beside it.

        Where nothing can be written, the summary says so, and all else goes on.
        """
        self._notebook, self._folder, self._unkept = notebook, Path.cwd(), ""

    def forget(self) -> None:
        """Start the notebook's exercises over: none of them counts as solved.

        Raises OSError where what is kept cannot be changed.
        """
        self._last.clear()
        if self._notebook:
            progress.forget(self._notebook, self._folder)

    def _note(self, name: str) -> None:
        """Keep that an exercise is solved, where that is asked for and can be done."""
        if self._notebook:
            try:
                progress.add(self._notebook, name, self._folder)
                self._unkept = ""
            except OSError as err:
                self._unkept = f"Not kept for another day: {err.strerror or err} ({self._folder})."

    def summary(self, headings: Mapping[str, str] | None = None) -> Summary:
        """Which exercises are solved, wrong or still open, as they were last checked.

        One that was not checked since the notebook was opened counts as solved if it once was.

        Args:
            headings: Name of each check to its exercise's heading, which the line links to; by
                default those that have been checked, without a heading of their own.

        Returns:
            A table, with the first line of what was said about the wrong ones.
        """
        asked = dict(headings) if headings is not None else {name: name for name in self._last}
        for name in asked:
            self._find(name)
        kept = progress.read(self._folder).get(self._notebook, {})
        unchecked = {n: Result("correct" if n in kept else "not done", "", 0) for n in asked}
        found = {name: self._last.get(name, unchecked[name]) for name in asked}
        lines = tuple((asked[n], r.status, r.message) for n, r in found.items())
        where = f"Kept in {progress.FILE} beside the notebook; check.forget() starts it over."
        return Summary(lines, self._unkept or (where if kept else ""))

    def result(self, name: str, answer: Any, *, seed: int | None = None) -> Result:
        """Check an answer without showing anything.

        A fresh `seed` is drawn if none is given, so that no two calls see the same inputs.
        Whatever goes wrong once the answer has been called, or with an answer that is a value, is
        put down to the answer. Raises AttributeError, with near matches, if there is no such check.
        """
        number, item = self._find(name)
        seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        called = f"Exercise {number}, `{name}`:"
        recorded = Recorded(answer) if callable(answer) else None
        try:
            if answer is None or answer is ...:
                raise NotDone
            item.stages(recorded or answer, torch.Generator().manual_seed(seed))
        except NotDone:
            return Result("not done", f"{called} not done yet.", seed)
        except Refused as refusal:
            return Result("wrong", f"{called} not yet right. {refusal}", seed)
        except Exception as err:
            if recorded and not recorded.called:
                raise  # the check's own fault
            got = describe(recorded.returned if recorded else answer)
            what = f"your answer is {got}" if recorded is None else f"your function returns {got}"
            fault = f"not yet right. The check cannot read what it got: {what} "
            return Result("wrong", f"{called} {fault}({type(err).__name__}: {err}).", seed)
        return Result("correct", f"{called} correct.", seed)


check = Check()
