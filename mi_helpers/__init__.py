"""Thin helpers for mechanistic interpretability of GPT-2 small.

Sub-modules are imported when they are first used: ``import mi_helpers as mi; mi.heads``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mi_helpers import (
        claims,
        exercises,
        figures,
        heads,
        lens,
        metrics,
        models,
        patching,
        prompts,
        reading,
        sae,
        steering,
        toy_models,
    )
    from mi_helpers.claims import Claims
    from mi_helpers.exercises import check
    from mi_helpers.models import load_model, model_id, untrained

__version__ = "0.1.0"

__all__ = [
    "Claims",
    "check",
    "claims",
    "exercises",
    "figures",
    "heads",
    "lens",
    "load_model",
    "metrics",
    "model_id",
    "models",
    "patching",
    "prompts",
    "reading",
    "sae",
    "steering",
    "toy_models",
    "untrained",
]

_HOME = {
    "Claims": "claims",
    "check": "exercises",
    "load_model": "models",
    "model_id": "models",
    "untrained": "models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME.get(name, name)}")
    return getattr(home, name) if name in _HOME else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
