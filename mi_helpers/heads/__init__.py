"""Attention heads: what they attend to, what they copy, and how they feed one another.

Scores come for all heads at once, as `[layer, head]` tensors.

Sources: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022,
In-context Learning and Induction Heads (arXiv:2209.11895), for prefix matching and copying.
"""

from mi_helpers.heads.attention import (
    KINDS,
    attention_scores,
    position_targets,
    positional_overlap,
    token_targets,
    top_heads,
)
from mi_helpers.heads.composition import composition_baseline, composition_scores
from mi_helpers.heads.copying import copying_eigenvalues, copying_percentiles, copying_top_k
from mi_helpers.heads.virtual import VirtualHead, isolated_path, virtual_head
from mi_helpers.heads.weights import (
    SingularDirections,
    ov_circuit,
    ov_top_tokens,
    qk_circuit,
    singular_directions,
    skip_trigrams,
    token_names,
    with_one,
)
from mi_helpers.sites import Head

__all__ = [
    "KINDS",
    "Head",
    "SingularDirections",
    "VirtualHead",
    "attention_scores",
    "composition_baseline",
    "composition_scores",
    "copying_eigenvalues",
    "copying_percentiles",
    "copying_top_k",
    "isolated_path",
    "ov_circuit",
    "ov_top_tokens",
    "position_targets",
    "positional_overlap",
    "qk_circuit",
    "singular_directions",
    "skip_trigrams",
    "token_names",
    "token_targets",
    "top_heads",
    "virtual_head",
    "with_one",
]
