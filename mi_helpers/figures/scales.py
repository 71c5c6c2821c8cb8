"""One scale for figures that are shown in turn, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mi_helpers.figures.style import DIVERGING


def same_scale(figs: Sequence[go.Figure]) -> None:
    """Give `figs` one colour scale and the same range on each axis of numbers, in place.

    The colour scale spans those of all figures, and stays centred where it was; scales centred
    elsewhere are left alone. An axis that has labels or a range already keeps it.
    """
    scales = [fig.layout.coloraxis for fig in figs if fig.layout.coloraxis.cmin is not None]
    middles = {
        round((scale.cmin + scale.cmax) / 2, 9) if scale.colorscale[0][1] == DIVERGING[0][1] else 0
        for scale in scales
    }
    if len(middles) == 1:
        low, high = min(s.cmin for s in scales), max(s.cmax for s in scales)
        for scale in scales:
            scale.update(cmin=low, cmax=high)
    for axis in ("x", "y"):
        free = [fig for fig in figs if _is_free(fig.layout[f"{axis}axis"])]
        ends = [end for fig in free for trace in fig.data for end in _extent(trace, axis)]
        if ends:
            pad = 0.05 * (max(ends) - min(ends)) or 1.0
            edges = [min(ends) - pad * (min(ends) != 0), max(ends) + pad * (max(ends) != 0)]
            for fig in free:
                fig.layout[f"{axis}axis"].range = edges


def _is_free(axis: Any) -> bool:
    """Whether an axis holds numbers and no range has been set."""
    return axis.range is None and axis.tickvals is None and axis.visible is not False


def _extent(trace: Any, axis: str) -> list[float]:
    """The ends of what `trace` covers along `axis`; a bar begins at zero."""
    values = np.asarray(trace[axis] if trace[axis] is not None else (), dtype=float)
    if values.size == 0:
        return []
    along = trace.type == "bar" and (trace.orientation == "h") == (axis == "x")
    start = [0.0] if along else []
    return [*start, float(values.min()), float(values.max())]
