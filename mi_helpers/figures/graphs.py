"""Circuits as graphs that read upwards: inputs at the bottom, edges weighted by their effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mi_helpers.figures.style import (
    FULL_WIDTH,
    INK,
    LINE,
    MUTED,
    NEGATIVE,
    POSITIVE,
    finish,
    plain,
    to_array,
)

Edge = tuple[str, str, float]
Point = tuple[float, float]


def graph(
    edges: Sequence[Edge],
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    unit: str = "weight",
    subtitle: str | None = None,
) -> go.Figure:
    """Draw a circuit. A node stands above all it reads from: rows are steps, not layers.

    Args:
        edges: `(source, target, weight)`, such as `("L5H5", "L8H6", 0.4)`. Blue edges have
            positive and red, dashed ones negative weight, wider for a larger size.
        title: the finding.
        notes: `notes[node]` is written under a node's name.
        unit: what a weight is; hovering over an edge shows it.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for no edges, NaN/inf, a cycle, or a note on an unknown node.
    """
    if not edges:
        raise ValueError("edges is empty; nothing to draw")
    weights = to_array([weight for _, _, weight in edges], "edge weights", 1)
    rank = _ranks(edges)
    if unknown := sorted(set(notes or {}) - set(rank)):
        raise ValueError(f"notes on nodes without an edge: {unknown}; nodes are {sorted(rank)}")
    paths = [_path(source, target, rank) for source, target, _ in edges]
    place = _places(paths, rank)
    fig = go.Figure()
    top = float(abs(weights).max()) or 1.0
    for path, weight in zip(paths, weights, strict=True):
        said = f"{plain(path[0])} \u2192 {plain(path[-1])}<br>{plain(unit)} {weight:.3g}"
        _edge(fig, [place[name] for name in path], weight / top, said)
    for name in rank:
        x, y = place[name]
        note = (notes or {}).get(name)
        small = f'<br><span style="font-size:10px;color:{MUTED}">{plain(note)}</span>'
        fig.add_annotation(
            x=x, y=y, text=plain(name) + (small if note else ""), showarrow=False,
            bgcolor="#f1f3f6", bordercolor=LINE, borderpad=4, font=dict(size=12, color=INK),
        )  # fmt: skip
    rows = max(rank.values()) + 1
    fig.update_xaxes(visible=False, range=[-0.02, 1.02])
    fig.update_yaxes(visible=False, range=[-0.4, rows - 0.6])
    fig.update_layout(showlegend=False, hovermode="closest")
    widest = max(sum(rank[name] == row for name in rank) for row in range(rows))
    return finish(
        fig, title, subtitle, height=84 * rows, width=FULL_WIDTH, narrowest=100 * widest + 40
    )


def _ranks(edges: Sequence[Edge]) -> dict[str, int]:
    """The row of each node: one above the highest node it reads from."""
    rank = {name: 0 for source, target, _ in edges for name in (source, target)}
    for _ in range(len(rank) + 1):
        low = [(s, t) for s, t, _ in edges if rank[t] <= rank[s]]
        for source, target in low:
            rank[target] = max(rank[target], rank[source] + 1)
        if not low:
            break
    else:
        raise ValueError(f"edges form a cycle, through {low[0][0]!r} and {low[0][1]!r}")
    first = {source for source, _, _ in edges} - {target for _, target, _ in edges}
    for name in first:  # an input stands right below its first reader
        rank[name] = min(rank[target] for source, target, _ in edges if source == name) - 1
    return rank


def _path(source: str, target: str, rank: Mapping[str, int]) -> list[str]:
    """The edge's nodes, with a nameless stop in each row between, which keeps nodes off it."""
    stops = [f"\0{source}\0{target}\0{row}" for row in range(rank[source] + 1, rank[target])]
    return [source, *stops, target]


def _places(paths: Sequence[list[str]], rank: Mapping[str, int]) -> dict[str, Point]:
    """Positions of nodes and stops: each row ordered by the mean position of its neighbours."""
    row_of = {name: rank[path[0]] + i for path in paths for i, name in enumerate(path)}
    rows = [[n for n in row_of if row_of[n] == level] for level in range(max(row_of.values()) + 1)]
    near: dict[str, list[str]] = {name: [] for name in row_of}
    for path in paths:
        for below, above in zip(path, path[1:], strict=False):
            near[below].append(above)
            near[above].append(below)
    across = {n: (i + 0.5) / len(row) for row in rows for i, n in enumerate(row)}
    for _ in range(12):
        for row in rows:
            row.sort(key=lambda n: sum(across[m] for m in near[n]) / len(near[n]))
            across |= {n: (i + 0.5) / len(row) for i, n in enumerate(row)}
    return {name: (across[name], float(row_of[name])) for name in row_of}


def _edge(fig: go.Figure, points: list[Point], share: float, said: str) -> None:
    """A line through `points` with an arrow halfway up its last stretch, to be hovered over."""
    last, tip = points[-2:]
    halfway = ((last[0] + tip[0]) / 2, (last[1] + tip[1]) / 2)
    xs, ys = zip(*points[:-1], halfway, tip, strict=True)
    color = POSITIVE if share >= 0 else NEGATIVE
    sizes = [0.0] * (len(points) - 1) + [11 + 8 * abs(share), 0.0]
    fig.add_scatter(
        x=xs, y=ys, mode="lines+markers", opacity=0.4 + 0.55 * abs(share),
        line=dict(color=color, width=1 + 5 * abs(share), shape="spline",
                  dash="solid" if share >= 0 else "dash"),
        marker=dict(symbol="arrow", angleref="previous", size=sizes, color=color, opacity=1,
                    line_width=0),
        hovertemplate=said + "<extra></extra>",
    )  # fmt: skip
