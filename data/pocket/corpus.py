"""Rows of tokens to train on: documents behind BOS, and spans of random tokens said again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .generator import document

ROW = 128
REPEAT_SHARE = 0.10
BOS_ID = 0


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

    Short spans come several times, long ones twice; between copies there may be a few other tokens.
    """
    length = length or rng.choice([4, 6, 8, 12, 16, 24, 32, 48, 60])
    copies = copies or (2 if length > 16 else rng.randint(2, 4))
    span = [rng.randrange(1, vocab_size) for _ in range(length)]
    tokens: list[int] = []
    starts = []
    for copy in range(copies):
        if copy and rng.random() < 0.3:
            tokens += [rng.randrange(1, vocab_size) for _ in range(rng.randint(1, 6))]
        starts.append(len(tokens))
        tokens += span
    return RepeatedSpan(tuple(tokens), length, tuple(starts))


def shuffled_segment(rng: random.Random, text: list[int]) -> list[int]:
    """The tokens of a text in a random order, twice: common words repeated without grammar."""
    words = rng.sample(text, min(len(text), 24))
    return words + words


def stream(tokenizer: Tokenizer, seed: int, split: str = "train") -> Iterator[list[int]]:
    """Token lists of documents, about `REPEAT_SHARE` of the tokens in repeated spans."""
    rng = random.Random(seed)
    vocab_size = tokenizer.get_vocab_size()
    written = repeated = 1
    while True:
        texts = [document(rng, split).text for _ in range(512)]
        for encoding in tokenizer.encode_batch(texts):
            yield encoding.ids
            written += len(encoding.ids) + 1
            while repeated < REPEAT_SHARE * (written + repeated):
                again = (
                    shuffled_segment(rng, encoding.ids)
                    if rng.random() < 0.2
                    else list(repeated_span(rng, vocab_size).tokens)
                )
                repeated += len(again) + 1
                yield again


def rows(tokenizer: Tokenizer, count: int, seed: int, split: str = "train") -> np.ndarray:
    """``count`` rows of `ROW` tokens [count, ROW], each starting with BOS.

    Documents follow each other separated by BOS; the last one of a row is cut where the row ends,
    and the next row starts with a new document.
    """
    out = np.full((count, ROW), BOS_ID, dtype=np.uint16)
    source = stream(tokenizer, seed, split)
    row: list[int] = []
    filled = 0
    while filled < count:
        ids = next(source)
        row += [BOS_ID, *ids]
        if len(row) >= ROW:
            out[filled] = row[:ROW]
            filled += 1
            row = []
    return out
