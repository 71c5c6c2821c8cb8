"""Attribution graphs: exact for their run, pruned, intervened on, kept in files; bad input."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from other_models import save_other

from mi_helpers import sae as S
from mi_helpers.interventions import NothingHappened
from mi_helpers.models import load_model, model_id
from mi_helpers.sites import hook_name


def some_tokens(rows: int = 30, length: int = 14, vocab: int = 300) -> torch.Tensor:
    return torch.randint(1, vocab, (rows, length), generator=torch.Generator().manual_seed(0))


def random_transcoders(model, kind: str = "topk", d_sae: int = 48) -> list[S.Sae]:
    """One of a kind for each layer, drawn: its errors are large, and what it gives as well."""
    d, found = model.cfg.d_model, []
    for layer in range(model.cfg.n_layers):
        generator = torch.Generator().manual_seed(layer)
        draw = [torch.randn(*shape, generator=generator)
                for shape in ((d, d_sae), (d_sae,), (d_sae, d), (d,), (d, d))]  # fmt: skip
        hooks = [hook_name((site, layer)) for site in ("mlp_in", "mlp_out")]
        found.append(
            S.Sae(
                kind,
                W_enc=draw[0] / d**0.5,
                b_enc=0.1 * draw[1],
                W_dec=draw[2] / draw[2].norm(dim=1, keepdim=True),
                b_dec=0.1 * draw[3],
                threshold=torch.full((d_sae,), 0.8) if kind == "jumprelu" else None,
                k=5 if kind == "topk" else None,
                hook=hooks[0],
                target=hooks[1],
                model_id=model_id(model),
                subtract_b_dec=False,
                W_skip=0.5 * draw[4] / d**0.5 if layer else None,
            )
        )
    return found


@pytest.fixture(scope="module")
def tiny(_tiny_model):
    transcoders = random_transcoders(_tiny_model)
    tokens = some_tokens()[:1, :10]
    return _tiny_model, transcoders, tokens, S.attribution_graph(_tiny_model, transcoders, tokens)


@pytest.fixture(scope="module")
def of_pocket(_pocket):
    folder = files("mi_data") / "transcoders"
    transcoders = [S.load(folder / f"mlp_{i}") for i in range(_pocket.cfg.n_layers)]
    tokens = _pocket.to_tokens("John and Mary went to the shop. John gave the ball to")
    return _pocket, transcoders, tokens, S.attribution_graph(_pocket, transcoders, tokens)


def values_of(graph: S.AttributionGraph) -> torch.Tensor:
    return torch.tensor([node.value for node in graph.nodes])


@torch.no_grad()
def centred(model, tokens) -> torch.Tensor:
    logits = model(tokens)[0, -1]
    return logits - logits.mean()


def require_exact(model, transcoders, tokens, graph, removed: int = 12) -> None:
    """Inputs add up; the local replacement model gives the run; removal takes the total effect."""
    targets = graph.where("feature", "logit")
    sums = graph.weights.sum(1) + graph.biases
    torch.testing.assert_close(sums[targets], values_of(graph)[targets], atol=1e-4, rtol=1e-5)
    clean = centred(model, tokens)
    with torch.no_grad(), S.local_replacement(model, transcoders, tokens):
        torch.testing.assert_close(centred(model, tokens), clean, atol=1e-4, rtol=0)
    last = [i for i, node in enumerate(graph.nodes) if node.kind == "logit"]
    units = [graph.nodes[i].unit for i in last]
    torch.testing.assert_close(clean[units], values_of(graph)[last], atol=1e-4, rtol=0)
    total = graph.total()
    inner = [i for i, node in enumerate(graph.nodes) if node.kind != "logit"]
    strong = sorted(inner, key=lambda i: -float(total[last, i].abs().max()))[: removed // 2]
    for i in {*strong, *random.Random(0).sample(inner, removed // 2)}:
        with S.local_replacement(model, transcoders, tokens, {graph.nodes[i]: 0.0}):
            change = clean - centred(model, tokens)
        torch.testing.assert_close(change[units], total[last, i], atol=1e-4, rtol=1e-4)
    assert (total - graph.weights).abs().max() > 1e-3 * total.abs().max(), "no paths, no test"


def test_a_graph_is_exact_for_its_run(tiny) -> None:
    require_exact(*tiny)


def test_a_graph_of_pocket_is_exact(of_pocket) -> None:
    require_exact(*of_pocket)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_models_whose_mlps_differ_inside_are_exact_too(kind: str, tmp_path) -> None:
    save_other(tmp_path / kind, kind)
    model = load_model(str(tmp_path / kind), device="cpu")
    transcoders = random_transcoders(model)
    tokens = some_tokens()[:1, :8]
    graph = S.attribution_graph(model, transcoders, tokens)
    require_exact(model, transcoders, tokens, graph)


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_other_activation_functions_are_linear_where_active(kind: str, tiny_model) -> None:
    transcoders, prompt = random_transcoders(tiny_model, kind), some_tokens()[:1, :7]
    graph = S.attribution_graph(tiny_model, transcoders, prompt)
    require_exact(tiny_model, transcoders, prompt, graph)
    # none active in a layer: a threshold that nothing reaches
    if kind == "jumprelu":
        silent = replace(transcoders[1], threshold=torch.full((48,), 99.0))
        graph = S.attribution_graph(tiny_model, [transcoders[0], silent], prompt)
        require_exact(tiny_model, [transcoders[0], silent], prompt, graph)
        assert {n.layer for n in graph.nodes if n.kind == "feature"} == {0}


def test_total_effects_are_those_of_all_paths() -> None:
    """A token, two features in a row, a logit: by hand. Paths are not products of weights."""
    nodes = (S.Node("token", -1, 0, 5, 1.0), S.Node("feature", 0, 1, 3, 2.0),
             S.Node("feature", 1, 1, 7, 4.0), S.Node("logit", 2, 1, 9, 10.0))  # fmt: skip
    weights = torch.zeros(4, 4)
    weights[1, 0], weights[2, 1], weights[2, 0] = 1.0, 3.0, 0.5
    weights[3, 2], weights[3, 1], weights[3, 0] = 8.0, 1.0, -2.0
    biases = torch.tensor([0.0, 1.0, 0.5, 3.0])
    graph = S.AttributionGraph(("a", "b"), nodes, weights, biases, ("c",), torch.tensor([0.4]))
    total = graph.total()
    # without the token feature 0 is 1 (of 2), so feature 1 is 0.5 + 3 / 2 = 2 (of 4), and the
    # logit is 3 + 8 / 2 + 1 / 2 = 7.5 (of 10)
    assert total[1, 0] == 1 and total[2, 0] == 2 and total[3, 0] == pytest.approx(2.5)
    # without feature 0 feature 1 is 1 (of 4): the logit is 3 - 2 + 2 = 3
    assert total[3, 1] == pytest.approx(7.0)
    assert total[3, 2] == 8
    assert not total.triu().any()
    assert torch.equal(graph.total([3, -3]), total[[3, -3]])
    shares = torch.tensor([2 + 1 + 8.0, 1.0, 3.5])
    at_two, at_one = 8 / shares[0], (1 + 8 * 3 / 3.5) / shares[0]
    want = [2 / shares[0] + at_two * 0.5 / 3.5 + at_one, at_one, at_two, 0.0]
    torch.testing.assert_close(graph.influence(), 0.4 * torch.tensor(want))
    assert graph.replacement_score() == 1 and graph.completeness_score() == 1
    errors = replace(graph, nodes=(nodes[0]._replace(kind="error"), *nodes[1:]))
    assert errors.replacement_score() == 0
    known = 0.4 * (1 * (1 - 2 / 11) + want[2] * (1 - 0.5 / 3.5) + want[1] * 0 + want[0])
    weight = 0.4 * (1 + sum(want))
    assert errors.completeness_score() == pytest.approx(float(known / weight), rel=1e-5)


def test_who_can_give_to_whom(tiny) -> None:
    _, transcoders, tokens, graph = tiny
    kinds = [node.kind for node in graph.nodes]
    assert kinds.count("token") == tokens.shape[1] == len(graph.tokens)
    assert kinds.count("error") == 2 * (tokens.shape[1] - 1)
    assert not any(node.position == 0 for node in graph.nodes if node.kind == "feature")
    per_place = {(n.layer, n.position) for n in graph.nodes if n.kind == "feature"}
    assert len(per_place) == 2 * (tokens.shape[1] - 1)
    assert kinds.count("feature") == 5 * len(per_place)
    for target, source in graph.weights.nonzero().tolist():
        one, other = graph.nodes[target], graph.nodes[source]
        assert other.layer < one.layer and other.position <= one.position
        assert one.kind in ("feature", "logit") and other.kind != "logit"
    assert graph.weights.any(1)[graph.where("feature", "logit")].all()
    assert not graph.biases[graph.where("token", "error")].any()


def test_logits_are_chosen_or_given(tiny) -> None:
    model, transcoders, tokens, graph = tiny
    given = S.attribution_graph(model, transcoders, tokens, logits=[7, 3], at_once=16)
    assert [node.unit for node in given.nodes[-2:]] == [7, 3]
    assert given.predicted == tuple(model.tokenizer.decode([t]) for t in (7, 3))
    probabilities = centred(model, tokens).softmax(0)
    torch.testing.assert_close(given.probabilities, probabilities[[7, 3]])
    first = S.attribution_graph(model, transcoders, tokens, most=3)
    assert [n.unit for n in first.nodes[-3:]] == probabilities.topk(3).indices.tolist()
    few = S.attribution_graph(model, transcoders, tokens, share=1e-6)
    assert [n.kind for n in few.nodes].count("logit") == 1
    inner = ~graph.where("logit")
    rest = given.weights[:-2, :-2]
    torch.testing.assert_close(rest, graph.weights[inner][:, inner], atol=1e-6, rtol=1e-5)


def test_pruning_cuts_the_edges_with_the_least_influence() -> None:
    """By hand: an edge counts by its share of its target, and the target by its influence."""
    nodes = (S.Node("token", -1, 0, 5, 1.0), S.Node("feature", 0, 1, 3, 2.0),
             S.Node("feature", 1, 1, 7, 4.0), S.Node("logit", 2, 1, 9, 10.0))  # fmt: skip
    weights = torch.zeros(4, 4)
    weights[1, 0], weights[2, 1], weights[2, 0] = 1.0, 3.0, 0.4
    weights[3, 2], weights[3, 1], weights[3, 0] = 8.0, 1.0, -2.0
    graph = S.AttributionGraph(("a", "b"), nodes, weights, torch.zeros(4), ("c",), torch.ones(1))
    # of its target's inputs (2, 0) is 0.12 and (3, 1) only 0.09, but the logit has more influence
    # than the feature: 0.73 * 0.12 < 0.09
    for share, cut in ((1.0, []), (0.96, [(2, 0)]), (0.92, [(2, 0), (3, 1)])):
        left = weights.clone()
        for edge in cut:
            left[edge] = 0.0
        torch.testing.assert_close(graph.pruned(1.0, share).weights, left)
    two = (*nodes[:1], nodes[0]._replace(position=1), nodes[3], nodes[3]._replace(unit=8))
    weights = torch.zeros(4, 4)
    weights[2, 0] = weights[3, 1] = 1.0
    graph = S.AttributionGraph(
        ("a", "b"), two, weights, torch.zeros(4), ("c", "d"), torch.tensor([0.4, 0.1])
    )
    torch.testing.assert_close(graph.influence(), torch.tensor([0.4, 0.1, 0.0, 0.0]))


def test_pruning_keeps_what_matters_and_adds_up(of_pocket) -> None:
    graph = of_pocket[3]
    small, smaller = graph.pruned(), graph.pruned(0.5, 0.9)
    assert len(smaller) < len(small) < len(graph) / 2
    for part in (small, smaller):
        assert set(part.nodes) < set(graph.nodes)
        ends = [node for node in graph.nodes if node.kind in ("token", "logit")]
        assert set(ends) <= set(part.nodes)
        targets = part.where("feature", "logit")
        sums = (part.weights.sum(1) + part.biases)[targets]
        torch.testing.assert_close(sums, values_of(part)[targets], atol=1e-4, rtol=1e-5)
        inner = part.where("feature")
        assert part.weights[:, inner].any(0).all() and part.weights[inner].any(1).all()
        held = dict(zip(graph.nodes, graph.influence().tolist(), strict=True))
        cut = [held[n] for n in graph.nodes if n.kind == "feature" and n not in part.nodes]
        kept = [held[n] for n in part.nodes if n.kind == "feature"]
        assert sum(kept) / len(kept) > 5 * sum(cut) / len(cut)
    whole = graph.pruned(1.0, 1.0)
    torch.testing.assert_close(whole.influence().sum(), graph.influence().sum(), rtol=1e-2, atol=0)
    for bad in ({"nodes": 0.0}, {"edges": 1.1}):
        with pytest.raises(ValueError, match="share of the influence"):
            graph.pruned(**bad)


def test_scores_fall_where_transcoders_are_worse(of_pocket) -> None:
    model, transcoders, tokens, graph = of_pocket
    generator = torch.Generator().manual_seed(0)
    mixed = [
        replace(one, W_dec=one.W_dec[torch.randperm(one.d_sae, generator=generator)])
        for one in transcoders
    ]
    worse = S.attribution_graph(model, mixed, tokens)
    assert worse.replacement_score() < graph.replacement_score() - 0.1
    assert worse.completeness_score() < graph.completeness_score() - 0.05


def strong_features(graph: S.AttributionGraph, count: int) -> list[S.Node]:
    effect = graph.total()[-len(graph.predicted)].abs()
    order = [graph.nodes[i] for i in effect.argsort(descending=True).tolist()]
    return [node for node in order if node.kind == "feature"][:count]


@torch.no_grad()
def test_features_are_set_in_the_model(tiny) -> None:
    model, transcoders, tokens, graph = tiny
    clean = centred(model, tokens)
    node = strong_features(graph, 1)[0]
    for frozen in (None, tokens):
        with S.set_features(model, transcoders, {node: node.value}, frozen=frozen) as fired:
            torch.testing.assert_close(centred(model, tokens), clean, atol=1e-5, rtol=0)
        assert fired.count
        changes = []
        for value in (0.0, -node.value, 2 * node.value):
            with S.set_features(model, transcoders, {node: value}, frozen=frozen):
                changes.append(clean - centred(model, tokens))
        assert changes[0].abs().max() > 1e-4
        alike = [torch.cosine_similarity(changes[0], other, dim=0) for other in changes[1:]]
        assert alike[0] > 0.5 and alike[1] < -0.5
        assert changes[1].norm() > 1.2 * changes[0].norm()
    silent = next(u for u in range(48) if (node.layer, node.position, u) not in
                  {n[1:4] for n in graph.nodes})  # fmt: skip
    injected = S.Node("feature", node.layer, node.position, silent, 0.0)
    with S.set_features(model, transcoders, {node: 0.0, injected: 3.0}):
        both = centred(model, tokens)
    with S.set_features(model, transcoders, {node: 0.0}):
        assert (both - centred(model, tokens)).abs().max() > 1e-6
    torch.testing.assert_close(centred(model, tokens), clean, atol=0, rtol=0)


@torch.no_grad()
def test_one_layer_set_with_all_held_is_the_direct_effect(of_pocket) -> None:
    """A feature of the last layer has no path but the direct one, in the model too."""
    model, transcoders, tokens, graph = of_pocket
    last = graph.nodes[-1].layer - 1
    node = max((n for n in graph.nodes if n.kind == "feature" and n.layer == last
                and n.position == tokens.shape[1] - 1), key=lambda n: n.value)  # fmt: skip
    clean = centred(model, tokens)
    with S.set_features(model, transcoders, {node: 0.0}, frozen=tokens):
        change = clean - centred(model, tokens)
    still = S.frozen.frozen_run(model, transcoders, tokens)
    with S.set_features(model, transcoders, {node: 0.0}, frozen=still):
        assert torch.equal(clean - centred(model, tokens), change)
    n = len(graph.predicted)
    units, at = [node.unit for node in graph.nodes[-n:]], graph.nodes.index(node)
    torch.testing.assert_close(change[units], graph.weights[-n:, at], atol=1e-4, rtol=1e-4)


def test_interventions_refuse_what_cannot_be(tiny) -> None:
    model, transcoders, tokens, graph = tiny
    node = next(n for n in graph.nodes if n.kind == "feature")
    cases = [
        ({}, "nothing to set"),
        ({graph.nodes[0]: 0.0}, "only features"),
        ({node._replace(layer=2): 0.0}, "in no layer"),
        ({node._replace(unit=48): 0.0}, "none of 48"),
        ({node._replace(position=0): 0.0}, "first token"),
        ({node: float("nan")}, "cannot be set"),
        ({node: 0.0, node._replace(value=1.5): 1.0}, "one node twice"),
    ]
    for values, said in cases:
        with pytest.raises(ValueError, match=said), S.set_features(model, transcoders, values):
            pass
    with pytest.raises(NothingHappened), S.set_features(model, transcoders, {node: 0.0}):
        pass
    with (
        pytest.raises(ValueError, match="belong to one length"),
        S.set_features(model, transcoders, {node: 0.0}, frozen=tokens),
    ):
        model(some_tokens()[:1, :12])
    silent = next(u for u in range(48) if (node.layer, node.position, u) not in
                  {n[1:4] for n in graph.nodes})  # fmt: skip
    absent = [graph.nodes[-1], graph.nodes[0]._replace(unit=graph.nodes[0].unit + 1)]
    absent += [node._replace(unit=unit) for unit in (silent, -1, 48)]
    for wrong in (*absent, node._replace(position=99)):
        with (
            pytest.raises(ValueError, match="of this run"),
            S.local_replacement(model, transcoders, tokens, {wrong: 0.0}),
        ):
            pass
    for values, said in cases[-2:]:
        with pytest.raises(ValueError, match=said):
            S.local_replacement(model, transcoders, tokens, values).__enter__()
    with pytest.raises(NothingHappened), S.local_replacement(model, transcoders, tokens):
        pass


def test_a_feature_of_a_special_token_alone_is_noticed(of_pocket) -> None:
    model, transcoders, tokens, graph = of_pocket
    node = next(n for n in graph.nodes if n.kind == "feature" and n.position > 1)
    special = tokens.clone()
    special[0, node.position] = model.tokenizer.bos_token_id
    with (
        pytest.raises(NothingHappened, match="spared"),
        S.set_features(model, transcoders, {node: 50.0}),
    ):
        model(special)


def test_what_no_graph_can_be_made_of_is_refused(tiny, tmp_path) -> None:
    model, transcoders, tokens, _ = tiny
    one, two = transcoders
    cases = [
        ((transcoders, some_tokens()[:2]), {}, "one prompt"),
        ((transcoders, tokens[:, :1]), {}, "two tokens or more"),
        (([one], tokens), {}, r"layers \[1\]"),
        (([one, two, two], tokens), {}, "two transcoders"),
        (([one, replace(two, hook=one.hook)], tokens), {}, "must read"),
        (([one, replace(two, target="", W_skip=None)], tokens), {}, "must read"),
        (([one, replace(two, model_id="gpt2")], tokens), {}, "was made for"),
        ((transcoders, tokens), {"logits": []}, "each once"),
        ((transcoders, tokens), {"logits": [1, 1]}, "each once"),
        ((transcoders, tokens), {"logits": [10**6]}, "no tokens"),
        ((transcoders, tokens), {"most": 0}, "most must be"),
    ]
    for args, options, said in cases:
        with pytest.raises(ValueError, match=said):
            S.attribution_graph(model, *args, **options)
    for kind, said in (("neox", "side by side"), ("gemma2", "caps its")):
        save_other(tmp_path / kind, kind)
        other = load_model(str(tmp_path / kind), device="cpu")
        with pytest.raises(ValueError, match=said):
            S.attribution_graph(other, transcoders, tokens)


def test_parts_that_do_not_fit_are_refused(tiny) -> None:
    graph = tiny[3]
    for change, said in (
        ({"weights": graph.weights[1:]}, "need weights"),
        ({"weights": graph.weights.mT}, "leads back"),
        ({"nodes": graph.nodes[::-1]}, "behind all others"),
        ({"predicted": ()}, "a text and a probability"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(graph, **change)
    with pytest.raises(ValueError, match="unknown kinds"):
        graph.where("neuron")


def test_nodes_are_named(tiny) -> None:
    graph = tiny[3]
    parts = (("feature", 3, 7, 512), ("error", 3, 7, -1), ("token", -1, 2, 5), ("logit", 6, 9, 12))
    said = [str(S.Node(*part, 1.0)) for part in parts]
    assert said == ["L3F512@7", "L3 error@7", "token@2", "logit 12"]
    assert graph.label(graph.nodes[1]) == f"token@1 {graph.tokens[1]!r}"
    assert graph.label(graph.nodes[-1]) == f"predicts {graph.predicted[-1]!r}"


@pytest.mark.parametrize("pruned", [False, True])
def test_files_of_circuit_tracer_go_there_and_back(tiny, pruned: bool, tmp_path) -> None:
    graph = tiny[3].pruned(0.99, 1.0) if pruned else tiny[3]
    groups = {"first": [n for n in graph.nodes if n.kind == "feature"][:2]}
    path = S.save_graph(graph, tmp_path / "g.json", slug="g", scan="tiny", supernodes=groups)
    again, read = S.load_graph(path)
    assert (again.nodes, again.tokens, again.predicted) == (
        graph.nodes, graph.tokens, graph.predicted,
    )  # fmt: skip
    assert read == groups
    for name in ("weights", "biases", "probabilities"):
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(getattr(again, name), getattr(graph, name), **close)
    content = json.loads(path.read_text())
    assert set(content) == {"metadata", "qParams", "nodes", "links"}
    node = next(n for n in content["nodes"] if n["feature_type"] == "cross layer transcoder")
    layer, unit, position = map(int, node["node_id"].split("_"))
    both = layer + unit
    assert node["feature"] == both * (both + 1) // 2 + unit and node["ctx_idx"] == position
    assert node["jsNodeId"] == f"{layer}_{unit}-0"
    last = content["nodes"][-1]
    assert last["layer"] == "3" and last["clerp"].startswith('Output "')
    assert all(
        0 <= n["influence"] <= 1.0001 for n in content["nodes"] if n["influence"] is not None
    )


def test_a_file_of_circuit_tracers_own_is_read(tmp_path) -> None:
    """Without values of logits, error nodes of the older name, links in any order."""
    entry = {"ctx_idx": 1, "token_prob": 0.0, "clerp": ""}
    nodes = [
        {**entry, "node_id": "2_9_1", "layer": "2", "feature_type": "logit", "feature": 9,
         "token_prob": 0.6, "clerp": 'Output " b" (p=0.600)'},
        {**entry, "node_id": "0_1_1", "layer": "0", "feature_type": "mlp reconstruction error",
         "feature": -1},
        {**entry, "node_id": "0_3_1", "layer": "0", "feature_type": "cross layer transcoder",
         "feature": 9, "activation": 2.5},
        {**entry, "node_id": "E_4_0", "layer": "E", "feature_type": "embedding", "ctx_idx": 0},
    ]  # fmt: skip
    links = [
        {"source": "0_3_1", "target": "2_9_1", "weight": 1.5},
        {"source": "0_1_1", "target": "2_9_1", "weight": -0.5},
        {"source": "E_4_0", "target": "0_3_1", "weight": 2.0},
    ]
    content = {"metadata": {"prompt_tokens": ["<b>", " a"]}, "nodes": nodes, "links": links}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    graph, groups = S.load_graph(path)
    assert [n.kind for n in graph.nodes] == ["token", "feature", "error", "logit"]
    assert graph.nodes[1] == S.Node("feature", 0, 1, 3, 2.5) and not groups
    assert graph.nodes[-1] == S.Node("logit", 1, 1, 9, 1.0) and graph.predicted == (" b",)
    assert graph.biases.tolist() == [0, 0.5, 0, 0]
    broken = [
        ("{", "is no graph"),
        (json.dumps({**content, "nodes": [{**nodes[0], "feature_type": "x"}]}), "of type 'x'"),
        (json.dumps({**content, "nodes": nodes[:3]}), "not there"),
        (json.dumps({**content, "nodes": [*nodes, nodes[0]]}), "two nodes"),
        (json.dumps({**content, "nodes": [{**nodes[2], "activation": None}]}), "no activation"),
    ]
    for text, said in broken:
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            S.load_graph(path)
    with pytest.raises(FileNotFoundError, match="no graph at"):
        S.load_graph(tmp_path / "nowhere.json")


def test_files_are_refused_without_names(tiny, tmp_path) -> None:
    graph = tiny[3]
    with pytest.raises(ValueError, match="must name"):
        S.save_graph(graph, tmp_path / "g.json", slug="", scan="tiny")
    stranger = {"x": [S.Node("feature", 0, 1, 1, -3.0)]}
    with pytest.raises(ValueError, match="not in the graph"):
        S.save_graph(graph, tmp_path / "g.json", slug="g", scan="tiny", supernodes=stranger)
    assert not list(Path(tmp_path).iterdir())
    path = tmp_path / "g.json"
    S.save_graph(graph, path, slug="g", scan="tiny")
    content = json.loads(path.read_text(encoding="utf-8"))
    lost = content | {"qParams": {"supernodes": [["x", "9_9_9"]]}}
    nameless = content | {"nodes": [node | {"node_id": "foo"} for node in content["nodes"]]}
    for wrong, said in ((lost, "supernodes of nodes"), (nameless, "is no graph")):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            S.load_graph(path)


def test_the_committed_card_tells_what_the_files_hold() -> None:
    from mi_data.transcoders import train as T

    folder = Path(str(files("mi_data") / "transcoders"))
    assert (folder / "README.md").read_text() == T.page(folder)
    sums = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert len(sums) == 12
    for digest, name in sums:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    recipe = S.load(folder / "mlp_0").notes["recipe"]
    assert S.Recipe(**recipe) == T.RECIPE


def test_training_publishes_and_goes_on(tiny_model, tmp_path, capsys) -> None:
    from mi_data.transcoders import train as T

    recipe = S.Recipe("topk", d_sae=24, k=3, steps=12, batch=64, skip=True)
    tokens, held_out = some_tokens(), some_tokens(8, 14, 290)
    out, work = tmp_path / "out", tmp_path / "work"
    T.train_all(tiny_model, tokens, held_out, out, work, recipe)
    page = (out / "README.md").read_text()
    assert page.count("\n| 0 |") == page.count("\n| 1 |") == 1 and "- |" not in page
    first = S.load(out / "mlp_0")
    assert first.family == "transcoder" and first.W_skip is not None
    m = first.notes["measured"]
    assert 0.9 < m["explained_by_linear_map"] < 1 and m["explained_variance"] < 1
    assert m["l0"] <= 3 and m["loss"] > 0 and m["loss_spliced_sae"] > 0
    sums = (out / "SHA256SUMS").read_text().splitlines()
    assert {line.split()[1] for line in sums} == {
        f"mlp_{i}/{name}" for i in range(2) for name in (T.CONFIG, T.WEIGHTS)
    }
    weights = out / "mlp_0" / T.WEIGHTS
    before = weights.read_bytes()
    weights.unlink()
    other = (out / "mlp_1" / T.WEIGHTS).stat().st_mtime_ns
    T.train_all(tiny_model, tokens, held_out, out, work, recipe)
    assert weights.read_bytes() == before, "a run that goes on ends the same"
    assert (out / "mlp_1" / T.WEIGHTS).stat().st_mtime_ns == other
    with pytest.raises(ValueError, match="another recipe"):
        weights.unlink()
        T.train_all(tiny_model, tokens, held_out, out, work, replace(recipe, k=2))
