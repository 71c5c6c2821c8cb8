"""Edges by position: their sum is the edge, all positions are the edge, and one is that place."""

from __future__ import annotations

import pytest
import torch
from patching_fixtures import N_POS, SAME

from mi_helpers import circuits
from mi_helpers.circuits import Circuit, EdgeGraph, PositionCircuit, PositionScores
from mi_helpers.interventions import intervene
from mi_helpers.patching import At, Integrated, OtherRun

pytest_plugins = ["patching_fixtures"]


@pytest.fixture
def graph(model):
    return EdgeGraph.of(model)


@pytest.mark.parametrize("path", [At(), Integrated(3)])
def test_the_sum_over_positions_is_the_score_of_the_edge(model, base, source, metric, path):
    run = model, base, OtherRun(source), metric
    apart = circuits.edge_attribution_by_position(*run, path=path)
    whole = circuits.edge_attribution(*run, path=path)
    torch.testing.assert_close(apart.summed().values, whole.values, rtol=0, atol=1e-5)
    assert apart.values.shape == (N_POS, *apart.graph.valid.shape)
    assert apart.values[:, ~apart.graph.valid].eq(0).all()
    assert apart.values[:SAME].eq(0).all(), "before the runs differ nothing can change"
    assert (apart.values.abs().sum(0) - whole.values.abs()).max() > 1e-3, "some positions oppose"


def test_a_score_is_the_change_times_the_gradient_at_that_position(model, base, source, metric):
    """The last MLP's edge to the logits counts at the end; an edge into it anywhere by hand."""
    apart = circuits.edge_attribution_by_position(model, base, OtherRun(source), metric)
    graph, values = apart.graph, apart.values
    reader, writer = graph.edge("MLP2", "logits")
    assert values[:-1, reader, writer].eq(0).all() and values[-1, reader, writer] != 0
    with torch.no_grad():
        (_, here), (_, other) = (model.run_with_cache(tokens) for tokens in (base, source))
    stream = here["resid_mid", 1].clone()
    change = here["resid_pre", 0] - other["resid_pre", 0]
    place = graph.edge("embed", "MLP1")
    for pos in (SAME, N_POS - 1):
        moved, step = stream.clone(), 1e-2
        moved[:, pos] -= step * change[:, pos]
        with torch.no_grad():
            written = model.blocks[1].mlp(model.blocks[1].ln2(moved))
        with torch.no_grad():
            plain = metric(model(base)).mean()
            with intervene(model, {("mlp_out", 1): lambda act, where, new=written: new}):
                slope = (metric(model(base)).mean() - plain) / step
        assert float(values[(pos, *place)]) == pytest.approx(float(slope), rel=0.05, abs=2e-3)


def test_kept_everywhere_is_the_circuit_without_positions(model, base, source, metric, graph):
    generator = torch.Generator().manual_seed(3)
    some = [
        Circuit(graph, graph.valid & (torch.rand(graph.valid.shape, generator=generator) < keep))
        for keep in (0.3, 0.8)
    ]
    run = OtherRun(source), metric
    whole = circuits.faithfulness(model, base, some, *run)
    apart = [PositionCircuit.of(one, N_POS) for one in some]
    torch.testing.assert_close(
        circuits.faithfulness(model, base, apart, *run).circuit, whole.circuit, rtol=0, atol=1e-4
    )
    mixed = circuits.faithfulness(model, base, [apart[0], some[1]], *run)
    torch.testing.assert_close(mixed.circuit, whole.circuit, rtol=0, atol=1e-4)
    assert apart[0].n_edges == N_POS * some[0].n_edges
    assert torch.equal(apart[0].anywhere().kept, some[0].kept)
    late = [PositionCircuit.of(one, N_POS, range(SAME, N_POS)) for one in some]
    torch.testing.assert_close(  # where the runs agree, an ablated edge reads the same
        circuits.faithfulness(model, base, late, *run).circuit, whole.circuit, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("pos", [SAME, N_POS - 2, N_POS - 1])
def test_one_edge_ablated_at_one_position_is_that_reader_patched_there(
    model, base, source, metric, graph, pos
):
    """The last MLP alone sees the corrupt embedding, at one position: by hand and as a circuit."""
    kept = PositionCircuit.of(Circuit(graph, graph.valid), N_POS).kept
    kept[(pos, *graph.edge("embed", "MLP2"))] = False
    ours = circuits.faithfulness(
        model, base, PositionCircuit(graph, kept), OtherRun(source), metric
    )
    with torch.no_grad():
        (_, here), (_, other) = (model.run_with_cache(tokens) for tokens in (base, source))
        stream = here["resid_mid", 2].clone()
        stream[:, pos] += (other["resid_pre", 0] - here["resid_pre", 0])[:, pos]
        written = model.blocks[2].mlp(model.blocks[2].ln2(stream))
        with intervene(model, {("mlp_out", 2): lambda act, where: written}):
            wanted = metric(model(base))
    torch.testing.assert_close(ours.circuit[0], wanted, rtol=0, atol=1e-4)
    moved = (ours.circuit[0] - ours.full).abs().max() > 1e-4
    assert moved == (pos == N_POS - 1), "the last MLP speaks from the last position alone"


def test_two_positions_that_cancel_come_first_apart_and_last_together():
    graph = EdgeGraph(1, 1)
    values = torch.zeros(2, *graph.valid.shape)
    opposed, steady = graph.edge("embed", "MLP0"), graph.edge("L0H0", "logits")
    values[(0, *opposed)], values[(1, *opposed)] = 3.0, -3.0
    values[(1, *steady)] = 1.0
    scores = PositionScores(graph, values)
    assert scores.summed().top(1).edges() == [("L0H0", "logits")]
    assert scores.top(2).anywhere().edges() == [("embed", "MLP0")] and scores.top(2).n_edges == 2
    assert scores.ranked(3)[:2] == [("embed", "MLP0", 0, 3.0), ("embed", "MLP0", 1, -3.0)]
    assert scores.ranked(3)[2] == ("L0H0", "logits", 1, 1.0)


def test_what_does_not_fit_is_refused(model, base, source, metric, graph):
    whole = Circuit(graph, graph.valid)
    with pytest.raises(ValueError, match="boolean"):
        PositionCircuit(graph, graph.valid)
    with pytest.raises(ValueError, match="earlier reader"):
        PositionCircuit(graph, torch.ones(2, *graph.valid.shape, dtype=torch.bool))
    with pytest.raises(ValueError, match="position 7 is out of range"):
        PositionCircuit.of(whole, N_POS, [N_POS])
    with pytest.raises(ValueError, match=f"3 positions, the prompts have {N_POS}"):
        short = PositionCircuit.of(whole, 3)
        circuits.faithfulness(model, base, short, OtherRun(source), metric)
    scores = circuits.edge_attribution_by_position(model, base, OtherRun(source), metric)
    n_edges = N_POS * int(graph.valid.sum())
    assert scores.top(n_edges).n_edges == n_edges
    with pytest.raises(ValueError, match=f"there are {n_edges}"):
        scores.top(n_edges + 1)
