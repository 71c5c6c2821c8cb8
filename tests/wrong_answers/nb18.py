"""Plausible wrong answers to the exercises of notebook 18."""

from __future__ import annotations


def _lengths(W_dec, widths):
    one, two = W_dec.split(list(widths), dim=1)
    return one.norm(dim=1), two.norm(dim=1)


def the_first(W_dec, widths):
    a, b = _lengths(W_dec, widths)
    return a / (a + b)


def of_the_whole_row(W_dec, widths):
    return _lengths(W_dec, widths)[1] / W_dec.norm(dim=1)


def squared(W_dec, widths):
    a, b = _lengths(W_dec, widths)
    return b**2 / (a**2 + b**2)


def cut_in_the_middle(W_dec, widths):
    n = W_dec.shape[1] // 2
    a, b = W_dec[:, :n].norm(dim=1), W_dec[:, n:].norm(dim=1)
    return b / (a + b)


def of_each_other(W_dec, widths):
    a, b = _lengths(W_dec, widths)
    return b / a


def whole_rows(f, W_dec, widths):
    return (f * W_dec.norm(dim=1)).sum(1).mean()


def not_weighed(f, W_dec, widths):
    return f.sum(1).mean()


def mean_over_units(f, W_dec, widths):
    return (f * sum(_lengths(W_dec, widths))).mean()


def first_place(f, W_dec, widths):
    return (f * _lengths(W_dec, widths)[0]).sum(1).mean()


def without_the_direction(f, direction, target):
    return f @ target @ direction / f.square().sum()


def without_the_strength(f, direction, target):
    return f @ target @ direction / direction.square().sum()


def a_cosine(f, direction, target):
    return f @ target @ direction / (f.norm() * target.norm() * direction.norm())


def centred(f, direction, target):
    f = f - f.mean()
    return f @ target @ direction / (f.square().sum() * direction.square().sum())


def by_the_length(f, direction, target):
    written = f[:, None] * direction
    return (written * target).sum() / written.norm()


def of_means(f, direction, target):
    return (target @ direction).mean() / f.mean()


def the_other_way(f, W_dec, d, units):
    return f[:, units] @ (W_dec[units, :d] - W_dec[units, d:])


def the_second_alone(f, W_dec, d, units):
    return f[:, units] @ W_dec[units, d:]


def all_units(f, W_dec, d, units):
    return f @ (W_dec[:, d:] - W_dec[:, :d])


def without_activations(f, W_dec, d, units):
    return (W_dec[units, d:] - W_dec[units, :d]).sum(0).expand(len(f), d)


WRONG = {
    "relative_norms": [the_first, of_the_whole_row, squared, cut_in_the_middle, of_each_other],
    "penalty": [whole_rows, not_weighed, mean_over_units, first_place],
    "latent_scale": [
        without_the_direction,
        without_the_strength,
        a_cosine,
        centred,
        by_the_length,
        of_means,
    ],
    "held_difference": [the_other_way, the_second_alone, all_units, without_activations],
}
