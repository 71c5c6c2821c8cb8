"""What one forward pass leaves behind, and what is put in its places to make another pass of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.sites import Place, site_of

MEMORY = 128 * 2**20
"""How many bytes of activations are worked on at once: a bound on the memory of every sweep."""

Change = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]
"""What is done to the embeddings of prompts before the first block."""


@dataclass
class Run:
    """The activations of one forward pass, on the device of the model, without gradients.

    Attributes:
        tokens: The prompts.
        acts: Activation of each (site, layer), in the layout of the site.
        final: The residual stream after the last block, [batch pos d_model].
        change: What was done to the embeddings; None for plain prompts.
        derive: Makes a site that is not kept from those that are; KeyError when it cannot.
    """

    tokens: Int[Tensor, "batch pos"]
    acts: dict[Place, Tensor]
    final: Float[Tensor, "batch pos d_model"]
    derive: Callable[[Run, str, int], Tensor] = field(repr=False)
    change: Change | None = None

    def get(self, site: str, layer: int) -> Tensor:
        """The activation at a site, [batch pos ...]; KeyError when there is no such site."""
        kept = self.acts.get((site_of(site).name, layer))
        return self.derive(self, site, layer) if kept is None else kept


Values = Callable[[str, int], Float[Tensor, "batch pos ..."]]
"""From (site, layer) to what is put there, in the layout of the site."""


class What(Protocol):
    """A way to make the values that are put in place; `patching.OtherRun` is one."""

    def values(self, base: Run, run: Callable[[Int[Tensor, "batch pos"]], Run]) -> Values:
        """The values for `base`, given a way to run other prompts.

        Raises:
            ValueError: it does not fit the prompts of `base`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Replacement:
    """Replace a site's activation at `layer`, where `mask`, by `value`.

    Attributes:
        mask: True where the activation is replaced; the head axis has length 1 without heads.
        value: The activation to put there, [batch pos ...] in the layout of the site.
        forced: Compute the pass even if the value is what the base run has there already.
    """

    site: str
    layer: int
    mask: Bool[Tensor, "pos head"]
    value: Float[Tensor, "batch pos ..."]
    forced: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """When in a forward pass it takes place: layer, then stage within the layer."""
        return self.layer, site_of(self.site).stage


Cell = tuple[Replacement, ...]
"""What one patched forward pass replaces, earliest first."""


class FirstChange:
    """The first position at which a cell differs from the base run; asked once for each value."""

    def __init__(self, base: Run) -> None:
        self.base = base
        self._changed: dict[tuple[str, int, int], Bool[Tensor, "pos head"]] = {}

    def __call__(self, cell: Cell) -> int | None:
        """None when the cell puts back exactly what the base run has there.

        By causality, everything the cell computes before that position equals the base run.
        """
        rows = [self._first(one) for one in cell]
        return min((row for row in rows if row is not None), default=None)

    def _first(self, one: Replacement) -> int | None:
        changed = one.mask if one.forced else one.mask & self._where_changed(one)
        rows = changed.any(dim=1).nonzero()
        return int(rows[0]) if len(rows) else None

    def _where_changed(self, one: Replacement) -> Bool[Tensor, "pos head"]:
        key = (one.site, one.layer, id(one.value))
        if key not in self._changed:
            differs = one.value != self.base.get(one.site, one.layer)
            keepdim = not site_of(one.site).per_head
            self._changed[key] = differs.any(dim=0).any(dim=-1, keepdim=keepdim).cpu()
        return self._changed[key]


def rows_mask(n_pos: int, positions: Sequence[int] | None = None) -> Bool[Tensor, "pos head"]:
    """A mask over positions for a site without heads; None means every position."""
    mask = torch.zeros(n_pos, 1, dtype=torch.bool)
    mask[list(positions) if positions is not None else slice(None)] = True
    return mask
