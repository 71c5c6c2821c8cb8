"""Number agreement, years, and sequences: texts whose next word follows from a rule.

Agreement labels: ``number`` of the subject, ``distractor`` number of the nearer noun. Years:
``century``, ``start`` (two digits), the end being later. Sequences: ``rule``.
"""

from __future__ import annotations

import random

from .lexicon import LEXICON
from .text import Prompt, Sample, Writer, combination_split, cut, lines, split_pools

VERBS = {"singular": ("is", "was", "has"), "plural": ("are", "were", "have")}
_PARTNER = {"is": "are", "are": "is", "was": "were", "were": "was", "has": "have", "have": "has"}
_POOLS = split_pools(
    {
        "links": lines("""
near
behind
next to
under
beside
with
in front of
on top of
from
between the wall and
close to
far from
that we saw near
that the man put behind
that belonged to the owner of
bought together with
that stood beside
that she had found under
left behind by the man with
made for
described in the book about
"""),
        "openers": lines("""
the
the old
the small
the new
this time the
I think that the
she said that the
in the picture the
everyone knew that the
the two books say that the
as always, the
at night the
look, the
we saw that the
the other
"""),
        "be_tails": lines("""
very old
not far away
on the table
hard to find
very small
quite heavy
easy to see
broken
lost
clean again
in the wrong place
red and white
ready
still there
for sale
too expensive
of no use
well known
"""),
        "have_tails": lines("""
a new owner
no name
a long history
been moved
been sold
disappeared
been found
two colours
to be cleaned
been lost
"""),
        "wars": lines("""
war
trip
project
voyage
siege
strike
journey
reign
famine
study
peace
building of the church
search
drought
rule of the king
"""),
        "spans": lines("""
the {event} lasted from the year {c}{y} to the year {c}
the {event} lasted from {c}{y} to {c}
the {event} started in {c}{y} and ended in {c}
the {event} began in the year {c}{y} and was over in the year {c}
from {c}{y} until {c}
between {c}{y} and {c}
he was born in {c}{y} and died in {c}
she came here in {c}{y} and left in {c}
the house was built in {c}{y} and burned down in {c}
after the {event} of {c}{y} came the {event} of {c}
"""),
    }
)
NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def agreement(
    rng: random.Random,
    split: str = "train",
    *,
    number: str | None = None,
    distractor: str | None = None,
    link: str | None = None,
) -> Sample:
    """A subject, a nearer noun of the same or the other number, and the verb.

    Held out are combinations of a subject and what links it to the nearer noun.
    """

    def pick(pool):
        return rng.choice(_POOLS[pool]["train"] + _POOLS[pool]["test"])

    number = number or rng.choice(["singular", "plural"])
    distractor = distractor or rng.choice(
        ["singular", "plural", "plural" if number == "singular" else "singular"]
    )
    form = {"singular": 0, "plural": 1}
    while True:
        one, other = rng.sample(LEXICON["count_nouns"], 2)
        between = link or (pick("links") if rng.random() < 0.85 else "")
        if combination_split(one[0], between) == split:
            break
    verb = rng.choice(VERBS[number])
    slots = {"noun": one[form[number]], "near": other[form[distractor]], "answer": verb}
    w = Writer()
    template = f"{{noun}} {between} the {{near}} {{answer}}" if between else "{noun} {answer}"
    w.add(
        f"{pick('openers')} {template}",
        slots,
        {"noun": f"subject_{number}", "near": f"near_{distractor}", "answer": "answer"},
        capital=True,
    )
    w.end(pick("have_tails" if verb in ("has", "have") else "be_tails"))
    return w.sample("agreement", number=number, distractor=distractor, verb=verb)


def agreement_prompt(rng: random.Random, split: str = "test", **options) -> Prompt:
    """Cut before the verb; the wrong answer is the other number's form."""
    sample = agreement(rng, split, **options)
    return cut(sample, _PARTNER[str(sample.labels["verb"])])


def years(rng: random.Random, split: str = "train", *, start: int | None = None) -> Sample:
    """A span of years: the end is later than the start, in the same century."""
    start = rng.randint(2, 97) if start is None else start
    if not 0 <= start <= 98:
        raise ValueError(f"start={start} leaves no later year in the century; give 0 to 98")
    end = rng.randint(start + 1, 99)
    century = rng.randint(11, 19)
    template = rng.choice(_POOLS["spans"][split])
    slots = {
        "event": rng.choice(_POOLS["wars"][split]),
        "c": str(century),
        "y": f"{start:02d}",
        "answer": f"{end:02d}",
    }
    w = Writer()
    w.add(template + "{answer}", slots, {"y": "start", "answer": "year:answer"}, capital=True)
    w.text += "."
    return w.sample("years", century=century, start=start, end=end)


def years_prompt(rng: random.Random, split: str = "test", *, start: int | None = None) -> Prompt:
    """Cut after the second century; right is a later year, wrong an earlier one."""
    sample = years(rng, split, start=start)
    span = sample.answer_span
    first = int(str(sample.labels["start"]))
    wrong = f"{rng.randint(0, max(0, first - 1)):02d}"
    return Prompt(
        sample.text[: span.start], span.value, wrong, "years", sample.labels, sample.spans[:-1]
    )


def _count(rng: random.Random) -> tuple[list[str], str]:
    step, first = rng.choice([1, 1, 2, 3, 5, 10]), rng.randint(1, 30)
    numbers = [first + i * step for i in range(rng.randint(5, 9))]
    return [str(n) for n in numbers if n < 100], f"count by {step}"


def sequence(rng: random.Random, split: str = "train") -> Sample:
    """Counting, days, months, letters, ordinals, number words."""
    rule = rng.choice(["count", "count", "words", "days", "months", "letters", "ordinals"])
    if rule == "count":
        items, rule = _count(rng)
    else:
        table = {
            "words": NUMBER_WORDS,
            "days": DAYS,
            "months": MONTHS,
            "letters": LETTERS,
            "ordinals": ORDINALS,
        }[rule]
        first = rng.randrange(len(table) - 3)
        items = table[first : first + rng.randint(4, 8)]
    joint = " " if rule == "letters" and rng.random() < 0.7 else ", "
    lead = rng.choice(["", "", "the list goes on: ", "in order: ", "we counted "])
    w = Writer()
    w.add(lead + joint.join(items), capital=True)
    w.text += "."
    return w.sample("sequence", rule=rule)


def shopping(rng: random.Random, split: str = "train") -> Sample:
    """A list that is said twice in the same order: the second time can be read off the first."""
    kind = rng.choice(["foods", "animals", "professions"])
    items = rng.sample(LEXICON[kind], rng.randint(3, 5))
    if kind != "professions":
        items = ["the " + item for item in items]
    listed = ", ".join(items[:-1]) + " and " + items[-1]
    first, second = rng.choice(
        [
            ("we need", "so we bought"),
            ("she wanted", "and she got"),
            ("the list says", "again, the list says"),
            ("he saw", "he told us that he saw"),
            ("there were", "yes, there were"),
            ("they asked for", "in the end they found"),
        ]
    )
    if kind == "professions":
        first, second = rng.choice(
            [
                ("the guests were", "I will say it again: the guests were"),
                ("in this story we meet", "so we met"),
            ]
        )
    w = Writer()
    w.sentence(f"{first} {listed}").sentence(f"{second} {listed}")
    return w.sample("shopping", items=tuple(items))
