# ---
# title: What MLPs store
# minutes: 80
# ---

# %% [markdown]
# **The question.** Two thirds of a block's weights are in its MLP. What do they store, and how is
# it looked up? Is it one neuron a fact?
#
# **You need** the residual stream ([notebook 01](01_residual_stream.ipynb)) and patching
# ([notebook 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - read an MLP as a memory: keys that match, values that speak of tokens;
# - test what a layer's memories say one by one, and together;
# - trace a fact to the places that carry it, and sever them;
# - count the neurons that a fact takes, and compare neurons with any other basis;
# - measure whether a name is more than a sum of its parts, beside an untrained model;
# - rewrite many facts at once, and measure what it costs.

# %% [markdown] short=true
# ## 1. A memory by hand
#
# An MLP without its biases is two matrices and a function between them: $\mathrm{MLP}(x) = f(x
# K^\top)\, V$. Geva et al. read it as a **memory** [@geva2020memories]. Row $k_i$ of $K$ is a
# *key*: $f(x \cdot k_i)$ says how well $x$ matches. Row $v_i$ of $V$ is a *value*: what is added to
# the stream, as much as the key matches. Attention is a memory, too, but a normalised one: its
# softmax makes the matches compete. Below, three keys, and a query that matches two of them. What
# does each memory return?

# %% short=true
keys, values = torch.eye(3), torch.tensor([[1.0, 0], [0, 1], [5, 5]])
query = torch.tensor([2.0, 2.0, -1.0])
matches = torch.stack([query @ key for key in keys])
memories = {
    name: sum(weight * value for weight, value in zip(weights, values, strict=True))
    for name, weights in {"MLP: the values are added": matches.relu(),
                          "softmax: they are averaged": matches.softmax(0)}.items()
}  # fmt: skip
for name, returned in memories.items():
    print(name, [round(v, 2) for v in returned.tolist()])

# %% [markdown] short=true
# The MLP adds both values that match, in full. The softmax averages all three: the two share the
# weight, and a little goes to the third, which does not match.

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 1: read the memory
# Return what the memory adds for each query, with ReLU as $f$.

# %% [markdown] tags=["hint"]
# Two matrix products. The keys are rows, so the first needs a transpose.


# %% tags=["exercise"]
def read_memory(queries, keys, values):
    """queries: [token d]; keys: [neuron d]; values: [neuron d]  ->  [token d]."""
    raise NotImplementedError


# %% tags=["solution"]
def read_memory(queries, keys, values):
    return (queries @ keys.T).relu() @ values


# %% tags=["check"]
check.read_memory(read_memory)

# %% [markdown] short=true
# Now the model, on text of all kinds that the generator writes. We keep every token that has a
# successor.

# %%
from mi_data.pocket import generator

torch.set_grad_enabled(False)
seed, by_size = 0, mi.models.by_size
n_layers, d_model, d_mlp = model.cfg.n_layers, model.cfg.d_model, model.cfg.d_mlp
layers = list(range(0, n_layers, max(1, n_layers // 6)))
samples = [generator.sample(kind, 9000 + 10_000 * seed + i)
           for i in range(by_size(model, 16, 3)) for kind in generator.KINDS]  # fmt: skip
tokens = [model.to_tokens(sample.text)[0, : model.cfg.n_ctx] for sample in samples]
lengths = torch.tensor([len(row) for row in tokens])
tokens = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
kept = torch.arange(tokens.shape[1]) < lengths[:, None] - 1
kept[:, 0] = False
current, following = tokens[kept], tokens.roll(-1, 1)[kept]
print(f"{len(samples)} texts, {len(current)} tokens")

# %%
sites = ("mlp_in", "mlp_post", "mlp_out", "resid_post")
places = [(site, layer) for site in sites for layer in layers]
parts = []
for rows, keep in zip(tokens.split(60), kept.split(60), strict=True):
    seen = mi.sites.read(model, rows, places)
    parts.append({place: seen[place][keep] for place in places})
acts = {place: torch.cat([part[place] for part in parts]) for place in places}
values = {layer: model.blocks[layer].mlp.W_out for layer in layers}
written = acts["mlp_post", layers[1]] @ values[layers[1]]
rest = acts["mlp_out", layers[1]] - written
assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-3)  # the bias, the same everywhere

# %% [markdown] short=true
# ## 2. Keys: what do they match?
#
# Geva et al. found patterns in what activates a neuron most: words and phrases in the lower layers,
# topics above. Let us ask a simpler thing, which needs no rater: how much of a neuron's activation
# is decided by the **current token alone**? Predict it by its mean over the *other* half of the
# texts at this token, and take the share of variance explained. As a control, a key that nobody
# trained: a random direction of what the MLP reads.


# %%
half = kept.nonzero()[:, 0] % 2 == 0  # every second text


def by_token(x):
    """Share of variance that the current token explains, in held-out text; x: [token unit]."""
    prior, here = x[half].mean(0), current[half]
    counts = torch.ones(model.cfg.d_vocab).index_add_(0, here, torch.ones(len(here)))
    means = prior.expand(model.cfg.d_vocab, -1).clone().index_add_(0, here, x[half])
    means = (means / counts[:, None])[current[~half]]
    left = (x[~half] - means).square().sum(0) / (x[~half] - x[~half].mean(0)).square().sum(0)
    return 1 - left


# %%
draw = torch.Generator().manual_seed(seed)
random_keys = torch.randn(d_model, 200, generator=draw)
explained = {
    "neurons": [by_token(acts["mlp_post", i]).nanmedian() for i in layers],
    "random keys": [by_token((acts["mlp_in", i] @ random_keys).relu()).nanmedian() for i in layers],
}

# %% [markdown] short=true
# What falls with depth, and do the neurons differ from the random keys?

# %% short=true
mi.figures.lines(
    explained, x=layers, xlabel="layer", ylabel="share of variance, median",
    title="Upwards, a key is less and less about the current token",
)  # fmt: skip

# %%
claim("memory.keys", explained["neurons"][0], control=explained["neurons"][-1])

# %% [markdown] short=true
# The fall is as in the paper, from the word to its context. But random keys fall, too, if less
# steeply: much of it is a property of the stream that is read. (They are no like for like: without
# a bias, a random key is active half of the time, and a neuron above the first layer less often.)
#
# ## 3. Values: what do they promote?
#
# A value, multiplied by the unembedding, is a score for every token: what this memory **promotes**
# [@geva2022promoting]. If key and value belong together, then the token that *follows* where a key
# matches best should be promoted by its value. First strictly: is it the token promoted *most*? The
# control pairs keys with the values of other neurons.

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 2: does the value know what follows?
# For each neuron find the token at which it is most active, and take the token that follows there.
# Return the share of neurons whose value promotes just this token most.

# %% [markdown] tags=["hint"]
# `acts.argmax(0)` is each neuron's strongest token; `promoted.argmax(-1)` each value's favourite.


# %% tags=["exercise"]
def agreement(acts, following, promoted):
    """acts: [token neuron]; following: [token] ids; promoted: [neuron d_vocab]  ->  a share."""
    raise NotImplementedError


# %% tags=["solution"]
def agreement(acts, following, promoted):
    return (following[acts.argmax(0)] == promoted.argmax(-1)).float().mean()


# %% tags=["check"]
check.agreement(agreement)

# %% [markdown] short=true
# Now also less strictly: where does that token rank in all that the value promotes? (Zero is the
# top; a random token would be in the middle.)


# %% short=true
def match(layer):
    """How each neuron's value agrees with what follows where its key matches best."""
    promoted = values[layer] @ model.W_U
    after, best = following[acts["mlp_post", layer].argmax(0)], promoted.argmax(-1)
    others = after.roll(1)
    rank = [(promoted > promoted.gather(1, x[:, None])).float().mean(-1).median()
            for x in (after, others)]  # fmt: skip
    shuffled = (after[:, None] == best).float().mean()  # the mean over all pairings
    return {"layer": layer, "agree": (after == best).float().mean(), "agree, shuffled": shuffled,
            "rank": rank[0], "rank, shuffled": rank[1]}  # fmt: skip


matches = [match(layer) for layer in layers]
mi.figures.table([{k: float(v) for k, v in row.items()} for row in matches], digits=2,
                 title="A value rarely names what follows, but it leans that way")  # fmt: skip

# %% short=true
upper = matches[len(layers) // 2 :]
mean = {name: sum(float(row[name]) for row in upper) / len(upper) for name in upper[0]}
claim("memory.agreement", mean["agree"], control=mean["agree, shuffled"])
claim("memory.promotes", mean["rank"], control=mean["rank, shuffled"])

# %% [markdown] short=true
# A few neurons in a hundred: that is little, and it is what the paper found in its upper layers,
# too. Far above chance, yet no dictionary in which one looks up a neuron's meaning. The rank says
# more. In the upper layers the typical value puts what follows into about the first tenth of the
# vocabulary (least so in the lowest of them; the last writes next to the logits). Values lean the
# right way, each a little.
#
# Look for yourself. Choose a layer and a neuron (rank 1 writes most): where is it most active, and
# what does its value promote? (That stands under the title, the most promoted first.)

# %%
words = [model.to_string(i) for i in range(model.cfg.d_vocab)]
text_of, place_of = kept.nonzero().T


def context(at):
    """Up to seven tokens, the one that the neuron reads, and the one that follows."""
    row, place = tokens[text_of[at]].tolist(), int(place_of[at])
    before = "".join(words[i] for i in row[max(1, place - 7) : place])
    return {"words before": before, "token": words[row[place]], "follows": words[row[place + 1]]}


# %%
def memory(layer, rank):
    """One neuron's strongest contexts, and what its value promotes most."""
    size = acts["mlp_post", layer].square().sum(0) * values[layer].square().sum(-1)
    neuron = int(size.argsort(descending=True)[rank - 1])
    promoted = (values[layer][neuron] @ model.W_U).topk(8).indices.tolist()
    at = acts["mlp_post", layer][:, neuron].topk(8).indices
    return mi.figures.table(
        [context(i) for i in at], title=f"Neuron {neuron} of layer {layer}",
        subtitle="promotes: " + ", ".join(repr(words[j]) for j in promoted),
    )  # fmt: skip


# %%
mi.figures.explore(memory, layer=layers, rank=list(range(1, 7)),
                   start={"layer": layers[-1], "rank": 1})  # fmt: skip

# %% [markdown] short=true
# ## 4. Many memories at once
#
# How many memories speak at a token? Count all with a positive activation, or take an **effective
# number**: each is weighed by the squared length of what it writes, so that $n$ equal ones count as
# $n$. And does their sum say what one of them says? Take the token that the layer's output promotes
# most: is it the favourite of *any* active memory? The control asks the memories that are active at
# another token.


# %%
def together(layer):
    """How many memories are active, and whether the sum says what none of them says."""
    a, promoted = acts["mlp_post", layer][::5], (values[layer] @ model.W_U).argmax(-1)
    said = (a @ values[layer] @ model.W_U).argmax(-1)  # without the bias, which is no memory
    weights = (a * values[layer].norm(dim=-1)).square()
    number = weights.sum(-1).square() / weights.square().sum(-1)
    named = said[:, None] == promoted
    active, elsewhere = a > 0, a.roll(len(a) // 2, 0) > 0
    return {"layer": layer, "active": active.float().sum(-1).median(), "effective": number.median(),
            "said by none": 1 - (named & active).any(-1).float().mean(),
            "by none elsewhere": 1 - (named & elsewhere).any(-1).float().mean()}  # fmt: skip


sums = [{k: float(v) for k, v in together(layer).items()} for layer in layers]
mi.figures.table(sums, title="A layer mostly says what none of its memories says", digits=3)

# %% short=true
mean = {name: sum(row[name] for row in sums) / len(sums) for name in sums[0]}
claim("memory.composed", mean["said by none"], control=mean["by none elsewhere"])

# %% [markdown] short=true
# In most cases the layer's word is the favourite of none of its memories: in the paper, too, for at
# least two thirds of the tokens. The control warns of the rest. So many memories are active that
# one of them has the word by chance: even those of *another* token have it, over all layers, more
# than half as often. So an MLP's output is a **composition**.
#
# The stream then composes further. Compare the prediction before the MLP and after it. It may be
# as before, it may be the layer's own word, it may be both, or neither. Where it has changed (the
# last two bars of a layer), is the new one the layer's own word?


# %%
def words_at(layer):
    """The prediction without what the MLP adds and with it, and the layer's own word, [token]."""
    after, added = (acts[site, layer][::5] for site in ("resid_post", "mlp_out"))
    before, after = (model.unembed(model.ln_final(stream[None]))[0].argmax(-1)
                     for stream in (after - added, after))  # fmt: skip
    return before, after, (added @ model.W_U).argmax(-1)


def fate(layer):
    """The prediction after the MLP: as before, the layer's own word, both, or neither."""
    before, after, own = words_at(layer)
    same, mine = after == before, after == own
    kinds = {"as before": same & ~mine, "both": same & mine,
             "new: the layer's": mine & ~same, "new: neither": ~same & ~mine}  # fmt: skip
    return {name: float(x.float().mean()) for name, x in kinds.items()}


# %%
fates = [fate(layer) for layer in layers]
mi.figures.bars(
    {name: [row[name] for row in fates] for name in fates[0]}, [f"L{i}" for i in layers],
    ylabel="share of tokens", title="A layer seldom imposes its own word",
)  # fmt: skip

# %% [markdown] short=true
# On `pocket`, mostly not: a new prediction is more often neither what was there nor what the layer
# says alone. It comes of the sum. In the last layer its own word often is the prediction, but
# mostly it was that before (*both*). Count over all layers; the control is the word that the layer
# says at another token.


# %%
def imposed(layer, elsewhere=False):
    """Where the MLP changes the prediction: is the new one the layer's own word? [changed]"""
    before, after, own = words_at(layer)
    own = own.roll(len(own) // 2) if elsewhere else own
    return (own == after)[after != before].float()


here, there = (torch.cat([imposed(layer, how) for layer in layers]) for how in (False, True))
claim("memory.fates", here.mean(), control=there.mean())

# %% [markdown] short=true
# ## 5. Where is a fact?
#
# Each prompt is the start of a true fact, and its twin asks the same of another subject. The answer
# is the logit of the right word less that of the twin's. We put activations of the prompt into the
# run of its twin and see how much comes back: 0 is the twin's answer, 1 the prompt's own. (Meng et
# al. noise the subject instead [@meng2022rome]; [notebook 05](05_activation_patching.ipynb),
# appendix C.) We keep what the model knows, with some words after the subject.

# %%
drawn = mi.prompts.facts(model, by_size(model, 100, 16), seed=1 + seed)


def answer(logits, pairs):
    """Right logit less wrong one at the end, [prompt]."""
    chosen = logits[torch.arange(len(pairs)), pairs.positions["end"]]
    right, wrong = chosen.gather(1, pairs.answer_tokens).T
    return right - wrong


gap = drawn.positions["end"] - drawn.positions["subject"]
clean, twin = (answer(model(x), drawn) for x in (drawn.clean_tokens, drawn.corrupt_tokens))
both = ((gap > 1) & (clean > 0) & (twin < 0)).nonzero()[:, 0].tolist()
assert both, f"{mi.model_id(model)} knows none of these facts: load a model that does"
facts = drawn.select(both)
each, last, end = torch.arange(len(facts)), facts.positions["subject"], facts.positions["end"]

# %% [markdown]
# Three masks over the tokens: all of the subject, its last token, and the end.

# %%
differs = facts.clean_tokens != facts.corrupt_tokens
first = differs.float().argmax(-1)
places_in = torch.arange(differs.shape[1])
subject = (places_in >= first[:, None]) & (places_in <= last[:, None])
at_last = places_in == last[:, None]
print(
    f"{len(facts)} facts, such as {facts.clean[0]!r}: {facts.answers[0]!r}, not {facts.wrong[0]!r}"
)

# %% short=true
from mi_helpers.interventions import intervene

every = [(site, i) for i in range(n_layers) for site in ("resid_post", "mlp_out", "attn_out")]
run = {"own": mi.sites.read(model, facts.clean_tokens, every),
       "twin": mi.sites.read(model, facts.corrupt_tokens, every)}  # fmt: skip
own, other = (answer(model(x), facts) for x in (facts.clean_tokens, facts.corrupt_tokens))


def put(changes, where):
    """Answers of the twin's run with activations of `run` put in at a mask, {place: which run}."""

    def edit(place):
        return lambda x, _: torch.where(where[..., None], run[changes[place]][place], x)

    with intervene(model, {place: edit(place) for place in changes}):
        return answer(model(facts.corrupt_tokens), facts)


def recovered(answers, chosen=slice(None)):
    """How much of the way from the twin's answer to the own one, 0 to 1."""
    back, whole = answers - other, own - other
    return float(back[chosen].mean() / whole[chosen].mean())


# %% [markdown] short=true
# First the stream at *all tokens of the subject*. Restored after some layer, it goes on through
# later MLPs and attention at these tokens. Which of them does it need? **Sever** one kind: hold it
# there at what it was in the twin's run. If nothing were computed at the subject, the three lines
# would lie together.


# %% short=true
def trace(layer, severed=None):
    """What the stream after a layer brings back at the subject."""
    held = {(severed, i): "twin" for i in range(layer + 1, n_layers) if severed}
    return recovered(put({("resid_post", layer): "own"} | held, subject))


shown = layers if n_layers > 6 else layers[:-1]
traces = {name: [trace(layer, severed) for layer in shown] for name, severed in
          {"nothing severed": None, "MLPs severed": "mlp_out",
           "attention severed": "attn_out"}.items()}  # fmt: skip
mi.figures.lines(
    traces, x=[f"L{i}" for i in shown], xlabel="stream restored after", ylabel="recovered",
    title="What is restored early still needs the MLPs, not the attention",
)  # fmt: skip

# %% short=true
lost = [a - b for a, b in zip(traces["nothing severed"], traces["MLPs severed"], strict=True)]
claim("facts.severed", lost[0], control=lost[len(lost) // 2])

# %% [markdown] short=true
# What is restored early still goes through the MLPs at the subject and needs no attention there,
# much as Meng et al. and Geva et al. found [@meng2022rome; @geva2023recall], and on `pocket` little
# of this is left to do after layer 3. (A severed MLP also *asserts* the twin's fact: a part of the
# loss is that.) Which MLPs, and where? Put each output in alone, at the subject's last token and at
# the prompt's last. In the figure, look for the strongest cell of each row.

# %%
spots = {"subject": at_last, "end": places_in == end[:, None]}
alone = {f"{site} at {name}": [recovered(put({(site, i): "own"}, where)) for i in layers]
         for site in ("mlp_out", "attn_out") for name, where in spots.items()}  # fmt: skip
mi.figures.heatmap(
    torch.tensor(list(alone.values())), y=list(alone), x=[f"L{i}" for i in layers], text=".2f",
    xlabel="layer put in", colorbar="recovered", limit=1,
    title="MLPs at the subject, then attention at the end",
)  # fmt: skip

# %% [markdown]
# On `pocket`, at the subject, the first MLP does most. It reads the token after one layer of
# attention only (in section 2 the token alone decides about half of such a neuron), so we take it
# for a part of the embedding: it can say who is meant, and need not say what is true of them.
# (Appendix D asks from which layer on the answer can be read there, appendix E reads it from the
# weights.)
# The attention of the last layers brings the answer to the end: **extraction**. (There the last MLP
# adds to what attention has brought.) To check, forbid the end to look at the subject (and spread
# its attention over the rest), in the lower two thirds of the layers or in the upper third. How
# much is left of the answer? (0 now means undecided.)


# %%
def blind(layers, hidden):
    """The share of the answer that is left when the end cannot look at some tokens."""

    def edit(pattern, _):
        row = pattern[each, end] * ~hidden[:, None]
        pattern[each, end] = row / row.sum(-1, keepdim=True).clamp_min(1e-9)
        return pattern

    with intervene(model, {("pattern", i): edit for i in layers}):
        return float(answer(model(facts.clean_tokens), facts).mean() / own.mean())


late = 2 * n_layers // 3
others = ~subject & (places_in != end[:, None])
print(f"without the other tokens: {blind(range(late, n_layers), others):.2f}")
claim(
    "facts.extraction", blind(range(late, n_layers), subject), control=blind(range(late), subject)
)

# %% [markdown] short=true
# On `pocket` the answer is gone when the end cannot look at the subject in the upper third, and
# nearly whole when it cannot do so below, or cannot look at any *other* token above.
#
# ## 6. Is the subject gathered at its last token?
#
# The story has a premise: that a name of several tokens is gathered at its last, where the whole is
# recognised (**detokenisation**) [@nanda2023facts]. Restore the last token, for subjects of one
# token and of several (counted from the first that differs from the twin's), then the others, then
# all.

# %%
single = subject.sum(-1) == 1
middle = n_layers // 2 - 1
whole = put({("resid_post", middle): "own"}, subject)
others = put({("resid_post", middle): "own"}, subject & ~at_last)
just_last = put({("resid_post", middle): "own"}, at_last)

# %% short=true
gathered = {
    "subjects of one token": recovered(just_last, single),
    "of several, last token": recovered(just_last, ~single),
    "all but the last": recovered(others, ~single),
    "all tokens": recovered(whole, ~single),
}
if single.any() and not single.all():
    several = gathered["of several, last token"]
    claim("facts.last_token", several, control=gathered["subjects of one token"])
else:
    claim.not_here("facts.last_token", "all subjects have as many tokens for this model")
mi.figures.table([gathered], title=f"Recovered, stream restored after layer {middle}", digits=2)

# %% [markdown] short=true
# On `pocket`, halfway up, a third of the fact is at the last token, and the others bring back the
# rest. So these names are only partly gathered there, and an experiment at the last token alone
# would miss most. In larger models gathering at the last token is the rule
# [@meng2022rome; @geva2023recall].
#
# ## 7. One neuron, a few, or many?
#
# Take all neurons at the subject's last token, in all layers. Put the prompt's values of only the
# $k$ best into the twin's run, where "best" is by the effect estimated with gradients (mean slope
# on the way from the twin's value to the own, as in [notebook 06](06_attribution_patching.ipynb)).
# All others stay the twin's. One neuron for a fact would be a step at $k = 1$. The control does the
# same in **another basis**: each layer's neurons rotated at random, so that a "neuron" is now a
# mixture of all. (By section 6, only part of the fact passes the last token.)

# %%
posts = [("mlp_post", i) for i in range(n_layers)]
ends = [mi.sites.read(model, x, posts) for x in (facts.clean_tokens, facts.corrupt_tokens)]
here, there = (torch.stack([x[place][each, last] for place in posts], 1) for x in ends)


def with_neurons(state):
    """Answers of the twin's run with the neurons at the subject's last token as given."""

    def edit(i):
        def act(x, _):
            x[each, last] = state[:, i]
            return x

        return act

    with intervene(model, {place: edit(i) for i, place in enumerate(posts)}):
        return answer(model(facts.corrupt_tokens), facts)


# %%
def slopes(share):
    """Gradient of the answers a share of the way from twin to own, [fact layer neuron]."""
    state = (there + share * (here - there)).requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(with_neurons(state).sum(), state)[0]


slope = torch.stack([slopes(share) for share in by_size(model, (0.1, 0.5, 0.9), (0.5,))]).mean(0)
everything = with_neurons(here)


def best(k, turn=None):
    """What the k best neurons (or turned ones) bring back, of what all bring back [fact]."""
    change, score = (x if turn is None else x @ turn for x in (here - there, slope))
    score = (change * score).flatten(1)
    first = score.topk(min(k, score.shape[1])).indices
    moved = change * torch.zeros_like(score).scatter(1, first, 1.0).view_as(change)
    return with_neurons(there + (moved if turn is None else moved @ turn.T))


# %%
turn = mi.lens.random_rotation(d_mlp).to(here)
counts = (1, 4, 16, 64, 256)
full = (everything - other).mean()
share = {name: [float((best(k, basis) - other).mean() / full) for k in counts]
         for name, basis in {"neurons": None, "rotated basis": turn}.items()}  # fmt: skip

# %% short=true
mi.figures.lines(
    share, x=[str(k) for k in counts], xlabel="how many are put in",
    ylabel="share of what all bring back", title="A fact takes dozens of neurons",
    subtitle=f"{mi.model_id(model)}, of {n_layers * d_mlp} neurons",
)  # fmt: skip

# %% short=true
clear = everything - other > 0.1 * (own - other).mean()
enough = {k: ((best(k) - other)[clear] > (everything - other)[clear] / 2).float().mean()
          for k in (16, 64)}  # fmt: skip
if clear.any():
    claim("facts.dozens", enough[64], control=enough[16])
else:
    claim.not_here("facts.dozens", "These neurons bring no fact back clearly.")
claim("facts.basis", share["neurons"][2], control=share["rotated basis"][2])

# %% [markdown] short=true
# With all other neurons held as in the twin's run, the best single neuron does next to nothing, and
# for most facts it takes between sixteen and sixty-four to bring back half of what all do. (Counted
# are facts of which all neurons there bring back something worth halving, a tenth of the mean
# answer. Held neurons hide what one neuron does *through* later ones at this token.) A rotated
# basis needs more, but not by far: compare the curves. Neurons are a somewhat better basis than a
# random one. (Where a curve exceeds 1, the neurons left out argue against the answer.)


# %% [markdown]
# ## 8. Is a name more than a sum?
#
# A first name and a last name *together* say who is meant. If the stream at the last name were a
# sum of one vector for each, then no one linear test could tell all the pairs that go together from
# those that do not: its score would be a number for the first plus one for the last. Nanda et al.
# therefore suspect that the first MLPs act like a **hash**, a vector of its own for each pair; they
# find the representations of known names less additive than that [@nanda2023facts]. Test it on a
# grid: all combinations of first and last names of pocket's people. How additive is the stream?

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: what is not a sum
# The grid holds a vector for each first name (rows) and last name (columns). Take from each its
# row's mean and its column's mean, and add the grand mean. What is left is the **interaction**.
# Return its share of the squared deviation from the grand mean.

# %% [markdown] tags=["hint"]
# `keepdim=True` lets the means of rows `[first 1 d]` and columns `[1 last d]` be subtracted.


# %% tags=["exercise"]
def interaction_share(grid):
    """grid: [first last d]  ->  a share, 0 if every vector is a sum of two."""
    raise NotImplementedError


# %% tags=["solution"]
def interaction_share(grid):
    centred = grid - grid.mean((0, 1))
    rows, columns = centred.mean(1, keepdim=True), centred.mean(0, keepdim=True)
    return (centred - rows - columns).square().sum() / centred.square().sum()


# %% tags=["check"]
check.interaction_share(interaction_share)

# %%
import statistics


def of_one_length(some):
    """The names with as many tokens as most: so the last token is always at the same place."""
    lengths = [model.to_tokens(f" {name}").shape[1] for name in some]
    return [x for x, n in zip(some, lengths, strict=True) if n == statistics.mode(lengths)]


# %%
from mi_data.pocket import lexicon

people = {name for kind in ("profession", "person_country")
          for name, _ in lexicon.FACTS[kind]["facts"] if len(name.split()) == 2}  # fmt: skip
given, family = [], []
for name in sorted(people):
    a, b = name.split()
    if a not in given and b not in family:
        given, family = [*given, a], [*family, b]
count = by_size(model, 30, 16)
start = 10 * seed
given, family = (of_one_length(some)[start : start + count] for some in (given, family))
print(f"{len(given)} x {len(family)} names, such as {given[0]} {family[0]}, {given[1]} {family[0]}")

# %%
names = [model.to_tokens(f"Everyone remembers {a} {b}") for a in given for b in family]
names = torch.cat(names)  # all of one length
heights = [("resid_pre", 0), *(("resid_post", i) for i in layers)]


def grid_of(some_model):
    """The stream before all layers and after each, at the end, [height first last d_model]."""
    found = []
    for rows in names.split(200):
        seen = mi.sites.read(some_model, rows, heights)
        found.append(torch.stack([seen[place][:, -1] for place in heights]))
    return torch.cat(found, 1).unflatten(1, (len(given), len(family)))


# %% [markdown]
# Before any layer, the stream at the last token of the name is *one* token's embedding, at one
# place: no interaction. What the layers add to it may have some. Compare the trained model with an
# untrained one, in the stream and in what was added to it.


# %%
def no_sum(grid):
    """The share of variation that no sum of a vector per first and per last name explains."""
    centred = grid - grid.mean((0, 1))
    rest = centred - centred.mean(1, keepdim=True) - centred.mean(0, keepdim=True)
    return float(rest.square().sum() / centred.square().sum())


# %%
grids, rows = {"trained": grid_of(model), "untrained": grid_of(mi.untrained(model))}, []
for name, grid in grids.items():
    assert no_sum(grid[0]) < 1e-4
    for layer, stream in zip(layers, grid[1:], strict=True):
        rows.append({"model": name, "after layer": layer,
                     "of the stream": no_sum(stream),
                     "of what was added": no_sum(stream - grid[0])})  # fmt: skip
mi.figures.table(rows, title="Interaction of first and last name, share of variation", digits=3)

# %%
added = {row["model"]: row["of what was added"] for row in rows}  # after the last layer
claim("hash.additive", added["trained"], control=added["untrained"])

# %% [markdown]
# Above the first layer, training makes the layers' part less of a sum, by several times, and more
# so upwards. Yet on `pocket` nearly all of it stays a sum of a vector for each name. (It may not
# need more: most last names occur once, so they say who is meant. And mind whom the grid holds:
# nearly all of its names are made up of parts of known ones. So this is about names as such; a
# vector that only a *known* name has would hardly count.) Two pitfalls. If names differ in
# their number of tokens, the *position* of the last is itself no sum, and an untrained model seems
# to hash. And labels drawn by lot for each pair prove nothing: from $n$ vectors in $r$ dimensions,
# whichever they are, least squares gets about a share $\Phi(\sqrt{r/(n-r)})$ of the very labels
# that it was fitted to right ($\Phi$: the normal distribution's share below a value; $r < n$).
# Appendix B measures it, and holds out a label that does have a rule.

# %% [markdown] short=true
# ## 9. Rewriting many facts
#
# [Notebook 13](13_behaviour_directions.ipynb), appendix C, rewrites one fact by a rank-one update
# of one layer, ROME. Many such updates, one after the other, get in each other's way. **MEMIT**
# inserts all at once [@meng2022memit]. Let row $k_j$ of $K$ be the key of fact $j$, and row $v_j$
# of $V$ the value that it should return; $C$ are the second moments of usual keys, the mean of
# $k k^\top$. The change $D$ of $W$ should bring $K (W + D)$ near $V$, and change what usual keys
# return as little as it can, with a weight $\lambda$. It is least squares: $D$ makes smallest
#
# $$\lVert K (W + D) - V \rVert^2 + \lambda\, \mathrm{tr}(D^\top C D)$$

# %% [markdown] tags=["task"] minutes=15 difficulty=3
# ### Exercise 4: many at once
# Return the new matrix $W + D$; `weight` is $\lambda$. (Where is the derivative by $D$ zero?)

# %% [markdown] tags=["hint"]
# The derivative is zero where $(\lambda C + K^\top K) D = K^\top (V - KW)$.
# `torch.linalg.solve(A, B)` is $A^{-1}B$. With one fact and a tiny $\lambda$ it is ROME's update.


# %% tags=["exercise"]
def insert_many(W, C, K, V, weight):
    """W: [d_mlp d_model]; C: [d_mlp d_mlp]; K: [edit d_mlp]; V: [edit d_model]  ->  new W."""
    raise NotImplementedError


# %% tags=["solution"]
def insert_many(W, C, K, V, weight):
    return W + torch.linalg.solve(weight * C + K.T @ K, K.T @ (V - K @ W))


# %% tags=["check"]
check.insert_many(insert_many)

# %% [markdown] short=true
# Facts of many relations, drawn by lot among those that the model knows in three phrasings. Each is
# to get the answer of another subject of its relation. We measure, much as they do, **efficacy**
# (the new answer in the three phrasings that the edit saw), **paraphrases** (in three others) and
# **neighbours** (other subjects of the relation, which should keep their answers). An answer is the
# likeliest of all answers of the relation.

# %%
import random

options = {}
for relation, spec in lexicon.FACTS.items():
    wanted = list(dict.fromkeys(f" {word}" for _, word in spec["facts"]))
    try:
        options[relation] = mi.prompts.single_tokens(model, wanted, least=8)
    except ValueError:
        continue
known = [(kind, name, f" {word}") for kind in options
         for name, word in lexicon.FACTS[kind]["facts"] if f" {word}" in options[kind]]  # fmt: skip
random.Random(seed).shuffle(known)
pool = list({fact[1]: fact for fact in known}.values())  # each subject once


# %%
def prompts_of(asked):
    """Prompts side by side, the place of the subject's last token, and the end of each."""
    rows, at = [], []
    for kind, number, name in asked:
        phrasing = lexicon.FACTS[kind]["phrasings"][number]
        text, stop = phrasing.format(s=name), phrasing.index("{s}") + len(name)
        text = text[0].upper() + text[1:]
        rows.append(model.to_tokens(text)[0])
        at.append(model.to_tokens(text[:stop]).shape[1] - 1)
    ends = torch.tensor([len(row) - 1 for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(at), ends


# %%
def said(asked):
    """The likeliest answer of its relation to each of (relation, number of a phrasing, subject)."""
    found = []
    for part in (asked[i : i + 100] for i in range(0, len(asked), 100)):
        rows, _, ends = prompts_of(part)
        for (kind, *_), scores in zip(part, model(rows)[range(len(rows)), ends], strict=True):
            best = scores[list(options[kind].values())].argmax()
            found.append(list(options[kind])[best])
    return found


# %%
lot = random.Random(seed)
wanted, tries = by_size(model, (50, 120), (4, 32))
tried = [(kind, i, name) for kind, name, _ in pool[:tries] for i in range(3)]
answers = said(tried)
edits, spared = [], []
for i, (kind, name, old) in enumerate(pool[:tries]):
    if answers[3 * i : 3 * i + 3] == [old] * 3 and len(edits) < wanted:
        edits.append((kind, name, lot.choice([x for x in options[kind] if x != old])))
taken = {name for _, name, _ in edits}
for kind, _, _ in edits:
    near = [x for x, _ in lexicon.FACTS[kind]["facts"] if x not in taken]
    spared.append([(kind, i, x) for i, x in enumerate(lot.sample(near, 3))])
before = [said(group) for group in spared]
assert edits, "this model answers no fact right in all three phrasings: there is none to rewrite"
print(f"{len(edits)} edits, such as {edits[0]}")


# %%
def judge(chosen):
    """Efficacy, paraphrases and neighbours of the edits chosen by number."""
    seen, new = (
        [(*edits[j][:2], i) for j in chosen for i in some] for some in (range(3), range(3, 6))
    )
    seen, new = ([(kind, i, name) for kind, name, i in some] for some in (seen, new))
    wanted = [edits[j][2] for j in chosen for _ in range(3)]
    near, kept = ([x for j in chosen for x in some[j]] for some in (spared, before))
    got = said(seen + new + near)
    right = torch.tensor([a == b for a, b in zip(got, wanted + wanted + kept, strict=True)])
    return right.float().view(3, -1).mean(-1)


# %% [markdown] short=true
# What should a subject's stream be for the new answer to follow? As in ROME, gradient descent finds
# what to add to it at the subject's last token, after the last layer that is edited: for all facts
# at once, each until it is sure enough. The first three methods below are after the same targets,
# and the question is how they get there.

# %%
top = (2 * n_layers - 1) // 3
edited = list(range(0, top + 1, by_size(model, 1, top // 4)))
top = edited[-1]
rows, at, ends = prompts_of([(kind, i, name) for kind, name, _ in edits for i in range(3)])
line, fact_of = torch.arange(len(rows)), torch.arange(len(rows)) // 3
goal = torch.tensor([options[kind][word] for kind, _, word in edits])[fact_of]


def rows_of(chosen):
    """The numbers of the rows that ask for the facts chosen, three for each."""
    return torch.isin(fact_of, torch.tensor(chosen)).nonzero()[:, 0]


def at_subject(chosen, place):
    """An activation at the subject's last token, mean over three phrasings [edit d]."""
    mine = rows_of(chosen)
    found = mi.sites.read(model, rows[mine], [place])[place]
    return found[range(len(mine)), at[mine]].unflatten(0, (-1, 3)).mean(1)


# %%
everyone, place = list(range(len(edits))), ("resid_post", top)
size = at_subject(everyone, place).square().mean(-1).sqrt().mean()
spot = torch.nn.functional.one_hot(at, rows.shape[1])[..., None]


def surprise(chosen, edits_of_run, phrasings=slice(None)):
    """The negative log-probability of the new answers in a changed run [edit]."""
    mine = rows_of(chosen).view(-1, 3)[:, phrasings].flatten()
    with intervene(model, edits_of_run):
        logits = model(rows[mine])[range(len(mine)), ends[mine]].log_softmax(-1)
    return -logits[range(len(mine)), goal[mine]].view(len(chosen), -1).mean(1)


# %%
change = torch.zeros(len(edits), d_model, requires_grad=True)
adam, unsure = torch.optim.Adam([change], lr=0.1), torch.tensor(everyone)
for _ in range(40):
    mine = rows_of(unsure.tolist())
    with torch.enable_grad():
        added = spot[mine] * (size * change)[fact_of[mine]][:, None]
        losses = surprise(unsure.tolist(), {place: lambda x, _, added=added: x + added})
        (losses + 0.1 * change[unsure].square().mean(-1)).sum().backward(inputs=[change])
    unsure, was = unsure[losses > 0.1], change.detach().clone()  # who is sure stays as it is
    if not len(unsure):
        break
    adam.step(), adam.zero_grad()
    was[unsure] = change.data[unsure]
    change.data.copy_(was)
targets = at_subject(everyone, place) + size * change.detach()

# %%
from mi_helpers import steering

width = by_size(model, 60, 40)
plain = torch.cat([tokens[:1, :1].expand(len(current) // width, 1),
                   current[: len(current) // width * width].view(-1, width)], 1)  # fmt: skip
usual = steering.key_covariance(model, plain, edited)
for matrix in usual.values():
    matrix += 1e-3 * matrix.diagonal().mean() * torch.eye(d_mlp)


def insert(chosen, layer, share=1, weight=10):
    """MEMIT's update of one layer: all keys at once, for a share of what is missing."""
    K, W = at_subject(chosen, ("mlp_post", layer)), model.blocks[layer].mlp.W_out
    missing = (targets[chosen] - at_subject(chosen, ("resid_post", top))) * share
    W += torch.linalg.solve(weight * usual[layer] + K.T @ K, K.T @ missing)


# %% [markdown] short=true
# Four ways. **One by one**: ROME's update of the top layer, fact after fact. **At once**: MEMIT's,
# in this layer alone. **Spread**: MEMIT as published, which goes up through several layers and lets
# each take an equal part of what is still missing. **Fine-tuning** of the top layer's values by
# gradient descent, one phrasing a step, until the new answers are likely. What is missing is
# measured in the stream after the top layer: it takes the place of $V - KW$.


# %%
def one_by_one(chosen):
    for j in chosen:
        key, W = at_subject([j], ("mlp_post", top))[0], model.blocks[top].mlp.W_out
        missing = targets[j] - at_subject([j], ("resid_post", top))[0]
        W += torch.outer(steering.rome_key(usual[top], key), missing)


def at_once(chosen):
    insert(chosen, top)


def spread(chosen):
    for i, layer in enumerate(edited):
        insert(chosen, layer, share=1 / (len(edited) - i))


# %%
def fine_tuned(chosen, steps=20, rate=2e-3, enough=0.1):
    change = torch.zeros(d_mlp, d_model, requires_grad=True)
    adam, keys = torch.optim.Adam([change], lr=rate), {}
    edit = {("mlp_post", top): lambda x, _: keys.update(k=x) or x,
            ("mlp_out", top): lambda x, _: x + keys["k"] @ change}  # fmt: skip
    for step in range(steps):
        with torch.enable_grad():
            loss = surprise(chosen, edit, [step % 3]).mean()  # one phrasing a step
        if loss < enough:
            break
        adam.zero_grad(), loss.backward(inputs=[change]), adam.step()
    W = model.blocks[top].mlp.W_out
    W += change.detach()


# %%
def after(way, chosen, layers=edited, verdict=judge):
    """The verdict after one way of editing; the weights are put back."""
    views = [model.blocks[layer].mlp.W_out for layer in layers]
    old = [view.detach().clone() for view in views]
    try:
        way(chosen)
        return verdict(chosen)
    finally:
        for view, weights in zip(views, old, strict=True):
            view.copy_(weights)


# %%
ways = {"one by one": one_by_one, "at once, one layer": at_once, "spread": spread,
        "fine-tuning": fine_tuned}  # fmt: skip
sizes = by_size(model, {1: 3, 10: 1, 50: 1}, {1: 2, 4: 1})
sizes = {n: times for n, times in sizes.items() if n * times <= len(edits)}
verdicts = {}
for name, way in ways.items():
    for n, times in sizes.items():
        groups = [everyone[i * n : (i + 1) * n] for i in range(times)]
        verdicts[name, n] = torch.stack([after(way, group) for group in groups]).mean(0)

# %% short=true
columns = ("efficacy", "paraphrases", "neighbours")
mi.figures.table(
    [{"way": name, "facts": n} | dict(zip(columns, x.tolist(), strict=True))
     for (name, n), x in verdicts.items()],
    title=f"Many edits of layer {top} (spread: of {edited[0]} to {top})", digits=2,
)  # fmt: skip

# %% short=true
most = max(sizes)
shares = {name: verdicts[name, most].tolist() for name in ways}
claim("edits.at_once", shares["at once, one layer"][0], control=shares["one by one"][0])
claim("edits.fine_tuning", shares["fine-tuning"][2], control=shares["at once, one layer"][2])
if n_layers == 6:  # pocket: methods that spare others but insert nothing prove nothing
    assert min(shares[name][0] for name in ("at once, one layer", "fine-tuning")) > 0.7

# %% [markdown] short=true
# Look at the rows of many facts. One by one, edits spoil each other. All at once, in the same
# layer, most hold in the phrasings that they saw, but the neighbours pay as before: about a third
# of them get other answers. Spread over several layers, each has to change less. For the facts
# drawn here that spares neighbours; for others that we drew it did not, so it is no claim.
# Fine-tuning makes nearly all answers likely and changes most others, already for one fact; nothing
# bounds its change here. Neighbours here are drawn by lot: what else an edit costs, in other text
# or for names that share a token, we do not measure.

# %% [markdown] short=true
# ## Summary
#
# - Upwards, a key is less about the current token; random keys of the same stream fall, too.
# - Read alone, a value rarely names what follows its key's best match; it only leans that way. A
#   layer's word is mostly none of its memories' words.
# - On `pocket` a fact goes through the MLPs at the subject (the first as part of the embedding) and
#   is fetched by attention in the last layers. Names are only partly gathered at their last token.
# - With all others at the subject's last token held, dozens of neurons carry half of what all do
#   there. A random basis takes more of them.
# - That random labels can be read is arithmetic, and no evidence of a lookup (appendix B).
# - Many edits in one layer spoil each other one by one and hold at once; either way neighbours pay,
#   and they pay far more for fine-tuning.
# - Neurons that are credited with a fact change it, and its neighbours with it; ROME spares these
#   (appendix A).
# - On `pocket` the late heads could read much of a subject's attributes from the first layer on,
#   where the logit lens sees next to nothing (appendix D), and many facts can be multiplied out of
#   the weights (appendix E).
#
# **What we have not shown.** That larger models are alike: `pocket` knows a thousand facts and has
# six layers. That dozens of neurons are the fewest: a better search may find fewer. And an edit
# that works does not show that the fact was stored where it was edited [@hase2023localization].
#
# ## Where to read on
#
# - MLPs as memories: [@geva2020memories; @geva2022promoting].
# - How facts are fetched: [@meng2022rome; @geva2023recall]; neuron by neuron [@nanda2023facts].
# - Neurons credited with a fact: [@dai2021neurons].
# - Editing: [@meng2022memit]; what else should change [@cohen2023ripple].

# %% [markdown]
# ## Appendix A: knowledge neurons against ROME
#
# Dai et al. look for the neurons that *express* a fact, its **knowledge neurons**
# [@dai2021neurons]: integrated gradients of the answer's log-probability, from all activations at
# zero to what they are, mean over phrasings, at the token that predicts. To edit, they change just
# these neurons' values: the old answer's embedding is taken away, the new one's added. Here for
# single facts, one at a time, with twenty neurons of all layers, and several strengths (in lengths
# of a value). The control moves as many **random neurons** of the same layers, just as far. Beside
# them stands ROME, the update of one layer at the subject (section 9, *one by one*).

# %%
few = everyone[: by_size(model, 12, 4)]
all_posts = [("mlp_post", i) for i in range(n_layers)]
old_answers = {(kind, name): word for kind, name, word in known}
old_goal = torch.tensor([options[kind][old_answers[kind, name]] for kind, name, _ in edits])
new_goal = torch.tensor([options[kind][word] for kind, _, word in edits])


# %%
def credit(chosen):
    """How much each neuron at the end is credited with the old answers [edit layer neuron]."""
    mine = rows_of(chosen)
    at_end = (torch.arange(len(mine)), ends[mine])
    seen = mi.sites.read(model, rows[mine], all_posts)
    whole, total = torch.stack([seen[x][at_end] for x in all_posts]), 0
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        state = (part * whole).requires_grad_()
        held = {x: lambda acts, _, i=i, state=state: acts.index_put(at_end, state[i])
                for i, x in enumerate(all_posts)}  # fmt: skip
        with torch.enable_grad(), intervene(model, held):
            sure = model(rows[mine])[at_end].log_softmax(-1)
            sure = sure.gather(1, old_goal[fact_of[mine], None]).sum()
            total += torch.autograd.grad(sure, state)[0]
    return (whole * total).unflatten(1, (-1, 3)).mean(2).transpose(0, 1)


# %%
draw = torch.Generator().manual_seed(seed)
credited = credit(few).flatten(1).topk(20).indices  # layer and neuron in one number [edit 20]
by_lot = torch.randint(d_mlp, credited.shape, generator=draw)
by_lot += credited // d_mlp * d_mlp  # of the same layers


def by_neurons(strength, neurons):
    """A way of editing: the values of these neurons are moved from the old answer to the new."""

    def way(chosen):
        for j in chosen:
            new, old = (model.W_U[:, words[j]] for words in (new_goal, old_goal))
            move = (new - old) / (new - old).norm()
            for layer, neuron in zip(neurons[j] // d_mlp, neurons[j] % d_mlp, strict=True):
                W = model.blocks[layer].mlp.W_out
                W[neuron] += strength * W[neuron].norm() * move

    return way


# %% [markdown]
# We judge as in section 9, and ask for three facts of *other relations* besides. Look for an edit
# that is good in all columns.

# %%
far = [[(kind, 0, name) for kind, name, _ in pool[::-1] if kind != edits[j][0]] for j in few]
far = [asked[3 * j : 3 * j + 3] for j, asked in enumerate(far)]
far_before = [said(asked) for asked in far]


def judged(chosen):
    """As `judge` for one edit, and the share of other relations' facts that are as they were."""
    pairs = zip(said(far[chosen[0]]), far_before[chosen[0]], strict=True)
    same = torch.tensor([a == b for a, b in pairs]).float().mean()
    return torch.cat([judge(chosen), same[None]])


# %%
tries = [("credited", credited, 0.25), ("credited", credited, 0.5), ("credited", credited, 1),
         ("random", by_lot, 0.5), ("random", by_lot, 2)]  # fmt: skip
tries = {f"{name} neurons, {x} lengths": by_neurons(x, some) for name, some, x in tries}
tries["ROME"] = one_by_one
single_edits = {
    name: torch.stack([after(way, [j], range(n_layers), judged) for j in few]).mean(0)
    for name, way in tries.items()
}

# %%
mi.figures.table(
    [{"edit": name} | dict(zip((*columns, "other relations"), x.tolist(), strict=True))
     for name, x in single_edits.items()], digits=2,
    title="Strong enough, knowledge neurons change the neighbours, too",
)  # fmt: skip

# %%
at_half, lot_half = (single_edits[f"{x} neurons, 0.5 lengths"] for x in ("credited", "random"))
claim("neurons.paraphrases", at_half[1], control=lot_half[1])
claim("neurons.neighbours", at_half[2], control=single_edits["ROME"][2])
if n_layers == 6:  # pocket: an edit that inserts nothing spares everybody
    assert single_edits["ROME"][1] > 0.7

# %% [markdown]
# On `pocket` half a length is enough for the new answers, in phrasings that the edit did not see,
# too. Random neurons do nothing then, and hardly anything at four times the strength. So it matters
# which neurons are moved. (Not shown: that others which are *active* there do less. A neuron that
# is silent at this token changes nothing, however far its value is moved, and the credit passes
# such neurons over.) But they are not the fact's own. About a third of the neighbours go with it,
# and at one length nearly all; facts of other relations stay. The neurons that are credited with
# one fact seem to speak for its whole relation. ROME, which edits at the subject, gives the new
# answers about as well and leaves nearly all neighbours in peace. That is no proof that the fact is
# stored where ROME edits.
#
# What tracing says about *where* an edit works, and what an edit does to other facts of
# the same subject, is measured in [notebook 13](13_behaviour_directions.ipynb), appendix C. (On
# SmolLM2 half a length inserts next to nothing, whichever neurons are moved.)

# %% [markdown]
# ## Appendix B: labels drawn by lot
#
# Section 8 warns of labels drawn by lot. See that it is arithmetic: take the names of its grid, and
# from each of three kinds of vectors (what the trained model's layers have added at the name, the
# same of the untrained one, and Gaussian noise) a random projection to a number of dimensions. Fit
# labels drawn by lot to half of the names by least squares, and count what is right, there and
# for the other half. What should you expect if the trained model looked names up?


# %%
def lots(vectors, share, times=40):
    """How many lots are right: names fitted to, other names, and what the formula says."""
    draw = torch.Generator().manual_seed(seed)
    x = vectors[torch.randperm(len(vectors), generator=draw)].double()
    n = len(x) // 2
    dims = min(round(share * n), d_model)
    x = (x - x.mean(0)) @ torch.randn(d_model, dims, generator=draw).double()
    labels = torch.randn(len(x), times, generator=draw).double().sign()
    fitted = torch.linalg.lstsq(x[:n], labels[:n]).solution
    right = ((x @ fitted).sign() == labels).double()
    formula = torch.special.ndtr(torch.tensor(dims / (n - dims)).sqrt())
    return {"fitted to": right[:n].mean(), "other names": right[n:].mean(), "formula": formula}


# %%
vectors = {name: (grid[-1] - grid[0]).flatten(0, 1) for name, grid in grids.items()}
noise = torch.randn(len(vectors["trained"]), d_model, generator=torch.Generator().manual_seed(seed))
shares = (0.06, 0.12, 0.25, 0.37)
found = {name: [lots(x, share) for share in shares]
         for name, x in (vectors | {"Gaussian": noise}).items()}  # fmt: skip
shown = {name: [float(x["fitted to"]) for x in rows] for name, rows in found.items()}
shown["formula"] = [float(x["formula"]) for x in found["trained"]]
shown["trained, other names"] = [float(x["other names"]) for x in found["trained"]]

# %%
mi.figures.lines(
    shown, x=[str(x) for x in shares], xlabel="dimensions for each name fitted to",
    ylabel="share of labels right", title="Labels drawn by lot are read from anything",
)  # fmt: skip

# %%
claim("lot.fitted", found["trained"][2]["fitted to"], control=found["trained"][2]["other names"])
for name, rows in found.items():
    for row in rows:
        assert abs(row["fitted to"] - row["formula"]) < 0.05, name

# %% [markdown]
# The three kinds lie on the formula's curve, so the number says how many dimensions there were and
# nothing about the model. On other names every kind is at chance, as it must be: a lot has no rule.
#
# A label that *has* a rule is "this name is known". It is a good one to hold out, because no sum
# can tell it. Take a grid in which each person's first and last name meet once, and all other pairs
# are made up. A vector for each part gives known and made-up names the same mean score. So take the
# parts' means away, take as a direction the mean of what is left of the known names, and use it on
# **other people**: how often does a known name score above a made-up one? Chance is one half. The
# control is the untrained model, which has met no name.

# %%
pairs, length = [], {}
for a, b in (name.split() for name in sorted(people)):
    if all(a != x and b != y for x, y in pairs):
        pairs, length[b] = [*pairs, (a, b)], model.to_tokens(f" {b}").shape[1]
usual_length = statistics.mode(length.values())
pairs = [(a, b) for a, b in pairs if length[b] == usual_length]
lot = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
pairs = [pairs[i] for i in lot[: min(len(pairs), by_size(model, 32, 20)) // 2 * 2]]
levels = [("resid_post", i) for i in (0, n_layers // 2, n_layers - 1)]


# %%
def grid_at(some_model):
    """The stream at the last token, each first with each last name [level first last d_model]."""
    rows = []
    for a, _ in pairs:
        asked = torch.cat([model.to_tokens(f"Everyone remembers {a} {b}") for _, b in pairs])
        seen = mi.sites.read(some_model, asked, levels)
        rows.append(torch.stack([seen[place][:, -1] for place in levels]))
    return torch.stack(rows, 1)


# %%
def told_apart(grid, times=20):
    """How often a known name scores above a made-up one, of people not fitted to."""
    draw, found = torch.Generator().manual_seed(seed), []
    for _ in range(times):
        halves = torch.randperm(len(grid), generator=draw).chunk(2)
        halves = [grid[some][:, some] for some in halves]
        fitted, held = (x - x.mean(0) - x.mean(1, keepdim=True) + x.mean((0, 1)) for x in halves)
        same = torch.eye(len(fitted), dtype=torch.bool)
        score = held @ fitted[same].mean(0)
        found.append((score[same][:, None] > score[~same]).float().mean())
    return float(torch.stack(found).mean())


# %%
both = {"trained": grid_at(model), "untrained": grid_at(mi.untrained(model))}
apart = {name: [told_apart(grid) for grid in some] for name, some in both.items()}
mi.figures.table(
    [{"model": name} | {f"after layer {i}": x for (_, i), x in zip(levels, some, strict=True)}
     for name, some in apart.items()], digits=2,
    title="A known name scores above a made-up one, other people",
)  # fmt: skip

# %%
claim("lot.known", apart["trained"][1], control=apart["untrained"][1])

# %% [markdown]
# On `pocket`, halfway up and at the end, what is no sum tells known from made-up names, of people
# that the direction never saw: not always, but clearly above chance. After the first layer it does
# not yet, and the untrained model never does. So the small interaction of section 8 is in part
# about names that were met in training. It is one direction for all of them. That each known name
# has a vector of its own, as a hash would give it, is not shown by this.

# %% [markdown]
# ## Appendix C: keys against the truth
#
# Section 2 asked how much the current token decides, since that needs no rater. But the generator
# knows what its texts mean: it labels spans (a subject, an attribute, a year) and whole texts
# (sentiment, number). For each label take the neuron that detects it best: chosen, with its
# threshold, on half of the texts and judged on the other half, by F1. The control is as many
# random keys, through a ReLU. The floor is a unit that always says yes. Which layers do better?

# %%
import dataclasses

from mi_helpers import sae

labelled = sae.label_tokens(model, samples)
assert labelled.tokens[kept].equal(tokens[kept])  # the same tokens as in section 1
labelled = dataclasses.replace(labelled, real=kept)
keys = torch.randn(d_model, d_mlp, generator=torch.Generator().manual_seed(seed))


def detected(acts):
    """For each label: the F1 of its best unit in held-out texts, and how common the label is."""
    rows = sae.best_units(acts, labelled)
    return torch.tensor([[row["f1"], 2 * row["base"] / (1 + row["base"])] for row in rows]).T


# %%
f1 = {
    "neurons": torch.stack([detected(acts["mlp_post", i]) for i in layers]),
    "random keys": torch.stack([detected((acts["mlp_in", i] @ keys).relu()) for i in layers]),
}
by_layer = {name: x[:, 0].mean(-1) for name, x in f1.items()}  # over the labels
by_layer["always yes"] = f1["neurons"][:, 1].mean(-1)

# %%
mi.figures.lines(
    by_layer, x=[f"L{i}" for i in layers], xlabel="layer",
    ylabel="F1, mean over labels", subtitle=f"{f1['neurons'].shape[-1]} labels, held-out texts",
    title="Trained keys detect what the generator meant",
)  # fmt: skip

# %%
claim("keys.labels", by_layer["neurons"].mean(), control=by_layer["random keys"].mean())

# %% [markdown]
# On `pocket` both lie far above the floor: among many random keys there is one that fits somewhat.
# Above the first layer the best neuron does clearly better, and the lead shrinks in the last two.
# So training turned keys towards what the texts mean. But one would be a perfect detector, and the
# mean is far below it. Either these labels are spread over several keys, or the layer does not hold
# them: single keys cannot tell which.

# %% [markdown]
# ## Appendix D: is the attribute at the subject?
#
# Section 5 found that attention fetches the answer from the subject. Is it there, ready to be read?
# Geva et al. find that the MLPs **enrich** a subject: after some layers its last token says many of
# its attributes, whatever is asked [@geva2023recall]. They read with the logit lens. Take subjects
# *alone*, at the start of a text, before anything is asked, and read the stream at their last token
# $x$ in two ways: by the logit lens, and by $x \sum W_{OV} W_U$, what the heads of the upper third
# (the **late heads**, which do the fetching) would write if they looked there. Then rank the true
# answer among all answers of its relation. The control ranks another subject's answer.


# %%
def of_another(facts):
    """For each fact an answer of another subject of its relation, by lot."""
    lot, found = random.Random(seed), []
    for kind, _, word in facts:
        words = [f" {x}" for _, x in lexicon.FACTS[kind]["facts"]]
        found.append(lot.choice([x for x in words if x in options[kind] and x != word]))
    return found


def above(scores, facts, answers):
    """How many answers of its relation score higher than the one given [fact ...]."""
    rows = []
    for mine, (kind, *_), word in zip(scores, facts, answers, strict=True):
        rivals, own = mine[..., list(options[kind].values())], mine[..., options[kind][word]]
        rows.append((rivals > own[..., None]).sum(-1))
    return torch.stack(rows)


# %%
begins = [kind for kind in options  # in some phrasing with its subject
          if any(text.startswith("{s}") for text in lexicon.FACTS[kind]["phrasings"])]  # fmt: skip
told = [fact for fact in known if fact[0] in begins][: by_size(model, 400, 120)]
asked = [model.to_tokens(name[0].upper() + name[1:])[0] for _, name, _ in told]
stops = [len(row) - 1 for row in asked]
asked = torch.nn.utils.rnn.pad_sequence(asked, batch_first=True)
seen = mi.sites.read(model, asked, heights)
streams = torch.stack([seen[place][range(len(stops)), stops] for place in heights], 1)
late_heads = [(layer, head) for layer in range(late, n_layers) for head in range(model.cfg.n_heads)]
fetch = sum(mi.heads.ov_circuit(model, head)[:-1] for head in late_heads) @ model.W_U

# %%
readings = {"late heads": streams @ fetch, "logit lens": model.unembed(model.ln_final(streams))}
asked_for = {"its own": [word for *_, word in told], "another's": of_another(told)}
rivals = torch.tensor([len(options[kind]) for kind, *_ in told])[:, None]
ranks = {f"{name}: {whose}": (above(scores, told, words) / rivals).mean(0).tolist()
         for name, scores in readings.items() for whose, words in asked_for.items()}  # fmt: skip

# %% [markdown]
# Zero is the top, one half is chance. Which reading finds the subject's own answer above that of
# another, and from which layer on?

# %%
mi.figures.lines(
    ranks, x=["embedding", *(f"L{i}" for i in layers)], xlabel="stream after",
    ylabel="share of the relation's answers above",
    title="The late heads find the attribute early; the logit lens does not",
    subtitle=f"{mi.model_id(model)}, {len(told)} facts, at the subject's last token",
)  # fmt: skip

# %%
below = sum(layer < late for layer in layers)  # the height under the late heads
own, anothers = (ranks[f"late heads: {whose}"] for whose in asked_for)
claim("enriched.subject", own[below], control=anothers[below])
lead = [b - a for a, b in zip(own, anothers, strict=True)]
claim("enriched.first", lead[1] / lead[below], control=lead[0] / lead[below])

# %% [markdown]
# On `pocket` the late heads would read the subject's own attribute rather than another's, before
# anything is asked. Not cleanly: on average a quarter of the relation's answers still score above
# it. The first layer brings most of this lead, the next ones a little, and in the last layer it
# fades. The logit lens sees next to none of it. So the attribute is not written in the alphabet of
# the output; the heads that fetch it translate (section 5 shows that their looking there is what
# counts). Where it
# is *stored* this reading does not say: what comes early may be who is meant, and the heads' own
# weights may add what is true of them.

# %% [markdown]
# ## Appendix E: facts read from the weights alone
#
# If the first layer brings so much, no text need be run. Take the embedding of a subject of one
# token, add what the first MLP makes of it, and multiply by the late heads' $W_{OV}$ and by $W_U$:
# a score for every token, from weights alone. (What is left out: the embedding of the place, where
# the model has one, attention in the first layer, all layers between, the late MLPs, and every
# query. So nothing says *which* relation is asked: we look among its
# answers only.) Two controls: the answer of another subject, and the same without the first MLP.
# First for a few subjects of one relation. Scores are in standard deviations over its answers; look
# at the diagonal.

# %%
single_tokens = mi.prompts.single_tokens(model, [f" {name}" for _, name, _ in known])
short = [fact for fact in known if f" {fact[1]}" in single_tokens]
embedding = model.W_E[[single_tokens[f" {name}"] for _, name, _ in short]]
first_mlp = model.blocks[0].mlp(model.blocks[0].ln2(embedding[None]))[0]
scores = (embedding + first_mlp) @ fetch

# %%
kinds = [kind for kind, *_ in short]
shown = "capital" if kinds.count("capital") > 4 else statistics.mode(kinds)
few = [i for i, kind in enumerate(kinds) if kind == shown][:8]
table = scores[few][:, list(options[shown].values())]
table = (table - table.mean(-1, keepdim=True)) / table.std(-1, keepdim=True)
places = [list(options[shown]).index(short[i][2]) for i in few]
mi.figures.heatmap(
    table[:, places], y=[short[i][1] for i in few], x=[short[i][2] for i in few], text=".1f",
    xlabel="answer", ylabel="subject", colorbar="score", subtitle=f"relation: {shown}",
    title="A table of facts, multiplied out of the weights",
)  # fmt: skip

# %% [markdown]
# Now all relations, scored by the share of answers at the top and by the mean of one over the rank
# (**mean reciprocal rank**).


# %%
def scored(scores, words, some=slice(None)):
    """Share at the top, and mean reciprocal rank."""
    rank = 1 + above(scores, short, words)[some]
    return {"top": float((rank == 1).float().mean()), "1 / rank": float((1 / rank).mean())}


right, wrong = [word for *_, word in short], of_another(short)
found = {
    "embedding and first MLP, late heads": scored(scores, right),
    "the same, another subject's answer": scored(scores, wrong),
    "embedding alone, late heads": scored(embedding @ fetch, right),
    "embedding and first MLP, no heads": scored((embedding + first_mlp) @ model.W_U, right),
    "embedding alone, no heads": scored(embedding @ model.W_U, right),
}
mi.figures.table([{"weights": name} | row for name, row in found.items()], digits=2,
                 title=f"{len(short)} facts about subjects of one token")  # fmt: skip

# %%
with_mlp, swapped, without, *_ = found.values()
claim("microscope.read", with_mlp["1 / rank"], control=swapped["1 / rank"])
claim("microscope.mlp", with_mlp["top"], control=without["top"])
by_kind = {kind: [i for i, x in enumerate(kinds) if x == kind] for kind in dict.fromkeys(kinds)}
mi.figures.table(
    [{"relation": kind, "facts": len(some), "answers": len(options[kind])}
     | scored(scores, right, some) | {"another's": scored(scores, wrong, some)["1 / rank"]}
     for kind, some in by_kind.items()], digits=2, title="Relation by relation",
)  # fmt: skip

# %% [markdown]
# On `pocket` about half of these facts can be read off the weights: the first guess among the
# answers of the relation is right. With another subject's answers, or without the first MLP, next
# to none are. Without the late heads few are, and the bare embedding does better there than with
# the MLP: a little of what goes together is said by $W_E W_U$, as in any model of pairs of words.
# So the facts are in the *product* of the first MLP and the late heads. Which factor holds them it
# does not say: the first may only write who is meant in a form that the second looks up. (On
# SmolLM2 the late heads read nearly as many facts without the first MLP: there it need not be in
# between.) And these are subjects of one token; a name of several tokens has to be put together
# first (section 6).

# %%
claim.table()
