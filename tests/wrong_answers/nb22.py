"""Plausible wrong answers to the exercises of notebook 22."""

from __future__ import annotations

import torch


def softmax_alone(hidden):
    return hidden.softmax(-1)


def over_the_first_axis(hidden):
    return hidden * hidden.softmax(0)


def a_sigmoid(hidden):
    return hidden * hidden.sigmoid()


def not_divided(hidden):
    return hidden * hidden.exp()


def over_tokens(acts):
    squares = acts.square()
    return squares.sum(0).square() / squares.square().sum(0)


def upside_down(acts):
    squares = acts.square()
    return squares.square().sum(-1) / squares.sum(-1).square()


def sizes(acts):
    return acts.abs().sum(-1).square() / acts.square().sum(-1)


def a_share(acts):
    squares = acts.square()
    return squares.mean(-1).square() / squares.square().mean(-1)


def negatives_too(acts, holds):
    energy = acts.square()
    return energy.T @ holds / energy.sum(0)[:, None]


def not_squared(acts, holds):
    energy = acts.clamp_min(0)
    return energy.T @ holds / energy.sum(0)[:, None].clamp_min(1e-12)


def by_tokens_with_the_property(acts, holds):
    return acts.clamp_min(0).square().T @ holds / holds.sum(0)


def no_share(acts, holds):
    return acts.clamp_min(0).square().T @ holds


def others_at_zero(acts, rest, k):
    far = (acts - rest).abs()
    return torch.where(far >= far.topk(k, -1).values[..., -1:], acts, 0.0)


def by_activation(acts, rest, k):
    return torch.where(acts >= acts.topk(k, -1).values[..., -1:], acts, rest)


def by_size(acts, rest, k):
    size = acts.abs()
    return torch.where(size >= size.topk(k, -1).values[..., -1:], acts, rest)


def the_nearest(acts, rest, k):
    near = -(acts - rest).abs()
    return torch.where(near >= near.topk(k, -1).values[..., -1:], acts, rest)


WRONG = {
    "softmax_linear": [softmax_alone, over_the_first_axis, a_sigmoid, not_divided],
    "effective_number": [over_tokens, upside_down, sizes, a_share],
    "shares_on": [negatives_too, not_squared, by_tokens_with_the_property, no_share],
    "keep_largest": [others_at_zero, by_activation, by_size, the_nearest],
}
