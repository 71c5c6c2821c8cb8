# ---
# title: The logit difference
# minutes: 70
# ---

# %% [markdown]
# **The question.** A model that reads "When John and Mary went to the shops, John gave the bag to"
# continues with "Mary". How sure is it that it is Mary *and not John*, which parts make the
# difference, and what do they look at?
#
# **You need** the logit lens and direct logit attribution
# ([notebook 01](01_residual_stream.ipynb)), attention patterns and copying
# ([notebook 02](02_attention_heads.ipynb)), and ablation
# ([notebook 03](03_induction_heads.ipynb)).
#
# **You will be able to**
#
# - choose a metric, and say how each of the usual ones misleads;
# - measure a behaviour on many prompts, with a control and an honest interval;
# - share out a logit difference by layer, by head, and by the position that a head reads;
# - say what freezing LayerNorm's scale costs, in numbers (appendix B);
# - tell what a component *writes* from what happens *without* it, and measure the gap;
# - tell a story of a circuit, and mark what it does not show yet.

# %% [markdown] short=true
# ## 1. One number for one question
#
# The prompt has two names. The question "Mary or John?" is about the *ratio* of two probabilities,
# and the logarithm of that ratio is the difference of two logits:
#
# $$\log\frac{p_i}{p_j} = \mathrm{logit}_i - \mathrm{logit}_j$$
#
# because the softmax divides both by the same sum. By hand, with a vocabulary of three words:

# %% short=true
toy_logits = torch.tensor([3.0, 1, 0])  # Mary, John, them
toy_probs = toy_logits.softmax(-1)
print("log of the ratio:", (toy_probs[0] / toy_probs[1]).log().item())
print("difference:      ", (toy_logits[0] - toy_logits[1]).item())

# %% [markdown] short=true
# Now a model, and eight prompts of the literature. Positive means that the right name has the
# higher logit. `mi.metrics.logit_diff` does it for a batch.

# %% short=true
pairs = mi.prompts.ioi_literature(model)
tokens, answers = pairs.clean_tokens, pairs.answer_tokens
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
last, twin_last = (model(batch)[:, -1] for batch in (tokens, pairs.corrupt_tokens))
by_hand = [row[right] - row[wrong] for row, (right, wrong) in zip(last, answers, strict=True)]
difference = mi.metrics.logit_diff(last, answers)
assert torch.allclose(difference, torch.stack(by_hand))

# %% [markdown]
# The usual alternatives are all functions of the same logits. The *loss of the text* is the mean
# loss over the prompt and its answer, as in training; the *rank* is 0 for the top prediction; the
# *KL divergence* tells how far the prediction is from another one, here from that for the prompt's
# **twin**, in which the other person gives.

# %%
earlier = mi.metrics.loss(model(tokens), tokens).sum(1)  # of everything before the answer


def measures(last, reference):
    """Seven numbers [batch] about predictions [batch d_vocab] of the eight answers."""
    right = answers[:, 0]
    log_prob = mi.metrics.log_prob(last, right)
    return {
        "logit difference": mi.metrics.logit_diff(last, answers),
        "logit": last.gather(1, right[:, None])[:, 0],
        "probability": log_prob.exp(),
        "log-probability": log_prob,
        "loss of the text": (earlier - log_prob) / tokens.shape[1],
        "rank": mi.metrics.rank(last, right),
        "KL": mi.metrics.kl(last, reference),
    }


# %%
who = [f"{label['S']} → {label['IO']}" for label in pairs.labels]
columns = {name: values.tolist() for name, values in measures(last, twin_last).items()}
mi.figures.table(
    {"gives → receives": who, **columns}, title="Eight predictions, seven numbers for each"
)

# %% [markdown]
# Do they say the same? Change the logits in four ways whose meaning is known, and see what each
# metric makes of it. The table shows the *change* of each, averaged over the prompts; the KL
# divergence is now taken from the model's own prediction. Read it by column: where does a number
# move though nothing about Mary and John did? Where does it stand still though something did?

# %%
d_vocab = last.shape[1]
right, wrong = (torch.nn.functional.one_hot(column, d_vocab) for column in answers.T)
stranger = torch.nn.functional.one_hot(last.argmin(-1), d_vocab)  # the unlikeliest token
to_the_top = last.max(-1, keepdim=True).values - last.min(-1, keepdim=True).values + 3
changes = {
    "every logit + 3": last + 3,
    "both names + 3": last + 3 * (right + wrong),
    "only the wrong name − 3": last - 3 * wrong,
    "a stranger on top": last + to_the_top * stranger,
}

# %%
before, rows = measures(last, last), []
for name, changed in changes.items():
    after = measures(changed, last)
    moved = {metric: (after[metric] - before[metric]).float().mean().item() for metric in before}
    rows.append({"change": name, **{metric: round(by, 3) for metric, by in moved.items()}})
    assert ("name −" in name) == (abs(moved["logit difference"]) > 1e-3)
mi.figures.table(rows, title="What each metric makes of four changes")

# %% [markdown]
# Each metric misleads somewhere:
#
# - The **logit** alone moves in the first row, in which no prediction changed.
# - **Probability**, **log-probability** and **loss** improve in the second row, in which the model
#   learned nothing about *which* name it is; they answer "how likely is this word", a question with
#   many parts. The loss of the whole text shows the same, divided by the length of the text.
# - The **rank** is coarse: it may stand still when the names move, and it moves in the last row,
#   when they do not.
# - The **KL divergence** asks about all words, has no sign, and stands still in the third row: the
#   wrong name was improbable anyway. It is large in the last row, which has nothing to do with the
#   question.
# - The **logit difference** rises in the third row, though the right name is hardly likelier than
#   before; and it is blind to the last row, after which the model says neither name. So look at the
#   probability, too, before you say that a model "answers".
#
# It answers one question, *this or that?*, and nothing else. That is why one chooses it when the
# behaviour is a choice between two words. And it is *linear* in the final normalised state, so the
# effects of parts can be added up, where a probability saturates near 0 and 1 (appendix A).

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 1: a batch of differences
# One number for each prompt, at the *last* position.

# %% [markdown] tags=["hint"]
# `logits.gather(1, answers)` picks, in each row, the columns that the same row of `answers` names.


# %% tags=["exercise"]
def logit_differences(logits, answers):
    """logits: [batch pos d_vocab]; answers: [batch 2], (right, wrong) token ids  ->  [batch]."""
    raise NotImplementedError


# %% tags=["solution"]
def logit_differences(logits, answers):
    chosen = logits[:, -1].gather(1, answers)
    return chosen[:, 0] - chosen[:, 1]


# %% tags=["check"]
check.logit_differences(logit_differences)

# %% [markdown] short=true
# ## 2. Indirect object identification
#
# Two people; one of them, the **subject** S, gives something to the other, the **indirect object**
# IO. The answer is the name that stands in the sentence only once. S stands there twice: S1 where
# the people are introduced, S2 where one of them gives. The literature tells two orders apart by
# how the names follow each other, A for one person and B for the other: in **ABBA** the receiver is
# introduced first, in **BABA** the giver [@wang2022ioi].

# %% short=true
asked = [
    {"prompt": text, "order": label["order"], "right": label["IO"], "wrong": label["S"]}
    for text, label in zip(pairs.clean, pairs.labels, strict=True)
]
mi.figures.table(asked)

# %% [markdown] short=true
# The control has to be as like the prompts as possible: their twins, in which the *other* person
# gives, with the difference still taken towards the first one. A model that only prefers Mary to
# John, or the first name to the second, would give both the same number, prompt by prompt. (The
# *mean* of the twins is that of the prompts with its sign turned, because each of the eight is the
# twin of another: look at the bars.)
#
# A second control has no such symmetry: a **third** person gives, so that nobody is named twice and
# neither answer is right. How large is the difference then, whichever its sign?


# %% short=true
twin_difference = mi.metrics.logit_diff(twin_last, answers)


def third_giver(p):
    """The prompts with S2 replaced by a name of the two prompts before, and these names."""
    givers, changed = p.answer_tokens.roll(2, dims=0)[:, 0], p.clean_tokens.clone()
    changed[range(len(p)), p.positions["S2"]] = givers
    return changed, givers


third_difference = mi.metrics.logit_diff(model(third_giver(pairs)[0])[:, -1], answers)
assert torch.allclose(difference.mean(), -twin_difference.mean(), atol=1e-3)  # in any model
claim("ioi.literature", difference.mean(), control=third_difference.abs().mean())
figures.bars(
    {"prompt": difference, "twin": twin_difference, "third giver": third_difference}, who,
    title="The logit difference, prompt by prompt", xlabel="gives → receives",
    ylabel="logit difference (right − wrong)",
)  # fmt: skip

# %% [markdown]
# Eight prompts are few, and they share their wording. So generate more: other names, other
# wordings, both orders. They come in **couples**, which share names and wording; in one of them the
# first person gives, in the other the second.


# %%
def last_logits(some_model, tokens):
    """Logits at the last position [batch d_vocab], computed for a few prompts at a time."""
    return torch.cat([some_model(some, logits_to_keep=1)[:, -1] for some in tokens.split(40)])


many = mi.prompts.ioi(model, mi.models.by_size(model, 240, 120))
of_many, of_untrained = (
    mi.metrics.logit_diff(last_logits(one, many.clean_tokens), many.answer_tokens).cpu()
    for one in (model, mi.untrained(model))
)
assert [label["order"] for label in many.labels] == ["ABBA", "BABA"] * (len(many) // 2)
print(*many.clean[:4], sep="\n")

# %% [markdown]
# The right answer to a prompt is the wrong answer to its partner. So a liking for a name, or for
# the first place in the sentence, adds to one of them what it takes from the other: whoever does
# not read who gave scores zero on average, and is right half of the time. (A rule like "not the
# last name" does not cancel: it is always right here, and notices no repetition. Section 7 asks for
# it.) The control is a model with the same architecture and without training. Its mean is near
# zero, and so would be that of a control which never ran; so the control of the mean is the mean
# *size* of its differences. In the figure: is anything left of zero, and do the two orders differ?

# %%
right_share, chance = ((values > 0).float().mean() for values in (of_many, of_untrained))
figures.histogram(
    {"ABBA": of_many[0::2], "BABA": of_many[1::2]}, bins=30, marks={"no preference": 0},
    title=f"{right_share:.0%} of the prompts lie right of zero",
    xlabel="logit difference (right − wrong)",
)  # fmt: skip

# %% [markdown]
# A mean needs an interval: what would it be on other prompts of this kind? The **bootstrap** draws
# the prompts again, *with* replacement, as many as there are, and takes the mean; a thousand
# times. The middle 95% of these means are the interval.
#
# What is drawn must be independent, and the partners of a couple are not. So average each couple
# first, and draw couples. `mi.metrics.bootstrap_interval` does the drawing, and you in exercise 2.
# Couples may share their verb, and that is not independent either: one row of the table draws verbs
# with all their prompts. Compare it and the row of single prompts with the row of couples. An
# interval says what it was drawn over, and nothing about prompts of another kind.
#
# Does the order of the names matter? Two intervals that overlap do not tell. Look at the interval
# of the *difference* within couples: if it leaves out zero, a result on one order alone is a result
# about half of the task.

# %%
verbs = sorted({label["verb"] for label in many.labels})
of_verb = {verb: [label["verb"] == verb for label in many.labels] for verb in verbs}
by_order = {"ABBA": of_many[0::2], "BABA": of_many[1::2]}
sets = by_order | {"ABBA − BABA, by couple": by_order["ABBA"] - by_order["BABA"]}
sets["both, by couple"] = of_many.reshape(-1, 2).mean(1)
sets["both, prompt by prompt"] = of_many
sets["both, by verb"] = torch.stack([of_many[which].mean() for which in of_verb.values()])
sets["control: untrained, by couple"] = of_untrained.reshape(-1, 2).mean(1)
rows = []
for name, values in sets.items():
    low, high = mi.metrics.bootstrap_interval(values)
    rows.append({"drawn": name, "mean": values.mean().item(), "from": low, "to": high})
claim("ioi.generated", of_many.mean(), control=of_untrained.abs().mean())
claim("ioi.accuracy", right_share, control=chance)
mi.figures.table(rows, title="Logit difference on generated prompts, with 95% intervals")

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: the interval
# The random picks are given, so that the result is not random. Return both ends of the interval of
# the *mean* with the given confidence.

# %% [markdown] tags=["hint"]
# `values[picks]` has shape `[resample sample]`. For a confidence of 90%, 5% lie beyond each end;
# `torch.quantile` finds the ends.


# %% tags=["exercise"]
def interval_of_mean(values, picks, confidence):
    """values: [sample]; picks: [resample sample], indices; confidence: such as 0.95  ->  [2]."""
    raise NotImplementedError


# %% tags=["solution"]
def interval_of_mean(values, picks, confidence):
    tail = (1 - confidence) / 2
    return values[picks].mean(1).quantile(torch.tensor([tail, 1 - tail]))


# %% tags=["check"]
check.interval_of_mean(interval_of_mean)

# %% [markdown]
# ## 3. Where it comes from, by half-layer
#
# The logit lens of the difference: hand the stream after every half-layer to the final LayerNorm
# and the unembedding. Notebook 01 did this for the best guess; here only the difference counts.
# Beside it the running total of direct logit attribution. Both end at the same number. On the way
# they differ by the scale alone: the lens divides by the *early* stream's own scale, the running
# total by the final one.

# %%
_, cache = model.run_with_cache(tokens)
streams, half_layers = [], []
for layer in range(n_layers):  # what is "mid" is a sum here: parallel blocks never compute it
    streams += [before := cache["resid_pre", layer], before + cache["attn_out", layer]]
    half_layers += [f"{layer}_pre", f"{layer}_mid"]
streams, half_layers = [*streams, cache["resid_post", -1]], [*half_layers, "final_post"]
read_out = [model.unembed(model.ln_final(stream[:, -1:])) for stream in streams]
lens = torch.stack([mi.metrics.logit_diff(logits, answers).mean() for logits in read_out])
direction = (model.W_U[:, answers[:, 0]] - model.W_U[:, answers[:, 1]]).T  # [batch d_model]
attribution = mi.lens.logit_attribution(model, tokens, answers)
running = attribution.cumulative().mean(0)

# %%
assert torch.allclose(attribution.total(), difference, atol=1e-3)  # the sum is exact
assert torch.allclose(lens[-1], running[-1], atol=1e-3)
half_way = int((running > running[-1] / 2).nonzero()[0])
figures.lines(
    {"logit lens (own scale)": lens, "running total (final scale)": running},
    title=f"Half of the difference stands at {half_layers[half_way]}",
    x=half_layers, xlabel="half-layer", ylabel="logit difference so far",
)  # fmt: skip

# %% [markdown]
# What comes before may well prepare the difference elsewhere, in other positions. Now each step of
# the running total on its own. Attention or MLP? Which layers? Does any layer pull the difference
# *down*? The claim reads the largest step along the names of *other* prompts, too: does that
# half-layer write about these two names, or about names?

# %%
steps = attribution.cumulative().diff(dim=1).mean(0)
along_others = mi.lens.logit_attribution(model, tokens, answers.roll(2, dims=0))
of_others = along_others.cumulative().diff(dim=1).abs().mean(0)
largest = int(steps.argmax())
claim("where.biggest_step", steps[largest], control=of_others[largest])
figures.bars(
    {"attention": steps[0::2], "MLP": steps[1::2]}, [f"L{layer}" for layer in range(n_layers)],
    title=f"{('Attention', 'The MLP')[largest % 2]} of layer {largest // 2} writes most of all",
    xlabel="layer", ylabel="share of the logit difference",
)  # fmt: skip

# %% [markdown] short=true
# ## 4. By head, and by what the head reads
#
# The shares of all heads. Blue pushes towards the right name, red towards the wrong one.
# (Attribution keeps the final LayerNorm's scale as it is; what that costs is in appendix B.)

# %% short=true
by_head = attribution.heads.mean(0).cpu()  # [layer head]
(best, best_share), *_ = mi.heads.top_heads(by_head, 1)
(worst, _), *_ = mi.heads.top_heads(-by_head, 1)
layer_names, head_names = [f"L{i}" for i in range(n_layers)], [f"H{j}" for j in range(n_heads)]
all_names = [f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)]
claim("heads.best", by_head[best], control=by_head[worst].abs())
figures.heatmap(
    by_head, x=head_names, y=layer_names, xlabel="head", ylabel="layer",
    title=f"{best} pushes most", colorbar="share of the logit difference",
)  # fmt: skip

# %% [markdown] short=true
# Are there heads that push *back*, and how hard? On pocket none to speak of; SmolLM2 and GPT-2
# small have some. Other prompts, and heads that this average hides: appendix C.
#
# ### By what the head reads
#
# A head's output at the last position is a sum over the positions that it reads: attention times
# value, through `W_O`. So its share splits once more, by source: `mi.lens.head_source_attribution`.
# For the best head and the first prompt, written out:

# %% short=true
layer, head = best
weights = cache["pattern", layer][0, head, -1]  # [source]
values = cache["v", layer][0].repeat_interleave(n_heads // cache["v", layer].shape[2], dim=1)
written = (weights[:, None] * values[:, head]) @ model.W_O[layer, head]  # [source d_model]
by_hand = written @ direction[0] / cache["ln_final.hook_scale"][0, -1]
by_source = mi.lens.head_source_attribution(model, tokens, answers)  # [batch layer head source]
assert torch.allclose(by_source[0, layer, head], by_hand, atol=1e-3)
assert torch.allclose(by_source.sum(-1), attribution.heads, atol=1e-3)

# %% [markdown] short=true
# The heads with the largest shares of either sign, on the first prompt. In which columns is the
# colour? Compare the two names, and the second mention of one.

# %% short=true
top_heads = [place for place, _ in mi.heads.top_heads(by_head.abs(), 5)]
figures.heatmap(
    [by_source[0, i, j].tolist() for i, j in top_heads], x=pairs.str_tokens[0],
    y=[str(place) for place in top_heads], xlabel="token read", ylabel="head",
    title="What each head adds, by the token that it reads",
    colorbar="share of the logit difference",
)  # fmt: skip

# %% [markdown] short=true
# ## 5. What these heads do
#
# Where do they look, and what do they write? First the attention *from the last token* to the right
# name (IO), and to the two mentions of the wrong one (S1, S2). Also by place: to the first and the
# second name of the sentence, whoever it is.
#
# Each dot is a head: to the right it looks at the right name more than at the wrong one; upwards it
# pushes towards the right answer. There are two ways to push: look at the right name and *raise*
# what you see (upper right), or look at the wrong one and *lower* it (upper left). Which does this
# model use? And is anyone in the lower right corner, who sees the right name and pushes back?

# %% short=true
where = {"IO": pairs.positions["IO1"], "S1": pairs.positions["S1"], "S2": pairs.positions["S2"]}
where["1st name"] = torch.minimum(where["IO"], where["S1"])
where["2nd name"] = torch.maximum(where["IO"], where["S1"])
targets = {role: mi.heads.position_targets(tokens, -1, at) for role, at in where.items()}
looks = mi.heads.attention_scores(model, tokens, targets)
looks_at_s = looks["S1"] + looks["S2"]
figures.scatter(
    (looks["IO"] - looks_at_s).flatten(), by_head.flatten(), labels=all_names,
    named=[str(place) for place in top_heads[:4]],
    title="Where the heads look, and what they make of it",
    xlabel="attention on IO minus attention on S1 and S2",
    ylabel="share of the logit difference",
)  # fmt: skip

# %% [markdown] short=true
# At which name does the best head look, on these eight prompts? The claim asks prompts that had no
# part in the answer.

# %% short=true
role = max(("IO", "S1", "S2"), key=lambda name: looks[name][best])
print(f"{best} looks most at {role}")
few = many.select(range(80))
at_role = few.positions["IO1" if role == "IO" else role]
target = mi.heads.position_targets(few.clean_tokens, -1, at_role)
looks_there = mi.heads.attention_scores(model, few.clean_tokens, {role: target})[role]
claim("heads.look", looks_there[best], control=looks_there.mean())

# %% [markdown] short=true
# Attention says where a head reads, not what it writes. Give its OV circuit a name, as the first
# MLP has extended it, and read off the tokens that it raises most (notebook 02). The **copying
# score** of the literature [@wang2022ioi] is the share of names that are among the five tokens
# their reading raises most. Its mirror image counts the names among the five tokens *lowered* most:
# such a head writes against what it looks at, whichever name it is. Here is the head with the
# highest copying score.

# %% short=true
names = many.answer_tokens.unique()
raised, lowered = mi.heads.copying_top_k(model, names)
(copier, copies), *_ = mi.heads.top_heads(raised, 1)
copied = mi.heads.ov_top_tokens(model, copier, names, through_mlp0=True)
assert abs(copies - sum(row["reads"] in row["writes"] for row in copied) / len(names)) < 1e-5
shown = [{"reads": row["reads"], "raises": " · ".join(row["writes"])} for row in copied[:6]]
mi.figures.table(shown, title=f"What {copier} writes when it reads a name")

# %% [markdown]
# All of it in one table: the heads that push most, and those that push back most. Read each row as
# a sentence: it looks *there*, does *this* to the names that it sees, and so it pushes *that* way.
# Attention of a half on both IO and S1 can mean two things; the columns by place tell which.

# %%
extremes = mi.heads.top_heads(by_head, 3) + mi.heads.top_heads(-by_head, 2)
rows = []
for place in dict.fromkeys(head for head, _ in extremes):
    rows.append(
        {"head": str(place), "share": by_head[place].item()}
        | {f"on {role}": scores[place].item() for role, scores in looks.items()}
        | {"copies": raised[place].item(), "writes against": lowered[place].item()}
    )
mi.figures.table(rows, title="Where heads look, and what they do to the names they see", digits=2)

# %% [markdown]
# A head that looks at the right name and copies it is a **name mover**; GPT-2 small has three, and
# two **negative name movers**, which look at the right name and write *against* it [@wang2022ioi].
# One of these, L10H7, was later found to do this on ordinary text: where earlier parts predict a
# word that has been said already, it lowers that word [@mcdougall2023copy]. But the answer can be
# found without a name mover, too: copy the first name, copy the second name, and write against the
# last one.
#
# Do the two columns explain the shares? Expect of each head, on each prompt, its attention on IO
# less that on S, times its two columns' difference: the share of names that it copies less the
# share that it writes against. (That says how *regularly* it does so, not how strongly.) The claim
# is the correlation with the shares, over all heads and prompts. In the control every head is taken
# for a copier.

# %%
patterns = torch.stack([cache["pattern", i][:, :, -1] for i in range(n_layers)], dim=1)
on_name = {name: patterns[range(len(pairs)), :, :, where[name]] for name in ("IO", "S1", "S2")}
towards = (on_name["IO"] - on_name["S1"] - on_name["S2"]).cpu()  # [prompt layer head]
shares_by_prompt, expected = attribution.heads.cpu(), towards * (raised - lowered)
explained, by_attention = (
    torch.corrcoef(torch.stack([guess.flatten(), shares_by_prompt.flatten()]))[0, 1]
    for guess in (expected, towards)
)
if expected.any():
    claim("copying.fits", explained, control=by_attention)
else:
    claim.not_here("copying.fits", "No head copies names, or writes against them.")

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 3: the copying score
# For one head: the share of names that are among the `k` tokens of the *whole vocabulary* that the
# head raises most when it reads that very name.

# %% [markdown] tags=["hint"]
# Follow the shapes: `[name d_model]` through `W_OV` and `W_U` is `[name d_vocab]`. Then compare
# each row's `topk` with that row's own name.


# %% tags=["exercise"]
def name_copying(read, W_OV, W_U, names, k):
    """read: [name d_model]; W_OV: [d_model d_model]; W_U: [d_model d_vocab]; names: [name] ids.

    Returns one number from 0 to 1.
    """
    raise NotImplementedError


# %% tags=["solution"]
def name_copying(read, W_OV, W_U, names, k):
    top = (read @ W_OV @ W_U).topk(k).indices
    return (top == names[:, None]).any(-1).float().mean()


# %% tags=["check"]
check.name_copying(name_copying)

# %% [markdown]
# ## 6. What is written is not what is missed
#
# The best head *wrote* a certain share. What happens *without* it? Silence it at the last position
# (zero-ablation; attribution measures shares from zero, too), let everything after it respond, and
# compare.

# %%
with mi.patching.ablated(model, [best], mi.patching.Zero(), positions=[-1]):
    ablated = mi.lens.logit_attribution(model, tokens, answers)
drop = (attribution.total() - ablated.total()).mean()
print(f"{best} wrote {best_share:.2f}; without it {drop:.2f} is missing")

# %% [markdown]
# The claim is the ratio. Its control takes the same head out of the final stream, and so out of the
# *logits* alone: nothing else can respond, and only LayerNorm's scale is computed anew.

# %%
exact = mi.lens.decompose(model, tokens)  # parts: [part batch 1 d_model]
without = (exact.stream - exact.parts)[:, :, 0]
left = (model.ln_final(without) * direction).sum(-1) + attribution.unembed_bias  # [part batch]
alone = (difference - left)[exact.labels.index(str(best))].mean()
claim("ablation.ratio", drop / best_share, control=alone / best_share)

# %% [markdown]
# Where does the gap come from? Attribution works in the ablated run as well, and both sets of
# shares sum to their totals. So the gap is the sum of what the *other* components changed. It must
# come out exactly, so it is asserted.

# %%
labels = [*mi.lens.component_labels(model), "unembed bias"]
change = (ablated.stacked() - attribution.stacked()).mean(0).cpu()
own = labels.index(str(best))
others = change.sum() - change[own]
assert torch.allclose(change[own], -by_head[best], atol=1e-3)
assert torch.allclose(others, best_share - drop.cpu(), atol=1e-3)
largest = [i for i in change.abs().topk(9).indices.tolist() if i != own][:8]
figures.bars(
    change[largest], [labels[i] for i in largest], horizontal=True,
    title=f"Who changes when {best} falls silent",
    xlabel="change of the share of the logit difference",
)  # fmt: skip

# %% [markdown]
# A bar on the right name's side makes up for the missing head; a bar on the other side lost with
# it, because it had read what the head wrote. A little of every bar is the scale again: without the
# head all are divided by another one. So a gap that leaves less missing than was written hints at
# **self-repair** [@mcgrath2023hydra], and one that leaves more missing at **dependence**: others
# had built on the head. On pocket it is dependence: the last two MLPs, which raise what the head
# wrote, lose most. Which is it in your model? Notebook 08 looks for self-repair, and takes the
# scale out of it.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: the others' answer
# From the shares before and after an ablation: how much did the *others* make up for, as a share of
# what the silenced head had written? 1 is all of it, 0 is nothing, negative means that others lost
# too. (What LayerNorm's new scale does to their shares counts as theirs here. To call the rest
# repair one has to freeze the scale, as notebook 08 does.)

# %% [markdown] tags=["hint"]
# The silenced head's own change is not the others'. Leave it out of the sum.


# %% tags=["exercise"]
def self_repair(before, after, silenced):
    """before, after: [part], shares; silenced: the index of a part, 0 afterwards  ->  a number."""
    raise NotImplementedError


# %% tags=["solution"]
def self_repair(before, after, silenced):
    change = after - before
    return (change.sum() - change[silenced]) / before[silenced]


# %% tags=["check"]
check.self_repair(self_repair)

# %% [markdown]
# ## 7. The circuit in three lines
#
# The published story of this behaviour, in GPT-2 small [@wang2022ioi]:
#
# 1. Find the name that occurs **twice** (at S2, a head looks back at S1).
# 2. **Tell** the last token which it is (at the last token, a head looks at S2).
# 3. **Copy** the name that is left (at the last token, a head looks at IO).
#
# There is another way to the same answer, and a small model may well take it:
#
# 1. Copy the name in the **first** place, whoever it is.
# 2. Copy the name in the **second** place, whoever it is.
# 3. Look at the **last** name (S2), and write **against** it: nobody has to notice that it is said
#    again.
#
# In both, late MLPs may raise what the heads wrote. Which is this model's? How well does each line
# fit any head? A score from 0 to 1 for every line of
# both stories, with the head that fits best, and the median head for comparison.

# %%
s1, s2 = pairs.positions["S1"], pairs.positions["S2"]
after_s1 = mi.heads.position_targets(tokens, s2, s1 + 1)
back = {"at S1": mi.heads.position_targets(tokens, s2, s1) | after_s1}
lines = {
    "at S2, looks at S1 or right after it": mi.heads.attention_scores(model, tokens, back)["at S1"],
    "at the end, looks at S2": looks["S2"],
    "looks at IO more than at S, and copies": (looks["IO"] - looks_at_s).clamp(min=0) * raised,
    "looks at the first name, and copies": looks["1st name"] * raised,
    "looks at the second name, and copies": looks["2nd name"] * raised,
    "looks at S2, and writes against it": looks["S2"] * lowered,
}

# %%
rows = []
for line, scores in lines.items():
    (place, score), *_ = mi.heads.top_heads(scores, 1)
    rows.append({"a head that": line, "best fit": str(place), "score": score,
                 "median head": scores.median().item()})  # fmt: skip
mi.figures.table(rows, title="Which lines find a head in this model?", digits=2)

# %% [markdown]
# On pocket every line of the second story finds a head that does just this, and of the first only
# the one about S2; SmolLM2 has heads for both. But to look at S2 fits both: the head may have been
# told who is named twice, or look at the last name, whoever it is. That can be tested: let a
# **third** person give. The last name is now said for the first time, and S1 only once. How much
# does the best head take from the logit of the last name (against the mean over names), as a share
# of what it takes where that name was said before?


# %%
hooks = [f"blocks.{best[0]}.attn.hook_z", "ln_final.hook_scale"]


def head_writes(prompts, chosen):
    """What the best head adds to the logit of a chosen name, less the mean over names [prompt]."""
    found = model.run_with_cache(prompts, names_filter=hooks)[1]
    out = found[hooks[0]][:, -1, best[1]] @ model.W_O[best] / found[hooks[1]][:, -1]
    return (out * (model.W_U[:, chosen].T - model.W_U[:, names].mean(1))).sum(-1)


changed, givers = third_giver(few)
taken = -head_writes(few.clean_tokens, few.answer_tokens[:, 1]).mean()
from_new = -head_writes(changed, givers).mean() / taken
from_s1 = head_writes(changed, few.answer_tokens[:, 1]).abs().mean() / taken
if role == "S2":
    claim("story.last_name", from_new, control=from_s1)
else:
    claim.not_here("story.last_name", f"its best head, {best}, looks at {role}")

# %% [markdown]
# **What has been shown.** Where some heads look, what they do to names, how much they write, what
# is missing without one of them, and whether it takes a repeated name to set the best one off.
#
# **What has not.** No arrow leads from one head to another: why a head looks at this name and not
# at that one, nothing here says. A head that fits a line may do so on every text, and for other
# reasons. To draw these arrows one has to *intervene* on one step and watch the next: notebook 05
# patches activations, 06 does it fast, 07 patches single paths and asks whether a circuit is
# enough, 08 asks what such a circuit lacks.

# %% [markdown] tags=["task"] minutes=15 difficulty=3
# ### Exercise 5: a behaviour nobody showed you
# You get the heads' shares on prompts of an unknown behaviour, and on their twins, with the answers
# of the *prompts* in both. Return the head that **moves the answer**: whose share changes most from
# twin to prompt, on average: section 2's comparison, head by head (appendix E takes it for three
# behaviours). A head that always pushes the right word, twin or not, moves nothing; nor does a head
# that is loud on a single prompt.

# %% [markdown] tags=["hint"]
# Subtract first, then average over prompts, then take the size. `divmod(index, n_heads)` turns a
# flat index into layer and head.


# %% tags=["exercise"]
def moving_head(clean, twin):
    """clean, twin: [prompt layer head], shares  ->  (layer, head), two whole numbers."""
    raise NotImplementedError


# %% tags=["solution"]
def moving_head(clean, twin):
    moved = (clean - twin).mean(0).abs()
    return divmod(int(moved.argmax()), moved.shape[1])


# %% tags=["check"]
check.moving_head(moving_head)

# %% [markdown]
# ## Explore
#
# Your own prompt and two words that could follow it. Words begin with a space, and have to be one
# token each. Try pronouns ("Mary is tired because", he or she), sentiment, a list, a riddle.


# %%
def explore_difference(prompt, right, wrong):
    """Shares of heads and MLPs in the logit difference of two words after a prompt."""
    ids = model.to_tokens(prompt)
    pair = torch.tensor([[mi.prompts.single_token(model, word) for word in (right, wrong)]])
    found = mi.lens.logit_attribution(model, ids, pair.to(ids.device))
    blocks = torch.cat([found.heads[0], found.mlps[0][:, None]], dim=1)
    return mi.figures.heatmap(
        blocks, x=[*head_names, "MLP"], y=layer_names, xlabel="component", ylabel="layer",
        title=f"{right.strip()} − {wrong.strip()}: {found.total().item():+.2f} in all",
        colorbar="share of the logit difference", subtitle=f"{mi.model_id(model)} · {prompt} …",
    )  # fmt: skip


mi.figures.explore(
    explore_difference, prompt=pairs.clean[0], right=pairs.answers[0], wrong=pairs.wrong[0]
)

# %% [markdown] short=true
# ## Summary
#
# - The logit difference is the log of a ratio of probabilities. It ignores what all logits share,
#   adds up over components, and does not saturate. It asks *this or that*, and is blind to the
#   rest.
# - A behaviour is measured on many prompts, in all their orders, with controls that no symmetry
#   decides, and with an interval that says what was drawn.
# - It can be shared out exactly, by half-layer, head, and position read, at the price of a frozen
#   scale; the price is high for what writes long vectors (appendix B).
# - An average over both orders hides the heads that work for a place, where a model has them: split
#   it before you trust it (appendix C). Other behaviours, other heads (appendix E).
# - For IOI a few heads look at a name and write its token, or write against it, and late MLPs may
#   raise that: several ways to one answer, and models differ.
# - Shares and ablations differ, because other components respond and because some work through
#   others. The gap may have either sign. Each answers its own question.
# - A story in three lines fits what we saw. The arrows between its lines are yet to be shown.
#
# **Where to read on.** The circuit, its name movers and what backs them up: [@wang2022ioi],
# sections 2 and 3. What the negative heads are for: [@mcdougall2023copy]. Self-repair in general:
# [@mcgrath2023hydra], and notebook 08. Which metric to choose when patching:
# [@zhang2023patching] and [@heimersheim2024patching]. **Next:** notebook 05 intervenes.

# %% [markdown]
# ## Appendix A: why not a probability
#
# What makes the logit difference the tool for taking a model apart? Start where the two names are
# level, push the normalised final state along the direction that tells them apart, in equal steps,
# and plot three metrics, each as a share of its own range. Look for the straight line.

# %%
end_of_stream = f"blocks.{n_layers - 1}.hook_resid_post"
final = model.run_with_cache(tokens, names_filter=end_of_stream)[1][end_of_stream][:, -1]
one_logit = direction / direction.square().sum(-1, keepdim=True)
level = model.ln_final(final[:, None])[:, 0] - difference[:, None] * one_logit
pushes = torch.linspace(-16, 16, 33)
pushed = [level + push * one_logit for push in pushes.tolist()]
seen = [measures(model.unembed(x[:, None])[:, 0], last) for x in pushed]

# %%
curves = {}
for name in ("logit difference", "probability", "log-probability"):
    curve = torch.stack([numbers[name].mean() for numbers in seen]).cpu()
    curves[name] = (curve - curve.min()) / (curve.max() - curve.min())
figures.lines(
    curves, title="Of these only the logit difference is a straight line",
    x=pushes, xlabel="push (logits)", ylabel="share of the metric's range",
)  # fmt: skip

# %% [markdown]
# Probability saturates at both ends: near 0 and near 1 a push does almost nothing, so effects there
# look small. The log-probability saturates where the answer is likely. The logit difference counts
# every step alike, so the effects of parts can be *added up*. It is linear in the state by
# construction, and so this is asserted, not claimed.

# %%
straight = torch.linspace(0, 1, len(pushes))
bend = {name: (curve - straight).abs().max().item() for name, curve in curves.items()}
assert bend["logit difference"] < 1e-4
print(f"largest distance of the probability from a straight line: {bend['probability']:.2f}")

# %% [markdown]
# ## Appendix B: what freezing LayerNorm's scale costs
#
# The final LayerNorm divides by a scale that depends on the *whole* stream, so without a component
# the scale would be another one too. Attribution ignores that: it freezes the scale. Is this a
# small sin? Measure it. Take each component out of the final stream, and out of nothing else, and
# let LayerNorm compute its scale anew.

# %%
shares = attribution.stacked()[:, :-1].T
error = (difference - left) - shares

# %% [markdown]
# Each dot is a component. On the line, freezing costs nothing. Which kinds of component lie off it?

# %%
kinds = ["embeddings"] * 2 + n_layers * (n_heads * ["heads"] + ["biases", "MLPs"])
cost = error.abs().mean(1)
figures.scatter(
    shares.mean(1), (difference - left).mean(1), labels=exact.labels, identity=True,
    groups=kinds, named=[exact.labels[int(cost.argmax())]],
    title=f"Freezing the scale costs most for {exact.labels[int(cost.argmax())]}",
    xlabel="share, scale frozen", ylabel="effect on the logits alone, scale computed anew",
)  # fmt: skip

# %% [markdown]
# The error grows with the length of what a component writes (the rank correlation is printed
# below). The claim compares the head with the largest share and the worst case, whose name stands
# in the figure: on pocket it is a head, too.

# %%
own_error = cost[exact.labels.index(str(best))]
claim("layernorm.frozen", own_error, control=cost.max())
size = exact.parts[:, :, 0].norm(dim=-1).mean(1)
ranks = torch.stack([values.argsort().argsort().float() for values in (cost, size)])
print(f"rank correlation of error and length: {torch.corrcoef(ranks)[0, 1]:.2f}")

# %% [markdown]
# ## Appendix C: other prompts, and what the average over both orders hides
#
# Are the shares of section 4 about these eight prompts only? Compare them with the shares on the
# generated prompts: the slope of the one against the other is 1 if the same heads write the same
# amounts. Control: the generated prompts, read along the names of *other* prompts, which these
# heads have no reason to know. It adds up the sizes of their mean shares there, and divides by the
# same sum on the eight prompts. (It is weak: two partners have these foreign names the other way
# round, so what a head writes along them on both alike cancels in the mean.)

# %%
of_pairs = (many.answer_tokens, many.answer_tokens.roll(2, dims=0))
on_many, on_foreign = (
    mi.lens.logit_attribution(model, many.clean_tokens, of_pair).heads.cpu() for of_pair in of_pairs
)
slope = (by_head * on_many.mean(0)).sum() / by_head.square().sum()
foreign = on_foreign.mean(0).abs().sum() / by_head.abs().sum()
claim("heads.generalise", slope, control=foreign)

# %% [markdown]
# Now split the average of section 4 by the order of the names: to the right a head's share on ABBA
# prompts, upwards on BABA prompts. On the dotted line a head works for the *receiver*, wherever the
# name stands. Far off it, a head pushes in one order and pushes back in the other: it works for a
# **place**, the first name or the second. Look for pairs, one on each side.

# %%
abba = torch.tensor([label["order"] == "ABBA" for label in pairs.labels])
on_abba, on_baba = (attribution.heads[chosen].mean(0).cpu() for chosen in (abba, ~abba))
for_place = (on_abba - on_baba) / 2  # and by_head is their mean: there are four of each
hiding = for_place.abs().masked_fill(by_head.abs() > best_share / 10, 0)
placers = [head for head, _ in mi.heads.top_heads(hiding, 2)]
figures.scatter(
    on_abba.flatten(), on_baba.flatten(), labels=all_names, identity=True,
    named=[str(place) for place in dict.fromkeys((best, worst, *placers))],
    title="Each head's share in the two orders: for the receiver, or for a place?",
    xlabel="share on ABBA", ylabel="share on BABA",
)  # fmt: skip

# %% [markdown]
# A head that raises the first name in every sentence says "one of these people", and that is half
# of the answer: without it the model might say "the". Yet over both orders its share cancels, and
# the average does not show it. The head was *chosen* because it does so on these eight prompts,
# where some head always looks extreme. So the claim asks the generated prompts, which had no part
# in the choice of the head, nor in that of the order that it helps.

# %%
assert torch.allclose((on_abba + on_baba) / 2, by_head, atol=1e-4)
placer = placers[0]
sides = [on_many[first::2][:, placer.layer, placer.head].mean().item() for first in (0, 1)]
print(f"{placer} adds {sides[0]:+.2f} on ABBA and {sides[1]:+.2f} on BABA")
helped, hurt = sides if for_place[placer] > 0 else sides[::-1]
claim("heads.place", helped, control=hurt)

# %% [markdown]
# ## Appendix D: every head silenced
#
# Silence each head in turn at the last position, and compare the effect with the share.
# `mi.patching.patch_sweep` (notebook 05 explains it) does it in one batch. Twice: with zero, and
# with the head's mean over the eight prompts, which takes out only what differs between them.

# %%
missed = {}
for name, what in {"zero": mi.patching.Zero(), "mean": mi.patching.Mean(tokens)}.items():
    sweep = mi.patching.patch_sweep(
        model, tokens, what, mi.patching.LogitDiff(answers), site="z", over=("layer", "head"),
        where=mi.patching.Where(positions=[-1]), progress=False,
    )  # fmt: skip
    missed[name] = -sweep.effect().cpu()  # [layer head]
assert torch.allclose(missed["zero"][best], drop.cpu(), atol=1e-3)

# %% [markdown]
# On the line, what is written is what is missed. Above it, more is missed than was written: others
# build on the head. Below it, less. Of the heads that have hardly a share, the one with the largest
# effect at zero is printed: does it carry something about the names, through others? Then its mean
# would not do in its place.

# %%
quiet = missed["zero"].abs().masked_fill(by_head.abs() > best_share / 10, 0)
hidden = mi.heads.Head(*divmod(int(quiet.argmax()), n_heads))
print(f"{hidden}: " + ", ".join(f"{name} {by[hidden]:+.2f}" for name, by in missed.items()))
figures.scatter(
    by_head.flatten(), missed["mean"].flatten(), labels=all_names, identity=True,
    named=[str(place) for place in (best, worst, hidden)],
    title="What a head writes, and what is missed with its mean there",
    xlabel="share of the logit difference", ylabel="drop when ablated at the last token",
)  # fmt: skip

# %% [markdown]
# On pocket the mean does: what the head writes is the same on every prompt, later parts are used to
# it, and zero takes that away. So a large effect at zero is no sign of hidden work. On SmolLM2 the
# mean does not: more than half of the effect stays, and the head is the one that looks at S2 from
# the end (section 7): it writes no name itself, and others use what it found there. Nor is either
# number "the importance" of a head. A share says what it says to the logits; an ablation says what
# becomes of the whole model with something else in its place.

# %% [markdown]
# ## Appendix E: the same tool on other behaviours
#
# Direct attribution knows nothing about names. Any behaviour will do in which one word is right
# and another wrong, with a twin in which it is the other way round. Two more:
#
# - **facts**: the capital of one country against that of another, one opposite against another …;
# - **agreement**: a singular or a plural verb, after a subject and a nearer noun of the *other*
#   number.

# %%
n_each = mi.models.by_size(model, 100, 50)
behaviours = {
    "IOI": many.select(range(n_each)),
    "facts": mi.prompts.facts(model, n_each),
    "agreement": mi.prompts.agreement(model, n_each),
}
examples = [
    {"behaviour": name, "prompt": p.clean[0], "right": p.answers[0], "wrong": p.wrong[0],
     "twin": p.corrupt[0]} for name, p in behaviours.items()
]  # fmt: skip
mi.figures.table(examples)

# %%
shares_in, maps, rows, totals = {}, {}, [], {}
for name, p in behaviours.items():
    shares_in[name], of_twins = (
        mi.lens.logit_attribution(model, some, p.answer_tokens)
        for some in (p.clean_tokens, p.corrupt_tokens)
    )
    here, twin = shares_in[name].total().cpu(), of_twins.total().cpu()
    maps[name] = (shares_in[name].heads - of_twins.heads).cpu() / 2  # [prompt layer head]
    totals[name] = (here.mean(), twin.mean())
    rows.append({"behaviour": name, "logit difference": here.mean(), "of the twins": twin.mean(),
                 "prompts above zero": (here > 0).float().mean()})  # fmt: skip
claim("facts.logit_diff", totals["facts"][0], control=totals["facts"][1])
claim("agreement.logit_diff", totals["agreement"][0], control=totals["agreement"][1])
mi.figures.table(rows, title="Three behaviours, one metric")

# %% [markdown]
# Who writes the difference? First heads against MLPs, as shares of each behaviour's whole
# difference. IOI can be solved by moving a word from the context. Most of the facts are not in the
# context: they have to come from weights. Even so, heads may have the larger share: an early MLP
# can look the fact up at the subject, and a late head move it to the end [@meng2022rome]. Shares at
# the last token say who *wrote*, not who *knew*.

# %%
writers = {}
for name, found in shares_in.items():
    written = torch.stack([found.heads.sum((1, 2)), found.mlps.sum(1)]).mean(1).cpu()
    writers[name] = written / totals[name][0]
figures.bars(
    writers, ["all heads", "all MLPs"],
    title="Who writes the difference, at the last token",
    ylabel="share of the whole difference",
)  # fmt: skip

# %% [markdown]
# Then the heads. A head that pushes the right word whoever is asked about is no part of the answer,
# so take from each share that on the twin, with the answers of the prompt, and halve it. Do the
# three behaviours use the same heads?

# %%
figures.heatmap(
    torch.stack([heads.mean(0) / totals[name][0] for name, heads in maps.items()]),
    x=head_names, y=layer_names, facets=list(maps), xlabel="head", ylabel="layer",
    title="Each behaviour has heads of its own",
    colorbar="half of prompt minus twin, of the whole difference",
)  # fmt: skip

# %% [markdown]
# Where does the best head of each behaviour look, from the last token? The roles are those that
# each generator of prompts marks.

# %%
rows = []
for name, p in behaviours.items():
    (place, share), *_ = mi.heads.top_heads(maps[name].mean(0), 1)
    roles = {
        role: mi.heads.position_targets(p.clean_tokens, -1, where)
        for role, where in p.positions.items() if role != "end"
    }  # fmt: skip
    at_roles = mi.heads.attention_scores(model, p.clean_tokens, roles)
    looking = ", ".join(f"{role} {scores[place]:.2f}" for role, scores in at_roles.items())
    rows.append({"behaviour": name, "best head": str(place), "share": share,
                 "of": totals[name][0], "attention on": looking})  # fmt: skip
mi.figures.table(rows, title="The best head of each behaviour, and where it looks")

# %% [markdown]
# The claim: of the five heads that move the answer most, how many are the same in two halves of the
# *same* behaviour, as against in two behaviours (both averaged)?


# %%
first_half, second_half = slice(n_each // 2), slice(n_each // 2, None)


def five_heads(shares):
    """The five heads whose mean over prompts is largest in size, as flat indices."""
    return set(shares.mean(0).abs().flatten().topk(5).indices.tolist())


halves = [
    len(five_heads(heads[first_half]) & five_heads(heads[second_half])) / 5
    for heads in maps.values()
]
five = [five_heads(heads) for heads in maps.values()]
across = [len(five[i] & five[j]) / 5 for i, j in ((0, 1), (0, 2), (1, 2))]
claim("behaviours.own_heads", sum(halves) / 3, control=sum(across) / 3)

# %%
claim.table()
