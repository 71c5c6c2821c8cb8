"""The dashboard of one unit of a dictionary: where it fires, how often, what it writes."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mi_helpers.figures.html import Html, color_at, small_line, token_span
from mi_helpers.figures.style import (
    CARD,
    FONT,
    GRID,
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    SEQUENTIAL,
    to_array,
    visible,
)

if TYPE_CHECKING:
    from mi_helpers.figures.style import Values
    from mi_helpers.sae.report import Example, UnitReport

_SMALL = f"font-size:12px;color:{MUTED}"
_HEAD = f"margin:12px 0 4px;padding-bottom:2px;border-bottom:1px solid {GRID};font-size:13px"


def unit_dashboard(report: UnitReport, *, title: str, subtitle: str | None = None) -> Html:
    """Show a unit on one card: contexts on the right, all that sums it up on the left.

    Contexts are grouped as the report groups them, strongest first, on one colour scale from zero
    to the unit's largest activation, the scale of the bars; hover for the number. Nothing needs a
    script.

    Args:
        report: what there is to say about the unit, as `mi.sae.report` gathers it.
        title: the finding.
        subtitle: a small line under the title, usually the model's name.

    Returns:
        The HTML.

    Raises:
        ValueError: for a report without examples, or an empty title.
    """
    if not title.strip():
        raise ValueError("title is empty; a figure's title states its finding")
    if not report.examples:
        raise ValueError(f"unit {report.unit} has no examples: it never fires on these texts")
    left = (
        _facts(report)
        + _section("Activations where it fires", _histogram(report.active))
        + _section("What it writes to the logits, read directly", _logits(report))
        + _section("Labels of the text", _labels(report))
        + _section("Nearest units, by the cosine of their directions", _nearest(report))
    )
    return Html(
        f'<figure style="margin:8px 0;padding:12px 16px;background:{CARD};color:{INK};'
        f'border:1px solid {GRID};border-radius:6px;font-family:{FONT};font-size:13px">'
        f'<figcaption style="font-size:16px;padding-bottom:4px">{html.escape(title)}'
        f"{small_line(subtitle)}"
        '</figcaption><div style="display:flex;flex-wrap:wrap;gap:0 28px">'
        f'<div style="flex:1 1 270px;max-width:340px">{left}</div>'
        f'<div style="flex:2 1 420px;min-width:0">{_examples(report)}</div></div></figure>'
    )


def _section(name: str, body: str) -> str:
    return f'<div style="{_HEAD}">{html.escape(name)}</div>{body}' if body else ""


def _facts(report: UnitReport) -> str:
    facts = {
        "fires on": f"{report.frequency:.2%} of tokens",
        "mean": f"{float(report.active.mean()):.2f}",
        "largest": f"{report.peak:.2f}",
    }
    cells = "".join(
        f'<div style="margin-right:18px"><div style="{_SMALL}">{name}</div>{value}</div>'
        for name, value in facts.items()
    )
    return f'<div style="display:flex;margin-top:6px">{cells}</div>'


def _histogram(active: Values, bins: int = 24, width: int = 290, height: int = 70) -> str:
    """Counts of the activations in equal steps from zero, each bar in the colour of its step."""
    values = to_array(active, "active", 1)
    top = float(values.max())
    counts, _ = np.histogram(values, bins=bins, range=(0, top))
    step = width / bins
    bars = ""
    for i, count in enumerate(counts):
        tall = height * count / counts.max()
        color = color_at(SEQUENTIAL, 0.15 + 0.85 * (i + 0.5) / bins)[0]
        low, high = top * i / bins, top * (i + 1) / bins
        bars += (
            f'<rect x="{i * step:.1f}" y="{height - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}" fill="{color}"><title>{low:.2f} to {high:.2f}: {count}</title>'
            "</rect>"
        )
    ends = f'fill="{MUTED}" font-size="11" y="{height + 14}"'
    return (
        f'<svg viewBox="0 0 {width} {height + 18}" width="100%" role="img" '
        f'aria-label="histogram of {len(values)} activations up to {top:.2f}">{bars}'
        f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="{GRID}"/>'
        f'<text x="0" {ends}>0</text>'
        f'<text x="{width}" text-anchor="end" {ends}>{top:.2f}</text>'
        f'<text x="{width / 2}" text-anchor="middle" {ends}>{len(values)} tokens</text></svg>'
    )


def _logits(report: UnitReport) -> str:
    if not report.promoted:
        return ""
    largest = max(abs(value) for _, value in report.promoted + report.suppressed) or 1.0
    columns = ""
    for name, rows, color in (
        ("promotes", report.promoted, POSITIVE), ("suppresses", report.suppressed, NEGATIVE),
    ):  # fmt: skip
        lines = "".join(_logit(token, value, largest, color) for token, value in rows)
        columns += (
            f'<div style="flex:1;min-width:0"><div style="{_SMALL}">{name}</div>{lines}</div>'
        )
    return f'<div style="display:flex;gap:14px">{columns}</div>'


def _logit(token: str, value: float, largest: float, color: str) -> str:
    """A row: a bar behind the token, as long as its share of the largest, and the number."""
    share = 100 * abs(value) / largest
    return (
        '<div style="display:flex;justify-content:space-between;margin:1px 0;padding:0 4px;'
        f"background:linear-gradient(90deg,{color}33 {share:.0f}%,transparent {share:.0f}%);"
        f'white-space:nowrap;overflow:hidden"><span>{html.escape(visible(token))}</span>'
        f'<span style="{_SMALL}">{value:+.2f}</span></div>'
    )


def _labels(report: UnitReport) -> str:
    rows = [
        (name, f"{of_firing:.0%}", f"{of_label:.0%}", f"{base:.1%}")
        for name, of_firing, of_label, base in report.labels
    ]
    head = ("label", "of its firing", "of the label", "base rate")
    return _grid(head, rows) if rows else ""


def _nearest(report: UnitReport) -> str:
    rows = [(f"{unit}", f"{cosine:.2f}", says) for unit, cosine, says in report.nearest]
    return _grid(("unit", "cosine", "fires most on"), rows, left=(0, 2)) if rows else ""


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A small table; columns named in `left` are aligned left, all others right."""

    def line(tag: str, cells: Sequence[str], look: str) -> str:
        out = ""
        for i, cell in enumerate(cells):
            side = "left" if i in left else "right"
            style = f"padding:1px 10px 1px 0;text-align:{side};font-weight:400;{look}"
            out += f'<{tag} style="{style}">{html.escape(visible(cell))}</{tag}>'
        return f'<tr style="background:none">{out}</tr>'

    body = "".join(line("td", row, "") for row in rows)
    return (
        '<table style="border-collapse:collapse;font-size:13px;margin:0;color:inherit">'
        f"{line('th', head, _SMALL)}{body}</table>"
    )


def _examples(report: UnitReport) -> str:
    groups: dict[str, list[Example]] = {}
    for example in report.examples:
        groups.setdefault(example.group, []).append(example)
    return "".join(
        _section(name, "".join(_example(e, report.peak) for e in group))
        for name, group in groups.items()
    )


def _example(example: Example, peak: float) -> str:
    values = to_array(example.values, "values", 1)
    spans = "".join(
        token_span(token, f"{value:.3g}", *color_at(SEQUENTIAL, value / peak))
        for token, value in zip(example.str_tokens, values, strict=True)
    )
    return (
        '<div style="display:flex;gap:10px;margin:2px 0">'
        f'<div style="{_SMALL};min-width:2.6em;text-align:right;line-height:1.8">'
        f'{values.max():.2f}</div><div style="line-height:1.8">{spans}</div></div>'
    )
