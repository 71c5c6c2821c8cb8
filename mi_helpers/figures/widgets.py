"""Interactive views that leave a static twin behind for every place without a kernel."""

from __future__ import annotations

import html
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import plotly.graph_objects as go

from mi_helpers.figures.html import Html
from mi_helpers.figures.rendering import titled_outputs
from mi_helpers.figures.scales import same_scale

MOST_AHEAD = 100  # views that may be computed before the first is shown

# A cell's outputs are controls with the live view, caption, twin, which may have its title apart.
# While the first is alive it hides the others. Where it is not, the caption hides what the widget
# manager says of it. An output is .jp-OutputArea-child in JupyterLab, .output_area in the classic
# Notebook.
_LIVE = """<style>.jp-OutputArea-child:has(.mi-live) + .jp-OutputArea-child,
.jp-OutputArea-child:has(.mi-live) + .jp-OutputArea-child + .jp-OutputArea-child,
.jp-OutputArea-child:has(.mi-live) + .jp-OutputArea-child + .jp-OutputArea-child:has(.mi-title)
+ .jp-OutputArea-child,
.output_area:has(.mi-live) + .output_area,
.output_area:has(.mi-live) + .output_area + .output_area { display: none; }
.mi-computing { opacity: 0.35; transition: opacity 0.2s; }</style><span class="mi-live"></span>"""
_CAPTION = """<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .mi-twin):not(
:has(.mi-live)), .output_area:has(+ .output_area .mi-twin):not(:has(.mi-live))
{{ display: none; }}</style>
<p class="mi-twin" style="font-size:12px;opacity:0.75;margin:4px 0">Shown for {said}; run the
notebook to change it.</p>"""
_STATUS = '<span role="status" style="font-size:12px;opacity:0.75">computing \u2026</span>'


class Explorer:
    """Controls over `fn`, drawn live where there is a kernel.

    Attributes:
        fn: returns a figure for a choice.
        controls: the ipywidget of each argument.
        choice: the first choice.
        twin: the view of the first choice, left where there is no kernel.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        controls: Mapping[str, Any],
        *,
        ahead: bool = False,
    ) -> None:
        self.fn, self.controls = fn, dict(controls)
        self.choice = self._chosen()
        self._known: dict[tuple[Any, ...], Any] = {}
        if ahead:
            self._compute_ahead()
        else:
            self._known[self._place()] = fn(**self.choice)
        self.twin = self._known[self._place()]

    def caption(self) -> Html:
        """Say which choice the static twin shows."""
        said = ", ".join(f"{name} = {value}" for name, value in self.choice.items())
        return Html(_CAPTION.format(said=html.escape(said)))

    def _chosen(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def _place(self) -> tuple[Any, ...]:
        """What tells the choices apart, also where their values cannot be hashed."""
        return tuple(
            control.index if hasattr(control, "options") else control.value
            for control in self.controls.values()
        )

    def _compute_ahead(self) -> None:
        """Compute the view of every choice, and put those by plotly on one scale."""
        listed = {name: _listed(name, control) for name, control in self.controls.items()}
        count = 1
        for options in listed.values():
            count *= len(options)
        if count > MOST_AHEAD:
            raise ValueError(
                f"{count} views to compute ahead, more than {MOST_AHEAD}: offer fewer choices, or "
                "leave ahead=False and give the figures a limit of their own"
            )
        for places in itertools.product(*listed.values()):
            choice = {n: value for n, (_, value) in zip(listed, places, strict=True)}
            self._known[tuple(place for place, _ in places)] = self.fn(**choice)
        same_scale([view for view in self._known.values() if isinstance(view, go.Figure)])

    def _ipython_display_(self) -> None:
        """Display the controls with the live view, then the twin, which a live page hides."""
        import ipywidgets
        from IPython.display import clear_output, display

        out, status = ipywidgets.Output(), ipywidgets.HTML(layout={"min_height": "20px"})

        def redraw(_: Any = None) -> None:
            known = self._known.get(self._place())
            if known is None:
                status.value = _STATUS
                out.add_class("mi-computing")
            try:
                with out:  # shows an error of fn with its traceback
                    clear_output(wait=True)
                    display(self.fn(**self._chosen()) if known is None else known)
            finally:
                status.value = ""
                out.remove_class("mi-computing")

        for control in self.controls.values():
            control.observe(redraw, "value")
        marker = ipywidgets.HTML(_LIVE)
        box = ipywidgets.VBox([marker, *self.controls.values(), status, out])
        if "google.colab" in sys.modules:  # where widgets always work and the twin would show
            display(box)
            redraw()
            return
        (output,) = _as_outputs(box)
        display(output["data"] | {"text/plain": ""}, raw=True)  # not its repr, without a widget
        display(self.caption())
        display(self.twin)
        # Set, not captured: what is captured while a cell runs, nbclient sends back to the kernel
        # on the socket where it awaits the end of the cell, and it can then miss that end for ever.
        out.outputs = _as_outputs(self.twin)


def explore(
    fn: Callable[..., Any],
    /,
    *,
    start: Mapping[str, Any] | None = None,
    ahead: bool = False,
    **choices: Any,
) -> Explorer:
    """Let the reader choose the arguments of a function that returns a figure.

    The figure of the first choice is left as a static twin for printed pages, exported HTML and
    every place without widgets. While another choice is computed, the old figure is dimmed. An
    error of `fn` is raised for the first choice and shown in place of the figure for later ones.

    Args:
        fn: returns a figure, or anything that Jupyter displays.
        start: `start[name]` is the first choice shown, by default the first of each.
        ahead: computes the views of all choices at once, at most 100, so that each then shows
            without a wait, and puts them on one scale: one range of colours, and the same ends of
            each axis of numbers. For choices that can be listed, so for no text box.
        **choices: for each argument of `fn`: a list becomes a dropdown (a slider when it holds
            more than six numbers), a mapping a dropdown of its keys, a range a slider, a bool a
            checkbox, a string a text box, and an ipywidget is taken as it is.

    Returns:
        The explorer, for the end of a cell.

    Raises:
        ValueError: for no choices, a start that is not one, or too many views to compute ahead.
    """
    if not choices:
        raise ValueError("explore needs at least one choice, such as layer=range(6)")
    if unknown := sorted(set(start or {}) - set(choices)):
        raise ValueError(f"start names no choice: {unknown}; choices are {list(choices)}")
    controls = {
        name: _control(name, options, (start or {}).get(name)) for name, options in choices.items()
    }
    return Explorer(fn, controls, ahead=ahead)


def _as_outputs(view: Any) -> tuple[dict[str, Any], ...]:
    """Return `view` as the cell outputs that displaying it would make."""
    import plotly.io as pio
    from IPython.core.interactiveshell import InteractiveShell

    if isinstance(view, go.Figure) and pio.renderers.default == "mi_lab":
        shown: list[Any] = [(data, {}) for data in titled_outputs(json.loads(view.to_json()))]
    elif hasattr(view, "_repr_mimebundle_"):  # plotly's, which the formatter would show at once
        bundle = view._repr_mimebundle_()
        shown = [bundle if isinstance(bundle, tuple) else (bundle, {})]
    else:
        shown = [InteractiveShell.instance().display_formatter.format(view)]
    return tuple(
        {"output_type": "display_data", "data": data, "metadata": metadata}
        for data, metadata in shown
    )


def _listed(name: str, control: Any) -> list[tuple[Any, Any]]:
    """All choices of a control: what tells each apart, and its value."""
    if hasattr(control, "options"):
        pairs = [option if isinstance(option, tuple) else (option, option)
                 for option in control.options]  # fmt: skip
        return [(place, value) for place, (_, value) in enumerate(pairs)]
    if isinstance(control.value, bool):
        return [(value, value) for value in (False, True)]
    raise ValueError(f"ahead=True needs choices that can be listed; {name} is free: leave it out")


def _control(name: str, options: Any, first: Any) -> Any:
    """Return the ipywidget for `options`, set to `first` (None: its own first)."""
    import ipywidgets as w

    said = name.replace("_", " ")
    fit = w.Layout(max_width="98%")  # a telephone is narrower than ipywidgets' 300 pixels
    look = dict(description=said, style={"description_width": "initial"}, layout=fit)
    if isinstance(options, w.Widget):
        if first is not None:
            options.value = first
        return options
    if isinstance(options, bool):
        return w.Checkbox(value=options if first is None else first, indent=False, **look)
    if isinstance(options, str):
        return w.Text(
            value=options if first is None else first,
            continuous_update=False,
            **look | dict(description=f"{said} (then press Enter)", layout=w.Layout(width="90%")),
        )
    pairs = (
        list(options.items()) if isinstance(options, Mapping) else [(str(v), v) for v in options]
    )
    values = [value for _, value in pairs]
    if not pairs or (first is not None and first not in values):
        raise ValueError(
            f"start {name}={first!r} is not among the choices {values}"
            if pairs
            else f"{name} has no choices"
        )
    unnamed = not isinstance(options, Mapping)
    if unnamed and len(values) > 6 and all(isinstance(v, Real) for v in values):
        return w.SelectionSlider(
            options=pairs,
            value=values[0] if first is None else first,
            continuous_update=False,
            **look,
        )
    return w.Dropdown(options=pairs, value=values[0] if first is None else first, **look)
