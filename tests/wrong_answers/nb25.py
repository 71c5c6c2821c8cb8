"""Plausible wrong answers to the exercises of notebook 25."""

from __future__ import annotations

import torch


def from_the_start_on(probs, starts):
    later = torch.arange(100) >= starts[:, None]
    return torch.where(later, probs, -probs).sum(-1)


def start_nowhere(probs, starts):
    years = torch.arange(100)
    return (probs * (years > starts[:, None])).sum(-1) - (probs * (years < starts[:, None])).sum(-1)


def earlier_minus_later(probs, starts):
    return torch.where(torch.arange(100) > starts[:, None], -probs, probs).sum(-1)


def later_alone(probs, starts):
    return (probs * (torch.arange(100) > starts[:, None])).sum(-1)


def means(probs, starts):
    later = torch.arange(100) > starts[:, None]
    some = (probs * later).sum(-1) / later.sum(-1)
    return some - (probs * ~later).sum(-1) / (~later).sum(-1)


def among_years(probs, starts):
    later = torch.arange(100) > starts[:, None]
    return torch.where(later, probs, -probs).sum(-1) / probs.sum(-1)


def nine_forgotten(starts):
    decade, own = torch.arange(10), starts[:, None] // 10
    return (decade > own).float() - (decade < own).float()


def own_decade_wrong(starts):
    decade, own = torch.arange(10), starts[:, None] // 10
    return (decade > own).float() - (decade <= own).float()


def own_decade_right(starts):
    decade, own = torch.arange(10), starts[:, None] // 10
    return (decade >= own).float() - (decade < own).float()


def decade_against_year(starts):
    decade = torch.arange(10)
    return (decade > starts[:, None]).float() - (decade <= starts[:, None]).float()


def zero_is_later(starts):
    first = 10 * torch.arange(10)
    return (first >= starts[:, None]).float() - (first + 9 <= starts[:, None]).float()


def positions_summed(change, gradient):
    return torch.einsum("wbpd,rbpd->rw", change, gradient) / change.shape[1]


def prompts_summed(change, gradient):
    return torch.einsum("wbpd,rbpd->prw", change, gradient)


def writers_first(change, gradient):
    return torch.einsum("wbpd,rbpd->pwr", change, gradient) / change.shape[1]


def sizes(change, gradient):
    return torch.einsum("wbpd,rbpd->prw", change, gradient).abs() / change.shape[1]


def product_of_means(change, gradient):
    return torch.einsum("wpd,rpd->prw", change.mean(1), gradient.mean(1))


def kept_alone(now, corrupt, kept):
    return (now * kept[..., None]).sum(0)


def exchanged(now, corrupt, kept):
    return torch.where(kept[..., None], corrupt, now).sum(0)


def at_all_positions(now, corrupt, kept):
    anywhere = kept.any(1, keepdim=True)[..., None]
    return torch.where(anywhere, now, corrupt).sum(0)


def mean_of_writers(now, corrupt, kept):
    return torch.where(kept[..., None], now, corrupt).mean(0)


WRONG = {
    "probability_difference": [
        from_the_start_on, start_nowhere, earlier_minus_later, later_alone, means, among_years,
    ],
    "decade_signs": [
        nine_forgotten, own_decade_wrong, own_decade_right, decade_against_year, zero_is_later,
    ],
    "position_scores": [
        positions_summed, prompts_summed, writers_first, sizes, product_of_means,
    ],
    "reads_at": [kept_alone, exchanged, at_all_positions, mean_of_writers],
}  # fmt: skip
