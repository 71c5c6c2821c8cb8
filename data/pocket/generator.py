"""Pocket's text, and the truth about it.

>>> from mi_data.pocket import generator as g
>>> g.sample("ioi", 0).labels["IO"]          # doctest: +SKIP
>>> g.prompt("fact", 0, split="test")        # doctest: +SKIP

`sample` gives one labelled text of a kind, `prompt` the same cut before its answer, `document`
what the model is trained on: one kind, one topic. ``split="test"`` draws from held-out clauses,
pairs and combinations only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from . import facts, forms, opinions, people, requests, stories
from .text import SPLITS, Prompt, Sample

_SAMPLERS: dict[str, Callable[..., Sample]] = {
    "ioi": people.ioi,
    "ioi_trio": people.trio_subjects,
    "pronouns": people.pronouns,
    "possessives": people.possessives,
    "fact": facts.fact,
    "profile": facts.profile,
    "opinion": opinions.opinion,
    "taste": opinions.taste,
    "agreement": forms.agreement,
    "years": forms.years,
    "sequence": forms.sequence,
    "shopping": forms.shopping,
    "request": requests.request,
    "story": stories.story,
    "fuzzy": stories.fuzzy,
}
_PROMPTERS: dict[str, Callable[..., Prompt]] = {
    "ioi": people.ioi_prompt,
    "pronouns": people.pronoun_prompt,
    "fact": facts.fact_prompt,
    "opinion": opinions.opinion_prompt,
    "agreement": forms.agreement_prompt,
    "years": forms.years_prompt,
    "request": requests.request_prompt,
}
KINDS: tuple[str, ...] = tuple(_SAMPLERS)
PROMPT_KINDS: tuple[str, ...] = tuple(_PROMPTERS)

# Documents by kind: the share of documents, not of tokens.
MIX: dict[str, float] = {
    "ioi": 30,
    "ioi_trio": 3,
    "pronouns": 7,
    "possessives": 3,
    "fact": 10,
    "profile": 13,
    "opinion": 9,
    "taste": 2,
    "agreement": 9,
    "years": 5,
    "sequence": 3,
    "shopping": 4,
    "request": 7,
    "story": 4,
    "fuzzy": 5,
}
# Towards the end of training: more of what is learned late, where one word early in a text decides.
LATE_MIX: dict[str, float] = MIX | {
    "ioi": 18,
    "pronouns": 13,
    "possessives": 4,
    "fact": 8,
    "profile": 8,
    "opinion": 24,
    "taste": 3,
    "agreement": 18,
    "years": 6,
    "request": 13,
    "story": 3,
    "fuzzy": 3,
}


def _rng(seed: int | random.Random) -> random.Random:
    return seed if isinstance(seed, random.Random) else random.Random(seed)


def _check(kind: str, known: tuple[str, ...], split: str) -> None:
    if kind not in known:
        raise KeyError(f"unknown kind {kind!r}; choose one of {', '.join(known)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose 'train' or 'test'")


def sample(kind: str, seed: int | random.Random, split: str = "train", **options) -> Sample:
    """One text of ``kind`` with its labels. ``seed`` is a number or a ``random.Random``.

    ``options`` go to the kind's own function, e.g. ``order="ABBA"`` for "ioi",
    ``sentiment="good"`` for "opinion". Raises KeyError for an unknown kind and ValueError for an
    unknown split.
    """
    _check(kind, KINDS, split)
    return _SAMPLERS[kind](_rng(seed), split, **options)


def prompt(kind: str, seed: int | random.Random, split: str = "test", **options) -> Prompt:
    """A text of ``kind`` cut before its answer, with the right and a wrong answer."""
    _check(kind, PROMPT_KINDS, split)
    return _PROMPTERS[kind](_rng(seed), split, **options)


def document(
    seed: int | random.Random, split: str = "train", mix: Mapping[str, float] = MIX
) -> Sample:
    """A text to train on: a kind drawn from ``mix`` (relative shares of documents by kind)."""
    rng = _rng(seed)
    return sample(rng.choices(tuple(mix), tuple(mix.values()))[0], rng, split)
