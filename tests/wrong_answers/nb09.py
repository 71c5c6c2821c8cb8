"""Plausible wrong answers to the exercises of notebook 09."""

from __future__ import annotations

import torch


def _recovered(x, W, b):
    return (x @ W @ W.T + b).relu()


def linear(x, W, b, importance):
    return (importance * (x @ W @ W.T + b - x) ** 2).sum(-1).mean()


def unweighted(x, W, b, importance):
    return ((_recovered(x, W, b) - x) ** 2).sum(-1).mean()


def mean_of_all(x, W, b, importance):
    return (importance * (_recovered(x, W, b) - x) ** 2).mean()


def summed(x, W, b, importance):
    return (importance * (_recovered(x, W, b) - x) ** 2).sum()


def weight_squared(x, W, b, importance):
    return ((importance * (_recovered(x, W, b) - x)) ** 2).sum(-1).mean()


def per_feature(x, W, b, importance):
    return (importance * (_recovered(x, W, b) - x) ** 2).mean(0)


def _unit(W):
    return W / W.norm(dim=-1, keepdim=True).clamp_min(1e-9)


def _share(W, below):
    return (W**2).sum(-1) / below.clamp_min(1e-9)


def both_unit(W):
    return _share(W, ((_unit(W) @ _unit(W).T) ** 2).sum(-1))


def other_way_round(W):
    return _share(W, ((W @ _unit(W).T) ** 2).sum(-1))


def neither_unit(W):
    return _share(W, ((W @ W.T) ** 2).sum(-1))


def without_itself(W):
    overlaps = (_unit(W) @ W.T) ** 2
    return _share(W, overlaps.sum(-1) - overlaps.diagonal())


def unsquared(W):
    return _share(W, (_unit(W) @ W.T).sum(-1))


def divided_by_zero(W):
    return _share(W, ((W / W.norm(dim=-1, keepdim=True) @ W.T) ** 2).sum(-1))


def _standard(acts):
    return (acts - acts.mean(0)) / acts.std(0, correction=0).clamp_min(1e-9)


def not_excess(acts):
    return torch.where(acts.std(0) > 0, (_standard(acts) ** 4).mean(0), 0.0)


def over_coordinates(acts):
    return (_standard(acts.T) ** 4).mean(0) - 3


def sample_deviation(acts):
    z = (acts - acts.mean(0)) / acts.std(0).clamp_min(1e-9)
    return torch.where(acts.std(0) > 0, (z**4).mean(0) - 3, 0.0)


def not_centred(acts):
    z = acts / acts.std(0, correction=0).clamp_min(1e-9)
    return torch.where(acts.std(0) > 0, (z**4).mean(0) - 3, 0.0)


def skewness(acts):
    return (_standard(acts) ** 3).mean(0)


def constant_is_nan(acts):
    return (((acts - acts.mean(0)) / acts.std(0, correction=0)) ** 4).mean(0) - 3


def constant_is_minus_three(acts):
    return (_standard(acts) ** 4).mean(0) - 3


def projected(x, direction, centre):
    unit = direction / direction.norm()
    return x - ((x - centre) @ unit)[:, None] * unit


def not_a_unit(x, direction, centre):
    return x - 2 * ((x - centre) @ direction)[:, None] * direction


def at_the_origin(x, direction, centre):
    unit = direction / direction.norm()
    return x - 2 * (x @ unit)[:, None] * unit


def away(x, direction, centre):
    unit = direction / direction.norm()
    return x + 2 * ((x - centre) @ unit)[:, None] * unit


def at_a_point(x, direction, centre):
    return 2 * centre - x


def in_place(x, direction, centre):
    unit = direction / direction.norm()
    x -= 2 * ((x - centre) @ unit)[:, None] * unit
    return x


WRONG = {
    "toy_loss": [linear, unweighted, mean_of_all, summed, weight_squared, per_feature],
    "feature_dimensionality": [
        both_unit,
        other_way_round,
        neither_unit,
        without_itself,
        unsquared,
        divided_by_zero,
    ],
    "excess_kurtosis": [
        not_excess,
        over_coordinates,
        sample_deviation,
        not_centred,
        skewness,
        constant_is_nan,
        constant_is_minus_three,
    ],
    "reflect": [projected, not_a_unit, at_the_origin, away, at_a_point, in_place],
}
