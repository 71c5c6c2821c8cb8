"""What heads attend to: scores of all heads for kinds of targets, and what positions explain.

Patterns are reduced where they are seen, so no more than one layer's is ever held.

Source: Olsson et al. 2022, In-context Learning and Induction Heads (arXiv:2209.11895), for prefix
matching.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.interventions import intervene, replace
from mi_helpers.models.parts import embedding
from mi_helpers.sites import Head, Place, read, require_tokens, require_unpadded

KINDS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")


def top_heads(scores: Float[Tensor, "layer head"], k: int = 5) -> list[tuple[Head, float]]:
    """The `k` heads with the highest scores, best first, each with its score.

    Raises:
        ValueError: Scores that are no `[layer, head]` table of numbers, or a `k` beyond it.
    """
    if scores.ndim != 2 or torch.isnan(scores).any():
        raise ValueError(f"scores must be [layer, head] without NaN, got {list(scores.shape)}")
    if not 1 <= k <= scores.numel():
        raise ValueError(f"k must be from 1 to {scores.numel()}, the number of heads, got {k}")
    best = scores.flatten().topk(k)
    places = [Head(*divmod(place, scores.shape[1])) for place in best.indices.tolist()]
    return list(zip(places, best.values.tolist(), strict=True))


def token_targets(tokens: Int[Tensor, "batch pos"], kind: str) -> Bool[Tensor, "batch query key"]:
    """Which positions a head of the given kind should attend to.

    - `previous_token`: the position just before; `current_token`: the query itself;
      `first_token`: position 0, for every later query.
    - `duplicate_token`: earlier positions that hold the query's token.
    - `induction`: positions just *after* an earlier occurrence of the query's token (prefix
      matching, Olsson et al. 2022), the query itself left out.

    Args:
        tokens: The sequences.
        kind: One of KINDS.

    Raises:
        ValueError: An unknown kind, or tokens that are not integers `[batch, pos]`.
    """
    require_tokens(tokens)
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


def position_targets(
    tokens: Int[Tensor, "batch pos"],
    query: int | Int[Tensor, " batch"],
    key: int | Int[Tensor, " batch"],
) -> Bool[Tensor, "batch query key"]:
    """One query and one key a prompt, such as the roles in `PromptPairs.positions`.

    `position_targets(tokens, -1, pairs.positions["S2"])` asks what the last token makes of S2.
    Combine keys with `|`.

    Args:
        tokens: The prompts.
        query: Where from, one number or one a prompt; negative ones count from the end.
        key: Where to.

    Raises:
        ValueError: A position outside the prompts, or a key after its query, which attention never
            sees.
    """
    require_tokens(tokens)
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
        model: Any model that `load_model` gives.
        tokens: The sequences to run.
        targets: Masks by name; by default `token_targets` of every kind in KINDS that occurs.

    Returns:
        The scores by name.

    Raises:
        ValueError: Masks of another shape, a mask without any target, or padded texts.
    """
    require_tokens(tokens)
    require_unpadded(model, tokens)
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

    def reduce(place: Place | str, pattern: Float[Tensor, "batch query head key"]) -> None:
        for name, mask in targets.items():
            total = torch.einsum("bqhk,bqk->h", pattern, mask.to(pattern))
            scores[name][int(place[1])] = (total / mask.any(-1).sum()).cpu()

    read(model, tokens, _patterns(model), reduce=reduce)
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

    Args:
        model: Any model that `load_model` gives.
        tokens: The sequences to run.

    Raises:
        ValueError: Sequences of one token, or padded texts.
    """
    require_tokens(tokens)
    require_unpadded(model, tokens)
    if tokens.shape[1] < 2:
        raise ValueError("one token leaves nothing to attend to but itself: give two or more")
    everything = torch.arange(len(model.W_E), device=model.W_E.device)
    mean_embedding = embedding(model, everything).mean(0)
    with intervene(model, {"hook_embed": replace(mean_embedding)}):
        alone = read(model, tokens[:1], _patterns(model))

    def compare(
        place: Place | str, pattern: Float[Tensor, "batch query head key"]
    ) -> Float[Tensor, " head"]:
        shared = torch.minimum(pattern, alone[place]).sum(-1)[:, 1:]
        return shared.mean((0, 1)).cpu()

    return torch.stack(list(read(model, tokens, _patterns(model), reduce=compare).values()))


def _patterns(model: TransformerBridge) -> list[Place | str]:
    return [("pattern", layer) for layer in range(model.cfg.n_layers)]
