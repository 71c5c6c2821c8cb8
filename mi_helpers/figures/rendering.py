"""The one place that decides how plotly figures reach a page: a notebook or exported HTML."""

from __future__ import annotations

import os
from typing import Any

_JUPYTER = {"plotly_mimetype", "jupyterlab", "nteract", "notebook", "notebook_connected"}


def use_renderer(name: str | None = None) -> str:
    """Set plotly's default renderer and return its name; runs by itself on import.

    In Jupyter that is "plotly_mimetype": small, offline, and shown in untrusted notebooks too,
    where plotly's own default may load its script from a CDN. Plotly's choice stays in Colab,
    VS Code and wherever else it knows better, and so does the environment variable
    PLOTLY_RENDERER. ValueError for a name that plotly does not know.
    """
    import plotly.io as pio  # slow to import, and needed only where figures are shown

    if name is None:
        name = str(pio.renderers.default or "")
        if "PLOTLY_RENDERER" not in os.environ and set(name.split("+")) <= _JUPYTER:
            name = "plotly_mimetype"
    if name and (unknown := [part for part in name.split("+") if part not in pio.renderers]):
        raise ValueError(f"plotly has no renderer {unknown}; it has {sorted(pio.renderers)}")
    if name != pio.renderers.default:
        pio.renderers.default = name
    return name


def embed_plotly(notebook: Any) -> Any:
    """Give every plotly output of `notebook` (nbformat) an HTML form, in place, and return it.

    nbconvert's HTML drops plotly's own format without a word. The first figure carries plotly's
    script, so the exported page works from a file without a network.
    """
    import plotly.io as pio

    first = True
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "application/vnd.plotly.v1+json" not in data or "text/html" in data:
                continue
            figure = data["application/vnd.plotly.v1+json"]
            data["text/html"] = pio.to_html(
                {"data": figure["data"], "layout": figure["layout"]},
                full_html=False,
                include_plotlyjs=first,
                include_mathjax=False,
                validate=False,
                config={"responsive": True},
                default_height=f"{figure['layout'].get('height', 450)}px",
            )
            first = False
    return notebook
