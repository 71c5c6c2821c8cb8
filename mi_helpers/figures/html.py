"""Plain HTML that works without scripts: coloured tokens and tables."""

from __future__ import annotations

import html
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import DIVERGING, SEQUENTIAL, check_labels, to_array, visible

if TYPE_CHECKING:
    from .style import Values

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
    rows: Sequence[str] | None = None,
    subtitle: str | None = None,
) -> Html:
    """Show a text with each token on a background coloured by its value (tooltip: the number).

    Several texts, `str_tokens[text][pos]` with `values[text][pos]`, share one colour scale; `rows`
    names them. `center` and `limit` are as for `heatmap`: diverging around `center`, or sequential
    from zero with `center=None`. Spaces, tabs and line ends are visible; nothing needs a script.
    """
    if len(str_tokens) == 0:
        raise ValueError("str_tokens is empty; nothing to draw")
    single = isinstance(str_tokens[0], str)
    texts: list[list[Any]] = [list(t) for t in ([str_tokens] if single else str_tokens)]
    arrays = [
        to_array(v, "values" if single else f"values[{i}]", 1)
        for i, v in enumerate([values] if single else values)
    ]
    if len(texts) != len(arrays):
        raise ValueError(f"str_tokens has {len(texts)} texts and values has {len(arrays)}")
    for text, array in zip(texts, arrays, strict=True):
        check_labels(text, len(array), "str_tokens")
    names = check_labels(rows, len(texts), "rows") or [""] * len(texts)
    flat = np.concatenate(arrays)
    if center is None and flat.min() < 0:
        raise ValueError(
            f"center=None draws values from 0 up, but the smallest is {flat.min():.3g}; "
            "use center=0.0"
        )
    reach = limit or float(np.abs(flat - (center or 0.0)).max()) or 1.0
    body = "".join(
        f'<div style="line-height:2;margin:2px 0">{_row_name(name)}'
        + "".join(
            _token(t, float(v), center, reach, unit) for t, v in zip(text, array, strict=True)
        )
        + "</div>"
        for text, array, name in zip(texts, arrays, names, strict=True)
    )
    return Html(
        f'<figure style="margin:8px 0">{_caption(title, subtitle, "figcaption")}{body}</figure>'
    )


def table(
    rows: Any,
    *,
    title: str | None = None,
    digits: int = 3,
    search: bool = False,
    subtitle: str | None = None,
) -> Html:
    """Show rows (list of mappings, mapping of columns, or DataFrame) as an accessible HTML table.

    Numbers are right-aligned with `digits` significant digits; `Html` cells (see `link`) go in as
    they are and everything else is escaped. `search` adds a box that filters rows as one types.
    """
    columns, records = _records(rows)
    numeric = [all(_is_number(r[i]) for r in records) for i in range(len(columns))]
    align = ["right" if n else "left" for n in numeric]
    cell = f"padding:4px 10px;border-bottom:1px solid {_LINE};vertical-align:top"
    head = "".join(
        f'<th scope="col" style="{cell};text-align:{a}">{_cell(c, digits)}</th>'
        for c, a in zip(columns, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{cell};text-align:{a}">{_cell(v, digits)}</td>'
            for v, a in zip(record, align, strict=True)
        )
        + "</tr>"
        for record in records
    )
    caption = _caption(title, subtitle, "caption") if title else ""
    source = (
        f'<table style="border-collapse:collapse;margin:8px 0;font-size:13px">{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return Html(
        _SEARCH.replace("TABLE", source)
        if search
        else f'<div style="overflow-x:auto">{source}</div>'
    )


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


def _token(token: str, value: float, center: float | None, reach: float, unit: str) -> str:
    share = value / reach if center is None else 0.5 + (value - center) / reach / 2
    back, dark = _color(SEQUENTIAL if center is None else DIVERGING, share)
    tip = html.escape(f"{token!r}: {value:.4g} {unit}".rstrip())
    shown = html.escape(visible(token))
    after = "<br>" if "\n" in token else "<wbr>"
    return (
        f'<span title="{tip}" style="background-color:{back};color:{"#fff" if dark else "#222"};'
        f'padding:2px 1px;border-radius:3px;margin-right:1px">{shown}</span>{after}'
    )


def _color(scale: Sequence[tuple[float, str]], share: float) -> tuple[str, bool]:
    """Interpolate `scale` at `share` in [0, 1]; also whether the colour is dark."""
    share = min(max(share, 0.0), 1.0)
    k = max(i for i, (stop, _) in enumerate(scale[:-1]) if stop <= share)
    (a, low), (b, high) = scale[k], scale[k + 1]
    mix = (share - a) / (b - a)
    rgb = [
        round(int(low[i : i + 2], 16) * (1 - mix) + int(high[i : i + 2], 16) * mix)
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{c:02x}" for c in rgb), 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[
        2
    ] < 140


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
        return [str(c) for c in rows.columns], _filled(
            [list(r) for r in rows.itertuples(index=False)]
        )
    if isinstance(rows, Mapping):
        lengths = {str(k): len(v) for k, v in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns have unequal lengths: {lengths}")
        return list(lengths), _filled([list(r) for r in zip(*rows.values(), strict=True)])
    items: Iterable[Mapping[str, Any]] = list(rows)
    columns = list(dict.fromkeys(key for item in items for key in item))
    return columns, _filled([[item.get(c, "") for c in columns] for item in items])


def _filled(records: list[list[Any]]) -> list[list[Any]]:
    if not records:
        raise ValueError("rows is empty; nothing to show")
    return records


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, Html):
        return value.source
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, numbers.Integral)):
        return "\u2013" if math.isnan(value) else html.escape(f"{float(value):.{digits}g}")
    return html.escape(str(value))
