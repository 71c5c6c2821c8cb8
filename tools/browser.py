"""A Jupyter and a Chromium without a network, to look at notebooks and to test them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kernel import own_kernel

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
CLASSIC = Path(__file__).resolve().parents[1] / "build" / "classic"
PATIENCE = 180_000  # milliseconds that anything may take to show up, on a busy machine
LOCAL = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "blob:", "about:")


def chromium() -> str:
    """Return the path of an installed Chromium; FileNotFoundError if there is none."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError("no Chromium found; install one, for example: apt install chromium")


def save_pictures(figures: Mapping[str, Any], folder: Path) -> None:
    """Save plotly figures as PNG in a folder, each under its name, without a network."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium(), args=list(FLAGS)).new_page(
            viewport={"width": 860, "height": 900}
        )
        for name, figure in figures.items():
            page.set_content(figure.to_html(include_plotlyjs=True))
            page.locator(".main-svg").first.wait_for()
            page.locator(".plot-container").first.screenshot(path=folder / f"{name}.png")


@dataclass
class Lab:
    """A running Jupyter: its address, its token, and the folder it serves."""

    url: str
    token: str
    root: Path

    def address(self, notebook: str) -> str:
        """Return the address that opens `notebook` in JupyterLab, in a workspace of its own."""
        return (
            f"{self.url}/lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?token={self.token}"
        )


LAB_COMMAND = (
    "jupyterlab", "--LabApp.expose_app_in_browser=True",
    "--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
)  # fmt: skip


@contextmanager
def jupyter_lab(root: Path, theme: str = "light") -> Iterator[Lab]:
    """Serve `root` with JupyterLab on loopback, with settings of its own, until the block ends."""
    with _served(root, LAB_COMMAND, theme) as lab:
        yield lab


@contextmanager
def classic_notebook(root: Path) -> Iterator[Lab]:
    """Serve `root` with the classic Notebook on loopback, until the block ends.

    It is no part of this environment: the first call fetches it into build/classic.

    Raises FileNotFoundError where it is not there and cannot be fetched.
    """
    if not (CLASSIC / "ready").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        wanted = ["nbclassic>=1.1,<2", "ipython-genutils", "nest-asyncio>=1.5"]
        done = subprocess.run([*pip, "--target", str(CLASSIC), *wanted], capture_output=True)
        if done.returncode:
            raise FileNotFoundError(f"no classic Notebook: {done.stderr.decode()[-300:]}")
        (CLASSIC / "ready").write_text("yes\n")
    path = os.pathsep.join(filter(None, [str(CLASSIC), os.environ.get("PYTHONPATH")]))
    with _served(root, ["nbclassic"], environment={"PYTHONPATH": path}) as lab:
        yield lab


@contextmanager
def _served(
    root: Path,
    application: Sequence[str],
    theme: str = "light",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Lab]:
    """Run a Jupyter with a module of Python and its options, until the block ends."""
    with TemporaryDirectory() as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, token = probe.getsockname()[1], secrets.token_hex(16)
        probe.close()
        _write_settings(Path(home), theme)
        command = [
            sys.executable, "-m", *application, "--no-browser", "--allow-root",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        ]  # fmt: skip
        folders = {
            f"JUPYTER_{kind}_DIR": f"{home}/{kind.lower()}"
            for kind in ("CONFIG", "DATA", "RUNTIME")
        }
        folders |= {
            "JUPYTERLAB_SETTINGS_DIR": f"{home}/settings",
            "JUPYTERLAB_WORKSPACES_DIR": f"{home}/spaces",
        }
        own = os.environ | own_kernel() | folders | dict(environment or {})
        with open(f"{home}/log", "w") as log:
            server = subprocess.Popen(command, env=own, stdout=log, stderr=log)
        lab = Lab(f"http://127.0.0.1:{port}", token, root)
        try:
            _wait_for(lab, server, Path(home) / "log")
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def _write_settings(home: Path, theme: str) -> None:
    settings = {
        "apputils-extension/themes": {"theme": f"JupyterLab {theme.capitalize()}"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def _wait_for(
    lab: Lab, server: subprocess.Popen[bytes], log: Path, seconds: float = PATIENCE / 1000
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=2).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"Jupyter ended:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.3)
    raise TimeoutError(f"Jupyter did not answer in {seconds} s:\n{log.read_text()[-2000:]}")


@dataclass
class Window:
    """A browser page without a network, and the addresses that anything in it asked for in vain."""

    page: Any
    blocked: list[str] = field(default_factory=list)

    def open_notebook(self, lab: Lab, notebook: str) -> None:
        """Open `notebook` in `lab` and wait until its kernel is ready."""
        self.page.goto(lab.address(notebook))
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'",
            timeout=PATIENCE,
        )

    def command(self, name: str) -> None:
        """Execute one of JupyterLab's commands, such as "notebook:run-all-cells", to its end."""
        self.page.evaluate(
            "async name => { await window.jupyterapp.commands.execute(name); }", name
        )

    def settle(self, milliseconds: int = 1500) -> None:
        """Give figures the time to paint."""
        self.page.wait_for_timeout(milliseconds)


@contextmanager
def offline_window(width: int = 1280, height: int = 1000, theme: str = "light") -> Iterator[Window]:
    """Open a headless Chromium that reaches nothing but 127.0.0.1, until the block ends."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        size: Any = {"width": width, "height": height}
        scheme: Any = theme
        context = browser.new_context(viewport=size, color_scheme=scheme)
        window = Window(context.new_page())
        window.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)

        def gate(route: Any) -> None:
            if route.request.url.startswith(LOCAL):
                route.continue_()
            else:
                window.blocked.append(route.request.url)
                route.abort()

        context.route("**/*", gate)
        try:
            yield window
        finally:
            browser.close()
