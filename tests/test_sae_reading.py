"""Reading units: contexts, explanations, direct logits, attribution, setting units."""

from __future__ import annotations

import pytest
import torch
from test_sae import HOOK, an_sae, random

from mi_helpers import sae as S
from mi_helpers.models import model_id


@pytest.fixture
def fitted(tiny_model) -> S.Sae:
    return an_sae(d_in=32, d_sae=50, hook=HOOK, model_id=model_id(tiny_model))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 100, (3, 9), generator=torch.Generator().manual_seed(0))


def test_contexts_show_the_top_and_what_lies_below() -> None:
    strength = torch.tensor([[0.0, 1.0], [5.0, 0.0], [3.0, 9.0], [0.0, 0.0]])
    real = torch.ones(4, 2, dtype=torch.bool)
    real[2, 1] = False  # padding does not count
    found = S.contexts(strength, real, top=1, quantiles=(1.0, 0.5, 0.0))
    assert found.texts == [1, 1, 2, 0] and found.peaks == [5, 5, 3, 1]
    assert found.values[2].tolist() == [3.0]
    assert S.contexts(torch.zeros(4, 2), real).texts == []


def test_explanations_are_judged_over_the_whole_range() -> None:
    acts = torch.tensor([0.0, 0.1, 0.2, 0.3, 5.0, 6.0, 0.0, 7.0])
    holds = torch.tensor([True, False, False, True, True, True, False, True])
    found = S.judge_explanation(acts, holds, bands=2)
    assert found.precision.tolist() == pytest.approx([1 / 3, 1]) and found.recall == pytest.approx(
        0.8
    )
    assert found.base == pytest.approx(5 / 8)
    with pytest.raises(ValueError, match="fires on 0"):
        S.judge_explanation(torch.zeros(8), holds)


def test_a_predicate_sees_the_text_before() -> None:
    tokens = torch.tensor([[0, 1, 2, 1]])
    real = torch.tensor([[False, True, True, True]])
    seen = []
    found = S.predicate(tokens, real, ["<>", " a", " b"], lambda b, t: seen.append(b) or t == " a")
    assert seen == ["", " a", " a b"] and found.tolist() == [True, False, True]


def test_units_that_separate_two_sets_come_first() -> None:
    one, other = random(30, 6), random(30, 6, seed=1)
    one[:, 4] += 5
    other[:, 2] += 5
    (first, up), (second, down) = sorted(S.separating_units(one, other, 2), key=lambda u: -u[1])
    assert (first, second) == (4, 2) and up > 1 and down < -1


def test_direct_logits_are_centred_and_need_the_stream(tiny_model, fitted) -> None:
    found = S.direct_logits(tiny_model, fitted, [3, 7])
    want = fitted.W_dec[[3, 7]] @ tiny_model.W_U
    torch.testing.assert_close(found, want - want.mean(-1, keepdim=True))
    with pytest.raises(IndexError, match="no unit 50"):
        S.direct_logits(tiny_model, fitted, [50])
    with pytest.raises(ValueError, match="only sites of the residual stream"):
        S.direct_logits(tiny_model, an_sae(), [0])


def test_attribution_predicts_small_changes(tiny_model, fitted, tokens) -> None:
    """Against the slow way: move one unit a little and look."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 5] - logits[:, -1, 6]

    found = S.attribute_to_units(tiny_model, fitted, tokens, metric)
    clean = metric(tiny_model(tokens))
    prompt, pos, unit = (found.acts * (found.direct.abs() > 1e-4)).nonzero()[0].tolist()
    act = float(found.acts[prompt, pos, unit])
    hook = S.set_units(fitted, {unit: 0.99 * act}, [pos])
    with tiny_model.hooks(fwd_hooks=[(HOOK, hook)]):
        moved = metric(tiny_model(tokens))
    change = float(clean[prompt] - moved[prompt])
    assert change == pytest.approx(0.01 * float(found.direct[prompt, pos, unit]), rel=0.1, abs=1e-6)


def test_setting_units_changes_them_and_nothing_before(tiny_model, fitted, tokens) -> None:
    before = S.unit_activations(tiny_model, fitted, tokens)
    unit = int(before.sum((0, 1)).argmax())
    hook = S.set_units(fitted, {unit: 0.0}, [4])
    x = tiny_model.run_with_cache(tokens)[1][HOOK]
    changed = hook(x.clone(), None)
    step = changed - x
    assert step[:, [0, 1, 2, 3, 5, 6, 7, 8]].abs().max() == 0
    torch.testing.assert_close(step[:, 4], -before[:, 4, unit, None] * fitted.W_dec[unit])
    with pytest.raises(IndexError, match="no unit -1"):
        S.set_units(fitted, {-1: 0.0})
