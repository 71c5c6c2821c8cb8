"""A stream of given vectors: trained on like a model's activations, bound to no model."""

from __future__ import annotations

import pytest
import torch

from mi_helpers import sae as S


def vectors(count: int = 300, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, d_in, generator=torch.Generator().manual_seed(seed))


def test_every_vector_comes_once_an_epoch_in_a_new_order() -> None:
    values = vectors(50)
    stream = S.Vectors(values)
    (first, place), second = stream.batch(50, (0, 0)), stream.sample(100)[50:]
    for epoch in (first, second):
        torch.testing.assert_close(epoch.sort(dim=0).values, values.sort(dim=0).values)
    assert not torch.equal(first, values) and not torch.equal(first, second)
    assert stream.chunks == 1 and place == (0, 50)
    torch.testing.assert_close(S.Vectors(values).sample(30), stream.sample(30), rtol=0, atol=0)
    assert not torch.equal(S.Vectors(values, seed=1).sample(30), stream.sample(30))


def test_a_run_on_vectors_resumes_exactly_and_on_no_others(tmp_path) -> None:
    recipe = S.Recipe("topk", d_sae=12, k=2, steps=20, batch=64)
    whole = S.train(S.start(S.Vectors(vectors()), recipe), progress=False).sae()
    part = S.train(S.start(S.Vectors(vectors()), recipe), 7, progress=False)
    path = part.save(tmp_path / "run.safetensors")
    again = S.train(S.resume(path, S.Vectors(vectors())), progress=False).sae()
    torch.testing.assert_close(again.W_enc, whole.W_enc, rtol=0, atol=0)
    changed = vectors()
    changed[3, 3] += 1e-3
    for other in (S.Vectors(changed), S.Vectors(vectors(), seed=1)):
        with pytest.raises(ValueError, match="other activations"):
            S.resume(path, other)


def test_its_sae_is_of_no_model(tiny_model) -> None:
    stream = S.Vectors(vectors(d_in=tiny_model.cfg.d_model))
    sae = S.start(stream, S.Recipe("relu", d_sae=8)).sae()
    assert (sae.hook, sae.model_id) == ("", "")
    with pytest.raises(ValueError, match="does not say which site"), S.splice(tiny_model, sae):
        pass


@pytest.mark.parametrize(
    "values, said",
    [
        (torch.ones(4), "token, d_in"),
        (torch.ones(1, 4), "two rows"),
        (torch.ones(4, 4, dtype=torch.long), "int64"),
        (torch.full((4, 4), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(values: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        S.Vectors(values)
