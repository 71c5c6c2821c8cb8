"""One run of the model, kept to what is written to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Writes:
    """What was written to the stream at some positions, heads still before W_O."""

    embed: Float[Tensor, "batch pos d_model"]
    pos: Float[Tensor, "batch pos d_model"]
    z: list[Float[Tensor, "batch pos head d_head"]]
    mlp_out: list[Float[Tensor, "batch pos d_model"]]
    stream: Float[Tensor, "batch pos d_model"]


def writes_to_stream(model: TransformerBridge, tokens: Tensor, positions: Sequence[int]) -> Writes:
    """Run the model once, keeping only these positions, and logits of the last one alone."""
    require_tokens(tokens, positions)
    layers = range(model.cfg.n_layers)
    z = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    mlp = [f"blocks.{layer}.hook_mlp_out" for layer in layers]
    ends = ["hook_embed", "hook_pos_embed", f"blocks.{layers[-1]}.hook_resid_post"]
    names = [name for name in [*z, *mlp, *ends] if name in model.hook_dict]
    cache = model.run_with_cache(
        tokens, names_filter=names, pos_slice=list(positions), logits_to_keep=1
    )[1]
    stream = cache[ends[2]]
    zero = torch.zeros_like(stream)
    return Writes(
        embed=cache["hook_embed"],
        pos=zero + cache["hook_pos_embed"] if "hook_pos_embed" in names else zero,
        z=[cache[name] for name in z],
        mlp_out=[cache[name] if name in names else zero for name in mlp],
        stream=stream,
    )


def require_tokens(tokens: Tensor, positions: Sequence[int]) -> None:
    """Raise ValueError unless tokens are integers `[batch, pos]` that hold all the positions."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        got = f"{list(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens must be integers [batch, pos], got {got}; see model.to_tokens")
    if tokens.numel() == 0:
        raise ValueError(f"tokens are empty (shape {list(tokens.shape)}): give at least one prompt")
    length = tokens.shape[1]
    for position in positions:
        if not -length <= position < length:
            raise ValueError(f"position {position} is outside the prompt of {length} tokens")


def require_sum(total: Tensor, whole: Tensor, model: TransformerBridge) -> None:
    """Raise ValueError where the parts do not sum to the whole, within rounding."""
    error = (total - whole).abs().max()
    if error > 1e-3 * (1 + whole.abs().max()):
        raise ValueError(
            f"embedding, heads and MLPs miss the final stream of {model.cfg.model_name} by "
            f"{error:.3g}: this architecture changes what they write before adding it"
        )
