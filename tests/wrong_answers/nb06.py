"""Plausible wrong answers to the exercises of notebook 06."""

from __future__ import annotations

import torch


def base_minus_other(base, other, gradient):
    return ((base - other) * gradient).sum((1, 3)).mean(0)


def without_the_base(base, other, gradient):
    return (other * gradient).sum((1, 3)).mean(0)


def mean_over_positions(base, other, gradient):
    return ((other - base) * gradient).sum(3).mean((0, 1))


def mean_over_dimensions(base, other, gradient):
    return ((other - base) * gradient).mean(3).sum(1).mean(0)


def sum_over_prompts(base, other, gradient):
    return ((other - base) * gradient).sum((0, 1, 3))


def sizes(base, other, gradient):
    return ((other - base) * gradient).abs().sum((1, 3)).mean(0)


def for_each_prompt(base, other, gradient):
    return ((other - base) * gradient).sum((1, 3))


def without_the_others(scores, values, direction):
    return scores.softmax(-1) * (values @ direction)


def own_weight_only(scores, values, direction):
    weights = scores.softmax(-1)
    return weights * (1 - weights) * (values @ direction)


def weight_forgotten(scores, values, direction):
    read = values @ direction
    return read - scores.softmax(-1) @ read


def plain_mean(scores, values, direction):
    read = values @ direction
    return scores.softmax(-1) * (read - read.mean())


def for_each_dimension(scores, values, direction):
    weights = scores.softmax(-1)
    return weights[:, None] * (values - weights @ values)


def _mean_gradient(f, base, other, points):
    total = torch.zeros_like(base)
    for point in points:
        x = torch.lerp(base, other, point).requires_grad_()
        total = total + torch.autograd.grad(f(x), x)[0]
    return total / len(points)


def left_ends(f, base, other, steps):
    points = [i / steps for i in range(steps)]
    return (other - base) * _mean_gradient(f, base, other, points)


def from_end_to_end(f, base, other, steps):
    points = [i / (steps - 1) for i in range(steps)]
    return (other - base) * _mean_gradient(f, base, other, points)


def _middles(steps):
    return [(i + 0.5) / steps for i in range(steps)]


def not_multiplied(f, base, other, steps):
    return _mean_gradient(f, base, other, _middles(steps))


def not_averaged(f, base, other, steps):
    return (other - base) * _mean_gradient(f, base, other, _middles(steps)) * steps


def at_the_base(f, base, other, steps):
    return (other - base) * _mean_gradient(f, base, other, [0.0])


def backwards(f, base, other, steps):
    return (base - other) * _mean_gradient(f, base, other, _middles(steps))


def all_points_at_once(f, base, other, steps):
    points = torch.stack([torch.lerp(base, other, point) for point in _middles(steps)])
    points.requires_grad_()
    return (other - base) * torch.autograd.grad(f(points).sum(), points)[0].mean(0)


def _every(change, gradient):
    return torch.einsum("rbpd,wbpd->rw", gradient, change) / change.shape[1]


def _exists(change, n_before):
    return torch.arange(len(change)) < n_before[:, None]


def every_pair(change, gradient, n_before):
    return _every(change, gradient)


def writers_as_rows(change, gradient, n_before):
    return torch.where(_exists(change, n_before), _every(change, gradient), 0.0).T


def one_writer_too_many(change, gradient, n_before):
    exists = torch.arange(len(change)) <= n_before[:, None]
    return torch.where(exists, _every(change, gradient), 0.0)


def prompts_summed(change, gradient, n_before):
    scores = torch.einsum("rbpd,wbpd->rw", gradient, change)
    return torch.where(_exists(change, n_before), scores, 0.0)


def positions_averaged(change, gradient, n_before):
    scores = _every(change, gradient) / change.shape[2]
    return torch.where(_exists(change, n_before), scores, 0.0)


def strengths(change, gradient, n_before):
    return torch.where(_exists(change, n_before), _every(change, gradient), 0.0).abs()


WRONG = {
    "attribute": [
        base_minus_other,
        without_the_base,
        mean_over_positions,
        mean_over_dimensions,
        sum_over_prompts,
        sizes,
        for_each_prompt,
    ],
    "score_slopes": [
        without_the_others,
        own_weight_only,
        weight_forgotten,
        plain_mean,
        for_each_dimension,
    ],
    "integrated_gradients": [
        left_ends,
        from_end_to_end,
        not_multiplied,
        not_averaged,
        at_the_base,
        backwards,
        all_points_at_once,
    ],
    "score_edges": [
        every_pair,
        writers_as_rows,
        one_writer_too_many,
        prompts_summed,
        positions_averaged,
        strengths,
    ],
}
