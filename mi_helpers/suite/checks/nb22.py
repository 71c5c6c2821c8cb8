"""Checks of notebook 22: SoLU, effective number, shares on properties, the largest neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _solu(hidden: Tensor) -> Tensor:
    return hidden * hidden.softmax(-1)


@exercise
def softmax_linear(answer: Any, rng: torch.Generator) -> None:
    """Every neuron times its share in the softmax over neurons."""
    for shape in ((5, 4), (2, 3, 4)):
        hidden = 2 * torch.randn(shape, generator=rng)
        mistakes = {
            "This is the softmax alone. Multiply every neuron by its share.": hidden.softmax(-1),
            "The softmax is over neurons, the last axis, not over tokens.": (
                hidden * hidden.softmax(0)
            ),
            "The softmax is over neurons, the last axis, not the one before it.": (
                hidden * hidden.softmax(-2)
            ),
            "A share adds up to one over neurons. This is a sigmoid, in which no neuron knows of "
            "the others.": hidden * hidden.sigmoid(),
            "You did not divide by the sum over neurons.": hidden * hidden.exp(),
            "You took the logarithm of the softmax.": hidden * hidden.log_softmax(-1),
            "You cut negative neurons off. SoLU has no ReLU in it.": _solu(hidden).relu(),
            "You multiplied by the neuron twice.": hidden * _solu(hidden),
        }
        inputs = {f"hidden {list(shape)}, neurons last": hidden}
        compare(answer, _solu, inputs, mistakes, hint="The shape stays as it is.")


def _effective(acts: Tensor) -> Tensor:
    squares = acts.square()
    return squares.sum(-1).square() / squares.square().sum(-1)


@exercise
def effective_number(answer: Any, rng: torch.Generator) -> None:
    """Squared sum of squares over the sum of fourth powers, for every token."""
    acts = torch.randn(6, 5, generator=rng) * torch.rand(6, 1, generator=rng).add(0.5)
    squares = acts.square()
    mistakes = {
        "You summed over tokens. Sum over neurons, the last axis.": _effective(acts.T),
        "It is upside down: more neurons must give a larger number.": 1 / _effective(acts),
        "The sum of squares must be squared before you divide.": (
            squares.sum(-1) / squares.square().sum(-1)
        ),
        "You took sizes in place of squares.": (acts.abs().sum(-1).square() / squares.sum(-1)),
        "Signs count in your sum. Square the activations first.": (
            acts.sum(-1).square() / squares.sum(-1)
        ),
        "You took means over neurons, so that the result is a share. Take sums.": (
            squares.mean(-1).square() / squares.square().mean(-1)
        ),
        "The mean over neurons is gone: a neuron is what it is, zero included.": (
            _effective(acts - acts.mean(-1, keepdim=True))
        ),
    }
    hint = "One number for each token."
    compare(answer, _effective, {"acts [token neuron]": acts}, mistakes, hint=hint)


def _shares(acts: Tensor, holds: Tensor) -> Tensor:
    energy = acts.clamp_min(0).square()
    return energy.T @ holds / energy.sum(0)[:, None].clamp_min(1e-12)


@exercise
def shares_on(answer: Any, rng: torch.Generator) -> None:
    """How much of each neuron's squared positive activation falls on tokens with a property."""
    acts = torch.randn(9, 4, generator=rng) * torch.rand(9, 1, generator=rng).add(0.4)
    acts[:, 2] = -acts[:, 2].abs() - 0.1  # a neuron that is never positive
    holds = (torch.rand(9, 3, generator=rng) < 0.5).float()
    holds[0], holds[1] = 1.0, 0.0
    positive, energy = acts.clamp_min(0), acts.clamp_min(0).square()

    def over(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(whole.abs() > 1e-9, part / whole, 0.0)

    mistakes = {
        "Negative activations count in your sum. Clamp at zero first.": (
            over(acts.square().T @ holds, acts.square().sum(0)[:, None])
        ),
        "You took activations in place of their squares.": (
            over(positive.T @ holds, positive.sum(0)[:, None])
        ),
        "You divided by the number of tokens with the property. Divide by all that the neuron "
        "does.": energy.T @ holds / holds.sum(0),
        "You counted tokens on which the neuron is positive. Their strength matters.": (
            over((acts > 0).float().T @ holds, (acts > 0).float().sum(0)[:, None])
        ),
        "This is not divided by the neuron's whole: it is no share.": energy.T @ holds,
        "You divided by what falls on all properties together. A token may have several or none.": (
            over(energy.T @ holds, (energy.T @ holds).sum(-1, keepdim=True))
        ),
        "You return what falls on the tokens without the property.": (
            over(energy.T @ (1 - holds), energy.sum(0)[:, None])
        ),
    }
    inputs = {"acts [token neuron]": acts, "holds [token property]": holds}
    hint = "One row for each neuron, one column for each property; a silent neuron has zeros."
    compare(answer, _shares, inputs, mistakes, hint=hint)


def _keep(acts: Tensor, rest: Tensor, k: int) -> Tensor:
    far = (acts - rest).abs()
    return torch.where(far >= far.topk(k, -1).values[..., -1:], acts, rest)


@exercise
def keep_largest(answer: Any, rng: torch.Generator) -> None:
    """Of every token the k neurons farthest from rest, the others at rest."""
    for k in distinct(rng, 1, 4):
        acts, rest = torch.randn(6, 5, generator=rng), torch.randn(5, generator=rng)
        far = (acts - rest).abs()

        def kept(score: Tensor, acts: Tensor = acts, rest: Tensor = rest, k: int = k) -> Tensor:
            return torch.where(score >= score.topk(k, -1).values[..., -1:], acts, rest)

        over_tokens = far >= far.topk(k, 0).values[-1:]
        mistakes = {
            "You put the others at zero. Put them at rest.": kept(far, rest=torch.zeros(5)),
            "You chose by the activation. Choose by its distance from rest.": kept(acts),
            "You chose by the size of the activation. Choose by its distance from rest.": (
                kept(acts.abs())
            ),
            "You kept those above rest only. A neuron far below it is far away, too.": (
                kept(acts - rest)
            ),
            "You put the largest at rest, and kept the others.": torch.where(
                far >= far.topk(k, -1).values[..., -1:], rest, acts
            ),
            "You kept the nearest to rest.": kept(-far),
            "You chose k tokens for each neuron. Choose k neurons for each token.": (
                torch.where(over_tokens, acts, rest)
            ),
        }
        inputs = {"acts [token neuron]": acts, "rest [neuron]": rest, "k": k}
        compare(answer, _keep, inputs, mistakes, hint="The shape stays as it is.")
