# ---
# title: Directions that carry a behaviour
# minutes: 75
# ---

# %% [markdown]
# **The question.** Steering along a direction changes a behaviour
# ([notebook 12](12_steering.ipynb)). Does the behaviour also *need* that direction? Is one enough?
# Can a concept be erased, so that nothing reads it any more? And can a single fact be rewritten?
#
# **You need** steering ([notebook 12](12_steering.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - test a direction by reading it, removing it, and patching along it alone, and say how much of
#   what it does is a change of the logits;
# - find the direction by which a model declines, and take it away for good;
# - erase a concept from activations in three ways, and say what each leaves to be read;
# - find where an opinion is kept (appendix A), remove a span (B), and rewrite one fact and measure
#   some of what else changed (C).

# %% [markdown] short=true
# ## 1. The direction of sentiment
#
# Take the difference of class means, as before. Three tests, and each asks something else:
#
# 1. **Read**: does the projection on it tell praise from blame in new reviews?
# 2. **Remove**: is the verdict lost without it?
# 3. **Patch along it**: put the *other* review's component along this one direction into the run,
#    and leave all else. Does the verdict follow?
#
# By hand, in two dimensions: `u` has length one.

# %% short=true
u, mine, other = torch.tensor([0.6, 0.8]), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 5.0])
print("component:", mine @ u)
print("removed:", mine - (mine @ u) * u)
print("patched along u:", mine + ((other - mine) @ u) * u)

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: patch along a direction
# Return `acts` with its component along the direction taken from `source`, and all else as it was.
# The direction may have any length.

# %% [markdown] tags=["hint"]
# Make it of length one. Then the component of `source - acts` along it is a number a position.


# %% tags=["exercise"]
def patch_along(acts, source, direction):
    """acts, source: [... d_model]; direction: [d_model]  ->  [... d_model]"""
    raise NotImplementedError


# %% tags=["solution"]
def patch_along(acts, source, direction):
    unit = direction / direction.norm()
    return acts + ((source - acts) @ unit)[..., None] * unit


# %% tags=["check"]
check.patch_along(patch_along)

# %% short=true
from mi_helpers import steering

n_layers = model.cfg.n_layers
n_train, n_test, n_random = mi.models.by_size(model, (64, 48, 8), (24, 8, 4))
layers = sorted({*range(0, n_layers, max(1, n_layers // 6)), n_layers - 1})
layer = layers[len(layers) // 2]
train = mi.prompts.sentiment(model, n_train, seed=1)
held_out = mi.prompts.sentiment(model, n_test, seed=2, split="test")


# %% short=true
def sides(prompts):
    """Last activations of praising and of blaming reviews, [layer pair d_model] each."""
    clean, corrupt = (
        steering.collect(model, tokens, layers=layers)
        for tokens in (prompts.clean_tokens, prompts.corrupt_tokens)
    )
    praise = [label["sentiment"] == "good" for label in prompts.labels]
    praise = torch.tensor(praise, device=clean.device)[:, None]
    return torch.where(praise, clean, corrupt), torch.where(praise, corrupt, clean)


# %% short=true
half_way = layers.index(layer)
good, bad = sides(train)
by_layer = [steering.class_means(*both) for both in zip(good, bad, strict=True)]
sentiment = by_layer[half_way]
strangers = torch.randn(n_random, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
strangers = strangers.to(model.cfg.device)


# %% [markdown] short=true
# **Read.** The threshold is half-way between the training means. The control is the same for random
# directions, each turned to the side on which praise lies in training, as a reader would.


# %% short=true
middle = (good[half_way].mean(0) + bad[half_way].mean(0)) / 2
unseen = [acts[half_way] for acts in sides(held_out)]


def told_apart(direction):
    """Share of held-out reviews on the right side of the training means' middle."""
    new_good, new_bad = (((acts - middle) @ direction) for acts in unseen)
    return torch.cat([new_good > 0, new_bad < 0]).float().mean()


turned = strangers * (strangers @ sentiment).sign()[:, None]
by_chance = torch.stack([told_apart(one) for one in turned])
claim("sentiment.read", told_apart(sentiment), control=by_chance.mean())

# %% [markdown] short=true
# Reading proves little: what can be read need not be used. So **remove** it [@elazar2020amnesic],
# from everything that is written to the stream. But the last layers write what is about to be said,
# and a direction that points to words of praise is missed there in any case. So also remove it from
# the writes up to its own layer only, and from those behind it only.


# %% short=true
def verdict(prompts=held_out, tokens=None):
    """Mean logit difference, right against wrong verdict."""
    with torch.no_grad():
        logits = model(prompts.clean_tokens if tokens is None else tokens)[:, -1:]
    return mi.metrics.logit_diff(logits, prompts.answer_tokens).mean()


full = verdict()


def share_left(directions, places=None):
    """Share of the logit difference left with some directions projected out."""
    with steering.project_out(model, directions, places=places):
        return verdict() / full


# %% short=true
from mi_helpers.interventions import intervene, write_hooks

writes = write_hooks(model)
up_to_it = [place for place in writes if isinstance(place, str) or place[1] <= layer]
behind_it = [place for place in writes if place not in up_to_it]
rows = {"all": writes, f"up to layer {layer}": up_to_it, "behind it": behind_it}
without_stranger = torch.stack([share_left(one, up_to_it) for one in strangers]).mean()
claim("sentiment.remove", share_left(sentiment, up_to_it), control=without_stranger)
figures.table(
    [{"removed from the writes": name, "left": share_left(sentiment, where).item()}
     for name, where in rows.items()],
    title="The verdict without the direction",
)  # fmt: skip

# %% [markdown] short=true
# **Patch along it.** Now the review blames and the model is told, along one of its directions only,
# that it praises (or the other way round), at the last position of one layer. Beside it: random
# directions, and the whole vector.
#
# A patch along a direction can mislead: it may work through a path that the model does not use by
# itself [@makelov2023illusion]. We do not test for that. What we test is plainer: how much of the
# effect goes straight to the logits? Add the same change behind the *last* layer, where it can do
# nothing else. (`intervene` changes activations while the model runs.) In the figure, compare the
# second bar with the third, which is its part by the logits alone, and with the last: is there more
# to the opinion than the direction?

# %% short=true
places = [("resid_post", i) for i in layers]
streams = mi.sites.read(model, held_out.clean_tokens, places)
twins = mi.sites.read(model, held_out.corrupt_tokens, places)
flipped = verdict(tokens=held_out.corrupt_tokens)


def moved(change, at=layer):
    """How far the verdict moves to the twin's (0 to 1) under `change` of the stream after `at`."""
    with intervene(model, {("resid_post", at): change}, positions=[-1]):
        return (full - verdict()) / (full - flipped)


def along(direction):
    """A change that moves the component along one direction."""
    unit, source = direction / direction.norm(), twins["resid_post", layer]
    return lambda acts, where: acts + ((source - acts) @ unit)[..., None] * unit


# %% short=true
unit = sentiment / sentiment.norm()
further = (twins["resid_post", layer] - streams["resid_post", layer])[:, -1:] @ unit
moves = {
    "random direction": torch.stack([moved(along(one)).abs() for one in strangers]).mean(),
    "sentiment": moved(along(sentiment)),
    "to the logits": moved(lambda acts, where: acts + further[..., None] * unit, at=n_layers - 1),
    "everything": moved(lambda acts, where: twins["resid_post", layer]),
}
claim("sentiment.along", moves["sentiment"], control=moves["to the logits"])
figures.bars(
    list(moves.values()), list(moves), title="One direction against all of them",
    ylabel="share of the way to the twin's",
)  # fmt: skip

# %% [markdown] short=true
# On `pocket` the direction carries the verdict, and most of what it does goes through the layers
# behind it: later ones read it. A part is a change of the logits. (After SmolLM2's middle layer the
# last token hardly holds the verdict yet: even all of it moves little, and the direction does most
# of that.) How near is it to the words? Here is its cosine with the unembedding of praise less
# blame, layer by layer.

# %%
first = held_out.answer_tokens[:, 0], held_out.answer_tokens[:, 1]
praised = torch.tensor([label["sentiment"] == "good" for label in held_out.labels])
signs = (2.0 * praised - 1).to(model.W_U)
words = (model.W_U[:, first[0]] - model.W_U[:, first[1]]) @ signs
cosine = torch.nn.CosineSimilarity(dim=-1)
print({f"layer {i}": f"{cosine(one, words):.2f}" for i, one in zip(layers, by_layer, strict=True)})

# %% [markdown]
# ## 2. Refusal
#
# `pocket` was trained to decline some requests and to answer others. The "harms" are toys, such as
# stealing a car; each has a harmless twin in the same frame, which shares a word with it where it
# can, such as washing a car. Large chat models decline, too, and there one direction turned out to
# carry it [@arditi2024refusal]: without it they answer, with it they decline harmless requests.
# That is worth knowing before one relies on refusals. What we find on `pocket` shows the *method*;
# it says nothing about how safe any real model is.

# %%
n_asked, n_chosen, n_judged = mi.models.by_size(model, (12, 2, 4), (4, 1, 1))
asked = [mi.prompts.refusal(model, 16, seed=seed) for seed in range(100, 100 + n_asked)]
chosen_on = [mi.prompts.refusal(model, 8, seed=seed) for seed in range(30, 30 + n_chosen)]
judged_on = [mi.prompts.refusal(model, 12, seed=seed, split="test") for seed in range(n_judged)]
print(asked[0].clean[0], asked[0].answers[0], "\n" + asked[0].corrupt[0], asked[0].wrong[0])

# %% [markdown]
# **First measure the behaviour**; only what is there can be explained. A model can decline with
# "Sorry" or "No", and answer with "Sure" or "Yes". We compare the probabilities of the two groups,
# so that changing one word for another does not count. Does it tell the two kinds apart?

# %%
decline_words = list(mi.prompts.single_tokens(model, (" Sorry", " No")).values())
answer_words = list(mi.prompts.single_tokens(model, (" Sure", " Yes")).values())


def declines(sets, harmful=True):
    """Log odds of declining against answering, for each request of several sets."""
    odds = []
    for prompts in sets:
        with torch.no_grad():
            logits = model(prompts.clean_tokens if harmful else prompts.corrupt_tokens)[:, -1]
        odds.append(logits[:, decline_words].logsumexp(-1) - logits[:, answer_words].logsumexp(-1))
    return torch.cat(odds)


# %%
harmful_declined, harmless_declined = (
    (declines(judged_on, harmful) > 0).float().mean() for harmful in (True, False)
)
asked_for = {(one["verb"], one["object"]) for prompts in judged_on for one in prompts.labels}
print(f"{sum(map(len, judged_on))} prompts, of {len(asked_for)} different harmful requests")
claim("refusal.behaviour", harmful_declined, control=harmless_declined)
tells_apart = bool(harmful_declined - harmless_declined > 0.5)


def not_asked(*claims):
    """Say of claims that explain a refusal that there is none to explain."""
    for name in claims:
        claim.not_here(name, "It hardly tells harmful requests from harmless ones.")


# %% [markdown]
# `pocket` does, on requests that it was never trained on (held out were such whose words stand more
# often in trained requests of their own kind). Where the two shares hardly differ, there
# is no behaviour to explain. SmolLM2 is such a model: asked in this way, it declines harmful
# requests little more often than harmless ones. The cells below still run on it and show how the
# method goes; what they print explains nothing, and their claims are not made.
#
# **Select by effect.** One candidate for each layer, after its attention, and each of the last
# positions: the difference of means, harmful less harmless. Remove each in turn, on other draws,
# and judge the choice on requests that had no part in it.

# %%
positions = list(range(-6, 0))
parallel = getattr(model.cfg, "parallel_attn_mlp", False)  # then nothing lies between the two
site = "resid_post" if parallel else "resid_mid"


def contrast(sets, model=model):
    """Activations of harmful and of harmless requests, [layer prompt position d_model] each."""
    places = [(site, i) for i in layers]
    found = []
    for prompts in sets:
        for tokens in (prompts.clean_tokens, prompts.corrupt_tokens):
            cache = mi.sites.read(model, tokens, places, positions=positions)
            found.append(torch.stack([cache[place] for place in places]))
    return torch.cat(found[::2], dim=1), torch.cat(found[1::2], dim=1)


# %%
harmful, harmless = contrast(asked)
means = (harmful - harmless).mean(1)  # [layer position d_model]


def without(direction):
    """How strongly harmful requests are declined without a direction."""
    with steering.project_out(model, direction):
        return declines(chosen_on).mean()


bypass = torch.tensor([[without(direction) for direction in row] for row in means])

# %% [markdown]
# Red: the model would rather answer. In which layer and at which position was the direction that
# does it read? (The tokens below are those of the first request.)

# %%
figures.heatmap(
    bypass, title="Harmful requests, one direction removed", x=list(asked[0].str_tokens[0][-6:]),
    y=[f"L{i}" for i in layers], xlabel="position", ylabel="layer", text=".1f",
    colorbar="decline against answer (log odds)",
)  # fmt: skip


# %%
def best_of(n):
    """Row and column of the most effective candidate of the first `n` layers."""
    return divmod(int(bypass[:n].argmin()), len(positions))


def declined(direction, prompts=judged_on):
    """Share of new harmful requests that are declined without a direction."""
    with steering.project_out(model, direction):
        return (declines(prompts) > 0).float().mean()


row, column = best_of(len(layers))
refusal = means[row, column]
place, position = layers[row], positions[column]
print(f"layer {place}, position {position}, norm {refusal.norm():.2f}")

# %% [markdown]
# **How late may a direction be?** What is read just before the end may be close to the logits
# themselves, and taking it away hardly more than forbidding a few words. The authors' code
# therefore leaves out candidates of the last fifth of the layers, here the last two (and those that
# do not also induce refusal, or that disturb harmless requests). So set three things beside the
# choice: the best candidate under that filter, the best that leaves out the last layer only, and
# the direction of the *unembedding* that tells declining from answering. "Towards the words" is the
# cosine with that last one.

# %%
to_words = [model.W_U[:, ids].mean(1) for ids in (decline_words, answer_words)]
readout = to_words[0] - to_words[1]
filtered = sum(i < int(0.8 * n_layers) for i in layers)
rivals = {
    "all layers": refusal,
    "not the last": means[best_of(len(layers) - 1)],
    "not the last fifth": means[best_of(filtered)],
    "unembedding": readout,
}

# %%
still = {name: declined(one).item() for name, one in rivals.items()}
towards = {name: cosine(one, readout).item() for name, one in rivals.items()}
if tells_apart:
    claim("refusal.bypass", still["all layers"], control=still["unembedding"])
    claim("refusal.filter", still["not the last fifth"], control=still["not the last"])
    claim("refusal.readout", towards["all layers"], control=towards["not the last"])
else:
    not_asked("refusal.bypass", "refusal.filter", "refusal.readout")
at_random = torch.stack([declined(one) for one in strangers]).mean().item()
figures.table(
    [{"removed": name, "declined": still[name], "towards the words": towards[name]}
     for name in rivals] + [{"removed": "random", "declined": at_random}],
    title="Harmful requests declined without a direction",
)  # fmt: skip

# %% [markdown]
# On `pocket` the direction is found in the last layer, after its attention, at the last position:
# by then the request has been looked up. A good part of it points where the logits of declining
# lie, more than of the best candidate one layer earlier, which takes away most refusals. It is not
# the same as the unembedding: without that, all is declined. (But that takes away only what the
# *mean* of "Sorry" and "No" has over the mean of "Sure" and "Yes"; one word of a pair can still win
# over the other, and that is counted as declining. So this does not show that the direction is more
# than words.) Under the authors' filter the best candidate takes no refusals away. That refusals
# hang on one direction well before the end, as was found in large chat models, `pocket` does not
# show; our candidates lie after the attention of each layer, theirs before each layer.
#
# **Add it** to harmless requests, in the one layer where it was read and at its own length, as the
# authors do. Are they declined? It is the difference of means, so it puts the mean of harmless
# requests where that of harmful ones was; read in the last layer, it has one MLP left to pass. So
# that it works is nearly algebra on `pocket`: what is tested is that it holds on new requests. The
# curve goes on to a multiple that the authors do not use.

# %%
vector = steering.new_vector(model, refusal, place, method="class_means", site=site)
strengths = [0.0, 0.5, 1.0, 2.0]


def induced(vector, strength):
    """Log odds of declining, one for each new harmless request, with the vector added."""
    with steering.add(model, vector, strength):
        return declines(judged_on, harmful=False)


def share(vector, strength):
    """Share of new harmless requests that are declined with the vector added."""
    return (induced(vector, strength) > 0).float().mean()


# %%
randoms = [steering.random_like(vector, model, seed) for seed in range(n_random)]
curves = {"refusal": [share(vector, s) for s in strengths]}
curves["random"] = [torch.stack([share(one, s) for one in randoms[:2]]).mean() for s in strengths]
figures.lines(
    curves, title="Harmless requests, the direction added", x=strengths, xlabel="strength",
    ylabel="share declined",
)  # fmt: skip

# %%
calm = declines(judged_on, harmful=False).mean()
gap = declines(judged_on).mean() - calm
by_one_norm = induced(vector, 1.0).mean() - calm
by_chance = torch.stack([(induced(one, 1.0).mean() - calm).abs() for one in randoms]).mean()
if tells_apart:
    claim("refusal.induce", by_one_norm / gap, control=by_chance / gap)
else:
    not_asked("refusal.induce")

# %% [markdown] short=true
# **For good.** Instead of removing the direction at run time, remove it from every matrix that
# writes to the stream: $W \leftarrow W - W u u^T$. Then nothing can write it any more.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 2: orthogonalise a matrix
# Rows of `W` are vectors of the stream, as in `x @ W`. Return the matrix that cannot write along
# the direction.

# %% [markdown] tags=["hint"]
# `W @ u` says how much each row writes along the unit vector `u`.


# %% tags=["exercise"]
def orthogonalise(W, direction):
    """W: [d_in d_model]; direction: [d_model], of any length  ->  [d_in d_model]"""
    raise NotImplementedError


# %% tags=["solution"]
def orthogonalise(W, direction):
    unit = direction / direction.norm()
    return W - torch.outer(W @ unit, unit)


# %% tags=["check"]
check.orthogonalise(orthogonalise)

# %%
requests = judged_on[0].clean_tokens[:8]
with torch.no_grad():
    untouched = model(requests)
    with steering.project_out(model, refusal):
        at_run_time = model(requests)
    with steering.orthogonalised(model, refusal):
        for_good = model(requests)
assert torch.allclose(at_run_time, for_good, atol=1e-3)
assert not torch.allclose(at_run_time, untouched, atol=0.1)

# %% [markdown]
# What does it say then?


# %%
end = model.tokenizer.eos_token


def reply(text):
    """The model's greedy reply, up to the end of its text."""
    tokens = model.to_tokens(text)
    options = dict(max_new_tokens=16, do_sample=False, verbose=False, stop_at_eos=False)
    return model.to_string(model.generate(tokens, **options)[0, tokens.shape[1] :]).split(end)[0]


rows = []
for request in [prompts.clean[0] for prompts in judged_on[:3]]:
    said = {"request": request, "as it is": reply(request)}
    with steering.orthogonalised(model, refusal):
        rows.append(said | {"orthogonalised": reply(request)})
figures.table(rows, title="Declined, and answered")

# %% [markdown]
# **Specific?** A direction whose loss breaks the model would make it answer, too. So how far do
# other predictions move, those of facts, of reviews, of indirect objects, of harmless requests?
# Below, in nats (the divergence of the next token's probabilities).

# %%
n = mi.models.by_size(model, 24, 8)
others = {
    "facts": mi.prompts.facts(model, n, seed=5).clean_tokens, "reviews": held_out.clean_tokens,
    "indirect objects": mi.prompts.ioi(model, n, seed=5).clean_tokens,
    "harmless": judged_on[0].corrupt_tokens, "harmful": judged_on[0].clean_tokens,
}  # fmt: skip


@torch.no_grad()
def predicted():
    """Log probabilities of the next token, for each kind of prompt."""
    return {name: model(tokens)[:, -1].log_softmax(-1) for name, tokens in others.items()}


# %%
as_it_is, divergence = predicted(), {}
for name, direction in {**rivals, "random": strangers[0]}.items():
    with steering.project_out(model, direction):
        moved_to = predicted()
    divergence[name] = {kind: (p.exp() * (p - moved_to[kind])).sum(-1).mean().item()
                        for kind, p in as_it_is.items()}  # fmt: skip
moved_by = divergence["all layers"]
if tells_apart:
    most = max(moved_by[kind] for kind in others if kind != "harmful")
    claim("refusal.specific", most, control=moved_by["harmful"])
else:
    not_asked("refusal.specific")
figures.table([{"removed": name} | row for name, row in divergence.items()],
              title="How far predictions move, in nats")  # fmt: skip

# %% [markdown]
# ## 3. Erased, and still readable?
#
# Section 2 removed the direction from everything that is written to the stream. Does that make the
# model forget *which requests are harmful*? Ask a **fresh probe**: a classifier fitted to the
# activations of the model that is left, and tested on new requests. Beside it: the model as it is,
# an untrained model, which passes the words on, and shuffled labels.

# %%
import contextlib

from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC


def at_choice(sets, model=model):
    """Activations where the direction was read, [prompt d_model], and which are harmful."""
    harmful, harmless = (acts[row, :, column] for acts in contrast(sets, model))
    labels = torch.arange(len(harmful) + len(harmless)) < len(harmful)
    return torch.cat([harmful, harmless]).double().cpu(), labels


def readable(fitted, tested, curved=False):
    """Accuracy on `tested` of a fresh classifier fitted on `fitted`: activations and labels."""
    (acts, y), (new, new_y) = fitted, tested
    centre, size = acts.mean(0), acts.std()
    probe = SVC(C=10.0) if curved else LogisticRegression(C=0.1, max_iter=1000)
    probe.fit((acts - centre) / size, y)
    return (torch.tensor(probe.predict((new - centre) / size)) == new_y).double().mean().item()


# %%
def by_chance(fitted, tested, **options):
    """The same with shuffled labels, mean of five."""
    acts, y = fitted
    orders = [torch.randperm(len(y), generator=torch.Generator().manual_seed(i)) for i in range(5)]
    return sum(readable((acts, y[order]), tested, **options) for order in orders) / 5


fitted, tested = at_choice(asked), at_choice(judged_on)
with steering.project_out(model, refusal):
    without_it = at_choice(asked), at_choice(judged_on)
without_training = mi.untrained(model)
ignorant = at_choice(asked, without_training), at_choice(judged_on, without_training)
rows = {"as it is": (fitted, tested), "without the direction": without_it, "untrained": ignorant}
figures.table([{"model": name, "a fresh probe is right": readable(*acts)}
               for name, acts in rows.items()]
              + [{"model": "shuffled labels", "a fresh probe is right": by_chance(*without_it)}],
              title="Which requests are harmful?")  # fmt: skip

# %% [markdown]
# On `pocket` the behaviour is gone, and so is much of what the probe could read. What is left is
# little more than the words of the request give away in an untrained model: too little to say, from
# a dozen requests, that the model still tells harm. With the direction gone the *same* model
# computes something else, so this is a test of the changed model and not of the old one.
#
# **Erasing at one place** is an easier task: treat the activations there as data. When can no
# *linear* classifier reach a lower loss (logistic, hinge or squared) than one that ignores its
# input? Just when both classes have the same mean [@belrose2023leace]. That is said of the data at
# hand, and of the loss: a linear threshold may still be right more often than not, and on other
# data the means differ again. Three ways:
#
# - take out the **difference of means** $\delta$: what is left has equal means;
# - **INLP** [@ravfogel2020inlp]: fit a probe, take its direction out, fit the next, and so on;
# - **LEACE** [@belrose2023leace]: of all affine maps that make the means equal, the one that
#   changes the activations least. With $C$ their covariance and $\mu$ their mean,
#
# $$r(x) = x - \frac{\delta^T C^{-1} (x - \mu)}{\delta^T C^{-1} \delta} \, \delta$$
#
# It takes away along $\delta$, like the first, but only as much as the best linear *reader*,
# $C^{-1} \delta$, can tell of the class. What varies along $\delta$ for other reasons stays.


# %%
def without_span(directions, mean):
    """A map that removes what lies in the span of some directions, measured from the mean."""
    Q = torch.linalg.qr(torch.stack(directions).T).Q
    return lambda x: x - ((x - mean) @ Q) @ Q.T


def inlp(acts, y, rounds):
    """The directions of as many probes, each fitted to what those before it left."""
    found, rest = [], acts
    with contextlib.suppress(ValueError):  # where nothing is left that tells the classes apart
        for _ in range(rounds):
            found.append(steering.probe_weights(rest[y], rest[~y]))
            rest = without_span(found, acts.mean(0))(acts)
    return found


# %%
def gap_of(acts, y):
    """The difference of the classes' means."""
    return steering.class_means(acts[y], acts[~y])


def leace(acts, y):
    """The map above, for two classes."""
    mean, gap = acts.mean(0), gap_of(acts, y)
    reader = torch.linalg.pinv(torch.cov(acts.T, correction=0), hermitian=True) @ gap
    return lambda x: x - ((x - mean) @ reader / (reader @ gap))[..., None] * gap


# %%
acts, y = fitted
mean, probes = acts.mean(0), inlp(acts, y, 16)
erasers = {"nothing": lambda x: x,
           "difference of means": without_span([gap_of(acts, y)], mean),
           "LEACE": leace(acts, y)}  # fmt: skip
erasers |= {f"INLP, {n} of {acts.shape[1]}": without_span(probes[:n], mean) for n in (1, 4, 16)}
before = gap_of(acts, y).norm()
for name in ("difference of means", "LEACE"):
    assert gap_of(erasers[name](acts), y).norm() < 1e-5 * before

# %% [markdown]
# Both exact ways leave equal means where they were fitted, as the cell asserts. Now judge each on
# other data: on **other draws** of the same requests, in other words, and on **new requests**. How
# much of the gap of the means is left? Can a fresh **linear** probe read the class, fitted to one
# half of these data and tested on the other? Can a **curved** one, a support vector machine? How
# much **changed**, as a share of the activations' variance? And if the model runs on with the
# erased activations, how many new harmful requests does it still **decline**?

# %%
again = at_choice([mi.prompts.refusal(model, 16, seed=seed) for seed in range(200, 200 + n_asked)])
new_sets = [mi.prompts.refusal(model, 12, seed=seed, split="test")
            for seed in range(50, 50 + mi.models.by_size(model, 10, 2))]  # fmt: skip
new = at_choice(new_sets)
harms = [(one["verb"], one["object"]) for prompts in new_sets for one in prompts.labels]
every_second = torch.tensor([harm in sorted(set(harms))[::2] for harm in harms]).repeat(2)
halves = {"other draws": (again, torch.arange(len(again[1])) // 16 % 2 == 0),
          "new requests": (new, every_second)}  # fmt: skip


# %%
def declined_with(erase):
    """Share of new harmful requests declined with the activations erased where they were read."""
    change = {(site, place): lambda acts, where: erase(acts.double().cpu()).to(acts)}
    with intervene(model, change, positions=[position]):
        return (declines(judged_on) > 0).float().mean().item()


def verdict_on(erase, where, **options):
    """The gap of the means left on other data, and what a probe of one half reads in the other."""
    (x, labels), half = halves[where]
    parts = [(erase(x[rows]), labels[rows]) for rows in (half, ~half)]
    left = gap_of(erase(x), labels).norm() / gap_of(x, labels).norm()
    changed = (erase(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    return {"gap left": left.item(), "linear probe": readable(*parts),
            "curved probe": readable(*parts, curved=True), "changed": changed.item()}  # fmt: skip


# %%
judged = {where: {name: verdict_on(erase, where) for name, erase in erasers.items()}
          for where in halves}  # fmt: skip
figures.table(
    [{"erased": name, "judged on": where} | judged[where][name]
     | ({"declined": declined_with(erase)} if where == "new requests" else {"declined": None})
     for name, erase in erasers.items() for where in halves],
    title="What three ways of erasing leave, on other data",
)  # fmt: skip

# %%
draws, requests = (judged[where]["LEACE"] for where in halves)
if len(acts) > acts.shape[1]:
    claim("erasure.curved", draws["curved probe"], control=draws["linear probe"])
    claim("erasure.new", requests["gap left"], control=draws["gap left"])
else:
    for name in ("erasure.curved", "erasure.new"):
        claim.not_here(name, f"{len(acts)} requests are too few for {acts.shape[1]} dimensions.")

# %% [markdown]
# On `pocket` equal means close the door to *linear* probes only: on other draws of the same
# requests a linear probe reads little, a curved one most. (Both halves of these data hold the same
# requests, so the curved one may know them one by one; look at its row for new requests, where no
# harmful one is in both.) On *new requests* the means differ again,
# by more than a third of what they did, and a linear probe reads the class from that. The guarantee
# is for the data that the eraser was fitted to; ask for the rest. LEACE changes less than taking
# out the difference of means, as its theorem says. INLP, here with a regularised probe, needs
# many directions and changes more in the end. And none of this tells what the model does, for it is
# no linear classifier: with either exact way it declines about half of these requests. What an
# erasure does to the behaviour has to be measured.

# %% [markdown] short=true
# ## Summary
#
# - A direction must be tested by reading, removing and patching along it, and set beside the words
#   that it points to: how much of it is a change of the logits?
# - One direction can switch a refusal off; ask how near the logits it was read. On `pocket` it is
#   read in the last layer, and under the authors' filter the best candidate does not do it.
# - At one place, equal class means close the door to linear probes, on the data where the means are
#   equal, and to no others.
# - Where an opinion is kept must be tested; on `pocket` no mark summarises it (appendix A).
# - One fact can be rewritten in closed form, and other countries left in peace; but another fact of
#   the *same* country is lost with it, by our shorter form of ROME (appendix C).
#
# **What we have not shown.** That real models' refusals work so: `pocket` learned a toy. That the
# chosen direction is *the* one: selection by effect finds a good handle, and in large models there
# are others [@wollschlager2025cones].
#
# ## Where to read on
#
# - Sentiment and its summaries [@tigges2023sentiment]; linear representations [@park2023linear].
# - Refusal [@arditi2024refusal]; attacks on it [@zou2023attacks].
# - Rank-one editing [@meng2022rome]; where to edit, and what tracing says of it
#   [@hase2023localization]; what else an edit should change [@cohen2023ripple]; what facts look
#   like inside [@nanda2023facts].

# %% [markdown]
# ## Appendix A: where an opinion is kept
#
# Opinions stand in adjectives and verbs. In several language models, what a clause said is
# collected at the mark that ends it, and read from there [@tigges2023sentiment]. Is it here? Colour
# each token by its component along the layer's own direction, less that of its twin. Choose a
# layer.


# %%
def coloured(layer):
    """Four reviews, each token coloured by its component along the direction, less its twin's."""
    unit = by_layer[layers.index(layer)]
    difference = (streams["resid_post", layer] - twins["resid_post", layer]) @ (unit / unit.norm())
    return figures.tokens_coloured(
        [held_out.str_tokens[i] for i in range(4)], [difference[i] for i in range(4)],
        title=f"Praise (blue) and blame (red) after layer {layer}, review less twin",
        unit="along the direction",
    )  # fmt: skip


mi.figures.explore(coloured, ahead=True, layer=layers, start={"layer": layer})

# %% [markdown]
# In the twins only the words of opinion differ. All colour on other tokens was *moved* there. But
# is it used there? Put the twin's stream in, layer by layer, at one kind of token only.

# %%
tokens = held_out.clean_tokens
marks = torch.tensor([mi.prompts.single_token(model, mark) for mark in (".", ",")]).to(tokens)
opinion = tokens != held_out.corrupt_tokens
after = (opinion.cumsum(1) > 0) & ~opinion
at_end = torch.zeros_like(opinion)
at_end[:, -1] = True
is_mark = torch.isin(tokens, marks)
kinds = {"words of opinion": opinion, "marks": after & is_mark,
         "other words": after & ~is_mark & ~at_end, "last token": at_end}  # fmt: skip
assert all(mask.any(1).all() for mask in kinds.values())  # each review has some of each
print({name: int(mask.sum()) for name, mask in kinds.items()}, f"in {len(tokens)} reviews")


# %%
def moved_by(place, mask):
    """How far the verdict moves with the twin's stream put in under a mask, [batch pos]."""
    with intervene(model, {place: lambda acts, where: twins[place]}, positions=mask):
        return (full - verdict()) / (full - flipped)


by_place = torch.tensor([[moved_by(place, mask) for mask in kinds.values()] for place in places])
on_words, on_marks, on_others, on_last = by_place.T  # each [layer]
claim("sentiment.at_the_end", on_last[half_way], control=on_words.max())
claim("sentiment.no_summary", on_marks.abs().max(), control=on_others.max())
figures.heatmap(
    by_place, title="Which tokens keep the opinion, layer by layer", x=list(kinds), text=".2f",
    y=[f"L{i}" for i in layers], ylabel="layer", colorbar="share of the way to the twin's",
)  # fmt: skip

# %% [markdown]
# On `pocket` full stops and commas keep nothing. In the first layers the opinion stands on its own
# words, and part of it on ordinary words that follow; after layer 3 the last token has fetched it.
# In SmolLM2, on a handful of reviews, the marks keep more than ordinary words do, as in the models
# of that study. A summary is no law; look before you assume one.

# %% [markdown]
# ## Appendix B: two behaviours, two directions
#
# Take away the directions of sentiment and of refusal, one at a time, and then together in two
# ways: their **sum** (each made of length one), which is one direction, and the **plane** that both
# span.

# %%
both = torch.stack([sentiment / sentiment.norm(), refusal / refusal.norm()])
removals = {"sentiment": sentiment, "refusal": refusal, "their sum": both.sum(0), "plane": both}
left = {
    name: {"verdict": share_left(gone).item(), "declined": declined(gone).item()}
    for name, gone in removals.items()
}
print(f"cosine of the two: {cosine(sentiment, refusal):.2f}")
if tells_apart:
    largest = max(abs(share) for share in left["plane"].values())
    claim("directions.span", largest, control=min(left["their sum"].values()))
else:
    not_asked("directions.span")
figures.table([{"removed": name} | row for name, row in left.items()],
                 title="What is left of two behaviours")  # fmt: skip

# %% [markdown]
# On `pocket` each direction takes away its own behaviour and leaves the other's. Their sum leaves
# the difference of the two in place, and part of both behaviours with it. Remove the plane, not
# the sum. And to remove a span, orthogonal directions are needed first: removing two slanted ones
# one after the other leaves a rest.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 3: remove a span
# Remove everything in the span of several directions, which need not be orthogonal.

# %% [markdown] tags=["hint"]
# `torch.linalg.qr(directions.T).Q` has orthonormal *columns* with the same span.


# %% tags=["exercise"]
def remove_span(acts, directions):
    """acts: [... d_model]; directions: [k d_model]  ->  acts without any component in the span."""
    raise NotImplementedError


# %% tags=["solution"]
def remove_span(acts, directions):
    Q = torch.linalg.qr(directions.T).Q
    return acts - (acts @ Q) @ Q.T


# %% tags=["check"]
check.remove_span(remove_span)

# %% [markdown]
# ## Appendix C: rewriting one fact
#
# An MLP can be seen as a memory [@geva2020memories]: the activations of its neurons are a *key*
# $k$, and $k W_{out}$ is the *value* that it returns. At the subject's last token, the value holds
# what is known about the subject. ROME [@meng2022rome] changes $W_{out}$ by the smallest update, in
# the sense of the keys that usually occur, that returns a new value for one key. It is LEACE's
# formula in another place:
#
# $$W \leftarrow W + \frac{C^{-1}k}{k^T C^{-1} k} (v_{new} - k W)^T, \qquad C = E[k k^T]$$

# %% [markdown] tags=["task"] minutes=20 difficulty=3
# ### Exercise 4: the rank-one edit
# Return the new matrix.

# %% [markdown] tags=["hint"]
# `torch.linalg.solve(C, k)` is $C^{-1}k$. After the edit, `k @ W_new` must be `v_new`.


# %% tags=["exercise"]
def rank_one_edit(W, C, k, v_new):
    """W: [d_mlp d_model]; C: [d_mlp d_mlp]; k: [d_mlp]; v_new: [d_model]  ->  new W"""
    raise NotImplementedError


# %% tags=["solution"]
def rank_one_edit(W, C, k, v_new):
    solved = torch.linalg.solve(C, k)
    return W + torch.outer(solved / (k @ solved), v_new - k @ W)


# %% tags=["check"]
check.rank_one_edit(rank_one_edit)

# %% [markdown]
# A few facts, each to be changed: the capital of France is to become Rome, and so on. Three
# phrasings make an edit; the others test whether it is more than a memorised sentence
# (*paraphrases*). What else changed? We look at two things: the capitals of other countries
# (*neighbours*), and another fact of the same country, its *language*. An answer is the likeliest
# of all names of its kind. One edit is an anecdote, so each number below is a mean over the facts
# (a larger model gets fewer).

# %%
from mi_data.pocket import lexicon

facts = {kind: dict(lexicon.FACTS[kind]["facts"]) for kind in ("capital", "language")}
capitals = facts["capital"]
names = {kind: [f" {name}" for name in dict.fromkeys(known.values())]
         for kind, known in facts.items()}  # fmt: skip
ids = {kind: mi.prompts.single_tokens(model, some) for kind, some in names.items()}
wanted = {"France": "Rome", "Japan": "Cairo", "Sweden": "Warsaw", "England": "Beijing"}
subjects = [s for s in wanted if {f" {capitals[s]}", f" {wanted[s]}"} <= set(ids["capital"])]
subjects = subjects[: mi.models.by_size(model, 4, 2)]
neighbours = ["Germany", "Spain", "Russia", "Greece", "Austria", "Ireland", "Norway", "Denmark"]
neighbours = [name for name in neighbours if f" {capitals[name]}" in ids["capital"]]
phrasings = lexicon.FACTS["capital"]["phrasings"]
edit_on, test_on = phrasings[:3], phrasings[3:]
in_words = lexicon.FACTS["language"]["phrasings"][:6]


# %%
from functools import cache


@cache
def prompt_of(phrasing, country):
    """Tokens of a question, and the position of the country's last token."""
    text = phrasing.format(s=country)
    text = text[0].upper() + text[1:]
    end = text.index(country) + len(country)
    return model.to_tokens(text)[0], model.to_tokens(text[:end]).shape[1] - 1


# %%
@torch.no_grad()
def answers(kind, phrasings, countries):
    """The likeliest of all names of one kind, for each phrasing and each country in turn."""
    rows = [prompt_of(phrasing, name)[0] for name in countries for phrasing in phrasings]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    logits = model(padded)[torch.arange(len(rows)), [len(row) - 1 for row in rows]]
    names = list(ids[kind])
    return [names[i].strip() for i in logits[:, list(ids[kind].values())].argmax(-1)]


# %%
def judge(subject):
    """Share of answers that are the new capital, and of other facts that are as they were."""
    new = [wanted[subject]]
    asked = {
        "efficacy": (answers("capital", edit_on, [subject]), new * len(edit_on)),
        "paraphrases": (answers("capital", test_on, [subject]), new * len(test_on)),
        "neighbours": (answers("capital", edit_on, neighbours),
                       [capitals[name] for name in neighbours for _ in edit_on]),
        "language": (answers("language", in_words, [subject]),
                     [facts["language"][subject]] * len(in_words)),
    }  # fmt: skip
    return {name: sum(a == b for a, b in zip(said, right, strict=True)) / len(right)
            for name, (said, right) in asked.items()}  # fmt: skip


# %%
def mean_of(results):
    """The mean of several verdicts, each a dict."""
    results = list(results)
    return {name: sum(row[name] for row in results) / len(results) for name in results[0]}


before = mean_of(judge(subject) for subject in subjects)
print(before)

# %% [markdown]
# **Which layer?** First trace by patching: put each MLP's output at the country into the run that
# asks about another country, the one whose capital is the new answer, and see how much of the old
# answer comes back. (The authors of ROME trace with noise instead; one phrasing here.) Then edit
# each layer in turn, and compare.

# %%
from mi_helpers.patching import LogitDiff, OtherRun, Where, patch_sweep

owner = {capital: country for country, capital in capitals.items()}


def trace(subject):
    """The share of the old answer that each layer's MLP brings back at the country, [layer]."""
    texts = [[edit_on[0].format(s=name)] for name in (subject, owner[wanted[subject]])]
    words = [[f" {name}"] for name in (capitals[subject], wanted[subject])]
    one = mi.prompts.from_texts(model, *texts, *words)
    return patch_sweep(
        model, one.corrupt_tokens, OtherRun(one.clean_tokens), LogitDiff(one.answer_tokens),
        site="mlp_out", over=("layer",), progress=False,
        where=Where(positions=[prompt_of(edit_on[0], subject)[1]]),
    ).recovery()  # fmt: skip


traced = torch.stack([trace(subject) for subject in subjects]).mean(0)

# %% [markdown]
# The key is the mean over the three phrasings. The new value is found by gradient descent on what
# the MLP writes at the country, until the model is sure of the new answer, and no further: an edit
# that is larger than it needs to be disturbs the neighbours. The authors of ROME add a term to this
# search, which holds what the model says of the subject in general. It is left out here, so what
# the edit does to the *same* country below may be worse than theirs. $C$ comes from the grammar's
# texts.

# %%
from mi_data.pocket import generator

counts = {"fact": 400, "profile": 300, "story": 40, "ioi": 40, "opinion": 40}
less = mi.models.by_size(model, 1, 8)  # larger models get fewer texts
words = torch.cat([model.to_tokens(generator.sample(kind, seed).text)[0, 1:]
                   for kind, n in counts.items() for seed in range(n // less)])  # fmt: skip
texts = words[: len(words) // 60 * 60].view(-1, 60)
texts = torch.cat([model.to_tokens("")[:, :1].expand(len(texts), 1), texts], dim=1)
edited = list(range(0, n_layers - 1, mi.models.by_size(model, 1, 14)))
covariance = steering.key_covariance(model, texts, edited)
raw_keys = {}


# %%
def edit(subject, layer):
    """The two factors of the edit of one fact in one layer."""
    rows = [prompt_of(phrasing, subject) for phrasing in edit_on]
    place = ("mlp_post", layer)
    keys = [mi.sites.read(model, tokens[None], [place])[place][0, at] for tokens, at in rows]
    key = raw_keys[layer, subject] = torch.stack(keys).mean(0)
    answer = ids["capital"][f" {wanted[subject]}"]
    change = steering.find_value(model, *zip(*rows, strict=True), answer, layer)
    return steering.rome_key(covariance[layer], key), change


def judge_inside(subject, layer, key, change):
    """The verdict on a subject while one layer is edited."""
    with steering.rank_one(model, layer, key, change):
        return judge(subject)


edits = {i: {subject: edit(subject, i) for subject in subjects} for i in edited}
outcome = {i: mean_of(judge_inside(name, i, *edits[i][name]) for name in subjects) for i in edited}

# %% [markdown]
# Read the figure by columns. In which layers do all four rows of the edit look good? And what did
# tracing say about them? (The last layer is left out: nothing after it could read the country.)

# %%
traced_to = max(edited, key=lambda i: traced[i].item())
works = torch.tensor([outcome[i]["paraphrases"] for i in edited])
pair = torch.stack([works, traced[edited].to(works)])
print(f"traced to layer {traced_to}; correlation over layers {pair.corrcoef()[0, 1]:.2f}")
mi.figures.heatmap(
    torch.tensor([[outcome[i][name] for i in edited] for name in before]
                 + [[traced[i] for i in edited]]),
    title="Where the edit works, and where tracing points", x=[f"L{i}" for i in edited],
    y=[*before, "traced"], xlabel="layer edited", text=".2f", limit=1, colorbar="share",
    subtitle=f"{mi.model_id(model)}, mean over {len(subjects)} facts",
)  # fmt: skip

# %% [markdown]
# Two controls, in the layer that tracing points to. The first edits at the **key of another
# country**. The second uses the right key with a **plain** update, $C = 1$, that does not care what
# other keys usually occur.

# %%
next_one = dict(zip(subjects, subjects[1:] + subjects[:1], strict=True))


def with_key(subject, plain):
    """The verdict after an edit at another country's key, or at the right one by a plain update."""
    raw = raw_keys[traced_to, subject if plain else next_one[subject]]
    wrong = raw / (raw @ raw) if plain else steering.rome_key(covariance[traced_to], raw)
    return judge_inside(subject, traced_to, wrong, edits[traced_to][subject][1])


other_key, plain = (mean_of(with_key(name, way) for name in subjects) for way in (False, True))
rows = {"none": before, "as above": outcome[traced_to], "another key": other_key, "plain": plain}
as_above = outcome[traced_to]
claim("edit.paraphrases", as_above["paraphrases"], control=other_key["paraphrases"])
claim("edit.neighbours", as_above["neighbours"], control=plain["neighbours"])
claim("edit.same_subject", as_above["language"], control=other_key["language"])
figures.table([{"edit": name} | row for name, row in rows.items()],
              title=f"Edits of layer {traced_to}")  # fmt: skip

# %% [markdown]
# On `pocket` tracing and editing agree on the best layer, though edits of the others, where tracing
# finds little, reach most new phrasings too. In larger models what tracing finds says next to
# nothing about where edits succeed [@hase2023localization].
#
# Other countries are left in peace, but the *same* country is not: edited in the layer that tracing
# points to, nearly all questions for its language get another answer now, in the other layers about
# half. The key stands for the country, whatever is asked about it, and nothing in our search for
# the value held the rest (ROME has a term for that). What an edit should change besides, and does
# not, is a question of its own [@cohen2023ripple]. Many edits, and ROME beside fine-tuning and
# knowledge neurons: [notebook 15](15_mlp_memories.ipynb), section 9 and appendix A.

# %%
claim.table()
