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
#
# **You will be able to**
#
# - train toy models that put features in superposition, and say when they do and when not;
# - measure how much of a dimension a feature has, and what the others do to it;
# - find a direction with a probe, judge it on words that it has not seen, and show that the model
#   *uses* it;
# - tell parts that are added up from parts that interact (appendix B), a privileged basis from an
#   arbitrary one (C), and a bottleneck from a layer that computes (D);
# - ask whether days and months lie on a circle, and what a class is to its members (E).

# %% [markdown] short=true
# ## 1. Two features in one number
#
# Let there be two features and one number to keep both. Give them opposite directions, $+1$ and
# $-1$; read each back along its own direction, and cut what is negative. Look at the three inputs:
# the first feature alone, the second alone, both.

# %% short=true
W = torch.tensor([[1.0], [-1.0]])  # [feature, d_hidden]
x = torch.tensor([[0.75, 0.0], [0.0, 0.5], [0.75, 0.5]])
hidden = x @ W
recovered = (hidden @ W.T).relu()
rows = [
    {"input": a.tolist(), "hidden": h.item(), "recovered": r.tolist()}
    for a, h, r in zip(x, hidden, recovered, strict=True)
]
mi.figures.table(rows, title="Two features share one number, as long as they do not meet")

# %% [markdown] short=true
# Alone, each is recovered without any error. Together they cancel. So it is a bargain if they
# rarely meet: if features are **sparse**. And it needs the ReLU, which cuts the ghost that one
# feature leaves on the other's read-out. Storing more features than there are dimensions, in
# directions that are not orthogonal, is called **superposition** [@elhage2022superposition].
#
# The helper does the same for many models at once. They agree.

# %% short=true
by_hand = mi.toys.Bottleneck(W[None], torch.zeros(1, 2), torch.zeros(1), linear=False)
assert torch.equal(by_hand(x[None])[0], recovered)

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
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

# %% [markdown] short=true
# ## 2. When does it pay? A grid of worlds
#
# Five features, two dimensions. *Density* is the probability that a feature is there. We train one
# model for every density, all side by side in one batched product, and keep the best of a few
# tries: small models get stuck. The control is the same model without the ReLU, which can do no
# more than a principal component analysis. Go through the panels from left to right: how many
# features have a direction, and how do they share the plane?

# %% short=true
density = torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
world = density[:, None].expand(-1, 5)
importance = (0.9 ** torch.arange(5)).expand(len(density), -1)
toys = mi.toys.train_bottleneck(world, 2, importance=importance, tries=3, steps=1000)
linear = mi.toys.train_bottleneck(world, 2, importance=importance, linear=True, steps=600)

# %% short=true
names = [f"density {p:g}" for p in density]
mi.figures.vectors(
    toys.W, facets=names, labels=[f"feature {j}" for j in range(5)],
    title="The rarer the features, the more of them share the plane",
)  # fmt: skip

# %% [markdown] short=true
# On the left all features are always there: the two most important ones take nearly a dimension
# each, and the rest is all but given up. Further on come opposite pairs, as in section 1, and at
# last all five, at even angles: a pentagon. Now the matrix $W W^T$ at both ends: the diagonal says
# how well a feature comes back, the rest what it does to the others.

# %% short=true
mi.figures.heatmap(
    (toys.W @ toys.W.mT)[[0, -1]], facets=[names[0], names[-1]], xlabel="feature", ylabel="feature",
    title="Dense features stand apart, sparse ones overlap", colorbar="dot product",
)  # fmt: skip

# %% [markdown] short=true
# How many features does a dimension hold? Count those that got a direction, longer than a half, and
# divide by the dimensions. The linear model has one feature's length a dimension to give: it keeps
# the most important ones whole, or spreads the room over several, each in part, which this count
# takes for kept.

# %% short=true
per_dimension = {
    name: mi.toys.represented(some.W).float().sum(-1) / some.W.shape[-1]
    for name, some in {"with ReLU": toys, "linear": linear}.items()
}
mi.figures.lines(
    per_dimension, x=names, xlabel="how often a feature is there",
    ylabel="represented features per dimension",
    title="With a ReLU, the rarer the features, the more a dimension holds",
)  # fmt: skip

# %% short=true
claim("toy.needs_relu", per_dimension["with ReLU"][-1], control=per_dimension["linear"][-1])

# %% [markdown]
# And how long are the directions? Two features that have a dimension each come back best at about
# length one. Where all five share the plane they are longer. The bias says why: it is negative, so
# that small ghosts stay below zero, and length makes up for what it takes off. A feature of size
# $x$ that is alone comes back as $\lVert w \rVert^2 x + b$.

# %%
two = mi.toys.train_bottleneck(torch.full((1, 2), 0.02), 2, tries=3, steps=1000)
squared, bias = toys.W.square().sum(-1)[-1].mean(), toys.b[-1].mean()
print({size: f"{squared * size + bias:.2f}" for size in (0.25, 0.5, 0.75, 1.0)}, f"bias {bias:.2f}")
claim("toy.longer", squared, control=two.W.square().sum(-1).mean())

# %% [markdown]
# Move through the densities yourself.


# %%
def show_world(density):
    """One toy model's directions."""
    i = names.index(f"density {density:g}")
    return mi.figures.vectors(toys.W[i], title=f"Five features at density {density:g}")


mi.figures.explore(
    show_world, start={"density": 0.02}, ahead=True, density=[round(p, 3) for p in density.tolist()]
)

# %% [markdown] short=true
# ## 3. A phase diagram
#
# The smallest case has two features and one dimension. Vary how rare they are, and how important
# the second is relative to the first. Each square below is a model of its own. The left panel shows
# how long the second feature's direction is. The other two mark the models that keep both features
# in their one dimension, with the ReLU and without. Where are the borders?
#
# In a linear model the squared lengths of the two add up to one at most: at equal importance it
# could only halve the dimension, at a length of $1 / \sqrt 2$ for each. So we say "keep both" from
# a length of four fifths on.

# %% short=true
grid = 8
rare = torch.logspace(0, -1.7, grid)
relative = torch.logspace(-1, 1, grid)
worlds = rare.repeat_interleave(grid)[:, None].expand(-1, 2)
weights = torch.stack([torch.ones(grid * grid), relative.repeat(grid)], dim=-1)
phases = mi.toys.train_bottleneck(worlds, 1, importance=weights, tries=4, steps=600)
pca = mi.toys.train_bottleneck(worlds, 1, importance=weights, linear=True, steps=400)

# %% short=true
shared = {
    name: mi.toys.represented(some.W, least=0.8).all(-1).float()
    for name, some in {"with ReLU": phases, "linear": pca}.items()
}
counted = {name: f"both, {name}: {int(kept.sum())} of {grid**2}" for name, kept in shared.items()}
length = phases.W[:, 1].norm(dim=-1).clamp_max(1.2)
mi.figures.heatmap(
    torch.stack([length, shared["with ReLU"], shared["linear"]]).view(3, grid, grid), center=None,
    facets=["length of feature 2", *counted.values()],
    x=[f"{r:.2g}" for r in relative], y=[f"{p:.2g}" for p in rare],
    xlabel="importance of feature 2", ylabel="density", colorbar="length; 1: yes",
    title="Sparse features share the dimension, dense ones less often, linear ones never",
)  # fmt: skip

# %%
sparse_half = slice(grid * grid // 2, None)
dense_half = slice(0, grid * grid // 2)
assert not shared["linear"].any()  # its two squared lengths add up to one at most
claim("phase.sparse", shared["with ReLU"][sparse_half].mean(),
      control=shared["with ReLU"][dense_half].mean())  # fmt: skip

# %% [markdown] short=true
# Three regions: the second feature is ignored, or has the dimension for itself, or shares it with
# the first. The linear model knows the first two only. The authors speak of phases, as of matter
# [@elhage2022superposition]. A threshold makes borders by itself, so look for them in the left
# panel, which has none. On a grid this coarse, and with models that were trained for a short time,
# expect a border that frays.

# %% [markdown] short=true
# ## 4. The price: interference, and shares of a dimension
#
# A feature with a direction of length one is **alone** if no other direction overlaps with it. The
# *dimensionality* of a feature divides its own squared length by all that lands on its direction:
#
# $$D_i = \frac{\lVert w_i \rVert^2}{\sum_j (\hat w_i \cdot w_j)^2}$$
#
# By hand: an opposite pair has $1 / (1 + 1)$, half a dimension each. Directions at the corners of a
# regular pentagon have two fifths each.


# %% short=true
def seeded(seed):
    """A source of random numbers that a cell run again finds in the same state."""
    return torch.Generator().manual_seed(seed)


angle = torch.arange(5) * 2 * torch.pi / 5
pentagon = torch.stack([angle.cos(), angle.sin()], dim=-1)
naive = [(w @ w) / sum(((w / w.norm()) @ other) ** 2 for other in pentagon) for w in pentagon]
assert torch.allclose(torch.stack(naive), mi.toys.dimensionality(pentagon))
assert torch.allclose(torch.stack(naive), torch.tensor(0.4))

# %% [markdown] short=true
# Training finds such shapes by itself. Here are three, four and five sparse, equally important
# features in a plane, with the share of each. Five make a **pentagon**, four two **pairs**.
# Three could make a **triangle**, with two thirds of a dimension each, in which any two that meet
# disturb each other a little. With one pair and one feature alone only the two of the pair do, but
# more. At this density training takes the pair. All these shapes use all the room.

# %% short=true
shapes = torch.zeros(3, 5, 2)
for i, n in enumerate([3, 4, 5]):
    sparse = torch.full((1, n), 0.05)
    shapes[i, :n] = mi.toys.train_bottleneck(sparse, 2, tries=3, steps=600).W[0]
each = [mi.toys.dimensionality(shape)[: i + 3] for i, shape in enumerate(shapes)]
mi.figures.vectors(
    shapes, facets=[", ".join(f"{share:.2f}" for share in row) for row in each],
    title="Three, four and five features: all the room of the plane is used",
    subtitle="above each panel: the share of a dimension that every feature has",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
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
# And the price? Compare the sparsest toy of section 2, which has all five features in the plane,
# with the linear model of the same world, which keeps two of them: the error on inputs where one
# feature is active, and where two are.

# %%
sizes, order = (torch.rand(1, 4000, 5, generator=seeded(seed)) for seed in (3, 4))
rank = order.argsort(-1)
inputs = {"one feature": sizes * (rank < 1), "two features": sizes * (rank < 2)}
sparsest, plain = (
    mi.toys.Bottleneck(some.W[-1:], some.b[-1:], some.loss[-1:], linear=some.linear)
    for some in (toys, linear)
)
error = {
    name: {way: (some(x) - x).square().sum(-1).mean().item()
           for way, some in {"superposed": sparsest, "linear": plain}.items()}
    for name, x in inputs.items()
}  # fmt: skip

# %%
alone, met = (row["superposed"] / row["linear"] for row in error.values())
claim("interference.meeting", alone, control=met)
mi.figures.table([{"active": name} | row for name, row in error.items()],
                 title="Squared error of an input")  # fmt: skip

# %% [markdown]
# That is the bargain: most of the linear model's error is gone where one feature stands alone, and
# where two meet most of it is there. The rarer features are, the seldomer they meet. (How forty
# features share ten dimensions is in appendix A.)

# %% [markdown]
# ## 5. Features that come together, features that never do
#
# Real features are not independent. Four features in two dimensions, in two pairs. In one world the
# members of a pair always come **together** (they are correlated); in another, **never**
# (anticorrelated); in the third they are **independent**, and any two may pair up. We train several
# models for each world, and keep the best of some tries for each: worse tries get stuck.

# %%
together = {}
for pairing, n, tries in (("correlated", 6, 8), ("independent", 24, 2), ("anticorrelated", 6, 8)):
    four = torch.full((n, 4), 0.1)
    trained = mi.toys.train_bottleneck(four, 2, pairing=pairing, tries=tries, steps=800)
    together[pairing] = trained.W
mi.figures.vectors(
    torch.stack([W[0] for W in together.values()]), facets=list(together),
    labels=["pair 1", "pair 1", "pair 2", "pair 2"],
    title="Features that never meet share a line",
)  # fmt: skip

# %%
unit = {name: W / W.norm(dim=-1, keepdim=True) for name, W in together.items()}
within = {name: (u[:, 0::2] * u[:, 1::2]).sum(-1) for name, u in unit.items()}
mi.figures.table(
    [{"world": name, "cosine within a pair": cosine.mean().item(),
      "its size": cosine.abs().mean().item()} for name, cosine in within.items()],
    title="Mean over pairs",
)  # fmt: skip

# %%
claim("pairs.geometry", within["anticorrelated"].mean(), control=within["independent"].mean())

# %% [markdown]
# Features that never meet do not disturb each other, and get opposite directions. Features that
# come together would, and are kept at right angles. Independent ones form opposite pairs as well,
# with whichever partner it happens to be. So the angle between two directions says something about
# the data, and not about meaning alone.

# %% [markdown]
# ## 6. Is it linear? Probes, layer by layer
#
# The **linear representation hypothesis** says that models keep many features as directions
# [@park2023linear]. A probe tests half of it: can a direction *read* the feature? The feature is
# the number of a sentence's subject; we read at the last token, where the verb must agree, with
# another noun standing nearer. In a prompt that noun has the other number, in its twin, which
# changes the subject alone, the same one: over both it tells nothing of the subject.
#
# Three recipes for a direction, on the same training half:
#
# - the **difference of means** of the two classes;
# - **linear discriminant analysis** (LDA), which divides by what varies anyway;
# - **logistic regression**, which only cares about the border.
#
# A probe may have learned *which noun* is there, and look the number up. So we test it on nouns
# that it has not seen. How much could it look up? A **control task** tells [@hewitt2019control]:
# every subject, singular and plural apart, gets a label by the toss of a coin; the same words stand
# on both sides, and nothing but memory helps. An untrained model shows what the words alone give
# away.
#
# What can be read after the *last* layer is what the model is about to say: a probe there decodes
# the output, and no layer reads it any more. So we judge one layer before.

# %%
pairs = mi.prompts.agreement(model, mi.models.by_size(model, 160, 64), seed=0)
plural = torch.tensor([label["number"] == "plural" for label in pairs.labels])
both = torch.cat([pairs.clean_tokens, pairs.corrupt_tokens])
y, each = torch.cat([plural, ~plural]), torch.arange(len(both))
spots = {"the subject": pairs.positions["subject"].cpu(),
         "the verb": torch.full((len(pairs),), both.shape[1] - 1)}  # fmt: skip
words = both.cpu()[each, spots["the subject"].repeat(2)]
noun = words.view(2, -1).amin(0).repeat(2)  # the same for both numbers
train = torch.isin(noun, noun.unique()[::2])  # every second noun
coin = (torch.rand(model.cfg.d_vocab, generator=seeded(7)) < 0.5)[words]
half = each % len(pairs) < len(pairs) // 2


# %%
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

after_each = [("resid_post", i) for i in range(model.cfg.n_layers)]
without_training = mi.untrained(model)


# %%
def streams_of(some_model, tokens, ends):
    """The stream after every layer at one position of each text, [layer, text, d_model]."""
    cache, each = mi.sites.read(some_model, tokens, after_each), torch.arange(len(tokens))
    return torch.stack([cache[place][each, ends] for place in after_each]).cpu()


def directions(x, y):
    """Unit directions that point from singular to plural, one for each recipe."""
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    logistic = LogisticRegression(C=0.1, max_iter=2000).fit(x, y)
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
x_by_layer, x_untrained = (
    streams_of(some, both, spots["the verb"].repeat(2)) for some in (model, without_training)
)
read = {name: [] for name in ("mean difference", "LDA", "logistic")}
controls = {"control task": [], "untrained model": []}
for x, x0 in zip(x_by_layer, x_untrained, strict=True):
    for name, direction in directions(x[train], y[train]).items():
        read[name].append(accuracy(x, y, direction, train))
    for name, given in (("control task", (x, coin, half)), ("untrained model", (x0, y, train))):
        acts_, labels, fit = given
        controls[name].append(
            accuracy(acts_, labels, directions(acts_[fit], labels[fit])["LDA"], fit)
        )

# %%
figures.lines(
    read | controls, xlabel="layer", ylabel="accuracy on what was held out",
    title="The subject's number can be read at the verb",
)  # fmt: skip

# %%
layer = model.cfg.n_layers - 2  # the last that another layer reads
best = read["LDA"][layer]
claim("probe.reads", best, control=controls["control task"][layer])
claim("probe.trained", best, control=controls["untrained model"][layer])

# %% [markdown]
# ## 7. Read is not used
#
# A probe shows that the information is *there*. Does the model go by this direction? Reflect the
# stream along it, so that plural becomes singular and all else stays, and see whether the verb
# follows.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: reflect along a direction
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

# %% [markdown]
# We reflect in two places of the same layer: at the subject's own token, and at the last one, where
# the probe read. The scale: 0 is the model as it is, 1 is what the twin prompt does, whose subject
# has the other number. Beside the three recipes stand four random directions, moved along by the
# distances of the mean difference, and the twin's whole stream at that token. The printed line says
# how well the number can be *read* in either place.


# %%
def moves_of(x):
    """What to add to streams [prompt, d_model]: a reflection for each recipe, and two others."""
    centre = (x[train & y].mean(0) + x[train & ~y].mean(0)) / 2
    ways = directions(x[train], y[train])
    steps = {name: -2 * ((x - centre) @ way)[:, None] for name, way in ways.items()}
    anywhere = torch.nn.functional.normalize(
        torch.randn(4, x.shape[1], generator=seeded(8)), dim=-1
    )
    randoms = {f"random {i}": steps["mean difference"] * way for i, way in enumerate(anywhere)}
    twins = torch.cat([x[len(pairs) :], x[: len(pairs)]])
    moves = {name: step * ways[name] for name, step in steps.items()}
    return moves | randoms | {"the twin's whole stream": twins - x}


# %%
from mi_helpers.interventions import intervene

held_out = (~train[: len(pairs)]).nonzero()[:, 0]  # prompts about nouns the probes have not seen
judged = pairs.select(held_out.tolist())
metric = mi.metrics.LogitDiff(judged.answer_tokens)


def logit_diff(tokens):
    """Mean logit difference on held-out prompts."""
    with torch.no_grad():
        return metric(model(tokens)).mean().item()


def moved(move, spot):
    """The same with `move` [prompt, d_model] added after `layer`, each at its own position."""
    there = torch.zeros_like(judged.clean_tokens, dtype=torch.bool)
    there[torch.arange(len(judged)), spot[held_out]] = True
    add = {("resid_post", layer): lambda acts, where: acts + move[held_out, None].to(acts)}
    with intervene(model, add, positions=there):
        return logit_diff(judged.clean_tokens)


# %%
clean, twin = logit_diff(judged.clean_tokens), logit_diff(judged.corrupt_tokens)
at = {place: streams_of(model, both, spot.repeat(2))[layer] for place, spot in spots.items()}
moves = {place: moves_of(x) for place, x in at.items()}
readable = {place: accuracy(x, y, directions(x[train], y[train])["LDA"], train).item()
            for place, x in at.items()}  # fmt: skip
print("read at", {place: round(share, 2) for place, share in readable.items()})
effect = {place: [(clean - moved(move, spots[place])) / (clean - twin) for move in some.values()]
          for place, some in moves.items()}  # fmt: skip
names = list(moves["the verb"])
figures.bars(
    effect, names, xlabel="share of the twin's effect", horizontal=True,
    title="Being readable is not being used",
)  # fmt: skip

# %%
two = [dict(zip(names, row, strict=True)) for row in effect.values()]
idle, live = sorted(two, key=lambda found: found["the twin's whole stream"])
least = min(live[name] for name in read)
by_chance = sum(abs(live[f"random {i}"]) for i in range(4)) / 4
claim("probe.used", least, control=by_chance)
claim("probe.idle", max(map(abs, idle.values())), control=live["the twin's whole stream"])

# %% [markdown]
# The number can be read in both places, and it is used in one. On `pocket` that is the subject's
# own token: a reflection there does most of what the twin's whole stream does, whichever recipe
# found the direction. At the verb nothing does much, not even the twin's whole stream: the *place*
# is idle, for the last layer's heads fetch the number anew from the subject. What the probe read
# there is a by-product. In SmolLM2 it is the other way round: that late, the number has long been
# brought to the verb, and the subject is idle. So a probe says what is there; what is used takes an
# intervention, and at the place that one speaks of.

# %% [markdown] short=true
# ## Summary
#
# - Sparse features can share dimensions if something non-linear filters the interference. Features
#   that are always there do not, and a linear model holds no more than its dimensions, be it whole
#   or in parts.
# - Superposition has a geometry of its own, such as pairs and pentagons, and uses all the room.
# - Directions of features that never meet oppose each other; those of features that come together
#   are kept apart.
# - A probe reads; an intervention shows use. What can be read in one place may be used in another.
#
# **What we have not shown.** That *all* features of a language model are directions (appendix E
# looks at circles [@engels2024circles]), or how many there are. Superposition explains polysemantic
# neurons, those that fire for unrelated things, but they can arise without it
# [@lecomte2023polysemanticity].
#
# ## Where to read on
#
# - The toy models, their phases and their geometry: [@elhage2022superposition]. Composition and
#   superposition compared: [@olah2023distributed].
# - The linear representation hypothesis made precise: [@park2023linear]. Probing for single and
#   for few neurons: [@gurnee2023haystack].
# - Finding the directions without labels: [notebook 10](10_sparse_autoencoders.ipynb).

# %% [markdown]
# ## Appendix A: forty features in ten dimensions
#
# With more features, do the shares still sit on levels, those of regular bodies? Forty equally
# important features in ten dimensions, at several densities. Look for flat stretches: the densest
# of these worlds has one at a half, the two sparsest have one at a quarter. Is the one at a half
# made of opposite pairs? Then each feature that is kept has another at a cosine of about $-1$.

# %%
rates = torch.tensor([0.3, 0.2, 0.1, 0.05])
crowd = mi.toys.train_bottleneck(rates[:, None].expand(-1, 40), 10, steps=1200)
anyhow = torch.randn(crowd.W.shape, generator=seeded(1))
anyhow = anyhow / anyhow.norm(dim=-1, keepdim=True) * crowd.W.norm(dim=-1, keepdim=True)
shares = mi.toys.dimensionality(crowd.W).sort(dim=-1, descending=True).values
random_shares = mi.toys.dimensionality(anyhow).sort(dim=-1, descending=True).values

# %%
curves = {f"density {p:g}": row for p, row in zip(rates, shares, strict=True)}
mi.figures.lines(
    curves | {"random directions": random_shares[0]}, xlabel="feature, most to least",
    ylabel="share of a dimension", title="Pairs in the densest world, even shares in the sparsest",
)  # fmt: skip


# %%
def most_opposed(W):
    """Of the features that got a direction, the cosine with the most opposed other one, mean."""
    unit = torch.nn.functional.normalize(W[mi.toys.represented(W)], dim=-1)
    return (unit @ unit.T).amin(-1).mean()


opposed = {name: most_opposed(W) for name, W in zip(curves, crowd.W, strict=True)}
print({name: f"{cosine:.2f}" for name, cosine in opposed.items()})
claim("geometry.levels", opposed["density 0.3"], control=opposed["density 0.2"])

# %% [markdown]
# The paper, with hundreds of features in thirty dimensions, finds several levels, those of other
# bodies among them [@elhage2022superposition]. Here only the level at a half is that of a body, the
# opposite pair. In the sparsest worlds the directions come closer, and all forty, or nearly all,
# have a place: an even share of ten dimensions is a quarter each, and nobody has an opposite. In
# every world the shares **add up to the number of dimensions**: no room is wasted. Random
# directions waste some.

# %%
filled, wasted = (values.sum(-1) / crowd.W.shape[-1] for values in (shares, random_shares))
claim("geometry.filled", filled.min(), control=wasted.max())

# %% [markdown]
# ## Appendix B: are parts added up?
#
# "Features are directions" packs several statements. In order of strictness
# [@elhage2022superposition]:
#
# 1. **Decomposable**: there are features whose meaning does not depend on the other features.
# 2. **Linear**: each is a direction, and they are *added*.
# 3. **In superposition or not**: are there more directions than dimensions? Then no linear map
#    reads all features without error.
# 4. **Basis-aligned**: directions are the coordinates themselves, such as neurons (appendix C).
#
# One part of the second can be tested without knowing the directions. Cross two factors, say who
# and where, and look at every combination. If parts are added, every vector is a "who" part plus a
# "where" part, and nothing is left for their interaction. That says nothing of the shape of a part:
# six weekdays on a circle would pass as well.
#
# Take the stream at the last word. Beware: the last word *is* the place, so a part for the place
# alone explains most of the variance. Ask for the rest: of what the place leaves over, how much
# does a part for the person explain?

# %%
people = ["John", "Mary", "Tom", "James", "Alice", "Bob"]
places = ["park", "shop", "station", "school", "office", "garden"]
sentences = [f"Then {a} and I went to the {b}" for a in people for b in places]
rows = [model.to_tokens(sentence)[0] for sentence in sentences]
ends = torch.tensor([len(row) - 1 for row in rows])
padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
crossed = {name: streams_of(some, padded, ends).unflatten(1, (6, 6))
           for name, some in {"trained": model, "untrained": without_training}.items()}  # fmt: skip


def who_share(grid):
    """Of the variance within places, the share that a part for the person explains."""
    rest = grid - grid.mean(0)
    return rest.mean(1).square().sum() * grid.shape[1] / rest.square().sum()


# %%
additive = {name: [who_share(x) for x in streams] for name, streams in crossed.items()}
figures.lines(
    additive, xlabel="layer", ylabel="share explained by who, within places",
    title="How far who and where are added up: less after training",
)  # fmt: skip

# %%
claim("properties.additive", additive["trained"][-1], control=additive["untrained"][-1])

# %% [markdown]
# After the last layer person and place interact little, and in an untrained model even less: there
# the stream is a sum, and hardly anything in it mixes yet. So the property says how things may be
# read, not that they were learned; after training the parts interact more. In SmolLM2's middle
# layers the rest is the larger part: who and where are *not* added up there.

# %% [markdown]
# ## Appendix C: a privileged basis
#
# Are the coordinates special? In the MLP each coordinate goes through a
# non-linearity of its own, so neurons are a **privileged basis**: features have a reason to line
# up. In the residual stream nothing singles out coordinates, at least in principle.
#
# Features that line up with a coordinate make it *spiky*: mostly near zero, rarely large. The
# excess kurtosis measures that; it is zero for a Gaussian. The control is a random rotation, after
# which nothing lines up. By hand on six numbers:

# %%
spiky = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 6.0])
z = (spiky - spiky.mean()) / spiky.std(correction=0)
print(f"excess kurtosis {(z**4).mean() - 3:.2f}")


# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: excess kurtosis of every coordinate
# The mean of the fourth power of the standardised values, minus 3. Standardise each coordinate over
# tokens, with the standard deviation that divides by $n$. A coordinate that never changes has zero.

# %% [markdown] tags=["hint"]
# `std(0, correction=0)` divides by $n$; where it is zero, zero by zero is NaN.


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
def kurtosis_of(acts):
    """Excess kurtosis of every coordinate."""
    z = (acts - acts.mean(0)) / acts.std(0, correction=0).clamp_min(1e-9)
    return (z**4).mean(0) - 3


def rotated(acts, seed=0):
    """The same activations in a random orthogonal basis."""
    noise = torch.randn(acts.shape[1], acts.shape[1], generator=seeded(seed))
    return acts @ torch.linalg.qr(noise)[0]


# %% [markdown]
# The texts come with labels, which we use further down: for every token we know whether it is the
# subject, the receiver, a word of praise.
#
# Neurons have a non-linearity that makes any input one-sided, in a model without training too. So
# that model stands beside.

# %%
from mi_data.pocket import generator as g

kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
n_each = mi.models.by_size(model, 24, 12)
samples = [g.sample(kind, seed, "test") for seed in range(n_each) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
middle = model.cfg.n_layers // 2
spaces = {"neurons": ("mlp_post", middle), "stream": ("resid_post", middle)}
acts = {}
for name, some in {"": model, ", untrained": without_training}.items():
    found = mi.sites.read(some, labelled.tokens, list(spaces.values()))
    acts |= {space + name: found[place][labelled.real].cpu() for space, place in spaces.items()}

# %%
turned = {name: rotated(a) for name, a in acts.items()}
kurtosis = {way: [kurtosis_of(a).median() for a in some.values()]
            for way, some in {"as it is": acts, "rotated": turned}.items()}  # fmt: skip
figures.bars(
    kurtosis, list(acts), ylabel="median excess kurtosis",
    title="The median neuron is spiky, the median coordinate of the stream is not",
)  # fmt: skip

# %% [markdown]
# A privileged stream would show in a *handful* of coordinates, which no median sees. So for the
# stream take the largest kurtosis of all coordinates, before and after the rotation.

# %%
claim("basis.neurons", kurtosis["as it is"][0], control=kurtosis["rotated"][0])
ratio = {name: kurtosis_of(a).max() / kurtosis_of(turned[name]).max() for name, a in acts.items()}
claim("basis.stream", ratio["stream"], control=ratio["neurons"])

# %% [markdown]
# On `pocket` rotating makes a difference for neurons: without training a small one, which the
# non-linearity makes alone, and with training a large one. The stream has no spike to lose. That is
# no law: larger models' streams do have spiky coordinates, and so has SmolLM2's; the optimiser
# Adam, which treats coordinates one by one, is suspected [@elhage2023privileged]. (The matrices of
# `pocket`'s blocks were trained with Muon, which treats a matrix as a whole; whether that is the
# reason we have not tested.)
#
# Privileged does not mean interpretable. The labels let us grade neurons: for each label take the
# neuron that detects it best on half of the texts, and report its F1 on the other half. The control
# is a dictionary of as many *random* directions in the same space, the mean of three. Which labels
# have a neuron that beats it, and does any have none?

# %%
graded = mi.sae.best_units(acts["neurons"], labelled)
at_random = [mi.sae.best_units(rotated(acts["neurons"], seed), labelled) for seed in range(3)]
labels = [row["label"] for row in graded]
f1 = torch.tensor([[row["f1"] for row in rows] for rows in (graded, *at_random)])
mi.figures.bars(
    {"best neuron": f1[0], "best of as many random directions": f1[1:].mean(0)},
    labels, xlabel="F1 on held-out texts", horizontal=True,
    title="Some labels have a neuron", subtitle=f"{mi.model_id(model)}, layer {middle}",
)  # fmt: skip

# %%
claim("neurons.detect", f1[0].mean(), control=f1[1:].mean())

# %% [markdown]
# ## Appendix D: superposition of computation
#
# So far features were *stored*. Can they be *computed* in superposition, with fewer neurons than
# features? The task is the absolute value of each of ten features. Alone, a feature needs two
# neurons, one for each sign. We give ten neurons to ten features, in a dense world and in sparse
# ones. Below, the loss is set beside that of a model that always answers zero.

# %%
rates = torch.tensor([1.0, 0.3, 0.1, 0.03])
absolute = mi.toys.train_absolute_value(rates[:, None].expand(-1, 10), 10, steps=1000)
weight = 0.9 ** torch.arange(10)  # the importance of each feature
zero = rates / 3 * weight.sum()  # x² is a third on average where x is there
per_neuron = mi.toys.features_per_neuron(absolute.W_in).sort(dim=-1).values
mi.figures.lines(
    {f"density {p:g}, loss {share:.2f}": row
     for p, share, row in zip(rates, absolute.loss / zero, per_neuron, strict=True)},
    xlabel="neuron, by rank", ylabel="features it reads, effectively",
    title="In sparse worlds a neuron serves several features",
    subtitle="loss: as a share of that of answering zero",
)  # fmt: skip

# %% [markdown]
# A neuron with random weights would also read several features. Are they *used*? Keep of each
# neuron the largest weight that it reads with, and nothing else.

# %%
x = torch.stack([mi.toys.draw_features(torch.full((1, 10), p), 4000, seeded(10))[0] for p in rates])
x = x * (1 - 2 * (torch.rand(x.shape, generator=seeded(12)) < 0.5).float())


def error_of(model):
    """Weighted squared error of |x| in each world, as a share of that of answering zero."""
    return ((model(x) - x.abs()).square() @ weight).sum(-1) / (x.square() @ weight).sum(-1)


size = absolute.W_in.abs()
only = absolute.W_in * (size == size.amax(1, keepdim=True))
one_each = mi.toys.AbsoluteValue(only, absolute.W_out, absolute.b, absolute.loss)
errors = {"as it is": error_of(absolute), "one weight each": error_of(one_each)}
mi.figures.table(
    [{"density": rates[i].item()} | {name: row[i].item() for name, row in errors.items()}
     for i in range(len(rates))],
    title="Error, as a share of that of answering zero",
)  # fmt: skip

# %% [markdown]
# In the dense world nothing is lost: a neuron reads one feature. In the sparsest one it uses the
# others too, some models more than others: training from other beginnings gives other errors, so
# this is no more than an example.

# %% [markdown]
# **Bottleneck** superposition and **neuron** superposition are different things. Rotate the hidden
# space of each toy, and rotate back what reads from it. The bottleneck does not notice: its
# coordinates mean nothing. The layer that computes breaks, since the ReLU sits *on* its
# coordinates.

# %%
turn = torch.linalg.qr(torch.randn(10, 10, generator=seeded(5)))[0]


def with_turned_neurons(x):
    """The model with its neurons' space turned before the ReLU, and turned back behind it."""
    neurons = (x @ absolute.W_in @ turn).relu() @ turn.T
    return (neurons @ absolute.W_out + absolute.b[:, None]).relu()


# %%
small = torch.linalg.qr(torch.randn(2, 2, generator=seeded(6)))[0]
turned = mi.toys.Bottleneck(sparsest.W @ small, sparsest.b, sparsest.loss, linear=False)
assert torch.allclose(turned(sizes), sparsest(sizes), atol=1e-5)  # inputs of section 4
claim("computed.rotation", error_of(with_turned_neurons)[-1], control=error_of(absolute)[-1])

# %% [markdown]
# ## Appendix E: circles and families
#
# So far a feature was *one* direction. Some need more. Days of the week go round, and in larger
# models their vectors were found to lie on a circle, which the model uses to reckon with them
# [@engels2024circles]. Do they here? We take the stream where a day or a month stands in a list, as
# its only item so far, so that no neighbour of it is in the text; the mean over five beginnings.

# %%
import math

from mi_data.pocket import forms, lexicon

leads = ("The list goes on: ", "In order: ", "We counted ", "It was ", "Then came ")
rings = {"days": forms.DAYS, "months": forms.MONTHS, "number words": forms.NUMBER_WORDS[:12]}
mid = ("resid_post", model.cfg.n_layers // 2)
lists = {name: [model.to_tokens([lead + item + "," for item in items]) for lead in leads]
         for name, items in rings.items()}  # fmt: skip
means = {
    name: sum(mi.sites.read(model, ids, [mid])[mid][:, -2].cpu() for ids in beginnings) / len(leads)
    for name, beginnings in lists.items()
}  # [item d_model]

# %% [markdown]
# Put the items on a ring, and take the part of their vectors that goes with the cosine and the sine
# of where each is. What share of their variance is it? A perfect circle has all of it. But two
# directions always catch something: so we also take random orders of the very same points. And an
# order that is no ring, the number words.


# %%
def around(places, n):
    """Cosine and sine of places on a ring of n, [2 item]; both rows of length one."""
    angle = 2 * math.pi * places / n
    return torch.stack([angle.cos(), angle.sin()]) * math.sqrt(2 / n)


def ring_share(points, places):
    """The share of the variance of points [item d] that lies on the ring of these places."""
    offset = points - points.mean(0)
    return float((around(places, len(points)) @ offset).square().sum() / offset.square().sum())


circle = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]) + 5.0
assert abs(ring_share(circle, torch.arange(4)) - 1) < 1e-6  # its four points go round
assert abs(ring_share(circle, torch.tensor([0, 2, 1, 3])) - 0.5) < 1e-6  # and here they do not

# %%
shuffles = {name: [torch.randperm(len(m), generator=seeded(i)) for i in range(100)]
            for name, m in means.items()}  # fmt: skip
in_order = {name: ring_share(m, torch.arange(len(m))) for name, m in means.items()}
by_luck = {name: [ring_share(m, order) for order in shuffles[name]] for name, m in means.items()}
spread = {name: torch.linalg.svdvals(m - m.mean(0)).square() for name, m in means.items()}
gaps = {name: (m - m.roll(-1, 0)).norm(dim=1) for name, m in means.items()}
ends = {name: float(gap[-1] / gap[:-1].mean()) for name, gap in gaps.items()}
mi.figures.table(
    [{"of": name, "share on the ring": in_order[name], "random orders, mean":
      sum(some) / len(some), "random orders, largest": max(some),
      "share of two components": float(spread[name][:2].sum() / spread[name].sum()),
      "last to first, in steps": ends[name]}
     for name, some in by_luck.items()],
    title="Months lie on their ring more than on those of a hundred random orders",
)  # fmt: skip

# %%
claim("geometry.ring", in_order["months"], control=max(by_luck["months"]))
offset = means["months"] - means["months"].mean(0)
first, second = (offset @ torch.linalg.svd(offset, full_matrices=False)[2][:2].T).T
figures.scatter(
    first, second, labels=list(forms.MONTHS), named=list(forms.MONTHS), xlabel="first component",
    ylabel="second component", title="Do the months go round?",
)  # fmt: skip

# %% [markdown]
# Follow the names from January on. On pocket they go round, but not neatly: some neighbours change
# places, and the plane holds a third of the variance; the rest tells each month from all others. So
# it is a ring within a cloud. The days do *not* pass on pocket: at least one random order has a
# larger share than the week. (Any two directions hold much of seven points.) Number words come out
# above all random orders, too, if not by as much: the share says that neighbours are alike, not
# that the ends meet. The last column does: from December to January it is no further than between
# neighbours, from twelve to one it is. (In SmolLM2 the number words have the larger share.)
#
# Does the model *use* the ring? Turn each day by one step along it, at its own token, and leave all
# else. If the day were kept there, the model would go on one day later. Beside it: the whole
# difference to the next day's mean, and a step in random orders, each along its own ring.


# %%
def step(points, places):
    """By how much each point moves if its part on the ring of these places turns by one step."""
    n, offset = len(points), points - points.mean(0)
    turned = around((places + 1) % n, n) - around(places, n)
    return turned.T @ (around(places, n) @ offset)


# %%
def advance(name, change):
    """With `change` [item d_model] at the items: the gain of the item after the next over the next
    in logits, and the share of the prompts at which it comes first among the items."""
    answers = [int(model.to_tokens(f" {item}")[0, 1]) for item in rings[name]]
    i, found = torch.arange(len(answers)), []
    behind, wanted = (i + 1) % len(answers), (i + 2) % len(answers)
    add = {mid: lambda acts, where: acts + change[:, None].to(acts)}
    for ids in lists[name]:
        with torch.no_grad(), intervene(model, add, positions=[-2]):
            after = model(ids)[:, -1, answers].cpu()
        with torch.no_grad():
            gain = after - model(ids)[:, -1, answers].cpu()
        found.append([(gain[i, wanted] - gain[i, behind]).mean(),
                      (after.argmax(1) == wanted).float().mean()])  # fmt: skip
    return torch.tensor(found).mean(0).tolist()


# %%
day, n_days = means["days"], len(forms.DAYS)
whole, says_whole = advance("days", day.roll(-1, 0) - day)
along, says_along = advance("days", step(day, torch.arange(n_days)))
luck = [abs(advance("days", step(day, order))[0]) for order in shuffles["days"][:8]]
print(f"after the whole difference {says_whole:.2f} of the prompts go on one day later, "
      f"after a turn of the ring {says_along:.2f}")  # fmt: skip
claim("geometry.turn", along / whole, control=sum(luck) / len(luck) / whole)
claim("geometry.ring_alone", says_along, control=says_whole)

# %% [markdown]
# On pocket a turn does more than a step in random orders: the model reads what the turn changes.
# But the turn is by construction a part of the difference to the next day, and a random order's
# step is no such part. That the model reads a *circle*, and not just any such part, is not shown.
# And alone the turn hardly ever brings the day after the next (in SmolLM2 a little more often).
# On pocket half of the variance of the days is no ring.
#
# ### Families
#
# A mouse is an animal, and a woman's name is a name. In larger models a class was found to be a
# direction along which all its members lie equally far, and what sets members or subclasses apart
# was found to be orthogonal to it [@park2024hierarchical]. Two questions, of the stream where a
# word stands. How far does a member lie along the vector of its class, made from the *other*
# members and less the mean of all words? One is as far as they do. And which angle has the
# difference of two subclasses to the class of both? That two directions of many dimensions are
# nearly orthogonal says little. So beside it: the difference of two subclasses of which only one
# belongs to the class.

# %%
families = {"name": ("women", "men"), "feeling": ("feelings_good", "feelings_bad"),
            "quality": ("adjectives_good", "adjectives_bad")}  # fmt: skip
listed = {**lexicon.LEXICON, "women": lexicon.FEMALE, "men": lexicon.MALE}
classes = [name for pair in families.values() for name in pair] + ["animals", "foods"]
one_token = {
    name: [word for word in listed[name] if len(model.to_tokens(f" {word}")[0]) == 2][:40]
    for name in classes
}
of_class = torch.tensor([i for i, name in enumerate(classes) for _ in one_token[name]])
spoken = [word for name in classes for word in one_token[name]]
stream = sum(
    mi.sites.read(model, model.to_tokens([f"{lead} {word}" for word in spoken]), [mid])[mid][:, -1]
    for lead in ("We talked about", "They said", "It was the")
).cpu() / 3  # fmt: skip
stream = stream - stream.mean(0)


# %%
def along_class(of_class):
    """How far each word lies along the mean of its class's other words, in that mean's length."""
    far = []
    for i in of_class.unique():
        own = stream[of_class == i]
        others = (own.sum(0) - own) / (len(own) - 1)
        far.append((own * others).sum(1) / others.square().sum(1))
    return torch.cat(far)


# %%
mixed = [along_class(of_class[torch.randperm(len(of_class), generator=seeded(i))])
         for i in range(4)]  # fmt: skip
claim("geometry.members", along_class(of_class).mean(), control=torch.cat(mixed).mean())
figures.histogram(
    {"its class": along_class(of_class),
     "a class of shuffled words": mixed[0]},
    xlabel="how far a word lies along the mean of the class's others (1: as far)", bins=40,
    title="A member lies about as far along its class as the others",
)  # fmt: skip

# %%
half = {name: [stream[of_class == i][k::2].mean(0) for k in (0, 1)]
        for i, name in enumerate(classes)}  # fmt: skip


def angle(one, other, parent):
    """The size of the cosine between two subclasses' difference and a class, of other words."""
    whole = half[parent[0]][1] + half[parent[1]][1]
    difference = half[one][0] - half[other][0]
    return float(torch.cosine_similarity(difference, whole, dim=0).abs())


pairs_of = list(families.values())
within = [angle(*pair, pair) for pair in pairs_of]
across = [angle(pair[0], pairs_of[i - 1][0], pair) for i, pair in enumerate(pairs_of)]
print("within a class:", [round(a, 2) for a in within], "across:", [round(a, 2) for a in across])
claim("geometry.family", sum(within) / 3, control=sum(across) / 3)

# %% [markdown]
# On pocket a member lies along its class *on average* about as far as the others do, which words
# put together at random do not. That mean alone says little: it is near one for any class that has
# a clear mean of its own. That the members lie about *equally* far, the narrow peak says.
#
# What sets the two subclasses apart is nearly orthogonal to the class of both. But of two vectors
# of one length, sum and difference are always orthogonal (the diagonals of a rhombus). So it says
# that both subclasses lie about equally far along the class, and no more than that.
#
# What is *not* shown: that the model goes by these vectors. And members may have in common
# no more than that the texts put them in the same places.

# %%
claim.table()
