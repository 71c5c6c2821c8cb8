"""Finite groups: multiplication tables, irreducible representations, subgroups; no library.

Elements are permutations, numbered with the identity first. Every group gets all of its real
irreducible representations in the same way, from its table alone: average a random symmetric matrix
over the regular representation, and the eigenspaces of what results are irreducible.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group of permutations; the product (a b) does b first: (a b)[i] = a[b[i]]."""

    name: str
    elements: Int[Tensor, "g point"]
    """Each element as a permutation; the identity is number 0."""

    @property
    def order(self) -> int:
        """How many elements."""
        return len(self.elements)

    @cached_property
    def table(self) -> Int[Tensor, "g g"]:
        """The number of a b, at [a, b]."""
        products = self.elements[:, self.elements]  # [a, b, point]
        base = len(self.elements[0])
        digits = base ** torch.arange(base)
        codes, wanted = (self.elements * digits).sum(-1), (products * digits).sum(-1)
        ranked, numbers = codes.sort()
        return numbers[torch.searchsorted(ranked, wanted)]

    @cached_property
    def inverse(self) -> Int[Tensor, "g"]:
        """The number of each element's inverse."""
        return (self.table == 0).int().argmax(1)

    @cached_property
    def left_over(self) -> Int[Tensor, "a b c"]:
        """The number of a b c^-1: 0, the identity, where c is the product of a and b."""
        return self.table[:, self.inverse][self.table]

    @cached_property
    def irreps(self) -> dict[str, Float[Tensor, "g d d"]]:
        """The real irreducible representations by name, orthogonal matrices in double precision.

        Sorted by dimension, then by the character, larger values first. A pair of complex ones that
        are each other's conjugates is one real one of twice their dimension.
        """
        found = _split_regular(self.table)
        fixed = (self.elements == torch.arange(self.elements.shape[1])).sum(1).double()
        signs = torch.linalg.det(torch.eye(self.elements.shape[1])[self.elements]).round().double()
        known = {"trivial": fixed.new_ones(self.order), "sign": signs}
        if self.name[0] in "SA":
            known |= {"standard": fixed - 1, "standard x sign": (fixed - 1) * signs}
        named: dict[str, Tensor] = {}
        for matrices in found:
            chi = character(matrices)
            names = [n for n, c in known.items() if n not in named and (chi - c).abs().max() < 1e-6]
            d = matrices.shape[-1]
            count = sum(name.startswith(f"{d}d") for name in named)
            named[names[0] if names else f"{d}d-{count + 1}"] = matrices
        return named

    @cached_property
    def subgroups(self) -> Bool[Tensor, "subgroup g"]:
        """All subgroups that two elements generate, smallest first; in the groups here, all."""
        cyclic = {self._closure((a,)) for a in range(self.order)}
        first = [min(s - {0} or {0}, key=lambda a, s=s: -len(self._closure((a,)))) for s in cyclic]
        found = {self._closure(pair) for pair in itertools.combinations_with_replacement(first, 2)}
        rows = sorted((sorted(s) for s in found), key=lambda s: (len(s), s))
        return torch.stack([torch.zeros(self.order, dtype=torch.bool).index_fill(
            0, torch.tensor(row), True) for row in rows])  # fmt: skip

    def _closure(self, generators: tuple[int, ...]) -> frozenset[int]:
        """The subgroup that some elements generate."""
        products = self._lists
        found, new = {0}, [0]
        while new:
            new = [c for c in {products[a][b] for a in new for b in generators} if c not in found]
            found.update(new)
        return frozenset(found)

    @cached_property
    def _lists(self) -> list[list[int]]:
        return self.table.tolist()


def cyclic(n: int) -> Group:
    """The n turns of a regular polygon; number k turns by k corners."""
    return Group(f"C{n}", (torch.arange(n)[:, None] + torch.arange(n)) % n)


def dihedral(n: int) -> Group:
    """The turns of a regular polygon of n corners, then its n reflections."""
    turns = (torch.arange(n)[:, None] + torch.arange(n)) % n
    return Group(f"D{n}", torch.cat([turns, turns.flip(1)]))


def symmetric(n: int) -> Group:
    """All permutations of n things, in alphabetical order."""
    return Group(f"S{n}", torch.tensor(list(itertools.permutations(range(n)))))


def alternating(n: int) -> Group:
    """The even permutations of n things, in alphabetical order."""
    every = symmetric(n).elements
    return Group(f"A{n}", every[torch.linalg.det(torch.eye(n)[every]) > 0])


def character(matrices: Float[Tensor, "g d d"]) -> Float[Tensor, "g"]:
    """The trace of each matrix."""
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _split_regular(table: Int[Tensor, "g g"]) -> list[Float[Tensor, "g d d"]]:
    """One of each kind of real irreducible representation, by dimension and character."""
    n = len(table)
    noise = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    noise = noise + noise.T
    commuting = torch.stack([noise[row][:, row] for row in table]).mean(0)
    values, vectors = torch.linalg.eigh(commuting)
    splits = [0, *(i for i in range(1, n) if values[i] - values[i - 1] > 1e-8), n]
    found: dict[tuple[float, ...], Tensor] = {}
    for start, end in itertools.pairwise(splits):
        part = vectors[:, start:end]  # the matrix of g is <part, part moved by g>
        matrices = torch.stack([part[row].T @ part for row in table])
        chi = character(matrices)
        key = (matrices.shape[-1], *(-chi.round(decimals=6)).tolist())
        found.setdefault(key, matrices)
    return [found[key] for key in sorted(found)]
