# ---
# title: Ablation and pruning
# minutes: 75
# ---

# %% [markdown]
# **The question.** Take a part of the model away. What breaks, what does not, and how much of the
# model can go before a behaviour is lost? And do the many ways to rank parts, from one backward
# pass to a greedy search, agree with each other?
#
# **You need** activation patching ([notebook 05](05_activation_patching.ipynb)), attribution
# ([notebook 06](06_attribution_patching.ipynb)) and circuits
# ([notebook 07](07_paths_and_circuits.ipynb)).
#
# **You will be able to**
#
# - ablate by zero, by the mean and by resampling, and say which question each one answers;
# - show that zero ablation depends on how the weights were written down;
# - prune heads by several criteria, and read a pruning curve;
# - see a backup step in, and say what it does to "nobody misses this head";
# - test whether a circuit is complete and minimal;
# - compare ten rankings of the same heads by agreement and by the truth.
#
# The appendices ablate the raw checkpoint, prune neurons, and count what each ranking costs.

# %% [markdown] short=true
# ## 1. Three ways to take a part away
#
# A part writes 5 on one prompt and 7 on another. Whoever reads it has grown up with values around
# 6, and looks only at the deviation. Three ways to remove the part:

# %% short=true
wrote = torch.tensor([5.0, 7.0])
instead = {
    "nothing removed": wrote,
    "zero": torch.zeros(2),
    "mean": wrote.mean().expand(2),
    "resample (the other prompt's)": wrote.flip(0),
}
rows = [
    {"ablation": name, "the reader sees": str(value.tolist()), "answers": str((value - 6).tolist())}
    for name, value in instead.items()
]
mi.figures.table(rows)

# %% [markdown] short=true
# **Zero** pushes the reader to where it has never been: its answer is large, and wrong for a
# reason that has nothing to do with the prompt. The **mean** removes what varies and keeps the
# rest; but it is an average, and no run need ever have had it. **Resampling** puts in what another
# run really had, values that occur together [@chan2022scrubbing]: the *wrong* information, another
# one with every draw.

# %% [markdown] short=true
# ## 2. Every head and every MLP
#
# Indirect objects again, all prompts in one wording. The reference prompts, for the mean and for
# resampling, have the same wording and three strangers: what they share with the task's prompts is
# everything but the hint (the choice of the IOI paper [@wang2022ioi]).

# %% short=true
from mi_helpers import circuits, patching, sites
from mi_helpers.interventions import intervene
from mi_helpers.patching import LogitDiff, Mean, OtherRun, Resample, Where, Zero

n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
references = mi.prompts.ioi(model, 12, corruption="random", same_wording=True)
pairs = references.select(range(mi.models.by_size(model, 12, 2)))  # fewer on a larger model
clean, strangers = pairs.clean_tokens, references.corrupt_tokens
metric = LogitDiff(pairs.answer_tokens)
with torch.no_grad():
    full = metric(model(clean)).mean().item()
print(f"{pairs.clean[0]} →{pairs.answers[0]} (mean logit difference {full:.2f})")

# %% [markdown] short=true
# **By hand**, for one head: run the reference, take its mean output at each position, and write it
# in place of the head's own. Then for every head and MLP, in three ways, with the helper.


# %% short=true
def without_head(layer, head):
    """The logit difference with one head mean-ablated."""
    mean = sites.read(model, strangers, [("z", layer)])["z", layer].mean(0)

    def put(z, where):
        z[:, :, head] = mean[:, head]
        return z

    with intervene(model, {("z", layer): put}):
        return metric(model(clean)).mean()


# %% short=true
def ablate_each(what, tokens=clean, judge=metric):
    """How much the metric falls without each head and each MLP, [layer head + 1]."""
    options = dict(progress=False)
    heads = patching.patch_sweep(
        model, tokens, what, judge, site="z", over=("layer", "head"), **options
    )
    mlps = patching.patch_sweep(
        model, tokens, what, judge, site="mlp_out", over=("layer",), **options
    )
    return -torch.cat([heads.effect(), mlps.effect()[:, None]], dim=1)


ablations = {"zero": Zero(), "mean": Mean(strangers), "resample": Resample(strangers)}
fall = {name: ablate_each(what) for name, what in ablations.items()}
for layer, head in ((0, 0), (n_layers - 1, 1)):
    assert abs(full - without_head(layer, head) - fall["mean"][layer, head]) < 1e-3

# %% [markdown] short=true
# Blue: the answer needs the part. Red: the part works against it. First compare the columns for the
# MLPs, then single heads. Which parts does only one of the three call important?

# %% short=true
columns = [f"H{j}" for j in range(n_heads)] + ["MLP"]
layers = [f"L{i}" for i in range(n_layers)]
figures.heatmap(
    torch.stack(list(fall.values())), facets=list(fall), x=columns, y=layers, xlabel="part",
    ylabel="layer", title="What the answer needs, by three ablations",
    colorbar="fall of the logit difference", limit=abs(full),
)  # fmt: skip

# %% [markdown] short=true
# Do the three rank the parts alike? *Spearman's* rank correlation asks only about order: each
# value is replaced by its rank, then they are correlated (exercise 4 writes it out). The order of
# idle parts is noise, so only those count that some ablation gives 2% of the difference. More rows
# tell what else plays a part: the mean over the same prompts, but *at all positions alike*; and, on
# a small model, such a mean over other text, questions about facts, and resampling with another
# draw.

# %% short=true
import pandas

elsewhere = mi.prompts.facts(model, 16).clean_tokens
sizes = {name: part.abs() for name, part in fall.items()}
more = {"one mean for all positions": Mean(strangers, per_position=False),
        "of other text": Mean(elsewhere, per_position=False),
        "resample again": Resample(strangers, seed=1)}  # fmt: skip
for name in list(more)[: mi.models.by_size(model, 3, 1)]:  # one row alone on a larger model
    sizes[name] = ablate_each(more[name]).abs()
counts = torch.stack(list(sizes.values())).amax(0) >= 0.02 * abs(full)
alike = pandas.DataFrame({name: part[counts].tolist() for name, part in sizes.items()})
alike = alike.corr("spearman")
figures.heatmap(
    alike.to_numpy(), title=f"How alike are the ranks of {int(counts.sum())} parts?",
    x=list(sizes), y=list(sizes), colorbar="rank correlation", limit=1, text=".2f",
)  # fmt: skip

# %% [markdown] short=true
# Zero ranks the parts in its own way. Is that because it is *zero*? Mostly not: one mean for all
# positions, even of the same prompts, ranks them much as zero does (on pocket nearly so, on SmolLM2
# less). What sets the mean and resampling apart
# is that they go position by position: they put back what every prompt of this wording has at that
# place, and take away the names alone. Zero and a mean over all positions take the wording, too. So
# on pocket heads of the first layer, and its MLP even more, matter to them: a model that has lost
# its place in the sentence gives no answer. Before you ask "zero or mean?", ask what the reference
# has in common with the prompt.

# %% short=true
claim("ablate.positions", alike.loc["zero", "one mean for all positions"],
      control=alike.loc["zero", "mean"])  # fmt: skip
claim("ablate.mean_and_resample", alike.loc["mean", "resample"],
      control=alike.loc["mean", "one mean for all positions"])  # fmt: skip

# %% [markdown] short=true
# ## 3. Where is zero?
#
# A head writes $z W_O$, and its layer adds the bias $b_O$. Add any constant $c$ to $z$ and subtract
# $c W_O$ from the bias: not one activation of the residual stream changes, so it is the same model,
# written down differently. But "set $z$ to zero" now removes something else.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 1: the same model, another zero
# Return the new `z` and the new bias, so that the layer's output is exactly what it was.

# %% [markdown] tags=["hint"]
# The output is `z @ W_O + b_O`. What does the shift add to it?


# %% tags=["exercise"]
def move_origin(z, W_O, b_O, shift):
    """z: [pos d_head]; W_O: [d_head d_model]; b_O: [d_model]; shift: [d_head]

    Returns z moved by the shift, and the bias that makes up for it.
    """
    raise NotImplementedError


# %% tags=["solution"]
def move_origin(z, W_O, b_O, shift):
    return z + shift, b_O - shift @ W_O


# %% tags=["check"]
check.move_origin(move_origin)

# %% [markdown]
# This is no mind game. `mi.load_model` folds value biases and LayerNorm shifts away, where a model
# has them, which is such a move; the first appendix ablates the raw checkpoint beside the
# processed one.
#
# Why does the mean not move? It is no activation that any run had. But add $c$ to every $z$, and
# the average of all $z$ moves by $c$ as well: what is put in moves along with the origin. So does
# what resampling or patching puts in, an activation of another run. Zero alone stays where it was.
# That is the best argument against it.
#
# ## 4. What a head says, and what is lost without it
#
# Direct logit attribution ([notebook 01](01_residual_stream.ipynb)) says how much a head adds to
# the logit difference. If nobody reacted to its loss, as much would be lost without it. In GPT-2
# small somebody does: later heads make most of it good; the field calls it *self-repair*
# [@wang2022ioi; @mcgrath2023hydra; @mcdougall2023copy]. To see it happen, take a model in which we
# know who reacts: the circuit planted in [notebook 07](07_paths_and_circuits.ipynb). Its two name
# movers say the answer. Its backup looks for a name that nobody says. Heads are set to zero here,
# because what a head says is measured from there, too.

# %%
planted = mi.toys.planted_circuit()
known = mi.toys.planted_prompts(planted, 24)
known_metric = LogitDiff(known.answer_tokens)
job = mi.toys.PLANTED
movers, backup = job["name mover"], job["backup name mover"]
with torch.no_grad():
    known_full = known_metric(planted(known.clean_tokens)).mean().item()


def known_left(what, sets):
    """The share of the planted circuit's logit difference left without each set of heads."""
    named = [[str(head) for head in heads] for heads in sets]
    swept = patching.ablate(planted, known.clean_tokens, what, known_metric, named)
    return (swept.mean() / known_full).tolist()


# %%
said = mi.lens.logit_attribution(planted, known.clean_tokens, known.answer_tokens).heads.mean(0)
cases = {"one name mover": movers[:1], "the other": movers[1:], "both": movers,
         "the backup": backup, "both and the backup": movers + backup}  # fmt: skip
says = [sum(said[head].item() for head in heads) / known_full for heads in cases.values()]
lost = [1 - share for share in known_left(Zero(), cases.values())]
assert lost[2] < min(lost[0], says[2] / 2) and abs(lost[3]) < 0.1
mi.figures.bars(
    {"what they say": says, "what is lost without them": lost}, list(cases),
    title="Without both name movers, little is lost", ylabel="share of the logit difference",
)  # fmt: skip

# %% [markdown]
# The two name movers say more than all of it (the negative head takes the rest back). Take either
# away, and much is lost. Take *both*, and less is lost than with one: now nobody says the name, and
# the backup steps in. Take the backup alone, and nobody notices; it rests. "Ablating it hardly
# hurts" does not mean "it does nothing". (We wired it so, and the cell above asserts it.)
#
# Does it happen in the loaded model? Silence the six heads that say most, one at a time, at the
# last position, on the eight prompts of the literature. Below the dotted line lies self-repair.
# Above it, more is lost than was said: the head also works through others ([notebook
# 07](07_paths_and_circuits.ipynb)). But not all that looks like repair is somebody's work. Without
# the head the stream is another one, so the final normalisation divides by another *scale*, and
# every other part gets louder or softer with it; on all text that alone makes a good part of the
# repair [@rushing2024selfrepair]. So measure it twice, the second time with the scale kept as it
# was.

# %%
eight = mi.prompts.ioi_literature(model)
spoken = mi.lens.logit_attribution(model, eight.clean_tokens, eight.answer_tokens).heads.mean(0)
speakers = mi.heads.top_heads(spoken.cpu(), 6)
silent = [
    {"z": Where(layers=[head.layer], heads=[head.head], positions=[-1])} for head, _ in speakers
]
eight_metric = LogitDiff(eight.answer_tokens)
missed = -patching.ablate(model, eight.clean_tokens, Zero(), eight_metric, silent).effect()
scale_hook = "ln_final.hook_scale"
scale = model.run_with_cache(eight.clean_tokens, names_filter=scale_hook)[1][scale_hook]
keep_scale = (scale_hook, lambda now, hook: scale)


# %%
def missed_at_scale(head):
    """What is lost without a head when the final scale is kept as it was."""

    def silence(z, hook):
        z[:, -1, head.head] = 0.0
        return z

    hooks = [(f"blocks.{head.layer}.attn.hook_z", silence), keep_scale]
    with torch.no_grad():
        now = eight_metric(model.run_with_hooks(eight.clean_tokens, fwd_hooks=hooks))
        return (eight_metric(model(eight.clean_tokens)) - now).mean().item()


at_scale = [missed_at_scale(head) for head, _ in speakers]
claim("repair.best_head", missed[0], control=speakers[0][1])

# %%
named = [str(speakers[i][0]) for i in missed.abs().topk(4).indices.tolist()]
figures.scatter(
    [value for _, value in speakers] * 2, [*missed.tolist(), *at_scale], identity=True,
    labels=[str(head) for head, _ in speakers] * 2, named=named,
    groups=[name for name in ("as it comes", "final scale kept") for _ in speakers],
    title="What heads say, and what is lost without each", xlabel="direct logit attribution",
    ylabel="logit difference lost without the head",
)  # fmt: skip

# %% [markdown]
# On pocket no repair of the first head shows, with or without the scale: twice what it says is
# lost. So it also works through others (which ones, this figure does not tell), and what they lose
# is more than what anybody makes good. Yet look at the dots below zero: two small heads seem to be
# better gone, and with the scale kept they do nothing. That was the scale alone. On SmolLM2 as much
# is lost as the first head says. But of the third, which copies the receiver ([notebook
# 04](04_logit_difference.ipynb)), a small part is missed, with the scale kept as well; and without
# the fourth the answer gets *surer*. There others react: a backup may step in, or a head that
# worked against the answer may fall silent [@mcdougall2023copy]; the sum does not tell which.

# %% [markdown] short=true
# ## 5. How much can go before a behaviour breaks?
#
# **Pruning** asks the engineer's question: keep as little as possible. Four behaviours, and three
# criteria to order the heads by:
#
# - *magnitude*: the size of the weights $W_V W_O$, which knows nothing of any behaviour;
# - *ablation effect*: mean ablation of each head, one pass each;
# - *attribution*: the estimate of patching by gradients, one backward pass for all.
#
# Scores are computed on some prompts and judged on others. The measure is accuracy: in which share
# of prompts does the right answer beat the wrong one? The honest opponent of a criterion is no
# criterion: heads in random order, the mean of several draws. (Attribution estimates the effect of
# the corrupt twin's activation, and pruning sets heads to a mean over all positions: criterion and
# operation differ, and on pocket it pays for that with indirect objects.)
#
# The size of a head's weights is the length of $W_V W_O$, taken as one long list of numbers. (The
# code never builds this matrix.)

# %% short=true
names = [f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)]
kinds = {"indirect objects": mi.prompts.ioi, "agreement": mi.prompts.agreement,
         "pronouns": mi.prompts.pronouns, "facts": mi.prompts.facts}  # fmt: skip
each_kind, n_scored, n_draws = mi.models.by_size(model, (16, 16, 4), (12, 2, 2))
scoring, judging = (
    {name: kind(model, n, seed=seed) for name, kind in kinds.items()}
    for n, seed in ((n_scored, 3), (each_kind, 4))
)
W_V, W_O = model.W_V, model.W_O
W_V = W_V.repeat_interleave(n_heads // W_V.shape[1], dim=1)  # where heads share their values
magnitude = ((W_V.mT @ W_V) * (W_O @ W_O.mT)).sum((-1, -2)).sqrt().cpu()


# %% short=true
def head_scores(prompts):
    """Each head's importance for a behaviour by three criteria and by none, [layer head]."""
    run = model, prompts.clean_tokens
    judge = LogitDiff(prompts.answer_tokens)
    mean = Mean(prompts.corrupt_tokens, per_position=False)
    each = dict(site="z", over=("layer", "head"), progress=False)
    estimate = patching.attribution(*run, OtherRun(prompts.corrupt_tokens), judge)["z"]
    return {
        "magnitude": magnitude,
        "ablation effect": patching.patch_sweep(*run, mean, judge, **each).effect().abs(),
        "attribution": estimate.effect("layer", "head").abs(),
    }


# %% short=true
shares = [0, 0.2, 0.4, 0.6, 0.8, *mi.models.by_size(model, (0.5, 0.7, 0.9), ()), 1]
shares.sort()


def head_curve(score, prompts):
    """Accuracy with a growing share of the heads mean-ablated, lowest score first."""
    order = score.flatten().argsort().tolist()
    sets = [[names[i] for i in order[: round(share * len(order))]] for share in shares]
    what = Mean(prompts.corrupt_tokens, per_position=False)
    judge = LogitDiff(prompts.answer_tokens)
    swept = patching.ablate(model, prompts.clean_tokens, what, judge, sets)
    return (swept.values > 0).float().mean(1)


scored = {name: head_scores(prompts) for name, prompts in scoring.items()}

# %% [markdown] short=true
# First one behaviour in full. Accuracy starts where the whole model is; chance is one half. Then
# all of them as one number each: the share of heads that can go before accuracy falls below nine
# tenths of what it had. In which behaviours does attribution beat random order?

# %% short=true
draws = [torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(i))
         for i in range(n_draws)]  # fmt: skip
by_luck = {name: torch.stack([head_curve(draw, judging[name]) for draw in draws]) for name in kinds}
curves = {
    name: {by: head_curve(score, judging[name]) for by, score in scores.items()}
    | {"at random": by_luck[name].mean(0)}
    for name, scores in scored.items()
}
figures.lines(
    curves["indirect objects"], title="Pruning heads until the receiver is lost",
    x=[f"{share:.0%}" for share in shares], xlabel="heads pruned", ylabel="accuracy",
)  # fmt: skip


# %% short=true
def prunable(curve):
    """The largest share up to which accuracy keeps nine tenths of the whole model's."""
    lost = (curve < 0.9 * curve[0]).tolist()
    return shares[lost.index(True) - 1] if any(lost) else shares[-1]


largest = {by: [prunable(curves[name][by]) for name in curves] for by in scored["facts"]}
largest["at random"] = [sum(map(prunable, by_luck[name])) / len(draws) for name in curves]
by_effect, by_chance = (sum(largest[by]) / len(curves) for by in ("ablation effect", "at random"))
claim("prune.heads", by_effect, control=by_chance)
figures.bars(
    largest, list(curves), title="How many heads a behaviour can do without",
    ylabel="largest share pruned",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 2: what is kept
# Return a mask of the parts to keep: the given share of *all* of them, rounded to whole parts,
# those with the largest score. Scores may be negative: a part that works hard against the answer is
# important, too.

# %% [markdown] tags=["hint"]
# Take the size, flatten, sort, keep the first `round(share * n)`, and give the mask its shape back.


# %% tags=["exercise"]
def kept_parts(scores, share):
    """scores: [layer part]  ->  True where the part is kept, [layer part]."""
    raise NotImplementedError


# %% tags=["solution"]
def kept_parts(scores, share):
    order = scores.abs().flatten().argsort(descending=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[: round(share * len(order))]] = True
    return mask.view_as(scores)


# %% tags=["check"]
check.kept_parts(kept_parts)

# %% [markdown]
# ## 6. Is the circuit complete? Is it minimal?
#
# Notebook 07 found circuits that are *faithful*: alone, they do nearly what the model does. The IOI
# paper [@wang2022ioi] asks two more things. With $F$ the logit difference, $M$ the model, $C$ the
# circuit:
#
# - **complete**: take any part $K$ of the circuit out of both, and they still agree:
#   $F(C \setminus K) \approx F(M \setminus K)$. If the model does much better, it has something in
#   reserve that the circuit lacks.
# - **minimal**: no head is idle: without it, $F(C)$ changes.
#
# By hand, for a "model" of three parts in which one backs up another:


# %%
def answer(parts):
    """What the toy answers with these parts: `b` says 3 only when `a` does not."""
    return 3 * ("a" in parts) + 3 * ("b" in parts and "a" not in parts) + ("c" in parts)


whole, small = {"a", "b", "c"}, {"a", "c"}
print("faithful:", answer(small), "and", answer(whole))
print("without a:", answer(small - {"a"}), "and", answer(whole - {"a"}))

# %% [markdown]
# `{a, c}` is perfectly faithful and incomplete: the model survives the loss of `a`, the circuit
# does not. Faithfulness alone cannot see the backup.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: how incomplete?
# Return the largest $|F(C \setminus K) - F(M \setminus K)|$ over the given sets $K$.

# %% [markdown] tags=["hint"]
# For sets, `circuit - k` is what is left. Take each $K$ out of *both*.


# %% tags=["exercise"]
def incompleteness(answer, circuit, whole, removed):
    """answer: a function of a set of parts; circuit, whole: sets; removed: a list of sets K."""
    raise NotImplementedError


# %% tags=["solution"]
def incompleteness(answer, circuit, whole, removed):
    return max(abs(answer(circuit - k) - answer(whole - k)) for k in removed)


# %% tags=["check"]
check.incompleteness(incompleteness)

# %% [markdown]
# Now a network: the planted circuit, where we know what should come out. Two circuits stand trial.
# The first is what ACDC finds, as in notebook 07; the second is the truth. All other heads are
# mean-ablated. Is the first one faithful?

# %%
strange = known.corrupt_tokens


def moved(logits):
    """How far a circuit's logit difference is from the model's."""
    whole = known_metric(logits)
    return lambda circuit_logits: (whole - known_metric(circuit_logits)).abs()


known_run = planted, known.clean_tokens, OtherRun(strange), known_metric
found = circuits.acdc(*known_run, 1.0, distance=moved, first=None).pruned().heads()
true = [head for heads in job.values() for head in heads]
all_heads = circuits.EdgeGraph.of(planted).heads
for label, circuit in {"found": found, "true": true}.items():
    (alone,) = known_left(Mean(strange), [[head for head in all_heads if head not in circuit]])
    print(f"{label}: {alone:.2f} of the logit difference is left, with", *map(str, circuit))

# %% [markdown]
# It is: alone it does what the model does, with fewer heads. Now take parts $K$ out of both. With
# so few heads we can take *every* set of heads of the circuit that was found. Some sets by name
# first; look for bars that differ.

# %%
from itertools import chain, combinations

every = chain.from_iterable(combinations(found, n) for n in range(len(found) + 1))
subsets = {" ".join(map(str, heads)) or "nothing": heads for heads in every}


def without_each(circuit):
    """F(C without K) and F(M without K) for every K of the circuit that was found."""
    run = planted, known.clean_tokens, circuit, Mean(strange), known_metric
    return circuits.completeness(*run, subsets=subsets)


trials = {"found": without_each(found), "true": without_each(true)}
by_class = {"nothing": []} | {name: [h for h in heads if h in found] for name, heads in job.items()}
named = {name: " ".join(map(str, heads)) or "nothing" for name, heads in by_class.items()
         if heads or name == "nothing"}  # fmt: skip

# %%
left_of = {f"{label} circuit": [trial.first[k] / known_full for k in named.values()]
           for label, trial in trials.items()}  # fmt: skip
left_of["model"] = [trials["true"].second[k] / known_full for k in named.values()]
mi.figures.bars(
    left_of, list(named), title="Without the name movers the model goes on, the circuit does not",
    xlabel="what is taken out", ylabel="share of the logit difference left",
)  # fmt: skip

# %% [markdown]
# Take the name movers out: the model's backup steps in, and the circuit has none. Take out the one
# duplicate-token head that was found: the model has a second one. The circuit is faithful and
# **incomplete**. The true circuit stays close to the model, on average over the same sets. (These
# hold heads that were found; no other head of the true circuit is taken out.) The claim averages
# over all these sets $K$.

# %%
incomplete = {
    label: sum(trial.differences().values()) / len(subsets) / known_full
    for label, trial in trials.items()
}
claim("circuit.complete", incomplete["found"], control=incomplete["true"])

# %% [markdown]
# And minimal? For each head of the true circuit, what the circuit loses without it. Three of the
# seven seem idle: nobody misses a duplicate-token head while the other is there, nor the backup
# while it rests. So the paper takes, for each head, a set $K$ of similar heads out first, without
# which it should count.

# %%
run = planted, known.clean_tokens, true, Mean(strange), known_metric
one, other = job["duplicate token"]
stand_ins = {one: [other], other: [one], backup[0]: movers}
first_out = {"while all others are there": {}, "without those it stands in for": stand_ins}
drops = {
    name: [drop / known_full
           for drop in circuits.minimality(*run, without=without).differences().values()]
    for name, without in first_out.items()
}  # fmt: skip
assert min(drops["without those it stands in for"]) > 0.2, "a planted head is needed by nobody"
mi.figures.bars(
    drops, [f"{head} {name}" for name, heads in job.items() for head in heads], horizontal=True,
    title="Every head of the circuit is needed by someone", xlabel="change without the head",
)  # fmt: skip

# %% [markdown]
# With a $K$ one can show that any head counts that *could* count. That is what the definition asks,
# and why a minimal circuit is not a smallest one: ACDC's is smaller and as faithful.

# %% [markdown]
# ## 7. The scoreboard
#
# Ten ways to say how important a head is, on the loaded model and, where the truth is known, on
# the planted circuit. Each returns one number a head, positive where the head matters. First the
# ones that need forward passes: ablations, *noising* (the corrupt activation put into the clean
# run: what is necessary) and *denoising* (the clean one put into the corrupt run: what suffices).
# Then those that need gradients. An edge method gives a head the sum of the sizes of the edges
# that leave it. ACDC only says which edges it keeps; we count those that leave each head. The three
# ablations of the loaded model are those of section 2. (The third appendix says what each costs.)

# %%
import time
from functools import partial


def by_passes(model, prompts):
    """Methods that patch or ablate each head, each a function without arguments."""
    clean, strangers = prompts.clean_tokens, prompts.corrupt_tokens
    judge, each = LogitDiff(prompts.answer_tokens), dict(site="z", over=("layer", "head"))

    def patched(tokens, what):
        return patching.patch_sweep(model, tokens, what, judge, **each).effect().abs()

    whats = {"zero": Zero(), "mean": Mean(strangers), "resample": Resample(strangers),
             "noising": OtherRun(strangers)}  # fmt: skip
    methods = {name: partial(patched, clean, what) for name, what in whats.items()}
    return methods | {"denoising": lambda: patched(strangers, OtherRun(clean))}


# %%
def leaving(graph, values):
    """Sum of the sizes of the edges that leave each head, [layer head]."""
    total = dict(zip(graph.writers, values.abs().sum(0).tolist(), strict=True))
    return torch.tensor([total[str(head)] for head in graph.heads]).view(graph.n_layers, -1)


n_first = mi.models.by_size(model, 250, 60)


def greedy(model, prompts):
    """How many edges leave each head in the circuit that greedy pruning keeps."""
    graph, few = circuits.EdgeGraph.of(model), prompts.select(range(min(4, len(prompts))))
    run = model, few.clean_tokens, OtherRun(few.corrupt_tokens), LogitDiff(few.answer_tokens)
    kept = circuits.acdc(*run, 0.005, first=min(n_first, int(graph.valid.sum()))).kept
    return leaving(graph, kept.float())


# %%
def by_gradients(model, prompts):
    """Methods that need gradients, or the clean run alone, each a function without arguments."""
    clean, graph = prompts.clean_tokens, circuits.EdgeGraph.of(model)
    run = model, clean, OtherRun(prompts.corrupt_tokens), LogitDiff(prompts.answer_tokens)
    spoken = partial(mi.lens.logit_attribution, model, clean, prompts.answer_tokens)

    patched = partial(patching.attribution, *run)

    def edges(path):
        return leaving(graph, circuits.edge_attribution(*run, path=path).values)

    return {
        "direct attribution": lambda: spoken().heads.mean(0).abs().cpu(),
        "attribution patching": lambda: patched()["z"].effect("layer", "head").abs(),
        "EAP": lambda: edges(patching.At()),
        "EAP-IG": lambda: edges(patching.Integrated(5)),
        "ACDC": lambda: greedy(model, prompts),
    }


# %%
def measured(model, prompts, done=()):
    """Importance of each head by every method that is not done yet, and the seconds it took."""
    importance, seconds = dict(done), {}
    for name, method in (by_passes(model, prompts) | by_gradients(model, prompts)).items():
        if name in importance:
            continue
        began = time.perf_counter()
        importance[name] = method()
        seconds[name] = time.perf_counter() - began
    return importance, seconds


ablated = {name: part[:, :n_heads].abs() for name, part in fall.items()}
importance, seconds = measured(model, pairs, ablated)
known_importance, _ = measured(planted, known)

# %% [markdown]
# **Do they rank alike?** Each cell is a rank correlation over all heads. Look for blocks: which
# methods belong together? Which two stand apart, and what do they *not* see?

# %%
order = list(importance)
ranking = pandas.DataFrame({name: importance[name].flatten().tolist() for name in order})
agreement = ranking.corr("spearman").fillna(0)  # a method that keeps no edge ranks nothing
figures.heatmap(
    agreement.to_numpy(), title="Ten rankings of the same heads", x=order, y=order, limit=1,
    text=".2f", colorbar="rank correlation",
)  # fmt: skip

# %% [markdown]
# Zero stands apart, as in section 2. And so does direct attribution: it sees what a head says
# itself, and nothing that it tells others. It is an honest rival for the claim: a single backward
# pass comes nearer to *noising*, whose local estimate it is. To denoising, which starts from the
# other run, it comes no nearer than direct attribution does: look at that row.

# %%
claim("scoreboard.gradient_and_patching", agreement.loc["attribution patching", "noising"],
      control=agreement.loc["direct attribution", "noising"])  # fmt: skip

# %% [markdown]
# **Against the truth.** Agreement is no truth: methods that share a blind spot agree. On the
# planted circuit we know which heads matter. Take every pair of a planted and an idle head: in
# which share of the pairs does a method put the planted one first? By chance it would be a half;
# ties count half.

# %%
is_true = torch.tensor([head in true for head in all_heads])


def in_order(values):
    """Share of pairs of a planted and an idle head that a ranking has in the right order."""
    values = values.flatten()
    gap = values[is_true][:, None] - values[~is_true]
    return ((gap > 0).float() + 0.5 * (gap == 0)).mean().item()


right = {name: in_order(values) for name, values in known_importance.items()}
mi.figures.bars(
    list(right.values()), list(right), horizontal=True, limit=1,
    title="Planted before idle: how often each method is right", xlabel="share of pairs",
)  # fmt: skip

# %% [markdown]
# In order most methods do well, those of one backward pass best. (That is *this* circuit. On the
# compiled programs of [notebook 23](23_known_circuits.ipynb) they do worse than ablations, and zero
# does well.) Zero and denoising do not do much better than chance here, and what heads say directly
# puts heads that speak to other heads behind idle ones. Order is one question, size another. The
# planted heads, as a share of the largest of each method. Look at the duplicate-token heads, which
# stand in for each other, and at the backup, which rests.

# %%
planted_by = torch.stack([
    torch.stack([values[head] for head in true]) / values.max()
    for values in known_importance.values()
])  # fmt: skip
mi.figures.heatmap(
    planted_by, title="The planted heads, by ten methods", y=order, xlabel="planted head",
    x=[f"{head} {name}" for name, heads in job.items() for head in heads],
    colorbar="share of the largest", limit=1,
)  # fmt: skip

# %%
redundant = [true.index(head) for head in job["duplicate token"]]
small = {name: planted_by[order.index(name), redundant].max() for name in ("noising", "EAP-IG")}
claim("scoreboard.redundant", small["noising"], control=small["EAP-IG"])

# %% [markdown]
# Ablated or noised one at a time, the duplicate-token heads get next to nothing: by the mean,
# resampling and noising a little more than most idle heads, enough for the order, and so little
# that everybody would cut them. A gradient in the clean run alone sees them in part. EAP-IG takes
# its gradients on the way from one run to the other, where the softmaxes are not yet sure, and sees
# more of them. The resting backup hardly anybody sees.
#
# Compare any two methods head by head. Which heads do they disagree about, and does one of them say
# why?


# %%
def compare(across, up):
    """Importance of each head by two methods, each as a share of its largest."""
    a, b = (importance[name].flatten() / importance[name].max() for name in (across, up))
    apart = {names[i] for i in (a - b).abs().topk(4).indices}
    return figures.scatter(
        a, b, labels=names, named=sorted(apart), identity=True, xlabel=across, ylabel=up,
        title=f"{up} against {across}",
    )  # fmt: skip


mi.figures.explore(compare, across=order, up=order, start={"across": "noising", "up": "zero"})

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: Spearman's correlation with ties
# Greedy circuits give many heads the same number, zero. Tied values must share the mean of their
# ranks. Return the rank correlation of two lists that may have ties.

# %% [markdown] tags=["hint"]
# The mean rank of a value: how many are smaller, plus half of how many *others* are equal. Then
# correlate the ranks as usual.


# %% tags=["exercise"]
def tied_rank_correlation(a, b):
    """a, b: [n]  ->  Spearman's correlation, one number."""
    raise NotImplementedError


# %% tags=["solution"]
def tied_rank_correlation(a, b):
    ranks = []
    for values in (a, b):
        smaller = (values[None, :] < values[:, None]).sum(1)
        equal = (values[None, :] == values[:, None]).sum(1) - 1
        ranks.append(smaller + equal / 2)
    return torch.corrcoef(torch.stack(ranks))[0, 1]


# %% tags=["check"]
check.tied_rank_correlation(tied_rank_correlation)

# %% [markdown] short=true
# ## Summary
#
# - Zero asks what happens without a part in a world that never was; the mean removes what varies;
#   resampling puts in wrong information. Only zero depends on how the weights are written down.
# - Single ablations miss backups. What a head says and what is lost without it are two numbers.
# - Pruning asks how little is enough. A criterion is worth what it gains over random order.
# - Completeness finds reserves that faithfulness cannot see; minimality finds passengers, once the
#   heads that stand in for each other are told apart from them.
# - Ten methods rank the same heads, at very different costs. Where the truth is known, most of them
#   put planted heads first, but single ablations find redundant and resting heads tiny.
#
# **What we have not shown.** That a real circuit looks like the planted one. It is small, its heads
# do one thing each, and its backup is perfect. It shows what a method *can* miss, not how often.
#
# ## Where to read on
#
# - Mean ablation, completeness and minimality: [@wang2022ioi], section 4.
# - Self-repair: [@mcgrath2023hydra; @mcdougall2023copy]. On all text it is imperfect, and in part
#   the work of the final LayerNorm's scale alone: [@rushing2024selfrepair].
# - What ablation choices do to conclusions: [@miller2024metrics; @heimersheim2024patching].
# - Rankings by gradients, and where they fail:
#   [@syed2023attribution; @kramar2024atp; @hanna2024faith].

# %% [markdown]
# ## Appendix A: zero moves with the weights
#
# Ablate the heads of the first layer twice: in the processed model, and in the raw checkpoint.
# Both give the same predictions on this text. The raw model is ablated by hand: the input of the
# output projection holds the `z` of all heads, side by side.

# %%
text = model.to_tokens(mi.prompts.literature_text("tasks"))


def text_loss(logits):
    """Mean loss of the text, in nats, [1]."""
    return mi.metrics.loss(logits, text).mean(-1)


text_loss.positions = None  # it reads the logits of all positions
first_layer = dict(site="z", over=("layer", "head"), where=Where(layers=[0]), progress=False)
processed = {
    name: patching.patch_sweep(model, text, what, text_loss, **first_layer).mean()[0]
    for name, what in {"zero": Zero(), "mean": Mean(text, per_position=False)}.items()
}

# %%
from transformers import AutoModelForCausalLM

folder = mi.models.model_source(model).directory
raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
raw.eval().requires_grad_(False)
projections = ("c_proj", "o_proj", "dense")  # what GPT-2, Llama and GPT-NeoX call it
out_projection = next(m for n, m in raw.named_modules() if n.split(".")[-1] in projections)


# %%
def raw_loss(head, use_mean):
    """The raw model's loss with one head of the first layer zero- or mean-ablated."""

    def replace(module, args):
        z = args[0].unflatten(-1, (n_heads, -1)).clone()
        z[:, :, head] = z[:, :, head].mean((0, 1)) if use_mean else 0.0
        return (z.flatten(-2),)

    handle = out_projection.register_forward_pre_hook(replace)
    try:
        return text_loss(raw(text.cpu()).logits).item()
    finally:
        handle.remove()


# %%
from_raw = {
    name: torch.tensor([raw_loss(head, name == "mean") for head in range(n_heads)])
    for name in ("zero", "mean")
}
figures.bars(
    {f"{name}, {kind}": values for kind, losses in (("processed", processed), ("raw", from_raw))
     for name, values in losses.items()},
    [f"L0H{j}" for j in range(n_heads)], title="Zero moves with the weights, the mean does not",
    ylabel="loss on a text (nats)",
)  # fmt: skip

# %%
zero_gap, mean_gap = ((processed[name] - from_raw[name]).abs().max() for name in ("zero", "mean"))
if any(name.endswith("bias") for name, _ in raw.named_parameters()):
    claim("zero.processing", zero_gap, control=mean_gap)
else:
    claim.not_here(
        "zero.processing",
        "A model without biases has nothing that folding could move: its zero is the same in both.",
    )

# %% [markdown]
# ## Appendix B: neurons
#
# A model has too many neurons to ablate each alone, thousands even here. That is what attribution
# is for: for each neuron, (activation − its mean) times the gradient, summed over positions. The
# mean is over the corrupt twins, and pruned neurons are set to it.

# %%
from mi_helpers.patching import slopes

posts = [("mlp_post", layer) for layer in range(n_layers)]


def means(prompts):
    """The mean activation of each neuron on the corrupt twins, by place."""
    acts = mi.sites.read(model, prompts.corrupt_tokens, posts)
    return {place: acts[place].mean((0, 1)) for place in posts}


# %%
W_in, W_out = model.W_in, model.W_out


def neuron_scores(prompts):
    """Importance of every neuron by attribution, by magnitude and by none, [layer d_mlp]."""
    tokens, judge = prompts.clean_tokens, LogitDiff(prompts.answer_tokens)
    found, mean = slopes(model, tokens, judge, posts), means(prompts)
    change = [(act - mean[place]) * grad for place, (act, grad) in found.items()]
    size = W_in.norm(dim=1) * W_out.norm(dim=2)
    if model.cfg.gated_mlp:  # there the neuron is a product of two readings
        size = size * model.W_gate.norm(dim=1)
    random = torch.rand(size.shape, generator=torch.Generator().manual_seed(0))
    attribution = torch.stack(change).sum((1, 2)).abs()
    return {"magnitude": size, "attribution": attribution, "at random": random.to(size)}


# %%
kept_shares = [1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]


def neuron_accuracy(score, kept, prompts):
    """Accuracy when only a share of all neurons, those with the largest score, is kept."""
    order = score.flatten().argsort(descending=True)
    keep = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    keep[order[: round(kept * len(order))]] = True
    mean, keep = means(prompts), keep.view_as(score)
    prune = {
        (site, i): lambda acts, where, k=keep[i], m=mean[site, i]: torch.where(k, acts, m)
        for site, i in posts
    }
    with intervene(model, prune):
        return mi.metrics.accuracy(model(prompts.clean_tokens), prompts.answer_tokens)


# %%
n_facts = 2 * each_kind
new_facts = mi.prompts.facts(model, n_facts, seed=4)
with torch.no_grad():
    neuron_curves = {
        by: torch.stack([neuron_accuracy(score, kept, new_facts) for kept in kept_shares])
        for by, score in neuron_scores(mi.prompts.facts(model, n_facts, seed=3)).items()
    }

# %% [markdown]
# Facts are said to be stored in MLPs [@meng2022rome], which act as memories of patterns
# [@geva2020memories], so facts it is. From left to right ever fewer neurons are left. Compare the
# criteria, and mind the right end: without any neuron, where is chance?

# %%
figures.lines(
    neuron_curves, title="Pruning neurons until facts are lost",
    x=[f"{share:.0%}" for share in kept_shares], xlabel="neurons kept", ylabel="accuracy",
)  # fmt: skip

# %%
half = kept_shares.index(0.5)
claim("prune.neurons", neuron_curves["attribution"][half],
      control=neuron_curves["at random"][half])  # fmt: skip

# %% [markdown]
# ## Appendix C: at what cost?
#
# In forward passes over the same prompts; a backward pass counts as two. Ours are
# batched and resumed, so the seconds are fewer than the passes suggest. (Ablations, which section 2
# swept, take what noising takes.) ACDC runs at least one pass for each edge it starts from, here on
# four prompts at most, and first needs EAP-IG.

# %%
each, n_edges = len(names), int(circuits.EdgeGraph.of(model).valid.sum())
passes = {"direct attribution": 1, "zero": 1 + each, "mean": 2 + each, "resample": 2 + each,
          "noising": 2 + each, "denoising": 2 + each, "attribution patching": 2 + 3,
          "EAP": 2 + 3, "EAP-IG": 2 + 5 * 3, "ACDC": 2 + 5 * 3 + min(n_first, n_edges)}  # fmt: skip
board = [
    {"method": name, "passes": passes[name], "seconds": seconds.get(name, seconds["noising"]),
     "rank correlation with noising": agreement.loc[name, "noising"],
     "mean with the others": (agreement[name].sum() - 1) / (len(order) - 1),
     "right on the planted circuit": right[name]}
    for name in sorted(order, key=lambda one: -right[one])
]  # fmt: skip
figures.table(board, title="The scoreboard")

# %%
claim.table()
