"""Rotary positions: queries and keys are turned by their position before they are compared.

A query at position i and a key at j meet as q R(i) R(j)ᵀ k = q R(i - j) k: content goes in through
q and k, position through the distance i - j alone. So a head has one bilinear form *for each
distance*, and its attention pattern is the softmax over these scores, exactly. Models without
rotary positions have one form for all distances.

Source: Su et al. 2021, RoFormer (arXiv:2104.09864), section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

MOVING = ("dynamic", "longrope")
"""Kinds of rotation that depend on the length of the text, not on the distance alone."""


def checked_distance(model: TransformerBridge, distance: int | None) -> int | None:
    """The distance as it is, None for a model to which distances mean nothing.

    Raises:
        ValueError: No distance for a rotary model, a distance for another, one below 0, or a model
            whose scores are no bilinear form of queries and keys.
    """
    kind = model.cfg.positional_embedding_type
    if kind not in ("standard", "none", "rotary"):
        raise ValueError(
            f"{model.cfg.model_name} has {kind!r} positions, which enter attention in a way that "
            "is not taught here: use a model with learned or rotary positions"
        )
    attn = model.blocks[0].attn
    if any(hasattr(attn, norm) for norm in ("q_norm", "k_norm")):
        raise ValueError(
            f"{model.cfg.model_name} normalises queries and keys before they are compared: their "
            "scores are no product of weights"
        )
    if kind != "rotary":
        if distance is not None:
            raise ValueError(
                f"{model.cfg.model_name} has no rotary positions, so one W_QK holds for every "
                "distance: leave distance out"
            )
        return None
    _require_known_rotation(model)
    if distance is None:
        raise ValueError(
            f"{model.cfg.model_name} rotates queries and keys by position, so there is one W_QK "
            "for each distance from query back to key: say which, as distance=0, 1, ..."
        )
    if isinstance(distance, bool) or int(distance) != distance or distance < 0:
        raise ValueError(f"distance counts tokens back from the query, 0 or more, not {distance}")
    return int(distance)


def turned_queries(
    model: TransformerBridge, weights: Float[Tensor, "*any d_head"], distance: int | None
) -> Float[Tensor, "*any d_head"]:
    """W_Q or b_Q as a key `distance` tokens earlier, itself at position 0, meets them."""
    return weights if distance is None else _turned(model, weights, distance)


def turned_keys(
    model: TransformerBridge, weights: Float[Tensor, "*any d_head"], distance: int | None
) -> Float[Tensor, "*any d_head"]:
    """W_K or b_K at position 0: as they are, but for a factor that some rotations have."""
    return weights if distance is None else _turned(model, weights, 0)


def score_scale(model: TransformerBridge, layer: int) -> float:
    """What query times key is multiplied by: 1 / √d_head, unless the model says otherwise."""
    scale = getattr(model.blocks[layer].attn.original_component, "scaling", None)
    return model.cfg.d_head**-0.5 if scale is None else float(scale)


def _turned(model: TransformerBridge, vectors: Tensor, position: int) -> Tensor:
    """Vectors of d_head numbers, turned as the model turns them at a position."""
    at = torch.tensor([[position]], device=vectors.device)
    cos, sin = (part[0, 0] for part in _rotation(model)(vectors[..., :1], at))
    size = len(cos)  # GPT-NeoX turns only the first of a head's dimensions
    head, rest = vectors[..., :size], vectors[..., size:]
    half = torch.cat([-head[..., size // 2 :], head[..., : size // 2]], dim=-1)
    return torch.cat([head * cos + half * sin, rest], dim=-1)


def _rotation(model: TransformerBridge) -> Any:
    return model.rotary_emb.original_component


def _require_known_rotation(model: TransformerBridge) -> None:
    """Dimension i turns with i + half, by an angle of its position, alike in every layer."""
    module = getattr(model, "rotary_emb", None)
    rope = getattr(getattr(module, "original_component", None), "rope_type", "default")
    if module is None or getattr(model.cfg, "rotary_adjacent_pairs", False) or rope in MOVING:
        raise ValueError(
            f"{model.cfg.model_name} rotates queries and keys in a way that is not taught here "
            "(neighbouring pairs, by layer, or depending on the text's length)"
        )
