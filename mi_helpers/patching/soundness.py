"""What must hold before a sweep is believed: patching nothing, and patching everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from mi_helpers.patching.engine import Setup
from mi_helpers.patching.runs import Cell, Edit, FirstChange, Run, rows_mask
from mi_helpers.patching.what import Values


def assert_self_patch(setup: Setup, cells: Sequence[Cell], memory: int) -> None:
    """Patching a run with itself must change nothing; RuntimeError when it does.

    The first and the last cell go the whole way through the engine with their values replaced by
    the base run's own activations; nothing is skipped for being unchanged.
    """
    first_change = FirstChange(setup.base)
    own = [
        tuple(_own_value(setup.base, edit, first_change(cell) or 0) for edit in cell)
        for cell in {id(cell): cell for cell in (cells[0], cells[-1])}.values()
    ]
    for name, values in setup.run_cells(own, memory=memory).items():
        worst = float((values - setup.values[name]).abs().max())
        if worst > setup.tolerance:
            raise RuntimeError(f"patching a run with itself moved {name!r} by {worst:.2g}")


def _own_value(base: Run, edit: Edit, start: int) -> Edit:
    """The edit with the base run's own value, forced through from position `start` on."""
    mask = edit.mask.clone()
    mask[:start] = False
    return replace(edit, mask=mask, value=base.get(edit.site, edit.layer), forced=True)


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
    targets = {name: setup.judge(last, one)[0].cpu() for name, one in setup.metrics.items()}
    everything = (Edit("resid_pre", 0, rows_mask(n_pos), values("resid_pre", 0)),)
    for name, full in setup.run_cells([everything], memory=memory).items():
        checked_gap(setup.values[name], targets[name])
        worst = float((full[0] - targets[name]).abs().max())
        if worst > 10 * setup.tolerance:
            raise RuntimeError(f"patching everything left {name!r} {worst:.2g} off the other run")
    return targets


def checked_gap(base: Float[Tensor, "batch"], target: Float[Tensor, "batch"]) -> Tensor:
    """Mean of target - base; ValueError when it is zero, because recovery divides by it.

    Zero is what rounding could make of it: a millionth of the metric's own size, which for a
    probability may be small.
    """
    gap = (target - base).mean()
    if float(gap.abs()) <= 1e-6 * max(float(base.abs().max()), float(target.abs().max())):
        raise ValueError(
            f"the metric is the same on both runs ({float(base.mean()):.4g} on average), so "
            "recovery is undefined: choose a pair or a metric that tells them apart"
        )
    return gap
