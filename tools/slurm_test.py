"""Run the sweep of docs/scaling.md on a real Slurm, and lose a node in the middle.

    python tools/slurm_test.py    (needs slurmctld, slurmd, slurm-client, munge: Debian's packages)

The Slurm is one of its own: munged with a new key, a controller and two nodes of one core each, all
of them processes of this machine at 127.0.0.1, with configuration, state and logs in build/slurm.
It is stopped at the end, and nothing of it may listen beyond loopback. `sweep.sh` and `sweep.py`
are the page's, with the changes of `PAGE_FOR_HERE`. When a third of the tasks have begun, all that
runs on the second node is killed, and Slurm is told that the node is down. The job must go on, and
its results must equal those of this process to the last bit.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_test
import psutil
import torch

import mi_helpers as mi
from mi_helpers.spread import spread

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "slurm"
PAGE = ROOT / "docs" / "scaling.md"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue")
NODES = ("mi1", "mi2")  # by Slurm's numbers in a job: 0, which runs sweep.sh, and 1
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SEEDS = range(24)
PATIENCE = 600  # seconds for each half of the job, on a busy machine
# What a small machine needs otherwise than the page's eight nodes, as (page, here).
PAGE_FOR_HERE = {
    "sweep.sh": [
        ("--nodes=8", "--nodes=2"),
        ("--cpus-per-task=2 --mem=12G", "--cpus-per-task=1 --mem=1G"),
        ('page="', 'page="--host 127.0.0.1 '),
        (".venv/bin/dask", "{dask}/bin/dask"),
        (".venv/bin/python", "{python}"),
    ],
    "sweep.py": [
        ('load_model("gpt2")', 'load_model("pocket")'),
        ("range(1250)", f"range({len(SEEDS)})"),
        (
            "def heads(model, seed):\n",
            "def heads(model, seed):\n"
            "    import os, pathlib\n"
            "    node = os.environ.get('SLURM_NODEID', 'here')\n"
            "    pathlib.Path('{marks}', f'{{seed}}_{{node}}_{{os.getpid()}}').touch()\n",
        ),
    ],
}
CONF = """
ClusterName=mi
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=mi1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1500
NodeName=mi2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1500
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


class SlurmError(Exception):
    """Something the reader can put right; the message says how."""


def require_programs() -> None:
    """Refuse where Slurm is not installed."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    if absent:
        raise SlurmError(
            f"{', '.join(absent)} not found. On Debian and Ubuntu: "
            "apt install --no-install-recommends slurmctld slurmd slurm-client munge"
        )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def of_the_page(name: str, language: str, sign: str, **here: object) -> str:
    """A script of docs/scaling.md, changed as `PAGE_FOR_HERE` says.

    Args:
        name: `sweep.sh` or `sweep.py`.
        language: Of the block of code.
        sign: What this block contains and no other.
        here: What stands for the names in braces.

    Raises:
        SlurmError: the page has not one such block, or not what is to be changed.
    """
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.S | re.M)
    found = [text for text in blocks if sign in text]
    if len(found) != 1:
        raise SlurmError(f"{PAGE.name} has {len(found)} blocks with {sign!r}: there must be one")
    [text] = found
    for old, new in PAGE_FOR_HERE[name]:
        if old not in text:
            raise SlurmError(f"{name} of the page has no {old!r}: bring PAGE_FOR_HERE up to date")
        text = text.replace(old, new.format(**here))
    return text


def ours(also: str = "") -> dict[int, psutil.Process]:
    """The processes that have this Slurm's configuration, and `also`, in their environment."""
    signs = [f"SLURM_CONF={FOLDER}/slurm.conf\0".encode(), also.encode()]
    found = {}
    for one in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # it has ended, or is another user's
            environment = Path(f"/proc/{one.pid}/environ").read_bytes()
            if all(sign in environment for sign in signs):
                found[one.pid] = one
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill them and wait until they are gone."""
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(processes, timeout=30)


def of_second_node() -> list[psutil.Process]:
    """All that runs on it: its slurmd, the job's processes there, and Slurm's above those."""
    found = ours("SLURM_NODEID=1\0")
    for one in [*found.values()]:
        with contextlib.suppress(psutil.Error):
            found |= {up.pid: up for up in one.parents() if up.name().startswith("slurmstepd")}
    slurmd = {pid: one for pid, one in ours().items() if one.cmdline()[-1:] == [NODES[1]]}
    return [*(found | slurmd).values()]


@contextlib.contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """A Slurm with two nodes; gives the environment in which its commands find it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for one in ("state", *NODES):
        (FOLDER / one).mkdir(parents=True)
    key = FOLDER / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    host, user = socket.gethostname().partition(".")[0], psutil.Process().username()
    conf = CONF.format(host=host, user=user, folder=FOLDER, ports=free_ports(3))
    (FOLDER / "slurm.conf").write_text(conf)
    environment = {**os.environ, "SLURM_CONF": str(FOLDER / "slurm.conf"), "PATH": SEARCHED}
    files = [f"--{name}-file={FOLDER}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    munged = ["munged", "--foreground", "--force", f"--socket={FOLDER}/munge.socket", *files]
    daemons = [munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = []
    try:
        for command in daemons:
            started.append(subprocess.Popen(command, env=environment, cwd=FOLDER, **quiet))
            until(lambda: (FOLDER / "munge.socket").exists(), 30, "munged made no socket")
        idle = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
        until(lambda: said(idle, environment).split() == [*NODES], 60, "the nodes are not idle")
        yield environment
    finally:
        kill(list(ours().values()))
        for process in started:
            process.wait()


def until(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for something; raises SlurmError with what the logs say where it does not come."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SlurmError(f"after {seconds:.0f} s {otherwise}\n{logs()}")
        time.sleep(0.05)


def logs() -> str:
    """The ends of Slurm's logs and of what the job printed."""
    files = [*FOLDER.glob("*.log"), *FOLDER.glob("job/slurm-*.out")]
    return "\n".join(f"{one.name}: {one.read_text(errors='replace')[-800:]}" for one in files)


def said(command: list[str], environment: dict[str, str], typed: str = "") -> str:
    """What a command of Slurm prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, input=typed)
    return done.stdout.strip()


def serial_results(script: str) -> list[torch.Tensor]:
    """What the page's function gives in this process, one seed after the other."""
    scope: dict[str, Any] = {}
    exec(script.partition("\nmodel = ")[0], scope)
    return spread(scope["heads"], SEEDS, model=mi.load_model("pocket"))


def write_job(job: Path, dask: Path) -> str:
    """Write the page's two scripts, changed for here; gives the text of sweep.py."""
    places = {"dask": dask, "python": sys.executable, "marks": job / "marks"}
    (job / "marks").mkdir(parents=True)
    script = of_the_page("sweep.py", "python", "scheduler_file", **places)
    ending = '\nimport torch\n\ntorch.save(results, "results.pt")\n'
    (job / "sweep.py").write_text(script + ending)
    (job / "sweep.sh").write_text(of_the_page("sweep.sh", "sh", "#SBATCH", **places))
    return script


def submit(job: Path, dask: Path, environment: dict[str, str]) -> float:
    """Submit the job, take the second node from it, wait for its end; gives the seconds."""
    path = os.pathsep.join(filter(None, [str(dask), os.environ.get("PYTHONPATH")]))
    environment = environment | {"PYTHONPATH": path, "TMPDIR": str(job)}
    begun, start = job / "marks", time.perf_counter()
    number = said(["sbatch", "--parsable", f"--chdir={job}", str(job / "sweep.sh")], environment)

    def a_third_on_both_nodes() -> bool:
        names = [path.name for path in begun.iterdir()]
        nodes = {name.split("_")[1] for name in names}
        return len(names) >= len(SEEDS) // 3 and len(nodes) == 2

    until(a_third_on_both_nodes, PATIENCE, "the job has not begun on both nodes")
    reached = cluster_test.beyond_loopback(set(ours()))
    kill(of_second_node())
    down = f"NodeName={NODES[1]} State=DOWN Reason=lost"
    said(["scontrol", "update", *down.split()], environment)
    print(f"node {NODES[1]} was lost when {len(list(begun.iterdir()))} tasks had begun", flush=True)
    assert not reached, f"listens beyond loopback: {reached}"
    left = ["squeue", "--noheader", "--jobs", number, "--states=PENDING,RUNNING,COMPLETING"]
    until(lambda: not said(left, environment), PATIENCE, "the job has not ended")
    how = said(["scontrol", "show", "job", number], environment)
    if "JobState=COMPLETED" not in how:
        raise SlurmError(f"the job failed:\n{how}\n{logs()}")
    return time.perf_counter() - start


def main() -> None:
    """Run the page's job and compare; raises AssertionError where the results differ."""
    require_programs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Slurm is stopped then too
    dask, job = cluster_test.install("dask"), FOLDER / "job"
    sys.path.append(str(dask))
    try:
        with slurm() as environment:
            script = write_job(job, dask)
            spent = submit(job, dask, environment)
    finally:
        assert not ours(), "processes of this Slurm are left"
    names = [path.name.split("_") for path in (job / "marks").iterdir()]
    begun = {node: sum(one[1] == node for one in names) for node in ("0", "1")}
    found, expected = torch.load(job / "results.pt"), serial_results(script)
    assert len(found) == len(SEEDS)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "not bit for bit"
    assert sum(begun.values()) > len(SEEDS), "no task was repeated: the node was lost too late"
    print(
        f"Slurm: {len(SEEDS)} sweeps equal the serial ones; {begun['0']} begun on {NODES[0]}, "
        f"{begun['1']} on {NODES[1]} before it was lost; {spent:.0f} s with the queue"
    )


if __name__ == "__main__":
    try:
        main()
    except SlurmError as err:
        sys.exit(f"error: {err}")
