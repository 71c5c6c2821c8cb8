"""Directions in the plane, drawn as arrows from the origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mi_helpers.figures.style import MUTED, PALETTE, finish, plain, to_array


def vectors(
    directions: Any,
    *,
    title: str,
    facets: Sequence[Any] | None = None,
    labels: Sequence[Any] | None = None,
    subtitle: str | None = None,
) -> go.Figure:
    """Draw arrows from the origin, on one scale in all panels, before a circle of radius 1.

    Args:
        directions: `[n, 2]`, or `[panel, n, 2]`.
        title: the finding.
        facets: a name above each panel.
        labels: names of the arrows, which keep their colour from panel to panel.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for NaN/inf, another number of columns, or names that do not fit.
    """
    array = to_array(directions, "directions")
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] != 2:
        raise ValueError(f"directions must be [n, 2] or [panel, n, 2], got {list(array.shape)}")
    names = [str(label) for label in labels or range(array.shape[1])]
    titles = [plain(str(facet)) for facet in facets] if facets is not None else None
    if len(names) != array.shape[1] or (titles is not None and len(titles) != len(array)):
        raise ValueError(f"{array.shape[1]} labels and {len(array)} facets are needed")
    across = min(len(array), 4)
    down = -(-len(array) // across)
    fig = make_subplots(down, across, subplot_titles=titles, horizontal_spacing=0.02)
    fig.update_annotations(font_size=13)
    reach = 1.15 * max(1.0, float(np.linalg.norm(array, axis=-1).max()))
    angle = np.linspace(0, 2 * np.pi, 73)
    for panel, rows in enumerate(array):
        place = dict(row=panel // across + 1, col=panel % across + 1)
        circle = dict(color=MUTED, width=1, dash="dot")
        fig.add_scatter(
            x=np.cos(angle), y=np.sin(angle), mode="lines", line=circle, hoverinfo="skip",
            showlegend=False, **place,
        )  # fmt: skip
        for j, (x, y) in enumerate(rows):
            color = PALETTE[j % len(PALETTE)]
            head = dict(size=[0, 7], color=color)
            fig.add_scatter(
                x=[0, x], y=[0, y], mode="lines+markers", line=dict(color=color, width=2.5),
                marker=head, name=plain(names[j]), legendgroup=names[j], showlegend=panel == 0,
                **place,
            )  # fmt: skip
    axis = dict(range=[-reach, reach], showticklabels=False, showgrid=False, zeroline=False)
    fig.update_xaxes(**axis)
    fig.update_yaxes(**axis, scaleanchor="x", scaleratio=1)
    for panel in range(len(array)):
        suffix = "" if panel == 0 else str(panel + 1)
        fig.layout[f"yaxis{suffix}"].scaleanchor = f"x{suffix}"
    above, narrowest = 24 if titles else 0, 150 * across + 40
    return finish(fig, title, subtitle, height=190 * down, above=above, narrowest=narrowest)
