"""How a check compares an answer with the right one: mistakes by name, then a counter-example."""

from __future__ import annotations

import copy
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_helpers.suite.answers import (
    Refused,
    as_tensor,
    expect_parts,
    expect_shape,
    numbers_of,
    run,
    shape_in_words,
    short,
)

_SHOWN = 24  # an input with more entries than this is not written out


def close(got: Any, want: Any, atol: float = 1e-5, rtol: float = 1e-4) -> bool:
    """Whether two numbers or tensors have one shape and values equal within the tolerance.

    What was computed in half precision is compared as closely as that precision allows.
    """
    a, b = as_tensor(got), as_tensor(want)
    if a.shape != b.shape:
        return False
    if a.dtype in (torch.float16, torch.bfloat16) and b.numel():
        atol = max(atol, 4 * torch.finfo(a.dtype).eps * float(b.double().abs().max()))
    return torch.allclose(a.double(), b.double(), atol=atol, rtol=rtol)


def expect_close(
    got: Any,
    want: Any,
    mistakes: Mapping[str, Any] | None = None,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-4,
    example: Callable[[], str] | str = "",
) -> None:
    """Refuse values that differ from `want`.

    `mistakes` maps a diagnosis to the value that this mistake leads to on the same inputs; the
    first that matches is the message. A right answer is never refused, even where a mistake happens
    to give the same value. Then come mistakes of any function: the sign, the order, a factor, one
    of those named together with such a one. What none of these explains is shown: the smallest
    counter-example if `example` gives one, or the place where it differs most.
    """
    a, b = as_tensor(got), as_tensor(want)
    if close(a, b, atol, rtol):
        return
    for message, wrong in (mistakes or {}).items():
        if close(a, wrong, atol, rtol):
            raise Refused(message)
    if a.shape != b.shape:
        raise Refused(f"Expected {shape_in_words(b.shape)}, got {shape_in_words(a.shape)}.")
    if torch.isnan(a.double()).any():
        raise Refused(
            "Your result contains NaN. Where do you divide by zero, take a root, or the mean of "
            "nothing?"
        )
    for message, wrong in _common(b, mistakes or {}):
        if close(a, wrong, atol, rtol):
            raise Refused(message)
    shown = example if isinstance(example, str) else example()
    raise Refused(_uniform(a, b, atol, rtol) + (shown or _furthest(a, b, atol, rtol)))


def _common(want: Tensor, mistakes: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Mistakes that any function may have, alone and on top of one that is named."""
    for twist, how in _TWISTS.items():
        for value in how(want):
            yield twist, value
    for message, wrong in mistakes.items():
        for twist, how in _TWISTS.items():
            for value in how(as_tensor(wrong)):
                yield f"Two things at once. {message} Then: {twist}", value


def _signs(values: Tensor) -> list[Tensor]:
    return [-values.double()] if values.dtype != torch.bool else [~values]


def _transposes(values: Tensor) -> list[Tensor]:
    square = values.ndim > 1 and values.shape[-1] == values.shape[-2]
    return [values.mT] if square else []


def _flips(values: Tensor) -> list[Tensor]:
    return [values.flip(0)] if values.ndim and len(values) > 1 else []


_TWISTS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "The sign is reversed.": _signs,
    "Rows and columns are exchanged.": _transposes,
    "The order is reversed: the last comes first.": _flips,
}


def _uniform(got: Tensor, want: Tensor, atol: float, rtol: float) -> str:
    """What is the same about all values: one number, a factor, a shift."""
    a, b = got.double().flatten(), want.double().flatten()
    if len(a) < 2:
        return ""
    if bool((a == a[0]).all()):
        return f"All your values are {float(a[0]):.4g}, whatever the input. "
    scale = float((a @ b) / (b @ b)) if float(b @ b) else 0.0
    if abs(scale) > 1e-3 and torch.allclose(a, scale * b, atol=atol, rtol=rtol):
        return f"All your values are {scale:.4g} times what they should be. "
    shift = float((a - b).mean())
    if torch.allclose(a, b + shift, atol=atol, rtol=rtol):
        return f"All your values differ from what they should be by {shift:+.4g}. "
    return ""


def _furthest(got: Tensor, want: Tensor, atol: float, rtol: float) -> str:
    """The place where two tensors of one shape differ most."""
    a, b = got.double(), want.double()
    if not a.ndim:
        return f"Expected {float(b):.6g}, got {float(a):.6g}."
    off = ~torch.isclose(a, b, atol=atol, rtol=rtol)
    worst = int(((a - b).abs().nan_to_num(posinf=1e300) * off).argmax())
    place = [int(i) for i in np.unravel_index(worst, tuple(a.shape))]
    return (
        f"At {place} expected {_value(b.flatten()[worst])}, got {_value(a.flatten()[worst])}; "
        f"{int(off.sum())} of {off.numel()} values are wrong."
    )


def _value(value: Tensor) -> str:
    return f"{float(value):.4g}"


# ------------------------------------------------------------------------------- counter-examples


def compare(
    answer: Any,
    right: Callable[..., Any],
    inputs: Mapping[str, Any],
    mistakes: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    hint: str | Sequence[str] = "",
    atol: float = 1e-5,
    rtol: float = 1e-4,
) -> None:
    """Call an answer and the right function on the same inputs, and refuse what differs.

    Args:
        answer: The learner's function.
        right: The function to be written: of the same arguments, to a tensor or a tuple of tensors.
        inputs: Each input under its name, with its axes in brackets where it has some:
            `{"z [pos d_head]": z, "head": 2}`. What has axes can be cut smaller for an example.
        mistakes: As for `expect_close`; a sequence, one for each tensor, if there is a tuple.
        hint: What a wrong shape should be told; a sequence, one for each tensor, for a tuple, and
            one more at its end for whoever returns another number of things.
        atol: Absolute tolerance.
        rtol: Relative tolerance.

    Raises:
        Refused: with the mistake found, or with the smallest counter-example that was found.
        NotDone: for a stub.
    """
    values = list(inputs.values())
    want = right(*values)
    got = run(answer, *values)
    parts: Sequence[tuple[Any, Any, Mapping[str, Any], str]]
    if isinstance(want, tuple):
        hints = [hint] * len(want) if isinstance(hint, str) else list(hint)
        assert not isinstance(mistakes, Mapping)
        named = list(mistakes) if mistakes else [dict[str, Any]() for _ in want]
        found = expect_parts(got, len(want), hints[-1])
        parts = list(zip(found, want, named, hints, strict=False))
    else:
        assert isinstance(hint, str) and not isinstance(mistakes, Sequence)
        parts = [(got, want, mistakes or {}, hint)]
    read = [expect_shape(one, tuple(as_tensor(two).shape), told) for one, two, _, told in parts]
    example = functools.partial(smallest, answer, right, inputs, atol=atol, rtol=rtol)
    for one, (_, two, wrong, _) in zip(read, parts, strict=True):
        expect_close(one, two, wrong, atol=atol, rtol=rtol, example=example)


def smallest(
    answer: Any,
    right: Callable[..., Any],
    inputs: Mapping[str, Any],
    *,
    atol: float = 1e-5,
    rtol: float = 1e-4,
) -> str:
    """The smallest inputs found on which an answer differs, with both values; "" if too large.

    Axis after axis is cut as short as it goes, then the numbers are rounded, as long as the answer
    still differs from the right one.
    """

    def differs(values: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]] | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of means and variances of one number
                want = _all_numbers(right(*copy.deepcopy(list(values))))
                got = _all_numbers(answer(*copy.deepcopy(list(values))))
        except Exception:
            return None
        if got is None or want is None or [g.shape for g in got] != [w.shape for w in want]:
            return None
        finite = all(bool(w.double().isfinite().all()) for w in (*want, *got))
        wrong = not all(close(g, w, atol, rtol) for g, w in zip(got, want, strict=True))
        return (got, want) if finite and wrong else None

    names = [re.sub(r"\s*\[.*", "", key) for key in inputs]
    axes = [re.findall(r"[^\s\[\]]+", key.partition("[")[2]) for key in inputs]
    values = list(inputs.values())
    for axis, size in itertools.product(dict.fromkeys(itertools.chain(*axes)), (1, 2, 3)):
        cut = [_cut(v, names_, axis, size) for v, names_ in zip(values, axes, strict=True)]
        smaller = any(
            isinstance(v, Tensor) and v.shape != c.shape for v, c in zip(values, cut, strict=True)
        )
        if smaller and differs(cut):
            values = cut
    for digits in (0, 1):
        rounded = [_rounded(value, digits) for value in values]
        if differs(rounded):
            values = rounded
            break
    found = differs(values)
    if not found or any(_entries(value) > _SHOWN for value in values):
        return ""
    return _written_out(names, values, *found)


def _written_out(
    names: Sequence[str], values: Sequence[Any], got: list[Tensor], want: list[Tensor]
) -> str:
    """An example's inputs, and what was expected beside what came."""
    lines = [f"{name} = {show(value)}" for name, value in zip(names, values, strict=True)]
    if len(want) == 1 and want[0].dtype == torch.bool and want[0].ndim > 1:
        lines += side_by_side(want[0], got[0])
    else:
        lines += [f"expected: {', '.join(map(show, want))}"]
        lines += [f"yours:    {', '.join(map(show, got))}"]
    return "\n".join(["A small example:", *lines])


def _entries(value: Any) -> int:
    """How many numbers an input holds."""
    if isinstance(value, Tensor):
        return value.numel()
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(_entries, parts)) if isinstance(value, (dict, list, tuple, set)) else 1


def side_by_side(want: Tensor, got: Tensor) -> list[str]:
    """Two tables of True and False beside each other, as lines of text."""
    tables = [(t != 0).reshape(-1, t.shape[-1]).tolist() for t in (want, got)]
    drawn = [[" ".join(".#"[cell] for cell in row) for row in table] for table in tables]
    width = max(len("expected"), *(len(row) for row in drawn[0])) + 4
    head = f"{'expected':<{width}}yours"
    return [head, *(f"{a:<{width}}{b}" for a, b in zip(*drawn, strict=True))]


def _all_numbers(got: Any) -> list[Tensor] | None:
    """The tensors of an answer: of each of its parts if it is a tuple."""
    parts = [numbers_of(item) for item in (got if isinstance(got, tuple) else (got,))]
    found = [part for part in parts if part is not None and not part.is_complex()]
    return found if len(found) == len(parts) else None


def _cut(value: Any, axes: Sequence[str], axis: str, size: int) -> Any:
    """A tensor with every axis of one name cut to a size."""
    if not isinstance(value, Tensor) or len(axes) != value.ndim:
        return value
    at = tuple(slice(0, size) if name == axis != "_" else slice(None) for name in axes)
    return value[at].clone()


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.round(decimals=digits)
    return value


def show(value: Any) -> str:
    """An input or an output, written as short as can be read."""
    if isinstance(value, Tensor):
        return show(value.tolist())
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # no minus before a zero
    return short(repr(value), 200) if not callable(value) else getattr(value, "__name__", "f")
