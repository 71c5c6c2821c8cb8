"""Which layers, positions and heads of a site are patched, by index, by mask or by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_helpers.sites import checked_indices, n_heads_of, site_of


@dataclass(frozen=True)
class Where:
    """Layers, positions and heads of a site; None means all of them.

    `mask` (Bool[layer pos] or Bool[layer pos head]) selects a set that is not a product, and
    then the others stay None. Negative indices count from the end.
    """

    layers: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    mask: Bool[Tensor, "layer pos *head"] | None = None

    def resolve(self, cfg: Any, site: str, n_pos: int) -> Bool[Tensor, "layer pos head"]:
        """The selection as a mask; sites without heads have a last axis of length 1.

        Raises:
            ValueError: an index out of range, a tensor of indices, heads of a site that has none,
                a mask of the wrong shape, or nothing selected.
        """
        n_heads = n_heads_of(cfg, site)
        if self.heads is not None and not site_of(site).per_head:
            raise ValueError(f"site {site!r} has no heads, but heads={list(self.heads)} were given")
        shape = (cfg.n_layers, n_pos, n_heads)
        if self.mask is not None:
            return self._resolve_mask(shape, site)
        chosen = torch.ones(shape, dtype=torch.bool)
        axes = (("layer", self.layers), ("position", self.positions), ("head", self.heads))
        for axis, (name, indices) in enumerate(axes):
            if isinstance(indices, Tensor):
                raise ValueError(
                    f"Where takes a list of {name}s that holds for every prompt, got a tensor of "
                    f"shape {list(indices.shape)}: write .tolist() if that is what it is; for a "
                    "place of its own in each prompt, intervene takes a mask [batch, pos]"
                )
            if indices is not None:
                keep = torch.zeros(shape[axis], dtype=torch.bool)
                keep[checked_indices(indices, shape[axis], name)] = True
                chosen &= keep.reshape([-1 if i == axis else 1 for i in range(3)])
        return chosen

    def _resolve_mask(self, shape: tuple[int, int, int], site: str) -> Bool[Tensor, "l p h"]:
        if not (self.layers is None and self.positions is None and self.heads is None):
            raise ValueError("give Where either a mask or layers, positions and heads, not both")
        mask = torch.as_tensor(self.mask)
        if mask.dtype != torch.bool:
            raise ValueError(f"Where.mask must be boolean, got {mask.dtype}")
        if mask.ndim == 2:
            mask = mask[..., None].expand(*mask.shape, shape[2])
        if tuple(mask.shape) != shape:
            raise ValueError(
                f"Where.mask for site {site!r} must have shape [layer pos head] = {list(shape)} or "
                f"[layer pos] = {list(shape[:2])}, got {list(mask.shape)}"
            )
        if not mask.any():
            raise ValueError("Where.mask selects nothing")
        return mask.cpu()


_COMPONENT = re.compile(r"L(\d+)H(\d+)|MLP(\d+)")


def components(
    cfg: Any, names: Iterable[str] | Mapping[str, Sequence[int] | None], n_pos: int
) -> dict[str, Where]:
    """Heads and MLPs by name, as a selection: site "z" for heads, "mlp_out" for MLPs.

    Args:
        cfg: The model's configuration, `model.cfg`.
        names: "L9H6", "MLP0", ...; a mapping gives each its positions (None means all).
        n_pos: Number of positions of the prompts.

    Raises:
        ValueError: a name that is none, or a layer, head or position that is not there.
    """
    positions = dict(names) if isinstance(names, Mapping) else {name: None for name in names}
    masks = {
        "z": torch.zeros(cfg.n_layers, n_pos, cfg.n_heads, dtype=torch.bool),
        "mlp_out": torch.zeros(cfg.n_layers, n_pos, 1, dtype=torch.bool),
    }
    for name, where in positions.items():
        match = _COMPONENT.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no component: write L9H6 for a head, MLP0 for an MLP")
        site, layer, head = (
            ("mlp_out", int(match[3]), 0) if match[3] else ("z", int(match[1]), int(match[2]))
        )
        checked_indices([layer], cfg.n_layers, f"{name}: layer")
        checked_indices([head], masks[site].shape[2], f"{name}: head")
        rows = range(n_pos) if where is None else checked_indices(where, n_pos, "position")
        masks[site][layer, list(rows), head] = True
    return {site: Where(mask=mask) for site, mask in masks.items() if mask.any()}
