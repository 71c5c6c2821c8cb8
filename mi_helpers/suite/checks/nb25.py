"""Checks of notebook 25: a probability difference, decades, scores and inputs by position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _difference(probs: Tensor, starts: Tensor) -> Tensor:
    later = torch.arange(100) > starts[:, None]
    return torch.where(later, probs, -probs).sum(-1)


@exercise
def probability_difference(answer: Any, rng: torch.Generator) -> None:
    """Later years minus those that are not, for each prompt."""
    probs = torch.randn(6, 130, generator=rng).softmax(-1)[:, :100]
    starts = torch.randint(3, 98, (6,), generator=rng)
    later = torch.arange(100) > starts[:, None]
    no_earlier = torch.arange(100) >= starts[:, None]
    earlier = torch.arange(100) < starts[:, None]
    mistakes = {
        "The start itself is not later than the start: take years above it, not from it on.": (
            torch.where(no_earlier, probs, -probs).sum(-1)
        ),
        "The start itself counts as not later; you counted it nowhere.": (
            (probs * later).sum(-1) - (probs * earlier).sum(-1)
        ),
        "The sign is reversed: later years minus the others.": -_difference(probs, starts),
        "You took the later years alone. Subtract those that are not later.": (
            (probs * later).sum(-1)
        ),
        "You averaged over years. Sum: their number differs from start to start.": (
            (probs * later).sum(-1) / later.sum(-1) - (probs * ~later).sum(-1) / (~later).sum(-1)
        ),
        "You divided by what all years have together. Other tokens count, neither way.": (
            _difference(probs, starts) / probs.sum(-1)
        ),
    }
    inputs = {"probs [batch 100]": probs, "starts [batch]": starts}
    compare(answer, _difference, inputs, mistakes, hint="One number for each prompt.")


def _signs(starts: Tensor) -> Tensor:
    first = 10 * torch.arange(10)
    return (first > starts[:, None]).float() - (first + 9 <= starts[:, None]).float()


@exercise
def decade_signs(answer: Any, rng: torch.Generator) -> None:
    """1 where all years of a decade are later, -1 where none is, 0 between."""
    tens, units = (torch.randint(low, 9, (8,), generator=rng) for low in (1, 0))
    units[:2] = torch.tensor([9, 0])
    starts = (10 * tens + units)[torch.randperm(8, generator=rng)]
    own, decade = starts[:, None] // 10, torch.arange(10)
    mistakes = {
        "A start that ends in 9 is the last of its decade: no year of that is later.": (
            (decade > own).float() - (decade < own).float()
        ),
        "The start's own decade has later years and others: neither right nor wrong.": (
            (decade > own).float() - (decade <= own).float()
        ),
        "You count the start's own decade as right. Only some of its years are later.": (
            (decade >= own).float() - (decade < own).float()
        ),
        "You compared a decade with the start. Decade d begins in the year 10 d.": (
            (decade > starts[:, None]).float() - (decade <= starts[:, None]).float()
        ),
        "The sign is reversed: 1 is for later.": -_signs(starts),
        "A start that ends in 0 is not later than itself: its decade has a year that is not.": (
            (10 * decade >= starts[:, None]).float() - (10 * decade + 9 <= starts[:, None]).float()
        ),
    }
    hint = "One row for each start, one column for each decade."
    compare(answer, _signs, {"starts [batch]": starts}, mistakes, hint=hint)


def _scores(change: Tensor, gradient: Tensor) -> Tensor:
    return torch.einsum("wbpd,rbpd->prw", change, gradient) / change.shape[1]


@exercise
def position_scores(answer: Any, rng: torch.Generator) -> None:
    """change . gradient for each edge and position, mean over prompts."""
    for n_pos in distinct(rng, 3, 6):
        change = torch.randn(2, 4, n_pos, 5, generator=rng)
        gradient = torch.randn(7, 4, n_pos, 5, generator=rng)
        right = _scores(change, gradient)
        wrong_axes = torch.einsum("wbpd,rbpd->pwr", change, gradient) / 4
        mistakes = {
            "You summed over positions. Keep them apart: that is the point.": right.sum(0),
            "You took the sum over prompts. Take the mean.": 4 * right,
            "The axes are [pos reader writer]; yours are [pos writer reader].": wrong_axes,
            "You averaged over d_model, too. An inner product is a sum.": right / 5,
            "You lost the sign. A score below zero lowers the metric.": right.abs(),
            "You multiplied means over prompts. Multiply first, then average.": torch.einsum(
                "wpd,rpd->prw", change.mean(1), gradient.mean(1)
            ),
        }
        inputs = {"change [writer batch pos d]": change, "gradient [reader batch pos d]": gradient}
        compare(
            answer, _scores, inputs, mistakes, hint="The result has the axes [pos, reader, writer]."
        )


def _reads(now: Tensor, corrupt: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept[..., None], now, corrupt).sum(0)


@exercise
def reads_at(answer: Any, rng: torch.Generator) -> None:
    """Kept edges live, the others corrupt, at each position, summed over writers."""
    for n_pos in distinct(rng, 3, 6):
        now, corrupt = torch.randn(2, 4, n_pos, 5, generator=rng)
        kept = torch.rand(4, n_pos, generator=rng) < 0.5
        kept[0, 0], kept[0, 1] = True, False
        chosen = kept[..., None]
        mistakes = {
            "You left ablated edges out. They read what the writer wrote in the corrupt run.": (
                (now * chosen).sum(0)
            ),
            "Kept edges read what is written now, ablated ones the corrupt run: yours are "
            "exchanged.": torch.where(chosen, corrupt, now).sum(0),
            "An edge that is kept anywhere is kept everywhere in yours. Choose at each position.": (
                _reads(now, corrupt, kept.any(1, keepdim=True).expand_as(kept))
            ),
            "You averaged over writers. The stream is their sum.": (
                torch.where(chosen, now, corrupt).mean(0)
            ),
            "You summed over positions, too. The reader reads at each of them.": (
                torch.where(chosen, now, corrupt).sum((0, 1))
            ),
        }
        inputs = {"now [writer pos d]": now, "corrupt [writer pos d]": corrupt,
                  "kept [writer pos]": kept}  # fmt: skip
        compare(answer, _reads, inputs, mistakes, hint="One vector for each position.")
