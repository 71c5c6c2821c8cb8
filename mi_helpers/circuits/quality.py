"""How well a circuit stands for the model, and whether it is whole and has nothing to spare.

With F(X) the metric when only X is left and the rest is ablated, M the model and C the circuit,
Wang et al. 2022 (IOI, section 4) ask for
  faithfulness: |F(M) - F(C)| is small;
  completeness: for every K in C, |F(C without K) - F(M without K)| is small;
  minimality: each v in C has a K in C with |F(C without K and v) - F(C without K)| large.
The normalised faithfulness (F(C) - F(nothing)) / (F(M) - F(nothing)) is 0 for the ablated model and
1 for the whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.circuits.graph import Circuit, EdgeGraph, NodeName
from mi_helpers.circuits.positions import PositionCircuit
from mi_helpers.circuits.runner import edge_runner
from mi_helpers.engine import Inputs, What, prepare
from mi_helpers.metrics import Metric, recovery
from mi_helpers.patching.ablation import ablate

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Faithfulness:
    """The metric of circuits, of the whole model and of the model with everything ablated.

    Attributes:
        circuit: F(C) of each circuit, [circuit batch], in the metric's unit.
        full: F(M), [batch].
        empty: F(nothing), [batch].
        n_edges: The size of each circuit.
    """

    circuit: Float[Tensor, "circuit batch"]
    full: Float[Tensor, "batch"]
    empty: Float[Tensor, "batch"]
    n_edges: tuple[int, ...]

    def difference(self) -> Float[Tensor, "circuit"]:
        """|F(M) - F(C)| of the means, in the metric's unit: the IOI paper's faithfulness."""
        return (self.full.mean() - self.circuit.mean(dim=1)).abs()

    def normalised(self) -> Float[Tensor, "circuit"]:
        """(F(C) - F(nothing)) / (F(M) - F(nothing)) of the means: 0 ablated, 1 the whole model.

        Raises:
            ValueError: ablating everything leaves the metric where it was.
        """
        return recovery(self.circuit.mean(dim=1), self.full.mean(), self.empty.mean())


def faithfulness(
    model: TransformerBridge,
    base: Inputs,
    circuits: Circuit | PositionCircuit | Sequence[Circuit | PositionCircuit],
    what: What,
    metric: Metric,
) -> Faithfulness:
    """Run circuits with every edge outside them ablated by `what`.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts.
        circuits: One or several, of this model's graph. `Circuit.of_nodes` makes one of heads; a
            `PositionCircuit` keeps its edges at some positions only.
        what: `Zero()`, `Mean(reference)`, `Resample(reference)`, or `OtherRun(corrupt)`.
        metric: Logits to one number an example.

    Raises:
        ValueError: a circuit of another graph or for prompts of another length, another
            architecture, or what `patch_sweep` refuses.
    """
    graph = EdgeGraph.of(model)
    chosen = [circuits] if isinstance(circuits, Circuit | PositionCircuit) else list(circuits)
    for circuit in chosen:
        if circuit.graph != graph:
            raise ValueError(f"the circuit is of {circuit.graph}, the model's graph is {graph}")
    setup = prepare(model, base, metric, what)
    kept = _stacked(graph, chosen, setup.base.tokens.shape[1])
    with torch.no_grad():
        runner = edge_runner(setup)
        values = runner.final(kept, partial(setup.judge, metric=metric))
    sizes = tuple(circuit.n_edges for circuit in chosen)
    return Faithfulness(values[1:], setup.values["metric"], values[0], sizes)


def _stacked(
    graph: EdgeGraph, chosen: Sequence[Circuit | PositionCircuit], n_pos: int
) -> Bool[Tensor, "circuit *pos reader writer"]:
    """The empty circuit and the chosen ones; by position as soon as one of them is."""
    kept = [torch.zeros_like(graph.valid), *(circuit.kept for circuit in chosen)]
    if all(one.ndim == 2 for one in kept):
        return torch.stack(kept)
    for one in kept:
        if one.ndim == 3 and len(one) != n_pos:
            raise ValueError(f"a circuit is of {len(one)} positions, the prompts have {n_pos}")
    return torch.stack([one.expand(n_pos, *graph.valid.shape) for one in kept])


@dataclass(frozen=True)
class WithAndWithout:
    """Pairs of metrics to compare, averaged over examples, by what distinguishes them."""

    first: dict[str, float]
    second: dict[str, float]

    def differences(self) -> dict[str, float]:
        """|first - second|, in the metric's unit."""
        return {name: abs(self.first[name] - self.second[name]) for name in self.first}


def completeness(
    model: TransformerBridge,
    base: Inputs,
    nodes: Sequence[NodeName],
    what: What,
    metric: Metric,
    *,
    subsets: Mapping[str, Iterable[NodeName]],
    universe: Sequence[NodeName] | None = None,
) -> WithAndWithout:
    """F(C without K), `first`, and F(M without K), `second`, for named subsets K of a circuit.

    Args:
        nodes: The circuit C: heads, as `Head(9, 9)` or "L9H9", and MLPs, "MLP0".
        what: What takes the place of ablated nodes.
        subsets: The sets K, by name.
        universe: The nodes of M; every head by default, as in the IOI paper, where MLPs stay.

    Raises:
        ValueError: a K that is not in C, a C that is not in M, or what `ablate` refuses.
    """
    circuit, outside = _inside_and_outside(model, nodes, universe)
    gone = {name: _names(subset) for name, subset in subsets.items()}
    for name, subset in gone.items():
        if extra := subset - circuit:
            raise ValueError(f"subset {name!r} has {sorted(extra)}, which are not in the circuit")
    sets = [outside | subset for subset in gone.values()] + list(gone.values())
    means = _means(model, base, what, metric, sets)
    return WithAndWithout(*(dict(zip(gone, half, strict=True)) for half in _halves(means)))


def minimality(
    model: TransformerBridge,
    base: Inputs,
    nodes: Sequence[NodeName],
    what: What,
    metric: Metric,
    *,
    without: Mapping[str, Iterable[NodeName]] | None = None,
    universe: Sequence[NodeName] | None = None,
) -> WithAndWithout:
    """F(C without K and v), `first`, and F(C without K), `second`, for each node v of a circuit.

    Args:
        nodes: The circuit C.
        without: The K of each v; nothing by default. The IOI paper takes the other heads of a
            head's class, since a backup would stand in for v alone.
        universe: The nodes of M; every head by default.

    Raises:
        ValueError: as `completeness`.
    """
    circuit, outside = _inside_and_outside(model, nodes, universe)
    ks = {str(node): _names(subset) for node, subset in (without or {}).items()}
    gone = {node: ks.get(node, set()) - {node} for node in map(str, nodes)}
    for node, subset in gone.items():
        if extra := subset - circuit:
            raise ValueError(f"the K of {node} has {sorted(extra)}, which are not in the circuit")
    sets = [outside | k | {v} for v, k in gone.items()] + [outside | k for k in gone.values()]
    means = _means(model, base, what, metric, sets)
    return WithAndWithout(*(dict(zip(gone, half, strict=True)) for half in _halves(means)))


def _names(nodes: Iterable[NodeName]) -> set[str]:
    return {str(node) for node in nodes}


def _inside_and_outside(
    model: TransformerBridge, nodes: Sequence[NodeName], universe: Sequence[NodeName] | None
) -> tuple[set[str], set[str]]:
    """The names of the circuit's nodes, and of the model's others."""
    cfg = model.cfg
    heads = EdgeGraph(cfg.n_layers, cfg.n_heads).heads
    circuit, all_nodes = _names(nodes), _names(heads if universe is None else universe)
    if extra := circuit - all_nodes:
        raise ValueError(f"{sorted(extra)} are in the circuit but not among the model's nodes")
    return circuit, all_nodes - circuit


def _means(
    model: TransformerBridge,
    base: Inputs,
    what: What,
    metric: Metric,
    sets: Sequence[set[str]],
) -> list[float]:
    swept = ablate(model, base, what, metric, [sorted(s) for s in sets])
    return swept.mean().tolist()


def _halves(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    middle = len(values) // 2
    return values[:middle], values[middle:]
