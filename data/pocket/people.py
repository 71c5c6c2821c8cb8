"""Texts about people: indirect objects and pronouns.

Indirect objects are composed from independent clauses (opening, meeting, what happens between,
who acts, what is done), so that neither recency, nor order, nor distance, nor the frame tells the
receiver: only which of the two present people is not the one who acts. Labels: ``IO``, ``S``,
``order`` ("ABBA" when the acting subject was named second, "BABA" when first), ``third`` (a
distractor or ""), ``verb``, ``kind``. Spans: IO1, S1, S2, third, object, place, answer.
"""

from __future__ import annotations

import random

from . import clauses as c
from .lexicon import FEMALE, LEXICON, NAMES
from .text import Prompt, Sample, Writer, combination_split, cut, share, split_pools

POOLS = split_pools(
    {
        "times": c.TIMES,
        "links": c.LINKS,
        "meetings": c.MEETINGS,
        "trios": c.TRIOS,
        "leavings": c.LEAVINGS,
        "absent": c.ABSENT,
        "scenes": c.SCENES,
        "together": c.TOGETHER,
        "alone": c.ALONE,
        "actors": c.ACTORS,
        "base_actors": c.BASE_ACTORS,
        "transfers": c.TRANSFERS,
        "others": c.OTHERS,
        "causes": c.CAUSES,
        "afterwards": c.AFTERWARDS,
        "tails": c.PRONOUN_TAILS,
        "companions": c.COMPANIONS,
        "places": [p for p in LEXICON["places"] if p not in c.NOT_AT],
        "objects": LEXICON["objects"],
    }
)
HELD_OUT_PAIRS = 0.06


def pair_split(one: str, other: str) -> str:
    """``test`` for the pairs of names that are never trained on together."""
    return "test" if share("pair", *sorted((one, other))) < HELD_OUT_PAIRS else "train"


def name_pair(rng: random.Random, split: str) -> tuple[str, str]:
    """Two different names whose pair belongs to ``split``."""
    while True:
        one, other = rng.sample(NAMES, 2)
        if pair_split(one, other) == split:
            return one, other


def third_name(rng: random.Random, *taken: str) -> str:
    """A name that is not among ``taken`` and was trained with each of them."""
    while True:
        name = rng.choice(NAMES)
        if name not in taken and all(pair_split(name, t) == "train" for t in taken):
            return name


def pronoun(name: str) -> str:
    """``she`` or ``he``."""
    return "she" if name in FEMALE else "he"


def _meeting(
    w: Writer, rng: random.Random, pick, slots: dict, roles: dict, joined: bool, trio: bool
) -> None:
    """The opening: who is there. ``joined`` leaves the sentence open for the main clause."""
    template = rng.choice(pick("trios" if trio else "meetings"))
    if joined:
        opener = rng.choice(c.SUBORDINATORS)
        w.add(f"{opener} {template},", slots, roles, capital=True)
        return
    if rng.random() < 0.6:
        template = f"{rng.choice(pick('times'))}{rng.choice([',', ''])} {template}"
    w.sentence(template, slots, roles)


def _between(
    w: Writer, rng: random.Random, pick, slots: dict, roles: dict, third_left: bool, count: int
) -> None:
    """Sentences between the meeting and the act: scenery, either of the two, an absent third."""
    if third_left:
        w.sentence(rng.choice(pick("leavings")), slots, roles)
    for _ in range(count):
        what = rng.choice(["scenes", "together", "alone", "alone", "absent"])
        if what == "absent" and ("C" not in slots or third_left):
            what = "alone"
        person = rng.choice("AB")
        w.sentence(
            rng.choice(pick(what)), {**slots, "P": slots[person]}, {**roles, "P": roles[person]}
        )


def _act(
    w: Writer,
    rng: random.Random,
    pick,
    slots: dict,
    roles: dict,
    joined: bool,
    transfer: bool | None,
) -> str:
    """The main clause up to the receiver. Returns the verb's base form."""
    if transfer is None:
        transfer = rng.random() < 0.62
    past, base, rest = rng.choice(pick("transfers" if transfer else "others")).split("|")
    in_base = rng.random() < 0.25
    actor = rng.choice(pick("base_actors" if in_base else "actors"))
    phrase = f"{actor} {base if in_base else past} {rest}".strip()
    if joined:
        w.add(phrase, slots, roles)
    else:
        if rng.random() < 0.5:
            phrase = f"{rng.choice(pick('links'))}{rng.choice([',', ',', ''])} {phrase}"
        w.add(phrase, slots, roles, capital=True)
    return base


def _cast(
    rng: random.Random, split: str, pick, order: str | None, names: tuple[str, str] | None
) -> tuple[dict, dict, dict]:
    """Slots, roles and labels: who is there, who acts, what is handed over, where."""
    one, other = names or name_pair(rng, split)
    order = order or rng.choice(["ABBA", "BABA"])
    subject, receiver = (other, one) if order == "ABBA" else (one, other)
    slots = {
        "A": one,
        "B": other,
        "S": subject,
        "IO": receiver,
        "place": rng.choice(pick("places")),
        "obj": rng.choice(pick("objects")),
    }
    first, second = ("IO1", "S1") if order == "ABBA" else ("S1", "IO1")
    roles = {
        "A": first,
        "B": second,
        "S": "S2",
        "C": "third",
        "P": "mention",
        "obj": "object",
        "place": "place",
    }
    return slots, roles, {"IO": receiver, "S": subject, "order": order}


def ioi(
    rng: random.Random,
    split: str = "train",
    *,
    order: str | None = None,
    transfer: bool | None = None,
    between: int | None = None,
    third: bool | None = None,
    joined: bool | None = None,
    names: tuple[str, str] | None = None,
    clauses: str | None = None,
    tail: bool = True,
) -> Sample:
    """A text in which one of two people does something to the other.

    ``split`` chooses pairs of names, ``clauses`` the clause lists (default: those of ``split``);
    ``between`` is the number of sentences between meeting and act, ``third`` adds a third name,
    ``joined`` puts the meeting in a subordinate clause ("When A and B went …, A gave").
    """

    def pick(pool):
        return POOLS[pool][clauses or split]

    slots, roles, labels = _cast(rng, split, pick, order, names)
    third = rng.random() < 0.3 if third is None else third
    if third:
        slots["C"] = third_name(rng, slots["A"], slots["B"])
    trio = third and rng.random() < 0.35
    joined = (not trio and rng.random() < 0.4) if joined is None else joined
    count = (
        between
        if between is not None
        else (0 if joined else rng.choices([0, 1, 2, 3], [4, 4, 3, 1])[0])
    )
    w = Writer()
    if third and not trio and rng.random() < 0.3:
        w.sentence(rng.choice([a for a in pick("absent") if "they" not in a]), slots, roles)
    _meeting(w, rng, pick, slots, roles, joined, trio)
    if not joined:
        _between(w, rng, pick, slots, roles, trio, max(count, int(third and not trio)))
    verb = _act(w, rng, pick, slots, roles, joined, transfer)
    if tail and rng.random() < 0.06:
        w.end(rng.choice(c.OUTSIDERS))
        return w.sample("ioi_outsider", **labels, third=slots.get("C", ""), verb=verb)
    w.add("{IO}", slots, {"IO": "answer"})
    w.text += "."
    if tail and rng.random() < 0.5:
        name = slots["IO"]
        subject = (
            rng.choice([name, pronoun(name)])
            if (name in FEMALE) != (slots["S"] in FEMALE)
            else name
        )
        w.sentence(rng.choice(pick("afterwards")), {"subject": subject}, {"subject": "mention"})
    return w.sample("ioi", **labels, third=slots.get("C", ""), verb=verb)


def trio_subjects(rng: random.Random, split: str = "train") -> Sample:
    """Three people are there and two of them act together: the third receives."""

    def pick(pool):
        return POOLS[pool][split]

    one, other = name_pair(rng, split)
    names = [one, other, third_name(rng, one, other)]
    rng.shuffle(names)
    slots = dict(
        zip("ABC", names, strict=False),
        place=rng.choice(pick("places")),
        obj=rng.choice(pick("objects")),
    )
    receiver = rng.choice("ABC")
    givers = [k for k in "ABC" if k != receiver]
    rng.shuffle(givers)
    roles = {k: ("IO1" if k == receiver else "S1") for k in "ABC"} | {
        "obj": "object",
        "place": "place",
    }
    w = Writer()
    w.sentence(rng.choice(pick("trios")), slots, roles)
    if rng.random() < 0.5:
        w.sentence(rng.choice(pick("scenes")))
    past, base, rest = rng.choice(pick("transfers")).split("|")
    again = {
        "X": slots[givers[0]],
        "Y": slots[givers[1]],
        "R": slots[receiver],
        "obj": slots["obj"],
    }
    w.add(
        rng.choice(["{X} and {Y} ", "then {X} and {Y} ", "later, {X} and {Y} "])
        + f"{past} {rest} {{R}}",
        again,
        {"X": "S2", "Y": "S2", "R": "answer", "obj": "object"},
        capital=True,
    )
    w.text += "."
    return w.sample(
        "ioi_trio", IO=slots[receiver], S=again["X"], order="trio", third=again["Y"], verb=base
    )


def ioi_prompt(rng: random.Random, split: str = "test", **options) -> Prompt:
    """An indirect-object text cut before the receiver; the wrong answer is the one who acts."""
    sample = ioi(rng, split, tail=False, **options)
    return cut(sample, str(sample.labels["S"]))


def pronouns(rng: random.Random, split: str = "train", *, companion: bool | None = None) -> Sample:
    """A clause whose subject is taken up by a pronoun; another person often stands nearer.

    Labels: ``name``, ``gender``, ``other`` (a name of the other gender, or ""). The pronoun is
    the answer. Held out are pairs of names, and combinations of the clauses before the pronoun.
    """

    def pick(pool):
        return POOLS[pool]["train"] + POOLS[pool]["test"]

    name, other = name_pair(rng, split)
    while (name in FEMALE) == (other in FEMALE):
        name, other = name_pair(rng, split)
    companion = rng.random() < 0.6 if companion is None else companion
    slots = {"N": name, "B": other, "he": pronoun(name)}
    while True:
        frame = rng.choice(pick("companions")) if companion else "{N}"
        if not companion and rng.random() < 0.5:
            frame = f"{rng.choice(pick('times'))}, {{N}}"
        cause = rng.choice(pick("causes"))
        if combination_split(frame, cause) == split:
            break
    w = Writer()
    if rng.random() < 0.3:
        w.sentence(rng.choice(pick("scenes")))
    w.add(f"{frame} {cause}", slots, {"N": "name", "B": "other"}, capital=True)
    w.add("{he}", slots, {"he": "answer"})
    w.end(rng.choice(pick("tails")))
    return w.sample(
        "pronouns",
        name=name,
        gender="female" if name in FEMALE else "male",
        other=other if companion else "",
    )


def possessives(rng: random.Random, split: str = "train") -> Sample:
    """Object and possessive pronouns, and names of one gender in a row; text to learn from."""
    name, other = name_pair(rng, split)
    she = name in FEMALE
    slots = {
        "N": name,
        "B": other,
        "he": "she" if she else "he",
        "him": "her" if she else "him",
        "his": "her" if she else "his",
    }
    template = rng.choice(
        [
            "{N} lost {his} key, and {he} looked for it all day",
            "{N} took {his} coat and went home",
            "everyone liked {N}, and people often visited {him}",
            "{N} called {his} mother because {he} was ill",
            "{N} was hungry, so {B} gave {him} some bread",
            "{N} loved {his} dog, and the dog loved {him}",
            "{N} wrote a letter to {his} brother, who lived far from {him}",
            "{N} told {his} sister that {he} was tired",
            "{N} asked {B} for help, but {B} did not hear {him}",
            "{N} was proud of {his} work",
        ]
    )
    w = Writer()
    w.sentence(template, slots, {"N": "name", "he": "pronoun", "him": "pronoun", "his": "pronoun"})
    return w.sample("possessives", name=name, gender="female" if she else "male", other=other)


def pronoun_prompt(rng: random.Random, split: str = "test", **options) -> Prompt:
    """Cut before the pronoun; the wrong answer is the other gender's."""
    sample = pronouns(rng, split, **options)
    return cut(sample, "he" if sample.labels["gender"] == "female" else "she")
