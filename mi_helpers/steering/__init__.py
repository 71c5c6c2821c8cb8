"""Steering: vectors as data, ways to make them, and interventions that undo themselves.

    vector = steering.make(model, good_reviews, bad_reviews, layer=3)
    with steering.add(model, vector, 2.0) as fired:
        model.generate("The film was", max_new_tokens=20)
    steering.save(vector, "good.safetensors")

Sources: Turner et al. 2023, Activation Addition; Panickssery et al. 2023, Contrastive Activation
Addition; Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction.
"""

from mi_helpers.interventions import Firings, NothingHappened
from mi_helpers.steering.applying import add, clamp, orthonormal, project_out
from mi_helpers.steering.editing import (
    find_value,
    key_covariance,
    orthogonalised,
    rank_one,
    rome_key,
    written,
)
from mi_helpers.steering.making import (
    activation_addition,
    class_means,
    collect,
    make,
    paired_difference,
    pca_of_differences,
    probe_weights,
    random_like,
    sae_feature,
)
from mi_helpers.steering.vectors import SteeringVector, fingerprint, load, new_vector, save

__all__ = [
    "Firings",
    "NothingHappened",
    "SteeringVector",
    "activation_addition",
    "add",
    "clamp",
    "class_means",
    "collect",
    "find_value",
    "fingerprint",
    "key_covariance",
    "load",
    "make",
    "new_vector",
    "orthogonalised",
    "orthonormal",
    "paired_difference",
    "pca_of_differences",
    "probe_weights",
    "project_out",
    "random_like",
    "rank_one",
    "rome_key",
    "sae_feature",
    "save",
    "written",
]
