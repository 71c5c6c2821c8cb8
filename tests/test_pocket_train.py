"""The trainer: what it leaves out of the loss, and that an interrupted run ends as a whole one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from mi_data.pocket import train
from mi_data.pocket.corpus import NOISE
from safetensors.torch import load_file

SMALL = train.Recipe(
    n_layers=1, d_model=16, n_heads=2, vocab_size=32, tokens=6 * 4 * 128, batch_rows=4
)


@pytest.fixture
def folder(tmp_path):
    """A run whose tokenizer and rows are there."""
    rng = np.random.default_rng(0)
    (tmp_path / "tokenizer.json").write_text("{}")
    np.save(tmp_path / "rows.npy", rng.integers(0, 32, (24, 128)).astype(np.uint16))
    return tmp_path


def weights(folder):
    return load_file(folder / "checkpoint.safetensors")


def test_an_interrupted_run_ends_as_a_whole_one(folder, tmp_path_factory, monkeypatch):
    train.prepare(folder, SMALL)
    train.worker(0, 1, folder, SMALL, every=2)
    whole = weights(folder)
    (folder / "checkpoint.safetensors").unlink()
    real = train.rate

    def interrupted(step, recipe):
        if step == 3:
            raise KeyboardInterrupt
        return real(step, recipe)

    monkeypatch.setattr(train, "rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.worker(0, 1, folder, SMALL, every=2)
    half = weights(folder)
    monkeypatch.setattr(train, "rate", real)
    train.worker(0, 1, folder, SMALL, every=2)
    again = weights(folder)
    assert not torch.equal(half["model.wte.weight"], whole["model.wte.weight"])
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_folder_of_another_recipe_is_refused(folder):
    train.prepare(folder, SMALL)
    with pytest.raises(ValueError, match="another recipe"):
        train.prepare(folder, dataclasses.replace(SMALL, seed=1))


def test_flagged_tokens_are_read_and_not_predicted():
    torch.manual_seed(0)
    model = train.GPT2(SMALL)
    rows = torch.randint(1, 32, (2, 128))
    flagged = rows.clone()
    flagged[:, 1:100] |= NOISE
    late = model(flagged)
    assert not torch.equal(late, model(rows))
    changed = flagged.clone()
    changed[:, 50] = (rows[:, 50] + 1) % 32 | NOISE
    assert not torch.equal(model(changed), late)  # read: later predictions see it
    everything = rows | NOISE
    everything[:, -1] = rows[:, -1]
    alone = model(everything)
    model.zero_grad()
    alone.backward()
    assert torch.isfinite(alone) and model.wte.weight.grad.abs().sum() > 0
