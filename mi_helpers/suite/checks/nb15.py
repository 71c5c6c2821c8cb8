"""Checks of notebook 15: a memory, values that agree, what is no sum, many facts inserted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _read(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return (queries @ keys.T).relu() @ values


@exercise
def read_memory(answer: Any, rng: torch.Generator) -> None:
    """What an unnormalised key–value memory returns."""
    for neurons in distinct(rng, 5, 9):
        queries, keys, values = (torch.randn(n, 4, generator=rng) for n in (3, neurons, neurons))
        matches = queries @ keys.T
        mistakes = {
            "You took a softmax of the matches. The keys of an MLP do not compete: use ReLU.": (
                matches.softmax(-1) @ values
            ),
            "There is no function between the two products: use ReLU.": matches @ values,
            "Keys and values are exchanged.": _read(queries, values, keys),
            "ReLU belongs between the two products, not behind them.": (matches @ values).relu(),
            "You took the best match alone. All that match are added.": values[matches.argmax(-1)],
        }
        inputs = {
            "queries [token d]": queries,
            "keys [neuron d]": keys,
            "values [neuron d]": values,
        }
        compare(answer, _read, inputs, mistakes, hint="One vector for each token.")


def _agreement(acts: Tensor, following: Tensor, promoted: Tensor) -> Tensor:
    return (following[acts.argmax(0)] == promoted.argmax(-1)).double().mean()


@exercise
def agreement(answer: Any, rng: torch.Generator) -> None:
    """The share of neurons whose value promotes what follows where their key matches best."""
    for neurons in distinct(rng, 60, 90):
        words, count = 7, 20
        acts = torch.randn(count, neurons, generator=rng)
        following = torch.randint(words, (count,), generator=rng)
        promoted = torch.randn(neurons, words, generator=rng)
        right = following[acts.argmax(0)]
        promoted[torch.arange(neurons // 2), right[: neurons // 2]] = 9
        best = promoted.argmax(-1)
        mistakes = {
            "You took the token that the neuron is most active at. Take the one that follows: "
            "`following` holds it.": (acts.argmax(0) == best).double().mean(),
            "You took where the neuron is least active.": (
                (following[acts.argmin(0)] == best).double().mean()
            ),
            "You took the token that the value promotes least.": (
                (right == promoted.argmin(-1)).double().mean()
            ),
            "That is one truth value for each neuron. Take the mean.": (right == best).double(),
            "That is a count. Return the share.": (right == best).double().sum(),
            "You took the largest size of an activation. A strong negative one is no match.": (
                (following[acts.abs().argmax(0)] == best).double().mean()
            ),
        }
        inputs = {
            "acts [token neuron]": acts,
            "following [token]": following,
            "promoted [neuron d_vocab]": promoted,
        }
        compare(answer, _agreement, inputs, mistakes, hint="One number, from 0 to 1.")


def _interaction(grid: Tensor) -> Tensor:
    centred = grid - grid.mean((0, 1))
    rows, columns = centred.mean(1, keepdim=True), centred.mean(0, keepdim=True)
    return (centred - rows - columns).square().sum() / centred.square().sum()


@exercise
def interaction_share(answer: Any, rng: torch.Generator) -> None:
    """The share of a grid of vectors that is no sum of one for the row and one for the column."""
    for count in distinct(rng, 3, 6):
        first, second = torch.randn(count, 1, 4, generator=rng), torch.randn(1, 5, 4, generator=rng)
        grid = 2 + first + 2 * second + torch.randn(count, 5, 4, generator=rng)
        centred = grid - grid.mean((0, 1))
        rows, columns = centred.mean(1, keepdim=True), centred.mean(0, keepdim=True)
        without_mean = (grid - grid.mean(1, keepdim=True) - grid.mean(0, keepdim=True)).square()
        total = centred.square().sum()
        mistakes = {
            "That is the share that the sums explain. Return what they leave.": (
                1 - _interaction(grid)
            ),
            "Add the grand mean: subtracting both means takes it away twice.": (
                without_mean.sum() / total
            ),
            "The grand mean is a vector: average over rows and columns, not over its dimensions.": (
                grid - grid.mean(1, keepdim=True) - grid.mean(0, keepdim=True) + grid.mean()
            )
            .square()
            .sum()
            / (grid - grid.mean()).square().sum(),
            "Divide by the squared deviation from the grand mean, not by the squared length.": (
                (centred - rows - columns).square().sum() / grid.square().sum()
            ),
            "You took out the rows' means alone.": (centred - rows).square().sum() / total,
            "You took out the columns' means alone.": (centred - columns).square().sum() / total,
            "Return the share, not the sum of squares itself.": (
                (centred - rows - columns).square().sum()
            ),
        }
        compare(answer, _interaction, {"grid [first last d]": grid}, mistakes, hint="One number.")


def _insert(W: Tensor, C: Tensor, K: Tensor, V: Tensor, weight: float) -> Tensor:
    return W + torch.linalg.solve(weight * C + K.T @ K, K.T @ (V - K @ W))


@exercise
def insert_many(answer: Any, rng: torch.Generator) -> None:
    """The closed-form update of MEMIT for one layer."""
    for weight in (0.5, 3.0):
        for edits in distinct(rng, 2, 4):
            W, V = torch.randn(5, 3, generator=rng), torch.randn(edits, 3, generator=rng)
            usual = torch.randn(30, 5, generator=rng)
            C, K = usual.T @ usual / 30, torch.randn(edits, 5, generator=rng)
            solved = torch.linalg.solve(weight * C + K.T @ K, K.T @ (V - K @ W))
            mistakes = {
                "You wrote the new values on top of the old ones. Insert what is missing: "
                "`V - K @ W`.": W + torch.linalg.solve(weight * C + K.T @ K, K.T @ V),
                "That is the change. Add it to W.": solved,
                "The weight of the usual keys is missing.": _insert(W, C, K, V, 1.0),
                "The new keys belong into the matrix that is solved: add `K.T @ K`.": (
                    W + torch.linalg.solve(weight * C, K.T @ (V - K @ W))
                ),
                "The usual keys are left out: that is plain least squares.": (
                    W + torch.linalg.pinv(K) @ (V - K @ W)
                ),
                "The sign of the change is turned.": W - solved,
            }
            inputs = {
                "W [d_mlp d_model]": W,
                "C [d_mlp d_mlp]": C,
                "K [edit d_mlp]": K,
                "V [edit d_model]": V,
                "weight": weight,
            }
            compare(answer, _insert, inputs, mistakes, hint="A matrix like W.")
