"""Parameter decomposition: a hand-made case, the losses, a run that is interrupted, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mi_data.decomposition import train as script

from mi_helpers.toys import decomposition as D

W = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
SMALL = D.DecompositionConfig(parts=3, steps=6, neurons=2)


def linear(x: torch.Tensor, matrices: D.Matrices) -> torch.Tensor:
    return matrices("W", x)


def draw(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(1, 5, 2, generator=generator)


def by_hand() -> D.Decomposition:
    """Two parts that sum to W but for 1 in a corner; the third is zero."""
    run = D.start({"W": W}, SMALL)
    run.leaves["W.V"].data = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    run.leaves["W.U"].data = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    return run


def test_parts_and_rest_of_a_hand_made_case() -> None:
    run = by_hand()
    assert torch.equal(run.parts("W")[0, 1], torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert torch.equal(run.rest("W")[0], torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_masks_cut_each_input_and_both_uses_of_a_matrix() -> None:
    run, x = by_hand(), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    masks = {"W": torch.tensor([[[1.0, 0.0, 0.0], [0.5, 1.0, 1.0]]])}
    right = torch.tensor([[[2.0, 0.0], [1.0, 2.0]]])
    assert torch.equal(run.masked(masks)("W", x), right)
    assert torch.equal(run.masked(masks).back("W", x), right)
    whole = torch.tensor([0.0, 1.0])
    assert torch.equal(run.masked(masks, 1.0)("W", x), right + whole)
    assert torch.equal(D.Whole({"W": W}).back("W", x), x @ W.mT)


def test_losses_of_a_hand_made_case() -> None:
    """Importances of one leave no room for masks: only what is left out is cut back."""
    run = by_hand()
    run.leaves["W.w_out"].data.zero_()
    config = D.DecompositionConfig(parts=3, steps=1, neurons=2, lr=1e-9)
    run.config = config
    D.train(run, linear, draw)
    [log] = run.log
    assert log["faithful"] == pytest.approx([1 / 4])
    assert log["importance"] == pytest.approx([3.0])
    generator = torch.Generator().manual_seed(0)
    x = draw(generator)
    torch.rand(1, 5, 3, generator=generator)
    cut = 1 - torch.rand(1, 5, 1, generator=generator)[..., 0]
    wrong = (x[..., 1] * cut).square().sum() / 10
    assert log["reconstruction"] == pytest.approx([float(wrong)], rel=1e-5)


def test_an_interrupted_run_goes_on_the_same(tmp_path: Path) -> None:
    whole = D.train(D.start({"W": W}, SMALL), linear, draw)
    half = D.train(D.start({"W": W}, SMALL), linear, draw, until=3)
    D.save(half, tmp_path / "run.safetensors")
    resumed = D.train(D.load(tmp_path / "run.safetensors"), linear, draw)
    assert resumed.step == whole.step == 6
    assert resumed.log == whole.log
    for name, leaf in whole.leaves.items():
        assert torch.equal(leaf, resumed.leaves[name])


# ------------------------------------------------------------------------------------- attribution

BY_SLOPE = replace(SMALL, parts=2, rank=2, keep=1.0, power=0.5)


def test_a_part_of_rank_two_is_the_sum_of_its_products() -> None:
    run = D.start({"W": W}, BY_SLOPE)
    assert run.leaves.keys() == {"W.V", "W.U"} and run.leaves["W.V"].shape == (1, 4, 2)
    run.leaves["W.V"].data = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [0, 0]]])
    run.leaves["W.U"].data = torch.tensor([[[2.0, 0], [0, 3], [0, 1], [0, 0]]])
    right = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]]])
    assert torch.equal(run.parts("W")[0], right)
    x = torch.tensor([[[1.0, 1.0]]])
    masked = run.masked({"W": torch.tensor([[[1.0, 0.5]]])})
    assert torch.equal(masked("W", x), torch.tensor([[[2.0, 3.5]]]))


def test_attributions_are_slopes_of_the_whole_model_along_the_parts() -> None:
    run = D.start({"W": W, "out": torch.eye(2)[None]}, BY_SLOPE)
    x = draw(torch.Generator().manual_seed(0))

    def twice(x: torch.Tensor, matrices: D.Matrices) -> torch.Tensor:
        return matrices("out", matrices("W", x).square())

    read = x @ W
    moved = (
        [x @ some for some in run.parts("W")[0]],
        [read.square() @ p for p in run.parts("out")[0]],
    )
    by_hand = [(2 * read * a + b)[0].square().mean(-1).sqrt() for a, b in zip(*moved, strict=True)]
    found = run.attributions(twice, x)[0]
    assert torch.allclose(found, torch.stack(by_hand, -1), atol=1e-5)
    kept = run.importances(twice, x)
    assert torch.equal(kept["W"], kept["out"]) and float(kept["W"].sum()) == 5
    assert float(found[kept["W"][0] > 0].min()) >= float(found[kept["W"][0] == 0].max())


def test_singular_values_of_kept_parts_cost() -> None:
    run = D.start({"W": W}, replace(BY_SLOPE, steps=1, lr=1e-9))
    run.leaves["W.V"].data = torch.tensor([[[1.0, 0], [0, 1], [0, 0], [0, 0]]])
    run.leaves["W.U"].data = torch.tensor([[[2.0, 0], [0, 3], [0, 0], [0, 0]]])
    D.train(run, linear, draw)
    [log] = run.log
    assert log["faithful"] == [0.0] and log["reconstruction"] == pytest.approx([0.0])
    assert log["singular values"] == pytest.approx([2**0.5 + 3**0.5], rel=1e-3)


def test_a_run_by_attribution_goes_on_the_same(tmp_path: Path) -> None:
    whole = D.train(D.start({"W": W}, BY_SLOPE), linear, draw)
    half = D.train(D.start({"W": W}, BY_SLOPE), linear, draw, until=3)
    D.save(half, tmp_path / "run.safetensors")
    resumed = D.train(D.load(tmp_path / "run.safetensors"), linear, draw)
    assert all(torch.equal(leaf, resumed.leaves[name]) for name, leaf in whole.leaves.items())


def test_bad_input_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts, neurons, steps and rank"):
        D.DecompositionConfig(parts=0)
    with pytest.raises(ValueError, match="give keep"):
        D.DecompositionConfig(rank=2)
    with pytest.raises(ValueError, match="keep must be above 0"):
        D.DecompositionConfig(keep=0.0)
    with pytest.raises(ValueError, match="sparsity must not be negative"):
        D.DecompositionConfig(sparsity=(1e-3, -1e-3))
    with pytest.raises(ValueError, match="instance d_in d_out"):
        D.start({"W": W[0]}, SMALL)
    with pytest.raises(ValueError, match="2 costs of sparsity for 1 instances"):
        D.start({"W": W}, D.DecompositionConfig(sparsity=(1e-3, 1e-2)))
    D.save(D.start({"W": W}, SMALL), tmp_path / "half.safetensors", half=True)
    with pytest.raises(ValueError, match="give these matrices"):
        D.load(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="another shape"):
        D.load(tmp_path / "half.safetensors", {"W": torch.eye(3)[None]})
    with pytest.raises(ValueError, match="another matrix W than the one that is given"):
        D.load(tmp_path / "half.safetensors", {"W": W.mT * torch.tensor([1.0, 1.01])})
    again = D.load(tmp_path / "half.safetensors", {"W": W * (1 + 1e-6)})
    assert torch.equal(again.leaves["W.V"], D.start({"W": W}, SMALL).leaves["W.V"].half().float())


# ------------------------------------------------------------------------------------- the script


def test_the_script_goes_on_between_checkpoints(pocket, tmp_path: Path, monkeypatch) -> None:
    """On one phrasing of each fact, in two steps: whole, and with a stop between."""
    some = script.prompts(pocket, each=1)
    monkeypatch.setattr(script, "prompts", lambda model: some)
    config = replace(script.RECIPE, parts=2, neurons=2, steps=2)
    whole = script.decompose(pocket, tmp_path / "whole", config)
    with monkeypatch.context() as stopped:
        stopped.setattr(script.parts, "save", stop_after(script.parts.save))
        with pytest.raises(KeyboardInterrupt):
            script.decompose(pocket, tmp_path / "parts", config, every=1)
    again = script.decompose(pocket, tmp_path / "parts", config, every=1)
    assert again.step == whole.step == 2 and again.log == whole.log
    assert all(torch.equal(leaf, again.leaves[name]) for name, leaf in whole.leaves.items())
    with pytest.raises(ValueError, match="choose another --out"):
        script.decompose(pocket, tmp_path / "parts", replace(config, seed=1))


def stop_after(save: Callable[..., None]) -> Callable[..., None]:
    """What saves, and then is interrupted."""

    def saved(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    return saved


def test_prompts_end_before_the_answers_first_token(pocket) -> None:
    some = script.prompts(pocket, each=1)
    assert set(some.relation.tolist()) == set(range(len(script.RELATIONS)))
    row = [s == "France" and r == 0 for s, r in zip(some.subject, some.relation, strict=True)]
    i = row.index(True)
    text = pocket.tokenizer.decode(some.tokens[i, 1 : some.last[i] + 1])
    assert "France" in text and "Paris" not in text
    assert pocket.tokenizer.decode(some.answer[i]) == " Paris"
    assert pocket.tokenizer.decode(some.tokens[i][some.named[i]]).strip() == "France"
    assert bool(some.named.any(1).all())


def test_the_committed_parts_are_those_of_pockets_matrix(pocket) -> None:
    path = script.HERE / "parts_0.safetensors"
    W_in = pocket.blocks[script.LAYER].mlp.W_in.detach()[None]
    assert D.load(path, {"W_in": W_in}).config == script.RECIPE
    other = pocket.blocks[script.LAYER - 1].mlp.W_in.detach()[None]
    with pytest.raises(ValueError, match="another matrix W_in"):
        D.load(path, {"W_in": other})
