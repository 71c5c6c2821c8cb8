"""The files that describe the environment, the commands and the package agree with one another."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from release import read_release
from wheels import build_wheel, tracked_files

import mi_helpers

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
RELEASE = read_release(ROOT)
[COLAB] = (ROOT / "tests" / "data").glob("colab-*.txt")


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def conda() -> tuple[list[str], list[str], list[str]]:
    """environment.yml: conda's packages, pip's options, pip's requirements."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    packages = [entry for entry in listed if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in listed if isinstance(entry, dict)]
    return (
        packages,
        [line for line in pip if line.startswith("-")],
        [line for line in pip if not line.startswith("-")],
    )


def locked(python: str) -> dict[str, Version]:
    """requirements.lock as one Python on Linux sees it."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    versions: dict[str, Version] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):  # type: ignore[arg-type]
            continue
        [pin] = requirement.specifier
        name = canonicalize_name(requirement.name)
        assert pin.operator == "==" and name not in versions, line
        versions[name] = Version(pin.version)
    return versions


def test_environment_yml_asks_for_what_pyproject_asks_for():
    packages, options, lines = conda()
    wanted = requirements(PROJECT["dependencies"] + EXTRAS["lab"])
    assert {str(r) for r in requirements(lines).values()} == {str(r) for r in wanted.values()}
    [python] = [Requirement(p) for p in packages if p.startswith("python")]
    assert PROJECT["requires-python"] in str(python.specifier).split(",")
    assert {"--editable .", "--constraint requirements.lock"} <= set(options)


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_pins_every_dependency_inside_its_range(python):
    pins = locked(python)
    for requirement in map(Requirement, PROJECT["dependencies"] + sum(EXTRAS.values(), [])):
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in requirements.lock: run `make lock`"
        assert pins[name] in requirement.specifier, f"{name} {pins[name]} is not {requirement}"


def test_lock_serves_any_machine():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"\+cpu|\+cu\d|file:|https?:|--index|--find-links| @ ", text)
    assert not re.search(r"^(nvidia|cuda|triton)", text, re.M)
    assert re.search(r"^torch==\d+\.\d+\.\d+$", text, re.M)


def test_floors_admit_colab():
    for page in ("pyproject.toml", "CONTRIBUTING.md"):
        assert COLAB.relative_to(ROOT).as_posix() in (ROOT / page).read_text(encoding="utf-8"), page
    ranges = requirements(PROJECT["dependencies"])
    lines = COLAB.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            colab = Requirement(line)
            [release] = colab.specifier
            assert Version(release.version) in ranges[colab.name].specifier, line


def test_every_import_is_declared():
    """What the package imports is declared, so that no dependency is there by luck."""
    provides = {"sklearn": "scikit-learn", "IPython": "ipython"}
    declared = set(requirements(PROJECT["dependencies"])) | {"mi-helpers"}
    for path in [*(ROOT / "mi_helpers").rglob("*.py"), *(ROOT / "data").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.Try) and "ImportError" in ast.unparse(node)
            for inner in ast.walk(node)
        }  # what the code does without where it is not there
        for node in set(ast.walk(tree)) - guarded:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in (name.split(".")[0] for name in names):
                if name in sys.stdlib_module_names or name in {"mi_helpers", "mi_data"}:
                    continue
                package = canonicalize_name(provides.get(name, name))
                assert package in declared, f"{path.relative_to(ROOT)} imports {name}"


def test_python_floor_is_the_same_everywhere():
    floor = PROJECT["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == floor
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + floor.replace(".", "")
    assert f"sys.version_info < ({floor.replace('.', ', ')})" in (
        ROOT / "tools/setup_env.py"
    ).read_text(encoding="utf-8")
    workflow = (ROOT / ".github/workflows/quick.yml").read_text(encoding="utf-8")
    for job in ("locked", "ranges"):
        matrix = yaml.safe_load(workflow)["jobs"][job]["strategy"]["matrix"]
        assert matrix["python"][0] == floor


def test_versions_agree():
    assert mi_helpers.__version__ == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation.get("repository-code") == (RELEASE.repository if RELEASE else None)
    assert citation["license"] == PROJECT["license"]


def test_pre_commit_runs_the_locked_versions():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pins = locked("3.12")
    for name in ("ruff", "nbstripout"):
        [revision] = [repo["rev"] for repo in config["repos"] if name in repo["repo"]]
        assert Version(revision) == pins[name]


def test_no_other_repository_than_the_releases_is_written_down():
    """No page names one of ours, in a badge or elsewhere, before a release has one."""
    ours = RELEASE.repository if RELEASE else "https://no.where"
    cited = {"nostalgebraist", "jupyter"}
    for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff", "docs/results.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for address, owner in re.findall(
            r"(https://[\w.]*github[\w.]*/(?:github/)?([\w-]+))", text
        ):
            assert address in ours or owner in cited, f"{name}: {address}"


def test_the_front_page_is_one_page_and_says_first_what_was_run():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "GPT-2" not in lines[0]
    assert next(line for line in lines[1:] if line and line[0] not in "!<").startswith("**Recorded")


def make(*arguments: str) -> str:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def phony_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    return set(re.search(r"^\.PHONY:(.+)$", text, re.M)[1].split())


def test_make_alone_lists_every_target_with_a_line_of_help():
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.+)$", make(), re.M))
    assert set(listed) == phony_targets()
    assert all(len(line) > 10 for line in listed.values())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_documented_targets_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):  # the code spans and blocks alone
        text = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.S))
    used = set(re.findall(r"^[^#\n]*?\bmake\s+([a-z-]+)", text, re.M))
    assert used <= phony_targets(), f"{name} names make {', '.join(used - phony_targets())}"
    needed = {
        "README.md": {"lab", "test", "help", "run"},
        "CONTRIBUTING.md": {"new", "notebooks", "run", "readme", "test", "lock"},
        ".ci/run": {"test", "test-real", "test-twice", "test-browser"},
    }
    assert needed[name] <= used


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/results.md", "notebooks/src/README.md"]
)
def test_relative_links_resolve(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def test_every_folder_with_code_is_a_package():
    """setup.py finds the packages by their __init__.py."""
    for top in ("mi_helpers", "data"):
        for folder in {path.parent for path in (ROOT / top).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


@pytest.mark.slow
def test_wheel_carries_code_and_data(tmp_path):
    wheel, tracked = build_wheel(tmp_path), tracked_files()
    members = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        line.replace("data/", "mi_data/", 1) if line.startswith("data/") else line
        for line in tracked
        if line.startswith(("data/", "mi_helpers/"))
    }
    assert wanted <= members, f"missing: {sorted(wanted - members)}"
    extra = {m for m in members - wanted if ".dist-info/" not in m}
    assert not extra, f"not ours: {sorted(extra)}"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "SHA256SUMS"):
        assert f"mi_data/pocket/model/{name}" in members
    assert any(re.fullmatch(r"mi_data/claims/\d\d_\w+\.toml", member) for member in members)
