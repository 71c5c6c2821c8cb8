"""Take attention heads out of a run, and make sure that it happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers._circuits import Head, head_name, require_head
from mi_helpers._stream import require_tokens


@dataclass
class Firings:
    """How often the hooks of an intervention have run."""

    count: int = 0


@contextmanager
def ablate(
    model: TransformerBridge,
    heads: Sequence[Head],
    *,
    reference: Int[Tensor, "batch pos"] | None = None,
    positions: Sequence[int] | None = None,
) -> Iterator[Firings]:
    """Within the block, these heads write a constant: zero, or their mean on `reference` tokens.

    Replaces each head's `hook_z` at every position, or only at `positions` (-1 is the last); the
    mean is over the sequences and positions of `reference`. Zero-ablation depends on where the
    origin lies, which weight processing moves; mean-ablation does not. Yields the count of hooks
    that fired.

    Raises:
        ValueError: no head, one that the model does not have, or no position.
        IndexError: when the model runs, a position outside its tokens.
        RuntimeError: at the end of the block, if the ablation was never applied.
    """
    if not heads:
        raise ValueError("no head to ablate: give at least one (layer, head)")
    if positions is not None and not len(positions):
        raise ValueError("no position to ablate at: give at least one, or None for all")
    layers: dict[int, list[int]] = {}
    for head in heads:
        layer, index = require_head(model, head)
        layers.setdefault(layer, []).append(index)
    means = None if reference is None else _mean_z(model, reference, sorted(layers))
    where = slice(None) if positions is None else torch.tensor(positions)[:, None]
    firings = Firings()

    def replace(z: Tensor, hook: Any, *, layer: int) -> Tensor:
        firings.count += 1
        z, heads_here = z.clone(), layers[layer]
        value = 0.0 if means is None else means[layer][heads_here].to(z)
        z[:, where, heads_here] = value
        return z

    hooks = [(f"blocks.{i}.attn.hook_z", partial(replace, layer=i)) for i in layers]
    with model.hooks(fwd_hooks=hooks):
        yield firings
    if not firings.count:
        names = ", ".join(head_name(head) for head in heads)
        raise RuntimeError(f"{names}: the ablation never ran; run the model inside the block")


@torch.no_grad()
def _mean_z(
    model: TransformerBridge, tokens: Tensor, layers: Sequence[int]
) -> dict[int, Float[Tensor, "head d_head"]]:
    """The mean output of every head before W_O, over all sequences and positions."""
    require_tokens(tokens, [])
    names = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    cache = model.run_with_cache(tokens, names_filter=names)[1]
    return {layer: cache[name].mean((0, 1)) for layer, name in zip(layers, names, strict=True)}
