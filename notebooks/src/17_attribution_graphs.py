# ---
# title: Transcoders and attribution graphs
# minutes: 80
# ---

# %% [markdown]
# **The question.** Can the computation behind one prediction be drawn as a graph of features that
# one can read? And does the drawing say what will happen when we intervene?
#
# **You need** sparse autoencoders ([notebook 10](10_sparse_autoencoders.ipynb)), attribution by
# gradients ([notebook 06](06_attribution_patching.ipynb)) and what MLPs do
# ([notebook 15](15_mlp_memories.ipynb)).
#
# **You will be able to**
#
# - say what a transcoder reads and writes, and what its linear part does alone;
# - follow a feature into earlier layers by the weights, and know what that leaves out;
# - hold a run still until all that is left is linear, and check that nothing is lost;
# - read, prune and score an attribution graph;
# - test its predictions by intervening, and its labels against what is known of the text;
# - name what the graph cannot show: why heads attend where they do.
#
# Everything here is about `pocket`, for which [a committed script](../data/transcoders/README.md)
# trained the transcoders. The set-up cell loads a model only because every notebook starts alike.

# %% [markdown] short=true
# ## 1. A transcoder by hand
#
# An SAE of an MLP's output says *what* was written, not what made the MLP write it. A
# **transcoder** [@dunefsky2024transcoders] reads the MLP's input, as it comes out of the LayerNorm,
# and predicts the MLP's output. So each of its features has two directions: a column of $W_{enc}$
# that it looks for, and a row of $W_{dec}$ that it writes. In between is one number, its
# activation; of all features, only the $k$ most active are kept at each token (TopK). Part of what
# an MLP does is linear. A **skip transcoder** [@paulo2025transcoders] has a matrix for that,
# $W_{skip}$, so that no feature is spent on it.

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: a skip transcoder
# Return what it predicts. Features: the positive part of $x W_{enc} + b_{enc}$, of which each token
# keeps the $k$ largest. Written is $f W_{dec} + b_{dec} + x W_{skip}$.

# %% [markdown] tags=["hint"]
# `top = pre.topk(k, dim=1)` gives values and indices; `torch.zeros_like(pre).scatter(1, indices,
# values)` puts them back in their places.


# %% tags=["exercise"]
def transcode(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    """x: [token d]; W_enc: [d unit]; W_dec: [unit d]; W_skip: [d d]; k: int  ->  [token d]."""
    raise NotImplementedError


# %% tags=["solution"]
def transcode(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    top = (x @ W_enc + b_enc).relu().topk(k, dim=1)
    f = torch.zeros(len(x), W_enc.shape[1]).to(x).scatter(1, top.indices, top.values)
    return f @ W_dec + b_dec + x @ W_skip


# %% tags=["check"]
check.transcode(transcode)

# %% [markdown] short=true
# `pocket` has six layers, so there are six. We read them on text that they were not trained on,
# with the generator's labels.

# %% short=true
import contextlib
import tempfile
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from mi_data.pocket import generator

from mi_helpers import sae

torch.set_grad_enabled(False)
seed = 0
pocket = mi.models.load_pocket(model)
n_layers, trained = pocket.cfg.n_layers, files("mi_data") / "transcoders"
transcoders = [
    sae.load(trained / f"mlp_{layer}", device=pocket.cfg.device) for layer in range(n_layers)
]

# %% short=true
kinds = ["fact", "ioi", "request", "agreement"]
texts = [
    generator.sample(kind, 7000 + 1000 * seed + i, split="test")
    for i in range(75)
    for kind in kinds
]
labelled = sae.label_tokens(pocket, texts, least=15)
sites = [(site, layer) for site in ("mlp_in", "mlp_out") for layer in range(n_layers)]
rows = labelled.tokens.split(50), labelled.real.split(50)  # read in parts: it takes less memory
parts = [
    {place: acts[real] for place, acts in mi.sites.read(pocket, tokens, sites).items()}
    for tokens, real in zip(*rows, strict=True)
]
seen = {place: torch.cat([part.pop(place) for part in parts]) for place in sites}
acts = [one.encode(seen["mlp_in", layer]) for layer, one in enumerate(transcoders)]

# %% [markdown]
# How much do the features add? Three predictions of each MLP's output: by a linear map alone,
# fitted to these very texts by least squares, so as good as one can be; by the transcoder; and by
# the transcoder with its features' written rows in a wrong order.


# %%
def explained(predicted, target):
    """Share of the variance of a target that is predicted; both [token d]."""
    return 1 - (predicted - target).square().sum() / (target - target.mean(0)).square().sum()


def linear_map(x, y):
    """The best affine prediction of y from x, [token d]."""
    ones = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double()  # nearly dependent
    return (ones @ torch.linalg.lstsq(ones, y.double()).solution).float()


# %%
rows = []
for layer, one in enumerate(transcoders):
    x, y = seen["mlp_in", layer], seen["mlp_out", layer]
    shift = acts[layer].roll(1, 1) @ one.W_dec + one.without_units(x)
    rows.append({"layer": layer, "linear map": explained(linear_map(x, y), y).item(),
                 "transcoder": explained(one(x), y).item(),
                 "rows in wrong order": explained(shift, y).item(),
                 "active features": (acts[layer] > 0).float().sum(1).mean().item()})  # fmt: skip
mi.figures.table(rows, title="What predicts an MLP's output")

# %%
by_linear_map = [row["linear map"] for row in rows]
left = {
    name: torch.tensor([1.0 - row[name] for row in rows]).mean()
    for name in ("linear map", "transcoder", "rows in wrong order")
}
claim("graph.transcoder", left["transcoder"] / left["linear map"],
      control=left["rows in wrong order"] / left["linear map"])  # fmt: skip

# %% [markdown]
# The first MLP of `pocket` is nearly linear; the features matter above it. The claim: what the
# transcoders leave unexplained, as a share of what the best linear map leaves.

# %% [markdown]
# ## 2. What the weights say
#
# What a feature writes stays in the stream, and a later feature reads the stream. So
# $W_{dec}[u] \cdot W_{enc}[:, v]$ says how much $u$ gives $v$ *whatever the text*, but for the
# scale of the LayerNorm: an **input-invariant** connection.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 2: the strongest inputs
# Return which earlier features change a later one most, by the size of the connection, strongest
# first. Inhibition counts.

# %% [markdown] tags=["hint"]
# All connections into one feature: `W_dec @ W_enc[:, unit]`.


# %% tags=["exercise"]
def strongest_inputs(W_dec, W_enc, unit, count):
    """W_dec: [early d]; W_enc: [d late]; unit: a late feature; count: int  ->  [count], indices."""
    raise NotImplementedError


# %% tags=["solution"]
def strongest_inputs(W_dec, W_enc, unit, count):
    return (W_dec @ W_enc[:, unit]).abs().topk(count).indices


# %% tags=["check"]
check.strongest_inputs(strongest_inputs)

# %% [markdown] short=true
# Which features mean what? For each label of the generator, `best_units` looks for the feature
# that tells its tokens from others best, on half of the texts, and scores it on the other half.

# %% short=true
found = [row | {"layer": layer} for layer, some in enumerate(acts)
         for row in sae.best_units(some, labelled)]  # fmt: skip
best = {}
for row in sorted(found, key=lambda row: row["f1"]):
    best[row["label"]] = {"label": row["label"], "layer": row["layer"], "unit": row["unit"],
                          "F1": row["f1"], "precision": row["precision"]}  # fmt: skip
by_f1 = sorted(best.values(), key=lambda row: -row["F1"])
mi.figures.table(by_f1, title="The feature that tells a label best")

# %% [markdown]
# Look for a unit that stands twice. `request_harmless` and `request_harmful` have the same best
# feature: it tells that there is a request, not which kind. So have `number=plural` and
# `number=singular`. At the top stand features that are nearly detectors; further down a name says
# less and less. What do the weights connect the top one with?

# %%
late, rows = by_f1[0], []
reads = transcoders[late["layer"]].W_enc[:, late["unit"]]
for layer in range(late["layer"]):
    connection = transcoders[layer].W_dec @ reads
    for unit in connection.abs().topk(2).indices.tolist():
        means = [row for row in found if (row["layer"], row["unit"]) == (layer, unit)]
        means = max(means, key=lambda row: row["f1"], default={"label": "none", "f1": 0.0})
        rows.append({"layer": layer, "unit": unit, "connection": connection[unit].item(),
                     "tells best": means["label"], "F1": means["f1"]})  # fmt: skip
mi.figures.table(rows, title=f"What gives most to the feature for {late['label']}, by weights")

# %% [markdown]
# In most of these layers the strongest connection comes from the feature that tells the *same*
# label best there. (`none`: the feature is the best for no label.) Is that a lucky case? Take all
# features that tell a label well, and for each pair across layers the share of the early layer's
# features that give *less* to the late one. By chance it would be a half.


# %%
def place_among(early, late):
    """The share of an early layer's features that give less to a late feature."""
    given = transcoders[early["layer"]].W_dec @ transcoders[late["layer"]].W_enc[:, late["unit"]]
    return (given < given[early["unit"]]).float().mean()


# %%
good = [row for row in found if row["f1"] > 0.6]
ranks = {}  # by label; "" for pairs that tell different labels
for one, two in ((one, two) for one in good for two in good if one["layer"] < two["layer"]):
    same = one["label"] == two["label"]
    ranks.setdefault(one["label"] if same else "", []).append(place_among(one, two))
apart = torch.stack(ranks.pop("")).mean()
alike = torch.stack([torch.stack(some).mean() for some in ranks.values()])
print(len(alike), "labels in two layers or more")
claim("graph.weights", alike.mean(), control=apart)

# %% [markdown]
# So features that tell the same label are wired to each other, far more than chance. The weights
# say that the late one *reads* what the early one *writes*. They do not say that this is how the
# label gets there: the words may have written the same direction before, the stream is also moved
# between tokens by attention, and how much arrives is a matter of the text. For that we hold one
# run still.

# %% [markdown] short=true
# ## 3. A run held still
#
# Two things in the model are not linear beside the MLPs: the softmax of attention and the scale of
# each LayerNorm. Take one prompt, and hold both as they are in it. Replace each MLP by its
# transcoder, hold the set of active features, and add as a constant what the transcoder misses, the
# **error**. This is the **local replacement model** [@ameisen2025tracing]. On this prompt it
# computes just what the model does. And it is linear: what a feature is made of can be *added up*.

# %% [markdown]
# By hand for one feature of the first MLP. Its sources are the words. Each reaches it in the
# stream, if it stands at the same place, and through six heads whose patterns are held.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: through a head that is held
# A head moves $x_s W_V W_O$ from each source $s$ to a query, as much as its pattern says. Return
# what each source adds along a direction, at one query.

# %% [markdown] tags=["hint"]
# `x @ W_V @ W_O @ direction` is one number for each source.


# %% tags=["exercise"]
def through_head(pattern, x, W_V, W_O, direction, query):
    """pattern: [query source]; x: [source d]; direction: [d]; query: int  ->  [source]."""
    raise NotImplementedError


# %% tags=["solution"]
def through_head(pattern, x, W_V, W_O, direction, query):
    return pattern[query] * (x @ W_V @ W_O @ direction)


# %% tags=["check"]
check.through_head(through_head)

# %% short=true
prompts = {kind: generator.prompt(kind, 100 + 1000 * seed, split="test") for kind in kinds}
tokens = pocket.to_tokens(prompts["request"].text)
query, W_E = tokens.shape[1] - 1, pocket.W_E
held = {
    place: acts[0]
    for place, acts in mi.sites.read(
        pocket, tokens, [("resid_pre", 0), ("pattern", 0), ("resid_mid", 0), ("mlp_in", 0)]
    ).items()
}


def scale_of(stream):
    """What LayerNorm divides by, [token 1]; the streams of this model have mean zero."""
    return (stream.square().mean(-1, keepdim=True) + pocket.cfg.eps).sqrt()


# %%
active = transcoders[0].encode(held["mlp_in", 0])[query]
unit = int(active.argmax())
direction = transcoders[0].W_enc[:, unit] / scale_of(held["resid_mid", 0])[query]


def given_by(stream):
    """What a part of the first stream adds to the feature at the query, [source]."""
    normal = stream / scale_of(held["resid_pre", 0])
    values = normal @ pocket.W_V[0] @ pocket.W_O[0] @ direction  # [head source]
    return (held["pattern", 0][query] * values).sum(0) + torch.where(
        torch.arange(len(stream)) == query, stream @ direction, 0.0
    )


# %%
from_words = given_by(W_E[tokens[0]])
from_places = given_by(pocket.W_pos[: tokens.shape[1]])
constant = pocket.b_O[0] @ direction + transcoders[0].b_enc[unit]
total = from_words.sum() + from_places.sum() + constant
print(f"words and constants {total:.4f}, the feature's activation {active[unit]:.4f}")
assert torch.isclose(total, active[unit], rtol=1e-3)

# %%
mi.figures.tokens_coloured(
    mi.heads.token_names(pocket, tokens[0]), from_words,
    title=f"Words that feature {unit} of layer 0 is made of, at the last token",
    unit="added to its activation",
)  # fmt: skip

# %% [markdown] short=true
# Blue words push the feature up, red ones down. The last token alone gives more than the whole
# activation; places and constants take the rest away. So this feature is mostly about where it
# stands.
#
# `attribution_graph` does this for every feature of every layer, and for the logits. Its nodes are
# tokens, features, errors and logits. `weights[target, source]` is the **direct effect**: what a
# source gives to a target through the stream, held attention and the skips, but through no other
# feature. Its row for our feature is the one by hand.


# %% short=true
def graph_of(prompt, through=transcoders):
    """The graph of a prompt whose logits are the right and the wrong answer."""
    ids = [pocket.to_single_token(word) for word in (prompt.answer, prompt.wrong)]
    return sae.attribution_graph(pocket, through, pocket.to_tokens(prompt.text), logits=ids)


graphs = {kind: graph_of(prompt) for kind, prompt in prompts.items()}
graph = graphs["request"]
node = next(i for i, n in enumerate(graph.nodes) if n[:4] == ("feature", 0, query, unit))
assert torch.allclose(graph.weights[node, : len(graph.tokens)], from_words.cpu(), atol=1e-3)

# %% [markdown]
# Is nothing lost? What reaches a node and its constants must sum to its value, for each of the
# thousands of nodes. The control leaves out what the errors give.


# %%
def largest_gap(graph, without=()):
    """The largest difference of a node's value from the sum of its inputs, in its unit."""
    targets = graph.where("feature", "logit")
    inputs = graph.weights.clone()
    if without:
        inputs[:, graph.where(*without)] = 0
    values = torch.tensor([n.value for n in graph.nodes])
    return (inputs.sum(1) + graph.biases - values)[targets].abs().max()


gaps = torch.stack([largest_gap(one) for one in graphs.values()])
without_errors = torch.stack([largest_gap(one, ["error"]) for one in graphs.values()])
claim("graph.exact", gaps.max(), control=without_errors.min())

# %% [markdown] short=true
# ## 4. Read a graph
#
# A graph has hundreds of nodes; most give next to nothing. The **influence** of a node says how
# much of the prediction comes through it. Each target shares itself out among its inputs by the
# *size* of what they give, so that shares sum to one. Follow the shares from the logits down, over
# paths of every length, and sum.

# %% [markdown] tags=["task"] minutes=15 difficulty=3 short=true
# ### Exercise 4: influence
# Return the influence of every node on one target. With $A$ the shares, `[target source]`, it is a
# row of $A + A^2 + A^3 + \dots = (1 - A)^{-1} - 1$. A node without inputs has nothing to share out:
# its row of $A$ is zero.

# %% [markdown] tags=["hint"]
# `size = weights.abs()`, then divide each row by its sum; a row of zeros stays zero
# (`clamp_min(1e-12)`).


# %% tags=["exercise"]
def influence(weights, target):
    """weights: [target source], without cycles; target: int  ->  [source]."""
    raise NotImplementedError


# %% tags=["solution"]
def influence(weights, target):
    size = weights.abs()
    shares = size / size.sum(1, keepdim=True).clamp_min(1e-12)
    eye = torch.eye(len(weights))
    return (torch.linalg.inv(eye - shares) - eye)[target]


# %% tags=["check"]
check.influence(influence)

# %% [markdown]
# `pruned` keeps the nodes that together hold a given share of the influence, below seven tenths.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 5: the fewest nodes
# Return how many nodes hold a share of all influence, if the strongest are taken first.

# %% [markdown] tags=["hint"]
# Sort downwards, sum up (`cumsum`), and count how many sums are below the share: one more node
# reaches it.


# %% tags=["exercise"]
def fewest_nodes(influence, share):
    """influence: [node]; share: between 0 and 1  ->  int."""
    raise NotImplementedError


# %% tags=["solution"]
def fewest_nodes(influence, share):
    held_by = influence.sort(descending=True).values.cumsum(0) / influence.sum()
    return int((held_by < share).sum()) + 1


# %% tags=["check"]
check.fewest_nodes(fewest_nodes)

# %% [markdown] short=true
# What do features mean? A **supernode** is a group of nodes that seem to mean the same. Here it is
# those of features that tell the same label best, each in its layer and with an F1 above four
# tenths; one that tells two labels best gets no name. (Labels such as `harmful=True` mark all
# tokens after the word that decides.)

# %% short=true
best_of = [row for row in found if row["f1"] > 0.4]
units = Counter((row["layer"], row["unit"]) for row in best_of)
tells = {(row["layer"], row["unit"]): row["label"] for row in best_of}
tells = {unit: label for unit, label in tells.items() if units[unit] == 1}


def supernodes(graph):
    """Features of a graph by the label that they tell best in their layer."""
    return {
        n: tells[n.layer, n.unit] for n in graph.nodes
        if n.kind == "feature" and (n.layer, n.unit) in tells
    }  # fmt: skip


# %% short=true
def contexts_of(graph):
    """The two texts on which each feature of a graph is most active."""
    out = {}
    for layer, feature in {(n.layer, n.unit) for n in graph.nodes if n.kind == "feature"}:
        strength = sae.on_texts(acts[layer][:, feature], labelled.real)
        top = sae.contexts(strength, labelled.real, top=2)
        out[layer, feature] = [
            (mi.heads.token_names(pocket, labelled.tokens[text][labelled.real[text]]), values)
            for text, values in zip(top.texts, top.values, strict=True)
        ]
    return out


# %% short=true
small = {kind: one.pruned(nodes=0.7, edges=0.9) for kind, one in graphs.items()}


def draw_graph(kind):
    """The interactive graph of one of the prompts."""
    one, title = small[kind], prompts[kind].text.replace("\n", " / ")
    return mi.figures.attribution(
        one, title=title, groups=supernodes(one), contexts=contexts_of(one), strongest=150
    )


mi.figures.explore(draw_graph, ahead=True, kind=kinds[::-1])

# %% [markdown] short=true
# Click on the right answer and go down along its strongest inputs, until you reach a word. Which
# supernode lies on the way? And how much comes from errors, the diamonds? Two scores sum that up:
# the **replacement score** is the share of influence that ends in tokens and not in errors, the
# **completeness score** the share of nodes' inputs that is no error.


# %%
def scores_of(one, few):
    """What is in a graph, before and after pruning."""
    return {
        "nodes": len(one),
        "nodes kept": len(few),
        "edges kept": int((few.weights != 0).sum()),
        "replacement": one.replacement_score(),
        "completeness": one.completeness_score(),
    }


rows = [{"prompt": kind, **scores_of(graphs[kind], small[kind])} for kind in kinds]
mi.figures.table(rows, title="Graphs of four prompts")

# %% [markdown]
# Such scores need a floor. Give every feature another feature's written row, and the error has to
# make up for it: the graph stays exact, and the score falls.

# %%
draw = torch.Generator().manual_seed(0)
shuffled = [
    replace(one, W_dec=one.W_dec[torch.randperm(one.d_sae, generator=draw)]) for one in transcoders
]
mixed = [graph_of(prompt, shuffled) for prompt in prompts.values()]


def mean_scores(some):
    """Mean replacement and completeness scores of graphs."""
    return torch.tensor([[g.replacement_score(), g.completeness_score()] for g in some]).mean(0)


scores, floor = mean_scores(graphs.values()), mean_scores(mixed)
claim("graph.replacement", scores[0], control=floor[0])
claim("graph.completeness", scores[1], control=floor[1])

# %% [markdown]
# Look at the controls: features that write nonsense still score nearly half, and on completeness
# well over half, for much of a graph runs through attention and skips. So read a score against its
# floor, not against zero.

# %% [markdown]
# A graph can be kept in a file, in the format that circuit-tracer's page opens, with supernodes.

# %%
with tempfile.TemporaryDirectory() as folder:
    chosen = supernodes(small["request"])
    groups = {name: [n for n in chosen if chosen[n] == name] for name in set(chosen.values())}
    path = Path(folder) / "request.json"
    sae.save_graph(small["request"], path, slug="request", scan="pocket", supernodes=groups)
    again, _ = sae.load_graph(path)
assert again.nodes == small["request"].nodes

# %% [markdown] short=true
# ## 5. Does it say what will happen?
#
# A graph is a prediction. The **total effect** of a node, over all its paths, is what the logit
# difference should lose if the node is removed. We set features to zero, one at a time, in three
# settings: in the local replacement model; in the model with patterns and scales held, where other
# features may switch on; and in the model as it is, where heads may attend elsewhere, too. Beside
# the graph stands a rival that needs none: activation times gradient, in the free model, by one
# backward pass ([notebook 06](06_attribution_patching.ipynb)).


# %% short=true
def metric_of(prompt):
    """The logit difference of a prompt's right and wrong answer."""
    ids = [pocket.to_single_token(word) for word in (prompt.answer, prompt.wrong)]
    return mi.metrics.LogitDiff(torch.tensor([ids]))


def by_gradient(prompt, nodes):
    """Activation times the gradient of the free model, for each feature [node]."""
    tokens, places = pocket.to_tokens(prompt.text), [("mlp_out", i) for i in range(n_layers)]
    found = mi.patching.gradients.slopes(pocket, tokens, metric_of(prompt), places)
    return torch.stack([
        found["mlp_out", n.layer][1][0, n.position] @ transcoders[n.layer].W_dec[n.unit] * n.value
        for n in nodes
    ])  # fmt: skip


# %% short=true
def removed(prompt, nodes, how):
    """What removing each feature takes from the logit difference, by running the model [node]."""
    tokens, metric = pocket.to_tokens(prompt.text), metric_of(prompt)
    lost, still = [], sae.frozen.frozen_run(pocket, transcoders, tokens)
    for node in nodes:
        runs = {
            "replacement": sae.local_replacement(pocket, transcoders, tokens, {node: 0.0}),
            "held": sae.set_features(pocket, transcoders, {node: 0.0}, frozen=still),
            "free": sae.set_features(pocket, transcoders, {node: 0.0}),
        }
        with runs[how]:
            lost.append(metric(pocket(tokens))[0])
    return metric(pocket(tokens))[0] - torch.stack(lost)


# %% short=true
def predictions(prompt, count):
    """Effects by graph and by gradient of the features for which both say most, and these."""
    graph = graph_of(prompt)
    features = [n for n in graph.nodes if n.kind == "feature"]
    right, wrong = graph.total([-2, -1])
    effect, slope = (right - wrong)[graph.where("feature")], by_gradient(prompt, features)
    top = (effect.abs() + slope.abs()).topk(count).indices
    return effect[top], slope[top], [features[i] for i in top]


# %% short=true
more = {
    (kind, i): generator.prompt(kind, 200 + 1000 * seed + i, split="test")
    for kind in kinds
    for i in range(2)
}
predicted, done = {}, {how: {} for how in ("replacement", "held", "free", "gradient")}
for key, prompt in more.items():
    predicted[key], done["gradient"][key], nodes = predictions(prompt, 5)
    done["replacement"][key] = removed(prompt, nodes[:1], "replacement")
    done["held"][key] = removed(prompt, nodes, "held")
    done["free"][key] = removed(prompt, nodes, "free")

# %%
exact = max((done["replacement"][key] - predicted[key][:1]).abs().max() for key in more)
assert exact < 1e-2, exact  # what the graph says of the replacement model holds to rounding
all_of = {how: torch.cat(list(found.values())) for how, found in done.items()}
said = torch.cat(list(predicted.values()))


def correlation(x, y):
    """Pearson's r of two lists of numbers."""
    return torch.corrcoef(torch.stack([x, y]))[0, 1]


# %% short=true
mi.figures.scatter(
    torch.cat([said, all_of["gradient"]]), torch.cat([all_of["free"]] * 2),
    groups=["graph"] * len(said) + ["activation x gradient"] * len(said), identity=True,
    title="Removing one feature: predicted and done, in the free model",
    xlabel="predicted loss of logit difference", ylabel="loss in the free model",
)  # fmt: skip

# %%
rows = []
for name, x, y in (
    ("graph, patterns and scales held", said, all_of["held"]),
    ("graph, free", said, all_of["free"]),
    ("activation x gradient, free", all_of["gradient"], all_of["free"]),
):
    rows.append({"prediction": name, "correlation": correlation(x, y).item(),
                 "slope": (x @ y / x.square().sum()).item()})  # fmt: skip
mi.figures.table(rows, title="Predictions against interventions")

# %%
held_r, free_r, gradient_r = (row["correlation"] for row in rows)
claim("graph.held", held_r, control=free_r)
claim("graph.gradient", gradient_r, control=free_r)

# %% [markdown] short=true
# With patterns and scales held, the graph predicts well, though the MLPs are the model's own there.
# In the free model it predicts less well. (We took the features for which the two predictions
# together are largest, so that neither chose alone.) What differs is all that was held: where heads
# look, and the scales. **One backward pass predicts the free model
# better** than the graph does. It holds neither still; but it tells no paths.

# %% [markdown]
# ## 6. Are the labels on the path?
#
# Here the truth is known. A harmful request is declined *because* it is harmful. So at the last
# token the features that carry influence should be those that are active after harmful requests,
# more than the others that are active there. For each label and feature, take the share of its
# activation that falls on tokens with the label. Weigh the shares on the true label once by
# influence and once by activation, and divide. Beside it, the same for the other label.

# %%
marks = {name: labelled.flat(name).float() for name in labelled.labels}


def shares_of(marked):
    """For each layer, the share of every feature's activation on marked tokens [feature]."""
    return [some.T @ marked / some.sum(0).clamp_min(1e-9) for some in acts]


share_on = {name: shares_of(marked) for name, marked in marks.items()}

# %%
requests = [generator.prompt("request", 400 + 1000 * seed + i, split="test") for i in range(4)]
of_request = [graph_of(prompt) for prompt in requests]


def mean_share(graph, label, weight):
    """Weighted mean share on a label of the features at the last token; weight: [node]."""
    there = [
        i for i, n in enumerate(graph.nodes)
        if n.kind == "feature" and n.position == len(graph.tokens) - 1
    ]  # fmt: skip
    share = torch.stack([share_on[label][graph.nodes[i].layer][graph.nodes[i].unit] for i in there])
    return (share * weight[there]).sum() / weight[there].sum()


# %%
def preference(true):
    """Mean share on the true label (or the other) by influence, over that by activation."""
    by_influence, by_activation = [], []
    for prompt, one in zip(requests, of_request, strict=True):
        label = f"harmful={prompt.labels['harmful'] == true}"
        by_influence.append(mean_share(one, label, one.influence()))
        by_activation.append(mean_share(one, label, torch.tensor([n.value for n in one.nodes])))
    return sum(by_influence) / sum(by_activation)


print(f"true label {preference(True):.2f}, other label {preference(False):.2f}")

# %% [markdown]
# Features with the true label have more of the influence than of the activation. But so have, to
# nearly the same extent, features with the *other* label: perhaps influence goes to features that
# are about requests, and the graph as a whole does not say which kind. So this is no evidence that
# the truth lies on the path, though the first number alone would look like it.

# %% [markdown]
# Now act on a whole supernode: in a request that is *answered*, the features of whose activation
# more than six tenths falls after harmless requests. **Inhibit** them: set them to zero.
# **Inject** them: set them, in a request that is declined, to what they were in the other, at the
# same distance from the end. We do so apart for those below the last layer and in it (where a
# feature's effect is what it writes, no more). Beside them: for each of the last layer another at
# the same place, where there is one, silent in the declined request and with the nearest
# activation.


# %%
def answers(prompt, values=None):
    """The logit difference between answering and declining, with features set to values."""
    tokens, sign = pocket.to_tokens(prompt.text), -1 if prompt.labels["harmful"] else 1
    with contextlib.ExitStack() as stack:
        if values:
            stack.enter_context(sae.set_features(pocket, transcoders, values))
        return sign * metric_of(prompt)(pocket(tokens))[0].item()


# %%
def active_in(tokens):
    """The features that are active in a prompt, as nodes of its graph."""
    read = mi.sites.read(pocket, tokens, sites[:n_layers])
    strength = [one.encode(read["mlp_in", i][0]) for i, one in enumerate(transcoders)]
    return [sae.Node("feature", layer, place, unit, float(some[place, unit]))
            for layer, some in enumerate(strength)
            for place, unit in some.nonzero().tolist() if place]  # fmt: skip


def matched(nodes, chosen, busy=()):
    """Others of some features at the same layers and places, not busy, of nearest activations."""
    free, out = set(nodes) - set(chosen), []
    for node in chosen:
        near = [n for n in free - set(out) if n[1:3] == node[1:3] and n[1:4] not in busy]
        out += sorted(near, key=lambda n: abs(n.value - node.value))[:1]
    return out


# %%
def groups_of(nodes, busy=()):
    """Features that go with harmless requests, by layer; and others like those of the last."""
    chosen = [n for n in nodes if share_on["harmful=False"][n.layer][n.unit] > 0.6]
    low, high = (
        [n for n in chosen if (n.layer < n_layers - 1) == below] for below in (True, False)
    )
    assert low and high, "an empty group proves nothing"
    return {"below": low, "last layer": high, "others": matched(nodes, high, busy)}


# %%
def both_ways(i):
    """Logit differences of an answered and a declined request, each group inhibited, injected."""
    drawn = 500 + 1000 * seed + i
    good, bad = (generator.prompt("request", drawn, harmful=harmful) for harmful in (False, True))
    here, there = (pocket.to_tokens(prompt.text) for prompt in (good, bad))
    by = there.shape[1] - here.shape[1]
    row = {"answered": answers(good), "declined": answers(bad)}
    busy = {(n.layer, n.position - by, n.unit) for n in active_in(there)}  # active there as well
    for name, nodes in groups_of(active_in(here), busy).items():
        moves = [(n, n._replace(position=n.position + by)) for n in nodes if n.position + by > 0]
        row[f"inhibit: {name}"] = answers(good, dict.fromkeys(nodes, 0.0))
        row[f"inject: {name}"] = answers(bad, {moved: n.value for n, moved in moves})
    return row


# %%
rows = [both_ways(i) for i in range(4)]
mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
order = sorted(mean, key=lambda name: name in ("declined",) or "inject" in name)
mi.figures.bars(
    [mean[name] for name in order], order, horizontal=True,
    title="Features with one label: those of the last layer matter, those below do not",
    xlabel="logit difference, answers less declines",
)  # fmt: skip

# %%
lost = {name: sum(abs(row["answered"] - row[f"inhibit: {name}"]) for row in rows) / len(rows)
        for name in ("below", "last layer")}  # fmt: skip
claim("graph.supernode", lost["below"] / mean["answered"],
      control=lost["last layer"] / mean["answered"])  # fmt: skip
back = {name: mean[f"inject: {name}"] - mean["declined"] for name in ("last layer", "others")}
claim("graph.injected", back["last layer"] / -mean["declined"],
      control=back["others"] / -mean["declined"])  # fmt: skip
good = generator.prompt("request", 500, harmful=False)
example = groups_of(active_in(pocket.to_tokens(good.text)))
print({name: len(nodes) for name, nodes in example.items()})
print("in the last layer:", *map(str, example["last layer"]))

# %% [markdown]
# In the last layer stand a few such features, and there only those at the last token can matter
# (behind the `@` stands the place): one or two, and what they write is close to the answer itself.
# A feature for *saying yes* would look the same. Taking them away costs most of the answer's lead;
# set in a declined request they take back much of the decline's. Below, more features with the same
# label can be removed at little cost. **A label says what a feature goes with, not what it does.**

# %% [markdown]
# ## 7. What the graph cannot show
#
# Attention patterns are held. So a graph says what heads *moved*, never why they looked there. How
# much can that hide? Take the word that decides a prompt (the subject of a fact, the noun that the
# verb belongs to), and write another of the same length. The answer changes. Now run the changed
# prompt with the attention patterns of the *old* one. What is left of the change needed no new
# patterns; what is gone needed them, alone or together with the new word, and a graph with held
# patterns cannot explain it. (Scales of norms are left free here.)

# %%
from itertools import islice

from mi_data.pocket.lexicon import LEXICON

number_of = {}
for one, many, *_ in LEXICON["count_nouns"]:
    number_of |= {one: many, many: one}


def changed(prompt, i):
    """The prompt with another subject: of the other number, or of another fact."""
    span = prompt.spans[0]
    if prompt.kind == "agreement":
        word = number_of[span.value]
    else:
        word = generator.prompt("fact", i, relation=prompt.labels["relation"]).labels["subject"]
    return prompt.text[: span.start] + word + prompt.text[span.end :]


# %%
def with_patterns(tokens, old, heads, metric):
    """The metric of a run in which heads, (layer, head), have the patterns of another run."""

    def put(layer):
        def swap(acts, where):
            for head in [head for at, head in heads if at == layer]:
                acts[:, :, head] = old["pattern", layer][:, :, head]
            return acts

        return swap

    keep = {("pattern", layer): put(layer) for layer in {layer for layer, _ in heads}}
    with mi.interventions.intervene(pocket, keep):
        return metric(pocket(tokens))[0]


# %%
patterns = [("pattern", layer) for layer in range(n_layers)]
every = [(layer, head) for layer in range(n_layers) for head in range(pocket.cfg.n_heads)]


def three_runs(prompt, i):
    """Logit differences: clean, changed, changed with the clean run's patterns; or None."""
    tokens, other = pocket.to_tokens(prompt.text), pocket.to_tokens(changed(prompt, i))
    if tokens.shape != other.shape or (tokens == other).all():
        return None
    old, metric = mi.sites.read(pocket, tokens, patterns), metric_of(prompt)
    clean, free = metric(pocket(tokens))[0], metric(pocket(other))[0]
    same = with_patterns(tokens, old, every, metric)
    assert torch.isclose(same, clean, atol=1e-3)  # changes nothing
    return torch.stack([clean, free, with_patterns(other, old, every, metric)])


# %%
seen_of = {}
for kind in ("fact", "agreement"):
    tried = (generator.prompt(kind, 300 + 1000 * seed + i, split="test") for i in range(200))
    runs = (three_runs(prompt, 900 + i) for i, prompt in enumerate(tried))
    runs = torch.stack([*islice((run for run in runs if run is not None), 20)])
    assert len(runs) == 20  # prompts whose two words have as many tokens
    seen_of[kind] = runs.mean(0)
    numbers = ", ".join(f"{x:.1f}" for x in seen_of[kind].tolist())
    print(f"{kind}: clean, changed, changed with old patterns: {numbers}")
kept = {kind: (run[0] - run[2]) / (run[0] - run[1]) for kind, run in seen_of.items()}
claim("graph.patterns", kept["agreement"], control=kept["fact"])

# %% [markdown]
# When a fact's subject changes, its old answer is lost with the old patterns too. The verb's number
# hardly changes: **the patterns themselves carry the number**, and why they differ, a graph with
# held patterns cannot say, whatever its scores. It has an edge from the noun through a head, and
# the edge looks as if the noun's content had been moved.
#
# Whose pattern? Take prompts with a plural subject, and the same with a singular one. Run the
# plural one, and give one head at a time its pattern of the singular one.


# %%
def number_pair(prompt):
    """Tokens with a singular and a plural subject, its place before the end, the metric."""
    plural, singular = (pocket.to_tokens(text) for text in (prompt.text, changed(prompt, 0)))
    if prompt.labels["number"] != "plural" or plural.shape != singular.shape:
        return None
    key = int((plural != singular)[0].nonzero()[0])
    return None if key == plural.shape[1] - 1 else (singular, plural, key, metric_of(prompt))


tried = (generator.prompt("agreement", 600 + 1000 * seed + i, split="test") for i in range(200))
pairs = [*islice((pair for pair in map(number_pair, tried) if pair), 24)]
assert len(pairs) == 24
ends = [
    (metric(pocket(singular))[0], metric(pocket(plural))[0],
     mi.sites.read(pocket, singular, patterns))
    for singular, plural, _, metric in pairs
]  # fmt: skip


# %%
def left(which, heads):
    """The share of a plural subject's effect that is left with a singular one's patterns."""
    singular, plural, mixed = torch.stack([
        torch.stack([low, high, with_patterns(pairs[i][1], old, heads, pairs[i][3])])
        for i in which for low, high, old in [ends[i]]
    ]).mean(0)  # fmt: skip
    return (mixed - singular) / (plural - singular)


gone = torch.stack([1 - left(range(4), [place]) for place in every]).view(n_layers, -1)
mi.figures.heatmap(
    gone, title="What the old pattern of one head takes away", xlabel="head", ylabel="layer",
    colorbar="share of the effect",
)  # fmt: skip

# %%
chosen, asked = every[int(gone.argmax())], pairs[4:]
rest = [place for place in every if place != chosen]
print("layer, head:", chosen)
others = range(4, len(pairs))
claim("graph.head", left(others, [chosen]), control=left(others, rest))


def looks(tokens, key, nodes=()):
    """How much the head looks from the end at a key, with features removed."""
    layer, head = chosen
    with contextlib.ExitStack() as stack:
        if nodes:
            stack.enter_context(sae.set_features(pocket, transcoders, dict.fromkeys(nodes, 0.0)))
        seen = mi.sites.read(pocket, tokens, [("pattern", layer)])
    return seen["pattern", layer][0, -1, head, key]


# %% [markdown]
# One head in the last layer does it, found on four pairs and tested on others. What makes it look
# elsewhere? Its score for a place is a query times a key. Hold the query and the norm's scale at
# the key: then the score is linear in the stream there, and each feature adds its share. That is a
# **QK attribution** [@kamath2025attention] summed over the query: the method in full takes the
# query apart as well, and has a number for each *pair* of features.


# %%
def scored(tokens, key, query=None):
    """The query, its scores, the features at a key and what each adds there [layer feature]."""
    layer, head = chosen
    places = [("resid_pre", layer), *(("mlp_in", i) for i in range(layer))]
    seen = {place: acts[0] for place, acts in mi.sites.read(pocket, tokens, places).items()}
    scale, W_K = scale_of(seen["resid_pre", layer]), pocket.W_K[layer, head]
    stream = seen["resid_pre", layer] / scale
    own = stream[-1] @ pocket.W_Q[layer, head] + pocket.b_Q[layer, head]
    query = own / pocket.cfg.d_head**0.5 if query is None else query
    scores = (stream @ W_K + pocket.b_K[layer, head]) @ query
    reads = W_K @ query / scale[key]
    active = torch.stack([transcoders[i].encode(seen["mlp_in", i][key]) for i in range(layer)])
    adds = active * torch.stack([transcoders[i].W_dec @ reads for i in range(layer)])
    return query, scores, active, adds


# %%
def named(pair):
    """The six features that add most for the plural, the six most active others; and a share."""
    singular, plural, key, _ = pair
    query, scores, active, after = scored(plural, key)
    _, old, _, before = scored(singular, key, query)
    assert torch.isclose(scores.softmax(0)[key], looks(plural, key), atol=1e-3)
    top = (after - before).flatten().topk(6).indices
    others = active.flatten().index_fill(0, top, 0.0).topk(6).indices
    width, values = active.shape[1], active.flatten()
    sets = [[sae.Node("feature", i // width, key, i % width, float(values[i])) for i in some]
            for some in (top.tolist(), others.tolist())]  # fmt: skip
    return *sets, (after - before).sum() / (scores - old)[key]


# %%
groups = [named(pair) for pair in asked]
often = Counter((n.layer, n.unit) for top, *_ in groups for n in top)
share = sum(one[2] for one in groups) / len(groups)
mi.figures.table(
    [{"feature": f"L{layer}F{unit}", "share of pairs": count / len(asked),
      "tells best": tells.get((layer, unit), "none")}
     for (layer, unit), count in often.most_common(6)],
    title=f"What adds most to the score; all features, {share:.0%} of the difference",
)  # fmt: skip

# %% [markdown]
# Among the first are features that tell a plural subject. (`none`: the feature is the best for no
# label, or for two.) What is not from features is from words, from earlier heads, from skips and
# errors. Now remove the six of each pair, in the free model, and see how much less the head looks
# at the subject. The control removes six others.

# %%
free = sum(looks(plural, key) for _, plural, key, _ in asked)
cut = [sum(looks(pair[1], pair[2], some[i]) for pair, some in zip(asked, groups, strict=True))
       for i in (0, 1)]  # fmt: skip
at_one = sum(looks(singular, key) for singular, _, key, _ in asked)
print(f"at a plural subject {free / len(asked):.2f}, at a singular one {at_one / len(asked):.2f}")
claim("graph.keys", 1 - cut[0] / free, control=1 - cut[1] / free)

# %% [markdown]
# So one head looks at plural subjects, and six features at the subject account for about half of
# that. That it looks there *is* the message. A graph with held patterns has the head, and cannot
# have this.
#
# Nor does a graph show what was *not* active, though a prediction may need a feature to be silent;
# nor what is inside an error.

# %% [markdown] short=true
# ## Summary
#
# - A transcoder reads before an MLP and writes after it; a skip takes what is linear. Above the
#   first layer its features explain much that the best linear map does not.
# - By the weights alone, features that tell the same label give to each other from layer to layer.
# - With patterns, scales and active features held, a run is linear, and the inputs of every node
#   add up to it. That is exact and says nothing yet about what happens otherwise.
# - An attribution graph predicts interventions where patterns and scales are held. In the free
#   model it predicts less well, and activation times gradient predicts better.
# - It predicts whole supernodes too, where patterns and scales are held. What the generator says
#   should decide has more influence than by chance, mostly as features that tell it are active
#   there; for requests the labels do not tell which way.
#   (Appendices have the tests, a swap of features, and what errors and silent features hide.)
# - Features with a label need not do what the label says: many can be removed at little cost.
# - What the graph holds still can be what decides: the number of a verb comes through the pattern
#   of one head. A QK attribution names features that make it look, in part.
#
# One model, one set of small transcoders, short prompts: on `pocket`. Whether longer graphs of
# larger models do better cannot be said from here; the test is the same.
#
# **Where to read on.** [@ameisen2025tracing] for the method, [@lindsey2025biology] for what it was
# used on; [@dunefsky2024transcoders] for circuits from transcoders; [@paulo2025transcoders] for the
# skip.

# %% [markdown]
# ## Appendix: do the paths carry what decides?
#
# The generator knows which words decide each text. So of a graph one can ask: do its features tell
# what *should* decide? Five kinds: a **fact**, by its subject and its relation; an **opinion**, by
# the words that praise or blame; a **verb**, by the number of its subject, across a noun of the
# other number; a **request** that is declined, by what it asks; an **indirect object**, by the
# names. (The two-step facts of [@lindsey2025biology] have no like here: the text of `pocket` states
# every fact in one step. So a plain fact stands for them.)
#
# First the labels. To the texts from above come more facts and opinions, and a label for each
# relation: it marks the words of a fact beside its subject and its answer.

# %%
more_texts = [
    generator.sample(kind, 19000 + 1000 * seed + i, split="test")
    for kind, count in (("fact", 150), ("opinion", 75))
    for i in range(count)
]
told = sae.label_tokens(pocket, more_texts, least=15)
words = told.real & ~told.labels["subject"] & ~told.labels["answer"]
relations = [str(text.labels.get("relation", "")) for text in more_texts]
told.labels.update({
    f"relation={name}": words & torch.tensor([one == name for one in relations])[:, None]
    for name in sorted({*relations} - {""})
})  # fmt: skip
read = mi.sites.read(pocket, told.tokens, sites[:n_layers])
told_acts = [one.encode(read["mlp_in", i][told.real]) for i, one in enumerate(transcoders)]

# %% [markdown]
# Each feature gets the label that its activation correlates with most, or none if that is little.
# (Above, each label got a feature.) Most correlate weakly, so one such name says little.

# %%
names = sorted({*labelled.labels, *told.labels})


def moments(strength, texts):
    """Sums over tokens: of activations, labels, their squares and their product [unit label]."""
    none = torch.zeros(len(strength), device=strength.device)
    marks = [texts.flat(n).to(none) if n in texts.labels else none for n in names]
    marks = torch.stack(marks, dim=1)
    squares = strength.square().sum(0)[:, None]  # a label's square is itself
    return len(none), strength.sum(0)[:, None], marks.sum(0), squares, strength.T @ marks


# %%
def name_index(strengths):
    """Which label a feature goes with, as an index into `names`; -1 for none [unit]."""
    parts = [moments(*one) for one in zip(strengths, (labelled, told), strict=True)]
    n, a, m, aa, am = (one + other for one, other in zip(*parts, strict=True))
    r = (n * am - a * m) / ((n * aa - a * a) * (n * m - m * m)).clamp_min(1e-9).sqrt()
    best = r.max(1)
    return torch.where(best.values > 0.2, best.indices, -1)


name_of = torch.stack([name_index(both) for both in zip(acts, told_acts, strict=True)]).cpu()

# %% [markdown]
# What decides, and what would decide otherwise? For the indirect object it is the two names, and
# beside them what else the generator marks in such a text.

# %%
from fnmatch import fnmatch

family = {
    "fact": ("subject", "relation=*"), "opinion": ("evidence_*", "sentiment=*"),
    "agreement": ("subject_*", "number=*"), "request": ("request_*", "harmful=*"),
    "ioi": ("IO1", "S1", "S2", "place", "object", "third"),
}  # fmt: skip


# %%
def deciding(kind, prompt):
    """Of the features, [layer unit]: which tell what decides, and which another value of it."""
    own = {str(value) for value in prompt.labels.values()} | {"IO1", "S1", "S2", "subject"}
    own |= {"harmful" if prompt.labels.get("harmful") else "harmless"}
    about = {i for i, n in enumerate(names) if any(fnmatch(n, one) for one in family[kind])}
    right = {i for i in about if names[i] in own or names[i].endswith(
        tuple(mark + value for value in own for mark in "_="))}  # fmt: skip
    return [torch.isin(name_of, torch.tensor(sorted(some))) for some in (right, about - right)]


# %%
ask = {"request": {"harmful": True}, "agreement": {"number": "plural", "distractor": "singular"}}


def drawn(kind, start):
    """The first short prompt of a kind, from a draw on, that the model answers rightly."""
    for i in range(start, start + 100):
        prompt = generator.prompt(kind, i + 1000 * seed, split="test", **ask.get(kind, {}))
        tokens = pocket.to_tokens(prompt.text)
        if tokens.shape[1] < 26 and metric_of(prompt)(pocket(tokens))[0] > 0:
            return prompt
    raise ValueError(f"no such {kind} from {start} on")


cases = {kind: [drawn(kind, 100 * i) for i in range(3)] for kind in family}
case_graphs = {kind: [graph_of(prompt) for prompt in some] for kind, some in cases.items()}

# %% [markdown]
# For each kind, the share of the features' influence on those that tell what decides. Beside it:
# their share of the activation; the share that they would have if each layer's labels were dealt
# out anew, in the mean over all ways; and the share of those that tell another value: another
# relation, blame for praise, singular for plural, harmless for harmful.


# %%
def shares(graph, hit):
    """Share of some features in influence and activation; and with labels dealt out anew."""
    nodes = [n for n in graph.nodes if n.kind == "feature"]
    layer, unit = torch.tensor([(n.layer, n.unit) for n in nodes]).T
    flow = graph.influence()[graph.where("feature")]
    active, chance = torch.tensor([n.value for n in nodes]), hit.float().mean(1)[layer]
    weighed = (hit[layer, unit], flow), (hit[layer, unit], active), (chance, flow)
    return torch.stack([(one * weight).sum() / weight.sum() for one, weight in weighed])


on_path = {}  # by kind: of what decides, and of what would decide otherwise [group share]
for kind, some in cases.items():
    both = [[shares(graph, hit) for hit in deciding(kind, prompt)]
            for prompt, graph in zip(some, case_graphs[kind], strict=True)]  # fmt: skip
    on_path[kind] = torch.stack([torch.stack(one) for one in both]).mean(0)

# %%
mi.figures.table(
    [{"kind": kind, "decides": one[0, 0].item(), "by activation": one[0, 1].item(),
      "labels dealt out anew": one[0, 2].item(), "another value": one[1, 0].item()}
     for kind, one in on_path.items()],
    title="Share of the influence of features that tell what decides",
)  # fmt: skip

# %%
every_kind = torch.stack(list(on_path.values()))
claim("graph.path_labels", every_kind[:, 0, 0].mean(), control=every_kind[:, 0, 2].mean())
ratio = {kind: one[1, 0] / one[0, 0] for kind, one in on_path.items()}
plain = torch.stack([ratio[kind] for kind in family if kind != "request"])
claim("graph.other_value", plain.mean(), control=ratio["request"])

# %% [markdown]
# In all five, what decides has several times the influence that chance would give it. Most of that
# is no merit of the paths: such features are active in such a prompt, and by activation alone their
# share is several times that of chance already. Influence adds to that in four kinds, at best about
# as much again, and takes some away for the request. In four it
# has more than its other value, for the verb by far. **Not for the request**: features that tell
# *harmless* requests have more influence than those that tell harmful ones, in prompts that are all
# declined. So it is as in section 6: these paths go through what requests are about, and the labels
# do not say which way. What carries most in each?

# %%
rows = []
for kind, (graph, *_) in case_graphs.items():
    right, wrong = graph.total([-2, -1])
    share = graph.influence() * graph.where("feature")
    for i in share.topk(3).indices.tolist():
        node = graph.nodes[i]
        tells_it = int(name_of[node.layer, node.unit])
        rows.append({"kind": kind, "feature": graph.label(node),
                     "tells": "none" if tells_it < 0 else names[tells_it],
                     "influence": (share[i] / share.sum()).item(),
                     "total effect": (right - wrong)[i].item()})  # fmt: skip
for kind, (prompt, *_) in cases.items():
    print(f"{kind}: {prompt.text!r} ->{prompt.answer} (not{prompt.wrong})")
mi.figures.table(rows, title="The features with most influence in one graph of each kind")

# %% [markdown]
# (Behind the `@` stands a feature's place.) The verb is the plainest: first come features that tell
# a *plural subject*, at the noun and at the end, though the noun beside it is singular. The opinion
# has one for blame at the end. For the request and the indirect object the first are features that
# tell nothing we have a name for.
#
# And the indirect object? Its right answer is the name that stands once. The total effects of the
# names' tokens, in three graphs, and how large those of other tokens are:

# %%
mentions = []
for prompt, graph in zip(cases["ioi"], case_graphs["ioi"], strict=True):
    right, wrong = graph.total([-2, -1])
    effect = (right - wrong)[: len(graph.tokens)]
    io, s = (torch.tensor([token == word for token in graph.tokens])
             for word in (prompt.answer, prompt.wrong))  # fmt: skip
    first, *_, last = s.nonzero()[:, 0].tolist()
    rest = effect[~io & ~s].abs().mean()
    mentions.append(torch.stack([effect[io].sum(), effect[first], effect[last], rest]))

# %%
io, first, last, rest = torch.stack(mentions).mean(0)
mi.figures.bars(
    [x.item() for x in (io, first, last, rest)],
    ["indirect object", "subject", "repeated", "others, mean"],
    title="The repeated name speaks against itself", ylabel="total effect on the logit difference",
)  # fmt: skip

# %%
claim("graph.ioi_mentions", last / -first, control=rest / -first)

# %% [markdown]
# Where it first stands, each name speaks for itself, to about the same extent; the *repeated*
# subject speaks against itself and so decides. ([Notebook 07](07_paths_and_circuits.ipynb) found a
# head that writes against the last name.) That goes through what is moved, with patterns held. In
# the circuit that was found in GPT-2 small [@wang2022ioi] the repeated name steers where later
# heads *look*, so a graph would lack it. Does `pocket` not need the patterns? Test it as in section
# 7: write the *other* name where the subject is repeated, so that the answer turns round, and keep
# the old patterns.


# %%
def ioi_runs(prompt):
    """Logit differences: clean, other name repeated, the same with the clean run's patterns."""
    span = [span for span in prompt.spans if span.role == "S2"][-1]
    turned = prompt.text[: span.start] + prompt.labels["IO"] + prompt.text[span.end :]
    tokens, other = pocket.to_tokens(prompt.text), pocket.to_tokens(turned)
    old, metric = mi.sites.read(pocket, tokens, patterns), metric_of(prompt)
    ends = metric(pocket(tokens))[0], metric(pocket(other))[0]
    return torch.stack([*ends, with_patterns(other, old, every, metric)])


runs = torch.stack([ioi_runs(drawn("ioi", 2000 + 100 * i)) for i in range(12)]).mean(0)
print("clean, other name repeated, with old patterns:", *(f"{x:.1f}" for x in runs.tolist()))
claim("graph.ioi_patterns", (runs[0] - runs[2]) / (runs[0] - runs[1]), control=kept["agreement"])

# %% [markdown]
# The answer turns round with the old patterns too. So for this the graph of `pocket` has the
# reason, as for a fact; for the verb it has not.

# %% [markdown]
# ## Appendix: supernodes, removed and swapped
#
# In section 5 features were removed one by one. A reader of a graph thinks in supernodes. What does
# the graph say of a whole one? What a member gives through another member must not count twice; so
# cut what members are given, and add up their total effects. In the local replacement model that is
# exact.


# %%
def said_of(graph, group):
    """What removing a group of features takes from the logit difference, by the graph."""
    rows = torch.tensor([node in group for node in graph.nodes])
    right, wrong = replace(graph, weights=graph.weights * ~rows[:, None]).total([-2, -1])
    return (right - wrong)[rows].sum()


# %%
from functools import lru_cache


@lru_cache(maxsize=1)
def still(tokens):
    """The run of a prompt held still; kept for the last one that was asked for."""
    return sae.frozen.frozen_run(pocket, transcoders, tokens)


def with_values(tokens, metric, values, how):
    """The logit difference in a run with features set, in one of three settings."""
    ways = {
        "replacement": lambda: sae.local_replacement(pocket, transcoders, tokens, values),
        "held": lambda: sae.set_features(pocket, transcoders, values, frozen=still(tokens)),
        "free": lambda: sae.set_features(pocket, transcoders, values),
    }
    with ways[how]():
        return metric(pocket(tokens))[0]


# %%
def by_name(graph, count):
    """The supernodes of a graph with most influence, each of two features or more."""
    found = {}
    for node, weight in zip(graph.nodes, graph.influence().tolist(), strict=True):
        if node.kind == "feature" and (label := int(name_of[node.layer, node.unit])) >= 0:
            found.setdefault(label, []).append((node, weight))
    ordered = sorted(found.values(), key=lambda some: -sum(weight for _, weight in some))
    return [[node for node, _ in some] for some in ordered if len(some) > 1][:count]


# %% [markdown]
# Here a supernode is all of a graph's features with one label, of every layer. Remove the two with
# most influence in two graphs of each kind; beside each, as many others at the same layers and
# places with the nearest activations.

# %%
removals = []  # [said, held, free] for supernodes and for their others
for kind, some in cases.items():
    for prompt, graph in zip(some[:2], case_graphs[kind], strict=False):
        tokens, metric = pocket.to_tokens(prompt.text), metric_of(prompt)
        clean = metric(pocket(tokens))[0]
        for group in by_name(graph, 2):
            for one in (group, matched([n for n in graph.nodes if n.kind == "feature"], group)):
                out = dict.fromkeys(one, 0.0)
                done = [clean - with_values(tokens, metric, out, how) for how in ("held", "free")]
                removals.append(torch.stack([said_of(graph, set(one)), *done]))
removals = torch.stack(removals).view(-1, 2, 3)
# %%
tokens, metric = pocket.to_tokens(prompt.text), metric_of(prompt)  # the last one, to the letter
exact = metric(pocket(tokens))[0] - with_values(
    tokens, metric, dict.fromkeys(group, 0.0), "replacement"
)
assert torch.isclose(exact, said_of(graph, set(group)), atol=1e-2)

# %%
mi.figures.scatter(
    torch.cat([removals[:, 0, 0]] * 2), removals[:, 0, 1:].T.flatten(),
    groups=["patterns and scales held"] * len(removals) + ["free"] * len(removals), identity=True,
    title="Removing a supernode: predicted and done",
    xlabel="predicted loss of logit difference", ylabel="measured loss",
)  # fmt: skip

# %%
rows = []
for name, column in (("supernodes", 0), ("others of the same activation", 1)):
    x, *both = removals[:, column].T
    for how, y in zip(("held", "free"), both, strict=True):
        rows.append({"removed": name, "patterns and scales": how,
                     "correlation": correlation(x, y).item(),
                     "slope": (x @ y / x.square().sum()).item(),
                     "mean size": y.abs().mean().item()})  # fmt: skip
mi.figures.table(rows, title="Whole groups: predictions against interventions")

# %%
x, y = removals[:, 0, 0], removals[:, 0, 1]
draw = torch.Generator().manual_seed(seed)
mixed_up = [y[torch.randperm(len(y), generator=draw)] for _ in range(20)]
claim("graph.groups", correlation(x, y), control=max(correlation(x, other) for other in mixed_up))
slopes = torch.stack([x @ other / x.square().sum() for other in mixed_up])
claim("graph.groups_slope", rows[0]["slope"], control=slopes.mean())
claim("graph.groups_size", rows[1]["mean size"], control=rows[3]["mean size"])

# %% [markdown]
# For whole supernodes the graph is right where patterns and scales are held, also for how *much*:
# the slope is about one. (The controls pair predictions with the wrong measurements: the best of
# twenty such correlations, and their mean slope.) In the free model it is right in kind about the
# few large supernodes, and of the small ones and of the others it says little. And supernodes that
# the graph names as influential do matter, much more than others of the same activation.
#
# By hand, too. Here are features of the verb's prompts that a reader would put together after
# looking at their contexts, as we did: each is active on plural subjects, at the noun itself.

# %%
by_hand = {(2, 302), (3, 207), (4, 164), (4, 293), (4, 720)}  # (layer, feature)
rows = []
for prompt, graph in zip(cases["agreement"], case_graphs["agreement"], strict=True):
    tokens, metric = pocket.to_tokens(prompt.text), metric_of(prompt)
    features = [n for n in graph.nodes if n.kind == "feature"]
    group = [n for n in features if (n.layer, n.unit) in by_hand]
    lead, row = metric(pocket(tokens))[0], {"prompt": prompt.text, "features": len(group)}
    for name, some in (("", group), ("others, ", matched(features, group))):
        out = dict.fromkeys(some, 0.0)
        row[f"{name}predicted"] = (said_of(graph, set(some)) / lead).item()
        for how in ("held", "free"):
            row[name + how] = (1 - with_values(tokens, metric, out, how) / lead).item()
    rows.append(row)
mi.figures.table(rows, title="Share of the verb's lead that a group by hand takes away")

# %%
hand = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "prompt"}
claim("graph.by_hand", hand["free"], control=hand["others, free"])

# %% [markdown]
# With patterns and scales held, the group takes about what the graph says. In the free model it
# takes more: heads that looked at the noun look elsewhere, which is section 7's finding. The claim
# is of the free model: such a group takes away about the whole lead, where as many others at the
# same places, with the nearest activations, take little.

# %% [markdown]
# Now a **swap**. Two prompts differ in one word, the subject of a fact or the number of a noun, and
# `pocket` answers both. Take the features that are active in only one of them, from that word on:
# in the first prompt set its own to zero and the other's to what they are there. What should the
# first answer's lead over the second lose? What its own features give it, by its graph; and what
# the others take from it, by the other graph. The control injects as much activation at the same
# places into the wrong features.


# %%
d_sae = transcoders[0].d_sae


def pair_of(kind, i):
    """Two prompts' tokens, the first place that differs, the metric, both leads; or None."""
    prompt = generator.prompt(kind, i, split="test")
    both = [pocket.to_tokens(text) for text in (prompt.text, changed(prompt, i + 1))]
    if both[0].shape != both[1].shape or (both[0] == both[1]).all():
        return None
    other = prompt if kind == "agreement" else generator.prompt(
        "fact", i + 1, relation=prompt.labels["relation"])  # fmt: skip
    answers = prompt.answer, other.wrong if other is prompt else other.answer
    ids, start = [pocket.to_single_token(word) for word in answers], (both[0] != both[1])[0]
    metric = mi.metrics.LogitDiff(torch.tensor([ids]))
    leads = [metric(pocket(tokens))[0] for tokens in both]
    known = leads[0] > 1 and leads[1] < -1 and not start[-1] and ids[0] != ids[1]
    return (both, int(start.nonzero()[0]), metric, ids, leads) if known else None


# %%
def swap(both, start, metric, ids, leads):
    """Loss of the lead: predicted, held, free, free with wrong features; and the whole way."""
    graphs = [sae.attribution_graph(pocket, transcoders, one, logits=ids) for one in both]
    there = [{n[1:4]: n for n in graph.nodes if n.kind == "feature" and n.position >= start}
             for graph in graphs]  # fmt: skip
    out, into = ({there[i][at] for at in there[i].keys() - there[1 - i].keys()} for i in (0, 1))
    values = wrong = {n._replace(value=0.0): 0.0 for n in out}
    values = values | {n._replace(value=0.0): n.value for n in into}
    wrong = wrong | {n._replace(value=0.0, unit=(n.unit + 1) % d_sae): n.value for n in into}
    said = said_of(graphs[0], out) - said_of(graphs[1], into)
    runs = [(values, "held"), (values, "free"), (wrong, "free")]
    done = [leads[0] - with_values(both[0], metric, some, how) for some, how in runs]
    return torch.stack([said, *done, leads[0] - leads[1]])


# %%
rows, swaps = [], {}
for kind in ("fact", "agreement"):
    tried = (pair_of(kind, 3000 + 1000 * seed + 2 * i) for i in range(100))
    swaps[kind] = torch.stack([swap(*pair) for pair in islice(filter(None, tried), 4)])
    said, held_loss, free_loss, wrong_loss, way = swaps[kind].mean(0).tolist()
    rows.append({"kind": kind, "predicted": said / way, "held": held_loss / way,
                 "free": free_loss / way, "wrong features, free": wrong_loss / way})  # fmt: skip
mi.figures.table(rows, title="How far a swap of features goes, as a share of the whole way")

# %%
every_swap = torch.cat(list(swaps.values()))
claim("graph.swap", every_swap[:, 2].sum() / every_swap[:, 0].sum(),
      control=every_swap[:, 3].sum() / every_swap[:, 0].sum())  # fmt: skip
claim("graph.swap_way", swaps["agreement"][:, 2].sum() / swaps["agreement"][:, 4].sum(),
      control=swaps["agreement"][:, 3].sum() / swaps["agreement"][:, 4].sum())  # fmt: skip

# %% [markdown]
# Over both kinds together the loss in the free model is about what the two graphs say, and the
# wrong features do not reach it. That is partly luck: with patterns held, where graphs should be
# right, the number's swap does clearly less than they say, and in the free model heads that look
# elsewhere may make up for it. And look how far it goes: for the number about half of the way, for
# the fact no farther than wrong features take it. So of a fact it shows nothing. Its two graphs
# give little of the way to features: the rest is words', heads', skips' and errors'. So a
# swap that does not turn the answer round need not mean that the features were the wrong ones.

# %% [markdown]
# Two more things mislead. **Errors** are given, and stand for whatever the transcoders lack. How
# much is theirs? Nothing in the graph gives to them, so that together they take away the sum of
# their total effects.


# %%
def errors_share(graph):
    """Share of the logit difference that removing all errors takes, by the graph."""
    right, wrong = graph.total([-2, -1])
    lead = graph.nodes[-2].value - graph.nodes[-1].value
    return (right - wrong)[graph.where("error")].sum() / lead


shares_of_errors = {kind: torch.stack([errors_share(one) for one in some]).mean().item()
                    for kind, some in case_graphs.items()}  # fmt: skip
mi.figures.bars(
    list(shares_of_errors.values()), list(shares_of_errors),
    title="What errors carry of the lead", ylabel="share of the logit difference",
)  # fmt: skip


# %%
def by_errors(some):
    """Share of errors in the sizes of the total effects of tokens and errors, mean of graphs."""
    found = []
    for graph in some:
        right, wrong = graph.total([-2, -1])
        size = (right - wrong).abs()
        found.append(size[graph.where("error")].sum() / size[graph.where("token", "error")].sum())
    return torch.stack(found).mean()


claim("graph.errors", by_errors(graphs.values()), control=by_errors(mixed))

# %% [markdown]
# In most kinds a good part of the lead comes through errors: a path that seems to begin at a word
# deep inside may begin in what the dictionary lacks. Beside the claim stand the graphs whose
# features have each other's written rows.

# %% [markdown]
# **Inactive features** are not in the graph at all. Remove the two supernodes with most influence
# together, with patterns and scales held, and look which features become active that were silent.
# Then do it again and keep those silent. As a test of the counting, set the features to the values
# that they have.


# %%
def switched_on(prompt, graph):
    """Features removed, switched on, the same for own values; lead lost: said, done, kept off."""
    tokens, metric = pocket.to_tokens(prompt.text), metric_of(prompt)
    before, lead = {n[1:4] for n in active_in(tokens)}, metric(pocket(tokens))[0]
    group, new, done = [node for some in by_name(graph, 2) for node in some], [], []
    removal = dict.fromkeys(group, 0.0)
    for values in (removal, {node: node.value for node in group}):
        with sae.set_features(pocket, transcoders, values, frozen=still(tokens)):
            done.append(metric(pocket(tokens))[0])
            new.append([node for node in active_in(tokens) if node[1:4] not in before])
    off = with_values(tokens, metric, removal | dict.fromkeys(new[0], 0.0), "held")
    numbers = [len(group), *map(len, new), said_of(graph, set(group)), lead - done[0], lead - off]
    return [float(number) for number in numbers]


# %%
columns = "removed", "switched on", "own values", "predicted", "done", "with those kept off"
seen_on = {kind: switched_on(some[0], case_graphs[kind][0]) for kind, some in cases.items()}
mi.figures.table(
    [{"kind": kind, **dict(zip(columns, row, strict=True))} for kind, row in seen_on.items()],
    title="Features that were silent, and become active when others are removed",
)  # fmt: skip

# %%
removed_n, on_n, own_n, *_ = torch.tensor(list(seen_on.values())).sum(0)
claim("graph.switched_on", on_n / removed_n, control=own_n / removed_n)

# %% [markdown]
# For every ten features that are removed, several others switch on, and the graph cannot name them.
# For the indirect object keeping them off closes nearly the whole gap to the prediction. In the
# other graphs it changes the loss a little, and not always towards the prediction: there what is
# between the two comes from elsewhere as well, as MLPs bend where the graph is straight.

# %% [markdown]
# ## Appendix: an SAE of the output beside them
#
# An SAE of an MLP's output reads the very thing that it explains; a transcoder has to compute it.
# Is that dear? [The script](../data/transcoders/README.md) trained such an SAE for each layer, with
# as many features, as many of them active and as many steps, and measured both on the same held-out
# text. The SAEs are not kept, what was measured is in the transcoders' files. (Nats added: to the
# next-token loss, when the prediction stands in for the output.)

# %%
rows = []
for layer, one in enumerate(transcoders):
    measured = one.notes["measured"]
    row = {"layer": layer}
    for name, ending in (("transcoder", ""), ("SAE", "_sae")):
        row[name] = measured["explained_by_sae" if ending else "explained_variance"]
        row[f"{name}, nats added"] = measured[f"loss_spliced{ending}"] - measured["loss"]
    rows.append(row)
assert all(row["transcoder"] > row["SAE"] for row in rows)
mi.figures.table(rows, title="Share of an MLP's output that is explained, and its cost")

# %% [markdown]
# In every layer the transcoder explains more, and in nats neither is ahead in all. But that is no
# fair race: the transcoder has a linear skip, a whole matrix that the SAE lacks, and section 1
# shows how much such a map explains alone. What it costs to compute, this leaves open. What the SAE
# cannot give at any price is section 2: from the features of an output no weight says what in the
# input made them.

# %% [markdown]
# ## Appendix: features that cross layers
#
# In section 2, features that tell the same label gave to each other from layer to layer. If what is
# said is the same at each, one feature could say it for all. A **cross-layer transcoder**
# [@ameisen2025tracing] is one dictionary of all MLPs. Its features read the input of one MLP, as
# before; but each has a row of $W_{dec}$ for that MLP's output *and for that of every later one*.
# What an MLP writes is *predicted* as the sum of what the features of all layers up to it write
# there (and here a linear skip), so all are trained together, on all outputs at once.
#
# [A committed script](../data/transcoders/joint/README.md) trained one, `across`, and a control,
# `home`, whose features write to their own layer alone. All else is the same in both: text, number
# of features, how many may be active on a token over all layers, linear skips. `separate` are the
# transcoders from above, each trained by itself, with more features.

# %%
joint, device = trained / "joint", pocket.cfg.device
home = [sae.load(joint / "home" / f"mlp_{layer}", device=device) for layer in range(n_layers)]
across = [sae.load(joint / "across", device=device)]
sets = {"separate": transcoders, "home": home, "across": across}


def predicted(some, layer):
    """What features of all layers up to an MLP, and its skip, say that it writes, [token d]."""
    own, earlier = sae.cross_layer.by_layer(some)
    out = own[layer](seen["mlp_in", layer])
    for below, rows in enumerate(earlier[layer]):  # none, where features write at home alone
        out = out + own[below].encode(seen["mlp_in", below]) @ rows
    return out


# %% [markdown]
# As a whole it is a dictionary like any other: it reads all MLPs' inputs side by side, and most
# entries of its matrices are zero. Both ways of computing it must agree.

# %%
side = torch.cat([seen["mlp_in", layer] for layer in range(n_layers)], dim=1)
outputs = across[0](side).split(across[0].widths, dim=1)
assert all(torch.allclose(outputs[i], predicted(across, i), atol=1e-3) for i in range(n_layers))

rows = []
for layer in range(n_layers):
    y = seen["mlp_out", layer]
    row = {"layer": str(layer), "linear map": by_linear_map[layer]}
    rows.append(row | {name: explained(predicted(some, layer), y).item()
                       for name, some in sets.items()})  # fmt: skip
mi.figures.table(rows, title="What predicts an MLP's output, layer by layer")

# %% [markdown]
# Now let the predictions stand in for *all* MLPs at once. Each then reads a stream that the others
# have changed, and errors can add up. The cost is in nats of next-token loss, on half of the
# texts. With it come the number of active features on a token and two baselines: the best linear
# maps alone, and `across` where the rows that features write to *later* layers are in a wrong
# order.


# %%
def linear_alone(one, layer):
    """A transcoder whose features write nothing, and whose skip is the best linear map."""
    x = seen["mlp_in", layer]
    ones = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double()
    inverse = torch.linalg.pinv(ones.T @ ones, rtol=1e-12, hermitian=True)
    both = (inverse @ ones.T @ seen["mlp_out", layer].double()).float()  # nothing along no input
    return replace(one, W_dec=0 * one.W_dec, W_skip=both[:-1].contiguous(), b_dec=both[-1])


# %%
def mean_loss(some=()):
    """Loss on half of the texts with the MLPs of some transcoders replaced, in nats."""
    losses, half = [], len(labelled.tokens) // 2
    with sae.splice_all(pocket, some) if some else contextlib.nullcontext():
        for rows in torch.arange(half).split(50):
            texts, real = labelled.tokens[rows], labelled.real[rows]
            both = real[:, :-1] & real[:, 1:]
            losses.append(mi.metrics.loss(pocket(texts), texts)[both])
    return torch.cat(losses).mean()


# %%
def wrong_order(clt):
    """A cross-layer transcoder whose units have, for later layers, the rows of their neighbours."""
    own, unit = sae.cross_layer.by_layer([clt])[0], torch.arange(clt.d_sae)
    at_home = torch.block_diag(*(one.W_dec for one in own))
    later, width = clt.W_dec - at_home, clt.d_sae // n_layers
    neighbour = unit // width * width + (unit + 1) % width
    return replace(clt, W_dec=at_home + later[neighbour])


linear = [linear_alone(one, layer) for layer, one in enumerate(transcoders)]
every_set = {"linear maps": linear, **sets, "across, wrong order": [wrong_order(across[0])]}
clean = mean_loss()
added = {name: mean_loss(some) - clean for name, some in every_set.items()}


# %%
def active(some):
    """Mean number of active features on a token, over all layers."""
    own, _ = sae.cross_layer.by_layer(some)
    return sum(
        (one.encode(seen["mlp_in", i]) > 0).float().sum(1).mean() for i, one in enumerate(own)
    )


mi.figures.table(
    [{"in place of all MLPs": name, "nats added": cost.item(),
      "active": 0.0 if name == "linear maps" else active(every_set[name]).item()}
     for name, cost in added.items()],
    title="What it costs to replace all MLPs at once",
)  # fmt: skip

# %%
claim("graph.crossing", added["across"] / added["linear maps"],
      control=added["home"] / added["linear maps"])  # fmt: skip

# %% [markdown]
# Layer by layer the three explain about the same. Together they do not cost the same: features that
# cross layers lose far less than the same number that write at home. They lose less than `separate`
# too, but that is no equal race: those are more, of which fewer are active on a token. Trained from
# two other seeds, `across` and `home` stand in the same order. That is no proof that they found
# better *features*: with a row for each later layer they also have more numbers to fit with. The
# rows for later layers do matter: in a wrong order they cost many times as much.

# %% [markdown]
# And the graphs? Take a walk from the logits down, at each target to one of its sources, as likely
# as its share, until a token or an error is reached. The influence of a node is how often the walk
# comes by, so the influence of all features together is the mean number of features on a path:
# the **path length**. A step from one feature to another at the same place whose written directions
# are alike (cosine above a half; all layers that a feature writes to are summed) is a step through
# a **copy**. Beside it, the directions are drawn anew among the features of a layer.


# %%
def path_length(graph):
    """Mean number of features on a path from the logits down."""
    return graph.influence()[graph.where("feature")].sum() / graph.probabilities.sum()


def directions(some, shuffled=False):
    """What each feature writes to the stream in all, at length 1, for each layer [unit d]."""
    own, earlier = sae.cross_layer.by_layer(some)
    draw, found = torch.Generator().manual_seed(seed), []
    for layer, one in enumerate(own):
        later = [earlier[above][layer] for above in range(layer + 1, n_layers) if earlier[above]]
        rows = torch.nn.functional.normalize(sum(later, one.W_dec), dim=1)
        found.append(rows[torch.randperm(len(rows), generator=draw)] if shuffled else rows)
    return found


# %%
def copies(graph, writes):
    """Mean number of steps through copies on a path from the logits down."""
    size, n = graph.weights.abs(), len(graph.probabilities)
    reached = graph.influence() + torch.cat([torch.zeros(len(graph) - n), graph.probabilities])
    steps = size / size.sum(1, keepdim=True).clamp_min(1e-10) * reached[:, None]
    at = graph.where("feature")
    nodes = [node for node in graph.nodes if node.kind == "feature"]
    rows = torch.stack([writes[node.layer][node.unit] for node in nodes])
    place = torch.tensor([node.position for node in nodes])
    alike = (rows @ rows.T > 0.5) & (place[:, None] == place)
    return steps[at][:, at][alike].sum() / graph.probabilities.sum()


# %%
by_set = {"separate": list(graphs.values())}
for name in ("home", "across"):
    by_set[name] = [graph_of(prompt, sets[name]) for prompt in prompts.values()]
rows, length = [], {}
for name, some in by_set.items():
    replacement, completeness = mean_scores(some).tolist()
    length[name] = torch.stack([path_length(one) for one in some]).mean()
    rows.append({"transcoders": name, "replacement": replacement, "completeness": completeness,
                 "path length": length[name].item()})  # fmt: skip
    for column, shuffled in (("copies", False), ("shuffled", True)):
        writes = directions(sets[name], shuffled)
        rows[-1][column] = torch.stack([copies(one, writes) for one in some]).mean().item()
mi.figures.table(rows, title="Graphs of four prompts, mean")

# %%
claim("graph.path_length", length["across"] / length["home"],
      control=length["separate"] / length["home"])  # fmt: skip

# %% [markdown]
# Paths are shorter by a little where features cross layers. The number of active features
# alone does not tell: `separate` has the fewest, and its paths are as long as those of `home`. Nor
# do we see copies spared: the table has hardly a step through one in any kind. So in these four
# graphs of `pocket`, with linear skips beside the features, chains of copies *as counted here* are
# not there to be shortened. Features that say the same and write it in other directions, as those
# of section 2 may, are not counted. Nor do the two scores
# change much: errors have about the same share of what nodes are given. For larger models
# [@ameisen2025tracing] report more; what to ask of a new dictionary is the same, beside the same
# training without crossing.

# %%
claim.table()
