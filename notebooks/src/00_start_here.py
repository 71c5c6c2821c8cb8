# ---
# title: Start here
# minutes: 30
# measured: 13 s and 0.7 GiB on pocket
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
# ## 2. One prediction
#
# Read this as you would read a story:
#
# > After John and Mary went to the store, John gave a bottle of milk to
#
# You expect "Mary". Not "John", because he is the one who gives. The model reads the text as
# **tokens**: words, or pieces of words, with the space before them. For every token in its
# vocabulary it computes a number, the **logit**, which says how well the token would follow. The
# softmax turns logits into probabilities that sum to one.

# %%
pairs = mi.prompts.ioi_literature(model, "milk")
prompt, twin = pairs.clean[1], pairs.clean[0]
logits = model(model.to_tokens(prompt))[0, -1]  # at the last token: one number for each next token
probabilities = logits.softmax(-1)
top = probabilities.topk(10)
words = [model.tokenizer.decode([token]) for token in top.indices.tolist()]
print(prompt, "…", repr(words[0]))

# %% [markdown]
# The figure shows the ten likeliest next tokens (a dot stands for a space). Look at where the two
# names are.

# %%
mi.figures.bars(
    top.values,
    words,
    title=f"The likeliest next token is {words[0].strip()!r}",
    xlabel="probability",
    horizontal=True,
    subtitle=f"{mi.model_id(model)} · {prompt} …",
)

# %% [markdown]
# A model that merely repeated some name from the text would put the two names side by side. The
# next line says what was found. It is a **claim**, and section 4 explains how to read it.

# %%
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

# %% [markdown] tags=["task"] minutes=5 difficulty=1
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

# %% [markdown]
# ## 3. From behaviour to mechanism
#
# So far we watched from outside. **Mechanistic interpretability** asks what happens inside
# [@olah2020zoom]: which quantities does the network represent, and by which steps do its weights
# compute the answer from them? For the sentence above: where is it noticed that John is named
# twice? How does that get to the word "to", where the answer is needed? Which part then looks up
# "Mary"? For GPT-2 small these questions have a published answer, a circuit of a few dozen
# attention heads [@wang2022ioi].
#
# The step from story to science is the **intervention**: change the part that the explanation
# names, and see whether the behaviour changes as it predicts. Here is one. Take a twin of the
# prompt, in which Mary gives, so that the answer is John. The preference should turn round:

# %%
both = pairs.clean_tokens[[1, 0]]  # our prompt and its twin, as token ids
last = model(both)[:, -1]
difference = last[:, right] - last[:, wrong]
{text: round(value, 2) for text, value in zip([prompt, twin], difference.tolist(), strict=True)}

# %% [markdown]
# The number is a **logit difference**: the logit of Mary minus the logit of John. Positive means
# Mary.
#
# Inside the model every token carries one vector from layer to layer, the *residual stream*
# (notebook 01). Only one word differs between the two prompts, the second name. So at first only
# that name's vector differs. At the end the last token's vector must differ, because the
# prediction is read off there. When does the news travel from one to the other?
#
# Take **one** vector of the twin run, put it in its place in the run on our prompt, and see what
# the difference becomes. This is *activation patching*. Notebook 05 builds it up slowly; here the
# idea is enough.

# %%
twin_run = model.run_with_cache(both[1:])[1]  # everything the model computes on its way


def patched_difference(layer, position):
    """The difference on our prompt when one vector before a layer comes from the twin run."""

    def put(stream, hook):
        stream[:, position] = twin_run["resid_pre", layer][:, position]
        return stream

    hook = (f"blocks.{layer}.hook_resid_pre", put)
    logits = model.run_with_hooks(both[:1], fwd_hooks=[hook])[0, -1]
    return logits[right] - logits[wrong]


# %% [markdown]
# Every method in this suite is written out once, as above. Then a helper does it fast, and an
# assertion shows that the two agree.

# %%
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

# %% [markdown]
# In the figure, 0 means that the answer stays as it was, and 1 that it moves all the way to the
# twin's. Look at where the lines cross. Left of it the answer hangs on the vector of the name,
# right of it on that of the last token. The third line is a control: the token after the name,
# which is as near to it, and matters little.

# %%
recovery = sweep.recovery()
mi.figures.lines(
    {
        "the second name": recovery[:, name],
        "the last token": recovery[:, end],
        "control: the token after the name": recovery[:, name + 1],
    },
    title="Who gives: the news leaves the name and reaches the last token",
    x=[f"L{layer}" for layer in range(model.cfg.n_layers)],
    xlabel="the vector is replaced before layer",
    ylabel="how far the answer moves",
    subtitle=mi.model_id(model),
)

# %%
claim("start.handed_over", recovery[-1, end], control=recovery[-1, name])

# %% [markdown]
# Before the last layer runs, the last token carries what decides the answer, and the name itself
# no longer matters to it. Somewhere in between something has *read* the name and *written* to the
# last token. Finding out what is the rest of the suite.

# %% [markdown]
# ## 4. How to read a claim
#
# A single example proves little, and a number alone means little. Is a logit difference of three
# large? Compare: the same eight prompts of the literature, in the model and in its **untrained
# twin**, the same architecture with fresh random weights. Look at the two colours next to each
# other.

# %%
eight = mi.prompts.ioi_literature(model)
random_model = mi.untrained(model)
trained, random = (
    mi.metrics.logit_diff(one(eight.clean_tokens), eight.answer_tokens)
    for one in (model, random_model)
)
mi.figures.bars(
    {"trained": trained, "untrained": random},
    [f"{label['S']} → {label['IO']}" for label in eight.labels],
    title="Training taught the model who receives",
    xlabel="who gives → who receives",
    ylabel="logit difference, right − wrong",
    subtitle=mi.model_id(model),
)

# %%
claim("start.logit_diff", trained.mean(), control=random.mean())

# %% [markdown]
# Read the line above from left to right:
#
# - **the verdict**. Green, *holds*: value and control are in their expected ranges. Red, *FAILS*:
#   one of them is not. Grey, *no expectation*: nobody has stated one for this model, so the claim
#   only reports;
# - **the statement**, in words, and the unit of its number;
# - **the value**, and the range expected of *this* model;
# - **the control**: the same measurement where the effect should be absent, here an untrained
#   model. An effect without a control is half a finding: a probe also "finds" things in random
#   weights, and some head always has the highest score;
# - **the source** of the expectation: a publication, or a measurement on this model;
# - **the id**, under which you find the claim in `data/claims`.
#
# What would a wrong result look like? `claim.judge` gives a verdict without recording it. Here the
# two names were mixed up, so the sign is wrong. If the claim above is green, this one is red:

# %%
claim.judge("start.logit_diff", -trained.mean(), control=random.mean())

# %% [markdown]
# And here is the same finding, told of a model of which nothing is known. It is grey, whatever the
# value. Claims do not carry over: what holds in one model is not evidence about another.

# %%
elsewhere = mi.Claims("00_start_here", "a model nobody measured")
elsewhere.judge("start.logit_diff", trained.mean(), control=random.mean())

# %% [markdown]
# When the suite is tested, a red claim is an error: no notebook here may state what its own code
# does not show. This is also why the prose holds no measured numbers. They stand in the claims.

# %% [markdown] tags=["task"] minutes=5 difficulty=1
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
# megabytes that need no network and answer in milliseconds. It was trained on texts from a
# grammar, such as this one, of which we know what they mean, because we made them:

# %%
from mi_data.pocket import generator

lesson = generator.prompt("ioi", 1)
print(lesson.text, "→", lesson.answer)
{label: lesson.labels[label] for label in ("S", "IO", "order")}

# %% [markdown]
# So one can *check* whether a probe, a feature or a circuit found what is there, which no one can
# do in a model trained on the web. That is what `pocket` is for: the field's methods, on phenomena
# whose truth is known, fast enough to try things out. [Its card](../data/pocket/README.md) says
# how it was made and what it can do.
#
# It is **not** a small GPT-2. It knows the few hundred facts and the kinds of sentences of its own
# world, and nothing else. Measure it: the loss, in nats per token, says how surprised a model is
# by a text. Here is a text about GPT-2, and beside it a sentence of pocket's world.

# %%
outside, inside = mi.prompts.literature_text("reference"), eight.clean[0]
surprise, familiar = (
    model(model.to_tokens(text), return_type="loss") for text in (outside, inside)
)
claim("start.outside_world", surprise, control=familiar)

# %% [markdown]
# On `pocket` the gap is wide; on GPT-2 small the two texts are nearly alike. Keep this in mind: a
# finding on `pocket` shows that a method works and what a mechanism can look like. It is no
# finding about GPT-2, and least of all about the models you talk to. That is why every claim is
# made for each model anew.

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
# | not set | GPT-2 small if it is in the Hugging Face cache or the hub answers, else `pocket` |
# | `pocket` | the embedded model, never a network |
# | `gpt2` | GPT-2 small, fetched once (548 MB), then cached; or the folder `MI_GPT2_DIR` |
# | a folder, or a name such as `EleutherAI/pythia-70m` | that model; its claims are grey |
#
# Expectations for GPT-2 small come from publications: the literature's prompts are used word for
# word. For this model, in numbers:

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
# Read in this order, or jump: every notebook stands alone and says what it needs. The folder
# `exercises` has each of them once more with the solutions to write yourself.

# %%
mi.reading.notebooks_html()

# %% [markdown]
# ## 8. Glossary
#
# The words of the field, each with its sources and the notebook that shows it at work. Type in the
# box to search.

# %%
mi.reading.glossary_html()

# %% [markdown]
# ## 9. The reading map
#
# What the suite stands on, in the order of the notebooks. For a way into the field as a whole,
# start with [@nanda2022steps] and [@olah2020zoom]; for its open problems, [@sharkey2025open].

# %%
mi.reading.literature_html()

# %% [markdown]
# ## Summary
#
# - Mechanistic interpretability explains behaviour by what the weights compute, and tests the
#   explanation by intervening.
# - In this prompt, what decides the answer moves from the second name to the last token.
# - A claim is a value with an expected range, a source and a control, for one model. Green, red,
#   grey.
# - `pocket` is an instrument to learn on, with known truth. It is not GPT-2.
#
# **Where to read on.** [@olah2020zoom] for the idea of circuits; sections 1 to 3 of [@wang2022ioi]
# for the example of this notebook; [@bereska2024review] for the whole field. **Next:** notebook 01
# takes the residual stream apart.

# %%
claim.table()
