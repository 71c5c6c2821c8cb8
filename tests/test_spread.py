"""`spread`: the serial results to the last bit, wherever the work is done, and none lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster_test
import joblib
import pytest
import torch
from tqdm.auto import tqdm

import mi_helpers as mi
import mi_helpers.sae as S
from mi_helpers.spread import spread


def square(x: int) -> int:
    return x * x


def losses(model, seed: int) -> torch.Tensor:
    tokens = torch.randint(0, 100, (2, 9), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(tokens).log_softmax(-1)[:, -1]


def die_once(task: tuple[int, str]) -> int:
    """Kill the worker at the first try of task 3."""
    number, folder = task
    mark = Path(folder) / "died"
    with (Path(folder) / f"ran_{number}").open("a") as ran:
        ran.write("x")
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def die_always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def trained(task: tuple[int, int]) -> torch.Tensor:
    """The decoder of a small autoencoder, of one site and seed."""
    width, seed = task
    vectors = torch.randn(600, width, generator=torch.Generator().manual_seed(width))
    recipe = S.Recipe(d_sae=24, k=2, steps=12, batch=128, seed=seed)
    return S.train(S.start(S.Vectors(vectors), recipe), progress=False).p["W_dec"].detach()


def model_of(model, number: int) -> tuple[int, int]:
    """The worker, and the object that is its model."""
    time.sleep(0.2)
    return os.getpid(), id(model)


def refuse(number: int) -> int:
    raise ArithmeticError(f"no {number}")


def test_order_is_that_of_the_tasks() -> None:
    tasks = list(range(7))
    expected = [square(task) for task in tasks]
    assert spread(square, tasks) == spread(square, tasks, jobs=2) == expected
    assert spread(lambda x: x + len(tasks), tasks, jobs=2) == [x + 7 for x in tasks]
    assert spread(square, [], jobs=2) == []


def test_workers_give_the_serial_results_to_the_last_bit() -> None:
    model = mi.load_model("pocket")
    torch.set_num_threads(2)
    try:
        here = spread(losses, range(4), model=model)
        there = spread(losses, range(4), model=model, jobs=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(here[0], here[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bar_counts_what_is_done_and_changes_nothing(jobs: int, capsys) -> None:
    shown = spread(square, range(5), jobs=jobs)
    said = capsys.readouterr().err.split("\r")
    assert "0/5" in said[1] and "5/5" in said[-1] and "task" in said[-1]
    assert spread(square, range(5), jobs=jobs, progress=False) == shown
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_bar_moves_by_one_for_each_task(jobs: int, tmp_path: Path, monkeypatch) -> None:
    """Also where a worker is lost and its tasks are repeated."""
    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            self.seen: list[int] = []
            bars.append(self)

        def update(self, n: float = 1) -> None:
            super().update(n)
            self.seen.append(self.n)

    monkeypatch.setattr(sys.modules["mi_helpers.spread"], "tqdm", Bar)
    tasks = [(number, str(tmp_path)) for number in range(4 if jobs == 2 else 3)]  # 3 dies once
    spread(die_once, tasks, jobs=jobs)
    [bar] = bars
    assert bar.seen == [number + 1 for number in range(len(tasks))] and bar.total == len(tasks)
    assert (tmp_path / "died").exists() == (jobs == 2)


def test_a_surrounding_configuration_decides() -> None:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        pids = spread(lambda _: os.getpid(), range(6))
    assert os.getpid() not in pids
    assert set(spread(lambda _: os.getpid(), range(3))) == {os.getpid()}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_lost_worker_is_replaced_and_nothing_counts_twice(tmp_path: Path) -> None:
    tasks = [(number, str(tmp_path)) for number in range(8)]
    assert spread(die_once, tasks, jobs=2) == [number * 10 for number in range(8)]
    assert (tmp_path / "ran_3").read_text() == "xx"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_task_that_always_kills_its_worker_is_named(monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["mi_helpers.spread"], "RESTARTS", 1)
    said = r"lost 2 times; not done: tasks \[.*1.*\]. Fewer jobs"
    with pytest.raises(RuntimeError, match=said):
        spread(die_always, range(2), jobs=2)


def test_errors_come_back_and_bad_input_is_named() -> None:
    for jobs in (1, 2):
        with pytest.raises(ArithmeticError, match="no 0"):
            spread(refuse, [0], jobs=jobs)
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        spread(square, [1], jobs=0)
    model = mi.load_model("pocket")
    with pytest.raises(ValueError, match="draw it inside the function"):
        spread(losses, [1], model=mi.models.untrained(model), jobs=2)


def test_autoencoders_of_sites_and_seeds_are_trained_as_they_are_serially() -> None:
    tasks = [(width, seed) for width in (8, 12) for seed in (0, 1)]
    here, there = spread(trained, tasks), spread(trained, tasks, jobs=2)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(here[0], here[1])


def test_a_worker_loads_the_model_once() -> None:
    seen = spread(model_of, range(6), model=mi.load_model("pocket"), jobs=2)
    models_of = {pid: {model for one, model in seen if one == pid} for pid, _ in seen}
    assert len(models_of) == 2 and all(len(models) == 1 for models in models_of.values())


def alive(pid: int) -> bool:
    """Whether a process runs, as Linux tells it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LONG = """
import os, sys, time
from pathlib import Path
from mi_helpers.spread import spread

def slow(task):
    (Path(sys.argv[1]) / f"{task}_{os.getpid()}").touch()
    time.sleep(1)

spread(lambda task: slow(task), range(60), jobs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_the_work_and_the_workers(tmp_path: Path) -> None:
    work = subprocess.Popen([sys.executable, "-c", LONG, str(tmp_path)], stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    work.send_signal(signal.SIGINT)
    _, said = work.communicate(timeout=60)
    assert work.returncode and b"KeyboardInterrupt" in said
    begun = len(list(tmp_path.iterdir()))
    workers = {int(path.name.partition("_")[2]) for path in tmp_path.iterdir()}
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == begun < 60
    assert not any(map(alive, workers))


def test_workers_that_join_later_find_tasks() -> None:
    sent = []

    class Cluster(joblib.parallel.ThreadingBackend):
        def submit(self, call, callback=None):
            sent.append(call)
            return super().submit(call, callback)

    def sent_when_it_began(task: int) -> int:
        end = time.monotonic() + 20
        while len(sent) < 12 and time.monotonic() < end:
            time.sleep(0.01)
        return len(sent)

    joblib.register_parallel_backend("mi-cluster", Cluster)
    with joblib.parallel_config(backend="mi-cluster", n_jobs=2):
        assert spread(sent_when_it_began, range(12)) == [12] * 12


def test_where_ray_does_not_start_the_error_says_why(tmp_path: Path) -> None:
    logs = tmp_path / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("fine\n[x E 1 1] no space left\n")
    err = RuntimeError("a node\ntimed out")
    said = cluster_test.not_started(err, 31.0, tmp_path)
    assert "after 31 s it gave up with RuntimeError: a node timed out" in said
    assert "raylet.out: [x E 1 1] no space left" in said and "fine" not in said
    assert "too busy" in said and "too busy" not in cluster_test.not_started(err, 2.0, tmp_path)


def test_what_listens_beyond_loopback_is_named() -> None:
    code = "import socket, sys, time; s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen()\n"
    code += "print(s.getsockname()[1], flush=True); time.sleep(60)"
    for ip in ("127.0.0.1", "0.0.0.0"):
        one = subprocess.Popen([sys.executable, "-c", code, ip], stdout=subprocess.PIPE, text=True)
        try:
            port = one.stdout.readline().strip()
            found = cluster_test.beyond_loopback()
            assert (f"{ip}:{port}" in found) == (ip == "0.0.0.0")
        finally:
            one.kill()
            one.wait()
