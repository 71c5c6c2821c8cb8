"""Circuits as layered graphs: nodes by layer, read upwards, and edges weighted by their effect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from .style import FULL_WIDTH, INK, NEGATIVE, POSITIVE, finish, plain, to_array

Edge = tuple[str, str, float]


def graph(
    edges: Sequence[Edge],
    *,
    title: str,
    layers: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
    unit: str = "weight",
    subtitle: str | None = None,
) -> go.Figure:
    """Draw a circuit from `(source, target, weight)` edges, the first layer at the bottom.

    Blue edges have positive and red ones negative weight; width follows its size. Nodes named
    "L4H11", "MLP 3", "embed" and "logits" find their layer themselves; `layers[node]` places any
    other. `notes[node]` is written under a node's name, for example its role.
    Raises ValueError for no edges, an edge that does not lead to a later layer, or a node
    without a layer.
    """
    if not edges:
        raise ValueError("edges is empty; nothing to draw")
    weights = to_array([w for _, _, w in edges], "edge weights", 1)
    nodes = list(dict.fromkeys(name for source, target, _ in edges for name in (source, target)))
    depth = _depths(nodes, layers or {})
    for source, target, _ in edges:
        if depth[source] >= depth[target]:
            raise ValueError(f"edge {source} -> {target} does not lead to a later layer")
    place = _places(nodes, edges, depth)
    fig = go.Figure()
    top = float(abs(weights).max()) or 1.0
    for (source, target, _), weight in zip(edges, weights, strict=True):
        _arrow(fig, place[source], place[target], float(weight), top)
    middles = [[(place[s][k] + place[t][k]) / 2 for s, t, _ in edges] for k in (0, 1)]
    said = [
        f"{plain(s)} \u2192 {plain(t)}<br>{plain(unit)} {w:.3g}"
        for (s, t, _), w in zip(edges, weights, strict=True)
    ]
    fig.add_scatter(
        x=middles[0],
        y=middles[1],
        mode="markers",
        marker=dict(size=14, opacity=0),
        customdata=said,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    for name, (x, y) in place.items():
        note = (
            f'<br><span style="font-size:10px">{plain(notes[name])}</span>'
            if name in (notes or {})
            else ""
        )  # type: ignore[index]
        fig.add_annotation(
            x=x,
            y=y,
            text=plain(name) + note,
            showarrow=False,
            bgcolor="#f1f3f6",
            bordercolor="#9aa0a6",
            borderpad=4,
            font=dict(size=12, color=INK),
        )
    rows = len(set(depth.values()))
    fig.update_xaxes(visible=False, range=[-0.06, 1.06])
    fig.update_yaxes(visible=False, range=[-0.5, rows - 0.5])
    return finish(fig, title, subtitle, height=max(180, 72 * rows), width=FULL_WIDTH)


def _depths(nodes: Sequence[str], layers: Mapping[str, float]) -> dict[str, float]:
    """The layer of each node: heads at n, MLPs at n + 0.5, the embedding below, the logits above."""
    depth: dict[str, float] = {}
    for name in nodes:
        head = re.match(r"[LlAa](\d+)\s*\.?[Hh]\d+", name)
        mlp = re.match(r"(?:[Mm][Ll][Pp]|[Mm])\s*\.?(\d+)", name)
        if name in layers:
            depth[name] = float(layers[name])
        elif head or mlp:
            depth[name] = int(head.group(1)) if head else int(mlp.group(1)) + 0.5  # type: ignore[union-attr]
        elif name.lower() in ("embed", "input", "tokens"):
            depth[name] = -1.0
        elif name.lower() in ("logits", "output", "logit_diff", "unembed"):
            depth[name] = float("inf")
        else:
            raise ValueError(f"node {name!r} has no layer; give layers={{{name!r}: 3}}")
    return depth


def _places(
    nodes: list[str], edges: Sequence[Edge], depth: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Positions: one row a layer; in a row, nodes ordered by the mean position of their neighbours."""
    rows = [[n for n in nodes if depth[n] == level] for level in sorted(set(depth.values()))]
    across = {n: (i + 0.5) / len(row) for row in rows for i, n in enumerate(row)}
    near: dict[str, list[str]] = {n: [] for n in nodes}
    for source, target, _ in edges:
        near[source].append(target)
        near[target].append(source)
    for _ in range(6):
        for row in rows:
            row.sort(key=lambda n: (sum(across[m] for m in near[n]) / len(near[n]), n))
            across |= {n: (i + 0.5) / len(row) for i, n in enumerate(row)}
    return {n: (across[n], float(level)) for level, row in enumerate(rows) for n in row}


def _arrow(
    fig: go.Figure, start: tuple[float, float], end: tuple[float, float], weight: float, top: float
) -> None:
    share = abs(weight) / top
    fig.add_annotation(
        x=end[0],
        y=end[1],
        ax=start[0],
        ay=start[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        showarrow=True,
        arrowhead=2,
        arrowsize=max(0.6, 1.2 - share),
        arrowwidth=1 + 5 * share,
        standoff=16,
        startstandoff=12,
        arrowcolor=POSITIVE if weight >= 0 else NEGATIVE,
        opacity=0.35 + 0.55 * share,
    )
