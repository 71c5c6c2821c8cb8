"""Attribution patching: what patching would do, estimated for every site at once by a gradient.

effect(site) ~ (other activation - base activation) . d metric / d activation, on the base run.

Sources: Nanda 2023, "Attribution patching"; Syed et al. 2023; Kramar et al. 2024 (AtP*) on where
it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.engine import Inputs, prepare
from mi_helpers.metrics import Metric
from mi_helpers.patching.gradients import At, Path, mean_slopes
from mi_helpers.patching.values import OtherRun, require_other_run
from mi_helpers.sites import Place, site_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Attribution:
    """Estimated effects of patching a site, in the metric's unit; positive raises the metric.

    Attributes:
        values: [layer position batch], or [layer position head batch] for a site with heads.
        site: The site.
        base: The metric on the run that would be patched, [batch].
        target: The metric on the other run, [batch].
    """

    values: Float[Tensor, "layer position *head batch"]
    site: str
    base: Float[Tensor, "batch"]
    target: Float[Tensor, "batch"]

    def effect(self, *axes: str) -> Float[Tensor, "*axes"]:
        """The estimate averaged over examples and summed over all axes but `axes`.

        Sums estimate patching all of them at once: `effect("layer", "head")` is all positions.
        """
        names = ["layer", "position", "head"][: self.values.ndim - 1]
        for axis in axes:
            if axis not in names:
                raise ValueError(
                    f"site {self.site!r} has the axes {', '.join(names)}; got {axis!r}"
                )
        kept = "".join("lph"[names.index(axis)] for axis in axes)
        return torch.einsum(f"{'lph'[: len(names)]}b->{kept}", self.values) / len(self.base)


def attribution(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    *,
    sites: Sequence[str] = ("z",),
    path: Path | None = None,
) -> dict[str, Attribution]:
    """Estimate, from one backward pass, what `patch_sweep` measures for every cell of some sites.

    Args:
        model: The bridge.
        base: The prompts of the run that would be patched.
        what: The run that the values would come from.
        metric: Logits to one number an example; differentiable.
        sites: Any of `SITES` but "result", whose estimate is that of "z".
        path: Where gradients are taken: `At(0)`, the default, on the base run; `Integrated(5)`,
            the mean over points between the runs.

    Raises:
        KeyError: an unknown site. ValueError: as `patch_sweep`; values that are no other run's; a
            metric without a gradient.
    """
    for site in sites:
        if site_of(site).name == "result":
            raise ValueError('site "result" is linear in "z": its attribution is that of "z"')
    setup = prepare(model, base, metric, require_other_run(what))
    ends = setup.base.get("resid_pre", 0), setup.source("resid_pre", 0)
    places: list[Place] = [(site, layer) for site in sites for layer in range(model.cfg.n_layers)]
    grads = mean_slopes(model, setup.base.tokens, metric, places, ends, path or At())
    results = {}
    for site in sites:
        layers = []
        for layer in range(model.cfg.n_layers):
            change = setup.source(site, layer) - setup.base.get(site, layer)
            layers.append((change * grads[site, layer]).sum(dim=-1).movedim(0, -1))
        values = torch.stack(layers).cpu()
        results[site] = Attribution(values, site, setup.values["metric"], setup.targets["metric"])
    return results
