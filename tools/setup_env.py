"""Make .venv for this checkout, or do nothing when it is up to date.

    python tools/setup_env.py

Needs nothing but Python >= 3.10. The versions are those of requirements.lock; torch comes first,
as the CPU build unless MI_TORCH=cuda asks for the other one. A stamp is written last, so a set-up
that was interrupted is taken up again by the next call, and a complete one costs nothing.

Environment: MI_TORCH=cpu (the CPU build or an error), MI_TORCH=cuda (the build for NVIDIA GPUs);
unset: the CPU build, or, where none is to be had, the plain index after saying so.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "mi-stamp.json"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
SPACE = 3  # GB that must be free before a set-up; a test holds it above what one takes
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STARTED = time.monotonic()


class SetupError(Exception):
    """Something the reader can put right; the message says how."""


def say(text: str) -> None:
    """Print one progress line with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


def run(*command: object) -> bool:
    """Run a command with its output shown; True when it succeeded."""
    return subprocess.run([str(part) for part in command], cwd=str(ROOT)).returncode == 0


def answer(code: str) -> str:
    """What .venv's Python prints for some code; empty when it cannot run it."""
    try:
        done = subprocess.run([str(PYTHON), "-c", code], stdout=-1, stderr=-3, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def fingerprint() -> str:
    """Everything the environment is made from: the lock, the project file, the folder."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def read_stamp() -> dict:
    """What the last complete set-up wrote; empty when there was none."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def torch_wanted() -> str:
    """MI_TORCH, or else what is there already, or else "auto"."""
    wanted = os.environ.get("MI_TORCH") or read_stamp().get("torch", "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise SetupError(f"MI_TORCH={wanted!r} is unknown: use cpu or cuda, or leave it unset.")
    return wanted


def up_to_date(wanted: str) -> bool:
    """True when .venv is complete, of this lock and of this folder."""
    stamp = read_stamp()
    return (
        PYTHON.exists() and stamp.get("made_from") == fingerprint() and stamp.get("torch") == wanted
    )


def require_space(gigabytes: float) -> None:
    """Refuse before a download that the disk cannot hold."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < gigabytes:
        raise SetupError(
            f"{free:.1f} GB free at {ROOT}, {gigabytes:g} GB are needed: make room and call again."
        )


def check_machine(wanted: str) -> None:
    """Refuse what cannot work: an old Python, no venv module, a full disk."""
    if sys.version_info < (3, 10):  # noqa: UP036  (this file alone runs on older ones)
        raise SetupError(
            f"Python {platform.python_version()} at {sys.executable} is too old, 3.10 or newer is "
            "needed. With another one on this machine: make PYTHON=python3.12 lab"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ModuleNotFoundError as err:
        raise SetupError(
            f"This Python has no {err.name} module. On Debian and Ubuntu: apt install python3-venv"
        ) from err
    require_space(8 if wanted == "cuda" else SPACE)


def make_venv() -> None:
    """Create .venv; one left half-made or made elsewhere is cleared first, a sound one is kept."""
    prefix = answer("import pip, sys; print(sys.prefix)")
    if prefix and Path(prefix).resolve() == VENV.resolve():
        STAMP.unlink(missing_ok=True)
        return
    say(f"making .venv with Python {platform.python_version()}")
    if not run(sys.executable, "-m", "venv", "--clear", VENV):
        raise SetupError("venv could not be made (its message is above).")


def installer() -> tuple[list[object], bool]:
    """The install command: uv's where it can be had (ten times faster), otherwise pip's."""
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    say("getting uv, the fast installer")
    if run(*pip, "uv>=0.5"):
        uv = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--quiet"]
        return [*uv, "--compile-bytecode"], True
    say("no uv to be had: going on with pip, which takes some minutes more")
    return list(pip), False


def index_answers(url: str, seconds: float = 3.0) -> bool:
    """True when the index answers in time (name look-up included)."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as reply:
                if reply.status == 200:
                    answered.set()
        except OSError:
            pass

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def installed_torch() -> str:
    """The version of torch in .venv, its local part included; empty when there is none."""
    return answer("import importlib.metadata as m; print(m.version('torch'))")


def locked_torch() -> str:
    """The lock's version of torch, without a build."""
    found = re.search(r"^torch==(\S+)", LOCK.read_text(), re.M)
    if found is None:
        raise SetupError(f"{LOCK.name} has no line torch==...: run `make lock`.")
    return found[1]


def install_cpu_torch(pip: list[object], torch: str) -> bool:
    """Install torch's CPU build for Linux, from a wheel at hand or from PyTorch's CPU index."""
    at_hand = [str(part) for part in (*pip, "--quiet", "--no-deps", "--no-index", torch)]
    if subprocess.run(at_hand, stdout=-3, stderr=-3).returncode == 0:
        say(f"{torch} came from a wheel that pip's configuration names")
        return True
    if not index_answers(f"{CPU_INDEX}/torch/"):
        say(f"{CPU_INDEX} does not answer")
        return False
    say(f"{torch}, CPU build, from {CPU_INDEX} (about 200 MB)")
    return run(*pip, "--no-deps", "--index-url", CPU_INDEX, torch)


def install_torch(wanted: str) -> None:
    """Install the locked torch, unless it is there in a build that serves."""
    version, present, linux = locked_torch(), installed_torch(), platform.system() == "Linux"
    is_cpu = present.endswith("+cpu")
    serves = {"auto": True, "cpu": is_cpu or not linux, "cuda": not is_cpu}[wanted]
    if present.split("+")[0] == version and serves:
        return
    torch, pip = f"torch=={version}", [PYTHON, "-m", "pip", "install", "--progress-bar", "on"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    if present:
        pip.append("--force-reinstall")
    if linux and wanted != "cuda":
        if install_cpu_torch(pip, torch):
            return
        if wanted == "cpu":
            raise SetupError(f"no CPU build of {torch} is to be had: is there a network?")
    if linux:
        say(f"NOTE: {torch} from the plain index is the CUDA build: a download of several GB.")
        say("NOTE: Ctrl-C stops it.")
        require_space(8)
    else:
        say(f"{torch} from the plain index")
    if not run(*pip, torch):
        raise SetupError(f"{torch} could not be installed (pip's message is above): no network?")


def set_up() -> None:
    """Bring .venv to the state of the lock, the stamp last."""
    wanted = torch_wanted()
    if up_to_date(wanted):
        return
    check_machine(wanted)
    make_venv()
    install, with_uv = installer()
    install_torch(wanted)
    say("installing requirements.lock")
    if not run(*install, "--no-deps", "-r", LOCK):
        pip = [PYTHON, "-m", "pip", "install", "--quiet"]
        if not with_uv or not run(*pip, "--no-deps", "-r", LOCK):
            raise SetupError("the lock could not be installed (message above): no network?")
    say("installing this project")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    if not run(*pip, "-e", ROOT):
        raise SetupError("the project itself could not be installed (pip's message is above).")
    state = {"made_from": fingerprint(), "torch": wanted, "python": platform.python_version()}
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n")
    os.replace(str(partial), str(STAMP))
    say(f"environment ready: {VENV}")


if __name__ == "__main__":
    try:
        set_up()
    except SetupError as err:
        sys.exit(f"error: {err}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the next call takes it up again")
