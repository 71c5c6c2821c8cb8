"""Environments for the libraries that ours are measured beside, each its own, in build/bench.

    python benchmarks/peers.py [nnsight ...]     make those that are missing (about a minute each)

They cannot share ours: SAELens needs transformer-lens below 4. An environment is made anew when its
requirements below change. One that cannot be made is named with the reason, and left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import setup_env  # noqa: E402

FOLDER = ROOT / "build" / "bench"
REQUIREMENTS = {
    "nnsight": ("nnsight==0.8.1", "transformers==5.23.0"),
    "sae-lens": ("sae-lens==6.54.12", "transformer-lens==3.9.0", "transformers==5.23.0"),
    "eai-sparsify": ("eai-sparsify==1.3.3", "transformers==5.23.0"),
    "circuit-tracer": ("circuit-tracer==0.5.0",),
    "concept-erasure": ("concept-erasure==0.2.4",),
    "sae-bench": (
        "sae-bench==0.6.0",
        "beartype==0.14.1",  # later ones look into dicts, where SAEBench's sizes clash
        "sae-lens==6.54.12",
        "transformer-lens==3.9.0",
        "transformers==5.23.0",
    ),
    "eap-ig": (
        "eap @ git+https://github.com/hannamw/EAP-IG@795f5607b25638935aec89aee3c1cb4bd9ed72f1",
        "transformer-lens==3.9.0",
        "transformers==5.23.0",
    ),
    "memit": ("transformers==5.23.0",),
    "tuned-lens": ("tuned-lens==0.2.0", "torchdata==0.9.0", "transformers==5.24.0"),
}
SOURCES = {
    "memit": ("https://github.com/kmeng01/memit", "80426fd9316cf9a50c5ba15e0912f2c2c5bfe84b")
}
"""What is no package: cloned into the environment, at a commit."""


class PeerError(Exception):
    """Why a peer's environment is not there."""


def python_of(peer: str) -> Path:
    """The interpreter of a complete environment.

    Raises:
        PeerError: it is not there, or of other requirements; says how to make it.
    """
    if _stamp(peer).is_file() and _stamp(peer).read_text(encoding="utf-8") == _wanted(peer):
        return _python(peer)
    raise PeerError(f"no environment for {peer}: make it with python benchmarks/peers.py")


def source_of(peer: str) -> Path:
    """Where the code of a peer that is no package lies."""
    return FOLDER / peer / "source"


def make(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be.

    Raises:
        PeerError: it could not be made.
    """
    try:
        return python_of(peer)
    except PeerError:
        print(f"making {FOLDER / peer}", file=sys.stderr)
    _run(peer, sys.executable, "-m", "venv", "--clear", FOLDER / peer)
    pip = [_python(peer), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = f"torch=={setup_env.locked_torch()}"
    if not setup_env.install_cpu_torch(pip, torch):
        _run(peer, *pip, torch)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", _python(peer)]
    has_uv = subprocess.run([*uv[:3], "--version"], stdout=-3, stderr=-3).returncode == 0
    _run(peer, *(uv if has_uv else pip), torch, *REQUIREMENTS[peer])
    if peer in SOURCES:
        url, commit = SOURCES[peer]
        _run(peer, "git", "clone", "--quiet", url, source_of(peer))
        _run(peer, "git", "-C", source_of(peer), "checkout", "--quiet", commit)
    _stamp(peer).write_text(_wanted(peer), encoding="utf-8")
    return _python(peer)


def _python(peer: str) -> Path:
    return FOLDER / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _stamp(peer: str) -> Path:
    return FOLDER / peer / "mi-requirements.txt"


def _wanted(peer: str) -> str:
    parts = (f"torch=={setup_env.locked_torch()}", *REQUIREMENTS[peer], *SOURCES.get(peer, ()))
    return "\n".join(parts) + "\n"


def _run(peer: str, *command: object) -> None:
    words = [str(part) for part in command]
    try:
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as err:
        raise PeerError(f"{peer} could not be installed: there is no {words[0]}") from err
    if done.returncode:
        raise PeerError(f"{peer} could not be installed: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or REQUIREMENTS:
        try:
            print(make(name))
        except PeerError as err:
            print(f"{name} is left out: {err}", file=sys.stderr)
