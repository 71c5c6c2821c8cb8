"""The figure functions with one subtitle bound, so that a notebook names its model once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from mi_helpers.figures.attention import attention
from mi_helpers.figures.attribution import attribution
from mi_helpers.figures.dashboards import unit_dashboard
from mi_helpers.figures.graphs import graph
from mi_helpers.figures.heatmaps import heatmap, token_table
from mi_helpers.figures.histograms import histogram
from mi_helpers.figures.html import link, table, tokens_coloured
from mi_helpers.figures.plots import bars, lines, scatter
from mi_helpers.figures.rendering import use_renderer
from mi_helpers.figures.vectors import vectors
from mi_helpers.figures.widgets import explore

Args = ParamSpec("Args")
View = TypeVar("View")


class Labelled:
    """Every function of `mi.figures`, drawing `subtitle` under the title unless told otherwise.

    Made by `labelled`. Each function keeps its signature and its docstring; only the default of
    its argument `subtitle` is another.
    """

    def __init__(self, subtitle: str) -> None:
        self.subtitle = subtitle
        self.attention = _bound(attention, subtitle)
        self.attribution = _bound(attribution, subtitle)
        self.bars = _bound(bars, subtitle)
        self.graph = _bound(graph, subtitle)
        self.heatmap = _bound(heatmap, subtitle)
        self.histogram = _bound(histogram, subtitle)
        self.lines = _bound(lines, subtitle)
        self.scatter = _bound(scatter, subtitle)
        self.table = _bound(table, subtitle)
        self.token_table = _bound(token_table, subtitle)
        self.tokens_coloured = _bound(tokens_coloured, subtitle)
        self.unit_dashboard = _bound(unit_dashboard, subtitle)
        self.vectors = _bound(vectors, subtitle)
        self.explore, self.link, self.use_renderer = explore, link, use_renderer

    def __repr__(self) -> str:
        return f"labelled({self.subtitle!r})"


def labelled(subtitle: str) -> Labelled:
    """Return the functions of `mi.figures` with `subtitle` written under every title.

        figures = mi.figures.labelled(mi.model_id(model))
        figures.heatmap(scores, title="Two heads stand out")
        figures.heatmap(toy, title="A toy", subtitle=None)

    Nothing is remembered outside the returned object, so two may stand side by side.

    Args:
        subtitle: the text, usually the model's name; also kept as the attribute `subtitle`, for
            `subtitle=f"{figures.subtitle}, layer 3"`.

    Returns:
        An object whose attributes are the figure functions. `subtitle=` in a call overrides the
        text for that figure, and None leaves it out. Functions without a subtitle are as they are.

    Raises:
        ValueError: for an empty text.
    """
    if not subtitle.strip():
        raise ValueError("subtitle is empty; call the functions of mi.figures for figures without")
    return Labelled(subtitle)


def _bound(draw: Callable[Args, View], subtitle: str) -> Callable[Args, View]:
    """Return `draw` with another default for its argument `subtitle`, also in its signature."""

    @wraps(draw)
    def bound(*args: Args.args, **kwargs: Args.kwargs) -> View:
        kwargs.setdefault("subtitle", subtitle)
        return draw(*args, **kwargs)

    signature = inspect.signature(draw)
    default = signature.parameters["subtitle"].replace(default=subtitle)
    parameters = signature.parameters | {"subtitle": default}
    bound.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(parameters.values())
    )
    return bound
