"""Reading, citing and showing the glossary and the literature."""

from __future__ import annotations

import json
import re
import shutil
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mi_helpers.suite import library as reading

FRAMEWORK = "[Elhage et al. (2021)](https://transformer-circuits.pub/2021/framework/index.html)"
VOID = {"br", "input"}


class Page(HTMLParser):
    """Counts elements, and fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty stand-in for the folder of the data, in a project with a notebooks folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(reading.resources, "files", lambda package: folder)
    (folder / "literature.toml").write_text(
        '[doe2020a]\nauthors = "Doe & <Roe>"\ntitle = "On \\"x < y\\""\nyear = 2020\n'
        'url = "https://example.org/a?b=1&c=2"\ntopics = ["one"]\n'
    )
    (folder / "glossary.toml").write_text(
        '[[entry]]\nterm = "x < y"\naliases = ["less"]\nsources = ["doe2020a"]\n'
        'definition = "Where `a < b` is *so* [@doe2020a]."\nnotebook = "01_stream"\n'
    )
    return folder


def test_cites_one_work_and_leaves_the_rest_alone() -> None:
    text = "As shown [@elhage2021framework], `x[@]` and [a link](b) and me@example.org."
    assert reading.cite_markdown(text) == text.replace("[@elhage2021framework]", FRAMEWORK)


def test_cites_several_works_at_once() -> None:
    cited = reading.cite_markdown("[@elhage2021framework; @olsson2022induction]")
    assert cited == f"{FRAMEWORK}; [Olsson et al. (2022)](https://arxiv.org/abs/2209.11895)"


def test_text_without_citation_is_returned_as_it_is() -> None:
    assert reading.cite_markdown("no citation") == "no citation"


def test_an_unknown_key_is_named_with_its_nearest() -> None:
    with pytest.raises(KeyError, match="elhage2021frame.*did you mean elhage2021framework"):
        reading.cite_markdown("[@elhage2021frame]")


def test_literature_keeps_the_order_of_the_file_and_knows_its_keys() -> None:
    works = reading.literature()
    assert all(key == work.key for key, work in works.items())
    keys = list(works)
    assert keys.index("elhage2021framework") < keys.index("olsson2022induction")
    assert works["zhang2023patching"].label == "Zhang & Nanda (2023)"


@pytest.mark.parametrize("line", ["year = 2020\n", 'authors = "Doe & <Roe>"\n'])
def test_a_work_without_a_needed_key_is_refused(data: Path, line: str) -> None:
    path = data / "literature.toml"
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, ""))
    with pytest.raises(ValueError, match=f"Work 'doe2020a' lacks {line.split()[0]}"):
        reading.literature()


def test_an_unknown_key_in_an_entry_is_refused(data: Path) -> None:
    with (data / "glossary.toml").open("a") as file:
        file.write('source = "doe2020a"\n')
    with pytest.raises(ValueError, match="Entry 'x < y' has an unknown key source"):
        reading.glossary()


def test_a_source_that_the_literature_lacks_is_refused(data: Path) -> None:
    path = data / "glossary.toml"
    path.write_text(path.read_text().replace('["doe2020a"]', '["doe2021b"]'))
    with pytest.raises(KeyError, match="doe2021b"):
        reading.glossary_html()


def test_html_is_escaped_and_the_definition_rendered(data: Path) -> None:
    html = reading.glossary_html().data
    Page(html)
    assert "<b>x &lt; y</b>" in html
    assert "Where <code>a &lt; b</code> is <em>so</em> <a href=" in html
    assert 'href="https://example.org/a?b=1&amp;c=2"' in html
    assert 'title="On &quot;x &lt; y&quot;"' in html
    assert "Doe &amp; &lt;Roe&gt; (2020)" in html


def test_a_notebook_is_linked_as_soon_as_it_exists(data: Path) -> None:
    assert "01_stream" not in reading.glossary_html().data
    (data.parent / "notebooks" / "01_stream.ipynb").touch()
    assert '<a href="01_stream.ipynb">01</a>' in reading.glossary_html().data


def test_installed_without_the_notebooks_nothing_is_linked(data: Path) -> None:
    (data.parent / "notebooks").rmdir()
    assert ".ipynb" not in reading.glossary_html().data


def write_notebook(folder: Path, name: str, title: str, first: str) -> None:
    head = f"# {title}\n\n[![Open in Colab](badge)](colab)\n\nAbout 30 minutes · measured"
    cells = [{"cell_type": "markdown", "source": text} for text in (head, first)]
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))


def test_the_map_lists_the_notebooks_that_exist_with_their_questions(data: Path) -> None:
    folder = data.parent / "notebooks"
    write_notebook(
        folder, "01_b", "01 · B & C", "**The question.** Is\n`a < b`?\n\n**You need** x."
    )
    write_notebook(folder, "00_a", "00 · A", "**The question.** Why?")
    (folder / "exercises").mkdir()
    write_notebook(folder / "exercises", "00_a", "00 · A", "**The question.** Why?")
    assert reading.notebooks() == [
        reading.Notebook("00_a", "00 · A", "Why?", 30),
        reading.Notebook("01_b", "01 · B & C", "Is `a < b`?", 30),
    ]
    html = reading.notebooks_html().data
    assert Page(html).count["tr"] == 3
    assert '<a href="01_b.ipynb">01 · B &amp; C</a>' in html
    assert "Is <code>a &lt; b</code>?" in html and "30" in html


def test_a_notebook_without_a_question_is_named(data: Path) -> None:
    write_notebook(data.parent / "notebooks", "01_b", "01 · B", "**You need** nothing.")
    with pytest.raises(ValueError, match="01_b.ipynb: its first two cells lack .*question"):
        reading.notebooks()


def test_installed_without_the_notebooks_the_map_leads_to_the_release(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Message()
    monkeypatch.setattr(reading.metadata, "metadata", lambda name: package)
    (data.parent / "notebooks").rmdir()
    assert reading.notebooks() == []
    assert "<a" not in reading.notebooks_html().data  # before there is a release
    package["Project-URL"] = "Release, https://example.org/suite"
    assert '<a href="https://example.org/suite">' in reading.notebooks_html().data


def test_the_tables_hold_everything_and_ask_nothing_of_the_network() -> None:
    for table, rows in (
        (reading.glossary_html(), len(reading.glossary())),
        (reading.literature_html(), len(reading.literature())),
    ):
        assert Page(table.data).count["tr"] == rows + 1
        assert not re.search(r"<(script|link|img|iframe)|\ssrc=|@import|url\(", table.data)


def test_the_glossary_runs_from_a_to_z() -> None:
    terms = re.findall(r"<b>([^<]+)</b>", reading.glossary_html().data)
    assert terms == sorted(terms, key=str.lower)
    assert terms[:2] == ["ABBA/BABA", "ablation"]


def test_the_reading_map_of_one_topic() -> None:
    html = reading.literature_html("induction").data
    assert "In-context Learning and Induction Heads" in html
    assert "Highway Networks" not in html
    with pytest.raises(ValueError, match="no work on 'inductoin'; topics are: start here, "):
        reading.literature_html("inductoin")


@pytest.mark.browser
def test_typing_hides_the_rows_that_lack_a_word() -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.set_content(reading.glossary_html().data)
        shown = page.locator("tbody tr:visible")
        assert shown.count() == len(reading.glossary())
        page.get_by_role("searchbox").fill("WANG name")
        assert "name mover" in [text.split("\n")[0].strip() for text in shown.all_inner_texts()]
        assert 0 < shown.count() < 10
        said = page.get_by_role("status")
        assert said.inner_text() == ""
        page.get_by_role("searchbox").fill("no such word anywhere")
        assert shown.count() == 0 and said.inner_text() == "Nothing here has these words."
        page.get_by_role("searchbox").fill("")
        assert shown.count() == len(reading.glossary()) and said.inner_text() == ""
        browser.close()
