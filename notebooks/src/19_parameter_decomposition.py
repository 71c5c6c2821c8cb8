# ---
# title: "Decomposing parameters instead of activations"
# minutes: 60
# ---

# %% [markdown]
# **The question.** An SAE takes activations apart. Can we take the *weights* apart instead, into
# pieces of which each input needs few? Would we get the mechanisms themselves?
#
# **You need** superposition ([notebook 09](09_superposition.ipynb)), SAEs
# ([notebook 10](10_sparse_autoencoders.ipynb)) and the idea of ablation
# ([notebook 08](08_ablation_and_pruning.ipynb)).
#
# **You will be able to**
#
# - say what a good decomposition of a matrix has to be: faithful, minimal, simple;
# - compute how much an output owes to a part, by slope and by removal, and say why they differ;
# - train parts with random masks, and choose among trainings without knowing the truth;
# - measure whether the true parts were found, and why a cosine is not enough;
# - say where the method finds something else than you expected.
#
# All results are of toys and of pocket, whatever language model is loaded.

# %% [markdown] short=true
# ## 1. A matrix whose parts we know
#
# Five features share two dimensions. Row $j$ of $W$ is the direction of feature $j$; the five
# directions are a regular pentagon. The toy writes the features into two numbers and reads them
# back with the same matrix: $\hat x = \mathrm{ReLU}(x W W^\top)$ [@elhage2022superposition].
#
# What are its mechanisms? We *call* five matrices the true parts, as the papers do: part $j$ with
# row $j$ of $W$ and zeros elsewhere. They sum to $W$, and each is of rank
# one.

# %% short=true
from mi_helpers.toys import decomposition

angles = 2 * torch.pi * torch.arange(5) / 5 + 0.3
W = torch.stack([angles.cos(), angles.sin()], -1)  # [feature d_hidden]
truth = torch.eye(5)[:, :, None] * W  # [part feature d_hidden]
assert torch.equal(truth.sum(0), W)


def toy(x, W, b=0.0):
    """The toy's output [input feature]."""
    return (x @ W @ W.T + b).relu()


x = 0.8 * torch.eye(5)[1]
tried = {"all five parts": W, "part 1 alone": truth[1], "all but part 1": W - truth[1]}
mi.figures.table([
    {"weights": name, "output": ", ".join(f"{v:.2f}" for v in toy(x, some))}
    for name, some in tried.items()
], title="Feature 1 is there: its part alone gives it back, and nothing else")  # fmt: skip

# %% [markdown] short=true
# The first row has **ghosts**: values at the two neighbours, which are not there, as directions
# overlap. They need the neighbours' parts too: the true part of an input is not *exactly* enough.
#
# There is nothing unique about a sum. Any matrix is a sum of parts in infinitely many ways. Braun
# et al. [@braun2025apd] ask for three things:
#
# - **faithful**: the parts sum to the weights;
# - **minimal**: each input needs few of them;
# - **simple**: each part has a low rank.
#
# The singular value decomposition is faithful and simple. Is it minimal? It has two parts here, for
# five features. Look at how much of each feature comes through the first one.

# %% short=true
u, s, vh = torch.linalg.svd(W, full_matrices=False)
svd_parts = (u * s).T[:, :, None] * vh[:, None, :]  # [part feature d_hidden]
assert torch.allclose(svd_parts.sum(0), W, atol=1e-6)
alone = toy(torch.eye(5), svd_parts[0]).diagonal()
print("through the first singular part alone:", [round(v, 2) for v in alone.tolist()])

# %% [markdown]
# Some pass almost whole, some hardly, some in part. Each part serves several features. Two are
# few, but they do not say which feature does what. (The singular values are equal here, so which
# two directions come out is arbitrary.)

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 1: parts of rank one
# Part $c$ reads the direction $v_c$ and writes $u_c$. Return all parts as matrices.

# %% [markdown] tags=["hint"]
# An outer product for each part: give `V` a last axis of length one, and `U` one before its last.


# %% tags=["exercise"]
def part_matrices(V, U):
    """V: [part d_in]; U: [part d_out]  ->  [part d_in d_out]."""
    raise NotImplementedError


# %% tags=["solution"]
def part_matrices(V, U):
    return V[:, :, None] * U[:, None, :]


# %% tags=["check"]
check.part_matrices(part_matrices)

# %% [markdown]
# ## 2. How much does an output owe to a part?
#
# Attribution-based parameter decomposition (APD) asks the slope: by how much do the outputs move
# when the weights move a little along the part? It then keeps the parts with the largest
# attributions, makes them do the whole model's work, and prefers low rank [@braun2025apd]. The
# slope has two terms, as $W$ occurs twice. Beside it stands **removal**: what is lost when the part
# is taken out of $W$. Compare the diagonals.


# %%
def attributions(x, W, parts):
    """To first order, what each part adds to the outputs [input part feature]."""
    on = (x @ W @ W.T > 0).float()[:, None]
    read = torch.einsum("bf,pfh,gh->bpg", x, parts, W)
    written = torch.einsum("bf,fh,pgh->bpg", x, W, parts)
    return (read + written) * on


# %%
inputs = 0.8 * torch.eye(5)
by_slope = attributions(inputs, W, truth)
_, slope = torch.func.jvp(lambda weights: toy(inputs, weights), (W,), (truth[2],))
assert torch.allclose(slope, by_slope[:, 2], atol=1e-6)
removed = torch.stack([toy(inputs, W) - toy(inputs, W - part) for part in truth], 1)
mi.figures.heatmap(
    torch.stack([by_slope.square().mean(-1).sqrt(), removed.square().mean(-1).sqrt()]),
    x=[f"part {i}" for i in range(5)], y=[f"feature {i}" for i in range(5)],
    facets=["by slope", "by removal"], title="What each feature alone owes to each part",
    colorbar="root mean square", center=None,
)  # fmt: skip

# %% [markdown]
# Colours are root mean squares over the five outputs. Both see which part counts, but the slope's
# diagonal is nearly twice as large: for a feature's own output it says exactly twice what removal
# does. The output is of second degree in $W$, and all slopes add up to *twice* the output.

# %%
own = torch.arange(5)
assert torch.allclose(by_slope[own, own, own], 2 * removed[own, own, own], atol=1e-5)
assert torch.allclose(by_slope.sum(1), 2 * toy(inputs, W), atol=1e-5)

# %% [markdown] short=true
# ## 3. Cut back at random
#
# The successor, stochastic parameter decomposition (SPD), needs no slopes and no number of parts to
# keep, but still a number of parts and a price [@bushnaq2025spd]. Parts are of rank one from the
# start. For every input each part gets an **importance** $g$ from 0 to 1, from a small network of
# its own that sees what the part reads. Each part is multiplied by a random mask between $g$ and 1:
# at $g = 1$ it stays whole, at $g = 0$ it may be anything from gone to whole. The toy must still
# give what it gave. The loss is
#
# $$\lVert W - \textstyle\sum_c P_c \rVert^2 / n + \text{error under masks}
# + \text{price} \cdot \textstyle\sum_c g_c,$$
#
# where $n$ is the number of weights. We leave out the paper's loss layer by layer. As in the
# authors' later code (not in the paper), what the parts leave out of $W$ is multiplied by a random
# number too.

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 2: random masks
# Turn importances $g$ and random numbers, both from 0 to 1, into masks: uniform between $g$ and 1.
# A random number of 0 is to give $g$, and one of 1 to give 1.

# %% [markdown] tags=["hint"]
# With `random` at 0 the mask is `g`; at 1 it is 1.


# %% tags=["exercise"]
def random_masks(importance, random):
    """importance, random: [input part]  ->  [input part]."""
    raise NotImplementedError


# %% tags=["solution"]
def random_masks(importance, random):
    return importance + (1 - importance) * random


# %% tags=["check"]
check.random_masks(random_masks)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: a matrix under masks
# Multiply activations with a matrix that is a sum of parts, each part under a mask that may differ
# from input to input. Build no matrix for each input.

# %% [markdown] tags=["hint"]
# What a part reads is one number for each input. Mask that number, then write.


# %% tags=["exercise"]
def masked_product(a, V, U, masks):
    """a: [input d_in]; V: [part d_in]; U: [part d_out]; masks: [input part]  ->  [input d_out]."""
    raise NotImplementedError


# %% tags=["solution"]
def masked_product(a, V, U, masks):
    return ((a @ V.T) * masks) @ U


# %% tags=["check"]
check.masked_product(masked_product)

# %% [markdown] short=true
# The helper trains several decompositions side by side. Here are twelve of the same $W$, eight
# parts each. Eight differ by chance alone (start, inputs, masks), two have a twentieth of the
# price, two ten times. At first the parts sum to $W$, but mean nothing. `matrices("W", x)`
# multiplies with $W$, whole or masked; `matrices.back` multiplies with its transpose, under the
# same masks.


# %% short=true
def forward(x, matrices):
    """The toy, from whole or masked matrices; x: [instance input feature]."""
    return matrices.back("W", matrices("W", x)).relu()


def draw(generator, instances=12):
    """Inputs on which a feature is there one time in ten [instance input feature]."""
    return mi.toys.draw_features(torch.full((instances, 5), 0.1), 256, generator)


# %% short=true
price = 6e-3
many = W.expand(12, 5, 2).contiguous()
recipe = decomposition.DecompositionConfig(
    parts=8, sparsity=(price,) * 8 + (price / 20,) * 2 + (price * 10,) * 2,
    steps=1500, lr=1e-2, neurons=8,
)  # fmt: skip
run = decomposition.start({"W": many}, recipe)
first = run.parts("W")
decomposition.train(run, forward, draw)
parts = run.parts("W")
assert torch.allclose(parts.sum(1), many, atol=0.02)

# %% [markdown] short=true
# Do the parts sum to $W$? Look at the column *left out* first. Then: how many parts does an input
# with one feature need? We count a part whose importance is above one tenth.

# %% short=true
each = inputs.expand(12, 5, 5)


def needed(run, x=each, forward=forward):
    """Parts that count, mean over inputs with one feature [instance]."""
    return (run.importances(forward, x)["W"] > 0.1).float().sum(-1).mean(-1)


def error(run, x=each, forward=forward):
    """Mean squared error with each part at its importance, and none of the rest [instance]."""
    masked = run.masked(run.importances(forward, x))
    whole = forward(x, decomposition.Whole(run.weights))
    return (forward(x, masked) - whole).square().mean((1, 2)).detach()


left_out = run.rest("W").detach().flatten(1).norm(dim=1) / W.norm()
kinds = ["as it is"] * 8 + ["a twentieth"] * 2 + ["ten times"] * 2
mi.figures.table([
    {"price": kind, "parts an input": n, "error": e, "left out": r}
    for kind, n, e, r in zip(kinds, needed(run), error(run), left_out, strict=True)
], title="Twelve decompositions", digits=3)  # fmt: skip

# %% [markdown] short=true
# All sum to $W$. Price too low, and an input uses many parts. Too high, and hardly anything is left
# to do the work: the error is about that of a toy without weights. In between, some starts end with
# one part for a feature: here two of eight, in another draw six. The others are stuck with more
# parts, at a smaller error. We take the start with the smallest sum of parts
# and ten times the error, which needs no knowledge of the truth.

# %% short=true
counted = needed(run)
score = counted[:8] + 10 * error(run)[:8]
best = int(score.argmin())
claim("parts.few", counted[:8].mean(), control=counted[8:10].mean())
claim("parts.price", error(run)[10:].mean(), control=error(run)[best])

# %% [markdown] short=true
# ## 4. Are these the true parts?
#
# The papers compare directions: for each row of $W$, the largest cosine with the same row of any
# part, and the ratio of the two lengths [@braun2025apd; @bushnaq2025spd]. We add a harder measure:
# the **distance** of each true part from the nearest part that was found, as matrices, over the
# length of the true one. It is 0 where the part was found, and about 1 or more where there is none.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 4: how far is the nearest part?
# For each true part return the distance of the nearest part (the root of the sum of squared
# differences), over the true part's own length.

# %% [markdown] tags=["hint"]
# `truth[:, None] - parts` holds all differences; flatten the last two axes for `norm`.


# %% tags=["exercise"]
def nearest_part(truth, parts):
    """truth: [true d_in d_out]; parts: [part d_in d_out]  ->  [true]."""
    raise NotImplementedError


# %% tags=["solution"]
def nearest_part(truth, parts):
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    return far.amin(1) / truth.flatten(1).norm(dim=-1)


# %% tags=["check"]
check.nearest_part(nearest_part)


# %% short=true
def distance(truth, parts):
    """Mean distance of true parts from the nearest part."""
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    return float((far.amin(1) / truth.flatten(1).norm(dim=-1)).mean())


def cosine_and_length(W, parts):
    """Mean largest cosine of a row with that of a part, and the lengths' mean ratio."""
    cosines, which = torch.cosine_similarity(parts, W, dim=-1, eps=1e-6).max(0)
    lengths = parts.norm(dim=-1).gather(0, which[None])[0] / W.norm(dim=-1)
    return float(cosines.mean()), float(lengths.mean())


# %% short=true
shown = {"SPD, the chosen start": parts[best], "SPD, before training": first[best],
         "SPD, low price": parts[8], "singular parts": svd_parts, "the truth": truth}  # fmt: skip
rows = []
for name, some in shown.items():
    cosine, length = cosine_and_length(W, some)
    rows.append({"parts": name, "largest cosine": cosine, "ratio of lengths": length,
                 "distance": distance(truth, some)})  # fmt: skip
mi.figures.table(rows, title="Found? The cosine alone hardly tells", digits=3)

# %% [markdown] short=true
# Look at the column of cosines. In two dimensions eight parts that mean nothing come close to every
# direction. **A largest cosine says little where parts are many and dimensions few.** Lengths tell
# some apart, but not the singular parts; the distance does. It is not zero: beside its own row each
# part has a little of the neighbours' rows. That makes ghosts, which a true part alone cannot.

# %% short=true
spread = torch.tensor([distance(truth, some) for some in parts])
lean = counted[:8] < 1.1
untrained = sum(cosine_and_length(W, some)[0] for some in first[:8]) / 8
claim("parts.found", spread[best], control=spread[8:10].mean())
claim("parts.lean", spread[:8][lean].mean(), control=spread[:8][~lean].mean())
claim("parts.cosine", untrained, control=rows[0]["largest cosine"])
print("distances of eight starts:", [round(float(d), 2) for d in spread[:8]])

# %% [markdown]
# Here the leanest starts also found the true parts, and the stuck ones did not. Does each part do
# what its name says? Take each feature's most important part out of $W$, and look at all features.
# A feature should lose its own output (the diagonal), the others should keep theirs. For comparison
# we take out singular parts: for each feature the one whose removal costs it more.


# %%
def lost(some):
    """What each feature's own output loses without each part [part feature]."""
    kept = torch.stack([toy(inputs, W - part).diagonal() for part in some])
    return toy(inputs, W).diagonal() - kept


# %%
own_part = run.importances(forward, each)["W"][best].argmax(-1)
panels = [lost(parts[best][own_part]), lost(svd_parts)[lost(svd_parts).argmax(0)]]
mi.figures.heatmap(
    torch.stack(panels), y=[f"without {i}'s part" for i in range(5)],
    x=[f"feature {i}" for i in range(5)], facets=["SPD", "singular"],
    title="What each feature loses when a part is taken out", colorbar="output lost",
)  # fmt: skip

# %%
aside = [float(p[~torch.eye(5).bool()].abs().mean() / p.diagonal().mean()) for p in panels]
claim("parts.alone", aside[0], control=aside[1])

# %% [markdown]
# Last, the number of parts. If we tell the method the right one, five, does it do better? Four
# starts, all else the same. Look at the distance, and at what an input needs.

# %%
five = decomposition.DecompositionConfig(parts=5, sparsity=price, steps=1500, lr=1e-2, neurons=8)
told = decomposition.start({"W": many[:4]}, five)
decomposition.train(told, forward, lambda generator: draw(generator, 4))
far = [distance(truth, some) for some in told.parts("W")]
mi.figures.table([
    {"start": i, "parts an input": n, "distance": d}
    for i, (n, d) in enumerate(zip(needed(told, each[:4]), far, strict=True))
], title="Five parts for five features", digits=2)  # fmt: skip

# %%
claim("parts.five", min(far), control=spread[:4].min())

# %% [markdown]
# It does not: no start finds them all. Whether spare parts help, or are only more starts to choose
# from, four starts do not tell.

# %% [markdown]
# Choose one of the eight trainings and a feature: which parts does the input use, and what is each?


# %%
def used(training, feature):
    """The parts of one training: how important for one feature, and their rows' lengths."""
    importance = run.importances(forward, each)["W"][training, feature]
    lengths = parts[training].norm(dim=-1)
    rows = [
        {"part": i, "importance": float(g), **{f"row {j}": float(n) for j, n in enumerate(p)}}
        for i, (g, p) in enumerate(zip(importance, lengths, strict=True))
    ]
    title = f"Training {training}: parts for feature {feature}, and the lengths of their rows"
    return mi.figures.table(rows, title=title, digits=2)


# %%
mi.figures.explore(used, training=list(range(8)), feature=list(range(5)),
                   start={"training": best, "feature": 0})  # fmt: skip

# %% [markdown]
# ## 5. By attribution
#
# APD learns no importances: it takes the slopes of section 2. Of a whole batch it **keeps** the
# parts with the largest attributions, so many an input on average; the others are gone. What is
# kept must give what the toy gave. A part may have a higher rank, here two, all that $W$ can have,
# and what costs is the sum of the singular values of the kept parts: that is how it becomes
# simple. We keep a little less than one part for each feature that is there. The trainer is the
# same. Six starts have the usual price of singular values, three a twentieth, three twice the
# price.

# %%
dear = 6e-2
by_rank = decomposition.DecompositionConfig(
    parts=8, rank=2, keep=0.42, sparsity=(dear,) * 6 + (dear / 20,) * 3 + (dear * 2,) * 3,
    steps=1500, lr=3e-2,
)  # fmt: skip
apd = decomposition.start({"W": many}, by_rank)
by_hand = attributions(inputs, W, apd.parts("W")[0]).square().mean(-1).sqrt()
assert torch.allclose(apd.attributions(forward, each)[0], by_hand, atol=1e-5)
decomposition.train(apd, forward, draw)
assert torch.allclose(apd.parts("W").sum(1), many, atol=0.05)

# %% [markdown]
# The helper's attributions are those we wrote out above. As a second control, three starts keep
# about twice as many parts as there are features.

# %%
lax = decomposition.DecompositionConfig(
    parts=8, rank=2, keep=1.0, sparsity=dear, steps=1500, lr=3e-2
)
loose = decomposition.start({"W": many[:3]}, lax)
decomposition.train(loose, forward, lambda generator: draw(generator, 3))
assert torch.allclose(loose.parts("W").sum(1), many[:3], atol=0.05)

# %% [markdown]
# Now the same measures for both methods, on the same random inputs, of which we look at those with
# one feature: how many parts an input uses, the error with these alone, the largest cosine, and the
# distance from the truth, mean and worst of the starts. New is the rank: the second singular value
# over the first, mean over parts of some size.


# %%
def on_single(run, some=slice(None)):
    """Parts an input with one feature uses, and the error with these alone; means over starts."""
    x = draw(torch.Generator().manual_seed(9), len(run.weights["W"]))
    used = run.importances(forward, x)["W"]
    off = forward(x, run.masked({"W": used})) - forward(x, decomposition.Whole(run.weights))
    one = ((x > 0).sum(-1) == 1)[some]
    found = (used > 0.1).float().sum(-1)[some][one], off.square().mean(-1)[some][one]
    return [float(each_input.detach().mean()) for each_input in found]


def second(parts):
    """Second singular value over the first, mean over parts of some size."""
    values = torch.linalg.svdvals(parts).flatten(0, -2)
    return float((values[:, 1] / values[:, 0])[values[:, 0] > 0.2].mean())


# %%
kinds = {
    "SPD": (run, slice(0, 8)), "SPD, the chosen start": (run, slice(best, best + 1)),
    "APD": (apd, slice(0, 6)), "APD, a twentieth of the price": (apd, slice(6, 9)),
    "APD, twice the price": (apd, slice(9, 12)), "APD, keeps more": (loose, slice(0, 3)),
}  # fmt: skip

# %%
rows, apart = [], {}
for name, (which, some) in kinds.items():
    found = which.parts("W")[some]
    apart[name] = torch.tensor([distance(truth, one) for one in found])
    count, off = on_single(which, some)
    cosines = torch.tensor([cosine_and_length(W, one)[0] for one in found])
    far = {"cosine": cosines.mean(), "distance": apart[name].mean(), "worst": apart[name].max()}
    rows.append({"method": name, "parts an input": count, "error": off, "second": second(found)})
    rows[-1] |= {measure: float(value) for measure, value in far.items()}
mi.figures.table(rows, title="Two ways to say which parts an input needs", digits=3)

# %% [markdown]
# By attribution *every* start ends near the true parts, each of rank one, though rank two was
# allowed. At a low price parts stay of rank two in part, and lie far from the truth; at twice the
# price they are of rank one, and farther from it than at the usual price. And where more parts are
# kept than there are features, an input uses more. So attribution hangs on two numbers that have to
# be right, and one of them is how many features an input has. Its parts are also too small; the
# sum is right all the same, so other parts make up for what each of them lacks. The paper calls
# that shrinkage, and its second paper finds less [@braun2025apd; @bushnaq2025spd].

# %%
size = [torch.linalg.svdvals(some)[..., 0].topk(5).values.mean()
        for some in (apd.parts("W")[:6], parts[best])]  # fmt: skip
claim("parts.apd_found", apart["APD"].max(), control=apart["APD, keeps more"].min())
claim("parts.apd_price", apart["APD"].mean(), control=apart["APD, a twentieth of the price"].mean())
claim("parts.apd_rank", rows[2]["second"], control=rows[3]["second"])
claim("parts.apd_shrunk", size[0], control=size[1])

# %% [markdown] short=true
# ## 6. An SAE on the same toy
#
# An SAE sees the two hidden numbers alone. Does it find the five directions? We give it as many
# units as SPD has parts, and let one fire at a time.

# %%
samples = draw(torch.Generator().manual_seed(0), instances=40).flatten(0, 1)
hidden = samples[(samples > 0).any(-1)] @ W
small = mi.sae.Recipe("topk", d_sae=8, k=1, steps=400, batch=256, lr=1e-2)
sae = mi.sae.train(mi.sae.start(mi.sae.Vectors(hidden), small), progress=False).sae()


def degrees(rows, units):
    """The angle of each row with the nearest unit."""
    return torch.rad2deg(mi.sae.matched_cosine(rows, units).clamp(max=1).acos())


# %%
random_rows = torch.randn(200, 8, 2, generator=torch.Generator().manual_seed(0))
by_chance = torch.stack([degrees(W, rows) for rows in random_rows]).mean()
claim("parts.sae", degrees(W, sae.W_dec).mean(), control=by_chance)
units = torch.nn.functional.normalize(sae.W_dec, dim=-1)
fires = (sae.encode(hidden) > 0).any(0)
print("units that fire:", int(fires.sum()))
print("degrees to a feature:", [round(float(a)) for a in degrees(units[fires], W)])
along = torch.einsum("fh,uh,ug->ufg", W, units, units)  # [unit feature d_hidden]
claim("parts.sae_parts", distance(truth, along), control=spread[best])

# %% [markdown]
# A true direction has, on average, a unit within ten degrees. A unit with a large angle in the
# last printed line lies between features. An SAE gives directions, no parts of the *weights*. The
# obvious way to
# make some, the part of $W$ along each unit, fails: it holds a piece of every feature that is not
# at a right angle, and the distance is above that of no part at all.
#
# ## 7. What a threshold hides
#
# Trained toys have a negative bias: a threshold that cuts ghosts off (notebook 09). Give ours one,
# with longer rows to make up for it, and decompose again, from six starts. Compare the columns: how
# many parts an input needs, how many are in use at all, and how far the true ones are.

# %%
bias, longer = -0.24, 1.13 * W


def with_threshold(x, matrices):
    """The toy with a bias."""
    return (matrices.back("W", matrices("W", x)) + bias).relu()


# %%
cut = decomposition.start(
    {"W": longer.expand(6, 5, 2).contiguous()},
    decomposition.DecompositionConfig(parts=8, sparsity=price, steps=1500, lr=1e-2, neurons=8),
)
decomposition.train(cut, with_threshold, lambda generator: draw(generator, 6))
counts = needed(cut, each[:6], with_threshold)
wrong = error(cut, each[:6], with_threshold)
gone = [distance(1.13 * truth, some) for some in cut.parts("W")]

# %%
in_use = (cut.importances(with_threshold, each[:6])["W"] > 0.1).any(1).sum(-1)
mi.figures.table([
    {"start": i, "parts an input": counts[i], "error": wrong[i], "distance": gone[i],
     "parts in use": int(in_use[i])}
    for i in range(6)], title="One part an input, in some starts fewer parts than features",
    digits=4)  # fmt: skip

# %%
assert counts.mean() < 1.5
print("the rule of section 3 takes start", int((counts + 10 * wrong).argmin()))
claim("parts.merged", int(in_use.min()), control=int(in_use.max()))

# %% [markdown]
# Here every start ends with one part for an input, in another draw not all, at much the same error.
# Some have the true parts. In others two features that point nearly in opposite directions *share*
# a part, which reads one with a plus and the other with a minus, and writes along a line between
# them. The two are seldom there together, and the threshold hides most of the distortion. So the
# rule by which we chose in section 3 can choose wrongly: look up the printed start in the table.
# The paper's longer training, at half the price and with more parts, finds all five on such a toy
# [@bushnaq2025spd].

# %% [markdown]
# ## 8. More functions than neurons
#
# The papers' next toy computes. Twenty features are written into a stream by fixed random
# directions $E$ and read out by the same ones; an MLP of ten neurons adds to the stream, and the
# toy should give $x + \mathrm{ReLU}(x)$ for every feature [@braun2025apd]. There are two matrices
# now. [A script](../data/decomposition/README.md) trained three toys, smaller than the paper's, and
# decomposed them. First: do the neurons do more than one function each? Compare the toy's error
# with that of ten neurons that each serve one feature and serve it perfectly.

# %%
from mi_data.decomposition import resid_mlp

toys = resid_mlp.toys()
x = resid_mlp.draw(torch.Generator().manual_seed(3), 4096)
off = toys.forward(x, decomposition.Whole(toys.weights())) - resid_mlp.wanted(x)
half = x[..., resid_mlp.NEURONS :].relu().square().sum(-1) / resid_mlp.FEATURES
claim("resid.toy", off.square().mean(), control=half.mean())

# %% [markdown]
# A little better. Is that more functions than neurons? It is disputed: on the paper's toy the gain
# came of noise, as the directions in $E$ overlap and mix the features in the stream, and it was
# gone without that mixing [@bhagat2026compressed]. Ours has it too, and we did not take it out.
#
# What is the truth here? A mechanism is what one feature needs. In $W_\mathrm{in}$ that is its row
# of $E W_\mathrm{in}$, of rank one, twenty parts for a matrix of rank ten. For $W_\mathrm{out}$ the
# papers disagree: APD gave each feature a part of it, SPD found all of the matrix in use for every
# feature.
#
# Each toy was decomposed from three starts into thirty parts a matrix. Which start is the best? We
# take the one with the lowest training loss: no truth is needed for that. Look at the parts an
# input uses in both matrices, and at the true parts of $W_\mathrm{in}$: how far the nearest part
# is, and for what share it is nearer than half their length.


# %%
def features_of(run, toys):
    """What the parts of W_in do to features [instance part feature neuron]."""
    return toys.E[:, None] @ run.parts("W_in")


def loss(run):
    """The training loss at the end [instance]."""
    faithful, wrong, paid = (torch.tensor(run.log[-1][k]) for k in (
        "faithful", "reconstruction", "importance"))  # fmt: skip
    return faithful + wrong + run.config.sparsity * paid


def leanest(run):
    """For each toy the instance with the lowest loss, of all its starts."""
    losses = loss(run).view(-1, resid_mlp.TOYS)
    return losses.argmin(0) * resid_mlp.TOYS + torch.arange(resid_mlp.TOYS)


# %%
def parts_used(run, toys):
    """Parts that count for an input with one feature, by matrix [instance input]."""
    x = 0.75 * torch.eye(resid_mlp.FEATURES).expand(len(toys.E), -1, -1)
    used = run.importances(toys.forward, x)
    return {name: (g > 0.1).float().sum(-1) for name, g in used.items()}


def share_found(truth, parts):
    """True parts that have a part nearer than half their length."""
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1).amin(1)
    return float((far < truth.flatten(1).norm(dim=-1) / 2).float().mean())


true_parts = resid_mlp.truth(toys)


# %%
found, tried = {}, []
for name, (starts, _) in resid_mlp.RUNS.items():
    some, of_toys = resid_mlp.parts(name), toys.repeated(starts)
    chosen, number = leanest(some), parts_used(some, of_toys)
    found[name] = features_of(some, of_toys)[chosen]
    pairs = list(zip(true_parts, found[name], strict=True))
    left = some.rest("W_in").detach().flatten(1).norm(dim=1) / of_toys.W_in.flatten(1).norm(dim=1)
    tried.append({"training": name, "left out of W_in": float(left[chosen].mean())})
    tried[-1] |= {f"parts of {k}": float(n[chosen].mean()) for k, n in number.items()}
    tried[-1] |= {"distance": sum(distance(*pair) for pair in pairs) / len(pairs)}
    tried[-1] |= {"found": sum(share_found(*pair) for pair in pairs) / len(pairs)}
mi.figures.table(tried, title="Three toys of compressed computation, means", digits=3)

# %%
by_name = {row["training"]: row for row in tried}
strangers = [share_found(*p) for p in zip(true_parts.roll(1, 0), found["usual"], strict=True)]
claim("resid.found", by_name["usual"]["found"], control=sum(strangers) / len(strangers))
claim("resid.twelve", by_name["twelve"]["distance"], control=by_name["usual"]["distance"])
claim("resid.few", by_name["usual"]["parts of W_in"], control=by_name["cheap"]["parts of W_in"])

# %% [markdown]
# At the usual price an input with one feature uses about one part of $W_\mathrm{in}$, and more than
# half of the features have found theirs; others still share one. At a hundredth of the price an
# input uses many. Twelve parts are enough to sum to the matrix, but not one for each feature. (The
# rule looks at the loss alone, and the start it takes is not always the one nearest to the truth.)
# And $W_\mathrm{out}$? Look at which neurons its parts read, those that count for any input: here
# in the first toy.

# %%
usual, of_toys = resid_mlp.parts("usual"), toys.repeated(resid_mlp.RUNS["usual"][0])
best_start = leanest(usual)[0]
x = 0.75 * torch.eye(resid_mlp.FEATURES).expand(len(of_toys.E), -1, -1)
busy = (usual.importances(of_toys.forward, x)["W_out"] > 0.1).any(1)
reads = torch.nn.functional.normalize(usual.leaves["W_out.V"].detach(), dim=-1).square()
shown = reads[best_start][busy[best_start]]
mi.figures.heatmap(
    shown[shown.argmax(-1).argsort()], x=[f"neuron {i}" for i in range(resid_mlp.NEURONS)],
    ylabel="part of the writing matrix", title="Each part of the writing matrix reads one neuron",
    colorbar="share of its squared length", center=None,
)  # fmt: skip

# %%
anything = torch.randn(1000, resid_mlp.NEURONS, generator=torch.Generator().manual_seed(0))
anything = torch.nn.functional.normalize(anything, dim=-1).square()
claim("resid.neurons", reads[busy].amax(-1).mean(), control=anything.amax(-1).mean())

# %% [markdown]
# Its parts are the neurons, one each, and a feature uses two or three of them. That is neither of
# the papers' answers, on a smaller toy and with another price. A neuron that is off writes nothing,
# so its part is not needed: of all ways to cut this matrix, the neurons' is the one in which an
# input needs few.

# %% [markdown] short=true
# ## 9. One matrix of pocket
#
# Now a real matrix, if small: the one with which pocket's first MLP reads the stream. Without it no
# fact is left, without that of any later MLP most are. [A
# script](../data/decomposition/README.md) trained more parts than the matrix has rows on prompts
# for four facts about countries. Faithfulness is dear there. Do the parts sum to the matrix? For
# comparison each part writes what another one should.

# %% short=true
from mi_data.decomposition import train as decomposed

pocket = decomposed.pocket()
matrix = pocket.blocks[decomposed.LAYER].mlp.W_in.detach()[None]
of_pocket = decomposition.load(decomposed.HERE / "parts_0.safetensors", {"W_in": matrix})
missing = of_pocket.rest("W_in").detach().norm() / matrix.norm()
read, write = (of_pocket.leaves[f"W_in.{x}"].detach() for x in "VU")
mixed = (matrix - read.mT @ write.roll(1, 1)).norm() / matrix.norm()
claim("parts.pocket_left_out", missing, control=mixed)

# %% [markdown] short=true
# They do. How many of them does an input use? We ask on phrasings that were not trained on: at
# every token, which parts count? Keep these alone, and nothing of the rest, and see which facts are
# left. Beside it: as many parts drawn at random from those that are ever in use, and as many
# chosen by the length of what they write, for which no importance had to be trained.

# %% short=true
some = decomposed.prompts(pocket, "test", each=2)
answers, all_prompts = decomposed.Answers(pocket, some), torch.arange(len(some.last))[None]
size = int(some.last.max()) + 1
acts, named = answers.read[None, :, :size], some.named[:, :size]
inside = torch.arange(size) <= some.last[:, None]
importance = of_pocket.importances(lambda a, matrices: matrices("W_in", a), acts)["W_in"]
use = (importance > 0.1).float()
in_use = use[0][inside].any(0)


def as_many(scores):
    """1 for the parts with the largest scores, as many as count there [1 prompt pos part]."""
    return (scores.argsort(-1, descending=True).argsort(-1) < use.sum(-1, keepdim=True)).float()


# %% short=true
@torch.no_grad()
def with_masks(masks, rest=0.0):
    """Share of facts that are right, and the divergence from the whole model, in nats."""
    found = answers(all_prompts, of_pocket.masked({"W_in": masks}, rest))
    right = (found[0].argmax(-1) == some.answer).float().mean()
    return float(right), float(decomposed.divergence(found, target))


with torch.no_grad():
    target = answers(all_prompts, decomposition.Whole({"W_in": matrix}))

# %% short=true
chance = torch.rand(use.shape, generator=torch.Generator().manual_seed(0)) + in_use
long = (acts @ read.mT).abs() * write.norm(dim=-1)
kept = {
    "all of it": with_masks(torch.ones_like(use), 1.0),
    "parts that count": with_masks(use),
    "random parts": with_masks(as_many(chance)),
    "largest parts": with_masks(as_many(long)),
}
few = float(use[0].sum(-1)[inside].mean())
claim("parts.pocket_alone", kept["parts that count"][0], control=kept["random parts"][0])
mi.figures.table([
    {"kept at each token": name, "facts": right, "divergence": far}
    for name, (right, far) in kept.items()
], title=f"Of {use.shape[-1]} parts a token uses {few:.0f}", digits=2)  # fmt: skip

# %% [markdown] short=true
# A few parts a token do nearly the whole matrix's work, as many random ones nothing. The largest
# parts come close to those that training picked: what is gained is more in the parts than in
# the choice.

# %% [markdown]
# How many singular parts does it take, the same for all tokens, to answer as many facts? (The race
# is not even: our parts are chosen anew at each token, from many more than that.)

# %%
u, s, vh = torch.linalg.svd(matrix[0], full_matrices=False)
needs = {}
for r in (16, 32, 48, 64, 96):
    low = decomposition.Whole({"W_in": ((u[:, :r] * s[:r]) @ vh[:r])[None]})
    with torch.no_grad():
        found = answers(all_prompts, low)[0].argmax(-1)
    needs[r] = float((found == some.answer).float().mean())
enough = [r for r, right in needs.items() if right >= kept["parts that count"][0]]
singular = min(enough, default=len(s))
claim("parts.pocket_few", few, control=singular)

# %% [markdown]
# Which parts does a *fact* use? The country's name is where a fact begins. At the name's tokens
# alone, take out of the matrix the parts that count there, and leave all else as it is. Then take
# out as many others that are in use somewhere. And are the parts of a name the same whichever of
# the four facts is asked?

# %%
others = as_many(chance * (use == 0))
at_name = named[None, ..., None]
out = {"the name's parts": with_masks(1 - use * at_name, 1.0),
       "as many others": with_masks(1 - others * at_name, 1.0)}  # fmt: skip
claim("parts.pocket_ablated", out["the name's parts"][1], control=out["as many others"][1])
mi.figures.table([
    {"taken out at the name": name, "facts": right, "divergence": far}
    for name, (right, far) in out.items()
], title="Facts suffer without the parts of their country's name", digits=3)  # fmt: skip

# %%
ends = named.float().cumsum(1).argmax(1)
sets = use[0, torch.arange(len(ends)), ends]
both = sets @ sets.T
overlap = both / (sets.sum(1)[:, None] + sets.sum(1) - both).clamp(min=1)
same = torch.tensor([[a == b for b in some.subject] for a in some.subject])
other_fact = some.relation[:, None] != some.relation
claim("parts.pocket_name", overlap[same & other_fact].mean(), control=overlap[~same].mean())

# %% [markdown]
# Prompts on one country share more of the name's parts than prompts on two, whichever fact is
# asked: these parts tell more of the country than of the question. But look where we asked: where
# the question follows the name, the model cannot know it yet, and where the name comes first, the
# matrix reads just the same there. Whether parts elsewhere are of facts, this does not say.
#
# ## 10. What does not work yet
#
# - On the toy many starts of SPD are stuck after this short training (the paper's is longer, with
#   larger batches and more parts), and that is a matrix of ten numbers. APD is not stuck, but has
#   to be told how many features an input has, and its parts are too small.
# - With a threshold our training may let two features share a part.
# - In the toy of compressed computation not every start of SPD gives each feature its part.
# - Of pocket we have one matrix, on prompts of one kind. An earlier try, on the fifth MLP's with
#   faithfulness as cheap as in the toy, gave parts that left out more than the matrix. **Look at
#   faithfulness before anything else**, and whether the matrix is needed at all.
# - No part of pocket's is a mechanism with a name. Nobody told us how many there should be.

# %% [markdown] short=true
# ## Summary
#
# - Parameter decomposition writes weights as a sum of parts of which each input needs few.
# - In a short training on a toy some starts of SPD find the parts, up to the ghosts between
#   features. Without a threshold the leanest starts were the true ones; with one they need not be.
# - APD comes near them from every start, with parts too small, if the price is right and it is told
#   how many parts an input needs.
# - Given the right number of parts no start of four found them all; with spare ones some did.
# - Cosines flatter: in two dimensions parts that mean nothing have large ones as well.
# - An SAE finds the directions of the same toy, but no parts of the weights.
# - A toy with more features than neurons comes apart in part: of its reading matrix, on average
#   over three toys, more than half of the features found a part of their own.
# - Parts of pocket's first reading matrix sum to it, a token uses a few of them, and facts are
#   disturbed without those of the country's name. At the name they tell more of the country than of
#   the fact that is asked; at other tokens we did not look.
#
# ## Where to read on
#
# APD: [@braun2025apd]; SPD: [@bushnaq2025spd]; both begin with this toy. SAEs and what they miss:
# [notebook 10](10_sparse_autoencoders.ipynb).

# %%
claim.table()
