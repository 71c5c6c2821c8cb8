"""Reading units: contexts, explanations, direct logits, attribution, setting units."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_sae import HOOK, an_sae, random

from mi_helpers import sae as S
from mi_helpers.interventions import NothingHappened, intervene
from mi_helpers.models import model_id
from mi_helpers.sae.stream import read_flat


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
    with pytest.raises(ValueError, match="writes 6 dimensions"):
        S.direct_logits(tiny_model, an_sae(), [0])
    for hook in ("blocks.1.attn.hook_q", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_post"):
        with pytest.raises(ValueError, match="does not write to the residual stream"):
            S.direct_logits(tiny_model, replace(fitted, hook=hook), [0])


def test_direct_logits_of_heads_go_through_their_output_matrix(tiny_model, fitted) -> None:
    """Widths agree, meanings do not: d_heads x d_head is d_model in most models."""
    heads = replace(fitted, hook="blocks.1.attn.hook_z")
    found = S.direct_logits(tiny_model, heads, [3, 7])
    z = fitted.W_dec[[3, 7]].unflatten(1, (tiny_model.cfg.n_heads, -1))
    want = torch.einsum("uhd,hdm->um", z, tiny_model.blocks[1].attn.W_O) @ tiny_model.W_U
    torch.testing.assert_close(found, want - want.mean(-1, keepdim=True))
    plain = S.direct_logits(tiny_model, fitted, [3, 7])
    assert (found - plain).norm() > 0.5 * found.norm()


def test_attribution_predicts_small_changes(tiny_model, fitted, tokens) -> None:
    """Against the slow way: move one unit a little and look."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 5] - logits[:, -1, 6]

    found = S.attribute_to_units(tiny_model, fitted, tokens, metric)
    clean = metric(tiny_model(tokens))
    strong = found.acts * (found.direct.abs() > 1e-4)
    assert not found.acts[:, 0].any()  # the first token is spared
    prompt, pos, unit = strong.nonzero()[0].tolist()
    act = float(found.acts[prompt, pos, unit])
    with S.set_units(tiny_model, fitted, {unit: 0.99 * act}, [pos]):
        moved = metric(tiny_model(tokens))
    change = float(clean[prompt] - moved[prompt])
    assert change == pytest.approx(0.01 * float(found.direct[prompt, pos, unit]), rel=0.1, abs=1e-6)


def stream_of(model, tokens: torch.Tensor) -> torch.Tensor:
    return read_flat(model, HOOK, tokens)


def test_setting_units_changes_them_and_nothing_before(tiny_model, fitted, tokens) -> None:
    before, x = S.unit_activations(tiny_model, fitted, tokens), stream_of(tiny_model, tokens)
    unit = int(before[:, 1:].sum((0, 1)).argmax())
    with S.set_units(tiny_model, fitted, {unit: 0.0}, [4]) as fired:
        step = stream_of(tiny_model, tokens) - x
    assert fired.count == 1
    assert step[:, [0, 1, 2, 3, 5, 6, 7, 8]].abs().max() == 0
    want = -before[:, 4, unit, None] * fitted.W_dec[unit]
    assert want.abs().max() > 0.1
    torch.testing.assert_close(step[:, 4], want)
    torch.testing.assert_close(stream_of(tiny_model, tokens), x)  # the block is over


def test_setting_a_unit_to_another_runs_values_is_patching(tiny_model, fitted, tokens) -> None:
    x, y = (stream_of(tiny_model, t) for t in (tokens, tokens.flip(1)))
    unit = int(fitted.encode(y)[:, 1:].sum((0, 1)).argmax())
    wanted = fitted.encode(y)[..., unit]
    with S.set_units(tiny_model, fitted, {unit: wanted}):
        step = stream_of(tiny_model, tokens) - x
    want = (wanted - fitted.encode(x)[..., unit])[..., None] * fitted.W_dec[unit]
    torch.testing.assert_close(step[:, 1:], want[:, 1:])
    assert want[:, 1:].abs().max() > 1e-3 and step[:, 0].abs().max() == 0  # the first is spared


def test_special_tokens_are_spared_wherever_they_stand(tiny_model, fitted, tokens) -> None:
    tokens = tokens.clone()
    tokens[1, 5] = tiny_model.tokenizer.bos_token_id
    x = stream_of(tiny_model, tokens)
    with S.set_units(tiny_model, fitted, {unit: 9.0 for unit in range(50)}):
        moved = (stream_of(tiny_model, tokens) - x).norm(dim=-1)
    still = torch.zeros_like(tokens, dtype=torch.bool)
    still[:, 0] = still[1, 5] = True
    assert torch.equal(moved == 0, still)
    with S.splice(tiny_model, fitted):
        spliced = stream_of(tiny_model, tokens)
    assert torch.equal((spliced != x).any(-1), ~still)
    torch.testing.assert_close(spliced[~still], fitted(x[~still]))


def test_setting_units_that_does_nothing_is_refused(tiny_model, fitted, tokens) -> None:
    for wrong, error, said in (({-1: 0.0}, IndexError, "no unit -1"), ({}, ValueError, "no unit")):
        with pytest.raises(error, match=said), S.set_units(tiny_model, fitted, wrong):
            tiny_model(tokens)
    with pytest.raises(NothingHappened), S.set_units(tiny_model, fitted, {3: 0.0}):
        pass
    with pytest.raises(NothingHappened, match="spared"):
        with S.set_units(tiny_model, fitted, {3: 0.0}):
            tiny_model(tokens[:, :1])
    with pytest.raises(ValueError, match="always spared"):
        with S.set_units(tiny_model, fitted, {3: 0.0}, [0]):
            tiny_model(tokens)
    with pytest.raises(NothingHappened), S.splice(tiny_model, fitted):
        pass
    assert torch.equal(tiny_model(tokens), tiny_model(tokens))


def test_units_silent_on_the_text_can_be_ablated_without_effect(pocket) -> None:
    """BOS fires hundreds of them, and means nothing by it."""
    from importlib.resources import files

    from mi_helpers import prompts

    sae = S.load(files("mi_data") / "sae" / "resid_post_3")
    tokens = prompts.ioi(pocket, 16, seed=3).clean_tokens
    acts = S.unit_activations(pocket, sae, tokens)
    silent = (~(acts[:, 1:] > 0).any(1).any(0)).nonzero()[:, 0].tolist()
    assert len(silent) > 100 and (acts[:, 0][:, silent] > 0).any()
    with S.set_units(pocket, sae, dict.fromkeys(silent, 0.0)):
        after = pocket(tokens)[:, -1]
    torch.testing.assert_close(after, pocket(tokens)[:, -1], atol=1e-3, rtol=1e-3)
    busy = int(acts[:, -1].mean(0).argmax())
    with S.set_units(pocket, sae, {busy: 0.0}):
        assert (pocket(tokens)[:, -1] - after).abs().max() > 0.01


def test_read_tokens_is_the_site_on_real_tokens(tiny_model, tokens) -> None:
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[:, 0], real[0, 4:], real[1, 7:] = False, False, False
    found = S.read_tokens(tiny_model, HOOK, tokens, real, rows_at_once=2)
    torch.testing.assert_close(found, read_flat(tiny_model, HOOK, tokens)[real])
    real[2] = False  # a text of which nothing is read
    found = S.read_tokens(tiny_model, HOOK, tokens, real, rows_at_once=2)
    torch.testing.assert_close(found, read_flat(tiny_model, HOOK, tokens)[real])
    with pytest.raises(ValueError, match="0 tokens"):
        S.read_tokens(tiny_model, HOOK, tokens, torch.zeros_like(real))


def test_activations_go_back_to_their_texts() -> None:
    real = torch.tensor([[False, True, True], [False, True, False]])
    assert S.on_texts(torch.tensor([1.0, 2.0, 3.0]), real).tolist() == [[0, 1, 2], [0, 3, 0]]
    with pytest.raises(ValueError, match="3 tokens are real"):
        S.on_texts(torch.ones(4), real)


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
    from mi_helpers.figures import unit_dashboard
    from mi_helpers.sae.report import Example

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
        x, y = (read_flat(tiny_model, HOOK, t) for t in (other[:1], tokens[:1]))
        step = fitted.decode(fitted.encode(y)) - fitted.decode(fitted.encode(x))
        step[:, 0] = 0  # first tokens are spared
        with intervene(tiny_model, {HOOK: lambda act, where: act + step}):
            want = float(last_logits(tiny_model(other[:1])))
        assert everything == pytest.approx(
            (want - run.ends[0]) / (run.ends[1] - run.ends[0]), abs=1e-3
        )
        assert everything != pytest.approx(1, abs=1e-2)


def test_features_are_restored_where_they_are_attributed(tiny_model, fitted, tokens) -> None:
    """Prompts that differ in their first token alone: there features are spared, units are not."""
    other = tokens[:1].clone()
    other[0, 0] += 1
    found = S.attribute_to_units(tiny_model, fitted, other, last_logits)
    run = S.restoration(tiny_model, "features", tokens[:1], other, last_logits, sae=fitted)
    assert not found.acts[:, 0].any()
    [steps] = run.clean_values.values()
    assert not steps[:, 0].any() and steps[:, 1:].any()
    run = S.restoration(tiny_model, "dimensions", tokens[:1], other, last_logits, sae=fitted)
    assert run.share(range(32)) == pytest.approx(1, abs=1e-3)


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
    with pytest.raises(ValueError, match="recovery is undefined"):
        S.restoration(tiny_model, "heads", tokens, tokens, last_logits, sae=fitted)
    with pytest.raises(ValueError, match=r"clean is \[3, 9\]"):
        S.restoration(tiny_model, "heads", tokens, tokens[:, 1:], last_logits, sae=fitted)
