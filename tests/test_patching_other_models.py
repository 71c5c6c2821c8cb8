"""Sweeps, ablations and attributions on architectures that are not GPT-2's."""

from __future__ import annotations

import pytest
import torch
from checkpoints import save_tiny
from transformer_lens import patching as tl_patching
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from mi_helpers import patching
from mi_helpers.patching import LogitDiff, Noised, OtherRun, Zero

SIZE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
KINDS = {  # parallel blocks with rotary positions; grouped keys and values, gated MLPs
    "pythia": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2}),
}
SWEEPS = {
    "resid_pre": tl_patching.get_act_patch_resid_pre,
    "attn_out": tl_patching.get_act_patch_attn_out,
    "z": tl_patching.get_act_patch_attn_head_out_all_pos,
    "k": tl_patching.get_act_patch_attn_head_k_all_pos,
    "pattern": tl_patching.get_act_patch_attn_head_pattern_all_pos,
}


@pytest.fixture(scope="module", params=KINDS)
def other_model(request, tmp_path_factory):
    from mi_helpers.models import load_model

    kind, config, extra = KINDS[request.param]
    folder = save_tiny(tmp_path_factory.mktemp("models") / request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = kind(config(vocab_size=451, **SIZE, **extra))
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    weights.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def test_any_architecture_can_be_patched(other_model):
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(1, 451, (2, 6), generator=generator)
    source = torch.randint(1, 451, (2, 6), generator=generator)
    metric = LogitDiff(torch.tensor([[1, 2], [3, 4]]))
    with torch.no_grad():
        _, cache = other_model.run_with_cache(source)
    for site, sweep in SWEEPS.items():
        over = ("layer", "head") if patching.SITES[site].per_head else ("layer", "position")
        ours = patching.patch_sweep(
            other_model, base, OtherRun(source), metric, site=site, over=over, progress=False
        )
        with torch.no_grad():
            wanted = sweep(other_model, base, cache, lambda logits: metric(logits).mean())
        assert wanted.std() > 0.01, site
        torch.testing.assert_close(ours.mean(), wanted, rtol=0, atol=1e-5)
    noised = Noised(base, torch.arange(6).expand(2, 6) == 3, scale=0.5)
    tracing = patching.patch_sweep(
        other_model, noised, OtherRun(base), metric, over=("layer",), progress=False
    )
    torch.testing.assert_close(tracing.recovery(), torch.ones(2), rtol=0, atol=1e-4)
    ablated = patching.ablate(other_model, base, Zero(), metric, [["L0H1", "MLP1"]])
    assert ablated.effect().abs() > 0.01
    found = patching.attribution(other_model, base, OtherRun(source), metric)["z"]
    assert found.values.shape == (2, 6, 4, 2) and found.values.abs().max() > 0.01
    with pytest.raises(ValueError, match="made for GPT-2's architecture"):
        patching.edge_attribution(other_model, base, OtherRun(source), metric)


def test_a_site_that_a_model_lacks_is_named(other_model):
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
