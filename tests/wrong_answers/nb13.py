"""Plausible wrong answers to the exercises of notebook 13."""

from __future__ import annotations

import torch


def _unit(direction):
    return direction / direction.norm()


def any_length(acts, source, direction):
    return acts + ((source - acts) @ direction)[..., None] * direction


def everything(acts, source, direction):
    return source.clone()


def only_removed(acts, source, direction):
    unit = _unit(direction)
    return acts - (acts @ unit)[..., None] * unit


def on_top(acts, source, direction):
    unit = _unit(direction)
    return acts + (source @ unit)[..., None] * unit


def swapped(acts, source, direction):
    unit = _unit(direction)
    return source + ((acts - source) @ unit)[..., None] * unit


def component_alone(acts, source, direction):
    unit = _unit(direction)
    return (source @ unit)[..., None] * unit


def not_unit(W, direction):
    return W - torch.outer(W @ direction, direction)


def reading_side(W, direction):
    unit = _unit(direction)
    return W - torch.outer(unit, unit @ W)


def kept(W, direction):
    unit = _unit(direction)
    return torch.outer(W @ unit, unit)


def projector_subtracted(W, direction):
    unit = _unit(direction)
    return W - torch.outer(unit, unit)


def in_place(W, direction):
    unit = _unit(direction)
    W -= torch.outer(W @ unit, unit)
    return W


def as_if_orthogonal(acts, directions):
    unit = directions / directions.norm(dim=1, keepdim=True)
    return acts - (acts @ unit.T) @ unit


def in_turn(acts, directions):
    for row in directions:
        unit = _unit(row)
        acts = acts - (acts @ unit)[..., None] * unit
    return acts


def mean_direction(acts, directions):
    unit = _unit(directions.mean(0))
    return acts - (acts @ unit)[..., None] * unit


def span_kept(acts, directions):
    Q = torch.linalg.qr(directions.T).Q
    return (acts @ Q) @ Q.T


def raw_rows(acts, directions):
    return acts - (acts @ directions.T) @ directions


def without_C(W, C, k, v_new):
    return W + torch.outer(k / (k @ k), v_new - k @ W)


def not_divided(W, C, k, v_new):
    return W + torch.outer(torch.linalg.solve(C, k), v_new - k @ W)


def old_value_kept(W, C, k, v_new):
    solved = torch.linalg.solve(C, k)
    return W + torch.outer(solved / (k @ solved), v_new)


def times_C(W, C, k, v_new):
    return W + torch.outer(C @ k / (k @ C @ k), v_new - k @ W)


def update_alone(W, C, k, v_new):
    solved = torch.linalg.solve(C, k)
    return torch.outer(solved / (k @ solved), v_new - k @ W)


def transposed(W, C, k, v_new):
    solved = torch.linalg.solve(C, k)
    return torch.outer(v_new - k @ W, solved / (k @ solved))


WRONG = {
    "patch_along": [any_length, everything, only_removed, on_top, swapped, component_alone],
    "orthogonalise": [not_unit, reading_side, kept, projector_subtracted, in_place],
    "remove_span": [as_if_orthogonal, in_turn, mean_direction, span_kept, raw_rows],
    "rank_one_edit": [
        without_C,
        not_divided,
        old_value_kept,
        times_C,
        update_alone,
        transposed,
    ],
}
