"""Draw prompts from the grammar until enough of them fit a tokenizer and one another."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mi_data.pocket.text import Prompt, Span
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.prompts.pairs import PromptPairs, answer_ids, from_texts, token_ids

PATIENCE = 400  # draws in a row that bring no new prompt


@dataclass(frozen=True)
class Pair:
    """One clean prompt and its corrupt twin; `spans` are characters of the clean one by role."""

    clean: str
    corrupt: str
    answer: str
    wrong: str
    labels: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]


class Unfit(Exception):
    """Why a drawn prompt cannot be used."""


def collect(
    model: TransformerBridge,
    name: str,
    draw: Callable[[random.Random], Iterable[Pair]],
    n: int,
    seed: int,
) -> PromptPairs:
    """Call `draw` until `n` different prompts have the same number of tokens.

    Args:
        model: Gives the tokenizer and the context.
        name: Of the behaviour, for the message.
        draw: Gives prompts from a random state, or raises `Unfit` with the reason.
        n: How many.
        seed: Of the random state.

    Raises:
        ValueError: n below 1, or PATIENCE draws in a row brought nothing new; the message counts
            the reasons.
    """
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one prompt")
    rng = random.Random(seed)
    by_length: defaultdict[int, dict[str, Pair]] = defaultdict(dict)
    reasons: Counter[str] = Counter()
    idle = 0
    while idle < PATIENCE:
        idle += 1
        try:
            for pair in draw(rng):
                group = by_length[_fitting_length(model, pair)]
                if group.setdefault(pair.clean, pair) is pair:
                    idle = 0
                if len(group) == n:
                    return _as_pairs(model, list(group.values()))
        except Unfit as error:
            reasons[str(error)] += 1
    most = max((len(group) for group in by_length.values()), default=0)
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise ValueError(
        f"found only {most} different {name} prompts of equal length, not {n}; left out: "
        f"{why or 'none'}. Ask for fewer, or loosen the options."
    )


def replace(prompt: Prompt, new: Callable[[Span], str | None]) -> tuple[str, dict[str, Span]]:
    """`prompt` with some of its spans rewritten, and the spans of the result by role.

    `new(span)` is the new text, or None to keep the old. The last span of a role counts.
    """
    text, cursor, spans = "", 0, {}
    for span in sorted(prompt.spans, key=lambda s: s.start):
        value = new(span)
        value = span.value if value is None else value
        if prompt.text[span.start : span.end] != span.value:  # capital at the start of a sentence
            value = value[:1].upper() + value[1:]
        text += prompt.text[cursor : span.start]
        spans[span.role] = Span(len(text), len(text) + len(value), span.role, value)
        text += value
        cursor = span.end
    return text + prompt.text[cursor:], spans


def pair_of(
    prompt: Prompt,
    corrupt: str,
    *,
    answer: str | None = None,
    wrong: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> Pair:
    """A prompt of the grammar with its twin.

    Args:
        prompt: The clean one.
        corrupt: Its twin's text.
        answer: In place of the grammar's.
        wrong: In place of the grammar's.
        rename: Roles, and the names that they are shown by.
    """
    rename = rename or {}
    spans = {rename.get(s.role, s.role): (s.start, s.end) for s in prompt.spans}
    return Pair(
        prompt.text, corrupt, answer or prompt.answer, wrong or prompt.wrong, prompt.labels, spans
    )


def token_counter(model: TransformerBridge) -> Callable[[str], int]:
    """A function that counts the tokens of a text, looking each text up once."""
    return cache(lambda text: len(token_ids(model, text)))


def same_length(
    count: Callable[[str], int], word: str, others: Iterable[str], *, lead: str = " "
) -> list[str]:
    """Those of `others` that have as many tokens as `word` when `lead` stands before it.

    With lead="" they stand at the start of a text, and begin with a capital.

    Raises:
        Unfit: There is none.
    """

    def length(text: str) -> int:
        return count(lead + text if lead else text[:1].upper() + text[1:])

    fits = [other for other in others if length(other) == length(word)]
    if not fits:
        raise Unfit(f"nothing else of {length(word)} tokens to put in a word's place")
    return fits


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """ValueError naming the choices when `value` is none of them."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown: choose {', '.join(map(repr, choices))}")


def _fitting_length(model: TransformerBridge, pair: Pair) -> int:
    """The number of tokens of both texts; Unfit when they differ or an answer is split."""
    texts = [pair.clean, pair.corrupt]
    clean, corrupt = map(len, model.tokenizer(texts, add_special_tokens=False).input_ids)
    if any(len(answer_ids(model, text)) != 1 for text in (pair.answer, pair.wrong)):
        raise Unfit("an answer of several tokens")
    if clean != corrupt:
        raise Unfit("twins of unequal length")
    if clean + 1 > model.cfg.n_ctx:
        raise Unfit("longer than the model's context")
    return clean


def _as_pairs(model: TransformerBridge, pairs: list[Pair]) -> PromptPairs:
    return from_texts(
        model,
        [p.clean for p in pairs],
        [p.corrupt for p in pairs],
        [p.answer for p in pairs],
        [p.wrong for p in pairs],
        labels=[p.labels for p in pairs],
        spans=[p.spans for p in pairs],
    )
