# ---
# title: Reading features
# minutes: 80
# ---

# %% [markdown]
# **The question.** A dictionary has a thousand units. What does one of them mean, how sure can we
# be, what does it *do*, and what does the dictionary get wrong?
#
# **You need** sparse autoencoders ([notebook 10](10_sparse_autoencoders.ipynb))
# and patching ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - read a unit's dashboard, and say how its strongest contexts mislead;
# - find units by text: those that fire here, that separate two sets, that point at a token;
# - write an explanation as a predicate and score it over the whole range of activations;
# - clamp, ablate and patch units, and find the few that carry a prediction;
# - name what a sparse autoencoder gets wrong, each with its number.
#
# A **unit** is one row of the dictionary, also called a latent, or a feature. A *feature* is what
# the model means, and the question is how well the one shows the other. Only in section 5, where
# neurons and heads are units as well, do we call the dictionary's own units features.

# %% [markdown]
# ## 1. A dictionary, and texts whose meaning is known
#
# The sparse autoencoder (SAE) reads the residual stream after the middle layer. For pocket a
# well-trained one comes with the suite; for any other model a small one is trained here.

# %%
from importlib.resources import files

from mi_data.pocket import generator as g

middle = model.cfg.n_layers // 2
site = f"blocks.{middle}.hook_resid_post"
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, 9000 + seed) for seed in range(70) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples, least=15)
tokens, real = labelled.tokens, labelled.real
print(f"{len(samples)} texts, {int(real.sum())} tokens, {len(labelled.labels)} labels")

# %%
steps = 250 if model.cfg.n_layers < 12 else 120  # a larger model gets less, to keep the time
small = mi.sae.Recipe("batchtopk", d_sae=2 * model.cfg.d_model, k=16, steps=steps, batch=512)
stream = mi.sae.Activations(model, site, tokens, keep=real)
small_sae = mi.sae.train(mi.sae.start(stream, small)).sae()
folder = files("mi_data") / "sae" / f"resid_post_{middle}"
committed = mi.model_id(model) == "pocket" and folder.is_dir()
sae = mi.sae.load(folder) if committed else small_sae
print(sae.d_sae, "units,", "committed" if committed else "trained here: expect less of it")

# %% [markdown]
# Activations of all units on all tokens, `[token, unit]`. The generator says what it meant by each
# token, so we know where to look first: for each label, the unit that detects it best, chosen on
# one half of the texts and scored on the other.

# %%
x = mi.sae.read_tokens(model, site, tokens, real)
acts = sae.encode(x)
graded = sorted(mi.sae.best_units(acts, labelled), key=lambda row: -row["f1"])
shown = [{key: row[key] for key in ("label", "unit", "precision", "recall", "f1", "base")}
         for row in graded]  # fmt: skip
mi.figures.table(shown, title="The unit that detects each label best", search=True)

# %% [markdown]
# ## 2. The dashboard
#
# First by hand, for the best detector of **S2**, the second mention of a name ("When Mary and John
# went out, *John* ..."): the three tokens on which it fires most, and what stands before them.

# %%
best = {row["label"]: row["unit"] for row in graded}
label = "S2" if "S2" in best else graded[0]["label"]
unit = best[label]
words = [model.tokenizer.decode([i]) for i in range(model.cfg.d_vocab)]
text, place = real.nonzero().T
for at in acts[:, unit].topk(3).indices.tolist():
    line = [words[i] for i in tokens[text[at], 1 : place[at] + 1].tolist()]
    print(f"{float(acts[at, unit]):.2f}", "".join(line[:-1]), "[", line[-1], "]")

# %% [markdown]
# A dashboard puts together what one needs to form a hypothesis *and to doubt it*:
#
# - the histogram of its activations: one clear group, or a long mixed tail?
# - the strongest texts, and then texts from further down;
# - the tokens whose logits its direction raises and lowers, read directly through the unembedding;
# - how much of its firing carries a label, how much of the label it fires on, and the base rate;
# - its neighbours in the dictionary.


# %%
def dashboard(unit):
    """The card of one unit."""
    found = mi.sae.report(model, sae, labelled, acts, unit)
    return mi.figures.unit_dashboard(
        found, title=f"Unit {unit} of {sae.d_sae}", subtitle=f"{mi.model_id(model)}, {site}"
    )


found = mi.sae.report(model, sae, labelled, acts, unit)
assert found.peak == float(acts[:, unit].max()) and found.unit == unit
listed = {label: unit} | {row["label"]: row["unit"] for row in graded[:12]}
first = {f"{name} ({number})": number for name, number in listed.items()}
mi.figures.explore(dashboard, unit=first, start={"unit": unit})

# %% [markdown]
# Read it from the bottom of the contexts to the top. In the strongest ones the story is plain. What
# is different about the weak ones? And which words does it promote: what often follows a repeated
# name, or the name itself?

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 1: examples from the whole range
# Return the indices of the examples at the given quantiles of a unit's *positive* activations: one
# is the strongest, zero the weakest that is above zero. Take the example whose rank is nearest.

# %% [markdown] tags=["hint"]
# Keep the indices with a positive activation, sort them from weak to strong. The quantile $q$ of
# $n$ is number $\mathrm{round}(q\,(n-1))$.


# %% tags=["exercise"]
def at_quantiles(acts, quantiles):
    """acts: [token], not negative; quantiles: list of floats  ->  list of indices into acts."""
    raise NotImplementedError


# %% tags=["solution"]
def at_quantiles(acts, quantiles):
    positive = (acts > 0).nonzero()[:, 0]
    order = positive[acts[positive].argsort()]
    return [int(order[round(q * (len(order) - 1))]) for q in quantiles]


# %% tags=["check"]
check.at_quantiles(at_quantiles)

# %% [markdown]
# ## 3. Searching by text
#
# **Which units fire on this prompt?** One picture: the strongest units of each token. Change the
# prompt in the box.


# %%
def firing(prompt):
    """The twelve units that fire most on a prompt, over its tokens."""
    ids = model.to_tokens(prompt)
    on = mi.sae.unit_activations(model, sae, ids)[0, 1:]
    top = on.amax(0).topk(12).indices
    return mi.figures.heatmap(
        on[:, top].T, x=[words[i] for i in ids[0, 1:]], y=[f"F{u}" for u in top.tolist()],
        xlabel="token", ylabel="unit", colorbar="activation", center=None,
        title="What fires where", subtitle=f"{mi.model_id(model)}, {site}",
    )  # fmt: skip


n_prompts = 16 if model.cfg.n_layers < 12 else 8  # fewer for a larger model
pairs = mi.prompts.ioi(model, n_prompts, seed=0)
mi.figures.explore(firing, prompt=pairs.clean[0])

# %% [markdown]
# **Which units separate two sets of prompts?** Reviews that praise against reviews that complain.
# Each text is described by the peak of every unit; the score is the difference of the means over
# the spread. The search sees one half of the texts, the other half judges.

# %%
reviews = [g.prompt("opinion", seed, "train") for seed in range(160)]
good = torch.tensor([review.labels["sentiment"] == "good" for review in reviews])
ids = model.to_tokens([review.text for review in reviews], padding_side="right")
on = mi.sae.unit_activations(model, sae, ids)
peaks = on.masked_fill((ids == model.tokenizer.bos_token_id)[..., None], 0).amax(1)


def held_out_auroc(groups):
    """AUROC, on the second half, of the unit that separates the first half of the texts best."""
    half = len(reviews) // 2
    one, other = peaks[:half][groups[:half]], peaks[:half][~groups[:half]]
    best_unit, apart = mi.sae.separating_units(one, other, 1)[0]
    score = peaks[half:, [best_unit]] * (1 if apart > 0 else -1)
    return best_unit, float(mi.sae.detection(score, good[half:]).auroc)


# %%
separating, auroc = held_out_auroc(good)
chance = [held_out_auroc(good[torch.randperm(160, generator=torch.Generator().manual_seed(i))])[1]
          for i in range(5)]  # fmt: skip
claim("feature_search.separates", auroc, control=sum(chance) / len(chance))
dashboard(separating)

# %% [markdown]
# Before you call it "the praise unit", look at what it fires on. A search returns what *separates
# these texts*, which may be a word that all texts of one set happen to hold.
#
# **Which units point at this token?** The direct logits of all units at once: how many standard
# deviations does the token stand out among all that the unit writes? We take the units that point
# most sharply at any one word, clamp each to its largest activation at the last position of prompts
# that have nothing to do with it, and watch the word's logit.

# %%
logits = mi.sae.direct_logits(model, sae, range(sae.d_sae))
sharpest = (logits / logits.std(-1, keepdim=True)).max(-1)
pointing = sharpest.values.topk(10).indices.tolist()
drawn = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(0)).tolist()
busy = [u for u in drawn if acts[:, u].max() > 0][: len(pointing)]


def rise(unit, token):
    """What a token's logit gains when a unit is clamped at the end, less the mean gain."""
    clamp = mi.sae.set_units(sae, {unit: float(acts[:, unit].max())}, [-1])
    with model.hooks(fwd_hooks=[(site, clamp)]), torch.no_grad():
        gain = model(pairs.clean_tokens)[:, -1] - plain
    return float((gain[:, token] - gain.mean(-1)).mean())


# %%
with torch.no_grad():
    plain = model(pairs.clean_tokens)[:, -1]
aims = [int(sharpest.indices[u]) for u in pointing]
gains = [rise(u, token) for u, token in zip(pointing, aims, strict=True)]
others = [rise(u, token) for u, token in zip(busy, aims, strict=True)]
mi.figures.bars(
    {"the unit that points at it": gains, "a random unit, clamped as well": others},
    [words[token] for token in aims], xlabel="token", ylabel="gain in logit",
    title="A unit that points at a word brings the word", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("feature_search.points_at", sum(gains) / len(gains), control=sum(others) / len(others))

# %% [markdown]
# ## 4. Judging an explanation
#
# ### How the top misleads
#
# Sort all tokens on which a unit fires by strength, cut them into five bands of equal size, and ask
# in each band how many carry the label that it detects best. Look at the left end of the lines.

# %%
detectors = [row for row in graded if row["f1"] > 0.5][:8] or graded[:8]
judged = {
    row["label"]: mi.sae.judge_explanation(acts[:, row["unit"]], labelled.flat(row["label"]),
                                           bands=5)
    for row in detectors if (acts[:, row["unit"]] > 0).sum() >= 20
}  # fmt: skip
mi.figures.lines(
    {name: part.precision for name, part in judged.items()},
    x=["weakest", "weak", "middle", "strong", "strongest"], xlabel="band of activation",
    ylabel="share that carries the label", title="Clear at the top, mixed below",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
bands = torch.stack([part.precision for part in judged.values()]).mean(0)
claim("explanation.top_misleads", bands[-1], control=bands[:3].mean())

# %% [markdown]
# Whoever reads the strongest contexts alone sees the right end only. Most of the firing is
# elsewhere.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: precision by band
# Sort the tokens on which a unit fires from weak to strong, cut them into `bands` parts with
# equally many tokens, and return in each the share for which the hypothesis holds.

# %% [markdown] tags=["hint"]
# `tensor_split` cuts a tensor into parts of (nearly) equal length. Zeros do not belong to any band.


# %% tags=["exercise"]
def precision_by_band(acts, holds, bands):
    """acts: [token]; holds: [token], bool  ->  [bands], from weak to strong."""
    raise NotImplementedError


# %% tags=["solution"]
def precision_by_band(acts, holds, bands):
    on = acts > 0
    in_order = holds[on][acts[on].argsort()]
    return torch.stack([part.float().mean() for part in in_order.tensor_split(bands)])


# %% tags=["check"]
check.precision_by_band(precision_by_band)

# %% [markdown]
# ### A hypothesis is a predicate
#
# Words are patient: "it fires on names" sounds right for almost any picture. Code is not. Each
# hypothesis about the unit of section 2 is a function of the token and the text before it, and gets
# a precision in every band *and* a recall.

# %%
from mi_data.pocket import lexicon

names = set(lexicon.NAMES)
hypotheses = {
    "a name": lambda before, word: word.strip() in names,
    "a name, for the first time": lambda before, word: word.strip() in names - set(before.split()),
    "a name that was there before": (
        lambda before, word: word.strip() in names and word.strip() in before
    ),
}
scored = {
    name: mi.sae.judge_explanation(acts[:, unit], mi.sae.predicate(tokens, real, words, holds))
    for name, holds in hypotheses.items()
}

# %%
rows = [
    {"hypothesis": name, "weakest": s.precision[0], "weak": s.precision[1],
     "strong": s.precision[2], "strongest": s.precision[3], "recall": s.recall, "base": s.base}
    for name, s in scored.items()
]  # fmt: skip
mi.figures.table(rows, title=f"Three explanations of unit {unit}: precision by band, and recall")

# %%
mine = scored["a name that was there before"]
claim("explanation.recall", mine.recall, control=scored["a name, for the first time"].recall)
claim("explanation.narrow", mine.precision[-1], control=mine.precision[0])

# %% [markdown]
# On pocket, "a name" is as precise at the top as the narrower hypothesis: the top *cannot* tell
# them apart. Recall can: the unit fires on a larger share of the names that were there before. And
# in the weaker bands the narrower one is wrong: there the unit fires on new names as well.

# %% [markdown]
# ### Ask the neighbours
#
# A test that needs no words. Take a token on which the unit fires, and the tokens whose activations
# are nearest to it, by the model's own measure. On what share of them does the unit fire, too? If
# it marks a real kind of thing, things of that kind should agree.

# %%
quarters = []
for row in detectors:
    consistency = mi.sae.neighbour_consistency(acts[:, row["unit"]], x)
    order = acts[:, row["unit"]][acts[:, row["unit"]] > 0].argsort()
    quarters.append([float(consistency[part].mean()) for part in order.tensor_split(4)])
by_quarter = torch.tensor(quarters)
by_chance = torch.tensor([float((acts[:, row["unit"]] > 0).float().mean()) for row in detectors])
mi.figures.heatmap(
    torch.cat([by_chance[:, None], by_quarter], 1), y=[f"{row['label']}" for row in detectors],
    x=["any token", "weakest", "weak", "strong", "strongest"], xlabel="quarter of its activations",
    ylabel="best unit for", colorbar="share of neighbours", center=None, limit=1, text=".2f",
    title="Do a token's neighbours fire, too?", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("explanation.neighbours", by_quarter[:, -1].mean(), control=by_quarter[:, 0].mean())

# %% [markdown]
# ## 5. What a unit does
#
# Reading is correlation. To know what a unit does, change it. To set unit $i$ to the value $v$, add
# $(v - f_i)\,W_{dec}[i]$ to the stream, and **leave the rest alone**, what the SAE cannot
# reconstruct included. By hand:

# %%
before = mi.sae.read_site(model, site, pairs.clean_tokens)
peak = sae.encode(before)[:, 1:].amax((0, 1))
muted = unit if peak[unit] > 0 else int(peak.argmax())  # the busiest, where that one is silent
active = sae.encode(before)[..., muted]
by_hand = before + (0.0 - active)[..., None] * sae.W_dec[muted]
after = mi.sae.set_units(sae, {muted: 0.0})(before, None)
assert torch.allclose(after, by_hand, atol=1e-5) and float(active.max()) > 0

# %% [markdown]
# That it *happened* has to be shown: the stream must have moved where the unit was active, along
# its direction, by its activation, and by nothing else. The usual shortcut, to run on the
# reconstruction with the unit at zero, also takes the SAE's error away everywhere.

# %%
f = sae.encode(before)
f[..., muted] = 0
moved, shortcut = (new - before + active[..., None] * sae.W_dec[muted]
                   for new in (after, sae.decode(f)))  # fmt: skip
stray, stray_shortcut = (float(part[:, 1:].norm(dim=-1).mean()) for part in (moved, shortcut))
claim("feature_cause.nothing_else", stray, control=stray_shortcut)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: clamp a unit
# Return the activations with unit `i` set to `value`, and all else, the error included, as it was.

# %% [markdown] tags=["hint"]
# How much of the unit is there already? The difference goes along its row of the decoder.


# %% tags=["exercise"]
def clamp_unit(x, f, W_dec, i, value):
    """x: [pos d_in], f: [pos d_sae] (the units on x), W_dec: [d_sae d_in]  ->  [pos d_in]"""
    raise NotImplementedError


# %% tags=["solution"]
def clamp_unit(x, f, W_dec, i, value):
    return x + (value - f[:, i, None]) * W_dec[i]


# %% tags=["check"]
check.clamp_unit(clamp_unit)

# %% [markdown]
# ### Attribution: many units at once
#
# Which units act on the answer of the indirect-object prompts? Ablating each takes a run for each.
# To first order one backward pass does: the activation, times the gradient of the logit difference
# along the unit's direction. A third way reads the **direct** path alone: activation times what the
# direction writes to the two answers' logits at the last position, past all later layers.

# %%
metric = mi.patching.LogitDiff(pairs.answer_tokens)
effects = mi.sae.attribute_to_units(model, sae, pairs.clean_tokens, metric)
by_gradient = effects.total()
right, wrong = pairs.answer_tokens.to(logits.device).unbind(1)
direct = (effects.acts[:, -1] * (logits[:, right] - logits[:, wrong]).T).mean(0)
strength = effects.acts.sum(1).mean(0)


def logit_diff(values, prompts=pairs):
    """Mean logit difference with some units set."""
    with model.hooks(fwd_hooks=[(site, mi.sae.set_units(sae, values))]), torch.no_grad():
        return float(
            mi.patching.LogitDiff(prompts.answer_tokens)(model(prompts.clean_tokens)).mean()
        )


# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: attribute to units
# From activations, gradients and the decoder: what each unit contributes to the metric, to first
# order, summed over positions. Positive means that the unit raises the metric.

# %% [markdown] tags=["hint"]
# How fast does the metric grow along a unit's direction? And how far along it are we?


# %% tags=["exercise"]
def unit_attribution(f, gradient, W_dec):
    """f: [pos d_sae], gradient: [pos d_in] of the metric at x, W_dec: [d_sae d_in]  ->  [d_sae]"""
    raise NotImplementedError


# %% tags=["solution"]
def unit_attribution(f, gradient, W_dec):
    return (f * (gradient @ W_dec.T)).sum(0)


# %% tags=["check"]
check.unit_attribution(unit_attribution)

# %% [markdown]
# Does the estimate hold? The units with the largest estimates and as many that are merely busy,
# each ablated for real.

# %%
leading = by_gradient.abs().topk(16).indices.tolist()
merely_busy = [u for u in strength.topk(40).indices.tolist() if u not in leading][:16]
chosen = leading + merely_busy
with torch.no_grad():
    whole = float(metric(model(pairs.clean_tokens)).mean())
measured = torch.tensor([whole - logit_diff({u: 0.0}) for u in chosen])
mi.figures.scatter(
    by_gradient[chosen], measured, identity=True, correlation=True,
    groups=["largest estimate"] * len(leading) + ["merely busy"] * len(merely_busy),
    labels=[f"F{u}" for u in chosen], xlabel="estimate from one backward pass",
    ylabel="measured by ablation", title="One backward pass finds the units that matter",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
against = {"gradient": by_gradient, "direct path": direct, "activation": strength}
agree = {name: float(torch.corrcoef(torch.stack([values[chosen].cpu(), measured]))[0, 1])
         for name, values in against.items()}  # fmt: skip
mi.figures.table([agree], title="Correlation with the measured effect of ablation")

# %%
claim("feature_cause.gradient", agree["gradient"], control=agree["activation"])
helping = by_gradient.topk(8).indices.tolist()
lost = [whole - logit_diff(dict.fromkeys(units[:8], 0.0)) for units in (helping, merely_busy)]
claim("feature_cause.ablation", lost[0], control=lost[1])

# %% [markdown]
# ### Patching units between two runs
#
# Ablation asks what breaks without a unit. Patching asks what a unit *carries*: take the run with
# the other giver, in which the model names the other person, and give some units the values that
# they have in the clean run. How much of the clean answer comes back?
#
# By hand: the best unit, at all positions, from the clean run into the corrupt one.

# %%
corrupt = pairs.corrupt_tokens
kinds_of_unit = ("features", "dimensions", "neurons", "heads")
ioi = {
    kind: mi.sae.restoration(model, kind, pairs.clean_tokens, corrupt, metric, sae=sae)
    for kind in kinds_of_unit
}
order = ioi["features"].order()
one = {order[0]: mi.sae.unit_activations(model, sae, pairs.clean_tokens)[..., order[0]]}
with model.hooks(fwd_hooks=[(site, mi.sae.set_units(sae, one))]), torch.no_grad():
    got = float(metric(model(corrupt)).mean())
low, high = ioi["features"].ends
assert abs((got - low) / (high - low) - ioi["features"].share(order[:1])) < 1e-4

# %% [markdown]
# And so on, best first. At the same place in the model we compare the plain coordinates of the
# stream, its **dimensions**; and units of the dictionary in random order, among those that differ
# between the runs at all.

# %%
differ = [u for u in drawn if ioi["features"].scores[u] != 0]
counts = [1, 2, 4, 8, 16, 32, 64, 128]
curves = {
    "features, best first": (ioi["features"], order),
    "dimensions, best first": (ioi["dimensions"], ioi["dimensions"].order()),
    "features, in random order": (ioi["features"], differ),
}
shares = {name: [run.share(units[:n]) for n in counts] for name, (run, units) in curves.items()}
mi.figures.lines(
    shares, x=[str(n) for n in counts], xlabel="units restored", ylabel="share of the gap closed",
    title="Few features carry the name", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
at = counts.index(32)
claim("feature_cause.few", shares["features, best first"][at],
      control=shares["features, in random order"][at])  # fmt: skip
claim("feature_cause.better_basis", shares["features, best first"][at],
      control=shares["dimensions, best first"][at])  # fmt: skip

# %% [markdown]
# ### The small circuit of one fact
#
# One prompt, its twin with another subject, and the twelve features that restore most. (Of eight
# facts we show the one whose twin differs least.) The table says where each differs most between
# the runs, what it fires on most elsewhere, and which words it promotes. Which of them are *about*
# the subject, and which already say something about the answer?

# %%
facts = mi.prompts.facts(model, n_prompts, seed=0)


def carriers(i):
    """The restoration of one fact, and its features from the best on."""
    only = facts.select([i])
    judge = mi.patching.LogitDiff(only.answer_tokens)
    run = mi.sae.restoration(model, "features", only.clean_tokens, only.corrupt_tokens, judge,
                             sae=sae)  # fmt: skip
    return run, run.order()


circuits = [carriers(i) for i in range(8)]
changed = (facts.clean_tokens != facts.corrupt_tokens).sum(1).tolist()
which = min(range(8), key=lambda i: changed[i])
run, carrying = circuits[which]
for text, answer in ((facts.clean, facts.answers), (facts.corrupt, facts.wrong)):
    print(f"{text[which]} →{answer[which]}")

# %%
here, there = (mi.sae.unit_activations(model, sae, prompts[[which]])[0]
               for prompts in (facts.clean_tokens, facts.corrupt_tokens))  # fmt: skip
text_tokens = tokens[real]
rows = []
for u in carrying[:12]:
    at = int((here - there)[:, u].abs().argmax())
    fires = acts[:, u].topk(3).indices
    rows.append({
        "unit": u, "estimate": run.scores[u], "at": words[facts.clean_tokens[which, at]],
        "clean": here[at, u], "corrupt": there[at, u],
        "fires most on": ", ".join(words[i].strip() for i in text_tokens[fires].tolist()),
        "promotes": ", ".join(words[i].strip() for i in logits[u].topk(4).indices.tolist()),
    })  # fmt: skip
mi.figures.table(rows, title="The features that carry one fact", subtitle=mi.model_id(model))

# %% [markdown]
# On pocket the answer is sobering: all of them act at the subject, and hardly one is about it. Most
# fire hardest on something else, such as names of people, and promote words that have nothing to do
# with the answer. The fact is carried by a *combination* of units that each do other work as well.
#
# Is this *this* fact's combination, or would the features of any fact do? Each fact is restored by
# its own sixteen, and by the sixteen of another fact.

# %%
own = [run.share(order[:16]) for run, order in circuits]
foreign = [run.share(circuits[(i + 1) % 8][1][:16]) for i, (run, _) in enumerate(circuits)]
claim("feature_cause.fact", sum(own) / len(own), control=sum(foreign) / len(foreign))

# %% [markdown]
# ### Features, neurons or heads?
#
# How many units of each kind close a given share of the gap? Best first, and at random. A dash says
# that all of them together do not.

# %%
fact_metric = mi.patching.LogitDiff(facts.answer_tokens)
fact = {
    kind: mi.sae.restoration(model, kind, facts.clean_tokens, facts.corrupt_tokens, fact_metric,
                             sae=sae)
    for kind in kinds_of_unit
}  # fmt: skip
needed = []
for kind in kinds_of_unit:
    order = torch.randperm(len(ioi[kind].scores), generator=torch.Generator().manual_seed(0))
    order = [u for u in order.tolist() if ioi[kind].scores[u] != 0]
    needed.append({
        "kind": kind, "units that differ": len(order), "names, 80%": ioi[kind].needed(0.8),
        "names, 80%, random": ioi[kind].needed(0.8, order), "facts, 50%": fact[kind].needed(0.5),
    })  # fmt: skip
mi.figures.table(needed, title="Units needed", subtitle=mi.model_id(model))

# %%
count = {row["kind"]: row["names, 80%"] or row["units that differ"] for row in needed}
claim("feature_units.neurons", count["features"], control=count["neurons"])
claim("feature_units.heads", count["features"], control=count["heads"])

# %% [markdown]
# On pocket the fewest are the heads. That does not make them the best units: a head moves many
# numbers at once, and the same head moves other things in other prompts. The count says how
# *concentrated* a behaviour is in each kind of unit, not how well we understand one of them.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 5: how many are needed?
# Given the metric with the best 0, 1, 2, ... units restored, return the smallest number that closes
# `share` of the gap between `corrupt` and `clean`, or -1 when no number does.

# %% [markdown] tags=["hint"]
# Turn the metric into a share of the gap first. The gap need not begin at zero.


# %% tags=["exercise"]
def units_needed(restored, corrupt, clean, share):
    """restored: [n + 1], metric with the best 0 ... n units; corrupt, clean: float  ->  int"""
    raise NotImplementedError


# %% tags=["solution"]
def units_needed(restored, corrupt, clean, share):
    reached = ((restored - corrupt) / (clean - corrupt) >= share).nonzero()
    return int(reached[0]) if len(reached) else -1


# %% tags=["check"]
check.units_needed(units_needed)

# %% [markdown]
# ## 6. What sparse autoencoders get wrong
#
# ### The error matters
#
# What the SAE leaves out is small, but is it noise? Run the indirect-object prompts on the
# reconstruction, and on the stream plus a *random* error that is as long at every token.


# %%
def with_noise(act, hook):
    """The stream with a random error, as long as the reconstruction's."""
    noise = torch.randn(act.shape, generator=torch.Generator().manual_seed(1)).to(act)
    size = (sae(act) - act).norm(dim=-1, keepdim=True)
    size[:, 0] = 0
    return act + noise / noise.norm(dim=-1, keepdim=True) * size


with torch.no_grad(), mi.sae.splice(model, sae):
    spliced = float(metric(model(pairs.clean_tokens)).mean())
with torch.no_grad(), model.hooks(fwd_hooks=[(site, with_noise)]):
    noisy = float(metric(model(pairs.clean_tokens)).mean())
claim("feature_limits.error", whole - spliced, control=whole - noisy)

# %% [markdown]
# Facts show it from another side: with *every* feature restored, part of the answer is still
# missing. It travels in the error. The control restores every dimension instead, and loses nothing.

# %%
claim("feature_limits.dark", 1 - fact["features"].share(range(sae.d_sae)),
      control=abs(1 - fact["dimensions"].share(range(model.cfg.d_model))))  # fmt: skip

# %% [markdown]
# ### A label that a probe reads, and no unit does
#
# A linear probe (ridge regression; [notebook 09](09_superposition.ipynb)) against the best unit,
# for every label, both judged on texts that they have not seen. Points far above the line are known
# to the model, in one direction, and to no unit.

# %%
first_half = real.nonzero()[:, 0] < len(real) // 2


def probe_f1(label):
    """F1 on the second half of the texts of a linear probe fitted on the first."""
    y, mean = labelled.flat(label).to(x.device), x[first_half].mean(0)
    X = x[first_half] - mean
    gram = X.T @ X + 10 * torch.eye(x.shape[1], device=x.device)
    score = (x - mean) @ torch.linalg.solve(gram, X.T @ y[first_half].float())
    cut = mi.sae.detection(score[first_half, None], y[first_half]).threshold
    found = mi.sae.detection(score[~first_half, None], y[~first_half], threshold=cut)
    return float(found.f1)


# %%
probes = {row["label"]: probe_f1(row["label"]) for row in graded}
gap = sorted(graded, key=lambda row: row["f1"] - probes[row["label"]])
mi.figures.scatter(
    [row["f1"] for row in gap], [probes[row["label"]] for row in gap], identity=True,
    labels=[row["label"] for row in gap], named=[row["label"] for row in gap[:5]],
    xlabel="F1 of the best unit", ylabel="F1 of a probe", title="What probes find and units do not",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
missed = gap[:5]
claim("feature_limits.missed", sum(probes[row["label"]] for row in missed) / 5,
      control=sum(row["f1"] for row in missed) / 5)  # fmt: skip

# %% [markdown]
# ### Splitting and absorption
#
# The information is not lost: it is spread over many units. Compare a narrow dictionary, trained
# above, with the large one: how many units of the large one fire (nearly) only where a given narrow
# unit fires? The control shuffles the narrow unit's activations over the tokens. (This takes a
# large dictionary. Where the one of section 1 was trained here, it is compared with itself.)


# %%
def parts(narrow, wide, at_least=0.7):
    """Mean number of wide units that fire within a narrow one's tokens."""
    n, w = (narrow > 0).float(), (wide > 0).float()
    often = (w.sum(0) >= 8)[:, None] & (n.sum(0) >= 20)[None]
    inside = ((w.T @ n) / w.sum(0).clamp_min(1)[:, None] > at_least) & often
    return float(inside.sum() / often.any(0).sum())


narrow = small_sae.encode(x)
mixed = narrow[torch.randperm(len(narrow), generator=torch.Generator().manual_seed(0))]
claim("feature_limits.splitting", parts(narrow, acts), control=parts(mixed, acts))

# %% [markdown]
# **Absorption** [@chanin2024absorption] is the treacherous form. The best unit of a label has holes
# that are not random: on some tokens it is silent, because a *more specific* unit fires and carries
# the label's direction on the side. Take the labels of which the best unit finds only a part. Where
# it is silent, how much does the strongest *other* unit write along the probe's direction, against
# what the unit itself writes where it fires? The control asks the same on tokens without the label.

# %%
holes, without_label = [], []
for row in graded:
    y = labelled.flat(row["label"]).to(x.device)
    fires = acts[:, row["unit"]] > 0
    if not 0.2 < float(fires[y].float().mean()) < 0.8:
        continue
    direction = x[y].mean(0) - x[~y].mean(0)
    written = acts * (sae.W_dec @ (direction / direction.norm()))
    usual = written[y & fires, row["unit"]].mean()
    holes.append(float(written[y & ~fires].amax(1).mean() / usual))
    without_label.append(float(written[~y].amax(1).mean() / usual))
claim("feature_limits.absorption", torch.tensor(holes).median() if holes else 0,
      control=torch.tensor(without_label).median() if holes else 0)  # fmt: skip

# %% [markdown]
# So "the unit did not fire" does not mean "the feature was not there".

# %% [markdown]
# ### A number is no set of switches
#
# A dictionary is made of things that are there or not. A year is a position on a line. Texts about
# years, with the two digits of the first year as the truth. A probe reads it off in one direction.
# What do units do?

# %%
spans = [g.sample("years", 20_000 + seed) for seed in range(240)]
years = mi.sae.label_tokens(model, spans)
at_start = years.labels["start"]
at_start = at_start & (at_start.cumsum(1) == at_start.sum(1, keepdim=True))  # its last token
kept = at_start.any(1)
year = torch.tensor([float(s.labels["start"]) for s in spans])[kept]
at_years = mi.sae.read_tokens(model, site, years.tokens, at_start)
tiles = sae.encode(at_years)
often = [u for u in range(sae.d_sae) if 8 <= int((tiles[:, u] > 0).sum()) < len(year) / 2]
often = often or tiles.sum(0).topk(12).indices.tolist()  # none: the busiest ones
narrowest = sorted(often, key=lambda u: float(year[tiles[:, u].cpu() > 0].std().nan_to_num(99)))
pieces = sorted(narrowest[:12], key=lambda u: float(year[tiles[:, u].cpu() > 0].mean()))

# %% [markdown]
# The twelve units that keep to the narrowest stretch of years, and how strongly each fires in every
# decade, relative to its own best one.

# %%
decade = torch.nn.functional.one_hot((year // 10).long(), 10).float()
by_decade = (decade.T @ tiles[:, pieces].cpu()) / decade.sum(0).clamp_min(1)[:, None]
mi.figures.heatmap(
    (by_decade / by_decade.amax(0).clamp_min(1e-6)).T, center=None, limit=1,
    x=[f"{d}0 to {d}9" for d in range(10)], y=[f"F{u}" for u in pieces], xlabel="year",
    ylabel="unit", colorbar="mean activation", title="Units cut the line of years into pieces",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
even = torch.arange(len(year)) % 2 == 0


def r_squared(X):
    """Squared correlation with the year on odd texts, of ridge regression on even ones."""
    X, target = (X - X[even].mean(0)).cpu(), year - year[even].mean()
    gram = X[even].T @ X[even] + torch.eye(X.shape[1]) * X[even].square().sum() / len(X) / 100
    guess = X[~even] @ torch.linalg.solve(gram, X[even].T @ target[even])
    return float(torch.corrcoef(torch.stack([guess, target[~even]]))[0, 1].nan_to_num() ** 2)


def fit(u):
    """Squared correlation of a unit with the year, on even texts."""
    return float(torch.corrcoef(torch.stack([tiles[even, u].cpu(), year[even]]))[0, 1] ** 2)


nearest_to_line = max((u for u in often if tiles[even, u].max() > 0), key=fit, default=0)
claim("feature_limits.line", r_squared(tiles[:, [nearest_to_line]]), control=r_squared(at_years))

# %% [markdown]
# ### Features of the data, not of the model
#
# The control that every finding of this notebook needs: the same architecture with random weights.
# An SAE trained on *its* stream in the same way explains as much of the variance, or more. Its
# units look tidy, too. So neither is evidence that we have found what the model has *learned*.

# %%
raw = mi.untrained(model, seed=0)
raw_stream = mi.sae.Activations(raw, site, tokens, keep=real)
raw_sae = mi.sae.train(mi.sae.start(raw_stream, small)).sae()
raw_x = mi.sae.read_tokens(raw, site, tokens, real)
explained = [mi.sae.fidelity(one, stream_x).explained_variance
             for one, stream_x in ((raw_sae, raw_x), (small_sae, x))]  # fmt: skip
claim("feature_limits.untrained_explains", explained[0], control=explained[1])
dashboard_of = mi.sae.report(raw, raw_sae, labelled, raw_sae.encode(raw_x), 0)
mi.figures.unit_dashboard(dashboard_of, title="A unit of a model that has learned nothing")

# %% [markdown]
# What tells them apart is the *truth*: labels that depend on what the text means.

# %%
truth = [
    sum(row["f1"] for row in mi.sae.best_units(values, labelled)) / len(graded)
    for values in (narrow, raw_sae.encode(raw_x))
]
claim("feature_limits.truth_tells", truth[0], control=truth[1])

# %% [markdown]
# ## Summary
#
# - A dashboard is a generator of hypotheses. Its top contexts are its most flattering part.
# - An explanation is a predicate with a precision in every band and a recall. Several predicates
#   fit the top; few fit the range.
# - Units act: attribution by one backward pass finds those that matter, ablation confirms it, and
#   patching says what they carry. Every such number needs its random units beside it.
# - Few features carry a behaviour, fewer than dimensions or neurons. Heads are fewer still, being
#   larger.
# - SAEs leave an error that is no noise, cut some concepts into many units, hide some inside
#   others, chop lines into pieces, and look tidy on a model that knows nothing.
#
# **What we have not shown.** That any unit *is* a feature of the model. Pocket's labels are ours;
# the model may cut its world in other ways. And one SAE of one layer is one view of it.
#
# ## Where to read on
#
# - The dashboards of the field, and how explanations are judged:
#   [@bricken2023monosemanticity; @cunningham2023sparse].
# - Scoring dictionaries by what they are good for: [@karvonen2025saebench; @gao2024scaling].
# - Absorption: [@chanin2024absorption].
# - From features to circuits: [@ameisen2025tracing; @lindsey2025biology; @dunefsky2024transcoders].
# - Published dictionaries of GPT-2 small: [@bloom2024gpt2], with their dashboards on
#   [Neuronpedia](https://www.neuronpedia.org/gpt2-small).

# %%
claim.table()
