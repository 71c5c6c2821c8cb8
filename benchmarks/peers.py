"""Environments of their own for the libraries that ours are measured beside."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "build" / "peers"


def environment(name: str, *requirements: str, folder: Path = FOLDER) -> Path | None:
    """The Python of an environment in build/peers with `requirements`, made on first use.

    What this environment has and a peer can use (torch above all) is not installed again. None,
    after saying so, where the peer cannot be installed: a benchmark then goes on without it.
    """
    home, wanted = folder / name, "\n".join(requirements)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / "made-from.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making an environment for {name}: {home}", file=sys.stderr)
    venv.create(home, clear=True, with_pip=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    Path(packages, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *requirements]).returncode:
        print(f"{name} could not be installed (pip's message is above)", file=sys.stderr)
        return None
    stamp.write_text(wanted, encoding="utf-8")
    return python
