"""Run a notebook in JupyterLab and photograph what a reader sees, cell by cell.

    python tools/shoot.py notebooks/01_residual_stream.ipynb build/shots
    python tools/shoot.py NOTEBOOK OUTDIR --theme dark       in JupyterLab's dark theme
    python tools/shoot.py NOTEBOOK OUTDIR --html             also as exported HTML, without a kernel

The notebook is copied, opened in a headless Chromium
that reaches no network, and run with live widgets. OUTDIR then holds one cell-NN.png for each cell
with output, notebook.png with the whole page, and executed.ipynb; with --html also html.png and
page.html. Whatever a figure tried to fetch from a network is listed, and makes the status 1, as
does a cell that raised an error. Environment variables such as MI_MODEL reach the kernel.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from browser import Window, jupyter_lab, offline_window
from pages import to_html

RUN_SECONDS = 1800


def copy_notebook(source: Path, folder: Path) -> str:
    """Copy `source` to `folder` as a notebook with a kernel, and return its name there."""
    import nbformat

    notebook: Any = nbformat.read(source, as_version=4)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, folder / "notebook.ipynb")
    return "notebook.ipynb"


def photograph(window: Window, out: Path) -> int:
    """Save a picture of every cell with output, and of the whole page; return their number."""
    page = window.page
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
    page.set_viewport_size(
        {"width": page.viewport_size["width"], "height": min(height + 120, 16_000)}
    )
    window.settle()
    cells = page.locator(".jp-Notebook .jp-Cell")
    taken = 0
    for number in range(cells.count()):
        outputs = cells.nth(number).locator(".jp-Cell-outputArea")
        box = outputs.first.bounding_box() if outputs.count() else None
        if box and box["height"] > 8:
            outputs.first.screenshot(path=out / f"cell-{number:02d}.png")
            taken += 1
    page.locator(".jp-Notebook").first.screenshot(path=out / "notebook.png")
    return taken


def shoot(source: Path, out: Path, theme: str, html: bool, width: int) -> int:
    """Do what the module's docstring says; return the exit status."""
    import nbformat

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with TemporaryDirectory() as folder:
        name = copy_notebook(source, Path(folder))
        with jupyter_lab(Path(folder), theme) as lab, offline_window(width, theme=theme) as window:
            window.open_notebook(lab, name)
            window.page.set_default_timeout(RUN_SECONDS * 1000)
            window.command("notebook:run-all-cells")
            window.settle(3000)
            taken = photograph(window, out)
            window.command("docmanager:save")
            blocked = list(window.blocked)
        executed: Any = nbformat.read(Path(folder) / name, as_version=4)
        nbformat.write(executed, out / "executed.ipynb")
    if html:
        page = out / "page.html"
        page.write_text(to_html(executed), encoding="utf-8")
        with offline_window(width, theme=theme) as window:
            window.page.goto(page.resolve().as_uri())
            window.settle(3000)
            window.page.screenshot(path=out / "html.png", full_page=True)
            blocked += window.blocked
    outputs = [o for c in executed.cells for o in c.get("outputs", [])]
    errors = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
    print(f"{taken} cells with output in {out}")
    for line in [*errors, *(f"asked the network for {url}" for url in blocked)]:
        print(line, file=sys.stderr)
    return 1 if errors or blocked else 0


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="a folder for the pictures; replaced")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--html", action="store_true", help="also photograph the exported HTML")
    parser.add_argument("--width", type=int, default=1280, help="of the browser, in pixels")
    options = parser.parse_args()
    if not options.notebook.is_file():
        parser.error(f"no such notebook: {options.notebook}")
    return shoot(options.notebook, options.out, options.theme, options.html, options.width)


if __name__ == "__main__":
    sys.exit(main())
