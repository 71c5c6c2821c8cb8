"""The planted circuit does what its description says, and nothing else does."""

from __future__ import annotations

import pytest
import torch

from mi_helpers import circuits, patching
from mi_helpers.circuits import Circuit, EdgeGraph
from mi_helpers.patching import LogitDiff, Mean, OtherRun, Zero
from mi_helpers.toys import PLANTED, planted_circuit, planted_edges, planted_prompts

DUPLICATE, (INHIBIT,), MOVERS, (BACKUP,), (NEGATIVE,) = PLANTED.values()


@pytest.fixture(scope="module")
def model():
    return planted_circuit()


@pytest.fixture(scope="module")
def pairs(model):
    return planted_prompts(model, 24, seed=1)


@pytest.fixture(scope="module")
def patterns(model, pairs):
    """[prompt query key] of a head."""
    with torch.no_grad():
        cache = model.run_with_cache(pairs.clean_tokens)[1]
    return lambda head: cache["pattern", head.layer][:, head.head]


@pytest.fixture(scope="module")
def left(model, pairs):
    """The share of the logit difference left without some heads."""

    def share(*heads, what=None):
        what, metric = what or Mean(pairs.corrupt_tokens), LogitDiff(pairs.answer_tokens)
        swept = patching.ablate(
            model, pairs.clean_tokens, what, metric, [[], list(map(str, heads))]
        )
        whole, without = swept.mean().tolist()
        return without / whole

    return share


def test_it_answers_with_the_single_name(model, pairs):
    logits = model(pairs.clean_tokens)[:, -1]
    assert torch.equal(logits.argmax(-1), pairs.answer_tokens[:, 0])
    probability = logits.softmax(-1).gather(1, pairs.answer_tokens)
    assert probability[:, 0].min() > 0.9 and probability[:, 1].max() < 0.01
    strangers = LogitDiff(pairs.answer_tokens)(model(pairs.corrupt_tokens))
    assert strangers.abs().mean() < 3, "without a repetition it does not know"


def test_prompts_are_what_they_say(model, pairs):
    rows = torch.arange(len(pairs))
    single, repeated, again = (
        pairs.clean_tokens[rows, pairs.positions[role]] for role in ("IO1", "S1", "S2")
    )
    assert torch.equal(torch.stack([single, repeated], 1), pairs.answer_tokens)
    assert torch.equal(repeated, again) and set(pairs.positions["IO1"].tolist()) == {1, 2}
    for row in pairs.corrupt_tokens[:, 1:4].tolist():
        assert len(set(row)) == 3
    assert planted_prompts(model, 4, seed=1).clean == pairs.clean[:4]
    assert planted_prompts(model, 4, seed=2).clean != pairs.clean[:4]


def test_heads_look_where_they_should(patterns, pairs):
    rows, at = torch.arange(len(pairs)), pairs.positions
    for head in DUPLICATE:
        assert patterns(head)[rows, at["S2"], at["S1"]].min() > 0.9
    assert patterns(INHIBIT)[rows, at["end"], at["S2"]].min() > 0.9
    for head in (*MOVERS, NEGATIVE):
        assert patterns(head)[rows, at["end"], at["IO1"]].min() > 0.9
    assert patterns(BACKUP)[rows, at["end"], 0].min() > 0.9, "it rests"


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_the_backup_acts_only_when_the_movers_are_gone(left, pairs, kind):
    what = Zero() if kind == "zero" else Mean(pairs.corrupt_tokens)
    assert left(BACKUP, what=what) > 0.9, "nobody misses it"
    assert left(*MOVERS, what=what) > 0.6, "it stands in for both"
    assert left(*MOVERS, BACKUP, what=what) < 0.1, "and without it nothing is left"
    assert left(NEGATIVE, what=what) > 1.1


def test_the_duplicate_token_heads_are_redundant(left):
    assert min(left(head) for head in DUPLICATE) > 0.9
    assert left(*DUPLICATE) < 0.1 and left(INHIBIT) < 0.1


def test_no_other_head_matters(left, model):
    planted = {head for heads in PLANTED.values() for head in heads}
    idle = [head for head in EdgeGraph.of(model).heads if head not in planted]
    assert len(planted) == 7 and len(idle) == 9
    assert all(abs(left(head) - 1) < 0.05 for head in idle)
    assert abs(left(*idle) - 1) < 0.1


def test_the_planted_edges_are_the_circuit(model, pairs):
    graph, metric = EdgeGraph.of(model), LogitDiff(pairs.answer_tokens)
    run = model, pairs.clean_tokens
    what = OtherRun(pairs.corrupt_tokens)
    edges = planted_edges()
    chain = [("L2H0", "logits"), ("L2H1", "logits")]
    whole = Circuit.of_edges(graph, edges)
    broken = Circuit.of_edges(graph, edges - set(chain))
    good, bad = circuits.faithfulness(*run, [whole, broken], what, metric).normalised().tolist()
    assert 0.9 < good < 1.3 and bad < 0.9
    assert whole.pruned().n_edges == whole.n_edges == len(edges)
    assert set(whole.heads()) == {head for heads in PLANTED.values() for head in heads}
    # wires that carry names change between the runs; those that carry places alone do not
    scores = circuits.edge_attribution(*run, what, metric, path=patching.Integrated(5))
    strongest = {(writer, reader) for writer, reader, _ in scores.ranked(10)}
    assert strongest <= edges


def test_the_seed_draws_the_idle_heads_alone(model):
    other = planted_circuit(seed=1)
    tokens = torch.tensor([[0, 1, 2, 2, 13]])
    same = [
        torch.equal(a, b)
        for a, b in zip(model.W_O.flatten(0, 1), other.W_O.flatten(0, 1), strict=True)
    ]
    assert sum(same) == 7
    assert int(model(tokens)[0, -1].argmax()) == int(other(tokens)[0, -1].argmax()) == 1


def test_softer_heads_still_answer_with_the_single_name(model, pairs):
    soft, sure = planted_circuit(sharp=4), []
    with torch.no_grad():
        assert torch.equal(soft(pairs.clean_tokens)[:, -1].argmax(-1), pairs.answer_tokens[:, 0])
        for one in (model, soft):
            pattern = one.run_with_cache(pairs.clean_tokens)[1]["pattern", MOVERS[0].layer]
            sure.append(pattern[:, MOVERS[0].head, -1].amax(-1).mean())
    assert sure[0] > 0.99 and sure[1] < 0.95
