"""Circuits that were published, to compare with what a search finds."""

from __future__ import annotations

import json
from importlib.resources import files

from mi_helpers.sites import Head


def published(model_id: str, behaviour: str = "ioi") -> dict[str, tuple[Head, ...]]:
    """The heads of a published circuit by what the paper calls them; empty where none is known.

    Edges are not published as data, heads are.

    Args:
        model_id: As `mi.model_id(model)` gives it.
        behaviour: "ioi": indirect object identification in GPT-2 small (Wang et al. 2022, Fig. 2).

    Raises:
        ValueError: a behaviour without a file.
    """
    folder = files("mi_data") / "circuits"
    known = sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))
    if behaviour not in known:
        raise ValueError(f"no circuit of {behaviour!r} is kept; there: {', '.join(known)}")
    by_model = json.loads((folder / f"{behaviour}.json").read_text("utf-8"))
    classes = by_model.get(model_id, {"classes": {}})["classes"]
    return {name: tuple(Head.parse(head) for head in heads) for name, heads in classes.items()}
