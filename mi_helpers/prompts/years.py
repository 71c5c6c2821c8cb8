"""Spans of years, of one wording: "The war lasted from the year 1732 to the year 17".

A span ends later than it starts, so the right answers are all later years. What the answer *is*
depends on the tokenizer: GPT-2's and pocket's have one token for two digits, and the next token is
the year within the century; others have one for each digit, and the next token is only the decade.
Then a later decade is later, an earlier one is earlier, and the start's own decade is neither (1735
is later than 1732, 1730 is not), unless the start is its last year.

Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv:2305.00586), section 2.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.metrics import ProbDiff
from mi_helpers.prompts.drawing import Pair, Unfit, collect
from mi_helpers.prompts.pairs import PromptPairs, answer_ids, token_offsets

WORDING = "The {event} lasted from the year {century}{start} to the year {century}"
CENTURIES = range(11, 18)
EVENTS = "war trip voyage siege strike journey reign famine study peace search drought".split()
TWIN = "02"
"""The start of the corrupt twin, after which nearly every year is later. The paper takes 01, which
is no start in what pocket was trained on."""


@dataclass(frozen=True, eq=False)
class YearAnswers:
    """What a tokenizer can answer: all years of a century, or its ten decades.

    Attributes:
        digits: 2 where the next token is a year, 1 where it is only a decade.
        texts: The answers, from the earliest.
        tokens: Their ids.
    """

    digits: int
    texts: tuple[str, ...]
    tokens: Int[Tensor, "answer"]

    @property
    def first(self) -> Int[Tensor, "answer"]:
        """The first year that begins with each answer, from 0 to 99."""
        return torch.arange(len(self.texts)) * (100 // len(self.texts))

    def signs(self, starts: Int[Tensor, "batch"]) -> Float[Tensor, "batch answer"]:
        """1 where every year of an answer is later than the start, -1 where none is, else 0."""
        starts = torch.as_tensor(starts)[:, None]
        last = self.first + 100 // len(self.texts) - 1
        return (self.first > starts).float() - (last <= starts).float()

    def cutoff(self, starts: Int[Tensor, "batch"]) -> Float[Tensor, "batch answer"]:
        """1 at the answer right after the start's own, -1 at the one before: the paper's cutoff."""
        own = torch.as_tensor(starts)[:, None] // (100 // len(self.texts))
        step = torch.arange(len(self.texts)) - own
        return (step == 1).float() - (step == -1).float()


@dataclass(frozen=True, eq=False)
class YearSpans:
    """Prompts about spans of years, and what is right after each.

    Attributes:
        pairs: Prompts with twins that start in the year 02. Roles: event, century (of the start),
            decade and start (the first and the second of its digits: one token where two digits
            are), to, end. The right answer named is the last later one, the wrong one the first.
        starts: The two digits of the start.
        answers: What the model's tokenizer can answer.
    """

    pairs: PromptPairs
    starts: Int[Tensor, "batch"]
    answers: YearAnswers

    @property
    def prob_diff(self) -> ProbDiff:
        """Probability of later answers minus that of those that are not later."""
        return ProbDiff(self.answers.tokens, self.answers.signs(self.starts))

    @property
    def cutoff_sharpness(self) -> ProbDiff:
        """Probability of the answer after the start's own minus that of the one before."""
        return ProbDiff(self.answers.tokens, self.answers.cutoff(self.starts))

    def probabilities(
        self, logits: Float[Tensor, "batch pos d_vocab"]
    ) -> Float[Tensor, "batch answer"]:
        """The probability of each answer at the last position; their sum is below 1."""
        return logits[:, -1].softmax(-1)[:, self.answers.tokens.to(logits.device)]


def year_answers(model: TransformerBridge) -> YearAnswers:
    """What the model's tokenizer makes of the end of a year.

    Raises:
        ValueError: a tokenizer that splits years neither in pairs of digits nor in digits.
    """
    text = WORDING.format(event="war", century=17, start=32)
    ends = {end for _, end in token_offsets(model, text)}
    begin = text.index("1732")
    for digits, cuts in ((2, {2, 4}), (1, {1, 2, 3, 4})):
        texts = tuple(f"{i:0{digits}d}" for i in range(10**digits))
        ids = [answer_ids(model, one) for one in texts]
        found = {end - begin for end in ends if begin < end <= begin + 4}
        if found == cuts and all(len(one) == 1 for one in ids):
            return YearAnswers(digits, texts, torch.tensor([one[0] for one in ids]))
    pieces = [text[start:end] for start, end in token_offsets(model, text)]
    raise ValueError(
        f"this tokenizer splits the prompt into {pieces}: greater-than needs years of two pairs of "
        "digits (17|32) or of four digits (1|7|3|2), each pair or digit a token of its own"
    )


def year_spans(
    model: TransformerBridge,
    n: int = 50,
    seed: int = 0,
    *,
    starts: Sequence[int] | None = None,
    wording: str = WORDING,
) -> YearSpans:
    """Draw prompts of one wording and one length, each with its twin.

    Args:
        model: Gives the tokenizer.
        n: How many.
        seed: Of the draw.
        starts: The two digits to start from; by default 03 to 98, or 10 to 89 where the answer is a
            decade. Each draw takes any of them with equal chance.
        wording: With places for {event}, {century} and {start}, cut before the answer.

    Raises:
        ValueError: a tokenizer that `year_answers` refuses, a start that has no later or no earlier
            answer, or too few prompts, with reasons.
    """
    answers = year_answers(model)
    possible = list(range(3, 99) if answers.digits == 2 else range(10, 90))
    allowed = possible if starts is None else list(starts)
    for start in allowed:
        if start not in possible:
            raise ValueError(f"start {start}: choose from {possible[0]} to {possible[-1]}")

    def draw(rng: random.Random) -> Iterator[Pair]:
        yield _pair(model, answers, wording, rng, rng.choice(allowed))

    pairs = collect(model, "year span", draw, n, seed)
    return YearSpans(pairs, torch.tensor([label["start"] for label in pairs.labels]), answers)


def _pair(
    model: TransformerBridge, answers: YearAnswers, wording: str, rng: random.Random, start: int
) -> Pair:
    event, century = rng.choice(EVENTS), rng.choice(CENTURIES)
    slots = {"event": event, "century": century}
    text, twin = (wording.format(**slots, start=s) for s in (f"{start:02d}", TWIN))
    at = text.index(f"{century}{start:02d}") + 2
    pieces = [(at, at + 2)] if answers.digits == 2 else [(at, at + 1), (at + 1, at + 2)]
    for one in (text, twin):
        if not {*pieces} <= {*token_offsets(model, one)}:
            raise Unfit("a year that is split otherwise")
    signs = answers.signs(torch.tensor([start]))[0]
    begin = text.index(event)
    if (begin - 1, begin + len(event)) not in token_offsets(model, text):
        raise Unfit("an event of several tokens")
    spans = {"event": (begin, begin + len(event)), "century": (at - 2, at),
             "decade": (at, at + 1), "start": (at, at + 2), "to": (at + 2, at + 5)}  # fmt: skip
    right, wrong = answers.texts[-1], answers.texts[int((signs < 0).nonzero()[0])]
    return Pair(text, twin, right, wrong, {"start": start, "century": century}, spans)
