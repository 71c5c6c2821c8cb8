# ---
# title: "Attention heads: the QK and OV circuits"
# minutes: 60
# ---

# %% [markdown]
# **The question.** An attention head has four weight matrices. What does it do with them, and how
# can we read that off the weights, for every head of a model, without guessing?
#
# **You need** the residual stream as a sum of what heads and MLPs write
# ([notebook 01](01_residual_stream.ipynb)), matrix products, and the softmax.
#
# **You will be able to**
#
# - split any head into two independent machines: QK, which decides *where to look*, and OV, which
#   decides *what to move*, and rebuild its output from them exactly;
# - find previous-token, duplicate-token and first-token heads by score, and judge the score;
# - measure whether a head copies, in two ways, and say why they can disagree;
# - read a head's singular directions, its top tokens and its skip-trigrams;
# - say which heads read what other heads wrote, against a random baseline;
# - treat two heads in a row as one *virtual head*, and test that on the model.

# %% [markdown]
# ## 1. A head small enough to check by hand
#
# Three tokens, "cat", "sat", "it", and a stream with one coordinate for each. A head is two
# matrices [@elhage2021framework]. `W_QK` holds, for a *query* (row) and a *key* (column), how
# strongly the one looks at the other. `W_OV` says what is written when a token is looked at. Here
# "it" looks for "cat", and a head that looks at "cat" writes two units of the coordinate of "sat".

# %%
toy = torch.eye(3)  # rows: "cat", "sat", "it"
toy_QK, toy_OV = torch.zeros(3, 3), torch.zeros(3, 3)
toy_QK[2, 0] = torch.tensor(8.0).log()
toy_OV[0, 1] = 2.0
toy_scores = toy @ toy_QK @ toy.T
print(toy_scores.exp())  # before the mask: 1 everywhere, 8 where "it" looks at "cat"

# %% [markdown]
# A token cannot look ahead, so the upper triangle is masked. The softmax divides each row of
# exponentials by its sum: the last row has 8, 1 and 1, so "it" gives "cat" eight tenths of its
# attention. Then every token receives the attention-weighted sum of what its sources offer.

# %%
past = torch.ones(3, 3).tril().bool()
toy_pattern = toy_scores.masked_fill(~past, -torch.inf).softmax(-1)
toy_output = toy_pattern @ toy @ toy_OV
print(toy_pattern, toy_output, sep="\n")

# %% [markdown]
# The formula is `pattern @ stream @ W_OV`, with the stream's rows for positions. The pattern mixes
# *positions* and `W_OV` mixes *coordinates*. The two act on different sides of the stream, which is
# what the framework writes as the tensor product $A \otimes W_{OV}$. Where to look and what to move
# are separate questions.

# %% [markdown]
# ## 2. The same on a real head, exactly
#
# A real head stores its two matrices as four thin ones: $W_{QK} = W_Q W_K^T / \sqrt{d_{head}}$ and
# $W_{OV} = W_V W_O$. It reads the *normalised* stream, and queries, keys and values have biases.
# Any head will do as an example. Here it is with all its parts:

# %%
pairs = mi.prompts.ioi_literature(model).select([0])
prompt, words = pairs.clean_tokens, pairs.str_tokens[0]
n_layers, n_heads, d_head = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
cache = model.run_with_cache(prompt)[1]
layer, head = n_layers // 2, 0
x = cache[f"blocks.{layer}.ln1.hook_normalized"][0]

# %%
query = x @ model.W_Q[layer, head] + model.b_Q[layer, head]
key = x @ model.W_K[layer, head] + model.b_K[layer, head]
value = x @ model.W_V[layer, head] + model.b_V[layer, head]
seen = torch.ones(len(x), len(x), device=x.device).tril().bool()
scores = (query @ key.T / d_head**0.5).masked_fill(~seen, -torch.inf)
output = scores.softmax(-1) @ value @ model.W_O[layer, head]

# %%
assert torch.allclose(scores.softmax(-1), cache["pattern", layer][0, head], atol=1e-5)
assert torch.allclose(output, cache["z", layer][0, :, head] @ model.W_O[layer, head], atol=1e-4)

# %% [markdown]
# To have one matrix again in spite of the biases, append a 1 to every vector. Then the last row and
# column of a matrix with $d_{model} + 1$ rows hold the biases. `mi.heads.qk_circuit` and
# `ov_circuit` return these matrices. Do they rebuild *every* head of the model?
#
# As a control, drop the biases from QK, and let OV read the stream before LayerNorm.


# %%
def pattern_error(layer, head, drop=0):
    """Largest error of softmax(x W_QK x); `drop=1` leaves out the appended 1, so the biases."""
    x = mi.heads.with_one(cache[f"blocks.{layer}.ln1.hook_normalized"][0])
    x[:, -1] -= drop
    scores = x @ mi.heads.qk_circuit(model, (layer, head)) @ x.T
    rebuilt = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return (rebuilt - cache["pattern", layer][0, head]).abs().max()


heads = [(i, j) for i in range(n_layers) for j in range(n_heads)]
errors = torch.stack([pattern_error(*head) for head in heads])
biasless = torch.stack([pattern_error(*head, drop=1) for head in heads])
claim("circuits.pattern_error", errors.max(), control=biasless.max())


# %%
def output_error(layer, source="ln1.hook_normalized"):
    """Largest error of the sum over heads of A x W_OV, plus the layer's bias, for one layer."""
    x = mi.heads.with_one(cache[f"blocks.{layer}.{source}"][0])
    parts = [cache["pattern", layer][0, j] @ x @ mi.heads.ov_circuit(model, (layer, j))
             for j in range(n_heads)]  # fmt: skip
    rebuilt = sum(parts) + model.b_O[layer]
    return (rebuilt - cache["attn_out", layer][0]).abs().max()


errors = torch.stack([output_error(layer) for layer in range(n_layers)])
unnormalised = torch.stack([output_error(i, "hook_resid_pre") for i in range(n_layers)])
claim("circuits.output_error", errors.max(), control=unnormalised.min())

# %% [markdown]
# Both are exact up to rounding. Two things follow that are easy to overlook.
#
# **First**, one of the biases does nothing at all. Write out the score with both biases: the terms
# with the key's bias depend on the query alone, so they move a whole row of scores by a constant,
# and the softmax ignores it. The query's bias is different: it makes some keys attractive to
# *every* query. In the augmented matrix the key's bias is the last column.

# %%
x = mi.heads.with_one(cache[f"blocks.{layer}.ln1.hook_normalized"][0])
W_QK = mi.heads.qk_circuit(model, (layer, head))
without_key_bias, without_query_bias = W_QK.clone(), W_QK.clone()
without_key_bias[:, -1], without_query_bias[-1, :] = 0, 0


# %%
def changed(W):
    """Largest change of the pattern when W takes the place of W_QK."""
    before, after = ((x @ w @ x.T).masked_fill(~seen, -torch.inf).softmax(-1) for w in (W_QK, W))
    return (after - before).abs().max()


claim("circuits.key_bias", changed(without_key_bias), control=changed(without_query_bias))

# %% [markdown]
# **Second**, the four matrices never act alone. Turn queries and keys of every head by the same
# rotation $R$: $(W_Q R)(W_K R)^T = W_Q W_K^T$, and nothing changes. So it means nothing to speak of
# "the third query dimension" of a head: only the products have meaning. Values and `z` can be
# turned as well, if $W_O$ turns them back. Let us do all this inside the running model. The control
# turns the queries and leaves the keys.

# %%
turn = mi.lens.random_rotation(d_head).to(x)
there, back = (lambda v, hook: v @ turn), (lambda v, hook: v @ turn.T)
both = {"attn.hook_q": there, "attn.hook_k": there, "attn.hook_v": there, "attn.hook_z": back}


def log_probs_with(hooks):
    """Log-probabilities on the prompt with these hooks in every layer."""
    every = [(f"blocks.{i}.{name}", fn) for i in range(n_layers) for name, fn in hooks.items()]
    return model.run_with_hooks(prompt, fwd_hooks=every).log_softmax(-1)


normal = model(prompt).log_softmax(-1)
turned, halfway = log_probs_with(both), log_probs_with({"attn.hook_q": there})
claim("circuits.rotation", (turned - normal).abs().max(), control=(halfway - normal).abs().max())

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: one head from its weights
# Return the attention pattern of one head, from the normalised stream and the four weights that
# matter for it.

# %% [markdown] tags=["hint"]
# Four steps: queries and keys, their products over the square root of the head's width, the mask,
# the softmax over *keys*. `torch.ones(n, n).tril()` marks what may be seen.


# %% tags=["exercise"]
def attention_pattern(x, W_Q, b_Q, W_K, b_K):
    """x: [pos d_model]; W_Q, W_K: [d_model d_head]; b_Q, b_K: [d_head]  ->  [query key]."""
    raise NotImplementedError


# %% tags=["solution"]
def attention_pattern(x, W_Q, b_Q, W_K, b_K):
    scores = (x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


# %% tags=["check"]
check.attention_pattern(attention_pattern)

# %% [markdown]
# ## 3. Patterns as pictures
#
# Each small square is the pattern of one head: a row for each query, a column for each key, darker
# for more attention. Choose a layer and hover over a head. Look for four shapes: a line *on* the
# diagonal (the head looks at the token itself), a line just *below* it (at the previous token), a
# bright *first column* (at the start of the text), and lone bright squares (something about the
# words).


# %%
def patterns(layer):
    """All heads of one layer on the prompt."""
    names = [mi.heads.head_name((layer, head)) for head in range(n_heads)]
    pattern = cache["pattern", layer][0]
    return mi.figures.attention(pattern, words, names, title=f"Attention in layer {layer}")


mi.figures.explore(patterns, layer=range(n_layers), start={"layer": n_layers // 2})

# %% [markdown]
# The same without scripts, for paper: the first heads of the middle layer.

# %%
patterns(n_layers // 2).static()

# %% [markdown]
# Pictures give ideas. But there may be hundreds of heads, and any of them shows *some* shape on any
# one prompt. So we need a score, a text without meaning, and a control.

# %% [markdown]
# ## 4. Kinds of heads, by score
#
# The text: random tokens, said twice. Nothing in it makes sense, so a head that shows a shape here
# does so by its mechanism. These are the tokens of a well-known demonstration with GPT-2 small, so
# that its published scores can be compared (there is no BOS, and that matters).
#
# The previous-token score of a head is its attention to the token before, averaged over queries.
# For one head, naively:

# %%
half = min(100, model.cfg.n_ctx // 2)
top_id = min(20000, len(model.tokenizer))
tokens = mi.prompts.repeated_tokens(model, 2, half, bos=False, low=100, high=top_id)
pattern = model.run_with_cache(tokens)[1]["pattern", layer][:, head]
attended = [pattern[b, q, q - 1].item() for b in range(2) for q in range(1, 2 * half)]
naive = sum(attended) / len(attended)

# %% [markdown]
# `mi.heads.token_targets` says for any tokens which keys a kind of head should look at, and
# `attention_scores` measures all heads and all kinds in one run, and keeps no pattern. One kind
# needs BOS after all: the first token is a place to rest only where texts begin as in training.

# %%
begun = mi.prompts.repeated_tokens(model, 2, half - 1)  # with BOS in front


def scores_of(some_model):
    """Each head's score for every kind, {kind: [layer head]}."""
    scores = mi.heads.attention_scores(some_model, tokens)
    rests = mi.heads.attention_scores(some_model, begun)["first_token"]
    return scores | {"first_token": rests}


scores = scores_of(model)
assert abs(scores["previous_token"][layer, head] - naive) < 1e-5
kinds = ["previous_token", "duplicate_token", "first_token"]
{kind: int(mi.heads.token_targets(tokens, kind).sum()) for kind in kinds}

# %% [markdown]
# One panel for each kind, one square for each head. Look for single dark squares. Are they in early
# or in late layers?

# %%
layers, columns = [f"L{i}" for i in range(n_layers)], [f"H{j}" for j in range(n_heads)]
mi.figures.heatmap(
    [scores[kind] for kind in kinds],
    facets=[kind.replace("_", " ") for kind in kinds],
    title="A few heads have one job, and most have none of these",
    x=columns, y=layers, xlabel="head", ylabel="layer", colorbar="attention",
    center=None, limit=1, subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# A high score alone says little: with many heads the best of them is always somewhat high. Two
# comparisons make it a finding. The **next-best head**: does the best stand out? And an **untrained
# model** of the same shape: what does chance give?

# %%
untrained = mi.untrained(model)
chance = scores_of(untrained)
rows = []
for kind in kinds:
    (best, score), (second, runner_up) = mi.heads.top_heads(scores[kind], 2)
    rows.append({"kind": kind.replace("_", " "), "best head": mi.heads.head_name(best),
                 "score": score, "next": mi.heads.head_name(second), "its score": runner_up,
                 "best of an untrained model": chance[kind].max().item()})  # fmt: skip
mi.figures.table(rows)

# %%
best, best_by_chance = ({kind: table[kind].max() for kind in kinds} for table in (scores, chance))
claim("heads.previous_token", best[kinds[0]], control=best_by_chance[kinds[0]])
claim("heads.first_token", best[kinds[2]], control=best_by_chance[kinds[2]])
claim("heads.duplicate_token", best[kinds[1]], control=best[kinds[0]])

# %% [markdown]
# A kind can be missing. Where the best score is hardly above that of the untrained model, no head
# does this job on this text, and a "best head" is the winner of a lottery. GPT-2 small has heads
# for duplicate tokens [@wang2022ioi]; `pocket` does without. So the last claim expects another
# value of each model, and its control is a kind that both have.
#
# These are *behavioural* names: they say what a head does on this text. A head can be a
# previous-token head here and do something else elsewhere, and a score in the middle may mean half
# the job, or two jobs.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: score any kind of head
# Given patterns and a mask of target keys, return each head's score: the attention on all targets
# of a query, averaged over those queries that *have* a target.

# %% [markdown] tags=["hint"]
# `mask.any(-1)` marks the queries with a target. Their number is not the number of targets, when a
# query has two.


# %% tags=["exercise"]
def head_scores(pattern, mask):
    """pattern: [batch head query key]; mask: [batch query key], True on targets  ->  [head]."""
    raise NotImplementedError


# %% tags=["solution"]
def head_scores(pattern, mask):
    on_targets = torch.einsum("bhqk,bqk->h", pattern, mask.to(pattern))
    return on_targets / mask.any(-1).sum()


# %% tags=["check"]
check.head_scores(head_scores)

# %% [markdown]
# ### Does a previous-token head need the tokens at all?
#
# "The token before" is a fact about *positions*. A head could find it from the position embeddings
# alone. The test: give every token the same embedding, the mean of all, run the model, and see what
# is left of the pattern.

# %%
(prev_layer, prev_head), _ = mi.heads.top_heads(scores["previous_token"], 1)[0]
hook = f"blocks.{prev_layer}.attn.hook_pattern"
whole = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, prev_head]
mean_embedding = model.W_E.mean(0)
with model.hooks(fwd_hooks=[("hook_embed", lambda e, hook: mean_embedding.expand_as(e))]):
    alone = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, prev_head]
overlap = torch.minimum(whole, alone).sum(-1)[:, 1:].mean()

# %% [markdown]
# `overlap` is the share of attention that both runs place alike. A share of one: positions explain
# everything. `positional_overlap` does this for all heads. The control is the best induction head,
# the subject of notebook 03, whose job *is* about tokens.

# %%
positional = mi.heads.positional_overlap(model, tokens)
assert abs(positional[prev_layer, prev_head] - overlap) < 1e-4
matcher, _ = mi.heads.top_heads(scores["induction"], 1)[0]
claim("heads.positional", positional[prev_layer, prev_head], control=positional[matcher])

# %%
mi.figures.scatter(
    positional.flatten(),
    scores["previous_token"].flatten(),
    labels=[mi.heads.head_name(head) for head in heads],
    named=[mi.heads.head_name((prev_layer, prev_head)), mi.heads.head_name(matcher)],
    title="How much of each pattern do positions explain?",
    xlabel="pattern explained by positions alone",
    ylabel="attention to the previous token",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Each dot is a head. Far to the right are heads that would do the same on any text. Not all of them
# look at the previous token: spreading attention evenly is a positional pattern too.

# %% [markdown]
# ## 5. What a head moves: the OV circuit over the vocabulary
#
# Put the token embedding before $W_{OV}$ and the unembedding behind it, and you get a table from
# tokens to logits: $W_E W_{OV} W_U$. Entry $(s, t)$ says how much the logit of token $t$ rises when
# the head looks at token $s$. The table has as many rows as the vocabulary, so look at some tokens
# only. A head **copies** if tokens raise *themselves*: if the diagonal is high in its row.

# %%
generator = torch.Generator().manual_seed(0)
some = torch.randperm(len(model.tokenizer), generator=generator)[:500].to(prompt.device)
W_OV = mi.heads.ov_circuit(model, (layer, head))[:-1]
table = model.W_E[some] @ W_OV @ model.W_U[:, some]
below_own = (table < table.diagonal()[:, None]).float().sum(-1) / (len(some) - 1)
percentile = below_own.mean()

# %% [markdown]
# `percentile` is the **direct measure**: the share of other tokens that get a lower logit than the
# token itself; one half by chance. The **eigenvalue measure** [@elhage2021framework] asks the same
# of the whole table at once. If tokens raise themselves, so do mixtures of tokens, and a mixture
# that is mapped to a positive multiple of itself is an eigenvector with a positive eigenvalue. The
# score is $\sum \mathrm{Re}\,\lambda_i / \sum |\lambda_i|$, from minus one (all are reversed) to
# one (all are raised).
#
# The table is huge, but it has at most $d_{head}$ eigenvalues that are not zero, and they are those
# of the small matrix with the same factors in the other order.

# %%
small = model.W_O[layer, head] @ (model.W_U @ model.W_E) @ model.W_V[layer, head]
eigenvalues = torch.linalg.eigvals(small)
eigen_score = eigenvalues.real.sum() / eigenvalues.abs().sum()

# %%
copying = mi.heads.copying_eigenvalues(model)
direct = mi.heads.copying_percentiles(model, some)
assert abs(copying[layer, head] - eigen_score) < 1e-3
assert abs(direct[layer, head] - percentile) < 1e-3

# %% [markdown]
# Both scores for every head. If they were the same thing, the dots would lie on a rising curve.
# Look for heads that one measure calls copying and the other does not.

# %%
top_copier, _ = mi.heads.top_heads(copying, 1)[0]
mi.figures.scatter(
    copying.flatten(),
    direct.flatten(),
    labels=[mi.heads.head_name(head) for head in heads],
    named=[mi.heads.head_name(top_copier)],
    title="Two measures of copying",
    xlabel="by eigenvalues of W_E W_OV W_U",
    ylabel="by rank of the token itself",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# They disagree for three reasons. The eigenvalue measure ignores size: a weak eigenvalue counts for
# little even when it concerns many tokens. A head may raise each token *and*, more strongly, its
# neighbours: the trace is positive, and the token is never on top. And both read the bare
# embedding, while a real head reads what the first layer made of it. The last point is large in
# models whose first MLP rewrites the embedding. `through_mlp0` puts it in:

# %%
through = mi.heads.copying_percentiles(model, some, through_mlp0=True)
mi.figures.scatter(
    direct.flatten(),
    through.flatten(),
    labels=[mi.heads.head_name(head) for head in heads],
    identity=True,
    title="Does a head copy? It depends on what it reads",
    xlabel="rank of the token itself, from the bare embedding",
    ylabel="the same, through the first MLP",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# On the diagonal the first MLP makes no difference. Heads far above it copy what the first layer
# makes of a token, not the token's embedding.

# %%
untrained_copying = mi.heads.copying_eigenvalues(untrained)
untrained_through = mi.heads.copying_percentiles(untrained, some, through_mlp0=True)
claim("ov.copying", copying.max(), control=untrained_copying.max())
claim("ov.direct", through.max(), control=untrained_through.max())

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: the copying score of one head
# Return $\sum \mathrm{Re}\,\lambda / \sum |\lambda|$ of $W_E W_V W_O W_U$ without ever building a
# matrix with `d_vocab` rows *and* columns.

# %% [markdown] tags=["hint"]
# $AB$ and $BA$ have the same non-zero eigenvalues. Cut the product between $W_V$ and $W_O$.


# %% tags=["exercise"]
def copying_score(W_E, W_V, W_O, W_U):
    """W_E: [d_vocab d_model]; W_V: [d_model d_head]; W_O: [d_head d_model]; W_U: [d_model d_vocab].

    Returns one number from -1 to 1.
    """
    raise NotImplementedError


# %% tags=["solution"]
def copying_score(W_E, W_V, W_O, W_U):
    eigenvalues = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return eigenvalues.real.sum() / eigenvalues.abs().sum()


# %% tags=["check"]
check.copying_score(copying_score)

# %% [markdown]
# ### What the head writes, in words
#
# The head that copies most by the direct measure, on five names. Each row is the top of one row of
# the table: the tokens whose logits rise most when the head looks at that name. Does it write the
# name itself? Something like it?

# %%
writer, _ = mi.heads.top_heads(through, 1)[0]
names = model.to_tokens([" Mary", " John", " Tom", " James", " Dan"], prepend_bos=False)[:, -1]
rows = mi.heads.ov_top_tokens(model, writer, names, 6, through_mlp0=True)
mi.figures.table(
    [{"looks at": row["reads"], "writes": " ".join(map(repr, row["writes"]))} for row in rows],
    title=f"What {mi.heads.head_name(writer)} writes",
)

# %% [markdown]
# ### Skip-trigrams
#
# Put both circuits together and a head speaks in sentences of three words: *source … destination →
# output*. When the destination token comes, the head looks back at the source, and raises the
# output. QK gives the destinations that look hardest at a source, OV the outputs
# [@elhage2021framework]. In a model with one layer and nothing else this is all a head can say. In
# ours, heads past the first layer read more than embeddings, so take the table for a sketch. It
# shows the first layer's strongest copier.

# %%
first, _ = mi.heads.top_heads(direct[:1], 1)[0]
rows = mi.heads.skip_trigrams(model, first, names, 4)
mi.figures.table(
    [{"source": row["source"], "… destination": " ".join(map(repr, row["destinations"])),
      "→ output": " ".join(map(repr, row["outputs"]))} for row in rows],
    title=f"Skip-trigrams of {mi.heads.head_name(first)}",
)  # fmt: skip

# %% [markdown]
# Outputs depend on the source alone, destinations too: the two lists do not know of each other. So
# a head that is right to say "keep … in → mind" and "keep … at → bay" must also say "keep … in →
# bay". The framework paper found such **bugs** in a real model: a trace of the split between QK and
# OV.

# %% [markdown]
# ## 6. A few directions: singular values
#
# $W_{OV}$ maps a stream to a stream. Its singular value decomposition lists pairs of directions:
# *if the source points along this, write that*, with a strength. How many pairs does a head need?

# %%
ov = mi.heads.singular_directions(model, writer, "OV")
qk = mi.heads.singular_directions(model, writer, "QK")
W_OV = mi.heads.ov_circuit(model, writer)[:-1]
assert torch.allclose(ov.first.T @ (ov.strength[:, None] * ov.second), W_OV, atol=1e-4)
random_ov = mi.heads.singular_directions(untrained, writer, "OV")


# %%
def share(directions):
    """Share of the squared norm in the first directions, [k]."""
    return (directions.strength**2).cumsum(0) / (directions.strength**2).sum()


mi.figures.lines(
    {"W_OV": share(ov), "W_QK": share(qk), "W_OV, untrained": share(random_ov)},
    title=f"How many singular directions matter in {mi.heads.head_name(writer)}",
    x=range(1, d_head + 1),
    xlabel="number of singular directions kept",
    ylabel="share of the squared norm",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# The steeper a curve rises, the fewer directions matter. The curve of the untrained head is what
# random matrices give. Where do our heads lie? The claim holds the share of the first quarter of
# the directions of $W_{QK}$, averaged over all heads.

# %%
quarter = d_head // 4 - 1
concentration, random_concentration = (
    torch.stack([share(mi.heads.singular_directions(m, h, "QK")) for h in heads]).mean(0)[quarter]
    for m in (model, untrained)
)
claim("svd.concentration", concentration, control=random_concentration)

# %% [markdown]
# And what do the strongest directions read and write? For each of the first pairs, the tokens whose
# embedding lies furthest along the reading side, and those whose logits the writing side raises
# most. (A pair has a sign of its own: the other end reads and writes the opposite.)

# %%
rows = []
for i in range(4):
    reads = (model.W_E @ ov.first[i]).topk(5).indices
    writes = (ov.second[i] @ model.W_U).topk(5).indices
    reads, writes = (" ".join(map(repr, mi.heads.token_names(model, t))) for t in (reads, writes))
    rows.append({"strength": ov.strength[i].item(), "reads": reads, "writes": writes})
mi.figures.table(rows, title=f"Singular directions of W_OV in {mi.heads.head_name(writer)}")

# %% [markdown]
# ## 7. Composition: who reads whom
#
# A head in a later layer can read what an earlier head wrote, in three ways: for its queries, its
# keys or its values. How much? Multiply what the first writes by what the second reads, and compare
# norms [@elhage2021framework]:
#
# $$\frac{\|W_{OV}^{1} M\|}{\|W_{OV}^{1}\| \, \|M\|} \quad\text{with}\quad M = W_{QK}^{2}
# \text{ (Q)}, \; (W_{QK}^{2})^T \text{ (K)}, \; W_{OV}^{2} \text{ (V)}.$$
#
# For one pair, naively:

# %%
one, two = (0, 0), (n_layers - 1, n_heads - 1)
written = mi.heads.ov_circuit(model, one)[:-1]
read_by_keys = mi.heads.qk_circuit(model, two)[:-1, :-1].T
naive = (written @ read_by_keys).norm() / (written.norm() * read_by_keys.norm())

# %% [markdown]
# `composition_scores` does all pairs: it never builds a $d_{model} \times d_{model}$ matrix,
# because a product of thin matrices has the norm of a small one. And what would chance give? Not
# zero: two random directions of the stream overlap a little, by $1/\sqrt{d_{model}}$ on average.
# The **baseline** turns what is written by a random rotation before it is read. So each head keeps
# its own singular values, and only the *wiring* is destroyed. Its spread is as important as its
# mean.

# %%
wiring = mi.heads.composition_scores(model)
baseline = mi.heads.composition_baseline(model)
assert abs(wiring["K"][(*one, *two)] - naive) < 1e-5
later = wiring["K"] > 0  # pairs in which the second head is in a later layer
by_chance = baseline["K"][torch.randperm(len(baseline["K"]))[: later.sum()]]
mi.figures.histogram(
    {"all pairs of heads": wiring["K"][later], "as many, wiring destroyed": by_chance},
    title="K-composition: most pairs are unrelated, a tail is not",
    xlabel="composition score", bins=60, marks={"1/√d_model": model.cfg.d_model**-0.5},
    subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# The tail on the right is wiring. How far out is a pair? Measure it in standard deviations of the
# baseline. The heatmap shows what the best previous-token head offers to every later head: does one
# read it with its keys?

# %%
deviations = {kind: (wiring[kind] - baseline[kind].mean()) / baseline[kind].std() for kind in "QKV"}
offered = {kind: deviations[kind][prev_layer, prev_head, prev_layer + 1 :] for kind in "QKV"}
mi.figures.heatmap(
    [offered[kind] for kind in "QKV"],
    facets=["read by queries", "read by keys", "read by values"],
    title=f"Who reads {mi.heads.head_name((prev_layer, prev_head))}, the previous-token head?",
    x=columns, y=layers[prev_layer + 1 :], xlabel="head", ylabel="layer",
    colorbar="deviations above chance", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# An **induction head** looks for places whose *previous* token equals the current one (notebook 03
# is about them). It needs keys that tell what came before, which is what a previous-token head
# writes. So the theory predicts K-composition from previous-token head to induction head. The claim
# holds how far the best pair of that kind stands out. The control is the same for a pair of the
# same layers that the theory says nothing about: the median over their other heads.

# %%
induction = scores["induction"].clone()
induction[: prev_layer + 1] = 0
(ind_layer, ind_head), _ = mi.heads.top_heads(induction, 1)[0]
block = deviations["K"][prev_layer, :, ind_layer]  # [earlier head, later head]
print(mi.heads.head_name((prev_layer, prev_head)), "→", mi.heads.head_name((ind_layer, ind_head)))
claim("composition.previous_induction", block[prev_head, ind_head], control=block.median())

# %% [markdown]
# Whether the pair is among the strongest of *all* pairs is another question. Its rank among them:

# %%
rank = (deviations["K"][later] > block[prev_head, ind_head]).sum() + 1
f"rank {rank} of {later.sum()} pairs by K-composition"

# %% [markdown]
# Composition scores are cheap and blind: they weigh all directions alike, whether or not the model
# ever uses them. LayerNorm's division and the MLPs between the heads are left out. A high score is
# a reason to look, and a low one does not rule a connection out. Notebook 03 cuts this very wire
# and sees what happens.

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: three kinds of composition
# Return the Q-, K- and V-composition of two heads, from their thin weights. Mind the transpose.

# %% [markdown] tags=["hint"]
# In the row convention a head scores `x_query @ W_Q @ W_K.T @ x_key`. The first head's output
# stands in the place of `x_query` (Q) or of `x_key` (K).


# %% tags=["exercise"]
def composition(first, second):
    """first, second: weights by name, "W_Q", "W_K", "W_V" [d_model d_head], "W_O" [d_head d_model].

    Returns the scores [3] in the order Q, K, V; `first` writes, `second` reads.
    """
    raise NotImplementedError


# %% tags=["solution"]
def composition(first, second):
    written = first["W_V"] @ first["W_O"]
    qk = second["W_Q"] @ second["W_K"].T
    reads = torch.stack([qk, qk.T, second["W_V"] @ second["W_O"]])
    return (written @ reads).norm(dim=(1, 2)) / (written.norm() * reads.norm(dim=(1, 2)))


# %% tags=["check"]
check.composition(composition)

# %% [markdown]
# ## 8. Virtual attention heads
#
# V-composition is special. If head 2 moves what head 1 moved, then the two together move something
# from source to destination, with *one* pattern and *one* matrix:
# $(A_2 A_1) \otimes (W_{OV}^{1} W_{OV}^{2})$. Two heads in a row act as a head that no one
# parametrised: a **virtual head**. Let the toy's head be followed by one that looks at the previous
# token and writes three times what it reads:

# %%
A_2, W_2 = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]), 3 * torch.eye(3)
step_by_step = A_2 @ (toy_pattern @ toy @ toy_OV) @ W_2
at_once = (A_2 @ toy_pattern) @ toy @ (toy_OV @ W_2)
assert torch.allclose(step_by_step, at_once)
print(at_once)

# %% [markdown]
# In a real model LayerNorm stands between the two. It divides each position by its own scale. Held
# at the value it has in this run, the scale is one more factor of the pattern:
# $A_2 \, \mathrm{diag}(1/\sigma) \, A_1$. Then the formula should be exact.
#
# The test isolates the path in the model. Run it again with head 1's output taken *out* of what
# head 2's layer reads, the scale and head 2's pattern held fixed. How much head 2 then writes less
# is what came along the path. The pair is the one with the strongest V-composition. The control
# predicts the same path with the wrong first head.

# %%
strongest = int(deviations["V"].nan_to_num().argmax())
i, j, k, m = (int(n) for n in torch.unravel_index(torch.tensor(strongest), later.shape))
virtual = mi.heads.virtual_head(model, prompt, (i, j), (k, m))
wrong = mi.heads.virtual_head(model, prompt, (i, (j + 1) % n_heads), (k, m))
measured = mi.heads.isolated_path(model, prompt, (i, j), (k, m))

# %%
error, wrong_error = (
    (predicted.output - measured).norm() / measured.norm() for predicted in (virtual, wrong)
)
claim("virtual.path", error, control=wrong_error)

# %% [markdown]
# The virtual head's pattern, beside those of the two heads it is made of. A bright square means:
# what stands at this *source* reaches that *query* by two steps.

# %%
both = torch.stack([cache["pattern", i][0, j], cache["pattern", k][0, m]])
reach = virtual.pattern[0] / virtual.pattern[0].sum(-1, keepdim=True)
first, second = mi.heads.head_name((i, j)), mi.heads.head_name((k, m))
mi.figures.heatmap(
    torch.cat([both, reach[None]]).cpu(),
    facets=[first, second, f"{first} then {second}"],
    title="A virtual head looks through two heads",
    x=words, y=words, xlabel="source", ylabel="query", colorbar="attention",
    center=None, limit=1,
)  # fmt: skip

# %% [markdown]
# There are far more pairs than heads, so there are many virtual heads, each with a rank of at most
# $d_{head}$. Most carry next to nothing. The composition scores tell where it is worth looking.

# %% [markdown] tags=["task"] minutes=10 difficulty=3
# ### Exercise 5: the virtual head
# Return pattern and matrix of the virtual head of two heads, with LayerNorm's scale in between.

# %% [markdown] tags=["hint"]
# The scale belongs to the position that head 2 *reads*: the key of $A_2$, which is the query of
# $A_1$.


# %% tags=["exercise"]
def virtual_head(A_1, A_2, scale, W_OV_1, W_OV_2):
    """A_1, A_2: [query key]; scale: [pos]; W_OV_1, W_OV_2: [d_model d_model].

    Returns the pattern [query source] and the matrix [d_model d_model].
    """
    raise NotImplementedError


# %% tags=["solution"]
def virtual_head(A_1, A_2, scale, W_OV_1, W_OV_2):
    return A_2 @ (A_1 / scale[:, None]), W_OV_1 @ W_OV_2


# %% tags=["check"]
check.virtual_head(virtual_head)

# %% [markdown]
# ## Summary
#
# - A head is two circuits. QK, a bilinear form of the normalised stream, gives the pattern; OV, a
#   linear map, gives what is moved. Both are exact, biases included, and only the products of the
#   stored matrices have meaning.
# - Kinds of heads are found by score on meaningless text, and a score counts beside the next-best
#   head and an untrained model.
# - Copying can be read off the weights. The eigenvalue measure and the direct measure answer
#   different questions, and both depend on what the head is assumed to read.
# - Composition scores say which heads are wired together, against a baseline with a spread. Two
#   heads in a row are one virtual head, exactly, while LayerNorm's scale is held.
#
# **What we have not shown.** That the model *uses* any of this. Every score here describes weights
# or attention. Notebook 03 intervenes.
#
# ## Where to read on
#
# - The framework, for all of this notebook: [@elhage2021framework], sections "Splitting Attention
#   Head Terms into Circuits", "Interpretation as Skip-Trigrams", "Three Kinds of Composition",
#   "Virtual Attention Heads".
# - Heads that copy, and what they are for: [@olsson2022induction].
# - A head whose OV circuit does the opposite of copying: [@mcdougall2023copy].

# %%
claim.table()
