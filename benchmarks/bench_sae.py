#!/usr/bin/env python3
"""Training sparse autoencoders: ours beside SAELens and EleutherAI's sparsify.

    python benchmarks/bench_sae.py             ten quiet minutes; fills the README here
    python benchmarks/bench_sae.py topk relu   only these kinds; writes nothing
    python benchmarks/bench_sae.py others      transcoders and crosscoders; fills a table of its own
    MI_BENCH_THREADS=1 python benchmarks/bench_sae.py

Each trainer runs in a process of its own, in its own environment (peers.py makes them; one that
cannot be made is left out), on the same activations in the same order, at the same width, batch,
learning rate, steps and threads (two). They take turns, three times; a rate is that of the fastest
turn, setting up included. `ratio` is our rate over the faster peer's. Explained variance and L0 are
those of held-out activations after all steps. "read from pocket": each trainer also runs the model.
Rates of "others" are per second of processor, so that other programs count less. SAELens trains no
transcoder; a crosscoder of TopK is an SAE of what several layers write side by side, which all can
train.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mi_data.pocket import corpus
from peers import REQUIREMENTS, PeerError, make
from record import record
from safetensors.torch import save_file

import mi_helpers as mi
from mi_helpers import sae

TRAINERS = ("ours", "sae-lens", "eai-sparsify")
THREADS, TURNS = int(os.environ.get("MI_BENCH_THREADS", "2")), 3
KINDS = {
    "ours": sae.ARCHITECTURES,
    "sae-lens": ("topk", "batchtopk", "relu"),
    "eai-sparsify": ("topk",),
}
"""What is compared; sparsify trains nothing else."""


@dataclass(frozen=True)
class Job:
    """One training, the same for all."""

    data: str
    kind: str
    d_in: int = 192
    d_sae: int = 1536
    steps: int = 200
    batch: int = 2048
    lr: float = 2e-3
    k: int = 32
    l1: float = 2.0
    threads: int = THREADS
    streamed: bool = False
    target: int = 0
    """So many columns behind the `d_in` that are read are what is to be predicted."""
    places: int = 1
    """So many places of equal width stand side by side in `d_in`."""
    skip: bool = False


JOBS = {
    "pocket's": [Job("pocket", kind) for kind in ("topk", "batchtopk", "relu")],
    "of GPT-2 small's width": [Job("wide", "topk", 768, 6144, steps=16)],
    "read from pocket": [Job("pocket", "topk", steps=59, streamed=True)],
}
_SMALL = {"d_sae": 768, "k": 16, "steps": 400, "batch": 1024, "lr": 5e-3}
OTHERS = {
    "transcoder of an MLP": [Job("mlp", "topk", 192, target=192, **_SMALL)],
    "the same with a linear skip": [Job("mlp", "topk", 192, target=192, skip=True, **_SMALL)],
    "crosscoder of three layers": [Job("layers", "topk", 576, places=3, **_SMALL)],
}
ABLE = {"target": ("ours", "eai-sparsify")}
"""Who can do what not all can."""


def write_data(folder: Path) -> None:
    """Activations of pocket with the tokens they are from, and made-up ones of GPT-2's width."""
    model = mi.load_model("pocket", device="cpu")
    rows = corpus.rows(model.tokenizer.backend_tokenizer, 1200, 5, 0.1)
    tokens = torch.from_numpy((rows & (corpus.NOISE - 1)).astype("int64"))
    stream = sae.Activations(model, "blocks.3.hook_resid_post", tokens, buffer=tokens.numel())
    _save(folder / "pocket", stream.sample(65_536 + 8192), 8192, tokens=tokens)
    for name, places in (
        ("mlp", [("mlp_in", 3), ("mlp_out", 3)]),
        ("layers", [("resid_post", 2), ("resid_post", 3), ("resid_post", 4)]),
    ):
        stream = sae.Activations(model, places, tokens[:400], buffer=tokens[:400].numel())
        parts = stream.sample(32_768 + 4096).split(192, dim=1)
        scaled = [x * (192 / x.square().sum(1).mean()).sqrt() for x in parts]
        _save(folder / name, torch.cat(scaled, dim=1), 4096)
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(3072, 768, generator=generator))
    often = (12 / torch.arange(1, 3073)).clamp(max=0.5)
    code = torch.rand(18_432, 3072, generator=generator) < often
    acts = code * torch.randn(code.shape, generator=generator).mul(0.5).exp() @ directions
    noise = 0.05 * torch.randn(acts.shape, generator=generator)
    _save(folder / "wide", acts + noise + torch.randn(768, generator=generator), 2048)


def _save(path: Path, acts: torch.Tensor, held_out: int, **more: torch.Tensor) -> None:
    """Scaled to a mean squared length of d_in, as some trainers expect it."""
    acts = acts * (acts.shape[1] / acts.square().sum(1).mean()).sqrt()
    parts = {"acts": acts[held_out:].clone(), "held_out": acts[:held_out].clone()}
    save_file(parts | more, path.with_suffix(".safetensors"))


class Trainer:
    """A process that trains one job after another."""

    def __init__(self, name: str) -> None:
        """Raises PeerError where there is no environment."""
        python = sys.executable if name == "ours" else make(name)
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
        self.name, script = name, Path(__file__).with_name("sae_trainers.py")
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, script, name], env=environment, text=True, bufsize=1, stderr=self.errors,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, job: Job, folder: Path, **more: Any) -> dict[str, float]:
        """What came of a job. Raises PeerError with the last lines of a process that failed."""
        assert self.process.stdin and self.process.stdout
        path = str(folder / f"{job.data}.safetensors")
        try:
            print(json.dumps(asdict(job) | {"path": path} | more), file=self.process.stdin)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as err:
            self.errors.seek(0)
            raise PeerError(self.errors.read()[-500:]) from err


def start_trainers() -> dict[str, Trainer]:
    """Those whose environment is there or can be made; the others are named on stderr."""
    found = {}
    for name in TRAINERS:
        try:
            found[name] = Trainer(name)
        except PeerError as err:
            print(f"{name} is left out: {err}", file=sys.stderr)
    return found


def measure(job: Job, trainers: dict[str, Trainer], folder: Path) -> dict[str, dict[str, float]]:
    """Each trainer's fastest turn, with rates a second of clock and of processor, and scores."""
    best: dict[str, dict[str, float]] = {}
    able = {name: one for name, one in trainers.items() if job.kind in KINDS[name]}
    if job.target:
        able = {name: one for name, one in able.items() if name in ABLE["target"]}
    for one in able.values():
        one.ask(job, folder, steps=2)
    for turn in range(TURNS):
        for name, one in able.items():
            found = one.ask(job, folder, score=turn == 0)
            kept = best.setdefault(name, found)
            kept["wall"], kept["cpu"] = (min(kept[key], found[key]) for key in ("wall", "cpu"))
    for found in best.values():
        found["per_second"] = found["tokens"] / found["wall"]
        found["per_cpu_second"] = found["tokens"] / found["cpu"]
    return best


def row(
    data: str, job: Job, best: dict[str, dict[str, float]], rate: str = "per_second"
) -> dict[str, Any]:
    """A line of the table."""

    def each(key: str, form: str) -> list[str]:
        return [f"{best[name][key]:{form}}" if name in best else "–" for name in TRAINERS]

    rates = zip(TRAINERS, each(rate, ",.0f"), strict=True)
    peers = [best[name][rate] for name in best if name != "ours"]
    return {
        "activations": data,
        "kind": job.kind,
        "d_in x d_sae": f"{job.d_in} x {job.d_sae}",
        **{f"{name}, tokens/s": shown for name, shown in rates},
        "ratio": f"{best['ours'][rate] / max(peers):.2f}" if peers else "–",
        "steps": job.steps,
        "explained variance": " / ".join(each("explained_variance", ".2f")),
        "L0": " / ".join(each("l0", ".0f")),
    }


def main(kinds: list[str]) -> None:
    """Measure, print; write the table if nothing was left out."""
    rows, others = [], kinds == ["others"]
    kinds = [] if others else kinds
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name))
        trainers = start_trainers()
        for data, jobs in (OTHERS if others else JOBS).items():
            for job in jobs:
                if job.kind in (kinds or sae.ARCHITECTURES):
                    best = measure(job, trainers, Path(name))
                    print(json.dumps({"data": data, **asdict(job), "found": best}), flush=True)
                    rows.append(row(data, job, best, "per_cpu_second" if others else "per_second"))
        for one in trainers.values():
            one.process.stdin.close()  # type: ignore[union-attr]
            one.process.wait(60)
    if not kinds:
        versions = ", ".join(REQUIREMENTS[name][0].replace("==", " ") for name in TRAINERS[1:])
        note = (
            f"{versions}, torch {torch.__version__.split('+')[0]}; {THREADS} thread"
            f"{'s' * (THREADS > 1)}, batches of {job.batch:,}, k = {job.k}, fastest of {TURNS}; "
            "explained variance and L0 in the order of columns."
        )
        if others:
            note += " Tokens a second of processor; other programs were running."
        record("transcoders" if others else "sae", rows, note)


if __name__ == "__main__":
    main(sys.argv[1:])
