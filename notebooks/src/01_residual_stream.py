# ---
# title: The residual stream
# minutes: 60
# measured: 15 s and 0.8 GiB on pocket
# ---

# %% [markdown]
# **The question.** A transformer predicts the next token. Between the token that goes in and the
# prediction that comes out, where is the answer, and which parts of the model put it there?
#
# **You need** vectors, dot products and matrix products; what a token, an embedding and a logit
# are; and a rough idea of what attention and an MLP do.
#
# **You will be able to**
#
# - write the model's final state as an exact sum of what every head and every MLP wrote;
# - read that state at any layer with the logit lens, and say where this reading fails;
# - give every component its share of a logit, and say what such a share does not mean;
# - say what LayerNorm does to all this, and what "folding" it changes;
# - judge whether two components are wired to each other, against a random baseline;
# - test the famous king − man + woman without fooling yourself.

# %% [markdown]
# ## 1. A residual stream small enough to check by hand
#
# Each position of a transformer carries one vector from the first layer to the last: the **residual
# stream**. No layer replaces it. Each attention head and each MLP *reads* the vector, computes
# something, and *adds* its result [@elhage2021framework]. The name comes from residual networks
# [@he2015residual] and their gated forerunners [@srivastava2015highway].
#
# Here is a whole one for the last word of "the cat sat", with three coordinates. There is no
# LayerNorm yet. Follow it with a pencil:
#
# - the embedding of "sat" is the third coordinate; the position embedding is the first;
# - a head looks back at "cat" and writes two units of the second coordinate, which stands for
#   "cat";
# - an MLP with one neuron fires when the second and third coordinates together exceed one, and it
#   writes along (−1, 1, 0).

# %%
neuron_reads, neuron_writes = torch.tensor([0.0, 1, 1]), torch.tensor([-1.0, 1, 0])


def toy_writes(head_strength):
    """What each part of the toy writes to the stream of the last position, in order."""
    writes = {"embedding": torch.tensor([0.0, 0, 1]), "position": torch.tensor([1.0, 0, 0])}
    writes["head"] = head_strength * torch.tensor([0.0, 1, 0])
    stream = sum(writes.values())
    writes["MLP"] = torch.relu(stream @ neuron_reads - 1) * neuron_writes
    return writes


toy = toy_writes(head_strength=2)
print({name: write.tolist() for name, write in toy.items()})

# %% [markdown]
# Two words can follow, "mat" and "dog". Each has a direction, and its logit is the dot product of
# the final stream with that direction. The dot product of a sum is the sum of the dot products. So
# each part has a *share* of each logit, and the shares add up. In the table, look at the last
# column, and at the head.

# %%
directions = {"mat": torch.tensor([0.0, 1, 1]), "dog": torch.tensor([1.0, 1, 0])}
directions["mat − dog"] = directions["mat"] - directions["dog"]
rows = []
for name, write in {**toy, "sum": sum(toy.values())}.items():
    shares = {word: (write @ direction).item() for word, direction in directions.items()}
    rows.append({"part": name, "wrote": str(write.int().tolist()), **shares})
mi.figures.table(rows)

# %% [markdown]
# "mat" wins by two, and the MLP alone seems to be the reason: the head pushes both words by the
# same amount, so its share of the difference is zero. Is the head useless? Take it away and see.

# %%
without_head = toy_writes(head_strength=0)
{name: (write @ directions["mat − dog"]).item() for name, write in without_head.items()}

# %% [markdown]
# Without the head the MLP falls silent, and so the two words tie. The head's *direct* share is
# zero, and the answer depends on it entirely: it works **through** the MLP. The neuron reads along
# (0, 1, 1), the head writes along (0, 1, 0), and the dot product of the two is the weight of a
# connection that no one drew: a **virtual weight** [@elhage2021framework].
#
# The whole notebook is in this toy: a sum, shares of a logit, a warning about shares, and virtual
# weights. Now for a real model.

# %% [markdown]
# ## 2. The shapes of everything
#
# The prompt is a classic: the model should continue with the name of the one who did *not* give
# [@wang2022ioi]. Notebook 04 studies this task; here it is only an example.

# %%
pairs = mi.prompts.ioi_literature(model).select([0])
tokens, answers = pairs.clean_tokens, pairs.answer_tokens
print(pairs.clean[0], "→ right:", repr(pairs.answers[0]), "· wrong:", repr(pairs.wrong[0]))
n_layers, n_heads, d_model = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model
print(f"{n_layers} layers of {n_heads} heads, d_model {d_model}")
logits, cache = model.run_with_cache(tokens)

# %% [markdown]
# `cache` holds every intermediate result. Below are the places of one block, in the order of the
# computation, with their shapes. Find the residual stream: it is what has the shape `[batch,
# position, d_model]` and *resid* in its name. `resid_mid` lies between attention and MLP.

# %%
steps = "hook_resid_pre attn.hook_q attn.hook_k attn.hook_v attn.hook_pattern attn.hook_z"
steps += " hook_attn_out hook_resid_mid mlp.hook_post hook_mlp_out hook_resid_post"
hooks = ["hook_embed", "hook_pos_embed", *(f"blocks.0.{step}" for step in steps.split())]
shapes = [{"hook": hook, "shape": str(tuple(cache[hook].shape))} for hook in hooks if hook in cache]
mi.figures.table(shapes)

# %% [markdown]
# Every sublayer obeys one line: *stream after = stream before + what the sublayer wrote*.

# %%
for layer in range(n_layers):
    pre, mid, post = (cache[name, layer] for name in ("resid_pre", "resid_mid", "resid_post"))
    assert torch.allclose(pre + cache["attn_out", layer], mid, atol=1e-4)
    assert torch.allclose(mid + cache["mlp_out", layer], post, atol=1e-4)

# %% [markdown]
# ## 3. The final stream is a sum
#
# Put all those lines under each other and the stream before the unembedding is a plain sum: token
# embedding, position embedding, and what each head and each MLP of each layer wrote. A head's
# contribution is its `z` (the attention-weighted mean of its values) times its own slice of `W_O`;
# the bias `b_O` belongs to the layer. Here is that sum at the last position, term by term.

# %%
final = cache["resid_post", n_layers - 1][0, -1]
parts = {"embed": cache["hook_embed"][0, -1], "pos": cache["hook_pos_embed"][0, -1]}
for layer in range(n_layers):
    for head in range(n_heads):
        parts[f"L{layer}H{head}"] = cache["z", layer][0, -1, head] @ model.W_O[layer, head]
    parts[f"L{layer} attn bias"] = model.b_O[layer]
    parts[f"L{layer} MLP"] = cache["mlp_out", layer][0, -1]
error = (sum(parts.values()) - final).abs().max()

# %% [markdown]
# How exact is it? As a control, leave out the one head that writes least of all.

# %%
weakest = min((part.norm().item(), name) for name, part in parts.items() if "H" in name)[1]
claim("residual.sum_error", error, control=parts[weakest].abs().max())

# %% [markdown]
# From here on `mi.lens.decompose` does the same for all positions at once. It reads `z` and `W_O`,
# and caches nothing else.

# %%
exact = mi.lens.decompose(model, tokens, positions=range(tokens.shape[1]))
for name, part in zip(exact.labels, exact.parts[:, 0, -1], strict=True):
    assert torch.allclose(part, parts[name], atol=1e-4)

# %% [markdown]
# Who writes much? The colour is the length of the vector each component writes at the last
# position. Look at the size of the MLPs against that of single heads, and at how it changes with
# depth.

# %%
columns = [f"H{head}" for head in range(n_heads)] + ["bias", "MLP"]
layers = [f"L{layer}" for layer in range(n_layers)]
lengths = exact.parts[2:, 0, -1].norm(dim=-1).reshape(n_layers, n_heads + 2)
mi.figures.heatmap(
    lengths,
    title="How much each component writes at the last position",
    x=columns,
    y=layers,
    colorbar="length",
    center=None,
    xlabel="component",
    ylabel="layer",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Length is not importance. A long vector may point where nobody reads, and two long vectors may
# cancel.

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: rebuild the stream
# Write the sum without a loop over names: from the raw pieces to the final stream of all positions.

# %% [markdown] tags=["hint"]
# `torch.einsum("lphe,lhed->pd", z, W_O)` multiplies each head's `z` by its own `W_O` and sums over
# layers `l` and heads `h`, because neither stands on the right of the arrow.


# %% tags=["exercise"]
def rebuild_stream(embed, pos, z, W_O, b_O, mlp_out):
    """The final residual stream, [position d_model].

    embed, pos: [position d_model]      z: [layer position head d_head]
    W_O: [layer head d_head d_model]    b_O: [layer d_model]    mlp_out: [layer position d_model]
    """
    raise NotImplementedError


# %% tags=["solution"]
def rebuild_stream(embed, pos, z, W_O, b_O, mlp_out):
    heads = torch.einsum("lphe,lhed->pd", z, W_O)
    return embed + pos + heads + b_O.sum(0) + mlp_out.sum(0)


# %% tags=["check"]
check.rebuild_stream(rebuild_stream)

# %% [markdown]
# ## 4. The stream by layer: length and direction
#
# Each layer adds. Does the stream grow? `accumulated_resid` stacks the stream at every half-layer:
# `0_pre` is embedding plus position, `0_mid` comes after the first attention, and so on. Look at
# the shape of the curve, and compare the beginning-of-sequence token (BOS) with the rest.

# %%
streams, half_layers = cache.accumulated_resid(incl_mid=True, return_labels=True)
length = streams[:, 0].norm(dim=-1)
mi.figures.lines(
    {"BOS": length[:, 0], "mean of the other tokens": length[:, 1:].mean(1)},
    title="The stream's length by half-layer",
    x=half_layers,
    xlabel="half-layer",
    ylabel="length",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Later layers write on top of what is there, so the stream tends to grow. BOS sees nothing but
# itself: its stream is the same in every text, and often much longer than the others (attention
# that has nothing to look for tends to rest there). This is why one looks at BOS apart from the
# rest. An untrained model of the same shape is the control.

# %%
random_model = mi.untrained(model)
random_cache = random_model.run_with_cache(tokens)[1]
random_length = random_cache.accumulated_resid(incl_mid=True)[:, 0].norm(dim=-1)
growth, random_growth = ((x[-1] / x[0])[1:].mean() for x in (length, random_length))
claim("residual.growth", growth, control=random_growth)

# %% [markdown]
# Now the direction. Each cell is the cosine between the last position's stream at two half-layers:
# 1 means the same direction. Look for a band along the diagonal, and for places where it is cut.

# %%
unit = streams[:, 0] / streams[:, 0].norm(dim=-1, keepdim=True)
mi.figures.heatmap(
    unit[:, -1] @ unit[:, -1].T,
    title="The stream turns gradually",
    x=half_layers,
    y=half_layers,
    colorbar="cosine",
    limit=1,
    subtitle=mi.model_id(model),
)

# %% [markdown]
# A component far down the model can still read what an early one wrote, because most of it is still
# there. The number behind this: the cosine of a stream with itself one *layer* later, averaged over
# all tokens but BOS. The control compares the same pairs of layers at two *different* tokens.

# %%
by_token = unit[::2, 1:]  # [layer position d_model], without the half-layers and without BOS
same = (by_token[:-1] * by_token[1:]).sum(-1).mean()
other = (by_token[:-1] * by_token[1:].roll(1, dims=1)).sum(-1).mean()
claim("residual.persistence", same, control=other)

# %% [markdown]
# ## 5. LayerNorm, and what folding changes
#
# Nothing reads the stream as it is. Before every attention, every MLP and the unembedding stands a
# **LayerNorm**: subtract the mean of the coordinates, divide by their standard deviation (that
# divisor is the *scale*), multiply by a learned gain, add a learned shift. By hand, with four
# coordinates:


# %%
def normalise(x, eps=1e-5):
    """LayerNorm without gain and shift; x ends in d_model."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


stream = torch.tensor([4.0, 0, 4, 0])
normalise(stream).round(), normalise(10 * stream).round(), normalise(stream + 7).round()

# %% [markdown]
# Three times the same. LayerNorm forgets two things about the stream: its length, and its mean
# coordinate. So a stream ten times as long makes the same prediction. On the real model:


# %%
def prediction(stream):
    """Log-probabilities of the next token from one final stream, [d_vocab]."""
    return model.unembed(model.ln_final(stream[None, None]))[0, 0].log_softmax(-1)


noise = torch.randn(final.shape, generator=torch.Generator().manual_seed(0)).to(final)
noise *= final.norm() / noise.norm()
unchanged = (prediction(10 * final + 7) - prediction(final)).abs().max()
claim(
    "layernorm.blind",
    unchanged,
    control=(prediction(final + noise) - prediction(final)).abs().max(),
)

# %% [markdown]
# It matters for the notebook's whole idea. Reading is **not** linear in the stream, but only
# because of the scale: given the scale, LayerNorm is linear. Section 7 uses this.
#
# Gain and shift are linear too, so they can be moved into whatever reads the result. That is
# **folding**. A reader computes `(gain * x + shift) @ W + b`, which equals `x @ (gain[:, None] * W)
# + (b + shift @ W)`. Two coordinates suffice to see it:

# %%
x, gain, shift = torch.tensor([1.0, -1]), torch.tensor([2.0, 3]), torch.tensor([5.0, 0])
W, b = torch.tensor([[1.0, 2], [0, 1]]), torch.tensor([10.0, 20])
read_before = (gain * x + shift) @ W + b
read_folded = x @ (gain[:, None] * W) + (b + shift @ W)
print("before:", read_before.tolist(), "folded:", read_folded.tolist())

# %% [markdown]
# `mi.load_model` folds every LayerNorm, and also *centres*: it subtracts from everything that
# writes the mean coordinate that LayerNorm would remove anyway, and from the unembedding the mean
# over the vocabulary, which no probability depends on. Load the raw checkpoint and see what stayed
# the same.

# %%
from transformers import AutoModelForCausalLM

folder = mi.models.model_source(model).directory
raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
with torch.no_grad():
    raw_logits = raw.eval()(tokens.cpu()).logits
gap_in_log_probs = (raw_logits.log_softmax(-1) - logits.cpu().log_softmax(-1)).abs().max()
claim("folding.log_probs", gap_in_log_probs, control=(raw_logits - logits.cpu()).abs().max())

# %% [markdown]
# The predictions are equal to rounding. The logits are not: all logits of a position moved by one
# constant. So compare log-probabilities or *differences* of logits between processed and raw
# models, never single logits.
#
# What else changed: the weights, and with them every number about the inside. In GPT-2 the
# unembedding *is* the embedding, transposed (the weights are tied). After folding it is not: it has
# swallowed the final gain. A statement such as "the cosine of this neuron with that word" depends
# on such choices.


# %%
def difference(embedding, unembedding):
    """Length of unembeddingᵀ − embedding over the length of the embedding."""
    return (unembedding - embedding).norm() / embedding.norm()


tied = difference(raw.get_input_embeddings().weight.data, raw.get_output_embeddings().weight.data)
claim("folding.untied", difference(model.W_E, model.W_U.T), control=tied)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: fold a LayerNorm
# Return the weight and the bias that read the bare normalised stream, so that gain and shift are no
# longer needed.

# %% [markdown] tags=["hint"]
# Write out one output, `sum_i (gain_i x_i + shift_i) W_ij + b_j`, and collect what multiplies
# `x_i`.


# %% tags=["exercise"]
def fold_layernorm(gain, shift, W, b):
    """gain, shift: [d_model]; W: [d_model width]; b: [width]  ->  new W and b, same shapes."""
    raise NotImplementedError


# %% tags=["solution"]
def fold_layernorm(gain, shift, W, b):
    return gain[:, None] * W, b + shift @ W


# %% tags=["check"]
check.fold_layernorm(fold_layernorm)

# %% [markdown]
# ## 6. The logit lens: what would the model say if it stopped here?
#
# The stream has the same shape at every layer. So nothing stops us from handing an *early* stream
# to the final LayerNorm and the unembedding. This is the **logit lens** [@nostalgebraist2020lens].
# In full, for the last position:

# %%
for layer in range(n_layers):
    early = prediction(cache["resid_pre", layer][0, -1])
    print(f"before layer {layer}:", repr(model.tokenizer.decode(early.argmax())))
print("at the end:", repr(model.tokenizer.decode(prediction(final).argmax())))

# %% [markdown]
# `mi.lens.logit_lens` (it is TransformerLens's own) does this for every half-layer and position, in
# chunks, so that logits for all of them never exist at once.

# %%
lens = mi.lens.logit_lens(
    model, tokens, positions=None, incl_mid=True, top_k=1, return_type="probs"
)
top_ids, top_probs = lens.readout.top_ids[:, 0, :, 0], lens.values[:, 0, :, 0]
for layer in range(n_layers):
    assert top_ids[2 * layer, -1] == prediction(cache["resid_pre", layer][0, -1]).argmax()

# %% [markdown]
# Read the figure upwards in one column: the best guess at that position after each half-layer,
# darker when more probable. Ask three things. What is in the lowest row? From which row on is the
# final guess there? Do positions differ in that?


# %%
def guesses(view):
    """The best guess as a string, [half_layer][position], of a lens run with top_k=1."""
    return [[model.tokenizer.decode(token) for token in row] for row in view.readout.top_ids[:, 0]]


mi.figures.token_table(
    guesses(lens),
    top_probs,
    title="The logit lens: the best guess at every half-layer",
    x=pairs.str_tokens[0],
    y=lens.labels,
    xlabel="token read",
    ylabel="half-layer",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# The lowest row holds a trap. Where embedding and unembedding are tied, a stream that holds nothing
# but a word reads out as that word: an **echo** of the input, and no prediction. Count it: the
# share of positions whose best guess is the very token that stands there, before the first layer
# and, as the control, at the end.

# %%
echo = (top_ids == tokens[0]).float().mean(1)  # [half_layer]
claim("lens.echo", echo[0], control=echo[-1])

# %% [markdown]
# Two numbers tell more than the best guess: the **rank** of the answer (0 is the top) and the
# **entropy** of the whole distribution (how undecided it is). First the ranks of both names.

# %%
right_wrong = answers[0].tolist()
ranked = mi.lens.logit_lens(model, tokens, incl_mid=True, targets=right_wrong).readout
ranks = ranked.target_ranks[:, 0]  # [half_layer name]
mi.figures.lines(
    {pairs.answers[0]: (1 + ranks[:, 0]).log10(), pairs.wrong[0]: (1 + ranks[:, 1]).log10()},
    title="The rank of both names by half-layer",
    x=lens.labels,
    xlabel="half-layer",
    ylabel="log10(1 + rank); 0 is the top",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Do both names rise together at first, and part later? Then the model finds *that* a name comes
# before it finds *which*. The claim is only the two ends of the first line.

# %%
claim("lens.answer_rank", ranks[-1, 0], control=ranks[0, 0])

# %% [markdown]
# Now the entropy, averaged over the tokens, with the untrained model for comparison. One might
# expect it to fall from layer to layer. It need not: an echo is confident too.

# %%
random_lens = mi.lens.logit_lens(random_model, tokens, positions=None, incl_mid=True, top_k=1)
entropy, random_entropy = (run.readout.entropy[:, 0, 1:].mean(1) for run in (lens, random_lens))
mi.figures.lines(
    {"trained": entropy, "untrained": random_entropy},
    title="How undecided the lens is, by half-layer",
    x=lens.labels,
    xlabel="half-layer",
    ylabel="entropy (nats), mean over tokens",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# ### Where the logit lens fails
#
# The lens reads an early stream with the *last* layer's alphabet. Nothing in training asked early
# layers to write in it. If later layers turn or shift the stream in a way common to all inputs, the
# lens shows nonsense although the information is there [@belrose2023tuned]. The test is to give
# each layer an alphabet of its own: an affine map fitted from that layer's stream to the final one,
# on other text. If the map predicts better than the lens, then the lens was blind, not the layer.
#
# First some text, and its streams. Two thirds of the documents fit the map, the others test it.

# %%
from mi_data.pocket import generator

documents = [generator.document(seed, split="test").text for seed in range(240)]
texts = [row for row in (model.to_tokens(text)[0, :20] for text in documents) if len(row) == 20]
hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
hooks.append(f"blocks.{n_layers - 1}.hook_resid_post")
seen = model.run_with_cache(torch.stack(texts), names_filter=hooks, logits_to_keep=1)[1]
by_layer = torch.stack([seen[hook][:, 1:] for hook in hooks])  # [layer document position d_model]

# %%
cut = 2 * len(texts) // 3
fit_on, test_on = (part.flatten(1, 2).cpu() for part in (by_layer[:, :cut], by_layer[:, cut:]))
test_on = test_on[:, ::4]  # fewer predictions to compare
shuffled = fit_on[-1][torch.randperm(fit_on.shape[1], generator=torch.Generator().manual_seed(0))]

# %% [markdown]
# The distance of a prediction from the model's final one is the Kullback–Leibler divergence, in
# nats: 0 when they agree. The control map is fitted to the right streams in *shuffled* order: it
# knows how often each word comes, and nothing about this text.

# %%
from sklearn.linear_model import Ridge


def read(streams):
    """Logits that the final LayerNorm and the unembedding read from streams, [token d_vocab]."""
    streams = torch.as_tensor(streams).to(final)
    return model.unembed(model.ln_final(streams[None]))[0]


distances = {"logit lens": [], "own alphabet": [], "shuffled": []}
for x, test in zip(fit_on, test_on, strict=True):
    own, by_chance = (Ridge(alpha=1.0).fit(x, y).predict(test) for y in (fit_on[-1], shuffled))
    for name, streams in zip(distances, (test, own, by_chance), strict=True):
        distances[name].append(mi.metrics.kl(read(streams), read(test_on[-1])).mean().item())

# %%
mi.figures.lines(
    distances,
    title="An early layer knows more than the logit lens shows",
    x=[*range(n_layers), "end"],
    xlabel="before layer",
    ylabel="KL from the final prediction (nats)",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Look at the gap between the first two curves in the early layers. A lens that is *further* from
# the final prediction than the shuffled control is worse than knowing nothing but how common words
# are. The claim: the gap, averaged over the layers before the end, against the gain of the shuffled
# map.

# %%
lens_kl, own_kl, shuffled_kl = (torch.tensor(values[:-1]) for values in distances.values())
claim("lens.blindness", (lens_kl - own_kl).mean(), control=(shuffled_kl - own_kl).mean().neg())

# %% [markdown]
# So: what the logit lens *shows* is there; what it does not show may be there too. The published
# *tuned lens* trains its maps on the divergence itself [@belrose2023tuned]; least squares is enough
# to make the point.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 3: the rank of the answer
# Given the lens's logits at every layer, return the rank of one token at each: 0 for the top.

# %% [markdown] tags=["hint"]
# A rank is a count: how many logits are larger?


# %% tags=["exercise"]
def answer_rank(logits, token):
    """logits: [layer d_vocab], token: an id  ->  [layer], whole numbers from 0."""
    raise NotImplementedError


# %% tags=["solution"]
def answer_rank(logits, token):
    return (logits > logits[:, [token]]).sum(-1)


# %% tags=["check"]
check.answer_rank(answer_rank)

# %% [markdown]
# ## 7. Direct logit attribution: each component's share of the answer
#
# The logit *difference* of the two names is the dot product of the normalised final stream with one
# direction, `W_U[right] − W_U[wrong]` (plus the difference of two biases). The stream is a sum;
# given its scale, LayerNorm is linear; so the difference is a sum too. The scale is taken from this
# very run and **frozen**: every part is centred and divided by the *same* number. By hand:

# %%
right, wrong = right_wrong
direction = model.W_U[:, right] - model.W_U[:, wrong]
scale = cache["ln_final.hook_scale"][0, -1]
shares = {name: ((part - part.mean()) / scale @ direction).item() for name, part in parts.items()}
bias = (model.b_U[right] - model.b_U[wrong]).item()
logit_diff = (logits[0, -1, right] - logits[0, -1, wrong]).item()
sum(shares.values()) + bias, logit_diff

# %% [markdown]
# The usual mistake is to send each part through LayerNorm on its own. Then every part is blown up
# to the same length, and the shares sum to nothing in particular. That is the control.

# %%
own_scale = sum((normalise(part) @ direction).item() for part in parts.values())
error = abs(sum(shares.values()) + bias - logit_diff)
claim("attribution.sum_error", error, control=abs(own_scale + bias - logit_diff))

# %% [markdown]
# `mi.lens.logit_attribution` does it for a batch, and never builds the heads' output vectors.

# %%
attribution = mi.lens.logit_attribution(model, tokens, answers)
for name, share in zip(exact.labels, attribution.stacked()[0], strict=False):
    assert abs(share - shares[name]) < 1e-3

# %% [markdown]
# The claim is the total itself, and its control is the twin prompt in which the *other* person
# gives: the same words, the same direction, and the model should prefer the other name.

# %%
twin = mi.lens.logit_attribution(model, pairs.corrupt_tokens, answers)
claim("attribution.logit_diff", attribution.total()[0], control=twin.total()[0])

# %% [markdown]
# Now who. Blue pushes towards the right name, red towards the wrong one. Look for depth (are early
# layers in it at all?), for concentration (a few heads or many?), and for red: heads that work
# against the answer.

# %%
blocks = [attribution.heads[0], attribution.attn_bias[0, :, None], attribution.mlps[0, :, None]]
mi.figures.heatmap(
    torch.cat(blocks, dim=1),
    x=columns,
    y=layers,
    xlabel="component",
    ylabel="layer",
    title=f"Who writes{pairs.answers[0]} rather than{pairs.wrong[0]}",
    colorbar="share of the logit difference",
    subtitle=mi.model_id(model),
)

# %%
heads = attribution.heads[0].flatten()
best = int(heads.argmax())
print(f"The head with the largest share: L{best // n_heads}H{best % n_heads}")
claim("attribution.best_head", heads[best], control=heads.abs().median())

# %% [markdown]
# The same shares, added up from the bottom. This is nearly the logit lens of the difference; the
# lens divides each half-layer by its *own* scale, the sum below by the final one.

# %%
mi.figures.lines(
    {"running total": attribution.cumulative()[0]},
    title="Where the difference is written",
    x=lens.labels,
    xlabel="half-layer",
    ylabel="logit difference so far",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# What a share does *not* mean, once more: it is not what would happen without the component. Recall
# the toy head, whose share was zero and on which everything hung. Shares count what is *written*;
# what *causes* what is found by intervening, from notebook 04 on.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: attribute
# One position, one direction of the unembedding: return each part's share. LayerNorm's `eps` is
# 1e-5.

# %% [markdown] tags=["hint"]
# The one scale is that of the sum of all parts. LayerNorm divides by the number of coordinates, not
# by one less: `var(unbiased=False)`.


# %% tags=["exercise"]
def attribute_parts(parts, direction):
    """parts: [part d_model], their sum is the stream; direction: [d_model]  ->  [part]."""
    raise NotImplementedError


# %% tags=["solution"]
def attribute_parts(parts, direction):
    scale = (parts.sum(0).var(unbiased=False) + 1e-5).sqrt()
    return (parts - parts.mean(-1, keepdim=True)) / scale @ direction


# %% tags=["check"]
check.attribute_parts(attribute_parts)

# %% [markdown]
# ## 8. Virtual weights: who can hear whom?
#
# The stream is a shared channel. A component that writes in layer 0 can be read in any later layer,
# as if a wire ran from one to the other: what the first writes is multiplied by its output matrix,
# what the second reads by its input matrix, and the product of the two is the wire's **virtual
# weight** [@elhage2021framework]. In the toy it was one dot product. Here is the wire from the
# first MLP to the last one. Nothing is run; these are weights alone.

# %%
wire = model.W_out[0] @ model.W_in[-1]  # [neuron that writes, neuron that reads]
ratio = wire.norm() / (model.W_out[0].norm() * model.W_in[-1].norm())
by_chance = d_model**-0.5
tuple(wire.shape), ratio.item(), by_chance

# %% [markdown]
# The length of the product alone says nothing: large matrices have large products. Divide by both
# lengths. What would the ratio be if the two had nothing to do with each other? Turn the stream by
# a random rotation between writing and reading: both matrices stay as they are, and only how they
# lie to each other is lost. The squared ratio then averages to exactly `1 / d_model`. So the
# baseline is `1 / sqrt(d_model)`, and one rotation shows how far chance strays from it.

# %%
virtual = mi.lens.virtual_weights(model, "mlp", "mlp")
assert torch.isclose(virtual.ratio[0, -1], ratio, rtol=1e-3)
rotation = mi.lens.random_rotation(d_model)
turned = mi.lens.virtual_weights(model, "mlp", "mlp", rotation=rotation)

# %% [markdown]
# White is chance, ∅ a reader that comes too early. Blue: the reader listens to this writer. Red: it
# avoids it. Look along the diagonal (neighbours) and along the last column.

# %%
times_chance = virtual.ratio / by_chance
cells = [["" if x != x else f"{x:.2f}" for x in row] for row in times_chance.tolist()]  # no NaN
mi.figures.heatmap(
    times_chance.nan_to_num(1.0),
    title="Which MLP is wired to which",
    x=virtual.readers,
    y=virtual.writers,
    xlabel="reads",
    ylabel="writes",
    colorbar="times chance",
    center=1,
    text=cells,
    subtitle=mi.model_id(model),
)

# %%
strongest, strongest_turned = (v.reachable().max() / by_chance for v in (virtual, turned))
claim("virtual.mlp_to_mlp", strongest, control=strongest_turned)

# %% [markdown]
# The same question for other kinds of writer and reader ("k" is what a head's keys read, "v" its
# values). For each kind, the strongest wire, beside the strongest after the rotation. Wires between
# single heads are the subject of notebook 02.

# %%
kinds = "embed→k embed→mlp head→k head→mlp mlp→v mlp→mlp mlp→unembed".split()
wires = {"as trained": [], "stream rotated": []}
for kind in kinds:
    for name, turn in zip(wires, (None, rotation), strict=True):
        found = mi.lens.virtual_weights(model, *kind.split("→"), rotation=turn)
        wires[name].append(found.reachable().max().item() / by_chance)
mi.figures.bars(
    wires,
    kinds,
    title="The strongest wire of each kind",
    ylabel="times chance",
    subtitle=mi.model_id(model),
)

# %%
key = kinds.index("head→k")
claim("virtual.head_to_key", wires["as trained"][key], control=wires["stream rotated"][key])

# %% [markdown]
# Read it with care. The baseline assumes that both matrices use all directions of the stream alike.
# In a trained model everything may share a few large directions, and then everything seems wired to
# everything. A ratio above chance says that two components *could* talk, not that they do.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 5: one wire
# Return the ratio for any two matrices.

# %% [markdown] tags=["hint"]
# `torch.linalg.matrix_norm` is the Frobenius norm unless told otherwise.


# %% tags=["exercise"]
def virtual_ratio(write, read):
    """write: [neuron d_model], read: [d_model neuron]  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def virtual_ratio(write, read):
    return (write @ read).norm() / (write.norm() * read.norm())


# %% tags=["check"]
check.virtual_ratio(virtual_ratio)

# %% [markdown]
# ## 9. Word arithmetic in the embedding, told honestly
#
# The stream starts with the token's embedding. "King − man + woman = queen" is the most famous
# claim about such vectors [@mikolov2013regularities]. Two things are seldom told. The published
# method *leaves out* the three words of the question from the possible answers. And the answer is
# often near the third word to begin with. So here are three families of pairs; words that are not
# single tokens in this model are dropped.

# %%
families = {
    "capital": "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Egypt Cairo, "
    "Greece Athens, Austria Vienna, Ireland Dublin, Poland Warsaw, Norway Oslo, Russia Moscow",
    "plural": "dog dogs, cat cats, book books, car cars, boy boys, girl girls, tree trees, "
    "door doors, house houses, key keys, table tables, friend friends, king kings, bird birds",
    "gender": "man woman, king queen, boy girl, brother sister, he she, him her, father mother",
}


def token_ids(word):
    """The tokens of a word after a space."""
    return model.to_tokens(f" {word}", prepend_bos=False)[0].tolist()


def token_pairs(text):
    """Pairs of token ids, for the pairs of words that are single tokens."""
    pairs = [[token_ids(word) for word in pair.split()] for pair in text.split(", ")]
    return [(a[0], b[0]) for a, b in pairs if len(a) == len(b) == 1]


words = {name: found for name, text in families.items() if len(found := token_pairs(text)) > 1}

# %% [markdown]
# One question first: what is to the second singular as the first plural is to the first singular?
# The table shows the tokens nearest to the computed vector.

# %%
(one, many), (other_one, _) = words["plural"][:2]
query = model.W_E[many] - model.W_E[one] + model.W_E[other_one]
cosines = torch.cosine_similarity(model.W_E, query, dim=-1)
nearest = mi.lens.nearest_tokens(model, query)
assert nearest[0][0] == model.tokenizer.decode([cosines.argmax()])
mi.figures.table([{"token": token, "cosine": cosine} for token, cosine in nearest])

# %% [markdown]
# Is the first row a word of the question? And where is the answer? One example proves nothing, so
# ask every question a family has: "*a* is to *b* as *c* is to …?", for all pairs of pairs.


# %%
def questions(pairs):
    """All questions of a family as token ids, [question 4]: a is to b as c is to d."""
    return torch.tensor([p + q for p in pairs for q in pairs if p != q]).to(model.W_E.device)


def nearest_token(asked, offset=1.0, leave_out=True):
    """The token nearest to offset · (b − a) + c, by cosine, for each question; [question]."""
    a, b, c = (model.W_E[column] for column in asked[:, :3].T)
    cosine = (offset * (b - a) + c) @ torch.nn.functional.normalize(model.W_E, dim=-1).T
    if leave_out:
        cosine.scatter_(1, asked[:, :3], -torch.inf)
    return cosine.argmax(-1)


# %% [markdown]
# First: how often is the nearest token a word of the question itself? The control counts the words
# of some other question.

# %%
asked = torch.cat([questions(members) for members in words.values()])
nearest = nearest_token(asked, leave_out=False)[:, None]
other_question = asked.roll(len(asked) // 2, dims=0)
inputs, not_inputs = (
    (nearest == of[:, :3]).any(1).float().mean() for of in (asked, other_question)
)
claim("words.inputs_win", inputs, control=not_inputs)

# %% [markdown]
# So the published method has to leave them out. Now the share of questions answered right, as
# published, beside two controls: with the words of the question allowed, and with no *offset*,
# which answers with the nearest neighbour of *c*. Compare the columns in each row. Where *no
# offset* comes close to *as published*, the arithmetic did no work: the answer was the neighbour
# anyway.

# %%
ways = {"as published": {}, "words allowed": {"leave_out": False}, "no offset": {"offset": 0.0}}
results = []
for family, members in words.items():
    asked = questions(members)
    row = {"family": family, "questions": len(asked)}
    for way, how in ways.items():
        row[way] = (nearest_token(asked, **how) == asked[:, 3]).float().mean().item()
    results.append(row)
mi.figures.table(results)

# %%
means = {way: sum(row[way] for row in results) / len(results) for way in ways}
claim("words.left_out", means["as published"], control=means["words allowed"])

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 6: the analogy, done right
# Return the id of the token nearest to `b − a + c` by cosine, with the three words left out.

# %% [markdown] tags=["hint"]
# `torch.cosine_similarity(W_E, query, dim=-1)`, then set three entries to minus infinity.


# %% tags=["exercise"]
def analogy(W_E, a, b, c):
    """W_E: [d_vocab d_model]; a, b, c: token ids  ->  one token id, a Python int."""
    raise NotImplementedError


# %% tags=["solution"]
def analogy(W_E, a, b, c):
    cosine = torch.cosine_similarity(W_E, W_E[b] - W_E[a] + W_E[c], dim=-1)
    cosine[[a, b, c]] = -torch.inf
    return int(cosine.argmax())


# %% tags=["check"]
check.analogy(analogy)

# %% [markdown]
# ## 10. Position embeddings
#
# The other thing written before layer 0. GPT-2 learns one free vector for each position; nothing
# tells it that position 5 lies between 4 and 6. What did it learn? Principal components: the
# directions in which these vectors differ most, and each position's coordinate along them. Look for
# smooth, wave-like curves, and for the first positions, which are often exceptions.

# %%
W_pos = model.W_pos
U, S, _ = torch.linalg.svd(W_pos - W_pos.mean(0), full_matrices=False)
mi.figures.lines(
    {f"component {i + 1}": U[:, i] * S[i] for i in range(4)},
    title="Positions lie on a smooth curve",
    x=list(range(len(W_pos))),
    xlabel="position",
    ylabel="coordinate",
    subtitle=mi.model_id(model),
)

# %% [markdown]
# Two numbers. How few directions hold the variance, against the untrained model's positions; and
# how alike neighbours are, against positions in shuffled order.


# %%
def share_of_first(vectors, k=10):
    """Share of the variance in the first k principal components."""
    singular = torch.linalg.svdvals(vectors - vectors.mean(0))
    return (singular[:k].square().sum() / singular.square().sum()).item()


claim("position.few_directions", share_of_first(W_pos), control=share_of_first(random_model.W_pos))

# %%
centred = W_pos - W_pos.mean(0)
shuffled = centred[torch.randperm(len(centred), generator=torch.Generator().manual_seed(0))]
alike, not_alike = (
    torch.cosine_similarity(x[:-1], x[1:], dim=-1).mean() for x in (centred, shuffled)
)
claim("position.smooth", alike, control=not_alike)

# %% [markdown]
# ## Explore
#
# Your own prompt through the lens. Try a fact, a sequence, a sentence whose last word is obvious
# early and one whose last word is not.


# %%
def explore_lens(prompt, half_layers):
    """The logit lens of a prompt, as a figure."""
    ids = model.to_tokens(prompt)
    view = mi.lens.logit_lens(
        model, ids, positions=None, incl_mid=half_layers, top_k=1, return_type="probs"
    )
    labels = {"x": model.to_str_tokens(ids[0]), "y": view.labels, "xlabel": "token read"}
    title = f"What the model would say next, at each layer of {mi.model_id(model)}"
    return mi.figures.token_table(guesses(view), view.values[:, 0, :, 0], title=title, **labels)


mi.figures.explore(explore_lens, prompt="The capital of France is", half_layers=False)

# %% [markdown]
# ## Summary
#
# - The final stream is an exact sum of embedding, position, heads, biases and MLPs; every layer
#   adds.
# - The stream grows, turns gradually, and keeps early contributions readable: it is a channel, and
#   any two components share virtual weights through it.
# - LayerNorm forgets length and mean. Given its scale it is linear, so it can be folded:
#   predictions stay, single logits and weights change.
# - The logit lens shows what an early stream would predict. What it shows is there; what it does
#   not show may be there too, in another alphabet.
# - Direct logit attribution shares out a logit exactly. A share says what was written, not what
#   would happen without it.
# - Word arithmetic needs two controls: allow the words of the question, and leave out the offset.
#
# **Where to read on.** The sections "Transformer Overview" and "Virtual Weights and the Residual
# Stream as a Communication Channel" of [@elhage2021framework]; the first post on the lens
# [@nostalgebraist2020lens] and its repair [@belrose2023tuned], sections 1 to 3;
# [@mikolov2013regularities] for the analogies; [@mcgrath2023hydra] for why shares and effects
# differ. **Next:** notebook 02 opens an attention head.

# %%
claim.table()
