#!/usr/bin/env python3
"""Plant mistakes in the notebooks, one at a time, and see which claims notice.

    python tools/mutants.py                    every mutant of every notebook, and what none covers
    python tools/mutants.py 03_induction_heads 06_attribution_patching
    python tools/mutants.py --sample           the first mutant of each notebook with a list

A claim is worth making if some plausible mistake turns it red. `tests/mutants/NN_name.toml` lists
such mistakes: what is changed, in the notebook's source (`old` and `new`, text that occurs once) or
in the package (`patch`, Python that is run after the set-up cell), and which claims must then fail:

    [[mutant]]
    about = "The word arithmetic with its sign turned"
    old = "king - man + woman"
    new = "king + man - woman"
    fails = ["words.arithmetic"]

A mutant that stops the notebook at one of its own assertions says `fails = ["error"]`. The exit
status is 1 if a mutant goes unnoticed. Runs are of the model that MI_MODEL names, pocket otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import build_notebooks as builder
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from mi_helpers.suite.claims import load_claims

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tests" / "mutants"
CELL_SECONDS = 600
KEYS = {"about", "old", "new", "patch", "fails"}


@dataclass(frozen=True)
class Mutant:
    """One planted mistake.

    Attributes:
        notebook: Name of the notebook it is planted in.
        about: The mistake in words.
        fails: The claims that must fail, or "error" where an assertion must stop the notebook.
        old: Text of the source that is replaced, which occurs once; empty for none.
        new: What stands there instead.
        patch: Python that is run after the set-up cell; empty for none.
    """

    notebook: str
    about: str
    fails: tuple[str, ...]
    old: str = ""
    new: str = ""
    patch: str = ""


def read_mutants(notebook: str, root: Path = ROOT) -> list[Mutant]:
    """The mutants of one notebook; ValueError for a list that cannot be planted."""
    path = root / "tests" / "mutants" / f"{notebook}.toml"
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    source = (root / builder.SOURCES / f"{notebook}.py").read_text(encoding="utf-8")
    known = {*load_claims(root / "data" / "claims" / f"{notebook}.toml"), "error"}
    mutants = []
    for entry in entries:
        if not {"about", "fails"} <= set(entry) <= KEYS or not entry["fails"]:
            raise ValueError(f"{path.name}: a mutant has {sorted(entry)}, it needs about and fails")
        mutant = Mutant(notebook, **entry | {"fails": tuple(entry["fails"])})
        if bool(mutant.old) == bool(mutant.patch):
            raise ValueError(f"{path.name}: {mutant.about!r} needs either old and new, or patch")
        if mutant.old and source.count(mutant.old) != 1:
            times = source.count(mutant.old)
            raise ValueError(f"{path.name}: {mutant.about!r}: old occurs {times} times, not once")
        if unknown := set(mutant.fails) - known:
            raise ValueError(f"{path.name}: {mutant.about!r} names no claim: {sorted(unknown)}")
        mutants.append(mutant)
    return mutants


def planted(mutants: Sequence[Mutant], folder: Path) -> NotebookNode:
    """The full notebook of some mutants with their mistakes in it."""
    name = mutants[0].notebook
    source = (ROOT / builder.SOURCES / f"{name}.py").read_text(encoding="utf-8")
    for mutant in mutants:
        source = source.replace(mutant.old, mutant.new) if mutant.old else source
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    project = builder.read_project(ROOT)
    notebook = builder.build(builder.read_source(path), project, learner=False)
    setup = next(i for i, c in enumerate(notebook.cells) if "setup" in c.metadata.get("tags", []))
    patches = [new_code_cell(mutant.patch) for mutant in mutants if mutant.patch]
    notebook.cells[setup + 1 : setup + 1] = patches
    return notebook


def noticed(mutant: Mutant) -> set[str]:
    """The claims that fail with the mistake planted; "error" where the notebook stops."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(MI_STRICT="0", MI_CLAIMS_DIR=str(folder / "claims"))
        client = NotebookClient(
            planted([mutant], folder),
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": str(ROOT / "notebooks")}},
        )
        try:
            client.execute()
        except CellExecutionError:
            return {"error"}
        (results,) = (folder / "claims").glob("*.json")
        rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    return {row["id"] for row in rows if row["status"] == "fails"}


def report(names: Sequence[str], sample: bool) -> Iterator[str]:
    """Run the mutants, print a line for each, and yield what went unnoticed."""
    for name in names:
        mutants = read_mutants(name)
        for mutant in mutants[:1] if sample else mutants:
            missed = sorted(set(mutant.fails) - noticed(mutant))
            verdict = f"NOT NOTICED by {', '.join(missed)}" if missed else "noticed"
            print(f"{name}: {mutant.about}: {verdict}", flush=True)
            if missed:
                yield f"{name}: {mutant.about}"


def uncovered(name: str) -> list[str]:
    """The claims of a notebook that no mutant is said to turn red."""
    covered = {claim for mutant in read_mutants(name) for claim in mutant.fails}
    return [
        claim
        for claim in load_claims(ROOT / "data/claims" / f"{name}.toml")
        if claim not in covered
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description="plant mistakes and see which claims notice")
    parser.add_argument("notebooks", nargs="*", help="names; all that have a list by default")
    parser.add_argument("--sample", action="store_true", help="only the first of each notebook")
    options = parser.parse_args(arguments)
    os.environ.setdefault("MI_MODEL", "pocket")
    names = options.notebooks or sorted(path.stem for path in LISTS.glob("*.toml"))
    unnoticed = list(report(names, options.sample))
    for name in names:
        if missing := uncovered(name):
            print(f"{name}: no mutant for {', '.join(missing)}")
    print(f"{len(unnoticed)} mutants went unnoticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
