"""Lines, bars and scatter plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from mi_helpers.figures.style import (
    AXIS_TITLE,
    DASHES,
    FULL_WIDTH,
    MUTED,
    NARROWEST,
    NEGATIVE,
    PALETTE,
    PATTERNS,
    POSITIVE,
    SYMBOLS,
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

    from mi_helpers.figures.style import Labels, Values

    Row = Float[np.ndarray, "point"]  # noqa: UP037

ROOM = FULL_WIDTH - 120  # pixels for a horizontal axis


def lines(
    series: Mapping[str, Values],
    *,
    title: str,
    x: Sequence[Any] | Values | None = None,
    xlabel: str = "",
    ylabel: str = "",
    bands: Mapping[str, tuple[Values, Values]] | None = None,
    controls: Mapping[str, str] | None = None,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw one line for each series.

    Args:
        series: `series[name][point]`.
        title: the finding.
        x: numbers, or labels such as tokens; else the index.
        xlabel: what `x` is, with its unit.
        ylabel: what the values are, with their unit.
        bands: `bands[name] = (low, high)` shades an interval around the line of that name.
        controls: `controls[name]` is the series beside which that of `name` stands: it has the
            same colour, and is dashed.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for unequal lengths, NaN/inf, or a band or a control of no series.
    """
    rows = _named(series, "series")
    n = len(next(iter(rows.values())))
    labels, xs = _positions(x, n)
    axis = ticks(labels, n, room=ROOM) if labels or x is None else {}
    whole = [plain(visible(label)) for label in labels] if labels else None
    if unknown := sorted(set(bands or {}) - set(rows)):
        raise ValueError(f"bands names no series: {unknown}; series are {list(rows)}")
    looks = _line_looks(list(rows), controls or {})
    symbols = _line_symbols(list(rows), controls or {})
    fig = go.Figure()
    for name, row in rows.items():
        color, dash = looks[name]
        if bands and name in bands:
            low, high = (_sized(v, n, f"bands[{name!r}][{k}]") for k, v in enumerate(bands[name]))
            fig.add_scatter(
                x=[*xs, *xs[::-1]], y=[*high, *low[::-1]], mode="lines", line_width=0,
                fill="toself", fillcolor=color, opacity=0.2, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        fig.add_scatter(
            x=xs, y=row, name=plain(name), mode="lines+markers" if n <= 40 else "lines",
            line=dict(color=color, dash=dash, width=2), customdata=whole,
            marker=dict(size=6, symbol=symbols[name]),
            hovertemplate=f"{plain(xlabel)} %{{{'customdata' if whole else 'x'}}}<br>%{{y:.4g}}"
            f"<extra>{plain(name)}</extra>",
        )  # fmt: skip
    fig.update_xaxes(axis, title_text=plain(xlabel), zeroline=False)
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(showlegend=len(rows) > 1)
    return finish(fig, title, subtitle, height=300, narrowest=_needed(axis))


def bars(
    values: Values | Mapping[str, Values],
    labels: Sequence[Any],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    horizontal: bool = False,
    limit: float | None = None,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw one bar for each label, blue above zero and red below, or groups of bars by name.

    Args:
        values: `values[label]`, or `values[name][label]` for groups.
        labels: names of the bars, which may repeat.
        title: the finding.
        xlabel: what stands along the horizontal axis.
        ylabel: what stands along the vertical axis.
        horizontal: puts the labels on the left, the first at the top, for long names.
        limit: where the axis of the values ends, on both sides of zero if a value is negative;
            for figures that are to be compared. By default the values decide.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for NaN/inf, lengths that differ, or a limit that is not positive.
    """
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be positive, not {limit}")
    grouped = isinstance(values, Mapping)
    rows = _named(values, "values")
    n = len(next(iter(rows.values())))
    names = check_labels(labels, n, "labels")
    fig = go.Figure()
    along, across = ("y", "x") if horizontal else ("x", "y")
    whole = [plain(visible(label)) for label in names or ()]
    for i, (name, row) in enumerate(rows.items()):
        color = PALETTE[i % len(PALETTE)] if grouped else [_sign_color(v) for v in row]
        fig.add_bar(
            **{along: list(range(n)), across: row},
            name=plain(name), orientation="h" if horizontal else "v",
            marker=dict(color=color, pattern=_pattern(i) if grouped else None), customdata=whole,
            hovertemplate=f"%{{customdata}}<br>%{{{across}:.4g}}<extra>{plain(name)}</extra>",
        )  # fmt: skip
    axis = ticks(names, n, room=None if horizontal else ROOM, lines=2 if horizontal else 1)
    axis |= dict(showgrid=False, zeroline=False)
    if horizontal:
        fig.update_yaxes(axis, range=[n - 0.5, -0.5])
    else:
        fig.update_xaxes(axis)
    fig.update_xaxes(title_text=plain(xlabel))
    fig.update_yaxes(title_text=plain(ylabel))
    if limit is not None:
        low = -limit if min(row.min() for row in rows.values()) < 0 else 0.0
        fig.update_layout({f"{across}axis": dict(range=[low, limit])})
    fig.update_layout(showlegend=len(rows) > 1, bargap=0.25, barmode="group")
    tall = any("<br>" in text for text in axis["ticktext"])
    height = max(120, (36 if tall else 28) * n * (len(rows) + 1) // 2) if horizontal else 300
    narrowest = NARROWEST if horizontal else _needed(axis)
    return finish(
        fig,
        title,
        subtitle,
        height=height,
        narrowest=narrowest,
        axis_title=22 if horizontal else AXIS_TITLE,  # the labels leave less room
    )


def scatter(
    x: Values,
    y: Values,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    labels: Labels = None,
    groups: Labels = None,
    named: Sequence[Any] = (),
    identity: bool = False,
    correlation: bool = False,
    joined: bool = False,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw points. None hides another: equal ones become one larger point that says how many.

    Args:
        x: `x[point]`.
        y: `y[point]`.
        title: the finding.
        xlabel: what `x` is, with its unit.
        ylabel: what `y` is, with its unit.
        labels: shown when hovering over a point.
        groups: `groups[point]` sets its colour and shape.
        named: the labels that are written beside their points.
        identity: adds the line y = x.
        correlation: adds Pearson's r and the number of points to the subtitle.
        joined: draws a line through the points of each group, from left to right.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for NaN/inf, lengths that differ, a name that is no label, or a correlation of
            values that are all equal.
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
        stacks = _stacks(xs, ys, at)
        at = [stack[0] for stack in stacks]
        fig.add_scatter(
            x=xs[at], y=ys[at], mode="lines+markers" if joined else "markers",
            name=plain(kind), showlegend=bool(kind),
            customdata=[_said(points, stack) for stack in stacks],
            marker=dict(
                size=_sizes(stacks),
                opacity=0.8 if len(xs) <= 60 else 0.55, color=PALETTE[i % len(PALETTE)],
                symbol=SYMBOLS[i % len(SYMBOLS)], line_width=0.5,
            ),
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


def _line_looks(names: list[str], controls: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and dash of each series; a control has the colour of what it stands beside."""
    if unknown := sorted((set(controls) | set(controls.values())) - set(names)):
        raise ValueError(f"controls names no series: {unknown}; series are {names}")
    own = [name for name in names if name not in controls]
    if chained := sorted(set(controls.values()) - set(own)):
        raise ValueError(f"a control stands beside a series, not beside a control: {chained}")
    dashes = ("solid", "dot", "dashdot") if controls else DASHES
    looks = {
        name: (PALETTE[i % len(PALETTE)], dashes[i // len(PALETTE) % 3])
        for i, name in enumerate(own)
    }
    return looks | {name: (looks[beside][0], "dash") for name, beside in controls.items()}


def _line_symbols(names: list[str], controls: Mapping[str, str]) -> dict[str, str]:
    """The shape of each series' points; a control has that of what it stands beside, hollow."""
    own = [name for name in names if name not in controls]
    symbols = {name: SYMBOLS[i % len(SYMBOLS)] for i, name in enumerate(own)}
    return symbols | {name: f"{symbols[beside]}-open" for name, beside in controls.items()}


def _pattern(i: int) -> dict[str, Any]:
    """What is drawn over the colour of the i-th group of bars, which it would else replace."""
    shape = PATTERNS[i % len(PATTERNS)]
    return dict(shape=shape, fgcolor="white", size=7, solidity=0.2, fillmode="overlay")


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


def _needed(axis: Mapping[str, Any]) -> int:
    """The narrowest width in pixels at which the labels of a horizontal axis stay apart."""
    return max(NARROWEST, 11 * len(axis.get("ticktext") or ()) + 120)


def _stacks(xs: Row, ys: Row, at: Sequence[int]) -> list[list[int]]:
    """The points of `at`, those in one place together, in the order in which they first come."""
    places: dict[tuple[float, float], list[int]] = {}
    for k in at:
        places.setdefault((float(xs[k]), float(ys[k])), []).append(k)
    return list(places.values())


def _sizes(stacks: Sequence[Sequence[int]]) -> list[float]:
    """Diameters in pixels: areas grow with the number of points, up to 24 pixels for the most."""
    roots = [len(stack) ** 0.5 for stack in stacks]
    return [8 * max(1.0, root * min(1.0, 3 / max(roots))) for root in roots]


def _said(points: Sequence[str], stack: Sequence[int]) -> str:
    """What hovering over a stack of points says: their number and the first names, or the one."""
    names = [plain(visible(points[k])) for k in stack]
    if len(names) == 1:
        return names[0]
    return f"{len(names)} points: " + ", ".join(names[:5]) + (", \u2026" if names[5:] else "")


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
