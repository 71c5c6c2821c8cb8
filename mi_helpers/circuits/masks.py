"""Learned edge masks: every edge gets a gate, and gradient descent closes those that can be spared.

In each step each edge's gate is drawn, between 0 (it reads the other run) and 1 (it is live), from
a distribution that is often exactly 0 or 1 and has a slope in its parameter. The loss is how far
the metric is from the model's, and a price for each gate that is likely open.

Sources: Bhaskar et al. 2024, "Finding transformer circuits with edge pruning" (gates on edges);
Cao et al. 2021, "Low-complexity probing via finding subnetworks" (the loss with a price);
Louizos et al. 2018, "Learning sparse neural networks through L0 regularization" (the gates).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.circuits.graph import EdgeGraph
from mi_helpers.circuits.runner import edge_runner
from mi_helpers.circuits.scores import EdgeScores
from mi_helpers.engine import Inputs, prepare
from mi_helpers.metrics import Metric
from mi_helpers.patching.values import OtherRun, require_other_run

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_HEAT, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Louizos et al.'s: how soft a gate is, and how far it is stretched before it is cut to [0, 1]."""


def edge_masks(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    *,
    steps: int = 60,
    price: float = 1.0,
    lr: float = 0.3,
    seed: int = 0,
) -> EdgeScores:
    """Learn which edges can be spared.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts.
        what: The run that a closed edge reads.
        metric: Logits to one number an example; differentiable.
        steps: Of Adam; each is a run of the model and a backward pass.
        price: Of all edges together, where losing all that the metric tells of the other run costs
            one.
        lr: Adam's rate.
        seed: Of the gates that are drawn.

    Returns:
        The chance of each gate to be open, from 0 to 1.

    Raises:
        ValueError: as `edge_attribution`.
    """
    setup = prepare(model, base, metric, require_other_run(what))
    graph, generator = EdgeGraph.of(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        runner = edge_runner(setup)
    whole, other = setup.values["metric"], setup.targets["metric"]
    gap, n_edges = (whole - other).abs().mean(), graph.valid.sum()
    openness = torch.full(graph.valid.shape, 2.0, requires_grad=True)
    adam = torch.optim.Adam([openness], lr=lr, betas=(0.9, 0.95))
    with torch.enable_grad():
        for _ in range(steps):
            kept = _gates(openness, generator) * graph.valid
            got = runner.final(kept[None].to(runner.ablated), lambda end: setup.judge(end, metric))
            if not got.requires_grad:
                raise ValueError("the metric has no gradient: it counts, compares or detaches")
            lost = (got[0] - whole).abs().mean() / gap
            loss = lost + price * (_chance(openness) * graph.valid).sum() / n_edges
            adam.zero_grad()
            loss.backward()
            adam.step()
    return EdgeScores(graph, _chance(openness.detach()) * graph.valid)


def _chance(openness: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The chance that a gate is not closed."""
    return torch.sigmoid(openness - _HEAT * math.log(-_LOW / _HIGH))


def _gates(openness: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(openness.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((u.log() - (1 - u).log() + openness) / _HEAT)
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)
