"""One training step: the loss of a batch, by sparse products where few units are active.

With a few dozen active units of thousands, nearly all of a dense decoder's work multiplies zeros.
Here the code is a list of (row, unit, value); decoding it, and the gradients of both weight
matrices, are sums over that list. Only the encoder's forward product is dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from mi_helpers.engine import FixedLinear
from mi_helpers.sae.core import activate
from mi_helpers.sae.recipe import Recipe

MOST_ACTIVE = 1 / 8
"""Above this share of active units, dense products are faster."""
ROWS = 512
"""So many inputs are encoded at once where each can choose its units alone: they stay in cache."""


class Loss(NamedTuple):
    """What a batch gave: `total` to differentiate, the rest to report."""

    total: Tensor
    error: Tensor
    """Squared error of an input, mean over the batch."""
    active: Int[Tensor, " d_sae"]
    """How many inputs each unit was active on."""
    least: Tensor
    """Of "batchtopk": the smallest activation that was kept."""


Parameters = dict[str, Tensor]


class Active(NamedTuple):
    """What units do, whole or at the entries of a list."""

    f: Tensor
    counted: Tensor | None = None
    """Of "jumprelu": 1 where a unit is on, with a gradient for its threshold."""
    gate: Tensor | None = None
    """Of "gated": the positive part of the gate."""


def batch_loss(
    p: Parameters,
    x: Float[Tensor, "batch d_in"],
    recipe: Recipe,
    scale: float,
    dead: Bool[Tensor, " d_sae"],
    *,
    target: Float[Tensor, "batch d_out"] | None = None,
    widths: tuple[int, ...] = (),
    dense: bool | None = None,
) -> Loss:
    """Squared error plus the kind's penalty times `scale`; `dense` None picks the faster way.

    `target` is what is to be predicted, by default `x` itself; `widths` are those of the places
    written, for a penalty by source.
    """
    y = x if target is None else target
    if dense is None and x.device.type != "cpu":
        dense = True
    code = pre = None
    if not dense:
        with torch.no_grad():
            code, pre = _encode(p, x - centre(p), recipe, dense)
    act = _act(p, x, recipe, code, pre)
    f, offset = act.f, p["b_dec"]
    if "W_skip" in p:
        # not (x - b_in) @ W_skip, whose gradient by x would be made for b_in's sake
        offset = torch.addmm(offset - p["b_in"] @ p["W_skip"], x, p["W_skip"])
    out = _decode(f, p["W_dec"], recipe, code) + offset
    error = fit = (out - y).square().sum(-1).mean()
    for n in recipe.prefixes:
        inner = _decode(_first(f, n, code), p["W_dec"], recipe, code) + offset
        fit = fit + (inner - y).square().sum(-1).mean()
    fit = fit / (1 + len(recipe.prefixes))
    if act.gate is not None:
        alone = _decode(act.gate, p["W_dec"].detach(), recipe, code) + offset.detach()
        fit = fit + (alone - y).square().sum(-1).mean()
    paid = f * _paid(p, widths, code) if recipe.by_source else f
    total = fit + scale * _penalty(act, paid, recipe) / len(x)
    if "topk" in recipe.kind and recipe.aux and bool(dead.any()):
        total = total + recipe.aux * _leftover(p, x, (y - out).detach(), dead)
    f = f.detach()
    least = f[f > 0].min() if recipe.kind == "batchtopk" and f.any() else error.new_zeros(())
    return Loss(total, error.detach(), _active(f, code, len(dead)), least)


def centre(p: Parameters) -> Tensor:
    """What the encoder takes from its input: the decoder's bias, where the target is the input."""
    return p["b_in"] if "b_in" in p else p["b_dec"]


def _bias(p: Parameters) -> Tensor:
    """Of what says which units may be on."""
    return p["b_gate"] if "b_gate" in p else p["b_enc"]


def _paid(p: Parameters, widths: tuple[int, ...], code: Code | None) -> Tensor:
    """The sum of a unit's decoder lengths over places, of each entry or of all units."""
    norms = sum(part.norm(dim=-1) for part in p["W_dec"].split(list(widths), dim=1))
    return norms if code is None else norms[code.units]


def _encode(
    p: Parameters, centred: Tensor, recipe: Recipe, dense: bool | None
) -> tuple[Code | None, Tensor | None]:
    """The list, in which all is that can get a gradient; or what it is of, if it would be long."""
    n_rows, n_units = len(centred), len(p["b_enc"])
    product = FixedLinear(p["W_enc"].T, _bias(p))
    if recipe.kind == "topk":
        found = [_best_of_rows(product(part), recipe.k) for part in centred.split(ROWS)]
        values, units = (torch.cat(parts) for parts in zip(*found, strict=True))
        rows = torch.arange(n_rows).repeat_interleave(recipe.k)
        return Code(rows, units, values, n_rows, n_units), None
    pre = product(centred)
    if recipe.kind == "batchtopk":
        place = largest(pre.flatten(), recipe.k * n_rows)
    else:
        least = p["log_threshold"].exp() - recipe.bandwidth / 2 if "log_threshold" in p else 0.0
        maybe = pre > least
        if dense is None and int(maybe.count_nonzero()) > MOST_ACTIVE * pre.numel():
            return None, pre
        place = maybe.flatten().nonzero()[:, 0]
    values = pre.flatten()[place]
    return Code(place // n_units, place % n_units, values, n_rows, n_units), None


def _active(f: Tensor, code: Code | None, n_units: int) -> Int[Tensor, " d_sae"]:
    """On how many rows each unit is."""
    if code is not None:
        return torch.bincount(code.units[f > 0], minlength=n_units)
    return torch.stack([(part > 0).float().sum(0) for part in f.split(ROWS)]).sum(0).long()


def _act(p: Parameters, x: Tensor, recipe: Recipe, code: Code | None, pre: Tensor | None) -> Active:
    """Activations: at the entries of the list `code`, or whole, from `pre` where that is known."""
    bias, known = _bias(p), pre if code is None else code.pre
    if "b_gate" in p:
        bias = bias.detach()  # the strength of a gated unit does not depend on it
    with _autocast(x, recipe):
        if known is None:
            pre = (x - centre(p)) @ p["W_enc"] + bias
        else:
            pre = _Encoder.apply(centre(p), p["W_enc"], bias, x, known, code)
    if "b_gate" in p:
        return _gated(p, pre.float(), code)
    if "log_threshold" in p:
        theta = _of_entries(p["log_threshold"].exp(), code).expand_as(pre)
        f = _Jump.apply(pre.float(), theta, recipe.bandwidth)
        return Active(f, _Step.apply(pre.detach().float(), theta, recipe.bandwidth))
    f = pre.relu() if code is not None else activate(pre, recipe.kind, recipe.k)
    return Active(f.float())


def _gated(p: Parameters, pre: Tensor, code: Code | None) -> Active:
    """One product, two biases: whether a unit is on, and how strong. No step has a gradient."""
    b_gate, r_mag, b_mag = (_of_entries(p[n], code) for n in ("b_gate", "r_mag", "b_enc"))
    product = pre - b_gate.detach()
    gate = (product + b_gate).relu()
    return Active((gate > 0) * (product * r_mag.exp() + b_mag).relu(), gate=gate)


def _of_entries(values: Float[Tensor, " d_sae"], code: Code | None) -> Tensor:
    return values if code is None else values[code.units]


def _first(f: Tensor, n: int, code: Code | None) -> Tensor:
    """The same with all units from the n-th on silent."""
    units = torch.arange(f.shape[-1], device=f.device) if code is None else code.units
    return f * (units < n)


def _decode(f: Tensor, W_dec: Tensor, recipe: Recipe, code: Code | None) -> Tensor:
    """What activations write, without the bias."""
    if code is not None:
        return _Decoder.apply(f, W_dec, code)
    with _autocast(f, recipe):
        return (f @ W_dec).float()


def _autocast(like: Tensor, recipe: Recipe) -> torch.autocast:
    """Products in bfloat16, where that was asked for."""
    half = recipe.mixed_precision and like.device.type == "cuda"
    return torch.autocast(like.device.type, torch.bfloat16, enabled=half)


def _penalty(act: Active, paid: Tensor, recipe: Recipe) -> Tensor:
    if act.gate is not None:
        return recipe.l1 * act.gate.sum()
    if recipe.kind == "relu":
        return recipe.l1 * paid.sum()  # rows of W_dec have length 1
    return paid.new_zeros(()) if act.counted is None else recipe.l0 * act.counted.sum()


def _leftover(p: Parameters, x: Tensor, rest: Tensor, dead: Tensor) -> Tensor:
    """How badly the best dead units explain what the living ones leave over."""
    units = dead.nonzero()[:, 0]
    pre = (x - centre(p).detach()) @ p["W_enc"].T[units].T + p["b_enc"][units]
    k = min(len(units), max(1, x.shape[1] // 2))
    best = pre.topk(k, dim=-1)
    code = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
    share = min(1.0, len(units) / max(1, x.shape[1] // 2))
    return share * (code @ p["W_dec"][units] - rest).square().sum(-1).mean()


@dataclass
class Code:
    """The units that may be active, as a list ordered by rows, with what comes before `act`."""

    rows: Int[Tensor, " entry"]
    units: Int[Tensor, " entry"]
    pre: Float[Tensor, " entry"]
    n_rows: int
    n_units: int

    @cached_property
    def row_starts(self) -> Int[Tensor, " row"]:
        """Where each row's entries begin."""
        return torch.searchsorted(self.rows, torch.arange(self.n_rows))

    @cached_property
    def by_unit(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of entries by unit, their rows in it, and where each unit's begin."""
        narrow = np.uint16 if self.n_units < 2**16 else np.int64  # of which numpy counts digits
        order = torch.from_numpy(self.units.numpy().astype(narrow).argsort(kind="stable"))
        count = torch.bincount(self.units, minlength=self.n_units)
        return order, self.rows.index_select(0, order), count.cumsum(0) - count

    def sum_by_unit(
        self, weight: Float[Tensor, " entry"], vectors: Float[Tensor, "row d_in"]
    ) -> Float[Tensor, "d_sae d_in"]:
        """For each unit, the sum of weight x vector over the rows where it occurs."""
        order, rows, starts = self.by_unit
        weight = weight.index_select(0, order)
        return embedding_bag(
            rows, vectors.contiguous(), starts, mode="sum", per_sample_weights=weight
        )


def _best_of_rows(pre: Float[Tensor, "row unit"], k: int) -> tuple[Tensor, Tensor]:
    """Each row's `k` largest values and their units, one row after the other."""
    place = largest_of_rows(pre, k)
    return pre.flatten().index_select(0, place), place % pre.shape[1]


def largest_of_rows(values: Float[Tensor, "row n"], k: int) -> Int[Tensor, " entry"]:
    """The flat places of each row's `k` largest, in order.

    The k-th largest maximum of groups is a bound that at least k values of the row reach and few
    others; among those the same is done without groups. Numpy finds a bound without branches.
    """
    n_rows, n = values.shape
    maxima = values
    while maxima.shape[1] % 4 == 0 and maxima.shape[1] >= 8 * k:
        maxima = maxima.view(n_rows, 4, -1).amax(1)
    place = _reaching(values, _kth_largest(maxima, k))
    rows = place // n
    count = torch.bincount(rows, minlength=n_rows)
    if len(place) > k * n_rows and int(count.amin()) >= k:
        slots = torch.arange(len(place)) - (count.cumsum(0) - count).index_select(0, rows)
        found = values.flatten().index_select(0, place)
        few = values.new_full((n_rows, int(count.amax())), -torch.inf)
        few[rows, slots] = found
        place = place[found >= _kth_largest(few, k).index_select(0, rows)]
    if len(place) != k * n_rows:  # equal values, or NaN
        units = values.topk(k, sorted=False).indices.sort().values
        return (units + n * torch.arange(n_rows)[:, None]).flatten()
    return place


def _kth_largest(values: Float[Tensor, "row n"], k: int) -> Float[Tensor, " row"]:
    n = values.shape[1]
    return torch.from_numpy(np.partition(values.numpy(), n - k, axis=1)[:, n - k].copy())


def _reaching(values: Float[Tensor, "row n"], bound: Float[Tensor, " row"]) -> Tensor:
    """The flat places of what is at least its row's bound."""
    return torch.from_numpy(np.flatnonzero(values.numpy() >= bound.numpy()[:, None]))


def largest(flat: Float[Tensor, " n"], count: int, stride: int = 67) -> Int[Tensor, " entry"]:
    """The places of the `count` largest, in order; a sample says which need not be looked at."""
    sample, place = flat[None, ::stride], torch.arange(len(flat))
    if enough := min(2 * count // stride, sample.shape[1]):
        likely = _reaching(flat[None], _kth_largest(sample, enough))
        place = likely if len(likely) >= count else place
    found = flat.index_select(0, place)
    best = place[found >= _kth_largest(found[None], count)]
    if len(best) != count:  # equal values, or NaN
        return flat.topk(count, sorted=False).indices.sort().values
    return best


class _Encoder(torch.autograd.Function):
    """`(x - b_in) @ W_enc + b_enc`, known already: whole, or only at the entries of `code`."""

    @staticmethod
    def forward(ctx: Any, b_in, W_enc, b_enc, x, pre, code):
        ctx.save_for_backward(b_in, W_enc, x)
        ctx.code = code
        return pre.view_as(pre)

    @staticmethod
    def backward(ctx: Any, grad):
        b_in, W_enc, x = ctx.saved_tensors
        if ctx.code is None:
            to_bias, to_enc = grad.sum(0), grad.T @ (x - b_in)
        else:
            to_bias = torch.zeros_like(W_enc[0]).index_add_(0, ctx.code.units, grad)
            to_enc = ctx.code.sum_by_unit(grad, x - b_in)
        return -(W_enc @ to_bias), to_enc.T, to_bias, None, None, None


class _Decoder(torch.autograd.Function):
    """`f @ W_dec` for the list's values `f`."""

    @staticmethod
    def forward(ctx: Any, f, W_dec, code):
        with torch.enable_grad():  # for the gradient of f alone, W_dec's is summed below
            ctx.f = f.detach().requires_grad_()
            ctx.out = embedding_bag(
                code.units, W_dec.detach(), code.row_starts, mode="sum", per_sample_weights=ctx.f
            )
        ctx.code = code
        return ctx.out.detach()

    @staticmethod
    def backward(ctx: Any, grad):
        (to_f,) = torch.autograd.grad(ctx.out, ctx.f, grad)
        return to_f, ctx.code.sum_by_unit(ctx.f.detach(), grad), None


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
