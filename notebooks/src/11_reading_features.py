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
# - write an explanation as a predicate and score it over the whole range of activations, or let a
#   search write it and say how far it flatters (appendix A);
# - clamp, ablate and patch units, and find the few that carry a prediction;
# - name what a sparse autoencoder gets wrong, and where that was measured.
#
# A **unit** is one row of the dictionary, also called a latent, or a feature. A *feature* is what
# the model means, and the question is how well the one shows the other. Only from section 5 on,
# where neurons and heads are units as well, do we call the dictionary's own units features.

# %% [markdown] short=true
# ## 1. A dictionary, and texts whose meaning is known
#
# The sparse autoencoder (SAE) reads the residual stream after the middle layer. For pocket a
# well-trained one comes with the suite; for any other model a small one is trained here, for a
# moment and on the very texts that it is read on below.

# %% short=true
from dataclasses import replace
from importlib.resources import files

from mi_data.pocket import generator as g

middle = model.cfg.n_layers // 2
place = ("resid_post", middle)
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, 9000 + seed) for seed in range(70) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples, least=15)
tokens, real = labelled.tokens, labelled.real
print(f"{len(samples)} texts, {int(real.sum())} tokens, {len(labelled.labels)} labels")

# %% short=true
folder = files("mi_data") / "sae" / f"resid_post_{middle}"
committed = mi.model_id(model) == "pocket"
recipe = mi.sae.Recipe(
    "batchtopk", d_sae=2 * model.cfg.d_model, k=16, steps=200, batch=512, lr=3e-3
)
x = mi.sae.read_tokens(model, place, tokens, real)
if committed:
    sae = mi.sae.load(folder, device=model.cfg.device)
else:
    sae = mi.sae.train(mi.sae.start(mi.sae.Vectors(x), recipe), progress=False).sae()
    sae = replace(sae, hook=mi.sites.hook_name(place), model_id=mi.model_id(model))
print(sae.d_sae, "units,", "committed" if committed else "trained here: expect less of it")

# %% [markdown] short=true
# Activations of all units on all tokens, `[token, unit]`. The generator says what it meant by each
# token, so we know where to look first: for each label, the unit that detects it best, chosen on
# one half of the texts and scored on the other.

# %% short=true
acts = sae.encode(x)
graded = sorted(mi.sae.best_units(acts, labelled), key=lambda row: -row["f1"])
shown = [{key: row[key] for key in ("label", "unit", "precision", "recall", "f1", "base")}
         for row in graded]  # fmt: skip
mi.figures.table(shown, title="The unit that detects each label best", search=True)

# %% [markdown] short=true
# ## 2. The dashboard
#
# First by hand, for the best detector of **S2**, the second mention of a name ("When Mary and John
# went out, *John* ..."): the three tokens on which it fires most, and what stands before them.

# %% short=true
best = {row["label"]: row["unit"] for row in graded}
label = "S2" if "S2" in best else graded[0]["label"]
unit = best[label]
words = [model.tokenizer.decode([i]) for i in range(model.cfg.d_vocab)]
text, position = real.nonzero().T
for at in acts[:, unit].topk(3).indices.tolist():
    line = [words[i] for i in tokens[text[at], 1 : position[at] + 1].tolist()]
    print(f"{float(acts[at, unit]):.2f}", "".join(line[:-1]), "[", line[-1], "]")

# %% [markdown] short=true
# A dashboard puts together what one needs to form a hypothesis *and to doubt it*:
#
# - the histogram of its activations: one clear group, or a long mixed tail?
# - the strongest texts, and then texts from further down;
# - the tokens whose logits its direction raises and lowers, read directly through the unembedding;
# - how much of its firing carries a label, how much of the label it fires on, and the base rate;
# - its neighbours in the dictionary.


# %% short=true
def dashboard(unit):
    """The card of one unit."""
    found = mi.sae.report(model, sae, labelled, acts, unit)
    return mi.figures.unit_dashboard(
        found, title=f"Unit {unit} of {sae.d_sae}", subtitle=f"{mi.model_id(model)}, {sae.hook}"
    )


found = mi.sae.report(model, sae, labelled, acts, unit)
assert found.peak == float(acts[:, unit].max()) and found.unit == unit
listed = {label: unit} | {row["label"]: row["unit"] for row in graded[:12]}
first = {f"{name} ({number})": number for name, number in listed.items()}
mi.figures.explore(dashboard, unit=first, start={"unit": unit})

# %% [markdown] short=true
# Read it from the bottom of the contexts to the top. In the strongest ones the story is plain. What
# is different about the weak ones? And which words does it promote: what often follows a repeated
# name, or the name itself?

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
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

# %% [markdown] short=true
# ## 3. Searching by text
#
# **Which units fire on this prompt?** One picture: the strongest units of each token. Change the
# prompt in the box.


# %% short=true
def firing(prompt):
    """The twelve units that fire most on a prompt, over its tokens."""
    ids = model.to_tokens(prompt)
    on = mi.sae.unit_activations(model, sae, ids)[0, 1:]
    top = on.amax(0).topk(12).indices
    return mi.figures.heatmap(
        on[:, top].T, x=[words[i] for i in ids[0, 1:]], y=[f"F{u}" for u in top.tolist()],
        xlabel="token", ylabel="unit", colorbar="activation", center=None,
        title="What fires where", subtitle=f"{mi.model_id(model)}, {sae.hook}",
    )  # fmt: skip


n_prompts = mi.models.by_size(model, 16, 8)
pairs = mi.prompts.ioi(model, n_prompts, seed=0)
mi.figures.explore(firing, prompt=pairs.clean[0])

# %% [markdown]
# **Which units separate two sets of prompts?** Texts that praise or end well against texts that
# complain or end badly: reviews of things, and short stories of what happened to a person.
# Each text is described by the peak of every unit; the score is the difference of the means over
# the spread. The search sees one half of the texts, the other half judges. The same search goes
# through the neurons of the layer, and through single words.

# %%
reviews = [g.prompt("opinion", seed, "train") for seed in range(160)]
good = torch.tensor([review.labels["sentiment"] == "good" for review in reviews])
ids = model.to_tokens([review.text for review in reviews], padding_side="right")
blank = (ids == model.tokenizer.bos_token_id)[..., None]
neurons = mi.sites.read(model, ids, [("mlp_post", middle)])[("mlp_post", middle)]
peaks = {
    "unit": mi.sae.unit_activations(model, sae, ids).masked_fill(blank, 0).amax(1),
    "neuron": neurons.masked_fill(blank, float(neurons.min())).amax(1),
    "word": torch.zeros(len(ids), model.cfg.d_vocab).to(neurons).scatter_(1, ids, 1.0),
}


# %%
def search(peaks):
    """What separates the first half of the texts best, and its AUROC on the second half."""
    half = len(reviews) // 2
    one, other = peaks[:half][good[:half]], peaks[:half][~good[:half]]
    best, apart = mi.sae.separating_units(one, other, 1)[0]
    score = peaks[half:, [best]] * (1 if apart > 0 else -1)
    return best, float(mi.sae.detection(score, good[half:]).auroc)


result = {kind: search(values) for kind, values in peaks.items()}
print({kind: (words[found] if kind == "word" else found, round(auroc, 3))
       for kind, (found, auroc) in result.items()})  # fmt: skip
dashboard(result["unit"][0])

# %% [markdown]
# On pocket no single word does it, but a *neuron* does it as well: to separate two sets is no merit
# of a dictionary by itself. (In SmolLM2 a neuron does better, but that dictionary was trained for a
# moment.) And before you call it "the praise unit", look at what else it fires on.
#
# **Which units point at this token?** The direct logits of all units at once: how many standard
# deviations does the token stand out among all that the unit writes? We take the units that point
# most sharply at any one word, clamp each to its largest activation at the last position of prompts
# that have nothing to do with it, and watch the word's logit. That it rises is nearly algebra. How
# *much* of what the direction writes arrives is not: later layers read it too, and may undo it. And
# the last LayerNorm takes a share: the direct path is reckoned at the scale of the run as it was,
# and a clamp may make the stream longer. The two are not told apart here.

# %%
logits = mi.sae.direct_logits(model, sae, range(sae.d_sae))
sharpest = (logits / logits.std(-1, keepdim=True)).max(-1)
pointing = sharpest.values.topk(10).indices.tolist()
drawn = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(0)).tolist()
last = ("resid_post", model.cfg.n_layers - 1)
with torch.no_grad():
    plain = model(pairs.clean_tokens)[:, -1]
size = mi.sites.read(model, pairs.clean_tokens, [last])[last][:, -1].var(-1, correction=0).sqrt()


def rise(unit, token):
    """What a token's logit gains when a unit is clamped at the end, less the mean gain."""
    peak = {unit: float(acts[:, unit].max())}
    with mi.sae.set_units(model, sae, peak, positions=[-1]), torch.no_grad():
        gain = model(pairs.clean_tokens)[:, -1] - plain
    return float((gain[:, token] - gain.mean(-1)).mean())


# %%
aims = [int(sharpest.indices[u]) for u in pointing]
direct = [float((logits[u, token] * acts[:, u].max() / size).mean())
          for u, token in zip(pointing, aims, strict=True)]  # fmt: skip
gains = [rise(u, token) for u, token in zip(pointing, aims, strict=True)]
others = [rise(u, token) for u, token in zip(pointing, aims[1:] + aims[:1], strict=True)]
claim("feature_search.points_at", sum(gains) / sum(direct),
      control=sum(map(abs, others)) / sum(direct))  # fmt: skip
figures.bars(
    {"its word": gains, "its word, by the direct path alone": direct,
     "the next unit's word": others},
    [words[token] for token in aims], xlabel="the word a unit points at", ylabel="gain in logit",
    title="A unit that points at a word brings the word",
)  # fmt: skip

# %% [markdown] short=true
# ## 4. Judging an explanation
#
# ### How the top misleads
#
# For each label take the unit whose *firing*, at any strength, detects it best on the first half of
# the texts. On the other half sort the tokens on which it fires by strength, cut them into five
# bands of equal size, and ask in each band how many carry the label. (Only labels that a unit
# detects with an F1 above one half are shown.)

# %% short=true
fired = mi.sae.best_units((acts > 0).float(), labelled)
fired = sorted(fired, key=lambda row: -row["f1"])
detectors = [row for row in fired if row["f1"] > 0.5] or fired[:8]
second = text.to(acts.device) >= len(samples) // 2
judged, parts = {}, []
for row in detectors:
    on, holds = acts[second, row["unit"]], labelled.flat(row["label"])[second.cpu()]
    if (on > 0).sum() >= 20:
        judged[row["label"]] = mi.sae.judge_explanation(on, holds, bands=5)
        parts.append([part.sum() / on.sum() for part in on[on > 0].sort().values.tensor_split(5)])

# %% short=true
bands = torch.stack([part.precision for part in judged.values()]).mean(0)
claim("explanation.top_misleads", bands[-1], control=bands.mean())
print("share of all activation, from weak to strong:", torch.tensor(parts).mean(0).numpy().round(2))
figures.lines(
    {name: part.precision for name, part in judged.items()},
    x=["weakest", "weak", "middle", "strong", "strongest"], xlabel="band of activation",
    ylabel="share that carries the label",
    title="The weakest firing carries the label less often than the middle",
)  # fmt: skip

# %% [markdown] short=true
# Whoever reads the strongest contexts alone sees the right end only, and takes it for the whole.
# They mislead in another way, too: in another set of texts the strongest contexts of the same unit
# may show another pattern, as was found for neurons of BERT [@bolukbasi2021illusion]. (To be fair
# to the unit: the weak bands hold little of its activation.) And some lines *fall* at the right
# end: what such a unit fires on most is something else than the label that it detects best.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
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

# %% [markdown] short=true
# ### A hypothesis is a predicate
#
# Words commit to little: "it fires on names" sounds right for almost any picture. At scale, models
# write such words, and are scored by how well another model, told the words, guesses where a unit
# fires [@bills2023explain; @paulo2024explain]. We write code, which has no choice but to be exact.
# Each hypothesis about the unit of section 2 is a function of the token and the text before it, and
# gets a precision in every band *and* a recall.

# %% short=true
import re

from mi_data.pocket import lexicon

names = set(lexicon.NAMES)


def seen(before):
    """The words of the text before a token."""
    return set(re.findall(r"\w+", before))


hypotheses = {
    "a name": lambda before, word: word.strip() in names,
    "a name, for the first time": lambda before, word: word.strip() in names - seen(before),
    "a name that was there before": lambda before, word: word.strip() in names & seen(before),
}
holds = {name: mi.sae.predicate(tokens, real, words, it) for name, it in hypotheses.items()}
every, new, again = holds.values()
assert torch.equal(new ^ again, every)  # a name is either new or not

# %% short=true
scored = {name: mi.sae.judge_explanation(acts[:, unit], where) for name, where in holds.items()}
rows = [
    {"hypothesis": name, "weakest": s.precision[0], "weak": s.precision[1],
     "strong": s.precision[2], "strongest": s.precision[3], "recall": s.recall, "base": s.base}
    for name, s in scored.items()
]  # fmt: skip
mi.figures.table(rows, title=f"Three explanations of unit {unit}: precision by band, and recall")

# %% [markdown] short=true
# On pocket "a name" is as precise at the top as "a name that was there before": the top *cannot*
# tell them apart. It could not be less precise, for it holds wherever the narrower one does. So
# precision alone never speaks against the vaguer explanation. Recall does: the unit fires on a
# larger share of the names that were there before than of all names. And below the top both are
# often wrong: there the unit fires on new names as well, and on much that is no name at all.

# %% [markdown]
# ## 5. What a unit does
#
# Reading is correlation. To know what a unit does, change it. To set unit $i$ to the value $v$, add
# $(v - f_i)\,W_{dec}[i]$ to the stream, and **leave the rest alone**, what the SAE cannot
# reconstruct included. By hand:

# %%
before = mi.sites.read(model, pairs.clean_tokens, [place])[place]
peak = sae.encode(before)[:, 1:].amax((0, 1))
muted = unit if peak[unit] > 0 else int(peak.argmax())  # the busiest, where that one is silent
active = sae.encode(before)[..., muted]
by_hand = before + (0.0 - active)[..., None] * sae.W_dec[muted]
with mi.sae.set_units(model, sae, {muted: 0.0}):
    after = mi.sites.read(model, pairs.clean_tokens, [place])[place]
assert torch.allclose(after[:, 1:], by_hand[:, 1:], atol=1e-5) and float(active[:, 1:].max()) > 0

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
assert stray < 1e-4 < stray_shortcut
print(f"moved besides: {stray:.0e}; by the shortcut: {stray_shortcut:.2f}")

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
# along the unit's direction; the reconstruction's error stays in, as in [@marks2024feature]. A
# third way reads the **direct** path alone: activation times what the direction writes to the two
# answers' logits at the last position, past all later layers.

# %%
metric = mi.patching.LogitDiff(pairs.answer_tokens)
effects = mi.sae.attribute_to_units(model, sae, pairs.clean_tokens, metric)  # BOS is spared
by_gradient = effects.total()
right, wrong = pairs.answer_tokens.to(logits.device).unbind(1)
direct = (effects.acts[:, -1] * (logits[:, right] - logits[:, wrong]).T).mean(0)
strength = effects.acts.sum(1).mean(0)


def logit_diff(values, prompts=pairs):
    """Mean logit difference with some units set."""
    with mi.sae.set_units(model, sae, values), torch.no_grad():
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
# Does the estimate hold? The units with the largest estimates, and twice as many at random of all
# that are active on these prompts, each ablated for real. (That a third of them were chosen by the
# estimate helps it below, where it is compared with other estimates on the same units. And the
# direct path says nothing of a unit that is silent at the last position.)

# %%
leading = by_gradient.abs().topk(16).indices.tolist()
at_random = [u for u in drawn if strength[u] > 0 and u not in leading][:32]
chosen = leading + at_random
with torch.no_grad():
    whole = float(metric(model(pairs.clean_tokens)).mean())
measured = torch.tensor([whole - logit_diff({u: 0.0}) for u in chosen])
figures.scatter(
    by_gradient[chosen], measured, identity=True, correlation=True,
    groups=["largest estimate"] * len(leading) + ["at random"] * len(at_random),
    labels=[f"F{u}" for u in chosen], xlabel="estimate from one backward pass",
    ylabel="measured by ablation", title="One backward pass finds the units that matter",
)  # fmt: skip

# %%
against = {"gradient": by_gradient, "direct path": direct, "activation": strength}


def agreement(one, other):
    """Spearman's correlation: that of the ranks; equal values share one."""
    ranks = torch.stack([(v.cpu()[:, None] - v.cpu()).sign().sum(1) for v in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


agree = {name: agreement(values[chosen], measured) for name, values in against.items()}
claim("feature_cause.gradient", agree["gradient"], control=agree["direct path"])
mi.figures.table([agree], title="Rank correlation with the measured effect of ablation")

# %% [markdown]
# Together, on prompts that had no part in choosing them: the eight units that help most by the
# gradient, and the eight that the direct path names. What share of the logit difference goes?

# %%
fresh = mi.prompts.ioi(model, n_prompts, seed=1)
helping = by_gradient.topk(8).indices.tolist()
with torch.no_grad():
    there = float(mi.patching.LogitDiff(fresh.answer_tokens)(model(fresh.clean_tokens)).mean())
by_direct = direct.topk(8).indices.tolist()
lost = [1 - logit_diff(dict.fromkeys(units, 0.0), fresh) / there for units in (helping, by_direct)]
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
V = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2]
signed, zeros = torch.cat([V, -V]), torch.zeros(2 * len(V)).to(x)
turned = mi.sae.Sae(
    "relu", signed.T, zeros, signed, x.mean(0), hook=sae.hook, model_id=sae.model_id
)
assert torch.allclose(turned(x), x, atol=1e-4)  # all directions together leave nothing out


def restorations(clean, corrupt, metric):
    """The restoration of each kind of unit; principal directions go as a dictionary, too."""
    found = {kind: mi.sae.restoration(model, kind, clean, corrupt, metric, sae=sae)
             for kind in ("features", "dimensions", "neurons", "heads")}  # fmt: skip
    turn = mi.sae.restoration(model, "features", clean, corrupt, metric, sae=turned)
    return found | {"principal directions": turn}


# %%
ioi = restorations(pairs.clean_tokens, corrupt, metric)
order = ioi["features"].order()
one = {order[0]: mi.sae.unit_activations(model, sae, pairs.clean_tokens)[..., order[0]]}
with mi.sae.set_units(model, sae, one), torch.no_grad():
    got = float(metric(model(corrupt)).mean())
low, high = ioi["features"].ends
assert abs((got - low) / (high - low) - ioi["features"].share(order[:1])) < 1e-4

# %% [markdown]
# And so on, best first. The order is read off the same prompts that are then restored, for every
# kind alike. At the same place in the model we compare the principal directions of the stream, and
# its plain coordinates, the **dimensions**; and units of the dictionary in random order, among
# those that differ between the runs at all. (Each principal direction counts as *two* units, its
# plus and its minus side, as in a dictionary; a dimension counts once. So compare the features with
# the dimensions.) Which line rises first? On pocket that of the features; the small dictionary of
# SmolLM2 stays behind the plain dimensions.

# %%
differ = [u for u in drawn if ioi["features"].scores[u] != 0]
orders = [differ[i::4] + differ for i in range(4)]  # four beginnings
counts = mi.models.by_size(model, [1, 2, 4, 8, 16, 32, 64, 128], [2, 8, 32, 128])
curves = {
    f"{kind}, best first": (ioi[kind], ioi[kind].order())
    for kind in ("features", "dimensions", "principal directions")
}
shares = {name: [run.share(units[:n]) for n in counts] for name, (run, units) in curves.items()}
shares["features, in random order (mean of four)"] = [
    sum(ioi["features"].share(units[:n]) for units in orders) / 4 for n in counts
]
figures.lines(
    shares, x=[str(n) for n in counts], xlabel="units restored", ylabel="share of the gap closed",
    title="How many units carry the name?",
)  # fmt: skip

# %%
at = counts.index(32)
claim("feature_cause.few", shares["features, best first"][at],
      control=shares["features, in random order (mean of four)"][at])  # fmt: skip

# %% [markdown]
# ### The small circuit of one fact
#
# One prompt, its twin with another subject, and the twelve features that restore most. (Of eight
# facts we show the one whose twin differs least.) What else do they do? The table says where each
# differs most between the runs, what it fires on most in all texts and in prompts for *other* facts
# of this kind, and which words it promotes.

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
alike = mi.prompts.facts(model, 32, seed=1, relation=facts.labels[which]["relation"]).clean_tokens
is_text = alike != model.tokenizer.bos_token_id
on_alike = mi.sae.unit_activations(model, sae, alike)[is_text]
corpora = {"fires most on": (acts, tokens[real]), "of this kind": (on_alike, alike[is_text])}
rows = []
for u in carrying[:12]:
    at = int((here - there)[:, u].abs().argmax())
    row = {"unit": u, "estimate": run.scores[u], "at": words[facts.clean_tokens[which, at]],
           "clean": here[at, u], "corrupt": there[at, u]}  # fmt: skip
    for name, (on, ids_of) in corpora.items():
        row[name] = ", ".join(words[i].strip() for i in ids_of[on[:, u].topk(3).indices])
    row["promotes"] = ", ".join(words[i].strip() for i in logits[u].topk(4).indices.tolist())
    rows.append(row)

# %%
subject = facts.clean_tokens[which, facts.positions["subject"][which]]
print(
    f"{words[subject]!r} of the subject occurs {int((tokens == subject).sum())} times in all texts"
)
figures.table(rows, title="The features that carry one fact")

# %% [markdown]
# On pocket all of them act at the subject. In all texts most fire hardest on something else, such
# as names of people; but there the subject hardly occurs. In prompts of this kind the same units
# fire on other subjects, often ones that are like it. What a unit "is about" depends on the texts
# you look at. The words they promote have little to do with the answer: that is read off later. The
# fact is carried by a *combination* of units that each do other work as well.
#
# Would any sixteen do that differ between the two runs? Each fact is restored by its own sixteen,
# which were chosen on its own prompt and its twin, and by sixteen drawn at random. (That does not
# show that these units serve the fact in other wordings, or serve no other fact.)

# %%
own = [run.share(order[:16]) for run, order in circuits]
chance = torch.Generator().manual_seed(0)
foreign = []
for run, _ in circuits:
    differ_here = run.scores.nonzero()[:, 0]
    mixed = differ_here[torch.randperm(len(differ_here), generator=chance)]
    foreign.append(run.share(mixed[:16].tolist()))
claim("feature_cause.fact", sum(own) / len(own), control=sum(map(abs, foreign)) / len(foreign))

# %% [markdown]
# ### Features, neurons or heads?
#
# How many units of each kind close a given share of the gap? Best first and, on a small model, at
# random. A dash says that all of them together do not. Neurons and heads are those of *all* layers.

# %%
fact_metric = mi.patching.LogitDiff(facts.answer_tokens)
fact = restorations(facts.clean_tokens, facts.corrupt_tokens, fact_metric)
needed, by_luck = {}, mi.models.by_size(model, True, False)
for kind, of_names in ioi.items():
    order = torch.randperm(len(of_names.scores), generator=torch.Generator().manual_seed(0))
    order = [u for u in order.tolist() if of_names.scores[u] != 0]
    needed[kind] = {
        "kind": kind, "units that differ": len(order), "names, 80%": of_names.needed(0.8),
        "facts, 50%": fact[kind].needed(0.5),
    } | ({"names, 80%, random": of_names.needed(0.8, order)} if by_luck else {})  # fmt: skip
figures.table(list(needed.values()), title="Units needed")

# %%
at_80 = {kind: row["names, 80%"] for kind, row in needed.items()}
rivals = [at_80["dimensions"], at_80["principal directions"]]
if None in (at_80["features"], *rivals):
    claim.not_here("feature_cause.better_basis", "One of these kinds never closes that much.")
else:
    claim("feature_cause.better_basis", at_80["features"], control=min(rivals))

# %% [markdown]
# On pocket, at one place in the stream, about half as many features as dimensions are enough for a
# name. It depends on the behaviour: for half of a fact, the
# dimensions are ahead. The dictionary was made to be sparse on all text, not to be short about
# facts. Neurons and heads are no rivals in this race. They sit elsewhere: names are moved by
# attention, so neurons have little to say, and a head writes many numbers at once. Their counts say
# where and how *concentrated* the work is done, not how well we understand one unit.

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
# What the SAE leaves out is small, but it is not nothing [@engels2024dark]: [notebook
# 10](10_sparse_autoencoders.ipynb) splices the reconstruction in and measures what that costs,
# beside five kinds of noise. Patching shows the same from another side: with *every* feature
# restored, part of the answer is still missing. It travels in the error (with every dimension
# restored nothing is missing, as it must be). Two behaviours: it is more of a fact than of a
# name.

# %%
open_share = {
    "facts": 1 - fact["features"].share(range(sae.d_sae)),
    "names": 1 - ioi["features"].share(range(sae.d_sae)),
}
print({name: round(share, 3) for name, share in open_share.items()})
claim("feature_limits.dark", open_share["facts"], control=open_share["names"])

# %% [markdown]
# ### What notebook 10 showed
#
# Five more faults, each a claim of [notebook 10](10_sparse_autoencoders.ipynb), belong on this
# list. A linear probe that is told the labels detects them better than the best unit does. Many
# units of a narrow dictionary become several in a wide one (splitting). In a toy, a unit is silent
# where a special unit fires (absorption; hardly on pocket): so "the unit did not fire" does not
# mean "the feature was not there". On pocket another seed finds about half of the units again (with
# the quick dictionary of SmolLM2 hardly any). And on pocket, though not on SmolLM2, a dictionary of
# an untrained model explains *more* of the variance.
#
# ### A number is no set of switches
#
# A year is a position on a line. A unit *could* carry it by its strength, as a neuron can; but a
# sparse code gets by with fewer units if each covers a stretch. Texts about years, with the two
# digits of the first year as the truth. A probe reads it off in one direction. What do units do?

# %%
spans = [g.sample("years", 20_000 + seed) for seed in range(480)]
years = mi.sae.label_tokens(model, spans)
at_start = years.labels["start"]
at_start = at_start & (at_start.cumsum(1) == at_start.sum(1, keepdim=True))  # its last token
year = torch.tensor([float(s.labels["start"]) for s in spans])[at_start.any(1)]
lowest = mi.models.by_size(model, 0, middle)
at_years, *at_neurons = (
    mi.sae.read_tokens(model, at, years.tokens, at_start)
    for at in (place, *(("mlp_post", layer) for layer in range(lowest, middle + 1)))
)
tiles = sae.encode(at_years).cpu()
even = torch.arange(len(year)) % 2 == 0

# %% [markdown]
# The twelve units that keep to the narrowest stretch of years, chosen on every other text; and how
# strongly each fires on the *other* texts, decade by decade, relative to its own best one. Would
# shuffled years give such pieces, too? And does any unit follow the line? The best of all units,
# chosen on the even texts by its squared correlation with the year, against the best neuron, chosen
# alike.


# %%
def stretch(unit, year, part):
    """The spread of the years on which a unit fires, in one part of the texts."""
    return float(year[part & (tiles[:, unit] > 0)].std())


def narrowest(year, least=4):
    """The twelve units that spread least on even texts, and their mean spread on odd ones."""
    enough = ((tiles[even] > 0).sum(0) >= least) & ((tiles[~even] > 0).sum(0) >= 2)
    often = enough.nonzero()[:, 0].tolist()
    units = sorted(often, key=lambda u: stretch(u, year, even))[:12]
    return units, sum(stretch(u, year, ~even) for u in units) / max(1, len(units))


units, spread = narrowest(year)
chance = torch.Generator().manual_seed(0)
mixed = [narrowest(year[torch.randperm(len(year), generator=chance)])[1] for _ in range(5)]
claim("feature_limits.pieces", spread, control=sum(mixed) / 5)

# %%
pieces = sorted(units, key=lambda u: float(year[even & (tiles[:, u] > 0)].mean()))
decade = torch.nn.functional.one_hot((year[~even] // 10).long(), 10).float()
by_decade = (decade.T @ tiles[~even][:, pieces]) / decade.sum(0).clamp_min(1)[:, None]
figures.heatmap(
    (by_decade / by_decade.amax(0).clamp_min(1e-6)).T, center=None, limit=1,
    x=[f"{d}0 to {d}9" for d in range(10)], y=[f"F{u}" for u in pieces], xlabel="year",
    ylabel="unit", colorbar="mean activation", title="The units that keep to the narrowest stretch",
)  # fmt: skip


# %%
def r_squared(X):
    """Squared correlation with the year on odd texts, of ridge regression on even ones."""
    X, target = (X - X[even].mean(0)).cpu(), year - year[even].mean()
    gram = X[even].T @ X[even] + torch.eye(X.shape[1]) * X[even].square().sum() / len(X) / 100
    guess = X[~even] @ torch.linalg.solve(gram, X[even].T @ target[even])
    return float(torch.corrcoef(torch.stack([guess, target[~even]]))[0, 1].nan_to_num() ** 2)


def best_of(X):
    """The same of one column of X, the one that follows the year best on even texts."""
    offset, target = X[even].cpu() - X[even].cpu().mean(0), year[even] - year[even].mean()
    follows = (target @ offset).square() / offset.square().sum(0).clamp_min(1e-6)
    return r_squared(X[:, [int(follows.argmax())]])


print(f"all units: {r_squared(tiles):.2f}, the stream: {r_squared(at_years):.2f}")
claim("feature_limits.line", best_of(tiles), control=best_of(torch.cat(at_neurons, 1)))

# %% [markdown]
# On pocket, where the two digits are one token, units cut the line into pieces, and a neuron
# follows it. SmolLM2 reads a year digit by digit. At the last digit a probe of the whole stream
# still tells the year, but no unit of its small dictionary keeps to a stretch or follows the line,
# and no neuron of the layer does.

# %% [markdown] short=true
# ## Summary
#
# - A dashboard is a generator of hypotheses. Its top contexts are its most flattering part.
# - An explanation is a predicate with a precision in every band and a recall. At the top the vaguer
#   one never loses; the recall tells them apart. A search that writes such predicates explains few
#   units, and must be judged on other texts (appendix A).
# - Units act: attribution by one backward pass finds those that matter, ablation confirms it, and
#   patching says what they carry. Every such number needs its random units beside it. From single
#   units to their circuit, with the error kept: [@marks2024feature].
# - On pocket few features carry a name, fewer than dimensions of the same stream, each kind chosen
#   on the prompts it is judged on. For facts, features are not ahead of dimensions.
# - SAEs leave an error that matters. The one of pocket spreads a fact over units that do other
#   work, and chops the line of years into pieces.
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

# %% [markdown]
# ## Appendix A: explanations by machine
#
# In section 4 we wrote three predicates for one unit. Who writes them for a thousand? A search can:
# give it atoms, let it join two of them by "and", and keep for every unit the sentence that follows
# its activations best. It can only say what its atoms say, and it asks no other language model.
# Such searches were first made for models of images and of entailment [@mu2020compositional].
#
# What may an atom say? What the token is (a common word, a kind of word from the lexicon, a number,
# a capital), the same of the token before it, whether it was in the text before, what the generator
# meant by it, and what kind of text it stands in.

# %%
ids, row = tokens[real].cpu(), real.nonzero()[:, 0].cpu()
common = torch.bincount(ids).topk(60).indices.tolist()
tests = {f"is {words[i]!r}": lambda word, own=words[i]: word == own for i in common}
for key, entries in {"names": sorted(names), **lexicon.LEXICON}.items():
    if all(isinstance(entry, str) for entry in entries):
        members = {entry.split()[-1] for entry in entries}
        tests[f"is in {key}"] = lambda word, members=members: word.strip() in members
tests |= {
    "is a number": lambda word: word.strip().isdigit(),
    "is no word": lambda word: not word.strip().isalnum(),
    "is spelt with a capital": lambda word: word.strip()[:1].isupper(),
    "is glued to what precedes it": lambda word: word[:1].isalnum(),
}

# %%
atoms = {say: torch.tensor([test(word) for word in words])[ids] for say, test in tests.items()}
inside = torch.cat([torch.tensor([False]), row[1:] == row[:-1]])  # not a text's first token
atoms |= {f"follows one that {say}": holds.roll(1) & inside for say, holds in atoms.items()}
repeated, had = [], set()
for pair in zip(row.tolist(), ids.tolist(), strict=True):
    repeated.append(pair in had)
    had.add(pair)
atoms |= {"is repeated": torch.tensor(repeated), "is new": ~torch.tensor(repeated)}
atoms |= {f"is labelled {name}": labelled.flat(name) for name in labelled.labels}
atoms |= {f"is in a text of {kind}": row % len(kinds) == i for i, kind in enumerate(kinds)}

# %%
late = row >= len(samples) // 2  # the texts that judge
few = {say: int(holds[~late].sum()) for say, holds in atoms.items()}
atoms = {say: holds for say, holds in atoms.items() if 10 <= few[say] < (~late).sum()}
said = torch.stack(list(atoms.values()), 1)
print(len(atoms), "atoms, such as:", ", ".join(list(atoms)[::25]))

# %% [markdown]
# How well does a sentence follow a unit? By the correlation of the two over all tokens: the
# sentence is one where it holds and zero elsewhere, the unit is as strong as it is. (Written
# explanations are scored by a correlation as well [@bills2023explain].) By hand for one atom and
# one unit, then as one product for all.


# %%
def standard(columns):
    """Columns with mean zero and length one, [token column]: their products are correlations."""
    offset = columns.float() - columns.float().mean(0)
    return offset / offset.norm(dim=0).clamp_min(1e-6)


early_acts, say_name = acts[~late].cpu(), atoms["is in names"][~late]
by_hand = torch.corrcoef(torch.stack([say_name.float(), early_acts[:, unit]]))[0, 1]
at_once = standard(said[~late]).T @ standard(early_acts)  # [atom unit]
assert abs(by_hand - at_once[list(atoms).index("is in names"), unit]) < 1e-4

# %% [markdown]
# The search, on the first half of the texts: the best atom for every unit, then the best one to
# join it with, if that helps. No sentence may hold on fewer than ten tokens. The other half judges.


# %%
def explain(acts):
    """For every unit a sentence (two atoms, or twice the same), how well it follows the unit where
    it was searched, and how well on the other half."""
    unit_early, unit_late = standard(acts[~late]), standard(acts[late])
    said_early, said_late = said[~late], said[late]
    score, first = (standard(said_early).T @ unit_early).max(0)
    second = first.clone()
    for atom in first.unique().tolist():
        units, joined = (first == atom).nonzero()[:, 0], said_early & said_early[:, [atom]]
        follows = standard(joined).T @ unit_early[:, units]
        score[units], second[units] = follows.masked_fill(joined.sum(0)[:, None] < 10, -1).max(0)
    held_out = (standard(said_late[:, first] & said_late[:, second]) * unit_late).sum(0)
    return torch.stack([first, second], 1), score, held_out


# %% [markdown]
# The bar is set beforehand: a unit counts as explained if its sentence accounts for half of the
# variance on the other half of the texts, a correlation of $\sqrt{1/2}$. The same search is made
# for what should, and for what should not, have an explanation: the layer's neurons; random
# directions of the stream, each cut so that it fires on as many tokens as a unit does; and the
# units with their activations shuffled over the tokens.

# %%
bar, chance = 0.5**0.5, torch.Generator().manual_seed(0)
on = acts.cpu()[:, (early_acts > 0).sum(0) >= 10]
stream = (x - x.mean(0)).cpu()
random = stream @ torch.randn(stream.shape[1], on.shape[1], generator=chance)
cut = random.sort(0, descending=True).values.gather(0, (on > 0).sum(0)[None].clamp_max(len(on) - 1))
searched = {
    "units": on,
    "random directions": (random - cut).relu(),
    "neurons": mi.sae.read_tokens(model, ("mlp_post", middle), tokens, real).cpu(),
    "units, shuffled": torch.stack(
        [one[torch.randperm(len(on), generator=chance)] for one in on.T], 1
    ),
}
explained = {name: explain(values) for name, values in searched.items()}

# %%
sentences, score, held_out = explained["units"]
order, say = held_out.argsort(descending=True).tolist(), list(atoms)
number = ((early_acts > 0).sum(0) >= 10).nonzero()[:, 0]
rows = [
    {"rank": i + 1, "unit": int(number[order[i]]), "it follows that the token ...":
     " and ".join(dict.fromkeys(say[atom] for atom in sentences[order[i]].tolist())),
     "where searched": score[order[i]], "held out": held_out[order[i]]}
    for i in range(0, len(order), len(order) // 16)
]  # fmt: skip
mi.figures.table(rows, title="Sentences, from the best explained unit to the worst")

# %% [markdown]
# Read the sentences down the ranks: first come units that stand for one word, and at the end what
# this search finds no good sentence for. (It is greedy: two atoms that are good only together, it
# misses.) The rows are taken at even steps, not chosen. Now all units beside what they should beat.
# Look at the last column, then at where the lines cross.

# %%
share = {name: (held >= bar).float().mean() for name, (_, _, held) in explained.items()}
mi.figures.table(
    [{"of": name, "many": len(held), "mean where searched": was.mean(),
      "mean held out": held.mean(), "share explained": share[name]}
     for name, (_, was, held) in explained.items()],
    title="What the search explains",
)  # fmt: skip

# %%
bars = [i / 20 for i in range(21)]
figures.lines(
    {name: torch.stack([(held >= b).float().mean() for b in bars])
     for name, (_, _, held) in explained.items()},
    x=bars, xlabel="correlation on the other half, at least", ylabel="share",
    title="Few sentences follow a unit closely, fewer a random direction",
)  # fmt: skip

# %%
claim("explanation.by_search", share["units"], control=share["random directions"])
how_often = (early_acts > 0).sum(0)[number]
flattery = score - held_out
claim("explanation.flattered", flattery[how_often < 30].mean(),
      control=flattery[how_often >= 100].mean())  # fmt: skip

# %% [markdown]
# On pocket the search explains about one in nine of the units that fire on ten tokens or more, and
# more of them than of the random directions; of neurons hardly any. That is little, and at a low
# bar units are *not* ahead: the middle one of the random directions is followed as well as the
# middle unit. Any direction of the
# stream follows which token it is to some degree, so a sentence that follows a unit somewhat is no
# evidence for the dictionary. (In SmolLM2 the middle unit is ahead too; but its small dictionary
# was trained on these very texts.) And a unit that no sentence explains may have a meaning that
# these atoms cannot say.
#
# The search flatters: a sentence does worse on other texts than where it was searched. With
# shuffled activations, where there is nothing to find, it still finds something, and on the other
# half nothing is left. For units that fire seldom the loss is largest, since few tokens choose
# among many sentences. So judge an explanation on texts that did not choose it.

# %%
claim.table()
