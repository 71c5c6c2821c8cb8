"""For libraries that name "cuda" throughout: inside, what they ask for on it comes on the CPU."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode


class OnTheCpu(TorchFunctionMode):
    """In force as a context."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args = tuple("cpu" if isinstance(x, str) and x == "cuda" else x for x in args)
        more = {n: "cpu" if x == "cuda" else x for n, x in (kwargs or {}).items() if n == "device"}
        return func(*args, **{**(kwargs or {}), **more})
