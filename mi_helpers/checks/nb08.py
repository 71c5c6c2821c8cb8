"""Checks of notebook 08: moving the origin, what is kept, low rank, incompleteness, tied ranks."""

from __future__ import annotations

from collections.abc import Callable
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
def move_origin(answer: Any, rng: torch.Generator) -> None:
    """z moved by a constant, and the bias that leaves the output as it was."""
    z, W_O = torch.randn(5, 3, generator=rng), torch.randn(3, 6, generator=rng)
    b_O, shift = torch.randn(6, generator=rng), 1 + torch.randn(3, generator=rng)
    got = run(answer, z, W_O, b_O, shift)
    refuse_if(
        not isinstance(got, (tuple, list)) or len(got) != 2,
        "Return two tensors: the new z and the new bias.",
    )
    new_z, new_b = got
    expect_shape(new_z, (5, 3), hint="z keeps its shape.")
    expect_shape(new_b, (6,), hint="The bias lives in d_model: multiply the shift by W_O.")
    if close(new_z, z):
        raise Refused("You left z where it was. Add the shift to it.")
    if close(new_z, z - shift):
        raise Refused("You subtracted the shift from z. Add it, and take it out of the bias.")
    expect_close(new_z, z + shift, {"You multiplied z by the shift. Add it.": z * shift})
    mistakes = {
        "You left the bias as it was: the output has moved by shift @ W_O.": b_O,
        "You added to the bias what must be subtracted: the output moves twice.": b_O + shift @ W_O,
        "You returned the correction alone. Add the old bias.": -shift @ W_O,
    }
    expect_close(new_b, b_O - shift @ W_O, mistakes)


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
    scores = torch.randn(n_layers, n_parts, generator=rng)
    scores = scores * torch.tensor([0.2, 1.0, 3.0, 0.6])[torch.randperm(4, generator=rng), None]
    got = run(answer, scores, 0.3)
    expect_shape(got, (n_layers, n_parts), hint="One entry for each part.")
    refuse_if(got.dtype != torch.bool, "Return a mask: True where the part is kept, else False.")
    size, count = scores.abs(), round(0.3 * scores.numel())
    want = _mask(size, count)
    by_layer = torch.stack([_mask(row, round(0.3 * n_parts)) for row in size])
    mistakes = {
        "You kept the smallest: the largest scores matter most.": _mask(size, count, largest=False),
        "You marked what goes. Mark what is kept.": ~want,
        "You compared with the sign: a large negative score matters, too.": _mask(scores, count),
        "You kept a share of each layer. Compare all parts of the model with one another.": (
            by_layer
        ),
        "You removed the share instead of keeping it.": _mask(size, scores.numel() - count),
        "You kept the share of the summed size, not of the number of parts.": _by_sum(size, 0.3),
        "You compared with a share of the largest score.": size >= 0.3 * size.max(),
    }
    expect_close(got.float(), want.float(), {m: w.float() for m, w in mistakes.items()})


def _by_sum(size: Tensor, share: float) -> Tensor:
    """The largest parts that together reach a share of the sum."""
    order = size.flatten().argsort(descending=True)
    reached = size.flatten()[order].cumsum(0) / size.sum()
    return _mask(size, int((reached < share).sum()) + 1)


@exercise
def low_rank(answer: Any, rng: torch.Generator) -> None:
    """The closest matrix of rank k."""
    W = torch.randn(7, 5, generator=rng) * torch.tensor([3.0, 2.0, 1.5, 1.0, 0.7])
    k = int(torch.randint(2, 4, (), generator=rng))
    got = run(answer, W, k)
    expect_shape(got, (7, 5), hint="The result has the shape of W: only its rank is smaller.")
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)

    def of(keep: slice) -> Tensor:
        return U[:, keep] * S[keep] @ Vh[keep]

    mean = W.mean(0)
    Uc, Sc, Vc = torch.linalg.svd(W - mean, full_matrices=False)
    mistakes = {
        "You kept the weakest directions. The first singular values are the largest.": (
            of(slice(5 - k, None))
        ),
        "You removed the k strongest directions instead of keeping them.": of(slice(k, None)),
        "You left the singular values out.": U[:, :k] @ Vh[:k],
        "You returned W as it was.": W,
        "You kept one direction too many: k of them, not k + 1.": of(slice(0, k + 1)),
        "You kept one direction too few: k of them, not k - 1.": of(slice(0, k - 1)),
        "You zeroed all but the first columns of W. Keep directions, not columns.": (
            W * (torch.arange(5) < k)
        ),
        "You centred W first. Here it is the matrix itself that is approximated.": (
            mean + Uc[:, :k] * Sc[:k] @ Vc[:k]
        ),
    }
    expect_close(got, of(slice(0, k)), mistakes, atol=1e-4)


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
    value, parts = _answers(rng)
    whole = set(parts)
    strongest = max(parts[:3], key=lambda part: value({part}))
    circuit = {strongest, parts[3], parts[4]}
    removed = [set(), {strongest}, {parts[4]}, {strongest, parts[4]}]
    got = run(answer, value, set(circuit), set(whole), [set(k) for k in removed])
    refuse_if(
        isinstance(got, (list, tuple, dict)) or (isinstance(got, Tensor) and got.numel() != 1),
        "Return one number, the largest over the sets K.",
    )
    expect_type(got, (int, float, Tensor), "Return one number.")
    gaps = [value(circuit - k) - value(whole - k) for k in removed]
    sizes = [abs(gap) for gap in gaps]
    mistakes = {
        "That is faithfulness: K was never removed.": abs(value(circuit) - value(whole)),
        "You took the signed difference. The model may do better or worse: use its size.": (
            max(gaps)
        ),
        "You took the mean over the sets. One bad set is enough: take the largest.": (
            sum(sizes) / len(sizes)
        ),
        "You took the smallest. The circuit is as incomplete as its worst set says.": min(sizes),
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
    expect_close(float(got), max(sizes), mistakes)


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


@exercise
def tied_rank_correlation(answer: Any, rng: torch.Generator) -> None:
    """Spearman's correlation with shared ranks for ties."""
    a = torch.randn(14, generator=rng).exp().exp()
    b = (a.log() + 0.6 * torch.randn(14, generator=rng)).clamp(min=0).mul(2).round()
    b[torch.randperm(14, generator=rng)[:5]] = 0.0
    got = run(answer, a, b)
    expect_type(got, (int, float, Tensor), "Return one number.")
    refuse_if(isinstance(got, Tensor) and got.numel() != 1, "Return one number, not one each.")
    want = _pearson(_ranks(a), _ranks(b))
    low, high = ((b[None] < b[:, None]).sum(1), (b[None] <= b[:, None]).sum(1) - 1)
    dense = b.unique(return_inverse=True)[1]
    mistakes = {
        "That is Pearson's correlation of the values. Replace them by their ranks first.": (
            _pearson(a, b)
        ),
        "You broke ties by their place in the list. Equal values share one rank.": (
            _pearson(_as_they_come(a), _as_they_come(b))
        ),
        "You used argsort once: it says which value comes first, not each value's rank.": (
            _pearson(a.argsort(), b.argsort(stable=True))
        ),
        "You gave tied values the lowest of their ranks. Take the mean.": _pearson(_ranks(a), low),
        "You gave tied values the highest of their ranks. Take the mean.": (
            _pearson(_ranks(a), high)
        ),
        "You numbered the distinct values: ties must take up as many ranks as they are.": (
            _pearson(_ranks(a), dense)
        ),
        "The sign is reversed: one of your rankings runs downwards.": -want,
    }
    expect_close(torch.as_tensor(got).reshape(()).float(), want, mistakes)
