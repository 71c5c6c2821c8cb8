"""Figures: what they draw, what they refuse, and that nothing in them needs a network."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import namedtuple
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
from mi_helpers.figures import scales, style
from mi_helpers.figures.html import Html
from mi_helpers.figures.rendering import (
    EXTENSION,
    PLOTLY,
    WIDGET,
    figure_html,
    lab_lacks_plotly,
    make_static,
    use_renderer,
)

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
    "bars": lambda: figures.bars(MATRIX[0], TOKENS, **SAY),
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


def words(view: object) -> str:
    """What a figure says and draws, as one text."""
    if isinstance(view, go.Figure):
        return str(view.to_json())
    return view.to_html(script=False) if hasattr(view, "to_html") else str(view)


Mark = namedtuple("Mark", "kind layer position unit value")
FEATURES = SimpleNamespace(
    nodes=(Mark("token", -1, 0, 0, 1), Mark("feature", 0, 0, 0, 1), Mark("logit", 1, 0, 0, 1)),
    tokens=("a",), weights=np.eye(3, k=-1), predicted=("b",),
)  # fmt: skip
REPORT = SimpleNamespace(
    unit=3, frequency=0.1, peak=2.0, active=torch.tensor([0.5, 2.0]), promoted=[], suppressed=[],
    labels=[], nearest=[],
    examples=[SimpleNamespace(group="strongest", str_tokens=["a"], values=torch.tensor([2.0]))],
)  # fmt: skip
LABELLED = {
    "attention": lambda by, **say: by.attention(pattern(1), TOKENS, **say),
    "attribution": lambda by, **say: by.attribution(FEATURES, **say),
    "bars": lambda by, **say: by.bars([1.0], ["a"], **say),
    "graph": lambda by, **say: by.graph(EDGES, **say),
    "heatmap": lambda by, **say: by.heatmap(MATRIX, **say),
    "histogram": lambda by, **say: by.histogram(MATRIX, xlabel="x", **say),
    "lines": lambda by, **say: by.lines(ROWS, **say),
    "scatter": lambda by, **say: by.scatter(*MATRIX[:2], xlabel="x", ylabel="y", **say),
    "table": lambda by, **say: by.table([ROW], **say),
    "token_table": lambda by, **say: by.token_table([TOKENS] * 8, abs(MATRIX), **say),
    "tokens_coloured": lambda by, **say: by.tokens_coloured(["a"], [1.0], **say),
    "unit_dashboard": lambda by, **say: by.unit_dashboard(REPORT, **say),
    "vectors": lambda by, **say: by.vectors([[1.0, 0.0]], **say),
}


@pytest.mark.parametrize("draw", LABELLED.values(), ids=LABELLED)
def test_a_labelled_figure_carries_its_label_unless_told_otherwise(draw) -> None:
    by, other = figures.labelled("pocket"), figures.labelled("gpt2")
    assert "pocket" in words(draw(by, title="t")) and "gpt2" in words(draw(other, title="t"))
    assert words(draw(by, title="t")) == words(draw(figures, title="t", subtitle="pocket"))
    for told in (None, "a toy"):
        assert words(draw(by, title="t", subtitle=told)) == words(
            draw(figures, title="t", subtitle=told)
        )
    assert "pocket" not in words(draw(figures, title="t")), "a label has leaked"


def test_labelled_offers_every_function_with_its_docstring_and_signature() -> None:
    by = figures.labelled("pocket")
    functions = {name for name in figures.__all__ if inspect.isfunction(getattr(figures, name))}
    assert {name for name in dir(by) if not name.startswith("_")} == functions - {"labelled"} | {
        "subtitle"
    }
    taking = set()
    for name in functions - {"labelled"}:
        plain, bound = inspect.signature(getattr(figures, name)), getattr(by, name)
        assert list(inspect.signature(bound).parameters) == list(plain.parameters)
        assert bound.__doc__ == getattr(figures, name).__doc__ and bound.__name__ == name
        if "subtitle" in plain.parameters:
            taking.add(name)
            assert inspect.signature(bound).parameters["subtitle"].default == "pocket"
    assert taking == set(LABELLED)
    with pytest.raises(ValueError, match="subtitle is empty"):
        figures.labelled(" ")


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
    scale = figures.heatmap([[-3e-8, 0.4]], title="t", center=None).layout.coloraxis
    assert (scale.cmin, scale.cmax) == (0.0, pytest.approx(0.4)), "rounding of what cannot be less"


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


def test_every_row_has_its_label_and_columns_thin_out_only_where_they_would_touch() -> None:
    names = [f"L{i}" for i in range(144)]
    axis = figures.heatmap(np.ones((144, 2)), title="t", y=names).layout
    assert list(axis.yaxis.ticktext) == names
    assert axis.height - axis.margin.t > 144 * 14, "no room for the labels of all rows"
    axis = style.ticks([f"t{i}" for i in range(50)], 50, room=600)
    assert len(axis["tickvals"]) == 50 and axis["tickangle"] == -90
    axis = style.ticks([f"t{i}" for i in range(128)], 128, room=600)
    assert axis["tickvals"] == list(range(0, 128, 3)) and axis["ticktext"][1] == "t3"


def test_labels_that_are_cut_or_left_out_are_whole_on_hover() -> None:
    cols, rows = (
        [f"w{i}" for i in range(128)],
        ["short", "a name far longer than its axis has room"],
    )
    cells = figures.heatmap(np.ones((2, 128)), title="t", x=cols, y=rows, xlabel="token").data[0]
    assert cells.hovertext[1][77] == f" {rows[1]}<br>token w77"
    assert "%{hovertext}" in cells.hovertemplate
    short = figures.heatmap(np.ones((2, 2)), title="t", x=["a", "b"], y=["c", "d"]).data[0]
    assert short.hovertext is None and "%{x}" in short.hovertemplate
    (line,) = figures.lines({"a": np.ones(128)}, title="t", x=cols).data
    (bar,) = figures.bars([1.0, 2.0], rows, title="t").data
    assert list(line.customdata) == cols and list(bar.customdata) == rows
    assert "%{customdata}" in line.hovertemplate and "%{customdata}" in bar.hovertemplate


def test_long_labels_of_horizontal_bars_break_into_two_lines() -> None:
    rows = ["a short one", "a name that is far longer than", "one that never ends " * 5]
    shown = figures.bars([1.0, 2.0, 3.0], rows, title="t", horizontal=True).layout.yaxis.ticktext
    assert shown[0] == rows[0] and shown[1].replace("<br>", " ") == rows[1] and "<br>" in shown[1]
    assert shown[2].count("<br>") == 1 and shown[2].endswith("\u2026")


def test_labels_turn_when_they_would_touch() -> None:
    axis = {n: style.ticks([" something"] * n, n, room=600) for n in (4, 15, 30)}
    assert {n: axis[n].get("tickangle") for n in axis} == {4: None, 15: -45, 30: -90}
    assert axis[4]["autotickangles"][0] == 0 and axis[4]["automargin"]  # level, while there is room


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
        (lambda: figures.lines({"a": [1]}, title="t", controls={"a": "c"}), r"\['c'\]"),
        (lambda: figures.lines({"a": [1]}, title="t", controls={"a": "a"}), "beside a control"),
        (lambda: figures.bars([1, 2], ["a"], title="t"), "labels has 1 labels for 2"),
        (lambda: figures.bars({"a": [1], "b": [1, 2]}, ["a"], title="t"), "1 points each"),
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
    fig = figures.bars([1.0, -1.0, 0.0], ["a", "b", "a"], title="t")
    assert fig.data[0].marker.color == (style.POSITIVE, style.NEGATIVE, style.POSITIVE)
    assert list(fig.data[0].x) == [0, 1, 2] and list(fig.layout.xaxis.ticktext) == ["a", "b", "a"]


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


def test_names_stay_apart_on_a_telephone_too() -> None:
    x, y, names = (
        np.array([0, 0.5, 0.7, 1]),
        np.array([0, 0.5, 0.5, 1]),
        ["a", "L17H4", "L20H0", "b"],
    )
    fig = figures.scatter(x, y, title="t", xlabel="a", ylabel="b", labels=names, named=names)
    first, second = (note.yshift for note in fig.layout.annotations[1:3])
    assert abs(first - second) > 15


def test_a_control_has_the_colour_of_what_it_stands_beside_and_is_dashed() -> None:
    names = ["A", "random A", "B", "random B"]
    fig = figures.lines(
        {name: [1, 2] for name in names}, title="t", controls={"random A": "A", "random B": "B"}
    )
    assert [trace.name for trace in fig.data] == names
    colors, dashes = ([trace.line[what] for trace in fig.data] for what in ("color", "dash"))
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert dashes == ["solid", "dash"] * 2


def test_long_titles_of_horizontal_axes_break_before_a_telephone_would_cut_them() -> None:
    long = "share of activation on <changed> tokens of the texts"
    for fig, most in (
        (figures.lines({"a": [1, 2]}, title="t", xlabel=long), 40),
        (figures.bars([1, 2], ["a", "b"], title="t", xlabel=long, horizontal=True), 26),
    ):
        parts = fig.layout.xaxis.title.text.split("<br>")
        assert len(parts) > 1 and " ".join(parts) == style.plain(long)
        assert all(len(part.replace("&lt;", "<").replace("&gt;", ">")) <= most for part in parts)
    plain = figures.lines({"a": [1, 2]}, title="t", xlabel="layer")
    assert plain.layout.xaxis.title.text == "layer"
    assert figures.lines({"a": [1, 2]}, title="t", xlabel=long).layout.height > plain.layout.height


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


def test_series_are_told_apart_without_their_colours() -> None:
    three = {name: [1.0, 2.0, 3.0] for name in "abc"}
    points = figures.lines(three, title="t", controls={"c": "a"}).data
    assert [trace.marker.symbol for trace in points] == ["circle", "diamond", "circle-open"]
    groups = figures.bars(three, list("xyz"), title="t").data
    assert len({trace.marker.pattern.shape for trace in groups}) == 3
    assert all(trace.marker.pattern.fillmode == "overlay" for trace in groups), "over the colour"
    single = figures.bars([1.0, -1.0], ["x", "y"], title="t").data[0]
    assert not single.marker.pattern.shape, "which a side of zero tells apart"
    outlines = [t for t in figures.histogram(three, title="t", xlabel="x").data if t.type != "bar"]
    assert len({trace.line.dash for trace in outlines}) == 3
    assert [trace.name for trace in outlines] == list("abc")


def test_the_outlines_of_histograms_follow_their_bars() -> None:
    samples = {"a": [0.0, 1.0, 1.1], "b": [2.0, 4.0]}
    fig = figures.histogram(samples, title="t", xlabel="x", bins=4)
    for bar, line in zip(fig.data[::2], fig.data[1::2], strict=True):
        assert list(line.y[1:-1:2]) == list(line.y[2:-1:2]) == list(bar.y)
        assert line.y[0] == line.y[-1] == 0 and line.x[0] == 0 and line.x[-1] == 4
        assert line.showlegend is None and bar.showlegend is False


def test_of_many_numbers_on_a_horizontal_axis_round_ones_are_shown() -> None:
    fig = figures.bars(range(35), range(1, 36), title="t")
    assert fig.layout.xaxis.ticktext == ("5", "10", "15", "20", "25", "30", "35")
    assert fig.layout.xaxis.tickvals == (4, 9, 14, 19, 24, 29, 34)
    assert fig.data[0].customdata[7] == "8", "hovering tells the others"
    assert fig.layout.meta["narrowest"] == style.NARROWEST, "they fit a telephone"
    uneven = style.ticks(["1", "2", "4", *map(str, range(5, 20))], 18, room=600)
    assert len(uneven["ticktext"]) == 18, "of numbers with gaps between them none can be guessed"
    few = style.ticks([str(n) for n in range(1970, 1982)], 12, room=600)
    assert len(few["ticktext"]) == 12


def test_long_titles_of_axes_break_in_either_direction() -> None:
    said = "log10 of the KL from the final prediction (nats)"
    fig = figures.lines({"a": [1, 2]}, title="t", xlabel=said, ylabel=said)
    assert fig.layout.xaxis.title.text.count("<br>") == 1
    first, second = fig.layout.yaxis.title.text.split("<br>")
    assert max(len(first), len(second)) < 30 and f"{first} {second}" == said
    short = figures.lines({"a": [1]}, title="t", ylabel="loss (nats)").layout.yaxis
    assert short.title.text == "loss (nats)"


def test_words_in_cells_stay_apart_on_a_narrow_page() -> None:
    def least(*words: str) -> int:
        cells = [[word] * 6 for word in words]
        fig = figures.token_table(cells, np.ones((len(cells), 6)), title="t")
        return fig.layout.meta["narrowest"]

    assert least(" a", " of") < least(" a", " continent")
    assert least(" continent") >= 6 * 10 * 6, "ten letters of six pixels in each of six columns"


def test_numbers_of_places_leave_room_for_each_other_on_a_narrow_page() -> None:
    few, many = (figures.lines({"a": range(n)}, title="t").layout.xaxis for n in (12, 40))
    assert few.dtick == 1, "no halves"
    assert many.tickmode == "auto" and many.dtick is None, "plotly knows how wide the page is"
    assert figures.heatmap(np.ones((40, 40)), title="t").layout.yaxis.dtick == 2


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
    assert [line.dash for line in drawn] == ["solid", "dash"], "not by colour alone"
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


SCALE_SPANS = 12  # of the scale below coloured tokens: eleven colours in a frame


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_coloured_tokens_show_any_text_as_text(tokens: list[str]) -> None:
    page = Texts(figures.tokens_coloured(tokens, [1.0] * len(tokens), title="t"))
    assert set(page.tags) <= {"figure", "figcaption", "div", "span", "wbr", "br"}
    assert page.tags.count("span") == len(tokens) + SCALE_SPANS
    assert page.text.startswith("t" + "".join(style.visible(token) for token in tokens))


def test_coloured_tokens_show_blanks_and_centre_on_white() -> None:
    html = str(figures.tokens_coloured([" a", "\n", "\t", "  "], [0, 1, -1, 0.5], title="t"))
    assert Texts(html).text.startswith("t\u00b7a\u21b5\u21e5\u00b7\u00b7")
    assert re.findall("background-color:(#\\w+)", html)[:3] == ["#ffffff", "#174a86", "#8f1023"]


def test_coloured_texts_share_one_scale() -> None:
    html = str(figures.tokens_coloured([["a"], ["b"]], [[1.0], [4.0]], title="t", rows=["x", "y"]))
    assert len(set(re.findall("background-color:(#\\w+)", html)[:2])) == 2
    assert Texts(html).text.startswith("txayb")


def test_coloured_tokens_say_what_their_colours_mean() -> None:
    say = dict(title="t", unit="nats")
    for center, ends, colors in (
        (0.0, "-4.00 \xa0.* 4.00 nats \\(white: 0\\)", ("#8f1023", "#ffffff", "#174a86")),
        (None, "0 \xa0.* 4.00 nats$", ("#ffffff", "#6baed6", "#083573")),
        (2.0, "0 \xa0.* 4.00 nats \\(white: 2.00\\)", ("#8f1023", "#ffffff", "#174a86")),
    ):
        html = str(figures.tokens_coloured(["a", "b"], [1.0, 4.0], center=center, **say))
        assert re.search(ends, Texts(html).text)
        drawn = re.findall("background-color:(#\\w+)", html)[2:]
        assert (drawn[0], drawn[5], drawn[-1]) == colors
        assert "opacity" not in html.rsplit("<div", 1)[1], "the scale has the colours of the tokens"


def test_tables_escape_cells_and_align_numbers() -> None:
    rows = [dict(name="<script>x</script>", n=3, score=0.123456), dict(name="b", n=4)]
    page = str(figures.table(rows, title="A <b> title"))
    assert "script" not in Texts(page).tags and "b" not in Texts(page).tags
    assert 'scope="col"' in page and 'aria-label="A &lt;b&gt; title"' in page
    assert re.search(r"text-align:right[^>]*>3<", page) and "0.123<" in page
    assert re.search(r"text-align:left[^>]*>b<", page)


def test_tables_write_numbers_without_needless_exponents() -> None:
    values = [0.5, 12345.678, 0.00123, 2e-9, 0.0, 3e7, torch.tensor(1.5), np.float32(2), None]
    cells = re.findall(r"<td[^>]*>([^<]*)<", str(figures.table({"v": values})))
    assert cells == ["0.500", "12346", "0.00123", "2.00e-09", "0", "3.00e+07", "1.50", "2.00",
                     "\u2013"]  # fmt: skip


def test_tables_align_percentages_and_keep_decimals_where_a_number_rounds_up() -> None:
    columns = {
        "share": ["5.8%", "101.2%", "\u22123%"],
        "word": ["12.5% of", "-", "b"],
        "cosine": [0.9996, 1.0, 0.5],
    }
    source = str(figures.table(columns))
    sides = re.findall(r"<td[^>]*text-align:(\w+)", source)
    assert sides == ["right", "left", "right"] * 3
    assert re.findall(r">([01]\.\d+)<", source) == ["1.00", "1.00", "0.500"]


def test_columns_of_words_are_not_squeezed_on_a_narrow_page() -> None:
    rows = {"few": ["one", "two"], "many": ["seven words that go on", "and on"]}
    first, second = re.findall(r"<th ([^>]*)>", str(figures.table(rows)))
    assert "min-width" not in first
    assert 5 < int(re.search(r"min-width:(\d+)em", second)[1]) <= 14


def test_a_tables_title_does_not_scroll_away_with_it() -> None:
    for search in (False, True):
        page = str(figures.table([dict(a=1)], title="A finding", search=search, subtitle="pocket"))
        assert page.index(">A finding<") < page.index("pocket") < page.index("overflow-x:auto")
    assert "figcaption" not in str(figures.table([dict(a=1)]))


def test_columns_of_whole_numbers_have_no_decimals() -> None:
    rows = [dict(layer=0.0, share=1.0, huge=2e6), dict(layer=torch.tensor(3.0), share=0.5, huge=1)]
    cells = re.findall(r"<td[^>]*>([^<]*)<", str(figures.table(rows)))
    assert cells == ["0", "1.00", "2.00e+06", "3", "0.500", "1"]


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
    monkeypatch.setattr("IPython.display.display", lambda view, raw=False: shown.append(view))
    made: list = []
    monkeypatch.setattr(
        ipywidgets, "VBox", lambda children: made.append(children) or ipywidgets.HBox(children)
    )
    view = figures.explore(draw, layer=[3, 4])
    view._ipython_display_()
    (out,) = [child for child in made[0] if isinstance(child, ipywidgets.Output)]
    assert len(shown) == 3 and "layer = 3" in str(shown[1]) and shown[2] is view.twin
    assert WIDGET in shown[0] and "VBox" not in shown[0]["text/plain"]
    (output,) = out.outputs
    mime = "application/vnd.plotly.v1+json" if kind == "plotly" else "text/html"
    assert output["output_type"] == "display_data" and mime in output["data"]
    use_renderer("mi_lab")
    view._ipython_display_()
    (out,) = [child for child in made[1] if isinstance(child, ipywidgets.Output)]
    assert [mime in output["data"] for output in out.outputs] == (
        [False, True] if kind == "plotly" else [True]
    ), "as anywhere in JupyterLab, a plot's title stands above it"


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


def test_explore_ahead_computes_every_choice_once_and_on_one_scale() -> None:
    calls = []

    def draw(size: float, flip: bool) -> go.Figure:
        calls.append((size, flip))
        return figures.heatmap([[size, -size * flip]], title=f"{size} {flip}")

    view = figures.explore(draw, ahead=True, start={"size": 4.0}, size=[0.01, 4.0], flip=False)
    assert sorted(calls) == [(0.01, False), (0.01, True), (4.0, False), (4.0, True)]
    assert view.twin.layout.title.text == "4.0 False"
    drawn = list(view._known.values())
    assert {fig.layout.title.text for fig in drawn} == {f"{s} {f}" for s, f in calls}
    assert {(f.layout.coloraxis.cmin, f.layout.coloraxis.cmax) for f in drawn} == {(-4.0, 4.0)}
    view.controls["size"].value = 0.01
    assert view._known[view._place()].layout.title.text == "0.01 False"


def test_explore_ahead_refuses_what_it_cannot_list_or_would_wait_long_for() -> None:
    calls: list = []
    with pytest.raises(ValueError, match="text is free"):
        figures.explore(calls.append, ahead=True, text="hello")
    with pytest.raises(ValueError, match="144 views to compute ahead, more than 100"):
        figures.explore(
            lambda a, b: calls.append(a), ahead=True, a=list(range(12)), b=list(range(12))
        )
    assert calls == [], "refused before anything was computed"


def test_one_scale_keeps_centres_labels_and_ranges_of_their_own() -> None:
    seq = [figures.heatmap([[v]], title="t", center=None) for v in (0.1, 0.8)]
    scales.same_scale(seq)
    assert {(f.layout.coloraxis.cmin, f.layout.coloraxis.cmax) for f in seq} == {(0.0, 0.8)}
    apart = [figures.heatmap([[v, 9.0]], title="t", center=v) for v in (1.0, 5.0)]
    scales.same_scale(apart)
    assert [f.layout.coloraxis.cmax for f in apart] == [9.0, 9.0]
    assert [f.layout.coloraxis.cmin for f in apart] == [-7.0, 1.0], "white stays the centre"
    bars = [figures.bars([v, 0.1], ["a", "b"], title="t") for v in (1.0, -3.0)]
    scales.same_scale(bars)
    (low, high), other = (f.layout.yaxis.range for f in bars)
    assert (low, high) == other and low < -3 and high > 1
    assert list(bars[0].layout.xaxis.ticktext) == ["a", "b"] and bars[0].layout.xaxis.range is None
    positive = [figures.bars([v], ["a"], title="t", horizontal=True) for v in (1.0, 3.0)]
    scales.same_scale(positive)
    assert positive[0].layout.xaxis.range[0] == 0.0, "bars stand on zero"


def test_bars_end_at_the_limit_that_was_given() -> None:
    assert figures.bars([0.1], ["a"], title="t", limit=1).layout.yaxis.range == (0, 1)
    fig = figures.bars([0.1, -0.2], ["a", "b"], title="t", limit=1, horizontal=True)
    assert fig.layout.xaxis.range == (-1, 1)
    with pytest.raises(ValueError, match="limit must be positive, not 0"):
        figures.bars([0.1], ["a"], title="t", limit=0)


def test_equal_points_become_one_larger_point_that_says_how_many() -> None:
    x, names = [0.0, 1.0, 0.0, 0.0], list("abcd")
    (drawn,) = figures.scatter(x, x, title="t", xlabel="x", ylabel="y", labels=names).data
    assert list(drawn.x) == [0.0, 1.0]
    assert list(drawn.customdata) == ["3 points: a, c, d", "b"]
    assert drawn.marker.size[0] > drawn.marker.size[1] == 8
    apart = figures.scatter(x, x, title="t", xlabel="x", ylabel="y", groups=list("stut")).data
    assert sum(len(trace.x) for trace in apart) == 4, "points of other groups stay apart"
    assert len({trace.marker.symbol for trace in apart}) == 3
    many = figures.scatter(range(99), range(99), title="t", xlabel="x", ylabel="y").data[0]
    assert many.marker.opacity < drawn.marker.opacity < 1


def test_a_legend_stands_below_the_plot_and_makes_the_figure_taller() -> None:
    heights = {
        n: figures.lines({f"a long name {i}": [1.0, 2.0] for i in range(n)}, title="t").layout
        for n in (1, 2, 14)
    }
    assert heights[1].height < heights[2].height < heights[14].height
    legend = heights[2].template.layout.legend
    assert (legend.orientation, legend.yref, legend.y) == ("h", "container", 0)


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


def test_a_figure_as_html_has_its_title_as_text_and_scrolls_before_it_is_squeezed() -> None:
    cells = figures.heatmap(np.ones((2, 15)), title="A <b> finding", x=list("abcdefghijklmno"),
                            text=".1f", subtitle="pocket")  # fmt: skip
    stored = json.loads(cells.to_json())
    source = figure_html(stored, script=False)
    assert "A &lt;b&gt; finding" in source and "pocket" in source
    assert source.count("finding") == 1, "the title is not drawn a second time"
    low, high = re.search(r"min-width:(\d+)px;max-width:(\w+)", source).groups()
    assert int(low) > 15 * 30 and high in ("none", f"{cells.layout.width}px")
    heading = stored["layout"]["meta"]["heading"]
    assert f"height:{cells.layout.height - heading}px" in source
    assert stored == json.loads(cells.to_json()), "the figure itself is left as it was"
    foreign = go.Figure(go.Bar(y=[1]), dict(title="Not ours"))
    assert "Not ours" in figure_html(json.loads(foreign.to_json()), script=False)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_in_jupyterlab_a_title_is_text_above_the_plot_which_wraps(
    draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    use_renderer("mi_lab")
    fig = draw()
    before = fig.to_json()
    fig.show()
    title, plot = shown
    assert "A finding" in title["text/html"] and title["text/plain"] == "A finding"
    assert not LOADS.search(title["text/html"]) and "<script" not in title["text/html"]
    layout, meta = plot[PLOTLY]["layout"], fig.layout.meta
    assert "title" not in layout and "width" not in layout and layout["autosize"]
    assert layout["height"] == fig.layout.height - meta["heading"]
    assert layout["margin"]["t"] == fig.layout.margin.t - meta["heading"] > 0
    assert f"min-width: {meta['narrowest']}px" in title["text/html"]
    high = f"{fig.layout.width}px" if fig.layout.width else "none"
    assert f"max-width: {high}" in title["text/html"]
    assert fig.to_json() == before, "the figure itself is left as it was"
    # Saved by JupyterLab and exported, it is what it would be without that.
    outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    make_static(nbformat.v4.new_notebook(cells=[cell]))
    (output,) = cell.outputs
    page = figure_html(json.loads(before), script=False)
    whole = re.compile(r"[0-9a-f-]{36}")  # the plot's name, another each time
    assert whole.sub("", output.data["text/html"]).endswith(whole.sub("", page)[-300:])
    for said in ("A finding", f"min-width:{meta['narrowest']}px;max-width:{high}"):
        assert output.data["text/html"].count(said) == page.count(said) == 1


def test_in_jupyterlab_figures_of_others_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    use_renderer("mi_lab")
    go.Figure(go.Bar(y=[1]), dict(title="Not ours", width=300, meta=dict(heading_of="x"))).show()
    (plot,) = shown
    assert plot[PLOTLY]["layout"]["title"]["text"] == "Not ours"
    assert plot[PLOTLY]["layout"]["width"] == 300


@pytest.mark.parametrize("place", ["own", "shared", None])
def test_figures_bring_html_along_only_for_a_lab_without_the_extension(
    place: str | None, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    lab, shared = tmp_path / "env" / "share" / "jupyter", tmp_path / "shared"
    (lab / "lab").mkdir(parents=True)
    if place:
        ({"own": lab, "shared": shared}[place] / EXTENSION).mkdir(parents=True)
    server = [str(tmp_path / "env" / "bin" / "python"), "-m", "jupyterlab"]
    monkeypatch.setattr(psutil, "Process", lambda pid: SimpleNamespace(cmdline=lambda: server))
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda: [str(shared)])
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    assert use_renderer() == ("mi_lab" if place else "mi_both")
    server[0] = "python"
    assert not lab_lacks_plotly(), "a name alone does not say which environment"
    server[0] = str(tmp_path / "elsewhere" / "bin" / "python")
    assert not lab_lacks_plotly(), "what has no JupyterLab cannot lack an extension of it"
    server.clear()
    assert not lab_lacks_plotly()
    for classic in (["-m", "nbclassic"], [str(tmp_path / "bin" / "jupyter-nbclassic")]):
        server[:] = [str(tmp_path / "env" / "bin" / "python"), *classic, "--no-browser"]
        assert lab_lacks_plotly(), "whatever JupyterLab's extensions are there"


def test_the_renderer_for_both_writes_a_figure_in_both_forms_and_the_script_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = {"header": {"msg_type": "execute_request", "msg_id": "1"}, "metadata": {"cellId": "A"}}
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: parent))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    use_renderer("mi_both")
    fig = figures.bars([1.0], ["a"], title="Both")
    first, second = (fig._repr_mimebundle_() for _ in range(2))
    assert first[PLOTLY]["data"] == second[PLOTLY]["data"] == json.loads(fig.to_json())["data"]
    assert len(first["text/html"]) > 1_000_000 > 30_000 > len(second["text/html"])
    assert not LOADS.search(second["text/html"])


@pytest.mark.parametrize(
    ("stated", "default", "expected"),
    [
        (None, "plotly_mimetype+notebook_connected", "mi_lab"),
        (None, "notebook_connected", "mi_lab"),
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


def test_panels_scroll_before_their_names_would_meet() -> None:
    grid = np.arange(8.0).reshape(2, 2, 2)
    short, long = (
        figures.heatmap(grid, facets=[name, name], title="t", xlabel="x", ylabel="y").layout.meta
        for name in ("a", "a name of thirty-two characters.")
    )
    assert long["narrowest"] - short["narrowest"] == 2 * (7 * 32 - 12 * 2)


def test_tensors_within_lists_are_read_as_numbers() -> None:
    """As those on a GPU, one with a gradient cannot be read by NumPy itself."""
    one = torch.tensor([1.0, 2.0], requires_grad=True)
    assert style.to_array([one, (one[0], 3.0)], "rows").tolist() == [[1, 2], [1, 3]]
