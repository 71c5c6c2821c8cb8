"""One attention head as two small matrices: QK says where to look, OV says what to move.

Everything is in the row-vector convention of TransformerLens, `x @ W`, and reads the *normalised*
residual stream (`ln1.hook_normalized`), whose LayerNorm gains `load_model` has folded into the
weights. Queries, keys and values have biases; a 1 appended to the input (`with_one`) makes each
circuit one bilinear or linear map again. Where positions are rotary, QK has one such map for each
distance from query to key: see `heads.rotary`.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, sections "Splitting
Attention Head Terms into Circuits" and "Interpretation as Skip-Trigrams".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.heads.rotary import (
    checked_distance,
    score_scale,
    turned_keys,
    turned_queries,
)
from mi_helpers.models.parts import bias, embedding, key_head, require_plain_writes
from mi_helpers.sites import Head, require_head


def with_one(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model+1"]:
    """Append a 1 to every vector, so that one matrix holds weights and bias."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


@torch.no_grad()
def qk_circuit(
    model: TransformerBridge, head: Head, *, distance: int | None = None
) -> Float[Tensor, "d_model_plus_1 d_model_plus_1"]:
    """W_QK of one head with its biases: `with_one(query) @ W_QK @ with_one(key)`.

    The result is the attention score before the mask and the softmax, already scaled (by 1/√d_head,
    in most models), and before the cap that Gemma 2 puts on it.

    Args:
        model: Any model that `load_model` gives.
        head: Which.
        distance: For a model with rotary positions: how many tokens the key stands before the
            query (see `heads.rotary`). The pattern of such a model is the softmax over the scores
            of all distances, exactly.

    Returns:
        The form, for models whose positions enter through the residual stream the same at every
        distance. Rows belong to queries, columns to keys.

    Raises:
        ValueError: A head that does not exist, a distance missing or not wanted, or a model whose
            scores are no such form.
    """
    layer, index = require_head(model, head)
    distance = checked_distance(model, distance)
    shared, attn = key_head(model, layer, index), model.blocks[layer].attn
    w_q, b_q = attn.W_Q[index], bias(model, layer, "b_Q")[index]
    w_k, b_k = attn.W_K[shared], bias(model, layer, "b_K")[shared]
    query = turned_queries(model, torch.cat([w_q, b_q[None]]), distance)
    key = turned_keys(model, torch.cat([w_k, b_k[None]]), distance)
    return query @ key.T * score_scale(model, layer)


@torch.no_grad()
def ov_circuit(model: TransformerBridge, head: Head) -> Float[Tensor, "d_model_plus_1 d_model"]:
    """W_OV of one head with its value bias: a source adds `with_one(source) @ W_OV` × attention.

    The layer's output bias b_O belongs to no single head and is left out. Compatibility mode has
    moved the value biases into it where there is one, so the last row is zero there.

    Raises:
        ValueError: A head that does not exist, or a model that normalises what heads write.
    """
    layer, index = require_head(model, head)
    require_plain_writes(model)
    shared, attn = key_head(model, layer, index), model.blocks[layer].attn
    w_v, b_v = attn.W_V[shared], bias(model, layer, "b_V")[shared]
    return torch.cat([w_v, b_v[None]]) @ attn.W_O[index]


@dataclass(frozen=True)
class SingularDirections:
    """A head's circuit as a few pairs of directions, strongest first; signs go in pairs.

    OV: a source along `first[i]` is written as `strength[i] * second[i]`. QK: a query along
    `first[i]` attends to a key along `second[i]`, with `strength[i]` added to the score.
    """

    first: Float[Tensor, "k d_model"]
    strength: Float[Tensor, " k"]
    second: Float[Tensor, "k d_model"]


@torch.no_grad()
def singular_directions(
    model: TransformerBridge,
    head: Head,
    circuit: str = "OV",
    k: int | None = None,
    *,
    distance: int | None = None,
) -> SingularDirections:
    """The singular value decomposition of W_OV, or of W_QK with its scale, biases left out.

    The d_model × d_model matrix has rank d_head at most and is never formed: with W_V = Q_V R_V and
    W_Oᵀ = Q_O R_O, the decomposition of the small R_V R_Oᵀ is rotated back.

    Args:
        model: Any model that `load_model` gives.
        head: Which.
        circuit: "OV" or "QK".
        k: How many pairs; all d_head by default.
        distance: For "QK" of a model with rotary positions, as in `qk_circuit`.

    Raises:
        ValueError: As `qk_circuit` and `ov_circuit`; another circuit, a `k` beyond the rank, or a
            distance for "OV".
    """
    layer, index = require_head(model, head)
    if circuit not in ("OV", "QK"):
        raise ValueError(f'circuit must be "OV" or "QK", got {circuit!r}')
    k = model.cfg.d_head if k is None else k
    if not 1 <= k <= model.cfg.d_head:
        raise ValueError(f"k must be from 1 to d_head = {model.cfg.d_head}, got {k}")
    if circuit == "OV" and distance is not None:
        raise ValueError("what a head moves does not depend on the distance: leave distance out")
    shared, attn = key_head(model, layer, index), model.blocks[layer].attn
    if circuit == "OV":
        require_plain_writes(model)
        inner, outer, scale = attn.W_V[shared], attn.W_O[index].T, 1.0
    else:
        distance, scale = checked_distance(model, distance), score_scale(model, layer)
        inner = turned_queries(model, attn.W_Q[index], distance)
        outer = turned_keys(model, attn.W_K[shared], distance)
    q_a, r_a = torch.linalg.qr(inner)
    q_b, r_b = torch.linalg.qr(outer)
    u, s, vh = torch.linalg.svd(r_a @ r_b.T)
    return SingularDirections((q_a @ u).T[:k], scale * s[:k], (vh @ q_b.T)[:k])


Factors = tuple[
    Float[Tensor, "layer head d_model d_head"], Float[Tensor, "layer head d_head d_model"]
]


def ov_factors(model: TransformerBridge) -> Factors:
    """W_V and W_O of every query head; ValueError for a model that normalises what they write."""
    require_plain_writes(model)
    return model.OV.A, model.OV.B


def qk_factors(model: TransformerBridge, distance: int | None) -> Factors:
    """W_Q and W_Kᵀ of every query head, turned for a distance; raises as `qk_circuit`."""
    distance = checked_distance(model, distance)
    w_q, w_k = model.QK.A, model.QK.B.mT
    return turned_queries(model, w_q, distance), turned_keys(model, w_k, distance).mT


def embedded(
    model: TransformerBridge, tokens: Int[Tensor, " n"], through_mlp0: bool
) -> Float[Tensor, "n d_model"]:
    """What tokens put into the stream, alone or with what the first layer's MLP adds to it."""
    embed = embedding(model, tokens)
    if not through_mlp0:
        return embed
    require_plain_writes(model)
    block = model.blocks[0]
    return embed + block.mlp(block.ln2(embed[None]))[0]


def require_vocabulary(model: TransformerBridge, tokens: Tensor) -> None:
    """ValueError unless `tokens` is a list of at least one token id of the model."""
    if tokens.ndim != 1 or tokens.is_floating_point() or not len(tokens):
        raise ValueError(f"tokens must be a list of token ids [n], got {list(tokens.shape)}")
    if tokens.min() < 0 or tokens.max() >= model.cfg.d_vocab:
        raise ValueError(f"tokens must lie in 0..{model.cfg.d_vocab - 1}, got {tokens.tolist()}")


def token_names(model: TransformerBridge, tokens: Tensor | Sequence[int]) -> list[str]:
    """Each token id as its text."""
    return [model.tokenizer.decode([int(token)]) for token in tokens]


@torch.no_grad()
def ov_top_tokens(
    model: TransformerBridge,
    head: Head,
    tokens: Int[Tensor, " n"],
    k: int = 5,
    *,
    through_mlp0: bool = False,
) -> list[dict[str, Any]]:
    """What a head writes when it reads each token's embedding.

    W_E W_OV W_U, one row of it per token; LayerNorm's scale is left out, which changes no order.

    Args:
        model: Any model that `load_model` gives.
        head: Which.
        tokens: What it reads.
        k: How many tokens it writes.
        through_mlp0: As in `copying_percentiles`.

    Returns:
        A row of "reads" and "writes" for each token.

    Raises:
        ValueError: As `ov_circuit`, or tokens outside the vocabulary.
    """
    require_vocabulary(model, tokens)
    read = embedded(model, tokens, through_mlp0)
    best = (read @ ov_circuit(model, head)[:-1] @ model.W_U).topk(k).indices
    rows = zip(token_names(model, tokens), best, strict=True)
    return [{"reads": name, "writes": token_names(model, row)} for name, row in rows]


@torch.no_grad()
def skip_trigrams(
    model: TransformerBridge,
    head: Head,
    sources: Int[Tensor, " n"],
    k: int = 3,
    *,
    distance: int | None = None,
) -> list[dict[str, Any]]:
    """What a head alone can say: "source … destination → output", the strongest for each source.

    The destinations are the tokens whose query scores the source highest among all tokens'
    (W_E W_QK W_Eᵀ), the outputs those that W_E W_OV W_U raises most. Embeddings stand in for the
    normalised stream, so this is exact only for a model without MLPs and earlier heads.

    Args:
        model: Any model that `load_model` gives.
        head: Which.
        sources: Tokens that are looked back at.
        k: How many destinations and outputs each.
        distance: For a model with rotary positions, as in `qk_circuit`.

    Returns:
        A row of "source", "destinations" and "outputs" for each source.

    Raises:
        ValueError: As `qk_circuit` and `ov_circuit`, or tokens outside the vocabulary.
    """
    require_vocabulary(model, sources)
    key = model.W_E[sources]
    scores = key @ qk_circuit(model, head, distance=distance)[:-1, :-1].T @ model.W_E.T
    destinations = scores.topk(k).indices
    written = ov_top_tokens(model, head, sources, k)
    return [
        {"source": row["reads"], "destinations": token_names(model, seen), "outputs": row["writes"]}
        for row, seen in zip(written, destinations, strict=True)
    ]
