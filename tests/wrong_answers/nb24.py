"""Plausible wrong answers to the exercises of notebook 24."""

from __future__ import annotations

import torch


def _errors(x, f, W_dec, b_dec, prefixes):
    said = [f[:, :m] @ W_dec[:m] + b_dec for m in prefixes]
    return torch.stack([(one - x).square().sum(1).mean() for one in said])


def summed_over_prefixes(x, f, W_dec, b_dec, prefixes):
    return _errors(x, f, W_dec, b_dec, prefixes).sum()


def without_the_bias(x, f, W_dec, b_dec, prefixes):
    return _errors(x, f, W_dec, 0 * b_dec, prefixes).mean()


def the_last_alone(x, f, W_dec, b_dec, prefixes):
    return _errors(x, f, W_dec, b_dec, prefixes)[-1]


def with_all_units(x, f, W_dec, b_dec, prefixes):
    return _errors(x, f, W_dec, b_dec, [*prefixes, len(W_dec)]).mean()


def mean_over_dimensions(x, f, W_dec, b_dec, prefixes):
    return _errors(x, f, W_dec, b_dec, prefixes).mean() / x.shape[1]


def _gap(acts, label):
    return acts[label].mean(0) - acts[~label].mean(0)


def with_the_sign(acts, label, k):
    return _gap(acts, label).topk(k).indices


def most_active(acts, label, k):
    return acts[label].mean(0).topk(k).indices


def least_first(acts, label, k):
    return _gap(acts, label).abs().topk(k).indices.flip(0)


def the_differences(acts, label, k):
    return _gap(acts, label).abs().topk(k).values


def less_the_mean_of_all(lost):
    return lost.diagonal().mean() - lost.mean()


def diagonal_alone(lost):
    return lost.diagonal().mean()


def reversed_sign(lost):
    n = len(lost)
    return (lost.sum() - lost.trace()) / (n * n - n) - lost.diagonal().mean()


def divided_by_all(lost):
    return lost.diagonal().mean() - (lost.sum() - lost.trace()) / len(lost) ** 2


def _three(cause, isolation):
    return torch.stack([cause, isolation, (cause + isolation) / 2])


def exchanged(answers, base_answers, source_answers, is_cause):
    cause = (answers == source_answers)[is_cause].double().mean()
    isolation = (answers == base_answers)[~is_cause].double().mean()
    return torch.stack([isolation, cause, (cause + isolation) / 2])


def not_the_source(answers, base_answers, source_answers, is_cause):
    cause = (answers == source_answers)[is_cause].double().mean()
    return _three(cause, (answers != source_answers)[~is_cause].double().mean())


def over_all_pairs(answers, base_answers, source_answers, is_cause):
    brought, kept = answers == source_answers, answers == base_answers
    return _three(brought.double().mean(), kept.double().mean())


def weighed_by_pairs(answers, base_answers, source_answers, is_cause):
    brought, kept = answers == source_answers, answers == base_answers
    right = torch.where(is_cause, brought, kept).double().mean()
    return torch.stack([brought[is_cause].double().mean(), kept[~is_cause].double().mean(), right])


WRONG = {
    "nested_error": [summed_over_prefixes, without_the_bias, the_last_alone, with_all_units,
                     mean_over_dimensions],
    "telling_units": [with_the_sign, most_active, least_first, the_differences],
    "targeted": [less_the_mean_of_all, diagonal_alone, reversed_sign, divided_by_all],
    "disentangled": [exchanged, not_the_source, over_all_pairs, weighed_by_pairs],
}  # fmt: skip
