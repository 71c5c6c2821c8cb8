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


def test_setting_a_unit_to_another_runs_values_is_patching(tiny_model, fitted, tokens) -> None:
    other = tokens.flip(1)
    x, y = (S.read_site(tiny_model, HOOK, t) for t in (tokens, other))
    unit = int(fitted.encode(y).sum((0, 1)).argmax())
    wanted = fitted.encode(y)[..., unit]
    step = S.set_units(fitted, {unit: wanted})(x, None) - x
    torch.testing.assert_close(
        step, (wanted - fitted.encode(x)[..., unit])[..., None] * fitted.W_dec[unit]
    )
    with pytest.raises(ValueError, match="names no unit"):
        S.set_units(fitted, {})


def test_read_tokens_is_the_site_on_real_tokens(tiny_model, tokens) -> None:
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[:, 0], real[0, 4:], real[1, 7:] = False, False, False
    found = S.read_tokens(tiny_model, HOOK, tokens, real, rows_at_once=2)
    torch.testing.assert_close(found, S.read_site(tiny_model, HOOK, tokens)[real])
    real[2] = False  # a text of which nothing is read
    found = S.read_tokens(tiny_model, HOOK, tokens, real, rows_at_once=2)
    torch.testing.assert_close(found, S.read_site(tiny_model, HOOK, tokens)[real])
    with pytest.raises(ValueError, match="0 tokens"):
        S.read_tokens(tiny_model, HOOK, tokens, torch.zeros_like(real))


def test_activations_go_back_to_their_texts() -> None:
    real = torch.tensor([[False, True, True], [False, True, False]])
    assert S.on_texts(torch.tensor([1.0, 2.0, 3.0]), real).tolist() == [[0, 1, 2], [0, 3, 0]]
    with pytest.raises(ValueError, match="3 tokens are real"):
        S.on_texts(torch.ones(4), real)


def test_units_towards_a_token_stand_out_in_their_own_writing(tiny_model, fitted) -> None:
    logits = S.direct_logits(tiny_model, fitted, range(50))
    (unit, z), *rest = S.units_towards(tiny_model, fitted, 7, 3)
    assert z == pytest.approx(float((logits[:, 7] / logits.std(-1)).max()))
    assert float(logits[unit, 7] / logits[unit].std()) == pytest.approx(z)
    assert [z, *(r[1] for r in rest)] == sorted([z, *(r[1] for r in rest)], reverse=True)


def test_neighbours_agree_where_a_unit_marks_a_kind() -> None:
    x = torch.cat([random(20, 5) * 0.1 + 3, random(20, 5, seed=1) * 0.1 - 3])
    marks, scattered = torch.zeros(40), torch.zeros(40)
    marks[:20], scattered[::2] = 1.0, 1.0
    assert S.neighbour_consistency(marks, x, k=5).tolist() == [1.0] * 20
    assert S.neighbour_consistency(scattered, x, k=5).mean() < 0.8
    outside = S.neighbour_consistency(marks, x, k=5, examples=marks == 0)
    assert outside.tolist() == [0.0] * 20
    with pytest.raises(ValueError, match="none to compare"):
        S.neighbour_consistency(torch.zeros(40), x)


def test_nearest_units_leave_the_unit_itself_out() -> None:
    sae = an_sae()
    sae.W_dec[3] = sae.W_dec[8] + 0.01
    found = S.nearest_units(sae, 8, 4)
    assert found[0][0] == 3 and found[0][1] > 0.9 and 8 not in [unit for unit, _ in found]
    assert len(S.nearest_units(sae, 8, 500)) == 19


@pytest.fixture
def labelled(tokens) -> S.Labelled:
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[:, 0] = False
    marked = torch.zeros_like(real)
    marked[:, 3] = True
    return S.Labelled(tokens, real, {"third": marked, "all": real})


def test_a_report_gathers_what_its_parts_say(tiny_model, fitted, labelled) -> None:
    acts = fitted.encode(S.read_tokens(tiny_model, HOOK, labelled.tokens, labelled.real))
    unit = int((acts > 0).float().mean(0).argmax())
    found = S.report(tiny_model, fitted, labelled, acts, unit, top=2, below=1, rows=4)
    assert (
        found.peak == float(acts[:, unit].max()) and len(found.active) == (acts[:, unit] > 0).sum()
    )
    assert found.frequency == pytest.approx(float((acts[:, unit] > 0).float().mean()))
    assert [e.group for e in found.examples][:2] == ["Strongest texts"] * 2
    assert found.examples[0].values.max() == pytest.approx(found.peak)
    assert all(len(e.str_tokens) == len(e.values) for e in found.examples)
    assert found.promoted[0][1] > 0 > found.suppressed[0][1] and len(found.nearest) == 4
    on, third = acts[:, unit] > 0, labelled.flat("third")
    rows = {name: rest for name, *rest in found.labels}
    assert rows["all"] == [1.0, pytest.approx(found.frequency), 1.0]
    if "third" in rows:
        both = float((on & third).sum())
        assert rows["third"][:2] == [both / float(on.sum()), both / float(third.sum())]
    with pytest.raises(ValueError, match="never fires"):
        S.report(tiny_model, fitted, labelled, torch.zeros_like(acts), unit)
    with pytest.raises(IndexError, match="no unit 50"):
        S.report(tiny_model, fitted, labelled, acts, 50)


def test_a_dashboard_escapes_what_the_text_holds(tiny_model, fitted, labelled) -> None:
    from dataclasses import replace

    from mi_helpers.figures import unit_dashboard
    from mi_helpers.sae.reports import Example

    acts = fitted.encode(S.read_tokens(tiny_model, HOOK, labelled.tokens, labelled.real))
    found = S.report(tiny_model, fitted, labelled, acts, int(acts.sum(0).argmax()))
    bad = replace(found, examples=[Example("<b>", ["<script>"], torch.ones(1))])
    source = str(unit_dashboard(bad, title="a < b"))
    assert "<script>" not in source and "&lt;script&gt;" in source and "a &lt; b" in source
    assert "http" not in source
    with pytest.raises(ValueError, match="title is empty"):
        unit_dashboard(found, title=" ")
    with pytest.raises(ValueError, match="no examples"):
        unit_dashboard(replace(found, examples=[]), title="x")


def last_logits(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 5] - logits[:, -1, 6]


@pytest.mark.parametrize("kind", ["features", "dimensions", "neurons", "heads"])
def test_restoring_nothing_and_everything(tiny_model, fitted, tokens, kind) -> None:
    other = tokens.flip(0)
    run = S.restoration(tiny_model, kind, tokens[:1], other[:1], last_logits, sae=fitted)
    assert run.share([]) == pytest.approx(0, abs=1e-4)
    assert len(run.names) == len(run.scores) and len(set(run.names)) == len(run.names)
    everything = run.share(range(len(run.scores)))
    if kind == "dimensions":  # the whole stream at the site, so the clean run from there on
        assert everything == pytest.approx(1, abs=1e-3)
        assert run.needed(0.999, range(32)) is not None
    elif kind == "features":  # the same, less what the dictionary cannot write
        x, y = (S.read_site(tiny_model, HOOK, t) for t in (other[:1], tokens[:1]))
        step = fitted.decode(fitted.encode(y)) - fitted.decode(fitted.encode(x))
        with tiny_model.hooks(fwd_hooks=[(HOOK, lambda act, hook: act + step)]):
            want = float(last_logits(tiny_model(other[:1])))
        assert everything == pytest.approx(
            (want - run.ends[0]) / (run.ends[1] - run.ends[0]), abs=1e-3
        )
        assert everything != pytest.approx(1, abs=1e-2)


def test_restoration_scores_are_the_slope(tiny_model, fitted, tokens) -> None:
    """Of one dimension of a short step, where first order is exact enough."""
    run = S.restoration(tiny_model, "dimensions", tokens[:1], tokens[1:2], last_logits, sae=fitted)
    shares = torch.tensor([run.share([i]) for i in range(32)])
    gap = run.ends[1] - run.ends[0]
    assert torch.corrcoef(torch.stack([shares * gap, run.scores]))[0, 1] > 0.8
    assert run.order()[0] == int(run.scores.argmax())


def test_units_needed_are_the_fewest(tiny_model, fitted, tokens) -> None:
    run = S.restoration(tiny_model, "dimensions", tokens[:1], tokens[1:2], last_logits, sae=fitted)
    n = run.needed(0.5)
    assert n is not None and run.share(run.order()[:n]) >= 0.5 > run.share(run.order()[: n - 1])
    assert run.needed(5.0) is None


def test_restoration_refuses_what_cannot_work(tiny_model, fitted, tokens) -> None:
    with pytest.raises(ValueError, match="unknown kind 'layers'"):
        S.restoration(tiny_model, "layers", tokens, tokens, last_logits, sae=fitted)
    with pytest.raises(ValueError, match="nothing to restore"):
        S.restoration(tiny_model, "heads", tokens, tokens, last_logits, sae=fitted)
    with pytest.raises(ValueError, match=r"clean is \[3, 9\]"):
        S.restoration(tiny_model, "heads", tokens, tokens[:, 1:], last_logits, sae=fitted)
