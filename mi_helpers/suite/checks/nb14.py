"""Checks of notebook 14: best matches, what recurs everywhere, mutual matches, linear CKA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _standard(acts: Tensor) -> Tensor:
    centred = acts - acts.mean(0)
    return centred / centred.norm(dim=0)


def _match(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    best = (_standard(a).T @ _standard(b)).max(dim=1)
    return best.values, best.indices


@exercise
def best_match(answer: Any, rng: torch.Generator) -> None:
    """For each unit of one network, its most correlated unit of another, and how much."""
    for n_other in distinct(rng, 4, 9):
        a = torch.randn(30, 5, generator=rng) + 2
        b = 3 * torch.randn(30, n_other, generator=rng) + 1
        b[:, 0] -= 2 * a[:, 0]  # one that does the opposite
        b[:, 1] += 4 * a[:, 1]
        b = b * (1 + torch.arange(n_other))  # loud ones must not win by being loud
        correlations = _standard(a).T @ _standard(b)
        absolute, back = correlations.abs().max(1), _match(b, a)
        plain = ((a - a.mean(0)).T @ (b - b.mean(0)) / len(a)).max(1)
        cosine = ((a / a.norm(dim=0)).T @ (b / b.norm(dim=0))).max(1)
        by_sign = "You took the largest size, whatever the sign. A unit that does the opposite is "
        by_sign += "no match here."
        values = {
            by_sign: absolute.values,
            "You matched the second network's units with those of the first.": back[0],
            "You took covariances, so loud units win. Divide by the lengths.": plain.values,
            "You took cosines. Subtract each unit's mean first.": cosine.values,
            "That is the smallest correlation of each unit.": correlations.min(1).values,
        }
        numbers = {
            by_sign: absolute.indices,
            "You matched the second network's units with those of the first.": back[1],
            "You took covariances, so loud units win. Divide by the lengths.": plain.indices,
            "You took cosines. Subtract each unit's mean first.": cosine.indices,
            "That is the number of the least correlated unit.": correlations.min(1).indices,
        }
        inputs = {"a [token unit]": a, "b [token unit2]": b}
        hints = ("One number for each unit of a.",) * 2
        compare(answer, _match, inputs, [values, numbers], hint=(*hints, "Return both."))


def _share(matches: Tensor, threshold: float) -> Tensor:
    return (matches > threshold).all(0).double().mean()


@exercise
def recurring_share(answer: Any, rng: torch.Generator) -> None:
    """The share of units that have a match above a threshold in every other model."""
    for threshold in distinct(rng, 3, 7):
        level = threshold / 10
        matches = torch.rand(3, 40, generator=rng)
        matches[:, :6] = 0.3 + 0.7 * torch.rand(3, 6, generator=rng)
        matches[:, 0], matches[:, 1] = 0.95, 0.05
        mistakes = {
            "A unit must have a match in every model. You counted those that have one in any.": (
                (matches > level).any(0).double().mean()
            ),
            "You averaged over the models first. A high match in one does not make up for a low "
            "one in another.": (matches.mean(0) > level).double().mean(),
            "That is the share of all pairs of unit and model. Ask for all models first.": (
                (matches > level).double().mean()
            ),
            "That is a count: divide by the number of units.": (
                (matches > level).all(0).double().sum()
            ),
            "You asked for matches below the threshold.": (matches < level).all(0).double().mean(),
            "That is one number for each unit. Take the share of units.": (matches > level).all(0),
        }
        inputs = {"matches [model unit]": matches, "threshold": level}
        compare(answer, _share, inputs, mistakes, hint="One number between 0 and 1.")


def _mutual(correlations: Tensor) -> Tensor:
    there, back = correlations.argmax(1), correlations.argmax(0)
    return back[there] == torch.arange(len(correlations))


@exercise
def mutual_matches(answer: Any, rng: torch.Generator) -> None:
    """The units whose best match has them as its own best match."""
    for n_other in distinct(rng, 5, 9):
        correlations = torch.rand(7, n_other, generator=rng) * 0.8
        correlations[:, 0] += 0.15  # a unit that several choose
        correlations[2, 1] = 0.99
        there, back = correlations.argmax(1), correlations.argmax(0)
        chosen = torch.bincount(there, minlength=n_other)
        second = torch.arange(n_other) == there[back]
        mistakes = {
            "You marked units whose match nobody else chose. The match's own best counts.": (
                chosen[there] == 1
            ),
            "You marked units of the second network. Mark those of the first, the rows.": second,
            "You marked the units that any unit of the second network chooses.": (
                torch.isin(torch.arange(7), back)
            ),
            "Those are the units that are not mutual.": ~_mutual(correlations),
        }
        compare(
            answer,
            _mutual,
            {"correlations [unit unit2]": correlations},
            mistakes,
            hint="True or False for each row.",
        )


def _cka(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


@exercise
def linear_cka(answer: Any, rng: torch.Generator) -> None:
    """Whether pairs of tokens that are alike in one model are alike in another."""
    for d_other in distinct(rng, 3, 7):
        x = torch.randn(12, 4, generator=rng) + 1
        y = torch.randn(12, d_other, generator=rng) - 2
        y[:, :2] += x[:, :2]
        a, b = x - x.mean(0), y - y.mean(0)
        cross = b.T @ a
        mistakes = {
            "The columns are not centred: subtract the mean over tokens.": (
                (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
            ),
            "You subtracted the mean of each token. Subtract that of each column.": (
                _uncentred(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))
            ),
            "The numerator is the squared norm; you took the norm.": (
                cross.norm() / ((a.T @ a).norm() * (b.T @ b).norm())
            ),
            "The denominator is a product of norms; you squared them.": (
                cross.square().sum() / ((a.T @ a).square().sum() * (b.T @ b).square().sum())
            ),
            "You divided by the norms of X and Y. Take those of their products with themselves.": (
                cross.square().sum() / (a.norm() * b.norm())
            ),
        }
        inputs = {"x [token d]": x, "y [token d2]": y}
        compare(answer, _cka, inputs, mistakes, hint="One number between 0 and 1.")


def _uncentred(x: Tensor, y: Tensor) -> Tensor:
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
