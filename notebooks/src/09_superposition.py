# ---
# title: Superposition
# minutes: 75
# ---

# %% [markdown]
# **The question.** A model seems to know far more things than it has neurons or dimensions. How can
# many features live in few dimensions, when does it pay, and how do we tell that it happened?
#
# **You need** the residual stream and directions in it
# ([notebook 01](01_residual_stream.ipynb)), and dot products.
#
# **You will be able to**
#
# - train toy models that put features in superposition, and say when they do and when not;
# - measure how much of a dimension a feature has, and what the others do to it;
# - test four properties of a representation, from weak to strict, on a toy and on a language model;
# - tell a privileged basis from an arbitrary one, and a bottleneck from a layer that computes;
# - find a direction with a probe, with controls, and show that the model *uses* it.

# %% [markdown]
# ## 1. Two features in one number
#
# Let there be two features and one number to keep both. Give them opposite directions, $+1$ and
# $-1$; read each back along its own direction, and cut what is negative. Look at the three inputs:
# the first feature alone, the second alone, both.

# %%
W = torch.tensor([[1.0], [-1.0]])  # [feature, d_hidden]
x = torch.tensor([[0.75, 0.0], [0.0, 0.5], [0.75, 0.5]])
hidden = x @ W
recovered = (hidden @ W.T).relu()
rows = [
    {"input": a.tolist(), "hidden": h.item(), "recovered": r.tolist()}
    for a, h, r in zip(x, hidden, recovered, strict=True)
]
mi.figures.table(rows, title="Two features share one number, as long as they do not meet")

# %% [markdown]
# Alone, each is recovered without any error. Together they cancel. So it is a bargain if they
# rarely meet: if features are **sparse**. And it needs the ReLU, which cuts the ghost that one
# feature leaves on the other's read-out. Storing more features than there are dimensions, in
# directions that are not orthogonal, is called **superposition** [@elhage2022superposition].
#
# The helper does the same for many models at once. They agree.

# %%
by_hand = mi.toy_models.Bottleneck(W[None], torch.zeros(1, 2), torch.zeros(1), linear=False)
assert torch.equal(by_hand(x[None])[0], recovered)

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 1: the loss of a toy model
# Return the loss of one model: squared errors of the reconstruction `relu(x @ W @ W.T + b)`,
# weighted with each feature's importance, summed over features, mean over the batch.

# %% [markdown] tags=["hint"]
# The importance multiplies the *squared* error of its feature. Sum over the last axis before you
# take the mean.


# %% tags=["exercise"]
def toy_loss(x, W, b, importance):
    """x: [batch feature]; W: [feature d_hidden]; b, importance: [feature]  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def toy_loss(x, W, b, importance):
    recovered = (x @ W @ W.T + b).relu()
    return (importance * (recovered - x) ** 2).sum(-1).mean()


# %% tags=["check"]
check.toy_loss(toy_loss)

# %% [markdown]
# ## 2. When does it pay? A grid of worlds
#
# Five features, two dimensions. *Density* is the probability that a feature is there. We train one
# model for every density, all side by side in one batched product, and keep the best of a few
# tries: small models get stuck. The control is the same model without the ReLU, which can do no
# more than a principal component analysis.

# %%
density = torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
world = density[:, None].expand(-1, 5)
importance = (0.9 ** torch.arange(5)).expand(len(density), -1)
toys = mi.toy_models.train_bottleneck(world, 2, importance=importance, tries=3, steps=1000)
linear = mi.toy_models.train_bottleneck(world, 2, importance=importance, linear=True, steps=600)

# %%
names = [f"density {p:g}" for p in density]
mi.figures.vectors(
    toys.W, facets=names, labels=[f"feature {j}" for j in range(5)],
    title="The rarer the features, the more of them share the plane",
)  # fmt: skip

# %% [markdown]
# On the left all features are always there: the two most important ones take a dimension each, and
# the rest is given up. Further on come opposite pairs, as in section 1, and at last all five, at
# even angles: a pentagon. Now the matrix $W W^T$ at both ends: the diagonal says how well a
# feature comes back, the rest what it does to the others.

# %%
mi.figures.heatmap(
    (toys.W @ toys.W.mT)[[0, -1]], facets=[names[0], names[-1]], xlabel="feature", ylabel="feature",
    title="Dense features stand apart, sparse ones overlap", colorbar="dot product",
)  # fmt: skip

# %% [markdown]
# How many features does a dimension hold? A feature that is kept has a direction of about length
# one. So add up the squared lengths, and divide by the dimensions. The linear model can share a
# dimension out among features, but gets about one in all.

# %%
per_dimension = {
    name: some.W.square().sum((-2, -1)) / some.W.shape[-1]
    for name, some in {"with ReLU": toys, "linear": linear}.items()
}
mi.figures.lines(
    per_dimension, x=names, ylabel="features per dimension",
    title="More features than dimensions, if they are sparse and there is a ReLU",
)  # fmt: skip

# %%
claim("toy.sparse", per_dimension["with ReLU"][-1], control=per_dimension["with ReLU"][0])
claim("toy.needs_relu", per_dimension["with ReLU"][-1], control=per_dimension["linear"][-1])


# %% [markdown]
# Move through the densities yourself.


# %%
def show_world(density):
    """One toy model's directions."""
    i = names.index(f"density {density:g}")
    return mi.figures.vectors(toys.W[i], title=f"Five features at density {density:g}")


mi.figures.explore(
    show_world, start={"density": 0.02}, density=[round(p, 3) for p in density.tolist()]
)

# %% [markdown]
# ## 3. A phase diagram
#
# Is the change gradual? The smallest case has two features and one dimension. Vary how rare they
# are, and how important the second is relative to the first. Each square below is a model of its
# own. The left panel shows how long the second feature's direction is. The other two mark the
# models that keep both features in their one dimension, with the ReLU and without. Look for
# borders.

# %%
grid = 8
rare = torch.logspace(0, -1.7, grid)
relative = torch.logspace(-1, 1, grid)
worlds = rare.repeat_interleave(grid)[:, None].expand(-1, 2)
weights = torch.stack([torch.ones(grid * grid), relative.repeat(grid)], dim=-1)
phases = mi.toy_models.train_bottleneck(worlds, 1, importance=weights, tries=4, steps=600)
pca = mi.toy_models.train_bottleneck(worlds, 1, importance=weights, linear=True, steps=400)

# %%
shared = {
    name: mi.toy_models.represented(some.W, least=0.8).all(-1).float()
    for name, some in {"with ReLU": phases, "linear": pca}.items()
}
counted = {name: f"both, {name}: {int(kept.sum())} of {grid**2}" for name, kept in shared.items()}
length = phases.W[:, 1].norm(dim=-1).clamp_max(1.2)
mi.figures.heatmap(
    torch.stack([length, shared["with ReLU"], shared["linear"]]).view(3, grid, grid), center=None,
    facets=["length of feature 2", *counted.values()],
    x=[f"{r:.2g}" for r in relative], y=[f"{p:.2g}" for p in rare],
    xlabel="importance of feature 2", ylabel="density", colorbar="length; 1: yes",
    title="Sparse features share the dimension, dense ones do not, linear models never",
)  # fmt: skip

# %%
sparse_half = slice(grid * grid // 2, None)
claim("phase.sparse", shared["with ReLU"][sparse_half].mean(), control=shared["linear"].mean())

# %% [markdown]
# Three regions: the second feature is ignored, or has the dimension for itself, or shares it with
# the first. The linear model knows the first two only. The borders are sharp, as between phases of
# matter [@elhage2022superposition].

# %% [markdown]
# ## 4. The price: interference, and shares of a dimension
#
# A feature with a direction of length one is **alone** if no other direction overlaps with it. The
# *dimensionality* of a feature divides its own squared length by all that lands on its direction:
#
# $$D_i = \frac{\lVert w_i \rVert^2}{\sum_j (\hat w_i \cdot w_j)^2}$$
#
# By hand: an opposite pair has $1 / (1 + 1)$, half a dimension each. Directions at the corners of a
# regular pentagon have two fifths each.


# %%
def seeded(seed):
    """A source of random numbers that a cell run again finds in the same state."""
    return torch.Generator().manual_seed(seed)


angle = torch.arange(5) * 2 * torch.pi / 5
pentagon = torch.stack([angle.cos(), angle.sin()], dim=-1)
naive = [(w @ w) / sum(((w / w.norm()) @ other) ** 2 for other in pentagon) for w in pentagon]
assert torch.allclose(torch.stack(naive), mi.toy_models.dimensionality(pentagon))
assert torch.allclose(torch.stack(naive), torch.tensor(0.4))

# %% [markdown]
# Training finds such shapes by itself. Here are three, four and five sparse, equally important
# features in a plane, with the share of each. Five make a **pentagon**, four two **pairs**.
# Three could make a **triangle**, with two thirds of a dimension each. But in a triangle any two
# that meet disturb each other; with one pair and one feature alone only the two of the pair do, and
# so training takes the pair. All these shapes use all the room.

# %%
shapes = torch.zeros(3, 5, 2)
for i, n in enumerate([3, 4, 5]):
    sparse = torch.full((1, n), 0.05)
    shapes[i, :n] = mi.toy_models.train_bottleneck(sparse, 2, tries=3, steps=600).W[0]
each = [mi.toy_models.dimensionality(shape)[: i + 3] for i, shape in enumerate(shapes)]
mi.figures.vectors(
    shapes, facets=[", ".join(f"{share:.2f}" for share in row) for row in each],
    title="Three, four and five features: all the room of the plane is used",
    subtitle="above each panel: the share of a dimension that every feature has",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: the dimensionality of every feature
# Do it without a loop, for the whole matrix. A feature whose direction is zero has dimensionality
# zero.

# %% [markdown] tags=["hint"]
# `(W / norms) @ W.T` holds every $\hat w_i \cdot w_j$; row $i$ belongs to feature $i$. Beware of
# the division by zero.


# %% tags=["exercise"]
def feature_dimensionality(W):
    """W: [feature d_hidden]  ->  [feature], each from 0 to 1."""
    raise NotImplementedError


# %% tags=["solution"]
def feature_dimensionality(W):
    norms = W.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    overlaps = ((W / norms) @ W.T) ** 2
    return (W**2).sum(-1) / overlaps.sum(-1).clamp_min(1e-9)


# %% tags=["check"]
check.feature_dimensionality(feature_dimensionality)

# %% [markdown]
# With more features the shares do not take any value: they sit on levels, those of regular bodies.
# Forty equally important features in ten dimensions, at several densities. Look for flat stretches.
# The control has directions of the same lengths, at random.

# %%
rates = torch.tensor([0.3, 0.2, 0.1, 0.05])
crowd = mi.toy_models.train_bottleneck(rates[:, None].expand(-1, 40), 10, steps=1200)
anyhow = torch.randn(crowd.W.shape, generator=seeded(1))
anyhow = anyhow / anyhow.norm(dim=-1, keepdim=True) * crowd.W.norm(dim=-1, keepdim=True)
shares = mi.toy_models.dimensionality(crowd.W).sort(dim=-1, descending=True).values
random_shares = mi.toy_models.dimensionality(anyhow).sort(dim=-1, descending=True).values

# %%
curves = {f"density {p:g}": row for p, row in zip(rates, shares, strict=True)}
mi.figures.lines(
    curves | {"random directions": random_shares[0]}, xlabel="feature, most to least",
    ylabel="share of a dimension", title="Features settle on levels, random directions do not",
)  # fmt: skip


# %%
def on_a_half(shares):
    """Of the features that got a direction, the share with half a dimension each."""
    kept = shares[shares > 0.05]
    return ((kept - 0.5).abs() < 0.02).float().mean()


claim("geometry.levels", on_a_half(shares[0]), control=on_a_half(random_shares[0]))

# %% [markdown]
# In the densest world of these all features that are kept stand in opposite pairs. In sparser ones
# they come closer, down to a quarter of a dimension each, and all forty have a place. In every
# world the shares **add up to the number of dimensions**: no room is wasted. Random directions
# waste some.

# %%
filled, wasted = (values.sum(-1) / crowd.W.shape[-1] for values in (shares, random_shares))
claim("geometry.filled", filled.min(), control=wasted.max())

# %% [markdown]
# And the price itself: how large is the error on inputs where one feature is active, and where two
# are? The sparsest toy of section 2 has all five features in the plane.

# %%
single = torch.eye(5)[None] * 0.75
pairs = torch.combinations(torch.arange(5))
double = torch.zeros(1, len(pairs), 5).scatter(2, pairs[None], 0.75)
sparsest = mi.toy_models.Bottleneck(toys.W[-1:], toys.b[-1:], toys.loss[-1:], linear=False)
alone, met = ((sparsest(x) - x).square().sum(-1).mean() for x in (single, double))
claim("interference.meeting", met, control=alone)

# %% [markdown]
# ## 5. Features that come together, features that never do
#
# Real features are not independent. Four features in two dimensions, in two pairs. In one world the
# members of a pair always come **together**; in the other, **never**.

# %%
together = {}
for pairing in ("correlated", "anticorrelated"):
    four = torch.full((5, 4), 0.1)
    trained = mi.toy_models.train_bottleneck(four, 2, pairing=pairing, tries=3, steps=800)
    together[pairing] = trained.W
mi.figures.vectors(
    torch.stack([W[0] for W in together.values()]), facets=list(together),
    labels=["pair 1", "pair 1", "pair 2", "pair 2"],
    title="Features that never meet may share a line",
)  # fmt: skip


# %%
def within_pairs(W):
    """Mean absolute cosine between the members of a pair, [instance]."""
    unit = W / W.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return (unit[:, 0::2] * unit[:, 1::2]).sum(-1).abs().mean(-1)


never, always = (within_pairs(together[p]).median() for p in ("anticorrelated", "correlated"))
claim("pairs.geometry", never, control=always)

# %% [markdown]
# Features that never meet do not disturb each other, and get opposite directions. Features that
# come together would, and are kept at right angles. So the angle between two directions says
# something about the data, and not about meaning alone.

# %% [markdown]
# ## 6. Four properties, from weak to strict
#
# "Features are directions" packs several statements. In order of strictness
# [@elhage2022superposition]:
#
# 1. **Decomposable**: the representation is made of parts that vary independently.
# 2. **Linear**: each part is a direction, and the parts are *added*.
# 3. **In superposition or not**: are there more directions than dimensions? Then $W W^T$ cannot be
#    inverted, and no linear map reads all features without error.
# 4. **Basis-aligned**: directions are the coordinates themselves, such as neurons.
#
# The test for the first two: cross two factors, say who and where, and look at every combination.
# If the parts are *added*, every vector is a "who" part plus a "where" part, and nothing is left
# for their interaction. The share of variance that the two parts explain is the classical two-way
# decomposition.
#
# First the toy, where we know $W$. The two factors are the values of two features. What is *stored*
# should pass. What is *recovered* should not: the ReLU makes one feature matter for the other.


# %%
def additive_share(grid):
    """grid [a, b, d_model]: share of the variance that a part for a plus a part for b explain."""
    centred = grid - grid.mean((0, 1))
    fitted = centred.mean(1, keepdim=True) + centred.mean(0, keepdim=True)
    return 1 - (centred - fitted).square().sum() / centred.square().sum()


one, other = divmod(int((toys.W[-1] @ toys.W[-1].T).argmin()), 5)  # the two that oppose most
values = torch.linspace(0, 1, 6)
crossed = torch.zeros(6, 6, 5)
crossed[..., one], crossed[..., other] = values[:, None], values[None]
stored = additive_share(crossed @ toys.W[-1])
after_relu = additive_share((crossed @ toys.W[-1] @ toys.W[-1].T + toys.b[-1]).relu())
claim("properties.toy_linear", stored, control=after_relu)

# %% [markdown]
# The sparse toy is in superposition: the rank of $W W^T$ is smaller than the number of features it
# represents.

# %%
rank = torch.linalg.matrix_rank(toys.W[-1] @ toys.W[-1].T, atol=0.1)
kept = mi.toy_models.represented(toys.W[-1]).sum()
print(f"{kept} features are represented, and the rank of W Wᵀ is {rank}")

# %% [markdown]
# Now the language model. *Decomposable and linear*: cross people and places in one template, and
# take the stream at the last word. The control puts the same vectors into shuffled cells.

# %%
people = ["John", "Mary", "Tom", "James", "Alice", "Bob"]
places = ["park", "shop", "station", "school", "office", "garden"]
sentences = [f"Then {a} and I went to the {b}" for a in people for b in places]
rows = [model.to_tokens(sentence)[0] for sentence in sentences]
ends = torch.stack([torch.tensor(len(row) - 1) for row in rows])
padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

# %%
cache = model.run_with_cache(padded, names_filter=lambda name: name.endswith("resid_post"))[1]
streams = torch.stack([cache["resid_post", i] for i in range(model.cfg.n_layers)])
streams = streams[:, torch.arange(len(rows)), ends].unflatten(1, (6, 6)).cpu()
mixed = streams.flatten(1, 2)[:, torch.randperm(36, generator=seeded(2))].unflatten(1, (6, 6))

# %%
additive = {
    "as they are": [additive_share(layer) for layer in streams],
    "cells shuffled": [additive_share(layer) for layer in mixed],
}
mi.figures.lines(
    additive, xlabel="layer", ylabel="share of variance",
    title="Who and where are added up", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("properties.additive", additive["as they are"][-1], control=additive["cells shuffled"][-1])

# %% [markdown]
# *In superposition*: the plainest features of a language model are its tokens, and there are many
# times more of them than dimensions. Can the stream after the embedding still tell which token it
# holds? Read every token along its own direction and take the largest. The control keeps a random
# sixteenth of the dimensions, which is too crowded.

# %%
W_E = model.W_E.cpu()
ids = torch.randperm(len(W_E), generator=seeded(3))[:400]
embedded = W_E[ids] + model.W_pos[5].cpu()
unit = W_E - W_E.mean(0)
unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(1e-6)
few = torch.randn(W_E.shape[1], W_E.shape[1] // 16, generator=seeded(4))
small = unit @ few / (unit @ few).norm(dim=-1, keepdim=True).clamp_min(1e-6)
right = ((embedded @ unit.T).argmax(-1) == ids).float().mean()
right_in_few = ((embedded @ few @ small.T).argmax(-1) == ids).float().mean()

# %%
print(f"{W_E.shape[0]} tokens in {W_E.shape[1]} dimensions")
claim("properties.superposition", right, control=right_in_few)

# %% [markdown]
# ## 7. A privileged basis
#
# Fourth property: are the coordinates special? In the MLP each coordinate goes through a
# non-linearity of its own, so neurons are a **privileged basis**: features have a reason to line
# up. In the residual stream nothing singles out coordinates, at least in principle.
#
# Features that line up with a coordinate make it *spiky*: mostly near zero, rarely large. The
# excess kurtosis measures that; it is zero for a Gaussian. The control is a random rotation, which
# destroys any alignment and nothing else. By hand on six numbers:

# %%
spiky = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 6.0])
z = (spiky - spiky.mean()) / spiky.std(correction=0)
print(f"excess kurtosis {(z**4).mean() - 3:.2f}")


# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: excess kurtosis of every coordinate
# The mean of the fourth power of the standardised values, minus 3. Standardise each coordinate over
# tokens, with the standard deviation that divides by $n$.

# %% [markdown] tags=["hint"]
# `std(0, correction=0)` divides by $n$. A coordinate that never changes should give zero, not NaN.


# %% tags=["exercise"]
def excess_kurtosis(acts):
    """acts: [token coordinate]  ->  [coordinate]."""
    raise NotImplementedError


# %% tags=["solution"]
def excess_kurtosis(acts):
    spread = acts.std(0, correction=0)
    z = (acts - acts.mean(0)) / spread.clamp_min(1e-9)
    return torch.where(spread > 0, (z**4).mean(0) - 3, 0.0)


# %% tags=["check"]
check.excess_kurtosis(excess_kurtosis)


# %%
def spikiness(acts):
    """Median excess kurtosis over coordinates."""
    z = (acts - acts.mean(0)) / acts.std(0, correction=0).clamp_min(1e-9)
    return ((z**4).mean(0) - 3).median()


def rotated(acts, seed=0):
    """The same activations in a random orthogonal basis."""
    noise = torch.randn(acts.shape[1], acts.shape[1], generator=torch.Generator().manual_seed(seed))
    return acts @ torch.linalg.qr(noise)[0]


# %% [markdown]
# The texts come with labels, which we use further down: for every token we know whether it is the
# subject, the receiver, a word of praise.

# %%
from mi_data.pocket import generator as g

kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, seed, "test") for seed in range(24) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
middle = model.cfg.n_layers // 2
sites = {"neurons": f"blocks.{middle}.mlp.hook_post",
         "residual stream": f"blocks.{middle}.hook_resid_post"}  # fmt: skip
with torch.no_grad():
    found = model.run_with_cache(labelled.tokens, names_filter=list(sites.values()))[1]
acts = {name: found[hook][labelled.real].cpu() for name, hook in sites.items()}

# %%
x = mi.toy_models.draw_features(torch.full((1, 5), 0.1), 4000, seeded(13))[0]
spaces = acts | {"toy bottleneck": x @ toys.W[-1], "toy features": x}
kurtosis = {
    "as it is": [spikiness(a) for a in spaces.values()],
    "rotated": [spikiness(rotated(a)) for a in spaces.values()],
}
mi.figures.bars(
    kurtosis, list(spaces), ylabel="median excess kurtosis",
    title="Neurons are spiky because they are neurons", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("basis.neurons", kurtosis["as it is"][0], control=kurtosis["rotated"][0])
gap = [abs(one - other) for one, other in zip(*kurtosis.values(), strict=True)]
claim("basis.stream", gap[1], control=gap[0])

# %% [markdown]
# Rotating makes a difference for neurons, and next to none for the stream. (Next to none:
# LayerNorm and Adam, which treat coordinates one by one, break the symmetry a little.) The toy
# agrees: its features are their own coordinates and lose most of their spikes when turned; its
# bottleneck does not care.

# %% [markdown]
# ## 8. Neurons with one meaning, neurons with several
#
# The labels let us grade neurons. For each label take the neuron that detects it best on half of
# the texts, and report its F1 on the other half. The control is a dictionary of as many *random*
# directions in the same space.

# %%
graded = mi.sae.best_units(acts["neurons"], labelled)
at_random = mi.sae.best_units(rotated(acts["neurons"]), labelled)
mi.figures.bars(
    {"best neuron": [row["f1"] for row in graded],
     "best of as many random directions": [row["f1"] for row in at_random]},
    [row["label"] for row in graded], xlabel="F1 on held-out texts", horizontal=True,
    title="Some labels have a neuron", subtitle=f"{mi.model_id(model)}, layer {middle}",
)  # fmt: skip

# %%
mean_f1 = [torch.tensor([row["f1"] for row in rows]).mean() for rows in (graded, at_random)]
claim("neurons.detect", mean_f1[0], control=mean_f1[1])

# %% [markdown]
# A **monosemantic** neuron fires for one thing; a **polysemantic** one for several that have
# nothing to do with each other. Take each neuron's strongest tokens, and ask how many kinds of
# text they come from. Below are the neuron with the fewest and the one with the most, each with
# its top contexts.

# %%
kind_of = torch.arange(len(samples)) % len(kinds)
text_of = labelled.real.nonzero()[:, 0].cpu()
top = acts["neurons"].topk(40, dim=0).indices
shares = torch.nn.functional.one_hot(kind_of[text_of[top]], len(kinds)).float().mean(0)
effective_kinds = 1 / shares.square().sum(-1)
busy = (acts["neurons"] > 0.5).float().mean(0) > 0.02
effective_kinds[~busy] = effective_kinds[busy].median()
pure, mixed_neuron = int(effective_kinds.argmin()), int(effective_kinds.argmax())


# %%
def contexts(neuron, count=6):
    """The texts of a neuron's strongest tokens, coloured by its activation."""
    texts = list(
        dict.fromkeys(text_of[acts["neurons"][:, neuron].argsort(descending=True)].tolist())
    )
    title = f"Layer {middle}, neuron {neuron}: {effective_kinds[neuron]:.1f} kinds of text"
    rows = [labelled.tokens[i][labelled.real[i]] for i in texts[:count]]
    values = [acts["neurons"][text_of == i, neuron] for i in texts[:count]]
    return mi.figures.tokens_coloured(
        [mi.heads.token_names(model, row) for row in rows], values, center=0.0,
        rows=[samples[i].kind for i in texts[:count]], title=title,
    )  # fmt: skip


contexts(pure)

# %%
contexts(mixed_neuron)

# %% [markdown]
# Two cautions. Top contexts are the tip: what a neuron does at medium strength may look quite
# different. And a neuron that serves several kinds of text may serve something they share, of
# which we did not think.

# %% [markdown]
# ## 9. Superposition of computation
#
# So far features were *stored*. Can they be *computed* in superposition, with fewer neurons than
# features? The task is the absolute value of each of ten features. Alone, a feature needs two
# neurons, one for each sign. We give ten neurons to ten features, in a dense world and in sparse
# ones.

# %%
rates = torch.tensor([1.0, 0.3, 0.1, 0.03])
absolute = mi.toy_models.train_absolute_value(rates[:, None].expand(-1, 10), 10, steps=1000)
per_neuron = mi.toy_models.features_per_neuron(absolute.W_in).sort(dim=-1).values
mi.figures.lines(
    {f"density {p:g}": row for p, row in zip(rates, per_neuron, strict=True)},
    xlabel="neuron, by rank", ylabel="features it reads, effectively",
    title="In sparse worlds a neuron serves several features",
)  # fmt: skip

# %%
claim("computed.neurons", per_neuron[-1].mean(), control=per_neuron[0].mean())

# %% [markdown]
# **Bottleneck** superposition and **neuron** superposition are different things. Rotate the hidden
# space of each toy, and rotate back what reads from it. The bottleneck does not notice: its
# coordinates mean nothing. The layer that computes breaks, since the ReLU sits *on* its
# coordinates.

# %%
x = mi.toy_models.draw_features(torch.full((1, 10), 0.1), 4000, seeded(10))
turn = torch.linalg.qr(torch.randn(10, 10, generator=seeded(5)))[0]
neurons = (x @ absolute.W_in[2:3] @ turn).relu() @ turn.T
computed = (neurons @ absolute.W_out[2:3] + absolute.b[2:3, None]).relu()
as_it_is = absolute(x.expand(len(rates), -1, -1))[2:3]
broken = (computed - x).square().sum() / (as_it_is - x).square().sum()
turn = torch.linalg.qr(torch.randn(2, 2, generator=seeded(6)))[0]
five = mi.toy_models.draw_features(torch.full((1, 5), 0.02), 4000, seeded(11))
turned = mi.toy_models.Bottleneck(sparsest.W @ turn, sparsest.b, sparsest.loss, linear=False)
same = (turned(five) - five).square().sum() / (sparsest(five) - five).square().sum()
claim("computed.rotation", broken, control=same)

# %% [markdown]
# ## 10. Is it linear? Probes, layer by layer
#
# The **linear representation hypothesis** says that models keep many features as directions
# [@park2023linear]. A probe tests half of it: can a direction *read* the feature? The feature is
# the number of a sentence's subject; we read at the last token, where the verb must agree, with a
# noun of the other number standing nearer.
#
# Three recipes for a direction, on the same training half:
#
# - the **difference of means** of the two classes;
# - **linear discriminant analysis** (LDA), which divides by what varies anyway;
# - **logistic regression**, which only cares about the border.
#
# Two controls: shuffled labels [@hewitt2019control], which show what a probe finds by chance, and
# an untrained model, which shows what the words alone give away.

# %%
pairs = mi.prompts.agreement(model, 160, seed=0)
plural = torch.tensor([label["number"] == "plural" for label in pairs.labels])
both = torch.cat([pairs.clean_tokens, pairs.corrupt_tokens])
y = torch.cat([plural, ~plural])
train = (torch.arange(len(y)) % len(pairs)) < len(pairs) // 2  # twins stay on one side


def streams_at_end(some_model):
    """The stream at the last token after every layer, [layer, prompt, d_model]."""
    names = [f"blocks.{i}.hook_resid_post" for i in range(some_model.cfg.n_layers)]
    cache = some_model.run_with_cache(both, names_filter=names, pos_slice=-1)[1]
    return torch.stack([cache[name].flatten(1) for name in names]).cpu()


# %%
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression


def directions(x, y):
    """Unit directions that point from singular to plural, one for each recipe."""
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    logistic = LogisticRegression(C=0.1, max_iter=500).fit(x, y)
    found = {
        "mean difference": x[y].mean(0) - x[~y].mean(0),
        "LDA": torch.tensor(lda.coef_[0], dtype=x.dtype),
        "logistic": torch.tensor(logistic.coef_[0], dtype=x.dtype),
    }
    return {name: d / d.norm().clamp_min(1e-9) for name, d in found.items()}


# %%
def accuracy(x, y, direction, train):
    """Held-out accuracy with the border half-way between the training classes' means."""
    score = x @ direction
    border = (score[train & y].mean() + score[train & ~y].mean()) / 2
    return ((score > border) == y)[~train].float().mean()


# %%
x_by_layer = streams_at_end(model)
x_untrained = streams_at_end(mi.untrained(model))
shuffled = y[torch.randperm(len(y), generator=seeded(7))]
read = {name: [] for name in ("mean difference", "LDA", "logistic")}
controls = {"shuffled labels": [], "untrained model": []}
for x, x0 in zip(x_by_layer, x_untrained, strict=True):
    for name, direction in directions(x[train], y[train]).items():
        read[name].append(accuracy(x, y, direction, train))
    mean = "mean difference"
    by_chance = directions(x[train], shuffled[train])[mean]
    controls["shuffled labels"].append(accuracy(x, shuffled, by_chance, train))
    without = directions(x0[train], y[train])[mean]
    controls["untrained model"].append(accuracy(x0, y, without, train))

# %%
mi.figures.lines(
    read | controls, xlabel="layer", ylabel="held-out accuracy",
    title="The subject's number can be read at the verb", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
layer = int(torch.tensor(read["mean difference"]).argmax())
best = read["mean difference"][layer]
claim("probe.reads", best, control=controls["shuffled labels"][layer])
claim("probe.trained", best, control=controls["untrained model"][layer])

# %% [markdown]
# ## 11. Read is not used
#
# A probe shows that the information is *there*. Does the model go by this direction? Reflect the
# stream along it, so that plural becomes singular and all else stays, and see whether the verb
# follows. The control reflects along a random direction, by the same distance.
#
# The scale: 0 is the model as it is, 1 is what the twin prompt does, whose subject has the other
# number.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: reflect along a direction
# Mirror every vector at the plane through `centre` that is orthogonal to `direction`. The
# component along the direction, measured from the centre, changes sign; all else stays. The
# direction need not have length one.

# %% [markdown] tags=["hint"]
# With a unit vector $u$, the component is $(x - c) \cdot u$. Subtracting it *once* lands on the
# plane; how often do you need to reach the mirror image?


# %% tags=["exercise"]
def reflect(x, direction, centre):
    """x: [batch d_model]; direction, centre: [d_model]  ->  [batch d_model]."""
    raise NotImplementedError


# %% tags=["solution"]
def reflect(x, direction, centre):
    unit = direction / direction.norm()
    return x - 2 * ((x - centre) @ unit)[:, None] * unit


# %% tags=["check"]
check.reflect(reflect)


# %%
def moves_after(at):
    """What to add to the stream after layer `at`: a reflection for each recipe, and a control."""
    x = x_by_layer[at]
    centre = (x[train & y].mean(0) + x[train & ~y].mean(0)) / 2
    ways = directions(x[train], y[train])
    steps = {name: -2 * ((x - centre) @ way)[:, None] for name, way in ways.items()}
    moves = {name: step * ways[name] for name, step in steps.items()}
    anywhere = torch.randn(x.shape[1], generator=seeded(8))
    return moves | {"random direction": steps["mean difference"] * anywhere / anywhere.norm()}


# %%
metric = mi.patching.LogitDiff(pairs.answer_tokens)
held_out = ~train[: len(pairs)].to(model.cfg.device)


def logit_diff(tokens, at=0, move=None):
    """Mean logit difference on held-out prompts, with `move` added at the last token."""

    def add(act, hook):
        act[:, -1] += move[: len(act)].to(act)
        return act

    hooks = [] if move is None else [(f"blocks.{at}.hook_resid_post", add)]
    with model.hooks(fwd_hooks=hooks), torch.no_grad():
        return metric(model(tokens))[held_out].mean().item()


# %%
clean, twin = logit_diff(pairs.clean_tokens), logit_diff(pairs.corrupt_tokens)
effect = {
    f"after layer {at}": {
        name: (clean - logit_diff(pairs.clean_tokens, at, move)) / (clean - twin)
        for name, move in moves_after(at).items()
    }
    for at in sorted({max(layer - 1, 0), layer})
}
mi.figures.bars(
    {name: list(row.values()) for name, row in effect.items()}, list(moves_after(layer)),
    xlabel="share of the twin's effect", horizontal=True,
    title="Being readable is not being used", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
earlier, last = list(effect.values())[0], list(effect.values())[-1]
claim("probe.used", last["mean difference"], control=last["random direction"])
claim("probe.idle", earlier["mean difference"], control=last["mean difference"])

# %% [markdown]
# On pocket the number can be read one layer earlier too, though less well. Yet a reflection there
# does next to nothing: the model does not go by what stands at this token at that point. One layer
# later it does. That is close to the output, so there is little left between the direction and the
# verb; on a model with more layers the two need not fall together.

# %% [markdown]
# Directions that *read* about equally well need not *steer* equally. LDA is free to lean away from
# what varies for other reasons; along such a leaning direction the two classes lie close together,
# and a reflection moves little. (Logistic regression leans less here, as it is held back by a
# strong penalty on its weights.) To intervene, the difference of means is the first choice.
# Compare the angles:

# %%
x = x_by_layer[layer]
ways = directions(x[train], y[train])
cosines = torch.stack(list(ways.values())) @ torch.stack(list(ways.values())).T
mi.figures.heatmap(
    cosines, x=list(ways), y=list(ways), text=".2f", colorbar="cosine", limit=1,
    title="Three recipes, three directions",
)  # fmt: skip

# %% [markdown]
# ## 12. Pictures of activations, and what they invent
#
# Principal components are directions of large variance. They show what varies most, which need not
# be what you look for. Here are the prompts along the first two, coloured by the subject's number.

# %%
centred = x - x.mean(0)
U, S, V = torch.linalg.svd(centred, full_matrices=False)
mi.figures.scatter(
    U[:, 0] * S[0], U[:, 1] * S[1], groups=["plural" if label else "singular" for label in y],
    xlabel=f"component 1 ({S[0] ** 2 / (S**2).sum():.0%})",
    ylabel=f"component 2 ({S[1] ** 2 / (S**2).sum():.0%})",
    title="Principal components of the stream at the verb", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Maps such as t-SNE and UMAP bend space to keep neighbours together. What they add: clusters that
# no plane through the data shows. What they invent: the same, where there are none. (We take
# t-SNE, which comes with scikit-learn; UMAP [@mcinnes2018umap] has the same aim.)
#
# A test: draw the map twice, from different random starts, and let k-means find five groups on
# each. Are they the same groups? The adjusted Rand index says so: one for the same groups, zero
# for chance. We map Gaussian noise, which has no clusters, and as control the same noise with five
# groups planted.

# %%
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score

noise = torch.randn(200, 50, generator=seeded(9))
planted = noise + 6 * torch.eye(50)[torch.arange(200) % 5]


def two_maps(data):
    """Two t-SNE maps of the data from different starts, and five groups on each."""
    draw = [TSNE(perplexity=8, max_iter=300, init="random", random_state=i) for i in (4, 5)]
    maps = [tsne.fit_transform(data.numpy()) for tsne in draw]
    return maps, [KMeans(5, n_init=4, random_state=0).fit_predict(each) for each in maps]


# %%
plane, groups = two_maps(noise)
order = groups[1].argsort()
mi.figures.scatter(
    *plane[0][order].T, groups=[f"group {i}" for i in groups[1][order]], xlabel="t-SNE 1",
    ylabel="t-SNE 2", title="A map of noise: the groups of a second map are not those of the first",
)  # fmt: skip

# %%
planted_groups = two_maps(planted)[1]
claim("maps.invent", adjusted_rand_score(*groups), control=adjusted_rand_score(*planted_groups))

# %% [markdown]
# So: a cluster on a map is a question, not an answer. Test it in the space itself, with a probe
# and its controls.

# %% [markdown]
# ## Summary
#
# - Sparse features can share dimensions if something non-linear filters the interference. Dense
#   ones cannot, and linear models never do.
# - Superposition is a phase with its own geometry, such as pairs and pentagons; shares of a
#   dimension sit on levels.
# - Directions of features that never meet may oppose each other; those of features that come
#   together are kept apart.
# - In the language model parts are added up, and there are more features than dimensions. Neurons
#   are a privileged basis, the stream's coordinates are not. Privileged does not mean
#   interpretable.
# - A probe reads; an intervention shows use; and the best direction for one need not be the best
#   for the other.
#
# **What we have not shown.** That *all* features of a language model are directions, or how many
# there are. Superposition explains polysemantic neurons, but they can arise without it.
#
# ## Where to read on
#
# - The toy models, their phases and their geometry: [@elhage2022superposition]. Composition and
#   superposition compared: [@olah2023distributed].
# - The linear representation hypothesis made precise: [@park2023linear]. Probing for single and
#   for few neurons: [@gurnee2023haystack].
# - Finding the directions without labels: [notebook 10](10_sparse_autoencoders.ipynb).

# %%
claim.table()
