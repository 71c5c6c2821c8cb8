"""Runs in which nodes of an attribution graph are set: in the model, or in what the graph is of.

    with set_features(model, transcoders, {node: 0.0}):                  # inhibited, the model free
        logits = model(tokens)
    with set_features(model, transcoders, {node: 0.0}, frozen=tokens):   # patterns and scales held
        logits = model(tokens)
    with local_replacement(model, transcoders, tokens, {node: 0.0}):     # all held: the graph's own
        logits = model(tokens)

To inhibit is to set to 0 or below, to inject to set a feature that was silent, to swap to do both.
In the free model heads attend elsewhere, other features switch on and off, and what the transcoders
lack changes too; the graph knows of none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import isfinite
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.interventions import Edit, Firings, intervene
from mi_helpers.sae.attribution_graph import Node
from mi_helpers.sae.core import Sae
from mi_helpers.sae.cross_layer import Earlier
from mi_helpers.sae.frozen import (
    FrozenLayer,
    FrozenNorm,
    FrozenRun,
    frozen_run,
    require_transcoders,
)
from mi_helpers.sae.splice import sparing
from mi_helpers.sites import Place, norm_ends

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@contextmanager
def set_features(
    model: TransformerBridge,
    transcoders: Sequence[Sae],
    values: Mapping[Node, float],
    *,
    frozen: Int[Tensor, "1 pos"] | FrozenRun | None = None,
) -> Iterator[Firings]:
    """Set features at their positions inside the block, in the model itself.

    What a feature writes is changed by the difference between the given activation and the one that
    it has in the run; all else that the MLP writes stays, what the transcoder lacks included.

    Args:
        model: The model that the transcoders were made for.
        transcoders: One for each layer's MLP, or a cross-layer one.
        values: The activation that each feature gets. A node stands for its layer, position and
            unit; it may be one of another prompt's graph.
        frozen: A prompt whose attention patterns and scales of norms are kept: runs inside the
            block must then be of prompts of this length. For many runs of one prompt give what
            `frozen_run` made of it, once.

    Yields:
        The count of what fired, of the features alone.

    Raises:
        ValueError: no features, nodes that are none, values that are no numbers, one feature twice,
            the first token, which has none.
        NothingHappened: on leaving, when no pass ran, or none that reached a feature.
    """
    own, earlier = require_transcoders(model, transcoders)
    _require_features(own, values)
    fired = Firings()
    with ExitStack() as stack:
        if frozen is not None:
            if not isinstance(frozen, FrozenRun):
                frozen = frozen_run(model, transcoders, frozen)
            stack.enter_context(intervene(model, _held(model, frozen)))
        parts = []
        for layer in sorted({node.layer for node in values}):
            here = {node: value for node, value in values.items() if node.layer == layer}
            positions = sorted({node.position for node in here})
            for i, change in _setting(own, earlier, layer, here):
                parts.append(stack.enter_context(sparing(model, own[i], change, positions)))
        yield fired
        for part in parts:
            fired.by_hook |= part.by_hook
            fired.positions += part.positions


@contextmanager
def local_replacement(
    model: TransformerBridge,
    transcoders: Sequence[Sae],
    tokens: Int[Tensor, "1 pos"],
    values: Mapping[Node, float] | None = None,
) -> Iterator[Firings]:
    """Inside the block the model is the local replacement model of its run on `tokens`.

    Attention patterns and the scales of all norms are those of that run; each MLP is its transcoder
    with the units that were active, taken as linear, plus the error of that run. Run on `tokens`,
    it gives the model's own logits. With `values`, nodes are set: a feature to an activation, a
    token or an error to a multiple of itself, 0 to remove it. The logits then change by exactly
    what `AttributionGraph.total` says.

    Raises:
        ValueError: as `attribution_graph`; nodes that are not in this run, logits among them.
        NothingHappened: on leaving, when no pass ran.
    """
    run = frozen_run(model, transcoders, tokens)
    values = {} if values is None else values
    _require_values(values)
    _require_in_run(run, values)
    edits, active = _held(model, run), dict[int, Tensor]()
    for i, layer in enumerate(run.layers):
        here = {node: value for node, value in values.items() if node.layer == i}
        edits |= _replaced(i, layer, here, active)
    gone = {node.position: value - 1 for node, value in values.items() if node.kind == "token"}
    if gone:
        step = torch.zeros_like(run.embedded)
        for position, factor in gone.items():
            step[position] = factor * run.embedded[position]
        edits["resid_pre", 0] = lambda acts, where: acts + step
    with intervene(model, edits) as fired:
        yield fired


def _held(model: TransformerBridge, run: FrozenRun) -> dict[Place | str, Edit]:
    """Edits that keep the patterns and scales of a run."""
    edits: dict[Place | str, Edit] = {}
    for i, layer in enumerate(run.layers):
        edits["pattern", i] = _same(layer.pattern)
        edits |= _norm(norm_ends(i, "ln1"), layer.before_attention)
        edits |= _norm(norm_ends(i, "ln2"), layer.before_mlp)
    return edits | _norm(norm_ends(None), run.final)


def _same(kept: Float[Tensor, "..."]) -> Edit:
    return lambda acts, where: kept.expand_as(acts).clone()


def _norm(ends: tuple[str, str], norm: FrozenNorm) -> dict[Place | str, Edit]:
    reading: dict[str, Tensor] = {}

    def keep(acts: Tensor, where: Tensor) -> Tensor:
        if acts.shape[1] != len(norm.scale):
            raise ValueError(
                f"the run that is held has {len(norm.scale)} tokens, this one {acts.shape[1]}: "
                "patterns and scales belong to one length"
            )
        reading["x"] = acts
        return acts

    return {ends[0]: keep, ends[1]: lambda acts, where: norm(reading.pop("x"))}


def _replaced(
    i: int, layer: FrozenLayer, values: Mapping[Node, float], active: dict[int, Tensor]
) -> dict[Place | str, Edit]:
    """Edits that put a linear transcoder in the place of an MLP; `active` is what units are."""
    sae, on, reading = layer.transcoder, layer.acts > 0, dict[str, Tensor]()
    errors = layer.error.clone()
    given = torch.full_like(layer.acts, torch.nan)
    for node, value in values.items():
        if node.kind == "error":
            errors[node.position] *= value
        else:
            given[node.position, node.unit] = value

    def keep(acts: Tensor, where: Tensor) -> Tensor:
        reading["x"] = acts
        return acts

    def write(acts: Tensor, where: Tensor) -> Tensor:
        x = reading.pop("x")
        pre = (x @ sae.W_enc + sae.b_enc) * on
        active[i] = torch.where(given.isnan(), pre, given)
        written = sae.decode(active[i])
        for j, W_dec in enumerate(layer.earlier):
            written = written + active[j] @ W_dec
        if sae.W_skip is not None:
            written = written + x @ sae.W_skip
        return written * layer.on[:, None] + errors

    return {("mlp_in", i): keep, ("mlp_out", i): write}


def _setting(
    own: Sequence[Sae], earlier: Sequence[Earlier], layer: int, values: Mapping[Node, float]
) -> Iterator[tuple[int, Callable[[Tensor, Tensor], Tensor]]]:
    """For each MLP that units of a layer write to, the change that setting some of them makes."""
    at = torch.tensor([node.position for node in values])
    units = torch.tensor([node.unit for node in values])
    wanted = torch.tensor([float(value) for value in values.values()])
    step: dict[str, Tensor] = {}

    def writing(rows: Tensor, first: bool) -> Callable[[Tensor, Tensor], Tensor]:
        def change(x: Tensor, y: Tensor) -> Tensor:
            if first:
                step["by"] = wanted.to(x) - own[layer].encode(x)[:, at, units]
            return y.index_add(1, at.to(y.device), step["by"][..., None] * rows[units])

        return change

    yield layer, writing(own[layer].W_dec, True)
    for i in range(layer + 1, len(own)):
        if earlier[i]:
            yield i, writing(earlier[i][layer], False)


def _require_features(own: Sequence[Sae], values: Mapping[Node, float]) -> None:
    if not values:
        raise ValueError("values name no feature: there is nothing to set")
    _require_values(values)
    for node in values:
        if node.kind != "feature":
            raise ValueError(f"{node} is of the kind {node.kind!r}: only features can be set")
        if not 0 <= node.layer < len(own):
            raise ValueError(f"{node} is in no layer of 0..{len(own) - 1}")
        if not 0 <= node.unit < own[node.layer].d_sae:
            raise ValueError(f"{node} is none of {own[node.layer].d_sae} units")
        if node.position < 1:
            raise ValueError(f"{node}: the first token has no features, and positions count from 0")


def _require_values(values: Mapping[Node, float]) -> None:
    if len({node[:4] for node in values}) < len(values):
        raise ValueError("values name one node twice, with two activations: which is meant?")
    for node, value in values.items():
        if not isfinite(value):
            raise ValueError(f"{node} cannot be set to {value}")


def _require_in_run(run: FrozenRun, values: Mapping[Node, float]) -> None:
    for node in values:
        inside = 0 <= node.position < len(run.tokens)
        if node.kind == "token":
            known = inside and int(run.tokens[node.position]) == node.unit
        elif node.kind == "error":
            known = inside and node.position > 0 and 0 <= node.layer < len(run.layers)
        else:
            known = node.kind == "feature" and inside and 0 <= node.layer < len(run.layers)
            acts = run.layers[node.layer].acts if known else torch.zeros(0, 0)
            known = known and 0 <= node.unit < acts.shape[1]
            known = known and bool(acts[node.position, node.unit] > 0)
        if not known:
            raise ValueError(
                f"{node} is no token, error or active feature of this run: only what its graph has "
                "can be set in the local replacement model"
            )
