"""What more workers bring, and from it what larger work would take: writes docs/scaling.md.

On pocket: 24 sweeps over all heads, on one and on two workers. At GPT-2 small's shape (a random
checkpoint), in a worker: what a prompt costs in such a sweep, a token in reading the residual
stream, and a token in training a sparse autoencoder. All are processor seconds of one thread, which
a busy machine disturbs little; wall time and the speed-up need two free cores. The projections are
arithmetic on these numbers (`projected`), not measurements.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import torch
from bench_patching import load, two_runs
from joblib.externals.loky.backend.reduction import dumps
from record import record

import mi_helpers as mi
import mi_helpers.sae as S
from mi_helpers.metrics import LogitDiff
from mi_helpers.patching import OtherRun, patch_sweep
from mi_helpers.spread import spread

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
TASKS = range(24)
PROMPTS, A_TASK, TOKENS, SEEDS = 10_000, 8, 10_000_000, 10
MACHINES, CORES = (1, 8, 64), 2
CONTEXT, WIDTH, BATCH, STEPS = 128, 6144, 2048, 8


def clocked(run: Callable[[], Any]) -> float:
    """The processor seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_gib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def sweep(model: Any, seed: int) -> tuple[Any, float, float]:
    """Recovery of each head on eight prompts, its processor seconds, and the peak memory."""
    pairs = mi.prompts.ioi(model, A_TASK, seed=seed)
    what, judge = OtherRun(pairs.clean_tokens), LogitDiff(pairs.answer_tokens)
    start = time.process_time()
    done = patch_sweep(
        model, pairs.corrupt_tokens, what, judge, site="z", over=("layer", "head")
    )  # fmt: skip
    return done.recovery(), time.process_time() - start, peak_gib()


def costs(model: Any, _: int) -> dict[str, float]:
    """What a prompt and a token cost at a model's size, in processor seconds, and the memory."""
    found = {}
    for name, first in (("from s2", 10), ("everywhere", 1)):
        runs = two_runs(model, first)
        base, what, judge = runs["base"], OtherRun(runs["source"]), LogitDiff(runs["answers"])
        heads = partial(patch_sweep, model, base, what, judge, site="z", over=("layer", "head"))
        found[name] = clocked(heads) / len(base)
    tokens = torch.randint(5, 400, (16, CONTEXT), generator=torch.Generator().manual_seed(0))
    last = ("resid_post", model.cfg.n_layers - 1)
    stream = S.Activations(model, last, tokens, keep=torch.ones_like(tokens, dtype=torch.bool))
    found["read"] = clocked(lambda: stream.chunk(0)) / tokens.numel()
    vectors = S.Vectors(torch.randn(2 * BATCH, model.cfg.d_model))
    run = S.start(vectors, S.Recipe(kind="topk", d_sae=WIDTH, k=32, steps=STEPS + 2, batch=BATCH))
    S.train(run, 2, progress=False)
    trained = clocked(lambda: S.train(run, progress=False))
    return found | {"train": trained / (STEPS * BATCH), "peak": peak_gib()}


def last_to_end(tasks: Sequence[float], workers: int) -> float:
    """When the last of some tasks ends, the longest begun first, each on the first free worker."""
    busy = [0.0] * workers
    for task in sorted(tasks, reverse=True):
        first = busy.index(min(busy))
        busy[first] += task
    return max(busy)


def hours(seconds: float) -> str:
    """A duration to two digits."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"


def projected(cost: dict[str, float], start: float, slower: float, layers: int) -> list[dict]:
    """Each piece of work: its tasks, and how long it would take on some machines.

    Args:
        cost: Of `costs`.
        start: Processor seconds until a worker has loaded its model.
        slower: By what a task takes longer where both cores of a machine work.
        layers: Of the model.
    """
    a_layer = [TOKENS * (cost["read"] * (n + 1) / layers + cost["train"]) for n in range(layers)]
    sweeps = {
        f"all heads, {PROMPTS:,} prompts, {name}": [A_TASK * cost[name]] * (PROMPTS // A_TASK)
        for name in ("from s2", "everywhere")
    }
    saes = {
        f"an SAE on each layer, {TOKENS // 10**6} M tokens": a_layer,
        f"the same with {SEEDS} seeds": a_layer * SEEDS,
    }
    return [
        {"work": name, "tasks": len(tasks), "longest task": hours(max(tasks))}
        | {
            f"{n} machine{'s' * (n > 1)}": hours(start + slower * last_to_end(tasks, CORES * n))
            for n in MACHINES
        }
        for name, tasks in (sweeps | saes).items()
    ]


def spent(_: Any, __: int) -> float:
    """Processor seconds of this process so far: of a new worker, those of starting and loading."""
    return time.process_time()


def two_workers() -> tuple[dict[str, Any], float, float]:
    """The row of one and two workers on pocket; processor seconds of starting; a task's slowing."""
    model = mi.load_model("pocket")
    sweep(model, 0)

    def timed(run: Callable[..., Any], jobs: int, tasks: range) -> tuple[float, list[Any]]:
        start = time.perf_counter()
        results = spread(run, tasks, model=model, jobs=jobs)
        return time.perf_counter() - start, results

    alone, here = timed(sweep, 1, TASKS)
    begin, starting = timed(spent, 2, range(2))  # starts both workers
    two, there = timed(sweep, 2, TASKS)
    assert all((a[0] == b[0]).all() for a, b in zip(here, there, strict=True)), "not bit for bit"
    each = [sum(cpu for _, cpu, _ in results) / len(TASKS) for results in (here, there)]
    row = {
        "tasks": len(TASKS),
        "one worker, s": f"{alone:.1f}",
        "two workers, s": f"{two:.1f}",
        "speed-up": f"{alone / two:.2f}",
        "processor s a task, one worker": f"{each[0]:.2f}",
        "two": f"{each[1]:.2f}",
        "starting two workers, s": f"{begin:.0f}",
        "bytes sent and returned a task": f"{len(dumps((sweep, 0))):,} and {len(dumps(here[0])):,}",
        "memory of a worker, GiB": f"{max(peak for *_, peak in there):.2f}",
    }
    return row, max(starting), max(each[1] / each[0], 1.0)


def busy() -> str:
    """How much else ran, as far as the system tells."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"load {load} when measured"


def main() -> None:
    """Measure and record."""
    row, start, slower = two_workers()
    note = f"joblib {joblib.__version__}, one thread a worker; {busy()}; results equal to the bit."
    record("workers", [row], note, PAGE)
    with tempfile.TemporaryDirectory() as folder:
        model = load("gpt2-shaped", Path(folder))
        layers = model.cfg.n_layers
        [cost] = spread(costs, [0], model=model, jobs=2)
    prompt = {name: f"{cost[name] / layers:.3f}" for name in ("from s2", "everywhere")}
    record(
        "costs",
        [
            {
                "a prompt and layer, from s2, s": prompt["from s2"],
                "everywhere, s": prompt["everywhere"],
                "a token and layer read, ms": f"{1e3 * cost['read'] / layers:.3f}",
                "a token trained on, ms": f"{1e3 * cost['train']:.3f}",
                "memory of the worker, GiB": f"{cost['peak']:.1f}",
            }
        ],
        f"GPT-2 small's shape, processor seconds of one thread; {busy()}.",
        PAGE,
    )
    record(
        "projections",
        projected(cost, start, slower, layers),
        f"Computed from the tables above for machines of {CORES} such cores; a worker with pocket "
        f"starts in {start:.0f} s, its processor time.",
        PAGE,
    )


if __name__ == "__main__":
    main()
