# ---
# title: Steering
# minutes: 75
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
# - make a steering vector in five ways, save it, and apply it so that nothing stays behind;
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
train = mi.prompts.sentiment(model, 64, seed=1)
held_out = mi.prompts.sentiment(model, 24, seed=2, split="test")
neutral = [mi.prompts.facts(model, 8).clean_tokens, mi.prompts.ioi(model, 8).clean_tokens]


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
# that can be counted.

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
claim("cliff.cost", cost(vector, 8 * strength), control=costs[row, column])

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
def affordable_strength(vector, budget=budget, highest=16.0, steps=10):
    """The strength at which the cost reaches the budget."""
    low, high = 0.0, highest
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(vector, middle) < budget else (low, middle)
    return max(low, highest / 2**steps)


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
# ## 4. Where else does it work, and what else does it change?
#
# **Transfer.** The vector comes from verdicts on things. Does it move how *people* feel after
# something good or bad happened to them: other words, other sentences?

# %%
from mi_data.pocket import generator

feelings = [generator.prompt("opinion", seed) for seed in range(60)]
feelings = [p for p in feelings if p.kind == "feeling"][:16]


def feeling_praise():
    """Good minus bad feelings, mean over the prompts, in logits."""
    total = 0.0
    for one in feelings:
        answers = [mi.prompts.single_token(model, word) for word in (one.answer, one.wrong)]
        side = 1 if one.labels["sentiment"] == "good" else -1
        with torch.no_grad():
            logits = model(model.to_tokens(one.text))
        total += side * mi.metrics.logit_diff(logits, torch.tensor([answers])).item()
    return total / len(feelings)


# %%
feeling_before = feeling_praise()


def transfer(vector):
    """By how much a vector moves feelings, at the sweet spot's strength."""
    with steering.add(model, vector, strength):
        return feeling_praise() - feeling_before


by_random = [abs(transfer(steering.random_like(vector, model, i))) for i in range(5)]
claim("transfer.feelings", transfer(vector), control=sum(by_random) / len(by_random))

# %% [markdown]
# **Side effects.** The cost on average text hides who pays. So ask for other abilities one by one.

# %%
others = {"facts": mi.prompts.facts, "agreement": mi.prompts.agreement,
          "pronouns": mi.prompts.pronouns, "IOI": mi.prompts.ioi}  # fmt: skip
others = {name: kind(model, 24, seed=5) for name, kind in others.items()}


def abilities():
    """Accuracy of each behaviour."""
    with torch.no_grad():
        return {name: mi.metrics.accuracy(model(p.clean_tokens), p.answer_tokens).item()
                for name, p in others.items()}  # fmt: skip


# %%
able = {"no steering": abilities()}
for name, one, times in (
    ("sweet spot", vector, strength),
    ("cliff", vector, 8 * strength),
    ("random, as long as the cliff", candidates["random"], 8 * strength),
):
    with steering.add(model, one, times):
        able[name] = abilities()
mi.figures.table([{"steering": name} | row for name, row in able.items()],
                 title="What else changes (accuracy)", subtitle=mi.model_id(model))  # fmt: skip


# %%
def largest_loss(name):
    """The largest loss of accuracy among the other behaviours."""
    return max(able["no steering"][kind] - able[name][kind] for kind in others)


claim("side_effects.sweet_spot", largest_loss("sweet spot"), control=largest_loss("cliff"))

# %% [markdown]
# ## 5. One feature of a sparse autoencoder
#
# A sparse autoencoder ([notebook 10](10_sparse_autoencoders.ipynb)) offers a thousand candidate
# directions, and one formula: `resid + strength · W_dec[i] · max_act`, where `max_act` is the
# feature's largest activation. `pocket` brings one for the stream after its middle layer; for
# another model a small one is trained here, which takes a while.


# %%
from importlib.resources import files


def dictionary():
    """An SAE of the stream after the middle layer."""
    if mi.model_id(model) == "pocket":
        return mi.sae.load(files("mi_data") / "sae" / f"resid_post_{middle}")
    rows = torch.cat([train.clean_tokens, train.corrupt_tokens, held_out.clean_tokens])
    stream = mi.sae.Activations(model, place, rows, buffer=1 << 14)
    recipe = mi.sae.Recipe("topk", d_sae=1024, k=16, steps=150, batch=512)
    return mi.sae.train(mi.sae.start(stream, recipe), progress=False).sae()


middle = model.cfg.n_layers // 2
place = steering.place("resid_post", middle)
sae = dictionary()

# %% [markdown]
# *Which* feature? Not by luck and not by its name: rank all by how differently they fire on the two
# classes, test the first few *by their effect* on training prompts, and judge the winner on others.

# %%
fires_good, fires_bad = (sae.encode(acts[middle]) for acts in (good, bad))
both = torch.cat([fires_good, fires_bad])
contrast = (fires_good - fires_bad).mean(0) / both.std(0).clamp_min(1e-3)
max_act = both.amax(0)
alive = (max_act > 0).nonzero()[:, 0]


def feature(i):
    """A feature as a steering vector, as long as it is at its strongest."""
    return steering.sae_feature(model, sae.W_dec, i, middle, max_act=float(max_act[i]))


# %%
few = train.select(range(16))
few_before = praise(few).mean()
first = [i for i in contrast.topk(10).indices.tolist() if max_act[i] > 0]
tried = {i: effect(feature(i), 1.0, few, few_before).item() for i in first}
chosen = max(tried, key=tried.get)
lucky = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[:10]]
by_luck = [abs(effect(feature(i), 1.0).item()) for i in lucky.tolist()]
claim("feature.searched", effect(feature(chosen), 1.0), control=sum(by_luck) / len(by_luck))

# %% [markdown]
# Firing is not acting. Among the ten that tell the classes apart best, look at how different their
# effects are; the first in the ranking need not be the strongest.

# %%
mi.figures.bars(
    list(tried.values()), [f"feature {i}" for i in tried], horizontal=True,
    title="Ten features that fire for praise, and what each does",
    xlabel="praise against blame (logits), training prompts", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# **Adding or clamping?** Adding shifts the feature by the same amount everywhere. Clamping holds it
# at a value, so it adds more where the feature was off and nothing where it was there already.

# %%
values = torch.linspace(0, 2, 5).tolist()


def clamped(value, i=chosen):
    """Praise against blame with one feature held at `value` times its maximum."""
    encode, height = lambda acts: sae.encode(acts)[..., i], value * float(max_act[i])
    with steering.clamp(model, place, encode, sae.W_dec[i], height):
        return (praise(held_out).mean() - before).item()


# %%
mi.figures.lines(
    {"added": [effect(feature(chosen), value).item() for value in values],
     "clamped": [clamped(value) for value in values]},
    title="One feature, added or clamped", x=values, xlabel="times its maximum",
    ylabel="praise against blame (logits)", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# At zero, adding does nothing, and clamping switches the feature *off*, where it was on. So
# clamping also tells whether the model *uses* the feature by itself. The control switches other
# features off.

# %%
off = [abs(clamped(0.0, i)) for i in lucky.tolist()]
claim("feature.in_use", clamped(0.0), control=sum(off) / len(off))

# %% [markdown]
# Is one feature better than the mean difference? Compare as before, at equal cost; and see what
# each does to the other abilities.

# %%
one, mean_here = feature(chosen), vector_of(middle)
unit_strength = affordable_strength(one)
unit_effect, mean_effect = (effect(v, affordable_strength(v)) for v in (one, mean_here))
claim("feature.dearer", mean_effect, control=unit_effect)

# %%
for name, what, times in (
    ("feature, same cost", one, unit_strength),
    ("feature, four times that", one, 4 * unit_strength),
    ("random feature, same length", feature(int(lucky[0])),
     4 * unit_strength * one.norm / feature(int(lucky[0])).norm),
):  # fmt: skip
    with steering.add(model, what, times):
        able[name] = abilities()
mi.figures.table([{"steering": name} | row for name, row in able.items()],
                 title="What else changes (accuracy)", subtitle=mi.model_id(model))  # fmt: skip

# %% [markdown]
# ## 6. Against its rivals
#
# Why not just ask? Four rivals, each set to the same effect as the vector on the held-out reviews:
#
# - **prompt**: the same words in front of every review ("I loved it.");
# - **logit bias**: a constant added to the logits of words of praise;
# - **feature as logit bias**: what the feature of section 5 writes to the logits *directly*,
#   added to the logits instead of to the stream;
# - **fine-tuning**: a few steps of gradient descent on one matrix, on verdicts of praise.
#
# Then measure where none was tuned: on feelings.

# %%
from mi_data.pocket import opinions

listed = [
    tokens[0]
    for word in opinions.ADJECTIVES["good"]
    if len(tokens := model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
]
target = effects[row, column].item()
bonus = torch.zeros(model.cfg.d_vocab_out, device=model.cfg.device)
bonus[listed] = 1.0
direct = mi.sae.direct_logits(model, sae, [chosen])[0].detach()


def with_bias(amount, bonus):
    """The model with `amount` times a bonus added to its logits."""
    add = ("unembed.hook_out", lambda logits, hook: logits + amount * bonus)
    return model.hooks(fwd_hooks=[add])


# %% [markdown]
# The effect of a bias is proportional to it, so one run tells how large it must be.


# %%
def biased(bonus):
    """Effects and cost of a bias with the target's effect on reviews."""
    with with_bias(1.0, bonus):
        per_unit = (praise(held_out).mean() - before).item()
    with with_bias(target / per_unit, bonus):
        return {"reviews": (praise(held_out).mean() - before).item(),
                "feelings": feeling_praise() - feeling_before,
                "cost": (neutral_loss() - loss_before).item()}  # fmt: skip


bias, feature_bias = biased(bonus), biased(direct)

# %% [markdown]
# The prompt cannot be tuned; it has the effect that it has.

# %%
import dataclasses

opener = model.to_tokens("I loved it. It was wonderful.")
prefixed = torch.cat([opener.expand(len(held_out), -1), held_out.clean_tokens[:, 1:]], dim=1)
with_prompt = dataclasses.replace(held_out, clean_tokens=prefixed)
asked = {"reviews": (praise(with_prompt).mean() - before).item()}
plain_feelings = feelings
feelings = [
    dataclasses.replace(p, text="I loved it. It was wonderful. " + p.text) for p in feelings
]
asked["feelings"] = feeling_praise() - feeling_before
feelings = plain_feelings

# %% [markdown]
# Fine-tuning: one matrix, a few steps, undone afterwards.

# %%
weights = model.blocks[layer].mlp.W_out
original = weights.detach().clone()
update = torch.zeros_like(original, requires_grad=True)
reviews = torch.where(sign[:, None] > 0, train.answer_tokens, train.answer_tokens.flip(1))


def tuned(acts, hook):
    """What the MLP writes with the update added to its matrix."""
    return acts + now["key"] @ update


now = {}
hooks = [(f"blocks.{layer}.mlp.hook_post", lambda acts, hook: now.update(key=acts)),
         (f"blocks.{layer}.hook_mlp_out", tuned)]  # fmt: skip


# %%
optimizer = torch.optim.Adam([update], lr=5e-4)
with model.hooks(fwd_hooks=hooks):
    for _ in range(40):
        optimizer.zero_grad()
        gained = mi.metrics.logit_diff(model(train.clean_tokens[:24]), reviews[:24]).mean()
        (-gained).backward()
        optimizer.step()
        if (praise(held_out).mean() - before) > target:
            break
    fine = {"reviews": (praise(held_out).mean() - before).item(),
            "feelings": feeling_praise() - feeling_before}  # fmt: skip
    fine["cost"] = (neutral_loss() - loss_before).item()

# %%
steered = {"reviews": target, "feelings": transfer(vector), "cost": costs[row, column].item()}
rivals = {"steering": steered, "prompt": asked, "logit bias": bias,
          "feature as logit bias": feature_bias, "fine-tuning": fine}  # fmt: skip
mi.figures.table([{"way": name} | row for name, row in rivals.items()],
                 title="Steering and its rivals", subtitle=mi.model_id(model))  # fmt: skip


# %%
def carried_over(name):
    """The effect on feelings as a share of that on reviews."""
    return rivals[name]["feelings"] / rivals[name]["reviews"]


claim("rivals.bias_stays_on_its_list", carried_over("logit bias"), control=carried_over("steering"))
claim(
    "rivals.feature_bias_carries_over",
    carried_over("feature as logit bias"),
    control=carried_over("logit bias"),
)
claim("rivals.fine_tuning_costs_less", fine["cost"], control=steered["cost"])

# %% [markdown]
# A bias knows only the words on its list; the others carry over to words they were not made for,
# the feature's own list too, for it was learned and not written. Look at the costs: what acts on
# the logits alone disturbs other text little. And fine-tuning is no straw man: at about the same
# effect it costs *less* than the vector, for it changes what one matrix does with reviews, and the
# vector is added to everything.
#
# ## 7. The example that began it
#
# The first vectors came from a single pair of words, "Love" and "Hate", added at the first
# positions of the stream before layer 6 of GPT-2 XL's 48, five times as strong as they came
# [@turner2023actadd]. It was judged by reading samples, and nobody has published a number for GPT-2
# small; so there is no claim here. At the same depth of the model at hand, read for yourself:

# %%
depth = round(model.cfg.n_layers * 6 / 48)
love = steering.activation_addition(model, "Love", "Hate", depth)
opening = model.to_tokens("I hate you because")
for times in (0.0, 5.0):
    print(f"{times:g} x {model.tokenizer.decode(written(love, times, opening, 25))}")

# %% [markdown]
# `pocket` knows neither these words nor such sentences, so expect nothing of it; the table in
# section 2 is what steering looks like in its world.
#
# ## 8. Play with it
#
# Choose a layer, a strength and a prompt. The bars are the most probable next words, with and
# without; the title is what the model writes under steering.


# %%
def play(text, layer, strength):
    """Next-word probabilities with and without steering."""
    tokens = model.to_tokens(text)
    with torch.no_grad():
        plain = model(tokens)[0, -1].softmax(-1)
        with steering.add(model, vectors[layer], strength):
            steered = model(tokens)[0, -1].softmax(-1)
    shown = (plain + steered).topk(10).indices.tolist()
    wrote = model.tokenizer.decode(written(vectors[layer], strength, tokens, 15))
    return mi.figures.bars(
        {"as it is": plain[shown], "steered": steered[shown]},
        [model.tokenizer.decode([token]) for token in shown],
        title=f"{text} →{wrote}", ylabel="probability", subtitle=mi.model_id(model),
    )  # fmt: skip


# %%
mi.figures.explore(
    play, text="We tried the film last week. In short, it was", layer=layers,
    strength=[s for s in strengths if s], start={"layer": layer, "strength": strength},
)  # fmt: skip

# %% [markdown]
# ## Summary
#
# - A steering vector is a difference of activations. It works in both directions, and random or
#   shuffled ones of the same length do far less.
# - Layer and strength must be swept, and judged by effect *and* cost: there is a cliff.
# - Compare vectors at equal cost, never at equal strength.
# - It carries over to words and sentences it was not made from; a logit bias does not. But a few
#   steps of fine-tuning do as much at less cost, and so does a feature's list of logits.
# - An SAE feature that fires for a concept need not move it. Search by effect; and then the plain
#   difference of means still does more at the same cost.
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
