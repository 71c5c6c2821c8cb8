"""How claims look: one line each in a notebook, a table at its end, a table in the README."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

OWN = "the notebook's own models"
"""Of whom a claim speaks that never uses the loaded model."""

# Dark enough for white text, light enough to stand out on a dark page.
_COLOURS = {
    "holds": "#1a7f37",
    "fails": "#cf222e",
    "not here": "#0550ae",
    "no expectation": "#6e7781",
}
_CELL = "text-align:left;vertical-align:top"
_WORDY = ";min-width:9em"  # on a narrow page a table scrolls before it squeezes its sentences
_WORDS = {
    "holds": "holds",
    "fails": "FAILS",
    "not here": "not in this model",
    "no expectation": "no expectation for this model",
}


def span_text(bounds: Sequence[float | None] | None) -> str:
    """A range in words; bounds as ``Range.bounds`` gives them."""
    if bounds is None:
        return ""
    low, high = bounds
    if low is None:
        return f"at most {high:.4g}"
    if high is None:
        return f"at least {low:.4g}"
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


@dataclass(frozen=True, repr=False)
class Line:
    """One claim with its verdict.

    `status` is "holds", "fails", "not here" (then `reason` says why; the numbers are None where it
    cannot even be asked) or "no expectation". `own` marks a claim about the notebook's own models,
    which says nothing of the model that is loaded.
    """

    id: str
    statement: str
    unit: str
    value: float | None
    control_text: str
    control_unit: str
    control_value: float | None
    expected: list[float | None] | None
    expected_control: list[float | None] | None
    source: str
    status: str
    reason: str = ""
    own: bool = False

    def sentence(self) -> str:
        """The statement, told as found elsewhere where no range of this model backs it."""
        if self.status in ("holds", "fails"):
            return self.statement
        told = f"Found on other models: {self.statement}"
        return f"{told} Here: {self.reason}" if self.reason else told

    def _measured(self, number: str = "{:.4g}") -> tuple[str, str]:
        value, control = number.format(self.value), number.format(self.control_value)
        if self.expected:
            value += f" (expected {span_text(self.expected)})"
        if self.expected_control:
            control += f" (expected {span_text(self.expected_control)})"
        return value, control

    def __repr__(self) -> str:
        if self.value is None:
            return f"{_WORDS[self.status]}: {self.sentence()} <{self.id}>"
        value, control = self._measured()
        unit = "" if self.control_unit == self.unit else f", {self.control_unit}"
        source = f" [{self.source}]" if self.source else ""
        return (
            f"{_WORDS[self.status]}: {self.sentence()} {self.unit}: {value}; "
            f"control ({self.control_text}{unit}): {control}.{source} <{self.id}>"
        )

    def _repr_html_(self) -> str:
        source = f" · {escape(self.source)}" if self.source else ""
        return (
            f'<div style="border-left:4px solid {_COLOURS[self.status]};padding:2px 0 2px 10px">'
            f"{_badge(self.status)} {escape(self.sentence())}{self._numbers_html()}"
            f'<span style="opacity:0.75">{source} · <code>{escape(self.id)}</code></span></div>'
        )

    def _numbers_html(self) -> str:
        if self.value is None:
            return ""
        value, control = self._measured("<b>{:.4g}</b>")
        unit = "" if self.control_unit == self.unit else f", {escape(self.control_unit)}"
        return (
            f"<br>{escape(self.unit)}: "
            f"{value} · control ({escape(self.control_text)}{unit}): {control}"
        )


def _badge(status: str) -> str:
    return (
        f'<span style="background:{_COLOURS[status]};color:#ffffff;padding:0 6px;'
        f'border-radius:3px">{_WORDS[status]}</span>'
    )


@dataclass(frozen=True, repr=False)
class Table:
    """All claims of one run of a notebook, and the ids of those never made."""

    notebook: str
    model: str
    lines: tuple[Line, ...]
    missing: tuple[str, ...]

    def _summary(self) -> str:
        tally = Counter(line.status for line in self.lines)
        counts = [f"{word}: {tally[status]}" for status, word in _WORDS.items() if tally[status]]
        if self.missing:
            counts.append(f"NOT MADE: {len(self.missing)} ({', '.join(self.missing)})")
        if own := sum(line.own for line in self.lines):
            counts.append(f"about {OWN}, whatever is loaded: {own}")
        return f"{self.notebook} on {self.model} · {' · '.join(counts)}"

    def __repr__(self) -> str:
        return "\n".join([self._summary(), *(f"  {line!r}" for line in self.lines)])

    def _repr_html_(self) -> str:
        head = ("", "claim", "value", "expected", "control", "expected", "source")
        words = {"claim", "value", "control", "source"}
        rows = "".join(_html_row(line) for line in self.lines)
        heads = "".join(
            f'<th style="{_CELL}{_WORDY if cell in words else ""}">{cell}</th>' for cell in head
        )
        return (  # the summary stands outside of what scrolls on a narrow page: it is never cut off
            '<figure style="margin:8px 0"><figcaption style="text-align:left">'
            f'{escape(self._summary())}</figcaption><div style="overflow-x:auto">'
            f'<table aria-label="Claims" style="color:inherit"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></figure>"
        )


def _html_row(line: Line) -> str:
    cells = (
        _badge(line.status),
        f"{escape(line.sentence())}<br><code>{escape(line.id)}</code>",
        f"{_shown(line.value)}<br>{escape(line.unit)}",
        escape(span_text(line.expected)),
        f"{_shown(line.control_value)}<br>{escape(line.control_text)}",
        escape(span_text(line.expected_control)),
        escape(line.source),
    )
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _shown(number: float | None) -> str:
    return "not asked" if number is None else f"{number:.4g}"


def load_results(folder: str | Path) -> list[dict[str, Any]]:
    """The runs that ``Claims.table`` wrote to a folder, sorted by notebook and model."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no results in {folder}; run the notebooks with MI_CLAIMS_DIR set")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def results_markdown(results: str | Path | Iterable[Mapping[str, Any]]) -> str:
    """The results as a Markdown table: a row for each claim, a column for each model.

    ``results`` is a folder of JSON files or the runs read from it. A cell reads "value (control)";
    a claim that failed is marked FAILS, one without expectation is in brackets, and one that is
    not in that model says so. What is asked of the notebook's own models has a column of its own,
    with a cell for each run that found something else.
    """
    runs = load_results(results) if isinstance(results, (str, Path)) else list(results)
    rows: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for run in sorted(runs, key=lambda run: (run["notebook"], *_pocket_first(run["model"]))):
        for row in run["rows"]:
            whose = OWN if row.get("own") else run["model"]
            found = rows.setdefault((run["notebook"], row["id"]), {})
            found.setdefault(whose, []).append(row)
    models = sorted({model for found in rows.values() for model in found}, key=_pocket_first)
    head = " | ".join(["notebook", "claim", *models])
    lines = [f"| {head} |", "|---|---|" + "---|" * len(models)]
    for (notebook, _), found in rows.items():
        first = next(iter(found.values()))[0]
        text = f"{first['statement']} *{first['unit']}* (control: {first['control_text']})"
        cells = []
        for model in models:
            told = [_markdown_cell(row, first["statement"]) for row in found.get(model, [])]
            cells.append("<br>".join(dict.fromkeys(told)))
        lines.append(
            " | ".join([f"| {notebook}", *(c.replace("|", "\\|") for c in (text, *cells))])
        )
        lines[-1] += " |"
    return "\n".join(lines) + "\n"


def _pocket_first(model: str) -> tuple[bool, bool, bool, str]:
    return model != OWN, model != "pocket", model != "gpt2", model


def _markdown_cell(row: Mapping[str, Any], statement: str) -> str:
    reason = f"<br>{row['reason']}" if row.get("reason") else ""
    if row["value"] is None:
        return f"*not asked*{reason}"
    text = f"{row['value']:.3g} ({row['control_value']:.3g})"
    if row["statement"] != statement:
        text += f"<br>{row['statement']}"
    shown = {"holds": text, "fails": f"**FAILS** {text}", "not here": f"*not here:* {text}{reason}"}
    return shown.get(row["status"], f"[{text}]")
