"""The one place that decides how plotly figures reach a page: a notebook or exported HTML."""

from __future__ import annotations

import os
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
CONFIG = {"displaylogo": False}  # not responsive: JupyterLab resizes, and plotly would collapse
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
    pio.renderers["plotly_mimetype"].config.update(CONFIG)
    if name != pio.renderers.default:
        pio.renderers.default = name
    return name


def make_static(notebook: Any) -> Any:
    """Make an executed `notebook` (nbformat) fit for a page without kernel or network, in place.

    Every plotly output gets an HTML form, which nbconvert would otherwise drop without a word; the
    first carries plotly's script. Widgets, which could only ask a CDN for theirs, are taken out,
    and leave their static twins. Returns the notebook.
    """
    import plotly.io as pio

    first = True
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        outputs[:] = [out for out in outputs if WIDGET not in out.get("data", {})]
        for data in (out.get("data", {}) for out in outputs):
            if PLOTLY not in data or "text/html" in data:
                continue
            figure = {key: data[PLOTLY][key] for key in ("data", "layout")}
            height = f"{figure['layout'].get('height', 450)}px"
            data["text/html"] = pio.to_html(
                figure, full_html=False, include_plotlyjs=first, include_mathjax=False,
                validate=False, config=CONFIG | {"responsive": True}, default_height=height,
            )  # fmt: skip
            first = False
    return notebook
