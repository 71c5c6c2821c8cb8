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
# - read a head's top tokens and its skip-trigrams, and its singular directions (appendix B);
# - say which heads read what other heads wrote, against a random baseline;
# - treat two heads in a row as one *virtual head*, and test that on the model (appendix C).

# %% [markdown] short=true
# ## 1. A head small enough to check by hand
#
# Three tokens, "cat", "sat", "it", and a stream with one coordinate for each. A head is two
# matrices [@elhage2021framework]. `W_QK` holds, for a *query* (row) and a *key* (column), how
# strongly the one looks at the other. `W_OV` says what is written when a token is looked at. Here
# "it" looks for "cat", and a head that looks at "cat" writes two units of the coordinate of "sat".
#
# The exponentials of the scores are 1 everywhere, and 8 where "it" looks at "cat". A token cannot
# look ahead, so the upper triangle is masked. The softmax divides each row of exponentials by its
# sum: the last row has 8, 1 and 1, so "it" gives "cat" eight tenths of its attention. Then every
# token receives the attention-weighted sum of what its sources offer.

# %% short=true
toy = torch.eye(3)  # rows: "cat", "sat", "it"
toy_QK, toy_OV = torch.zeros(3, 3), torch.zeros(3, 3)
toy_QK[2, 0] = torch.tensor(8.0).log()
toy_OV[0, 1] = 2.0
toy_scores = toy @ toy_QK @ toy.T
past = torch.ones(3, 3).tril().bool()
toy_pattern = toy_scores.masked_fill(~past, -torch.inf).softmax(-1)
print(toy_scores.exp(), toy_pattern, toy_pattern @ toy @ toy_OV, sep="\n")

# %% [markdown] short=true
# The formula is `pattern @ stream @ W_OV`, with the stream's rows for positions. The pattern mixes
# *positions* and `W_OV` mixes *coordinates*. The two act on different sides of the stream, which is
# what the framework writes as the tensor product $A \otimes W_{OV}$. Where to look and what to move
# are separate questions.
#
# ## 2. The same on a real head, exactly
#
# A real head stores its two matrices as four thin ones: $W_{QK} = W_Q W_K^T / \sqrt{d_{head}}$ and
# $W_{OV} = W_V W_O$. It reads the *normalised* stream, and in many models queries, keys and values
# have biases. In some, several heads share the matrices of their keys and values.
#
# How does a head know *where* a token stands? In GPT-2 and `pocket` the stream says it: a position
# embedding was added at the start. Models with **rotary positions** (Pythia, Llama, SmolLM2) add
# none. They turn each query and each key, in planes of two coordinates, by angles that grow with
# its position $i$ [@su2021roformer]: $q R(i)$ meets $k R(j)$, so that the score is
# $x_i W_Q R(i - j) W_K^T x_j^T / \sqrt{d_{head}}$. Content comes in on both sides, and position
# through the distance $i - j$ alone. Any head will do as an example; the function `turned` does
# nothing where positions are not rotary.

# %% short=true
pairs = mi.prompts.ioi_literature(model).select([0])
prompt, words = pairs.clean_tokens, pairs.str_tokens[0]
n_layers, n_heads, d_head = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
cache = model.run_with_cache(prompt)[1]
layer, head = n_layers // 2, 0
x = cache[f"blocks.{layer}.ln1.hook_normalized"][0]
rotary = model.cfg.positional_embedding_type == "rotary"


def turned(vectors):
    """Each row turned by its position, coordinate i together with coordinate i + half."""
    if not rotary:
        return vectors
    cos, sin = (cache[f"blocks.{layer}.attn.hook_{name}"][0] for name in ("cos", "sin"))
    moving, still = vectors[:, : cos.shape[1]], vectors[:, cos.shape[1] :]
    left, right = moving.chunk(2, dim=1)
    return torch.cat([moving * cos + torch.cat([-right, left], 1) * sin, still], dim=1)


# %% short=true
from mi_helpers.models.parts import bias, key_head

shared = key_head(model, layer, head)
W_Q, b_Q = model.W_Q[layer, head], bias(model, layer, "b_Q")[head]  # zeros where there is none
W_K, b_K = model.W_K[layer, shared], bias(model, layer, "b_K")[shared]
W_V, b_V = model.W_V[layer, shared], bias(model, layer, "b_V")[shared]
seen = torch.ones(len(x), len(x), device=x.device).tril().bool()


def pattern_by_hand(b_Q, b_K):
    """Queries and keys, turned where positions are rotary; scores, mask, softmax."""
    query, key = turned(x @ W_Q + b_Q), turned(x @ W_K + b_K)
    return (query @ key.T / d_head**0.5).masked_fill(~seen, -torch.inf).softmax(-1)


output = pattern_by_hand(b_Q, b_K) @ (x @ W_V + b_V) @ model.W_O[layer, head]
assert torch.allclose(pattern_by_hand(b_Q, b_K), cache["pattern", layer][0, head], atol=1e-4)
assert torch.allclose(output, cache["z", layer][0, :, head] @ model.W_O[layer, head], atol=1e-3)

# %% [markdown]
# To have one matrix again in spite of the biases, append a 1 to every vector. Then the last row and
# column of a matrix with $d_{model} + 1$ rows hold the biases. `mi.heads.qk_circuit` and
# `ov_circuit` return these matrices; with rotary positions there is a $W_{QK}$ for each `distance`.
# Do they rebuild the heads of the model? As a control, leave the biases out of QK (and take the
# $W_{QK}$ of distance 0 throughout), and let OV read the stream before LayerNorm.


# %%
def pattern_error(head, drop=False):
    """Largest error of softmax(x W_QK x), for one head; `drop`: without biases and distances."""
    x = mi.heads.with_one(cache[f"blocks.{head.layer}.ln1.hook_normalized"][0])
    x[:, -1] = 0 if drop else 1
    turns = [{"distance": 0 if drop else d} for d in range(len(x))] if rotary else [{}]
    scores = [x @ mi.heads.qk_circuit(model, head, **turn) @ x.T for turn in turns]
    if rotary:  # of each score matrix the diagonal that lies so far below the main one
        scores = [torch.diag_embed(form.diagonal(-d), -d) for d, form in enumerate(scores)]
    rebuilt = sum(scores).masked_fill(~seen, -torch.inf).softmax(-1)
    return (rebuilt - cache["pattern", head.layer][0, head.head]).abs().max()


heads = [mi.heads.Head(i, j) for i in range(n_layers) for j in range(n_heads)]
some_heads = mi.models.by_size(model, heads, heads[::7])
errors, dropped = (max(pattern_error(h, drop=d) for h in some_heads) for d in (False, True))
assert errors < 1e-3, errors
print(f"error {errors:.1e}, without biases and distances {dropped:.1e}")


# %%
def output_error(layer, source="ln1.hook_normalized"):
    """Relative error of the sum over heads of A x W_OV, plus the layer's bias, for one layer."""
    x = mi.heads.with_one(cache[f"blocks.{layer}.{source}"][0])
    parts = [
        cache["pattern", layer][0, j] @ x @ mi.heads.ov_circuit(model, (layer, j))
        for j in range(n_heads)
    ]
    rebuilt, whole = sum(parts) + bias(model, layer, "b_O"), cache["attn_out", layer][0]
    return ((rebuilt - whole).abs().max() / whole.abs().max()).item()


error = max(output_error(layer) for layer in range(n_layers))
unnormalised = min(output_error(layer, "hook_resid_pre") for layer in range(n_layers))
assert error < 1e-3 < unnormalised, (error, unnormalised)
print(f"error {error:.1e}, from the stream before LayerNorm {unnormalised:.1e}")

# %% [markdown]
# Both are exact up to rounding: identities, which an assertion holds, and no findings. Appendix A
# has two consequences that are easy to overlook: which bias does nothing, and why it means nothing
# to speak of "the third query dimension" of a head.

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
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

# %% [markdown] short=true
# ## 3. Patterns as pictures
#
# Each small square is the pattern of one head: a row for each query, a column for each key, darker
# for more attention. Choose a layer and hover over a head. Look for four shapes: a line *on* the
# diagonal (the head looks at the token itself), a line just *below* it (at the previous token), a
# dark *first column* (at the start of the text), and lone dark squares (something about the
# words). Below it the heads of the middle layer once more, without scripts, for paper.


# %% short=true
def patterns(layer):
    """All heads of one layer on the prompt."""
    names = [str(mi.heads.Head(layer, head)) for head in range(n_heads)]
    pattern = cache["pattern", layer][0]
    return mi.figures.attention(pattern, words, names, title=f"Attention in layer {layer}")


mi.figures.explore(patterns, layer=range(n_layers), start={"layer": n_layers // 2}, ahead=True)

# %% short=true
patterns(n_layers // 2).static()

# %% [markdown] short=true
# Pictures give ideas. But there may be hundreds of heads, and any of them shows *some* shape on any
# one prompt. So we need a score, a text without meaning, and a control.
#
# ## 4. Kinds of heads, by score
#
# The text: random tokens, said twice. Nothing in it makes sense, so what a head shows here does not
# come from the meaning of words. But it is no ordinary text (`pocket` was trained on spans of it,
# SmolLM2 and GPT-2 on language): a head may do here what it never does in a story, and the other
# way round. So the table below has its score on stories as well. These are the tokens of a
# well-known demonstration with GPT-2 small, so that its published scores can be compared. (There is
# no BOS in it: heads that rest on BOS elsewhere must look at something here.)
#
# The previous-token score of a head is its attention to the token before, averaged over queries.
# Below it is computed naively for the example head of section 2. `mi.heads.token_targets` says for
# any tokens which keys a kind of head should look at, and `attention_scores` measures all heads and
# all kinds in one run, and keeps no pattern. One kind needs BOS after all: the first token is a
# place to rest only where texts begin as in training.

# %% short=true
half = min(100, model.cfg.n_ctx // 2)
top_id = min(20000, len(model.tokenizer))
tokens = mi.prompts.repeated_tokens(model, 2, half, bos=False, low=100, high=top_id)
begun = mi.prompts.repeated_tokens(model, 2, half - 1)  # with BOS in front


def scores_of(some_model):
    """Each head's score for every kind, {kind: [layer head]}."""
    scores = mi.heads.attention_scores(some_model, tokens)
    rests = mi.heads.attention_scores(some_model, begun)["first_token"]
    return scores | {"first_token": rests}


scores = scores_of(model)
pattern = model.run_with_cache(tokens)[1]["pattern", layer][:, head]
attended = [pattern[b, q, q - 1].item() for b in range(2) for q in range(1, 2 * half)]
assert abs(scores["previous_token"][layer, head] - sum(attended) / len(attended)) < 1e-4

# %% [markdown] short=true
# One panel for each kind, one square for each head. Look for single dark squares. Are they in early
# or in late layers?

# %% short=true
kinds = ["previous_token", "duplicate_token", "first_token"]
layers, columns = [f"L{i}" for i in range(n_layers)], [f"H{j}" for j in range(n_heads)]
figures.heatmap(
    [scores[kind] for kind in kinds],
    facets=[kind.removesuffix("_token") for kind in kinds],
    title="Each head's attention to the previous, a duplicate and the first token",
    x=columns,
    y=layers,
    xlabel="head",
    ylabel="layer",
    colorbar="attention",
    center=None,
    limit=1,
)

# %% [markdown] short=true
# A high score alone says little: with many heads the best of them is always somewhat high. Two
# comparisons make it a finding. The **next-best head**: does the best stand out? And an **untrained
# model** of the same shape: what does chance give?

# %% short=true
from mi_data.pocket import generator as grammar

stories = [model.to_tokens(grammar.document(i, split="test").text)[0, :24] for i in range(60)]
stories = torch.stack([story for story in stories if len(story) == 24])
in_stories = mi.heads.attention_scores(model, stories)
untrained = mi.untrained(model)
chance = scores_of(untrained)
rows = []
for kind in kinds:
    (best, score), (second, runner_up) = mi.heads.top_heads(scores[kind], 2)
    row = {"kind": kind.replace("_", " "), "best head": str(best), "score": score}
    row |= {"on stories": in_stories[kind][best].item()}
    row |= {"next": str(second), "its score": runner_up}
    rows.append(row | {"best of an untrained model": chance[kind].max().item()})
mi.figures.table(rows)

# %% [markdown] short=true
# The best head of many was chosen by the very score that we would report. So the claims measure it
# again, on other random tokens. For the head that rests on the first token, an *attention sink*
# [@xiao2023sinks], the control is the same head on a text *without* BOS. Does it rest on BOS, or on
# the first place? Removing BOS also removes the usual beginning of a text. So the last line puts
# BOS into the sixth place instead, and asks where the head rests then.

# %% short=true
again = mi.prompts.repeated_tokens(model, 2, half - 1, seed=1)  # other tokens, with BOS
fresh = {bos: mi.heads.attention_scores(model, again[:, 1 - bos :]) for bos in (0, 1)}
by_chance = mi.heads.attention_scores(untrained, again[:, 1:])
previous, resting = (mi.heads.top_heads(scores[kind], 1)[0][0] for kind in (kinds[0], kinds[2]))
looks, looks_by_chance = fresh[0]["previous_token"][previous], by_chance["previous_token"].max()
claim("heads.previous_token", looks, control=looks_by_chance)
rests, rests_without = (fresh[bos]["first_token"][resting] for bos in (1, 0))
claim("heads.first_token", rests, control=rests_without)
moved = torch.cat([again[:, 1:6], again[:, :1], again[:, 6:]], dim=1)
hook = f"blocks.{resting.layer}.attn.hook_pattern"
late = model.run_with_cache(moved, names_filter=hook)[1][hook][:, resting.head, 20:].mean((0, 1))
print(f"{resting}, with BOS in the sixth place: on BOS {late[5]:.2f}, on the first {late[0]:.2f}")

# %% [markdown]
# In `pocket` the head follows BOS to where it stands. In SmolLM2 it rests on whatever comes first.
#
# And duplicate tokens? Where the best score is hardly above that of the untrained model, no head
# does this job on this text, and the "best head" is the winner of a lottery. GPT-2 small has heads
# for duplicate tokens [@wang2022ioi], and so has SmolLM2, which shows that the score sees one;
# `pocket` shows none here. So this claim expects another value of each model.

# %%
best, by_luck = (found["duplicate_token"].max() for found in (scores, chance))
claim("heads.duplicate_token", best, control=by_luck)

# %% [markdown]
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
# "The token before" is a fact about *positions*. A head could find it from them alone. The test:
# give every token the same embedding, the mean of all, run the model, and see what is left of the
# pattern. (It is a fair test of a head in the first layer, as in `pocket`. A head in the middle of
# a larger model reads what all layers below made of the words, and these are gone too.) How much
# attention do both runs place alike? Over all keys `positional_overlap` has it for every head. The
# claim asks for the key that matters, the token before: the attention that both runs give it. Its
# control is the next-best previous-token head.

# %%
mean_embedding = model.embed(torch.arange(model.cfg.d_vocab, device=tokens.device)).mean(0)


def placed_alike(head):
    """Attention that both runs place alike, [batch query key]."""
    hook = f"blocks.{head.layer}.attn.hook_pattern"
    whole = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, head.head]
    with model.hooks(fwd_hooks=[("hook_embed", lambda e, hook: mean_embedding.expand_as(e))]):
        alone = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, head.head]
    return torch.minimum(whole, alone)


(_, _), (second, _) = mi.heads.top_heads(scores["previous_token"], 2)
alike, second_alike = placed_alike(previous), placed_alike(second)
positional = mi.heads.positional_overlap(model, tokens)
assert abs(positional[previous] - alike.sum(-1)[:, 1:].mean()) < 1e-3
on_previous, second_on_previous = (x.diagonal(-1, 1, 2).mean() for x in (alike, second_alike))
claim("heads.positional", on_previous, control=second_on_previous)

# %%
figures.scatter(
    positional.flatten(),
    scores["previous_token"].flatten(),
    labels=[str(head) for head in heads],
    named=[str(previous), str(second)],
    title="How much of each pattern do positions explain?",
    xlabel="pattern explained by positions alone",
    ylabel="attention to the previous token",
)

# %% [markdown]
# Each dot is a head. Far to the right are heads whose pattern *on these tokens* is much the same
# without any tokens. That is no proof that they never look at words: a head that looks for names
# has nothing to look for among random tokens. The heads to the right *and* high up do look at the
# previous token, by position. That the best one is among them is so in `pocket`, and not in
# SmolLM2.

# %% [markdown] short=true
# ## 5. What a head moves: the OV circuit over the vocabulary
#
# Put the token embedding before $W_{OV}$ and the unembedding behind it, and you get a table from
# tokens to logits: $W_E W_{OV} W_U$. Entry $(s, t)$ says how much the logit of token $t$ rises when
# the head looks at token $s$. The table has as many rows as the vocabulary, so look at some tokens
# only. A head **copies** if tokens raise *themselves*: if the diagonal is high in its row.
#
# The **direct measure** is the share of other tokens that get a lower logit than the token itself;
# one half by chance. The **eigenvalue measure** [@elhage2021framework] asks about the whole table
# at once. A direction of token space that is mapped to a positive multiple of itself is an
# eigenvector with a positive eigenvalue. The score is
# $\sum \mathrm{Re}\,\lambda_i / \sum |\lambda_i|$, from minus one (all directions are reversed) to
# one (all are raised). The eigenvalues sum to the trace, which is the sum of the diagonal. So the
# sign of the score says whether tokens raise themselves *on average*. It says no more: with every
# token raising itself, a mixture can still be reversed, as in [[1, 10], [10, 1]], where the
# difference of the two has the eigenvalue −9. The table is huge, but it has at most $d_{head}$
# eigenvalues that are not zero, and they are those of the small matrix with the same factors in the
# other order.

# %% short=true
generator = torch.Generator().manual_seed(0)
some = torch.randperm(len(model.tokenizer), generator=generator)[:500].to(prompt.device)
table = model.W_E[some] @ W_V @ model.W_O[layer, head] @ model.W_U[:, some]
below_own = (table < table.diagonal()[:, None]).float().sum(-1) / (len(some) - 1)
direct = mi.heads.copying_percentiles(model, some)
assert abs(direct[layer, head] - below_own.mean()) < 1e-3

eigenvalues = torch.linalg.eigvals(model.W_O[layer, head] @ (model.W_U @ model.W_E) @ W_V)
copying = mi.heads.copying_eigenvalues(model)
eigen_score = eigenvalues.real.sum() / eigenvalues.abs().sum()
assert abs(copying[layer, head] - eigen_score) < 1e-3

# %% [markdown]
# Both scores for every head. Look at how many heads are on the left. Those do not copy, they do the
# opposite: they *lower* the token whose bare embedding they look at. On `pocket` it is most of
# them. But no head above the first layer ever gets a bare embedding; the next figure takes a step
# from it.

# %%
from scipy.stats import spearmanr

top_copier, _ = mi.heads.top_heads(copying, 1)[0]
agree = spearmanr(copying.flatten().cpu(), direct.flatten().cpu()).statistic
figures.scatter(
    copying.flatten(),
    direct.flatten(),
    labels=[str(head) for head in heads],
    named=[str(top_copier)],
    title="Two measures of copying",
    xlabel="by eigenvalues of W_E W_OV W_U",
    ylabel="by rank of the token itself",
    subtitle=f"rank correlation {agree:.2f}",
)

# %% [markdown]
# On `pocket` the two measures order the heads much alike. They need not. The eigenvalue measure
# weighs each direction by its eigenvalue, so a few strong directions decide it; the direct measure
# only ranks, and each token counts the same however little it is moved. A head may raise each token
# *and*, more strongly, its neighbours: the trace is positive, and the token is never on top.
#
# And both read the bare embedding, while a real head reads what the first layer made of it. This
# matters more where the first MLP rewrites the embedding. `through_mlp0` puts that MLP in. In the
# figure, heads on the diagonal are those to which the first MLP makes no difference. Heads far
# above it copy what the first layer makes of a token, not the token's embedding; heads far below it
# the other way round. `pocket` has more of the first kind, SmolLM2 more of the second.
#
# Three claims: the best copier by eigenvalues, the best by rank (through the first MLP), and how
# many heads rank the token they read above nine tenths of the others, through the first MLP and, as
# the control, without it.

# %%
through = mi.heads.copying_percentiles(model, some, through_mlp0=True)
untrained_copying = mi.heads.copying_eigenvalues(untrained)
untrained_through = mi.heads.copying_percentiles(untrained, some, through_mlp0=True)
claim("ov.copying", copying.max(), control=untrained_copying.max())
claim("ov.direct", through.max(), control=untrained_through.max())
claim("ov.first_layer", (through > 0.9).sum(), control=(direct > 0.9).sum())
figures.scatter(
    direct.flatten(),
    through.flatten(),
    labels=[str(head) for head in heads],
    identity=True,
    title="Does a head copy? It depends on what it reads",
    xlabel="rank, from the bare embedding",
    ylabel="rank, through the first MLP",
)

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
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
names = mi.prompts.ioi_literature(model).answer_tokens.unique()[:5]  # single tokens
rows = mi.heads.ov_top_tokens(model, writer, names, 6, through_mlp0=True)
mi.figures.table(
    [{"looks at": row["reads"], "writes": " ".join(map(repr, row["writes"]))} for row in rows],
    title=f"What {writer} writes",
)

# %% [markdown]
# ### Skip-trigrams
#
# Put both circuits together and a head speaks in sentences of three words: *source … destination →
# output*. When the destination token comes, the head looks back at the source, and raises the
# output. QK gives the destinations that look hardest at a source, OV the outputs
# [@elhage2021framework]. In a model with one layer and nothing else this is all a head can say.
# Below is the first layer's best copier, with rotary positions at a distance of four tokens. A
# table of this kind always comes out, whether or not the head works so. Look at its copying rank,
# above the table: near one half it copies nothing. And a head that finds its keys by *position*, as
# the best previous-token head does, has no destinations among the words. On `pocket` both is the
# case, and the lists mean nothing.
#
# Outputs depend on the source alone, destinations too: the two lists do not know of each other. So
# a head that is right to say "keep … in → mind" and "keep … at → bay" must also say "keep … in →
# bay". The framework paper found such **bugs** in a real model: a trace of the split between QK and
# OV.

# %%
first, _ = mi.heads.top_heads(direct[:1], 1)[0]
rows = mi.heads.skip_trigrams(model, first, names, 4, distance=4 if rotary else None)
shown = [
    {
        "source": row["source"],
        "… destination": " ".join(map(repr, row["destinations"])),
        "→ output": " ".join(map(repr, row["outputs"])),
    }
    for row in rows
]
print(f"copying rank of {first}: {direct[first]:.2f}, attention to the previous token:", end=" ")
print(f"{scores['previous_token'][first]:.2f}")
mi.figures.table(shown, title=f"Skip-trigrams of {first}")

# %% [markdown]
# ## 6. Composition: who reads whom
#
# A head in a later layer can read what an earlier head wrote, in three ways: for its queries, its
# keys or its values. How much? Multiply what the first writes by what the second reads, and compare
# norms [@elhage2021framework]:
#
# $$\frac{\|W_{OV}^{1} M\|}{\|W_{OV}^{1}\| \, \|M\|} \quad\text{with}\quad M = W_{QK}^{2}
# \text{ (Q)}, \; (W_{QK}^{2})^T \text{ (K)}, \; W_{OV}^{2} \text{ (V)}.$$
#
# For one pair, naively, and with `composition_scores` for all: it never builds a
# $d_{model} \times d_{model}$ matrix, because a product of thin matrices has the norm of a small
# one. (With rotary positions $W_{QK}$ is that of one distance: `back`, how far an induction head
# looks back in this text.)
#
# And what would chance give? Not zero: two random directions of the stream overlap a little, by
# $1/\sqrt{d_{model}}$ (root mean square). The **baseline** turns what is written by a random
# rotation before it is read. So each head keeps its own singular values, and only the *wiring* is
# destroyed. Its spread is as important as its mean.

# %%
back = half - 1 if rotary else None
wiring = mi.heads.composition_scores(model, distance=back)
one, two = (0, 0), (n_layers - 1, n_heads - 1)
written = mi.heads.ov_circuit(model, one)[:-1]
read_by_keys = mi.heads.qk_circuit(model, two, distance=back)[:-1, :-1].T
naive = (written @ read_by_keys).norm() / (written.norm() * read_by_keys.norm())
assert abs(wiring["K"][(*one, *two)] - naive) < 1e-4
baseline = mi.heads.composition_baseline(model, distance=back)
later = wiring["K"] > 0  # pairs in which the second head is in a later layer
chosen = torch.randint(len(baseline["K"]), (int(later.sum()),), generator=generator)
samples = {"pairs of heads": wiring["K"][later], "wiring destroyed": baseline["K"][chosen]}
chance_level = {"1/√d_model": model.cfg.d_model**-0.5}
look = {"xlabel": "K-composition score", "bins": 60, "marks": chance_level}
figures.histogram(samples, title="K-composition, with and without the wiring", **look)

# %% [markdown]
# Both tails are more than chance. Right of it a head can read what the other writes, left of it it
# reads other directions. Not all of that is a wire made for the purpose: two heads may favour the
# same directions of the stream for reasons of their own (notebook 01). How far out is a pair?
# Measure it in standard deviations of the baseline of its kind; in trained models many pairs lie
# further out than any random one. The heatmap shows what the best previous-token head (of those
# with a layer above them) offers to every later head: does one read it with its keys?

# %%
deviations = {kind: (wiring[kind] - baseline[kind].mean()) / baseline[kind].std() for kind in "QKV"}
(prev_layer, prev_head), _ = mi.heads.top_heads(scores["previous_token"][:-1], 1)[0]
figures.heatmap(
    [deviations[kind][prev_layer, prev_head, prev_layer + 1 :] for kind in "QKV"],
    facets=["queries", "keys", "values"],
    title=f"Which queries, keys and values read {mi.heads.Head(prev_layer, prev_head)}?",
    x=columns,
    y=layers[prev_layer + 1 :],
    xlabel="head",
    ylabel="layer",
    colorbar="deviations from chance",
)

# %% [markdown]
# An **induction head** looks for places whose *previous* token equals the current one (notebook 03
# is about them). It needs keys that tell what came before, which is what a previous-token head
# writes. So the theory predicts K-composition from previous-token head to induction heads. The
# claim holds how far their keys read it, for the heads with at least half the best induction score.
# The control is the mean of the other heads of the same layers. Many pairs of which no theory
# speaks stand out as far, though: the best pair's rank among all pairs is in the last line.

# %%
induction = scores["induction"].clone()
induction[: prev_layer + 1] = 0
(ind_layer, ind_head), _ = mi.heads.top_heads(induction, 1)[0]
pair = (prev_layer, prev_head, ind_layer, ind_head)
inductive = induction > induction.max() / 2  # [layer head]
beside = ~inductive & inductive.any(1, keepdim=True)
keyed = deviations["K"][prev_layer, prev_head]
if beside.any():
    claim("composition.previous_induction", keyed[inductive].mean(), control=keyed[beside].mean())
else:
    claim.not_here("composition.previous_induction", "No other head stands beside these.")
rank = (deviations["K"][later] > deviations["K"][pair]).sum() + 1
print(f"{inductive.sum()} induction heads; the best pair,", end=" ")
print(str(mi.heads.Head(*pair[:2])), "→", str(mi.heads.Head(*pair[2:])), end=": ")
print(f"rank {rank} of {later.sum()} pairs by K-composition")

# %% [markdown]
# Composition scores are cheap and blind: they weigh all directions alike, whether or not the model
# ever uses them. LayerNorm's division and the MLPs between the heads are left out. A high score is
# a reason to look, and a low one does not rule a connection out. Notebook 03 cuts a wire of this
# kind and sees what happens.

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

# %% [markdown] short=true
# ## Summary
#
# - A head is two circuits. QK, a bilinear form of the normalised stream (with rotary positions one
#   for each distance), gives the pattern; OV, a linear map, gives what is moved. Both are exact,
#   biases included, and only the products of the stored matrices have meaning.
# - Kinds of heads are found by score on meaningless text, and looked up on real text. A score
#   counts beside the next-best head and an untrained model.
# - Copying can be read off the weights, and depends on what the head is assumed to read: some of
#   `pocket`'s heads reverse the bare embedding and copy what the first MLP makes of it.
# - Composition scores say which heads could be wired together, against a baseline with a spread.
#   Two heads in a row are one virtual head, exactly, while LayerNorm's scale and both patterns are
#   held (appendix C).
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

# %% [markdown]
# ## Appendix A: what the stored matrices do not mean
#
# **One of the biases does nothing** where positions are not rotary. Write out the score with both
# biases: the terms with the key's bias depend on the query alone, so they move a whole row of
# scores by a constant, and the softmax ignores it. The query's bias is different: it makes some
# keys attractive to *every* query. (With rotary positions the key's bias is turned as well, and so
# says at which distances a query likes to look. Some models have no biases; then both numbers are
# zero.)

# %%
both, *fewer = (pattern_by_hand(*biases) for biases in ((b_Q, b_K), (b_Q, 0 * b_K), (0 * b_Q, b_K)))
without_key_bias, without_query_bias = ((pattern - both).abs().max().item() for pattern in fewer)
assert rotary or without_key_bias < 1e-4
print(f"without the key's bias {without_key_bias:.1e}, the query's {without_query_bias:.1e}")

# %% [markdown]
# **The four matrices never act alone.** Turn queries and keys of every head by the same rotation
# $R$: $(W_Q R)(W_K R)^T = W_Q W_K^T$, and nothing changes. So it means nothing to speak of "the
# third query dimension" of a head: only the products have meaning. Values and `z` can be turned as
# well, if $W_O$ turns them back. (Rotary positions turn fixed planes of queries and keys, so there
# only values and `z` are free.) Let us do all this inside the running model. The control turns the
# values and does not turn `z` back.

# %%
turn = mi.lens.random_rotation(d_head).to(x)
there, back_again = (lambda v, hook: v @ turn), (lambda v, hook: v @ turn.T)
values = {"attn.hook_v": there, "attn.hook_z": back_again}
compared = {} if rotary else {"attn.hook_q": there, "attn.hook_k": there}


def log_probs_with(hooks):
    """Log-probabilities on the prompt with these hooks in every layer."""
    every = [(f"blocks.{i}.{name}", fn) for i in range(n_layers) for name, fn in hooks.items()]
    return model.run_with_hooks(prompt, fwd_hooks=every).log_softmax(-1)


normal = model(prompt).log_softmax(-1)
rotated, halfway = log_probs_with(values | compared), log_probs_with({"attn.hook_v": there})
assert (rotated - normal).abs().max() < 2e-2 < (halfway - normal).abs().max()

# %% [markdown]
# ## Appendix B: a few directions, by singular values
#
# $W_{OV}$ maps a stream to a stream. Its singular value decomposition lists pairs of directions:
# *if the source points along this, write that*, with a strength. How many pairs does a head need?

# %%
ov = mi.heads.singular_directions(model, writer, "OV")
W_OV = mi.heads.ov_circuit(model, writer)[:-1]
assert torch.allclose(ov.first.T @ (ov.strength[:, None] * ov.second), W_OV, atol=1e-3)
at = {"distance": 0} if rotary else {}  # queries and keys in the same place


def shares(some_model, circuit, *heads, **at):
    """Share of the squared norm in the first directions, mean over heads, [k]."""
    found = [mi.heads.singular_directions(some_model, head, circuit, **at) for head in heads]
    squares = torch.stack([directions.strength.square() for directions in found])
    return (squares.cumsum(1) / squares.sum(1, keepdim=True)).mean(0)


curves = {f"W_OV of {writer}": shares(model, "OV", writer)}
curves["untrained W_OV"] = shares(untrained, "OV", writer)
curves["W_QK, mean of all heads"] = shares(model, "QK", *heads, **at)
curves["untrained W_QK"] = shares(untrained, "QK", *heads, **at)

# %% [markdown]
# The steeper a curve rises, the fewer directions matter. The curves of the untrained model are what
# products of random matrices give. Look on which side of them the trained ones lie. The claim holds
# the share of the first quarter of the directions of $W_{QK}$, averaged over all heads.

# %%
quarter = d_head // 4 - 1
trained_share, random_share = (curves[name][quarter] for name in list(curves)[2:])
claim("svd.concentration", trained_share, control=random_share)
figures.lines(
    curves,
    title="How many singular directions matter",
    x=range(1, d_head + 1),
    xlabel="number of singular directions kept",
    ylabel="share of the squared norm",
)

# %% [markdown]
# So the squared norm of a trained $W_{QK}$ is spread less evenly than that of a random product.
# That is a description; why, it does not say. The copier's $W_{OV}$ on `pocket` is a little more
# even than chance.
#
# And what do the strongest directions read and write? For each of the first pairs, the tokens whose
# embedding lies furthest along the reading side, and those whose logits the writing side raises
# most. (A pair has a sign of its own: the other end reads and writes the opposite.) Such lists have
# been found readable in GPT-2 [@millidge2022svd]. Where the curve above rises no faster than that
# of chance, there is less reason to expect it: the nearer two strengths are, the more arbitrary it
# is which mixtures of the two directions are listed. Those of `pocket`'s copier are hard to read.

# %%
rows = []
for i in range(4):
    reads = (model.W_E @ ov.first[i]).topk(5).indices
    writes = (ov.second[i] @ model.W_U).topk(5).indices
    reads, writes = (" ".join(map(repr, mi.heads.token_names(model, t))) for t in (reads, writes))
    rows.append({"strength": ov.strength[i].item(), "reads": reads, "writes": writes})
mi.figures.table(rows, title=f"Singular directions of W_OV in {writer}")

# %% [markdown]
# ## Appendix C: virtual attention heads
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
# is what came along the path. The pair is the one with the strongest V-composition. The same
# prediction with the wrong first head must fail.

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
assert error < 1e-3 < 0.1 < wrong_error

# %% [markdown]
# The virtual head's pattern, beside those of the two heads it is made of. A dark square means:
# what stands at this *source* reaches that *query* by two steps. (Where both heads rest on BOS, so
# does the virtual one.)

# %%
both = torch.stack([cache["pattern", i][0, j], cache["pattern", k][0, m]])
reach = virtual.pattern[0] / virtual.pattern[0].sum(-1, keepdim=True)
first, second = str(mi.heads.Head(i, j)), str(mi.heads.Head(k, m))
mi.figures.heatmap(
    torch.cat([both, reach[None]]).cpu(),
    facets=[first, second, f"{first} then {second}"],
    title="A virtual head looks through two heads",
    x=words,
    y=words,
    xlabel="key (source)",
    ylabel="query (destination)",
    colorbar="attention",
    center=None,
    limit=1,
)

# %% [markdown]
# There are far more pairs than heads, so there are many virtual heads, each with a rank of at most
# $d_{head}$. Do the composition scores tell which of them carry much? Take some pairs at random,
# and measure the length of what each carries on two different prompts.

# %%
pairs_of_heads = [(one, two) for one in heads for two in heads if two.layer > one.layer]
n_drawn = mi.models.by_size(model, 100, 40)
drawn = torch.randperm(len(pairs_of_heads), generator=torch.Generator().manual_seed(0))[:n_drawn]
some_pairs = [pairs_of_heads[n] for n in drawn]
prompts = mi.prompts.ioi_literature(model).select([0, 2]).clean_tokens
lengths = [
    [mi.heads.virtual_head(model, text[None], one, two).output[0, 1:].norm() for text in prompts]
    for one, two in some_pairs
]
carried = torch.tensor(lengths)
by_score = torch.stack([wiring["V"][(*one, *two)] for one, two in some_pairs]).cpu()

# %%
figures.scatter(
    by_score,
    carried[:, 0],
    labels=[f"{one} → {two}" for one, two in some_pairs],
    title="V-composition, and what virtual heads carry",
    xlabel="V-composition of the two heads",
    ylabel="length of what is carried on one prompt",
)


# %% [markdown]
# Below is the rank correlation of the two: for the score, which is a cosine; for the score with the
# sizes of both $W_{OV}$ put back; and, to show that there is something to tell, for what the same
# pairs carry on another prompt. On `pocket` neither score tells it. What both leave out is where
# the two heads look, and which directions the stream really has at the places that are read.

# %%
size = {head: mi.heads.ov_circuit(model, head)[:-1].norm().item() for head in heads}
norms = torch.tensor([size[one] * size[two] for one, two in some_pairs])
told = {"score": by_score, "score and size": by_score * norms, "another prompt": carried[:, 1]}
told = {name: spearmanr(carried[:, 0], by).statistic.item() for name, by in told.items()}
mi.figures.table([told], title="Rank correlation with what is carried on one prompt")

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

# %%
claim.table()
