"""Set this folder up and open the first notebook. Needs Python, and no network.

    python3 start.py                 set up on first use, then open JupyterLab
    python3 start.py --setup-only    open nothing

On Windows: py start.py.
Packages come from wheels/, models from models/ and from the repository; nothing is fetched. The
set-up stays in repository/.venv, the notebooks you write in are in repository/work.
"""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

KIT = Path(__file__).resolve().parent
REPOSITORY = KIT / "repository"
WHEELS = KIT / "wheels"


def kinds():
    """The laptops whose wheels are in the kit, as ("linux-x86_64", "3.12")."""
    return [tuple(line.split()) for line in (WHEELS / "KINDS").read_text().splitlines()]


def this_platform():
    """What this Python is made for: an emulated one, as on Windows on Arm, is not the machine's."""
    system = {"win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    if system == "windows":  # of win-amd64 the end; platform.machine() tells of the processor
        made_for = sysconfig.get_platform().rpartition("-")[2]
    else:
        made_for = platform.machine()
    return system + "-" + {"amd64": "x86_64"}.get(made_for.lower(), made_for.lower())


def refusal():
    """Why this Python cannot set the kit up, and what can; empty where it can."""
    version = "{}.{}".format(*sys.version_info[:2])
    here = this_platform()
    pythons = [python for name, python in kinds() if name == here]
    if version in pythons:
        return ""
    if pythons:
        said = "This kit has wheels for Python " + ", ".join(pythons) + "; this is " + version + "."
        call = "py -" if sys.platform == "win32" else "python"
        return said + "\nCall it with one of them, for example: " + call + pythons[-1] + " start.py"
    return "This kit has no wheels for " + here + ": START.md says for what it has, and what to do."


def settings():
    """The environment in which nothing asks a network."""
    found = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(WHEELS),
        "PIP_CONFIG_FILE": os.devnull,
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(WHEELS),
        "HF_HUB_OFFLINE": "1",
    }
    if sys.platform.startswith("linux"):
        found["MI_TORCH"] = "cpu"
    if (KIT / "models" / "mi-helpers").is_dir():
        found["MI_CACHE_DIR"] = str(KIT / "models" / "mi-helpers")
    if (KIT / "models" / "hub").is_dir():
        found["HF_HUB_CACHE"] = str(KIT / "models" / "hub")
    return found


def main(arguments):
    """Set up, then open."""
    if refusal():
        print(refusal())
        return 1
    environment = {**os.environ, **settings()}
    setup = [sys.executable, str(REPOSITORY / "tools" / "setup_env.py")]
    status = subprocess.call(setup, env=environment)
    if status or arguments == ["--setup-only"]:
        return status
    place = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    lab = [str(REPOSITORY / ".venv" / place), str(REPOSITORY / "tools" / "lab.py"), *arguments]
    return subprocess.call(lab, env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
