"""Checks of notebook 21: traces as logits, parts by irrep, overlap of seeds, coset shares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _permutations(n: int, generators: list[list[int]]) -> Tensor:
    """All products of some permutations, the identity first."""
    found = [tuple(range(n))]
    for known in found:
        for g in generators:
            product = tuple(known[i] for i in g)
            if product not in found:
                found.append(product)
    return torch.tensor(found)


_GROUPS = (
    _permutations(3, [[1, 2, 0], [1, 0, 2]]),
    _permutations(4, [[1, 2, 3, 0], [3, 2, 1, 0]]),
    _permutations(5, [[1, 2, 3, 4, 0], [4, 3, 2, 1, 0]]),
)
"""The symmetries of a triangle, a square and a pentagon."""
_TURNS = _permutations(5, [[1, 2, 3, 4, 0]])
"""Those of the pentagon that do not reflect it: squares of their characters sum to more than n."""
_ORDERS = _permutations(4, [[1, 2, 3, 0], [1, 0, 2, 3]])
"""The orders of four things."""


def _table(elements: Tensor) -> Tensor:
    products = elements[:, elements]
    same = (products[:, :, None] == elements).all(-1)
    return same.int().argmax(-1)


def _turned(elements: Tensor, rng: torch.Generator) -> Tensor:
    """Permutation matrices in a basis drawn at random: orthogonal, and not symmetric."""
    n = elements.shape[1]
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=rng))
    return basis @ torch.eye(n)[:, elements].movedim(1, 0) @ basis.T


def _trace(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.einsum("aij,bjk,cki->abc", a, b, c)


def _trace_logits(matrices: Tensor) -> Tensor:
    return _trace(matrices, matrices, matrices.mT)


@exercise
def trace_logits(answer: Any, rng: torch.Generator) -> None:
    """The trace of M(a) M(b) M(c)^-1, for all triples."""
    for at in distinct(rng, 0, len(_GROUPS)):
        m = _turned(_GROUPS[at], rng)
        total = torch.einsum("aij,bjk,clk->abcil", m, m, m)
        mistakes = {
            "The matrix of c must be inverted: the product is to be the identity at c = ab.": (
                _trace(m, m, m)
            ),
            "The order is reversed: M(a) M(b), for b is done first.": (
                torch.einsum("bij,ajk,cki->abc", m, m, m.mT)
            ),
            "You summed all entries of the product. The trace sums its diagonal.": (
                total.sum((-2, -1))
            ),
            "You averaged over the diagonal. The trace is a sum.": (_trace_logits(m) / m.shape[-1]),
            "You inverted the matrices of a and b, and not that of c.": _trace(m.mT, m.mT, m),
            "This is M(a) M(b) alone, the same for every answer c.": (
                torch.einsum("aij,bji->ab", m, m)[..., None].expand(-1, -1, len(m))
            ),
        }
        inputs = {f"matrices ({len(m)} elements)": m}
        hint = f"One number for each a, b and c: {len(m)} along each axis."
        compare(answer, _trace_logits, inputs, mistakes, hint=hint, atol=1e-4)


def _inverse(table: Tensor) -> Tensor:
    return (table == 0).int().argmax(1)


def _part(function: Tensor, chi: Tensor, table: Tensor) -> Tensor:
    return chi[0] / chi.square().sum() * chi[table[_inverse(table)]] @ function


@exercise
def part_in_irrep(answer: Any, rng: torch.Generator) -> None:
    """The part of a function on a group that lies in one irrep."""
    for elements in (_GROUPS[int(torch.randint(3, (), generator=rng))], _TURNS):
        table, n = _table(elements), len(elements)
        fixed = (elements == torch.arange(elements.shape[1])).sum(1).float()
        signs = torch.linalg.det(torch.eye(elements.shape[1])[elements]).round()
        turns = torch.arange(elements.shape[1])
        plane = torch.stack([(2 * torch.pi * turns / len(turns)).cos(),
                             (2 * torch.pi * turns / len(turns)).sin()])  # fmt: skip
        chi = torch.stack([(plane * plane[:, e]).sum() for e in elements]) * 2 / len(turns)
        function = torch.randn(n, generator=rng) + 0.5 * fixed + signs
        quotient = table[_inverse(table)]
        mistakes = {
            "The factor is missing: chi of the identity over the sum of chi's squares.": (
                chi[quotient] @ function
            ),
            "Divide by the sum of the squares of chi.": chi[0] * chi[quotient] @ function,
            "Multiply by the dimension, which is chi of the identity.": (
                chi[quotient] @ function / n
            ),
            "You took chi(a b). Invert one of the two: chi(a^-1 b).": (
                chi[0] / n * chi[table] @ function
            ),
            "You multiplied the function by chi. The part is a sum over b for each a.": (
                chi[0] / n * chi * function
            ),
            "This is what is left without the part.": function - _part(function, chi, table),
            "This is one number, the overlap with chi. The part is a function.": (
                (chi * function).mean() * chi
            ),
        }
        if elements is _TURNS:
            by_elements = chi[0] / n * chi[quotient] @ function
            mistakes["Divide by the sum of chi's squares; that is not always the order."] = (
                by_elements
            )
        inputs = {f"function ({n} elements)": function, "chi": chi, "table": table}
        hint = "One number for each element, like the function."
        compare(answer, _part, inputs, mistakes, hint=hint, atol=1e-4)


def _overlap(learned: Tensor) -> Tensor:
    both = (learned[:, None] & learned).sum(-1).double()
    either = (learned[:, None] | learned).sum(-1).double()
    pairs = torch.ones(len(learned), len(learned)).triu(1).bool()
    return (both / either)[pairs].mean()


@exercise
def overlap(answer: Any, rng: torch.Generator) -> None:
    """The mean over pairs of seeds: irreps that both learned over those that either did."""
    for seeds in distinct(rng, 3, 7):
        learned = torch.rand(seeds, 9, generator=rng) < torch.rand(seeds, 1, generator=rng)
        learned[:, 0] = True  # nobody has learned nothing
        learned[0, :3], learned[1, 1:] = True, False
        both = (learned[:, None] & learned).sum(-1).double()
        either = (learned[:, None] | learned).sum(-1).double()
        pairs = torch.ones(seeds, seeds).triu(1).bool()
        mistakes = {
            "Each seed is compared with itself, too. Take pairs of different seeds.": (
                (both / either).mean()
            ),
            "You took the mean over the whole square of pairs, with noughts in it. Pick the pairs "
            "above the diagonal, and take their mean.": (both / either).triu(1).mean(),
            "You divided by all irreps. Divide by those that at least one of the two learned.": (
                both[pairs].mean() / 9
            ),
            "Take the ratio in each pair first, and then the mean.": (
                both[pairs].sum() / either[pairs].sum()
            ),
            "These are counts. Divide by how many either of the two learned.": both[pairs].mean(),
            "You count irreps that both lack as shared. Count those that both learned.": (
                (learned[:, None] == learned).double().mean(-1)[pairs].mean()
            ),
            "You compared all seeds at once. Compare pairs.": (
                learned.all(0).sum() / learned.any(0).sum()
            ),
        }
        inputs = {f"learned ({seeds} seeds)": learned}
        compare(answer, _overlap, inputs, mistakes, hint="One number from 0 to 1.", atol=1e-5)


def _coset_share(function: Tensor, table: Tensor, subgroup: Tensor) -> Tensor:
    centred = function - function.mean()
    means = centred[table[:, subgroup]].mean(1)
    return means.square().sum() / centred.square().sum()


@exercise
def coset_share(answer: Any, rng: torch.Generator) -> None:
    """The share of a function's variance that lies between the left cosets of a subgroup."""
    for elements in (_GROUPS[int(torch.randint(3, (), generator=rng))], _ORDERS):
        table, n = _table(elements), len(elements)
        if elements is _ORDERS:  # what leaves one thing alone
            place = torch.randint(4, (), generator=rng)
            subgroup = (elements[:, place] == place).nonzero()[:, 0]
        else:  # a reflection: its left and right cosets differ
            flips = [i for i in range(1, n) if table[i, i] == 0 and (table[i] != table[:, i]).any()]
            subgroup = torch.tensor([0, flips[int(torch.randint(len(flips), (), generator=rng))]])
        function = torch.randn(n, generator=rng)
        function = function + 0.7 * function[table[:, subgroup[1]]] + 1.0
        centred = function - function.mean()
        left = centred[table[:, subgroup]].mean(1)
        right = centred[table[subgroup]].mean(0)
        raw = function[table[:, subgroup]].mean(1)
        whole = centred.square().sum()
        mistakes = {
            "These are right cosets, h a. Left cosets are a h, with h from the subgroup.": (
                right.square().sum() / whole
            ),
            "The mean does not vary: take it out first.": (
                raw.square().sum() / function.square().sum()
            ),
            "This is the share within cosets. Return the share between them.": (
                1 - left.square().sum() / whole
            ),
            "This is what lies between cosets, not its share: divide by the whole.": (
                left.square().sum()
            ),
            "You averaged over the elements, not within a coset: the other axis of "
            "`function[table[:, subgroup]]`.": (
                centred[table[:, subgroup]].mean(0).square().sum() / whole
            ),
            "You averaged, and did not square.": left.abs().sum() / centred.abs().sum(),
            "You took the root: a share of variance is one of squares.": (
                (left.square().sum() / whole).sqrt()
            ),
            "You summed over each coset. Take the mean.": (
                len(subgroup) ** 2 * left.square().sum() / whole
            ),
        }
        if len(subgroup) > 2:
            pair = centred[table[:, subgroup[:2]]].mean(1).square().sum() / whole
            mistakes["You averaged two elements of each coset. Average all of them."] = pair
        inputs = {f"function ({n} elements)": function, "table": table, "subgroup": subgroup}
        hint = "One number from 0 to 1."
        compare(answer, _coset_share, inputs, mistakes, hint=hint, atol=1e-5)
