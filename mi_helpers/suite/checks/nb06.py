"""Checks of notebook 06: attribution, slopes of a softmax, integrated gradients, edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    compare,
    distinct,
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
        "You took the last position alone. All positions are patched at once.": (
            product[:, -1].sum(-1).mean(0)
        ),
        "You left the gradient out.": (other - base).sum((1, 3)).mean(0),
        "You left the change out.": gradient.sum((1, 3)).mean(0),
    }
    axes = "[prompt position head d_head]"
    inputs = {f"base {axes}": base, f"other {axes}": other, f"gradient {axes}": gradient}
    compare(
        answer,
        lambda base, other, gradient: ((other - base) * gradient).sum((1, 3)).mean(0),
        inputs,
        mistakes,
        hint="One number for each head.",
    )


def _slopes(scores: Tensor, values: Tensor, direction: Tensor) -> Tensor:
    weights, read = scores.softmax(-1), values @ direction
    return weights * (read - weights @ read)


@exercise
def score_slopes(answer: Any, rng: torch.Generator) -> None:
    """Derivative of what a head writes, read along a direction, in each of its scores."""
    scores = torch.randn(6, generator=rng)
    values, direction = torch.randn(6, 3, generator=rng), torch.randn(3, generator=rng)
    weights, read = scores.softmax(-1), values @ direction
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
        "The sign is reversed.": -_slopes(scores, values, direction),
        "You used the scores as weights. Take their softmax.": scores * (read - scores @ read),
        "You returned the softmax itself.": weights,
        "You returned the readings of the values, not slopes.": read,
    }
    inputs = {
        "scores [key]": scores,
        "values [key d_head]": values,
        "direction [d_head]": direction,
    }
    compare(answer, _slopes, inputs, mistakes, hint="One slope for each key.")


def _landscape(rng: torch.Generator) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """A function of a point of four coordinates, and the points at which it was called."""
    weight, seen = torch.randn(4, 4, generator=rng), []

    def f(x: Tensor) -> Tensor:
        refuse_if(
            not isinstance(x, Tensor) or tuple(x.shape) != (4,),
            f"f takes one point, a tensor of shape (4,); you gave it {getattr(x, 'shape', x)}.",
        )
        seen.append(x.detach().clone())
        return torch.tanh(weight.to(x.dtype) @ x).prod() + (x**3).sum()

    return f, seen


@exercise
def integrated_gradients(answer: Any, rng: torch.Generator) -> None:
    """Mean gradient at the middles of equal parts, times the way."""
    for steps in distinct(rng, 3, 7):
        f, seen = _landscape(rng)
        base, other = torch.randn(2, 4, generator=rng)

        def mean_gradient(
            points: list[float], f: Any = f, base: Tensor = base, other: Tensor = other
        ) -> Tensor:
            xs = [torch.lerp(base, other, point).requires_grad_() for point in points]
            return torch.stack([torch.autograd.grad(f(x), x)[0] for x in xs]).mean(0)

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
            "You went from other to base. Start at base: the way is other minus base.": (
                -way * middles
            ),
            "That is the mean gradient. Multiply it by the way, other minus base.": middles,
            "You summed the gradients. Average them.": way * middles * steps,
            "All your gradients are at the base: that is plain attribution.": (
                way * mean_gradient([0])
            ),
            "All your gradients are in the middle of the way. Take one in each part.": (
                way * mean_gradient([0.5])
            ),
            "You returned the sum. Give each coordinate its share.": (
                (way * middles).sum().expand(4)
            ),
            "You multiplied by other. Multiply by other minus base.": other * middles,
        }
        seen.clear()
        got = run(answer, f, base, other, steps)
        got = expect_shape(got, (4,), hint="A share for each coordinate.")
        refuse_if(not seen, "You never called f.")
        places = [float((x.to(way) - base) @ way / (way @ way)) for x in seen]
        wanted = ", ".join(f"{(i + 0.5) / steps:.3f}" for i in parts)
        used = ", ".join(f"{place:.3f}" for place in places[:8])
        example = (
            f"With {steps} parts the middles lie at {wanted} of the way from base (0) to other "
            f"(1); you called f at {used}{' ...' if len(places) > 8 else ''}. There take the mean "
            "of the gradients, and multiply it by other minus base."
        )
        expect_close(got, way * middles, mistakes, atol=1e-4, example=example)


def _edge_scores(change: Tensor, gradient: Tensor, n_before: Tensor) -> Tensor:
    every = torch.einsum("rbpd,wbpd->rw", gradient, change) / change.shape[1]
    return torch.where(torch.arange(len(change)) < n_before[:, None], every, 0.0)


@exercise
def score_edges(answer: Any, rng: torch.Generator) -> None:
    """Every writer's change on every later reader's gradient."""
    told: list[Tensor] = []
    while len(told) < 2:
        n_before = torch.randint(1, 5, (5,), generator=rng).sort().values
        if any(torch.equal(n_before, other) for other in told) or n_before[0] == n_before[-1]:
            continue
        told.append(n_before)
        change, gradient = torch.randn(2, 5, 3, 6, 4, generator=rng)
        every = torch.einsum("rbpd,wbpd->rw", gradient, change) / 3
        want = _edge_scores(change, gradient, n_before)
        at_most = torch.arange(5) <= n_before[:, None]
        one_less = torch.arange(5) < n_before[:, None] - 1
        triangle = torch.ones(5, 5).tril()
        mistakes = {
            "Rows and columns are exchanged: rows are readers.": want.T,
            "Rows and columns are exchanged, and there are scores where there is no edge.": every.T,
            "There are scores where there is no edge: a reader reads only what came before.": every,
            "Each reader reads one writer too many: the first n are 0 to n - 1.": (
                torch.where(at_most, every, 0.0)
            ),
            "Each reader reads one writer too few: the first n are 0 to n - 1.": (
                torch.where(one_less, every, 0.0)
            ),
            "You kept a triangle. Which writers a reader reads stands in `n_before`.": (
                every * triangle
            ),
            "You kept a triangle without its diagonal. Which writers a reader reads stands in "
            "`n_before`.": every * triangle.tril(-1),
            "You kept the edges that do not exist, and dropped the others.": every - want,
            "You summed over prompts. Average over them.": want * 3,
            "You averaged over positions too. Sum over them.": want / 6,
            "The sign is reversed.": -want,
            "You took absolute values. An edge helps or harms.": want.abs(),
        }
        inputs = {
            "change [writer prompt position d_model]": change,
            "gradient [reader prompt position d_model]": gradient,
            "n_before [reader]": n_before,
        }
        hint = "A row for each reader, a column for each writer."
        compare(answer, _edge_scores, inputs, mistakes, hint=hint)
