"""Sparse autoencoders: conventions, training, files, judging."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mi_helpers import sae as S
from mi_helpers.sae import step as steps
from mi_helpers.sae import stream as streams
from mi_helpers.sae.core import activate
from mi_helpers.sae.splice import SpliceLosses

HOOK = "blocks.1.hook_resid_post"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def an_sae(kind: str = "relu", d_in: int = 6, d_sae: int = 20, **more) -> S.Sae:
    W_dec = random(d_sae, d_in)
    W_dec = W_dec / W_dec.norm(dim=-1, keepdim=True)
    if kind == "jumprelu":
        more.setdefault("threshold", torch.full((d_sae,), 0.7))
    if kind == "topk":
        more.setdefault("k", 3)
    return S.Sae(
        kind, W_dec.T.contiguous(), 0.1 * random(d_sae, seed=1), W_dec, random(d_in, seed=2), **more
    )


class Dictionary:
    """A stream with known directions: sparse, positive, in superposition."""

    hook, target, model_id, identity = HOOK, "", "toy", "toy"

    def __init__(
        self, d_in: int = 16, n: int = 24, count: int = 6000, active: float = 0.06
    ) -> None:
        self.directions = random(n, d_in, seed=3)
        self.directions /= self.directions.norm(dim=-1, keepdim=True)
        generator = torch.Generator().manual_seed(4)
        on = torch.rand(count, n, generator=generator) < active
        self.code = on * (0.5 + torch.rand(count, n, generator=generator))
        self.acts = self.code @ self.directions + 0.3
        self.device, self.notes, self.widths = torch.device("cpu"), {}, ((d_in,), ())

    def chunk(self, n: int) -> torch.Tensor:
        return self.acts

    def order(self, n: int) -> torch.Tensor:
        return torch.randperm(len(self.acts), generator=torch.Generator().manual_seed(n))

    batch = S.Activations.batch


def test_encoding_follows_the_equations() -> None:
    x = random(5, 6, seed=5)
    one = an_sae()
    f = ((x - one.b_dec) @ one.W_enc + one.b_enc).relu()
    torch.testing.assert_close(one.encode(x), f)
    torch.testing.assert_close(one(x), f @ one.W_dec + one.b_dec)
    plain = replace(one, subtract_b_dec=False)
    torch.testing.assert_close(plain.encode(x), (x @ one.W_enc + one.b_enc).relu())


def test_kinds_differ_only_in_what_they_keep() -> None:
    pre = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.5, -2.0, 0.1, 0.2]])
    assert activate(pre, "relu").tolist() == pre.relu().tolist()
    assert activate(pre, "topk", 2).tolist() == [[3, 0, 2, 0], pytest.approx([0.5, 0, 0, 0.2])]
    assert activate(pre, "batchtopk", 2).tolist() == [[3, 1, 2, 0], [0.5, 0, 0, 0]]
    jump = activate(pre, "jumprelu", threshold=torch.tensor([1.0, 1.0, 1.0, 0.1]))
    assert jump[0].tolist() == [3, 0, 2, 0]
    torch.testing.assert_close(jump[1], torch.tensor([0, 0, 0, 0.2]))


def test_topk_keeps_no_negative_unit() -> None:
    assert activate(-torch.ones(2, 5), "topk", 3).abs().sum() == 0


def test_layer_norm_makes_the_sae_follow_scale_and_shift() -> None:
    one = an_sae(normalize="layer_norm")
    x = random(4, 6, seed=5)
    torch.testing.assert_close(one.encode(3 * x + 2), one.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one(3 * x + 2), 3 * one(x) + 2, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(kind="gated"), "gated"),
        (dict(b_enc=torch.zeros(3)), "b_enc has shape"),
        (dict(W_dec=torch.full((20, 6), torch.nan)), "W_dec holds NaN"),
        (dict(kind="topk", k=None), "needs k"),
        (dict(kind="topk", k=21), "from 1 to d_sae"),
        (dict(kind="jumprelu"), "needs `threshold`"),
        (dict(normalize="expected_average_only_in"), "folded"),
    ],
)
def test_an_impossible_sae_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(an_sae(), **change)


def test_wrong_width_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="width 6 .*not 7"):
        an_sae(hook=HOOK).encode(torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("kind", "prefixes"), [(k, ()) for k in S.ARCHITECTURES] + [("batchtopk", (3, 11))]
)
def test_sparse_and_dense_products_agree(kind: str, prefixes: tuple[int, ...]) -> None:
    recipe = S.Recipe(kind, d_sae=40, k=3, l1=0.3, l0=0.2, bandwidth=0.4, prefixes=prefixes)
    W_dec = random(40, 10)
    W_dec /= W_dec.norm(dim=-1, keepdim=True)
    p = {"W_enc": random(10, 40, seed=1), "b_enc": -random(40, seed=2).abs(), "W_dec": W_dec}
    p["b_dec"] = random(10, seed=3)
    if kind == "jumprelu":
        p["log_threshold"] = 0.1 * random(40, seed=4)
    if kind == "gated":
        p |= {"b_gate": 0.5 * random(40, seed=6), "r_mag": 0.3 * random(40, seed=7)}
    p = {name: value.requires_grad_() for name, value in p.items()}
    dead = torch.arange(40) < 5
    found = {}
    for dense in (False, True):
        loss = steps.batch_loss(p, random(30, 10, seed=5), recipe, 0.7, dead, dense=dense)
        grads = torch.autograd.grad(loss.total, list(p.values()), allow_unused=True)
        found[dense] = (loss, dict(zip(p, grads, strict=True)))
    torch.testing.assert_close(found[False][0].total, found[True][0].total)
    assert found[False][0].active.tolist() == found[True][0].active.tolist()
    for name in p:
        torch.testing.assert_close(
            found[False][1][name], found[True][1][name], msg=lambda m, n=name: f"{n}: {m}"
        )
        assert found[True][1][name].abs().max() > 1e-4, name


@pytest.mark.parametrize("count", [1, 50, 700, 5000])
def test_the_largest_are_found_by_looking_at_few(count: int) -> None:
    flat = random(5000)
    want = flat.topk(count).indices.sort().values
    assert steps.largest(flat, count).tolist() == want.tolist()


@pytest.mark.parametrize("kind", S.ARCHITECTURES)
def test_training_finds_known_directions(kind: str) -> None:
    stream = Dictionary()
    l1 = 2.0 if kind == "gated" else 1.0
    recipe = S.Recipe(
        kind, d_sae=48, k=2, l1=l1, l0=0.6, steps=600, batch=256, lr=5e-3, dead_after=5000
    )
    run = S.start(stream, recipe)
    before = S.matched_cosine(stream.directions, run.sae().W_dec)
    S.train(run, progress=False)
    sae = run.sae()
    after = S.matched_cosine(stream.directions, sae.W_dec)
    assert after.median() > 0.93 > 0.7 > before.median()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(48))
    found = S.fidelity(sae, stream.acts)
    assert found.explained_variance > 0.8
    assert 0.5 < found.l0 < 6
    assert run.log[-1]["step"] == 600 and run.log[-1]["explained_variance"] > 0.8


@pytest.mark.parametrize(
    ("kind", "prefixes"), [("batchtopk", ()), ("jumprelu", ()), ("gated", ()), ("topk", (5, 10))]
)
def test_interrupting_changes_nothing(kind: str, prefixes: tuple[int, ...], tmp_path) -> None:
    recipe = S.Recipe(
        kind, d_sae=30, k=2, steps=40, batch=700, dead_after=900, log_every=10, prefixes=prefixes
    )
    whole = S.train(S.start(Dictionary(), recipe), progress=False)
    half = S.train(S.start(Dictionary(), recipe), 23, progress=False)
    again = S.resume(half.save(tmp_path / "run.safetensors"), Dictionary())
    assert again.step == 23 and again.place == half.place != (0, 0)
    S.train(again, progress=False)
    for name in whole.p:
        assert torch.equal(whole.p[name], again.p[name]), name
        assert not torch.equal(half.p[name], again.p[name]), name
    assert whole.log == again.log and whole.cut == again.cut
    assert torch.equal(whole.silent, again.silent)


def test_a_run_is_resumed_only_on_its_own_activations(tmp_path) -> None:
    run = S.start(Dictionary(), S.Recipe(d_sae=30, k=2, steps=2, batch=10))
    path = run.save(tmp_path / "run.safetensors")
    other = Dictionary()
    other.identity = "another"
    with pytest.raises(ValueError, match="other activations"):
        S.resume(path, other)
    with pytest.raises(FileNotFoundError, match="no run at"):
        S.resume(tmp_path / "none", other)
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="not a safetensors file"):
        S.resume(tmp_path / "pickle.pt", other)
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="no run"):
        S.resume(tmp_path / "plain.safetensors", other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(kind="temporal"), "temporal"),
        (dict(prefixes=(8, 8)), "prefixes must rise"),
        (dict(d_sae=8, k=2, prefixes=(4, 8)), "below d_sae = 8"),
        (dict(kind="relu", prefixes=(4,)), "prefixes are for"),
        (dict(k=0), "k must be at least 1"),
        (dict(k=99, d_sae=50), "exceeds d_sae"),
        (dict(l1=-1.0), "l1 must not be negative"),
        (dict(lr=0.0), "lr must be positive"),
        (dict(clip=0.0), "clip must be positive"),
        (dict(warm_up=1.5), "warm_up"),
        (dict(encoder_scale=0.0), "encoder_scale"),
    ],
)
def test_an_impossible_recipe_is_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        S.Recipe(**change)


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_what_is_saved_is_loaded(kind: str, tmp_path) -> None:
    one = an_sae(kind, hook=HOOK, model_id="pocket", notes={"l0": 3.0})
    again = S.load(S.save(one, tmp_path / "sae"))
    x = random(7, 6, seed=8)
    assert torch.equal(one.encode(x), again.encode(x)) and torch.equal(one(x), again(x))
    assert (again.hook, again.model_id, again.kind, again.k) == (HOOK, "pocket", kind, one.k)
    assert again.notes["l0"] == 3.0


def test_the_layout_is_saelens(tmp_path) -> None:
    """Names as SAELens 6 writes them."""
    S.save(an_sae("jumprelu", hook=HOOK, model_id="pocket"), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", 6, 20)
    assert config["apply_b_dec_to_input"] is True and config["normalize_activations"] == "none"
    assert config["metadata"]["hook_name"] == HOOK
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def older_folder(folder, **changes) -> None:
    """A file as SAELens before 6 wrote it, such as those of gpt2-small-res-jb."""
    one = an_sae()
    config = dict(
        architecture="standard", d_in=6, d_sae=20, activation_fn_str="relu",
        apply_b_dec_to_input=True, hook_name=HOOK, model_name="gpt2-small",
        normalize_activations="none", prepend_bos=True,
    )  # fmt: skip
    tensors = {n: getattr(one, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    save_file(tensors | {"scaling_factor": torch.ones(20)}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def test_older_files_are_read(tmp_path) -> None:
    older_folder(tmp_path)
    sae = S.load(tmp_path)
    assert (sae.kind, sae.model_id, sae.hook) == ("relu", "gpt2", HOOK)
    torch.testing.assert_close(sae(random(3, 6)), an_sae()(random(3, 6)))
    older_folder(tmp_path, activation_fn_str="topk", activation_fn_kwargs={"k": 4})
    assert (S.load(tmp_path).kind, S.load(tmp_path).k) == ("topk", 4)


def test_a_gated_file_is_read_as_the_jumprelu_that_it_equals(tmp_path) -> None:
    """SAELens's gated SAE has b_gate, r_mag and b_mag in the place of b_enc."""
    older_folder(tmp_path, architecture="gated")
    one = an_sae()
    extra = {name: 0.4 * random(20, seed=i) for i, name in enumerate(("b_gate", "r_mag", "b_mag"))}
    tensors = {n: getattr(one, n) for n in ("W_enc", "W_dec", "b_dec")} | extra
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    x = random(200, 6, seed=9)
    product = (x - one.b_dec) @ one.W_enc
    on = product + extra["b_gate"] > 0
    f = on * (product * extra["r_mag"].exp() + extra["b_mag"]).relu()
    ungated = (product * extra["r_mag"].exp() + extra["b_mag"]).relu()
    assert (f != ungated).any() and (on & (f == 0)).any(), "both cuts must matter"
    sae = S.load(tmp_path)
    assert sae.kind == "jumprelu"
    torch.testing.assert_close(sae.encode(x), f, atol=1e-5, rtol=1e-4)
    again = S.load(S.save(sae, tmp_path / "again"))
    assert torch.equal(again.encode(x), sae.encode(x)) and torch.equal(again(x), sae(x))
    del tensors["r_mag"]
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="lacks r_mag"):
        S.load(tmp_path)


def test_files_that_cannot_be_read_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no cfg.json"):
        S.load(tmp_path)
    older_folder(tmp_path, d_sae=21)
    with pytest.raises(ValueError, match=r"\(6, 21\)"):
        S.load(tmp_path)
    older_folder(tmp_path, architecture="temporal")
    with pytest.raises(ValueError, match="temporal"):
        S.load(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="cannot be read"):
        S.load(tmp_path)
    (tmp_path / "sae_weights.safetensors").rename(tmp_path / "sae.pt")
    with pytest.raises(FileNotFoundError, match="sae.pt is pickled"):
        S.load(tmp_path)


def test_published_saes_need_a_cache_or_a_network() -> None:
    with pytest.raises(KeyError, match="gpt2-small-res-jb"):
        S.load_published("blocks.0.hook_resid_pre", "none-such")
    with pytest.raises(FileNotFoundError, match="not in the Hugging Face cache"):
        S.load_published("blocks.0.hook_resid_pre")


def test_streamed_activations_are_the_models(tiny_model) -> None:
    tokens = torch.randint(1, 100, (10, 16), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tiny_model.tokenizer.bos_token_id
    stream = S.Activations(tiny_model, HOOK, tokens, buffer=64, rows_at_once=3)
    want = tiny_model.run_with_cache(tokens)[1][HOOK][:, 1:].flatten(0, 1)
    got = torch.cat([stream.chunk(n)[stream.order(n)] for n in range(stream.chunks)])
    assert stream.chunks == 3 and all(len(stream.chunk(n)) <= 64 for n in range(3))
    assert got.shape == want.shape
    torch.testing.assert_close(got[got[:, 0].argsort()], want[want[:, 0].argsort()])
    assert not torch.allclose(got[:50], want[:50]), "shuffled"
    second = torch.cat([stream.chunk(n)[stream.order(n)] for n in range(3, 6)])
    assert not torch.equal(got, second), "every epoch anew"
    torch.testing.assert_close(got.mean(0), second.mean(0))


def test_batches_run_through_every_activation_once(tiny_model) -> None:
    tokens = torch.randint(1, 100, (10, 16), generator=torch.Generator().manual_seed(0))
    stream = S.Activations(tiny_model, "blocks.0.attn.hook_z", tokens, buffer=64)
    place, parts = (0, 0), []
    for size in (7, 100, 53):
        part, place = stream.batch(size, place)
        assert part.shape == (size, 32)
        parts.append(part)
    whole = torch.cat([stream.chunk(n)[stream.order(n)] for n in range(stream.chunks)])
    assert torch.equal(torch.cat(parts), whole)


def test_a_stream_refuses_what_cannot_work(tiny_model) -> None:
    tokens = torch.ones(4, 16, dtype=torch.long)
    with pytest.raises(ValueError, match=r"no 'blocks.1.hook_resid'.*blocks.1.hook_resid_post"):
        S.Activations(tiny_model, "blocks.1.hook_resid", tokens)
    with pytest.raises(ValueError, match=r"integers \[batch, pos\]"):
        S.Activations(tiny_model, HOOK, torch.ones(4))
    with pytest.raises(ValueError, match="no token is left"):
        S.Activations(tiny_model, HOOK, tokens, keep=tokens < 0)
    with pytest.raises(ValueError, match="hold a row of 16"):
        S.Activations(tiny_model, HOOK, tokens, buffer=8)


def test_nan_activations_are_refused_before_training(tiny_model, monkeypatch) -> None:
    broken = torch.full((2, 16, 32), torch.nan)
    monkeypatch.setattr(streams, "quick_readers", lambda *given: lambda rows: [broken])
    stream = S.Activations(tiny_model, HOOK, torch.ones(4, 16, dtype=torch.long), rows_at_once=2)
    with pytest.raises(ValueError, match="NaN"):
        S.start(stream, S.Recipe(d_sae=64))


def test_splicing_a_perfect_sae_changes_nothing_and_a_poor_one_does(tiny_model) -> None:
    from mi_helpers.models import model_id

    tokens = torch.randint(1, 100, (3, 12), generator=torch.Generator().manual_seed(0))
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    perfect = S.Sae("relu", both.T.contiguous(), torch.zeros(64), both, torch.zeros(32), hook=HOOK,
                    model_id=model_id(tiny_model))  # fmt: skip
    poor = replace(perfect, W_dec=both.roll(1, 0))
    clean = tiny_model(tokens)
    with S.splice(tiny_model, perfect):
        torch.testing.assert_close(tiny_model(tokens), clean, atol=1e-4, rtol=1e-4)
    with S.splice(tiny_model, poor):
        changed = tiny_model(tokens)
    torch.testing.assert_close(changed[:, 0], clean[:, 0])  # the first position is left alone
    assert (changed[:, 1:] - clean[:, 1:]).abs().amax(-1).min() > 1e-3
    torch.testing.assert_close(tiny_model(tokens), clean)  # the block is over
    losses = S.splice_losses(tiny_model, perfect, tokens)
    assert abs(losses.added) < 1e-4 and losses.recovered() == pytest.approx(1, abs=1e-2)
    assert losses.zero != losses.mean != losses.clean
    with pytest.raises(ValueError, match="zero"):
        losses.recovered("noise")


def test_losses_of_padded_texts_are_those_of_the_texts(pocket) -> None:
    from importlib.resources import files

    sae = S.load(files("mi_data") / "sae" / "resid_post_3")
    text = "hen John and Mary went to the shops, John gave the bag to"
    texts = ["W" + text, "Then, after lunch, w" + text]
    alone = [pocket.to_tokens(text) for text in texts]
    losses = [S.splice_losses(pocket, sae, tokens) for tokens in alone]
    count = torch.tensor([tokens.shape[1] - 1.0 for tokens in alone])
    assert count[0] < count[1]
    for side in ("right", "left"):
        found = S.splice_losses(pocket, sae, pocket.to_tokens(texts, padding_side=side))
        for name in ("clean", "spliced", "zero"):
            each = torch.tensor([getattr(one, name) for one in losses])
            want = float((each * count).sum() / count.sum())
            assert getattr(found, name) == pytest.approx(want, abs=1e-3), (side, name)
        assert abs(losses[0].clean - losses[1].clean) > 0.1


def test_losses_without_a_scale_are_refused() -> None:
    losses = SpliceLosses(clean=2.0, spliced=2.5, zero=2.0, mean=4.0)
    assert losses.added == 0.5 and losses.recovered("mean") == pytest.approx(0.75)
    with pytest.raises(ValueError, match="undefined"):
        losses.recovered("zero")


def test_splicing_refuses_an_sae_of_another_model(tiny_model) -> None:
    sae = an_sae(d_in=32, hook=HOOK, model_id="gpt2")
    raw = {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
    for wrong, said in (
        (sae, "made for 'gpt2'"),
        (replace(sae, hook=""), "which site"),
        (replace(sae, model_id="", notes=raw), "centred"),
    ):
        with pytest.raises(ValueError, match=said), S.splice(tiny_model, wrong):
            pass
    with (
        pytest.raises(ValueError, match="no 'blocks.9"),
        S.splice(tiny_model, replace(sae, hook="blocks.9.hook_resid_post")),
    ):
        pass


def test_variance_is_explained_about_the_mean() -> None:
    """Not about zero: a reconstruction that says the mean explains nothing."""
    x = random(200, 6) + 10
    mean = S.Sae("relu", torch.zeros(6, 3), torch.zeros(3), torch.eye(3, 6), x.mean(0))
    assert S.fidelity(mean, x).explained_variance == pytest.approx(0, abs=1e-4)
    off = S.fidelity(replace(mean, b_dec=x.mean(0) + x.std(0)), x).explained_variance
    assert off == pytest.approx(-1, abs=0.05)
    half = S.Sae("relu", torch.eye(6), torch.zeros(6), torch.eye(6), torch.zeros(6))
    guess = x - 0.5 * (x - x.mean(0))
    want = 1 - (x - guess).square().sum() / (x - x.mean(0)).square().sum()
    half = replace(half, W_enc=0.5 * torch.eye(6), b_dec=x.mean(0))
    both = replace(half, W_enc=torch.cat([half.W_enc, -half.W_enc], 1), b_enc=torch.zeros(12),
                   W_dec=torch.cat([half.W_dec, -half.W_dec]))  # fmt: skip
    torch.testing.assert_close(both(x), guess)
    assert S.fidelity(both, x).explained_variance == pytest.approx(float(want), abs=1e-5)
    assert float(want) == pytest.approx(0.75)


def test_fidelity_of_known_cases() -> None:
    x = random(50, 6).abs() + 0.1
    exact = S.Sae("relu", torch.eye(6), torch.zeros(6), torch.eye(6), torch.zeros(6))
    found = S.fidelity(exact, x)
    assert (found.l0, found.explained_variance, found.dead, found.dense) == (6, 1, 0, 1)
    half = S.fidelity(replace(exact, W_dec=0.5 * torch.eye(6)), x)
    assert half.norm_ratio == pytest.approx(0.5) and half.explained_variance < 0.9
    assert found.rescale == pytest.approx(1) and half.rescale == pytest.approx(2)
    one = an_sae(normalize="layer_norm")
    y = random(50, 6)
    weak = replace(one, b_enc=one.b_enc, W_dec=one.W_dec / 3)
    ratio = S.fidelity(weak, y).rescale / S.fidelity(one, y).rescale
    assert ratio == pytest.approx(3, rel=1e-3), "the bias is not part of it"
    silent = S.fidelity(replace(exact, b_enc=torch.tensor([-99.0] + [0.0] * 5)), x)
    assert silent.dead == pytest.approx(1 / 6) and silent.l0 == 5
    with pytest.raises(ValueError, match="no variance"):
        S.fidelity(exact, torch.ones(3, 6))


def test_detection_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

    acts = (random(300, 5, seed=6) - 0.5).relu()  # many ties at zero
    acts[:, 0] = 0
    label = (acts[:, 1] + 0.5 * random(300, seed=7)) > 0.7
    found = S.detection(acts, label, block=2)
    for unit in range(5):
        assert found.auroc[unit] == pytest.approx(roc_auc_score(label, acts[:, unit]), abs=1e-5)
        said = acts[:, unit] > found.threshold[unit]
        assert found.f1[unit] == pytest.approx(f1_score(label, said), abs=1e-5)
        if unit:
            precision, recall, _ = precision_recall_curve(label, acts[:, unit])
            best = (2 * precision * recall / (precision + recall + 1e-12))[1:].max()
            assert found.f1[unit] == pytest.approx(best, abs=0.01)
    assert found.best() == 1 and found.auroc[0] == 0.5
    with pytest.raises(ValueError, match="some and not all"):
        S.detection(acts, torch.ones(300, dtype=torch.bool))


def test_labels_mark_the_tokens_of_their_spans(worded_model) -> None:
    from mi_data.pocket import generator

    samples = [generator.sample("ioi", i, "test") for i in range(40)]
    labelled = S.label_tokens(worded_model, samples)
    assert {"IO1", "S1", "S2"} <= set(labelled.labels)
    for row, sample in zip(range(5), samples, strict=False):
        marked = labelled.tokens[row][labelled.labels["S2"][row]]
        words = worded_model.tokenizer.decode(marked).split()
        assert words == [s.value for s in sample.spans if s.role == "S2"]
    assert (
        not labelled.labels["S2"][:, 0].any()
        and not (~labelled.real & labelled.labels["IO1"]).any()
    )
    with pytest.raises(ValueError, match="draw more"):
        S.label_tokens(worded_model, samples[:1])


def test_the_best_unit_is_judged_on_texts_it_was_not_chosen_on() -> None:
    real = torch.ones(20, 10, dtype=torch.bool)
    label = torch.rand(20, 10, generator=torch.Generator().manual_seed(0)) < 0.3
    acts = random(200, 4, seed=1).abs()
    acts[:, 2] += 5 * label.flatten()
    acts[:, 3] += 9 * (label.flatten() & (torch.arange(200) < 100))  # right on the first half only
    labelled = SimpleNamespace(real=real, labels={"L": label}, flat=lambda name: label[real])
    row = S.best_units(acts, labelled)[0]
    assert row["label"] == "L" and row["unit"] in (2, 3)
    if row["unit"] == 3:
        assert row["f1"] < 0.7
    acts[:, 3] = 0
    assert S.best_units(acts, labelled)[0]["f1"] > 0.95


def test_matched_cosine() -> None:
    one = torch.eye(3)
    torch.testing.assert_close(S.matched_cosine(one, 2 * one.flip(0)), torch.ones(3))
    torch.testing.assert_close(S.matched_cosine(one[:1], -one), torch.zeros(1))
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        S.matched_cosine(one, torch.eye(2))
