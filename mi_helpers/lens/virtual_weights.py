"""Virtual weights: how well a later MLP can read what an earlier one writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.models.parts import require_plain_writes


@dataclass(frozen=True)
class VirtualWeights:
    """How strongly what one MLP writes can be read by a later one."""

    labels: tuple[str, ...]
    """Of the MLPs, which write and read."""
    ratio: Float[Tensor, "writer reader"]
    """Norm of the product over the product of the norms; NaN where the reader comes earlier."""

    def reachable(self) -> Float[Tensor, " pair"]:
        """The ratios of all pairs in which the reader comes after the writer."""
        return self.ratio[~self.ratio.isnan()]


def random_rotation(d_model: int, seed: int = 0) -> Float[Tensor, "d_model d_model"]:
    """A rotation of the stream drawn uniformly (Haar measure), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
    return q * r.diagonal().sign()


@torch.no_grad()
def virtual_weights(
    model: TransformerBridge, *, rotation: Float[Tensor, "d_model d_model"] | None = None
) -> VirtualWeights:
    """Norm ratios of the virtual weights from each MLP to each later one.

    ‖W_out W_in‖ / (‖W_out‖ ‖W_in‖), Frobenius norms: 1 when two rank-one matrices share their
    direction, 0 when nothing that is written can be read, and 1/√d_model on average when the two
    lie at random to each other. Weights alone are compared; no input is run. A gated MLP reads
    through two matrices, taken side by side. `heads.composition_scores` does the same for heads.

    Args:
        model: In compatibility mode, so that LayerNorm's gains are part of what is read.
        rotation: Turns the stream between writer and reader: the control that keeps both matrices
            and destroys only how they lie to each other (see `random_rotation`).

    Returns:
        The ratios of all pairs.

    Raises:
        ValueError: A rotation of another size, or a model that normalises what is written before
            adding it.
    """
    d_model = model.cfg.d_model
    if rotation is not None and rotation.shape != (d_model, d_model):
        raise ValueError(f"rotation must be [{d_model}, {d_model}], got {list(rotation.shape)}")
    require_plain_writes(model)
    grams = torch.stack([matrix.mT @ matrix for matrix in model.W_out])
    columns = []
    for layer, matrix in enumerate(_reads(model)):
        matrix = matrix if rotation is None else rotation.to(matrix) @ matrix
        earlier = torch.arange(model.cfg.n_layers, device=matrix.device) < layer
        columns.append(torch.where(earlier, _ratios(grams, matrix), torch.nan))
    labels = tuple(f"L{layer} MLP" for layer in range(model.cfg.n_layers))
    return VirtualWeights(labels, torch.stack(columns, dim=1))


def _ratios(grams: Float[Tensor, "writer d_model d_model"], matrix: Tensor) -> Tensor:
    """Norm ratios of every writer with one reader: ‖AB‖² is the dot product of AᵀA and BBᵀ."""
    size = grams.diagonal(dim1=-2, dim2=-1).sum(-1) * matrix.square().sum()
    square = grams.flatten(1) @ (matrix @ matrix.mT).flatten()
    return (square.clamp(min=0) / size).sqrt()


def _reads(model: TransformerBridge) -> Float[Tensor, "layer d_model d_read"]:
    """All that an MLP reads through: W_in, and beside it the gate's matrix where there is one."""
    gate = model.W_gate
    return model.W_in if gate is None else torch.cat([model.W_in, gate], dim=-1)
