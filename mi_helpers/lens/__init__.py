"""The residual stream read in parts: decomposition, direct logit attribution, virtual weights.

Lenses that were trained before are opened by `load_translators`.
`logit_lens` is TransformerLens's own, unchanged: it unembeds in chunks and only where asked. The
library decomposes the stream as well, but through a cache of every activation and one vector per
head and position; here only what is read is cached, and attribution never leaves head space.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "Virtual Weights and
the Residual Stream as a Communication Channel".
"""

from transformer_lens.tools.analysis import logit_lens

from mi_helpers.lens.attribution import (
    Decomposition,
    LogitAttribution,
    component_labels,
    decompose,
    head_source_attribution,
    logit_attribution,
)
from mi_helpers.lens.translators import committed_lens, load_translators
from mi_helpers.lens.virtual_weights import VirtualWeights, random_rotation, virtual_weights

__all__ = [
    "Decomposition",
    "LogitAttribution",
    "VirtualWeights",
    "committed_lens",
    "component_labels",
    "decompose",
    "head_source_attribution",
    "load_translators",
    "logit_attribution",
    "logit_lens",
    "random_rotation",
    "virtual_weights",
]
