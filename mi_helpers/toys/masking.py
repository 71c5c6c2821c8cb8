"""Forward passes with whole matrices, or with sums of rank-one parts of which each is masked.

A model is a function of inputs and of the matrices that it multiplies with, by name. `Whole` gives
it the matrices as they are, `Masked` their parts, each times a mask that may differ from input to
input. `slopes` says how the outputs change with each part's mask.

Source: Braun et al. 2025 (arXiv:2501.14926) for attributions and batch top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Matrices(Protocol):
    """What a forward pass multiplies with, by name: whole matrices, or their parts under masks."""

    def __call__(self, name: str, a: Tensor) -> Tensor:
        """a [instance ... d_in] -> a @ W [instance ... d_out]."""

    def back(self, name: str, b: Tensor) -> Tensor:
        """b [instance ... d_out] -> b @ W.mT [instance ... d_in]."""


Forward = Callable[[Tensor, Matrices], Tensor]
"""A model: inputs [instance batch ...] and its matrices to outputs [instance batch ... output]."""


class Whole:
    """The matrices as they are; remembers what each was given to read."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """weights: [instance d_in d_out] each."""
        self.weights = weights
        self.read: dict[str, Tensor] = {}

    def __call__(self, name: str, a: Tensor) -> Tensor:
        """a @ W."""
        self.read[name] = a.detach()
        return a @ like(self.weights[name], a)

    def back(self, name: str, b: Tensor) -> Tensor:
        """b @ W.mT."""
        return b @ like(self.weights[name], b).mT


class Masked:
    """The matrices as sums of their parts, and of what these leave out, each times a mask."""

    def __init__(
        self,
        leaves: dict[str, Tensor],
        masks: dict[str, Tensor],
        rest: dict[str, Tensor],
        share: dict[str, Tensor] | float,
    ) -> None:
        """Sums of parts, by matrix.

        Args:
            leaves: `.V` [instance part*rank d_in] and `.U` [instance part*rank d_out].
            masks: Of parts, [instance *batch part].
            rest: What the parts leave out, [instance d_in d_out].
            share: Masks of that, [instance *batch 1], or one number for all.
        """
        self.leaves, self.rest = leaves, rest
        ranks = {k: leaves[f"{k}.V"].shape[1] // m.shape[-1] for k, m in masks.items()}
        self.masks = {k: m.repeat_interleave(ranks[k], -1) for k, m in masks.items()}
        self.share = share if isinstance(share, dict) else dict.fromkeys(masks, share)

    def __call__(self, name: str, a: Tensor) -> Tensor:
        """a times the masked matrix."""
        V, U = (like(self.leaves[f"{name}.{x}"], a) for x in "VU")
        rest = self.share[name] * (a @ like(self.rest[name], a))
        return ((a @ V.mT) * self.masks[name]) @ U + rest

    def back(self, name: str, b: Tensor) -> Tensor:
        """b times the transpose of the masked matrix."""
        V, U = (like(self.leaves[f"{name}.{x}"], b) for x in "VU")
        rest = self.share[name] * (b @ like(self.rest[name], b).mT)
        return ((b @ U.mT) * self.masks[name]) @ V + rest


def slopes(
    outputs: Float[Tensor, "instance *batch output"], masks: Float[Tensor, "instance *batch part"]
) -> Float[Tensor, "instance *batch part"]:
    """Root mean square, over outputs, of an input's slopes by each of its masks."""
    n = outputs.shape[-1]
    each = torch.eye(n).view(n, *[1] * (outputs.ndim - 1), n).expand(n, *outputs.shape)
    (by_output,) = torch.autograd.grad(outputs, masks, each, is_grads_batched=True)
    return by_output.square().mean(0).sqrt()


def largest(scores: Float[Tensor, "instance *batch part"], keep: float) -> Tensor:
    """1 for the largest scores of each instance, `keep` an input on average, 0 for the others."""
    flat = scores.flatten(1)
    n = round(keep * flat.shape[1] / scores.shape[-1])
    return torch.zeros_like(flat).scatter(1, flat.topk(n, -1).indices, 1.0).view_as(scores)


def like(matrix: Tensor, a: Tensor) -> Tensor:
    """A matrix of each instance [instance x y], with axes of length 1 for those of a batch."""
    return matrix.view(len(matrix), *[1] * (a.ndim - matrix.ndim), *matrix.shape[1:])
