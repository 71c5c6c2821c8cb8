"""Cross-layer transcoders: taken apart, run in place of MLPs, in graphs, in files."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_attribution_graph import random_transcoders, require_exact, some_tokens

from mi_helpers import sae as S
from mi_helpers.sae import cross_layer
from mi_helpers.sae.core import SIDE_BY_SIDE
from mi_helpers.sites import read


def joined(parts: list[S.Sae], across: float = 0.5) -> S.Sae:
    """One dictionary of all layers' transcoders, whose units also write to later layers."""
    d, d_sae = parts[0].d_in, parts[0].d_sae
    generator = torch.Generator().manual_seed(9)
    rows = []
    for i, one in enumerate(parts):
        later = torch.randn(d_sae, (len(parts) - i - 1) * d, generator=generator)
        rows.append(torch.cat([torch.zeros(d_sae, i * d), one.W_dec, across * later / d**0.5], 1))
    threshold = [one.threshold for one in parts if one.threshold is not None]
    return S.Sae(
        parts[0].kind,
        W_enc=torch.block_diag(*(one.W_enc for one in parts)),
        b_enc=torch.cat([one.b_enc for one in parts]),
        W_dec=torch.cat(rows),
        b_dec=torch.cat([one.b_dec for one in parts]),
        threshold=torch.cat(threshold) if threshold else None,
        hook=SIDE_BY_SIDE.join(one.hook for one in parts),
        target=SIDE_BY_SIDE.join(one.target for one in parts),
        model_id=parts[0].model_id,
        subtract_b_dec=False,
        W_skip=torch.block_diag(*(torch.zeros(d, d) if one.W_skip is None else one.W_skip
                                  for one in parts)),
        widths=(d,) * len(parts),
        notes={"recipe": {"d_sae": d_sae}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(_tiny_model):
    parts = random_transcoders(_tiny_model, "jumprelu")
    tokens = some_tokens()[:1, :10]
    return _tiny_model, joined(parts), parts, tokens


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_its_graph_is_exact_and_so_are_removals(kind: str, tiny_model) -> None:
    clt, tokens = joined(random_transcoders(tiny_model, kind)), some_tokens()[:1, :10]
    graph = S.attribution_graph(tiny_model, [clt], tokens)
    require_exact(tiny_model, [clt], tokens, graph)


def test_units_that_write_at_home_alone_are_a_transcoder_for_each_layer(tiny) -> None:
    model, _, parts, tokens = tiny
    home = joined(parts, across=0.0)
    one, other = (S.attribution_graph(model, some, tokens) for some in ([home], parts))
    assert one.nodes == other.nodes
    torch.testing.assert_close(one.weights, other.weights)
    with torch.no_grad():
        with S.splice_all(model, [home]):
            logits = model(tokens)
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(S.splice(model, part))
            torch.testing.assert_close(model(tokens), logits)


@torch.no_grad()
def test_replaced_mlps_write_what_units_of_all_layers_up_to_them_do(tiny) -> None:
    model, clt, _, tokens = tiny
    places = [(site, i) for site in ("mlp_in", "mlp_out") for i in range(model.cfg.n_layers)]
    with S.splice_all(model, [clt]) as fired:
        seen = read(model, tokens, places)
    n = model.cfg.n_layers
    side = [torch.cat([seen[place] for place in part], -1) for part in (places[:n], places[n:])]
    torch.testing.assert_close(clt(side[0])[:, 1:], side[1][:, 1:])
    assert len(fired.by_hook) == 2 * n
    plain = read(model, tokens, places)
    torch.testing.assert_close(seen["mlp_out", 0][:, 0], plain["mlp_out", 0][:, 0])


@torch.no_grad()
def test_a_feature_that_is_set_writes_to_later_layers_too(tiny) -> None:
    model, clt, parts, tokens = tiny
    home, d = joined(parts, across=0.0), model.cfg.d_model
    node = S.Node("feature", 0, 4, 7, 0.0)
    seen = {}
    for name, one in (("across", clt), ("home", home)):
        with S.set_features(model, [one], {node: 3.0}):
            seen[name] = read(model, tokens, [("mlp_in", 0), ("mlp_in", 1), ("mlp_out", 1)])
    torch.testing.assert_close(seen["across"]["mlp_in", 1], seen["home"]["mlp_in", 1])
    x = seen["home"]["mlp_in", 0]
    step = 3.0 - parts[0].encode(x)[0, 4, 7]
    gained = (seen["across"]["mlp_out", 1] - seen["home"]["mlp_out", 1])[0]
    torch.testing.assert_close(gained[4], step * clt.W_dec[7, d : 2 * d], atol=1e-5, rtol=1e-4)
    assert step.abs() > 0.1 and not gained[torch.arange(10) != 4].any()


def test_training_gives_one_with_a_map_of_each_place_to_its_target(tiny_model) -> None:
    n, d = tiny_model.cfg.n_layers, tiny_model.cfg.d_model
    reads, writes = ([(site, i) for i in range(n)] for site in ("mlp_in", "mlp_out"))
    stream = S.Activations(tiny_model, reads, some_tokens(), target=writes)
    recipe = S.Recipe("batchtopk", d_sae=16 * n, k=4, steps=8, batch=64, causal=True, skip=True)
    clt = S.train(S.start(stream, recipe), progress=False).sae()
    own, earlier = cross_layer.by_layer([clt])
    assert [one.hook for one in own] == stream.hook.split(SIDE_BY_SIDE)
    assert all(one.W_skip.any() and one.W_dec.any() for one in own) and earlier[1][0].any()
    assert not clt.W_skip[:d, d:].any() and not clt.W_skip[d:, :d].any()
    S.attribution_graph(tiny_model, [clt], some_tokens()[:1])


@pytest.mark.parametrize("half", [False, True])
def test_files_are_circuit_tracers_and_come_back(tiny, half: bool, tmp_path) -> None:
    _, clt, _, _ = tiny
    S.save(clt, tmp_path, half=half)
    again = S.load(tmp_path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"):
        mine, back = getattr(clt, name), getattr(again, name)
        torch.testing.assert_close(back, mine, atol=2e-3 if half else 0, rtol=1e-3 if half else 0)
    for name in ("kind", "hook", "target", "widths", "model_id", "subtract_b_dec", "notes"):
        assert getattr(again, name) == getattr(clt, name)
    n, d = len(clt.widths), clt.widths[0]
    decoder = load_file(tmp_path / "W_dec_0.safetensors")["W_dec_0"]
    assert decoder.shape == (clt.d_sae // n, n, d)
    assert decoder.dtype == (torch.float16 if half else torch.float32)
    first = load_file(tmp_path / "W_enc_0.safetensors")
    assert set(first) == {f"{name}_0" for name in ("W_enc", "b_enc", "b_dec", "threshold")}
    assert first["W_enc_0"].shape == (clt.d_sae // n, d)


def test_what_is_no_cross_layer_transcoder_is_refused(tiny, tmp_path) -> None:
    model, clt, parts, tokens = tiny
    d = model.cfg.d_model
    ahead, mixed, skips = clt.W_dec.clone(), clt.W_enc.clone(), clt.W_skip.clone()
    ahead[-1, :d], mixed[-1, 0], skips[0, -1] = 1.0, 1.0, 1.0
    names = clt.hook.split(SIDE_BY_SIDE)
    for wrong, said in (
        ([clt, parts[0]], "give it alone"),
        ([replace(clt, kind="topk", threshold=None, k=4)], "compete across layers"),
        ([replace(clt, W_dec=ahead)], "write to earlier"),
        ([replace(clt, W_enc=mixed)], "read other layers"),
        ([replace(clt, W_skip=skips)], "read other layers"),
        ([replace(clt, hook=names[0])], "does not read one place"),
        ([replace(clt, hook=SIDE_BY_SIDE.join(names[::-1]))], "must read"),
    ):
        with pytest.raises(ValueError, match=said):
            S.attribution_graph(model, wrong, tokens)
    S.save(clt, tmp_path)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        S.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match="fetch it again"):
        S.load(tmp_path)


def test_the_committed_card_tells_what_the_files_hold() -> None:
    from mi_data.transcoders import train_joint as T

    folder = Path(str(files("mi_data") / "transcoders" / "joint"))
    rows = json.loads((folder / "measured.json").read_text())
    assert (folder / "README.md").read_text() == T.page(rows, T.ACROSS, 6)
    assert {row["which"] for row in rows} == {*T.RECIPES, T.SEPARATE, T.LINEAR}
    sums = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert len(sums) == 14 + 12
    for digest, name in sums:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    assert S.Recipe(**S.load(folder / "across").notes["recipe"]) == T.ACROSS
    assert S.load(folder / "home" / "mlp_5").family == "transcoder"


def test_training_publishes_and_goes_on(tiny_model, tmp_path) -> None:
    from mi_data.transcoders import train_joint as T

    n = tiny_model.cfg.n_layers
    recipe = S.Recipe("batchtopk", d_sae=16 * n, k=4, steps=8, batch=64, causal=True, skip=True)
    recipes = {"across": recipe, "home": replace(recipe, reach=0)}
    separate = random_transcoders(tiny_model)
    given = (tiny_model, some_tokens(), some_tokens(8), tmp_path / "out", tmp_path / "work")
    T.train_all(*given, separate, recipes, seeds=2)
    path = tmp_path / "out" / "measured.json"
    rows = json.loads(path.read_text())
    assert [(row["which"], row["seed"]) for row in rows] == [
        ("across", 0), ("across", 1), ("home", 0), ("home", 1), ("separate", None),
        ("linear", None),
    ]  # fmt: skip
    assert rows[-1]["active"] == [0.0] * n and len(rows[0]["explained"]) == n
    linear, untrained = rows[-1]["explained"], rows[-2]["explained"]
    assert min(linear) > 0 > max(untrained)
    before = (tmp_path / "out" / "across" / "W_dec_0.safetensors").read_bytes()
    path.write_text(json.dumps(rows[1:]))
    T.train_all(*given, separate, recipes, seeds=2)
    assert json.loads(path.read_text()) == rows, "a run that goes on ends the same"
    assert (tmp_path / "out" / "across" / "W_dec_0.safetensors").read_bytes() == before
