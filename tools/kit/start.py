"""Set this folder up and open the first notebook. Needs Python, and no network.

    python3 start.py                 set up on first use, then open JupyterLab
    python3 start.py --setup-only    open nothing

Packages come from wheels/, models from models/ and from the repository; nothing is fetched. The
set-up stays in repository/.venv, the notebooks you write in are in repository/work.
"""

import os
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
REPOSITORY = KIT / "repository"
WHEELS = KIT / "wheels"


def pythons():
    """The versions of Python whose wheels are in the kit, as "3.12"."""
    return sorted((WHEELS / "PYTHONS").read_text().split(), key=lambda v: int(v.split(".")[1]))


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
    version = "{}.{}".format(*sys.version_info[:2])
    if version not in pythons():
        print("This kit has wheels for Python " + ", ".join(pythons()) + f"; this is {version}.")
        print(f"Call it with one of them, for example: python{pythons()[-1]} start.py")
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
