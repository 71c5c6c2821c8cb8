"""How many threads PyTorch computes on: chosen in one place, by what was measured to help.

On a 2-core machine with other work on it (load about 3), the median forward pass of 8 prompts of 20
tokens through random weights took, on one thread and on two: 27 and 823 ms with 3.5 million
parameters (pocket's size), 131 and 360 ms with 14 million, 0.8 and 1.7 s with 124 million (GPT-2
small's). The best passes of all say what free cores may give: at pocket's size a factor of 1.4, for
large batches only. So small models get one thread, and for a large one a product of its size is
timed on one thread and on all.

`OMP_NUM_THREADS` comes first: where it is set, nothing is changed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

SMALL = 30_000_000
"""Up to so many parameters a model computes on one thread."""

GAIN = 1.2
"""All cores are taken where they are so many times as fast as one."""


def use_threads(n_params: int) -> int:
    """Set PyTorch's threads for a model of `n_params` parameters on a CPU; returns their number.

    Takes less than half a second for a large model on a free machine, and nothing for a small one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if n_params <= SMALL else _measured())
    return torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block: for training small models beside a large one."""
    with nullcontext() if "OMP_NUM_THREADS" in os.environ else serially():
        yield


@contextmanager
def serially() -> Iterator[None]:
    """Compute on one thread inside the block, whatever the environment says."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """The cores this process may use: by affinity, and by the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Whole cores that the control group allows; None without a limit."""
    try:
        allowed, period = file.read_text(encoding="ascii").split()
        return max(1, int(allowed) // int(period))
    except (OSError, ValueError):
        return None


def _measured() -> int:
    """One thread, or all cores where a product of a large model's size is that much faster."""
    cores = min(available_cores(), 16)
    if cores == 1:
        return 1
    left, right = torch.ones(256, 768), torch.ones(768, 3072)
    seconds: dict[int, list[float]] = {1: [], cores: []}
    for threads in (1, cores) * 6:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        for _ in range(3):
            left @ right
        seconds[threads].append(time.perf_counter() - start)
    alone, together = (statistics.median(seconds[n][1:]) for n in (1, cores))
    return cores if alone > GAIN * together else 1
