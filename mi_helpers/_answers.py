"""What the stages of a check are written with: call an answer, compare, refuse, diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Refused(Exception):
    """Raised inside a check: the answer is wrong, and the message says how."""


class NotDone(Exception):
    """Raised inside a check: the answer is still the stub."""


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
    a, b = _double(got), _double(want)
    return a.shape == b.shape and torch.allclose(a, b, atol=atol, rtol=rtol)


def _double(item: Any) -> torch.Tensor:
    return torch.as_tensor(item).detach().to("cpu", torch.float64)


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
    a, b = _double(got), _double(want)
    if a.shape != b.shape:
        raise Refused(f"Expected shape {tuple(b.shape)}, got {tuple(a.shape)}.")
    if torch.isnan(a).any():
        raise Refused("Your result contains NaN.")
    raise Refused(f"The values differ by up to {(a - b).abs().max().item():.3g} on fresh inputs.")
