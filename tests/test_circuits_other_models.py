"""Paths, edges and circuits of other architectures equal plain hooks, computed one at a time."""

from __future__ import annotations

import pytest
import torch
from other_models import PLAIN, save_other
from patching_fixtures import plain_acdc

from mi_helpers import circuits
from mi_helpers.circuits import Circuit, EdgeGraph
from mi_helpers.patching import At, Integrated, LogitDiff, Mean, OtherRun
from mi_helpers.sites import hook_name

N_POS, BATCH = 5, 2


@pytest.fixture(scope="module", params=PLAIN)
def other_model(request, tmp_path_factory):
    return loaded(tmp_path_factory, request.param)


def loaded(tmp_path_factory, kind):
    from mi_helpers.models import load_model

    folder = save_other(tmp_path_factory.mktemp("models") / kind, kind)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 451, (2, BATCH, N_POS), generator=generator)


@pytest.fixture(scope="module")
def metric():
    return LogitDiff(torch.tensor([[1, 2], [3, 4]]))


@pytest.fixture(scope="module")
def written(other_model, pair):
    """What each writer writes, by name, in either run of the pair."""
    with torch.no_grad():
        return [Hooks(other_model).writers(tokens) for tokens in pair]


class Hooks:
    """A model run with hooks only: what each part reads and writes."""

    def __init__(self, model):
        self.model, self.graph = model, EdgeGraph.of(model)

    def run(self, tokens, edits, reads):
        """What the hooks `reads` see, and the logits, with others replaced."""
        seen = {}

        def put(name):
            edit = edits[name]
            return lambda act, hook: edit(act) if callable(edit) else edit

        def keep(name):
            def hook_fn(act, hook):
                seen[name] = act

            return hook_fn

        hooks = [(name, put(name)) for name in edits] + [(name, keep(name)) for name in reads]
        logits = self.model.run_with_hooks(tokens, fwd_hooks=hooks)
        return [*(seen[name] for name in reads), logits]

    def stream(self, tokens, edits, reader):
        """What a reader reads in a run."""
        return self.run(tokens, edits, [self.into(reader)])[0]

    def into(self, reader):
        """The hook on a reader's input; where inputs share one stream, what is read says which."""
        if reader.kind == "logits":
            return "ln_final.hook_in"
        if reader.kind == "mlp":
            return f"blocks.{reader.layer}.ln2.hook_in"
        return hook_name("resid_pre", reader.layer)

    def computed(self, tokens, reader, stream):
        """What a head's input or an MLP computes from a stream, and from where it is read."""
        name = hook_name("mlp_out" if reader.kind == "mlp" else reader.kind, reader.layer)
        return name, self.run(tokens, {self.into(reader): stream}, [name])[0]

    def patched(self, tokens, edits, metric, streams):
        """The metric with several readers seeing other streams; `edits` hold in both passes."""
        new = dict(edits)
        for reader, stream in streams.items():
            if reader.kind == "logits":
                new[self.into(reader)] = stream
                continue
            name, value = self.computed(tokens, reader, stream)
            if reader.kind == "mlp":
                new[name] = value
                continue
            new[name] = one_head(reader.head, value, new.get(name))
        return metric(self.run(tokens, new, [])[-1])

    def heads(self, tokens, layer, z):
        """What each head writes: the layer's output with the other heads' z at zero."""
        z_hook, out = hook_name("z", layer), hook_name("attn_out", layer)
        nothing = self.run(tokens, {z_hook: torch.zeros_like(z)}, [out])[0]
        written = []
        for head in range(z.shape[2]):
            alone = torch.zeros_like(z)
            alone[:, :, head] = z[:, :, head]
            written.append(self.run(tokens, {z_hook: alone}, [out])[0] - nothing)
        return written

    def writers(self, tokens, edits=None):
        """What each writer writes in a run, by name."""
        edits = edits or {}
        written = {"embed": self.run(tokens, edits, [hook_name("resid_pre", 0)])[0]}
        for layer in range(self.graph.n_layers):
            names = [hook_name("z", layer), hook_name("mlp_out", layer)]
            z, mlp_out, _ = self.run(tokens, edits, names)
            for head, out in enumerate(self.heads(tokens, layer, z)):
                written[f"L{layer}H{head}"] = out
            written[f"MLP{layer}"] = mlp_out
        return written

    def circuit(self, base, source, other, circuit, metric):
        """The metric of a circuit: every reader sees the other run, and kept writers live."""
        kept = circuit.edges()
        now = {"embed": self.run(base, {}, [hook_name("resid_pre", 0)])[0]}

        def stream(name):
            total = self.stream(source, {}, self.graph.reader(name)).clone()
            for writer, reader in kept:
                if reader == name:
                    total += now[writer] - other[writer]
            return total

        for layer in range(self.graph.n_layers):
            values = {}
            for name in self.graph.readers:
                reader = self.graph.reader(name)
                if reader.layer == layer and reader.kind in "qkv":
                    hook, value = self.computed(base, reader, stream(name))
                    values.setdefault(hook, []).append(value[:, :, reader.head])
            values = {hook: torch.stack(parts, dim=2) for hook, parts in values.items()}
            z = self.run(base, values, [hook_name("z", layer)])[0]
            now |= {f"L{layer}H{h}": out for h, out in enumerate(self.heads(base, layer, z))}
            mlp = self.graph.reader(f"MLP{layer}")
            now[f"MLP{layer}"] = self.computed(base, mlp, stream(f"MLP{layer}"))[1]
        return metric(self.run(base, {"ln_final.hook_in": stream("logits")}, [])[-1])


def one_head(head, value, before=None):
    """An edit that puts in one head's value, after the edit `before`; the others respond."""

    def edit(act):
        act = act if before is None else before(act)
        of_head = torch.arange(act.shape[2]) == head
        return torch.where(of_head[:, None], value, act)

    return edit


def close(got, wanted):
    """Equal to 1e-5 of the largest value."""
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * scale)


def test_the_graph_has_the_inputs_that_the_model_has(other_model):
    graph, cfg = EdgeGraph.of(other_model), other_model.cfg
    n_shared = cfg.n_key_value_heads or cfg.n_heads
    assert graph.input_sizes == (4, n_shared, n_shared)
    assert len(graph.readers) == 3 * (4 + 2 * n_shared + 1) + 1
    assert len(set(graph.readers)) == len(graph.readers)
    group = 4 // n_shared
    for head in graph.heads:
        for kind in "kv":
            name = graph.input_of(head, kind)
            assert graph.reader(name).head == head.head // group
            assert ("KV" in name) == (n_shared < 4)
            fed = graph.feeds[graph.readers.index(name)]
            assert int(fed.sum()) == group and fed[graph.writers.index(str(head))]
            assert str(head) in graph.fed_by(name) and len(graph.fed_by(name)) == group
    assert graph.valid[graph.edge("L0H1", "L1H3.q")]
    assert graph.fed_by("MLP1") == ["MLP1"] and graph.fed_by("logits") == ["logits"]
    if cfg.parallel_attn_mlp:
        with pytest.raises(ValueError, match="no edge L1H0 -> MLP1"):
            graph.edge("L1H0", "MLP1")
    else:
        graph.edge("L1H0", "MLP1")
    if n_shared < 4:
        with pytest.raises(ValueError, match=r"'L1H3.k' is no reader.*L0KV0.k or .v to"):
            graph.reader("L1H3.k")


@torch.no_grad()
def test_paths_equal_plain_hooks(other_model, pair, written, metric):
    (base, source), (here, there) = pair, written
    hooks, graph = Hooks(other_model), EdgeGraph.of(other_model)
    last = graph.n_layers - 1
    receivers = [
        ["logits"],
        [f"L{last}H3.q"],
        [graph.input_of((1, 3), "k")],
        [graph.input_of((last, 2), "v"), "MLP1"],
    ]
    for names in receivers:
        readers = [graph.reader(name) for name in names]
        for sender in ("embed", "L0H1", "MLP0", "L1H2"):
            change = there[sender] - here[sender]
            streams = {
                reader: hooks.stream(base, {}, reader) + change
                for name, reader in zip(names, readers, strict=True)
                if graph.valid[graph.readers.index(name), graph.writers.index(sender)]
            }
            wanted = hooks.patched(base, {}, metric, streams)
            found = circuits.path_patch(
                other_model, base, OtherRun(source), metric, senders=[sender], receivers=names
            )
            close(found.values[0], wanted)
            if streams:
                assert (wanted - found.base).abs().max() > 1e-4


@torch.no_grad()
def test_paths_through_mlps_equal_plain_hooks(other_model, pair, written, metric):
    (base, source), (here, there) = pair, written
    hooks = Hooks(other_model)
    found = circuits.path_patch(other_model, base, OtherRun(source), metric, through=("mlp",))
    change = there["L0H1"] - here["L0H1"]
    out = [hook_name("attn_out", layer) for layer in range(3)]
    frozen = dict(zip(out, hooks.run(base, {}, out)[:-1], strict=True))
    frozen[out[0]] = frozen[out[0]] + change
    close(found.values[0, 1], metric(hooks.run(base, frozen, [])[-1]))
    direct = circuits.path_patch(other_model, base, OtherRun(source), metric)
    assert (found.values[0, 1] - direct.values[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("path", [At(0), Integrated(2)], ids=["EAP", "EAP-IG"])
def test_edge_scores_are_slopes_of_paths(other_model, pair, written, metric, path):
    (base, source), (here, there) = pair, written
    hooks, graph = Hooks(other_model), EdgeGraph.of(other_model)
    found = circuits.edge_attribution(other_model, base, OtherRun(source), metric, path=path)
    change = torch.stack([there[name] - here[name] for name in graph.writers])
    wanted = torch.zeros_like(found.values)
    for point in path.points():
        start = {hook_name("resid_pre", 0): torch.lerp(here["embed"], there["embed"], point)}
        readers = [graph.reader(name) for name in graph.readers]
        streams = list(dict.fromkeys(map(hooks.into, readers)))
        with torch.no_grad():
            read = dict(zip(streams, hooks.run(base, start, streams)[:-1], strict=True))
        for place, reader in enumerate(readers):
            stream = read[hooks.into(reader)]
            wanted[place] += edge_slopes(hooks, base, start, metric, reader, stream, change)
    wanted = wanted.masked_fill(~graph.valid, 0.0) / len(path.points()) / BATCH
    close(found.values, wanted)
    assert (wanted[graph.valid].abs() > 1e-6).float().mean() > 0.9


def edge_slopes(hooks, base, start, metric, reader, stream, change):
    """The slope of the metric in what one reader reads, along each writer's change."""
    stream = stream.clone().requires_grad_()
    with torch.enable_grad():
        total = hooks.patched(base, start, metric, {reader: stream}).sum()
        return (change * torch.autograd.grad(total, stream)[0]).flatten(1).sum(dim=1)


@torch.no_grad()
def test_circuits_equal_plain_hooks(other_model, pair, written, metric):
    base, source = pair
    graph, generator = EdgeGraph.of(other_model), torch.Generator().manual_seed(3)
    some = [
        Circuit(graph, graph.valid & (torch.rand(graph.valid.shape, generator=generator) < keep))
        for keep in (0.3, 0.8)
    ]
    found = circuits.faithfulness(other_model, base, some, OtherRun(source), metric)
    for circuit, values in zip(some, found.circuit, strict=True):
        close(values, Hooks(other_model).circuit(base, source, written[1], circuit, metric))
    assert (found.circuit[0] - found.circuit[1]).abs().max() > 1e-3
    close(found.full, metric(other_model(base)))
    close(found.empty, metric(other_model(source)))
    every = Circuit(graph, graph.valid)
    ablated = circuits.faithfulness(other_model, base, every, Mean(source), metric)
    close(ablated.circuit[0], ablated.full)
    assert (ablated.empty - found.empty).abs().max() > 1e-3


def test_acdc_equals_the_plain_search(other_model, pair, metric):
    base, source = pair
    found = circuits.acdc(other_model, base, OtherRun(source), metric, 1e-2, first=None)
    graph = EdgeGraph.of(other_model)
    wanted = plain_acdc(other_model, base, source, metric, circuits.kl_distance, 1e-2, graph)
    assert 3 < found.n_edges < int(graph.valid.sum()) - 3, "a threshold that prunes some"
    assert torch.equal(found.kept, wanted)


def test_circuits_of_shared_inputs_are_pruned_and_saved(tmp_path):
    graph = EdgeGraph(2, 4, n_shared=2)
    chain = [("embed", "L0KV0.k"), ("L0H1", "MLP1"), ("MLP1", "logits")]
    idle = [("embed", "L0KV1.v"), ("embed", "L0H0.q"), ("L0H3", "L1KV1.v")]
    circuit = Circuit.of_edges(graph, chain + idle)
    pruned = circuit.pruned()
    assert sorted(pruned.edges()) == sorted(chain), "a shared key stays while one head needs it"
    nodes = Circuit.of_nodes(graph, ["L0H1"]).edges()
    inputs = [("embed", name) for name in ("L0H1.q", "L0KV0.k", "L0KV0.v")]
    assert sorted(nodes) == sorted([*inputs, ("embed", "logits"), ("L0H1", "logits")])
    circuit.save(tmp_path / "circuit.json")
    again = Circuit.load(tmp_path / "circuit.json")
    assert again.graph == graph and torch.equal(again.kept, circuit.kept)


def test_what_does_not_write_as_it_is_is_refused_by_name(tmp_path_factory, pair, metric):
    model = loaded(tmp_path_factory, "gemma2")
    refused = pytest.raises(ValueError, match="this is Gemma2ForCausalLM")
    with refused:
        EdgeGraph.of(model)
    for call in (
        lambda: circuits.path_patch(model, pair[0], OtherRun(pair[1]), metric),
        lambda: circuits.edge_attribution(model, pair[0], OtherRun(pair[1]), metric),
        lambda: circuits.acdc(model, pair[0], OtherRun(pair[1]), metric, 0.1),
        lambda: circuits.faithfulness(model, pair[0], [], OtherRun(pair[1]), metric),
    ):
        with refused:
            call()
