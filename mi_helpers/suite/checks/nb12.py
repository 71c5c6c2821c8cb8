"""Checks of notebook 12: a contrastive vector, the sweet spot, repetition, late steering."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    close,
    compare,
    crossed,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_number,
    expect_parts,
    expect_shape,
    refuse_if,
    run,
    show,
    smallest,
)


def _long(vector: Tensor, norm: float) -> Tensor:
    return vector * norm / vector.norm()


def _contrast(positive: Tensor, negative: Tensor, norm: float) -> Tensor:
    return _long((positive - negative).mean(0), norm)


@exercise
def contrastive_vector(answer: Any, rng: torch.Generator) -> None:
    """The mean difference over pairs, of a given length."""
    for low in (2.0, 4.0):
        positive = torch.randn(7, 12, generator=rng) + torch.randn(12, generator=rng)
        negative = torch.randn(7, 12, generator=rng)
        norm = low + float(torch.rand((), generator=rng))
        got = run(answer, positive, negative, norm)
        hint = "One vector for all pairs: take the mean over them."
        got = expect_shape(got, (12,), hint)
        differences = positive - negative
        mean = differences.mean(0)
        units = differences / differences.norm(dim=1, keepdim=True)
        ones, others = (x / x.norm(dim=1, keepdim=True) for x in (positive, negative))
        mistakes = {
            "The sign is reversed: positive minus negative.": _long(-mean, norm),
            "You made it of length 1. Multiply by `norm`.": mean / mean.norm(),
            "You multiplied by the norm without dividing by the length it has.": mean * norm,
            "You used the first pair alone. Take the mean over all.": _long(differences[0], norm),
            "You used the last pair alone. Take the mean over all.": _long(differences[-1], norm),
            "You left the negative prompts out: what both share must cancel.": (
                _long(positive.mean(0), norm)
            ),
            "You made every difference equally long before taking the mean.": (
                _long(units.mean(0), norm)
            ),
            "You made every activation equally long before taking differences.": (
                _long((ones - others).mean(0), norm)
            ),
            "You took the median over pairs. Take the mean.": (
                _long(differences.median(0).values, norm)
            ),
        }
        length = float(got.double().norm())
        aligned = length > 0 and close(got.double() / length, mean / mean.norm())
        if aligned and not close(length, norm):
            mistakes[
                f"The direction is right, but its length is {length:.3f}, not `norm`, {norm:.3f}."
            ] = got
        inputs = {
            "positive [pair d_model]": positive,
            "negative [pair d_model]": negative,
            "norm": norm,
        }
        example = functools.partial(smallest, answer, _contrast, inputs)
        expect_close(got, _long(mean, norm), mistakes, example=example)


def _place(values: Tensor) -> tuple[int, int]:
    """Row and column of the largest entry."""
    return divmod(int(values.argmax()), values.shape[1])


def _sweet(effects: Tensor, costs: Tensor, budget: float) -> tuple[int, int]:
    return _place(effects.masked_fill(costs > budget, -torch.inf))


def _sweet_mistakes(effects: Tensor, costs: Tensor, budget: float) -> dict[str, tuple[int, int]]:
    dear = costs > budget
    return {
        "You took the cheapest. Take the largest effect that can be paid.": _place(-costs),
        "You took effect per cost. The budget is a limit, not a price.": (
            _place(effects / costs.abs())
        ),
        "You compared sizes: a large negative effect goes the wrong way.": (
            _place(effects.abs().masked_fill(dear, -torch.inf))
        ),
        "You left out what costs exactly the budget. It is within it.": (
            _place(effects.masked_fill(costs >= budget, -torch.inf))
        ),
        "You took the dearest that can be paid. Take the largest effect.": (
            _place(costs.masked_fill(dear, -torch.inf))
        ),
        "You ignored the cost: this is the largest effect of all.": _place(effects),
    }


def _sweet_case(rng: torch.Generator, exact: bool) -> tuple[Tensor, Tensor, float]:
    """Effects, costs and a budget, on which each mistake ends in another place.

    `exact`: the answer costs the budget exactly; else it costs less.
    """
    while True:
        effects = torch.randn(5, 6, generator=rng)
        costs = effects * 0.3 + 0.3 * torch.randn(5, 6, generator=rng)
        budget = float(costs.flatten().sort().values[int(torch.randint(8, 22, (), generator=rng))])
        want, wrong = _sweet(effects, costs, budget), _sweet_mistakes(effects, costs, budget)
        if exact != (float(costs[want]) == budget) or want[0] == want[1]:
            continue
        if not exact:
            budget += 1e-3
        others = [
            place
            for message, place in wrong.items()
            if "exactly" not in message and not (exact and "dearest" in message)
        ]
        if want not in others and want[::-1] not in others and len(set(others)) == len(others):
            return effects, costs, budget


@exercise
def sweet_spot(answer: Any, rng: torch.Generator) -> None:
    """Row and column of the largest effect within the budget."""
    first, second = _sweet_case(rng, exact=False), _sweet_case(rng, exact=False)
    while not crossed(_sweet, first, second):
        second = _sweet_case(rng, exact=False)
    for effects, costs, budget in (first, second, _sweet_case(rng, exact=True)):
        parts = expect_parts(
            run(answer, effects, costs, budget), 2, "Return two numbers: the row and the column."
        )
        pair = tuple(expect_integer(part, "Row and column are whole numbers.") for part in parts)
        want = _sweet(effects, costs, budget)
        if pair == want:
            continue
        refuse_if(pair == want[::-1], "Row and column are swapped: the layer comes first.")
        dear = _place(effects.masked_fill(costs <= budget, -torch.inf))
        if pair == dear:
            rich = expect_parts(run(answer, effects, costs, float(costs.max())), 2, "")
            refuse_if(
                tuple(map(expect_integer, rich)) != dear,
                "You kept what is too expensive, and left out what can be paid.",
            )
        for message, place in _sweet_mistakes(effects, costs, budget).items():
            refuse_if(pair == place, message)
        inside = 0 <= pair[0] < 5 and 0 <= pair[1] < 6
        refuse_if(not inside, f"{pair} is no place: there are 5 rows and 6 columns, from 0.")
        raise Refused(
            f"With a budget of {budget:.3f} the sweet spot is {want}, with effect "
            f"{float(effects[want]):.3f} and cost {float(costs[want]):.3f}. You return {pair}, "
            f"with effect {float(effects[pair]):.3f} and cost {float(costs[pair]):.3f}."
        )


def _repeated(tokens: list[int]) -> float:
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return 1 - len(set(pairs)) / len(pairs)


def _text(length: int, rng: torch.Generator) -> list[int]:
    """Tokens with repeated pairs, on which each mistake gives another share."""
    while True:
        tokens = torch.randint(4, (length,), generator=rng).tolist()
        tokens = [*tokens, 9, *tokens[:6], 9, 9]
        shares = [_repeated(tokens), *_repetition_mistakes(tokens).values()]
        if len({round(share, 6) for share in shares}) == len(shares):
            return tokens


@exercise
def repeated_share(answer: Any, rng: torch.Generator) -> None:
    """The share of neighbouring pairs that occurred before."""
    for length in distinct(rng, 11, 18):
        tokens = _text(length, rng)
        got = run(answer, list(tokens))
        share = expect_number(got, "Return one number for the whole text.")
        shown = ""
        for short in ([1, 2], [1, 2, 1, 2], [1, 1, 1], [1, 2, 3, 1, 2]):
            said = run(answer, list(short))
            if not close(expect_number(said, "Return one number."), _repeated(short)):
                shown = (
                    f"In {short} the pairs are {show(list(zip(short, short[1:], strict=False)))}: "
                    f"expected {_repeated(short):.4g}, got {expect_number(said):.4g}."
                )
                break
        expect_close(share, _repeated(tokens), _repetition_mistakes(tokens), example=shown)
        refuse_if(bool(shown), shown)


def _repetition_mistakes(tokens: list[int]) -> dict[str, float]:
    pairs = list(zip(tokens, tokens[1:], strict=False))
    same = sum(a == b for a, b in pairs)
    repeated = len(pairs) - len(set(pairs))
    halves = list(zip(tokens[::2], tokens[1::2], strict=False))
    unordered = {tuple(sorted(pair)) for pair in pairs}
    return {
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
        "You cut the text into pairs. Each token but the last begins one.": (
            1 - len(set(halves)) / len(halves)
        ),
        "You took A B and B A for the same pair. The order counts.": 1
        - len(unordered) / len(pairs),
    }


def _added(acts: Tensor, vector: Tensor, strength: float, start: int) -> Tensor:
    steered = acts.clone()
    steered[:, start:] += strength * vector
    return steered


@exercise
def add_after(answer: Any, rng: torch.Generator) -> None:
    """A vector added from a position on, in a new tensor."""
    for start, low in zip(distinct(rng, 2, 7), (1.5, 3.0), strict=True):
        acts, vector = torch.randn(3, 8, 5, generator=rng), torch.randn(5, generator=rng)
        strength = low + float(torch.rand((), generator=rng))
        inputs = {
            "acts [batch pos d_model]": acts,
            "vector [d_model]": vector,
            "strength": strength,
            "start": start,
        }
        mistakes = _steering_mistakes(acts, vector, strength, start)
        compare(answer, _added, inputs, mistakes, hint="Activations keep their shape.")


def _steering_mistakes(
    acts: Tensor, vector: Tensor, strength: float, start: int
) -> dict[str, Tensor]:
    at = torch.arange(8)[None, :, None]

    def add(mask: Tensor, size: float = strength) -> Tensor:
        return acts + size * vector * mask

    return {
        "Nothing has changed. Is the sum kept?": acts,
        "You steered the prompt. Leave positions before `start` alone.": add(at < start),
        "You steered every position. Leave those before `start` alone.": add(at >= 0),
        "You steered one position. Go on to the end.": add(at == start),
        "You began one position late: `start` itself is steered.": add(at > start),
        "You began one position early.": add(at >= start - 1),
        "You steered the last position alone. Begin at `start`.": add(at == 7),
        "You steered the last `start` positions. Begin at position `start`.": add(at >= 8 - start),
        "You forgot the strength.": add(at >= start, 1.0),
        "You steered away: add, do not subtract.": add(at >= start, -strength),
        "You made the vector of length one. Add it as it is, times the strength.": (
            add(at >= start, strength / float(vector.norm()))
        ),
        "You steered the first prompt of the batch alone.": (
            torch.cat([add(at >= start)[:1], acts[1:]])
        ),
        "You replaced the activations. Add to them.": torch.where(
            at >= start, (strength * vector).expand_as(acts), acts
        ),
    }
