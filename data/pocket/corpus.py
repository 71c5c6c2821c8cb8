"""Rows of tokens to train on: documents behind BOS, and spans of random tokens said again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .generator import MIX, document

ROW = 128
BOS_ID = 0
NOISE = 1 << 15
"""Added to a token that was drawn at random: the loss leaves it out, it would teach noise."""


@dataclass(frozen=True)
class RepeatedSpan:
    """A span of random tokens and where each of its copies starts (in tokens)."""

    tokens: tuple[int, ...]
    length: int
    starts: tuple[int, ...]


def repeated_span(
    rng: random.Random, vocab_size: int, *, length: int | None = None, copies: int | None = None
) -> RepeatedSpan:
    """``copies`` of a span of ``length`` tokens, drawn evenly from all but the special tokens.

    Short spans come many times: copying is learned on them first, because there is little to choose
    from. Long ones come twice. Other tokens now and then between copies, and lengths of any size,
    keep the distance between copies from giving the answer away.
    """
    length = length or 2 + int(61 * rng.random() ** 2.5)
    if copies is None:
        most = max(2, (ROW - 2) // length)
        copies = most if rng.random() < 0.6 else rng.randint(2, min(4, most))
    span = [rng.randrange(1, vocab_size) for _ in range(length)]
    tokens: list[int] = []
    starts = []
    for copy in range(copies):
        if copy and rng.random() < 0.3:
            tokens += [rng.randrange(1, vocab_size) for _ in range(rng.randint(1, 6))]
        starts.append(len(tokens))
        tokens += span
    return RepeatedSpan(tuple(tokens), length, tuple(starts))


def flagged(span: RepeatedSpan) -> list[int]:
    """The span's tokens, `NOISE` added to those that nothing before them determines."""
    known = {start + i for start in span.starts[1:] for i in range(1, span.length)}
    return [t if i in known else t | NOISE for i, t in enumerate(span.tokens)]


def shuffled_segment(rng: random.Random, text: list[int]) -> RepeatedSpan:
    """The tokens of a text in a random order, twice: common words repeated without grammar."""
    words = rng.sample(text, min(len(text), 24))
    return RepeatedSpan((*words, *words), len(words), (0, len(words)))


def stream(
    tokenizer: Tokenizer, seed: int, repeats: float, mix: Mapping[str, float] = MIX
) -> Iterator[tuple[list[int], bool]]:
    """Token lists, and whether each is a repeated span: a share ``repeats`` of all tokens.

    Random tokens of the spans are `flagged`.
    """
    rng = random.Random(seed)
    vocab_size = tokenizer.get_vocab_size()
    written = repeated = 1
    while True:
        texts = [document(rng, mix=mix).text for _ in range(512)]
        for encoding in tokenizer.encode_batch(texts):
            yield encoding.ids, False
            written += len(encoding.ids) + 1
            while repeated < repeats * (written + repeated):
                shuffled = rng.random() < 0.2
                span = (
                    shuffled_segment(rng, encoding.ids)
                    if shuffled
                    else repeated_span(rng, vocab_size)
                )
                repeated += len(span.tokens) + 1
                yield flagged(span), True


def rows(
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    repeats: float,
    mix: Mapping[str, float] = MIX,
) -> np.ndarray:
    """``count`` rows of `ROW` tokens [count, ROW], each starting with BOS; some with `NOISE`.

    Documents follow each other separated by BOS; the last one of a row is cut where the row ends,
    and the next row starts with a new document. A repeated span that does not fit waits for a row
    of its own, or its later copies would be lost.
    """
    out = np.full((count, ROW), BOS_ID, dtype=np.uint16)
    source = stream(tokenizer, seed, repeats, mix)
    row: list[int] = []
    waiting: list[list[int]] = []
    filled = 0
    while filled < count:
        if waiting and not row:
            row = [BOS_ID, *waiting.pop()]
        else:
            ids, repeat = next(source)
            if repeat and row and len(row) + len(ids) >= ROW:
                waiting.append(ids)
                continue
            row += [BOS_ID, *ids]
        if len(row) >= ROW:
            out[filled] = row[:ROW]
            filled += 1
            row = []
    return out
