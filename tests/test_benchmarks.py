"""The page of benchmark results: a measured table takes the place of the last one, and only it."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from other_models import save_other

from mi_helpers.models import load_model
from mi_helpers.patching import LogitDiff, OtherRun, patch_sweep

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
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_scaling")


def test_the_busiest_worker_decides(scaling):
    assert scaling.last_to_end([2, 3, 2, 3, 2], 1) == 12
    assert scaling.last_to_end([2, 3, 2, 3, 2], 2) == 7
    assert scaling.last_to_end([2, 3, 2, 3, 2], 64) == 3


def test_projections_follow_from_the_costs(scaling):
    cost = {"from s2": 0.9, "everywhere": 1.8, "read": 2e-3, "train": 1e-4, "peak": 1.0}
    half, whole, saes, seeds = scaling.projected(cost, start=10.0, slower=1.2, layers=12)
    assert half["tasks"] == whole["tasks"] == 1250 and whole["longest task"] == "14 s"
    one = 10 + 1.2 * 625 * 8 * 1.8  # two workers, so half of the tasks each
    assert whole["1 machine"] == scaling.hours(one) == "3 h"
    assert half["64 machines"] == scaling.hours(10 + 1.2 * 10 * 8 * 0.9) == "1.6 min"
    last = 10_000_000 * (2e-3 + 1e-4)
    assert saes["8 machines"] == saes["64 machines"] == scaling.hours(10 + 1.2 * last) == "7 h"
    assert seeds["tasks"] == 120 and seeds["64 machines"] == saes["8 machines"]


@pytest.mark.parametrize("sweep", ["residual stream", "heads x position"])
def test_nnsight_patches_a_llama_as_we_do(monkeypatch, tmp_path, sweep):
    """Where nnsight has its environment; on GPT-2's form the benchmark compares both itself."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench, peers = (importlib.import_module(name) for name in ("bench_patching", "peers"))
    try:
        python = peers.python_of("nnsight")
    except peers.PeerError as err:
        pytest.skip(str(err))
    model = load_model(str(save_other(tmp_path, "llama")), device="cpu")
    job = bench.two_runs(model, 10)
    site, over, _, axes = bench.SWEEPS[sweep]
    sizes = {"layer": model.cfg.n_layers, "pos": bench.N_POS, "head_index": model.cfg.n_heads}
    cells = list(itertools.product(*(range(0, sizes[axis], 2) for axis in axes)))
    theirs, _ = bench.by_nnsight(python, model, job, cells, sweep)
    ours = patch_sweep(
        model, job["base"], OtherRun(job["source"]), LogitDiff(job["answers"]), site=site, over=over
    ).mean()
    ours = torch.stack([ours[cell] for cell in cells])
    assert theirs.std() > 1e-3
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_scripts_use_no_name_that_is_not_there():
    """What the linter leaves out for the sake of shapes in annotations, which scripts lack."""
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    done = subprocess.run(
        [*lint, ROOT / "benchmarks", ROOT / "tools"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
