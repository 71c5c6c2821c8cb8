"""Several places in their order: which units read and write which of them, and linear skips."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.sae.recipe import Recipe
from mi_helpers.sae.stream import Activations


def causal_masks(recipe: Recipe, stream: Activations) -> dict[str, Float[Tensor, "d_sae d"]]:
    """Which entries may differ from zero, of "W_enc", "W_dec" (rows are units) and "W_skip".

    Units of the i-th place read it alone and write to the i-th and later targets, within the
    recipe's reach; a skip leads from each place to its own target [Ameisen et al. 2025].
    """
    reads, writes = stream.widths
    n, device = len(reads), stream.device
    owner = torch.arange(recipe.d_sae, device=device) // (recipe.d_sae // n)
    place, target = (
        torch.arange(n, device=device).repeat_interleave(torch.tensor(widths, device=device))
        for widths in (reads, writes)
    )
    reach = n if recipe.reach is None else recipe.reach
    return {
        "W_enc": (owner[:, None] == place).float(),
        "W_dec": ((owner[:, None] <= target) & (target - owner[:, None] <= reach)).float(),
        "W_skip": (place[:, None] == target).float(),
    }


def first_skip(
    recipe: Recipe,
    stream: Activations,
    x: Float[Tensor, "token d_in"],
    y: Float[Tensor, "token d_out"],
) -> Float[Tensor, "d_in d_out"]:
    """The least-squares map from what is read to what is written, both scaled.

    With `causal`, of each place to its own target alone.
    """
    if not recipe.causal:
        return _linear_map(x, y)
    reads, writes = (list(widths) for widths in stream.widths)
    parts = zip(x.split(reads, dim=1), y.split(writes, dim=1), strict=True)
    return torch.block_diag(*(_linear_map(*part) for part in parts))


def _linear_map(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Float[Tensor, "d_in d_out"]:
    """The least-squares map from what is read to what is written, means taken out."""
    x, y = x - x.mean(0), y - y.mean(0)
    square = x.T @ x
    square.diagonal().add_(ridge * square.diagonal().mean())
    return torch.linalg.solve(square, x.T @ y).contiguous()
