"""Plain HTML that works without scripts: coloured tokens and tables."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from mi_helpers.figures.style import INK, check_labels, color_range, to_array, visible

if TYPE_CHECKING:
    from mi_helpers.figures.style import Labels, Values

_LINE = "rgba(128,128,128,0.35)"


class Html:
    """A piece of self-contained HTML that Jupyter renders; `str()` gives the source."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"Html({len(self.source)} characters)"

    def _repr_html_(self) -> str:
        return self.source


def tokens_coloured(
    str_tokens: Sequence[str] | Sequence[Sequence[str]],
    values: Values | Sequence[Values],
    *,
    title: str,
    center: float | None = 0.0,
    limit: float | None = None,
    unit: str = "",
    rows: Labels = None,
    subtitle: str | None = None,
) -> Html:
    """Show a text with each token on a background coloured by its value, and the scale below.

    Spaces, tabs and line ends are visible; hovering over a token shows its number; nothing needs a
    script.

    Args:
        str_tokens: `str_tokens[pos]`, or `str_tokens[text][pos]` for several texts.
        values: a value for each token, in the same form; all texts share one colour scale.
        title: the finding.
        center: the value drawn white; None draws a sequential scale from 0.
        limit: the distance from `center` (or from 0) of the strongest colour; else the largest.
        unit: what a value is, for the scale and the tooltips.
        rows: names of the texts.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The HTML.

    Raises:
        ValueError: for NaN/inf, no text, or values that do not fit the tokens.
    """
    if len(str_tokens) == 0:
        raise ValueError("str_tokens is empty; nothing to draw")
    single = isinstance(str_tokens[0], str)
    texts: list[Any] = [str_tokens] if single else list(str_tokens)
    given = [values] if single else list(values)
    if len(texts) != len(given):
        raise ValueError(f"str_tokens has {len(texts)} texts and values has {len(given)}")
    names = check_labels(rows, len(texts), "rows") or [""] * len(texts)
    arrays = [
        to_array(value, "values" if single else f"values[{i}]", 1) for i, value in enumerate(given)
    ]
    scale, low, high = color_range(np.concatenate(arrays), center, limit)
    body = ""
    for text, array, name in zip(texts, arrays, names, strict=True):
        check_labels(text, len(array), "str_tokens")
        shares = (array - low) / (high - low)
        spans = (
            token_span(token, f"{value:.4g} {unit}", *color_at(scale, share))
            for token, value, share in zip(text, array, shares, strict=True)
        )
        body += f'<div style="line-height:2;margin:2px 0">{_row_name(name)}{"".join(spans)}</div>'
    caption = _caption(title, subtitle)
    legend = _color_bar(scale, low, high, center, unit)
    return Html(f'<figure style="margin:8px 0">{caption}{body}{legend}</figure>')


def table(
    rows: Any,
    *,
    title: str | None = None,
    digits: int = 3,
    search: bool = False,
    subtitle: str | None = None,
) -> Html:
    """Show an accessible table, which scrolls under its title where the page is narrow.

    Args:
        rows: a list of mappings, a mapping of columns, or a DataFrame. What is missing becomes a
            dash, `Html` cells (see `link`) go in as they are, everything else is escaped.
        title: the finding; None leaves title and subtitle out.
        digits: how many significant digits a number has; numbers stand on the right. Where all
            numbers of a column are whole they have no decimals.
        search: adds a box that filters the rows as one types.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The HTML.

    Raises:
        ValueError: for no rows, or columns of unequal length.
    """
    columns, records = _records(rows)
    records = _without_needless_decimals(records)
    style = f"padding:4px 10px;border-bottom:1px solid {_LINE};vertical-align:top;text-align:"
    aligned = [style + _align(values) + _least(values) for values in zip(*records, strict=True)]

    def row(tag: str, values: Sequence[Any]) -> str:
        cells = zip(values, aligned, strict=True)
        return "".join(f'<{tag} style="{look}">{_cell(v, digits)}</{tag[:2]}>' for v, look in cells)

    head = row('th scope="col"', columns)
    body = "".join(f"<tr>{row('td', record)}</tr>" for record in records)
    name = f' aria-label="{html.escape(title)}"' if title else ""
    source = (
        f'<table{name} style="border-collapse:collapse;margin:8px 0;font-size:13px">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    frame = (_SEARCH if search else '<div style="overflow-x:auto">TABLE</div>').replace(
        "TABLE", source
    )
    if not title:
        return Html(frame)
    caption = _caption(title, subtitle)  # outside of what scrolls: never cut off
    return Html(f'<figure style="margin:8px 0">{caption}{frame}</figure>')


def link(text: str, href: str) -> Html:
    """Return a link for a table's cell.

    Args:
        text: what is shown.
        href: an http(s) or a relative address.

    Raises:
        ValueError: for any other address.
    """
    if ":" in href.split("/")[0] and not href.startswith(("http://", "https://")):
        raise ValueError(f"href must be an http(s) or relative address, not {href!r}")
    return Html(f'<a href="{html.escape(href)}">{html.escape(text)}</a>')


_SEARCH = """<div style="overflow-x:auto"><label>Search <input type="search" oninput="
const wanted = this.value.toLowerCase(), box = this.closest('div');
let hits = 0;
for (const row of box.querySelectorAll('tbody tr')) {
  const hit = row.textContent.toLowerCase().includes(wanted);
  row.style.display = hit ? '' : 'none';
  hits += hit;
}
box.querySelector('output').textContent = hits ? '' : 'No row has these words.';
"></label> <output></output>TABLE</div>"""


def token_span(token: str, value: str, background: str, color: str) -> str:
    """Return one token of a running text on its background, with `value` as its tooltip."""
    tip, shown = html.escape(f"{token!r}: {value}".rstrip()), html.escape(visible(token))
    return (
        f'<span title="{tip}" style="background-color:{background};color:{color};'
        f'padding:2px 1px;border-radius:3px;margin-right:1px">{shown}</span>'
        + ("<br>" if "\n" in token else "<wbr>")
    )


def _color_bar(
    scale: Sequence[tuple[float, str]], low: float, high: float, center: float | None, unit: str
) -> str:
    """The scale in a few colours between its ends, of spans alone, which no sanitizer removes."""
    boxes = "".join(
        f'<span style="background-color:{color_at(scale, i / 10)[0]};padding:0 6px">&nbsp;</span>'
        for i in range(11)
    )
    white = "" if center is None else f" (white: {_number(center, 3)})"
    said = f"{_number(high, 3)} {html.escape(unit)}".rstrip() + white
    return (
        f'<div style="font-size:12px;margin-top:6px">{_number(low, 3)} '
        f'<span style="border:1px solid {_LINE}">{boxes}</span> {said}</div>'
    )


def color_at(scale: Sequence[tuple[float, str]], share: float) -> tuple[str, str]:
    """Background at `share` in [0, 1] of the scale, and a colour to write on it."""
    share = min(max(float(share), 0.0), 1.0)
    k = max(i for i, (stop, _) in enumerate(scale[:-1]) if stop <= share)
    (a, low), (b, high) = scale[k], scale[k + 1]
    mix = (share - a) / (b - a)
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    red, green, blue = (round(c * (1 - mix) + d * mix) for c, d in pairs)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if dark else INK


def _row_name(name: str) -> str:
    return (
        f'<span style="display:inline-block;min-width:7em;padding-right:0.6em;'
        f'opacity:0.75">{html.escape(name)}</span>'
        if name
        else ""
    )


def small_line(subtitle: str | None) -> str:
    """Return the line under a title; nothing for None."""
    if not subtitle:
        return ""
    look = "font-size:12px;font-weight:400;opacity:0.75"
    return f'<div style="{look}">{html.escape(subtitle)}</div>'


def _caption(title: str | None, subtitle: str | None) -> str:
    if not (title or "").strip():
        raise ValueError("title is empty; a figure's title states its finding")
    return (
        '<figcaption style="text-align:left;font-size:16px;padding:4px 0;color:inherit">'
        f"{html.escape(str(title))}{small_line(subtitle)}</figcaption>"
    )


def _records(rows: Any) -> tuple[list[str], list[list[Any]]]:
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        columns, records = list(rows.columns), [list(r) for r in rows.itertuples(index=False)]
    elif isinstance(rows, Mapping):
        lengths = {str(k): len(v) for k, v in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns have unequal lengths: {lengths}")
        columns, records = list(rows), [list(r) for r in zip(*rows.values(), strict=True)]
    else:
        items = list(rows)
        columns = list(dict.fromkeys(key for item in items for key in item))
        records = [[item.get(column) for column in columns] for item in items]
    if not records:
        raise ValueError("rows is empty; nothing to show")
    return [str(column) for column in columns], [[_plain(v) for v in row] for row in records]


def _plain(value: Any) -> Any:
    """A number out of a tensor or array that holds one; None for a missing value."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _without_needless_decimals(records: list[list[Any]]) -> list[list[Any]]:
    """The same with whole numbers in each column that holds no other: 2, not 2.00."""

    def whole(value: Any) -> bool:
        return not isinstance(value, float) or (abs(value) < 1e6 and value == int(value))

    sound = [all(whole(value) for value in column) for column in zip(*records, strict=True)]
    return [
        [int(v) if isinstance(v, float) and sound[i] else v for i, v in enumerate(row)]
        for row in records
    ]


def _align(values: Sequence[Any]) -> str:
    numeric = [_is_number(v) for v in values if not (v is None or str(v) in ("-", "\u2013"))]
    return "right" if numeric and all(numeric) else "left"


def _is_number(value: Any) -> bool:
    """Whether a cell is a number, or one that was written out, as 12.5% and -3 are."""
    if isinstance(value, str):
        return re.fullmatch(r"[-+\u2212]?\d[\d.,]*(?:e[-+]?\d+|%)?", value) is not None
    return isinstance(value, Real) and not isinstance(value, bool)


def _least(values: Sequence[Any]) -> str:
    """The width that a column of words needs on a narrow page, where it would be squeezed first."""
    longest = max((len(v) for v in values if isinstance(v, str)), default=0)
    return f";min-width:{min(longest, 28) * 0.5:.0f}em" if longest > 12 else ""


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, Html):
        return value.source
    if value is None:
        return "\u2013"
    if isinstance(value, float) and math.isfinite(value):
        return _number(value, digits)
    return html.escape(str(value))


def _number(value: float, digits: int) -> str:
    """`value` to `digits` significant digits; very small and large ones with an exponent."""
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}" if value else "0"
    rounded = abs(float(f"{value:.{digits - 1}e}"))  # so that 0.9996 has the decimals of 1.00
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(rounded)))}f}"
