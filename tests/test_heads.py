"""Heads: every helper against a loop written out here, and its behaviour on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_models import MAKE, PLAIN

from mi_helpers import heads
from mi_helpers.heads.weights import embedded
from mi_helpers.interventions import NothingHappened
from mi_helpers.metrics import loss
from mi_helpers.models.parts import bias
from mi_helpers.patching import Mean, Zero, ablated
from mi_helpers.prompts import repeated_tokens
from mi_helpers.sites import norm_hooks, read

EXACT = dict(atol=1e-4, rtol=1e-4)
PAIR = (0, 1), (1, 2)


@pytest.fixture
def tokens(tiny_model):
    return repeated_tokens(tiny_model, 3, 12, seed=3)


def run(model, tokens, *names):
    return model.run_with_cache(tokens, names_filter=list(names))[1]


def every_head(model):
    return [(i, j) for i in range(model.cfg.n_layers) for j in range(model.cfg.n_heads)]


# Targets


def naive_target(row: list[int], query: int, key: int, kind: str) -> bool:
    if key > query:
        return False
    return {
        "previous_token": key == query - 1,
        "current_token": key == query,
        "first_token": key == 0 and query > 0,
        "duplicate_token": key < query and row[key] == row[query],
        "induction": 1 <= key < query and row[key - 1] == row[query],
    }[kind]


@given(
    rows=st.integers(1, 9).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=3
        )
    ),
    kind=st.sampled_from(heads.KINDS),
)
@settings(max_examples=60, deadline=None)
def test_targets_are_what_their_names_say(rows, kind):
    mask = heads.token_targets(torch.tensor(rows), kind)
    for b, row in enumerate(rows):
        for query in range(len(row)):
            for key in range(len(row)):
                want = naive_target(row, query, key, kind)
                assert mask[b, query, key] == want, (query, key)


def test_position_targets_are_one_pair_a_prompt():
    tokens, keys = torch.zeros(3, 6, dtype=torch.long), torch.tensor([0, 4, 2])
    mask = heads.position_targets(tokens, -1, keys)
    assert mask.nonzero().tolist() == [[0, 5, 0], [1, 5, 4], [2, 5, 2]]
    own = heads.position_targets(tokens, torch.tensor([3, 4, -1]), keys)
    assert own.nonzero().tolist() == [[0, 3, 0], [1, 4, 4], [2, 5, 2]]


@pytest.mark.parametrize(
    ("query", "key", "message"),
    [(6, 0, r"query \[6, 6\] is outside prompts of 6"), (-1, -7, "key"), (2, 3, "come after")],
)
def test_impossible_positions_are_refused(query, key, message):
    with pytest.raises(ValueError, match=message):
        heads.position_targets(torch.zeros(2, 6, dtype=torch.long), query, key)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'prefix'.*induction"):
        heads.token_targets(torch.zeros(1, 4, dtype=torch.long), "prefix")


# Attention scores


def test_attention_scores_equal_a_loop(tiny_model, tokens):
    scores = heads.attention_scores(tiny_model, tokens)
    assert set(scores) == set(heads.KINDS)
    for layer, head in every_head(tiny_model):
        name = f"blocks.{layer}.attn.hook_pattern"
        pattern = run(tiny_model, tokens, name)[name][:, head]
        for kind, table in scores.items():
            attended = []
            for b, row in enumerate(tokens.tolist()):
                for q in range(len(row)):
                    keys = [k for k in range(len(row)) if naive_target(row, q, k, kind)]
                    if keys:
                        attended.append(sum(pattern[b, q, k].item() for k in keys))
            assert table[layer, head].item() == pytest.approx(
                sum(attended) / len(attended), abs=1e-5
            )


def test_attention_on_everything_visible_is_all_of_it(tiny_model, tokens):
    everything = torch.ones(25, 25).tril().bool().expand(3, -1, -1)
    scores = heads.attention_scores(
        tiny_model,
        tokens,
        {"all": everything, "self": heads.token_targets(tokens, "current_token")},
    )
    assert torch.allclose(scores["all"], torch.ones(2, 4), atol=1e-5)
    assert (scores["self"] < 0.9).all()


def test_a_constructed_pattern_gets_full_marks(tiny_model, tokens):
    """The pattern is replaced by the targets themselves: 1 for that head, and only for it."""
    wanted = heads.token_targets(tokens, "induction").float()

    def perfect(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 2] = wanted
        return pattern

    tiny_model.add_hook("blocks.1.attn.hook_pattern", perfect)
    induction = heads.attention_scores(tiny_model, tokens)["induction"]
    assert induction[1, 2].item() == pytest.approx(1)
    assert heads.top_heads(induction, 1)[0][0] == (1, 2)
    induction[1, 2] = 0
    assert induction.max() < 0.5


def test_kinds_without_a_target_are_left_out(tiny_model):
    scores = heads.attention_scores(tiny_model, torch.tensor([[0, 5, 6, 7]]))
    assert set(scores) == {"previous_token", "current_token", "first_token"}


def test_masks_that_do_not_fit_are_refused_before_the_run(tiny_model, tokens):
    tiny_model.add_hook("hook_embed", lambda *_, hook: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match=r"mine: targets must be \[3, 25, 25\], got \[3, 4, 4\]"):
        heads.attention_scores(tiny_model, tokens, {"mine": torch.ones(3, 4, 4).bool()})
    with pytest.raises(ValueError, match="mine: no position"):
        heads.attention_scores(tiny_model, tokens, {"mine": torch.zeros(3, 25, 25).bool()})


@pytest.mark.parametrize("bad", [torch.zeros(0, 4).long(), torch.zeros(4).long(), torch.ones(1, 4)])
def test_bad_tokens_are_refused(tiny_model, bad):
    for helper in (heads.attention_scores, heads.positional_overlap):
        with pytest.raises(ValueError, match="tokens"):
            helper(tiny_model, bad)


def test_top_heads_are_in_order():
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    assert [head for head, _ in heads.top_heads(scores, 3)] == [(0, 1), (1, 0), (1, 1)]
    for bad, k in ((scores, 5), (scores, 0), (scores[0], 1), (scores * torch.nan, 1)):
        with pytest.raises(ValueError):
            heads.top_heads(bad, k)


# Positions alone


def test_positional_overlap_equals_a_loop(tiny_model, tokens):
    overlap = heads.positional_overlap(tiny_model, tokens)
    name = "blocks.1.attn.hook_pattern"
    pattern = run(tiny_model, tokens, name)[name]
    tiny_model.add_hook(
        "hook_embed",
        lambda embed, hook: tiny_model.W_E.mean(0).expand_as(embed),
        is_permanent=False,
    )
    alone = run(tiny_model, tokens, name)[name]
    tiny_model.reset_hooks()
    shares = [
        sum(
            min(a, b)
            for a, b in zip(pattern[n, 3, q].tolist(), alone[n, 3, q].tolist(), strict=True)
        )
        for n in range(len(tokens))
        for q in range(1, tokens.shape[1])
    ]
    assert overlap[1, 3].item() == pytest.approx(sum(shares) / len(shares), abs=1e-5)


def test_a_head_that_ignores_the_tokens_is_explained_by_positions(tiny_model, tokens):
    def by_position(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 0] = torch.eye(pattern.shape[-1])
        return pattern

    tiny_model.add_hook("blocks.0.attn.hook_pattern", by_position)
    overlap = heads.positional_overlap(tiny_model, tokens)
    assert overlap[0, 0].item() == pytest.approx(1)
    assert (overlap[0, 1:] < 0.999).all()


# QK and OV circuits


def test_circuits_rebuild_scores_and_outputs_of_every_head(tiny_model, tokens):
    for layer, head in every_head(tiny_model):
        block = f"blocks.{layer}.attn"
        cache = run(
            tiny_model,
            tokens,
            f"blocks.{layer}.ln1.hook_normalized",
            *(f"{block}.{hook}" for hook in ("hook_attn_scores", "hook_pattern", "hook_z")),
        )
        x = heads.with_one(cache[f"blocks.{layer}.ln1.hook_normalized"])
        scores = x @ heads.qk_circuit(tiny_model, (layer, head)) @ x.mT
        causal = torch.ones(scores.shape[-2:]).tril().bool()
        want = cache[f"{block}.hook_attn_scores"][:, head]
        assert torch.allclose(scores[:, causal], want[:, causal], atol=1e-5)
        output = cache[f"{block}.hook_pattern"][:, head] @ (
            x @ heads.ov_circuit(tiny_model, (layer, head))
        )
        want = cache[f"{block}.hook_z"][:, :, head] @ tiny_model.W_O[layer, head]
        assert torch.allclose(output, want, atol=1e-5)
        bare = x[..., :-1] @ heads.qk_circuit(tiny_model, (layer, head))[:-1, :-1] @ x[..., :-1].mT
        assert not torch.allclose(bare, scores, atol=1e-3), "the biases must matter"


@pytest.mark.parametrize("circuit", ["OV", "QK"])
def test_singular_directions_are_those_of_the_whole_matrix(tiny_model, circuit):
    whole = {"OV": heads.ov_circuit, "QK": heads.qk_circuit}[circuit](tiny_model, (1, 3))
    whole = whole[:32, :32]
    found = heads.singular_directions(tiny_model, (1, 3), circuit)
    assert torch.allclose(found.strength, torch.linalg.svdvals(whole)[:8], atol=1e-5)
    rebuilt = found.first.T @ (found.strength[:, None] * found.second)
    assert torch.allclose(rebuilt, whole, atol=1e-5)
    for side in (found.first, found.second):
        assert torch.allclose(side @ side.T, torch.eye(8), atol=1e-5)
    assert len(heads.singular_directions(tiny_model, (1, 3), circuit, 2).first) == 2


def test_copying_eigenvalues_are_those_of_the_whole_matrix(tiny_model):
    table = heads.copying_eigenvalues(tiny_model)
    for layer, head in ((0, 0), (1, 2)):
        ov = heads.ov_circuit(tiny_model, (layer, head))[:-1]
        values = torch.linalg.eigvals((tiny_model.W_E @ ov @ tiny_model.W_U).double())
        want = values.real.sum() / values.abs().sum()
        assert table[layer, head].item() == pytest.approx(want.item(), abs=1e-4)


ORDINARY = [SimpleNamespace(attn=SimpleNamespace())]  # blocks of no special kind


def bridge_of(W_E, W_V, W_O, W_U):
    """A stand-in with one layer of one head, made of given matrices."""
    factors = SimpleNamespace(A=W_V[None, None], B=W_O[None, None])
    config = SimpleNamespace(n_layers=1, n_heads=1, d_vocab=len(W_E), d_model=W_E.shape[1])
    return SimpleNamespace(
        W_E=W_E, W_U=W_U, OV=factors, cfg=config, embed=lambda tokens: W_E[tokens], blocks=ORDINARY
    )


@pytest.mark.parametrize(("sign", "eigen", "percentile"), [(1.0, 1.0, 1.0), (-1.0, -1.0, 0.0)])
def test_a_head_built_to_copy_scores_1_and_one_built_to_suppress_the_least(sign, eigen, percentile):
    basis = torch.eye(6)
    model = bridge_of(basis, basis, sign * basis, basis)
    assert heads.copying_eigenvalues(model).item() == pytest.approx(eigen)
    assert heads.copying_percentiles(model, torch.arange(6)).item() == pytest.approx(percentile)


def test_the_two_copying_measures_can_disagree():
    """Each token raises itself by 1 and its neighbour by 2: copying by trace, never on top."""
    basis = torch.eye(6)
    model = bridge_of(basis, basis, basis + 2 * basis.roll(1, 0), basis)
    assert heads.copying_eigenvalues(model).item() > 0.4
    assert heads.copying_percentiles(model, torch.arange(6)).item() == pytest.approx(0.8)


def test_copying_percentiles_equal_a_loop(tiny_model):
    some = torch.tensor([3, 14, 200, 60, 7])
    got = heads.copying_percentiles(tiny_model, some)
    ov = heads.ov_circuit(tiny_model, (1, 1))[:-1]
    logits = (tiny_model.W_E[some] @ ov @ tiny_model.W_U)[:, some].tolist()
    below = [sum(other < row[i] for other in row) / 4 for i, row in enumerate(logits)]
    assert got[1, 1].item() == pytest.approx(sum(below) / 5)


def test_copying_through_the_first_mlp_reads_what_later_heads_see(tiny_model):
    some = torch.tensor([3, 14, 200, 60, 7, 9, 80])
    block = tiny_model.blocks[0]
    read = tiny_model.W_E[some] + block.mlp(block.ln2(tiny_model.W_E[some][None]))[0]
    logits = read @ heads.ov_circuit(tiny_model, (1, 1))[:-1] @ tiny_model.W_U[:, some]
    want = (logits < logits.diagonal()[:, None]).float().sum(-1).mean() / 6
    got = heads.copying_percentiles(tiny_model, some, through_mlp0=True)[1, 1]
    assert got.item() == pytest.approx(want.item(), abs=1e-5)
    top = heads.ov_top_tokens(tiny_model, (1, 1), some, 3, through_mlp0=True)
    written = read @ heads.ov_circuit(tiny_model, (1, 1))[:-1] @ tiny_model.W_U
    assert [row["writes"] for row in top] == [
        heads.token_names(tiny_model, row.topk(3).indices) for row in written
    ]


def test_copying_top_k_equals_the_top_tokens_and_reads_the_bottom_too(tiny_model):
    some = torch.tensor([3, 14, 200, 60, 7, 9, 80])
    raised, lowered = heads.copying_top_k(tiny_model, some, 40)
    for layer, head in every_head(tiny_model):
        top = heads.ov_top_tokens(tiny_model, (layer, head), some, 40, through_mlp0=True)
        want = sum(row["reads"] in row["writes"] for row in top) / len(some)
        assert raised[layer, head].item() == pytest.approx(want)
        block = tiny_model.blocks[0]
        read = tiny_model.W_E[some] + block.mlp(block.ln2(tiny_model.W_E[some][None]))[0]
        logits = read @ heads.ov_circuit(tiny_model, (layer, head))[:-1] @ tiny_model.W_U
        below = (logits < logits.gather(1, some[:, None])).sum(-1)
        assert lowered[layer, head].item() == pytest.approx((below < 40).float().mean().item())
    assert raised.max() > 0 and not torch.equal(raised, lowered)


def test_top_tokens_and_skip_trigrams_equal_the_whole_tables(tiny_model):
    head, some = (1, 0), torch.tensor([20, 300])
    ov = tiny_model.W_E @ heads.ov_circuit(tiny_model, head)[:-1] @ tiny_model.W_U
    qk = tiny_model.W_E @ heads.qk_circuit(tiny_model, head)[:-1, :-1] @ tiny_model.W_E.T
    written = heads.ov_top_tokens(tiny_model, head, some, 4)
    rows = heads.skip_trigrams(tiny_model, head, some, 2)
    for token, top, row in zip(some.tolist(), written, rows, strict=True):
        assert top["reads"] == row["source"] == tiny_model.tokenizer.decode([token])
        assert top["writes"] == heads.token_names(tiny_model, ov[token].topk(4).indices)
        assert row["destinations"] == heads.token_names(tiny_model, qk[:, token].topk(2).indices)
        assert row["outputs"] == top["writes"][:2]


@pytest.mark.parametrize("bad", [(2, 0), (0, 4), (-1, 0)])
def test_a_head_that_does_not_exist_is_refused(tiny_model, tokens, bad):
    name = f"no head L{bad[0]}H{bad[1]} .*layers 0..1 of heads 0..3"
    calls = [
        lambda: heads.qk_circuit(tiny_model, bad),
        lambda: heads.ov_circuit(tiny_model, bad),
        lambda: heads.singular_directions(tiny_model, bad),
        lambda: heads.ov_top_tokens(tiny_model, bad, tokens[0]),
        lambda: heads.virtual_head(tiny_model, tokens, bad, (1, 0)),
        lambda: ablated(tiny_model, [bad], Zero()).__enter__(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=name):
            call()


def test_other_bad_arguments_are_refused(tiny_model):
    outside, inside = torch.tensor([9999]), torch.tensor([3])
    for call, message in [
        (lambda: heads.singular_directions(tiny_model, (0, 0), "VO"), "'VO'"),
        (lambda: heads.singular_directions(tiny_model, (0, 0), k=9), "d_head = 8, got 9"),
        (lambda: heads.copying_percentiles(tiny_model, inside), "one token"),
        (lambda: heads.copying_percentiles(tiny_model, outside), "9999"),
        (lambda: heads.copying_top_k(tiny_model, outside), "9999"),
        (lambda: heads.copying_top_k(tiny_model, inside, 0), "got 0"),
        (lambda: heads.ov_top_tokens(tiny_model, (0, 0), torch.zeros(0).long()), "list of token"),
        (lambda: heads.composition_baseline(tiny_model, draws=0), "got 0"),
        (lambda: heads.positional_overlap(tiny_model, inside[None]), "one token"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# Composition


def test_composition_scores_equal_a_loop_over_whole_matrices(tiny_model):
    scores = heads.composition_scores(tiny_model)
    for i in range(4):
        written = heads.ov_circuit(tiny_model, (0, i))[:-1]
        for j in range(4):
            qk = heads.qk_circuit(tiny_model, (1, j))[:-1, :-1]
            ov = heads.ov_circuit(tiny_model, (1, j))[:-1]
            for kind, reads in (("Q", qk), ("K", qk.T), ("V", ov)):
                want = (written @ reads).norm() / (written.norm() * reads.norm())
                assert scores[kind][0, i, 1, j].item() == pytest.approx(want.item(), abs=1e-5)
    for table in scores.values():
        assert table[0, :, 0].abs().max() == 0 and table[1].abs().max() == 0


def test_composition_scores_equal_the_library(tiny_model):
    for kind, table in heads.composition_scores(tiny_model).items():
        assert torch.allclose(table, tiny_model.all_composition_scores(kind).scores, atol=1e-6)


def bridge_with_layers(n_layers, n_heads, d_model, d_head, seed):
    """A stand-in of random matrices, to reach shapes that no small checkpoint has."""
    generator = torch.Generator().manual_seed(seed)

    def factors():
        a = torch.randn(n_layers, n_heads, d_model, d_head, generator=generator)
        return SimpleNamespace(A=a, B=torch.randn(*a.mT.shape, generator=generator))

    config = SimpleNamespace(
        n_layers=n_layers, n_heads=n_heads, d_model=d_model, positional_embedding_type="standard"
    )
    return SimpleNamespace(OV=factors(), QK=factors(), cfg=config, blocks=ORDINARY)


@given(
    shape=st.tuples(
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(2, 9),
        st.integers(1, 3),
        st.integers(0, 9),
    ),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=25, deadline=None)
def test_composition_scores_ignore_scale_and_stay_between_0_and_1(shape, scale):
    n_layers, n_heads, d_model, d_head, seed = shape
    model = bridge_with_layers(n_layers, n_heads, d_model, min(d_head, d_model), seed)
    before = heads.composition_scores(model)
    model.OV.A, model.QK.B = model.OV.A * scale, model.QK.B * scale
    for kind, after in heads.composition_scores(model).items():
        assert torch.allclose(before[kind], after, atol=1e-4)
        assert after.min() >= 0 and after.max() <= 1 + 1e-5


def test_aligned_heads_compose_fully_and_orthogonal_ones_not_at_all():
    model = bridge_with_layers(2, 2, 4, 1, 0)
    e = torch.eye(4)
    model.OV.A[:], model.OV.B[:] = e[0][:, None], e[1][None]  # reads axis 0, writes axis 1
    model.QK.A[:], model.QK.B[:] = e[2][:, None], e[3][None]
    model.QK.B[1, 1] = e[1][None]  # L1H1's keys read axis 1, its queries do not
    scores = heads.composition_scores(model)
    assert scores["K"][0, :, 1, 1].tolist() == [1, 1] and scores["K"][0, :, 1, 0].max() == 0
    assert scores["Q"].abs().max() == 0 and scores["V"].abs().max() == 0


def test_the_baseline_has_the_mean_square_that_chance_has_and_repeats():
    model = bridge_with_layers(4, 4, 24, 2, 1)
    baseline = heads.composition_baseline(model, draws=6, seed=5)
    for sample in baseline.values():
        assert len(sample) == 6 * 16 * 16
        assert sample.square().mean().item() == pytest.approx(1 / 24, rel=0.1)
        assert 0 < sample.std() < 0.2
    again = heads.composition_baseline(model, draws=6, seed=5)
    other = heads.composition_baseline(model, draws=6, seed=6)
    assert torch.equal(baseline["K"], again["K"]) and not torch.equal(baseline["K"], other["K"])


@pytest.mark.slow
def test_composition_of_gpt2_small_is_fast_and_small():
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_composition.py"
    command = [sys.executable, str(script), "--no-library"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["pairs"] == 66 * 144 and report["peak_gib"] < 2
    assert report["helper_s"] > 0, "the time is reported, not judged"


# Virtual heads


def test_a_virtual_head_predicts_the_isolated_path(tiny_model, tokens):
    virtual = heads.virtual_head(tiny_model, tokens, *PAIR)
    measured = heads.isolated_path(tiny_model, tokens, *PAIR)
    assert torch.allclose(virtual.output, measured, atol=1e-6) and measured.abs().max() > 1e-4
    other = heads.virtual_head(tiny_model, tokens, (0, 2), (1, 2))
    assert not torch.allclose(other.output, measured, atol=1e-5)
    assert virtual.ov.shape == (33, 32) and torch.linalg.matrix_rank(virtual.ov) <= 8
    assert torch.equal(virtual.pattern, virtual.pattern.tril())


def test_isolating_a_path_leaves_no_hook_behind(tiny_model, tokens):
    before = tiny_model(tokens)
    heads.isolated_path(tiny_model, tokens, *PAIR)
    assert torch.equal(tiny_model(tokens), before)


def test_heads_of_one_layer_form_no_virtual_head(tiny_model, tokens):
    for helper in (heads.virtual_head, heads.isolated_path):
        with pytest.raises(ValueError, match="L1H1 cannot read what L1H0 writes"):
            helper(tiny_model, tokens, (1, 0), (1, 1))


# Ablation


def test_ablation_silences_these_heads_and_no_other(tiny_model, tokens):
    names = [f"blocks.{layer}.attn.hook_z" for layer in (0, 1)]
    before = run(tiny_model, tokens, *names)
    with ablated(tiny_model, [(0, 1), (0, 3)], Zero()) as firings:
        after = run(tiny_model, tokens, *names)
    assert firings.count == 1
    assert after[names[0]][:, :, [1, 3]].abs().max() == 0
    assert torch.equal(after[names[0]][:, :, [0, 2]], before[names[0]][:, :, [0, 2]])
    assert not torch.allclose(after[names[1]], before[names[1]])
    assert torch.equal(run(tiny_model, tokens, names[0])[names[0]], before[names[0]])


def test_mean_ablation_writes_the_mean_of_the_reference(tiny_model, tokens):
    reference = repeated_tokens(tiny_model, 2, 5, seed=8)
    name = "blocks.1.attn.hook_z"
    z = run(tiny_model, reference, name)[name][:, :, 2]
    mean = torch.stack([z[b, p] for b in range(z.shape[0]) for p in range(z.shape[1])]).mean(0)
    with ablated(tiny_model, [(1, 2)], Mean(reference, per_position=False)):
        got = run(tiny_model, tokens, name)[name][:, :, 2]
    assert torch.allclose(got, mean.expand_as(got), atol=1e-6) and mean.abs().max() > 1e-3


@pytest.mark.parametrize("reference", [False, True])
def test_ablation_at_some_positions_leaves_the_others(tiny_model, tokens, reference):
    name, later = "blocks.0.attn.hook_z", "blocks.1.hook_resid_pre"
    before = run(tiny_model, tokens, name, later)
    other = repeated_tokens(tiny_model, 2, 5, seed=8) if reference else None
    what = Mean(other, per_position=False) if reference else Zero()
    with ablated(tiny_model, [(0, 1), (0, 3)], what, positions=[4, -2]):
        after = run(tiny_model, tokens, name, later)
    mean = run(tiny_model, other, name)[name].mean((0, 1)) if reference else torch.zeros(4, 8)
    place, last = [4, tokens.shape[1] - 2], tokens.shape[1] - 1
    for head in (1, 3):
        for position in place:
            got = after[name][:, position, head]
            assert torch.allclose(got, mean[head].expand_as(got), atol=1e-6)
    kept = [p for p in range(last + 1) if p not in place]
    assert torch.equal(after[name][:, kept], before[name][:, kept])
    assert torch.equal(after[name][:, :, [0, 2]], before[name][:, :, [0, 2]])
    changed = (after[later] - before[later]).abs().amax((0, 2)) > 1e-5
    assert changed.nonzero().flatten().tolist() == place


def test_ablation_at_positions_that_are_not_there_is_refused(tiny_model, tokens):
    with pytest.raises(ValueError, match="positions are empty"):
        ablated(tiny_model, [(0, 0)], Zero(), positions=[]).__enter__()
    with (
        pytest.raises(ValueError, match="99"),
        ablated(tiny_model, [(0, 0)], Zero(), positions=[99]),
    ):
        tiny_model(tokens)


def test_zero_ablation_equals_cutting_the_head_off_its_output(tiny_model, tokens):
    with ablated(tiny_model, [(1, 2)], Zero()):
        got = tiny_model(tokens)

    def cut(z, hook):
        return torch.cat([z[:, :, :2], torch.zeros_like(z[:, :, 2:3]), z[:, :, 3:]], dim=2)

    by_hand = tiny_model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", cut)])
    assert torch.equal(got, by_hand)
    assert not torch.allclose(got, tiny_model(tokens), atol=1e-4)


def test_an_ablation_that_never_ran_is_an_error(tiny_model):
    with pytest.raises(NothingHappened, match=r"blocks\.0\.attn\.hook_z, blocks\.1\.attn\.hook_z"):
        with ablated(tiny_model, list(PAIR), Zero()):
            pass


def test_an_error_inside_the_block_is_not_hidden(tiny_model, tokens):
    before = tiny_model(tokens)
    with pytest.raises(KeyError, match="mine"):
        with ablated(tiny_model, [(0, 0)], Zero()):
            raise KeyError("mine")
    assert torch.equal(tiny_model(tokens), before)


def test_ablating_nothing_is_refused(tiny_model):
    with pytest.raises(ValueError, match="no head to ablate"):
        ablated(tiny_model, [], Zero()).__enter__()


# Ground truth: a model built by hand


SPACE = 40  # of each of the three subspaces of the stream: token, position, previous token


@pytest.fixture(scope="module")
def built(tiny_folder, tmp_path_factory):
    """A checkpoint whose L0H0 is a previous-token head and L1H1 the induction head that reads it.

    The stream has three parts: the token (random directions), the position (one axis each), and
    what came before, which L0H0 copies from the token part of the previous position. L1H1 matches
    its query's token with that part of the keys and copies the token. L0H1 looks for equal tokens.
    """
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from mi_helpers.models import load_model

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=SPACE, n_embd=3 * SPACE, n_layer=2, n_head=3,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = GPT2LMHeadModel(config)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    token, position, before = (slice(i * SPACE, (i + 1) * SPACE) for i in range(3))
    eye = torch.eye(SPACE)
    directions = torch.randn(len(tokenizer), SPACE, generator=generator)
    embed = state["transformer.wte.weight"]
    embed[:, token] = torch.nn.functional.normalize(directions, dim=-1)
    state["transformer.wpe.weight"][:, position] = eye
    state["lm_head.weight"] += embed

    def head(layer, index, query, key, value, out):
        block = f"transformer.h.{layer}.attn"
        columns = slice(index * SPACE, (index + 1) * SPACE)
        for part, (rows, matrix) in enumerate((query, key, value)):
            start = part * 3 * SPACE
            weight = state[f"{block}.c_attn.weight"][:, start : start + 3 * SPACE]
            weight[rows, columns] = matrix
        state[f"{block}.c_proj.weight"][columns, out[0]] = out[1]

    head(
        0, 0, (position, 2 * eye.roll(-1, 1)), (position, 2 * eye), (token, eye), (before, eye / 8)
    )
    head(0, 1, (token, 2 * eye), (token, 2 * eye), (token, eye), (token, eye / 20))
    head(1, 1, (token, 2 * eye), (before, 2 * eye), (token, eye), (token, 2 * eye))
    for name in state:
        if "ln_" in name and name.endswith("weight"):
            state[name] += 1
    model.load_state_dict(state)
    folder = tmp_path_factory.mktemp("built")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def test_scores_find_the_heads_that_were_built(built):
    tokens = repeated_tokens(built, 4, 18)
    scores = heads.attention_scores(built, tokens)
    for kind, head in (
        ("previous_token", (0, 0)),
        ("duplicate_token", (0, 1)),
        ("induction", (1, 1)),
    ):
        (best, score), (_, next_best) = heads.top_heads(scores[kind], 2)
        assert best == head, kind
        assert score > 0.4 and score > 3 * next_best, (kind, score, next_best)
    positional = heads.positional_overlap(built, tokens)
    assert positional[0, 0] > 0.95 and positional[1, 1] < 0.5


def test_weights_tell_what_was_built(built):
    composition = heads.composition_scores(built)
    assert composition["K"][0, :, 1].argmax() == 1  # from the first head to the second
    assert composition["K"][0, 0, 1, 1] > 3 * composition["Q"][0, 0, 1, 1]
    some = torch.arange(100, 300)
    assert heads.copying_percentiles(built, some)[1, 1] > 0.99
    assert heads.copying_eigenvalues(built)[1, 1] > 0.9
    raised, lowered = heads.copying_top_k(built, some, 1, through_mlp0=False)
    assert raised[1, 1] == 1 and lowered[1, 1] == 0
    rows = heads.ov_top_tokens(built, (1, 1), some, 1)
    assert all(row["writes"] == [row["reads"]] for row in rows)
    rows = heads.skip_trigrams(built, (0, 1), some, 1)
    assert all(row["destinations"] == [row["source"]] for row in rows)


def test_ablation_shows_the_circuit_that_was_built(built):
    tokens, other = (repeated_tokens(built, 4, 18, seed=seed) for seed in (0, 1))

    def second_copy():
        return loss(built(tokens), tokens)[:, 20:].mean().item()

    def matching():
        return heads.attention_scores(built, tokens)["induction"][1, 1].item()

    clean, score = second_copy(), matching()
    with ablated(built, [(1, 1)], Mean(other, per_position=False)):
        assert second_copy() > clean + 1
    with ablated(built, [(0, 2), (1, 2)], Mean(other, per_position=False)):
        assert second_copy() == pytest.approx(clean, abs=1e-4)
    with ablated(built, [(0, 0)], Mean(other, per_position=False)):
        assert matching() < score / 3 and second_copy() > clean + 1


# Other architectures, against plain transformers


def coordinates(model, stream):
    """What plain transformers writes, as the bridge does: centred where the norm is LayerNorm."""
    centred = model.cfg.normalization_type == "LN"
    return stream - stream.mean(-1, keepdim=True) if centred else stream


def attentions(hf, **inputs):
    with torch.no_grad():
        return torch.stack(hf(**inputs, output_attentions=True).attentions)


@pytest.mark.parametrize("kind", MAKE)
def test_the_pattern_is_the_softmax_over_all_distances(other, kind):
    model, hf = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(2))
    want = attentions(hf, input_ids=tokens)
    cap = getattr(hf.config, "attn_logit_softcapping", None)
    for layer, head in every_head(model):
        normal = norm_hooks(layer)[1]
        x = heads.with_one(read(model, tokens, [normal])[normal])
        scores = torch.full((2, 6, 6), -torch.inf)
        for distance in range(6):
            qk = heads.qk_circuit(model, (layer, head), distance=distance)
            for query in range(distance, 6):
                key = query - distance
                scores[:, query, key] = ((x[:, query] @ qk) * x[:, key]).sum(-1)
        scores = scores if cap is None else cap * (scores / cap).tanh()
        torch.testing.assert_close(scores.softmax(-1), want[layer, :, head], **EXACT)
        still = heads.qk_circuit(model, (layer, head), distance=0)
        bare = torch.einsum("bqd,de,bke->bqk", x, still, x).tril()
        assert not torch.allclose(bare.softmax(-1), want[layer, :, head], atol=1e-2)


@pytest.mark.parametrize("kind", MAKE)
def test_attention_scores_are_those_of_plain_transformers(other, kind):
    model, hf = other(kind)
    tokens = repeated_tokens(model, 3, 7)
    want = attentions(hf, input_ids=tokens)
    for name, scores in heads.attention_scores(model, tokens).items():
        mask = heads.token_targets(tokens, name)
        total = torch.einsum("lbhqk,bqk->lh", want, mask.float()) / mask.any(-1).sum()
        torch.testing.assert_close(scores, total, **EXACT)


@pytest.mark.parametrize("kind", ["llama", "gemma", "gemma2"])
def test_the_mean_embedding_is_as_large_as_the_model_makes_it(other, kind):
    model, hf = other(kind)
    tokens = torch.randint(1, 451, (2, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        mean = hf.get_input_embeddings()(torch.arange(451)).mean(0)
    alone = attentions(hf, inputs_embeds=mean.expand(1, 8, -1))[:, 0]
    shared = torch.minimum(attentions(hf, input_ids=tokens), alone[:, None]).sum(-1)[..., 1:]
    found = heads.positional_overlap(model, tokens)
    torch.testing.assert_close(found, shared.mean((1, 3)), **EXACT)


@pytest.mark.parametrize("kind", PLAIN)
def test_ov_circuits_write_what_the_attention_of_plain_transformers_writes(other, kind):
    model, hf = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(2))
    stack = hf.gpt_neox.layers if kind == "neox" else hf.model.layers
    for layer, block in enumerate(stack):
        seen = []
        attention = block.attention if kind == "neox" else block.self_attn
        handle = attention.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out[0]))
        pattern = attentions(hf, input_ids=tokens)[layer]
        handle.remove()
        normal = norm_hooks(layer)[1]
        x = heads.with_one(read(model, tokens, [normal])[normal])
        written = sum(
            pattern[:, head] @ (x @ heads.ov_circuit(model, (layer, head))) for head in range(4)
        )
        written = written + bias(model, layer, "b_O")
        torch.testing.assert_close(written, coordinates(model, seen[0]), **EXACT)


@pytest.mark.parametrize("kind", ["neox", "llama", "qwen2", "gemma"])
def test_composition_and_singular_directions_take_the_distance(other, kind):
    model, _ = other(kind)
    tables = {d: heads.composition_scores(model, distance=d) for d in (0, 3)}
    for distance, scores in tables.items():
        for (i, j), (k, m) in (((0, 1), (1, 2)), ((1, 3), (2, 0))):
            written = heads.ov_circuit(model, (i, j))[:-1]
            qk = heads.qk_circuit(model, (k, m), distance=distance)[:-1, :-1]
            ov = heads.ov_circuit(model, (k, m))[:-1]
            for name, reads in (("Q", qk), ("K", qk.T), ("V", ov)):
                want = (written @ reads).norm() / (written.norm() * reads.norm())
                assert scores[name][i, j, k, m].item() == pytest.approx(want.item(), abs=1e-5)
        qk = heads.qk_circuit(model, (1, 2), distance=distance)[:-1, :-1]
        found = heads.singular_directions(model, (1, 2), "QK", distance=distance)
        torch.testing.assert_close(found.first.T * found.strength @ found.second, qk, **EXACT)
    assert (tables[0]["K"] - tables[3]["K"]).abs().max() > 1e-3
    assert torch.equal(tables[0]["V"], tables[3]["V"])


QK_USERS = {
    "qk_circuit": lambda m, **o: heads.qk_circuit(m, (0, 1), **o),
    "singular_directions": lambda m, **o: heads.singular_directions(m, (0, 1), "QK", **o),
    "composition_scores": lambda m, **o: heads.composition_scores(m, **o),
    "composition_baseline": lambda m, **o: heads.composition_baseline(m, **o),
    "skip_trigrams": lambda m, **o: heads.skip_trigrams(m, (0, 1), torch.tensor([5]), **o),
}


@pytest.mark.parametrize("use", QK_USERS.values(), ids=QK_USERS)
def test_a_rotary_model_has_no_product_without_a_distance(other, tiny_model, use):
    model, _ = other("llama")
    with pytest.raises(ValueError, match=r"one W_QK for each distance .* say which"):
        use(model)
    for bad in (-1, 1.5, True):
        with pytest.raises(ValueError, match="0 or more, not"):
            use(model, distance=bad)
    use(model, distance=2)
    use(tiny_model)
    with pytest.raises(ValueError, match="leave distance out"):
        use(tiny_model, distance=0)


def test_kinds_of_positions_and_norms_that_are_not_taught_are_refused(other, monkeypatch):
    model, _ = other("llama")
    for name, value in (("positional_embedding_type", "alibi"), ("rotary_adjacent_pairs", True)):
        with monkeypatch.context() as patch:
            patch.setattr(model.cfg, name, value)
            with pytest.raises(ValueError, match="not taught here"):
                heads.qk_circuit(model, (0, 0), distance=1)
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[0].attn, "q_norm", torch.nn.Identity(), raising=False)
        with pytest.raises(ValueError, match="no product of weights"):
            heads.qk_circuit(model, (0, 0), distance=1)


OV_USERS = {
    "ov_circuit": lambda m: heads.ov_circuit(m, (0, 1)),
    "singular_directions": lambda m: heads.singular_directions(m, (0, 1)),
    "composition_scores": lambda m: heads.composition_scores(m, distance=1),
    "copying_eigenvalues": heads.copying_eigenvalues,
    "copying_percentiles": lambda m: heads.copying_percentiles(m, torch.arange(5, 9)),
    "copying_top_k": lambda m: heads.copying_top_k(m, torch.arange(5, 9)),
    "virtual_head": lambda m: heads.virtual_head(m, torch.tensor([[5, 6]]), (0, 0), (1, 0)),
    "isolated_path": lambda m: heads.isolated_path(m, torch.tensor([[5, 6]]), (0, 0), (1, 0)),
}


@pytest.mark.parametrize("use", OV_USERS.values(), ids=OV_USERS)
def test_weights_do_not_say_what_arrives_behind_another_norm(other, use):
    with pytest.raises(ValueError, match="normalises what heads and MLPs write"):
        use(other("gemma2")[0])
    use(other("llama")[0])


@pytest.mark.parametrize("kind", PLAIN)
def test_a_virtual_head_predicts_the_path_on_other_models(other, kind):
    model, _ = other(kind)
    tokens = torch.randint(1, 451, (2, 6), generator=torch.Generator().manual_seed(2))
    for first, second in (((0, 1), (1, 3)), ((0, 3), (2, 0))):
        found = heads.virtual_head(model, tokens, first, second).output
        cut = heads.isolated_path(model, tokens, first, second)
        torch.testing.assert_close(found, cut, **EXACT)
        assert cut.abs().max() > 1e-2


def test_copying_reads_the_embedding_as_it_stands_in_the_stream(other):
    for kind in ("llama", "gemma", "neox"):
        model, _ = other(kind)
        tokens = torch.arange(20, 60)
        stream = read(model, tokens[None], ["hook_embed", ("resid_post", 0), ("attn_out", 0)])
        assert torch.equal(embedded(model, tokens, False), stream["hook_embed"][0])
        block = model.blocks[0]
        want = stream["hook_embed"] + block.mlp(block.ln2(stream["hook_embed"]))
        torch.testing.assert_close(embedded(model, tokens, True), want[0], **EXACT)
    gemma, _ = other("gemma")
    assert not torch.allclose(embedded(gemma, tokens, False), gemma.W_E[tokens])


def test_padded_texts_have_no_scores(tiny_model):
    padded = tiny_model.to_tokens(["one two", "The cat sat on the mat"])
    for score in (heads.attention_scores, heads.positional_overlap):
        with pytest.raises(ValueError, match="padded on the right"):
            score(tiny_model, padded)
