"""Models that are written to a folder for a moment, to come in as any other does."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from mi_helpers.models import load_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def opened(folder: Path) -> TransformerBridge:
    """`load_model` on the CPU, without its line, which names a folder that is about to go."""
    with redirect_stdout(StringIO()):
        return load_model(str(folder), device="cpu")
