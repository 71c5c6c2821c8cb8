"""Attribution graphs as files of circuit-tracer, whose pages can open them, and back.

The format is a JSON object of "metadata", "qParams" (what a page shows at first, supernodes among
it), "nodes" and "links". Source: safety-research/circuit-tracer, frontend/graph_models.py and
utils/create_graph_files.py (2025). It has no field for a logit's value, which goes to the field
"activation" here, and none for biases: they are what the links leave out of the values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import torch

from mi_helpers.files import write_whole
from mi_helpers.sae.attribution_graph import KINDS, AttributionGraph, Node

TYPES = {
    "token": "embedding",
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "logit": "logit",
}
"""circuit-tracer's names for kinds; it calls every feature so, a transcoder's too."""


def save_graph(
    graph: AttributionGraph,
    path: str | Path,
    *,
    slug: str,
    scan: str,
    supernodes: Mapping[str, Sequence[Node]] | None = None,
) -> Path:
    """Write a graph, pruned or not, as circuit-tracer does.

    Args:
        graph: What is written; edges of weight 0 are not.
        path: The file; what was there stays when writing fails.
        slug: The graph's name on a page.
        scan: What names the transcoders.
        supernodes: Groups of nodes, by the name that a page shows.

    Raises:
        ValueError: an empty name, a supernode with a node that the graph does not have.
    """
    if not slug or not scan:
        raise ValueError("slug and scan must name the graph and its transcoders")
    n_layers = graph.nodes[-1].layer
    ids = {node: _id(node, n_layers) for node in graph.nodes}
    groups = {} if supernodes is None else supernodes
    for name, members in groups.items():
        if missing := [str(node) for node in members if node not in ids]:
            raise ValueError(f"supernode {name!r} has nodes that are not in the graph: {missing}")
    held = _cumulative(graph)
    content = {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": list(graph.tokens),
            "prompt": "".join(graph.tokens),
            "node_threshold": None,
            "schema_version": 1,
        },
        "qParams": {
            "pinnedIds": [],
            "supernodes": [
                [name, *(ids[node] for node in group)] for name, group in groups.items()
            ],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [_entry(graph, i, n_layers, held[i]) for i in range(len(graph.nodes))],
        "links": _links(graph, ids),
    }
    with write_whole(Path(path)) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def _cumulative(graph: AttributionGraph) -> list[float]:
    """For each node, the share of the influence that it and all stronger ones hold."""
    held = graph.influence()
    order = held.argsort(descending=True)
    out = torch.zeros_like(held)
    out[order] = held[order].cumsum(0) / held.sum().clamp_min(1e-30)
    return out.tolist()


def _links(graph: AttributionGraph, ids: Mapping[Node, str]) -> list[dict[str, Any]]:
    return [
        {
            "source": ids[graph.nodes[source]],
            "target": ids[graph.nodes[target]],
            "weight": float(graph.weights[target, source]),
        }
        for target, source in graph.weights.nonzero().tolist()
    ]


def _id(node: Node, n_layers: int) -> str:
    if node.kind == "token":
        return f"E_{node.unit}_{node.position}"
    layer = n_layers + 1 if node.kind == "logit" else node.layer
    return f"{layer}_{node.unit}_{node.position}"


def _entry(graph: AttributionGraph, i: int, n_layers: int, influence: float) -> dict[str, Any]:
    node, ident = graph.nodes[i], _id(graph.nodes[i], n_layers)
    layer, _, position = ident.split("_")
    entry: dict[str, Any] = {
        "node_id": ident,
        "feature": node.unit,
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{node.unit}-{position if node.kind != 'feature' else 0}",
        "clerp": "",
        "influence": influence,
        "activation": None,
    }
    if node.kind == "feature":
        both = node.layer + node.unit
        entry |= {"feature": both * (both + 1) // 2 + node.unit, "activation": node.value}
    elif node.kind == "token":
        entry["feature"] = node.position
    elif node.kind == "logit":
        at = i - len(graph.nodes) + len(graph.predicted)
        probability = float(graph.probabilities[at])
        entry |= {
            "token_prob": probability,
            "is_target_logit": at == 0,
            "jsNodeId": f"L_{node.unit}-{position}",
            "clerp": f'Output "{graph.predicted[at]}" (p={probability:.3f})',
            "influence": None,
            "activation": node.value,
        }
    return entry


def load_graph(path: str | Path) -> tuple[AttributionGraph, dict[str, list[Node]]]:
    """A graph and its supernodes from a file of circuit-tracer or of `save_graph`.

    circuit-tracer's own files hold no values of logits; they are then what the links add up to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no graph, or a node or a link says something that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no graph at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        read = [(entry["node_id"], _node(entry), entry) for entry in content["nodes"]]
        words = content["metadata"]["prompt_tokens"]
        ends = [
            (link["target"], link["source"], float(link["weight"])) for link in content["links"]
        ]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is no graph of circuit-tracer: {error!r}") from error
    read.sort(key=lambda part: _order(part[1]))
    place = {name: rank for rank, (name, _, _) in enumerate(read)}
    if len(place) < len(read):
        raise ValueError(f"{path} has two nodes of one name")
    if lost := sorted({end for link in ends for end in link[:2] if end not in place}):
        raise ValueError(f"{path} has links of nodes that are not there: {lost[:3]}")
    weights = torch.zeros(len(read), len(read))
    for target, source, weight in ends:
        weights[place[target], place[source]] = weight
    nodes = [
        node._replace(value=float(total)) if isnan(node.value) else node
        for (_, node, _), total in zip(read, weights.sum(1), strict=True)
    ]
    given = torch.tensor([node.kind in ("token", "error") for node in nodes])
    biases = (torch.tensor([node.value for node in nodes]) - weights.sum(1)).masked_fill(given, 0)
    last = [entry for _, node, entry in read if node.kind == "logit"]
    said = tuple(_said(entry.get("clerp") or "") for entry in last)
    probabilities = torch.tensor([float(entry.get("token_prob") or 0) for entry in last])
    graph = AttributionGraph(tuple(words), tuple(nodes), weights, biases, said, probabilities)
    groups = content.get("qParams", {}).get("supernodes", [])
    if lost := sorted({i for _, *members in groups for i in members if i not in place}):
        raise ValueError(f"{path} has supernodes of nodes that are not there: {lost[:3]}")
    return graph, {name: [nodes[place[i]] for i in members] for name, *members in groups}


def _node(entry: Mapping[str, Any]) -> Node:
    kinds = {said: kind for kind, said in TYPES.items()}
    kind = kinds.get(entry["feature_type"])
    if kind is None:
        raise ValueError(
            f"node {entry['node_id']} is of type {entry['feature_type']!r}; known are "
            f"{', '.join(kinds)}"
        )
    unit = -1 if kind == "error" else int(entry["node_id"].split("_")[1])
    layer = -1 if kind == "token" else int(entry["layer"]) - (kind == "logit")
    value = entry.get("activation")
    if kind in ("token", "error"):
        value = 1.0
    elif value is None and kind == "feature":
        raise ValueError(f"node {entry['node_id']} has no activation: nothing can be said of it")
    return Node(kind, layer, int(entry["ctx_idx"]), unit, torch.nan if value is None else value)


def _order(node: Node) -> tuple[int, int, int, int]:
    """Tokens, features and errors layer by layer; logits last, as they stood."""
    if node.kind == "logit":
        return (sys.maxsize, 0, 0, 0)
    return (node.layer, KINDS.index(node.kind), node.position, node.unit)


def _said(clerp: str) -> str:
    """The token in what a page says of a logit."""
    return clerp.removeprefix('Output "').rpartition('" (p=')[0] or clerp
