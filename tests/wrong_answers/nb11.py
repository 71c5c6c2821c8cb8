"""Plausible wrong answers to the exercises of notebook 11."""

from __future__ import annotations

import torch


def _at(order, quantiles):
    return [int(order[round(q * (len(order) - 1))]) for q in quantiles]


def silent_ones_too(acts, quantiles):
    return _at(acts.argsort(), quantiles)


def strong_to_weak(acts, quantiles):
    positive = (acts > 0).nonzero()[:, 0]
    return _at(positive[acts[positive].argsort(descending=True)], quantiles)


def not_mapped_back(acts, quantiles):
    return _at(acts[acts > 0].argsort(), quantiles)


def shares_of_the_peak(acts, quantiles):
    positive = (acts > 0).nonzero()[:, 0]
    peak = acts.max()
    return [int(positive[(acts[positive] - q * peak).abs().argmin()]) for q in quantiles]


def the_top(acts, quantiles):
    return acts.topk(len(quantiles)).indices.tolist()


def activations_themselves(acts, quantiles):
    return [float(acts[acts > 0].quantile(q)) for q in quantiles]


def without_sorting(acts, quantiles):
    return _at((acts > 0).nonzero()[:, 0], quantiles)


def _bands(values, bands):
    return torch.stack([part.float().mean() for part in values.tensor_split(bands)])


def bands_with_zeros(acts, holds, bands):
    return _bands(holds[acts.argsort()], bands)


def bands_from_strong_to_weak(acts, holds, bands):
    on = acts > 0
    return _bands(holds[on][acts[on].argsort(descending=True)], bands)


def equally_wide(acts, holds, bands):
    edges = torch.linspace(0, float(acts.max()), bands + 1)
    out = []
    for low, high in zip(edges, edges[1:], strict=False):
        part = holds[(acts > low) & (acts <= high)]
        out.append(part.float().mean() if len(part) else torch.tensor(0.0))
    return torch.stack(out)


def unsorted_bands(acts, holds, bands):
    return _bands(holds[acts > 0], bands)


def recall_by_band(acts, holds, bands):
    on = acts > 0
    parts = holds[on][acts[on].argsort()].tensor_split(bands)
    return torch.stack([part.sum() / holds.sum() for part in parts])


def counts_by_band(acts, holds, bands):
    on = acts > 0
    return torch.stack([p.sum() for p in holds[on][acts[on].argsort()].tensor_split(bands)]).float()


def one_precision(acts, holds, bands):
    return holds[acts > 0].float().mean()


def added_on_top(x, f, W_dec, i, value):
    return x + value * W_dec[i]


def through_the_reconstruction(x, f, W_dec, i, value):
    f = f.clone()
    f[:, i] = value
    return f @ W_dec


def ablated_only(x, f, W_dec, i, value):
    return x - f[:, i, None] * W_dec[i]


def reversed_step(x, f, W_dec, i, value):
    return x - (value - f[:, i, None]) * W_dec[i]


def step_alone(x, f, W_dec, i, value):
    return (value - f[:, i, None]) * W_dec[i]


def from_the_mean(x, f, W_dec, i, value):
    return x + (value - f[:, i].mean()) * W_dec[i]


def in_place(x, f, W_dec, i, value):
    x += (value - f[:, i, None]) * W_dec[i]
    return x


def gradient_alone(f, gradient, W_dec):
    return (gradient @ W_dec.T).sum(0)


def activation_alone(f, gradient, W_dec):
    return f.sum(0)


def size_of_the_sum(f, gradient, W_dec):
    return (f * (gradient @ W_dec.T)).sum(0).abs()


def sum_of_sizes(f, gradient, W_dec):
    return (f * (gradient @ W_dec.T)).abs().sum(0)


def minus_sign(f, gradient, W_dec):
    return -(f * (gradient @ W_dec.T)).sum(0)


def mean_over_positions(f, gradient, W_dec):
    return (f * (gradient @ W_dec.T)).mean(0)


def sums_first(f, gradient, W_dec):
    return f.sum(0) * (gradient @ W_dec.T).sum(0)


def positions_kept(f, gradient, W_dec):
    return f * (gradient @ W_dec.T)


def last_position(f, gradient, W_dec):
    return (f * (gradient @ W_dec.T))[-1]


def _first(reached):
    found = reached.nonzero()
    return int(found[0]) if len(found) else -1


def of_the_clean_metric(restored, corrupt, clean, share):
    return _first(restored >= share * clean)


def one_too_few(restored, corrupt, clean, share):
    return _first((restored - corrupt) / (clean - corrupt) >= share) - 1


def one_too_many(restored, corrupt, clean, share):
    return _first((restored - corrupt) / (clean - corrupt) >= share) + 1


def where_it_stays(restored, corrupt, clean, share):
    below = ((restored - corrupt) / (clean - corrupt) < share).nonzero()
    return int(below[-1]) + 1


def all_when_never(restored, corrupt, clean, share):
    found = _first((restored - corrupt) / (clean - corrupt) >= share)
    return len(restored) - 1 if found == -1 else found


def without_the_gap(restored, corrupt, clean, share):
    return _first(restored - corrupt >= share)


def only_upwards(restored, corrupt, clean, share):
    return _first(restored >= corrupt + share * (clean - corrupt))


WRONG = {
    "at_quantiles": [
        silent_ones_too, strong_to_weak, not_mapped_back, shares_of_the_peak, the_top,
        activations_themselves, without_sorting,
    ],
    "precision_by_band": [
        bands_with_zeros, bands_from_strong_to_weak, equally_wide, unsorted_bands, recall_by_band,
        counts_by_band, one_precision,
    ],
    "clamp_unit": [
        added_on_top, through_the_reconstruction, ablated_only, reversed_step, step_alone,
        from_the_mean, in_place,
    ],
    "unit_attribution": [
        gradient_alone, activation_alone, size_of_the_sum, sum_of_sizes, minus_sign,
        mean_over_positions, sums_first, positions_kept, last_position,
    ],
    "units_needed": [
        of_the_clean_metric, one_too_few, one_too_many, where_it_stays, all_when_never,
        without_the_gap, only_upwards,
    ],
}  # fmt: skip
