"""`make expect` writes what a run measured, and never over what is there."""

from __future__ import annotations

import json
from pathlib import Path

import expect
import pytest

from mi_helpers.suite.claims import Claims
from mi_helpers.suite.expectations import load_claims

CLAIMS = """# Head of the file.

[[claim]]
id = "demo.up"
statement = "Up."
unit = "share"
control = "chance"
[claim.pocket]
value = [0.8, 0.9]
control = [0.1, 0.2]
source = "measured on pocket"

# A comment that stays before the second claim.
[[claim]]
id = "demo.published"
statement = "Published."
unit = "share"
control = "chance"
[claim.smollm2]
value = [0.8, 0.9]
source = "a paper"

[[claim]]
id = "demo.nats"
statement = "Costs."
unit = "share"
control = "loss"
control_unit = "nats"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/07_demo.toml").write_text(CLAIMS, "utf-8")
    monkeypatch.setattr(expect, "claims_folder", lambda: tmp_path / "claims")
    return tmp_path


def run(folder: Path, **rows: tuple[float | None, float | None]) -> dict[str, int]:
    row = [
        {"id": f"demo.{name}", "value": value, "control_value": control, "reason": 'It has "none".'}
        for name, (value, control) in rows.items()
    ]
    versions = {"torch": "2", "transformer-lens": "4"}
    report = {"notebook": "07_demo", "model": "smollm2", "versions": versions, "rows": row}
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs/07_demo.smollm2.json").write_text(json.dumps(report), "utf-8")
    return expect.expect("smollm2", folder / "runs")


def test_ranges_are_written_once_and_hold_for_the_run(folder: Path) -> None:
    path = folder / "claims/07_demo.toml"
    assert run(folder, up=(0.5, 0.1), published=(0.2, 0.1), nats=(0.5, 3.0)) == {"07_demo": 2}
    found = load_claims(path)
    up, nats = (found[f"demo.{name}"].expected["smollm2"] for name in ("up", "nats"))
    assert (up.value.low, up.value.high) == pytest.approx((0.46, 0.54), abs=1e-3)
    assert (up.control.low, up.control.high) == pytest.approx((0.06, 0.14), abs=1e-3)
    assert 0.5 in nats.value and 3.0 in nats.control and not up.absent
    assert "0.5 and 0.1 (torch 2, transformer-lens 4)" in up.source
    assert found["demo.published"].expected["smollm2"].source == "a paper"
    claims = Claims("07_demo", "smollm2", folder=folder / "claims")
    assert claims.judge("demo.up", 0.5, control=0.1).status == "holds"
    text = path.read_text("utf-8")
    assert "Head of the file." in text and "A comment that stays" in text
    assert run(folder, up=(0.7, 0.1)) == {"07_demo": 0} and path.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((0.1, 0.5), "stand the other way round"),
        ((0.5, 0.49), "hardly differ"),
        ((0.0, 0.0), "hardly differ"),
        ((None, None), 'It has "none".'),
    ],
)
def test_what_a_model_does_not_show_is_written_as_absent(folder, measured, words) -> None:
    run(folder, up=measured)
    up = load_claims(folder / "claims/07_demo.toml")["demo.up"].expected["smollm2"]
    assert words in up.absent
    if measured[0] is not None:
        line = Claims("07_demo", "smollm2", folder=folder / "claims").judge(
            "demo.up", measured[0], control=measured[1]
        )
        assert line.status == "not here"


def test_bad_input_is_named(folder: Path) -> None:
    run(folder, up=(0.5, 0.1))
    with pytest.raises(ValueError, match="not 'llama'"):
        expect.expect("llama", folder / "runs")
    with pytest.raises(ValueError, match="make run MODEL=gpt2"):
        expect.expect("gpt2", folder / "runs")
