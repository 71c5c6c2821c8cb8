"""Edits of one fact: the update in closed form, the value it needs, and their undoing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_models import PLAIN

from mi_helpers import steering
from mi_helpers.sites import read

LAYER = 1
KEY = ("mlp_post", LAYER)


@pytest.fixture
def tokens(tiny_model):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, tiny_model.cfg.d_vocab, (3, 9), generator=generator)


@pytest.fixture
def keys():
    """Keys as they usually occur, of very different sizes by neuron, [key d_mlp]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(500, 128, generator=generator) * torch.linspace(0.1, 3, 128)


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens)


# ---- the update


def test_an_edit_maps_the_key_to_the_new_value_and_is_undone(tiny_model, tokens):
    keys = read(tiny_model, tokens, [KEY])[KEY]
    covariance = steering.key_covariance(tiny_model, tokens, [LAYER])[LAYER]
    key, change = keys[0, -1], torch.randn(32, generator=torch.Generator().manual_seed(3))
    left = steering.rome_key(covariance, key)
    W_out = tiny_model.blocks[LAYER].mlp.W_out
    old, before = W_out.clone(), logits(tiny_model, tokens)
    with steering.rank_one(tiny_model, LAYER, left, change):
        assert torch.allclose(key @ W_out - key @ old, change, atol=1e-3)
        assert torch.linalg.matrix_rank(W_out - old, atol=1e-4) == 1
        assert (logits(tiny_model, tokens) - before).abs().max() > 1e-3
    assert torch.equal(W_out, old)
    assert torch.equal(logits(tiny_model, tokens), before)


def test_an_edit_leaves_keys_alone_that_are_orthogonal_to_it(keys):
    covariance = keys.T @ keys / len(keys)
    key = torch.randn(128, generator=torch.Generator().manual_seed(1))
    left = steering.rome_key(covariance, key)
    others = keys - torch.outer(keys @ left, left) / (left @ left)
    assert key @ left == pytest.approx(1, abs=1e-4)
    assert (others @ left).abs().max() < 1e-5 < 1e-2 < (keys @ left).abs().max()


def test_an_edit_disturbs_usual_keys_less_than_the_plain_one(keys):
    covariance = keys.T @ keys / len(keys)
    key = torch.randn(128, generator=torch.Generator().manual_seed(1))
    rome, plain = steering.rome_key(covariance, key), key / (key @ key)
    assert key @ plain == pytest.approx(1, abs=1e-4)
    assert (keys @ rome).square().mean() < 0.3 * (keys @ plain).square().mean()


def test_the_covariance_leaves_out_bos_and_does_not_depend_on_the_batch(tiny_model, tokens):
    tokens = tokens.clone()
    for start in (True, False):
        tokens[:, 0] = tiny_model.tokenizer.bos_token_id if start else 7
        seen = read(tiny_model, tokens, [KEY])[KEY][:, int(start) :].flatten(0, 1)
        found = steering.key_covariance(tiny_model, tokens, [0, LAYER], batch=2)
        assert list(found) == [0, LAYER]
        assert torch.allclose(found[LAYER], seen.T @ seen / len(seen), atol=1e-6)
        assert not torch.allclose(found[0], found[LAYER], atol=1e-6)


def test_the_covariance_of_padded_texts_is_refused(tiny_model):
    padded = tiny_model.to_tokens(["one two", "The cat sat on the mat"])
    with pytest.raises(ValueError, match="padded on the right"):
        steering.key_covariance(tiny_model, padded, [0])
    with pytest.raises(ValueError, match="nothing but start tokens"):
        steering.key_covariance(tiny_model, padded[:, :1], [0])


def test_an_edit_is_undone_after_an_error_too(tiny_model):
    W_out = tiny_model.blocks[LAYER].mlp.W_out
    old = W_out.clone()
    with pytest.raises(RuntimeError, match="inside"):
        with steering.rank_one(tiny_model, LAYER, torch.ones(128), torch.ones(32)):
            assert torch.allclose(W_out, old + 1)
            raise RuntimeError("inside")
    assert torch.equal(W_out, old)


def test_wrong_layers_and_shapes_are_refused_before_anything_changes(tiny_model, tokens):
    W_out = tiny_model.blocks[LAYER].mlp.W_out
    old = W_out.clone()
    for layer, key, value, message in (
        (2, 128, 32, "2"),
        (LAYER, 127, 32, r"\[127, 32\] and W_out is \[128, 32\]"),
        (LAYER, 128, 31, r"\[128, 31\]"),
    ):
        with pytest.raises(ValueError, match=message):
            with steering.rank_one(tiny_model, layer, torch.ones(key), torch.ones(value)):
                pass
    with pytest.raises(ValueError, match="key of 127 neurons"):
        steering.rome_key(torch.eye(128), torch.ones(127))
    with pytest.raises(ValueError, match="7"):
        steering.key_covariance(tiny_model, tokens, [0, 7])
    assert torch.equal(W_out, old)


# ---- the value

ANSWER, AT = 17, [3, 4]
STEPS = dict(steps=10, rate=10.0, decay=0.0)  # a random model moves little


def chance(model, rows, delta):
    """Mean log probability of the answer with `delta` added, one prompt after the other."""
    found = []
    for row, position in zip(rows, AT, strict=True):

        def write(acts, hook, position=position):
            acts = acts.clone()
            acts[:, position] += delta
            return acts

        hooks = [("blocks.0.hook_mlp_out", write)]
        out = model.run_with_hooks(row[None], fwd_hooks=hooks)
        found.append(out[0, -1].log_softmax(-1)[ANSWER])
    return torch.stack(found).mean().item()


def test_the_value_raises_the_answer(tiny_model, tokens):
    rows = [tokens[0], tokens[1, :6]]  # of unequal length
    found = steering.find_value(tiny_model, rows, AT, ANSWER, 0, **STEPS)
    as_it_is = chance(tiny_model, rows, torch.zeros(32))
    assert chance(tiny_model, rows, found) - as_it_is > 1e-3
    assert as_it_is - chance(tiny_model, rows, -found) > 5e-4


def test_steps_and_decay_are_counted_in_what_the_mlp_writes(tiny_model, tokens):
    rows = [tokens[0], tokens[1, :6]]
    first = steering.find_value(tiny_model, rows, AT, ANSWER, 0, **STEPS | dict(steps=1, rate=0.5))
    cached = [tiny_model.run_with_cache(row[None])[1]["blocks.0.hook_mlp_out"] for row in rows]
    written = torch.stack([acts[0, at] for acts, at in zip(cached, AT, strict=True)])
    size = written.square().mean(-1).sqrt().mean()  # Adam's first step is `rate` everywhere
    assert torch.allclose(first.abs(), (0.5 * size).expand(32), rtol=0.05)
    free, held = (
        steering.find_value(tiny_model, rows, AT, ANSWER, 0, **STEPS | dict(decay=decay))
        for decay in (0.0, 1.0)
    )
    assert held.norm() < 0.5 * free.norm()


def test_the_search_ends_when_the_answer_is_sure_enough(tiny_model, tokens):
    rows = [tokens[0], tokens[1, :6]]
    for enough, moves in ((100.0, False), (0.0, True)):
        found = steering.find_value(tiny_model, rows, AT, ANSWER, 0, **STEPS, enough=enough)
        assert bool(found.abs().max() > 0) == moves


def test_the_value_needs_prompts_and_a_position_in_each(tiny_model, tokens):
    rows = [tokens[0], tokens[1, :6]]
    for given, positions, message in (
        (rows, [9, 0], "position 9 is outside a prompt of 9"),
        (rows, [0, 6], "position 6 is outside a prompt of 6"),
        (rows, [-1, 0], "position -1"),
        (rows, [1], "2 prompts and 1 positions"),
        ([], [], "0 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            steering.find_value(tiny_model, given, positions, ANSWER, 0)


@pytest.mark.parametrize("answer", [[5, 6], -1, 451, True, 5.0, "5", torch.tensor([5, 6])])
def test_the_answer_must_be_one_token(tiny_model, tokens, answer):
    with pytest.raises(ValueError, match="answer must be the id of one token"):
        steering.find_value(tiny_model, [tokens[0]], [3], answer, 0, **STEPS)


def test_any_whole_number_will_do_as_an_answer(tiny_model, tokens):
    want = steering.find_value(tiny_model, [tokens[0]], [3], 17, 0, **STEPS)
    for answer in (np.int64(17), torch.tensor(17)):
        found = steering.find_value(tiny_model, [tokens[0]], [3], answer, 0, **STEPS)
        assert torch.equal(found, want)


# ---- other architectures


@pytest.mark.parametrize("kind", PLAIN)
def test_an_edit_of_another_model_maps_the_key_to_the_new_value(other, kind):
    model, _ = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(0))
    places = [("mlp_post", 1), ("mlp_out", 1)]
    before = read(model, tokens, places)
    key, value = (before[place][0, 3] for place in places)
    new = value + torch.randn(32, generator=torch.Generator().manual_seed(1))
    covariance = steering.key_covariance(model, tokens, [1])[1]
    with steering.rank_one(model, 1, steering.rome_key(covariance, key), new - value):
        after = read(model, tokens, places)["mlp_out", 1]
    torch.testing.assert_close(after[0, 3], new, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(read(model, tokens, places)["mlp_out", 1], before["mlp_out", 1])


def test_weights_behind_another_norm_are_not_edited(other):
    model, _ = other("gemma2")
    with pytest.raises(ValueError, match="normalises what heads and MLPs write"):
        with steering.rank_one(model, 1, torch.ones(64), torch.ones(32)):
            pytest.fail("the block was entered")
