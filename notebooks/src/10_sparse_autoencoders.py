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
# - write a sparse autoencoder from its equations, in two kinds, and say what two more change;
# - train one on any site of any model, and carry it to SAELens and back;
# - judge it by what the model loses, with the right ablations beside it;
# - judge it against the *truth*: which unit detects what the text's author meant.

# %% [markdown] short=true
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

# %% short=true
import math
from dataclasses import replace

angle = torch.arange(3) * 2 * torch.pi / 3
W_dec = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [d_sae, d_in]
x = torch.tensor([[1.5, 0.0]])
before = x @ W_dec.T  # W_enc is the transpose here, both biases are zero
f = before.relu()
rebuilt = f @ W_dec
print("before  ", before, "\nunits   ", f, "\nrebuilt ", rebuilt)
by_hand = mi.sae.Sae("relu", W_dec.T.contiguous(), torch.zeros(3), W_dec, torch.zeros(2))
assert torch.equal(by_hand.encode(x), f) and torch.equal(by_hand(x), rebuilt)

# %% [markdown] short=true
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
# All four make the squared error small. ReLU and JumpReLU add their penalty to it: the first loss
# is
#
# $$\|x - \hat x\|^2 + \lambda \sum_i f_i .$$
#
# It has a flaw that the formula shows. Say one unit rebuilds $x = a\,w$ alone, with $\|w\| = 1$. It
# pays $(a - f)^2 + \lambda f$, which is least where $f = a - \lambda / 2$. Every activation comes
# out too small (**shrinkage** [@rajamanoharan2024gated]). The other kinds do not pay for size, and
# have troubles of their own. The step at JumpReLU's threshold has no slope to learn from, so
# training puts one in, a narrow kernel around the threshold (a **straight-through** estimate).
# BatchTopK looks at a whole batch; after training one fixed threshold takes its place, so that what
# a token activates does not depend on its neighbours. The finished SAE is then a JumpReLU.
#
# Turn the input and see what this dictionary is for: inputs along one of its rows.


# %% short=true
def in_the_plane(degrees, penalty):
    """The three units on an input of length 1.5, shrunk by half the penalty, and the error."""
    turned = 1.5 * torch.tensor(
        [[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]]
    )
    f = (turned @ W_dec.T - penalty / 2).relu()
    wrong = (turned - f @ W_dec).norm()
    return mi.figures.bars(
        [*f[0].tolist(), float(wrong)], ["unit 1", "unit 2", "unit 3", "error"], limit=1.6,
        ylabel="activation; length of the error", title="Between two rows the error grows",
    )  # fmt: skip


mi.figures.explore(in_the_plane, degrees=range(0, 121, 10), penalty=[0.0, 0.5, 1.0])

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
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

# %% [markdown] short=true
# ## 2. Does it find what is there?
#
# Before we trust a method, we try it where the answer is known. A world of forty **true
# directions** in twenty-four dimensions: each is there once in a while, with some strength, and a
# point is the sum of those that are there.

# %% short=true
truth = torch.randn(40, 24, generator=torch.Generator().manual_seed(10))
truth = truth / truth.norm(dim=-1, keepdim=True)


def world(crowd):
    """Points in which about `crowd` of the directions meet, and one at least."""
    generator = torch.Generator().manual_seed(10)
    there = torch.rand(8000, 40, generator=generator) < crowd / 40
    strength = 0.5 + torch.rand(8000, 40, generator=generator)
    return (there * strength)[there.any(1)] @ truth


points = world(4)

# %% [markdown] short=true
# The whole of training, by hand, for TopK: encode, keep four units, decode, compare, step. After
# every step the rows of the dictionary get length one again. (An L1 penalty could be cheated
# without that: long rows make do with small activations.)

# %% short=true
torch.manual_seed(0)
W = torch.nn.functional.normalize(torch.randn(80, 24), dim=-1)
initial = (W.T, torch.zeros(80), W, points.mean(0))
W_enc, b_enc, W_dec, b_dec = (value.clone().requires_grad_() for value in initial)
optimizer = torch.optim.Adam([W_enc, b_enc, W_dec, b_dec], lr=1e-2)
for _ in range(400):
    batch = points[torch.randint(len(points), (256,))]
    pre = (batch - b_dec) @ W_enc + b_enc
    f = pre.relu() * (pre >= pre.topk(4).values[:, -1:])
    error = (f @ W_dec + b_dec - batch).square().sum(-1).mean()
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
    W_dec.data /= W_dec.data.norm(dim=-1, keepdim=True)

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
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

# %% [markdown] short=true
# `mi.sae.train` does the same for all four kinds, faster, and looks after units that die.
# `mi.sae.matched_cosine` compares: which share of the forty directions has a row nearby?

# %% short=true
options = {"relu": {"l1": 1.0}, "topk": {"k": 4}, "batchtopk": {"k": 4}, "jumprelu": {"l0": 0.5}}


def share_found(rows):
    """The share of the true directions to which some row has a cosine above 0.9."""
    return (mi.sae.matched_cosine(truth, rows) > 0.9).float().mean().item()


def trained_on(points, kind, **option):
    """A small SAE of one kind, trained on the points of a world."""
    small = mi.sae.Recipe(kind, d_sae=80, steps=400, batch=256, lr=1e-2, **option)
    return mi.sae.train(mi.sae.start(mi.sae.Vectors(points), small), progress=False).sae()


by_kind = {kind: trained_on(points, kind, **option) for kind, option in options.items()}
found = {kind: share_found(one.W_dec) for kind, one in by_kind.items()}
claim("sae.finds_known", min(found.values()), control=share_found(points[:80]))
figures.table([{"TopK, by hand": share_found(W_dec.detach())} | found],
              title="The share of the true directions that is found")  # fmt: skip

# %% [markdown] short=true
# There are more directions than dimensions, the SAE was told no more than that about four meet, and
# it finds them. Principal components cannot: there are too few, and they stand at right angles. But
# is that the SAE's merit, or an easy world? Two plainer rivals: the centres of as many *clusters*
# of the points, and as many of the points themselves. And one change: how many directions meet in a
# point.

# %% short=true
from sklearn.cluster import KMeans

worlds = {crowd: world(crowd) for crowd in (2, 4, 8)}
finds = {"SAE (TopK)": [], "clusters": [], "points": []}
dense = {}
for crowd, drawn in worlds.items():
    dense[crowd] = by_kind["topk"] if crowd == 4 else trained_on(drawn, "topk", k=crowd)
    centres = KMeans(80, n_init=1, random_state=0).fit(drawn.numpy()).cluster_centers_
    rows = dense[crowd].W_dec, torch.tensor(centres).float(), drawn[:80]
    for name, dictionary_rows in zip(finds, rows, strict=True):
        finds[name].append(share_found(dictionary_rows))
claim("sae.clusters", finds["clusters"][1], control=finds["points"][1])
claim("sae.crowd", finds["SAE (TopK)"][2], control=finds["SAE (TopK)"][1])

# %% short=true
figures.lines(
    finds, x=[str(crowd) for crowd in worlds], xlabel="directions that meet in a point, about",
    ylabel="share of the true directions found", title="Clusters find as many, a crowd hides them",
)  # fmt: skip

# %% [markdown] short=true
# Where two or four meet, clustering finds the directions as well as an SAE does (the SAE's rows
# come nearer to them): to have found what is there is no proof that an SAE was needed. Where eight
# meet, in twenty-four dimensions, neither finds more than a few. Was the SAE not trained enough?
# Give it the true rows, and let it learn only when to use them:

# %% short=true
torch.manual_seed(0)
drawn = worlds[8]
W_enc, b_enc, b_dec = (
    v.clone().requires_grad_() for v in (truth.T, torch.zeros(40), drawn.mean(0))
)
true_rows = mi.sae.Sae("topk", W_enc, b_enc, truth, b_dec, k=8)
optimizer = torch.optim.Adam([W_enc, b_enc, b_dec], lr=1e-2)
for _ in range(600):
    batch = drawn[torch.randint(len(drawn), (256,))]
    error = (true_rows(batch) - batch).square().sum(-1).mean()
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
for name, one in (("the true rows", true_rows), ("the rows it found", dense[8])):
    print(name, f"explain {mi.sae.fidelity(one, drawn).explained_variance:.3f}")

# %% [markdown] short=true
# With the true rows it explains no more. The rows are not to blame: the encoder, one matrix and a
# cut, cannot always tell from the sum which eight are there. (Who knew which, could explain more
# with the same rows.) So the error that training makes small *does not tell* the true dictionary
# from the wrong one, as long as such an encoder chooses the units. The world also *is* a sparse sum
# of directions, and none depends on another; section 8 takes that away. Where a language model lies
# on this line, and whether it lies on it at all, no toy can say.
#
# ## 3. Activations of a model
#
# The SAE learns from activations of one **site**; here the residual stream after the middle layer,
# on text of the generator. Look at how long they are, by position:

# %%
from mi_data.pocket import generator as g

texts = [g.document(seed).text for seed in range(mi.models.by_size(model, 1000, 500))]
rows = torch.cat([model.to_tokens(text)[0] for text in texts])
width = min(model.cfg.n_ctx, 128) - 1
rows = rows[: len(rows) // width * width].view(-1, width)
bos = torch.full_like(rows[:, :1], model.tokenizer.bos_token_id)
inside = (rows[:, [0, -1]] != bos).all(1)  # else BOS at an end looks like padding

# %% short=true
middle = model.cfg.n_layers // 2
place = ("resid_post", middle)
fronts = torch.cat([bos, rows], dim=1)[:, :2]
lengths = mi.sites.read(model, fronts, [place])[place].norm(dim=-1)[:, 1].to(inside.device)
plain = inside & (lengths < 5 * lengths.median())  # else it is like BOS
kept = torch.cat([bos, rows], dim=1)[plain]
aside = 16 if model.cfg.d_vocab < 10_000 else 6  # a large vocabulary makes large logits
held_out, tokens = kept.split([aside, len(kept) - aside])

# %% short=true
held = mi.sites.read(model, held_out, [place])[place]
mi.figures.lines(
    {"stream": held.norm(dim=-1).mean(0)}, xlabel="position", ylabel="mean length",
    title="The first position is not like the others",
    subtitle=f"{mi.model_id(model)}, {mi.sites.hook_name(place)}",
)  # fmt: skip

# %% [markdown] short=true
# The first token's vector is one and the same in every text; a single unit could learn it. But it
# is so long that it would rule the loss and the scale. So `mi.sae.Activations` leaves it out, here
# and where it stands between two documents. (In SmolLM2 what comes next can be as long, where a row
# was cut before a full stop or a comma. A dozen of these would hold nearly all of the variance, so
# the cell above drops such rows.) It streams the rest, shuffled, through a buffer whose size you
# choose.
#
# ## 4. Training
#
# One recipe, one line. The bar shows the loss, the number of active units (L0), the share of the
# variance that is explained, and the share of **dead** units, which never fire.

# %% short=true
stream = mi.sae.Activations(model, place, tokens, buffer=1 << 16)
spare = held_out == model.tokenizer.bos_token_id
fresh = held[~spare]
print(f"{len(fresh)} activations to judge on, {int(stream.keep.sum())} to train on")
units, steps = mi.models.by_size(model, (4, 400), (2, 200))
units *= model.cfg.d_model
recipe = mi.sae.Recipe("batchtopk", d_sae=units, k=20, steps=steps, batch=512, lr=3e-3)
run = mi.sae.train(mi.sae.start(stream, recipe))
curves = {name: [row[name] for row in run.log] for name in ("explained_variance", "dead")}
figures.lines(
    curves, x=[row["step"] for row in run.log], xlabel="step", ylabel="share",
    title="Most of the variance is explained early",
)  # fmt: skip

# %% [markdown] short=true
# How much of that is the SAE's own? Twenty *principal components* a token explain something too,
# and so does an SAE that was never trained. All three describe a token by about as many numbers.
# But for the SAE that is not all: one also has to know *which* units they are. Count **bits**
# [@ayonrinde2024mdl]: say eight for each number, and as many as it takes to name twenty units of
# all of them. So a fair rival gets more components.
#
# But nobody writes down a small component that finely. How few bits could do, if each component got
# as many as its variance deserves? For Gaussian components theory has the answer: know all to the
# same error, and leave out those that are smaller than that. On pocket they then take fewer bits
# than the SAE does. (Its numbers could be coarser, too; the names of its units, nearly half of its
# bits, would shrink only by a code with short names for frequent units.) So who is ahead depends on
# the code: say which one.

# %% short=true
quick = run.sae()
quality = mi.sae.fidelity(quick, fresh)
topk = mi.sae.Recipe("topk", d_sae=units, k=20)
untrained = mi.sae.fidelity(mi.sae.start(stream, topk).sae(), fresh)
mean, sample = fresh.mean(0), stream.sample(8000)
V = torch.linalg.svd(sample - sample.mean(0), full_matrices=False)[2]
variance = ((fresh - mean) @ V.T).square().sum(0)
by_count = variance.cumsum(0) / (fresh - mean).square().sum()
bits = 8 * quality.l0 + math.log2(math.comb(units, 20))
rivals = {"20 components": 19, f"{bits / 8:.0f} components: as many bits": round(bits / 8) - 1}
scores = [quality.explained_variance, *by_count[list(rivals.values())].tolist()]
errors = torch.linspace(0, float(variance.max()), 10_000)[1:, None]
explained = 1 - torch.minimum(variance.cpu(), errors).sum(1) / variance.sum().item()
level = errors[explained > quality.explained_variance].max()
least = 0.5 * (variance / level).log2().relu().sum()

# %% short=true
by_hand = 1 - (fresh - quick(fresh)).square().sum() / (fresh - mean).square().sum()
assert abs(by_hand - quality.explained_variance) < 1e-4  # about the mean, not about zero
print(f"SAE: {bits:.0f} bits; components that explain as much: {least:.0f} bits at best, "
      f"{8 * ((by_count < scores[0]).sum() + 1)} at eight a number")  # fmt: skip
claim("sae.explains", scores[0], control=scores[-1])
figures.bars(
    [*scores, untrained.explained_variance], ["SAE", *rivals, "untrained SAE"], horizontal=True,
    xlabel="explained variance (held out)", title="The SAE says more, at eight bits a number",
)  # fmt: skip

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
# is better. Small and short runs here, for a comparison of kinds. None of them is at its best. Two
# a kind, with more and with less than sixteen active units: look which line lies lowest there.

# %%
width_here = model.cfg.d_model * 3 // 2
few_l1, few_l0 = mi.models.by_size(model, ((2.0, 4.0), (1.0, 2.5)), ((1.0, 2.0), (0.25, 1.0)))
choices = {
    "relu": [{"l1": value} for value in few_l1],
    "topk": [{"k": value} for value in (12, 20)],
    "batchtopk": [{"k": value} for value in (12, 20)],
    "jumprelu": [{"l0": value} for value in few_l0],
}


def short_run(kind, option):
    """A small SAE trained for a moment, and how faithful it is to fresh activations."""
    small = mi.sae.Recipe(kind, d_sae=width_here, steps=150, batch=256, lr=8e-3, **option)
    return mi.sae.fidelity(mi.sae.train(mi.sae.start(stream, small), progress=False).sae(), fresh)


front = {kind: [short_run(kind, option) for option in settings]
         for kind, settings in choices.items()}  # fmt: skip

# %%
points_of = [(kind, one) for kind, runs in front.items() for one in runs]
figures.scatter(
    [one.l0 for _, one in points_of], [one.explained_variance for _, one in points_of],
    groups=[kind for kind, _ in points_of], joined=True,
    xlabel="active units a token (L0)", ylabel="explained variance (held out)",
    title="What each kind makes of its units",
)  # fmt: skip

# %% [markdown]
# Read off what each kind explains at sixteen active units, on the straight line between its runs.
# And ask by which *one factor* all its activations should be multiplied, to make the error
# smallest. (The length of the reconstruction would not do: whatever leaves something out is short.)
# The L1 penalty pays for size, and gets less of it than is right. (On SmolLM2 so short a training
# does not bring JumpReLU up to the others.)


# %%
def at_l0(runs, name, l0=16):
    """What a kind reaches at a number of active units, interpolated over the logarithm of L0."""
    few, many = sorted(runs, key=lambda one: one.l0)
    share = math.log(l0 / few.l0) / math.log(many.l0 / few.l0)
    return (1 - share) * getattr(few, name) + share * getattr(many, name)


# %%
off = [kind for kind, (one, two) in front.items() if (one.l0 - 16) * (two.l0 - 16) > 0]
if off:  # on another model other penalties may be due
    for name in ("kinds.front", "kinds.shrinkage"):
        claim.not_here(name, f"The runs of {off[0]} do not enclose sixteen active units.")
else:
    explained, factors = (
        {kind: at_l0(runs, name) for kind, runs in front.items()}
        for name in ("explained_variance", "rescale")
    )
    claim("kinds.front", min(explained[kind] for kind in explained if kind != "relu"),
          control=explained["relu"])  # fmt: skip
    claim("kinds.shrinkage", factors["relu"],
          control=max(factors[kind] for kind in factors if kind != "relu"))  # fmt: skip

# %% [markdown]
# ## 6. What does the model lose?
#
# From here on we want a good dictionary, not a quick one. `pocket` brings some that were trained
# for longer ([their cards](../data/sae/README.md)); for another model a quick one has to do.
#
# Variance is not what the model cares about. **Splice** the SAE in: replace the activation by its
# reconstruction and let the model go on. By hand, with BOS left alone, since no SAE here was
# trained on it:


# %%
from importlib.resources import files


def dictionary(name, recipe, acts=stream):
    """A committed SAE of pocket; for another model one that is trained here and now."""
    if mi.model_id(model) == "pocket":
        return mi.sae.load(files("mi_data") / "sae" / name, device=model.cfg.device)
    return mi.sae.train(mi.sae.start(acts, recipe), progress=False).sae()


name = f"resid_post_{middle}"
sae = quick if mi.model_id(model) != "pocket" else dictionary(name, recipe)
explains = mi.sae.fidelity(sae, fresh).explained_variance
print(
    f"explained variance: the quick one {quality.explained_variance:.3f}, this one {explains:.3f}"
)


# %%
def logits_with(change, at=place):
    """Logits with `change` of the activations at a place instead of them, BOS left alone."""
    edit = {at: lambda act, where: change(act)}
    with mi.interventions.intervene(model, edit, positions=~spare), torch.no_grad():
        return model(held_out)


def loss_of(logits):
    """Mean next-token loss on the held-out text, in nats."""
    return mi.metrics.loss(logits, held_out).mean().item()


clean, spliced = logits_with(lambda act: act), logits_with(sae)
losses = mi.sae.splice_losses(model, sae, held_out)
assert abs(loss_of(spliced) - losses.spliced) < 1e-4

# %% [markdown]
# The loss rises. How bad is that? Compare with knocking the site out: by zero, or
# better by its mean. And with principal components, as many as explain as much of the variance as
# the SAE does: is what the SAE keeps what the model uses?

# %%
numbers = int((by_count < explains).sum()) + 1
P = V[:numbers].T @ V[:numbers]
kept = loss_of(logits_with(lambda act: mean + (act - mean) @ P)) - losses.clean
print(f"added nats: {losses.added:.3f} by the splice, {kept:.3f} by the components; "
      f"recovered of what mean ablation costs: {losses.recovered('mean'):.3f}")  # fmt: skip
mi.figures.bars(
    [losses.added, kept, losses.mean - losses.clean, losses.zero - losses.clean],
    ["spliced", f"{numbers} components", "mean-ablated", "zero-ablated"],
    ylabel="added loss (nats)", title="Most of what the site carries survives the splice",
    subtitle=f"{mi.model_id(model)}, {mi.sites.hook_name(place)}",
)  # fmt: skip

# %% [markdown]
# On pocket the components that explain as much cost the model much less: that its units are few
# does not make the SAE keep more of what the model uses. (On SmolLM2 they cost as much.) What is
# lost is in the **error** $x - \hat x$, and nowhere else: put the error back, and the model is what
# it was. (Is it noise? Appendix A asks.)
#
# The share that is "recovered" flatters: it divides by the cost of losing the stream, without which
# *nothing* works. A sterner measure asks which model has that loss without any splice: one trained
# with what fraction of the compute [@gao2024scaling]? Here is one that needs no other models. How
# many nats does it cost to take out one whole MLP? Dropping the SAE in costs as much as losing
# which? Look first at the MLP of the SAE's own layer. (The first is left out of the picture: on
# pocket, nothing works without it. The last only reads the answer out.)


# %%
def added_without(layer):
    """Nats that it costs to put the mean in place of one MLP's output."""

    def average(act):
        return act[~spare].mean(0).expand_as(act)

    return loss_of(logits_with(average, ("mlp_out", layer))) - losses.clean


n_layers = model.cfg.n_layers
some = range(1, n_layers, max(1, n_layers // 4))  # not all in a deep model
layers = sorted({*some, middle, n_layers - 1})
without = {f"L{layer} MLP gone": added_without(layer) for layer in layers}

# %%
claim("splice.cost", losses.added, control=without[f"L{middle} MLP gone"])
figures.bars(
    [losses.added, *without.values()], ["SAE spliced in", *without], horizontal=True,
    xlabel="added loss (nats)", title="What splicing costs, beside whole MLPs",
)  # fmt: skip

# %% [markdown]
# ## 7. Against the truth
#
# Here is the yardstick that published SAEs lack. Of the words that matter the generator says what
# they are: the subject of a fact, the one who gives, a word of praise. And of some texts it says
# what holds from some word on, as "sentiment=good". For each label take the unit that detects it
# best on half of the texts, and report on the others its F1, the harmonic mean of precision and
# recall. Beside it: the best neuron of this layer or an earlier one, the best principal direction,
# the best of as many random directions as the SAE has units, and nearness to the best of as many
# *clusters* of activations. As a floor, what the text alone gives: the best single *token*. As a
# ceiling, a probe that was *told* the labels: ridge regression on the first half of the texts, its
# outputs scored as if they were units. Look at the SAE's bar against clusters and neurons, for
# labels of words and of texts.

# %%
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
n_each = mi.models.by_size(model, 40, 20)
samples = [g.sample(kind, seed, "test") for seed in range(n_each) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
lowest = mi.models.by_size(model, 0, middle)  # of a large model this layer's neurons alone
sites = place, *(("mlp_post", layer) for layer in range(lowest, middle + 1))
x, *written = (mi.sae.read_tokens(model, at, labelled.tokens, labelled.real) for at in sites)
centred = x - x.mean(0)
random_W = torch.randn(x.shape[1], sae.d_sae, generator=torch.Generator().manual_seed(30)).to(x)
principal = torch.linalg.svd(centred, full_matrices=False)[2].T
words = labelled.tokens[labelled.real].unique(return_inverse=True)[1]

# %%
marks = torch.stack([labelled.flat(label) for label in labelled.labels], 1).to(x)
first = (labelled.real.nonzero()[:, 0] < len(samples) // 2).to(x.device)


def told(acts):
    """Outputs of a probe for each label, [token label], fitted on the first half of the texts."""
    offset = acts - acts[first].mean(0)
    square = offset[first].T @ offset[first] + 10 * torch.eye(acts.shape[1]).to(acts)
    return offset @ torch.linalg.solve(square, offset[first].T @ marks[first])


# %%
k_means = KMeans(sae.d_sae, init="random", n_init=1, max_iter=5, random_state=0)
centres = torch.tensor(k_means.fit(sample.cpu().numpy()).cluster_centers_).to(x)
views = {
    "SAE unit": sae.encode(x),
    "cluster": -torch.cdist(x, centres),
    "neuron": torch.cat(written, 1),
    "principal direction": torch.cat([centred @ principal, -centred @ principal], 1),
    "random direction": centred @ random_W,
    "token": torch.nn.functional.one_hot(words).to(x),
    "probe, told the labels": told(x),
}
scores = {view: mi.sae.best_units(acts, labelled) for view, acts in views.items()}

# %%
names = [row["label"] for row in scores["SAE unit"]]
f1 = {view: torch.tensor([row["f1"] for row in rows]) for view, rows in scores.items()}
mi.figures.table(
    [{"label": label, **{view: values[i] for view, values in f1.items()},
      "precision": row["precision"], "recall": row["recall"], "AUROC": row["auroc"]}
     for i, (label, row) in enumerate(zip(names, scores["SAE unit"], strict=True))],
    title="F1 on held-out texts; precision, recall and AUROC of the SAE unit", search=True,
)  # fmt: skip

# %%
mean_f1 = {view: values.mean().item() for view, values in f1.items()}
directions = ("neuron", "principal direction", "random direction")
claim("truth.rivals", mean_f1["SAE unit"], control=max(mean_f1[view] for view in directions))
claim("truth.ceiling", mean_f1["probe, told the labels"], control=mean_f1["SAE unit"])
of_text = torch.tensor(["=" in label for label in names])
mi.figures.bars(
    {"labels of words": [values[~of_text].mean() for values in f1.values()],
     "labels of texts": [values[of_text].mean() for values in f1.values()]},
    list(f1), horizontal=True, xlabel="F1, mean over labels",
    title="Who detects what the author meant?",
)  # fmt: skip

# %% [markdown]
# On pocket the best units are ahead of the best neurons and of other directions. Of the clusters
# they are ahead for texts; for words hardly. And the probe stays ahead of all: some labels a unit
# marks nearly perfectly, others only in part, though a probe reads them without trouble. Did the
# SAE leave out what the probe reads? The same probe, on the reconstruction, and on nothing but the
# **error**:

# %%
kept, left_out = (
    torch.tensor([row["f1"] for row in mi.sae.best_units(told(part), labelled)]).mean()
    for part in (sae(x), x - sae(x))
)
claim("truth.error", kept, control=left_out)

# %% [markdown]
# On pocket the reconstruction holds nearly all of it. It is there, but spread over several units.
# The error holds much of it *as well*: a good part of an SAE's error is a linear function of the
# activation [@engels2024dark]. What a probe finds there need not be missing elsewhere.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: a unit as a detector
# A unit says *yes* where its activation is above zero. Return its precision, recall and F1.
# A unit that never fires scores zero in all three.

# %% [markdown] tags=["hint"]
# Precision: of all that it says yes to, how much is right. Recall: of all that is right, how much
# it says yes to.


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
# nearest direction of the other. How much comes back depends on how near is near enough. For
# comparison random directions; and a case in which there *is* one right dictionary, and no more
# units than it needs: the forty directions of section 2, found twice.

# %%
again = dictionary(f"{name}_seed_1", replace(recipe, seed=1))
alive = mi.sae.fidelity(sae, fresh).frequency > 1e-3
fits = mi.sae.Recipe("batchtopk", d_sae=40, k=4, steps=400, batch=256, lr=1e-2)
pair = [mi.sae.start(mi.sae.Vectors(points), replace(fits, seed=seed)) for seed in (0, 1)]
one, other = (mi.sae.train(run, progress=False).sae().W_dec for run in pair)
both = {
    "this SAE": mi.sae.matched_cosine(sae.W_dec[alive], again.W_dec),
    "random directions": mi.sae.matched_cosine(sae.W_dec[alive], random_W.T),
    "SAE of the toy": mi.sae.matched_cosine(one, other),
}
came_back = [
    {"found again": f"cosine above {cut}"}
    | {name: (cosine > cut).float().mean() for name, cosine in both.items()}
    for cut in (0.5, 0.7, 0.9)
]

# %%
claim("stable.shared", came_back[1]["this SAE"], control=came_back[1]["SAE of the toy"])
figures.table(came_back, title="The share of units that another seed finds as well")

# %% [markdown]
# On pocket about half of the units are found again at a cosine of seven tenths, and few of them
# nearly exactly; in the toy nearly all are found again, and most of them nearly exactly. A study of
# a large model paired units one to one, by encoder and decoder, and found three in ten shared
# between two seeds [@paulo2025seeds]; ours may all take the same neighbour, so it is the milder
# count. What comes back from another start does not hang on the start, though it may on the recipe,
# which both share; what does not may be one of many equally good ways to cut them up. So a
# dictionary is
# *a* way to take the activations apart, not a list of what the model has; a report on a single unit
# should say whether it comes back.
#
# ### Width: splitting
#
# In a wider dictionary one unit may be replaced by several, each for a special case (**feature
# splitting** [@bricken2023monosemanticity]). Count, for each unit of the narrow one, the units of
# the wide one that fire hardly ever without it. The control asks the same of two dictionaries of
# *equal* width: units that merely differ from one training to the next are no splitting. (It is no
# control for number: the wide one has several times as many units to be found inside, and a narrow
# unit fires more often. A part of what you see is that.)

# %%
narrow = dictionary(f"{name}_narrow", replace(recipe, d_sae=recipe.d_sae // 2))
wide = dictionary(f"{name}_wide", replace(recipe, d_sae=2 * recipe.d_sae))


def inside(one, other):
    """For each unit of `one`, how many of `other` fire (nearly) only where it does."""
    few, many = (part.encode(x) > 0 for part in (one, other))
    few, many = few[:, few.float().mean(0) < 0.1].float(), many[:, many.sum(0) >= 5].float()
    return ((many.T @ few) / many.sum(0)[:, None] > 0.9).sum(0).float()


splits, alike = inside(narrow, wide), inside(sae, again)
claim("width.splitting", (splits >= 2).float().mean(), control=(alike >= 2).float().mean())
figures.histogram(
    {"narrow, wide": splits, "equal width, another seed": alike}, bins=int(splits.max()) + 1,
    title="A unit of the narrow SAE, several of the wide one",
    xlabel="units of the other SAE that fire only where it does",
)  # fmt: skip

# %% [markdown]
# Units that fire on more than a tenth of the tokens are left out: what fires nearly always contains
# everything.
#
# ### Absorption
#
# Special units have a price: where one of them fires, the general one may stop. It has holes that
# its meaning does not have (**absorption** [@chanin2024absorption]). To see why, we build a world
# again, now with directions that depend on each other. Five *children* that come only with their
# *parent*, as "says Mary" comes only with "says a name". For comparison, five that are as rare but
# come on their own. All at right angles, all of strength one. Where does the unit fire whose row is
# nearest to the parent?

# %%
generator = torch.Generator().manual_seed(20)
basis = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0][:20]


def families(often):
    """Ten parents and ten children, [point, 10] each; `often`: a child's share of its parent's."""
    chance = torch.tensor([0.15] * 10 + [often] * 5 + [0.15 * often] * 5)
    drawn = torch.rand(8000, 20, generator=torch.Generator().manual_seed(21))
    parent, child = (drawn < chance).split(10, dim=1)
    return parent, child & torch.cat([parent[:, :5], torch.ones_like(parent[:, 5:])], dim=1)


def learned(parent, child):
    """The points of such a world, and an SAE with an L1 penalty that was trained on them."""
    world = torch.cat([parent, child], dim=1).float() @ basis
    penalised = mi.sae.Recipe("relu", l1=2.0, d_sae=48, steps=400, batch=256, lr=1e-2)
    return world, mi.sae.train(mi.sae.start(mi.sae.Vectors(world), penalised), progress=False).sae()


# %%
parent, child = families(0.3)
family, absorber = learned(parent, child)
cosines = absorber.W_dec @ basis.T  # [unit direction]
general, special = cosines[:, :10].argmax(0), cosines[:, 10:].argmax(0)
on = absorber.encode(family)[:, general] > 0
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
towards_parent, towards_child = (cosines[special, part] for part in torch.arange(20).split(10))
claim("absorption.child", towards_parent[:5].mean(), control=towards_child[:5].mean())

# %% [markdown]
# The parent's unit is perfect, except where the child is. There the child's unit does the parent's
# work: its row points to the parent as well, though less than to the child. The penalty made it so.
# Parent and child by two units cost $1 + 1$, by one unit along the diagonal $\sqrt 2$. As the child
# never comes alone, that unit never errs. The reconstruction is as good, the sparsity better, and
# the unit "parent" no longer means parent. No number of sections 4 to 6 would have told us.
# Appendix C looks for the same in the SAE of the language model.
#
# ## 9. An SAE of an untrained model
#
# An SAE finds *something* in any activations, also in those of a model that knows nothing: tokens
# and positions are already there. In one study the units of random transformers scored as
# interpretable as those of trained ones [@heap2025random]. Here is the same architecture with
# weights drawn anew, and an SAE of it. What detects our labels there? Its units, and, to be
# generous, a probe that is told them:

# %%
nobody = mi.untrained(model)
empty = dictionary(f"{name}_untrained", recipe, mi.sae.Activations(nobody, place, tokens[:64]))
x0 = mi.sae.read_tokens(nobody, place, labelled.tokens, labelled.real)
empty_f1, probe_f1 = (torch.tensor([row["f1"] for row in mi.sae.best_units(acts, labelled)])
                      for acts in (empty.encode(x0), told(x0)))  # fmt: skip
claim("truth.trained_model", mean_f1["SAE unit"], control=probe_f1.mean())
gained = dict(zip(names, f1["SAE unit"] - probe_f1, strict=True))
figures.scatter(
    torch.cat([empty_f1, probe_f1]), f1["SAE unit"].repeat(2), labels=names * 2, identity=True,
    groups=["its SAE's unit"] * len(names) + ["a probe, told the labels"] * len(names),
    xlabel="F1, untrained model", ylabel="F1, SAE of the trained model",
    title="Above the line: better than in an untrained model",
)  # fmt: skip

# %%
empty_fresh = mi.sites.read(nobody, held_out, [place])[place][~spare]
unexplained = [1 - mi.sae.fidelity(one, acts).explained_variance
               for one, acts in ((empty, empty_fresh), (sae, fresh))]  # fmt: skip
print({"untrained": round(unexplained[0], 3), "trained": round(unexplained[1], 3)})
claim("truth.untrained_explains", *unexplained[:1], control=unexplained[1])

# %% [markdown]
# On pocket the untrained model's SAE leaves *less* of the variance unexplained than the trained
# one's does. So explained variance is no evidence that we found what a model has *learned*. The
# labels are. (The small dictionary of an untrained SmolLM2 leaves more.)

# %% [markdown] short=true
# ## Summary
#
# - An SAE is two matrices and a way to cut. The kinds differ in what they cut and what they pay
#   for.
# - Where the world is a sparse sum of independent directions, and not too many meet, it finds them;
#   so do clusters. Where one comes only with another, it hides one in the other.
# - Explained variance, L0 and dead units describe it; the loss that splicing adds judges it, in
#   nats and beside what other damage costs. Whether the error is worse than noise depends on the
#   noise (appendix A).
# - Against labels that are known, pocket's units beat neurons, principal components and random
#   directions, and for words hardly beat clusters; a probe that is told the label stays ahead.
#   Report floor and ceiling.
# - Another seed finds only a part of the units again; a wider SAE splits what a narrow one has.
# - Explained variance says nothing of what a model learned: an SAE of an untrained pocket explains
#   more.
#
# ## Where to read on
#
# - Dictionaries of language models: [@bricken2023monosemanticity; @cunningham2023sparse]. Scaling
#   and TopK: [@gao2024scaling]. A benchmark of many measures: [@karvonen2025saebench].
# - What a unit means, and what it does: [notebook 11](11_reading_features.ipynb).

# %% [markdown]
# ## Appendix A: is the error noise?
#
# The error is small in length. Is it noise? Add noise of exactly the same length to every
# activation instead. If the error were noise, this would move the model's predictions as far. We
# measure how far by the mean KL divergence from the clean predictions, which sees every change; the
# loss sees only those that concern the token that came.
#
# But *which* noise? Five kinds: the same in all directions; with the covariance of the error; the
# error of another token; with the covariance of the activations; and steps towards another token's
# activation, which is where the model is used to going.

# %%
generator = torch.Generator().manual_seed(0)
error, offset = fresh - sae(fresh), fresh - fresh.mean(0)
order = torch.randperm(len(fresh), generator=generator)
other = torch.empty_like(order).scatter(0, order, order.roll(1))  # never a token itself
isotropic = torch.randn(fresh.shape, generator=generator).to(fresh)
like_error, like_acts = (
    isotropic @ torch.linalg.cholesky(part.T.cov() + 1e-4 * torch.eye(part.shape[1]).to(part)).T
    for part in (error, offset)
)
noises = {
    "all directions alike": isotropic, "error's covariance": like_error,
    "another token's error": error[other], "activations' covariance": like_acts,
    "towards another token": fresh[other] - fresh,
}  # fmt: skip


# %%
def with_noise(direction):
    """Logits with vectors as long as the SAE's error, of these directions, added."""
    noise = torch.zeros_like(held)
    noise[~spare] = direction / direction.norm(dim=-1, keepdim=True) * error.norm(dim=-1)[:, None]
    return logits_with(lambda act: act + noise)


def divergence(logits):
    """Mean KL divergence from the clean predictions, in nats."""
    p, q = clean[~spare].log_softmax(-1), logits[~spare].log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


against = {name: divergence(spliced) / divergence(with_noise(d)) for name, d in noises.items()}
figures.bars(
    list(against.values()), list(against), horizontal=True,
    xlabel="KL divergence of the splice, in that of the noise",
    title="Worse than some noise, milder than other",
)  # fmt: skip

# %%
claim("splice.error_is_not_noise", against["all directions alike"],
      control=against["activations' covariance"])  # fmt: skip

# %% [markdown]
# On pocket the error moves the predictions further than noise in random directions does. That was
# once called pathological, for SAEs of GPT-2 small [@gurnee2024errors]. But random directions are
# those that the model cares least about. Noise that is made like the activations moves them about
# as far; with noise of that kind nothing pathological was left [@lee2024sensitive]. (The error of
# SmolLM2's small dictionary is worse than that noise as well. Steps towards another activation take
# the token's own content away, and are no fair baseline.) So say *which* noise. And leave the same
# tokens alone in both: on BOS the SAE's error is huge, and noise of that length is no fair control.

# %% [markdown]
# ## Appendix B: what is at stake
#
# The same share of the variance can mean very different things. Here is an SAE of what the middle
# layer's *MLP* writes. Compare what the two explain, and what is at stake: what mean ablation costs
# at either site.

# %%
mlp_place = ("mlp_out", middle)
mlp_sae = dictionary(f"mlp_out_{middle}", recipe, mi.sae.Activations(model, mlp_place, tokens[:64]))
mlp_fresh = mi.sites.read(model, held_out, [mlp_place])[mlp_place][~spare]
mlp_added = loss_of(logits_with(mlp_sae, mlp_place)) - losses.clean
stakes = losses.mean - losses.clean, without[f"L{middle} MLP gone"]
sites = (sae, fresh, losses.added, stakes[0]), (mlp_sae, mlp_fresh, mlp_added, stakes[1])
rows = [
    {"site": one.hook, "explained variance": mi.sae.fidelity(one, acts).explained_variance,
     "spliced (nats)": added, "mean-ablated (nats)": stake}
    for one, acts, added, stake in sites
]  # fmt: skip
figures.table(rows, title="What is at stake at two sites")

# %%
claim("splice.stakes", stakes[1], control=stakes[0])

# %% [markdown]
# Where next to nothing is at stake, "loss recovered" divides one tiny number by another. Report the
# nats.
#
# ## Appendix C: is there absorption in the large SAE?
#
# First set aside the label's own units, *all* of them, for it may have been split among several:
# those that, one after another, make "one of these fires" a better detector. Then look at the
# **holes**: the label is there, a probe says so, and none of them fires. Does another unit stand
# in? Those who found absorption ablate units to see [@chanin2024absorption]; a later benchmark
# takes the one that writes most along the probe's direction, and asks that it do a good part of the
# *work*, four tenths of the probe's score [@karvonen2025saebench]. We ask that of the holes, and,
# to see whether any other unit of this SAE ever does as much, of the tokens on which the label's
# own units do fire. We add a question: is what stands in *precise*, or does it fire on much else?
# (Notebook 24 writes the measure out by hand.)


# %%
def absorbed(x, acts, W_dec, y, fit):
    """Tokens with a label; holes, those in which one unit works, the sum of its precision there;
    tokens without a hole, and those of them where one other unit works. Units, probe and threshold
    are chosen on the tokens `fit`, all is counted on the others."""
    found = mi.sae.absorption(acts, W_dec, x, y, fit, mi.sae.fit_probe(x[fit], y[fit]))
    hole, works = found.hole, found.share > 0.4
    counts = hole, found.absorbed(), found.absorbed() * found.precision, ~hole, ~hole & works
    return torch.stack([(y & ~fit).sum().float(), *(part.sum().float() for part in counts)])


# %% [markdown]
# A measure must find the thing where it was built. So we ask the same of families as above, with
# children so rare that they do not pass for a split.

# %%
rare = families(0.05)
toy, toy_sae = learned(*rare)
fit = torch.arange(len(toy)) % 2 == 0
seen = toy, toy_sae.encode(toy), toy_sae.W_dec
found = {f"toy family {i + 1}": absorbed(*seen, rare[0][:, i], fit) for i in range(5)}
seen = x, views["SAE unit"], sae.W_dec
found |= {name: absorbed(*seen, labelled.flat(name).to(x.device), first) for name in names}
figures.bars(
    {"holes": [n[1] / n[0] for n in found.values()],
     "holes in which one unit does the work": [n[2] / n[0] for n in found.values()]},
    list(found), horizontal=True, xlabel="share of the label's tokens (held out)",
    title="Holes, and those in which one unit does the work",
)  # fmt: skip

# %%
in_toy, in_model = (torch.stack(rows).sum(0) for rows in
                    (list(found.values())[:5], list(found.values())[5:]))  # fmt: skip
claim("absorption.none_here", in_model[3] / in_model[2], control=in_toy[3] / in_toy[2])
print(f"one unit works in {in_model[2] / in_model[1]:.2f} of the holes, and on "
      f"{in_model[5] / in_model[4]:.2f} of the tokens where the label's units fire")  # fmt: skip

# %% [markdown]
# In the toy the measure finds what we built in, if not in every family. On pocket by the
# benchmark's rule about half of the holes are absorbed; where the label's own units do fire,
# another unit does as much far less often. But an absorber, as in the toy, is a *child*: where it
# fires, the label holds. What stands in here fires mostly where the label does not hold: the label
# is spread over units that do other work as well. So these holes are hardly absorption, and "the
# unit did not fire" does not mean "the feature was not there", for more than one reason.

# %% [markdown]
# ## Appendix D: save, share, and open what others trained
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


# %%
claim.table()
