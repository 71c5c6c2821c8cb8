# ---
# title: "SoLU: a basis by design"
# minutes: 65
# ---

# %% [markdown]
# **The question.** A network's neurons mix things up. Can another activation function make them
# more interpretable, and what does it cost?
#
# **You need** superposition and the privileged basis
# ([notebook 09](09_superposition.ipynb), appendix C), and what an MLP does in a transformer.
#
# **You will be able to**
#
# - say what softmax linear units do to a vector that is spread out, and to one that is not;
# - compare models that differ in one function, seed by seed;
# - measure how pure neurons are where the truth is known, against the right rotation;
# - test whether small activations carry what large ones seem to;
# - say what a LayerNorm behind SoLU gives back, and what it takes.
#
# No language model is asked here: all models come from a committed script. The set-up cell loads
# one only because every notebook starts alike.

# %% [markdown] short=true
# ## 1. Every neuron times its share
#
# In superposition a feature is a little activity in many neurons. Elhage et al. [@elhage2022solu]
# want to make that expensive. Their **softmax linear unit**, SoLU, multiplies every neuron by its
# share in a softmax over all neurons of the layer:
#
# $$\mathrm{SoLU}(x) = x \cdot \mathrm{softmax}(x)$$
#
# Here are the three cases that they give. Which vector comes through, and which one shrinks?

# %% short=true
from mi_helpers.toys import solu

before = torch.tensor([[4.0, 0, 0, 0], [4, 1, 4, 1], [1, 1, 1, 1]])
shares = before.exp() / before.exp().sum(-1, keepdim=True)
after = before * shares
assert torch.allclose(after, solu.SoftmaxLinear()(before))
mi.figures.table(
    [{"before": str(x), "after": str([round(v, 2) for v in y])}
     for x, y in zip(before.int().tolist(), after.tolist(), strict=True)],
    title="Alone a neuron comes through, spread out it shrinks",
)  # fmt: skip

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 1: SoLU
# Write it, for any number of axes in front.

# %% [markdown] tags=["hint"]
# The softmax is over neurons, the last axis.


# %% tags=["exercise"]
def softmax_linear(hidden):
    """hidden: [... neuron]  ->  the same shape."""
    raise NotImplementedError


# %% tags=["solution"]
def softmax_linear(hidden):
    return hidden * hidden.softmax(-1)


# %% tags=["check"]
check.softmax_linear(softmax_linear)

# %% [markdown]
# To speak of "spread" we need a number. Let each neuron's share be its squared activation over the
# sum of all squares; the **effective number** of neurons is one over the sum of the squared shares.
# It is one where one neuron does all, and $n$ where $n$ neurons do the same.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 2: how many neurons?
# Return the effective number of neurons of every token. Signs do not count.

# %% [markdown] tags=["hint"]
# Both sums are over neurons, the last axis. For `[1, 1, 1, 1]` you must get 4.


# %% tags=["exercise"]
def effective_number(acts):
    """acts: [token neuron]  ->  [token]."""
    raise NotImplementedError


# %% tags=["solution"]
def effective_number(acts):
    squares = acts.square()
    return squares.sum(-1).square() / squares.square().sum(-1)


# %% tags=["check"]
check.effective_number(effective_number)


# %% [markdown] short=true
# SoLU alone costs performance, so they put a **LayerNorm behind it**, and suspect that it lets
# superposition in again: what SoLU has made small, LayerNorm makes large [@elhage2022solu].
# Here is how far that goes. The softmax divides all neurons of a token by *one* number, and a
# LayerNorm does not care about one number, but for the small $\varepsilon$ that it adds to the
# variance (which counts in our models: appendix B). Without that, the denominator is gone behind
# it: what is left is $x e^x$, in which no neuron knows of the others, and the LayerNorm of it.


# %% short=true
def normed(acts, eps=0.0):
    """A LayerNorm without gain and bias, over the last axis."""
    centred = acts - acts.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


x = torch.randn(5, 384, generator=torch.Generator().manual_seed(0)).double()
assert torch.allclose(normed(x * x.softmax(-1)), normed(x * x.exp()))

# %% [markdown] short=true
# ## 2. Models alike but for this
#
# [A script](../data/solu/README.md) trained small language models on the text of `pocket`, of
# which we know what it means. Three layers, 384 neurons in each, and tied embeddings (one matrix
# embeds and, transposed, unembeds). The models of one seed have the same first weights and read the
# same text in the same order; only the function in their MLPs differs. Look at where the curves are
# apart, and where they meet.

# %% short=true
runs = solu.losses()
steps = [row["step"] for row in runs[0]["log"]]
names = {"gelu": "GELU", "relu": "ReLU", "solu": "SoLU", "solu_ln": "SoLU, LayerNorm"}
curves = {
    label: torch.tensor([[row["held_out"] for row in run["log"]]
                         for run in runs if run["recipe"]["activation"] == name]).mean(0)
    for name, label in names.items()
}  # fmt: skip
mi.figures.lines(
    curves, x=steps, xlabel="training step", ylabel="held-out loss (nats)",
    title="SoLU alone learns more slowly, mean of three seeds",
)  # fmt: skip

# %% [markdown] short=true
# The late part of these curves is not to be trusted: in some runs a model learns to copy repeated
# spans before the end, in others not, and that is luck. So take text without such spans, the same
# for all models.

# %% short=true
from mi_data.pocket import generator as g

samples = [g.sample(kind, 9000 + seed) for seed in range(12) for kind in g.KINDS]
seeds = range(3)
models = {(name, s): solu.load(name, s) for name in ("gelu", "solu", "solu_ln") for s in seeds}
labelled = mi.sae.label_tokens(models["gelu", 0], samples, least=20)
tokens, real = labelled.tokens, labelled.real
print(f"{len(samples)} texts, {int(real.sum())} tokens")


# %% short=true
@torch.no_grad()
def token_losses(some, texts=None):
    """The loss of every token of the first texts, in nats [token]."""
    logp = torch.cat([
        some(rows).log_softmax(-1)[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
        for rows in tokens[:texts].split(60)
    ])  # fmt: skip
    return -logp[real[:texts, 1:]]


losses = {key: token_losses(some) for key, some in models.items()}
mean = {key: float(some.mean()) for key, some in losses.items()}
cost = {name: [mean[name, s] - mean["gelu", s] for s in seeds] for name in ("solu", "solu_ln")}
apart = torch.tensor([mean["gelu", s] for s in seeds]).std()
rows = [{"seed": s, **{names[name]: mean[name, s] for name in ("gelu", *cost)}} for s in seeds]
mi.figures.table(rows, title="Loss on text, in nats a token")

# %% short=true
claim("solu.cost", sum(cost["solu"]) / 3, control=apart)
restored = [mean["solu", s] - mean["solu_ln", s] for s in seeds]
claim("solu.restored", sum(restored) / 3,
      control=torch.tensor([mean["solu_ln", s] for s in seeds]).std())  # fmt: skip

# %% [markdown]
# SoLU alone is the worst in every seed; with LayerNorm the cost is gone, and which of GELU and
# this is better depends on the seed. (The rates of learning were settled for GELU; another may
# suit SoLU better.) **Where** does it cost?

# %%
kind_of = torch.tensor([i % len(g.KINDS) for i in range(len(samples))])
kind_of = kind_of[real.nonzero()[:, 0]]
by_kind = {
    name: [float(torch.stack([losses[name, s] - losses["gelu", s] for s in seeds])
                 .mean(0)[kind_of == i].mean()) for i in range(len(g.KINDS))]
    for name in cost
}  # fmt: skip
mi.figures.bars(
    {names[name]: row for name, row in by_kind.items()}, list(g.KINDS), horizontal=True,
    xlabel="loss, less GELU's (nats)", title="SoLU costs most where facts are asked for",
)  # fmt: skip

# %%
facts = [g.KINDS.index(kind) for kind in ("fact", "profile")]
others = [i for i in range(len(g.KINDS)) if i not in facts]
claim("solu.facts", sum(by_kind["solu"][i] for i in facts) / len(facts),
      control=sum(by_kind["solu"][i] for i in others) / len(others))  # fmt: skip

# %% [markdown] short=true
# Facts are many and rare, which is what superposition is good for; that this is the reason here is
# a guess. (With LayerNorm the cost is gone on average; the figure has a little of it left on
# profiles, made up for elsewhere.)
#
# ## 3. How many neurons at a time?
#
# Read the neurons of every layer, what goes into the function and what comes out. The control is a
# **rotation**. But which? One may turn what comes *out*: then any function that makes neurons spiky
# looks like a basis. The other turns what goes *in*, and applies the same function: it has the
# function's doing, and not what the weights have learned about *these* directions. (It mixes the
# neurons' thresholds, too: how seldom a neuron is on is lost with its direction.) For spikes it is
# the harder control. For purity it need not be, so the table has both.

# %%
from transformers.activations import ACT2FN

HOOKS = ("blocks.{}.mlp.hook_pre", "blocks.{}.mlp.hook_post")
layers, width = range(3), models["gelu", 0].cfg.d_mlp
turn, turn_stream = mi.lens.random_rotation(width), mi.lens.random_rotation(96)


def neurons_of(some):
    """What goes into the function, and what comes out [layer] each, [token neuron]."""
    pre, post = ([hook.format(i) for i in layers] for hook in HOOKS)
    found = mi.sites.read(some, tokens, [*pre, *post])
    return [found[hook][real] for hook in pre], [found[hook][real] for hook in post]


def ways_of(some, x, acts):
    """A layer's neurons as they are, and rotated behind the function and before it."""
    function = ACT2FN[some.cfg.act_fn]
    assert torch.allclose(function(x), acts, atol=1e-4)
    return {"as it is": acts, "turned behind": acts @ turn, "turned before": function(x @ turn)}


# %% [markdown]
# Kurtosis says how spiky a coordinate is over tokens ([notebook 09](09_superposition.ipynb)). Many
# of SoLU's neurons hardly ever do anything, so a mean over neurons would be about those. We weigh
# every neuron by its share of the layer's squared activation: what counts is what is written.


# %%
def spread(acts):
    """The effective number of neurons, median over tokens."""
    squares = acts.square()
    return float((squares.sum(-1).square() / squares.square().sum(-1)).median())


def weights_of(acts):
    """Each neuron's share of the layer's squared positive activation [neuron]."""
    energy = acts.clamp_min(0).square().sum(0)
    return energy / energy.sum()


def spikiness(acts):
    """Excess kurtosis over tokens, weighted mean over neurons."""
    z = (acts - acts.mean(0)) / acts.std(0, correction=0).clamp_min(1e-9)
    return float((weights_of(acts) * ((z**4).mean(0) - 3)).sum())


# %% [markdown] short=true
# ## 4. What do they mean?
#
# The texts come with truth. A token's *properties* are the generator's labels (the receiver, a
# word of praise, ...) and the word that it is. How much of what a neuron does falls on tokens with
# one property? We count squared activation, above zero, over the whole range, not only at the top.

# %%
ids = tokens[real]
common = (ids.bincount() >= 12).nonzero()[:, 0]
property_names = [*labelled.labels, *(repr(models["gelu", 0].to_string(i)) for i in common)]
holds = torch.cat([torch.stack([labelled.flat(name) for name in labelled.labels], -1),
                   ids[:, None] == common], -1).float()  # fmt: skip
print(f"{len(labelled.labels)} labels and {len(common)} words, such as", property_names[:3])

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 3: what falls on a property
# For every neuron and every property return the share of the neuron's squared positive activation
# that falls on tokens with the property. A neuron that is never positive has zero everywhere.

# %% [markdown] tags=["hint"]
# Clamp at zero, square, and the rest is one matrix product and one division.


# %% tags=["exercise"]
def shares_on(acts, holds):
    """acts: [token neuron]; holds: [token property], 0 or 1  ->  [neuron property]."""
    raise NotImplementedError


# %% tags=["solution"]
def shares_on(acts, holds):
    energy = acts.clamp_min(0).square()
    return energy.T @ holds / energy.sum(0)[:, None].clamp_min(1e-12)


# %% tags=["check"]
check.shares_on(shares_on)

# %% [markdown] short=true
# A neuron's **purity** is its share on its best property, which is *chosen* on every second round
# of texts and *measured* on the others. We weigh neurons by what they write, as above.

# %%
first = real.nonzero()[:, 0] // len(g.KINDS) % 2 == 0


def purity_of(acts, holds=holds):
    """Each neuron's purity on the second half of the texts, and its property [neuron] each."""
    energy = acts.clamp_min(0).square()
    parts = ((energy[half], holds[half]) for half in (first, ~first))
    one, two = (e.T @ h / e.sum(0)[:, None].clamp_min(1e-12) for e, h in parts)
    best = one.argmax(-1)
    return two.gather(-1, best[:, None])[:, 0], best


def purity(acts, holds=holds):
    """Purity, weighted mean over neurons."""
    return float((weights_of(acts[~first]) * purity_of(acts, holds)[0]).sum())


# %%
by_label = holds[:, : len(labelled.labels)]


def measured(some, name, seed):
    """All measures of one model, a row for each layer and way to turn it."""
    rows = []
    for layer, (x, acts) in enumerate(zip(*neurons_of(some), strict=True)):
        choice = float(x.softmax(-1).amax(-1).median())
        for way, a in ways_of(some, x, acts).items():
            used = float(1 / weights_of(a).square().sum())
            rows.append({
                "model": name, "seed": seed, "layer": layer, "way": way, "rest": a.mean(0),
                "effective number": spread(a), "neurons used": used, "kurtosis": spikiness(a),
                "purity": purity(a), "on labels": purity(a, by_label), "choice": choice,
                "unweighted": float(purity_of(a)[0].mean()),
            })  # fmt: skip
    return rows


# %%
models["relu", 0] = solu.load("relu")
table = [row for (name, seed), some in models.items() for row in measured(some, name, seed)]


def overall(measure, name, way="as it is", layer=None):
    """A measure's mean over layers (or of one layer) and seeds."""
    chosen = [row[measure] for row in table if (row["model"], row["way"]) == (name, way)
              and layer in (None, row["layer"])]  # fmt: skip
    return sum(chosen) / len(chosen)


# %% short=true
columns = ("effective number", "neurons used", "kurtosis", "purity", "on labels", "unweighted")
mi.figures.table(
    [{"model": label, "neurons": way, **{key: overall(key, name, way) for key in columns}}
     for name, label in names.items() for way in ("as it is", "turned before", "turned behind")],
    title="Mean of three layers and, but for ReLU, three seeds", digits=3,
)  # fmt: skip

# %% [markdown] short=true
# Compare each model's neurons with the same neurons *turned before* the function. Below, purity by
# layer, mean of the seeds.

# %% short=true
compared = {"GELU": ("gelu", "as it is"), "GELU, turned": ("gelu", "turned before"),
            "SoLU": ("solu", "as it is"), "SoLU, turned": ("solu", "turned before"),
            "SoLU, LayerNorm": ("solu_ln", "as it is"),
            "SoLU, LayerNorm, turned": ("solu_ln", "turned before")}  # fmt: skip
mi.figures.bars(
    {label: [overall("purity", *key, layer=layer) for layer in layers]
     for label, key in compared.items()},
    [f"layer {layer}" for layer in layers], ylabel="purity", title="Purer, by what they write",
)  # fmt: skip

# %% short=true
pure = {name: overall("purity", name) for name in ("gelu", "solu", "solu_ln")}
turned = {name: overall("purity", name, "turned before") for name in pure}
claim("solu.few", overall("effective number", "solu"), control=overall("effective number", "gelu"))
claim("solu.pure", pure["solu"], control=turned["solu"])
claim("solu.pure_norm", pure["solu_ln"], control=pure["gelu"])
claim("solu.gelu_basis", pure["gelu"] / turned["gelu"], control=pure["solu_ln"] / turned["solu_ln"])

# %% [markdown] short=true
# GELU's neurons are hardly purer than random directions that go through the same function: in
# these models its basis is privileged in principle, and little is made of it. SoLU's are much
# purer, with the LayerNorm too. (Of SoLU alone the turn *behind* leaves more purity, so it is the
# harder control; the neurons as they are have about twice as much.) But look at the column of
# neurons used. What SoLU alone writes
# comes from about two dozen effective neurons, and purity by weight is about those. Few neurons
# alone do not make it: turned before, still fewer are used, and they are not pure. Counted one by
# one (the last column: every neuron alike), SoLU alone makes neurons *worse*, as most are idle;
# with the LayerNorm they are purer than GELU's in this count, too.
#
# Are most of these properties words? A neuron for one word is pure, and no concept. With the
# generator's labels alone, and no words, the order stays, but the differences are much smaller:
# much of the purity is about single words.

# %%
claim("solu.used", overall("neurons used", "solu"), control=overall("neurons used", "gelu"))
claim("solu.labels", overall("on labels", "solu"), control=overall("on labels", "gelu"))

# %% [markdown]
# Look for yourself. Choose a model, a layer and a neuron by its rank in what it writes. Its
# contexts come from the whole range: the strongest, and then those at fixed quantiles of what is
# above zero.

# %%
words = [models["gelu", 0].to_string(i) for i in range(models["gelu", 0].cfg.d_vocab)]
text_of, place_of = real.nonzero().T


def context(at):
    """A token, and the eight words before it."""
    line = [words[i] for i in tokens[text_of[at], 1 : place_of[at] + 1][-9:].tolist()]
    return {"words before": "".join(line[:-1]), "token": line[-1]}


# %%
def contexts(model, layer, rank):
    """One neuron's activations over its range, each with its context."""
    acts = neurons_of(models[model, 0])[1][layer]
    neuron = int(weights_of(acts).argsort(descending=True)[rank - 1])
    share, best = (values[neuron] for values in purity_of(acts))
    acts = acts[:, neuron]
    order = acts.argsort(descending=True)[: int((acts > 0).sum())]
    rows = []
    for quantile in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9):
        at = order[int(quantile * (len(order) - 1))]
        rows.append({"from the top": f"{quantile:.0%}", "activation": acts[at], **context(at)})
    title = f"Neuron {neuron}: {share:.0%} on {property_names[int(best)]}"
    return mi.figures.table(rows, title=title, digits=2)


# %%
mi.figures.explore(
    contexts, model={names[name]: name for name in ("gelu", *cost)}, layer=list(layers),
    rank=list(range(1, 9)),
    start={"model": "solu_ln", "layer": 0, "rank": 1},
)  # fmt: skip

# %% [markdown] short=true
# ## 5. Does LayerNorm smuggle superposition back?
#
# With LayerNorm a token has a few effective neurons as well. Do the small ones matter? **Keep the
# $k$ largest** of every token in all layers, and fix the others at their means over the texts.
# "Large" is far from the mean, as LayerNorm gives silent neurons a value that is not zero.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: keep the largest
# For every token keep the $k$ neurons that are farthest from `rest`, and put the others at `rest`.

# %% [markdown] tags=["hint"]
# `topk(k, -1)` of the distances; the last of its values is the bar to clear.


# %% tags=["exercise"]
def keep_largest(acts, rest, k):
    """acts: [token neuron]; rest: [neuron]; k from 1  ->  [token neuron]."""
    raise NotImplementedError


# %% tags=["solution"]
def keep_largest(acts, rest, k):
    far = (acts - rest).abs()
    return torch.where(far >= far.topk(k, -1).values[..., -1:], acts, rest)


# %% tags=["check"]
check.keep_largest(keep_largest)


# %%
rests = {key: [row["rest"] for row in table if (row["model"], row["seed"]) == key
               and row["way"] == "as it is"] for key in models}  # fmt: skip


def kept(key, k, rank=lambda far: far):
    """Mean loss with k neurons of every token and layer, by rank; on the first texts."""

    def edit(rest):
        def act(acts, where):
            far = rank((acts - rest).abs())
            bar = far.topk(k + 1, -1).values[..., -1:]  # of equal ones, all or none
            return torch.where(far > bar, acts, rest)

        return act

    edits = {("mlp_post", i): edit(rest) for i, rest in enumerate(rests[key])}
    with mi.interventions.intervene(models[key], edits):
        return float(token_losses(models[key], 45).mean())


# %% [markdown] short=true
# The scale: 0 is the loss with all neurons at their means, 1 the loss of the whole model. As a
# control, $k$ of SoLU's neurons drawn at random. The figure is of seed 0, the claims below are of
# all three. How many neurons does it take to get near 1?

# %% short=true
whole = {key: float(token_losses(some, 45).mean()) for key, some in models.items()}
nothing = {key: kept(key, 0) for key in models}


def effect(key, k, rank=lambda far: far):
    """The share of the MLPs' effect that k neurons of every token have."""
    return (nothing[key] - kept(key, k, rank)) / (nothing[key] - whole[key])


counts = (1, 4, 16, 64)
by_count = {names[name]: [effect((name, 0), k) for k in counts] for name in names}
by_count["SoLU, drawn at random"] = [effect(("solu", 0), k, torch.rand_like) for k in counts]
mi.figures.lines(
    by_count, x=[str(k) for k in counts], xlabel="neurons kept in each layer",
    ylabel="share of the MLPs' effect", title="With LayerNorm a few neurons are not enough",
)  # fmt: skip

# %% short=true
four = {name: sum(effect((name, s), 4) for s in seeds) / 3 for name in ("gelu", "solu", "solu_ln")}
sixteen = sum(effect(("gelu", s), 16) for s in seeds) / 3
claim("solu.top_four", four["solu"], control=sixteen)
claim("solu.smuggled", 1 - four["solu_ln"], control=1 - four["solu"])

# %% [markdown] short=true
# SoLU alone does almost all with four neurons of each layer. With a LayerNorm behind it four leave
# nearly half undone. But four are three times the effective number of SoLU alone, and no more than
# the effective number with LayerNorm (table of section 4). Sixteen are the fairer count, and they
# leave about a fifth undone (figure, seed 0). So the next dozen carry part of that half, and small
# activations, which look negligible beside the large ones, the rest. That fits what the paper
# suspected. It does not show that what they carry is superposition: in GELU, where even sixteen
# neurons do less than these four, small activations matter still more.
#
# How can it be, if the same SoLU stands before the LayerNorm? Look at what goes into the softmax:
# the share of the strongest neuron, of every token.


# %% short=true
strongest = {
    names[name]: torch.cat([x.softmax(-1).amax(-1) for x in neurons_of(models[name, 0])[0]])
    for name in cost
}  # fmt: skip
mi.figures.histogram(
    strongest, xlabel="share of the strongest neuron in the softmax",
    title="With a LayerNorm behind it the softmax hardly chooses",
)  # fmt: skip

# %% short=true
claim("solu.choice", overall("choice", "solu"), control=overall("choice", "solu_ln"))

# %% [markdown] short=true
# With the LayerNorm no neuron has to win. The strongest has a small share: more than an even
# softmax gives, but far from all. The output is tiny; LayerNorm makes it large. If it were not for
# $\varepsilon$, what is left of SoLU would be the identity of section 1: each neuron for itself,
# through $x e^x$, with one mean and one scale for all neurons of a token. Appendix B asks.
#
# ## 6. What was claimed, and what was found here

# %%
mi.figures.table([
    {"in the paper": "SoLU alone costs performance", "here": "yes, most on facts"},
    {"in the paper": "a LayerNorm behind it makes up for that", "here": "yes"},
    {"in the paper": "more neurons look interpretable to raters, 60% for 35%",
     "here": "neurons are purer, by known properties and by weight"},
    {"in the paper": "SoLU may hide what it does not show",
     "here": "yes: with LayerNorm the largest few leave part of the work undone"},
], title="Softmax linear units, claimed and found")  # fmt: skip

# %% [markdown] short=true
# ## Summary
#
# - SoLU lets through what lies in one neuron, and shrinks what is spread over many.
# - Without a LayerNorm a token uses hardly more than one neuron of a layer. The loss is higher,
#   most of all on facts. Most of what a layer writes comes from a few dozen neurons, and over half
#   of that falls on one property a neuron.
# - With a LayerNorm the cost is gone and neurons are still about twice as pure as GELU's (on labels
#   without words, somewhat purer). But
#   nearly half of what the MLPs do is not in a token's four largest: who explains these leaves it
#   out.
# - GELU's neurons are spiky, and hardly purer than random directions through the same function.
#   Privileged is not interpretable.
# - A control for a basis turns what goes *into* the function, or what comes out: try both, and
#   take the harder.
#
# **What we have not shown.** That it is so at another size or with other rates of learning, or with
# another optimiser: the matrices were trained with Muon. Purity knows the properties we listed and
# no others: a neuron for something that we did not think of counts as impure. The paper's raters
# had no list.
#
# ## Where to read on
#
# - SoLU: [@elhage2022solu]. Why features share neurons: [@elhage2022superposition]; how training
#   decides it in toy models: [@jermyn2022engineering].
# - Bases that nobody designed: [@elhage2023privileged]. Few weights: [@gao2025sparse].
# - The other way, to find the basis afterwards: [notebook 10](10_sparse_autoencoders.ipynb).

# %% [markdown]
# ## Appendix A: spiky neurons, and a stream that is not
#
# Turn what comes *out* of the function, and most of the kurtosis is gone, in every model (section
# 4, the table): neurons are a privileged basis, in the sense of the word. In the residual stream
# behind the last layer, the one measured, a rotation changes next to nothing. (Training matters:
# [@elhage2023privileged] trace spiky streams to Adam; our matrices were trained with Muon.) The
# ratio tells them apart: kurtosis as it is, over that after the turn.

# %%
stream = {}
for name in ("gelu", "solu", "solu_ln"):
    for s in seeds:
        x = mi.sites.read(models[name, s], tokens[:90], [("resid_post", 2)])
        x = x[("resid_post", 2)][real[:90]]
        stream[name, s] = (spikiness(x), spikiness(x @ turn_stream))
plain, after_turn = torch.tensor(list(stream.values())).mean(0).tolist()
spiky, spread_out = (overall("kurtosis", "solu", way) for way in ("as it is", "turned behind"))
claim("solu.spiky", spiky, control=spread_out)
claim("solu.stream", plain / after_turn, control=spiky / spread_out)

# %% [markdown]
# ## Appendix B: the threshold that nobody built
#
# Seen from behind its LayerNorm SoLU is $x e^x$ (section 1). Is that exact? Nearly: a LayerNorm
# adds a small $\varepsilon$ to the variance, and what SoLU hands over is so small that this counts.
# So change the LayerNorm of a trained model: take $\varepsilon$ away, or give all tokens of a layer
# one and the same gain. Does either matter?


# %%
def with_gain(key, gain):
    """Mean loss when SoLU's output, less its mean, is scaled by a gain for each token."""
    held, edits = {}, {}
    for i in layers:

        def act(acts, where, i=i):
            out = held[i] * held[i].softmax(-1)
            out = out - out.mean(-1, keepdim=True)
            return out * gain(out.square().mean(-1, keepdim=True), i)

        edits[HOOKS[0].format(i)] = lambda x, where, i=i: held.update({i: x.clone()}) or x
        edits["mlp_post", i] = act
    with mi.interventions.intervene(models[key], edits):
        return float(token_losses(models[key], 45).mean())


# %%
def epsilon_row(seed):
    """What a change of the LayerNorm's gain does to one model."""
    key = ("solu_ln", seed)
    inputs = torch.stack(neurons_of(models[key])[0])  # [layer token neuron]
    v = (inputs * inputs.softmax(-1)).var(-1, correction=0)
    usual = (v + 1e-5).rsqrt().mean(-1)
    return {
        "seed": seed, "whole": with_gain(key, lambda v, i: (v + 1e-5).rsqrt()),
        "without epsilon": with_gain(key, lambda v, i: v.rsqrt()),
        "one gain for all tokens": with_gain(key, lambda v, i: usual[i]),
        "tokens below epsilon": float((v < 1e-5).double().mean()),
    }  # fmt: skip


rows = [epsilon_row(s) for s in seeds]
assert all(abs(row["whole"] - whole["solu_ln", row["seed"]]) < 1e-3 for row in rows)
mi.figures.table(rows, title="The LayerNorm behind SoLU, changed: loss in nats", digits=3)

# %% [markdown]
# Both cost much, in every seed. More than a third of what the LayerNorms read has less variance
# than $\varepsilon$. Without $\varepsilon$ these faint tokens are blown up: it has served as a soft
# threshold that nobody meant to build in. With one gain, we guess, those tokens are too loud in
# which one neuron wins. These models rely on a scale for each token, and the LayerNorm gives it.
#
# ## Appendix C: another way to the same end: few weights
#
# A neuron may also be made simple by its *wires*: with few weights that are not zero it reads and
# writes little. In language models made that way circuits are small [@gao2025sparse]. The last
# model has GELU and keeps a tenth of the weights of every matrix in its blocks, chosen by size
# while it is trained. Beside it, SoLU *before* training: how much of its purity is the function's?

# %%
extra = {"sparse": solu.load("sparse"), "untrained": solu.untrained("solu")}
added = [row for name, some in extra.items() for row in measured(some, name, 0)]
table = [row for row in table if row["model"] not in extra] + added
shown = {"GELU, few weights": "sparse", "SoLU, untrained": "untrained"}
mi.figures.table(
    [{"model": label, "neurons": way, **{key: overall(key, name, way) for key in columns}}
     for label, name in shown.items() for way in ("as it is", "turned before")],
    title="Neither few weights nor the function alone make neurons pure", digits=3,
)  # fmt: skip

# %%
claim("solu.learned", overall("purity", "solu"), control=overall("purity", "untrained"))
print(f"loss with few weights {token_losses(extra['sparse']).mean():.2f}, "
      f"of GELU {mean['gelu', 0]:.2f}")  # fmt: skip

# %% [markdown]
# Before training SoLU is spiky, and its neurons mean nothing: spikes are the function's, meaning is
# learned. Few weights cost much here and make neurons no purer than their rotation. That says
# little against the idea: one small model with a tenth of its weights, and what the paper counts is
# the size of circuits, not the purity of neurons.

# %%
claim.table()
