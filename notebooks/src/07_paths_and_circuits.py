# ---
# title: Paths, edges and circuits
# minutes: 75
# measured: 31 s and 1.0 GiB on pocket
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
# - say whether a head copies or suppresses what it looks at, and what a metric cannot see;
# - grow a circuit backwards from the logits;
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
n_prompts = 12 if n_layers < 12 else 8  # a larger model gets fewer, to keep the time in bounds
pairs = mi.prompts.ioi(model, n_prompts, corruption="random", same_wording=True)
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
# A dot above the line does more than it says: it also works through others. One high up in the
# middle works through others alone. A dot *below* the line is a head whose loss others make good.
# The claim takes the head with the largest difference.

# %%
claim("path.indirect", total[far[0]], control=direct[far[0]])

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
# ## 3. What does the strongest head say?
#
# There are two ways to prefer the receiver: raise the receiver, or lower the giver. In GPT-2 small
# *name movers* stand at the end, look at the receiver and copy it [@wang2022ioi]. Is it so here?
# For the heads with the strongest direct path: where do they look from the end, and what do they
# add to each of the two names? `S1` and `S2` are the giver's first and second mention.

# %%
where = {"receiver": pairs.positions["IO1"], "giver, S1": pairs.positions["S1"],
         "giver, S2": pairs.positions["S2"]}  # fmt: skip
prompts = torch.arange(len(pairs))


def looks_at(name):
    """A head's mean attention from the end on each mention of a name."""
    reader = graph.reader(f"{name}.q")
    pattern = clean_cache["pattern", reader.layer][:, reader.head, -1]
    return {role: pattern[prompts, place].mean().item() for role, place in where.items()}


adds = {
    "receiver": mi.lens.logit_attribution(model, clean, pairs.answer_tokens[:, 0]).heads.mean(0),
    "giver": mi.lens.logit_attribution(model, clean, pairs.answer_tokens[:, 1]).heads.mean(0),
}

# %%
strong = [head for head, _ in mi.heads.top_heads(direct.abs(), 6)]
rows = [
    {"head": mi.heads.head_name(head), "share lost": direct[head].item()}
    | {f"looks at {role}": share for role, share in looks_at(mi.heads.head_name(head)).items()}
    | {f"adds to the {name}": values[head].item() for name, values in adds.items()}
    for head in strong
]
mi.figures.table(rows, title="The strongest direct paths", subtitle=mi.model_id(model))

# %% [markdown]
# Read the first row. A head that looks at a name and adds to that name *copies*; one that looks at
# a name and takes from it *suppresses*. The claims: the strongest head looks at names, more than
# the average head does; and it takes from the giver, while the receiver's logit hardly hears of it.

# %%
sums = {name: sum(looks_at(name).values()) for name in graph.heads}
claim("path.looks_at_names", sums[mi.heads.head_name(top)], control=sum(sums.values()) / len(sums))
claim("path.suppresses", adds["giver"][top], control=adds["receiver"][top])

# %% [markdown]
# If it is suppression, who *raises* the names? The logit difference cannot see a head that raises
# both names alike. So take another metric, the mean logit of both names, and patch the same paths.
# Each dot is a head. Upwards: it speaks for both names. To the right: it tells them apart.


# %%
def both_names(logits):
    """The mean logit of receiver and giver, [batch]."""
    return logits[:, -1].gather(1, pairs.answer_tokens).mean(1)


for_both = -patching.path_patch(
    model, clean, OtherRun(corrupt), both_names, progress=False
).effect()  # fmt: skip
apart = direct * full.item()
loudest = [head for head, _ in mi.heads.top_heads(for_both, 3)]
mi.figures.scatter(
    apart.flatten(), for_both.flatten(), labels=graph.heads,
    named={mi.heads.head_name(head) for head in [top, *loudest]},
    title="A metric sees only what it asks for", xlabel="raises the logit difference by",
    ylabel="raises both names by", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("path.blind_metric", for_both[loudest[0]], control=apart[loudest[0]].abs())

# %% [markdown]
# A circuit is always the circuit *of a metric*. What follows is the circuit that tells receiver
# from giver, not the one that comes up with names.
#
# ## 4. Backwards: who tells these heads what to say?
#
# A head has three inputs: queries, keys and values. An earlier part can speak to any of them. By
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
# And with the helper, for any sender (a head, an MLP, the embeddings) and any receiver.


# %%
def lost_into(readers, senders):
    """Share lost when each sender turns corrupt for these readers alone."""
    swept = patching.path_patch(
        model, clean, OtherRun(corrupt), metric, receivers=readers, senders=senders, progress=False
    )
    return dict(zip(senders, share_lost(swept).tolist(), strict=True))


last = (n_layers - 1, n_heads - 1)
by_hand = (full - path_to_query((0, 0), last).mean()).item()
fast = lost_into([f"{mi.heads.head_name(last)}.q"], ["L0H0"])["L0H0"] * full.item()
assert abs(by_hand - fast) < 1e-4

# %% [markdown]
# Now grow the circuit. Start at the logits, keep the wires that carry at least a twentieth of the
# logit difference, and ask the same about each part at their lower end, strongest first, until six
# have been asked. For a head, first patch its three inputs together; then tell them apart for the
# strong senders.


# %%
def wires_into(node, least=0.05):
    """Wires (writer, reader, share lost) into the logits, an MLP or the inputs of a head."""
    readers = [f"{node}.{part}" for part in "qkv"] if "H" in node else [node]
    before = graph.writers[: graph.n_before[graph.readers.index(readers[0])]]
    senders = [name for name, lost in lost_into(readers, before).items() if abs(lost) >= least]
    if not senders:
        return []
    each = {reader: lost_into([reader], senders) for reader in readers}
    return [(w, r, lost[w]) for r, lost in each.items() for w in senders if abs(lost[w]) >= least]


wires, todo, asked = [], ["logits"], []
while todo and len(asked) < 6:
    asked.append(node := todo.pop(0))
    found = sorted(wires_into(node), key=lambda wire: -abs(wire[2]))
    wires += found
    todo += [w for w, _, _ in found if w not in (*todo, *asked, "embed")]

# %% [markdown]
# The circuit reads upwards. Wider is stronger; hover over a wire for its share; a red wire works
# against the answer. Under each head stands the mention of a name it looks at most, from the end,
# and how much. Which of its inputs carries the strongest wire of the strongest head?

# %%
grown = sorted({name for writer, reader, _ in wires for name in (writer, reader.split(".")[0])
                if name in graph.heads})  # fmt: skip
drawn, notes = {}, {}
for writer, reader, lost in wires:
    place = writer, reader.split(".")[0]
    drawn[place] = drawn.get(place, 0.0) + lost
for name in grown:
    role, share = max(looks_at(name).items(), key=lambda item: item[1])
    notes[name] = f"end → {role} {share:.2f}"
mi.figures.graph(
    [(*place, lost) for place, lost in drawn.items()], notes=notes,
    title="The circuit, grown backwards from the logits", unit="share of the logit difference lost",
    subtitle=mi.model_id(model),
)  # fmt: skip

# %%
top_name = mi.heads.head_name(top)
before = graph.writers[: graph.n_before[graph.readers.index(f"{top_name}.q")]]
strongest = {
    part: max(map(abs, lost_into([f"{top_name}.{part}"], before).values())) for part in "qkv"
}
claim("path.values", strongest["v"], control=max(strongest["q"], strongest["k"]))

# %% [markdown]
# Values say *what* a head writes, queries and keys *where it looks*. Small effects on queries and
# keys do not mean that looking is unimportant: the corrupt prompts have names in the same places,
# so a head that looks at *a place* looks at the same place in both. A path shows up only where the
# two runs differ. In GPT-2 small the story is longer [@wang2022ioi]: *S-inhibition* heads tell the
# name movers' queries where not to look; they read the giver's second mention, where
# *duplicate-token* and *induction* heads have noticed the repetition. A small model may need fewer
# steps.

# %% [markdown]
# ## 5. Every wire of the model
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
# ## 6. A score for every edge
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
# Is the estimate right? Patch the paths from all writers into the most important readers, one by
# one, and compare. Each dot is an edge.

# %%
by_weight = scores.values.abs().sum(1).argsort(descending=True)
ranked = [graph.readers[i] for i in by_weight if "." in graph.readers[i]]
readers = [name for name in ranked if graph.reader(name).layer > 0][:4]
estimated, measured, names = [], [], []
for reader in readers:
    before = graph.writers[: graph.n_before[graph.readers.index(reader)]]
    measured += lost_into([reader], before).values()
    found = [float(scores.values[graph.edge(name, reader)]) for name in before]
    estimated += [-score / full.item() for score in found]
    names += [f"{name} → {reader}" for name in before]

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
# ## 7. A circuit, and whether it is faithful
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
# the **heads of each layer exchanged**, none in its old place: as many edges, the same shape.


# %%
def exchanged(circuit, seed=0):
    """The same circuit with other heads: in each layer all move on by a random number of places."""
    generator, new = torch.Generator().manual_seed(seed), {}
    for layer in range(n_layers):
        step = 1 + int(torch.randint(n_heads - 1, (), generator=generator))
        new |= {f"L{layer}H{j}": f"L{layer}H{(j + step) % n_heads}" for j in range(n_heads)}

    def rename(name):
        node, *part = name.split(".")
        return ".".join([new.get(node, node), *part])

    return Circuit.of_edges(graph, [(rename(w), rename(r)) for w, r in circuit.edges()])


# %% [markdown]
# All sizes at once, as shares of all edges. Where does the curve of the right circuit leave zero,
# and where does it reach one? May it exceed one?

# %%
shares = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 1)
sizes = [round(share * n_edges) for share in shares]
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
percent = [f"{100 * share:g}%" for share in shares]
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
# The circuit was chosen and judged on the same prompts. That flatters it. Here are other
# names in another wording, which no score has seen.

# %%
others = mi.prompts.ioi(model, n_prompts, seed=1, corruption="random", same_wording=True)
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
# ## 8. Faithful to what?
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
# ## 9. Greedy pruning: ACDC
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
# and use half of the prompts. A larger threshold keeps fewer edges. And one must say what a loss
# *is*: the fall of the logit difference, or, as in the paper, the KL divergence from the model's
# own prediction, in nats. KL looks at the whole prediction and not only at two names.

# %%
half = pairs.select(range(n_prompts // 2))
judge = LogitDiff(half.answer_tokens)
searches = {
    "logit difference, coarse": Acdc(0.1, patching.drop_of(judge), first=min(300, n_edges)),
    "logit difference, fine": Acdc(0.01, patching.drop_of(judge), first=min(300, n_edges)),
    "KL": Acdc(0.003, first=min(300, n_edges)),
}
greedy_circuits = {
    name: patching.discover_circuit(
        model, half.clean_tokens, OtherRun(half.corrupt_tokens), judge, search, progress=False
    ).pruned()
    for name, search in searches.items()
}
greedy_circuit = greedy_circuits["logit difference, fine"]

# %% [markdown]
# All on the *other* wording. The further up and left, the better. Look at where the greedy circuits
# lie against those of the scores, at the one by KL, and at the wrong ones.

# %%
candidates = {"EAP-IG": circuits[: found + 1]}
candidates |= {f"ACDC, {name}": [one] for name, one in greedy_circuits.items()}
wrong = {f"{name}, heads exchanged": [exchanged(one) for one in some]
         for name, some in candidates.items()}  # fmt: skip
values = {name: faithful(some, prompts=others) for name, some in (candidates | wrong).items()}
points = [(name.split(",")[0] + (", heads exchanged" if name in wrong else ""), one.n_edges, name)
          for name, some in (candidates | wrong).items() for one in some]  # fmt: skip
mi.figures.scatter(
    [edges for _, edges, _ in points], torch.cat(list(values.values())),
    groups=[group for group, _, _ in points], labels=[name for *_, name in points],
    named=[f"ACDC, {name}" for name in searches], title="Greedy and scored circuits on new prompts",
    xlabel="edges", ylabel="faithfulness (logit difference)", subtitle=mi.model_id(model),
)  # fmt: skip

# %%
claim("acdc.faithful", values["ACDC, logit difference, fine"],
      control=values["ACDC, logit difference, fine, heads exchanged"])  # fmt: skip

# %% [markdown]
# A circuit that keeps the *prediction* need not keep the whole logit difference: once the giver is
# improbable, pushing it further down changes no probability that KL would see. Again a circuit is
# the circuit of a question.

# %% [markdown]
# ## 10. Do two circuits agree?
#
# Compare them edge by edge. *Precision*: the share of the found edges that the reference has.
# *Recall*: the share of the reference's edges that were found. By hand, on two small sets:


# %%
def precision_recall(found, reference):
    """Shares of the found and of the reference that are in both."""
    both = len(set(found) & set(reference))
    return both / max(1, len(set(found))), both / max(1, len(set(reference)))


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
# of the IOI paper [@wang2022ioi]. For any other model we take the heads that section 4 found, path
# by path. Edges are not published, so we compare heads. For each size of circuit on the curve:
# which share of its heads is in the reference, and which share of the reference does it have?

# %%
import json
from importlib.resources import files

published = json.loads((files("mi_data") / "circuits" / "ioi.json").read_text("utf-8"))
hand_made = {"classes": {"grown in section 4": grown}}
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
# - A circuit grows backwards: what speaks to the logits, what those parts read, and so on. What
#   speaks may *copy* or *suppress*; where it looks and what it adds say which.
# - A circuit is the circuit of a metric and of a corruption. What raises both names alike is not in
#   the circuit of their difference; where the two runs agree, no path shows.
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
