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

texts = [g.document(seed).text for seed in range(1200)]
rows = torch.cat([model.to_tokens(text)[0] for text in texts])
n_ctx = min(model.cfg.n_ctx, 128)
tokens = rows[: len(rows) // (n_ctx - 1) * (n_ctx - 1)].view(-1, n_ctx - 1)
bos = torch.full((len(tokens), 1), model.tokenizer.bos_token_id, device=tokens.device)
tokens = torch.cat([bos, tokens], dim=1)
held_out, tokens = tokens[:48], tokens[48:]

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
fresh = mi.sae.Activations(model, site, held_out, buffer=1 << 16).sample(4000)
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
    ["SAE", "20 principal components", "untrained SAE"], ylabel="explained variance (held out)",
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
    "relu": [{"l1": value} for value in (0.5, 2.0)],
    "topk": [{"k": value} for value in (10, 30)],
    "batchtopk": [{"k": value} for value in (10, 30)],
    "jumprelu": [{"l0": value} for value in (0.3, 1.2)],
}
front = []
for kind, options in choices.items():
    for option in options:
        small = mi.sae.Recipe(kind, d_sae=512, steps=200, batch=512, **option)
        made = mi.sae.train(mi.sae.start(stream, small), progress=False).sae()
        front.append((kind, mi.sae.fidelity(made, fresh)))

# %%
mi.figures.scatter(
    [f.l0 for _, f in front], [f.explained_variance for _, f in front],
    groups=[kind for kind, _ in front], xlabel="active units a token (L0)",
    ylabel="explained variance", title="What each kind makes of its units",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
ratios = {kind: f.norm_ratio for kind, f in front}
shrunk = [min(f.norm_ratio for k, f in front if k == kind) for kind in ("relu", "topk")]
claim("kinds.shrinkage", shrunk[0], control=shrunk[1])

# %% [markdown]
# ## 5. What does the model lose?
#
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

# %%
claim("splice.recovered", losses.recovered("mean"), control=0.0)

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
# The **error** $x - \hat x$ is small in length. Is it noise? Add noise of exactly the same length
# to every activation instead, in random directions. If the error were noise, this would cost as
# much.


# %%
def noise_hook(act, hook):
    """Replace the SAE's error by random vectors of the same length."""
    error = act - sae(act)
    noise = torch.randn(act.shape, generator=torch.Generator().manual_seed(0)).to(act)
    noise = noise / noise.norm(dim=-1, keepdim=True) * error.norm(dim=-1, keepdim=True)
    noise[:, 0] = 0
    return act + noise


with model.hooks(fwd_hooks=[(site, noise_hook)]), torch.no_grad():
    noisy = mi.metrics.loss(model(held_out), held_out).mean().item()
claim("splice.error_matters", losses.added, control=noisy - losses.clean)

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
samples = [g.sample(kind, seed, "test") for seed in range(24) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
mlp = f"blocks.{middle}.mlp.hook_post"
found = model.run_with_cache(labelled.tokens, names_filter=[site, mlp])[1]
x, neurons = (found[name][labelled.real] for name in (site, mlp))

# %%
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
scores = {name: mi.sae.best_units(acts, labelled) for name, acts in views.items()}


# %%
def probe_f1(name):
    """Held-out F1 of a logistic regression that is told the label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    label = labelled.flat(name).numpy()
    first = (labelled.real.nonzero()[:, 0] < len(samples) // 2).numpy()
    data = x.cpu().numpy()
    probe = LogisticRegression(C=0.1, max_iter=200).fit(data[first], label[first])
    return f1_score(label[~first], probe.predict(data[~first]))


names = [row["label"] for row in scores["SAE unit"]]
f1 = {view: [row["f1"] for row in rows] for view, rows in scores.items()}
f1["probe, told the label"] = [probe_f1(name) for name in names]
mi.figures.bars(
    f1, names, horizontal=True, ylabel="F1 on held-out texts",
    title="Who detects what the author meant?", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
mean_f1 = {view: torch.tensor(values).mean() for view, values in f1.items()}
claim("truth.sae_beats_random", mean_f1["SAE unit"], control=mean_f1["random direction"])
claim("truth.ceiling", mean_f1["probe, told the label"], control=mean_f1["SAE unit"])

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
# Train again from another seed, and a wider one. For each direction of the first, the cosine with
# the nearest direction of the other; the control is a dictionary of random directions of the same
# size.

# %%
again = {
    "another seed": mi.sae.Recipe("batchtopk", d_sae=recipe.d_sae, k=20, steps=400, seed=1),
    "twice as wide": mi.sae.Recipe("batchtopk", d_sae=2 * recipe.d_sae, k=20, steps=250),
}
others = {name: mi.sae.train(mi.sae.start(stream, r)).sae() for name, r in again.items()}
alive = mi.sae.fidelity(sae, fresh).frequency > 1e-3
matched = {n: mi.sae.matched_cosine(sae.W_dec[alive], o.W_dec) for n, o in others.items()}
matched["random directions"] = mi.sae.matched_cosine(sae.W_dec[alive], random_W.T)
mi.figures.histogram(
    matched, title="Many directions come back, not all", xlabel="cosine with the nearest direction",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
medians = {name: values.median() for name, values in matched.items()}
claim("stable.seeds", medians["another seed"], control=medians["random directions"])

# %% [markdown]
# In a wider dictionary one unit may be replaced by several, each for a special case (**feature
# splitting** [@bricken2023monosemanticity]); and a special unit may take over where the general
# one should fire (**absorption** [@chanin2024absorption]). For each unit count the units of the
# wider SAE that fire mostly when it fires.

# %%
narrow, wide = sae.encode(x) > 0, others["twice as wide"].encode(x) > 0
inside = (wide.float().T @ narrow.float()) / wide.float().sum(0).clamp_min(1)[:, None]
splits = ((inside > 0.8) & (wide.sum(0) > 5)[:, None]).sum(0)[alive.to(x.device)]
mi.figures.histogram(
    {"units": splits.float()}, bins=12, title="Some units split, most do not",
    xlabel="units of the wider SAE that fire inside one unit", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# ## 8. An SAE of an untrained model
#
# An SAE finds *something* in any activations, also in those of a model that knows nothing: tokens
# and positions are already there. What it finds there is about the data, not about the model.

# %%
nobody = mi.untrained(model)
empty_stream = mi.sae.Activations(nobody, site, tokens, buffer=1 << 16)
short = mi.sae.Recipe("batchtopk", d_sae=recipe.d_sae, k=20, steps=250)
empty = mi.sae.train(mi.sae.start(empty_stream, short)).sae()
x0 = nobody.run_with_cache(labelled.tokens, names_filter=site)[1][site][labelled.real]
empty_f1 = torch.tensor([row["f1"] for row in mi.sae.best_units(empty.encode(x0), labelled)]).mean()
claim("truth.trained_model", mean_f1["SAE unit"], control=empty_f1)

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
# Their units have pages on [Neuronpedia](https://www.neuronpedia.org/gpt2-small/8-res-jb).

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
# - Explained variance, L0 and dead units describe it; the loss that splicing adds judges it; the
#   error it leaves is not noise.
# - Against labels that are known, its units beat random directions; a probe that is told the label
#   stays ahead. Both belong into every report.
# - Another seed finds much the same, not all the same.
#
# ## Where to read on
#
# - Dictionaries of language models: [@bricken2023monosemanticity; @cunningham2023sparse]. Scaling
#   and TopK: [@gao2024scaling]. A benchmark of many measures: [@karvonen2025saebench].
# - What a unit means, and what it does: [notebook 11](11_reading_features.ipynb).

# %%
claim.table()
