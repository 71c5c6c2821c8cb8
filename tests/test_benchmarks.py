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


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers

    return peers


def test_a_peer_that_cannot_be_installed_is_left_out(peers, tmp_path, capfd):
    missing = str(tmp_path / "no-such-package")
    assert peers.environment("peer", missing, folder=tmp_path) is None
    assert "peer could not be installed" in capfd.readouterr().err
    assert not (tmp_path / "peer" / "made-from.txt").exists()


def test_an_environment_is_made_once_and_anew_for_other_requirements(peers, tmp_path, monkeypatch):
    made = []

    def create(home, **options):
        made.append(home)
        packages = peers.sysconfig.get_path(
            "purelib", vars={"base": str(home), "platbase": str(home)}
        )
        Path(packages).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(peers.venv, "create", create)
    monkeypatch.setattr(
        peers.subprocess, "run", lambda command: peers.subprocess.CompletedProcess(command, 0)
    )
    first = peers.environment("peer", "thing==1", folder=tmp_path)
    assert first == peers.environment("peer", "thing==1", folder=tmp_path)
    assert first.is_relative_to(tmp_path / "peer") and len(made) == 1
    peers.environment("peer", "thing==2", folder=tmp_path)
    assert len(made) == 2
    shared = next((tmp_path / "peer").rglob("shared.pth")).read_text().strip()
    assert Path(shared, "torch").is_dir()
