"""Plausible wrong answers to the exercises of notebook 10."""

from __future__ import annotations

import torch


def _keep(values, count):
    flat = values.flatten()
    top = flat.topk(count)
    return torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(values)


def topk_of_each(pre, k):
    top = pre.relu().topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def k_of_all(pre, k):
    return _keep(pre.relu(), k)


def by_size(pre, k):
    return _keep(pre.abs(), k * len(pre)) * pre.sign()


def negative_too(pre, k):
    return _keep(pre, k * len(pre))


def only_the_mask(pre, k):
    return (_keep(pre.relu(), k * len(pre)) > 0).float()


def flat(pre, k):
    return pre.relu().flatten().topk(k * len(pre)).values


def _cosines(truth, dictionary):
    one, other = (rows / rows.norm(dim=-1, keepdim=True) for rows in (truth, dictionary))
    return one @ other.T


def for_each_unit(truth, dictionary):
    return _cosines(truth, dictionary).amax(0)


def dot_products(truth, dictionary):
    return (truth @ dictionary.T).amax(1)


def lengths_of_the_truth(truth, dictionary):
    return (truth @ dictionary.T / truth.norm(dim=-1, keepdim=True)).amax(1)


def lengths_of_the_units(truth, dictionary):
    return (truth @ dictionary.T / dictionary.norm(dim=-1)).amax(1)


def either_way(truth, dictionary):
    return _cosines(truth, dictionary).abs().amax(1)


def of_all_units(truth, dictionary):
    return _cosines(truth, dictionary).mean(1)


def which_unit(truth, dictionary):
    return _cosines(truth, dictionary).argmax(1).float()


def in_place(truth, dictionary):
    truth /= truth.norm(dim=-1, keepdim=True)
    dictionary /= dictionary.norm(dim=-1, keepdim=True)
    return (truth @ dictionary.T).amax(1)


def from_zero(x, x_hat):
    return 1 - (x - x_hat).square().sum() / x.square().sum()


def one_mean(x, x_hat):
    return 1 - (x - x_hat).square().sum() / (x - x.mean()).square().sum()


def unexplained(x, x_hat):
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def per_dimension(x, x_hat):
    return (1 - (x - x_hat).square().sum(0) / (x - x.mean(0)).square().sum(0)).mean()


def a_vector(x, x_hat):
    return 1 - (x - x_hat).square().sum(0) / (x - x.mean(0)).square().sum(0)


def _counts(acts, label):
    yes = acts > 0
    right = (yes & label).sum().item()
    return right, max(1, yes.sum().item()), max(1, label.sum().item())


def _scores(acts, label):
    right, said, there = _counts(acts, label)
    precision, recall = right / said, right / there
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def exchanged(acts, label):
    precision, recall, f1 = _scores(acts, label)
    return recall, precision, f1


def plain_mean(acts, label):
    precision, recall, _ = _scores(acts, label)
    return precision, recall, (precision + recall) / 2


def without_the_two(acts, label):
    precision, recall, f1 = _scores(acts, label)
    return precision, recall, f1 / 2


def accuracy(acts, label):
    _, recall, f1 = _scores(acts, label)
    return ((acts > 0) == label).float().mean().item(), recall, f1


def silence_breaks(acts, label):
    right = ((acts > 0) & label).sum().item()
    precision, recall = right / (acts > 0).sum().item(), right / label.sum().item()
    return precision, recall, 2 * precision * recall / (precision + recall)


def two_numbers(acts, label):
    return _scores(acts, label)[:2]


WRONG = {
    "batch_topk": [topk_of_each, k_of_all, by_size, negative_too, only_the_mask, flat],
    "nearest_cosine": [
        for_each_unit,
        dot_products,
        lengths_of_the_truth,
        lengths_of_the_units,
        either_way,
        of_all_units,
        which_unit,
        in_place,
    ],
    "explained_variance": [from_zero, one_mean, unexplained, per_dimension, a_vector],
    "detector_scores": [
        exchanged,
        plain_mean,
        without_the_two,
        accuracy,
        silence_breaks,
        two_numbers,
    ],
}
