"""Hooks that count their firings, know absolute positions, and are gone when the `with` ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.steering.vectors import require_layer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Stream = Float[Tensor, "batch pos d_model"]
Edit = Callable[[Stream, Int[Tensor, " pos"]], Stream]
"""New activations from old ones and their absolute positions."""
Positions = Sequence[int] | slice | None


class NothingHappened(RuntimeError):
    """An intervention was left without having changed a single activation."""


@dataclass
class Firings:
    """How often an intervention acted: forward passes by hook, and positions changed in all."""

    by_hook: dict[str, int] = field(default_factory=dict)
    positions: int = 0

    @property
    def count(self) -> int:
        """Number of times that a hook changed something."""
        return sum(self.by_hook.values())


@contextmanager
def intervene(
    model: TransformerBridge,
    edits: dict[str, Edit],
    positions: Positions,
) -> Iterator[Firings]:
    """Run `edits` at their hooks: functions of the activations and their absolute positions."""
    for name in edits:
        if name not in model.hook_dict:
            require_layer(model, int(name.split(".")[1]) if name.startswith("blocks.") else 0)
            raise ValueError(f"this model has no hook {name!r}")
    fired, seen = Firings(dict.fromkeys(edits, 0)), _Seen()

    def hook_for(name: str, edit: Edit) -> Callable[..., Stream]:
        def act(acts: Stream, hook: Any) -> Stream:
            where = seen.first + torch.arange(acts.shape[1], device=acts.device)
            chosen = _chosen(positions, seen.first, acts.shape[1]).to(acts.device)
            if not chosen.any():
                return acts
            fired.by_hook[name] += 1
            fired.positions += int(chosen.sum())
            if chosen.all():
                return edit(acts, where)
            new = acts.clone()
            new[:, chosen] = edit(acts[:, chosen], where[chosen])
            return new

        return act

    hooks = [(name, hook_for(name, edit)) for name, edit in edits.items()]
    with model.hooks(fwd_hooks=hooks), seen.watching(model):
        yield fired
    if silent := [name for name, count in fired.by_hook.items() if not count]:
        raise NothingHappened(
            f"nothing was changed at {', '.join(silent)}: run the model inside the with, at the "
            f"positions {positions if positions is not None else 'given'}"
        )


class _Seen:
    """How many tokens the key/value cache holds already, so that positions stay absolute."""

    def __init__(self) -> None:
        self.first = 0

    @contextmanager
    def watching(self, model: TransformerBridge) -> Iterator[None]:
        """Learn the number before each forward pass of the wrapped model."""

        def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            cache = kwargs.get("past_key_values")
            self.first = int(cache.get_seq_length()) if cache is not None else 0

        handle = model.original_model.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _chosen(positions: Positions, first: int, n_pos: int) -> Tensor:
    """Which of the positions first … first + n_pos - 1 are meant."""
    chosen = torch.zeros(first + n_pos, dtype=torch.bool)
    if positions is None:
        chosen[:] = True
    elif isinstance(positions, slice):
        if min(positions.start or 0, positions.stop or 0) < 0:
            raise ValueError(f"a slice counts from the start of the text, not {positions}")
        chosen[positions] = True
    else:
        if first == 0 and (outside := [p for p in positions if not -n_pos <= p < n_pos]):
            raise ValueError(f"positions {outside} are outside the prompt of {n_pos} tokens")
        if first == 0:
            chosen[list(positions)] = True
    return chosen[first:]
