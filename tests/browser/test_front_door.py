"""The way in and the hand-outs, in a headless Chromium to which only 127.0.0.1 answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gallery  # noqa: E402
from browser import Lab, Window, chromium, offline_window  # noqa: E402
from pages import to_html  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
PATIENCE = 180


@pytest.fixture(scope="module", autouse=True)
def a_browser() -> None:
    """Without a Chromium nothing here can be seen."""
    try:
        chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def window() -> Iterator[Window]:
    """A fresh window; whatever it asked of a network fails the test."""
    with offline_window() as opened:
        yield opened
        assert opened.blocked == []


# ---------------------------------------------------------------------------------- JupyterLab


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, list[str]]]:
    """What `make lab` starts, for a user who has never opened JupyterLab, and what it said."""
    home = tmp_path_factory.mktemp("home")
    kinds = ("CONFIG", "DATA", "RUNTIME")
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in kinds}
    folders |= {f"JUPYTERLAB_{kind}_DIR": str(home / kind) for kind in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, str(ROOT / "tools" / "lab.py"), "--no-browser"]
    command += ["--LabApp.expose_app_in_browser=True"]
    said = home / "said"
    with said.open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | folders, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE
        ready: list[Path] = []
        while "JupyterLab answers: " not in said.read_text():
            assert server.poll() is None and time.monotonic() < end, said.read_text()[-2000:]
            time.sleep(0.3)
        ready = list((home / "runtime").glob("jpserver-*.json"))
        where = json.loads(ready[0].read_text())
        yield Lab(where["url"].rstrip("/"), where["token"], ROOT), said.read_text().splitlines()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def test_make_lab_says_what_it_does_and_opens_the_learners_copy(
    started: tuple[Lab, list[str]], window: Window
) -> None:
    lab, said = started
    told = [line for line in said if line.startswith("[ ") and " s] " in line]
    assert any("starting JupyterLab on work/00_start_here.ipynb" in line for line in told)
    [address] = [line for line in said if "JupyterLab answers: " in line]
    window.page.goto(address.split("answers: ")[1].split(" ")[0])
    window.page.wait_for_selector(".jp-Notebook .jp-Cell")
    path = window.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.path")
    assert path == "work/00_start_here.ipynb"
    assert (ROOT / path).is_file()


def test_nobody_gets_in_without_the_token(started: tuple[Lab, list[str]]) -> None:
    lab, _ = started
    for given, expected in (("", 403), (f"?token={lab.token}", 200)):
        try:
            status = urllib.request.urlopen(f"{lab.url}/api/contents{given}", timeout=60).status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == expected


def test_no_news_pop_up(started: tuple[Lab, list[str]], window: Window) -> None:
    """JupyterLab asks a new user whether to fetch news; here it does not."""
    lab, _ = started
    window.page.goto(f"{lab.url}/lab/tree/work/00_start_here.ipynb?token={lab.token}")
    window.page.wait_for_selector(".jp-Notebook .jp-Cell")
    window.settle(5000)
    assert window.page.locator(".Toastify__toast").all_inner_texts() == []
    asked = window.page.evaluate(
        """async () => (await window.jupyterapp.serviceManager.settings.fetch(
            '@jupyterlab/apputils-extension:notification')).raw"""
    )
    assert "true" not in asked  # the user has chosen nothing, and nothing was chosen for them


def test_the_pop_up_would_be_seen(tmp_path: Path, window: Window) -> None:
    """The test above looks in the right place; and what a user has set stays above our default."""
    token, settings = "0" * 32, tmp_path / "SETTINGS"
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("DATA", "RUNTIME")}
    folders |= {
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "WORKSPACES"),
    }
    (settings / "@jupyterlab" / "apputils-extension").mkdir(parents=True)
    name = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    (settings / name).write_text('{"fetchNews": "none"}')
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port=18888",
    ]  # fmt: skip
    environment = os.environ | folders | {"JUPYTER_CONFIG_DIR": str(tmp_path / "CONFIG")}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end, ready = time.monotonic() + PATIENCE, []
        while not ready and time.monotonic() < end:
            time.sleep(0.3)
            ready = list((tmp_path / "RUNTIME").glob("jpserver-*.json"))
        url = json.loads(ready[0].read_text())["url"]
        window.page.goto(f"{url}lab?token={token}")
        window.page.locator(".Toastify__toast").first.wait_for()
        assert "news" in window.page.locator(".Toastify__toast").first.inner_text()
    finally:
        server.terminate()
        server.wait(60)


# ---------------------------------------------------------------------------------- the pages


@pytest.fixture(scope="module")
def handout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of two of the learner's notebooks, unexecuted: what stands in them is enough."""
    folder = tmp_path_factory.mktemp("gallery")
    paths = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))[2:4]
    links = gallery.Links(paths, folder)
    for path in paths:
        notebook: Any = nbformat.read(path, as_version=4)
        text = to_html(notebook, links.resolver(path.parent), links.navigation(path), path.parent)
        (folder / links.pages[path.resolve()]).write_text(text, encoding="utf-8")
    run = {"model": "pocket", "machine": "2 cores", "notebooks": []}
    (folder / "index.html").write_text(gallery.index_page(run, []), encoding="utf-8")
    shutil.copyfile(paths[0], folder / "kept.ipynb")
    return folder


def test_formulas_are_painted(handout: Path, window: Window) -> None:
    window.page.goto((handout / "02_attention_heads.html").as_uri())
    formulas = window.page.locator("math")
    assert formulas.count() > 15
    boxes = [formulas.nth(i).bounding_box() for i in range(formulas.count())]
    seen = [box for box in boxes if box and box["width"]]  # others are in what is folded
    assert len(seen) > 10 and all(box["width"] > 4 and box["height"] > 6 for box in seen)
    text = window.page.locator("body").inner_text()
    assert "$$" not in text and "\\mathrm" not in text
    high = window.page.evaluate(  # laid out as a fraction, not one sign after the other
        """() => Math.max(...[...document.querySelectorAll('mfrac')].map(
            f => f.getBoundingClientRect().height / parseFloat(getComputedStyle(f).fontSize)))"""
    )
    assert high > 1.5


def test_hints_and_solutions_open_on_demand(handout: Path, window: Window) -> None:
    window.page.goto((handout / "03_induction_heads.html").as_uri())
    folded = window.page.locator("details")
    assert folded.count() >= 8
    hidden = "() => [...document.querySelectorAll('details')].every(d => !d.open)"
    assert window.page.evaluate(hidden)
    first = folded.first
    height = first.bounding_box()["height"]
    first.locator("summary").click()
    window.settle(200)
    assert first.bounding_box()["height"] > height + 10
    solutions = window.page.locator("details:has(> summary:text-is('Solution'))")
    code = solutions.first.locator("pre, .highlight").first
    assert not code.is_visible()
    solutions.first.locator("summary").click()
    assert code.is_visible()


def test_the_pages_lead_to_each_other(handout: Path, window: Window) -> None:
    page = window.page
    page.goto((handout / "02_attention_heads.html").as_uri())
    page.locator("nav.mi-pages a", has_text="03 induction heads").first.click()
    page.wait_for_url("**/03_induction_heads.html")
    page.locator("nav.mi-pages a", has_text="All notebooks").first.click()
    page.wait_for_url("**/index.html")
