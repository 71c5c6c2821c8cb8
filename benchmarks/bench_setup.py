"""How long the two commands of the README take on this machine, from a fresh clone.

    make bench                                        all benchmarks
    .venv/bin/python benchmarks/bench_setup.py --test  this one, with `make test` too

Nothing is taken from the package installers' caches. The figures go to build/setup_times.json,
from where `make readme` takes them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gallery import machine  # noqa: E402

LIMIT_SECONDS = 1800


def until_lab_answers(clone: Path, environment: dict[str, str]) -> float:
    """Seconds from calling `make lab` until JupyterLab answers; it is stopped again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.perf_counter()
    arguments = f"LAB_ARGS=--no-browser --ServerApp.port={port} --ServerApp.port_retries=0"
    server = subprocess.Popen(
        ["make", "lab", arguments], cwd=clone, env=environment, start_new_session=True
    )
    try:
        while time.perf_counter() - start < LIMIT_SECONDS and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5):
                    return time.perf_counter() - start
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not answer within {LIMIT_SECONDS} s")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def seconds_of(command: list[str], clone: Path, environment: dict[str, str]) -> float:
    """Seconds that a command takes; raises CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=clone, env=environment, check=True)
    return time.perf_counter() - start


def measure(with_tests: bool) -> dict[str, float]:
    """The figures by name, in seconds."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        environment |= {"UV_CACHE_DIR": f"{folder}/uv", "PIP_NO_CACHE_DIR": "1"}
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        figures = {
            "`make lab` in a fresh clone, until JupyterLab answers": until_lab_answers(
                clone, environment
            ),
            "`make lab` again": until_lab_answers(clone, environment),
        }
        python = str(clone / ".venv" / "bin" / "python")
        lens = [python, "-c", "import transformer_lens"]
        seconds_of(lens, clone, environment)  # the first import compiles
        alone = seconds_of(lens, clone, environment)
        both = seconds_of([*lens[:2], f"{lens[2]}, mi_helpers"], clone, environment)
        figures["`import transformer_lens`"] = alone
        figures["`import mi_helpers` on top of it"] = max(0.0, both - alone)
        if with_tests:
            subprocess.run(["rm", "-rf", str(clone / ".venv"), f"{folder}/uv"], check=True)
            figures["`make test` in a fresh clone"] = seconds_of(
                ["make", "test"], clone, environment
            )
    return figures


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true", help="time `make test` from nothing too")
    figures = measure(parser.parse_args().test)
    times = {"machine": machine(), "seconds": {k: round(v, 1) for k, v in figures.items()}}
    for what, seconds in times["seconds"].items():
        print(f"{what}: {seconds} s")
    target = ROOT / "build" / "setup_times.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
