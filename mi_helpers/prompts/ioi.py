"""Prompts for indirect object identification, from pocket's grammar."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from mi_data.pocket import generator, lexicon, people
from mi_data.pocket.text import Prompt, Span
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.prompts.drawing import Pair, Unfit, check_choice, collect, replace
from mi_helpers.prompts.pairs import PromptPairs, answer_ids


def ioi(
    model: TransformerBridge,
    n: int = 200,
    seed: int = 0,
    *,
    order: str = "both",
    corruption: str = "swap",
    same_wording: bool = False,
    split: str = "test",
    **options: Any,
) -> PromptPairs:
    """Indirect object identification: of two people, one gives something to … the other.

    Args:
        model: Names that its tokenizer splits are left out.
        n: Number of prompts.
        seed: Of the draw.
        order: "ABBA" (the giver was named second), "BABA" (first), or "both": each prompt is
            followed by the one in which the other person gives.
        corruption: "swap" lets the other person give, so that right and wrong answer change
            places; "names" has two other people in the same places; "random" has three people,
            so that nobody is named twice.
        same_wording: One wording for all prompts, so that a position means the same in each.
        split: "test" draws pairs of names that pocket never met together.
        options: For the grammar: joined, transfer, third, between, clauses. As in the literature,
            unless told: one sentence, a transfer, no third person. The wordings are those that
            pocket was trained on, for variety; clauses="test" takes the held-out ones.

    Roles: IO1, S1 (first mentions), S2 (the giver, again), end. Source: Wang et al. 2022,
    Interpretability in the Wild, sections 2 and 3 ("random" is their p_ABC).
    """
    check_choice("order", order, ("ABBA", "BABA", "both"))
    check_choice("corruption", corruption, ("swap", "names", "random"))
    options = {
        "joined": True,
        "transfer": True,
        "third": False,
        "between": 0,
        "clauses": "train",
    } | options
    names = [name for name in lexicon.NAMES if len(answer_ids(model, f" {name}")) == 1]
    wording: list[Prompt] = []

    def draw(rng: random.Random) -> Iterator[Pair]:
        if not (same_wording and wording):
            wording[:] = [generator.prompt("ioi", rng, split, **options)]
        first, second = _two_names(rng, names, split)
        strangers = rng.sample([name for name in names if name not in (first, second)], 3)
        for giver in (second, first):
            if order in ("both", "ABBA" if giver == second else "BABA"):
                yield _ioi_pair(wording[0], first, second, giver, corruption, strangers)

    return collect(model, "ioi", draw, n, seed)


def _ioi_pair(
    wording: Prompt, first: str, second: str, giver: str, corruption: str, strangers: list[str]
) -> Pair:
    """Cast `first` and `second` in a wording; `giver` is the one who is named again."""
    if wording.labels["third"] in (first, second):
        raise Unfit("the third person is one of the two")
    abba = wording.labels["order"] == "ABBA"
    old_first, old_second = (
        wording.labels[role] for role in (("IO", "S") if abba else ("S", "IO"))
    )

    def cast(one: str, other: str, again: str) -> tuple[str, dict[str, Span]]:
        now = {old_first: one, old_second: other}
        return replace(wording, lambda s: again if s.role == "S2" else now.get(s.value))

    clean, spans = cast(first, second, giver)
    receiver = first if giver == second else second
    if corruption == "swap":
        corrupt, _ = cast(first, second, receiver)
    else:
        again = strangers[2 if corruption == "random" else int(giver == second)]
        corrupt, _ = cast(strangers[0], strangers[1], again)
    where = {role: (spans[role].start, spans[role].end) for role in ("IO1", "S1", "S2")}
    if spans["IO1"].value != receiver:
        where["IO1"], where["S1"] = where["S1"], where["IO1"]
    order = "ABBA" if giver == second else "BABA"
    labels = {**wording.labels, "IO": receiver, "S": giver, "order": order}
    return Pair(clean, corrupt, f" {receiver}", f" {giver}", labels, where)


def _two_names(rng: random.Random, names: list[str], split: str) -> tuple[str, str]:
    """Two names whose pair belongs to the split."""
    if len(names) < 5:
        raise ValueError(f"this tokenizer keeps only {len(names)} names whole: {names}; need five")
    for _ in range(2000):
        one, other = rng.sample(names, 2)
        if people.pair_split(one, other) == split:
            return one, other
    raise ValueError(f"no pair among {len(names)} names belongs to the split {split!r}")
