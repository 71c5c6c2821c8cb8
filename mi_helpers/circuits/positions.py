"""Edges told apart by position: what a reader reads of a writer *at one place of the prompt*.

A score of an edge is a sum over positions, where opposite ones cancel, and an edge is kept or
ablated at all positions at once. Here both come before that sum. Writer and reader of an edge stand
at the same position, since the residual stream never leaves it; from one position to another only a
head carries, inside. So the key and value of a head are read where it looks, its query where it
looks from.

Source: Haklay et al. 2025, "Position-aware automatic circuit discovery" (PEAP). They tell apart,
besides, from which position each key and value is looked at; here one edge serves all that look.
Positions mean the same in every prompt only if all are of one wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.circuits.graph import Circuit, EdgeGraph
from mi_helpers.circuits.scores import EdgeScores, attributed
from mi_helpers.engine import Inputs
from mi_helpers.metrics import Metric
from mi_helpers.patching.gradients import At, Path
from mi_helpers.patching.values import OtherRun
from mi_helpers.sites import checked_indices

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class PositionCircuit:
    """A set of edges at positions: `kept[pos, reader, writer]`."""

    graph: EdgeGraph
    kept: Bool[Tensor, "pos reader writer"]

    def __post_init__(self) -> None:
        shape = tuple(self.graph.valid.shape)
        if self.kept.dtype != torch.bool or self.kept.ndim != 3 or self.kept.shape[1:] != shape:
            raise ValueError(
                f"kept must be boolean [pos reader writer] = [pos, {shape[0]}, {shape[1]}], got "
                f"{self.kept.dtype} {list(self.kept.shape)}"
            )
        if (self.kept & ~self.graph.valid).any():
            raise ValueError("kept has edges from a writer to an earlier reader")

    @classmethod
    def of(
        cls, circuit: Circuit, n_pos: int, positions: Sequence[int] | None = None
    ) -> PositionCircuit:
        """A circuit's edges at some positions of prompts of `n_pos` tokens; at all by default.

        Raises:
            ValueError: a position outside the prompts.
        """
        places = (
            range(n_pos) if positions is None else checked_indices(positions, n_pos, "position")
        )
        kept = torch.zeros(n_pos, *circuit.kept.shape, dtype=torch.bool)
        kept[list(places)] = circuit.kept
        return cls(circuit.graph, kept)

    @property
    def n_edges(self) -> int:
        """How many edges are kept, each counted once for every position."""
        return int(self.kept.sum())

    def anywhere(self) -> Circuit:
        """The edges that are kept at any position."""
        return Circuit(self.graph, self.kept.any(dim=0))


@dataclass(frozen=True, eq=False)
class PositionScores:
    """A score for each edge at each position, 0 where there is none.

    Attributes:
        values: Estimated change of the metric, averaged over examples, in the metric's unit.
    """

    graph: EdgeGraph
    values: Float[Tensor, "pos reader writer"]

    def summed(self) -> EdgeScores:
        """The sum over positions: the score of the edge as a whole."""
        return EdgeScores(self.graph, self.values.sum(dim=0))

    def top(self, n: int) -> PositionCircuit:
        """The `n` edges with the largest absolute score, each at its own position.

        Raises:
            ValueError: fewer edges than that.
        """
        valid = self.graph.valid.expand_as(self.values)
        n_edges = int(valid.sum())
        if isinstance(n, bool) or not 0 <= n <= n_edges:
            raise ValueError(f"cannot keep {n} edges: there are {n_edges} over all positions")
        ranked = self.values.abs().masked_fill(~valid, -1.0).flatten()
        kept = torch.zeros(ranked.shape, dtype=torch.bool)
        kept[ranked.topk(n).indices] = True
        return PositionCircuit(self.graph, kept.view_as(self.values))

    def ranked(self, n: int) -> list[tuple[str, str, int, float]]:
        """The `n` strongest as (writer, reader, position, score), strongest first."""
        places = self.top(n).kept.nonzero().tolist()
        named = [
            (self.graph.writers[w], self.graph.readers[r], p, float(self.values[p, r, w]))
            for p, r, w in places
        ]
        return sorted(named, key=lambda edge: -abs(edge[3]))


def edge_attribution_by_position(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    *,
    path: Path = At(),
) -> PositionScores:
    """As `edge_attribution`, before the sum over positions; `summed()` gives that back.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts of the run whose edges would be patched, of one wording.
        what: The run that the values would come from.
        metric: Logits to one number an example; differentiable.
        path: Where gradients are taken.

    Raises:
        ValueError: as `edge_attribution`.
    """
    return PositionScores(*attributed(model, base, what, metric, path, by_position=True))
