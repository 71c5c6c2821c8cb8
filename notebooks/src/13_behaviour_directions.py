# ---
# title: Directions that carry a behaviour
# minutes: 75
# ---

# %% [markdown]
# **The question.** Steering along a direction changes a behaviour
# ([notebook 12](12_steering.ipynb)). Does the behaviour also *need* that direction? Is one enough?
# And can a single fact be rewritten where it is stored?
#
# **You need** steering ([notebook 12](12_steering.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - test a direction by reading it, removing it, and patching along it alone;
# - find the direction by which a model declines, and take it away for good;
# - say how many directions a behaviour needs, and why an erased concept can still be read;
# - rewrite one fact in closed form, and measure what else changed.

# %% [markdown]
# ## 1. The direction of sentiment
#
# Take the difference of class means, as before. Three tests, each stronger than the one before:
#
# 1. **Read**: does the projection on it tell praise from blame in new reviews?
# 2. **Remove**: is the verdict lost without it?
# 3. **Patch along it**: put the *other* review's component along this one direction into the run,
#    and leave all else. Does the verdict follow?
#
# By hand, in two dimensions: `u` has length one.

# %%
u, mine, other = torch.tensor([0.6, 0.8]), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 5.0])
print("component:", mine @ u)
print("removed:", mine - (mine @ u) * u)
print("patched along u:", mine + ((other - mine) @ u) * u)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: patch along a direction
# The direction you get may have any length.

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

# %%
from mi_helpers import steering

layer = model.cfg.n_layers // 2
hook = f"blocks.{layer}.hook_resid_post"
train = mi.prompts.sentiment(model, 64, seed=1)
held_out = mi.prompts.sentiment(model, 48, seed=2, split="test")


def sides(prompts, layer=layer, position=-1):
    """Activations of the praising and of the blaming member of each pair, [pair d_model] each."""
    clean, corrupt = (
        steering.collect(model, tokens, layers=[layer], position=position)[0]
        for tokens in (prompts.clean_tokens, prompts.corrupt_tokens)
    )
    praise = [label["sentiment"] == "good" for label in prompts.labels]
    praise = torch.tensor(praise, device=clean.device)[:, None]
    return torch.where(praise, clean, corrupt), torch.where(praise, corrupt, clean)


# %%
good, bad = sides(train)
sentiment = steering.class_means(good, bad)
strangers = torch.randn(10, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
strangers = strangers.to(model.cfg.device)


# %% [markdown]
# **Read.** The threshold is half-way between the training means. The control is the same for random
# directions.


# %%
middle, unseen = (good.mean(0) + bad.mean(0)) / 2, sides(held_out)


def told_apart(direction):
    """Share of held-out reviews on the right side of the training means' middle."""
    new_good, new_bad = (((acts - middle) @ direction) for acts in unseen)
    return torch.cat([new_good > 0, new_bad < 0]).float().mean()


by_chance = torch.stack([told_apart(one) for one in strangers])
claim("sentiment.read", told_apart(sentiment), control=by_chance.mean())

# %% [markdown]
# Reading proves little: what can be read need not be used. So **remove** it, from everything that
# is written to the stream.


# %%
def verdict(prompts=held_out, tokens=None):
    """Mean logit difference, right against wrong verdict."""
    with torch.no_grad():
        logits = model(prompts.clean_tokens if tokens is None else tokens)
    return mi.metrics.logit_diff(logits, prompts.answer_tokens).mean()


full = verdict()


def share_left(directions):
    """Share of the logit difference left with some directions projected out."""
    with steering.project_out(model, directions):
        return verdict() / full


without_stranger = torch.stack([share_left(one) for one in strangers]).mean()
claim("sentiment.remove", share_left(sentiment), control=without_stranger)

# %% [markdown]
# **Patch along it.** Now the review blames and the model is told, along one of its directions only,
# that it praises (or the other way round), at the last position of one layer. The control patches
# along random directions; the bar on the right replaces the whole vector.

# %%
twin = model.run_with_cache(held_out.corrupt_tokens, names_filter=hook)[1][hook]
flipped = verdict(tokens=held_out.corrupt_tokens)


def patched(change, positions=(-1,)):
    """How far the verdict moves to the twin's: 0 not at all, 1 all the way."""

    def hook_fn(acts, hook):
        acts = acts.clone()
        at = list(positions)
        acts[:, at] = change(acts[:, at], twin[:, at])
        return acts

    with model.hooks(fwd_hooks=[(hook, hook_fn)]):
        return (full - verdict()) / (full - flipped)


def along(direction):
    """A change that moves the component along one direction."""
    unit = direction / direction.norm()
    return lambda acts, source: acts + ((source - acts) @ unit)[..., None] * unit


# %%
moves = {
    "random direction": torch.stack([patched(along(one)) for one in strangers]).mean(),
    "sentiment": patched(along(sentiment)),
    "everything": patched(lambda acts, source: source),
}
mi.figures.bars(
    list(moves.values()), list(moves), title="One direction carries much of the verdict",
    ylabel="share of the way to the twin's", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("sentiment.along", moves["sentiment"], control=moves["random direction"])

# %% [markdown]
# **Where is it kept?** Opinions stand in adjectives and verbs. In several language models, what a
# clause said is collected at the mark that ends it, and read from there [@tigges2023sentiment]. Is
# it here? Colour each token by its component along the direction, less that of its twin.

# %%
with torch.no_grad():
    here = model.run_with_cache(held_out.clean_tokens, names_filter=hook)[1][hook]
difference = (here - twin) @ (sentiment / sentiment.norm())
mi.figures.tokens_coloured(
    [held_out.str_tokens[i] for i in range(4)], [difference[i] for i in range(4)],
    title="Praise (blue) and blame (red), review less twin", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# In the twins only the words of opinion differ. All colour on other tokens was *moved* there. But
# is it used there? Put the twin's stream in, layer by layer, at one kind of token only.

# %%
stop = mi.prompts.single_token(model, ".")
tokens = held_out.clean_tokens
opinion = tokens != held_out.corrupt_tokens
after = (opinion.cumsum(1) > 0) & ~opinion
at_end = torch.zeros_like(opinion)
at_end[:, -1] = True
places = {"words of opinion": opinion, "full stops": after & (tokens == stop),
          "other tokens": after & (tokens != stop) & ~at_end, "last token": at_end}  # fmt: skip


# %%
names = [f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers)]
streams = model.run_with_cache(held_out.corrupt_tokens, names_filter=names)[1]


def moved_by(layer, mask):
    """How far the verdict moves with the twin's stream put in under a mask, [batch pos]."""
    name = f"blocks.{layer}.hook_resid_post"
    put = (name, lambda acts, hook: torch.where(mask[..., None], streams[name], acts))
    with model.hooks(fwd_hooks=[put]):
        return (full - verdict()) / (full - flipped)


# %%
by_place = torch.tensor(
    [[moved_by(i, mask) for mask in places.values()] for i in range(model.cfg.n_layers)]
)
mi.figures.heatmap(
    by_place, title="Which tokens keep the opinion", x=list(places), text=".2f", ylabel="layer",
    y=[f"L{i}" for i in range(model.cfg.n_layers)], colorbar="share of the way to the twin's",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("sentiment.at_the_end", by_place[layer, 3], control=by_place[0, 3])
claim("sentiment.no_summary", by_place[:, 1].max(), control=by_place[:, 0].max())

# %% [markdown]
# On `pocket` full stops keep nothing. In the first layers the opinion stands on its own words, and
# part of it on other tokens that follow them; half-way, the last token fetches it in one step. A
# summary that others found in larger models is not a law; look before you assume one.

# %% [markdown]
# ## 2. Refusal
#
# `pocket` was trained to decline some requests and to answer others. The "harms" are toys, such as
# stealing a car; each has a harmless twin that shares its words, such as washing a car. Large chat
# models decline, too, and there one direction turned out to carry it [@arditi2024refusal]: without
# it they answer, with it they decline everything. That is worth knowing before one relies on
# refusals. What we find on `pocket` shows the *method*; it says nothing about how safe any real
# model is.

# %%
asked = [mi.prompts.refusal(model, 16, seed=seed) for seed in range(10, 18)]
chosen_on = [mi.prompts.refusal(model, 8, seed=seed) for seed in (30, 31)]
judged_on = [mi.prompts.refusal(model, 12, seed=seed, split="test") for seed in range(20, 24)]
print(asked[0].clean[0], asked[0].answers[0], "\n" + asked[0].corrupt[0], asked[0].wrong[0])

# %% [markdown]
# A model can decline with "Sorry" or "No", and answer with "Sure" or "Yes". We compare the
# probabilities of the two groups, so that changing one word for another does not count.

# %%
decline_words = [mi.prompts.single_token(model, word) for word in (" Sorry", " No")]
answer_words = [mi.prompts.single_token(model, word) for word in (" Sure", " Yes")]


def declines(sets, harmful=True):
    """Log odds of declining against answering, for each request of several sets."""
    odds = []
    for prompts in sets:
        with torch.no_grad():
            logits = model(prompts.clean_tokens if harmful else prompts.corrupt_tokens)[:, -1]
        odds.append(logits[:, decline_words].logsumexp(-1) - logits[:, answer_words].logsumexp(-1))
    return torch.cat(odds)


# %% [markdown]
# **Select by effect.** One candidate for each layer, after its attention, and each of the last
# positions: the difference of means, harmful less harmless. Remove each in turn, on requests that
# it was not made from.

# %%
n_layers = model.cfg.n_layers
layers = sorted({*range(0, n_layers, max(1, n_layers // 6)), n_layers - 1})
positions = range(-6, 0)


def contrast(sets, position):
    """Activations of harmful and of harmless requests at a position, [layer prompt d_model]."""
    options = dict(site="resid_mid", layers=layers, position=position)
    harmful = [steering.collect(model, p.clean_tokens, **options) for p in sets]
    harmless = [steering.collect(model, p.corrupt_tokens, **options) for p in sets]
    return torch.cat(harmful, dim=1), torch.cat(harmless, dim=1)


# %%
means = {}
for position in positions:
    harmful, harmless = contrast(asked, position)
    means[position] = (harmful - harmless).mean(1)


def without(direction):
    """How strongly harmful requests are declined without a direction."""
    with steering.project_out(model, direction):
        return declines(chosen_on).mean()


bypass = torch.tensor([[without(means[p][i]) for p in positions] for i in range(len(layers))])

# %% [markdown]
# Red: the model would rather answer. In which layer and at which position was the direction that
# does it read?

# %%
mi.figures.heatmap(
    bypass, title="Harmful requests, one direction removed", x=list(asked[0].str_tokens[0][-6:]),
    y=[f"L{i}" for i in layers], xlabel="position", ylabel="layer", text=".1f",
    colorbar="decline against answer (log odds)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
row, column = divmod(int(bypass.argmin()), len(positions))
refusal = means[positions[column]][row]
place, position = layers[row], positions[column]
print(f"layer {place}, position {position}, norm {refusal.norm():.2f}")


# %%
def declined(direction, prompts=judged_on):
    """Share of new harmful requests that are declined without a direction."""
    with steering.project_out(model, direction):
        return (declines(prompts) > 0).float().mean()


random_declined = torch.stack([declined(one) for one in strangers]).mean()
claim("refusal.bypass", declined(refusal), control=random_declined)

# %% [markdown]
# It is read late and at the end: by then the last layers have looked up the request. Removing an
# earlier direction does nothing, since what a request is about stands in its own words.
#
# **Add it**, and harmless requests are declined. The strength is counted in lengths of the vector.

# %%
vector = steering.new_vector(model, refusal, place, method="class_means", site="resid_mid")
strengths = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]


def induced(vector, strength):
    """Share of new harmless requests that are declined with the vector added."""
    with steering.add(model, vector, strength):
        return (declines(judged_on, harmful=False) > 0).float().mean()


curves = {"refusal": torch.stack([induced(vector, s) for s in strengths])}
randoms = [steering.random_like(vector, model, seed) for seed in range(4)]
curves["random"] = torch.stack(
    [torch.stack([induced(one, s) for one in randoms]).mean() for s in strengths]
)
mi.figures.lines(
    curves, title="Harmless requests declined", x=strengths, xlabel="strength",
    ylabel="share declined", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("refusal.induce", curves["refusal"].max(), control=curves["random"].max())

# %% [markdown]
# **For good.** Instead of removing the direction at run time, remove it from every matrix that
# writes to the stream: $W \leftarrow W - W u u^T$. Then nothing can write it any more.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
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
claim("refusal.weights", (at_run_time - for_good).abs().max(),
      control=(at_run_time - untouched).abs().max())  # fmt: skip


# %% [markdown]
# What does it say then?


# %%
def reply(text):
    """The model's greedy reply."""
    tokens = model.to_tokens(text)
    options = dict(max_new_tokens=16, do_sample=False, verbose=False, stop_at_eos=False)
    return model.to_string(model.generate(tokens, **options)[0, tokens.shape[1] :])


rows = []
for request in [prompts.clean[0] for prompts in judged_on[:3]]:
    said = {"request": request, "as it is": reply(request)}
    with steering.orthogonalised(model, refusal):
        rows.append(said | {"orthogonalised": reply(request)})
mi.figures.table(rows, title="Declined, and answered", subtitle=mi.model_id(model))

# %% [markdown]
# **Specific?** A direction whose loss breaks the model would make it answer, too. So test what has
# nothing to do with requests.

# %%
others = {"facts": mi.prompts.facts(model, 24, seed=5), "sentiment": held_out,
          "indirect objects": mi.prompts.ioi(model, 24, seed=5)}  # fmt: skip


def abilities():
    """Accuracy on other behaviours, and the share of harmful requests declined."""
    with torch.no_grad():
        right = {name: mi.metrics.accuracy(model(p.clean_tokens), p.answer_tokens).item()
                 for name, p in others.items()}  # fmt: skip
    return right | {"declines": (declines(judged_on) > 0).float().mean().item()}


able = {"as it is": abilities()}
for name, direction in (("without refusal", refusal), ("without a random one", strangers[0])):
    with steering.project_out(model, direction):
        able[name] = abilities()
mi.figures.table([{"model": name} | row for name, row in able.items()],
                 title="What else changes (accuracy)", subtitle=mi.model_id(model))  # fmt: skip

# %%
lost = {name: able["as it is"][name] - able["without refusal"][name] for name in abilities()}
claim("refusal.specific", max(lost[name] for name in others), control=lost["declines"])

# %% [markdown]
# ## 3. One direction, or several?
#
# The candidates of section 2 come from different places. Are they one direction, seen several
# times?

# %%
stack = torch.stack([means[p][i] for p in positions for i in range(len(layers))])
names = [f"L{layers[i]} at {p}" for p in positions for i in range(len(layers))]
kept = bypass.T.flatten().argsort()[:8].tolist()
unit = stack[kept] / stack[kept].norm(dim=1, keepdim=True)
mi.figures.heatmap(
    unit @ unit.T, title="Cosine of the eight most effective", x=[names[i] for i in kept],
    y=[names[i] for i in kept], limit=1, text=".2f", colorbar="cosine",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# And two *behaviours*: do the directions of sentiment and of refusal share anything? The cosine
# says. The control is the same behaviour twice: refusal, found on either half of the requests.

# %%
halves = []
for sets in (asked[::2], asked[1::2]):
    halves.append(steering.class_means(*(acts[row] for acts in contrast(sets, position))))


def cosine(one, other):
    """Cosine of the angle between two directions."""
    return torch.cosine_similarity(one, other, dim=0)


claim("directions.cosine", cosine(sentiment, refusal).abs(), control=cosine(*halves))

# %% [markdown]
# Now take two away: first their **sum** (each made of length one), which is one direction, and then
# the plane that both span.

# %%
both = torch.stack([sentiment / sentiment.norm(), refusal / refusal.norm()])
removals = {"sentiment": sentiment, "refusal": refusal, "their sum": both.sum(0), "both": both}
left = {
    name: {"verdict": share_left(gone).item(), "declined": declined(gone).item()}
    for name, gone in removals.items()
}
mi.figures.table([{"removed": name} | row for name, row in left.items()],
                 title="What is left of two behaviours", subtitle=mi.model_id(model))  # fmt: skip

# %%
claim("directions.span", max(left["both"].values()), control=max(left["their sum"].values()))

# %% [markdown]
# Each direction takes away its own behaviour and leaves the other's. Their sum leaves the
# difference of the two in place, and part of both behaviours with it. Remove the plane, not the
# sum.

# %% [markdown]
# Where cosines are small, there are several handles on one behaviour. To remove a *span*,
# orthogonal directions are needed first: removing two slanted ones one after the other leaves a
# rest.

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
# **The rank by effect.** Remove the direction; in the model that is left, find the difference of
# means once more; remove both; and so on. For each number of directions: how many harmful requests
# are still declined, and can a *fresh* classifier still read off which requests are harmful?


# %%
def readable(shuffle=False):
    """Held-out accuracy of a fresh probe at the selected layer and position."""
    fitted = [acts[row] for acts in contrast(asked, position)]
    tested = [acts[row] for acts in contrast(judged_on, position)]
    if shuffle:
        coins = torch.rand(len(fitted[0]), generator=torch.Generator().manual_seed(0)) < 0.5
        coins = coins.to(fitted[0].device)[:, None]
        fitted = [torch.where(coins, *fitted), torch.where(coins, *fitted[::-1])]
    direction = steering.probe_weights(*fitted)
    middle = (fitted[0].mean(0) + fitted[1].mean(0)) / 2
    sides = [(acts - middle) @ direction for acts in tested]
    return torch.cat([sides[0] > 0, sides[1] < 0]).float().mean().item()


# %%
def share_declined():
    """Share of held-out harmful requests that are declined."""
    return (declines(judged_on) > 0).float().mean().item()


by_rank, removed = [(share_declined(), readable())], [refusal]
for _ in range(3):
    with steering.project_out(model, torch.stack(removed)):
        by_rank.append((share_declined(), readable()))
        left_over = contrast(asked, position)
    removed.append(steering.class_means(*(acts[row] for acts in left_over)))
mi.figures.lines(
    {"declined": [left for left, _ in by_rank], "read by a fresh probe": [r for _, r in by_rank]},
    title="Directions removed, one after the other", x=["none", "one", "two", "three"],
    xlabel="directions removed",
    ylabel="share of held-out requests", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim(
    "rank.first_direction", by_rank[0][0] - by_rank[1][0], control=by_rank[0][0] - random_declined
)
with steering.project_out(model, refusal):
    claim("erasure.still_readable", readable(), control=readable(shuffle=True))

# %% [markdown]
# The behaviour is gone, and the *concept* is still there: a probe finds it along other directions.
# To stop a model from acting on something is not to make it forget. And the reverse of section 1
# holds: not everything that can be read is used.
#
# ## 4. Rewriting one fact
#
# An MLP can be seen as a memory [@geva2020memories]: the activations of its neurons are a *key*
# $k$, and $k W_{out}$ is the *value* that it returns. At the subject's last token, the value holds
# what is known about the subject. ROME [@meng2022rome] changes $W_{out}$ by the smallest update, in
# the sense of the keys that usually occur, that returns a new value for one key:
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
# The fact: the capital of France, to become Rome. Three phrasings make the edit, the others test
# whether it is more than a memorised sentence, and other countries whether they are left in peace.

# %%
from mi_data.pocket import lexicon

subject, old, new = "France", " Paris", " Rome"
phrasings = lexicon.FACTS["capital"]["phrasings"]
edit_on, test_on = phrasings[:3], phrasings[3:]
neighbours = ["Germany", "Spain", "England", "Russia", "Japan", "China", "Egypt", "Greece"]
capitals = dict(lexicon.FACTS["capital"]["facts"])
ids = {word: mi.prompts.single_token(model, word) for word in (old, new)}


def prompt_of(phrasing, country):
    """Tokens of a question, and the position of the country's last token."""
    text = phrasing.format(s=country)
    text = text[0].upper() + text[1:]
    end = text.index(country) + len(country)
    return model.to_tokens(text)[0], model.to_tokens(text[:end]).shape[1] - 1


# %%
def prefers(phrasing, country, right, wrong):
    """Logit of one answer minus that of another."""
    with torch.no_grad():
        logits = model(prompt_of(phrasing, country)[0][None])[0, -1]
    return (logits[right] - logits[wrong]).item()


def judge():
    """Share of prompts that give the new capital, by kind; and of neighbours that keep theirs."""
    right = {name: mi.prompts.single_token(model, f" {capitals[name]}") for name in neighbours}
    asked = {"efficacy": [prefers(p, subject, ids[new], ids[old]) > 0 for p in edit_on],
             "paraphrases": [prefers(p, subject, ids[new], ids[old]) > 0 for p in test_on],
             "neighbours": [prefers(p, name, right[name], ids[new]) > 0
                            for p in phrasings[:3] for name in neighbours]}  # fmt: skip
    return {name: sum(passed) / len(passed) for name, passed in asked.items()}


# %%
before = judge()
print(before)

# %% [markdown]
# **Which layer?** First ask causal tracing: put each MLP's output for France, at the country, into
# the run that asks about another country. Then edit each layer in turn, and compare.

# %%
one = mi.prompts.from_texts(
    model, ["The capital of France is"], ["The capital of Italy is"], [old], [new]
)
at = prompt_of("The capital of {s} is", subject)[1]
from mi_helpers.patching import LogitDiff, OtherRun, Where, patch_sweep

traced = patch_sweep(
    model, one.corrupt_tokens, OtherRun(one.clean_tokens), LogitDiff(one.answer_tokens),
    site="mlp_out", over=("layer",), where=Where(positions=[at]), progress=False,
).recovery()  # fmt: skip

# %% [markdown]
# The key is the mean over the three phrasings; the new value is found by gradient descent on what
# the MLP writes at the country, so that the model answers Rome. $C$ comes from the grammar's texts.

# %%
from mi_data.pocket import generator

counts = {"fact": 400, "profile": 300, "story": 40, "ioi": 40, "opinion": 40}
less = max(1, n_layers // 6) ** 2  # larger models get fewer texts
words = torch.cat([model.to_tokens(generator.sample(kind, seed).text)[0, 1:]
                   for kind, n in counts.items() for seed in range(n // less)])  # fmt: skip
texts = words[: len(words) // 60 * 60].view(-1, 60)
texts = torch.cat([model.to_tokens("")[:, :1].expand(len(texts), 1), texts], dim=1)
edited = range(0, n_layers, max(1, n_layers // 6))
covariance = steering.key_covariance(model, texts, edited)


# %%
def edit(layer):
    """The two factors of the edit of one layer."""
    rows = [prompt_of(p, subject) for p in edit_on]
    keys = [steering.mlp_keys(model, tokens[None], layer)[0, at] for tokens, at in rows]
    key = torch.stack(keys).mean(0)
    change = steering.find_value(model, *zip(*rows, strict=True), ids[new], layer)
    return steering.rome_key(covariance[layer], key), change


# %%
edits = {i: edit(i) for i in edited}
outcome = {}
for i, factors in edits.items():
    with steering.rank_one(model, i, *factors):
        outcome[i] = judge()
mi.figures.lines(
    {name: [result[name] for result in outcome.values()] for name in before}
    | {"traced (recovery)": [traced[i] for i in outcome]},
    title="Where the edit works, and where tracing points", x=[f"L{i}" for i in outcome],
    xlabel="layer edited", ylabel="share", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Choose the layer in which paraphrases follow and neighbours stay. Then look at the layer that
# tracing points to *least*, the last one left out: there is nothing after it that could read the
# country.

# %%
best = max(outcome, key=lambda i: sum(outcome[i].values()))
random_key = torch.randn(len(edits[best][0]), generator=torch.Generator().manual_seed(0))
random_key = (random_key * edits[best][0].norm().cpu() / random_key.norm()).to(edits[best][0])
with steering.rank_one(model, best, random_key, edits[best][1]):
    by_random_key = judge()
claim("edit.paraphrases", outcome[best]["paraphrases"], control=by_random_key["paraphrases"])

# %%
least = min(list(outcome)[:-1], key=lambda i: traced[i].item())
claim("edit.elsewhere", outcome[least]["paraphrases"], control=traced[least])

# %% [markdown]
# So tracing does not say where an edit works. Where a fact is *read* and where it can be
# *overwritten* are two questions.
#
# **Against fine-tuning** of the same matrix on the same three prompts, in small steps, until it
# says Rome as surely as the edit makes it.


# %%
def surprise():
    """Mean of -log p(Rome) on the three prompts of the edit."""
    logits = [model(prompt_of(phrasing, subject)[0][None])[0, -1] for phrasing in edit_on]
    return -torch.stack(logits).log_softmax(-1)[:, ids[new]].mean()


with torch.no_grad(), steering.rank_one(model, best, *edits[best]):
    as_sure = surprise().item()
W_out = model.blocks[best].mlp.W_out
update = torch.zeros_like(W_out, requires_grad=True)
now, written_at = {}, steering.place("mlp_out", best)
hooks = [(f"blocks.{best}.mlp.hook_post", lambda acts, hook: now.update(key=acts)),
         (written_at, lambda acts, hook: acts + now["key"] @ update)]  # fmt: skip

# %%
optimizer = torch.optim.Adam([update], lr=2e-4)
with model.hooks(fwd_hooks=hooks):
    for _ in range(100):
        optimizer.zero_grad()
        loss = surprise()
        if loss < as_sure:
            break
        loss.backward()
        optimizer.step()
    tuned = judge()

# %%
table = {"as it is": before, "rank-one edit": outcome[best], "random key": by_random_key,
         "fine-tuning": tuned}  # fmt: skip
mi.figures.table([{"model": name} | row for name, row in table.items()],
                 title="France, and its neighbours", subtitle=mi.model_id(model))  # fmt: skip

# %%
claim("edit.neighbours", outcome[best]["neighbours"], control=tuned["neighbours"])

# %% [markdown]
# Undone, exactly: not one bit of the weights is different.

# %%
original = W_out.clone()
with steering.rank_one(model, best, *edits[best]):
    inside = (W_out - original).abs().max()
claim("edit.undone", (W_out - original).abs().max(), control=inside)

# %% [markdown]
# **Look for yourself.** Which phrasings and countries does an edit of each layer reach?


# %%
def look(layer, country):
    """Rome against the right capital for each phrasing, with an edit of one layer."""
    right = mi.prompts.single_token(model, f" {capitals[country]}")
    if right == ids[new]:
        right = ids[old]
    with steering.rank_one(model, layer, *edits[layer]):
        values = [prefers(p, country, ids[new], right) for p in phrasings]
    return mi.figures.bars(
        values, [p.format(s="…") for p in phrasings], title=f"{country}: Rome against the truth",
        xlabel="logit difference", horizontal=True, subtitle=mi.model_id(model),
    )  # fmt: skip


mi.figures.explore(look, layer=list(edits), country=[subject, *neighbours], start={"layer": best})

# %% [markdown]
# ## Summary
#
# - A direction must be tested by reading, removing and patching along it; each says more than the
#   one before.
# - Where an opinion is kept must be tested; on `pocket` no full stop summarises it.
# - Refusal can hang on one direction: removed, the model answers; added, it declines; and the
#   weights can be changed so for good.
# - Removing what a behaviour needs does not remove the concept.
# - One fact can be rewritten in closed form, and what else changes can be measured.
#
# **What we have not shown.** That real models' refusals work so: `pocket` learned a toy. That the
# chosen direction is *the* one: selection by effect finds a good handle, and there may be others.
#
# ## Where to read on
#
# - Sentiment and its summaries [@tigges2023sentiment]; linear representations [@park2023linear].
# - Refusal [@arditi2024refusal]; attacks on it [@zou2023attacks].
# - Rank-one editing [@meng2022rome]; what facts look like inside [@nanda2023facts].

# %%
claim.table()
