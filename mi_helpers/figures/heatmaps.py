"""Heatmaps: matrices by layer and head, layer and position, query and key; and tables of top tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import (
    DIVERGING,
    FULL_WIDTH,
    SEQUENTIAL,
    check_labels,
    finish,
    plain,
    ticks,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from .style import Values


def heatmap(
    matrix: Values | Sequence[Values],
    *,
    title: str,
    x: Sequence[Any] | None = None,
    y: Sequence[Any] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    colorbar: str = "",
    center: float | None = 0.0,
    limit: float | None = None,
    text: str | Sequence[Sequence[Any]] | None = None,
    facets: Sequence[str] | None = None,
    bottom_up: bool = False,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw `matrix[row, col]` (or `matrix[facet, row, col]`, one panel each on one colour scale).

    Args:
        title: the finding; wrapped by itself. `subtitle` is for the model's name.
        x, y: labels of columns and rows (token strings may repeat); indices without them.
        colorbar: what the colour measures, with its unit.
        center: value drawn white on the diverging scale (blue above, red below); None draws a
            sequential scale from 0, for values that cannot be negative.
        limit: distance from `center` (or from 0) at which colours saturate; default the largest.
        text: a number format such as ".2f", or strings[row][col], written into the cells.
        facets: one name for each panel; required for, and only for, three axes.
        bottom_up: draw row 0 at the bottom, as for layers that read upwards.

    Raises ValueError for NaN/inf, an empty matrix, or labels that do not fit its shape.
    """
    panels = to_array(matrix, "matrix", 2 if facets is None else 3)
    panels = panels[None] if facets is None else panels
    names = check_labels(facets, len(panels), "facets") or [""]
    n_rows, n_cols = panels.shape[1:]
    rows, cols = check_labels(y, n_rows, "y"), check_labels(x, n_cols, "x")
    scale = _scale(panels, center, limit, colorbar)
    cells = _cell_text(text, panels)
    width = _width(n_cols, len(panels), rows, text is not None)
    fig = make_subplots(
        1,
        len(panels),
        subplot_titles=[plain(n) for n in names] if facets else None,
        shared_yaxes=True,
        horizontal_spacing=min(0.03, 0.5 / len(panels)),
    )
    hover = "".join(
        f"{plain(label)} %{{{axis}}}<br>".lstrip() for label, axis in ((ylabel, "y"), (xlabel, "x"))
    )
    for i, panel in enumerate(panels):
        fig.add_heatmap(
            z=panel,
            text=cells[i] if cells else None,
            texttemplate="%{text}" if cells else None,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            row=1,
            col=i + 1,
            name=names[i],
            hovertemplate=f"{hover}{plain(colorbar) or 'value'} %{{z:.4g}}<extra>{plain(names[i])}</extra>",
        )
    room = int((width or FULL_WIDTH) - 170) // len(panels)
    fig.update_xaxes(
        ticks(cols, n_cols, across=True, room=room),
        title_text=plain(xlabel),
        showgrid=False,
        zeroline=False,
        range=[-0.5, n_cols - 0.5],
    )
    fig.update_yaxes(
        ticks(rows, n_rows, across=False),
        showgrid=False,
        zeroline=False,
        range=[-0.5, n_rows - 0.5] if bottom_up else [n_rows - 0.5, -0.5],
    )
    fig.update_yaxes(title_text=plain(ylabel), col=1)
    fig.update_layout(coloraxis=scale)
    return finish(
        fig, title, subtitle, height=_height(n_rows), width=width, above=24 if facets else 0
    )


def token_table(
    tokens: Sequence[Sequence[str]],
    values: Values,
    *,
    title: str,
    x: Sequence[Any] | None = None,
    y: Sequence[Any] | None = None,
    xlabel: str = "position",
    ylabel: str = "layer",
    colorbar: str = "probability",
    center: float | None = None,
    bottom_up: bool = True,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw `tokens[row][col]` written into cells coloured by `values[row, col]`: the logit lens.

    Values are probabilities, entropies or ranks on a sequential scale, unless `center` is given.
    """
    array = to_array(values, "values", 2)
    return heatmap(
        array,
        title=title,
        x=x,
        y=y,
        xlabel=xlabel,
        ylabel=ylabel,
        colorbar=colorbar,
        center=center,
        text=tokens,
        bottom_up=bottom_up,
        subtitle=subtitle,
    )


def _scale(
    panels: np.ndarray, center: float | None, limit: float | None, colorbar: str
) -> dict[str, Any]:
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be positive, not {limit}")
    bar = dict(title_text=plain(colorbar))
    if center is None:
        if panels.min() < 0:
            raise ValueError(
                f"center=None draws values from 0 up, but the smallest is {panels.min():.3g}; "
                "use center=0.0"
            )
        return dict(
            colorscale=SEQUENTIAL, cmin=0.0, cmax=limit or float(panels.max()) or 1.0, colorbar=bar
        )
    reach = limit or float(np.abs(panels - center).max()) or 1.0
    return dict(colorscale=DIVERGING, cmin=center - reach, cmax=center + reach, colorbar=bar)


def _cell_text(
    text: str | Sequence[Sequence[Any]] | None, panels: np.ndarray
) -> list[list[list[str]]] | None:
    if text is None:
        return None
    if isinstance(text, str):
        return [[[format(v, text) for v in row] for row in panel] for panel in panels.tolist()]
    grid = [list(row) for row in text]
    shape = panels.shape[1:]
    if len(panels) > 1 or len(grid) != shape[0] or any(len(row) != shape[1] for row in grid):
        raise ValueError(f"text must be {shape[0]} rows of {shape[1]} strings, for one panel")
    return [[[plain(visible(cell)) for cell in row] for row in grid]]


def _width(n_cols: int, n_panels: int, rows: list[str] | None, has_text: bool) -> int | None:
    """Pixels for cells about as wide as high; None (the notebook's width) where that is too much."""
    margin = 170 + 6 * min(16, max((len(row) for row in rows or []), default=0))
    wanted = n_panels * (n_cols * (58 if has_text else 36) + 24) + margin
    return max(420, wanted) if wanted <= FULL_WIDTH else None


def _height(n_rows: int) -> int:
    return int(min(max(n_rows * 34, 110), max(480, n_rows * 16)))
