# ---
# title: "Known circuits: who finds the truth?"
# minutes: 75
# ---

# %% [markdown]
# **The question.** Notebooks 04 to 08 and 17 have a dozen ways to find the parts of a model that
# matter. They disagree. Which of them are right?
#
# **You need** ablation and patching ([notebook 05](05_activation_patching.ipynb),
# [08](08_ablation_and_pruning.ipynb)), their estimates by gradients
# ([06](06_attribution_patching.ipynb)), and the edge graph with faithfulness
# ([07](07_paths_and_circuits.ipynb)). Of attribution graphs
# ([17](17_attribution_graphs.ipynb)) no more than what is said here.
#
# **You will be able to**
#
# - write a program for a transformer, and turn it into weights;
# - score a method against a circuit that is known, over nodes and over edges;
# - name six ways in which a true part stays hidden, and which methods fall for each;
# - say what faithfulness has to do with truth;
# - score a method of your own.
#
# Models are compiled below, or were trained to run a program. The language model that the set-up
# cell loads is asked in the second appendix alone: there the truth is half known.

# %% [markdown] short=true
# ## 1. A program that a transformer could run
#
# If nobody knows what is true, methods can only be compared with each other. So we make models for
# which we know: we write a program and set the weights so that the model runs it
# [@lindner2023tracr].
#
# The program must be of a kind that a transformer can run. RASP is a language for this
# [@weiss2021rasp]: a variable has a value at each position. It is computed from other values *at
# the same position*, which is a job for an MLP; or from those of *earlier positions that are
# selected*, which is a job for a head. Here is induction in two lines, on five letters. Check both
# lists by hand.

# %% short=true
from mi_helpers.circuits import Circuit, EdgeGraph, EdgeScores
from mi_helpers.toys import programs, rasp, scoreboard
from mi_helpers.toys.compiled import compiled

text = "c a f b a".split()
previous = [None, *text[:-1]]  # the letter one position earlier
following = [
    [text[there] for there in range(here + 1) if previous[there] == text[here]]
    for here in range(len(text))
]  # of earlier positions whose previous letter is the one at hand: their letters
print(previous, following, sep="\n")

# %% [markdown] short=true
# The last entry is the answer: after the last `a` says it `f`, which came after the first. The same
# in the package's language. `Select` says which pairs of positions match, by what stands at the one
# that looks (the query) and at the one looked at (the key); `Gather` copies from there.

# %% short=true
tokens, indices = rasp.Tokens("tokens", tuple("abcdef")), rasp.Indices("indices", 7)
one_back = rasp.Select(indices, indices, lambda here, there: there == here - 1)
before = rasp.Gather("previous", one_back, tokens)
match = rasp.Select(tokens, before, lambda letter, previous: letter == previous)
after = rasp.Gather("following", match, tokens)
program = rasp.Program(tokens, indices, {after: 1.0})
assert program.run(text)[before] == previous
assert program.says(text) == [*[None] * 4, *following[-1]]

# %% [markdown] tags=["task"] minutes=10 difficulty=1 short=true
# ### Exercise 1: a head that looks at many
# A `Mean` is a head that looks at all selected positions alike. Average numbers over them. The
# start token is always looked at as well and counts zero: so the sum is divided by one more than
# the number of positions, and a position that selects nothing gets zero.

# %% [markdown] tags=["hint"]
# Row `q` of the selector says at which positions `q` looks. A sum over those is a product of a
# matrix with a vector.


# %% tags=["exercise"]
def mean_where(selector, numbers):
    """selector: [query key], of booleans; numbers: [key]  ->  [query]."""
    raise NotImplementedError


# %% tags=["solution"]
def mean_where(selector, numbers):
    chosen = selector.to(numbers)
    return chosen @ numbers / (1 + chosen.sum(-1))


# %% tags=["check"]
check.mean_where(mean_where)

# %% [markdown] short=true
# ## 2. From a program to weights
#
# Give every value of every variable a direction of the residual stream. Then reading a variable is
# a product with its directions, and the table of a `Select` *is* a matrix: queries' values by keys'
# values, times how sure the head shall be. Below is the head for `previous`, on four positions and
# the start token. In each row, where does it look? Where nothing matches it rests on the start
# token, which gets half the score of a match.

# %% short=true
sharp = 16.0
table = torch.tensor([[float(there == here - 1) for there in range(4)] for here in range(4)])
at = torch.eye(5, 4).roll(1, 0)  # start token, then positions 0 to 3: which index stands there
scores = at @ (sharp * table) @ at.T
scores[:, 0] += sharp / 2
by_hand = scores.masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf).softmax(-1)
mi.figures.heatmap(
    by_hand, center=None, title="A table, twice multiplied, is a head that looks one back",
    x=["start", 0, 1, 2, 3], y=["start", 0, 1, 2, 3], xlabel="looked at", ylabel="looks",
    colorbar="attention", text=".2f",
)  # fmt: skip

# %% [markdown] short=true
# `compiled` does this for a whole program. It returns a model like any other and the truth: which
# part computes which variable. The rest of the model gets small random weights, and the seed draws
# which part is what, so that no method can guess by place.

# %% short=true
toy, truth = compiled(program, seed=1)
print(dict(truth.place))
head = mi.sites.Head(*map(int, truth.place["previous"][1:].split("H")))
with torch.no_grad():
    logits, cache = toy.run_with_cache(toy.to_tokens("c a f b"))
pattern = cache["pattern", head.layer][0, head.head]
assert torch.allclose(pattern, by_hand, atol=0.02)

# %% [markdown]
# **What about LayerNorm?** GPT-2 has one before each part, and it could spoil all sums: what it
# divides by depends on the whole stream. (The models of the paper have none.) Two tricks make it
# harmless. Each direction is written with its opposite, so the mean of a stream is zero. And one
# direction always carries a constant, three hundred times what a value carries. Next to it nothing
# else counts, so LayerNorm divides by nearly the same number everywhere. How near?

# %%
scales = torch.stack([cache[f"blocks.{layer}.ln1.hook_scale"] for layer in range(toy.cfg.n_layers)])
print(f"LayerNorm divides by {scales.min():.2f} to {scales.max():.2f}")
assert scales.max() / scales.min() < 1.001

# %% [markdown] short=true
# The package has eight programs. One does, in a way of our own, a task of the paper on RASP,
# `sort by frequency`: from `>` on it says the letters a, b and c, the most frequent first, one at
# each token. (A head finds `>`, three more heads each compare how often two letters stand before
# it, MLPs make an order of the three comparisons; a letter that is missing comes last.) Does each
# model say what its program says, at every position where that says
# anything? This is no finding but a condition for all that follows, so it is asserted, on a
# thousand texts each.

# %% short=true
names = list(programs.PROGRAMS)
cases = {name: programs.case(name) for name in names}
for name, one in cases.items():
    wrong = programs.disagreements(
        one.model, programs.PROGRAMS[name][0], programs.texts(name, 1000)
    )
    assert wrong == 0, name
mi.figures.table(
    [{"program": name, "a prompt": one.pairs.clean[0], "says": one.pairs.answers[0],
      "true nodes": len(one.truth.nodes), "true edges": len(one.truth.edges),
      "of": int(EdgeGraph.of(one.model).valid.sum())} for name, one in cases.items()],
    title="Eight models whose circuit is known",
)  # fmt: skip

# %% [markdown]
# And here is the truth about one of them: `reverse` says the letters before `>` backwards. A head
# finds out where `>` is, an MLP computes where the next letter stands, a head fetches it.


# %%
graphs = {name: EdgeGraph.of(one.model) for name, one in cases.items()}


def drawn(case, edges, title):
    """Edges as a graph of nodes; those of the program blue, others red."""
    graph, weights = graphs[case.name], {}
    for writer, reader in sorted(edges):
        good = (writer, reader) in case.truth.edges | case.truth.steady
        for node in graph.fed_by(reader):
            weights[writer, node] = 1.0 if good else -1.0
    jobs = {}
    for var, node in case.truth.place.items():
        jobs[node] = f"{jobs[node]}, {var}" if node in jobs else var
    jobs = {node: job for node, job in jobs.items() if any(node in pair for pair in weights)}
    wires = [(*pair, weight) for pair, weight in weights.items()]
    return mi.figures.graph(wires, title=title, notes=jobs, unit="true")


drawn(cases["reverse"], cases["reverse"].truth.edges, "The true circuit of reverse")

# %% [markdown] tags=["task"] minutes=20 difficulty=3
# ### Exercise 2: neurons that fire for both
# A `Map` of two variables needs one neuron for each pair of values, which is one where *both* are
# there and zero otherwise. The input has a number for each value, 1 for the one that is there and 0
# for the others (**one-hot**): the first variable's, then the second's. Give weights and biases for
# ReLU neurons, the pairs in the order (0, 0), (0, 1), … Be robust: each input may be off by up to
# `0.15`, so a value that is there may be read as `0.85` to `1.15`, and one that is not as `-0.15`
# to `0.15`. (With exact inputs the neuron of a pair that is there must be one; with noise it need
# not be, but must still be above zero.) Where a pair is not there, its neuron must stay at zero,
# exactly.

# %% [markdown] tags=["hint"]
# With weights of one and a bias of −1 the neuron is right for exact inputs, and lets through every
# bit of noise. Make it twice as steep, so that one missing value takes it well below zero.


# %% tags=["exercise"]
def and_neurons(n_first, n_second):
    """Numbers of values  ->  W_in [n_first + n_second, n_first * n_second], b_in [neuron].

    The neurons are relu(x @ W_in + b_in).
    """
    raise NotImplementedError


# %% tags=["solution"]
def and_neurons(n_first, n_second):
    first = torch.eye(n_first).repeat_interleave(n_second, dim=1)
    second = torch.eye(n_second).repeat(1, n_first)
    W_in = 2 * torch.cat([first, second])
    return W_in, torch.full((n_first * n_second,), -3.0)


# %% tags=["check"]
check.and_neurons(and_neurons)

# %% [markdown] short=true
# ## 3. How to score a list
#
# A method gives each edge (or node) a number; its size says how much it matters. We rank by size
# and ask where the true ones are. Two numbers are in use. The **AUROC** is the chance that a true
# edge stands above another one, a half being a coin's. The **average precision** (AP) asks, at each
# true edge, which share of the list down to it is true. By hand: five edges, two of them true.

# %% short=true
from mi_helpers.circuits.truth import auroc, average_precision, cpr_cmd

size = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
true = torch.tensor([True, False, False, True, False])
assert auroc(size, true) == (3 + 1) / 6  # of six pairs, the first wins three, the fourth one
assert average_precision(size, true) == (1 / 1 + 2 / 4) / 2
rare = torch.cat([true, torch.zeros(95, dtype=torch.bool)])  # and 95 more, all below
longer = torch.cat([size, torch.zeros(95)])
print(f"AUROC {auroc(longer, rare):.2f}, average precision {average_precision(longer, rare):.2f}")

# %% [markdown] short=true
# Mind the last line: idle edges at the end of the list lift the AUROC and leave the average
# precision as it was. In a model nearly all edges are idle, so an AUROC near one says little.
# The papers on ACDC and MIB report ROC curves [@conmy2023acdc; @mueller2025mib]; below we mostly
# read the average precision.

# %% [markdown] tags=["task"] minutes=15 difficulty=2 short=true
# ### Exercise 3: the chance to rank a pair right
# Write the AUROC: over all pairs of a true and another item, the share in which the true one scores
# higher. Equal scores count one half. A graph may have a hundred thousand edges: do it without a
# table of all pairs, by sorting the others and counting for each true item how many are below.

# %% [markdown] tags=["hint"]
# `torch.searchsorted(others, mine)` counts how many of the sorted `others` lie below each of
# `mine`; with `right=True`, how many do not lie above. The mean of both counts ties by half.


# %% tags=["exercise"]
def auroc_of(scores, true):
    """scores: [item]; true: [item], of booleans  ->  a number."""
    raise NotImplementedError


# %% tags=["solution"]
def auroc_of(scores, true):
    mine, others = scores[true], scores[~true].sort().values
    below, upto = (torch.searchsorted(others, mine, right=ties) for ties in (False, True))
    return (below + upto).double().mean() / (2 * len(others))


# %% tags=["check"]
check.auroc_of(auroc_of)

# %% [markdown] short=true
# ## 4. The scoreboard
#
# Now all methods on all programs. Each prompt has a twin after which the program says something
# else. The metric is the logit of the right answer minus that of the twin's. What counts as true:
#
# - a *node* is true if it computes a variable of the program, needed or not;
# - an *edge* is true if a variable travels on it. Edges that carry the same for every prompt and
#   its twin (positions, mostly) are left out of the judgement: nothing that compares the two can
#   see them.
#
# Scores of edges become scores of nodes by the largest edge that leaves a node; scores of nodes
# become scores of edges by the smaller of the two ends.
#
# The methods are those of notebooks 04 to 08, random scores as a control, and the **transcoder
# graph** of [notebook 17](17_attribution_graphs.ipynb) [@ameisen2025tracing]. It holds attention
# patterns and LayerNorms' scales as the prompt has them, and MLPs go through the units that are
# active. The run is then linear, and an edge's score is what flows along it to the metric, in the
# prompt's run alone: of the twin it knows the answer, and no activation. So an edge that speaks as
# much in both runs counts for it, and is not among the true ones here. The published graph has
# units and no heads; ours takes the units of an MLP together and splits what moves between tokens
# by heads, to have the nodes of the others. In these models the MLPs' own neurons are ReLUs: they
# serve as units, and no transcoder lacks anything; other models need trained transcoders.

# %% short=true
methods = scoreboard.METHODS
rows = scoreboard.board(methods, cases.values())


def of_board(key):
    """One column of the board as a table [method program]."""
    found = {(row["method"], row["program"]): row[key] for row in rows}
    return torch.tensor([[found[method, name] for name in names] for method in methods])


nodes_ap, edges_ap = of_board("nodes AP"), of_board("edges AP")
columns = [name.replace("frequency", "freq.") for name in names]  # to fit under the figure
mi.figures.heatmap(
    edges_ap, center=None, title="Scores of nodes cannot tell which edges are in use",
    x=columns, y=list(methods), xlabel="program", ylabel="method", text=".2f",
    colorbar="average precision, edges",
)  # fmt: skip

# %% [markdown] short=true
# Read it row by row. The first row is chance. A node's score cannot tell which of its edges are in
# use: no method that scores nodes comes near one on any program. Then read EAP from left to right:
# it is perfect on `induction` and `silent pair`, and far from it on `count`. The transcoder graph
# is perfect nowhere. Now the nodes. Look for the column where no method reaches one, and for ACDC
# on `silent pair`; section 5 says why.

# %% short=true
mi.figures.heatmap(
    nodes_ap, center=None, title="Ablating finds the nodes, unless another stands in",
    x=columns, y=list(methods), xlabel="program", ylabel="method", text=".2f",
    colorbar="average precision, nodes",
)  # fmt: skip

# %% short=true
row_of = {method: i for i, method in enumerate(methods)}


def mean_of(table, method):
    """A method's mean over programs."""
    return table[row_of[method]].mean()


assert edges_ap[row_of["transcoder graph"]].max() < 0.99  # perfect nowhere
claim("known.edges", mean_of(edges_ap, "EAP-IG"), control=mean_of(edges_ap, "random scores"))
claim("known.node_scores", mean_of(edges_ap, "each edge alone"),
      control=mean_of(edges_ap, "noising"))  # fmt: skip
claim("known.direct", mean_of(nodes_ap, "noising"), control=mean_of(nodes_ap, "direct attribution"))

# %% [markdown]
# Direct attribution sees who *speaks to the logits*, and nobody behind them. That is what it is
# for: notebook 04 says so, and here is what it costs.
#
# Is all this the program's doing, or would the methods find as much in any model of this shape? As
# a control take models of the same shape with weights as before training, judged by the same truth.
# (Do not expect a half: edges from the embeddings are strong in any model, and many true ones begin
# there.)

# %%
fresh = [programs.case(name, trained=False) for name in names]
in_fresh = scoreboard.board({"EAP-IG": methods["EAP-IG"]}, fresh)
claim("known.untrained", mean_of(of_board("edges AUROC"), "EAP-IG"),
      control=sum(row["edges AUROC"] for row in in_fresh) / len(fresh))  # fmt: skip

# %% [markdown] short=true
# ## 5. Six ways to hide
#
# ### A part that another stands in for
#
# The program `backup` is `indirect object` with two heads at its end: the mover says the name that
# stands once, and the other says it if the mover does not. We take each away alone, and both. Which
# of these would you call important?

# %% short=true
guarded = cases["backup"]
mover, backup = (guarded.truth.place[var] for var in ("mover", "backup"))
metric = scoreboard.metric_of(guarded)
swept = mi.patching.ablate(
    guarded.model, guarded.pairs.clean_tokens, mi.patching.Zero(), metric,
    [[mover], [backup], [mover, backup]],
)  # fmt: skip
lost = -swept.effect() / swept.base.mean()
mi.figures.bars(lost, ["the mover", "the backup", "both"], ylabel="share of the answer lost",
                title="Each alone can go, both cannot")  # fmt: skip

# %% short=true
claim("known.backup", lost[0], control=lost[2])

# %% [markdown]
# By zero ablation, alone, neither matters. Noising does find the mover, which then says a *wrong*
# name. So much depends on what is put in place. No score of nodes finds the backup, since it
# writes the same in both runs: nothing. To find it one takes two at once, as in
# [notebook 08](08_ablation_and_pruning.ipynb). Or one looks *between* the runs, as EAP-IG does:
# there the mover speaks with half a voice and the backup stirs, so the edges *into* it have a
# slope. How many of these are among the strongest edges?

# %%
into = {edge for edge in guarded.moving if edge[1].startswith(f"{backup}.")}


def strongest_of(case, method):
    """A method's strongest judged edges, as many as are true."""
    judged, true = scoreboard.judged_edges(case)
    sizes = scoreboard.by_edge(case, methods[method](case)).masked_fill(~judged, 0.0)
    return EdgeScores(graphs[case.name], sizes).top(int(true.sum())).edges()


shares = {name: len(into & {*strongest_of(guarded, name)}) / len(into)
          for name in ("EAP-IG", "each edge alone", "EAP")}  # fmt: skip
print({name: f"{share:.0%}" for name, share in shares.items()})
claim("known.between", shares["EAP-IG"], control=shares["each edge alone"])

# %% [markdown]
# ### Two edges that cancel
#
# The program `silent pair` is `induction` with two more parts: a head says the letter before, and
# an MLP takes just that back. The head is in the program, and its edges carry as much as any. Their
# *sum* is nothing.

# %%
pair = cases["silent pair"]
by_noising, by_each = (methods[name](pair) for name in ("noising", "each edge alone"))
largest = scoreboard.by_node(pair, by_each)


def of_largest(var):
    """What noising a node does, as a share of what its largest edge does."""
    node = pair.truth.place[var]
    return abs(by_noising[node]) / largest[node]


claim("known.silent", of_largest("echo"), control=of_largest("previous"))
found = scoreboard.score(pair, by_noising)["nodes AP"]
print(f"nodes by noising: average precision {found:.2f}")

# %% [markdown]
# The node's effect is less than a hundredth of its edge's. (In the list it can stand above the
# idle nodes all the same, since these do even less; in a real model, whose idle parts do more, it
# may drown.) A search for what is faithful has the same blind spot. ACDC looks for a *small*
# circuit that does the same, and the pair does nothing, so it throws both out. Is it wrong? It
# answers another question: not what the model computes, but what one needs of it.

# %%
pruned = scoreboard.by_edge(pair, methods["ACDC"](pair))
graph = EdgeGraph.of(pair.model)
silent = {pair.truth.place["echo"], pair.truth.place["hushed"]}
kept = {edge: float(pruned[graph.edge(*edge)]) > 0 for edge in pair.moving}
in_pair = [kept[edge] for edge in kept if edge[0] in silent]
others = [kept[edge] for edge in kept if edge[0] not in silent and edge[1][:4] not in silent]
print(f"ACDC keeps {sum(in_pair)} of {len(in_pair)} edges that leave the pair, "
      f"{sum(others)} of {len(others)} of the induction circuit")  # fmt: skip

# %% [markdown] short=true
# ### A slope that is flat
#
# EAP and attribution patching take one gradient at the clean run. In `count` an MLP turns a number
# into a name by steps, and a step has no slope: what lies before it gets no score. Where softmaxes
# are sure of themselves it is much the same. Plant the rule for indirect objects with heads that
# are less or more sure; the model answers alike. Look at how EAP and EAP-IG fare.

# %% short=true
sharpness, softer = [8.0, 16.0, 24.0, 32.0], {"EAP": [], "EAP-IG": []}
for nats in sharpness:
    one = programs.case("indirect object", sharp=nats)
    assert programs.disagreements(one.model, programs.PROGRAMS[one.name][0],
                                  programs.texts(one.name, 200)) == 0  # fmt: skip
    for name, found in softer.items():
        found.append(scoreboard.score(one, methods[name](one))["edges AP"])
mi.figures.lines(
    softer, x=sharpness, xlabel="nats for what a head selects", ylabel="average precision, edges",
    title="The surer the heads, the blinder one gradient",
)  # fmt: skip

# %%
claim("known.sharp", softer["EAP"][0], control=softer["EAP"][-1])
where = {name: i for i, name in enumerate(names)}
claim("known.steps", edges_ap[row_of["EAP"], where["induction"]],
      control=edges_ap[row_of["EAP"], where["count"]])  # fmt: skip

# %% [markdown]
# ### A pattern that is held
#
# The transcoder graph holds patterns as they are. So nothing goes through queries and keys: a head
# that decides where another one looks, and does nothing else, gets zero, and so does all that only
# such a head reads. (Its authors name this among its limits [@ameisen2025tracing].) That these
# edges get zero is how the graph is made, no finding. How much of the truth is that, and do other
# methods find it? Take the true edges of all programs, those into queries and keys and the others
# apart; how many these are is printed below. Which share is among a method's strongest edges?


# %%
def true_edges_found(method, looks):
    """The share of true edges, into queries and keys or not, among the strongest of a method."""
    found = []
    for case in cases.values():
        best = {*strongest_of(case, method)}
        found += [e in best for e in case.moving if (e[1][-2:] in (".q", ".k")) == looks]
    return sum(found) / len(found)


held = [{"method": name, "into queries and keys": true_edges_found(name, True),
         "into values, MLPs, logits": true_edges_found(name, False)}
        for name in ("transcoder graph", "EAP", "EAP-IG")]  # fmt: skip
mi.figures.table(held, title="A graph of held patterns does not see why heads look where they do")

# %%
claim("known.held", held[2]["into queries and keys"], control=held[0]["into queries and keys"])
into_looks = [reader[-2:] in (".q", ".k") for case in cases.values() for _, reader in case.moving]
print(f"{sum(into_looks)} of {len(into_looks)} true edges are into queries and keys")

# %% [markdown]
# Of the other edges the graph misses some, too: those behind such heads, and those behind a step
# without a slope. Read it as a graph of what is said, not of where heads look.
#
# ### A twin that does not ask
#
# In `reverse` a head finds the place of `>`. Choose twins with other letters and `>` *at the same
# place*. Then this head does the same in both runs, and so does the MLP behind it: a contrast of
# the two cannot show them. Below: the share of the true nodes that stand above every idle
# one, and above a hundredth of the largest effect. Compare the two columns, first for noising,
# then for zero ablation.


# %%
narrow = programs.case("reverse", alike=lambda text, twin: text.index(">") == twin.index(">"))


def true_found(case, name):
    """The share of true nodes above every idle one, and above a hundredth of the largest effect."""
    sizes = scoreboard.by_node(case, methods[name](case))
    bar = max(max(sizes[node] for node in {*sizes} - case.truth.nodes), max(sizes.values()) / 100)
    return sum(sizes[node] > bar for node in case.truth.nodes) / len(case.truth.nodes)


shown = [{"method": name, "twins with > elsewhere": true_found(cases["reverse"], name),
          "twins with > there": true_found(narrow, name)}
         for name in ("zero ablation", "noising", "denoising")]  # fmt: skip
mi.figures.table(shown, title="The share of the true nodes that are found")

# %%
claim("known.twins", shown[1]["twins with > elsewhere"], control=shown[1]["twins with > there"])

# %% [markdown]
# What zero ablation puts in place comes from no twin, and it finds all three nodes either way.
# (Its metric still names the twin's answer.) The circuit that a contrast finds is the circuit of
# what the twin changes.
#
# ### Behind the speaker
#
# The sixth is direct attribution's, above: whoever does not speak to the logits is not seen.
#
# ## 6. Does faithfulness predict truth?
#
# On a real model there is no truth to score against. There one asks whether a circuit is
# *faithful* (notebook 07). MIB [@mueller2025mib] keeps growing shares of the edges, the highest
# scores first, and takes two areas under the curve of faithfulness $f$: **CPR**, the area under
# $f$, and **CMD**, the area under $|1 - f|$, which is the distance from the model's behaviour.
# By hand, three circuits: nothing kept, half, all.

# %%
cpr, cmd = cpr_cmd([0.0, 1.2, 1.0], shares=[0.0, 0.5, 1.0])
assert abs(cpr - (0.5 * 0.6 + 0.5 * 1.1)) < 1e-9
assert abs(cmd - (0.5 * 0.6 + 0.5 * 0.1)) < 1e-9

# %% [markdown] tags=["task"] minutes=15 difficulty=2
# ### Exercise 4: two areas
# Write both areas by the trapezoid rule: between two shares, the width times the mean of the two
# heights.

# %% [markdown] tags=["hint"]
# The heights of CMD are $|1 - f|$ *at the shares*: take the size first, then the area.


# %% tags=["exercise"]
def two_areas(faithfulness, shares):
    """faithfulness, shares: [circuit], the shares rising  ->  CPR and CMD, in this order."""
    raise NotImplementedError


# %% tags=["solution"]
def two_areas(faithfulness, shares):
    def area(heights):
        return ((shares[1:] - shares[:-1]) * (heights[1:] + heights[:-1]) / 2).sum()

    return torch.stack([area(faithfulness), area((1 - faithfulness).abs())])


# %% tags=["check"]
check.two_areas(two_areas)

# %% [markdown]
# Now the whole board: each dot is a method on a program. If faithfulness predicted truth, the dots
# would fall from the upper left to the lower right. Look at the dots on the far left: circuits that
# do nearly what the model does. How true are they? And at the one in the upper right, EAP on
# `brackets`: most of what it puts first is true, but an edge without which nothing works comes so
# late that half of all edges do not suffice. The transcoder graph on `silent pair` is of this kind,
# too: it lacks the edges into queries and keys, and the one that stands behind a key.

# %%
distance = of_board("CMD")
of_edges = ("EAP", "EAP-IG", "ACDC", "each edge alone", "transcoder graph")
kinds = {**dict.fromkeys(of_edges, "edges"), "random scores": "random"}
groups = [kinds.get(method, "nodes") for method in methods for _ in names]
mi.figures.scatter(
    distance.flatten(), edges_ap.flatten(), groups=groups,
    labels=[f"{method}: {name}" for method in methods for name in names],
    xlabel="CMD, distance of the circuits from the model", ylabel="average precision, edges",
    title="Faithful lists are truer, with exceptions on both sides",
)  # fmt: skip


# %% [markdown]
# Make it exact, in the form in which one would use it. Two methods disagree about a program; take
# the one whose circuits are nearer to the model. How often is it the one whose list is truer? We
# count pairs of methods on one program whose average precisions differ by a twentieth or more;
# random scores stay out. The control deals the distances out anew among a program's methods.

# %%
from itertools import combinations

judges = [row_of[method] for method in methods if method != "random scores"]


def right_choices(truth, far, most=10.0):
    """How often the smaller distance marks the truer list; how many pairs were asked."""
    right = []
    for column in range(len(names)):
        near = [i for i in judges if far[i, column] < most]
        for one, two in combinations(near, 2):
            gain = truth[one, column] - truth[two, column]
            nearer = far[two, column] - far[one, column]
            if gain.abs() >= 0.05:
                right.append(0.5 if nearer == 0 else float(gain * nearer > 0))
    return sum(right) / len(right), len(right)


# %%
generator = torch.Generator().manual_seed(0)
dealt = []
for _ in range(20):
    shuffled = distance.clone()
    for column in range(len(names)):
        order = torch.randperm(len(judges), generator=generator)
        shuffled[judges, column] = distance[judges, column][order]
    dealt.append(right_choices(edges_ap, shuffled)[0])
claim("known.faithfulness", right_choices(edges_ap, distance)[0], control=sum(dealt) / len(dealt))
for what, found in {"edges": edges_ap, "nodes": nodes_ap}.items():
    for most in (10.0, 0.1):
        share, n_pairs = right_choices(found, distance, most)
        print(f"{what}, both distances below {most:g}: {share:.0%} of {n_pairs} pairs")

# %% [markdown]
# Over lists from bad to good the distance is a good judge, of edges and of nodes. (Most pairs of
# the claim set a method that scores edges against one that scores nodes, and one method is in many
# pairs.) Where both lists are faithful it still tells *edges* apart; of *nodes* it says little more
# than a coin. Those pairs are few, and here all of them are on `silent pair`: what is left to tell
# the lists apart is the two parts
# that cancel, and together these change nothing that faithfulness could see. One can be perfectly
# faithful without a part of the truth. Take the true circuit of the model with a backup, and
# leave the backup out; then leave out the head that inhibits.

# %%
program_edges = guarded.truth.edges | guarded.truth.steady


def without(var):
    """The faithfulness of the true circuit without one of its heads."""
    node = guarded.truth.place[var]
    left = {one for one in program_edges if node not in (one[0], one[1].split(".")[0])}
    circuit = Circuit.of_edges(EdgeGraph.of(guarded.model), left)
    return scoreboard.faithful(guarded, [circuit])[0]


claim("known.faithful", without("backup"), control=without("inhibited"))

# %% [markdown]
# ## 7. The same program, trained
#
# Compiled models are unlike trained ones: their weights are sparse, each variable has directions of
# its own, idle parts do next to nothing, and every step is sharp
# [@lindner2023tracr; @gupta2024interpbench]. Does the board hold for models that gradient descent
# made? For that we need trained models whose circuit is known all the same.
#
# *Interchange-intervention training* makes them [@geiger2021inducing]. Choose a part of the model
# for each variable. In each step take a variable as it is in *another* text: in the program its
# values, in the model the output of its part. Both must then say the same. The strict form swaps
# all other parts at random besides, which must change nothing [@gupta2024interpbench]. Here is the
# program's side: what does `count` say of a text if its `share` comes from another?

# %%
from mi_helpers.toys import interchange

counting = programs.PROGRAMS["count"][0]
share_of = {var.name: var for var in counting.variables}["share"]
text, other = list("abaca"), list("aaaaa")
assert counting.says(text)[-1] == "3"
assert counting.says(text, {share_of: counting.run(other)[share_of]})[-1] == "5"

# %% [markdown]
# Two models of `count` were trained so, a small and a large one, and a small one of `brackets`.
# (What else was tried is not here: in those models a chosen part did not do its work, or a part
# outside the circuit still mattered, as [the card](../data/known_circuits/README.md) says.) Is the
# circuit really in them? Swap one part, in texts in which that must change the answer. The controls
# were trained in the same steps to say the same, with no word about parts.

# %%
recipes = [interchange.Recipe("count", "small", seed=2), interchange.Recipe("count", "large"),
           interchange.Recipe("brackets")]  # fmt: skip
trained = [[interchange.case(recipe, draw) for draw in range(3)] for recipe in recipes]
free = [interchange.Recipe(program, strict=False) for program in ("count", "brackets")]
by_part = {recipe.name: interchange.interchange_accuracy(recipe, interchange.load(recipe), 100)
           for recipe in [*recipes, *free]}  # fmt: skip
mi.figures.table(
    [{"model": name, "its worst part": min(parts.values()), "its best": max(parts.values())}
     for name, parts in by_part.items()],
    title="A swapped part does what the program says, if it was taught to",
)  # fmt: skip

# %%
claim("known.taught", min(min(by_part[recipe.name].values()) for recipe in recipes),
      control=max(max(by_part[recipe.name].values()) for recipe in free))  # fmt: skip

# %% [markdown]
# Now methods on the compiled programs and on the trained ones, judged by the nodes. Among them is
# *edge pruning*, which learns a gate for each edge by gradient descent [@bhaskar2024edgepruning];
# its row is called *learned masks*.
# Of the trained models it is the mean over three draws of prompts. Which rows change from left to
# right, and do they change alike for both programs?

# %%
asked = ["direct attribution", "zero ablation", "noising", "attribution patching", "EAP", "EAP-IG",
         "transcoder graph", "learned masks"]  # fmt: skip


def nodes_found(method, some):
    """Average precision over nodes, mean of some cases."""
    found = [scoreboard.score(case, scoreboard.ALL_METHODS[method](case)) for case in some]
    return sum(one["nodes AP"] for one in found) / len(found)


of_programs = [[cases["count"]], [cases["brackets"]]]
written = {method: [nodes_found(method, some) for some in of_programs] for method in asked}
learned = {method: [nodes_found(method, some) for some in trained] for method in asked}

# %%
mi.figures.table(
    [{"method": method, "compiled count": written[method][0], "small count": learned[method][0],
      "large count": learned[method][1], "compiled brackets": written[method][1],
      "small brackets": learned[method][2]} for method in asked],
    title="Compiled models flatter learned gates",
)  # fmt: skip

# %% [markdown]
# EAP and attribution patching failed on the compiled `count`, whose steps have no slope. In both
# trained models of it one gradient sees the circuit, if not on every draw: so the failure goes with
# the compiled steps, not with the program. On `brackets` EAP misses less where the steps are
# written down, so there is less to win; the last claim below takes five draws of both.
#
# The transcoder graph goes the same way: in all three trained models it has the parts first, in
# the compiled ones it has not. In these two programs no part is heard through queries and keys
# alone, so its blind spot costs nothing here.
#
# With learned gates it is the other way round, and for both programs, in the mean: on some draws
# they find all parts of a trained `count`, too. In a compiled model an idle
# part does next to nothing. In a trained one it does a little, and what two edges of a part do may
# cancel, since the training swaps whole parts; whether that is the reason, we have not shown, nor
# did we try other prices for the gates. That noising does well is no merit here: to swap a whole
# part is just what these models were trained with. And three models of two programs are few.

# %%
claim("known.softened", min(learned["EAP"][:2]), control=written["EAP"][0])
claim("known.graph", min(learned["transcoder graph"]), control=max(written["transcoder graph"]))
claim("known.flattered", min(written["learned masks"]), control=max(learned["learned masks"]))

# %%
draws = {
    "compiled": [programs.case("brackets", draw) for draw in range(5)],
    "trained": [interchange.case(recipes[2], draw) for draw in range(5)],
}
by_draw = {kind: [nodes_found("EAP", [case]) for case in some] for kind, some in draws.items()}
for kind, found in by_draw.items():
    print(f"{kind} brackets, EAP on five draws:", *(f"{one:.2f}" for one in found))
of_kind = {kind: sum(found) / len(found) for kind, found in by_draw.items()}
claim("known.softened_brackets", of_kind["trained"], control=of_kind["compiled"])

# %% [markdown]
# In the mean the trained model is the easier one here, too. But look at the draws: on one of them
# EAP finds less in the trained model than in the compiled one. What a single draw of prompts says
# about two models with so few parts may be the draw's doing.

# %% [markdown] short=true
# ## 8. Score your own
#
# A method is a function of a case: it has a model and prompts, and returns a number for each node,
# by name, or `EdgeScores`. Here is one in five lines: noising a node, and taking of all prompts the
# *largest* effect in place of the mean. Change it, and run the cell. In the table compare nodes and
# edges: it scores nodes, so which of the two should stay low?


# %% short=true
from mi_helpers.patching import OtherRun, ablate


def largest_effect(case):
    """Noising each node; of all prompts the largest effect."""
    nodes, twins = scoreboard.nodes_of(case), OtherRun(case.pairs.corrupt_tokens)
    metric, sets = scoreboard.metric_of(case), [[node] for node in nodes]
    swept = ablate(case.model, case.pairs.clean_tokens, twins, metric, sets)
    sizes = (swept.values - swept.base).abs().amax(1)
    return dict(zip(nodes, sizes.tolist(), strict=True))


mine = scoreboard.board({"largest effect": largest_effect}, cases.values())
keys = ("nodes AP", "edges AP", "CMD", "seconds")
mi.figures.table([{"program": row["program"]} | {key: row[key] for key in keys} for row in mine],
                 title="A method of your own")  # fmt: skip

# %% [markdown]
# Which edges does a method find? Below are its strongest, as many as there are true ones. Blue is
# true, red is not.


# %%
offered = ["count", "backup", "silent pair"]


def strongest(program, method):
    """The strongest edges of a method, as many as are true."""
    case = cases[program]
    best = strongest_of(case, method)
    right = len({*best} & case.moving)
    return drawn(case, best, f"{method} on {program}: {right} of {len(best)} are true")


mi.figures.explore(
    strongest, program=offered, ahead=True,
    method=["EAP", "EAP-IG", "transcoder graph", "noising", "random scores"],
)  # fmt: skip

# %% [markdown] short=true
# ## Summary
#
# - A program can be written down as weights, so that a model's circuit is known.
# - EAP-IG and noising each edge alone put nearly all true edges of these models first (EAP-IG does
#   worst on `count`, the other on `backup` and `sort by frequency`); scores of nodes cannot tell
#   the edges of a node apart; direct attribution sees only what speaks to the logits.
# - Parts hide behind a backup, behind an opposite, behind a flat slope, behind a pattern that is
#   held, behind a twin that does not ask, and behind the one who speaks. Each method falls for some
#   of these. No score of nodes finds the backup; EAP-IG finds the edges into it. A graph with held
#   patterns says nothing, by its making, of why heads look where they do.
# - Compiled models judge otherwise than trained ones: on trained models of two programs learned
#   gates do worse; the transcoder graph does better; so does EAP, much on `count`, a little and not
#   on every prompt on `brackets`.
# - Of two lists of edges the more faithful one is mostly the truer. But a faithful list may lack
#   nodes that rest or cancel, and faithfulness cannot say so.
#
# **What we have not shown.** That the order of the methods holds for language models. Our trained
# models are small, and were *told* where to put their variables; nobody tells a language model. MIB
# scores methods on language models too [@mueller2025mib].
#
# The whole board, with all methods on compiled and trained models and with intervals, is in
# [docs/scoreboard.md](../docs/scoreboard.md).
#
# ## Where to read on
#
# - The language: [@weiss2021rasp]. Compiling it: [@lindner2023tracr].
# - Trained models with known circuits: [@gupta2024interpbench]. A benchmark with both:
#   [@mueller2025mib].
# - The methods: [@conmy2023acdc], [@syed2023attribution], [@hanna2024faith].

# %% [markdown]
# ## Appendix: what it costs
#
# Cost in runs of the model (a backward pass counts as one; for ACDC at most so many), and in
# seconds on this machine. These models are tiny: on a large one the runs decide.

# %%
seconds = of_board("seconds").mean(1)
mi.figures.table(
    [{"method": method, "runs": scoreboard.passes(cases["induction"], method),
      "seconds": seconds[i].item(), "nodes AP": nodes_ap[i].mean().item(),
      "edges AP": edges_ap[i].mean().item(), "CMD": distance[i].mean().item()}
     for i, method in enumerate(methods)],
    title="Cost and quality, mean over programs; runs on induction",
)  # fmt: skip

# %% [markdown]
# ## Appendix: where the truth is half known
#
# Nobody knows the circuit of the loaded model. But heads can be found by hand, as in
# [notebook 04](04_logit_difference.ipynb): by *where they look* and *what they do to the names they
# see*. That rule reads patterns and weights. It changes nothing in the model, asks for no metric,
# so no method that measures effects is favoured by it. (Direct attribution is, a little: it reads
# what a head writes.) Here is the list, for indirect objects, on prompts of its own. Which classes
# are empty?

# %%
from mi_helpers.circuits import by_hand

apart = mi.prompts.ioi(model, mi.models.by_size(model, 24, 12), 100, corruption="random")
classes = by_hand.by_looks(model, apart)
mi.figures.table(
    [{"class": name, "heads": ", ".join(map(str, members)) or "none"}
     for name, members in classes.items()],
    title="Heads found by looking",
)  # fmt: skip

# %% [markdown]
# Now the methods, on other prompts. (Those that take a run for each edge or gate are left out.) The
# control is the same number of heads of the same layers, drawn anew: what is a method's score for
# finding the right layers alone?

# %%
pairs = mi.prompts.ioi(
    model, mi.models.by_size(model, 12, 4), corruption="random", same_wording=True
)
spoken = scoreboard.asked_of("indirect objects", model, pairs)
by_looks = [head for members in classes.values() for head in members]
others = [by_hand.shuffled(EdgeGraph.of(model), by_looks, seed) for seed in range(20)]
cheap = ["random scores", "direct attribution", "attribution patching", "EAP", "EAP-IG"]
cheap += mi.models.by_size(model, ["zero ablation", "mean ablation", "noising"], [])
rows = []
for method in cheap:
    scores = methods[method](spoken)
    on_list = scoreboard.score_heads(spoken, scores, by_looks)
    chance = [scoreboard.score_heads(spoken, scores, one)["AP"] for one in others]
    rows.append({"method": method, **on_list, "AP, shuffled list": sum(chance) / len(chance)})

# %%
of_method = {row["method"]: row for row in rows}
claim("known.by_looks", of_method["EAP"]["AP"], control=of_method["EAP"]["AP, shuffled list"])
mi.figures.table(rows, title="Average precision over heads, against a list made by looking")

# %% [markdown]
# Looking and EAP share neither measure nor prompts, and agree on heads beyond what the layers give:
# on pocket nearly in full, on SmolLM2 in part. (Some other methods agree less, and patching paths
# finds only the two suppressors of pocket's list.) That is no proof of either: a head can
# look at names and write them without any effect on
# *this* answer, and one that matters may look elsewhere. [The board](../docs/scoreboard.md) has a
# second list, made by patching paths, and all methods with intervals.

# %%
claim.table()
