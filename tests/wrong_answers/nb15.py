"""Plausible wrong answers to the exercises of notebook 15."""

from __future__ import annotations

import torch


def normalised(queries, keys, values):
    return (queries @ keys.T).softmax(-1) @ values


def linear(queries, keys, values):
    return queries @ keys.T @ values


def keys_and_values_exchanged(queries, keys, values):
    return (queries @ values.T).relu() @ keys


def best_match_alone(queries, keys, values):
    return values[(queries @ keys.T).argmax(-1)]


def token_itself(acts, following, promoted):
    return (acts.argmax(0) == promoted.argmax(-1)).float().mean()


def weakest_token(acts, following, promoted):
    return (following[acts.argmin(0)] == promoted.argmax(-1)).float().mean()


def one_for_each_neuron(acts, following, promoted):
    return (following[acts.argmax(0)] == promoted.argmax(-1)).float()


def strongest_in_size(acts, following, promoted):
    return (following[acts.abs().argmax(0)] == promoted.argmax(-1)).float().mean()


def explained(grid):
    return 1 - unexplained(grid)


def unexplained(grid):
    centred = grid - grid.mean((0, 1))
    left = centred - centred.mean(0, keepdim=True) - centred.mean(1, keepdim=True)
    return left.square().sum() / centred.square().sum()


def mean_taken_twice(grid):
    left = grid - grid.mean(0, keepdim=True) - grid.mean(1, keepdim=True)
    return left.square().sum() / (grid - grid.mean((0, 1))).square().sum()


def of_the_length(grid):
    centred = grid - grid.mean((0, 1))
    left = centred - centred.mean(0, keepdim=True) - centred.mean(1, keepdim=True)
    return left.square().sum() / grid.square().sum()


def rows_alone(grid):
    centred = grid - grid.mean((0, 1))
    return (centred - centred.mean(1, keepdim=True)).square().sum() / centred.square().sum()


def on_top(W, C, K, V, weight):
    return W + torch.linalg.solve(weight * C + K.T @ K, K.T @ V)


def change_alone(W, C, K, V, weight):
    return torch.linalg.solve(weight * C + K.T @ K, K.T @ (V - K @ W))


def without_weight(W, C, K, V, weight):
    return W + torch.linalg.solve(C + K.T @ K, K.T @ (V - K @ W))


def without_new_keys(W, C, K, V, weight):
    return W + torch.linalg.solve(weight * C, K.T @ (V - K @ W))


def least_squares(W, C, K, V, weight):
    return W + torch.linalg.pinv(K) @ (V - K @ W)


def a_count(acts, following, promoted):
    return (following[acts.argmax(0)] == promoted.argmax(-1)).sum()


def grand_mean_over_dimensions_too(grid):
    left = grid - grid.mean(0, keepdim=True) - grid.mean(1, keepdim=True) + grid.mean()
    return left.square().sum() / (grid - grid.mean()).square().sum()


WRONG = {
    "read_memory": [normalised, linear, keys_and_values_exchanged, best_match_alone],
    "agreement": [token_itself, weakest_token, one_for_each_neuron, strongest_in_size, a_count],
    "interaction_share": [
        explained,
        mean_taken_twice,
        of_the_length,
        rows_alone,
        grand_mean_over_dimensions_too,
    ],
    "insert_many": [on_top, change_alone, without_weight, without_new_keys, least_squares],
}
