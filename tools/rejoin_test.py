"""Start every section of the notebooks from where `mi.start_at` would leave a late learner.

    python tools/rejoin_test.py                every notebook
    python tools/rejoin_test.py 17 24          those whose names start so

One process a notebook. It runs the set-up cell of the learner's notebook and then, section by
section, what `start_at` runs. At the head of each section it forks: the child runs the section's
cells of the learner's notebook, exercises unanswered, shows its figures to nobody, and says

- what raised, in a cell or in showing an output, and which claims of the section failed;
- after the last section, which declared claims were never made.

Where the child has finished its section and the parent has run the same section as `start_at`
does, both must have come to the same point: the same claims and values under all names, but for
rounding, and the same of what no name shows: the state of random number generators, whether
gradients are recorded, hooks left on models, folder and environment. Then, section upon section, a
late learner's notebook is that of a learner who ran all. What a check or an exercise leaves under
names of its own does not count, nor what comes of a clock's time or a temporary folder's name.

MI_MODEL names the model, pocket otherwise. The exit status is 1 if anything was found. Needs a
system that can fork, so not Windows.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marks import Mark, alike, mark, world
from names import bound_and_used

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 900  # that a section may take
SETTINGS = {"MI_STRICT": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
OWN = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # names of IPython
OWN |= {"claim", "check"}  # compared by claims; checks note what was answered
Cells = list[tuple[int, str]]


@dataclass
class State:
    """What a section leaves: its claims, a mark of each name's value, and one of all else."""

    claims: dict[str, tuple[Any, Any, str]] = field(default_factory=dict)
    names: dict[str, Mark] = field(default_factory=dict)
    world: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    errors: list[str] = field(default_factory=list)


# -------------------------------------------------------------------- a kernel in this process


def new_shell() -> Any:
    """An IPython shell as a kernel has one, which keeps the errors that it would have shown."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        """Keeps what it cannot run, or an output that cannot be shown, in `faults`."""

        faults: list[str] = []

        def showtraceback(self, exc_tuple: Any = None, *args: Any, **options: Any) -> None:
            kind, err, _ = exc_tuple or sys.exc_info()
            said = str(err).strip().splitlines()
            self.faults.append(f"{kind.__name__}: {said[-1] if said else ''}")

        showsyntaxerror = showtraceback

    config = Config()
    config.HistoryManager.enabled = False
    return Shell.instance(config=config)


def run_cell(shell: Any, source: str) -> list[str]:
    """Run a cell and swallow what it shows; what went wrong, the last line of each traceback."""
    from IPython.utils.capture import capture_output

    shell.faults.clear()
    with capture_output():
        shell.run_cell(source)
    return list(shell.faults)


def learners(path: Path, headings: Sequence[str]) -> tuple[str, list[Cells]]:
    """The set-up cell of a learner's notebook, and the other code cells below each heading."""
    setup, found = "", [list[tuple[int, str]]() for _ in headings]
    at = -1
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for heading in re.findall(r"^## (.+)$", source, re.MULTILINE):
                at += heading == headings[min(at + 1, len(headings) - 1)]
        elif "setup" in cell["metadata"].get("tags", []):
            setup = source
        elif cell["cell_type"] == "code":
            found[max(at, 0)].append((number, source))
    if at != len(headings) - 1:
        raise ValueError(f"{path.name} has no heading {headings[at + 1]!r} where it should")
    return setup, found


# ------------------------------------------------------------------------------ a notebook's run


def state_of(namespace: Mapping[str, Any], errors: Sequence[str] = ()) -> State:
    """What there is now."""
    claim = namespace["claim"]
    names = {
        name: mark(value)
        for name, value in namespace.items()
        if not name.startswith("_") and name not in OWN
    }
    made = {
        name: (line.value, line.control_value, line.status) for name, line in claim._made.items()
    }
    missing = tuple(name for name in claim.declared if name not in made)
    return State(made, names, world(), missing, list(errors))


def child_state(shell: Any, cells: Cells) -> State:
    """Fork, run a section's cells in the child, and return what it has come to."""
    with tempfile.TemporaryDirectory() as folder:
        told, drawn = Path(folder) / "state", random.getstate()
        pid = os.fork()
        if pid == 0:
            signal.alarm(SECONDS)  # which ends a child that hangs
            random.setstate(drawn)  # Python seeds it anew in a fork
            try:
                found = [f"cell {n}: {said}" for n, code in cells for said in run_cell(shell, code)]
                left = state_of(shell.user_ns, found)
            except BaseException as err:
                left = State(errors=[f"{type(err).__name__}: {err}"])
            finally:
                told.write_text(json.dumps(vars(left), default=float), encoding="utf-8")
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not told.is_file():
            return State(errors=[f"the process of this section ended early (status {status})"])
        return read(told)


def read(told: Path) -> State:
    """What a child has written; json knows no tuples."""
    left = json.loads(told.read_text(encoding="utf-8"))
    for kind in ("claims", "names"):
        left[kind] = {name: tuple(one) for name, one in left[kind].items()}
    return State(**left | {"missing": tuple(left["missing"])})


def of_chance(sources: Sequence[str]) -> set[str]:
    """Names bound by a statement that reads a clock or makes a folder, or uses a name bound so."""
    chance = r"perf_counter|process_time|\.seconds\b|TemporaryDirectory|mkdtemp"
    found: set[str] = set()
    for source in sources:
        for node in ast.parse(source).body:
            text = ast.unparse(node)
            bound, used = bound_and_used(text)
            if used & found or re.search(chance, text):
                found |= bound
    return found


def differences(late: State, quiet: State, timed: set[str]) -> Iterator[str]:
    """In what a section run by a learner differs from the same section run by `start_at`."""
    for name, one in late.claims.items():
        other = quiet.claims.get(name)
        if other is None or not alike(mark(one), mark(other)):
            yield f"claim {name}: {one} for the learner, {other} for start_at"
    for name in sorted((late.names.keys() & quiet.names.keys()) - timed):
        if not alike(late.names[name], quiet.names[name]):
            yield f"{name} is another for the learner than for start_at"
    for what, one in late.world.items():
        if one != quiet.world[what]:
            yield f"the section leaves {what} otherwise than start_at does"


def spent() -> float:
    """Seconds of processor time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def walk(path: Path) -> Iterator[tuple[str, float, list[str]]]:
    """(section, processor seconds, what was found) of a notebook, the set-up cell's first."""
    from mi_helpers.suite import rejoin

    found = rejoin.sections(path)
    setup, cells = learners(path.parent / "exercises" / path.name, [one.heading for one in found])
    os.chdir(path.parent / "exercises")
    shell, start = new_shell(), spent()
    errors = run_cell(shell, setup)
    timed = of_chance([code for section in found for _, code in section.cells])
    world()  # loads numpy's random numbers, which get their seed then
    yield "set-up", spent() - start, errors
    if errors:
        return
    for number, section in enumerate(found):
        start, last = spent(), number == len(found) - 1
        if not (cells[number] or section.cells or last):
            yield section.called, 0.0, []
            continue
        late = child_state(shell, cells[number])
        errors = list(late.errors)
        errors += [f"claim {n} {s}" for n, (_, _, s) in late.claims.items() if s == "fails"]
        if last and late.missing and not late.errors:
            errors.append(f"never made: {', '.join(late.missing)}")
        try:
            rejoin._run(section, path.stem, shell.user_ns)
        except Exception as err:
            yield section.called, spent() - start, [*errors, f"start_at: {err}"]
            return
        if not errors:
            errors += differences(late, state_of(shell.user_ns), timed)
        yield section.called, spent() - start, errors


def inside(path: Path, verbose: bool) -> int:
    """Walk through one notebook in this process and print what was found."""
    import resource  # which Windows lacks

    bad, count = 0, 0
    for section, seconds, errors in walk(path):
        count += section != "set-up"
        bad += bool(errors)
        if verbose:
            print(f"{path.stem}, {section}: {seconds:.1f} s", flush=True)
        for error in errors:
            print(f"{path.stem}, {section}: {error[:300]}", flush=True)
    peak = max(resource.getrusage(who).ru_maxrss for who in (0, resource.RUSAGE_CHILDREN))
    told = f"{count} sections, {bad} with something found"
    print(f"{path.stem}: {told}; {spent():.0f} s of processor time, {peak / 2**20:.1f} GiB")
    return int(bad > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="what the notebooks' names start with; all if none"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "notebooks", help="of the notebooks")
    parser.add_argument(
        "--verbose", action="store_true", help="say each section's processor seconds"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        parser.error("this system cannot fork a process")
    names = tuple(asked.names) or ("",)
    paths = sorted(p for p in asked.folder.resolve().glob("*.ipynb") if p.name.startswith(names))
    if not paths:
        parser.error(f"no notebook in {asked.folder} starts with {' or '.join(names)}")
    if asked.inside:
        return inside(paths[0], asked.verbose)
    settings = {"MI_MODEL": "pocket"} | os.environ | SETTINGS
    failed = 0
    for path in paths:
        options = ["--inside", "--folder", str(path.parent), *["--verbose"] * asked.verbose]
        command = [sys.executable, "-W", "ignore", __file__, *options, path.stem]
        failed += subprocess.run(command, env=settings).returncode != 0
    print(f"{len(paths)} notebooks, {failed} with something found")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
