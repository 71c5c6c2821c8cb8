"""How claims look: one line each in a notebook, a table at its end, a table in the README."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

# Dark enough for white text, light enough to stand out on a dark page.
_COLOURS = {"holds": "#1a7f37", "fails": "#cf222e", "no expectation": "#6e7781"}
_CELL = "text-align:left;vertical-align:top"
_WORDS = {"holds": "holds", "fails": "FAILS", "no expectation": "no expectation for this model"}


def _span(bounds: Sequence[float | None] | None) -> str:
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
    """One claim with its verdict; ``status`` is "holds", "fails" or "no expectation"."""

    id: str
    statement: str
    unit: str
    value: float
    control_text: str
    control_unit: str
    control_value: float
    expected: list[float | None] | None
    expected_control: list[float | None] | None
    source: str
    status: str

    def _measured(self, number: str = "{:.4g}") -> tuple[str, str]:
        value, control = number.format(self.value), number.format(self.control_value)
        if self.expected:
            value += f" (expected {_span(self.expected)})"
        if self.expected_control:
            control += f" (expected {_span(self.expected_control)})"
        return value, control

    def __repr__(self) -> str:
        value, control = self._measured()
        unit = "" if self.control_unit == self.unit else f", {self.control_unit}"
        source = f" [{self.source}]" if self.source else ""
        return (
            f"{_WORDS[self.status]}: {self.statement} {self.unit}: {value}; "
            f"control ({self.control_text}{unit}): {control}.{source} <{self.id}>"
        )

    def _repr_html_(self) -> str:
        value, control = self._measured("<b>{:.4g}</b>")
        unit = "" if self.control_unit == self.unit else f", {escape(self.control_unit)}"
        source = f" · {escape(self.source)}" if self.source else ""
        return (
            f'<div style="border-left:4px solid {_COLOURS[self.status]};padding:2px 0 2px 10px">'
            f"{_badge(self.status)} {escape(self.statement)}<br>{escape(self.unit)}: "
            f"{value} · control ({escape(self.control_text)}{unit}): {control}"
            f'<span style="opacity:0.75">{source} · <code>{escape(self.id)}</code></span></div>'
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
        return f"{self.notebook} on {self.model} · {' · '.join(counts)}"

    def __repr__(self) -> str:
        return "\n".join([self._summary(), *(f"  {line!r}" for line in self.lines)])

    def _repr_html_(self) -> str:
        head = ("", "claim", "value", "expected", "control", "expected", "source")
        rows = "".join(_html_row(line) for line in self.lines)
        return (
            f'<table style="color:inherit"><caption>{escape(self._summary())}</caption>'
            + "<thead><tr>"
            + "".join(f'<th style="{_CELL}">{cell}</th>' for cell in head)
            + f"</tr></thead><tbody>{rows}</tbody></table>"
        )


def _html_row(line: Line) -> str:
    cells = (
        _badge(line.status),
        f"{escape(line.statement)}<br><code>{escape(line.id)}</code>",
        f"{line.value:.4g}<br>{escape(line.unit)}",
        escape(_span(line.expected)),
        f"{line.control_value:.4g}<br>{escape(line.control_text)}",
        escape(_span(line.expected_control)),
        escape(line.source),
    )
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def load_results(folder: str | Path) -> list[dict[str, Any]]:
    """The runs that ``Claims.table`` wrote to a folder, sorted by notebook and model."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no results in {folder}; run the notebooks with MI_CLAIMS_DIR set")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def results_markdown(results: str | Path | Iterable[Mapping[str, Any]]) -> str:
    """The results as a Markdown table: a row for each claim, a column for each model.

    ``results`` is a folder of JSON files or the runs read from it. A cell reads "value (control)";
    a claim that failed is marked FAILS, one without expectation is in brackets.
    """
    runs = load_results(results) if isinstance(results, (str, Path)) else list(results)
    models = sorted({run["model"] for run in runs}, key=lambda m: (m != "pocket", m != "gpt2", m))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for run in sorted(runs, key=lambda run: run["notebook"]):
        for row in run["rows"]:
            statement = f"{row['statement']} *{row['unit']}* (control: {row['control_text']})"
            rows.setdefault((run["notebook"], statement), {})[run["model"]] = _markdown_cell(row)
    head = " | ".join(["notebook", "claim", *models])
    lines = [f"| {head} |", "|---|---|" + "---|" * len(models)]
    for (notebook, statement), cells in rows.items():
        text = statement.replace("|", "\\|")
        measured = " | ".join(cells.get(model, "") for model in models)
        lines.append(f"| {notebook} | {text} | {measured} |")
    return "\n".join(lines) + "\n"


def _markdown_cell(row: Mapping[str, Any]) -> str:
    text = f"{row['value']:.3g} ({row['control_value']:.3g})"
    return {"holds": text, "fails": f"**FAILS** {text}"}.get(row["status"], f"[{text}]")
