# ---
# title: Steering
# minutes: 90
# ---

# %% [markdown]
# **The question.** Add one vector to the residual stream while the model runs, and it writes
# differently. How well does that work, what does it cost, and is it better than simply asking?
#
# **You need** the residual stream ([notebook 01](01_residual_stream.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - make a steering vector in six ways, save it, and apply it so that nothing stays behind;
# - sweep layer and strength, and find the sweet spot and the cliff;
# - compare ways at *equal cost*, beside random and shuffled-label directions;
# - say what else a vector changes, and where it stops to work;
# - choose a feature of a sparse autoencoder by its effect, add it, clamp it, switch it off;
# - set steering against its rivals: a prompt, a bias on the logits, a little fine-tuning.

# %% [markdown]
# ## 1. One pair of prompts
#
# Steering in its simplest form [@turner2023actadd]: two prompts that differ in one thing, the
# activations of one minus those of the other, added to a third prompt. In two dimensions:

# %%
loved, hated = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])
neutral = torch.tensor([0.5, 2.0])
neutral + 1.5 * (loved - hated)

# %% [markdown]
# What the two share, the second coordinate, cancels: it is as it was. The first moved.
#
# Now a model. First by hand: read the stream of both prompts at the last position, subtract, add
# the difference to a prompt that says nothing good or bad. We look at one number, the logit of
# " good" minus that of " bad".

# %%
from mi_helpers import steering

layer = model.cfg.n_layers // 2
hook = f"blocks.{layer}.hook_resid_post"
pair = ["We tried the cake. I loved it. Overall, it was",
        "We tried the cake. I hated it. Overall, it was"]  # fmt: skip
prompt = model.to_tokens("We tried the film last week. In short, it was")
words = torch.tensor([[mi.prompts.single_token(model, word) for word in (" good", " bad")]])


def last(text):
    """The stream after the layer, at the last position, [d_model]."""
    return model.run_with_cache(text, names_filter=hook)[1][hook][0, -1]


by_hand = last(pair[0]) - last(pair[1])
logits = model.run_with_hooks(prompt, fwd_hooks=[(hook, lambda acts, hook: acts + by_hand)])

# %% [markdown]
# The helper does the same. A steering vector is data: it knows its layer, its origin and its model,
# and refuses any other. Inside the `with` the model is steered, whatever runs it; on leaving it is
# as before. If nothing was changed inside, that is an error, not a result.

# %%
one_pair = steering.make(model, pair[:1], pair[1:], layer)
with steering.add(model, one_pair) as fired:
    steered = model(prompt)
assert torch.allclose(steered, logits, atol=1e-4)
print(f"{one_pair.method}, layer {one_pair.layer}, norm {one_pair.norm:.2f}; {fired}")

# %% [markdown]
# It is kept in a file of its own, which says what it is made of. On other weights it is refused:
# there the same numbers mean something else.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    steering.save(one_pair, Path(folder, "praise.safetensors"))
    again = steering.load(Path(folder, "praise.safetensors"), model)
assert torch.equal(again.vector, one_pair.vector)
print(again.model, again.weights, again.prompts)

# %%
plain = mi.metrics.logit_diff(model(prompt), words)


def moved(vector, strength=1.0):
    """By how much a vector moves " good" against " bad" on the neutral prompt."""
    with steering.add(model, vector, strength):
        return mi.metrics.logit_diff(model(prompt), words) - plain


random_moves = [moved(steering.random_like(one_pair, model, seed)).abs() for seed in range(10)]
claim("idea.one_pair", moved(one_pair), control=torch.stack(random_moves).mean())

# %% [markdown]
# The control is the size of what random directions of the same length do. One pair, though, also
# carries whatever else its two prompts differ in. And one prompt is an anecdote.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 1: many pairs
# Average over pairs, so that what is particular to one of them fades. Return a vector of the length
# you are told.

# %% [markdown] tags=["hint"]
# Row `i` of one belongs to row `i` of the other. First the mean, then the length.


# %% tags=["exercise"]
def contrastive_vector(positive, negative, norm):
    """positive, negative: [pair d_model]  ->  [d_model], of length `norm`."""
    raise NotImplementedError


# %% tags=["solution"]
def contrastive_vector(positive, negative, norm):
    mean = (positive - negative).mean(0)
    return mean * norm / mean.norm()


# %% tags=["check"]
check.contrastive_vector(contrastive_vector)

# %% [markdown]
# ## 2. A behaviour, measured properly
#
# Reviews that praise or blame. The vector comes from one set of reviews; all that follows is
# measured on others, whose phrases the vector has never seen.
#
# - **Effect**: how much the vector moves words of praise against words of blame, where a verdict is
#   due.
# - **Cost**: how much worse the model predicts text that has nothing to do with it.

# %%
small = model.cfg.n_layers < 12  # a larger model gets fewer prompts, to keep the time in bounds
train = mi.prompts.sentiment(model, 64 if small else 32, seed=1)
held_out = mi.prompts.sentiment(model, 24 if small else 8, seed=2, split="test")
unrelated = [kind(model, 8 if small else 3) for kind in (mi.prompts.facts, mi.prompts.ioi)]
neutral = [prompts.clean_tokens for prompts in unrelated]


# %%
def praise_first(prompts):
    """+1 where the right answer is praise, else -1, one a prompt."""
    praise = [1.0 if label["sentiment"] == "good" else -1.0 for label in prompts.labels]
    return torch.tensor(praise, device=model.cfg.device)


def praise(prompts):
    """Logit of the word of praise minus that of blame, [prompt]."""
    with torch.no_grad():
        logits = model(prompts.clean_tokens)
    return mi.metrics.logit_diff(logits, prompts.answer_tokens) * praise_first(prompts)


def neutral_loss():
    """Mean loss of the neutral texts, in nats."""
    with torch.no_grad():
        return torch.cat([mi.metrics.loss(model(rows), rows).flatten() for rows in neutral]).mean()


before, loss_before = praise(held_out).mean(), neutral_loss()

# %% [markdown]
# `sentiment` pairs every review with its twin, in which each word of opinion is reversed. So we
# know both sides of each pair, and there is one vector for each layer.

# %%
sign = praise_first(train)
ends = [steering.collect(model, tokens) for tokens in (train.clean_tokens, train.corrupt_tokens)]
good = torch.where(sign[:, None] > 0, *ends)
bad = torch.where(sign[:, None] > 0, *ends[::-1])


def vector_of(layer, maker=steering.class_means, labels=None):
    """A vector from the training reviews; `labels` swaps the sides of some pairs."""
    sides = good[layer], bad[layer]
    if labels is not None:
        sides = torch.where(labels[:, None], *sides), torch.where(labels[:, None], *sides[::-1])
    return steering.new_vector(model, maker(*sides), layer, method=maker.__name__)


# %%
def effect(vector, strength, prompts=held_out, start=before):
    """By how much a vector moves praise against blame, in logits."""
    with steering.add(model, vector, strength):
        return praise(prompts).mean() - start


def cost(vector, strength):
    """By how much it raises the loss of neutral text, in nats a token."""
    with steering.add(model, vector, strength):
        return neutral_loss() - loss_before


# %% [markdown]
# **Layer by strength.** Which layer, and how strong? Nobody knows beforehand.

# %%
layers = list(range(0, model.cfg.n_layers, max(1, model.cfg.n_layers // 6)))
strengths = [-1.0, -0.5, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0]
vectors = {i: vector_of(i) for i in layers}
effects = torch.tensor([[effect(vectors[i], s) for s in strengths] for i in layers])
costs = torch.tensor([[cost(vectors[i], s) for s in strengths] for i in layers])

# %% [markdown]
# Look for a row in which the effect is large *before* the cost comes.

# %%
grid = dict(x=[f"{s:g}" for s in strengths], y=[f"L{i}" for i in layers], xlabel="strength",
            ylabel="layer", text=".2f", subtitle=mi.model_id(model))  # fmt: skip
mi.figures.heatmap(
    effects, title="Effect: praise against blame", colorbar="change of the logit difference", **grid
)

# %%
mi.figures.heatmap(
    costs, title="Cost: worse predictions of neutral text", colorbar="added loss (nats)", **grid
)

# %% [markdown]
# Effects grow with the strength and then bend; costs grow slowly and then fast. So there is a
# **sweet spot**, the largest effect at a cost we accept, and behind it a **cliff**.

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: the sweet spot
# Return the row and the column of the largest effect whose cost is within the budget.

# %% [markdown] tags=["hint"]
# Set what is too expensive to minus infinity, then find the largest entry.


# %% tags=["exercise"]
def sweet_spot(effects, costs, budget):
    """effects, costs: [layer strength]  ->  (row, column), two ints."""
    raise NotImplementedError


# %% tags=["solution"]
def sweet_spot(effects, costs, budget):
    affordable = effects.masked_fill(costs > budget, -torch.inf)
    return divmod(int(affordable.argmax()), effects.shape[1])


# %% tags=["check"]
check.sweet_spot(sweet_spot)

# %%
budget = 0.2  # nats a token
affordable = effects.masked_fill(costs > budget, -torch.inf)
row, column = divmod(int(affordable.argmax()), len(strengths))
layer, strength = layers[row], strengths[column]
vector = vectors[layer]
print(f"sweet spot: layer {layer}, strength {strength:g}, norm {strength * vector.norm:.2f}")

# %% [markdown]
# **Controls.** The same place and length, but a random direction; and a vector made in the same way
# from pairs whose labels were shuffled. A shuffled one is short, because differences cancel; we
# take it as it comes, and also stretched to the true vector's length.


# %%
def shuffled(seed, stretched=True):
    """A vector from the same pairs with sides swapped at random."""
    coins = torch.rand(len(train), generator=torch.Generator().manual_seed(seed)) < 0.5
    made = vector_of(layer, labels=coins.to(good.device)).vector
    made = made * vector.norm / made.norm() if stretched else made
    return steering.new_vector(model, made, layer, method="shuffled labels")


def mean_size(make):
    """The mean size of the effects of ten vectors, at the sweet spot's strength."""
    return torch.stack([effect(make(seed), strength).abs() for seed in range(10)]).mean()


# %%
by_chance = mean_size(lambda seed: steering.random_like(vector, model, seed))
by_shuffling = mean_size(lambda seed: shuffled(seed, stretched=False))
claim("sweep.sweet_spot", effects[row, column], control=by_chance)
claim("sweep.shuffled_labels", effects[row, column], control=by_shuffling)
claim("sweep.other_way", effect(vector, -strength), control=effects[row, column])
claim("sweep.shuffled_axis", mean_size(shuffled), control=by_chance)

# %% [markdown]
# The last line is a warning. Stretched, a vector from shuffled labels is nearly as strong as the
# true one, and it points either way: pairs differ along *one* axis, and labels only say which end
# is which. A control that is scaled up from almost nothing can hide that.

# %% [markdown]
# **The cliff** is easiest to see in what the model writes. Text that goes wrong repeats itself, and
# that can be counted. This is a second measure of cost; a third is the **KL divergence** of the
# predictions on neutral text from those without steering, which also counts changes that happen to
# help.

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 3: repetition
# Which share of the pairs of neighbouring tokens occurred before in the same text?

# %% [markdown] tags=["hint"]
# Make the list of pairs, count the distinct ones, and compare with how many there are.


# %% tags=["exercise"]
def repeated_share(tokens):
    """tokens: a list of ints  ->  share of its pairs that occurred before, from 0 to 1."""
    raise NotImplementedError


# %% tags=["solution"]
def repeated_share(tokens):
    pairs = list(zip(tokens, tokens[1:], strict=False))
    return 1 - len(set(pairs)) / len(pairs)


# %% tags=["check"]
check.repeated_share(repeated_share)


# %%
def written(vector, strength, tokens=prompt, n=30):
    """A greedy continuation under steering, as token ids."""
    options = dict(max_new_tokens=n, do_sample=False, verbose=False, stop_at_eos=False)
    with steering.add(model, vector, strength):
        return model.generate(tokens, **options)[0, tokens.shape[1] :].tolist()


def repeats(ids):
    """Share of neighbouring pairs that occurred before."""
    return 1 - len({*zip(ids, ids[1:], strict=False)}) / (len(ids) - 1)


steps = [-strength, 0.0, strength, 4 * strength, 16 * strength]
samples = {step: written(vector, step) for step in steps}
mi.figures.table([
    {"strength": step, "it writes": model.tokenizer.decode(ids), "repeated": repeats(ids)}
    for step, ids in samples.items()
], title="From blame to praise to nonsense", subtitle=mi.model_id(model))  # fmt: skip

# %%
with torch.no_grad():
    unsteered = [model(rows).flatten(0, 1) for rows in neutral]


def divergence(vector, strength):
    """KL divergence of the steered predictions on neutral text, in nats a token."""
    with torch.no_grad(), steering.add(model, vector, strength):
        steered = [model(rows).flatten(0, 1) for rows in neutral]
    return torch.cat([mi.metrics.kl(*pair) for pair in zip(steered, unsteered, strict=True)]).mean()


# %% [markdown]
# All four over the strength, at the sweet spot's layer. Look for the stretch where the effect has
# come and the costs have not.

# %%
steps = [factor * strength for factor in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)]
starts = [mi.prompts.facts(model, 1, seed=i).clean_tokens[:, :4] for i in range(2)]
repetition = [
    sum(repeats(written(vector, step, rows)) for rows in starts) / len(starts) for step in steps
]
mi.figures.lines(
    {"effect (logits)": [effect(vector, step).item() for step in steps],
     "added loss (nats)": [cost(vector, step).item() for step in steps],
     "KL (nats)": [divergence(vector, step).item() for step in steps],
     "repeated share": repetition},
    title="First the effect, then the cost", x=[f"{step:g}" for step in steps],
    xlabel=f"strength at layer {layer}", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("cliff.cost", cost(vector, 8 * strength), control=costs[row, column])
claim("cliff.kl", divergence(vector, 8 * strength), control=divergence(vector, strength))

# %% [markdown]
# ## 3. Five ways to make a vector
#
# - **one pair**: section 1;
# - **paired difference**: the mean over pairs (*contrastive activation addition*
#   [@panickssery2023caa]);
# - **class means**: the mean of one class minus the mean of the other;
# - **PCA** of the differences [@zou2023repe];
# - **probe**: the weights of a logistic regression.
#
# The sixth, a feature of a dictionary, has a section of its own.
#
# Two of them are the same thing. Which? The mean of differences is the difference of means, as long
# as every prompt has its twin.

# %%
paired = steering.paired_difference(good[layer], bad[layer])
means = steering.class_means(good[layer], bad[layer])
unpaired = steering.class_means(good[layer][: len(train) // 2], bad[layer][len(train) // 2 :])
gap = {name: (paired - other).norm() / paired.norm()
       for name, other in (("pairs", means), ("no pairs", unpaired))}  # fmt: skip
claim("makers.pairs_are_means", gap["pairs"], control=gap["no pairs"])

# %% [markdown]
# Compare at equal *strength* and you compare lengths of vectors. Compare at equal *cost*: for each
# vector, raise the strength until neutral text suffers by the budget, then read the effect. By
# bisection, since costs grow with the strength.


# %%
def raise_until(measure, limit, highest=16.0, steps=10):
    """The strength at which `measure(strength)` reaches the limit."""
    low, high = 0.0, highest
    for _ in range(steps):
        halfway = (low + high) / 2
        low, high = (halfway, high) if measure(halfway) < limit else (low, halfway)
    return max(low, highest / 2**steps)


def affordable_strength(vector):
    """The strength at which the cost reaches the budget."""
    return raise_until(lambda strength: cost(vector, strength), budget)


# %%
candidates = {
    "one pair": steering.make(model, pair[:1], pair[1:], layer),
    "class means": vector,
    "PCA": vector_of(layer, steering.pca_of_differences),
    "probe": vector_of(layer, steering.probe_weights),
    "shuffled labels": shuffled(0),
    "random": steering.random_like(vector, model),
}
at_cost = {name: affordable_strength(one) for name, one in candidates.items()}
equal = {name: effect(one, at_cost[name]).item() for name, one in candidates.items()}

# %%
mi.figures.bars(
    list(equal.values()), list(equal), title="Effect at equal cost", horizontal=True,
    xlabel="praise against blame (logits)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("makers.equal_cost", equal["class means"], control=abs(equal["random"]))
weakest = min(equal[name] for name in ("one pair", "class means", "PCA", "probe"))
claim("makers.alike", weakest, control=abs(equal["random"]))

# %% [markdown]
# Which way one takes hardly matters here: sentiment is *one* axis in `pocket`, and every way finds
# it. Do not count on that. A probe is trained to tell apart, and for that any direction will do
# that separates the classes, also one that the model never reads.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: only after the prompt
# Contrastive activation addition leaves the prompt alone and steers what comes after it. Add the
# vector from position `start` on.

# %% [markdown] tags=["hint"]
# Do not change the activations you were given: clone, or build a mask over positions.


# %% tags=["exercise"]
def add_after(acts, vector, strength, start):
    """acts: [batch pos d_model]; vector: [d_model]  ->  new acts, steered from `start` on."""
    raise NotImplementedError


# %% tags=["solution"]
def add_after(acts, vector, strength, start):
    steered = acts.clone()
    steered[:, start:] += strength * vector
    return steered


# %% tags=["check"]
check.add_after(add_after)

# %% [markdown]
# The helper takes `positions=slice(start, None)`, and keeps counting while the model generates.
#
# ## 4. One feature of a dictionary
#
# A **sparse autoencoder** (SAE, [notebook 10](10_sparse_autoencoders.ipynb)) gives far more
# directions than the stream has dimensions: row `i` of its decoder `W_dec` is what unit `i` writes,
# its encoder says how active the unit is. Steering with it is adding
# `strength · W_dec[i] · max_act`, where `max_act` is the largest activation seen on reviews, so
# that a strength of one is the unit at its strongest.
#
# For `pocket` a trained SAE of the middle layer comes with the suite. For any other model a small
# one is trained here, to keep the cells running; expect little of it.

# %%
from importlib.resources import files

middle = model.cfg.n_layers // 2
place = steering.place("resid_post", middle)
if mi.model_id(model) == "pocket":
    folder = files("mi_data") / "sae" / f"resid_post_{middle}"
    sae = mi.sae.load(folder, device=model.cfg.device)
else:
    recipe = mi.sae.Recipe(d_sae=2 * model.cfg.d_model, k=16, steps=60, batch=256)
    stream = mi.sae.Activations(model, place, train.clean_tokens)
    sae = mi.sae.train(mi.sae.start(stream, recipe), progress=False).sae()
print(f"{sae.d_sae} units for {sae.d_in} dimensions, at {place}")

# %% [markdown]
# *Which* unit? Not by luck, and not by what its top examples look like: a unit that fires on praise
# need not *cause* praise. So, in three steps, each on its own reviews: rank all units by how well
# their activation separates the two sides; try the first twelve *by effect*, all at the length that
# the vector has at the sweet spot; judge the winner on the held-out reviews.

# %%
units_on = [mi.sae.unit_activations(model, sae, tokens)[:, 1:]
            for tokens in (train.clean_tokens, train.corrupt_tokens)]  # fmt: skip
at_end = [acts[:, -1] for acts in units_on]
fires_good = torch.where(sign[:, None] > 0, *at_end)
fires_bad = torch.where(sign[:, None] > 0, *at_end[::-1])
max_act = torch.cat(units_on).amax((0, 1)).clamp_min(1e-3)
ranked = mi.sae.separating_units(fires_good, fires_bad, 40)
first = [unit for unit, apart in ranked if apart > 0][:12]


# %%
length = strength * vector.norm
tuning = mi.prompts.sentiment(model, len(held_out), seed=3)
tuning_before = praise(tuning).mean()


def feature(unit):
    """A unit of the dictionary as a steering vector: decoder row times largest activation."""
    top = float(max_act[unit])
    return steering.sae_feature(model, sae.W_dec, unit, middle, max_act=top)


def at_length(unit, prompts=held_out, start=before):
    """The effect of a unit that is added as long as the vector at the sweet spot."""
    return effect(feature(unit), length / feature(unit).norm, prompts, start).item()


# %%
tried = {unit: at_length(unit, tuning, tuning_before) for unit in first}
chosen = max(tried, key=tried.get)
alive = torch.cat(at_end).amax(0).nonzero()[:, 0]
draw = torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[:12]
by_luck = [at_length(unit) for unit in alive[draw].tolist()]
mi.figures.bars(
    [*tried.values(), *by_luck],
    [f"searched {unit}" for unit in first] + [f"drawn {unit}" for unit in alive[draw].tolist()],
    title="Few units that separate reviews also steer them", horizontal=True,
    xlabel="praise against blame (logits)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
mean_luck = sum(map(abs, by_luck)) / len(by_luck)
claim("feature.searched", at_length(chosen), control=mean_luck)

# %% [markdown]
# Firing is not acting: all of these fire for praise, and their effects differ widely. Now at equal
# cost, beside the class means of the same layer.

# %%
one = feature(chosen)
unit_affordable = affordable_strength(one)
unit_equal, means_here = effect(one, unit_affordable), vector_of(middle)
means_affordable = affordable_strength(means_here)
means_equal = effect(means_here, means_affordable)
cosine = (one.vector @ means_here.vector / one.norm / means_here.norm).item()
print(f"the unit and the class means have a cosine of {cosine:.2f}")
claim("feature.equal_cost", unit_equal, control=abs(equal["random"]))
claim("feature.dearer", unit_equal / means_equal, control=weakest / equal["class means"])

# %% [markdown]
# **Adding or clamping?** Adding shifts the unit by the same amount everywhere. Clamping holds it at
# a value, so it adds much where the unit was off and little where it was on already. Clamped to
# nothing, the unit is *removed* from reviews that praise: that asks whether the model uses it.


# %%
def clamped(unit, value, prompts=held_out):
    """Praise against blame, [prompt], with a unit held at `value`."""
    row = sae.W_dec[unit]
    with steering.clamp(model, place, lambda acts: sae.encode(acts)[..., unit], row, value):
        return praise(prompts)


values = [0.0, 0.5, 1.0, 1.5, 2.0]
top = float(max_act[chosen])
mi.figures.lines(
    {"added": [effect(one, value).item() for value in values],
     "clamped": [(clamped(chosen, value * top).mean() - before).item() for value in values]},
    title="One unit, added or clamped", x=values, xlabel="times its largest activation",
    ylabel="praise against blame (logits)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
praising = held_out.select(torch.nonzero(praise_first(held_out) > 0)[:, 0].tolist())
kept = praise(praising).mean()
removed = (clamped(chosen, 0.0, praising).mean() - kept).item()
others_removed = [(clamped(unit, 0.0, praising).mean() - kept).abs().item()
                  for unit in alive[draw].tolist()]  # fmt: skip
claim("feature.in_use", removed, control=sum(others_removed) / len(others_removed))

# %% [markdown]
# ## 5. Where else does it work, and what else does it change?
#
# **Transfer.** The vector comes from verdicts on things. Does it move how *people* feel after
# something good or bad happened to them: other words, other sentences?

# %%
from mi_data.pocket import generator

drawn = [generator.prompt("opinion", seed) for seed in range(60)]
drawn = [p for p in drawn if p.kind == "feeling"][:16]


def as_cases(texts, pairs, good_first):
    """(text, id of the good word, id of the bad word), one a prompt."""
    ids = [[mi.prompts.single_token(model, word) for word in pair] for pair in pairs]
    ordered = [pair if first else pair[::-1] for pair, first in zip(ids, good_first, strict=True)]
    return [(text, *pair) for text, pair in zip(texts, ordered, strict=True)]


feelings = as_cases(
    [p.text for p in drawn], [(p.answer, p.wrong) for p in drawn],
    [p.labels["sentiment"] == "good" for p in drawn],
)  # fmt: skip


# %%
def leaning(cases, opener=""):
    """Logit of the good word minus the bad one, mean over the cases, behind an opener."""
    with torch.no_grad():
        last = [(model(model.to_tokens(opener + text))[0, -1], *pair) for text, *pair in cases]
    return sum((logits[good] - logits[bad]).item() for logits, good, bad in last) / len(last)


feeling_before = leaning(feelings)


def transfer(vector, strength=strength):
    """By how much a vector moves feelings."""
    with steering.add(model, vector, strength):
        return leaning(feelings) - feeling_before


# %%
by_random = [abs(transfer(steering.random_like(vector, model, i))) for i in range(5)]
claim("transfer.feelings", transfer(vector), control=sum(by_random) / len(by_random))

# %% [markdown]
# **Side effects.** The cost on average text hides who pays. So ask for other abilities one by one,
# of the vector and of the SAE's unit at equal cost, and of a random direction.

# %%
others = {"facts": mi.prompts.facts, "agreement": mi.prompts.agreement, "IOI": mi.prompts.ioi,
          "pronouns": mi.prompts.pronouns, "refusal": mi.prompts.refusal}  # fmt: skip
others = {name: kind(model, len(held_out), seed=5) for name, kind in others.items()}


def abilities():
    """Accuracy of each behaviour."""
    with torch.no_grad():
        return {name: mi.metrics.accuracy(model(p.clean_tokens), p.answer_tokens).item()
                for name, p in others.items()}  # fmt: skip


# %%
able = {"no steering": abilities()}
for name, direction, times in (
    ("vector", vector, at_cost["class means"]),
    ("SAE feature", one, unit_affordable),
    ("class means, the SAE's layer", means_here, means_affordable),
    ("random", candidates["random"], at_cost["random"]),
    ("vector, eight times as strong", vector, 8 * at_cost["class means"]),
    ("random, as long", candidates["random"], 8 * at_cost["class means"]),
):
    with steering.add(model, direction, times):
        able[name] = abilities()
mi.figures.table([{"steering": name} | row for name, row in able.items()],
                 title="What else changes (accuracy)", subtitle=mi.model_id(model))  # fmt: skip


# %%
def largest_loss(name):
    """The largest loss of accuracy among the other behaviours."""
    return max(able["no steering"][kind] - able[name][kind] for kind in others)


claim("side_effects.vector", largest_loss("vector"),
      control=largest_loss("vector, eight times as strong"))  # fmt: skip
claim("side_effects.feature", largest_loss("SAE feature"),
      control=largest_loss("class means, the SAE's layer"))  # fmt: skip

# %% [markdown]
# All steered rows but the last two cost the same on neutral text, and yet they are not alike. Look
# at refusal: under the unit the model hardly declines anything any more, while the class means of
# the same layer spare far more of it. No neutral text asks about that, and so the average did not
# show it. A unit of a dictionary is no cleaner for being one unit.

# %% [markdown]
# ## 6. Against its rivals
#
# Why not just ask? Four rivals, each set to the same effect as the vector on the held-out reviews,
# and then measured where none was tuned: on feelings, and on neutral text.
#
# - **prompt**: a few words in front of every review;
# - **logit bias**: a constant added to the logits of words of praise;
# - **SAE logit bias**: what the chosen unit writes to the logits *directly*, added at the end; no
#   layer after the SAE's takes part;
# - **fine-tuning**: a few steps of gradient descent on one matrix, on verdicts of praise.

# %%
target = effects[row, column].item()


def outcome():
    """What a way does to reviews, feelings and neutral text, inside its `with`."""
    return {"reviews": (praise(held_out).mean() - before).item(),
            "feelings": leaning(feelings) - feeling_before,
            "cost": (neutral_loss() - loss_before).item()}  # fmt: skip


with steering.add(model, vector, strength):
    by_vector = outcome()
unit_strength = raise_until(lambda times: effect(one, times), target)
with steering.add(model, one, unit_strength):
    by_unit = outcome()

# %% [markdown]
# Both biases have an effect in proportion to their size, so one run tells how large it must be.

# %%
from mi_data.pocket import opinions

tokenized = [model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
             for word in opinions.ADJECTIVES["good"]]  # fmt: skip
on_list = torch.zeros(model.cfg.d_vocab_out, device=model.cfg.device)
on_list[[ids[0] for ids in tokenized if len(ids) == 1]] = 1.0
biases = {"logit bias": on_list, "SAE logit bias": mi.sae.direct_logits(model, sae, [chosen])[0]}


def biased(bias, amount):
    """The model with a constant added to its logits, as a context manager."""
    add = ("unembed.hook_out", lambda logits, hook: logits + amount * bias)
    return model.hooks(fwd_hooks=[add])


# %%
by_bias = {}
for name, bias in biases.items():
    with biased(bias, 1.0):
        per_unit = (praise(held_out).mean() - before).item()
    with biased(bias, target / per_unit):
        by_bias[name] = outcome()

# %% [markdown]
# A prompt cannot be turned up: of a few we take the one whose effect is nearest.

# %%
reviews = as_cases(held_out.clean, zip(held_out.answers, held_out.wrong, strict=True),
                   (praise_first(held_out) > 0).tolist())  # fmt: skip
openers = ["I liked it. ", "It was good. ", "I loved it. ", "I loved it. It was wonderful. "]
alone = leaning(reviews)
reached = {opener: leaning(reviews, opener) - alone for opener in openers}
opener = min(openers, key=lambda opener: abs(reached[opener] - target))


# %%
def loss_behind(opener):
    """Mean loss of the neutral texts behind an opener, their first word left out, in nats."""
    losses = []
    for text in [text for prompts in unrelated for text in prompts.clean]:
        rows, own = model.to_tokens(opener + text), model.to_tokens(text).shape[1] - 2
        with torch.no_grad():
            losses.append(mi.metrics.loss(model(rows), rows)[0, -own:].mean().item())
    return sum(losses) / len(losses)


# %%
by_prompt = {
    "reviews": reached[opener], "feelings": leaning(feelings, opener) - feeling_before,
    "cost": loss_behind(opener) - loss_behind(""),
}  # fmt: skip

# %% [markdown]
# Fine-tuning, by hand: an update is added to one matrix, learnt in a few steps until the effect is
# there, and then scaled to the same effect. The model's own weights are never touched.

# %%
W_out = model.blocks[layer].mlp.W_out
verdicts = torch.where(sign[:, None] > 0, train.answer_tokens, train.answer_tokens.flip(1))
now = {}


def written_more(acts, hook):
    """What the MLP writes with the update added to its matrix."""
    return acts + now["key"] @ update


tuned = [(f"blocks.{layer}.mlp.hook_post", lambda acts, hook: now.update(key=acts)),
         (f"blocks.{layer}.hook_mlp_out", written_more)]  # fmt: skip


# %%
update = torch.zeros_like(W_out.detach(), requires_grad=True)
optimizer = torch.optim.Adam([update], lr=5e-4)
with model.hooks(fwd_hooks=tuned):
    for _ in range(25):
        optimizer.zero_grad()
        gained = mi.metrics.logit_diff(model(train.clean_tokens[:24]), verdicts[:24]).mean()
        (-gained).backward()
        optimizer.step()
        if praise(held_out).mean() - before > target:
            break
learnt = update.detach().clone()


# %%
def scaled_effect(times):
    """The effect of the learnt update, scaled."""
    update.data = times * learnt  # what the hooks add
    return praise(held_out).mean() - before


with model.hooks(fwd_hooks=tuned):
    scaled_effect(raise_until(scaled_effect, target, highest=1.0))
    by_tuning = outcome()

# %%
rivals = {"vector": by_vector, "SAE feature": by_unit, **by_bias, "fine-tuning": by_tuning,
          f"prompt: {opener}": by_prompt}  # fmt: skip
mi.figures.table([{"way": name} | row for name, row in rivals.items()],
                 title="Rivals at equal effect", subtitle=mi.model_id(model))  # fmt: skip


# %%
def carried_over(name):
    """The effect on feelings as a share of that on reviews."""
    return rivals[name]["feelings"] / rivals[name]["reviews"]


claim("rivals.bias_stays_on_its_list", carried_over("logit bias"), control=carried_over("vector"))
claim("rivals.feature_bias_carries_over", carried_over("SAE logit bias"),
      control=carried_over("logit bias"))  # fmt: skip
claim("rivals.feature_bias_costs_less", by_bias["SAE logit bias"]["cost"], control=by_unit["cost"])
claim("rivals.prompt_costs_most", by_prompt["cost"], control=by_vector["cost"])
claim("rivals.fine_tuning_costs_less", by_tuning["cost"], control=by_vector["cost"])

# %% [markdown]
# Read the table by its last two columns. The list of words does nothing to feelings: a bias knows
# only its list. All others carry over to words they were not made for, also the unit's direct
# logits, which hold words of feeling that nobody put there; and as no layer reads what is added at
# the end, they disturb far less than the unit itself. The prompt disturbs most: text about other
# things is less expected behind a review. And fine-tuning is no straw man: it disturbs *less* than
# the vector, for it changes what one matrix does with reviews, and the vector is added to all.
#
# ## 7. The published form
#
# Activation addition was published for GPT-2 XL [@turner2023actadd]: one pair of prompts,
# subtracted *position by position*, added to the first positions of another prompt, before an early
# layer. One of its examples is "Love" minus "Hate", five times, before layer 6 of 48, with the
# prompt "I hate you because". It is judged by reading samples: the publication gives a direction
# and no number, and none at all for GPT-2 small. There we take the same pair at the same depth, as
# a share of the layers; other models may not know such words, and get a pair as in section 1.

# %%
published = ("Love", "Hate", 5.0, "I hate you because")
ours = ("I loved it.", "I hated it.", 2.0, "We tried the film last week. In short, it was")
plus, minus, times, text = published if mi.model_id(model) == "gpt2" else ours
front = steering.activation_addition(model, plus, minus, max(1, round(model.cfg.n_layers / 8)))
tokens = model.to_tokens(text)
print(f"{len(front.vector)} positions from the second on, before layer {front.layer}")
mi.figures.table([
    {"strength": step, "it writes": model.tokenizer.decode(written(front, step, tokens, 15))}
    for step in (-times, 0.0, times)
], title=f"“{plus}” minus “{minus}”, before: {text}", subtitle=mi.model_id(model))  # fmt: skip


# %%
def front_effect(vector):
    """By how much an activation addition moves " good" against " bad"."""
    with torch.no_grad():
        start = mi.metrics.logit_diff(model(tokens), words)
        with steering.add(model, vector, times):
            return (mi.metrics.logit_diff(model(tokens), words) - start).item()


by_random = [abs(front_effect(steering.random_like(front, model, seed))) for seed in range(10)]
claim("published.activation_addition", front_effect(front), control=sum(by_random) / 10)

# %% [markdown]
# ## 8. Play with it
#
# Choose a layer, a strength and a prompt. The bars are the most probable next words, with and
# without steering; above them is what the model goes on to write.


# %%
def play(text, layer, strength):
    """Next-word probabilities and a continuation, with and without steering."""
    tokens = model.to_tokens(text)
    with torch.no_grad():
        plain = model(tokens)[0, -1].softmax(-1)
        with steering.add(model, vectors[layer], strength):
            steered = model(tokens)[0, -1].softmax(-1)
    shown = (plain + steered).topk(10).indices.tolist()
    wrote = [model.tokenizer.decode(written(vectors[layer], s, tokens, 15)) for s in (strength, 0)]
    return mi.figures.bars(
        {"as it is": plain[shown], "steered": steered[shown]},
        [model.tokenizer.decode([token]) for token in shown],
        title=f"Steered: …{wrote[0]}", ylabel="probability", subtitle=f"As it is: …{wrote[1]}",
    )  # fmt: skip


# %%
mi.figures.explore(
    play, text="We tried the film last week. In short, it was", layer=layers,
    strength=strengths, start={"layer": layer, "strength": strength},
)  # fmt: skip

# %% [markdown]
# ## Summary
#
# - A steering vector is a difference of activations. It works in both directions, and random or
#   shuffled ones of the same length do far less.
# - Layer and strength must be swept, and judged by effect *and* cost: there is a cliff.
# - Compare vectors at equal cost, never at equal strength.
# - A feature of a dictionary steers too, if it is chosen by its effect: that a unit fires on praise
#   is not enough. At the same average cost it can break what the vector leaves alone.
# - A vector carries over to words and sentences it was not made from; a logit bias on a list of
#   words does not. But a few steps of fine-tuning do as much at less cost.
#
# **What we have not shown.** That the vector *is* the model's concept: it is one handle that moves
# the behaviour. [Notebook 13](13_behaviour_directions.ipynb) asks what such a direction carries.
# And one behaviour in one grammar says little about how reliable steering is elsewhere.
#
# ## Where to read on
#
# - Activation addition [@turner2023actadd]; contrastive activation addition [@panickssery2023caa].
# - Representation engineering [@zou2023repe]; a guide to concepts as vectors [@rutte2024guide].

# %%
claim.table()
