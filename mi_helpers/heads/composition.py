"""Composition scores: how much each head reads of what each earlier head writes.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, section "Three Kinds
of Composition".
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.heads.weights import ov_factors, qk_factors


@torch.no_grad()
def composition_scores(
    model: TransformerBridge, *, distance: int | None = None
) -> dict[str, Float[Tensor, "layer head later_layer later_head"]]:
    """How much each head's queries, keys or values read of what each earlier head writes.

    ‖W_OV M‖ / (‖W_OV‖ ‖M‖) in Frobenius norms, where M is the later head's W_QK (for Q), W_QKᵀ (K)
    or W_OV (V), biases left out. 1 if all that is written is read, about 1/√d_model if the two lie
    at random to each other; 0 where the second head is not in a later layer.

    A product of two d_model × d_model matrices has the norm of a small one: W_OV = W_V W_O has the
    norm of R_V W_O with R_V the triangle of W_V's QR decomposition, and M likewise. So each pair
    costs d_head × d_model × d_head, and a whole layer of pairs is one matrix product.

    Args:
        model: Any model that `load_model` gives.
        distance: For Q and K in a model with rotary positions: how far back the later head looks.
            It has another W_QK for each distance (see `heads.rotary`).

    Returns:
        The scores by kind, "Q", "K" and "V", from 0 to 1.

    Raises:
        ValueError: A distance missing or not wanted; a model whose weights do not say what heads
            write, or what they compare.
    """
    left = _written(model)
    scores = {}
    for kind in "QKV":
        right = _read(model, kind, distance)
        scale = _norms(left)[:, :, None, None] * _norms(right)
        table = torch.zeros_like(scale)
        for layer in range(model.cfg.n_layers - 1):
            table[layer, :, layer + 1 :] = _product_norms(left[layer], right[layer + 1 :])
        scores[kind] = table / scale.clamp(min=torch.finfo(scale.dtype).tiny)
    return scores


@torch.no_grad()
def composition_baseline(
    model: TransformerBridge,
    *,
    distance: int | None = None,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, Float[Tensor, " sample"]]:
    """Composition scores by chance: what is written is turned at random before it is read.

    Each head keeps its matrices, and so their singular values; only how the two lie to each other
    is destroyed, by one random orthogonal matrix per draw (Haar measure). Every draw pairs up to 48
    random heads with as many others. The squares average to exactly 1/d_model; the spread depends
    on how few directions the heads use, so it is measured here, not assumed.

    Args:
        model: Any model that `load_model` gives.
        distance: As in `composition_scores`.
        draws: How many random turns.
        seed: Of the turns and of the pairs.

    Returns:
        One flat sample of scores for each kind: take its mean, deviation or quantiles.

    Raises:
        ValueError: As `composition_scores`, or no draw.
    """
    if draws < 1:
        raise ValueError(f"a spread needs at least one draw, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    left = _written(model).flatten(0, 1)
    n, d_model = min(48, len(left)), model.cfg.d_model
    samples = {}
    for kind in "QKV":
        right, sample = _read(model, kind, distance).flatten(0, 1), []
        for _ in range(draws):
            q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
            turn = (q * r.diagonal().sign()).to(left)
            a = left[torch.randperm(len(left), generator=generator)[:n].to(left.device)]
            b = right[torch.randperm(len(right), generator=generator)[:n].to(left.device)]
            norms = _product_norms(a @ turn, b[None])[:, 0]
            sample.append((norms / (_norms(a)[:, None] * _norms(b))).flatten())
        samples[kind] = torch.cat(sample)
    return samples


def _triangle(matrix: Float[Tensor, "*heads d_model d_head"]) -> Float[Tensor, "*heads r d_head"]:
    """R with ‖matrix @ X‖ = ‖R @ X‖ for every X: the matrix up to a rotation of its rows."""
    return torch.linalg.qr(matrix, mode="r").R


def _written(model: TransformerBridge) -> Float[Tensor, "layer head d_head d_model"]:
    """W_OV of each head, up to a rotation of the side that nothing later sees."""
    values, outputs = ov_factors(model)
    return _triangle(values) @ outputs


def _read(
    model: TransformerBridge, kind: str, distance: int | None
) -> Float[Tensor, "layer head d_model d_head"]:
    """W_QK, its transpose or W_OV, up to a rotation of the side that nothing earlier writes to."""
    inner, outer = ov_factors(model) if kind == "V" else qk_factors(model, distance)
    outer = outer.mT
    if kind == "K":
        inner, outer = outer, inner
    return inner @ _triangle(outer).mT


def _norms(matrices: Float[Tensor, "*heads rows columns"]) -> Float[Tensor, "*heads"]:
    return torch.linalg.matrix_norm(matrices)


def _product_norms(
    left: Float[Tensor, "head d_head d_model"], right: Float[Tensor, "layer head2 d_model d_head"]
) -> Float[Tensor, "head layer head2"]:
    """‖left right‖ for every pair, as one matrix product a layer."""
    rows, n_right = left.flatten(0, 1), right.shape[1]
    columns = right.transpose(1, 2).flatten(2)
    squares = (rows @ columns).square()
    blocks = squares.unflatten(1, (len(left), -1)).unflatten(3, (n_right, -1))
    return blocks.sum((2, 4)).sqrt().transpose(0, 1)
