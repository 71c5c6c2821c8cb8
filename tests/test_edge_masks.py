"""Learned edge masks on a model whose circuit is known."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mi_helpers.circuits import EdgeGraph
from mi_helpers.circuits.masks import edge_masks
from mi_helpers.metrics import LogitDiff
from mi_helpers.patching import OtherRun, Zero
from mi_helpers.toys import programs, scoreboard


@pytest.fixture(scope="module")
def case():
    return programs.case("induction", n=6)


def masks(case, what=None, **options):
    metric = LogitDiff(case.pairs.answer_tokens)
    what = what or OtherRun(case.pairs.corrupt_tokens)
    return edge_masks(case.model, case.pairs.clean_tokens, what, metric, **options)


def test_the_true_edges_stay_open_and_others_close(case):
    found = masks(case)
    graph, values = EdgeGraph.of(case.model), found.values
    assert values[~graph.valid].eq(0).all() and 0 <= values.min() and values.max() <= 1
    judged, true = scoreboard.judged_edges(case)
    assert values[true].min() > values[judged & ~true].max()
    circuit = found.top(len(case.moving)).pruned()
    assert scoreboard.faithful(case, [circuit])[0] > 0.95


def test_a_price_closes_gates_and_a_seed_draws_them(case):
    few = partial(masks, case, steps=8)
    torch.testing.assert_close(few().values, few().values)
    assert not torch.equal(few().values, few(seed=1).values)
    free, dear = (few(price=price).values.sum() for price in (0.0, 50.0))
    assert dear < 0.9 * free
    assert few(steps=0).values[EdgeGraph.of(case.model).valid].unique().numel() == 1
    with pytest.raises(ValueError, match="OtherRun"):
        few(what=Zero())
    metric, pairs = LogitDiff(case.pairs.answer_tokens), case.pairs
    with pytest.raises(ValueError, match="no gradient"):
        edge_masks(
            case.model, pairs.clean_tokens, OtherRun(pairs.corrupt_tokens),
            lambda logits: metric(logits).detach(), steps=1,
        )  # fmt: skip
