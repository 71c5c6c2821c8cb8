# ---
# title: Attribution patching
# minutes: 75
# ---

# %% [markdown]
# **The question.** Activation patching runs the model once for every cell of its map. Can one
# backward pass tell what all those runs would find? Where does it lie, and what does it cost to
# make it honest?
#
# **You need** activation patching ([notebook 05](05_activation_patching.ipynb)) and gradients, as
# in any course on neural networks.
#
# **You will be able to**
#
# - derive the estimate, and say for which functions it is exact;
# - compute it by hand for one site of a model, and with a helper for all;
# - judge an estimate against the truth: error, ranks, slope, top of the list;
# - say which experiment a gradient estimates, by the run on which it was taken;
# - find out which part of a model bends the way (LayerNorm, the softmax) by freezing it;
# - repair estimates: integrated gradients, and a softmax computed anew, and say when they mislead;
# - score every *edge* between components, and check some of them by patching.

# %% [markdown] short=true
# ## 1. A slope in place of an experiment
#
# Patching replaces an activation $a$ by $a'$ and measures $f(a') - f(a)$. A smooth function is
# nearly a straight line over a short distance. So, nearly,
#
# $$f(a') - f(a) \;\approx\; (a' - a) \cdot \nabla f(a).$$
#
# The gradient on the right is the same for every $a'$, and *one* backward pass gives it for every
# activation of the model at once. This is **attribution patching**, AtP [@nanda2023attribution].
#
# Here is a model small enough to check it by hand: an attention head with one place to look at. It
# looks there as much as a sigmoid of its *score* says, and finds a *value*.


# %% short=true
def toy(value, score):
    """What the head writes: what it finds, times how much it looks there."""
    return value * torch.sigmoid(score)


def effects(base, other):
    """Patch each of the toy's inputs alone: the true effect and its estimate."""
    leaves = [torch.tensor(x, requires_grad=True) for x in base]
    slopes = torch.autograd.grad(toy(*leaves), leaves)
    rows = []
    for i, name in enumerate(("value", "score")):
        patched = torch.tensor([other[j] if i == j else x for j, x in enumerate(base)])
        rows.append({"patched": name, "from": base[i], "to": other[i],
                     "true": (toy(*patched) - toy(*leaves)).item(),
                     "estimate": ((other[i] - base[i]) * slopes[i]).item()})  # fmt: skip
    return rows


# %% [markdown] short=true
# A small step, then a large one. Before you run it: for which of the four lines is the estimate
# exact, and for which is it worst?

# %% short=true
mi.figures.table(effects((1.0, 0.0), (2.0, 0.5)) + effects((1.0, -6.0), (2.0, 6.0)))

# %% [markdown] short=true
# The output is *linear* in the value, so its estimate is exact, however far the value goes. In the
# score it is curved. Over the small step that does little harm. In the last line the head goes from
# not looking at all to looking hard. The true effect is nearly all there is, and the estimate is
# nearly nothing: where the sigmoid is flat, its slope is zero. The gradient says what a *small*
# change does.

# %% [markdown] short=true
# ## 2. One site of a model, by hand
#
# The same prompts as in notebook 05: the eight of the literature, and twins in which the other
# person gives. We are going to estimate what *denoising* each head would do. So the base is the
# corrupt run, gradients are taken *there*, and the change is clean minus corrupt.

# %%
from mi_helpers.interventions import intervene, replace
from mi_helpers.patching import (
    At,
    Integrated,
    LogitDiff,
    OtherRun,
    attribution,
    patch_sweep,
    slopes,
)

# %% short=true
pairs = mi.prompts.ioi_literature(model)
clean, corrupt, answers = pairs.clean_tokens, pairs.corrupt_tokens, pairs.answer_tokens
n_layers, n_heads, metric = model.cfg.n_layers, model.cfg.n_heads, LogitDiff(answers)
clean_diff, corrupt_diff = (metric(model(tokens)).cpu() for tokens in (clean, corrupt))
gap = (clean_diff - corrupt_diff).mean()
print(
    "logit difference:", clean_diff.mean().item(), "clean,", corrupt_diff.mean().item(), "corrupt"
)

# %% [markdown] short=true
# To get gradients at inner activations, a hook keeps each on its way and asks it to remember its
# gradient. The weights are frozen here, so the graph has to start somewhere: at the embeddings.


# %% short=true
def acts_and_grads(tokens, name):
    """An activation of every layer on these prompts, and the metric's gradient there."""
    kept = []

    def start(stream, hook):
        return stream.detach().requires_grad_()

    def keep(act, hook):
        act.retain_grad()
        kept.append(act)
        return act

    hooks = [("blocks.0.hook_resid_pre", start)]
    hooks += [(f"blocks.{layer}.{name}", keep) for layer in range(n_layers)]
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        metric(model(tokens)).sum().backward()
    assert len(kept) == n_layers, "a hook never fired"
    return torch.stack([act.detach() for act in kept]), torch.stack([act.grad for act in kept])


# %% [markdown] short=true
# Summing the metric over prompts keeps their gradients apart, because no prompt's result depends on
# another. Change times gradient, summed over a head's dimensions, is one estimate for each layer,
# prompt, position and head. Estimates *add up*: the sum over positions estimates patching all
# positions at once.

# %% short=true
z, gradient = acts_and_grads(corrupt, "attn.hook_z")  # [layer prompt position head d_head]
other_z, _ = acts_and_grads(clean, "attn.hook_z")
by_hand = ((other_z - z) * gradient).sum(-1)  # [layer prompt position head]
by_helper = attribution(model, corrupt, OtherRun(clean), metric, sites=["z"])["z"]
assert torch.allclose(by_helper.values, by_hand.permute(0, 2, 3, 1).cpu(), atol=1e-3)
assert torch.allclose(by_helper.effect("layer", "head"), by_hand.mean(1).sum(1).cpu(), atol=1e-3)

# %% [markdown] short=true
# Now the truth beside it: one patched run for each head. Both are divided by the distance of the
# runs, so that 1 is the whole way from corrupt to clean. Look for heads whose colour differs.


# %% short=true
def patched(site, where=None, over=("layer", "head")):
    """The true effect of every cell of a site, as a sweep."""
    return patch_sweep(model, corrupt, OtherRun(clean), metric, site=site, over=over, where=where,
                       progress=False)  # fmt: skip


layers, columns = [f"L{i}" for i in range(n_layers)], [f"H{j}" for j in range(n_heads)]
by_runs = patched("z")
head_maps = [by_runs.recovery(), by_helper.effect("layer", "head") / gap]
figures.heatmap(
    torch.stack(head_maps), facets=["one run for each head", "one backward pass"],
    title="The estimate finds the same heads", x=columns, y=layers, xlabel="head", ylabel="layer",
    colorbar="recovery",
)  # fmt: skip

# %% [markdown] short=true
# Looking alike is not a measurement. Two numbers: the **error**, which is the sum of absolute
# errors over the sum of absolute effects (0 is right, 1 is as bad as saying "no effect" to
# everything), and the agreement of *ranks*, in which the many small heads count as much as the few
# large ones. As the control, how well does the *change* tell, without a gradient, scaled by least
# squares: does a head whose output differs much between the runs also have a large effect? (Its
# error may exceed 1, since it gives an effect to heads that have none.)


# %% short=true
def correlation(a, b):
    """Pearson's r over all entries."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def off(truth, estimate):
    """Sum of absolute errors over the sum of absolute effects."""
    return (estimate - truth).abs().sum() / truth.abs().sum()


def ranks(x):
    """The place of each entry, from the smallest to the largest."""
    return x.flatten().argsort().argsort().float()


# %%
true_z, estimated_z = head_maps
change = (other_z - z).norm(dim=-1).mean(1).cpu()  # [layer position head]
sizes = change.sum(1)
scaled = sizes * (sizes * true_z.abs()).sum() / (sizes * sizes).sum()
claim("estimate.heads", off(true_z, estimated_z), control=off(true_z.abs(), scaled))
claim("estimate.ranks", correlation(ranks(true_z), ranks(estimated_z)),
      control=correlation(ranks(true_z.abs()), ranks(sizes)))  # fmt: skip

# %% [markdown]
# ### On which run?
#
# The gradient belongs to the run that is *changed*: on the corrupt run it estimates denoising, and
# on the clean run noising. On the eight prompts nothing averaged could tell: each is the corrupt
# twin of another. With three *other* people in the corrupt prompts the two questions have different
# answers ([notebook 05](05_activation_patching.ipynb)). `At(0)` and `At(1)` stand for a gradient on
# the base run and on the other one. (A larger model is compared on few prompts, here and below, and
# without its first quarter of layers.)

# %%
n_prompts, first = mi.models.by_size(model, (32, 0), (4, n_layers // 4))
strangers = mi.prompts.ioi(model, n_prompts, seed=0, corruption="random", same_wording=True)
ask = LogitDiff(strangers.answer_tokens)
there, here = strangers.clean_tokens, strangers.corrupt_tokens
late = mi.patching.Where(layers=range(first, n_layers))
truths = {"denoising": (here, there, 1), "noising": (there, here, -1)}
truths = {
    label: sign * patch_sweep(model, base, OtherRun(other), ask, site="z", over=("layer", "head"),
                              where=late, progress=False).effect()
    for label, (base, other, sign) in truths.items()
}  # fmt: skip
taken = {
    run: attribution(model, here, OtherRun(there), ask, path=way)["z"].effect("layer", "head")
    for run, way in {"the corrupt run": At(0), "the clean run": At(1)}.items()
}

# %%
errors = {run: {label: off(truth, found[first:]) for label, truth in truths.items()}
          for run, found in taken.items()}  # fmt: skip
mi.figures.table(
    [{"gradient on": run} | {f"error, {label}": x.item() for label, x in row.items()}
     for run, row in errors.items()], title="Two gradients, two experiments",
)  # fmt: skip

# %% [markdown]
# The gradient on the corrupt run is good for denoising, and says much less of noising: that is the
# claim. The one on the clean run is no estimate of denoising at all. On pocket it is poor even at
# noising, no better than the other gradient: there large effects of the two orders of names nearly
# cancel.

# %%
row = errors["the corrupt run"]
claim("estimate.base_run", row["denoising"], control=row["noising"])

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: attribute
# From the activations of both runs and the gradient on the base run, estimate the effect of
# patching each head at *all positions at once*, averaged over prompts.

# %% [markdown] tags=["hint"]
# Which axes are summed, and which one is averaged? A dot product sums; "at once" sums; only the
# prompts are averaged. The gradient is of the sum of the metric over prompts.


# %% tags=["exercise"]
def attribute(base, other, gradient):
    """base, other, gradient: [prompt position head d_head]  ->  [head]."""
    raise NotImplementedError


# %% tags=["solution"]
def attribute(base, other, gradient):
    return ((other - base) * gradient).sum((1, 3)).mean(0)


# %% tags=["check"]
check.attribute(attribute)

# %% [markdown]
# ## 3. Every site against the truth
#
# One backward pass has estimates for all sites. The truth takes one sweep for each: heads at all
# positions, and the stream and the sublayers by position.

# %%
import time

name, end = (pairs.positions[role][0].item() for role in ("S2", "end"))
block_sites, head_sites = ("resid_pre", "attn_out", "mlp_out"), ("z", "v")
after_name = mi.patching.Where(positions=range(name, end + 1))  # before it, both runs are the same
truth = {"z": by_runs, "v": patched("v")}
truth |= {site: patched(site, after_name, ("layer", "position")) for site in block_sites}
shown_at = mi.models.by_size(model, list(range(name, end + 1)), [name, end])
by_position = patched("z", mi.patching.Where(positions=shown_at), ("layer", "position", "head"))
true = {site: sweep.recovery() for site, sweep in truth.items()}


# %%
def estimate(path):
    """Estimated recovery at every site, with gradients taken along a path."""
    found = attribution(model, corrupt, OtherRun(clean), metric, sites=list(true), path=path)
    return {
        site: found[site].effect("layer", "head") / gap if site in head_sites
        else found[site].effect("layer", "position")[:, name:] / gap
        for site in true
    }  # fmt: skip


began = time.perf_counter()
estimated = estimate(At(0))
seconds = time.perf_counter() - began

# %% [markdown]
# Choose a site. Each dot is a cell; on the line the estimate is right. A cloud that is *flatter*
# than the line is estimated too small; one around the line but scattered is noisy. Mind the axes:
# a site with tiny effects fills the figure too. Start with `resid_pre`, then `attn_out` and `v`;
# then see which of them the heads' `z` is like. (Queries, keys and patterns do next to nothing in
# this task; section 4 takes one in which they do.)


# %%
def against_truth(site):
    """Estimate against truth for every cell of a site, the worst ones by name."""
    error = (estimated[site] - true[site]).abs().flatten()
    across = "H" if site in head_sites else " position "
    first = 0 if site in head_sites else name
    labels = [f"L{i}{across}{first + j}" for i, j in
              torch.cartesian_prod(*map(torch.arange, true[site].shape)).tolist()]  # fmt: skip
    return figures.scatter(
        true[site].flatten(), estimated[site].flatten(), labels=labels, identity=True,
        named=[labels[i] for i in error.topk(3).indices], correlation=True,
        title=f"{site}: one backward pass against one run for each cell",
        xlabel="true recovery", ylabel="estimate",
    )  # fmt: skip


mi.figures.explore(against_truth, site=list(true), start={"site": "resid_pre"}, ahead=True)

# %% [markdown]
# A correlation is one number of several. Two estimates with the same correlation can differ in
# *slope* (all effects too small) and in their *error*. The last column is the largest true effect:
# where it is small, the rest of the row says little.


# %%
def slope(truth, estimate):
    """Of the least-squares line of the estimate over the truth: 1 is right, 0 sees nothing."""
    x, y = truth.flatten() - truth.mean(), estimate.flatten() - estimate.mean()
    return (x * y).sum() / (x * x).sum()


measures = {"r": correlation, "slope": slope, "error": off}
scores = {
    site: {label: measure(true[site], estimated[site]) for label, measure in measures.items()}
    for site in true
}
mi.figures.table(
    [{"site": site, "cells": true[site].numel(), **{k: v.item() for k, v in row.items()},
      "largest effect": true[site].abs().max().item()}
     for site, row in scores.items()], title="How good is the estimate, site by site",
)  # fmt: skip

# %% [markdown]
# What orders the slopes? Here are truth and estimate layer by layer, for the two tokens through
# which the answer goes. Where is the estimate's share of the truth smallest?

# %%
stream = {"true": true["resid_pre"], "estimated": estimated["resid_pre"]}
figures.lines(
    {f"{token}, {label}": found[:, at] for token, at in (("giver", 0), ("last token", -1))
     for label, found in stream.items()}, title="The stream, estimated too small",
    x=layers, xlabel="patched before layer", ylabel="recovery",
)  # fmt: skip

# %% [markdown]
# It is not how much computation follows. On pocket the estimate has about half of the giver's
# effect before any layer, as long as there is one, and of the last token's a *smaller* share before
# the late layers than before the early ones: there the step is all of the answer, earlier a part of
# it. Section 4 asks what bends on the way.
#
# ### Head by position
#
# One backward pass has each head at each *position* as well, where patching needs a run for every
# cell (a larger model is patched at the giver, S2, and the last token only). The strongest heads
# by both; the strongest colour stands for a twentieth of the distance between the runs, and for all
# that is more. Is there a cell that only one of the two panels has?

# %%
cells = [by_position.recovery(), by_helper.effect("layer", "position", "head")[:, shown_at] / gap]
shown = mi.heads.top_heads(true_z.abs(), 10)
figures.heatmap(
    torch.stack([torch.stack([cell[h.layer, :, h.head] for h, _ in shown]) for cell in cells]),
    facets=["patched", "estimated"], title="Where the strongest heads act",
    x=[pairs.str_tokens[0][at] for at in shown_at], y=[str(h) for h, _ in shown],
    xlabel="position", ylabel="head", colorbar="recovery", limit=0.05,
)  # fmt: skip

# %% [markdown]
# For a first look at a large model, what matters is the top of the list: the share of the strongest
# tenth of all cells that the estimate also puts there. The control lists cells by the size of their
# change alone.


# %%
def top(truth, estimate):
    """Share of the strongest tenth of cells that the estimate finds."""
    k = max(8, round(truth.numel() / 10))
    best = [set(x.abs().flatten().topk(k).indices.tolist()) for x in (truth, estimate)]
    return torch.tensor(len(best[0] & best[1]) / k)


claim("estimate.top", top(*cells), control=top(cells[0], change[:, shown_at]))

# %% [markdown] short=true
# ## 4. Where it fails, and why
#
# Take the extreme case. To patch the giver (S2) before the *first* layer is to change the prompt,
# so its true recovery is exactly 1. What does the gradient say? The control is the same share for
# the last token before the *last* layer.

# %% short=true
assert torch.isclose(true["resid_pre"][0, 0], torch.tensor(1.0), atol=1e-3)
told = estimated["resid_pre"] / true["resid_pre"]
claim("failure.first_layer", told[0, 0], control=told[-1, -1])

# %% [markdown] short=true
# Why? Walk from one value to the other and look at the metric on the way. The estimate is the
# tangent at the start.


# %% short=true
def along(place, position, steps=11):
    """Recovery [step] with one activation on its way from the corrupt to the clean value."""
    ends = [mi.sites.read(model, tokens, [place])[place] for tokens in (corrupt, clean)]
    curve = []
    for share in torch.linspace(0, 1, steps).tolist():
        on_the_way = replace(torch.lerp(*ends, share))
        with intervene(model, {place: on_the_way}, positions=[position]):
            curve.append((metric(model(corrupt)).cpu() - corrupt_diff).mean() / gap)
    return torch.stack(curve)


# %% short=true
share = torch.linspace(0, 1, 11)
at_start, at_end = along(("resid_pre", 0), name), along(("resid_pre", n_layers - 1), end)
assert torch.isclose(at_start[-1], true["resid_pre"][0, 0], atol=1e-3)
figures.lines(
    {"name, first layer": at_start, "tangent of name": share * estimated["resid_pre"][0, 0],
     "end, last layer": at_end, "tangent of end": share * estimated["resid_pre"][-1, -1]},
    title="The estimate is the tangent at the start", x=share,
    xlabel="share of the way from corrupt to clean", ylabel="recovery",
)  # fmt: skip

# %% [markdown]
# Compare each curve with its own tangent. The first is symmetric about its middle, because the
# pairs are each other's twins: the way back is another pair's way there.
#
# ### Which part bends it?
#
# Two parts of a block are far from linear in what comes before them: **LayerNorm**, which divides
# by the stream's length, and the **softmax**. (The MLP's curve is a third, left alone here.) To see
# what one of them does to the estimate, *freeze* it: the forward pass stays as it is, and the
# gradient takes this part for a constant, everywhere or at one token.


# %%
def frozen_estimate(hooks, layer=0, at=name, where=None):
    """Estimated recovery by the stream at a token, gradients stopped at some hooks."""
    place = ("resid_pre", layer)
    stops = {hook: lambda acts, where: acts.detach() for hook in hooks}
    with intervene(model, stops, positions=where):
        stream, gradient = slopes(model, corrupt, metric, [place])[place]
    change = mi.sites.read(model, clean, [place])[place] - stream
    return (change * gradient)[:, at].sum(-1).mean().cpu() / gap


# %%
norms = ("ln1.hook_scale", "ln2.hook_scale", "ln_final.hook_scale")
scales = [hook for hook in model.hook_dict if hook.endswith(norms)]
final = [hook for hook in scales if "ln_final" in hook]
patterns = [("pattern", layer) for layer in range(n_layers)]
frozen = {"nothing": estimated["resid_pre"][0, 0], "scales": frozen_estimate(scales),
          "scales at the giver": frozen_estimate(scales, where=[name]),
          "scales at the last token": frozen_estimate(scales, where=[end]),
          "the final scale": frozen_estimate(final),
          "attention patterns": frozen_estimate(patterns)}  # fmt: skip
last = {"nothing": estimated["resid_pre"][-1, -1],
        "the final scale": frozen_estimate(final, n_layers - 1, end)}  # fmt: skip

# %%
mi.figures.table(
    [{"frozen": label, "giver, first layer": x.item(),
      "last token, last layer": last[label].item() if label in last else "–"}
     for label, x in frozen.items()], title="Estimated recovery (true: 1)",
)  # fmt: skip

# %%
claim("failure.scales", frozen["scales"], control=frozen["the final scale"])

# %% [markdown]
# On pocket it is LayerNorm, and none of them alone: scales at the giver and at the last token each
# have a part, and the last token's own trouble is the final one. The claim sets all scales beside
# the final one. On SmolLM2 it is neither: with all scales frozen, or all patterns, the estimate
# sees little all the same. The curve above tells why: nearly all of the change comes half-way
# between the two names, and no slope at the start can see that. Why would a *constant* scale be
# nearer to the truth on pocket? A name is exchanged for another whose vector is about as long, so
# over the whole step the division hardly changes. At the start of the way it does: half-way between
# two vectors that point different ways is a shorter one. The slope counts a change of length that
# is taken back later.

# %%
side_by_side = getattr(model.cfg, "parallel_attn_mlp", False)
place = ("resid_pre" if side_by_side else "resid_mid", 0)  # what the first MLP's norm divides
ends = [mi.sites.read(model, tokens, [place])[place][:, name] for tokens in (corrupt, clean)]
ends.insert(1, sum(ends) / 2)
spread_of = [x.square().mean(-1).sqrt() for x in ends]  # the folded stream has no mean to take off
mi.figures.table([{"giver": pairs.answers[i]} | dict(zip(("corrupt", "half-way", "clean"),
                  [x[i].item() for x in spread_of], strict=True)) for i in range(4)],
                 title="The scale of the norm on the way from one name to another")  # fmt: skip

# %% [markdown]
# ### A softmax that is sure of itself
#
# For the softmax we need a task in which queries and keys matter: **induction** ([notebook
# 03](03_induction_heads.ipynb)). Random tokens are said twice, and the second time the model has
# to say what followed the first time. In the corrupt prompt two tokens of the *first* copy have
# changed places, so another one follows. The question stays; what changes is found in the *keys*.

# %%
length, asked_for, elsewhere = 12, 3, 8
repeats = mi.prompts.repeated_tokens(model, mi.models.by_size(model, 32, 2), length, seed=0)
told_twice = repeats[:, : length + asked_for + 2]  # ends with the second time of one token
moved = told_twice.clone()
moved[:, [1 + asked_for, 1 + elsewhere]] = told_twice[:, [1 + elsewhere, 1 + asked_for]]
follows = LogitDiff(repeats[:, [asked_for + 2, elsewhere + 2]])
by_keys = patch_sweep(model, moved, OtherRun(told_twice), follows, site="k",
                      over=("layer", "head"), progress=False)  # fmt: skip
span = (by_keys.target - by_keys.base).mean()
print("logit difference:", by_keys.target.mean().item(), "and", by_keys.base.mean().item())

# %% [markdown]
# A head that already attends to *one* key with nearly all its weight is where the sigmoid of
# section 1 is flat: a small push to its keys does nothing, and the whole change does a lot. The
# method AtP\* [@kramar2024atp] computes the softmax anew, with the other run's keys, and is linear
# only from there on: change of the *pattern* times the gradient at the pattern. That costs no
# further backward pass. Which of the two estimates is nearer to the true panel?

# %%
new_keys = mi.sites.read(model, told_twice, [("k", layer) for layer in range(n_layers)])
at_patterns = slopes(model, moved, follows, patterns)
fixed = []
for layer in range(n_layers):
    with intervene(model, {("k", layer): replace(new_keys["k", layer])}):
        pattern = mi.sites.read(model, moved, [("pattern", layer)])["pattern", layer]
    now, gradient = at_patterns["pattern", layer]
    fixed.append(((pattern - now) * gradient).sum((1, 3)).mean(0).cpu() / span)
key_heads = by_keys.mean().shape[1]  # some models share keys between heads
maps = {"true": by_keys.recovery(),
        "AtP": attribution(model, moved, OtherRun(told_twice), follows,
                           sites=["k"])["k"].effect("layer", "head") / span,
        "AtP with its softmax computed anew":
            torch.stack(fixed).view(n_layers, key_heads, -1).sum(-1)}  # fmt: skip

# %%
figures.heatmap(
    torch.stack(list(maps.values())), facets=list(maps), y=layers,
    x=[f"H{head}" for head in range(key_heads)], xlabel="head", ylabel="layer",
    title="Patching keys in an induction task", colorbar="recovery",
)  # fmt: skip

# %%
truth_k, plain_k, fixed_k = maps.values()
claim("failure.keys", off(truth_k, fixed_k), control=off(truth_k, plain_k))

# %% [markdown]
# Computed anew, the softmax is right, and what is left of the error comes from all that *follows*
# the pattern. The same holds for values: a head's output is linear in them, and the rest of the
# model is not.

# %% [markdown] tags=["task"] minutes=15 difficulty=3
# ### Exercise 2: the slope of a softmax
# A head looks at several keys: the softmax of its scores weighs their values, and the result is
# read along a direction. Write down the *slope* of the reading in each score, without autograd.
# Then ask yourself what becomes of it when one weight is nearly 1.

# %% [markdown] tags=["hint"]
# To raise one score takes attention from all other keys, in proportion. So what counts is how far
# a key's value lies from what the head writes *now*.


# %% tags=["exercise"]
def score_slopes(scores, values, direction):
    """Derivative of (softmax(scores) @ values) @ direction in each score, [key].

    scores: [key]; values: [key d_head]; direction: [d_head].
    """
    raise NotImplementedError


# %% tags=["solution"]
def score_slopes(scores, values, direction):
    weights = scores.softmax(-1)
    written = weights @ values
    return weights * ((values - written) @ direction)


# %% tags=["check"]
check.score_slopes(score_slopes)

# %% [markdown] short=true
# ## 5. Integrated gradients: ask on the way
#
# If the slope at the start misleads, take slopes along the way and average. For one activation,
# the mean slope over the whole way, times the way, *is* the difference: that is the fundamental
# theorem of calculus. With a few steps it is nearly so. On the toy's hopeless line:


# %% short=true
def mean_slope(base, other, steps):
    """The toy's slope in its score, averaged over the middles of equal parts of the way."""
    points = base + (other - base) * (torch.arange(steps) + 0.5) / steps
    points.requires_grad_()
    return torch.autograd.grad(toy(1.0, points).sum(), points)[0].mean()


rows = [{"steps": steps, "estimate": (12 * mean_slope(-6.0, 6.0, steps)).item()}
        for steps in (1, 2, 5, 20)]  # fmt: skip
rows.append({"steps": "true", "estimate": (torch.sigmoid(torch.tensor([-6.0, 6])).diff()).item()})
mi.figures.table(rows)

# %% [markdown] short=true
# Few steps may even overshoot: one slope, taken in the steep middle, is worse than one at the flat
# start. In the model, the way runs through the *inputs*: the embeddings go from the corrupt to the
# clean prompt in a straight line, and at each point a backward pass gives gradients for all sites
# [@hanna2024faith]. Each step costs a forward and a backward pass. Look at where each curve stops
# falling.

# %% short=true
numbers = mi.models.by_size(model, (2, 5, 10, 20), (2, 10))
ways = {"start": At(0)} | {f"{n} steps": Integrated(n) for n in numbers}
found = {label: estimate(way) for label, way in ways.items()}
overall = {site: [off(true[site], f[site]).item() for f in found.values()]
           for site in ("resid_pre", "mlp_out", "z", "v")}  # fmt: skip
by_way = [attribution(model, moved, OtherRun(told_twice), follows, sites=["k"], path=way)["k"]
          for way in ways.values()]  # fmt: skip
overall["k, induction"] = [off(truth_k, x.effect("layer", "head") / span).item() for x in by_way]
figures.lines(
    overall, title="Integrated gradients: the error by site", x=list(ways),
    xlabel="gradients taken at", ylabel="relative error",
)  # fmt: skip

# %% [markdown] short=true
# On pocket they help at every one of these sites, most at the stream and at the induction task's
# keys, and more than a few steps buy nothing. On SmolLM2 they help the stream, the MLPs and those
# keys, and the heads' outputs and values, which one gradient estimates well, not at all.

# %% short=true
ten = list(ways).index("10 steps")
claim("integrated.stream", overall["resid_pre"][ten], control=overall["resid_pre"][0])

# %% [markdown]
# They need not help. The way through the inputs moves *all* activations together, while a patch
# moves one and leaves the rest behind. Where two must change together, these are two questions. In
# notebook 05 a prompt was *never told*: other tokens stand in its first copy, so a head has to look
# elsewhere *and* find something else, and neither patch does anything alone. Integrated gradients
# credit each of the two with its part of what only both can do; the gradient at the start credits
# none. The claim takes the error over patterns and values together, in units of their true effects.
# These are small here, which is the point: the error says how much is credited in excess of them,
# not how much of the answer that is.

# %%
never_told = told_twice.clone()
unheard = mi.prompts.repeated_tokens(model, len(repeats), length, seed=1)
never_told[:, 1 : 1 + length] = unheard[:, 1 : 1 + length]
alone, credited = [], {}
for site in ("pattern", "v"):
    swept = patch_sweep(model, never_told, OtherRun(told_twice), follows, site=site, where=late,
                        over=("layer", "head"), progress=False)  # fmt: skip
    alone.append(swept.effect())
for label in ("start", "10 steps"):
    found = attribution(model, never_told, OtherRun(told_twice), follows, sites=["pattern", "v"],
                        path=ways[label])  # fmt: skip
    credited[label] = [found[site].effect("layer", "head")[first:] for site in ("pattern", "v")]

# %%
flat = {label: torch.cat([x.flatten() for x in maps]) for label, maps in credited.items()}
truly = torch.cat([x.flatten() for x in alone])
claim("integrated.together", off(truly, flat["10 steps"]), control=off(truly, flat["start"]))

# %% [markdown]
# For the first layer integrated gradients are more than an estimate: there the way *is* the patch.
# Summed over positions, the error goes to zero as steps grow, which is no finding but the theorem:
# it is called *completeness*, and a good test of code.

# %%
fine = attribution(
    model, corrupt, OtherRun(clean), metric, sites=["resid_pre"],
    path=Integrated(mi.models.by_size(model, 40, 20)),
)  # fmt: skip
assert (fine["resid_pre"].effect("layer")[0] / gap - 1).abs() < 0.05

# %% [markdown] tags=["task"] minutes=15 difficulty=2 short=true
# ### Exercise 3: integrated gradients
# Estimate $f(other) - f(base)$, one share for each coordinate, from gradients at the middles of
# `steps` equal parts of the straight way.

# %% [markdown] tags=["hint"]
# The middles of `n` parts of the unit interval are $(i + 1/2)/n$. `torch.lerp` gives a point of the
# way; it has to require a gradient before `torch.autograd.grad` can be asked for one.


# %% tags=["exercise"]
def integrated_gradients(f, base, other, steps):
    """f: a function of [n] to a number; base, other: [n]; steps: how many parts  ->  [n]."""
    raise NotImplementedError


# %% tags=["solution"]
def integrated_gradients(f, base, other, steps):
    total = torch.zeros_like(base)
    for i in range(steps):
        x = torch.lerp(base, other, (i + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(f(x), x)[0]
    return (other - base) * total / steps


# %% tags=["check"]
check.integrated_gradients(integrated_gradients)

# %% [markdown]
# ## 6. Edges
#
# An **edge** joins a component that writes to the stream with a later one that reads from it. To
# patch an edge is to let *one* reader see the other run's output of *one* writer. The estimate is a
# product again [@syed2023attribution]: what the writer changes, times the gradient at that reader's
# input. (The helpers know the edges of some architectures; for any other this section says so.)

# %%
try:
    graph = mi.circuits.EdgeGraph.of(model)
except ValueError as why:
    graph, reason = None, str(why)
print(f"{int(graph.valid.sum())} edges" if graph else reason)

# %% [markdown]
# By hand for edges from heads to the logits: the reader's input is the last stream. And a head's
# own estimate is the sum over all its outgoing edges, because gradients add up over readers: an
# identity, and another test.

# %%
_, at_last = acts_and_grads(corrupt, "hook_resid_post")
written = torch.einsum("lbphe,lhed->lhbpd", other_z - z, model.W_O)
to_logits = torch.einsum("lhbpd,bpd->lh", written, at_last[-1]).cpu() / len(pairs)
if graph:
    edges = mi.circuits.edge_attribution(model, corrupt, OtherRun(clean), metric)
    row, heads = graph.readers.index("logits"), graph.heads
    of_heads = [graph.writers.index(str(head)) for head in heads]
    assert torch.allclose(edges.values[row, of_heads].view_as(to_logits), to_logits, atol=1e-3)
    of_node = torch.tensor([edges.nodes()[str(head)] for head in heads]) / gap
    assert torch.allclose(of_node, estimated["z"].flatten(), atol=1e-3)

# %% [markdown]
# Are single edges right? An edge must matter to be tested, so take the induction task: patch, from
# every earlier head, the edge to the logits, and those to the queries, keys and values of the three
# heads whose keys do most. Path patching is the subject of notebook 07; here it is the judge.
# Beside edge attribution patching (EAP) stands **EAP-IG** [@hanna2024faith], with integrated
# gradients.

# %%
pair = (model, moved, OtherRun(told_twice), follows)
ranked = mi.heads.top_heads(torch.stack(fixed).abs(), torch.stack(fixed).numel())
finders = [head for head, _ in ranked if head.layer][:3]  # below the first layer are no heads
readers = {part: list(dict.fromkeys(graph.input_of(head, part) for head in finders))
           for part in "qkv" if graph}  # fmt: skip
paths = {"EAP": At(0), "EAP-IG": Integrated(5)}
by_path, by_score = {}, {label: {} for label in paths}
both = {x: mi.circuits.edge_attribution(*pair, path=paths[x]) for x in paths if graph}
for receiver in ["logits", *sum(readers.values(), [])] if graph else []:
    sweep = mi.circuits.path_patch(*pair, receivers=receiver, progress=False)
    by_path[receiver] = sweep.recovery().flatten()
    for label, scored in both.items():
        row = graph.readers.index(receiver)
        by_score[label][receiver] = scored.values[row, of_heads] / span


# %%
def edges_into(receivers):
    """The edges into some readers: truth, and by method the estimate."""
    joined = [torch.cat([by[r] for r in receivers]) for by in (by_path, *by_score.values())]
    return joined[0], dict(zip(by_score, joined[1:], strict=True))


groups = {"logits": ["logits"], "queries": readers["q"], "keys": readers["k"],
          "values": readers["v"]} if graph else {}  # fmt: skip
into = {label: edges_into(receivers) for label, receivers in groups.items()}
error_to = {label: {x: off(truth, y) for x, y in found.items()}
            for label, (truth, found) in into.items()}  # fmt: skip

# %% [markdown]
# Edges *to the logits* pass only the final LayerNorm. Edges into keys pass a softmax and everything
# after it. In the table look at the last column first: where no edge has an effect worth the name,
# an error means nothing.

# %%
mi.figures.table(
    [{"edges into": label, **{f"error, {x}": y.item() for x, y in error_to[label].items()},
      "largest effect": truth.abs().max().item()} for label, (truth, _) in into.items()],
    title="Errors against path patching, by reader",
) if graph else None  # fmt: skip

# %%
if graph:
    claim("edges.logits", error_to["logits"]["EAP"], control=error_to["keys"]["EAP"])
    claim("edges.integrated", error_to["keys"]["EAP-IG"], control=error_to["keys"]["EAP"])
else:
    claim.not_here("edges.logits", reason)
    claim.not_here("edges.integrated", reason)

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: score the edges
# Writers and readers are in the order of the computation; reader `r` reads only the first
# `n_before[r]` writers. Return a score for each edge, averaged over prompts, and 0 where there is
# no edge.

# %% [markdown] tags=["hint"]
# `torch.einsum("rbpd,wbpd->rw", ...)` is every pair at once. Then a mask: `torch.arange(n_writers)
# < n_before[:, None]`.


# %% tags=["exercise"]
def score_edges(change, gradient, n_before):
    """change: [writer prompt position d_model], what each writer writes more in the other run.

    gradient: [reader prompt position d_model], at each reader's input; n_before: [reader].
    Returns [reader writer].
    """
    raise NotImplementedError


# %% tags=["solution"]
def score_edges(change, gradient, n_before):
    scores = torch.einsum("rbpd,wbpd->rw", gradient, change) / change.shape[1]
    exists = torch.arange(len(change)) < n_before[:, None]
    return torch.where(exists, scores, 0.0)


# %% tags=["check"]
check.score_edges(score_edges)

# %% [markdown] short=true
# ## Summary
#
# - Attribution patching is change times gradient: exact where the model is linear, and one backward
#   pass for all sites.
# - The gradient is that of the run which is changed: on another run it estimates another
#   experiment.
# - To learn which part spoils an estimate, freeze it. On pocket the stream is spoilt by LayerNorm,
#   and keys by the softmax and, as much, by what follows it.
# - Integrated gradients repair much of it for a few more passes, unless two things have to change
#   together: then they credit each with what neither does alone. On SmolLM2 they estimate edges
#   into the keys of induction heads worse than one gradient does. A softmax can be computed anew.
# - Edges are scored in the same way. Their sums are the nodes' scores.
#
# **What we have not shown.** That a set of edges chosen by such scores *does the task*. A circuit
# needs a test of its own; that is notebook 07.
#
# ## Where to read on
#
# - The method, and when to expect it to fail: [@nanda2023attribution].
# - Failures found and repaired systematically (AtP\*): [@kramar2024atp].
# - Edges: [@syed2023attribution]; integrated gradients for edges, and why overlap with a known
#   circuit is not faithfulness: [@hanna2024faith].

# %% [markdown]
# ## Appendix A: what it saves
#
# The truth above took one patched run for each cell, and `patch_sweep` is no slow way to do it: it
# runs many cells in one batch and starts each at its patched layer. The estimate took a forward
# pass on each side and one backward pass, for *all* sites together: three passes, whatever the
# model. (Notebook 08 counts a backward pass as two, and the run that is made once more for the
# gradient.) Here are the seconds, measured just now on this machine.

# %%
sweeps = {"heads, two sites": [truth[site] for site in head_sites],
          "stream, attention, MLP by position": [truth[site] for site in block_sites],
          "heads by position, one site": [by_position]}  # fmt: skip
rows = [{"map": label, "patched runs": sum(sweep.mean().numel() for sweep in those),
         "passes of the estimate": 3, "seconds, patch_sweep": sum(sweep.seconds for sweep in those),
         "seconds, estimate of all sites": seconds}
        for label, those in sweeps.items()]  # fmt: skip
for row in rows:
    row["sweep / estimate"] = row["seconds, patch_sweep"] / seconds
figures.table(rows, title="Passes and seconds for the same maps")

# %% [markdown]
# On a tiny model with few cells a good sweep may be as fast as the estimate. But cells multiply
# with layers, heads and positions, and each is a run, while the backward pass has all of them
# anyway. With single neurons, or with edges, patching everything is out of the question. So the
# usual order of work is: estimate everything, then patch what looks important, and patch some of
# what does not.

# %% [markdown]
# ## Appendix B: when two routes cancel
#
# There is one more failure: **cancellation**. Where two routes have opposite effects, the truth is
# a small difference of large numbers, and small errors of each are large errors of the whole.
#
# A part that helps by one route and harms by another may have a slope of nearly zero, though the
# whole change does much. **GradDrop** [@kramar2024atp] takes one gradient for each layer, with
# *that layer* left out of the way back, and adds up the estimates' sizes. The sum is divided by one
# less than the number of layers, because each layer is left out once. A toy: the input goes from 0
# to 3, by a straight route and one that takes back what the first gives, but only at the start.


# %%
def two_routes(x, dropped=None):
    """What an input does by two routes; the gradient leaves out one of them."""
    routes = {"straight": x, "bent": -torch.tanh(x)}
    return sum(way.detach() if route == dropped else way for route, way in routes.items())


def estimated_size(dropped):
    x = torch.tensor(0.0, requires_grad=True)
    return (3 * torch.autograd.grad(two_routes(x, dropped), x)[0]).abs().item()


sizes = [estimated_size(route) for route in ("straight", "bent")]
mi.figures.table([{"true": two_routes(torch.tensor(3.0)).item(), "AtP": estimated_size(None),
                   "GradDrop": sum(sizes) / (len(sizes) - 1)}])  # fmt: skip

# %% [markdown]
# GradDrop does not say how large the effect is, but it no longer says that there is none. Where
# nothing cancels, there is nothing to rescue.

# %%
claim.table()
