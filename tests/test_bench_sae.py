"""The benchmark of SAE training: equal batches, honest rows, peers that may be missing."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
JOB = {
    "kind": "topk", "d_in": 8, "d_sae": 32, "k": 3, "l1": 0.5, "steps": 5, "batch": 16,
    "lr": 1e-2, "threads": 1, "streamed": False, "score": True, "target": 0, "places": 1,
    "skip": False,
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("bench_sae", "peers", "sae_trainers", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import bench_sae

    return bench_sae


def test_all_trainers_see_the_same_batches(bench) -> None:
    import sae_trainers

    acts = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    stream, place, ours = sae_trainers.Given(acts), (0, 0), []
    for _ in range(9):  # more than two epochs
        batch, place = stream.batch(16, place)
        ours.append(batch)
    theirs = list(islice(sae_trainers.batches(acts, {"batch": 16}), 9))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], ours[4])  # another epoch, another order


def test_a_job_is_timed_and_scored(bench, tmp_path, monkeypatch) -> None:
    import sae_trainers

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    acts = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    save_file({"acts": acts[:64].clone(), "held_out": acts[64:].clone()}, tmp_path / "a")
    found = sae_trainers.answer(sae_trainers.ours, JOB | {"path": str(tmp_path / "a")})
    assert found["tokens"] == 80 and found["wall"] > 0
    assert 0 < found["l0"] <= 3 and found["explained_variance"] < 1


def test_a_row_compares_with_the_faster_peer_and_shows_who_is_missing(bench) -> None:
    def found(rate: float) -> dict[str, float]:
        return {"per_second": rate, "explained_variance": 0.5, "l0": 32.0}

    job = bench.Job("pocket", "topk")
    rates = {"ours": found(3000), "sae-lens": found(500), "eai-sparsify": found(1500)}
    assert bench.row("a", job, rates)["ratio"] == "2.00"
    del rates["eai-sparsify"]
    row = bench.row("a", job, rates)
    assert (row["ratio"], row["eai-sparsify, tokens/s"]) == ("6.00", "–")
    assert row["explained variance"] == "0.50 / 0.50 / –"
    assert bench.row("a", job, {"ours": found(3000)})["ratio"] == "–"


def test_a_missing_or_outdated_environment_is_named_with_the_remedy(
    bench, tmp_path, monkeypatch
) -> None:
    import peers

    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    with pytest.raises(peers.PeerError, match=r"sae-lens.*python benchmarks/peers.py"):
        peers.python_of("sae-lens")
    stamp = tmp_path / "sae-lens" / "mi-requirements.txt"
    stamp.parent.mkdir()
    stamp.write_text("sae-lens==5.0\n")
    with pytest.raises(peers.PeerError):
        peers.python_of("sae-lens")
    stamp.write_text(peers._wanted("sae-lens"))
    assert peers.python_of("sae-lens").is_relative_to(tmp_path / "sae-lens")


def test_a_trainer_that_cannot_run_is_left_out(bench, monkeypatch, capsys) -> None:
    def no_network(peer: str) -> Path:
        raise bench.PeerError("no network")

    monkeypatch.setattr(bench, "make", no_network)
    trainers = bench.start_trainers()
    assert list(trainers) == ["ours"]
    assert "eai-sparsify is left out: no network" in capsys.readouterr().err
    trainers["ours"].process.kill()
    with pytest.raises(bench.PeerError):
        trainers["ours"].ask(bench.Job("none", "topk"), Path("nowhere"))
