"""A JupyterHub on loopback, to test what learners meet on one.

    python tools/hub.py --prepare      install JupyterHub and its proxy into build/hub

`make hub-test` prepares and runs tests/browser/test_hub.py. The hub is real, from PyPI, with
configurable-http-proxy from npm; its users log in with a password made for the run, their servers
are of this environment, and each has a home of its own. It never listens beyond 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kernel import own_kernel
from lab import update

ROOT = Path(__file__).resolve().parents[1]
HUB = ROOT / "build" / "hub"
PROXY = HUB / "node_modules" / ".bin" / "configurable-http-proxy"
WAIT = 180.0  # seconds that the hub may take to answer, on a busy machine
CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{ports[1]}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allowed_users = {users!r}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.cmd = [{python!r}, "-c", {single!r}]
c.Spawner.args = {arguments!r}
c.Spawner.environment = {environment!r}
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = c.Spawner.start_timeout = {wait}
"""
# A user's server: this environment's packages, and after them the hub's that it lacks.
SINGLE = """
import sys
sys.path.append({packages!r})
from jupyterhub.singleuser import main
main()
"""


def hub_python() -> Path:
    """The Python that JupyterHub is installed for."""
    return HUB / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepared() -> bool:
    """Whether `--prepare` has been called, and has come to its end."""
    return PROXY.exists() and (HUB / "ready").is_file()


def prepare() -> None:
    """Install JupyterHub and its proxy, apart from this environment.

    Raises:
        FileNotFoundError: there is no npm on this machine.
        subprocess.CalledProcessError: an installation failed; its message is above.
    """
    if prepared():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("JupyterHub's proxy needs Node.js: install npm")
    HUB.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(HUB / "venv")], check=True)
    pip = [str(hub_python()), "-m", "pip", "install", "--quiet", "jupyterhub>=5,<7"]
    subprocess.run(pip, check=True)
    subprocess.run(
        [npm, "install", "--silent", "--prefix", str(HUB), "configurable-http-proxy@^5"], check=True
    )
    (HUB / "ready").write_text("yes\n")


@dataclass
class Hub:
    """A running JupyterHub: its address, its users' password and homes, and its process."""

    url: str
    password: str
    homes: Path
    pid: int


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _configuration(folder: Path, users: Sequence[str], ports: list[int], password: str) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([str(hub_python()), "-c", code], text=True).strip()
    arguments = ["--LabApp.expose_app_in_browser=True"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    wanted = ("MI_MODEL", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
    environment = own_kernel() | {key: os.environ[key] for key in wanted if key in os.environ}
    return CONFIG.format(
        ports=ports, proxy=str(PROXY), password=password, users=set(users), wait=WAIT,
        homes=str(folder / "homes"), python=sys.executable, arguments=arguments,
        environment=environment, single=SINGLE.format(packages=packages),
    )  # fmt: skip


@contextmanager
def jupyter_hub(users: Sequence[str]) -> Iterator[Hub]:
    """Run a hub whose users have the learner's notebooks in their homes, until the block ends."""
    with TemporaryDirectory(prefix="mi-hub-") as name:
        folder, password, ports = Path(name), secrets.token_hex(16), _free_ports(3)
        for user in users:
            update(work=folder / "homes" / user)
        config = folder / "config.py"
        config.write_text(_configuration(folder, users, ports, password), encoding="utf-8")
        path = os.pathsep.join([str(hub_python().parent), os.environ.get("PATH", "")])
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(
                [str(hub_python()), "-m", "jupyterhub", "--config", str(config)],
                cwd=folder, env=os.environ | {"PATH": path}, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            hub = Hub(f"http://127.0.0.1:{ports[0]}", password, folder / "homes", server.pid)
            _wait_for(hub, server, folder / "log")
            yield hub
        finally:
            server.terminate()  # the hub ends its proxy and its users' servers
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for(hub: Hub, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{hub.url}/hub/api", timeout=2).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"JupyterHub ended:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.3)
    raise TimeoutError(f"JupyterHub did not answer in {WAIT} s:\n{log.read_text()[-3000:]}")


def main() -> int:
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", required=True)
    parser.parse_args()
    try:
        prepare()
    except (FileNotFoundError, subprocess.CalledProcessError) as err:
        print(f"JupyterHub could not be installed: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
