"""Circuits: the graph of who reads whose writing, edges scored, searched, judged, and paths."""

from mi_helpers.circuits.acdc import acdc, kl_distance
from mi_helpers.circuits.graph import Circuit, EdgeGraph
from mi_helpers.circuits.paths import path_patch
from mi_helpers.circuits.positions import (
    PositionCircuit,
    PositionScores,
    edge_attribution_by_position,
)
from mi_helpers.circuits.published import published
from mi_helpers.circuits.quality import Faithfulness, completeness, faithfulness, minimality
from mi_helpers.circuits.scores import EdgeScores, edge_attribution

__all__ = [
    "Circuit",
    "EdgeGraph",
    "EdgeScores",
    "Faithfulness",
    "PositionCircuit",
    "PositionScores",
    "acdc",
    "completeness",
    "edge_attribution",
    "edge_attribution_by_position",
    "faithfulness",
    "kl_distance",
    "minimality",
    "path_patch",
    "published",
]
