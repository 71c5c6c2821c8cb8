"""Fresh installs: what Colab brings stays as it is, and the set-up tool refuses what cannot work.

The tests marked `install` make an environment with what the package index offers, which takes a
minute and a network; they run when MI_TEST_INSTALL=1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import warnings
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import setup_env
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from release import Release
from sources import builder
from wheels import build_wheel

ROOT = Path(__file__).resolve().parents[1]
[COLAB] = (ROOT / "tests" / "data").glob("colab-*.txt")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
install = pytest.mark.skipif(
    os.environ.get("MI_TEST_INSTALL") != "1", reason="installs packages: set MI_TEST_INSTALL=1"
)


def run(*command: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, **options
    )


def checked(*command: object) -> str:
    done = run(*command)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def colab_names() -> set[str]:
    return set(re.findall(r"^([a-z]+)", COLAB.read_text(encoding="utf-8"), re.M))


def versions(python: Path) -> dict[str, str]:
    listed = json.loads(checked(python, "-m", "pip", "list", "--format", "json"))
    return {package["name"].lower(): package["version"] for package in listed}


def setup_cell() -> str:
    """The set-up cell of the first notebook as a release would write it."""
    project = replace(builder.read_project(ROOT), release=Release("some", "where", "v0.0.0"))
    source = builder.read_source(min((ROOT / "notebooks" / "src").glob("*.py")))
    return builder.setup_cell(source, project, learner=False, short=False).source


def setup_installs() -> list[list[str]]:
    """The arguments of the set-up cell's two pip lines, and of the third for a tag that is gone."""
    lines = re.findall(r"%pip install (.+)", setup_cell())
    assert len(lines) == 3 and 'if "google.colab" in sys.modules' in setup_cell()
    return [shlex.split(line) for line in lines]


def install_torch(python: Path) -> str:
    """Colab's torch as a CPU build, else with a warning that of these tests; which it was."""
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    [colab] = re.findall(r"^torch.+$", COLAB.read_text(encoding="utf-8"), re.M)
    here = re.search(r"^torch==.+$", (ROOT / "requirements.lock").read_text(), re.M)[0]
    index = ["--index-url", CPU_INDEX, "--retries", "0"]
    for torch, source in ((colab, ["--no-index"]), (colab, index), (here, ["--no-index"]),
                          (here, index)):  # fmt: skip
        if run(*pip, *source, torch).returncode == 0:
            if torch != colab:
                told = f"{CPU_INDEX} gives no {colab}: this is {torch}, not Colab's"
                warnings.warn(told, stacklevel=2)
            return torch
    if not setup_env.index_answers(f"{CPU_INDEX}/torch/"):
        pytest.skip(f"no PyTorch for a copy of Colab: {CPU_INDEX} does not answer")
    pytest.fail(f"{CPU_INDEX} answers, and gives neither {colab} nor {here}")


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """The Python of a fresh environment that holds what Colab brings, in its release lines."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install_torch(python)
    others = folder / "others.txt"
    others.write_text(re.sub(r"^torch.+$", "", COLAB.read_text(encoding="utf-8"), flags=re.M))
    torch_needs = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy"]
    colab_has = ["einops", "ipykernel<7", "safetensors", "scikit-learn", "tqdm"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    checked(*uv, "-r", others, *torch_needs, *colab_has)
    return python


@pytest.fixture(scope="module")
def set_up(colab, tmp_path_factory) -> tuple[dict[str, str], dict[str, str]]:
    """Do what the set-up cell does, with the package from here; versions before and after."""
    before, folder = versions(colab), tmp_path_factory.mktemp("wheel")
    (helpers, (*flags, package), instead) = setup_installs()
    assert flags == ["-q", "--no-deps"] and package.startswith("mi-helpers @ git+https://")
    assert instead == [*flags, package.removesuffix("@v0.0.0")]
    checked(colab, "-m", "pip", "install", *helpers)
    checked(colab, "-m", "pip", "install", *flags, build_wheel(folder))
    return before, versions(colab)


@pytest.mark.install
@install
@pytest.mark.timeout(1200)
@pytest.mark.xdist_group("colab")
def test_set_up_cell_leaves_what_colab_brings(set_up):
    before, after = set_up
    changed = {name for name in before if before[name] != after.get(name)}
    assert not changed & colab_names(), {name: (before[name], after.get(name)) for name in changed}
    assert colab_names() <= set(after)
    assert {"mi-helpers", "transformer-lens", "circuitsvis"} <= set(after) - set(before)


@pytest.mark.install
@install
@pytest.mark.timeout(1200)
@pytest.mark.xdist_group("colab")
@pytest.mark.parametrize("number", ["00", "01"])
def test_notebooks_run_on_what_colab_brings(colab, set_up, tmp_path, monkeypatch, number):
    """A notebook from top to bottom, strict, on the oldest libraries that the suite admits."""
    spec = tmp_path / "kernels" / "colab"
    spec.mkdir(parents=True)
    start = [str(colab), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(json.dumps({"argv": start, "display_name": "colab"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("MI_MODEL", "pocket")
    monkeypatch.setenv("MI_STRICT", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    [path] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(mi.__file__, torch.__version__)"))
    NotebookClient(
        notebook,
        kernel_name="colab",
        timeout=600,
        startup_timeout=300,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    said = notebook.cells[-1].outputs[0]["text"]
    assert str(colab.parent.parent) in said, f"ran on another installation: {said}"


@pytest.mark.install
@install
@pytest.mark.parametrize("python", ["3.10", "3.13"])
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_ranges_can_be_resolved(python, resolution, tmp_path):
    resolved = tmp_path / "resolved.txt"
    checked(
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-python-downloads",
        "--python-version", python, "--resolution", resolution, "--all-extras",
        ROOT / "pyproject.toml", "--output-file", resolved,
    )  # fmt: skip
    assert re.search(r"^transformer-lens==4\.", resolved.read_text(), re.M)


@pytest.mark.slow
def test_a_failed_installation_ends_the_set_up_cell_with_a_sentence(tmp_path):
    """On Colab without a network: pip's own words, one sentence, no ModuleNotFoundError."""
    pretend = """
import importlib.util, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
importlib.util.find_spec = lambda name: None if name == "mi_helpers" else True
get_ipython().register_magic_function(lambda line: print("ERROR: no network"), magic_name="pip")
"""
    sources = (pretend, setup_cell(), "print('went on')")
    cells = [nbformat.v4.new_code_cell(text) for text in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=120, startup_timeout=300).execute()
    said = notebook.cells[1].outputs
    lines = [out.text for out in said if out.output_type == "stream"][0].splitlines()
    assert lines.count("ERROR: no network") == 3 and lines[0] == lines[-1] == "ERROR: no network"
    [error] = [out for out in said if out.output_type == "error"]
    assert error.ename == "SystemExit" and error.evalue.startswith("The installation failed")
    assert not notebook.cells[2].outputs


@pytest.mark.slow
def test_a_tag_that_is_gone_is_told_and_the_newest_state_is_taken(monkeypatch):
    """The cell goes on to its end with it, in the same kernel."""
    monkeypatch.setenv("MI_MODEL", "pocket")
    pretend = """
import importlib.util, sys, types
from importlib.machinery import ModuleSpec
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].__spec__ = ModuleSpec("google.colab", None)
find, came, asked = importlib.util.find_spec, [], []
importlib.util.find_spec = lambda name, *more: (
    None if name == "mi_helpers" and not came else find(name, *more)
)
def pip(line):
    asked.append(line)
    if "mi-helpers" in line and "@v0.0.0" not in line:
        came.append(line)
get_ipython().register_magic_function(pip, magic_name="pip")
"""
    sources = (pretend, setup_cell(), "print(len(asked), came)")
    cells = [nbformat.v4.new_code_cell(text) for text in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, startup_timeout=300).execute()
    told = "".join(out.get("text", "") for out in notebook.cells[1].outputs)
    assert "No release v0.0.0 to be had" in told and "pocket (" in told
    line = 'install -q --no-deps "mi-helpers @ git+https://github.com/some/where"'
    assert notebook.cells[2].outputs[0].text == f"3 {[line]}\n"


@pytest.mark.parametrize("given", ["torch~=2.11.0", "torch==2.13.0", ""])
def test_a_copy_of_colab_says_which_torch_it_has(monkeypatch, given):
    """Colab's; another with a warning; none is a skip with its reason, or an error."""
    monkeypatch.setattr(Path, "read_text", lambda path, **_: {
        COLAB.name: "torch~=2.11.0\nnumpy\n", "requirements.lock": "tqdm==4\ntorch==2.13.0\n"
    }[path.name])  # fmt: skip
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "run", lambda *c: subprocess.CompletedProcess(c, int(c[-1] != given)))
    if given == "torch~=2.11.0":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert install_torch(Path("python")) == given
    elif given:
        with pytest.warns(UserWarning, match="gives no torch~=2.11.0: this is torch==2.13.0, not"):
            assert install_torch(Path("python")) == given
    else:
        for answers, outcome in ((False, pytest.skip.Exception), (True, pytest.fail.Exception)):
            monkeypatch.setattr(setup_env, "index_answers", lambda url, found=answers: found)
            with pytest.raises(outcome, match="does not answer" if not answers else "neither"):
                install_torch(Path("python"))


# The set-up tool itself: no network, no package.


@pytest.fixture
def tool(tmp_path):
    """tools/setup_env.py, loaded as if it stood in another checkout."""
    for name in ("tools/setup_env.py", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("setup_env", tmp_path / "tools/setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complete(tool, torch: str = "auto") -> None:
    """Leave what a complete set-up leaves."""
    tool.PYTHON.parent.mkdir(parents=True)
    tool.PYTHON.write_text("")
    tool.STAMP.write_text(json.dumps({"made_from": tool.fingerprint(), "torch": torch}))


def test_a_complete_environment_is_left_alone(tool, monkeypatch):
    monkeypatch.delenv("MI_TORCH", raising=False)
    complete(tool)
    monkeypatch.setattr(tool, "run", lambda *command: pytest.fail(f"ran {command}"))
    tool.set_up()


@pytest.mark.parametrize("change", ["lock", "pyproject", "interpreter", "stamp", "torch"])
def test_anything_stale_is_made_again(tool, monkeypatch, change):
    monkeypatch.delenv("MI_TORCH", raising=False)
    complete(tool)
    assert tool.up_to_date(tool.torch_wanted())
    if change == "lock":
        tool.LOCK.write_text(tool.LOCK.read_text() + "# changed\n")
    elif change == "pyproject":
        (tool.ROOT / "pyproject.toml").write_text("")
    elif change == "interpreter":
        tool.PYTHON.unlink()
    elif change == "stamp":
        tool.STAMP.write_text('{"made_fr')
    else:
        monkeypatch.setenv("MI_TORCH", "cuda")
    assert not tool.up_to_date(tool.torch_wanted())


def test_the_choice_of_torch_outlives_the_call_that_made_it(tool, monkeypatch):
    complete(tool, torch="cuda")
    monkeypatch.delenv("MI_TORCH", raising=False)
    assert tool.torch_wanted() == "cuda"


def test_an_interrupted_set_up_leaves_no_stamp(tool, monkeypatch):
    monkeypatch.delenv("MI_TORCH", raising=False)
    complete(tool)
    tool.LOCK.write_text(tool.LOCK.read_text() + "# changed\n")
    monkeypatch.setattr(tool, "installer", lambda: (["false"], False))
    monkeypatch.setattr(tool, "install_torch", lambda wanted: None)
    monkeypatch.setattr(tool, "run", lambda *command: "venv" in command)
    with pytest.raises(tool.SetupError, match="no network"):
        tool.set_up()
    assert not tool.up_to_date("auto")


def test_refusals_name_value_and_remedy(tool, monkeypatch):
    monkeypatch.setenv("MI_TORCH", "rocm")
    with pytest.raises(tool.SetupError, match="MI_TORCH='rocm'.*cpu or cuda"):
        tool.torch_wanted()
    monkeypatch.setattr(tool.sys, "version_info", (3, 9, 2))
    with pytest.raises(tool.SetupError, match="too old.*make PYTHON="):
        tool.check_machine("auto")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(tool.SetupError, match="no ensurepip module.*apt install python3-venv"):
        tool.check_machine("auto")
    monkeypatch.undo()
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1e9))
    with pytest.raises(tool.SetupError, match=r"1\.0 GB free.*3 GB are needed"):
        tool.check_machine("auto")


def test_no_cuda_download_without_a_word(tool, monkeypatch, capsys):
    """On Linux with no CPU build to be had: a notice first, or an error where cpu was asked for."""
    monkeypatch.setattr(tool.platform, "system", lambda: "Linux")
    monkeypatch.setattr(tool, "installed_torch", lambda: "")
    monkeypatch.setattr(tool, "index_answers", lambda url: False)
    monkeypatch.setattr(tool.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1))
    told = []
    monkeypatch.setattr(tool, "run", lambda *command: told.append(capsys.readouterr().out) or True)
    with pytest.raises(tool.SetupError, match="no CPU build"):
        tool.install_torch("cpu")
    assert not told  # nothing was installed
    tool.install_torch("auto")
    [notice] = told
    assert "several GB" in notice


def test_an_old_python_gets_the_message_and_no_syntax_error():
    """The file parses on Pythons too old to run it, so that they can say so."""
    import ast

    ast.parse((ROOT / "tools/setup_env.py").read_text(encoding="utf-8"), feature_version=(3, 7))
