"""Which exercises are solved: kept in one file beside a learner's notebooks, day after day."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mi_helpers.files import locked, write_whole

FILE = "mi-progress.json"
Solved = dict[str, dict[str, str]]
"""Notebook to exercise to the day on which it was first solved, as "2026-11-27"."""


def read(folder: str | Path = ".") -> Solved:
    """What is kept in a folder: nothing where there is no file, or none that can be read."""
    try:
        found = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        notebook: {
            name: day for name, day in days.items() if re.fullmatch(r"\d{4}-\d\d-\d\d", str(day))
        }
        for notebook, days in found.items()
        if isinstance(days, dict)
    }


def add(notebook: str, exercise: str, folder: str | Path = ".") -> None:
    """Note that an exercise is solved, beside all that other kernels note at the same time.

    Raises OSError where nothing can be written, or another kernel holds the file for seconds.
    """
    if exercise not in read(folder).get(notebook, {}):
        _change(folder, lambda kept: kept.setdefault(notebook, {}).setdefault(exercise, _today()))


def forget(notebook: str, folder: str | Path = ".") -> None:
    """Start a notebook over. Deleting the file starts all of them over. Raises as `add`."""
    if notebook in read(folder):
        _change(folder, lambda kept: kept.pop(notebook, None))


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _change(folder: str | Path, change: Callable[[Solved], Any]) -> None:
    path = Path(folder) / FILE
    with locked(path):
        kept = read(folder)
        if not kept and path.is_file() and path.read_bytes().strip() not in (b"", b"{}"):
            os.replace(path, path.with_suffix(".unreadable"))  # somebody's: not to be lost
        change(kept)
        with write_whole(path) as part:
            part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def bar_text(solved: int, of: int) -> str:
    """A bar of one sign for each exercise, and the count."""
    return f"{'#' * solved}{'-' * (of - solved)} {solved} of {of} solved"


def bar_html(solved: int, of: int) -> str:
    """The same for a page, in colours that light and dark themes bear."""
    share = 100 * solved / max(of, 1)
    return (
        f'<span role="img" aria-label="{solved} of {of} solved" style="display:inline-block;'
        "width:8em;height:0.8em;vertical-align:middle;border:1px solid #1a7f37;"
        'border-radius:3px;overflow:hidden"><span style="display:block;height:100%;'
        f'width:{share:.0f}%;background:#1a7f37"></span></span> {solved} of {of} solved'
    )


def count(solved: Mapping[str, str], exercises: tuple[str, ...]) -> int:
    """How many of a notebook's exercises are solved; those it no longer has do not count."""
    return len(set(solved) & set(exercises))
