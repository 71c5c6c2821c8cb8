"""Models small enough to train in a notebook; some whose circuit is planted or compiled."""

from mi_helpers.toys.planted import PLANTED, planted_circuit, planted_edges, planted_prompts
from mi_helpers.toys.superposition import (
    AbsoluteValue,
    Bottleneck,
    dimensionality,
    draw_features,
    features_per_neuron,
    interference,
    represented,
    train_absolute_value,
    train_bottleneck,
)

__all__ = [
    "PLANTED",
    "AbsoluteValue",
    "Bottleneck",
    "dimensionality",
    "draw_features",
    "features_per_neuron",
    "interference",
    "planted_circuit",
    "planted_edges",
    "planted_prompts",
    "represented",
    "train_absolute_value",
    "train_bottleneck",
]
