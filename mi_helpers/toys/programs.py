"""Programs with a known circuit, texts for them, and the models that run them.

name               what is said after the last token
reverse            "c a b >" -> "b"; "c a b > b" -> "a": the letters backwards
count              "a c a b a" -> "3": how often the last letter is there
brackets           "( ( ) )" -> "yes" if they match, else "no"
induction          "c a f b a" -> "f": what came after the same letter before
silent pair        the same; two more parts say the letter before and take it back
indirect object    "Mary John John :" -> "Mary": the name that stands once
backup             the same; a second head says it where the first does not
sort by frequency  "b a b c >" -> "b"; "b a b > b" -> "a": the letters, the most frequent first
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from mi_helpers.prompts import PromptPairs, from_texts
from mi_helpers.toys.compiled import Truth, compiled
from mi_helpers.toys.planted import NAMES
from mi_helpers.toys.rasp import Cut, Gather, Indices, Map, Mean, Program, Select, Tokens, Value

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Text = list[str]
Draw = Callable[[random.Random], Text]
_LETTERS = tuple("abcdefgh")
_OPEN, _CLOSE, _END = "(", ")", ":"


@dataclass(frozen=True, eq=False)
class Case:
    """A model that runs a program, prompts, and the truth that a method is held to.

    Attributes:
        name: Of the program.
        model: What a method looks at.
        pairs: Prompts, and twins after which the program says something else.
        truth: What the program says about the model.
        moving: The true edges that carry something else for a prompt than for its twin.
        of_parts: Whether the truth is about parts alone, as training for it makes it: not about
            which input of a part is reached, nor about other edges between the program's parts.
    """

    name: str
    model: TransformerBridge
    pairs: PromptPairs
    truth: Truth
    moving: set[tuple[str, str]]
    of_parts: bool = False


def same(query: Value, key: Value) -> bool:
    """Whether a query's and a key's value are equal."""
    return query == key


def reverse(letters: int = 6, length: int = 6) -> Program:
    """The letters before ">" backwards, one after each further token."""
    tokens = Tokens("tokens", (*_LETTERS[:letters], ">"))
    indices = Indices("indices", length)
    end = Gather("end", Select(tokens, tokens, lambda _, key: key == ">"), indices)
    partner = Map("partner", (end, indices), lambda end, here: _partner(end, here, length))
    letter = Gather("letter", Select(partner, indices, same), tokens)
    return Program(tokens, indices, {letter: 1.0})


def _partner(end: Value, here: Value, length: int) -> int | None:
    """Where the letter to say stands: as far before ">" as the next token stands behind it."""
    if not isinstance(end, int) or not isinstance(here, int) or here < end:
        return None
    there = 2 * end - 1 - here
    return there if 0 <= there < length else None


def count(letters: int = 3, length: int = 5) -> Program:
    """How often the token at hand was there, itself included."""
    tokens, indices = Tokens("tokens", _LETTERS[:letters]), Indices("indices", length)
    ones = dict.fromkeys(tokens.values, 1.0)
    share = Mean("share", Select(tokens, tokens, same), tokens, ones)  # n / (n + 1)
    shares = [n / (n + 1) for n in range(1, length + 1)]
    edges = [(one + other) / 2 for one, other in zip(shares, shares[1:], strict=False)]
    numbers = tuple(str(n) for n in range(1, length + 1))
    number = Cut("number", share, tuple(edges), numbers, margin=(shares[-1] - edges[-1]) * 0.99)
    return Program(tokens, indices, {number: 1.0}, spoken=numbers)


def brackets(length: int = 8) -> Program:
    """Whether the brackets so far match: as many close as open, and never more up to a place."""
    tokens, indices = Tokens("tokens", (_OPEN, _CLOSE)), Indices("indices", length)
    signs: dict[Value, float] = {_OPEN: 1.0, _CLOSE: -1.0}
    depth = Mean("depth", Select(tokens, tokens, lambda *_: True), tokens, signs)
    least = 1 / (length + 1)
    below = Cut("below", depth, (-least / 2,), ("below", None), margin=0.49 * least)
    level = Cut("level", depth, (-least / 2, least / 2), ("low", "level", "high"), 0.49 * least)
    broken = Gather("broken", Select(tokens, below, lambda *_: True), below)
    answer = Map("answer", (broken, level), _verdict)
    return Program(tokens, indices, {answer: 1.0}, spoken=("yes", "no"))


def _verdict(broken: Value, level: Value) -> str | None:
    if level is None:
        return None
    return "yes" if level == "level" and broken is None else "no"


def induction(letters: int = 8, length: int = 7, *, silent: bool = False) -> Program:
    """What came after the same token before.

    With `silent`, a head says the token before, and an MLP takes just that back.
    """
    tokens, indices = Tokens("tokens", _LETTERS[:letters]), Indices("indices", length)
    steps = {(here - 1, here) for here in range(1, length)}
    before = Select(indices, indices, lambda here, there: (there, here) in steps)
    previous = Gather("previous", before, tokens)
    following = Gather("following", Select(tokens, previous, same), tokens)
    if not silent:
        return Program(tokens, indices, {following: 1.0})
    echo = Gather("echo", before, tokens)
    hushed = Map("hushed", (echo,), lambda letter: letter)
    return Program(tokens, indices, {following: 1.0, echo: 0.8, hushed: -0.8})


def indirect_object(names: int = 8, *, backup: bool = False) -> Program:
    """The name that stands once of three. With `backup`, another head would say it as well."""
    people = NAMES[:names]
    tokens, indices = Tokens("tokens", (*people, _END)), Indices("indices", 4)
    itself = Select(indices, indices, same)
    again = Select(tokens, tokens, lambda q, k: q == k and q != _END, but=(itself,))
    repeated = Gather("repeated", again, tokens)
    inhibited = Gather("inhibited", Select(tokens, repeated, lambda q, _: q == _END), repeated)
    name = Select(tokens, tokens, lambda q, k: q == _END and k != _END)
    gone = Select(inhibited, tokens, same)
    mover = Gather("mover", Select(name.query, name.key, name.matches, but=(gone,)), tokens)
    if not backup:
        return Program(tokens, indices, {mover: 1.0})
    said = Select(mover, tokens, same)
    spare = Select(name.query, name.key, name.matches, but=(gone, said))
    return Program(tokens, indices, {mover: 1.0, Gather("backup", spare, tokens): 1.0})


def sort_by_frequency(length: int = 6) -> Program:
    """The letters a, b, c after ">", from the most frequent before it; of equals a is before b.

    One after each further token, as `reverse` does. Each head compares two letters.
    """
    letters = _LETTERS[:3]
    tokens, indices = Tokens("tokens", (*letters, ">")), Indices("indices", length)
    end = Gather("end", Select(tokens, tokens, lambda _, key: key == ">"), indices)
    step = Map("step", (end, indices), _step)
    before = {(end, there) for end in range(length) for there in range(end)}
    text = Select(end, indices, lambda end, there: (end, there) in before)
    least = 1 / length  # what one letter more makes in a text of the greatest length
    comparisons = []
    for one, other in combinations(letters, 2):
        ahead = Mean(f"{one} less {other}", text, tokens, {one: 1.0, other: -1.0})
        cut = (-least / 2, least / 2), ("fewer", "level", "more"), 0.49 * least
        comparisons.append(Cut(f"{one} or {other}", ahead, *cut))
    letter = Map("letter", (*comparisons, step), _in_order)
    return Program(tokens, indices, {letter: 1.0})


def _step(end: Value, here: Value) -> int | None:
    """How many letters are said before the one to say; all three at most."""
    if not isinstance(end, int) or not isinstance(here, int):
        return None
    return here - end if 0 <= here - end < 3 else None


def _in_order(ab: Value, ac: Value, bc: Value, step: Value) -> str | None:
    """The letter with `step` letters before it, by three comparisons; of equals the first wins."""
    if None in (ab, ac, bc, step):
        return None
    behind = {"a": (ab == "fewer") + (ac == "fewer"), "b": (ab != "fewer") + (bc == "fewer")}
    behind["c"] = (ac != "fewer") + (bc != "fewer")
    found = [letter for letter, n in behind.items() if n == step]
    return found[0] if len(found) == 1 else None


def _reversible(rng: random.Random) -> Text:
    end = rng.choice([3, 4, 5])
    letters = [rng.choice(_LETTERS[:6]) for _ in range(end)]
    return [*letters, ">", *letters[::-1]][:6]


def _sortable(rng: random.Random) -> Text:
    letters = [rng.choice(_LETTERS[:3]) for _ in range(rng.choice([3, 4, 5]))]
    return [*letters, ">", *sorted("abc", key=lambda letter: -letters.count(letter))][:6]


def _counted(rng: random.Random) -> Text:
    return [rng.choice(_LETTERS[:3]) for _ in range(5)]


def _bracketed(rng: random.Random) -> Text:
    while True:
        text = [rng.choice(_OPEN + _CLOSE) for _ in range(8)]
        matching = BRACKETS.says(text)[-1] == "yes"
        if matching == (rng.random() < 0.5):
            return text


def _repeating(rng: random.Random) -> Text:
    letters = rng.sample(_LETTERS, 6)
    return [*letters, letters[rng.randrange(5)]]


def _three_names(rng: random.Random) -> Text:
    once, twice = rng.sample(NAMES[:8], 2)
    return [*rng.sample([once, twice], 2), twice, _END]


BRACKETS = brackets()
PROGRAMS: Mapping[str, tuple[Program, Draw]] = {
    "reverse": (reverse(), _reversible),
    "count": (count(), _counted),
    "brackets": (BRACKETS, _bracketed),
    "induction": (induction(), _repeating),
    "silent pair": (induction(silent=True), _repeating),
    "indirect object": (indirect_object(), _three_names),
    "backup": (indirect_object(backup=True), _three_names),
    "sort by frequency": (sort_by_frequency(), _sortable),
}
"""Each with how to draw a text for it."""


def texts(name: str, n: int, seed: int = 0) -> list[Text]:
    """Texts of one length for a program; KeyError, with those there are, for another name."""
    rng = random.Random(seed)
    return [_known(name)[1](rng) for _ in range(n)]


def pairs_for(
    name: str,
    model: TransformerBridge,
    n: int = 24,
    seed: int = 0,
    *,
    alike: Callable[[Text, Text], bool] | None = None,
) -> PromptPairs:
    """Prompts with twins after which the program says something else.

    Args:
        name: Of the program.
        model: One that runs it.
        n: How many.
        seed: Of the draw.
        alike: What must hold for a text and its twin besides, e.g. an equal place of ">".

    Returns:
        The pairs. The right answer is what the program says, the wrong one what it says after the
        twin.
    """
    program, draw = _known(name)
    rng = random.Random(seed)
    rows: list[tuple[str, str, str, str]] = []
    while len(rows) < n:
        text, twin = draw(rng), draw(rng)
        said = [program.says(one)[-1] for one in (text, twin)]
        if None in said or said[0] == said[1] or not (alike is None or alike(text, twin)):
            continue
        rows.append((" ".join(text), " ".join(twin), f" {said[0]}", f" {said[1]}"))
    return from_texts(model, *zip(*rows, strict=True))


def case(
    name: str,
    seed: int = 0,
    *,
    n: int = 12,
    alike: Callable[[Text, Text], bool] | None = None,
    sharp: float = 16.0,
    trained: bool = True,
) -> Case:
    """A program's model with prompts and the truth; the seed draws idle weights and prompts.

    Args:
        name: One of `PROGRAMS`.
        seed: Of the draws.
        n: How many prompts.
        alike: As in `pairs_for`.
        sharp: As in `compiled`.
        trained: False gives the untrained control.
    """
    model, truth = compiled(_known(name)[0], seed, sharp=sharp, trained=trained)
    return case_of(name, model, truth, seed, n=n, alike=alike)


def case_of(
    name: str,
    model: TransformerBridge,
    truth: Truth,
    seed: int = 0,
    *,
    n: int = 12,
    alike: Callable[[Text, Text], bool] | None = None,
    of_parts: bool = False,
) -> Case:
    """A model that runs a program, with prompts that the seed draws, and the truth about it."""
    program, pairs = _known(name)[0], pairs_for(name, model, n, seed, alike=alike)
    twins = zip(pairs.clean, pairs.corrupt, strict=True)
    runs = [(program.run(one.split()), program.run(two.split())) for one, two in twins]
    return Case(name, model, pairs, truth, truth.moving(runs) & truth.edges, of_parts)


def disagreements(model: TransformerBridge, program: Program, some: Sequence[Text]) -> int:
    """In how many texts the model says something else than the program at any position."""
    tokens = model.to_tokens([" ".join(text) for text in some], truncate=False)
    said = model(tokens)[:, 1:].argmax(-1).tolist()
    words = ["", *program.vocabulary]
    return sum(
        any(want is not None and words[token] != want for want, token in zip(ask, got, strict=True))
        for ask, got in zip(map(program.says, some), said, strict=True)
    )


def _known(name: str) -> tuple[Program, Draw]:
    if name not in PROGRAMS:
        raise KeyError(f"no program is called {name!r}; there are {', '.join(PROGRAMS)}")
    return PROGRAMS[name]
