"""What hubs, containers and Binder read: nobody is root, nobody gets in without being asked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

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
    for path in re.findall(r"python (\S+\.py)", build.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file()
    if not (tool := shutil.which("repo2docker")):
        pytest.skip("no repo2docker here, so it was not asked")
    done = subprocess.run(
        [tool, "--no-build", "--debug", str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "RUN ./postBuild" in done.stdout + done.stderr
    assert '--file "environment.yml"' in done.stdout + done.stderr
