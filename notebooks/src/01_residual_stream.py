# ---
# title: The residual stream
# minutes: 60
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
# - say what LayerNorm does to all this, and what "folding" it changes (appendix A);
# - compute the wire between two components from weights alone, and its random baseline;
# - test the famous king − man + woman without fooling yourself (appendix B).

# %% [markdown] short=true
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

# %% short=true
neuron_reads, neuron_writes = torch.tensor([0.0, 1, 1]), torch.tensor([-1.0, 1, 0])


def toy_writes(head_strength):
    """What each part of the toy writes to the stream of the last position, in order."""
    writes = {"embedding": torch.tensor([0.0, 0, 1]), "position": torch.tensor([1.0, 0, 0])}
    writes["head"] = head_strength * torch.tensor([0.0, 1, 0])
    stream = sum(writes.values())
    writes["MLP"] = torch.relu(stream @ neuron_reads - 1) * neuron_writes
    return writes


toy = toy_writes(head_strength=2)

# %% [markdown] short=true
# Two words can follow, "mat" and "dog". Each has a direction, and its logit is the dot product of
# the final stream with that direction. The dot product of a sum is the sum of the dot products. So
# each part has a *share* of each logit, and the shares add up. In the table, look at the last
# column, and at the head. The last row is the sum of another run, in which the head writes nothing.

# %% short=true
directions = {"mat": torch.tensor([0.0, 1, 1]), "dog": torch.tensor([1.0, 1, 0])}
directions["mat − dog"] = directions["mat"] - directions["dog"]
sums = {"sum": sum(toy.values()), "sum without the head": sum(toy_writes(0).values())}
rows = []
for name, write in (toy | sums).items():
    shares = {word: (write @ direction).item() for word, direction in directions.items()}
    rows.append({"part": name, "wrote": str(write.int().tolist()), **shares})
mi.figures.table(rows)

# %% [markdown] short=true
# "mat" wins by two, and the MLP alone seems to be the reason: the head pushes both words by the
# same amount, so its share of the difference is zero. But without the head the MLP falls silent,
# and the two words tie. The head's *direct* share is zero, and the answer depends on it entirely:
# it works **through** the MLP. The neuron reads along (0, 1, 1), the head writes along (0, 1, 0),
# and the dot product of the two is the weight of a connection that no one drew: a **virtual
# weight** [@elhage2021framework].
#
# The whole notebook is in this toy: a sum, shares of a logit, a warning about shares, and virtual
# weights. Now for a real model.
#
# ## 2. The shapes of everything
#
# The prompt is a classic: the model should continue with the name of the one who did *not* give
# [@wang2022ioi]. Notebook 04 studies this task; here it is only an example. `cache` holds every
# intermediate result. Below are places of the first block, in the order of the computation, with
# their shapes. Find the residual stream: it is what has the shape `[batch, position, d_model]` and
# *resid* in its name. (`resid_mid` lies between attention and MLP. Models in which the two run side
# by side, such as Pythia, have none; models with rotary positions have no `hook_pos_embed`.)

# %% short=true
pairs = mi.prompts.ioi_literature(model).select([0])
tokens, answers = pairs.clean_tokens, pairs.answer_tokens
print(pairs.clean[0], "→ right:", repr(pairs.answers[0]), "· wrong:", repr(pairs.wrong[0]))
n_layers, n_heads, d_model = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model
logits, cache = model.run_with_cache(tokens)
steps = "hook_resid_pre attn.hook_q attn.hook_k attn.hook_v attn.hook_pattern attn.hook_z"
steps += " hook_attn_out hook_resid_mid mlp.hook_post hook_mlp_out hook_resid_post"
hooks = ["hook_embed", "hook_pos_embed", *(f"blocks.0.{step}" for step in steps.split())]
shapes = [{"hook": hook, "shape": str(tuple(cache[hook].shape))} for hook in hooks if hook in cache]
mi.figures.table(shapes, title=f"{n_layers} layers of {n_heads} heads, d_model {d_model}")

# %% [markdown] short=true
# ## 3. The final stream is a sum
#
# Every layer obeys one line: *stream after = stream before + what attention wrote + what the MLP
# wrote*. Put all those lines under each other, and the stream before the unembedding is a plain
# sum: token embedding, position embedding (if any), and what each head and each MLP of each layer
# wrote. A head's contribution is its `z` (the attention-weighted mean of its values) times its own
# slice of `W_O`; the bias `b_O`, where there is one, belongs to the layer. Here is that sum at the
# last position, term by term. It is an identity, so we assert it instead of calling it a finding.

# %% short=true
from mi_helpers.models.parts import bias  # zeros where a model has none

final = cache["resid_post", n_layers - 1][0, -1]
starts = {"embed": "hook_embed", "pos": "hook_pos_embed"}
parts = {name: cache[hook][0, -1] for name, hook in starts.items() if hook in cache}
W_O = model.W_O  # [layer head d_head d_model]
for layer in range(n_layers):
    for head in range(n_heads):
        parts[f"L{layer}H{head}"] = cache["z", layer][0, -1, head] @ W_O[layer, head]
    parts[f"L{layer} attn bias"] = bias(model, layer, "b_O")
    parts[f"L{layer} MLP"] = cache["mlp_out", layer][0, -1]
rounding = 1e-4 * final.abs().max()
assert (sum(parts.values()) - final).abs().max() < rounding
without_one = {name: part for name, part in parts.items() if name != f"L{n_layers - 1} MLP"}
assert (sum(without_one.values()) - final).abs().max() > 10 * rounding

# %% [markdown] short=true
# From here on `mi.lens.decompose` does the same, at any positions. It reads `z` and `W_O`, and
# caches little else.
#
# Who writes much? The colour is the length of the vector that each component writes at the last
# position. Look at the MLPs against single heads, and at how it changes with depth. Length is not
# importance, though: a long vector may point where nobody reads, and two long vectors may cancel.

# %% short=true
exact = mi.lens.decompose(model, tokens)
for name, part in zip(exact.labels, exact.parts[:, 0, 0], strict=True):
    assert (part - parts.get(name, 0)).abs().max() < rounding  # no "pos" in rotary models
columns = [f"H{head}" for head in range(n_heads)] + ["bias", "MLP"]
layers = [f"L{layer}" for layer in range(n_layers)]
figures.heatmap(
    exact.parts[2:, 0, 0].norm(dim=-1).reshape(n_layers, n_heads + 2),
    title="How much each component writes at the last position",
    x=columns,
    y=layers,
    colorbar="length",
    center=None,
    xlabel="component",
    ylabel="layer",
)

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
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
# Each layer adds. Does the stream grow? One prompt would not be much, so here are the beginnings of
# many documents of `pocket`'s world, run through the model and, as the control, through an
# untrained model of the same shape. Look at the slope of the curves, and at the token for the
# beginning of the sequence (BOS).

# %%
from mi_data.pocket import generator

random_model = mi.untrained(model)
n_documents = mi.models.by_size(model, 240, 80)
documents = [generator.document(seed, split="test").text for seed in range(n_documents)]
starts = [model.to_tokens(text)[0, :20] for text in documents]
texts = torch.stack([start for start in starts if len(start) == 20])
hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
hooks.append(f"blocks.{n_layers - 1}.hook_resid_post")


def streams_of(some_model):
    """The stream before each layer and at the end, [layer document position d_model]."""
    seen = some_model.run_with_cache(texts, names_filter=hooks, logits_to_keep=1)[1]
    return torch.stack([seen[hook] for hook in hooks])


by_layer, random_by_layer = streams_of(model), streams_of(random_model)

# %%
trained, random = (x.norm(dim=-1) for x in (by_layer, random_by_layer))


def late_share(lengths):
    """Which share of the growth, in logarithms, falls into the last third of the layers."""
    by_layer = lengths[:, :, 1:].log().mean((1, 2))  # without BOS
    return (by_layer[-1] - by_layer[2 * n_layers // 3]) / (by_layer[-1] - by_layer[0])


claim("residual.growth", late_share(trained), control=late_share(random))
# %%
bos, random_bos = (x[-2, :, 0].mean() / x[-2, :, 1:].mean() for x in (trained, random))
claim("residual.bos", bos, control=random_bos)
lengths = {"BOS": trained[:, :, 0], "other tokens": trained[:, :, 1:]}
lengths |= {"untrained: BOS": random[:, :, 0], "untrained: others": random[:, :, 1:]}
figures.lines(
    {name: x.flatten(1).mean(1).clamp(min=1e-3).log10() for name, x in lengths.items()},
    title="The stream's length, before each layer and at the end",
    x=[*layers, "end"],
    xlabel="before layer",
    ylabel="log10 of the length, mean over tokens",
)

# %% [markdown]
# The stream grows, and so does that of the control: a sum of vectors that have nothing to do with
# each other is longer than its first term. What needs training is *where* it grows. In many larger
# models the length was found to grow by much the same factor in every layer
# [@heimersheim2023norms]; `pocket` hardly grows in the middle. The first claim is the share of the
# growth, in logarithms, that falls into the last third of the layers.
#
# The length of BOS, before the last layer, is another matter: that is learned (second claim). BOS
# sees nothing but itself, so its stream is the same in every text. In many models attention rests
# on the first token, an *attention sink* [@xiao2023sinks]; notebook 02 measures it. So look at BOS
# apart from the rest.
#
# Now the direction. Each cell is the cosine between a token's streams before two layers, averaged
# over the documents' tokens but BOS: 1 means the same direction. Look for a band along the
# diagonal, and for places where it is cut.


# %%
def cosines(streams):
    """Mean cosine between the streams before two layers, BOS left out, [layer layer]."""
    unit = torch.nn.functional.normalize(streams[:, :, 1:], dim=-1)
    return torch.einsum("adpe,bdpe->ab", unit, unit) / unit[0, :, :, 0].numel()


# %%
cosine, random_cosine = cosines(by_layer), cosines(random_by_layer)
claim("residual.persistence", cosine[0, -1], control=random_cosine[0, -1])
figures.heatmap(
    cosine,
    title="How much of the stream's direction stays, from layer to layer",
    x=[*layers, "end"],
    y=[*layers, "end"],
    xlabel="before layer",
    ylabel="before layer",
    colorbar="cosine",
    limit=1,
)

# %% [markdown]
# The claim is the last cell of the first row: what the end has kept of the embedding's direction,
# against the untrained model. On `pocket` the band is cut after the first layer and in the last.
# What a component wrote stays a term of the sum, and can be read later, unless another component
# writes against it. A small cosine says that much else has come in; whether that cancels what was
# there, it does not say.
#
# ## 5. LayerNorm
#
# Nothing reads the stream as it is. Before every attention, every MLP and the unembedding stands a
# **LayerNorm**: subtract the mean of the coordinates, divide by their standard deviation (that
# divisor is the *scale*), multiply by a learned gain, add a learned shift. (Llama and its kin have
# **RMSNorm**: no mean is subtracted, no shift added.) By hand, with four coordinates:

# %%
eps = 1e-5


def normalise(x):
    """LayerNorm without gain and shift; x ends in d_model."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


stream = torch.tensor([4.0, 0, 4, 0])
normalise(stream).round(), normalise(10 * stream).round(), normalise(stream + 7).round()

# %% [markdown]
# Three times the same. LayerNorm forgets two things about the stream: its length, and its mean
# coordinate; RMSNorm forgets the length alone. So a stream ten times as long makes the same
# prediction. On the real model, against noise as long as the stream itself:

# %%
centres = "RMS" not in (model.cfg.normalization_type or "LN")


def prediction(streams):
    """Log-probabilities from final streams, [token d_model] -> [token d_vocab]."""
    streams = torch.as_tensor(streams).to(final)
    return model.unembed(model.ln_final(streams[None]))[0].log_softmax(-1)


noise = torch.randn(final.shape, generator=torch.Generator().manual_seed(0)).to(final)
louder, noisy = 10 * final + 7 * centres, final + noise * final.norm() / noise.norm()
normal, same, other = prediction(torch.stack([final, louder, noisy]))
assert (same - normal).abs().max() < 0.05 < (other - normal).abs().max()
(same - normal).abs().max().item(), (other - normal).abs().max().item()

# %% [markdown]
# It matters for the notebook's whole idea. Reading is **not** linear in the stream, but only
# because of the scale: given the scale, LayerNorm is linear. Section 7 uses this. Its gain and
# shift are linear as well, so `mi.load_model` moves them into whatever reads the result, which
# changes no prediction (appendix A).
#
# ## 6. The logit lens: what would the model say if it stopped here?
#
# The stream has the same shape at every layer. So nothing stops us from handing an *early* stream
# to the final LayerNorm and the unembedding. This is the **logit lens** [@nostalgebraist2020lens].
# `mi.lens.logit_lens` (it is TransformerLens's own) does it for every layer and position, in
# chunks, so that logits for all of them never exist at once.
#
# Read the figure upwards in one column: the best guess at that position before each layer and at
# the end, darker when more probable. Ask three things. What is in the lowest row? From which row on
# is the final guess there? Do positions differ in that?

# %%
lens = mi.lens.logit_lens(model, tokens, positions=None, top_k=1, return_type="probs")
for layer in range(n_layers):
    by_hand = prediction(cache["resid_pre", layer][0, -1:])
    assert lens.readout.top_ids[layer, 0, -1, 0] == by_hand.argmax()


def guesses(view):
    """The best guess as a string, [layer][position], of a lens run with top_k=1."""
    return [[model.tokenizer.decode(token) for token in row] for row in view.readout.top_ids[:, 0]]


look = {"y": [*layers, "end"], "ylabel": "before layer", "xlabel": "token read", "limit": 1}
title, x = "The logit lens: the best guess before every layer", pairs.str_tokens[0]
figures.token_table(guesses(lens), lens.values[:, 0, :, 0], title=title, x=x, **look)

# %% [markdown]
# The lowest row holds a trap. Where embedding and unembedding are tied, a stream that holds nothing
# but a word reads out as that word: an **echo** of the input, and no prediction. It needs no
# training at all. On `pocket` it fades slowly; on SmolLM2 it is nearly gone halfway up. The claim,
# on the documents: the share of positions whose best guess is the very token that stands there,
# halfway up. The control: the share whose best guess is what the model says in the end.

# %%
few = texts[: mi.models.by_size(model, 60, 15)]
view = mi.lens.logit_lens(model, few, positions=None, top_k=1)
said = view.readout.top_ids[..., 0][:, :, 1:]  # [layer document position]
echo, in_the_end = ((said == x).float().mean((1, 2)) for x in (few[:, 1:], said[-1]))
claim("lens.echo", echo[n_layers // 2], control=in_the_end[n_layers // 2])

# %% [markdown]
# The **rank** of an answer (0 is the top) tells more than the best guess. Does the model first find
# *that* a name comes, and then *which*? Then all names would rise together, and part later. So
# follow, over many prompts, the right name, the wrong one (the giver's), and the names of
# bystanders, who are not in the prompt at all. On `pocket` the right name and the bystanders' rise
# together at first, while the giver's is pushed down; then the right one leaves them all behind.
# The mean is geometric, as ranks differ by orders of magnitude.
#
# The claim stands just before the last layer (at the very end a right answer is on top by
# definition): the rank of the right name, with the wrong name as the control.

# %%
many = mi.prompts.ioi(model, 64)
at_end = torch.arange(len(many.clean_tokens)), many.positions["end"]
seen = model.run_with_cache(many.clean_tokens, names_filter=hooks)[1]
everyone = many.answer_tokens.unique()
bystander = (everyone != many.answer_tokens[..., None]).all(1)  # [prompt name]
asked_for = torch.cat([many.answer_tokens, everyone.expand(len(bystander), -1)], dim=1)
by_name = []  # [layer + 1][right, wrong, bystanders]
for hook in hooks:
    early = prediction(seen[hook][at_end])
    ranks = (early[:, None] > early.gather(1, asked_for)[..., None]).sum(-1).add(1).log()
    by_name.append(torch.stack([*ranks[:, :2].mean(0), ranks[:, 2:][bystander].mean()]).exp())
right_rank, wrong_rank, other_rank = torch.stack(by_name).T
claim("lens.answer_rank", right_rank[-2], control=wrong_rank[-2])
# %%
look = {"x": [*layers, "end"], "xlabel": "before layer", "ylabel": "log10 of 1 + rank"}
names = {"right name": right_rank, "wrong name": wrong_rank, "bystanders": other_rank}
names = {name: rank.log10() for name, rank in names.items()}
figures.lines(names, title="The rank of the names, by layer (0 is the top)", **look)

# %% [markdown]
# ### Where the logit lens fails
#
# The lens reads an early stream with the *last* layer's alphabet. Nothing in training asked early
# layers to write in it. If later layers turn or shift the stream in a way common to all inputs, the
# lens shows nonsense although the information is there [@belrose2023tuned]. The published *tuned
# lens* therefore gives each layer an affine map of its own, trained to predict what the model will
# say in the end. Here is its cheap cousin: a map fitted by least squares from that layer's stream
# to the final one. Two thirds of the documents fit the map, the others test it.
#
# The distance of a prediction from the model's final one is the Kullback–Leibler divergence, in
# nats: 0 when they agree. Two lines show what can be had without the text: to hold all words
# equally likely, and **word frequencies**, the mean of what the model says in the end. And a map
# from an *untrained* model's stream at the same layer knows the words of the text, but nothing that
# a layer has learned.

# %%
from sklearn.linear_model import Ridge

cut = 2 * len(texts) // 3
(fit_on, test_on), (random_fit, random_test) = (
    [part.flatten(1, 2).cpu() for part in (x[:, :cut, 1:], x[:, cut:, 1:])]
    for x in (by_layer, random_by_layer)
)
some = slice(None, None, mi.models.by_size(model, 4, 8))
end = prediction(test_on[-1, some])
frequencies = prediction(fit_on[-1, some]).exp().mean(0).log()


def kl(log_probs):
    """Mean distance of log-probabilities from the model's own, over some of the test tokens."""
    return mi.metrics.kl(log_probs.expand_as(end), end).mean().item()


def mapped(x, test):
    """Distance of a map's prediction; it is fitted from streams x to the final ones."""
    return kl(prediction(Ridge(alpha=1.0).fit(x, fit_on[-1]).predict(test[some])))


# %%
at = [*range(0, n_layers, mi.models.by_size(model, 1, 3)), n_layers]  # some layers of a large model
streams = [part[at] for part in (fit_on, test_on, random_fit, random_test)]
distances = {
    "logit lens": [kl(prediction(test[some])) for test in streams[1]],
    "own map": [mapped(*pair) for pair in zip(*streams[:2], strict=True)],
    "untrained": [mapped(*pair) for pair in zip(*streams[2:], strict=True)],
}
distances["word frequencies"] = [kl(frequencies)] * len(at)
distances["all words alike"] = [kl(torch.zeros_like(frequencies).log_softmax(-1))] * len(at)
# %%
figures.lines(
    distances,
    title="How far each reading is from the final prediction",
    x=[[*layers, "end"][layer] for layer in at],
    xlabel="before layer",
    ylabel="KL from the final prediction (nats)",
)

# %% [markdown]
# Look first at where the lens lies *above* the line of word frequencies. There it is worse than
# knowing nothing of the text; where it lies above the line of all words alike, worse than a blind
# guess. The first claim is the *closest* that the lens comes in the first half of the layers; its
# control is the distance of word frequencies.
#
# It is tempting to go on: "so the layer *knew* the answer, and the lens was blind". Look at the
# leftmost point of the layer's own map, against word frequencies. Before layer 0 no layer has
# computed anything, and yet on `pocket` the map is nearer: from the trained embeddings it has
# learned which words follow which. (From untrained ones it learns hardly any of it.) There the
# *map* does the work, and no layer. (A wider stream needs more tokens than we fit on here: a map
# with hundreds of coordinates learns these by heart, and does worse on others.) What a map finds is
# what it can compute **from** the stream, not what the model had computed by then (notebook 16 goes
# into this).
#
# So compare deeper layers with that point: how much of the map's distance at layer 0 is left, on
# average, to maps of deeper streams. This is the second claim. The control is the same in the
# untrained model, whose layers bring a map no nearer than its own embedding does.
#
# So: what the logit lens shows can be read from the stream by the unembedding; what it does not
# show may be there all the same; and what a fitted map shows may be the map's own work.

# %%
lens_kl, own_kl, random_kl, frequency_kl, _ = (torch.tensor(x[:-1]) for x in distances.values())
claim("lens.blindness", lens_kl[: len(lens_kl) // 2].min(), control=frequency_kl[0])
left, random_left = (x[1:].mean() / x[0] for x in (own_kl, random_kl))
claim("lens.deeper", left, control=random_left)

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 2: the rank of the answer
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

# %% [markdown] short=true
# ## 7. Direct logit attribution: each component's share of the answer
#
# The logit *difference* of the two names is the dot product of the normalised final stream with one
# direction, `W_U[right] − W_U[wrong]` (plus the difference of two biases). The stream is a sum;
# given its scale, LayerNorm is linear; so the difference is a sum too. The scale is taken from this
# very run and **frozen**: every part is centred (under LayerNorm) and divided by the *same* number.
#
# The usual mistake is to send each part through LayerNorm on its own. Then every part is blown up
# to the same length, and the shares sum to nothing in particular: compare the three numbers.

# %% short=true
right, wrong = answers[0].tolist()
direction = model.W_U[:, right] - model.W_U[:, wrong]
scale = cache["ln_final.hook_scale"][0, -1]
centred = {name: part - part.mean() * centres for name, part in parts.items()}
shares = {name: (part / scale @ direction).item() for name, part in centred.items()}
total = sum(shares.values()) + (model.b_U[right] - model.b_U[wrong]).item()
logit_diff = (logits[0, -1, right] - logits[0, -1, wrong]).item()
assert abs(total - logit_diff) < 1e-2
own = [part / (part.square().mean() + eps).sqrt() @ direction for part in centred.values()]
own_total = sum(own).item() + total - sum(shares.values())
print(f"logit difference {logit_diff:.2f}, sum of the shares {total:.2f}")
print(f"sum when each part has a scale of its own {own_total:.2f}")

# %% [markdown] short=true
# `mi.lens.logit_attribution` does it for a batch, and never builds the heads' output vectors.
#
# Now who. Blue pushes towards the right name, red towards the wrong one. Look for depth (are early
# layers in it at all?), for concentration (a few heads or many?), and for red: heads that work
# against the answer.

# %% short=true
attribution = mi.lens.logit_attribution(model, tokens, answers)
for name, share in zip(exact.labels, attribution.stacked()[0], strict=False):
    assert abs(share - shares.get(name, 0)) < 1e-2
blocks = [attribution.heads[0], attribution.attn_bias[0, :, None], attribution.mlps[0, :, None]]
figures.heatmap(
    torch.cat(blocks, dim=1),
    x=columns,
    y=layers,
    xlabel="component",
    ylabel="layer",
    title=f"Who writes{pairs.answers[0]} rather than{pairs.wrong[0]}",
    colorbar="share of the logit difference",
)

# %% [markdown] short=true
# One prompt is a trap. A head that always pushes towards the person named first, or towards one
# particular name, has a large share here, and the opposite share in the twin prompt, where the
# other one gives. Each dot below is a head: its share averaged over many prompts and their twins,
# and the size of its share on single prompts. Heads on the line always push the same way, for the
# answer or against it. Look for dots high above it.

# %% short=true
many = mi.prompts.ioi(model, mi.models.by_size(model, 128, 64))
drawn = mi.lens.logit_attribution(model, many.clean_tokens, many.answer_tokens)
by_head = drawn.heads.flatten(1) / drawn.total().mean()  # [prompt head], in logit differences
names = [str(mi.heads.Head(i, j)) for i in range(n_layers) for j in range(n_heads)]
net, gross = by_head.mean(0), by_head.abs().mean(0)
figures.scatter(
    net.abs(),
    gross,
    labels=names,
    named=sorted({names[net.argmax()], names[gross.argmax()]}),
    identity=True,
    title="A head's share on average, and its size on single prompts",
    xlabel="size of the mean share of the logit difference",
    ylabel="mean size of the share on one prompt",
)

# %% [markdown] short=true
# Two claims, about heads chosen on one half of the prompts and measured on the other. The head with
# the largest mean share, against the next one. And the loudest head on single prompts: the size of
# its share, against that of the best head. (The last line is the loudest head's share on average.)
#
# What a share does *not* mean, once more: it is not what would happen without the component. Recall
# the toy head, whose share was zero and on which everything hung. Shares count what is *written*;
# what *causes* is found by intervening: notebook 00 patched, notebook 03 takes heads out.

# %% short=true
half = len(by_head) // 2
chosen = by_head[:half].mean(0).topk(2).indices
best, following = by_head[half:, chosen].mean(0)
claim("attribution.best_head", best, control=following)
loudest = by_head[:half].abs().mean(0).argmax()
sizes = by_head[half:].abs().mean(0)
claim("attribution.loudest", sizes[loudest], control=sizes[chosen[0]])
print(f"{names[loudest]} on average: {by_head[half:, loudest].mean():.3f}")

# %% [markdown]
# An MLP's share splits further, into one share for each **neuron**: its activation times the dot
# product of what it writes with the direction. Is the share of an MLP the work of a few neurons?
# Take the MLP with the largest mean share. The claim: what the best twentieth of its neurons,
# chosen on half of the prompts, hold of the share on the other half; an even share would be a
# twentieth. The control takes the twentieth with the highest mean activation instead. (In a gated
# MLP a busy neuron may be far below zero, and is then not among them.)

# %%
layer = int(drawn.mlps.mean(0).argmax())
post, final_scale = f"blocks.{layer}.mlp.hook_post", "ln_final.hook_scale"
seen = model.run_with_cache(many.clean_tokens, names_filter=[post, final_scale])[1]
at_end = torch.arange(len(many.clean_tokens)), many.positions["end"]
active, scales = seen[post][at_end], seen[final_scale][at_end]  # [prompt neuron], [prompt 1]
towards = (model.W_U.T[many.answer_tokens[:, 0]] - model.W_U.T[many.answer_tokens[:, 1]]) / scales
by_neuron = active * (towards @ model.W_out[layer].T)
rest = towards @ bias(model, layer, "b_out")
assert torch.allclose(by_neuron.sum(1) + rest, drawn.mlps[:, layer], atol=1e-2)
few = by_neuron.shape[1] // 20
held = by_neuron[half:].mean(0) / by_neuron[half:].mean(0).sum()
best, busiest = (held[x[:half].mean(0).topk(few).indices].sum() for x in (by_neuron, active))
claim("attribution.neurons", best, control=busiest)

# %% [markdown]
# On `pocket` they hold several times an even share, and still the smaller part: the rest is spread
# over many neurons, some for the answer and some against. Reading a few neurons would miss it.
# Notebooks 09 and 10 are about what to do then.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 3: attribute
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
# first MLP to the last one (a gated MLP reads through two matrices, set side by side). Nothing is
# run; these are weights alone.
#
# The length of the product says nothing: large matrices have large products. Divide by both
# lengths. What would the ratio be if the two had nothing to do with each other? Turn the stream by
# a random rotation between writing and reading: both matrices stay as they are, and only how they
# lie to each other is lost. The squared ratio then averages to exactly `1 / d_model`. So the
# baseline is `1 / sqrt(d_model)`, and one rotation shows how far chance strays from it.

# %%
gate, by_chance = model.W_gate, d_model**-0.5
reads = model.W_in[-1] if gate is None else torch.cat([model.W_in[-1], gate[-1]], dim=1)
wire = model.W_out[0] @ reads  # [neuron that writes, what reads]
ratio = wire.norm() / (model.W_out[0].norm() * reads.norm())
virtual = mi.lens.virtual_weights(model)
assert torch.isclose(virtual.ratio[0, -1], ratio, rtol=1e-3)
turned = mi.lens.virtual_weights(model, rotation=mi.lens.random_rotation(d_model))
times_chance = [(x.reachable() / by_chance).nan_to_num(1.0) for x in (virtual, turned)]
print(f"first MLP to last: {ratio / by_chance:.2f} times chance")
print(
    f"the strongest pair: {times_chance[0].max():.2f}, after a rotation {times_chance[1].max():.2f}"
)

# %% [markdown]
# For whole MLPs of `pocket` both numbers lie a little above chance, from which a rotation hardly
# strays. They are too small to build on: an MLP reads in many directions at once, and so hears
# everything a little. Wires that end in single heads say more; they are the subject of notebook 02.
# And mind what the baseline assumes: that parts which have nothing to do with each other have no
# favourite directions of the stream in common.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 4: one wire
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
# ## Explore
#
# Your own prompt through the lens, its first two dozen tokens. Try a fact, a sequence, a sentence
# whose last word is obvious early and one whose last word is not.


# %%
def explore_lens(prompt, or_your_own=""):
    """The logit lens of a prompt, as a figure."""
    ids = model.to_tokens(or_your_own.strip() or prompt)[:, :24]
    view = mi.lens.logit_lens(model, ids, positions=None, top_k=1, return_type="probs")
    labels = {"x": model.to_str_tokens(ids[0]), "y": [*layers, "end"], "xlabel": "token read"}
    title = f"What the model would say next, before each layer of {mi.model_id(model)}"
    table = guesses(view), view.values[:, 0, :, 0]
    return mi.figures.token_table(*table, title=title, ylabel="before layer", limit=1, **labels)


tried = {
    "a fact": "The capital of France is",
    "a name": pairs.clean[0],
    "a sequence": " Monday Tuesday Wednesday Thursday Friday",
    "an obvious end": "The keys to the cabinet are on the",
}
mi.figures.explore(explore_lens, prompt=tried, or_your_own="")

# %% [markdown] short=true
# ## Summary
#
# - The final stream is an exact sum of embedding, position, heads, biases and MLPs; every layer
#   adds.
# - The stream grows, as a sum of unrelated vectors does; where it grows is learned. It is a
#   channel: what is written can be read in any later layer unless it is cancelled, and a writer and
#   any later reader share virtual weights through it.
# - LayerNorm forgets length and mean, RMSNorm the length. Given its scale it is linear, so it can
#   be folded: predictions stay, single logits and weights change.
# - The logit lens shows what an early stream would predict. With tied embeddings that is at first
#   an echo of the input; early layers may read worse than word frequencies. A map fitted to the
#   layer reads more, but part of that is the map's own work.
# - Direct logit attribution shares out a logit exactly, down to neurons. A share on one prompt is
#   not a share of the task, and a share says what was written, not what would happen without it.
# - Word arithmetic needs two controls: no offset, and an offset that keeps the class of the answer
#   and not the relation.
#
# **Where to read on.** The sections "Transformer Overview" and "Virtual Weights and the Residual
# Stream as a Communication Channel" of [@elhage2021framework]; the first post on the lens
# [@nostalgebraist2020lens] and its repair [@belrose2023tuned], sections 1 to 3;
# [@mikolov2013regularities] for the analogies; [@mcgrath2023hydra] for why shares and effects
# differ. **Next:** notebook 02 opens an attention head.

# %% [markdown]
# ## Appendix A: folding LayerNorm
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
# writes the mean coordinate that LayerNorm would remove anyway (RMSNorm would not, so there it
# stays), and from the unembedding the mean over the vocabulary, which no probability depends on.
# Load the raw checkpoint and see what stayed the same.

# %%
from transformers import AutoModelForCausalLM

folder = mi.models.model_source(model).directory
raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
with torch.no_grad():
    raw_logits = raw.eval()(tokens.cpu()).logits
gap_in_log_probs = (raw_logits.log_softmax(-1) - logits.cpu().log_softmax(-1)).abs().max()
assert gap_in_log_probs < 1e-2, gap_in_log_probs
gap_in_log_probs.item(), (raw_logits - logits.cpu()).abs().max().item()

# %% [markdown]
# The predictions are equal to rounding. The logits are not: all logits of a position moved by one
# constant. So compare log-probabilities or *differences* of logits between processed and raw
# models, never single logits.
#
# What else changed: the weights, and with them every number about the inside. In GPT-2, `pocket`
# and SmolLM2 the unembedding *is* the embedding, transposed (the weights are tied; Pythia's are
# not). After folding it is not: it has swallowed the final gain. A statement such as "the cosine of
# this neuron with that word" depends on such choices. Below, the length of the difference between
# the two, in lengths of the embedding, before and after.


# %%
def difference(embedding, unembedding):
    """Length of unembeddingᵀ − embedding over the length of the embedding."""
    return ((unembedding - embedding).norm() / embedding.norm()).item()


tied = difference(raw.get_input_embeddings().weight.data, raw.get_output_embeddings().weight.data)
tied, difference(model.W_E, model.W_U.T)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 5: fold a LayerNorm
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
# ## Appendix B: word arithmetic in the embedding, told honestly
#
# The stream starts with the token's embedding. "King − man + woman = queen" is the most famous
# claim about such vectors [@mikolov2013regularities]. Two things are seldom told. The published
# numbers *leave out* the three words of the question from the possible answers, as its companion
# says [@mikolov2013efficient]. And the answer is often near the third word to begin with. So here
# are three families of pairs; words that are not single tokens in this model are dropped.

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


words = {name: found for name, text in families.items() if len(found := token_pairs(text)) > 2}

# %% [markdown]
# One example proves nothing, so ask every question a family has: "*a* is to *b* as *c* is to …?",
# for all pairs of pairs. The answer is the token whose embedding has the largest cosine with
# *b* − *a* + *c*, all taken as unit vectors, as in the paper.

# %%
W_E = torch.nn.functional.normalize(model.W_E, dim=-1)


def questions(pairs):
    """All questions of a family, [question 5]: a is to b as c is to d; another pair's b."""
    turns = [
        (p, q, [r for r in pairs[i:] + pairs[:i] if r not in (p, q)][0])
        for i, p in enumerate(pairs)
        for q in pairs
        if p != q
    ]
    asked = [p + q + r[1:] for p, q, r in turns]
    return torch.tensor(asked, dtype=torch.long).reshape(-1, 5).to(model.W_E.device)


# %%
def cosines_to(asked, offset=1.0, leave_out=True):
    """Cosine of every token with offset · (b − a) + c, for each question; [question d_vocab]."""
    a, b, c = (W_E[column] for column in asked[:, :3].T)
    query = torch.nn.functional.normalize(offset * (b - a) + c, dim=-1)
    cosine = query @ W_E.T
    return cosine.scatter(1, asked[:, :3], -torch.inf) if leave_out else cosine


# %% [markdown]
# First: how often is the nearest token a word of the question itself? The control counts the words
# of some other question.

# %%
none = torch.empty(0, 5, dtype=torch.long)
asked = torch.cat([none.to(W_E.device), *(questions(members) for members in words.values())])
nearest = cosines_to(asked, leave_out=False).argmax(-1)[:, None]
other_question = asked.roll(len(asked) // 2, dims=0)
inputs, not_inputs = (
    (nearest == of[:, :3]).any(1).float().mean() for of in (asked, other_question)
)
too_few = "In this tokenizer too few of the words are single tokens."
if words:
    claim("words.inputs_win", inputs, control=not_inputs)
else:
    claim.not_here("words.inputs_win", too_few)

# %% [markdown]
# So the published method has to leave them out. Now the share of questions answered right, as
# published, beside *no offset* at all, which answers with the nearest neighbour of *c*
# [@linzen2016analogies]. Compare the columns in each row.

# %%
ways = {"as published": 1.0, "no offset": 0.0}
results = []
for family, members in words.items():
    one = questions(members)
    row = {"family": family, "questions": len(one)}
    for way, offset in ways.items():
        right = cosines_to(one, offset).argmax(-1) == one[:, 3]
        row[way] = right.float().mean().item()
    results.append(row)
mi.figures.table(results or [{"family": too_few}])

# %% [markdown]
# Where *no offset* comes as close as *as published*, the arithmetic did no work: the answer was the
# neighbour anyway. So it is on `pocket`. The first claim is the mean over families.
#
# Is the offset mere noise on `pocket`, then? The rank of the right answer among all tokens is finer
# than right or wrong. But adding any *capital* brings all capitals nearer. So the control takes *b*
# from another pair of the family: that keeps the class, and destroys the relation of *a* and *b*.

# %%
published, bare = (sum(row[way] for row in results) / max(len(results), 1) for way in ways)


def mean_rank(asked, offset):
    """Geometric mean of 1 + the rank of the right answer."""
    cosine = cosines_to(asked, offset)
    return (1 + (cosine > cosine.gather(1, asked[:, 3:4])).sum(-1)).log().mean().exp()


if words:
    claim("words.arithmetic", published, control=bare)
    mismatched = asked[:, [0, 4, 2, 3]]
    claim("words.relation", mean_rank(asked, 1.0), control=mean_rank(mismatched, 1.0))
    print(f"rank without offset {mean_rank(asked, 0.0):.1f}, reversed {mean_rank(asked, -1.0):.1f}")
else:
    claim.not_here("words.arithmetic", too_few)
    claim.not_here("words.relation", too_few)

# %% [markdown]
# On `pocket` the right pair's offset leaves the answer a little nearer than another's, and with no
# offset at all it is nearer still. Reversed, the offset pushes it far away. So it holds
# something of the class, and next to nothing of the relation, which is much less than
# king − man + woman = queen.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 6: the analogy, done right
# Return the id of the token nearest to `b − a + c` by cosine, with the three words left out. Take
# the vectors as they are; above they were scaled to length one first.

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

# %%
claim.table()
