"""Sparse autoencoders: train, save, open, judge against the model and against the truth.

    stream = Activations(model, "blocks.3.hook_resid_post", tokens)
    run = train(start(stream, Recipe("batchtopk", d_sae=1536, k=24)))
    sae = run.sae()
    fidelity(sae, stream.sample(20_000)), splice_losses(model, sae, held_out)

Conventions, for every kind: ``f = act((x - b_dec) @ W_enc + b_enc)`` and
``x_hat = f @ W_dec + b_dec``. Rows of `W_dec` have length 1, so `f` is in the unit of `x`.
"""

from mi_helpers.sae.activations import Activations, read_site
from mi_helpers.sae.causes import attribute_to_units, set_units
from mi_helpers.sae.core import KINDS, Sae
from mi_helpers.sae.fidelity import Fidelity, SpliceLosses, fidelity, splice, splice_losses
from mi_helpers.sae.files import load, save
from mi_helpers.sae.published import load_published
from mi_helpers.sae.reading import (
    contexts,
    direct_logits,
    judge_explanation,
    neighbour_consistency,
    on_texts,
    predicate,
    read_tokens,
    separating_units,
    unit_activations,
    units_towards,
)
from mi_helpers.sae.recipe import Recipe
from mi_helpers.sae.reports import UnitReport, nearest_units, report
from mi_helpers.sae.restoring import Restoration, restoration
from mi_helpers.sae.run import Run, resume, start, train
from mi_helpers.sae.truth import Labelled, best_units, detection, label_tokens, matched_cosine
from mi_helpers.sae.vectors import Vectors

__all__ = [
    "KINDS",
    "Activations",
    "Fidelity",
    "Labelled",
    "Recipe",
    "Restoration",
    "Run",
    "Sae",
    "SpliceLosses",
    "UnitReport",
    "Vectors",
    "attribute_to_units",
    "best_units",
    "contexts",
    "detection",
    "direct_logits",
    "fidelity",
    "judge_explanation",
    "label_tokens",
    "load",
    "load_published",
    "matched_cosine",
    "nearest_units",
    "neighbour_consistency",
    "on_texts",
    "predicate",
    "read_site",
    "read_tokens",
    "report",
    "restoration",
    "resume",
    "save",
    "separating_units",
    "set_units",
    "splice",
    "splice_losses",
    "start",
    "train",
    "unit_activations",
    "units_towards",
]
