# ---
# title: Start here
# minutes: 30
# ---

# %% [markdown]
# **The question.** A language model predicts the next word. How does it get there, and how could
# we tell a true explanation from a good story?
#
# **You need** a little Python, and to know roughly what a token and a vector are.
#
# **You will be able to**
#
# - say what mechanistic interpretability asks, and what it counts as an answer;
# - get predictions out of the model, and change one vector inside it to see what follows;
# - read a *claim*: the way this suite states every finding;
# - say what the model `pocket` is good for and what it is not, and switch to GPT-2 small;
# - find your way: notebooks, glossary, literature.

# %% [markdown]
# ## 1. Is everything in place?
#
# Run the cells from top to bottom, with Shift+Enter. The one above loaded a language model and
# printed a line: which model, how many parameters, on which device, from where. Look at its first
# word. It is `pocket`, `gpt2`, or the name of whatever else you asked for; section 6 says how to
# change it. The versions below belong into any bug report.

# %%
import platform
from importlib.metadata import version

packages = ["torch", "transformer-lens", "transformers", "numpy", "plotly", "ipywidgets"]
versions = {"python": platform.python_version(), "mi_helpers": mi.__version__}
versions |= {name: version(name) for name in packages}
mi.figures.table({"what": list(versions), "version": list(versions.values())})

# %% [markdown]
# ### The words you need
#
# Some words come up on every page. Read them once; section 8 has them all, to look up.
#
# - **Token**: what the model reads, a word or a piece of one, with the space before it. The first
#   is often a mark for the *beginning of the sequence*, BOS.
# - **Logit**: a number for each token of the vocabulary, which says how well it would come next.
#   **Softmax** turns the logits into probabilities: it takes the exponential of each, and divides
#   by their sum. So only *differences* of logits matter.
# - **Nat**: the unit of surprise. A token that was given the probability *p* costs −ln *p* nats:
#   none at one, about seven tenths at one half. The **loss** is the mean over tokens.
# - **Residual stream**: the one vector that each position carries from layer to layer; the number
#   of its coordinates is **`d_model`**. Each layer reads it and adds to it.
# - **Hook**: a place in the model where a function of yours is called while it runs, to read what
#   passes there or to put something else in its place. Places have names:
#   `blocks.3.hook_resid_pre` is the residual stream before layer 3, `blocks.3.attn.hook_z` what the
#   heads of that layer have gathered.
# - **Feature**: a property of the input that the model represents, often as a direction of the
#   stream. A **probe** is a small classifier that is trained to read one off. A **circuit** is a
#   part of the model, some heads and MLPs, that does one job.
# - **IOI**, *indirect object identification*: the example task, "When Mary and John went to the
#   store, John gave a drink to". **IO** is the indirect object, who receives (Mary). **S** is the
#   subject, who gives (John): first named at **S1**, again at **S2**, the third name said. The
#   prompt stops at the position **end**. In the order **ABBA** the receiver is named first (Mary
#   and John … John), in **BABA** the giver (John and Mary … John).

# %% [markdown] short=true
# ## 2. One prediction
#
# Read this as you would read a story:
#
# > After John and Mary went to the store, John gave a bottle of milk to
#
# You expect "Mary". Not "John", because he is the one who gives. The model computes a logit for
# every token of its vocabulary, and the softmax turns them into probabilities that sum to one.

# %% short=true
pairs = mi.prompts.ioi_literature(model, "milk")
prompt, twin = pairs.clean[1], pairs.clean[0]
logits = model(model.to_tokens(prompt))[0, -1]  # at the last token: one number for each next token
probabilities = logits.softmax(-1)
shown = probabilities.topk(10).indices.tolist()
shown += [token for token in pairs.answer_tokens[1].tolist() if token not in shown]
words = [model.tokenizer.decode([token]) for token in shown]
print(prompt, "…", repr(words[0]))

# %% [markdown] short=true
# The figure shows the ten likeliest next tokens (a dot stands for a space), each with its
# probability. A name of the prompt that is not among them comes last. Look at where the two names
# are.

# %% short=true
mi.figures.bars(
    probabilities[shown],
    [f"{word}  {probabilities[token]:.2g}" for word, token in zip(words, shown, strict=True)],
    title=f"The likeliest next token is {words[0].strip()!r}",
    xlabel="probability",
    horizontal=True,
    subtitle=f"{mi.model_id(model)} · {prompt} …",
)

# %% [markdown] short=true
# A model that merely repeated some name from the text would put the two names side by side. The
# next line says what was found, on this one prompt. It is a **claim**, and section 4 explains how
# to read it, and asks many prompts.

# %% short=true
right, wrong = pairs.answer_tokens[1]
claim("start.prediction", probabilities[right], control=probabilities[wrong])

# %% [markdown]
# Play with it. Choose a prompt or type your own, and look at the whole list, not at its top alone:
# what else did the model hold possible? Swap the names. Let somebody else give.


# %%
def predict(prompt, or_your_own=""):
    """The ten likeliest tokens after a prompt, as a figure."""
    text = or_your_own.rstrip() or prompt
    top = model(model.to_tokens(text)[:, : model.cfg.n_ctx])[0, -1].softmax(-1).topk(10)
    words = [model.tokenizer.decode([token]) for token in top.indices.tolist()]
    title = f"The likeliest next token is {words[0].strip()!r}"
    look = {"xlabel": "probability", "horizontal": True}
    return mi.figures.bars(top.values, words, title=title, subtitle=f"{text} …", **look)


# %%
examples = {
    "John gives": "When Mary and John went to the store, John gave a drink to",
    "Mary gives": "When Mary and John went to the store, Mary gave a drink to",
    "a capital": "The capital of France is",
    "more than one key": "The keys to the cabinet",
    "a verdict": "We paid a lot for the wine. I praised it. In a word, it was",
    "years": "The war lasted from the year 1732 to the year 17",
}
mi.figures.explore(predict, prompt=examples, or_your_own="")

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 1: the likeliest tokens
# Write what the cells above did, for any logits: the `k` highest probabilities of the token after
# the *last* position, and which tokens they belong to.
#
# Every exercise has a check that says what went wrong. It runs your function on fresh random
# numbers, so that it has to be right and not merely right once.

# %% [markdown] tags=["hint"]
# Pick the last position first. `softmax(-1)` runs over the last axis, the vocabulary; `topk(k)`
# returns values and indices, sorted.


# %% tags=["exercise"]
def top_probabilities(logits, k):
    """logits [position d_vocab] -> probabilities [k], highest first, and token ids [k]."""
    raise NotImplementedError


# %% tags=["solution"]
def top_probabilities(logits, k):
    values, ids = logits[-1].softmax(-1).topk(k)
    return values, ids


# %% tags=["check"]
check.top_probabilities(top_probabilities)

# %% [markdown] short=true
# ## 3. From behaviour to mechanism
#
# So far we watched from outside. **Mechanistic interpretability** asks what happens inside
# [@olah2020zoom]: which quantities does the network represent, and by which steps do its weights
# compute the answer from them? In GPT-2 small: where is it noticed that John is named twice? How
# does that get to the word "to", where the answer is needed? Which part then looks up "Mary"? For
# that model these questions have a published answer, a circuit of 26 attention heads
# [@wang2022ioi]. Another model may do the same task in another way.
#
# The step from story to science is the **intervention**: change one thing inside, and see whether
# the behaviour changes as the explanation says. Here is one. Take a twin of the prompt, in which
# Mary gives, so that the answer is John. The preference should turn round:

# %% short=true
both = pairs.clean_tokens[[1, 0]]  # our prompt and its twin, as token ids
last = model(both)[:, -1]
difference = last[:, right] - last[:, wrong]
{text: round(value, 2) for text, value in zip([prompt, twin], difference.tolist(), strict=True)}

# %% [markdown] short=true
# The number is a **logit difference**: the logit of Mary minus the logit of John. Positive means
# Mary.
#
# Inside the model every token carries its vector from layer to layer, the residual stream (notebook
# 01). Only one word differs between the two prompts, the name of the one who gives (S2). So at
# first only that name's vector differs. At the end the last token's vector must differ, because the
# prediction is read off there. When does the news travel from one to the other?
#
# Take **one** vector of the twin run, put it in its place in the run on our prompt, and see what
# the difference becomes. This is *activation patching*. Notebook 05 builds it up slowly; here the
# idea is enough. The function `put` below is a hook, and the name says where it is called.

# %% short=true
twin_run = model.run_with_cache(both[1:])[1]  # everything the model computes on its way


def patched_difference(layer, position):
    """The difference on our prompt when one vector before a layer comes from the twin run."""

    def put(stream, hook):
        changed = stream.clone()
        changed[:, position] = twin_run["resid_pre", layer][:, position]
        return changed

    hook = (f"blocks.{layer}.hook_resid_pre", put)
    logits = model.run_with_hooks(both[:1], fwd_hooks=[hook])[0, -1]
    return logits[right] - logits[wrong]


# %% [markdown]
# Every method in this suite is written out once, as above. Then a helper does it fast, and an
# assertion shows that the two agree.

# %% short=true
sweep = mi.patching.patch_sweep(
    model,
    both[:1],
    mi.patching.OtherRun(both[1:]),
    mi.patching.LogitDiff(pairs.answer_tokens[1:]),
    progress=False,
)
name, end = pairs.positions["S2"][1].item(), pairs.positions["end"][1].item()
by_hand = [patched_difference(layer, name).item() for layer in range(model.cfg.n_layers)]
assert torch.allclose(sweep.values[:, name, 0].cpu(), torch.tensor(by_hand), atol=1e-3)

# %% [markdown] short=true
# In the figure, 0 means that the answer stays as it was, and 1 that it moves all the way to the
# twin's: the **recovery**. Before you look, predict. The name's line has to start at 1, the last
# token's to end near 1. And the token just after the name? If the news were handed on from word to
# word, its line would rise in between; if something fetches it from the name, it stays low. Then
# look at where the lines cross.

# %% short=true
recovery = sweep.recovery()
figures.lines(
    {
        "the one who gives": recovery[:, name],
        "the last token": recovery[:, end],
        "the token after that name": recovery[:, name + 1],
    },
    title="Who gives: the news leaves the name and reaches the last token",
    x=[f"L{layer}" for layer in range(model.cfg.n_layers)],
    xlabel="the vector is replaced before layer",
    ylabel="how far the answer moves",
)

# %% [markdown] short=true
# The claim is one number: what the last token carries before the last layer, less what the name
# still carries. The control is the same before the second layer.

# %% short=true
moved = recovery[:, end] - recovery[:, name]
claim("start.handed_over", moved[-1], control=moved[1])

# %% [markdown] short=true
# Before the last layer runs, the last token carries what decides the answer, and the name itself
# no longer matters to it. Where the lines cross, something has *read* the name and *written* to the
# last token, at once or over tokens that the figure does not show. What it is, and how one finds
# out, is the rest of the suite.

# %% [markdown] short=true
# ## 4. How to read a claim
#
# A single example proves little, and a number alone means little. Is a logit difference of three
# large? Compare: the same eight prompts of the literature, in the model and in its **untrained
# twin**, the same architecture with fresh random weights. Look at the two colours next to each
# other.

# %% short=true
eight = mi.prompts.ioi_literature(model)
random_model = mi.untrained(model)
trained, random = (
    mi.metrics.logit_diff(one(eight.clean_tokens), eight.answer_tokens)
    for one in (model, random_model)
)
figures.bars(
    {"trained": trained, "untrained": random},
    [f"{label['S']} → {label['IO']}" for label in eight.labels],
    title="Training taught the model who receives",
    xlabel="who gives → who receives",
    ylabel="logit difference, right − wrong",
)

# %% [markdown] short=true
# Eight prompts are few. So the claim counts how often the right name has the higher logit among
# many prompts drawn from a grammar. What would a model score that understands nothing? The prompts
# come with their twins, in which the other one gives. So whoever always says the name that came
# first, or a favourite name, is right exactly half the time. The control counts the first of these
# rules.

# %% short=true
many = mi.prompts.ioi(model, 200)


def share_right(some_model):
    """How often the logit difference at the end of the prompt is positive."""
    at_end = many.positions["end"]
    difference = mi.metrics.logit_diff(
        some_model(many.clean_tokens), many.answer_tokens, position=at_end
    )
    return (difference > 0).float().mean()


share = share_right(model)
first_name = sum(label["order"] == "ABBA" for label in many.labels) / len(many.labels)
claim("start.prefers", share, control=first_name)

# %% [markdown] short=true
# Read the line above from left to right:
#
# - **the verdict**. Green, *holds*: value and control are in their expected ranges. Red, *FAILS*:
#   one of them is not. Grey, *no expectation*: nobody has stated one for this model, so the claim
#   only reports. Blue, *not in this model*: it is known that the finding is absent, and the line
#   says why;
# - **the statement**, in words, and the unit of its number;
# - **the value**, and the range expected of *this* model;
# - **the control**: what the number has to be compared with. It is the same measurement where the
#   effect should be absent, or what a simpler explanation would give, as here. An effect without a
#   control is half a finding: a probe also "finds" things in random weights, and some head always
#   has the highest score;
# - **the source** of the expectation: a publication, or a measurement on this model;
# - **the id**, under which you find the claim in `data/claims`.
#
# What would a wrong result look like? `claim.judge` gives a verdict without recording it. Here the
# two names were mixed up, so every verdict is turned round. If the claim above is green, this one
# is red:

# %% short=true
claim.judge("start.prefers", 1 - share, control=first_name)

# %% [markdown]
# And here is the same finding, told of a model of which nothing is known. It is grey, whatever the
# value. Claims do not carry over: what holds in one model is no proof about another.

# %%
elsewhere = mi.Claims("00_start_here", "a model nobody measured")
elsewhere.judge("start.prefers", share, control=first_name)

# %% [markdown]
# When the suite is tested, a red claim is an error: no notebook may record a number that its code
# does not give. The sentences around the numbers are ours; judge them. This is also why the prose
# holds no measured numbers. They stand in the claims.

# %% [markdown] tags=["task"] minutes=5 difficulty=1 short=true
# ### Exercise 2: be the judge
# Write the verdict on a claim as a colour. A range is a pair (low, high), and both ends belong to
# it. Without an expected range for the value there is no verdict. Some published findings come
# without a control; then the value decides alone.

# %% [markdown] tags=["hint"]
# Three cases, in this order: nothing expected; the value outside; the control outside.


# %% tags=["exercise"]
def verdict(value, expected, control, expected_control):
    """Return "green", "red" or "grey"; the two expected ranges are (low, high) or None."""
    raise NotImplementedError


# %% tags=["solution"]
def verdict(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    holds = expected[0] <= value <= expected[1]
    if expected_control is not None:
        holds = holds and expected_control[0] <= control <= expected_control[1]
    return "green" if holds else "red"


# %% tags=["check"]
check.verdict(verdict)

# %% [markdown]
# ## 5. `pocket`: what it is and what it is not
#
# `pocket` has the architecture of GPT-2, much smaller, and comes with this repository: a few
# megabytes that need no network and answer in milliseconds. It was trained on spans of random
# tokens said again (remember this in notebooks 02 and 03), and on texts from a grammar, such as
# this one, of which we know what they mean, because we made them:

# %%
from mi_data.pocket import generator

lesson = generator.prompt("ioi", 1)
print(lesson.text, "→", lesson.answer)
{label: lesson.labels[label] for label in ("S", "IO", "order")}

# %% [markdown]
# The labels say who gives and who receives, and the model is small enough to try everything, in
# seconds. What the *model* does with the text has to be found here as elsewhere; only a circuit
# that was planted by hand has a known truth. [Its card](../data/pocket/README.md) says how it was
# made and what it can do.
#
# It is **not** a small GPT-2. It knows the facts and the kinds of sentences of its own world, and
# nothing else. Measure it: the loss, in nats per token, says how surprised a model is by
# a text. Here is a text about GPT-2; the control is a hundred texts of pocket's own world. Last,
# the loss of a blind guess, which holds every token of the vocabulary equally likely.

# %%
outside = mi.prompts.literature_text("reference")
inside = [generator.document(i, split="test").text for i in range(100)]
surprise, *familiar = (
    model(model.to_tokens(text), return_type="loss") for text in (outside, *inside)
)
claim("start.outside_world", surprise, control=torch.stack(familiar).mean())
print(f"a blind guess: {torch.tensor(model.cfg.d_vocab).log():.2f}")

# %% [markdown]
# On this text from outside `pocket` is worse than a blind guess: it is sure, and wrong. SmolLM2,
# which has read the web, is not. (Nats per token of two models do not compare, as their tokens
# differ.) Keep this in mind: a finding on `pocket` shows that a method works and what a mechanism
# can look like.
# It is no finding about GPT-2, and least of all about the models you talk to. That is why every
# claim is made for each model anew.

# %% [markdown]
# ## 6. GPT-2 small and other models
#
# The notebooks name no head and no layer: they find them by score, so they run unchanged on other
# models. To choose one, set the environment variable `MI_MODEL` before you start JupyterLab, or
# put this line at the top of the set-up cell and restart the kernel:
#
# ```python
# %env MI_MODEL=gpt2
# ```
#
# | `MI_MODEL` | loads |
# |---|---|
# | not set | `pocket`; on Colab GPT-2 small |
# | `pocket` | the embedded model, never a network |
# | `smollm2` | SmolLM2-135M-Instruct, in 4 bits after `make real` (93 MB); hub: grey claims |
# | `gpt2` | GPT-2 small, fetched once (548 MB), then cached; or the folder `MI_GPT2_DIR` |
# | a folder, or a name such as `EleutherAI/pythia-70m` | that model; its claims are grey |
#
# Expectations for GPT-2 small come from publications: the literature's prompts are used word for
# word. No recorded run has met them yet. Below is the model that you loaded, in numbers (`d_head`
# is the width of an attention head, `d_mlp` the number of neurons of an MLP):

# %%
cfg = model.cfg
source = mi.models.model_source(model)
facts = {
    "million parameters": source.n_params / 1e6,
    "layers": cfg.n_layers,
    "heads a layer": cfg.n_heads,
}
facts |= {"d_model": cfg.d_model, "d_head": cfg.d_head, "d_mlp": cfg.d_mlp}
facts |= {"tokens in the vocabulary": cfg.d_vocab, "tokens of context": cfg.n_ctx}
mi.figures.table(
    {"what": list(facts), mi.model_id(model): list(facts.values())},
    title="The model in numbers",
    subtitle=f"from {source.where}",
)

# %% [markdown]
# ## 7. The map
#
# Read in this order, or jump: every notebook says at its head what it needs. The folder
# `exercises` has each of them once more with the solutions to write yourself; once you have solved
# one, the map says how far you are.

# %%
mi.library.notebooks_html()

# %% [markdown]
# ## 8. Glossary
#
# The words of the field, each with its sources and, where there is one, the notebook that shows it
# at work. Type in the box to search.

# %%
mi.library.glossary_html()

# %% [markdown]
# ## 9. The reading map
#
# What the suite stands on, in the order of the notebooks. For a way into the field as a whole,
# start with [@nanda2022steps] and [@olah2020zoom]; for its open problems, [@sharkey2025open].

# %%
mi.library.literature_html()

# %% [markdown] short=true
# ## Summary
#
# - Mechanistic interpretability explains behaviour by what the weights compute, and tests the
#   explanation by intervening.
# - In this prompt, what decides the answer moves from the name of the giver to the last token.
# - A claim is a value with an expected range, a source and a control, for one model. Green, red,
#   grey, blue.
# - `pocket` is an instrument to learn on, with texts whose meaning is known. It is not GPT-2.
#
# **Where to read on.** [@olah2020zoom] for the idea of circuits; sections 1 to 3 of [@wang2022ioi]
# for the example of this notebook; [@bereska2024review] for the whole field. **Next:** notebook 01
# takes the residual stream apart.

# %%
claim.table()
