"""The engine's front: check the prompts, choose an engine, run cells and judge them by metrics.

`prepare` does once what every sweep, attribution and circuit needs before it begins:

1. check the prompts, and those of the other run when there is one;
2. run them through the bridge, and through the fused pass where there is one for the model; the
   fused engine is taken if both give the same last residual stream, else the one with hooks;
3. evaluate each metric on the bridge's logits and on the engine's stream: they must agree;
4. make the values of `what`; when it is another run, patching everything must restore it.

`Setup.run_cells` then measures cells, once patching the base run with itself has changed nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mi_helpers.engine.architecture import FusedModel
from mi_helpers.engine.batched import FusedEngine
from mi_helpers.engine.hooked import HookedEngine, logits_and_final
from mi_helpers.engine.inputs import Inputs, change_of, checked_inputs, checked_tokens, tokens_of
from mi_helpers.engine.runs import (
    Cell,
    Change,
    FirstChange,
    Replacement,
    Run,
    Values,
    What,
    rows_mask,
)
from mi_helpers.metrics import LinearMetric, Metric, evaluate, named, positions_of, require_gap

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Engine = FusedEngine | HookedEngine
SAME_RUN = 5e-4
"""How far two passes of one run may lie apart, as a `relative_error`. Rounding in single precision
leaves 2e-4 after the thirty layers of SmolLM2, whose early streams are long; a hook far more."""


def _nothing_to_put(site: str, layer: int) -> Tensor:
    raise ValueError("prepare was given no values to put in place: give it `what`")


@dataclass(frozen=True)
class Setup:
    """A base run with an engine that reproduces it, metrics checked on it, and what to put there.

    Attributes:
        base: The run that is patched.
        metrics: By name.
        values: Each metric on the base run, [batch].
        tolerance: What rounding can change in a metric: 1e-5 of the largest logit, at least 1e-5.
        source: The value to put at (site, layer): what `what` gives.
        targets: Each metric on the run that the values come from, [batch]; empty where they come
            from none.
    """

    model: TransformerBridge
    engine: Engine
    base: Run
    metrics: Mapping[str, Metric]
    values: Mapping[str, Float[Tensor, "batch"]]
    tolerance: float
    source: Values = _nothing_to_put
    targets: Mapping[str, Float[Tensor, "batch"]] = field(default_factory=dict)

    def run(self, tokens: Int[Tensor, "batch pos"]) -> Run:
        """Another run of the same model."""
        with torch.no_grad():
            return self.engine.trace(checked_tokens(self.model, tokens, "the other prompts"))

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits from the residual stream after the last block."""
        return self.engine.logits(resid)

    def judge(
        self, resid: Float[Tensor, "cell batch pos d_model"], metric: Metric
    ) -> Float[Tensor, "cell batch"]:
        """A metric on final residual streams at the positions `reads`.

        A metric that is linear in the logits needs only its own direction of the unembedding, where
        the logits are linear in the normalised stream; a soft cap makes them something else.
        """
        if isinstance(metric, LinearMetric) and self.engine.linear:
            direction, offset = metric.direction(*self.engine.unembedding())
            normed = self.engine.final_normed(resid[:, :, -1])
            return torch.einsum("cbd,bd->cb", normed, direction) + offset
        n_pos = self.base.tokens.shape[1]
        rows = resid[:, :, positions_of(metric, n_pos).start - self.reads.start :]
        logits = (self.engine.logits(part) for part in rows.split(_at_once(rows)))
        return torch.stack([evaluate(metric, one) for part in logits for one in part])

    @property
    def fused(self) -> FusedModel:
        """The fused model; ValueError when this run goes through the bridge's hooks."""
        if isinstance(self.engine, FusedEngine):
            return self.engine.fused
        raise ValueError(
            "paths and edges need a model that the fused pass reproduces, without hooks of your "
            "own: model.reset_hooks()"
        )

    @property
    def reads(self) -> slice:
        """The positions that any of the metrics reads."""
        n_pos = self.base.tokens.shape[1]
        return slice(min(positions_of(m, n_pos).start for m in self.metrics.values()), n_pos)

    def run_cells(
        self, cells: Sequence[Cell], *, progress: bool = False, label: str = ""
    ) -> dict[str, Float[Tensor, "cell batch"]]:
        """Every metric on every cell. The result is that of one plain forward pass per cell.

        Args:
            cells: What each pass replaces.
            progress: Show a bar, which says `label`.

        Raises:
            RuntimeError: patching the base run with itself changes a metric, a replacement never
                took place, or a metric is not a number.
        """
        with torch.no_grad():
            _assert_self_patch(self, cells)
        return self.measure(cells, progress=progress, label=label)

    def measure(
        self, cells: Sequence[Cell], *, progress: bool = False, label: str = ""
    ) -> dict[str, Float[Tensor, "cell batch"]]:
        """`run_cells` without the check on the base run."""
        batch = self.base.tokens.shape[0]
        values = {name: torch.full((len(cells), batch), torch.nan) for name in self.metrics}
        with torch.no_grad(), tqdm(total=len(cells), desc=label, disable=not progress) as bar:
            for chunk, resid in self.engine.run_cells(self.base, cells, self.reads):
                for name, metric in self.metrics.items():
                    values[name][chunk] = self.judge(resid, metric).cpu()
                bar.update(len(chunk))
        if any(torch.isnan(value).any() for value in values.values()):
            raise RuntimeError("a cell was never run, or its metric is not a number")
        return values


def _at_once(rows: Float[Tensor, "cell batch pos d_model"]) -> int:
    """How many cells to unembed together: enough to keep the product busy, not the memory."""
    return max(1, 256 // (rows.shape[1] * max(1, rows.shape[2])))


def prepare(
    model: TransformerBridge,
    base: Inputs,
    metric: Metric | Mapping[str, Metric],
    what: What | None = None,
) -> Setup:
    """Trace the base run and check everything that can be checked before a sweep.

    Args:
        model: The bridge.
        base: The prompts of the run that is changed; `Noised` prompts for causal tracing.
        metric: Logits to one number an example, or several by name; a single one is called
            "metric".
        what: What is put in place of activations.

    Raises:
        ValueError: bad tokens; prompts of `what` that do not fit; a metric that has the wrong
            shape, is not finite, reads positions that it does not name, or does not tell the base
            run from the other one.
        RuntimeError: the engine does not restore the other run when everything is patched.
    """
    inputs, metrics = checked_inputs(model, base, what), named(metric)
    tokens, change = tokens_of(inputs), change_of(inputs)
    with torch.no_grad():
        logits, final = logits_and_final(model, tokens, change)
        engine, run = _engine(model, tokens, change, final)
        tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
        setup = Setup(model, engine, run, metrics, {}, tolerance)
        setup = replace(setup, values=_on_base(setup, logits))
        if what is None:
            return setup
        setup = replace(setup, source=cache(what.values(run, setup.run)))
        is_run = getattr(what, "paired_tokens", None) is not None
        return replace(setup, targets=_full_patch(setup)) if is_run else setup


def _on_base(setup: Setup, logits: Tensor) -> dict[str, Float[Tensor, "batch"]]:
    """Each metric on the base run, by the bridge's logits and by the engine, which must agree."""
    values = {}
    for name, one in setup.metrics.items():
        theirs = evaluate(one, logits).cpu()
        values[name] = setup.judge(setup.base.final[None, :, setup.reads], one)[0].cpu()
        if not torch.allclose(values[name], theirs, rtol=1e-5, atol=10 * setup.tolerance):
            raise ValueError(
                f"metric {name!r} gives {theirs.tolist()} on all logits but "
                f"{values[name].tolist()} on those it is said to read: name the positions in an "
                "attribute `positions` (None means all)"
            )
    return values


def _engine(
    model: TransformerBridge, tokens: Tensor, change: Change | None, final: Tensor
) -> tuple[Engine, Run]:
    """The fastest engine that gives the bridge's final residual stream, with its trace."""
    if FusedModel.supports(model):
        fused = FusedEngine(FusedModel(model))
        base = fused.trace(tokens, change)
        if (worst := relative_error(base.final, final)) <= SAME_RUN:
            return fused, base
        warnings.warn(
            f"the fused pass is {worst:.2g} off the model: are hooks attached? Patching goes "
            "through the model itself, which is slower",
            stacklevel=4,
        )
    hooked = HookedEngine(model)
    base = hooked.trace(tokens, change)
    if (worst := relative_error(base.final, final)) > SAME_RUN:
        raise ValueError(f"the model's runs are not repeatable: two of them differ by {worst:.2g}")
    return hooked, base


def relative_error(got: Float[Tensor, "... d_model"], want: Float[Tensor, "... d_model"]) -> float:
    """The largest error of a position's vector, as a fraction of the vector's length."""
    return float(((got - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-6)).max())


def _assert_self_patch(setup: Setup, cells: Sequence[Cell]) -> None:
    """Patching a run with itself must change nothing; RuntimeError when it does.

    The first and the last cell go the whole way through the engine with their values replaced by
    the base run's own activations; nothing is skipped for being unchanged.
    """
    first_change = FirstChange(setup.base)
    own = [
        tuple(_own_value(setup.base, one, first_change(cell) or 0) for one in cell)
        for cell in {id(cell): cell for cell in (cells[0], cells[-1])}.values()
    ]
    for name, values in setup.measure(own).items():
        worst = float((values - setup.values[name]).abs().max())
        if worst > setup.tolerance:
            raise RuntimeError(f"patching a run with itself moved {name!r} by {worst:.2g}")


def _own_value(base: Run, one: Replacement, start: int) -> Replacement:
    """The base run's own value in the same place, forced through from position `start` on."""
    mask = one.mask.clone()
    mask[:start] = False
    return replace(one, mask=mask, value=base.get(one.site, one.layer), forced=True)


def _full_patch(setup: Setup) -> dict[str, Float[Tensor, "batch"]]:
    """Each metric on the other run, which patching every position of the first stream restores.

    Raises:
        ValueError: a metric does not tell the runs apart, so that recovery is undefined.
        RuntimeError: the other run is not restored.
    """
    last = setup.source("resid_post", setup.engine.n_layers - 1)[None, :, setup.reads]
    targets = {name: setup.judge(last, one)[0].cpu() for name, one in setup.metrics.items()}
    everything = rows_mask(setup.base.tokens.shape[1])
    cell = (Replacement("resid_pre", 0, everything, setup.source("resid_pre", 0)),)
    for name, full in setup.measure([cell]).items():
        require_gap(targets[name].mean(), setup.values[name].mean())
        worst = float((full[0] - targets[name]).abs().max())
        if worst > 10 * setup.tolerance:
            raise RuntimeError(f"patching everything left {name!r} {worst:.2g} off the other run")
    return targets
