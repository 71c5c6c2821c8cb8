# ---
# title: Universality
# minutes: 60
# ---

# %% [markdown]
# **The question.** Train a model again, from another seed. Which findings come back: its behaviour,
# its heads, its circuits, its neurons? And which findings of this suite are about language models,
# and which only about `pocket`?
#
# **You need** scores of heads ([notebook 02](02_attention_heads.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)); for appendix A, sparse autoencoders
# ([notebook 10](10_sparse_autoencoders.ipynb)).
#
# **You will be able to**
#
# - say in which of four senses a finding can recur, and test each;
# - compare heads and a circuit across models that number their heads differently;
# - match neurons of two models by what they respond to, and say what chance would give;
# - compare whole streams by CKA, and name what inflates it;
# - read a table of findings by model, and say what one model alone would have made you believe.

# %% [markdown] short=true
# ## 1. Two networks that do the same
#
# Here are the activations of three units on six inputs, and of two other networks. One is the first
# with its units in another order and twice as loud. The other is the first with its axes turned.

# %% short=true
first = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 0]])
reordered = 2 * first[:, [2, 0, 1]]
turn = torch.tensor([[2.0, 2, -1], [-1, 2, 2], [2, -1, 2]]) / 3
turned = first @ turn

# %% [markdown] short=true
# Neither has lost anything: each can be turned into the first by a matrix. But what of the single
# units? Correlate every unit of one network with every unit of the other, over the inputs
# [@li2015convergent]. In the panels, look for one full cell in each row.


# %% short=true
versions = {"reordered": reordered, "turned": turned}


def standard(acts):
    """Centred, and each column of length 1: products are correlations; acts: [token unit]."""
    centred = acts - acts.mean(0)
    return centred / centred.norm(dim=0).clamp_min(1e-6)


by_hand = torch.stack([standard(first).T @ standard(other) for other in versions.values()])
mi.figures.heatmap(
    by_hand, facets=list(versions), text=".1f", xlabel="unit there", ylabel="unit here",
    title="A new order keeps the units, a turn does not", limit=1, colorbar="correlation",
)  # fmt: skip

# %% [markdown] short=true
# So there are several senses in which two models can be "the same inside". They do the same
# (**behaviour**). They have parts that do the same jobs, wired alike (**heads, circuits**). Their
# units are the same up to order (**neurons, SAE units**). Their states are the same up to a turn
# (**streams**). A measure for the last that ignores any turn is **CKA**, centred kernel alignment
# [@kornblith2019cka]: take all pairs of inputs, and ask whether those that are alike in one network
# are alike in the other. For streams $X$ and $Y$ (rows are tokens, columns centred; the norm of a
# matrix is the root of the sum of its squared entries):
#
# $$\mathrm{CKA} = \frac{\lVert Y^\top X\rVert^2}{\lVert X^\top X\rVert\,\lVert Y^\top Y\rVert}$$


# %% short=true
whole = torch.tensor(1.0)


def cka(x, y):
    """Linear CKA of two sets of states of the same tokens, [token d] and [token d2]."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


assert all(torch.isclose(cka(first, other), whole) for other in versions.values())

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: the best match
# For each unit of one network return the largest correlation that a unit of the other has with it,
# and the number of that unit. Signs count: a unit that does the opposite is no match.

# %% [markdown] tags=["hint"]
# Centre each column and give it length 1. Then one product has all correlations, `[unit unit2]`.


# %% tags=["exercise"]
def best_match(a, b):
    """a: [token unit]; b: [token unit2]  ->  correlations [unit], and numbers [unit]."""
    raise NotImplementedError


# %% tags=["solution"]
def best_match(a, b):
    a, b = (x - x.mean(0) for x in (a, b))
    correlations = (a / a.norm(dim=0)).T @ (b / b.norm(dim=0))
    return correlations.max(dim=1)


# %% tags=["check"]
check.best_match(best_match)

# %% [markdown] short=true
# ## 2. Four models from one recipe
#
# The **universality hypothesis** says that analogous features and circuits form across models
# [@olah2020zoom]. It was put forward as speculative, about vision models. We ask it of `pocket`, in
# each of the senses above, each time beside what would be found if nothing were shared.
#
# `pocket` has three siblings: the same code, tokenizer and kind of text, and another seed, which
# decides the first weights *and* which documents come in which order. So what differs among the
# siblings is luck. (`pocket` itself comes from a run in which details were still being settled;
# [its card](../data/pocket/README.md) tells. It counts as a fourth all the same.) What all four
# share may still be the recipe's. They read text that none was trained on, from the generator's
# held-out split. Start tokens are left out of all counts, and so is the last token of a row.

# %% short=true
torch.set_grad_enabled(False)
pockets = mi.models.load_pockets(model)
pocket, seed, by_size = pockets["pocket"], 0, mi.models.by_size
siblings = [name for name in pockets if name != "pocket"]
pairs = [(one, two) for i, one in enumerate(pockets) for two in list(pockets)[:i]]

# %%
from mi_data.pocket import generator

texts = [generator.document(10_000 * seed + i, split="test").text for i in range(400)]
joined = torch.cat([pocket.to_tokens(text)[0] for text in texts])
body = joined[: len(joined) // 63 * 63].view(-1, 63)
rows = torch.cat([joined[:1].expand(len(body), 1), body], dim=1)
kept = rows != pocket.tokenizer.bos_token_id
kept[:, -1] = False

# %% [markdown]
# Do the four say the same? Compare best guesses, token by token. Two good models agree wherever
# both are right, so look where both are *wrong*: do they make the same mistake? The control is the
# same two models, where the second one's guess is that for another token which both got wrong.

# %%
guesses = {name: one(rows[:50]).argmax(-1)[kept[:50]] for name, one in pockets.items()}
truth = rows[:50].roll(-1, 1)[kept[:50]]
table, by_chance = [], []
for one, two in pairs:
    a, b = guesses[one], guesses[two]
    wrong = (a != truth) & (b != truth)
    by_chance.append((a[wrong] == b[wrong].roll(1)).float().mean())
    table.append(
        {"models": f"{one}, {two}", "same guess": (a == b).float().mean().item(),
         "both wrong": wrong.float().mean().item(),
         "then the same": (a[wrong] == b[wrong]).float().mean().item()}
    )  # fmt: skip
claim("recur.mistakes", min(row["then the same"] for row in table), control=max(by_chance))
mi.figures.table(table, title="Where both are wrong, siblings often say the same")

# %% [markdown]
# Much of this is the text's doing: where a continuation is a matter of taste, the likeliest word is
# the same for all who learned the text well. That the four behave alike is the weakest sense of
# universality, and it says nothing yet about what is inside.

# %% [markdown] short=true
# ## 3. Heads of the same kinds
#
# Head numbers mean nothing across seeds. Kinds do. Score all heads on random tokens said twice, as
# in notebook 02, for three kinds: **previous-token** heads, **induction** heads (which look behind
# an earlier occurrence of the token), and **duplicate-token** heads (which look at it). The model
# in hand joins, if it is another.

# %% short=true
kinds = ["previous_token", "induction", "duplicate_token"]
everyone = pockets | {mi.model_id(model): model}


def head_scores(some_model):
    """Scores of all heads of a model for each kind, [layer head]."""
    tokens = mi.prompts.repeated_tokens(some_model, 10, 50, seed=seed)
    found = mi.heads.attention_scores(some_model, tokens)
    return {kind: found[kind] for kind in kinds}


scores = {name: head_scores(one) for name, one in everyone.items()}
untrained = [mi.untrained(pocket, i) for i in range(2)]
chance = [head_scores(one) for one in untrained]

# %% [markdown] short=true
# Choose a kind. Look at two things: how many strong heads there are in each model, and in which
# *layers*. The places in a row differ by luck; do the rows?


# %% short=true
panels = {kind: torch.stack([scores[name][kind] for name in pockets]) for kind in kinds}


def maps_of(kind):
    """The scores of all heads for one kind, a panel for each pocket."""
    return mi.figures.heatmap(
        panels[kind], facets=list(pockets), limit=1, center=None, bottom_up=True,
        title=f"{kind.replace('_', '-').capitalize()} heads in four models", xlabel="head",
        ylabel="layer", colorbar="attention on targets",
    )  # fmt: skip


mi.figures.explore(maps_of, kind=kinds, ahead=True)

# %% [markdown]
# Now the best head of each kind, by how deep it sits (zero is the first layer, one the last) and
# how strong it is. Compare the horizontal places within a colour, and then the colours. (Points of
# several models lie on one another; hover to read which.)

# %%
best = {
    name: {kind: mi.heads.top_heads(of_model[kind], 1)[0] for kind in kinds}
    for name, of_model in scores.items()
}
points = [
    (head.layer / (len(scores[name][kind]) - 1), score, kind.replace("_", "-"), f"{name} {head}")
    for name, of_model in best.items()
    for kind, (head, score) in of_model.items()
]
depth, strength, group, label = zip(*points, strict=True)
mi.figures.scatter(
    depth, strength, groups=group, labels=label, title="Where the best head of each kind sits",
    xlabel="depth", ylabel="attention on targets", subtitle=", ".join(scores),
)  # fmt: skip

# %% [markdown] short=true
# The claims take the *weakest* of the four models, and as control the strongest head of two
# untrained ones.

# %% short=true
weakest = {kind: min(scores[name][kind].max() for name in pockets) for kind in kinds}
luckiest = {kind: max(of_model[kind].max() for of_model in chance) for kind in kinds}
claim("recur.previous_token", weakest["previous_token"], control=luckiest["previous_token"])
claim("recur.induction", weakest["induction"], control=luckiest["induction"])

# %% [markdown]
# Are they wired alike? The story of notebook 03 is that induction heads read what a previous-token
# head of a lower layer wrote. So in each model, mean-ablate the best previous-token head below the
# best induction head, and see what is left of the latter's score; then each other head of that
# layer.


# %%
tokens = mi.prompts.repeated_tokens(pocket, 4, 50, seed=seed)
spare = mi.prompts.repeated_tokens(pocket, 4, 50, seed=seed + 1)
mean = mi.patching.Mean(spare, per_position=False)
firsts = {name: of_model["induction"][0] for name, of_model in best.items() if name in pockets}


def match_without(name, head):
    """Share of the best induction head's score that is left without another head."""
    with mi.patching.ablated(pockets[name], [head], mean):
        left = mi.heads.attention_scores(pockets[name], tokens)["induction"][firsts[name]]
    return (left / scores[name]["induction"][firsts[name]]).item()


# %%
table, without_it, without_another = [], [], []
for name, induction in firsts.items():
    prev, _ = mi.heads.top_heads(scores[name]["previous_token"][: induction.layer], 1)[0]
    others = [mi.heads.Head(prev.layer, j) for j in range(pocket.cfg.n_heads) if j != prev.head]
    without_it.append(match_without(name, prev))
    without_another.append(sum(match_without(name, head) for head in others) / len(others))
    table.append(
        {"model": name, "induction": str(induction), "previous token": str(prev),
         "left without it": without_it[-1], "left without another": without_another[-1]}
    )  # fmt: skip
claim("recur.wired", max(without_it), control=min(without_another))
mi.figures.table(table, title="The same two steps, in other layers")

# %% [markdown]
# Read the table's middle columns. In three of the four the two steps are in the first and second
# layer; in `pocket-seed-2` they are in the third and fourth. **What recurs is the mechanism, not
# the address.** (Tested here is that the head below is needed; that the way leads through the keys
# is shown in notebook 03, for the model loaded there.) Whoever had looked at `pocket` alone could
# have written "induction heads sit in the second layer" and been right about three models of four.
#
# And one kind is nowhere: no pocket has a duplicate-token head. The control is what SmolLM2's best
# head scores, in the recorded run of notebook 02.

# %%
import json
from importlib.resources import files

recorded = json.loads((files("mi_data") / "results.json").read_text("utf-8"))["runs"]
found = {}  # of each claim: what was recorded, by model
for run in recorded:
    for row in run["rows"]:
        found.setdefault((run["notebook"], row["id"]), {})[run["model"]] = row
smollm2_head = found["02_attention_heads", "heads.duplicate_token"]["smollm2-q4"]["value"]
loudest = max(scores[name]["duplicate_token"].max() for name in pockets)
claim("recur.duplicate_token", loudest, control=smollm2_head)

# %% [markdown]
# Four seeds agree, and still it would be wrong to say that language models have no such heads.
# GPT-2 small has them [@wang2022ioi]. The seeds share one recipe and one kind of text: **seeds test
# luck, not the recipe.**

# %% [markdown] short=true
# ## 4. Is the task solved in the same way?
#
# Indirect objects: of two people, one gives something to the other. In which layer does the answer
# reach the last token? Patch the stream of the swapped prompts with the clean one, at the giver's
# second mention and at the end, and take the difference of the two recoveries: minus one where the
# name holds all of the answer, one where the end does.

# %% short=true
same = mi.prompts.ioi(pocket, 40, seed=seed, same_wording=True)
places = [int(same.positions[role][0]) for role in ("S2", "end")]


def recoveries(some_model):
    """Share of the answer that the clean stream brings back before each layer, [layer 2]."""
    what, metric = mi.patching.OtherRun(same.clean_tokens), mi.patching.LogitDiff
    sweep = mi.patching.patch_sweep(
        some_model, same.corrupt_tokens, what, metric(same.answer_tokens),
        where=mi.patching.Where(positions=places),
    )  # fmt: skip
    return sweep.recovery()


handed = {name: recoveries(one) for name, one in pockets.items()}

# %% short=true
mi.figures.lines(
    {name: of_model[:, 1] - of_model[:, 0] for name, of_model in handed.items()},
    title="The same large step, in one layer or the next", xlabel="before layer",
    ylabel="held by the end less held by the name",
)  # fmt: skip

# %% [markdown] short=true
# In all four models the answer stays at the name, and then moves. In `pocket` and `pocket-seed-2`
# it takes two visible steps; in the other two a rest is left for the last layer, which lies beyond
# the figure's edge.
# Which heads move it? Patch the output of each head, on prompts of many wordings, and take the
# best two of each model. Then, on *other* prompts, ask of each: how much of the answer does it
# bring back? How much does it look at the giver? And what does it do to the name it reads: does it
# put it among the first twenty of the vocabulary, or among the last?

# %% short=true
choose, judge = (mi.prompts.ioi(pocket, 40, seed=seed + i) for i in (1, 2))


def head_recoveries(some_model, prompts):
    """Share of the answer that each head's clean output brings back, [layer head]."""
    what, metric = mi.patching.OtherRun(prompts.clean_tokens), mi.patching.LogitDiff
    return mi.patching.patch_sweep(
        some_model, prompts.corrupt_tokens, what, metric(prompts.answer_tokens),
        site="z", over=("layer", "head"),
    ).recovery()  # fmt: skip


chosen, brings = {}, {}
for name, one in pockets.items():
    ranked = mi.heads.top_heads(head_recoveries(one, choose), 3)
    chosen[name] = [head for head, _ in ranked]
    brings[name] = head_recoveries(one, judge)

# %% short=true
givers = judge.answer_tokens[:, 1].unique()
at_giver = {"giver": mi.heads.position_targets(judge.clean_tokens, -1, judge.positions["S2"])}
table, profile = [], {}
for name, one in pockets.items():
    look = mi.heads.attention_scores(one, judge.clean_tokens, at_giver)["giver"]
    first_twenty, last_twenty = mi.heads.copying_top_k(one, givers, k=20)
    profile[name] = {"looks": look, "lowers": last_twenty}
    for head in chosen[name][:2]:
        table.append(
            {"model": name, "head": str(head), "brings back": brings[name][head].item(),
             "looks at the giver": look[head].item(),
             "raises the name": first_twenty[head].item(),
             "lowers the name": last_twenty[head].item()}
        )  # fmt: skip
mi.figures.table(table, title="Two heads in each model, and they do the same")

# %% [markdown] short=true
# Nobody told the four to do it alike. In each, one head with most of the effect, and a second one,
# look at the giver and write *against* the name that they read, which leaves the other. In GPT-2
# small name movers look at the receiver and copy it, and other heads tell them where not to look
# [@wang2022ioi]. So again: the four agree with one another, and not with GPT-2 small.
# [@tigges2024consistent] follow circuits of larger models through training and across sizes, and
# find that the algorithm stays where the heads change.
#
# The first three claims are about the first head of each model. And does the step of the figure lie
# in its layer? The last claim is what the end holds before
# the *next* layer, in the model where it holds least; the control, what it holds before the head's
# own, where it holds most.

# %%
leaders = {name: heads[0] for name, heads in chosen.items()}
claim(
    "recur.one_head", min(brings[name][head] for name, head in leaders.items()),
    control=max(brings[name][heads[2]] for name, heads in chosen.items()),
)  # fmt: skip
claim(
    "recur.looks", min(profile[name]["looks"][head] for name, head in leaders.items()),
    control=max(profile[name]["looks"].mean() for name in pockets),
)  # fmt: skip
claim(
    "recur.lowers", min(profile[name]["lowers"][head] for name, head in leaders.items()),
    control=max(profile[name]["lowers"].mean() for name in pockets),
)  # fmt: skip

# %%
after, before = (
    [handed[name][head.layer + shift, 1] for name, head in leaders.items()] for shift in (1, 0)
)
claim("recur.step", min(after), control=max(before))

# %% [markdown]
# ## 5. Do neurons recur?
#
# Now single units. A neuron's activation on some thousand tokens is its signature. For each neuron
# of `pocket`, look among *all* neurons of a sibling for the one that correlates most
# [@gurnee2024universal]. The best of thousands correlates by chance, too. Two controls say how
# much:
#
# - **other tokens**: the sibling's activations with the tokens in another order;
# - **turned**: the sibling's neurons of each layer, turned by a random rotation. The space is the
#   same, and everything that can be read from it linearly; only the neurons are gone.

# %%
fewer, here = rows[:60], kept[:60]


def neurons(some_model):
    """What every neuron does on the kept tokens, [token neuron], layer after layer."""
    sites = [("mlp_post", layer) for layer in range(some_model.cfg.n_layers)]
    seen = mi.sites.read(some_model, fewer, sites)
    return torch.cat([seen[site][here] for site in sites], dim=1)


def partners(a, b):
    """Of each column of `a`, the best match among those of `b`: correlations, and numbers."""
    b = standard(b)
    found = [(part.T @ b).max(dim=1) for part in standard(a).split(576, dim=1)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


acts = {name: neurons(one) for name, one in pockets.items()}
own = acts["pocket"]
matches = {name: partners(own, acts[name]) for name in siblings}

# %%
theirs, d_mlp = acts[siblings[0]], pocket.cfg.d_mlp
draw = torch.Generator().manual_seed(seed)
rotation = mi.lens.random_rotation(d_mlp, seed)
turned_acts = torch.cat([layer @ rotation for layer in theirs.split(d_mlp, dim=1)], dim=1)
turned_match, _ = partners(own, turned_acts)
strange_match, _ = partners(own, theirs[torch.randperm(len(theirs), generator=draw)])
mi.figures.histogram(
    {siblings[0]: matches[siblings[0]][0], "turned": turned_match, "other tokens": strange_match},
    title="A tail of pocket's neurons has a partner in a sibling",
    xlabel="correlation with the best match", bins=50,
)  # fmt: skip

# %% [markdown]
# Where does the tail lie? And how much of it does the turned control have? Call a neuron
# *recurring* if its best match correlates above a half in **every** sibling. The control asks for
# less: a match among the turned neurons of one.

# %%
weakest_match = torch.stack([match for match, _ in matches.values()]).amin(0)
recurring = weakest_match > 0.5
claim("recur.neurons", recurring.float().mean(), control=(turned_match > 0.5).float().mean())
by_layer = {"in every sibling": recurring, "turned, in one": turned_match > 0.5}
mi.figures.bars(
    {name: hit.view(-1, d_mlp).float().mean(1) for name, hit in by_layer.items()},
    [f"layer {layer}" for layer in range(pocket.cfg.n_layers)],
    title="Most neurons do not recur; near the output more do, turned ones too",
    ylabel="share of pocket's neurons",
)  # fmt: skip

# %% [markdown]
# Most neurons of `pocket` lack a partner in at least one sibling. Of those that have one in every
# sibling, more lie in the last layers, close to the words that all models must say; but there the
# control rises, too: for some of them the best of thousands of turned directions does as well.
# Gurnee et al., in GPT-2 and Pythia models of five seeds each, call 1 to 5% of neurons
# universal, by another
# criterion: the correlation *less* that of a turned control. Choose a recurring neuron and see
# what it and its partners do on a text.


# %%
shown, best_ones = joined[:40], weakest_match.topk(12).indices.tolist()


def seen_by_four(neuron):
    """A neuron of pocket and its partners on one text, each over its own largest activation."""
    lines, numbers = {}, {"pocket": neuron}
    numbers |= {name: int(partner[neuron]) for name, (_, partner) in matches.items()}
    for name, number in numbers.items():
        layer, place = divmod(number, d_mlp)
        seen = mi.sites.read(pockets[name], shown[None], [("mlp_post", layer)])["mlp_post", layer]
        seen = seen[0, :, place] / acts[name][:, number].max()
        lines[f"{name}, layer {layer}, neuron {place}"] = seen
    words = [mi.heads.token_names(pocket, shown)] * len(lines)
    said = dict(rows=list(lines), title="One neuron in four models", unit="of its largest")
    return mi.figures.tokens_coloured(words, list(lines.values()), **said)


choices = {f"layer {n // d_mlp}, neuron {n % d_mlp}": n for n in best_ones}
mi.figures.explore(seen_by_four, neuron=choices)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: what recurs everywhere
# From each unit's best match in each of several other models, return the share of units that are
# matched above a threshold in every one.

# %% [markdown] tags=["hint"]
# Compare with the threshold, then `all` over the models, then the mean over units.


# %% tags=["exercise"]
def recurring_share(matches, threshold):
    """matches: [model unit], correlations with the best match  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def recurring_share(matches, threshold):
    return (matches > threshold).all(dim=0).float().mean()


# %% tags=["check"]
check.recurring_share(recurring_share)

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 3: mutual matches
# One unit can be the best match of many, so a best match need not be a pair. Mark the units whose
# best match has *them* as its own best match.

# %% [markdown] tags=["hint"]
# `argmax` over each axis gives both directions; follow one, then the other.


# %% tags=["exercise"]
def mutual_matches(correlations):
    """correlations: [unit unit2]  ->  True or False, [unit]."""
    raise NotImplementedError


# %% tags=["solution"]
def mutual_matches(correlations):
    there, back = correlations.argmax(dim=1), correlations.argmax(dim=0)
    return back[there] == torch.arange(len(correlations))


# %% tags=["check"]
check.mutual_matches(mutual_matches)

# %% [markdown] short=true
# ## 6. Do streams recur?
#
# Last, whole states. CKA (section 1) asks whether tokens that are alike for one model are alike for
# the other, whatever the axes. At each place of the stream, for all pairs of siblings; for two
# untrained models; and for a pair of siblings with the tokens exchanged among those of the *same
# word*, which keeps the word and takes its context and its position away (but for words that occur
# only once). Where does that last line lie, and what do two models share that have learned nothing?


# %%
n_layers, part = pocket.cfg.n_layers, slice(0, 40)
middle = n_layers // 2
sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(n_layers))]
token_ids = rows[part][kept[part]]


def streams(some_model, mask):
    """The stream at every place, on the tokens of a mask, [place token d_model]."""
    seen = mi.sites.read(some_model, rows[part], sites)
    return torch.stack([seen[site][mask] for site in sites])


states = {name: streams(one, kept[part]) for name, one in pockets.items()}
raw = [streams(one, kept[part]) for one in untrained]

# %%
by_word = torch.argsort(token_ids, stable=True)
draw = torch.Generator().manual_seed(seed)
mixed_up = torch.randperm(len(token_ids), generator=draw)
mixed_up = mixed_up[torch.argsort(token_ids[mixed_up], stable=True)]
same_word = torch.empty_like(by_word)
same_word[by_word] = mixed_up  # each token's place goes to another of the same word


def profile_of(one, two):
    """CKA at every place."""
    return torch.stack([cka(x, y) for x, y in zip(one, two, strict=True)])


# %% short=true
alike = torch.stack([profile_of(states[one], states[two]) for one, two in pairs])
of_untrained, (one, two) = profile_of(*raw), pairs[0]
of_words = profile_of(states[one], states[two][:, same_word])
claim("recur.streams", alike.mean(1).min(), control=of_untrained.mean())
mi.figures.lines(
    {"siblings, mean": alike.mean(0), "same word, another place": of_words,
     "untrained": of_untrained},
    bands={"siblings, mean": (alike.amin(0), alike.amax(0))},
    title="Streams of siblings are alike; so are, in part, those of untrained models",
    x=["embedding", *(f"after {layer}" for layer in range(n_layers))],
    xlabel="place", ylabel="CKA", subtitle="band: all pairs",
)  # fmt: skip

# %% [markdown] short=true
# CKA is not zero for models that have learned nothing: they see the same words at the same
# positions, and a word is like itself. The words alone, without context and position, bring about
# as much, but less at the embedding, where nothing but the position was there to be taken away.
# Never read a CKA without these controls. The siblings are above both at every place, least after
# the first layers and most at both ends, where all must take the same words in and say the same.
# (The claim is the least alike pair, mean over places.)
#
# **What inflates it.** A few directions or a few inputs with a large variance decide the number
# [@davari2022cka]. Streams have such inputs: start tokens, whose streams are long and nearly equal
# (notebook 01). Add them to the rows, and *exchange all other tokens at random*, so that nothing
# else can match.

# %%
with_start = kept[part] | (rows[part] == pocket.tokenizer.bos_token_id)
is_start = (rows[part] == pocket.tokenizer.bos_token_id)[with_start]
x, y = (streams(pockets[name], with_start) for name in pairs[0])
order, others = torch.arange(len(is_start)), (~is_start).nonzero()[:, 0]
draw = torch.Generator().manual_seed(seed)
order[others] = others[torch.randperm(len(others), generator=draw)]
shuffled = {
    "with start tokens": profile_of(x, y[:, order]),
    "without": profile_of(x[:, others], y[:, order[others]]),
}
mi.figures.lines(
    shuffled, title="Start tokens alone make shuffled streams alike",
    x=["embedding", *(f"after {layer}" for layer in range(n_layers))],
    xlabel="place", ylabel="CKA of shuffled streams",
)  # fmt: skip

# %%
place = sites.index(("resid_post", middle))
claim(
    "recur.start_tokens", shuffled["with start tokens"][place], control=shuffled["without"][place]
)

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 4: linear CKA
# Write linear CKA for states of any two widths, from the formula of section 1 and not from its
# code. Centre the columns first.

# %% [markdown] tags=["hint"]
# Centre the columns. `(y.T @ x).square().sum()` is the squared norm of the cross product.


# %% tags=["exercise"]
def linear_cka(x, y):
    """x: [token d]; y: [token d2]  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def linear_cka(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


# %% tags=["check"]
check.linear_cka(linear_cka)

# %% [markdown]
# ## 7. Findings by model
#
# Seeds are one thing, models another. All claims of this suite that were recorded on both `pocket`
# and SmolLM2, a real language model of GPT-2 small's size, stand below, with what was published for
# GPT-2 small where a claim has it. (Recorded runs, not computed here; toys that a notebook trains
# itself are left out.) **both**: the finding holds in both models, told by the same sentence.
# **told otherwise**: SmolLM2 has a sentence of its own; often it tells the same in another amount,
# at times the contrary (the table has pocket's). **pocket only** and **SmolLM2 only**: the notebook
# looked for it in the other model and did not find it, or could not ask. **neither**: in neither.
# This is no sample of all findings: they are what the notebooks chose to tell, mostly of `pocket`.

# %%
from collections import Counter

from mi_helpers.suite.claims import load_suite

declared = load_suite()
both_asked = {
    key: by_model
    for key, by_model in found.items()
    if {"pocket", "smollm2-q4"} <= set(by_model) and "any" not in declared[key[0]][key[1]].expected
}


# %%
published = {
    key: f"{range_.low:.3g} to {range_.high:.3g}"
    for key in both_asked
    if (asked := declared[key[0]][key[1]].expected.get("gpt2")) and (range_ := asked.value)
}


def verdict(row, there):
    """In which of the two models a finding was recorded as holding."""
    holds = row["status"] == "holds", there["status"] == "holds"
    if all(holds):
        return "both" if row["statement"] == there["statement"] else "told otherwise"
    return {(True, False): "pocket only", (False, True): "SmolLM2 only"}.get(holds, "neither")


# %%
table = []
for key, by_model in both_asked.items():
    two = [by_model[name] for name in ("pocket", "smollm2-q4")]
    numbers = [
        "not asked" if row["value"] is None else f"{row['value']:.3g} ({row['control_value']:.3g})"
        for row in two
    ]
    table.append(
        {"notebook": key[0][:2], "finding": two[0]["statement"], "holds in": verdict(*two),
         "pocket (control)": numbers[0], "SmolLM2 (control)": numbers[1],
         "GPT-2 small, published": published.get(key, "-")}
    )  # fmt: skip
tally = Counter(row["holds in"] for row in table).most_common()
said = ", ".join(f"{word}: {count}" for word, count in tally)
mi.figures.table(table, title="Findings by model", subtitle=said, search=True)

# %% [markdown]
# "Both" is the most common verdict, for about half of the findings. Type "SmolLM2 only" into the
# box: such findings may need size, or real text, or another architecture. Two models that differ in
# everything cannot tell. Then "pocket only": a notebook on `pocket` alone would state these as if
# they were laws.

# %% [markdown]
# ## 8. Three that one model would have got wrong
#
# Each line is true of `pocket`. Read on to the right.

# %%
lines = {
    "layer of the best induction head": {n: str(head.layer) for n, head in firsts.items()},
    "share of the answer at the end less that at the name, before the last layer": {
        n: (ends[-1, 1] - ends[-1, 0]).item() for n, ends in handed.items()
    },
    "attention of the best duplicate-token head": {
        n: scores[n]["duplicate_token"].max().item() for n in pockets
    },
}

# %%
asked = [("00_start_here", "start.handed_over"), ("02_attention_heads", "heads.duplicate_token")]
smollm2 = dict(zip(lines, ("-", found[asked[0]]["smollm2-q4"]["value"], smollm2_head), strict=True))
gpt2 = dict(zip(lines, ("-", *(published[key] for key in asked)), strict=True))
compared = [
    {"": k, **v, "SmolLM2, recorded": smollm2[k], "GPT-2 small, published": gpt2[k]}
    for k, v in lines.items()
]
mi.figures.table(compared, title="One model, its siblings, and other kinds")

# %% [markdown]
# 1. *"Induction heads sit in the second layer."* One sibling of three has them elsewhere. What
#    recurs is that a previous-token head lies below them, and that they fail without it.
# 2. *"Before the last layer the answer has moved to the end."* Notebook 00 claims it of `pocket`,
#    with a narrow range that was measured over prompts. In `pocket-seed-1` a good part moves in the
#    last layer itself. **A spread over prompts is no spread over models.**
# 3. *"There are no duplicate-token heads."* All four agree, and SmolLM2 and GPT-2 small have them.
#    **A spread over seeds is none over recipes.**

# %% [markdown] short=true
# ## Summary
#
# - Ask in which sense a finding recurs: behaviour, heads and circuits, single units, or the space
#   of states. Each needs its own control.
# - In four pockets the kinds of heads, their wiring and the way the task is solved recur; layers
#   and numbers of heads do not.
# - Most neurons do not have a partner in every sibling. Of those that do, most lie near the
#   output, where turned neurons do better, too.
# - A second SAE of the same model does not find all units again either, and only somewhat more of
#   them than an SAE of a sibling.
# - CKA is high between siblings, not low between untrained models, and at the mercy of a few start
#   tokens.
# - Prompts, seeds, recipes: a range covers what was varied to measure it, and no more.
#
# **Where to read on.** [@olah2020zoom], "Claim 3: Universality"; [@li2015convergent], who matched
# units of networks first; [@gurnee2024universal] for what universal neurons do;
# [@chughtai2023universality], where networks that learn group operations choose among a common
# family of solutions; [@tigges2024consistent] for circuits; [@kornblith2019cka] and
# [@davari2022cka] for CKA and against it; [@paulo2025seeds] for SAEs.

# %% [markdown]
# ## Appendix A: do units of sparse autoencoders recur?
#
# Perhaps neurons are the wrong units, and the features of an SAE recur where neurons do not. But an
# SAE has a seed of its own, and another SAE of the *same* model shares only part of its units
# ([@paulo2025seeds], and notebook 10). So the fair comparison has three rows. Four small SAEs of
# the stream after the middle layer, trained for a few seconds each: two of `pocket`, one of a
# sibling, one of an untrained model. Same text, same recipe.

# %%
from mi_helpers import sae

more = [generator.document(500_000 + 10_000 * seed + i).text for i in range(800)]
flat = torch.cat([pocket.to_tokens(text)[0] for text in more])
flat = flat[: len(flat) // 63 * 63].view(-1, 63)
fit_rows = torch.cat([joined[:1].expand(len(flat), 1), flat], dim=1)
small = dict(d_sae=256, k=16, steps=200, batch=256, lr=8e-3, encoder_scale=1.0)


def units_of(some_model, sae_seed):
    """Activations of a freshly trained SAE's units on the kept tokens, [token unit]."""
    recipe, at = sae.Recipe("batchtopk", seed=sae_seed, **small), ("resid_post", middle)
    stream = sae.Activations(some_model, at, fit_rows, buffer=fit_rows.numel())
    with torch.enable_grad():
        trained = sae.train(sae.start(stream, recipe), progress=False).sae()
    return trained.encode(mi.sites.read(some_model, fewer, [at])[at][here])


# %%
units = {
    "pocket": units_of(pocket, seed),
    "another SAE of pocket": units_of(pocket, seed + 1),
    f"an SAE of {siblings[0]}": units_of(pockets[siblings[0]], seed),
    "an SAE of an untrained model": units_of(untrained[0], seed),
}
unit_match = {name: partners(units["pocket"], units[name])[0] for name in list(units)[1:]}
shares = {name: (match > 0.5).float().mean() for name, match in unit_match.items()}
mi.figures.bars(
    list(shares.values()), list(shares), horizontal=True,
    title="A sibling's SAE finds fewer units again than another of the same model, but most",
    xlabel="share of units whose best match is above a half",
)  # fmt: skip

# %%
again, sibling_again, untrained_again = shares.values()
claim("recur.units", sibling_again, control=untrained_again)
claim("recur.dictionary", again - sibling_again, control=again - untrained_again)

# %% [markdown]
# The two claims together: a sibling's units match `pocket`'s far more often than an untrained
# model's do, and only somewhat less often than those of a second SAE of `pocket` itself. So most of
# what does not come back is not the model's difference but the dictionary's: the SAE finds *a* set
# of units, not *the* set. (These are small SAEs, trained for seconds. What larger ones share,
# by another measure, is in notebook 10.)

# %% [markdown]
# ## Appendix B: more on heads and neurons
#
# In section 4, are the two heads needed? Mean-ablate both; then, as a control, two other heads of
# the same layers.

# %%
usual = mi.patching.Mean(choose.clean_tokens, per_position=False)
metric = mi.patching.LogitDiff(judge.answer_tokens)


def preference_without(name, heads):
    """Mean logit difference with heads mean-ablated, over that of the whole model."""
    whole = metric(pockets[name](judge.clean_tokens)).mean()
    with mi.patching.ablated(pockets[name], heads, usual):
        return (metric(pockets[name](judge.clean_tokens)).mean() / whole).item()


duos = {name: heads[:2] for name, heads in chosen.items()}
neighbours = {}
for name, heads in duos.items():
    free = {h: [j for j in range(6) if (h.layer, j) not in heads] for h in heads}
    neighbours[name] = [mi.heads.Head(h.layer, free[h][i]) for i, h in enumerate(heads)]
left = [preference_without(name, heads) for name, heads in duos.items()]
left_by_neighbours = [preference_without(name, heads) for name, heads in neighbours.items()]
claim("recur.needed", max(left), control=min(left_by_neighbours))

# %% [markdown]
# Section 5 matched by activations alone. If partners are the same part, they should also *write*
# alike, and the output weights had no say in the match. Take what each neuron writes to the logits,
# and ask how often a neuron's partner is nearer to it than the partner of the next recurring
# neuron. The control asks the same of neurons whose best match is poor; a half is chance.


# %%
recurs = recurring.nonzero()[:, 0]


def written(some_model, numbers):
    """What neurons write to all logits, each of length 1, [neuron d_vocab]."""
    logits = some_model.W_out.flatten(0, 1)[numbers] @ some_model.W_U
    return standard(logits.T).T


def nearer(chosen_ones):
    """How often a neuron's own partner writes more like it than the next one's partner does."""
    wins = []
    for name, (_, partner) in matches.items():
        mine, its = written(pocket, chosen_ones), written(pockets[name], partner[chosen_ones])
        wins.append(((mine * its).sum(1) > (mine * its.roll(1, 0)).sum(1)).float().mean())
    return sum(wins) / len(wins)


poor = (weakest_match < weakest_match.median()).nonzero()[::4, 0]
claim("recur.writes", nearer(recurs), control=nearer(poor))

# %%
claim.table()
