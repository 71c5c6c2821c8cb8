"""Build the container of docker/Dockerfile and look that it is what docs/hub.md says.

    python tools/container_test.py [--base IMAGE] [--jupyterhub VERSION] [other options of build]

Works with docker, or with podman where there is no docker. `--base` stands for python:3.13-slim:
an image with Python >= 3.10, its venv module and a command `python`. The image is built as
mi-notebooks-test and removed at the end, its containers too. Inside nobody is root and there is no
network: the start notebook is executed, and JupyterLab, published on 127.0.0.1, asks for its token,
has the learner's notebooks, and ends when it is told to. With `--jupyterhub` a second image must
have that version of the hub's server.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "mi-notebooks-test"
START = "00_start_here.ipynb"
PATIENCE = 240  # seconds for JupyterLab, on a busy machine


class ContainerError(Exception):
    """What is not as it should be; where the reader can put it right, the message says how."""


def engine() -> str:
    """docker or podman, whichever answers.

    Raises:
        ContainerError: neither does.
    """
    for name in ("docker", "podman"):
        if shutil.which(name):
            answer = subprocess.run([name, "version"], capture_output=True)
            if answer.returncode == 0:
                return name
    raise ContainerError(
        "neither docker nor podman answers: on Debian and Ubuntu apt install podman, "
        "or start docker's daemon: sudo systemctl start docker"
    )


def said(*command: str, fails: bool = False) -> str:
    """What a command prints; raises ContainerError where it fails, unless it may (`fails`)."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not fails:
        raise ContainerError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def build(tool: str, tag: str, arguments: list[str]) -> str:
    """Build the image; gives its size and the seconds that it took."""
    start = time.perf_counter()
    command = [tool, "build", "--file", "docker/Dockerfile", "--tag", tag, *arguments, "."]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise ContainerError(f"the image was not built: {' '.join(command)}")
    size = int(said(tool, "image", "inspect", "--format", "{{.Size}}", tag)) / 1e9
    return f"{tag}: {size:.2f} GB, built in {time.perf_counter() - start:.0f} s"


def execute_without_network(tool: str) -> str:
    """Execute the learner's start notebook in a container that has no network."""
    script = f"""
        set -e
        test "$(id -u)" = 1000
        cd work
        jupyter nbconvert --to notebook --execute {START} --output done.ipynb
        test "$(stat --format=%u done.ipynb)" = 1000
        python -c 'import json; cells = json.load(open("done.ipynb"))["cells"]
print("executed", sum(bool(cell.get("execution_count")) for cell in cells))'
    """
    told = said(tool, "run", "--rm", "--network", "none", IMAGE, "sh", "-c", script)
    executed = int(told.rpartition("executed ")[2])
    if executed < 5:
        raise ContainerError(f"only {executed} cells of {START} were executed")
    return f"{START}: {executed} cells executed as user 1000 without a network"


def status_of(address: str) -> int:
    """The status of an answer; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as err:
        return err.code
    except OSError:
        return 0


def look_at_lab(tool: str) -> str:
    """Start JupyterLab as the guide does, on a free port; ask it with and without its token."""
    name = said(tool, "run", "--rm", "--detach", "--publish", "127.0.0.1::8888", IMAGE).split()[-1]
    try:
        published = said(tool, "port", name, "8888").split()[-1]
        if not published.startswith("127.0.0.1:"):
            raise ContainerError(f"published at {published}: others reach it")
        end, address = time.monotonic() + PATIENCE, None
        while address is None:
            log = said(tool, "logs", name)
            address = re.search(r"JupyterLab answers: http://127\.0\.0\.1:8888/(\S+)", log)
            if time.monotonic() > end:
                raise ContainerError(f"JupyterLab named no address on 127.0.0.1:\n{log[-3000:]}")
            time.sleep(0.5)
        page, _, token = address[1].partition("?token=")
        api = f"http://{published}/api/contents/work"
        asked = [api, f"{api}?token=wrong", f"{api}?token={token}"]
        found = [status_of(one) for one in (*asked, f"http://{published}/{page}?token={token}")]
        if found != [403, 403, 200, 200]:
            raise ContainerError(f"no token, a wrong one, the right one, the page: {found}")
        with urllib.request.urlopen(f"{api}?token={token}", timeout=10) as reply:
            names = {one["name"] for one in json.load(reply)["content"]}
        copies = {path.name for path in (ROOT / "notebooks" / "exercises").glob("*.ipynb")}
        if copies - names:
            raise ContainerError(f"not there: {sorted(copies - names)}")
        start = time.perf_counter()
        said(tool, "stop", "-t", "60", name)
        stopped = time.perf_counter() - start
        if stopped > 30:
            raise ContainerError(f"JupyterLab did not end when it was told to: {stopped:.0f} s")
    finally:
        said(tool, "rm", "--force", name, fails=True)
    return f"JupyterLab: 403 without its token, {len(copies)} notebooks, ended in {stopped:.0f} s"


def main() -> None:
    """Build, look, tidy up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--base", help="in place of python:3.13-slim")
    parser.add_argument("--jupyterhub", help="a version: the image for hubs is built too")
    asked, others = parser.parse_known_args()
    tool = engine()
    arguments = [*others, *(["--build-arg", f"BASE={asked.base}"] if asked.base else [])]
    try:
        told = [build(tool, IMAGE, arguments), execute_without_network(tool), look_at_lab(tool)]
        if asked.jupyterhub:
            hub = ["--build-arg", f"JUPYTERHUB={asked.jupyterhub}"]
            told.append(build(tool, f"{IMAGE}-hub", [*arguments, *hub]))
            server = ["--rm", "--network", "none", f"{IMAGE}-hub", "jupyterhub-singleuser"]
            version = said(tool, "run", *server, "--version").split()
            if asked.jupyterhub not in version:
                raise ContainerError(f"jupyterhub-singleuser says {version}")
            told.append(f"jupyterhub-singleuser {asked.jupyterhub} runs inside")
    finally:
        said(tool, "image", "rm", "--force", IMAGE, f"{IMAGE}-hub", fails=True)
    print("\n".join(told))


if __name__ == "__main__":
    try:
        main()
    except ContainerError as err:
        sys.exit(f"error: {err}")
