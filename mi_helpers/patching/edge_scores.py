"""Edge attribution patching (EAP), and with integrated gradients (EAP-IG), on the edge graph.

effect(writer -> reader) ~ (other output of the writer - base output) . d metric / d reader's input:
what the metric would change by if that one reader saw the other run's output of that one writer.

Sources: Syed et al. 2023, "Attribution patching outperforms automated circuit discovery" (EAP);
Hanna et al. 2024, "Have faith in faithfulness" (EAP-IG, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.patching.edge_runs import writer_outputs
from mi_helpers.patching.edges import Circuit, EdgeGraph
from mi_helpers.patching.engine import MEMORY, prepare
from mi_helpers.patching.fused import FusedGPT2
from mi_helpers.patching.gradients import At, Path, gradients
from mi_helpers.patching.inputs import Inputs, checked_inputs
from mi_helpers.patching.metric import Metric
from mi_helpers.patching.runs import Run
from mi_helpers.patching.sites import site_of
from mi_helpers.patching.soundness import assert_full_patch
from mi_helpers.patching.what import OtherRun

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class EdgeScores:
    """A score for each edge of a graph, 0 where there is none.

    Attributes:
        values: Estimated change of the metric, averaged over examples, in the metric's unit.
    """

    graph: EdgeGraph
    values: Float[Tensor, "reader writer"]

    def top(self, n: int) -> Circuit:
        """The `n` edges with the largest absolute score; ValueError when there are fewer."""
        n_edges = int(self.graph.valid.sum())
        if isinstance(n, bool) or not 0 <= n <= n_edges:
            raise ValueError(f"cannot keep {n} edges: the graph has {n_edges}")
        ranked = self.values.abs().masked_fill(~self.graph.valid, -1.0).flatten()
        kept = torch.zeros(ranked.shape, dtype=torch.bool)
        kept[ranked.topk(n).indices] = True
        return Circuit(self.graph, kept.view_as(self.values))

    def ranked(self, n: int) -> list[tuple[str, str, float]]:
        """The `n` strongest edges as (writer, reader, score), strongest first."""
        edges = self.top(n).edges()
        scored = [(*edge, float(self.values[self.graph.edge(*edge)])) for edge in edges]
        return sorted(scored, key=lambda edge: -abs(edge[2]))

    def nodes(self) -> dict[str, float]:
        """For each writer the sum over its edges: the attribution of the node itself."""
        totals = self.values.sum(dim=0).tolist()
        return dict(zip(self.graph.writers, totals, strict=True))


def edge_attribution(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    *,
    path: Path | None = None,
    memory: int = MEMORY,
) -> EdgeScores:
    """Score every edge by gradients: EAP with `At(0)`, the default; EAP-IG with `Integrated(5)`.

    With the clean prompts as base, an edge that supports the behaviour scores below zero (losing it
    lowers the metric); with the corrupt ones as base, above.

    Args:
        model: The bridge, of GPT-2's architecture.
        base: The prompts of the run whose edges would be patched.
        what: The run that the values would come from.
        metric: Logits to one number an example; differentiable.
        path: Where gradients are taken.
        memory: Bound on the working memory for the writers' changes, in bytes.

    Raises:
        ValueError: another architecture, a metric without a gradient, or what `patch_sweep`
            refuses.
    """
    graph = EdgeGraph.of(model)
    base = checked_inputs(model, base, what)
    setup = prepare(model, base, metric)
    gpt2 = setup.gpt2
    with torch.no_grad():
        other = setup.run(what.tokens)
        assert_full_patch(setup, other.get, memory)
        ends = setup.base.get("resid_pre", 0), other.get("resid_pre", 0)
    scores = torch.zeros(graph.valid.shape)
    points = (path or At()).points()
    for point in points:
        resid = torch.lerp(ends[0], ends[1], point)
        found = gradients(model, setup.base.tokens, resid, metric, _hooks(graph))
        with torch.no_grad():
            for rows in _row_slices(graph, resid, memory):
                some = {name: (act[rows], grad[rows]) for name, (act, grad) in found.items()}
                change = _changes(graph, gpt2, setup.base, other, rows)
                scores += _scores(graph, gpt2, some, change).cpu() / (len(points) * len(resid))
    return EdgeScores(graph, scores)


_MLP_IN = "blocks.{layer}.mlp.hook_in"


def _hooks(graph: EdgeGraph) -> list[str]:
    """Where gradients are needed: queries, keys, values, the MLPs' normalised inputs, the end."""
    names = [site_of(site).hook for site in ("resid_pre", "resid_mid", "q", "k", "v")] + [_MLP_IN]
    hooks = [name.format(layer=layer) for layer in range(graph.n_layers) for name in names]
    return [*hooks, site_of("resid_post").hook.format(layer=graph.n_layers - 1)]


def _row_slices(graph: EdgeGraph, resid: Tensor, memory: int) -> list[slice]:
    """Examples to score together."""
    each = len(graph.writers) * resid[0].numel() * resid.element_size()
    size = max(1, memory // each)
    return [slice(first, first + size) for first in range(0, len(resid), size)]


def _changes(
    graph: EdgeGraph, gpt2: FusedGPT2, base: Run, other: Run, rows: slice
) -> Float[Tensor, "writer batch pos d_model"]:
    """What each writer adds in the other run, minus what it adds in the base run."""
    return writer_outputs(
        graph, gpt2, lambda site, layer: other.get(site, layer)[rows] - base.get(site, layer)[rows]
    )


def _scores(
    graph: EdgeGraph,
    gpt2: FusedGPT2,
    found: dict[str, tuple[Tensor, Tensor]],
    change: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "reader writer"]:
    """change . gradient for each edge, summed over examples and positions."""
    flat = change.flatten(1)
    scores = torch.zeros(graph.valid.shape, device=change.device)

    def fill(first: int, grads: Float[Tensor, "batch pos reader d_model"]) -> int:
        last, n_before = first + grads.shape[2], graph.n_before[first]
        rows = grads.movedim(2, 0).flatten(1)
        scores[first:last, :n_before] = rows @ flat[:n_before].T
        return last

    def at(hook: str, layer: int) -> tuple[Tensor, Tensor]:
        return found[hook.format(layer=layer)]

    reader = 0
    for layer in range(graph.n_layers):
        resid = at(site_of("resid_pre").hook, layer)[0]
        for site, weight in zip("qkv", gpt2.W_QKV[layer], strict=True):
            grad = torch.einsum("bphd,hmd->bphm", at(site_of(site).hook, layer)[1], weight)
            reader = fill(reader, gpt2.norm_vjp(layer, resid, grad))
        mid = at(site_of("resid_mid").hook, layer)[0]
        grad = at(_MLP_IN, layer)[1][:, :, None]
        reader = fill(reader, gpt2.norm_vjp(layer, mid, grad, mid=True))
    fill(reader, at(site_of("resid_post").hook, graph.n_layers - 1)[1][:, :, None])
    return scores
