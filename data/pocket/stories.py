"""Short stories that keep to their hero, and passages said twice with small changes.

Stories label the ``hero``, the ``gender`` and the ``wish``. Passages ("fuzzy") repeat a sentence
with some words changed; the second half is labelled by its start, so that induction on natural
text can be scored.
"""

from __future__ import annotations

import random

from .lexicon import FEMALE, LEXICON, NAMES
from .text import Sample, Writer, lines, split_pools

_POOLS = split_pools(
    {
        "start": lines("""
once upon a time there was a little {animal} named {N}
there was once {an} {animal} whose name was {N}
a long time ago {an} {animal} called {N} lived near {place}
{N} was a small {animal} who lived behind {place}
in a quiet village lived {an} {animal} named {N}
near {place} there lived a young {animal} called {N}
"""),
        "wish": lines("""
{N} wanted to find {obj}
more than anything, {N} wished for {obj}
every day {N} dreamed of {obj}
{N} had heard of {obj} and wanted to see it
{N} had lost {obj} and was very sad
one morning {N} went out to look for {obj}
"""),
        "trouble": lines("""
but the way was long and {he} was afraid
but {he} did not know where to look
on the way {he} met {other}, who was not friendly
then it began to rain and {he} had to wait under a tree
{he} asked {other}, but nobody could help {him}
a big wind came and {he} lost {his} way
at the river {he} could not cross the water
in the dark forest {he} heard a strange noise
{he} walked all day until {he} was very tired
night came, and {he} slept under the stars
"""),
        "help": lines("""
then {other} came and helped {him}
{other} showed {him} the way
at last {he} saw a light far away
{he} did not give up and went on
{he} remembered what {his} mother had said
{other} gave {him} some food and told {him} where to go
"""),
        "end": lines("""
in the end {N} found {obj} and went home happy
so {N} came home with {obj}, and {his} friends were glad
at last {he} had {obj}, and {he} never forgot that day
and {N} lived happily from that day on
then {N} knew that home was the best place of all
{he} shared {obj} with everyone, and they danced all night
"""),
        "passages": lines("""
the {adj} {animal} ate the {food} near {place}
every morning the {profession} walked from {place} to the old bridge
{N} put the {food} and the {food2} on the table in {place}
the {profession} told {N} about the {adj} {animal} behind {place}
on the hill there is a {adj} house where the {profession} lives with {N}
when the {animal} came to {place}, {N} closed the door
the {adj} road leads from {place} to the river and the {profession} knows it
{N} sold the {food} to the {profession} who came from {place}
no {animal} ever liked the {food} as much as {N} did at {place}
"""),
        "again": lines("""
as I said before,
again:
once more:
they say that
and so
people still tell that
the other book says that
she repeated:
"""),
    }
)
_PLAIN = (
    "old",
    "young",
    "big",
    "small",
    "red",
    "white",
    "black",
    "green",
    "tall",
    "quiet",
    "brown",
    "grey",
)


def story(rng: random.Random, split: str = "train") -> Sample:
    """Start, wish, trouble, help, end: one hero throughout, taken up by name and pronoun."""

    def pick(pool):
        return rng.choice(_POOLS[pool][split])

    hero, animal = rng.choice(NAMES), rng.choice(LEXICON["animals"])
    she = hero in FEMALE
    slots = {
        "N": hero,
        "animal": animal,
        "an": "an" if animal[0] in "aeiou" else "a",
        "place": rng.choice(LEXICON["places"]),
        "obj": rng.choice(LEXICON["objects"]),
        "he": "she" if she else "he",
        "him": "her" if she else "him",
        "his": "her" if she else "his",
    }
    roles = {"N": "hero", "he": "pronoun", "him": "pronoun", "his": "pronoun", "obj": "wish"}
    w = Writer()
    for pool in [
        "start",
        "wish",
        *rng.choices(["trouble", "help"], [3, 2], k=rng.choice([1, 2, 3])),
        "end",
    ]:
        w.sentence(pick(pool), {**slots, "other": "the " + rng.choice(LEXICON["animals"])}, roles)
    return w.sample("story", hero=hero, gender="female" if she else "male", wish=slots["obj"])


def fuzzy(rng: random.Random, split: str = "train") -> Sample:
    """A passage, then the same passage again with about a quarter of its words changed."""
    template = rng.choice(_POOLS["passages"][split])

    def fill():
        return {
            "adj": rng.choice(_PLAIN),
            "animal": rng.choice(LEXICON["animals"]),
            "food": rng.choice(LEXICON["foods"]),
            "food2": rng.choice(LEXICON["foods"]),
            "place": rng.choice(LEXICON["places"]),
            "profession": rng.choice(LEXICON["professions"]),
            "N": rng.choice(NAMES),
        }

    slots, other = fill(), fill()
    again = {k: (other[k] if rng.random() < 0.25 else v) for k, v in slots.items()}
    w = Writer()
    w.sentence(template, slots)
    if rng.random() < 0.4:
        w.sentence(rng.choice(_POOLS["passages"][split]), fill())
    start = len(w.text) + 1
    lead = rng.choice(_POOLS["again"][split]) + " " if rng.random() < 0.6 else ""
    w.sentence(
        lead + template, again, {k: ("changed" if again[k] != slots[k] else "kept") for k in slots}
    )
    return w.sample(
        "fuzzy", second_start=start, changed=tuple(k for k in slots if again[k] != slots[k])
    )
