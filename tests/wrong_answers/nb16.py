"""Plausible wrong answers to the exercises of notebook 16."""

from __future__ import annotations

import torch


def _kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mean_of_distances(lens, final):
    return _kl(final, lens).mean()


def exchanged(lens, final):
    return _kl(lens.exp().mean(0).log(), final.exp().mean(0).log())


def mean_of_logs(lens, final):
    return _kl(final.mean(0).log_softmax(-1), lens.mean(0).log_softmax(-1))


def one_for_each_token(lens, final):
    return _kl(final, lens)


def first_time(guesses):
    return (guesses == guesses[-1]).long().argmax(0)


def layers_that_agree(guesses):
    return (guesses == guesses[-1]).flip(0).long().cumprod(0).sum(0)


def layers_that_differ(guesses):
    return (guesses != guesses[-1]).sum(0)


def last_that_differs(guesses):
    return len(guesses) - (guesses == guesses[-1]).flip(0).long().cumprod(0).sum(0) - 1


def not_of_length_one(streams, mean, direction):
    return streams - ((streams - mean) @ direction)[:, None] * direction


def set_to_zero(streams, mean, direction):
    unit = direction / direction.norm()
    return streams - (streams @ unit)[:, None] * unit


def what_was_removed(streams, mean, direction):
    unit = direction / direction.norm()
    return ((streams - mean) @ unit)[:, None] * unit


def all_but_the_direction(streams, mean, direction):
    return mean + what_was_removed(streams, mean, direction)


def reversed_sign(usual, odd):
    return (usual[:, None] > odd[None]).double().mean() + (
        usual[:, None] == odd[None]
    ).double().mean() / 2


def ties_for_nothing(usual, odd):
    return (odd[:, None] > usual[None]).double().mean()


def ties_as_wins(usual, odd):
    return (odd[:, None] >= usual[None]).double().mean()


def against_the_mean(usual, odd):
    return (odd > usual.mean()).double().mean()


def one_threshold(usual, odd):
    scores = torch.cat([usual, odd])
    return ((scores > scores.median()) == (torch.arange(len(scores)) >= len(usual))).double().mean()


WRONG = {
    "lens_bias": [mean_of_distances, exchanged, mean_of_logs, one_for_each_token],
    "prediction_depth": [first_time, layers_that_agree, layers_that_differ, last_that_differs],
    "ablate_direction": [
        not_of_length_one,
        set_to_zero,
        what_was_removed,
        all_but_the_direction,
    ],
    "auroc": [reversed_sign, ties_for_nothing, ties_as_wins, against_the_mean, one_threshold],
}
