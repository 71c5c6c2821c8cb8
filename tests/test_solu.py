"""Models that differ in their MLPs: the functions, the script's runs, and what is committed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mi_data.solu import train as script
from safetensors.torch import load_file
from transformers.activations import ACT2FN

from mi_helpers.toys import solu

SMALL = script.SoluRecipe(
    n_layers=1, d_model=8, n_heads=2, vocab_size=50, batch_rows=2, tokens=2 * 128 * 6
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of random tokens."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.integers(50, size=(12, 128), dtype=np.uint16))
    np.save(tmp_path / "held_out.npy", rng.integers(50, size=(64, 128), dtype=np.uint16))
    return tmp_path


def test_functions_against_a_loop() -> None:
    hidden = torch.randn(3, 4)
    want = [[x * x.exp() / row.exp().sum() for x in row] for row in hidden]
    assert torch.allclose(solu.SoftmaxLinear()(hidden), torch.tensor(want))
    normed = ACT2FN["softmax_linear_norm"](100 * hidden)
    assert torch.allclose(normed.mean(-1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normed.square().mean(-1), torch.ones(3), atol=1e-3)


def test_models_of_a_seed_begin_alike() -> None:
    one, other = (script.start(replace(SMALL, activation=a), "cpu") for a in ("gelu", "solu_ln"))
    weights = dict(other.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in one.named_parameters())
    assert not torch.equal(one.wte.weight, script.start(replace(SMALL, seed=1), "cpu").wte.weight)


def test_rows_are_shuffled_within_their_phases() -> None:
    recipe = script.SoluRecipe()
    order, first = script.order(recipe), recipe.phases[0]
    assert sorted(order[:first]) == list(range(first)) and sorted(order) == list(range(len(order)))
    assert not np.array_equal(order, script.order(replace(recipe, seed=1)))


@pytest.mark.parametrize("activation", ["solu_ln", "sparse"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(activation: str, data: Path) -> None:
    recipe = replace(SMALL, activation=activation)
    script.train(data / "whole", data, recipe, "cpu", 2, 99)
    script.train(data / "parts", data, recipe, "cpu", 2, 4)
    script.train(data / "parts", data, recipe, "cpu", 2, 99)
    one, two = (load_file(data / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    if activation == "sparse":
        assert 0.05 < (one["model.blocks.0.fc.weight"] != 0).float().mean() < 0.15
    with pytest.raises(ValueError, match="another recipe"):
        script.train(data / "whole", data, replace(recipe, seed=1), "cpu", 2, 99)


def test_the_norm_is_in_what_reads_it() -> None:
    recipe = replace(SMALL, activation="solu_ln")
    block = script.start(recipe, "cpu").blocks[0]
    with torch.no_grad():
        block.ln_mid.weight.normal_()
        block.ln_mid.bias.normal_()
    state = {f"blocks.0.{k}": v for k, v in block.state_dict().items()}
    state = script.folded(state, recipe)
    hidden = torch.randn(5, 32)
    bare = solu.SoftmaxLinearNorm()(hidden)
    want = bare @ state["blocks.0.out.weight"].T + state["blocks.0.out.bias"]
    assert torch.allclose(block.out(block.activation(hidden)), want, atol=1e-5)


def test_committed_models_open() -> None:
    model = solu.load("solu_ln", 1)
    assert model.cfg.n_layers == 3 and model.cfg.d_mlp == 384
    assert {run["recipe"]["activation"] for run in solu.losses()} == set(script.ACTIVATIONS)
    with pytest.raises(FileNotFoundError, match="solu_9; there are: gelu_0"):
        solu.load("solu", 9)
