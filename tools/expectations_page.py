"""The page of a run on a model whose expectations were not measured here: what holds, what is off.

`make run MODEL=gpt2` writes it to build/gallery/expectations.html. Claims that are off come first,
the furthest first, in units of their tolerance (half the width of the expected range), with what is
known of the published set-up and how this run's differs; then those without expectation, those that
are not in the model, those that hold, and those that are of the notebook's own models.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mi_helpers.suite.views import OWN, span_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SETUPS = ROOT / "data" / "published_setups.toml"
HEAD = ("claim", "value", "expected", "off by", "control", "expected", "off by", "source, set-up")
_ASK = """
import json, torch, mi_helpers as mi
model = mi.load_model()
source = mi.models.model_source(model)
print(json.dumps({
    "weights": f"{mi.model_id(model)}, from {source.where}",
    "numbers": str(next(model.parameters()).dtype).removeprefix("torch."),
    "device": str(next(model.parameters()).device),
    "start token": repr(model.tokenizer.bos_token),
    "processing": "LayerNorm folded, writing weights and unembedding centred",
}))
"""


def off(number: float | None, bounds: Sequence[float | None] | None) -> float:
    """How far a number lies outside its range, in half-widths; 0 inside, or where none is.

    A range that is open on one side, or one number, has the size of its bound as width.
    """
    if number is None or bounds is None:
        return 0.0
    low, high = (-math.inf if bounds[0] is None else bounds[0]), bounds[1]
    high = math.inf if high is None else high
    beyond = max(low - number, number - high, 0.0)
    half, bound = (high - low) / 2, low if math.isfinite(low) else high
    return beyond / (half if 0 < half < math.inf else abs(bound) or 1.0)


def setup_notes(source: str, setups: Mapping[str, Any]) -> list[str]:
    """What is known of the set-up of the published numbers that a source names."""
    notes = []
    for name in dict.fromkeys(re.findall(r"[a-z0-9_]+\.[a-z0-9_]+", source)):
        section, _, key = name.partition(".")
        known = setups.get(section, {}).get(key)
        if not known:
            continue
        differs = [
            "the published number has no start token in front, this run has"
            if known.get("bos") is False
            else "",
            "other texts than these" if known["inputs"] == "other" else "",
            "raw weights" if known.get("weights") == "raw" else "",
            "whether it had a start token and processed weights is not told"
            if not {"bos", "weights"} <= set(known)
            else "",
        ]
        differs = [text for text in differs if text]
        notes.append(
            f"{name}: {known['setup']}. "
            + (f"Differs: {'; '.join(differs)}." if differs else "The same set-up as here.")
        )
    return notes


def describe(model: str) -> dict[str, str]:
    """What the model of a run is, asked of it in a process of its own; empty if it cannot load."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK],
        env=os.environ | {"MI_MODEL": model}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {}


def _row(notebook: str, row: Mapping[str, Any], setups: Mapping[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "not asked" if value is None else f"{value:.4g}"

    def distance(value: float | None, bounds: Sequence[float | None] | None) -> str:
        far = off(value, bounds)
        return f"{far:.1f} tolerances" if far else ""

    notes = "".join(f"<br>{escape(note)}" for note in setup_notes(row["source"], setups))
    cells = (
        f'<a href="{escape(notebook)}.html">{escape(notebook)}</a> <code>{escape(row["id"])}</code>'
        f"<br>{escape(row['statement'])}",
        f"{number(row['value'])}<br>{escape(row['unit'])}",
        span_text(row["expected"]) or "nothing",
        distance(row["value"], row["expected"]),
        f"{number(row['control_value'])}<br>{escape(row['control_text'])}",
        span_text(row["expected_control"]) or "nothing",
        distance(row["control_value"], row["expected_control"]),
        escape(row.get("reason") or row["source"]) + notes,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def page(
    claims: Iterable[Mapping[str, Any]], setup: Mapping[str, str], model: str, style: str
) -> str:
    """The whole page from the claims of a run, as `Claims.table` wrote them."""
    setups = tomllib.loads(SETUPS.read_text("utf-8"))
    rows = [(run["notebook"], row) for run in claims for row in run["rows"]]

    def far(item: tuple[str, Mapping[str, Any]]) -> float:
        row = item[1]
        return max(
            off(row["value"], row["expected"]), off(row["control_value"], row["expected_control"])
        )

    def section(row: Mapping[str, Any]) -> str:
        return OWN if row.get("own") and row["status"] == "holds" else row["status"]

    sections = {
        "fails": "Off",
        "no expectation": f"Nothing expected yet: `make expect MODEL={model}` writes first ranges",
        "not here": "Not in this model",
        "holds": "Hold",
        OWN: f"Say nothing of {model}: asked of {OWN}, and hold",
    }
    known = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in setup.items())
    parts = []
    for status, title in sections.items():
        own = sorted((item for item in rows if section(item[1]) == status), key=far, reverse=True)
        if own:
            body = "".join(_row(*item, setups) for item in own)
            head = "".join(f"<th>{cell}</th>" for cell in HEAD)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            parts.append(
                f"<details{' open' if status == 'fails' else ''}><summary>{escape(title)}: "
                f"{len(own)} of {len(rows)} claims</summary>"
                f'<div style="overflow-x:auto">{table}</div></details>'
            )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>Expectations on {escape(model)}</title><style>{style}'
        f"</style><h1>What was expected of {escape(model)}, and what was found</h1>"
        "<p>A tolerance is half the width of the expected range.</p>"
        f"<dl>{known or '<dt>set-up</dt><dd>unknown</dd>'}</dl>{''.join(parts)}</html>\n"
    )
