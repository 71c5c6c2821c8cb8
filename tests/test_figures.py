"""Figures: what they draw, what they refuse, and that nothing in them needs a network."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_helpers import figures
from mi_helpers.figures import style
from mi_helpers.figures.html import Html
from mi_helpers.figures.rendering import PLOTLY, WIDGET, make_static, use_renderer

TOKENS = ["<|endoftext|>", "When", " Mary", " and", " John", ",", " John", "\n"]
LOADS = re.compile(
    r"""(?:src|srcset|data|poster)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?https?:"""
    r"""|<link[^>]+href|@import|\b(?:import|from)\s*\(?\s*["']https?:""",
    re.IGNORECASE,
)


def pattern(heads: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    """Random causal attention."""
    scores = torch.randn(heads, size, size, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(size, size).tril().bool()
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


MATRIX = np.random.default_rng(0).normal(size=(8, 8))
ROWS = {"a": MATRIX[0], "b": MATRIX[1]}
EDGES = [("embed", "L0H1", 1.0), ("L0H1", "L2H3", -0.5), ("L2H3", "logits", 0.7)]
SAY = dict(title="A finding", subtitle="pocket")
FIGURES = {
    "heatmap": lambda: figures.heatmap(MATRIX, x=TOKENS, y=TOKENS, text=".1f", **SAY),
    "facets": lambda: figures.heatmap([MATRIX] * 3, facets=["a", "b", "c"], x=TOKENS, **SAY),
    "token_table": lambda: figures.token_table([TOKENS] * 8, abs(MATRIX), x=TOKENS, **SAY),
    "lines": lambda: figures.lines(ROWS, x=TOKENS, bands={"a": (MATRIX[2], MATRIX[3])}, **SAY),
    "bars": lambda: figures.bars(MATRIX[0], TOKENS, errors=abs(MATRIX[1]), **SAY),
    "groups": lambda: figures.bars(ROWS, TOKENS, horizontal=True, **SAY),
    "scatter": lambda: figures.scatter(
        *MATRIX[:2], xlabel="x", ylabel="y", labels=list("abcdefgh"), named=["c"], identity=True,
        correlation=True, **SAY,
    ),
    "histogram": lambda: figures.histogram(ROWS, xlabel="x", marks={"best": 9.0}, **SAY),
    "graph": lambda: figures.graph(EDGES, notes={"L2H3": "mover"}, **SAY),
    "attention": lambda: figures.attention(pattern(), TOKENS, title="A finding").static(),
}  # fmt: skip
ROW = dict(head="L0H1", score=0.5, where=figures.link("notebook", "02_heads.ipynb"))
PAGES = {
    "attention view": lambda: figures.attention(pattern(), TOKENS).to_html(script=False),
    "tokens": lambda: str(figures.tokens_coloured(TOKENS, range(8), title="t")),
    "table": lambda: str(figures.table([ROW], title="t", search=True)),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_titled_in_the_suites_style_and_drawn_alike_twice(draw) -> None:
    fig = draw()
    assert isinstance(fig, go.Figure)
    assert fig.layout.title.text.startswith("A finding")
    assert "pocket" in fig.layout.title.text or draw is FIGURES["attention"]
    assert fig.layout.template.layout.paper_bgcolor == style.CARD
    assert fig.layout.height > fig.layout.margin.t + 100
    assert (fig.layout.width is None) == fig.layout.autosize
    assert "sendChartToCloud" in fig.layout.template.layout.modebar.remove
    assert draw().to_json() == fig.to_json()


@pytest.mark.parametrize("draw", (FIGURES | PAGES).values(), ids=FIGURES | PAGES)
def test_nothing_is_loaded_from_a_network(draw) -> None:
    shown = draw()
    if isinstance(shown, go.Figure):
        shown = shown.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False)
    assert not LOADS.search(shown)
    assert "cdn" not in shown.lower()


def test_the_check_for_network_loads_finds_them() -> None:
    bad = figures.bars([1], ["a"], title="t").to_html(include_plotlyjs="cdn")
    assert LOADS.search(bad)
    assert LOADS.search('import {x} from "y"; import("https://unpkg.com/circuitsvis")')


def test_heatmap_is_centred_on_zero_with_symmetric_reach() -> None:
    scale = figures.heatmap([[1.0, -4.0]], title="t").layout.coloraxis
    assert (scale.cmin, scale.cmax) == (-4.0, 4.0)
    assert scale.colorscale[2] == (0.5, "#ffffff")
    scale = figures.heatmap([[1.0, 4.0]], title="t", center=2.0).layout.coloraxis
    assert (scale.cmin, scale.cmax) == (0.0, 4.0)
    scale = figures.heatmap([[1.0, 4.0]], title="t", limit=8).layout.coloraxis
    assert (scale.cmin, scale.cmax) == (-8, 8)


def test_heatmap_without_a_centre_starts_at_zero_and_refuses_negatives() -> None:
    scale = figures.heatmap([[0.2, 0.4]], title="t", center=None).layout.coloraxis
    assert (scale.cmin, scale.cmax) == (0.0, 0.4)
    assert scale.colorscale[0] == (0.0, "#ffffff")
    with pytest.raises(ValueError, match="smallest is -0.1"):
        figures.heatmap([[-0.1, 0.4]], title="t", center=None)


def test_heatmap_of_zeros_still_has_a_scale() -> None:
    for center in (0.0, None):
        scale = figures.heatmap(np.zeros((2, 2)), title="t", center=center).layout.coloraxis
        assert scale.cmin < scale.cmax == 1.0


def test_repeated_tokens_keep_their_own_columns() -> None:
    fig = figures.heatmap(np.eye(8), title="t", x=TOKENS)
    assert list(fig.layout.xaxis.tickvals) == list(range(8))
    assert list(fig.layout.xaxis.ticktext) == [
        "&lt;|endoftext|&gt;", "When", "\u00b7Mary", "\u00b7and", "\u00b7John", ",", "\u00b7John",
        "\u21b5",
    ]  # fmt: skip
    assert np.array_equal(fig.data[0].z, np.eye(8))


def test_rows_read_down_unless_bottom_up() -> None:
    down = figures.heatmap(np.eye(3), title="t").layout.yaxis.range
    up = figures.heatmap(np.eye(3), title="t", bottom_up=True).layout.yaxis.range
    assert down == (2.5, -0.5) and up == (-0.5, 2.5)


def test_facets_share_one_colour_scale() -> None:
    fig = figures.heatmap([[[1.0]], [[-5.0]]], title="t", facets=["a", "b"])
    assert {trace.coloraxis for trace in fig.data} == {"coloraxis"}
    assert fig.layout.coloraxis.cmax == 5.0
    assert [note.text for note in fig.layout.annotations] == ["a", "b"]


def test_many_wide_facets_go_on_several_rows() -> None:
    fig = figures.heatmap(np.ones((4, 15, 15)), title="t", facets=list("abcd"))
    assert len({trace.yaxis for trace in fig.data}) == 4
    assert len({fig.layout[axis].domain for axis in ("yaxis", "yaxis2", "yaxis3", "yaxis4")}) == 2


def test_cell_text_is_formatted_shortened_and_whole_on_hover() -> None:
    fig = figures.heatmap([[-0.01, 1.26]], title="t", text=".1f")
    assert np.asarray(fig.data[0].text).tolist() == [["0.0", "1.3"]]
    fig = figures.token_table([[" internationalization <b>"] * 15], [[0.5] * 15], title="t")
    shown, full = fig.data[0].text[0][0], fig.data[0].customdata[0][0]
    assert shown.startswith("\u00b7int") and shown.endswith("\u2026") and len(shown) < 10
    assert full == "\u00b7internationalization &lt;b&gt;"
    assert "%{customdata}" in fig.data[0].hovertemplate


def test_labels_thin_out_beyond_forty() -> None:
    assert len(style.ticks([str(i) for i in range(40)], 40)["tickvals"]) == 40
    axis = style.ticks([str(i) for i in range(128)], 128, room=600)
    assert axis["tickvals"] == list(range(0, 128, 4)) and axis["ticktext"][1] == "4"


def test_labels_turn_when_they_would_touch() -> None:
    angle = {n: style.ticks([" something"] * n, n, room=600)["tickangle"] for n in (4, 15, 30)}
    assert angle == {4: 0, 15: -45, 30: -90}


def test_long_titles_wrap_and_push_the_plot_down() -> None:
    short = figures.bars([1], ["a"], title="Short")
    long = figures.bars([1], ["a"], title="A long finding " * 20, subtitle="gpt2")
    assert all(len(line) <= 90 for line in long.layout.title.text.split("<br>")[:-1])
    added = long.layout.margin.t - short.layout.margin.t
    assert added > 40 and long.layout.height - short.layout.height == added


@pytest.mark.parametrize("title", ["", "  \n"])
def test_a_figure_without_a_title_is_refused(title: str) -> None:
    with pytest.raises(ValueError, match="title is empty"):
        figures.bars([1], ["a"], title=title)
    with pytest.raises(ValueError, match="title is empty"):
        figures.tokens_coloured(["a"], [1], title=title)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_any_kind_are_drawn_as_they_are(kind: torch.dtype) -> None:
    matrix = torch.tensor([[0.5, -2.0]], dtype=kind, requires_grad=True)
    assert figures.heatmap(matrix, title="t").data[0].z.tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_with_their_place(bad: float) -> None:
    matrix = np.ones((3, 4))
    matrix[1, 2] = bad
    with pytest.raises(ValueError, match=rf"matrix is {bad} at index \(1, 2\)"):
        figures.heatmap(matrix, title="t")
    with pytest.raises(ValueError, match=rf"series a is {bad} at index 2"):
        figures.lines({"a": matrix[1]}, title="t")
    with pytest.raises(ValueError, match=f"edge weights is {bad} at index 1"):
        figures.graph([("a", "b", 1.0), ("b", "c", bad)], title="t")
    with pytest.raises(ValueError, match=f"values is {bad} at index 2"):
        figures.tokens_coloured(list("abcd"), matrix[1], title="t")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.heatmap(np.ones((0, 3)), title="t"), r"empty \(shape \(0, 3\)\)"),
        (lambda: figures.heatmap(np.ones(3), title="t"), r"2 axes, not shape \(3,\)"),
        (lambda: figures.heatmap(np.ones((2, 3)), title="t", x=list("ab")), "x has 2 .* for 3"),
        (lambda: figures.heatmap(np.ones((2, 3)), title="t", y="ab"), "single string 'ab'"),
        (lambda: figures.heatmap([[1, 2], [3]], title="t"), "regular array"),
        (lambda: figures.heatmap([[1]], title="t", limit=-1), "limit must be positive"),
        (lambda: figures.token_table([["a"]], [[1, 2]], title="t"), "1 rows of 2 strings"),
        (lambda: figures.lines({}, title="t"), "series is empty"),
        (lambda: figures.lines({"a": [1, 2], "b": [1]}, title="t"), r"2 points each.*'b': 1"),
        (lambda: figures.lines({"a": [1]}, title="t", bands={"c": ([0], [1])}), r"\['c'\]"),
        (lambda: figures.bars([1, 2], ["a"], title="t"), "labels has 1 labels for 2"),
        (lambda: figures.bars([1, 2], ["a", "b"], errors=[1], title="t"), "2 points each"),
        (lambda: figures.histogram([], title="t", xlabel="x"), "empty"),
        (lambda: figures.histogram([1], title="t", xlabel="x", bins=0), "bins must be"),
        (lambda: figures.graph([], title="t"), "edges is empty"),
        (lambda: figures.graph([("a", "b", 1), ("b", "a", 1)], title="t"), "cycle"),
        (lambda: figures.graph([("a", "b", 1)], title="t", notes={"z": "?"}), r"\['z'\]"),
        (lambda: figures.tokens_coloured(["a"], [1, 2], title="t"), "1 labels for 2"),
        (lambda: figures.tokens_coloured([], [], title="t"), "str_tokens is empty"),
        (lambda: figures.tokens_coloured(["a"], [-1], title="t", center=None), "smallest is -1"),
        (lambda: figures.table([]), "rows is empty"),
        (lambda: figures.table({"a": [1], "b": []}), "unequal lengths"),
        (lambda: figures.link("x", "javascript:alert(1)"), "javascript"),
    ],
)
def test_bad_input_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bars_are_blue_above_zero_and_red_below() -> None:
    fig = figures.bars([1.0, -1.0, 0.0], ["a", "b", "a"], title="t", errors=[0.1, 0.2, 0.3])
    assert fig.data[0].marker.color == (style.POSITIVE, style.NEGATIVE, style.POSITIVE)
    assert list(fig.data[0].x) == [0, 1, 2] and list(fig.layout.xaxis.ticktext) == ["a", "b", "a"]
    assert list(fig.data[0].error_y.array) == [0.1, 0.2, 0.3]


def test_scatter_reports_the_correlation_it_shows() -> None:
    x = np.arange(5.0)
    fig = figures.scatter(x, -2 * x, title="t", xlabel="a", ylabel="b", correlation=True)
    assert "r = -1.00, n = 5" in fig.layout.title.text
    with pytest.raises(ValueError, match="undefined"):
        figures.scatter(x, x * 0, title="t", xlabel="a", ylabel="b", correlation=True)
    with pytest.raises(ValueError, match="3 points and y has 5"):
        figures.scatter(x[:3], x, title="t", xlabel="a", ylabel="b")
    with pytest.raises(ValueError, match="not among labels"):
        figures.scatter(x, x, title="t", xlabel="a", ylabel="b", named=["L0H0"])


def test_names_of_near_points_stay_apart_and_those_of_far_points_stay_near() -> None:
    x, y, names = (
        np.array([0.5, 0.5, 0.51, 0.0, 1.0]),
        np.array([0.5, 0.5, 0.5, 0, 1]),
        list("abcde"),
    )
    fig = figures.scatter(x, y, title="t", xlabel="a", ylabel="b", labels=names, named=names)
    shifts = [note.yshift for note in fig.layout.annotations]
    assert len(set(shifts[:3])) == 3 and shifts[0] == shifts[3] == shifts[4] == 13


def test_joined_points_are_joined_from_left_to_right() -> None:
    x, kinds = [3.0, 1.0, 2.0, 5.0], ["one", "one", "one", "other"]
    drawn = {
        joined: figures.scatter(
            x, [0.0, 1, 2, 3], title="t", xlabel="a", ylabel="b", groups=kinds, joined=joined
        ).data
        for joined in (True, False)
    }
    assert list(drawn[True][0].x) == [1, 2, 3] and list(drawn[True][0].y) == [1, 2, 0]
    assert list(drawn[False][0].x) == [3, 1, 2]
    assert [d[0].mode for d in drawn.values()] == ["lines+markers", "markers"]


def test_histogram_counts_every_value_and_shows_every_mark() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    fig = figures.histogram(values, title="t", xlabel="x", bins=10, marks={"far": 40.0})
    assert sum(fig.data[0].y) == 1000 and len(fig.data[0].y) == 10
    assert fig.layout.xaxis.range[1] > 40


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=12))
def test_circuit_nodes_stand_above_all_they_read_from(pairs: list[tuple[int, int]]) -> None:
    edges = [(f"n{a}", f"n{a + step}", 1.0) for a, step in pairs]
    fig = figures.graph(edges, title="t")
    boxes = {note.text: (note.x, note.y) for note in fig.layout.annotations if note.text}
    assert set(boxes) == {name for edge in edges for name in edge[:2]}
    assert all(boxes[target][1] > boxes[source][1] for source, target, _ in edges)
    assert len(set(boxes.values())) == len(boxes)


def test_circuit_edges_show_sign_and_size() -> None:
    fig = figures.graph([("a", "b", 2.0), ("a", "c", -1.0)], title="t")
    drawn = [trace.line for trace in fig.data]
    assert [line.color for line in drawn] == [style.POSITIVE, style.NEGATIVE]
    assert drawn[0].width > drawn[1].width


class Texts(HTMLParser):
    """The tags and the text that a browser would find in a page."""

    def __init__(self, source: object) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(str(source))

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_data(self, data) -> None:
        self.text += data


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_coloured_tokens_show_any_text_as_text(tokens: list[str]) -> None:
    page = Texts(figures.tokens_coloured(tokens, [1.0] * len(tokens), title="t"))
    assert set(page.tags) <= {"figure", "figcaption", "div", "span", "wbr", "br"}
    assert page.tags.count("span") == len(tokens)
    assert page.text == "t" + "".join(style.visible(token) for token in tokens)


def test_coloured_tokens_show_blanks_and_centre_on_white() -> None:
    html = str(figures.tokens_coloured([" a", "\n", "\t", "  "], [0, 1, -1, 0.5], title="t"))
    assert Texts(html).text == "t\u00b7a\u21b5\u21e5\u00b7\u00b7"
    assert re.findall("background-color:(#\\w+)", html)[:3] == ["#ffffff", "#174a86", "#8f1023"]


def test_coloured_texts_share_one_scale() -> None:
    html = str(figures.tokens_coloured([["a"], ["b"]], [[1.0], [4.0]], title="t", rows=["x", "y"]))
    assert len(set(re.findall("background-color:(#\\w+)", html))) == 2
    assert Texts(html).text == "txayb"


def test_tables_escape_cells_and_align_numbers() -> None:
    rows = [dict(name="<script>x</script>", n=3, score=0.123456), dict(name="b", n=4)]
    page = str(figures.table(rows, title="A <b> title"))
    assert "script" not in Texts(page).tags and "b" not in Texts(page).tags
    assert 'scope="col"' in page and "<caption" in page
    assert re.search(r"text-align:right[^>]*>3<", page) and "0.123<" in page
    assert re.search(r"text-align:left[^>]*>b<", page)


def test_tables_write_numbers_without_needless_exponents() -> None:
    values = [0.5, 12345.678, 0.00123, 2e-9, 0.0, 3e7, torch.tensor(1.5), np.float32(2), None]
    cells = re.findall(r"<td[^>]*>([^<]*)<", str(figures.table({"v": values})))
    assert cells == ["0.500", "12346", "0.00123", "2.00e-09", "0", "3.00e+07", "1.50", "2.00",
                     "\u2013"]  # fmt: skip


def test_tables_take_frames_and_columns_alike() -> None:
    import pandas as pd

    columns = dict(head=["L0H1", "L1H2"], score=[0.5, float("nan")])
    assert str(figures.table(columns)) == str(figures.table(pd.DataFrame(columns)))
    assert "\u2013</td>" in str(figures.table(columns))


def test_attention_view_carries_its_script_once_and_little_else() -> None:
    view = figures.attention(pattern(), TOKENS)
    whole, small = view.to_html(script=True), view.to_html(script=False)
    assert len(whole) > 1_000_000 and len(small) < 6_000
    assert whole.count("CircuitsVis") > small.count("CircuitsVis")
    assert [Texts(page).tags.count("script") for page in (whole, small)] == [1, 1]
    assert not LOADS.search(whole)


def test_attention_script_goes_once_to_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(get_parent=lambda: kernel.parent)
    shell = SimpleNamespace(kernel=kernel)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)

    def carried(cell: str | None, run: str, deleted: tuple[str, ...] = ()) -> bool:
        kind = "execute_request" if cell else "comm_msg"
        kernel.parent = {
            "header": {"msg_type": kind, "msg_id": run},
            "metadata": {"cellId": cell, "deletedCells": deleted},
            "content": {"code": "..."} if cell else {},
        }
        view = figures.attention(pattern(1, 2), ["a", "b"])
        return len(view._repr_html_()) > 1_000_000

    assert carried(None, "0"), "a widget's view before any cell has shown one"
    assert carried("A", "1"), "the first cell to show one"
    assert not carried("A", "1"), "a second view of the same run"
    assert not carried("B", "2") and not carried(None, "3"), "views elsewhere on the page"
    assert carried("A", "4"), "the first cell again, whose old output is gone"
    assert not carried("B", "5")
    assert carried("B", "6", deleted=("A",)), "the cell that carried it was deleted"
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert carried("C", "7"), "Colab, where each output is a page"


def test_attention_weights_reach_the_view_unchanged() -> None:
    weights = pattern()
    html = figures.attention(weights, TOKENS, ["L0H0", "L0H1", "L0H2"]).to_html(script=False)
    props = json.loads(re.search(r"vis\.AttentionHeads, (\{.*?\})\);", html).group(1))
    assert props["tokens"] == TOKENS and props["attentionHeadNames"] == ["L0H0", "L0H1", "L0H2"]
    np.testing.assert_allclose(props["attention"], weights, atol=5e-4)


def test_attention_tokens_cannot_end_the_script() -> None:
    html = figures.attention(pattern(1, 1), ["</script><b>"], title="<i>").to_html(script=False)
    assert html.count("</script>") == 1 and Texts(html).tags.count("b") == 0
    assert "&lt;i&gt;" in html


def test_attention_static_twin_shows_the_same_heads() -> None:
    view = figures.attention(pattern(6), TOKENS)
    assert len(view.static().data) == 4
    twin = view.static(["head 5"])
    np.testing.assert_allclose(twin.data[0].z, pattern(6)[5], atol=1e-6)
    assert (twin.layout.coloraxis.cmin, twin.layout.coloraxis.cmax) == (0.0, 1.0)
    with pytest.raises(KeyError, match="head 9"):
        view.static(["head 9"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.randn(2, 8, 8) * 5 - 3, "after the softmax"),
        (torch.zeros(2, 8, 7), "not shape"),
        (torch.zeros(1, 2, 8, 8), "not shape"),
        (torch.zeros(2, 5, 5), "8 labels for 5"),
    ],
)
def test_attention_refuses_what_is_not_a_pattern(weights: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.attention(weights, TOKENS)


def test_attention_heads_need_distinct_names() -> None:
    with pytest.raises(ValueError, match="distinct"):
        figures.attention(pattern(2), TOKENS, ["L0H0", "L0H0"])


def test_explore_starts_at_its_choice_and_leaves_that_twin() -> None:
    calls = []

    def draw(layer: int, name: str) -> str:
        calls.append((layer, name))
        return f"{layer} {name}"

    view = figures.explore(draw, start={"layer": 4}, layer=range(6), name=["a", "b"])
    assert view.twin == "4 a" and calls == [(4, "a")]
    assert "layer = 4, name = a" in str(view.caption())


@pytest.mark.parametrize("kind", ["plotly", "html"])
def test_explore_fills_its_live_view_without_capturing(kind: str, monkeypatch) -> None:
    import ipywidgets

    def draw(layer: int) -> object:
        return figures.bars([layer], ["a"], title="x", ylabel="y") if kind == "plotly" else Html(
            f"<p>{layer}</p>"
        )  # fmt: skip

    def captured(output: object) -> None:
        raise AssertionError("nbclient answers captured output, and can then wait for ever")

    shown: list = []
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    monkeypatch.setattr(ipywidgets.Output, "__enter__", captured)
    monkeypatch.setattr("IPython.display.display", shown.append)
    view = figures.explore(draw, layer=[3, 4])
    view._ipython_display_()
    (out,) = [child for child in shown[0].children if isinstance(child, ipywidgets.Output)]
    assert shown[1] is view.twin and len(shown) == 3
    (output,) = out.outputs
    mime = "application/vnd.plotly.v1+json" if kind == "plotly" else "text/html"
    assert output["output_type"] == "display_data" and mime in output["data"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (range(20), "SelectionSlider"),
        ([1, 2, 3], "Dropdown"),
        (["a", "b"], "Dropdown"),
        ({"few": 1, "many": 9}, "Dropdown"),
        ({f"unit {i}": i for i in range(9)}, "Dropdown"),
        (True, "Checkbox"),
        ("hello", "Text"),
    ],
)
def test_explore_picks_a_fitting_control(options, kind: str) -> None:
    view = figures.explore(lambda v: v, v=options)
    assert type(view.controls["v"]).__name__ == kind
    assert view.twin == view.controls["v"].value


def test_explore_refuses_what_it_cannot_offer() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        figures.explore(lambda: 0)
    with pytest.raises(ValueError, match=r"no choice: \['x'\]"):
        figures.explore(lambda v: v, start={"x": 1}, v=[1])
    with pytest.raises(ValueError, match="v=5 is not among"):
        figures.explore(lambda v: v, start={"v": 5}, v=[1])
    with pytest.raises(ValueError, match="v has no choices"):
        figures.explore(lambda v: v, v=[])


def test_explore_raises_an_error_of_its_first_choice() -> None:
    with pytest.raises(ZeroDivisionError):
        figures.explore(lambda v: 1 / v, v=[0, 1])


def test_renderer_names_are_checked() -> None:
    with pytest.raises(ValueError, match="no renderer \\['paper'\\]"):
        use_renderer("paper")


def test_static_notebooks_carry_plotly_once_no_widgets_and_all_else() -> None:
    figure = json.loads(figures.bars([1.0], ["a"], title="t").to_json())
    shown = [{PLOTLY: figure}, {PLOTLY: figure}, {WIDGET: {}}, {"text/html": "x"}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"a": 1}})
    assert make_static(notebook) is notebook and "widgets" not in notebook.metadata
    first, second, other = (output.data["text/html"] for output in cell.outputs)
    assert len(first) > 1_000_000 and len(second) < 20_000 and other == "x"
    assert not LOADS.search(second)


@pytest.mark.parametrize(
    ("stated", "default", "expected"),
    [
        (None, "plotly_mimetype+notebook_connected", "plotly_mimetype"),
        (None, "notebook_connected", "plotly_mimetype"),
        (None, "colab", "colab"),
        (None, "vscode", "vscode"),
        ("plotly_mimetype+notebook", "plotly_mimetype+notebook", "plotly_mimetype+notebook"),
    ],
)
def test_plotlys_own_choice_gives_way_only_in_plain_jupyter(
    stated: str | None, default: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pio.renderers, "default", default)
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    if stated:
        monkeypatch.setenv("PLOTLY_RENDERER", stated)
    assert use_renderer() == pio.renderers.default == expected
