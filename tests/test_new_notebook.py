"""`make new`: four files that build, run and pass the tests as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import new_notebook
import pytest
from wheels import tracked_files

ROOT = Path(__file__).resolve().parents[1]
NAME = "98_tuned_lens"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The folders that `make new` looks at, with the example."""
    for line in tracked_files():
        if re.match(
            r"tests/demo/|notebooks/src/|mi_helpers/.*checks/|tests/wrong_|data/claims/", line
        ):
            (tmp_path / line).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / line, tmp_path / line)
    return tmp_path


def test_four_files_with_the_notebooks_own_names(tree: Path) -> None:
    made = {path.relative_to(tree).as_posix() for path in new_notebook.write(tree, NAME)}
    assert {path.rsplit("/", 1)[1] for path in made} == {f"{NAME}.py", f"{NAME}.toml", "nb98.py"}
    assert len(made) == 4
    source = (tree / f"notebooks/src/{NAME}.py").read_text()
    assert "# title: Tuned lens\n# minutes: 5\n# draft: true\n" in source
    text = "".join((tree / path).read_text() for path in made)
    assert "demo" not in text and "99" not in text
    assert "check.tuned_lens(tuned_lens)" in text and '"tuned_lens.shift_invariant"' in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tuned_lens", "is no name for a notebook"),
        ("98-tuned", "is no name for a notebook"),
        ("98_Tuned", "is no name for a notebook"),
        ("00_again", "number 00 is taken by 00_start_here"),
        ("98_sum_error", "is there already"),
        ("98_top_probabilities", "an exercise is called top_probabilities already"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tree: Path, name: str, message: str
) -> None:
    (tree / "data/claims/98_sum_error.toml").write_text("")
    taken = new_notebook.checks_folder(tree) / "nb97.py"
    taken.write_text("def top_probabilities(answer, rng): ...\n")
    before = sorted(tree.rglob("*"))
    with pytest.raises(ValueError, match=message):
        new_notebook.write(tree, name)
    assert sorted(tree.rglob("*")) == before


def test_make_new_without_a_name_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_notebook.main([]) == 2
    assert "make new NAME=14_tuned_lens" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_template_builds_runs_and_passes_the_tests(tmp_path: Path) -> None:
    """In a copy of the checkout: the steps of CONTRIBUTING.md, for the new notebook alone."""
    for line in tracked_files():
        (tmp_path / line).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / line, tmp_path / line)
    (tmp_path / "mi_data").symlink_to("data", target_is_directory=True)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "MI_MODEL": "pocket", "MI_STRICT": "1",
    }  # fmt: skip
    environment.pop("MI_CLAIMS_DIR", None)

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}:\n{done.stdout[-4000:]}"
        return done.stdout

    tool = "tools/new_notebook.py"
    assert len(re.findall(r"^wrote ", python(tool, NAME), re.M)) == 4
    python("tools/build_notebooks.py", NAME)
    assert "1 notebooks, 0 with an error" in python("tools/gallery.py", f"notebooks/{NAME}.ipynb")
    page = (tmp_path / f"build/gallery/{NAME}.html").read_text(encoding="utf-8")
    assert "correct." in page and "Draft" in page
    python("tools/readme.py")
    rows = json.loads((tmp_path / "data/results.json").read_text())["runs"][-1]["rows"]
    assert [row["status"] for row in rows] == ["holds"]
    assert f"notebooks/{NAME}.ipynb" in (tmp_path / "README.md").read_text(encoding="utf-8")
    made = [str(path.relative_to(tmp_path)) for path in new_notebook.files(tmp_path, NAME).values()]
    made = [path for path in made if path.endswith(".py")]
    made += [f"notebooks/{NAME}.ipynb", f"notebooks/exercises/{NAME}.ipynb"]
    python("-m", "ruff", "check", *made)
    python("-m", "ruff", "format", "--check", *made)
    python("tools/build_notebooks.py", "--check")
    python("tools/readme.py", "--check")
    passed = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not notebooks",
        "-k", "98 or tuned_lens or up_to_date or every_committed or unique or asked",
        "tests/test_notebook_sources.py", "tests/test_exercises.py", "tests/test_claims.py",
        "tests/test_readme.py", "tests/test_build.py",
    )  # fmt: skip
    assert int(re.search(r"(\d+) passed", passed)[1]) >= 8  # type: ignore[index]
    learner = f"notebooks/exercises/{NAME}.ipynb"
    assert "1 passed" in python("-m", "pytest", "-q", "--nbmake", "--nbmake-timeout=300", learner)
