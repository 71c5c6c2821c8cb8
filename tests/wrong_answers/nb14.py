"""Plausible wrong answers to the exercises of notebook 14."""

from __future__ import annotations

import torch


def _standard(acts):
    centred = acts - acts.mean(0)
    return centred / centred.norm(dim=0)


def whatever_the_sign(a, b):
    return (_standard(a).T @ _standard(b)).abs().max(dim=1)


def the_other_way_round(a, b):
    return (_standard(a).T @ _standard(b)).max(dim=0)


def covariances(a, b):
    return ((a - a.mean(0)).T @ (b - b.mean(0)) / len(a)).max(dim=1)


def cosines(a, b):
    return ((a / a.norm(dim=0)).T @ (b / b.norm(dim=0))).max(dim=1)


def not_centred(x, y):
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def centred_by_token(x, y):
    return not_centred(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def not_squared(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).norm() / ((x.T @ x).norm() * (y.T @ y).norm())


def norms_of_the_streams(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).square().sum() / (x.norm() * y.norm())


def in_any_model(matches, threshold):
    return (matches > threshold).any(0).float().mean()


def mean_first(matches, threshold):
    return (matches.mean(0) > threshold).float().mean()


def of_all_pairs(matches, threshold):
    return (matches > threshold).float().mean()


def a_count(matches, threshold):
    return (matches > threshold).all(0).sum()


def chosen_once(correlations):
    there = correlations.argmax(1)
    return torch.bincount(there, minlength=correlations.shape[1])[there] == 1


def of_the_second_network(correlations):
    there, back = correlations.argmax(1), correlations.argmax(0)
    return there[back] == torch.arange(correlations.shape[1])


def chosen_by_any(correlations):
    return torch.isin(torch.arange(len(correlations)), correlations.argmax(0))


WRONG = {
    "best_match": [whatever_the_sign, the_other_way_round, covariances, cosines],
    "linear_cka": [not_centred, centred_by_token, not_squared, norms_of_the_streams],
    "recurring_share": [in_any_model, mean_first, of_all_pairs, a_count],
    "mutual_matches": [chosen_once, of_the_second_network, chosen_by_any],
}
