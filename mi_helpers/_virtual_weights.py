"""Virtual weights: how well a later component can read what an earlier one writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class VirtualWeights:
    """How strongly what one component writes can be read by a later one."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]
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
    model: TransformerBridge,
    writer: str = "mlp",
    reader: str = "mlp",
    *,
    rotation: Float[Tensor, "d_model d_model"] | None = None,
) -> VirtualWeights:
    """Norm ratios of the virtual weights between all components of two kinds.

    ‖W_write W_read‖ / (‖W_write‖ ‖W_read‖), Frobenius norms: 1 when two rank-one matrices share
    their direction, 0 when nothing that is written can be read, and 1/√d_model on average when the
    two lie at random to each other. Weights alone are compared; no input is run.

    Args:
        model: in compatibility mode, so that LayerNorm's gains are part of what is read.
        writer: "embed", "head" (W_OV) or "mlp" (W_out).
        reader: "q", "k", "v" (by head), "mlp" (W_in) or "unembed".
        rotation: turns the stream between writer and reader: the control that keeps both matrices
            and destroys only how they lie to each other (see `random_rotation`).

    Raises:
        ValueError: an unknown writer or reader, or a rotation of another size.
    """
    if writer not in _WRITERS or reader not in _READERS:
        raise ValueError(
            f"no virtual weights from {writer!r} to {reader!r}: a writer is one of "
            f"{sorted(_WRITERS)}, a reader one of {sorted(_READERS)}"
        )
    d_model = model.cfg.d_model
    if rotation is not None and rotation.shape != (d_model, d_model):
        raise ValueError(f"rotation must be [{d_model}, {d_model}], got {list(rotation.shape)}")
    written, read = _WRITERS[writer](model), _READERS[reader](model)
    grams = torch.stack([w.matrix.mT @ w.matrix for w in written])
    columns = []
    for r in read:
        matrix = r.matrix if rotation is None else rotation.to(r.matrix) @ r.matrix
        late = torch.tensor([w.when < r.when for w in written], device=matrix.device)
        columns.append(torch.where(late, _ratios(grams, matrix), torch.nan))
    return VirtualWeights(
        tuple(w.label for w in written), tuple(r.label for r in read), torch.stack(columns, dim=1)
    )


def _ratios(grams: Float[Tensor, "writer d_model d_model"], matrix: Tensor) -> Tensor:
    """Norm ratios of every writer with one reader: ‖AB‖² is the dot product of AᵀA and BBᵀ."""
    size = grams.diagonal(dim1=-2, dim2=-1).sum(-1) * matrix.square().sum()
    square = grams.flatten(1) @ (matrix @ matrix.mT).flatten()
    return (square.clamp(min=0) / size).sqrt()


@dataclass(frozen=True)
class _Side:
    """One component as a writer ([rank, d_model]) or a reader ([d_model, rank])."""

    label: str
    when: float
    matrix: Float[Tensor, "rows columns"]


def _by_head(weights: Float[Tensor, "layer head rows columns"]) -> list[_Side]:
    return [
        _Side(f"L{layer}H{head}", layer, matrix)
        for layer, heads in enumerate(weights)
        for head, matrix in enumerate(heads)
    ]


def _ov(model: TransformerBridge) -> list[_Side]:
    """W_V W_O of each head, with W_V replaced by the triangle of its QR: all norms are the same."""
    triangle = torch.linalg.qr(model.W_V).R
    groups = model.W_O.shape[1] // triangle.shape[1]  # heads that share one W_V
    return _by_head(triangle.repeat_interleave(groups, dim=1) @ model.W_O)


def _mlps(model: TransformerBridge, weights: Tensor) -> list[_Side]:
    """An MLP comes after the attention of its own layer, unless the two run in parallel."""
    late = 0.0 if getattr(model.cfg, "parallel_attn_mlp", False) else 0.5
    return [_Side(f"L{layer} MLP", layer + late, matrix) for layer, matrix in enumerate(weights)]


_WRITERS: dict[str, Callable[[TransformerBridge], list[_Side]]] = {
    "embed": lambda model: [_Side("embed", -1, model.W_E)],
    "head": _ov,
    "mlp": lambda model: _mlps(model, model.W_out),
}
_READERS: dict[str, Callable[[TransformerBridge], list[_Side]]] = {
    "q": lambda model: _by_head(model.W_Q),
    "k": lambda model: _by_head(model.W_K),
    "v": lambda model: _by_head(model.W_V),
    "mlp": lambda model: _mlps(model, model.W_in),
    "unembed": lambda model: [_Side("unembed", torch.inf, model.W_U)],
}
