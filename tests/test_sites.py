"""Sites: names both ways, reading in one run, and what is refused instead of guessed."""

from __future__ import annotations

import pytest
import torch

from mi_helpers import sites
from mi_helpers.patching import Where
from mi_helpers.patching.where import components
from mi_helpers.sites import SITES, Head, read


@pytest.fixture
def tokens():
    return torch.randint(1, 451, (3, 9), generator=torch.Generator().manual_seed(0))


def test_a_head_is_a_pair_with_a_name():
    assert str(Head(9, 6)) == f"{Head(9, 6)}" == "L9H6"
    assert Head.parse("L9H6") == (9, 6) and Head.parse("L10H11") == Head(10, 11)
    for bad in ("9.6", "L9", "H6", "L9H6 ", "MLP3"):
        with pytest.raises(ValueError, match="is no head: write L9H6"):
            Head.parse(bad)


def test_every_place_is_found_again_by_its_hook():
    for name in SITES:
        for layer in (0, 7, 31):
            hook = sites.hook_name(name, layer)
            assert hook == sites.hook_name((name, layer)) == sites.hook_name(hook)
            assert sites.place_of(hook) == (name, layer)
    assert len({sites.hook_name(name, 0) for name in SITES}) == len(SITES)
    for hook in (
        "hook_embed",
        "blocks.0.hook_out",
        "blocks.x.attn.hook_z",
        "blocks.0.attn.hook_zz",
    ):
        assert sites.place_of(hook) is None
    with pytest.raises(KeyError, match="unknown site 'resid'; the sites are: resid_pre"):
        sites.hook_name("resid", 0)


def test_read_is_what_the_cache_holds(tiny_model, tokens):
    places = [(name, layer) for name in SITES for layer in (1, 0) if name != "result"]
    found = read(tiny_model, tokens, [*places, "hook_embed"])
    _, cache = tiny_model.run_with_cache(tokens)
    assert list(found) == [*places, "hook_embed"]
    for place, acts in found.items():
        want = cache[sites.hook_name(place)]
        if place[0] == "pattern":
            want = want.transpose(1, 2)
        assert torch.equal(acts, want), place
        assert acts.shape[:2] == tokens.shape
    found["resid_pre", 0].zero_()  # a copy: what was read with it stays
    assert found["hook_embed"].abs().sum() > 0


def test_read_keeps_the_positions_asked_for_in_their_order(tiny_model, tokens):
    place = ("z", 1)
    whole = read(tiny_model, tokens, [place])[place]
    some = read(tiny_model, tokens, [place], positions=[-1, 2, 0])[place]
    assert torch.equal(some, whole[:, [-1, 2, 0]])


def test_read_ends_with_what_is_last_and_leaves_no_hook(tiny_model, tokens, monkeypatch):
    calls = []
    handle = tiny_model.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    read(tiny_model, tokens, [("resid_post", 0)])
    assert not calls
    read(tiny_model, tokens, [("resid_post", 1)])
    handle.remove()
    assert calls
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())


def test_read_may_reduce_where_it_sees(tiny_model, tokens):
    places = [("pattern", 0), ("pattern", 1)]
    whole = read(tiny_model, tokens, places)
    sums = read(tiny_model, tokens, places, reduce=lambda place, act: (place, act.sum().item()))
    for place in places:
        assert sums[place] == (place, pytest.approx(whole[place].sum().item()))


def test_read_takes_no_gradient(tiny_model, tokens):
    assert not read(tiny_model, tokens, [("z", 0)])["z", 0].requires_grad


@pytest.mark.parametrize(
    ("places", "options", "message"),
    [
        ([], {}, "no place was given"),
        ([("z", 2)], {}, r"layer 2 is not in 0\.\.1"),
        ([("z", -1)], {}, r"layer -1 is not in 0\.\.1"),
        (["blocks.0.hook_zz"], {}, "has no 'blocks.0.hook_zz'; there is, for example"),
        ([("result", 0)], {}, "set_use_attn_result"),
        ([("z", 0)], {"positions": []}, "positions are empty"),
        ([("z", 0)], {"positions": [9]}, "position 9 is outside the prompt of 9 tokens"),
        ([("z", 0)], {"positions": [-10]}, "position -10 is outside"),
    ],
)
def test_what_cannot_be_read_is_refused(tiny_model, tokens, places, options, message):
    with pytest.raises(ValueError, match=message):
        read(tiny_model, tokens, places, **options)
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())


@pytest.mark.parametrize(
    "bad", [torch.zeros(3), torch.zeros(2, 3), torch.zeros(0, 3).long(), [[1]]]
)
def test_tokens_that_are_none_are_refused(tiny_model, bad):
    with pytest.raises(ValueError, match="tokens"):
        read(tiny_model, bad, [("z", 0)])


def test_a_site_that_parallel_blocks_lack_is_named(other):
    model, _ = other("neox")
    with pytest.raises(ValueError, match="resid_mid"):
        read(model, torch.tensor([[5, 6]]), [("resid_mid", 0)])


def test_training_mode_is_refused(tiny_folder, tokens):
    from mi_helpers.models import load_model

    model = load_model(str(tiny_folder), device="cpu")
    first = read(model, tokens, [("resid_post", 1)])
    model.train()
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        read(model, tokens, [("resid_post", 1)])
    model.eval()
    assert torch.equal(
        read(model, tokens, [("resid_post", 1)])["resid_post", 1], first["resid_post", 1]
    )


# Padding

TEXTS = ["one two", "The cat sat on the mat"]


def test_padding_is_told_from_what_the_texts_begin_and_end_with(tiny_model):
    bos = tiny_model.tokenizer.bos_token_id
    right = tiny_model.to_tokens(TEXTS)
    left = tiny_model.to_tokens(TEXTS, padding_side="left")
    short = right.shape[1] - len(tiny_model.to_tokens(TEXTS[0])[0])
    assert short > 1 and right[0, -1] == left[0, 0] == bos
    assert [n.tolist() for n in sites.padding(tiny_model, right)] == [[0, 0], [short, 0]]
    assert [n.tolist() for n in sites.padding(tiny_model, left)] == [[short, 0], [0, 0]]
    same = torch.tensor([[bos, 5, 6, bos], [bos, 7, 8, bos]])  # each text ends with the token
    for tokens in (same, right[:1], torch.tensor([[bos, 5, 6], [5, 6, 7]])):
        assert not any(n.any() for n in sites.padding(tiny_model, tokens))


@pytest.mark.parametrize("side", ["left", "right"])
def test_single_positions_of_padded_texts_are_refused(tiny_model, side):
    tokens = tiny_model.to_tokens(TEXTS, padding_side=side)
    with pytest.raises(ValueError, match=f"padded on the {side} \\(row 0 by"):
        read(tiny_model, tokens, [("z", 0)], positions=[-1])
    assert read(tiny_model, tokens, [("z", 0)])["z", 0].shape[:2] == tokens.shape


# Where


def test_where_is_a_product_or_a_mask(tiny_model):
    chosen = Where(layers=[-1], positions=[0, -2], heads=[3]).resolve(tiny_model.cfg, "z", 5)
    assert chosen.nonzero().tolist() == [[1, 0, 3], [1, 3, 3]]
    assert Where(mask=chosen).resolve(tiny_model.cfg, "z", 5).equal(chosen)
    assert Where().resolve(tiny_model.cfg, "resid_pre", 5).shape == (2, 5, 1)


def test_positions_by_prompt_are_no_selection(tiny_model):
    with pytest.raises(ValueError, match="tensor"):
        Where(positions=torch.tensor([1, 2])).resolve(tiny_model.cfg, "z", 5)


def test_components_are_named(tiny_model):
    found = components(tiny_model.cfg, {"L1H2": [-1], "MLP0": None}, 4)
    assert found["z"].mask.nonzero().tolist() == [[1, 3, 2]]
    assert found["mlp_out"].mask.nonzero().tolist() == [[0, i, 0] for i in range(4)]
    with pytest.raises(ValueError, match="'H2' is no component"):
        components(tiny_model.cfg, ["H2"], 4)
