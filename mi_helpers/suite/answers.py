"""What a check does with an answer: call it, and read whatever form the numbers came back in."""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import math
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PACKAGE = sys.modules[__name__.partition(".")[0]]
_OWN = str(Path(str(_PACKAGE.__file__)).parent)  # frames of this package are not the learner's
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class Refused(Exception):
    """Raised inside a check: the answer is wrong, and the message says how."""


class NotDone(Exception):
    """Raised inside a check: the answer is still the stub."""


# ------------------------------------------------------------------------------- calling an answer


class Recorded:
    """An answer that can be called: remembers what it returned, and fails with a verdict."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        """Wrap a function; its signature stays visible."""
        functools.update_wrapper(self, answer, updated=())
        self._answer = answer
        self.returned: Any = None
        self.called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; raises NotDone for a stub and Refused for any exception in it."""
        self.called, self.returned = True, None
        try:
            self.returned = self._answer(*args, **kwargs)
        except (Refused, NotDone):
            raise
        except Exception as err:
            if isinstance(err, NotImplementedError) and (
                not str(err) or "raise NotImplementedError" in _learners_line(err)[1]
            ):
                raise NotDone from None
            raise Refused(_raised(err, [*args, *kwargs.values()])) from err
        return self.returned


def _learners_line(err: BaseException) -> tuple[int, str]:
    """Number and text of the innermost line outside of this package and the libraries."""
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith((_OWN, *_LIBRARIES, "<frozen"))
    ]
    if not frames:
        return 0, ""
    last = frames[-1]
    number = last.lineno or 0
    return number, (last.line or linecache.getline(last.filename, number)).strip()


def _raised(err: Exception, args: Sequence[Any]) -> str:
    """What an answer raised, on what, and where in the learner's own text."""
    shapes = ", ".join(str(tuple(item.shape)) for item in args if isinstance(item, Tensor))
    given = f" on inputs of shapes {shapes}" if shapes else ""
    number, line = _learners_line(err)
    where = f"\nIt stops at line {number}: {line}" if line else ""
    return f"Your function raises {type(err).__name__}{given}: {err}{where}"


def run(answer: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the answer on inputs.

    Raises NotDone if it is the stub, and Refused if it is not a function, fails, returns nothing or
    changes an input in place, be it a tensor, an array, a list, a set or a dictionary of these.
    """
    if not callable(answer):
        raise Refused(
            f"Give the function itself to the check, without calling it, not {describe(answer)}."
        )
    recorded = answer if isinstance(answer, Recorded) else Recorded(answer)
    before = copy.deepcopy([item if _can_change(item) else None for item in args])
    before_named = copy.deepcopy({k: v for k, v in kwargs.items() if _can_change(v)})
    got = recorded(*args, **kwargs)
    if isinstance(got, EllipsisType):
        raise NotDone
    if got is None:
        raise Refused("Your function returns nothing. Is the return statement missing?")
    names = _parameters(answer)
    for number, (old, new) in enumerate(zip(before, args, strict=True)):
        if old is not None and not _same(old, new):
            name = f"`{names[number]}`" if number < len(names) else "its input"
            raise Refused(
                f"Your function changes its input in place: {name} is another after the call. "
                "Whoever called it loses what was there. Work on a copy."
            )
    for key, old in before_named.items():
        if not _same(old, kwargs[key]):
            raise Refused(f"Your function changes its input `{key}` in place. Work on a copy.")
    return got


def _parameters(answer: Callable[..., Any]) -> list[str]:
    """The names of a function's parameters, as far as they can be known."""
    try:
        return list(inspect.signature(answer).parameters)
    except (TypeError, ValueError):
        return []


def _can_change(item: Any) -> bool:
    """Whether an input is of a kind that an answer could change in place."""
    return isinstance(item, (Tensor, np.ndarray, list, set, dict)) and not (
        isinstance(item, list) and any(callable(part) for part in item)
    )


def _same(old: Any, new: Any) -> bool:
    """Whether two inputs are equal throughout."""
    if isinstance(old, Tensor):
        return isinstance(new, Tensor) and old.shape == new.shape and torch.equal(old, new)
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new)
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    if isinstance(old, (list, tuple)):
        return len(old) == len(new) and all(map(_same, old, new))
    return bool(old == new)


# ------------------------------------------------------------------------- reading what came back


def describe(got: Any) -> str:
    """What something is, in words: the type, and the shape or the value if it is short."""
    shape = getattr(got, "shape", None)
    if shape is not None and len(tuple(shape)):
        return f"a {type(got).__name__} of shape {tuple(shape)}"
    text = "" if callable(got) else short(repr(got))
    article = "an" if type(got).__name__[0] in "aeiou" else "a"
    return f"{article} {type(got).__name__}{f', {text}' if text else ''}"


def short(text: str, limit: int = 60) -> str:
    """A text on one line, cut off where it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def as_tensor(got: Any, hint: str = "") -> Tensor:
    """The numbers that an answer returned, as a tensor on the CPU without gradients.

    Takes tensors, NumPy arrays and numbers, whatever else becomes an array, and lists of these.
    Raises Refused, with the hint, if these are no numbers or do not fit together.
    """
    tensor = numbers_of(got)
    if tensor is None:
        raise Refused(f"Expected numbers, got {describe(got)}. {hint}".rstrip())
    if tensor.is_complex():
        raise Refused(f"Expected real numbers, got complex ones. {hint}".rstrip())
    return tensor


def numbers_of(got: Any) -> Tensor | None:
    """The tensor that something is, or None."""
    if isinstance(got, Tensor):
        return (got.to_dense() if got.layout != torch.strided else got).detach().cpu()
    if isinstance(got, (list, tuple)):
        if (array := _plain(got)) is not None:
            return torch.from_numpy(array)
        parts = [numbers_of(item) for item in got]
        tensors = [part for part in parts if part is not None]
        if len(tensors) != len(parts) or len({part.shape for part in tensors}) > 1:
            return None
        if not tensors:
            return torch.zeros(0)
        alike = len({part.dtype for part in tensors}) == 1
        return torch.stack(tensors if alike else [part.double() for part in tensors])
    if isinstance(got, (bool, int, float, complex, np.generic)) or hasattr(got, "__array__"):
        array = np.asarray(got)
        if array.dtype.kind == "O" and not isinstance(got, int):
            array = _from_objects(array)
        wanted = {"b": "bool", "i": "int64", "u": "int64", "O": "float64", "c": "complex128"}
        if array.dtype.kind not in "biufcO":
            return None
        if array.dtype.kind == "f":
            return torch.from_numpy(np.array(array, dtype=_float_type(array.dtype)))
        return torch.from_numpy(np.array(array, dtype=wanted[array.dtype.kind]))
    return None


def _plain(got: Sequence[Any]) -> np.ndarray | None:
    """The array that nested lists of Python numbers make, or None."""
    leaf: Any = got
    while isinstance(leaf, (list, tuple)) and len(leaf):
        leaf = leaf[0]
    if not isinstance(leaf, (bool, int, float)):
        return None
    try:
        array = np.asarray(got)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype in ("bool", "int64", "float64") else None


def _from_objects(array: np.ndarray) -> np.ndarray:
    """An array of Python objects as one of floats, or as one of text when it holds no numbers."""
    try:
        return array.astype("float64")
    except (TypeError, ValueError):
        return array.astype("str")


def _float_type(kind: np.dtype) -> str:
    return str(kind) if kind in ("float16", "float32") else "float64"


def expect_type(got: Any, kind: type | tuple[type, ...], hint: str = "") -> None:
    """Refuse an answer that is not an instance of `kind`."""
    if not isinstance(got, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(one.__name__ for one in kinds)
        raise Refused(f"Expected {names}, got {describe(got)}. {hint}".rstrip())


def expect_shape(got: Any, shape: tuple[int, ...], hint: str = "") -> Tensor:
    """The answer as a tensor of the given shape; refuses anything that is none.

    One number may come as a float, or in a tensor, array or list of one element.
    """
    tensor = as_tensor(got, hint)
    if not shape and tensor.numel() == 1:
        return tensor.reshape(())
    if tuple(tensor.shape) != tuple(shape):
        raise Refused(
            f"Expected {shape_in_words(shape)}, got {shape_in_words(tensor.shape)}. {hint}".rstrip()
        )
    return tensor


def shape_in_words(shape: Sequence[int]) -> str:
    """A shape for a message; without axes it is one number."""
    return f"shape {tuple(shape)}" if len(shape) else "one number"


def expect_number(got: Any, hint: str = "Return one number.") -> float:
    """The answer as a float; takes whatever holds exactly one number."""
    return float(expect_shape(got, (), hint))


def expect_integer(got: Any, hint: str = "Return one whole number.") -> int:
    """The answer as an int; takes ints, whole floats, NumPy integers and one-element tensors."""
    tensor = expect_shape(got, (), hint)
    value = float(tensor)
    if tensor.dtype == torch.bool or not math.isfinite(value) or value != round(value):
        raise Refused(f"Expected a whole number, got {describe(got)}. {hint}".rstrip())
    return round(value)


def expect_parts(got: Any, count: int, hint: str) -> list[Any]:
    """The answer as a list of so many things, from a tuple, a list, a tensor or an array."""
    if not isinstance(got, (tuple, list, Tensor, np.ndarray)) or (
        isinstance(got, (Tensor, np.ndarray)) and not got.ndim
    ):
        raise Refused(f"Expected {count} things, got {describe(got)}. {hint}".rstrip())
    if len(got) != count:
        found = describe(got) if isinstance(got, (Tensor, np.ndarray)) else str(len(got))
        raise Refused(f"Expected {count} things, got {found}. {hint}".rstrip())
    return list(got)


def refuse_if(condition: bool, message: str) -> None:
    """Refuse with `message` if the condition is true."""
    if condition:
        raise Refused(message)
