"""Checks of notebook 09: a toy model's loss, shares of a dimension, kurtosis, reflection."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    as_tensor,
    close,
    compare,
    exercise,
    expect_close,
    expect_shape,
    refuse_if,
    run,
    smallest,
)


def _loss(x: Tensor, W: Tensor, b: Tensor, importance: Tensor) -> Tensor:
    return (importance * ((x @ W @ W.T + b).relu() - x) ** 2).sum(-1).mean()


@exercise
def toy_loss(answer: Any, rng: torch.Generator) -> None:
    """Importance-weighted squared error of relu(x W W^T + b)."""
    importance = 0.2 + torch.rand(5, generator=rng)
    share = torch.tensor(0.0)
    while not 0.15 < float(share) < 0.7:  # some of the outputs are cut off, and not all
        x = torch.rand(7, 5, generator=rng)
        W, b = torch.randn(5, 2, generator=rng), 0.3 * torch.randn(5, generator=rng)
        pre = x @ W @ W.T + b
        share = ((pre < -0.05) & (pre - b < -0.05)).float().mean()

    def loss(out: Tensor) -> Tensor:
        return (importance * (out - x) ** 2).sum(-1).mean()

    error = (pre.relu() - x) ** 2
    mistakes = {
        "The ReLU is missing: without it the model is linear, and nothing is superposed.": (
            loss(pre)
        ),
        "The importance is missing.": error.sum(-1).mean(),
        "You took the mean over features. Sum over them, and average over the batch.": (
            (importance * error).mean()
        ),
        "You summed over the batch. Take its mean.": (importance * error).sum(),
        "You averaged over features and summed over the batch. It is the other way around.": (
            (importance * error).mean(-1).sum()
        ),
        "The importance multiplies the squared error; you squared it too.": (
            (importance**2 * error).sum(-1).mean()
        ),
        "The bias belongs inside the ReLU.": loss((pre - b).relu() + b),
        "The bias is missing.": loss((pre - b).relu()),
        "You took the absolute error. Square it.": (importance * error.sqrt()).sum(-1).mean(),
        "You compared with zero. The error is the distance to x.": loss(pre.relu() + x),
        "You took the root. The loss is the squared error.": loss(pre.relu()).sqrt(),
    }
    inputs = {
        "x [batch feature]": x,
        "W [feature d_hidden]": W,
        "b [feature]": b,
        "importance [feature]": importance,
    }
    hint = "One number: sum over features, mean over the batch."
    compare(answer, _loss, inputs, mistakes, hint=hint)


def _dimensionality(W: Tensor) -> Tensor:
    length = W.norm(dim=-1).clamp_min(1e-9)
    below = ((W / length[:, None] @ W.T) ** 2).sum(-1)
    return (W**2).sum(-1) / below.clamp_min(1e-9)


@exercise
def feature_dimensionality(answer: Any, rng: torch.Generator) -> None:
    """The share of a dimension that each feature has."""
    W = torch.randn(6, 3, generator=rng) * (0.3 + torch.rand(6, 1, generator=rng))
    W[int(torch.randint(6, (), generator=rng))] = 0
    got = expect_shape(run(answer, W), (6,), hint="One share for each feature.")
    refuse_if(
        bool(torch.isnan(got).any()),
        "NaN: one direction is zero. Keep its norm away from zero before you divide.",
    )
    length = W.norm(dim=-1).clamp_min(1e-9)
    unit = W / length[:, None]
    overlaps = (unit @ W.T) ** 2

    def share(below: Tensor, above: Tensor | None = None) -> Tensor:
        above = length**2 * (length > 1e-6) if above is None else above
        return above / below.clamp_min(1e-9)

    others = overlaps - torch.diag(overlaps.diagonal())
    mistakes = {
        "You normalised the other directions too. Their length counts; only w_i is a unit.": (
            share(((unit @ unit.T) ** 2).sum(-1))
        ),
        "You normalised w_j and not w_i: sum over the row of feature i.": share(overlaps.sum(0)),
        "You normalised neither: the unit vector of feature i is multiplied with every w_j.": (
            share(((W @ W.T) ** 2).sum(-1))
        ),
        "The feature itself belongs into the sum below.": share(others.sum(-1)),
        "The overlaps are not squared.": share((unit @ W.T).sum(-1)),
        "The overlaps are not squared; you took their absolute value.": (
            share((unit @ W.T).abs().sum(-1))
        ),
        "You averaged the overlaps. Sum them.": share(overlaps.mean(-1)),
        "Above the line stands the squared length, not the length.": (
            share(overlaps.sum(-1), length * (length > 1e-6))
        ),
        "These are the squared lengths. Divide by the sum of the overlaps.": (W**2).sum(-1),
    }
    example = functools.partial(smallest, answer, _dimensionality, {"W [feature d_hidden]": W})
    expect_close(got, _dimensionality(W), mistakes, example=example)


def _mirrored(x: Tensor, direction: Tensor, centre: Tensor) -> Tensor:
    unit = direction / direction.norm()
    return x - 2 * ((x - centre) @ unit)[:, None] * unit


@exercise
def reflect(answer: Any, rng: torch.Generator) -> None:
    """Mirror vectors at a plane through a centre."""
    x = torch.randn(6, 4, generator=rng)
    direction = 3 * torch.randn(4, generator=rng)
    centre = 1 + torch.randn(4, generator=rng)
    unit = direction / direction.norm()

    def moved(times: float, u: Tensor = unit, c: Tensor = centre) -> Tensor:
        return x - times * ((x - c) @ u)[:, None] * u

    mistakes = {
        "You stopped on the plane: that is the projection. Go twice as far.": moved(1),
        "The direction has to be divided by its length first.": moved(2, direction),
        "You divided by the length once: the direction stands twice in the formula.": (
            x - 2 * ((x - centre) @ direction)[:, None] * unit
        ),
        "You mirrored at the origin. Measure from the centre.": moved(2, c=torch.zeros(4)),
        "You went the wrong way: subtract the component, twice.": moved(-2),
        "You mirrored at a point: only the component along the direction changes sign.": (
            2 * centre - x
        ),
        "You returned the step alone. Add it to x.": moved(2) - x,
        "You mirrored everything but the direction.": 2 * centre - moved(2),
        "You returned the image as seen from the centre. Add the centre again.": (
            moved(2) - centre
        ),
        "You returned x as it was.": x,
    }
    inputs = {"x [batch d_model]": x, "direction [d_model]": direction, "centre [d_model]": centre}
    compare(answer, _mirrored, inputs, mistakes, hint="The vectors keep their shape.")


def _kurtosis(acts: Tensor) -> Tensor:
    spread = acts.std(0, correction=0)
    z = (acts - acts.mean(0)) / spread.clamp_min(1e-9)
    return torch.where(spread > 0, (z**4).mean(0) - 3, 0.0)


@exercise
def excess_kurtosis(answer: Any, rng: torch.Generator) -> None:
    """Fourth standardised moment minus 3, for each coordinate."""
    acts = torch.randn(40, 5, generator=rng) ** 3 + torch.arange(5) - 1
    still = int(torch.randint(5, (), generator=rng))
    acts[:, still] = 2.0
    got = as_tensor(run(answer, acts), "One number for each coordinate.")
    if tuple(got.shape) == (40,):
        raise Refused("You went over coordinates. Standardise each coordinate over the tokens.")
    got = expect_shape(got, (5,), hint="One number for each coordinate.")
    refuse_if(
        bool(torch.isnan(got).any()),
        "NaN: one coordinate never changes. Give it zero.",
    )
    spread = acts.std(0, correction=0).clamp_min(1e-9)
    changes = torch.arange(5) != still
    centred = acts - acts.mean(0)

    def kurtosis(z: Tensor, power: int = 4, minus: float = 3.0) -> Tensor:
        return torch.where(changes, (z**power).mean(0) - minus, 0.0)

    z = centred / spread
    mistakes = {
        "This is the kurtosis. Subtract 3, so that a Gaussian has zero.": kurtosis(z, minus=0.0),
        "You did not subtract the mean.": kurtosis(acts / spread),
        "You divided by the variance. Divide by the standard deviation.": (
            kurtosis(centred / spread**2)
        ),
        "Your standard deviation divides by n - 1. Use correction=0.": (
            kurtosis(centred / acts.std(0).clamp_min(1e-9))
        ),
        "That is the third power, the skewness. Take the fourth.": kurtosis(z, 3, 0.0),
        "You did not divide by the standard deviation.": kurtosis(centred),
        "You standardised everything with one mean and one standard deviation. Each coordinate has "
        "its own.": kurtosis((acts - acts.mean()) / acts.std(correction=0)),
        "You summed over the tokens. Take the mean.": torch.where(changes, (z**4).sum(0) - 3, 0.0),
        "You added 3. Subtract it.": kurtosis(z, minus=-3.0),
    }
    want = kurtosis(z)
    moving = torch.where(changes, got, torch.zeros_like(got))  # those in which a mistake shows
    refuse_if(
        float(got[still]) != 0.0 and close(moving, want, atol=1e-3),
        "A coordinate that never changes should give zero.",
    )
    example = functools.partial(smallest, answer, _kurtosis, {"acts [token coordinate]": acts})
    expect_close(moving, want, mistakes, example=example)
    expect_close(got, want, mistakes, example=example)
