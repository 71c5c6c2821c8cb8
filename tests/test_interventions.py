"""Interventions: where they act, that they are undone, and that none is silent."""

from __future__ import annotations

import pytest
import torch

from mi_helpers.interventions import NothingHappened, intervene, replace, write_hooks
from mi_helpers.sites import hook_name, read

PLACE = ("resid_post", 0)
LATER = ("resid_post", 1)
CLOSE = dict(atol=2e-5, rtol=2e-5)
LONG, SHORT = "The cat sat on the mat and Mary", "one two three"


@pytest.fixture
def tokens():
    return torch.randint(1, 451, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nudge():
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    return lambda acts, where: acts + direction


def no_hooks(model) -> bool:
    hooked = any(point.fwd_hooks for point in model.hook_dict.values())
    inner = model.original_model
    watching = [*inner._forward_pre_hooks.values(), *inner._forward_hooks.values()]
    ours = any("_Text" in getattr(hook, "__qualname__", "") for hook in watching)
    return not (hooked or ours or "generate" in vars(model))


def changed(model, tokens, edit, positions, place=PLACE) -> list[list[int]]:
    """The positions of each row at which an intervention changed the place."""
    before = read(model, tokens, [place])[place]
    with intervene(model, {place: edit}, positions=positions):
        after = read(model, tokens, [place])[place]
    return [row.nonzero()[:, 0].tolist() for row in (before != after).any(-1)]


# Where


@pytest.mark.parametrize(
    ("positions", "want"),
    [
        (None, list(range(9))),
        ([0, 3], [0, 3]),
        ([-1], [8]),
        ([2, -2, 2], [2, 7]),
        (range(1, 3), [1, 2]),
        (slice(6, None), [6, 7, 8]),
        (slice(None, 2), [0, 1]),
        (slice(1, 8, 3), [1, 4, 7]),
        (slice(7, 99), [7, 8]),
    ],
)
def test_it_acts_at_these_positions_and_at_no_other(tiny_model, tokens, nudge, positions, want):
    assert changed(tiny_model, tokens, nudge, positions) == [want] * 3
    assert no_hooks(tiny_model)


def test_a_mask_says_it_for_each_prompt(tiny_model, tokens, nudge):
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 2] = mask[2, [4, 8]] = True
    assert changed(tiny_model, tokens, nudge, mask) == [[2], [], [4, 8]]
    with intervene(tiny_model, {PLACE: nudge}, positions=mask[:, :8]):
        with pytest.raises(ValueError, match=r"mask of positions is \[3, 8\], the prompts are \[3"):
            tiny_model(tokens)
        tiny_model(tokens[:, :8])


def test_the_edit_is_told_where_it_stands_and_what_is_there(tiny_model, tokens):
    seen = []

    def look(acts, where):
        seen.append((acts.clone(), where.clone()))
        return acts

    with intervene(tiny_model, {("pattern", 1): look}) as fired:
        pattern = read(tiny_model, tokens, [("pattern", 1)])["pattern", 1]
    ((acts, where),) = seen
    assert torch.equal(acts, pattern) and acts.shape == (3, 9, 4, 9)
    assert torch.equal(where, torch.arange(9).expand(3, 9))
    assert fired.by_hook == {hook_name("pattern", 1): 1} and fired.positions == 9


def test_an_edit_may_change_what_it_is_given(tiny_model, tokens):
    def in_place(acts, where):
        acts[:] = 0
        return acts

    assert changed(tiny_model, tokens, in_place, [3]) == [[3]] * 3
    with intervene(tiny_model, {("resid_pre", 1): in_place}):
        acts = read(tiny_model, tokens, [PLACE, ("resid_pre", 1)])
    assert acts["resid_pre", 1].abs().max() == 0 and acts[PLACE].abs().min(-1).values.max() > 0


def test_replace_puts_one_value_everywhere(tiny_model, tokens):
    value = torch.arange(32.0)
    with intervene(tiny_model, {PLACE: replace(value)}):
        assert torch.equal(read(tiny_model, tokens, [PLACE])[PLACE], value.expand(3, 9, 32))


def test_every_write_is_all_that_makes_the_stream(tiny_model, other, tokens):
    for model in (tiny_model, *(other(kind)[0] for kind in ("neox", "llama", "gemma2"))):
        writes = read(model, tokens, write_hooks(model)).values()
        stream = read(model, tokens, [("resid_post", model.cfg.n_layers - 1)])
        total = sum(write.expand(3, 9, 32) for write in writes)
        torch.testing.assert_close(total, next(iter(stream.values())), atol=1e-4, rtol=1e-4)


# Padded texts


@pytest.mark.parametrize("positions", [[-1], [1, -2], slice(2, None), [0]])
def test_in_padded_texts_it_acts_as_on_each_text_alone(tiny_model, nudge, positions):
    texts = [SHORT, LONG]
    rows = [tiny_model.to_tokens(text) for text in texts]
    alone = [changed(tiny_model, row, nudge, positions)[0] for row in rows]
    left = tiny_model.to_tokens(texts, padding_side="left")
    mask = torch.ones_like(left)
    gap = left.shape[1] - rows[0].shape[1]
    mask[0, :gap] = 0
    seen = []

    def look(acts, where):
        seen.append(where)
        return nudge(acts, where)

    with intervene(tiny_model, {PLACE: look}, positions=positions), torch.no_grad():
        steered = tiny_model(left, attention_mask=mask)[:, -1]
    assert seen[0][0].tolist() == [-1] * gap + list(range(rows[0].shape[1]))
    for i, row in enumerate(rows):
        with intervene(tiny_model, {PLACE: nudge}, positions=positions), torch.no_grad():
            want = tiny_model(row)[0, -1]
        torch.testing.assert_close(steered[i], want, atol=1e-5, rtol=1e-5)
    assert alone[0] != alone[1] or positions == [0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_in_texts_padded_without_a_mask_are_refused(tiny_model, nudge, side):
    tokens = tiny_model.to_tokens([SHORT, LONG], padding_side=side)
    with intervene(tiny_model, {PLACE: nudge}, positions=[-1]):
        with pytest.raises(ValueError, match=f"padded on the {side}"):
            tiny_model(tokens)
        tiny_model(tokens[:1])
    with intervene(tiny_model, {PLACE: nudge}):  # everywhere is everywhere
        tiny_model(tokens)


# Generation


def generated(model, prompt, cache: bool, n: int = 6):
    """Logits of a greedy continuation, [batch step d_vocab]; they tell more than its tokens."""
    options = dict(max_new_tokens=n, do_sample=False, verbose=False, stop_at_eos=False)
    out = model.generate(prompt, use_past_kv_cache=cache, output_logits=True, **options)
    return torch.stack(list(out.logits), dim=1)


@pytest.mark.parametrize(
    "positions", [None, [-1], [1, -2], slice(3, None), slice(None, 4), slice(0, 99, 3), "mask"]
)
@pytest.mark.parametrize("kind", ["tiny", "llama"])
def test_generation_does_not_depend_on_the_cache(tiny_model, other, nudge, positions, kind):
    model = tiny_model if kind == "tiny" else other(kind)[0]
    tokens = model.to_tokens(LONG)
    if positions == "mask":
        positions = torch.arange(tokens.shape[1])[None] % 3 == 1
    with intervene(model, {PLACE: nudge}, positions=positions) as fired:
        with_cache = generated(model, tokens, True)
        calls = fired.count
        torch.testing.assert_close(generated(model, tokens, False), with_cache, **CLOSE)
    assert (generated(model, tokens, True) - with_cache).abs().max() > 1e-3
    new_tokens = positions is None or isinstance(positions, slice) and positions.stop != 4
    assert calls > 1 if new_tokens else calls == 1
    assert no_hooks(model)


@pytest.mark.parametrize("cache", [True, False])
def test_new_tokens_are_counted_on_from_the_prompt(tiny_model, cache):
    where_seen = []

    def look(acts, where):
        where_seen.append(where[0].tolist())
        return acts

    tokens = tiny_model.to_tokens(LONG)
    n = tokens.shape[1]
    with intervene(tiny_model, {PLACE: look}, positions=slice(n, None)):
        generated(tiny_model, tokens, cache, n=4)
    # the last token is drawn and never run
    ends = [n, n + 1, n + 2]
    assert where_seen == [[end] for end in ends] if cache else [list(range(e + 1)) for e in ends]


@pytest.mark.parametrize("positions", [None, [-1], slice(2, None), [0, -2]])
def test_a_padded_batch_is_generated_as_each_text_alone(tiny_model, nudge, positions):
    with intervene(tiny_model, {PLACE: nudge}, positions=positions):
        both = generated(tiny_model, [SHORT, LONG], True)
        alone = [generated(tiny_model, [text], True) for text in (SHORT, LONG)]
    torch.testing.assert_close(both, torch.cat(alone), **CLOSE)
    plain = generated(tiny_model, [SHORT, LONG], True)
    assert (both - plain).abs().amax((1, 2)).min() > 1e-3


def test_a_cache_passed_by_hand_is_counted_too(tiny_model, nudge):
    tokens = tiny_model.to_tokens(LONG)
    with intervene(tiny_model, {PLACE: nudge}, positions=[-2]) as fired:
        whole = tiny_model(tokens)
        _, cache = tiny_model(tokens[:, :-1], return_type="logits_and_cache", use_cache=True)
        again = fired.count
        tiny_model(tokens[:, -1:], past_key_values=cache)
        assert fired.count == again  # the prompt's end but one was in the pass before
    assert whole.isfinite().all()


def test_a_pass_after_generation_starts_anew(tiny_model, tokens, nudge):
    with intervene(tiny_model, {PLACE: nudge}, positions=[-1]):
        generated(tiny_model, tokens[:1], True)
        after = read(tiny_model, tokens, [PLACE])[PLACE]
    before = read(tiny_model, tokens, [PLACE])[PLACE]
    assert (before != after).any(-1).nonzero().tolist() == [[i, 8] for i in range(3)]


def test_a_block_called_alone_counts_from_its_own_start(tiny_model, tokens, nudge):
    stream = read(tiny_model, tokens, [("resid_pre", 1)])["resid_pre", 1]
    with intervene(tiny_model, {LATER: nudge}, positions=[-1]), torch.no_grad():
        generated(tiny_model, tokens[:1], True)
        out = tiny_model.blocks[1](stream)
    out = out[0] if isinstance(out, tuple) else out
    plain = read(tiny_model, tokens, [LATER])[LATER]
    assert (out - plain).abs().amax(-1).gt(1e-4).nonzero().tolist() == [[i, 8] for i in range(3)]


# Nested, undone, never silent


def test_the_inner_one_acts_last(tiny_model, tokens):
    with (
        intervene(tiny_model, {PLACE: lambda acts, where: acts * 0 + 1}),
        intervene(tiny_model, {PLACE: lambda acts, where: acts * 3}),
    ):
        inside = read(tiny_model, tokens, [PLACE])[PLACE]
    assert (inside == 3).all() and no_hooks(tiny_model)


def test_inner_and_outer_know_generation_alike(tiny_model, nudge):
    tokens = tiny_model.to_tokens(LONG)
    with (
        intervene(tiny_model, {PLACE: nudge}, positions=[-1]) as outer,
        intervene(tiny_model, {LATER: nudge}, positions=[-1]) as inner,
    ):
        generated(tiny_model, tokens, True)
    assert outer.count == inner.count == 1


def test_an_error_inside_undoes_it_and_is_not_hidden(tiny_model, tokens, nudge):
    before = tiny_model(tokens)
    with pytest.raises(ZeroDivisionError), intervene(tiny_model, {PLACE: nudge}):
        1 / 0  # noqa: B018
    assert no_hooks(tiny_model) and torch.equal(tiny_model(tokens), before)
    with (
        pytest.raises(ValueError, match="gave"),
        intervene(tiny_model, {PLACE: lambda acts, where: acts[:, 0]}),
    ):
        tiny_model(tokens)
    assert no_hooks(tiny_model) and torch.equal(tiny_model(tokens), before)


@pytest.mark.parametrize(
    "body", [lambda m, t: None, lambda m, t: m.blocks[0].mlp(torch.ones(1, 1, 32))]
)
def test_nothing_run_is_an_error(tiny_model, tokens, nudge, body):
    with (
        pytest.raises(NothingHappened, match="nothing was changed at blocks.0.hook_resid_post"),
        intervene(tiny_model, {PLACE: nudge}),
    ):
        body(tiny_model, tokens)
    assert no_hooks(tiny_model)


def test_one_silent_place_among_several_is_named(tiny_model, other, tokens, nudge):
    neox, _ = other("neox")  # its attention and MLP run in parallel: there is no middle
    edits = {PLACE: nudge, "blocks.1.hook_mlp_in": nudge}
    with pytest.raises((NothingHappened, ValueError), match=r"hook_mlp_in|use_hook_mlp_in"):
        with intervene(neox, edits):
            neox(tokens)
    with (
        pytest.raises(NothingHappened, match=r"blocks\.0\.hook_resid_post"),
        intervene(tiny_model, {PLACE: nudge}, positions=slice(20, None)),
    ):
        tiny_model(tokens)


def test_a_reading_that_ends_early_is_no_silence(tiny_model, tokens, nudge):
    with intervene(tiny_model, {PLACE: nudge, LATER: nudge}):
        read(tiny_model, tokens, [PLACE])
    with (
        pytest.raises(NothingHappened, match="blocks.1"),
        intervene(tiny_model, {LATER: nudge}),
    ):
        read(tiny_model, tokens, [PLACE])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], "positions are empty"),
        (torch.zeros(3, 9, dtype=torch.bool), "selects nothing"),
        (torch.tensor([1, 2, 3]), "must be a boolean mask"),
        (torch.zeros(9, dtype=torch.bool), "must be a boolean mask"),
        (slice(-3, None), "counts from the start"),
        (slice(0, -1), "counts from the start"),
        (slice(0, 9, -1), "counts from the start"),
        (slice(4, 4), "holds no position"),
        ([1.0], "whole numbers"),
        ([True], "whole numbers"),
        (3, "must be a list"),
        ("end", "must be a list"),
    ],
)
def test_positions_that_mean_nothing_are_refused_before_a_run(
    tiny_model, nudge, positions, message
):
    with (
        pytest.raises(ValueError, match=message),
        intervene(tiny_model, {PLACE: nudge}, positions=positions),
    ):
        pytest.fail("the block was entered")
    assert no_hooks(tiny_model)


@pytest.mark.parametrize("positions", [[9], [-10], [0, 99]])
def test_positions_outside_a_text_are_refused(tiny_model, tokens, nudge, positions):
    with pytest.raises(ValueError, match="outside a prompt of 9 tokens"):
        with intervene(tiny_model, {PLACE: nudge}, positions=positions):
            tiny_model(tokens)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({}, "no edit was given"),
        ({("resid_post", 2): replace(0.0)}, "layer 2 is not in"),
        ({"blocks.0.hook_nothing": replace(0.0)}, "has no 'blocks.0.hook_nothing'"),
        ({PLACE: replace(0.0), hook_name(PLACE): replace(1.0)}, "two edits of one hook"),
    ],
)
def test_edits_of_nothing_are_refused(tiny_model, edits, message):
    with pytest.raises(ValueError, match=message), intervene(tiny_model, edits):
        pytest.fail("the block was entered")


def test_attention_scores_are_turned_like_patterns(other, tokens):
    llama, _ = other("llama")
    scores = hook_name("pattern", 0).replace("pattern", "attn_scores")
    with intervene(llama, {scores: replace(0.0)}, positions=[4]):
        pattern = read(llama, tokens, [("pattern", 0)])["pattern", 0]
    assert torch.allclose(pattern[:, 4], torch.full((3, 4, 9), 1 / 9))  # the future too
    assert not torch.allclose(pattern[:, 5], torch.full((3, 4, 9), 1 / 9))
