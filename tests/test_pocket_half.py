"""One run by pocket's recipe, half as long, kept on either side of where its mix changes."""

from __future__ import annotations

import torch
from mi_data.pocket.generator import prompt, sample
from mi_data.pocket.train import Recipe

import mi_helpers as mi
from mi_helpers.models import folders


def test_numbered_folders_come_in_the_order_of_their_numbers(tmp_path) -> None:
    for name in ("1032", "99", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    found = folders._numbered(tmp_path, "pocket-half")
    assert list(found) == ["pocket-half-99", "pocket-half-1032"]


def test_two_steps_lie_before_the_mix_changes_and_the_last_is_the_end() -> None:
    recipe = Recipe(tokens=13_000_000)
    early, before, after = (
        int(n.rsplit("-")[-1]) for n in folders.pockets() if n.startswith("pocket-half-")
    )
    turn = sum(recipe.phases[:2]) / recipe.batch_rows
    assert early < before < turn < before + 2 and after == recipe.steps


def test_the_person_of_a_pronoun_is_chance_before_the_change_and_known_at_the_end() -> None:
    asked = [prompt("pronouns", seed, split="test") for seed in range(100)]
    right = []
    for model in mi.models.load_half()[1:]:
        logits = [model(model.to_tokens(one.text))[0, -1] for one in asked]
        words = [[model.to_single_token(w) for w in (one.answer, one.wrong)] for one in asked]
        ahead = [bool(x[a] > x[b]) for x, (a, b) in zip(logits, words, strict=True)]
        right.append(sum(ahead) / len(ahead))
    assert 0.35 < right[0] < 0.65 and right[1] > 0.95


def test_the_three_open_and_the_end_predicts_best() -> None:
    models = mi.models.load_half()
    text = " ".join(sample("fact", seed, "test").text for seed in range(6))
    tokens = models[0].to_tokens(text)
    losses = [float(some(tokens, return_type="loss")) for some in models]
    assert losses[2] < min(losses[:2])
    assert mi.model_id(models[1]) == "pocket-half-1548"
    again = mi.models.load_half(models[1])
    assert again[1] is models[1] and torch.equal(again[0].W_E, models[0].W_E)
