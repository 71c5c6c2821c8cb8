"""One map for work over prompts, layers, seeds and models: processes here, or a cluster.

joblib does the work. Its processes are the default; inside `joblib.parallel_config(backend="dask")`
(or `"ray"`, once registered) the same call runs on that cluster, and nothing of it is imported
otherwise. Every task computes on one thread, here and there, so the results are the serial ones to
the last bit. A worker loads a model once, from its folder, and keeps it for the tasks that follow.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.models import load_model, model_source
from mi_helpers.models.threads import serially

T = TypeVar("T")
R = TypeVar("R")

RESTARTS = 3
"""So often a pool that lost a worker is begun anew before the tasks are given up."""


def spread(
    function: Callable[..., R],
    tasks: Sequence[T],
    *,
    model: TransformerBridge | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> list[R]:
    """`function(task)`, or `function(model, task)`, for each task, in the order of the tasks.

    A worker that is lost (killed, out of memory) is replaced and its unfinished tasks are repeated;
    a result counts once. An error in a task ends the work and is raised here, as an interrupt does.

    Args:
        function: Depends on its arguments alone; random numbers come from a seed in the task. It
            is sent to the workers, with what it closes over: close over small things.
        tasks: Small descriptions of the work: names, layers, seeds, a batch of tokens.
        model: A model that `load_model` gave. Workers load it themselves, from its folder.
        jobs: Processes at a time; by default what an enclosing `joblib.parallel_config` says, and
            without one the work is done here, one task after the other.
        progress: Show a bar of the tasks that are done. Ray gives all its results at the end.

    Returns:
        The results, in the order of `tasks`, whatever was done where.

    Raises:
        ValueError: `jobs` below 1, or a `model` that workers cannot load.
        RuntimeError: workers were lost `RESTARTS` times over; names the tasks left.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    source = None if model is None else _folder_of(model)
    done: dict[int, R] = {}
    with tqdm(total=len(tasks), disable=not progress, unit="task") as bar:
        if jobs == 1 or (jobs is None and _serial()):
            for index, task in enumerate(tasks):
                with serially():
                    done[index] = function(task) if model is None else function(model, task)
                bar.update()
        else:
            _in_workers(function, tasks, source, jobs, done, bar)
    return [done[index] for index in range(len(tasks))]


def _in_workers(
    function: Callable[..., R],
    tasks: Sequence[T],
    source: Path | None,
    jobs: int | None,
    done: dict[int, R],
    bar: tqdm,
) -> None:
    """Fill `done` by workers, and `bar`, beginning anew with what is left where one is lost.

    Ray gives its results at the end, so there all tasks are left.
    """
    backend, _ = joblib.parallel.get_active_backend()
    # All tasks are handed out at once: joblib would hold back all beyond twice the workers that are
    # there at the start, and those that join a cluster later would find nothing to do.
    one_by_one = getattr(backend, "supports_return_generator", False)
    how = "generator_unordered" if one_by_one else "list"
    for _ in range(RESTARTS + 1):
        left = [index for index in range(len(tasks)) if index not in done]
        pool = joblib.Parallel(n_jobs=jobs, return_as=how, batch_size=1, pre_dispatch="all")
        calls = (joblib.delayed(_run)(function, source, i, tasks[i]) for i in left)
        try:
            for index, result in pool(calls):
                done[index] = result
                bar.update()
            return
        except BrokenProcessPool as err:
            cause = err
    left = [index for index in range(len(tasks)) if index not in done]
    raise RuntimeError(
        f"workers were lost {RESTARTS + 1} times; not done: tasks {left}. "
        "Fewer jobs, or smaller tasks, take less memory."
    ) from cause


def _run(function: Callable[..., R], source: Path | None, index: int, task: T) -> tuple[int, R]:
    with serially():
        return index, function(task) if source is None else function(_loaded(source), task)


@lru_cache(maxsize=1)
def _loaded(source: Path) -> TransformerBridge:
    """A worker's own model: loaded at its first task, kept for the others."""
    with contextlib.redirect_stdout(io.StringIO()):
        return load_model(str(source), device="cpu")


def _folder_of(model: TransformerBridge) -> Path:
    source = model_source(model)
    if source.model_id.startswith("untrained"):
        raise ValueError(
            "an untrained model lies in no folder from which workers could load it: draw it inside "
            "the function, with mi.models.untrained(model, seed)"
        )
    return source.directory


def _serial() -> bool:
    """Whether no `joblib.parallel_config` encloses the call."""
    _, n_jobs = joblib.parallel.get_active_backend()
    return n_jobs == 1
