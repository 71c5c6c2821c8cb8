"""Tiny training: the task, the model against a loop, and runs that can be interrupted."""

from __future__ import annotations

import pytest
import torch

from mi_helpers.toys import induction, runs
from mi_helpers.toys.induction import AttentionOnly, TinyConfig

SMALL = TinyConfig(n_heads=2, d_model=8, d_vocab=10, n_ctx=12, periods=(2, 5), batch=4, log_every=3)


def test_rows_repeat_blocks_of_distinct_tokens_with_their_own_period():
    tokens, period = induction.draw(SMALL, 50, step=7)
    assert set(period.tolist()) == {2, 3, 4, 5}
    for row, p in zip(tokens.tolist(), period.tolist(), strict=True):
        assert len(set(row[:p])) == p
        assert all(row[i] == row[i % p] for i in range(SMALL.n_ctx))


def test_a_batch_depends_on_seed_and_step_alone():
    batch = induction.draw(SMALL, 4, 3)[0]
    torch.manual_seed(99)
    assert torch.equal(batch, induction.draw(SMALL, 4, 3)[0])
    assert not torch.equal(batch, induction.draw(SMALL, 4, 4)[0])
    assert not torch.equal(batch, induction.draw(TinyConfig(seed=1), 4, 3)[0][:, :12])


def layer_norm(row):
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def test_the_model_equals_a_loop_over_heads_and_queries():
    model = AttentionOnly(SMALL)
    tokens = induction.draw(SMALL, 1, 0)[0]
    with torch.no_grad():
        logits, patterns = model(tokens)
        stream = [model.embed[t] + model.pos_embed[i] for i, t in enumerate(tokens[0])]
        for layer in range(2):
            normal = [layer_norm(row) for row in stream]
            q, k, v = (torch.stack(normal) @ model.qkv[layer]).split(8, dim=-1)
            for i in range(SMALL.n_ctx):
                z = []
                for head in (slice(0, 4), slice(4, 8)):
                    scores = torch.stack([q[i, head] @ k[j, head] / 2 for j in range(i + 1)])
                    weights = scores.softmax(0)
                    z.append(sum(w * v[j, head] for j, w in enumerate(weights)))
                    got = patterns[layer, 0, head.start // 4, i]
                    assert torch.allclose(got[: i + 1], weights, atol=1e-5)
                    assert got[i + 1 :].abs().max() == 0 if i + 1 < SMALL.n_ctx else True
                stream[i] = stream[i] + torch.cat(z) @ model.out[layer]
        want = torch.stack([layer_norm(row) @ model.unembed for row in stream])
    assert torch.allclose(logits[0], want, atol=1e-4)


def test_the_first_step_can_be_given():
    """Only the first layer looks back, it stays so, and what follows learns."""
    given = TinyConfig(**{**vars(SMALL), "previous_token_given": True})
    run = runs.train(induction.start(given), 5)
    back = torch.eye(SMALL.n_ctx).roll(1, 0)
    back[0] = torch.eye(SMALL.n_ctx)[0]
    for model in (AttentionOnly(given), run.model):
        patterns = model(induction.draw(given, 3, 0)[0])[1]
        assert torch.equal(patterns[0], back.expand(3, 2, -1, -1))
        assert not torch.allclose(patterns[1], patterns[0], atol=0.1)
    assert not torch.equal(run.model.qkv[1], AttentionOnly(given).qkv[1])
    assert run.curve("previous_token")[:, 0].eq(1).all()


def test_an_interrupted_run_ends_as_if_it_had_not_been():
    whole = runs.train(induction.start(SMALL), 10)
    parts = induction.start(SMALL)
    for steps in (4, 4, 10):
        runs.train(parts, steps)
    assert parts.step == whole.step == 10
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    assert whole.curve("step").tolist() == [0, 3, 6, 9, 10]
    assert parts.curve("step").tolist() == [0, 3, 4, 6, 9, 10]
    assert whole.curve("induction").shape == (5, 2, 2)


def test_seeds_differ_and_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = runs.train(induction.start(SMALL), 3)
    assert torch.equal(before, torch.random.get_rng_state())
    other = TinyConfig(**{**vars(SMALL), "seed": 1})
    two = runs.train(induction.start(other), 3)
    assert not torch.equal(one.model.embed, two.model.embed)


def test_training_lowers_the_loss_on_the_held_out_batch():
    run = runs.train(induction.start(SMALL), 150)
    losses = run.curve("loss")
    assert losses[-1] < losses[0] - 0.2


def test_measures_are_what_they_say():
    """A model that always says the same: every token costs the same, and context does not help."""
    model = AttentionOnly(SMALL)
    with torch.no_grad():
        model.unembed.zero_()
    found = induction.measure(model, SMALL)
    uniform = torch.tensor(10.0).log()
    for name in ("loss", "first_copy", "repeats"):
        assert torch.allclose(found[name], uniform)
    assert found["in_context"].abs() < 1e-6
    for kind in ("induction", "previous_token"):
        assert found[kind].shape == (2, 2) and (found[kind] > 0).all() and (found[kind] < 1).all()


def test_repeats_are_the_tokens_that_the_row_determines():
    """A model that knows the next token of every repeat: no loss there, and only there."""
    tokens, period = induction.draw(SMALL, 64, -1)

    class Oracle(torch.nn.Module):
        def forward(self, rows):
            logits = torch.zeros(*rows.shape, 10)
            for b, p in enumerate(period.tolist()):
                for i in range(p - 1, SMALL.n_ctx - 1):
                    if i + 1 > p:
                        logits[b, i, rows[b, i + 1]] = 50.0
            return logits, torch.full((2, len(rows), 2, 12, 12), 1 / 12)

    found = induction.measure(Oracle(), SMALL)
    assert found["repeats"] < 1e-4 and torch.allclose(found["first_copy"], torch.tensor(10.0).log())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"periods": (0, 3)}, r"periods \(0, 3\)"),
        ({"periods": (4, 3)}, r"periods \(4, 3\)"),
        ({"periods": (2, 7)}, "n_ctx / 2 = 6"),
        ({"periods": (2, 6), "d_vocab": 5}, "d_vocab = 5"),
        ({"n_heads": 3}, "3 heads do not fit d_model = 8"),
        ({"n_layers": 0}, "0 layers"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TinyConfig(**{**vars(SMALL), **change})


def test_no_steps_and_unknown_curves_are_refused():
    run = induction.start(SMALL)
    with pytest.raises(ValueError, match="got 0"):
        runs.train(run, 0)
    runs.train(run, 1)
    with pytest.raises(KeyError, match="accuracy"):
        run.curve("accuracy")
