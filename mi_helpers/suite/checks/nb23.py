"""Checks of notebook 23: a head that averages, neurons that say "and", AUROC, two areas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    compare,
    distinct,
    exercise,
    expect_parts,
    expect_shape,
    refuse_if,
    run,
)


def _mean_where(selector: Tensor, numbers: Tensor) -> Tensor:
    chosen = selector.to(numbers)
    return chosen @ numbers / (1 + chosen.sum(-1))


@exercise
def mean_where(answer: Any, rng: torch.Generator) -> None:
    """Sum over selected positions, divided by one more than there are."""
    for n in distinct(rng, 4, 8):
        selector = torch.rand(n, n, generator=rng) < 0.5
        selector[0], selector[1] = False, True
        numbers = torch.randn(n, generator=rng)
        chosen = selector.to(numbers)
        total, many = chosen @ numbers, chosen.sum(-1)
        mistakes = {
            "You divided by the number of selected positions. The start token is one more.": (
                total / many.clamp(min=1)
            ),
            "You took the sum. Divide it by one more than the number of positions.": total,
            "You summed over queries. Row q says where q looks: sum along the row.": (
                chosen.T @ numbers / (1 + chosen.T.sum(-1))
            ),
            "You divided by the number of all positions, selected or not.": total / n,
            "You divided by one more than the number of all positions.": total / (n + 1),
        }
        inputs = {"selector [query key]": selector, "numbers [key]": numbers}
        compare(answer, _mean_where, inputs, mistakes, hint="One number for each query.")


@exercise
def and_neurons(answer: Any, rng: torch.Generator) -> None:
    """ReLU neurons for every pair of two one-hot variables, robust to noise."""
    for n_first, n_second in zip(distinct(rng, 2, 5), distinct(rng, 3, 6), strict=True):
        W_in, b_in = expect_parts(
            run(answer, n_first, n_second), 2, "the weights and the biases: return W_in, b_in"
        )
        n_in, n = n_first + n_second, n_first * n_second
        W_in, b_in = expect_shape(W_in, (n_in, n)), expect_shape(b_in, (n,))
        first = torch.eye(n_first).repeat_interleave(n_second, dim=0)
        second = torch.eye(n_second).repeat(n_first, 1)
        pairs = torch.cat([first, second], dim=1)  # row i is the pair of neuron i
        out = (pairs @ W_in.float() + b_in.float()).relu()
        on, off = out.diagonal(), out[~torch.eye(n, dtype=torch.bool)]
        order = torch.arange(n).view(n_first, n_second).T.flatten()
        refuse_if(
            _right(out[:, order.argsort()]) and not _right(out),
            "The order is another: (0, 0), (0, 1), … The second variable's value runs fastest.",
        )
        alone = torch.cat([torch.eye(n_first), torch.zeros(n_first, n_second)], dim=1)
        half = (alone @ W_in.float() + b_in.float()).relu()
        refuse_if(
            bool((half > 0.4).any()),
            'A neuron fires when one of its two values is there alone. That is "or": lower the '
            "bias.",
        )
        refuse_if(bool((on < 0.01).any()), "A neuron stays silent when both its values are there.")
        refuse_if(
            not torch.allclose(on, torch.ones(n), atol=1e-3),
            f"Where both values are there the neuron must be 1; here one is {float(on[0]):.3g}.",
        )
        refuse_if(bool((off > 1e-6).any()), "A neuron fires for a pair that is not its own.")
        noise = 0.15 * (2 * torch.randint(2, (200, n, n_in), generator=rng) - 1)  # the worst
        noisy = ((pairs + noise) @ W_in.float() + b_in.float()).relu()
        refuse_if(
            bool((noisy[:, ~torch.eye(n, dtype=torch.bool)] > 1e-6).any()),
            "Right for exact inputs, but with a little noise neurons fire for pairs that are not "
            "there: make them steeper, so that a missing value takes them well below zero.",
        )
        refuse_if(
            bool((noisy.diagonal(dim1=1, dim2=2) < 1e-6).any()),
            "With a little noise a neuron falls silent for the pair that is there: too steep.",
        )


def _right(out: Tensor) -> bool:
    return torch.allclose(out, torch.eye(len(out)), atol=1e-3)


def _auroc(scores: Tensor, true: Tensor) -> Tensor:
    right, other = scores[true][:, None], scores[~true]
    return ((right > other).double() + (right == other).double() / 2).mean()


@exercise
def auroc_of(answer: Any, rng: torch.Generator) -> None:
    """The share of pairs, a true and another item, that are ranked right."""
    for n in distinct(rng, 9, 14):
        scores = torch.randint(5, (n,), generator=rng).double()
        true = torch.rand(n, generator=rng) < 0.4
        true[:3], scores[:3] = torch.tensor([True, True, False]), torch.tensor([2.0, 0.0, 2.0])
        right, other = scores[true][:, None], scores[~true]
        as_high = scores >= scores[true][:, None]
        mistakes = {
            "Equal scores count nothing in yours. They count one half.": (
                (right > other).double().mean()
            ),
            "Equal scores count in full in yours. They count one half.": (
                (right >= other).double().mean()
            ),
            "It is the wrong way round: a true item should score higher.": (
                1 - _auroc(scores, true)
            ),
            "You compared true items with all items. Compare them with the others alone.": (
                (right > scores).double() + (right == scores).double() / 2
            ).mean(),
            "That is the average precision. The AUROC compares pairs.": (
                ((as_high & true).sum(1) / as_high.sum(1)).double().mean()
            ),
            "You took the number of pairs. Divide by how many there are.": (
                (right > other).double() + (right == other).double() / 2
            ).sum(),
        }
        inputs = {"scores [item]": scores, "true [item]": true}
        compare(answer, _auroc, inputs, mistakes, hint="One number, between 0 and 1.")


def _areas(faithfulness: Tensor, shares: Tensor) -> Tensor:
    far = (1 - faithfulness).abs()
    return torch.stack([torch.trapezoid(faithfulness, shares), torch.trapezoid(far, shares)])


@exercise
def two_areas(answer: Any, rng: torch.Generator) -> None:
    """The areas under f and under |1 - f|, by trapezoids."""
    for n in distinct(rng, 4, 7):
        shares = torch.rand(n, generator=rng).double().sort().values.cumsum(0)
        shares = shares / shares[-1]
        faithfulness = 1.6 * torch.rand(n, generator=rng).double()
        faithfulness[-2], faithfulness[-1] = 1.5, 1.0  # a circuit may exceed the model
        wide, f = shares.diff(), faithfulness
        cpr, cmd = _areas(f, shares)
        mistakes = {
            "For CMD you took 1 - f with its sign. Where a circuit exceeds the model, that is "
            "negative: take the size.": torch.stack([cpr, torch.trapezoid(1 - f, shares)]),
            "For CMD you took the size of the area. Take the size of the heights: |1 - f|.": (
                torch.stack([cpr, torch.trapezoid(1 - f, shares).abs()])
            ),
            "Your heights are those at the left of each step. Take the mean of both sides.": (
                torch.stack([(wide * f[:-1]).sum(), (wide * (1 - f[:-1]).abs()).sum()])
            ),
            "Your heights are those at the right of each step. Take the mean of both sides.": (
                torch.stack([(wide * f[1:]).sum(), (wide * (1 - f[1:]).abs()).sum()])
            ),
            "You took plain means. The shares are not evenly spaced: weigh by the widths.": (
                torch.stack([f.mean(), (1 - f).abs().mean()])
            ),
            "The order is CPR, then CMD.": torch.stack([cmd, cpr]),
        }
        inputs = {"faithfulness [circuit]": f, "shares [circuit]": shares}
        compare(answer, _areas, inputs, mistakes, hint="Two numbers in one tensor.")
