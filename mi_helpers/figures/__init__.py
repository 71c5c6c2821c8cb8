"""Figures: data in, a `plotly` figure or self-contained HTML out; never shown, no network."""

from __future__ import annotations

import sys

from mi_helpers.figures.attention import AttentionView, attention
from mi_helpers.figures.attribution import attribution
from mi_helpers.figures.dashboards import unit_dashboard
from mi_helpers.figures.graphs import graph
from mi_helpers.figures.heatmaps import heatmap, token_table
from mi_helpers.figures.histograms import histogram
from mi_helpers.figures.html import Html, link, table, tokens_coloured
from mi_helpers.figures.labelling import Labelled, labelled
from mi_helpers.figures.plots import bars, lines, scatter
from mi_helpers.figures.rendering import use_renderer
from mi_helpers.figures.vectors import vectors
from mi_helpers.figures.widgets import Explorer, explore

__all__ = [
    "AttentionView",
    "Explorer",
    "Html",
    "Labelled",
    "attention",
    "attribution",
    "bars",
    "explore",
    "graph",
    "heatmap",
    "histogram",
    "labelled",
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
