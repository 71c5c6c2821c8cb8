"""Bring the tables of README.md and docs/results.md up to date, or check that they are.

    python tools/readme.py            take over the last `make run`, then write the tables
    python tools/readme.py --gallery build/gallery-pocket build/gallery-gpt2     of several models
    python tools/readme.py --check    write nothing; exit 1 and say what is stale

What is made stands between `<!-- NAME -->` and `<!-- end NAME -->`. It is made from committed files
alone: the notebooks, data/claims, and data/results.json, which keeps one run of each notebook on
each model with its seconds and memory. The notebooks' headers show the same times, so they are
built anew when a run is taken over.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import build_notebooks
from build_notebooks import measured
from gallery import pocket_checksum

from mi_helpers.suite.claims import Claims, load_results, load_suite, results_markdown
from mi_helpers.suite.views import OWN

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS_PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "data" / "results.json"
GALLERY = ROOT / "build" / "gallery"
SETUP = ROOT / "build" / "setup_times.json"
USED = ("seconds", "cpu_seconds", "peak_gib")
MODELS = {
    "pocket": "`pocket`",
    "smollm2": "SmolLM2-135M-Instruct",
    "smollm2-q4": "SmolLM2-135M-Instruct (4-bit)",
    "gpt2": "GPT-2 small",
}
# The claims that the README shows of all.
SAMPLE = (
    "ioi.literature",
    "induction.best_head",
    "ablation.all_heads",
    "refusal.bypass",
    "edit.paraphrases",
)


def read_results() -> dict[str, Any]:
    """The committed results; empty ones before the first run."""
    if RESULTS.is_file():
        return json.loads(RESULTS.read_text(encoding="utf-8"))
    return {"pocket": "", "runs": [], "setup": None}


def take_over(results: dict[str, Any], gallery: Path) -> dict[str, Any]:
    """The results with the run of a gallery in place of older runs of the same notebook and model.

    Raises ValueError if that run failed, or ran on other pocket weights than are here now.
    """
    run = json.loads((gallery / "run.json").read_text(encoding="utf-8"))
    if failed := [n["notebook"] for n in run["notebooks"] if n["error"]]:
        raise ValueError(f"the last run failed in {', '.join(failed)}: repair it, then `make run`")
    if run["pocket"] != pocket_checksum():
        raise ValueError("the last run is of other pocket weights than these: `make run` first")
    times = {n["notebook"]: n for n in run["notebooks"]}
    fresh = [
        new | {key: times[new["notebook"]][key] for key in USED}
        | {"machine": run["machine"]}
        for new in load_results(gallery / "claims")
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
    runs = sorted(map(judged, [*kept, *fresh]), key=lambda r: (r["notebook"], r["model"]))
    return results | {"pocket": run["pocket"], "runs": runs}


def judged(run: dict[str, Any]) -> dict[str, Any]:
    """A recorded run whose numbers are judged by the claims files of today."""
    if run["notebook"] not in load_suite():
        return run
    claims, rows = Claims(run["notebook"], run["model"]), []
    for row in run["rows"]:
        if row["id"] in claims.declared and row["value"] is not None:
            line = claims.judge(row["id"], row["value"], control=row["control_value"])
            rows.append(asdict(line))
        elif row["id"] in claims.declared:
            rows.append(row)
    return run | {"rows": rows}


def notebook_row(path: Path) -> list[str]:
    """A notebook's title, question, minutes, times and Colab link, from its first two cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    head, first = ("".join(cell["source"]) for cell in cells[:2])
    parts = {
        "title": re.search(r"^# (.+)$", head, re.M),
        "minutes": re.search(r"About (\d+) minutes", head),
        "question": re.search(r"\*\*The question\.?\*\*:?\s+(.+?)(?=\n\s*\n|\Z)", first, re.S),
    }
    if missing := [name for name, found in parts.items() if not found]:
        raise ValueError(f"{path.name}: no {' and no '.join(missing)} in the first two cells")
    title, minutes, question = (found[1] for found in parts.values())  # type: ignore[index]
    question = re.sub(r"\]\((\d\d_\w+\.ipynb)\)", r"](notebooks/\1)", " ".join(question.split()))
    took = re.search(r"runs in (.+?) on pocket", head)
    colab = re.search(r"\[open in Colab\]\((.+?)\)", head)
    return [
        f"[{title}](notebooks/{path.name})",
        question,
        minutes,
        took[1] if took else "not measured",
        f"[open]({colab[1]})" if colab else "",
    ]


def notebooks_table() -> str:
    """The table of notebooks in reading order, with Colab's column where there is a release."""
    rows = [notebook_row(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    head, rule = ["notebook", "question", "minutes", "runs in", "Colab"], "|---|---|---:|---|---|"
    if not any(row[-1] for row in rows):
        rows, head, rule = [row[:-1] for row in rows], head[:-1], "|---|---|---:|---|"
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def coverage(runs: list[dict[str, Any]]) -> str:
    """Which model has met how many of the notebooks in the recorded runs, in sentences."""
    here = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    met = {model: 0 for model in MODELS}
    for run in runs:
        if run["notebook"] in here:
            met[run["model"]] = met.get(run["model"], 0) + 1
    names = {model: MODELS.get(model, f"`{model}`") for model in met}
    done = [
        f"{names[model]} ({'all' if count == len(here) else f'{count} of'} {len(here)} notebooks)"
        for model, count in met.items()
        if count
    ]
    short = {name.partition(" (")[0] for name in (names[m] for m, count in met.items() if count)}
    absent = [names[model].partition(" (")[0] for model, count in met.items() if not count]
    never = [name for name in dict.fromkeys(absent) if name not in short]
    text = f"**Recorded runs: {', '.join(done) or 'none yet'}.**"
    suite = load_suite()
    own = [name for name in here & {*suite} if {c.own for c in suite[name].values()} == {True}]
    if own:
        text += f" Of these notebooks, {len(own)} ask only models of their own: their runs say"
        text += " nothing of the model that was loaded."
    return f"{text} No recorded run has met {' or '.join(never)} yet." if never else text


def sample_table(runs: list[dict[str, Any]]) -> str:
    """The claims named in SAMPLE, as far as a run has made them."""
    kept = [run | {"rows": [r for r in run["rows"] if r["id"] in SAMPLE]} for run in runs]
    return results_markdown([run for run in kept if run["rows"]]).strip()


def times_table(runs: list[dict[str, Any]]) -> str:
    """Seconds and peak memory of each recorded run."""
    head = "| notebook | loaded model | runs in | seconds by the clock | machine |"
    rows = [
        f"| {r['notebook']} | {r['model']} | {measured(r)} | {r['seconds']:.0f} | {r['machine']} |"
        for r in runs
    ]
    return "\n".join([head, "|---|---|---|---:|---|", *rows])


def tally(run: dict[str, Any]) -> str:
    """How many of a run's claims about its model hold, of those that have an expectation for it."""
    states = [row["status"] for row in run["rows"] if not row.get("own")]
    if not states:
        return ""
    judged = states.count("holds") + states.count("fails")
    text = f"{states.count('holds')} of {judged} claims hold on {run['model']}"
    absent = states.count("not here")
    return f"{text}, {absent} {'is' if absent == 1 else 'are'} not in it" if absent else text


def own_tally(runs: list[dict[str, Any]]) -> str:
    """How many of the claims about a notebook's own models hold in each of its runs."""
    states: dict[str, set[str]] = {}
    for row in (row for run in runs for row in run["rows"] if row.get("own")):
        states.setdefault(row["id"], set()).add(row["status"])
    if not states:
        return ""
    return f"{list(states.values()).count({'holds'})} of {len(states)} claims hold on {OWN}"


def results_section(runs: list[dict[str, Any]]) -> str:
    """The claims of each notebook, folded away behind a line that counts them."""
    if not runs:
        return "No run is recorded yet."
    parts = []
    for notebook in sorted({run["notebook"] for run in runs}):
        own = [run for run in runs if run["notebook"] == notebook]
        table = results_markdown(own).strip().replace(f"| {notebook} | ", "| ")
        table = table.replace("| notebook | claim", "| claim", 1).replace("|---|---|", "|---|", 1)
        counts = ", ".join(filter(None, [own_tally(own), *map(tally, own)]))
        summary = f"<summary>{notebook}: {counts}</summary>"
        parts.append(f"<details>{summary}\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def setup_table(times: dict[str, Any] | None) -> str:
    """What benchmarks/bench_setup.py measured last."""
    if times is None:
        return "Not measured yet: `make bench`."
    rows = [f"| {what} | {s:.1f} | {times['machine']} |" for what, s in times["seconds"].items()]
    return "\n".join(["| what | seconds | machine |", "|---|---:|---|", *rows])


def pages(results: dict[str, Any]) -> dict[Path, dict[str, str]]:
    """What is made in each page, by name."""
    runs = results["runs"]
    return {
        README: {
            "coverage": coverage(runs),
            "notebooks": notebooks_table(),
            "sample": sample_table(runs),
        },
        RESULTS_PAGE: {
            "coverage": coverage(runs),
            "results": results_section(runs),
            "times": times_table(runs),
            "setup": setup_table(results["setup"]),
        },
    }


def render(page: Path, made: dict[str, str]) -> str:
    """A page with what is made put in anew; raises ValueError where a marker is missing."""
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
        if len(marked.findall(text)) != 1:
            raise ValueError(f"{page.name} must hold <!-- {name} --> … <!-- end {name} --> once")
        text = marked.sub(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
    return text


def stale(results: dict[str, Any]) -> Iterator[str]:
    """What in the pages or the results no longer agrees with the repository."""
    for page, made in pages(results).items():
        if page.read_text(encoding="utf-8") != render(page, made):
            yield f"{page.name}: its tables differ from the notebooks and data/results.json"
    if results["pocket"] != pocket_checksum():
        yield "data/results.json: recorded on other pocket weights than the committed ones"
    suite = load_suite()
    known = {claim for claims in suite.values() for claim in claims}
    yield from (f"readme.py: {gone} of SAMPLE is no claim" for gone in SAMPLE if gone not in known)
    recorded = {(run["notebook"], run["model"]): run for run in results["runs"]}
    for notebook in suite:
        run = recorded.get((notebook, "pocket"), {"rows": []})
        rows = {row["id"] for row in run["rows"]}
        for claim in suite[notebook]:
            if claim not in rows:
                yield f"data/results.json: {claim} of {notebook} has no value on pocket"
    for (notebook, model), run in recorded.items():
        if notebook not in suite:
            yield f"data/results.json: {notebook} has no claims file any more"
        elif run != judged(run):
            yield f"data/results.json: {notebook} on {model} was judged by other claims than these"
        for row in run["rows"]:
            if row["status"] == "fails" and model == "pocket":
                yield f"data/results.json: {row['id']} failed in the recorded run"


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, report what is stale")
    parser.add_argument("--gallery", nargs="+", type=Path, help="default: build/gallery")
    asked = parser.parse_args()
    check = asked.check
    results = read_results()
    try:
        if not check:
            for gallery in asked.gallery or [GALLERY]:
                if asked.gallery or (gallery / "run.json").is_file():
                    results = take_over(results, gallery)
            if SETUP.is_file():
                results["setup"] = json.loads(SETUP.read_text(encoding="utf-8"))
            results["runs"] = [judged(run) for run in results["runs"]]
            if results["runs"] or results["setup"]:
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            build_notebooks.main([])  # their headers state the times
            for page, made in pages(results).items():
                page.write_text(render(page, made), encoding="utf-8")
        problems = list(stale(results))
    except (ValueError, FileNotFoundError) as err:
        problems = [str(err)]
    for problem in problems:
        print(problem)
    if problems:
        print("`make run`, then `make readme`, brings them up to date.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
