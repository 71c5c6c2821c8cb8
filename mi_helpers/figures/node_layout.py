"""Where the nodes of an attribution graph stand: tokens along x, layers upwards, in pixels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mi_helpers.sae.attribution_graph import Node

LEFT, FOOT = 52, 66
"""Room for the names of rows, and for the tokens."""
_STEP, _BAND, _MOST_ABREAST = 17, 26, 5


class Layout(NamedTuple):
    """Places in pixels: of nodes, of the rows' lines (y), of the tokens' middles (x)."""

    where: dict[int, tuple[float, float]]
    base: list[float]
    middle: list[float]
    width: float
    height: float


def node_layout(nodes: Sequence[Node], n_tokens: int) -> Layout:
    """A row for tokens, one for each layer, one for logits; a column for each token."""
    top = 2 + max((n.layer for n in nodes if n.kind in ("feature", "error")), default=0)
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, node in enumerate(nodes):
        cells[_row(node, top), node.position].append(i)
    abreast = {row: 1 if row == top else _MOST_ABREAST for row in range(top + 1)}
    wide, tall = [1.0] * n_tokens, [1] * (top + 1)
    for (row, position), held in cells.items():
        wide[position] = max(wide[position], min(len(held), abreast[row]))
        tall[row] = max(tall[row], math.ceil(len(held) / abreast[row]))
    widths = [max(_STEP * w, 24.0) + 8 for w in wide]
    widths[-1] += 44  # words of the logits
    middle = [LEFT + sum(widths[:p]) + widths[p] / 2 for p in range(n_tokens)]
    heights = [_BAND * 0.7 * t + 20 for t in tall]
    width, height = LEFT + sum(widths) + 8, sum(heights) + FOOT + 8
    base = [height - FOOT - sum(heights[:row]) for row in range(top + 1)]
    where: dict[int, tuple[float, float]] = {}
    for (row, position), held in cells.items():
        for k, i in enumerate(held):
            line, column = divmod(k, abreast[row])
            many = min(len(held) - line * abreast[row], abreast[row])
            x = middle[position] + (column - (many - 1) / 2) * _STEP
            where[i] = (x, base[row] - 16 - line * _BAND * 0.7)
    return Layout(where, base, middle, width, height)


def _row(node: Node, top: int) -> int:
    """The band of a node, from below: tokens, layers, logits."""
    if node.kind == "token":
        return 0
    return top if node.kind == "logit" else node.layer + 1
