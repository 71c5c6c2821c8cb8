"""The public surface of the package: complete, and light to import."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import mi_helpers as mi

HEAVY = ("torch", "transformer_lens", "transformers", "plotly", "pandas", "IPython", "circuitsvis")


def imported_by(statement: str) -> set[str]:
    """The heavy libraries that a statement brings into a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_import_brings_no_heavy_library() -> None:
    assert imported_by("import mi_helpers") == set()


def test_claims_and_checks_need_no_model_library() -> None:
    assert imported_by("from mi_helpers import Claims") == set()
    assert imported_by("from mi_helpers import check; dir(check)") == {"torch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", mi.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mi, name) is not None
    assert name in dir(mi)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'mi_helpers' has no attribute 'lod_model'"):
        _ = mi.lod_model


def test_version_is_that_of_the_distribution() -> None:
    assert mi.__version__ == version("mi-helpers")
