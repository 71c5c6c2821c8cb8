# ---
# title: Paths, edges and circuits
# minutes: 75
# ---

# %% [markdown]
# **The question.** Patching says *which* heads matter. Who talks to whom, over which wires? And is
# the set of wires that we find enough to do the job alone?
#
# **You need** activation patching ([notebook 05](05_activation_patching.ipynb)) and its estimate by
# gradients ([notebook 06](06_attribution_patching.ipynb)). Q-, K- and V-composition
# ([notebook 03](03_induction_heads.ipynb)) help.
#
# **You will be able to**
#
# - patch one path instead of a whole activation, by hand and then for all heads at once;
# - grow a circuit backwards from the logits, and say what each of its heads looks at;
# - score every edge of a model by gradients, and prune edges greedily (ACDC);
# - judge a circuit: is it faithful, and is a *wrong* circuit of the same shape any worse?
# - compare circuits with each other and with a reference, and say what such numbers hide.
#
# Paths and edges are written for GPT-2's architecture. Other models get a clear error.

# %% [markdown]
# ## 1. Two paths that hide each other
#
# A small network with three parts. `A` writes a number. `B` reads it and fires above one. The
# output reads `A` and subtracts twice what `B` wrote. So `A` reaches the output over two paths:
# directly, and through `B`. Below, each path may carry its own value of `A`.


# %%
def toy(a_for_b, a_for_output):
    """The output when B and the output each read their own value of A."""
    b = max(a_for_b - 1, 0)
    return a_for_output - 2 * b


# %% [markdown]
# In one run `A` is 3, in the other it is 1. Check each row by hand.

# %%
rows = [
    {"who sees A = 1 instead of 3": "nobody", "output": toy(3, 3)},
    {"who sees A = 1 instead of 3": "everyone (activation patching)", "output": toy(1, 1)},
    {"who sees A = 1 instead of 3": "the output alone (direct path)", "output": toy(3, 1)},
    {"who sees A = 1 instead of 3": "B alone (path through B)", "output": toy(1, 3)},
]
mi.figures.table(rows)

# %% [markdown]
# Activation patching moves the output by +2. That is −2 over the direct path and +4 over the path
# through `B`: two strong and opposite effects, and one number that shows neither. To **patch a
# path** [@wang2022ioi; @goldowsky2023path] is to let a part's change reach one reader and no other.

# %% [markdown]
# ## 2. The path from a head to the logits
#
# The task is indirect object identification, as in notebooks 04 to 06. All prompts here have the
# same wording, so that a position means the same in each. The corrupt twin has three strangers:
# nobody is named twice, so it holds no hint who the receiver is.

# %%
from mi_helpers import patching
from mi_helpers.patching import Acdc, Circuit, EdgeGraph, Integrated, LogitDiff, OtherRun

graph = EdgeGraph.of(model)
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
pairs = mi.prompts.ioi(model, 12, corruption="random", same_wording=True)
clean, corrupt, metric = pairs.clean_tokens, pairs.corrupt_tokens, LogitDiff(pairs.answer_tokens)
print(f"{pairs.clean[0]} →{pairs.answers[0]}\n{pairs.corrupt[0]}")

# %% [markdown]
# The metric is the logit difference, receiver minus giver. First the whole runs: what there is to
# lose.

# %%
with torch.no_grad():
    full, without_hint = (metric(model(tokens)).mean() for tokens in (clean, corrupt))
claim("path.behaviour", full, control=without_hint)

# %% [markdown]
# **By hand.** What does a head say to the logits *directly*? Take its output of the corrupt run
# minus that of the clean run, and add the difference to the clean run's last residual stream, after
# every layer. Nobody but the final LayerNorm and the unembedding can see it.

# %%
clean_cache, corrupt_cache = (model.run_with_cache(tokens)[1] for tokens in (clean, corrupt))


def written(layer, head):
    """What a head adds in the corrupt run minus what it adds in the clean run, [batch pos d]."""
    change = (corrupt_cache["z", layer] - clean_cache["z", layer])[:, :, head]
    return change @ model.W_O[layer, head]


def path_to_logits(layer, head):
    """The metric of each prompt when only the logits see the head's corrupt output."""
    final = clean_cache["resid_post", n_layers - 1] + written(layer, head)
    return metric(model.unembed(model.ln_final(final)))


# %% [markdown]
# `path_patch` does this for every head. It also checks itself: the corrupt run as a whole must be
# restored when everything is patched.

# %%
to_logits = patching.path_patch(model, clean, OtherRun(corrupt), metric, progress=False)
for layer, head in ((0, 0), (n_layers - 1, n_heads - 1)):
    by_hand = path_to_logits(layer, head)
    assert torch.allclose(by_hand.cpu(), to_logits.values[layer, head], atol=1e-4)

# %% [markdown]
# A head that supports the answer *lowers* the logit difference when it turns corrupt. We show the
# share that is lost, so that blue supports the answer and red works against it. How many heads
# speak to the logits at all? And in which layers do they sit?


# %%
def share_lost(sweep):
    """The share of the clean logit difference that each patch takes away."""
    return -sweep.effect() / sweep.base.mean()


direct = share_lost(to_logits)
loud = int((direct.abs() >= 0.02).sum())
heads, layers = [f"H{j}" for j in range(n_heads)], [f"L{i}" for i in range(n_layers)]
mi.figures.heatmap(
    direct, title=f"{loud} of {direct.numel()} heads move the answer directly by 2% or more",
    x=heads, y=layers, xlabel="head", ylabel="layer", colorbar="share lost",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
top, top_share = mi.heads.top_heads(direct, 1)[0]
claim("path.direct", top_share, control=direct.abs().median())

# %% [markdown]
# Now compare with the *total* effect of the same heads: activation patching, where everyone sees
# the corrupt output. Dots on the dotted line act on the logits alone. What does it mean to stand
# far above zero, and at zero across?

# %%
total = share_lost(
    patching.patch_sweep(
        model, clean, OtherRun(corrupt), metric, site="z", over=("layer", "head"), progress=False
    )
)
indirect = total - direct
far = [head for head, _ in mi.heads.top_heads(indirect.abs(), 4)]
mi.figures.scatter(
    direct.flatten(), total.flatten(), labels=graph.heads,
    named={mi.heads.head_name(head) for head in [top, *far]}, identity=True,
    title=f"{mi.heads.head_name(far[0])} acts most through others",
    xlabel="share lost over the direct path",
    ylabel="share lost in all", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# A dot high up in the middle is a head that the answer depends on and that says nothing about it to
# the logits: it works through others. A dot *below* the line is a head whose loss others make good.
# The claim takes the head with the largest such difference. Its control is the head that is
# strongest on the direct path.

# %%
through_others = far[0]
claim("path.indirect", (direct[through_others] / total[through_others]).abs(),
      control=(direct[top] / total[top]).abs())  # fmt: skip

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 1: what one reader sees
# A path ends at a *reader*. Return the query, key or value that one head computes when it alone
# sees an earlier part's change. The LayerNorm before it has neither gain nor shift (they are folded
# into the weights).

# %% [markdown] tags=["hint"]
# First add, then normalise, then multiply, then add the bias. LayerNorm of a sum is not the sum of
# LayerNorms.


# %% tags=["exercise"]
def reader_sees(stream, change, W, b, eps=1e-5):
    """stream, change: [batch pos d_model]; W: [d_model d_head]; b: [d_head]

    Returns what the reader computes, [batch pos d_head].
    """
    raise NotImplementedError


# %% tags=["solution"]
def reader_sees(stream, change, W, b, eps=1e-5):
    changed = stream + change
    centred = changed - changed.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / scale @ W + b


# %% tags=["check"]
check.reader_sees(reader_sees)

# %% [markdown]
# ## 3. Backwards: who tells these heads what to do?
#
# A head has three inputs: queries, keys and values. An earlier head can speak to any of them. By
# hand, for one sender and one receiver's **queries**: give the receiver the query it would compute
# from the clean stream plus the sender's change. Everything else stays clean, and what comes after
# the receiver responds.


# %%
def path_to_query(sender, receiver):
    """The metric when only the receiver's query sees the sender's corrupt output."""
    layer, head = receiver
    stream = clean_cache["resid_pre", layer] + written(*sender)
    query = model.blocks[layer].ln1(stream) @ model.W_Q[layer, head] + model.b_Q[layer, head]

    def put(q, hook):
        q = q.clone()
        q[:, :, head] = query
        return q

    hooks = [(f"blocks.{layer}.attn.hook_q", put)]
    return metric(model.run_with_hooks(clean, fwd_hooks=hooks))


# %% [markdown]
# And with the helper, for every sender at once. `receivers` may name several heads, which are then
# patched together.


# %%
def lost_through(receivers, part):
    """Share lost when each head turns corrupt for one input of the receivers alone."""
    inputs = [f"{name}.{part}" for name in receivers]
    return share_lost(
        patching.path_patch(
            model, clean, OtherRun(corrupt), metric, receivers=inputs, progress=False
        )
    )


last = (n_layers - 1, n_heads - 1)
with torch.no_grad():
    by_hand = 1 - path_to_query((0, 0), last).mean() / full
assert abs(by_hand - lost_through([mi.heads.head_name(last)], "q")[0, 0]) < 1e-4

# %% [markdown]
# The receivers are the heads that support the answer directly: up to three, each with at least a
# fiftieth of the logit difference. In the figure, look for the input that carries most.


# %%
def strongest(lost, least=0.02, most=3):
    """Names of up to `most` heads that lose at least the share `least`, strongest first."""
    ranked = mi.heads.top_heads(lost, most)
    return [mi.heads.head_name(head) for head, share in ranked if share >= least]


first = strongest(direct) or [mi.heads.head_name(top)]
into_first = {part: lost_through(first, part) for part in "qkv"}
mi.figures.heatmap(
    torch.stack(list(into_first.values())), facets=["queries", "keys", "values"],
    title=f"What earlier heads tell {', '.join(first)}", x=heads, y=layers, xlabel="head",
    ylabel="layer", colorbar="share lost", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Queries say *where to look*, values say *what to copy*. Heads that copy a name need to be told
# which of the two names; the names themselves stand where they were read. The claim compares the
# strongest path into queries with the strongest one into keys.

# %%
claim("path.queries", into_first["q"].max(), control=into_first["k"].max())

# %% [markdown]
# Now the same step again. The senders that were found become receivers; the input with the
# strongest sender is followed; and so on, for three steps or until nobody earlier has anything to
# say.


# %%
def lost_by(name, lost):
    """The entry of one head in a [layer head] table."""
    return float(lost.flatten()[graph.heads.index(name)])


levels, parts = [first], []
for _ in range(3):
    into = {part: lost_through(levels[-1], part) for part in "qkv"}
    part = max(into, key=lambda one: into[one].max())
    if not (senders := strongest(into[part])):
        break
    levels.append(senders)
    parts.append(part)

# %% [markdown]
# Each wire once more on its own, for one sender and one receiver at a time.

# %%
wires = [(name, "logits", lost_by(name, direct)) for name in first]
for receivers, part, senders in zip(levels, parts, levels[1:], strict=False):
    for receiver in receivers:
        lost = lost_through([receiver], part)
        wires += [(name, receiver, lost_by(name, lost)) for name in senders]
grown = sorted({name for level in levels for name in level})

# %% [markdown]
# What do these heads look at? For each, the strongest attention from one *role* to an earlier one:
# `IO` the receiver, `S1` the giver's first mention, `S1+1` the token after it, `S2` the giver's
# second mention, `end` the last token. This is measured on the clean prompts and knows nothing of
# the paths.

# %%
at = {"IO": pairs.positions["IO1"], "S1": pairs.positions["S1"],
      "S1+1": pairs.positions["S1"] + 1, "S2": pairs.positions["S2"],
      "end": pairs.positions["end"]}  # fmt: skip
prompts = torch.arange(len(pairs))


def attention(name):
    """Mean attention of a head from one role to another, by (from, to)."""
    layer, head = graph.reader(f"{name}.q").layer, graph.reader(f"{name}.q").head
    pattern = clean_cache["pattern", layer][:, head]
    looks = [(a, b) for a in at for b in at if (at[b] < at[a]).all()]
    return {(a, b): float(pattern[prompts, at[a], at[b]].mean()) for a, b in looks}


habits = {name: max(attention(name).items(), key=lambda item: item[1]) for name in grown}
notes = {name: f"{a} → {b} {share:.2f}" for name, ((a, b), share) in habits.items()}

# %% [markdown]
# The circuit reads upwards. Wider is stronger; hover over a wire for its share. Which heads stand
# at `end` and look at a name? Which ones serve *them*, and what do they look at?

# %%
mi.figures.graph(
    wires, title="The circuit, grown backwards from the logits", notes=notes,
    unit="share of the logit difference lost", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# In GPT-2 small this story has names [@wang2022ioi]. *Name movers* stand at the end, look at the
# receiver and copy it. *S-inhibition* heads tell their queries where not to look. These read from
# the giver's second mention, where *duplicate-token* and *induction* heads have noticed the
# repetition, and those in turn need *previous-token* heads. Compare it with the picture: the notes
# say what the heads of *this* model do, and a small model may need fewer steps.
#
# The claim is about the first row under the logits: do those heads, at the end, look at the
# receiver? The control is their attention to the giver.

# %%
to_receiver, to_giver = (
    torch.tensor([attention(name)["end", role] for name in first]).max() for role in ("IO", "S1")
)
claim("path.looks_at_receiver", to_receiver, control=to_giver)

# %% [markdown]
# ## 4. Every wire of the model
#
# Growing by hand means choices: which heads, how many, which input. Instead, take **all** wires. In
# the residual stream every reader reads the sum of all that was written before it. So there is an
# edge from each writer (embeddings, heads, MLPs) to each later reader (queries, keys and values of
# each head, MLPs, logits). A model of two layers with one head each, in full:

# %%
small = EdgeGraph(n_layers=2, n_heads=1)
names = Circuit(small, small.valid).edges()
print(len(names), "edges:", *(f"{writer}→{reader}" for writer, reader in names))
mi.figures.graph(
    sorted({(writer, reader.split(".")[0], 1.0) for writer, reader in names}),
    title="All wires of two layers, queries, keys and values drawn as one",
)  # fmt: skip

# %% [markdown]
# Count them on the picture: the MLP of a layer reads its own layer's head, a head never reads its
# own layer's MLP. For the whole model, the control forgets that a head has three inputs.

# %%
n_edges = int(graph.valid.sum())
pairs_of_parts = len({(w, r.split(".")[0]) for w, r in Circuit(graph, graph.valid).edges()})
claim("graph.n_edges", n_edges, control=pairs_of_parts)

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 2: count the edges
# How many edges has a model with so many layers and heads? A formula or a loop will do.

# %% [markdown] tags=["hint"]
# Before the heads of layer $l$ there are the embeddings and $l$ layers of heads and MLP. Before its
# MLP there are this layer's heads as well.


# %% tags=["exercise"]
def count_edges(n_layers, n_heads):
    """The number of edges from a writer to a later reader."""
    raise NotImplementedError


# %% tags=["solution"]
def count_edges(n_layers, n_heads):
    total = 0
    for layer in range(n_layers):
        before = 1 + layer * (n_heads + 1)
        total += 3 * n_heads * before + (before + n_heads)
    return total + 1 + n_layers * (n_heads + 1)


# %% tags=["check"]
check.count_edges(count_edges)

# %% [markdown]
# ## 5. A score for every edge
#
# One path patch for every edge would take thousands of passes. EAP-IG [@hanna2024faith] estimates
# them all from a few backward passes, as notebook 06 explains: the writer's change times the
# gradient at the reader, averaged over points on the way from one run to the other. Negative scores
# support the answer, since the edge turns corrupt; we again show the share that is lost.

# %%
scores = patching.edge_attribution(
    model, clean, OtherRun(corrupt), metric, path=Integrated(5)
)  # fmt: skip
strongest_edges = [
    {"from": writer, "to": reader, "share lost": -score / full.item()}
    for writer, reader, score in scores.ranked(12)
]
mi.figures.table(strongest_edges, title="The twelve strongest edges, by EAP-IG")

# %% [markdown]
# Is the estimate right? Patch the paths from all heads into the most important readers, one by one,
# and compare. Each dot is an edge.

# %%
by_weight = scores.values.abs().sum(1).argsort(descending=True)
ranked = [graph.readers[i] for i in by_weight if "." in graph.readers[i]]
readers = [name for name in ranked if graph.reader(name).layer > 0][:4]
estimated, measured, names = [], [], []
for reader in readers:
    lost = share_lost(
        patching.path_patch(
            model, clean, OtherRun(corrupt), metric, receivers=[reader], progress=False
        )
    )
    n_before = graph.n_before[graph.readers.index(reader)]
    for name in [name for name in graph.writers[:n_before] if name in graph.heads]:
        estimated.append(-float(scores.values[graph.edge(name, reader)]) / full.item())
        measured.append(lost_by(name, lost))
        names.append(f"{name} → {reader}")

# %%
estimated, measured = torch.tensor(estimated), torch.tensor(measured)
mi.figures.scatter(
    estimated, measured, labels=names, identity=True, correlation=True,
    named=[names[i] for i in measured.abs().topk(3).indices],
    title="EAP-IG against path patching, edge by edge", xlabel="share lost, estimated",
    ylabel="share lost, measured", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
shuffled = estimated[torch.randperm(len(names), generator=torch.Generator().manual_seed(0))]
correlation, chance = (
    torch.corrcoef(torch.stack([guess, measured]))[0, 1] for guess in (estimated, shuffled)
)
claim("graph.estimate", correlation, control=chance)

# %% [markdown]
# ## 6. A circuit, and whether it is faithful
#
# Keep the strongest edges and *ablate* all others: each reader reads the kept writers as they are
# now, and of the others what they wrote in the corrupt run. That one line is the whole method:

# %% [markdown] tags=["task"] minutes=10 difficulty=2
# ### Exercise 3: what a reader reads in a circuit
# Return the input of one reader: the sum over all writers before it, where the edge is kept of what
# the writer writes now, otherwise of what it wrote in the corrupt run.

# %% [markdown] tags=["hint"]
# `torch.where(kept[:, None, None], now, corrupt)` chooses for each writer. Then sum.


# %% tags=["exercise"]
def reader_input(now, corrupt, kept):
    """now, corrupt: [writer pos d_model]; kept: True or False, [writer]  ->  [pos d_model]."""
    raise NotImplementedError


# %% tags=["solution"]
def reader_input(now, corrupt, kept):
    return torch.where(kept[:, None, None], now, corrupt).sum(0)


# %% tags=["check"]
check.reader_input(reader_input)

# %% [markdown]
# **Faithfulness** asks how much of the behaviour is left. Normalised, it is 0 for the model with
# everything ablated and 1 for the whole model:
#
# $$\frac{F(\text{circuit}) - F(\text{nothing})}{F(\text{model}) - F(\text{nothing})}$$
#
# Two wrong circuits stand beside the right one. The first has as many *random edges*. That is a
# weak opponent: random edges hardly ever join into a path. The second is the right circuit with
# the **heads of each layer exchanged** at random: as many edges, the same shape, other heads.


# %%
def exchanged(circuit, seed=0):
    """The same circuit, with the heads of each layer exchanged at random."""
    generator, new = torch.Generator().manual_seed(seed), {}
    for layer in range(n_layers):
        order = torch.randperm(n_heads, generator=generator).tolist()
        new |= {f"L{layer}H{old}": f"L{layer}H{other}" for old, other in enumerate(order)}

    def rename(name):
        node, *part = name.split(".")
        return ".".join([new.get(node, node), *part])

    return Circuit.of_edges(graph, [(rename(w), rename(r)) for w, r in circuit.edges()])


# %% [markdown]
# All sizes at once, as shares of all edges. Where does the curve of the right circuit leave zero,
# and where does it reach one? May it exceed one?

# %%
sizes = [round(share * n_edges) for share in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1)]
circuits = [scores.top(size).pruned() for size in sizes]
chance = torch.rand(graph.valid.shape, generator=torch.Generator().manual_seed(0))
random_scores = patching.EdgeScores(graph, chance)


def faithful(circuits, what=None, prompts=pairs):
    """Normalised faithfulness of circuits; what is outside reads the corrupt run, unless told."""
    what = what or OtherRun(prompts.corrupt_tokens)
    judge = LogitDiff(prompts.answer_tokens)
    return patching.faithfulness(
        model, prompts.clean_tokens, circuits, what, judge
    ).normalised()  # fmt: skip


# %%
curves = {"strongest edges (EAP-IG)": faithful(circuits)}
curves["heads exchanged"] = torch.stack(
    [faithful([exchanged(one, seed) for one in circuits]) for seed in range(2)]
).mean(0)
curves["random edges"] = faithful([random_scores.top(size) for size in sizes])


def first_above(curve, bar=0.85):
    """The first size at which a curve has passed the bar."""
    return next(i for i, value in enumerate(curve.tolist()) if value > bar)


kept = {name: first_above(curve) for name, curve in curves.items()}
found = kept["strongest edges (EAP-IG)"]

# %%
percent = [f"{100 * size / n_edges:.2g}%" for size in sizes]
mi.figures.lines(
    curves, title=f"{percent[found]} of the edges keep 85% of the behaviour", x=percent,
    xlabel="edges kept", ylabel="faithfulness", subtitle=f"{mi.model_id(model)}, {n_edges} edges",
)  # fmt: skip

# %% [markdown]
# From here on we study the smallest circuit on this curve that keeps at least 85% of the logit
# difference. How many edges would one need without knowing which?

# %%
circuit = circuits[found]
print(f"{circuit.n_edges} edges, {len(circuit.nodes())} heads and MLPs:", *circuit.nodes())

# %%
claim("circuit.size", sizes[found] / n_edges, control=sizes[kept["random edges"]] / n_edges)
claim("circuit.faithful", curves["strongest edges (EAP-IG)"][found],
      control=curves["heads exchanged"][found])  # fmt: skip

# %% [markdown]
# The circuit was chosen and judged on the same twelve prompts. That flatters it. Here are other
# names in another wording, which no score has seen.

# %%
others = mi.prompts.ioi(model, 12, seed=1, corruption="random", same_wording=True)
print(others.clean[0])
wrong_heads = torch.stack([exchanged(circuit, seed).kept for seed in range(3)])
held_out, held_out_wrong = (
    faithful(some, prompts=others).mean()
    for some in ([circuit], [Circuit(graph, one) for one in wrong_heads])
)
claim("circuit.held_out", held_out, control=held_out_wrong)

# %% [markdown] tags=["task"] minutes=10 difficulty=1
# ### Exercise 4: normalised faithfulness
# From the metric of each prompt in the circuit, in the whole model and with everything ablated,
# compute one number. Average first: a ratio for each prompt explodes where the model hardly cares.

# %% [markdown] tags=["hint"]
# Three means, one fraction. An empty circuit must get 0 and the model itself 1.


# %% tags=["exercise"]
def normalised_faithfulness(circuit, full, empty):
    """circuit, full, empty: [batch], metrics of each prompt  ->  one number."""
    raise NotImplementedError


# %% tags=["solution"]
def normalised_faithfulness(circuit, full, empty):
    return (circuit.mean() - empty.mean()) / (full.mean() - empty.mean())


# %% tags=["check"]
check.normalised_faithfulness(normalised_faithfulness)

# %% [markdown]
# ## 7. Faithful to what?
#
# "Ablated" can mean other things than "as in the corrupt run": zero; the mean over reference
# prompts; the activation of another prompt, drawn at random. The reference prompts are the corrupt
# ones, with the same wording. If the curves differ, a faithfulness without its ablation says little
# [@miller2024metrics].

# %%
from mi_helpers.patching import Mean, Resample, Zero

ablations = {"the mean": Mean(corrupt), "another prompt": Resample(corrupt, seed=0),
             "another draw": Resample(corrupt, seed=1), "zero": Zero()}  # fmt: skip
by_ablation = {"its corrupt twin": curves["strongest edges (EAP-IG)"]}
by_ablation |= {name: faithful(circuits, what) for name, what in ablations.items()}
mi.figures.lines(
    by_ablation, title="The same circuits, with the rest ablated in other ways",
    x=percent, xlabel="edges kept",
    ylabel="faithfulness", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# The claim takes the mean gap between zero and the corrupt twin over the sizes. The control is what
# chance alone can do: two draws of the reference prompts.


# %%
def gap(one, other):
    """Mean distance of two curves."""
    return (by_ablation[one] - by_ablation[other]).abs().mean()


claim("circuit.ablation_matters", gap("zero", "its corrupt twin"),
      control=gap("another prompt", "another draw"))  # fmt: skip

# %% [markdown]
# ## 8. Greedy pruning: ACDC
#
# Scores rate each edge as if the others stayed. That fails where edges stand in for each other. A
# network with three wires, in which two carry the same:


# %%
def toy_loss(kept):
    """How much the output falls short: `a` and `b` are redundant, `c` is needed too."""
    output = max(2 * ("a" in kept), 2 * ("b" in kept)) + ("c" in kept)
    return 3 - output


everything = {"a", "b", "c"}
{wire: toy_loss(everything - {wire}) for wire in sorted(everything)}

# %% [markdown]
# Take away `a` or `b` alone and nothing is lost; by such scores both may go. ACDC
# [@conmy2023acdc] goes through the wires one after the other, from the output backwards, takes each
# away *for good* if that costs less than a threshold, and judges the next one in what is left.


# %%
def greedy(wires, loss, threshold):
    """Remove each wire in turn, last first, unless that costs at least the threshold."""
    kept = set(wires)
    for wire in reversed(wires):
        if loss(kept - {wire}) - loss(kept) < threshold:
            kept = kept - {wire}
    return kept


no_effect = {wire for wire in everything if toy_loss(everything - {wire}) == 0}
print("ACDC keeps", sorted(greedy(["a", "b", "c"], toy_loss, 0.5)))
print("the other order keeps", sorted(greedy(["c", "b", "a"], toy_loss, 0.5)))
claim("acdc.redundant", toy_loss(greedy(["a", "b", "c"], toy_loss, 0.5)),
      control=toy_loss(everything - no_effect))  # fmt: skip

# %% [markdown]
# So the greedy circuit works. But which of two redundant wires it keeps is a matter of order, and
# neither answer is *the* circuit.
#
# On the model each step is a forward pass, so we start from the 300 edges with the highest scores
# and use half of the prompts. The loss is the KL divergence from the model's own prediction, in
# nats. A larger threshold keeps fewer edges.

# %%
half = pairs.select(range(6))
greedy_circuits = {
    threshold: patching.discover_circuit(
        model, half.clean_tokens, OtherRun(half.corrupt_tokens), LogitDiff(half.answer_tokens),
        Acdc(threshold, first=min(300, n_edges)), progress=False,
    ).pruned()
    for threshold in (0.03, 0.003)
}  # fmt: skip
greedy_circuit = greedy_circuits[0.003]

# %% [markdown]
# Both kinds of circuit, on the *other* wording. The further up and left, the better. Look at where
# the greedy circuits lie against those of the scores, and where the wrong ones lie.

# %%
candidates = {"EAP-IG": circuits[: found + 1], "ACDC": list(greedy_circuits.values())}
candidates |= {f"{name}, heads exchanged": [exchanged(one) for one in some]
               for name, some in candidates.items()}  # fmt: skip
values = {name: faithful(some, prompts=others) for name, some in candidates.items()}
points = [(name, one.n_edges) for name, some in candidates.items() for one in some]
mi.figures.scatter(
    [edges for _, edges in points], torch.cat(list(values.values())),
    groups=[name for name, _ in points], labels=[f"{edges} edges" for _, edges in points],
    title="Greedy and scored circuits on new prompts", xlabel="edges", ylabel="faithfulness",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("acdc.faithful", values["ACDC"][-1], control=values["ACDC, heads exchanged"][-1])

# %% [markdown]
# ## 9. Do two circuits agree?
#
# Compare them edge by edge. *Precision*: the share of the found edges that the reference has.
# *Recall*: the share of the reference's edges that were found. By hand, on two small sets:


# %%
def precision_recall(found, reference):
    """Shares of the found and of the reference that are in both."""
    both = len(set(found) & set(reference))
    return both / max(1, len(set(found))), both / len(set(reference))


precision_recall(found={"a", "b", "c", "d"}, reference={"b", "c", "x"})

# %% [markdown]
# ACDC against the strongest edges of the *same number*. The control exchanges the heads of each
# layer in one of them, so that what any two circuits of this shape share is taken into account.

# %%
rival = scores.top(greedy_circuit.n_edges).edges()
overlap, _ = precision_recall(greedy_circuit.edges(), rival)
by_chance = [
    precision_recall(exchanged(greedy_circuit, seed).edges(), rival)[0] for seed in range(5)
]
claim("circuits.overlap", overlap, control=sum(by_chance) / len(by_chance))

# %% [markdown]
# And against a **reference** made by hand. For GPT-2 small there is a published one: the 26 heads
# of the IOI paper [@wang2022ioi]. For any other model we take the heads that section 3 found, path
# by path. Edges are not published, so we compare heads. For each size of circuit on the curve:
# which share of its heads is in the reference, and which share of the reference does it have?

# %%
import json
from importlib.resources import files

published = json.loads((files("mi_data") / "circuits" / "ioi.json").read_text("utf-8"))
hand_made = {"classes": {"grown in section 3": grown}}
classes = published.get(mi.model_id(model), hand_made)["classes"]
reference = [name for names in classes.values() for name in names]
heads_of = [[name for name in one.nodes() if name in graph.heads] for one in circuits]

# %%
precisions, recalls = zip(*(precision_recall(names, reference) for names in heads_of), strict=True)
n_all = len(graph.heads)
mi.figures.lines(
    {"precision": precisions, "precision by chance": [len(reference) / n_all] * len(sizes),
     "recall": recalls, "recall by chance": [len(names) / n_all for names in heads_of]},
    title=f"Circuits against a reference of {len(reference)} heads",
    x=percent, xlabel="edges kept",
    ylabel="share of heads", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("circuits.recall", recalls[found], control=len(heads_of[found]) / n_all)

# %% [markdown]
# Where a circuit has many heads, recall is high by chance. That is why the control stands beside
# it. Which heads of the reference does our circuit lack?

# %%
mi.figures.table(
    [{"class": name, "found": ", ".join(h for h in members if h in heads_of[found]) or "none",
      "missed": ", ".join(h for h in members if h not in heads_of[found]) or "none"}
     for name, members in classes.items()],
    title="The reference, class by class", subtitle=mi.model_id(model),
)  # fmt: skip

# %% [markdown]
# Play with the circuits: choose a method and how many of its strongest wires to draw. Queries, keys
# and values of a head are drawn as one node, and the weight of a wire is the sum over the three.

# %%
methods = {"EAP-IG": circuit, "ACDC": greedy_circuit}


def draw(method, wires):
    """The strongest wires of a circuit, each with its EAP-IG score as a share lost."""
    weights = {}
    for writer, reader in methods[method].edges():
        place = writer, reader.split(".")[0]
        score = float(scores.values[graph.edge(writer, reader)]) / full.item()
        weights[place] = weights.get(place, 0.0) - score
    top = sorted(weights.items(), key=lambda item: -abs(item[1]))[:wires]
    return mi.figures.graph(
        [(*place, weight) for place, weight in top], unit="share of the logit difference lost",
        title=f"The {len(top)} strongest wires by {method}", subtitle=mi.model_id(model),
    )  # fmt: skip


# %%
mi.figures.explore(draw, method=list(methods), wires=[12, 20, 30])

# %% [markdown] tags=["task"] minutes=20 difficulty=3
# ### Exercise 5: edges on no path
# After pruning, some edges lead nowhere: nothing reaches their start, or their end reaches no
# output. Return the edges that lie on a path from `"embed"` to `"logits"`.

# %% [markdown] tags=["hint"]
# Drop every edge whose start is not `"embed"` and has no edge coming in, and every edge whose end
# is not `"logits"` and has none going out. Dropping an edge can strand another: repeat until
# nothing changes.


# %% tags=["exercise"]
def on_a_path(edges):
    """edges: a set of (writer, reader)  ->  the set of those on a path from embed to logits."""
    raise NotImplementedError


# %% tags=["solution"]
def on_a_path(edges):
    kept = set(edges)
    while True:
        writers, readers = {w for w, _ in kept}, {r for _, r in kept}
        alive = {
            (w, r)
            for w, r in kept
            if (w == "embed" or w in readers) and (r == "logits" or r in writers)
        }
        if alive == kept:
            return kept
        kept = alive


# %% tags=["check"]
check.on_a_path(on_a_path)

# %% [markdown]
# ## Summary
#
# - Activation patching adds up all paths, and opposite ones cancel. Path patching takes one.
# - A circuit grows backwards from the logits: direct effects first, then what those heads' queries,
#   keys and values read.
# - The edge graph makes the choices explicit. EAP-IG scores all edges in a few backward passes;
#   ACDC prunes greedily and copes with redundant edges, at the price of depending on their order.
# - A circuit is judged by its faithfulness on *new* prompts, against a wrong circuit of the same
#   shape, and the number depends on how the rest is ablated.
#
# **What we have not shown.** That the circuit is *complete* (nothing of use is missing) and
# *minimal* (nothing idle is in it): [notebook 08](08_ablation_and_pruning.ipynb) asks. And edges
# here do not tell positions apart: one wire stands for all places where it is used.
#
# ## Where to read on
#
# - The circuit of indirect object identification, with path patching: [@wang2022ioi], section 3.
# - Path patching as a test of hypotheses: [@goldowsky2023path].
# - Greedy search: [@conmy2023acdc]. Scores by gradients: [@syed2023attribution; @hanna2024faith].
# - Why faithfulness scores must be read with care: [@miller2024metrics]. A stricter test of a
#   hypothesis about a circuit: [@chan2022scrubbing].

# %%
claim.table()
