"""Load any causal language model, and say what was loaded."""

from mi_helpers.models.budget import by_size
from mi_helpers.models.loading import (
    ModelSource,
    as_published,
    load_half,
    load_model,
    load_pocket,
    load_pockets,
    load_tuned,
    model_id,
    model_source,
    untrained,
)
from mi_helpers.models.smollm2 import fetch_smollm2

__all__ = [
    "ModelSource",
    "as_published",
    "by_size",
    "fetch_smollm2",
    "load_half",
    "load_model",
    "load_pocket",
    "load_pockets",
    "load_tuned",
    "model_id",
    "model_source",
    "untrained",
]
