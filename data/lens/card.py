"""The card of a committed lens, from what was measured of it."""

from __future__ import annotations

from typing import Any

TOLD = """# A tuned lens of {model}

Translators for the streams before layers {layers} of `{model}`, for notebook 16, and
three controls that were trained beside them. Fitted to {tokens:,} tokens: {documents:,} documents
of pocket's generator, training split. Least squares first, then {steps} steps of Adam on the KL
from the model's final prediction, {batch} tokens each, size {rate:g} falling to zero, seed {seed}.

```python
import mi_helpers as mi

model = mi.load_model("smollm2-q4")
A, b = mi.lens.load_translators(model, mi.lens.committed_lens(model), ["0", "15"])
```

Stored in half precision, a full matrix for each. Low rank would take less room and costs too much:
see the table.

`python -m mi_data.lens.train` makes all of it, this page included: {minutes} minutes of one CPU
core and {gib} GiB. A run that was stopped goes on. How the lens reads other texts was not measured.

KL from the final prediction on {held_out} held-out documents, in nats:

| stream before layer | {heads} |
|---|{dashes}|
"""
LEGEND = """
*Full* is the lens; it and *least squares*, from which it started, were judged in single precision.
*rank*: the identity (before layer 0 and in the controls: nothing) and the product of two narrow
matrices in half precision, cut off where that moves the model's streams least.
*untrained*: streams of an untrained model of this
shape before that layer; *shuffled*: streams in the wrong order, which say how often words come.
"""


def page(measured: dict[str, Any]) -> str:
    """The card, as Markdown."""
    recipe, nats = measured["recipe"], measured["nats"]
    rows = [
        f"| {name} | " + " | ".join(shown(column.get(name)) for column in nats.values()) + " |\n"
        for name in nats["full"]
    ]
    about = recipe | {
        "model": measured["model"],
        "layers": ", ".join(name for name in nats["full"] if name.isdigit()),
        "tokens": measured["tokens"],
        "minutes": measured["minutes"],
        "gib": measured["gib"],
        "heads": " | ".join(nats),
        "dashes": "|".join("--:" for _ in nats),
    }
    return TOLD.format(**about) + "".join(rows) + LEGEND


def shown(nats: float | None) -> str:
    """A cell of the table."""
    return "-" if nats is None else f"{nats:.2f}"
