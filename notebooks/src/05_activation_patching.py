# ---
# title: Activation patching
# minutes: 90
# ---

# %% [markdown]
# **The question.** Two prompts differ in one word, and so does the model's answer. Which parts of
# the model carry the difference? Which does the answer *need*, and which are *enough* for it?
#
# **You need** the residual stream and direct attribution
# ([notebook 01](01_residual_stream.ipynb)), attention patterns
# ([notebook 02](02_attention_heads.ipynb)) and the logit difference.
#
# **You will be able to**
#
# - patch any activation from one run into another, and prove that the patch took place;
# - say what denoising shows, what noising shows, and what neither can;
# - follow a piece of information through positions, sublayers and heads, and tell *where a head
#   looks* from *what it moves*;
# - choose a corruption and a metric, knowing what each makes visible and what it hides;
# - trace a fact with noise, and see how much the result owes to the noise (appendix C);
# - recognise states that no prompt produces (appendix D).

# %% [markdown] short=true
# ## 1. Enough, or needed? Two gates, by hand
#
# **Activation patching** runs the model on one prompt and puts in one activation from the run on
# another [@meng2022rome; @heimersheim2024patching]. It comes in two directions:
#
# - **Denoising**: a *clean* activation goes into the *corrupt* run. If the answer comes back, this
#   activation was **enough** to bring it back.
# - **Noising**: a *corrupt* activation goes into the *clean* run. If the answer breaks, this
#   activation was **needed**.
#
# They are not two names for one thing. Here is a whole model: parts A and B both copy the input,
# one in the clean run and zero in the corrupt run, and a gate joins them. Fill in the last two
# columns in your head before you run the cell.


# %% short=true
def toy(x, gate, patch):
    """Parts A and B both copy the input; `patch` replaces what some of them say."""
    parts = {"A": x, "B": x} | patch
    return min(parts.values()) if gate == "AND" else max(parts.values())


rows = [
    {"gate": gate, "clean": toy(1, gate, {}), "corrupt": toy(0, gate, {}),
     "clean A in the corrupt run": toy(0, gate, {"A": 1}),
     "corrupt A in the clean run": toy(1, gate, {"A": 0})}
    for gate in ("AND", "OR")
]  # fmt: skip
mi.figures.table(rows, title="One part patched, two gates")

# %% [markdown] short=true
# Behind an AND, denoising A brings nothing back and noising A breaks everything: each part is
# needed and none is enough. Behind an OR it is the reverse: each is enough and none is needed.
# So a part without effect in *one* direction may still be at the heart of the mechanism. Models
# have both: steps that build on each other are ANDs, and backups are ORs.

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: name the gate
# You get both experiments for two parts of a larger model and say how the parts are joined: "AND",
# "OR", "A" or "B" if that part alone does the work, or "neither" if no part of the two is enough
# and none is needed, because the work is done elsewhere. Measured numbers are never exactly 0 or 1.

# %% [markdown] tags=["hint"]
# Ask of each of the four numbers whether it is above one half, and write down what the five cases
# give. The toy above has two of them. "AND" and "neither" differ in one experiment only, and so do
# "OR" and "neither": you need both.


# %% tags=["exercise"]
def which_gate(denoised, noised):
    """How two parts are joined: "AND", "OR", "A", "B" or "neither".

    denoised: [2], how much of the answer comes back with A (or B) clean in the corrupt run.
    noised: [2], how much of it is lost with A (or B) corrupt in the clean run. 1 is all of it.
    """
    raise NotImplementedError


# %% tags=["solution"]
def which_gate(denoised, noised):
    enough, needed = (torch.as_tensor(x) > 0.5 for x in (denoised, noised))
    if enough.all():
        return "OR"
    if enough.any():
        return "A" if enough[0] else "B"
    return "AND" if needed.all() else "neither"


# %% tags=["check"]
check.which_gate(which_gate)

# %% [markdown] short=true
# ## 2. A clean and a corrupt run
#
# The prompts are the eight of the literature: somebody gives something, and the model should
# continue with the *other* person [@wang2022ioi]. The corrupt twin lets the other person give. All
# else stays, token by token, so that whatever differs inside the model differs because of who
# gives. The right answer to the corrupt prompt is the *other* name. The metric keeps asking for the
# answer to the clean one: in the corrupt run it should be negative.

# %% short=true
pairs = mi.prompts.ioi_literature(model)
clean, corrupt, answers = pairs.clean_tokens, pairs.corrupt_tokens, pairs.answer_tokens
metric = mi.patching.LogitDiff(answers)
clean_diff, corrupt_diff = (metric(model(tokens)).cpu() for tokens in (clean, corrupt))
if not clean_diff.mean() > 0 > corrupt_diff.mean():
    print("This model does not do the task: there is nothing here for patching to explain.")
rows = [
    {"clean prompt": pairs.clean[i], "its answer": pairs.answers[i],
     "giver in the corrupt prompt": pairs.answers[i], "answer to that one": pairs.wrong[i],
     "metric, clean run": clean_diff[i].item(), "metric, corrupt run": corrupt_diff[i].item()}
    for i in range(len(pairs))
]  # fmt: skip
mi.figures.table(rows, title="The logit of the clean answer less that of the other name")

# %% [markdown] short=true
# ## 3. One patch, by hand
#
# A patch is a hook that overwrites. Below it replaces, in the corrupt run, the residual stream
# before one layer at one position. Two habits keep patching honest. The hook *counts* its firings,
# because a patch that never took place looks exactly like a patch without effect. And two cases
# have known answers: patching a run with itself changes nothing, and patching every position
# before the first layer gives the other run.


# %% short=true
def patched_run(layer, position, values):
    """Logit differences [batch] of the corrupt run with the stream before a layer replaced."""
    fired = []

    def put(stream, hook):
        fired.append(hook.name)
        stream = stream.clone()
        stream[:, position] = values["resid_pre", layer][:, position]
        return stream

    logits = model.run_with_hooks(corrupt, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)])
    assert len(fired) == 1, "the patch never took place"
    return metric(logits).cpu()


# %% short=true
n_layers, n_heads, everywhere = model.cfg.n_layers, model.cfg.n_heads, slice(None)
clean_run, corrupt_run = (model.run_with_cache(tokens)[1] for tokens in (clean, corrupt))
by_itself = (patched_run(n_layers // 2, everywhere, corrupt_run) - corrupt_diff).abs().max()
by_all = (patched_run(0, everywhere, clean_run) - clean_diff).abs().max()
assert max(by_itself, by_all) < 1e-3 < (clean_diff - corrupt_diff).abs().mean()

# %% [markdown] short=true
# Now a patch whose outcome we do not know: only the *giver* (S2, the place where the giver is named
# again), the one word in which the prompts differ, before each layer in turn. To read it, put it on
# a scale, the **recovery**: 0 is the corrupt run, 1 is the clean run.

# %% short=true
name, end = (pairs.positions[role][0].item() for role in ("S2", "end"))
tried = list(range(0, n_layers, mi.models.by_size(model, 1, 3)))  # each third of many layers
at_name = torch.stack([patched_run(layer, name, clean_run) for layer in tried])
gap = (clean_diff - corrupt_diff).mean()
by_hand = (at_name - corrupt_diff).mean(-1) / gap
figures.lines(
    {"giver": by_hand}, title="The giver's name holds the answer, and then it does not",
    x=[f"L{layer}" for layer in tried], xlabel="patched before layer", ylabel="recovery",
)  # fmt: skip

# %% [markdown] short=true
# `mi.patching.patch_sweep` patches every cell of a grid in this way. It runs many cells in one
# batch and starts each at its patched layer; the numbers are the same. (It also counts firings,
# patches a run with itself and patches everything, and refuses to go on if one of them is wrong.)

# %% short=true
import dataclasses

from mi_helpers.patching import (
    LogitDiff,
    Noised,
    OtherRun,
    Where,
    patch_sweep,
)

sweep = patch_sweep(model, corrupt, OtherRun(clean), metric, site="resid_pre", progress=False)
stream = sweep.recovery()  # [layer position]
assert torch.allclose(sweep.values[tried, name], at_name, atol=1e-3)
assert torch.allclose(stream[tried, name] * gap, by_hand * gap, atol=1e-3)

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 2: recovery
# Put patched values of a metric on the scale from corrupt (0) to clean (1): one number for each
# cell, over all its prompts. On some prompts the clean and the corrupt run hardly differ, and a
# ratio taken there is noise. Keep these prompts all the same: take the mean over *all* prompts of
# what the patch gains, and the mean over *all* prompts of the distance between the runs, and divide
# once.

# %% [markdown] tags=["hint"]
# A ratio explodes where its denominator is small; a mean of denominators is not small. Gained is
# `patched - corrupt`, the distance is `clean - corrupt`.


# %% tags=["exercise"]
def mean_recovery(patched, clean, corrupt):
    """patched: [cell prompt]; clean, corrupt: [prompt]  ->  [cell]."""
    raise NotImplementedError


# %% tags=["solution"]
def mean_recovery(patched, clean, corrupt):
    gained = (patched - corrupt).mean(-1)
    return gained / (clean - corrupt).mean()


# %% tags=["check"]
check.mean_recovery(mean_recovery)

# %% [markdown] short=true
# ## 4. The residual stream, layer by position
#
# All cells at once. Read the figure from top to bottom, as the model computes. Where is the
# information at first, where is it at the end, and in which layers does it move? And why is
# everything left of the giver exactly zero?

# %% short=true
layers = [f"L{layer}" for layer in range(n_layers)]
figures.heatmap(
    stream, title="The answer moves from the giver to the last token",
    x=pairs.str_tokens[0], y=layers, xlabel="position (tokens of the first prompt)",
    ylabel="patched before layer", colorbar="recovery",
)  # fmt: skip

# %% [markdown] short=true
# Left of the giver both prompts are the same, and a model that reads from left to right
# computes the same. So the two runs have the same activations there, and there is nothing to patch.
#
# The claim is the start of the journey: in the layer before the middle of the model, patching the
# name brings most of the answer back, while the last token holds little.

# %% short=true
early = n_layers // 2 - 1
claim("stream.early", stream[early, name], control=stream[early, end])

# %% [markdown]
# ## 5. Attention or MLP?
#
# The stream is a sum: to patch it is to patch everything written so far. To see who *moves* the
# information, patch what single sublayers write. Only positions from the giver on are shown.
# In the middle panel look at the column of the last token, in the right one at the column of the
# name.

# %%
after_name = Where(positions=range(name, end + 1))
blocks = {"resid_pre": stream[:, name:]}
blocks |= {
    site: patch_sweep(model, corrupt, OtherRun(clean), metric, site=site, where=after_name,
                      progress=False).recovery()
    for site in ("attn_out", "mlp_out")
}  # fmt: skip
figures.heatmap(
    torch.stack(list(blocks.values())), facets=list(blocks),
    title="Attention brings the answer to the last token",
    x=pairs.str_tokens[0][name:], y=layers, xlabel="position", ylabel="layer",
    colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# Only attention moves information between positions; an MLP works on what is there. So what reaches
# the last token comes through attention layers. Is it so layer by layer? What the last token's
# stream *gains* in a layer (its recovery after the layer less that before) should be what patching
# this layer's attention output brings back. The claim is the distance of the two lists, as a share
# of what is gained; the control puts the MLPs of the same layers in the place of attention.

# %%
attn_out, mlp_out = blocks["attn_out"], blocks["mlp_out"]


def distance(a, b):
    """Sum of absolute differences over the sum of absolute values of the first map."""
    return (a - b).abs().sum() / a.abs().sum()


gained = stream[1:, end] - stream[:-1, end]  # in each layer but the last
claim("blocks.attention_moves", distance(gained, attn_out[:-1, -1]),
      control=distance(gained, mlp_out[:-1, -1]))  # fmt: skip

# %% [markdown]
# At the name itself the *first* MLP can matter a great deal. In GPT-2 small it is taken for an
# extension of the embedding, from which later layers read the word [@nanda2022exploratory]. How
# much does its output bring back, and how much any later MLP at the same token?

# %%
claim("blocks.first_mlp", mlp_out[0, 0], control=mlp_out[1:, 0].max())

# %% [markdown] short=true
# ## 6. Heads
#
# One step finer: `z`, the output of a single head before `W_O`, at all positions together.


# %% short=true
def head_sweep(base, other, metric, site="z", first=0):
    """Patch each head of `base` from `other`, at all positions; layers before `first` are not."""
    found = patch_sweep(model, base, OtherRun(other), metric, site=site, over=("layer", "head"),
                        where=Where(layers=range(first, n_layers)), progress=False)  # fmt: skip
    left_out = found.base.expand(first, found.values.shape[1], -1)
    return dataclasses.replace(found, values=torch.cat([left_out, found.values]))


heads = head_sweep(corrupt, clean, metric).recovery()  # [layer head]
best = mi.heads.top_heads(heads, 1)[0][0]

# %% [markdown] short=true
# Before you look: would you expect many heads to matter a little, or few to matter much?

# %% short=true
columns = [f"H{head}" for head in range(n_heads)]
figures.heatmap(
    heads, title=f"Few heads carry it; {best} most of all",
    x=columns, y=layers, xlabel="head", ylabel="layer", colorbar="recovery",
)  # fmt: skip

# %% [markdown] short=true
# A red cell, if there is one, is a head with whose *clean* output the answer gets worse: it writes
# against the answer, and in the clean run others overrule it. GPT-2 small and SmolLM2 have such
# heads; pocket has none to speak of.
#
# How concentrated is it? The share of all effects, without their signs, that belongs to the
# strongest tenth of the heads (on pocket one of them has most of it). The control is an untrained
# model, which has effects too, tiny and spread out.


# %% short=true
def concentration(effects):
    """Share of the strongest tenth of heads in the sum of absolute effects."""
    sizes = effects.abs().flatten().sort(descending=True).values
    return sizes[: round(len(sizes) / 10)].sum() / sizes.sum()


few = slice(mi.models.by_size(model, None, 2))  # a larger model gets two of the prompts
random_heads = patch_sweep(
    mi.untrained(model), corrupt[few], OtherRun(clean[few]), LogitDiff(answers[few]), site="z",
    over=("layer", "head"), progress=False,
)  # fmt: skip
claim("heads.few", concentration(heads), control=concentration(random_heads.effect()))

# %% [markdown]
# ### At which position?
#
# The ten strongest heads once more, each at one position alone, from the giver on.
# Heads that are blue in the first column do something *with the giver's name*, those in the
# last column write to the last token. So that small effects show, the strongest colour stands for
# a twentieth of the distance between the runs, and for all that is more.

# %%
shown, places = [head for head, _ in mi.heads.top_heads(heads.abs(), 10)], range(name, end + 1)
cells = [{"z": Where(layers=[head.layer], positions=[at], heads=[head.head])}
         for head in shown for at in places]  # fmt: skip
by_position = mi.patching.ablate(model, corrupt, OtherRun(clean), metric, cells).recovery()
by_position = by_position.view(len(shown), len(places))
by_place = {"at the giver": by_position[:, 0], "at the last token": by_position[:, -1]}
figures.heatmap(
    by_position, title="Where the strongest heads act", x=pairs.str_tokens[0][name : end + 1],
    y=[str(head) for head in shown], xlabel="position (tokens of the first prompt)", limit=0.05,
    ylabel="head", colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# In GPT-2 small and in SmolLM2 heads of both kinds are strong. On pocket nearly all is done at the
# last token: no head has to notice anything at the name.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: patch some heads at some positions
# Return `z` of the corrupt run with the given heads, at the given positions and nowhere else, taken
# from the clean run.

# %% [markdown] tags=["hint"]
# `z[:, positions, heads]` with two lists pairs them up, first with first. To get every head at
# every position, index one axis at a time, or use a mask.


# %% tags=["exercise"]
def patch_heads(z, other, positions, heads):
    """z, other: [batch pos head d_head]; positions, heads: lists of numbers  ->  as z."""
    raise NotImplementedError


# %% tags=["solution"]
def patch_heads(z, other, positions, heads):
    patched = z.clone()
    for position in positions:
        patched[:, position, heads] = other[:, position, heads]
    return patched


# %% tags=["check"]
check.patch_heads(patch_heads)

# %% [markdown]
# ### Where it looks, or what it moves?
#
# A head's output changes for two reasons: it looks elsewhere (its *pattern*), or there is something
# else to read where it looks (its *values*). And the pattern changes because of *queries* or
# because of *keys*. Each can be patched alone.


# %%
def through(base, other, metric, sites, first=0):
    """Recovery [layer head] through each of some sites of the heads."""
    maps = {}
    for site in sites:
        effects = head_sweep(base, other, metric, site, first).recovery()
        maps[site] = effects.repeat_interleave(n_heads // effects.shape[1], dim=1)  # shared keys
    return maps


parts = {"z": heads} | through(corrupt, clean, metric, ("pattern", "v"))
figures.heatmap(
    torch.stack(list(parts.values())), facets=list(parts), x=columns, y=layers,
    title="What each head does through its pattern and its values",
    xlabel="head", ylabel="layer", colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# On pocket the middle panel is almost white: here heads work through what they *move*. A head that
# works through its values *carries* what others found; a head that works through its pattern
# *decides* where to look: its queries ask, and its keys are what is found. Appendix A takes those
# two apart.
#
# Are `pattern` and `v` together `z`? They need not be. A head's output is pattern times values, and
# $p'v' - pv = (p' - p)v + p(v' - v) + (p' - p)(v' - v)$: the last term is their *interaction*,
# which neither patch has alone. To see it we need a task in which both change: **induction**
# ([notebook 03](03_induction_heads.ipynb)). Random tokens are said twice, and the second time the
# model should say what followed the first time. One corrupt prompt was *never told*: its first copy
# is of other tokens, so there is no place to look at, and nothing to find there. In the other, two
# tokens of the first copy have *moved*, each to the place of the other: what is to be found has
# stayed, and only where to look is different. The claim says how much of the map is missing in the
# sum of the two, where never told; the control is the same where tokens have moved. In the figure,
# compare the left panel with the other two. (A larger model gets few prompts from here on, and its
# first quarter of layers is left out and stays white, to keep the time in bounds.)

# %%
length, asked_for, elsewhere, later = 12, 3, 8, mi.models.by_size(model, 0, n_layers // 4)
repeats, unheard = (
    mi.prompts.repeated_tokens(model, mi.models.by_size(model, 32, 2), length, seed=seed)
    for seed in (0, 1)
)
told_twice = repeats[:, : length + asked_for + 2]  # ends with the second time of one token
never_told, moved = told_twice.clone(), told_twice.clone()
never_told[:, 1 : 1 + length] = unheard[:, 1 : 1 + length]
moved[:, [1 + asked_for, 1 + elsewhere]] = told_twice[:, [1 + elsewhere, 1 + asked_for]]
follows = LogitDiff(repeats[:, [asked_for + 2, elsewhere + 2]])
split = {label: through(base, told_twice, follows, ("z", "pattern", "v"), later)
         for label, base in {"never told": never_told, "moved": moved}.items()}  # fmt: skip
missing = {label: distance(maps["z"], maps["pattern"] + maps["v"]) for label, maps in split.items()}

# %%
claim("split.together", missing["never told"], control=missing["moved"])
figures.heatmap(
    torch.stack(list(split["never told"].values())), facets=list(split["never told"]), x=columns,
    y=layers, title="Never told: where to look and what is found there, together and apart",
    xlabel="head", ylabel="layer", colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# ## 7. Denoising and noising on a model
#
# So far all was denoising. Now noising: corrupt heads into the clean run. On the pairs of section 2
# the result may surprise you.

# %%
noised = head_sweep(clean, corrupt, metric, first=later)
lost = noised.recovery()  # 0: as the clean run, 1: the answer is gone as in the corrupt run
apart = (lost - heads)[later:].abs().max()
print("largest difference of the two:", apart.item())

# %% [markdown]
# They are the same experiment. The corrupt run of one prompt *is* the clean run of its twin, so to
# noise one is to denoise the other. A symmetric corruption cannot tell "enough" from "needed".
#
# An asymmetric one can. In the next pairs the corrupt prompt has three *other* people, so that
# nobody is named twice and neither answer is in sight. All prompts share one wording, with varying
# names and both orders of them.

# %%
n_prompts = mi.models.by_size(model, 32, 4)
strangers = mi.prompts.ioi(model, n_prompts, seed=3, corruption="random", same_wording=True)
print(f"clean:    {strangers.clean[0]} …\ncorrupt:  {strangers.corrupt[0]} …")
ask = LogitDiff(strangers.answer_tokens)
enough = head_sweep(strangers.corrupt_tokens, strangers.clean_tokens, ask, first=later)
needed = head_sweep(strangers.clean_tokens, strangers.corrupt_tokens, ask, first=later)
assert apart < 1e-3 < (needed.recovery() - enough.recovery()).abs().max()

# %% [markdown]
# Each dot is a head. On the line both directions agree. A head below it is needed and not enough,
# as behind an AND; one above it is enough and not needed, as behind an OR. Or so it seems. (On
# pocket all strong heads lie below the line; the two named above it have next to no effect.)

# %%
names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
more_needed = mi.heads.top_heads(needed.recovery() - enough.recovery(), 2)
more_enough = mi.heads.top_heads(enough.recovery() - needed.recovery(), 2)
figures.scatter(
    needed.recovery().flatten(), enough.recovery().flatten(), labels=names,
    named=[str(head) for head, _ in more_needed + more_enough], identity=True,
    title="Needed is not the same as enough", xlabel="noising: share of the answer lost",
    ylabel="denoising: share brought back",
)  # fmt: skip

# %% [markdown]
# Before a dot becomes a gate: what was averaged? One half of the prompts names the receiver first,
# the other half the giver. Here are the four heads for each order by itself.


# %%
def recovered(sweep, prompts):
    """Recovery [layer head] over some of a sweep's prompts."""
    start, goal = sweep.base[prompts].mean(), sweep.target[prompts].mean()
    return (sweep.values[..., prompts].mean(-1) - start) / (goal - start)


receiver_first = (strangers.positions["IO1"] < strangers.positions["S1"]).cpu()
orders = {"receiver first": receiver_first, "giver first": ~receiver_first}
columns_of = {
    f"{kind}, {order}": recovered(run, prompts)
    for order, prompts in orders.items() for kind, run in (("needed", needed), ("enough", enough))
}  # fmt: skip
mi.figures.table(
    [{"head": str(head)} | {label: found[head].item() for label, found in columns_of.items()}
     for head, _ in more_needed + more_enough], title="The two orders of the names",
)  # fmt: skip

# %% [markdown]
# On pocket L3H4 copies the *first* name (notebook 04): for one order that is a large help, for the
# other as large a harm. The two nearly cancel in one direction of patching and less in the other,
# and a head that helps one order and harms the other looks like half of a gate. *Averages over both
# orders hide it.* The claim is the distance of the two orders' maps; the control is that of two
# halves of the prompts of one order.

# %%
halves = receiver_first.nonzero().flatten().tensor_split(2)
by_order = [recovered(enough, prompts) for prompts in orders.values()]
by_half = [recovered(enough, prompts) for prompts in halves]
claim("noising.orders", distance(*by_order), control=distance(*by_half))

# %% [markdown]
# A gate that is one by its making stands in section 6: where the prompt was never told, a head must
# look at the right place *and* find the right thing there, for its output is pattern times values.
# Here are its strongest heads in both directions. (On pocket less than a half is lost with one part
# of one head corrupt, since the other heads do the same work. By exercise 1's rule that would be
# "neither": one half is a bar for parts that nobody backs up.)

# %%
broken = through(told_twice, never_told, follows, ("pattern", "v"), later)
rows = [
    {"head": str(head), "enough: pattern": split["never told"]["pattern"][head].item(),
     "enough: values": split["never told"]["v"][head].item(), "enough: both": both,
     "needed: pattern": broken["pattern"][head].item(), "needed: values": broken["v"][head].item()}
    for head, both in mi.heads.top_heads(split["never told"]["z"], 3)
]  # fmt: skip
mi.figures.table(rows, title="Pattern and values of a head, alone and together")

# %% [markdown]
# ## 8. Choosing the corruption
#
# A patch shows what *differs* between the runs. So the corruption is half of the question:
#
# - **the other giver**: same names, same places. Asks: who carries
#   the giver's name?
# - **two other people**, one named twice again: the structure stays. Asks: who carries *which*
#   names these are?
# - **three other people**: nobody is repeated. Asks both.
# - **noise** on the three names [@meng2022rome], with three times the standard deviation of the
# embeddings (of all tokens, as they enter the stream: some models scale them first). Asks: what
# survives, when the names become something that is no name?
#
# The clean prompts are the same throughout; only the corrupt run changes.

# %%
kinds = {"the other giver": "swap", "two other people": "names", "three other people": "random"}
sets = {
    label: mi.prompts.ioi(model, n_prompts, seed=3, corruption=kind, same_wording=True)
    for label, kind in kinds.items()
}
assert len({chosen.clean for chosen in sets.values()}) == 1
people = torch.zeros_like(strangers.clean_tokens, dtype=torch.bool)
for role in ("IO1", "S1", "S2"):
    people[torch.arange(len(strangers)), strangers.positions[role]] = True
spread = model.embed(torch.arange(model.cfg.d_vocab, device=clean.device)[None]).std().item()
noised_names = Noised(strangers.clean_tokens, people, scale=3 * spread)

# %%
runs = {label: chosen.corrupt_tokens for label, chosen in sets.items()}
runs["noise on the names"] = noised_names
sweeps = {
    label: enough if label == "three other people"
    else head_sweep(base, strangers.clean_tokens, ask, first=later)
    for label, base in runs.items()
}  # fmt: skip
maps = {label: sweep.recovery() for label, sweep in sweeps.items()}
rows = [{"corruption": label, "corrupt run": sweep.base.mean().item(),
         "clean run": sweep.target.mean().item(),
         "best head": str(mi.heads.top_heads(maps[label], 1)[0][0])}
        for label, sweep in sweeps.items()]  # fmt: skip
mi.figures.table(rows, title="Logit differences of four corrupt runs")

# %% [markdown]
# Look for heads that are blue in one panel and white in another. On pocket the best head is the
# same in all four; L3H4 and L4H3 stand beside it only where there are two other people. But these
# maps, too, are averages over both orders of the names: with three other people L3H4 is strong in
# each order (the table of section 7), and what is white here may be so for that reason alone.

# %%
figures.heatmap(
    torch.stack(list(maps.values())), facets=list(maps), x=columns, y=layers,
    title="The same clean prompts, four corruptions",
    xlabel="head", ylabel="layer", colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# How unlike are two of the maps? A distance says nothing without knowing how far apart two maps of
# the *same* question are. So the control repeats the first corruption with other names and another
# wording.

# %%
again = mi.prompts.ioi(model, n_prompts, seed=4, corruption="swap", same_wording=True)
ask_again = LogitDiff(again.answer_tokens)
repeated = head_sweep(again.corrupt_tokens, again.clean_tokens, ask_again, first=later)
who, which = maps["the other giver"], maps["two other people"]
claim("corruption.differs", distance(who, which), control=distance(who, repeated.recovery()))

# %% [markdown]
# So a sentence like "this head matters for the task" is not finished. *For which difference?*
# [@zhang2023patching] compare corruptions over many tasks. The metric decides, too: appendix B.
#
# Play with it: site, direction, corruption. Find a site for which both directions agree.


# %%
def patching_map(site, direction, corruption):
    """Recovery by position for the stream, attention and MLPs, by head for the rest."""
    chosen = sets[corruption]
    runs = [chosen.corrupt_tokens, chosen.clean_tokens]
    base, other = runs if direction == "denoising" else runs[::-1]
    over = ("layer", "head" if mi.patching.SITES[site].per_head else "position")
    sweep = patch_sweep(model, base, OtherRun(other), ask, site=site, over=over, progress=False)
    x = [f"H{head}" for head in sweep.index["head"]] if "head" in over else chosen.str_tokens[0]
    return figures.heatmap(
        sweep.recovery(), title=f"{direction.capitalize()} {site}, corrupted by {corruption}",
        x=x, y=layers, xlabel=over[1], ylabel="layer", limit=1.0,
        colorbar="recovery" if direction == "denoising" else "share lost",
    )  # fmt: skip


# %%
mi.figures.explore(
    patching_map, site=["resid_pre", "attn_out", "mlp_out", "z", "pattern", "q", "k", "v"],
    direction=["denoising", "noising"], corruption=list(sets),
    start={"direction": "noising",
           "corruption": mi.models.by_size(model, "three other people", "the other giver")},
)  # fmt: skip

# %% [markdown]
# ## 9. The story, confirmed or corrected
#
# Direct attribution told a story of the last step: some late heads write the right name, or write
# against the wrong one. Patching asks about every step. Each dot is a head, with its direct share
# and its patched effect, both as shares of the distance between the runs.


# %%
def direct_shares(pairs, span):
    """What each head writes straight to the metric in the clean run and not in the corrupt one."""
    parts = [mi.lens.logit_attribution(model, tokens, pairs.answer_tokens).heads.mean(0).cpu()
             for tokens in (pairs.clean_tokens, pairs.corrupt_tokens)]  # fmt: skip
    return (parts[0] - parts[1]) / span


direct_share = direct_shares(pairs, gap)
strong = [head for head, _ in mi.heads.top_heads(heads.abs(), 6)]
figures.scatter(
    direct_share.flatten(), heads.flatten(), labels=names, identity=True,
    named=[str(head) for head in strong[:3]],
    title="Heads far above the line work through others",
    xlabel="direct share", ylabel="recovery by patching",
)  # fmt: skip

# %% [markdown]
# On the line: heads whose whole effect is what they write to the output. Far above the line: heads
# that work *through others*, in part or altogether. Is there one that the attribution cannot see?
# Choose on other prompts, those of section 8 in which the other person gives: among heads whose
# direct share is less than a tenth of the largest, the one with the strongest effect. Then look at
# it here. GPT-2 small and SmolLM2 have such a head. On pocket nothing is hidden: the best of those
# heads does no more than it writes. The strongest head of all has twice the effect of what it
# writes: the rest is brought by the MLPs after it (the last column of section 5's right panel).

# %%
asked = sweeps["the other giver"]
shares = direct_shares(sets["the other giver"], (asked.target - asked.base).mean()).abs()
unseen = asked.recovery().masked_fill(shares > shares.max() / 10, -torch.inf)
hidden = mi.heads.Head(*divmod(int(unseen.argmax()), n_heads))
print(str(hidden))
claim("story.hidden_head", heads[hidden], control=direct_share[hidden])

# %% [markdown]
# Last, a portrait of the strongest heads: where they act, through pattern or values, and which name
# they look at from there.

# %%
rows = []
roles_of = {role: pairs.positions[role].tolist() for role in ("IO1", "S1", "S2")}
for head in strong:
    place = max(by_place, key=lambda place: abs(by_place[place][shown.index(head)]))
    at = name if place == "at the giver" else end
    pattern = clean_run["pattern", head[0]][:, head[1], at]  # [prompt source]
    looks = {role: pattern[range(len(pairs)), seen].mean().item()
             for role, seen in roles_of.items()}  # fmt: skip
    by_pattern = abs(parts["pattern"][head]) > abs(parts["v"][head])
    rows.append({"head": str(head), "recovery": heads[head].item(),
                 "direct share": direct_share[head].item(), "acts": place,
                 "through": "pattern" if by_pattern else "values",
                 **{f"looks at {role}": share for role, share in looks.items()}})  # fmt: skip
mi.figures.table(rows, title="The heads with the strongest effects")

# %% [markdown] short=true
# In GPT-2 small the published circuit has these parts [@wang2022ioi]: heads that act at the second
# name and notice the repetition (*duplicate-token* and *induction* heads); heads that act at the
# last token through their values, looking at the giver (*S-inhibition* heads); and heads that
# act at the last token through their pattern, looking at the receiver (*name movers*, and negative
# ones with a minus sign). Which of them do you find in the table? A part that is missing here is
# missing in *this* model, for *this* corruption. A model may do with less: where the
# repeated name is always the giver's, it is enough to carry that name to the end through values,
# and to write against it. Nobody has to notice a repetition.
#
# ## Summary
#
# - Denoising shows what is enough, noising what is needed. On symmetric pairs they coincide. Where
#   they differ there may be a gate, or an average over prompts that a head treats in opposite ways.
# - A patch counts its firings. Self-patching changes nothing, patching everything restores the
#   other run, and both are checked before any map is read.
# - The answer sits at the giver, then at the last token; attention carries it there; few
#   heads do most of it. What a head moves and where it looks can be patched apart, and where both
#   must be right, neither alone does much.
# - The corruption is half of the question, and the metric decides which effects can show.
# - A head's direct share and its patch are two numbers.
#
# **What we have not shown.** *Through whom* a head works. A patch moves all that follows; notebook
# 07 patches single paths. Whether other parts *make up* for one that is cut is told in notebook 08.
# And one forward pass for each cell is slow on large models: notebook 06 estimates all cells from
# one backward pass.
#
# ## Where to read on
#
# - How to read patching results, gates and all: [@heimersheim2024patching].
# - Corruptions and metrics compared: [@zhang2023patching].
# - Causal tracing, and what it was used for: [@meng2022rome], sections 2 and 3.
# - The circuit that this notebook keeps meeting: [@wang2022ioi], section 3.

# %% [markdown]
# ## Appendix A: queries ask, keys are found
#
# Once more induction, and the heads that find the place. Three corruptions of the same prompt:
# another token is *asked for*; the token asked for has *moved*; or *another token follows* it, the
# two followers having changed places. Restore queries, keys or values of a single head. Which of
# the three do you expect to be blue in each panel?

# %%
other_question, another = told_twice.clone(), told_twice.clone()
other_question[:, -1] = told_twice[:, 1 + elsewhere]
another[:, [2 + asked_for, 2 + elsewhere]] = told_twice[:, [2 + elsewhere, 2 + asked_for]]
questions = {"asked for": other_question, "moved": moved, "another follows": another}
looks = {x: through(base, told_twice, follows, "qkv", later) for x, base in questions.items()}
finders = [head for head, _ in mi.heads.top_heads(looks["asked for"]["q"], 4)]
by_finder = {
    label: torch.stack([torch.stack([maps[site][head] for site in "qkv"]) for head in finders])
    for label, maps in looks.items()
}  # [head, site]
figures.heatmap(
    torch.stack(list(by_finder.values())), facets=list(by_finder), x=["q", "k", "v"],
    y=[str(head) for head in finders], title="Queries ask, keys are found, values are carried",
    xlabel="restored", ylabel="head", colorbar="recovery",
)  # fmt: skip

# %% [markdown]
# The claim: of what these heads do through keys and values, the share of the keys where tokens have
# moved; the control is the same share where another token follows. That the keys know is the work
# of an earlier head, which tells every token what stood before it: restored alone, it brings back
# what all these heads do together.


# %%
def share_of_keys(label):
    """Absolute effects through keys over those through keys and values."""
    _, by_k, by_v = by_finder[label].abs().sum(0)
    return by_k / (by_k + by_v)


claim("split.keys", share_of_keys("moved"), control=share_of_keys("another follows"))
teller, told = mi.heads.top_heads(split["moved"]["z"], 1)[0]
print(f"{teller} restored: {told:.2f}")

# %% [markdown]
# ## Appendix B: choosing the metric
#
# The same patched runs, judged by four metrics, each as a recovery: the logit difference, the
# log-probability of the right answer, its probability, and the closeness of the whole distribution
# to the clean one (minus the KL divergence). One sweep serves all. Look for dots far from the line:
# there two metrics disagree about one head.


# %%
right = strangers.answer_tokens[:, 0]
clean_logits = model(strangers.clean_tokens, logits_to_keep=1)[:, -1]
metrics = {
    "logit difference": ask,
    "log-probability": lambda logits: mi.metrics.log_prob(logits[:, -1], right),
    "probability": lambda logits: mi.metrics.prob(logits[:, -1], right),
    "minus KL": lambda logits: -mi.metrics.kl(logits[:, -1], clean_logits),
}
judged = patch_sweep(
    model, strangers.corrupt_tokens, OtherRun(strangers.clean_tokens), metrics, site="z",
    over=("layer", "head"), where=Where(layers=range(later, n_layers)), progress=False,
)  # fmt: skip
by_metric = {label: sweep.recovery() for label, sweep in judged.items()}

# %%
others, swept = list(by_metric)[1:], names[later * n_heads :]
figures.scatter(
    by_metric["logit difference"].flatten().repeat(3),
    torch.cat([by_metric[label].flatten() for label in others]),
    labels=swept * 3, groups=[label for label in others for _ in swept], identity=True,
    title="One sweep, four metrics", xlabel="recovery of the logit difference",
    ylabel="recovery of the other metric",
)  # fmt: skip

# %% [markdown]
# Where the dots leave the line, metrics disagree about the same runs. (On pocket minus KL lies on
# the log-probability, dot on dot: the clean run is all but sure of the answer.) They may disagree
# about which head comes first: on pocket the log-probability puts L3H4 there, which raises the
# first name, right or wrong, and has little for L3H2. It asks who puts *a name of this sentence*
# there; the logit difference asks who tells the two names apart. And the probability moves little
# while it is near zero, as it is in the corrupt run: in denoising it is blind to heads that work
# *against* the answer [@zhang2023patching], and here to nearly all. The claim is the distance of
# the first two maps; the control is that of the logit difference from itself, on the other half of
# the prompts.

# %%
half = len(strangers) // 2
one, other = slice(0, half), slice(half, None)
difference, log_prob = judged["logit difference"], judged["log-probability"]
claim("metric.differs", distance(recovered(difference, one), recovered(log_prob, one)),
      control=distance(recovered(difference, one), recovered(difference, other)))  # fmt: skip

# %% [markdown]
# No metric is right. The logit difference sees both signs, but only two tokens: a patch that ruins
# the sentence and spares the two names looks fine. KL sees everything, also what has nothing to do
# with the question. Report more than one.

# %% [markdown]
# ## Appendix C: tracing a fact
#
# **Causal tracing** [@meng2022rome] asks where a model looks up a fact. The prompt is the start of
# a fact; noise on the *subject's* embeddings makes the model forget who it is about; then clean
# states are restored, one at a time. The right answer is measured against that of another subject.
#
# First the facts: those that the model is surest of, with at least two tokens after the subject.
# The subject's tokens are those in which the twin, a question about another subject, differs.

# %%
drawn = mi.prompts.facts(model, 120, seed=1)
sure = mi.metrics.log_prob(model(drawn.clean_tokens), drawn.answer_tokens[:, 0])
room = drawn.positions["end"] - drawn.positions["subject"] >= 2
facts = drawn.select(
    sure.masked_fill(~room, -torch.inf).topk(mi.models.by_size(model, 24, 4)).indices.tolist()
)
ask_fact = LogitDiff(facts.answer_tokens)
subject = facts.clean_tokens != facts.corrupt_tokens
mi.figures.table(
    [{"fact": facts.clean[i], "answer": facts.answers[i], "against": facts.wrong[i]}
     for i in range(4)], title="Four of the facts",
)  # fmt: skip

# %% [markdown]
# The noise by hand: it is added to the residual stream before the first block, where the mask is
# true. `Noised` makes the same prompts for a sweep; its base run is ours.

# %%
forgotten = Noised(facts.clean_tokens, subject, scale=3 * spread)
noise = torch.randn(*subject.shape, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
added = (3 * spread * noise * subject.cpu()[..., None]).to(model.W_E)
by_hand = model.run_with_hooks(
    facts.clean_tokens, fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: x + added)]
)
roles = {"subject": facts.positions["subject"].cpu()}
roles |= {"after it": roles["subject"] + 1, "last token": facts.positions["end"].cpu()}
used = sorted({at for places in roles.values() for at in places.tolist()})
grid = Where(layers=tried, positions=used)

# %% [markdown]
# The prompts have different wordings, so positions mean different things. We sort them by role: the
# subject's last token, the token after it, and the last token. In a large model a single MLP or
# attention layer does little alone. So, as in the paper, a *window* of neighbouring layers around
# the one shown is restored together. (On pocket the last window is the last layer alone.)
# Look for an early site in the subject's row, and for a late one in the last token's.

# %%
window = max(2, n_layers // 4)


def by_role(sweep):
    """Recovery [role layer] of a sweep over layer and position, averaged over the facts."""
    each = torch.arange(len(facts))
    columns = [[used.index(at) for at in places.tolist()] for places in roles.values()]
    values = torch.stack([sweep.values[:, column, each].mean(-1) for column in columns])
    return (values - sweep.base.mean()) / (sweep.target.mean() - sweep.base.mean())


def restore(site, base=forgotten, window=window):
    """Restore a site of the noised run at the roles' positions, a window of layers at a time."""
    return patch_sweep(model, base, OtherRun(facts.clean_tokens), ask_fact, site=site, where=grid,
                       window=window, progress=False)  # fmt: skip


# %%
traced = restore("resid_pre", window=1)
assert torch.allclose(traced.base, ask_fact(by_hand).cpu(), atol=1e-3)
tracing = {"one state": by_role(traced)}
tracing[f"{window} MLPs"] = by_role(restore("mlp_out"))
tracing[f"{window} attentions"] = by_role(restore("attn_out"))
mi.figures.heatmap(
    torch.stack(list(tracing.values())), facets=list(tracing), x=[layers[i] for i in tried],
    y=list(roles), title="Where a clean state brings the fact back", xlabel="restored layer",
    ylabel="token", colorbar="recovery", subtitle=f"{mi.model_id(model)}, {len(facts)} facts",
)  # fmt: skip

# %% [markdown]
# The paper's picture, from GPT-2 XL: an early site at the *last token of the subject*, where MLPs
# matter, and a late site at the *last token*, where attention matters. Does this model show it?
# SmolLM2 has the early site: MLPs at the subject bring back nearly half, far more than those at the
# last token. On pocket the late site is plain: the last layer's attention. MLPs at the subject
# bring back a small part, and the subject's state serves as well in a late layer as in the first
# (its row in the left panel is flat): late heads read it there at any time, and there is no early
# site to find.
#
# One draw of the noise is one draw: the claim on MLPs takes the mean over several. Its control is
# what MLPs bring back at the *last* token, where they work on what attention has brought. For the
# last token itself, the last window of attentions is compared with the best one that ends before
# the last layer: had the answer been there earlier, the last layers would have nothing to bring.

# %%
n_draws = mi.models.by_size(model, 4, 2)
draws = [Noised(facts.clean_tokens, subject, scale=3 * spread, seed=1 + i) for i in range(n_draws)]
by_draw = torch.stack([by_role(restore("mlp_out", draw)).max(1).values for draw in draws])
attentions = tracing[f"{window} attentions"]
claim("tracing.subject", by_draw[:, 0].mean(), control=by_draw[:, 2].mean())
before = [i for i, layer in enumerate(tried) if layer + window // 2 < n_layers - 1]
claim("tracing.last_token", attentions[2, -1], control=attentions[2, before].max())
mi.figures.table(
    [{"MLPs restored at": role} | {f"draw {i + 1}": x for i, x in enumerate(found)}
     for role, found in zip(roles, by_draw.T.tolist(), strict=True)],
    title="The best window of MLPs, by draw of the noise",
)  # fmt: skip

# %% [markdown]
# A site where a fact comes back is not yet the site where the fact can be *changed*:
# [@hase2023localization] edited facts in GPT-J, and what tracing says of a layer told next to
# nothing about how well an edit works there.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: make it forget
# Add Gaussian noise to the embeddings of the subject's tokens, with `times` the standard deviation
# of the embedding matrix. All other tokens stay exactly as they are. Use `generator`.

# %% [markdown] tags=["hint"]
# `torch.randn(shape, generator=generator)` has standard deviation one. `mask[..., None]` has the
# shape to switch it off.


# %% tags=["exercise"]
def corrupt_subject(embeddings, mask, W_E, times, generator):
    """The embeddings with noise, [batch pos d_model].

    embeddings: [batch pos d_model]; mask: [batch pos], true on the subject; W_E: [d_vocab d_model].
    """
    raise NotImplementedError


# %% tags=["solution"]
def corrupt_subject(embeddings, mask, W_E, times, generator):
    noise = torch.randn(embeddings.shape, generator=generator)
    return embeddings + times * W_E.std() * noise * mask[..., None]


# %% tags=["check"]
check.corrupt_subject(corrupt_subject)

# %% [markdown]
# ### How much noise?
#
# Three standard deviations are a choice. With little noise nothing is forgotten, and "recovery"
# divides by next to nothing. With much noise, the stream holds little but noise. Look at how the
# recovery depends on it, and keep in mind that no level is the right one.

# %%
levels = mi.models.by_size(model, [0.5, 1, 3, 10], [1, 10])


def lost_and_found(draw):
    """Share of the logit difference lost, and recovery by MLPs at the subject, for one noise."""
    run = restore("mlp_out", draw)
    return torch.stack([1 - run.base.mean() / run.target.mean(), by_role(run)[0].max()])


noisy = [[Noised(facts.clean_tokens, subject, x * spread, seed=1 + i) for i in range(n_draws)]
         for x in levels]  # fmt: skip
found = torch.stack([torch.stack([lost_and_found(x) for x in row]).mean(0) for row in noisy])

# %%
figures.lines(
    {"share of the logit difference lost": found[:, 0],
     f"recovery by {window} MLPs at the subject": found[:, 1]},
    title="What tracing finds depends on the noise", x=[str(level) for level in levels],
    xlabel="noise, in standard deviations of the embeddings", ylabel="share",
)  # fmt: skip

# %% [markdown]
# The claim: what MLPs at the subject bring back under a little noise, and under much.

# %%
claim("tracing.noise", found[levels.index(1), 1], control=found[levels.index(10), 1])

# %% [markdown]
# ## Appendix D: states that no prompt produces
#
# A patched run is a collage of two runs, and zero or noise does not come from any run at all.
# Compare the middle of the model at the giver: how far is a corrupt state from the nearest state of
# *other ordinary prompts*, in units of the same distance for the clean prompts? Much noise is far
# from everything. So there is also noise *of the length of the change of names*, in a direction
# that no name has.


# %%
def states(tokens, change=None):
    """The stream at the giver in the middle of the model, [prompt d_model]."""
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: change(x))] if change else []
    layer = f"blocks.{n_layers // 2}.hook_resid_pre"
    with model.hooks(fwd_hooks=hooks):
        run = model.run_with_cache(tokens, names_filter=layer)[1]
    return run[layer][:, strangers.positions["S2"][0]]


# %%
many = mi.prompts.ioi(model, n_prompts + 80, seed=3, same_wording=True)
ordinary = many.clean_tokens[n_prompts:]  # the first ones are the clean prompts themselves
crowd = states(ordinary)
start = ("resid_pre", 0)
embedded = [mi.sites.read(model, tokens, [start])[start]
            for tokens in (strangers.clean_tokens, strangers.corrupt_tokens)]  # fmt: skip
noise = torch.randn(*embedded[0].shape, generator=torch.Generator().manual_seed(0)).to(embedded[0])
noise *= (embedded[1] - embedded[0]).norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)

# %%
points = {"clean": states(strangers.clean_tokens),
          "other people": states(strangers.corrupt_tokens),
          "noise of that length": states(strangers.clean_tokens, lambda x: x + noise),
          "noise of section 8": states(noised_names.tokens, noised_names.disturb)}  # fmt: skip
nearest = {label: torch.cdist(at, crowd).min(1).values.mean() for label, at in points.items()}
claim("offdist.noise", nearest["noise of that length"] / nearest["clean"],
      control=nearest["other people"] / nearest["clean"])  # fmt: skip
mi.figures.table([{"state": label, "distance to an ordinary one": (x / nearest["clean"]).item()}
                  for label, x in nearest.items()])  # fmt: skip

# %% [markdown]
# What the model does from such a state need not be what it does on any text. A corruption made of
# ordinary words is the safer choice.

# %%
claim.table()
