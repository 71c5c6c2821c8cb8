#!/usr/bin/env python3
"""Patching sweeps beside transformer_lens.patching and nnsight: the same numbers, in less time.

    python benchmarks/bench_patching.py            all models, minutes; writes benchmarks/README.md
    python benchmarks/bench_patching.py pocket     only the embedded model; writes nothing
    MI_BENCH_THREADS=2 python benchmarks/bench_patching.py

Eight prompts of 15 tokens. "from_s2": the two runs differ from position 10 on, as IOI prompts with
swapped names do; "everywhere": from position 1 on, all that follows BOS. The library's time for the
head x position sweep is that of a sample of its cells, scaled (each costs one whole forward pass).
`ratio` is the library's wall time over ours, checks and base runs included; `cpu_ratio` the same of
processor time, which a busy machine disturbs less. nnsight, in an environment of its own, patches a
sample of the cells, on the weights as they are on disk. `of_peak` is our rate of floating-point
operations in matrix products over the best that a large product reaches in the same run.
`operations` is how many times as many of them the library's full passes do (by count of matrix
products): the ratio to expect where both are equally efficient. The exit status is 1 where a
sweep is off the library's by more than 1e-5 (of its largest value, above 1), or off nnsight's by
more than 1e-4.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pandas as pd
import torch
from checkpoints import save_tiny
from peers import PeerError, make
from record import record
from safetensors.torch import save
from transformer_lens import patching as library
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import mi_helpers as mi
from mi_helpers.engine import FixedLinear, FusedModel
from mi_helpers.patching import LogitDiff, OtherRun, patch_sweep

BATCH, N_POS, SAMPLE, PEER_SAMPLE = 8, 15, 96, 36
MODELS = ["pocket", "gpt2-shaped", "smollm2-shaped"]
PAIRS = {"from_s2": 10, "everywhere": 1}
SWEEPS = {
    "residual stream": ("resid_pre", ("layer", "position"), "resid_pre", ("layer", "pos")),
    "heads": ("z", ("layer", "head"), "z", ("layer", "head_index")),
    "heads x position": ("z", ("layer", "position", "head"), "z", ("layer", "pos", "head_index")),
}
SETTERS = {
    ("layer", "pos"): library.layer_pos_patch_setter,
    ("layer", "head_index"): library.layer_head_vector_patch_setter,
    ("layer", "pos", "head_index"): library.layer_pos_head_vector_patch_setter,
}


SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2-shaped": lambda: GPT2LMHeadModel(GPT2Config()),
    "smollm2-shaped": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        )
    ),
}  # fmt: skip


def load(name: str, folder: Path) -> Any:
    """A model by its name, or a random one of a shape: speed and exactness are measured on it."""
    if name not in SHAPES:
        return mi.load_model(name, device="cpu")
    torch.manual_seed(0)
    save_tiny(folder / name)
    SHAPES[name]().save_pretrained(folder / name)
    return mi.load_model(str(folder / name), device="cpu")


def clocked(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call gives, its wall time and its processor time, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def counting() -> Iterator[dict[str, float]]:
    """Count the floating-point operations of our matrix products."""
    count = {"flop": 0.0}
    linear, attend = FixedLinear.__call__, FusedModel.attend

    def counted_linear(self: FixedLinear, x: torch.Tensor) -> torch.Tensor:
        count["flop"] += 2.0 * x.numel() * self.weight.shape[0]
        return linear(self, x)

    def counted_attend(
        self: FusedModel, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        count["flop"] += 4.0 * q.numel() * k.shape[-3]
        return attend(self, q, k, v)

    FixedLinear.__call__, FusedModel.attend = counted_linear, counted_attend  # type: ignore
    try:
        yield count
    finally:
        FixedLinear.__call__, FusedModel.attend = linear, attend  # type: ignore


def full_pass(model: Any) -> float:
    """Floating-point operations of the matrix products of one forward pass of all prompts."""
    cfg = model.cfg
    shared = (cfg.n_key_value_heads or cfg.n_heads) / cfg.n_heads
    matrices = 3 if cfg.gated_mlp else 2
    weights = cfg.n_layers * cfg.d_model * ((2 + 2 * shared) * cfg.d_model + matrices * cfg.d_mlp)
    attention = cfg.n_layers * 2 * N_POS * cfg.d_model
    return 2.0 * BATCH * N_POS * (weights + attention + cfg.d_model * cfg.d_vocab)


def matmul_peak() -> float:
    """The best rate of a large matrix product here, in floating-point operations a second."""
    rate = 0.0
    weight = FixedLinear(torch.randn(3072, 768), None)
    with torch.no_grad():
        for rows in (512, 2048):
            x = torch.randn(rows, 768)
            weight(x)
            seconds = min(clocked(lambda x=x: weight(x))[1] for _ in range(8))
            rate = max(rate, 2.0 * x.numel() * 3072 / seconds)
    return rate


def by_library(
    model: Any, base: torch.Tensor, source: torch.Tensor, metric: LogitDiff, sweep: str
) -> tuple[list[tuple[int, ...]], torch.Tensor, int]:
    """The cells that were run, the mean metric of each, and how many there are in all."""
    _, _, name, axes = SWEEPS[sweep]
    sizes = {"layer": model.cfg.n_layers, "pos": N_POS, "head_index": model.cfg.n_heads}
    cells = list(product(*(range(sizes[axis]) for axis in axes)))
    n_cells = len(cells)
    if n_cells > 2 * SAMPLE and len(axes) == 3:
        picks = torch.randperm(n_cells, generator=torch.Generator().manual_seed(0))[:SAMPLE]
        cells = [cells[int(i)] for i in picks]
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        values = library.generic_activation_patch(
            model,
            base,
            cache,
            lambda logits: metric(logits).mean(),
            SETTERS[axes],
            name,
            index_df=pd.DataFrame(cells, columns=list(axes)),
        )
    return cells, values, n_cells


def by_nnsight(
    python: Path, model: Any, job: dict[str, torch.Tensor], cells: list[tuple[int, ...]], sweep: str
) -> tuple[torch.Tensor, float]:
    """The mean metric of each cell, and the seconds that a cell takes."""
    site, over, _, _ = SWEEPS[sweep]
    places = [dict(zip(over, cell, strict=True)) for cell in cells]
    axes = ("layer", "position", "head")
    job = job | {
        "cells": torch.tensor([[place.get(axis, -1) for axis in axes] for place in places]),
        "per_head": torch.tensor(site == "z"),
        "threads": torch.tensor(torch.get_num_threads()),
    }
    script = Path(__file__).with_name("nnsight_patching.py")
    folder = mi.models.model_source(model).directory
    done = subprocess.run([python, script, folder], input=save(job), stdout=-1, check=True)
    found = json.loads(done.stdout)
    return torch.tensor(found["values"]), found["seconds"] / len(cells)


def two_runs(model: Any, first: int) -> dict[str, torch.Tensor]:
    """Tokens of two runs that differ from position `first` on, and two answers to compare."""
    generator = torch.Generator().manual_seed(1)
    size, d_vocab = (BATCH, N_POS), model.cfg.d_vocab
    base = torch.randint(0, d_vocab, size, generator=generator)
    source = torch.randint(0, d_vocab, size, generator=generator)
    source[:, :first] = base[:, :first]
    answers = torch.randint(0, d_vocab - 1, (BATCH, 1), generator=generator)
    return {"base": base, "source": source, "answers": torch.cat([answers, answers + 1], dim=1)}


def measure(model: Any, sweep: str, first: int, peak: float, nnsight: Path | None) -> dict:
    """One sweep by all, in turn: ours, the library's, nnsight's, ours."""
    job = two_runs(model, first)
    base, source, metric = job["base"], job["source"], LogitDiff(job["answers"])
    site, over, _, _ = SWEEPS[sweep]

    def ours() -> Any:
        return patch_sweep(model, base, OtherRun(source), metric, site=site, over=over)

    before = clocked(ours)
    (cells, values, n_cells), wall, cpu = clocked(
        lambda: by_library(model, base, source, metric, sweep)
    )
    scale, largest = n_cells / len(cells), max(1.0, float(values.abs().max()))
    found: dict[str, Any] = {"cells": n_cells, "library_s": round(wall * scale, 1)}
    if nnsight is not None:
        some = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:PEER_SAMPLE]
        theirs, each = by_nnsight(nnsight, model, job, [cells[i] for i in some.tolist()], sweep)
        found |= {"nnsight_s": round(each * n_cells, 1)}
        found |= {"nnsight_difference": float((theirs - values[some]).abs().max())}
    with counting() as count:
        after = clocked(ours)
    result, our_wall, our_cpu = min(before, after, key=lambda run: run[1])
    apart = float((torch.stack([result.mean()[cell] for cell in cells]) - values).abs().max())
    return found | {
        "ours_s": round(our_wall, 2),
        "ratio": round(wall * scale / our_wall, 1),
        "cpu_ratio": round(cpu * scale / min(before[2], after[2]), 1),
        "nnsight_ratio": round(found["nnsight_s"] / our_wall, 1) if nnsight else "-",
        "of_peak": round(count["flop"] / our_wall / peak, 2),
        "operations": round(n_cells * full_pass(model) / count["flop"], 1),
        "max_difference": apart,
        "exact": max(apart, found.get("nnsight_difference", 0.0) / 10) <= 1e-5 * largest,
        "spread": float(values.std()),
    }


def report(names: list[str]) -> dict[str, Any]:
    """Every sweep on every model."""
    threads = int(os.environ.get("MI_BENCH_THREADS", "1"))
    torch.set_num_threads(threads)
    try:
        nnsight: Path | None = make("nnsight")
    except PeerError as err:
        print(f"nnsight is left out: {err}", file=sys.stderr)
        nnsight = None
    results: dict[str, Any] = {"threads": threads, "batch": BATCH, "models": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as null,
        redirect_stdout(null),
        redirect_stderr(null),
    ):
        peak = matmul_peak()
        results["peak_gflops"] = round(peak / 1e9)
        for name in names:
            model = load(name, Path(folder))
            results["models"][name] = {
                f"{sweep}, {pair}": measure(model, sweep, first, peak, nnsight)
                for sweep in SWEEPS
                for pair, first in PAIRS.items()
            }
    return results


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The results as rows of a table."""
    return [
        {
            "model": name,
            "sweep": sweep.replace("_", " "),
            "cells": found["cells"],
            "ours, s": found["ours_s"],
            "library, s": found["library_s"],
            "ratio": found["ratio"],
            "nnsight's": found["nnsight_ratio"],
            "of peak": found["of_peak"],
            "operations": found["operations"],
            "max difference": f"{found['max_difference']:.1e}",
        }
        for name, sweeps in results["models"].items()
        for sweep, found in sweeps.items()
    ]


def main(names: list[str]) -> int:
    """Measure, print, write the table if nothing was left out; 1 if any result was not the same."""
    results = report(names or MODELS)
    print(json.dumps(results, indent=1))
    if not names:
        note = (
            f"{results['threads']} thread, {BATCH} prompts of {N_POS} tokens, matrix products at "
            f"{results['peak_gflops']} GFLOP/s at best."
        )
        record("patching", rows(results), note)
    sweeps = (found for model in results["models"].values() for found in model.values())
    return 0 if all(found["exact"] for found in sweeps) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
