"""Checks of notebook 13: patching along a direction, orthogonalising, a span, a rank-one edit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, exercise


def _patched_along(acts: Tensor, source: Tensor, direction: Tensor) -> Tensor:
    unit = direction / direction.norm()
    return acts + ((source - acts) @ unit)[..., None] * unit


@exercise
def patch_along(answer: Any, rng: torch.Generator) -> None:
    """The source's component along one direction, the rest as it was."""
    acts, source = torch.randn(2, 3, 4, 6, generator=rng)
    direction = (2 + torch.rand((), generator=rng)) * torch.randn(6, generator=rng)
    unit = direction / direction.norm()

    def along(tensor: Tensor, axis: Tensor = unit) -> Tensor:
        return (tensor @ axis)[..., None] * axis

    mistakes = {
        "You did not make the direction of length one.": acts + along(source - acts, direction),
        "You divided by the length once: the direction stands twice in the formula.": (
            acts + along(source - acts, direction) / direction.norm()
        ),
        "You replaced everything. Only the component along the direction comes from the source.": (
            source
        ),
        "You removed the component and put none in its place.": acts - along(acts),
        "You added the source's component on top of the old one.": acts + along(source),
        "You swapped them: this is the source with the component of `acts`.": (
            source + along(acts - source)
        ),
        "You kept nothing but the component. Leave all else as it was.": along(source),
        "The sign of the change is reversed.": acts - along(source - acts),
        "You returned `acts` as it was.": acts,
    }
    inputs = {
        "acts [batch pos d_model]": acts,
        "source [batch pos d_model]": source,
        "direction [d_model]": direction,
    }
    compare(answer, _patched_along, inputs, mistakes, hint="Activations keep their shape.")


def _orthogonal(W: Tensor, direction: Tensor) -> Tensor:
    unit = direction / direction.norm()
    return W - torch.outer(W @ unit, unit)


@exercise
def orthogonalise(answer: Any, rng: torch.Generator) -> None:
    """A matrix whose rows have no component along a direction."""
    W = torch.randn(6, 6, generator=rng)
    direction = (2 + torch.rand((), generator=rng)) * torch.randn(6, generator=rng)
    unit = direction / direction.norm()
    outer = torch.outer(unit, unit)
    mistakes = {
        "You did not make the direction of length one.": W - W @ torch.outer(direction, direction),
        "You removed it from what the matrix reads. Rows are what it writes: multiply on the "
        "right.": (W - outer @ W),
        "You kept the direction and removed all else.": W @ outer,
        "You subtracted the projector itself. Subtract W times it.": W - outer,
        "You added what must be subtracted: it writes twice as much along it.": W + W @ outer,
        "You divided by the length once: the direction stands twice in the formula.": (
            W - torch.outer(W @ direction, unit)
        ),
        "You removed the direction from both sides. What the matrix reads stays.": (
            (torch.eye(6) - outer) @ W @ (torch.eye(6) - outer)
        ),
        "Nothing has changed.": W,
    }
    inputs = {"W [d_in d_model]": W, "direction [d_model]": direction}
    compare(answer, _orthogonal, inputs, mistakes, hint="The matrix keeps its shape.")


def _without_span(acts: Tensor, directions: Tensor) -> Tensor:
    Q = torch.linalg.qr(directions.T).Q
    return acts - (acts @ Q) @ Q.T


@exercise
def remove_span(answer: Any, rng: torch.Generator) -> None:
    """Activations without any component in the span of slanted directions."""
    acts = torch.randn(4, 5, 8, generator=rng)
    shared = torch.randn(8, generator=rng)
    directions = shared + 0.8 * torch.randn(3, 8, generator=rng)
    unit = directions / directions.norm(dim=1, keepdim=True)
    Q = torch.linalg.qr(directions.T).Q
    in_turn = acts
    for row in unit:
        in_turn = in_turn - (in_turn @ row)[..., None] * row
    mean = directions.mean(0) / directions.mean(0).norm()
    mistakes = {
        "You removed each as if they were orthogonal: what they share is taken away several "
        "times.": (acts - (acts @ unit.T) @ unit),
        "You removed one after the other. Removing the second brings back some of the first.": (
            in_turn
        ),
        "You removed their mean alone. Remove the whole span.": (
            acts - (acts @ mean)[..., None] * mean
        ),
        "You did not make the directions orthonormal.": acts - (acts @ directions.T) @ directions,
        "You kept the span and removed all else.": (acts @ Q) @ Q.T,
        "You removed the first direction alone.": acts - (acts @ unit[0])[..., None] * unit[0],
        "You removed the last direction alone.": acts - (acts @ unit[-1])[..., None] * unit[-1],
        "You returned the activations as they were.": acts,
    }
    inputs = {"acts [batch pos d_model]": acts, "directions [k d_model]": directions}
    hint = "Activations keep their shape."
    compare(answer, _without_span, inputs, mistakes, hint=hint, atol=1e-4)


def _edited(W: Tensor, C: Tensor, k: Tensor, v_new: Tensor) -> Tensor:
    solved = torch.linalg.solve(C, k)
    return W + torch.outer(solved / (k @ solved), v_new - k @ W)


@exercise
def rank_one_edit(answer: Any, rng: torch.Generator) -> None:
    """The smallest update, in the sense of C, that gives one key a new value."""
    W, keys = torch.randn(6, 4, generator=rng), torch.randn(40, 6, generator=rng)
    keys = keys * torch.tensor([3.0, 2.0, 1.5, 1.0, 0.7, 0.5])
    C = keys.T @ keys / len(keys)
    k, v_new = torch.randn(6, generator=rng), torch.randn(4, generator=rng)
    solved, change = torch.linalg.solve(C, k), v_new - k @ W

    def edited(left: Tensor, right: Tensor = change) -> Tensor:
        return W + torch.outer(left, right)

    mistakes = {
        "You left C out: that is the smallest update for keys of any kind.": edited(k / (k @ k)),
        "You forgot to divide by k · C⁻¹k: the key does not get the new value.": edited(solved),
        "You divided by k · k. It must be k · C⁻¹k.": edited(solved / (k @ k)),
        "You multiplied by C instead of its inverse.": edited(C @ k / (k @ C @ k)),
        "You added the new value on top of the old one. Subtract k @ W.": (
            edited(solved / (k @ solved), v_new)
        ),
        "The sign is reversed: new value minus old value.": edited(solved / (k @ solved), -change),
        "That is the update alone. Add it to W.": torch.outer(solved / (k @ solved), change),
    }
    mistakes["You returned W as it was."] = W
    inputs = {
        "W [d_mlp d_model]": W,
        "C [d_mlp d_mlp]": C,
        "k [d_mlp]": k,
        "v_new [d_model]": v_new,
    }
    compare(
        answer,
        _edited,
        inputs,
        mistakes,
        hint="The matrix keeps its shape.",
        atol=1e-4,
        rtol=1e-3,
    )
