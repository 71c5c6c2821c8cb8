# ---
# title: Ablation and pruning
# minutes: 75
# measured: 30 s and 1.0 GiB on pocket
# ---

# %% [markdown]
# **The question.** Take a part of the model away. What breaks, what does not, and how much of the
# model can go before a behaviour is lost? And do the many ways to rank parts, from one backward
# pass to a greedy search, agree with each other?
#
# **You need** activation patching ([notebook 05](05_activation_patching.ipynb)), attribution
# ([notebook 06](06_attribution_patching.ipynb)) and circuits
# ([notebook 07](07_paths_and_circuits.ipynb)).
#
# **You will be able to**
#
# - ablate by zero, by the mean and by resampling, and say which question each one answers;
# - show that zero ablation depends on how the weights were written down;
# - prune heads and neurons by several criteria, and read a pruning curve;
# - cut the rank of what a model writes, by its weights and by its activations;
# - test whether a circuit is complete and minimal;
# - compare ten rankings of the same heads by cost, agreement and recall.
#
# Like notebook 07 this one is written for GPT-2's architecture.

# %% [markdown]
# ## 1. Three ways to take a part away
#
# A part writes 5 on one prompt and 7 on another. Whoever reads it has grown up with values around
# 6, and looks only at the deviation. Three ways to remove the part:


# %%
wrote = torch.tensor([5.0, 7.0])
instead = {
    "nothing removed": wrote,
    "zero": torch.zeros(2),
    "mean": wrote.mean().expand(2),
    "resample (the other prompt's)": wrote.flip(0),
}
rows = [
    {"ablation": name, "the reader sees": str(value.tolist()), "answers": str((value - 6).tolist())}
    for name, value in instead.items()
]
mi.figures.table(rows)

# %% [markdown]
# **Zero** pushes the reader to where it has never been: its answer is large, and wrong for a reason
# that has nothing to do with the prompt. The **mean** removes what varies and keeps the rest.
# **Resampling** keeps the part's usual spread and puts in the *wrong* information; it asks more
# than the mean does, and gives another answer with every draw.

# %% [markdown]
# ## 2. Every head and every MLP
#
# Indirect objects again, all prompts in one wording. The reference prompts, for the mean and for
# resampling, have the same wording and three strangers: what they share with the task's prompts is
# everything but the hint (the choice of the IOI paper [@wang2022ioi]).

# %%
from mi_helpers import patching
from mi_helpers.patching import LogitDiff, Mean, OtherRun, Resample, Where, Zero

n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
n_prompts = 12 if n_layers < 12 else 6  # a larger model gets fewer, to keep the time in bounds
pairs = mi.prompts.ioi(model, n_prompts, corruption="random", same_wording=True)
clean, strangers = pairs.clean_tokens, pairs.corrupt_tokens
metric = LogitDiff(pairs.answer_tokens)
with torch.no_grad():
    full = metric(model(clean)).mean().item()
print(f"{pairs.clean[0]} →{pairs.answers[0]} (mean logit difference {full:.2f})")

# %% [markdown]
# **By hand**, for one head: run the reference, take its mean output at each position, and write it
# in place of the head's own.


# %%
def without_head(layer, head):
    """The logit difference with one head mean-ablated."""
    hook = f"blocks.{layer}.attn.hook_z"
    mean = model.run_with_cache(strangers, names_filter=hook)[1][hook].mean(0)

    def replace(z, hook):
        z = z.clone()
        z[:, :, head] = mean[:, head]
        return z

    return metric(model.run_with_hooks(clean, fwd_hooks=[(hook, replace)])).mean()


# %% [markdown]
# And for every head and MLP, in three ways, with the helper.


# %%
def ablate_each(what, tokens=clean, judge=metric):
    """How much the metric falls without each head and each MLP, [layer head + 1]."""
    options = dict(progress=False)
    heads = patching.patch_sweep(
        model, tokens, what, judge, site="z", over=("layer", "head"), **options
    )
    mlps = patching.patch_sweep(
        model, tokens, what, judge, site="mlp_out", over=("layer",), **options
    )
    return -torch.cat([heads.effect(), mlps.effect()[:, None]], dim=1)


ablations = {"zero": Zero(), "mean": Mean(strangers), "resample": Resample(strangers)}
fall = {name: ablate_each(what) for name, what in ablations.items()}
for layer, head in ((0, 0), (n_layers - 1, 1)):
    assert abs(full - without_head(layer, head) - fall["mean"][layer, head]) < 1e-3

# %% [markdown]
# Blue: the answer needs the part. Red: the part works against it. First compare the columns for the
# MLPs, then single heads. Which parts does only one of the three call important?

# %%
columns = [f"H{j}" for j in range(n_heads)] + ["MLP"]
layers = [f"L{i}" for i in range(n_layers)]
mi.figures.heatmap(
    torch.stack(list(fall.values())), facets=list(fall), x=columns, y=layers, xlabel="part",
    ylabel="layer", title="What the answer needs, by three ablations",
    colorbar="fall of the logit difference", limit=abs(full), subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# To compare rankings, use Spearman's rank correlation: replace each value by its rank, then
# correlate. It asks only about order. By hand, on four numbers:


# %%
def rank_correlation(a, b):
    """Spearman's correlation of two lists of distinct values, from -1 to 1."""
    ranks = [values.flatten().argsort().argsort().float() for values in (a, b)]
    return torch.corrcoef(torch.stack(ranks))[0, 1]


print(rank_correlation(torch.tensor([1.0, 2, 3, 100]), torch.tensor([10.0, 20, 40, 41])))

# %% [markdown]
# `pandas` does the same for all pairs of columns, and shares ranks among equal values. The figure
# has resampling twice, with two draws.

# %%
import pandas

fall_again = ablate_each(Resample(strangers, seed=1))
sizes = {name: part.abs() for name, part in (fall | {"resample again": fall_again}).items()}
alike = pandas.DataFrame({name: part.flatten().tolist() for name, part in sizes.items()})
alike = alike.corr("spearman")
assert abs(alike.loc["zero", "mean"] - rank_correlation(sizes["zero"], sizes["mean"])) < 1e-4
mi.figures.heatmap(
    alike.to_numpy(), title="Do the ablations rank the parts alike?", x=list(sizes), y=list(sizes),
    colorbar="rank correlation", limit=1, text=".2f", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Two draws of resampling do not agree perfectly: that is the noise of the method. Does zero rank
# the parts as the mean does? Against that, the claim sets what two ablations of the other kind have
# in common.

# %%
claim("ablate.mean_and_resample", alike.loc["mean", "resample"], control=alike.loc["mean", "zero"])

# %% [markdown]
# ## 3. Where is zero?
#
# A head writes $z W_O$, and its layer adds the bias $b_O$. Add any constant $c$ to $z$ and subtract
# $c W_O$ from the bias: not one activation of the residual stream changes, so it is the same model,
# written down differently. But "set $z$ to zero" now removes something else.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 1: the same model, another zero
# Return the new `z` and the new bias, so that the layer's output is exactly what it was.

# %% [markdown] tags=["hint"]
# The output is `z @ W_O + b_O`. What does the shift add to it?


# %% tags=["exercise"]
def move_origin(z, W_O, b_O, shift):
    """z: [pos d_head]; W_O: [d_head d_model]; b_O: [d_model]; shift: [d_head]

    Returns z moved by the shift, and the bias that makes up for it.
    """
    raise NotImplementedError


# %% tags=["solution"]
def move_origin(z, W_O, b_O, shift):
    return z + shift, b_O - shift @ W_O


# %% tags=["check"]
check.move_origin(move_origin)

# %% [markdown]
# This is no mind game. `mi.load_model` folds value biases and LayerNorm shifts away, which is such
# a move. So ablate the heads of the first layer twice: in the processed model, and in the raw
# checkpoint. Both give the same predictions on this text.

# %%
text = model.to_tokens(mi.prompts.literature_text("tasks"))


def text_loss(logits):
    """Mean loss of the text, in nats, [1]."""
    return mi.metrics.loss(logits, text).mean(-1)


text_loss.positions = None  # it reads the logits of all positions
processed = {
    name: patching.patch_sweep(
        model, text, what, text_loss, site="z", over=("layer", "head"), where=Where(layers=[0]),
        progress=False,
    ).mean()[0]
    for name, what in {"zero": Zero(), "mean": Mean(text, per_position=False)}.items()
}  # fmt: skip

# %% [markdown]
# The raw model is ablated by hand: the input of the output projection holds the `z` of all heads,
# side by side.

# %%
from transformers import AutoModelForCausalLM

folder = mi.models.model_source(model).directory
raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
raw.eval().requires_grad_(False)


def raw_loss(head, use_mean):
    """The raw model's loss with one head of the first layer zero- or mean-ablated."""

    def replace(module, args):
        z = args[0].unflatten(-1, (n_heads, -1)).clone()
        z[:, :, head] = z[:, :, head].mean((0, 1)) if use_mean else 0.0
        return (z.flatten(-2),)

    handle = raw.transformer.h[0].attn.c_proj.register_forward_pre_hook(replace)
    try:
        return text_loss(raw(text.cpu()).logits).item()
    finally:
        handle.remove()


# %%
from_raw = {
    name: torch.tensor([raw_loss(head, name == "mean") for head in range(n_heads)])
    for name in ("zero", "mean")
}
mi.figures.bars(
    {f"{name}, {kind}": values for kind, losses in (("processed", processed), ("raw", from_raw))
     for name, values in losses.items()},
    [f"L0H{j}" for j in range(n_heads)], title="Zero moves with the weights, the mean does not",
    ylabel="loss on a text (nats)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
zero_gap, mean_gap = ((processed[name] - from_raw[name]).abs().max() for name in ("zero", "mean"))
claim("zero.processing", zero_gap, control=mean_gap)

# %% [markdown]
# The mean, resampling and every kind of patching put in what some run of the model really had, so
# they cannot depend on how the model is written down. That is the best argument against zero.
#
# ## 4. What a head says, and what is lost without it
#
# Direct logit attribution ([notebook 01](01_residual_stream.ipynb)) says how much a head adds to
# the logit difference. Take the head that adds most, write zero at the last position, and measure.
# If nobody reacted, the loss would equal what it said. These are eight prompts of the literature.

# %%
eight = mi.prompts.ioi_literature(model)
said = mi.lens.logit_attribution(model, eight.clean_tokens, eight.answer_tokens).heads.mean(0).cpu()
speaker, spoke = mi.heads.top_heads(said, 1)[0]
only_at_the_end = {"z": Where(layers=[speaker[0]], heads=[speaker[1]], positions=[-1])}
silenced = patching.ablate(
    model, eight.clean_tokens, Zero(), LogitDiff(eight.answer_tokens), [only_at_the_end]
)
claim("repair.best_head", -silenced.effect()[0], control=spoke)

# %% [markdown]
# In GPT-2 small most of the loss is made good by later heads: backup name movers step in, and heads
# that work against the answer fall silent too (*self-repair* [@mcgrath2023hydra]). Where the two
# numbers are equal, nobody stepped in. Where *more* is lost than was said, the head also worked
# through others ([notebook 07](07_paths_and_circuits.ipynb)). So "ablating it hardly hurts" does
# not mean "it does nothing".
#
# ## 5. One after the other
#
# Single ablations miss what parts do together. So take heads away one after the other, each on top
# of the others: least important first, most important first, and at random.

# %%
by_mean = fall["mean"][:, :n_heads].flatten()
names = [f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)]
steps = list(range(0, len(names) + 1, max(1, len(names) // 12)))


def without_first(order):
    """Share of the logit difference left when the first heads of an order are mean-ablated."""
    sets = [[names[i] for i in order[:gone]] for gone in steps]
    return patching.ablate(model, clean, Mean(strangers), metric, sets).mean() / full


orders = [torch.randperm(len(names), generator=torch.Generator().manual_seed(i)) for i in range(3)]
left = {
    "least important first": without_first(by_mean.argsort().tolist()),
    "random order": torch.stack([without_first(order.tolist()) for order in orders]).mean(0),
    "most important first": without_first(by_mean.argsort(descending=True).tolist()),
}

# %% [markdown]
# How far can one go along the upper curve? Where does it lie *above* one, and why?

# %%
mi.figures.lines(
    left, title="Heads taken away one after the other", x=steps, xlabel="heads ablated",
    ylabel="share of the logit difference left", subtitle=mi.model_id(model),
)  # fmt: skip


# %%
def breaks_at(curve):
    """The largest share of heads that can go with at least half of the behaviour left."""
    fine = [gone for gone, share in zip(steps, curve.tolist(), strict=True) if share >= 0.5]
    return max(fine, default=0) / len(names)


claim("cumulative.order", breaks_at(left["least important first"]),
      control=breaks_at(left["random order"]))  # fmt: skip

# %% [markdown]
# A share above one is no error: the heads that go first include those that work *against* the
# answer.

# %% [markdown]
# ## 6. How much can go before a behaviour breaks?
#
# **Pruning** asks the engineer's question: keep as little as possible. Four behaviours, and three
# criteria to order the heads by:
#
# - *magnitude*: the size of the weights $W_V W_O$, which knows nothing of any behaviour;
# - *ablation effect*: mean ablation of each head, one pass each;
# - *attribution*: the estimate of patching by gradients, one backward pass for all.
#
# Scores are computed on some prompts and judged on others. The measure is accuracy: in which share
# of prompts does the right answer beat the wrong one?

# %%
kinds = {"indirect objects": mi.prompts.ioi, "agreement": mi.prompts.agreement,
         "pronouns": mi.prompts.pronouns, "facts": mi.prompts.facts}  # fmt: skip
each_kind = 16 if n_layers < 12 else 6
scoring, judging = (
    {name: kind(model, each_kind, seed=seed) for name, kind in kinds.items()} for seed in (3, 4)
)

# %% [markdown]
# The size of a head's weights is the length of $W_V W_O$, taken as one long list of numbers. (The
# code never builds this matrix.)

# %%
W_V, W_O = model.W_V, model.W_O
magnitude = ((W_V.mT @ W_V) * (W_O @ W_O.mT)).sum((-1, -2)).sqrt().cpu()


def head_scores(prompts):
    """Each head's importance for a behaviour by three criteria and by none, [layer head]."""
    run = model, prompts.clean_tokens
    judge = LogitDiff(prompts.answer_tokens)
    mean = Mean(prompts.corrupt_tokens, per_position=False)
    each = dict(site="z", over=("layer", "head"), progress=False)
    estimate = patching.attribution(*run, OtherRun(prompts.corrupt_tokens), judge)["z"]
    return {
        "magnitude": magnitude,
        "ablation effect": patching.patch_sweep(*run, mean, judge, **each).effect().abs(),
        "attribution": estimate.effect("layer", "head").abs(),
        "at random": torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)),
    }


# %%
shares = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


def head_curve(score, prompts):
    """Accuracy with a growing share of the heads mean-ablated, lowest score first."""
    order = score.flatten().argsort().tolist()
    sets = [[names[i] for i in order[: round(share * len(order))]] for share in shares]
    mean = Mean(prompts.corrupt_tokens, per_position=False)
    judge = LogitDiff(prompts.answer_tokens)
    swept = patching.ablate(model, prompts.clean_tokens, mean, judge, sets)
    return (swept.values > 0).float().mean(1)


curves = {
    name: {by: head_curve(score, judging[name]) for by, score in head_scores(prompts).items()}
    for name, prompts in scoring.items()
}

# %% [markdown]
# One behaviour in full. Accuracy starts where the whole model is; chance is one half.

# %%
mi.figures.lines(
    curves["indirect objects"], title="Pruning heads until the receiver is lost",
    x=[f"{share:.0%}" for share in shares], xlabel="heads pruned", ylabel="accuracy",
    subtitle=mi.model_id(model),
)  # fmt: skip


# %% [markdown]
# And all of them as one number each: the largest share of heads that can go while accuracy keeps at
# least nine tenths of what it had.


# %%
def prunable(curve):
    """The largest share that can go with accuracy at nine tenths of the whole model's."""
    good = (curve >= 0.9 * curve[0]).tolist()
    return max(share for share, fine in zip(shares, good, strict=True) if fine)


largest = {by: [prunable(curves[name][by]) for name in curves] for by in curves["facts"]}
mi.figures.bars(
    largest, list(curves), title="How many heads a behaviour can do without",
    ylabel="largest share pruned", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
by_effect, by_magnitude = (
    sum(largest[by]) / len(curves) for by in ("ablation effect", "magnitude")
)
claim("prune.heads", by_effect, control=by_magnitude)

# %% [markdown]
# ### Neurons
#
# A model has too many neurons to ablate each alone, thousands even here. That is what attribution
# is for: for each neuron, (activation − its mean) times the gradient, summed over positions. The
# mean is over the corrupt twins, and pruned neurons are set to it.

# %%
from mi_helpers.patching.gradients import gradients

posts = [f"blocks.{i}.mlp.hook_post" for i in range(n_layers)]


def means(prompts):
    """The mean activation of each neuron on the corrupt twins, by hook."""
    cache = model.run_with_cache(prompts.corrupt_tokens, names_filter=posts)[1]
    return {hook: cache[hook].mean((0, 1)) for hook in posts}


# %%
W_in, W_out = model.W_in, model.W_out


def neuron_scores(prompts):
    """Importance of every neuron by attribution, by magnitude and by none, [layer d_mlp]."""
    tokens, judge = prompts.clean_tokens, LogitDiff(prompts.answer_tokens)
    start = model.run_with_cache(tokens)[1]["resid_pre", 0]
    found = gradients(model, tokens, start, judge, posts)
    mean = means(prompts)
    change = [(act - mean[hook]) * grad for hook, (act, grad) in found.items()]
    size = W_in.norm(dim=1) * W_out.norm(dim=2)
    random = torch.rand(size.shape, generator=torch.Generator().manual_seed(0))
    attribution = torch.stack(change).sum((1, 2)).abs()
    return {"magnitude": size, "attribution": attribution, "at random": random.to(size)}


# %%
kept_shares = [1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]


def neuron_accuracy(score, kept, prompts):
    """Accuracy when only a share of all neurons, those with the largest score, is kept."""
    order = score.flatten().argsort(descending=True)
    keep = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    keep[order[: round(kept * len(order))]] = True
    mean, keep = means(prompts), keep.view_as(score)
    hooks = [
        (hook, lambda act, hook, i=i, m=mean[hook]: torch.where(keep[i], act, m))
        for i, hook in enumerate(posts)
    ]
    logits = model.run_with_hooks(prompts.clean_tokens, fwd_hooks=hooks)
    return mi.metrics.accuracy(logits, prompts.answer_tokens)


# %%
n_facts = 2 * each_kind
new_facts = mi.prompts.facts(model, n_facts, seed=4)
with torch.no_grad():
    neuron_curves = {
        by: torch.stack([neuron_accuracy(score, kept, new_facts) for kept in kept_shares])
        for by, score in neuron_scores(mi.prompts.facts(model, n_facts, seed=3)).items()
    }

# %% [markdown]
# Facts are said to live in MLPs [@geva2020memories], so facts it is. From left to right ever fewer
# neurons are left. Compare the criteria, and mind the right end: without any neuron, where is
# chance?

# %%
mi.figures.lines(
    neuron_curves, title="Pruning neurons until facts are lost",
    x=[f"{share:.0%}" for share in kept_shares], xlabel="neurons kept", ylabel="accuracy",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
half = kept_shares.index(0.5)
claim("prune.neurons", neuron_curves["attribution"][half],
      control=neuron_curves["magnitude"][half])  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: what is kept
# Return a mask of the parts to keep: the given share of *all* of them, those with the largest
# score. Scores may be negative: a part that works hard against the answer is important, too.

# %% [markdown] tags=["hint"]
# Take the size, flatten, sort, keep the first `round(share * n)`, and give the mask its shape back.


# %% tags=["exercise"]
def kept_parts(scores, share):
    """scores: [layer part]  ->  True where the part is kept, [layer part]."""
    raise NotImplementedError


# %% tags=["solution"]
def kept_parts(scores, share):
    order = scores.abs().flatten().argsort(descending=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: round(share * len(order))]] = True
    return mask.view_as(scores)


# %% tags=["check"]
check.kept_parts(kept_parts)

# %% [markdown]
# ## 7. Fewer dimensions
#
# Pruning removes parts. **Dimensionality reduction** keeps every part and lets it write in fewer
# directions. Which ones? Four points in a plane, on a line that does not pass through the origin:

# %%
points = torch.tensor([[5.0, 1], [6, 2], [7, 3], [8, 4]])


def reduced(x, basis, centre):
    """x moved onto the directions of an orthonormal basis [d k], around a centre."""
    return centre + (x - centre) @ basis @ basis.T


centre = points.mean(0)
pca = torch.linalg.svd(points - centre, full_matrices=False).Vh[:1].T
plain = torch.linalg.svd(points, full_matrices=False).Vh[:1].T
print("around the mean: error", (reduced(points, pca, centre) - points).norm().item())
print("around zero:     error", (reduced(points, plain, torch.zeros(2)) - points).norm().item())

# %% [markdown]
# Around the mean, one direction is enough, up to rounding. This is **PCA**: the directions in which
# *activations* vary most. The other way uses no data at all: the **SVD** of the *weights*. To
# replace an MLP's output matrix by its best version of rank $k$ is to project what the MLP writes
# onto $k$ right singular vectors of the matrix.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 3: cut the rank of a matrix
# Return the best approximation of `W` by a matrix of rank `k`, in the sense of least squares.

# %% [markdown] tags=["hint"]
# `U, S, Vh = torch.linalg.svd(W, full_matrices=False)`; keep the first `k` of each.


# %% tags=["exercise"]
def low_rank(W, k):
    """W: [d_in d_out]  ->  the closest matrix of rank k, [d_in d_out]."""
    raise NotImplementedError


# %% tags=["solution"]
def low_rank(W, k):
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :k] * S[:k] @ Vh[:k]


# %% tags=["check"]
check.low_rank(low_rank)

# %% [markdown]
# Now all MLPs of the model at once, on short stories. Bases come from some stories (PCA), from the
# weights (SVD), or from nowhere (random directions); the loss is measured on others. All project
# around the same centre, the mean output.

# %%
from mi_data.pocket import generator

stories = [model.to_tokens(generator.sample("story", seed, "test").text) for seed in range(60)]
rows = torch.cat([row[:, :40] for row in stories if row.shape[1] >= 40][: 2 * n_prompts])
train, test = rows[::2], rows[1::2]
outs = [f"blocks.{i}.hook_mlp_out" for i in range(n_layers)]
written = model.run_with_cache(train, names_filter=outs)[1]
centres = [written[hook].mean((0, 1)) for hook in outs]

# %%
random = torch.Generator().manual_seed(0)
bases = {"PCA of activations": [], "SVD of weights": [], "random directions": []}
for i, hook in enumerate(outs):
    deviations = (written[hook] - centres[i]).flatten(0, 1)
    noise = torch.randn(model.cfg.d_model, model.cfg.d_model, generator=random).to(deviations)
    bases["PCA of activations"].append(torch.linalg.eigh(deviations.T @ deviations)[1].flip(1))
    bases["SVD of weights"].append(torch.linalg.eigh(W_out[i].T @ W_out[i])[1].flip(1))
    bases["random directions"].append(torch.linalg.qr(noise)[0])

# %% [markdown]
# (The eigenvectors of $W^\top W$ are the right singular vectors of $W$, strongest first after
# `flip`.)


# %%
def story_loss(basis, rank):
    """Mean loss when every MLP writes in `rank` directions, around its mean."""
    hooks = [
        (hook, lambda out, hook, i=i: reduced(out, basis[i][:, :rank], centres[i]))
        for i, hook in enumerate(outs)
    ]
    return mi.metrics.loss(model.run_with_hooks(test, fwd_hooks=hooks), test).mean().item()


ranks = [round(model.cfg.d_model * share) for share in (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1)]
with torch.no_grad():
    by_rank = {name: [story_loss(basis, rank) for rank in ranks] for name, basis in bases.items()}
mi.figures.lines(
    by_rank, title="How many directions the MLPs need", x=[str(rank) for rank in ranks],
    xlabel=f"directions kept, of {model.cfg.d_model}", ylabel="loss on stories (nats)",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# At the left end every MLP writes its mean and nothing else; at the right end the model is whole.
# (A curve that rises first says that a few directions can be worse than none.) The claim takes the
# middle: of what all directions together gain, which share does a tenth of them gain?


# %%
def gained(losses):
    """Share of the whole gain in loss that a tenth of the directions brings."""
    return (losses[0] - losses[3]) / (losses[0] - losses[-1])


claim("rank.pca", gained(by_rank["PCA of activations"]),
      control=gained(by_rank["random directions"]))  # fmt: skip
claim("rank.weights", gained(by_rank["SVD of weights"]),
      control=gained(by_rank["PCA of activations"]))  # fmt: skip

# %% [markdown]
# ## 8. Is the circuit complete? Is it minimal?
#
# Notebook 07 found circuits that are *faithful*: alone, they do nearly what the model does. The IOI
# paper [@wang2022ioi] asks two more things. With $F$ the logit difference, $M$ the model, $C$ the
# circuit:
#
# - **complete**: take any part $K$ of the circuit out of both, and they still agree:
#   $F(C \setminus K) \approx F(M \setminus K)$. If the model does much better, it has something in
#   reserve that the circuit lacks.
# - **minimal**: no head is idle: without it, $F(C)$ changes.
#
# By hand, for a "model" of three parts in which one backs up another:


# %%
def answer(parts):
    """What the toy answers with these parts: `b` says 3 only when `a` does not."""
    return 3 * ("a" in parts) + 3 * ("b" in parts and "a" not in parts) + ("c" in parts)


whole, small = {"a", "b", "c"}, {"a", "c"}
print("faithful:", answer(small), "and", answer(whole))
print("without a:", answer(small - {"a"}), "and", answer(whole - {"a"}))

# %% [markdown]
# `{a, c}` is perfectly faithful and incomplete: the model survives the loss of `a`, the circuit
# does not. Faithfulness alone cannot see the backup.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: how incomplete?
# Return the largest $|F(C \setminus K) - F(M \setminus K)|$ over the given sets $K$.

# %% [markdown] tags=["hint"]
# For sets, `circuit - k` is what is left. Take each $K$ out of *both*.


# %% tags=["exercise"]
def incompleteness(answer, circuit, whole, removed):
    """answer: a function of a set of parts; circuit, whole: sets; removed: a list of sets K."""
    raise NotImplementedError


# %% tags=["solution"]
def incompleteness(answer, circuit, whole, removed):
    return max(abs(answer(circuit - k) - answer(whole - k)) for k in removed)


# %% tags=["check"]
check.incompleteness(incompleteness)

# %% [markdown]
# Now the real one: the heads of the strongest edges by EAP-IG, as in notebook 07. All other heads
# are mean-ablated; MLPs stay, as in the paper. We add edges until the heads keep 85% of the logit
# difference on their own.

# %%
scores = patching.edge_attribution(
    model, clean, OtherRun(strangers), metric, path=patching.Integrated(5)
)  # fmt: skip


def alone(heads):
    """Share of the logit difference left with every other head mean-ablated."""
    gone = [name for name in names if name not in heads]
    return float(patching.ablate(model, clean, Mean(strangers), metric, [gone]).mean()[0]) / full


n_edges = int(scores.graph.valid.sum())
for share in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1):
    nodes = scores.top(round(share * n_edges)).pruned().nodes()
    circuit = [name for name in nodes if name in names]
    if circuit and alone(circuit) > 0.85:
        break
print(f"{len(circuit)} of {len(names)} heads:", *circuit)

# %% [markdown]
# Random parts $K$ of the circuit, each with half of its heads, and all of it at once. The control
# does the same with as many heads drawn at random.

# %%
generator_of_k = torch.Generator().manual_seed(0)


def drawn(heads, n):
    """`n` of some heads at random."""
    return [heads[i] for i in torch.randperm(len(heads), generator=generator_of_k)[:n]]


def complete(heads):
    """F(C without K) and F(M without K) for sets K of a circuit, as shares of the whole."""
    subsets = {f"half {i}": drawn(heads, (len(heads) + 1) // 2) for i in range(10)}
    subsets |= {"nothing": [], "everything": heads}
    return patching.completeness(model, clean, heads, Mean(strangers), metric, subsets=subsets)


stand_in = drawn(names, len(circuit))
tests = {"circuit": complete(circuit), "random heads": complete(stand_in)}

# %% [markdown]
# Each dot is a set $K$. On the dotted line circuit and model lose the same. Above it the model
# copes better than the circuit: it has a reserve.

# %%
points = [(name, k) for name, test in tests.items() for k in test.first]
mi.figures.scatter(
    [tests[name].first[k] / full for name, k in points],
    [tests[name].second[k] / full for name, k in points], identity=True,
    groups=[name for name, _ in points], labels=[k for _, k in points],
    title="The circuit and the model, both without K", xlabel="left of the circuit",
    ylabel="left of the model", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
incomplete = {
    name: sum(test.differences().values()) / len(test.first) / abs(full)
    for name, test in tests.items()
}
claim("circuit.complete", incomplete["circuit"], control=incomplete["random heads"])

# %% [markdown]
# And minimal? For each head of the circuit, what the circuit loses without it. The control asks the
# same of each head *outside*, put into the circuit and taken out again.

# %%
minimal = patching.minimality(model, clean, circuit, Mean(strangers), metric)
without = {name: (minimal.second[name] - minimal.first[name]) / full for name in circuit}
outside = [name for name in names if name not in circuit]
tried = outside[:: max(1, len(outside) // 24)]  # all of them, or about 24 of many
added = [[other for other in outside if other != name] for name in tried]
with_added = patching.ablate(model, clean, Mean(strangers), metric, [*added, outside]).mean() / full
idle = (with_added[:-1] - with_added[-1]).abs()
mi.figures.bars(
    list(without.values()), list(without), title="What the circuit loses without each head",
    ylabel="share of the logit difference", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
needed = torch.tensor(list(without.values())).abs()
claim("circuit.minimal", needed.median(), control=idle.median() if len(idle) else 0)

# %% [markdown]
# Bars near zero are heads that nobody misses *while the others are there*. The paper goes further:
# for each head it looks for a set $K$ of similar heads without which it does count. Turn back to
# section 4: with backups around, "nobody misses it" is weak evidence.

# %% [markdown]
# ## 9. The scoreboard
#
# Ten ways to say how important a head is, for the same behaviour on the same prompts. Each returns
# one number a head, positive where the head matters. First the ones that need forward passes:
# ablations, *noising* (the corrupt activation put into the clean run: what is necessary) and
# *denoising* (the clean one put into the corrupt run: what suffices).

# %%
import time

other_way = strangers, OtherRun(clean)


def patched(tokens, what):
    """Size of the effect of patching each head."""
    swept = patching.patch_sweep(
        model, tokens, what, metric, site="z", over=("layer", "head"), progress=False
    )
    return swept.effect().abs()


methods = {
    "zero": lambda: patched(clean, Zero()),
    "mean": lambda: patched(clean, Mean(strangers)),
    "resample": lambda: patched(clean, Resample(strangers)),
    "noising": lambda: patched(clean, OtherRun(strangers)),
    "denoising": lambda: patched(*other_way),
}

# %% [markdown]
# Then those that need gradients. An edge method gives a head the sum of the sizes of the edges that
# leave it. ACDC only says which edges it keeps; we count those that leave each head.


# %%
def leaving(values):
    """Sum over the readers of each head, [layer head]."""
    total = dict(zip(scores.graph.writers, values.abs().sum(0).tolist(), strict=True))
    return torch.tensor([total[name] for name in names]).view(n_layers, n_heads)


# %%
def edges(steps):
    """EAP scores, or EAP-IG's with several steps, added up by head."""
    path = patching.Integrated(steps) if steps > 1 else patching.At()
    return leaving(
        patching.edge_attribution(model, clean, OtherRun(strangers), metric, path=path).values
    )


def acdc(n_first):
    """How many edges leave each head in the circuit that greedy pruning keeps."""
    search = patching.Acdc(0.005, first=min(n_first, n_edges))
    few = pairs.select(range(4))
    found = patching.discover_circuit(
        model, few.clean_tokens, OtherRun(few.corrupt_tokens), LogitDiff(few.answer_tokens),
        search, progress=False,
    )  # fmt: skip
    return leaving(found.kept.float())


# %%
spoken = (model, clean, pairs.answer_tokens)
methods |= {
    "direct attribution": lambda: mi.lens.logit_attribution(*spoken).heads.mean(0).abs().cpu(),
    "attribution patching": lambda: patching.attribution(
        model, clean, OtherRun(strangers), metric
    )["z"].effect("layer", "head").abs(),
    "EAP": lambda: edges(1),
    "EAP-IG": lambda: edges(5),
    "ACDC": lambda: acdc(250),
}  # fmt: skip
importance, seconds = {}, {}
for name, method in methods.items():
    began = time.perf_counter()
    importance[name] = method()
    seconds[name] = time.perf_counter() - began

# %% [markdown]
# **Do they rank alike?** Each cell is a rank correlation over all heads. Look for blocks: which
# methods belong together? Which one stands apart, and what does it *not* see?

# %%
order = list(methods)
ranking = pandas.DataFrame({name: importance[name].flatten().tolist() for name in order})
agreement = ranking.corr("spearman").fillna(0)  # a method that keeps no edge ranks nothing
mi.figures.heatmap(
    agreement.to_numpy(), title="Ten rankings of the same heads", x=order, y=order, limit=1,
    text=".2f", colorbar="rank correlation", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
shuffled = ranking.sample(frac=1, random_state=0, ignore_index=True)["attribution patching"]
by_chance = ranking.assign(shuffled=shuffled).corr("spearman").loc["shuffled", "noising"]
claim("scoreboard.gradient_and_patching", agreement.loc["attribution patching", "noising"],
      control=by_chance)  # fmt: skip
claim("scoreboard.direct_stands_apart", agreement.loc["direct attribution", "noising"],
      control=agreement.loc["mean", "noising"])  # fmt: skip

# %% [markdown]
# **Against a reference.** For GPT-2 small, the 26 heads that its authors found by path patching. No
# other model has such a list; there the reference is the majority: heads that at least half of the
# methods have among their first ones. That is a poll and no truth, and it flatters methods that
# resemble others. *Recall*: of a method's first heads, as many as the reference has, the share that
# is in it.

# %%
import json
from importlib.resources import files

known = json.loads((files("mi_data") / "circuits" / "ioi.json").read_text("utf-8"))
known = known.get(mi.model_id(model), {"classes": {}})["classes"].values()
reference = {name for heads in known for name in heads}
n_first = len(reference) or max(1, round(26 / 144 * len(names)))


def first_heads(values):
    """The first heads of a ranking, as many as the reference has."""
    return {names[i] for i in values.flatten().topk(n_first).indices}


# %%
votes = [name for values in importance.values() for name in first_heads(values)]
reference = reference or {name for name in names if votes.count(name) >= len(methods) / 2}
recall = {
    name: len(first_heads(values) & reference) / len(reference)
    for name, values in importance.items()
}
print(len(reference), "heads:", *sorted(reference))

# %% [markdown]
# **At what cost?** In forward passes over the same prompts; a backward pass counts as two. Ours are
# batched and resumed, so the seconds are fewer than the passes suggest. ACDC runs at least one pass
# for each edge it starts from, here on four prompts only, and first needs EAP-IG.

# %%
each = len(names)
passes = {"direct attribution": 1, "zero": 1 + each, "mean": 2 + each, "resample": 2 + each,
          "noising": 2 + each, "denoising": 2 + each, "attribution patching": 2 + 3,
          "EAP": 2 + 3, "EAP-IG": 2 + 5 * 3, "ACDC": 2 + 5 * 3 + min(250, n_edges)}  # fmt: skip
board = [
    {"method": name, "passes": passes[name], "seconds": seconds[name],
     "rank correlation with noising": agreement.loc[name, "noising"],
     "mean with the others": (agreement[name].sum() - 1) / (len(order) - 1),
     "recall of the reference": recall[name]}
    for name in sorted(order, key=lambda one: -recall[one])
]  # fmt: skip
mi.figures.table(board, title="The scoreboard", subtitle=mi.model_id(model))

# %%
claim("scoreboard.recall", recall["EAP-IG"], control=n_first / len(names))

# %% [markdown]
# Compare any two methods head by head. Which heads do they disagree about, and does one of them say
# why?


# %%
def compare(across, up):
    """Importance of each head by two methods, each as a share of its largest."""
    a, b = (importance[name].flatten() / importance[name].max() for name in (across, up))
    apart = {names[i] for i in (a - b).abs().topk(4).indices}
    return mi.figures.scatter(
        a, b, labels=names, named=sorted(apart), identity=True, xlabel=across, ylabel=up,
        groups=["in the reference" if name in reference else "not" for name in names],
        title=f"{up} against {across}", subtitle=mi.model_id(model),
    )  # fmt: skip


mi.figures.explore(compare, across=order, up=order, start={"across": "noising", "up": "zero"})

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 5: Spearman's correlation with ties
# Greedy circuits give many heads the same number, zero. Tied values must share the mean of their
# ranks. Return the rank correlation of two lists that may have ties.

# %% [markdown] tags=["hint"]
# The mean rank of a value: how many are smaller, plus half of how many *others* are equal. Then
# correlate the ranks as usual.


# %% tags=["exercise"]
def tied_rank_correlation(a, b):
    """a, b: [n]  ->  Spearman's correlation, one number."""
    raise NotImplementedError


# %% tags=["solution"]
def tied_rank_correlation(a, b):
    ranks = []
    for values in (a, b):
        smaller = (values[None, :] < values[:, None]).sum(1)
        equal = (values[None, :] == values[:, None]).sum(1) - 1
        ranks.append(smaller + equal / 2)
    return torch.corrcoef(torch.stack(ranks))[0, 1]


# %% tags=["check"]
check.tied_rank_correlation(tied_rank_correlation)

# %% [markdown]
# ## Summary
#
# - Zero asks what happens without a part in a world that never was; the mean removes what varies;
#   resampling puts in wrong information. Only zero depends on how the weights are written down.
# - Single ablations miss backups. What a head says and what is lost without it are two numbers.
# - Pruning asks how little is enough. Ranks by what a part *does* and by how large its weights are
#   are judged by the same curve, and so are the directions of activations and of weights.
# - Completeness finds reserves that faithfulness cannot see; minimality finds passengers.
# - Ten methods rank the same heads, at very different costs. They agree in part, and where they do
#   not, they answer different questions.
#
# **What we have not shown.** That any ranking is *the* right one. A reference made by hand rests on
# path patching and on its authors' judgement, and a poll on nothing more than agreement.
#
# ## Where to read on
#
# - Mean ablation, completeness and minimality: [@wang2022ioi], section 4.
# - Self-repair: [@mcgrath2023hydra; @mcdougall2023copy].
# - What ablation choices do to conclusions: [@miller2024metrics; @heimersheim2024patching].
# - Rankings by gradients, and where they fail:
#   [@syed2023attribution; @kramar2024atp; @hanna2024faith].

# %%
claim.table()
