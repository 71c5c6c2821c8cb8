# ---
# title: Activation patching
# minutes: 90
# measured: 22 s and 1.1 GiB on pocket
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
# - trace a fact with noise, and see how much the result owes to the noise;
# - recognise self-repair and states that no prompt produces.

# %% [markdown]
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


# %%
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

# %% [markdown]
# Behind an AND, denoising A brings nothing back and noising A breaks everything: each part is
# needed and none is enough. Behind an OR it is the reverse: each is enough and none is needed.
# So a part without effect in *one* direction may still be at the heart of the mechanism. Models
# have both: steps that build on each other are ANDs, and backups are ORs.

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: name the gate
# You get both experiments for two parts and say how the parts are joined: "AND", "OR", or "A" or
# "B" if that part alone does the work. Measured numbers are never exactly 0 or 1.

# %% [markdown] tags=["hint"]
# Round each of the four numbers to 0 or 1 and write down what the four cases give. The toy above
# has two of them.


# %% tags=["exercise"]
def which_gate(denoised, noised):
    """How two parts are joined: "AND", "OR", "A" or "B".

    denoised: [2], how much of the answer comes back with A (or B) clean in the corrupt run.
    noised: [2], how much of it is lost with A (or B) corrupt in the clean run. 1 is all of it.
    """
    raise NotImplementedError


# %% tags=["solution"]
def which_gate(denoised, noised):
    enough, needed = (torch.as_tensor(x) > 0.5 for x in (denoised, noised))
    if enough.all():
        return "OR"
    if not enough.any():
        return "AND"
    return "A" if needed[0] else "B"


# %% tags=["check"]
check.which_gate(which_gate)

# %% [markdown]
# ## 2. A clean and a corrupt run
#
# The prompts are the eight of the literature: somebody gives something, and the model should
# continue with the *other* person [@wang2022ioi]. The corrupt twin lets the other person give. All
# else stays, token by token, so that whatever differs inside the model differs because of who
# gives. The metric keeps asking for the *clean* answer: in the corrupt run it should be negative.

# %%
pairs = mi.prompts.ioi_literature(model)
clean, corrupt, answers = pairs.clean_tokens, pairs.corrupt_tokens, pairs.answer_tokens
metric = mi.patching.LogitDiff(answers)
clean_diff, corrupt_diff = (metric(model(tokens)).cpu() for tokens in (clean, corrupt))
rows = [
    {"corrupt prompt": pairs.corrupt[i], "clean answer": pairs.answers[i],
     "clean run": clean_diff[i].item(), "corrupt run": corrupt_diff[i].item()}
    for i in range(len(pairs))
]  # fmt: skip
mi.figures.table(rows, title="The logit difference of the clean answer, in both runs")

# %%
claim("runs.apart", clean_diff.mean(), control=corrupt_diff.mean())

# %% [markdown]
# ## 3. One patch, by hand
#
# A patch is a hook that overwrites. Below it replaces, in the corrupt run, the residual stream
# before one layer at one position. Two habits keep patching honest. The hook *counts* its firings,
# because a patch that never took place looks exactly like a patch without effect. And two cases
# have known answers: patching a run with itself changes nothing, and patching every position
# before the first layer gives the other run.


# %%
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


# %%
n_layers, n_heads, everywhere = model.cfg.n_layers, model.cfg.n_heads, slice(None)
clean_run, corrupt_run = (model.run_with_cache(tokens)[1] for tokens in (clean, corrupt))
by_itself = (patched_run(n_layers // 2, everywhere, corrupt_run) - corrupt_diff).abs().max()
by_all = (patched_run(0, everywhere, clean_run) - clean_diff).abs().max()
claim("patch.self", max(by_itself, by_all), control=(clean_diff - corrupt_diff).abs().mean())

# %% [markdown]
# Now a patch whose outcome we do not know: only the *second name*, the one word in which the
# prompts differ, before each layer in turn. To read it, put it on a scale, the **recovery**:
# 0 is the corrupt run, 1 is the clean run.

# %%
name, end = (pairs.positions[role][0].item() for role in ("S2", "end"))
at_name = torch.stack([patched_run(layer, name, clean_run) for layer in range(n_layers)])
gap = (clean_diff - corrupt_diff).mean()
by_hand = (at_name - corrupt_diff).mean(-1) / gap
mi.figures.lines(
    {"second name": by_hand}, title="The second name holds the answer, and then it does not",
    x=[f"L{layer}" for layer in range(n_layers)], xlabel="patched before layer",
    ylabel="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# `mi.patching.patch_sweep` patches every cell of a grid in this way. It runs many cells in one
# batch and starts each at its patched layer; the numbers are the same. (It also counts firings,
# patches a run with itself and patches everything, and refuses to go on if one of them is wrong.)

# %%
from mi_helpers.patching import LogitDiff, Noised, OtherRun, Where, Zero, ablate, patch_sweep

sweep = patch_sweep(model, corrupt, OtherRun(clean), metric, site="resid_pre", progress=False)
stream = sweep.recovery()  # [layer position]
assert torch.allclose(sweep.values[:, name], at_name, atol=1e-3)
assert torch.allclose(stream[:, name], by_hand, atol=1e-3)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 2: recovery
# Put patched values of a metric on the scale from corrupt (0) to clean (1), over prompts: one
# number for each cell. Some prompts hardly tell the runs apart. Make sure that they do not spoil
# the rest.

# %% [markdown] tags=["hint"]
# A ratio explodes where its denominator is small. Average first, divide afterwards.


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

# %% [markdown]
# ## 4. The residual stream, layer by position
#
# All cells at once. Read the figure from top to bottom, as the model computes. Where is the
# information at first, where is it at the end, and in which layers does it move? And why is
# everything left of the second name exactly zero?

# %%
layers = [f"L{layer}" for layer in range(n_layers)]
mi.figures.heatmap(
    stream, title="The answer moves from the second name to the last token",
    x=pairs.str_tokens[0], y=layers, xlabel="position (tokens of the first prompt)",
    ylabel="patched before layer", colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Left of the second name both prompts are the same, and a model that reads from left to right
# computes the same. So the two runs have the same activations there, and there is nothing to patch.
#
# The two claims are the two ends of the journey. First: half-way up to the middle of the model,
# patching the name is nearly as good as changing the prompt. The control is the token after it,
# which can read the name as well. Second: before the last layer, the last token has it all.

# %%
early = n_layers // 2 - 1
claim("stream.early", stream[early, name], control=stream[early, name + 1])
claim("stream.late", stream[-1, end], control=stream[-1, name])

# %% [markdown]
# ## 5. Attention or MLP?
#
# The stream is a sum: to patch it is to patch everything written so far. To see who *moves* the
# information, patch what single sublayers write. Only positions from the second name on are shown.
# In the middle panel look at the column of the last token, in the right one at the column of the
# name.

# %%
after_name = Where(positions=range(name, end + 1))
blocks = {
    site: patch_sweep(model, corrupt, OtherRun(clean), metric, site=site, where=after_name,
                      progress=False).recovery()
    for site in ("resid_pre", "attn_out", "mlp_out")
}  # fmt: skip
mi.figures.heatmap(
    torch.stack(list(blocks.values())), facets=list(blocks),
    title="Attention brings the answer to the last token",
    x=pairs.str_tokens[0][name:], y=layers, xlabel="position", ylabel="layer",
    colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Only attention moves information between positions; an MLP works on what is there. So what reaches
# the last token comes through attention layers. MLPs at the last token could still matter, by
# working on what arrived; the control says how much the most important one does.

# %%
attn_out, mlp_out = blocks["attn_out"], blocks["mlp_out"]
claim("blocks.attention_moves", attn_out[:, -1].max(), control=mlp_out[:, -1].max())

# %% [markdown]
# At the name itself the *first* MLP can matter a great deal: in GPT-2 it works like a second
# embedding, and later layers read the word from it as much as from the embedding. How much does its
# output bring back, and how much any other MLP, at any position?

# %%
claim("blocks.first_mlp", mlp_out[0, 0], control=mlp_out[1:].max())

# %% [markdown]
# ## 6. Heads
#
# One step finer: `z`, the output of a single head before `W_O`, at all positions together. By hand
# for one head, then for all.


# %%
def patched_head(layer, head):
    """Mean recovery of the corrupt run with one head's output, everywhere, from the clean run."""
    other, fired = clean_run["z", layer], []

    def put(z, hook):
        fired.append(hook.name)
        z = z.clone()
        z[:, :, head] = other[:, :, head]
        return z

    logits = model.run_with_hooks(corrupt, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put)])
    assert len(fired) == 1, "the patch never took place"
    return (metric(logits).cpu() - corrupt_diff).mean() / gap


# %%
def head_sweep(base, other, metric, site="z", where=None):
    """Patch each head of `base` from `other`, at all positions or those given."""
    return patch_sweep(model, base, OtherRun(other), metric, site=site, where=where,
                       over=("layer", "head"), progress=False)  # fmt: skip


denoised = head_sweep(corrupt, clean, metric)
heads = denoised.recovery()  # [layer head]
best = mi.heads.top_heads(heads, 1)[0][0]
assert torch.isclose(heads[best], patched_head(*best), atol=1e-3)

# %% [markdown]
# Before you look: would you expect many heads to matter a little, or few to matter much? And what
# does a red cell mean?

# %%
columns = [f"H{head}" for head in range(n_heads)]
mi.figures.heatmap(
    heads, title=f"Few heads carry it; {mi.heads.head_name(best)} alone brings back most",
    x=columns, y=layers, xlabel="head", ylabel="layer", colorbar="recovery",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Red: with this head's *clean* output the answer gets worse. Such heads write against the answer,
# and in the clean run others overrule them.
#
# How concentrated is it? The share of all effects, without their signs, that belongs to the
# strongest tenth of the heads. The control is an untrained model, which has effects too, tiny and
# spread out.


# %%
def concentration(effects):
    """Share of the strongest tenth of heads in the sum of absolute effects."""
    sizes = effects.abs().flatten().sort(descending=True).values
    return sizes[: round(len(sizes) / 10)].sum() / sizes.sum()


random_model = mi.untrained(model)
random_heads = patch_sweep(
    random_model, corrupt, OtherRun(clean), metric, site="z", over=("layer", "head"), progress=False
)
claim("heads.few", concentration(heads), control=concentration(random_heads.effect()))

# %% [markdown]
# ### At which position?
#
# The same sweep at two single positions. Heads in the left panel do something *with the second
# name*. Heads in the right panel write to the last token. No head needs to be in both.

# %%
places = {"at the second name": name, "at the last token": end}
by_place = {
    place: head_sweep(corrupt, clean, metric, where=Where(positions=[position])).recovery()
    for place, position in places.items()
}
mi.figures.heatmap(
    torch.stack(list(by_place.values())), facets=list(by_place), x=columns, y=layers,
    title="Heads that act at the name, and heads that act at the last token",
    xlabel="head", ylabel="layer", colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# The claim puts a number on "early" and "late": the mean layer of the effects at the last token,
# each weighted by its size, and as the control that of the effects at the name. Unit: the depth of
# the model.

# %%
depth = {
    place: (effects.abs().sum(1) * torch.arange(n_layers)).sum() / effects.abs().sum() / n_layers
    for place, effects in by_place.items()
}
claim("heads.depth", depth["at the last token"], control=depth["at the second name"])

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
parts = {"z": heads}
for site in ("pattern", "v", "q", "k"):
    effects = head_sweep(corrupt, clean, metric, site).recovery()
    parts[site] = effects.repeat_interleave(n_heads // effects.shape[1], dim=1)  # shared keys
mi.figures.heatmap(
    torch.stack(list(parts.values())), facets=list(parts), x=columns, y=layers,
    title="What each head does through its pattern, values, queries and keys",
    xlabel="head", ylabel="layer", colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Compare panels. Do `pattern` and `v` together look like `z`? Which heads are in one of them only?
# Does `q` look like `pattern`, or does `k`? A distance between two maps answers: the sum of their
# differences, as a share of the first map. 0 says that they are the same.


# %%
def distance(a, b):
    """Sum of absolute differences over the sum of absolute values of the first map."""
    return (a - b).abs().sum() / a.abs().sum()


both = parts["pattern"] + parts["v"]
claim("split.sum", distance(parts["z"], both), control=distance(parts["z"], parts["v"]))
by_q, by_k = (distance(parts["pattern"], parts[site]) for site in "qk")
claim("split.queries", by_q, control=by_k)

# %% [markdown]
# A head that works through its values *carries* what others found; a head that works through its
# pattern *decides* where to look. For these prompts there is a reason why keys can do little: all
# tokens before the second name are the same in both runs, and so are their keys. What changes is
# who asks.

# %% [markdown]
# ## 7. Denoising and noising on a model
#
# So far all was denoising. Now noise: corrupt heads into the clean run. On the swapped pairs the
# result may surprise you.

# %%
noised = head_sweep(clean, corrupt, metric)
lost = noised.recovery()  # 0: as the clean run, 1: the answer is gone as in the corrupt run
print("largest difference of the two:", (lost - heads).abs().max().item())

# %% [markdown]
# They are the same experiment. The corrupt run of one prompt *is* the clean run of its twin, so to
# noise one is to denoise the other. A symmetric corruption cannot tell "enough" from "needed".
#
# An asymmetric one can. In the next pairs the corrupt prompt has three *other* people, so that
# nobody is named twice and neither answer is in sight. All prompts share one wording, with varying
# names and both orders of them. (A larger model gets fewer of them, to keep the time in bounds.)

# %%
n_prompts = 32 if n_layers < 12 else 6
strangers = mi.prompts.ioi(model, n_prompts, seed=3, corruption="random", same_wording=True)
print(f"clean:    {strangers.clean[0]} …\ncorrupt:  {strangers.corrupt[0]} …")
ask = LogitDiff(strangers.answer_tokens)
enough = head_sweep(strangers.corrupt_tokens, strangers.clean_tokens, ask)
needed = head_sweep(strangers.clean_tokens, strangers.corrupt_tokens, ask)
differ = (needed.recovery() - enough.recovery()).abs().max()
claim("noising.swap", (lost - heads).abs().max(), control=differ)

# %% [markdown]
# Each dot is a head. On the line both directions agree. Below it are heads that are needed and not
# enough, as behind an AND: they tell others what to do, and in the corrupt run the others have
# nothing to do it with. Above it are heads that are enough and not needed, as behind an OR.

# %%
names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
more_needed = mi.heads.top_heads(needed.recovery() - enough.recovery(), 2)
more_enough = mi.heads.top_heads(enough.recovery() - needed.recovery(), 2)
mi.figures.scatter(
    needed.recovery().flatten(), enough.recovery().flatten(), labels=names,
    named=[mi.heads.head_name(head) for head, _ in more_needed + more_enough], identity=True,
    title="Needed is not the same as enough", xlabel="noising: share of the answer lost",
    ylabel="denoising: share brought back", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Is the distance from the line more than chance? Choose, on one half of the prompts, the head whose
# effect by noising most exceeds *twice* its effect by denoising, and measure both effects on the
# other half.


# %%
def recovered(sweep, prompts):
    """Recovery [layer head] over some of a sweep's prompts."""
    start, goal = sweep.base[prompts].mean(), sweep.target[prompts].mean()
    return (sweep.values[..., prompts].mean(-1) - start) / (goal - start)


half = len(strangers) // 2
choose, test = slice(0, half), slice(half, None)
excess = recovered(needed, choose) - 2 * recovered(enough, choose)
teller = mi.heads.top_heads(excess, 1)[0][0]
print(mi.heads.head_name(teller))
claim("noising.needed_not_enough", recovered(needed, test)[teller],
      control=recovered(enough, test)[teller])  # fmt: skip

# %% [markdown]
# ## 8. Choosing the corruption
#
# A patch shows what *differs* between the runs. So the corruption is half of the question:
#
# - **the other giver**: same names, same places. Asks: who finds out which name is repeated?
# - **two other people**, one named twice again: the structure stays. Asks: who carries *which*
#   names these are?
# - **three other people**: nobody is repeated. Asks both.
# - **noise** on the three names [@meng2022rome], with three times the standard deviation of the
#   embeddings. Asks: what survives, when the names become something that is no name?
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
spread = model.W_E.std().item()
noised_names = Noised(strangers.clean_tokens, people, scale=3 * spread)

# %%
runs = {label: chosen.corrupt_tokens for label, chosen in sets.items()}
runs["noise on the names"] = noised_names
sweeps = {
    label: enough if label == "three other people"
    else head_sweep(base, strangers.clean_tokens, ask)
    for label, base in runs.items()
}  # fmt: skip
maps = {label: sweep.recovery() for label, sweep in sweeps.items()}
rows = [{"corruption": label, "corrupt run": sweep.base.mean().item(),
         "clean run": sweep.target.mean().item(),
         "best head": mi.heads.head_name(mi.heads.top_heads(maps[label], 1)[0][0])}
        for label, sweep in sweeps.items()]  # fmt: skip
mi.figures.table(rows, title="Logit differences of four corrupt runs")

# %% [markdown]
# Look for heads that are blue in one panel and white in another. Which corruption makes heads
# visible that write at the end? Which shows heads that notice a repetition?

# %%
mi.figures.heatmap(
    torch.stack(list(maps.values())), facets=list(maps), x=columns, y=layers,
    title="The same clean prompts, four corruptions",
    xlabel="head", ylabel="layer", colorbar="recovery", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# How unlike are two of the maps? A distance says nothing without knowing how far apart two maps of
# the *same* question are. So the control repeats the first corruption with other names and another
# wording.

# %%
again = mi.prompts.ioi(model, n_prompts, seed=4, corruption="swap", same_wording=True)
repeated = head_sweep(again.corrupt_tokens, again.clean_tokens, LogitDiff(again.answer_tokens))
who, which = maps["the other giver"], maps["two other people"]
claim("corruption.differs", distance(who, which), control=distance(who, repeated.recovery()))

# %% [markdown]
# So a sentence like "this head matters for the task" is not finished. *For which difference?*
# [@zhang2023patching] compare corruptions over many tasks.
#
# Play with it: site, direction, corruption. Find a corruption for which keys matter. Find a site
# for which both directions agree.


# %%
def patching_map(site, direction, corruption):
    """Recovery by position for the stream, attention and MLPs, by head for the rest."""
    chosen = sets[corruption]
    runs = [chosen.corrupt_tokens, chosen.clean_tokens]
    base, other = runs if direction == "denoising" else runs[::-1]
    over = ("layer", "head" if mi.patching.SITES[site].per_head else "position")
    sweep = patch_sweep(model, base, OtherRun(other), ask, site=site, over=over, progress=False)
    x = [f"H{head}" for head in sweep.index["head"]] if "head" in over else chosen.str_tokens[0]
    return mi.figures.heatmap(
        sweep.recovery(), title=f"{direction.capitalize()} {site}, corrupted by {corruption}",
        x=x, y=layers, xlabel=over[1], ylabel="layer", subtitle=mi.model_id(model),
        colorbar="recovery" if direction == "denoising" else "share lost",
    )  # fmt: skip


# %%
mi.figures.explore(
    patching_map, site=["resid_pre", "attn_out", "mlp_out", "z", "pattern", "q", "k", "v"],
    direction=["denoising", "noising"], corruption=list(sets),
    start={"direction": "noising", "corruption": "three other people"},
)  # fmt: skip

# %% [markdown]
# ## 9. Choosing the metric
#
# The same patched runs, judged by four metrics, each as a recovery: the logit difference, the
# log-probability of the right answer, its probability, and the closeness of the whole distribution
# to the clean one (minus the KL divergence). One sweep serves all.


# %%
right = strangers.answer_tokens[:, 0]
clean_logits = model(strangers.clean_tokens)[:, -1]
metrics = {
    "logit difference": ask,
    "log-probability": lambda logits: mi.metrics.log_prob(logits[:, -1], right),
    "probability": lambda logits: mi.metrics.prob(logits[:, -1], right),
    "minus KL": lambda logits: -mi.metrics.kl(logits[:, -1], clean_logits),
}
judged = mi.patching.patch_sweeps(
    model, strangers.corrupt_tokens, OtherRun(strangers.clean_tokens), metrics, site="z",
    over=("layer", "head"), progress=False,
)  # fmt: skip
by_metric = {label: sweep.recovery() for label, sweep in judged.items()}

# %%
others = list(by_metric)[1:]
mi.figures.scatter(
    by_metric["logit difference"].flatten().repeat(3),
    torch.cat([by_metric[label].flatten() for label in others]),
    labels=names * 3, groups=[label for label in others for _ in names], identity=True,
    title="One sweep, four metrics", xlabel="recovery of the logit difference",
    ylabel="recovery of the other metric", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Look left of zero, at heads with a *negative* effect on the logit difference, if there are any. In
# the corrupt run the right answer has next to no probability. A head that pushes it down further
# cannot lower the probability by much: it is near zero already. So in denoising, probability is
# blind to heads that work against the answer [@zhang2023patching]. The claim: the most negative
# effect as a share of the most positive one.


# %%
def negative_share(effects):
    """Size of the most negative effect over that of the most positive one."""
    return -effects.min() / effects.max()


claim("metric.negative", negative_share(by_metric["probability"]),
      control=negative_share(by_metric["logit difference"]))  # fmt: skip

# %% [markdown]
# No metric is right. The logit difference sees both signs, but only two tokens: a patch that ruins
# the sentence and spares the two names looks fine. KL sees everything, also what has nothing to do
# with the question. Report more than one.

# %% [markdown]
# ## 10. Tracing a fact
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
    sure.masked_fill(~room, -torch.inf).topk(24 if n_layers < 12 else 8).indices.tolist()
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
added = (3 * spread * noise * subject.cpu()[..., None]).to(clean_logits)
by_hand = model.run_with_hooks(
    facts.clean_tokens, fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: x + added)]
)
traced = patch_sweep(model, forgotten, OtherRun(facts.clean_tokens), ask_fact, progress=False)
assert torch.allclose(traced.base, ask_fact(by_hand).cpu(), atol=1e-3)

# %% [markdown]
# The prompts have different wordings, so positions mean different things. We sort them by role: the
# subject's last token, the token after it, and the last token. A single MLP or attention layer does
# little alone; as the paper does, a *window* of neighbouring layers is restored together.

# %%
roles = {"subject": facts.positions["subject"].cpu()}
roles |= {"after it": roles["subject"] + 1, "last token": facts.positions["end"].cpu()}
window = max(2, n_layers // 4)


def by_role(sweep):
    """Recovery [role layer] of a sweep over layer and position, averaged over the facts."""
    each = torch.arange(len(facts))
    values = torch.stack([sweep.values[:, at, each].mean(-1) for at in roles.values()])
    return (values - sweep.base.mean()) / (sweep.target.mean() - sweep.base.mean())


def restore(site, base=forgotten):
    """Restore a site of the noised run at each position, a window of layers at a time."""
    return patch_sweep(model, base, OtherRun(facts.clean_tokens), ask_fact, site=site,
                       window=window, progress=False)  # fmt: skip


# %%
tracing = {"one state": by_role(traced)}
tracing[f"{window} MLPs"] = by_role(restore("mlp_out"))
tracing[f"{window} attentions"] = by_role(restore("attn_out"))
mi.figures.heatmap(
    torch.stack(list(tracing.values())), facets=list(tracing), x=layers, y=list(roles),
    title="Where a clean state brings the fact back", xlabel="restored layer", ylabel="token",
    colorbar="recovery", subtitle=f"{mi.model_id(model)}, {len(facts)} facts",
)  # fmt: skip

# %% [markdown]
# The paper's picture, from GPT-2 XL: an early site at the *last token of the subject*, where MLPs
# matter, and a late site at the *last token*, where attention matters. Does this model show it? The
# claims compare MLP windows at the subject with those at the token after it, and for the last token
# attention with MLPs.

# %%
_, mlps, attentions = tracing.values()
claim("tracing.subject", mlps[0].max(), control=mlps[1].max())
claim("tracing.last_token", attentions[2].max(), control=mlps[2].max())

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
levels = [0.5, 1, 2, 3, 5, 10] if n_layers < 12 else [0.5, 1, 3, 10]
noisy = [restore("mlp_out", Noised(facts.clean_tokens, subject, x * spread)) for x in levels]
share_lost = torch.stack([1 - run.base.mean() / run.target.mean() for run in noisy])
at_subject = torch.stack([by_role(run)[0].max() for run in noisy])
mi.figures.lines(
    {"share of the logit difference lost": share_lost,
     f"recovery by {window} MLPs at the subject": at_subject},
    title="What tracing finds depends on the noise", x=[str(level) for level in levels],
    xlabel="noise, in standard deviations of the embeddings", ylabel="share",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("tracing.noise", share_lost[levels.index(3)], control=share_lost[0])

# %% [markdown]
# ## 11. What patching misses
#
# **What others do about it.** Take the head with the largest direct share of the logit difference,
# among those that have layers after them, and cut it at the last token (zero, as in the published
# experiment). If no other part took notice, the logit difference would fall by just its share.

# %%
before = mi.lens.logit_attribution(model, clean, answers)
direct = before.heads.mean(0).cpu()  # [layer head]
mover = mi.heads.top_heads(direct[:-1], 1)[0][0]
cut_out = {"z": Where(layers=[mover[0]], positions=[-1], heads=[mover[1]])}
drop = -ablate(model, clean, Zero(), metric, [cut_out]).effect()[0]
print(mi.heads.head_name(mover))
claim("repair.drop", drop, control=direct[mover])

# %% [markdown]
# A drop *smaller* than the share: others made up for the head. This is **self-repair**. It is what
# GPT-2 small does here: backup heads push more, and heads that wrote against the answer, because
# this head had written for it, push less [@wang2022ioi; @mcgrath2023hydra]. A drop *larger* than
# the share: others built on what the head wrote. Both can happen in one model. Who was it?
# Attribute again, in the run without the head.


# %%
def attribution_without(head):
    """Direct shares of all parts while one head writes nothing at the last token."""

    def cut(z, hook):
        z = z.clone()
        z[:, -1, head[1]] = 0
        return z

    with model.hooks(fwd_hooks=[(f"blocks.{head[0]}.attn.hook_z", cut)]):
        return mi.lens.logit_attribution(model, clean, answers)


def shares(attribution):
    """Mean direct shares of the heads and then of the MLPs, [part]."""
    return torch.cat([attribution.heads.flatten(1), attribution.mlps], dim=1).mean(0).cpu()


# %% [markdown]
# On the line nothing changed; the head that was cut is at zero. Above the line a part pushes more
# for the answer than before, or less against it; below the line it pushes less.

# %%
labels = names + [f"MLP{layer}" for layer in range(n_layers)]
without = attribution_without(mover)
changed = (shares(without) - shares(before)).abs().topk(4).indices.tolist()
mi.figures.scatter(
    shares(before), shares(without), labels=labels, named=[labels[i] for i in changed],
    title=f"Without {mi.heads.head_name(mover)}, later parts change what they write",
    xlabel="direct share of the logit difference", identity=True,
    ylabel=f"the same without {mi.heads.head_name(mover)}", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# The claim adds up what all other parts changed. The control cuts, in the same layer, the head with
# the smallest direct share.


# %%
def change_of_others(head):
    """What all parts but one head write more when it is cut."""
    rest = before.total().mean().cpu() - direct[head]
    return attribution_without(head).total().mean().cpu() - rest


idle = (mover[0], int(direct[mover[0]].abs().argmin()))
claim("repair.others", change_of_others(mover), control=change_of_others(idle))

# %% [markdown]
# So the drop of an ablation is not what a part contributes, wherever later parts react. Self-repair
# is the OR gate of section 1, in a real model.
#
# **States that no prompt produces.** A patched run is a collage of two runs, and zero or noise does
# not come from any run at all. Compare the middle of the model at the second name: how far is a
# corrupt state from the nearest state of *other ordinary prompts*, in units of the same distance
# for the clean prompts?


# %%
def states(tokens, change=None):
    """The stream at the second name in the middle of the model, [prompt d_model]."""
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: change(x))] if change else []
    layer = f"blocks.{n_layers // 2}.hook_resid_pre"
    with model.hooks(fwd_hooks=hooks):
        run = model.run_with_cache(tokens, names_filter=layer)[1]
    return run[layer][:, strangers.positions["S2"][0]]


many = mi.prompts.ioi(model, n_prompts + 80, seed=3, same_wording=True)
ordinary = many.clean_tokens[n_prompts:]  # the first ones are the clean prompts themselves
crowd = states(ordinary)
points = {"clean": states(strangers.clean_tokens),
          "other people": states(strangers.corrupt_tokens),
          "noise": states(noised_names.tokens, noised_names.disturb)}  # fmt: skip
nearest = {label: torch.cdist(at, crowd).min(1).values.mean() for label, at in points.items()}

# %%
claim("offdist.noise", nearest["noise"] / nearest["clean"],
      control=nearest["other people"] / nearest["clean"])  # fmt: skip

# %% [markdown]
# What the model does from such a state need not be what it does on any text. A corruption made of
# ordinary words is the safer choice.

# %% [markdown]
# ## 12. The story, confirmed or corrected
#
# Direct attribution told a story of the last step: some late heads write the right name, and a few
# write against it. Patching asks about every step. Each dot is a head, with its direct share and
# its patched effect, both as shares of the distance between the runs.

# %%
in_corrupt = mi.lens.logit_attribution(model, corrupt, answers).heads.mean(0).cpu()
direct_share = (direct - in_corrupt) / gap
strong = [head for head, _ in mi.heads.top_heads(heads.abs(), 6)]
mi.figures.scatter(
    direct_share.flatten(), heads.flatten(), labels=names, identity=True,
    named=[mi.heads.head_name(head) for head in strong[:3]],
    title="Heads far above the line work through others",
    xlabel="direct share", ylabel="recovery by patching", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# On the line: heads whose whole effect is what they write to the output. Far above the line: heads
# that work *through others*, in part or altogether, which the attribution could not see. The claim
# is the head farthest above the line: its patched effect, and as the control its direct share.

# %%
hidden = divmod(int((heads - direct_share).argmax()), n_heads)
print(mi.heads.head_name(hidden))
claim("story.hidden_head", heads[hidden], control=direct_share[hidden])

# %% [markdown]
# Last, a portrait of the strongest heads: where they act, through pattern or values, and which name
# they look at from there.

# %%
rows = []
roles_of = {role: pairs.positions[role].tolist() for role in ("IO1", "S1", "S2")}
for head in strong:
    place, at = max(places.items(), key=lambda item: abs(by_place[item[0]][head]))
    pattern = clean_run["pattern", head[0]][:, head[1], at]  # [prompt source]
    looks = {role: pattern[range(len(pairs)), seen].mean().item()
             for role, seen in roles_of.items()}  # fmt: skip
    by_pattern = abs(parts["pattern"][head]) > abs(parts["v"][head])
    rows.append({"head": mi.heads.head_name(head), "recovery": heads[head].item(),
                 "direct share": direct_share[head].item(), "acts": place,
                 "through": "pattern" if by_pattern else "values",
                 **{f"looks at {role}": share for role, share in looks.items()}})  # fmt: skip
mi.figures.table(rows, title="The heads with the strongest effects")

# %% [markdown]
# In GPT-2 small the published circuit has these parts [@wang2022ioi]: heads that act at the second
# name and notice the repetition (*duplicate-token* and *induction* heads); heads that act at the
# last token through their values, looking at the second name (*S-inhibition* heads); and heads that
# act at the last token through their pattern, looking at the receiver (*name movers*, and negative
# ones with a minus sign). Which of them do you find in the table? A part that is missing here is
# missing in *this* model, for *this* corruption. A model may do with less: where the second name is
# always the giver, it is enough to carry that name to the end through values, and to write against
# it. Nobody has to notice a repetition.
#
# ## Summary
#
# - Denoising shows what is enough, noising what is needed. On symmetric pairs they coincide; in
#   general they differ, and the difference tells ANDs from ORs.
# - A patch counts its firings. Self-patching changes nothing, patching everything restores the
#   other run, and both are checked before any map is read.
# - The answer sits at the second name, then at the last token; attention carries it there; few
#   heads do most of it, some by what they move and some by where they look.
# - The corruption is half of the question, and the metric decides which effects can show.
# - Tracing depends on the amount of noise; noise makes states that no prompt makes.
# - Later parts react to a cut: they make up for it or fall with it. A head's share, its ablation
#   and its patch are three numbers.
#
# **What we have not shown.** *Through whom* a head works. A patch moves all that follows; notebook
# 07 patches single paths. And one forward pass for each cell is slow on large models: notebook 06
# estimates all cells from one backward pass.
#
# ## Where to read on
#
# - How to read patching results, gates and all: [@heimersheim2024patching].
# - Corruptions and metrics compared: [@zhang2023patching].
# - Causal tracing, and what it was used for: [@meng2022rome], sections 2 and 3.
# - The circuit that this notebook keeps meeting: [@wang2022ioi], section 3; self-repair in
#   general: [@mcgrath2023hydra].

# %%
claim.table()
