"""What units do to a prediction: attribution, ablation, clamping and patching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.fidelity import require_same
from mi_helpers.sae.reading import known_units


@dataclass(frozen=True)
class UnitEffects:
    """What units do to a metric on one set of prompts, `[prompt pos unit]`.

    `direct` is the attribution: activation x gradient of the metric along the decoder row, which is
    what removing the unit would take away, to first order.
    """

    direct: Float[Tensor, "prompt pos unit"]
    acts: Float[Tensor, "prompt pos unit"]

    def total(self) -> Float[Tensor, " unit"]:
        """Sum over positions, mean over prompts."""
        return self.direct.sum(1).mean(0)


def attribute_to_units(
    model: Any, sae: Sae, tokens: Int[Tensor, "prompt pos"],
    metric: Callable[[Tensor], Float[Tensor, " prompt"]],
) -> UnitEffects:  # fmt: skip
    """Attribute `metric(logits)`, one number a prompt, to the units, by one backward pass.

    The reconstruction's error stays in the stream (as `splice(keep_error=True)`), so the metric is
    the model's own.
    """
    name = require_same(model, sae)
    caught: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: Any) -> Tensor:
        caught["act"] = act.detach().requires_grad_()
        return caught["act"] * 1.0

    with torch.enable_grad(), model.hooks(fwd_hooks=[(name, keep)]):
        value = metric(model(tokens))
        (slope,) = torch.autograd.grad(value.sum(), caught["act"])
    acts = sae.encode(caught["act"].detach().flatten(2))
    return UnitEffects(acts * (slope.flatten(2) @ sae.W_dec.T), acts)


def set_units(
    sae: Sae, values: Mapping[int, float | Float[Tensor, "prompt pos"]],
    positions: Sequence[int] | None = None,
) -> Callable[[Tensor, Any], Tensor]:  # fmt: skip
    """A hook that sets units to values and leaves all else as it is, the error term included.

    A number sets a unit everywhere: 0 ablates it, a large one clamps it. A tensor `[prompt, pos]`
    sets it to what it was in another run, which is patching. Without `positions`, at all of them.
    IndexError for a unit that is none, ValueError for no units.
    """
    units = list(known_units(sae, list(values)))
    if not units:
        raise ValueError("values names no unit: there is nothing to set")

    def change(act: Tensor, hook: Any) -> Tensor:
        x = act.flatten(2)
        old = sae.encode(x)[..., units]
        new = [torch.as_tensor(values[unit]).to(x).expand(x.shape[:2]) for unit in units]
        step = (torch.stack(new, -1) - old) @ sae.W_dec[units]
        if positions is not None:
            mask = torch.zeros(x.shape[1], 1, device=x.device)
            mask[list(positions)] = 1
            step = step * mask
        return (x + step).view_as(act)

    return change
