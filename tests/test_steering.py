"""Steering: vectors as data, makers with known answers, interventions that undo themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from other_models import MAKE, PLAIN
from safetensors.torch import load_file, save_file

from mi_helpers import steering
from mi_helpers.models import ModelSource, load_model, untrained
from mi_helpers.patching import LogitDiff, OtherRun, patch_sweep
from mi_helpers.sae import Sae
from mi_helpers.sites import hook_name, read
from mi_helpers.steering import NothingHappened

LAYER = 1
TEXTS = ["the cat sat on the mat", "I think this movie was very good and said so"]


@pytest.fixture
def tokens(tiny_model):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, tiny_model.cfg.d_vocab, (3, 9), generator=generator)


@pytest.fixture
def vector(tiny_model):
    generator = torch.Generator().manual_seed(1)
    direction = 3 * torch.randn(tiny_model.cfg.d_model, generator=generator)
    return steering.new_vector(tiny_model, direction, LAYER, method="test", site="resid_pre")


def run(model, tokens, hooks=()):
    """Logits and the stream before each block and after the last."""
    names = [f"blocks.{i}.hook_resid_pre" for i in range(2)] + ["blocks.1.hook_resid_post"]
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        logits, cache = model.run_with_cache(tokens, names_filter=names)
    return logits, {name: cache[name].clone() for name in names}


def n_hooks(model):
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


# ---- vectors as data


def test_saved_and_loaded_it_is_the_same(tiny_model, vector, tmp_path):
    path = tmp_path / "vector.safetensors"
    steering.save(replace(vector, prompts=("a", "b"), details={"seed": 3}), path)
    again = steering.load(path, tiny_model)
    assert torch.equal(again.vector, vector.vector)
    assert (again.site, again.layer, again.method) == ("resid_pre", LAYER, "test")
    assert again.prompts == ("a", "b") and again.details == {"seed": 3}
    assert again.weights == steering.fingerprint(tiny_model)


def test_refused_on_another_model(tiny_model, vector, tmp_path, tiny_folder):
    path = tmp_path / "vector.safetensors"
    steering.save(vector, path)
    with pytest.raises(ValueError, match="made on .* make one on this model"):
        steering.load(path, untrained(tiny_model))
    other = tmp_path / tiny_folder.name  # the same name and shape, other weights
    other.mkdir()
    for file in tiny_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"] * 1.001
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    twin = load_model(str(other), device="cpu")
    with pytest.raises(ValueError, match="make one on this model"):
        steering.load(path, twin)
    with pytest.raises(ValueError, match="make one on this model"), steering.add(twin, vector):
        pass


def test_one_changed_weight_in_a_file_is_another_model(tiny_folder, tmp_path):
    prints = set()
    for place in (0, -1):  # the first and the last number of the file's last tensor
        folder = tmp_path / str(place)
        folder.mkdir()
        for file in tiny_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        weights = load_file(folder / "model.safetensors")
        weights[max(weights)].view(-1)[place] += 0.5
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        source = ModelSource("same name", "same name", folder, "a folder", 0)
        prints.add(steering.vectors._fingerprint(source))
    source = ModelSource("same name", "same name", tiny_folder, "a folder", 0)
    assert len(prints | {steering.vectors._fingerprint(source)}) == 3


def test_two_untrained_models_differ(tiny_model):
    one, two = untrained(tiny_model, 0), untrained(tiny_model, 1)
    prints = {steering.fingerprint(model) for model in (tiny_model, one, two)}
    assert len(prints) == 3 and steering.fingerprint(untrained(tiny_model, 0)) in prints


def test_files_that_are_no_vector(tiny_model, vector, tmp_path):
    with pytest.raises(FileNotFoundError, match="no steering vector at"):
        steering.load(tmp_path / "none.safetensors", tiny_model)
    plain = tmp_path / "plain.safetensors"
    save_file({"vector": vector.vector}, plain)
    with pytest.raises(ValueError, match=r"is no steering vector: write one with steering\.save"):
        steering.load(plain, tiny_model)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="is no steering vector"):
        steering.load(tmp_path / "text.safetensors", tiny_model)


def test_an_altered_vector_is_noticed(tiny_model, vector, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "vector.safetensors"
    steering.save(vector, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"vector": 2 * vector.vector}, path, metadata=metadata)
    with pytest.raises(ValueError, match="was altered: its norm is"):
        steering.load(path, tiny_model)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(32), "is zero"),
        (torch.full((32,), float("nan")), "NaN"),
        (torch.ones(31), "31 dimensions"),
        (torch.ones(2, 3, 32), r"\[2, 3, 32\]"),
        (torch.ones(32, dtype=torch.long), "floats"),
    ],
)
def test_bad_vectors_are_refused(tiny_model, bad, message):
    with pytest.raises(ValueError, match=message):
        steering.new_vector(tiny_model, bad, 0, method="test")


def test_bad_places_are_refused(tiny_model):
    for layer in (2, -1):
        with pytest.raises(ValueError, match="layer"):
            steering.new_vector(tiny_model, torch.ones(32), layer, method="test")
    with pytest.raises(KeyError, match="unknown site"):
        steering.new_vector(tiny_model, torch.ones(32), 0, method="test", site="resid")
    with pytest.raises(ValueError, match="belongs to heads"):
        steering.new_vector(tiny_model, torch.ones(32), 0, method="test", site="z")


# ---- makers


def planted(n=40, seed=0):
    """Two classes that differ along one axis, with noise that is largest along another."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 6, generator=generator) * torch.tensor([0.1, 0.1, 3, 0.1, 0.1, 0.1])
    shift = torch.tensor([1.0, 0, 0, 0, 0, 0])
    pairs = 0.05 * torch.randn(n, 6, generator=generator)
    return noise + shift + pairs, noise - shift


def test_every_maker_finds_the_planted_axis():
    positive, negative = planted()
    axis = torch.eye(6)[0]
    for maker in (
        steering.paired_difference,
        steering.class_means,
        steering.pca_of_differences,
        steering.probe_weights,
    ):
        found = maker(positive, negative)
        assert torch.cosine_similarity(found, axis, dim=0) > 0.95, maker.__name__
        assert found.norm() == pytest.approx(2, abs=0.1), maker.__name__
        assert torch.cosine_similarity(maker(negative, positive), -axis, dim=0) > 0.95


def test_unpaired_classes_need_no_equal_size():
    positive, negative = planted()
    want = positive[:7].mean(0) - negative.mean(0)
    assert torch.allclose(steering.class_means(positive[:7], negative), want)
    for maker in (steering.paired_difference, steering.pca_of_differences):
        with pytest.raises(ValueError, match="as many positive as negative"):
            maker(positive[:7], negative)
    with pytest.raises(ValueError, match="0 positive"):
        steering.class_means(positive[:0], negative)


def test_collect_reads_each_prompt_where_it_ends(tiny_model):
    found = steering.collect(tiny_model, TEXTS)
    for i, text in enumerate(TEXTS):
        cache = tiny_model.run_with_cache(tiny_model.to_tokens(text, prepend_bos=True))[1]
        for layer in range(2):
            acts = cache[f"blocks.{layer}.hook_resid_post"][0]
            assert torch.allclose(found[layer, i], acts[-1], atol=1e-5)
            mean = steering.collect(tiny_model, TEXTS, layers=[layer], position=None)[0, i]
            assert torch.allclose(mean, acts[1:].mean(0), atol=1e-5)


def test_collect_refuses_bad_prompts(tiny_model):
    with pytest.raises(ValueError, match="at least one"):
        steering.collect(tiny_model, [])
    with pytest.raises(ValueError, match="list of texts"):
        steering.collect(tiny_model, "one text")
    with pytest.raises(ValueError, match="none of them empty"):
        steering.collect(tiny_model, ["a", ""])
    with pytest.raises(ValueError, match="position -40 is outside"):
        steering.collect(tiny_model, TEXTS, position=-40)
    with pytest.raises(ValueError, match="layer 2"):
        steering.collect(tiny_model, TEXTS, layers=[2])
    with pytest.raises(ValueError, match="exceeds the context of 64"):
        steering.collect(tiny_model, ["cat dog " * 60])


def test_make_records_what_it_was_made_from(tiny_model):
    others = ["the dog sat on the mat", "Mary and John went to the shops"]
    made = steering.make(tiny_model, TEXTS, others, 0, position=-2)
    assert made.prompts == (*TEXTS, *others) and made.method == "class_means"
    assert made.details == {"n_positive": 2, "position": -2}
    acts = steering.collect(tiny_model, TEXTS, layers=[0], position=-2)[0]
    one = steering.make(tiny_model, TEXTS[:1], TEXTS[1:], 0, position=-2)
    assert torch.allclose(one.vector, acts[0] - acts[1])


def test_equal_prompts_make_no_vector(tiny_model):
    with pytest.raises(ValueError, match="do not differ"):
        steering.make(tiny_model, TEXTS[:1], TEXTS[:1], 0)


def test_sae_feature_is_row_times_maximum(tiny_model):
    W_dec = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    made = steering.sae_feature(tiny_model, W_dec, 3, 0, max_act=2.5)
    assert torch.allclose(made.vector, 2.5 * W_dec[3])
    for feature, max_act, message in ((5, 1.0, "feature 5"), (3, 0.0, "dead")):
        with pytest.raises(ValueError, match=message):
            steering.sae_feature(tiny_model, W_dec, feature, 0, max_act=max_act)


def test_random_control_has_the_norm_and_another_direction(tiny_model, vector):
    control = steering.random_like(vector, tiny_model, seed=0)
    assert control.norm == pytest.approx(vector.norm, rel=1e-5)
    assert torch.cosine_similarity(control.vector, vector.vector, dim=0).abs() < 0.7
    assert not torch.equal(control.vector, steering.random_like(vector, tiny_model, 1).vector)


# ---- adding


def test_add_is_the_plain_hook_and_leaves_nothing_behind(tiny_model, tokens, vector):
    plain, before = run(tiny_model, tokens)
    hook = (vector.hook, lambda acts, hook: acts + 1.5 * vector.vector)
    want, _ = run(tiny_model, tokens, [hook])
    with steering.add(tiny_model, vector, 1.5) as fired:
        got, inside = run(tiny_model, tokens)
    assert torch.equal(got, want) and not torch.allclose(got, plain, atol=1e-3)
    assert torch.equal(inside["blocks.0.hook_resid_pre"], before["blocks.0.hook_resid_pre"])
    assert (fired.count, fired.positions) == (1, tokens.shape[1])
    assert n_hooks(tiny_model) == 0 and torch.equal(run(tiny_model, tokens)[0], plain)


@pytest.mark.parametrize("positions", [[4], [-5], slice(4, 5)])
def test_add_at_one_position_changes_only_what_follows(tiny_model, tokens, vector, positions):
    plain, _ = run(tiny_model, tokens)
    with steering.add(tiny_model, vector, positions=positions) as fired:
        got, _ = run(tiny_model, tokens)
    assert torch.equal(got[:, :4], plain[:, :4])
    assert (got[:, 4] - plain[:, 4]).abs().max() > 1e-2 and fired.positions == 1


def test_removed_when_the_body_raises(tiny_model, tokens, vector):
    watching = dict(tiny_model.original_model._forward_pre_hooks)
    plain, _ = run(tiny_model, tokens)
    with pytest.raises(ZeroDivisionError), steering.add(tiny_model, vector):
        run(tiny_model, tokens)
        1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError), steering.add(tiny_model, vector):
        1 / 0  # noqa: B018 - the body's own error, not that nothing was run
    assert n_hooks(tiny_model) == 0 and torch.equal(run(tiny_model, tokens)[0], plain)
    assert dict(tiny_model.original_model._forward_pre_hooks) == watching


def test_nested_they_add_up(tiny_model, tokens, vector):
    once, _ = run(tiny_model, tokens, [(vector.hook, lambda a, hook: a + 3 * vector.vector)])
    with steering.add(tiny_model, vector, 1.0) as outer:
        with steering.add(tiny_model, vector, 2.0) as inner:
            both, _ = run(tiny_model, tokens)
            hooked = tiny_model.run_with_hooks(tokens, fwd_hooks=[])
        alone, _ = run(tiny_model, tokens)
    assert torch.allclose(both, once, atol=1e-4) and torch.allclose(hooked, once, atol=1e-4)
    assert not torch.allclose(alone, once, atol=1e-3)
    assert (outer.count, inner.count) == (3, 2)


def test_having_done_nothing_is_an_error(tiny_model, tokens, vector):
    with pytest.raises(NothingHappened, match="run the model inside"):
        with steering.add(tiny_model, vector):
            pass
    with pytest.raises(NothingHappened, match="slice"):
        with steering.add(tiny_model, vector, positions=slice(50, None)):
            run(tiny_model, tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(strength=float("inf")), "finite"),
        (dict(strength=1e30), "overflows"),
        (dict(positions=[9]), "outside a prompt of 9"),
        (dict(positions=slice(-2, None)), "counts from the start"),
    ],
)
def test_bad_requests_are_refused(tiny_model, tokens, vector, options, message):
    with pytest.raises(ValueError, match=message), steering.add(tiny_model, vector, **options):
        run(tiny_model, tokens)
    assert n_hooks(tiny_model) == 0


@pytest.mark.parametrize("positions", [None, [2], slice(4, None), slice(12, None)])
def test_generation_with_and_without_a_cache_agree(tiny_model, tokens, vector, positions):
    options = dict(max_new_tokens=8, do_sample=False, verbose=False, stop_at_eos=False)
    texts = []
    for cached in (True, False):
        with steering.add(tiny_model, vector, 4.0, positions=positions):
            out = tiny_model.generate(tokens[:1], use_past_kv_cache=cached, **options)
            texts.append(out[0].tolist())
    assert texts[0] == texts[1]


def test_same_seed_same_text_and_another_seed_another(tiny_model, tokens, vector):
    def sampled(seed, strength):
        torch.manual_seed(seed)
        with steering.add(tiny_model, vector, strength):
            out = tiny_model.generate(tokens[:1], max_new_tokens=12, verbose=False)
        return out[0].tolist()

    assert sampled(0, 2.0) == sampled(0, 2.0) != sampled(1, 2.0)
    assert sampled(0, 2.0) != sampled(0, -2.0)


def test_an_sae_feature_is_held_by_its_encoder(tiny_model, tokens):
    generator = torch.Generator().manual_seed(5)
    W_dec = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=1)
    place, bias = ("resid_post", 0), torch.zeros(4)
    opened = Sae("relu", W_dec.T.contiguous(), bias, W_dec, torch.zeros(32), hook=place)
    _, before = run(tiny_model, tokens)
    stream = before["blocks.1.hook_resid_pre"]
    held = dict(encode=lambda acts: opened.encode(acts)[..., 2], decoder=W_dec[2])
    for value in (0.0, 3.0):
        with steering.clamp(tiny_model, place, value=value, **held):
            _, inside = run(tiny_model, tokens)
        step = (value - opened.encode(stream)[..., 2])[..., None] * W_dec[2]
        assert torch.allclose(inside["blocks.1.hook_resid_pre"], stream + step, atol=1e-5)
    was_on = opened.encode(stream)[..., 2] > 0
    assert was_on.any() and not was_on.all()
    now = opened.encode(inside["blocks.1.hook_resid_pre"])[..., 2]
    assert torch.allclose(now[was_on], torch.tensor(3.0), atol=1e-4)


def test_activation_addition_goes_to_the_first_positions(tiny_model, tokens):
    made = steering.activation_addition(tiny_model, " good", " very bad", LAYER)
    assert made.vector.shape == (2, 32) and made.site == "resid_pre"
    cache = [
        tiny_model.run_with_cache(tiny_model.to_tokens(text, prepend_bos=True))[1][made.hook][0]
        for text in (" good ", " very bad")
    ]
    assert torch.allclose(made.vector[0], (cache[0] - cache[1])[1], atol=1e-5)
    plain, before = run(tiny_model, tokens)
    with steering.add(tiny_model, made, 5.0) as fired:
        _, after = run(tiny_model, tokens)
    change = after[made.hook] - before[made.hook]
    assert torch.allclose(change[:, 1:3], 5 * made.vector.expand(3, -1, -1), atol=1e-4)
    assert not change[:, 0].any() and not change[:, 3:].any() and fired.positions == 2
    with pytest.raises(ValueError, match="brings its own positions"):
        with steering.add(tiny_model, made, positions=[1]):
            pass


@pytest.mark.filterwarnings("ignore:the fused pass")
def test_a_patching_sweep_runs_on_the_steered_model(tiny_model, tokens, vector):
    other = tokens.flip(1)
    metric = LogitDiff(torch.tensor([[5, 6]] * 3))
    with steering.add(tiny_model, vector, 2.0):
        sweep = patch_sweep(tiny_model, tokens, OtherRun(other), metric)
        source = tiny_model.run_with_cache(other)[1]

        def patch(acts, hook):
            acts = acts.clone()
            acts[:, 3] = source[hook.name][:, 3]
            return acts

        hooks = [[(f"blocks.{layer}.hook_resid_pre", patch)] for layer in range(2)]
        want = [metric(tiny_model.run_with_hooks(tokens, fwd_hooks=hook)) for hook in hooks]
    assert torch.allclose(sweep.values[:, 3], torch.stack(want), atol=1e-4)


# ---- projecting out, clamping


def test_project_out_of_one_place(tiny_model, tokens, vector):
    place = ("resid_pre", LAYER)
    unit = vector.vector / vector.norm
    with steering.project_out(tiny_model, vector.vector, places=[place]):
        _, inside = run(tiny_model, tokens)
    _, before = run(tiny_model, tokens)
    assert (
        (inside[hook_name(place)] @ unit).abs().max()
        < 1e-4
        < (before[hook_name(place)] @ unit).abs().max()
    )
    change = before[hook_name(place)] - inside[hook_name(place)]
    assert torch.allclose(change, (change @ unit)[..., None] * unit, atol=1e-5)


def test_orthogonalised_weights_equal_projecting_out_every_write(tiny_model, tokens):
    directions = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    plain, before = run(tiny_model, tokens)
    weights = {name: view.clone() for name, view in steering.written(tiny_model).items()}
    with steering.project_out(tiny_model, directions) as fired:
        at_run_time, stream = run(tiny_model, tokens)
    with steering.orthogonalised(tiny_model, directions):
        for_good, _ = run(tiny_model, tokens)
    assert torch.allclose(at_run_time, for_good, atol=1e-4)
    assert not torch.allclose(at_run_time, plain, atol=1e-2)
    for name, acts in stream.items():
        assert (acts @ directions.T).abs().max() < 1e-4 < (before[name] @ directions.T).abs().max()
    assert fired.count == 2 + 2 * 2
    after = steering.written(tiny_model)
    assert all(torch.equal(after[name], old) for name, old in weights.items())
    assert torch.equal(run(tiny_model, tokens)[0], plain)


def test_dependent_directions_are_refused(tiny_model, vector):
    twice = torch.stack([vector.vector, -2 * vector.vector])
    with pytest.raises(ValueError, match="not independent"):
        steering.orthonormal(twice)
    with pytest.raises(ValueError, match="31 dimensions"):
        with steering.project_out(tiny_model, torch.ones(31)):
            pass
    with pytest.raises(ValueError, match="has no 'blocks.0.hook_resid'"):
        with steering.project_out(tiny_model, vector.vector, places=["blocks.0.hook_resid"]):
            pass


def test_clamp_holds_a_direction_at_a_value(tiny_model, tokens, vector):
    place = ("resid_pre", LAYER)
    unit = vector.vector / vector.norm
    with steering.clamp(tiny_model, place, lambda acts: acts @ unit, unit, 7.0, positions=[-1]):
        _, inside = run(tiny_model, tokens)
    _, before = run(tiny_model, tokens)
    assert torch.allclose(inside[hook_name(place)][:, -1] @ unit, torch.full((3,), 7.0), atol=1e-4)
    assert torch.equal(inside[hook_name(place)][:, :-1], before[hook_name(place)][:, :-1])


# Other architectures and padded texts


@pytest.mark.parametrize("kind", MAKE)
def test_projecting_out_every_write_leaves_nothing_on_other_models(other, kind):
    model, _ = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    places = [("resid_post", layer) for layer in range(3)]
    before = read(model, tokens, places)
    with steering.project_out(model, direction):
        inside = read(model, tokens, places)
    for place in places:
        assert (inside[place] @ direction).abs().max() < 1e-3 * before[place].norm(dim=-1).max()
        assert (before[place] @ direction).abs().max() > 0.5


@pytest.mark.parametrize("kind", PLAIN)
def test_orthogonalised_weights_of_other_models_equal_projecting_out(other, kind):
    model, _ = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(tokens)
        with steering.project_out(model, direction):
            at_run_time = model(tokens)
        with steering.orthogonalised(model, direction):
            in_the_weights = model(tokens)
        torch.testing.assert_close(in_the_weights, at_run_time, atol=1e-3, rtol=1e-3)
        assert (plain - at_run_time).abs().max() > 0.1
        assert torch.equal(model(tokens), plain)


def test_weights_behind_another_norm_cannot_be_orthogonalised(other):
    model, _ = other("gemma2")
    with pytest.raises(ValueError, match="normalises what heads and MLPs write"):
        with steering.orthogonalised(model, torch.randn(32)):
            pytest.fail("the block was entered")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gemma2"])
def test_collect_reads_what_plain_transformers_has(other, kind):
    model, hf = other(kind)
    texts = ["one two", "The cat sat on the mat"]
    found = steering.collect(model, texts)
    for i, text in enumerate(texts):
        with torch.no_grad():
            hidden = hf(model.to_tokens(text), output_hidden_states=True).hidden_states
        for layer in range(2):  # the last is given behind the final norm
            want = hidden[layer + 1][0, -1]
            torch.testing.assert_close(found[layer, i], want, atol=1e-4, rtol=1e-4)


def test_the_mean_leaves_out_the_start_token_and_no_word(tiny_model):
    bos = tiny_model.tokenizer.bos_token_id
    tokens = torch.tensor([[bos, 5, 6], [7, 5, 6]])
    acts = read(tiny_model, tokens, [("resid_post", 0)])["resid_post", 0]
    found = steering.collect(tiny_model, tokens, layers=[0], position=None)[0]
    assert torch.allclose(found[0], acts[0, 1:].mean(0), atol=1e-6)
    assert torch.allclose(found[1], acts[1].mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="nothing but the start token"):
        steering.collect(tiny_model, tokens[:1, :1], position=None)


def test_collect_refuses_padding_and_training(tiny_model, tiny_folder):
    from mi_helpers.models import load_model

    with pytest.raises(ValueError, match="padded on the right"):
        steering.collect(tiny_model, tiny_model.to_tokens(["one two", "The cat sat on the mat"]))
    trained = load_model(str(tiny_folder), device="cpu")
    trained.train()
    with pytest.raises(ValueError, match="training mode"):
        steering.collect(trained, torch.tensor([[0, 5, 6]]))


def test_an_addition_needs_a_start_token(tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model.cfg, "default_prepend_bos", False)
    assert tiny_model.to_tokens("one two").shape[1] == 2
    with pytest.raises(ValueError, match="no start token before a text"):
        steering.activation_addition(tiny_model, "one", "two", 1)


def test_a_probe_that_finds_nothing_is_no_direction() -> None:
    acts = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="nothing was found that tells the two apart"):
        steering.probe_weights(acts, acts.clone())
