"""Patch every cell of a grid, one at a time, and measure each: activation patching.

Sources: Meng et al. 2022 (ROME, section 2) for causal tracing; Wang et al. 2022 (IOI); Heimersheim
and Nanda 2024, "How to use and interpret activation patching", for conventions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.engine import Cell, Inputs, Replacement, Values, What, prepare
from mi_helpers.metrics import Metric, recovery
from mi_helpers.patching.where import Where
from mi_helpers.sites import site_of

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
        return recovery(self.mean(), self.target.mean(), self.base.mean())


def patch_sweep(
    model: TransformerBridge,
    base: Inputs,
    what: What,
    metric: Metric | Mapping[str, Metric],
    *,
    site: str = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    where: Where | None = None,
    window: int = 1,
    progress: bool = False,
) -> Sweep | dict[str, Sweep]:
    """Patch a site in the run on `base`, once for each cell of a grid, and measure each run.

    Args:
        model: The bridge, as `mi.load_model` gives it.
        base: The prompts of the run that is patched; `Noised` prompts for causal tracing.
        what: What is put there, e.g. `OtherRun(clean_tokens)`.
        metric: Logits to one number an example; several by name are measured on the same runs.
        site: One of `SITES`.
        over: The axes of the grid, of "layer", "position" (the destination for "pattern") and
            "head". Along those left out, a cell patches all at once.
        where: The layers, positions and heads to sweep, or to patch; all by default.
        window: How many neighbouring layers a cell patches at once, centred on its layer.
        progress: Show a bar.

    Returns:
        The metric on each patched run, equal to that of one plain forward pass per cell; by name
        where several metrics were given.

    Raises:
        KeyError: an unknown site. ValueError: prompts that do not fit, an axis or index that is
            not there, a bad metric, runs that are identical or that the metric does not tell
            apart. RuntimeError: the engine is unsound (a patch never took place, patching a run
            with itself changes it, or patching everything does not restore the other run).
    """
    grid = _Grid(site, _checked_axes(site, over, window), where or Where(), window)
    setup = prepare(model, base, metric, what)
    selected = grid.where.resolve(model.cfg, site, setup.base.tokens.shape[1])
    with torch.no_grad():
        cells = [_cell(site, mask, setup.source) for mask in _cell_masks(selected, grid)]
    began = time.perf_counter()
    results = setup.run_cells(cells, progress=progress, label=f"patching {site}")
    seconds = time.perf_counter() - began
    index = {axis: _present(selected, axis) for axis in grid.over}
    shape = [len(places) for places in index.values()]
    sweeps = {
        name: Sweep(
            values.view(*shape, -1),
            grid.over,
            index,
            setup.values[name],
            setup.targets.get(name),
            seconds,
        )
        for name, values in results.items()
    }
    return sweeps if isinstance(metric, Mapping) else sweeps["metric"]


@dataclass(frozen=True)
class _Grid:
    """Which cells there are: `patch_sweep` explains the fields."""

    site: str
    over: tuple[str, ...]
    where: Where
    window: int


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
    selected: Bool[Tensor, "layer pos head"], grid: _Grid
) -> Iterator[Bool[Tensor, "layer pos head"]]:
    """What each cell of the grid patches, in the order of the grid."""
    for place in product(*(_present(selected, axis) for axis in grid.over)):
        block: list[slice] = [slice(None)] * 3
        for axis, i in zip(grid.over, place, strict=True):
            before = (grid.window - 1) // 2 if axis == "layer" else 0
            after = grid.window // 2 if axis == "layer" else 0
            block[_AXES[axis]] = slice(max(0, i - before), i + after + 1)
        mask = torch.zeros_like(selected)
        mask[tuple(block)] = selected[tuple(block)]
        yield mask


def _cell(site: str, mask: Bool[Tensor, "layer pos head"], values: Values) -> Cell:
    """One replacement for each layer that the mask touches."""
    layers = mask.flatten(1).any(dim=1).nonzero().flatten().tolist()
    return tuple(Replacement(site, layer, mask[layer], values(site, layer)) for layer in layers)
