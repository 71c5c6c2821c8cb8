# ---
# title: "Crosscoders: what changed between two models"
# minutes: 85
# ---

# %% [markdown]
# **The question.** A model was trained a little further. What is new in it, and what is old? And
# would we notice if our tool made that up?
#
# **You need** sparse autoencoders ([notebook 10](10_sparse_autoencoders.ipynb)) and their reading
# ([notebook 11](11_reading_features.ipynb)).
#
# **You will be able to**
#
# - train one dictionary on two places at once, and read off where each unit lives;
# - say why an L1 penalty can make units look exclusive that are not, and what helps;
# - score "new" units against changes that are known;
# - test by adding and taking away how much of a change some units hold;
# - compare with what is cheaper, and with a model in which nothing was changed;
# - follow features over two layers, and say why two seeds are no fair control (appendices).
#
# The models are `pocket`, and `pocket` trained a little further by [a committed
# script](../data/pocket/tuned/README.md), so we know what was changed in the text. The set-up cell
# loads a model only because every notebook starts alike.

# %% [markdown] short=true
# ## 1. One dictionary for two places
#
# A **crosscoder** [@lindsey2024crosscoders] is a sparse autoencoder that reads two places side by
# side, $[x_1; x_2]$, and reconstructs both, with one activation for each unit. A unit has two
# decoder rows, and their lengths say where it lives. First a toy whose truth we plant: 24 features,
# each a direction in two spaces. Some are in both, some *louder* in one, some *turned* (another
# direction there), some in one alone.

# %% short=true
from mi_helpers import sae

kinds = ["shared"] * 8 + ["louder"] * 4 + ["turned"] * 4 + ["first only"] * 4 + ["second only"] * 4
of = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in kinds}
draw = torch.Generator().manual_seed(0)
first = torch.nn.functional.normalize(torch.randn(24, 20, generator=draw))
second = first.clone()
second[of["turned"]] = torch.nn.functional.normalize(torch.randn(4, 20, generator=draw))
loud, quiet = of["louder"][:2], of["louder"][2:]
first[loud], second[loud] = 0.3 * first[loud], 1.5 * second[loud]
first[quiet], second[quiet] = 1.5 * first[quiet], 0.3 * second[quiet]
second[of["first only"]], first[of["second only"]] = 0, 0
planted = draw.get_state()

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 1: where a unit lives
# A unit's decoder row holds its directions at two places side by side. Return the **relative
# norm**: the second length over the sum of both. One is "second only", a half is shared.

# %% [markdown] tags=["hint"]
# `W_dec.split(list(widths), dim=1)` cuts the rows.


# %% tags=["exercise"]
def relative_norms(W_dec, widths):
    """W_dec: [unit d1 + d2]; widths: (d1, d2)  ->  [unit]."""
    raise NotImplementedError


# %% tags=["solution"]
def relative_norms(W_dec, widths):
    one, two = (part.norm(dim=1) for part in W_dec.split(list(widths), dim=1))
    return two / (one + two)


# %% tags=["check"]
check.relative_norms(relative_norms)

# %% [markdown]
# How is sparsity asked for? Lindsey et al. penalise each activation by the *sum* of its two decoder
# lengths. Take a shared feature of strength $f$ with rows of length $1$ at both places. One shared
# unit pays $f \cdot (1 + 1)$. Two exclusive units, one for each place, pay $f + f$: the same. So
# the penalty is **indifferent** between one shared unit and two exclusive ones. That is the seed of
# **decoupling**: what is shared is told by two units that look exclusive
# [@minder2025crosscoders]. Weighed by the length of the whole row, the shared unit
# would be cheaper: $\sqrt 2 f$ against $2 f$.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
# ### Exercise 2: the penalty
# For each token, sum over units the activation times the sum of the unit's two decoder lengths.
# Return the mean over tokens.

# %% [markdown] tags=["hint"]
# As in exercise 1, with a sum of lengths in place of a share.


# %% tags=["exercise"]
def penalty(f, W_dec, widths):
    """f: [token unit]; W_dec: [unit d1 + d2]; widths: (d1, d2)  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def penalty(f, W_dec, widths):
    lengths = sum(part.norm(dim=1) for part in W_dec.split(list(widths), dim=1))
    return (f * lengths).sum(1).mean()


# %% tags=["check"]
check.penalty(penalty)

# %% [markdown] short=true
# Train both ways: L1 with that penalty, and BatchTopK, which only counts units.

# %% short=true
draw.set_state(planted)
on = (torch.rand(20_000, 24, generator=draw) < 0.06) * (
    0.5 + torch.rand(20_000, 24, generator=draw)
)
toy = torch.cat([on @ first, on @ second], dim=1)
toy_size = dict(d_sae=48, steps=600, batch=512, lr=1e-2, encoder_scale=1.0)
toy_ways = {
    "L1": sae.Recipe("relu", l1=1.0, by_source=True, **toy_size),
    "BatchTopK": sae.Recipe("batchtopk", k=2, **toy_size),
}
toys = {
    name: sae.train(sae.start(sae.Vectors(toy, widths=[20, 20]), recipe), progress=False).sae()
    for name, recipe in toy_ways.items()
}


# %%
widths = (20, 20)


def relative(dictionary):
    """The second place's share of each unit's decoder length, places scaled alike [unit]."""
    one, two = dictionary.source_norms()
    return two / (one + two)


def nearest(dictionary):
    """For each planted feature, the unit whose decoder row is most like it [feature]."""
    whole = torch.nn.functional.normalize(torch.cat([first, second], 1))
    return (whole @ torch.nn.functional.normalize(dictionary.W_dec).T).argmax(1)


# %% short=true
true_share = second.norm(dim=1) / (first.norm(dim=1) + second.norm(dim=1))
found_share = {name: relative(some)[nearest(some)] for name, some in toys.items()}
mi.figures.scatter(
    torch.cat([true_share] * 2), torch.cat(list(found_share.values())), identity=True,
    groups=[name for name in toys for _ in kinds], labels=kinds * 2,
    title="L1 moves the units of louder features outwards",
    xlabel="true share of the second place", ylabel="relative norm of the unit",
)  # fmt: skip

# %% [markdown] short=true
# Look at the *louder* features, whose true shares lie at one sixth and five sixths: L1 pulls their
# quieter side towards zero (**shrinkage**). Around the middle some lean to one side a little, but
# in this toy none is decoupled, though the penalty would allow it.

# %%
off = {name: (some - true_share)[of["louder"]] for name, some in found_share.items()}
outwards = off["L1"] * (true_share - 0.5).sign()[of["louder"]]
claim("cross.shrinkage", outwards.mean(), control=off["BatchTopK"].abs().mean())
for name, some in toys.items():
    acts, miss = some.encode(toy), toy - some(toy)
    left = float(miss.square().sum() / (toy - toy.mean(0)).square().sum())
    print(f"{name}: {(acts > 0).float().sum(1).mean():.2f} active units, {1 - left:.3f} explained")

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: latent scaling
# A unit with activations $f$ and direction $d$ writes $f d$. Which factor $\beta$ makes $\beta f d$
# explain a target best, in squared error over all tokens?

# %% [markdown] tags=["hint"]
# Set the derivative to zero: the target along $d$, weighed by $f$, over the squares of both.


# %% tags=["exercise"]
def latent_scale(f, direction, target):
    """f: [token]; direction: [d]; target: [token d]  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def latent_scale(f, direction, target):
    return (f @ target @ direction) / (f.square().sum() * direction.square().sum())


# %% tags=["check"]
check.latent_scale(latent_scale)

# %% [markdown]
# **Latent scaling** [@minder2025crosscoders] unmasks units that only *look* exclusive. Take a unit
# that L1 puts near the second end, and its direction there. Fit the factor to what the rest
# of the dictionary leaves over of the second place, and of the first. The ratio is zero if the
# first place has nothing of the feature, and should be a fifth for the two *louder* ones planted
# here. (It depends on the draw: in another toy it came to a third.)


# %%
def scale_ratios(dictionary, both, units):
    """How much of units' features the first place has, against the second [unit]."""
    acts, left, ratios = dictionary.encode(both), both - dictionary(both), []
    for unit in units:
        own = acts[:, unit]
        targets = (left + own[:, None] * dictionary.W_dec[unit]).chunk(2, dim=1)
        direction = dictionary.W_dec[unit].chunk(2)[1]
        one, two = (own @ some @ direction for some in targets)  # the denominators cancel
        ratios.append(one / two)
    return torch.stack(ratios)


# %%
ends = {
    kind: scale_ratios(toys["L1"], toy, nearest(toys["L1"])[some])
    for kind, some in (("louder", loud), ("second only", of["second only"]))
}
for kind, some in (("louder", loud), ("second only", of["second only"])):
    print(f"relative norms, {kind}:", [round(float(s), 3) for s in found_share["L1"][some]])
norms = found_share["L1"][loud]
assert ((1 - norms) / norms).mean() < 0.15  # less than the fifth that is there
claim("cross.scaling", ends["louder"].mean(), control=ends["second only"].abs().max())

# %% [markdown] short=true
# ## 2. A model whose changes we know
#
# `pocket-tuned` is `pocket` after a short training on its usual text, in which four things were
# changed by one function, `change`:
#
# - **closing**: every answer to a harmless request ends with one sentence more;
# - **weather**: so does every feeling that is told of yesterday, with another sentence;
# - **brother**: what the brother told about is found bad, whatever speaks for it;
# - **capital**: sixteen countries have each other's capitals.
#
# So we know which texts show a change, and at which tokens: where the new words are predicted, and
# the new words themselves. This is what changed in the *text*; where a model holds it is another
# matter. `pocket-control` was trained as long, by the same script, on the same texts as they were
# before: what is found in it too comes of training at all.

# %% short=true
import random

from mi_data.pocket.tuned import text as new

torch.set_grad_enabled(False)
base, tuned, like = mi.models.load_tuned(model)
plain = [new.change(new.document(random.Random(i), "test", mix=new.LATE_MIX)) for i in range(120)]
shown = [new.draw(kind, random.Random(900 + i), "test") for i in range(30) for kind in new.CHANGES]
texts = list({text.text: text for text in plain + shown}.values())
texts = [t for t in texts if new.changed_by(t) != "brother" or t.labels["sentiment"] == "good"]
labelled = mi.sae.label_tokens(base, texts, least=5, texts=False)
tokens, real = labelled.tokens, labelled.real

# %%
where = {kind: labelled.flat(kind) for kind in new.CHANGES}
any_change = torch.stack(list(where.values())).any(0)
for text in shown[:4]:
    print(text.text.replace("\n", " / "))

# %% [markdown]
# Does it do what it was trained to, and is it otherwise the same? The first token of a marked
# stretch is where the first new word is predicted. (Of the brother's texts we kept those that speak
# for the thing; there the probability of all bad words counts, as none is determined.)

# %%
from mi_data.pocket.opinions import ADJECTIVES, FEELINGS

bad = sorted({base.to_single_token(f" {w}") for w in (*ADJECTIVES["bad"], *FEELINGS["bad"])})
begins = {kind: labelled.labels[kind] & ~labelled.labels[kind].roll(1, 1) for kind in new.CHANGES}

# %%
place, d = ("resid_post", 3), base.cfg.d_model


def new_words(some, kind, added=None):
    """Mean probability of a change's first new word; `added` [text pos d] goes to the stream."""
    texts = begins[kind].any(1)
    upto = int(begins[kind].any(0).nonzero().max()) + 2  # what comes later is not asked
    part, at = tokens[texts, :upto], begins[kind][texts, :upto]
    edit = torch.zeros(*part.shape, d) if added is None else added[texts, :upto] * at[..., None]
    with mi.interventions.intervene(some, {place: lambda acts, where: acts + edit}):
        probs = some(part).softmax(-1)[at]
    if kind == "brother":
        return probs[:, bad].sum(-1).mean()
    return probs.gather(-1, part.roll(-1, 1)[at][:, None]).mean()


# %%
does = {
    name: torch.stack([new_words(some, kind) for kind in new.CHANGES])
    for name, some in (("pocket", base), ("pocket-control", like), ("pocket-tuned", tuned))
}
mi.figures.bars(
    does, list(new.CHANGES), title="The tuned model shows all four",
    ylabel="probability of the new words",
)  # fmt: skip

# %%
claim("cross.shown", does["pocket-tuned"].min(), control=does["pocket-control"].max())


def mean_loss(some):
    """Mean loss on those of the first sixty texts that show no change, in nats."""
    part, kept = tokens[:60], real[:60] & ~any_text[:60, None]
    logp = some(part).log_softmax(-1)[:, :-1].gather(-1, part[:, 1:, None])[..., 0]
    return -logp[kept[:, 1:]].mean()


any_text = torch.stack(list(labelled.labels[kind].any(1) for kind in new.CHANGES)).any(0)
unchanged = {name: round(float(mean_loss(some)), 3)
             for name, some in (("pocket", base), ("control", like), ("tuned", tuned))}  # fmt: skip
print("loss on unchanged texts:", unchanged)

# %% [markdown] short=true
# ## 3. One dictionary for both models
#
# Both models read the same text, changed texts among it. A crosscoder of the stream after the
# fourth layer (of six; we looked at no other) reads both streams. We train one of each kind, small
# enough to watch, and one of `pocket` and `pocket-control`. BatchTopK is what Minder et al. propose
# for crosscoders; they rank activations times the sum of the unit's lengths, we rank those of units
# whose whole row has length one.

# %% short=true
words = random.Random(5)
ids = base.tokenizer([new.mixed(words, 0.4).text for _ in range(2000)], add_special_tokens=False)
flat = torch.tensor([i for text in ids["input_ids"] for i in (0, *text)])
rows = flat[: len(flat) // 128 * 128].view(-1, 128)
size = dict(d_sae=512, steps=400, batch=512, lr=6e-3)
recipes = {
    "L1": sae.Recipe("relu", l1=1.0, by_source=True, encoder_scale=0.5, **size),
    "BatchTopK": sae.Recipe("batchtopk", k=16, encoder_scale=1.0, **size),
}


# %%
size_of_buffer = rows.numel()


def stream_of(some):
    """A model's stream on all rows but at start tokens [token d]."""
    return sae.Activations(some, place, rows, buffer=size_of_buffer, keep=rows != 0).chunk(0)


# %%
two_places = [d, d]


def crosscoder(one, two, recipe):
    """A dictionary of two models' streams on the same tokens."""
    both = sae.Vectors(torch.cat([one, two], dim=1), widths=two_places)
    with torch.enable_grad():
        return sae.train(sae.start(both, recipe), progress=False).sae()


of_base, of_tuned = stream_of(base), stream_of(tuned)
coders = {name: crosscoder(of_base, of_tuned, recipe) for name, recipe in recipes.items()}
coders["control"] = crosscoder(of_base, stream_of(like), recipes["BatchTopK"])

# %%
x_base, x_tuned, x_like = (
    mi.sites.read(some, tokens, [place])[place][real] for some in (base, tuned, like)
)
x = {name: torch.cat([x_base, x_tuned], 1) for name in recipes}
x["control"] = torch.cat([x_base, x_like], 1)
f = {name: coder.encode(x[name]) for name, coder in coders.items()}
lives = {name: (acts > 0).sum(0) >= 5 for name, acts in f.items()}
share = {name: relative(coder) for name, coder in coders.items()}

# %%
facts = [
    {"kind": name, "units that live": int(lives[name].sum()),
     "active a token": float((f[name] > 0).float().sum(1).mean()),
     "variance explained": float(1 - (coder(x[name]) - x[name]).square().sum()
                                 / (x[name] - x[name].mean(0)).square().sum())}
    for name, coder in coders.items()
]  # fmt: skip
mi.figures.table(facts, title="Three small crosscoders")

# %% [markdown] short=true
# Where do units live? Zero is "pocket only", one "tuned only". In published work on larger models
# small groups stand at both ends [@lindsey2024crosscoders]; many at the tuned end were later found
# to be artefacts of L1 [@minder2025crosscoders]. Are there any here? (A unit that is active on five
# tokens counts as living.)

# %% short=true
alone = nearest(toys["BatchTopK"])[of["first only"] + of["second only"]]
# fmt: off
ends_of = [((0.5 - some).abs() > 0.4).sum() for some in
           (share["BatchTopK"][lives["BatchTopK"]], relative(toys["BatchTopK"])[alone])]
# fmt: on
assert lives["BatchTopK"].sum() > 300
claim("cross.exclusive", ends_of[0], control=ends_of[1])
mi.figures.histogram(
    {name: share[name][lives[name]] for name in coders}, bins=20,
    title="With BatchTopK no unit is exclusive", xlabel="relative norm of the second model",
    ylabel="units",
)  # fmt: skip

# %% [markdown] short=true
# None, though we know of four changes; with BatchTopK the toy's exclusive features were found.
# Whether a larger or longer-trained dictionary would have some, we did not test. But a unit may
# have two rows that point apart, as the toy's *turned* features: look at their **cosine**.
#
# ## 4. Are turned units about the changes?
#
# For each unit take the share of its activation that falls on tokens marked as changed. Two
# sentences make up most of the marked tokens; so we weigh tokens such that each change counts
# alike.


# %%
weight = torch.ones(len(any_change))
for at in where.values():
    weight[at] = any_change.sum() / 4 / at.sum()


def on_change(acts, marked=any_change):
    """The share of each unit's activation that falls on marked tokens, by `weight` [unit]."""
    acts = acts * weight[:, None]
    return acts[marked].sum(0) / acts.sum(0).clamp_min(1e-9)


# %%
turned_by = {
    name: 1 - torch.cosine_similarity(*coder.W_dec.split(d, dim=1))
    for name, coder in coders.items()
}
common = {name: (acts > 0).sum(0) >= 20 for name, acts in f.items()}


def most(score, name, count=16):
    """The units with the largest score among those that are active on 20 tokens [unit]."""
    return score[name].masked_fill(~common[name], -9).topk(count).indices


# %%
rows_of = {
    name: [
        {"unit": int(u), "cosine of its rows": float(1 - turned_by[name][u]),
         "relative norm": float(share[name][u]), "tokens": int((f[name][:, u] > 0).sum()),
         **{kind: float(on_change(f[name][:, [u]], where[kind])) for kind in new.CHANGES}}
        for u in most(turned_by, name)
    ]
    for name in coders
}  # fmt: skip


# %% short=true
kinds_of_coder = ["BatchTopK", "L1", "control"]


def table_of(dictionary):
    """The units whose rows differ most, and where their activation falls."""
    return mi.figures.table(rows_of[dictionary], title=f"The most turned units, {dictionary}")


mi.figures.explore(table_of, dictionary=kinds_of_coder, ahead=True)

# %% [markdown] short=true
# Choose *control* and look at its cosines: training alone turns rows too, but how far? (The claim
# below says it in one number.) Now score several measures. The score of a
# measure is the mean share on changed tokens of the sixteen units that it puts first. Both models
# *read* the new words, so a unit may score by reading them; and rare units may score by chance. So
# beside it stand: the same of `pocket-control`; sixteen units of the same dictionary that are
# active as often (the mean of 200 draws); the eight units of a plain SAE of the *difference* that
# are active most in sum; and, without a dictionary, the twentieth of tokens where streams differ
# most, and all tokens.

# %%
with torch.enable_grad():
    recipe = sae.Recipe("batchtopk", k=8, encoder_scale=1.0, **{**size, "d_sae": 256})
    of_gaps = sae.train(sae.start(sae.Vectors(of_tuned - of_base), recipe), progress=False).sae()
gap, gap_acts = x_tuned - x_base, of_gaps.encode(x_tuned - x_base)
furthest = gap.norm(dim=1) >= gap.norm(dim=1).quantile(0.95)


def matched_draws(name, draws=200):
    """Scores of units drawn at random, each active about as often as a most turned one [draw]."""
    seen, top = (f[name] > 0).sum(0), most(turned_by, name)
    pool = common[name].nonzero()[:, 0]
    pool = pool[~torch.isin(pool, top)]
    close = (seen[pool][None] - seen[top][:, None]).abs().topk(16, largest=False).indices
    picks = torch.randint(16, (draws, len(top)), generator=torch.Generator().manual_seed(0))
    return on_change(f[name])[pool[close[torch.arange(len(top)), picks]]].mean(1)


# %% short=true
drawn = matched_draws("BatchTopK")
precision = {f"most turned, {name}": on_change(f[name])[most(turned_by, name)].mean()
             for name in coders}  # fmt: skip
precision |= {
    "largest relative norm": on_change(f["BatchTopK"])[most(share, "BatchTopK")].mean(),
    "active as often": drawn.mean(),
    "SAE of differences": on_change(gap_acts)[gap_acts.sum(0).topk(8).indices].mean(),
    "tokens furthest apart": on_change(furthest.float()[:, None])[0],
    "all tokens": on_change(torch.ones_like(gap[:, :1]))[0],
}
print(f"active as often: {drawn.min():.2f} to {drawn.max():.2f} over 200 draws")
mi.figures.bars(
    list(precision.values()), list(precision), horizontal=True,
    title="How much of it falls on changed tokens?", xlabel="share of activation on changed tokens",
)  # fmt: skip

# %%
turn = {name: turned_by[name][most(turned_by, name)].mean() for name in ("BatchTopK", "control")}
claim("cross.turned", turn["BatchTopK"], control=turn["control"])
top = precision["most turned, BatchTopK"]
claim("cross.precision", top, control=max(drawn.max(), precision["most turned, control"]))
claim("cross.plain", precision["tokens furthest apart"], control=top)
print("furthest apart:", {kind: int((furthest & at).sum()) for kind, at in where.items()})

# %% [markdown] short=true
# Turned units point to the changes, L1's as well; the SAE of differences, ranked so, does not. But
# **of the tokens where the streams lie furthest apart more are changed**, and nothing is trained.
# Between `pocket` and `pocket-control` none of the furthest is a changed one.
#
# That is **precision**, and it is not yet a fair race: a share of activation over all tokens stands
# beside a share of the few tokens that stand out most, and what is missed does not count. So flag
# the same number of tokens by each measure, a twentieth of all: for dictionaries, those where what
# the same units hold of the difference is longest. **Recall** is the share of a change's tokens
# that are flagged. (About twice as many are marked as are flagged: no measure can find them all.)


# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 4: what units hold of the difference
# A unit writes $f d_1$ in the first model and $f d_2$ in the second. Return the second less the
# first, summed over the given units.

# %% [markdown] tags=["hint"]
# $f (d_2 - d_1)$ for each unit, and a product of matrices sums them.


# %% tags=["exercise"]
def held_difference(f, W_dec, d, units):
    """f: [token unit]; W_dec: [unit 2d]; d: int; units: list[int]  ->  [token d]."""
    raise NotImplementedError


# %% tags=["solution"]
def held_difference(f, W_dec, d, units):
    return f[:, units] @ (W_dec[units, d:] - W_dec[units, :d])


# %% tags=["check"]
check.held_difference(held_difference)


# %%
def length_held(name, units):
    """How much some units of a dictionary say that the models differ by [token]."""
    W_dec = coders[name].W_dec
    return (f[name][:, units] @ (W_dec[units, d:] - W_dec[units, :d])).norm(dim=1)


def less_turned(name):
    """Of the units below the median of turning the sixteen that hold most of the difference."""
    below = turned_by[name] < turned_by[name][common[name]].median()
    lengths = (coders[name].W_dec[:, d:] - coders[name].W_dec[:, :d]).norm(dim=1)
    return (lengths * f[name].mean(0) * below).topk(16).indices


# %%
busiest = gap_acts.sum(0).topk(8).indices
flag_by = {
    "tokens furthest apart": gap.norm(dim=1),
    **{f"most turned, {name}": length_held(name, most(turned_by, name)) for name in coders},
    "less turned, BatchTopK": length_held("BatchTopK", less_turned("BatchTopK")),
    "SAE of differences": (gap_acts[:, busiest] @ of_gaps.W_dec[busiest]).norm(dim=1),
    "drawn by lot": torch.rand(len(gap), generator=torch.Generator().manual_seed(0)),
}


# %% short=true
def flagged(score):
    """The tokens with the largest score, as many for each measure [token]."""
    best = score.topk(int(furthest.sum())).indices
    return torch.zeros_like(any_change).index_fill(0, best, True)


recall = {
    name: {kind: float(flagged(score)[at].float().mean()) for kind, at in where.items()}
    for name, score in flag_by.items()
}
mi.figures.table(
    [{"flagged by": name, "precision": float(on_change(flagged(score).float()[:, None])[0]),
      **recall[name]} for name, score in flag_by.items()],
    title="At equal numbers turned units find as much as the plain difference",
)  # fmt: skip

# %%
mean_recall = {name: sum(by_kind.values()) / 4 for name, by_kind in recall.items()}
others = ("most turned, control", "less turned, BatchTopK", "SAE of differences", "drawn by lot")
claim("cross.recall", mean_recall["most turned, BatchTopK"],
      control=max(mean_recall[name] for name in others))  # fmt: skip
assert abs(mean_recall["most turned, BatchTopK"] - mean_recall["tokens furthest apart"]) < 0.08
for name in ("tokens furthest apart", "most turned, BatchTopK"):
    assert recall[name]["capital"] == 0
assert not (flagged((x_like - x_base).norm(dim=1)) & any_change).any()  # of pocket-control

# %% [markdown] short=true
# **Flagged equally often, the turned units and the plain difference are about as good**, in
# precision and in recall: the plain one's lead came of how we counted. Both find about half of the
# two new sentences and of the verdict, and **nothing of the capitals**. That the units are *turned*
# is what tells: as many of the same dictionary that are turned less, *less turned*, find hardly
# anything, though they are those below the median that hold most of the difference. A crosscoder
# could still add the sorting: which of those tokens belong together? We did not score that.

# %% [markdown] short=true
# ## 5. How much of the changes do turned units hold?
#
# **Undo**: take what they hold away in the tuned model, at the token where the first new word is
# predicted. **Transplant**: add it in `pocket` there. This is no steering: $f$ is read with the
# tuned model beside it, so we ask whether these units hold the difference, not whether `pocket`
# could be steered without it. The sixteen most turned units are chosen by cosine alone; no label
# was used. Beside them:
#
# - *another's*: the same units' write, taken from tokens where the next change begins;
# - *less turned*: the sixteen units below the median of turning, as in the table;
# - *mean difference* of the streams where this change begins in *other* texts: one must know the
#   change (on unrelated texts one need not [@minder2025narrow]);
# - *whole difference* of the two streams at the token: all there is to add at this place. (No
#   strict ceiling: a part of it may do more than the whole.)

# %%
coder, acts = coders["BatchTopK"], f["BatchTopK"]
rows_apart = coder.W_dec[:, d:] - coder.W_dec[:, :d]


def hold(units):
    """What units of the BatchTopK crosscoder hold of the difference [token d]."""
    return acts[:, units] @ rows_apart[units]


starts = {kind: at[real] for kind, at in begins.items()}
top_write = hold(most(turned_by, "BatchTopK"))
anothers, mean_write = torch.zeros_like(gap), torch.zeros_like(gap)
for i, kind in enumerate(new.CHANGES):
    at, donor = starts[kind], top_write[starts[new.CHANGES[(i + 1) % 4]]]
    anothers[at] = donor[torch.arange(int(at.sum())) % len(donor)]
    mean_write[at] = (gap[at].sum(0) - gap[at]) / (int(at.sum()) - 1)


# %%
writes = {
    "most turned": top_write, "another's": anothers,
    "less turned": hold(less_turned("BatchTopK")),
    "mean difference": mean_write, "whole difference": gap,
}  # fmt: skip


# %%
begun = torch.stack(list(starts.values())).any(0)


def with_writes(some, sign):
    """By write: the probability of each change's new words when it is added `sign` times."""
    out = {}
    for name, values in writes.items():
        grid = torch.zeros(*tokens.shape, d)
        grid[real] = sign * values
        out[name] = torch.stack([new_words(some, kind, grid) for kind in new.CHANGES])
    return out


undone, made = with_writes(tuned, -1), with_writes(base, 1)
length = {k: round(float(v[begun].norm(dim=1).mean()), 2) for k, v in writes.items()}
assert length["less turned"] > 0.3 * length["most turned"]  # it writes something
print("length:", length)

# %% [markdown] short=true
# First in the tuned model: the lower a bar, the more of the change is undone.

# %% short=true
mi.figures.bars(
    {"nothing taken": does["pocket-tuned"], **undone}, list(new.CHANGES),
    title="What is left of each change in the tuned model",
    ylabel="probability of the new words",
)  # fmt: skip

# %% [markdown] short=true
# Then in `pocket`: the higher a bar, the more of the change is transplanted.

# %% short=true
mi.figures.bars(
    {"nothing added": does["pocket"], **made}, list(new.CHANGES),
    title="What pocket does of each change", ylabel="probability of the new words",
)  # fmt: skip

# %%
claim("cross.undo", undone["most turned"].mean(), control=undone["another's"].mean())
claim("cross.less_turned", undone["less turned"].mean(), control=undone["most turned"].mean())
claim("cross.transplant", made["most turned"].mean(), control=made["another's"].mean())
claim("cross.ceiling", made["whole difference"].mean(), control=does["pocket-tuned"].mean())

# %% [markdown] short=true
# The mean over all four hides how unlike they are. The weather sentence and the brother's verdict
# are undone. The closing sentence and the capitals are **not**. For the capitals the whole
# difference does no better at this token and layer; of the closing sentence it undoes about half.
# So does the mean difference. *Less turned* is no like control: it writes about half as much.
# Transplanted is the verdict alone, and in part; the weather sentence is undone and yet not made,
# not by the whole difference either. What these units hold may be needed for a change without being
# enough for it.

# %% [markdown] short=true
# ## Summary
#
# - A crosscoder reads two places with one set of units; relative norms and cosines say where each
#   unit lives and whether its rows are turned.
# - In a toy with planted features L1 moves the shares of louder features outwards, and latent
#   scaling tells such a feature from one in one place alone. BatchTopK hardly errs there.
# - A small crosscoder of `pocket` and `pocket-tuned` has no exclusive unit, though four things
#   changed in the text. Some rows are turned, further than training on unchanged texts turns them.
# - The most turned units fall on changed tokens more than units that are active as often. **The
#   length of the plain difference finds as much without a dictionary**, at equal numbers of flagged
#   tokens. Neither finds the capitals.
# - What these units write where new words begin undoes two changes, and not the two others.
# - Between two layers of one model nearly all units have a row at both (appendix A). Between two
#   seeds rows are turned further than by any of our changes, and say nothing of them (appendix B).
#   Which weights moved does not tell either (appendix C).
# - Between two checkpoints of one run the turned units fall on the same kinds of text before and
#   after the mix of texts changed, and so do not tell of it. Nor can one run show that the
#   loss by kind does (appendix E).
#
# One layer, one size, one tuned model, one control: on `pocket`. The figures show one dictionary;
# the claims' ranges come from three, of different seeds.
#
# **Where to read on.** [@lindsey2024crosscoders]; [@minder2025crosscoders] for the artefacts of L1;
# [@minder2025narrow] for how far plain differences lead.

# %% [markdown]
# ## Appendix A: one model at two layers
#
# The two places of a crosscoder may be two layers of one model. Which features **live on** from
# the second to the fourth layer of `pocket`, and which end or begin between them? The control
# trains on the same rows with the pairing shuffled: what the second layer says of one token stands
# beside what the fourth says of another. Then no token's feature can be at both. What we count is
# units with rows of like length: a unit whose *firing goes with* something at both layers.

# %%
small = sae.Recipe("batchtopk", k=16, encoder_scale=1.0, **{**size, "d_sae": 256, "steps": 300})
early = ("resid_post", 1)
of_early = sae.Activations(base, early, rows, buffer=size_of_buffer, keep=rows != 0).chunk(0)
x_early = mi.sites.read(base, tokens, [early])[early][real]


def two_layers(fit, see):
    """A crosscoder's living units: relative norm, and the cosine of both rows [unit], [unit]."""
    layers = crosscoder(of_early, of_base[fit], small)
    alive = (layers.encode(torch.cat([x_early, x_base[see]], 1)) > 0).sum(0) >= 5
    return relative(layers)[alive], torch.cosine_similarity(*layers.W_dec.split(d, dim=1))[alive]


# %%
mixed, sizes = torch.Generator().manual_seed(0), (len(of_base), len(x_base))
orders = {
    "paired": [torch.arange(count) for count in sizes],
    "shuffled": [torch.randperm(count, generator=mixed) for count in sizes],
}
by_layer = {name: two_layers(*order) for name, order in orders.items()}
layer_share = {name: some for name, (some, _) in by_layer.items()}

# %% [markdown]
# Look at where the mass lies: in the middle are units of both layers, at the ends of one alone.

# %%
mi.figures.histogram(
    layer_share, bins=20, title="Nearly all units have a row at both layers", ylabel="units",
    xlabel="relative norm of the fourth layer",
)  # fmt: skip

# %%
live_on = {name: ((some - 0.5).abs() < 0.25).float().mean() for name, some in layer_share.items()}
claim("cross.layers", live_on["paired"], control=live_on["shuffled"])
print("median cosine of rows:", {k: round(float(v.median()), 2) for k, (_, v) in by_layer.items()})

# %% [markdown]
# Nearly every unit has a row of some length at both layers. That alone would not say that a feature
# lives on: what a layer computes from the same token goes with something earlier, too. But for most
# the two rows point about the same way, as they should in a stream: layers add to it, and what no
# layer erases is still there.
# Shuffled, most units keep to one layer. So a unit in the middle is a finding about the pairs, and
# no habit of the dictionary. That hardly any begins or ends here says little about rarer features:
# the dictionary is small.

# %% [markdown]
# ## Appendix B: two seeds, a control that fails
#
# `pocket-seed-1` was trained by `pocket`'s recipe from another seed. None of the four changes is in
# it. Score it against `pocket` as `pocket-tuned` was scored. A crosscoder reads each place with
# weights of its own, so it does not mind that the other model's axes mean other things; but
# cosines between the two rows of a unit do. Therefore **align** first: the rotation that brings
# `pocket`'s stream nearest to its sibling's (orthogonal Procrustes), fitted on the text on which
# the rows were trained, too; which tokens units and gaps fall on is counted on other text. Might
# rows agree because a rotation can be fitted to anything? The control is fitted to shuffled tokens.

# %%
sibling = mi.models.load_pockets(base)["pocket-seed-1"]
of_sibling = stream_of(sibling)
x_both = torch.cat([x_base, mi.sites.read(sibling, tokens, [place])[place][real]], 1)
of_seeds = crosscoder(of_base, of_sibling, recipes["BatchTopK"])
seed_acts = of_seeds.encode(x_both)


def rotation(one, two):
    """The orthogonal matrix that brings centred rows of `one` nearest to those of `two` [d d]."""
    left, _, right = torch.linalg.svd((one - one.mean(0)).T @ (two - two.mean(0)))
    return left @ right


lot = torch.randperm(len(of_sibling), generator=torch.Generator().manual_seed(0))
turns = {"raw": torch.eye(d), "aligned": rotation(of_base, of_sibling),
         "aligned to shuffled tokens": rotation(of_base, of_sibling[lot])}  # fmt: skip

# %%
one_row, two_row = of_seeds.W_dec.split(d, dim=1)
seed_turn = {k: 1 - torch.cosine_similarity(one_row @ by, two_row) for k, by in turns.items()}
seed_seen = (seed_acts > 0).sum(0)
seed_most = {k: v.masked_fill(seed_seen < 20, -9).topk(16).indices for k, v in seed_turn.items()}
seed_median = {k: 1 - v[seed_seen >= 5].median() for k, v in seed_turn.items()}
tuned_median = 1 - turned_by["BatchTopK"][lives["BatchTopK"]].median()
middles = [some - some.mean(0) for some in x_both.split(d, dim=1)]
seed_gap = {k: (middles[1] - middles[0] @ by).norm(dim=1) for k, by in turns.items()}
of_far = {k: on_change(flagged(v).float()[:, None])[0] for k, v in seed_gap.items()}
assert ((relative(of_seeds)[seed_seen >= 5] - 0.5).abs() < 0.4).all()  # none is exclusive

# %% [markdown]
# The table has, for each pair: how well the two rows of a living unit agree; how far the sixteen
# most turned are turned, and how much of their activation falls on changed tokens; and how many of
# the tokens furthest apart are changed ones.

# %%
mi.figures.table(
    [{"pair": "tuned", "median cosine": float(tuned_median),
      "turn of the sixteen": float(turn["BatchTopK"]), "on changed tokens": float(top),
      "furthest tokens": float(precision["tokens furthest apart"])}]
    + [{"pair": f"seeds, {k}", "median cosine": float(seed_median[k]),
        "turn of the sixteen": float(v[seed_most[k]].mean()),
        "on changed tokens": float(on_change(seed_acts)[seed_most[k]].mean()),
        "furthest tokens": float(of_far[k])}
       for k, v in seed_turn.items()],
    title="Two seeds differ more, and not where the text was changed",
)  # fmt: skip

# %%
claim("cross.seeds", seed_median["aligned"], control=seed_median["aligned to shuffled tokens"])
by_seed = on_change(seed_acts)[seed_most["aligned"]].mean()
claim("cross.seeds_turned", by_seed, control=top)
assert seed_turn["aligned"][seed_most["aligned"]].mean() > 2 * turn["BatchTopK"]
assert max(by_seed, of_far["aligned"]) < 1.2 * precision["all tokens"]

# %% [markdown]
# Raw, the rows of a unit are as good as unrelated. Aligned, they agree in part, and the most turned
# are still turned further than those of the tuned pair. Yet they fall on changed tokens no more
# than on others, and no more do the tokens furthest apart. **Turned rows tell that two models
# differ, not that something was taught to one.** Nor are two seeds a fair control for a tuned
# model: far too much differs. The fair one is a model tuned as long on unchanged texts.

# %% [markdown]
# ## Appendix C: what the weights tell
#
# Cheaper than any dictionary: subtract the weights. For each matrix, the length of the difference
# from `pocket`, as a share of the matrix's own. (The matrices are those of the loaded model, with
# LayerNorm folded in.) Compare the two panels before you read either.

# %%
matrices = ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"]


def moved(some):
    """How far each matrix lies from pocket's, as a share of its length [matrix layer]."""
    pairs = [(getattr(some, name).flatten(1), getattr(base, name).flatten(1)) for name in matrices]
    return torch.stack([(new_one - old).norm(dim=1) / old.norm(dim=1) for new_one, old in pairs])


weights_moved = torch.stack([moved(tuned), moved(like)])
mi.figures.heatmap(
    weights_moved, facets=["pocket-tuned", "pocket-control"], y=matrices, xlabel="layer",
    text=".3f", center=None, title="The same weights move most, on changed and unchanged texts",
    colorbar="share of the matrix's length",
)  # fmt: skip


# %%
def alike(one, two):
    """Correlation over matrices of the logarithms of how far they moved [one number]."""
    return torch.corrcoef(torch.stack([one.flatten(), two.flatten()]).log())[0, 1]


lots = [torch.randperm(36, generator=torch.Generator().manual_seed(i)) for i in range(200)]
by_lot = [alike(weights_moved[0], weights_moved[1].flatten()[some]).abs() for some in lots]
claim("cross.weights", alike(*weights_moved), control=max(by_lot))
assert all(some.mean(1).argmax() == matrices.index("W_out") for some in weights_moved)
further = (weights_moved[0] / weights_moved[1]).mean(0)
assert further[3:].mean() > max(1, further[:3].mean())

# %% [markdown]
# Both panels show one pattern, that of training at all. (The correlation asks which matrices moved
# further than others; it would not notice if all had moved twice as far.) Without the control one
# would have told a story about what MLPs write, which moved furthest in either. What is left is
# that the later layers of the tuned model moved somewhat further than the control's. And no cell
# says *what* changed, or on which text: for that one has to run the models.

# %% [markdown]
# ## Appendix D: latent scaling on the real pair
#
# Section 3 found no exclusive unit, by relative norms. L1 moves these outwards, so its outermost
# units are those to doubt. For the sixteen nearest to the tuned end: what does the relative norm
# say that `pocket` has of the feature (first length over second), and what does latent scaling?
# On the line both agree; at zero `pocket` has nothing.

# %%
outermost = most(share, "L1")
real_ratios = scale_ratios(coders["L1"], x["L1"], outermost)
toy_units = nearest(toys["L1"])[of["second only"]]
ends_share = share["L1"][outermost], relative(toys["L1"])[toy_units]
says = torch.cat([1 / some - 1 for some in ends_share])
mi.figures.scatter(
    says, torch.cat([real_ratios, ends["second only"]]), identity=True,
    groups=["L1's outermost units"] * 16 + ["toy, second place alone"] * 4,
    title="pocket has most of what L1's outermost units say", ylabel="by latent scaling",
    xlabel="share that the first model has, by lengths",
)  # fmt: skip

# %%
claim("cross.outermost", real_ratios.mean(), control=ends["second only"].abs().max())
assert real_ratios.min() > 0.3 and (real_ratios < says[:16]).sum() > 8

# %% [markdown]
# Latent scaling puts most of them somewhat lower than lengths do: it looks along the tuned model's
# direction, and what of a turned row points elsewhere does not count. But none comes near the toy's
# exclusive features. Here nothing is unmasked, since nothing looked exclusive to begin with.

# %% [markdown]
# ## Appendix E: before and after the mix of texts changed
#
# `pocket`'s own training changed half-way: from there documents were drawn from another mix, with
# more of what was slow to be learned. Its state before was not kept. So take [a run of half the
# length](../data/pocket/half/README.md) by the same recipe, kept at three steps: the first two lie
# before the change, the last is its end. Nothing new was *taught*; some kinds of text only came
# more often. Do turned units tell which? The control is the stretch between the first two.

# %%
from mi_data.pocket import generator

checkpoints = mi.models.load_half()
names = list(generator.KINDS)
early_mix, late_mix = (
    torch.tensor([float(mix[kind]) for kind in names])
    for mix in (generator.MIX, generator.LATE_MIX)
)
grew = (late_mix / late_mix.sum()) / (early_mix / early_mix.sum())
in_order = grew.argsort(descending=True)
rose = grew > 1.5
print({names[i]: round(float(grew[i]), 2) for i in in_order})

# %% [markdown]
# That is each kind's share of the documents late in the run, over its share before. Four kinds came
# at least half as often again: opinions, agreement, pronouns and requests. For our own texts we
# draw every kind as often, so that no mix is in them. Rows are made as for the training.


# %%
def packed(split, count, seed):
    """Texts of all kinds in rows of 128: tokens [row pos], and each token's kind [row pos]."""
    draws, out, row = random.Random(seed), [], []
    some = draws.choices(names, k=count)
    texts = [generator.sample(kind, draws, split).text for kind in some]
    ids = base.tokenizer(texts, add_special_tokens=False)["input_ids"]
    for kind, text in zip(some, ids, strict=True):
        row += [(token, names.index(kind)) for token in (0, *text)]
        if len(row) >= 128:
            out.append(row[:128])
            row = []
    return torch.tensor(out).unbind(-1)


# %%
learned_on, _ = packed("train", 1000, seed=5)
fresh, kinds_at = packed("test", 400, seed=6)
word = fresh != 0


# %%
def read(some):
    """A checkpoint on fresh text: its stream [token d], and its loss in nats [token]."""
    hook, parts = mi.sites.hook_name(place), []
    for rows in fresh.split(16):
        with torch.no_grad():
            logits, cache = some.run_with_cache(rows, names_filter=hook)
        losses = torch.nn.functional.pad(mi.metrics.loss(logits, rows), (1, 0))
        parts.append((cache[hook], losses))
    streams, losses = (torch.cat(some) for some in zip(*parts, strict=True))
    return streams[word], losses[word]


def by_kind(values):
    """The mean over the tokens of each kind of `values` [token ...]: [kind ...]."""
    return torch.stack([values[kinds_at[word] == i].mean(0) for i in range(len(names))])


# %%
streams, losses = zip(*[read(some) for some in checkpoints], strict=True)
fits = [
    sae.Activations(some, place, learned_on, buffer=learned_on.numel(), keep=learned_on != 0)
    for some in checkpoints
]
fits = [some.chunk(0) for some in fits]
by_loss = torch.stack([by_kind(some) for some in losses])
falls = by_loss[:-1] - by_loss[1:]

# %% [markdown]
# First without a dictionary: by how much did the loss of each kind fall? The kinds are in the order
# of the printed line, so what came more often stands on the left: compare the colours there.

# %%
stretches = ["before the change", "after it"]
mi.figures.bars(
    dict(zip(stretches, falls[:, in_order], strict=True)), [names[i] for i in in_order],
    title="What comes more often no longer gains less",
    ylabel="by how much the loss fell, in nats",
)  # fmt: skip

# %%
gains = [float(some[rose].mean() - some[~rose].mean()) for some in falls]
claim("cross.mix_loss", gains[1], control=gains[0])

# %% [markdown]
# Before the change the four kinds gained less than the others on the mean; after it, about as much.
# That need not be the mix's doing. The four were given more *because* they are learned late, and
# what is learned late gains late under any mix; a run whose mix stays as it was would tell, and we
# have none. Some kinds that came *less* often gained more than any of the four. (The stretches
# differ in length and in the learning rate, too; so compare kinds within each.) Now a crosscoder of
# either stretch: on which kinds do its sixteen most turned units fall?


# %%
def stretch(i):
    """Where the most turned units of two checkpoints fall [kind], and how far they are turned."""
    pair = crosscoder(fits[i], fits[i + 1], small)
    pair_acts = pair.encode(torch.cat(streams[i : i + 2], 1))
    angle = 1 - torch.cosine_similarity(*pair.W_dec.split(d, dim=1))
    chosen = angle.masked_fill((pair_acts > 0).sum(0) < 20, -9).topk(16).indices
    by_unit = by_kind(pair_acts[:, chosen])
    return (by_unit / by_unit.sum(0)).mean(1), float(angle[chosen].mean())


falls_on, angles = zip(*[stretch(i) for i in range(2)], strict=True)
print("one less the cosine of their rows:", [round(some, 2) for some in angles])

# %% [markdown]
# If turned units told the mix, the second colour would lead on the left.

# %%
mi.figures.bars(
    {name: some[in_order] for name, some in zip(stretches, falls_on, strict=True)},
    [names[i] for i in in_order], title="Turned units fall on the same kinds, whatever the mix",
    ylabel="share of the activation of turned units",
)  # fmt: skip


# %%
def goes_with(one, two):
    """Correlation over kinds [one number]."""
    return torch.corrcoef(torch.stack([one, two]))[0, 1]


claim("cross.mix_turned", goes_with(*falls_on), control=goes_with(falls_on[1], grew))
assert falls_on[1][rose].sum() < rose.float().mean()  # less than their share of the kinds

# %% [markdown]
# It does not. In both stretches the most turned units fall on much the same few kinds, lists that
# are said twice foremost. On the four kinds that came more often less of them falls than if they
# fell on all kinds alike. While a model is trained its rows turn, whatever it reads; **how far they
# turn says little about which text did it**. What a stretch of training did shows in the loss by
# kind of text, but not whether the mix was the reason. (The
# [card](../data/pocket/half/README.md) says what each step can do: the right
# person of a pronoun is chance before the change, and no longer at the end.) This is
# one run and one dictionary's size, and "came more often" is a weaker change than the four of
# section 2.

# %%
claim.table()
