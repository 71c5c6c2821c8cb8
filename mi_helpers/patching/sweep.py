"""Patch every cell of a grid, one at a time, and measure each: activation patching.

Sources: Meng et al. 2022 (ROME, section 2) for causal tracing; Wang et al. 2022 (IOI) and Heimersheim
and Nanda 2024, "How to use and interpret activation patching", for conventions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.patching.engine import MEMORY, Setup, assert_self_patch, prepare
from mi_helpers.patching.metric import Metric
from mi_helpers.patching.runs import Cell, Edit, checked_pair, rows_mask
from mi_helpers.patching.sites import Where, site_of
from mi_helpers.patching.what import OtherRun, Values, What

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_AXES = {"layer": 0, "position": 1, "head": 2}


@dataclass(frozen=True)
class Sweep:
    """A metric on every cell of a grid of interventions.

    Attributes:
        values: The metric, [*axes batch], in the metric's unit.
        axes: What the leading axes are: "layer", "position", "head", "set".
        index: What each axis counts: the layers, positions and heads that were swept.
        base: The metric on the run that was patched, [batch].
        target: The metric on the run that the values came from, [batch]; None where there is none.
        seconds: Time of the sweep.
    """

    values: Float[Tensor, "*axes batch"]
    axes: tuple[str, ...]
    index: Mapping[str, Sequence[Any]]
    base: Float[Tensor, "batch"]
    target: Float[Tensor, "batch"] | None = None
    seconds: float = field(default=0.0, compare=False)

    def mean(self) -> Float[Tensor, "*axes"]:
        """The metric, averaged over the examples."""
        return self.values.mean(dim=-1)

    def effect(self) -> Float[Tensor, "*axes"]:
        """How much the intervention moved the metric, averaged over the examples."""
        return (self.values - self.base).mean(dim=-1)

    def recovery(self) -> Float[Tensor, "*axes"]:
        """(patched - base) / (target - base) of the means: 0 nothing, 1 the whole way.

        Raises:
            ValueError: no other run to recover towards, or one with the same metric.
        """
        if self.target is None:
            raise ValueError("recovery needs values from another run (OtherRun); use effect()")
        return self.effect() / checked_gap(self.base, self.target)


@overload
def patch_sweep(
    model: TransformerBridge, base: Tensor, what: What, metric: Metric, **kwargs: Any
) -> Sweep: ...
@overload
def patch_sweep(
    model: TransformerBridge, base: Tensor, what: What, metric: Mapping[str, Metric], **kwargs: Any
) -> dict[str, Sweep]: ...


def patch_sweep(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    what: What,
    metric: Metric | Mapping[str, Metric],
    *,
    site: str = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    where: Where | None = None,
    window: int = 1,
    memory: int = MEMORY,
    progress: bool = True,
) -> Sweep | dict[str, Sweep]:
    """Patch a site in the run on `base`, once for each cell, and measure every patched run.

    Args:
        model: The bridge, as `mi.load_model` gives it.
        base: The prompts of the run that is patched.
        what: What is put there, e.g. `OtherRun(clean_tokens)`.
        metric: Logits to one number an example; a mapping measures several at once, and then a
            mapping of sweeps comes back.
        site: One of `SITES`.
        over: The axes of the grid, of "layer", "position" (the destination for "pattern") and
            "head". Along those left out, a cell patches all at once.
        where: The layers, positions and heads to sweep, or to patch; all by default.
        window: How many neighbouring layers a cell patches at once, centred on its layer.
        memory: Bound on the working memory, in bytes.
        progress: Show a bar.

    Returns:
        The metric on each patched run, equal to that of one plain forward pass per cell.

    Raises:
        KeyError: an unknown site. ValueError: prompts that do not fit, an axis or index that is
            not there, a bad metric, runs that are identical or that the metric does not tell
            apart. RuntimeError: the engine is unsound (a patch never took place, patching a run
            with itself changes it, or patching everything does not restore the other run).
    """
    over = _checked_axes(site, over, window)
    base = checked_pair(model, base, what.tokens)[0] if isinstance(what, OtherRun) else base
    selected = (where or Where()).resolve(model.cfg, site, base.shape[-1])
    setup = prepare(model, base, metric)
    with torch.no_grad():
        values = cache(what.values(setup.base, setup.run))
        targets = assert_full_patch(setup, values, memory) if isinstance(what, OtherRun) else {}
    began = time.perf_counter()
    masks = list(_cell_masks(selected, over, window))
    with torch.no_grad():
        cells = [_cell(site, mask, values) for mask in masks]
        assert_self_patch(setup, cells, memory)
    results = setup.run_cells(cells, memory=memory, progress=progress, label=f"patching {site}")
    seconds = time.perf_counter() - began
    index = {axis: _present(selected, axis) for axis in over}
    shape = [len(index[axis]) for axis in over]
    sweeps = {
        name: Sweep(
            value.view(*shape, -1), over, index, setup.values[name], targets.get(name), seconds
        )
        for name, value in results.items()
    }
    return sweeps if isinstance(metric, Mapping) else sweeps["metric"]


def patch_block_sweeps(
    model: TransformerBridge,
    base: Int[Tensor, "batch pos"],
    what: What,
    metric: Metric,
    **options: Any,
) -> dict[str, Sweep]:
    """The residual stream, attention outputs and MLP outputs, each by layer and position.

    `options` are those of `patch_sweep`, without the site.
    """
    sites = ("resid_pre", "attn_out", "mlp_out")
    return {site: patch_sweep(model, base, what, metric, site=site, **options) for site in sites}


def assert_full_patch(setup: Setup, values: Values, memory: int) -> dict[str, Tensor]:
    """Patch every position before the first block: it must restore the other run.

    Returns:
        Each metric on the other run, [batch].

    Raises:
        ValueError: the metric does not tell the runs apart, so that recovery is undefined.
        RuntimeError: the other run is not restored.
    """
    n_pos = setup.base.tokens.shape[1]
    last = values("resid_post", setup.engine.n_layers - 1)[None, :, setup.reads]
    targets = {name: setup.judge(last, name)[0].cpu() for name in setup.metrics}
    everything = (Edit("resid_pre", 0, rows_mask(n_pos), values("resid_pre", 0)),)
    for name, full in setup.run_cells([everything], memory=memory).items():
        checked_gap(setup.values[name], targets[name])
        worst = float((full[0] - targets[name]).abs().max())
        if worst > 10 * setup.tolerance:
            raise RuntimeError(f"patching everything left {name!r} {worst:.2g} off the other run")
    return targets


def checked_gap(base: Float[Tensor, "batch"], target: Float[Tensor, "batch"]) -> Tensor:
    """Mean of target - base; ValueError when it is zero, because recovery divides by it."""
    gap = (target - base).mean()
    if float(gap.abs()) <= 1e-6 * max(1.0, float(base.abs().max())):
        raise ValueError(
            f"the metric is the same on both runs ({float(base.mean()):.4g} on average), so "
            "recovery is undefined: choose a pair or a metric that tells them apart"
        )
    return gap


def _checked_axes(site: str, over: Sequence[str], window: int) -> tuple[str, ...]:
    per_head = site_of(site).per_head
    over = (over,) if isinstance(over, str) else tuple(over)
    for axis in over:
        if axis not in _AXES or over.count(axis) > 1:
            raise ValueError(f"over={over}: the axes are layer, position, head, each at most once")
        if axis == "head" and not per_head:
            raise ValueError(f"site {site!r} has no heads to sweep over")
    if not over:
        raise ValueError("over is empty: name at least one axis, e.g. ('layer',)")
    if isinstance(window, bool) or window < 1 or (window > 1 and "layer" not in over):
        raise ValueError(f"window={window}: it counts layers, at least 1, in a sweep over layers")
    return over


def _present(selected: Bool[Tensor, "layer pos head"], axis: str) -> list[int]:
    """The indices along an axis at which anything is selected."""
    others = tuple(number for name, number in _AXES.items() if name != axis)
    flat = selected.any(dim=others[1]).any(dim=others[0])
    return [int(i) for i in flat.nonzero()]


def _cell_masks(
    selected: Bool[Tensor, "layer pos head"], over: Sequence[str], window: int
) -> Iterator[Bool[Tensor, "layer pos head"]]:
    """What each cell of the grid patches, in the order of the grid."""
    for place in product(*(_present(selected, axis) for axis in over)):
        mask = torch.zeros_like(selected)
        block: list[slice] = [slice(None)] * 3
        for axis, i in zip(over, place, strict=True):
            low = max(0, i - (window - 1) // 2) if axis == "layer" else i
            high = i + window // 2 + 1 if axis == "layer" else i + 1
            block[_AXES[axis]] = slice(low, high)
        mask[tuple(block)] = selected[tuple(block)]
        yield mask


def _cell(site: str, mask: Bool[Tensor, "layer pos head"], values: Values) -> Cell:
    """One edit for each layer that the mask touches."""
    layers = mask.flatten(1).any(dim=1).nonzero().flatten().tolist()
    return tuple(Edit(site, layer, mask[layer], values(site, layer)) for layer in layers)
