"""Checks of notebook 12: a contrastive vector, the sweet spot, repetition, late steering."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    Refused,
    close,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)


@exercise
def contrastive_vector(answer: Any, rng: torch.Generator) -> None:
    """The mean difference over pairs, of a given length."""
    positive = torch.randn(7, 12, generator=rng) + torch.randn(12, generator=rng)
    negative = torch.randn(7, 12, generator=rng)
    norm = 2 + 3 * float(torch.rand((), generator=rng))
    got = run(answer, positive, negative, norm)
    expect_shape(got, (12,), hint="One vector for all pairs: take the mean over them.")
    mean = (positive - negative).mean(0)

    def long(vector: Tensor) -> Tensor:
        return vector * norm / vector.norm()

    units = (positive - negative) / (positive - negative).norm(dim=1, keepdim=True)
    mistakes = {
        "The sign is reversed: positive minus negative.": long(-mean),
        "The direction is right, but its length is not `norm`.": mean,
        "You made it of length 1. Multiply by `norm`.": mean / mean.norm(),
        "You multiplied by the norm without dividing by the length it has.": mean * norm,
        "You used the first pair alone. Take the mean over all.": long(positive[0] - negative[0]),
        "You left the negative prompts out: what both share must cancel.": long(positive.mean(0)),
        "You made every difference equally long before taking the mean.": long(units.mean(0)),
    }
    if close(got / got.norm(), mean / mean.norm()) and not close(got.norm(), norm):
        raise Refused("The direction is right, but its length is not `norm`.")
    expect_close(got, long(mean), mistakes)


@exercise
def sweet_spot(answer: Any, rng: torch.Generator) -> None:
    """Row and column of the largest effect within the budget."""
    while True:
        effects = torch.randn(5, 6, generator=rng)
        costs = effects * 0.3 + 0.3 * torch.randn(5, 6, generator=rng)
        budget = float(costs.median())
        fits = costs <= budget
        want = _at(effects.masked_fill(~fits, -torch.inf))
        others = {
            "You took the cheapest. Take the largest effect that can be paid.": _at(-costs),
            "You took effect per cost. The budget is a limit, not a price.": _at(
                effects / costs.abs()
            ),
            "You compared sizes: a large negative effect goes the wrong way.": _at(
                effects.abs().masked_fill(~fits, -torch.inf)
            ),
        }
        dear = _at(effects.masked_fill(fits, -torch.inf))
        places = {want, dear, *others.values()}
        if (
            want[0] != want[1]
            and 0 not in dear
            and dear == _at(effects)
            and len(places) == 2 + len(others)
        ):
            break
    got = run(answer, effects, costs, budget)
    refuse_if(
        not isinstance(got, (tuple, list)) or len(got) != 2,
        "Return two numbers: the row and the column.",
    )
    pair = tuple(int(i) for i in got)
    refuse_if(pair == want[::-1], "Row and column are swapped: the layer comes first.")
    for message, place in others.items():
        refuse_if(pair == place, message)
    if pair == dear:
        rich = tuple(run(answer, effects, costs, float(costs.max())))
        refuse_if(rich == dear, "You ignored the cost: this is the largest effect of all.")
        raise Refused("You kept what is too expensive, and left out what can be paid.")
    refuse_if(pair != want, f"Not the sweet spot: {pair} instead of {want}, on fresh inputs.")


def _at(values: Tensor) -> tuple[int, int]:
    """Row and column of the largest entry."""
    return divmod(int(values.argmax()), values.shape[1])


@exercise
def repeated_share(answer: Any, rng: torch.Generator) -> None:
    """The share of neighbouring pairs that occurred before."""
    tokens = torch.randint(4, (14,), generator=rng).tolist()
    tokens = [*tokens, 9, *tokens[:6], 9, 9]
    if 2 * len({*zip(tokens, tokens[1:], strict=False)}) == len(tokens) - 1:
        tokens.append(8)  # else as many pairs are distinct as are repeated
    got = run(answer, list(tokens))
    refuse_if(isinstance(got, Tensor) and got.numel() != 1, "Return one number for the whole text.")
    expect_type(got, (int, float, Tensor), "Return one number.")
    pairs = list(zip(tokens, tokens[1:], strict=False))
    same = sum(a == b for a, b in pairs)
    repeated = len(pairs) - len(set(pairs))
    mistakes = {
        "That is the share of *distinct* pairs. Take one minus that.": len(set(pairs)) / len(pairs),
        "You counted single tokens. Count pairs of neighbours.": 1 - len(set(tokens)) / len(tokens),
        "You counted tokens equal to their neighbour. A pair repeats when it occurred before.": (
            same / len(pairs)
        ),
        "You returned how many, not which share.": float(repeated),
        "There are as many pairs as tokens, less one.": repeated / len(tokens),
        "You counted every pair that occurs twice, its first time too.": (
            sum(pairs.count(pair) > 1 for pair in pairs) / len(pairs)
        ),
        "You counted by distinct pairs: divide by the number of all of them.": (
            sum(pairs.count(pair) > 1 for pair in set(pairs)) / len(set(pairs))
        ),
    }
    expect_close(float(got), repeated / len(pairs), mistakes)


@exercise
def add_after(answer: Any, rng: torch.Generator) -> None:
    """A vector added from a position on, in a new tensor."""
    acts, vector = torch.randn(3, 8, 5, generator=rng), torch.randn(5, generator=rng)
    start = int(torch.randint(2, 4, (), generator=rng))
    strength = 1.5 + float(torch.rand((), generator=rng))
    got = run(answer, acts, vector, strength, start)
    expect_shape(got, (3, 8, 5), hint="Activations keep their shape.")
    at = torch.arange(8)[None, :, None]

    def add(mask: Tensor, size: float = strength) -> Tensor:
        return acts + size * vector * mask

    mistakes = {
        "Nothing has changed. Is the sum kept?": acts,
        "You steered the prompt. Leave positions before `start` alone.": add(at < start),
        "You steered every position. Leave those before `start` alone.": add(at >= 0),
        "You steered one position. Go on to the end.": add(at == start),
        "You began one position late: `start` itself is steered.": add(at > start),
        "You began one position early.": add(at >= start - 1),
        "You forgot the strength.": add(at >= start, 1.0),
        "You steered away: add, do not subtract.": add(at >= start, -strength),
        "You replaced the activations. Add to them.": torch.where(
            at >= start, (strength * vector).expand_as(acts), acts
        ),
    }
    expect_close(got, add(at >= start), mistakes)
