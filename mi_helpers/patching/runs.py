"""What one forward pass leaves behind, and the edits that make another pass out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.patching.sites import site_of


@dataclass
class Run:
    """The activations of one forward pass, on the device of the model, without gradients.

    Attributes:
        tokens: The prompts.
        acts: Activation of each (site, layer), in the layout of the site.
        final: The residual stream after the last block, [batch pos d_model].
        derive: Makes a site that is not kept from those that are; KeyError when it cannot.
    """

    tokens: Int[Tensor, "batch pos"]
    acts: dict[tuple[str, int], Tensor]
    final: Float[Tensor, "batch pos d_model"]
    derive: Callable[[Run, str, int], Tensor] = field(repr=False)

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


def checked_tokens(model: Any, tokens: Tensor, name: str = "tokens") -> Int[Tensor, "batch pos"]:
    """`tokens` on the model's device; ValueError unless they are a batch of this vocabulary."""
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 2 or tokens.numel() == 0 or tokens.is_floating_point():
        raise ValueError(
            f"{name} must be integer token ids of shape [batch pos], not empty; got {tokens.dtype} "
            f"of shape {list(tokens.shape)}: a single prompt is tokens[None]"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= model.cfg.d_vocab:
        bad = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)][0]
        raise ValueError(f"{name}: id {int(bad)} is not in the vocabulary of {model.cfg.d_vocab}")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(
            f"{name} has {tokens.shape[1]} positions, the model reads {model.cfg.n_ctx}"
        )
    return tokens.to(model.cfg.device)


def checked_pair(model: Any, base: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Two aligned batches; ValueError when their shapes differ or they are the same prompts."""
    base, source = checked_tokens(model, base, "base"), checked_tokens(model, source, "source")
    if base.shape != source.shape:
        raise ValueError(
            f"the two runs must have as many prompts of the same token length, got "
            f"{list(base.shape)} and {list(source.shape)}: align the pair token by token"
        )
    if torch.equal(base, source):
        raise ValueError(
            "the two runs have the same tokens: no patch can change anything and recovery is 0/0; "
            "give a corrupt prompt that differs"
        )
    return base, source


def rows_mask(n_pos: int, positions: Sequence[int] | None = None) -> Bool[Tensor, "pos head"]:
    """A mask over positions for a site without heads; None means every position."""
    mask = torch.zeros(n_pos, 1, dtype=torch.bool)
    mask[list(positions) if positions is not None else slice(None)] = True
    return mask
