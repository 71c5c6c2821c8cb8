"""Metrics: sign conventions, invariances, agreement with the plain formula, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_helpers import metrics

SEEDS = st.integers(0, 10_000)


def _case(seed: int, batch: int = 3, n_pos: int = 4, d_vocab: int = 11):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, n_pos, d_vocab, generator=generator, dtype=torch.float64) * 3
    answers = torch.stack([torch.randperm(d_vocab, generator=generator)[:2] for _ in range(batch)])
    return logits, answers


def test_logit_diff_is_right_minus_wrong_by_hand() -> None:
    logits = torch.tensor([[0.0, 5.0, 2.0], [1.0, -1.0, 4.0]])
    assert metrics.logit_diff(logits, torch.tensor([[1, 2], [0, 2]])).tolist() == [3.0, -3.0]


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(-50, 50))
def test_differences_and_probabilities_ignore_a_shift_of_all_logits(
    seed: int, shift: float
) -> None:
    logits, answers = _case(seed)
    moved = logits + shift
    for metric in (metrics.logit_diff, metrics.accuracy):
        torch.testing.assert_close(metric(moved, answers), metric(logits, answers))
    for metric in (metrics.prob, metrics.log_prob, metrics.rank):
        torch.testing.assert_close(metric(moved, answers[:, 0]), metric(logits, answers[:, 0]))
    torch.testing.assert_close(
        metrics.loss(moved, answers.new_zeros(3, 4)), metrics.loss(logits, answers.new_zeros(3, 4))
    )
    assert metrics.kl(moved, logits).max() < 1e-9


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_logit_diff_is_the_log_of_the_ratio_of_probabilities(seed: int) -> None:
    logits, answers = _case(seed)
    ratio = metrics.prob(logits, answers[:, 0]) / metrics.prob(logits, answers[:, 1])
    torch.testing.assert_close(metrics.logit_diff(logits, answers), ratio.log())
    swapped = metrics.logit_diff(logits, answers.flip(-1))
    torch.testing.assert_close(swapped, -metrics.logit_diff(logits, answers))


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_metrics_equal_a_naive_loop(seed: int) -> None:
    logits, answers = _case(seed)
    other, _ = _case(seed + 1)
    for i in range(3):
        p, q = logits[i, -1].softmax(-1), other[i, -1].softmax(-1)
        token = int(answers[i, 0])
        assert metrics.prob(logits, answers[:, 0])[i].item() == pytest.approx(p[token].item())
        naive_rank = sum(value > logits[i, -1, token] for value in logits[i, -1])
        assert metrics.rank(logits, answers[:, 0])[i] == naive_rank
        naive_kl = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
        assert metrics.kl(other, logits)[i].item() == pytest.approx(naive_kl, abs=1e-9)


def test_kl_weighs_with_the_reference_and_is_not_symmetric() -> None:
    sure, unsure = torch.tensor([[math.log(0.9), math.log(0.1)]]), torch.zeros(1, 2)
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert metrics.kl(sure, unsure).item() == pytest.approx(expected, abs=1e-6)
    assert metrics.kl(unsure, sure).item() != pytest.approx(expected, abs=0.05)


def test_loss_judges_the_next_token() -> None:
    logits, tokens = torch.full((1, 3, 5), -20.0), torch.tensor([[4, 2, 3]])
    logits[0, 0, 2] = logits[0, 1, 3] = 20.0  # position i is sure of token i + 1
    assert metrics.loss(logits, tokens).shape == (1, 2)
    assert metrics.loss(logits, tokens).max() < 1e-6
    assert metrics.loss(logits, tokens.roll(1, -1)).min() > 10


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.lists(st.integers(-4, 3), min_size=3, max_size=3))
def test_positions_may_differ_between_prompts_and_count_from_the_end(seed: int, where) -> None:
    logits, answers = _case(seed)
    got = metrics.logit_diff(logits, answers, position=torch.tensor(where))
    for i, position in enumerate(where):
        expected = metrics.logit_diff(logits[i : i + 1, position], answers[i : i + 1])
        torch.testing.assert_close(got[i : i + 1], expected)


def test_a_tie_is_neither_a_win_nor_a_better_rank() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    answers = torch.tensor([[0, 1], [0, 1]])
    assert metrics.accuracy(logits, answers) == 0.5
    assert metrics.rank(logits, answers[:, 1]).tolist() == [0, 1]


def test_accuracy_with_several_wrong_answers_needs_to_beat_all() -> None:
    logits = torch.tensor([[3.0, 1.0, 5.0], [3.0, 1.0, 2.0]])
    assert metrics.accuracy(logits, torch.tensor([[0, 1], [0, 1]])) == 1.0
    assert metrics.accuracy(logits, torch.tensor([[0, 1, 2], [0, 1, 2]])) == 0.5


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-20, 20), st.floats(-20, 20), st.floats(-2, 3), st.floats(0.1, 9), st.floats(-9, 9)
)
def test_recovery_is_a_scale_from_corrupt_to_clean(clean, corrupt, share, factor, shift) -> None:
    if abs(clean - corrupt) < 0.1:
        return
    value = corrupt + share * (clean - corrupt)
    got = metrics.recovery(value, clean, corrupt)
    assert got.item() == pytest.approx(share, abs=1e-3)
    moved = metrics.recovery(*(factor * x + shift for x in (value, clean, corrupt)))
    assert moved.item() == pytest.approx(got.item(), abs=1e-2)
    assert metrics.recovery(clean, clean, corrupt) == 1
    assert metrics.recovery(corrupt, clean, corrupt) == 0


def test_recovery_of_a_grid_and_of_runs_that_agree() -> None:
    grid = metrics.recovery(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), 3.0, 1.0)
    assert grid.tolist() == [[-0.5, 0.0], [0.5, 1.0]]
    with pytest.raises(ValueError, match="clean and the corrupt run agree"):
        metrics.recovery(1.0, 3.5, 3.5)
    with pytest.raises(ValueError, match="clean contains NaN"):
        metrics.recovery(1.0, float("nan"), 3.5)


def test_bootstrap_interval_is_seeded_holds_the_mean_and_narrows() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 2
    low, high = metrics.bootstrap_interval(values)
    assert low < values.mean() < high
    assert (low, high) == metrics.bootstrap_interval(values)
    assert (low, high) != metrics.bootstrap_interval(values, seed=1)
    normal = 2 * 1.96 * (values.std() / 20).item()
    assert high - low == pytest.approx(normal, rel=0.1)
    wide = metrics.bootstrap_interval(values[:25])
    assert wide[1] - wide[0] > 2 * (high - low)
    narrow = metrics.bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(200, 60, generator=generator)
    intervals = [metrics.bootstrap_interval(s, confidence=0.9, n_resamples=400) for s in samples]
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert 160 <= covered <= 194  # 0.9 of 200 is 180, with a standard deviation of 4


LOGITS = torch.zeros(2, 3, 7)
PAIR = torch.tensor([[1, 2], [3, 4]])
BAD = [
    (lambda: metrics.logit_diff(torch.zeros(7), PAIR), r"logits must be .* not \(7,\)"),
    (lambda: metrics.logit_diff(torch.zeros(0, 3, 7), PAIR[:0]), "at least one prompt"),
    (lambda: metrics.logit_diff(LOGITS, PAIR[:1]), r"shape \(2, 2\), not \(1, 2\)"),
    (lambda: metrics.logit_diff(LOGITS, PAIR[:, 0]), r"shape \(2, 2\), not \(2,\)"),
    (lambda: metrics.prob(LOGITS, PAIR), r"shape \(2,\), not \(2, 2\)"),
    (lambda: metrics.prob(LOGITS, torch.tensor([1, 7])), "token 7 is outside the vocabulary of 7"),
    (lambda: metrics.rank(LOGITS, torch.tensor([-1, 0])), "token -1 is outside"),
    (lambda: metrics.rank(LOGITS, torch.tensor([1.0, 2.0])), "integers"),
    (lambda: metrics.logit_diff(LOGITS, PAIR, position=3), "position 3 is outside prompts of 3"),
    (lambda: metrics.logit_diff(LOGITS, PAIR, position=torch.tensor([0, 1, 2])), "2 prompts"),
    (lambda: metrics.kl(LOGITS, LOGITS[..., :5]), "differ in shape"),
    (lambda: metrics.accuracy(LOGITS, PAIR[:, :1]), "at least one wrong"),
    (lambda: metrics.loss(LOGITS[:, :1], PAIR[:, :1]), "at least two tokens"),
    (lambda: metrics.loss(LOGITS, PAIR), r"not \(2, 3, 7\) and \(2, 2\)"),
    (lambda: metrics.bootstrap_interval(torch.ones(1)), "at least two values"),
    (lambda: metrics.bootstrap_interval(torch.ones(4), confidence=95), "between 0 and 1, not 95"),
    (lambda: metrics.bootstrap_interval(torch.tensor([1.0, float("nan")])), "NaN at index 1"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_is_refused_where_it_is_read_and_ignored_elsewhere() -> None:
    logits = torch.zeros(2, 3, 7)
    logits[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match="prompt 1 contain NaN"):
        metrics.logit_diff(logits, PAIR)
    assert metrics.logit_diff(logits, PAIR, position=0).tolist() == [0.0, 0.0]
