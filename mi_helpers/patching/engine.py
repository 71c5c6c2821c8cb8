"""Choose an engine, check it against the bridge, and judge cells by metrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mi_helpers.patching.fused import FusedGPT2
from mi_helpers.patching.hooked import HookedEngine, change_hook
from mi_helpers.patching.inputs import (
    Change,
    Inputs,
    change_of,
    checked_inputs,
    checked_tokens,
    tokens_of,
)
from mi_helpers.patching.metric import LinearMetric, Metric, evaluate, named, positions_of
from mi_helpers.patching.resume import FusedEngine
from mi_helpers.patching.runs import Cell, Run
from mi_helpers.patching.sites import SITES

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MEMORY = 128 * 2**20
"""Working memory of a sweep, in bytes, unless told otherwise."""

Engine = FusedEngine | HookedEngine


@dataclass(frozen=True)
class Setup:
    """A base run with an engine that reproduces it, and metrics checked on it.

    Attributes:
        base: The run that is patched.
        metrics: By name.
        values: Each metric on the base run, [batch].
        tolerance: What rounding can change in a metric: 1e-5 of the largest logit, at least 1e-5.
    """

    model: TransformerBridge
    engine: Engine
    base: Run
    metrics: Mapping[str, Metric]
    values: Mapping[str, Float[Tensor, "batch"]]
    tolerance: float

    def run(self, tokens: Int[Tensor, "batch pos"]) -> Run:
        """Another run of the same model."""
        return self.engine.trace(checked_tokens(self.model, tokens, "the other prompts"))

    def judge(
        self, resid: Float[Tensor, "cell batch pos d_model"], metric: Metric
    ) -> Float[Tensor, "cell batch"]:
        """A metric on final residual streams at the positions `reads`."""
        if isinstance(metric, LinearMetric):
            direction, offset = metric.direction(*self.engine.unembedding())
            normed = self.engine.final_normed(resid[:, :, -1])
            return torch.einsum("cbd,bd->cb", normed, direction) + offset
        n_pos = self.base.tokens.shape[1]
        rows = resid[:, :, positions_of(metric, n_pos).start - self.reads.start :]
        logits = (self.engine.logits(part) for part in rows.split(_at_once(rows)))
        return torch.stack([evaluate(metric, one) for part in logits for one in part])

    @property
    def gpt2(self) -> FusedGPT2:
        """The fused model; ValueError when this run goes through the bridge's hooks."""
        if isinstance(self.engine, FusedEngine):
            return self.engine.gpt2
        raise ValueError(
            "paths and edges need a GPT-2 without hooks of your own: model.reset_hooks()"
        )

    @property
    def reads(self) -> slice:
        """The positions that any of the metrics reads."""
        n_pos = self.base.tokens.shape[1]
        return slice(min(positions_of(m, n_pos).start for m in self.metrics.values()), n_pos)

    def run_cells(
        self, cells: Sequence[Cell], *, memory: int, progress: bool = False, label: str = ""
    ) -> dict[str, Float[Tensor, "cell batch"]]:
        """Every metric on every cell. The result is that of one plain forward pass per cell."""
        batch = self.base.tokens.shape[0]
        values = {name: torch.full((len(cells), batch), torch.nan) for name in self.metrics}
        with torch.no_grad(), tqdm(total=len(cells), desc=label, disable=not progress) as bar:
            for chunk, resid in self.engine.run_cells(self.base, cells, self.reads, memory):
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
) -> Setup:
    """Trace the base run and check everything that can be checked before a sweep.

    The engine is the fused one for a GPT-2 whose logits it reproduces to rounding, otherwise the
    bridge with hooks (as when hooks of your own are attached).

    Raises:
        ValueError: bad tokens; a metric that has the wrong shape, is not finite, or reads
            positions that it does not name.
    """
    inputs, metrics = checked_inputs(model, base), named(metric)
    tokens, change = tokens_of(inputs), change_of(inputs)
    with torch.no_grad():
        logits, final = _logits_and_final(model, tokens, change)
        engine, run = _engine(model, tokens, change, final)
        tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
        setup = Setup(model, engine, run, metrics, {}, tolerance)
        values = {}
        for name, one in metrics.items():
            values[name] = evaluate(one, logits).cpu()
            ours = setup.judge(run.final[None, :, setup.reads], one)[0].cpu()
            if not torch.allclose(ours, values[name], rtol=1e-5, atol=10 * tolerance):
                raise ValueError(
                    f"metric {name!r} gives {values[name].tolist()} on all logits but "
                    f"{ours.tolist()} on those it is said to read: name the positions in an "
                    "attribute `positions` (None means all)"
                )
            values[name] = ours
    return replace(setup, values=values)


def _logits_and_final(
    model: TransformerBridge, tokens: Tensor, change: Change | None
) -> tuple[Tensor, Tensor]:
    """What the bridge itself gives: logits, and the residual stream after the last block."""
    caught: list[Tensor] = []
    name = SITES["resid_post"].hook.format(layer=model.cfg.n_layers - 1)
    hooks = [*change_hook(change), (name, lambda act, hook: caught.append(act.clone()))]
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens)
    return logits, caught[0]


def _engine(
    model: TransformerBridge, tokens: Tensor, change: Change | None, final: Tensor
) -> tuple[Engine, Run]:
    """The fastest engine that gives the bridge's final residual stream, with its trace."""
    if FusedGPT2.supports(model):
        fused = FusedEngine(FusedGPT2(model))
        base = fused.trace(tokens, change)
        if (worst := _relative_error(base.final, final)) <= 1e-4:
            return fused, base
        warnings.warn(
            f"the fused pass is {worst:.2g} off the model: are hooks attached? Patching goes "
            "through the model itself, which is slower",
            stacklevel=4,
        )
    hooked = HookedEngine(model)
    base = hooked.trace(tokens, change)
    if (worst := _relative_error(base.final, final)) > 1e-4:
        raise ValueError(f"the model's runs are not repeatable: two of them differ by {worst:.2g}")
    return hooked, base


def _relative_error(got: Tensor, want: Tensor) -> float:
    """The largest error of a position's vector, as a fraction of the vector's length."""
    return float(((got - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-6)).max())
