"""Exercises: checks that say what is wrong with an answer, and the parts they are written with.

A check lives in ``mi_helpers/checks/nbNN.py`` and runs in stages: first type and shape, then each
usual mistake by name, then values, on inputs generated afresh::

    @exercise
    def residual_sum(answer, rng):
        parts = torch.randn(3, 5, 8, generator=rng)
        got = run(answer, parts)
        expect_shape(got, (5, 8), hint="sum over the parts, keep position and d_model")
        expect_close(got, parts.sum(0), mistakes={
            "You averaged over the parts. The stream is their sum.": parts.mean(0),
        })

In a notebook ``check.residual_sum(my_function)`` shows the outcome.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import torch

from mi_helpers._answers import (
    NotDone,
    Refused,
    close,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)

__all__ = [
    "Check",
    "CheckFailed",
    "Exercise",
    "NotDone",
    "Refused",
    "Result",
    "check",
    "close",
    "exercise",
    "expect_close",
    "expect_shape",
    "expect_type",
    "refuse_if",
    "run",
]


class CheckFailed(AssertionError):
    """A wrong answer was given to a check while ``MI_STRICT=1``."""


Stages = Callable[[Any, torch.Generator], None]


@dataclass(frozen=True)
class Exercise:
    """A named check; ``stages`` raises Refused or NotDone, or returns if the answer is right."""

    name: str
    stages: Stages


def exercise(stages: Stages) -> Exercise:
    """Make a check out of a function of (answer, rng), under the function's own name."""
    return Exercise(stages.__name__, stages)


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found; ``seed`` generates the same inputs again."""

    status: Literal["correct", "wrong", "not done"]
    message: str
    seed: int

    @property
    def ok(self) -> bool:
        """Whether the answer is right."""
        return self.status == "correct"

    def __repr__(self) -> str:
        return self.message

    def _repr_html_(self) -> str:
        colour = {"correct": "#1a7f37", "wrong": "#cf222e", "not done": "#6e7781"}[self.status]
        style = f"border-left:4px solid {colour};padding:2px 0 2px 10px;white-space:pre-wrap"
        return f'<div style="{style}">{escape(self.message)}</div>'


class Check:
    """All checks of a package, each an attribute: ``check.name(answer)``."""

    def __init__(self, package: str = "mi_helpers.checks") -> None:
        """Look for checks in the modules ``nbNN`` of ``package``, when one is first asked for."""
        self._package = package

    def _exercises(self) -> dict[str, Exercise]:
        package = importlib.import_module(self._package)
        found: dict[str, Exercise] = {}
        for info in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            for item in vars(importlib.import_module(info.name)).values():
                if not isinstance(item, Exercise):
                    continue
                if item.name in found or hasattr(Check, item.name):
                    raise ValueError(f"{info.name}: the name {item.name!r} is already taken")
                found[item.name] = item
        return found

    def _find(self, name: str) -> Exercise:
        exercises = self._exercises()
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

            result = self.result(name, answer)
            display(result)
            if result.status == "wrong" and os.environ.get("MI_STRICT") == "1":
                raise CheckFailed(f"{name} (seed {result.seed}): {result.message}")

        show.__name__ = name
        return show

    def result(self, name: str, answer: Any, *, seed: int | None = None) -> Result:
        """Check an answer without showing anything.

        A fresh ``seed`` is drawn if none is given, so that no two calls see the same inputs.
        Raises AttributeError, with near matches, if there is no such check.
        """
        stages = self._find(name).stages
        seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        try:
            if answer is None or answer is ...:
                raise NotDone
            stages(answer, torch.Generator().manual_seed(seed))
        except NotDone:
            return Result("not done", "Not done yet.", seed)
        except Refused as refusal:
            return Result("wrong", f"Not yet right. {refusal}", seed)
        return Result("correct", "Correct.", seed)


check = Check()
