"""Checks of notebook 08: moving the origin, what is kept, incompleteness, tied ranks."""

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
    expect_number,
    expect_shape,
    refuse_if,
    run,
    show,
)


@exercise
def move_origin(answer: Any, rng: torch.Generator) -> None:
    """z moved by a constant, and the bias that leaves the output as it was."""
    z, W_O = torch.randn(5, 3, generator=rng), torch.randn(3, 6, generator=rng)
    b_O, shift = torch.randn(6, generator=rng), 1 + torch.randn(3, generator=rng)
    moved = {
        "You left z where it was. Add the shift to it.": z,
        "You subtracted the shift from z. Add it, and take it out of the bias.": z - shift,
        "You multiplied z by the shift. Add it.": z * shift,
        "You replaced z by the shift. Add it.": shift.expand_as(z),
    }
    biases = {
        "You left the bias as it was: the output has moved by shift @ W_O.": b_O,
        "You added to the bias what must be subtracted: the output moves twice.": b_O + shift @ W_O,
        "You returned the correction alone. Add the old bias.": -shift @ W_O,
        "You put the whole output of z into the bias. It makes up for the shift alone.": (
            b_O - (z + shift)[0] @ W_O
        ),
    }
    inputs = {
        "z [pos d_head]": z,
        "W_O [d_head d_model]": W_O,
        "b_O [d_model]": b_O,
        "shift [d_head]": shift,
    }
    hints = (
        "z keeps its shape.",
        "The bias lives in d_model: multiply the shift by W_O.",
        "Return two tensors: the new z and the new bias.",
    )
    compare(
        answer,
        lambda z, W_O, b_O, shift: (z + shift, b_O - shift @ W_O),
        inputs,
        (moved, biases),
        hint=hints,
    )


def _mask(values: Tensor, count: int, *, largest: bool = True) -> Tensor:
    """True at the `count` largest (or smallest) of all values."""
    order = values.flatten().argsort(descending=largest)
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view_as(values)


@exercise
def kept_parts(answer: Any, rng: torch.Generator) -> None:
    """A mask of the share with the largest size, over all layers together."""
    n_layers, n_parts = 4, 10
    few, more = distinct(rng, 6, 12, 1) + distinct(rng, 13, 20, 1)
    for count, aside in ((few, 0.3), (more, -0.3)):  # so that rounding up or down shows
        share = (count + aside) / (n_layers * n_parts)
        scores = torch.randn(n_layers, n_parts, generator=rng)
        scale = torch.tensor([0.2, 1.0, 3.0, 0.6])[torch.randperm(4, generator=rng), None]
        scores = scores * scale
        got = run(answer, scores, share)
        got = expect_shape(got, (n_layers, n_parts), hint="One entry for each part.")
        refuse_if(
            not bool(((got == 0) | (got == 1)).all()),
            "Return a mask: True where the part is kept, else False.",
        )
        size = scores.abs()
        want = _mask(size, count)
        by_layer = torch.stack([_mask(row, round(share * n_parts)) for row in size])
        mistakes = {
            "You kept the smallest: the largest scores matter most.": (
                _mask(size, count, largest=False)
            ),
            "You marked what goes. Mark what is kept.": ~want,
            "You compared with the sign: a large negative score matters, too.": (
                _mask(scores, count)
            ),
            "You kept a share of each layer. Compare all parts of the model with one another.": (
                by_layer
            ),
            "You removed the share instead of keeping it.": _mask(size, scores.numel() - count),
            "You kept the share of the summed size, not of the number of parts.": (
                _by_sum(size, share)
            ),
            "You compared with a share of the largest score.": size >= share * size.max(),
            "You kept one part too few: round, do not cut off.": _mask(size, count - 1),
            "You kept one part too many: round to the nearest number of parts.": (
                _mask(size, count + 1)
            ),
            "You kept the first parts in the order of the model. The largest are asked for.": (
                (torch.arange(scores.numel()) < count).view_as(scores)
            ),
            "You kept everything.": torch.ones_like(want),
        }
        kept = int(got.sum())
        example = (
            f"A share of {share:.4f} of 40 parts is {count} parts, those with the largest size; "
            f"you keep {kept}."
        )
        expect_close(got.bool(), want, mistakes, example=example)


def _by_sum(size: Tensor, share: float) -> Tensor:
    """The largest parts that together reach a share of the sum."""
    order = size.flatten().argsort(descending=True)
    reached = size.flatten()[order].cumsum(0) / size.sum()
    return _mask(size, int((reached < share).sum()) + 1)


def _answers(rng: torch.Generator) -> tuple[Callable[[Any], float], list[str]]:
    """A function of a set of parts in which some stand in for others, and the parts."""
    parts = [f"p{i}" for i in torch.randperm(50, generator=rng)[:6].tolist()]
    weights = 1 + 3 * torch.rand(6, generator=rng)
    value = dict(zip(parts, weights.tolist(), strict=True))

    def answer(present: Any) -> float:
        there = set(present)
        backed_up = max((value[p] for p in parts[:3] if p in there), default=0.0)
        together = value[parts[3]] if {parts[3], parts[4]} <= there else 0.0
        harm = value[parts[5]] / (10 if parts[4] in there else 7)
        return backed_up + together - (harm if parts[5] in there else 0.0)

    return answer, parts


@exercise
def incompleteness(answer: Any, rng: torch.Generator) -> None:
    """The largest |F(C without K) - F(M without K)|."""
    for _ in range(2):
        _judge_incompleteness(answer, rng)


def _judge_incompleteness(answer: Any, rng: torch.Generator) -> None:
    """One model, circuit and list of sets."""
    value, parts = _answers(rng)
    whole = set(parts)
    strongest = max(parts[:3], key=lambda part: value({part}))
    circuit = {strongest, parts[3], parts[4]}
    removed = [set(), {strongest}, {parts[4]}, {strongest, parts[4]}]
    got = run(answer, value, set(circuit), set(whole), [set(k) for k in removed])
    number = expect_number(got, "Return one number, the largest over the sets K.")
    gaps = [value(circuit - k) - value(whole - k) for k in removed]
    sizes = [abs(gap) for gap in gaps]
    mistakes = {
        "That is faithfulness: K was never removed.": abs(value(circuit) - value(whole)),
        "You took the signed difference. The model may do better or worse: use its size.": (
            max(gaps)
        ),
        "You took the most negative difference. Use its size.": min(gaps),
        "You took the mean over the sets. One bad set is enough: take the largest.": (
            sum(sizes) / len(sizes)
        ),
        "You took the sum over the sets. One bad set is enough: take the largest.": sum(sizes),
        "You took the smallest. The circuit is as incomplete as its worst set says.": min(sizes),
        "You took the last set alone. Take the largest over all of them.": sizes[-1],
        "You removed K from the circuit alone. Take it out of the model as well.": (
            max(abs(value(circuit - k) - value(whole)) for k in removed)
        ),
        "You removed K from the model alone. Take it out of the circuit as well.": (
            max(abs(value(circuit) - value(whole - k)) for k in removed)
        ),
        "You kept K instead of removing it.": max(
            abs(value(circuit & k) - value(whole & k)) for k in removed
        ),
    }
    shown = "\n".join(
        f"K = {show(sorted(k))}: F(C without K) = {value(circuit - k):.3f}, "
        f"F(M without K) = {value(whole - k):.3f}"
        for k in removed
    )
    expect_close(
        number,
        max(sizes),
        mistakes,
        example=f"Expected {max(sizes):.3f}, got {number:.3f}.\n{shown}",
    )


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share the mean of theirs."""
    smaller = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1) - 1
    return smaller + equal / 2


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a.float(), b.float()]))[0, 1]


def _as_they_come(values: Tensor) -> Tensor:
    """Ranks in which equal values are ordered by their place in the list."""
    return values.argsort(stable=True).argsort()


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    return _pearson(_ranks(a), _ranks(b))


@exercise
def tied_rank_correlation(answer: Any, rng: torch.Generator) -> None:
    """Spearman's correlation with shared ranks for ties."""
    a, b = _tied(rng)
    for one, other in ((a, b), (b, a)):  # ties in either list
        _judge_ranks(answer, one, other)


def _tied(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two lists, the second with ties, in which each mistake changes the correlation."""
    while True:
        a = torch.randn(14, generator=rng).exp().exp()
        b = (a.log() + 0.6 * torch.randn(14, generator=rng)).clamp(min=0).mul(2).round()
        b[torch.randperm(14, generator=rng)[:5]] = 0.0
        want, wrong = _spearman(a, b), [*_rank_mistakes(a, b).values()]
        apart = torch.stack([want, *wrong])
        if bool((apart[1:] - want).abs().min() > 1e-3):
            return a, b


def _rank_mistakes(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    def lowest(x: Tensor) -> Tensor:
        return (x[None] < x[:, None]).sum(1)

    def highest(x: Tensor) -> Tensor:
        return (x[None] <= x[:, None]).sum(1) - 1

    def numbered(x: Tensor) -> Tensor:
        return x.unique(return_inverse=True)[1]

    def once(x: Tensor) -> Tensor:
        return x.argsort(stable=True)

    return {
        "That is Pearson's correlation of the values. Replace them by their ranks first.": (
            _pearson(a, b)
        ),
        "You broke ties by their place in the list. Equal values share one rank.": (
            _pearson(_as_they_come(a), _as_they_come(b))
        ),
        "You used argsort once: it says which value comes first, not each value's rank.": (
            _pearson(once(a), once(b))
        ),
        "You gave tied values the lowest of their ranks. Take the mean.": (
            _pearson(lowest(a), lowest(b))
        ),
        "You gave tied values the highest of their ranks. Take the mean.": (
            _pearson(highest(a), highest(b))
        ),
        "You numbered the distinct values: ties must take up as many ranks as they are.": (
            _pearson(numbered(a), numbered(b))
        ),
        "The sign is reversed: one of your rankings runs downwards.": -_spearman(a, b),
    }


def _judge_ranks(answer: Any, a: Tensor, b: Tensor) -> None:
    inputs = {"a [n]": a, "b [n]": b}
    compare(answer, _spearman, inputs, _rank_mistakes(a, b), hint="Return one number.", atol=1e-4)
