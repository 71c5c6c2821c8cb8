"""Take parts of a model away and measure what is left.

Sources: Wang et al. 2022 (IOI), section 2.2, for mean ablation over prompts of one template;
Chan et al. 2022, "Causal scrubbing", for resampling; McGrath et al. 2023, "The Hydra effect", for
why a part's ablation effect is smaller than its direct contribution.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_helpers.patching.engine import MEMORY, prepare
from mi_helpers.patching.inputs import Inputs, checked_inputs, tokens_of
from mi_helpers.patching.metric import Metric
from mi_helpers.patching.runs import Cell, Edit
from mi_helpers.patching.sites import Where, components
from mi_helpers.patching.soundness import assert_self_patch
from mi_helpers.patching.sweep import Sweep
from mi_helpers.patching.what import Values, What

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
    memory: int = MEMORY,
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

    Returns:
        A `Sweep` with the axis "set"; `effect()` is what each ablation did to the metric.

    Raises:
        KeyError: an unknown site. ValueError: a name or index that is not there, prompts that do
            not fit, a bad metric, no sets. RuntimeError: an ablation that never took place.
    """
    if not sets or isinstance(sets, str | Mapping) or any(isinstance(one, str) for one in sets):
        raise ValueError(f"sets must be a list of sets, e.g. [['L9H6'], ['L9H6', 'MLP0']]: {sets}")
    base = checked_inputs(model, base, what)
    masks = [_resolved(model, parts, tokens_of(base).shape[1]) for parts in sets]
    setup = prepare(model, base, metric)
    with torch.no_grad():
        values = cache(what.values(setup.base, setup.run))
        cells = [_cell(mask, values) for mask in masks]
        assert_self_patch(setup, cells, memory)
    began = time.perf_counter()
    results = setup.run_cells(cells, memory=memory, progress=progress, label="ablating")
    return Sweep(
        results["metric"],
        ("set",),
        {"set": list(range(len(sets)))},
        setup.values["metric"],
        seconds=time.perf_counter() - began,
    )


def _resolved(model: TransformerBridge, parts: Parts, n_pos: int) -> dict[str, Tensor]:
    """The parts as masks [layer pos head] by site."""
    if isinstance(parts, Mapping) and all(isinstance(one, Where) for one in parts.values()):
        where = dict(parts)
    else:
        where = components(model.cfg, parts, n_pos)
    return {site: one.resolve(model.cfg, site, n_pos) for site, one in where.items()}


def _cell(masks: Mapping[str, Tensor], values: Values) -> Cell:
    edits = [
        Edit(site, int(layer), mask[layer], values(site, int(layer)))
        for site, mask in masks.items()
        for layer in mask.flatten(1).any(dim=1).nonzero().flatten()
    ]
    return tuple(sorted(edits, key=lambda edit: edit.order))
