"""Checks of notebook 11: quantile examples, bands, clamping, attribution, units needed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    as_tensor,
    close,
    compare,
    crossed,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_shape,
    refuse_if,
    run,
    show,
    smallest,
)


def _sparse(n: int, on: int, rng: torch.Generator) -> Tensor:
    """Activations of one unit: `on` positive ones, all different, at random places."""
    acts = torch.zeros(n)
    places = torch.randperm(n, generator=rng)[:on]
    acts[places] = (torch.randperm(on, generator=rng) + 1 + torch.rand(on, generator=rng) / 2) / on
    return acts


def _at(order: Tensor, quantiles: list[float]) -> list[int]:
    return [int(order[round(q * (len(order) - 1))]) for q in quantiles]


def _examples(acts: Tensor, quantiles: list[float]) -> list[int]:
    positive = (acts > 0).nonzero()[:, 0]
    return _at(positive[acts[positive].argsort()], quantiles)


def _quantile_mistakes(acts: Tensor, quantiles: list[float]) -> dict[str, list[int]]:
    positive = (acts > 0).nonzero()[:, 0]
    order = positive[acts[positive].argsort()]
    top, last = acts.max(), len(order) - 1
    return {
        "You counted the tokens where the unit is silent: keep the positive ones first.": (
            _at(acts.argsort(), quantiles)
        ),
        "Your order runs from strong to weak: quantile 1.0 is the strongest.": (
            _at(order.flip(0), quantiles)
        ),
        "Your indices count the positive activations. Map them back to all of acts.": (
            _at(acts[positive].argsort(), quantiles)
        ),
        "You took shares of the largest activation. A quantile is about ranks.": (
            [int(positive[(acts[positive] - q * top).abs().argmin()]) for q in quantiles]
        ),
        "You returned the strongest ones only.": order.flip(0)[: len(quantiles)].tolist(),
        "You took the examples in the order of the text: sort them by activation.": (
            _at(positive, quantiles)
        ),
        "You cut the rank off. Round it: the example whose rank is nearest is asked for.": (
            [int(order[int(q * last)]) for q in quantiles]
        ),
        "The ranks run from 0 to n - 1, so a quantile q has rank q (n - 1), not q n.": (
            [int(order[min(last, int(q * (last + 1)))]) for q in quantiles]
        ),
        "The ranks run from 0 to n - 1, so a quantile q has rank q (n - 1), not q n rounded.": (
            [int(order[min(last, round(q * (last + 1)))]) for q in quantiles]
        ),
    }


def _quantile_case(rng: torch.Generator) -> tuple[Tensor, list[float]]:
    """Activations and quantiles on which each mistake gives other examples."""
    while True:
        on = int(torch.randint(18, 26, (), generator=rng))
        acts = _sparse(60, on, rng)
        inner = (torch.rand(3, generator=rng) * 0.9 + 0.05).tolist()
        quantiles = [1.0, *sorted((round(q, 2) for q in inner), reverse=True), 0.0]
        ranks = [q * (on - 1) for q in quantiles[1:-1]]
        clear = all(0.1 < abs(rank - int(rank) - 0.5) for rank in ranks)  # no rank in the middle
        found = [_examples(acts, quantiles), *_quantile_mistakes(acts, quantiles).values()]
        if clear and len({tuple(indices) for indices in found}) == len(found):
            return acts, quantiles


@exercise
def at_quantiles(answer: Any, rng: torch.Generator) -> None:
    """The indices of examples at quantiles of the positive activations."""
    first, second = _quantile_case(rng), _quantile_case(rng)
    while not crossed(_examples, first, second):
        second = _quantile_case(rng)
    for acts, quantiles in (first, second):
        hint = "Return one index for each quantile."
        got = run(answer, acts.clone(), list(quantiles))
        got = expect_shape(got, (len(quantiles),), hint)
        refuse_if(
            not bool((got.double() == got.double().round()).all()),
            "Return indices into acts, not the activations.",
        )
        indices, want = [int(i) for i in got.tolist()], _examples(acts, quantiles)
        if indices == want:
            continue
        for message, wrong in _quantile_mistakes(acts, quantiles).items():
            refuse_if(indices == wrong, message)
        wrong_at = next(i for i, (a, b) in enumerate(zip(indices, want, strict=True)) if a != b)
        order = acts[acts > 0].sort().values
        raise Refused(
            f"{len(order)} of the activations are positive. Quantile {quantiles[wrong_at]} of them "
            f"has rank round({quantiles[wrong_at] * (len(order) - 1):.2f}) and activation "
            f"{float(acts[want[wrong_at]]):.4f}, at index {want[wrong_at]}; you return "
            f"{indices[wrong_at]}."
        )


def _by_band(acts: Tensor, holds: Tensor, bands: int) -> Tensor:
    on = acts > 0
    in_order = holds[on][acts[on].argsort()]
    return torch.stack([part.float().mean() for part in in_order.tensor_split(bands)])


@exercise
def precision_by_band(answer: Any, rng: torch.Generator) -> None:
    """Precision in bands with equally many active tokens."""
    for bands in distinct(rng, 3, 7):
        acts = _sparse(200, 16 * bands, rng) ** 2
        strength = acts / acts.max()
        chance = 0.1 + 0.8 * strength
        draw = torch.rand(200, generator=rng)
        holds = draw < torch.where(acts > 0, chance, torch.tensor(0.5))
        compare(
            answer,
            _by_band,
            {"acts [token]": acts, "holds [token]": holds, "bands": bands},
            _band_mistakes(acts, holds, bands),
            hint=f"One share for each band: here there are {bands}.",
        )


def _band_mistakes(acts: Tensor, holds: Tensor, bands: int) -> dict[str, Tensor]:
    on = acts > 0
    order = acts[on].argsort()

    def by(index: Tensor, values: Tensor) -> Tensor:
        return torch.stack([p.float().mean() for p in values[index].tensor_split(bands)])

    edges = torch.linspace(0, float(acts.max()), bands + 1)
    width = [holds[on & (acts > a) & (acts <= b)] for a, b in zip(edges, edges[1:], strict=False)]
    parts = holds[on][order].tensor_split(bands)
    return {
        "Your bands run from strong to weak. Begin with the weakest.": by(order, holds[on]).flip(0),
        "You counted the tokens where the unit is silent: they belong to no band.": (
            by(acts.argsort(), holds)
        ),
        "Your bands are equally wide. They must hold equally many tokens.": torch.stack(
            [part.float().mean() if len(part) else torch.tensor(0.0) for part in width]
        ),
        "You did not sort by activation.": by(torch.arange(int(on.sum())), holds[on]),
        "You sorted the activations, and not what holds for them along with them.": (
            by(torch.arange(len(order)), holds[: len(order)])
        ),
        "You returned one precision for all bands.": holds[on].float().mean().expand(bands),
        "You averaged the activations of each band. The share that holds is asked for.": (
            torch.stack([p.mean() for p in acts[on][order].tensor_split(bands)])
        ),
        "That is recall: you divided by how often the hypothesis holds. Divide by the band.": (
            torch.stack([part.sum() / holds.sum() for part in parts])
        ),
        "That is a count. Divide by the number of tokens in the band.": torch.stack(
            [part.float().sum() for part in parts]
        ),
    }


def _clamped(x: Tensor, f: Tensor, W_dec: Tensor, i: int, value: float) -> Tensor:
    return x + (value - f[:, i, None]) * W_dec[i]


@exercise
def clamp_unit(answer: Any, rng: torch.Generator) -> None:
    """x with one unit set to a value, the error kept."""
    pos, d_in, d_sae = 5, 6, 9
    for i, low in zip(distinct(rng, 1, d_sae), (2.0, 3.0), strict=True):
        x = torch.randn(pos, d_in, generator=rng)
        f = torch.rand(pos, d_sae, generator=rng)
        f = f * (torch.rand(pos, d_sae, generator=rng) < 0.7)
        W_dec = torch.randn(d_sae, d_in, generator=rng)
        f[:, i] = 0.3 + torch.rand(pos, generator=rng)
        value = low + float(torch.rand((), generator=rng))
        there = f[:, i, None]
        clamped = f.clone()
        clamped[:, i] = value
        mistakes = {
            "You added the value on top of what the unit had. Set it: take the old part away.": (
                x + value * W_dec[i]
            ),
            "You returned the reconstruction: what the SAE leaves out is lost.": clamped @ W_dec,
            "You took the unit away and did not put the value in.": x - there * W_dec[i],
            "The sign is reversed: the step goes from the old value to the new one.": (
                x - (value - there) * W_dec[i]
            ),
            "You returned the step alone. Add it to x.": (value - there) * W_dec[i],
            "You returned x as it was.": x,
            "You used the mean activation of the unit. Each position has its own.": (
                x + (value - there.mean()) * W_dec[i]
            ),
            "You multiplied the unit by the value. Set it to the value.": (
                x + (value * there - there) * W_dec[i]
            ),
            "You set every unit to the value. One of them is asked for.": (x + (value - f) @ W_dec),
            "You clamped the last position alone. All of them are asked for.": (
                torch.cat([x[:-1], x[-1:] + (value - there[-1:]) * W_dec[i]])
            ),
        }
        inputs = {
            "x [pos d_in]": x,
            "f [pos d_sae]": f,
            "W_dec [d_sae d_in]": W_dec,
            "i": i,
            "value": value,
        }
        compare(answer, _clamped, inputs, mistakes, hint="The stream keeps its shape.")


def _unit_scores(f: Tensor, gradient: Tensor, W_dec: Tensor) -> Tensor:
    return (f * (gradient @ W_dec.T)).sum(0)


@exercise
def unit_attribution(answer: Any, rng: torch.Generator) -> None:
    """Activation times gradient along the decoder, summed over positions."""
    pos, d_in, d_sae = 4, 6, 7
    f = torch.rand(pos, d_sae, generator=rng) * (torch.rand(pos, d_sae, generator=rng) < 0.8)
    f[:, 0] += 0.2
    gradient = torch.randn(pos, d_in, generator=rng)
    W_dec = torch.randn(d_sae, d_in, generator=rng)
    got = as_tensor(run(answer, f, gradient, W_dec), "One number for each unit.")
    along = gradient @ W_dec.T
    refuse_if(close(got, f * along), "You kept the positions. Sum over them.")
    got = expect_shape(got, (d_sae,), hint="One number for each unit.")
    want = (f * along).sum(0)
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    mistakes = {
        "That is the gradient alone: multiply with how active the unit is.": along.sum(0),
        "That is the activation alone: it says nothing about the metric.": f.sum(0),
        "You lost the sign: a unit can work against the metric.": want.abs(),
        "You lost the signs before you summed: positions may cancel.": (f * along).abs().sum(0),
        "The sign is reversed: positive means that the unit raises the metric.": -want,
        "You averaged over positions. Sum over them.": want / pos,
        "You summed activations and gradients first. Multiply at each position, then sum.": (
            f.sum(0) * along.sum(0)
        ),
        "You took the last position alone. A unit acts wherever it fires.": (f * along)[-1],
        "You gave every unit a direction of length one. An activation goes along the decoder's row "
        "as it is.": (f * (gradient @ unit.T)).sum(0),
        "You only asked where the unit fires. How strongly counts as well.": (
            ((f > 0) * along).sum(0)
        ),
    }
    inputs = {"f [pos d_sae]": f, "gradient [pos d_in]": gradient, "W_dec [d_sae d_in]": W_dec}
    example = functools.partial(smallest, answer, _unit_scores, inputs)
    expect_close(got, want, mistakes, example=example)


def _first(reached: Tensor) -> int:
    found = reached.nonzero()
    return int(found[0]) if len(found) else -1


def _needed(restored: Tensor, corrupt: float, clean: float, share: float) -> int:
    return _first((restored - corrupt) / (clean - corrupt) >= share)


def _needed_mistakes(
    restored: Tensor, corrupt: float, clean: float, share: float
) -> dict[str, int]:
    closed = (restored - corrupt) / (clean - corrupt)
    want = _first(closed >= share)
    return {
        "One too few: restored[0] is the metric with no unit at all.": want - 1,
        "One too many: restored[n] is the metric with n units.": want + 1,
        "You took where it stays above the share. The first time is asked for.": (
            int((closed < share).nonzero()[-1]) + 1
        ),
        "You compared with a share of the clean metric. The gap begins at the corrupt one.": (
            _first(restored >= share * clean)
        ),
        "You compared the metric with the share. Divide by the whole gap.": (
            _first(restored - corrupt >= share)
        ),
        "You took the number that comes nearest to the share. It must be reached.": (
            int((closed - share).abs().argmin())
        ),
        "You counted how many numbers of units close the share. The smallest one is asked for.": (
            int((closed >= share).sum())
        ),
        "You returned the largest number of units. The smallest one is asked for.": (
            len(restored) - 1
        ),
    }


def _needed_case(rng: torch.Generator) -> tuple[Tensor, float, float, float]:
    """A metric that reaches the share, dips, and reaches it again, so that each mistake shows."""
    while True:
        share = 0.55 + 0.3 * float(torch.rand((), generator=rng))
        corrupt = -2.0 - 2 * float(torch.rand((), generator=rng))
        clean = 4.0 + 2 * float(torch.rand((), generator=rng))
        n = int(torch.randint(10, 15, (), generator=rng))
        shares = torch.rand(n + 1, generator=rng).sort().values
        shares = (shares - shares[0]) / (shares[-1] - shares[0])
        at = _first(shares >= share)
        if not 4 <= at <= n - 5:
            continue
        shares[at + 1] = share - 0.02 - 0.03 * float(torch.rand((), generator=rng))
        clear = bool((shares - share).abs().min() > 1e-3)
        restored = corrupt + (clean - corrupt) * shares
        case = restored, corrupt, clean, share
        wrong = _needed_mistakes(*case)
        others = [value for message, value in wrong.items() if "nearest" not in message]
        if clear and _needed(*case) not in wrong.values() and len(set(others)) == len(others):
            return case


@exercise
def units_needed(answer: Any, rng: torch.Generator) -> None:
    """The smallest number of units that closes a share of the gap."""
    first, second = _needed_case(rng), _needed_case(rng)
    while not crossed(_needed, first, second):
        second = _needed_case(rng)
    for restored, corrupt, clean, share in (first, second):
        want = _needed(restored, corrupt, clean, share)
        hint = "Return one whole number: the share is reached here."
        got = expect_integer(run(answer, restored, corrupt, clean, share), hint)
        if got != want:
            for message, wrong in _needed_mistakes(restored, corrupt, clean, share).items():
                refuse_if(got == wrong, message)
            closed = ((restored - corrupt) / (clean - corrupt)).tolist()
            raise Refused(
                f"With 0, 1, 2, ... units these shares of the gap are closed: {show(closed)}. "
                f"{share:.4g} is first reached with {want} units; you return {got}."
            )
        never = run(answer, corrupt + 0.5 * (restored - corrupt), corrupt, clean, share)
        refuse_if(
            expect_integer(never, "When no number of units closes the share, return -1.") != -1,
            "When no number of units closes the share, return -1.",
        )
        # A gap that runs downwards is closed all the same.
        turned = clean + corrupt - restored
        down = expect_integer(run(answer, turned, clean, corrupt, share), hint)
        refuse_if(
            down != want, "Where the clean metric is the lower one, your answer is wrong: divide."
        )
    exact = run(answer, torch.tensor([0.0, 1.0, 2.0, 4.0]), 0.0, 4.0, 0.5)
    refuse_if(
        expect_integer(exact) != 2,
        "Half of the gap is closed where exactly half of it is: compare with >=, not with >.",
    )
