"""One look for every figure: fonts, colours, titles, tick labels, and the checks on what is drawn.

Figures sit on their own white card, so they read the same in light and dark themes. Blue means
more or positive, red means less or negative, white means zero, everywhere in the suite.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    Values = Float[np.ndarray, "..."] | Float[torch.Tensor, "..."] | Sequence[Any]

INK, MUTED, GRID, CARD = "#222222", "#5f6368", "#e4e6eb", "#ffffff"
POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5f6368")  # Okabe-Ito
DIVERGING = (
    (0.0, "#8f1023"),
    (0.25, "#dd7a62"),
    (0.5, "#ffffff"),
    (0.75, "#6ea6cd"),
    (1.0, "#174a86"),
)
SEQUENTIAL = (
    (0.0, "#ffffff"),
    (0.25, "#c6dbef"),
    (0.5, "#6baed6"),
    (0.75, "#2a7ab9"),
    (1.0, "#083573"),
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FULL_WIDTH = 760  # pixels: the width that titles and labels are laid out for
MAX_TICKS = 40
_SHOWN = {"\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5", "\u200b": "\u2423", "\xa0": "\u237d"}


def to_array(values: Values, name: str, ndim: int | None = None) -> Float[np.ndarray, ...]:
    """Return `values` (tensor, array or nested list) as float64, checked for what cannot be drawn.

    Raises ValueError for an empty input, a wrong number of axes, or NaN/inf (naming the index).
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name} must be numbers in a regular array: {err}") from err
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} axes, not shape {array.shape}; select or average first"
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); nothing to draw")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"{name} is {array[index]} at index {index if len(index) != 1 else index[0]} "
            f"({len(bad)} of {array.size} values are not finite); mask or drop them first"
        )
    return array


def check_labels(labels: Sequence[Any] | None, count: int, name: str) -> list[str] | None:
    """Return `labels` as strings; ValueError when their number is not `count`."""
    if labels is None:
        return None
    if isinstance(labels, str):
        raise ValueError(f"{name} must be a sequence of labels, not the single string {labels!r}")
    texts = [str(label) for label in labels]
    if len(texts) != count:
        raise ValueError(f"{name} has {len(texts)} labels for {count} values: {texts[:6]}")
    return texts


def visible(token: object) -> str:
    r"""Show a token with its outer spaces as a middle dot and its control characters as signs."""
    text = str(token)
    inner = text.strip(" ")
    if not inner:
        return "\u00b7" * len(text) if text else "\u2205"
    left, right = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    inner = "".join(_SHOWN.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in inner)
    return "\u00b7" * left + inner + "\u00b7" * right


def plain(text: object) -> str:
    """Escape `text` for plotly, whose labels are a small HTML in which `<` starts a tag."""
    return html.escape(str(text), quote=False)


def tick(label: object, limit: int = 16) -> str:
    """Return an axis label: visible spaces, at most `limit` characters, escaped for plotly."""
    text = visible(label)
    return plain(text if len(text) <= limit else text[: limit - 1] + "\u2026")


def ticks(
    labels: list[str] | None, count: int, *, across: bool, room: int = FULL_WIDTH
) -> dict[str, Any]:
    """Return plotly axis settings that put `labels` (or the index) at 0, 1, ..., count - 1.

    Positions are indices, so repeated tokens stay apart. Beyond 40 labels every k-th is shown.
    `across` is true for a horizontal axis `room` pixels long, whose labels turn when too wide.
    """
    step = max(1, math.ceil(count / MAX_TICKS))
    if labels is None:
        step = max(1, math.ceil(count / 20))
        return dict(tickmode="linear", tick0=0, dtick=step)
    shown = [tick(label) for label in labels[::step]]
    axis: dict[str, Any] = dict(
        tickmode="array", tickvals=list(range(0, count, step)), ticktext=shown
    )
    if across:
        widest = max(len(html.unescape(text)) for text in shown)
        axis["tickangle"] = (
            0 if (widest + 1.5) * 7 * len(shown) <= room else -45 if len(shown) <= 24 else -90
        )
    return axis


def wrap_title(title: str, subtitle: str | None = None, width: int = FULL_WIDTH) -> tuple[str, int]:
    """Return the title as plotly text, wrapped to `width` pixels, and its height in pixels."""
    if not str(title).strip():
        raise ValueError("title is empty; a figure's title states its finding")
    lines = [
        part
        for line in str(title).splitlines()
        for part in textwrap.wrap(line, max(24, int(width / 8.6)))
    ]
    text, height = "<br>".join(plain(line) for line in lines), 21 * len(lines)
    if subtitle:
        small = textwrap.wrap(str(subtitle), max(30, int(width / 6.6)))
        inner = "<br>".join(plain(line) for line in small)
        text += f'<br><span style="font-size:12px;color:{MUTED}">{inner}</span>'
        height += 18 * len(small)
    return text, height


def template() -> go.layout.Template:
    """Return the suite's plotly template."""
    axis = dict(
        gridcolor=GRID,
        linecolor="#9aa0a6",
        zerolinecolor="#9aa0a6",
        zerolinewidth=1,
        automargin=True,
        title=dict(standoff=10, font=dict(size=13)),
        tickfont=dict(size=12),
        ticks="",
    )
    bar = dict(thickness=14, outlinewidth=0, tickfont=dict(size=11), title=dict(side="right"))
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=13, color=INK),
            paper_bgcolor=CARD,
            plot_bgcolor=CARD,
            colorway=list(PALETTE),
            xaxis=axis,
            yaxis=axis,
            coloraxis=dict(colorbar=bar),
            title=dict(
                font=dict(size=16),
                x=0,
                xref="container",
                xanchor="left",
                y=1,
                yanchor="top",
                pad=dict(l=16, t=14),
            ),
            legend=dict(bgcolor="rgba(255,255,255,0.8)", font=dict(size=12)),
            hoverlabel=dict(font=dict(family=FONT, size=12), align="left"),
            margin=dict(l=64, r=24, b=56, t=64),
        )
    )


def finish(
    fig: go.Figure,
    title: str,
    subtitle: str | None,
    *,
    height: int,
    width: int | None = None,
    above: int = 0,
) -> go.Figure:
    """Apply template, title and size; `height` is that of the plot, `above` room for facet names.

    Without `width` the figure fills the notebook's width.
    """
    text, top = wrap_title(title, subtitle, min(width or FULL_WIDTH, FULL_WIDTH) - 32)
    top += 26 + above
    fig.update_layout(
        template=template(),
        title_text=text,
        autosize=width is None,
        width=width,
        height=height + top + 56,
        margin_t=top,
    )
    return fig
