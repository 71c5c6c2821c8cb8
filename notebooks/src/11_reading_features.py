# ---
# title: Reading features
# minutes: 70
# ---

# %% [markdown]
# **The question.** A dictionary has a thousand units. What does one of them mean, how sure can we
# be, and what does it *do*?
#
# **You need** sparse autoencoders ([notebook 10](10_sparse_autoencoders.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - read a unit from its contexts, and say how its strongest ones mislead;
# - write a hypothesis as a predicate and score it over the whole range of activations;
# - find the units that act on a prediction, by attribution, and confirm by ablation;
# - name what SAEs get wrong, each with its number.

# %% [markdown]
# ## 1. A dictionary, and texts whose meaning is known

# %%
from mi_data.pocket import generator as g

middle = model.cfg.n_layers // 2
site = f"blocks.{middle}.hook_resid_post"
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, seed, "train") for seed in range(120) for kind in kinds]
labelled = mi.sae.label_tokens(model, samples)
stream = mi.sae.Activations(model, site, labelled.tokens, keep=labelled.real)
recipe = mi.sae.Recipe("batchtopk", d_sae=4 * model.cfg.d_model, k=20, steps=400)
sae = mi.sae.train(mi.sae.start(stream, recipe)).sae()

# %%
strength = mi.sae.unit_activations(model, sae, labelled.tokens).cpu()
acts = strength[labelled.real]
graded = sorted(mi.sae.best_units(acts, labelled), key=lambda row: -row["f1"])
mi.figures.table(graded, title="The unit that detects each label best", search=True)

# %% [markdown]
# ## 2. The dashboard of a unit
#
# Its strongest contexts, then contexts from lower down; the tokens that it promotes directly; how
# often it fires.

# %%
words = [model.tokenizer.decode([i]) for i in range(model.cfg.d_vocab)]


def dashboard(unit):
    """Contexts from the top and from the quantiles below it."""
    found = mi.sae.contexts(strength[..., unit], labelled.real, quantiles=(0.75, 0.5, 0.25))
    rows = [labelled.tokens[i][labelled.real[i]] for i in found.texts]
    return mi.figures.tokens_coloured(
        [mi.heads.token_names(model, row) for row in rows], found.values, center=None,
        rows=[f"peak {peak:.1f}" for peak in found.peaks], title=f"Unit {unit}",
    )  # fmt: skip


mi.figures.explore(dashboard, unit={row["label"]: row["unit"] for row in graded[:6]})

# %%
unit = graded[0]["unit"]
logits = mi.sae.direct_logits(model, sae, [unit])[0]
top, bottom = logits.topk(8).indices.tolist(), (-logits).topk(8).indices.tolist()
mi.figures.table({"promotes": [words[i] for i in top], "suppresses": [words[i] for i in bottom]},
                 title=f"What unit {unit} writes, read directly")  # fmt: skip

# %% [markdown]
# ## 3. A hypothesis is a predicate
#
# Write the hypothesis as code, and score it in every band of activation, weak to strong. The base
# rate is what chance gives. TODO: predicate for the best unit by its label; control: a shuffled
# predicate.

# %%
holds = labelled.flat(graded[0]["label"]).cpu()
judged = mi.sae.judge_explanation(acts[:, unit], holds)
claim("reading.weak_band", judged.precision[-1], control=judged.base)
claim("reading.top_misleads", judged.precision[-1], control=judged.precision[0])

# %% [markdown]
# ## 4. Which units act on the answer?

# %%
pairs = mi.prompts.ioi(model, 40, seed=0)
metric = mi.patching.LogitDiff(pairs.answer_tokens)
effects = mi.sae.attribute_to_units(model, sae, pairs.clean_tokens, metric)
strongest = effects.total().abs().topk(8).indices.tolist()


# %%
def ablated(units):
    """Mean logit difference with some units set to zero, error kept."""
    hook = mi.sae.set_units(sae, dict.fromkeys(units, 0.0))
    with model.hooks(fwd_hooks=[(site, hook)]), torch.no_grad():
        return metric(model(pairs.clean_tokens)).mean()


busy = effects.acts.sum((0, 1)).argsort(descending=True).tolist()
others = [u for u in busy if u not in strongest][: len(strongest)]
clean = metric(model(pairs.clean_tokens)).mean()
claim("cause.units", clean - ablated(strongest), control=clean - ablated(others))

# %% [markdown]
# ## 5. What SAEs get wrong
#
# TODO, each with its number: the error that matters; a label that a probe reads and no unit does;
# splitting and absorption; features of the data (SAE of an untrained model); units against neurons
# and heads at the same faithfulness; nearest units; search by text with `separating_units`.

# %%
claim.table()
