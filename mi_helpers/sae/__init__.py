"""Dictionaries: train, save, open, judge against the model and against the truth.

    stream = Activations(model, ("resid_post", 3), tokens)
    run = train(start(stream, Recipe("batchtopk", d_sae=1536, k=24)))
    sae = run.sae()
    fidelity(sae, stream.sample(20_000)), splice_losses(model, sae, held_out)

A transcoder or crosscoder is trained the same way, from a stream of several places: see `Sae`.

Conventions, for every kind: `f = act((x - b_dec) @ W_enc + b_enc)` and
`x_hat = f @ W_dec + b_dec`. Rows of `W_dec` have length 1, so `f` is in the unit of `x`.

`core` is the dictionary; `stream` and `files` bring activations and trained ones; `recipe`, `step`
and `train` make new ones; `splice`, `quality` and `judging` judge them; `units`, `effects`,
`labels` and `report` read them. `attribution_graph` says what the units of one run give to each
other, from `frozen`, the run held still; `node_runs` sets nodes, `graph_files` keeps graphs,
`graph_scores` says what heads and MLPs get of it. Where a list of transcoders is asked for, one for
each layer, `[clt]` does too, one that crosses layers (`cross_layer`).
"""

from mi_helpers.sae.attribution_graph import AttributionGraph, Node, attribution_graph
from mi_helpers.sae.core import ARCHITECTURES, Sae
from mi_helpers.sae.cross_layer import splice_all
from mi_helpers.sae.effects import attribute_to_units, restoration, set_units
from mi_helpers.sae.files import load, load_published, save
from mi_helpers.sae.graph_files import load_graph, save_graph
from mi_helpers.sae.graph_scores import graph_attribution, own_neurons
from mi_helpers.sae.judging import (
    Absorption,
    Probe,
    absorption,
    balanced_accuracy,
    fit_probe,
    sparse_probing,
    targeted_perturbation,
    targeted_score,
    units_to_swap,
)
from mi_helpers.sae.labels import Labelled, best_units, detection, label_tokens
from mi_helpers.sae.node_runs import local_replacement, set_features
from mi_helpers.sae.quality import fidelity, matched_cosine
from mi_helpers.sae.recipe import Recipe
from mi_helpers.sae.report import UnitReport, report
from mi_helpers.sae.splice import splice, splice_losses
from mi_helpers.sae.stream import Activations, SideBySide, Vectors, read_tokens
from mi_helpers.sae.train import Training, resume, start, train
from mi_helpers.sae.units import (
    contexts,
    direct_logits,
    judge_explanation,
    nearest_units,
    on_texts,
    predicate,
    separating_units,
    unit_activations,
)

__all__ = [
    "ARCHITECTURES",
    "Absorption",
    "Activations",
    "AttributionGraph",
    "Labelled",
    "Node",
    "Probe",
    "Recipe",
    "Sae",
    "SideBySide",
    "Training",
    "UnitReport",
    "Vectors",
    "absorption",
    "attribute_to_units",
    "attribution_graph",
    "balanced_accuracy",
    "best_units",
    "contexts",
    "detection",
    "direct_logits",
    "fidelity",
    "fit_probe",
    "graph_attribution",
    "judge_explanation",
    "label_tokens",
    "load",
    "load_graph",
    "load_published",
    "local_replacement",
    "matched_cosine",
    "nearest_units",
    "on_texts",
    "own_neurons",
    "predicate",
    "read_tokens",
    "report",
    "restoration",
    "resume",
    "save",
    "save_graph",
    "separating_units",
    "set_features",
    "set_units",
    "sparse_probing",
    "splice",
    "splice_all",
    "splice_losses",
    "start",
    "targeted_perturbation",
    "targeted_score",
    "train",
    "unit_activations",
    "units_to_swap",
]
