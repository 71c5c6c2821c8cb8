"""Our attribution graphs beside circuit-tracer's: the same nodes, values and direct effects."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_helpers import sae as S
from mi_helpers.sites import read

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import peers  # noqa: E402

LIMIT = 1e-4
PER_BLOCK = {
    "attn.": ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"),
    "mlp.": ("W_in", "b_in", "W_out", "b_out"),
}


def python_of_peer() -> Path:
    """circuit-tracer's interpreter; skips the test where it has none."""
    try:
        return peers.python_of("circuit-tracer")
    except peers.PeerError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def both(_pocket, tmp_path_factory):
    """Our graph and theirs, of one prompt with two logits."""
    python = python_of_peer()
    folder, top = tmp_path_factory.mktemp("circuit-tracer"), files("mi_data") / "transcoders"
    transcoders = [S.load(top / f"mlp_{i}") for i in range(_pocket.cfg.n_layers)]
    tokens = _pocket.to_tokens("John and Mary went to the shop. John gave the ball to")
    logits = [_pocket.to_single_token(word) for word in (" Mary", " John")]
    cfg, first = _pocket.cfg, transcoders[0]
    sizes = ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_mlp", "eps")
    shape = {name: getattr(cfg, name) for name in sizes}
    shape |= {"d_vocab": _pocket.W_U.shape[1], "d_sae": first.d_sae, "k": first.k}
    (folder / "in.json").write_text(json.dumps(shape), encoding="utf-8")
    parts = {"tokens": tokens[0], "logits": torch.tensor(logits)}
    parts |= {"embed.W_E": _pocket.W_E, "pos_embed.W_pos": _pocket.W_pos}
    parts |= {"unembed.W_U": _pocket.W_U, "unembed.b_U": _pocket.b_U}
    for layer, one in enumerate(transcoders):
        parts |= {f"blocks.{layer}.{room}{name}": getattr(_pocket, name)[layer]
                  for room, names in PER_BLOCK.items() for name in names}  # fmt: skip
        own = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")
        parts |= {f"transcoders.{layer}.{name}": getattr(one, name) for name in own}
    parts = {name: x.detach().contiguous().clone() for name, x in parts.items()}
    save_file(parts, folder / "in.safetensors")
    script = [str(python), str(HERE / "circuit_tracer_side.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = S.attribution_graph(_pocket, transcoders, tokens, logits=logits)
    return ours, load_file(folder / "out.safetensors")


def in_their_order(graph: S.AttributionGraph, theirs: dict[str, torch.Tensor]) -> list[int]:
    """Our node for each of their features, errors, tokens and logits; their first errors have none.

    The first token's MLP outputs are constants here and errors of zero there: -1.
    """
    at = {node[:4]: i for i, node in enumerate(graph.nodes)}
    n_layers = max(node.layer for node in graph.nodes if node.kind == "logit")
    n_pos = len(graph.tokens)
    out = [at["feature", layer, pos, unit] for layer, pos, unit in theirs["features"].tolist()]
    for layer in range(n_layers):
        out += [at.get(("error", layer, pos, -1), -1) for pos in range(n_pos)]
    return out + [i for i, n in enumerate(graph.nodes) if n.kind in ("token", "logit")]


@pytest.mark.slow
def test_the_nodes_are_theirs(both) -> None:
    ours, theirs = both
    found = {node[1:4] for node in ours.nodes if node.kind == "feature"}
    assert found == {tuple(row) for row in theirs["features"].tolist()} and len(found) > 300
    values = {node[1:4]: node.value for node in ours.nodes if node.kind == "feature"}
    mine = torch.tensor([values[tuple(row)] for row in theirs["features"].tolist()])
    assert (mine - theirs["values"]).abs().max() < LIMIT


@pytest.mark.slow
def test_the_direct_effects_are_theirs(both) -> None:
    """All but what the first token gives: there its MLPs' skips pass it on, here they are held."""
    ours, theirs = both
    order = torch.tensor(in_their_order(ours, theirs))
    there = order >= 0
    mine = ours.weights[order[there]][:, order[there]]
    hers = theirs["weights"][there][:, there]
    assert not theirs["weights"][:, ~there].any()
    first = torch.tensor([ours.nodes[i][:3] == ("token", -1, 0) for i in order[there].tolist()])
    assert first.sum() == 1
    assert (mine - hers)[:, ~first].abs().max() < LIMIT < (mine - hers)[:, first].abs().max()
    assert (hers[:, ~first].abs() > 100 * LIMIT).sum() > 10_000  # something was compared


@pytest.mark.slow
def test_load_clt_opens_our_cross_layer_transcoder(_pocket, tmp_path) -> None:
    """Its activations and what they write, to a rounding; its files have no linear map."""
    python, folder = python_of_peer(), files("mi_data") / "transcoders" / "joint" / "across"
    clt, cfg = S.load(folder), _pocket.cfg
    tokens = _pocket.to_tokens("John and Mary went to the shop. John gave the ball to")
    places = [("mlp_in", layer) for layer in range(cfg.n_layers)]
    x = torch.stack([one[0] for one in read(_pocket, tokens, places).values()]).contiguous()
    save_file({"x": x}, tmp_path / "in.safetensors")
    script = [str(python), str(HERE / "circuit_tracer_clt_side.py"), str(folder), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = load_file(tmp_path / "out.safetensors")
    found = clt.encode(torch.cat(list(x), dim=-1))
    apart = found.unflatten(-1, (cfg.n_layers, -1)).movedim(1, 0)
    assert apart.shape == theirs["features"].shape and (apart > 100 * LIMIT).sum() > 500
    assert (apart - theirs["features"]).abs().max() < LIMIT
    decoded = (found @ clt.W_dec + clt.b_dec).unflatten(-1, (cfg.n_layers, -1)).movedim(1, 0)
    assert (decoded - theirs["decoded"]).abs().max() < LIMIT < 0.01 * decoded.abs().max()
