"""Sweeps and ablations equal plain forward passes, one for each cell, and refuse bad input."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from patching_fixtures import BATCH, N_POS, SAME
from transformer_lens import patching as tl_patching

from mi_helpers import metrics, patching, sites
from mi_helpers.engine import FusedModel, Replacement, prepare, quick_readers, runs
from mi_helpers.interventions import intervene, replace
from mi_helpers.patching import (
    LogitDiff,
    Mean,
    Noised,
    OtherRun,
    Resample,
    Where,
    Zero,
)

pytest_plugins = ["patching_fixtures"]


@pytest.fixture(params=["fused", "hooked"])
def any_engine(request, monkeypatch):
    """Both engines must pass: the fused one, and the bridge's hooks."""
    if request.param == "hooked":
        monkeypatch.setattr(FusedModel, "supports", staticmethod(lambda model: False))


def naive(model, base, edits, metric):
    """One plain forward pass with hooks that put `value[index]` in place."""

    def put(index, value):
        def hook(act, hook):
            act[index] = value[index]

        return hook

    hooks = [(name, put(index, value)) for name, index, value in edits]
    with torch.no_grad():
        return metric(model.run_with_hooks(base, fwd_hooks=hooks))


TL_SWEEPS = {
    "resid_pre": tl_patching.get_act_patch_resid_pre,
    "resid_mid": tl_patching.get_act_patch_resid_mid,
    "attn_out": tl_patching.get_act_patch_attn_out,
    "mlp_out": tl_patching.get_act_patch_mlp_out,
    "z": tl_patching.get_act_patch_attn_head_out_by_pos,
    "q": tl_patching.get_act_patch_attn_head_q_by_pos,
    "k": tl_patching.get_act_patch_attn_head_k_by_pos,
    "v": tl_patching.get_act_patch_attn_head_v_by_pos,
    "pattern": tl_patching.get_act_patch_attn_head_pattern_by_pos,
}
TL_ALL_POSITIONS = {
    "z": tl_patching.get_act_patch_attn_head_out_all_pos,
    "q": tl_patching.get_act_patch_attn_head_q_all_pos,
    "k": tl_patching.get_act_patch_attn_head_k_all_pos,
    "v": tl_patching.get_act_patch_attn_head_v_all_pos,
    "pattern": tl_patching.get_act_patch_attn_head_pattern_all_pos,
}


@pytest.mark.parametrize("site", TL_SWEEPS)
def test_sweep_equals_transformer_lens(any_engine, model, base, source, metric, site):
    over = ("layer", "position", "head") if patching.SITES[site].per_head else ("layer", "position")
    ours = patching.patch_sweep(model, base, OtherRun(source), metric, site=site, over=over)
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        wanted = TL_SWEEPS[site](model, base, cache, lambda logits: metric(logits).mean())
    wanted = wanted.transpose(1, 2) if site == "pattern" else wanted  # theirs: layer, head, dest
    assert wanted.std() > 1e-3, "nothing to compare"
    torch.testing.assert_close(ours.mean(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("site", TL_ALL_POSITIONS)
def test_head_sweep_over_all_positions(any_engine, model, base, source, metric, site):
    ours = patching.patch_sweep(
        model, base, OtherRun(source), metric, site=site, over=("layer", "head")
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        wanted = TL_ALL_POSITIONS[site](model, base, cache, lambda logits: metric(logits).mean())
    assert wanted.std() > 1e-4, "nothing to compare"
    torch.testing.assert_close(ours.mean(), wanted, rtol=0, atol=1e-5)


def test_result_is_the_same_as_z_for_another_run(any_engine, model, base, source, metric):
    options = dict(over=("layer", "head", "position"))
    z, result = (
        patching.patch_sweep(model, base, OtherRun(source), metric, site=site, **options)
        for site in ("z", "result")
    )
    assert z.effect().abs().max() > 1e-3
    torch.testing.assert_close(z.values, result.values, rtol=0, atol=1e-5)


def test_resid_post_and_windows(any_engine, model, base, source, metric):
    sweep = patching.patch_sweep(model, base, OtherRun(source), metric, site="mlp_out", window=2)
    post = patching.patch_sweep(model, base, OtherRun(source), metric, site="resid_post")
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    for layer in range(3):
        for position in range(N_POS):
            index = (slice(None), position)
            layers = range(layer, min(3, layer + 2))
            names = [f"blocks.{i}.hook_mlp_out" for i in layers]
            both = naive(model, base, [(n, index, cache[n]) for n in names], metric)
            torch.testing.assert_close(sweep.values[layer, position], both, rtol=0, atol=1e-5)
            name = f"blocks.{layer}.hook_resid_post"
            one = naive(model, base, [(name, index, cache[name])], metric)
            torch.testing.assert_close(post.values[layer, position], one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("site", ["mlp_in", "mlp_post"])
def test_inside_the_mlp(any_engine, model, base, source, metric, site):
    sweep = patching.patch_sweep(model, base, OtherRun(source), metric, site=site)
    hook = {"mlp_in": "blocks.{}.mlp.hook_in", "mlp_post": "blocks.{}.mlp.hook_post"}[site]
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    for layer, position in product(range(3), range(N_POS)):
        edit = (hook.format(layer), (slice(None), position), cache[hook.format(layer)])
        wanted = naive(model, base, [edit], metric)
        torch.testing.assert_close(sweep.values[layer, position], wanted, rtol=0, atol=1e-5)
    assert sweep.effect()[:, SAME:].abs().max() > 1e-3
    where = {"z": Where(layers=[0], heads=[1]), site: Where(layers=[1], positions=[3, 5])}
    ablated = patching.ablate(model, base, Zero(), metric, [where])
    zero = torch.zeros_like(cache[hook.format(1)])
    no_z = torch.zeros_like(cache["blocks.0.attn.hook_z"])
    z = ("blocks.0.attn.hook_z", (slice(None), slice(None), 1), no_z)
    edits = [z, (hook.format(1), (slice(None), [3, 5]), zero)]
    wanted = naive(model, base, edits, metric)
    torch.testing.assert_close(ablated.values[0], wanted, rtol=0, atol=1e-5)
    assert (ablated.effect().abs() > 1e-3).all()


def test_metrics_that_read_more_than_the_last_position(any_engine, model, base, source):
    class Loss:
        positions = None

        def __call__(self, logits):
            logprobs = logits.log_softmax(dim=-1)[:, :-1]
            return -logprobs.gather(2, base[:, 1:, None]).mean(dim=(1, 2))

    class Early(Loss):
        positions = (3,)

        def __call__(self, logits):
            return logits[:, -(N_POS - 3), 5]

    several = {"loss": Loss(), "early": Early(), "last": lambda logits: logits[:, -1, 5]}
    sweeps = patching.patch_sweep(model, base, OtherRun(source), several, site="resid_mid")
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    name = "blocks.1.hook_resid_mid"
    for position in range(N_POS):
        for key, one in several.items():
            edit = [(name, (slice(None), position), cache[name])]
            wanted = naive(model, base, edit, one)
            torch.testing.assert_close(sweeps[key].values[1, position], wanted, rtol=0, atol=1e-5)
    # a position after the one that is read cannot matter, one before it does
    assert torch.equal(sweeps["early"].values[:, 4:], sweeps["early"].base.expand(3, 3, BATCH))
    assert (sweeps["early"].effect()[:, SAME:4].abs() > 1e-4).any()


def test_a_metric_that_hides_what_it_reads_is_refused(model, base, source):
    with pytest.raises(ValueError, match="attribute `positions`"):
        patching.patch_sweep(
            model, base, OtherRun(source), lambda logits: logits[..., 5].mean(dim=1)
        )


def test_the_metrics_of_the_package_serve_as_they_are(model, base, source, metric):
    with torch.no_grad():
        clean = model(base)
    kl = partial(metrics.kl, reference=clean)
    sweep = patching.patch_sweep(model, base, OtherRun(source), kl)
    assert (sweep.values > -1e-6).all()
    # everything at the last position of the last layer is as far as the other run itself
    torch.testing.assert_close(
        sweep.values[:, :SAME], torch.zeros(3, SAME, BATCH), atol=1e-6, rtol=0
    )
    assert sweep.recovery()[0, SAME:].max() > 0.05
    slow = partial(metrics.logit_diff, answer_tokens=metric.answer_tokens)  # by way of all logits
    both = {"direction": metric, "logits": slow}
    sweeps = patching.patch_sweep(model, base, OtherRun(source), both)
    torch.testing.assert_close(
        sweeps["direction"].values, sweeps["logits"].values, rtol=0, atol=1e-5
    )


def test_recovery_runs_from_base_to_source(model, base, source, metric):
    where = Where(positions=range(N_POS))
    whole = patching.patch_sweep(
        model, base, OtherRun(source), metric, over=("layer",), where=where
    )
    torch.testing.assert_close(whole.recovery(), torch.ones(3), rtol=0, atol=1e-5)
    first = patching.patch_sweep(
        model, base, OtherRun(source), metric, where=Where(positions=[0, 1])
    )
    assert torch.equal(first.values, first.base.expand_as(first.values)), "the runs agree there"
    assert first.index == {"layer": [0, 1, 2], "position": [0, 1]}
    zeroed = patching.patch_sweep(model, base, Zero(), metric)
    with pytest.raises(ValueError, match="OtherRun"):
        zeroed.recovery()


def test_where_restricts_what_is_patched(any_engine, model, base, source, metric):
    mask = torch.zeros(3, N_POS, dtype=torch.bool)
    mask[0, 3] = mask[1, 5] = True
    sweep = patching.patch_sweep(
        model,
        base,
        OtherRun(source),
        metric,
        site="resid_mid",
        over=("layer",),
        where=Where(mask=mask),
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(source)
    for layer, position in ((0, 3), (1, 5)):
        name = f"blocks.{layer}.hook_resid_mid"
        wanted = naive(model, base, [(name, (slice(None), position), cache[name])], metric)
        torch.testing.assert_close(sweep.values[layer], wanted, rtol=0, atol=1e-5)


def test_small_memory_gives_the_same(any_engine, model, base, source, metric, monkeypatch):
    options = dict(site="z", over=("layer", "head", "position"))
    large = patching.patch_sweep(model, base, OtherRun(source), metric, **options).values
    monkeypatch.setattr(runs, "MEMORY", 1)
    small = patching.patch_sweep(model, base, OtherRun(source), metric, **options).values
    torch.testing.assert_close(large, small, rtol=0, atol=1e-6)


@pytest.mark.parametrize("site", [site for site in patching.SITES if site != "result"])
def test_intervening_at_a_site_is_what_ablating_it_is(any_engine, model, base, metric, site):
    where = {site: Where(layers=[1], positions=[3, 5])}
    swept = patching.ablate(model, base, Zero(), metric, [where]).values[0]
    with torch.no_grad(), intervene(model, {(site, 1): replace(0.0)}, positions=[3, 5]):
        torch.testing.assert_close(swept, metric(model(base)), rtol=0, atol=1e-5)
    assert (swept - metric(model(base))).abs().max() > 1e-3


SETS = [
    [],
    ["L0H1"],
    ["L0H1", "L1H3", "MLP1"],
    ["MLP0"],
    {"L1H1": [-1, 2], "MLP1": None, "L0H0": [0]},
]


@pytest.mark.parametrize("what", ["zero", "mean", "mean over positions"])
def test_ablate_equals_hooks(any_engine, model, base, metric, what):
    generator = torch.Generator().manual_seed(5)
    reference = torch.randint(1, 100, (4, N_POS), generator=generator)
    with torch.no_grad():
        _, here = model.run_with_cache(base)
        _, cache = model.run_with_cache(reference)
    strategy = {
        "zero": Zero(),
        "mean": Mean(reference),
        "mean over positions": Mean(reference, per_position=False),
    }[what]
    swept = patching.ablate(model, base, strategy, metric, SETS)

    def value(name):
        mean = cache[name].mean(dim=(0, 1) if "positions" in what else 0, keepdim=True)
        return (torch.zeros_like(mean) if what == "zero" else mean).expand_as(here[name])

    for index, names in enumerate(SETS):
        positions = names if isinstance(names, dict) else dict.fromkeys(names)
        edits = []
        for name, where in positions.items():
            rows = list(range(N_POS)) if where is None else where
            layer = int(name[3:]) if name.startswith("MLP") else int(name[1 : name.index("H")])
            if name.startswith("MLP"):
                hook, place = f"blocks.{layer}.hook_mlp_out", (slice(None), rows)
            else:
                hook = f"blocks.{layer}.attn.hook_z"
                place = (slice(None), rows, int(name[name.index("H") + 1 :]))
            edits.append((hook, place, value(hook)))
        wanted = naive(model, base, edits, metric)
        torch.testing.assert_close(swept.values[index], wanted, rtol=0, atol=1e-5)
    assert swept.effect()[0].abs() < 1e-6 and (swept.effect()[1:].abs() > 1e-4).all()


def test_resample_draws_reference_prompts(model, base, metric):
    generator = torch.Generator().manual_seed(5)
    reference = torch.randint(1, 100, (2, N_POS), generator=generator)
    sets = [{"resid_pre": Where(layers=[0])}]
    values = patching.ablate(model, base, Resample(reference, seed=1), metric, sets).values[0]
    with torch.no_grad():
        logits = model(reference)
    possible = torch.stack([metric(row.expand(BATCH, -1, -1)) for row in logits])
    assert ((possible - values).abs().min(dim=0).values < 1e-5).all(), "each is one of the prompts"
    other = patching.ablate(model, base, Resample(reference, seed=2), metric, sets).values[0]
    assert not torch.allclose(values, other), "another seed draws others"


def test_hooks_of_ones_own_are_respected(model, base, source, metric):
    def halve(act, hook):
        return act * 0.5

    model.add_hook("blocks.1.hook_mlp_out", halve)
    with pytest.warns(UserWarning, match="hooks attached"):
        sweep = patching.patch_sweep(model, base, OtherRun(source), metric)
    with torch.no_grad():
        torch.testing.assert_close(sweep.base, metric(model(base)), rtol=0, atol=1e-5)


def test_the_library_notices_an_engine_that_is_wrong(model, base, source, metric, monkeypatch):
    setup = prepare(model, base, metric, OtherRun(source))
    right = setup.fused.attn_out
    cell = (Replacement("resid_pre", 0, runs.rows_mask(N_POS), setup.source("resid_pre", 0)),)
    monkeypatch.setattr(setup.fused, "attn_out", lambda layer, z: right(layer, z) * 1.01)
    with pytest.raises(RuntimeError, match="patching a run with itself"):
        setup.run_cells([cell])


def test_replacements_that_never_take_place_are_an_error(model, base, source, metric):
    setup = prepare(model, base, metric, OtherRun(source))
    mask = runs.rows_mask(N_POS)
    first = Replacement("resid_pre", 1, mask, setup.source("resid_pre", 1))
    never = Replacement("mlp_out", 5, mask, setup.source("mlp_out", 1), forced=True)
    with pytest.raises(RuntimeError, match="never took place"):
        setup.measure([(first, never)])


def test_the_hooked_engine_counts_what_took_place(model, base, source, metric, monkeypatch):
    monkeypatch.setattr(FusedModel, "supports", staticmethod(lambda model: False))
    setup = prepare(model, base, metric, OtherRun(source))
    late = Replacement("z", 0, torch.ones(N_POS, 4, dtype=torch.bool), setup.source("z", 0))
    with torch.no_grad(), pytest.raises(RuntimeError, match="took place 0 times"):
        setup.engine._run_chunk(setup.base, [(late,)], first=1)
    torch.testing.assert_close(
        setup.engine._run_chunk(setup.base, [(late,)], first=0)[0, :, :SAME],
        setup.base.final[:, :SAME],
        rtol=0,
        atol=1e-5,
    )


def test_a_hook_that_never_fires_is_no_site(model, base, metric, monkeypatch):
    silent = "blocks.{layer}.attn.qkv.hook_out"
    assert silent.format(layer=0) in model.hook_dict
    monkeypatch.setitem(sites.SITES, "scores", sites.Site("scores", silent, 2, False))
    monkeypatch.setattr(FusedModel, "supports", staticmethod(lambda model: False))
    setup = prepare(model, base, metric)
    assert ("scores", 0) not in setup.base.acts and ("z", 0) in setup.base.acts
    with pytest.raises(KeyError, match="does not compute scores"):
        patching.patch_sweep(model, base, Zero(), metric, site="scores", over=("layer",))


def test_a_reader_gives_what_the_model_gives(model, base, source):
    for place in [("mlp_post", 1), ("z", 2), ("q", 0), ("pattern", 1), "blocks.2.hook_resid_post"]:
        read = quick_readers(model, [place], base[:1])
        wanted = sites.read(model, source, [place])[place]
        torch.testing.assert_close(read(source)[0], wanted, rtol=0, atol=1e-4)
    model.add_hook("blocks.1.hook_mlp_out", lambda act, hook: act * 0.5)
    read = quick_readers(model, [("resid_post", 2)], base[:1])
    wanted = sites.read(model, source, [("resid_post", 2)])["resid_post", 2]
    torch.testing.assert_close(read(source)[0], wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="layer 3"):
        quick_readers(model, [("resid_post", 3)], base)


def test_a_setup_without_values_says_so(model, base, metric):
    with pytest.raises(ValueError, match="give it `what`"):
        prepare(model, base, metric).source("z", 0)


def nan_metric(logits):
    return logits[:, -1, 0] * torch.nan


BAD = {
    "unequal length": (dict(source=lambda s: s[:, :-1]), ValueError, "token length"),
    "unequal number": (dict(source=lambda s: s[:-1]), ValueError, "as many prompts"),
    "one prompt without a batch": (dict(source=lambda s: s[0]), ValueError, r"\[batch pos\]"),
    "token out of the vocabulary": (dict(source=lambda s: s + 10**6), ValueError, "vocabulary"),
    "too long": (dict(source=lambda s: s.repeat(1, 20)), ValueError, "140 positions"),
    "unknown site": (dict(site="resid_prior"), KeyError, "resid_prior.*resid_pre"),
    "position out of range": (dict(where=Where(positions=[7])), ValueError, "position 7"),
    "layer out of range": (dict(where=Where(layers=[-4])), ValueError, "layer -4"),
    "head out of range": (dict(site="z", where=Where(heads=[4])), ValueError, "head 4"),
    "heads of the stream": (dict(where=Where(heads=[0])), ValueError, "has no heads"),
    "sweep over heads of the stream": (dict(over=("layer", "head")), ValueError, "no heads"),
    "a position for each prompt": (
        dict(where=Where(positions=torch.tensor([1, 2, 3]))),
        ValueError,
        "holds for every prompt",
    ),
    "unknown axis": (dict(over=("layer", "token")), ValueError, "axes are"),
    "no axis": (dict(over=()), ValueError, "at least one axis"),
    "window of nothing": (dict(window=0), ValueError, "window=0"),
    "mask of the wrong shape": (
        dict(where=Where(mask=torch.ones(2, 3, dtype=torch.bool))),
        ValueError,
        "shape",
    ),
    "metric averaged": (dict(metric=lambda x: x[:, -1, 0].mean()), ValueError, "each example"),
    "metric is no tensor": (dict(metric=lambda x: 1.0), ValueError, "float"),
    "metric is NaN": (dict(metric=nan_metric), ValueError, "not finite"),
    "metric without a function": (dict(metric="logit_diff"), ValueError, "function"),
    "metric that sees no difference": (
        dict(metric=lambda x: x[:, -1, 0] * 0.0),
        ValueError,
        "recovery is undefined",
    ),
    "the same run twice": (dict(source="base"), ValueError, "same tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_sweep(model, base, source, metric, case, monkeypatch):
    changes, error, message = BAD[case]
    changes = dict(changes)
    change_source = changes.pop("source", lambda s: s)
    tokens = base if change_source == "base" else change_source(source)
    monkeypatch.setattr(patching.sweep, "_cell", lambda *args: pytest.fail("the sweep began"))
    options = {"metric": metric, **changes}
    with pytest.raises(error, match=message):
        patching.patch_sweep(model, base, OtherRun(tokens), **options)


def test_more_bad_input(model, base, metric):
    with pytest.raises(ValueError, match="L9H0: layer 9"):
        patching.ablate(model, base, Zero(), metric, [["L9H0"]])
    with pytest.raises(ValueError, match="'attn1' is no component"):
        patching.ablate(model, base, Zero(), metric, [["attn1"]])
    with pytest.raises(ValueError, match="list of sets"):
        patching.ablate(model, base, Zero(), metric, ["L0H0"])
    with pytest.raises(ValueError, match="align them"):
        patching.ablate(model, base, Mean(base[:, 1:]), metric, [["L0H0"]])
    with pytest.raises(ValueError, match="right and the wrong"):
        LogitDiff(torch.tensor([[1, 2], [3, 3]]))
    with pytest.raises(ValueError, match=r"\[batch 2\]"):
        LogitDiff(torch.tensor([1, 2]))


@pytest.mark.parametrize("window", [1, 3])
def test_causal_tracing_restores_states_of_a_noised_run(any_engine, model, base, metric, window):
    mask = torch.zeros_like(base, dtype=torch.bool)
    mask[:, 2:4] = True
    mask[0, 4] = True  # a longer subject in the first prompt
    noised = Noised(base, mask, scale=2.0, seed=7)
    options = dict(site="mlp_out", window=window)
    sweep = patching.patch_sweep(model, noised, OtherRun(base), metric, **options)
    noise = torch.randn(BATCH, N_POS, 32, generator=torch.Generator().manual_seed(7))

    def disturb(act, hook):
        return act + 2.0 * noise * mask[..., None]

    with torch.no_grad():
        _, clean = model.run_with_cache(base)
        start = ("blocks.0.hook_resid_pre", disturb)
        corrupt = metric(model.run_with_hooks(base, fwd_hooks=[start]))
    torch.testing.assert_close(sweep.base, corrupt, rtol=0, atol=1e-5)
    torch.testing.assert_close(sweep.target, metric(model(base)), rtol=0, atol=1e-5)
    for layer, position in ((0, 2), (1, 3), (2, 6)):
        layers = [i for i in range(layer - window // 2, layer + window // 2 + 1) if 0 <= i < 3]

        def restore(act, hook, position=position):
            act[:, position] = clean[hook.name.replace("mlp.hook_out", "hook_mlp_out")][:, position]
            return act

        hooks = [start, *((f"blocks.{i}.hook_mlp_out", restore) for i in layers)]
        with torch.no_grad():
            wanted = metric(model.run_with_hooks(base, fwd_hooks=hooks))
        torch.testing.assert_close(sweep.values[layer, position], wanted, rtol=0, atol=1e-5)
    assert torch.equal(sweep.values[:, :2], sweep.base.expand(3, 2, BATCH)), "before the subject"
    with pytest.raises(ValueError, match="no noise"):
        Noised(base, mask & False, scale=1.0)
    with pytest.raises(ValueError, match="tokens' shape"):
        Noised(base, mask[:1], scale=1.0)
