"""What a reader sees without a network: figures in JupyterLab, after a reload, and as HTML.

A headless Chromium, to which only 127.0.0.1 answers, runs one notebook and looks at its pixels.
"""

from __future__ import annotations

import base64
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from browser import Lab, Window, chromium, jupyter_lab, offline_window  # noqa: E402
from pages import to_html  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

CELLS = {
    "data": """import numpy as np
from mi_helpers import figures
tokens = ["<|endoftext|>", "When", " Mary", " and", " John", "\\n"]
weights = np.tril(np.ones((3, 6, 6)))
weights /= weights.sum(-1, keepdims=True)""",
    "plotly": "figures.heatmap(np.eye(6) - 0.5, x=tokens, title='A diagonal')",
    "wide": "figures.lines({'a': [1, 2, 4, 8]}, title='As wide as the page')",
    "attention": "figures.attention(weights, tokens, title='First view')",
    "again": "figures.attention(weights[:1], tokens, title='Second view')",
    "tokens": "figures.tokens_coloured(tokens, [0, 1, -1, 2, -2, 3], title='Coloured')",
    "explore": """def draw(layer):
    if layer == "broken":
        raise ValueError("there is no such layer")
    return figures.bars([1, -2, int(layer)], ["a", "b", "c"], title=f"Layer {layer}")

figures.explore(draw, layer=["3", "9", "broken"])""",
    "explored attention": """figures.explore(
    lambda head: figures.attention(weights[head], tokens, title=f"Head {head}"), head=[0, 1])""",
    "slow": """import time
def slow(layer):
    time.sleep(2 * layer)
    return figures.bars([layer], ["a"], title=f"Slow {layer}")

figures.explore(slow, layer=[0, 1, 2])""",
    "ahead": """figures.explore(lambda layer: figures.heatmap([[layer]], title=f"Ahead {layer}"),
    layer=[1, 5], ahead=True)""",
    "legend": """figures.lines({f"a series with a long name {i}": [i, 2, 4 * i] for i in range(8)},
    title="A title that is longer than a telephone is wide, so that it has to be broken twice")""",
    "facets": """figures.heatmap(weights, facets=["L0H0", "L0H1", "L0H2"], x=tokens, y=tokens,
    title="A name above each panel", xlabel="key (source)", ylabel="query (destination)")""",
    "text": """figures.explore(
    lambda words: figures.tokens_coloured(words.split(), [1] * 2, title="t"), words="two words")""",
}
COVERED = """plot => {
  const box = thing => thing.getBoundingClientRect(), bar = box(plot.querySelector(".modebar"));
  const over = text => {
    const b = box(text);
    return text.textContent.trim() && b.left < bar.right && b.right > bar.left
      && b.top < bar.bottom && b.bottom > bar.top;
  };
  const texts = [...plot.querySelectorAll("text")].filter(text => !text.closest(".modebar"));
  const groups = [...plot.querySelectorAll(".modebar-group")];
  return {texts: texts.length, covered: texts.filter(over).map(text => text.textContent),
    shown: groups.some(group => getComputedStyle(group).opacity !== "0")};
}"""
PIXELS = """async source => {
  const image = new Image();
  image.src = "data:image/png;base64," + source;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const bytes = pen.getImageData(0, 0, image.width, image.height).data, count = new Map();
  for (let i = 0; i < bytes.length; i += 4) {
    const key = bytes[i] << 16 | bytes[i + 1] << 8 | bytes[i + 2];
    count.set(key, (count.get(key) || 0) + 1);
  }
  return {colours: count.size, ink: 1 - Math.max(...count.values()) / (bytes.length / 4)};
}"""


@dataclass
class Reader:
    """A window on the notebook, and how to find the output of a named cell in it."""

    window: Window
    outputs: str = ".jp-Notebook .jp-CodeCell >> nth={} >> .jp-Cell-outputArea"
    plot: str = ".jp-RenderedPlotly:visible"

    def output(self, name: str) -> Any:
        """The output area of a cell of CELLS."""
        return self.window.page.locator(self.outputs.format(list(CELLS).index(name)))

    def plots(self, name: str) -> Any:
        """The plotly figures to be seen in a cell's output."""
        return self.output(name).locator(self.plot)

    def title(self, name: str) -> Any:
        """The title to be seen above a plot in a cell's output in JupyterLab."""
        return self.output(name).locator(".mi-title:visible")

    def views(self, name: str) -> Any:
        """The attention views to be seen in a cell's output."""
        return self.output(name).locator(".mi-attention[data-drawn]:visible")

    def assert_painted(self, thing: Any) -> None:
        """`thing` shows up, has a size, and its pixels are neither blank nor of a few colours."""
        from playwright.sync_api import expect

        expect(thing).to_be_visible()
        thing.locator("svg:visible, canvas:visible, img:visible").first.wait_for()
        self.window.settle(1000)
        thing.scroll_into_view_if_needed()
        box = thing.bounding_box()
        assert box["width"] > 200 and box["height"] > 150
        seen = self.look(thing)
        assert seen["colours"] > 20 and 0.02 < seen["ink"] < 0.98, seen

    def assert_toolbar_covers_no_text(self, plot: Any) -> None:
        """The toolbar appears when the mouse enters `plot`, and stands on no text of it."""
        plot.scroll_into_view_if_needed()
        self.window.page.mouse.move(0, 0)
        self.window.settle(600)
        if plot.locator(".modebar").count():  # JupyterLab shows a picture until the mouse enters
            assert not plot.evaluate(COVERED)["shown"]
        plot.hover(position={"x": 90, "y": 90})
        plot.locator(".modebar").wait_for(state="attached")
        self.window.settle(600)
        seen = plot.evaluate(COVERED)
        assert seen["shown"] and seen["texts"] > 2 and seen["covered"] == []

    def look(self, thing: Any) -> dict[str, float]:
        """How many colours `thing` shows, and which share of it is not background."""
        picture = base64.b64encode(thing.screenshot()).decode()
        return self.window.page.evaluate(PIXELS, picture)


def notebook() -> Any:
    """The notebook under test, as an author would save it."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab in which the notebook has been run to its end and saved."""
    try:
        chromium()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("lab")
    nbformat.write(notebook(), root / "seen.ipynb")
    with jupyter_lab(root) as running:
        yield running


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A fresh window; whatever it asked of a network fails the test."""
    with offline_window() as window:
        yield Reader(window)
        assert window.blocked == []


def test_live(lab: Lab, reader: Reader) -> None:
    from playwright.sync_api import expect

    reader.window.open_notebook(lab, "seen.ipynb")
    reader.window.command("notebook:run-all-cells")
    reader.window.page.set_viewport_size({"width": 1100, "height": 900})  # nothing may collapse
    for name in ("plotly", "wide", "explore"):
        reader.assert_painted(reader.plots(name))
    for name in ("attention", "again", "explored attention"):
        reader.assert_painted(reader.views(name))
    expect(reader.output("tokens").locator("span[title]")).to_have_count(6)
    assert reader.look(reader.output("tokens"))["colours"] > 20

    cell = reader.output("explore")
    before = cell.screenshot()
    cell.locator("select").select_option("9")
    expect(reader.title("explore")).to_have_text("Layer 9")
    reader.assert_painted(reader.plots("explore"))
    assert cell.screenshot() != before
    cell.locator("select").select_option("broken")
    expect(cell).to_contain_text("ValueError: there is no such layer")
    cell.locator("select").select_option("3")
    expect(reader.title("explore")).to_have_text("Layer 3")
    reader.output("explored attention").locator("select").select_option("1")
    expect(reader.output("explored attention").locator("figcaption:visible")).to_have_text("Head 1")
    reader.assert_painted(reader.views("explored attention"))

    slow, dimmed = reader.output("slow"), reader.output("slow").locator(".mi-computing")
    expect(dimmed).to_have_count(0)
    slow.locator("select").select_option("2")
    expect(slow.get_by_role("status")).to_have_text("computing \u2026")
    expect(dimmed).to_have_count(1)
    assert float(dimmed.evaluate("it => getComputedStyle(it).opacity")) < 1
    expect(reader.title("slow")).to_have_text("Slow 2")
    expect(dimmed).to_have_count(0)
    expect(slow.get_by_role("status")).to_have_count(0)

    reader.output("ahead").locator("select").select_option("5")
    expect(reader.title("ahead")).to_have_text("Ahead 5")
    expect(reader.output("text")).to_contain_text("words (then press Enter)")
    for name in ("plotly", "wide", "legend", "facets"):
        reader.assert_toolbar_covers_no_text(reader.plots(name))
    reader.window.command("docmanager:save")
    assert_fits_a_telephone(reader)


def assert_fits_a_telephone(reader: Reader) -> None:
    """In JupyterLab on a telephone titles wrap, and plots scroll before they are squeezed."""
    reader.window.page.set_viewport_size({"width": 390, "height": 900})
    reader.window.page.evaluate("window.jupyterapp.shell.collapseLeft()")
    reader.window.settle(2000)
    for name in ("plotly", "wide", "legend", "facets", "explore"):
        page, title = reader.output(name).bounding_box(), reader.title(name).bounding_box()
        assert page["width"] < 320
        assert title["x"] >= page["x"]
        assert title["x"] + title["width"] <= page["x"] + page["width"] + 1, name
        assert reader.plots(name).locator(".gtitle").count() == 0, "not drawn a second time"
    assert reader.title("legend").bounding_box()["height"] > 60, "in several lines"
    assert reader.plots("facets").bounding_box()["width"] > 500, "scrolls"
    assert reader.plots("wide").bounding_box()["width"] < 320, "fits"
    select = reader.output("explore").locator("select")
    assert select.bounding_box()["width"] < reader.output("explore").bounding_box()["width"]


def test_the_saved_notebook_carries_one_copy_of_the_script(lab: Lab) -> None:
    saved = (lab.root / "seen.ipynb").read_text(encoding="utf-8")
    assert saved.count("page.miCircuitsVis = (function") == 1
    assert len(saved) < 2_000_000


def test_after_a_reload_with_the_kernel_alive(lab: Lab, reader: Reader) -> None:
    from playwright.sync_api import expect

    reader.window.open_notebook(lab, "seen.ipynb")
    for name in ("attention", "again", "explored attention"):
        reader.assert_painted(reader.views(name))
    reader.assert_painted(reader.plots("plotly"))  # a picture, until the mouse enters it
    reader.plots("plotly").hover()
    expect(reader.title("plotly")).to_have_text("A diagonal")
    cell = reader.output("explore")
    cell.locator("select").select_option("9")
    expect(reader.title("explore")).to_have_text("Layer 9")


def test_after_a_reload_with_a_new_kernel(lab: Lab, reader: Reader) -> None:
    reader.window.open_notebook(lab, "seen.ipynb")
    reader.window.command("kernelmenu:shutdown")
    reader.window.page.reload()
    reader.window.page.wait_for_selector(".jp-Notebook .jp-Cell")
    for name in ("plotly", "wide", "explore"):
        reader.assert_painted(reader.plots(name))
    for name in ("attention", "again", "explored attention"):
        reader.assert_painted(reader.views(name))
    from playwright.sync_api import expect

    for name in ("explore", "explored attention", "slow", "ahead", "text"):
        output = reader.output(name)
        expect(output.get_by_text("run the notebook to change it")).to_be_visible()
        expect(output.locator(".jp-OutputArea-child:visible")).to_have_count(
            {"text": 2, "explored attention": 2}.get(name, 3)  # caption, twin, and a plot's title
        )
        expect(output.get_by_text("displaying widget")).to_be_hidden()


def test_untrusted(lab: Lab, reader: Reader) -> None:
    """Outputs from elsewhere run no script: figures and coloured text show, views say why not."""
    from playwright.sync_api import expect

    foreign = nbformat.read(lab.root / "seen.ipynb", as_version=4)
    foreign.cells[0].outputs = [nbformat.v4.new_output("stream", text="changed elsewhere")]
    nbformat.write(foreign, lab.root / "foreign.ipynb")
    reader.window.open_notebook(lab, "foreign.ipynb")
    reader.assert_painted(reader.plots("plotly"))
    expect(reader.output("attention")).to_contain_text("needs scripts")
    expect(reader.views("attention")).to_have_count(0)
    assert reader.look(reader.output("tokens"))["colours"] > 20
    reader.assert_painted(reader.plots("explore"))
    expect(reader.output("explore")).to_contain_text("run the notebook to change it")
    expect(reader.output("explore").get_by_text("displaying widget")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 1400])
def test_exported_figures_fit_the_page(
    lab: Lab, reader: Reader, tmp_path: Path, width: int
) -> None:
    """On a phone and on a wide screen: nothing sticks out, no toolbar or legend hides anything."""
    executed = nbformat.read(lab.root / "seen.ipynb", as_version=4)
    page = tmp_path / "page.html"
    page.write_text(to_html(executed), encoding="utf-8")
    reader.outputs = ".jp-CodeCell >> nth={} >> .jp-Cell-outputWrapper"
    reader.plot = ".js-plotly-plot:visible"
    reader.window.page.set_viewport_size({"width": width, "height": 900})
    reader.window.page.goto(page.as_uri())
    assert reader.window.page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("plotly", "wide", "legend", "facets"):
        reader.assert_toolbar_covers_no_text(reader.plots(name))
        title = reader.output(name).locator("figcaption").bounding_box()
        assert 0 <= title["x"] and title["x"] + title["width"] <= width
    curves = reader.plots("legend").locator(".nsewdrag").first.bounding_box()
    legend = reader.plots("legend").locator(".legend").bounding_box()
    assert legend["y"] >= curves["y"] + curves["height"] and curves["height"] > 80


def test_exported_html(lab: Lab, reader: Reader, tmp_path: Path) -> None:
    executed = nbformat.read(lab.root / "seen.ipynb", as_version=4)
    page = tmp_path / "page.html"
    page.write_text(to_html(copy.deepcopy(executed)), encoding="utf-8")
    reader.outputs = ".jp-CodeCell >> nth={} >> .jp-Cell-outputWrapper"
    reader.plot = ".js-plotly-plot:visible"
    reader.window.page.goto(page.as_uri())
    for name in ("plotly", "wide", "explore"):
        reader.assert_painted(reader.plots(name))
    for name in ("attention", "again", "explored attention"):
        reader.assert_painted(reader.views(name))
