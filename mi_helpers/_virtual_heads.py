"""Virtual attention heads: two heads in a row, acting as one.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section "Virtual
Attention Heads".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers._circuits import Head, head_name, ov_circuit, require_head, with_one
from mi_helpers._stream import require_tokens


@dataclass(frozen=True)
class VirtualHead:
    """Two heads in a row as one: attention A₂A₁ and weights W_OV₁ W_OV₂."""

    pattern: Float[Tensor, "batch query source"]
    """How much of each source reaches a query through both heads, LayerNorm's division included."""
    ov: Float[Tensor, "d_model_plus_1 d_model"]
    output: Float[Tensor, "batch query d_model"]
    """What the virtual head adds to the residual stream."""


@torch.no_grad()
def virtual_head(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], first: Head, second: Head
) -> VirtualHead:
    """The path source → `first` → `second` as one head, on these tokens.

    Between the two stands the second layer's LayerNorm. Its scale σ, frozen at its value in this
    run, belongs to a position, so it goes into the pattern: A₂ diag(1/σ) A₁. The output is
    pattern @ with_one(normalised source) @ W_OV₁ @ W_OV₂.

    Raises:
        ValueError: a head that does not exist, or a second that is not in a later layer.
    """
    run = _run_path(model, tokens, first, second)
    pattern = run.late_pattern @ (run.early_pattern / run.scale)
    ov = ov_circuit(model, first) @ ov_circuit(model, second)[:-1]
    return VirtualHead(pattern, ov, pattern @ with_one(run.source) @ ov)


@torch.no_grad()
def isolated_path(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], first: Head, second: Head
) -> Float[Tensor, "batch query d_model"]:
    """What the second head writes because of the first's direct output, found by intervention.

    The model runs again with the first head's output taken out of the second layer's input, while
    that layer's LayerNorm scale and the second head's pattern keep the values they had. How much
    the second head's output falls short of the normal one is the effect of the path, and what
    `virtual_head` must predict. Raises as `virtual_head` does, and RuntimeError if a hook is idle.
    """
    run = _run_path(model, tokens, first, second)
    layer, index = second
    fired: list[str] = []

    def remove(stream: Tensor, hook: Any) -> Tensor:
        fired.append("stream")
        return stream - run.early_z @ model.W_O[first]

    def hold_scale(scale: Tensor, hook: Any) -> Tensor:
        fired.append("scale")
        return run.scale

    def hold_pattern(pattern: Tensor, hook: Any) -> Tensor:
        fired.append("pattern")
        pattern = pattern.clone()
        pattern[:, index] = run.late_pattern
        return pattern

    name = f"blocks.{layer}"
    hooks = [
        (f"{name}.hook_resid_pre", remove),
        (f"{name}.ln1.hook_scale", hold_scale),
        (f"{name}.attn.hook_pattern", hold_pattern),
    ]
    z_name = f"{name}.attn.hook_z"
    with model.hooks(fwd_hooks=hooks):
        z = model.run_with_cache(tokens, names_filter=z_name, return_type=None)[1][z_name]
    if fired != ["stream", "scale", "pattern"]:
        raise RuntimeError(f"the path was not isolated: of its three hooks only {fired} ran")
    return (run.late_z - z[:, :, index]) @ model.W_O[layer, index]


@dataclass(frozen=True)
class _PathRun:
    """What one normal run holds of two heads, the first "early" and the second "late"."""

    source: Float[Tensor, "batch pos d_model"]
    scale: Float[Tensor, "batch pos 1"]
    early_pattern: Float[Tensor, "batch query key"]
    late_pattern: Float[Tensor, "batch query key"]
    early_z: Float[Tensor, "batch pos d_head"]
    late_z: Float[Tensor, "batch pos d_head"]


def _run_path(model: TransformerBridge, tokens: Tensor, first: Head, second: Head) -> _PathRun:
    """Run the model once and keep what the path from `first` to `second` consists of."""
    require_tokens(tokens, [])
    (early, i), (late, j) = require_head(model, first), require_head(model, second)
    if early >= late:
        raise ValueError(
            f"{head_name(second)} cannot read what {head_name(first)} writes: "
            "the second head must be in a later layer"
        )
    e, n = f"blocks.{early}", f"blocks.{late}"
    source, scale = f"{e}.ln1.hook_normalized", f"{n}.ln1.hook_scale"
    names = [f"{block}.attn.{hook}" for block in (e, n) for hook in ("hook_pattern", "hook_z")]
    cache = model.run_with_cache(tokens, names_filter=[source, scale, *names], return_type=None)[1]
    return _PathRun(
        source=cache[source],
        scale=cache[scale],
        early_pattern=cache[names[0]][:, i],
        late_pattern=cache[names[2]][:, j],
        early_z=cache[names[1]][:, :, i],
        late_z=cache[names[3]][:, :, j],
    )
