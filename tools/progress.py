"""What learners have solved, as one table: a row for each home, a column for each notebook.

    python tools/progress.py /home                     print it
    python tools/progress.py /home --csv solved.csv    and write it for a spreadsheet

Run by whoever may read the homes. It looks for mi-progress.json, which the learner's notebooks keep
beside them, in each home's visible folders; where one learner has several, they count together. The
folder of a single learner serves as well: the work/ of this checkout, say.
"""

from __future__ import annotations

import argparse
import csv
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mi_helpers.suite import progress
from mi_helpers.suite.library import Notebook, notebooks

DEPTH = 5  # folders below a home that are looked into
TOO_LARGE = 1 << 20  # bytes: whatever it is, it is none of ours


def kept(home: Path, unread: list[str]) -> Iterator[Path]:
    """The folders below a home in which something is kept; links are not followed."""

    def note(err: OSError) -> None:
        unread.append(f"{err.filename}: {err.strerror}")

    for place, folders, files in os.walk(home, onerror=note):
        deep = len(Path(place).relative_to(home).parts)
        folders[:] = [name for name in folders if name[0] != "." and deep < DEPTH]
        path = Path(place) / progress.FILE
        if progress.FILE not in files:
            continue
        try:
            found = path.lstat()
        except OSError as err:
            note(err)
            continue
        if not stat.S_ISREG(found.st_mode):
            continue
        if found.st_size >= TOO_LARGE:
            unread.append(f"{path}: too large")
        elif not os.access(path, os.R_OK):
            unread.append(f"{path}: {os.strerror(errno.EACCES)}")
        else:
            yield path.parent


def solved_in(home: Path, unread: list[str]) -> progress.Solved:
    """What a learner has solved, in all the folders of a home together."""
    together: progress.Solved = {}
    for folder in kept(home, unread):
        for notebook, days in progress.read(folder).items():
            there = together.setdefault(notebook, {})
            for name, day in days.items():
                there[name] = min(day, there.get(name, day))
    return together


def learners(folder: Path, unread: list[str]) -> dict[str, progress.Solved]:
    """What each learner has solved, by the name of the home; of a learner's own folder, this one.

    Raises NotADirectoryError for what is no folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder: name the one that holds the homes")
    if (folder / progress.FILE).is_file():
        return {folder.name: solved_in(folder, unread)}
    homes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return {home.name: solved_in(home, unread) for home in homes}


def table(
    found: dict[str, progress.Solved], suite: Sequence[Notebook]
) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: a learner, the count for each notebook that anyone began, the last day."""
    begun = [one for one in suite if any(one.name in solved for solved in found.values())]
    heads = ["learner", *(f"{one.name[:2]} of {len(one.exercises)}" for one in begun)]
    rows = []
    for learner, solved in found.items():
        counts = [progress.count(solved.get(one.name, {}), one.exercises) for one in begun]
        days = [day for one in begun for day in solved.get(one.name, {}).values()]
        rows.append([learner, *map(str, counts), str(sum(counts)), max(days, default="")])
    return [*heads, "all", "last day"], rows


def as_text(heads: list[str], rows: list[list[str]]) -> str:
    """The table for a terminal; signs that would steer it are left out."""
    lines = [["".join(filter(str.isprintable, cell)) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_csv(heads: list[str], rows: list[list[str]]) -> str:
    """The table for a spreadsheet."""
    out = io.StringIO()
    csv.writer(out).writerows([heads, *rows])
    return out.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("homes", type=Path, help="the folder that holds the learners' homes")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    unread: list[str] = []
    try:
        heads, rows = table(learners(options.homes, unread), notebooks())
    except OSError as err:
        print(err, file=sys.stderr)
        return 1
    print(as_text(heads, rows))
    if options.csv:
        options.csv.write_text(as_csv(heads, rows), encoding="utf-8")
    for line in unread:
        print("not read: " + "".join(filter(str.isprintable, line)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
