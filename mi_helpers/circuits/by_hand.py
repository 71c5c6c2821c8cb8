"""Lists of heads made by hand for indirect object identification, each by a stated rule.

`by_looks` reads patterns and weights: it changes nothing in the model and asks for no metric.
`by_paths` patches paths. Neither list is the truth. They are two kinds of evidence, of which Wang
et al. 2022, "Interpretability in the Wild", sections 3.1 to 3.3, ask both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from mi_helpers.circuits.graph import EdgeGraph
from mi_helpers.circuits.paths import path_patch
from mi_helpers.engine import Inputs
from mi_helpers.heads import attention_scores, copying_top_k, position_targets
from mi_helpers.metrics import Metric
from mi_helpers.patching.sweep import Sweep
from mi_helpers.patching.values import OtherRun
from mi_helpers.prompts import PromptPairs
from mi_helpers.sites import Head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Classes = dict[str, tuple[Head, ...]]
"""Heads by what the rule calls them; a head stands in one class."""


def by_looks(model: TransformerBridge, pairs: PromptPairs, least: float = 1 / 3) -> Classes:
    """Heads by where they look and what they do to the names they see.

    name mover         from the end at names, and copies them
    suppressor         from the end at names, and writes against them
    S2 reader          from the end at S2, and does neither
    repeat detector    from S2 at S1, or at the token after it

    Copies: the share of the names that are among the five tokens that reading them raises most;
    writes against: lowers most (`copying_top_k`).

    Args:
        model: Any model that `load_model` gives and whose weights say what heads write.
        pairs: From `prompts.ioi`, with the roles IO1, S1 and S2. Only the clean prompts are read.
        least: Of attention, and of copying or writing against, as shares from 0 to 1.

    Raises:
        ValueError: as `attention_scores` and `copying_top_k`; KeyError: prompts without the roles.
    """
    tokens, (io, s1, s2) = pairs.clean_tokens, (pairs.positions[r] for r in ("IO1", "S1", "S2"))
    at = {role: position_targets(tokens, -1, place) for role, place in
          {"IO": io, "S1": s1, "S2": s2}.items()}  # fmt: skip
    back = position_targets(tokens, s2, s1) | position_targets(tokens, s2, s1 + 1)
    targets = {"names": at["IO"] | at["S1"] | at["S2"], "S2": at["S2"], "back": back}
    looks = attention_scores(model, tokens, targets)
    copies, against = copying_top_k(model, pairs.answer_tokens.unique())

    def kind(head: Head) -> str | None:
        if looks["names"][head] >= least and max(copies[head], against[head]) >= least:
            return "name mover" if copies[head] >= against[head] else "suppressor"
        if looks["S2"][head] >= least:
            return "S2 reader"
        return "repeat detector" if looks["back"][head] >= least else None

    kinds = {head: kind(head) for head in EdgeGraph.of(model).heads}
    names = ("name mover", "suppressor", "S2 reader", "repeat detector")
    return {name: tuple(head for head, own in kinds.items() if own == name) for name in names}


def by_paths(
    model: TransformerBridge, base: Inputs, what: OtherRun, metric: Metric, least: float = 0.05
) -> Classes:
    """Heads by whom they tell: path patching, one step back from the logits and one more.

    speaker    moves the metric over its direct path to the logits
    adviser    over its direct path into the queries, the keys or the values of all speakers

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts of the run that is patched.
        what: What the senders write instead.
        metric: Logits to one number an example.
        least: The smallest effect that counts, as a share of the mean metric of `base`.

    Raises:
        ValueError: as `path_patch`.
    """
    graph = EdgeGraph.of(model)

    def moved(sweep: Sweep) -> Iterator[Head]:
        shares = (sweep.effect() / sweep.base.mean()).abs()
        return (head for head in graph.heads if shares[head] >= least)

    speakers = tuple(moved(path_patch(model, base, what, metric)))
    advisers: dict[Head, None] = {}
    for part in "qkv" if speakers else "":
        inputs = list(dict.fromkeys(graph.input_of(head, part) for head in speakers))
        advisers |= dict.fromkeys(moved(path_patch(model, base, what, metric, receivers=inputs)))
    rest = tuple(head for head in graph.heads if head in advisers and head not in speakers)
    return {"speaker": speakers, "adviser": rest}


def shuffled(graph: EdgeGraph, heads: Iterable[Head], seed: int = 0) -> tuple[Head, ...]:
    """As many heads of each layer, drawn anew: the control of a list."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        Head(layer, head)
        for layer, n in sorted(Counter(head.layer for head in heads).items())
        for head in torch.randperm(graph.n_heads, generator=generator)[:n].tolist()
    )
