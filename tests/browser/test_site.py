"""The site as a reader sees it, opened from disk in a Chromium that reaches no network.

A small site is made here. Where `make site` has written build/site, all of its pages are looked at
too; MI_SITE names another folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
from browser import Window, chromium, offline_window  # noqa: E402
from test_browser import PIXELS, Reader  # noqa: E402, F401
from test_website import site  # noqa: E402, F401

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
# Of the figures on a page: how many there are, how many are drawn, and how many have a size.
FIGURES = """() => {
  const plots = [...document.querySelectorAll(".plotly-graph-div")];
  const views = [...document.querySelectorAll(".mi-attention")];
  const drawn = plots.filter(plot => plot.querySelector(".main-svg .plot, .main-svg .pielayer, \
.gl-container canvas")).concat(views.filter(view => view.matches("[data-drawn]")
    && view.querySelector("svg, canvas, img")));
  const sized = drawn.filter(it => it.clientWidth > 150 && it.clientHeight > 50);
  return {there: plots.length + views.length, drawn: drawn.length, sized: sized.length};
}"""
CONTRAST = """selector => {
  const light = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(Number)
      .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const ink = light(getComputedStyle(document.querySelector(selector)).color);
  return {ground, ratio: (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)};
}"""
PAGES = ("index", "notebooks", "claims", "glossary", "literature", "api", "api-heads",
         "workshops", "workshops-60-minutes", "workshops-two-days", "speaking-notes",
         "03_induction_heads")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def a_browser() -> None:
    """Without a Chromium nothing here can be seen."""
    try:
        chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def opened(site: Path, page: str, **look) -> Iterator[Window]:  # noqa: F811
    with offline_window(**look) as window:
        window.page.goto((site / f"{page}.html").as_uri())
        yield window
        assert window.blocked == []


def built() -> list[Path]:
    """The notebooks' pages of the whole site, where there is one."""
    folder = Path(os.environ.get("MI_SITE", ROOT / "build" / "site"))
    return sorted(folder.glob("[0-9]*.html"))


def assert_figures_are_painted(window: Window) -> int:
    from playwright.sync_api import expect

    plots = window.page.locator(".plotly-graph-div, .mi-attention")
    if count := plots.count():
        expect(plots.last).to_be_attached()
        window.page.wait_for_function(f"({FIGURES})().drawn === {count}")
    seen = window.page.evaluate(FIGURES)
    assert seen["there"] == seen["drawn"] == seen["sized"] == count, seen
    return count


@pytest.mark.parametrize("page", ["00_start_here", "03_induction_heads"])
def test_figures_are_painted_from_the_shared_scripts(site: Path, page: str) -> None:  # noqa: F811
    for window in opened(site, page):
        assert assert_figures_are_painted(window) == 2
        reader = Reader(window)
        reader.assert_painted(window.page.locator(".js-plotly-plot").first)
        reader.assert_painted(window.page.locator(".mi-attention").first)


@pytest.mark.parametrize("path", built(), ids=lambda path: path.stem)
def test_every_figure_of_the_whole_site_is_painted(path: Path) -> None:
    for window in opened(path.parent, path.stem):
        assert_figures_are_painted(window)
        blank = []
        for place in window.page.locator(".plotly-graph-div, .mi-attention").all():
            place.scroll_into_view_if_needed()
            seen = Reader(window).look(place)
            if seen["colours"] < 8 or not 0.005 < seen["ink"] < 0.995:
                blank.append((place.get_attribute("id"), seen))
        assert not blank, blank


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_telephone(site: Path, page: str) -> None:  # noqa: F811
    for window in opened(site, page, width=390, height=800):
        window.settle(500)
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
        box = window.page.locator("h1").first.bounding_box()
        assert box and 0 <= box["x"] and box["x"] + box["width"] <= 390


@pytest.mark.parametrize("page", PAGES)
def test_light_and_dark_can_be_read_and_switched(site: Path, page: str) -> None:  # noqa: F811
    for theme in ("light", "dark"):
        for window in opened(site, page, theme=theme):
            for selector in ("h1", "main a[href]", "main p, main td", ".mi-site a"):
                seen = window.page.evaluate(CONTRAST, selector)
                assert seen["ratio"] > 4.5, (theme, selector, seen)
                assert (seen["ground"] < 0.1) == (theme == "dark")
            window.page.locator(".mi-theme").click()
            seen = window.page.evaluate(CONTRAST, "h1")
            assert (seen["ground"] < 0.1) == (theme == "light") and seen["ratio"] > 4.5
            window.page.reload()
            again = window.page.evaluate(CONTRAST, "h1")
            assert again == seen  # the choice is kept


def test_the_search_finds_and_leads_there(site: Path) -> None:  # noqa: F811
    from playwright.sync_api import expect

    for window in opened(site, "index"):
        box, hits = window.page.locator(".mi-site input"), window.page.locator(".mi-hits a")
        box.fill("induction head")
        expect(hits.first).to_have_text("Glossary: induction head")
        box.fill("prefix matching score nobody wrote")
        expect(hits).to_have_count(0)
        expect(window.page.locator(".mi-hits")).to_have_text("Nothing here has all of these words.")
        box.fill("attention_scores")
        expect(hits.first).to_have_text("mi_helpers.heads: attention_scores")
        hits.first.click()
        window.page.wait_for_url("**/api-heads.html#heads.attention_scores")
        box.fill("induction.best_head")
        hits.first.click()
        window.page.wait_for_url("**/claims.html#find=*")
        shown = window.page.locator(".mi-claim:visible")
        expect(shown.first).to_contain_text("induction.best_head")
        assert 0 < shown.count() < 12


def test_claims_are_filtered(site: Path) -> None:  # noqa: F811
    from playwright.sync_api import expect

    for window in opened(site, "claims"):
        cards = window.page.locator(".mi-claim")
        whole = cards.count()
        window.page.locator("[data-filter=model]").select_option("gpt2")
        window.page.locator("[data-filter=notebook]").select_option("03_induction_heads")
        chosen = '[data-model="gpt2"][data-notebook="03_induction_heads"]'
        few = window.page.locator(f".mi-claim{chosen}").count()
        assert 0 < few < whole
        expect(window.page.locator(".mi-claim:visible")).to_have_count(few)
        expect(window.page.locator(f".mi-claim{chosen}:visible")).to_have_count(few)
        expect(window.page.locator(".mi-filters output")).to_contain_text(
            f"{few} claims, {few} entries"
        )
        window.page.locator(".mi-filters input").fill("no claim says this")
        expect(window.page.locator(".mi-filters output")).to_have_text("0 claims, 0 entries")
