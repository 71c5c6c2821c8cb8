"""One run by pocket's recipe, half as long, kept on either side of where its mix changes."""

from __future__ import annotations

import torch
from mi_data.pocket.generator import sample
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


def test_the_three_open_and_the_end_predicts_best() -> None:
    models = mi.models.load_half()
    text = " ".join(sample("fact", seed, "test").text for seed in range(6))
    tokens = models[0].to_tokens(text)
    losses = [float(some(tokens, return_type="loss")) for some in models]
    assert losses[2] < min(losses[:2])
    assert mi.model_id(models[1]) == "pocket-half-1548"
    again = mi.models.load_half(models[1])
    assert again[1] is models[1] and torch.equal(again[0].W_E, models[0].W_E)
