"""Streams: read the quick way they are what the model computes, or that way is not taken."""

from __future__ import annotations

import pytest
import torch

from mi_helpers import sae as S
from mi_helpers.engine import quick_readers
from mi_helpers.interventions import intervene
from mi_helpers.sae.stream import Activations, read_flat

SITES = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out",
         "hook_resid_post")  # fmt: skip


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 100, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_quick_way_reads_what_the_model_computes(tiny_model, tokens, site, layer) -> None:
    hook = f"blocks.{layer}.{site}"
    read = quick_readers(tiny_model, [hook], tokens[:1])
    assert read.__name__ == "quick"
    want = read_flat(tiny_model, hook, tokens)
    torch.testing.assert_close(read(tokens)[0].flatten(2), want)
    assert want.std() > 1e-3


@pytest.mark.parametrize("hook", ["blocks.1.ln1.hook_scale", "hook_embed"])
def test_other_sites_are_left_to_the_model(tiny_model, tokens, hook) -> None:
    assert quick_readers(tiny_model, [hook], tokens[:1]).__name__ == "plain"


def test_a_hook_of_your_own_is_heeded(tiny_model, tokens) -> None:
    hook = "blocks.1.hook_resid_post"
    plain = Activations(tiny_model, hook, tokens, buffer=80).chunk(0)
    with intervene(tiny_model, {("resid_pre", 0): lambda act, where: 2 * act}):
        assert quick_readers(tiny_model, [hook], tokens[:1]).__name__ == "plain"
        hooked = Activations(tiny_model, hook, tokens, buffer=80).chunk(0)
        want = read_flat(tiny_model, hook, tokens).flatten(0, 1)
    torch.testing.assert_close(hooked, want)
    assert not torch.allclose(hooked, plain, atol=1e-2)


def test_a_place_and_its_hook_are_the_same(tiny_model, tokens) -> None:
    one = Activations(tiny_model, ("z", 1), tokens)
    other = Activations(tiny_model, "blocks.1.attn.hook_z", tokens)
    assert one.hook == other.hook == "blocks.1.attn.hook_z" and one.identity == other.identity
    assert torch.equal(one.chunk(0), other.chunk(0))
    with pytest.raises(ValueError, match="layer 2 is not in"):
        Activations(tiny_model, ("z", 2), tokens)


def test_padding_on_the_left_is_refused(tiny_model, tokens) -> None:
    """The bridge would attend to it."""
    bos = tiny_model.tokenizer.bos_token_id
    padded = torch.cat([torch.full((5, 1), bos), tokens], dim=1)
    padded[2] = torch.cat([torch.full((3,), bos), tokens[2, :-2]])
    ends = torch.cat([padded[:2], padded[2:, 2:].roll(-2, 1)[:, :15].new_full((3, 17), bos)])
    ends[2:, :3] = tokens[2:, :3]
    assert Activations(tiny_model, ("resid_post", 1), ends).chunk(0).isfinite().all()
    real = torch.ones_like(padded, dtype=torch.bool)
    for call in (
        lambda: Activations(tiny_model, ("resid_post", 1), padded),
        lambda: S.read_tokens(tiny_model, ("resid_post", 1), padded, real),
    ):
        with pytest.raises(ValueError, match="row 2 is padded on the left by 2"):
            call()


def vectors(count: int = 300, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, d_in, generator=torch.Generator().manual_seed(seed))


def test_every_vector_comes_once_an_epoch_in_a_new_order() -> None:
    values = vectors(50)
    stream = S.Vectors(values)
    (first, place), second = stream.batch(50, (0, 0)), stream.sample(100)[50:]
    for epoch in (first, second):
        torch.testing.assert_close(epoch.sort(dim=0).values, values.sort(dim=0).values)
    assert not torch.equal(first, values) and not torch.equal(first, second)
    assert stream.chunks == 1 and place == (0, 50)
    torch.testing.assert_close(S.Vectors(values).sample(30), stream.sample(30), rtol=0, atol=0)
    assert not torch.equal(S.Vectors(values, seed=1).sample(30), stream.sample(30))


def test_a_run_on_vectors_resumes_exactly_and_on_no_others(tmp_path) -> None:
    recipe = S.Recipe("topk", d_sae=12, k=2, steps=20, batch=64)
    whole = S.train(S.start(S.Vectors(vectors()), recipe), progress=False).sae()
    part = S.train(S.start(S.Vectors(vectors()), recipe), 7, progress=False)
    path = part.save(tmp_path / "run.safetensors")
    again = S.train(S.resume(path, S.Vectors(vectors())), progress=False).sae()
    torch.testing.assert_close(again.W_enc, whole.W_enc, rtol=0, atol=0)
    changed = vectors()
    changed[3, 3] += 1e-3
    for other in (S.Vectors(changed), S.Vectors(vectors(), seed=1)):
        with pytest.raises(ValueError, match="other activations"):
            S.resume(path, other)


def test_its_sae_is_of_no_model(tiny_model) -> None:
    stream = S.Vectors(vectors(d_in=tiny_model.cfg.d_model))
    sae = S.start(stream, S.Recipe("relu", d_sae=8)).sae()
    assert (sae.hook, sae.model_id) == ("", "")
    with pytest.raises(ValueError, match="does not say which site"), S.splice(tiny_model, sae):
        pass


@pytest.mark.parametrize(
    "values, said",
    [
        (torch.ones(4), "token, d_in"),
        (torch.ones(1, 4), "two rows"),
        (torch.ones(4, 4, dtype=torch.long), "int64"),
        (torch.full((4, 4), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(values: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        S.Vectors(values)
