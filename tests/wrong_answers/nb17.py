"""Plausible wrong answers to the exercises of notebook 17."""

from __future__ import annotations

import torch


def _kept(pre, k):
    top = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def without_the_skip(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    return _kept((x @ W_enc + b_enc).relu(), k) @ W_dec + b_dec


def all_active(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    return (x @ W_enc + b_enc).relu() @ W_dec + b_dec + x @ W_skip


def negative_ones_too(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    return _kept(x @ W_enc + b_enc, k) @ W_dec + b_dec + x @ W_skip


def centred_as_an_sae(x, W_enc, b_enc, W_dec, b_dec, W_skip, k):
    return _kept(((x - b_dec) @ W_enc + b_enc).relu(), k) @ W_dec + b_dec + x @ W_skip


def with_their_sign(W_dec, W_enc, unit, count):
    return (W_dec @ W_enc[:, unit]).topk(count).indices


def by_cosine(W_dec, W_enc, unit, count):
    rows = W_dec / W_dec.norm(dim=1, keepdim=True)
    return (rows @ W_enc[:, unit]).abs().topk(count).indices


def the_readers(W_dec, W_enc, unit, count):
    return (W_dec[unit] @ W_enc).abs().topk(count).indices


def their_weights(W_dec, W_enc, unit, count):
    return (W_dec @ W_enc[:, unit]).abs().topk(count).values


def summed(pattern, x, W_V, W_O, direction, query):
    return (pattern @ x @ W_V @ W_O @ direction)[query]


def the_column(pattern, x, W_V, W_O, direction, query):
    return pattern[:, query] * (x @ W_V @ W_O @ direction)


def without_the_pattern(pattern, x, W_V, W_O, direction, query):
    return x @ W_V @ W_O @ direction


def one_value_for_all(pattern, x, W_V, W_O, direction, query):
    return pattern[query] * (x @ W_V @ W_O @ direction)[query]


def _rows(weights, size):
    return size / size.sum(1, keepdim=True).clamp_min(1e-12)


def direct_alone(weights, target):
    return _rows(weights, weights.abs())[target]


def not_divided(weights, target):
    eye = torch.eye(len(weights))
    return (torch.linalg.inv(eye - weights.abs()) - eye)[target]


def with_the_identity(weights, target):
    return torch.linalg.inv(torch.eye(len(weights)) - _rows(weights, weights.abs()))[target]


def two_steps(weights, target):
    A = _rows(weights, weights.abs())
    return (A + A @ A)[target]


def one_too_few(influence, share):
    held = influence.sort(descending=True).values.cumsum(0) / influence.sum()
    return int((held < share).sum())


def weakest_first(influence, share):
    held = influence.sort().values.cumsum(0) / influence.sum()
    return int((held < share).sum()) + 1


def not_sorted(influence, share):
    return int((influence.cumsum(0) / influence.sum() < share).sum()) + 1


def of_their_number(influence, share):
    return round(share * len(influence))


WRONG = {
    "transcode": [without_the_skip, all_active, negative_ones_too, centred_as_an_sae],
    "strongest_inputs": [with_their_sign, by_cosine, the_readers, their_weights],
    "through_head": [summed, the_column, without_the_pattern, one_value_for_all],
    "influence": [direct_alone, not_divided, with_the_identity, two_steps],
    "fewest_nodes": [one_too_few, weakest_first, not_sorted, of_their_number],
}
