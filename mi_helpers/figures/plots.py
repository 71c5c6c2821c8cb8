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
    plain,
    ticks,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from .style import Values


def lines(
    series: Mapping[str, Values],
    *,
    title: str,
    x: Sequence[Any] | Values | None = None,
    xlabel: str = "",
    ylabel: str = "",
    bands: Mapping[str, tuple[Values, Values]] | None = None,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw one line for each `series[name][point]`.

    `x` holds numbers, or labels such as tokens. `bands[name] = (low, high)` shades an interval
    around the line of that name. ValueError for unequal lengths, NaN/inf or an unknown band.
    """
    arrays = _named(series, "series")
    n = len(next(iter(arrays.values())))
    labels, xs = _positions(x, n)
    if unknown := sorted(set(bands or {}) - set(arrays)):
        raise ValueError(f"bands names no series: {unknown}; series are {list(arrays)}")
    fig = go.Figure()
    for i, (name, values) in enumerate(arrays.items()):
        color = PALETTE[i % len(PALETTE)]
        dash = ("solid", "dash", "dot")[i // len(PALETTE) % 3]
        if name in (bands or {}):
            low, high = (_equal(bands[name][k], n, f"bands[{name!r}][{k}]") for k in (0, 1))  # type: ignore[index]
            fig.add_scatter(
                x=[*xs, *xs[::-1]],
                y=[*high, *low[::-1]],
                fill="toself",
                fillcolor=color,
                opacity=0.2,
                line_width=0,
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
                mode="lines",
            )
        fig.add_scatter(
            x=xs,
            y=values,
            name=plain(name),
            mode="lines+markers" if n <= 40 else "lines",
            line=dict(color=color, dash=dash, width=2),
            marker_size=6,
            legendgroup=name,
            hovertemplate=f"{plain(xlabel)} %{{x}}<br>%{{y:.4g}}<extra>{plain(name)}</extra>",
        )
    if labels is not None or x is None:
        fig.update_xaxes(ticks(labels, n, across=True, room=FULL_WIDTH - 120))
    fig.update_xaxes(title_text=plain(xlabel), zeroline=False)
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=len(arrays) > 1)
    return finish(fig, title, subtitle, height=300)


def bars(
    values: Values | Mapping[str, Values],
    labels: Sequence[Any],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    errors: Values | Mapping[str, Values] | None = None,
    horizontal: bool = False,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw `values[label]`, blue above zero and red below; a mapping draws groups of bars by name.

    `errors` are half-widths of intervals, in the unit and the form of `values`. `horizontal` puts
    the labels on the left, the first at the top, for long names.
    """
    grouped = isinstance(values, Mapping)
    arrays = _named(values if grouped else {"": values}, "values")
    n = len(next(iter(arrays.values())))
    names = check_labels(labels, n, "labels")
    spans = (
        _named(errors if isinstance(errors, Mapping) else {"": errors}, "errors", n)
        if errors is not None
        else {}
    )
    if unknown := sorted(set(spans) - set(arrays)):
        raise ValueError(f"errors names no values: {unknown}; values are {list(arrays)}")
    fig = go.Figure()
    along, across = ("y", "x") if horizontal else ("x", "y")
    for i, (name, array) in enumerate(arrays.items()):
        color = (
            PALETTE[i % len(PALETTE)]
            if grouped
            else [POSITIVE if v >= 0 else NEGATIVE for v in array]
        )
        error = (
            {f"error_{across}": dict(array=spans[name], color=INK, thickness=1.2)}
            if name in spans
            else {}
        )
        fig.add_bar(
            **{along: list(range(n)), across: array},
            name=plain(name),
            marker_color=color,
            orientation="h" if horizontal else "v",
            **error,
            hovertemplate=f"%{{{along}}}<br>%{{{across}:.4g}}<extra>{plain(name)}</extra>",
        )
    axis = ticks(names, n, across=not horizontal, room=FULL_WIDTH - 120)
    if horizontal:
        axis["range"] = [n - 0.5, -0.5]
    (fig.update_yaxes if horizontal else fig.update_xaxes)(axis, showgrid=False, zeroline=False)
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=grouped and len(arrays) > 1, bargap=0.25, barmode="group")
    return finish(
        fig, title, subtitle, height=max(120, 26 * n * len(arrays)) if horizontal else 300
    )


def scatter(
    x: Values,
    y: Values,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    labels: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    named: Sequence[Any] = (),
    identity: bool = False,
    correlation: bool = False,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw the points `(x[i], y[i])`; `labels[i]` shows on hover, `groups[i]` sets the colour.

    `named` lists the labels written beside their points, `identity` adds the line y = x, and
    `correlation` adds Pearson's r and the number of points to the subtitle.
    """
    xs, ys = to_array(x, "x", 1), to_array(y, "y", 1)
    if len(xs) != len(ys):
        raise ValueError(f"x has {len(xs)} points and y has {len(ys)}")
    texts = check_labels(labels, len(xs), "labels")
    kinds = check_labels(groups, len(xs), "groups") or [""] * len(xs)
    if missing := [name for name in map(str, named) if name not in (texts or [])]:
        raise ValueError(f"named points are not among labels: {missing}")
    fig = go.Figure()
    if identity:
        ends = [float(min(xs.min(), ys.min())), float(max(xs.max(), ys.max()))]
        fig.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line=dict(color=MUTED, dash="dot", width=1.5),
            name="y = x",
            hoverinfo="skip",
        )
    for kind in dict.fromkeys(kinds):
        at = [i for i, k in enumerate(kinds) if k == kind]
        point = [plain(visible(texts[i])) if texts else f"point {i}" for i in at]
        fig.add_scatter(
            x=xs[at],
            y=ys[at],
            mode="markers",
            name=plain(kind),
            customdata=point,
            marker=dict(size=8, opacity=0.8, line=dict(width=0.5, color="#ffffff")),
            hovertemplate="%{customdata}<br>"
            + f"{plain(xlabel)} %{{x:.4g}}<br>{plain(ylabel)} %{{y:.4g}}"
            f"<extra>{plain(kind)}</extra>",
        )
    for i, text in enumerate(texts or []):
        if text in map(str, named):
            fig.add_annotation(
                x=xs[i],
                y=ys[i],
                text=plain(visible(text)),
                showarrow=False,
                yshift=12,
                font_size=12,
            )
    note = [subtitle] if subtitle else []
    if correlation:
        if min(np.ptp(xs), np.ptp(ys)) == 0:
            raise ValueError("correlation is undefined: all x or all y are equal")
        note.append(f"r = {np.corrcoef(xs, ys)[0, 1]:.2f}, n = {len(xs)}")
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=identity or len(set(kinds)) > 1)
    return finish(fig, title, " \u00b7 ".join(note) or None, height=380)


def histogram(
    values: Values | Mapping[str, Values],
    *,
    title: str,
    xlabel: str,
    ylabel: str = "count",
    bins: int = 40,
    marks: Mapping[str, float] | None = None,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw the distribution of `values`, or of several samples by name on the same bins.

    `marks[name] = value` adds a named vertical line, such as an observed score beside its controls.
    """
    samples = values if isinstance(values, Mapping) else {"": values}
    if not samples:
        raise ValueError("values is empty; nothing to draw")
    arrays = {
        str(k): to_array(v, f"values[{k!r}]" if k else "values").ravel() for k, v in samples.items()
    }
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins=bins)
    middle, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    fig = go.Figure()
    for i, (name, array) in enumerate(arrays.items()):
        fig.add_bar(
            x=middle,
            y=np.histogram(array, edges)[0],
            width=width,
            name=plain(name),
            marker=dict(color=PALETTE[i % len(PALETTE)], line_width=0),
            opacity=0.65 if len(arrays) > 1 else 1,
            hovertemplate=f"{plain(xlabel)} %{{x:.4g}}<br>{plain(ylabel)} %{{y}}<extra>{plain(name)}</extra>",
        )
    for k, (name, mark) in enumerate((marks or {}).items()):
        at = float(to_array([mark], f"marks[{name!r}]")[0])
        fig.add_vline(
            x=at,
            line=dict(color=INK, width=1.5, dash="dash"),
            annotation_text=plain(name),
            annotation_position="top left" if k % 2 else "top right",
        )
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(barmode="overlay", bargap=0, showlegend=len(arrays) > 1)
    return finish(fig, title, subtitle, height=300)


def _named(values: Mapping[str, Any], name: str, count: int | None = None) -> dict[str, np.ndarray]:
    if not values:
        raise ValueError(f"{name} is empty; nothing to draw")
    arrays = {str(k): to_array(v, f"{name}[{k!r}]" if k else name, 1) for k, v in values.items()}
    count = count or len(next(iter(arrays.values())))
    if wrong := {k: len(v) for k, v in arrays.items() if len(v) != count}:
        raise ValueError(f"{name} must all have {count} points; these do not: {wrong}")
    return arrays


def _equal(values: Values, count: int, name: str) -> np.ndarray:
    return _named({name: values}, name, count)[name]


def _positions(x: Any, n: int) -> tuple[list[str] | None, list[float]]:
    """Labels (None for numbers) and positions on the x axis."""
    if x is None:
        return None, [float(i) for i in range(n)]
    if any(isinstance(item, str) for item in x):
        return check_labels(x, n, "x"), [float(i) for i in range(n)]
    return None, _equal(x, n, "x").tolist()
