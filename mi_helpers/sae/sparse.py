"""A batch's code as a list: where few units are active, products with it are sums over entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass
class Code:
    """The units that may be active, as a list ordered by rows, with what comes before `act`."""

    rows: Int[Tensor, " entry"]
    units: Int[Tensor, " entry"]
    pre: Float[Tensor, " entry"]
    n_rows: int
    n_units: int

    @cached_property
    def row_starts(self) -> Int[Tensor, " row"]:
        """Where each row's entries begin."""
        return torch.searchsorted(self.rows, torch.arange(self.n_rows))

    @cached_property
    def by_unit(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of entries by unit, their rows in it, and where each unit's begin."""
        order = self.units.argsort()
        count = torch.bincount(self.units, minlength=self.n_units)
        return order, self.rows[order], count.cumsum(0) - count

    def sum_by_unit(
        self, weight: Float[Tensor, " entry"], vectors: Float[Tensor, "row d_in"]
    ) -> Float[Tensor, "d_sae d_in"]:
        """For each unit, the sum of weight x vector over the rows where it occurs."""
        order, rows, starts = self.by_unit
        return embedding_bag(
            rows, vectors.contiguous(), starts, mode="sum", per_sample_weights=weight[order]
        )


def top(values: Float[Tensor, "row n"], k: int) -> tuple[Tensor, Tensor]:
    """`values.topk(k)` in any order, sooner: the k largest are in the k groups of largest maximum.

    Groups of four, and their maxima in turn by the same way.
    """
    n = values.shape[1]
    if n % 4 or n < 8 * k:
        return values.topk(k, sorted=False)
    groups = top(values.view(len(values), 4, n // 4).amax(1), k)[1]
    members = torch.cat([groups + i * (n // 4) for i in range(4)], dim=1)
    best = values.gather(1, members).topk(k, sorted=False)
    return best.values, members.gather(1, best.indices)


def largest(flat: Tensor, count: int, stride: int = 67) -> Tensor:
    """The places of the `count` largest, in order; a sample says which need not be looked at."""
    enough = min(2 * count // stride, len(flat[::stride]))
    place = None
    if enough:
        bound = flat[::stride].topk(enough, sorted=True).values[-1]
        place = (flat > bound).nonzero()[:, 0]
    if place is None or len(place) < count:
        return flat.topk(count, sorted=False).indices.sort().values
    return place[flat[place].topk(count, sorted=False).indices].sort().values
