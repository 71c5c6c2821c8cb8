"""Plain HTML that works without scripts: coloured tokens and tables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import INK, check_labels, color_range, to_array, visible

if TYPE_CHECKING:
    from .style import Labels, Values

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
    str_tokens: Sequence[str] | Sequence[Sequence[str]], values: Values | Sequence[Values], *,
    title: str, center: float | None = 0.0, limit: float | None = None, unit: str = "",
    rows: Labels = None, subtitle: str | None = None,
) -> Html:  # fmt: skip
    """Show a text with each token on a background coloured by its value (tooltip: the number).

    Several texts, `str_tokens[text][pos]` with `values[text][pos]`, share one colour scale; `rows`
    names them. `center` and `limit` are as for `heatmap`: diverging around `center`, or sequential
    from zero with `center=None`. Spaces, tabs and line ends are visible; nothing needs a script.
    Raises ValueError for NaN/inf, no text, or values that do not fit the tokens.
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
            _token(token, f"{value:.4g} {unit}", *_color(scale, share))
            for token, value, share in zip(text, array, shares, strict=True)
        )
        body += f'<div style="line-height:2;margin:2px 0">{_row_name(name)}{"".join(spans)}</div>'
    caption = _caption(title, subtitle, "figcaption")
    return Html(f'<figure style="margin:8px 0">{caption}{body}</figure>')


def table(
    rows: Any, *, title: str | None = None, digits: int = 3, search: bool = False,
    subtitle: str | None = None,
) -> Html:  # fmt: skip
    """Show rows (list of mappings, mapping of columns, or DataFrame) as an accessible HTML table.

    Numbers are right-aligned with `digits` significant digits, what is missing is a dash, `Html`
    cells (see `link`) go in as they are, and everything else is escaped. `search` adds a box that
    filters the rows as one types. Raises ValueError for no rows or columns of unequal length.
    """
    columns, records = _records(rows)
    style = f"padding:4px 10px;border-bottom:1px solid {_LINE};vertical-align:top;text-align:"
    aligned = [style + _align([record[i] for record in records]) for i in range(len(columns))]

    def row(tag: str, values: Sequence[Any]) -> str:
        cells = zip(values, aligned, strict=True)
        return "".join(f'<{tag} style="{look}">{_cell(v, digits)}</{tag[:2]}>' for v, look in cells)

    head = row('th scope="col"', columns)
    body = "".join(f"<tr>{row('td', record)}</tr>" for record in records)
    caption = _caption(title, subtitle, "caption") if title else ""
    source = (
        f'<table style="border-collapse:collapse;margin:8px 0;font-size:13px">{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    frame = _SEARCH if search else '<div style="overflow-x:auto">TABLE</div>'
    return Html(frame.replace("TABLE", source))


def link(text: str, href: str) -> Html:
    """Return a link for a table's cell; ValueError unless `href` is http(s) or relative."""
    if ":" in href.split("/")[0] and not href.startswith(("http://", "https://")):
        raise ValueError(f"href must be an http(s) or relative address, not {href!r}")
    return Html(f'<a href="{html.escape(href)}">{html.escape(text)}</a>')


_SEARCH = """<div style="overflow-x:auto"><label>Search <input type="search" oninput="
const wanted = this.value.toLowerCase();
for (const row of this.closest('div').querySelectorAll('tbody tr'))
  row.style.display = row.textContent.toLowerCase().includes(wanted) ? '' : 'none';
"></label>TABLE</div>"""


def _token(token: str, value: str, background: str, color: str) -> str:
    tip, shown = html.escape(f"{token!r}: {value}".rstrip()), html.escape(visible(token))
    return (
        f'<span title="{tip}" style="background-color:{background};color:{color};'
        f'padding:2px 1px;border-radius:3px;margin-right:1px">{shown}</span>'
        + ("<br>" if "\n" in token else "<wbr>")
    )


def _color(scale: Sequence[tuple[float, str]], share: float) -> tuple[str, str]:
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
        f'<span style="display:inline-block;min-width:7em;opacity:0.75">{html.escape(name)}</span>'
        if name
        else ""
    )


def _caption(title: str | None, subtitle: str | None, tag: str) -> str:
    if not (title or "").strip():
        raise ValueError("title is empty; a figure's title states its finding")
    small = (
        f'<div style="font-size:12px;font-weight:400;opacity:0.75">{html.escape(subtitle)}</div>'
        if subtitle
        else ""
    )
    return (
        f'<{tag} style="text-align:left;font-size:16px;padding:4px 0;color:inherit">'
        f"{html.escape(str(title))}{small}</{tag}>"
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


def _align(values: Sequence[Any]) -> str:
    numeric = [isinstance(v, Real) and not isinstance(v, bool) for v in values if v is not None]
    return "right" if numeric and all(numeric) else "left"


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
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
