#!/usr/bin/env python3
"""A steered forward pass beside a plain one at GPT-2 small's size; writes benchmarks/README.md.

    python benchmarks/bench_steering.py            exit status 1 if steering costs over a tenth

Eight prompts of 32 tokens, random weights, one thread. Plain and steered passes take turns, so that
a busy machine disturbs both alike; ratios compare the fastest of each, in processor time. "added"
is a vector at one layer; "projected_out" removes a direction from every write to the stream, twice
in every layer, and is given for comparison only.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from checkpoints import save_tiny
from record import record
from transformers import GPT2Config, GPT2LMHeadModel

import mi_helpers as mi
from mi_helpers import steering

BATCH, N_POS, REPEATS, LIMIT = 8, 32, 7, 1.1


def gpt2_shaped(folder: Path) -> Any:
    """A random model of GPT-2 small's shape; only speed is measured on it."""
    save_tiny(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    with redirect_stdout(sys.stderr):
        return mi.load_model(str(folder), device="cpu")


def seconds(model: Any, tokens: torch.Tensor, around: AbstractContextManager[Any]) -> float:
    """Processor time of one forward pass inside a context."""
    with torch.no_grad(), around:
        start = time.process_time()
        model(tokens)
        return time.process_time() - start


def report() -> dict[str, float]:
    """Fastest seconds of each kind of pass, and the ratios to the plain one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = gpt2_shaped(Path(folder))
        direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
        vector = steering.new_vector(model, direction, 6, method="random")
        tokens = torch.randint(100, (BATCH, N_POS), generator=torch.Generator().manual_seed(1))
        kinds: dict[str, Callable[[], AbstractContextManager[Any]]] = {
            "plain": nullcontext,
            "added": lambda: steering.add(model, vector),
            "projected_out": lambda: steering.project_out(model, direction),
        }
        times = {name: [] for name in kinds}
        for _ in range(REPEATS + 1):
            for name, make in kinds.items():
                times[name].append(seconds(model, tokens, make()))
    best = {name: min(values[1:]) for name, values in times.items()}  # the first one warms up
    ratios = {f"{name}_ratio": round(best[name] / best["plain"], 3) for name in list(best)[1:]}
    return {f"{name}_s": round(value, 4) for name, value in best.items()} | ratios


NOTE = "One thread, 8 prompts of 32 tokens; fastest of each in processor time."

if __name__ == "__main__":
    results = report()
    print(json.dumps(results))
    record("steering", [results], NOTE)
    sys.exit(0 if results["added_ratio"] <= LIMIT else 1)
