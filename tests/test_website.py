"""The site: every link leads somewhere, scripts lie there once, the search knows all of it."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import api_pages
import claims_page
import nbformat
import notes_page
import numpy as np
import pytest
import website
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_pages import Page

from mi_helpers import figures
from mi_helpers.figures.rendering import PLOTLY
from mi_helpers.suite import library
from mi_helpers.suite.expectations import MODELS, load_suite

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("00_start_here", "03_induction_heads")


def figure_outputs() -> list[nbformat.NotebookNode]:
    """A plotly figure and a view of attention, as a kernel would leave them."""
    weights = np.tril(np.ones((2, 3, 3))) / np.arange(1, 4)[:, None]
    view = figures.attention(weights, ["a", "b", "c"], title="A view")
    plot = figures.bars([1, -2], ["a", "b"], title="Bars")
    return [
        new_output("display_data", data={PLOTLY: json.loads(plot.to_json())}),
        new_output("display_data", data={"text/html": view.to_html(script=True)}),
    ]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of two notebooks, whose first code cells carry the same two figures."""
    folder = tmp_path_factory.mktemp("site")
    for name in NAMES:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        next(c for c in notebook.cells if c.cell_type == "code").outputs = figure_outputs()
        (folder / "gallery" / "executed").mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / "gallery" / "executed" / f"{name}.ipynb")
    website.build(folder / "gallery", folder / "site")
    return folder / "site"


def texts(site: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}


def search_index(site: Path) -> list[tuple[str, str, str]]:
    """(address, heading, text) of all that the search finds."""
    text = (site / "assets" / "search-index.js").read_text(encoding="utf-8")
    found = re.fullmatch(r"window\.miIndex\(\.\.\.(.*)\);\n", text, re.S)
    assert found
    titles, rows = json.loads(found[1])
    return [(titles[page][0] + anchor, head, body) for page, anchor, head, body in rows]


def test_without_a_gallery_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`make run` first"):
        website.build(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------------------------------- links


def dead_links(site: Path) -> tuple[list[str], int]:
    """The links and hits of a site that lead nowhere, and how many there are within it."""
    read = texts(site)
    pages = {name: Page(text) for name, text in read.items()}
    ids = {
        name: {unquote(unescape(one)) for one in re.findall(r'\bid="([^"]+)"', text)}
        for name, text in read.items()
    }
    addresses = [(name, link) for name, page in pages.items() for link in page.links]
    addresses += [("index.html", url) for url, _, _ in search_index(site)]
    dead, local = [], 0
    for name, link in addresses:
        if re.match(r"https?://", link):
            continue
        local += 1
        target, _, anchor = link.partition("#")
        target = unquote(target) or name
        known = not anchor or anchor.startswith("find=") or unquote(anchor) in ids.get(target, ())
        if re.match(r"[a-z]+:", link) or not (site / target).is_file() or not known:
            dead.append(f"{name}: {link}")
    return dead, local


def test_every_link_and_every_hit_leads_somewhere(site: Path) -> None:
    dead, local = dead_links(site)
    assert dead == [] and local > 500


def test_every_link_of_the_whole_site_leads_somewhere() -> None:
    whole = Path(os.environ.get("MI_SITE", ROOT / "build" / "site"))
    if not (whole / "index.html").is_file():
        pytest.skip("no whole site: `make run site`")
    assert dead_links(whole)[0] == []


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    for name, text in texts(site).items():
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link [^>]*href=[\"']?([^\"' >]+)", text)
        assert loaded, name
        for url in loaded:
            assert url.startswith("data:") or (site / url).is_file(), f"{name} loads {url}"


def test_one_copy_of_plotly_and_of_circuitsvis(site: Path) -> None:
    for name in NAMES:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        assert text.count('<script src="assets/plotly.js">') == 1
        assert text.count('<script src="assets/circuitsvis.js">') == 1
        assert "mi-attention" in text and "plotly-graph-div" in text
        assert len(text) < 1_000_000
    script = (site / "assets" / "circuitsvis.js").read_text(encoding="utf-8")
    assert script.startswith("window.miCircuitsVis = (function () {") and len(script) > 1_000_000
    large = [path for path in site.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert sorted(path.name for path in large) == ["circuitsvis.js", "plotly.js"]
    assert re.fullmatch(r"\d+ files, [\d.]+ MB in all, [\d.]+ MB of them .*", website.sizes(site))


def test_pages_are_fit_to_hand_out(site: Path) -> None:
    for name in NAMES:
        made = Page((site / f"{name}.html").read_text(encoding="utf-8"))
        assert made.opened == made.depth == 0 and len(made.details) > 3
        assert not re.search(r"\$\$|\\(mathrm|frac|sum|text|hat)\b", made.text)
        assert "claims.html" in made.links and "notebooks.html" in made.links
        assert f"notebooks/exercises/{name}.ipynb" in made.links


# --------------------------------------------------------------------------------------- search


def test_the_search_knows_everything_but_solutions(site: Path) -> None:
    found = search_index(site)
    heads = {head for _, head, _ in found}
    claims = {claim for one in load_suite().values() for claim in one}
    assert claims <= heads
    assert {work.title for work in library.literature().values()} <= heads
    terms = {", ".join((entry.term, *entry.aliases)) for entry in library.glossary()}
    assert terms <= heads
    assert {"attention_scores", "patch_sweep", "03 · Induction heads"} <= heads
    everything = " ".join(text for _, _, text in found)
    notebook = nbformat.read(ROOT / "notebooks" / f"{NAMES[1]}.ipynb", as_version=4)
    folded = [
        c.source for c in notebook.cells if c.metadata.get("jupyter", {}).get("source_hidden")
    ]
    assert folded
    for code in folded:
        line = max(code.splitlines(), key=len).strip()
        assert " ".join(line.split()) not in everything, line
    assert all(not re.search(r"<(script|style)", text) for _, _, text in found)


def test_sections_have_their_own_text() -> None:
    html = (
        '<title>t</title><nav>menu</nav><h1 id="a">One<a href="#a">¶</a></h1><p>first</p>'
        "<details><summary>Hint</summary>secret</details>"
        '<h2 id="b">Two</h2><p>second</p><script>code</script><h4 id="c">small</h4>'
    )
    assert website.sections(html) == [("#a", "One", "first"), ("#b", "Two", "second small")]


# ------------------------------------------------------------------------------- speaking notes


def test_speaking_notes_say_what_to_ask_to_show_and_to_claim() -> None:
    claims = load_suite()["03_induction_heads"]
    cells = [
        new_markdown_cell("# T\n\n**The question.** Not asked again, is it not so?"),
        new_markdown_cell("## 1. First\n\nLook. What *would* [a head](x.ipynb) do here? Why?"),
        new_code_cell('claim("induction.best_head", 1)', outputs=figure_outputs()),
        new_markdown_cell(
            "### Exercise 1: try\nCan you do this one?\n\n<details>Is this a hint to you?</details>"
        ),
        new_markdown_cell("## Nothing\n\nTo say."),
    ]
    [section] = notes_page.sections(new_notebook(cells=cells), claims)
    claim = claims["induction.best_head"]
    assert section.heading == "1. First"
    assert section.notes == [
        ("ask", "What would a head do here?"),
        ("show", "Bars"),
        ("show", "A view"),
        ("claim", f"{claim.statement} Control: {claim.control}."),
        ("do", "Exercise 1: try"),
    ]
    body = notes_page.page_body([("T", "t.html", "Is it?", [section])])
    assert body.count("<li>") == 5 and 'href="t.html"' in body


# --------------------------------------------------------------------------------------- claims


def test_every_claim_is_there_on_every_model_that_has_it(site: Path) -> None:
    suite = load_suite()
    text = (site / "claims.html").read_text(encoding="utf-8")
    cards = re.findall(
        r'<article class="mi-claim" data-model="([^"]+)" data-notebook="([^"]+)"', unescape(text)
    )
    expected = {
        (model, notebook)
        for notebook, claims in suite.items()
        for claim in claims.values()
        for model in (["the notebook's own models"] if claim.own else MODELS)
        if claim.of(model)
    }
    assert expected <= set(cards)
    everywhere = [claim for claims in suite.values() for claim in claims.values()]
    own = [claim.id for claim in everywhere if claim.own]
    loaded = sum(bool(c.of(model)) for c in everywhere if not c.own for model in MODELS)
    assert len(cards) >= loaded + len(own)
    assert [text.count(f"<code>{claim}</code>") for claim in own] == [1] * len(own)
    for claims in suite.values():
        for claim in claims:
            assert f"<code>{claim}</code>" in text
    assert {f"{name}.html" for name in NAMES} <= set(Page(text).links)


def test_a_later_run_counts_and_what_was_not_run_says_so() -> None:
    suite = {"03_induction_heads": load_suite()["03_induction_heads"]}
    claim = suite["03_induction_heads"]["induction.best_head"]
    row = {
        "id": claim.id, "statement": claim.statement, "unit": claim.unit, "value": 0.5,
        "control_text": claim.control, "control_unit": claim.unit, "control_value": 0.1,
        "expected": [0.4, 0.6], "expected_control": [0.0, 0.2], "source": "s", "status": "holds",
        "reason": "",
    }  # fmt: skip
    run = {"notebook": "03_induction_heads", "model": "pocket", "rows": [row]}
    later = run | {"rows": [row | {"value": 0.9, "status": "fails"}]}
    own = run | {"model": "folder-of-mine", "rows": [row | {"status": "no expectation"}]}
    made = {
        card.model: card
        for card in claims_page.cards(suite, [run, later, own])
        if card.id == claim.id
    }
    assert made["pocket"].status == "fails" and "0.9" in made["pocket"].html
    assert made["gpt2"].status == claims_page.NOT_RUN and "expected" in made["gpt2"].html
    assert made["folder-of-mine"].status == "no expectation"
    body = claims_page.page_body(list(made.values()), {})
    assert "<option>folder-of-mine</option>" in body and f">1 claim, {len(made)} entries<" in body
    counts = {
        model: re.findall(r"<td[^>]*>(\d*)</td>", cells)
        for model, cells in re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", body.split("<tbody>")[1])
    }
    assert body.count("<th>") - len(counts) == 5  # model, results, and the verdicts there are
    assert counts["pocket"] == ["1", "1", "", ""]  # results, fails
    assert counts["folder-of-mine"] == ["1", "", "1", ""]  # no expectation
    assert counts["gpt2"] == ["", "", "", "1"]  # not run
    assert "<a href" not in body.split("</form>")[1]  # no page of the notebook here, so no link


# -------------------------------------------------------------------------------------- helpers


def test_every_public_name_is_documented(site: Path) -> None:
    import mi_helpers

    for room in api_pages.rooms(ROOT / "mi_helpers"):
        text = (site / f"api-{room}.html").read_text(encoding="utf-8")
        names = getattr(getattr(mi_helpers, room, None), "__all__", [])
        for name in names:
            section = text.partition(f'id="{room}.{name}"')[2].partition("<section>")[0]
            assert len(section) > 60, f"{room}.{name}"
    assert "top_heads" in (site / "api-heads.html").read_text(encoding="utf-8")


def test_a_docstring_becomes_html() -> None:
    text = (
        "What it does, with `code` & <tags>.\n\nArgs:\n    a: the first,\n        which goes on.\n"
        "    b: the second.\n\nReturns:\n    A number."
    )
    made = api_pages.docstring_html(text)
    assert made == (
        "<p>What it does, with <code>code</code> &amp; &lt;tags&gt;.</p><h4>Args</h4><dl>"
        "<dt><code>a</code></dt><dd>the first, which goes on.</dd><dt><code>b</code></dt>"
        "<dd>the second.</dd></dl><h4>Returns</h4><p>A number.</p>"
    )


def test_a_name_that_nothing_defines_is_an_error(tmp_path: Path) -> None:
    room = tmp_path / "package" / "room"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text(
        '"""A room."""\nfrom package.room.a import f\n__all__ = ["f"]'
    )
    (room / "a.py").write_text('"""A file."""\n\ndef g(x: int = 1, *, y) -> str:\n    """G."""\n')
    with pytest.raises(ValueError, match="room: f is exported"):
        api_pages.public_names(tmp_path / "package", "room")
    (room / "__init__.py").write_text(
        '"""A room."""\nfrom package.room.a import g\n__all__ = ["g"]'
    )
    [one] = api_pages.public_names(tmp_path / "package", "room")
    assert "g(x: int=1, *, y) -&gt; str" in api_pages.room_html(tmp_path / "package", "room")
    assert one.path == room / "a.py"
