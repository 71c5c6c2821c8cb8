"""A wheel of this project, built from the tracked files alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import release

ROOT = Path(__file__).resolve().parents[1]


def tracked_files() -> list[str]:
    """The files of this checkout that git tracks, as far as they are there."""
    return release.tracked_files(ROOT)


def build_wheel(folder: Path) -> Path:
    """Copy the tracked files to `folder` and build there, so that no other file can slip in."""
    for line in tracked_files():
        target = folder / "tree" / line
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / line, target)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "tree")],
        check=True,
    )  # fmt: skip
    [wheel] = folder.glob("mi_helpers-*.whl")
    return wheel
