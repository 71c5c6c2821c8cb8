"""Checks of notebook 06: attribution, slopes of a softmax, integrated gradients, edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    exercise,
    expect_close,
    expect_shape,
    refuse_if,
    run,
)


@exercise
def attribute(answer: Any, rng: torch.Generator) -> None:
    """Change times gradient, summed over positions and dimensions, averaged over prompts."""
    base, other, gradient = torch.randn(3, 4, 6, 5, 3, generator=rng)
    got = run(answer, base, other, gradient)
    expect_shape(got, (5,), hint="One number for each head.")
    product = (other - base) * gradient
    mistakes = {
        "The sign is reversed: the change is the other run minus the base run.": (
            -product.sum((1, 3)).mean(0)
        ),
        "You forgot the base run: multiply the *change* by the gradient.": (
            (other * gradient).sum((1, 3)).mean(0)
        ),
        "You took the base run for the change. It is the other run minus the base run.": (
            (base * gradient).sum((1, 3)).mean(0)
        ),
        "You averaged over positions. At all positions at once, the estimates add up.": (
            product.sum(3).mean((0, 1))
        ),
        "You averaged over a head's dimensions. A dot product sums them.": (
            product.mean(3).sum(1).mean(0)
        ),
        "You summed over prompts. Average over them.": product.sum((0, 1, 3)),
        "You averaged over all axes. Only the prompts are averaged.": product.mean((0, 1, 3)),
        "You took absolute values. An effect has a sign.": product.abs().sum((1, 3)).mean(0),
        "You multiplied means. Multiply first, for each prompt, and average afterwards.": (
            ((other - base).mean(0) * gradient.mean(0)).sum((0, 2))
        ),
    }
    expect_close(got, product.sum((1, 3)).mean(0), mistakes)


@exercise
def score_slopes(answer: Any, rng: torch.Generator) -> None:
    """Derivative of what a head writes, read along a direction, in each of its scores."""
    scores = torch.randn(6, generator=rng)
    values, direction = torch.randn(6, 3, generator=rng), torch.randn(3, generator=rng)
    got = run(answer, scores, values, direction)
    expect_shape(got, (6,), hint="One slope for each key.")
    weights, read = scores.softmax(-1), values @ direction
    want = weights * (read - weights @ read)
    mistakes = {
        "You left out what the head writes now: other keys lose what this one gains.": (
            weights * read
        ),
        "You kept only what a key does to its own weight. The other weights fall with it.": (
            weights * (1 - weights) * read
        ),
        "You forgot the weight: a key that nobody looks at has next to no slope.": (
            read - weights @ read
        ),
        "You subtracted the plain mean of the values. Weigh them by the attention.": (
            weights * (read - read.mean())
        ),
        "The sign is reversed.": -want,
        "You used the scores as weights. Take their softmax.": scores * (read - scores @ read),
        "You returned the softmax itself.": weights,
    }
    expect_close(got, want, mistakes)


@exercise
def integrated_gradients(answer: Any, rng: torch.Generator) -> None:
    """Mean gradient at the middles of equal parts, times the way."""
    weight = torch.randn(4, 4, generator=rng)
    base, other = torch.randn(2, 4, generator=rng)
    steps = int(torch.randint(3, 6, (), generator=rng))
    seen: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        refuse_if(tuple(x.shape) != (4,), f"f takes one point [n]; you gave it {tuple(x.shape)}.")
        seen.append(x.detach().clone())
        return torch.tanh(weight @ x).prod() + (x**3).sum()

    def mean_gradient(points: list[float]) -> Tensor:
        total = torch.zeros(4)
        for point in points:
            x = torch.lerp(base, other, point).requires_grad_()
            value = torch.tanh(weight @ x).prod() + (x**3).sum()
            total = total + torch.autograd.grad(value, x)[0]
        return total / len(points)

    got = run(answer, f, base, other, steps)
    expect_shape(got, (4,), hint="A share for each coordinate.")
    refuse_if(not seen, "You never called f.")
    parts = [float(i) for i in range(steps)]
    middles = mean_gradient([(i + 0.5) / steps for i in parts])
    way = other - base
    mistakes = {
        "You took the gradients at the left ends of the parts. Take the middles.": (
            way * mean_gradient([i / steps for i in parts])
        ),
        "You took the gradients at the right ends of the parts. Take the middles.": (
            way * mean_gradient([(i + 1) / steps for i in parts])
        ),
        "You took the gradients from end to end. Take the middles of the parts.": (
            way * mean_gradient([i / (steps - 1) for i in parts])
        ),
        "That is the mean gradient. Multiply it by the way, other minus base.": middles,
        "You summed the gradients. Average them.": way * middles * steps,
        "The sign is reversed: the way is other minus base.": -way * middles,
        "All your gradients are at the base: that is plain attribution.": way * mean_gradient([0]),
        "You returned the sum. Give each coordinate its share.": (way * middles).sum().expand(4),
        "You multiplied by other. Multiply by other minus base.": other * middles,
    }
    expect_close(got, way * middles, mistakes, atol=1e-4)


@exercise
def score_edges(answer: Any, rng: torch.Generator) -> None:
    """Every writer's change on every later reader's gradient."""
    n_before = torch.tensor([1, 1, 2, 4, 5])
    change, gradient = torch.randn(2, 5, 3, 6, 4, generator=rng)
    got = run(answer, change, gradient, n_before)
    expect_shape(got, (5, 5), hint="A row for each reader, a column for each writer.")
    every = torch.einsum("rbpd,wbpd->rw", gradient, change) / 3
    exists = torch.arange(5) < n_before[:, None]
    want = torch.where(exists, every, 0.0)
    one_more = torch.arange(5) <= n_before[:, None]
    mistakes = {
        "Rows and columns are exchanged: rows are readers.": want.T,
        "Rows and columns are exchanged, and there are scores where there is no edge.": every.T,
        "There are scores where there is no edge: a reader reads only what came before.": every,
        "Each reader reads one writer too many: the first n are 0 to n - 1.": (
            torch.where(one_more, every, 0.0)
        ),
        "You summed over prompts. Average over them.": want * 3,
        "You averaged over positions too. Sum over them.": want / 6,
        "The sign is reversed.": -want,
        "You took absolute values. An edge helps or harms.": want.abs(),
    }
    expect_close(got, want, mistakes)
