"""What the classic Notebook shows: figures painted, widgets at work, without a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tools")]
from browser import Lab, chromium, classic_notebook, offline_window  # noqa: E402
from test_browser import CELLS, Reader  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SHOWN = ["data", "plotly", "attention", "tokens", "explore", "explored attention"]


class Classic(Reader):
    """The same, as the classic Notebook marks up its cells."""

    def output(self, name: str) -> Any:
        return self.window.page.locator(
            f".code_cell >> nth={SHOWN.index(name)} >> .output_wrapper >> nth=0"
        )


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A classic Notebook with one notebook to run."""
    try:
        chromium()
        root = tmp_path_factory.mktemp("classic")
        cells = [nbformat.v4.new_code_cell(CELLS[name]) for name in SHOWN]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, root / "seen.ipynb")
        with classic_notebook(root) as running:
            yield running
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_figures_are_painted_and_widgets_work(classic: Lab) -> None:
    from playwright.sync_api import expect

    with offline_window() as window:
        reader = Classic(window, plot=".js-plotly-plot:visible")
        page = window.page
        page.goto(f"{classic.url}/notebooks/seen.ipynb?token={classic.token}")
        page.wait_for_function("() => window.Jupyter?.notebook?.kernel?.is_connected()")
        page.evaluate("() => Jupyter.notebook.execute_cells([0])")
        page.wait_for_function("() => Jupyter.notebook.get_cell(0).input_prompt_number === 1")
        window.settle(2000)  # once the kernel is ready, old widgets are drawn anew
        page.evaluate("() => Jupyter.notebook.execute_all_cells()")
        reader.assert_painted(reader.plots("plotly"))
        reader.assert_painted(reader.views("attention"))
        expect(reader.output("tokens").locator("span[title]")).to_have_count(6)

        cell = reader.output("explore")
        reader.assert_painted(reader.plots("explore"))
        expect(cell.get_by_text("run the notebook to change it")).to_be_hidden()
        expect(reader.plots("explore")).to_have_count(1)  # the live one, and not its twin
        cell.locator("select").select_option("9")
        expect(cell).to_contain_text("Layer 9")
        reader.output("explored attention").locator("select").select_option("1")
        seen = reader.output("explored attention").locator("figcaption:visible")
        expect(seen).to_have_text("Head 1")
        reader.assert_painted(reader.views("explored attention"))
        assert window.blocked == []
