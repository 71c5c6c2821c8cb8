"""One run of the model, kept to what is written to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.models.parts import adds_positions, require_plain_writes
from mi_helpers.sites import Place, read


@dataclass(frozen=True)
class Writes:
    """What was written to the stream at some positions, heads still before W_O."""

    embed: Float[Tensor, "batch pos d_model"]
    pos: Float[Tensor, "batch pos d_model"]
    z: list[Float[Tensor, "batch pos head d_head"]]
    mlp_out: list[Float[Tensor, "batch pos d_model"]]
    stream: Float[Tensor, "batch pos d_model"]


def writes_to_stream(model: TransformerBridge, tokens: Tensor, positions: Sequence[int]) -> Writes:
    """Run the model once, keeping only these positions.

    Raises:
        ValueError: As `sites.read`, or a model whose sub-layers do not add what they write.
    """
    require_plain_writes(model)
    layers = range(model.cfg.n_layers)
    heads: list[Place] = [("z", layer) for layer in layers]
    mlps: list[Place] = [("mlp_out", layer) for layer in layers]
    last = ("resid_post", layers[-1])
    starts = ["hook_embed", *(["hook_pos_embed"] if adds_positions(model) else [])]
    cache = read(model, tokens, [*starts, *heads, *mlps, last], positions=positions)
    stream = cache[last]
    zero = torch.zeros_like(stream)
    return Writes(
        embed=cache["hook_embed"],
        pos=zero + cache["hook_pos_embed"] if adds_positions(model) else zero,
        z=[cache[place] for place in heads],
        mlp_out=[cache[place] for place in mlps],
        stream=stream,
    )


def require_sum(total: Tensor, whole: Tensor, model: TransformerBridge) -> None:
    """Raise ValueError where the parts do not sum to the whole, within rounding."""
    error = (total - whole).abs().max()
    if error > 1e-3 * (1 + whole.abs().max()):
        raise ValueError(
            f"embedding, heads and MLPs miss the final stream of {model.cfg.model_name} by "
            f"{error:.3g}: this architecture changes what they write before adding it"
        )
