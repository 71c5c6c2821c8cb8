"""Files are known by their SHA-256: written beside them as `sha256sum` does, and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mi_helpers.files import write_whole

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read(folder: Path) -> dict[str, str]:
    """File name to sha256, read from SHA256SUMS in `folder`."""
    sums = folder / SUMS
    if not sums.is_file():
        raise FileNotFoundError(f"{sums} is missing, so the files beside it cannot be verified")
    lines = sums.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {file.lstrip("*").strip(): digest for digest, file in pairs}


def write(folder: Path, files: Mapping[str, Path] | None = None) -> None:
    """Write SHA256SUMS into `folder`.

    Args:
        folder: Where.
        files: What is summed, by the name it goes under, as seen from the folder; by default every
            file in it.
    """
    there = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    named = {path.name: path for path in there} if files is None else files
    with write_whole(folder / SUMS) as part:
        lines = [f"{sha256(path)}  {name}\n" for name, path in named.items()]
        part.write_text("".join(lines), encoding="utf-8")


def check(folder: Path, remedy: str) -> None:
    """Compare every file that SHA256SUMS names; ValueError with `remedy` at the first other one."""
    for file, expected in read(folder).items():
        check_file(folder / file, expected, remedy)


def check_file(path: Path, expected: str, remedy: str) -> None:
    """ValueError with `remedy` when `path` is missing or another file than the published one."""
    actual = sha256(path) if path.is_file() else "no such file"
    if actual != expected:
        raise ValueError(
            f"{path} is not the published file (sha256 {actual[:12]}, expected {expected[:12]}): "
            f"{remedy}"
        )
