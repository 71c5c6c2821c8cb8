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
    Labels = Sequence[Any] | None

INK, MUTED, LINE, GRID, CARD = "#222222", "#5f6368", "#9aa0a6", "#e4e6eb", "#ffffff"
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
NO_BUTTONS = ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"]  # the first uploads
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


def color_range(
    values: Float[np.ndarray, ...], center: float | None, limit: float | None
) -> tuple[tuple[tuple[float, str], ...], float, float]:
    """Return the colour scale of `values` and the values at its two ends.

    Diverging and symmetric about `center`, or sequential from 0 when that is None; `limit` is the
    distance from `center` or 0 to the end, by default the largest there is.
    """
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be positive, not {limit}")
    if center is None and values.min() < 0:
        raise ValueError(
            f"center=None draws values from 0 up, but the smallest is {values.min():.3g}; "
            "use center=0.0"
        )
    middle = center or 0.0
    reach = float(limit or np.abs(values - middle).max()) or 1.0
    if center is None:
        return SEQUENTIAL, 0.0, reach
    return DIVERGING, middle - reach, middle + reach


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


def ticks(labels: list[str] | None, count: int, *, room: int | None = None) -> dict[str, Any]:
    """Return plotly axis settings that put `labels` (or the index) at 0, 1, ..., count - 1.

    Positions are indices, so repeated tokens stay apart. `room` is the length in pixels of a
    horizontal axis, whose labels turn when they would touch; None is for a vertical axis. Where
    there is no room for all, and beyond 40, only every k-th is shown.
    """
    if labels is None:
        step = max(1, math.ceil(count / (20 if room is None else min(20, room // 24))))
        return dict(tickmode="linear", tick0=0, dtick=step)
    step = max(1, math.ceil(count / (MAX_TICKS if room is None else min(MAX_TICKS, room // 11))))
    shown = [tick(label, 28 if room is None else 16) for label in labels[::step]]
    places = list(range(0, count, step))
    axis: dict[str, Any] = dict(tickmode="array", tickvals=places, ticktext=shown)
    if room is not None:
        each = room / len(shown)
        widest = max(len(html.unescape(text)) for text in shown) * 7 + 8
        axis["tickangle"] = 0 if widest <= each else -45 if each >= 22 else -90
    return axis


def wrap_title(title: str, subtitle: str | None, width: int) -> tuple[str, int, int]:
    """Return the title as plotly text wrapped to `width` pixels, its height and its line count."""
    if not str(title).strip():
        raise ValueError("title is empty; a figure's title states its finding")
    wide, small = max(24, int(width / 8.6)), max(30, int(width / 6.6))
    lines = [part for line in str(title).splitlines() for part in textwrap.wrap(line, wide)]
    notes = textwrap.wrap(str(subtitle or ""), small)
    text = "<br>".join(plain(line) for line in lines)
    if notes:
        inner = "<br>".join(plain(line) for line in notes)
        text += f'<br><span style="font-size:12px;color:{MUTED}">{inner}</span>'
    return text, 21 * len(lines) + 19 * len(notes), len(lines) + len(notes)


def template() -> go.layout.Template:
    """Return the suite's plotly template."""
    axis = dict(
        gridcolor=GRID, linecolor=LINE, zerolinecolor=LINE, zerolinewidth=1, automargin=True,
        title=dict(standoff=10, font=dict(size=13)), tickfont=dict(size=12), ticks="",
    )  # fmt: skip
    bar = dict(thickness=14, outlinewidth=0, tickfont=dict(size=11), title=dict(side="top"))
    heading = dict(x=0, y=1, xref="container", xanchor="left", yanchor="top", font=dict(size=16))
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=13, color=INK), paper_bgcolor=CARD, plot_bgcolor=CARD,
            colorway=list(PALETTE), xaxis=axis, yaxis=axis, coloraxis=dict(colorbar=bar),
            title=heading, legend=dict(bgcolor="rgba(255,255,255,0.8)", font=dict(size=12)),
            hoverlabel=dict(font=dict(family=FONT, size=12), align="left"),
            margin=dict(l=64, r=24, b=44), modebar=dict(remove=NO_BUTTONS),
        )
    )  # fmt: skip


def finish(
    fig: go.Figure, title: str, subtitle: str | None, *, height: int, width: int | None = None,
    above: int = 0,
) -> go.Figure:  # fmt: skip
    """Apply template, title and size; `height` is that of the plot, `above` room for facet names.

    Without `width` the figure fills the notebook's width.
    """
    text, tall, lines = wrap_title(title, subtitle, min(width or FULL_WIDTH, FULL_WIDTH) - 32)
    # plotly lifts a text of several lines by most of a line above where it puts a single one.
    pad = dict(l=16, t=14 if lines == 1 else 25)
    below = _label_height(fig)
    fig.update_layout(
        template=template(), title=dict(text=text, pad=pad), autosize=width is None, width=width,
        height=height + tall + above + below + 84, margin_t=tall + above + 30,
    )  # fmt: skip
    return fig


def _label_height(fig: go.Figure) -> int:
    """Pixels that turned labels of the horizontal axis need below it, beyond those of one line."""
    axis = fig.layout.xaxis
    widest = max((len(html.unescape(text)) for text in axis.ticktext or ()), default=0)
    return int(7 * widest * abs(math.sin(math.radians(axis.tickangle or 0))))


def label_shifts(xs: Values, ys: Values, names: Sequence[str], chosen: Sequence[int]) -> list[int]:
    """For each chosen point, how many pixels above it its name goes so that names stay apart."""
    width, height, letter, line = 560, 260, 7, 15  # of the plot and of its text, about, in pixels
    px = (xs - np.min(xs)) / (np.ptp(xs) or 1) * width
    py = (ys - np.min(ys)) / (np.ptp(ys) or 1) * height
    taken: list[tuple[float, float, float]] = []
    shifts = []
    for k in chosen:
        half = len(names[k]) * letter / 2
        free = (
            shift for shift in (13, -13, 27, -27, 41, -41)
            if all(abs(px[k] - x) > half + other or abs(py[k] + shift - y) > line
                   for x, y, other in taken)
        )  # fmt: skip
        shifts.append(next(free, 13))
        taken.append((px[k], py[k] + shifts[-1], half))
    return shifts
