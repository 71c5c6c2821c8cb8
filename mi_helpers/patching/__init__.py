"""Cause and effect inside the model: patching, ablation and attribution.

One vocabulary for every intervention: a *site* (`SITES`), a *where* (`Where`), a *what*
(`OtherRun`, `Zero`, `Mean`, `Resample`) and a *metric* (logits to one number an example).
The run on `base` is changed; effects are what that does to the metric: positive raises it.

    corrupt, clean = pairs.corrupt_tokens, pairs.clean_tokens
    sweep = patch_sweep(model, corrupt, OtherRun(clean), LogitDiff(pairs.answer_tokens))
    sweep.recovery()  # layer x position
"""

from mi_helpers.engine import Noised
from mi_helpers.metrics import LogitDiff
from mi_helpers.patching.ablation import ablate, ablated
from mi_helpers.patching.attribution import Attribution, attribution
from mi_helpers.patching.gradients import At, Integrated, slopes
from mi_helpers.patching.sweep import Sweep, patch_sweep
from mi_helpers.patching.values import Mean, OtherRun, Resample, Zero
from mi_helpers.patching.where import Where, components
from mi_helpers.sites import SITES

__all__ = [
    "SITES",
    "At",
    "Attribution",
    "Integrated",
    "LogitDiff",
    "Mean",
    "Noised",
    "OtherRun",
    "Resample",
    "Sweep",
    "Where",
    "Zero",
    "ablate",
    "ablated",
    "attribution",
    "components",
    "patch_sweep",
    "slopes",
]
