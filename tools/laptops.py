"""The kinds of laptops a room may bring: which wheels each takes, where they come from, what lacks.

A kind is a platform and a version of Python. `download` fetches its locked packages for it from any
machine, and `resolves` asks a resolver whether what was fetched is all that it needs.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from setup_env import CPU_INDEX, index_answers

EXCLUDES = Path(__file__).with_name("lock-excludes.txt")
MACOS = [*(f"{v}_0" for v in range(14, 10, -1)), *(f"10_{v}" for v in range(16, 8, -1))]
# Newest first: pip takes wheels of any of them. The oldest are what old laptops can run.
TAGS = {
    "linux-x86_64": ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64",
                     "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_12_x86_64",
                     "manylinux_2_5_x86_64", "manylinux1_x86_64"],
    "linux-aarch64": ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64",
                      "manylinux2014_aarch64"],
    "macos-arm64": [f"macosx_{v}_{a}" for v in MACOS for a in ("arm64", "universal2")],
    "macos-x86_64": [f"macosx_{v}_{a}" for v in MACOS for a in ("x86_64", "universal2")],
    "windows-x86_64": ["win_amd64"],
    "windows-arm64": ["win_arm64"],
}  # fmt: skip
NAMES = {
    "linux-x86_64": "Linux on x86-64 (glibc 2.28 or newer)",
    "linux-aarch64": "Linux on Arm (glibc 2.28 or newer)",
    "macos-arm64": "a Mac with an Apple processor (macOS 14 or newer)",
    "macos-x86_64": "a Mac with an Intel processor",
    "windows-x86_64": "Windows on x86-64",
    "windows-arm64": "Windows on Arm",
}
# What `--all` takes. PyPI has no wheels of PyTorch's present version for the other two.
ROOM = ("linux-x86_64", "linux-aarch64", "macos-arm64", "windows-x86_64")
INSTEAD = {
    "macos-x86_64": "PyTorch makes no wheels for it any more: share a neighbour's laptop, or read "
    "the site.",
    "windows-arm64": "install Python for x86-64 (the 64-bit installer, not the one for ARM64), "
    "which Windows runs as well, and call `start.py` with it.",
}
UV = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "macos-arm64": "aarch64-apple-darwin",
    "macos-x86_64": "x86_64-apple-darwin",
    "windows-x86_64": "x86_64-pc-windows-msvc",
    "windows-arm64": "aarch64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.12", "3.13")
FIRST, LAST = 0, 99  # releases of one Python: the lock tells some of 3.11 from others
SYSTEMS = {
    "linux": ("linux", "Linux", "posix"),
    "macos": ("darwin", "Darwin", "posix"),
    "windows": ("win32", "Windows", "nt"),
}


@dataclass(frozen=True)
class Target:
    """One kind of laptop: a platform of TAGS and a version of Python such as "3.12"."""

    platform: str
    python: str

    def __str__(self) -> str:
        return f"{self.platform}, Python {self.python}"

    def environment(self, patch: int = LAST) -> dict[str, str]:
        """What the markers of requirements ask about this laptop, whose Python is x.y.patch."""
        system, _, machine = self.platform.partition("-")
        sys_platform, platform_system, os_name = SYSTEMS[system]
        if system == "windows":
            machine = {"x86_64": "AMD64", "arm64": "ARM64"}[machine]
        return {
            "sys_platform": sys_platform, "platform_system": platform_system, "os_name": os_name,
            "platform_machine": machine, "python_version": self.python,
            "python_full_version": f"{self.python}.{patch}", "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }  # fmt: skip

    def pip(self) -> list[str]:
        """pip's options for this laptop's wheels."""
        tags = [part for tag in TAGS[self.platform] for part in ("--platform", tag)]
        version = self.environment()["python_full_version"]
        return ["--only-binary", ":all:", "--python-version", version, *tags]


def this_machine() -> Target:
    """The laptop that this runs on."""
    system = {"Darwin": "macos"}.get(platform.system(), platform.system().lower())
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "aarch64" if system == "linux" else "arm64"}.get(
        machine, machine
    )
    return Target(f"{system}-{machine}", "{}.{}".format(*sys.version_info[:2]))


def requirements(target: Target, lock: str, patch: int = LAST) -> list[str]:
    """The locked requirements of one laptop without their markers, and uv, the fast installer."""
    found = []
    for line in lock.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(target.environment(patch)):
            found.append(f"{one.name}{one.specifier}")
    return [*found, "uv>=0.5"]


def pip(*arguments: object) -> bool:
    """Run pip without its chatter; True when it did what it was told."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def torch_source(target: Target) -> list[str]:
    """pip's options for torch.

    PyPI's builds for Linux, on Arm too, are for NVIDIA's cards: they start with CUDA's libraries
    alone, which are larger than all the rest. So on Linux it is the CPU build, from PyTorch's index
    or from a wheel at hand, or none.
    """
    if target.platform.startswith("linux"):
        answers = index_answers(f"{CPU_INDEX}/torch/")
        return ["--index-url", CPU_INDEX] if answers else ["--no-index"]
    return []


def download(target: Target, wheels: Path, lock: str) -> Iterator[str]:
    """Put the wheels of one laptop into a folder; yields the requirements that were not to be had.

    torch comes first: where it is not to be had, nothing would run, and nothing else is fetched.
    What only early releases of its Python take comes last, apart from what later ones have instead.
    What its author publishes as a source alone is built here, where the result serves any platform.
    """
    wanted = requirements(target, lock)
    torch = [one for one in wanted if one.startswith("torch==")]
    rest = [one for one in wanted if one not in torch]
    get = ("download", "--quiet", "--no-deps", "--find-links", wheels, "--dest", wheels)
    for one in torch:
        if not pip(*get, *target.pip(), *torch_source(target), one):
            yield one
            return
    yield from fetch(rest, [*get, *target.pip()], wheels)
    early = [one for one in requirements(target, lock, FIRST) if one not in wanted]
    yield from fetch(early, [*get, *target.pip()], wheels)


def fetch(wanted: list[str], get: Sequence[object], wheels: Path) -> Iterator[str]:
    """Download all at once or, where that fails, by halves, until it is known which one it is."""
    if not wanted or pip(*get, *wanted):
        return
    if len(wanted) > 1:
        half = len(wanted) // 2
        yield from fetch(wanted[:half], get, wheels)
        yield from fetch(wanted[half:], get, wheels)
    elif not build_pure(wanted[0], wheels):
        yield wanted[0]


def build_pure(requirement: str, wheels: Path) -> bool:
    """Build a wheel that any platform can use; False where there is none to build."""
    scratch = wheels / "built"
    try:
        if not pip("wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, requirement):
            return False
        [wheel] = scratch.glob("*.whl")
        if not wheel.name.endswith("-none-any.whl"):
            return False
        os.replace(wheel, wheels / wheel.name)
        return True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resolves(target: Target, wheels: Path, root: Path) -> str:
    """Ask a resolver for all that one laptop needs, in a folder of wheels and nowhere else.

    Args:
        target: the laptop.
        wheels: the folder.
        root: where pyproject.toml and requirements.lock are.

    Returns:
        What the resolver finds missing, in its own words; empty where nothing is.
    """
    for patch in (FIRST, LAST):
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--offline",
            "--no-index", "--find-links", wheels, "--only-binary", ":all:", "--all-extras",
            "--python-platform", UV[target.platform],
            "--python-version", f"{target.python}.{patch}", "--no-python-downloads",
            "--constraint", root / "requirements.lock", "--excludes", EXCLUDES,
            "--output-file", os.devnull, root / "pyproject.toml",
        ]  # fmt: skip
        oldest = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=oldest)
        if done.returncode:
            return " ".join(done.stderr.split())
    return ""
