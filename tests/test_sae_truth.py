"""Judging units against labels: what must be refused, and what a threshold carries over."""

from __future__ import annotations

import pytest
import torch

from mi_helpers.sae import Labelled, best_units, detection


def labelled_texts(label: torch.Tensor) -> Labelled:
    return Labelled(torch.ones_like(label).long(), torch.ones_like(label), {"L": label})


def test_a_given_threshold_is_used_as_it_is() -> None:
    acts = torch.tensor([[0.2], [0.6], [0.9], [0.1]])
    label = torch.tensor([False, True, True, False])
    found = detection(acts, label)
    assert found.f1.item() == 1 and 0.2 < found.threshold.item() < 0.6
    strict = detection(acts, label, threshold=torch.tensor([0.7]))
    assert (strict.precision.item(), strict.recall.item()) == (1.0, 0.5)
    assert strict.auroc.item() == found.auroc.item() == 1.0  # no threshold enters it
    lax = detection(acts, label, threshold=torch.tensor([0.0]))
    assert (lax.precision.item(), lax.recall.item()) == (0.5, 1.0)


def test_a_unit_says_yes_to_all_equal_values_or_to_none() -> None:
    acts = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    found = detection(acts, torch.tensor([True, False, False, False]))
    assert (found.precision.item(), found.recall.item()) == (0.5, 1.0)
    assert found.auroc.item() == pytest.approx(5 / 6)


def test_a_label_of_one_half_only_is_refused() -> None:
    label = torch.zeros(8, 5, dtype=torch.bool)
    label[:4, 2] = True
    with pytest.raises(ValueError, match="both parts"):
        best_units(torch.rand(40, 3), labelled_texts(label))
    label[6, 1] = True
    assert [row["label"] for row in best_units(torch.rand(40, 3), labelled_texts(label))] == ["L"]


def test_activations_of_other_tokens_are_refused() -> None:
    label = torch.zeros(8, 5, dtype=torch.bool)
    label[::2, 2] = True
    with pytest.raises(ValueError, match="there are 40 tokens"):
        best_units(torch.rand(39, 3), labelled_texts(label))
