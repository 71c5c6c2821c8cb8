"""The notebooks' sources keep the rules; the builder is exact; cells may run twice."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from release import Release
from sources import (
    DEMO,
    PATHS,
    REAL,
    ROOT,
    builder,
    calls,
    code_cells,
    count_faults,
    exercises,
    faults,
    main_path,
    read_source,
)

DEMO_TEXT = (DEMO / "99_demo.py").read_text(encoding="utf-8")
PINS = "transformer-lens==4.3.0"
PROJECT = builder.Project(Release("some", "where", "v1.2.3"), PINS, {"99_demo": "9 s and 1.5 GiB"})
UNPUBLISHED = builder.Project(None, PINS, {})


@pytest.fixture
def demo_root(tmp_path: Path) -> Path:
    """A repository with one source."""
    (tmp_path / builder.SOURCES).mkdir(parents=True)
    (tmp_path / "notebooks" / "exercises").mkdir()
    shutil.copy(DEMO / "99_demo.py", tmp_path / builder.SOURCES)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def rewritten(tmp_path: Path, old: str, new: str) -> Path:
    """The demonstration with one passage replaced, beside its claims."""
    assert DEMO_TEXT.count(old) >= 1
    path = tmp_path / "99_demo.py"
    path.write_text(DEMO_TEXT.replace(old, new), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------ the rules


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_source_keeps_the_rules(path: Path) -> None:
    assert faults(path) == []


MEASURES = {  # what tells a reader what the numbers of a figure are
    "graph": {"unit"}, "heatmap": {"colorbar"},
    "lines": {"xlabel", "ylabel"}, "tokens_coloured": {"unit"},
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_figures_say_what_they_measure(path: Path) -> None:
    silent = []
    for _, tree in code_cells(read_source(path)):
        for called, call in calls(tree):
            name = called.rpartition("figures.")[2]
            given = {word.arg for word in call.keywords}
            needed = MEASURES.get(name, set()) if "figures." in called else set()
            if name == "bars":
                needed = {"xlabel"} if "horizontal" in given else {"ylabel"}
            if None not in given and not needed <= given:
                silent.append(f"{called} in line {call.lineno}: no {needed - given}")
    assert silent == []


LONG = "logits = torch.tensor([2.0, 0.5, -1.0])\n" * 16
BROKEN = {
    "length: 18 lines, 15 allowed": ("logits = torch.tensor([2.0, 0.5, -1.0])\n", LONG),
    "length: 26 lines, 25 allowed": ("    rows = ", "    a = 1\n" * 23 + "    rows = "),
    "figure lost: mi.figures.bars": (
        "shifted = logits + 3",
        "mi.figures.bars([1.0])\nshifted = logits + 3",
    ),
    "code: plotting in a cell": ("shifted = logits + 3", "import plotly.express as px"),
    "code: plotting in a cell: from": ("shifted = logits + 3", "from matplotlib import cm"),
    "code: loads a model: mi.load_model": ("shifted = logits + 3", "m = mi.load_model()"),
    "decimal in prose: 0.93": ("# It does not,", "# It does not (0.93),"),
    "claim: not declared: demo.other": (
        "# %%\nclaim(",
        '# %%\nclaim("demo.other", 0, control=1)\n\n# %%\nclaim(',
    ),
    "claim: not declared: f'demo.{": (
        "# %%\nclaim(",
        '# %%\nclaim(f"demo.{1}", 0, control=1)\n\n# %%\nclaim(',
    ),
    "claim: never made: demo.shift_invariant": ('claim("demo.shift', 'print("demo.shift'),
    "claim: made twice": ("# %%\nclaim(", '# %%\nclaim("demo.shift_invariant")\n\n# %%\nclaim('),
    "exercise: an exercise is task, hint": (' tags=["hint"]', ""),
    "exercise: no difficulty": ("difficulty=1", "difficulty=4"),
    "exercise: a check cell calls": ("check.logit_difference(", "print("),
    "solution used later: logit_difference": (
        "# %%\nclaim.table()",
        "# %%\nlogit_difference(logits, 0, 1)\n\n# %%\nclaim.table()",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_rule_is_enforced(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.claims_file", lambda path: DEMO / "99_demo.toml")
    found = faults(rewritten(tmp_path, *BROKEN[fault]))
    assert len(found) == 1 and found[0].startswith(fault)


def test_decimals_in_code_formulas_and_links_are_no_prose(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sources.claims_file", lambda path: DEMO / "99_demo.toml")
    free = "# `0.5`, $p = 0.5$, [a paper](https://arxiv.org/abs/2211.00593), version 4.3.1,"
    assert faults(rewritten(tmp_path, "# It does not,", free)) == []


def test_a_solutions_own_variables_are_no_leak(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sources.claims_file", lambda path: DEMO / "99_demo.toml")
    later = "# %%\nrows = 3\n\n# %%\nprint(rows)\n\n# %%\nclaim.table()"
    assert faults(rewritten(tmp_path, "# %%\nclaim.table()", later)) == []
    before = "# %%\nlogits = torch"
    path = rewritten(tmp_path, before, f"# %%\nprint(logit_difference)\n\n{before}")
    assert faults(path) == []  # what stands before the solution is not its use


def test_counts_are_required() -> None:
    found = count_faults(builder.read_source(DEMO / "99_demo.py"))
    assert found == ["1 claims, 8 wanted", "1 exercises, 4 wanted", "0 widgets, 1 wanted"]


def test_the_main_path_ends_at_the_appendix_and_is_counted(tmp_path: Path) -> None:
    many = "# %%\nx = 1\n\n" * 60
    long = builder.read_source(rewritten(tmp_path, "# %%\nclaim(", many + "# %%\nclaim("))
    assert count_faults(long)[-1] == f"{main_path(long)} code cells before the appendix, 60 allowed"
    appended = "# %% [markdown]\n# ## Appendix A: more\n\n" + many + "# %%\nclaim.table()"
    whole = builder.read_source(rewritten(tmp_path, "# %%\nclaim.table()", appended))
    assert main_path(whole) < 10


# ------------------------------------------------------------------------------------ the builder


def cells(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def built(
    learner: bool, path: Path = DEMO / "99_demo.py", project: builder.Project = PROJECT
) -> nbformat.NotebookNode:
    return builder.build(builder.read_source(path), project, learner)


def test_full_notebook_has_folded_solutions_and_no_stubs() -> None:
    notebook = built(learner=False)
    (solution,) = cells(notebook, "solution")
    assert solution.metadata["jupyter"] == {"source_hidden": True}
    assert "logits[rows, right]" in solution.source
    assert not cells(notebook, "exercise")
    assert all("NotImplementedError" not in cell.source for cell in notebook.cells)
    assert any(cell.source.startswith("<details>\n<summary>Hint") for cell in notebook.cells)


def test_learners_notebook_has_stubs_and_no_solution_in_code() -> None:
    notebook = built(learner=True)
    (stub,) = cells(notebook, "exercise")
    assert "NotImplementedError" in stub.source
    assert not cells(notebook, "solution")
    opened = [cell for cell in notebook.cells if "logits[rows, right]" in cell.source]
    assert [cell.cell_type for cell in opened] == ["markdown"]
    assert "<summary>Solution</summary>\n\n```python\n" in opened[0].source


@pytest.mark.parametrize("learner", [False, True])
def test_generated_cells(learner: bool) -> None:
    title, first, setup, *_ = built(learner).cells
    folder = "notebooks/exercises" if learner else "notebooks"
    address = f"/github/some/where/blob/v1.2.3/{folder}/99_demo.ipynb)"
    assert title.source.startswith("# 99 · The logit difference\n")
    assert f"[open in Colab](https://colab.research.google.com{address}" in title.source
    assert "About 5 minutes · runs in 9 s and 1.5 GiB on pocket · " in title.source
    assert "![" not in title.source  # a picture from elsewhere is broken without a network
    assert first.source.startswith("**The question.**")
    assert setup.source.count("%pip install") == 3
    assert '--no-deps "mi-helpers @ git+https://github.com/some/where@v1.2.3"' in setup.source
    assert '--no-deps "mi-helpers @ git+https://github.com/some/where"' in setup.source
    assert 'claim = mi.Claims("99_demo", mi.model_id(model))' in setup.source
    lines = [li for li in setup.source.splitlines() if li.strip() and li.strip()[0] != "#"]
    on_colab = [line for line in lines if line.startswith("    ")]
    assert len(on_colab) == 8 and len(lines) - len(on_colab) <= 11


def test_without_a_release_nothing_points_to_one() -> None:
    for learner in (False, True):
        title, _, setup, *_ = built(learner, project=UNPUBLISHED).cells
        assert "olab" not in title.source + setup.source
        assert "http" not in title.source and "pip" not in setup.source
        assert "runs in" not in title.source  # and nothing is measured
        assert setup.source.startswith("import torch")


def test_a_draft_says_so_and_may_be_short(tmp_path: Path, monkeypatch) -> None:
    path = rewritten(tmp_path, "# minutes: 5\n", "# minutes: 5\n# draft: true\n")
    assert "\n\nDraft · About 5 minutes" in built(False, path).cells[0].source
    monkeypatch.setattr("sources.claims_file", lambda path: DEMO / "99_demo.toml")
    monkeypatch.setattr("sources.REAL", [path])
    assert faults(path) == []
    whole = rewritten(tmp_path, "# minutes: 5\n", "# minutes: 5\n# draft: false\n")
    assert {fault[:5] for fault in faults(whole)} == {"count"}


def test_setup_imports_only_what_is_used(tmp_path: Path) -> None:
    path = tmp_path / "00_plain.py"
    path.write_text("# ---\n# title: Plain\n# minutes: 1\n# ---\n\n# %% [markdown]\n# Hello.\n")
    setup = built(False, path).cells[2].source
    assert "mi.load_model()" in setup and "check" not in setup and "Claims" not in setup


def test_notebooks_are_clean_valid_and_repeatable(demo_root: Path) -> None:
    made = builder.build_all(demo_root)
    assert sorted(p.relative_to(demo_root).as_posix() for p in made) == [
        "notebooks/99_demo.ipynb",
        "notebooks/exercises/99_demo.ipynb",
    ]
    assert made == builder.build_all(demo_root)
    for text in made.values():
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        ids = [cell.id for cell in notebook.cells]
        assert len(set(ids)) == len(ids)
        assert notebook.metadata.kernelspec.name == "python3"
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_ids_survive_a_new_cell(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path, "# %% [markdown]\n# It does", "# %%\n1 + 1\n\n# %% [markdown]\n# It does"
    )
    old, new = ({cell.id for cell in built(False, p).cells} for p in (DEMO / "99_demo.py", path))
    assert old < new and len(new - old) == 1


def test_links_are_adjusted_for_the_learners_folder(tmp_path: Path) -> None:
    path = rewritten(tmp_path, "# It does not,", "# See [the card](../data/pocket/README.md),")
    texts = ["\n".join(cell.source for cell in built(learner, path).cells) for learner in (0, 1)]
    assert "](../data/pocket/README.md)" in texts[0]
    assert "](../../data/pocket/README.md)" in texts[1]


def test_citations_are_converted_in_markdown_only(tmp_path: Path, monkeypatch) -> None:
    path = rewritten(tmp_path, "# It does not,", "# It does not [@key],")
    path.write_text(path.read_text().replace("logits + 3", "logits + 3  # [@key]"))
    monkeypatch.setattr(builder, "cite_markdown", lambda text: text.replace("[@key]", "(Key)"))
    text = "\n".join(cell.source for cell in built(False, path).cells)
    assert "It does not (Key)," in text and "logits + 3  # [@key]" in text


def test_unknown_citation_is_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path, "# It does not,", "# It does not [@nobody2099nothing],")
    with pytest.raises(KeyError, match="nobody2099nothing"):
        built(False, path)


def test_drift_names_stale_missing_and_orphaned(demo_root: Path) -> None:
    made = builder.build_all(demo_root)
    full, learner = made
    assert builder.drift(made, demo_root) == [full, learner]
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    assert builder.drift(made, demo_root) == []
    full.write_text(made[full].replace("shifted", "moved"), encoding="utf-8")
    orphan = full.with_name("98_gone.ipynb")
    orphan.write_text("{}")
    assert builder.drift(made, demo_root) == [orphan, full]


def test_check_writes_nothing_and_fails_on_drift(
    demo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builder, "ROOT", demo_root)
    assert builder.main(["--check"]) == 1
    assert "notebooks/99_demo.ipynb differs from its source" in capsys.readouterr().out
    assert not list(demo_root.rglob("*.ipynb"))
    assert builder.main([]) == 0
    assert builder.main(["--check"]) == 0
    assert builder.main(["--check", "99_demo"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# minutes: 5\n", "", "header needs title and minutes"),
        ("# minutes: 5\n", "# minutes: 5\n# colour: red\n", "header needs title and minutes"),
        ("# ---\n# title", "# title", "starts with a '# ---' header"),
        ("claim.table()", "print()", "last code cell must be claim.table()"),
        (" minutes=5 difficulty=1", "", "a task needs minutes and difficulty"),
        ('tags=["hint"]', 'tags=["hnit"]', "unknown tag 'hnit'"),
        ('# %% tags=["solution"]', '# %% [markdown] tags=["solution"]', "must be code"),
        ("# %% [markdown]\n# **The", "# %%\n# **The", "first cell must be Markdown"),
    ],
)
def test_bad_source_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(builder.SourceError, match=re.escape(message)):
        builder.read_source(rewritten(tmp_path, old, new))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_learners_notebook_ends_with_what_became_of_its_exercises(path: Path) -> None:
    """Every exercise once, under its own heading, apart from the table of claims."""
    full, learner = (built(kind, path) for kind in (False, True))
    assert not [cell for cell in full.cells if "check.summary" in cell.source]
    asked = [cell for cell in learner.cells if "check.summary" in cell.source]
    checked = [
        c["check"].source.split("(")[0].removeprefix("check.") for c in exercises(read_source(path))
    ]
    if not checked:
        assert not asked
        return
    headings = ast.literal_eval(asked[0].source.removeprefix("check.summary"))
    assert len(asked) == 1 and list(headings) == checked
    shown = "\n".join(
        re.sub("[`*]", "", c.source) for c in learner.cells if c.cell_type == "markdown"
    )
    for heading in headings.values():
        assert f"# {heading}\n" in shown and heading.isascii(), heading
    after = learner.cells[learner.cells.index(asked[0]) + 1 :]
    assert after[-1].source == "claim.table()" and "nothing about the exercises" in after[0].source


def test_readme_shows_the_demonstration() -> None:
    readme = (ROOT / builder.SOURCES / "README.md").read_text(encoding="utf-8")
    for name in ("99_demo.py", "99_demo.toml", "demo_checks/nb99.py"):
        assert (DEMO / name).read_text(encoding="utf-8") in readme


# ------------------------------------------------------------------- every cell run twice in a row


def doubled(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy in which each code cell stands twice."""
    copy = nbformat.v4.new_notebook(metadata=notebook.metadata)
    for cell in notebook.cells:
        copy.cells.append(cell.copy())
        if cell.cell_type == "code":
            copy.cells.append(nbformat.v4.new_code_cell(cell.source))
    return copy


def claims_of(notebook: nbformat.NotebookNode, folder: Path, cwd: Path) -> dict[str, tuple]:
    """Run a notebook and read its claims: id -> (value, control, status)."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "MI_CLAIMS_DIR": str(folder), "MI_STRICT": "1", "MI_MODEL": "pocket"}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(cwd)}})
    client.execute(env=env)
    return read_claims(folder, "*")


def read_claims(folder: Path, notebook: str) -> dict[str, tuple]:
    runs = [json.loads(path.read_text()) for path in folder.glob(f"{notebook}.json")]
    return {
        row["id"]: (row["value"], row["control_value"], row["status"])
        for run in runs
        for row in run["rows"]
    }


def assert_same(once: dict[str, tuple], twice: dict[str, tuple]) -> None:
    assert once.keys() == twice.keys()
    for claim, (value, control, status) in once.items():
        again = twice[claim]
        assert math.isclose(value, again[0], rel_tol=1e-6, abs_tol=1e-9), claim
        assert math.isclose(control, again[1], rel_tol=1e-6, abs_tol=1e-9), claim
        assert status == again[2], claim


DEMO_SETUP = f"""
import sys, torch
sys.path.insert(0, {str(DEMO)!r})
from mi_helpers.suite.claims import Claims
from mi_helpers.suite.exercises import Check
check, claim = Check("demo_checks"), Claims("99_demo", "pocket", folder={str(DEMO)!r})
"""


def runnable_demo(path: Path, learner: bool = False) -> nbformat.NotebookNode:
    """The demonstration, set up with its own checks and claims and without a model."""
    notebook = built(learner, path)
    (setup,) = cells(notebook, "setup")
    setup.source = DEMO_SETUP
    return notebook


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple], str]:
    """The claims of the full demonstration, run once, and its outputs."""
    folder = tmp_path_factory.mktemp("demo")
    notebook = runnable_demo(DEMO / "99_demo.py")
    claims = claims_of(notebook, folder / "claims", folder)
    return claims, "".join(str(cell.get("outputs", "")) for cell in notebook.cells)


@pytest.mark.slow
def test_demonstration_gives_the_same_claims_with_cells_run_twice(demo_run, tmp_path) -> None:
    once, shown = demo_run
    assert list(once) == ["demo.shift_invariant"]
    assert "`logit_difference`: correct." in shown and "holds: A constant" in shown
    notebook = runnable_demo(DEMO / "99_demo.py")
    assert_same(once, claims_of(doubled(notebook), tmp_path / "claims", tmp_path))


@pytest.mark.slow
def test_a_cell_that_adds_up_is_noticed(demo_run, tmp_path: Path) -> None:
    path = rewritten(tmp_path, "logits + 3", "logits + 3\nn = globals().get('n', -0.01) + 0.01")
    path.write_text(path.read_text().replace("control=shifted[0]", "control=n + shifted[0]"))
    twice = claims_of(doubled(runnable_demo(path)), tmp_path / "claims", tmp_path)
    with pytest.raises(AssertionError, match="demo.shift_invariant"):
        assert_same(demo_run[0], twice)


@pytest.mark.slow
def test_learners_demonstration_runs_undone(tmp_path: Path) -> None:
    notebook = runnable_demo(DEMO / "99_demo.py", learner=True)
    claims_of(notebook, tmp_path / "claims", tmp_path)
    assert "not done yet." in "".join(str(cell.get("outputs", "")) for cell in notebook.cells)


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_notebook_gives_the_same_claims_with_cells_run_twice(path: Path, tmp_path: Path) -> None:
    """Compared with the run whose results are in MI_CLAIMS_DIR, or else with a run of its own."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{path.stem}.ipynb", as_version=4)
    twice = claims_of(doubled(notebook), tmp_path / "twice", ROOT / "notebooks")
    once = read_claims(Path(os.environ.get("MI_CLAIMS_DIR", tmp_path)), f"{path.stem}.pocket")
    if not once:
        once = claims_of(notebook, tmp_path / "once", ROOT / "notebooks")
    assert_same(once, twice)
