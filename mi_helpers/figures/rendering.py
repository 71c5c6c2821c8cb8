"""The one place that decides how plotly figures reach a page: a notebook or exported HTML."""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_helpers.figures.html import small_line
from mi_helpers.figures.pages import needs_script
from mi_helpers.figures.style import CARD, FONT, INK

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
CONFIG = {"displaylogo": False}  # not responsive: JupyterLab resizes, and plotly would collapse
EXTENSION = Path("labextensions", "jupyterlab-plotly")
_JUPYTER = {"mi_lab", "plotly_mimetype", "jupyterlab", "nteract", "notebook", "notebook_connected"}

# In JupyterLab the title is an output of its own above the plot: text, which wraps on any page.
_ABOVE = """<style>.jp-OutputArea-output:has(> .mi-title) {{ padding-right: 0; }}
.jp-OutputArea-child:has(.{room}) + .jp-OutputArea-child {{ overflow-x: auto; }}
.jp-OutputArea-child:has(.{room}) + .jp-OutputArea-child > .jp-RenderedPlotly
{{ min-width: {low}px; max-width: {high}; }}</style><div class="mi-title {room} tex2jax_ignore" \
style="box-sizing:border-box;padding:8px 16px 0;font-size:16px;text-align:left;\
line-height:1.4;margin:0;color:inherit;font-family:{font}">{title}{small}</div>"""

_FIGURE = """<figure style="margin:8px 0;padding-top:8px;background-color:{card};color:{ink};\
font-family:{font}"><figcaption style="font-size:16px;text-align:left;padding:0 16px">{title}\
{small}</figcaption><div style="overflow-x:auto"><div style="min-width:{low}px;max-width:{high}">\
{plot}</div></div></figure>"""


def use_renderer(name: str | None = None) -> str:
    """Set plotly's default renderer; runs by itself on import.

    In Jupyter that is "mi_lab": the title as text, which wraps on a narrow page as plotly's own
    titles do not, above the plot in plotly's own form, which is small, offline, and shown in
    untrusted notebooks too, where plotly's own default may load its script from a CDN. Where the
    JupyterLab that started this kernel lacks plotly's extension, as one of another environment may,
    and in the classic Notebook (`jupyter nbclassic`), which has no place for such extensions, it is
    "mi_both", which adds HTML that needs none, at the price of plotly's script (4.8 MB) once a
    notebook. Plotly's choice stays in Colab, VS Code and wherever else it knows better, and so does
    the environment variable PLOTLY_RENDERER.

    Args:
        name: a renderer of plotly's, or several joined by "+"; None chooses as above.

    Returns:
        The name of the renderer.

    Raises:
        ValueError: for a name that plotly does not know.
    """
    import plotly.io as pio  # slow to import, and needed only where figures are shown

    pio.renderers["mi_both"], pio.renderers["mi_lab"] = _both_renderer(), _lab_renderer()
    if name is None:
        name = str(pio.renderers.default or "")
        if "PLOTLY_RENDERER" not in os.environ and set(name.split("+")) <= _JUPYTER:
            name = "mi_both" if lab_lacks_plotly() else "mi_lab"
    if name and (unknown := [part for part in name.split("+") if part not in pio.renderers]):
        raise ValueError(f"plotly has no renderer {unknown}; it has {sorted(pio.renderers)}")
    pio.renderers["plotly_mimetype"].config.update(CONFIG)
    if name != pio.renderers.default:
        pio.renderers.default = name
    return name


def lab_lacks_plotly() -> bool:
    """Whether the Jupyter that started this kernel is seen to lack plotly's extension.

    The kernel knows the process that started it, and with it the environment of that process.
    False where that cannot be seen: another user's process, another machine, no Jupyter.
    """
    try:
        import psutil
        from jupyter_core.paths import jupyter_path

        command = psutil.Process(int(os.environ.get("JPY_PARENT_PID") or 0)).cmdline()
        python = Path(command[0])  # not resolved: a link is what makes an environment
    except (ImportError, psutil.Error, ValueError, IndexError):
        return False
    if any("nbclassic" in Path(part).name for part in command[1:3]):
        return True
    own = python.parent.parent / "share" / "jupyter"
    if not python.is_absolute() or not (own / "lab").is_dir():
        return False
    shared = [Path(path) for path in jupyter_path() if not Path(path).is_relative_to(sys.prefix)]
    return not any((place / EXTENSION).is_dir() for place in (own, *shared))


def figure_html(figure: Mapping[str, Any], *, script: bool) -> str:
    """Return a plotly figure as HTML that fits the page it stands on, from a phone to a wall.

    The title of one of our figures becomes text of the page, which wraps as the page is wide; the
    plot fills the page up to its own width, and scrolls where it would get too narrow to be read.

    Args:
        figure: its `data` and `layout`, as plotly writes them to JSON.
        script: whether plotly's script (4.8 MB) goes along, or is on the page already.
    """
    import plotly.io as pio

    layout, said = _without_title(figure["layout"])
    height = layout.get("height", 450)
    layout = {key: value for key, value in layout.items() if key != "meta"} if said else layout
    plot = pio.to_html(
        {"data": figure["data"], "layout": layout},
        full_html=False,
        include_plotlyjs=script,
        include_mathjax=False,
        validate=False,
        config=CONFIG | {"responsive": True},
        default_height=f"{height}px",
    )
    if not said:
        return plot
    return _FIGURE.format(
        card=CARD,
        ink=INK,
        font=html.escape(FONT),
        title=html.escape(str(said["title"])),
        small=small_line(said.get("subtitle")),
        low=said["narrowest"],
        high=f"{said['width']}px" if said["width"] else "none",
        plot=plot,
    )


def titled_outputs(figure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what JupyterLab shows of a plotly figure: its title as text, then the plot.

    Args:
        figure: its `data` and `layout`, as plotly writes them to JSON.

    Returns:
        The data of one output each; a figure that is not ours keeps its title, and is alone.
    """
    layout, said = _without_title(figure["layout"])
    plot = {PLOTLY: dict(figure) | {"layout": layout, "config": CONFIG}}
    if not said:
        return [plot]
    high = f"{said['width']}px" if said["width"] else "none"
    above = _ABOVE.format(
        font=html.escape(FONT),
        title=html.escape(str(said["title"])),
        small=small_line(said.get("subtitle")),
        low=said["narrowest"],
        high=high,
        room=f"mi-from-{said['narrowest']}-to-{high}",
    )
    return [{"text/html": above, "text/plain": str(said["title"])}, plot]


def _without_title(layout: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layout of a figure of ours without its title and its width, and what `finish` says of it.

    Nothing is said of a figure that is not ours, and its layout stays.
    """
    layout = dict(layout)
    said = layout.get("meta") or {}
    if "heading" not in said:
        return layout, {}
    layout.pop("title", None)
    layout["margin"] = layout["margin"] | {"t": layout["margin"]["t"] - said["heading"]}
    layout["height"] -= said["heading"]
    layout["meta"] = said | {"heading": 0, "width": layout.pop("width", said.get("width"))}
    layout["autosize"] = True
    return layout, said | {"width": layout["meta"]["width"]}


def make_static(notebook: Any) -> Any:
    """Make an executed notebook fit for a page without kernel or network, in place.

    Every plotly output gets an HTML form, which nbconvert would otherwise drop without a word; the
    first carries plotly's script. A title that stood above one, as text, is part of it. Widgets,
    which could only ask a CDN for theirs, are taken out, and leave their static twins.

    Args:
        notebook: as nbformat reads it.

    Returns:
        The notebook.
    """
    first = True
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        outputs[:] = [out for out in outputs if not _is_live(out.get("data", {}))]
        for data in (out.get("data", {}) for out in outputs):
            if PLOTLY not in data:
                continue
            data["text/html"] = figure_html(data[PLOTLY], script=first)
            first = False
    return notebook


def _is_live(data: Mapping[str, Any]) -> bool:
    """Whether an output is a widget, or the title that JupyterLab shows above a plot."""
    return WIDGET in data or '<div class="mi-title ' in "".join(data.get("text/html", ""))


def _lab_renderer() -> Any:
    """A renderer that displays a figure in JupyterLab as two outputs, title and plot."""
    import plotly.io as pio
    from plotly.io.base_renderers import ExternalRenderer

    class Titled(ExternalRenderer):
        def render(self, fig_dict: dict[str, Any]) -> None:
            from IPython.display import display

            for data in titled_outputs(json.loads(pio.to_json(fig_dict, validate=False))):
                display(data, raw=True)

    return Titled()


def _both_renderer() -> Any:
    """A renderer that writes plotly's own form of a figure and, beside it, HTML."""
    import plotly.io as pio
    from plotly.io.base_renderers import MimetypeRenderer

    class Both(MimetypeRenderer):
        def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
            figure = json.loads(pio.to_json(fig_dict, validate=False)) | {"config": CONFIG}
            return {PLOTLY: figure, "text/html": figure_html(figure, script=needs_script(PLOTLY))}

    return Both()
