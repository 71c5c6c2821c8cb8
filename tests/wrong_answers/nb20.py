"""Plausible wrong answers to the exercises of notebook 20."""

from __future__ import annotations

import torch


def _left(pairs, p):
    return pairs.sum(-1)[:, None] - torch.arange(p)


def forgot_the_answer_is_subtracted(pairs, p, frequencies):
    total = pairs.sum(-1)[:, None] + torch.arange(p)
    return sum((2 * torch.pi * k * total / p).cos() for k in frequencies)


def sine(pairs, p, frequencies):
    return sum((2 * torch.pi * k * _left(pairs, p) / p).sin() for k in frequencies)


def without_two_pi(pairs, p, frequencies):
    return sum((k * _left(pairs, p) / p).cos() for k in frequencies)


def mean_of_waves(pairs, p, frequencies):
    waves = [(2 * torch.pi * k * _left(pairs, p) / p).cos() for k in frequencies]
    return torch.stack(waves).mean(0)


def frequencies_added_up(pairs, p, frequencies):
    return (2 * torch.pi * sum(frequencies) * _left(pairs, p) / p).cos()


def for_all_pairs(pairs, p, frequencies):
    return sum((2 * torch.pi * k * torch.arange(p) / p).cos() for k in frequencies)


def _waves(p):
    angles = 2 * torch.pi * torch.arange(1, p // 2 + 1)[:, None] * torch.arange(p) / p
    rows = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1)
    rows = torch.cat([torch.ones(1, p), rows])
    return rows / rows.norm(dim=-1, keepdim=True)


def _folded(power):
    return torch.cat([power[:1], power[1:].unflatten(0, (-1, 2)).sum(1)])


def cosines_only(embed):
    power = (_waves(len(embed)) @ embed).square().sum(-1)
    return torch.cat([power[:1], power[1::2]])


def not_folded(embed):
    return (_waves(len(embed)) @ embed).square().sum(-1)


def lengths(embed):
    return _folded((_waves(len(embed)) @ embed).square().sum(-1)).sqrt()


def waves_as_they_are(embed):
    return torch.fft.rfft(embed, dim=0).abs().square().sum(-1)


def summed_first(embed):
    return _folded((_waves(len(embed)) @ embed).sum(-1).square())


def _power(acts, k):
    power = (_waves(len(acts)) @ acts @ _waves(len(acts)).T).square()
    return power, [2 * k - 1, 2 * k]


def without_products(acts, k):
    power, rows = _power(acts, k)
    return (power[rows, 0].sum() + power[0, rows].sum()) / (power.sum() - power[0, 0])


def products_alone(acts, k):
    power, rows = _power(acts, k)
    return power[rows][:, rows].sum() / (power.sum() - power[0, 0])


def of_the_whole_power(acts, k):
    power, rows = _power(acts, k)
    inside = power[rows, 0].sum() + power[0, rows].sum() + power[rows][:, rows].sum()
    return inside / power.sum()


def constant_explained(acts, k):
    power, rows = _power(acts, k)
    return power[[0, *rows]][:, [0, *rows]].sum() / power.sum()


def not_a_share(acts, k):
    power, rows = _power(acts, k)
    return power[rows, 0].sum() + power[0, rows].sum() + power[rows][:, rows].sum()


def _part(logits, rows):
    p = len(logits)
    sums = (torch.arange(p)[:, None] + torch.arange(p)) % p
    by_sum = torch.zeros(p, p).index_add(0, sums.flatten(), logits.flatten(0, 1)) / p
    waves = _waves(p)[rows]
    return (waves.T @ (waves @ by_sum))[sums]


def _rows(frequencies):
    return [row for k in frequencies for row in (2 * k - 1, 2 * k)]


def kept_instead(logits, frequencies):
    return _part(logits, _rows(frequencies))


def constant_removed_too(logits, frequencies):
    return logits - _part(logits, [0, *_rows(frequencies)])


def cosine_left_out(logits, frequencies):
    return logits - _part(logits, _rows(frequencies)[1::2])


def waves_in_a(logits, frequencies):
    waves = _waves(len(logits))[_rows(frequencies)]
    return logits - torch.einsum("wa,wx,xbc->abc", waves, waves, logits)


def the_first_alone(logits, frequencies):
    return logits - _part(logits, _rows(frequencies[:1]))


def nothing_removed(logits, frequencies):
    return logits.clone()


WRONG = {
    "clock_logits": [
        forgot_the_answer_is_subtracted,
        sine,
        without_two_pi,
        mean_of_waves,
        frequencies_added_up,
        for_all_pairs,
    ],
    "power_by_frequency": [
        cosines_only,
        not_folded,
        lengths,
        waves_as_they_are,
        summed_first,
    ],
    "share_of_frequency": [
        without_products,
        products_alone,
        of_the_whole_power,
        constant_explained,
        not_a_share,
    ],
    "without_frequencies": [
        kept_instead,
        constant_removed_too,
        cosine_left_out,
        waves_in_a,
        the_first_alone,
        nothing_removed,
    ],
}
