"""Lines, bars, scatter plots and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .style import (
    FULL_WIDTH,
    INK,
    MUTED,
    NEGATIVE,
    PALETTE,
    POSITIVE,
    check_labels,
    finish,
    label_shifts,
    plain,
    ticks,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from .style import Labels, Values

    Row = Float[np.ndarray, "point"]  # noqa: UP037

ROOM = FULL_WIDTH - 120  # pixels for a horizontal axis


def lines(
    series: Mapping[str, Values], *, title: str, x: Sequence[Any] | Values | None = None,
    xlabel: str = "", ylabel: str = "", bands: Mapping[str, tuple[Values, Values]] | None = None,
    subtitle: str | None = None,
) -> go.Figure:  # fmt: skip
    """Draw one line for each `series[name][point]`.

    `x` holds numbers, or labels such as tokens. `bands[name] = (low, high)` shades an interval
    around the line of that name. ValueError for unequal lengths, NaN/inf or an unknown band.
    """
    rows = _named(series, "series")
    n = len(next(iter(rows.values())))
    labels, xs = _positions(x, n)
    if unknown := sorted(set(bands or {}) - set(rows)):
        raise ValueError(f"bands names no series: {unknown}; series are {list(rows)}")
    fig = go.Figure()
    for i, (name, row) in enumerate(rows.items()):
        color = PALETTE[i % len(PALETTE)]
        dash = ("solid", "dash", "dot")[i // len(PALETTE) % 3]
        if bands and name in bands:
            low, high = (_sized(v, n, f"bands[{name!r}][{k}]") for k, v in enumerate(bands[name]))
            fig.add_scatter(
                x=[*xs, *xs[::-1]], y=[*high, *low[::-1]], mode="lines", line_width=0,
                fill="toself", fillcolor=color, opacity=0.2, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        fig.add_scatter(
            x=xs, y=row, name=plain(name), mode="lines+markers" if n <= 40 else "lines",
            line=dict(color=color, dash=dash, width=2), marker_size=6,
            hovertemplate=f"{plain(xlabel)} %{{x}}<br>%{{y:.4g}}<extra>{plain(name)}</extra>",
        )  # fmt: skip
    axis = ticks(labels, n, room=ROOM) if labels or x is None else {}
    fig.update_xaxes(axis, title_text=plain(xlabel), zeroline=False)
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=len(rows) > 1)
    return finish(fig, title, subtitle, height=300)


def bars(
    values: Values | Mapping[str, Values], labels: Sequence[Any], *, title: str, xlabel: str = "",
    ylabel: str = "", errors: Values | Mapping[str, Values] | None = None,
    horizontal: bool = False, subtitle: str | None = None,
) -> go.Figure:  # fmt: skip
    """Draw `values[label]`, blue above zero and red below; a mapping draws groups of bars by name.

    `errors` are half-widths of intervals, in the unit and the form of `values`. `horizontal` puts
    the labels on the left, the first at the top, for long names.
    """
    grouped = isinstance(values, Mapping)
    rows = _named(values, "values")
    n = len(next(iter(rows.values())))
    names = check_labels(labels, n, "labels")
    spans = {} if errors is None else _named(errors, "errors", n)
    if unknown := sorted(set(spans) - set(rows)):
        raise ValueError(f"errors names no values: {unknown}; values are {list(rows)}")
    fig = go.Figure()
    along, across = ("y", "x") if horizontal else ("x", "y")
    for i, (name, row) in enumerate(rows.items()):
        color = PALETTE[i % len(PALETTE)] if grouped else [_sign_color(v) for v in row]
        error = dict(array=spans[name], color=INK, thickness=1.2) if name in spans else None
        fig.add_bar(
            **{along: list(range(n)), across: row, f"error_{across}": error},
            name=plain(name), orientation="h" if horizontal else "v", marker_color=color,
            hovertemplate=f"%{{{along}}}<br>%{{{across}:.4g}}<extra>{plain(name)}</extra>",
        )  # fmt: skip
    axis = ticks(names, n, room=None if horizontal else ROOM) | dict(showgrid=False, zeroline=False)
    if horizontal:
        fig.update_yaxes(axis, range=[n - 0.5, -0.5])
    else:
        fig.update_xaxes(axis)
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=len(rows) > 1, bargap=0.25, barmode="group")
    height = max(120, 28 * n * (len(rows) + 1) // 2) if horizontal else 300
    return finish(fig, title, subtitle, height=height)


def scatter(
    x: Values, y: Values, *, title: str, xlabel: str, ylabel: str, labels: Labels = None,
    groups: Labels = None, named: Sequence[Any] = (), identity: bool = False,
    correlation: bool = False, joined: bool = False, subtitle: str | None = None,
) -> go.Figure:  # fmt: skip
    """Draw the points `(x[i], y[i])`; `labels[i]` shows on hover, `groups[i]` sets the colour.

    `named` lists the labels written beside their points, `identity` adds the line y = x,
    `correlation` adds Pearson's r and the number of points to the subtitle, and `joined` draws a
    line through the points of each group, from left to right.
    """
    xs, ys = to_array(x, "x", 1), to_array(y, "y", 1)
    if len(xs) != len(ys):
        raise ValueError(f"x has {len(xs)} points and y has {len(ys)}")
    points = check_labels(labels, len(xs), "labels") or [f"point {i}" for i in range(len(xs))]
    kinds = check_labels(groups, len(xs), "groups") or [""] * len(xs)
    if missing := [name for name in map(str, named) if name not in points]:
        raise ValueError(f"named points are not among labels: {missing}")
    fig = go.Figure()
    for i, kind in enumerate(dict.fromkeys(kinds)):
        at = [k for k, other in enumerate(kinds) if other == kind]
        at = sorted(at, key=lambda k: xs[k]) if joined else at
        fig.add_scatter(
            x=xs[at], y=ys[at], mode="lines+markers" if joined else "markers",
            name=plain(kind), showlegend=bool(kind),
            customdata=[plain(visible(points[k])) for k in at],
            marker=dict(size=8, opacity=0.8, color=PALETTE[i % len(PALETTE)], line_width=0.5),
            hovertemplate=f"%{{customdata}}<br>{plain(xlabel)} %{{x:.4g}}<br>{plain(ylabel)} "
            f"%{{y:.4g}}<extra>{plain(kind)}</extra>",
        )  # fmt: skip
    chosen = [k for k, point in enumerate(points) if point in map(str, named)]
    for k, shift in zip(chosen, label_shifts(xs, ys, points, chosen), strict=True):
        fig.add_annotation(
            x=xs[k], y=ys[k], text=plain(visible(points[k])), showarrow=False, yshift=shift,
        )  # fmt: skip
    if identity:
        _identity(fig, xs, ys)
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    notes = [subtitle or "", _pearson(xs, ys) if correlation else ""]
    return finish(fig, title, " \u00b7 ".join(filter(None, notes)), height=380)


def histogram(
    values: Values | Mapping[str, Values], *, title: str, xlabel: str, ylabel: str = "count",
    bins: int = 40, marks: Mapping[str, float] | None = None, subtitle: str | None = None,
) -> go.Figure:  # fmt: skip
    """Draw the distribution of `values`, or of several samples by name on the same `bins`.

    `marks[name] = value` adds a named vertical line, such as a score beside those of its controls.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    samples = values if isinstance(values, Mapping) else {"": values}
    rows = {str(k): to_array(v, f"values {k}".strip()).ravel() for k, v in samples.items()}
    if not rows:
        raise ValueError("values is empty; nothing to draw")
    lines = {k: float(to_array([v], f"marks {k}")[0]) for k, v in (marks or {}).items()}
    edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), bins=bins)
    middle, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    fig = go.Figure()
    for i, (name, row) in enumerate(rows.items()):
        fig.add_bar(
            x=middle, y=np.histogram(row, edges)[0], width=width, name=plain(name),
            marker=dict(color=PALETTE[i % len(PALETTE)], line_width=0),
            opacity=0.65 if len(rows) > 1 else 1,
            hovertemplate=f"{plain(xlabel)} %{{x:.4g}}<br>%{{y}}<extra>{plain(name)}</extra>",
        )  # fmt: skip
    low, high = min([edges[0], *lines.values()]), max([edges[-1], *lines.values()])
    for name, at in lines.items():
        side = "top left" if at > (low + high) / 2 else "top right"
        fig.add_vline(
            x=at, line=dict(color=INK, width=1.5, dash="dash"), annotation_text=plain(name),
            annotation_position=side,
        )  # fmt: skip
    pad = (high - low) * 0.03
    fig.update_xaxes(title_text=plain(xlabel), range=[low - pad, high + pad])
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(barmode="overlay", bargap=0, showlegend=len(rows) > 1)
    return finish(fig, title, subtitle, height=300)


def _named(values: Any, name: str, count: int | None = None) -> dict[str, Row]:
    """`values` as rows by name (one without a name unless a mapping), all of one length."""
    if not isinstance(values, Mapping):
        values = {"": values}
    if not values:
        raise ValueError(f"{name} is empty; nothing to draw")
    rows = {str(k): to_array(v, f"{name} {k}".strip(), 1) for k, v in values.items()}
    count = count or len(next(iter(rows.values())))
    if wrong := {k or name: len(v) for k, v in rows.items() if len(v) != count}:
        raise ValueError(f"{name} must have {count} points each; these do not: {wrong}")
    return rows


def _sized(values: Values, count: int, name: str) -> Row:
    return _named(values, name, count)[""]


def _positions(x: Any, n: int) -> tuple[list[str] | None, list[float]]:
    """Labels (None for numbers) and positions on the x axis."""
    if x is None:
        return None, [float(i) for i in range(n)]
    if any(isinstance(item, str) for item in x):
        return check_labels(x, n, "x"), [float(i) for i in range(n)]
    return None, _sized(x, n, "x").tolist()


def _sign_color(value: float) -> str:
    return POSITIVE if value >= 0 else NEGATIVE


def _identity(fig: go.Figure, xs: Row, ys: Row) -> None:
    ends = [float(min(xs.min(), ys.min())), float(max(xs.max(), ys.max()))]
    look = dict(color=MUTED, dash="dot", width=1.5)
    fig.add_scatter(x=ends, y=ends, mode="lines", line=look, name="y = x", hoverinfo="skip")
    fig.update_layout(showlegend=True)


def _pearson(xs: Row, ys: Row) -> str:
    if min(np.ptp(xs), np.ptp(ys)) == 0:
        raise ValueError("correlation is undefined: all x or all y are equal")
    return f"r = {np.corrcoef(xs, ys)[0, 1]:.2f}, n = {len(xs)}"
