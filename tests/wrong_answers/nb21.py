"""Plausible wrong answers to the exercises of notebook 21."""

from __future__ import annotations

import torch


def not_inverted(matrices):
    return torch.einsum("aij,bjk,cki->abc", matrices, matrices, matrices)


def reversed_order(matrices):
    return torch.einsum("bij,ajk,cik->abc", matrices, matrices, matrices)


def every_entry(matrices):
    return torch.einsum("aij,bjk,clk->abc", matrices, matrices, matrices)


def mean_of_diagonal(matrices):
    return torch.einsum("aij,bjk,cik->abc", matrices, matrices, matrices) / matrices.shape[-1]


def _inverse(table):
    return (table == 0).int().argmax(1)


def without_factor(function, chi, table):
    return chi[table[_inverse(table)]] @ function


def by_elements(function, chi, table):
    return chi[0] / len(chi) * chi[table[_inverse(table)]] @ function


def without_dimension(function, chi, table):
    return chi[table[_inverse(table)]] @ function / len(chi)


def nothing_inverted(function, chi, table):
    return chi[0] / len(chi) * chi[table] @ function


def pointwise(function, chi, table):
    return chi[0] / len(chi) * chi * function


def the_rest(function, chi, table):
    return function - chi[0] / len(chi) * chi[table[_inverse(table)]] @ function


def right_cosets(function, table, subgroup):
    centred = function - function.mean()
    return centred[table[subgroup]].mean(0).square().sum() / centred.square().sum()


def with_the_mean(function, table, subgroup):
    return function[table[:, subgroup]].mean(1).square().sum() / function.square().sum()


def within(function, table, subgroup):
    centred = function - function.mean()
    return 1 - centred[table[:, subgroup]].mean(1).square().sum() / centred.square().sum()


def summed(function, table, subgroup):
    centred = function - function.mean()
    return centred[table[:, subgroup]].sum(1).square().sum() / centred.square().sum()


def the_other_axis(function, table, subgroup):
    return function[table[:, subgroup]].mean(0).var() / function.var()


def two_of_each(function, table, subgroup):
    centred = function - function.mean()
    means = (centred + centred[table[:, subgroup[1]]]) / 2
    return means.square().sum() / centred.square().sum()


def _counts(learned):
    both = (learned[:, None] & learned).sum(-1).double()
    either = (learned[:, None] | learned).sum(-1).double()
    return both, either, torch.ones(len(learned), len(learned)).triu(1).bool()


def with_itself(learned):
    both, either, _ = _counts(learned)
    return (both / either).mean()


def over_the_whole_square(learned):
    both, either, _ = _counts(learned)
    return (both / either).triu(1).mean()


def of_all_irreps(learned):
    both, _, pairs = _counts(learned)
    return both[pairs].mean() / learned.shape[1]


def ratio_of_sums(learned):
    both, either, pairs = _counts(learned)
    return both[pairs].sum() / either[pairs].sum()


def of_all_seeds(learned):
    return learned.all(0).sum() / learned.any(0).sum()


def agreement(learned):
    _, _, pairs = _counts(learned)
    return (learned[:, None] == learned).double().mean(-1)[pairs].mean()


WRONG = {
    "trace_logits": [not_inverted, reversed_order, every_entry, mean_of_diagonal],
    "part_in_irrep": [
        without_factor,
        without_dimension,
        by_elements,
        nothing_inverted,
        pointwise,
        the_rest,
    ],
    "coset_share": [right_cosets, with_the_mean, within, summed, the_other_axis, two_of_each],
    "overlap": [
        with_itself,
        over_the_whole_square,
        of_all_irreps,
        ratio_of_sums,
        of_all_seeds,
        agreement,
    ],
}
