"""The attribution graph as a figure: what is drawn, what a script gets, what is refused."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from mi_helpers import figures


class Mark(NamedTuple):
    kind: str
    layer: int
    position: int
    unit: int
    value: float


NODES = (
    Mark("token", -1, 0, 0, 1.0),
    Mark("token", -1, 1, 1, 1.0),
    Mark("feature", 0, 1, 7, 2.5),
    Mark("error", 1, 1, 0, 1.0),
    Mark("logit", 2, 1, 5, 0.9),
)


def graph_of(nodes=NODES, tokens=("<|bos|>", " </script>"), weights=None):
    if weights is None:
        weights = np.zeros((len(nodes), len(nodes)))
        weights[2, 1], weights[4, 2], weights[4, 3] = 1.5, -0.5, 0.25
    return SimpleNamespace(nodes=nodes, tokens=tokens, weights=weights, predicted=(" <b>",))


def data_of(source: str) -> dict:
    return json.loads(re.search(r"const data = (.*);\n", source)[1])


def test_every_node_and_edge_is_drawn_and_listed():
    source = str(figures.attribution(graph_of(), title="A <finding>"))
    assert source.count('class="n"') == 5 and source.count('class="e"') == 3
    assert "A &lt;finding&gt;" in source and "5 nodes, 3 edges." in source
    data = data_of(source)
    assert data["edges"] == [[1, 2, 1.5], [2, 4, -0.5], [3, 4, 0.25]]  # strongest first
    assert data["names"][2].startswith("L0 feature 7 at") and "2.5" in data["notes"][2]


def test_it_needs_no_network_and_no_token_ends_its_script():
    source = str(figures.attribution(graph_of(), title="A finding"))
    assert source.count("</script>") == 1 and source.count("<script") == 1
    assert "<b>" not in source and "\\u003c/script>" in source
    assert not re.search(r"(src|href)=|https?://|import\(|fetch\(", source)


def test_nodes_stand_above_what_they_read_and_later_tokens_to_the_right():
    source = str(figures.attribution(graph_of(), title="A finding"))
    ends = {}
    for s, t, curve in re.findall(r'data-s="(\d)" data-t="(\d)" d="([^"]+)"', source):
        numbers = [float(x) for x in re.findall(r"-?[\d.]+", curve)]
        ends[int(s), int(t)] = numbers[:2], numbers[-2:]
    assert all(low[1] > high[1] for low, high in ends.values())
    tokens = [float(x) for x in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="12"', source)]
    assert len(tokens) == 2 and tokens[0] < tokens[1]


def test_edges_have_the_colour_of_their_sign_and_the_strongest_are_drawn():
    source = str(figures.attribution(graph_of(), title="A finding", strongest=2))
    drawn = re.findall(r'data-s="(\d)" data-t="(\d)"[^>]*stroke="(#\w+)"', source)
    assert {(s, t): c for s, t, c in drawn} == {("1", "2"): "#2166ac", ("2", "4"): "#b2182b"}
    dashed = re.findall(r'data-s="(\d)"[^>]*stroke-dasharray', source)
    assert dashed == ["2"] and "\u2505</span> takes away" in source, "not by colour alone"
    assert "3 edges; the strongest 2 are drawn" in source
    assert len(data_of(source)["edges"]) == 3  # all are listed


def test_groups_colour_and_contexts_are_shares_of_the_strongest():
    context = (["a", " b"], [1.0, 4.0])
    plain = str(figures.attribution(graph_of(), title="A finding"))
    source = str(
        figures.attribution(
            graph_of(), title="A finding", groups={NODES[2]: "people"}, contexts={(0, 7): [context]}
        )
    )
    assert "people" not in plain and source.count("#009e73") == 2  # the mark and the legend
    assert data_of(source)["contexts"] == {"2": [[["a", "\u00b7b"], [0.25, 1.0]]]}
    assert data_of(plain)["contexts"] == {}


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (graph_of(), {"title": " "}, "title is empty"),
        (graph_of(weights=np.full((5, 5), np.nan)), {}, "not finite"),
        (graph_of(), {"groups": {Mark("feature", 3, 0, 1, 1.0): "x"}}, "not in it"),
        (graph_of(), {"contexts": {(0, 7): [(["a"], [1.0, 2.0])]}}, "1 tokens and 2 values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given, more, message):
    with pytest.raises(ValueError, match=message):
        figures.attribution(given, **{"title": "A finding"} | more)
