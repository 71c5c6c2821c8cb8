"""Open JupyterLab on a learner's own copies of the notebooks, which git does not see.

    python tools/lab.py [--open NOTEBOOK] [arguments for jupyter lab ...]

The copies are in work/: the learner's notebooks, and the short ways through them if `make short`
wrote those, with their links set right. They are made when
they are missing and never overwritten once they hold something of the learner's: where the suite
has a newer version of a notebook that was worked in, it is put beside it, as NAME.new.ipynb. One
whose cells still read as they were copied is brought up to date. To start a notebook over, rename
or delete its copy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel import own_kernel

from mi_helpers.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
LEARNERS = ROOT / "notebooks" / "exercises"
WORK = ROOT / "work"
RECORD = ".copies.json"
STARTED = time.monotonic()
# JupyterLab asks whether to fetch news unless this says no; its --news_url does not stop it.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}


def say(text: str) -> None:
    """Print one progress line with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as part:
        part.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------- the copies


def digest(text: str) -> str:
    """What a notebook's cells say, without outputs and whatever else a run changes."""
    try:
        cells = json.loads(text)["cells"]
        said = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
    except (ValueError, KeyError, TypeError):  # no notebook any more: surely the learner's doing
        said = [["unreadable", text]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def as_copied(notebook: Path, work: Path) -> str:
    """The text of a notebook with its relative links leading to the same files from `work`."""

    def moved(match: re.Match[str]) -> str:
        target = (notebook.parent / match[1]).resolve()
        if target.parent == notebook.parent.resolve():  # another learner's notebook: a copy too
            return match[0]
        if target.parent == notebook.parent.with_name("exercises").resolve():
            return f"]({target.name}"  # of a short way, the whole notebook: beside it
        return f"]({Path(os.path.relpath(target, work.resolve())).as_posix()}"

    content: dict[str, Any] = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"\]\((\.\.?/[^)#\s]+)", moved, "".join(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def newer_names(path: Path) -> Iterator[Path]:
    """Names beside a copy that is kept."""
    yield path.with_name(f"{path.stem}.new.ipynb")
    for number in range(2, 1000):
        yield path.with_name(f"{path.stem}.new-{number}.ipynb")


class Copies:
    """The copies in one folder, and the record of what they said when they were written."""

    def __init__(self, work: Path) -> None:
        self.work, self.record_path = work, work / RECORD
        found = self.record_path
        self.record = json.loads(found.read_text("utf-8")) if found.is_file() else {}

    def write(self, path: Path, text: str, latest: str) -> None:
        """Write a copy and note what it says; `latest` is the notebook's name."""
        write_text(path, text)
        self.record[path.name] = self.record[f"latest {latest}"] = digest(text)
        write_text(self.record_path, json.dumps(self.record, indent=1) + "\n")

    def untouched(self, path: Path) -> bool:
        """Whether the cells of a copy still read as they were written."""
        return self.record.get(path.name) == digest(path.read_text(encoding="utf-8"))

    def update(self, notebook: Path) -> str:
        """Bring the copy of one notebook up to date; returns what there is to tell, or nothing."""
        text, copy = as_copied(notebook, self.work), self.work / notebook.name
        if not copy.exists():
            self.write(copy, text, notebook.name)
            return f"{copy.name} is copied"
        if digest(text) in (
            digest(copy.read_text(encoding="utf-8")),
            self.record.get(f"latest {notebook.name}"),
        ):
            return ""  # as new as can be, or put beside it before
        if self.untouched(copy):
            self.write(copy, text, notebook.name)
            return f"{copy.name} is brought up to date"
        beside = next(p for p in newer_names(copy) if not p.exists() or self.untouched(p))
        self.write(beside, text, notebook.name)
        return f"{copy.name} holds work of yours and is kept; the new one is {beside.name}"


def update(learners: Path = LEARNERS, work: Path = WORK) -> list[str]:
    """Bring all copies up to date; returns what there is to tell, one line each."""
    copies, first = Copies(work), not work.is_dir()
    short = sorted(learners.with_name("short").glob("*_short.ipynb"))
    told = [copies.update(notebook) for notebook in [*sorted(learners.glob("*.ipynb")), *short]]
    if first:
        return [f"your own copies of the notebooks are in {work.name}/, which git does not see"]
    return [line for line in told if line]


# ------------------------------------------------------------------------------------- JupyterLab


def write_settings(prefix: Path = Path(sys.prefix)) -> None:
    """Set the defaults of this environment's JupyterLab; what a user chooses stays above them."""
    path = prefix / "etc" / "jupyter" / "labconfig" / "default_setting_overrides.json"
    present = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if {**present, **SETTINGS} != present:
        write_text(path, json.dumps({**present, **SETTINGS}, indent=1) + "\n")


def command(notebook: Path, arguments: list[str]) -> list[str]:
    """What starts JupyterLab on a notebook of this checkout; what `arguments` set goes before."""
    settings = [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={ROOT}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    given = {argument.partition("=")[0] for argument in arguments}  # given twice, it is refused
    own = [one for one in settings if one.partition("=")[0] not in given]
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [sys.executable, "-m", "jupyterlab", *own, *root, *arguments, str(notebook)]


def where_it_answers(server: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """What a started JupyterLab has written about itself; None as long as it has not.

    On Windows a virtual environment's Python starts another one, which is then JupyterLab.
    """
    import psutil
    from jupyter_core.paths import jupyter_runtime_dir

    try:
        pids = [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]
    except psutil.NoSuchProcess:
        return None
    for pid in pids:
        try:
            file = Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json"
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or half written
            continue
    return None


def tell_while_starting(
    server: subprocess.Popen[bytes], notebook: Path, every: float = 10.0
) -> None:
    """Say every few seconds that JupyterLab is still starting, then where it answers.

    One that a configuration file has deprived of its token, and of a password, is ended at once.
    """
    told = time.monotonic()
    while server.poll() is None:
        where = where_it_answers(server)
        if where is None:
            time.sleep(0.2)
            if time.monotonic() - told > every:
                told = time.monotonic()
                say("JupyterLab is still starting: the first time, and on a busy machine, it waits")
            continue
        if not where["token"] and not where["password"]:
            server.terminate()
            say("a configuration of yours (jupyter --paths) sets an empty token and no password:")
            say("JupyterLab is ended, since whoever reaches it could run programs as you")
            return
        # In a container every address is meant, and its name is unknown outside.
        url = where["url"]
        if where.get("hostname") in ("", "0.0.0.0", "::"):
            url = re.sub(r"//.*?(?=:\d+/)", "//127.0.0.1", url)
        page = f"lab/tree/{notebook.relative_to(ROOT).as_posix()}"
        key = f"?token={where['token']}" if where["token"] else ""
        say(f"JupyterLab answers: {url}{page}{key} (Ctrl-C ends it)")
        return


def start(notebook: Path, arguments: list[str]) -> int:
    """Run JupyterLab until it ends; returns its status."""
    name = notebook.relative_to(ROOT).as_posix()
    say(f"starting JupyterLab on {name} (some seconds, a minute at most)")
    server = subprocess.Popen(
        command(notebook, arguments), cwd=str(ROOT), env=os.environ | own_kernel()
    )
    # As the first process of a container this one would not hear a request to end.
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=tell_while_starting, args=(server, notebook), daemon=True).start()
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:  # JupyterLab got it too, and asks or ends by itself
            continue


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--open", type=Path, help="default: work/00_start_here.ipynb")
    parser.add_argument("--copies-only", action="store_true", help="start no JupyterLab")
    options, others = parser.parse_known_args(arguments)
    try:
        for line in update():
            say(line)
        write_settings()
        folder = WORK
    except OSError as err:
        say(f"nothing can be written here ({err}): opening the notebooks as they are")
        folder = LEARNERS
    notebook = (options.open or min(folder.glob("*.ipynb"))).resolve()
    if not notebook.is_file():
        parser.error(f"no such notebook: {options.open}")
    if options.copies_only:
        return 0
    return start(notebook, others)


if __name__ == "__main__":
    sys.exit(main())
