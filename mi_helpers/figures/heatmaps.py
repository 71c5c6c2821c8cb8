"""Heatmaps: matrices by layer and head, layer and position, query and key; tables of tokens."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mi_helpers.figures.style import (
    FULL_WIDTH,
    check_labels,
    color_range,
    finish,
    plain,
    tick,
    ticks,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from mi_helpers.figures.style import Labels, Values

    Panels = Float[np.ndarray, "panel row col"]


LEAST_WRITTEN = 36  # pixels that a cell with a number in it needs at least


def heatmap(
    matrix: Values,
    *,
    title: str,
    x: Labels = None,
    y: Labels = None,
    xlabel: str = "",
    ylabel: str = "",
    colorbar: str = "",
    center: float | None = 0.0,
    limit: float | None = None,
    text: str | Sequence[Sequence[Any]] | None = None,
    facets: Labels = None,
    bottom_up: bool = False,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw `matrix[row, col]`, or `matrix[facet, row, col]` in panels that share a colour scale.

    Args:
        matrix: tensor, array or nested list; row 0 is at the top unless `bottom_up`.
        title: the finding; wrapped by itself.
        x: labels of the columns, such as token strings, which may repeat; else their indices.
        y: labels of the rows.
        xlabel: what the columns are.
        ylabel: what the rows are.
        colorbar: what the colour measures, with its unit.
        center: the value drawn white, blue above and red below; None draws a sequential scale
            from 0, for values that cannot be negative.
        limit: the distance from `center` (or from 0) of the strongest colour; else the largest.
        text: a number format such as ".2f", or strings[row][col], written into the cells.
        facets: names of the panels, for three axes.
        bottom_up: row 0 at the bottom, as layers read.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure. Hovering over a cell shows its labels in full and its value.

    Raises:
        ValueError: for NaN/inf, an empty matrix, or labels that do not fit its shape.
    """
    panels = to_array(matrix, "matrix", 2 if facets is None else 3)
    panels = panels[None] if facets is None else panels
    names = check_labels(facets, len(panels), "facets")
    n_rows, n_cols = panels.shape[1:]
    rows, cols = check_labels(y, n_rows, "y"), check_labels(x, n_cols, "x")
    scale, low, high = color_range(panels, center, limit)
    size = _size(panels.shape, rows, names, text is not None)
    cells = None if text is None else _cell_text(text, panels, size["cell"])
    x_axis, y_axis = ticks(cols, n_cols, room=size["cell"] * n_cols), ticks(rows, n_rows)
    labels = (plain(xlabel), plain(ylabel), plain(colorbar))
    whole = _hover_labels((cols, x_axis), (rows, y_axis), (n_rows, n_cols), *labels[:2])
    fig = _panels(panels, names, cells, size["across"], labels, whole)
    fig.update_xaxes(x_axis, range=[-0.5, n_cols - 0.5])
    fig.update_yaxes(y_axis, range=[-0.5, n_rows - 0.5][:: 1 if bottom_up else -1])
    bar = dict(title_text="<br>".join(plain(line) for line in textwrap.wrap(colorbar, 12)))
    fig.update_layout(coloraxis=dict(colorscale=scale, cmin=low, cmax=high, colorbar=bar))
    above = 24 if names else 0
    if cells and not isinstance(text, str):  # words, which on a narrow page need more than numbers
        longest = max(len(html.unescape(word)) for row in cells[0]["text"] for word in row)
        size["narrowest"] += n_cols * max(0, 6 * longest + 6 - LEAST_WRITTEN)
    return finish(
        fig,
        title,
        subtitle,
        height=size["height"],
        width=size["width"],
        above=above,
        narrowest=size["narrowest"],
    )


def token_table(
    tokens: Sequence[Sequence[str]],
    values: Values,
    *,
    title: str,
    x: Labels = None,
    y: Labels = None,
    xlabel: str = "position",
    ylabel: str = "layer",
    colorbar: str = "probability",
    center: float | None = None,
    limit: float | None = None,
    bottom_up: bool = True,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw tokens written into cells that are coloured by a value: the logit lens.

    Args:
        tokens: `tokens[row][col]`, written into the cell and shortened where it must be.
        values: `values[row, col]`: probabilities, entropies or ranks.
        title: the finding.
        x: labels of the columns, such as the prompt's tokens; else their indices.
        y: labels of the rows.
        xlabel: what the columns are.
        ylabel: what the rows are.
        colorbar: what the colour measures, with its unit.
        center: the value drawn white; None draws a sequential scale from 0.
        limit: the distance from `center` (or from 0) of the strongest colour; else the largest.
        bottom_up: row 0 at the bottom, as layers read.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure. Hovering over a cell shows its token in full.

    Raises:
        ValueError: for NaN/inf, or tokens or labels that do not fit the shape of `values`.
    """
    return heatmap(
        to_array(values, "values", 2),
        title=title,
        x=x,
        y=y,
        xlabel=xlabel,
        ylabel=ylabel,
        colorbar=colorbar,
        center=center,
        limit=limit,
        text=tokens,
        bottom_up=bottom_up,
        subtitle=subtitle,
    )


def _hover_labels(
    x: tuple[list[str] | None, dict[str, Any]],
    y: tuple[list[str] | None, dict[str, Any]],
    shape: tuple[int, int],
    xlabel: str,
    ylabel: str,
) -> list[list[str]] | None:
    """What hovering says of each cell's place, where an axis shortens or skips labels."""
    whole = [[plain(visible(label)) for label in labels or ()] for labels, _ in (x, y)]
    if all(
        not names or names == axis["ticktext"]
        for names, (_, axis) in zip(whole, (x, y), strict=True)
    ):
        return None
    cols, rows = (
        names or [str(i) for i in range(n)] for names, n in zip(whole, shape[::-1], strict=True)
    )
    return [[f"{ylabel} {row}<br>{xlabel} {col}" for col in cols] for row in rows]


def _panels(
    panels: Panels,
    names: list[str] | None,
    cells: list[dict[str, Any]] | None,
    across: int,
    labels: tuple[str, str, str],
    whole: list[list[str]] | None,
) -> go.Figure:
    """The panels, `across` in a row; tick labels at the foot of each column and the left."""
    down = math.ceil(len(panels) / across)
    fig = make_subplots(
        down, across, subplot_titles=[plain(name) for name in names] if names else None,
        horizontal_spacing=0.03 if across > 1 else 0, vertical_spacing=0.2 / down,
    )  # fmt: skip
    fig.update_annotations(font_size=13)
    xlabel, ylabel, measure = labels
    place = "%{hovertext}" if whole else f"{ylabel} %{{y}}<br>{xlabel} %{{x}}"
    hover = f"{place}<br>{measure or 'value'} %{{z:.4g}}"
    for i, panel in enumerate(panels):
        name = plain(names[i]) if names else ""
        text = cells[i] if cells else {}
        more = "<br>%{customdata}" if "customdata" in text else ""
        at = dict(row=i // across + 1, col=i % across + 1)
        fig.add_heatmap(
            z=panel, coloraxis="coloraxis", xgap=1, ygap=1, name=name,
            hovertemplate=f"{hover}{more}<extra>{name}</extra>", hovertext=whole, **text, **at,
        )  # fmt: skip
        foot = i + across >= len(panels)
        fig.update_xaxes(showticklabels=foot, title_text=xlabel if foot else "", **at)
        fig.update_yaxes(showticklabels=at["col"] == 1, **at)
    fig.update_yaxes(title_text=ylabel, col=1)
    fig.update_xaxes(matches="x", showgrid=False, zeroline=False)
    fig.update_yaxes(matches="y", showgrid=False, zeroline=False)
    return fig


def _cell_text(
    text: str | Sequence[Sequence[Any]], panels: Panels, cell: int
) -> list[dict[str, Any]]:
    """Trace settings that write into the cells of each panel, `cell` pixels wide."""
    look: dict[str, Any] = dict(texttemplate="%{text}", textfont=dict(size=10.5))
    if isinstance(text, str):
        zero = {format(-0.0, text): format(0.0, text)}  # no "-0.0" for a small negative value
        numbers = [[[format(v, text) for v in row] for row in panel] for panel in panels.tolist()]
        return [look | dict(text=[[zero.get(v, v) for v in row] for row in n]) for n in numbers]
    grid = [[visible(entry) for entry in row] for row in text]
    shape = panels.shape[1:]
    if len(panels) > 1 or len(grid) != shape[0] or any(len(row) != shape[1] for row in grid):
        raise ValueError(f"text must be {shape[0]} rows of {shape[1]} strings, for one panel")
    letters = max(3, int(cell / 5.5))
    shown = [[tick(entry, letters) for entry in row] for row in grid]
    return [look | dict(text=shown, customdata=[[plain(entry) for entry in row] for row in grid])]


def _size(
    shape: tuple[int, ...], rows: list[str] | None, names: list[str] | None, has_text: bool
) -> dict[str, Any]:
    """Pixels of a cell and of the plot, and how many panels stand side by side.

    Cells are about as wide as high; `width` is None (the notebook's) where that is too much.
    """
    n, n_rows, n_cols = shape
    margin = 150 + 7 * min(28, max((len(row) for row in rows or []), default=2))
    room = FULL_WIDTH - margin
    across = min(n, max(1, room // max(12 * n_cols, 120)))
    down = math.ceil(n / across)
    across = math.ceil(n / down)
    wanted = across * (n_cols * (58 if has_text else 34) + 24) + margin
    width = max(420, wanted) if wanted <= FULL_WIDTH else None
    cell = max(1, ((width or FULL_WIDTH) - margin - 24 * across) // (across * n_cols))
    high = 34 if n == 1 else min(34, max(18, cell))
    panel = min(max(n_rows * high, 110), max(480, n_rows * 16))
    least = max(n_cols * (LEAST_WRITTEN if has_text else 12), 7 * max(map(len, names or [""])))
    return dict(
        across=across,
        cell=cell,
        width=width,
        height=down * panel + (down - 1) * 70,
        narrowest=margin + across * (least + 24),
    )
