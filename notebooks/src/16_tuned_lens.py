# ---
# title: The tuned lens
# minutes: 60
# ---

# %% [markdown]
# **The question.** What would the model say if it had to stop after layer three? The logit lens
# answers with the alphabet of the last layer. Does a translator for each layer read more, and how
# much of what it reads was in the layer?
#
# **You need** the residual stream and the logit lens
# ([notebook 01](01_residual_stream.ipynb), sections 3 to 6).
#
# **You will be able to**
#
# - train a tuned lens: one affine translator for each layer;
# - judge it by distance, loss and bias, on text that it was not fitted to;
# - follow a prediction through the layers, and say what "settled" can mean;
# - measure how much of what a lens says its own map has computed;
# - ask whether an odd input shows in the path of a prediction more than in its end;
# - find the directions that a lens depends on, and ask whether the model does (appendix A);
# - read the same streams with a lens that nobody fitted, the average Jacobian (appendix C).

# %% [markdown] short=true
# ## 1. A lens small enough to check by hand
#
# Here is a model whose stream has two coordinates. The unembedding is as simple as can be: the
# first coordinate is the logit of "mat", the second that of "dog". One layer is still to come. It
# turns every stream by a quarter and shifts it, the same for all tokens.

# %% short=true
early = torch.tensor([[2.0, 0], [0, 1], [3, 1], [1, 0]])
turn, shift = torch.tensor([[0.0, 1], [-1, 0]]), torch.tensor([1.5, 0])
late = early @ turn + shift
words = ["mat", "dog"]
[(words[a], words[z]) for a, z in zip(early.argmax(-1), late.argmax(-1), strict=True)]

# %% [markdown] short=true
# Left is what the logit lens says of the early stream, right what the model says in the end. They
# differ for most tokens. Yet the early stream is only written in another basis. If we know the turn
# and the shift, we can read it. And we can learn both from examples, by **least squares**: the
# affine map that brings the early streams nearest to the late ones [@din2023jump].


# %% short=true
def least_squares(x, y, ridge=1e-3):
    """A [d d] and b [d] for which x @ A + b is nearest to y; x, y: [token d]."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    small = ridge * covariance.diagonal().mean() * torch.eye(x.shape[1], device=x.device)
    A = torch.linalg.solve(covariance + small, centred.T @ (y - y.mean(0)) / len(x))
    return A, y.mean(0) - x.mean(0) @ A


A_toy, b_toy = least_squares(early, late, ridge=0)
assert torch.allclose(A_toy, turn, atol=1e-5) and torch.allclose(b_toy, shift, atol=1e-5)

# %% [markdown] short=true
# Mind what happened: the map did the remaining layer's work for it. Here it could, as that layer is
# affine. How much of a lens is reading and how much is such work, section 6 asks.
#
# The **tuned lens** [@belrose2023tuned] has a **translator** of this kind for each layer, an affine
# map $h A_\ell + b_\ell$ of its stream $h$ (a row, as in the code). What comes out goes through the
# final LayerNorm and the unembedding, as in the logit lens [@nostalgebraist2020lens], which is the
# special case $A = 1$, $b = 0$.

# %% [markdown] short=true
# ## 2. Train one
#
# Text first. Documents of the generator stand one after another, each behind its start token, cut
# into rows. The lens is fitted to documents of the training split. It is judged on the held-out
# split, whose sentences combine clauses, names and facts in ways that were kept apart.

# %%
from mi_data.pocket import generator

torch.set_grad_enabled(False)
seed, by_size = 0, mi.models.by_size


def rows_of(split, count, first=0, of=model):
    """Documents joined and cut into rows of tokens, [row 48]."""
    first += 10_000 * seed
    texts = [generator.document(i, split=split).text for i in range(first, first + count)]
    joined = torch.cat([of.to_tokens(text)[0] for text in texts])
    body = joined[: len(joined) // 47 * 47].view(-1, 47)
    return torch.cat([joined[:1].expand(len(body), 1), body], dim=1)


fit_rows, test_rows = (
    rows_of("train", by_size(model, 1000, 200)),
    rows_of("test", by_size(model, 300, 60)),
)

# %% [markdown] short=true
# Now the streams before each layer and at the end. Models with many layers are read at about six of
# them. Start tokens are left out, and so is each row's last token, whose successor is unknown.

# %% short=true
n_layers, d_model = model.cfg.n_layers, model.cfg.d_model
layers = list(range(0, n_layers, max(1, n_layers // 6)))
places = [*(("resid_pre", layer) for layer in layers), ("resid_post", n_layers - 1)]


# %%
def streams_of(some_model, rows, places=places):
    """Streams [place token d_model], the end of the model last, and the tokens that follow."""
    kept = rows != some_model.tokenizer.bos_token_id
    kept[:, 0], kept[:, -1] = False, False
    streams = torch.empty(len(places), int(kept.sum()), some_model.cfg.d_model)
    done = 0
    for part, keep in zip(rows.split(64), kept.split(64), strict=True):
        seen = mi.sites.read(some_model, part, places)
        found = torch.stack([seen[place][keep] for place in places])
        streams[:, done : (done := done + found.shape[1])] = found
    return streams.to(some_model.W_U), rows.roll(-1, 1)[kept]


# %%
fit, _ = streams_of(model, fit_rows)
test, following = streams_of(model, test_rows)
every = len(following) // by_size(model, 1000, 300)  # a part of the tokens, from all documents
test, following = test[:, ::every], following[::every]
print(f"fitted to {fit.shape[1]} tokens, tested on {test.shape[1]}, at layers {layers}")

# %% [markdown] short=true
# Three more are trained beside the real ones, as controls. Two read an **untrained** model, before
# layer 0 and halfway up: they see the same words, through layers that learned nothing. The
# **shuffled** lens gets the streams halfway up in the wrong order: it can learn how often each word
# comes, and nothing about this text.

# %%
half = len(layers) // 2
untrained = mi.untrained(model)
wrong_order = torch.randperm(fit.shape[1], generator=torch.Generator().manual_seed(seed))
random_fit, random_test = (
    streams_of(untrained, rows, [places[0], places[half]])[0] for rows in (fit_rows, test_rows)
)
sources = [*fit[:-1], *random_fit, fit[half][wrong_order]]
tested = [*test[:-1], *random_test[:, ::every], test[half]]
start = [least_squares(source, fit[-1]) for source in sources]
A_start, b_start = (torch.stack(parts) for parts in zip(*start, strict=True))

# %% [markdown] short=true
# Least squares asks for the right *stream*. But a lens is judged by its *prediction*: by the
# Kullback–Leibler divergence (KL) between the final distribution and the lens's, in nats, which is
# 0 when they agree. Some coordinates matter little for the prediction and others a lot, so the
# nearest stream is not the nearest prediction. Hence the second step: gradient descent on the KL.
# No text is needed as a label: the target is what the model itself says in the end. (Belrose et al.
# take this step alone, from $A = 1$, $b = 0$. From least squares a few steps are enough.)


# %% short=true
def predict(streams, of=model):
    """Log-probabilities read from final streams, [lens token d_model] -> [lens token d_vocab]."""
    return of.unembed(of.ln_final(streams)).log_softmax(-1)


def kl(final, lens):
    """KL(final || lens) of log-probabilities, over the last axis, in nats."""
    return (final.exp() * (final - lens)).sum(-1)


def translate(streams, A, b):
    """Every lens on its own streams, [lens token d_model]."""
    return torch.stack(list(streams)) @ A + b[:, None]


# %% short=true
steps, batch, step = by_size(model, (160, 128, 3e-3), (30, 48, 5e-4))


def tune(A, b, rate=step):
    """Translators after some steps of Adam on the KL; all lenses see the same tokens."""
    adam = torch.optim.Adam(
        [A := A.clone().requires_grad_(), b := b.clone().requires_grad_()], rate
    )
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    draw = torch.Generator().manual_seed(seed)
    for chosen in torch.randint(fit.shape[1], (steps, batch), generator=draw):
        final = predict(fit[-1:, chosen])
        with torch.enable_grad():
            lenses = predict(translate([x[chosen] for x in sources], A, b))
            kl(final, lenses).mean(1).sum().backward(inputs=[A, b])
        adam.step(), decay.step(), adam.zero_grad()
    return A.detach(), b.detach()


# %% [markdown] short=true
# On SmolLM2 that takes longer than a notebook may. Its lens, with the controls, comes
# [with the suite](../data/lens/smollm2-q4/README.md): trained by the same two steps on five times
# the documents, kept in half precision. Where there is such a lens, it is opened and nothing is
# trained.

# %%
ready = mi.lens.committed_lens(model)
read_by = [*map(str, layers), "untrained, 0", f"untrained, {layers[half]}", "shuffled"]
if ready:
    A, b = mi.lens.load_translators(model, ready, read_by)
else:
    A, b = tune(A_start, b_start)

# %% short=true
final = predict(test[-1:])[0]
lenses = predict(translate(tested, A, b))
tuned, untrained_lens, shuffled_lens = lenses[:-3], lenses[-3:-1], lenses[-1:]
read = {"logit lens": predict(test[:-1]), "tuned lens": tuned}
by_squares = (predict(x @ A_start[i] + b_start[i]) for i, x in enumerate(test[:-1, None]))
distances = {
    name: torch.stack([kl(final, one).mean() for one in lenses])
    for name, lenses in {**read, "least squares": by_squares}.items()
}
flat = {"untrained, halfway": untrained_lens[1:], "shuffled": shuffled_lens}
distances |= {name: kl(final, one).mean().expand(len(layers)) for name, one in flat.items()}

# %% [markdown] short=true
# In the figure, ask how much the second step brings over the first, and where the logit lens lies
# *above* the shuffled control. (Both controls are one lens each, drawn as flat lines. The axis is a
# logarithm: one unit is a factor of ten.)

# %% short=true
figures.lines(
    {name: line.log10() for name, line in distances.items()},
    title="The tuned lens is closest to the final prediction",
    x=layers,
    xlabel="before layer",
    ylabel="log10 of the KL from the final prediction (nats)",
)

# %% short=true
by_lens = {name: line.mean() for name, line in distances.items()}
claim("tuned.steps", by_lens["tuned lens"], control=by_lens["least squares"])

# %% [markdown]
# ## 3. Loss and bias
#
# A lens can be close to the model and still bad at predicting text, or the other way round. So also
# measure its loss on the token that really comes next. **Perplexity** is the exponential of the
# loss; as the logit lens's would be astronomical, we stay with nats. Go down the columns: where
# does each lens come near the model's own loss, in the last row? And does one get below it?


# %%
def loss_of(log_probs, following):
    """Mean loss on the tokens that follow, in nats; log_probs: [token d_vocab]."""
    return -log_probs.gather(-1, following[:, None]).mean()


names = ["logit lens", "tuned lens"]
losses = {name: torch.stack([loss_of(x, following) for x in read[name]]) for name in names}
end = loss_of(final, following)
rows = [
    {"before layer": str(layer)} | {name: line[i].item() for name, line in losses.items()}
    for i, layer in enumerate(layers)
]
rows.append({"before layer": "end (the model)"} | dict.fromkeys(losses, end.item()))
mi.figures.table(rows, title="Loss on held-out text (nats)")

# %%
without_echo = slice(1, None)  # before layer 0 the logit lens repeats the input
logit_loss, tuned_loss = (losses[name][without_echo].mean() for name in names)
claim("tuned.loss", tuned_loss, control=logit_loss)

# %% [markdown]
# On `pocket` the last rows hold a surprise. The lens was trained to say what the model says, and
# before the last layer it predicts held-out text *better* than the model does in the end. So on
# such text an affine map does better than the last layer. That need not mean that this layer does
# harm: the lens may only be less sure of itself, which pays on text unlike the one trained on; we
# did not tell the two apart. The claim is by how much the lens is better, now over more tokens; the
# control is the logit lens of the very same stream, which is *worse* than the end: as it stands,
# the stream needs the last layer. Is it so on any text? The last line
# is the same on documents of the training split (others than the lens was fitted to). That late
# layers can spoil a prediction is known as *overthinking*, from prompts with false examples
# [@halawi2023overthinking]. (SmolLM2's lens, before layer 25 of 30, stays behind its model.)

# %%
top = len(layers) - 1


def gains(split, first=0):
    """Loss of the model less that of the highest tuned lens and of the logit lens there (nats)."""
    streams, after = streams_of(model, rows_of(split, by_size(model, 240, 30), first))
    readings = (streams[-1], streams[top] @ A[top] + b[top], streams[top])
    late, tuned_one, plain_one = (loss_of(predict(x[None])[0], after) for x in readings)
    return late - tuned_one, late - plain_one


better, plainly = gains("test")
claim("tuned.last_layer", better, control=plainly)
print(f"on documents of the training split: {gains('train', first=5000)[0]:.3f}")

# %% [markdown] short=true
# Another fault of the logit lens is **bias**: it says some words too often and others too seldom,
# *whatever the text*. Average the lens's probabilities over all tokens, do the same with the
# model's, and take the KL between the two means. What differs from token to token has cancelled;
# what is left is systematic. In the figure below, compare both lenses with the flat line, the lens
# that reads nothing: where is it beaten?


# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: the bias of a lens
# Return how far the mean distribution of a lens is from the model's mean distribution.

# %% [markdown] tags=["hint"]
# Probabilities are averaged, not their logarithms: `lens.exp().mean(0).log()`.


# %% tags=["exercise"]
def lens_bias(lens, final):
    """lens, final: log-probabilities [token d_vocab]  ->  KL(mean final || mean lens), in nats."""
    raise NotImplementedError


# %% tags=["solution"]
def lens_bias(lens, final):
    mean_lens, mean_final = lens.exp().mean(0).log(), final.exp().mean(0).log()
    return (mean_final.exp() * (mean_final - mean_lens)).sum()


# %% tags=["check"]
check.lens_bias(lens_bias)


# %% short=true
def bias_of(log_probs):
    """KL of the mean distributions, model to lens, in nats."""
    return kl(final.exp().mean(0).log(), log_probs.exp().mean(-2).log())


biases = {name: bias_of(read[name]) for name in names}
biases["shuffled"] = bias_of(shuffled_lens).expand(len(layers))
figures.lines(
    biases,
    title="A lens that reads nothing has little bias, too",
    x=layers,
    xlabel="before layer",
    ylabel="bias (nats)",
)

# %% short=true
claim("tuned.bias", biases["shuffled"][0], control=biases["logit lens"][without_echo].mean())

# %% [markdown] short=true
# The claim: the shuffled lens, which reads nothing, is less biased than the logit lens (the mean
# over layers without the first). So low bias is no merit by itself, and on `pocket` the tuned
# lenses of the lowest layers have hardly less of it. For a lens that says the same at every token,
# distance is bias plus one number: how much the *model's* predictions differ from token to token.
# That is an identity.

# %%
same = shuffled_lens.exp().mean(1).log()  # one prediction, said everywhere
differ = kl(final, final.exp().mean(0).log()).mean()
assert torch.isclose(kl(final, same).mean(), bias_of(same) + differ, rtol=1e-3)
print(f"distance {kl(final, same).mean():.3f} = bias {bias_of(same):.3f} + {differ:.3f}")

# %% [markdown]
# ## 4. The path of a prediction
#
# Read the last tokens of a text through the lens at every layer. Each column is a token read;
# upwards go the layers; the word in a cell is the best guess for what comes *next*; the darker, the
# further from the final prediction. Choose a prompt and look for three things. Where is a column
# light from the bottom? Where does it change in one step, and at which layer? And where is the
# guess right for a while and then lost?


# %%
def trajectory(text):
    """Best guesses and distances of the tuned lens at every layer, for a text's last tokens."""
    tokens = model.to_tokens(text)
    seen = mi.sites.read(model, tokens, places)
    streams = torch.stack([seen[place][0] for place in places])[:, 1:][:, -12:]
    n = len(layers)
    log_probs = torch.cat([predict(translate(streams[:-1], A[:n], b[:n])), predict(streams[-1:])])
    guesses = [[model.tokenizer.decode(token) for token in row] for row in log_probs.argmax(-1)]
    return guesses, kl(log_probs[-1], log_probs), mi.heads.token_names(model, tokens[0])[1:][-12:]


# %%
def trajectory_figure(prompt):
    """The trajectory of one of the prompts."""
    guesses, distance, read_tokens = trajectory(prompt)
    return figures.token_table(
        guesses,
        distance,
        title="Some guesses stand early, others come in one step",
        x=read_tokens,
        y=[*layers, "end"],
        xlabel="token read",
        ylabel="before layer",
        colorbar="KL (nats)",
    )


# %%
kinds = ["fact", "ioi", "agreement", "pronouns", "opinion"]
prompts = {kind: generator.prompt(kind, 1, split="test") for kind in kinds}
choices = {kind: prompt.text + prompt.answer for kind, prompt in prompts.items()}
mi.figures.explore(trajectory_figure, ahead=True, prompt=choices)

# %% [markdown] short=true
# ## 5. Prediction depth
#
# When is a prediction settled? The **prediction depth** of a token, as Belrose et al. define it, is
# the first layer from which the lens's best guess stays what it is in the end. (The notion is from
# image models, where nearest neighbours did the reading [@baldock2021depth].) Zero means: the
# embedding's own translator already says it. A guess that is right, lost and found again counts
# from where it is found. In the figure below, look at both ends.


# %% [markdown] tags=["task"] minutes=10 difficulty=2 short=true
# ### Exercise 2: prediction depth
# Return the first row from which the guess stays what it is in the last row.

# %% [markdown] tags=["hint"]
# Compare with the last row, turn the order around, and use `cumprod`: a product of ones and zeros
# stays one until the first zero.


# %% tags=["exercise"]
def prediction_depth(guesses):
    """guesses: token ids [layer token], the last row is the model's own  ->  [token], from 0."""
    raise NotImplementedError


# %% tags=["solution"]
def prediction_depth(guesses):
    stays = (guesses == guesses[-1]).flip(0).long().cumprod(0)
    return len(guesses) - stays.sum(0)


# %% tags=["check"]
check.prediction_depth(prediction_depth)


# %% short=true
def depth_of(log_probs):
    """Index of the first place from which the best guess stays, [token]."""
    guesses = torch.cat([log_probs, final[None]]).argmax(-1)
    stays = (guesses == guesses[-1]).flip(0).long().cumprod(0).sum(0)
    return len(guesses) - stays


# %% short=true
depths = {name: depth_of(read[name]) for name in names}
shares = {
    name: torch.bincount(depth, minlength=len(places)) / len(depth)
    for name, depth in depths.items()
}
figures.lines(
    shares,
    title="Guesses settle all the way up",
    x=[*layers, "end"],
    xlabel="before layer",
    ylabel="share of tokens settled there",
)

# %% [markdown] short=true
# The two lenses disagree, so depth belongs to the *pair* of model and lens, and nothing says that
# the model "had decided" by then. What settles before layer 0 is the map's doing (section 6).
#
# Examples that settle late are said to be harder [@baldock2021depth]: here, where the model is
# *unsure in the end*, the guess should come late. We measure that by the **entropy** of the final
# distribution, $-\sum p \ln p$ in nats: 0 if all is on one word, larger the flatter it is. But
# where the end is flat, a small error of the lens overturns its best guess, and the depth grows
# with nothing being late. So take beside it a depth that no close call overturns: the first layer
# at which the prediction's *distance* from the end is less than half of what it was before layer 0.
# The claim is the rank correlation of entropy and depth (1 if both put the tokens in one order, 0
# if the orders have nothing to do with each other); the control, the same with the second depth.

# %%
from scipy.stats import spearmanr

entropy = -(final.exp() * final).sum(-1).cpu()
far = torch.stack([kl(final, one) for one in [*tuned, final]])
halved = (far < far[0] / 2).long().argmax(0)
by_guess, by_distance = (
    spearmanr(d.cpu(), entropy).statistic for d in (depths["tuned lens"], halved)
)
claim("tuned.hard_is_late", by_guess, control=by_distance)
print("by the guesses of the logit lens:", spearmanr(depths["logit lens"].cpu(), entropy).statistic)

# %% [markdown]
# ## 6. What does the lens itself know?
#
# Now the question that decides what all this means. A translator is fitted. A fitted map can
# *compute*, and then what we read was not in the layer but in the map. This is the old trouble with
# probes [@hewitt2019control].
#
# Before layer 0 no layer has computed anything: the stream is a word and its position. Whatever
# that lens gets right, the map did, from the embedding. How much of the way from *word frequencies*
# (the shuffled lens) to the model's own prediction is that? And the same for the **untrained**
# model, whose embedding is drawn at random: before layer 0, and halfway up.


# %%
def share_of_way(lens):
    """How much of the shuffled lens's distance a lens takes away: 1 is the model itself."""
    return 1 - kl(final, lens).mean() / by_lens["shuffled"]


by_layer = torch.stack([share_of_way(lens) for lens in tuned])
random_way = [share_of_way(lens) for lens in untrained_lens]
figures.bars(
    [*by_layer, *random_way],
    [*(f"layer {layer}" for layer in layers), "untrained, 0", f"untrained, {layers[half]}"],
    title="A good part of the way is the map's own work",
    xlabel="lens of the stream before",
    ylabel="share of the way from word frequencies",
)

# %% [markdown]
# The leftmost bar is the map's own work on the trained embedding; from a random embedding of the
# same width the map gets less far (first claim). The bars next to it say how much *more* an affine
# map can make of a later stream. The second claim: how much of the first lens's distance is left
# to that halfway up; the control is the same in the untrained model. More is not "computed by the
# layers" either: attention may just have *moved* earlier words to where the map can use them.

# %%
claim("tuned.map_computes", by_layer[0], control=random_way[0])
left, random_left = ((1 - b) / (1 - a) for a, b in ((by_layer[0], by_layer[half]), random_way))
claim("tuned.layers_add", left, control=random_left)

# %% [markdown]
# ## 7. Does an odd input show on the way?
#
# Belrose et al. tell prompts that hide an injected instruction from usual ones by their
# trajectories. Our odd prompts carry a **false cue**. The generator writes a review that ends
# before its verdict, and says which way it leans. We put one sentence more before the verdict. In
# usual prompts it leans the same way; in odd ones it contradicts the review.

# %%
reviews = [generator.prompt("opinion", 10_000 * seed + i, split="test") for i in range(900)]
plain = {"words": "adjectives", "others": False}  # no opinion of others that contradicts
reviews = [r for r in reviews if plain.items() <= r.labels.items() and ". " in r.text]
reviews = reviews[: by_size(model, 400, 80)]
verbs = {
    "good": ["enjoyed", "praised", "admired", "liked", "loved"],
    "bad": ["hated", "disliked", "criticized", "despised", "condemned"],
}


def with_cue(review, number, sentiment):
    """The review with one more sentence of a sentiment before its last, unfinished one."""
    start, _, verdict = review.text.rpartition(". ")
    return f"{start}. I {verbs[sentiment][number % 5]} it. {verdict}"


# %%
other = {"good": "bad", "bad": "good"}
leans = [review.labels["sentiment"] for review in reviews]
usual = [with_cue(review, i, leans[i]) for i, review in enumerate(reviews)]
odd = [with_cue(review, i, other[leans[i]]) for i, review in enumerate(reviews)]
print(usual[0], odd[0], sep="\n")

# %% [markdown]
# What we look at, where the verdict is due: the lens's KL from the end and the lens's entropy, at
# every layer. That is the path; the plain logit lens has one, too. Two rivals need no lens. One is
# what can be seen of the *output alone*: its entropy and its largest log-probability. The other is
# the *stream* at the end, all its coordinates.


# %%
def ends_of(texts):
    """Streams of the last token of each text, [place text d_model]; texts of one length at once."""
    tokens = [model.to_tokens(text)[0] for text in texts]
    ends = torch.zeros(len(places), len(texts), d_model).to(model.W_U)
    for length in {len(row) for row in tokens}:
        same = [i for i, row in enumerate(tokens) if len(row) == length]
        rows = torch.stack([tokens[i] for i in same])
        seen = mi.sites.read(model, rows, places, positions=[-1])
        ends[:, same] = torch.stack([seen[place][:, 0] for place in places])
    return ends


def path(log_probs, end):
    """KL from the end and entropy at every layer, [text 2*layer]."""
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    return torch.cat([kl(end, log_probs), entropies]).T


# %%
def seen_of(texts):
    """What each reader sees of texts, by name, [text number]."""
    streams, n = ends_of(texts), len(layers)
    end = predict(streams[-1:])[0]
    return {
        "tuned lens": path(predict(translate(streams[:-1], A[:n], b[:n])), end),
        "logit lens": path(predict(streams[:-1]), end),
        "output alone": torch.stack([-(end.exp() * end).sum(-1), end.max(-1).values], dim=1),
        "last stream": streams[-1],
    }


of_usual, of_odd = (seen_of(texts) for texts in (usual, odd))

# %% [markdown]
# The detector never sees an odd prompt. It learns mean and covariance of half of the usual paths
# (the covariance shrunk, as the stream has many coordinates for so few prompts), and scores a new
# one by its **Mahalanobis distance** from them: how many standard deviations off, correlations
# counted in. The other half, usual and odd, is scored; then the halves change places. The **AUROC**
# is the share of pairs, one odd and one usual prompt, in which the odd one scores higher. A half is
# guessing.

# %%
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

cut = len(reviews) // 2
halves = slice(cut), slice(cut, None)

# %%
rows, scores = [], {}
for name, paths in of_usual.items():
    spread = paths.std(0).clamp_min(1e-4)  # rounding alone is no spread
    usual_paths, odd_paths = ((x / spread).cpu().numpy() for x in (paths, of_odd[name]))
    far = []
    for seen, scored in (halves, halves[::-1]):
        detector = LedoitWolf().fit(usual_paths[seen])
        far.append([detector.mahalanobis(x[scored]) for x in (usual_paths, odd_paths)])
    near, off = (torch.tensor([*a, *b]).log10() for a, b in zip(*far, strict=True))
    auroc_of = roc_auc_score([False] * len(near) + [True] * len(off), torch.cat([near, off]))
    scores[name] = {"usual": near, "odd": off}
    rows.append({"seen": name, "AUROC": auroc_of})
mi.figures.table(rows, title="Odd against usual prompts")

# %%
figures.histogram(
    scores["tuned lens"],
    title="How far out usual and odd prompts lie",
    xlabel="log10 of the squared Mahalanobis distance of the path",
    bins=25,
)

# %%
claim("tuned.odd", rows[0]["AUROC"], control=rows[2]["AUROC"])

# %% [markdown]
# On `pocket` the contradiction shows in the path, and more than in the output's two numbers. It is
# a weak detector all the same: look at the overlap. And compare the other rows of the table. The
# last stream, read without any lens, does about as well, and the plain lens nearly: the translators
# were hardly needed. So it is in the end of the model, too, only not in these two numbers of it.
# (On SmolLM2, with fewer reviews, no row does better than guessing.) Nor can such a path show a cue
# that moves no layer's prediction.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: AUROC
# Return the share of pairs in which the odd input scores higher than the usual one. A tie counts
# one half.

# %% [markdown] tags=["hint"]
# `odd[:, None] - usual[None]` is a table of all pairs.


# %% tags=["exercise"]
def auroc(usual, odd):
    """usual, odd: scores, one each  ->  one number between 0 and 1."""
    raise NotImplementedError


# %% tags=["solution"]
def auroc(usual, odd):
    gap = odd[:, None] - usual[None]
    return (gap > 0).double().mean() + (gap == 0).double().mean() / 2


# %% tags=["check"]
check.auroc(auroc)

# %% [markdown] short=true
# ## Summary
#
# - A tuned lens is an affine translator for each layer, trained to say what the model says in the
#   end. It can predict *better* than the end: by what the last layer spoils, or by being less sure.
# - Low bias alone proves nothing: a lens that reads nothing has it too.
# - Prediction depth says when a guess is settled, *as the lens reads it*. Where the end is flat it
#   can be deep with nothing being late.
# - A translator computes. The lens of the embedding shows how much it does there; count from there.
# - An odd cue can show in the path of a prediction more than in two numbers of the output, and no
#   more than in the last stream, which is all that the output is made of. Ask what a lens gains.
# - What moves the lens and what moves the model are two questions. Ask the second by ablation
#   (appendix A). Translators of neighbouring layers are related (appendix B).
# - A lens need not be fitted: the average Jacobian carries a stream to the end by what the later
#   layers do, to first order. It comes less near to the prediction (appendix C).
#
# **Where to read on.** [@belrose2023tuned]; [@din2023jump] for shortcuts between layers fitted by
# least squares alone; [@hewitt2019control] for what a fitted reader knows by itself;
# [@gurnee2026workspace] for what the Jacobian lens is used for.

# %% [markdown]
# ## Appendix A: causal basis extraction
#
# What does the lens look at, and does the model look there too?
#
# A lens may read the right words off the wrong features. Belrose et al. test this by **causal basis
# extraction**, and find that the lens uses features similar to the model's. Find the direction
# whose removal changes the *lens's* prediction most. Removal is **mean ablation**: along this
# direction, each stream gets the mean's value; all else stays. Then remove the same direction from
# the *model's* stream at that layer, let the later layers run, and see whether the model's
# prediction changes as well.


# %%
mean, few = fit[half].mean(0), by_size(model, 192, 48)
searched, held_out = fit[half, :: fit.shape[1] // few], test[half, :few]


def ablate(streams, direction):
    """Streams [... d_model] with the mean's part along a unit vector."""
    return streams - ((streams - mean) @ direction)[..., None] * direction


def said(streams):
    """What the lens reads from streams halfway up, log-probabilities [token d_vocab]."""
    return predict((streams @ A[half] + b[half])[None])[0]


undisturbed = said(held_out)


def change_of_lens(direction, streams=held_out, before=undisturbed):
    """Mean KL of the lens's prediction from the one without the direction."""
    return kl(before, said(ablate(streams, direction))).mean()


# %% [markdown]
# The first direction by gradient ascent, the second among those orthogonal to it, and so on. As in
# the authors' code, each search starts at a direction that the lens's unembedding reads strongly.
# The text is that which the lens was fitted to; held-out text judges.


# %%
def unit(vectors):
    """Vectors at length 1, [... d_model]."""
    return torch.nn.functional.normalize(vectors, dim=-1)


# %%
def causal_basis(count, steps=12, rate=0.05):
    """Orthonormal directions, each the one whose removal moves the lens most, [count d_model]."""
    starts = torch.linalg.svd(A[half] @ model.W_U, full_matrices=False)[0].T
    found, before = mean[None][:0], said(searched)
    for start in starts[:count].clone():
        free = start.requires_grad_()
        adam = torch.optim.Adam([free], lr=rate)
        for _ in range(steps):
            with torch.enable_grad():
                direction = unit(free - found.T @ (found @ free))
                (-change_of_lens(direction, searched, before)).backward(inputs=[free])
            adam.step(), adam.zero_grad()
        direction = unit(free - found.T @ (found @ free))
        found = torch.cat([found, direction.detach()[None]])
    return found


# %%
causal = causal_basis(8)

# %% [markdown]
# In the model, an `intervene` does the removal, at every token but start tokens: the lens never
# reads those, so what hangs on *them* would count on the model's side alone. Beside the directions
# of the search stand others that nobody chose by their effect: principal components of the stream,
# from the largest down, and random ones.

# %%
some_rows = test_rows[: by_size(model, 12, 2)]
counted = some_rows != model.tokenizer.bos_token_id
clean = model(some_rows).log_softmax(-1)


def change_of_model(direction):
    """Mean KL of the model's prediction from the one without the direction."""

    def edit(streams, where):
        return torch.where(counted[..., None], ablate(streams, direction), streams)

    with mi.interventions.intervene(model, {("resid_pre", layers[half]): edit}):
        return kl(clean, model(some_rows).log_softmax(-1))[counted].mean()


# %%
draw = torch.Generator().manual_seed(seed)
random = unit(torch.randn(8, d_model, generator=draw)).to(mean)
centred = fit[half] - mean
components = torch.linalg.eigh(centred.T @ centred)[1].flip(1).T
spaced = range(8, d_model, d_model // by_size(model, 16, 8))
groups = {"searched": causal, "the largest components": components[:8]}
groups |= {"smaller components": components[spaced], "random": random}
directions = torch.cat(list(groups.values()))
in_model, in_lens = (
    torch.stack([measure(direction) for direction in directions])
    for measure in (change_of_model, change_of_lens)
)
member = [name for name, members in groups.items() for _ in members]

# %% [markdown]
# On the line both would change alike. How far from it do the groups lie?

# %%
figures.scatter(
    in_lens.log10(),
    in_model.log10(),
    groups=member,
    identity=True,
    title="A direction moves the lens and the model by different amounts",
    xlabel="log10 of the change of the lens (nats)",
    ylabel="log10 of the change of the model (nats)",
)

# %% [markdown]
# The claim is the change of the lens over that of the model, median over the largest components;
# the control, over the directions of the search. The search overstates, on `pocket` and on SmolLM2.
# It is a kind of **winner's curse** (not luck with the text, as other text judges): who picks a
# direction because it moves the lens gets what only the lens is sensitive to. Compare also how far
# each group moves the *model*, in the table: if the searched directions do so no further than the
# largest components, the search has found nothing about the model that the variance did not say.
# So that a direction moves the lens far is weak evidence of how far it moves the model: remove it
# there, too. (Eight directions of a short search; Belrose et al. found lens and model more alike.)

# %%
ratio, sizes = in_lens / in_model, [len(members) for members in groups.values()]
medians = [part.median() for part in ratio.split(sizes)]
table = zip(groups, in_lens.split(sizes), in_model.split(sizes), medians, strict=True)
rows = [
    {"directions": g, "lens": x.mean().item(), "model": y.mean().item(), "median ratio": r.item()}
    for g, x, y, r in table
]
mi.figures.table(rows, title="Mean change of the prediction (nats)")

# %%
claim("tuned.leans", medians[1], control=medians[0])

# %% [markdown]
# Over the directions that nobody chose the cloud rises: what moves the lens more, moves the model
# more. Before believing that the two use the same features, ask a dull rule. Along some directions
# the stream *varies* more, and whoever reads it loses more when those are flattened. Below, the
# rank correlation of the model's change with the lens's, and with the variance, which knows no
# lens.

# %%
others = slice(sizes[0], None)
variance = (centred @ directions[others].T).square().mean(0)
changes = in_model[others].cpu()
{
    "lens": spearmanr(in_lens[others].cpu(), changes).statistic.item(),
    "variance": spearmanr(variance.cpu(), changes).statistic.item(),
}

# %% [markdown]
# On `pocket` the dull rule orders the directions as well as the lens does. So a cloud that rises is
# no evidence that lens and model use the same features. Put the variance beside any such plot.

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 4: mean ablation of a direction
# Give every stream the mean's value along a direction, and leave all else as it is. The direction
# may have any length.

# %% [markdown] tags=["hint"]
# Make it a unit vector. `(streams - mean) @ unit` says how far each stream is from the mean along
# it.


# %% tags=["exercise"]
def ablate_direction(streams, mean, direction):
    """streams: [token d_model]; mean, direction: [d_model]  ->  [token d_model]."""
    raise NotImplementedError


# %% tags=["solution"]
def ablate_direction(streams, mean, direction):
    unit = direction / direction.norm()
    return streams - ((streams - mean) @ unit)[:, None] * unit


# %% tags=["check"]
check.ablate_direction(ablate_direction)

# %% [markdown]
# ## Appendix B: a lens on its neighbour
#
# If the layers write in slowly turning bases, the translator of one layer should serve its
# neighbours tolerably. In the figure, each row is a translator, each column the stream it is used
# on. The diagonal is where they belong. Stay in one column: which neighbour's translator reads the
# stream better, that of the layer before or that of the layer after?

# %%
part = slice(by_size(model, 500, 100))
transfer = torch.stack(
    [kl(final[part], predict(test[:-1, part] @ A[i] + b[i])).mean(1) for i in range(len(layers))]
)
figures.heatmap(
    transfer,
    title="Neighbours' translators can be used, except at the bottom",
    x=layers,
    y=layers,
    xlabel="used on the stream before layer",
    ylabel="trained before layer",
    colorbar="KL (nats)",
    center=None,
)

# %% [markdown]
# The claim is the distance of a stream read by the translator of the place before, mean over
# layers. The control is the lens that reads nothing. The translator of the place *after* reads
# better still on `pocket`, but not at the bottom: before layer 0 it is worse than nothing, as it
# expects what a layer has not written yet. (Mind the shift between the printed lists: the first
# begins with the stream before layer 1, the second with that before layer 0.)

# %%
claim("tuned.transfer", transfer.diagonal(1).mean(), control=by_lens["shuffled"])
print("by the translator before:", [round(x, 2) for x in transfer.diagonal(1).tolist()])
print("by the translator after:", [round(x, 2) for x in transfer.diagonal(-1).tolist()])

# %% [markdown]
# Does a lens also serve *another model*? If training further changes a model little, the lens of
# the model before should still read it: Belrose et al. read a chat model with the lens of the model
# that it was made from [@belrose2023tuned]. Here this is asked of `pocket` and three models of the
# suite, whatever model is loaded: `pocket` [trained a little
# further](../data/pocket/tuned/README.md) on changed texts and on unchanged ones, and the same
# recipe from another seed. The translators are those of least squares, for all models alike, so
# that nothing but the model differs. What they give goes through the norm and the unembedding of
# the model that is *read*.

# %%
base, changed, unchanged = mi.models.load_tuned(model)
kin = {"pocket": base, "on, changed texts": changed, "on, the same texts": unchanged}
kin["another seed"] = mi.models.load_pockets(base)["pocket-seed-1"]
floors = range(base.cfg.n_layers)
spots = [*(("resid_pre", floor) for floor in floors), ("resid_post", floors[-1])]
learned, probed = rows_of("train", 400, of=base), rows_of("test", 50, of=base)


# %%
def lens_of(one):
    """A model's least-squares translators (A, b) and, as constants, lenses that read nothing."""
    streams, _ = streams_of(one, learned, spots)
    lens = [least_squares(stream, streams[-1]) for stream in streams[:-1]]
    return lens, [(torch.zeros_like(A), streams[-1].mean(0)) for A, _ in lens]


def distance_from(one, lens):
    """KL from a model's final prediction to a lens on its streams, in nats, [layer]."""
    streams, _ = streams_of(one, probed, spots)
    end = predict(streams[-1:], one)[0]
    said_by = (predict((x @ A + b)[None], one)[0] for x, (A, b) in zip(streams, lens, strict=False))
    return torch.stack([kl(end, words).mean() for words in said_by])


# %%
theirs = {name: lens_of(one) for name, one in kin.items()}
lent = theirs["pocket"][0]
own, borrowed, nothing = (
    {name: distance_from(one, pick(name)) for name, one in kin.items()}
    for pick in (lambda name: theirs[name][0], lambda name: lent, lambda name: theirs[name][1])
)

# %% [markdown]
# In the table, compare the first two columns of each row: what is lost by reading a model with
# `pocket`'s lens instead of its own? The last column is a lens with $A = 0$, whose $b$ is the mean
# of the model's final streams: it says the same at every token.

# %%
kinds = {"its own": own, "pocket's": borrowed, "reads nothing": nothing}
rows = [
    {"model": name} | {kind: by_model[name].mean().item() for kind, by_model in kinds.items()}
    for name in kin
]
mi.figures.table(rows, title="A lens serves the model trained further, not another seed (nats)")

# %%
lost = {name: (borrowed[name] - own[name]).mean() for name in kin}
further = max(lost["on, changed texts"], lost["on, the same texts"])
claim("tuned.further", further, control=lost["another seed"])
left_by = {"pocket's": borrowed, "its own": own}
shares = {k: (d["another seed"] / nothing["another seed"]).mean() for k, d in left_by.items()}
claim("tuned.other_seed", shares["pocket's"], control=shares["its own"])

# %% [markdown]
# The first claim is what is lost after more training, in the worse of the two models; its control
# is what is lost on another seed. The second is the share of the constant's distance that
# `pocket`'s lens leaves on the other seed, beside that of this model's own lens: the lent one is no
# better than a constant. Two models of one recipe write in unlike bases (notebook 14), and training
# on keeps the basis. So a lens may be lent to a model's descendants, and not to its siblings.

# %% [markdown]
# ## Appendix C: a lens that nobody fitted
#
# A tuned lens is fitted to the prediction. Is there a lens that only *describes the model*? The
# later layers carry the stream to the end. The **Jacobian** says how, to first order: how far each
# coordinate of the end moves when a coordinate of the stream is pushed. It differs from token to
# token; the **Jacobian lens** [@gurnee2026workspace] is its average. A push at one token moves the
# end there and at later tokens: these are added up. Then mean over tokens and texts. It reads like
# the others: the matrix $J_\ell$ for the translator, no $b$.
#
# `transformer_lens.tools.analysis` has it. It takes only a model with the weights of its files, as
# folding and centring change the coordinates. The streams of ours differ from those by no more than
# their mean over coordinates, which the final LayerNorm takes off, so $J_\ell$ serves both. (The
# library has no *attention lens*, a trained map for each head's output [@sakarvadia2023attention].)
#
# First by hand: push the stream of `pocket` halfway up, at one token of a text after the other, and
# add up what moves at the end.

# %%
from transformer_lens.tools.analysis import JacobianLens

published = mi.models.as_published(base)
how = {"corpus": "pocket", "max_seq_len": 16, "skip_first_positions": 4, "dim_batch": 64}
some_text = base.tokenizer.decode(learned[0, 1:])
by_library = JacobianLens.fit(published, [some_text], show_progress=False, **how).jacobians[2]
read_tokens = base.to_tokens(some_text)[:, :16]
counted_at = torch.arange(4, 15, device=read_tokens.device)  # the first and the last are left out
each = torch.arange(len(counted_at), device=read_tokens.device)
way = unit(torch.randn(len(by_library), generator=torch.Generator().manual_seed(seed)))


# %%
def end_after(push):
    """Final streams where each copy of the text is pushed at one token, [copy token d_model]."""
    copies = read_tokens.expand(len(counted_at), -1)

    def edit(streams, where):
        streams = streams.clone()
        streams[each, counted_at] += push
        return streams

    with mi.interventions.intervene(base, {("resid_pre", 3): edit}):
        return mi.sites.read(base, copies, [spots[-1]])[spots[-1]][:, counted_at]


# %%
small = 0.03 * way.to(base.W_U)
by_hand = (end_after(small) - end_after(-small)).sum(1).mean(0) / 0.06
by_matrix = by_library.to(base.W_U) @ way.to(base.W_U)
by_hand, by_matrix = by_hand - by_hand.mean(), by_matrix - by_matrix.mean()
assert torch.allclose(by_hand, by_matrix, atol=0.01 * by_matrix.abs().max())

# %% [markdown]
# (The library counts the *outputs* of layers: that of layer 2 is the stream before layer 3.) Now
# the average over several texts; on a large model one text must do, and only the upper layers are
# read.

# %%
upper = by_size(model, layers[1:], layers[half:])
of_texts = [model.tokenizer.decode(row[1:]) for row in fit_rows[:: len(fit_rows) // 8]]
at = {"source_layers": [layer - 1 for layer in upper], "show_progress": False, **how}
raw = mi.models.as_published(model)
fitted = JacobianLens.fit(raw, of_texts[: by_size(model, 8, 1)], **at)
J = torch.stack([fitted.jacobians[layer - 1] for layer in upper]).to(model.W_U)

# %% [markdown]
# It is compared with the tuned and the logit lens on the same held-out tokens, once as published
# and once with an offset: what differs from the mean stream is carried, then the mean end is added.
# Two lines are controls. The logit lens gets that offset, too. And the **shuffled** Jacobian has
# its coordinates exchanged, the same exchange for rows and columns: every number of it is there,
# only that they belong to other coordinates. (A diagonal stays a
# diagonal: that coordinates go on as themselves is in the twin, too.)

# %%
chosen = [layers.index(layer) for layer in upper]
middle, offset = fit[chosen].mean(1)[:, None], fit[-1].mean(0)
order = torch.randperm(d_model, generator=torch.Generator().manual_seed(seed)).to(J.device)
deviation = test[chosen] - middle
carried = {
    "Jacobian": test[chosen] @ J.mT,
    "shuffled Jacobian": test[chosen] @ J[:, order][:, :, order].mT,
    "Jacobian, offset": deviation @ J.mT + offset,
    "logit lens, offset": deviation + offset,
}
by_reader = {
    name: torch.stack([kl(final, predict(x[None])[0]).mean() for x in streams])
    for name, streams in carried.items()
}
by_reader |= {name: distances[name][chosen] for name in names}

# %% [markdown]
# In the figure, compare three pairs: the Jacobian with its shuffled twin; with the logit lens, from
# the bottom to the top; and the two lines with an offset.

# %%
figures.lines(
    {name: line.log10() for name, line in by_reader.items()},
    title="The fitted lens is nearer at every layer than the average Jacobian",
    x=upper,
    xlabel="before layer",
    ylabel="log10 of the KL from the final prediction (nats)",
)

# %%
mean_of = {name: line.mean() for name, line in by_reader.items()}
claim("tuned.jacobian", mean_of["Jacobian"], control=mean_of["shuffled Jacobian"])
claim("tuned.fitted", mean_of["tuned lens"], control=mean_of["Jacobian, offset"])

# %% [markdown]
# The first claim: carried by the Jacobian, the streams read nearer to the end than carried by its
# shuffled twin, mean over the layers read. So it matters *which* coordinate goes where, and not
# only that a large matrix makes the lens less sure of itself. That alone does much: at the bottom
# on `pocket` even the twin reads better than the logit lens. Near the top the Jacobian as
# published is hardly better than the logit lens, or worse. It says what a push moves, at this
# token and at later ones, and not what stands there: the mean stream is not at zero. With the
# offset it is an expansion around the mean, and the logit lens with the same offset lies above
# it.
#
# The second claim: who is fitted to the prediction comes nearer to it than the best of those
# whose matrix nobody fitted. That is what fitting is for, and no proof that the tuned lens
# describes the model better: section 6 and appendix A show what a fitted map adds of its own. The
# Jacobian adds nothing; but it is an average, and of first order only. And it saw less: on pocket
# it is the average over eight texts of sixteen tokens; the tuned lens saw a thousand documents.

# %%
claim.table()
