"""The slope of a metric at places in the model, and the points on a way to take it at.

A first-order estimate needs one gradient; where the metric bends on the way from one run to the
other, gradients at several points between the two inputs, averaged, do better (integrated
gradients, Sundararajan et al. 2017; for circuits Hanna et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.interventions import Edit, intervene
from mi_helpers.metrics import Metric, evaluate, positions_of
from mi_helpers.sites import Place, hook_name, require_hook

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class At:
    """One gradient, at a fraction of the way from the base run (0) to the other run (1)."""

    fraction: float = 0.0

    def points(self) -> list[float]:
        """The fractions at which gradients are taken."""
        return [self.fraction]


@dataclass(frozen=True)
class Integrated:
    """The mean gradient at `steps` points between the runs' inputs, each in the middle of its part.

    Costs `steps` forward and backward passes instead of one. (EAP-IG's authors take each part's end
    that is nearer to the other run; of pocket's edges the middle tells more in as many steps.)
    """

    steps: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"integrated gradients take at least 1 step, got {self.steps}")

    def points(self) -> list[float]:
        """The fractions at which gradients are taken."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]


Path = At | Integrated


def slopes(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    places: Iterable[Place | str],
    start: Float[Tensor, "batch pos d_model"] | None = None,
) -> dict[Place | str, tuple[Tensor, Tensor]]:
    """Activation and gradient of each example's metric at some places, in one run.

    The examples of a batch do not see each other, so the gradient of the metric's sum holds each
    example's own. Interventions in force are seen.

    Args:
        model: Any bridge.
        tokens: The prompts.
        metric: Logits to one number an example; it must be differentiable.
        places: `("z", 3)`, or full names of hooks that are no site.
        start: What the first block reads instead of the prompts' embeddings.

    Returns:
        By place, both detached and in the layout of the site; the gradient in the metric's unit
        for one unit of the activation.

    Raises:
        ValueError: no place, one that the model does not have, or a metric without a gradient.
        NothingHappened: a place that the model has and never computes.
    """
    hooks = {place: require_hook(model, place) for place in places}
    caught: dict[str, Tensor] = {}
    first = hook_name("resid_pre", 0)
    begin = None if start is None else start.detach().clone().requires_grad_()

    def keeper(hook: str) -> Edit:
        def keep(act: Tensor, where: Tensor) -> Tensor:
            act = begin if hook == first and begin is not None else act
            # The first one begins the graph: weights that need no gradient begin none.
            caught[hook] = act if act.requires_grad else act.detach().requires_grad_()
            return caught[hook]  # what flows on is this tensor, so that its gradient is complete

        return keep

    given = [first] if begin is not None and hooks else []
    edits = {hook: keeper(hook) for hook in dict.fromkeys([*given, *hooks.values()])}
    with torch.enable_grad(), intervene(model, edits):
        logits = model(tokens.to(model.cfg.device))
        values = evaluate(metric, logits[:, positions_of(metric, tokens.shape[1])])
        total = values.sum()
    if not values.requires_grad:
        raise ValueError("the metric has no gradient: it counts, compares or detaches")
    at = list(dict.fromkeys(hooks.values()))
    grads = torch.autograd.grad(total, [caught[hook] for hook in at], allow_unused=True)
    found = {
        hook: (caught[hook].detach(), torch.zeros_like(caught[hook]) if grad is None else grad)
        for hook, grad in zip(at, grads, strict=True)
    }
    return {place: found[hook] for place, hook in hooks.items()}


def mean_slopes(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    metric: Metric,
    places: Iterable[Place],
    ends: tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]],
    path: Path,
) -> dict[Place, Tensor]:
    """The gradient at each place, averaged over points on the way between two first streams.

    Args:
        ends: The stream before the first block in the base run and in the other run.
        path: The points.
    """
    places, points = list(places), path.points()
    total: dict[Place, Tensor] = {}
    for point in points:
        found = slopes(model, tokens, metric, places, torch.lerp(*ends, point))
        for place in places:
            share = found[place][1] / len(points)
            total[place] = total[place] + share if place in total else share
    return total
