"""Paths, attributions, edges and circuits equal the naive way of computing each."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from patching_fixtures import BATCH, plain_acdc
from transformer_lens import patching as tl_patching
from transformer_lens.tools.analysis import attribution_patching as tl

from mi_helpers import circuits, patching, sites
from mi_helpers.circuits import Circuit, EdgeGraph
from mi_helpers.engine import prepare
from mi_helpers.interventions import NothingHappened
from mi_helpers.patching import (
    At,
    Integrated,
    Mean,
    OtherRun,
    Resample,
    Where,
    Zero,
)
from mi_helpers.sites import Head

pytest_plugins = ["patching_fixtures"]


@pytest.fixture
def graph(model):
    return EdgeGraph.of(model)


def one(metric, row):
    """The metric of a single example, as TransformerLens wants it."""
    right, wrong = metric.answer_tokens[row]
    return lambda logits: logits[0, -1, right] - logits[0, -1, wrong]


def edge_name(writer, reader):
    """Our names of an edge of TransformerLens."""
    kinds = {"embed": "embed", "attn_head_out": f"L{writer.layer}H{writer.head}"}
    source = kinds.get(writer.kind, f"MLP{writer.layer}")
    target = {"logits": "logits", "mlp_in": f"MLP{reader.layer}"}.get(reader.kind)
    return source, target or f"L{reader.layer}H{reader.head}.{reader.kind[0]}"


# --- paths


@pytest.mark.parametrize("component", "qkv")
def test_path_to_a_head_equals_transformer_lens(model, base, source, metric, component):
    with torch.no_grad():
        _, other = model.run_with_cache(source)
        _, here = model.run_with_cache(base)
        wanted = tl_patching.get_act_patch_direct_path(
            model, base, other, here, lambda x: metric(x).mean(), 0, 1, component, verbose=False
        )[1]
    ours = [
        circuits.path_patch(
            model,
            base,
            OtherRun(source),
            metric,
            senders=["L0H1"],
            receivers=[f"L1H{head}.{component}"],
        ).mean()[0]
        for head in range(4)
    ]
    assert wanted.std() > 1e-6
    torch.testing.assert_close(torch.stack(ours), wanted, rtol=0, atol=1e-5)


def test_path_to_the_logits_leaves_everything_else_alone(model, base, source, metric):
    direct = circuits.path_patch(model, base, OtherRun(source), metric)
    through = circuits.path_patch(model, base, OtherRun(source), metric, through=("mlp",))
    assert direct.axes == ("layer", "head") and direct.values.shape == (3, 4, BATCH)
    with torch.no_grad():
        _, other = model.run_with_cache(source)
        _, here = model.run_with_cache(base)
    for layer, head in ((0, 2), (1, 3)):
        name = f"blocks.{layer}.attn.hook_z"
        W_O = model.blocks[layer].attn.W_O[head]
        change = (other[name] - here[name])[:, :, head] @ W_O

        def add(act, hook, change=change):
            return act + change

        def freeze(act, hook, layer=layer, change=change):
            frozen = here[hook.name.replace("attn.hook_out", "hook_attn_out")]
            return frozen + change if f"blocks.{layer}." in hook.name else frozen

        with torch.no_grad():
            last = model.run_with_hooks(base, fwd_hooks=[("ln_final.hook_in", add)])
            frozen = [(f"blocks.{i}.hook_attn_out", freeze) for i in range(3)]
            mlps = model.run_with_hooks(base, fwd_hooks=frozen)
        torch.testing.assert_close(direct.values[layer, head], metric(last), rtol=0, atol=1e-5)
        torch.testing.assert_close(through.values[layer, head], metric(mlps), rtol=0, atol=1e-5)
    assert (direct.values - through.values).abs().max() > 1e-4, "the MLPs matter"


def test_all_paths_of_the_last_writer_are_the_patch_itself(model, base, source, metric):
    path = circuits.path_patch(
        model, base, OtherRun(source), metric, senders=["MLP2", "L1H0", "L0H3"]
    )
    sweep = patching.patch_sweep(
        model, base, OtherRun(source), metric, site="mlp_out", over=("layer",)
    )
    torch.testing.assert_close(path.values[0], sweep.values[2], rtol=0, atol=1e-5)
    late = circuits.path_patch(
        model,
        base,
        OtherRun(source),
        metric,
        senders=["L1H0", "embed"],
        receivers=["L1H2.v", "MLP0"],
    )
    assert torch.equal(late.values[0], late.base), "a later head cannot reach them"
    assert late.effect()[1].abs() > 1e-5


# --- attribution


SITES = [site for site in patching.SITES if site != "result"]


def test_attribution_is_the_slope_of_patching(model, base, source, metric):
    """Patching a hundredth of the way, times a hundred, is what the gradient says."""

    class Step:
        def values(self, here, run):
            other = run(source)
            return lambda site, layer: torch.lerp(
                here.get(site, layer), other.get(site, layer), 0.01
            )

    found = patching.attribution(model, base, OtherRun(source), metric, sites=SITES)
    for site in SITES:
        per_head = patching.SITES[site].per_head
        over = ("layer", "position", "head") if per_head else ("layer", "position")
        step = patching.patch_sweep(model, base, Step(), metric, site=site, over=over)
        slope, estimate = step.effect() * 100, found[site].effect(*over)
        assert torch.corrcoef(torch.stack([slope.flatten(), estimate.flatten()]))[0, 1] > 0.99, site
        assert abs(float(slope.norm() / estimate.norm()) - 1) < 0.05, site


def test_integrated_gradients_add_up_to_the_gap(model, base, source, metric):
    options = dict(sites=["resid_pre"])
    plain, integrated = (
        patching.attribution(model, base, OtherRun(source), metric, path=path, **options)
        for path in (At(0), Integrated(30))
    )
    totals = [x["resid_pre"].values[0].sum(dim=0) for x in (plain, integrated)]
    gap = plain["resid_pre"].target - plain["resid_pre"].base
    assert (totals[1] - gap).abs().max() < 0.01 * gap.abs().max()
    assert (totals[0] - gap).abs().max() > 0.05 * gap.abs().max(), "one gradient does not"


def test_slopes_are_those_of_a_plain_backward_pass(model, base, metric):
    places = [("z", 1), ("pattern", 0), ("mlp_post", 2), "blocks.1.ln2.hook_scale", ("q", 0)]
    found = patching.slopes(model, base, metric, places)
    assert list(found) == places
    kept = {}

    def keep(act, hook):
        act = act if act.requires_grad else act.requires_grad_()
        act.retain_grad()
        kept[hook.name] = act
        return act

    start = ("hook_embed", lambda act, hook: act.detach().clone().requires_grad_())
    names = [sites.hook_name(place) for place in places]
    with torch.enable_grad():
        logits = model.run_with_hooks(base, fwd_hooks=[start, *((name, keep) for name in names)])
        metric(logits).sum().backward()
    for place, name in zip(places, names, strict=True):
        act, slope = found[place]
        wanted = kept[model.hook_dict[name].name]
        assert not act.requires_grad and slope.abs().max() > 1e-6, place
        torch.testing.assert_close(act, sites.site_layout(place, wanted.detach()))
        torch.testing.assert_close(slope, sites.site_layout(place, wanted.grad))


def test_slopes_start_where_they_are_told(model, base, source, metric):
    stream = sites.read(model, source, [("resid_pre", 0)])["resid_pre", 0]
    places = [("resid_pre", 0), ("z", 1)]
    there = patching.slopes(model, source, metric, places)
    started = patching.slopes(model, base, metric, places, start=stream)
    here = patching.slopes(model, base, metric, places)
    for place in places:
        for mine, wanted, other in zip(started[place], there[place], here[place], strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)
            assert (mine - other).abs().max() > 1e-4
    with pytest.raises(NothingHappened, match="qkv.hook_out"):
        patching.slopes(model, base, metric, ["blocks.0.attn.qkv.hook_out"])
    with pytest.raises(ValueError, match="layer 7"):
        patching.slopes(model, base, metric, [("z", 7)])


@pytest.mark.parametrize("what", [Zero(), Mean, Resample], ids=["Zero", "Mean", "Resample"])
def test_gradient_methods_take_another_run_only(model, base, source, metric, what):
    what = what if isinstance(what, Zero) else what(source)
    for method in (patching.attribution, circuits.edge_attribution):
        with pytest.raises(ValueError, match=f"not {type(what).__name__}"):
            method(model, base, what, metric)


def test_attribution_refuses(model, base, source, metric):
    pair = model, base, OtherRun(source)
    with pytest.raises(KeyError, match="resid"):
        patching.attribution(*pair, metric, sites=["resid"])
    with pytest.raises(ValueError, match="no gradient"):
        patching.attribution(*pair, lambda x: x[:, -1].argmax(dim=-1).float(), sites=["z"])
    with pytest.raises(ValueError, match="same tokens"):
        patching.attribution(model, base, OtherRun(base), metric)
    with pytest.raises(ValueError, match="at least 1 step"):
        Integrated(0)
    found = patching.attribution(*pair, metric, sites=["mlp_out"])["mlp_out"]
    with pytest.raises(ValueError, match="head"):
        found.effect("head")


def test_edge_attribution_equals_transformer_lens(model, base, source, metric, graph):
    ours = circuits.edge_attribution(model, base, OtherRun(source), metric)
    theirs = torch.zeros_like(ours.values)
    config = tl.EdgeAttributionConfig(granularity="edge")
    model.requires_grad_(True)
    try:
        for row in range(BATCH):
            pair = source[row : row + 1], base[row : row + 1]
            result = tl.attribution_patch(model, *pair, one(metric, row), config)
            for (writer, reader), score in result.edge_scores.items():
                theirs[graph.edge(*edge_name(writer, reader))] += score / BATCH
    finally:
        model.requires_grad_(False)
    assert (theirs != 0).sum() == graph.valid.sum()
    torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-5)


def test_edges_of_a_node_add_up_to_its_attribution(model, base, source, metric, graph):
    for path in (At(0.3), Integrated(3)):
        scores = circuits.edge_attribution(model, base, OtherRun(source), metric, path=path)
        nodes = patching.attribution(
            model, base, OtherRun(source), metric, sites=["z", "mlp_out"], path=path
        )
        of_heads = nodes["z"].effect("layer", "head").flatten().tolist()
        totals = scores.nodes()
        assert [totals[str(head)] for head in graph.heads] == pytest.approx(of_heads, abs=1e-6)
        mlps = nodes["mlp_out"].effect("layer").tolist()
        assert [totals[f"MLP{layer}"] for layer in range(3)] == pytest.approx(mlps, abs=1e-6)


def test_edge_scores_predict_patching_single_edges(model, base, source, metric, graph):
    edges = random.Random(0).sample(Circuit(graph, graph.valid).edges(), 40)
    truth = torch.tensor(
        [
            circuits.path_patch(
                model,
                base,
                OtherRun(source),
                metric,
                senders=[writer],
                receivers=reader if reader == "logits" else [reader],
            ).effect()[0]
            for writer, reader in edges
        ]
    )
    scores = circuits.edge_attribution(model, base, OtherRun(source), metric)
    found = torch.tensor([scores.values[graph.edge(*edge)] for edge in edges])
    assert float((found - truth).norm() / truth.norm()) < 0.5
    shuffled = found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]
    assert float((shuffled - truth).norm() / truth.norm()) > 0.9


def test_integrated_edges_from_the_embeddings_add_up_to_the_gap(model, base, source, metric):
    setup = prepare(model, source, metric)
    gap = float((setup.values["metric"] - prepare(model, base, metric).values["metric"]).mean())
    found = [
        circuits.edge_attribution(model, base, OtherRun(source), metric, path=path).nodes()["embed"]
        for path in (At(0), Integrated(40))
    ]
    assert found[1] == pytest.approx(gap, rel=0.05) and found[0] != pytest.approx(gap, rel=0.2)


# --- circuits


def test_the_graph_of_gpt2_small():
    """32,491 edges between 158 nodes, as EAP-IG's own graph (hannamw/EAP-IG@795f5607)."""
    graph = EdgeGraph(12, 12)
    assert int(graph.valid.sum()) == 32_491 and len(graph.writers) + 1 == 158
    assert graph.edge("L3H4", "MLP3") == (graph.readers.index("MLP3"), graph.writers.index("L3H4"))
    for writer, reader in (("MLP3", "MLP3"), ("L3H4", "L3H5.q"), ("MLP11", "L11H0.v")):
        with pytest.raises(ValueError, match="no edge"):
            graph.edge(writer, reader)
    with pytest.raises(ValueError, match="'L12H0' is no writer"):
        graph.writer("L12H0")
    with pytest.raises(ValueError, match="'L0H0' is no reader"):
        graph.reader("L0H0")


def test_faithfulness_equals_transformer_lens(model, base, source, metric, graph):
    generator = torch.Generator().manual_seed(3)
    some = [
        Circuit(graph, graph.valid & (torch.rand(graph.valid.shape, generator=generator) < keep))
        for keep in (0.3, 0.8)
    ]
    ours = circuits.faithfulness(model, base, some, OtherRun(source), metric)
    for row in range(BATCH):
        pair = base[row : row + 1], source[row : row + 1]
        with tl._edge_hook_flags(model):
            cache = tl.cache_activation_and_gradient(
                model,
                pair[1],
                one(metric, row),
                names_filter=tl._edge_hook_names(3) + tl._attn_write_hook_names(3),
                compute_gradient=False,
            )
            edges = tl.enumerate_edges(model, cache)
        for index, circuit in enumerate(some):
            kept = [edge for edge in edges if circuit.kept[graph.edge(*edge_name(*edge))]]
            result = tl.faithfulness(model, *pair, one(metric, row), kept)
            gap = result.full_metric - result.corrupt_metric
            wanted = result.recovered * gap + result.corrupt_metric
            assert float(ours.circuit[index, row]) == pytest.approx(wanted, abs=1e-5)
    assert (ours.circuit[0] - ours.circuit[1]).abs().max() > 1e-3


@pytest.mark.parametrize("what", ["zero", "mean", "resample", "other"])
def test_the_curve_runs_from_nothing_to_the_model(model, base, source, metric, graph, what):
    strategy = {
        "zero": Zero(),
        "mean": Mean(source),
        "resample": Resample(source),
        "other": OtherRun(source),
    }[what]
    scores = circuits.edge_attribution(model, base, OtherRun(source), metric)
    sizes = [0, 20, int(graph.valid.sum())]
    curve = circuits.faithfulness(model, base, [scores.top(n) for n in sizes], strategy, metric)
    assert curve.n_edges == tuple(sizes)
    assert curve.normalised()[[0, 2]].tolist() == pytest.approx([0, 1], abs=1e-5)
    assert 1e-3 < abs(float(curve.normalised()[1])) and curve.difference()[2] < 1e-5
    if what == "other":
        with torch.no_grad():
            torch.testing.assert_close(curve.empty, metric(model(source)), rtol=0, atol=1e-5)


def drop_of(metric):
    """How much of a metric a circuit loses."""

    def distance(logits):
        full = metric(logits)
        return lambda circuit: full - metric(circuit)

    return distance


@pytest.mark.parametrize("distance", ["kl", "logit difference"])
def test_acdc_equals_the_plain_search(model, base, source, metric, graph, distance):
    far, threshold = {
        "kl": (circuits.kl_distance, 1e-5),
        "logit difference": (drop_of(metric), 1e-3),
    }[distance]
    found = circuits.acdc(
        model, base, OtherRun(source), metric, threshold, distance=far, first=None
    )
    wanted = plain_acdc(model, base, source, metric, far, threshold, graph)
    assert 3 < found.n_edges < int(graph.valid.sum()) - 3, "a threshold that prunes some"
    assert torch.equal(found.kept, wanted)


def test_acdc_resumes_and_knows_its_checkpoint(model, base, source, metric, tmp_path, monkeypatch):
    file = tmp_path / "search.safetensors"
    arguments = model, base, OtherRun(source), metric
    whole = circuits.acdc(*arguments, 1e-5, first=80)
    visits = []
    search = sys.modules["mi_helpers.circuits.acdc"]  # the package's own name is the function's
    plain = search._prune_reader

    def interrupted(*args):
        visits.append(args[2])
        if len(visits) == 11:
            raise KeyboardInterrupt
        plain(*args)

    monkeypatch.setattr(search, "_prune_reader", interrupted)
    with pytest.raises(KeyboardInterrupt):
        circuits.acdc(*arguments, 1e-5, first=80, checkpoint=file)
    resumed = circuits.acdc(*arguments, 1e-5, first=80, checkpoint=file)
    assert visits[11] == visits[10] and sorted(set(visits)) == list(range(visits[0] + 1))
    assert torch.equal(resumed.kept, whole.kept)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    with pytest.raises(ValueError, match="another search"):
        circuits.acdc(*arguments, 2e-5, first=80, checkpoint=file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="no checkpoint of a search"):
        circuits.acdc(*arguments, 1e-5, first=80, checkpoint=file)


def test_top_edges_and_circuits(model, base, source, metric, graph, tmp_path):
    scores = circuits.edge_attribution(model, base, OtherRun(source), metric, path=Integrated(5))
    circuit = scores.top(12).pruned()
    assert 0 < circuit.n_edges <= 12
    strongest = scores.ranked(12)
    assert set(circuit.edges()) <= {edge[:2] for edge in strongest}
    assert [abs(edge[2]) for edge in strongest] == sorted(
        (abs(edge[2]) for edge in strongest), reverse=True
    )
    circuit.save(tmp_path / "circuit.json")
    assert torch.equal(Circuit.load(tmp_path / "circuit.json").kept, circuit.kept)
    (tmp_path / "circuit.json").write_text('{"edges": []}')
    with pytest.raises(ValueError, match="no saved circuit"):
        Circuit.load(tmp_path / "circuit.json")
    with pytest.raises(ValueError, match="cannot keep 10000 edges"):
        scores.top(10_000)


def test_pruning_drops_what_leads_nowhere(graph):
    chain = [("embed", "L0H1.q"), ("L0H1", "MLP1"), ("MLP1", "logits")]
    loose = [("embed", "L0H2.k"), ("L1H0", "logits"), ("L0H3", "L1H1.v"), ("L1H1", "MLP1")]
    pruned = Circuit.of_edges(graph, chain + loose).pruned()
    assert sorted(pruned.edges()) == sorted(chain)
    assert pruned.nodes() == ["L0H1", "MLP1"]
    assert Circuit.of_edges(graph, loose).pruned().n_edges == 0
    heads = Circuit.of_nodes(graph, ["L0H1"])
    inputs = [("embed", f"L0H1.{x}") for x in "qkv"]
    assert sorted(heads.edges()) == sorted([*inputs, ("embed", "logits"), ("L0H1", "logits")])


def test_completeness_and_minimality_equal_ablations(model, base, source, metric, graph):
    nodes, what = ["L0H1", "L1H2", "L1H3"], Mean(source)
    outside = sorted({str(head) for head in graph.heads} - set(nodes))

    def left(gone):
        return float(patching.ablate(model, base, what, metric, [gone]).mean()[0])

    complete = circuits.completeness(
        model, base, nodes, what, metric, subsets={"none": [], "two": ["L0H1", "L1H3"]}
    )
    assert complete.first["none"] == pytest.approx(left(outside), abs=1e-6)
    assert complete.second["none"] == pytest.approx(left([]), abs=1e-6)
    assert complete.first["two"] == pytest.approx(left([*outside, "L0H1", "L1H3"]), abs=1e-6)
    assert complete.second["two"] == pytest.approx(left(["L0H1", "L1H3"]), abs=1e-6)
    minimal = circuits.minimality(
        model, base, nodes, what, metric, without={"L1H2": ["L1H3", "L1H2"]}
    )
    assert minimal.first["L1H2"] == pytest.approx(left([*outside, "L1H2", "L1H3"]), abs=1e-6)
    assert minimal.second["L1H2"] == pytest.approx(left([*outside, "L1H3"]), abs=1e-6)
    assert minimal.differences()["L0H1"] == pytest.approx(
        abs(left([*outside, "L0H1"]) - left(outside)), abs=1e-6
    )
    with pytest.raises(ValueError, match="not in the circuit"):
        circuits.completeness(model, base, nodes, what, metric, subsets={"x": ["L0H0"]})
    with pytest.raises(ValueError, match="among the model's nodes"):
        circuits.minimality(model, base, ["MLP0"], what, metric)


def test_circuits_refuse(model, base, source, metric, graph):
    pair = model, base, OtherRun(source), metric
    with pytest.raises(ValueError, match="threshold must be positive"):
        circuits.acdc(*pair, 0.0, first=None)
    with pytest.raises(ValueError, match="'L9H0.q' is no reader"):
        circuits.path_patch(*pair, receivers=["L9H0.q"])
    with pytest.raises(ValueError, match="logits alone"):
        circuits.path_patch(*pair, receivers=["L1H0.q", "logits"])
    with pytest.raises(ValueError, match="only|nothing else"):
        circuits.path_patch(*pair, through=("attn",))
    with pytest.raises(ValueError, match="position 7"):
        circuits.path_patch(*pair, positions=[7])
    with pytest.raises(ValueError, match="model's graph"):
        circuits.faithfulness(
            model, base, Circuit(EdgeGraph(1, 1), EdgeGraph(1, 1).valid), Zero(), metric
        )
    with pytest.raises(ValueError, match="earlier reader"):
        Circuit(graph, torch.ones_like(graph.valid))
    model.add_hook("blocks.0.hook_mlp_out", lambda act, hook: act * 2)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="reset_hooks"):
        circuits.faithfulness(model, base, Circuit(graph, graph.valid), Zero(), metric)
    with pytest.warns(UserWarning):
        assert Where() and patching.patch_sweep(*pair).values.isfinite().all()


def test_results_do_not_depend_on_the_memory(model, base, source, metric, graph, monkeypatch):
    arguments = model, base, OtherRun(source), metric
    some = [Circuit(graph, graph.valid), Circuit.of_nodes(graph, ["L0H1", "MLP1"])]

    def results():
        return (
            circuits.edge_attribution(*arguments).values,
            circuits.path_patch(*arguments, receivers=["L1H0.q", "L2H1.v"]).values,
            circuits.faithfulness(*arguments[:2], some, *arguments[2:]).circuit,
        )

    large = results()
    for name in ("scores", "runner", "paths"):
        monkeypatch.setattr(sys.modules[f"mi_helpers.circuits.{name}"], "MEMORY", 1)
    for before, after in zip(large, results(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("what", [Zero(), Mean, Resample])
def test_gradients_refuse_what_is_no_other_run(model, base, source, metric, what):
    given = what if isinstance(what, Zero) else what(source)
    name = type(given).__name__
    for estimate in (circuits.edge_attribution, patching.attribution):
        with pytest.raises(ValueError, match=name):
            estimate(model, base, given, metric)
    with pytest.raises(ValueError, match=name):
        circuits.acdc(model, base, given, metric, 0.1, first=10)


def test_heads_may_be_given_as_heads(model, base, source, metric, graph):
    head, path = Head(0, 1), (model, base, OtherRun(source), metric)
    by_head, by_name = (
        circuits.path_patch(*path, senders=[one], receivers=["L1H2.v"]).values
        for one in (head, "L0H1")
    )
    assert torch.equal(by_head, by_name)
    circuit = Circuit.of_edges(graph, [("embed", "L0H1.q"), (head, "MLP1"), ("MLP1", "logits")])
    assert circuit.heads() == [head] and circuit.nodes() == ["L0H1", "MLP1"]
    assert Circuit.of_nodes(graph, [head]).edges() == Circuit.of_nodes(graph, ["L0H1"]).edges()


def test_the_published_circuit():
    """Wang et al. 2022, Fig. 2: 26 heads in seven classes."""
    classes = circuits.published("gpt2")
    heads = [head for members in classes.values() for head in members]
    assert len(classes) == 7 and len(set(heads)) == len(heads) == 26
    assert Head(9, 9) in classes["name mover"] and Head(9, 9) not in classes["S-inhibition"]
    assert circuits.published("pocket") == {}
    with pytest.raises(ValueError, match="'greater than'.*ioi"):
        circuits.published("gpt2", "greater than")
