"""Tests and tools run the notebooks in this environment, whatever kernels are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from kernel import own_kernel
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def stale(tmp_path: Path) -> dict[str, str]:
    """An environment in which `python3` is a kernel whose Python is gone, and another is not."""
    for name in ("python3", "other"):
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        argv = [str(tmp_path / "gone" / "python"), "-m", "ipykernel_launcher"]
        folder.joinpath("kernel.json").write_text(json.dumps({"argv": argv, "display_name": name}))
    environment = {key: value for key, value in os.environ.items() if key[:6] != "PYTEST"}
    return environment | {"JUPYTER_PATH": str(tmp_path / "jupyter")}


def test_this_environments_kernel_comes_first_and_others_stay(stale, monkeypatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    monkeypatch.setenv("JUPYTER_PATH", stale["JUPYTER_PATH"])
    assert "gone" in KernelSpecManager().get_kernel_spec("python3").argv[0]  # the trouble
    monkeypatch.setenv("JUPYTER_PATH", own_kernel()["JUPYTER_PATH"])
    assert "gone" not in KernelSpecManager().get_kernel_spec("python3").argv[0]
    assert "other" in KernelSpecManager().find_kernel_specs()


@pytest.mark.slow
def test_a_stale_kernel_breaks_no_notebook_test(stale, tmp_path: Path) -> None:
    """As `make test-notebooks` calls it; the root's conftest.py is what helps."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    text = "import sys; assert sys.prefix == " + repr(sys.prefix)
    path = tmp_path / "one.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(text)], metadata=metadata), path)
    command = [sys.executable, "-m", "pytest", "-q", "--nbmake", "-p", "no:cacheprovider"]

    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *settings, str(path)],
            cwd=tmp_path,
            env=stale,
            capture_output=True,
            text=True,
        )

    assert run().returncode == 1  # without the conftest.py, the trouble
    shutil.copyfile(ROOT / "conftest.py", tmp_path / "conftest.py")
    helped = run("-o", f"pythonpath={ROOT / 'tools'}")
    assert helped.returncode == 0, helped.stdout + helped.stderr
