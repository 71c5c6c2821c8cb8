"""The page of benchmark results: a measured table takes the place of the last one, and only it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "record", raising=False)
    import record

    return record.record


PAGE = "# Title\n<!-- a -->\nold\n<!-- end a -->\n<!-- b -->\nkept\n<!-- end b -->\n"


def test_a_table_takes_the_place_of_the_last(record, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    for seconds in (1.5, 2.5):
        record("a", [{"sweep": "heads", "seconds": seconds}], "One thread.", page)
    text = page.read_text()
    assert "| sweep | seconds |\n|---|---|\n| heads | 2.5 |\n<!-- end a -->" in text
    assert "CPU cores" in text and "One thread." in text
    assert "old" not in text and "1.5" not in text and "<!-- b -->\nkept\n" in text


def test_nothing_is_written_without_rows_or_marks(record, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="a: nothing was measured"):
        record("a", [], "", page)
    with pytest.raises(ValueError, match="must hold `<!-- c -->`"):
        record("c", [{"x": 1}], "", page)
    assert page.read_text() == PAGE
