"""Scores from a run held still: those of the attribution graph, whose units are summed up."""

from __future__ import annotations

import pytest
import torch
from test_attribution_graph import random_transcoders, some_tokens

from mi_helpers import sae as S
from mi_helpers.circuits import EdgeScores
from mi_helpers.interventions import intervene
from mi_helpers.metrics import LogitDiff
from mi_helpers.toys import interchange, programs, scoreboard


def of_units(model, transcoders, tokens, answers) -> dict[str, float]:
    """The same by attribution graphs: total effects of the tokens and of each MLP's units."""
    found = dict.fromkeys(["embed", *(f"MLP{i}" for i in range(model.cfg.n_layers))], 0.0)
    for prompt, pair in zip(tokens, answers.tolist(), strict=True):
        graph = S.attribution_graph(model, transcoders, prompt[None], logits=pair)
        right, wrong = graph.total()[-2:]
        for node, effect in zip(graph.nodes, (right - wrong).tolist(), strict=True):
            name = {"token": "embed", "feature": f"MLP{node.layer}"}.get(node.kind)
            if name is not None:
                found[name] += effect / len(tokens)
    return found


def require_same(model, transcoders, tokens, answers) -> EdgeScores:
    scores = S.graph_attribution(model, transcoders, tokens, answers)
    nodes, graph = scores.nodes(), of_units(model, transcoders, tokens, answers)
    assert max(map(abs, graph.values())) > 0.01
    for name, effect in graph.items():
        assert nodes[name] == pytest.approx(effect, abs=1e-4, rel=1e-4), name
    return scores


def test_nodes_are_those_of_the_attribution_graph(tiny_model) -> None:
    tokens = some_tokens()[:3, :9]
    answers = torch.tensor([[5, 9], [9, 5], [7, 3]])
    require_same(tiny_model, random_transcoders(tiny_model), tokens, answers)


@pytest.mark.parametrize("name", ["silent pair", "sort by frequency"])
def test_neurons_of_a_compiled_model_are_units_without_an_error(name: str) -> None:
    case = programs.case(name, n=2)
    own, pairs = S.own_neurons(case.model), case.pairs
    graph = S.attribution_graph(case.model, own, pairs.clean_tokens[:1])
    errors = graph.weights[:, graph.where("error")]
    assert errors.abs().max() < 1e-3 * graph.weights.abs().max()
    require_same(case.model, own, pairs.clean_tokens, pairs.answer_tokens)


def test_heads_and_edges_are_what_removal_takes_in_the_run_held_still() -> None:
    recipe = interchange.Recipe("count", "small", seed=2)
    case = interchange.case(recipe, 0, n=1)
    own, model, pairs = S.own_neurons(case.model), case.model, case.pairs
    scores = require_same(model, own, pairs.clean_tokens, pairs.answer_tokens)
    metric, nodes = LogitDiff(pairs.answer_tokens), scores.nodes()
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def remove(z, where, head=head):
                z = z.clone()
                z[:, :, head] = 0
                return z

            with torch.no_grad(), S.local_replacement(model, own, pairs.clean_tokens):
                whole = metric(model(pairs.clean_tokens))
                with intervene(model, {("z", layer): remove}):
                    lost = whole - metric(model(pairs.clean_tokens))
            assert nodes[f"L{layer}H{head}"] == pytest.approx(float(lost), abs=1e-3), (layer, head)


def test_queries_and_keys_get_nothing() -> None:
    case = programs.case("induction", n=4)
    pairs, truth = case.pairs, case.truth
    found = S.graph_attribution(
        case.model, S.own_neurons(case.model), pairs.clean_tokens, pairs.answer_tokens
    )
    noised = scoreboard.each_edge(case).values
    following = truth.place["following"]
    key = found.graph.edge(truth.place["previous"], f"{following}.k")
    value = found.graph.edge("embed", f"{following}.v")
    assert found.values[key] == 0 and abs(noised[key]) > 5
    assert found.values[value] > 5
    inputs = [i for i, name in enumerate(found.graph.readers) if name[-2:] in (".q", ".k")]
    assert not found.values[inputs].any() and noised[inputs].any()
    assert not found.values[~found.graph.valid].any()


def test_what_does_not_fit_is_refused(tiny_model) -> None:
    with pytest.raises(ValueError, match="only ReLUs are units"):
        S.own_neurons(tiny_model)
    tokens, given = some_tokens()[:2, :6], random_transcoders(tiny_model)
    with pytest.raises(ValueError, match=r"2 prompts need answers \[2, 2\].* got \[1, 2\]"):
        S.graph_attribution(tiny_model, given, tokens, torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="no transcoder was given for layers"):
        S.graph_attribution(tiny_model, given[:1], tokens, torch.tensor([[1, 2], [3, 4]]))
