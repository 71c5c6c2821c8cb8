# ---
# title: "Greater-than: a second task, position by position"
# minutes: 70
# ---

# %% [markdown]
# **The question.** "The war lasted from the year 1732 to the year 17": what comes next is a year
# later than 32. How does a model make sure of that? And *where*, in the prompt and in the layers?
#
# **You need** activation patching ([notebook 05](05_activation_patching.ipynb)), and scores of
# edges and faithfulness ([07](07_paths_and_circuits.ipynb)). CPR and CMD are from
# [notebook 23](23_known_circuits.ipynb).
#
# **You will be able to**
#
# - measure a behaviour that has many right answers;
# - follow a piece of information through positions and layers;
# - see what an MLP does to the logits, and which of its neurons do it;
# - score and keep an edge *at a position*, and say what that gains and what it does not;
# - carry a circuit over to a prompt of another wording.
#
# The task and its first circuit are those of [@hanna2023greater], in GPT-2 small.

# %% [markdown] short=true
# ## 1. A question with many right answers
#
# In notebook 07 one name was right and one was wrong. Here every later year is right. So we take
# the **probability difference**: the probability of all years later than the start, minus that of
# all years that are not. It is 1 for a model that never errs and −1 for one that always does. By
# hand, for a model that knows only five years, and a span that starts in 32:

# %% short=true
from mi_helpers import circuits, patching
from mi_helpers.patching import Integrated, OtherRun

made_up = {30: 0.1, 31: 0.2, 32: 0.1, 33: 0.4, 34: 0.2}
later = sum(p for year, p in made_up.items() if year > 32)
not_later = sum(p for year, p in made_up.items() if year <= 32)
assert abs(later - not_later - 0.2) < 1e-9  # 32 itself counts as not later

# %% [markdown] short=true
# **What is one answer?** That is up to the tokenizer. GPT-2's and pocket's make the year of two
# pairs of digits, `17` and `32`: the next token is one of a hundred years. SmolLM2's takes each
# digit alone: after `17` the next token is only the *decade*. Then a later decade is right and an
# earlier one is wrong. The start's own decade is neither, since 1735 is later than 1732 and 1730 is
# not; unless the start ends in 9, for then no year of its decade is later. Which case is it here,
# and where in the prompt does the year stand?

# %% short=true
spans = mi.prompts.year_spans(model, mi.models.by_size(model, 200, 40))
pairs, answers, starts = spans.pairs, spans.answers, spans.starts
print(f"{len(answers.texts)} answers: {', '.join(answers.texts[:4])}, …")
print("|".join(pairs.str_tokens[0]))
print(pairs.clean[0], pairs.corrupt[0], sep="\n")
with torch.no_grad():
    logits = model(pairs.clean_tokens)
probs = spans.probabilities(logits)  # [prompt answer]

# %% [markdown] short=true
# Below the prompt stands its **corrupt twin**, the same with the start 02: nearly every year is
# later than that. (The paper takes 01. In pocket's texts no span starts there.) We will need it for
# patching.
#
# The helper's metric, checked with a loop over the years that an answer can still become:

# %%
years_each = 100 // len(answers.texts)  # how many years begin with an answer
differences = spans.prob_diff(logits)
for prompt in range(5):
    total = 0.0
    for i in range(len(answers.texts)):
        years = range(i * years_each, (i + 1) * years_each)
        is_later = [year > starts[prompt] for year in years]
        sign = 1 if all(is_later) else 0 if any(is_later) else -1
        total += sign * probs[prompt, i].item()
    assert abs(total - differences[prompt].item()) < 1e-5

# %% [markdown]
# A large difference alone proves little: a model that always says 95 would have one. So the first
# control deals out the starts anew among the prompts: the same predictions, judged by the start of
# another prompt. The table has an untrained model of the same shape, too.

# %%
order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))
dealt = mi.metrics.ProbDiff(answers.tokens, answers.signs(starts[order]))
random_model = mi.untrained(model)
with torch.no_grad():
    by_chance = random_model(pairs.clean_tokens)
    twins = model(pairs.corrupt_tokens)
mi.figures.table(
    [{"prompts": name, "probability difference": value.mean().item()} for name, value in (
        ("clean", differences), ("clean, starts dealt anew", dealt(logits)),
        ("corrupt twins, judged by the clean start", spans.prob_diff(twins)),
        ("clean, untrained model", spans.prob_diff(by_chance)))],
    title="The model says years that are later than the start it has read",
)  # fmt: skip

# %% short=true
claim("greater.difference", differences.mean(), control=dealt(logits).mean())

# %% [markdown]
# The difference may come from far away years. The paper's second measure is the **cutoff
# sharpness**: the probability of the answer right after the start's own, minus that of the one
# right before. (Where an answer is a decade: of the next decade minus the one before.) It is small
# where there are a hundred answers, since each of them gets little. The same control again.

# %%
dealt_cutoff = mi.metrics.ProbDiff(answers.tokens, answers.cutoff(starts[order]))
claim("greater.cutoff", spans.cutoff_sharpness(logits).mean(), control=dealt_cutoff(logits).mean())

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: the probability difference
# From the probabilities of the hundred years of a century, `00` first, and the start of each
# prompt, compute one difference for each prompt.

# %% [markdown] tags=["hint"]
# `torch.arange(100) > starts[:, None]` is a table of prompts and years that says which are later.


# %% tags=["exercise"]
def probability_difference(probs, starts):
    """probs: [batch 100]; starts: [batch], from 0 to 98  ->  [batch]."""
    raise NotImplementedError


# %% tags=["solution"]
def probability_difference(probs, starts):
    later = torch.arange(100) > starts[:, None]
    return torch.where(later, probs, -probs).sum(-1)


# %% tags=["check"]
check.probability_difference(probability_difference)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: one digit at a time
# Where each digit is a token, an answer is a decade. Say for each start and each of the ten decades
# whether all of its years are later than the start (1), none of them (−1), or some (0).

# %% [markdown] tags=["hint"]
# Decade $d$ runs from $10d$ to $10d + 9$. All are later if its *first* year is; none is if its
# *last* year is not.


# %% tags=["exercise"]
def decade_signs(starts):
    """starts: [batch], from 0 to 98  ->  [batch 10], of 1, 0 and −1."""
    raise NotImplementedError


# %% tags=["solution"]
def decade_signs(starts):
    first = 10 * torch.arange(10)
    all_later = first > starts[:, None]
    none_later = first + 9 <= starts[:, None]
    return all_later.float() - none_later.float()


# %% tags=["check"]
check.decade_signs(decade_signs)

# %% [markdown] short=true
# ## 2. Is it *greater than*, or a few cases?
#
# A picture of all starts at once. A row is a group of starts; a column is an answer, or the mean of
# five years where there are a hundred. If the model has the rule, the field is empty left of the
# start and full right of it: an upper right triangle. Is its edge sharp? And are all later answers
# alike, or those soon after the start likelier?

# %%
width = max(5, years_each)  # years to a row, and to a column
rows = sorted({int(start) // width for start in starts})
names = [f"{row * width:02d} to {row * width + width - 1:02d}" for row in rows]
columns = answers.texts[:: width // years_each]  # the first answer of each


def by_start(values):
    """The mean over the prompts of each group of starts, [group ...]."""
    return torch.stack([values[starts // width == row].mean(0) for row in rows])


def by_answer(values):
    """The mean over the answers of each group, [... group]."""
    return values.unflatten(-1, (len(columns), -1)).mean(-1)


# %% short=true
mi.figures.heatmap(
    by_answer(by_start(probs)), title="What comes out is later than the start", center=None,
    x=columns, y=names, xlabel="answers from", ylabel="start", colorbar="probability",
)  # fmt: skip

# %% [markdown] short=true
# As a number: take of each prompt the answer in the middle, with half of the probability at or
# below it. Does it rise with the start? We correlate the two over prompts. The control is the
# untrained model.


# %% short=true
def follows_the_start(some_logits):
    """The correlation between the start and the middle answer."""
    share = spans.probabilities(some_logits)
    middle = (share.cumsum(-1) < share.sum(-1, keepdim=True) / 2).sum(-1)
    both = torch.stack([starts.float(), middle.float() + 1e-3 * torch.randn(
        len(starts), generator=torch.Generator().manual_seed(0))])  # fmt: skip
    return torch.corrcoef(both)[0, 1]


claim("greater.graded", follows_the_start(logits), control=follows_the_start(by_chance).abs())

# %% [markdown]
# Choose a start, and see what the model says after it. On the left of the start there should be
# nothing, and the bars should begin right after it.

# %%
offered = [15, 25, 35, 45, 55, 65, 75, 85]


def after(year):
    """What comes after a span that starts in a year of the 1700s."""
    text = f"The war lasted from the year 17{year} to the year 17"
    with torch.no_grad():
        found = model(model.to_tokens(text))[0, -1].softmax(-1)[answers.tokens]
    return mi.figures.bars(
        found, answers.texts, title=f"From 17{year} to 17…", xlabel="answer", ylabel="probability"
    )


mi.figures.explore(after, year=offered, ahead=True)

# %% [markdown] short=true
# ## 3. On its way from the start to the end
#
# The start is read at one place and needed at another. Take the residual stream of the corrupt twin
# at one position, before one layer, and put it into the clean run. What is lost of the probability
# difference shows where the year is. From the start on, position by position:

# %% short=true
few = mi.prompts.year_spans(model, mi.models.by_size(model, 24, 5), seed=1)
clean, corrupt, metric = few.pairs.clean_tokens, few.pairs.corrupt_tokens, few.prob_diff
at = {role: int(where[0]) for role, where in few.pairs.positions.items()}
after_start = list(range(at["decade"], clean.shape[1]))
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
layers = list(range(0, n_layers, mi.models.by_size(model, 1, 3)))
swept = patching.patch_sweep(
    model, clean, OtherRun(corrupt), metric,
    where=patching.Where(layers=layers, positions=after_start),
)  # fmt: skip
travels = swept.recovery()  # [layer position]: the share of the difference that is lost
mi.figures.heatmap(
    travels, title="From the start straight to the end", xlabel="position", ylabel="before layer",
    x=[few.pairs.str_tokens[0][i] for i in after_start], y=layers, colorbar="share lost",
)  # fmt: skip

# %% [markdown]
# In the first layers the year is where it was read, in the last ones where it is needed. (SmolLM2's
# start has two columns, one for each digit.) In between there are other words. Does it stop there?
# The claim takes the largest loss at any of them, in any layer. Its control says how much is lost
# where the year *is*: in the layer where that is least. (One position at a time: a year that two of
# these words held alike would escape us. The attention of the next section speaks against it.)

# %%
between = slice(at["to"] - at["decade"], -1)
where_it_is = torch.cat([travels[:, : between.start], travels[:, -1:]], dim=1).max(dim=1).values
claim("greater.straight", travels[:, between].abs().max(), control=where_it_is.min())

# %% [markdown] short=true
# ## 4. Which heads carry it?
#
# Only heads move information between positions. So one of them, or a few, must read the start and
# write at the end. Take each head's output *at the end* from the corrupt twin. How many heads
# matter?

# %% short=true
at_end = patching.patch_sweep(
    model, clean, OtherRun(corrupt), metric, site="z", over=("layer", "head"),
    where=patching.Where(positions=[-1]),
)  # fmt: skip
n_carriers = max(1, round(0.02 * n_layers * n_heads))
carriers = [head for head, _ in mi.heads.top_heads(at_end.recovery(), n_carriers)]
mi.figures.heatmap(
    at_end.recovery(), title=f"The year comes to the end through {', '.join(map(str, carriers))}",
    x=[f"H{j}" for j in range(n_heads)], y=[f"L{i}" for i in range(n_layers)], xlabel="head",
    ylabel="layer", colorbar="share lost",
)  # fmt: skip

# %% [markdown] short=true
# We call the best 2% of the heads **carriers** (on pocket that is one head). They were chosen on
# these prompts, so they are judged on new ones: what is lost if all carriers turn corrupt at the
# end, and nothing else? As a control, as many heads drawn at random from the others, the worst of
# five draws.

# %% short=true
new = mi.prompts.year_spans(model, mi.models.by_size(model, 16, 4), seed=2)
others = [head for head in circuits.EdgeGraph.of(model).heads if head not in carriers]
generator = torch.Generator().manual_seed(0)
drawn = [torch.randperm(len(others), generator=generator)[:n_carriers] for _ in range(5)]
sets = [carriers, *([others[i] for i in draw] for draw in drawn)]
ablated = patching.ablate(
    model, new.pairs.clean_tokens, OtherRun(new.pairs.corrupt_tokens), new.prob_diff,
    [{str(head): [-1] for head in one} for one in sets],
)  # fmt: skip
lost = ablated.recovery()
claim("greater.carriers", lost[0], control=lost[1:].max())

# %% [markdown]
# Where do the carriers look from the end? If they read the start, at its digits. The control is the
# mean of all heads.

# %%
places = [("pattern", i) for i in range(n_layers)]
patterns = mi.sites.read(model, new.pairs.clean_tokens, places, positions=[-1])
looks = torch.stack([patterns["pattern", i][:, -1].mean(0) for i in range(n_layers)])
on_start = looks[..., at["decade"] : at["start"] + 1].sum(-1)  # [layer head]
by_carriers = torch.stack([on_start[head] for head in carriers]).mean()
for head in carriers:
    print(f"{head} looks at the start with {on_start[head]:.2f} of its attention")
claim("greater.looks", by_carriers, control=on_start.mean())

# %% [markdown] short=true
# ## 5. What turns a year into *later than that year*?
#
# A carrier brings something about the year. But the answer is not that year, it is all later ones:
# who compares? (A part before the carrier may have begun; here we see only who *writes* it.)
# At the end of the prompt we split the logits of the answers into what each head and each MLP
# writes. As in notebook 04: the part's output, divided by the final LayerNorm's scale of this run,
# times the unembedding. From each answer we take its mean over all prompts, since what a part says
# after *every* start is no comparison; and from each prompt the mean over its answers, since what
# raises all answers alike prefers none. What is left is a table of starts and answers for each
# part, and we ask it the question of section 1: how much higher are later answers than the others?

# %%
places = [(site, i) for site in ("z", "mlp_out", "mlp_post") for i in range(n_layers)]
ends = mi.sites.read(
    model, pairs.clean_tokens, [*places, ("resid_post", n_layers - 1)], positions=[-1]
)
last = ends["resid_post", n_layers - 1][:, 0]
normed = model.ln_final(last[:, None])[:, 0]
scale = last.norm(dim=-1, keepdim=True) / normed.norm(dim=-1, keepdim=True)
to_answers = model.W_U[:, answers.tokens]


def says(written):
    """A part's output at the end, [prompt d_model]  ->  what it adds to each answer there."""
    table = written / scale @ to_answers
    table = table - table.mean(-1, keepdim=True)
    return table - table.mean(0)


# %%
signs = answers.signs(starts)
right, wrong = (signs > 0).float(), (signs < 0).float()
contrast = right / right.sum(-1, keepdim=True) - wrong / wrong.sum(-1, keepdim=True)


def prefers_later(written):
    """How much higher a part puts later answers than those that are not, in logits."""
    return (says(written) * contrast).sum(-1).mean().item()


parts = {f"MLP{i}": ends["mlp_out", i][:, 0] for i in range(n_layers)}
for layer, head in circuits.EdgeGraph.of(model).heads:
    z = ends["z", layer][:, 0, head]
    parts[f"L{layer}H{head}"] = z @ model.blocks[layer].attn.W_O[head]
prefer = {name: prefers_later(written) for name, written in parts.items()}

# %% [markdown] short=true
# Who says "later"? The bars are the shares of the strongest parts in what the whole stream says.

# %% short=true
whole = prefers_later(last)
loudest = sorted(prefer, key=lambda name: -abs(prefer[name]))[:10]
mi.figures.bars(
    [prefer[name] / whole for name in loudest], loudest, ylabel="share of the preference",
    title="Most of 'later' is written by MLPs", xlabel="part",
)  # fmt: skip

# %% short=true
by_mlps = sum(value for name, value in prefer.items() if name.startswith("MLP")) / whole
by_heads = sum(value for name, value in prefer.items() if "H" in name) / whole
claim("greater.mlps", by_mlps, control=by_heads)

# %% [markdown]
# The tables of the strongest MLP and of the strongest carrier. Blue is raised, red is lowered; each
# has its own scale. Where does a row turn from red to blue, and does the place move with the start?

# %%
best_mlp = max((f"MLP{i}" for i in range(n_layers)), key=prefer.get)
best_carrier = str(carriers[0])
tables = {name: by_answer(by_start(says(parts[name]))) for name in (best_mlp, best_carrier)}
mi.figures.heatmap(
    torch.stack([table / table.abs().max() for table in tables.values()]),
    title=f"{best_mlp} and {best_carrier}, straight to the answers", facets=list(tables),
    x=columns, y=names, xlabel="answers from", ylabel="start", colorbar="logits, scaled",
)  # fmt: skip

# %% [markdown]
# **Neurons.** What an MLP writes is a sum over its neurons: how active each is, times a fixed
# vector. So the preference splits up further. Do a few neurons carry it? Choose 1% of the neurons
# of the strongest MLP by half of the prompts, and count their share on the other half. (It may
# exceed one: other neurons push the other way.) The control is as many neurons drawn at random, the
# mean of twenty draws.

# %%
mlp_layer = int(best_mlp[3:])
active = ends["mlp_post", mlp_layer][:, 0] / scale  # [prompt neuron]
writes = model.blocks[mlp_layer].mlp.W_out @ to_answers  # [neuron answer]
by_neuron = (active - active.mean(0)) * (contrast @ writes.T)  # [prompt neuron]
half = torch.arange(len(starts)) % 2 == 0
n_chosen = round(0.01 * by_neuron.shape[1])
chosen = by_neuron[half].mean(0).topk(n_chosen).indices
bias = model.blocks[mlp_layer].mlp.b_out  # some models have none
no_bias = prefers_later(parts[best_mlp] - (0 if bias is None else bias))
assert abs(by_neuron.mean(0).sum().item() - no_bias) < 1e-3  # all together are the MLP


# %%
def share_of(neurons):
    """Their share of the MLP's preference, on the half of the prompts that chose none."""
    return by_neuron[~half].mean(0)[neurons].sum() / by_neuron[~half].mean(0).sum()


generator = torch.Generator().manual_seed(0)
random_sets = [
    torch.randperm(by_neuron.shape[1], generator=generator)[:n_chosen] for _ in range(20)
]
at_random = torch.stack([share_of(some) for some in random_sets]).mean()
claim("greater.neurons", share_of(chosen), control=at_random.abs())

# %% [markdown]
# What do these neurons do? First, how active the strongest four are after each group of starts.
# Then, what each adds to the answers when it is active. A neuron that is active after late starts
# and raises late answers says "late" to late starts. And one that is active after early starts?

# %%
strongest = chosen[:4]
activity = by_start(ends["mlp_post", mlp_layer][:, 0][:, strongest]).T
mi.figures.lines(
    {f"N{n}": row for n, row in zip(strongest.tolist(), activity, strict=True)}, x=names,
    title=f"Neurons of {best_mlp} follow the start, each in its own way", xlabel="start",
    ylabel="activation",
)  # fmt: skip

# %%
centred = by_answer(writes[strongest] - writes[strongest].mean(-1, keepdim=True))
mi.figures.heatmap(
    centred / centred.abs().amax(-1, keepdim=True), title="What each of them adds to the answers",
    x=columns, y=[f"N{n}" for n in strongest.tolist()], xlabel="answers from", ylabel="neuron",
    colorbar="logits, scaled",
)  # fmt: skip

# %% [markdown]
# None of these neurons makes the triangle alone. Each moves a range of answers up or down, more or
# less with the start, and the steps of many add up to an edge that lies where the start is. (On
# pocket the steps are gradual, and the chosen 1% write about a third of the MLP's preference;
# on SmolLM2 they are steep, and the chosen 1% write most of it.)
# In GPT-2 small, too, the paper finds the triangle in what the late MLPs
# write [@hanna2023greater].

# %% [markdown] short=true
# ## 6. An edge at a position
#
# Now the circuit as edges: which part's output does which part read? Notebook 07 gave each edge
# *one* score and kept it or not, at all positions at once. But an edge is used at some places of
# the prompt and idle at others. And a score summed over positions can hide two strong uses, if they
# oppose each other [@haklay2025position]. By hand: a writer changes by 1 at both of two positions,
# and the metric rises with what is read at the first and falls with what is read at the second.

# %% short=true
change = torch.tensor([1.0, 1.0])  # of the writer, at each position
gradient = torch.tensor([3.0, -3.0])  # of the metric, in what the reader reads there
by_place = change * gradient
print("summed:", by_place.sum().item(), " by position:", by_place.tolist())
assert by_place.sum() == 0 and by_place.abs().max() == 3

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 3: scores by position
# From the changes of all writers and the gradients at all readers, compute the score of each edge
# at each position: the inner product over `d_model`, the *mean* over the prompts, no sum over
# positions.

# %% [markdown] tags=["hint"]
# `torch.einsum` with `p` on both sides and in the result. What is in both and not in the result is
# summed.


# %% tags=["exercise"]
def position_scores(change, gradient):
    """change: [writer batch pos d], gradient: [reader batch pos d]  ->  [pos reader writer]."""
    raise NotImplementedError


# %% tags=["solution"]
def position_scores(change, gradient):
    return torch.einsum("wbpd,rbpd->prw", change, gradient) / change.shape[1]


# %% tags=["check"]
check.position_scores(position_scores)

# %% [markdown]
# The helper does it for all edges, with EAP-IG's gradients. All prompts have one wording, so that a
# position means the same in each. An edge joins writer and reader at *one* position, for the
# residual stream never leaves it; a head alone carries from position to position, so its key and
# value are read where it looks, and its query where it looks from. (The paper splits keys and
# values further, by the position from which they are looked at.) First check: the sum over
# positions is notebook 07's score. Then the strongest edges; which places of the prompt occur?

# %%
graph = circuits.EdgeGraph.of(model)
run = model, clean, OtherRun(corrupt), metric
scores = circuits.edge_attribution_by_position(*run, path=Integrated(5))
if mi.models.by_size(model, True, False):  # the same thing twice: only where it costs little
    known = circuits.edge_attribution(*run, path=Integrated(5)).values
    assert torch.allclose(scores.summed().values, known, atol=1e-5)
full = swept.base.mean().item()
words = few.pairs.str_tokens[0]
mi.figures.table(
    [{"from": writer, "to": reader, "at": f"{place}: {words[place]}", "share lost": -score / full}
     for writer, reader, place, score in scores.ranked(12)],
    title="The twelve strongest edges, each at its position",
)  # fmt: skip

# %% [markdown]
# **Do positions cancel?** Of all that the scores by position add up to in size, the sum over
# positions loses a share. Two things to compare it with: the same sizes with signs drawn at random,
# and another task, notebook 07's names.


# %%
def cancelled(values):
    """The share of the scores' sizes that is lost in the sum over positions."""
    return (1 - values.sum(0).abs().sum() / values.abs().sum()).item()


# %%
tossed = torch.randint(0, 2, scores.values.shape, generator=generator) * 2 - 1
named = mi.prompts.ioi(
    model, mi.models.by_size(model, 12, 4), corruption="random", same_wording=True
)
name_scores = circuits.edge_attribution_by_position(
    model, named.clean_tokens, OtherRun(named.corrupt_tokens),
    patching.LogitDiff(named.answer_tokens), path=Integrated(5),
)  # fmt: skip
mi.figures.table(
    [{"scores": name, "cancelled": cancelled(values)} for name, values in (
        ("greater-than", scores.values), ("greater-than, random signs", scores.values * tossed),
        ("indirect object", name_scores.values))],
    title="How much of the scores is lost in the sum over positions",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 4: what a reader reads, position by position
# In a circuit an edge may be kept at one position and ablated at the next. Return what one reader
# reads at each position: the sum over all writers of what they write now, where the edge is kept,
# and of what they wrote in the corrupt run, where it is not.

# %% [markdown] tags=["hint"]
# `kept` lacks one axis of `now`: the last one.


# %% tags=["exercise"]
def reads_at(now, corrupt, kept):
    """now, corrupt: [writer pos d]; kept: True or False, [writer pos]  ->  [pos d]."""
    raise NotImplementedError


# %% tags=["solution"]
def reads_at(now, corrupt, kept):
    return torch.where(kept[..., None], now, corrupt).sum(0)


# %% tags=["check"]
check.reads_at(reads_at)

# %% [markdown] short=true
# ## 7. Is the circuit by position a better one?
#
# Only at equal cost. We count an edge once for *each position at which it is kept*. That would be
# unfair to edges kept everywhere: before the start the two runs are equal, and an edge into the
# logits matters at the end alone. So positions at which an edge can do nothing, its score being
# exactly zero, are counted for nobody. Three ways to fill a circuit of `n` edges:
#
# - **by position**: the `n` strongest edges at positions;
# - **by the sum**: whole edges, the strongest sum over positions first, each at all its positions;
# - **by the sum of sizes**: whole edges, but ranked so that nothing cancels.
#
# The third tells two reasons apart. If the sum is worse because opposite positions *cancel*, the
# third is as good as the first. If it is worse because it pays for *idle positions*, the third is
# as bad as the second.

# %%
PositionCircuit = circuits.PositionCircuit
live = scores.values != 0


def whole_edges(weights, n):
    """Edges at all their positions, the largest weights first, while they are `n` or fewer."""
    ranked = weights.abs().flatten().argsort(descending=True)
    counts = live.sum(0).flatten()[ranked].cumsum(0)
    kept = torch.zeros(weights.numel(), dtype=torch.bool)
    kept[ranked[counts <= n]] = True
    return PositionCircuit(graph, kept.view_as(weights) & live)


# %%
shares = (*mi.models.by_size(model, (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05),
                             (0.0005, 0.001, 0.002, 0.01)), 1.0)  # fmt: skip
sizes = [round(share * int(live.sum())) for share in shares]
summed, in_size = scores.values.sum(0), scores.values.abs().sum(0)
lists = {
    "by position": [scores.top(n) for n in sizes[:-1]],
    "by the sum": [whole_edges(summed, n) for n in sizes[:-1]],
    "by the sum of sizes": [whole_edges(in_size, n) for n in sizes[:-1]],
}


# %%
def faithful(some, task=None):
    """Normalised faithfulness of circuits, on prompts that no score has seen."""
    task = task or new
    kept = model, task.pairs.clean_tokens, some, OtherRun(task.pairs.corrupt_tokens)
    return circuits.faithfulness(*kept, task.prob_diff).normalised()


# %% [markdown]
# Two wrong circuits stand beside the first list: with the *positions* exchanged, and with the
# *heads* of each layer exchanged. Both have as many edges, and the second has all MLPs in place, so
# it is the harder test: the first is bound to zero unless the end happens to keep its own edges.


# %%
def moved(circuit, seed=0):
    """The same edges at other positions: those from the start on, dealt out anew."""
    places = torch.tensor(after_start)
    mixed = torch.Generator().manual_seed(seed)
    kept = circuit.kept.clone()
    kept[places] = circuit.kept[places[torch.randperm(len(places), generator=mixed)]]
    return PositionCircuit(graph, kept & graph.valid)


# %%
def exchanged(circuit, seed=0):
    """The same edges with the heads of each layer moved on by one or more places."""
    group, new_name = n_heads // (graph.n_shared or n_heads), {}
    mixed = torch.Generator().manual_seed(seed)
    for layer in range(n_layers):
        step = group * (1 + int(torch.randint(n_heads // group - 1, (), generator=mixed)))
        for j in range(n_heads):
            to = (j + step) % n_heads
            new_name[f"L{layer}H{j}"] = f"L{layer}H{to}"
            for x in "qkv":
                new_name[graph.input_of((layer, j), x)] = graph.input_of((layer, to), x)
    writers = [graph.writers.index(new_name.get(w, w)) for w in graph.writers]
    readers = [graph.readers.index(new_name.get(r, r)) for r in graph.readers]
    return PositionCircuit(graph, circuit.kept[:, readers][:, :, writers])


# %% [markdown] short=true
# Each curve from a few edges to many. Which leaves zero first, and which wrong circuit ever does?
# The table has both areas of notebook 23 over the same sizes.

# %% short=true
lists |= {
    "positions exchanged": [moved(one) for one in lists["by position"]],
    "heads exchanged": [exchanged(one) for one in lists["by position"]],
}
curves = {name: [*faithful(some).tolist(), 1.0] for name, some in lists.items()}
mi.figures.lines(
    curves, x=[f"{100 * share:g}%" for share in shares], ylabel="faithfulness",
    xlabel=f"edges kept, of {sizes[-1]} over all positions",
    title="An edge kept where it is used: fewer do the same",
    controls={"positions exchanged": "by position", "heads exchanged": "by position"},
)  # fmt: skip

# %%
from mi_helpers.circuits.truth import cpr_cmd

areas = {name: cpr_cmd([0.0, *curve], shares=[0.0, *shares]) for name, curve in curves.items()}
mi.figures.table(
    [{"circuits": name, "CPR": cpr, "CMD": cmd} for name, (cpr, cmd) in areas.items()],
    title="Areas over all sizes: more is better, less is better",
)  # fmt: skip

# %% [markdown]
# First, is it a circuit at all? We take one size for the rest of the notebook, half a percent of
# the edges for a small model, a fifth of a percent for a large one. The control is the mean of four
# exchanges of heads.

# %%
picked = shares.index(mi.models.by_size(model, 0.005, 0.002))
circuit = lists["by position"][picked]
wrong_heads = faithful([exchanged(circuit, seed) for seed in range(4)])
claim("greater.circuit", curves["by position"][picked], control=wrong_heads.mean())

# %% [markdown] short=true
# Second, what does the first list gain over the second, on average over the sizes up to that one?
# And what does the third gain, in which nothing cancels?

# %% short=true
upto = slice(0, picked + 1)


def gain(name):
    """How much more faithful a list is than whole edges by their sum, mean over small sizes."""
    pairs_of = zip(curves[name][upto], curves["by the sum"][upto], strict=True)
    return sum(one - other for one, other in pairs_of) / (picked + 1)


claim("greater.gain", gain("by position"), control=gain("by the sum of sizes"))

# %% [markdown] short=true
# So here the gain is not that positions cancel. It is that an edge is paid for only where it is
# used. The same edges at *all* their positions do the same, and are more:

# %%
everywhere = PositionCircuit(graph, circuit.anywhere().kept & live)
mi.figures.table(
    [{"circuit": name, "edges over all positions": one.n_edges,
      "edges": one.anywhere().n_edges, "faithfulness": faithful(one).item()}
     for name, one in (("by position", circuit), ("the same edges everywhere", everywhere))],
    title="What the other positions add",
)  # fmt: skip

# %% [markdown]
# Count edges without positions (the last column but one), and the circuit by position is no smaller
# than it was. Which count is right depends on the question. For *which parts talk*, positions add
# nothing. For *what happens where*, they are the answer: half of the circuit's edges or more could
# not be told from idle ones before.
#
# ## 8. The same circuit in another wording
#
# A circuit by position belongs to one wording: at position 9 there is another word in another
# sentence. But the *roles* are the same: the start, the word after it, the end. Haklay and
# co-workers call such a list of roles a **schema** [@haklay2025position]. Move the circuit by its
# roles into two wordings, a shorter and a longer one, that no score has seen. The control moves it
# without roles: each edge to as many tokens before the end as it had. The end is then where it
# should be, and the start is not.

# %%
roles = ["decade", "start", "to", "end"]
wordings = [
    "The {event} lasted from {century}{start} to {century}",
    "The {event} began in the year {century}{start} and was over in the year {century}",
]


def into(task, by_role=True):
    """The circuit in another wording: by roles, or each edge as far from the end as it was."""
    n_pos = task.pairs.clean_tokens.shape[1]
    kept = torch.zeros(n_pos, *graph.valid.shape, dtype=torch.bool)
    for role in roles:
        place = task.pairs.positions[role][0] if by_role else at[role] + n_pos - len(circuit.kept)
        kept[int(place)] |= circuit.kept[at[role]]
    return PositionCircuit(graph, kept)


# %%
found = []
for wording in wordings:
    task = mi.prompts.year_spans(model, len(new.pairs), seed=3, wording=wording)
    moved_circuits = [into(task), into(task, by_role=False)]
    by_role, counted = faithful(moved_circuits, task).tolist()
    found.append({"prompt": task.pairs.clean[0], "edges": moved_circuits[0].n_edges,
                  "faithfulness": by_role, "counted from the end": counted})  # fmt: skip
mi.figures.table(found, title="The circuit moves with the roles")

# %%
claim("greater.wording", min(row["faithfulness"] for row in found),
      control=max(row["counted from the end"] for row in found))  # fmt: skip

# %% [markdown]
# ## 9. Another task, another circuit?
#
# Is this circuit made for years, or do parts of it serve other tasks? Compare with notebook 07's
# task. Nearly every circuit has edges from the embeddings through MLPs to the logits, so we ask
# only for edges that begin or end at a *head*. Of those among the strongest edges of greater-than,
# which share is in the other list? Three others: greater-than once more, on new prompts; the names;
# and, as what to expect by chance, the names with heads exchanged.

# %%
n_top = mi.models.by_size(model, 60, 1000)
again = circuits.edge_attribution_by_position(
    model, new.pairs.clean_tokens, OtherRun(new.pairs.corrupt_tokens), new.prob_diff,
    path=Integrated(5),
)  # fmt: skip

# %%
heads_in = torch.tensor(["H" in name for name in graph.writers])[None] | torch.tensor(
    [name[0] == "L" for name in graph.readers[:-1]] + [False])[:, None]  # fmt: skip


def strong(some):
    """The strongest edges of heads, summed over positions, as a table of True and False."""
    return some.summed().top(n_top).kept & heads_in


years_list, names_list = strong(scores), strong(name_scores)
whole_names = PositionCircuit(graph, name_scores.summed().top(n_top).kept[None])
swapped = [exchanged(whole_names, seed).kept[0] & heads_in for seed in range(4)]

# %%
shared = {
    "greater-than, new prompts": (years_list & strong(again)).sum() / years_list.sum(),
    "indirect object": (years_list & names_list).sum() / years_list.sum(),
    "indirect object, heads exchanged": torch.stack(
        [(years_list & one).sum() / years_list.sum() for one in swapped]
    ).mean(),
}
mi.figures.table(
    [{"compared with": name, "shared": share.item()} for name, share in shared.items()],
    title=f"Of {int(years_list.sum())} edges of heads, how many are in the other list",
)  # fmt: skip

# %%
claim("greater.own", shared["greater-than, new prompts"], control=shared["indirect object"])

# %% [markdown]
# On pocket new prompts give nearly the same edges; on SmolLM2, with very few prompts, only a little
# more than half of them. The other task shares far fewer. Compare the last two rows: on pocket it
# shares no more than chance. The paper asks about tasks that are nearer to this one,
# and finds some that activate the circuit of greater-than [@hanna2023greater].

# %% [markdown] short=true
# ## Summary
#
# - A behaviour with many right answers is measured by what it gives to all of them. Judged by the
#   start of another prompt, the difference must shrink; or else the model does not read the start.
# - The start is read at its place and goes straight to the end, through one head or a few
#   that look at it. There most of "later than that" is written to the logits by MLPs.
# - An MLP's neurons each move a range of answers, from or up to some start. None of the
#   few that we looked at has the rule; it is in their sum.
# - An edge has a score at each position. Keeping edges only where they are used gives the same
#   faithfulness for fewer edges, if each position is counted. In these models that is because most
#   positions are idle, not because opposite ones cancel.
# - By roles a circuit by position can be moved into another wording.
#
# **What we have not shown.** That the models know *numbers*: every start and every answer stands in
# pocket's texts, and a table of what follows what would do as well. That the circuit is complete or
# minimal ([notebook 08](08_ablation_and_pruning.ipynb)). And nothing about positions where the two
# runs do not differ: the twin changes the start and nothing else, so a part that finds out that
# this is a span of years at all is not seen.
#
# ## Where to read on
#
# - The task, its circuit in GPT-2 small, and related tasks: [@hanna2023greater].
# - Edges by position and schemas, and when positions cancel: [@haklay2025position].
# - EAP-IG and faithfulness: [@hanna2024faith]; the areas: [@mueller2025mib].

# %%
claim.table()
