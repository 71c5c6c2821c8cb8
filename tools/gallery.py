"""Execute every notebook and write build/gallery: a page for each, and an index of the claims.

    python tools/gallery.py [--model pocket] [--jobs 2] [notebooks ...]
    python tools/gallery.py --model pocket,gpt2 [--scheduler FILE]

Each notebook runs in a process of its own, so that its seconds, its processor seconds and its peak
memory are its own. Of several models each gets a gallery: build/gallery-pocket and so on. With the
scheduler file of a Dask cluster the runs are spread over its workers, which must see this folder
under the same name (docs/scaling.md).

Pages and index need no network and can be handed out as they are: formulas are painted, solutions
are folded, and links lead to another page, to a file copied beside the pages, or to the release
that pyproject.toml names; where there is none of these, a link is left as text.

On any model but pocket, expectations.html puts what was expected beside what was found; no red
claim ever ends the run before it is written.

The folder also keeps what `make readme` reads: claims/*.json, as the notebooks wrote them, and
run.json with times and the machine; and executed/*.ipynb, from which `make site` is built. A failed
notebook keeps its page, up to the error; the exit
status is 1 if any notebook or claim failed.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import expectations_page
from kernel import own_kernel
from pages import navigation, title, to_html
from release import read_release

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "build" / "gallery"
CELL_SECONDS = 1800
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%}figcaption{font-weight:600;padding:.5rem 0}
td,th{text-align:left}td,th{border-bottom:1px solid #d0d7de;padding:.3rem .6rem;
vertical-align:top}"""


def used() -> dict[str, float | None]:
    """Peak memory in GiB and processor seconds of what this process started and waited for."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return {"peak_gib": None, "cpu_seconds": None}
    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "peak_gib": round(usage.ru_maxrss * unit / 2**30, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


class Links:
    """Where the links of the notebooks of one gallery lead."""

    def __init__(
        self,
        notebooks: Sequence[Path],
        gallery: Path,
        root: Path = ROOT,
        others: Mapping[Path, str] | None = None,
    ) -> None:
        """`others` are pages of other files and folders, by path, beside the notebooks' own."""
        self.pages = {path.resolve(): f"{path.stem}.html" for path in notebooks}
        self.others = {path.resolve(): page for path, page in (others or {}).items()}
        self.gallery, self.root, self.release = gallery, root, read_release(root)

    def resolver(self, folder: Path) -> Callable[[str], str | None]:
        """From the addresses in a notebook of `folder` to those on its page."""
        return lambda url: self.resolve(folder, url)

    def resolve(self, folder: Path, url: str) -> str | None:
        """One address; copies the file it names beside the pages where that is the way."""
        if re.match(r"[a-z]+:|#", url):
            return url
        name, mark, anchor = url.partition("#")
        path = (folder / name).resolve()
        if page := self.pages.get(path) or self.others.get(path):
            return page + mark + anchor
        if not path.is_file() or not path.is_relative_to(self.root.resolve()):
            return None
        place = path.relative_to(self.root.resolve()).as_posix()
        if self.release:
            return self.release.file(place)
        if path.suffix != ".ipynb":  # a page of Markdown would have links of its own
            return None
        target = self.gallery / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return place

    def navigation(self, notebook: Path) -> str:
        """Links to the index and to the pages before and after a notebook's."""
        paths = list(self.pages)
        here = paths.index(notebook.resolve())
        found = [("", "index.html", "All notebooks")]
        for what, number in (("Before:", here - 1), ("Next:", here + 1)):
            if 0 <= number < len(paths):
                name = paths[number].stem.replace("_", " ")
                found.append((what, self.pages[paths[number]], name))
        return navigation(found)


def execute(notebook: Path, page: Path, notebooks: Sequence[Path] = ()) -> dict[str, Any]:
    """Run one notebook and write its page; returns title, seconds, what it used, and error.

    `notebooks` are all that get a page in this gallery, in their order.
    """
    import nbformat
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
    seconds, resources = round(time.perf_counter() - start, 1), used()
    executed = page.parent / "executed" / notebook.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, executed)
    links, folder = Links(notebooks or [notebook], page.parent), notebook.parent
    text = to_html(content, links.resolver(folder), links.navigation(notebook), folder)
    page.write_text(text, encoding="utf-8")
    return {
        "title": title(content) or notebook.stem, "seconds": seconds, **resources, "error": error
    }  # fmt: skip


def execute_apart(
    notebook: Path, notebooks: Sequence[Path], model: str, gallery: Path
) -> dict[str, Any]:
    """`execute` in a process of its own, with the settings of a gallery run."""
    settings = {
        "MI_MODEL": model,
        "MI_CLAIMS_DIR": str(gallery / "claims"),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    page = gallery / f"{notebook.stem}.html"
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(notebook), "--page", str(page),
         *map(str, notebooks)],
        env=os.environ | settings, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        unknown = dict.fromkeys(("seconds", "cpu_seconds", "peak_gib"))
        error = f"the run ended with status {done.returncode}"
        report = {"title": notebook.stem, **unknown, "error": error}
    outcome = report["error"] or (
        f"{report['seconds']} s, {report['cpu_seconds']} s of processor time, "
        f"{report['peak_gib']} GiB"
    )
    print(f"{notebook.stem} on {model}: {outcome}", flush=True)
    return {"notebook": notebook.stem, **report}


@contextmanager
def workers(jobs: int, scheduler: Path | None) -> Iterator[None]:
    """Where the notebooks run: so many at a time here, or on a Dask cluster."""
    import joblib

    if scheduler is None:
        with joblib.parallel_config(backend="threading", n_jobs=jobs):
            yield
        return
    from distributed import Client

    with Client(scheduler_file=str(scheduler)), joblib.parallel_config(backend="dask"):
        yield


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
    from mi_helpers.suite.claims import Line, Table

    rows = "".join(
        f'<tr><td><a href="{escape(r["notebook"])}.html">{escape(r["title"])}</a></td>'
        f"<td>{r['seconds'] or ''}</td><td>{r['cpu_seconds'] or ''}</td>"
        f"<td>{r['peak_gib'] or ''}</td>"
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
        "<th>seconds</th><th>processor seconds</th><th>peak memory, GiB</th><th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table><h2>Claims</h2>{tables}</html>\n"
    )


def galleries(models: Sequence[str], root: Path | None = None) -> list[Path]:
    """The folder of each model's gallery: `root`, or beside it where there are several models."""
    root = root or GALLERY
    if len(models) == 1:
        return [root]
    names = [re.sub(r"\W+", "-", Path(model).name) for model in models]
    return [root.with_name(f"{root.name}-{name}") for name in names]


def build(
    notebooks: Sequence[Path], models: Sequence[str], jobs: int, scheduler: Path | None = None
) -> int:
    """Execute the notebooks on each model and write the galleries; returns the exit status."""
    from mi_helpers.spread import spread

    folders = galleries(models)
    tasks = [
        (path, notebooks, model, folder)
        for model, folder in zip(models, folders, strict=True)
        for path in notebooks
    ]
    with workers(jobs, scheduler):  # first: a cluster that is not there leaves the last gallery
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "claims").mkdir(parents=True)
        reports = spread(lambda task: execute_apart(*task), tasks, progress=False)
    n, failed = len(notebooks), False
    for i, (model, folder) in enumerate(zip(models, folders, strict=True)):
        failed |= write_gallery(folder, model, reports[n * i : n * (i + 1)])
    return int(failed)


def write_gallery(folder: Path, model: str, reports: Sequence[dict[str, Any]]) -> bool:
    """Write what a gallery has beside its pages; True where a run or a claim failed."""
    run: dict[str, Any] = {"model": model, "machine": machine(), "pocket": pocket_checksum()}
    run["notebooks"] = reports
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    paths = sorted((folder / "claims").glob("*.json"))
    claims = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    (folder / "index.html").write_text(index_page(run, claims), encoding="utf-8")
    place = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    if model != "pocket":
        text = expectations_page.page(
            claims,
            expectations_page.describe(model),
            claims[0]["model"] if claims else model,
            STYLE,
        )
        (folder / "expectations.html").write_text(text, encoding="utf-8")
        print(f"What was expected and what was found: {place / 'expectations.html'}")
    errors = sum(bool(report["error"]) for report in reports)
    failed = sum(row["status"] == "fails" for claim in claims for row in claim["rows"])
    missing = sum(len(claim["missing"]) for claim in claims)
    print(f"{model}: {len(reports)} notebooks, {errors} with an error; {failed} claims failed, "
          f"{missing} not made. Open {place / 'index.html'}")  # fmt: skip
    return bool(errors or failed or missing)


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: notebooks/*.ipynb")
    parser.add_argument("--model", default="pocket", help="what MI_MODEL is set to; or a,b,c")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time")
    parser.add_argument("--scheduler", type=Path, help="a Dask cluster's scheduler file")
    for name in ("--one", "--page"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        os.environ |= own_kernel()
        print(json.dumps(execute(options.one, options.page, options.notebooks)))
        return 0
    notebooks = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if missing := [str(path) for path in notebooks if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    if options.scheduler and not options.scheduler.is_file():
        parser.error(f"no file {options.scheduler}: `dask scheduler --scheduler-file` writes it")
    if options.scheduler and find_spec("distributed") is None:
        parser.error("a Dask cluster needs one package more: python -m uv pip install distributed")
    models = []
    for name in options.model.split(","):
        folder = Path(name).expanduser()  # notebooks run in a folder of their own
        models.append(str(folder.resolve()) if folder.is_dir() else name)
    if len(set(galleries(models))) < len(models):
        parser.error(f"models of one name would share a gallery: {options.model}")
    found = [path.resolve() for path in notebooks]
    return build(found, models, options.jobs, options.scheduler)


if __name__ == "__main__":
    sys.exit(main())
