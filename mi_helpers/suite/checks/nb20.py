"""Checks of notebook 20: logits of a clock, power by frequency, one neuron, excluded logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise

_PRIMES = (5, 7, 11, 13)


def _clock(pairs: Tensor, p: int, frequencies: Sequence[int]) -> Tensor:
    left = pairs.sum(-1)[:, None] - torch.arange(p)
    return sum((2 * torch.pi * k * left / p).cos() for k in frequencies)  # type: ignore[return-value]


@exercise
def clock_logits(answer: Any, rng: torch.Generator) -> None:
    """Sum over frequencies of cos(w (a + b - c)), for every answer c."""
    for at in distinct(rng, 1, len(_PRIMES)):
        p = _PRIMES[at]
        pairs = torch.randint(p, (6, 2), generator=rng)
        frequencies = [1 + k for k in distinct(rng, 0, p // 2)]
        a, b, c = pairs[:, :1], pairs[:, 1:], torch.arange(p)
        turns = [2 * torch.pi * k / p for k in frequencies]

        def summed(left: Tensor, wave: Any = torch.cos, turns: list[float] = turns) -> Tensor:
            return torch.stack([wave(turn * left) for turn in turns]).sum(0)

        mistakes = {
            "The answer c must be subtracted: the wave is at its top where c = a + b.": (
                summed(a + b + c)
            ),
            "You took the sine, which is zero where c = a + b. Take the cosine.": (
                summed(a + b - c, torch.sin)
            ),
            "A turn is missing its 2 pi: w is 2 pi k / p.": (
                summed(a + b - c, turns=[k / p for k in frequencies])
            ),
            "You took k as the turn itself: w is 2 pi k / p.": (
                summed(a + b - c, turns=[float(k) for k in frequencies])
            ),
            "You averaged over the frequencies. Add them up.": summed(a + b - c) / len(turns),
            "You multiplied the waves of different frequencies. Add them up.": (
                torch.stack([(turn * (a + b - c)).cos() for turn in turns]).prod(0)
            ),
            "You added the frequencies up before the cosine: take one wave for each.": (
                (sum(turns) * (a + b - c)).cos()
            ),
            "You used one frequency of those given. Add up the waves of all.": (
                (turns[0] * (a + b - c)).cos()
            ),
            "You subtracted b. The clock turns on by b: a + b - c.": summed(a - b - c),
        }
        inputs = {"pairs [pair 2]": pairs, "p": p, "frequencies": frequencies}
        hint = f"One row for each pair, one column for each answer: here {p}."
        compare(answer, _clock, inputs, mistakes, hint=hint)


def _basis(p: int) -> Tensor:
    """Orthonormal rows: the constant, then cosine and sine of each frequency."""
    angles = 2 * torch.pi * torch.arange(1, p // 2 + 1)[:, None] * torch.arange(p) / p
    rows = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1)
    rows = torch.cat([torch.ones(1, p), rows])
    return rows / rows.norm(dim=-1, keepdim=True)


def _folded(power: Tensor) -> Tensor:
    """Cosine and sine of a frequency added up, along the first axis."""
    return torch.cat([power[:1], power[1:].unflatten(0, (-1, 2)).sum(1)])


def _power(embed: Tensor) -> Tensor:
    return _folded((_basis(len(embed)) @ embed).square().sum(-1))


@exercise
def power_by_frequency(answer: Any, rng: torch.Generator) -> None:
    """Squared size of an embedding along the waves of each frequency."""
    for at in distinct(rng, 0, len(_PRIMES)):
        p = _PRIMES[at]
        embed = torch.randn(p, 4, generator=rng) + 0.4
        basis = _basis(p)
        power = (basis @ embed).square().sum(-1)
        scaled = torch.tensor([p] + [p / 2] * (p // 2))
        mistakes = {
            "Only the cosines are counted. A frequency has a sine too.": (
                torch.cat([power[:1], power[1::2]])
            ),
            "Only the sines are counted. A frequency has a cosine too.": (
                torch.cat([power[:1], power[2::2]])
            ),
            "The waves are not of length one: divide each by its norm over the p numbers.": (
                _power(embed) * scaled
            ),
            "These are lengths. Return squares, so that all entries add up to the whole.": (
                _power(embed).sqrt()
            ),
            "Square before you sum over the embedding's dimensions.": (
                _folded((basis @ embed).sum(-1).square())
            ),
            "You averaged over the embedding's dimensions. Sum over them.": _power(embed) / 4,
            "The mean over the numbers is gone: entry 0 is the power of the constant.": (
                _power(embed - embed.mean(0))
            ),
            "These are shares of the whole. Return the power itself.": (
                _power(embed) / embed.square().sum()
            ),
        }
        hint = f"One number for the constant, and one for each frequency from 1 to {p // 2}."
        compare(answer, _power, {f"embed (p = {p})": embed}, mistakes, hint=hint, atol=1e-4)


def _planes(acts: Tensor, k: int) -> dict[str, Tensor]:
    """The variance of a neuron over (a, b), by kind of wave, and the whole."""
    power = (_basis(len(acts)) @ acts @ _basis(len(acts)).T).square()
    waves = [2 * k - 1, 2 * k]
    return {
        "a": power[waves, 0].sum(),
        "b": power[0, waves].sum(),
        "products": power[waves][:, waves].sum(),
        "constant": power[0, 0],
        "all": power.sum() - power[0, 0],
    }


def _share(acts: Tensor, k: int) -> Tensor:
    parts = _planes(acts, k)
    return (parts["a"] + parts["b"] + parts["products"]) / parts["all"]


@exercise
def share_of_frequency(answer: Any, rng: torch.Generator) -> None:
    """The share of a neuron's variance that lies in the waves of one frequency."""
    for at, k in zip(distinct(rng, 1, len(_PRIMES)), distinct(rng, 1, 4), strict=True):
        p = _PRIMES[at]
        basis = _basis(p)
        acts = torch.randn(p, p, generator=rng) + 1.0
        wave = basis[[2 * k - 1, 2 * k]]
        mix = 0.5 + torch.rand(4, 2, 2, generator=rng)
        acts = acts + p * (wave.T @ mix[0] @ wave)
        acts = acts + p**0.5 * ((wave.T @ mix[1, :, :1]) + (wave.T @ mix[2, :, :1]).T)
        parts = _planes(acts, k)
        inside = parts["a"] + parts["b"] + parts["products"]
        mistakes = {
            "The products of a wave in a and one in b are missing: they make the sum.": (
                (parts["a"] + parts["b"]) / parts["all"]
            ),
            "You took the products alone. Waves in a, and in b, count too.": (
                parts["products"] / parts["all"]
            ),
            "The waves in b are missing.": (parts["a"] + parts["products"]) / parts["all"],
            "The waves in a are missing.": (parts["b"] + parts["products"]) / parts["all"],
            "The constant does not vary: leave it out of the whole.": (
                inside / (parts["all"] + parts["constant"])
            ),
            "The constant does not vary: leave it out of what is explained.": (
                (inside + parts["constant"]) / (parts["all"] + parts["constant"])
            ),
            "The constant does not vary, and you count it as explained.": (
                (inside + parts["constant"]) / parts["all"]
            ),
            "This is what is explained, not its share: divide by the variance.": inside,
            "You took the root: a share of variance is one of squares.": (
                (inside / parts["all"]).sqrt()
            ),
            "This is the share that is not explained.": 1 - inside / parts["all"],
        }
        inputs = {f"acts (p = {p})": acts, "k": k}
        hint = "One number for one neuron."
        compare(answer, _share, inputs, mistakes, hint=hint, atol=1e-4)


def _sum_part(logits: Tensor, rows: list[int]) -> Tensor:
    """The part of logits (a, b, c) along some waves of the sum a + b."""
    p = len(logits)
    sums = (torch.arange(p)[:, None] + torch.arange(p)) % p
    by_sum = torch.zeros(p, p).index_add(0, sums.flatten(), logits.flatten(0, 1)) / p
    basis = _basis(p)[rows]
    return (basis.T @ (basis @ by_sum))[sums]


def _rows(frequencies: Sequence[int]) -> list[int]:
    return [row for k in frequencies for row in (2 * k - 1, 2 * k)]


def _without(logits: Tensor, frequencies: Sequence[int]) -> Tensor:
    return logits - _sum_part(logits, _rows(frequencies))


@exercise
def without_frequencies(answer: Any, rng: torch.Generator) -> None:
    """Logits less what follows some frequencies of the sum."""
    for at in distinct(rng, 1, len(_PRIMES)):
        p = _PRIMES[at]
        frequencies = [1 + k for k in distinct(rng, 0, p // 2)]
        logits = torch.randn(p, p, p, generator=rng) + torch.randn(p, generator=rng)
        sums = (torch.arange(p)[:, None] + torch.arange(p)) % p
        turned = torch.randn(p, p, generator=rng)
        logits = logits + turned[sums]
        rows = _rows(frequencies)
        wave = _basis(p)[rows]
        in_a = torch.einsum("wa,wx,xbc->abc", wave, wave, logits)
        others = _rows([k for k in range(1, p // 2 + 1) if k not in frequencies])
        mistakes = {
            "You return what was to be removed. Subtract it from the logits.": (
                _sum_part(logits, rows)
            ),
            "You removed the constant as well. It belongs to no frequency.": (
                logits - _sum_part(logits, [0, *rows])
            ),
            "You removed the cosines only. A frequency has a sine too.": (
                logits - _sum_part(logits, rows[::2])
            ),
            "You removed the sines only. A frequency has a cosine too.": (
                logits - _sum_part(logits, rows[1::2])
            ),
            "You removed waves in a. Remove waves in the sum a + b.": logits - in_a,
            "You removed the other frequencies and kept those that were named.": (
                logits - _sum_part(logits, others)
            ),
            "You kept only what depends on the sum. Subtract from the logits themselves.": (
                _sum_part(logits, [0, *others])
            ),
            "You removed the first of the frequencies only.": (
                logits - _sum_part(logits, _rows(frequencies[:1]))
            ),
            "Nothing is removed: the logits come back as they were.": logits,
            "You removed twice as much as there is.": logits - 2 * _sum_part(logits, rows),
        }
        inputs = {f"logits (p = {p})": logits, "frequencies": frequencies}
        hint = "Logits keep their shape [a b c]."
        compare(answer, _without, inputs, mistakes, hint=hint, atol=1e-4)
