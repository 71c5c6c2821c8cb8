"""Bring the README's tables up to date, or check that they are.

    python tools/readme.py            take over the last `make run`, then write the tables
    python tools/readme.py --check    write nothing; exit 1 and say what is stale

The tables stand between `<!-- NAME -->` and `<!-- end NAME -->`. They are made from committed files
alone: the notebooks, data/claims, and data/results.json, which keeps one run of each notebook on
each model with its seconds and memory.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gallery import pocket_checksum

from mi_helpers.claims import load_results, load_suite, results_markdown

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "data" / "results.json"
GALLERY = ROOT / "build" / "gallery"
SETUP = ROOT / "build" / "setup_times.json"


def read_results() -> dict[str, Any]:
    """The committed results; empty ones before the first run."""
    if RESULTS.is_file():
        return json.loads(RESULTS.read_text(encoding="utf-8"))
    return {"pocket": "", "runs": [], "setup": None}


def take_over(results: dict[str, Any]) -> dict[str, Any]:
    """The results with the last gallery run in place of older runs of the same notebook and model.

    Raises ValueError if that run failed, or ran on other pocket weights than are here now.
    """
    run = json.loads((GALLERY / "run.json").read_text(encoding="utf-8"))
    if failed := [n["notebook"] for n in run["notebooks"] if n["error"]]:
        raise ValueError(f"the last run failed in {', '.join(failed)}: repair it, then `make run`")
    if run["pocket"] != pocket_checksum():
        raise ValueError("the last run is of other pocket weights than these: `make run` first")
    times = {n["notebook"]: n for n in run["notebooks"]}
    fresh = [
        new | {key: times[new["notebook"]][key] for key in ("seconds", "peak_gib")}
        | {"machine": run["machine"]}
        for new in load_results(GALLERY / "claims")
    ]  # fmt: skip
    replaced = {(new["notebook"], new["model"]) for new in fresh}
    here = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    older_pocket = results["pocket"] != run["pocket"]
    kept = [
        old
        for old in results["runs"]
        if (old["notebook"], old["model"]) not in replaced
        and old["notebook"] in here
        and not (older_pocket and old["model"] == "pocket")
    ]
    runs = sorted([*kept, *fresh], key=lambda r: (r["notebook"], r["model"]))
    return results | {"pocket": run["pocket"], "runs": runs}


def notebook_row(path: Path) -> str:
    """One notebook's row: title, question, minutes, badge; read from its first two cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, first = ("".join(cell["source"]) for cell in cells[:2])
    parts = {
        "title": re.search(r"^# (.+)$", title, re.M),
        "badge": re.search(r"^\[!\[.+\)$", title, re.M),
        "minutes": re.search(r"About (\d+) minutes", title),
        "question": re.search(r"\*\*The question\.?\*\*:?\s+(.+?)(?=\n\s*\n|\Z)", first, re.S),
    }
    if missing := [name for name, found in parts.items() if not found]:
        raise ValueError(f"{path.name}: no {' and no '.join(missing)} in the first two cells")
    badge, minutes = parts["badge"][0], parts["minutes"][1]  # type: ignore[index]
    question = " ".join(parts["question"][1].split())  # type: ignore[index]
    question = re.sub(r"\]\((\d\d_\w+\.ipynb)\)", r"](notebooks/\1)", question)
    link = f"[{parts['title'][1]}](notebooks/{path.name})"  # type: ignore[index]
    return f"| {link} | {question} | {minutes} | {badge} |".replace("\n", " ")


def notebooks_table() -> str:
    """The table of notebooks in reading order."""
    rows = [notebook_row(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return "\n".join(["| notebook | question | minutes | |", "|---|---|---:|---|", *rows])


def times_table(runs: list[dict[str, Any]]) -> str:
    """Seconds and peak memory of each recorded run."""
    rows = [
        f"| {r['notebook']} | {r['model']} | {r['seconds']:.0f} | {r['peak_gib'] or 'not measured'}"
        f" | {r['machine']} |"
        for r in runs
    ]
    head = "| notebook | model | seconds | peak memory, GiB | machine |"
    return "\n".join([head, "|---|---|---:|---:|---|", *rows])


def tally(run: dict[str, Any]) -> str:
    """How many of a run's claims hold, of those that have an expectation for its model."""
    states = [row["status"] for row in run["rows"] if row["expected"] is not None]
    return f"{states.count('holds')} of {len(states)} claims hold on {run['model']}"


def results_section(runs: list[dict[str, Any]]) -> str:
    """The claims of each notebook, folded away behind a line that counts them."""
    if not runs:
        return "No run is recorded yet."
    parts = []
    for notebook in sorted({run["notebook"] for run in runs}):
        own = [run for run in runs if run["notebook"] == notebook]
        table = results_markdown(own).strip().replace(f"| {notebook} | ", "| ")
        table = table.replace("| notebook | claim", "| claim", 1).replace("|---|---|", "|---|", 1)
        summary = f"<summary>{notebook}: {', '.join(map(tally, own))}</summary>"
        parts.append(f"<details>{summary}\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def setup_table(times: dict[str, Any] | None) -> str:
    """What benchmarks/bench_setup.py measured last."""
    if times is None:
        return "Not measured yet: `make bench`."
    rows = [f"| {what} | {s:.1f} | {times['machine']} |" for what, s in times["seconds"].items()]
    return "\n".join(["| what | seconds | machine |", "|---|---:|---|", *rows])


def render(text: str, results: dict[str, Any]) -> str:
    """The README with its tables made anew; raises ValueError where a marker is missing."""
    runs = results["runs"]
    tables = {
        "notebooks": notebooks_table(),
        "results": results_section(runs),
        "times": times_table(runs),
        "setup": setup_table(results["setup"]),
    }
    for name, table in tables.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
        if len(marked.findall(text)) != 1:
            raise ValueError(f"README.md must hold `<!-- {name} -->` … `<!-- end {name} -->` once")
        text = marked.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
    return text


def stale(results: dict[str, Any]) -> Iterator[str]:
    """What in the README or the results no longer agrees with the repository."""
    if README.read_text(encoding="utf-8") != render(README.read_text(encoding="utf-8"), results):
        yield "README.md: its tables differ from the notebooks and data/results.json"
    if results["pocket"] != pocket_checksum():
        yield "data/results.json: recorded on other pocket weights than the committed ones"
    recorded = {(r["notebook"], r["model"]): r for r in results["runs"]}
    for notebook, claims in load_suite().items():
        run = recorded.pop((notebook, "pocket"), {"rows": []})
        rows = {row["id"]: row for row in run["rows"]}
        for claim in claims.values():
            wanted = claim.expected.get("pocket")
            row = rows.pop(claim.id, None)
            if row is None:
                yield f"data/results.json: {claim.id} of {notebook} has no value on pocket"
            elif row["statement"] != claim.statement or row["unit"] != claim.unit:
                yield f"data/results.json: {claim.id} has another wording than data/claims"
            elif row["expected"] != (wanted.value.bounds() if wanted else None):
                yield f"data/results.json: {claim.id} has another range than data/claims"
            elif row["status"] == "fails":
                yield f"data/results.json: {claim.id} failed in the recorded run"
        yield from (
            f"data/results.json: {gone} is no claim of {notebook} any more" for gone in rows
        )
    for notebook, model in recorded:
        if model == "pocket":
            yield f"data/results.json: {notebook} has no claims file any more"


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, report what is stale")
    check = parser.parse_args().check
    results = read_results()
    try:
        if not check:
            if (GALLERY / "run.json").is_file():
                results = take_over(results)
            if SETUP.is_file():
                results["setup"] = json.loads(SETUP.read_text(encoding="utf-8"))
            if results["runs"] or results["setup"]:
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            README.write_text(render(README.read_text("utf-8"), results), encoding="utf-8")
        problems = list(stale(results))
    except ValueError as err:
        problems = [str(err)]
    for problem in problems:
        print(problem)
    if problems:
        print("`make run`, then `make readme`, brings them up to date.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
