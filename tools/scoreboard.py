#!/usr/bin/env python3
"""Score every method on every model whose circuit is known, and write the board down.

    python tools/scoreboard.py            measure what data/scoreboard.json lacks; then the page
    python tools/scoreboard.py --anew     measure everything
    python tools/scoreboard.py --page     the page alone, docs/scoreboard.md
    python tools/scoreboard.py --check    exit status 1 if the page is not that of the numbers

    python tools/scoreboard.py --models gpt2    another language model, too

The models whose circuit is known take half an hour or less and 1 GiB, the language models
(tools/scoreboard_heads.py) minutes and 3 GiB; the numbers are the same each time, but for
the seconds. For notebook 23.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import scoreboard_heads
import torch
from mi_data.known_circuits.train import GROUPS

from mi_helpers.files import write_whole
from mi_helpers.toys import interchange, programs, scoreboard
from mi_helpers.toys.programs import Case

ROOT = Path(__file__).resolve().parents[1]
NUMBERS, PAGE = Path("data") / "scoreboard.json", Path("docs") / "scoreboard.md"
DRAWS = 5
TRAINED = [recipe for group in GROUPS for recipe in group if recipe.strict]
"""The models that were trained by parts."""
SCORES = ("nodes AUROC", "nodes AP", "edges AUROC", "edges AP", "CPR", "CMD")
Row = dict[str, object]
KEY = ("model", "program", "seed", "method")


def all_cases() -> Iterator[tuple[Row, Callable[[], Case]]]:
    """What a case is called, and how to make it."""
    for seed in range(DRAWS):
        for name in programs.PROGRAMS:
            named: Row = {"model": "compiled", "program": name, "seed": seed}
            yield named, lambda name=name, seed=seed: programs.case(name, seed)
        for recipe in TRAINED:
            named = {"model": recipe.size, "program": recipe.program, "seed": seed}
            yield named, lambda recipe=recipe, seed=seed: interchange.case(recipe, seed)


def measure(rows: Sequence[Row]) -> list[Row]:
    """A row for each case and method; those that are there already are kept."""
    known = {tuple(row[key] for key in KEY): row for row in rows}
    found: list[Row] = []
    for named, made in all_cases():
        keys = {method: (*named.values(), method) for method in scoreboard.ALL_METHODS}
        missing = {m: scoreboard.ALL_METHODS[m] for m, key in keys.items() if key not in known}
        if missing:
            case = made()
            for row in scoreboard.board(missing, [case]):
                passes = scoreboard.passes(case, str(row["method"]))
                values = {key: round(float(row[key]), 4) for key in (*SCORES, "seconds")}  # type: ignore[arg-type]
                whole = named | {"method": row["method"]} | values | {"passes": passes}
                known[keys[str(row["method"])]] = whole
            print(*named.values(), *missing, sep=", ", flush=True)
            save({**read(), "known": list(known.values())})
        found += [known[key] for key in keys.values()]
    return found


def read() -> dict[str, Any]:
    """The numbers: rows of models whose circuit is known; of language models, lists and rows."""
    numbers: dict[str, Any] = json.loads((ROOT / NUMBERS).read_text(encoding="utf-8"))
    return numbers


def save(numbers: Mapping[str, Any]) -> None:
    """Write the numbers, whole; a row a line."""
    one_line = re.compile(r"\{[^{}]*\"method\"[^{}]*\}|\[[^\[\]{}]*\]")
    text = one_line.sub(
        lambda m: re.sub(r"\s*\n\s*", " ", m[0]).replace("{ ", "{").replace(" }", "}"),
        json.dumps(numbers, indent=1),
    )
    with write_whole(ROOT / NUMBERS) as part:
        part.write_text(f"{text}\n", encoding="utf-8")


class Board:
    """The rows of some models as tables."""

    def __init__(self, rows: Sequence[Row], *models: str) -> None:
        self.rows = [row for row in rows if row["model"] in models]
        self.methods = list(dict.fromkeys(str(row["method"]) for row in self.rows))
        self.programs = list(dict.fromkeys(str(row["program"]) for row in self.rows))

    def values(self, method: str, key: str, names: Sequence[str] = ()) -> torch.Tensor:
        """One number of a method [program draw]."""
        return torch.tensor(
            [[r[key] for r in self.rows if (r["method"], r["program"]) == (method, name)]
             for name in names or self.programs]
        )  # fmt: skip

    def whole(self) -> list[str]:
        """A line for each method: means with intervals, and what they cost."""
        lines = [f"| method | {' | '.join(SCORES)} | runs | seconds |"]
        lines += [f"|:--|{'--:|' * (len(SCORES) + 2)}"]
        for method in self.methods:
            cells = []
            for key in SCORES:
                found = self.values(method, key)
                low, high = scoreboard.interval(found)
                cells.append(f"{found.mean():.2f} ({low:.2f} to {high:.2f})")
            cells += [f"{self.values(method, 'passes').double().median():.0f}"]
            seconds = self.values(method, "seconds").flatten().tolist()
            cells += [f"{statistics.median(seconds):.2f}"]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        return lines

    def by_program(self, key: str) -> list[str]:
        """A line for each method: its mean on each program."""
        n = len(self.programs)
        lines = [f"| method | {' | '.join(self.programs)} |", f"|:--|{'--:|' * n}"]
        for method in self.methods:
            means = self.values(method, key).mean(1).tolist()
            lines.append(f"| {method} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
        return lines


def side_by_side(rows: Sequence[Row], program: str) -> list[str]:
    """A line for each method on a program: compiled, small and large models."""
    boards = {model: Board(rows, model) for model in ("compiled", "small", "large")}
    columns = [(key, model, program) for key in ("nodes AP", "edges AP")
               for model, board in boards.items() if program in board.programs]  # fmt: skip
    heads = [f"{key}, {model}" for key, model, _ in columns]
    lines = [f"| method | {' | '.join(heads)} |", f"|:--|{'--:|' * len(heads)}"]
    for method in boards["compiled"].methods:
        cells = [boards[model].values(method, key, [name]).mean() for key, model, name in columns]
        lines.append(f"| {method} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return lines


def page(numbers: Mapping[str, Any]) -> str:
    """The board as Markdown."""
    rows = numbers["known"]
    compiled = Board(rows, "compiled")
    means = (
        "with a 90% interval (bootstrap over programs and, of each, its draws). Chance is 0.5 for "
        "AUROC; for average precision (AP) see the row of random scores. CPR (more is better) and "
        "CMD (less is better) judge the circuits without the truth. Runs of the model and seconds: "
        "medians; a backward pass counts as a run."
    )
    lines = [
        "# Who finds the truth?", "",
        f"{len(compiled.methods)} methods on models whose circuit is known. Notebook 23 explains "
        "them.", "",
        "## Compiled programs", "",
        f"{len(compiled.programs)} programs, {DRAWS} draws each of prompts, idle weights and "
        f"places. Mean over programs and draws, {means}", "",
        "These models are far cleaner than trained ones: a method that passes here has passed an "
        "easy test.", "",
        *compiled.whole(), "",
        "## The same program, compiled and trained", "",
        "Programs, compiled, and in models that were trained so that chosen parts do what the "
        "program says and other parts nothing (the card in data/known_circuits says how far that "
        "was reached). Average precision, mean over draws of prompts and, where compiled, of "
        "weights. Edges are judged one by one in compiled models; in trained ones they are pairs "
        "of parts, as training does not say which input of a head is used, and those between two "
        "of the program's parts that the program does not connect are not judged: compare the "
        "order of the methods there, not the numbers.", "",
    ]  # fmt: skip
    for program in dict.fromkeys(recipe.program for recipe in TRAINED):
        lines += [f"### {program}", "", *side_by_side(rows, program), ""]
    lines += scoreboard_heads.page(numbers["heads"])
    for key in ("nodes AP", "edges AP"):
        lines += [f"## {key}, compiled, program by program", "", *compiled.by_program(key), ""]
    made = "Made by `python tools/scoreboard.py` from `data/scoreboard.json`."
    return "\n".join([*lines, made, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--anew", action="store_true", help="measure everything")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date")
    parser.add_argument("--models", nargs="*", default=scoreboard_heads.MODELS,
                        help="language models, by the names that load_model takes")  # fmt: skip
    asked = parser.parse_args(arguments)
    if not (asked.page or asked.check):
        if asked.anew:
            save({"known": [], "heads": {}})
        save({**read(), "known": measure(read()["known"])})
        scoreboard_heads.measure(read()["heads"], asked.models,
                                 lambda heads: save({**read(), "heads": heads}))  # fmt: skip
    text = page(read())
    if not asked.check:
        (ROOT / PAGE).write_text(text, encoding="utf-8")
    elif (ROOT / PAGE).read_text(encoding="utf-8") != text:
        print(f"{PAGE} differs from {NUMBERS}: run tools/scoreboard.py --page")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
