"""docs/scaling.md: its scripts are sound, and what they call is there."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cluster_test
import pytest
import slurm_test
import torch
from safetensors.torch import save_file

import mi_helpers.sae as S

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
DASK = ROOT / "build" / "cluster" / "dask"  # where `make cluster-test` installs it


def blocks(language: str) -> list[str]:
    """The code of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


def slurm() -> str:
    [script] = [text for text in blocks("sh") if "#SBATCH" in text]
    return script


def test_the_slurm_script_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "sweep.sh"
    path.write_text(slurm())
    assert slurm().startswith("#!/bin/bash\n#SBATCH ")
    if os.name == "nt" or not (bash := shutil.which("bash")):
        pytest.skip("no bash here")
    assert subprocess.run([bash, "-n", str(path)]).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        # $page is meant to be split into its words.
        done = subprocess.run(
            [shellcheck, "--exclude=SC2086", str(path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_python_of_the_page_asks_for_what_is_there() -> None:
    asked = 0
    for text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mi_helpers"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), node.module
                asked += len(node.names)
    assert asked >= 4


def test_the_pages_autoencoders_are_trained_and_go_on(tiny_model, tmp_path, monkeypatch) -> None:
    """With four steps, two seeds and a model of two layers."""
    [text] = [text for text in blocks("python") if "sae.train(" in text]
    small = [("steps=4883, batch=2048", "steps=4, batch=64"), ("range(10)", "range(2)")]
    for large, little in small:
        assert text.count(large) == 1
        text = text.replace(large, little)
    monkeypatch.chdir(tmp_path)
    tokens = torch.randint(1, 300, (24, 14), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens}, "tokens.safetensors")
    exec(text, space := {"model": tiny_model})
    assert space["folders"] == [Path("saes") / f"{i}_{seed}" for i in (0, 1) for seed in (0, 1)]
    one, other = (S.load(folder).W_dec for folder in space["folders"][:2])
    assert one.shape == (256, 32) and not torch.equal(one, other)
    monkeypatch.setattr(S, "start", lambda *given: pytest.fail("begun anew"))
    exec(text, {"model": tiny_model})


@pytest.mark.skipif(not DASK.is_dir(), reason="no Dask here: make cluster-test installs it")
@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_dask_has_every_option_of_the_page(part: str) -> None:
    told = slurm().replace("\\\n", " ")
    [line] = re.findall(rf"dask {part} (.*)", told)
    [shared] = re.findall(r'page="(.*)"', told)
    options = set(re.findall(r"--[a-z-]+", f"{line} {shared}"))
    assert len(options) >= 3
    environment = {**os.environ, "PYTHONPATH": str(DASK)}
    command = [sys.executable, "-m", "dask", part, "--help"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    assert options <= set(re.findall(r"--[a-z-]+", said)), options


def test_the_slurm_test_finds_what_it_changes_in_the_page(tmp_path: Path) -> None:
    script = slurm_test.write_job(tmp_path, dask=tmp_path / "dask")
    ast.parse(script)
    told = (tmp_path / "sweep.sh").read_text()
    assert "--nodes=2" in told and f"{tmp_path}/dask/bin/dask worker" in told
    assert ".venv/bin/dask" not in told and '"pocket"' in script and "1250" not in script


def test_where_slurm_is_not_installed_it_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_test, "SEARCHED", "")
    with pytest.raises(slurm_test.SlurmError, match="slurmctld.*apt install.* slurmd"):
        slurm_test.require_programs()


def slurm_is_not_here() -> str:
    """Why; empty where it is."""
    try:
        slurm_test.require_programs()
    except slurm_test.SlurmError as err:
        return str(err)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm_is_not_here()), reason=slurm_is_not_here())
@pytest.mark.parametrize("fails", [False, True])
def test_a_slurm_of_its_own_listens_on_loopback_and_leaves_nothing(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_test, "FOLDER", tmp_path / "slurm")
    with contextlib.suppress(KeyboardInterrupt), slurm_test.slurm() as environment:
        job = "#!/bin/sh\nsrun sleep 100\n"
        slurm_test.said(
            ["sbatch", "--nodes=2", "--mem=10M", "--output=/dev/null"], environment, job
        )
        here = slurm_test.ours
        slurm_test.until(lambda: bool(here("SLURM_NODEID=1\0")), 60, "no task on the second node")
        assert cluster_test.beyond_loopback(set(here())) == []
        names = {one.name() for one in slurm_test.of_second_node()}
        assert {"slurmd", "slurmstepd", "sleep"} <= names
        assert len(here()) > len(slurm_test.of_second_node())
        if fails:
            raise KeyboardInterrupt
    assert not here()
