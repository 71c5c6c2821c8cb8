"""The README's tables and the recorded results agree with the repository, or the check says so."""

from __future__ import annotations

import copy
import json
import shutil
import sys

import gallery
import pytest
import readme

ROW = {
    "id": "demo.shift",
    "statement": "A shift changes no difference.",
    "unit": "logits",
    "value": 0.25,
    "control_text": "one logit",
    "control_unit": "logits",
    "control_value": 3.0,
    "expected": [None, 0.5],
    "expected_control": [2.0, None],
    "source": "measured",
    "status": "holds",
    "reason": "",
    "own": False,
}
CLAIMS = """
[[claim]]
id = "demo.shift"
statement = "A shift changes no difference."
unit = "logits"
control = "one logit"
[claim.pocket]
value = [-inf, 0.5]
control = [2.0, inf]
source = "measured"
"""
NOTEBOOK = {
    "cells": [
        {
            "source": [
                "# 07 · A demo\n",
                "\n",
                "About 5 minutes · runs in 9 s and 1.5 GiB on pocket",
            ]
        },
        {"source": ["**The question.** Does a\n", "shift matter?\n", "\n", "You need nothing."]},
    ]
}


def page(*names: str) -> str:
    return "".join(f"<!-- {name} -->\nbygone\n<!-- end {name} -->\n" for name in names)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one notebook, its claim, and a gallery run of it."""
    for folder in ("notebooks", "claims", "gallery/claims"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text(page("coverage", "notebooks", "sample"))
    (tmp_path / "results.md").write_text(page("coverage", "results", "times", "setup"))
    (tmp_path / "notebooks/07_demo.ipynb").write_text(json.dumps(NOTEBOOK))
    (tmp_path / "claims/07_demo.toml").write_text(CLAIMS)
    claims = {"notebook": "07_demo", "model": "pocket", "rows": [ROW], "missing": []}
    (tmp_path / "gallery/claims/07_demo.pocket.json").write_text(json.dumps(claims))
    report = {"notebook": "07_demo", "seconds": 12.3, "peak_gib": 1.5, "error": None}
    report["cpu_seconds"] = 8.8
    run = {"model": "pocket", "machine": "2 cores", "pocket": "abc", "notebooks": [report]}
    (tmp_path / "gallery/run.json").write_text(json.dumps(run))
    names = {"ROOT": "", "README": "README.md", "RESULTS": "results.json", "GALLERY": "gallery"}
    names["RESULTS_PAGE"] = "results.md"
    for name, path in (names | {"SETUP": "setup.json"}).items():
        monkeypatch.setattr(readme, name, tmp_path / path)
    monkeypatch.setattr(readme, "pocket_checksum", lambda: "abc")
    monkeypatch.setattr(readme, "SAMPLE", ("demo.shift",))
    monkeypatch.setattr(readme.build_notebooks, "main", lambda arguments: 0)
    suite = readme.load_suite
    monkeypatch.setattr(readme, "load_suite", lambda: suite(tmp_path / "claims"))
    monkeypatch.setattr("mi_helpers.suite.claims.claims_folder", lambda: tmp_path / "claims")
    monkeypatch.setattr(sys, "argv", ["readme.py"])
    return tmp_path


def test_readme_and_results_are_up_to_date():
    assert list(readme.stale(readme.read_results())) == []


def test_the_tables_are_made_and_then_found_up_to_date(checkout, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    assert readme.main() == 1
    monkeypatch.setattr(sys, "argv", ["readme.py"])
    assert readme.main() == 0
    front, results = ((checkout / name).read_text() for name in ("README.md", "results.md"))
    assert "bygone" not in front + results
    assert "Recorded runs: `pocket` (all 1 notebooks).**" in front
    assert "met SmolLM2-135M-Instruct or GPT-2 small yet" in front
    row = "[07 · A demo](notebooks/07_demo.ipynb) | Does a shift matter? | 5 | 9 s and 1.5 GiB |"
    assert row in front and "Colab" not in front
    assert "0.25 (3)" in front and "0.25 (3)" in results
    assert "1 of 1 claims hold on pocket" in results
    assert "| 07_demo | pocket | 9 s and 1.5 GiB | 12 | 2 cores |" in results
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    assert readme.main() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["runs"][0]["rows"].clear(), "demo.shift of 07_demo has no value"),
        (
            lambda r: r["runs"][0]["rows"][0].update(statement="Other."),
            "by other claims than these",
        ),
        (
            lambda r: r["runs"][0]["rows"][0].update(expected=[None, 9.0]),
            "by other claims than these",
        ),
        (lambda r: r["runs"][0]["rows"][0].update(status="fails"), "failed in the recorded run"),
        (
            lambda r: r["runs"][0]["rows"].append(ROW | {"id": "demo.gone"}),
            "by other claims than these",
        ),
        (lambda r: r["runs"][0].update(notebook="08_gone"), "08_gone has no claims file"),
        (lambda r: r.update(pocket="xyz"), "other pocket weights"),
        (lambda r: r["runs"][0]["rows"][0].update(value=0.3), "tables differ"),
    ],
)
def test_each_way_of_being_stale_is_named(checkout, change, message):
    assert readme.main() == 0
    results = copy.deepcopy(readme.read_results())
    change(results)
    assert message in "\n".join(readme.stale(results))


def test_a_failed_run_or_one_of_other_weights_is_not_taken_over(checkout, monkeypatch, capsys):
    run = json.loads((checkout / "gallery/run.json").read_text())
    run["notebooks"][0]["error"] = "ValueError: no"
    (checkout / "gallery/run.json").write_text(json.dumps(run))
    assert readme.main() == 1 and "the last run failed in 07_demo" in capsys.readouterr().out
    run["notebooks"][0]["error"] = None
    (checkout / "gallery/run.json").write_text(json.dumps(run | {"pocket": "other"}))
    assert readme.main() == 1 and "other pocket weights" in capsys.readouterr().out
    assert not (checkout / "results.json").exists()


def test_galleries_of_several_models_are_taken_over_together(checkout, monkeypatch, capsys):
    other = checkout / "gallery-gpt2"
    (checkout / "gallery").rename(checkout / "gallery-pocket")
    shutil.copytree(checkout / "gallery-pocket", other)
    claims = {"notebook": "07_demo", "model": "gpt2", "rows": [ROW | {"value": 0.5}], "missing": []}
    (other / "claims/07_demo.pocket.json").unlink()
    (other / "claims/07_demo.gpt2.json").write_text(json.dumps(claims))
    folders = [str(checkout / f"gallery-{model}") for model in ("pocket", "gpt2")]
    monkeypatch.setattr(sys, "argv", ["readme", "--gallery", *folders])
    assert readme.main() == 0
    assert [run["model"] for run in readme.read_results()["runs"]] == ["gpt2", "pocket"]
    monkeypatch.setattr(sys, "argv", ["readme", "--gallery", str(checkout / "nowhere")])
    assert readme.main() == 1 and "nowhere" in capsys.readouterr().out


def test_runs_of_another_model_are_kept_beside_the_new_ones(checkout):
    gpt2 = {"notebook": "07_demo", "model": "gpt2", "rows": [ROW | {"value": 0.125}], "missing": []}
    times = {"seconds": 99.0, "peak_gib": None, "machine": "4 cores"}
    (checkout / "results.json").write_text(
        json.dumps({"pocket": "old", "runs": [gpt2 | times], "setup": None})
    )
    assert readme.main() == 0
    page = (checkout / "results.md").read_text()
    assert "0.25 (3) | [0.125 (3)]" in page and "| gpt2 | 99 s | 99 | 4 cores |" in page
    assert "GPT-2 small (all 1 notebooks)" in page


def test_recorded_numbers_are_judged_by_the_claims_of_today(checkout, monkeypatch):
    """A new range, another model's own words: no new run is needed, and none is hidden."""
    other = {"notebook": "07_demo", "model": "smollm2-q4", "rows": [ROW | {"value": 2.5}]}
    times = {"seconds": 9.0, "cpu_seconds": 9.0, "peak_gib": None, "machine": "4 cores"}
    (checkout / "results.json").write_text(
        json.dumps({"pocket": "abc", "runs": [other | times], "setup": None})
    )
    assert readme.main() == 0
    claims = checkout / "claims/07_demo.toml"
    claims.write_text(
        CLAIMS.replace("0.5]", "0.1]")
        + '[claim.smollm2-q4]\nabsent = "It moves all."\nvalue = [2, 3]\ncontrol = [2, 4]\n'
        + 'source = "measured"\n'
    )
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    assert readme.main() == 1
    monkeypatch.setattr(sys, "argv", ["readme.py"])
    assert readme.main() == 1  # a claim fails on pocket
    page = (checkout / "results.md").read_text()
    assert "| **FAILS** 0.25 (3) | *not here:* 2.5 (3)<br>It moves all. |" in page
    assert "0 of 0 claims hold on smollm2-q4, 1 is not in it" in page


def test_runs_of_a_notebook_about_its_own_models_are_not_told_of_the_loaded_one(checkout):
    """Whatever is loaded, the same is measured: no column and no count names a loaded model."""
    (checkout / "claims/07_demo.toml").write_text(CLAIMS.replace("claim.pocket", "claim.any"))
    other = {"notebook": "07_demo", "model": "smollm2-q4", "rows": [ROW | {"value": 0.3}]}
    times = {"seconds": 9.0, "cpu_seconds": 9.0, "peak_gib": None, "machine": "4 cores"}
    (checkout / "results.json").write_text(
        json.dumps({"pocket": "abc", "runs": [other | times], "setup": None})
    )
    assert readme.main() == 0
    page = (checkout / "results.md").read_text()
    assert "<summary>07_demo: 1 of 1 claims hold on the notebook's own models</summary>" in page
    assert "| claim | the notebook's own models |" in page and "0.25 (3)<br>0.3 (3) |" in page
    assert "Of these notebooks, 1 ask only models of their own" in page
    claims = readme.read_results()["runs"][1]["rows"]
    assert readme.own_tally([{"rows": [claims[0] | {"status": "fails"}]}]).startswith("0 of 1")


def test_a_sample_that_is_no_claim_is_named(checkout, monkeypatch, capsys):
    monkeypatch.setattr(readme, "SAMPLE", ("demo.shift", "demo.gone"))
    assert readme.main() == 1
    assert "demo.gone of SAMPLE is no claim" in capsys.readouterr().out


def test_colab_has_a_column_once_the_notebooks_name_it(checkout):
    cells = json.loads(json.dumps(NOTEBOOK))
    cells["cells"][0]["source"].append(" · [open in Colab](https://colab/07)")
    (checkout / "notebooks/07_demo.ipynb").write_text(json.dumps(cells))
    assert readme.main() == 0
    front = (checkout / "README.md").read_text()
    assert "| runs in | Colab |" in front and "| [open](https://colab/07) |" in front


def test_a_notebook_without_its_question_is_refused(checkout, capsys):
    cells = {"cells": [NOTEBOOK["cells"][0], {"source": ["Something else."]}]}
    (checkout / "notebooks/07_demo.ipynb").write_text(json.dumps(cells))
    assert readme.main() == 1
    assert "07_demo.ipynb: no question" in capsys.readouterr().out


def test_the_gallery_index_shows_times_errors_and_claims():
    report = {"notebook": "07_demo", "title": "A <demo>", "seconds": 12.3, "peak_gib": 1.5}
    report["cpu_seconds"] = 8.8
    run = {
        "model": "pocket",
        "machine": "2 cores",
        "notebooks": [report | {"error": None}, report | {"error": "KeyError: 'x'"}],
    }
    claims = [{"notebook": "07_demo", "model": "pocket", "rows": [ROW], "missing": ["demo.lost"]}]
    page = gallery.index_page(run, claims)
    assert "A &lt;demo&gt;" in page and "ran to the end" in page and "KeyError" in page
    assert "A shift changes no difference." in page and "demo.lost" in page
    assert "http" not in page


@pytest.mark.slow
def test_the_gallery_keeps_the_page_of_a_failing_notebook(tmp_path, monkeypatch):
    import nbformat.v4 as v4

    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell("# 07 · Demo"), v4.new_code_cell("print(6 * 7)\n1 / 0")]
    )
    path = tmp_path / "07_demo.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    report = gallery.execute(path, tmp_path / "07_demo.html")
    assert report["title"] == "07 · Demo" and report["error"].startswith("ZeroDivisionError")
    page = (tmp_path / "07_demo.html").read_text(encoding="utf-8")
    assert "42" in page and "ZeroDivisionError" in page
