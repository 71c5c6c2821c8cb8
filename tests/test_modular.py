"""The model that adds on a clock: its task, against a loop, runs that go on, and the script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mi_data.grokking import train as script

from mi_helpers.toys import modular, runs
from mi_helpers.toys.modular import ModularConfig, ModularTransformer

SMALL = ModularConfig(p=7, d_model=8, n_heads=2, d_mlp=6, share=0.5, log_every=3)


def test_every_pair_stands_once_and_in_the_order_of_a_grid():
    pairs = modular.all_pairs(7)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 49
    assert pairs.view(7, 7, 2)[2, 5].tolist() == [2, 5]


def test_answers_are_sums_unless_dealt_out():
    sums = modular.targets(SMALL)
    assert sums.view(7, 7)[5, 4] == 2 and sums.view(7, 7)[0, 3] == 3
    dealt = modular.targets(replace(SMALL, shuffled=True))
    assert torch.equal(sums.bincount(), dealt.bincount())  # as many of each
    assert 0 < (sums == dealt).sum() < 25


def test_the_split_has_its_size_and_depends_on_the_seed_alone():
    seen = modular.training_pairs(SMALL)
    assert int(seen.sum()) == 24
    torch.manual_seed(9)
    assert torch.equal(seen, modular.training_pairs(replace(SMALL, lr=1.0, shuffled=True)))
    assert not torch.equal(seen, modular.training_pairs(replace(SMALL, seed=1)))


def test_what_is_held_out_was_seen_in_neither_order():
    seen, new = modular.training_pairs(SMALL), modular.held_out_pairs(SMALL)
    known = {tuple(pair) for pair in modular.all_pairs(7)[seen].tolist()}
    for (a, b), held_out in zip(modular.all_pairs(7).tolist(), new.tolist(), strict=True):
        assert held_out == (not {(a, b), (b, a)} & known)
    with pytest.raises(ValueError, match=r"share = 0.97 leaves no pair out in both orders"):
        modular.held_out_pairs(replace(SMALL, share=0.97))


def test_the_model_equals_a_loop_over_positions_and_heads():
    model = ModularTransformer(SMALL)
    with torch.no_grad():
        model.b_in.normal_()
        model.b_out.normal_()
        got = model(modular.all_pairs(7)).view(7, 7, 7)
        neurons = model.neurons(modular.all_pairs(7)).view(7, 7, -1)
        for a, b in [(0, 0), (3, 5), (5, 3), (6, 1)]:
            tokens = [a, b, 7]
            x = [model.embed[t] + model.pos_embed[i] for i, t in enumerate(tokens)]
            stream = x[2]
            for head in range(2):
                scores = [(x[2] @ model.q[head]) @ (row @ model.k[head]) / 2 for row in x]
                pattern = torch.stack(scores).softmax(0)
                z = sum(w * (row @ model.v[head]) for w, row in zip(pattern, x, strict=True))
                stream = stream + z @ model.out[head]
            hidden = (stream @ model.w_in + model.b_in).relu()
            assert torch.allclose(neurons[a, b], hidden, atol=1e-5)
            want = (stream + hidden @ model.w_out + model.b_out) @ model.unembed
            assert torch.allclose(got[a, b], want, atol=1e-5)


def test_order_matters_by_position_alone():
    model = ModularTransformer(SMALL)
    pairs = torch.tensor([[1, 4], [4, 1]])
    with torch.no_grad():
        first, second = model(pairs)
        assert not torch.allclose(first, second, atol=1e-4)
        model.pos_embed[1] = model.pos_embed[0]
        first, second = model(pairs)
        assert torch.allclose(first, second, atol=1e-5)


def test_an_interrupted_run_ends_as_if_it_had_not_been():
    whole = runs.train(modular.start(SMALL), 10)
    parts = modular.start(SMALL)
    for steps in (4, 4, 10):
        runs.train(parts, steps)
    assert parts.step == whole.step == 10
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    assert whole.curve("step").tolist() == [0, 3, 6, 9, 10]
    assert len(whole.weights) == 5


def test_the_weights_that_are_kept_are_those_of_their_step():
    run = runs.train(modular.start(SMALL), 6)
    assert torch.equal(run.model_at(0).embed, ModularTransformer(SMALL).embed)
    assert torch.equal(run.model_at(-1).embed, run.model.embed)
    for i, row in enumerate(run.log):
        again = modular.measure(run.model_at(i), SMALL)
        assert all(torch.equal(again[name], row[name]) for name in again)


def test_it_memorises_shuffled_answers_and_no_others():
    config = replace(SMALL, d_model=32, d_mlp=64, shuffled=True, weight_decay=0.0)
    end = runs.train(modular.start(config), 150).log[-1]
    assert end["train_accuracy"] == 1.0 and end["train_loss"] < 0.05
    assert end["test_accuracy"] < 0.6 and end["test_loss"] > 2


def test_seeds_differ_and_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = runs.train(modular.start(SMALL), 3)
    assert torch.equal(before, torch.random.get_rng_state())
    two = runs.train(modular.start(replace(SMALL, seed=1)), 3)
    assert not torch.equal(one.model.embed, two.model.embed)


def test_measures_are_of_the_pairs_they_name():
    model = ModularTransformer(SMALL)
    seen, answers = modular.training_pairs(SMALL), modular.targets(SMALL)
    with torch.no_grad():
        logits = model(modular.all_pairs(7))
    new = modular.held_out_pairs(SMALL)
    got = modular.measure(model, SMALL)
    losses = -logits.double().log_softmax(-1)[torch.arange(49), answers]
    assert torch.allclose(got["train_loss"], losses[seen].mean())
    assert torch.allclose(got["test_loss"], losses[new].mean())
    right = logits.argmax(-1) == answers
    assert got["test_accuracy"] == right[new].double().mean()
    squares = sum(float(w.detach().square().sum()) for w in model.parameters())
    assert float(got["weight_norm"]) == pytest.approx(squares**0.5, rel=1e-5)


def test_a_tiny_loss_is_not_rounded_to_zero():
    logits = torch.tensor([[20.0, 0.0]])
    assert 2e-9 < modular.cross_entropy(logits, torch.tensor([0])) < 2.1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 9}, "p must be an odd prime, got 9"),
        ({"p": 2}, "p must be an odd prime, got 2"),
        ({"n_heads": 3}, "d_model = 8 must be a multiple of 3 heads"),
        ({"share": 1.0}, "share must leave pairs on both sides, got 1.0"),
        ({"share": 0.0}, "share must leave pairs on both sides"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        runs.train(modular.start(SMALL), 0)


def test_weights_come_back_in_half_precision_with_their_configuration(tmp_path: Path):
    run = runs.train(modular.start(SMALL), 3)
    runs.save(run.model, SMALL, tmp_path / "some.safetensors")
    model, config = modular.load(tmp_path / "some.safetensors")
    assert config == SMALL and model.embed.dtype == torch.float32
    for name, weight in run.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.half().float()), name


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="mi_data.grokking.train makes them"):
        modular.load(tmp_path / "none.safetensors")
    save_file({"embed": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has no configuration"):
        modular.load(tmp_path / "other.safetensors")


# ------------------------------------------------------------------------------------- the script


def test_the_scripts_state_goes_on_to_the_bit(tmp_path: Path):
    whole = runs.train(modular.start(SMALL), 9)
    half = runs.train(modular.start(SMALL), 6)
    runs.save_state(half, tmp_path / "state.safetensors")
    again = runs.open_state(modular.start(SMALL), tmp_path / "state.safetensors")
    runs.train(again, 9)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert whole.curve("step").tolist() == again.curve("step").tolist()
    assert torch.equal(whole.curve("test_loss"), again.curve("test_loss"))
    assert all(
        torch.equal(a[name], b[name])
        for a, b in zip(whole.weights, again.weights, strict=True)
        for name in a
    )
    with pytest.raises(ValueError, match="begun with another configuration"):
        runs.open_state(modular.start(replace(SMALL, seed=3)), tmp_path / "state.safetensors")


def test_the_script_leaves_checkpoints_sweep_and_card(tmp_path: Path, monkeypatch, capsys):
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    changes = {"LARGE": SMALL, "SMALL": SMALL, "STEPS": 6, "KEPT": (0, 6), "SWEEP_STEPS": 3}
    changes |= {"DECAYS": (0.0,), "SHARES": (0.5,), "SEEDS": (0, 1)}
    for name, value in changes.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr("sys.argv", ["train", "--out", str(out), "--work", str(work)])
    script.main()
    there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert there == [
        "README.md",
        "addition_113/curves.safetensors",
        "addition_113/step_00000.safetensors",
        "addition_113/step_00006.safetensors",
        "sweep.json",
    ]
    runs = json.loads((out / "sweep.json").read_text())
    assert [(r["varied"], r["value"], r["seed"]) for r in runs] == [
        ("weight_decay", 0.0, 0),
        ("share", 0.5, 0),
        ("weight_decay", 0.0, 1),
        ("share", 0.5, 1),
    ]
    card = (out / "README.md").read_text()
    assert "| 6 | " in card and "| weight decay | 0 | " in card and "step_00006" in card
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    script.main()  # nothing is done twice
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}


def test_the_committed_files_are_what_the_script_says():
    folder = Path(script.__file__).parent
    steps = [int(p.stem[5:]) for p in sorted((folder / script.NAME).glob("step_*.safetensors"))]
    assert steps == sorted(script.KEPT) and max(steps) == script.STEPS
    for step in steps:
        model, config = modular.load(folder / script.NAME / f"step_{step:05d}.safetensors")
        assert config == script.LARGE
    end = modular.measure(model, config)
    assert end["test_accuracy"] > 0.99 and end["train_accuracy"] > 0.99
    assert script.card(folder, script.NAME, script.SMALL) == (folder / "README.md").read_text()
    runs = json.loads((folder / "sweep.json").read_text())
    want = [(varied, getattr(c, varied), c.seed) for varied, c in script.sweep_configs()]
    assert [(run["varied"], run["value"], run["seed"]) for run in runs] == want
