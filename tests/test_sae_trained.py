"""The script that trains the committed SAEs: over sites and seeds, in one process or in two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mi_data.sae import train as script

import mi_helpers.sae as S

RECIPE = S.Recipe("batchtopk", d_sae=24, k=3, steps=12, batch=64, log_every=4)
PLANS = [
    script.Plan("first", ("resid_post", 0), RECIPE),
    script.Plan("first_seed_1", ("resid_post", 0), replace(RECIPE, seed=1), half=True),
    script.Plan("second", ("mlp_out", 1), RECIPE),
    script.Plan("control", ("resid_post", 0), RECIPE, untrained=True),
]


def rows(seed: int) -> torch.Tensor:
    return torch.randint(1, 300, (24, 14), generator=torch.Generator().manual_seed(seed))


def test_sites_and_seeds_are_trained_in_two_processes_as_in_one_and_go_on(
    tiny_model, tmp_path: Path
) -> None:
    tokens, held_out = rows(0), rows(1)
    alone, both, work = tmp_path / "alone", tmp_path / "both", tmp_path / "work"
    cards = script.make_all(tiny_model, PLANS, tokens, held_out, alone, tmp_path / "scratch")
    begun = S.Activations(tiny_model, ("mlp_out", 1), tokens, buffer=tokens.numel())
    cut = work / "second.safetensors"  # a run that was stopped after 5 steps
    S.train(S.start(begun, RECIPE), 5, progress=False, save_to=cut)
    assert script.make_all(tiny_model, PLANS, tokens, held_out, both, work, jobs=2) == cards
    assert S.resume(cut, begun).step == RECIPE.steps
    for plan in PLANS:
        for name in ("cfg.json", "sae_weights.safetensors", "README.md"):
            here, there = (folder / plan.name / name for folder in (alone, both))
            assert here.read_bytes() == there.read_bytes(), (plan.name, name)
    opened = [S.load(both / plan.name) for plan in PLANS]
    assert not torch.equal(opened[0].W_dec, opened[1].W_dec)
    assert opened[3].model_id.startswith("untrained") and not opened[0].model_id.startswith("un")
    other = [replace(PLANS[2], recipe=replace(RECIPE, k=2))]
    with pytest.raises(ValueError, match="begun with another recipe"):
        script.make_all(tiny_model, other, tokens, held_out, both, work)
