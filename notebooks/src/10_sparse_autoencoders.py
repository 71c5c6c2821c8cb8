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

angle = torch.arange(3) * 2 * torch.pi / 3
W_dec = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [d_sae, d_in]
x = torch.tensor([[1.5, 0.0]])
before = x @ W_dec.T  # W_enc is the transpose here, both biases are zero
f = before.relu()
rebuilt = f @ W_dec
print("before", before, "units", f, "rebuilt", rebuilt)

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
# ## 2. Activations
#
# The SAE learns from activations of one **site**; here the residual stream after the middle layer,
# on text of the generator. `mi.sae.Activations` streams them: shuffled, with a buffer of known
# size, and without the first token, whose activation is many times longer than all others. See for
# yourself:

# %%
from mi_data.pocket import generator as g

texts = [g.document(seed).text for seed in range(1000)]
rows = torch.cat([model.to_tokens(text)[0] for text in texts])
n_ctx = min(model.cfg.n_ctx, 128)
tokens = rows[: len(rows) // (n_ctx - 1) * (n_ctx - 1)].view(-1, n_ctx - 1)
bos = torch.full((len(tokens), 1), model.tokenizer.bos_token_id, device=tokens.device)
tokens = torch.cat([bos, tokens], dim=1)
held_out, tokens = tokens[:24], tokens[24:]

# %%
middle = model.cfg.n_layers // 2
site = f"blocks.{middle}.hook_resid_post"
lengths = model.run_with_cache(held_out, names_filter=site)[1][site].norm(dim=-1).mean(0).cpu()
mi.figures.lines(
    {"stream": lengths}, xlabel="position", ylabel="mean length",
    title="The first position is not like the others", subtitle=f"{mi.model_id(model)}, {site}",
)  # fmt: skip

# %%
stream = mi.sae.Activations(model, site, tokens, buffer=1 << 16)
fresh = mi.sae.Activations(model, site, held_out, buffer=1 << 16).sample(2000)
print(f"{stream.chunks} chunk(s) of at most {stream.rows_a_chunk * n_ctx} activations")

# %% [markdown]
# ## 3. Training
#
# One recipe, one line. The bar shows the loss, the number of active units (L0), the share of the
# variance that is explained, and the share of **dead** units, which never fire.

# %%
recipe = mi.sae.Recipe("batchtopk", d_sae=4 * model.cfg.d_model, k=20, steps=400, batch=1024)
run = mi.sae.train(mi.sae.start(stream, recipe))
sae = run.sae()
curves = {name: [row[name] for row in run.log] for name in ("explained_variance", "dead")}
mi.figures.lines(
    curves, x=[row["step"] for row in run.log], xlabel="step", ylabel="share",
    title="Most of the variance is explained early", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# How much of that is the SAE's own? Twenty *principal components* a token explain something too,
# and so does an SAE that was never trained. All three describe a token by about as many numbers.

# %%
mean = fresh.mean(0)
first = stream.sample(8000)
V = torch.linalg.svd(first - first.mean(0), full_matrices=False)[2][:20]
pca = 1 - ((fresh - mean) - (fresh - mean) @ V.T @ V).square().sum() / (fresh - mean).square().sum()
untrained_sae = mi.sae.start(stream, mi.sae.Recipe("topk", d_sae=recipe.d_sae, k=20)).sae()
quality = {"SAE": mi.sae.fidelity(sae, fresh), "untrained": mi.sae.fidelity(untrained_sae, fresh)}
mi.figures.bars(
    [quality["SAE"].explained_variance, pca.item(), quality["untrained"].explained_variance],
    ["SAE", "20 components", "untrained SAE"], ylabel="explained variance (held out)",
    title="About twenty numbers a token", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("sae.explains", quality["SAE"].explained_variance, control=pca)
claim("sae.sparse", quality["SAE"].l0, control=(fresh > 0).float().sum(-1).mean())

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: explained variance
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
# ## 4. Four kinds, one trade
#
# Fewer active units, larger error: every kind moves along such a curve. The curve that lies higher
# is better. Small and short runs here; the comparison is of kinds, not of what is possible.

# %%
choices = {
    "relu": [{"l1": value} for value in (3.0, 6.0)],
    "topk": [{"k": value} for value in (8, 32)],
    "batchtopk": [{"k": value} for value in (8, 32)],
    "jumprelu": [{"l0": value} for value in (0.5, 2.0)],
}


def short_run(kind, option):
    """A small SAE trained for a moment, and how faithful it is to fresh activations."""
    small = mi.sae.Recipe(kind, d_sae=512, steps=150, batch=512, lr=5e-3, **option)
    return mi.sae.fidelity(mi.sae.train(mi.sae.start(stream, small), progress=False).sae(), fresh)


front = {kind: [short_run(kind, option) for option in options] for kind, options in choices.items()}

# %%
mi.figures.scatter(
    [f.l0 for runs in front.values() for f in runs],
    [f.explained_variance for runs in front.values() for f in runs],
    groups=[kind for kind, runs in front.items() for _ in runs],
    xlabel="active units a token (L0)", ylabel="explained variance (held out)",
    title="What each kind makes of its units", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Two claims. Read off what each kind explains at the same number of active units (between two of
# its runs, by a straight line over the logarithm of L0). And look at the *length* of the
# reconstructions: the L1 penalty pays for size, and gets less of it.


# %%
def explained_at(l0, runs):
    """Explained variance of a kind at a number of active units, interpolated."""
    runs = sorted(runs, key=lambda f: f.l0)
    x, y = torch.tensor([[f.l0, f.explained_variance] for f in runs]).T
    i = int((x < l0).sum().clamp(1, len(x) - 1))
    share = (math.log(l0) - x[i - 1].log()) / (x[i].log() - x[i - 1].log())
    return torch.lerp(y[i - 1], y[i], share).item()


claim("kinds.front", explained_at(16, front["batchtopk"]), control=explained_at(16, front["relu"]))
shrunk = {kind: min(runs, key=lambda f: abs(f.l0 - 16)).norm_ratio for kind, runs in front.items()}
claim("kinds.shrinkage", shrunk["relu"], control=shrunk["batchtopk"])

# %% [markdown]
# ## 5. What does the model lose?
#
# From here on we want a good dictionary, not a quick one. `pocket` brings some that were trained
# for longer ([their cards](../data/sae/README.md)); for another model the quick one has to do.


# %%
from importlib.resources import files


def dictionary(name, recipe, hook=site):
    """A committed SAE of pocket; for another model one that is trained here and now."""
    if mi.model_id(model) == "pocket":
        return mi.sae.load(files("mi_data") / "sae" / name)
    acts = mi.sae.Activations(model, hook, tokens, buffer=1 << 16)
    return mi.sae.train(mi.sae.start(acts, recipe), progress=False).sae()


quick, name = run.sae(), f"resid_post_{middle}"
sae = dictionary(name, recipe)
print(f"quick: {quality['SAE'].explained_variance:.3f} of the variance, "
      f"good: {mi.sae.fidelity(sae, fresh).explained_variance:.3f}")  # fmt: skip

# %% [markdown]
# Variance is not what the model cares about. **Splice** the SAE in: replace the activation by its
# reconstruction and let the model go on. The loss rises by some nats. How bad is that? Compare with
# knocking the site out: by zero, or better by its mean.

# %%
losses = mi.sae.splice_losses(model, sae, held_out)
mi.figures.bars(
    [losses.clean, losses.spliced, losses.mean, losses.zero],
    ["as it is", "spliced", "mean-ablated", "zero-ablated"], ylabel="loss (nats)",
    title="Most of what the site carries survives", subtitle=f"{mi.model_id(model)}, {site}",
)  # fmt: skip

# %% [markdown]
# The helper did no more than this. Only BOS, which no SAE here was trained on, is left alone. Put
# the **error** $x - \hat x$ back, and nothing may change: then the splice is exact, and all that it
# costs is in the error.

# %%
spare = held_out == model.tokenizer.bos_token_id


def logits_with(change, hook_name=site):
    """Logits with `change` of one site's activations in their place, BOS left alone."""

    def put(act, hook):
        return torch.where(spare[..., None], act, change(act))

    with model.hooks(fwd_hooks=[(hook_name, put)]), torch.no_grad():
        return model(held_out)


clean, spliced = logits_with(lambda act: act), logits_with(sae)
restored = logits_with(lambda act: sae(act) + (act - sae(act)))
assert abs(mi.metrics.loss(spliced, held_out).mean().item() - losses.spliced) < 1e-4

# %%
untrained_losses = mi.sae.splice_losses(model, untrained_sae, held_out)
claim("splice.recovered", losses.recovered("mean"), control=untrained_losses.recovered("mean"))
claim("splice.exact", (restored - clean).abs().max(), control=(spliced - clean).abs().max())

# %% [markdown]
# The control of the first is an SAE that was never trained.
#
# "Recovered" flatters. Without the residual stream *nothing* works, so nearly any reconstruction
# recovers much of that. A sterner measure asks how good a model has that loss: one trained with a
# fraction of the compute [@gao2024scaling]. Here is one that needs no other models. How many nats
# does it cost to take out one whole MLP? Dropping the SAE in costs as much as losing which?


# %%
def added_without(layer):
    """Nats that it costs to put the mean in place of one MLP's output."""
    hook_name = f"blocks.{layer}.hook_mlp_out"
    mean = mi.sae.read_site(model, hook_name, held_out)[~spare].mean(0)
    logits = logits_with(lambda act: mean.expand_as(act), hook_name)
    return mi.metrics.loss(logits, held_out).mean().item() - losses.clean


without = {f"L{layer} MLP gone": added_without(layer) for layer in range(model.cfg.n_layers)}
mi.figures.bars(
    [losses.added, *without.values()], ["SAE spliced in", *without], horizontal=True,
    xlabel="added loss (nats)", title="What splicing costs, beside whole MLPs",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("splice.cost", losses.added, control=torch.tensor(list(without.values())).median())

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 3: loss recovered
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
# middle layer's *MLP* writes. It explains about as much as the one of the stream does. But look at
# what is at stake: what mean ablation costs at either site.

# %%
mlp_site = f"blocks.{middle}.hook_mlp_out"
mlp_sae = dictionary(f"mlp_out_{middle}", recipe, mlp_site)
mlp_fresh = mi.sae.Activations(model, mlp_site, held_out, buffer=1 << 16).sample(2000)
mlp_losses = mi.sae.splice_losses(model, mlp_sae, held_out)
rows = [
    {"site": one.hook, "explained variance": mi.sae.fidelity(one, acts).explained_variance,
     "spliced (nats)": found.added, "mean-ablated (nats)": found.mean - found.clean}
    for one, acts, found in ((sae, fresh, losses), (mlp_sae, mlp_fresh, mlp_losses))
]  # fmt: skip
mi.figures.table(rows, title="What is at stake at two sites", subtitle=mi.model_id(model))

# %%
claim("splice.stakes", mlp_losses.mean - mlp_losses.clean, control=losses.mean - losses.clean)

# %% [markdown]
# Where next to nothing is at stake, "loss recovered" divides one tiny number by another. Report the
# nats.
#
# The error is small in length. Is it noise? Add noise of exactly the same length to every
# activation instead, in random directions. If the error were noise, this would move the model's
# predictions as far. How far is the mean KL divergence from the clean predictions, which sees every
# change; the loss sees only those that concern the token that came.


# %%
def add_noise(act):
    """The activations plus random vectors as long as the SAE's error."""
    noise = torch.randn(act.shape, generator=torch.Generator().manual_seed(0)).to(act)
    noise = noise / noise.norm(dim=-1, keepdim=True)
    return act + noise * (act - sae(act)).norm(dim=-1, keepdim=True)


def divergence(logits):
    """Mean KL divergence from the clean predictions, in nats."""
    p, q = clean.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)[~spare].mean()


claim("splice.error_is_not_noise", divergence(spliced), control=divergence(logits_with(add_noise)))

# %% [markdown]
# The error moves the predictions further than noise of its length does. What an SAE leaves out is
# not a random rest: the model reads along some of those directions. The same was found for SAEs of
# GPT-2 small [@gurnee2024errors]. Note what the comparison needs: both must leave the same tokens
# alone. On BOS the SAE's error is huge, and noise of that length is not a fair control.

# %% [markdown]
# ## 6. Against the truth
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
found = model.run_with_cache(labelled.tokens, names_filter=[site, mlp])[1]
x, neurons = (found[name][labelled.real] for name in (site, mlp))


# %%
def top_share(acts, share=0.02):
    """Which activations are among a unit's strongest `share`."""
    return acts >= acts.quantile(1 - share, dim=0)


generator = torch.Generator().manual_seed(0)
random_W = torch.randn(x.shape[1], sae.d_sae, generator=generator).to(x)
components = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2].T
views = {
    "SAE unit": sae.encode(x),
    "neuron": neurons,
    "principal direction": torch.cat(
        [(x - x.mean(0)) @ components, -(x - x.mean(0)) @ components], 1
    ),
    "random direction": (x - x.mean(0)) @ random_W,
}

# %% [markdown]
# The ceiling is a linear probe for every label at once: ridge regression, fitted on the first half
# of the texts. Its outputs are scored as if they were units.

# %%
marks = torch.stack([labelled.flat(name) for name in labelled.labels], dim=1).float().to(x.device)
first = (labelled.real.nonzero()[:, 0] < len(samples) // 2).to(x.device)
centred = x - x[first].mean(0)
square = centred[first].T @ centred[first] + 10 * torch.eye(x.shape[1], device=x.device)
ridge = torch.linalg.solve(square, centred[first].T @ marks[first])
views["probe, told the labels"] = centred @ ridge
scores = {name: mi.sae.best_units(acts, labelled) for name, acts in views.items()}

# %%
names = [row["label"] for row in scores["SAE unit"]]
f1 = {view: [row["f1"] for row in rows] for view, rows in scores.items()}
mi.figures.table(
    [{"label": name, **{view: values[i] for view, values in f1.items()},
      "precision": row["precision"], "recall": row["recall"], "AUROC": row["auroc"]}
     for i, (name, row) in enumerate(zip(names, scores["SAE unit"], strict=True))],
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
# The table has both ends: labels that a single unit marks nearly perfectly, and labels that no unit
# marks though a probe reads them without trouble. The information is there; the SAE did not give
# it a unit.
#
# Now the other way round: does every *unit* answer to a label? For each living unit the best F1
# with any label, saying yes wherever it fires at all.


# %%
def best_f1(fires):
    """fires: [token unit]  ->  for each living unit its best F1 with any label."""
    fires = fires[:, fires.sum(0) >= 5].float()
    return (2 * fires.T @ marks / (fires.sum(0)[:, None] + marks.sum(0))).amax(1)


by_label = {"SAE units": best_f1(sae.encode(x) > 0),
            "random directions": best_f1(top_share(views["random direction"]))}  # fmt: skip
mi.figures.histogram(
    by_label, title="Few units answer to one of our labels", xlabel="best F1 with any label",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Most units mean something that is *not* on our list: single words, positions, beginnings of
# sentences. That is not a failure of the SAE. It is what makes a score against labels a lower
# bound, and reading units necessary.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: a unit as a detector
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
# ## 7. Is it the same dictionary the next time?
#
# The same training from another seed. For each direction of the first SAE, the cosine with the
# nearest direction of the other; the control is a dictionary of random directions.

# %%
longer = dict(k=20, steps=400, batch=1024)
again = dictionary(f"{name}_seed_1", mi.sae.Recipe(d_sae=recipe.d_sae, seed=1, **longer))
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
# **Width.** In a wider dictionary one unit may be replaced by several, each for a special case
# (**feature splitting** [@bricken2023monosemanticity]). Count, for each unit of the narrow one, the
# units of the wide one that fire hardly ever without it. And if a special unit takes over a case,
# the general one may stop firing there: it has holes that its meaning does not have
# (**absorption** [@chanin2024absorption]). Holes are missing *recall*.

# %%
narrow = dictionary(f"{name}_narrow", mi.sae.Recipe(d_sae=recipe.d_sae // 2, **longer))
wide = dictionary(f"{name}_wide", mi.sae.Recipe(d_sae=2 * recipe.d_sae, **longer))
few, many = (one.encode(x) > 0 for one in (narrow, wide))
inside = (many.float().T @ few.float()) / many.float().sum(0).clamp_min(1)[:, None]
shuffled = few[torch.randperm(len(few), generator=torch.Generator().manual_seed(0))]
chance = (many.float().T @ shuffled.float()) / many.float().sum(0).clamp_min(1)[:, None]
used = (many.sum(0) >= 5)[:, None]
rare = few.float().mean(0) < 0.1  # what always fires contains everything
splits, by_chance = (((share > 0.9) & used).sum(0)[rare].float() for share in (inside, chance))
mi.figures.histogram(
    {"units": splits, "shuffled tokens": by_chance}, bins=12,
    title="A unit of the narrow SAE, several of the wide one", subtitle=mi.model_id(model),
    xlabel="units of the wide SAE that fire only where it does",
)  # fmt: skip

# %%
claim("width.splitting", (splits >= 2).float().mean(), control=(by_chance >= 2).float().mean())

# %%
widths = {"narrow": narrow, "as above": sae, "wide": wide}
by_width = {label: mi.sae.best_units(one.encode(x), labelled) for label, one in widths.items()}
recall = {label: [row["recall"] for row in rows] for label, rows in by_width.items()}
mi.figures.table(
    [{"label": name, **{f"recall, {label}": values[i] for label, values in recall.items()}}
     for i, name in enumerate(names)], title="The recall of the best unit, by width", search=True,
)  # fmt: skip

# %% [markdown]
# ## 8. An SAE of an untrained model
#
# An SAE finds *something* in any activations, also in those of a model that knows nothing: tokens
# and positions are already there. What it finds there is about the data, not about the model.

# %%
nobody = mi.untrained(model)
empty_stream = mi.sae.Activations(nobody, site, tokens[:80], buffer=1 << 16)
short = mi.sae.Recipe("batchtopk", d_sae=recipe.d_sae, k=20, steps=150, batch=1024, lr=3e-3)
empty = mi.sae.train(mi.sae.start(empty_stream, short), progress=False).sae()
x0 = nobody.run_with_cache(labelled.tokens, names_filter=site)[1][site][labelled.real]
empty_f1 = {row["label"]: row["f1"] for row in mi.sae.best_units(empty.encode(x0), labelled)}
trained_f1 = {row["label"]: row["f1"] for row in mi.sae.best_units(quick.encode(x), labelled)}
gained = {label: trained_f1[label] - empty_f1[label] for label in trained_f1}

# %%
claim(
    "truth.trained_model",
    sum(trained_f1.values()) / len(trained_f1),
    control=sum(empty_f1.values()) / len(empty_f1),
)
mi.figures.scatter(
    [empty_f1[label] for label in gained], [trained_f1[label] for label in gained],
    labels=list(gained), named=sorted(gained, key=gained.get)[-6:], identity=True,
    xlabel="F1, SAE of the untrained model", ylabel="F1, SAE of the trained model",
    title="Above the line: found in the model, not in the text", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# ## 9. Save, share, and open what others trained
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
        return f"Not shown: these are SAEs of GPT-2 small, and the model is {mi.model_id(model)}."
    try:
        published = mi.sae.load_published(hook_name, device=model.cfg.device)
    except FileNotFoundError as error:
        return f"Not shown: {error}"
    acts = mi.sae.Activations(model, hook_name, held_out, buffer=1 << 14).sample(2000)
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


# %%
def unit_on_text(unit):
    """Where one unit fires, on the texts where it fires most."""
    strength = torch.zeros(labelled.real.shape)
    strength[labelled.real] = sae.encode(x)[:, unit].cpu()
    best = strength.amax(1).argsort(descending=True)[:4].tolist()
    rows = [labelled.tokens[i][labelled.real[i]] for i in best]
    return mi.figures.tokens_coloured(
        [mi.heads.token_names(model, row) for row in rows],
        [strength[i][labelled.real[i]] for i in best], center=None, title=f"Unit {unit}",
    )  # fmt: skip


top_rows = sorted(scores["SAE unit"], key=lambda row: -row["f1"])[:5]
mi.figures.explore(unit_on_text, unit={row["label"]: row["unit"] for row in top_rows})

# %% [markdown]
# ## Summary
#
# - An SAE is two matrices and a way to cut. The kinds differ in what they cut and what they pay
#   for.
# - Explained variance, L0 and dead units describe it; the loss that splicing adds judges it, in
#   nats and beside what other damage costs. The error it leaves is not noise: it costs more.
# - Against labels that are known, its units beat neurons, principal components and random
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
