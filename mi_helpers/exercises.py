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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import torch


class CheckFailed(AssertionError):
    """A wrong answer was given to a check while ``MI_STRICT=1``."""


class Refused(Exception):
    """Raised inside a check: the answer is wrong, and the message says how."""


class NotDone(Exception):
    """Raised inside a check: the answer is still the stub."""


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


def run(answer: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the answer on inputs.

    Raises NotDone if it is the stub, and Refused if it is not a function, fails, returns nothing or
    changes an input in place.
    """
    if not callable(answer):
        raise Refused(f"Give the function itself to the check, not a {type(answer).__name__}.")
    inputs = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
    before = [item.clone() for item in inputs]
    try:
        got = answer(*args, **kwargs)
    except NotImplementedError:
        raise NotDone from None
    except Exception as err:
        shapes = ", ".join(str(tuple(item.shape)) for item in inputs)
        given = f" on inputs of shapes {shapes}" if inputs else ""
        raise Refused(f"Your function raises {type(err).__name__}{given}: {err}") from err
    if got is ...:
        raise NotDone
    if got is None:
        raise Refused("Your function returns nothing. Is the return statement missing?")
    if any(not torch.equal(old, new) for old, new in zip(before, inputs, strict=True)):
        raise Refused("Your function changes its input in place. Make a new tensor instead.")
    return got


def expect_type(got: Any, kind: type | tuple[type, ...], hint: str = "") -> None:
    """Refuse an answer that is not an instance of ``kind``."""
    if not isinstance(got, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(one.__name__ for one in kinds)
        raise Refused(f"Expected {names}, got {type(got).__name__}. {hint}".rstrip())


def expect_shape(got: Any, shape: tuple[int, ...], hint: str = "") -> None:
    """Refuse anything but a tensor of the given shape."""
    expect_type(got, torch.Tensor, hint)
    if tuple(got.shape) != tuple(shape):
        raise Refused(f"Expected shape {tuple(shape)}, got {tuple(got.shape)}. {hint}".rstrip())


def refuse_if(condition: bool, message: str) -> None:
    """Refuse with ``message`` if the condition is true."""
    if condition:
        raise Refused(message)


def close(got: Any, want: Any, atol: float = 1e-5, rtol: float = 1e-4) -> bool:
    """Whether two numbers or tensors have one shape and values equal within the tolerance."""
    a, b = (torch.as_tensor(item).detach().to("cpu", torch.float64) for item in (got, want))
    return a.shape == b.shape and torch.allclose(a, b, atol=atol, rtol=rtol)


def expect_close(
    got: Any,
    want: Any,
    mistakes: Mapping[str, Any] | None = None,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-4,
) -> None:
    """Refuse values that differ from ``want``.

    ``mistakes`` maps a diagnosis to the value that this mistake leads to on the same inputs; the
    first that matches is the message. A right answer is never refused, even where a mistake happens
    to give the same value.
    """
    if close(got, want, atol, rtol):
        return
    for message, wrong in (mistakes or {}).items():
        if close(got, wrong, atol, rtol):
            raise Refused(message)
    a, b = (torch.as_tensor(item).detach().to("cpu", torch.float64) for item in (got, want))
    if a.shape != b.shape:
        raise Refused(f"Expected shape {tuple(b.shape)}, got {tuple(a.shape)}.")
    if torch.isnan(a).any():
        raise Refused("Your result contains NaN.")
    raise Refused(f"The values differ by up to {(a - b).abs().max().item():.3g} on fresh inputs.")
