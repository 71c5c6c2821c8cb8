# ---
# title: Induction heads
# minutes: 60
# ---

# %% [markdown]
# **The question.** Show a language model something it cannot know, then show it again. The second
# time it does better. Which heads do that, how, and when in training do they appear?
#
# **You need** attention patterns, scores of heads and K-composition
# ([notebook 02](02_attention_heads.ipynb)).
#
# **You will be able to**
#
# - measure in-context learning, as loss by position;
# - find induction heads by two scores, prefix matching and copying;
# - explain the mechanism in two steps, on one sequence, by hand;
# - show that a head is a *cause*: ablate it, ablate a control, and compare;
# - cut the wire between a previous-token head and an induction head, and nothing else;
# - watch induction heads being born, and say why one layer is not enough.

# %% [markdown]
# ## 1. Later tokens are easier
#
# The simplest sign that a model uses what it has read: its loss falls along the text. Here are
# short stories in plain English, one for each row, all cut to the same length. (So their "end",
# below, is where we cut, seldom the last of the story.) The curve is the mean loss at each
# position, averaged over neighbours to calm it down. Look at its slope, and compare with a model of
# the same shape that was never trained.

# %%
from mi_data.pocket import generator

n_layers, n_heads, length = model.cfg.n_layers, model.cfg.n_heads, 45
stories = [generator.sample("story", seed, "test").text for seed in range(160)]
rows = [model.to_tokens(story)[:, :length] for story in stories]
texts = torch.cat([row for row in rows if row.shape[1] == length][:40])
untrained = mi.untrained(model)


# %%
def loss_by_position(some_model, tokens):
    """Mean loss [pos - 1] over sequences, in nats: entry i is about token i + 1."""
    with torch.no_grad():
        return mi.metrics.loss(some_model(tokens), tokens).mean(0).cpu()


by_position = {"trained": loss_by_position(model, texts)}
by_position["untrained"] = loss_by_position(untrained, texts)
smooth = {name: curve.unfold(0, 5, 1).mean(-1) for name, curve in by_position.items()}
figures.lines(
    smooth, title="Loss falls along a story", xlabel="position",
    ylabel="loss (nats), mean of five positions",
)  # fmt: skip

# %% [markdown]
# Late loss minus early loss is called the **in-context-learning score** [@olsson2022induction];
# negative means that context helps. But is this learning from the context, or is the end of a story
# simply easier to write? Keep the end and its positions, and give it the beginning of *another*
# story. Only what the beginning tells
# about the end is then gone. The first five tokens after the seam are not counted: any break in a
# sentence is a surprise.

# %%
strange = torch.cat([texts.roll(1, dims=0)[:, :-15], texts[:, -15:]], dim=1)
own_end, strange_end = (loss_by_position(model, rows)[-10:].mean() for rows in (texts, strange))
claim("induction.in_context", own_end, control=strange_end)

# %% [markdown]
# This mixes many abilities: knowing the topic, the style, who the story is about. To isolate the
# simplest ability we take meaning away.

# %% [markdown] short=true
# ## 2. Random tokens, said twice
#
# Random tokens cannot be predicted. Said a second time, they can, by anyone who looks back. Each
# row holds random tokens and then the same again; no BOS, as in the demonstration whose results for
# GPT-2 small were published.

# %% short=true
half = min(50, model.cfg.n_ctx // 2)
top_id = min(10000, len(model.tokenizer))
tokens = mi.prompts.repeated_tokens(model, 10, half, bos=False, low=1000, high=top_id)
repeat_curve = loss_by_position(model, tokens)
mi.figures.lines(
    {"trained": repeat_curve, "untrained": loss_by_position(untrained, tokens)},
    title="The second copy is easy",
    xlabel="position", ylabel="loss (nats)", x=range(1, 2 * half),
    subtitle=f"{mi.model_id(model)}; the second copy begins at position {half}",
)  # fmt: skip

# %% [markdown] short=true
# The loss drops where the second copy begins, though not at its very first token: nothing says that
# a repetition starts there. (On the first copy a trained model can be *worse* than an untrained
# one. It expects other text, and is sure of it. `pocket` was shown random tokens said again in its
# training, and scored on the repeats alone; SmolLM2 and GPT-2 learned to repeat from language.)
#
# The claim compares the two copies. Entry $i$ of the curve is about token $i + 1$, so the second
# copy's first *predictable* token has entry `half`.

# %% short=true
first_copy, second_copy = repeat_curve[: half - 1].mean(), repeat_curve[half:].mean()
claim("induction.second_copy", second_copy, control=first_copy)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: two copies, two losses
# Return the mean loss on the first and on the second copy, leaving out the second copy's first
# token, which nothing announces. No BOS: the rows are `half` tokens and the same again.

# %% [markdown] tags=["hint"]
# The logits at position $i$ predict token $i + 1$. Which positions predict the tokens `half + 1` to
# the end?


# %% tags=["exercise"]
def loss_by_copy(logits, tokens):
    """logits: [batch 2*half d_vocab]; tokens: [batch 2*half]  ->  [2], in nats."""
    raise NotImplementedError


# %% tags=["solution"]
def loss_by_copy(logits, tokens):
    half = tokens.shape[1] // 2
    log_probs = logits[:, :-1].log_softmax(-1)
    losses = -log_probs.gather(-1, tokens[:, 1:, None])[..., 0].mean(0)
    return torch.stack([losses[: half - 1].mean(), losses[half:].mean()])


# %% tags=["check"]
check.loss_by_copy(loss_by_copy)

# %% [markdown] short=true
# ## 3. Which heads? Prefix matching and copying
#
# The rule behind the drop: *find the last time that the current token occurred, and say what came
# next*. A head that follows it attends, from the second `A`, to the `B` that came after the first
# `A`, and raises the logit of `B`:
#
# $$\ldots\; A\; B\; \ldots\; A \;\rightarrow\; B$$
#
# That is two scores [@olsson2022induction]. **Prefix matching**: the attention on tokens whose
# *previous* token equals the current one. For one sequence of letters, the target of each query:

# %% short=true
letters = torch.tensor([[0, 1, 2, 0, 1, 3, 0]])  # A B C A B D A
mi.heads.token_targets(letters, "induction")[0].int()

# %% [markdown] short=true
# Read the last row: the query is the third `A`; the targets are the `B`s after the first and the
# second `A`. In the row above, `D` never occurred before, so it has no target.
#
# Now the score of all heads. In random tokens said twice each target is a fixed distance back, so
# the naive score of one head is the mean of one diagonal.

# %% short=true
scores = mi.heads.attention_scores(model, tokens)
induction = scores["induction"]
best, best_score = mi.heads.top_heads(induction, 1)[0]
hook = f"blocks.{best[0]}.attn.hook_pattern"
pattern = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, best[1]]
naive = pattern.diagonal(1 - half, dim1=1, dim2=2)[:, 1:].mean()
assert abs(naive - best_score) < 0.02  # a token drawn twice has a second target

# %% short=true
chance = mi.heads.attention_scores(untrained, tokens)["induction"]
claim("induction.best_head", best_score, control=chance.max())
figures.heatmap(
    induction, title=f"Few heads match prefixes, and {best} best",
    x=[f"H{j}" for j in range(n_heads)], y=[f"L{i}" for i in range(n_layers)],
    xlabel="head", ylabel="layer", colorbar="attention on targets", center=None, limit=1,
)  # fmt: skip

# %% [markdown]
# Here every match is the same distance back. A head that looks a fixed distance back would score
# as high, and it would need no tokens at all. So vary the distance: each row below says a block of
# another length twice, and only the second time is scored, where every token has one match. The
# control is that other head, made by hand: it looks back as far as the matches were above, and
# would have scored one there.

# %%
lengths = torch.arange(half // 2 + 1, half + 1, 3)
blocks = [
    mi.prompts.repeated_tokens(model, 1, n, seed=n, bos=False, low=1000, high=top_id)[:, :n]
    for n in lengths.tolist()
]
varied = torch.cat([block.repeat(1, 4)[:, : 2 * half] for block in blocks])
second = torch.arange(2 * half) < 2 * lengths[:, None]  # [row query], the first copy has no match
on_match = mi.heads.token_targets(varied, "induction") & second[:, :, None].to(varied.device)
at_any = mi.heads.attention_scores(model, varied, {"match": on_match})["match"]
always_half = on_match.diagonal(1 - half, dim1=1, dim2=2).sum() / on_match.any(-1).sum()
claim("induction.any_distance", at_any[best], control=always_half)
print(f"the best head of the first layer scores {at_any[0].max():.2f}")

# %% [markdown]
# No head of the first layer does it. There, a key knows its own token and position, and not what
# came *before* it: it cannot mark a `B` as the one that followed `A`. We return to this.
#
# **Copying**: does the head raise the token it attends to? First on these sequences: a head's
# output, read along the unembedding of the true next token, is its direct contribution to that
# logit (divided by the final LayerNorm's scale). Each dot below is a head: to the right it matches
# prefixes, upwards it pushes the next token. Most heads do neither, and lie at the lower left. On
# pocket three heads do both, at the upper right. In SmolLM2 the two have come apart: the heads that
# match best push a little, and another, late head pushes most without matching. It may say what
# others have found; we did not test that.

# %%
names = [f"blocks.{i}.attn.hook_z" for i in range(n_layers)] + ["ln_final.hook_scale"]
cache = model.run_with_cache(tokens, names_filter=names)[1]
queries = torch.arange(half, 2 * half - 1)
outputs = torch.stack([cache["z", i][:, queries] for i in range(n_layers)])
outputs = torch.einsum("lbphe,lhed->lhbpd", outputs, model.W_O)
normal = outputs / cache["ln_final.hook_scale"][:, queries]
next_tokens = model.W_U.T[tokens[:, half + 1 :]]  # [row query d_model]
pushed = (normal * next_tokens).sum(-1).mean((-1, -2)).cpu()  # [layer head]

# %%
figures.scatter(
    induction.flatten(), pushed.flatten(),
    labels=[f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)],
    named=[str(head) for head, _ in mi.heads.top_heads(induction, 3)],
    title="Who matches prefixes, and who pushes the next token?", xlabel="prefix matching",
    ylabel="pushes the next token's logit by",
)  # fmt: skip

# %% [markdown]
# To push the next token here is not yet to copy what is read; the weights say that. Let the OV
# circuit read random tokens, each as the first MLP has extended it (notebook 02). Of how many does
# it raise the very token that it reads most of all, out of the *whole vocabulary*? The control is
# the average head.

# %%
n_drawn, seed = mi.models.by_size(model, 200, 50), torch.Generator().manual_seed(0)
drawn = torch.randint(1000, top_id, (n_drawn,), generator=seed).to(tokens.device)
raised_most, _ = mi.heads.copying_top_k(model, drawn, k=1)
claim("induction.copies", raised_most[best], control=raised_most.mean())

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 2: the targets of induction
# Mark, for each query, the earlier positions that come right after an earlier occurrence of the
# query's token.

# %% [markdown] tags=["hint"]
# `tokens[:, :, None] == tokens[:, None, :]` marks equal tokens, `[batch query key]`. The target
# lies one key to the right. Then leave out the future and the query itself.


# %% tags=["exercise"]
def induction_targets(tokens):
    """tokens: [batch pos]  ->  True or False, [batch query key]."""
    raise NotImplementedError


# %% tags=["solution"]
def induction_targets(tokens):
    same = tokens[:, :, None] == tokens[:, None, :]
    targets = torch.zeros_like(same)
    targets[:, :, 1:] = same[:, :, :-1]
    return targets & torch.ones_like(same[0]).tril(-1)


# %% tags=["check"]
check.induction_targets(induction_targets)

# %% [markdown] short=true
# ## 4. The mechanism, by hand
#
# How can a head find the token *after* an earlier `A`, when keys say what a token *is*? Two heads
# are needed, one after the other [@elhage2021framework]:
#
# 1. A **previous-token head** in an early layer stands on `B`, looks at `A` before it, and writes
#    into `B`'s stream: "before me came A".
# 2. The **induction head** stands on the second `A`. Its query says "I am A". It looks for keys
#    that say "before me came A", finds `B`, and copies what `B` is.
#
# Follow both on one short sequence. The best previous-token head *below* the induction head, at
# `B`; then the induction head, at the second `A`.

# %% short=true
previous = scores["previous_token"].clone()
previous[best[0] :] = 0  # only layers that the induction head can read
prev, _ = mi.heads.top_heads(previous, 1)[0]
short = tokens[:1, : min(12, half)]
short = torch.cat([short, short], dim=1)
short_words = [repr(word) for word in mi.heads.token_names(model, short[0])]
short_cache = model.run_with_cache(short)[1]

# %% short=true
n, a = short.shape[1] // 2, 4  # A is at position a, and again at a + n
step_1 = short_cache["pattern", prev[0]][0, prev[1], a + 1]
step_2 = short_cache["pattern", best[0]][0, best[1], a + n]
rows = [
    {"head": str(prev), "stands on": "B", "should look at": "A",
     "there": step_1[a].item(), "best": short_words[step_1.argmax()]},
    {"head": str(best), "stands on": "the second A", "should look at": "B",
     "there": step_2[a + 1].item(), "best": short_words[step_2.argmax()]},
]  # fmt: skip
mi.figures.table(rows, title=f"A is {short_words[a]}, B is {short_words[a + 1]}")

# %% [markdown] short=true
# The whole patterns, for any head among the best of both kinds. A previous-token head is a line
# just below the diagonal. An induction head is a line *half a square* lower, in the second copy
# only. In the first copy there is nothing to find, and no rule says where its attention goes:
# pocket's strays, SmolLM2's rests on the first token.
# (Appendix C asks where it goes in ordinary text, behind a BOS.)


# %% short=true
def pattern_of(head):
    """The pattern of one head on the short sequence."""
    pattern = short_cache["pattern", head[0]][0, head[1]]
    name = str(head)
    return mi.figures.attention(pattern, short_words, [name], title=f"Attention of {name}")


heads_to_show = [head for head, _ in mi.heads.top_heads(induction, 4)]
heads_to_show += [head for head, _ in mi.heads.top_heads(previous, 2)]
choices = {str(head): head for head in heads_to_show}
mi.figures.explore(pattern_of, head=choices, ahead=True)

# %%
mi.figures.attention(
    torch.stack([short_cache["pattern", head[0]][0, head[1]] for head in (prev, best)]),
    short_words, [str(prev), str(best)],
    title="Step 1 and step 2",
).static()  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: the rule itself
# Write the algorithm that the circuit approximates. For each position, return the token that
# followed the *latest* earlier occurrence of the current token, or −1 where there was none.

# %% [markdown] tags=["hint"]
# A loop over positions that remembers, for each token, what came after it last, is fine. At
# position $i$ you may know the tokens up to $i$, no more.


# %% tags=["exercise"]
def induction_guess(tokens):
    """tokens: [pos]  ->  the guessed next token at each position, [pos], or -1."""
    raise NotImplementedError


# %% tags=["solution"]
def induction_guess(tokens):
    followed_by, guesses = {}, []
    row = tokens.tolist()
    for i, token in enumerate(row):
        if i:
            followed_by[row[i - 1]] = token
        guesses.append(followed_by.get(token, -1))
    return torch.tensor(guesses)


# %% tags=["check"]
check.induction_guess(induction_guess)

# %% [markdown] short=true
# ## 5. Cause, not only correlation
#
# A head with a high score attends as if it did the work. Does the model *need* it? Ablate it:
# replace its output by something that carries no information, and see how much the loss on the
# second copy rises.
#
# - **Zero-ablation** writes nothing. But zero is no natural value: the rest of the model may be
#   built around the head's usual output.
# - **Mean-ablation** writes the head's average output. It removes only what *varies*, and does not
#   depend on how the weights were processed. It is the better default.
#
# And what would ablating *any* head do? The control is a head of the **same layer** that does not
# match prefixes, and among those the most similarly **busy**: the one whose output vectors come
# nearest in length. A head of an earlier layer would be no fair control. Whatever reads it changes
# too, the induction heads among them.

# %% short=true
tested = tokens[: mi.models.by_size(model, 10, 4)]


def second_copy(heads=(), what=None):
    """Loss of the second copy, and centred logit of its right tokens, each [row]."""
    with mi.patching.ablated(model, heads, what) if heads else torch.no_grad():
        logits = model(tested, logits_to_keep=half)[:, :-1].detach()
    right = logits.gather(-1, tested[:, half + 1 :, None])[..., 0]
    loss = (logits.logsumexp(-1) - right).mean(-1)
    return loss.cpu(), (right - logits.mean(-1)).mean(-1).cpu()


clean, clean_logit = second_copy()
busyness = outputs.norm(dim=-1).mean((-1, -2)).cpu()  # [layer head]
strong = [head for head, s in mi.heads.top_heads(induction, 12) if s > best_score / 2]
idle = induction < best_score / 10

# %% [markdown] short=true
# `strong` holds the heads with at least half of the best score. For each of them, a control: each
# used once, and from another layer only when its own has none left.

# %% short=true
controls, layer_of = [], torch.arange(n_layers)[:, None].expand_as(busyness)
for head in strong:
    distance = (busyness - busyness[head]).abs().masked_fill(~idle, torch.inf)
    distance += busyness.max() * (layer_of != head[0])
    for taken in [*controls, prev]:
        distance[taken] = torch.inf
    controls.append(mi.heads.Head(*divmod(int(distance.argmin()), n_heads)))
print("strong:  ", ", ".join(str(head) for head in strong))
print("controls:", ", ".join(str(head) for head in controls))

# %% [markdown] short=true
# The mean is taken over other random tokens, not over the ones we test on.

# %% short=true
reference = mi.prompts.repeated_tokens(
    model, len(tested), half, seed=1, bos=False, low=1000, high=top_id
)
mean = mi.patching.Mean(reference, per_position=False)
sets = {"best": strong[:1], "its control": controls[:1],
        "all": strong, "all controls": controls}  # fmt: skip
rise = {
    name: [second_copy(heads, what)[0] - clean for heads in sets.values()]
    for name, what in {"zero-ablation": mi.patching.Zero(), "mean-ablation": mean}.items()
}  # for each set [row]
figures.bars(
    {name: [of_set.mean() for of_set in found] for name, found in rise.items()}, list(sets),
    title="Without induction heads the second copy is hard again",
    ylabel="rise of the loss on the second copy (nats)",
)  # fmt: skip

# %% [markdown] short=true
# The claims take the mean rise. For the controls they take the mean *size* of the change, row by
# row: a control that makes one row easier and another harder does something, and a control that was
# never ablated would show exactly zero.

# %% short=true
of_best, of_control, of_all, of_controls = rise["mean-ablation"]
claim("ablation.best_head", of_best.mean(), control=of_control.abs().mean())
claim("ablation.all_heads", of_all.mean(), control=of_controls.abs().mean())

# %% [markdown]
# On pocket a single head costs little, and all together cost much. It is tempting to say that the
# others *step in* when one is gone. Appendix A shows why that does not follow. In any case
# the effect of one ablation is not the importance of one head.

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 4: mean-ablate one head
# Return `z` with one head replaced by its mean. Others stay as they are, and so does the input.

# %% [markdown] tags=["hint"]
# `z.clone()` first. The mean has one entry for each of the head's own dimensions.


# %% tags=["exercise"]
def mean_ablate(z, reference, head):
    """z, reference: [batch pos head d_head], activations on two sets of prompts; head: a number.

    Returns z, with this head's output everywhere replaced by its mean over the reference.
    """
    raise NotImplementedError


# %% tags=["solution"]
def mean_ablate(z, reference, head):
    ablated = z.clone()
    ablated[:, :, head] = reference[:, :, head].mean((0, 1))
    return ablated


# %% tags=["check"]
check.mean_ablate(mean_ablate)

# %% [markdown]
# ### Cut the first step, and the second falls
#
# If the story is right, ablating the *previous-token head* must destroy the *induction head's*
# pattern, one or more layers later. The control: every other head of the same layer, one by one.


# %%
neighbours = [mi.heads.Head(prev[0], j) for j in range(n_heads)]


def match_without(head):
    """The best induction head's prefix matching with another head mean-ablated."""
    with mi.patching.ablated(model, [head], mean) if head else torch.no_grad():
        return mi.heads.attention_scores(model, tested)["induction"][best].cpu()


left = torch.stack([match_without(head) for head in neighbours]) / match_without(None)
others = left[torch.arange(n_heads) != prev[1]]
claim("ablation.previous_token", left[prev[1]], control=others.mean())
figures.bars(
    left, [str(head) for head in neighbours], xlabel="ablated head",
    title=f"What is left of the match of {best}", ylabel="share of the prefix matching",
)  # fmt: skip

# %% [markdown]
# This shows that the head matters for the pattern, not *through what*. The theory says: through the
# induction head's **keys**. So take the previous-token head's output out of what the induction
# layer's keys read, and leave queries, values and everything else alone. Then do the same for the
# queries. As in mean-ablation only what *varies* is taken out. (`k.hook_in` is the normalised
# stream that only the keys read; dividing by the LayerNorm scale of the normal run keeps the rest
# of the input as it was.)

# %%
z_hook, readers = f"blocks.{prev[0]}.attn.hook_z", [h for h in strong if h[0] > prev[0]][:3]
scales = [f"blocks.{layer}.ln1.hook_scale" for layer in {head[0] for head in readers}]
run = model.run_with_cache(tokens, names_filter=[z_hook, *scales])[1]
usual = model.run_with_cache(reference, names_filter=z_hook)[1][z_hook].mean((0, 1))
varying = (run[z_hook] - usual)[:, :, prev[1]] @ model.W_O[prev]  # [row pos d_model]


def match_without_wire(head, part):
    """Share of a head's match that is left when its `part` ("k" or "q") does not read `prev`."""
    written = varying / run[f"blocks.{head[0]}.ln1.hook_scale"]
    name = f"blocks.{head[0]}.attn.{part}.hook_in"
    with model.hooks(fwd_hooks=[(name, lambda stream, hook: stream - written)]):
        return (mi.heads.attention_scores(model, tokens)["induction"] / induction)[head].item()


# %%
cut = {part: [match_without_wire(head, part) for head in readers] for part in "kq"}
assert min(cut["q"]) != 1  # the control does cut something
by_keys, by_queries = (sum(shares) / len(readers) for shares in cut.values())
claim("composition.through_keys", by_keys, control=by_queries)
mi.figures.table(
    {"head": [str(head) for head in readers], "keys cut": cut["k"], "queries cut": cut["q"]},
    title=f"Prefix matching that is left with one wire from {prev} cut",
)

# %% [markdown]
# That is **K-composition, by intervention**. Where cutting the direct wire takes less away than
# ablating the head, the rest travels by other routes: through MLPs and heads in between. On SmolLM2
# it is the other way round: the cut leaves next to nothing, the ablation more than a quarter (of
# the best head's match alone; the table is for several). Without the head other parts may change,
# too, and make up for some of it; the cut leaves them as they were.

# %% [markdown]
# ## 6. An induction head is born
#
# When do these heads appear? Train a model and look. It is tiny: attention only, no MLP, two layers
# of two heads. Its texts are blocks of random tokens, repeated until the row is full. The length of
# the block differs from row to row, so "look so and so many positions back" is no solution.
#
# Beside it, a model with *one* layer, trained alike, and one of two layers to which the **first
# step is given**: from the start all its first-layer heads look at the token before. (A later
# question needs it.) Each takes seconds. If you interrupt the cell and run it again, training goes
# on where it stopped.

# %%
from mi_helpers.toys import induction as toy
from mi_helpers.toys import runs

two_layers = toy.start(toy.TinyConfig(n_layers=2, batch=16))
one_layer = toy.start(toy.TinyConfig(n_layers=1, batch=16))
given = toy.start(toy.TinyConfig(n_layers=2, batch=16, previous_token_given=True))

# %%
for run in (two_layers, one_layer, given):
    runs.train(run, steps=700)

# %% [markdown]
# First the loss, on held-out rows: on tokens that the row determines, and on those that it does
# not. Look for a plateau, and for what comes after it.

# %%
steps = two_layers.curve("step")
mi.figures.lines(
    {"two layers, repeats": two_layers.curve("repeats"),
     "one layer, repeats": one_layer.curve("repeats"),
     "two layers, first copy": two_layers.curve("first_copy")},
    title="A phase change in two layers, and none in one",
    x=steps, xlabel="training step", ylabel="loss (nats)", subtitle="two tiny models",
)  # fmt: skip

# %% [markdown]
# With two layers the loss stays high for hundreds of steps and then falls off a cliff. With one
# layer it only creeps: the model learns that tokens seen before are likelier, and never which one
# is next. Why can it not? One layer has no earlier layer to tell a key what came before it.
#
# Now the two scores over the same steps, of the best head of each layer. Which layer learns which?
# Can you tell which rises first?

# %%
curves = {
    f"{kind.replace('_', ' ')}, layer {layer}": two_layers.curve(kind).amax(-1)[:, layer]
    for kind in ("previous_token", "induction") for layer in range(2)
}  # fmt: skip
mi.figures.lines(
    curves, title="The two steps of the mechanism rise within the same steps",
    x=steps, xlabel="training step", ylabel="attention score",
    subtitle="two layers; the best head of each",
)  # fmt: skip

# %%
born, never = (run.curve("induction")[-1].max() for run in (two_layers, one_layer))
claim("birth.induction", born, control=never)
helps, never_helps = (run.curve("in_context")[-1] for run in (two_layers, one_layer))
claim("birth.in_context", helps, control=never_helps)

# %% [markdown]
# Previous-token heads form in the first layer and induction heads in the second, as the mechanism
# demands. At first both models learn the same: tokens seen before are likelier. What falls off the
# cliff falls while both scores rise. How sudden is that? Every learning curve begins steeply, so
# leave the first hundred steps out. Of what the loss on repeats falls after them, which share falls
# within the steepest hundred steps? A steady fall gives one sixth.


# %%
hundred = 100 // two_layers.config.log_every  # in logged steps


def suddenness(run):
    """Share of the fall after step 100 that comes within the steepest hundred steps."""
    late = run.curve("repeats")[hundred:]
    return (late[:-hundred] - late[hundred:]).max() / (late[0] - late[-1])


claim("birth.suddenness", suddenness(two_layers), control=suddenness(one_layer))

# %% [markdown]
# Why so late and so sudden? One explanation: neither step is of use without the other, so neither
# is learned until both happen to be there a little. Then a model that is *given* one of them should
# not have to wait. Here is the third model, whose first step stood from the start. (Clamping a part
# of the circuit during training was introduced by [@singh2024right], who find several parts that
# the change waits for.)

# %%
curves = {"first step given": given.curve("repeats"), "learns both": two_layers.curve("repeats")}
halved, control_halved = (steps[curve < curve[0] / 2][0] for curve in curves.values())
claim("birth.first_step_given", halved, control=control_halved)
mi.figures.lines(
    curves, title="With the first step given, the wait is shorter",
    x=steps, xlabel="training step", ylabel="loss on repeats (nats)",
)  # fmt: skip

# %% [markdown]
# The wait is shorter and not gone: the second step has parts of its own to learn. And this is one
# toy, with two layers of two heads.
#
# In large models the same bump shows in the training loss, early on, and the in-context-learning
# score falls at the same time [@olsson2022induction]. Our model is a cartoon of that: its whole
# world is repetition.

# %% [markdown] tags=["task"] minutes=15 difficulty=3
# ### Exercise 5: an induction head nobody showed you
# You get patterns of several heads on rows of random tokens whose block length *differs* from row
# to row. Return the number of the induction head. A diagonal will not do.

# %% [markdown] tags=["hint"]
# Exercise 2 gives the targets of any tokens. Sum the attention on them; every head is asked about
# the same targets, so there is nothing to divide by. Beware of heads that look at the *same* token,
# or at the token before.


# %% tags=["exercise"]
def find_induction_head(tokens, pattern):
    """tokens: [batch pos]; pattern: [batch head query key]  ->  the head's number."""
    raise NotImplementedError


# %% tags=["solution"]
def find_induction_head(tokens, pattern):
    targets = mi.heads.token_targets(tokens, "induction")
    on_targets = torch.einsum("bhqk,bqk->h", pattern, targets.to(pattern))
    return int(on_targets.argmax())


# %% tags=["check"]
check.find_induction_head(find_induction_head)

# %% [markdown] short=true
# ## Summary
#
# - In-context learning shows as loss that falls along the text. Random tokens said twice isolate
#   its simplest form.
# - Induction heads match prefixes *and* copy. Both are scores, and both need controls; in a deeper
#   model later heads may do most of the pushing.
# - The mechanism takes two heads in two layers, wired by K-composition. Cutting that wire alone
#   takes most of the match away; cutting the queries' does not. On `pocket` the weights
#   show the wire, too (appendix D).
# - Ablating induction heads, and not others of their layers, undoes the gain on exact copies. One
#   of several costs little where they are redundant (appendix A). In a passage that comes again
#   with words changed they help where the word before is the same (appendix B).
# - They appear in a sudden phase of training: here in a toy of two layers and not in one of one
#   layer, and in the models of [@olsson2022induction]. A toy that is given the first step does not
#   wait as long for the second.
#
# **What we have not shown.** That induction heads explain *most* of in-context learning in large
# models: [@olsson2022induction] argue for it with six kinds of evidence, and are careful about
# their strength.
#
# ## Where to read on
#
# - In-context learning, the phase change, and heads that do more than literal copying:
#   [@olsson2022induction].
# - The two-step mechanism, first found in a two-layer model: [@elhage2021framework], section
#   "Induction Heads".
# - Induction heads as one part of a larger circuit: [@wang2022ioi], and notebook 04.

# %% [markdown]
# ## Appendix A: one head cheap, all dear
#
# On pocket the strong heads cannot step in for each other: they share a layer, all read the same
# stream, and none sees what another wrote. Two other things hide the effect of one. The loss is
# near its floor, where a smaller logit hardly shows. And what *follows* the heads may need only one
# of them. To take the first away, ask the logit of the right token, less the mean logit, too.

# %%
alone = [second_copy([head], mean) for head in strong]
together = second_copy(strong, mean)
by_loss, by_logit = (
    [(found[i] - plain).abs().mean().item() for found in [*alone, together]]
    for i, plain in enumerate((clean, clean_logit))
)
mi.figures.table(
    {"measure": ["loss (rise)", "logit (fall)"],
     "one by one, summed": [sum(by_loss[:-1]), sum(by_logit[:-1])],
     "all at once": [by_loss[-1], by_logit[-1]]},
    title="Strong heads ablated one by one, and together",
)  # fmt: skip

# %% [markdown]
# The claim is the sum of the single effects over the effect of all. If effects added up, it would
# be one. On the loss it is far from that; on the logit it is nearer, but not one: on pocket more
# than half of what all lose together shows only when all are gone. That lies *after* these heads:
# later layers and the final LayerNorm are no sums, and they see what is missing. Where the strong
# heads are in several layers, some of them also read others. Whether anything repairs the loss is
# the subject of notebook 08.

# %%
claim("ablation.redundant", sum(by_loss[:-1]) / by_loss[-1],
      control=sum(by_logit[:-1]) / by_logit[-1])  # fmt: skip

# %% [markdown]
# ## Appendix B: copies with a word changed
#
# Text seldom repeats itself word for word. Here are passages that come twice, the second time with
# some words changed, and sometimes with another sentence between. Each token is coloured by its
# loss. Compare the same word in both passages, and the changed words with those right after them.

# %%
from itertools import pairwise

n_passages = mi.models.by_size(model, 40, 16)
passages = [generator.sample("fuzzy", seed, "test") for seed in range(n_passages)]
starts = [passage.labels["second_start"] for passage in passages]
fuzzy = [passage.text for passage in passages]
example = next(
    t for t, start in zip(fuzzy, starts, strict=True) if t[1 : start - 1] not in t[start:]
)
ids = model.to_tokens(example)
mi.figures.tokens_coloured(
    mi.heads.token_names(model, ids[0, 1:]), loss_by_position(model, ids),
    title="Loss of each token", center=None, unit="nats",
)  # fmt: skip


# %% [markdown]
# An induction head needs the *same* token before. So sort the tokens of the second passages by what
# the first passage holds: the token behind the same one, the token behind another one (most of
# these come right after a changed word), or not the token at all.


# %%
kinds, groups = [], ("behind the same token", "behind another token", "not in the first passage")


def second_passages(texts, starts):
    """Loss of every token of the second passages, one text after another, in nats."""
    rows = [model.to_tokens(text)[0] for text in texts]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # padding comes after, unseen
    losses, parts = mi.metrics.loss(model(batch), batch).cpu(), []
    for text, start, row, loss in zip(texts, starts, rows, losses, strict=True):
        parts.append(loss[model.to_tokens(text[:start].rstrip()).shape[1] - 1 : len(row) - 1])
    return torch.cat(parts)


for text, start in zip(fuzzy, starts, strict=True):
    row, cut = model.to_tokens(text)[0].tolist(), model.to_tokens(text[:start].rstrip()).shape[1]
    follows, seen = set(pairwise(row[:cut])), set(row[1:cut])
    kinds += [
        0 if pair in follows else 1 if pair[1] in seen else 2 for pair in pairwise(row[cut - 1 :])
    ]

# %% [markdown]
# For each sort: the loss, the loss behind the first passage of *another* text, so that nothing
# repeats, and the loss without the heads that we found on random tokens, or without their controls.

# %%
seconds = [text[start:] for text, start in zip(fuzzy, starts, strict=True)]
firsts = [text[:start] for text, start in zip(fuzzy, starts, strict=True)]
strange_starts = [len(firsts[i - 1]) for i in range(n_passages)]
strange = [firsts[i - 1] + seconds[i] for i in range(n_passages)]
found = {"loss": second_passages(fuzzy, starts)}
found["behind a stranger"] = second_passages(strange, strange_starts)
for name, heads in {"without the heads": strong, "without controls": controls}.items():
    with mi.patching.ablated(model, heads, mi.patching.Mean(texts, per_position=False)):
        found[name] = second_passages(fuzzy, starts)

# %%
by_kind = {
    name: [losses[torch.tensor(kinds) == kind].mean().item() for kind in range(3)]
    for name, losses in found.items()
}
how_many = [kinds.count(kind) for kind in range(3)]
mi.figures.table({"token": groups, "how many": how_many, **by_kind}, title="Second passages")

# %% [markdown]
# On pocket these heads carry most of the gain where the token before is the same, and little of it
# right after a changed word, though the model gains there, too: something else knows the passage
# again. And on tokens that are new the heads do harm: a rule that repeats is wrong there.

# %%
loss, behind_stranger, without, _ = by_kind.values()
claim("fuzzy.gain", loss[1], control=behind_stranger[1])
claim("fuzzy.ablation", without[0] - loss[0], control=without[1] - loss[1])

# %% [markdown]
# ## Appendix C: the same heads on ordinary text
#
# Random tokens are a strange diet, even for `pocket`, which was raised on some. What do heads with
# high scores do on ordinary text? Split the tokens of the stories in two: those that occurred
# before in their row, so that there is something to match, and those that did not. For the best
# induction head, compare the attention on the first token. The last two bars are for random tokens
# said twice, behind a BOS: the second copy, where the match is sure to come true, and the first,
# where nothing matches.

# %%
matches = mi.heads.token_targets(texts, "induction")
has_match = matches.any(-1, keepdim=True)
first_token = mi.heads.token_targets(texts, "first_token")
on_text = mi.heads.attention_scores(
    model, texts, {"match": matches, "rest, match": first_token & has_match,
                   "rest, no match": first_token & ~has_match},
)  # fmt: skip
twice = mi.prompts.repeated_tokens(model, 10, length // 2, seed=2, low=1000, high=top_id)
matched = mi.heads.token_targets(twice, "induction").any(-1, keepdim=True)
first_of_twice = mi.heads.token_targets(twice, "first_token") & matched
first_of_new = mi.heads.token_targets(twice, "first_token") & ~matched
by_copy = {"rest, repeat": first_of_twice, "rest, first copy": first_of_new}
on_text |= mi.heads.attention_scores(model, twice, by_copy)

# %%
figures.bars(
    [on_text[name][best] for name in on_text],
    ["the matches", "first, match", "first, no match", "first, repeats", "first, first copy"],
    ylabel="attention",
    title=f"What {best} looks at: the matches, or the first token",
)  # fmt: skip

# %%
claim("ordinary.rests", on_text["rest, no match"][best], control=on_text["rest, repeat"][best])

# %% [markdown]
# A softmax must put its attention somewhere. With nothing to match, the head parks it on the first
# token (such a place is called an attention sink). In text it mostly does so even where a token
# occurred before: compare the second bar with the third. In random tokens said twice it does not.
# Two things differ there, the repeat and the kind of text. The last bar is for their first copy,
# where nothing matches: on `pocket` the head rests there less than half as much as in stories. A
# score measured on random tokens says what a head *can* do, not what it mostly does. To follow the
# rule of exercise 3 in these stories would seldom be right:

# %%
latest = (matches * torch.arange(length, device=texts.device)).amax(-1)  # [row query]
right = texts.gather(1, latest)[:, :-1] == texts[:, 1:]
share = right[has_match[:, :-1, 0]].float().mean()
print(f"where a token occurred before, what followed it then follows again: {share:.0%}")

# %%
row = texts[:1]
pattern = model.run_with_cache(row, names_filter=hook)[1][hook][0, best[1]]
on_match = (pattern * matches[0]).sum(-1)
mi.figures.tokens_coloured(
    mi.heads.token_names(model, row[0]), on_match, center=None, limit=1, unit="attention",
    title=f"Attention of {best} on tokens that followed this one before",
)  # fmt: skip

# %% [markdown]
# ## Appendix D: the same wiring, in the weights
#
# The second step can be read off the weights, and no sequence is needed. "Before me came A" is what
# the previous-token head writes when it reads the embedding of A. "I am A" is that embedding as the
# first MLP has extended it. So take random tokens, ask with each, and let the induction head's
# $W_{QK}$ compare the question with the marks of all of them. What share of the others does the
# token's own mark beat? The control puts the other heads of its layer in the previous-token head's
# place; a half would be chance.

# %%
learned = model.cfg.positional_embedding_type == "standard"
fit = mi.heads.qk_circuit(model, best, distance=None if learned else half - 1)
embedded, block = model.W_E[drawn], model.blocks[0]
asks = mi.heads.with_one(embedded + block.mlp(block.ln2(embedded[None]))[0])


def own_mark(head):
    """Share of the other tokens whose marks, as the head writes them, fit worse than the own."""
    marks = mi.heads.with_one(mi.heads.with_one(embedded) @ mi.heads.ov_circuit(model, head))
    fits = asks @ fit @ marks.mT  # [question mark]
    return (fits < fits.diagonal()[:, None]).float().mean().cpu() * n_drawn / (n_drawn - 1)


of_others = [own_mark(head) for head in neighbours if head != prev]
claim("wiring.match", own_mark(prev), control=sum(of_others) / len(of_others))

# %% [markdown]
# The first step, too, where positions are learned vectors: ask with each position, through the
# previous-token head's $W_{QK}$, and see how often the position before it fits best. (`pocket`'s
# position vectors were started as waves, which makes such a head easy to learn.)

# %%
if learned:
    places = mi.heads.with_one(model.W_pos[: 2 * half] - model.W_pos[: 2 * half].mean(0))
    fits = places @ mi.heads.qk_circuit(model, prev) @ places.T
    fits = fits.masked_fill(torch.ones_like(fits).triu(1).bool(), -torch.inf)
    before = (fits.argmax(-1).cpu() == torch.arange(2 * half) - 1).float()[1:].mean()
    print(f"the position before fits best in {before:.0%} of all positions")

# %%
claim.table()
