"""The attribution graph on a page: painted, answering a click, and never wider than the page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import nbformat
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from browser import chromium, offline_window  # noqa: E402
from pages import to_html  # noqa: E402
from test_browser import Reader  # noqa: E402

from mi_helpers import figures  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
LAYERS, TOKENS = 4, [" one", " two", " three", " four", " five", " six", " seven", " eight"]
FIGURE, MARK = 'figure[class^="mi-ag-"]', ".n[data-i='{}']"


class Mark(NamedTuple):
    kind: str
    layer: int
    position: int
    unit: int
    value: float


def graph() -> SimpleNamespace:
    """Three features at each token and layer, each of which reads all of the row below."""
    nodes = [Mark("token", -1, at, at, 1.0) for at in range(len(TOKENS))]
    nodes += [
        Mark("feature", layer, at, 3 * at + k, 2.5)
        for layer in range(LAYERS)
        for at in range(len(TOKENS))
        for k in range(3)
    ]
    nodes.append(Mark("logit", LAYERS, len(TOKENS) - 1, 0, 0.9))
    layer = np.array([node.layer for node in nodes])
    place = np.array([node.position for node in nodes])
    reads = (layer[:, None] == layer + 1) & (place[:, None] >= place)
    signs = 1 - 2.0 * (np.arange(len(nodes)) % 3 == 0)
    return SimpleNamespace(nodes=nodes, tokens=TOKENS, weights=reads * signs, predicted=[" nine"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a notebook's page with the figure in it."""
    try:
        chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    context = {(0, 0): [(["here", " it", " fires"], [0.0, 1.0, 4.0])]}
    made = figures.attribution(graph(), title="A graph of four layers", contexts=context)
    shown = nbformat.v4.new_output("display_data", {"text/html": str(made)})
    cell = nbformat.v4.new_code_cell("graph", outputs=[shown], execution_count=1)
    path = tmp_path_factory.mktemp("graph") / "graph.html"
    path.write_text(to_html(nbformat.v4.new_notebook(cells=[cell])), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("width", [1100, 390])
def test_a_graph_is_painted_answers_a_click_and_fits(page: str, width: int) -> None:
    from playwright.sync_api import expect

    with offline_window(width=width, height=900) as window:
        window.page.goto(page)
        figure = window.page.locator(FIGURE)
        Reader(window).assert_painted(figure)
        panel = figure.locator(".panel")
        expect(panel).to_contain_text("Click a mark")
        expect(figure.locator(".n.lit")).to_have_count(0)

        feature = len(TOKENS)  # the first, which reads the first token and has a context
        figure.locator(MARK.format(feature)).click()
        expect(panel.locator("strong")).to_contain_text("L0 feature 0 at")
        expect(panel.locator("h5")).to_have_text(["inputs", "outputs", "most active on"])
        expect(panel).to_contain_text("value 2.5")
        assert 1 < figure.locator(".n.lit").count() < figure.locator(".n").count()
        panel.locator("button").first.click()  # its only input
        expect(panel.locator("strong")).to_contain_text("token")
        window.page.keyboard.press("Escape")

        box, last = figure.bounding_box(), panel.bounding_box()
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        for one in (box, last, figure.locator("svg").locator("..").bounding_box()):
            assert one and 0 <= one["x"] and one["x"] + one["width"] <= width
        assert window.blocked == []
