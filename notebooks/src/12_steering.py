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
# - make a steering vector in five ways, and apply it so that nothing stays behind;
# - sweep layer and strength, and find the sweet spot and the cliff;
# - compare ways at *equal cost*, beside random directions and a constant added to the logits;
# - say what else a vector changes, and where it stops working;
# - set steering against its rivals: a prompt, a bias on the logits, a little fine-tuning.
#
# Appendices: a vector in a file; three measures of cost; a feature of a sparse autoencoder, chosen,
# clamped and switched off; steering as it was first published; how reliable it is prompt by prompt;
# a vector from the letters of answers; and which ways read a concept and which ones write it.

# %% [markdown] short=true
# ## 1. One pair of prompts
#
# Steering in its simplest form [@turner2023actadd]: two prompts that differ in one thing, the
# activations of one minus those of the other, added to a third prompt. In two dimensions:

# %% short=true
loved, hated = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 1.0])
neutral = torch.tensor([0.5, 2.0])
neutral + 1.5 * (loved - hated)

# %% [markdown] short=true
# What the two share, the second coordinate, cancels: it is as it was. The first moved.
#
# Now a model. First by hand: read the stream of both prompts at the last position, subtract, add
# the difference to a prompt that says nothing good or bad. We look at one number, the logit of
# " good" minus that of " bad".

# %% short=true
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

# %% [markdown] short=true
# The helper does the same. A steering vector is data: it knows its layer, its origin and its model,
# and refuses any other. Inside the `with` the model is steered, whatever runs it; on leaving it is
# as before. If nothing was changed inside, that is an error, not a result.

# %% short=true
one_pair = steering.make(model, pair[:1], pair[1:], layer)
with steering.add(model, one_pair) as fired:
    steered = model(prompt)
assert torch.allclose(steered, logits, atol=1e-4)
print(f"{one_pair.method}, layer {one_pair.layer}, norm {one_pair.norm:.2f}; {fired}")
plain, moved = (mi.metrics.logit_diff(out, words).item() for out in (model(prompt), steered))
print(f"good against bad: {plain:.2f} as it is, {moved:.2f} steered")

# %% [markdown] short=true
# It moved. But one pair also carries whatever else its two prompts differ in, and one prompt is an
# anecdote: no claim of the sections below rests on it. (Appendix D makes one, and says so.)

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
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

# %% [markdown] short=true
# ## 2. A behaviour, measured properly
#
# Reviews that praise or blame. The vector comes from one set of reviews; layer and strength are
# chosen on a second, the *tuning* reviews; what is claimed is measured on a third, whose phrases
# neither has seen.
#
# - **Effect**: how much the vector moves words of praise against words of blame, where a verdict is
#   due.
# - **Cost**: how much worse the model predicts text that has nothing to do with it.

# %% short=true
n_train, n_test, n_neutral = mi.models.by_size(model, (64, 24, 8), (32, 8, 3))
train = mi.prompts.sentiment(model, n_train, seed=1)
held_out = mi.prompts.sentiment(model, n_test, seed=2, split="test")
unrelated = [kind(model, n_neutral) for kind in (mi.prompts.facts, mi.prompts.ioi)]
neutral = [prompts.clean_tokens for prompts in unrelated]


# %% short=true
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

# %% [markdown] short=true
# `sentiment` pairs every review with its twin, in which each word of opinion is reversed. So we
# know both sides of each pair, and there is one vector for each layer.

# %% short=true
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


# %% short=true
def effect(vector, strength, prompts=held_out, start=before):
    """By how much a vector moves praise against blame, in logits."""
    with steering.add(model, vector, strength):
        return praise(prompts).mean() - start


def cost(vector, strength):
    """By how much it raises the loss of neutral text, in nats a token."""
    with steering.add(model, vector, strength):
        return neutral_loss() - loss_before


# %% [markdown] short=true
# **Layer by strength.** Which layer, and how strong? Nobody knows beforehand, so try. The last
# layer is left out: nothing reads what is added behind it, so there a vector is a constant added
# to the logits, at the scale of the last LayerNorm, and little more. Look for a row in which the
# effect is large *before* the cost comes.
# On `pocket` the verdict reaches the last position late: vectors of the first layers are nearly
# empty.

# %% short=true
tuning = mi.prompts.sentiment(model, len(held_out), seed=3)
tuning_before = praise(tuning).mean()
layers = list(range(0, model.cfg.n_layers - 1, max(1, model.cfg.n_layers // 6)))
strengths = mi.models.by_size(model, [-1.0, 0.25, 0.5, 1.0, 2.0, 4.0], [-1.0, 1.0, 2.0])
vectors = {i: vector_of(i) for i in layers}
effects = torch.tensor([
    [effect(vectors[i], s, tuning, tuning_before) for s in strengths] for i in layers
])  # fmt: skip
costs = torch.tensor([[cost(vectors[i], s) for s in strengths] for i in layers])

# %% short=true
grid = dict(x=[f"{s:g}" for s in strengths], y=[f"L{i}" for i in layers], xlabel="strength",
            ylabel="layer", text=".2f", subtitle=mi.model_id(model))  # fmt: skip
mi.figures.heatmap(
    effects, title="Effect: praise against blame", colorbar="change of the logit difference", **grid
)

# %% short=true
mi.figures.heatmap(
    costs, title="Cost: worse predictions of neutral text", colorbar="added loss (nats)", **grid
)

# %% [markdown] short=true
# Effects grow with the strength and then bend; costs grow slowly and then fast. So there is a
# **sweet spot**, the largest effect at a cost we accept, and behind it a **cliff**.

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
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

# %% [markdown]
# The grid is too coarse to choose by: from one column to the next the strength doubles, so one
# layer may come close to the budget while another stays far below it. Compare at equal *cost*: for
# each layer, raise the strength until neutral text suffers by the whole budget, then read the
# effect. By bisection, on the side where costs grow. A vector that has not spent half of the budget
# at sixteen times its length is out of the race: there is nothing to compare.

# %%
budget = 0.2  # nats a token


def raise_until(measure, limit, highest=16.0, steps=7):
    """The strength at which `measure(strength)` reaches the limit, to some five percent."""
    low, high = highest / 512, highest
    for _ in range(steps):
        halfway = (low * high) ** 0.5  # half of the doublings between them
        low, high = (halfway, high) if measure(halfway) < limit else (low, halfway)
    return low


def affordable_strength(vector):
    """The strength at which the cost reaches the budget."""
    return raise_until(lambda strength: cost(vector, strength), budget)


# %%
at_budget = {i: affordable_strength(vectors[i]) for i in layers}
spent = {i: cost(vectors[i], at_budget[i]).item() for i in layers}
racing = [i for i in layers if spent[i] > budget / 2] or list(layers)
found = {i: effect(vectors[i], at_budget[i], tuning, tuning_before).item() for i in racing}
layer = max(found, key=found.get)
vector, strength = vectors[layer], at_budget[layer]
print(f"sweet spot: layer {layer}, strength {strength:.2f}, norm {strength * vector.norm:.2f}")

# %% [markdown]
# **Beside it, always: a logit bias.** Whatever is added to the stream also reaches the logits
# directly, past all later layers: as $v W_U$, up to the scale of the last LayerNorm. So leave the
# layers out and add that constant to the logits at every position, again until the budget is spent,
# or sixteen times at most. (What it spent is printed.) In the figure, compare the two bars of each
# layer: what do the later layers add to the bias?


# %%
def biased(bias, amount):
    """The model with a constant added to its logits, as a context manager."""
    add = ("unembed.hook_out", lambda logits, hook: logits + amount * bias)
    return model.hooks(fwd_hooks=[add])


def bias_effect(bias, amount):
    """By how much a logit bias moves praise against blame on held-out reviews."""
    with biased(bias, amount):
        return praise(held_out).mean() - before


# %%
def affordable_bias(bias):
    """The amount at which a logit bias spends the budget."""

    def bias_cost(amount):  # the same as inside `biased`, without running the model anew
        losses = [mi.metrics.loss(logits + amount * bias, rows).flatten() for logits, rows in given]
        return torch.cat(losses).mean() - loss_before

    return raise_until(bias_cost, budget)


with torch.no_grad():
    given = [(model(rows), rows) for rows in neutral]
own_logits = {i: vectors[i].vector.to(model.W_U) @ model.W_U for i in racing}
bias_at = {i: affordable_bias(own_logits[i]) for i in racing}

# %%
by_layer = {i: effect(vectors[i], at_budget[i]).item() for i in racing}
by_bias_alone = {i: bias_effect(own_logits[i], bias_at[i]).item() for i in racing}
at_sweet_spot, by_logits = by_layer[layer], by_bias_alone[layer]
claim("sweep.logit_bias", by_logits, control=at_sweet_spot)
with biased(own_logits[layer], bias_at[layer]):
    print(f"cost of the bias at layer {layer}: {neutral_loss() - loss_before:.2f}")
figures.bars(
    {"vector": list(by_layer.values()), "its logits as a bias": list(by_bias_alone.values())},
    [f"L{i}, cost {spent[i]:.2f}" for i in racing],
    title="The vector, and its logits alone, at equal cost",
    ylabel="praise against blame (logits)",
)  # fmt: skip

# %% [markdown]
# At equal cost the bias moves `pocket`'s verdict *more*, and SmolLM2's less, where the vector works
# best. Part of the first is the measure: the neutral texts are facts and indirect objects, where
# words of praise have next to no chance for `pocket`, so a constant on them costs little there.
# Section 5 asks what it costs where they are due. Still, a vector that wins nothing over a constant
# is easily found: keep that in mind wherever a steering result is measured in the logits of a few
# words, and set the bias beside it.
#
# **Controls.** The same place and length, but a random direction; and a vector made in the same
# way from pairs whose labels were shuffled. A shuffled one is short, because differences cancel;
# we take it as it comes, and also stretched to the true vector's length.


# %%
def shuffled(seed, stretched=True):
    """A vector from the same pairs with sides swapped at random."""
    coins = torch.rand(len(train), generator=torch.Generator().manual_seed(seed)) < 0.5
    made = vector_of(layer, labels=coins.to(good.device)).vector
    made = made * vector.norm / made.norm() if stretched else made
    return steering.new_vector(model, made, layer, method="shuffled labels")


def mean_size(make):
    """The mean size of the effects of some vectors, at the sweet spot's strength."""
    return torch.stack([effect(make(seed), strength).abs() for seed in range(n_drawn)]).mean()


# %%
n_drawn = mi.models.by_size(model, 10, 5)
by_chance = mean_size(lambda seed: steering.random_like(vector, model, seed))
by_shuffling = mean_size(lambda seed: shuffled(seed, stretched=False))
claim("sweep.sweet_spot", at_sweet_spot, control=by_chance)
print(f"added {at_sweet_spot:.2f}, subtracted {effect(vector, -strength).item():.2f}")
claim("sweep.shuffled_axis", mean_size(shuffled), control=by_shuffling)

# %% [markdown]
# The last line is a warning. As they come, vectors from shuffled labels do little. Stretched, they
# are several times as strong, with a sign that is luck; on `pocket` they move as much as the true
# vector, as if pairs differed along *one* axis and labels only said which end is which. A control
# that is scaled up from almost nothing can hide that.
#
# **The cliff** is easiest to see in what the model writes. Text that goes wrong repeats itself,
# and that can be counted. (Appendix B has a third measure of cost, and all of them in one
# figure.)

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
n_words = mi.models.by_size(model, 30, 10)


def written(vector, strength, tokens=prompt, n=n_words):
    """A greedy continuation under steering, as token ids."""
    options = dict(max_new_tokens=n, do_sample=False, verbose=False, stop_at_eos=False)
    with steering.add(model, vector, strength):
        return model.generate(tokens, **options)[0, tokens.shape[1] :].tolist()


def repeats(ids):
    """Share of neighbouring pairs that occurred before."""
    return 1 - len({*zip(ids, ids[1:], strict=False)}) / (len(ids) - 1)


steps = [-strength, 0.0, strength, 4 * strength, 16 * strength]
samples = {step: written(vector, step) for step in steps}
figures.table([
    {"strength": f"{step:.2g}", "it writes": model.tokenizer.decode(ids), "repeated": repeats(ids)}
    for step, ids in samples.items()
], title="One prompt, from minus to sixteen times the strength")  # fmt: skip

# %% [markdown]
# ## 3. Five ways to make a vector
#
# - **one pair**: section 1;
# - **paired difference**: the mean over pairs. *Contrastive activation addition*
#   [@panickssery2023caa] is this with questions that have two answers, read at the answer's letter;
#   here it is read at the last word of a review (at the letter: appendix F);
# - **class means**: the mean of one class minus the mean of the other;
# - **PCA** of the differences [@zou2023repe];
# - **probe**: the weights of a logistic regression.
#
# The sixth, a feature of a dictionary, has an appendix of its own.
#
# Two of them are the same thing. Which? The mean of differences is the difference of means, as long
# as every prompt has its twin. Compare the others at equal *cost*: at equal strength one would
# compare lengths. Look at the last bar before you rank the makers.

# %%
paired = steering.paired_difference(good[layer], bad[layer])
assert (paired.cpu() - vector.vector).norm() < 1e-4 * paired.norm()
makers = {
    "one pair": steering.make(model, pair[:1], pair[1:], layer),
    "class means": vector,
    "PCA": vector_of(layer, steering.pca_of_differences),
    "probe": vector_of(layer, steering.probe_weights),
    "shuffled labels": shuffled(0),
}
equal = {name: effect(one, affordable_strength(one)).item() for name, one in makers.items()}
figures.bars(
    list(equal.values()), list(equal), title="Effect at equal cost", horizontal=True,
    xlabel="praise against blame (logits)",
)  # fmt: skip

# %% [markdown]
# In this draw *shuffled labels* do as much as any (their sign is luck). Where coin flips do as
# well, a behaviour says little about makers: on `pocket` the reviews differ mostly along *one*
# axis, and whatever is made of their differences lies near it. On SmolLM2 that is less so: at equal
# length shuffled vectors steer less than the true one, and at equal cost the weakest maker does
# clearly less than the class means.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: only after the prompt
# Contrastive activation addition leaves the prompt alone and steers what comes after it. Add the
# vector from position `start` on.

# %% [markdown] tags=["hint"]
# Do not change the activations you were given: clone, or build a mask over positions.


# %% tags=["exercise"]
def add_after(acts, vector, strength, start):
    """acts: [batch pos d_model]; vector: [d_model]  ->  new acts, with
    `strength * vector` added from `start` on."""
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
# **Transfer.** The vector comes from reviews of things; some of them end in how the reviewer felt.
# Does it move how *people* feel after something good or bad happened to them? Those are other
# sentences about other things, though not all the words are new.

# %%
from mi_data.pocket import generator

drawn = [generator.prompt("opinion", seed) for seed in range(mi.models.by_size(model, 60, 120))]
drawn = [p for p in drawn if p.kind == "feeling"]


def as_cases(texts, pairs, good_first):
    """(text, id of the good word, id of the bad word), where both are one token."""
    cases = []
    for text, words, first in zip(texts, pairs, good_first, strict=True):
        ids = list(mi.prompts.single_tokens(model, words, least=0).values())
        if len(ids) == 2:
            cases.append((text, *(ids if first else ids[::-1])))
    return cases


# %%
feelings = as_cases(
    [p.text for p in drawn], [(p.answer, p.wrong) for p in drawn],
    [p.labels["sentiment"] == "good" for p in drawn],
)[:16]  # fmt: skip


def leaning(cases, opener=""):
    """Logit of the good word minus the bad one, mean over the cases, behind an opener."""
    with torch.no_grad():
        last = [(model(model.to_tokens(opener + text))[0, -1], *pair) for text, *pair in cases]
    return sum((logits[good] - logits[bad]).item() for logits, good, bad in last) / len(last)


feeling_before = leaning(feelings)


# %%
def transfer(vector, strength=strength):
    """By how much a vector moves feelings."""
    with steering.add(model, vector, strength):
        return leaning(feelings) - feeling_before


chance = [abs(transfer(steering.random_like(vector, model, i))) for i in range(n_drawn // 2)]
with biased(own_logits[layer], bias_at[layer]):
    print(f"the logit bias of the same cost moves them by {leaning(feelings) - feeling_before:.2f}")
claim("transfer.feelings", transfer(vector), control=sum(chance) / len(chance))

# %% [markdown]
# The vector's logits, added as a bias, move `pocket`'s feelings too: words of praise and words of
# happiness lie on one side of the unembedding. But at equal *cost* that bias has twice the effect
# on reviews to begin with. Section 5 compares at equal effect.
#
# **Side effects.** The cost on average text hides who pays. So ask for other abilities one by one,
# of the vector and of some random directions, at the accepted cost, and of the vector at eight
# times the strength.

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
ways = {"vector": (vector, strength), "vector, eight times as strong": (vector, 8 * strength)}
ways |= {f"random {i}": (one, affordable_strength(one)) for i in range(n_drawn // 2)
         for one in [steering.random_like(vector, model, i)]}  # fmt: skip
able = {"no steering": abilities()}
for name, (direction, times) in ways.items():
    with steering.add(model, direction, times):
        able[name] = abilities()
figures.table([{"steering": name} | row for name, row in able.items()],
                 title="What else changes (accuracy)")  # fmt: skip

# %% [markdown]
# All steered rows but "eight times as strong" were set to the same cost on neutral text, and yet
# they are not alike. Which ability pays, no average shows: look at each column. On `pocket` it is
# refusal. Yet one of the random directions takes more of it than the vector does, though the others
# take none: one vector at one cost is too little to say that praise and refusal have to do with
# each other.
#
# ## 5. Against its rivals
#
# Why not just ask? Four rivals, each set as near as it can be to the vector's effect on held-out
# reviews, and then measured elsewhere: on feelings, on neutral text, and on the reviews before
# their verdict, where words of praise and of blame are due.
#
# - **prompt**: a few words in front of every review;
# - **logit bias**: a constant added to the logits of words of praise;
# - **the vector's own logits**: what it writes to the logits *directly*, added as a constant at the
#   end, so that no later layer takes part;
# - **fine-tuning**: a few steps of gradient descent on one matrix, on verdicts of praise.
#
# Both biases have an effect in proportion to their size, so one run tells how large it must be.

# %%
from mi_data.pocket import opinions

target = at_sweet_spot
praises = mi.prompts.single_tokens(model, [f" {word}" for word in opinions.ADJECTIVES["good"]])
on_list = torch.zeros(model.cfg.d_vocab_out, device=model.cfg.device)
on_list[list(praises.values())] = 1.0


def review_loss():
    """Mean loss of the held-out reviews up to their verdict, in nats."""
    with torch.no_grad():
        return mi.metrics.loss(model(held_out.clean_tokens), held_out.clean_tokens).mean()


reviews_before = review_loss()


# %%
def outcome():
    """What a way does to reviews, feelings and neutral text, inside its `with`."""
    return {"reviews": (praise(held_out).mean() - before).item(),
            "feelings": leaning(feelings) - feeling_before,
            "cost": (neutral_loss() - loss_before).item(),
            "cost on reviews": (review_loss() - reviews_before).item()}  # fmt: skip


with steering.add(model, vector, strength):
    by_vector = outcome()


def as_bias(bias):
    """What a logit bias does, turned up to the vector's effect."""
    amount = target / bias_effect(bias, 1.0).item()
    with biased(bias, amount):
        return outcome()


by_bias = {"logit bias": as_bias(on_list), "the vector's own logits": as_bias(own_logits[layer])}

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
def loss_behind(opener, texts):
    """Mean loss of texts behind an opener, their first word left out, in nats."""
    losses = []
    for text in texts:
        rows, own = model.to_tokens(opener + text), model.to_tokens(text).shape[1] - 2
        with torch.no_grad():
            losses.append(mi.metrics.loss(model(rows), rows)[0, -own:].mean().item())
    return sum(losses) / len(losses)


# %%
texts = {"cost": [text for prompts in unrelated for text in prompts.clean],
         "cost on reviews": held_out.clean}  # fmt: skip
by_prompt = {"reviews": reached[opener], "feelings": leaning(feelings, opener) - feeling_before}
by_prompt |= {name: loss_behind(opener, some) - loss_behind("", some)
              for name, some in texts.items()}  # fmt: skip

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
optimizer = torch.optim.Adam([update], lr=mi.models.by_size(model, 5e-4, 4e-3))
some = slice(mi.models.by_size(model, 24, 8))
with model.hooks(fwd_hooks=tuned):
    for _ in range(25):
        optimizer.zero_grad()
        gained = mi.metrics.logit_diff(model(train.clean_tokens[some]), verdicts[some]).mean()
        (-gained).backward(inputs=[update])
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
rivals = {"vector": by_vector, **by_bias, "fine-tuning": by_tuning,
          f"prompt: {opener}": by_prompt}  # fmt: skip


def carried_over(name):
    """The effect on feelings as a share of that on reviews."""
    return rivals[name]["feelings"] / rivals[name]["reviews"]


# %%
direct = by_bias["the vector's own logits"]
claim("rivals.carried_over", carried_over("vector"),
      control=carried_over("the vector's own logits"))  # fmt: skip
claim("rivals.own_logits_cost_less", direct["cost"], control=by_vector["cost"])
claim("rivals.cost_depends", direct["cost on reviews"], control=by_vector["cost on reviews"])
if by_prompt["reviews"] > target / 2:
    claim("rivals.prompt_costs_most", by_prompt["cost"], control=by_vector["cost"])
else:
    claim.not_here("rivals.prompt_costs_most", "No prompt comes near the vector's effect.")
claim("rivals.fine_tuning_costs_less", by_tuning["cost"], control=by_vector["cost"])
figures.table([{"way": name} | row for name, row in rivals.items()],
              title="Rivals at about equal effect")  # fmt: skip

# %% [markdown]
# Read the table by its last three columns. On `pocket` the list of words does nothing to feelings:
# their words are not on it. The vector carries over in full, and what it writes to the logits
# directly does so less: the difference is what later layers make of it. (A dozen feelings: how
# much further differs widely from draw to draw.) And which of the two is cheaper? That depends on
# the text. Where no praise is due, the bias costs nothing and the vector does. On reviews, half of
# which blame, the bias raises the loss, and the vector does not. A cost measured on one kind of
# text decides no race. On SmolLM2, with fewer prompts still, both kinds of text agree: the
# vector's logits carry over to feelings nearly as far as the vector does, and cost more on both.
#
# On `pocket` the prompt disturbs most, and its effect is only near to the others': text about other
# things is less expected behind a review, and pocket follows no instructions, so this says nothing
# about *asking* a model that does. (With SmolLM2 no opener of ours comes near the vector's effect.)
# And fine-tuning is no straw man: it disturbs *less* than the vector. A likely reason, which is not
# tested: what it adds depends on the text, and the vector is the same for all.
#
# ## 6. Play with it
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
nearest = min(strengths, key=lambda choice: abs(choice - strength))
mi.figures.explore(
    play, text="We tried the film last week. In short, it was", layer=layers,
    strength=strengths, start={"layer": layer, "strength": nearest},
)  # fmt: skip

# %% [markdown] short=true
# ## Summary
#
# - A steering vector is a difference of activations. It works in both directions, and random ones
#   of the same length do far less.
# - Layer and strength must be swept, on reviews of their own and not up to the last layer, and
#   judged by effect *and* cost: there is a cliff.
# - Compare vectors at equal cost, never at equal strength.
# - A feature of a dictionary steers too, if it is chosen by its effect: that a unit fires on praise
#   is not enough (appendix C). Nor is it for any other direction (appendix G).
# - A mean hides its prompts: nearly all move the right way, and not equally far (appendix E).
# - Set the logit bias $v W_U$ beside every vector. On `pocket`, for the same effect on reviews, the
#   vector moves feelings further; which of them costs less depends on the text that pays. A little
#   fine-tuning is cheaper than the vector.
#
# **What we have not shown.** That the vector *is* the model's concept: it is one handle that moves
# the behaviour. [Notebook 13](13_behaviour_directions.ipynb) asks what such a direction carries.
# And one behaviour in one grammar says little about how reliable steering is elsewhere: on larger
# models it varies widely from input to input, and for some behaviours many of the inputs move
# the wrong way [@tan2024steering].
#
# ## Where to read on
#
# - Activation addition [@turner2023actadd]; contrastive activation addition [@panickssery2023caa].
# - Representation engineering [@zou2023repe]; a guide to concepts as vectors [@rutte2024guide].
# - A benchmark on larger models, where prompting does better than all ways of steering, and sparse
#   autoencoders are not competitive: [@wu2025axbench]. Its two axes are those of appendix G.

# %% [markdown]
# ## Appendix A: a vector in a file
#
# A vector is kept in a file of its own, which says what it is made of. On other weights it is
# refused: there the same numbers mean something else.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    steering.save(one_pair, Path(folder, "praise.safetensors"))
    again = steering.load(Path(folder, "praise.safetensors"), model)
assert torch.equal(again.vector, one_pair.vector)
print(again.model, again.weights, again.prompts)

# %% [markdown]
# ## Appendix B: three measures of cost
#
# The **KL divergence** of the predictions on neutral text from those without steering also counts
# changes that happen to help; the loss does not. All measures over the strength, at the sweet
# spot's layer. Look for the stretch where the effect has come and the costs have not.

# %%
with torch.no_grad():
    unsteered = [model(rows).flatten(0, 1) for rows in neutral]


def divergence(vector, strength):
    """KL divergence of the steered predictions on neutral text, in nats a token."""
    with torch.no_grad(), steering.add(model, vector, strength):
        steered = [model(rows).flatten(0, 1) for rows in neutral]
    return torch.cat([mi.metrics.kl(*pair) for pair in zip(steered, unsteered, strict=True)]).mean()


# %%
steps = [factor * strength for factor in (0.5, 1.0, 2.0, 4.0, 8.0)]
n_texts = mi.models.by_size(model, 2, 1)
starts = [mi.prompts.facts(model, 1, seed=i).clean_tokens[:, :4] for i in range(n_texts)]
repetition = [
    sum(repeats(written(vector, step, rows)) for rows in starts) / len(starts) for step in steps
]
figures.lines(
    {"effect (logits)": [effect(vector, step).item() for step in steps],
     "added loss (nats)": [cost(vector, step).item() for step in steps],
     "KL (nats)": [divergence(vector, step).item() for step in steps],
     "repeated share": repetition},
    title="First the effect, then the cost", x=[f"{step:.2g}" for step in steps],
    xlabel=f"strength at layer {layer}", ylabel="in the unit of each line",
)  # fmt: skip

# %% [markdown]
# ## Appendix C: one feature of a dictionary
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
place = ("resid_post", middle)
if mi.model_id(model) == "pocket":
    folder = files("mi_data") / "sae" / f"resid_post_{middle}"
    sae = mi.sae.load(folder, device=model.cfg.device)
else:
    recipe = mi.sae.Recipe(d_sae=2 * model.cfg.d_model, k=16, steps=150, batch=256, lr=3e-3)
    read_on = torch.cat([train.clean_tokens, train.corrupt_tokens])
    stream = mi.sae.Activations(model, place, read_on)
    sae = mi.sae.train(mi.sae.start(stream, recipe), progress=False).sae()
new = mi.sites.read(model, tuning.clean_tokens, [place])[place][:, 1:].flatten(0, 1)
explains = mi.sae.fidelity(sae, new).explained_variance
print(f"{sae.d_sae} units at {place} explain {explains:.2f} of the variance on other reviews")

# %% [markdown]
# *Which* unit? Not by luck, and not by what its top examples look like: a unit that fires on praise
# need not *cause* praise. So, in three steps, each on its own reviews: rank all units by how well
# their activation separates the two sides; try the first *by effect*, all at the length that
# the vector has at the sweet spot; judge the winner on the held-out reviews.

# %%
units_on = [mi.sae.unit_activations(model, sae, tokens)[:, 1:]
            for tokens in (train.clean_tokens, train.corrupt_tokens)]  # fmt: skip
at_end = [acts[:, -1] for acts in units_on]
fires_good = torch.where(sign[:, None] > 0, *at_end)
fires_bad = torch.where(sign[:, None] > 0, *at_end[::-1])
max_act = torch.cat(units_on).amax((0, 1)).clamp_min(1e-3)
ranked = mi.sae.separating_units(fires_good, fires_bad, 40)
first = [unit for unit, apart in ranked if apart > 0][: n_drawn + 2]

# %%
length = strength * vector.norm


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
alive = [unit for unit in fires_good.amax(0).nonzero()[:, 0].tolist() if unit not in tried]
draw = torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[: len(first)]
drawn_units = [alive[i] for i in draw.tolist()]
by_luck = [at_length(unit) for unit in drawn_units]
mean_luck = sum(map(abs, by_luck)) / len(by_luck)
claim("feature.searched", at_length(chosen), control=mean_luck)
figures.bars(
    [*(at_length(unit) for unit in first), *by_luck],
    [f"searched {unit}" for unit in first] + [f"drawn {unit}" for unit in drawn_units],
    title="Few units that separate reviews also steer them", horizontal=True,
    xlabel="praise against blame (logits)",
)  # fmt: skip

# %% [markdown]
# Firing is not acting: all searched units fire for praise, and their effects differ widely. Now at
# equal cost, beside the class means of the same layer. (The other makers stand beside the class
# means of the sweet spot's layer, where they were made.)

# %%
one = feature(chosen)
unit_affordable = affordable_strength(one)
unit_equal, means_here = effect(one, unit_affordable), vector_of(middle)
means_affordable = affordable_strength(means_here)
means_equal = effect(means_here, means_affordable)
cosine = (one.vector @ means_here.vector / one.norm / means_here.norm).item()
print(f"the unit and the class means have a cosine of {cosine:.2f}")
weakest = min(equal[name] for name in ("one pair", "PCA", "probe"))
claim("feature.dearer", unit_equal / means_equal, control=weakest / equal["class means"])

# %% [markdown]
# **Adding or clamping?** Adding shifts the unit by the same amount everywhere. Clamping holds it at
# a value, so it adds much where the unit was off and little where it was on already. Clamped to
# nothing, the unit is *removed* from reviews that praise: that asks whether the model uses it. The
# control removes as many other units as were tried, the most active where the verdict is due. In
# the figure, where do the two lines part? Where they do not, the unit was off.


# %%
def clamped(unit, value, prompts=held_out):
    """Praise against blame, [prompt], with a unit held at `value`."""
    row = sae.W_dec[unit]
    with steering.clamp(model, place, lambda acts: sae.encode(acts)[..., unit], row, value):
        return praise(prompts)


values = [0.0, 0.5, 1.0, 1.5, 2.0]
top = float(max_act[chosen])
figures.lines(
    {"added": [effect(one, value).item() for value in values],
     "clamped": [(clamped(chosen, value * top).mean() - before).item() for value in values]},
    title="One unit, added or clamped", x=values, xlabel="times its largest activation",
    ylabel="praise against blame (logits)",
)  # fmt: skip

# %%
praising = held_out.select(torch.nonzero(praise_first(held_out) > 0)[:, 0].tolist())
kept = praise(praising).mean()
removed = (clamped(chosen, 0.0, praising).mean() - kept).item()
busy = fires_good.mean(0).topk(len(first) + 1).indices.tolist()
busy = [unit for unit in busy if unit != chosen][: len(first)]
others_removed = [(clamped(unit, 0.0, praising).mean() - kept).abs().item() for unit in busy]
claim("feature.in_use", removed, control=sum(others_removed) / len(others_removed))

# %% [markdown]
# **Does one unit change less else?** At equal cost, the abilities of section 4 again.

# %%
for name, direction, times in (
    ("SAE feature", one, unit_affordable),
    ("class means, the SAE's layer", means_here, means_affordable),
):
    with steering.add(model, direction, times):
        able[name] = abilities()
chosen_rows = ("no steering", "SAE feature", "class means, the SAE's layer")
figures.table([{"steering": name} | able[name] for name in chosen_rows],
                 title="What a unit changes else (accuracy)")  # fmt: skip

# %% [markdown]
# On `pocket`, look at refusal: under this unit the model declines only a third of the requests that
# it should decline, while the class means of the same layer spare far more of them. No neutral text
# asks about that, and so the average did not show it. It is one unit of one dictionary, so no claim
# rests on it; but being *one* unit made it no cleaner here.

# %% [markdown]
# ## Appendix D: the published form
#
# Activation addition was published for GPT-2 XL [@turner2023actadd]: one pair of prompts,
# subtracted *position by position*, added to the first positions of another prompt, before an
# early layer. One of its examples is "Love" minus "Hate", five times, before layer 6 of 48, with
# the prompt "I hate you because". This example is shown by samples; the numbers there are for
# other vectors, and none for GPT-2 small. There we take the same pair at the same depth, as a
# share of the layers; other models may not know such words, and get a pair as in section 1.

# %%
published = ("Love", "Hate", 5.0, "I hate you because")
ours = ("I loved it.", "I hated it.", 2.0, "We tried the film last week. In short, it was")
plus, minus, times, text = published if mi.model_id(model) == "gpt2" else ours
front = steering.activation_addition(model, plus, minus, max(1, round(model.cfg.n_layers / 8)))
tokens = model.to_tokens(text)
print(f"{len(front.vector)} positions from the second on, before layer {front.layer}")
figures.table([
    {"strength": step, "it writes": model.tokenizer.decode(written(front, step, tokens, 15))}
    for step in (-times, 0.0, times)
], title=f"“{plus}” minus “{minus}”, before: {text}")  # fmt: skip


# %%
def front_effect(vector):
    """By how much an activation addition moves " good" against " bad"."""
    with torch.no_grad():
        start = mi.metrics.logit_diff(model(tokens), words)
        with steering.add(model, vector, times):
            return (mi.metrics.logit_diff(model(tokens), words) - start).item()


by_chance_front = [
    abs(front_effect(steering.random_like(front, model, seed))) for seed in range(10)
]
claim("published.activation_addition", front_effect(front), control=sum(by_chance_front) / 10)

# %% [markdown]
# ## Appendix E: prompt by prompt
#
# An effect so far was a mean over reviews. Does the vector work on *each* of them? On larger models
# it often does not: for many behaviours a good share of the prompts moves the wrong way, and how
# far one moves depends on properties that the behaviour does not name [@tan2024steering]. So draw
# more held-out reviews and keep one number for each. The control is random directions of the same
# length. They have no right way, so each is turned to where it moves the mean. In the figure, look
# at what lies left of zero.

# %%
many = mi.prompts.sentiment(model, mi.models.by_size(model, 100, 24), seed=6, split="test")
as_is = praise(many)


def moved(direction):
    """How far a vector moves each review at the sweet spot's strength, [prompt], in logits."""
    with steering.add(model, direction, strength):
        return praise(many) - as_is


moves = moved(vector)
at_random = torch.stack([moved(steering.random_like(vector, model, i)) for i in range(n_drawn)])
at_random = at_random * at_random.mean(1, keepdim=True).sign()

# %%
claim("reliability.wrong_way", (moves < 0).float().mean(), control=(at_random < 0).float().mean())
figures.histogram(
    {"the vector": moves, "one random direction": at_random[0]}, bins=24, ylabel="reviews",
    title="Each review by itself", xlabel="change of praise against blame (logits)",
)  # fmt: skip

# %% [markdown]
# The vector moves all but a few reviews the right way, if not all of them as far. (A random
# direction moves some one way and some the other, whatever its mean.) What does it depend on? The
# nearest property at hand is what the review says. In the next figure, compare the two groups, and
# then look along each.

# %%
blames = praise_first(many) < 0


def gap(rows):
    """How much further reviews that blame move than reviews that praise, in logits."""
    return rows[..., blames].mean(-1) - rows[..., ~blames].mean(-1)


claim("reliability.by_verdict", gap(moves), control=gap(at_random).abs().mean())
print(f"{((as_is < 0) & (as_is + moves > 0)).sum()} of {(as_is < 0).sum()} verdicts changed sides")
figures.scatter(
    as_is, moves, groups=["blames" if one else "praises" for one in blames.tolist()],
    title="How far each review is moved", xlabel="praise against blame, not steered (logits)",
    ylabel="change (logits)", correlation=True,
)  # fmt: skip

# %% [markdown]
# On `pocket` the same vector moves a review that blames much further than one that praises: it has
# more effect where there is more to change. On SmolLM2 it is the other way round, by less. Either
# way the mean over reviews depends on how many of each there are, and a test set of one kind would
# have given another number for the same vector. And moving is not turning: the line above the
# figure says how many verdicts changed sides at the cost that we accept. On `pocket` it is next to
# none, on SmolLM2 (with few reviews) all of them.
#
# ## Appendix F: at the answer's letter
#
# Contrastive activation addition as published [@panickssery2023caa] puts a question with two
# answers, (A) and (B), and takes the difference of the activations at the *letter* of the one and
# of the other. The letters themselves cancel, if each answer stands at (A) as often as at (B); what
# is left is what the model makes of a letter: which answer it stands for. That needs a model that
# can answer such a question. Ask first, each question in both orders of its answers, so that a
# model that always says (A) is right half of the time. The control is the same reviews in words.


# %%
def questions(prompts):
    """(question, letter of praise, letter of blame), each review twice, its answers swapped."""
    rows, sides = [], praise_first(prompts).tolist()
    for text, *pair, side in zip(prompts.clean, prompts.answers, prompts.wrong, sides, strict=True):
        praising, blaming = pair if side > 0 else pair[::-1]
        for a, b, letters in ((praising, blaming, "AB"), (blaming, praising, "BA")):
            question = f"{text}{a} or{b}? (A){a} (B){b}. Answer: ("
            rows.append((question, *letters))
    return rows


print(questions(held_out)[0])


# %%
def right_letters(prompts):
    """Share of the questions in which the right letter has the higher logit."""
    ids, gaps = mi.prompts.single_tokens(model, ["A", "B"]), []
    with torch.no_grad():
        for text, praising, blaming in questions(prompts):
            logits = model(model.to_tokens(text))[0, -1]
            gaps.append(logits[ids[praising]] - logits[ids[blaming]])
    return (torch.stack(gaps) * praise_first(prompts).repeat_interleave(2) > 0).float().mean()


in_words = (praise(held_out) * praise_first(held_out) > 0).float().mean()
claim("letters.at_chance", right_letters(held_out), control=in_words)

# %% [markdown]
# `pocket` gives the right word for nearly all reviews and knows nothing of letters: it has never
# seen such a question, and prefers one letter whatever stands behind it. SmolLM2, which gives the
# right word for most, prefers one letter too; other wordings, also as a chat, did not help. Then
# little can be left when the letters cancel. Make the vector anyway, and look at its length.

# %%
asked = questions(train)
at_letter = steering.make(
    model, [text + praising for text, praising, _ in asked],
    [text + blaming for text, _, blaming in asked], layer,
)  # fmt: skip
print(f"norm {at_letter.norm:.3g}; of the vector from the last word: {vector.norm:.3g}")
by_letter = effect(at_letter, affordable_strength(at_letter))
claim("letters.steers", by_letter, control=at_sweet_spot)

# %% [markdown]
# At sixteen times its length it has next to no effect on `pocket`: a vector cannot find what the
# model does not compute. On SmolLM2 it is short too, and turned up it does about what random
# directions do. In models of this size, read at the last word of a review, as in section 3.
#
# ## Appendix G: reading and writing
#
# A direction can be asked two things: does it *detect* a concept in text, and does it *steer*
# towards it? AxBench asks both of every method, on larger models [@wu2025axbench]. Here are its two
# axes for directions of one layer, the dictionary's:
#
# - **detects**: the AUROC of telling praise from blame on held-out reviews and their twins, where
#   the verdict is due, and for every token behind the last word of opinion;
# - **steers**: the effect on the held-out reviews at the budget of cost.
#
# A random direction is turned by the training reviews, as every detector is fitted on something.
# Asking (the last row) detects by the model's own verdict, and steers by the opener of section 5,
# at the cost that it has.

# %%
LAST, EVERY = "detects, last token", "detects, any token"
STEERS, COST = "steers (logits)", "cost (nats)"
rows = [many.clean_tokens, many.corrupt_tokens]
stream_of = torch.cat([mi.sites.read(model, tokens, [place])[place] for tokens in rows])
praised = torch.cat([~blames, blames])
evidence = many.positions["evidence"].repeat(2).to(praised.device)
behind = torch.arange(stream_of.shape[1], device=praised.device) > evidence[:, None]


def detects(scores):
    """AUROC of praise at the last token and at all behind the evidence; scores: [text pos]."""
    last = mi.sae.detection(scores[:, -1:], praised)
    every = mi.sae.detection(scores[behind][:, None], praised[:, None].expand_as(scores)[behind])
    return {LAST: last.auroc.item(), EVERY: every.auroc.item()}


# %%
def axes_of(direction):
    """Both axes of a vector that is read by its product with the stream."""
    times = affordable_strength(direction)
    steers = {STEERS: effect(direction, times).item(), COST: cost(direction, times).item()}
    return detects(stream_of @ direction.vector.to(stream_of)) | steers


def turned(seed):
    """A random direction, turned so that it reads praise as more on the training reviews."""
    drawn = steering.random_like(means_here, model, seed).vector
    return steering.new_vector(
        model, drawn * (drawn @ means_here.vector).sign(), middle, method="random, turned"
    )


by_seed = [axes_of(turned(seed)) for seed in range(n_drawn)]

# %%
both = [mi.sae.unit_activations(model, sae, tokens, list(tried)) for tokens in rows]
unit_detects = dict(zip(tried, map(detects, torch.cat(both).unbind(-1)), strict=True))
own_verdict = mi.sae.detection(as_is[:, None], ~blames).auroc.item()
unit_cost = cost(one, unit_affordable).item()
axes = {
    "class means": axes_of(means_here),
    "probe": axes_of(vector_of(middle, steering.probe_weights)),
    "SAE unit": unit_detects[chosen] | {STEERS: unit_equal.item(), COST: unit_cost},
    "random, mean": {key: sum(row[key] for row in by_seed) / n_drawn for key in by_seed[0]},
    "asking": {LAST: own_verdict, STEERS: by_prompt["reviews"], COST: by_prompt["cost"]},
}
figures.table([{"way": way} | row for way, row in axes.items()], title="Reading and writing")

# %%
sizes = sum(abs(row[STEERS]) for row in by_seed) / n_drawn
claim("axes.random_directions", axes["random, mean"][LAST],
      control=sizes / axes["class means"][STEERS])  # fmt: skip

# %% [markdown]
# At the last token most things detect on `pocket`: so much of the stream differs there between
# praise and blame that even random directions read it far better than chance. They do not write
# it. In the next figure are the units of the dictionary that were searched in appendix C and the
# random directions, all of one length. Look at the right edge: what reads well, and how much of it
# steers.

# %%
effects_of = [effect(turned(i), length / means_here.norm, tuning, tuning_before).item()
              for i in range(n_drawn)]  # fmt: skip
figures.scatter(
    [row[LAST] for row in (*unit_detects.values(), *by_seed)], [*tried.values(), *effects_of],
    groups=["unit"] * len(tried) + ["random direction"] * n_drawn,
    labels=[*(f"unit {unit}" for unit in tried), *(f"random {i}" for i in range(n_drawn))],
    title="What reads well need not steer", xlabel="AUROC of praise at the last token",
    ylabel="praise against blame (logits)",
)  # fmt: skip

# %% [markdown]
# On `pocket` the right edge is crowded, and one unit of those there steers. So how well something
# reads cannot tell how well it writes. In the table, class means and probe do both, and equally
# well. The unit reads as well where the verdict is due but less well at other tokens, where it is
# often off, and steers less. Asking reads as well as any (there it *is* the behaviour), and steers
# less than the vector at a cost several times the budget: `pocket` follows no instructions. On
# SmolLM2 the two come apart the other way too: the chosen unit of its quickly trained dictionary
# is off where the verdict is due, so it detects nothing there, and it steers most. On larger
# models AxBench finds that the difference of means detects best, and that a prompt steers best.

# %%
claim.table()
