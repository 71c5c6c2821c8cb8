"""Gradients of a metric at the sites of the bridge, and the points along a path to take them at.

A first-order estimate needs one gradient; where the metric bends on the way from one run to the
other, gradients at several points between the two inputs, averaged, do better (integrated
gradients, Sundararajan et al. 2017; for circuits Hanna et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.patching.hooked import to_site_layout
from mi_helpers.patching.metric import Metric, evaluate, positions_of
from mi_helpers.patching.sites import site_of

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
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

    Costs `steps` forward and backward passes instead of one.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"integrated gradients take at least 1 step, got {self.steps}")

    def points(self) -> list[float]:
        """The fractions at which gradients are taken."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]


Path = At | Integrated


def gradients(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    resid: Float[Tensor, "batch pos d_model"],
    metric: Metric,
    hooks: Sequence[str],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Activation and gradient of each example's metric at each hook, in the bridge's layout.

    Args:
        tokens: The prompts, for their shape.
        resid: What the first block reads instead of the prompts' embeddings.
        metric: Logits to one number an example; it must be differentiable.
        hooks: Names of hooks.

    Raises:
        ValueError: a metric without a gradient.
    """
    caught: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: HookPoint) -> Tensor:
        caught[names[hook.name]] = act
        return act  # what flows on is this very tensor, so that its gradient is complete

    names = {model.hook_dict[name].name: name for name in hooks}
    start = resid.detach().clone().requires_grad_()
    begin = (site_of("resid_pre").hook.format(layer=0), lambda act, hook: start)
    fwd_hooks = [begin, *((name, keep) for name in hooks)]
    with torch.enable_grad(), model.hooks(fwd_hooks=fwd_hooks):
        logits = model(tokens)
        values = evaluate(metric, logits[:, positions_of(metric, tokens.shape[1])])
        total = values.sum()
    if not values.requires_grad:
        raise ValueError("the metric has no gradient: it counts, compares or detaches")
    grads = torch.autograd.grad(total, [caught[name] for name in hooks], allow_unused=True)
    return {
        name: (caught[name].detach(), torch.zeros_like(caught[name]) if grad is None else grad)
        for name, grad in zip(hooks, grads, strict=True)
    }


def mean_gradients(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    ends: tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]],
    metric: Metric,
    sites: Sequence[str],
    path: Path,
) -> dict[tuple[str, int], Tensor]:
    """The gradient at each (site, layer), in site layout, averaged over the points of a path."""
    places = {
        (site, layer): site_of(site).hook.format(layer=layer)
        for site in sites
        for layer in range(model.cfg.n_layers)
    }
    points = path.points()
    total: dict[tuple[str, int], Tensor] = {}
    for point in points:
        resid = torch.lerp(ends[0], ends[1], point)
        found = gradients(model, tokens, resid, metric, list(places.values()))
        for (site, layer), name in places.items():
            share = to_site_layout(site, found[name][1]) / len(points)
            total[site, layer] = total.get((site, layer), torch.zeros_like(share)) + share
    return total
