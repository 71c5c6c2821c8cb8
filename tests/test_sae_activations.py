"""Activations read by the quick way are those of the model, or the quick way is not taken."""

from __future__ import annotations

import pytest
import torch

from mi_helpers.sae.activations import Activations, quick_reader, read_site

SITES = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out",
         "hook_resid_post")  # fmt: skip


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 100, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_quick_way_reads_what_the_model_computes(tiny_model, tokens, site, layer) -> None:
    hook = f"blocks.{layer}.{site}"
    read = quick_reader(tiny_model, hook, tokens[:1])
    assert read is not None
    want = read_site(tiny_model, hook, tokens)
    torch.testing.assert_close(read(tiny_model, hook, tokens), want)
    assert want.std() > 1e-3


@pytest.mark.parametrize("hook", ["blocks.1.ln1.hook_scale", "hook_embed", "blocks.0.attn.hook_q"])
def test_other_sites_are_left_to_the_model(tiny_model, tokens, hook) -> None:
    assert quick_reader(tiny_model, hook, tokens[:1]) is None


def test_a_hook_of_your_own_is_heeded(tiny_model, tokens) -> None:
    def doubled(act: torch.Tensor, hook: object) -> torch.Tensor:
        return 2 * act

    hook = "blocks.1.hook_resid_post"
    plain = Activations(tiny_model, hook, tokens, buffer=80).chunk(0)
    with tiny_model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", doubled)]):
        assert quick_reader(tiny_model, hook, tokens[:1]) is None
        hooked = Activations(tiny_model, hook, tokens, buffer=80).chunk(0)
        want = read_site(tiny_model, hook, tokens).flatten(0, 1)
    torch.testing.assert_close(hooked, want)
    assert not torch.allclose(hooked, plain, atol=1e-2)
