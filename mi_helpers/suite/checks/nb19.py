"""Checks of notebook 19: parts of rank one, random masks, a masked product, the nearest part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, exercise


def _matrices(V: Tensor, U: Tensor) -> Tensor:
    return V[:, :, None] * U[:, None, :]


@exercise
def part_matrices(answer: Any, rng: torch.Generator) -> None:
    """An outer product for each part."""
    V, U = torch.randn(3, 4, generator=rng), torch.randn(3, 2, generator=rng)
    right = _matrices(V, U)
    mistakes = {
        "Rows and columns are exchanged: what is read comes first.": right.mT,
        "You summed over parts. Keep them apart.": right.sum(0),
        "The directions keep their lengths: do not divide by them.": (
            right / V.norm(dim=1)[:, None, None]
        ),
        "You took the sign away.": right.abs(),
    }
    inputs = {"V [part d_in]": V, "U [part d_out]": U}
    compare(answer, _matrices, inputs, mistakes, hint="One matrix [d_in d_out] for each part.")


def _masks(importance: Tensor, random: Tensor) -> Tensor:
    return importance + (1 - importance) * random


@exercise
def random_masks(answer: Any, rng: torch.Generator) -> None:
    """Uniform between the importance and one."""
    importance, random = torch.rand(2, 4, 3, generator=rng)
    mistakes = {
        "This is between 0 and the importance. A mask is at least the importance.": (
            importance * random
        ),
        "This goes above one. The importance is the least, one is the most.": importance + random,
        "A mask is not the importance alone: what lies above it is random.": importance,
        "The random number alone forgets the importance.": random,
        "Turned round: where `random` is 1 the mask must be 1.": (
            importance + (1 - importance) * (1 - random)
        ),
        "A mask is a number between the importance and 1, not a draw of on and off.": (
            (random < importance).float()
        ),
        "Below the importance you cut. Scale the random number to the room above it.": (
            torch.maximum(importance, random)
        ),
    }
    inputs = {"importance [input part]": importance, "random [input part]": random}
    compare(answer, _masks, inputs, mistakes, hint="The shape stays as it is.")


def _product(a: Tensor, V: Tensor, U: Tensor, masks: Tensor) -> Tensor:
    return ((a @ V.T) * masks) @ U


@exercise
def masked_product(answer: Any, rng: torch.Generator) -> None:
    """Read, mask, write."""
    a, V = torch.randn(6, 4, generator=rng), torch.randn(3, 4, generator=rng)
    U, masks = torch.randn(3, 2, generator=rng), torch.rand(6, 3, generator=rng)
    mistakes = {
        "The masks do nothing yet.": _product(a, V, U, torch.ones(6, 3)),
        "Each input has masks of its own. You took their mean over inputs.": (
            _product(a, V, U, masks.mean(0).expand(6, 3))
        ),
        "All inputs got the first input's masks.": _product(a, V, U, masks[:1].expand(6, 3)),
        "This is what the parts read. They must write it, too.": (a @ V.T) * masks,
        "You masked with what is cut off. The mask is what is left.": _product(a, V, U, 1 - masks),
        "The masks came in twice.": _product(a, V, U, masks.square()),
    }
    inputs = {"a [input d_in]": a, "V [part d_in]": V, "U [part d_out]": U}
    compare(answer, _product, {**inputs, "masks [input part]": masks}, mistakes,
            hint="One row [d_out] for each input.")  # fmt: skip


def _nearest(truth: Tensor, parts: Tensor) -> Tensor:
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    return far.amin(1) / truth.flatten(1).norm(dim=-1)


@exercise
def nearest_part(answer: Any, rng: torch.Generator) -> None:
    """Distance of the nearest part, over the true part's length."""
    truth = torch.randn(3, 4, 2, generator=rng) * torch.rand(3, 1, 1, generator=rng).add(0.6)
    parts = truth[[2, 0, 1, 0]] + 0.5 * torch.randn(4, 4, 2, generator=rng)
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    lengths = truth.flatten(1).norm(dim=-1)
    mistakes = {
        "Divide by the true part's length.": far.amin(1),
        "This is the farthest part. Take the nearest.": far.amax(1) / lengths,
        "This is the mean over parts. Take the nearest.": far.mean(1) / lengths,
        "You looked for the nearest true part of each part. Turn it round.": (
            (far / lengths[:, None]).amin(0)
        ),
        "Take the root of the sum of squares.": far.square().amin(1) / lengths,
        "Distances and lengths are roots: you left both squared.": (
            far.square().amin(1) / lengths.square()
        ),
        "You divided by the part's length. Divide by the true part's.": (
            (far / parts.flatten(1).norm(dim=-1)).amin(1)
        ),
    }
    inputs = {"truth [true d_in d_out]": truth, "parts [part d_in d_out]": parts}
    compare(answer, _nearest, inputs, mistakes, hint="One number for each true part.")
