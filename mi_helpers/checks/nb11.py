"""Checks of notebook 11: quantile examples, bands, clamping, attribution, units needed."""

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


def _sparse(n: int, on: int, rng: torch.Generator) -> Tensor:
    """Activations of one unit: `on` positive ones, all different, at random places."""
    acts = torch.zeros(n)
    places = torch.randperm(n, generator=rng)[:on]
    acts[places] = (torch.randperm(on, generator=rng) + 1 + torch.rand(on, generator=rng) / 2) / on
    return acts


def _at(order: Tensor, quantiles: list[float]) -> list[int]:
    return [int(order[round(q * (len(order) - 1))]) for q in quantiles]


@exercise
def at_quantiles(answer: Any, rng: torch.Generator) -> None:
    """The indices of examples at quantiles of the positive activations."""
    acts = _sparse(60, 21, rng)
    quantiles = [1.0, 0.7, 0.35, 0.0]
    got = run(answer, acts.clone(), list(quantiles))
    got = got.tolist() if isinstance(got, Tensor) else got
    expect_type(got, list)
    refuse_if(len(got) != 4, f"Return one index for each quantile: 4 of them, not {len(got)}.")
    refuse_if(
        not all(float(i) == int(i) for i in got),
        "Return indices into acts, not the activations.",
    )
    got = [int(i) for i in got]
    positive = (acts > 0).nonzero()[:, 0]
    order = positive[acts[positive].argsort()]
    want = _at(order, quantiles)
    if got == want:
        return
    top = acts.max()
    nearest = [int(positive[(acts[positive] - q * top).abs().argmin()]) for q in quantiles]
    mistakes = {
        "You counted the tokens where the unit is silent: keep the positive ones first.": (
            _at(acts.argsort(), quantiles)
        ),
        "Your order runs from strong to weak: quantile 1.0 is the strongest.": (
            _at(order.flip(0), quantiles)
        ),
        "Your indices count the positive activations. Map them back to all of acts.": (
            _at(acts[positive].argsort(), quantiles)
        ),
        "You took shares of the largest activation. A quantile is about ranks.": nearest,
        "You returned the strongest ones only.": order.flip(0)[:4].tolist(),
        "You took the examples in the order of the text: sort them by activation.": (
            _at(positive, quantiles)
        ),
    }
    for message, wrong in mistakes.items():
        refuse_if(got == wrong, message)
    raise Refused(f"The indices differ: expected {want}, got {got}.")


@exercise
def precision_by_band(answer: Any, rng: torch.Generator) -> None:
    """Precision in bands with equally many active tokens."""
    bands = 4
    acts = _sparse(200, 64, rng) ** 2
    strength = acts / acts.max()
    chance = 0.1 + 0.8 * strength
    holds = torch.rand(200, generator=rng) < torch.where(acts > 0, chance, torch.tensor(0.5))
    got = run(answer, acts.clone(), holds.clone(), bands)
    expect_shape(got, (bands,), hint="One share for each band.")
    on = acts > 0
    order = acts[on].argsort()

    def by(index: Tensor, values: Tensor) -> Tensor:
        return torch.stack([p.float().mean() for p in values[index].tensor_split(bands)])

    want = by(order, holds[on])
    edges = torch.linspace(0, float(acts.max()), bands + 1)
    width = [holds[on & (acts > a) & (acts <= b)] for a, b in zip(edges, edges[1:], strict=False)]
    parts = holds[on][order].tensor_split(bands)
    mistakes = {
        "Your bands run from strong to weak. Begin with the weakest.": want.flip(0),
        "You counted the tokens where the unit is silent: they belong to no band.": (
            by(acts.argsort(), holds)
        ),
        "Your bands are equally wide. They must hold equally many tokens.": torch.stack(
            [part.float().mean() if len(part) else torch.tensor(0.0) for part in width]
        ),
        "You did not sort by activation.": by(torch.arange(int(on.sum())), holds[on]),
        "That is recall: you divided by how often the hypothesis holds. Divide by the band.": (
            torch.stack([part.sum() / holds.sum() for part in parts])
        ),
        "That is a count. Divide by the number of tokens in the band.": torch.stack(
            [part.float().sum() for part in parts]
        ),
    }
    expect_close(got, want, mistakes)


@exercise
def clamp_unit(answer: Any, rng: torch.Generator) -> None:
    """x with one unit set to a value, the error kept."""
    pos, d_in, d_sae = 5, 6, 9
    x = torch.randn(pos, d_in, generator=rng)
    f = torch.rand(pos, d_sae, generator=rng) * (torch.rand(pos, d_sae, generator=rng) < 0.7)
    W_dec = torch.randn(d_sae, d_in, generator=rng)
    i = int(torch.randint(1, d_sae, (), generator=rng))
    f[:, i] = 0.3 + torch.rand(pos, generator=rng)
    value = 2.5 + float(torch.rand((), generator=rng))
    given = x.clone()
    got = run(answer, given, f.clone(), W_dec, i, value)
    expect_shape(got, (pos, d_in), hint="The stream keeps its shape.")
    refuse_if(not torch.equal(given, x), "You changed x in place. Return a new tensor.")
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
    }
    expect_close(got, x + (value - there) * W_dec[i], mistakes)


@exercise
def unit_attribution(answer: Any, rng: torch.Generator) -> None:
    """Activation times gradient along the decoder, summed over positions."""
    pos, d_in, d_sae = 4, 6, 7
    f = torch.rand(pos, d_sae, generator=rng) * (torch.rand(pos, d_sae, generator=rng) < 0.8)
    f[:, 0] += 0.2
    gradient = torch.randn(pos, d_in, generator=rng)
    W_dec = torch.randn(d_sae, d_in, generator=rng)
    got = run(answer, f.clone(), gradient.clone(), W_dec.clone())
    along = gradient @ W_dec.T
    if isinstance(got, Tensor) and got.shape == (pos, d_sae) and close(got, f * along):
        raise Refused("You kept the positions. Sum over them.")
    expect_shape(got, (d_sae,), hint="One number for each unit.")
    want = (f * along).sum(0)
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
    }
    expect_close(got, want, mistakes)


@exercise
def units_needed(answer: Any, rng: torch.Generator) -> None:
    """The smallest number of units that closes a share of the gap."""
    corrupt = -3.0 - 0.1 * float(torch.rand((), generator=rng))
    clean = 5.0 + 0.1 * float(torch.rand((), generator=rng))
    share = 0.8
    # Reached at 6; dips at 7; each usual mistake answers another number.
    shares = torch.tensor([0.0, 0.2, 0.45, 0.55, 0.68, 0.74, 0.85, 0.78, 0.84, 0.93, 1.0])
    shares = shares + 0.01 * torch.rand(len(shares), generator=rng)
    restored = corrupt + (clean - corrupt) * shares
    got = run(answer, restored.clone(), corrupt, clean, share)
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    refuse_if(
        isinstance(got, bool) or not isinstance(got, (int, float)),
        "Return one whole number here: the share is reached.",
    )
    refuse_if(got == 5, "One too few: restored[0] is the metric with no unit at all.")
    refuse_if(got == 7, "One too many: restored[n] is the metric with n units.")
    refuse_if(got == 8, "You took where it stays above the share. The first time is asked for.")
    refuse_if(
        got == int((restored >= share * clean).nonzero()[0]),
        "You compared with a share of the clean metric. The gap begins at the corrupt one.",
    )
    refuse_if(
        got == int((restored - corrupt >= share).nonzero()[0]),
        "You compared the metric with the share. Divide by the whole gap.",
    )
    refuse_if(got != 6, f"Expected 6, got {got}.")
    never = run(answer, corrupt + 0.5 * (restored - corrupt), corrupt, clean, share)
    refuse_if(never != -1, "When no number of units closes the share, return -1.")
    # A gap that runs downwards is closed all the same.
    down = run(answer, clean + (corrupt - clean) * shares, clean, corrupt, share)
    refuse_if(down != 6, "Where the clean metric is the lower one, your answer is wrong: divide.")
