"""True facts of the world in many phrasings.

A phrasing asks for one relation and ends before the answer. Which (fact, phrasing) pairs are held
out is decided by a hash, so every fact is trained in most phrasings and every phrasing with most
facts; the held-out pairs are new combinations. Labels: ``relation``, ``subject``, ``answer``,
``phrasing`` (its index). Spans: ``subject`` and ``answer``.
"""

from __future__ import annotations

import random

from .lexicon import FACTS
from .text import Prompt, Sample, Writer, cut, share

HELD_OUT_FACTS = 0.12
_BY_SUBJECT: dict[str, list[tuple[str, str]]] = {}
for _relation, _spec in FACTS.items():
    for _subject, _answer in _spec["facts"]:
        _BY_SUBJECT.setdefault(_subject, []).append((_relation, _answer))
_SUBJECTS = tuple(_BY_SUBJECT)
_RELATIONS = tuple(FACTS)


def fact_split(relation: str, subject: str, phrasing: int) -> str:
    """Whether this fact in this phrasing is trained on or tested with."""
    return "test" if share("fact", relation, subject, phrasing) < HELD_OUT_FACTS else "train"


def phrasings(relation: str, subject: str, split: str) -> list[int]:
    """The indices of the phrasings of a relation that belong to ``split`` for this subject."""
    return [
        i
        for i in range(len(FACTS[relation]["phrasings"]))
        if fact_split(relation, subject, i) == split
    ]


def _state(
    w: Writer,
    rng: random.Random,
    split: str,
    relation: str,
    subject: str,
    answer: str,
    role: str = "answer",
) -> int | None:
    """Write one fact as a sentence; ``None`` where the split has no phrasing for it."""
    choices = phrasings(relation, subject, split)
    if not choices:
        return None
    index = rng.choice(choices)
    template = FACTS[relation]["phrasings"][index]
    w.add(
        template + " {answer}",
        {"s": subject, "answer": answer},
        {"s": "subject", "answer": role},
        capital=True,
    )
    w.text += "."
    return index


def fact(rng: random.Random, split: str = "train", *, relation: str | None = None) -> Sample:
    """One fact in one phrasing."""
    while True:
        name = relation or rng.choice(_RELATIONS)
        subject, answer = rng.choice(FACTS[name]["facts"])
        w = Writer()
        index = _state(w, rng, split, name, subject, answer)
        if index is not None:
            return w.sample("fact", relation=name, subject=subject, answer=answer, phrasing=index)


def profile(rng: random.Random, split: str = "train") -> Sample:
    """Several facts about one subject, or one relation for several: a text with a topic."""
    w = Writer()
    if rng.random() < 0.5:
        subject = rng.choice(_SUBJECTS)
        known = [(r, subject, a) for r, a in _BY_SUBJECT[subject]]
    else:
        relation = rng.choice(_RELATIONS)
        known = [(relation, s, a) for s, a in rng.sample(FACTS[relation]["facts"], 3)]
    rng.shuffle(known)
    for relation, subject, answer in known[:4]:
        _state(w, rng, split, relation, subject, answer)
    if not w.text:
        return fact(rng, split)
    return w.sample(
        "profile", relation=known[0][0], subject=known[0][1], answer=known[0][2], phrasing=-1
    )


def all_facts() -> list[tuple[str, str, str]]:
    """Every (relation, subject, answer)."""
    return [(r, s, a) for r, spec in FACTS.items() for s, a in spec["facts"]]


def wrong_answer(rng: random.Random, relation: str, answer: str) -> str:
    """Another answer of the same relation."""
    others = sorted({a for _, a in FACTS[relation]["facts"]} - {answer})
    return rng.choice(others)


def fact_prompt(rng: random.Random, split: str = "test", *, relation: str | None = None) -> Prompt:
    """A fact cut before its answer; the wrong answer belongs to another subject of the relation."""
    sample = fact(rng, split, relation=relation)
    return cut(
        sample, wrong_answer(rng, str(sample.labels["relation"]), str(sample.labels["answer"]))
    )
