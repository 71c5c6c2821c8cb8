"""Thin helpers for mechanistic interpretability of GPT-2 small and models like it.

Seven concepts carry the package: model, site, prompt pairs, metric, intervention, figure, claim.
Rooms are imported when they are first used: `import mi_helpers as mi; mi.heads`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mi_helpers import (
        circuits,
        figures,
        heads,
        interventions,
        lens,
        metrics,
        models,
        patching,
        prompts,
        sae,
        sites,
        steering,
        toys,
    )
    from mi_helpers.models import load_model, model_id, untrained
    from mi_helpers.suite import library
    from mi_helpers.suite.claims import Claims
    from mi_helpers.suite.exercises import check
    from mi_helpers.suite.rejoin import start_at

__version__ = "0.1.0"

__all__ = [
    "Claims",
    "check",
    "circuits",
    "figures",
    "heads",
    "interventions",
    "lens",
    "library",
    "load_model",
    "metrics",
    "model_id",
    "models",
    "patching",
    "prompts",
    "sae",
    "sites",
    "start_at",
    "steering",
    "toys",
    "untrained",
]

_HOME = {
    "Claims": "suite.claims",
    "check": "suite.exercises",
    "library": "suite",
    "load_model": "models",
    "model_id": "models",
    "start_at": "suite.rejoin",
    "untrained": "models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "library":
        return import_module(f"{__name__}.suite.library")
    home = import_module(f"{__name__}.{_HOME.get(name, name)}")
    return getattr(home, name) if name in _HOME else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
