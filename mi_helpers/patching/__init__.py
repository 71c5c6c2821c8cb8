"""Cause and effect inside the model."""
from mi_helpers.patching.metric import KLDivergence, LogitDiff
from mi_helpers.patching.sites import SITES, Where, components
from mi_helpers.patching.sweep import Sweep, patch_block_sweeps, patch_sweep
from mi_helpers.patching.what import Mean, Noise, OtherRun, Resample, Zero
