"""One training step: the loss of a batch, by sparse products where few units are active.

With a few dozen active units of thousands, nearly all of a dense decoder's work multiplies zeros.
Here the code is a list of (row, unit, value); decoding it, and the gradients of both weight
matrices, are sums over that list. Only the encoder's forward product is dense.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from mi_helpers.sae.recipe import Recipe

MOST_ACTIVE = 1 / 12
"""Above this share of active units, dense products are faster."""


class Loss(NamedTuple):
    """What a batch gave: `total` to differentiate, the rest to report."""

    total: Tensor
    error: Tensor
    """Squared error of an input, mean over the batch."""
    active: Int[Tensor, " d_sae"]
    """How many inputs each unit was active on."""
    least: Tensor
    """The smallest activation that was kept."""


Parameters = dict[str, Tensor]


def batch_loss(
    p: Parameters, x: Float[Tensor, "batch d_in"], recipe: Recipe, scale: float,
    dead: Bool[Tensor, " d_sae"], *, dense: bool | None = None,
) -> Loss:  # fmt: skip
    """Squared error plus the kind's penalty times `scale`; `dense` None picks the faster way."""
    with torch.no_grad():
        pre = torch.addmm(p["b_enc"], x - p["b_dec"], p["W_enc"])
        rows, units = _select(pre, recipe, p)
    if dense is None:
        dense = x.device.type != "cpu" or len(rows) > MOST_ACTIVE * pre.numel()
    run = _dense if dense else _sparse
    f, theta, out = run(p, x, recipe, pre, rows, units)
    error = (out - x).square().sum(-1).mean()
    total = error + scale * _penalty(f, theta, recipe) / len(x)
    if "topk" in recipe.kind and recipe.aux and bool(dead.any()):
        total = total + recipe.aux * _leftover(p, x, (x - out).detach(), dead)
    on = f.detach() > 0
    active = on.sum(0) if dense else torch.bincount(units[on], minlength=pre.shape[1])
    kept = f.detach()[on]
    return Loss(total, error.detach(), active, kept.min() if len(kept) else error.new_zeros(()))


def _select(pre: Tensor, recipe: Recipe, p: Parameters) -> tuple[Tensor, Tensor]:
    """Rows and units of the list, ordered by rows; what can get a gradient must be in it."""
    n = pre.shape[1]
    if recipe.kind == "topk":
        units = pre.topk(recipe.k, dim=-1, sorted=False).indices.flatten()
        return torch.arange(len(pre), device=pre.device).repeat_interleave(recipe.k), units
    if recipe.kind == "batchtopk":
        place = _largest(pre.flatten(), recipe.k * len(pre))
    else:
        least = p["log_threshold"].exp() - recipe.bandwidth / 2 if "log_threshold" in p else 0.0
        place = (pre > least).flatten().nonzero()[:, 0]
    return place // n, place % n


def _largest(flat: Tensor, count: int, stride: int = 67) -> Tensor:
    """The places of the `count` largest, in order; a sample says which need not be looked at."""
    enough = min(2 * count // stride, len(flat[::stride]))
    place = None
    if enough:
        bound = flat[::stride].topk(enough, sorted=True).values[-1]
        place = (flat > bound).nonzero()[:, 0]
    if place is None or len(place) < count:
        return flat.topk(count, sorted=False).indices.sort().values
    return place[flat[place].topk(count, sorted=False).indices].sort().values


def _sparse(
    p: Parameters, x: Tensor, recipe: Recipe, pre: Tensor, rows: Tensor, units: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Values of the list, their thresholds, the reconstruction."""
    values = _Selected.apply(x, p["b_dec"], p["W_enc"], p["b_enc"], pre, rows, units)
    theta = p["log_threshold"].exp()[units] if "log_threshold" in p else None
    f = values.relu() if theta is None else _Jump.apply(values, theta, recipe.bandwidth)
    starts = torch.searchsorted(rows, torch.arange(len(x)))
    out = embedding_bag(units, p["W_dec"], starts, mode="sum", per_sample_weights=f) + p["b_dec"]
    theta = None if theta is None else _Step.apply(values.detach(), theta, recipe.bandwidth)
    return f, theta, out


def _dense(
    p: Parameters, x: Tensor, recipe: Recipe, pre: Tensor, rows: Tensor, units: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The same by whole matrices."""
    kept = torch.zeros_like(pre, dtype=torch.bool)
    kept[rows, units] = True
    half = recipe.mixed_precision and x.device.type == "cuda"
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        pre = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        counted = None
        if "log_threshold" in p:
            theta = p["log_threshold"].exp().expand_as(pre)
            f = _Jump.apply(pre.float(), theta, recipe.bandwidth)
            counted = _Step.apply(pre.detach().float(), theta, recipe.bandwidth)
        else:
            f = pre.relu() * kept
        out = f @ p["W_dec"]
    return f.float(), counted, out.float() + p["b_dec"]


def _penalty(f: Tensor, counted: Tensor | None, recipe: Recipe) -> Tensor:
    if recipe.kind == "relu":
        return recipe.l1 * f.sum()  # rows of W_dec have length 1
    return f.new_zeros(()) if counted is None else recipe.l0 * counted.sum()


def _leftover(p: Parameters, x: Tensor, rest: Tensor, dead: Tensor) -> Tensor:
    """How badly the best dead units explain what the living ones leave over."""
    units = dead.nonzero()[:, 0]
    pre = (x - p["b_dec"].detach()) @ p["W_enc"][:, units] + p["b_enc"][units]
    k = min(len(units), max(1, x.shape[1] // 2))
    top = pre.topk(k, dim=-1)
    code = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
    share = min(1.0, len(units) / max(1, x.shape[1] // 2))
    return share * (code @ p["W_dec"][units] - rest).square().sum(-1).mean()


class _Selected(torch.autograd.Function):
    """`pre[rows, units]`, whose gradient visits only that list."""

    @staticmethod
    def forward(ctx: Any, x, b_dec, W_enc, b_enc, pre, rows, units):
        ctx.save_for_backward(x, b_dec, W_enc, rows, units)
        return pre[rows, units]

    @staticmethod
    def backward(ctx: Any, grad):
        x, b_dec, W_enc, rows, units = ctx.saved_tensors
        to_bias = torch.zeros_like(W_enc[0]).index_add_(0, units, grad)
        to_enc = _by_unit(grad, rows, units, x - b_dec, W_enc.shape[1]).T.contiguous()
        return None, -(W_enc @ to_bias), to_enc, to_bias, None, None, None


def _by_unit(
    weight: Tensor, rows: Tensor, units: Tensor, vectors: Float[Tensor, "batch d_in"], n_units: int
) -> Float[Tensor, "d_sae d_in"]:
    """For each unit, the sum of weight x vector over the rows of the list where it occurs."""
    order = units.argsort()
    count = torch.bincount(units, minlength=n_units)
    return embedding_bag(
        rows[order], vectors.contiguous(), count.cumsum(0) - count, mode="sum",
        per_sample_weights=weight[order],
    )  # fmt: skip


class _Jump(torch.autograd.Function):
    """x where x > theta, else 0; the threshold's gradient is a kernel of width `bandwidth`."""

    @staticmethod
    def forward(ctx: Any, x, theta, bandwidth):
        ctx.save_for_backward(x, theta)
        ctx.bandwidth = bandwidth
        return x.relu() * (x > theta)

    @staticmethod
    def backward(ctx: Any, grad):
        x, theta = ctx.saved_tensors
        near = ((x - theta).abs() < ctx.bandwidth / 2).to(grad)
        return grad * (x > theta), -theta / ctx.bandwidth * near * grad, None


class _Step(torch.autograd.Function):
    """1 where x > theta; only the threshold gets a gradient, by the same kernel."""

    @staticmethod
    def forward(ctx: Any, x, theta, bandwidth):
        ctx.save_for_backward(x, theta)
        ctx.bandwidth = bandwidth
        return (x > theta).to(x)

    @staticmethod
    def backward(ctx: Any, grad):
        x, theta = ctx.saved_tensors
        near = ((x - theta).abs() < ctx.bandwidth / 2).to(grad)
        return None, -near / ctx.bandwidth * grad, None
