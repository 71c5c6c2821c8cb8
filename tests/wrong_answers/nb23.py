"""Plausible wrong answers to the exercises of notebook 23."""

from __future__ import annotations

import torch


def without_the_start_token(selector, numbers):
    chosen = selector.to(numbers)
    return chosen @ numbers / chosen.sum(-1).clamp(min=1)


def only_the_sum(selector, numbers):
    return selector.to(numbers) @ numbers


def over_queries(selector, numbers):
    chosen = selector.to(numbers).T
    return chosen @ numbers / (1 + chosen.sum(-1))


def over_all_positions(selector, numbers):
    return selector.to(numbers) @ numbers / len(numbers)


def _pairs(n_first, n_second):
    first = torch.eye(n_first).repeat_interleave(n_second, dim=1)
    return torch.cat([first, torch.eye(n_second).repeat(1, n_first)])


def not_robust(n_first, n_second):  # it fires at the worst noise alone
    return 1.41 * _pairs(n_first, n_second), torch.full((n_first * n_second,), -1.82)


def says_or(n_first, n_second):
    return _pairs(n_first, n_second), torch.zeros(n_first * n_second)


def wrong_order(n_first, n_second):
    first = torch.eye(n_first).repeat(1, n_second)
    second = torch.eye(n_second).repeat_interleave(n_first, dim=1)
    return 2 * torch.cat([first, second]), torch.full((n_first * n_second,), -3.0)


def too_low(n_first, n_second):
    return 2 * _pairs(n_first, n_second), torch.full((n_first * n_second,), -4.0)


def too_loud(n_first, n_second):
    return 4 * _pairs(n_first, n_second), torch.full((n_first * n_second,), -6.0)


def too_steep(n_first, n_second):
    return 50 * _pairs(n_first, n_second), torch.full((n_first * n_second,), -99.0)


def _compared(scores, true):
    return scores[true][:, None], scores[~true]


def ties_count_nothing(scores, true):
    right, other = _compared(scores, true)
    return (right > other).double().mean()


def ties_count_in_full(scores, true):
    right, other = _compared(scores, true)
    return (right >= other).double().mean()


def upside_down(scores, true):
    right, other = _compared(scores, true)
    return ((right < other).double() + (right == other).double() / 2).mean()


def against_all(scores, true):
    right = scores[true][:, None]
    return ((right > scores).double() + (right == scores).double() / 2).mean()


def _area(heights, shares):
    return torch.trapezoid(heights, shares)


def signed_distance(faithfulness, shares):
    return torch.stack([_area(faithfulness, shares), _area(1 - faithfulness, shares)])


def left_sum(faithfulness, shares):
    heights = torch.stack([faithfulness, (1 - faithfulness).abs()])
    return (shares.diff() * heights[:, :-1]).sum(1)


def plain_means(faithfulness, shares):
    return torch.stack([faithfulness.mean(), (1 - faithfulness).abs().mean()])


def exchanged(faithfulness, shares):
    return torch.stack([_area((1 - faithfulness).abs(), shares), _area(faithfulness, shares)])


WRONG = {
    "mean_where": [
        without_the_start_token,
        only_the_sum,
        over_queries,
        over_all_positions,
    ],
    "and_neurons": [
        not_robust,
        too_steep,
        says_or,
        wrong_order,
        too_low,
        too_loud,
    ],
    "auroc_of": [ties_count_nothing, ties_count_in_full, upside_down, against_all],
    "two_areas": [signed_distance, left_sum, plain_means, exchanged],
}
