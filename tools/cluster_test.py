"""Run `mi_helpers.spread` on a real scheduler with two workers, and lose one in the middle.

    python tools/cluster_test.py [dask] [ray]    (Dask alone by default)

Dask: a scheduler and two workers, each a process of its own on loopback; one is killed when a third
of the tasks have begun. Ray: two processes of one local node, whose store holds 100 MB; where the
node does not start, the error says how long it waited and what its logs say. The task is a patching
sweep over heads of pocket for prompts of one seed. The results must equal those of this process to
the last bit. The libraries are installed into build/cluster, apart from the notebooks' environment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "cluster"
REQUIREMENTS = {"dask": "distributed>=2025.1,<2027", "ray": "ray>=2.44,<3"}
SEEDS = range(9)
STORE = 100 * 2**20  # bytes of Ray's shared memory: the tasks and their results are small
RAY_GIVES_UP = 30  # seconds, in Ray's ray/_private/node.py
# On Linux Ray would listen at every address, as for nodes elsewhere, and write a token into the
# home; a busy machine takes longer than its defaults to start each of its processes.
RAY_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_agent_register_timeout_ms": "180000",
}


def install(name: str) -> Path:
    """The folder with a library and what it needs; made if it is not there."""
    folder = FOLDER / name
    stamp = folder / "mi-requirement.txt"
    if not stamp.is_file() or stamp.read_text() != REQUIREMENTS[name]:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder)]
        subprocess.run([*uv, REQUIREMENTS[name]], check=True)
        stamp.write_text(REQUIREMENTS[name])
    return folder


def sweep(model: Any, task: tuple[int, str]) -> Any:
    """Recoveries of all heads on eight prompts of one seed; leaves a mark when it begins."""
    import mi_helpers as mi
    from mi_helpers.metrics import LogitDiff
    from mi_helpers.patching import OtherRun, patch_sweep

    seed, marks = task
    (Path(marks) / f"{seed}_{os.getpid()}").touch()
    pairs = mi.prompts.ioi(model, 8, seed=seed)
    what, judge = OtherRun(pairs.clean_tokens), LogitDiff(pairs.answer_tokens)
    done = patch_sweep(
        model, pairs.corrupt_tokens, what, judge, site="z", over=("layer", "head")
    )  # fmt: skip
    return done.recovery()


@contextlib.contextmanager
def dask_cluster(marks: Path) -> Iterator[dict[str, Any]]:
    """A scheduler and two workers on loopback; one is killed in the middle."""
    from distributed import Client

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = marks.parent / "scheduler.json"
    # Without a dashboard a page of the process's health is left, by default at all addresses.
    page = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    started = [
        subprocess.Popen(
            [*command, "--port", "0", *page, "--scheduler-file", file], **quiet
        )  # fmt: skip
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", file,
              "--nthreads", "1", "--no-nanny", *page, "--host", "127.0.0.1",
              "--local-directory", marks.parent]  # fmt: skip
    started += [subprocess.Popen(worker, **quiet) for _ in range(2)]

    def kill() -> None:
        while len(list(marks.iterdir())) < len(SEEDS) // 3:
            time.sleep(0.05)
        started[1].kill()
        started[1].wait()
        print("one worker was killed", flush=True)

    try:
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            killer = threading.Thread(target=kill, daemon=True)
            killer.start()
            yield {"backend": "dask", "wait_for_workers_timeout": 60}
            killer.join(60)
            alive = [process.poll() is None for process in started]
            assert alive == [True, False, True], f"scheduler, killed worker, other: alive {alive}"
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


@contextlib.contextmanager
def ray_cluster(marks: Path) -> Iterator[dict[str, Any]]:
    """Two processes of one local node."""
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    start = time.perf_counter()
    try:
        ray.init(
            num_cpus=2, object_store_memory=STORE, include_dashboard=False, log_to_driver=False,
            _temp_dir=str(marks.parent / "ray"),
        )  # fmt: skip
    except Exception as err:  # of many kinds, and what they say is of Ray's insides
        waited = time.perf_counter() - start
        raise RuntimeError(not_started(err, waited, marks.parent / "ray")) from err
    try:
        yield {"backend": "ray", "n_jobs": 2}
    finally:
        ray.shutdown()


def not_started(err: Exception, waited: float, logs: Path) -> str:
    """Why Ray's node did not start: its error, the machine's load, the last lines of its logs."""
    said = " ".join(str(err).split())[:300]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    lines = [
        f"Ray's local node did not start: after {waited:.0f} s it gave up with "
        f"{type(err).__name__}: {said}",
        f"Load of the machine: {load} on {os.cpu_count()} cores.",
    ]
    if waited >= RAY_GIVES_UP:
        lines += [
            f"Ray waits {RAY_GIVES_UP} s for its node, whatever is set: the machine was too busy. "
            "Try again when other programs have ended."
        ]
    for file in sorted(logs.glob("session_*/logs/*")):
        text = file.read_text(errors="replace") if file.is_file() else ""
        told = [line for line in text.splitlines() if re.search(r" [EFC] |rror", line)]
        lines += [f"{file.name}: {line.strip()[:200]}" for line in told[-2:]]
    return "\n".join(lines)


def beyond_loopback(mine: set[int] | None = None) -> list[str]:
    """Addresses at which others could reach some processes, by default those started from here."""
    import psutil

    if mine is None:
        mine = {one.pid for one in psutil.Process().children(recursive=True)}
    found = []
    for pid in mine:  # one by one: macOS lets only root ask for all
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            found += [
                (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
                for one in psutil.Process(pid).net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ]
    assert found, "nothing of the cluster listens: these are not its processes"
    return sorted(f"{ip}:{port}" for ip, port in found if not ip_address(ip).is_loopback)


CLUSTERS = {"dask": dask_cluster, "ray": ray_cluster}


def run(name: str) -> None:
    """Compare a cluster's results with those of this process; raises AssertionError if they differ.

    Runs in a process that can import the library of this name.
    """
    import joblib
    import torch

    import mi_helpers as mi
    from mi_helpers.spread import spread

    model = mi.load_model("pocket")
    with tempfile.TemporaryDirectory() as scratch:
        marks, here = Path(scratch) / "marks", Path(scratch) / "here"
        marks.mkdir()
        here.mkdir()
        start = time.perf_counter()
        expected = spread(sweep, [(seed, str(here)) for seed in SEEDS], model=model)
        alone = time.perf_counter() - start
        with CLUSTERS[name](marks) as config, joblib.parallel_config(**config):
            reached = beyond_loopback()
            assert not reached, f"listens beyond loopback: {reached}"
            start = time.perf_counter()
            found = spread(sweep, [(seed, str(marks)) for seed in SEEDS], model=model)
            spent = time.perf_counter() - start
        begun = [path.name.split("_") for path in marks.iterdir()]
    assert len(found) == len(SEEDS)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "not bit for bit"
    workers = {pid for _, pid in begun}
    assert str(os.getpid()) not in workers and len(workers) == 2, f"worked in {workers}"
    print(
        f"{name}: {len(SEEDS)} sweeps on {len(workers)} workers equal the serial ones; begun "
        f"{len(begun)} times; {spent:.1f} s, serially {alone:.1f} s"
    )


def main() -> int:
    """Install what is asked for and run each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="default: dask")
    parser.add_argument("--inside", choices=CLUSTERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        run(asked.inside)
        return 0
    failed = 0
    for name in asked.names or ["dask"]:
        path = os.pathsep.join(filter(None, [str(install(name)), os.environ.get("PYTHONPATH")]))
        settings = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        settings |= RAY_SETTINGS
        command = [sys.executable, "-W", "ignore", __file__, "--inside", name]
        failed |= subprocess.run(command, env=os.environ | settings).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
