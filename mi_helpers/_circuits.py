"""One attention head as two small matrices: QK says where to look, OV says what to move.

Everything is in the row-vector convention of TransformerLens, `x @ W`, and reads the *normalised*
residual stream (`ln1.hook_normalized`), whose LayerNorm gains `load_model` has folded into the
weights. Queries, keys and values have biases; a 1 appended to the input (`with_one`) makes each
circuit one bilinear or linear map again.

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

Head = tuple[int, int]


def head_name(head: Head) -> str:
    """`(4, 11)` as the literature writes it: "L4H11"."""
    return f"L{head[0]}H{head[1]}"


def require_head(model: TransformerBridge, head: Head) -> Head:
    """The head as two plain integers; ValueError when the model has no such head."""
    layer, index = (int(part) for part in head)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (0 <= layer < n_layers and 0 <= index < n_heads):
        raise ValueError(
            f"there is no head {head_name((layer, index))} in {model.cfg.model_name}: it has "
            f"layers 0..{n_layers - 1} of heads 0..{n_heads - 1}"
        )
    return layer, index


def with_one(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model+1"]:
    """Append a 1 to every vector, so that one matrix holds weights and bias."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


@torch.no_grad()
def qk_circuit(
    model: TransformerBridge, head: Head
) -> Float[Tensor, "d_model_plus_1 d_model_plus_1"]:
    """W_QK of one head with its biases: `with_one(query) @ W_QK @ with_one(key)`.

    The result is the attention score before the mask and the softmax, already divided by √d_head.
    Exact for models whose positions enter through the residual stream, as GPT-2's do.

    Raises:
        ValueError: a head that does not exist, or a model with rotary positions.
    """
    layer, index = require_head(model, head)
    if model.cfg.positional_embedding_type == "rotary":
        raise ValueError(
            f"{model.cfg.model_name} rotates queries and keys by position, so no single W_QK "
            "holds; use a model with learned positions, such as GPT-2"
        )
    w_k, b_k = model.W_K[layer], model.b_K[layer]
    shared = index * len(w_k) // model.cfg.n_heads  # grouped-query attention shares keys
    query = torch.cat([model.W_Q[layer, index], model.b_Q[layer, index][None]])
    key = torch.cat([w_k[shared], b_k[shared][None]])
    return query @ key.T / model.cfg.d_head**0.5


@torch.no_grad()
def ov_circuit(model: TransformerBridge, head: Head) -> Float[Tensor, "d_model_plus_1 d_model"]:
    """W_OV of one head with its value bias: a source adds `with_one(source) @ W_OV` × attention.

    The layer's output bias b_O belongs to no single head and is left out. Compatibility mode has
    moved the value biases into it, so the last row is zero there.
    """
    layer, index = require_head(model, head)
    w_v, b_v = model.W_V[layer], model.b_V[layer]
    shared = index * len(w_v) // model.cfg.n_heads
    return torch.cat([w_v[shared], b_v[shared][None]]) @ model.W_O[layer, index]


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
    model: TransformerBridge, head: Head, circuit: str = "OV", k: int | None = None
) -> SingularDirections:
    """The singular value decomposition of W_OV or W_QK / √d_head, biases left out.

    The d_model × d_model matrix has rank d_head at most and is never formed: with W_V = Q_V R_V and
    W_Oᵀ = Q_O R_O, the decomposition of the small R_V R_Oᵀ is rotated back.

    Raises:
        ValueError: a head that does not exist, another circuit, or a `k` beyond the rank.
    """
    layer, index = require_head(model, head)
    if circuit not in ("OV", "QK"):
        raise ValueError(f'circuit must be "OV" or "QK", got {circuit!r}')
    k = model.cfg.d_head if k is None else k
    if not 1 <= k <= model.cfg.d_head:
        raise ValueError(f"k must be from 1 to d_head = {model.cfg.d_head}, got {k}")
    factors = model.OV if circuit == "OV" else model.QK
    q_a, r_a = torch.linalg.qr(factors.A[layer, index])
    q_b, r_b = torch.linalg.qr(factors.B[layer, index].T)
    u, s, vh = torch.linalg.svd(r_a @ r_b.T)
    scale = 1.0 if circuit == "OV" else model.cfg.d_head**-0.5
    return SingularDirections((q_a @ u).T[:k], scale * s[:k], (vh @ q_b.T)[:k])


def embedded(
    model: TransformerBridge, tokens: Int[Tensor, " n"], through_mlp0: bool
) -> Float[Tensor, "n d_model"]:
    """The tokens' embeddings, as they are or with what the first layer's MLP adds to them."""
    embed = model.W_E[tokens]
    if not through_mlp0:
        return embed
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
    """What a head writes when it reads each token's embedding: a row "reads", "writes" per token.

    W_E W_OV W_U, one row of it per token; LayerNorm's scale is left out, which changes no order.
    `through_mlp0` as in `copying_percentiles`.
    """
    require_vocabulary(model, tokens)
    read = embedded(model, tokens, through_mlp0)
    best = (read @ ov_circuit(model, head)[:-1] @ model.W_U).topk(k).indices
    rows = zip(token_names(model, tokens), best, strict=True)
    return [{"reads": name, "writes": token_names(model, row)} for name, row in rows]


@torch.no_grad()
def skip_trigrams(
    model: TransformerBridge, head: Head, sources: Int[Tensor, " n"], k: int = 3
) -> list[dict[str, Any]]:
    """What a head alone can say: "source … destination → output", the strongest for each source.

    The destinations are the tokens whose query scores the source highest among all tokens'
    (W_E W_QK W_Eᵀ), the outputs those that W_E W_OV W_U raises most. Embeddings stand in for the
    normalised stream, so this is exact only for a model without MLPs and earlier heads.
    """
    require_vocabulary(model, sources)
    key = model.W_E[sources]
    scores = key @ qk_circuit(model, head)[:-1, :-1].T @ model.W_E.T
    destinations = scores.topk(k).indices
    written = ov_top_tokens(model, head, sources, k)
    return [
        {"source": row["reads"], "destinations": token_names(model, seen), "outputs": row["writes"]}
        for row, seen in zip(written, destinations, strict=True)
    ]
