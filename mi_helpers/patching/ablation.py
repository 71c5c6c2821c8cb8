"""Take parts of a model away and measure what is left.

Sources: Wang et al. 2022 (IOI), section 2.2, for mean ablation over prompts of one template;
Chan et al. 2022, "Causal scrubbing", for resampling; McGrath et al. 2023, "The Hydra effect", for
why a part's ablation effect is smaller than its direct contribution.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_helpers.engine import Cell, Inputs, Replacement, Values, What, prepare
from mi_helpers.interventions import Edit, Firings, Positions, intervene
from mi_helpers.metrics import Metric
from mi_helpers.patching.sweep import Sweep
from mi_helpers.patching.values import Mean, Zero
from mi_helpers.patching.where import Where, components
from mi_helpers.sites import Head, Place, read, require_head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Parts = Mapping[str, Where] | Iterable[str]
"""Sites with where to ablate each, or names of components: "L9H6", "MLP0"."""


def ablate(
    model: TransformerBridge,
    base: Inputs,
    what: What,
    metric: Metric,
    sets: Sequence[Parts],
    *,
    progress: bool = False,
) -> Sweep:
    """Ablate each of several sets of parts, and measure the metric for each.

    Every part of a set is ablated at once, in one pass; what follows it responds freely. For the
    ablation of each head or MLP alone, `patch_sweep` with the same `what` is shorter.

    Args:
        model: The bridge.
        base: The prompts.
        what: What takes the parts' place: `Zero()`, `Mean(reference)`, `Resample(reference)`, ...
        metric: Logits to one number an example.
        sets: The sets, each a mapping of sites to where, or names of components. An empty set is
            the model as it is.
        progress: Show a bar.

    Returns:
        A `Sweep` with the axis "set"; `effect()` is what each ablation did to the metric.

    Raises:
        KeyError: an unknown site. ValueError: a name or index that is not there, prompts that do
            not fit, a bad metric, no sets. RuntimeError: an ablation that never took place.
    """
    if not sets or isinstance(sets, str | Mapping) or any(isinstance(one, str) for one in sets):
        raise ValueError(f"sets must be a list of sets, e.g. [['L9H6'], ['L9H6', 'MLP0']]: {sets}")
    setup = prepare(model, base, metric, what)
    masks = [_resolved(model, parts, setup.base.tokens.shape[1]) for parts in sets]
    with torch.no_grad():
        cells = [_cell(mask, setup.source) for mask in masks]
    began = time.perf_counter()
    results = setup.run_cells(cells, progress=progress, label="ablating")
    return Sweep(
        results["metric"],
        ("set",),
        {"set": list(range(len(sets)))},
        setup.values["metric"],
        setup.targets.get("metric"),
        seconds=time.perf_counter() - began,
    )


@contextmanager
def ablated(
    model: TransformerBridge,
    heads: Sequence[Head],
    what: Zero | Mean,
    *,
    positions: Positions = None,
) -> Iterator[Firings]:
    """Within the block, these heads write zero, or their mean on reference prompts.

    For what `ablate` does not measure: runs on other prompts, generation, any metric by hand. Each
    head's z is replaced. Zero depends on where the origin lies, which weight processing moves.

    Args:
        model: Any bridge.
        heads: The heads.
        what: `Zero()` or `Mean(reference)`; with `per_position`, only prompts of the reference's
            length can be run.
        positions: As in `intervene`; -1 is the last of the prompt.

    Raises:
        ValueError: no head, one that the model does not have, values of another kind, prompts of
            another length than a mean at each position was taken on.
        NothingHappened: at the end of the block, if the ablation was never applied.
    """
    if not heads:
        raise ValueError("no head to ablate: give at least one, e.g. [Head(9, 6)]")
    if not isinstance(what, Zero | Mean):
        raise ValueError(f"heads are ablated by Zero() or Mean(reference), not by {what!r}")
    layers: dict[int, list[int]] = {}
    for head in (require_head(model, head) for head in heads):
        layers.setdefault(head.layer, []).append(head.head)
    places: list[Place | str] = [("z", layer) for layer in sorted(layers)]
    means = read(model, what.tokens, places) if isinstance(what, Mean) else {}

    def edit_of(place: Place) -> Edit:
        chosen = layers[place[1]]
        axes = (0,) if getattr(what, "per_position", False) else (0, 1)
        mean = means[place].mean(axes)[..., chosen, :] if means else torch.zeros(())

        def put(z: Tensor, where: Tensor) -> Tensor:
            if mean.ndim == 3 and len(mean) != z.shape[1]:
                raise ValueError(
                    f"the mean was taken at {len(mean)} positions and the prompt has {z.shape[1]}: "
                    "use Mean(reference, per_position=False)"
                )
            z = z.clone()
            z[:, :, chosen] = mean.to(z)
            return z

        return put

    edits = {place: edit_of(place) for place in places if not isinstance(place, str)}
    with intervene(model, edits, positions=positions) as fired:
        yield fired


def _resolved(model: TransformerBridge, parts: Parts, n_pos: int) -> dict[str, Tensor]:
    """The parts as masks [layer pos head] by site."""
    if isinstance(parts, Mapping) and all(isinstance(one, Where) for one in parts.values()):
        where = dict(parts)
    else:
        where = components(model.cfg, parts, n_pos)
    return {site: one.resolve(model.cfg, site, n_pos) for site, one in where.items()}


def _cell(masks: Mapping[str, Tensor], values: Values) -> Cell:
    replaced = [
        Replacement(site, int(layer), mask[layer], values(site, int(layer)))
        for site, mask in masks.items()
        for layer in mask.flatten(1).any(dim=1).nonzero().flatten()
    ]
    return tuple(sorted(replaced, key=lambda one: one.order))
