"""What a value, or the state of a process, is recognised by: to tell two runs apart."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

LOOKED_INTO = {"mi_helpers", "mi_data", "__main__", "transformer_lens"}
CLOSE = 1e-6  # the part of a number that may be rounded otherwise
Mark = tuple[str, list[float]]


class Marks:
    """Texts that tell values from each other, and beside them the numbers that may be rounded.

    Of objects from elsewhere than LOOKED_INTO, as of functions, only the name is known.
    """

    def __init__(self) -> None:
        """Start without numbers."""
        self.numbers: list[float] = []

    def of(self, value: Any, seen: tuple[int, ...] = ()) -> str:
        """A text of a value; its numbers but whole ones are added to `numbers`."""
        if id(value) in seen or len(seen) > 12:
            return "..."
        inside = (*seen, id(value))
        kind = type(value).__name__
        if isinstance(value, torch.nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            return f"{kind} {self.of(state, inside)} {value.training} {hooks(value)}"
        if isinstance(value, torch.Generator):
            return self.array(value.get_state().numpy())
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().resolve_conj()
            flat = flat.float() if flat.dtype == torch.bfloat16 else flat
            return f"{value.dtype} {value.requires_grad} {self.array(flat.numpy())}"
        if isinstance(value, np.ndarray) and value.dtype != object:
            return self.array(value)
        if isinstance(value, (float, np.floating)) and math.isfinite(value):
            self.numbers.append(float(value))
            return kind
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
            return f"{kind} {value!r}"
        if isinstance(value, Mapping):
            lasting = {k: v for k, v in value.items() if k != "seconds"}  # a clock's
            parts = [f"{self.of(k, inside)}: {self.of(v, inside)}" for k, v in lasting.items()]
            return f"{kind} {{{', '.join(parts)}}}"
        if isinstance(value, (list, tuple, np.ndarray)):
            return f"{kind} [{', '.join(self.of(v, inside) for v in value)}]"
        if isinstance(value, (set, frozenset)):
            return f"{kind} {sorted(self.of(v, inside) for v in value)}"
        if type(value).__module__.split(".")[0] in LOOKED_INTO and hasattr(value, "__dict__"):
            return f"{kind} {self.of(attributes(value), inside)}"
        return f"{kind} {getattr(value, '__qualname__', getattr(value, '__name__', ''))}"

    def array(self, values: Any) -> str:
        """Of floats the length and the part along one direction; of others a checksum."""
        told = f"{values.dtype} {values.shape}"
        if values.dtype.kind not in "fc":
            data = np.ascontiguousarray(values)
            return f"{told} {hashlib.blake2b(data, digest_size=8).hexdigest() if data.size else ''}"
        parts = [values.real, values.imag] if values.dtype.kind == "c" else [values]
        wide = np.concatenate([part.ravel() for part in parts]).astype(np.float64)
        finite = np.isfinite(wide)
        wide[~finite] = 0.0
        rows = np.pad(wide, (0, -wide.size % 997)).reshape(-1, 997)
        length = float(np.linalg.norm(wide))
        along = np.cos(0.7 * np.arange(len(rows))) @ (rows @ np.cos(1.3 * np.arange(997)))
        size = max(1, wide.size) ** 0.5  # by which the second number is at least `length`
        self.numbers += [length, 2 * length + float(along) / size]
        return f"{told} {int(finite.sum())}"


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, without those that its equality leaves out or that are only kept."""
    apart = {one.name for one in fields(value) if not one.compare} if is_dataclass(value) else set()
    return {
        name: one
        for name, one in vars(value).items()
        if name not in apart and not isinstance(getattr(type(value), name, None), cached_property)
    }


def mark(value: Any) -> Mark:
    """What a value is recognised by: a checksum of its text, and its numbers."""
    marks = Marks()
    text = marks.of(value)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), marks.numbers


def alike(one: Mark, other: Mark) -> bool:
    """Whether two marks differ by no more than rounding does."""
    (text, numbers), (other_text, others) = one, other
    close = len(numbers) == len(others) and all(
        math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-9)
        for a, b in zip(numbers, others, strict=True)
    )
    return text == other_text and close


def hooks(module: Any) -> int:
    """How many hooks PyTorch holds for a module and all below it."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def world() -> dict[str, str]:
    """A text for each thing that a cell can change without a name of the notebook showing it."""
    return {
        "torch's random numbers": mark(torch.get_rng_state())[0],
        "numpy's random numbers": mark(np.random.get_state())[0],
        "Python's random numbers": mark(random.getstate())[0],
        "whether gradients are recorded": str(torch.is_grad_enabled()),
        "inference mode": str(torch.is_inference_mode_enabled()),
        "the default dtype": str(torch.get_default_dtype()),
        "torch's threads": str(torch.get_num_threads()),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "the working folder": os.getcwd(),
        "the environment": mark(dict(os.environ))[0],
    }
