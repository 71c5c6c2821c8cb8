"""How few units carry an effect: restored one after the other, features beside heads and neurons.

The corrupt run is repaired with values of the clean run. What repairing some units gives back of
the clean metric says how much they carry, whatever kind of unit they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.fidelity import require_same

Metric = Callable[[Tensor], Float[Tensor, " prompt"]]
KINDS = ("features", "dimensions", "neurons", "heads")


@dataclass(frozen=True)
class Restoration:
    """All units of one kind in a pair of runs; a unit is restored at every position at once.

    Attributes:
        scores: What restoring each unit is estimated to give, in the metric's unit: clean minus
            corrupt activation times the gradient, the mean of the gradients in both runs.
        names: What the units are called: "F12", "D5", "L3N40", "L2H4".
        corrupt: The prompts that are repaired.
        ends: The metric on the corrupt and on the clean run.
    """

    scores: Float[Tensor, " unit"]
    names: list[str]
    corrupt: Int[Tensor, "prompt pos"]
    ends: tuple[float, float]
    model: Any = field(repr=False)
    metric: Metric = field(repr=False)
    clean_values: dict[str, Tensor] = field(repr=False)
    """By hook, `[prompt pos unit ...]`; for features, what each would add to the stream."""
    sae: Sae | None = field(default=None, repr=False)

    def order(self) -> list[int]:
        """The units, from the largest score to the smallest."""
        return self.scores.argsort(descending=True).tolist()

    @torch.no_grad()
    def share(self, units: Sequence[int]) -> float:
        """The share of the gap between the runs that restoring `units` closes; 1 is all of it."""
        chosen = torch.zeros(len(self.scores), dtype=torch.bool, device=self.scores.device)
        chosen[list(units)] = True
        hooks, first = [], 0
        for name, values in self.clean_values.items():
            mask = chosen[first : first + values.shape[2]]
            first += values.shape[2]
            if mask.any():
                hooks.append((name, self._repair(values, mask)))
        with self.model.hooks(fwd_hooks=hooks):
            got = float(self.metric(self.model(self.corrupt)).mean())
        return (got - self.ends[0]) / (self.ends[1] - self.ends[0])

    def needed(self, share: float = 0.8, order: Sequence[int] | None = None) -> int | None:
        """How many units, in `order` or best first, close `share` of the gap; None if all do not.

        Found by bisection, which takes for granted that more units restore more.
        """
        order = self.order() if order is None else list(order)
        low, high = 0, len(order)
        if self.share(order) < share:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.share(order[:middle]) >= share else (middle, high)
        return high

    def _repair(self, values: Tensor, mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
        if self.sae is not None:
            step = values[..., mask] @ self.sae.W_dec[mask]
            return lambda act, hook: act + step
        where = mask.view(-1, *[1] * (values.ndim - 3))
        return lambda act, hook: torch.where(where, values, act)


def restoration(
    model: Any, kind: str, clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"],
    metric: Metric, *, sae: Sae,
) -> Restoration:  # fmt: skip
    """Everything needed to restore units of one kind in the run on `corrupt`.

    `kind`: "features" of `sae`; "dimensions" of the stream at its site, one coordinate each;
    "neurons" of all MLPs; or "heads". The features' error term stays as it is in the corrupt run.
    Raises ValueError for an unknown kind, prompts of unequal shape, or runs with the same metric.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
    if clean.shape != corrupt.shape:
        raise ValueError(f"clean is {list(clean.shape)} and corrupt is {list(corrupt.shape)}")
    site = require_same(model, sae)
    hooks = _hooks(model, kind, site)
    before, start, slope_before = _run(model, corrupt, metric, hooks)
    after, end, slope_after = _run(model, clean, metric, hooks)
    if abs(end - start) < 1e-6:
        raise ValueError(f"the metric is {start:.4g} in both runs: there is nothing to restore")
    scores, values = [], {}
    for name in hooks:
        step, slope = after[name] - before[name], (slope_before[name] + slope_after[name]) / 2
        values[name] = after[name]
        if kind == "features":
            values[name] = step = sae.encode(after[name]) - sae.encode(before[name])
            slope = slope @ sae.W_dec.T
        product = (step * slope).sum(1).mean(0)
        scores.append(product.flatten(1).sum(1) if product.ndim > 1 else product)
    names = _names(kind, hooks, [len(part) for part in scores])
    return Restoration(
        torch.cat(scores), names, corrupt, (start, end), model, metric, values,
        sae if kind == "features" else None,
    )  # fmt: skip


def _hooks(model: Any, kind: str, site: str) -> list[str]:
    if kind in ("features", "dimensions"):
        return [site]
    inside = {"neurons": "mlp.hook_post", "heads": "attn.hook_z"}[kind]
    return [f"blocks.{layer}.{inside}" for layer in range(model.cfg.n_layers)]


def _run(
    model: Any, tokens: Tensor, metric: Metric, hooks: list[str]
) -> tuple[dict[str, Tensor], float, dict[str, Tensor]]:
    """Activations, the metric's mean, and its gradient for each prompt at each activation."""
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], Tensor]:
        def kept(act: Tensor, hook: Any) -> Tensor:
            # The first begins the graph: weights that need no gradient begin none.
            caught[name] = act if act.requires_grad else act.detach().requires_grad_()
            return caught[name] * 1.0

        return kept

    with torch.enable_grad(), model.hooks(fwd_hooks=[(name, keep(name)) for name in hooks]):
        value = metric(model(tokens))
        slopes = torch.autograd.grad(value.sum(), [caught[name] for name in hooks])
    return (
        {name: act.detach() for name, act in caught.items()},
        float(value.detach().mean()),
        dict(zip(hooks, slopes, strict=True)),
    )


def _names(kind: str, hooks: list[str], sizes: list[int]) -> list[str]:
    if len(hooks) == 1:
        return [f"{kind[0].upper()}{i}" for i in range(sizes[0])]
    letter = kind[0].upper()
    return [f"L{h.split('.')[1]}{letter}{i}" for h, n in zip(hooks, sizes, strict=True)
            for i in range(n)]  # fmt: skip
