"""Execute every notebook and write build/gallery: a page for each, and an index of the claims.

    python tools/gallery.py [--model pocket] [--jobs 2] [notebooks ...]

Each notebook runs in a process of its own, so that its seconds and its peak memory are its own.
Pages and index need no network. The folder also keeps what `make readme` reads: claims/*.json, as
the notebooks wrote them, and run.json with times and the machine. A failed notebook keeps its page,
up to the error; the exit status is 1 if any notebook or claim failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "build" / "gallery"
CELL_SECONDS = 1800
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%}caption{font-weight:600;padding:.5rem 0}
caption,td,th{text-align:left}td,th{border-bottom:1px solid #d0d7de;padding:.3rem .6rem;
vertical-align:top}"""


def peak_gib() -> float | None:
    """Peak memory of the largest process that this one started and waited for, in GiB."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 2**30, 2)


def execute(notebook: Path, page: Path) -> dict[str, Any]:
    """Run one notebook and write its page; returns title, seconds, peak_gib and error."""
    import nbformat
    from browser import to_html
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    content = nbformat.read(notebook, as_version=4)
    error, start = None, time.perf_counter()
    try:
        NotebookClient(
            content,
            timeout=CELL_SECONDS,
            startup_timeout=300,
            resources={"metadata": {"path": str(notebook.parent)}},
        ).execute()
    except CellExecutionError as err:
        error = f"{err.ename}: {err.evalue}"
    seconds = time.perf_counter() - start
    first = next(cell.source for cell in content.cells if cell.cell_type == "markdown")
    title = re.search(r"^#\s+(.+)", first, re.M)
    page.write_text(to_html(content), encoding="utf-8")
    return {
        "title": title[1] if title else notebook.stem,
        "seconds": round(seconds, 1),
        "peak_gib": peak_gib(),
        "error": error,
    }


def execute_apart(notebook: Path, model: str) -> dict[str, Any]:
    """`execute` in a process of its own, with the settings of a gallery run."""
    settings = {
        "MI_MODEL": model,
        "MI_CLAIMS_DIR": str(GALLERY / "claims"),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(notebook)],
        env=os.environ | settings, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        report = {"title": notebook.stem, "seconds": None, "peak_gib": None}
        report["error"] = f"the run ended with status {done.returncode}"
    outcome = report["error"] or f"{report['seconds']} s, {report['peak_gib']} GiB"
    print(f"{notebook.stem}: {outcome}", flush=True)
    return {"notebook": notebook.stem, **report}


def machine() -> str:
    """The machine of a run in a few words, without its name."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} CPU cores, {system}, Python {platform.python_version()}"


def pocket_checksum() -> str:
    """The SHA-256 of pocket's weights as committed beside them; empty while there are none."""
    sums = ROOT / "data" / "pocket" / "model" / "SHA256SUMS"
    text = sums.read_text(encoding="utf-8") if sums.is_file() else ""
    found = re.search(r"^(\w{64})\s+\*?model\.safetensors$", text, re.M)
    return found[1] if found else ""


def index_page(run: dict[str, Any], claims: list[dict[str, Any]]) -> str:
    """The gallery's first page: notebooks with times, then every claim of the run."""
    from mi_helpers.claims import Line, Table

    rows = "".join(
        f'<tr><td><a href="{escape(r["notebook"])}.html">{escape(r["title"])}</a></td>'
        f"<td>{r['seconds'] or ''}</td><td>{r['peak_gib'] or ''}</td>"
        f"<td>{escape(r['error'] or 'ran to the end')}</td></tr>"
        for r in run["notebooks"]
    )
    tables = "".join(
        Table(c["notebook"], c["model"], tuple(Line(**row) for row in c["rows"]),
              tuple(c["missing"]))._repr_html_()
        for c in claims
    )  # fmt: skip
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Gallery of executed notebooks'
        f"</title><style>{STYLE}</style><h1>Executed notebooks</h1><p>Model: "
        f"{escape(run['model'])}. {escape(run['machine'])}.</p><table><thead><tr><th>notebook</th>"
        "<th>seconds</th><th>peak memory, GiB</th><th></th></tr></thead><tbody>"
        f"{rows}</tbody></table><h2>Claims</h2>{tables}</html>\n"
    )


def build(notebooks: list[Path], model: str, jobs: int) -> int:
    """Execute the notebooks and write the gallery; returns the exit status."""
    shutil.rmtree(GALLERY, ignore_errors=True)
    (GALLERY / "claims").mkdir(parents=True)
    with ThreadPoolExecutor(jobs) as pool:
        reports = list(pool.map(lambda path: execute_apart(path, model), notebooks))
    run = {"model": model, "machine": machine(), "pocket": pocket_checksum(), "notebooks": reports}
    (GALLERY / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    paths = sorted((GALLERY / "claims").glob("*.json"))
    claims = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    (GALLERY / "index.html").write_text(index_page(run, claims), encoding="utf-8")
    errors = sum(bool(report["error"]) for report in reports)
    failed = sum(row["status"] == "fails" for claim in claims for row in claim["rows"])
    missing = sum(len(claim["missing"]) for claim in claims)
    print(f"{len(reports)} notebooks, {errors} with an error; {failed} claims failed, {missing} "
          f"not made. Open {(GALLERY / 'index.html').relative_to(ROOT)}")  # fmt: skip
    return 1 if errors or failed or missing else 0


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: notebooks/*.ipynb")
    parser.add_argument("--model", default="pocket", help="what MI_MODEL is set to")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(execute(options.one, GALLERY / f"{options.one.stem}.html")))
        return 0
    notebooks = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if missing := [str(path) for path in notebooks if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    return build([path.resolve() for path in notebooks], options.model, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
