"""Judging dictionaries by labels: on data whose scores are known."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.tools.analysis.sparse_probing import fit_sparse_probe

from mi_helpers import sae as S
from mi_helpers.sae.judging import mean_differences


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(n: int = 600, count: int = 3) -> torch.Tensor:
    """One class each, [token class]."""
    return torch.nn.functional.one_hot(torch.arange(n) % count, count).bool()


def halves(n: int = 600) -> torch.Tensor:
    return torch.arange(n) < n // 2


def test_differences_of_means_are_those_of_each_label() -> None:
    acts, labels = random(60, 5), classes(60)
    got = mean_differences(acts, labels)
    for i, label in enumerate(labels.T):
        want = acts[label].mean(0) - acts[~label].mean(0)
        torch.testing.assert_close(got[:, i], want, atol=1e-5, rtol=1e-4)


def test_balanced_accuracy_weighs_classes_alike() -> None:
    label = torch.tensor([True, False, False, False])
    said = torch.tensor([True, True, False, False])
    assert S.balanced_accuracy(said, label) == pytest.approx((1 + 2 / 3) / 2)
    assert S.balanced_accuracy(torch.zeros(4, dtype=torch.bool), label) == 0.5


def test_a_probe_is_in_the_unit_of_its_input() -> None:
    """Standardising is folded in: shift and scale change nothing of what it says."""
    label = classes()[:, 0]
    x = random(600, 4) + 2.0 * label[:, None] * torch.tensor([1.0, 0, 0, 0])
    plain, moved = S.fit_probe(x, label), S.fit_probe(10 * x + 3, label)
    torch.testing.assert_close(plain(x), moved(10 * x + 3), atol=1e-3, rtol=1e-3)
    assert S.balanced_accuracy(plain(x) > 0, label) > 0.75
    assert S.fit_probe(x, label, strength=1e-4).weights.norm() < 0.5 * plain.weights.norm()


def test_sparse_probing_finds_the_unit_that_tells() -> None:
    labels = classes()
    acts = 0.3 * random(600, 8)
    acts[:, 5] += labels[:, 0] * 3.0
    acts[:, 6] -= labels[:, 1] * 3.0  # falls silent where the label holds
    found = S.sparse_probing(acts, labels, halves(), 1)
    assert found.shape == (3,) and found[0] > 0.99 and found[1] > 0.99
    assert found[2] < 0.9, "no unit tells the third class alone"
    assert S.sparse_probing(acts, labels, halves(), 2)[2] > 0.95
    shuffled = acts[torch.randperm(600, generator=torch.Generator().manual_seed(1))]
    assert (S.sparse_probing(shuffled, labels, halves(), 2) - 0.5).abs().max() < 0.12


def test_sparse_probing_is_that_of_transformer_lens_on_its_split() -> None:
    label = random(400, 1, seed=1)[:, 0] > 0.5
    acts = random(400, 12) + label[:, None] * random(12, 1, seed=2).T
    theirs = fit_sparse_probe(
        acts, label, k=3, preprocess="standardize", std_floor=0, l2_strength=1 / (0.7 * 400)
    )
    train = torch.zeros(400, dtype=torch.bool)
    train[theirs.train_indices] = True
    chosen = mean_differences(acts[train], label[train, None]).abs()[:, 0].topk(3).indices
    assert set(chosen.tolist()) == set(theirs.selected_features.tolist())
    probe = S.fit_probe(acts[train][:, theirs.selected_features], label[train])
    want = theirs.coefficients / theirs.preprocess_scale
    torch.testing.assert_close(probe.weights, want.float(), rtol=0.02, atol=0.01)
    m = theirs.metrics
    recalls = (m.recall, m.true_negatives / (m.true_negatives + m.false_positives))
    got = float(S.sparse_probing(acts, label[:, None], train, 3))
    assert got == pytest.approx(sum(recalls) / 2, abs=1e-6) and 0.6 < got < 0.99


def test_taking_a_classes_units_hits_its_probe_alone() -> None:
    """Three units that are three classes: taking one blinds its probe, rows shuffled do nothing."""
    labels, W_dec = classes(), torch.eye(3, 6)
    acts = labels * 2.0 + 0.1 * random(600, 3).abs()
    x = acts @ W_dec + 0.05 * random(600, 6, seed=1)
    probes = [S.fit_probe(x[halves()], y[halves()]) for y in labels.T]
    lost = S.targeted_perturbation(acts, W_dec, x, labels, halves(), probes, 1)
    assert lost.diagonal().min() > 0.4 and S.targeted_score(lost) > 0.3
    elsewhere = torch.eye(6)[3:]
    nothing = S.targeted_perturbation(acts, elsewhere, x, labels, halves(), probes, 1)
    assert nothing.abs().max() < 0.05
    silent = S.targeted_perturbation(0 * acts, W_dec, x, labels, halves(), probes, 1)
    assert torch.equal(silent, torch.zeros(3, 3)), "a unit that serves nothing is not taken"


def test_the_targeted_score_by_hand() -> None:
    assert S.targeted_score(torch.tensor([[0.4, 0.1], [0.0, 0.2]])) == pytest.approx(0.25)


def test_the_mask_takes_what_causes_and_leaves_what_spreads() -> None:
    """Unit 0 moves the attribute, unit 1 another one, unit 2 both, unit 3 nothing."""
    cause = torch.arange(40) < 10
    margins = torch.full((40,), -2.0)
    effects = torch.zeros(40, 4)
    effects[cause, 0], effects[~cause, 1], effects[:, 2] = 4.0, 4.0, 4.0
    mask = S.units_to_swap(effects, margins, cause)
    assert mask[0] and not mask[1] and not mask[2]
    other = S.units_to_swap(effects, margins, ~cause)
    assert other[1] and not other[0]
    assert torch.equal(mask, S.units_to_swap(effects, margins, cause)), "no chance in it"


def family(often: int = 40) -> tuple[torch.Tensor, ...]:
    """Parent on every second token, with its child on each `often`-th of all; and an `x` of both.

    Units: parent alone, child, and one that fires on every fourth token, parent or not.
    """
    token = torch.arange(800)
    parent, child, any_ = token % 2 == 0, token % often == 0, token % 4 > 1
    acts = torch.stack([parent & ~child, child, any_], 1).float()
    x = torch.stack([parent, child, any_], 1).float()
    return acts, x, parent, child, token < 400


AT_PARENT = S.Probe(torch.tensor([1.0, 0.0, 0.0]), -0.5)


def test_a_child_that_writes_the_parent_absorbs_it() -> None:
    acts, x, parent, child, train = family()
    W_dec = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    kept = acts.clone()
    found = S.absorption(acts, W_dec, x, parent, train, AT_PARENT)
    assert torch.equal(acts, kept)
    assert found.own.tolist() == [0] and len(found.hole) == 200, "held-out tokens of the parent"
    on_child = child[parent & ~train]
    assert torch.equal(found.hole, on_child) and torch.equal(found.absorbed(), on_child)
    assert torch.equal(found.absorbed(precision=1.0), on_child), "it fires nowhere else"
    assert found.unit[on_child].unique().tolist() == [1]
    torch.testing.assert_close(found.share[on_child], torch.ones(10))
    assert torch.equal(found.share[~on_child], torch.zeros(190)), "none but its own units works"


def test_a_hole_for_another_reason_is_not_absorbed() -> None:
    """The parent's unit is silent on the child's tokens, and nothing writes in its place."""
    acts, x, parent, child, train = family()
    found = S.absorption(acts, torch.eye(3), x, parent, train, AT_PARENT)
    assert torch.equal(found.hole, child[parent & ~train]) and found.hole.any()
    assert not found.absorbed().any()


def test_what_works_but_fires_on_much_else_is_no_child() -> None:
    acts, x, parent, child, train = family()
    W_dec = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0, 1]])
    acts[child, 2] = 1.0
    found = S.absorption(acts, W_dec, x, parent, train, AT_PARENT)
    assert torch.equal(found.absorbed(), child[parent & ~train])
    assert not found.absorbed(precision=0.8).any() and not found.absorbed(share=0.7).any()
    held_out = acts[~train, 2] > 0
    want = float((held_out & parent[~train]).sum() / held_out.sum())
    torch.testing.assert_close(found.precision[found.absorbed()], torch.full((10,), want))


def test_a_frequent_child_is_a_split_and_leaves_no_hole() -> None:
    acts, x, parent, _, train = family(often=8)
    W_dec = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    found = S.absorption(acts, W_dec, x, parent, train, AT_PARENT)
    assert found.own.tolist() == [0, 1] and not found.hole.any()
    alone = S.absorption(acts, W_dec, x, parent, train, AT_PARENT, gain=0.3)
    assert alone.own.tolist() == [0] and alone.absorbed().sum() == 50


def test_a_label_without_units_of_its_own_is_one_hole() -> None:
    acts, x, parent, _, train = family()
    found = S.absorption(0 * acts, torch.eye(3), x, parent, train, AT_PARENT)
    assert len(found.own) == 0 and found.hole.all() and not found.absorbed().any()


def test_bad_input_is_refused() -> None:
    acts, labels = random(20, 4), classes(20)
    train = halves(20)
    with pytest.raises(ValueError, match="k must be from 1 to the 4"):
        S.sparse_probing(acts, labels, train, 5)
    with pytest.raises(ValueError, match="20 rows and 19 labels"):
        S.fit_probe(acts, labels[:19, 0])
    with pytest.raises(ValueError, match="holds for 20 of 20"):
        S.fit_probe(acts, torch.ones(20, dtype=torch.bool))
    with pytest.raises(ValueError, match="0 probes for 3 classes"):
        S.targeted_perturbation(acts, random(4, 6), random(20, 6), labels, train, [], 1)
    with pytest.raises(ValueError, match="some tokens"):
        S.units_to_swap(acts, acts[:, 0], torch.zeros(20, dtype=torch.bool))
    acts, x, parent, _, half = family()
    with pytest.raises(ValueError, match="gain must be positive, got 0"):
        S.absorption(acts, torch.eye(3), x, parent, half, AT_PARENT, gain=0)
    with pytest.raises(ValueError, match="holds for 400 of 400"):
        S.absorption(acts, torch.eye(3), x, parent, parent, AT_PARENT)
