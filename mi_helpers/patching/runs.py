"""What one forward pass leaves behind, and the edits that make another pass out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.patching.inputs import Change
from mi_helpers.patching.sites import site_of


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
    acts: dict[tuple[str, int], Tensor]
    final: Float[Tensor, "batch pos d_model"]
    derive: Callable[[Run, str, int], Tensor] = field(repr=False)
    change: Change | None = None

    def get(self, site: str, layer: int) -> Tensor:
        """The activation at a site, [batch pos ...]; KeyError when there is no such site."""
        kept = self.acts.get((site_of(site).name, layer))
        return self.derive(self, site, layer) if kept is None else kept


@dataclass(frozen=True, eq=False)
class Edit:
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
        """When in a forward pass the edit takes place: layer, then stage within the layer."""
        return self.layer, site_of(self.site).stage


Cell = tuple[Edit, ...]
"""The edits of one patched forward pass, earliest first."""


class FirstChange:
    """The first position at which a cell differs from the base run; asked once for each edit."""

    def __init__(self, base: Run) -> None:
        self.base = base
        self._changed: dict[tuple[str, int, int], Bool[Tensor, "pos head"]] = {}

    def __call__(self, cell: Cell) -> int | None:
        """None when the edits put back exactly what the base run has there.

        By causality, everything the cell computes before that position equals the base run.
        """
        rows = [self._first(edit) for edit in cell]
        return min((row for row in rows if row is not None), default=None)

    def _first(self, edit: Edit) -> int | None:
        changed = edit.mask if edit.forced else edit.mask & self._where_changed(edit)
        rows = changed.any(dim=1).nonzero()
        return int(rows[0]) if len(rows) else None

    def _where_changed(self, edit: Edit) -> Bool[Tensor, "pos head"]:
        key = (edit.site, edit.layer, id(edit.value))
        if key not in self._changed:
            differs = edit.value != self.base.get(edit.site, edit.layer)
            keepdim = not site_of(edit.site).per_head
            self._changed[key] = differs.any(dim=0).any(dim=-1, keepdim=keepdim).cpu()
        return self._changed[key]


def rows_mask(n_pos: int, positions: Sequence[int] | None = None) -> Bool[Tensor, "pos head"]:
    """A mask over positions for a site without heads; None means every position."""
    mask = torch.zeros(n_pos, 1, dtype=torch.bool)
    mask[list(positions) if positions is not None else slice(None)] = True
    return mask
