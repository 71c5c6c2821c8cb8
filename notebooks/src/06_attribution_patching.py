# ---
# title: Attribution patching
# minutes: 75
# measured: 20 s and 0.8 GiB on pocket
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
# - judge an estimate against the truth: correlation, slope, sign, top of the list;
# - explain its three failures (the early stream, LayerNorm, a saturated softmax) and show each;
# - repair some of them with integrated gradients, knowing the price;
# - score every *edge* between components, and check some of them by patching.

# %% [markdown]
# ## 1. A slope in place of an experiment
#
# Patching replaces an activation $a$ by $a'$ and measures $f(a') - f(a)$. A smooth function is
# nearly a straight line over a short distance. So, nearly,
#
# $$f(a') - f(a) \;\approx\; (a' - a) \cdot \nabla f(a).$$
#
# The gradient on the right is the same for every $a'$, and *one* backward pass gives it for every
# activation of the model at once. This is **attribution patching** [@nanda2023attribution].
#
# Here is a model small enough to check it by hand: an attention head with one place to look at. It
# looks there as much as a sigmoid of its *score* says, and finds a *value*.


# %%
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


# %% [markdown]
# A small step, then a large one. Before you run it: for which of the four lines is the estimate
# exact, and for which is it worst?

# %%
mi.figures.table(effects((1.0, 0.0), (2.0, 0.5)) + effects((1.0, -6.0), (2.0, 6.0)))

# %% [markdown]
# The output is *linear* in the value, so its estimate is exact, however far the value goes. In the
# score it is curved. Over the small step that does little harm. In the last line the head goes from
# not looking at all to looking hard. The true effect is nearly all there is, and the estimate is
# nearly nothing: where the sigmoid is flat, its slope is zero. The gradient says what a *small*
# change does.

# %% [markdown]
# ## 2. One site of a model, by hand
#
# The same prompts as in notebook 05: the eight of the literature, and twins in which the other
# person gives. We are going to estimate what *denoising* each head would do. So the base is the
# corrupt run, gradients are taken *there*, and the change is clean minus corrupt.

# %%
from mi_helpers.patching import At, Integrated, LogitDiff, OtherRun, attribution, patch_sweep

pairs = mi.prompts.ioi_literature(model)
clean, corrupt, answers = pairs.clean_tokens, pairs.corrupt_tokens, pairs.answer_tokens
n_layers, n_heads, metric = model.cfg.n_layers, model.cfg.n_heads, LogitDiff(answers)
clean_diff, corrupt_diff = (metric(model(tokens)).cpu() for tokens in (clean, corrupt))
gap = (clean_diff - corrupt_diff).mean()
print(
    "logit difference:", clean_diff.mean().item(), "clean,", corrupt_diff.mean().item(), "corrupt"
)

# %% [markdown]
# To get gradients at inner activations, a hook keeps each on its way and asks it to remember its
# gradient. The weights are frozen here, so the graph has to start somewhere: at the embeddings.


# %%
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


# %% [markdown]
# Summing the metric over prompts keeps their gradients apart, because no prompt's result depends on
# another. Change times gradient, summed over a head's dimensions, is one estimate for each layer,
# prompt, position and head. Estimates *add up*: the sum over positions estimates patching all
# positions at once.

# %%
z, gradient = acts_and_grads(corrupt, "attn.hook_z")  # [layer prompt position head d_head]
other_z, _ = acts_and_grads(clean, "attn.hook_z")
by_hand = ((other_z - z) * gradient).sum(-1)  # [layer prompt position head]
by_helper = attribution(model, corrupt, OtherRun(clean), metric, sites=["z"])["z"]
assert torch.allclose(by_helper.values, by_hand.permute(0, 2, 3, 1).cpu(), atol=1e-3)
assert torch.allclose(by_helper.effect("layer", "head"), by_hand.mean(1).sum(1).cpu(), atol=1e-3)

# %% [markdown]
# Now the truth beside it: one patched run for each head. Both are divided by the distance of the
# runs, so that 1 is the whole way from corrupt to clean. Look for heads whose colour differs.


# %%
def patched(site, where=None, over=("layer", "head")):
    """The true effect of every cell of a site, as a sweep."""
    return patch_sweep(model, corrupt, OtherRun(clean), metric, site=site, over=over, where=where,
                       progress=False)  # fmt: skip


layers, columns = [f"L{i}" for i in range(n_layers)], [f"H{j}" for j in range(n_heads)]
head_maps = [patched("z").recovery(), by_helper.effect("layer", "head") / gap]
mi.figures.heatmap(
    torch.stack(head_maps), facets=["one run for each head", "one backward pass"],
    title="The estimate finds the same heads", x=columns, y=layers, xlabel="head", ylabel="layer",
    colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Looking alike is not a measurement. The correlation over heads, and as the control the correlation
# with the same estimates dealt out to the heads at random.


# %%
def correlation(a, b):
    """Pearson's r over all entries."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def dealt_out(values, seed=0):
    """The same numbers in random order."""
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
    return values.flatten()[order]


true_z, estimated_z = head_maps
claim("estimate.heads", correlation(true_z, estimated_z),
      control=correlation(true_z, dealt_out(estimated_z)))  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=1
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
block_sites, head_sites = ("resid_pre", "attn_out", "mlp_out"), ("z", "pattern", "v", "q", "k")
after_name = mi.patching.Where(positions=range(name, end + 1))  # before it, both runs are the same
truth = {site: patched(site) for site in head_sites}
truth |= {site: patched(site, after_name, ("layer", "position")) for site in block_sites}
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
# a site with tiny effects fills the figure too. Start with `v`, then `q`, then `resid_pre`.


# %%
def against_truth(site):
    """Estimate against truth for every cell of a site, the worst ones by name."""
    error = (estimated[site] - true[site]).abs().flatten()
    across = "H" if site in head_sites else " position "
    first = 0 if site in head_sites else name
    labels = [f"L{i}{across}{first + j}" for i, j in
              torch.cartesian_prod(*map(torch.arange, true[site].shape)).tolist()]  # fmt: skip
    return mi.figures.scatter(
        true[site].flatten(), estimated[site].flatten(), labels=labels, identity=True,
        named=[labels[i] for i in error.topk(3).indices], correlation=True,
        title=f"{site}: one backward pass against one run for each cell",
        xlabel="true recovery", ylabel="estimate", subtitle=mi.model_id(model),
    )  # fmt: skip


mi.figures.explore(against_truth, site=list(true), start={"site": "q"})

# %% [markdown]
# A correlation is one number of several. Two estimates with the same correlation can differ in
# *slope* (all effects too small), in *sign* for small effects, and in what heads their list. The
# table has all of them. "Signs" counts cells with an effect above a fiftieth of the largest; "top"
# is the share of the strongest tenth of cells that the estimate also puts there.


# %%
def slope(truth, estimate):
    """Of the least-squares line of the estimate over the truth: 1 is right, 0 sees nothing."""
    x, y = truth.flatten() - truth.mean(), estimate.flatten() - estimate.mean()
    return (x * y).sum() / (x * x).sum()


def signs(truth, estimate):
    """Share of cells with a clear effect whose estimate has the right sign."""
    clear = truth.abs() > truth.abs().max() / 50
    return (truth[clear].sign() == estimate[clear].sign()).float().mean()


def top(truth, estimate):
    """Share of the strongest tenth of cells that the estimate finds."""
    k = max(1, round(truth.numel() / 10))
    best = [set(x.abs().flatten().topk(k).indices.tolist()) for x in (truth, estimate)]
    return torch.tensor(len(best[0] & best[1]) / k)


# %%
measures = {"r": correlation, "slope": slope, "signs": signs, "top": top}
scores = {
    site: {label: measure(true[site], estimated[site]) for label, measure in measures.items()}
    for site in true
}
mi.figures.table(
    [{"site": site, "cells": true[site].numel(), **{k: v.item() for k, v in row.items()}}
     for site, row in scores.items()], title="How good is the estimate, site by site",
)  # fmt: skip

# %% [markdown]
# Compare the rows of `v` and `q`. A head's output is *linear* in its values, as in the toy. It is
# not linear in its queries and keys: they pass through a softmax. Then compare the slopes of
# `resid_pre` and `attn_out`: all that follows the stream is between it and the metric. The claim
# takes the first half of the layers, where most follows.

# %%
claim("estimate.values", scores["v"]["r"], control=scores["q"]["r"])
early = slope(*(effects["resid_pre"][: n_layers // 2] for effects in (true, estimated)))
claim("estimate.stream", early, control=scores["attn_out"]["slope"])

# %% [markdown]
# For a first look at a large model, what matters is the top of the list and its signs. Controls:
# the same estimates dealt out at random.

# %%
shuffled = dealt_out(estimated["z"]).view_as(true["z"])
claim("estimate.top", scores["z"]["top"], control=top(true["z"], shuffled))
claim("estimate.signs", scores["z"]["signs"], control=signs(true["z"], shuffled))

# %% [markdown]
# ## 4. Where it fails, and why
#
# The worst row of the table may be the residual stream. Which part of it? Below, the error of each
# layer's estimates as a share of the true effects: 0 is right, 1 is as bad as saying "no effect" to
# everything.


# %%
def relative_error(site, estimates):
    """Sum of absolute errors over the sum of absolute effects, [layer]."""
    return (estimates[site] - true[site]).abs().sum(1) / true[site].abs().sum(1).clamp_min(1e-6)


error = {site: relative_error(site, estimated) for site in ("resid_pre", "v", "q")}
mi.figures.lines(
    {"residual stream": error["resid_pre"], "values": error["v"].clamp(max=2),
     "queries": error["q"].clamp(max=2)},
    title="The early stream is estimated badly", x=layers, xlabel="layer",
    ylabel="relative error (cut off at 2)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("failure.early", error["resid_pre"][0], control=error["resid_pre"][-1])

# %% [markdown]
# The extreme case is the first layer. To patch the second name before the first layer is to change
# the prompt, so its true recovery is exactly 1. What does the gradient say?

# %%
claim("failure.first_layer", estimated["resid_pre"][0, 0], control=true["resid_pre"][0, 0])

# %% [markdown]
# ### The way between
#
# Why? Walk from one value to the other and look at the metric on the way. The estimate is the
# tangent at the start.


# %%
def along(hook_name, index, steps=11):
    """Recovery [step] with one activation on its way from the corrupt to the clean value."""
    kept = [model.run_with_cache(x, names_filter=hook_name)[1][hook_name] for x in (corrupt, clean)]
    curve = []
    for share in torch.linspace(0, 1, steps).tolist():

        def put(act, hook, share=share):
            act = act.clone()
            act[index] = torch.lerp(kept[0][index], kept[1][index], share)
            return act

        logits = model.run_with_hooks(corrupt, fwd_hooks=[(hook_name, put)])
        curve.append((metric(logits).cpu() - corrupt_diff).mean() / gap)
    return torch.stack(curve)


# %%
share = torch.linspace(0, 1, 11)
at_start = along("blocks.0.hook_resid_pre", (slice(None), name))
at_end = along(f"blocks.{n_layers - 1}.hook_resid_pre", (slice(None), end))
assert torch.isclose(at_start[-1], true["resid_pre"][0, 0], atol=1e-3)
mi.figures.lines(
    {"name, first layer": at_start, "tangent of name": share * estimated["resid_pre"][0, 0],
     "end, last layer": at_end, "tangent of end": share * estimated["resid_pre"][-1, -1]},
    title="The estimate is the tangent at the start", x=share,
    xlabel="share of the way from corrupt to clean", ylabel="recovery",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Compare each curve with its own tangent. The less computation follows, the closer they are; and
# even after the last stream follows a LayerNorm. At the first layer all of the model follows, and
# half-way between two names is no name.
#
# **LayerNorm** is part of it. Everything that reads the stream divides by its length. Half-way
# between two vectors that point different ways is a *shorter* vector, so LayerNorm blows it up. And
# at the start, where the gradient is taken, a step towards the other vector is partly a change of
# length, which LayerNorm takes back. How much shorter is the middle of the way than its ends?


# %%
def dip(layer, position):
    """Length of the stream half-way over the mean length at both ends; 1: no dip."""
    hook_name = f"blocks.{layer}.hook_resid_pre"
    ends = [model.run_with_cache(tokens, names_filter=hook_name)[1][hook_name][:, position]
            for tokens in (corrupt, clean)]  # fmt: skip
    lengths = (ends[0] + ends[1]).norm(dim=-1) / (ends[0].norm(dim=-1) + ends[1].norm(dim=-1))
    return lengths.mean()


claim("failure.shorter", dip(0, name), control=dip(n_layers - 1, end))

# %% [markdown]
# **The softmax** is the other part. Take the head whose queries are estimated worst, and move *its
# queries alone* along the way; beside it the values of the head that does most through them. Both
# as a share of their own change, so that a straight way is the diagonal. A curve that starts flat
# and rises later belongs to a head so sure of itself that a small push does nothing; one that
# starts steep and then levels off belongs to a head that a small push wins over.

# %%
worst = divmod(int((true["q"] - estimated["q"]).abs().argmax()), n_heads)
by_query = along(f"blocks.{worst[0]}.attn.hook_q", (slice(None), slice(None), worst[1]))
best_v = mi.heads.top_heads(true["v"].abs(), 1)[0][0]
by_value = along(f"blocks.{best_v[0]}.attn.hook_v", (slice(None), slice(None), best_v[1]))
mi.figures.lines(
    {f"queries of {mi.heads.head_name(worst)}": by_query / by_query[-1],
     "their tangent": share * estimated["q"][worst] / by_query[-1],
     f"values of {mi.heads.head_name(best_v)}": by_value / by_value[-1],
     "tangent of the values": share * estimated["v"][best_v] / by_value[-1]},
    title="The way through queries is bent", x=share, ylabel="share of the whole change",
    xlabel="share of the way from corrupt to clean", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# How bent is a way? Take the largest distance between the curve and the straight line through its
# ends, in units of the distance between the ends.


# %%
def bend(curve):
    """Largest distance of a curve from the line through its ends, over the change."""
    straight = torch.lerp(curve[0], curve[-1], torch.linspace(0, 1, len(curve)))
    return (curve - straight).abs().max() / (curve[-1] - curve[0]).abs()


claim("failure.bend", bend(by_query), control=bend(by_value))

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

# %% [markdown]
# There is a fourth failure, which no figure of single cells shows: **cancellation**. Where two
# routes have opposite effects, the truth is a small difference of large numbers, and small errors
# of each are large errors of the whole [@kramar2024atp].

# %% [markdown]
# ## 5. Integrated gradients: ask on the way
#
# If the slope at the start misleads, take slopes along the way and average. For one activation,
# the mean slope over the whole way, times the way, *is* the difference: that is the fundamental
# theorem of calculus. With a few steps it is nearly so. On the toy's hopeless line:


# %%
def mean_slope(base, other, steps):
    """The toy's slope in its score, averaged over the middles of equal parts of the way."""
    points = base + (other - base) * (torch.arange(steps) + 0.5) / steps
    points.requires_grad_()
    return torch.autograd.grad(toy(1.0, points).sum(), points)[0].mean()


rows = [{"steps": steps, "estimate": (12 * mean_slope(-6.0, 6.0, steps)).item()}
        for steps in (1, 2, 5, 20)]  # fmt: skip
rows.append({"steps": "true", "estimate": (torch.sigmoid(torch.tensor([-6.0, 6])).diff()).item()})
mi.figures.table(rows)

# %% [markdown]
# Few steps may even overshoot: one slope, taken in the steep middle, is as wrong as one at the flat
# start. In the model, the way runs through the *inputs*: the embeddings go from the corrupt to the
# clean prompt in a straight line, and at each point a backward pass gives gradients for all sites
# [@hanna2024faith]. Each step costs a forward and a backward pass.

# %%
ways = {"start": At(0)} | {f"{n} steps": Integrated(n) for n in (2, 5, 10, 20)}
found = {label: estimate(way) for label, way in ways.items()}
overall = {
    site: [((f[site] - true[site]).abs().sum() / true[site].abs().sum()).item()
           for f in found.values()] for site in ("resid_pre", "mlp_out", "z", "q", "k", "v")
}  # fmt: skip
mi.figures.lines(
    overall, title="Integrated gradients repair some sites", x=list(ways),
    xlabel="gradients taken at", ylabel="relative error", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Look at the stream first, and at what more steps buy after the first few. Then at the sites that
# were good already: do they get better? They need not. The way through the inputs moves *all*
# activations together, while a patch moves one and leaves the rest behind. For a single head,
# gradients at the start know where the rest is.

# %%
resid = list(ways).index("10 steps"), list(ways).index("start")
claim("integrated.stream", overall["resid_pre"][resid[0]], control=overall["resid_pre"][resid[1]])

# %% [markdown]
# For the first layer integrated gradients are more than an estimate: there the way *is* the patch.
# Summed over positions, the error must go to zero as steps grow. This is called *completeness*.

# %%
fine = attribution(
    model, corrupt, OtherRun(clean), metric, sites=["resid_pre"], path=Integrated(40)
)
error_of_sum = (fine["resid_pre"].effect("layer")[0] / gap - 1).abs()
error_at_start = (estimated["resid_pre"][0].sum() - 1).abs()
claim("integrated.complete", error_of_sum, control=error_at_start)

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 3: integrated gradients
# Estimate $f(other) - f(base)$, one share for each coordinate, from gradients at the middles of
# `steps` equal parts of the straight way.

# %% [markdown] tags=["hint"]
# The middles of `n` parts of the unit interval are $(i + 1/2)/n$. At each:
# `x = torch.lerp(base, other, point).requires_grad_()`, then
# `torch.autograd.grad(f(x), x)[0]`. Average the gradients; multiply by the way at the end.


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
# ## 6. What it saves
#
# The truth above took one patched run for each cell, and `patch_sweep` is no slow way to do it: it
# runs many cells in one batch and starts each at its patched layer. The estimate took a forward
# pass on each side and one backward pass, for *all* sites together. Here are the seconds, measured
# just now on this machine; for comparison also those that plain forward passes would take.

# %%
began = time.perf_counter()
model(corrupt)
one_run = time.perf_counter() - began
by_position = patched("z", after_name, ("layer", "position", "head"))
sweeps = {"heads, five sites": [truth[site] for site in head_sites],
          "stream, attention, MLP by position": [truth[site] for site in block_sites],
          "heads by position, one site": [by_position]}  # fmt: skip
rows = [{"map": label, "cells": sum(sweep.mean().numel() for sweep in those),
         "patch_sweep": sum(sweep.seconds for sweep in those)}
        for label, those in sweeps.items()]  # fmt: skip
for row in rows:
    row |= {"plain runs": row["cells"] * one_run, "estimate of all sites": seconds}
    row["plain runs / estimate"] = row["plain runs"] / seconds
mi.figures.table(rows, title="Seconds for the same maps", subtitle=mi.model_id(model))

# %% [markdown]
# On a tiny model with few cells a good sweep may be as fast as the estimate. But cells multiply
# with layers, heads and positions, and each is a run, while the backward pass has all of them
# anyway. With single neurons, or with edges, patching everything is out of the question. So the
# usual order of work is: estimate everything, then patch what looks important, and patch some of
# what does not.

# %% [markdown]
# ## 7. Edges
#
# An **edge** joins a component that writes to the stream with a later one that reads from it. To
# patch an edge is to let *one* reader see the other run's output of *one* writer. The estimate is a
# product again [@syed2023attribution]: what the writer changes, times the gradient at that reader's
# input. By hand for edges from heads to the logits: the reader's input is the last stream.

# %%
_, at_last = acts_and_grads(corrupt, "hook_resid_post")
written = torch.einsum("lbphe,lhed->lhbpd", other_z - z, model.W_O)
to_logits = torch.einsum("lhbpd,bpd->lh", written, at_last[-1]).cpu() / len(pairs)
edges = mi.patching.edge_attribution(model, corrupt, OtherRun(clean), metric)
rows, writers = edges.graph.readers.index("logits"), edges.graph.writers
of_heads = [writers.index(head) for head in edges.graph.heads]
assert torch.allclose(edges.values[rows, of_heads].view_as(to_logits), to_logits, atol=1e-3)
print(int(edges.graph.valid.sum()), "edges, in one backward pass")

# %% [markdown]
# A head's own estimate is the sum over all its outgoing edges, because gradients add up over
# readers. The control leaves out one kind of edge, those to the logits.

# %%
of_node = torch.tensor([edges.nodes()[head] for head in edges.graph.heads]) / gap
through_others = of_node - to_logits.flatten() / gap
claim("edges.sum", (of_node - estimated["z"].flatten()).abs().max(),
      control=(through_others - estimated["z"].flatten()).abs().max())  # fmt: skip

# %% [markdown]
# Are the edges right? Patch some of them: from every head to the logits, and from every earlier
# head to the queries, keys and values of the head that writes most of the answer. Path patching is
# the subject of notebook 07; here it is the judge.

# %%
direct = mi.lens.logit_attribution(model, clean, answers).heads.mean(0)
reader = mi.heads.head_name(mi.heads.top_heads(direct.cpu(), 1)[0][0])
by_path, by_edge, integrated = {}, {}, {}
edges_ig = mi.patching.edge_attribution(model, corrupt, OtherRun(clean), metric, path=Integrated(5))
for receiver in ["logits", *(f"{reader}.{part}" for part in "qkv")]:
    sweep = mi.patching.path_patch(
        model, corrupt, OtherRun(clean), metric, receivers=receiver, progress=False
    )
    row = edges.graph.readers.index(receiver)
    by_path[receiver] = sweep.recovery().flatten()
    by_edge[receiver], integrated[receiver] = (
        scores.values[row, of_heads] / gap for scores in (edges, edges_ig)
    )

# %%
true_edges, estimated_edges = (torch.cat(list(x.values())) for x in (by_path, by_edge))
labels = [f"{head} → {receiver}" for receiver in by_path for head in edges.graph.heads]
mi.figures.scatter(
    true_edges, estimated_edges, labels=labels, identity=True, correlation=True,
    named=[labels[i] for i in true_edges.abs().topk(4).indices],
    groups=[f"to {receiver}" for receiver in by_path for _ in edges.graph.heads],
    title="Edges: the estimate against path patching", xlabel="true recovery", ylabel="estimate",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("edges.estimate", correlation(true_edges, estimated_edges),
      control=correlation(true_edges, dealt_out(estimated_edges)))  # fmt: skip

# %% [markdown]
# Edges *to the logits* pass only the final LayerNorm. Edges into queries and keys pass a softmax
# and everything after it. And with integrated gradients (EAP-IG [@hanna2024faith])? Look at the
# last column first: where no edge has an effect worth the name, a correlation means nothing.

# %%
mi.figures.table(
    [{"edges to": receiver, "r, EAP": correlation(by_path[receiver], by_edge[receiver]).item(),
      "r, EAP-IG": correlation(by_path[receiver], integrated[receiver]).item(),
      "largest effect": by_path[receiver].abs().max().item()} for receiver in by_path],
    title="Correlation with path patching, by reader",
)  # fmt: skip

# %% [markdown]
# The strongest edges of all, by both. An edge that only one of them ranks high is a good candidate
# for a patch.

# %%
order = {label: [f"{writer} → {reader}" for writer, reader, _ in scores.ranked(200)]
         for label, scores in {"EAP": edges, "EAP-IG": edges_ig}.items()}  # fmt: skip
mi.figures.table(
    [{"edge": f"{writer} → {reader}", "EAP-IG": score / gap.item(),
      "rank by EAP-IG": i + 1, "rank by EAP": order["EAP"].index(edge) + 1
      if (edge := f"{writer} → {reader}") in order["EAP"] else "over 200"}
     for i, (writer, reader, score) in enumerate(edges_ig.ranked(12))],
    title="The strongest edges",
)  # fmt: skip

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

# %% [markdown]
# ## Summary
#
# - Attribution patching is change times gradient: exact where the model is linear, and one backward
#   pass for all sites.
# - It is good where little and nearly linear computation follows (values, attention outputs, late
#   streams), and worse for the early stream and for what goes through a softmax.
# - LayerNorm and the softmax bend the way between the runs; the estimate is the tangent at its
#   start.
# - Integrated gradients repair the stream for a few more passes. They answer a slightly different
#   question and need not help elsewhere.
# - Edges are scored in the same way. Their sums are the nodes' scores.
#
# **What we have not shown.** That a set of edges chosen by such scores *does the task*. A circuit
# needs a test of its own; that is notebook 07.
#
# ## Where to read on
#
# - The method, and when to expect it to fail: [@nanda2023attribution].
# - Failures found and repaired systematically: [@kramar2024atp].
# - Edges: [@syed2023attribution]; integrated gradients for edges, and why overlap with a known
#   circuit is not faithfulness: [@hanna2024faith].

# %%
claim.table()
