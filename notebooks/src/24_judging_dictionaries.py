# ---
# title: "Which dictionary is better, and by whose measure?"
# minutes: 70
# ---

# %% [markdown]
# **The question.** New kinds of sparse autoencoders come with a benchmark in which they win. What
# do the measures of a benchmark measure, and what passes them that should not?
#
# **You need** sparse autoencoders ([notebook 10](10_sparse_autoencoders.ipynb)), their reading
# ([notebook 11](11_reading_features.ipynb)) and patching ([notebook
# 05](05_activation_patching.ipynb)).
#
# **You will be able to**
#
# - write the losses of two newer kinds, Matryoshka and gated, and say what each is for;
# - write four measures of SAEBench by hand: sparse probing, targeted probe perturbation, absorption
#   and the swap of one attribute;
# - say what each of them gives to principal components, to random directions and to a model that
#   was never trained;
# - tell a strong baseline from a weak one.
#
# All that is measured is measured on `pocket`, whatever model the set-up cell loads: the measures
# need texts whose meaning is known, and dictionaries that were trained for longer than a notebook
# may take ([their cards](../data/sae/README.md)).

# %% [markdown] short=true
# ## 1. Two more kinds
#
# ### Nested: Matryoshka
#
# [Notebook 10](10_sparse_autoencoders.ipynb) showed **absorption**: where a special unit fires, the
# general one falls silent, because one unit is cheaper than two. A **Matryoshka** SAE
# [@bussmann2025matryoshka] works against it. Its units are in order, and the first few must
# reconstruct the input *alone*, then the first few more, and so on up to all of them. So early
# units cannot rely on later ones. With all units $f$ of an input and prefixes $m$ the error is
#
# $$\frac{1}{|M|} \sum_{m \in M} \big\| x - (f_{<m} W_{dec,<m} + b_{dec}) \big\|^2 .$$
#
# (The paper takes the sum.) On one input, by hand: three units, of which two are active, and the
# prefixes one and three.

# %% short=true
W_dec, x = torch.eye(3), torch.tensor([3.0, 2.0, 2.0])
f = torch.tensor([3.0, 2.0, 0.0])
errors = [float((x - f[:m] @ W_dec[:m]).square().sum()) for m in (1, 3)]
print("first unit alone:", errors[0], " all units:", errors[1])
recipe = mi.sae.Recipe("topk", d_sae=3, k=2, prefixes=(1,), aux=0.0)
parts = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": W_dec, "b_dec": torch.zeros(3)}
nobody_dead = torch.zeros(3, dtype=torch.bool)
by_package = mi.sae.step.batch_loss(parts, x[None], recipe, 1.0, nobody_dead).total
assert abs(by_package - sum(errors) / 2) < 1e-5

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: the nested error
# For each prefix the squared error of what the first units reconstruct, summed over dimensions,
# mean over inputs; then the mean over prefixes. The last prefix may be all units or not.

# %% [markdown] tags=["hint"]
# `f[:, :m] @ W_dec[:m] + b_dec` is what the first `m` units say.


# %% tags=["exercise"]
def nested_error(x, f, W_dec, b_dec, prefixes):
    """x: [token d]; f: [token unit]; W_dec: [unit d]; b_dec: [d]; prefixes: ints -> a number."""
    raise NotImplementedError


# %% tags=["solution"]
def nested_error(x, f, W_dec, b_dec, prefixes):
    said = [f[:, :m] @ W_dec[:m] + b_dec for m in prefixes]
    return torch.stack([(one - x).square().sum(1).mean() for one in said]).mean()


# %% tags=["check"]
check.nested_error(nested_error)

# %% [markdown] short=true
# Does it help? The toy of notebook 10 again: five *parents* with a *child* each that never comes
# alone, and five parents and children apart. We know all directions. A **hole** is a point with
# parent and child at which the parent's unit is silent. Two units may be active; three seeds.


# %%
def families(seed, often):
    """Ten parents and ten children in 24 dimensions; the first five children need their parent."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(24, 24, generator=draw))[0][:20]
    chance = torch.tensor([0.15] * 10 + [often] * 5 + [0.15 * often] * 5)
    parent, child = (torch.rand(8000, 20, generator=draw) < chance).split(10, dim=1)
    child = child & torch.cat([parent[:, :5], torch.ones_like(parent[:, 5:])], 1)
    return basis, parent, child


# %%
def toy_world(seed, often, **options):
    """The points of such a world, what is there, and a dictionary that was trained on them."""
    basis, parent, child = families(seed, often)
    world = torch.cat([parent, child], 1).float() @ basis
    toy = mi.sae.Recipe(d_sae=48, steps=400, batch=256, lr=1e-2, seed=seed, **options)
    with torch.enable_grad():
        run = mi.sae.train(mi.sae.start(mi.sae.Vectors(world), toy), progress=False)
    return world, basis, parent, child, run.sae()


def holes(seed, prefixes):
    """The share of points with parent and child on which the parent's unit is silent [parent]."""
    options = dict(kind="batchtopk", k=2, prefixes=prefixes)
    world, basis, parent, child, one = toy_world(seed, 0.3, **options)
    on = one.encode(world)[:, (one.W_dec @ basis[:10].T).argmax(0)] > 0
    return 1 - (on & parent & child).sum(0) / (parent & child).sum(0)


# %% short=true
toys = {"plain": (), "nested": (5, 10, 20)}
silent = {name: torch.stack([holes(seed, p) for seed in range(3)]) for name, p in toys.items()}
share = {name: part[:, :5].mean(1) for name, part in silent.items()}
claim("judge.nested_holes", share["nested"].mean(), control=share["plain"].mean())
mi.figures.bars(
    share, [f"seed {seed}" for seed in range(3)], ylabel="share of holes, mean of five families",
    title="Nested units leave fewer holes in the parents",
)  # fmt: skip

# %% [markdown]
# In the toy nesting helps: its first units must do without the later ones, so the parents are worth
# a unit. But we chose the prefixes knowing that there are ten parents. And a hole need not be
# absorption: a parent that no unit learned, or one that found no place among the two, counts too.
# (The pairs apart are in the toy but not in the figure.) What nesting costs, section 2 shows; what
# it does on pocket, section 5 asks.
#
# ### Gated
#
# An L1 penalty makes activations too small. A **gated** SAE [@rajamanoharan2024gated] asks two
# questions of one product $\pi = (x - b_{dec}) W_{enc}$. *Whether* a unit is on: $\pi + b_{gate} >
# 0$, and only this is penalised. *How strong* it is then: $\mathrm{relu}(e^{r} \pi + b_{mag})$,
# which pays nothing. A step has no gradient, so the gate learns from what it would reconstruct
# alone, with the decoder held still. After training nothing new is left: both questions look along
# one direction, so a threshold on the strength answers the first one as well.

# %%
draw = torch.Generator().manual_seed(0)
pi = torch.randn(1000, 4, generator=draw)
b_gate, r_mag, b_mag = 0.5 * torch.randn(3, 4, generator=draw)
strength = (pi * r_mag.exp() + b_mag).relu()
gated = (pi + b_gate > 0) * strength
threshold = b_mag - r_mag.exp() * b_gate
assert torch.equal(gated, strength * (pi * r_mag.exp() + b_mag > threshold))
assert (gated != strength).any()  # the gate did cut something
print("a gated SAE is a JumpReLU with the thresholds", threshold.clamp_min(0).numpy().round(2))

# %% [markdown] short=true
# ## 2. The candidates
#
# Dictionaries of the residual stream after the middle layer of pocket, trained on the same tokens
# for as many steps, with about as many active units: BatchTopK from two seeds; TopK, which keeps as
# many units on every token; Matryoshka; gated. (ReLU with an L1 penalty is not among them; notebook
# 10 has it in short runs.) And some that have no right to win:
#
# - *shuffled rows*: the first one, with the rows of its decoder given to other units;
# - *random*: as many random directions, of which the largest answers are kept;
# - *components*: the largest principal components of activations on other text, as many as the
#   others have active units, each cut into its two signs; and, *of these tokens*, the same of the
#   tokens that are judged below, from the training half. These are not told which label a token
#   has; but that it has just one is what tokens were chosen by.
#
# A last one was trained on an **untrained** model, the same architecture with weights drawn anew:
# for such models automatic interpretability scores were found to be as good [@heap2025random].

# %%
from dataclasses import replace
from importlib.resources import files

from mi_data.pocket import generator as g

pocket, seed = mi.models.load_pocket(model), 0

# %% short=true
nobody = mi.untrained(pocket)
place = ("resid_post", pocket.cfg.n_layers // 2)
kinds = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
samples = [g.sample(kind, 5000 + 1000 * seed + i, "test") for i in range(100) for kind in kinds]
labelled = mi.sae.label_tokens(pocket, samples, least=50, texts=False)
marks = torch.stack([labelled.flat(name) for name in labelled.labels], 1)
one_role = marks.sum(1) == 1
train = (labelled.real.nonzero()[:, 0] < len(samples) // 2)[one_role]
labels, names = marks[one_role], list(labelled.labels)
x, x0 = (mi.sae.read_tokens(some, place, labelled.tokens, labelled.real)[one_role]
         for some in (pocket, nobody))  # fmt: skip
print(len(x), "tokens with one role each:", ", ".join(names))


# %%
def opened(name):
    """A committed dictionary of pocket."""
    return mi.sae.load(files("mi_data") / "sae" / name)


words = torch.cat([pocket.to_tokens(g.document(i).text)[0] for i in range(400, 600)])
text_rows = words[: len(words) // 128 * 128].view(-1, 128)
held_out, spare_rows = text_rows[:16], text_rows[16:]
spare = mi.sae.Activations(pocket, place, spare_rows, buffer=spare_rows.numel()).chunk(0)
stem = f"resid_post_{place[1]}"
board = {"BatchTopK": opened(stem), "BatchTopK, seed 1": opened(f"{stem}_seed_1"),
         "TopK": opened(f"{stem}_topk"), "gated": opened(f"{stem}_gated"),
         "Matryoshka": opened(f"{stem}_matryoshka")}  # fmt: skip
trained, of_nobody, first = list(board), opened(f"{stem}_untrained"), board["BatchTopK"]


# %%
draw, mean = torch.Generator().manual_seed(seed), spare.mean(0)
board["shuffled rows"] = replace(first, W_dec=first.W_dec[torch.randperm(1536, generator=draw)])
rows = torch.nn.functional.normalize(torch.randn(1536, x.shape[1], generator=draw))
other = dict(kind="topk", k=32, threshold=None, b_enc=torch.zeros(1536), b_dec=mean)
board["random"] = replace(first, W_enc=rows.T.contiguous(), W_dec=rows, **other)
plain = dict(kind="relu", threshold=None)
for name, fitted_on in (("components", spare), ("components of these tokens", x[train])):
    centre = fitted_on.mean(0)
    V = torch.linalg.svd(fitted_on - centre, full_matrices=False)[2][:32]
    V, zeros = torch.cat([V, -V]), torch.zeros(64)
    board[name] = replace(
        first, W_enc=V.T.contiguous(), W_dec=V, b_enc=zeros, b_dec=centre, **plain
    )

# %% [markdown] short=true
# First what notebook 10 measures, on fresh text: active units, explained variance, and the *loss
# recovered*: of the loss that the stream's mean in its place would add, the share that the
# reconstruction, put there instead, does not add.

# %% short=true
stream = mi.sae.Activations(pocket, place, held_out, buffer=held_out.numel()).chunk(0)
stream0 = mi.sae.Activations(nobody, place, held_out, buffer=held_out.numel()).chunk(0)
faithful = {name: mi.sae.fidelity(one, stream) for name, one in board.items()}
losses = {name: mi.sae.splice_losses(pocket, one, held_out) for name, one in board.items()}
of_other = {"untrained": mi.sae.fidelity(of_nobody, stream0)}
mi.figures.table(
    [{"dictionary": name, "active units": one.l0, "explained variance": one.explained_variance,
      "loss recovered": losses[name].recovered("mean") if name in losses else float("nan")}
     for name, one in {**faithful, **of_other}.items()],
    title="Faithful to the activations, and to the model",
)  # fmt: skip

# %%
unexplained = {name: 1 - one.explained_variance for name, one in faithful.items()}
claim("judge.nested_cost", unexplained["Matryoshka"], control=unexplained["BatchTopK"])

# %% [markdown] short=true
# Nesting costs: Matryoshka leaves more of the variance unexplained. By this table nobody would buy
# it. Shuffled rows ruin both columns, random rows explain next to nothing. So far the measures do
# their work, except that the untrained model's SAE is among the best (notebook 10 showed that).
#
# ## 3. Sparse probing
#
# A dictionary is good, the measure says, if few of its units suffice to tell what we know about a
# token [@gurnee2023haystack; @karvonen2025saebench]. Choose the `k` units whose mean activation
# differs most between tokens with a label and without, fit a logistic regression on these alone,
# and score it on other texts. By hand for one label and one unit. Both classes count alike
# (**balanced accuracy**), so chance is a half.

# %% short=true
role = names.index("S2")
y, acts = labels[:, role], first.encode(x)
gap = acts[train & y].mean(0) - acts[train & ~y].mean(0)
unit = int(gap.abs().argmax())
probe = mi.sae.fit_probe(acts[train][:, [unit]], y[train])
says = probe(acts[~train][:, [unit]]) > 0
by_hand = (says[y[~train]].float().mean() + (~says)[~y[~train]].float().mean()) / 2
print(f"unit {unit} alone tells S2 on other texts: {float(by_hand):.3f}")
package = mi.sae.sparse_probing(acts, labels[:, [role]], train, k=1)
assert abs(float(package[0]) - float(by_hand)) < 1e-6

# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 2: which units?
# Return the `k` units whose mean activation differs most, in size, between tokens with the label
# and tokens without it, the largest difference first.

# %% [markdown] tags=["hint"]
# `acts[label]` are the tokens with the label, `acts[~label]` those without; `topk(k).indices`
# gives numbers. A unit that falls silent where the label holds tells as much as one that fires.


# %% tags=["exercise"]
def telling_units(acts, label, k):
    """acts: [token unit]; label: [token], bool; k: int  ->  [k] unit numbers."""
    raise NotImplementedError


# %% tags=["solution"]
def telling_units(acts, label, k):
    gap = acts[label].mean(0) - acts[~label].mean(0)
    return gap.abs().topk(k).indices


# %% tags=["check"]
check.telling_units(telling_units)

# %% [markdown] short=true
# Now all labels. Beside the dictionaries stand the neurons of the layer, single dimensions of the
# stream, and the untrained model. Compare the bars with one unit and with five.

# %% short=true
views = {name: one.encode(x) for name, one in board.items() if name != "shuffled rows"}
neurons = mi.sae.read_tokens(pocket, ("mlp_post", place[1]), labelled.tokens, labelled.real)
views |= {"neurons": neurons[one_role], "single dimensions": x, "untrained": of_nobody.encode(x0)}
probing = {name: [mi.sae.sparse_probing(a, labels, train, k).mean() for k in (1, 5)]
           for name, a in views.items()}  # fmt: skip
mi.figures.bars(
    {f"k = {k}": [probing[name][i] for name in probing] for i, k in enumerate((1, 5))},
    list(probing), horizontal=True, limit=1,
    xlabel="balanced accuracy, mean over labels (chance 0.5)",
    title="Five components probe as well as five units",
)  # fmt: skip

# %% short=true
five = {name: float(pair[1]) for name, pair in probing.items()}
claim("judge.probing_untrained", five["BatchTopK"], control=five["untrained"])
of_kinds = [five[name] for name in trained]
claim("judge.kinds_alike", max(of_kinds) - min(of_kinds),
      control=five["BatchTopK"] - five["untrained"])  # fmt: skip
claim("judge.probing_components", five["components"] - five["BatchTopK"],
      control=five["random"] - five["BatchTopK"])  # fmt: skip

# %% [markdown] short=true
# The measure tells a trained model's SAE from an untrained one's, and an SAE from random
# directions; the four kinds it hardly tells apart. And with five units it does not tell an SAE from
# **principal components**. Nobody would call these the features of a model: they are only where the
# stream varies most. (For the untrained model the stream differs as well as the SAE: which of them
# it is that tells less, is not asked.)
#
# ### Is an SAE better than a linear probe?
#
# If labels are at hand, why a dictionary? Because a probe on all dimensions overfits, one could
# say, and few units do not. In a broad comparison units did not beat probes that were chosen with
# care [@kantamneni2025probing]. Here is a probe on the whole stream, with the usual strength of the
# penalty on its weights and with stronger ones. To choose the strength, probes are fitted to three
# of four tokens of the *training* texts and scored on the fourth; with the chosen one they are then
# fitted to all of these. The texts on which they are compared with units had no part in it.

# %%
fit_on = train & (torch.arange(len(train)) % 4 != 0)
choose_on = train & ~fit_on
strengths = (1.0, 0.1, 0.01, 0.001)


def accuracy(fitted_on, judged_on, strength):
    """Balanced accuracy of probes on the whole stream, mean over labels, and the probes."""
    probes = [mi.sae.fit_probe(x[fitted_on], y[fitted_on], strength=strength)
              for y in labels.T]  # fmt: skip
    right = [mi.sae.balanced_accuracy(probe(x[judged_on]) > 0, y[judged_on])
             for probe, y in zip(probes, labels.T, strict=True)]  # fmt: skip
    return sum(right) / len(right), probes


best = max(strengths, key=lambda strength: accuracy(fit_on, choose_on, strength)[0])
plain_probe, (tuned_probe, probes) = accuracy(train, ~train, 1.0)[0], accuracy(train, ~train, best)
claim("judge.tuned_probe", tuned_probe, control=five["BatchTopK"])
print(f"C = 1: {plain_probe:.3f}; C = {best}: {tuned_probe:.3f}; "
      f"five units of BatchTopK: {five['BatchTopK']:.3f}")  # fmt: skip

# %% [markdown]
# On pocket the chosen probe is ahead of five units. How a result depends on the care given to the
# rival, the two strengths show. Care was given to one side only: the probe on units keeps the usual
# strength, and it has five of them against all dimensions. (An SAE has other merits: it needs no
# labels to be made, and it may show what nobody asked for.)
#
# ## 4. Targeted probe perturbation
#
# Sparse probing never changes anything. The next measure does: take out the units that belong to
# one class, and see which *probes* suffer. A good dictionary lets us hit one class and spare the
# others [@karvonen2025saebench; @marks2024feature]. A unit serves a class by how much more active
# it is there, times how far its row points along the class's probe. By hand for one class, the ten
# units that serve it most, and two probes:

# %% short=true
strength = 0.01  # which section 3 chose
probes = [mi.sae.fit_probe(x[train], y[train], strength=strength) for y in labels.T]
weights = torch.stack([probe.weights for probe in probes], 1)
serves = gap.clamp_min(0) * (first.W_dec @ weights[:, role])
chosen = serves.topk(10).indices
without = x[~train] - acts[~train][:, chosen] @ first.W_dec[chosen]
lost = {}
for name in ("S2", "S1"):
    i = names.index(name)
    before, after = (mi.sae.balanced_accuracy(probes[i](part) > 0, labels[~train, i])
                     for part in (x[~train], without))  # fmt: skip
    lost[name] = before - after
print("accuracy lost when the units of S2 go:", {k: round(v, 3) for k, v in lost.items()})
matrix = mi.sae.targeted_perturbation(acts, first.W_dec, x, labels, train, probes, 10)
assert abs(float(matrix[role, names.index("S1")]) - lost["S1"]) < 1e-3

# %% [markdown]
# All classes: rows say whose units are taken, columns whose probe is asked. The diagonal is what
# was meant, the rest is damage. Choose a dictionary.

# %%
places = {name: (one, x, probes) for name, one in board.items()}
probes0 = [mi.sae.fit_probe(x0[train], y[train], strength=strength) for y in labels.T]
places["untrained"] = (of_nobody, x0, probes0)
shuffle = torch.randperm(of_nobody.d_sae, generator=torch.Generator().manual_seed(seed))
shuffled0 = replace(of_nobody, W_dec=of_nobody.W_dec[shuffle])
places["untrained, shuffled rows"] = (shuffled0, x0, probes0)
damage = {
    name: mi.sae.targeted_perturbation(one.encode(seen), one.W_dec, seen, labels, train, these, 10)
    for name, (one, seen, these) in places.items()
}


# %%
def damage_of(dictionary):
    """What probes lose when the units of one class are taken."""
    return mi.figures.heatmap(
        damage[dictionary], x=names, y=names, xlabel="probe that is asked",
        ylabel="class whose units are taken", colorbar="accuracy lost", limit=0.5,
        title="The diagonal was meant, the rest is damage", subtitle=dictionary,
    )  # fmt: skip


mi.figures.explore(damage_of, dictionary=list(damage), ahead=True)

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 3: one number of it
# The score is the mean of the diagonal less the mean of all other entries.

# %% [markdown] tags=["hint"]
# There are $n^2 - n$ other entries.


# %% tags=["exercise"]
def targeted(lost):
    """lost: [class class], accuracy lost; rows: whose units are taken  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def targeted(lost):
    n = len(lost)
    return lost.diagonal().mean() - (lost.sum() - lost.trace()) / (n * n - n)


# %% tags=["check"]
check.targeted(targeted)

# %% short=true
score = {name: mi.sae.targeted_score(part) for name, part in damage.items()}
claim("judge.tpp", score["BatchTopK"], control=score["shuffled rows"])
claim("judge.tpp_untrained", score["untrained"], control=score["untrained, shuffled rows"])
claim("judge.tpp_components", score["components of these tokens"] - score["BatchTopK"],
      control=score["components"] - score["BatchTopK"])  # fmt: skip
mi.figures.bars(
    list(score.values()), list(score), horizontal=True, xlabel="targeted perturbation, ten units",
    title="Components of the judged tokens pass, an untrained model in part",
)  # fmt: skip

# %% [markdown] short=true
# Rows matter now: shuffled, they score little, though sparse probing could not see the shuffle (it
# reads activations alone). Components of other text fall behind. Those of the judged tokens do as
# well as the SAE, though not told which label a token has: fitted to the benchmark's tokens, they
# pass it. And the SAE of an *untrained* model reaches a good part: the words themselves are there
# to be read, by probes as by units, though we did not test that this is why. The measure asks
# whether units and probes agree, not whether the model uses either.

# %% [markdown]
# ## 5. Absorption, where nobody built it in
#
# Is a class's unit silent where a special one fires, and does Matryoshka help there, too? Pocket's
# text has families of its own: every name is *a name*, every "dog" *an animal*. The published
# measure [@chanin2024absorption; @karvonen2025saebench] took first letters, with single words as
# their children. We take classes of words, with single words as their children; a female name
# counts as a name as well. Our rule is *after* the benchmark's, not the same: it chooses a class's
# units by sparse probes, takes shares of the probe's whole projection, and asks that the other
# unit point the probe's way. On one half of the rows of fresh text we choose, on the other count:
#
# - the class's **own units**: first the unit whose firing tells the class best, by F1 (it is high
#   where most of the class is caught and little else), then others as long as "one of them fires"
#   gains three hundredths of F1 by one more. So a class split among a few units has no hole for
#   that. One split among *many*, a unit for each name say, still has, and these pass for children;
# - **holes**: words of the class that a probe on the stream recognises, at which no own unit fires;
# - a hole is **absorbed**, by our rule, if one other unit does more than four tenths of the work:
#   what it adds to the probe's score, over what the score has more than outside the class.

# %%
from mi_data.pocket import lexicon

members = {"name": lexicon.NAMES, "female name": lexicon.FEMALE, "male name": lexicon.MALE}
members |= {kind: lexicon.LEXICON[f"{kind}s"] for kind in ("animal", "food", "profession")}
nouns = zip(*lexicon.LEXICON["count_nouns"], strict=True)
members |= dict(zip(("singular noun", "plural noun"), nouns, strict=True))
fresh = range(20_000 + 1000 * seed, 20_600 + 1000 * seed)
drawn = torch.cat([pocket.to_tokens(g.document(i).text)[0] for i in fresh])
word_rows = drawn[: len(drawn) // 128 * 128].view(-1, 128)
real = word_rows != pocket.tokenizer.bos_token_id
xw, choose = mi.sae.read_tokens(pocket, place, word_rows, real), real.nonzero()[:, 0] % 2 == 0


# %%
def holds(words):
    """At which tokens one of the words stands, of those that are one token behind a space."""
    coded = pocket.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return torch.isin(word_rows[real], torch.tensor([ids[0] for ids in coded if len(ids) == 1]))


classes, told = {name: holds(words) for name, words in members.items()}, {}
for name, y in classes.items():
    probe = mi.sae.fit_probe(xw[choose], y[choose], strength=strength)
    score_of = probe(xw[~choose])[:, None]
    f1 = mi.sae.detection(score_of, y[~choose], threshold=torch.zeros(1)).f1
    if y.sum() >= 100 and f1 > 0.6:  # the benchmark, too, leaves out what a probe hardly sees
        told[name] = probe
print({name: int(classes[name].sum()) for name in told})

# %% [markdown]
# By hand for the names and one dictionary, with the package's own units.

# %%
y, probe, f = classes["name"], told["name"], first.encode(xw)
by_package = mi.sae.absorption(f, first.W_dec, xw, y, choose, probe)
own = by_package.own
seen = y & ~choose & (probe(xw) > 0)
hole = (f[seen][:, own] == 0).all(1)
work = f[seen] * (first.W_dec @ probe.weights)
work[:, own] = 0
share_of_work = work.amax(1) / (probe(xw[seen]) - probe(xw[choose & ~y]).mean())
assert torch.equal(hole & (share_of_work > 0.4), by_package.absorbed())
print(f"{len(hole)} names, own units {own.tolist()}, {int(hole.sum())} holes, of which "
      f"{int((hole & (share_of_work > 0.4)).sum())} are absorbed by the rule")  # fmt: skip

# %% [markdown]
# A measure must find the thing where it was built in. So we ask the toy of section 1 as well, with
# children so rare that they do not pass for a split, and an L1 penalty, which makes them absorb
# ([notebook 10](10_sparse_autoencoders.ipynb) shows why). And we add two questions that the rule
# does not ask. Does the unit that works in the hole do so *only* in holes? And is it a *child*:
# where it fires, does the class hold more often than not?


# %%
def counts(found):
    """Words seen, holes, those in which one unit works, the part of them that a child absorbs, and
    words without a hole at which one other unit does as much."""
    elsewhere = ~found.hole & (found.share > 0.4)
    child = found.absorbed(precision=0.5)
    parts = (found.hole | True, found.hole, found.absorbed(), child, elsewhere)
    return torch.stack([part.sum().float() for part in parts])


def of_toy(seed):
    """The counts of the five families of a toy world."""
    world, _, parent, _, one = toy_world(seed, 0.05, kind="relu", l1=2.0)
    fit, f, found = torch.arange(len(world)) % 2 == 0, one.encode(world), []
    for y in parent.T[:5]:
        probe = mi.sae.fit_probe(world[fit], y[fit], strength=strength)
        found.append(counts(mi.sae.absorption(f, one.W_dec, world, y, fit, probe)))
    return found


# %%
tally = {"toy": torch.stack([row for seed in range(3) for row in of_toy(seed)])}
for dictionary in (*trained, "shuffled rows"):
    one = board[dictionary]
    f = one.encode(xw)
    tally[dictionary] = torch.stack([
        counts(mi.sae.absorption(f, one.W_dec, xw, classes[name], choose, probe))
        for name, probe in told.items()
    ])  # fmt: skip
mi.figures.table(
    [{"dictionary": name, "words seen": rows[:, 0].sum(), "holes": rows[:, 1].sum(),
      "absorbed by the rule": rows[:, 2].sum(),
      "share of words absorbed, mean of classes": (rows[:, 2] / rows[:, 0]).mean()}
     for name, rows in tally.items()],
    title="What the rule counts",
)  # fmt: skip

# %% [markdown]
# The last column is the benchmark's kind of share. It mixes two things: how often there is a hole,
# and how often one unit fills it. From here on we take the second, of all classes together. Now our
# two questions. The first two bars of a dictionary ask the same of two sets of words: those with a
# hole, and those where the class's own units do fire. Compare them with the toy's, and look at the
# third. By the rule as large a part of Matryoshka's holes is absorbed as of BatchTopK's, or a
# larger one, and of the gated one's least.

# %%
n_seen, n_holes, n_work, n_child, n_else = torch.stack([t.sum(0) for t in tally.values()]).T
at_holes, at_others, by_child = n_work / n_holes, n_else / (n_seen - n_holes), n_child / n_holes
mi.figures.bars(
    {"with a hole": at_holes, "without a hole": at_others, "with a hole, by a child": by_child},
    list(tally), horizontal=True, limit=1, xlabel="share of words at which one other unit works",
    title="What works in pocket's holes is seldom a child",
)  # fmt: skip

# %%
ours = slice(1, 1 + len(trained))  # between the toy and the shuffled rows
by_rule, filled = (dict(zip(tally, part.tolist(), strict=True)) for part in (at_holes, by_child))
plain_rule = (by_rule["BatchTopK"] + by_rule["BatchTopK, seed 1"]) / 2
claim("judge.nested_absorbs", by_rule["Matryoshka"] - plain_rule,
      control=by_rule["gated"] - plain_rule)  # fmt: skip
claim("judge.works_anyway", (at_holes - at_others)[ours].mean(),
      control=(at_holes - at_others)[0])  # fmt: skip
claim("judge.children", by_child[ours].max(), control=by_child[0])
claim("judge.nested_children", filled["Matryoshka"],
      control=(filled["BatchTopK"] + filled["BatchTopK, seed 1"]) / 2)  # fmt: skip

# %% [markdown]
# In the toy what works in the hole is a child, and it works hardly anywhere else. On pocket, too,
# the rule finds less at words without a hole, but the gap is far smaller than the toy's. And what
# works is seldom a child: most of the tokens where it fires are not of the class, so it seems to
# stand for something else as well. (A weak firing counts here as a strong one; weighed by
# activation more units might pass, and the toy, which has no such noise, cannot say.) So what the
# rule counts here need not be what absorption means, in any of the kinds.
#
# Of the little that is left, holes that a child fills, Matryoshka has less than BatchTopK, as it
# should, though by the rule it seemed no better. Which question is asked decides who wins. (A
# female name is counted in both of its classes.) But one dictionary of a kind is no comparison of
# kinds. Other classes, layers and widths were not asked; nor did we ablate units, as the first
# study of absorption did.

# %% [markdown]
# ## 6. Swap one attribute
#
# So ask the model. France has a capital, a language, a continent and a currency. Put another
# country's units in France's place, such that the *capital* becomes the other one's and the
# *language* stays. That is the idea of RAVEL [@huang2024ravel]. **Cause**: of the questions about
# the attribute, the share whose answer becomes the other's. **Isolation**: of questions about other
# attributes, the share whose answer stays. The score is the mean of both.

# %%
import random

from mi_data.pocket.facts import all_facts
from mi_data.pocket.lexicon import FACTS

asked = ("capital", "language", "continent", "currency")
known = {}
for relation, subject, answer in all_facts():
    if relation in asked:
        known.setdefault(subject, {})[relation] = answer

# %%
questions = [
    (relation, subject, text.replace("{s}", subject))
    for subject, facts in known.items() if len(facts) > 1
    for relation in facts for text in FACTS[relation]["phrasings"]
]  # fmt: skip
texts = [text[0].upper() + text[1:] for _, _, text in questions]
coded = pocket.tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
last = torch.tensor([len(ids) for ids in coded["input_ids"]])

# %%
at = []
for (_, subject, text), offsets in zip(questions, coded["offset_mapping"], strict=True):
    end = text.index(subject) + len(subject)
    at.append(1 + max(i for i, (start, _) in enumerate(offsets) if start < end))
at = torch.tensor(at)

# %%
ids = pocket.to_tokens(texts, padding_side="right")
with torch.no_grad():
    H = torch.cat([mi.sites.read(pocket, part, [place])[place] for part in ids.split(200)])


def rest(vectors, which):
    """Logits behind the questions `which` with `vectors` at the subject's last token."""
    h = H[which].clone()
    h[torch.arange(len(which)), at[which]] = vectors
    for block in list(pocket.blocks)[place[1] + 1 :]:
        out = block(h)
        h = out[0] if isinstance(out, tuple) else out
    return pocket.unembed(pocket.ln_final(h[torch.arange(len(which)), last[which]][:, None]))[:, 0]


# %% [markdown]
# A pair is a question about one country, the base, and another country, the source, with another
# answer. We keep pairs that the model answers rightly and in which putting the source's *whole*
# vector there brings the source's answer: else nothing at this place could. So on what is kept, no
# change and a full swap both score exactly a half: all isolation or all cause.


# %%
def answer_id(subject, relation):
    """The first token of the true answer."""
    text = " " + known[subject][relation]
    return pocket.tokenizer(text, add_special_tokens=False)["input_ids"][0]


draw, pairs = random.Random(seed), []
by_relation = [[i for i, one in enumerate(questions) if one[0] == name] for name in asked]
while len(pairs) < 700:
    base, source = draw.choice(by_relation[len(pairs) % 4]), draw.randrange(len(questions))
    (relation, subject, _), (_, there, _) = questions[base], questions[source]
    if relation in known[there] and known[there][relation] != known[subject][relation]:
        row = answer_id(subject, relation), answer_id(there, relation), asked.index(relation)
        pairs.append((base, source, *row))

# %%
base_all, source_all, own_all, wanted_all, asks = torch.tensor(pairs).T
from_all, to_all = (H[which, at[which]] for which in (base_all, source_all))
with torch.no_grad():
    says, swapped = (rest(part, base_all).argmax(-1) for part in (from_all, to_all))
good = ((says == own_all) & (swapped == wanted_all)).nonzero()[:, 0]
few = min(90, *(int((asks[good] == i).sum()) for i in range(4)))
kept = torch.cat([good[asks[good] == i][:few] for i in range(4)])
base, own, wanted, relation_of = base_all[kept], own_all[kept], wanted_all[kept], asks[kept]
x_base, x_source = from_all[kept], to_all[kept]
judged = torch.cat([torch.arange(few) < 35] * 4)
learned = ~judged


def margin(vectors, which):
    """The source's answer's logit less the base's, on the pairs `which` [pair]."""
    logits, rows = rest(vectors, base[which]), torch.arange(int(which.sum()))
    return logits[rows, wanted[which]] - logits[rows, own[which]]


# %% [markdown]
# Which units? SAEBench learns a mask over units by running the model. We learn it on the *linear*
# effect of each unit: how much its exchange moves the margin between the two answers, by the
# gradient at three points between both vectors, averaged. How good that is for the *whole* swap,
# the next cell's line says; of single units it says nothing. The mask sees one part of the pairs;
# the *model*, run with those units exchanged, is judged on others, of the same countries.

# %%
slope = torch.zeros_like(x_base[learned])
for share_of_way in (1 / 6, 3 / 6, 5 / 6):
    between = torch.lerp(x_base, x_source, share_of_way)[learned].requires_grad_()
    with torch.enable_grad():
        slope += torch.autograd.grad(margin(between, learned).sum(), between)[0] / 3
with torch.no_grad():
    plain, full = (margin(part[learned], learned) for part in (x_base, x_source))
guess = plain + ((x_source - x_base)[learned] * slope).sum(1)
print(f"linear effect of the whole swap against the true one: "
      f"r = {torch.corrcoef(torch.stack([guess, full]))[0, 1]:.3f}")  # fmt: skip


# %%
def exchanged(one, attribute):
    """The base's vectors with an attribute's units of the source, on the judged pairs, and how
    many units these are."""
    moved = one.encode(x_source) - one.encode(x_base)
    effects = moved[learned] * (slope @ one.W_dec.T)
    mask = mi.sae.units_to_swap(effects, plain, relation_of[learned] == attribute)
    return x_base[judged] + moved[judged][:, mask] @ one.W_dec[mask], int(mask.sum())


# %%
def swap_scores(change):
    """Cause and isolation of `change`, which gives vectors and a count, mean over attributes."""
    found, r = [], relation_of[judged]
    for attribute in range(4):
        vectors, count = change(attribute)
        with torch.no_grad():
            answers = rest(vectors, base[judged]).argmax(-1)
        brought, kept_own = answers == wanted[judged], answers == own[judged]
        found.append([brought[r == attribute].float().mean(),
                      kept_own[r != attribute].float().mean(), count])  # fmt: skip
    return torch.tensor(found).mean(0)


# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: cause and isolation
# From the answers after a swap for one attribute: return cause, isolation and their mean, in this
# order. `is_cause` marks the pairs that ask about this attribute; all others ask about another.

# %% [markdown] tags=["hint"]
# `is_cause` marks questions about the attribute. On these the source's answer is right; on all
# others the base's.


# %% tags=["exercise"]
def disentangled(answers, base_answers, source_answers, is_cause):
    """answers, base_answers, source_answers: [pair] ids; is_cause: [pair], bool  ->  [3]."""
    raise NotImplementedError


# %% tags=["solution"]
def disentangled(answers, base_answers, source_answers, is_cause):
    cause = (answers == source_answers)[is_cause].double().mean()
    isolation = (answers == base_answers)[~is_cause].double().mean()
    return torch.stack([cause, isolation, (cause + isolation) / 2])


# %% tags=["check"]
check.disentangled(disentangled)

# %% [markdown]
# Beside the dictionaries: single dimensions of the stream, chosen by the same mask; and nothing,
# and all.

# %%
axes = replace(first, **(dict(W_enc=torch.eye(192), W_dec=torch.eye(192)) | {
    "kind": "relu", "threshold": None, "b_enc": torch.full((192,), 1e3), "b_dec": torch.zeros(192)
}))  # fmt: skip
tried = {**board, "single dimensions": axes}
swaps = {name: swap_scores(lambda i, one=one: exchanged(one, i)) for name, one in tried.items()}
swaps["nothing"] = swap_scores(lambda i: (x_base[judged], 0))
swaps["whole vector"] = swap_scores(lambda i: (x_source[judged], 0))
mi.figures.table(
    [{"dictionary": name, "cause": row[0], "isolation": row[1], "score": row[:2].mean(),
      "units": row[2]} for name, row in swaps.items()],
    title="Bring one attribute and no other",
)  # fmt: skip

# %%
swap = {name: float(row[:2].mean()) for name, row in swaps.items()}
claim("judge.swap", swap["BatchTopK"], control=swap["shuffled rows"])
claim("judge.swap_dimensions", swap["single dimensions"] - swap["BatchTopK"],
      control=swap["shuffled rows"] - swap["BatchTopK"])  # fmt: skip

# %% [markdown]
# Look at *single dimensions*: a mask, chosen with labels, makes as much of the plain axes of the
# stream as of a trained dictionary (there are fewer of them to choose from, and they leave no
# error behind); of random directions it makes less.
# The mask is a supervised method in a dictionary's clothes: among many directions it finds some
# that add up to what it needs. Shuffled rows cannot do it, because their activations say nothing of
# where they write. So a good score here is no evidence that training found the right units; the
# *difference* to plain axes, with the same mask, would be some.
#
# ## 7. Do the measures agree?
#
# Rank the dictionaries of pocket's stream by each measure, without the shuffled rows, which probing
# cannot see. The figure holds the rank correlation of every two measures: one where they order
# alike, zero where they have nothing in common, less where one turns the other's order round.

# %%
measures = {
    "explained variance": [faithful[name].explained_variance for name in views if name in board],
    "probing, k = 1": [float(probing[name][0]) for name in views if name in board],
    "probing, k = 5": [five[name] for name in views if name in board],
    "perturbation": [score[name] for name in views if name in board],
    "swap": [swap[name] for name in views if name in board],
}
ranks = torch.tensor([list(values) for values in measures.values()]).argsort(1).argsort(1).float()
agreement = torch.corrcoef(ranks)
mi.figures.heatmap(
    agreement, x=list(measures), y=list(measures), limit=1, text=".1f", colorbar="rank correlation",
    title="Do the measures order the dictionaries alike?",
    subtitle=f"{ranks.shape[1]} dictionaries of pocket, shuffled rows left out",
)  # fmt: skip

# %% [markdown]
# Here sparse probing and perturbation order the dictionaries more alike than either does with the
# swap, which asks the model. No claim holds this: the dictionaries are few, and the five trained
# ones lie so close that another draw of texts may turn their order round.
#
# ## 8. Inside the attention layer
#
# A dictionary may also read what the heads of a layer write, side by side, before it is summed: an
# **attention output** SAE [@kissane2024attention]. Its units can be laid to heads: what share of a
# row's squared length lies in the part of each head? The claim takes the largest of these shares;
# the control does so for random rows. These are as long in each head, on average, which what heads
# write need not be: a part of the difference may be that some heads write more than others.

# %%
of_heads = opened(f"z_{place[1]}")
part_of = of_heads.W_dec.unflatten(1, (pocket.cfg.n_heads, -1)).square().sum(2)
chance = rows[:768].unflatten(1, (pocket.cfg.n_heads, -1)).square().sum(2)
claim("judge.heads", part_of.amax(1).mean(), control=chance.amax(1).mean())
z = mi.sae.read_tokens(pocket, ("z", place[1]), labelled.tokens, labelled.real)[one_role]
of_role = [
    int(gap.abs().argmax())
    for gap in (of_heads.encode(z)[y].mean(0) - of_heads.encode(z)[~y].mean(0) for y in labels.T)
]
mi.figures.heatmap(
    part_of[of_role], x=[f"L{place[1]}H{i}" for i in range(pocket.cfg.n_heads)], y=names,
    xlabel="head", ylabel="the unit that tells a label best", center=None, limit=1,
    colorbar="share of the row", title="How the units that tell a label lie in the heads",
)  # fmt: skip

# %% [markdown] short=true
# ## Summary
#
# - A Matryoshka SAE makes its first units do without the rest. In a toy it left fewer holes; on
#   pocket it explains less. A gated SAE is, once trained, a JumpReLU.
# - Sparse probing tells trained from untrained, and not an SAE from principal components. It cannot
#   see the decoder at all.
# - A dense probe whose penalty was chosen with care beats five units, whose own penalty was not
#   chosen. How far it is ahead depends on such care.
# - Perturbation sees the decoder. Components of the judged tokens pass it too, those of other text
#   do not, and an untrained model does in part.
# - A rule after the benchmark's for absorption counts on pocket what is seldom a child of the
#   class. By it Matryoshka absorbs no less than BatchTopK; of holes that a child fills it has less.
# - The swap asks the model. But with a mask that is learned from labels, the plain axes of the
#   stream do as well as a trained dictionary.
# - So report, beside the score, what components, random directions and an untrained model get.
#
# One model of one size, one layer, one width, labels of single tokens, one way to choose units for
# each measure, one dictionary of most kinds: on `pocket`. On larger models SAEs may be further
# ahead of components, and absorb more.
#
# **Where to read on.** [@karvonen2025saebench] for the measures; [@kantamneni2025probing] for
# probes; [@heap2025random] for untrained models; [@huang2024ravel] for attributes;
# [@bussmann2025matryoshka; @rajamanoharan2024gated; @kissane2024attention] for the kinds.

# %%
claim.table()
