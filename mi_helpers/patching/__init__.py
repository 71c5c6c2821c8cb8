"""Cause and effect inside the model: patching, ablation, attribution, paths and circuits.

One vocabulary for every intervention: a *site* (`SITES`), a *where* (`Where`), a *what*
(`OtherRun`, `Zero`, `Mean`, `Resample`, `Noise`) and a *metric* (logits to one number an example).
The run on `base` is changed; effects are what that does to the metric: positive raises it.

    corrupt, clean = pairs.corrupt_tokens, pairs.clean_tokens
    sweep = patch_sweep(model, corrupt, OtherRun(clean), LogitDiff(pairs.answer_tokens))
    sweep.recovery()  # layer x position
"""

from mi_helpers.patching.ablation import ablate
from mi_helpers.patching.circuit_quality import (
    Faithfulness,
    completeness,
    faithfulness,
    faithfulness_curve,
    minimality,
)
from mi_helpers.patching.circuits import Acdc, TopEdges, discover_circuit, drop_of, kl_distance
from mi_helpers.patching.edge_scores import EdgeScores, edge_attribution
from mi_helpers.patching.edges import Circuit, EdgeGraph
from mi_helpers.patching.gradients import At, Integrated
from mi_helpers.patching.inputs import Noised
from mi_helpers.patching.metric import LogitDiff
from mi_helpers.patching.node_scores import Attribution, attribution
from mi_helpers.patching.paths import path_patch
from mi_helpers.patching.sites import SITES, Where, components
from mi_helpers.patching.sweep import Sweep, patch_block_sweeps, patch_sweep, patch_sweeps
from mi_helpers.patching.what import Mean, Noise, OtherRun, Resample, Zero

__all__ = [
    "SITES",
    "Acdc",
    "At",
    "Attribution",
    "Circuit",
    "EdgeGraph",
    "EdgeScores",
    "Faithfulness",
    "Integrated",
    "LogitDiff",
    "Mean",
    "Noise",
    "Noised",
    "OtherRun",
    "Resample",
    "Sweep",
    "TopEdges",
    "Where",
    "Zero",
    "ablate",
    "attribution",
    "completeness",
    "components",
    "discover_circuit",
    "drop_of",
    "edge_attribution",
    "faithfulness",
    "faithfulness_curve",
    "kl_distance",
    "minimality",
    "patch_block_sweeps",
    "patch_sweep",
    "patch_sweeps",
    "path_patch",
]
