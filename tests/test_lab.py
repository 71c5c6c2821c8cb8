"""A learner's copies of the notebooks: made, kept, renewed; and what JupyterLab starts with."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cluster_test
import lab
import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


def notebook(*cells: str) -> str:
    """A notebook of one Markdown cell and code cells."""
    text, *code = cells
    made = [nbformat.v4.new_markdown_cell(text), *map(nbformat.v4.new_code_cell, code)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=made))


def edit(path: Path, cell: int, **changes: object) -> None:
    """What a learner, or a run, does to a notebook."""
    content = json.loads(path.read_text())
    content["cells"][cell].update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture
def learners(tmp_path: Path) -> Path:
    """A folder with one learner's notebook."""
    folder = tmp_path / "notebooks" / "exercises"
    folder.mkdir(parents=True)
    (folder / "00_start.ipynb").write_text(notebook("Hello.", "answer = ..."))
    return folder


@pytest.fixture
def work(tmp_path: Path, learners: Path) -> Path:
    """The copies, made once."""
    folder = tmp_path / "work"
    assert lab.update(learners, folder) == [
        "your own copies of the notebooks are in work/, which git does not see"
    ]
    return folder


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.ipynb"))


def test_a_second_call_changes_nothing(learners: Path, work: Path) -> None:
    before = {path: path.read_bytes() for path in work.iterdir()}
    assert lab.update(learners, work) == []
    assert before == {path: path.read_bytes() for path in work.iterdir()}


def test_an_untouched_copy_follows_the_suite(learners: Path, work: Path) -> None:
    (learners / "00_start.ipynb").write_text(notebook("Hello again.", "answer = ..."))
    assert lab.update(learners, work) == ["00_start.ipynb is brought up to date"]
    assert sources(work / "00_start.ipynb")[0] == "Hello again."


def test_one_that_was_only_run_counts_as_untouched(learners: Path, work: Path) -> None:
    edit(work / "00_start.ipynb", 1, execution_count=3, metadata={"trusted": True})
    (learners / "00_start.ipynb").write_text(notebook("Hello again.", "answer = ..."))
    assert lab.update(learners, work) == ["00_start.ipynb is brought up to date"]
    assert names(work) == ["00_start.ipynb"]


def test_work_is_kept_and_the_new_notebook_stands_beside_it(learners: Path, work: Path) -> None:
    mine, beside = work / "00_start.ipynb", work / "00_start.new.ipynb"
    edit(mine, 1, source="answer = 42")
    written = mine.read_bytes()
    assert lab.update(learners, work) == []  # nothing new in the suite
    for version in ("Second.", "Third."):
        (learners / "00_start.ipynb").write_text(notebook(version, "answer = ..."))
        [told] = lab.update(learners, work)
        assert told == (
            "00_start.ipynb holds work of yours and is kept; the new one is 00_start.new.ipynb"
        )
        assert sources(beside)[0] == version  # the untouched newer one is renewed
    edit(beside, 1, source="answer = 43")
    (learners / "00_start.ipynb").write_text(notebook("Fourth.", "answer = ..."))
    assert "the new one is 00_start.new-2.ipynb" in lab.update(learners, work)[0]
    assert mine.read_bytes() == written and sources(beside)[1] == "answer = 43"
    assert lab.update(learners, work) == []


def test_a_newer_one_that_was_thrown_away_does_not_come_back(learners: Path, work: Path) -> None:
    edit(work / "00_start.ipynb", 1, source="answer = 42")
    (learners / "00_start.ipynb").write_text(notebook("Second.", "answer = ..."))
    lab.update(learners, work)
    (work / "00_start.new.ipynb").unlink()
    assert lab.update(learners, work) == [] and names(work) == ["00_start.ipynb"]


def test_a_file_that_is_no_notebook_any_more_is_kept(learners: Path, work: Path) -> None:
    (work / "00_start.ipynb").write_text("half a notebo")
    (learners / "00_start.ipynb").write_text(notebook("Second.", "answer = ..."))
    lab.update(learners, work)
    assert (work / "00_start.ipynb").read_text() == "half a notebo"
    assert names(work) == ["00_start.ipynb", "00_start.new.ipynb"]


def test_a_lost_record_makes_every_copy_the_learners(learners: Path, work: Path) -> None:
    (work / lab.RECORD).unlink()
    (learners / "00_start.ipynb").write_text(notebook("Second.", "answer = ..."))
    assert "is kept" in lab.update(learners, work)[0]
    assert sources(work / "00_start.ipynb")[0] == "Hello."


def test_renaming_starts_a_notebook_over(learners: Path, work: Path) -> None:
    (work / "00_start.ipynb").rename(work / "00_mine.ipynb")
    assert lab.update(learners, work) == ["00_start.ipynb is copied"]


def test_every_link_of_the_real_copies_leads_somewhere(tmp_path: Path) -> None:
    """From work/ in the checkout, which has the depth of notebooks/."""
    names = {path.name for path in lab.LEARNERS.glob("*.ipynb")}
    seen = 0
    for path in sorted(lab.LEARNERS.glob("*.ipynb")):
        text = "\n".join(
            "".join(cell["source"])
            for cell in json.loads(lab.as_copied(path, lab.WORK))["cells"]
            if cell["cell_type"] == "markdown"
        )
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", text):
            seen += 1
            assert link in names or (lab.ROOT / "work" / link).resolve().is_file(), (path, link)
            assert "exercises" not in link
    assert seen > len(names)


def test_jupyterlabs_defaults_keep_what_others_set(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"other": {"a": 1}}')
    lab.write_settings(tmp_path)
    assert json.loads(path.read_text()) == {"other": {"a": 1}, **lab.SETTINGS}
    before = path.stat().st_mtime_ns
    lab.write_settings(tmp_path)
    assert path.stat().st_mtime_ns == before


def test_a_checkout_that_cannot_be_written_still_opens(monkeypatch, capsys) -> None:
    def refuse() -> list[str]:
        raise PermissionError("read-only")

    opened = []
    monkeypatch.setattr(lab, "update", refuse)
    monkeypatch.setattr(lab, "start", lambda path, arguments: opened.append(path) or 0)
    assert lab.main([]) == 0
    assert opened == [min(lab.LEARNERS.glob("*.ipynb"))]
    assert "nothing can be written here (read-only)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_line_comes_before_jupyterlab_does(tmp_path: Path) -> None:
    """Whoever waits sees at once what for; then where it answers."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tools")!r})
import lab
lab.command = lambda notebook, arguments: [sys.executable, "-c", "import time; time.sleep(3)"]
code = lab.start(lab.LEARNERS / "00_start_here.ipynb", [])
assert "jupyterlab" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "starting JupyterLab on notebooks/exercises/00_start_here.ipynb" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a word to it")
def test_a_request_to_end_reaches_jupyterlab(tmp_path: Path) -> None:
    """In a container the first process hears only what it asks for."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tools")!r})
import lab
waits = "import pathlib, time; pathlib.Path({str(tmp_path)!r}, 'began').touch(); time.sleep(60)"
lab.command = lambda notebook, arguments: [sys.executable, "-c", waits]
sys.exit(lab.start(lab.LEARNERS / "00_start_here.ipynb", []))
"""
    lab_itself = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 50
    while not (tmp_path / "began").exists() and time.monotonic() < end:
        time.sleep(0.1)
    lab_itself.terminate()
    # JupyterLab ended by the signal, and that is the status; -15 would be of this process itself.
    assert lab_itself.wait(30) == 256 - signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "ip"),
    [([], "127.0.0.1"), (["--no-browser", "--ServerApp.ip=0.0.0.0"], "0.0.0.0")],
)
def test_jupyterlab_listens_beyond_loopback_only_when_asked(arguments: list[str], ip: str) -> None:
    from jupyter_server.serverapp import ServerApp

    command = lab.command(ROOT / "notebooks" / "exercises" / "00_start_here.ipynb", arguments)
    given = [one for one in command[3:] if one.startswith("--ServerApp.")]
    app = ServerApp()
    app.parse_command_line(given)  # refuses a setting that is given twice
    assert app.ip == ip and app.root_dir == str(ROOT)
    assert not any("token" in one or "password" in one for one in command)


def first_kernel(folder: Path, server: subprocess.Popen[bytes], wait: float = 120) -> int:
    """A port of the first kernel that a server with this runtime folder starts, once it is open."""
    end = time.monotonic() + wait
    while server.poll() is None and time.monotonic() < end:
        for file in folder.glob("kernel-*.json"):
            try:
                port = json.loads(file.read_text(encoding="utf-8"))["shell_port"]
                socket.create_connection(("127.0.0.1", port), 5).close()
                return port
            except (OSError, ValueError):  # half written, or not open yet
                pass
        time.sleep(0.2)
    raise AssertionError(f"no kernel in {wait} s")


def test_a_jupyterlab_that_another_process_started_is_found(tmp_path: Path, monkeypatch) -> None:
    """As on Windows, where a virtual environment's python.exe starts the real one."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    outer = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    server = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE)
    try:
        while not (started := psutil.Process(server.pid).children()):
            time.sleep(0.05)
        assert lab.where_it_answers(server) is None
        (tmp_path / f"jpserver-{started[0].pid}.json").write_text('{"token": "abc"}')
        assert lab.where_it_answers(server) == {"token": "abc"}
    finally:
        server.communicate(b"\n", timeout=20)


@pytest.mark.slow
def test_make_lab_is_reached_from_this_machine_alone(tmp_path: Path, monkeypatch, capsys) -> None:
    """The sockets of JupyterLab and of a kernel as the system has them."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    start = lab.LEARNERS / "00_start_here.ipynb"
    command = lab.command(start, ["--no-browser", "--ServerApp.port=0"])
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lab.tell_while_starting(server, start)
        said = re.search(r"answers: (http://\S+?/)lab/\S+?(\?token=\w+)", capsys.readouterr().out)
        urllib.request.urlopen(f"{said[1]}api/kernels{said[2]}", data=b"{}", timeout=120).close()
        kernel = first_kernel(tmp_path / "JUPYTER_RUNTIME_DIR", server)
        listening = {one.laddr.port for child in psutil.Process(server.pid).children(True)
                     for one in child.net_connections("tcp")}  # fmt: skip
        assert kernel in listening  # it is this kernel that is looked at
        assert cluster_test.beyond_loopback() == []
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize(
    ("token", "password", "ends"), [("abc", False, False), ("", True, False), ("", False, True)]
)
def test_a_jupyterlab_without_token_and_password_is_ended(
    tmp_path: Path, monkeypatch, capsys, token: str, password: bool, ends: bool
) -> None:
    """A file in the user's home may say so; what listens then would let everybody in."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    # In a container it listens at every address, and its name there is unknown outside.
    told = {"url": "http://0123abcd:1/", "hostname": "0.0.0.0", "token": token}
    told["password"] = password
    (tmp_path / f"jpserver-{server.pid}.json").write_text(json.dumps(told))
    try:
        lab.tell_while_starting(server, lab.LEARNERS / "00_start_here.ipynb")
        said = capsys.readouterr().out
        if ends:
            assert server.wait(20) != 0 and "JupyterLab is ended" in said
        else:
            assert server.poll() is None and "JupyterLab answers: http://127.0.0.1:1/lab" in said
            assert ("token=abc" in said) == bool(token)
    finally:
        server.kill()
        server.wait()
