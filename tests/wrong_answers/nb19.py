"""Plausible wrong answers to the exercises of notebook 19."""

from __future__ import annotations

import torch


def exchanged(V, U):
    return U[:, :, None] * V[:, None, :]


def summed(V, U):
    return V.T @ U


def without_signs(V, U):
    return (V[:, :, None] * U[:, None, :]).abs()


def below_the_importance(importance, random):
    return importance * random


def above_one(importance, random):
    return importance + random


def the_larger(importance, random):
    return torch.maximum(importance, random)


def on_or_off(importance, random):
    return (random < importance).float()


def no_masks(a, V, U, masks):
    return a @ V.T @ U


def mean_masks(a, V, U, masks):
    return ((a @ V.T) * masks.mean(0)) @ U


def not_written(a, V, U, masks):
    return (a @ V.T) * masks


def not_divided(truth, parts):
    return (truth[:, None] - parts).flatten(2).norm(dim=-1).amin(1)


def the_farthest(truth, parts):
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    return far.amax(1) / truth.flatten(1).norm(dim=-1)


def both_squared(truth, parts):
    far = (truth[:, None] - parts).flatten(2).square().sum(-1)
    return far.amin(1) / truth.flatten(1).square().sum(-1)


def turned_round(truth, parts):
    far = (truth[:, None] - parts).flatten(2).norm(dim=-1)
    return (far / truth.flatten(1).norm(dim=-1)[:, None]).amin(0)


WRONG = {
    "part_matrices": [exchanged, summed, without_signs],
    "random_masks": [below_the_importance, above_one, the_larger, on_or_off],
    "masked_product": [no_masks, mean_masks, not_written],
    "nearest_part": [not_divided, the_farthest, turned_round, both_squared],
}
