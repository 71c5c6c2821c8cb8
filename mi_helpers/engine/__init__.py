"""The fast exact runner: many changed forward passes as one, tested against plain hooks.

Other rooms come in by this door. `prepare` gives a `Setup`: a base run, an engine that reproduces
it, metrics checked on it and the values to put in place. `Setup.run_cells` measures cells, each of
them what one patched forward pass replaces. The modules, from the bottom up: `runs` (activations
and replacements), `inputs` (prompts), `linear`, `parts` and `architecture` (the forward pass,
written once), `batched` and `hooked` (the two engines), `setup` (the front and its checks),
`reader` (few places, many prompts).
"""

from mi_helpers.engine.architecture import ARCHITECTURES, FusedModel
from mi_helpers.engine.inputs import Inputs, Noised
from mi_helpers.engine.linear import FixedLinear
from mi_helpers.engine.parts import Norm
from mi_helpers.engine.reader import quick_readers
from mi_helpers.engine.runs import MEMORY, Cell, Replacement, Run, Values, What, rows_mask
from mi_helpers.engine.setup import Setup, prepare

__all__ = [
    "ARCHITECTURES",
    "MEMORY",
    "Cell",
    "FixedLinear",
    "FusedModel",
    "Inputs",
    "Noised",
    "Norm",
    "Replacement",
    "Run",
    "Setup",
    "Values",
    "What",
    "prepare",
    "quick_readers",
    "rows_mask",
]
