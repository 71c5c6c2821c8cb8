"""Two learners on one JupyterHub, each in a Chromium of their own: `make hub-test`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from browser import PATIENCE, Window, chromium, offline_window  # noqa: E402
from hub import Hub, jupyter_hub, prepared  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]
USERS = ("ada", "grace")
NOTEBOOK = "00_start_here.ipynb"
RUN = """async () => {
  const {content, context, sessionContext} = window.jupyterapp.shell.currentWidget;
  await window.jupyterapp.commands.execute("notebook:run-all-cells");
  await context.save();
}"""
SOLVE = """async ([stub, solution]) => {
  const {content, context} = window.jupyterapp.shell.currentWidget;
  const at = content.widgets.findIndex(cell => cell.model.sharedModel.source.includes(stub)
    && cell.model.sharedModel.source.includes("NotImplementedError"));
  content.widgets[at].model.sharedModel.setSource(solution);
  await window.jupyterapp.commands.execute("notebook:run-all-cells");
  await context.save();
  return at;
}"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    try:
        chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if not prepared():
        pytest.skip("no JupyterHub in build/hub: `make hub-test` installs it")
    with jupyter_hub(USERS) as running:
        yield running


def log_in(window: Window, hub: Hub, user: str, password: str | None = None) -> None:
    window.page.goto(f"{hub.url}/hub/login?next=%2Fhub%2Fspawn%2F{user}")
    window.page.locator("input[name=username]").fill(user)
    window.page.locator("input[name=password]").fill(password or hub.password)
    window.page.locator("input[type=submit], button[type=submit]").first.click()


def open_notebook(window: Window, hub: Hub, user: str) -> None:
    window.page.wait_for_url(f"**/user/{user}/lab*", timeout=PATIENCE)
    window.page.goto(f"{hub.url}/user/{user}/lab/tree/{NOTEBOOK}")
    window.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
    window.page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
        " === 'idle'",
        timeout=PATIENCE,
    )


def solution() -> tuple[str, str]:
    """The head of the first exercise's function, and its solution from the full notebook."""
    full = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    hidden = [c for c in full.cells if c.metadata.get("jupyter", {}).get("source_hidden")]
    [head, *_] = [line for line in hidden[0].source.splitlines() if line.startswith("def ")]
    return head, hidden[0].source


def told(hub: Hub, user: str) -> str:
    """The outputs of a learner's notebook, as it was last saved."""
    notebook: Any = nbformat.read(hub.homes / user / NOTEBOOK, as_version=4)
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


def status(window: Window, url: str) -> int:
    return window.page.request.get(url).status


def test_a_wrong_password_lets_nobody_in(hub: Hub) -> None:
    with offline_window() as window:
        log_in(window, hub, USERS[0], "a guess")
        window.page.wait_for_selector("input[name=password]")
        for path in ("api/contents", "lab"):
            reply = window.page.request.get(f"{hub.url}/user/{USERS[0]}/{path}")
            assert "/hub/login" in reply.url or reply.status in (403, 404), path
        assert window.page.locator(".jp-Notebook").count() == 0


def test_two_learners_run_solve_and_do_not_see_each_other(hub: Hub) -> None:
    stub, solved = solution()
    with offline_window() as window:
        context = window.page.context.browser
        other_context = context.new_context()
        other = Window(other_context.new_page())
        other.page.set_default_timeout(PATIENCE)
        windows = dict(zip(USERS, (window, other), strict=True))
        for user, own in windows.items():
            log_in(own, hub, user)
            open_notebook(own, hub, user)
            own.page.evaluate(RUN)
        for user in USERS:
            assert "start.prediction" in told(hub, user) and "holds" in told(hub, user)
        before = {user: told(hub, user).count("solved") for user in USERS}
        for number, (user, own) in enumerate(windows.items()):
            assert own.page.evaluate(SOLVE, [stub, solved]) > 0
            gained = {one: told(hub, one).count("solved") > before[one] for one in USERS}
            assert gained == {one: one in USERS[: number + 1] for one in USERS}, user
        (hub.homes / USERS[0] / "mine-alone.txt").write_text("secret")
        for user, own in windows.items():
            listed = own.page.request.get(f"{hub.url}/user/{user}/api/contents").json()
            names = {entry["name"] for entry in listed["content"]}
            assert NOTEBOOK in names
            assert ("mine-alone.txt" in names) == (user == USERS[0])
            for one in set(USERS) - {user}:
                for path in ("api/contents", "lab", f"files/{NOTEBOOK}", "api/kernels"):
                    assert status(own, f"{hub.url}/user/{one}/{path}") in (403, 404), path
        assert window.blocked == []
        other_context.close()


def command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def listening(processes: list[psutil.Process]) -> dict[str, set[str]]:
    """The addresses at which processes listen, by command."""
    found: dict[str, set[str]] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.setdefault(command(process), set()).add(one.laddr.ip)
    return found


def test_nothing_listens_beyond_loopback_and_nothing_is_left() -> None:
    """With a learner's server and kernel running."""
    if not prepared():
        pytest.skip("no JupyterHub in build/hub: `make hub-test` installs it")
    with jupyter_hub(USERS[:1]) as running, offline_window() as window:
        log_in(window, running, USERS[0])
        open_notebook(window, running, USERS[0])
        parent = psutil.Process(running.pid)
        processes = [parent, *parent.children(recursive=True)]
        found = listening(processes)
        for part in ("-m jupyterhub", "configurable-http-proxy", "singleuser", "ipykernel"):
            assert any(part in one for one in found), (part, [*found])
        assert all(ip_address(ip).is_loopback for ips in found.values() for ip in ips), found
    _, left = psutil.wait_procs(processes, timeout=60)
    assert not left, [command(process) for process in left]
    assert not running.homes.parent.exists()
