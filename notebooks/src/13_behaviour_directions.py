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

n_layers = model.cfg.n_layers
small = n_layers < 12  # a larger model gets fewer prompts and layers, to keep the time in bounds
layers = sorted({*range(0, n_layers, max(1, n_layers // 6)), n_layers - 1})
layer = layers[len(layers) // 2]
hook = f"blocks.{layer}.hook_resid_post"
train = mi.prompts.sentiment(model, 64 if small else 24, seed=1)
held_out = mi.prompts.sentiment(model, 48 if small else 8, seed=2, split="test")


# %%
def sides(prompts):
    """Last activations of the praising and of the blaming member of each pair, [pair d_model]."""
    clean, corrupt = (
        steering.collect(model, tokens, layers=[layer])[0]
        for tokens in (prompts.clean_tokens, prompts.corrupt_tokens)
    )
    praise = [label["sentiment"] == "good" for label in prompts.labels]
    praise = torch.tensor(praise, device=clean.device)[:, None]
    return torch.where(praise, clean, corrupt), torch.where(praise, corrupt, clean)


# %%
good, bad = sides(train)
sentiment = steering.class_means(good, bad)
n_random = 10 if small else 4
strangers = torch.randn(n_random, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
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


def patched(change):
    """How far the verdict moves to the twin's: 0 not at all, 1 all the way."""

    def hook_fn(acts, hook):
        acts = acts.clone()
        acts[:, -1] = change(acts[:, -1], twin[:, -1])
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
    list(moves.values()), list(moves), title="One direction against all of them",
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
names = [f"blocks.{i}.hook_resid_post" for i in layers]
streams = model.run_with_cache(held_out.corrupt_tokens, names_filter=names)[1]


def moved_by(layer, mask):
    """How far the verdict moves with the twin's stream put in under a mask, [batch pos]."""
    name = f"blocks.{layer}.hook_resid_post"
    put = (name, lambda acts, hook: torch.where(mask[..., None], streams[name], acts))
    with model.hooks(fwd_hooks=[put]):
        return (full - verdict()) / (full - flipped)


# %%
by_place = torch.tensor([[moved_by(i, mask) for mask in places.values()] for i in layers])
mi.figures.heatmap(
    by_place, title="Which tokens keep the opinion, layer by layer", x=list(places), text=".2f",
    y=[f"L{i}" for i in layers], ylabel="layer", colorbar="share of the way to the twin's",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("sentiment.at_the_end", by_place[layers.index(layer), 3], control=by_place[0, 3])
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
n_sets = 4 if small else 1
asked = [mi.prompts.refusal(model, 16, seed=seed) for seed in range(10, 10 + 2 * n_sets)]
chosen_on = [mi.prompts.refusal(model, 8, seed=seed) for seed in (30, 31)[:n_sets]]
judged_on = [mi.prompts.refusal(model, 12, seed=20 + i, split="test") for i in range(n_sets)]
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


for kind, harmful in (("harmful", True), ("harmless", False)):
    print(
        f"{(declines(judged_on, harmful) > 0).float().mean():.0%} of {kind} requests are declined"
    )

# %% [markdown]
# On `pocket` that is all and none. Where the two hardly differ, as in a GPT-2 that was never
# trained to decline, there is nothing to remove: the cells of this section and the next still run,
# and what they show says nothing about that model.
#
# **Select by effect.** One candidate for each layer, after its attention, and each of the last
# positions: the difference of means, harmful less harmless. Remove each in turn, on requests that
# it was not made from.

# %%
positions = list(range(-6, 0))


def contrast(sets):
    """Activations of harmful and of harmless requests, [layer prompt position d_model] each."""
    hooks = [steering.place("resid_mid", i) for i in layers]
    found = []
    for prompts in sets:
        for tokens in (prompts.clean_tokens, prompts.corrupt_tokens):
            cache = model.run_with_cache(tokens, names_filter=hooks, return_type=None)[1]
            found.append(torch.stack([cache[hook][:, positions] for hook in hooks]))
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
# does it read?

# %%
mi.figures.heatmap(
    bypass, title="Harmful requests, one direction removed", x=list(asked[0].str_tokens[0][-6:]),
    y=[f"L{i}" for i in layers], xlabel="position", ylabel="layer", text=".1f",
    colorbar="decline against answer (log odds)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
row, column = divmod(int(bypass.argmin()), len(positions))
refusal = means[row, column]
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
# On `pocket` it is read late and at the end: by then the last layers have looked up the request.
# Removing an earlier direction does nothing, since what a request is about stands in its own words.
#
# **Add it** to harmless requests. Are they declined? The strength is counted in lengths of the
# vector.

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
    curves, title="Harmless requests, the direction added", x=strengths, xlabel="strength",
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
stack = means.flatten(0, 1).cpu()
names = [f"L{i} at {p}" for i in layers for p in positions]
kept = bypass.flatten().argsort()[:8].tolist()
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
def at_choice(sets):
    """Activations of harmful and of harmless requests where the direction was read."""
    return [acts[row, :, column] for acts in contrast(sets)]


halves = [steering.class_means(*at_choice(sets)) for sets in (asked[::2], asked[1::2])]


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
# On `pocket` each direction takes away its own behaviour and leaves the other's. Their sum leaves
# the difference of the two in place, and part of both behaviours with it. Remove the plane, not
# the sum.

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
def readable(fitted, tested, seed=None):
    """Accuracy on `tested` of a fresh probe fitted on `fitted`; a seed shuffles the labels."""
    if seed is not None:
        coins = torch.rand(len(fitted[0]), generator=torch.Generator().manual_seed(seed)) < 0.5
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


def after_removing(directions):
    """Activations of the requests to fit on and to test on, and the share that is declined."""
    with steering.project_out(model, torch.stack(directions)):
        return at_choice(asked), at_choice(judged_on), share_declined()


# %%
by_rank, removed = [(share_declined(), readable(at_choice(asked), at_choice(judged_on)))], [refusal]
for _ in range(3):
    fitted, tested, left = after_removing(removed)
    by_rank.append((left, readable(fitted, tested)))
    removed.append(steering.class_means(*fitted))
mi.figures.lines(
    {"declined": [left for left, _ in by_rank], "read by a fresh probe": [r for _, r in by_rank]},
    title="Directions removed, one after the other", x=["none", "one", "two", "three"],
    xlabel="directions removed", ylabel="share of held-out requests", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim(
    "rank.first_direction", by_rank[0][0] - by_rank[1][0], control=by_rank[0][0] - random_declined
)
fitted, tested, _ = after_removing([refusal])
shuffled = [readable(fitted, tested, seed) for seed in range(5)]
claim("erasure.still_readable", by_rank[1][1], control=sum(shuffled) / 5)

# %% [markdown]
# On `pocket` the behaviour is gone, and the *concept* is still there: a probe finds it along other
# directions. To stop a model from acting on something is not to make it forget. And what section 1
# warned of holds: not everything that can be read is used.
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
# Four facts, each to be changed: the capital of France is to become Rome, and so on. Three
# phrasings make an edit; the others test whether it is more than a memorised sentence
# (*paraphrases*), and other countries whether they are left in peace (*neighbours*). One edit is an
# anecdote, so each number below is the mean over the four. (A larger model gets one only, to keep
# the time in bounds.)

# %%
from mi_data.pocket import lexicon

wanted = {"France": "Rome", "Japan": "Cairo", "Sweden": "Warsaw", "England": "Beijing"}
subjects = list(wanted)[: 4 if small else 1]
neighbours = ["Germany", "Spain", "Russia", "Greece", "Austria", "Ireland", "Norway", "Denmark"]
capitals = dict(lexicon.FACTS["capital"]["facts"])
phrasings = lexicon.FACTS["capital"]["phrasings"]
edit_on, test_on = phrasings[:3], phrasings[3:]
ids = {name: mi.prompts.single_token(model, f" {name}") for name in capitals.values()}


def prompt_of(phrasing, country):
    """Tokens of a question, and the position of the country's last token."""
    text = phrasing.format(s=country)
    text = text[0].upper() + text[1:]
    end = text.index(country) + len(country)
    return model.to_tokens(text)[0], model.to_tokens(text[:end]).shape[1] - 1


# %%
def answers(phrasings, country):
    """Logits of the next word for each phrasing, [phrasing d_vocab]."""
    rows = [prompt_of(phrasing, country)[0] for phrasing in phrasings]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return model(padded)[torch.arange(len(rows)), [len(row) - 1 for row in rows]]


# %%
@torch.no_grad()
def prefers(phrasings, country, one, other):
    """Logit of one capital minus that of another, for each phrasing."""
    logits = answers(phrasings, country)
    return logits[:, ids[one]] - logits[:, ids[other]]


def judge(subject):
    """Share of questions that give the new capital; and of those about neighbours that do not."""
    new, old = wanted[subject], capitals[subject]
    kept = [prefers(edit_on, name, capitals[name], new) for name in neighbours]
    asked = {"efficacy": prefers(edit_on, subject, new, old),
             "paraphrases": prefers(test_on, subject, new, old),
             "neighbours": torch.cat(kept)}  # fmt: skip
    return {name: (margin > 0).float().mean().item() for name, margin in asked.items()}


# %%
def mean(results):
    """The mean of several verdicts, each a dict."""
    results = list(results)
    return {name: sum(row[name] for row in results) / len(results) for name in results[0]}


before = mean(judge(subject) for subject in subjects)
print(before)

# %% [markdown]
# **Which layer?** First ask causal tracing: put each MLP's output at the country into the run that
# asks about another country, the one whose capital is the new answer, and see how much of the old
# answer comes back. Then edit each layer in turn, and compare.

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
# that is larger than it needs to be disturbs the neighbours. $C$ comes from the grammar's texts.

# %%
from mi_data.pocket import generator

counts = {"fact": 400, "profile": 300, "story": 40, "ioi": 40, "opinion": 40}
less = max(1, n_layers // 6) ** 2  # larger models get fewer texts
words = torch.cat([model.to_tokens(generator.sample(kind, seed).text)[0, 1:]
                   for kind, n in counts.items() for seed in range(n // less)])  # fmt: skip
texts = words[: len(words) // 60 * 60].view(-1, 60)
texts = torch.cat([model.to_tokens("")[:, :1].expand(len(texts), 1), texts], dim=1)
edited = list(range(0, n_layers, max(1, n_layers // 6)))
covariance = steering.key_covariance(model, texts, edited)


# %%
def edit(subject, layer):
    """The two factors of the edit of one fact in one layer."""
    rows = [prompt_of(phrasing, subject) for phrasing in edit_on]
    keys = [steering.mlp_keys(model, tokens[None], layer)[0, at] for tokens, at in rows]
    key = torch.stack(keys).mean(0)
    answer = ids[wanted[subject]]
    change = steering.find_value(model, *zip(*rows, strict=True), answer, layer)
    return steering.rome_key(covariance[layer], key), change


def judge_inside(subject, layer, key, change):
    """The verdict on a subject while one layer is edited."""
    with steering.rank_one(model, layer, key, change):
        return judge(subject)


edits = {i: {subject: edit(subject, i) for subject in subjects} for i in edited}
outcome = {i: mean(judge_inside(name, i, *edits[i][name]) for name in subjects) for i in edited}

# %% [markdown]
# Read the figure by columns. In which layers do all three rows of the edit look good? And what did
# tracing say about them? The last layer is out of the question: nothing after it could read the
# country.

# %%
mi.figures.heatmap(
    torch.tensor([[outcome[i][name] for i in edited] for name in before]
                 + [[traced[i] for i in edited]]),
    title="Where the edit works, and where tracing points", x=[f"L{i}" for i in edited],
    y=[*before, "traced"], xlabel="layer edited", text=".2f", limit=1, colorbar="share",
    subtitle=f"{mi.model_id(model)}, mean over {len(subjects)} facts",
)  # fmt: skip

# %%
best = max(edited, key=lambda i: sum(outcome[i].values()))


def random_key(key):
    """A random key that is as long."""
    noise = torch.randn(len(key), generator=torch.Generator().manual_seed(0)).to(key)
    return noise * key.norm() / noise.norm()


factors = {name: (random_key(key), change) for name, (key, change) in edits[best].items()}
by_random_key = mean(judge_inside(name, best, *factors[name]) for name in subjects)
claim("edit.paraphrases", outcome[best]["paraphrases"], control=by_random_key["paraphrases"])

# %% [markdown]
# Now leave out the layer that tracing points to, and the last. In all the others, how often does an
# edit carry over to new phrasings, and how much of the fact does tracing find?

# %%
inner = edited[:-1]
elsewhere = [i for i in inner if i != max(inner, key=lambda i: traced[i].item())]
works = torch.tensor([outcome[i]["paraphrases"] for i in elsewhere]).mean()
claim("edit.elsewhere", works, control=traced[elsewhere].mean())

# %% [markdown]
# So on `pocket` tracing does not say where an edit works: it works in layers that tracing finds
# nearly empty. Large models are no different [@hase2023localization]. Where a fact is *read* and
# where it can be *overwritten* are two questions.
#
# **Against fine-tuning** of the same matrix on the same three prompts, in small steps, until it is
# as sure of the new answer as the edit makes it.


# %%
def surprise(subject):
    """Mean of -log p(new capital) on the three prompts of the edit."""
    return -answers(edit_on, subject).log_softmax(-1)[:, ids[wanted[subject]]].mean()


def sureness(subject):
    """The surprise that the edit leaves."""
    with torch.no_grad(), steering.rank_one(model, best, *edits[best][subject]):
        return surprise(subject).item()


W_out = model.blocks[best].mlp.W_out


# %%
def adding(update):
    """The model with an update added to `W_out` of the best layer, as a context manager."""
    now, written = {}, f"blocks.{best}.hook_mlp_out"
    read = (f"blocks.{best}.mlp.hook_post", lambda acts, hook: now.update(key=acts))
    write = (written, lambda acts, hook: acts + now["key"] @ update)
    return model.hooks(fwd_hooks=[read, write])


# %%
def tune(subject):
    """The verdict on a subject after fine-tuning `W_out` of the best layer."""
    update, enough = torch.zeros_like(W_out, requires_grad=True), sureness(subject)
    optimizer = torch.optim.Adam([update], lr=2e-4)
    with adding(update):
        for _ in range(100):
            loss = surprise(subject)
            if loss < enough:
                break
            (update.grad,) = torch.autograd.grad(loss, update)
            optimizer.step()
        return judge(subject)


# %%
table = {"as it is": before, "rank-one edit": outcome[best], "random key": by_random_key,
         "fine-tuning": mean(map(tune, subjects))}  # fmt: skip
mi.figures.table([{"model": name} | row for name, row in table.items()],
                 title="Edited countries, and their neighbours",
                 subtitle=mi.model_id(model))  # fmt: skip

# %%
claim("edit.neighbours", outcome[best]["neighbours"], control=table["fine-tuning"]["neighbours"])

# %% [markdown]
# Undone, exactly: not one bit of the weights is different.

# %%
original = W_out.clone()
with steering.rank_one(model, best, *edits[best][subjects[0]]):
    inside = (W_out - original).abs().max()
claim("edit.undone", (W_out - original).abs().max(), control=inside)

# %% [markdown]
# **Look for yourself.** Which phrasings and countries does an edit of each layer reach?


# %%
def look(edit, layer, country):
    """The new capital against the right one for each phrasing, with one fact edited."""
    new, right = wanted[edit], capitals[country]
    with steering.rank_one(model, layer, *edits[layer][edit]):
        margins = prefers(phrasings, country, new, right)
    return mi.figures.bars(
        margins, [phrasing.format(s="…") for phrasing in phrasings], horizontal=True,
        title=f"{edit} edited, {country} asked: {new} (blue) or {right} (red)?",
        xlabel="logit difference", subtitle=mi.model_id(model),
    )  # fmt: skip


mi.figures.explore(
    look, edit=subjects, layer=edited, country=[*subjects, *neighbours], start={"layer": best}
)

# %% [markdown]
# ## Summary
#
# - A direction must be tested by reading, removing and patching along it; each says more than the
#   one before.
# - Where an opinion is kept must be tested; on `pocket` no full stop summarises it.
# - Refusal can hang on one direction: removed, the model answers; added, it declines; and the
#   weights can be changed so for good.
# - Removing what a behaviour needs does not remove the concept.
# - One fact can be rewritten in closed form, and what else changes can be measured. Where a fact is
#   read and where it can be overwritten are two questions.
#
# **What we have not shown.** That real models' refusals work so: `pocket` learned a toy. That the
# chosen direction is *the* one: selection by effect finds a good handle, and there may be others.
#
# ## Where to read on
#
# - Sentiment and its summaries [@tigges2023sentiment]; linear representations [@park2023linear].
# - Refusal [@arditi2024refusal]; attacks on it [@zou2023attacks].
# - Rank-one editing [@meng2022rome]; tracing is no guide to it [@hase2023localization]; what facts
#   look like inside [@nanda2023facts].

# %%
claim.table()
