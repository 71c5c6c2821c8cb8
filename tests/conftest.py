"""The models that tests share. Nothing here touches the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from checkpoints import (  # noqa: E402
    gpt2_tokenizer_folder,
    save_gpt2_shaped_cache,
    save_gpt2_tokenized,
    save_tiny,
    save_worded,
)
from other_models import plain, save_other  # noqa: E402


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer checkpoint in Hugging Face format."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def _tiny_model(tiny_folder: Path):
    from mi_helpers.models import load_model

    return load_model(str(tiny_folder), device="cpu")


@pytest.fixture
def tiny_model(_tiny_model) -> Iterator:
    """A random two-layer bridge (d_model 32, 4 heads, n_ctx 64), without hooks at the end."""
    yield _tiny_model
    _tiny_model.reset_hooks()


@pytest.fixture(scope="session")
def _pocket():
    from mi_helpers.models import load_model

    try:
        return load_model("pocket", device="cpu")
    except FileNotFoundError as error:
        pytest.skip(f"the embedded model is not there yet: {error}")


@pytest.fixture
def pocket(_pocket) -> Iterator:
    """The embedded model, without hooks at the end."""
    yield _pocket
    _pocket.reset_hooks()


@pytest.fixture(scope="session")
def gpt2_shaped_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for HF_HUB_CACHE with a random checkpoint of GPT-2 small's shape.

    MI_GPT2_SHAPED_CACHE names one made before (`python tests/checkpoints.py FOLDER`).
    """
    if made := os.environ.get("MI_GPT2_SHAPED_CACHE"):
        return Path(made)
    tokenizer = gpt2_tokenizer_folder()
    if tokenizer is None:
        pytest.skip("needs GPT-2's vocab.json and merges.txt: set MI_GPT2_TOKENIZER")
    return save_gpt2_shaped_cache(tmp_path_factory.mktemp("hub"), tokenizer)


@pytest.fixture(scope="session")
def _gpt2_shaped(gpt2_shaped_cache: Path):
    from huggingface_hub import constants

    from mi_helpers.models import load_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(gpt2_shaped_cache))
        patch.delenv("MI_GPT2_DIR", raising=False)
        return load_model("gpt2", device="cpu")


@pytest.fixture
def gpt2_shaped(_gpt2_shaped) -> Iterator:
    """Random weights of GPT-2 small's shape, loaded as "gpt2" from a cache folder; slow."""
    yield _gpt2_shaped
    _gpt2_shaped.reset_hooks()


@pytest.fixture(scope="session")
def worded_model(tmp_path_factory: pytest.TempPathFactory):
    """A random bridge whose tokenizer keeps every word of the grammar whole."""
    from mi_helpers.models import load_model

    return load_model(str(save_worded(tmp_path_factory.mktemp("models") / "worded")), device="cpu")


@pytest.fixture(scope="session")
def gpt2_tokenized(tmp_path_factory: pytest.TempPathFactory):
    """A small random bridge with GPT-2's tokenizer."""
    from mi_helpers.models import load_model

    tokenizer = gpt2_tokenizer_folder()
    if tokenizer is None:
        pytest.skip("needs GPT-2's vocab.json and merges.txt: set MI_GPT2_TOKENIZER")
    folder = save_gpt2_tokenized(tmp_path_factory.mktemp("models") / "gpt2-tokenized", tokenizer)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A function from a kind in `other_models.MAKE` to (bridge, the same in plain transformers)."""
    from mi_helpers.models import load_model

    made: dict[str, tuple] = {}

    def give(kind: str) -> tuple:
        if kind not in made:
            folder = save_other(tmp_path_factory.mktemp("models") / kind, kind)
            made[kind] = load_model(str(folder), device="cpu"), plain(folder)
        return made[kind]

    return give
