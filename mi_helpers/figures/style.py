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
# What tells series apart beside their colours, on paper and for those who see few colours.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon")
PATTERNS = ("", "/", ".", "\\", "x", "-", "+")
DASHES = ("solid", "dash", "dot")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
NO_BUTTONS = [  # the first uploads; the others do what dragging and a double click do
    "sendChartToCloud", "lasso2d", "select2d", "autoScale2d", "zoom2d", "zoomIn2d", "zoomOut2d",
]  # fmt: skip
FULL_WIDTH = 760  # pixels: the width that titles and labels are laid out for
NARROWEST = 270  # pixels: what a figure needs at least, unless it says more
TOOLBAR = 30  # pixels above the title that are kept free for plotly's buttons
AXIS_TITLE = 40  # letters in a line of a horizontal axis's title, which a telephone has room for
KEY, QUERY = "key (source)", "query (destination)"  # the axes of an attention pattern
_SHOWN = {"\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5", "\u200b": "\u2423", "\xa0": "\u237d"}


def _off_device(values: Any) -> Any:
    """The same with every tensor in it an array; NumPy cannot read those on a GPU."""
    if hasattr(values, "detach"):
        return values.detach().cpu().double().numpy()
    return [_off_device(v) for v in values] if isinstance(values, list | tuple) else values


def to_array(values: Values, name: str, ndim: int | None = None) -> Float[np.ndarray, ...]:
    """Return `values` (tensor, array or nested list) as float64, checked for what cannot be drawn.

    Args:
        values: what is to be drawn.
        name: what an error calls it.
        ndim: how many axes it must have; None for any number.

    Raises:
        ValueError: for an empty input, a wrong number of axes, or NaN/inf (naming the index).
    """
    try:
        array = np.asarray(_off_device(values), dtype=np.float64)
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
    """Return `labels` as strings.

    Raises:
        ValueError: when their number is not `count`, or they are one string.
    """
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

    Args:
        values: what is to be drawn.
        center: the scale is diverging and symmetric about it; sequential from 0 when it is None.
        limit: the distance from `center` (or from 0) to the end; by default the largest there is.

    Raises:
        ValueError: for a limit that is not positive, or negative values without a `center`, if
            they are more than rounding (a millionth of the largest).
    """
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be positive, not {limit}")
    if center is None and values.min() < -1e-6 * np.abs(values).max():
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


def tick(label: object, limit: int = 16, lines: int = 1) -> str:
    """Return an axis label: visible spaces, `lines` of `limit` characters, escaped for plotly."""
    text = visible(label)
    parts = textwrap.wrap(text, limit) if lines > 1 else [text]
    if len(parts) > lines or len(parts[-1]) > limit:
        last = " ".join(parts[lines - 1 :])
        parts = [*parts[: lines - 1], last[: limit - 1] + "\u2026"]
    return "<br>".join(plain(part) for part in parts)


def ticks(
    labels: list[str] | None, count: int, *, room: int | None = None, lines: int = 1
) -> dict[str, Any]:
    """Return plotly axis settings that put `labels` (or the index) at 0, 1, ..., count - 1.

    Positions are indices, so repeated tokens stay apart.

    Args:
        labels: the labels; None numbers the places. Of many numbers plotly shows as many as the
            page has room for on a horizontal axis, and a vertical one at most 20.
        count: how many places there are.
        room: the length in pixels of a horizontal axis, whose labels turn when they would touch,
            and of which only every k-th is shown where even turned ones would. None is for a
            vertical axis, which shows all.
        lines: into how many lines a long label may be broken.
    """
    if labels is None and room is not None and count > 12:
        return dict(tickmode="auto")
    if labels is None:
        return dict(tickmode="linear", tick0=0, dtick=max(1, math.ceil(count / 20)))
    places = list(range(count)) if room is None else _shown_places(labels, room)
    shown = [tick(labels[place], 28 if room is None else 16, lines) for place in places]
    axis: dict[str, Any] = dict(tickmode="array", tickvals=places, ticktext=shown)
    if room is not None:
        each = room / len(shown)
        widest = max(len(html.unescape(text)) for text in shown) * 7 + 8
        if widest <= each:  # level, but on a page that is narrower than `room` they turn
            axis |= dict(autotickangles=[0, -45, -90], automargin=True)
        else:
            axis["tickangle"] = -45 if each >= 22 else -90
    return axis


def _shown_places(labels: list[str], room: int) -> list[int]:
    """Which of `labels` are shown on a horizontal axis: all, or every k-th where there is no room.

    Of many numbers that count up by one, round ones, as few as plotly would show of its own.
    """
    count = len(labels)
    if count > 12 and all(label.isdecimal() for label in labels):
        first = int(labels[0])
        if [int(label) for label in labels] == list(range(first, first + count)):
            round_ones = (k * 10**power for power in range(9) for k in (1, 2, 5))
            step = next(k for k in round_ones if k * 8 >= count)
            return [place for place in range(count) if (first + place) % step == 0]
    return list(range(0, count, max(1, math.ceil(count / max(1, room // 11)))))


def wrap_title(title: str, subtitle: str | None, width: int) -> tuple[str, int, int]:
    """Return the title as plotly text wrapped to `width` pixels, its height and its line count.

    Raises:
        ValueError: for an empty title.
    """
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
    # Below everything, in as many rows as the page's width needs: never over a curve.
    legend = dict(
        orientation="h", x=0, xanchor="left", yref="container", y=0, yanchor="bottom",
        font=dict(size=12),
    )  # fmt: skip
    return go.layout.Template(
        layout=dict(
            font=dict(family=FONT, size=13, color=INK), paper_bgcolor=CARD, plot_bgcolor=CARD,
            colorway=list(PALETTE), xaxis=axis, yaxis=axis, coloraxis=dict(colorbar=bar),
            title=heading, legend=legend,
            hoverlabel=dict(font=dict(family=FONT, size=12), align="left"),
            margin=dict(l=64, r=24, b=44), modebar=dict(remove=NO_BUTTONS),
        )
    )  # fmt: skip


def finish(
    fig: go.Figure,
    title: str,
    subtitle: str | None,
    *,
    height: int,
    width: int | None = None,
    above: int = 0,
    narrowest: int = NARROWEST,
    axis_title: int = AXIS_TITLE,
) -> go.Figure:
    """Apply template, title and size to `fig`, and return it.

    Args:
        fig: the figure, with everything drawn.
        title: the finding.
        subtitle: the small line under it.
        height: of the plot alone, in pixels.
        width: of the figure, in pixels; None fills the notebook's width.
        above: room for the names of panels, in pixels.
        narrowest: the width in pixels below which an exported page scrolls the figure instead of
            squeezing it further. It travels in `layout.meta`, with the words of the title.
        axis_title: letters after which the title of a horizontal axis goes on in a new line; that
            of a vertical one does so by the height.

    Raises:
        ValueError: for an empty title.
    """
    text, tall, lines = wrap_title(title, subtitle, min(width or FULL_WIDTH, FULL_WIDTH) - 32)
    # plotly lifts a text of several lines by most of a line above where it puts a single one.
    pad = dict(l=16, t=TOOLBAR + (0 if lines == 1 else 11))
    heading = tall + 8
    below = _label_height(fig) + _legend_height(fig, width or FULL_WIDTH)
    below += _wrap_axis_titles(fig, axis_title, max(16, height // 10))
    fig.update_layout(
        template=template(), title=dict(text=text, pad=pad), autosize=width is None, width=width,
        height=height + heading + above + below + TOOLBAR + 54,
        margin_t=heading + above + TOOLBAR + 6,
        meta=dict(title=title, subtitle=subtitle, heading=heading, narrowest=narrowest),
    )  # fmt: skip
    return fig


def _wrap_axis_titles(fig: go.Figure, across: int, up: int) -> int:
    """Break long titles of axes, and return the pixels that further lines need below.

    `across` and `up` are the letters in a line of a horizontal and of a vertical axis. Lines of a
    vertical one are about equally long, since plotly centres them.
    """
    most = 1

    def wrap(axis: Any, letters: int, even: bool) -> int:
        text = html.unescape(axis.title.text or "")
        lines = textwrap.wrap(text, letters)
        if even and len(lines) > 1:
            tries = (textwrap.wrap(text, fewer) for fewer in range(letters // 2, letters + 1))
            lines = next(found for found in tries if len(found) == len(lines))
        if lines:
            axis.title.text = "<br>".join(plain(line) for line in lines)
        return len(lines)

    def wrap_x(axis: Any) -> None:
        nonlocal most
        most = max(most, wrap(axis, across, even=False))

    def wrap_y(axis: Any) -> None:
        wrap(axis, up, even=True)

    fig.for_each_xaxis(wrap_x)
    fig.for_each_yaxis(wrap_y)
    return 17 * (most - 1)


def _legend_height(fig: go.Figure, width: int) -> int:
    """Pixels that the legend needs below everything else, at `width`."""
    names = [len(html.unescape(t.name or "")) for t in fig.data if t.showlegend is not False]
    if fig.layout.showlegend is False or not names or fig.data[0].type == "heatmap":
        return 0
    if fig.layout.showlegend is None and len(fig.data) < 2:
        return 0
    entry, room = 7 * max(names) + 45, width - 60
    if sum(7 * name + 45 for name in names) <= room:
        return 32
    return 13 + 19 * math.ceil(len(names) / max(1, room // entry))


def _label_height(fig: go.Figure) -> int:
    """Pixels that turned labels of the horizontal axis need below it, beyond those of one line."""
    axis = fig.layout.xaxis
    widest = max((len(html.unescape(text)) for text in axis.ticktext or ()), default=0)
    return int(7 * widest * abs(math.sin(math.radians(axis.tickangle or 0))))


def label_shifts(xs: Values, ys: Values, names: Sequence[str], chosen: Sequence[int]) -> list[int]:
    """For each chosen point, how many pixels above it its name goes so that names stay apart.

    They do on a telephone: on a wider page, points and names are further apart.
    """
    width, height, letter, line = 200, 260, 8, 15  # of the plot and of its text, about, in pixels
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
