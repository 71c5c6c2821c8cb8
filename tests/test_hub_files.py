"""What hubs, containers and Binder read: nobody is root, nobody gets in without being asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lab import as_copied

from mi_helpers.suite.library import notebooks

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def test_the_container_runs_as_a_user_and_bakes_in_no_secret() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    users = re.findall(r"^USER (.+)$", text, re.M)
    assert users and users[-1] == "1000"
    assert text.index("USER 1000") < text.index("COPY")
    assert not re.search(r"token=|password|IdentityProvider|NotebookApp|--allow-root", text)
    assert re.search(r"^ARG BASE=python:3\.\d+-slim\nFROM \$\{BASE\}$", text, re.M)
    command = json.loads(re.findall(r"^CMD (.+)$", text, re.M)[0])
    assert (ROOT / command[1]).is_file() and "--no-browser" in command
    assert text.index("build_notebooks.py --short") < text.index("lab.py --copies-only")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "work", "build"} <= set(ignored)


def test_the_container_passes_hadolint() -> None:
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip("no hadolint here")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_charts_values_ask_for_a_login_and_hold_a_notebooks_peak() -> None:
    values = yaml.safe_load((ROOT / "docker" / "values.yaml").read_text(encoding="utf-8"))
    login = values["hub"]["config"]["JupyterHub"]["authenticator_class"]
    assert login not in ("dummy", "nullauthenticator", "tmp", "")
    memory = values["singleuser"]["memory"]
    runs = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))["runs"]
    peak = max(run["peak_gib"] for run in runs if run["model"] == "pocket")
    limit, asked = (float(memory[key].removesuffix("G")) for key in ("limit", "guarantee"))
    assert asked < limit and limit * 1e9 / 2**30 > peak + 0.2  # a server beside the kernel
    hook = values["singleuser"]["lifecycleHooks"]["postStart"]["exec"]["command"]
    assert (ROOT / hook[1].partition("mi-notebooks/")[2]).is_file()


def test_the_chart_knows_every_value() -> None:
    """The chart refuses a key it does not know; its own schema says which it does."""
    from jsonschema import Draft7Validator

    path = ROOT / "tests" / "data" / "z2jh-values.schema.json"
    chart = Draft7Validator(json.loads(path.read_text(encoding="utf-8")))
    values = yaml.safe_load((ROOT / "docker" / "values.yaml").read_text(encoding="utf-8"))
    assert [error.message for error in chart.iter_errors(values)] == []
    values["singleuser"]["memory"]["most"] = values["singleuser"]["memory"].pop("limit")
    values["cull"]["timeout"] = "90 minutes"
    assert len(list(chart.iter_errors(values))) == 2


def test_repo2docker_finds_both_of_its_files() -> None:
    build = ROOT / "postBuild"
    assert build.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert os.access(build, os.X_OK) and (ROOT / "environment.yml").is_file()
    assert not any((ROOT / name).exists() for name in ("binder", ".binder", "Dockerfile"))
    text = build.read_text(encoding="utf-8")
    for path in re.findall(r"python (\S+\.py)", text):
        assert (ROOT / path).is_file()
    # jupytext is none of a reader's packages, so environment.yml has it not
    steps = ("requirements.lock jupytext\n", "build_notebooks.py --short", "lab.py --copies-only")
    assert [text.index(step) for step in steps] == sorted(text.index(step) for step in steps)
    if not (tool := shutil.which("repo2docker")):
        pytest.skip("no repo2docker here, so it was not asked")
    done = subprocess.run(
        [tool, "--no-build", "--debug", str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "RUN ./postBuild" in done.stdout + done.stderr
    assert '--file "environment.yml"' in done.stdout + done.stderr


def guide(language: str, start: str) -> str:
    """The block of the guide that begins so."""
    text = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    [block] = [one for one in re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
               if one.startswith(start)]  # fmt: skip
    return block


def test_the_copies_of_the_littlest_hub_lie_beside_what_they_point_to(tmp_path: Path) -> None:
    block = guide("sh", "cd /opt/mi-notebooks\nsudo /opt/tljh/user/bin/python tools/build")
    for path in re.findall(r"python (\S+)", block):
        assert (ROOT / path).is_file()
    home = tmp_path / "mi-notebooks"
    (home / "work").mkdir(parents=True)
    assert "cp -rT work /etc/skel/mi-notebooks/work" in block
    for name in re.findall(r'"\$PWD/(\w+)"', block):
        (home / name).symlink_to(ROOT / name)
    count = 0
    learners = (ROOT / "notebooks" / "exercises").glob("*.ipynb")
    copies = {path.name: as_copied(path, ROOT / "work") for path in learners}
    for text in copies.values():
        for link in re.findall(r"\]\((\.\./[^)#\s]+|[^)#/\s]+\.ipynb)", text):
            assert link in copies or (home / "work" / link).exists(), link
            count += link not in copies
    assert count > 20


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_a_clusters_progress_is_collected_from_its_running_servers(tmp_path: Path) -> None:
    """With a stand-in for kubectl: ada has solved one exercise, bob has no file."""
    first, kept = notebooks()[0], tmp_path / "kept.json"
    kept.write_text(json.dumps({first.name: {first.exercises[0]: "2026-01-02"}}))
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '"get pods --namespace mi "*) echo pod/jupyter-ada; echo pod/jupyter-bob ;;\n'
        f'"exec --namespace mi pod/jupyter-ada -- cat "*) cat {kept} ;;\n'
        "*) exit 1 ;;\nesac\n"
    )
    kubectl.chmod(0o755)
    block = guide("sh", "for pod in").replace("tools/", f"{ROOT}/tools/")
    path = os.pathsep.join(
        [str(kubectl.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    done = subprocess.run(
        ["sh", "-c", block], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["jupyter-ada", "1", "1", "2026-01-02"] in lines
    assert [line[:3] for line in lines if line[0] == "jupyter-bob"] == [["jupyter-bob", "0", "0"]]
    assert not (tmp_path / "homes" / "jupyter-bob" / "mi-progress.json").exists()
