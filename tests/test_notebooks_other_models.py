"""Notebooks on random models of other architectures: each ends, or says why it cannot go on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from other_models import save_reading

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("notebook", "kind", "refusal"),
    [
        # whose two names are equally likely, so that a recovery is divided by next to nothing
        ("05_activation_patching", "llama", ""),
        # in which nothing lies between attention and MLP, and which knows no fact
        ("15_mlp_memories", "neox", "this model answers no fact right in all three phrasings"),
    ],
)
def test_it_ends_on_another_kind_of_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: str, kind: str, refusal: str
) -> None:
    monkeypatch.setenv("MI_MODEL", str(save_reading(tmp_path / kind, kind)))
    monkeypatch.delenv("MI_STRICT", raising=False)
    content = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    client = NotebookClient(content, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}})
    ends = contextlib.nullcontext()
    with pytest.raises(CellExecutionError, match=refusal) if refusal else ends:
        client.execute()
