"""Scores against a known circuit: the numbers by hand, the methods on one model, the page."""

from __future__ import annotations

import json

import pytest
import scoreboard as tool  # in tools/
import torch
from sources import ROOT

from mi_helpers import prompts
from mi_helpers.circuits import EdgeGraph, EdgeScores, by_hand
from mi_helpers.circuits.truth import SHARES, auroc, average_precision, cpr_cmd
from mi_helpers.metrics import LogitDiff
from mi_helpers.patching import OtherRun
from mi_helpers.sites import Head
from mi_helpers.toys import programs, scoreboard


@pytest.fixture(scope="module")
def case():
    return programs.case("reverse")


def test_auroc_by_hand():
    true = torch.tensor([True, False, True, False])
    assert auroc(torch.tensor([4.0, 3.0, 2.0, 1.0]), true) == 0.75
    assert auroc(torch.tensor([4.0, 1.0, 3.0, 2.0]), true) == 1
    assert auroc(torch.tensor([1.0, 4.0, 2.0, 3.0]), true) == 0
    assert auroc(torch.ones(4), true) == 0.5


def test_average_precision_by_hand():
    true = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 3.0, 2.0, 1.0]), true) == pytest.approx(5 / 6)
    assert average_precision(torch.ones(4), true) == 0.5
    assert average_precision(torch.tensor([2.0, 2.0, 1.0, 0.0]), true) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


def test_bad_lists_are_refused():
    scores = torch.arange(3.0)
    with pytest.raises(ValueError, match="3 of 3 items are true"):
        auroc(scores, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="score 1 is no number"):
        auroc(torch.tensor([0, torch.nan]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="of booleans, got"):
        average_precision(scores, torch.tensor([1, 0, 0]))
    with pytest.raises(ValueError, match="rising shares"):
        cpr_cmd([0.0, 1.0], shares=[0.5, 0.2])


def test_cpr_and_cmd_by_hand():
    # heights 0, 2, 1 at 0, a quarter, one: areas 1/4 and 9/8; |1 - f| is 1, 1, 0: 1/4 and 3/8
    cpr, cmd = cpr_cmd([0.0, 2.0, 1.0], shares=[0.0, 0.25, 1.0])
    assert (cpr, cmd) == (0.25 + 1.125, 0.25 + 0.375)
    perfect = cpr_cmd([1.0] * len(SHARES))
    assert perfect == pytest.approx((0.999, 0.0))
    assert cpr_cmd([0.0] * len(SHARES)) == pytest.approx((0.0, 0.999))


def test_the_truth_scores_one_and_its_opposite_nothing(case):
    graph = EdgeGraph.of(case.model)
    true = scoreboard.judged_edges(case)[1].float()
    assert set(scoreboard.score(case, EdgeScores(graph, true)).values()) == {1.0}
    turned = EdgeScores(graph, -true)  # the size counts
    assert set(scoreboard.score(case, turned).values()) == {1.0}
    wrong = scoreboard.score(case, EdgeScores(graph, (1 - true) * graph.valid))
    assert wrong["edges AUROC"] == 0 and wrong["edges AP"] < 0.05


def test_silent_edges_are_not_judged(case):
    judged, true = scoreboard.judged_edges(case)
    graph = EdgeGraph.of(case.model)
    assert not (true & ~judged).any() and int(true.sum()) == len(case.moving)
    for edge in case.truth.steady - case.moving:
        assert not judged[graph.edge(*edge)]


def test_nodes_become_edges_and_edges_nodes(case):
    graph = EdgeGraph.of(case.model)
    scores = {"L0H0": -3.0, "L1H1": 2.0, "MLP2": 5.0}
    sizes = scoreboard.by_edge(case, scores)
    assert sizes[graph.edge("L0H0", "L1H1.q")] == 2 and sizes[graph.edge("L0H0", "logits")] == 3
    assert sizes[graph.edge("embed", "L1H1.k")] == 2 and sizes[graph.edge("embed", "logits")] == 5
    assert sizes[graph.edge("L0H1", "logits")] == 0 and not sizes[~graph.valid].any()
    values = torch.zeros(graph.valid.shape)
    values[graph.edge("L0H0", "L1H1.q")], values[graph.edge("L0H0", "logits")] = 1.0, -4.0
    assert scoreboard.by_node(case, EdgeScores(graph, values))["L0H0"] == 4
    assert scoreboard.by_node(case, scores)["L0H0"] == 3


def test_every_method_runs_and_beats_chance_on_an_easy_program():
    case = programs.case("induction")
    rows = scoreboard.board(scoreboard.ALL_METHODS, [case])
    by_method = {row["method"]: row for row in rows}
    chance = by_method["random scores"]["edges AP"]
    for method, row in by_method.items():
        assert 0 <= row["edges AP"] <= 1 and row["seconds"] >= 0
        assert method == "random scores" or row["edges AP"] > 3 * chance, method
        assert scoreboard.passes(case, method) >= 0
    for method in ("noising", "each edge alone", "EAP-IG", "ACDC", "learned masks"):
        assert by_method[method]["nodes AP"] == 1, method
    assert by_method["EAP-IG"]["CMD"] < 0.05 < by_method["direct attribution"]["CMD"]


def test_heads_are_scored_against_a_list(pocket):
    pairs = prompts.ioi(pocket, 4, corruption="random", same_wording=True)
    asked = scoreboard.asked_of("ioi", pocket, pairs)
    listed = [Head(1, 2), Head(3, 2)]
    sizes = {"L1H2": -3.0, "L3H2": 2.0, "L0H0": 1.0, "MLP5": 9.0}  # MLPs are not ranked
    assert scoreboard.score_heads(asked, sizes, listed) == {"AUROC": 1.0, "AP": 1.0}
    found = scoreboard.score_heads(asked, sizes | {"L0H0": 2.5}, listed)
    assert found["AP"] == pytest.approx((1 + 2 / 3) / 2) and found["AUROC"] < 1


def test_lists_by_hand_find_the_heads_of_pocket(pocket):
    pairs = prompts.ioi(pocket, 12, 3, corruption="random")
    looks = by_hand.by_looks(pocket, pairs)
    assert looks["suppressor"] == (Head(1, 2), Head(3, 2)) and Head(3, 4) in looks["name mover"]
    assert not any(by_hand.by_looks(pocket, pairs, 1.01).values())
    other, metric = OtherRun(pairs.corrupt_tokens), LogitDiff(pairs.answer_tokens)
    paths = by_hand.by_paths(pocket, pairs.clean_tokens, other, metric)
    assert Head(3, 2) in paths["speaker"] and not {*paths["speaker"]} & {*paths["adviser"]}
    none = by_hand.by_paths(pocket, pairs.clean_tokens, other, metric, least=9.0)
    assert none == {"speaker": (), "adviser": ()}
    heads = [head for members in looks.values() for head in members]
    dealt = by_hand.shuffled(EdgeGraph.of(pocket), heads)
    assert sorted(h.layer for h in dealt) == sorted(h.layer for h in heads)
    assert len({*dealt}) == len(heads) and {*dealt} != {*heads}


def test_an_interval_covers_its_mean():
    same = torch.full((4, 3), 0.5)
    assert scoreboard.interval(same) == (0.5, 0.5)
    values = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    low, high = scoreboard.interval(values)
    assert low < values.mean() < high and scoreboard.interval(values) == (low, high)


def test_the_page_is_that_of_the_numbers():
    assert tool.main(["--check"]) == 0
    numbers = json.loads((ROOT / tool.NUMBERS).read_text(encoding="utf-8"))
    rows = numbers["known"]
    assert {row["program"] for row in rows} == set(programs.PROGRAMS)
    there = [tuple(row[key] for key in tool.KEY) for row in rows]
    assert there == [
        (*named.values(), method) for named, _ in tool.all_cases()
        for method in scoreboard.ALL_METHODS
    ]  # fmt: skip
    fresh = scoreboard.board({"noising": scoreboard.METHODS["noising"]}, [programs.case("count")])
    kept = rows[there.index(("compiled", "count", 0, "noising"))]
    assert kept["edges AP"] == pytest.approx(fresh[0]["edges AP"], abs=1e-3)
