"""Decomposition, attribution and virtual weights: exact, and equal to naive loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from other_models import PLAIN
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import direct_logit_attribution

from mi_helpers import lens

PROMPTS = ["When John and Mary went to the shops", "The capital of France is Paris and Rome"]
SHARED = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def tokens(tiny_model):
    return torch.cat([tiny_model.to_tokens(prompt)[:, :8] for prompt in PROMPTS])


@pytest.fixture
def answers(tiny_model):
    pairs = [(" Mary", " John"), (" Spain", " France")]
    return torch.tensor([[tiny_model.to_single_token(word) for word in pair] for pair in pairs])


def naive_parts(model, tokens):
    """Name -> [batch pos d_model], by loops over layers, heads, prompts and positions."""
    _, cache = model.run_with_cache(tokens)
    shape = (*tokens.shape, model.cfg.d_model)
    parts = {"embed": torch.stack([model.W_E[row] for row in tokens])}
    parts["pos"] = torch.stack([model.W_pos[: tokens.shape[1]] for _ in tokens])
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            out = torch.zeros(shape)
            for b in range(shape[0]):
                for p in range(shape[1]):
                    z = cache[f"blocks.{layer}.attn.hook_z"][b, p, head]
                    out[b, p] = z @ model.W_O[layer, head]
            parts[f"L{layer}H{head}"] = out
        parts[f"L{layer} attn bias"] = model.b_O[layer].expand(shape)
        parts[f"L{layer} MLP"] = cache[f"blocks.{layer}.hook_mlp_out"]
    return parts


def naive_attribution(model, tokens, right, wrong, position):
    """Name -> [batch]: each part through the final LayerNorm with the scale of the whole stream."""
    parts = naive_parts(model, tokens)
    stream = sum(parts.values())
    variance = (stream - stream.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    scale = (variance + model.cfg.eps).sqrt()
    direction = (model.W_U[:, right] - model.W_U[:, wrong]).T
    values = {}
    for name, part in parts.items():
        normalised = (part - part.mean(-1, keepdim=True)) / scale
        values[name] = (normalised[:, position] * direction).sum(-1)
    return values


# --- decomposition ---


def test_decompose_equals_the_naive_loop(tiny_model, tokens):
    got = lens.decompose(tiny_model, tokens, positions=range(tokens.shape[1]))
    want = naive_parts(tiny_model, tokens)
    assert got.labels == tuple(want) == lens.component_labels(tiny_model)
    for label, part in zip(got.labels, got.parts, strict=True):
        assert torch.allclose(part, want[label], atol=1e-5), label


def test_the_parts_sum_to_the_stream_and_no_head_may_be_missing(tiny_model, tokens):
    got = lens.decompose(tiny_model, tokens, positions=range(tokens.shape[1]))
    last = f"blocks.{tiny_model.cfg.n_layers - 1}.hook_resid_post"
    stream = tiny_model.run_with_cache(tokens, names_filter=[last])[1][last]
    assert torch.allclose(got.stream, stream)
    assert torch.allclose(got.parts.sum(0), stream, atol=1e-5)
    for part in range(len(got.labels)):
        without = got.parts.sum(0) - got.parts[part]
        assert not torch.allclose(without, stream, atol=1e-3), got.labels[part]


def test_decompose_keeps_the_positions_asked_for_in_their_order(tiny_model, tokens):
    everything = lens.decompose(tiny_model, tokens, positions=range(tokens.shape[1]))
    some = lens.decompose(tiny_model, tokens, positions=[5, -8])
    assert torch.allclose(some.parts, everything.parts[:, :, [5, 0]])
    assert lens.decompose(tiny_model, tokens).parts.shape[2] == 1
    assert torch.allclose(lens.decompose(tiny_model, tokens).parts, everything.parts[:, :, -1:])


def test_a_stream_that_is_not_the_sum_of_its_parts_is_refused(tiny_model, tokens, answers):
    def double(resid, hook):
        return resid * 2

    with tiny_model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", double)]):
        with pytest.raises(ValueError, match="miss the final stream"):
            lens.decompose(tiny_model, tokens)
        with pytest.raises(ValueError, match="miss the final stream"):
            lens.logit_attribution(tiny_model, tokens, answers)


# --- direct logit attribution ---


@pytest.mark.parametrize("position", [-1, 4])
def test_attribution_equals_the_naive_loop(tiny_model, tokens, answers, position):
    got = lens.logit_attribution(tiny_model, tokens, answers, position=position)
    want = naive_attribution(tiny_model, tokens, answers[:, 0], answers[:, 1], position)
    labels = [*lens.component_labels(tiny_model), "unembed bias"]
    assert got.stacked().shape == (len(tokens), len(labels))
    for i, label in enumerate(labels[:-1]):
        assert torch.allclose(got.stacked()[:, i], want[label], atol=1e-5), label
    for layer in range(tiny_model.cfg.n_layers):
        for head in range(tiny_model.cfg.n_heads):
            value = want[f"L{layer}H{head}"]
            assert torch.allclose(got.heads[:, layer, head], value, atol=1e-5)
    bias = tiny_model.b_U[answers]
    assert torch.allclose(got.unembed_bias, bias[:, 0] - bias[:, 1])


@pytest.mark.parametrize("position", [-1, 0, 3])
def test_attribution_sums_to_the_models_logit_and_logit_difference(
    tiny_model, tokens, answers, position
):
    logits = tiny_model(tokens)[:, position]
    right, wrong = (logits.gather(1, answers[:, [i]]).squeeze(1) for i in (0, 1))
    difference = lens.logit_attribution(tiny_model, tokens, answers, position=position)
    single = lens.logit_attribution(tiny_model, tokens, answers[:, 0], position=position)
    assert torch.allclose(difference.total(), right - wrong, atol=1e-5)
    assert torch.allclose(single.total(), right, atol=1e-5)
    assert not torch.allclose(single.total(), difference.total(), atol=1e-3)


def test_attribution_agrees_with_transformer_lens(tiny_model, tokens, answers):
    got = lens.logit_attribution(tiny_model, tokens, answers)
    right, wrong = answers.T
    by_layer = direct_logit_attribution(tiny_model, tokens, right, wrong, unit="layer")
    halves = [f"{i}_{half}" for i in range(tiny_model.cfg.n_layers) for half in ("pre", "mid")]
    running = got.cumulative() - got.unembed_bias[:, None]
    whole = running.T[[*range(len(halves)), -1]]
    assert by_layer.labels == [*halves, "final_post"]
    assert torch.allclose(whole, by_layer.attribution, atol=1e-5)


def test_cumulative_ends_at_the_total(tiny_model, tokens, answers):
    got = lens.logit_attribution(tiny_model, tokens, answers)
    assert got.cumulative().shape == (len(tokens), 2 * tiny_model.cfg.n_layers + 1)
    assert torch.allclose(got.cumulative()[:, -1], got.total(), atol=1e-6)


def test_attribution_by_source_sums_to_the_heads_and_never_looks_ahead(tiny_model, tokens, answers):
    position = 4
    got = lens.head_source_attribution(tiny_model, tokens, answers, position=position)
    heads = lens.logit_attribution(tiny_model, tokens, answers, position=position).heads
    assert torch.allclose(got.sum(-1), heads, atol=1e-5)
    assert (got[..., position + 1 :] == 0).all()
    assert (got[..., : position + 1] != 0).all()


def test_attribution_by_source_equals_the_naive_loop(tiny_model, tokens, answers):
    got = lens.head_source_attribution(tiny_model, tokens, answers)
    _, cache = tiny_model.run_with_cache(tokens)
    scale = cache["ln_final.hook_scale"][:, -1]
    direction = (tiny_model.W_U[:, answers[:, 0]] - tiny_model.W_U[:, answers[:, 1]]).T
    for layer, head, source, b in [(0, 1, 3, 0), (1, 3, 0, 1), (1, 2, 7, 0)]:
        attention = cache[f"blocks.{layer}.attn.hook_pattern"][b, head, -1, source]
        value = cache[f"blocks.{layer}.attn.hook_v"][b, source, head]
        written = attention * value @ tiny_model.W_O[layer, head]
        want = (written - written.mean()) / scale[b] @ direction[b]
        assert torch.allclose(got[b, layer, head, source], want, atol=1e-6)


@SHARED
@given(data=st.data())
def test_attribution_is_exact_odd_and_blind_to_the_rest_of_the_batch(tiny_model, data):
    d_vocab = tiny_model.W_U.shape[1]
    draw = st.integers(1, d_vocab - 1)  # 0 is what texts are padded with
    length = data.draw(st.integers(1, 12))
    rows = data.draw(st.lists(st.lists(draw, min_size=length, max_size=length), min_size=1))
    tokens = torch.tensor(rows)
    pairs = torch.tensor([[data.draw(draw), data.draw(draw)] for _ in rows])
    got = lens.logit_attribution(tiny_model, tokens, pairs)
    logits = tiny_model(tokens)[:, -1].gather(1, pairs)
    assert torch.allclose(got.total(), logits[:, 0] - logits[:, 1], atol=1e-5)
    swapped = lens.logit_attribution(tiny_model, tokens, pairs.flip(1))
    assert torch.allclose(swapped.stacked(), -got.stacked(), atol=1e-5)
    alone = lens.logit_attribution(tiny_model, tokens[-1:], pairs[-1:])
    assert torch.allclose(alone.stacked(), got.stacked()[-1:], atol=1e-5)


def test_an_unfolded_model_is_refused(tiny_folder):
    raw = TransformerBridge.boot_transformers(str(tiny_folder), device="cpu").eval()
    with pytest.raises(ValueError, match="not folded: load the model with mi.load_model"):
        lens.logit_attribution(raw, torch.tensor([[0, 5, 6]]), torch.tensor([7]))


def test_nothing_stays_behind_in_the_model(tiny_model, tokens, answers):
    before = tiny_model(tokens)
    lens.logit_attribution(tiny_model, tokens, answers)
    lens.head_source_attribution(tiny_model, tokens, answers)
    lens.decompose(tiny_model, tokens)
    assert not any(hook.fwd_hooks for hook in tiny_model.hook_dict.values())
    assert torch.equal(tiny_model(tokens), before)


# --- the logit lens, as it comes from TransformerLens ---


def test_the_logit_lens_ends_at_the_models_own_prediction(tiny_model, tokens):
    got = lens.logit_lens(tiny_model, tokens, positions=None, incl_mid=True, return_type="probs")
    assert len(got.labels) == 2 * tiny_model.cfg.n_layers + 1
    probs = tiny_model(tokens).softmax(-1)
    assert torch.allclose(got.values[-1], probs, atol=1e-6)
    assert not torch.allclose(got.values[0], probs, atol=1e-4)


# --- virtual weights ---


def naive_ratio(written, read):
    return torch.linalg.matrix_norm(written @ read) / (
        torch.linalg.matrix_norm(written) * torch.linalg.matrix_norm(read)
    )


def test_virtual_weights_of_mlps_equal_the_naive_product(tiny_model):
    got = lens.virtual_weights(tiny_model)
    assert got.labels == ("L0 MLP", "L1 MLP")
    want = naive_ratio(tiny_model.W_out[0], tiny_model.W_in[1])
    assert torch.allclose(got.ratio[0, 1], want, rtol=1e-4)
    assert got.ratio.isnan().tolist() == [[True, False], [True, True]]
    assert torch.equal(got.reachable(), got.ratio[0, 1:])


def test_a_rotation_is_a_rotation_and_takes_the_ratio_to_one_over_root_d(tiny_model):
    d_model = tiny_model.cfg.d_model
    turn = lens.random_rotation(d_model, seed=3)
    assert torch.allclose(turn @ turn.T, torch.eye(d_model), atol=1e-5)
    assert torch.equal(turn, lens.random_rotation(d_model, seed=3))
    assert not torch.allclose(turn, lens.random_rotation(d_model, seed=4), atol=0.1)
    squares = [
        lens.virtual_weights(tiny_model, rotation=lens.random_rotation(d_model, seed)).reachable()
        for seed in range(40)
    ]
    mean = torch.stack(squares).square().mean()
    assert mean.item() == pytest.approx(1 / d_model, rel=0.05)
    plain = lens.virtual_weights(tiny_model)
    still = lens.virtual_weights(tiny_model, rotation=torch.eye(d_model))
    assert torch.allclose(still.reachable(), plain.reachable(), rtol=1e-4)


# --- bad input ---


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([1, 2, 3]), r"\[batch, pos\], got \[3\]"),
        (torch.ones(1, 3), r"integers"),
        (torch.zeros(0, 4, dtype=torch.long), r"empty"),
        ("The capital", r"got str"),
    ],
)
def test_bad_tokens_are_refused(tiny_model, answers, tokens, message):
    for call in (lens.logit_attribution, lens.head_source_attribution):
        with pytest.raises(ValueError, match=message):
            call(tiny_model, tokens, answers)
    with pytest.raises(ValueError, match=message):
        lens.decompose(tiny_model, tokens)


def test_a_position_outside_the_prompt_is_refused(tiny_model, tokens, answers):
    for position in (8, -9):
        message = f"position {position} is outside the prompt of 8 tokens"
        with pytest.raises(ValueError, match=message):
            lens.decompose(tiny_model, tokens, positions=[0, position])
        with pytest.raises(ValueError, match=message):
            lens.logit_attribution(tiny_model, tokens, answers, position=position)
        with pytest.raises(ValueError, match=message):
            lens.head_source_attribution(tiny_model, tokens, answers, position=position)


def test_answers_that_do_not_fit_are_refused(tiny_model, tokens, answers):
    d_vocab = tiny_model.W_U.shape[1]
    for bad, message in [
        (answers[:1], r"for 2 prompts, got \[1, 2\]"),
        (torch.zeros(2, 3, dtype=torch.long), r"got \[2, 3\]"),
        (answers + d_vocab, rf"0\.\.{d_vocab - 1}"),
        (-answers - 1, rf"0\.\.{d_vocab - 1}"),
    ]:
        with pytest.raises(ValueError, match=message):
            lens.logit_attribution(tiny_model, tokens, bad)


def test_bad_virtual_weights_are_refused(tiny_model):
    with pytest.raises(ValueError, match=r"rotation must be \[32, 32\], got \[3, 3\]"):
        lens.virtual_weights(tiny_model, rotation=torch.eye(3))


# Other architectures, against plain transformers

EXACT = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture
def both():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, 451, (2, 7), generator=generator), torch.tensor([[3, 9], [8, 2]])


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("position", [-1, 2])
def test_attribution_sums_to_the_logit_difference_of_plain_transformers(
    other, both, kind, position
):
    model, hf = other(kind)
    tokens, answers = both
    with torch.no_grad():
        logits = hf(tokens).logits[:, position]
    want = logits.gather(1, answers).diff(dim=1)[:, 0].neg()
    found = lens.logit_attribution(model, tokens, answers, position=position)
    torch.testing.assert_close(found.total(), want, **EXACT)
    assert want.abs().min() > 1e-2
    assert found.pos.abs().max() == 0, "a rotary model adds no position embedding"
    sources = lens.head_source_attribution(model, tokens, answers, position=position)
    torch.testing.assert_close(sources.sum(-1), found.heads, **EXACT)
    torch.testing.assert_close(found.cumulative()[:, -1], want, **EXACT)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_parts_are_all_that_plain_transformers_adds_up(other, both, kind):
    model, hf = other(kind)
    found = lens.decompose(model, both[0], [0, -1])
    with torch.no_grad():
        seen = []
        final = hf.gpt_neox.final_layer_norm if kind == "neox" else hf.model.norm
        handle = final.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        hf(both[0])
        handle.remove()
    want = seen[0][:, [0, -1]]
    if kind == "neox":  # LayerNorm takes the mean out, so the bridge never writes it
        want = want - want.mean(-1, keepdim=True)
    torch.testing.assert_close(found.parts.sum(0), want, **EXACT)
    labels = dict(zip(found.labels, found.parts, strict=True))
    assert labels["pos"].abs().max() == 0
    has_bias = kind in ("neox", "qwen2")  # Qwen2's from the values' biases, folded into it
    assert bool(labels["L0 attn bias"].abs().max() > 0) == has_bias


def test_what_is_no_sum_is_refused_with_its_reason(other, both, tiny_model, monkeypatch):
    gemma2, _ = other("gemma2")
    with pytest.raises(ValueError, match=r"normalises what heads and MLPs write.*ln1_post"):
        lens.decompose(gemma2, both[0])
    for split in (lens.logit_attribution, lens.head_source_attribution):
        with pytest.raises(ValueError, match=r"caps its logits at 3 by a tanh"):
            split(gemma2, *both)
    monkeypatch.setattr(gemma2.cfg, "output_logits_soft_cap", -1.0)
    for split in (lens.logit_attribution, lens.head_source_attribution):
        with pytest.raises(ValueError, match="normalises what heads and MLPs write"):
            split(gemma2, *both)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_texts_are_refused(tiny_model, answers, side):
    tokens = tiny_model.to_tokens(["one two", "The cat sat on the mat"], padding_side=side)
    for split in (
        lens.logit_attribution,
        lens.head_source_attribution,
        lambda model, tokens, _: lens.decompose(model, tokens),
    ):
        with pytest.raises(ValueError, match=f"padded on the {side}"):
            split(tiny_model, tokens, answers[:2])


def folded(norm, weight):
    """A matrix of plain transformers that reads behind a norm, [d_model rows], gains folded in."""
    return weight.T * norm.weight.detach()[:, None]


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen2"])
def test_virtual_weights_are_those_of_plain_transformers(other, kind):
    model, hf = other(kind)
    layers = hf.model.layers
    found = lens.virtual_weights(model)
    write = layers[0].mlp.down_proj.weight.T
    late = layers[2]
    read = torch.cat(
        [
            folded(late.post_attention_layernorm, matrix.weight)
            for matrix in (late.mlp.up_proj, late.mlp.gate_proj)
        ],
        dim=1,
    )
    want = (write @ read).norm() / (write.norm() * read.norm())
    assert found.ratio[0, 2].item() == pytest.approx(want.item(), abs=2e-6)
    alone = read[:, :64]
    ungated = (write @ alone).norm() / (write.norm() * alone.norm())
    assert abs(want - ungated) > 2e-5, "the gate must matter"


def test_virtual_weights_behind_another_norm_are_refused(other):
    gemma2, _ = other("gemma2")
    with pytest.raises(ValueError, match="normalises what heads and MLPs write"):
        lens.virtual_weights(gemma2)
