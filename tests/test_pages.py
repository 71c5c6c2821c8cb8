"""Pages to hand out: formulas painted, solutions folded, every link leads somewhere, no network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import gallery
import nbformat
import pages
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from release import Release

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LEARNERS = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))


class Page(HTMLParser):
    """What a reader of the page gets: links, <details> with what is in them, text, formulas."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.details: list[str] = []
        self.opened, self.formulas, self.text = 0, 0, ""
        self.depth = self.skipped = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and "href" in given:
            self.links.append(given["href"] or "")
        if tag == "details":
            self.depth += 1
            self.opened += "open" in given
            self.details.append("")
        self.formulas += tag == "math"
        self.skipped += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "details"
        self.skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self.skipped:
            return
        self.text += data
        if self.depth:
            self.details[-1] += data


def page(*cells: nbformat.NotebookNode, resolve: pages.Resolve = lambda url: url) -> Page:
    return Page(pages.to_html(new_notebook(cells=list(cells)), resolve))


# ---------------------------------------------------------------------------------------- a page


def test_formulas_are_painted_and_code_is_left_alone() -> None:
    text = "Let $a_1$ be\n\n$$\\sum_i \\frac{a_i}{2}$$\n\nand `$HOME`, or $3 alone."
    made = page(new_markdown_cell(text))
    assert made.formulas == 2
    assert "$$" not in made.text and "\\frac" not in made.text
    assert "$HOME" in made.text and "or $3 alone." in made.text


def test_an_unknown_command_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown command \\nosuch in the formula"):
        pages.mathml(r"\nosuch{x}")


def test_details_keep_their_content_and_stay_closed() -> None:
    folded = "<details>\n<summary>Hint</summary>\n\nUse `topk`, $k$ of them.\n\n</details>"
    made = page(new_markdown_cell(folded), new_markdown_cell("After."))
    assert (made.opened, made.depth, made.formulas) == (0, 0, 1)
    [content] = made.details
    assert "Use topk" in content and "After." not in content


def test_a_solutions_code_is_folded_and_its_output_is_not() -> None:
    cell = new_code_cell(
        "secret = 42",
        metadata={"jupyter": {"source_hidden": True}},
        outputs=[new_output("stream", text="Correct.")],
    )
    made = page(cell, new_code_cell("shown = 1"))
    [content] = made.details
    assert "secret" in content and "Correct." not in content and "shown" not in content
    assert made.text.count("secret") == 1 and "Correct." in made.text


def test_links_are_resolved_in_text_and_in_outputs() -> None:
    target = {"there.ipynb": "there.html"}.get
    table = '<a href="there.ipynb">A</a><a href="gone.ipynb">B</a><a href="https://x.org">C</a>'
    output = new_output("display_data", data={"text/html": table})
    made = page(
        new_markdown_cell("[D](there.ipynb) and [E](gone.ipynb)"),
        new_code_cell("1", outputs=[output]),
        resolve=lambda url: target(url),
    )
    links = [link for link in made.links if not link.startswith("#")]
    assert sorted(links) == ["https://x.org", "there.html", "there.html"]
    assert {"A", "B", "C", "D", "E"} <= set(made.text)


# ------------------------------------------------------------------------------------ the gallery


@pytest.fixture
def links(tmp_path: Path) -> gallery.Links:
    """The links of a gallery of all full notebooks."""
    return gallery.Links(NOTEBOOKS, tmp_path)


def test_where_links_lead(links: gallery.Links, tmp_path: Path) -> None:
    def resolve(url: str) -> str | None:
        return links.resolve(ROOT / "notebooks", url)

    assert resolve("01_residual_stream.ipynb") == "01_residual_stream.html"
    assert resolve("01_residual_stream.ipynb#x") == "01_residual_stream.html#x"
    assert resolve("https://arxiv.org/abs/1") == "https://arxiv.org/abs/1"
    assert resolve("#here") == "#here"
    copied = resolve("exercises/01_residual_stream.ipynb")
    assert copied == "notebooks/exercises/01_residual_stream.ipynb"
    assert (tmp_path / copied).is_file()
    assert resolve("../data/pocket/README.md") is None  # no page, and no release to lead to
    assert resolve("../../outside.ipynb") is None and resolve("gone.ipynb") is None
    links.release = Release("some", "where", "v1.0.0")
    assert resolve("../data/pocket/README.md") == (
        "https://github.com/some/where/blob/v1.0.0/data/pocket/README.md"
    )


def test_every_page_leads_to_the_index_and_to_its_neighbours(links: gallery.Links) -> None:
    found = [re.findall(r'href="([^"]+)"', links.navigation(path)) for path in NOTEBOOKS]
    names = [f"{path.stem}.html" for path in NOTEBOOKS]
    assert found[0] == ["index.html", names[1]]
    assert found[1] == ["index.html", names[0], names[2]]
    assert found[-1] == ["index.html", names[-2]]


@pytest.mark.parametrize("paths", [NOTEBOOKS, LEARNERS], ids=["full", "learners"])
def test_every_notebook_becomes_a_page_fit_to_hand_out(paths: list[Path], tmp_path: Path) -> None:
    links, solutions = gallery.Links(paths, tmp_path), 0
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        folded = sum(text.count("<details>") for text in texts)
        hidden = [
            cell for cell in notebook.cells if cell.metadata.get("jupyter", {}).get("source_hidden")
        ]
        made = Page(
            pages.to_html(
                notebook, links.resolver(path.parent), links.navigation(path), path.parent
            )
        )
        assert made.opened == made.depth == 0
        assert len(made.details) == folded + len(hidden)
        assert all(len(text) > 20 for text in made.details), path.stem
        assert not re.search(r"\$\$|\\(mathrm|frac|sum|text|hat)\b", made.text), path.stem
        for text in made.details:
            if text.strip().startswith("Solution"):
                solutions += 1
                code = text.strip().removeprefix("Solution").strip()
                assert len(code) > 20 and made.text.count(code) == 1, code  # nowhere unfolded
        for link in made.links:
            local = not re.match(r"https?://|#", link)
            known = link == "index.html" or link in links.pages.values()
            assert not local or known or (tmp_path / link).is_file(), f"{path.stem}: {link}"
    assert solutions >= 4 * (len(paths) - 1)


@pytest.mark.slow
def test_a_gallery_of_two_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command on: pages, index and run.json, with what each run took."""
    paths = [tmp_path / "01_one.ipynb", tmp_path / "02_two.ipynb"]
    for path, code in zip(paths, ("print(6 * 7)", "1 / 0"), strict=True):
        cells = [new_markdown_cell(f"# {path.stem}"), new_code_cell(code)]
        nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(gallery, "GALLERY", tmp_path / "gallery")
    made = [gallery.execute(path, tmp_path / f"{path.stem}.html", paths) for path in paths]
    assert [bool(report["error"]) for report in made] == [False, True]
    assert all(report["cpu_seconds"] > 0 and report["peak_gib"] > 0 for report in made)
    one, two = ((tmp_path / f"{path.stem}.html").read_text("utf-8") for path in paths)
    assert "42" in one and 'href="02_two.html"' in one and 'href="index.html"' in one
    assert "ZeroDivisionError" in two and 'href="01_one.html"' in two
    json.dumps(made)


@pytest.mark.slow
def test_several_models_get_a_gallery_each(tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "01_one.ipynb"
    code = "import os\nprint(f\"on {os.environ['MI_MODEL']}\")"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# One"), new_code_cell(code)]), path)
    monkeypatch.setattr(gallery, "GALLERY", tmp_path / "gallery")
    monkeypatch.setattr(gallery.expectations_page, "describe", lambda _: {})
    (tmp_path / "gallery-pocket" / "claims").mkdir(parents=True)
    (tmp_path / "gallery-pocket" / "claims" / "old.json").write_text("{}")
    models = ["pocket", str(tmp_path / "small.model")]
    assert gallery.build([path], models, jobs=2) == 0
    for model, name in zip(models, ("gallery-pocket", "gallery-small-model"), strict=True):
        assert f"on {model}" in (tmp_path / name / "01_one.html").read_text("utf-8")
        run = json.loads((tmp_path / name / "run.json").read_text("utf-8"))
        assert run["model"] == model and [one["error"] for one in run["notebooks"]] == [None]
        assert not list((tmp_path / name / "claims").iterdir())
    assert capsys.readouterr().out.count("1 notebooks, 0 with an error") == 2
    assert gallery.galleries(["gpt2"]) == [tmp_path / "gallery"]


def test_a_cluster_that_is_not_there_is_told_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gallery, "build", lambda *_: pytest.fail("it began to run"))
    there, gone = tmp_path / "there.json", tmp_path / "gone.json"
    there.write_text("{}")
    monkeypatch.setattr(gallery, "find_spec", lambda _: None)
    for file, remedy in ((gone, "dask scheduler --scheduler-file"), (there, "install distributed")):
        monkeypatch.setattr("sys.argv", ["gallery.py", "--scheduler", str(file)])
        with pytest.raises(SystemExit):
            gallery.main()
        assert remedy in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_leaves_the_last_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "GALLERY", tmp_path / "gallery")
    (tmp_path / "gallery" / "claims").mkdir(parents=True)

    def workers(*_: object):
        raise TimeoutError("no answer")

    monkeypatch.setattr(gallery, "workers", workers)
    with pytest.raises(TimeoutError):
        gallery.build([tmp_path / "01_one.ipynb"], ["pocket"], 1, tmp_path / "file.json")
    assert (tmp_path / "gallery" / "claims").is_dir()
