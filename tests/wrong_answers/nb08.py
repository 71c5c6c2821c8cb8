"""Plausible wrong answers to the exercises of notebook 08."""

from __future__ import annotations

import torch


def bias_untouched(z, W_O, b_O, shift):
    return z + shift, b_O


def moved_twice(z, W_O, b_O, shift):
    return z + shift, b_O + shift @ W_O


def correction_alone(z, W_O, b_O, shift):
    return z + shift, -shift @ W_O


def z_untouched(z, W_O, b_O, shift):
    return z, b_O - shift @ W_O


def z_subtracted(z, W_O, b_O, shift):
    return z - shift, b_O + shift @ W_O


def bias_in_d_head(z, W_O, b_O, shift):
    return z + shift, -shift


def one_tensor(z, W_O, b_O, shift):
    return (z + shift) @ W_O + b_O - shift @ W_O


def _keep(values, count):
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[values.flatten().argsort(descending=True)[:count]] = True
    return mask.view_as(values)


def with_the_sign(scores, share):
    return _keep(scores, round(share * scores.numel()))


def share_of_each_layer(scores, share):
    return torch.stack([_keep(row, round(share * len(row))) for row in scores.abs()])


def smallest(scores, share):
    return _keep(-scores.abs(), round(share * scores.numel()))


def what_goes(scores, share):
    return ~_keep(scores.abs(), round(share * scores.numel()))


def too_many(scores, share):
    return _keep(scores.abs(), round((1 - share) * scores.numel()))


def as_numbers(scores, share):
    return _keep(scores.abs(), round(share * scores.numel())) * scores


def from_the_circuit_alone(answer, circuit, whole, removed):
    return max(abs(answer(circuit - k) - answer(whole)) for k in removed)


def from_the_model_alone(answer, circuit, whole, removed):
    return max(abs(answer(circuit) - answer(whole - k)) for k in removed)


def mean_over_sets(answer, circuit, whole, removed):
    return sum(abs(answer(circuit - k) - answer(whole - k)) for k in removed) / len(removed)


def faithfulness_only(answer, circuit, whole, removed):
    return abs(answer(circuit) - answer(whole))


def signed(answer, circuit, whole, removed):
    return max(answer(circuit - k) - answer(whole - k) for k in removed)


def one_for_each_set(answer, circuit, whole, removed):
    return [abs(answer(circuit - k) - answer(whole - k)) for k in removed]


def _correlation(a, b):
    return torch.corrcoef(torch.stack([a.float(), b.float()]))[0, 1]


def pearson(a, b):
    return _correlation(a, b)


def ties_in_order(a, b):
    return _correlation(*(x.argsort(stable=True).argsort() for x in (a, b)))


def argsort_once(a, b):
    return _correlation(a.argsort(), b.argsort(stable=True))


def lowest_rank(a, b):
    return _correlation(*((x[None] < x[:, None]).sum(1) for x in (a, b)))


def distinct_values(a, b):
    return _correlation(*(x.unique(return_inverse=True)[1] for x in (a, b)))


def the_ranks(a, b):
    return (a[None] < a[:, None]).sum(1)


WRONG = {
    "move_origin": [
        bias_untouched,
        moved_twice,
        correction_alone,
        z_untouched,
        z_subtracted,
        bias_in_d_head,
        one_tensor,
    ],
    "kept_parts": [
        with_the_sign,
        share_of_each_layer,
        smallest,
        what_goes,
        too_many,
        as_numbers,
    ],
    "incompleteness": [
        from_the_circuit_alone,
        from_the_model_alone,
        mean_over_sets,
        faithfulness_only,
        signed,
        one_for_each_set,
    ],
    "tied_rank_correlation": [
        pearson,
        ties_in_order,
        argsort_once,
        lowest_rank,
        distinct_values,
        the_ranks,
    ],
}
