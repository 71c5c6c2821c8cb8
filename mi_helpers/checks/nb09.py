"""Checks of notebook 09: a toy model's loss, shares of a dimension, kurtosis, reflection."""

from __future__ import annotations

from typing import Any

import torch

from mi_helpers.exercises import Refused, exercise, expect_close, expect_shape, refuse_if, run


@exercise
def toy_loss(answer: Any, rng: torch.Generator) -> None:
    """Importance-weighted squared error of relu(x W W^T + b)."""
    x = torch.rand(7, 5, generator=rng)
    W, b = torch.randn(5, 2, generator=rng), 0.3 * torch.randn(5, generator=rng)
    importance = 0.2 + torch.rand(5, generator=rng)
    got = run(answer, x, W, b, importance)
    expect_shape(got, (), hint="One number: sum over features, mean over the batch.")
    pre = x @ W @ W.T + b

    def loss(out: torch.Tensor) -> torch.Tensor:
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
        "The importance multiplies the squared error; you squared it too.": (
            (importance**2 * error).sum(-1).mean()
        ),
        "The bias belongs inside the ReLU.": loss((pre - b).relu() + b),
        "The bias is missing.": loss((pre - b).relu()),
        "You took the absolute error. Square it.": (importance * error.sqrt()).sum(-1).mean(),
    }
    expect_close(got, loss(pre.relu()), mistakes)


@exercise
def feature_dimensionality(answer: Any, rng: torch.Generator) -> None:
    """The share of a dimension that each feature has."""
    W = torch.randn(6, 3, generator=rng) * (0.3 + torch.rand(6, 1, generator=rng))
    W[2] = 0
    got = run(answer, W)
    expect_shape(got, (6,), hint="One share for each feature.")
    refuse_if(
        bool(torch.isnan(got).any()),
        "NaN: one direction is zero. Keep its norm away from zero before you divide.",
    )
    length = W.norm(dim=-1).clamp_min(1e-9)
    unit = W / length[:, None]
    overlaps = (unit @ W.T) ** 2

    def share(below: torch.Tensor, above: torch.Tensor | None = None) -> torch.Tensor:
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
        "Above the line stands the squared length, not the length.": (
            share(overlaps.sum(-1), length * (length > 1e-6))
        ),
    }
    expect_close(got, share(overlaps.sum(-1)), mistakes)


@exercise
def excess_kurtosis(answer: Any, rng: torch.Generator) -> None:
    """Fourth standardised moment minus 3, for each coordinate."""
    acts = torch.randn(40, 5, generator=rng) ** 3 + torch.arange(5) - 1
    acts[:, 3] = 2.0
    got = run(answer, acts)
    if tuple(getattr(got, "shape", ())) == (40,):
        raise Refused("You went over coordinates. Standardise each coordinate over the tokens.")
    expect_shape(got, (5,), hint="One number for each coordinate.")
    refuse_if(
        bool(torch.isnan(got).any()),
        "NaN: one coordinate never changes. Give it zero.",
    )
    spread = acts.std(0, correction=0).clamp_min(1e-9)
    changes = torch.arange(5) != 3
    centred = acts - acts.mean(0)

    def kurtosis(z: torch.Tensor, power: int = 4, minus: float = 3.0) -> torch.Tensor:
        return torch.where(changes, (z**power).mean(0) - minus, 0.0)

    mistakes = {
        "This is the kurtosis. Subtract 3, so that a Gaussian has zero.": kurtosis(
            centred / spread, minus=0.0
        ),
        "You did not subtract the mean.": kurtosis(acts / spread),
        "You divided by the variance. Divide by the standard deviation.": kurtosis(
            centred / spread**2
        ),
        "Your standard deviation divides by n - 1. Use correction=0.": kurtosis(
            centred / acts.std(0).clamp_min(1e-9)
        ),
        "That is the third power, the skewness. Take the fourth.": kurtosis(
            centred / spread, 3, 0.0
        ),
        "You did not divide by the standard deviation.": kurtosis(centred),
    }
    want = kurtosis(centred / spread)
    constant = got.clone()
    constant[3] = 0.0
    refuse_if(
        float(got[3]) != 0.0 and bool(torch.allclose(constant, want, atol=1e-3)),
        "A coordinate that never changes should give zero.",
    )
    expect_close(got, want, mistakes)


@exercise
def reflect(answer: Any, rng: torch.Generator) -> None:
    """Mirror vectors at a plane through a centre."""
    x = torch.randn(6, 4, generator=rng)
    direction = 3 * torch.randn(4, generator=rng)
    centre = 1 + torch.randn(4, generator=rng)
    got = run(answer, x, direction, centre)
    expect_shape(got, (6, 4), hint="The vectors keep their shape.")
    unit = direction / direction.norm()

    def moved(times: float, u: torch.Tensor = unit, c: torch.Tensor = centre) -> torch.Tensor:
        return x - times * ((x - c) @ u)[:, None] * u

    mistakes = {
        "You stopped on the plane: that is the projection. Go twice as far.": moved(1),
        "The direction has to be divided by its length first.": moved(2, direction),
        "You mirrored at the origin. Measure from the centre.": moved(2, c=torch.zeros(4)),
        "You went the wrong way: subtract the component, twice.": moved(-2),
        "You mirrored at a point: only the component along the direction changes sign.": (
            2 * centre - x
        ),
        "You returned the step alone. Add it to x.": moved(2) - x,
        "You mirrored everything but the direction.": 2 * centre - moved(2),
    }
    expect_close(got, moved(2), mistakes)
