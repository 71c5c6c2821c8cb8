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

from mi_helpers.circuits.graph import Circuit, EdgeGraph
from mi_helpers.circuits.runner import writer_outputs
from mi_helpers.engine import MEMORY, FusedModel, Inputs, Run, Values, prepare
from mi_helpers.metrics import Metric
from mi_helpers.patching.gradients import At, Path, slopes
from mi_helpers.patching.values import OtherRun, require_other_run
from mi_helpers.sites import Place

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
    path: Path = At(),
) -> EdgeScores:
    """Score every edge by gradients: EAP with `At(0)`, the default; EAP-IG with `Integrated(5)`.

    With the clean prompts as base, an edge that supports the behaviour scores below zero (losing it
    lowers the metric); with the corrupt ones as base, above.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts of the run whose edges would be patched.
        what: The run that the values would come from.
        metric: Logits to one number an example; differentiable.
        path: Where gradients are taken.

    Raises:
        ValueError: another architecture, values that are no other run's, a metric without a
            gradient, or what `patch_sweep` refuses.
    """
    return EdgeScores(*attributed(model, base, what, metric, path, by_position=False))


def attributed(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    path: Path,
    *,
    by_position: bool,
) -> tuple[EdgeGraph, Float[Tensor, "*pos reader writer"]]:
    """The graph and the scores of its edges: summed over positions, or before that sum."""
    graph = EdgeGraph.of(model)
    setup = prepare(model, base, metric, require_other_run(what))
    ends = setup.base.get("resid_pre", 0), setup.source("resid_pre", 0)
    n_pos = setup.base.tokens.shape[1] if by_position else 1
    scores = torch.zeros(n_pos, *graph.valid.shape)
    points = path.points()
    for point in points:
        resid = torch.lerp(ends[0], ends[1], point)
        found = slopes(model, setup.base.tokens, metric, _places(graph), resid)
        with torch.no_grad():
            for rows in _row_slices(graph, resid):
                some = {place: (act[rows], grad[rows]) for place, (act, grad) in found.items()}
                change = _changes(graph, setup.fused, setup.base, setup.source, rows)
                parts = _scores(graph, setup.fused, some, change, by_position=by_position)
                scores += parts.cpu() / (len(points) * len(resid))
    return graph, scores if by_position else scores[0]


def _places(graph: EdgeGraph) -> list[Place | str]:
    """Where gradients are needed: queries, keys, values, the MLPs' normalised inputs, the end."""
    sites = ["resid_pre", "q", "k", "v", "mlp_in", *([] if graph.parallel else ["resid_mid"])]
    places = [(site, layer) for layer in range(graph.n_layers) for site in sites]
    return [*places, ("resid_post", graph.n_layers - 1)]


def _row_slices(graph: EdgeGraph, resid: Tensor) -> list[slice]:
    """Examples to score together."""
    each = len(graph.writers) * resid[0].numel() * resid.element_size()
    size = max(1, MEMORY // each)
    return [slice(first, first + size) for first in range(0, len(resid), size)]


def _changes(
    graph: EdgeGraph, fused: FusedModel, base: Run, other: Values, rows: slice
) -> Float[Tensor, "writer batch pos d_model"]:
    """What each writer adds in the other run, minus what it adds in the base run."""
    return writer_outputs(
        graph, fused, lambda site, layer: other(site, layer)[rows] - base.get(site, layer)[rows]
    )


def _scores(
    graph: EdgeGraph,
    fused: FusedModel,
    found: dict[Place | str, tuple[Tensor, Tensor]],
    change: Float[Tensor, "writer batch pos d_model"],
    *,
    by_position: bool,
) -> Float[Tensor, "pos reader writer"]:
    """change . gradient for each edge, summed over examples; over positions too, unless told."""

    def spread(x: Float[Tensor, "part batch pos d_model"]) -> Float[Tensor, "pos part inner"]:
        return x.movedim(2, 0).flatten(2) if by_position else x.flatten(1)[None]

    flat = spread(change)
    scores = torch.zeros(len(flat), *graph.valid.shape, device=change.device)

    def fill(first: int, grads: Float[Tensor, "batch pos reader d_model"]) -> int:
        last, n_before = first + grads.shape[2], graph.n_before[first]
        rows = spread(grads.movedim(2, 0))
        scores[:, first:last, :n_before] = rows @ flat[:, :n_before].mT
        return last

    reader = 0
    for layer in range(graph.n_layers):
        resid = found["resid_pre", layer][0]
        for site, weight in zip("qkv", fused.W_QKV[layer], strict=True):
            grad = torch.einsum("bphd,hmd->bphm", found[site, layer][1], weight)
            reader = fill(reader, fused.norm_vjp(layer, resid, grad))
        mid = resid if graph.parallel else found["resid_mid", layer][0]
        grad = found["mlp_in", layer][1][:, :, None]
        reader = fill(reader, fused.norm_vjp(layer, mid, grad, mid=True))
    fill(reader, found["resid_post", graph.n_layers - 1][1][:, :, None])
    return scores
