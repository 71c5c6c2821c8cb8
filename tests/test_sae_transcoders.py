"""Dictionaries that write elsewhere than they read, or at several places."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_helpers import sae as S
from mi_helpers.interventions import intervene
from mi_helpers.sae import step
from mi_helpers.sites import read

READS, WRITES = ("mlp_in", 1), ("mlp_out", 1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(count: int = 2000, d_in: int = 10, d_out: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of sparse features, and what a known linear map and known features make of them."""
    generator = torch.Generator().manual_seed(5)
    directions = torch.nn.functional.normalize(random(24, d_in, seed=1), dim=-1)
    code = (torch.rand(count, 24, generator=generator) < 0.08) * (
        0.5 + torch.rand(count, 24, generator=generator)
    )
    x = 3 * code @ directions + 2 + 0.1 * random(count, d_in, seed=4)
    return x, 0.2 * (code @ random(24, d_out, seed=2) + x @ random(d_in, d_out, seed=3) - 1)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 100, (6, 16), generator=torch.Generator().manual_seed(0))


def a_transcoder(tiny_model, tokens, **recipe) -> S.Sae:
    stream = S.Activations(tiny_model, READS, tokens, target=WRITES)
    given = {"d_sae": 64, "k": 8, "steps": 20, "batch": 64, **recipe}
    return S.train(S.start(stream, S.Recipe("topk", **given)), progress=False).sae()


@pytest.mark.parametrize("kind", S.ARCHITECTURES)
@pytest.mark.parametrize("skip", [False, True])
def test_sparse_and_dense_gradients_agree_with_another_target(kind: str, skip: bool) -> None:
    x, y = pairs(200)
    by_source = kind == "relu"
    recipe = S.Recipe(kind, d_sae=48, k=3, l1=0.7, l0=0.5, by_source=by_source, skip=skip)
    p = {"W_enc": random(10, 48), "b_enc": -2 + 0.3 * random(48, seed=1), "b_in": x.mean(0),
         "W_dec": random(48, 7, seed=2), "b_dec": random(7, seed=3)}  # fmt: skip
    if kind == "jumprelu":
        p["log_threshold"] = 0.3 * random(48, seed=6)
    if kind == "gated":
        p |= {"b_gate": -2 + 0.3 * random(48, seed=8), "r_mag": 0.3 * random(48, seed=9)}
        p["b_enc"] = p["b_enc"] + 2
    if skip:
        p["W_skip"] = random(10, 7, seed=7)
    p = {name: value.requires_grad_() for name, value in p.items()}
    dead, found = torch.arange(48) < 6, {}
    for dense in (False, True):
        loss = step.batch_loss(
            p, x, recipe, 0.6, dead, target=y, widths=(3, 4), dense=dense
        )  # fmt: skip
        found[dense] = (loss.total, *torch.autograd.grad(loss.total, list(p.values())))
    for name, mine, plain in zip(["loss", *p], found[False], found[True], strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-4, rtol=1e-4, msg=name)
        assert plain.abs().max() > 1e-3, name


def test_the_loss_is_what_the_equations_say() -> None:
    """Two units, by hand: what is read, the skip, the target and the penalty by source."""
    p = {"W_enc": torch.eye(2), "b_enc": torch.zeros(2), "b_in": torch.tensor([1.0, 0]),
         "W_dec": torch.tensor([[0.6, 0.8], [1.0, 0]]), "b_dec": torch.tensor([0.0, 5]),
         "W_skip": torch.tensor([[0.0, 0], [0, 3]])}  # fmt: skip
    x, y = torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 9.0]])
    # f = (2, 1); units write (2.2, 1.6); skip (0, 3); bias (0, 5): y_hat = (2.2, 9.6)
    recipe = S.Recipe("relu", d_sae=2, l1=0.5, by_source=True, skip=True)
    dead = torch.zeros(2, dtype=torch.bool)
    for dense in (False, True):
        loss = step.batch_loss(p, x, recipe, 1.0, dead, target=y, widths=(1, 1), dense=dense)
        assert float(loss.error) == pytest.approx(0.2**2 + 0.6**2, rel=1e-5)
        paid = 0.5 * (2 * (0.6 + 0.8) + 1 * 1.0)
        assert float(loss.total) == pytest.approx(0.4 + paid, rel=1e-5)


def test_a_linear_target_is_the_skips_from_the_start() -> None:
    x, _ = pairs()
    y = x @ random(10, 7, seed=8) - 4
    run = S.start(S.Vectors(x, y), S.Recipe("topk", d_sae=16, k=2, skip=True))
    bare = replace(run.sae(), W_dec=torch.zeros(16, 7))
    assert S.fidelity(bare, x, y).explained_variance > 0.999
    assert (bare.W_skip - random(10, 7, seed=8)).abs().max() < 0.02


@pytest.mark.parametrize("skip", [False, True])
def test_training_learns_the_target_and_resumes_exactly(skip: bool, tmp_path) -> None:
    x, y = pairs()
    recipe = S.Recipe("topk", d_sae=64, k=4, steps=300, batch=256, lr=5e-3, skip=skip)
    whole = S.train(S.start(S.Vectors(x, y), recipe), progress=False)
    path = tmp_path / "run.safetensors"
    S.train(S.start(S.Vectors(x, y), recipe), 130, progress=False).save(path)
    again = S.train(S.resume(path, S.Vectors(x, y)), progress=False)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", *["W_skip"] * skip):
        assert torch.equal(getattr(again.sae(), name), getattr(whole.sae(), name)), name
    sae = whole.sae()
    assert sae.family == "transcoder" and (sae.W_skip is not None) == skip
    assert S.fidelity(sae, x, y).explained_variance > (0.95 if skip else 0.8)
    shuffled = S.fidelity(sae, x, y.roll(1, 0)).explained_variance
    assert shuffled < 0.5
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(64))
    with pytest.raises(ValueError, match="other activations"):
        S.resume(path, S.Vectors(x, 2 * y))


@pytest.mark.parametrize("kind", S.ARCHITECTURES)
def test_what_is_finished_computes_what_was_trained(kind: str) -> None:
    """Scales and biases are folded: in the unit of the stream, the same up to rounding."""
    x, y = pairs()
    recipe = S.Recipe(
        kind, d_sae=32, k=3, steps=40, batch=128, lr=3e-3, l1=0.05, l0=0.05, skip=True
    )
    run = S.train(S.start(S.Vectors(x, 100 * y), recipe), progress=False)
    sae, (inner, outer) = run.sae(), run.scales
    if kind == "batchtopk":
        recipe = replace(recipe, kind="jumprelu")
        run.p["log_threshold"] = torch.full((32,), run.cut).log()
    p = {name: value.detach() for name, value in run.p.items()}
    out = step._act(p, x * inner, recipe, None, None).f @ p["W_dec"] + p["b_dec"]
    out = (out + (x * inner - p["b_in"]) @ p["W_skip"]) / outer
    torch.testing.assert_close(sae(x), out, atol=2e-3, rtol=1e-3)
    assert sae.without_units(x).shape == y.shape


def test_a_crosscoder_scales_each_place_by_itself() -> None:
    x, y = pairs()
    values = torch.cat([x, 50 * y], dim=1)
    stream = S.Vectors(values, widths=(10, 7))
    recipe = S.Recipe("relu", d_sae=40, l1=0.05, steps=60, batch=256, lr=3e-3, by_source=True)
    run = S.train(S.start(stream, recipe), progress=False)
    for i, part in enumerate(values.split([10, 7], dim=1)):
        mean_square = (run.scales[i] * part).square().sum(-1).mean()
        assert float(mean_square) == pytest.approx(part.shape[1], rel=1e-4)
    sae, p = run.sae(), {name: value.detach() for name, value in run.p.items()}
    assert sae.family == "crosscoder" and sae.widths == (10, 7)
    f = step._act(p, values * run.scale, recipe, None, None).f
    out = (f @ p["W_dec"] + p["b_dec"]) / run.scale
    torch.testing.assert_close(sae(values), out, atol=1e-2, rtol=1e-3)
    want = torch.stack([part.norm(dim=-1) for part in p["W_dec"].split([10, 7], dim=1)])
    torch.testing.assert_close(sae.source_norms(), want, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="scale for each of 2 places"):
        replace(sae, notes={}).source_norms()
    assert S.fidelity(sae, values).explained_variance > 0.5


def test_a_penalty_by_source_makes_units_choose_a_place() -> None:
    """Features that two models share or not: recovered by decoder lengths."""
    generator = torch.Generator().manual_seed(3)
    code = (torch.rand(6000, 12, generator=generator) < 0.08) * 2.0
    places = [torch.nn.functional.normalize(random(12, 16, seed=i), dim=-1) for i in (1, 2)]
    places[0][8:10] = 0  # of the second alone
    places[1][10:12] = 0  # of the first alone
    values = torch.cat([code @ place for place in places], dim=1)
    recipe = S.Recipe(
        "relu", d_sae=12, l1=0.4, steps=600, batch=512, lr=1e-2, by_source=True, encoder_scale=1.0
    )
    sae = S.train(S.start(S.Vectors(values, widths=(16, 16)), recipe), progress=False).sae()
    norms = sae.source_norms()
    share = norms[0] / norms.sum(0)
    assert ((share < 0.1).sum(), (share > 0.9).sum()) == (2, 2)
    assert ((share - 0.5).abs() < 0.15).sum() == 8


def test_a_cross_layer_transcoder_sees_and_writes_no_earlier_layer(tiny_model, tokens) -> None:
    stream = S.Activations(
        tiny_model, [("mlp_in", 0), ("mlp_in", 1)], tokens, target=[("mlp_out", 0), ("mlp_out", 1)]
    )
    recipe = S.Recipe("topk", d_sae=32, k=6, steps=8, batch=64, causal=True)
    run = S.train(S.start(stream, recipe), progress=False)
    sae, d = run.sae(), tiny_model.cfg.d_model
    assert sae.family == "cross-layer transcoder" and sae.widths == (d, d)
    forbidden = (sae.W_enc[d:, :16], sae.W_enc[:d, 16:], sae.W_dec[16:, :d])
    assert all(not part.any() for part in forbidden)
    assert all(part.any() for part in (sae.W_enc[:d, :16], sae.W_dec[:16, d:], sae.W_dec[16:, d:]))
    assert run.log[-1]["l0"] > 0
    for wrong in (replace(recipe, d_sae=33, k=6), S.Recipe("topk", causal=True, d_sae=33)):
        with pytest.raises(ValueError, match="causal needs"):
            S.start(stream, wrong)


def test_a_reach_keeps_units_from_layers_far_above(tiny_model, tokens) -> None:
    n, d = tiny_model.cfg.n_layers, tiny_model.cfg.d_model
    reads, writes = ([(site, i) for i in range(n)] for site in ("mlp_in", "mlp_out"))
    stream = S.Activations(tiny_model, reads, tokens, target=writes)
    recipe = S.Recipe("batchtopk", d_sae=16 * n, k=6, steps=8, batch=64, causal=True, reach=0)
    rows = S.train(S.start(stream, recipe), progress=False).sae().W_dec.split(16)
    for i, own in enumerate(rows):
        assert all(part.any() == (i == j) for j, part in enumerate(own.split(d, dim=1)))
    for wrong in ({"causal": False}, {"reach": -1}):
        with pytest.raises(ValueError, match="reach is for causal units"):
            replace(recipe, **wrong)


def test_pairs_are_read_in_one_pass(tiny_model, tokens, monkeypatch) -> None:
    stream = S.Activations(tiny_model, READS, tokens, target=WRITES)
    calls = []
    plain = type(tiny_model).forward
    monkeypatch.setattr(
        type(tiny_model), "forward", lambda self, *a, **k: calls.append(1) or plain(self, *a, **k)
    )
    rows = stream.chunk(0)
    assert len(calls) <= 1, "one pass to compare the fused one with"
    found = read(tiny_model, tokens, [READS, WRITES])
    keep = ~S.stream.special_tokens(tiny_model, tokens)
    want = torch.cat([found[READS][keep], found[WRITES][keep]], dim=1)
    torch.testing.assert_close(rows, want, atol=1e-5, rtol=1e-4)
    d = tiny_model.cfg.d_model
    assert stream.widths == ((d,), (d,)) and stream.target == "blocks.1.hook_mlp_out"
    alone = S.Activations(tiny_model, READS, tokens)
    assert alone.target == "" and alone.identity != stream.identity


def test_two_models_stand_side_by_side(tiny_model, tokens) -> None:
    other = S.Activations(tiny_model, ("resid_post", 1), tokens, buffer=48)
    one = S.Activations(tiny_model, ("resid_post", 0), tokens, buffer=48)
    both = S.SideBySide([one, other])
    d = tiny_model.cfg.d_model
    assert both.widths == ((d, d), ())
    torch.testing.assert_close(both.chunk(1), torch.cat([one.chunk(1), other.chunk(1)], dim=1))
    assert both.widths == ((d, d), ()) and both._values[0] == 1, "asking reads nothing anew"
    sae = S.start(both, S.Recipe("topk", d_sae=16, k=2)).sae()
    assert sae.family == "crosscoder" and sae.hook == f"{one.hook} + {other.hook}"
    for wrong in (
        [one],
        [one, S.Activations(tiny_model, ("resid_post", 1), tokens, buffer=48, seed=1)],
        [one, S.Activations(tiny_model, ("resid_post", 1), tokens[:, :9], buffer=48)],
        [one, S.Activations(tiny_model, READS, tokens, target=WRITES, buffer=48)],
    ):
        with pytest.raises(ValueError, match=r"stream"):
            S.SideBySide(wrong)


def test_splicing_a_transcoder_replaces_what_lies_between(tiny_model, tokens) -> None:
    sae = a_transcoder(tiny_model, tokens, skip=True)
    clean, found = tiny_model(tokens), read(tiny_model, tokens, [READS, WRITES])
    guess = sae(found[READS])
    with S.splice(tiny_model, sae) as fired:
        spliced = tiny_model(tokens)
    assert fired.by_hook == {sae.hook: 1, sae.writes: 1}

    def by_hand(act: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return torch.where((where <= 0)[..., None], act, guess)

    with intervene(tiny_model, {WRITES: by_hand}):
        torch.testing.assert_close(spliced, tiny_model(tokens), atol=1e-4, rtol=1e-4)
    assert (spliced - clean).abs().max() > 1e-3
    with S.splice(tiny_model, sae, error=found[WRITES] - guess):
        torch.testing.assert_close(tiny_model(tokens), clean, atol=1e-4, rtol=1e-4)
    loud = replace(sae, W_dec=300 * sae.W_dec)  # else a loss hardly moves
    losses = S.splice_losses(tiny_model, loud, tokens)
    with S.splice(tiny_model, loud):
        logp = tiny_model(tokens)[:, :-1].log_softmax(-1)
    by_hand = -logp.gather(-1, tokens[:, 1:, None]).mean()
    assert losses.spliced == pytest.approx(float(by_hand), rel=1e-4)
    assert abs(losses.added) > 0.005


def test_units_of_a_transcoder_are_set_where_it_writes(tiny_model, tokens) -> None:
    sae = a_transcoder(tiny_model, tokens)
    acts = S.unit_activations(tiny_model, sae, tokens)
    unit = int(acts.sum((0, 1)).argmax())
    before = read(tiny_model, tokens, [WRITES])[WRITES]
    with S.set_units(tiny_model, sae, {unit: 0.0}):
        after = read(tiny_model, tokens, [WRITES])[WRITES]
    want = -acts[:, 1:, unit, None] * sae.W_dec[unit]
    torch.testing.assert_close((after - before)[:, 1:], want, atol=1e-4, rtol=1e-3)
    assert S.direct_logits(tiny_model, sae, [unit]).shape == (1, tiny_model.cfg.d_vocab)


def test_others_refuse_a_dictionary_that_they_do_not_understand(tiny_model, tokens) -> None:
    transcoder = a_transcoder(tiny_model, tokens)
    stream = S.Activations(tiny_model, [("resid_post", 0), ("resid_post", 1)], tokens)
    crosscoder = S.start(stream, S.Recipe("topk", d_sae=16, k=2)).sae()

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 0]

    for call in (
        lambda: S.attribute_to_units(tiny_model, transcoder, tokens, metric),
        lambda: S.restoration(
            tiny_model, "features", tokens, tokens.flip(0), metric, sae=transcoder
        ),
    ):
        with pytest.raises(ValueError, match="is a transcoder .*only an SAE can be used"):
            call()
    with pytest.raises(ValueError, match="is a crosscoder"), S.splice(tiny_model, crosscoder):
        pass
    with pytest.raises(ValueError, match="crosscoder"):
        S.direct_logits(tiny_model, crosscoder, [0])
    with pytest.raises(ValueError, match="targets"):
        S.fidelity(transcoder, random(9, tiny_model.cfg.d_model))
    with pytest.raises(ValueError, match="this transcoder reads activations of width"):
        transcoder(random(3, 5))


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_is_saved_as_saelens_has_it(kind: str, skip: bool, tmp_path) -> None:
    x, y = pairs()
    recipe = S.Recipe(kind, d_sae=32, k=3, steps=3, batch=128, skip=skip)
    sae = S.train(S.start(S.Vectors(x, y), recipe), progress=False).sae()
    sae = replace(sae, hook="blocks.3.ln2.hook_normalized", target="blocks.3.hook_mlp_out")
    again = S.load(S.save(sae, tmp_path / "one"))
    assert again.family == "transcoder" and (again.hook, again.target) == (sae.hook, sae.target)
    torch.testing.assert_close(again(x), sae(x))
    half = S.load(S.save(sae, tmp_path / "half", half=True))
    for part in ("W_enc", "W_dec", *["W_skip"] * skip):
        close = {"atol": 1e-3, "rtol": 1e-3}
        torch.testing.assert_close(getattr(half, part), getattr(sae, part), **close)
    sizes = [(tmp_path / n / "sae_weights.safetensors").stat().st_size for n in ("one", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    config = (tmp_path / "one" / "cfg.json").read_text()
    name = {"relu": "", "topk": "topk_", "jumprelu": "jumprelu_"}[kind]
    for said in (f'"{name}{"skip_" * skip}transcoder"', '"d_out": 7', '"hook_layer_out": 3'):
        assert said in config
    if skip:
        path = tmp_path / "one" / "cfg.json"
        path.write_text(config.replace("hook_name_out", "hook_nowhere"))
        with pytest.raises(ValueError, match="does not say where it writes"):
            S.load(tmp_path / "one")
    crosscoder = replace(sae, target="", W_skip=None, W_dec=random(32, 10), b_dec=random(10),
                         widths=(6, 4))  # fmt: skip
    with pytest.raises(ValueError, match="no format for a crosscoder"):
        S.save(crosscoder, tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subtract_b_dec": True}, "neither centred"),
        ({"normalize": "layer_norm"}, "neither centred"),
        ({"target": ""}, "an SAE would copy"),
        ({"W_skip": torch.zeros(7, 10)}, "W_skip has shape"),
        ({"widths": (3, 3)}, "do not add to 7"),
    ],
)
def test_an_impossible_transcoder_is_refused(change: dict, said: str) -> None:
    x, y = pairs()
    sae = S.start(S.Vectors(x, y), S.Recipe("topk", d_sae=16, k=2, skip=True)).sae()
    with pytest.raises(ValueError, match=said):
        replace(sae, **change)


def test_recipes_that_ask_for_a_target_or_places_are_refused_without() -> None:
    x, y = pairs(50)
    for recipe, said in (
        (S.Recipe("topk", skip=True), "skip is for a transcoder"),
        (S.Recipe("topk", causal=True), "causal is for a transcoder"),
        (S.Recipe("relu", by_source=True), "only one"),
    ):
        with pytest.raises(ValueError, match=said):
            S.start(S.Vectors(x), recipe)
    with pytest.raises(ValueError, match="by_source is a penalty"):
        S.Recipe("topk", by_source=True)
    with pytest.raises(ValueError, match="one for each of 50"):
        S.Vectors(x, y[:9])
    with pytest.raises(ValueError, match="do not add to 10"):
        S.Vectors(x, widths=(3, 3))
