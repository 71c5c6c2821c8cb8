"""Larger models get fewer prompts: one switch for the notebooks, so that time stays in bounds."""

from __future__ import annotations

from typing import TypeVar

from transformer_lens.model_bridge import TransformerBridge

LARGE = 5e7
"""Parameters from which a model counts as large: above pocket, below GPT-2 small and SmolLM2."""

T = TypeVar("T")


def by_size(model: TransformerBridge, small: T, large: T) -> T:
    """A budget (a number of prompts, steps or draws) for models of two sizes.

    A notebook is to end within a minute on `pocket` and within five at GPT-2 small's size. What is
    measured is the same; with fewer prompts it is only less exact, so claims state their ranges
    for each model apart.

    Args:
        model: The model that is paid for.
        small: The budget below `LARGE` parameters.
        large: The budget from there on.

    Returns:
        One of the two, as it was given.
    """
    return small if sum(p.numel() for p in model.parameters()) < LARGE else large
