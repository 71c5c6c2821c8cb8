"""Find the circuit of a behaviour on the edge graph: the strongest edges, or greedy pruning.

Sources: Conmy et al. 2023, "Towards automated circuit discovery" (ACDC); Hanna et al. 2024, "Have
faith in faithfulness" (the top edges by EAP-IG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers import metrics
from mi_helpers.patching.acdc import prune
from mi_helpers.patching.edge_runs import EdgeRunner, writer_outputs
from mi_helpers.patching.edge_scores import EdgeScores, edge_attribution
from mi_helpers.patching.edges import Circuit, EdgeGraph
from mi_helpers.patching.engine import MEMORY, Setup, prepare
from mi_helpers.patching.gradients import At, Integrated
from mi_helpers.patching.inputs import Inputs, checked_inputs
from mi_helpers.patching.metric import Metric
from mi_helpers.patching.what import OtherRun, What

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Distance = Callable[[Float[Tensor, "batch pos d_vocab"]], Metric]
"""From the whole model's logits to a metric of how far a circuit is from it; smaller is nearer."""


def kl_distance(logits: Float[Tensor, "batch pos d_vocab"]) -> Metric:
    """KL(model || circuit) at the last position, in nats: ACDC's own choice."""
    return partial(metrics.kl, reference=logits)


def drop_of(metric: Metric) -> Distance:
    """How much of a metric a circuit loses: metric(model) - metric(circuit), in its unit."""

    def distance(logits: Tensor) -> Metric:
        full = metric(logits)
        return lambda circuit_logits: full - metric(circuit_logits)

    return distance


@dataclass(frozen=True)
class TopEdges:
    """Keep the `n` edges with the largest score, then drop those on no path to the logits."""

    n: int
    path: At | Integrated = field(default_factory=Integrated)

    def find(self, problem: Problem) -> Circuit:
        """Score all edges and keep the top ones."""
        return problem.scores(self.path).top(self.n).pruned()


@dataclass(frozen=True)
class Acdc:
    """Greedy pruning with a threshold on how much farther from the model each loss takes it.

    At GPT-2 small's size on a CPU, trying all 32,491 edges takes hours; so the search starts from
    the `first` edges with the largest EAP-IG score. None starts from all edges, as the paper does.
    """

    threshold: float
    distance: Distance = kl_distance
    first: int | None = 4000
    path: At | Integrated = field(default_factory=Integrated)

    def find(self, problem: Problem) -> Circuit:
        """Prune from the logits back."""
        setup, start = problem.setup, problem.graph.valid
        label = f"pruning {int(start.sum())} edges"
        if self.first is not None and self.first < int(start.sum()):
            label = f"pruning the first {self.first} of {int(start.sum())} edges by EAP-IG"
            start = problem.scores(self.path).top(self.first).pruned().kept
        runner = edge_runner(setup, problem.what, problem.memory)
        distance = self.distance(setup.engine.logits(setup.base.final[:, runner.reads]))
        return prune(
            runner,
            start,
            lambda resid: setup.judge(resid, distance),
            self.threshold,
            checkpoint=problem.checkpoint,
            label=label if problem.progress else None,
        )


class SearchStrategy(Protocol):
    """How a circuit is found."""

    def find(self, problem: Problem) -> Circuit:
        """The circuit."""
        ...


@dataclass(frozen=True)
class Problem:
    """What a search works on: the checked base run, the run that ablates, and where it is kept."""

    model: TransformerBridge
    base: Inputs
    setup: Setup
    graph: EdgeGraph
    what: OtherRun
    checkpoint: Path | None
    memory: int
    progress: bool

    def scores(self, path: At | Integrated) -> EdgeScores:
        """Edge scores of the first metric."""
        metric = self.setup.metrics["metric"]
        return edge_attribution(self.model, self.base, self.what, metric, path=path)


def discover_circuit(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    search: SearchStrategy,
    *,
    checkpoint: str | Path | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> Circuit:
    """Find the edges that a behaviour needs; those outside the circuit read the other run.

    Args:
        model: The bridge, of GPT-2's architecture.
        base: The clean prompts, which show the behaviour.
        what: The run that ablated edges read, e.g. `OtherRun(corrupt_tokens)`.
        metric: The behaviour: logits to one number an example; edges are scored by its gradient.
        search: `TopEdges(n)` or `Acdc(threshold)`.
        checkpoint: Where a greedy search keeps its state, to be interrupted and resumed.

    Raises:
        ValueError: another architecture, a checkpoint of another search, or what `patch_sweep`
            refuses.
    """
    graph = EdgeGraph.of(model)
    setup = prepare(model, checked_inputs(model, base, what), metric)
    path = None if checkpoint is None else Path(checkpoint)
    with torch.no_grad():
        return search.find(Problem(model, base, setup, graph, what, path, memory, progress))


def edge_runner(setup: Setup, what: What, memory: int = MEMORY) -> EdgeRunner:
    """A runner of circuits on the base run's prompts, whose ablated edges read `what`.

    Raises:
        RuntimeError: keeping every edge does not give the model back.
    """
    gpt2 = setup.gpt2
    graph = EdgeGraph(gpt2.n_layers, gpt2.n_heads)
    ablated = writer_outputs(graph, gpt2, what.values(setup.base, setup.run))
    runner = EdgeRunner(graph, gpt2, setup.base, ablated, setup.reads, memory)
    for name, metric in setup.metrics.items():
        whole = runner.final(graph.valid[None], partial(setup.judge, metric=metric))
        worst = float((whole[0] - setup.values[name]).abs().max())
        if worst > 10 * setup.tolerance:
            raise RuntimeError(f"with every edge kept, {name!r} is {worst:.2g} off the model")
    return runner
