"""Figures: data in, a `plotly` figure or self-contained HTML out; never shown, no network."""

from __future__ import annotations

import sys

from .attention import AttentionView, attention
from .dashboards import unit_dashboard
from .graphs import graph
from .heatmaps import heatmap, token_table
from .html import Html, link, table, tokens_coloured
from .plots import bars, histogram, lines, scatter
from .rendering import use_renderer
from .vectors import vectors
from .widgets import Explorer, explore

__all__ = [
    "AttentionView",
    "Explorer",
    "Html",
    "attention",
    "bars",
    "explore",
    "graph",
    "heatmap",
    "histogram",
    "lines",
    "link",
    "scatter",
    "table",
    "token_table",
    "tokens_coloured",
    "unit_dashboard",
    "use_renderer",
    "vectors",
]

if "ipykernel" in sys.modules:
    use_renderer()
