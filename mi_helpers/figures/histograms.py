"""Distributions, of which several may overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from mi_helpers.figures.style import DASHES, INK, PALETTE, finish, plain, to_array

if TYPE_CHECKING:
    from mi_helpers.figures.style import Values


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
    """Draw a distribution, or those of several samples on the same bins.

    Args:
        values: one sample of any shape, or `values[name]` for several.
        title: the finding.
        xlabel: what the values are, with their unit.
        ylabel: what the height is.
        bins: how many bins there are.
        marks: `marks[name] = value` adds a named vertical line, such as a score beside those of
            its controls.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The figure.

    Raises:
        ValueError: for no values, NaN/inf or no bins.
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
    several = len(rows) > 1
    for i, (name, row) in enumerate(rows.items()):
        color, counts = PALETTE[i % len(PALETTE)], np.histogram(row, edges)[0]
        fig.add_bar(
            x=middle, y=counts, width=width, name=plain(name), showlegend=False,
            marker=dict(color=color, line_width=0), opacity=0.3 if several else 1,
            hovertemplate=f"{plain(xlabel)} %{{x:.4g}}<br>%{{y}}<extra>{plain(name)}</extra>",
        )  # fmt: skip
        if several:  # where they overlap, the outlines still tell which is which
            fig.add_scatter(
                x=np.repeat(edges, 2), y=[0, *np.repeat(counts, 2), 0], mode="lines",
                line=dict(color=color, width=2, dash=DASHES[i % len(DASHES)]), name=plain(name),
                hoverinfo="skip",
            )  # fmt: skip
    low, high = min([edges[0], *lines.values()]), max([edges[-1], *lines.values()])
    for i, (name, at) in enumerate(lines.items()):
        side = "top left" if at > (low + high) / 2 else "top right"
        fig.add_vline(
            x=at, line=dict(color=INK, width=1.5, dash="dash"), annotation_text=plain(name),
            annotation_position=side, annotation_yshift=-15 * i,
        )  # fmt: skip
    pad = (high - low) * 0.03
    fig.update_xaxes(title_text=plain(xlabel), range=[low - pad, high + pad])
    fig.update_yaxes(title_text=plain(ylabel))
    fig.update_layout(barmode="overlay", bargap=0, showlegend=several)
    return finish(fig, title, subtitle, height=300)
