"""Sweeps, ablations and attributions on architectures that are not GPT-2's."""

from __future__ import annotations

import warnings

import pytest
import torch
from checkpoints import save_tiny
from transformer_lens import patching as tl_patching
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mi_helpers import circuits, patching, sites
from mi_helpers.engine import FusedModel, parts, prepare, quick_readers
from mi_helpers.patching import LogitDiff, Noised, OtherRun, Zero
from mi_helpers.sites import hook_name, site_layout

SIZE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
KINDS = {
    # attention and MLP side by side, a part of each head rotated, biases
    "pythia": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "neox in sequence": (GPTNeoXForCausalLM, GPTNeoXConfig, {"use_parallel_residual": False}),
    # RMSNorm, shared keys and values, gated MLPs
    "llama": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2}),
    # biases of queries, keys and values alone
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 2}),
    # embeddings scaled, heads wider than d_model / n_heads, one key for all
    "gemma": (GemmaForCausalLM, GemmaConfig, {"num_key_value_heads": 1, "head_dim": 16}),
}
SWEEPS = {
    "resid_pre": tl_patching.get_act_patch_resid_pre,
    "attn_out": tl_patching.get_act_patch_attn_out,
    "mlp_out": tl_patching.get_act_patch_mlp_out,
    "q": tl_patching.get_act_patch_attn_head_q_all_pos,
    "v": tl_patching.get_act_patch_attn_head_v_all_pos,
    "z": tl_patching.get_act_patch_attn_head_out_all_pos,
    "k": tl_patching.get_act_patch_attn_head_k_all_pos,
    "pattern": tl_patching.get_act_patch_attn_head_pattern_all_pos,
}


@pytest.fixture(scope="module", params=KINDS)
def other_model(request, tmp_path_factory):
    kind, config, extra = KINDS[request.param]
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param)
    return saved_and_loaded(kind, config(vocab_size=451, **SIZE, **extra), folder)


def saved_and_loaded(kind, config, folder):
    """A random model of some kind, with weights large enough for every part to matter."""
    from mi_helpers.models import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = kind(config)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    weights.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture(params=["fused", "hooked"])
def any_engine(request, monkeypatch):
    """Both engines must pass."""
    if request.param == "hooked":
        monkeypatch.setattr(FusedModel, "supports", staticmethod(lambda model: False))
    return request.param


def test_the_fused_pass_is_taken_where_it_is_the_model(other_model, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    base, source = torch.randint(1, 451, (2, 2, 6), generator=generator)
    metric = LogitDiff(torch.tensor([[1, 2], [3, 4]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setup = prepare(other_model, base, metric)
    with torch.no_grad():
        _, cache = other_model.run_with_cache(base)
        torch.testing.assert_close(
            setup.logits(setup.base.final), other_model(base), rtol=1e-5, atol=1e-4
        )
    assert set(setup.fused.steps[0].writes) == {"q", "k", "v"}
    for site in patching.SITES:
        for layer in range(2):
            if site == "result" or hook_name(site, layer) not in other_model.hook_dict:
                continue
            wanted = site_layout((site, layer), cache[hook_name(site, layer)])
            torch.testing.assert_close(setup.base.get(site, layer), wanted, rtol=1e-5, atol=1e-4)
    read = quick_readers(other_model, [("mlp_post", 1)], base)
    assert "quick" in read.__qualname__
    wanted = sites.read(other_model, source, [("mlp_post", 1)])["mlp_post", 1]
    torch.testing.assert_close(read(source)[0], wanted, rtol=1e-5, atol=1e-4)
    # a variant of the architecture that is not written down goes through the model itself
    rotated = parts.Rotary.rotated
    monkeypatch.setattr(parts.Rotary, "rotated", lambda self, x, n: rotated(self, x, n) * 1.1)
    with pytest.warns(UserWarning, match="off the model"):
        sweep = patching.patch_sweep(other_model, base, OtherRun(source), metric)
    torch.testing.assert_close(sweep.base, setup.values["metric"], rtol=0, atol=1e-5)


def test_any_architecture_can_be_patched(any_engine, other_model):
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(1, 451, (2, 6), generator=generator)
    source = torch.randint(1, 451, (2, 6), generator=generator)
    metric = LogitDiff(torch.tensor([[1, 2], [3, 4]]))
    with torch.no_grad():
        _, cache = other_model.run_with_cache(source)
    for site, sweep in SWEEPS.items():
        over = ("layer", "head") if patching.SITES[site].per_head else ("layer", "position")
        ours = patching.patch_sweep(
            other_model, base, OtherRun(source), metric, site=site, over=over
        )
        with torch.no_grad():
            wanted = sweep(other_model, base, cache, lambda logits: metric(logits).mean())
        assert wanted.std() > 0.01, site
        torch.testing.assert_close(ours.mean(), wanted, rtol=0, atol=1e-5)
    noised = Noised(base, torch.arange(6).expand(2, 6) == 3, scale=0.5)
    tracing = patching.patch_sweep(other_model, noised, OtherRun(base), metric, over=("layer",))
    torch.testing.assert_close(tracing.recovery(), torch.ones(2), rtol=0, atol=1e-4)
    ablated = patching.ablate(other_model, base, Zero(), metric, [["L0H1", "MLP1"]])
    assert ablated.effect().abs() > 0.01
    found = patching.attribution(other_model, base, OtherRun(source), metric)["z"]
    assert found.values.shape == (2, 6, 4, 2) and found.values.abs().max() > 0.01
    if any_engine == "hooked":
        with pytest.raises(ValueError, match="an architecture that the engine knows"):
            circuits.edge_attribution(other_model, base, OtherRun(source), metric)


@pytest.mark.parametrize("site", ["mlp_in", "mlp_post"])
def test_inside_the_mlp_of_any_architecture(any_engine, other_model, site):
    generator = torch.Generator().manual_seed(0)
    base, source = torch.randint(1, 451, (2, 2, 6), generator=generator)
    metric = LogitDiff(torch.tensor([[1, 2], [3, 4]]))
    sweep = patching.patch_sweep(other_model, base, OtherRun(source), metric, site=site)
    with torch.no_grad():
        _, cache = other_model.run_with_cache(source)
    for layer in range(2):
        name = hook_name(site, layer)

        def put(act, hook, clean=cache[name]):
            act = act.clone()
            act[:, -1] = clean[:, -1]
            return act

        with torch.no_grad():
            wanted = metric(other_model.run_with_hooks(base, fwd_hooks=[(name, put)]))
        torch.testing.assert_close(sweep.values[layer, -1], wanted, rtol=0, atol=1e-5)
        assert sweep.effect()[layer, -1].abs() > 1e-4


@pytest.mark.parametrize("cap", [3.0, None])
def test_soft_capped_logits(cap, tmp_path):
    """The last step of Gemma 2 is not linear: a logit difference needs the logits themselves."""
    config = Gemma2Config(
        vocab_size=451, head_dim=8, num_key_value_heads=4, final_logit_softcapping=cap, **SIZE
    )
    model = saved_and_loaded(Gemma2ForCausalLM, config, save_tiny(tmp_path / "gemma2"))
    base, source = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 9, 7, 8]])
    metric = LogitDiff(torch.tensor([[1, 2]]))
    sweep = patching.patch_sweep(model, base, OtherRun(source), metric)
    name = hook_name("resid_pre", 1)
    with torch.no_grad():
        _, cache = model.run_with_cache(source)

        def put(act, hook):
            act[:, 1] = cache[name][:, 1]

        wanted = metric(model.run_with_hooks(base, fwd_hooks=[(name, put)]))
        torch.testing.assert_close(sweep.base, metric(model(base)), rtol=0, atol=1e-5)
        bent = metric(model.unembed(model.ln_final(cache[hook_name("resid_post", 1)])))
    torch.testing.assert_close(sweep.values[1, 1], wanted, rtol=0, atol=1e-5)
    assert sweep.effect()[1, 1].abs() > 1e-4
    assert ((bent - sweep.target).abs() > 1e-3) == (cap is not None), "the cap does something"


def test_a_site_that_a_model_lacks_is_named(any_engine, other_model):
    if other_model.cfg.parallel_attn_mlp:
        base, source = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 8, 9]])
        with pytest.raises(KeyError, match="does not compute resid_mid"):
            patching.patch_sweep(
                other_model,
                base,
                OtherRun(source),
                LogitDiff(torch.tensor([[1, 2]])),
                site="resid_mid",
            )
