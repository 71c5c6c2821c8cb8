# ---
# title: Induction heads
# minutes: 60
# measured: 28 s and 0.9 GiB on pocket
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
# short stories in plain English, one for each row. The curve is the mean loss at each position,
# averaged over neighbours to calm it down. Look at its slope, and compare with a model of the same
# shape that was never trained.

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
mi.figures.lines(
    smooth, title="Loss falls along a story", xlabel="position",
    ylabel="loss (nats), mean of five positions", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# The **in-context-learning score** [@olsson2022induction] is the difference of the loss late and
# early in the context; negative means that context helps. The paper compares tokens far apart in
# long texts. Ours are short, so we compare the last fifteen positions with the first fifteen.


# %%
def in_context_score(curve):
    """Late loss minus early loss, in nats."""
    return curve[-15:].mean() - curve[:15].mean()


score, chance = (in_context_score(curve) for curve in by_position.values())
claim("induction.in_context", score, control=chance)

# %% [markdown]
# This mixes many abilities: knowing the topic, the style, who the story is about. And some of it is
# not learning at all: the end of a story may simply be easier to write. To isolate the simplest
# ability we take meaning away.

# %% [markdown]
# ## 2. Random tokens, said twice
#
# Random tokens cannot be predicted. Said a second time, they can, by anyone who looks back. Each
# row holds random tokens and then the same again; no BOS, as in the demonstration whose results for
# GPT-2 small were published.

# %%
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

# %% [markdown]
# The loss drops where the second copy begins, though not at its very first token: nothing says that
# a repetition starts there. (On the first copy a trained model can be *worse* than an untrained
# one. It expects language, and this is none.)
#
# The claim compares the two copies. Entry $i$ of the curve is about token $i + 1$, so the second
# copy's first *predictable* token has entry `half`.

# %%
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

# %% [markdown]
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

# %%
letters = torch.tensor([[0, 1, 2, 0, 1, 3, 0]])  # A B C A B D A
mi.heads.token_targets(letters, "induction")[0].int()

# %% [markdown]
# Read the last row: the query is the third `A`; the targets are the `B`s after the first and the
# second `A`. In the row above, `D` never occurred before, so it has no target.
#
# Now the score of all heads. In random tokens said twice each target is a fixed distance back, so
# the naive score of one head is the mean of one diagonal.

# %%
scores = mi.heads.attention_scores(model, tokens)
induction = scores["induction"]
best, best_score = mi.heads.top_heads(induction, 1)[0]
hook = f"blocks.{best[0]}.attn.hook_pattern"
pattern = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, best[1]]
naive = pattern.diagonal(1 - half, dim1=1, dim2=2)[:, 1:].mean()
assert abs(naive - best_score) < 0.02  # a token drawn twice has a second target

# %%
chance = mi.heads.attention_scores(untrained, tokens)["induction"]
mi.figures.heatmap(
    induction, title=f"Few heads match prefixes, and {mi.heads.head_name(best)} best",
    x=[f"H{j}" for j in range(n_heads)], y=[f"L{i}" for i in range(n_layers)],
    xlabel="head", ylabel="layer", colorbar="attention on targets", center=None, limit=1,
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("induction.best_head", best_score, control=chance.max())

# %% [markdown]
# No head of the first layer can do this. Why? A key must say what came *before* it, and the first
# layer reads bare embeddings, which know only their own token and position. We return to this.
#
# **Copying**: does the head raise the token it attends to? Not from the weights this time, but on
# these sequences. A head's output, read along the unembedding of the true next token, is its direct
# contribution to that logit. Subtract the mean over the vocabulary (zero, since the unembedding is
# centred) and divide by the final LayerNorm's scale.

# %%
names = [f"blocks.{i}.attn.hook_z" for i in range(n_layers)] + ["ln_final.hook_scale"]
cache = model.run_with_cache(tokens, names_filter=names)[1]
queries = torch.arange(half, 2 * half - 1)
outputs = torch.stack([cache["z", i][:, queries] for i in range(n_layers)])
outputs = torch.einsum("lbphe,lhed->lhbpd", outputs, model.W_O)
normal = outputs / cache["ln_final.hook_scale"][:, queries]
copied = {
    name: (normal * model.W_U.T[tokens[:, queries + shift]]).sum(-1).mean((-1, -2)).cpu()
    for name, shift in {"next token": 1, "token after next": 2 - half}.items()
}

# %% [markdown]
# The control reads the *same* outputs along another token of the same sequence. Each dot below is a
# head: to the right it matches prefixes, upwards it pushes the next token. Look for dots in the
# upper right corner, and for dots in the other two.

# %%
mi.figures.scatter(
    induction.flatten(), copied["next token"].flatten(),
    labels=[f"L{i}H{j}" for i in range(n_layers) for j in range(n_heads)],
    named=[mi.heads.head_name(head) for head, _ in mi.heads.top_heads(induction, 3)],
    title="Induction heads match and copy", xlabel="prefix matching",
    ylabel="pushes the next token's logit by", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("induction.copies", copied["next token"][best], control=copied["token after next"][best])

# %% [markdown] tags=["task"] minutes=10 difficulty=2
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

# %% [markdown]
# ## 4. The mechanism, by hand
#
# How can a head find the token *after* an earlier `A`, when keys say what a token *is*? Two heads
# are needed, one after the other [@elhage2021framework]:
#
# 1. A **previous-token head** in an early layer stands on `B`, looks at `A` before it, and writes
#    into `B`'s stream: "before me came A".
# 2. The **induction head** stands on the second `A`. Its query says "I am A". It looks for keys
# that
#    say "before me came A", finds `B`, and copies what `B` is.
#
# Follow both on one short sequence. The best previous-token head *below* the induction head, at
# `B`; then the induction head, at the second `A`.

# %%
previous = scores["previous_token"].clone()
previous[best[0] :] = 0  # only layers that the induction head can read
prev, _ = mi.heads.top_heads(previous, 1)[0]
short = tokens[:1, : min(12, half)]
short = torch.cat([short, short], dim=1)
short_words = [repr(word) for word in mi.heads.token_names(model, short[0])]
short_cache = model.run_with_cache(short)[1]

# %%
n, a = short.shape[1] // 2, 4  # A is at position a, and again at a + n
step_1 = short_cache["pattern", prev[0]][0, prev[1], a + 1]
step_2 = short_cache["pattern", best[0]][0, best[1], a + n]
rows = [
    {"head": mi.heads.head_name(prev), "stands on": "B", "should look at": "A",
     "there": step_1[a].item(), "best": short_words[step_1.argmax()]},
    {"head": mi.heads.head_name(best), "stands on": "the second A", "should look at": "B",
     "there": step_2[a + 1].item(), "best": short_words[step_2.argmax()]},
]  # fmt: skip
mi.figures.table(rows, title=f"A is {short_words[a]}, B is {short_words[a + 1]}")

# %% [markdown]
# The whole patterns, for any head among the best of both kinds. A previous-token head is a line
# just below the diagonal. An induction head is a line *half a square* lower, in the second copy
# only; in the first copy there is nothing to find, and it rests on the first token.


# %%
def pattern_of(head):
    """The pattern of one head on the short sequence."""
    pattern = short_cache["pattern", head[0]][0, head[1]]
    name = mi.heads.head_name(head)
    return mi.figures.attention(pattern, short_words, [name], title=f"Attention of {name}")


heads_to_show = [head for head, _ in mi.heads.top_heads(induction, 4)]
heads_to_show += [head for head, _ in mi.heads.top_heads(previous, 2)]
choices = {mi.heads.head_name(head): head for head in heads_to_show}
mi.figures.explore(pattern_of, head=choices)

# %%
mi.figures.attention(
    torch.stack([short_cache["pattern", head[0]][0, head[1]] for head in (prev, best)]),
    short_words, [mi.heads.head_name(prev), mi.heads.head_name(best)],
    title="Step 1 and step 2",
).static()  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: the rule itself
# Write the algorithm that the circuit approximates. For each position, return the token that
# followed the *latest* earlier occurrence of the current token, or −1 where there was none.

# %% [markdown] tags=["hint"]
# A loop over positions that remembers, for each token, what came after it last, is fine. At
# position
# $i$ you may know the tokens up to $i$, no more.


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

# %% [markdown]
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


# %%
def second_copy_loss(ablated=(), reference=None):
    """Mean loss on the second copy, with these heads ablated."""
    if not ablated:
        return loss_by_position(model, tokens)[half:].mean()
    with mi.heads.ablate(model, ablated, reference=reference):
        return loss_by_position(model, tokens)[half:].mean()


busyness = outputs.norm(dim=-1).mean((-1, -2)).cpu()  # [layer head]
strong = [head for head, s in mi.heads.top_heads(induction, 12) if s > best_score / 2]
idle = induction < best_score / 10

# %% [markdown]
# `strong` holds the heads with at least half of the best score. For each of them, a control: each
# used once, and from another layer only when its own has none left.

# %%
controls, layer_of = [], torch.arange(n_layers)[:, None].expand_as(busyness)
for head in strong:
    distance = (busyness - busyness[head]).abs().masked_fill(~idle, torch.inf)
    distance += busyness.max() * (layer_of != head[0])
    for taken in [*controls, prev]:
        distance[taken] = torch.inf
    controls.append(divmod(int(distance.argmin()), n_heads))
print("strong:  ", ", ".join(mi.heads.head_name(head) for head in strong))
print("controls:", ", ".join(mi.heads.head_name(head) for head in controls))

# %% [markdown]
# The mean is taken over other random tokens, not over the ones we test on.

# %%
reference = mi.prompts.repeated_tokens(model, 10, half, seed=1, bos=False, low=1000, high=top_id)
clean = second_copy_loss()
sets = {"best head": strong[:1], "its control": controls[:1],
        "all strong heads": strong, "their controls": controls}  # fmt: skip
rise = {
    name: [(second_copy_loss(heads, means) - clean).item() for heads in sets.values()]
    for name, means in {"zero-ablation": None, "mean-ablation": reference}.items()
}
mi.figures.bars(
    rise, list(sets), title="Without induction heads the second copy is hard again",
    ylabel="rise of the loss on the second copy (nats)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
_, one_control, all_strong, all_controls = rise["mean-ablation"]
claim("ablation.best_head", rise["mean-ablation"][0], control=one_control)
claim("ablation.all_heads", all_strong, control=all_controls)

# %% [markdown]
# Compare the single head with all of them. If one head costs little and all together cost much,
# they do the same job and stand in for each other: the effect of one ablation is not the importance
# of one head. Notebook 04 meets this again as *self-repair*.

# %% [markdown] tags=["task"] minutes=10 difficulty=1
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
# pattern, one or more layers later. The control is the most similarly busy head of
# the same layer.

# %%
same_layer = (busyness[prev[0]] - busyness[prev]).abs()
same_layer[prev[1]] = torch.inf
neighbour = (prev[0], int(same_layer.argmin()))


def induction_without(head):
    """The best induction head's prefix matching with another head mean-ablated."""
    with mi.heads.ablate(model, [head], reference=reference):
        return mi.heads.attention_scores(model, tokens)["induction"][best]


left, left_control = induction_without(prev) / best_score, induction_without(neighbour) / best_score
claim("ablation.previous_token", left, control=left_control)

# %% [markdown]
# This shows that the head matters for the pattern, not *through what*. The theory says: through the
# induction head's **keys**. So take the previous-token head's output out of what the induction
# layer's keys read, and leave queries, values and everything else alone. Then do the same for the
# queries. (`k.hook_in` is the normalised stream that only the keys read; dividing by the LayerNorm
# scale of the normal run keeps the rest of the input as it was.)

# %%
scale_hook, z_hook = f"blocks.{best[0]}.ln1.hook_scale", f"blocks.{prev[0]}.attn.hook_z"
run = model.run_with_cache(tokens, names_filter=[scale_hook, z_hook])[1]
written = run[z_hook][:, :, prev[1]] @ model.W_O[prev] / run[scale_hook]


def induction_without_input(part):
    """Prefix matching of the best head when `part` ("k" or "q") does not read the earlier head."""
    name = f"blocks.{best[0]}.attn.{part}.hook_in"
    with model.hooks(fwd_hooks=[(name, lambda stream, hook: stream - written)]):
        return mi.heads.attention_scores(model, tokens)["induction"][best]


# %%
by_keys, by_queries = (induction_without_input(part) / best_score for part in "kq")
claim("composition.through_keys", by_keys, control=by_queries)

# %% [markdown]
# That is **K-composition, by intervention**. Where cutting the direct wire takes less away than
# ablating the head, the rest travels by other routes: through MLPs and heads in between, or from
# other previous-token heads.

# %% [markdown]
# ## 6. Beyond exact copies
#
# Text seldom repeats itself word for word. Here are passages that come twice, the second time with
# some words changed, and sometimes with another sentence between. Each token is coloured by its
# loss. Compare the same word in both passages, and look at what happens right after a changed word.

# %%
passages = [generator.sample("fuzzy", seed, "test") for seed in range(40)]
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


# %%
def passage_losses(texts):
    """Mean loss of each text [2, text] before and after its second passage starts, in nats."""
    rows = [model.to_tokens(text)[0] for text in texts]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # padding comes after, unseen
    losses = mi.metrics.loss(model(batch), batch).cpu()
    parts = []
    for text, start, row, loss in zip(texts, starts, rows, losses, strict=True):
        cut = model.to_tokens(text[:start].rstrip()).shape[1]
        parts.append([loss[: cut - 1].mean(), loss[cut - 1 : len(row) - 1].mean()])
    return torch.tensor(parts).T


# %% [markdown]
# How much easier is the second passage? The control puts the second passage of *another* text
# there, so that nothing repeats.

# %%
seconds = [text[start:] for text, start in zip(fuzzy, starts, strict=True)]
firsts = [text[:start] for text, start in zip(fuzzy, starts, strict=True)]
strangers = [first + seconds[i - 1] for i, first in enumerate(firsts)]
gain, stranger_gain = (
    (before - after).mean() for before, after in map(passage_losses, (fuzzy, strangers))
)
claim("fuzzy.gain", gain, control=stranger_gain)

# %% [markdown]
# And are the heads that we found on random tokens the ones that help here? Ablate them on the
# second passages, and their controls.

# %%
losses = {"nothing ablated": passage_losses(fuzzy)[1]}
for name, heads in {"induction heads": strong, "control heads": controls}.items():
    with mi.heads.ablate(model, heads, reference=texts):
        losses[name] = passage_losses(fuzzy)[1]
rises = {name: loss - losses["nothing ablated"] for name, loss in losses.items()}
claim("fuzzy.ablation", rises["induction heads"].mean(),
      control=rises["control heads"].mean())  # fmt: skip

# %% [markdown]
# Two effects with an interval each, over texts (bootstrap):

# %%
rows = []
for name in ("induction heads", "control heads"):
    low, high = mi.metrics.bootstrap_interval(rises[name])
    rows.append({"ablated": name, "rise of the loss (nats)": rises[name].mean().item(),
                 "from": low, "to": high})  # fmt: skip
mi.figures.table(rows, title="Second passages, without some heads")

# %% [markdown]
# ## 7. An induction head is born
#
# When do these heads appear? Train a model and look. It is tiny: attention only, no MLP, two layers
# of two heads. Its texts are blocks of random tokens, repeated until the row is full. The length of
# the block differs from row to row, so "look so and so many positions back" is no solution.
#
# Beside it, a model with *one* layer, trained alike. Both take seconds. If you interrupt the cell
# and run it again, training goes on where it stopped.

# %%
from mi_helpers import tiny_training

two_layers = tiny_training.start(tiny_training.TinyConfig(n_layers=2, batch=16))
one_layer = tiny_training.start(tiny_training.TinyConfig(n_layers=1, batch=16))

# %%
for run in (two_layers, one_layer):
    tiny_training.train(run, steps=700)

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
# Now each head's scores over the same steps. Which moves first? Which heads are in which layer?

# %%
curves = {}
for kind in ("previous_token", "induction"):
    for place in [(i, j) for i in range(2) for j in range(2)]:
        curve = two_layers.curve(kind)[:, place[0], place[1]]
        if curve[-1] > 0.2:
            curves[f"{mi.heads.head_name(place)}, {kind.replace('_', ' ')}"] = curve
mi.figures.lines(
    curves, title="The two steps of the mechanism appear together",
    x=steps, xlabel="training step", ylabel="attention score",
    subtitle="two layers; only scores that end high are shown",
)  # fmt: skip

# %%
born, never = (run.curve("induction")[-1].max() for run in (two_layers, one_layer))
claim("birth.induction", born, control=never)
helps, never_helps = (run.curve("in_context")[-1] for run in (two_layers, one_layer))
claim("birth.in_context", helps, control=never_helps)

# %% [markdown]
# The previous-token heads sit in the first layer and the induction heads in the second, as the
# mechanism demands. Neither is of use without the other: no loss falls before both exist. This is
# one explanation of why the change is so sudden. How sudden? Take the share of the whole fall of
# the loss on repeats that happens within the steepest fifth of the training. A steady fall gives
# one fifth.


# %%
def suddenness(run):
    """Share of the fall of the loss within the steepest fifth of the training."""
    curve = run.curve("repeats")
    window = len(curve) // 5
    return (curve[:-window] - curve[window:]).max() / (curve[0] - curve[-1])


claim("birth.suddenness", suddenness(two_layers), control=suddenness(one_layer))

# %% [markdown]
# In large models the same bump shows in the training loss, early on, and the in-context-learning
# score falls at the same time [@olsson2022induction]. Our model is a cartoon of that: its whole
# world is repetition.

# %% [markdown]
# ## 8. The same heads on ordinary text
#
# Random tokens are a strange diet. What do heads with high scores do on ordinary text? Split the
# tokens of the stories in two: those that occurred before in their row, so that there is something
# to match, and those that did not. For the best induction head, compare the
# attention on the first token. The last bar is for random tokens said twice, behind a BOS: there
# the match is sure to come true.

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
on_text["rest, repeat"] = mi.heads.attention_scores(model, twice, {"": first_of_twice})[""]

# %%
mi.figures.bars(
    [on_text[name][best] for name in on_text],
    ["the matches", "first, match", "first, no match", "first, repeats"], ylabel="attention",
    title=f"What {mi.heads.head_name(best)} looks at: the matches, or the first token",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("ordinary.rests", on_text["rest, no match"][best], control=on_text["rest, repeat"][best])

# %% [markdown]
# A softmax must put its attention somewhere. With nothing to match, the head parks it on the first
# token, whose value carries little. In text it mostly does so even where a token occurred before:
# one earlier occurrence of a common word promises nothing. Only a real repeat calls it away. So
# most of the time an induction head does nothing, and this is right: a head that always spoke would
# be wrong most of the time. A score measured on random tokens says what a head *can* do, not what
# it mostly does.

# %%
row = texts[:1]
pattern = model.run_with_cache(row, names_filter=hook)[1][hook][0, best[1]]
on_match = (pattern * matches[0]).sum(-1)
mi.figures.tokens_coloured(
    mi.heads.token_names(model, row[0]), on_match, center=None, limit=1,
    title=f"Attention of {mi.heads.head_name(best)} on tokens that followed this one before",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=15 difficulty=3
# ### Exercise 5: an induction head nobody showed you
# You get patterns of several heads on rows of random tokens whose block length *differs* from row
# to row. Return the number of the induction head. A diagonal will not do.

# %% [markdown] tags=["hint"]
# Exercise 2 gives the targets of any tokens. Sum the attention on them and average over the queries
# that have some, as in notebook 02. Beware of heads that look at the *same* token, or at the token
# before.


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

# %% [markdown]
# ## Summary
#
# - In-context learning shows as loss that falls along the text. Random tokens said twice isolate
#   its simplest form.
# - Induction heads match prefixes *and* copy. Both are scores, and both need controls.
# - The mechanism takes two heads in two layers, wired by K-composition. Cutting that wire alone
#   destroys the match; cutting the queries' does not.
# - Ablating induction heads, and not others of their layer, undoes the gain on the second copy, on
#   exact copies and on fuzzy ones.
# - They appear in a sudden phase of training, in models with two layers or more.
#
# **What we have not shown.** That induction heads explain *most* of in-context learning in large
# models: the paper argues for it with six kinds of evidence, and is careful about their strength.
#
# ## Where to read on
#
# - In-context learning, the phase change, and heads that do more than literal copying:
#   [@olsson2022induction].
# - The two-step mechanism, first found in a two-layer model: [@elhage2021framework], section
#   "Induction Heads".
# - Induction heads as one part of a larger circuit: [@wang2022ioi], and notebook 04.

# %%
claim.table()
