"""Judging units against labels: what must be refused, and what a threshold carries over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mi_helpers.sae import Labelled, best_units, detection, label_tokens


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


TEXT = "When John and Mary went to the shops, John gave the bag to"
#  token: 1    2    3   4    5    6  7   8    9 10   11   12  13  14; BOS is 0


def span(role: str, words: str, last: bool = False) -> SimpleNamespace:
    start = TEXT.rindex(words) if last else TEXT.index(words)
    return SimpleNamespace(role=role, start=start, end=start + len(words))


def marked(labelled: Labelled, label: str, text: int = 0) -> list[int]:
    return labelled.labels[label][text].nonzero()[:, 0].tolist()


def test_a_sentence_labelled_by_hand(pocket) -> None:
    spans = [span("IO", "Mary"), span("S1", "John"), span("S2", "John", last=True),
             span("place", "the shops")]  # fmt: skip
    sample = SimpleNamespace(text=TEXT, spans=spans, labels={"sentiment": "good", "giver": "John"})
    short = SimpleNamespace(text=TEXT[:9], spans=spans[1:2], labels={})
    found = label_tokens(pocket, [sample, short], least=1)
    words = [pocket.tokenizer.decode([i]) for i in found.tokens[0].tolist()]
    assert (words[2], words[4], words[7:9], words[10]) == (
        " John", " Mary", [" the", " shops"], " John"
    )  # fmt: skip
    assert marked(found, "IO") == [4] and marked(found, "S2") == [10]
    assert marked(found, "S1") == marked(found, "S1", 1) == [2]
    assert marked(found, "place") == [7, 8]
    assert marked(found, "sentiment=good") == list(range(3, 15)), "after the first evidence"
    assert set(found.labels) == {"IO", "S1", "S2", "place", "sentiment=good"}
    assert found.real.sum(1).tolist() == [14, 2] and not found.real[:, 0].any()
    assert found.flat("IO").nonzero()[:, 0].tolist() == [3]
    assert set(label_tokens(pocket, [sample], least=2).labels) == {"place", "sentiment=good"}
    with pytest.raises(ValueError, match="samples are empty"):
        label_tokens(pocket, [])
