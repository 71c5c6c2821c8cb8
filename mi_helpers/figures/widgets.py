"""Interactive views that leave a static twin behind for every place without a kernel."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from .html import Html

_HIDE_TWIN = """<style>.jp-OutputArea-child:has(.{key}) + .jp-OutputArea-child,
.jp-OutputArea-child:has(.{key}) + .jp-OutputArea-child + .jp-OutputArea-child {{ display: none; }}
</style><span class="{key}"></span>"""


class Explorer:
    """Controls over `fn`, drawn live where there is a kernel; `twin` is its result for `choice`."""

    def __init__(
        self, fn: Callable[..., Any], controls: Mapping[str, Any], choice: Mapping[str, Any]
    ) -> None:
        self.fn, self.controls, self.choice = fn, dict(controls), dict(choice)
        self.twin = fn(**self.choice)

    def caption(self) -> Html:
        """Say which choice the static twin shows."""
        said = ", ".join(f"{name} = {value}" for name, value in self.choice.items())
        return Html(
            f'<p style="font-size:12px;opacity:0.75;margin:4px 0">Shown for {html.escape(said)}; '
            "run the notebook to change it.</p>"
        )

    def _ipython_display_(self) -> None:
        """Display the controls with the live view, then the twin, which a live page hides."""
        import ipywidgets
        from IPython.display import clear_output, display

        out = ipywidgets.Output()

        def redraw(_: Any = None) -> None:
            with out:  # shows an error of fn with its traceback
                clear_output(wait=True)
                choice = {name: control.value for name, control in self.controls.items()}
                display(self.twin if choice == self.choice else self.fn(**choice))

        for control in self.controls.values():
            control.observe(redraw, "value")
        marker = ipywidgets.HTML(_HIDE_TWIN.format(key=f"mi-live-{id(self)}"))
        display(ipywidgets.VBox([*self.controls.values(), out, marker]))
        if "google.colab" in sys.modules:  # where widgets always work and the twin would show
            redraw()
            return
        display(self.twin)
        display(self.caption())
        # Set, not captured: what is captured while a cell runs, nbclient sends back to the kernel
        # on the socket where it awaits the end of the cell, and it can then miss that end for ever.
        out.outputs = (_as_output(self.twin),)


def _as_output(view: Any) -> dict[str, Any]:
    """Return `view` as the cell output that displaying it would make."""
    from IPython.core.interactiveshell import InteractiveShell

    if hasattr(view, "_repr_mimebundle_"):  # plotly's, which the formatter would show at once
        bundle = view._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    else:
        data, metadata = InteractiveShell.instance().display_formatter.format(view)
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def explore(
    fn: Callable[..., Any], /, *, start: Mapping[str, Any] | None = None, **choices: Any
) -> Explorer:
    """Let the reader choose the arguments of `fn`, which returns a figure, from `choices`.

    A list becomes a dropdown (a slider when it holds more than six numbers), a mapping a dropdown
    of its keys, a range a slider, a bool a checkbox, a string a text box, and an ipywidget is
    taken as it is. `start[name]` is the first choice shown, by default the first of each.
    The same figure for the first choice is left as a static twin for printed pages, exported HTML
    and every place without widgets. An error of `fn` is raised for the first choice and shown in
    place of the figure for later ones. ValueError for no choices or a start that is not one.
    """
    if not choices:
        raise ValueError("explore needs at least one choice, such as layer=range(6)")
    if unknown := sorted(set(start or {}) - set(choices)):
        raise ValueError(f"start names no choice: {unknown}; choices are {list(choices)}")
    controls = {
        name: _control(name, options, (start or {}).get(name)) for name, options in choices.items()
    }
    return Explorer(fn, controls, {name: control.value for name, control in controls.items()})


def _control(name: str, options: Any, first: Any) -> Any:
    """Return the ipywidget for `options`, set to `first` (None: its own first)."""
    import ipywidgets as w

    look = dict(description=name.replace("_", " "), style={"description_width": "initial"})
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
            layout=w.Layout(width="90%"),
            **look,
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
