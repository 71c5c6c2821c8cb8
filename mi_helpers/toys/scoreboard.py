"""Methods that look for circuits, held to circuits that are known.

A method takes a `Case` and gives a number for each node, or for each edge, whose size says how much
it matters. `score` compares the size with the truth. Score one of your own:

    def my_method(case):
        \"\"\"A number for each head and MLP, by name, or EdgeScores.\"\"\"

    board({"mine": my_method}, cases)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers import lens, patching, sae
from mi_helpers.circuits import Circuit, EdgeGraph, EdgeScores, acdc, edge_attribution, faithfulness
from mi_helpers.circuits.masks import edge_masks
from mi_helpers.circuits.truth import SHARES, auroc, average_precision, cpr_cmd
from mi_helpers.engine import What
from mi_helpers.metrics import LogitDiff, Metric
from mi_helpers.patching import At, Integrated, Mean, OtherRun, Resample, Zero
from mi_helpers.prompts import PromptPairs
from mi_helpers.sites import Head
from mi_helpers.toys.compiled import Truth
from mi_helpers.toys.programs import Case

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Scores = Mapping[str, float] | EdgeScores
Method = Callable[[Case], Scores]
THRESHOLDS = (0.3, 0.1, 0.03, 0.01, 0.003)
"""ACDC's, as shares of what a right answer is ahead by."""
STEPS = 5
"""Of EAP-IG, on the way from one run to the other; each is a run and a backward pass."""
GATED_STEPS = 60
"""Of learning masks; each is a run and a backward pass."""


def metric_of(case: Case) -> LogitDiff:
    """Logit of the program's answer minus that of its answer to the twin."""
    return LogitDiff(case.pairs.answer_tokens)


def nodes_of(case: Case) -> list[str]:
    """All heads and MLPs."""
    return EdgeGraph.of(case.model).writers[1:]


def randomly(case: Case) -> Scores:
    """The control: a random number for each edge, other ones for other prompts."""
    graph, prompts = EdgeGraph.of(case.model), case.pairs.clean_tokens.flatten().tolist()
    generator = torch.Generator().manual_seed(sum(i * t for i, t in enumerate(prompts)))
    return EdgeScores(graph, torch.rand(graph.valid.shape, generator=generator))


def direct_attribution(case: Case) -> Scores:
    """What each node writes towards the answer (notebook 04)."""
    found = lens.logit_attribution(case.model, case.pairs.clean_tokens, case.pairs.answer_tokens)
    parts = torch.cat([found.heads, found.mlps[..., None]], dim=-1).mean(0)
    return dict(zip(nodes_of(case), parts.flatten().tolist(), strict=True))


def ablating(case: Case, what: Callable[[Tensor], What]) -> Scores:
    """What each node's ablation does to the clean run (notebook 08); `what` is given the twins."""
    names, corrupt = nodes_of(case), case.pairs.corrupt_tokens
    swept = patching.ablate(
        case.model, case.pairs.clean_tokens, what(corrupt), metric_of(case), [[n] for n in names]
    )
    return dict(zip(names, swept.effect().tolist(), strict=True))


def denoising(case: Case) -> Scores:
    """What each node's clean output does in the corrupt run (notebook 05)."""
    names, clean = nodes_of(case), OtherRun(case.pairs.clean_tokens)
    swept = patching.ablate(
        case.model, case.pairs.corrupt_tokens, clean, metric_of(case), [[name] for name in names]
    )
    return dict(zip(names, swept.effect().tolist(), strict=True))


def attribution_patching(case: Case) -> Scores:
    """The estimate of noising by one gradient (notebook 06)."""
    found = patching.attribution(*_noised(case), metric_of(case), sites=("z", "mlp_out"), path=At())
    heads, mlps = found["z"].effect("layer", "head"), found["mlp_out"].effect("layer")
    both = torch.cat([heads, mlps[:, None]], dim=1)
    return dict(zip(nodes_of(case), both.flatten().tolist(), strict=True))


def by_gradients(case: Case, path: patching.gradients.Path) -> Scores:
    """EAP, with `At()`, and EAP-IG, with `Integrated(n)` (notebook 07)."""
    return edge_attribution(*_noised(case), metric_of(case), path=path)


def transcoder_graph(case: Case, transcoders: Sequence[sae.Sae] | None = None) -> Scores:
    """Attribution in the prompts' runs held still (notebook 17); no twin is asked.

    Without `transcoders` the MLPs' own neurons are the units, which must be ReLUs.
    """
    units = sae.own_neurons(case.model) if transcoders is None else transcoders
    pairs = case.pairs
    return sae.graph_attribution(case.model, units, pairs.clean_tokens, pairs.answer_tokens)


def each_edge(case: Case) -> Scores:
    """What noising each edge alone does: what EAP estimates."""
    graph = EdgeGraph.of(case.model)
    places = graph.valid.nonzero()
    kept = graph.valid.repeat(len(places), 1, 1)
    kept[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    run = faithfulness(
        case.model,
        case.pairs.clean_tokens,
        [Circuit(graph, one) for one in kept],
        OtherRun(case.pairs.corrupt_tokens),
        metric_of(case),
    )
    values = torch.zeros(graph.valid.shape)
    values[places[:, 0], places[:, 1]] = run.circuit.mean(1) - run.full.mean()
    return EdgeScores(graph, values)


def pruning(case: Case, thresholds: Sequence[float] = THRESHOLDS) -> Scores:
    """ACDC: the largest threshold at which an edge is kept (notebook 07)."""
    graph, metric = EdgeGraph.of(case.model), metric_of(case)
    values = torch.zeros(graph.valid.shape)
    with torch.no_grad():
        ahead = float(metric(case.model(case.pairs.clean_tokens)).mean().abs())
    for threshold in sorted(thresholds):
        found = acdc(
            *_noised(case), metric, threshold * ahead,
            distance=partial(_moved, metric), first=None,
        )  # fmt: skip
        values[found.pruned().kept] = threshold
    return EdgeScores(graph, values)


def masked(case: Case) -> Scores:
    """Learned edge masks: the chance of each edge's gate to be open."""
    return edge_masks(*_noised(case), metric_of(case), steps=GATED_STEPS)


METHODS: Mapping[str, Method] = {
    "random scores": randomly,
    "direct attribution": direct_attribution,
    "zero ablation": partial(ablating, what=lambda _: Zero()),
    "mean ablation": partial(ablating, what=Mean),
    "resample ablation": partial(ablating, what=Resample),
    "noising": partial(ablating, what=OtherRun),
    "denoising": denoising,
    "attribution patching": attribution_patching,
    "each edge alone": each_edge,
    "EAP": partial(by_gradients, path=At()),
    "EAP-IG": partial(by_gradients, path=Integrated(STEPS)),
    "ACDC": pruning,
    "transcoder graph": transcoder_graph,
}
"""The methods of notebooks 04 to 08 and of 17, and random scores as a control."""

ALL_METHODS: Mapping[str, Method] = {**METHODS, "learned masks": masked}
"""These, and one that no other notebook has."""


def passes(case: Case, method: str) -> int:
    """How many runs of the model a method of `ALL_METHODS` takes; a backward pass counts as one.

    For ACDC at most so many: edges of a node that nobody reads any more are not tried.
    """
    graph, n = EdgeGraph.of(case.model), len(nodes_of(case))
    n_edges = int(graph.valid.sum())
    known = {"random scores": 0, "direct attribution": 1, "zero ablation": 1 + n}
    known |= dict.fromkeys(("mean ablation", "resample ablation", "noising", "denoising"), 2 + n)
    known |= dict.fromkeys(("attribution patching", "EAP"), 2 + 2)
    known |= {"transcoder graph": 2 + 1}
    known |= {"EAP-IG": 2 + 2 * STEPS, "each edge alone": 2 + n_edges}
    known |= {"ACDC": 1 + len(THRESHOLDS) * (2 + n_edges), "learned masks": 2 + 2 * GATED_STEPS}
    return known[method]


def _noised(case: Case) -> tuple[object, Tensor, OtherRun]:
    return case.model, case.pairs.clean_tokens, OtherRun(case.pairs.corrupt_tokens)


def _moved(metric: Metric, logits: Tensor) -> Metric:
    """How far a circuit's metric is from the model's."""
    whole = metric(logits)
    return lambda of_circuit: (whole - metric(of_circuit)).abs()


def by_edge(case: Case, scores: Scores) -> Float[Tensor, "reader writer"]:
    """The size of each edge's score. From scores of nodes: the smaller of its two ends."""
    graph = EdgeGraph.of(case.model)
    if isinstance(scores, EdgeScores):
        return scores.values.abs()
    sizes = torch.tensor([abs(scores.get(name, 0.0)) for name in graph.writers])
    sizes[0] = sizes.max()  # the embeddings and the logits are in every circuit
    reads = torch.where(graph.feeds, sizes, 0.0).amax(1)
    reads[-1] = sizes.max()
    return torch.minimum(reads[:, None], sizes) * graph.valid


def by_node(case: Case, scores: Scores) -> dict[str, float]:
    """The size of each node's score. From scores of edges: the largest that leaves it."""
    if isinstance(scores, EdgeScores):
        strongest = scores.values.abs().amax(0).tolist()
        return dict(zip(scores.graph.writers[1:], strongest[1:], strict=True))
    return {name: abs(scores.get(name, 0.0)) for name in nodes_of(case)}


def judged_edges(case: Case) -> tuple[Bool[Tensor, "reader writer"], Bool[Tensor, "reader writer"]]:
    """Which edges are judged, and which of them are true.

    Edges of the program that carry the same for every prompt and its twin are not judged: no
    contrast between the two can show them, and they are not wrong either.
    """
    graph = EdgeGraph.of(case.model)
    silent = (case.truth.edges | case.truth.steady) - case.moving
    judged = graph.valid & ~Circuit.of_edges(graph, silent).kept
    return judged, Circuit.of_edges(graph, case.moving).kept


def score(case: Case, scores: Scores) -> dict[str, float]:
    """AUROC and average precision of scores, over nodes and over edges."""
    size = by_node(case, scores)
    of_nodes = torch.tensor(list(size.values()))
    true_nodes = torch.tensor([name in case.truth.nodes for name in size])
    of_edges, true_edges = edge_items(case, by_edge(case, scores))
    return {
        "nodes AUROC": auroc(of_nodes, true_nodes),
        "nodes AP": average_precision(of_nodes, true_nodes),
        "edges AUROC": auroc(of_edges, true_edges),
        "edges AP": average_precision(of_edges, true_edges),
    }


def asked_of(name: str, model: TransformerBridge, pairs: PromptPairs) -> Case:
    """A language model's prompts as a case that methods run on; its circuit is not known."""
    return Case(name, model, pairs, Truth({}, ()), set())


def score_heads(case: Case, scores: Scores, listed: Iterable[Head]) -> dict[str, float]:
    """AUROC and average precision over heads, where those of a list count as true."""
    names, sizes = {str(head) for head in listed}, by_node(case, scores)
    heads = [name for name in sizes if not name.startswith("MLP")]
    of_heads = torch.tensor([sizes[name] for name in heads])
    true = torch.tensor([name in names for name in heads])
    return {"AUROC": auroc(of_heads, true), "AP": average_precision(of_heads, true)}


def edge_items(
    case: Case, sizes: Float[Tensor, "reader writer"]
) -> tuple[Float[Tensor, "item"], Bool[Tensor, "item"]]:
    """The sizes of the edges that are judged, and which are true.

    Where the truth is about parts alone (`Case.of_parts`), an item is a pair of a writer and a
    part, with the largest size of the part's inputs; pairs of two of the program's parts that the
    program does not connect are not judged, since training does not forbid them.
    """
    judged, true = judged_edges(case)
    if not case.of_parts:
        return sizes[judged], true[judged]
    graph, inside = EdgeGraph.of(case.model), case.truth.nodes | {"embed"}
    ends = torch.cat([graph.feeds.T, torch.zeros(1, len(graph.readers), dtype=torch.bool)])
    ends[-1, -1] = True  # the logits
    largest = torch.where(ends[..., None], sizes, -1.0).amax(1)

    def to_part(edges: Tensor) -> Bool[Tensor, "part writer"]:
        return (ends.float() @ edges.float()) > 0

    ours = torch.tensor([name in inside for name in graph.writers])
    between = torch.cat([ours, torch.tensor([True])])[:, None] & ours
    asked = to_part(graph.valid) & ~(between & ~to_part(true))
    return largest[asked], to_part(true)[asked]


def faithful(case: Case, kept: Sequence[Circuit]) -> Float[Tensor, "circuit"]:
    """The normalised faithfulness of circuits; what is outside reads the twin's run."""
    return faithfulness(
        case.model,
        case.pairs.clean_tokens,
        kept,
        OtherRun(case.pairs.corrupt_tokens),
        metric_of(case),
    ).normalised()


def areas(case: Case, scores: Scores) -> dict[str, float]:
    """MIB's CPR and CMD of the circuits that scores give."""
    graph = EdgeGraph.of(case.model)
    ranked = EdgeScores(graph, by_edge(case, scores))
    n_edges = int(graph.valid.sum())
    kept = [ranked.top(int(share * n_edges)).pruned() for share in SHARES]
    cpr, cmd = cpr_cmd(faithful(case, kept).tolist())
    return {"CPR": cpr, "CMD": cmd}


def board(methods: Mapping[str, Method], cases: Iterable[Case]) -> list[dict[str, object]]:
    """A row for each method on each case: its scores, its areas and its processor seconds."""
    rows = []
    for case in cases:
        for name, method in methods.items():
            began = time.process_time()
            scores = method(case)
            row = {"program": case.name, "method": name, "seconds": time.process_time() - began}
            rows.append(row | score(case, scores) | areas(case, scores))
    return rows


def interval(
    values: Float[Tensor, "program draw"], *, share: float = 0.9, n: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval of the mean: programs are drawn, and of each its draws."""
    generator = torch.Generator().manual_seed(seed)
    n_programs, n_draws = values.shape
    programs = torch.randint(n_programs, (n, n_programs, 1), generator=generator)
    draws = torch.randint(n_draws, (n, n_programs, n_draws), generator=generator)
    means = values.double()[programs, draws].mean((1, 2))
    low, high = means.quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2]).double())
    return float(low), float(high)
