# ---
# title: Sparse autoencoders, training and judging
# minutes: 75
# ---

# %% [markdown]
# **The question.** If a model keeps more features than it has dimensions, can we find their
# directions without knowing the features? And how do we know that what we found is right?
#
# **You need** superposition ([notebook 09](09_superposition.ipynb)) and the residual stream
# ([notebook 01](01_residual_stream.ipynb)).
#
# **You will be able to**
#
# - write a sparse autoencoder from its equations, in four kinds, and say what each trades;
# - train one on any site of any model, and carry it to SAELens and back;
# - judge it by what the model loses, with the right ablations beside it;
# - judge it against the *truth*: which unit detects what the text's author meant.

# %% [markdown]
# ## 1. The equations, by hand
#
# A **sparse autoencoder** (SAE) writes an activation $x$ as a sum of few directions out of many:
#
# $$f = \mathrm{act}\big((x - b_{dec})\, W_{enc} + b_{enc}\big) \qquad
# \hat x = f\, W_{dec} + b_{dec}$$
#
# The rows of $W_{dec}$, each of length one, are the dictionary; $f$ says how much of each is there.
# It is trained to make $\hat x$ close to $x$ with few active units. Three directions in a plane,
# 120 degrees apart, and an input that points along the first:

# %%
import math
from dataclasses import replace

angle = torch.arange(3) * 2 * torch.pi / 3
W_dec = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [d_sae, d_in]
x = torch.tensor([[1.5, 0.0]])
before = x @ W_dec.T  # W_enc is the transpose here, both biases are zero
f = before.relu()
rebuilt = f @ W_dec
print("before  ", before, "\nunits   ", f, "\nrebuilt ", rebuilt)

# %%
by_hand = mi.sae.Sae("relu", W_dec.T.contiguous(), torch.zeros(3), W_dec, torch.zeros(2))
assert torch.equal(by_hand.encode(x), f) and torch.equal(by_hand(x), rebuilt)

# %% [markdown]
# What the input has along the two other directions is negative, and is cut: one active unit of
# three, and nothing is lost. The four kinds differ in *what they cut*:
#
# | kind | keeps | sparsity comes from |
# |---|---|---|
# | ReLU + L1 [@bricken2023monosemanticity] | what is positive | a penalty on the sum of $f$ |
# | TopK [@gao2024scaling] | the $k$ largest of each input | the number $k$ |
# | BatchTopK [@bussmann2024batchtopk] | the $k n$ largest of $n$ inputs | $k$, on average |
# | JumpReLU [@rajamanoharan2024jumprelu] | what exceeds a threshold | a penalty on the *number* |
#
# The L1 penalty has a flaw that you can see in its formula: it makes every activation smaller than
# it should be (**shrinkage**). The other three do not pay for size.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 1: BatchTopK
# Of a whole batch keep the $k n$ largest activations, where $n$ is the number of inputs, if they
# are positive. An easy input may use fewer than $k$ units, a hard one more.

# %% [markdown] tags=["hint"]
# Flatten, find the value of the $kn$-th largest, compare. Or scatter the values that
# `topk` returns into zeros.


# %% tags=["exercise"]
def batch_topk(pre, k):
    """pre: [batch d_sae], k: int  ->  [batch d_sae], zero where nothing is kept."""
    raise NotImplementedError


# %% tags=["solution"]
def batch_topk(pre, k):
    flat = pre.relu().flatten()
    top = flat.topk(k * len(pre))
    return torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(pre)


# %% tags=["check"]
check.batch_topk(batch_topk)

# %% [markdown]
# ## 2. Does it find what is there?
#
# Before we trust a method, we try it where the answer is known. A world of forty **true
# directions** in twenty-four dimensions: each is there once in a while, with some strength, and a
# point is the sum of those that are there.

# %%
generator = torch.Generator().manual_seed(10)
truth = torch.randn(40, 24, generator=generator)
truth = truth / truth.norm(dim=-1, keepdim=True)
there = torch.rand(8000, 40, generator=generator) < 0.05
points = (there * (0.5 + torch.rand(8000, 40, generator=generator))) @ truth
print(f"{there.float().sum(1).mean():.1f} of {len(truth)} directions make a point, on average")

# %% [markdown]
# The whole of training, by hand, for TopK: encode, keep three units, decode, compare, step. After
# every step the rows of the dictionary get length one again. Otherwise long rows and small
# activations would say the same as short rows and large ones.

# %%
torch.manual_seed(0)
W = torch.nn.functional.normalize(torch.randn(80, 24), dim=-1)
initial = (W.T, torch.zeros(80), W, points.mean(0))
W_enc, b_enc, W_dec, b_dec = (value.clone().requires_grad_() for value in initial)
optimizer = torch.optim.Adam([W_enc, b_enc, W_dec, b_dec], lr=1e-2)
for _ in range(400):
    batch = points[torch.randint(len(points), (256,))]
    pre = (batch - b_dec) @ W_enc + b_enc
    f = pre.relu() * (pre >= pre.topk(3).values[:, -1:])
    error = (f @ W_dec + b_dec - batch).square().sum(-1).mean()
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
    W_dec.data /= W_dec.data.norm(dim=-1, keepdim=True)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: is it in the dictionary?
# For each true direction, the largest cosine with any row of a dictionary: one where the direction
# was found. The rows of either need not have length one.

# %% [markdown] tags=["hint"]
# Divide all rows by their lengths; then one matrix product holds every cosine. A unit can only be
# switched on, so a row that points the other way does not count.


# %% tags=["exercise"]
def nearest_cosine(truth, dictionary):
    """truth: [direction d_in]; dictionary: [unit d_in]  ->  [direction]"""
    raise NotImplementedError


# %% tags=["solution"]
def nearest_cosine(truth, dictionary):
    one, other = (rows / rows.norm(dim=-1, keepdim=True) for rows in (truth, dictionary))
    return (one @ other.T).amax(1)


# %% tags=["check"]
check.nearest_cosine(nearest_cosine)

# %% [markdown]
# `mi.sae.train` does the same for all four kinds, faster, and looks after units that die.
# `mi.sae.matched_cosine` compares. The controls: principal components, in either direction, and a
# dictionary of random rows.

# %%
options = {"relu": {"l1": 2.0}, "topk": {"k": 3}, "batchtopk": {"k": 2}, "jumprelu": {"l0": 1.0}}
toy = mi.sae.Vectors(points)


def found_by(kind, option):
    """The mean cosine of the true directions with what one kind of SAE finds."""
    small = mi.sae.Recipe(kind, d_sae=80, steps=400, batch=256, lr=1e-2, **option)
    rows = mi.sae.train(mi.sae.start(toy, small), progress=False).sae().W_dec
    return mi.sae.matched_cosine(truth, rows).mean().item()


by_kind = {kind: found_by(kind, option) for kind, option in options.items()}
by_hand = mi.sae.matched_cosine(truth, W_dec.detach()).mean().item()
assert abs(by_hand - by_kind["topk"]) < 0.02

# %%
components = torch.linalg.svd(points - points.mean(0), full_matrices=False)[2]
by_pca = mi.sae.matched_cosine(truth, torch.cat([components, -components])).mean().item()
by_chance = mi.sae.matched_cosine(truth, W).mean().item()
mi.figures.bars(
    [by_hand, *by_kind.values(), by_pca, by_chance],
    ["TopK, by hand", *by_kind, "principal components", "random rows"], horizontal=True,
    xlabel="cosine with the true directions, mean", title="All four kinds find what is there",
)  # fmt: skip

# %%
claim("sae.finds_known", min(by_kind.values()), control=by_pca)

# %% [markdown]
# There are more directions than dimensions, nobody told the SAE what they are, and it finds them.
# Principal components cannot: there are too few of them, and they stand at right angles. But note
# what made this easy. The world *is* a sparse sum of directions, and no direction depends on
# another. Section 8 takes the second away. Whether a language model is such a world at all, no toy
# can say.

# %% [markdown]
# ## 3. Activations of a model
#
# The SAE learns from activations of one **site**; here the residual stream after the middle layer,
# on text of the generator. Look at how long they are, by position:

# %%
from mi_data.pocket import generator as g

texts = [g.document(seed).text for seed in range(1000)]
rows = torch.cat([model.to_tokens(text)[0] for text in texts])
width = min(model.cfg.n_ctx, 128) - 1
rows = rows[: len(rows) // width * width].view(-1, width)
bos = torch.full_like(rows[:, :1], model.tokenizer.bos_token_id)
aside = 16 if model.cfg.d_vocab < 10_000 else 8  # a large vocabulary makes large logits
held_out, tokens = torch.cat([bos, rows], dim=1).split([aside, len(rows) - aside])

# %%
middle = model.cfg.n_layers // 2
site = f"blocks.{middle}.hook_resid_post"
held = mi.sae.read_site(model, site, held_out)
mi.figures.lines(
    {"stream": held.norm(dim=-1).mean(0)}, xlabel="position", ylabel="mean length",
    title="The first position is not like the others", subtitle=f"{mi.model_id(model)}, {site}",
)  # fmt: skip

# %% [markdown]
# An SAE that had to reconstruct the first token would learn little else. So
# `mi.sae.Activations` leaves it out, here and where it stands between two documents. It streams the
# rest, shuffled, through a buffer whose size you choose.

# %%
stream = mi.sae.Activations(model, site, tokens, buffer=1 << 16)
spare = held_out == model.tokenizer.bos_token_id
fresh = held[~spare]
print(f"{len(fresh)} activations to judge on, {int(stream.keep.sum())} to train on")

# %% [markdown]
# ## 4. Training
#
# One recipe, one line. The bar shows the loss, the number of active units (L0), the share of the
# variance that is explained, and the share of **dead** units, which never fire.

# %%
units = min(4 * model.cfg.d_model, 1024)
recipe = mi.sae.Recipe("batchtopk", d_sae=units, k=20, steps=400, batch=512, lr=3e-3)
run = mi.sae.train(mi.sae.start(stream, recipe))
curves = {name: [row[name] for row in run.log] for name in ("explained_variance", "dead")}
mi.figures.lines(
    curves, x=[row["step"] for row in run.log], xlabel="step", ylabel="share",
    title="Most of the variance is explained early", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# How much of that is the SAE's own? Twenty *principal components* a token explain something too,
# and so does an SAE that was never trained. All three describe a token by about as many numbers.
# And how many components would explain as much as the SAE does?

# %%
quick = run.sae()
quality = mi.sae.fidelity(quick, fresh)
topk = mi.sae.Recipe("topk", d_sae=units, k=20)
untrained = mi.sae.fidelity(mi.sae.start(stream, topk).sae(), fresh)
mean, sample = fresh.mean(0), stream.sample(8000)
V = torch.linalg.svd(sample - sample.mean(0), full_matrices=False)[2]
by_count = ((fresh - mean) @ V.T).square().sum(0).cumsum(0) / (fresh - mean).square().sum()
mi.figures.bars(
    [quality.explained_variance, by_count[19].item(), untrained.explained_variance],
    ["SAE", "20 components", "untrained SAE"], ylabel="explained variance (held out)",
    title="About twenty numbers a token", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("sae.explains", quality.explained_variance, control=by_count[19])
claim("sae.sparse", quality.l0, control=(by_count < quality.explained_variance).sum() + 1)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 3: explained variance
# One minus the squared error divided by the squared distance from the *mean activation*, both
# summed over tokens and dimensions.

# %% [markdown] tags=["hint"]
# A reconstruction that always says the mean should get exactly zero.


# %% tags=["exercise"]
def explained_variance(x, x_hat):
    """x, x_hat: [token d_in]  ->  one number, 1 at best."""
    raise NotImplementedError


# %% tags=["solution"]
def explained_variance(x, x_hat):
    return 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


# %% tags=["check"]
check.explained_variance(explained_variance)

# %% [markdown]
# ## 5. Four kinds, one trade
#
# Fewer active units, larger error: every kind moves along such a curve. The curve that lies higher
# is better. Small and short runs here; the comparison is of kinds, not of what is possible.

# %%
choices = {
    "relu": [{"l1": value} for value in (1.0, 2.0, 4.0)],
    "topk": [{"k": value} for value in (8, 16, 32)],
    "batchtopk": [{"k": value} for value in (8, 16, 32)],
    "jumprelu": [{"l0": value} for value in (0.4, 1.0, 2.5)],
}


def short_run(kind, option):
    """A small SAE trained for a moment, and how faithful it is to fresh activations."""
    small = mi.sae.Recipe(kind, d_sae=256, steps=150, batch=256, lr=8e-3, **option)
    return mi.sae.fidelity(mi.sae.train(mi.sae.start(stream, small), progress=False).sae(), fresh)


front = {kind: [short_run(kind, option) for option in settings]
         for kind, settings in choices.items()}  # fmt: skip

# %%
points_of = [(kind, one) for kind, runs in front.items() for one in runs]
mi.figures.scatter(
    [one.l0 for _, one in points_of], [one.explained_variance for _, one in points_of],
    groups=[kind for kind, _ in points_of], joined=True,
    xlabel="active units a token (L0)", ylabel="explained variance (held out)",
    title="What each kind makes of its units", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Two claims. Read off what each kind explains at the same number of active units, on the straight
# line between its runs. And look at the *length* of the reconstructions there: the L1 penalty pays
# for size, and gets less of it.


# %%
def at_l0(runs, name, l0=16):
    """What a kind reaches at a number of active units, interpolated over the logarithm of L0."""
    runs = sorted(runs, key=lambda one: one.l0)
    x, y = torch.tensor([[math.log(max(one.l0, 0.1)), getattr(one, name)] for one in runs]).T
    i = int((x < math.log(l0)).sum().clamp(1, len(x) - 1))
    share = (math.log(l0) - x[i - 1]) / (x[i] - x[i - 1])
    return torch.lerp(y[i - 1], y[i], share).item()


explained = {kind: at_l0(runs, "explained_variance") for kind, runs in front.items()}
lengths = {kind: at_l0(runs, "norm_ratio") for kind, runs in front.items()}
claim("kinds.front", min(explained[kind] for kind in explained if kind != "relu"),
      control=explained["relu"])  # fmt: skip
claim("kinds.shrinkage", lengths["relu"],
      control=min(lengths[kind] for kind in lengths if kind != "relu"))  # fmt: skip

# %% [markdown]
# ## 6. What does the model lose?
#
# From here on we want a good dictionary, not a quick one. `pocket` brings some that were trained
# for longer ([their cards](../data/sae/README.md)); for another model a quick one has to do.


# %%
from importlib.resources import files


def dictionary(name, recipe, acts=stream):
    """A committed SAE of pocket; for another model one that is trained here and now."""
    if mi.model_id(model) == "pocket":
        return mi.sae.load(files("mi_data") / "sae" / name, device=model.cfg.device)
    return mi.sae.train(mi.sae.start(acts, recipe), progress=False).sae()


name = f"resid_post_{middle}"
sae = quick if mi.model_id(model) != "pocket" else dictionary(name, recipe)
numbers = round(mi.sae.fidelity(sae, fresh).l0)
print(
    f"The quick one explains {quality.explained_variance:.3f}, this one "
    f"{mi.sae.fidelity(sae, fresh).explained_variance:.3f}, with {numbers} units a token."
)

# %% [markdown]
# Variance is not what the model cares about. **Splice** the SAE in: replace the activation by its
# reconstruction and let the model go on. By hand, with BOS left alone, since no SAE here was
# trained on it:


# %%
def logits_with(change, hook_name=site):
    """Logits with `change` of one site's activations in their place, BOS left alone."""

    def put(act, hook):
        return torch.where(spare[..., None], act, change(act))

    with model.hooks(fwd_hooks=[(hook_name, put)]), torch.no_grad():
        return model(held_out)


def loss_of(logits):
    """Mean next-token loss on the held-out text, in nats."""
    return mi.metrics.loss(logits, held_out).mean().item()


clean, spliced = logits_with(lambda act: act), logits_with(sae)
losses = mi.sae.splice_losses(model, sae, held_out)
assert abs(loss_of(spliced) - losses.spliced) < 1e-4

# %% [markdown]
# The loss rises by some nats. How bad is that? Compare with knocking the site out: by zero, or
# better by its mean. And with what principal components leave of the stream, as many of them as
# the SAE uses units.

# %%
P = V[:numbers].T @ V[:numbers]
kept = loss_of(logits_with(lambda act: mean + (act - mean) @ P))
mi.figures.bars(
    [losses.clean, losses.spliced, kept, losses.mean, losses.zero],
    ["as it is", "spliced", f"{numbers} components", "mean-ablated", "zero-ablated"],
    ylabel="loss (nats)", title="Most of what the site carries survives the splice",
    subtitle=f"{mi.model_id(model)}, {site}",
)  # fmt: skip

# %%
by_components = 1 - (kept - losses.clean) / (losses.mean - losses.clean)
claim("splice.recovered", losses.recovered("mean"), control=by_components)

# %% [markdown]
# The rest is in the **error** $x - \hat x$. Put it back, and nothing may change: then the splice is
# exact, and all that it costs is in the error.

# %%
restored = logits_with(lambda act: sae(act) + (act - sae(act)))
claim("splice.exact", (restored - clean).abs().max(), control=(spliced - clean).abs().max())

# %% [markdown]
# "Recovered" flatters: it divides by the cost of losing the stream, without which *nothing* works.
# A sterner measure asks how good a model has that loss: one trained with a fraction of the compute
# [@gao2024scaling]. Here is one that needs no other models. How many nats
# does it cost to take out one whole MLP? Dropping the SAE in costs as much as losing which? (The
# first is left out of the picture: on pocket, nothing works without it.)


# %%
def added_without(layer):
    """Nats that it costs to put the mean in place of one MLP's output."""

    def average(act):
        return act[~spare].mean(0).expand_as(act)

    return loss_of(logits_with(average, f"blocks.{layer}.hook_mlp_out")) - losses.clean


n_layers = model.cfg.n_layers
some = range(1, n_layers, max(1, n_layers // 4))  # not all in a deep model
layers = sorted({*some, middle, n_layers - 1})
without = {f"L{layer} MLP gone": added_without(layer) for layer in layers}
mi.figures.bars(
    [losses.added, *without.values()], ["SAE spliced in", *without], horizontal=True,
    xlabel="added loss (nats)", title="What splicing costs, beside whole MLPs",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("splice.cost", losses.added, control=without[f"L{n_layers - 1} MLP gone"])

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 4: loss recovered
# 1 where splicing costs nothing, 0 where it costs as much as the ablation.

# %% [markdown] tags=["hint"]
# Both costs are measured from the clean loss.


# %% tags=["exercise"]
def loss_recovered(clean, spliced, ablated):
    """Three losses in nats  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def loss_recovered(clean, spliced, ablated):
    return (ablated - spliced) / (ablated - clean)


# %% tags=["check"]
check.loss_recovered(loss_recovered)

# %% [markdown]
# And the same share of the variance can mean very different things. Here is an SAE of what the
# middle layer's *MLP* writes. Compare what the two explain, and what is at stake: what mean
# ablation costs at either site.

# %%
mlp_site = f"blocks.{middle}.hook_mlp_out"
mlp_sae = dictionary(f"mlp_out_{middle}", recipe, mi.sae.Activations(model, mlp_site, tokens[:64]))
mlp_fresh = mi.sae.read_site(model, mlp_site, held_out)[~spare]
mlp_added = loss_of(logits_with(mlp_sae, mlp_site)) - losses.clean
stakes = {site: losses.mean - losses.clean, mlp_site: without[f"L{middle} MLP gone"]}
rows = [
    {"site": one.hook, "explained variance": mi.sae.fidelity(one, acts).explained_variance,
     "spliced (nats)": added, "mean-ablated (nats)": stakes[one.hook]}
    for one, acts, added in ((sae, fresh, losses.added), (mlp_sae, mlp_fresh, mlp_added))
]  # fmt: skip
mi.figures.table(rows, title="What is at stake at two sites", subtitle=mi.model_id(model))

# %%
claim("splice.stakes", stakes[mlp_site], control=stakes[site])

# %% [markdown]
# Where next to nothing is at stake, "loss recovered" divides one tiny number by another. Report the
# nats.
#
# The error is small in length. Is it noise? Add noise of exactly the same length to every
# activation instead, in random directions. If the error were noise, this would move the model's
# predictions as far. How far is the mean KL divergence from the clean predictions, which sees every
# change; the loss sees only those that concern the token that came.


# %%
def with_noise(seed):
    """Logits with random vectors, as long as the SAE's error, added to the activations."""

    def add_noise(act):
        noise = torch.randn(act.shape, generator=torch.Generator().manual_seed(seed)).to(act)
        size = (act - sae(act)).norm(dim=-1, keepdim=True)
        return act + noise / noise.norm(dim=-1, keepdim=True) * size

    return logits_with(add_noise)


def divergence(logits):
    """Mean KL divergence from the clean predictions, in nats."""
    p, q = clean[~spare].log_softmax(-1), logits[~spare].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


by_noise = [divergence(with_noise(seed)) for seed in (0, 1)]
usual = sum(by_noise) / len(by_noise)
claim("splice.error_is_not_noise", divergence(spliced) / usual, control=by_noise[1] / usual)

# %% [markdown]
# On pocket the error moves the predictions further than noise of its length does. What this SAE
# leaves out is not a random rest: the model reads along some of those directions. The same was
# found for SAEs of GPT-2 small [@gurnee2024errors]. Note what the comparison needs: both must leave
# the same tokens alone. On BOS the SAE's error is huge, and noise of that length is no fair
# control.

# %% [markdown]
# ## 7. Against the truth
#
# Here is the yardstick that published SAEs lack. The generator says, for every token, what it is:
# the subject of a fact, the one who gives, a word of praise. For each label take the unit that
# detects it best on half of the texts, and report its F1 on the others. Beside it: the best
# neuron, the best principal direction, the best of as many random directions, and, as a ceiling, a
# probe that was *told* the labels.

# %%
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, seed, "test") for seed in range(40) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
mlp = f"blocks.{middle}.mlp.hook_post"
x, neurons = (mi.sae.read_tokens(model, hook, labelled.tokens, labelled.real)
              for hook in (site, mlp))  # fmt: skip
centred = x - x.mean(0)
random_W = torch.randn(x.shape[1], sae.d_sae, generator=torch.Generator().manual_seed(30)).to(x)
principal = torch.linalg.svd(centred, full_matrices=False)[2].T
views = {
    "SAE unit": sae.encode(x),
    "neuron": neurons,
    "principal direction": torch.cat([centred @ principal, -centred @ principal], 1),
    "random direction": centred @ random_W,
}

# %% [markdown]
# The ceiling is a linear probe for every label at once: ridge regression, fitted on the first half
# of the texts. Its outputs are scored as if they were units.

# %%
marks = torch.stack([labelled.flat(label) for label in labelled.labels], 1).to(x)
first = (labelled.real.nonzero()[:, 0] < len(samples) // 2).to(x.device)


def told(acts):
    """Outputs of a probe for each label, [token label], fitted on the first half of the texts."""
    offset = acts - acts[first].mean(0)
    square = offset[first].T @ offset[first] + 10 * torch.eye(acts.shape[1]).to(acts)
    return offset @ torch.linalg.solve(square, offset[first].T @ marks[first])


scores = {
    view: mi.sae.best_units(acts, labelled)
    for view, acts in (views | {"probe, told the labels": told(x)}).items()
}

# %%
names = [row["label"] for row in scores["SAE unit"]]
f1 = {view: [row["f1"] for row in rows] for view, rows in scores.items()}
mi.figures.table(
    [{"label": label, **{view: values[i] for view, values in f1.items()},
      "precision": row["precision"], "recall": row["recall"], "AUROC": row["auroc"]}
     for i, (label, row) in enumerate(zip(names, scores["SAE unit"], strict=True))],
    title="F1 on held-out texts; precision, recall and AUROC of the SAE unit", search=True,
)  # fmt: skip

# %%
mean_f1 = {view: torch.tensor(values).mean().item() for view, values in f1.items()}
mi.figures.bars(
    list(mean_f1.values()), list(mean_f1), horizontal=True, xlabel="F1, mean over labels",
    title="Who detects what the author meant?", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("truth.random", mean_f1["SAE unit"], control=mean_f1["random direction"])
claim("truth.pca", mean_f1["SAE unit"], control=mean_f1["principal direction"])
claim("truth.neurons", mean_f1["SAE unit"], control=mean_f1["neuron"])
claim("truth.ceiling", mean_f1["probe, told the labels"], control=mean_f1["SAE unit"])

# %% [markdown]
# On pocket the table has both ends: labels that a single unit marks nearly perfectly, and labels
# that no unit marks though a probe reads them without trouble. The information is there; the SAE
# did not give it a unit. Is it in what the SAE leaves out? The same probe, on nothing but the
# **error**, and on random vectors of its lengths:

# %%
error = x - sae(x)
noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
noise = noise * (error.norm(dim=-1) / noise.norm(dim=-1))[:, None]
in_error, in_noise = (
    torch.tensor([row["f1"] for row in mi.sae.best_units(told(left), labelled)]).mean()
    for left in (error, noise)
)
claim("truth.error", in_error, control=in_noise)

# %% [markdown]
# On pocket a probe reads many labels there. The error is no waste: it holds features that got no
# unit, or not all of their strength. And the units themselves? See where the best detectors fire:


# %%
def unit_on_text(unit):
    """Where one unit fires, on the texts where it fires most."""
    strength = mi.sae.on_texts(views["SAE unit"][:, unit], labelled.real).cpu()
    best = strength.amax(1).argsort(descending=True)[:4].tolist()
    rows = [labelled.tokens[i][labelled.real[i]] for i in best]
    return mi.figures.tokens_coloured(
        [mi.heads.token_names(model, row) for row in rows],
        [strength[i][labelled.real[i]] for i in best], center=None, title=f"Unit {unit}",
    )  # fmt: skip


top_rows = sorted(scores["SAE unit"], key=lambda row: -row["f1"])[:8]
mi.figures.explore(unit_on_text, unit={row["label"]: row["unit"] for row in top_rows})

# %% [markdown]
# Now the other way round: does every *unit* answer to a label? For each living unit the best F1
# with any label, saying yes wherever it fires at all. The control are the same units on shuffled
# tokens.


# %%
def best_f1(fires):
    """fires: [token unit]  ->  for each living unit its best F1 with any label."""
    fires = fires[:, fires.sum(0) >= 5].float()
    return (2 * fires.T @ marks / (fires.sum(0)[:, None] + marks.sum(0))).amax(1)


fires = views["SAE unit"] > 0
mixed = fires[torch.randperm(len(fires), generator=torch.Generator().manual_seed(0))]
by_label = {"tokens as they are": best_f1(fires), "shuffled tokens": best_f1(mixed)}
mi.figures.histogram(
    by_label, title="Few units answer to one of our labels", xlabel="best F1 with any label",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
answering = {label: (values > 0.3).float().mean() for label, values in by_label.items()}
claim("truth.few_units", answering["tokens as they are"], control=answering["shuffled tokens"])

# %% [markdown]
# Most units mean something that is *not* on our list: single words, positions, beginnings of
# sentences. That is not a failure of the SAE. It is what makes a score against labels a lower
# bound, and reading units necessary.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 5: a unit as a detector
# A unit says *yes* where its activation is above zero. Return its precision, recall and F1.

# %% [markdown] tags=["hint"]
# Precision: of all that it says yes to, how much is right. Recall: of all that is right, how much
# it says yes to. A unit that never fires has precision zero here.


# %% tags=["exercise"]
def detector_scores(acts, label):
    """acts: [token]; label: [token] of True and False  ->  precision, recall, F1."""
    raise NotImplementedError


# %% tags=["solution"]
def detector_scores(acts, label):
    yes = acts > 0
    right = (yes & label).sum().item()
    precision = right / max(1, yes.sum().item())
    recall = right / max(1, label.sum().item())
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return precision, recall, f1


# %% tags=["check"]
check.detector_scores(detector_scores)

# %% [markdown]
# ## 8. Is it the same dictionary the next time?
#
# The same training from another seed. For each direction of the first SAE, the cosine with the
# nearest direction of the other; the control is a dictionary of random directions.

# %%
again = dictionary(f"{name}_seed_1", replace(recipe, seed=1))
alive = mi.sae.fidelity(sae, fresh).frequency > 1e-3
matched = {
    "another seed": mi.sae.matched_cosine(sae.W_dec[alive], again.W_dec),
    "random directions": mi.sae.matched_cosine(sae.W_dec[alive], random_W.T),
}
mi.figures.histogram(
    matched, title="Some directions come back, not all", xlabel="cosine with the nearest direction",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
medians = {label: values.median() for label, values in matched.items()}
claim("stable.seeds", medians["another seed"], control=medians["random directions"])

# %% [markdown]
# What comes back from another start is a property of the activations; what does not may be one of
# many equally good ways to cut them up. Reports on a single unit should say which it is.
#
# ### Width: splitting
#
# In a wider dictionary one unit may be replaced by several, each for a special case (**feature
# splitting** [@bricken2023monosemanticity]). Count, for each unit of the narrow one, the units of
# the wide one that fire hardly ever without it.

# %%
narrow = dictionary(f"{name}_narrow", replace(recipe, d_sae=recipe.d_sae // 2))
wide = dictionary(f"{name}_wide", replace(recipe, d_sae=2 * recipe.d_sae))
few, many = (one.encode(x) > 0 for one in (narrow, wide))
few, many = few[:, few.float().mean(0) < 0.1].float(), many[:, many.sum(0) >= 5].float()
mixed = few[torch.randperm(len(few), generator=torch.Generator().manual_seed(0))]
splits, by_chance = (
    ((many.T @ one) / many.sum(0)[:, None] > 0.9).sum(0).float() for one in (few, mixed)
)
mi.figures.histogram(
    {"units": splits, "shuffled tokens": by_chance}, bins=int(splits.max()) + 1,
    title="A unit of the narrow SAE, several of the wide one", subtitle=mi.model_id(model),
    xlabel="units of the wide SAE that fire only where it does",
)  # fmt: skip

# %%
claim("width.splitting", (splits >= 2).float().mean(), control=(by_chance >= 2).float().mean())

# %% [markdown]
# (Units that fire on more than a tenth of the tokens are left out: what fires nearly always
# contains everything.) What does a label gain by width? Precision and recall of its best unit, mean
# over labels:

# %%
narrow_rows, wide_rows = (mi.sae.best_units(one.encode(x), labelled) for one in (narrow, wide))
by_width = (narrow_rows, scores["SAE unit"], wide_rows)
means = {
    score: [sum(row[score] for row in rows) / len(rows) for rows in by_width]
    for score in ("precision", "recall")
}
mi.figures.bars(
    means, [f"{one.d_sae} units" for one in (narrow, sae, wide)],
    ylabel="mean over labels", title="A wider SAE has more precise units",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("width.precision", means["precision"][-1], control=means["precision"][0])

# %% [markdown]
# ### Absorption
#
# Special units have a price: where one of them fires, the general one may stop. It has holes that
# its meaning does not have (**absorption** [@chanin2024absorption]). To see why, we build a world
# again, now with directions that depend on each other. Five *children* that come only with their
# *parent*, as "says Mary" comes only with "says a name". For comparison, five that are as rare but
# come on their own. All at right angles, all of strength one.

# %%
generator = torch.Generator().manual_seed(20)
basis = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0][:20]
chance = torch.tensor([0.15] * 10 + [0.3] * 5 + [0.045] * 5)
parent, child = (torch.rand(8000, 20, generator=generator) < chance).split(10, dim=1)
child = child & torch.cat([parent[:, :5], torch.ones_like(parent[:, 5:])], dim=1)
family = mi.sae.Vectors(torch.cat([parent, child], dim=1).float() @ basis)
penalised = mi.sae.Recipe("relu", l1=2.0, d_sae=48, steps=400, batch=256, lr=1e-2)
absorber = mi.sae.train(mi.sae.start(family, penalised), progress=False).sae()

# %% [markdown]
# Take the unit whose row is nearest to the parent. Where does it fire? On the left the five
# families, on the right the five that only look like one.

# %%
cosines = absorber.W_dec @ basis.T  # [unit direction]
general, special = cosines[:, :10].argmax(0), cosines[:, 10:].argmax(0)
on = absorber.encode(family.chunk(0))[:, general] > 0
recall = {
    label: (on & where).sum(0) / where.sum(0)
    for label, where in (("parent alone", parent & ~child), ("with its child", parent & child))
}
mi.figures.bars(
    recall, [f"family {i}" for i in range(1, 6)] + [f"apart {i}" for i in range(1, 6)],
    ylabel="share on which the parent's unit fires", title="Where the child is, the parent's unit "
    "is silent",
)  # fmt: skip

# %%
holes = 1 - recall["with its child"]
claim("absorption.holes", holes[:5].mean(), control=holes[5:].mean())
towards_parent = cosines[special, torch.arange(10)]
claim("absorption.child", towards_parent[:5].mean(), control=towards_parent[5:].mean())

# %% [markdown]
# The parent's unit is perfect, except where the child is. There the child's unit does the parent's
# work: its row points half to the parent. The penalty made it so. Parent and child by two units
# cost $1 + 1$, by one unit along the diagonal $\sqrt 2$. As the child never comes alone, that unit
# never errs. The reconstruction is as good, the sparsity better, and the unit "parent" no longer
# means parent. No number of sections 4 to 6 would have told us.

# %% [markdown]
# ## 9. An SAE of an untrained model
#
# An SAE finds *something* in any activations, also in those of a model that knows nothing: tokens
# and positions are already there. What it finds there is about the data, not about the model.

# %%
nobody = mi.untrained(model)
empty_stream = mi.sae.Activations(nobody, site, tokens[:64])
empty = dictionary(f"{name}_untrained", recipe, empty_stream)
x0 = mi.sae.read_tokens(nobody, site, labelled.tokens, labelled.real)
empty_f1 = [row["f1"] for row in mi.sae.best_units(empty.encode(x0), labelled)]
gained = dict(zip(names, torch.tensor(f1["SAE unit"]) - torch.tensor(empty_f1), strict=True))
mi.figures.scatter(
    empty_f1, f1["SAE unit"], labels=names, named=sorted(gained, key=gained.get)[-6:],
    identity=True, xlabel="F1, SAE of the untrained model", ylabel="F1, SAE of the trained model",
    title="Above the line: found in the model, not in the text", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("truth.trained_model", mean_f1["SAE unit"], control=sum(empty_f1) / len(empty_f1))

# %% [markdown]
# ## 10. Save, share, and open what others trained
#
# `mi.sae.save` writes SAELens's layout: `cfg.json` and safetensors. Whoever uses SAELens opens the
# folder with `SAE.load_from_disk`; its SAEs open here with `mi.sae.load`. The published SAEs of
# GPT-2 small's residual stream [@bloom2024gpt2] open by name, from the ordinary Hugging Face
# cache:
#
# ```python
# sae = mi.sae.load_published("blocks.8.hook_resid_pre")  # needs GPT-2 small to be of use
# mi.sae.splice_losses(mi.load_model("gpt2"), sae, tokens)
# ```
#
# Their units have pages on [Neuronpedia](https://www.neuronpedia.org/gpt2-small/8-res-jb). With
# GPT-2 small loaded, the next cell opens one, and shows L0 and the loss that splicing adds beside
# what was published about it (on other text, so expect the same size, not the same digits).


# %%
def beside_published(hook_name):
    """L0 and added loss of a published SAE of GPT-2 small, as published and on our text."""
    if mi.model_id(model) != "gpt2":
        return mi.figures.table([{"not shown": f"the model is {mi.model_id(model)}, not gpt2"}])
    try:
        published = mi.sae.load_published(hook_name, device=model.cfg.device)
    except FileNotFoundError as error:
        return mi.figures.table([{"not shown": str(error)}])
    acts = mi.sae.Activations(model, hook_name, held_out, buffer=1 << 14).sample(1000)
    told, here = published.notes["published"], mi.sae.splice_losses(model, published, held_out)
    return mi.figures.table([
        {"text": "published", "L0": told["l0"], "added loss": told["loss_spliced"] - told["loss"]},
        {"text": "ours", "L0": mi.sae.fidelity(published, acts).l0, "added loss": here.added},
    ], title=published.hook)  # fmt: skip


beside_published("blocks.8.hook_resid_pre")

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    opened = mi.sae.load(mi.sae.save(sae, folder), device=sae.W_enc.device)
assert torch.equal(opened.encode(x), sae.encode(x))


# %% [markdown]
# ## Summary
#
# - An SAE is two matrices and a way to cut. The kinds differ in what they cut and what they pay
#   for.
# - Where the world is a sparse sum of independent directions, it finds them. Where one comes only
#   with another, it hides one in the other.
# - Explained variance, L0 and dead units describe it; the loss that splicing adds judges it, in
#   nats and beside what other damage costs. The error it leaves need not be noise.
# - Against labels that are known, pocket's units beat neurons, principal components and random
#   directions; a probe that is told the label stays ahead. Floor and ceiling belong into every
#   report.
# - Another seed finds much the same, not all the same; a wider one splits what a narrow one has.
# - Much of what a score finds could be in the text alone: train an SAE on an untrained model.
#
# ## Where to read on
#
# - Dictionaries of language models: [@bricken2023monosemanticity; @cunningham2023sparse]. Scaling
#   and TopK: [@gao2024scaling]. A benchmark of many measures: [@karvonen2025saebench].
# - What a unit means, and what it does: [notebook 11](11_reading_features.ipynb).

# %%
claim.table()
