"""Write first expectations for a model from recorded runs, for claims that have none for it.

    python tools/expect.py MODEL [--from build/gallery/claims]

A range is the measured number and a margin on both sides: a tenth of the distance between value and
control, so that the two never meet. Where value and control stand the other way round than on
pocket, or lie closer than a tenth of the larger, the finding is written as absent. Each entry says
that one run measured it; ranges that are there already, published ones above all, are never
touched. What is written is a start: read it, and widen it by more draws.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_helpers.files import write_whole
from mi_helpers.suite.claims import load_results
from mi_helpers.suite.expectations import MODELS, Declaration, claims_folder, load_claims

ROOT = Path(__file__).resolve().parents[1]
MARGIN = 0.1


def _rounded(low: float, high: float) -> list[float]:
    """The range to three digits of its width, rounded outwards."""
    if low == high:
        return [low, high]
    digits = 2 - math.floor(math.log10(high - low))
    scale = 10.0**digits
    return [math.floor(low * scale) / scale, math.ceil(high * scale) / scale]


def _direction(claim: Declaration) -> float:
    """1 where pocket's value stands above its control, -1 below, 0 where it cannot be told."""
    pocket = claim.of("pocket")
    if pocket is None or pocket.control is None or pocket.value is None:
        return 0.0
    return float(pocket.value.low > pocket.control.high) - float(
        pocket.value.high < pocket.control.low
    )


def entry(claim: Declaration, row: Mapping[str, Any], model: str, versions: str) -> str:
    """The lines of `[claim.MODEL]` for one recorded row."""
    if row["value"] is None:
        return f"[claim.{model}]\nabsent = {_text(row['reason'])}\n"
    value, control = row["value"], row["control_value"]
    apart, larger = value - control, max(abs(value), abs(control))
    comparable = claim.control_unit == claim.unit
    margin = MARGIN * abs(apart) if comparable else MARGIN * abs(value)
    beside = MARGIN * abs(apart) if comparable else MARGIN * abs(control)
    lines = [f"[claim.{model}]"]
    if comparable and abs(apart) <= MARGIN * larger:
        margin = beside = MARGIN * larger
        lines.append('absent = "Value and control hardly differ."')
    elif comparable and apart * _direction(claim) < 0:
        lines.append('absent = "Value and control stand the other way round."')
    lines += [
        f"value = {_rounded(value - margin, value + margin)}",
        f"control = {_rounded(control - beside, control + beside)}",
        f'source = "measured by one run on {model}: {value:.3g} and {control:.3g} ({versions})"',
    ]
    return "\n".join(lines) + "\n"


def _text(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'


def with_entries(text: str, entries: Mapping[str, str]) -> str:
    """A claims file with each entry put at the end of its claim."""
    head, *blocks = text.split("[[claim]]\n")
    for i, block in enumerate(blocks):
        claim_id = block.split('id = "', 1)[1].split('"', 1)[0]
        if claim_id in entries:
            own = block.rstrip("\n")
            blocks[i] = own + "\n" + entries[claim_id] + block[len(own) + 1 :]
    return "[[claim]]\n".join([head, *blocks])


def expect(model: str, results: Path) -> dict[str, int]:
    """Write the entries that are missing; returns how many in each claims file.

    Raises ValueError for a model that claims files do not know, or that was not run.
    """
    if model not in MODELS:
        raise ValueError(f"claims files know {', '.join(MODELS)}, not {model!r}")
    runs = [run for run in load_results(results) if run["model"] == model]
    if not runs:
        raise ValueError(f"no run on {model} in {results}: `make run MODEL={model}` first")
    written = {}
    for run in runs:
        path = claims_folder() / f"{run['notebook']}.toml"
        declared = load_claims(path)
        used = run["versions"]
        versions = f"torch {used['torch']}, transformer-lens {used['transformer-lens']}"
        entries = {
            row["id"]: entry(declared[row["id"]], row, model, versions)
            for row in run["rows"]
            if row["id"] in declared and not declared[row["id"]].of(model)
        }
        if entries:
            with write_whole(path) as part:
                part.write_text(with_entries(path.read_text("utf-8"), entries), encoding="utf-8")
            load_claims(path)
        written[path.stem] = len(entries)
    return written


def main() -> int:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--from", dest="results", default=ROOT / "build/gallery/claims", type=Path)
    asked = parser.parse_args()
    try:
        written = expect(asked.model, asked.results)
    except (ValueError, FileNotFoundError) as err:
        print(err)
        return 1
    for notebook, count in written.items():
        print(f"data/claims/{notebook}.toml: {count} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
