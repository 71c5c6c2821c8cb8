"""Reviews and feelings: what is said later follows from what was said before.

The verdict's frame is the same for praise and blame, and other people's opinions stand in the
way, so the sentiment must be read from the evidence. Labels: ``sentiment`` ("good"/"bad"),
``thing``, ``negated`` (evidence given by denying its opposite), ``others`` (an opposite opinion
of others stands in the text). Spans: ``evidence`` words with value good/bad, ``answer``.
"""

from __future__ import annotations

import random

from .lexicon import LEXICON, NAMES
from .people import pronoun
from .text import Prompt, Sample, Writer, combination_split, cut, lines, split_pools, with_article

OPPOSITE = {"good": "bad", "bad": "good"}
ADJECTIVES = {"good": tuple(LEXICON["adjectives_good"]), "bad": tuple(LEXICON["adjectives_bad"])}
FEELINGS = {"good": tuple(LEXICON["feelings_good"]), "bad": tuple(LEXICON["feelings_bad"])}
VERBS = {"good": tuple(LEXICON["verbs_like"]), "bad": tuple(LEXICON["verbs_dislike"])}

_LISTS = split_pools(
    {
        "intro": lines("""
we tried the {thing} last week
last night I saw the {thing}
my brother told me about the {thing}
this is about the {thing}
here is what I think of the {thing}
I had heard a lot about the {thing}
everyone talks about the {thing}
we paid a lot for the {thing}
it was my first time with the {thing}
I waited a long time for the {thing}
a word about the {thing}
my family chose the {thing}
"""),
        "aspect": lines("""
the start was {adj}
the first part was {adj}
the end was {adj}
the colours were {adj}
the people there were {adj}
the price was {adj}
every minute was {adj}
the idea behind it was {adj}
the details were {adj}
the staff were {adj}
it looked {adj}
it was {adj} from the first moment
nothing was less than {adj}
we found the whole thing {adj}
I thought it was {adj}
the quality was {adj}
it seemed {adj} to me
the second half was {adj} too
"""),
        "verb": lines("""
I {verb} it
I {verb} every minute of it
we all {verb} it
my children {verb} it
my wife {verb} the {thing}
I really {verb} the {thing}
to be honest, I {verb} it
from the start I {verb} it
"""),
        "others": lines("""
some people called it {opp}, but I did not
others said it was {opp}, but they were wrong
a friend found it {opp}, but not me
I had heard that it was {opp}, but that was not true
before I came, I thought it would be {opp}
it was not {opp} at all
nobody could call it {opp}
the one next door was {opp}
last year it was still {opp}
"""),
        "verdict": lines("""
overall, it was {answer}
in short, it was {answer}
all in all, the {thing} was {answer}
to sum up, it was {answer}
in the end I found it {answer}
my opinion is that it was {answer}
so the {thing} was {answer}
I would say that it was {answer}
in a word, it was {answer}
for me the {thing} was simply {answer}
the whole evening was {answer}
if you ask me, it was {answer}
"""),
        "felt": lines("""
it made me feel {answer}
afterwards I was {answer}
we went home and felt {answer}
when it was over, I was {answer}
"""),
    }
)
_EVENTS = split_pools(
    {
        "good": lines("""
won the first prize
found the lost dog
got a letter from an old friend
passed the exam
received a nice present
saw the sea for the first time
got the new job
heard the good news
won the game
had a birthday party
met an old friend
got well again
was praised by the teacher
came home after a long time
found a gold ring
"""),
        "bad": lines("""
lost the game
lost the money
broke an arm
failed the exam
missed the last train
heard the bad news
lost the job
was left alone
had a bad dream
fell into the cold water
forgot the birthday of a friend
was shouted at by the boss
got ill again
lost the gold ring
was laughed at by the others
"""),
        "feels": lines("""
{he} felt {answer}
{he} was {answer}
everyone could see that {he} was {answer}
that is why {he} was {answer}
for the rest of the day {he} felt {answer}
{he} looked {answer}
"""),
    }
)


def review(rng: random.Random, split: str = "train", *, sentiment: str | None = None) -> Sample:
    """Evidence about a thing, then a verdict that follows from it."""

    def pick(pool):
        return rng.choice(_LISTS[pool][split])

    tone = sentiment or rng.choice(["good", "bad"])
    thing = rng.choice(LEXICON["review_things"])
    others = rng.random() < 0.2
    w = Writer()
    w.sentence(pick("intro"), {"thing": thing}, {"thing": "thing"})
    for _ in range(rng.choice([1, 2, 2, 3])):
        if rng.random() < 0.6:
            w.sentence(
                pick("aspect"), {"adj": rng.choice(ADJECTIVES[tone])}, {"adj": f"evidence_{tone}"}
            )
        else:
            w.sentence(
                pick("verb"),
                {"verb": rng.choice(VERBS[tone]), "thing": thing},
                {"verb": f"evidence_{tone}"},
            )
    if others:
        w.sentence(
            pick("others"), {"opp": rng.choice(ADJECTIVES[OPPOSITE[tone]])}, {"opp": "opposite"}
        )
    feels = rng.random() < 0.3
    words = (FEELINGS if feels else ADJECTIVES)[tone]
    w.sentence(
        pick("felt" if feels else "verdict"),
        {"answer": rng.choice(words), "thing": thing},
        {"answer": "answer"},
    )
    if rng.random() < 0.5:
        w.sentence(
            rng.choice(
                {
                    "good": [
                        "I will come back soon",
                        "I would do it again",
                        "you should try it too",
                        "I can recommend it to everyone",
                    ],
                    "bad": [
                        "I will never come back",
                        "I would not do it again",
                        "you should stay away from it",
                        "I cannot recommend it to anyone",
                    ],
                }[tone]
            )
        )
    return w.sample(
        "review",
        sentiment=tone,
        thing=thing,
        others=others,
        words="feelings" if feels else "adjectives",
    )


def feeling(rng: random.Random, split: str = "train", *, sentiment: str | None = None) -> Sample:
    """Something good or bad happens to a person, and the person feels accordingly.

    Held out are combinations of what happens and how the feeling is told.
    """
    tone = sentiment or rng.choice(["good", "bad"])
    name = rng.choice(NAMES)
    w = Writer()
    slots = {"N": name, "he": pronoun(name), "answer": rng.choice(FEELINGS[tone])}
    while True:
        event, feels = (
            rng.choice(_EVENTS[pool]["train"] + _EVENTS[pool]["test"]) for pool in (tone, "feels")
        )
        if combination_split(event, feels) == split:
            break
    w.add(
        rng.choice(["{N} " + event, "yesterday {N} " + event, "last week {N} " + event]),
        slots,
        {"N": "name"},
        capital=True,
    )
    link = rng.choice([", so", ", and", ".", "."])
    w.text += link
    w.add(
        feels,
        slots,
        {"he": "pronoun", "answer": "answer"},
        capital=link == ".",
    )
    w.text += "."
    return w.sample("feeling", sentiment=tone, thing=name, others=False, words="feelings")


def opinion(rng: random.Random, split: str = "train", *, sentiment: str | None = None) -> Sample:
    """A review, or a feeling."""
    return (review if rng.random() < 0.7 else feeling)(rng, split, sentiment=sentiment)


def taste(rng: random.Random, split: str = "train") -> Sample:
    """Short statements of liking; text to learn from."""
    tone = rng.choice(["good", "bad"])
    name, thing = rng.choice(NAMES), rng.choice(LEXICON["review_things"])
    w = Writer()
    w.sentence(
        "{N} {verb} the {thing} because it was {adj}",
        {
            "N": name,
            "verb": rng.choice(VERBS[tone]),
            "thing": thing,
            "adj": rng.choice(ADJECTIVES[tone]),
        },
        {"verb": f"evidence_{tone}", "adj": f"evidence_{tone}"},
    )
    w.sentence(
        "it was " + with_article(rng.choice(ADJECTIVES[tone])) + " {thing}", {"thing": thing}
    )
    return w.sample("taste", sentiment=tone, thing=thing, others=False, words="adjectives")


def opinion_prompt(
    rng: random.Random, split: str = "test", *, sentiment: str | None = None
) -> Prompt:
    """Cut before the verdict; the wrong answer is a word of the opposite sentiment."""
    sample = opinion(rng, split, sentiment=sentiment)
    table = FEELINGS if sample.labels["words"] == "feelings" else ADJECTIVES
    return cut(sample, rng.choice(table[OPPOSITE[str(sample.labels["sentiment"])]]))
