"""Virtual attention heads: two heads in a row, acting as one.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section "Virtual
Attention Heads".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.heads.weights import ov_circuit, with_one
from mi_helpers.interventions import Edit, intervene, replace
from mi_helpers.models.parts import require_plain_writes
from mi_helpers.sites import Head, Place, norm_hooks, read, require_head, require_tokens


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

    Args:
        model: Any model that `load_model` gives.
        tokens: The prompts.
        first: The head that reads the source.
        second: The head, in a later layer, that reads what the first writes.

    Raises:
        ValueError: A head that does not exist, a second that is not in a later layer, or a model
            that normalises what heads write before adding it.
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
    `virtual_head` must predict.

    Args:
        model: Any model that `load_model` gives.
        tokens: The prompts.
        first: As in `virtual_head`.
        second: As in `virtual_head`.

    Raises:
        ValueError: As `virtual_head`.
    """
    run = _run_path(model, tokens, first, second)
    layer, index = second
    written = run.early_z @ model.W_O[first]

    def hold_pattern(pattern: Tensor, where: Tensor) -> Tensor:
        pattern = pattern.clone()
        pattern[:, :, index] = run.late_pattern
        return pattern

    edits: dict[Place | str, Edit] = {
        ("resid_pre", layer): lambda stream, where: stream - written,
        norm_hooks(layer)[0]: replace(run.scale),
        ("pattern", layer): hold_pattern,
    }
    z_place = ("z", layer)
    with intervene(model, edits):
        z = read(model, tokens, [z_place])[z_place]
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
    require_tokens(tokens)
    require_plain_writes(model)
    (early, i), (late, j) = require_head(model, first), require_head(model, second)
    if early >= late:
        raise ValueError(
            f"{Head(*second)} cannot read what {Head(*first)} writes: "
            "the second head must be in a later layer"
        )
    source, scale = norm_hooks(early)[1], norm_hooks(late)[0]
    both: list[Place] = [(site, i) for i in (early, late) for site in ("pattern", "z")]
    cache = read(model, tokens, [source, scale, *both])
    return _PathRun(
        source=cache[source],
        scale=cache[scale],
        early_pattern=cache[both[0]][:, :, i],
        late_pattern=cache[both[2]][:, :, j],
        early_z=cache[both[1]][:, :, i],
        late_z=cache[both[3]][:, :, j],
    )
