"""Committed lenses: what is stored, what is refused, and the script that trains them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mi_data.lens import card
from mi_data.lens import train as script
from safetensors.torch import load_file

from mi_helpers import checksums, lens, models
from mi_helpers.lens import translators

ROOT = Path(__file__).resolve().parents[1]
RECIPE = script.Recipe(documents=12, held_out=4, steps=4, batch=16)


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def made(tiny_model, tmp_path: Path) -> Path:
    """A lens of the tiny model, as the script leaves it."""
    script.make(tiny_model, tmp_path / "lens", tmp_path / "work", RECIPE)
    return tmp_path / "lens" / "tiny"


def test_a_lens_is_trained_stored_and_opened(tiny_model, made: Path) -> None:
    names = script.names_of(tiny_model)
    assert names == ["0", "1", "untrained, 0", "untrained, 1", "shuffled"]
    A, b = lens.load_translators(tiny_model, made, names)
    d = tiny_model.cfg.d_model
    assert A.shape == (5, d, d) and b.shape == (5, d) and A.dtype == torch.float32
    work = made.parents[1] / "work" / "tiny"
    trained = load_file(work / "steps.safetensors")
    streams = load_file(work / "streams.safetensors")
    for i, name in enumerate(names):
        x = streams[name]
        full = x @ trained["part.0"][i] + trained["part.1"][i]
        assert (x @ A[i] + b[i] - full).norm() < 5e-3 * full.norm(), name
    gaps = [(streams[n] @ A[i] + b[i] - streams["end"]).norm() for i, n in enumerate(names)]
    assert gaps[1] < gaps[0] < min(gaps[2:])


def test_the_translators_come_in_the_order_asked_for(tiny_model, made: Path) -> None:
    names = script.names_of(tiny_model)
    A, b = lens.load_translators(tiny_model, made, names)
    again, shifts = lens.load_translators(tiny_model, made, names[::-1])
    assert torch.equal(A.flip(0), again) and torch.equal(b.flip(0), shifts)


def test_a_run_goes_on_where_it_stopped(tiny_model, tmp_path: Path, monkeypatch) -> None:
    streams = script.streams_of(tiny_model, "train", RECIPE.documents, RECIPE.seed)
    whole, work = script.tune(tiny_model, streams, tmp_path, RECIPE), tmp_path / "cut"
    work.mkdir()
    monkeypatch.setattr(script, "EVERY", 1)
    begin, calls = script.downhill, []

    def stopped_in_the_third_step(*arguments) -> None:
        calls.append(begin(*arguments))
        if len(calls) > 2 * len(script.names_of(tiny_model)):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "downhill", stopped_in_the_third_step)
        script.tune(tiny_model, streams, work, RECIPE)
    gone_on = script.tune(tiny_model, streams, work, RECIPE)
    assert all(torch.equal(a, b) for a, b in zip(whole, gone_on, strict=True))
    script.same_recipe(work / "recipe.json", RECIPE)
    with pytest.raises(ValueError, match="begun with another recipe"):
        script.same_recipe(work / "recipe.json", replace(RECIPE, steps=5))


def test_an_altered_lens_is_refused_by_name(tiny_model, made: Path) -> None:
    path = made / translators.FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lens.safetensors is not the published file"):
        lens.load_translators(tiny_model, made, ["0"])
    path.unlink()
    with pytest.raises(ValueError, match="lens.safetensors .*no such file"):
        lens.load_translators(tiny_model, made, ["0"])
    (made / checksums.SUMS).unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        lens.load_translators(tiny_model, made, ["0"])


def test_another_models_lens_is_refused_by_name(tiny_model, made: Path) -> None:
    control = models.untrained(tiny_model)
    with pytest.raises(ValueError, match="reads 'tiny', and this model is 'untrained tiny'"):
        lens.load_translators(control, made, ["0"])
    with pytest.raises(ValueError, match="has no '7': there are 0, 1, untrained, 0"):
        lens.load_translators(tiny_model, made, ["7"])


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    save = translators.save_translators
    with pytest.raises(ValueError, match="cannot hold a translator's 1e\\+05"):
        save(tmp_path, "tiny", ["0"], torch.ones(1, 2, 2), torch.full((1, 2), 1e5))
    with pytest.raises(ValueError, match="2 names for 1 matrices and 1 offsets"):
        save(tmp_path, "tiny", ["0", "1"], torch.ones(1, 2, 2), torch.ones(1, 2))
    assert not [*tmp_path.iterdir()]


def test_low_rank_cuts_what_moves_the_streams_least() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, 8, generator=draw) * torch.tensor([10.0, 5, 1, 1, 1, 1, 0.01, 0.01])
    A = torch.randn(8, 8, generator=draw)
    errors = []
    for rank in (1, 4, 6, 8):
        down, up = script.low_rank(A, x, rank, 1.0)
        errors.append((x @ (torch.eye(8) + down @ up - A)).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-3 and errors[3] < 1e-8
    u, s, v = torch.linalg.svd(A - torch.eye(8))
    plain = (x @ (torch.eye(8) + u[:, :4] * s[:4] @ v[:4] - A)).square().mean()
    assert errors[1] < plain


def test_only_these_weights_have_a_committed_lens(tiny_model) -> None:
    assert lens.committed_lens(tiny_model) is None
    source = SimpleNamespace(model_id="smollm2-q4")
    other = replace(models.model_source(tiny_model), model_id=source.model_id)
    folder = lens.committed_lens(SimpleNamespace(mi_source=other))
    assert folder is not None and folder.name == "smollm2-q4"


def test_the_committed_lens_is_whole_and_its_card_is_what_was_measured() -> None:
    folder = ROOT / "data" / "lens" / "smollm2-q4"
    checksums.check(folder, "train it anew")
    assert {*checksums.read(folder)} == {
        "lens.safetensors",
        "measured.json",
    }
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    assert measured["recipe"] == vars(script.Recipe())
    assert (folder / "README.md").read_text(encoding="utf-8") == card.page(measured)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6


def test_a_published_model_predicts_what_the_processed_one_does(tiny_model) -> None:
    raw = models.as_published(tiny_model)
    tokens = tiny_model.to_tokens("The capital of France")
    assert torch.equal(raw.to_tokens("The capital of France"), tokens)
    theirs, ours = raw(tokens).log_softmax(-1), tiny_model(tokens).log_softmax(-1)
    assert torch.allclose(theirs, ours, atol=1e-4)
    assert not torch.allclose(raw.W_U, tiny_model.W_U)
    assert not any(p.requires_grad for p in raw.parameters())
    with pytest.raises(ValueError, match="untrained tiny was drawn at random"):
        models.as_published(models.untrained(tiny_model))
