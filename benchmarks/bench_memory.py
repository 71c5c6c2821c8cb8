"""What a learner's notebook takes of a shared machine's memory, and how many fit.

    python benchmarks/bench_memory.py [--notebook 05_activation_patching] [--kernels 3]

Kernels run the whole notebook one after the other and stay alive, as on a hub. Of each, after the
run: RSS, everything it has mapped; PSS, where what several processes share is divided among them;
USS, its own alone; and the highest RSS it ever had. Linux only. Beside them, one `jupyterlab`
server, which a hub starts for each learner. "Fit in 24 GiB" leaves 2 GiB to the system, and counts
each learner's server and kernel at their PSS, or at the kernel's peak.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from browser import jupyter_lab  # noqa: E402
from kernel import own_kernel  # noqa: E402
from record import record  # noqa: E402

GIB = 2**30
KEYS = ("rss", "pss", "uss", "peak")
MACHINE_GIB, SYSTEM_GIB = 24.0, 2.0


def memory(pid: int) -> dict[str, float]:
    """What a process and its children hold, in GiB, by the kernel's own account."""
    import psutil

    whole = {"rss": 0.0, "pss": 0.0, "uss": 0.0}
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        found = one.memory_full_info()
        for key in whole:
            whole[key] += getattr(found, key) / GIB
    return whole


def peak(pid: int) -> float:
    """The highest RSS that a process ever had, in GiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [high] = [line for line in lines if line.startswith("VmHWM")]
    return int(high.split()[1]) * 1024 / GIB


def measure(notebook: Path, kernels: int) -> list[dict[str, str]]:
    """The table: the kernels after all of them have run, a server, and how many learners fit."""
    import nbformat
    import psutil
    from nbclient import NotebookClient

    found = []
    with ExitStack() as stack:
        clients = []
        for _ in range(kernels):
            client = NotebookClient(
                nbformat.read(notebook, as_version=4), timeout=900, startup_timeout=300,
                resources={"metadata": {"path": str(notebook.parent)}},
            )  # fmt: skip
            stack.enter_context(client.setup_kernel(env=os.environ | own_kernel()))
            for index, cell in enumerate(client.nb.cells):
                client.execute_cell(cell, index)
            clients.append(client)
        for client in clients:
            pid = client.km.provisioner.pid
            found.append(memory(pid) | {"peak": peak(pid)})
    with jupyter_lab(notebook.parent):
        [pid] = [c.pid for c in psutil.Process().children() if "jupyterlab" in c.cmdline()]
        server = memory(pid) | {"peak": peak(pid)}
    mean = {key: sum(one[key] for one in found) / len(found) for key in KEYS}
    room, rows = MACHINE_GIB - SYSTEM_GIB, []
    for what, one in ((f"kernel, mean of {kernels}", mean), ("JupyterLab's server", server)):
        rows.append({"what": what} | {f"{key.upper()}, GiB": f"{one[key]:.2f}" for key in KEYS})
    fits = {key: f"{room / (mean[key] + server['pss']):.0f}" for key in ("pss", "peak")}
    told = {f"{key.upper()}, GiB": fits.get(key, "") for key in KEYS}
    return [*rows, {"what": "learners in 24 GiB, by that number"} | told]


def main() -> int:
    """Read the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebook", default="05_activation_patching")
    parser.add_argument("--kernels", type=int, default=3)
    options = parser.parse_args()
    if sys.platform != "linux":
        print("bench_memory.py measures on Linux only; nothing was measured")
        return 0
    os.environ.setdefault("MI_MODEL", "pocket")
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    rows = measure(ROOT / "notebooks" / f"{options.notebook}.ipynb", options.kernels)
    note = f"Notebook {options.notebook} on {os.environ['MI_MODEL']}, {options.kernels} kernels."
    record("memory", rows, note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
