"""Attention heads: what they attend to, what they copy, and what breaks without them.

Scores come for all heads at once, as `[layer, head]` tensors. Patterns are reduced inside the hook
that sees them, so no more than one layer's is ever held.

Sources: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022,
In-context Learning and Induction Heads (arXiv:2209.11895), for prefix matching and copying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers._ablation import Firings, ablate
from mi_helpers._circuits import (
    Head,
    SingularDirections,
    head_name,
    ov_circuit,
    ov_top_tokens,
    qk_circuit,
    singular_directions,
    skip_trigrams,
    token_names,
    with_one,
)
from mi_helpers._composition import composition_baseline, composition_scores
from mi_helpers._copying import copying_eigenvalues, copying_percentiles, copying_top_k
from mi_helpers._stream import require_tokens
from mi_helpers._virtual_heads import VirtualHead, isolated_path, virtual_head

__all__ = [
    "KINDS",
    "Firings",
    "Head",
    "SingularDirections",
    "VirtualHead",
    "ablate",
    "attention_scores",
    "composition_baseline",
    "composition_scores",
    "copying_eigenvalues",
    "copying_percentiles",
    "copying_top_k",
    "head_name",
    "isolated_path",
    "offset_targets",
    "ov_circuit",
    "ov_top_tokens",
    "position_targets",
    "positional_overlap",
    "qk_circuit",
    "singular_directions",
    "skip_trigrams",
    "token_names",
    "token_targets",
    "top_heads",
    "virtual_head",
    "with_one",
]

KINDS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")


def top_heads(scores: Float[Tensor, "layer head"], k: int = 5) -> list[tuple[Head, float]]:
    """The `k` heads with the highest scores, best first, as `((layer, head), score)`."""
    if scores.ndim != 2 or torch.isnan(scores).any():
        raise ValueError(f"scores must be [layer, head] without NaN, got {list(scores.shape)}")
    if not 1 <= k <= scores.numel():
        raise ValueError(f"k must be from 1 to {scores.numel()}, the number of heads, got {k}")
    best = scores.flatten().topk(k)
    places = [divmod(place, scores.shape[1]) for place in best.indices.tolist()]
    return list(zip(places, best.values.tolist(), strict=True))


def token_targets(tokens: Int[Tensor, "batch pos"], kind: str) -> Bool[Tensor, "batch query key"]:
    """Which earlier positions a head of the given kind should attend to.

    - `previous_token`: the position just before; `current_token`: the query itself;
      `first_token`: position 0, for every later query.
    - `duplicate_token`: earlier positions that hold the query's token.
    - `induction`: positions just *after* an earlier occurrence of the query's token (prefix
      matching, Olsson et al. 2022), the query itself left out.

    Raises:
        ValueError: an unknown kind, or tokens that are not integers `[batch, pos]`.
    """
    require_tokens(tokens, [])
    query = torch.arange(tokens.shape[1], device=tokens.device)[:, None]
    key = query.T
    same = tokens[:, :, None] == tokens[:, None, :]
    after_same = same.roll(1, dims=2) & (key > 0)
    targets = {
        "previous_token": (key == query - 1).expand_as(same),
        "current_token": (key == query).expand_as(same),
        "first_token": ((key == 0) & (query > 0)).expand_as(same),
        "duplicate_token": same & (key < query),
        "induction": after_same & (key < query),
    }
    if kind not in targets:
        raise ValueError(f"no kind of head is called {kind!r}; there are: {', '.join(KINDS)}")
    return targets[kind]


def offset_targets(tokens: Int[Tensor, "batch pos"], offset: int) -> Bool[Tensor, "batch q k"]:
    """Key = query + offset, whatever the tokens: one diagonal of the pattern (offset ≤ 0).

    With r random tokens said twice, `1 - r` is the diagonal that TransformerLens's demos call the
    induction stripe. It has one query more than `token_targets(..., "induction")`: the last of the
    first copy, which has seen no repetition yet.
    """
    require_tokens(tokens, [])
    n_pos = tokens.shape[1]
    if not -n_pos < offset <= 0:
        raise ValueError(f"offset must be from {1 - n_pos} to 0 for {n_pos} tokens, got {offset}")
    place = torch.arange(n_pos, device=tokens.device)
    return (place[None, :] == place[:, None] + offset).expand(len(tokens), -1, -1)


def position_targets(
    tokens: Int[Tensor, "batch pos"],
    query: int | Int[Tensor, " batch"],
    key: int | Int[Tensor, " batch"],
) -> Bool[Tensor, "batch query key"]:
    """One query and one key a prompt, such as the roles in `PromptPairs.positions`.

    `position_targets(tokens, -1, pairs.positions["S2"])` asks what the last token makes of S2.
    Combine keys with `|`. ValueError for a position outside the prompts, or a key after its query,
    which attention never sees.
    """
    require_tokens(tokens, [])
    batch, n_pos = tokens.shape
    query, key = (torch.as_tensor(p, device=tokens.device).expand(batch) for p in (query, key))
    for name, where in (("query", query), ("key", key)):
        if (where >= n_pos).any() or (where < -n_pos).any():
            raise ValueError(f"{name} {where.tolist()} is outside prompts of {n_pos} tokens")
    query, key = query % n_pos, key % n_pos
    if (key > query).any():
        raise ValueError(f"the keys {key.tolist()} come after the queries {query.tolist()}")
    mask = torch.zeros(batch, n_pos, n_pos, dtype=torch.bool, device=tokens.device)
    mask[torch.arange(batch), query, key] = True
    return mask


@torch.no_grad()
def attention_scores(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    targets: Mapping[str, Bool[Tensor, "batch query key"]] | None = None,
) -> dict[str, Float[Tensor, "layer head"]]:
    """How much each head attends to the target positions, from 0 (never) to 1 (to nothing else).

    The attention on all targets of a query is summed, then averaged over the queries that have a
    target. One run of the model for all heads and kinds.

    Args:
        model: any model that `load_model` gives.
        tokens: the sequences to run.
        targets: masks by name; by default `token_targets` of every kind in KINDS that occurs.

    Raises:
        ValueError: masks of another shape, or a mask without any target.
    """
    require_tokens(tokens, [])
    if targets is None:
        found = {kind: token_targets(tokens, kind) for kind in KINDS}
        targets = {kind: mask for kind, mask in found.items() if mask.any()}
    shape = (*tokens.shape, tokens.shape[1])
    for name, mask in targets.items():
        if tuple(mask.shape) != shape:
            raise ValueError(f"{name}: targets must be {list(shape)}, got {list(mask.shape)}")
        if not mask.any():
            raise ValueError(f"{name}: no position of these tokens has a target")
    scores = {name: torch.zeros(model.cfg.n_layers, model.cfg.n_heads) for name in targets}

    def reduce(pattern: Float[Tensor, "batch head query key"], layer: int) -> None:
        for name, mask in targets.items():
            total = torch.einsum("bhqk,bqk->h", pattern, mask.to(pattern))
            scores[name][layer] = (total / mask.any(-1).sum()).cpu()

    _on_patterns(model, tokens, reduce)
    return scores


@torch.no_grad()
def positional_overlap(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer head"]:
    """How much of each head's attention is explained by positions alone, from 0 to 1.

    The model runs once as it is and once with every token embedding replaced by the vocabulary's
    mean, so that only positions are left to distinguish the queries and keys (and everything that
    earlier layers compute from them). The score is the share of attention that the two patterns
    place alike, the sum over keys of the smaller of both, averaged over queries from 1 on.
    Model and tokens as in `attention_scores`.
    """
    require_tokens(tokens, [])
    if tokens.shape[1] < 2:
        raise ValueError("one token leaves nothing to attend to but itself: give two or more")
    mean_embedding = model.W_E.mean(0)
    alone: dict[int, Tensor] = {}
    overlap = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)

    def blank(embed: Tensor, hook: Any) -> Tensor:
        return mean_embedding.expand_as(embed)

    def keep(pattern: Tensor, layer: int) -> None:
        alone[layer] = pattern[0]

    def compare(pattern: Tensor, layer: int) -> None:
        shared = torch.minimum(pattern, alone[layer]).sum(-1)[:, :, 1:]
        overlap[layer] = shared.mean((0, 2)).cpu()

    _on_patterns(model, tokens[:1], keep, [("hook_embed", blank)])
    _on_patterns(model, tokens, compare)
    return overlap


def _on_patterns(
    model: TransformerBridge,
    tokens: Tensor,
    see: Callable[[Tensor, int], None],
    also: Sequence[tuple[str, Callable[..., Tensor]]] = (),
) -> None:
    """Run the model and show each layer's pattern to `see`, keeping none of them."""

    def hook_fn(pattern: Tensor, hook: Any, *, layer: int) -> None:
        see(pattern, layer)

    hooks = [
        (f"blocks.{layer}.attn.hook_pattern", partial(hook_fn, layer=layer))
        for layer in range(model.cfg.n_layers)
    ]
    model.run_with_hooks(tokens, return_type=None, fwd_hooks=[*also, *hooks])
