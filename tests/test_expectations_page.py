"""The page of a run on another model: far first, with the published set-up; nothing is hidden."""

from __future__ import annotations

import re

import expectations_page
import pytest

from mi_helpers.suite.expectations import load_suite

ROW = {
    "id": "demo.a",
    "statement": "A.",
    "unit": "nats",
    "value": 5.0,
    "control_text": "chance",
    "control_unit": "nats",
    "control_value": 0.0,
    "expected": [1.0, 3.0],
    "expected_control": [-1.0, 1.0],
    "source": "ind.prev: a demo, 2.0",
    "status": "fails",
    "reason": "",
}


@pytest.mark.parametrize(
    ("number", "bounds", "far"),
    [
        (5.0, [1.0, 3.0], 2.0),
        (0.0, [1.0, 3.0], 1.0),
        (2.0, [1.0, 3.0], 0.0),
        (3.0, [1.0, 3.0], 0.0),
        (6.0, [None, 4.0], 0.5),
        (3.0, [4.0, None], 0.25),
        (9.0, [4.0, None], 0.0),
        (2.5, [2.0, 2.0], 0.25),
        (1.0, [0.0, 0.0], 1.0),
        (None, [0.0, 1.0], 0.0),
        (7.0, None, 0.0),
    ],
)
def test_distance_in_tolerances(number, bounds, far) -> None:
    assert expectations_page.off(number, bounds) == pytest.approx(far)


def test_the_page_names_all_and_puts_the_furthest_first() -> None:
    rows = [
        ROW | {"id": "demo.near", "value": 3.5},
        ROW | {"id": "demo.far"},
        ROW | {"id": "demo.new", "status": "no expectation", "expected": None, "source": ""},
        ROW | {"id": "demo.gone", "status": "not here", "value": None, "control_value": None}
        | {"expected": None, "expected_control": None, "reason": "No <table>.", "source": ""},
        ROW | {"id": "demo.ok", "status": "holds", "value": 2.0, "source": "pred.milk: a demo"},
    ]  # fmt: skip
    claims = [{"notebook": "07_demo", "model": "gpt2", "rows": rows, "missing": []}]
    page = expectations_page.page(claims, {"numbers": "float32"}, "gpt2", "")
    assert re.findall(r"<code>(demo\.\w+)", page) == [
        "demo.far", "demo.near", "demo.new", "demo.gone", "demo.ok"
    ]  # fmt: skip
    assert "2.0 tolerances" in page and "0.5 tolerances" in page
    assert "Off: 2 of 5 claims" in page and "make expect MODEL=gpt2" in page
    assert "No &lt;table&gt;." in page and "float32" in page and "http" not in page
    assert "the published number has no start token in front, this run has; other texts" in page
    assert "one IOI prompt, next token. The same set-up as here." in page


def test_the_notebooks_own_models_are_told_apart_from_the_loaded_one() -> None:
    rows = [
        ROW | {"id": "demo.toy", "status": "holds", "value": 2.0, "own": True},
        ROW | {"id": "demo.ok", "status": "holds", "value": 2.0, "own": False},
        ROW | {"id": "demo.off", "own": True},
    ]
    claims = [{"notebook": "07_demo", "model": "gpt2", "rows": rows, "missing": []}]
    page = expectations_page.page(claims, {}, "gpt2", "")
    assert re.findall(r"<code>(demo\.\w+)", page) == ["demo.off", "demo.ok", "demo.toy"]
    assert "Hold: 1 of 3 claims" in page and "Off: 1 of 3 claims" in page
    assert "Say nothing of gpt2" in page


def test_every_published_id_of_a_source_has_its_setup() -> None:
    setups = expectations_page.tomllib.loads(expectations_page.SETUPS.read_text("utf-8"))
    known = {f"{section}.{key}" for section, keys in setups.items() for key in keys}
    named = set()
    for claims in load_suite().values():
        for claim in claims.values():
            source = claim.expected["gpt2"].source if "gpt2" in claim.expected else ""
            ids = re.match(r"((?:[a-z0-9]+\.[a-z0-9_]+(?:, _\w+| and |, )?)+.*?):", source)
            if ids and "planted" not in source:
                named |= set(re.findall(r"[a-z0-9]+\.[a-z0-9_]+", ids[1]))
    assert named == known
