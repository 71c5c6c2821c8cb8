"""The word lists of ``names.toml``, ``lexicon.toml`` and ``facts.toml``, read once."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def read(name: str) -> dict[str, Any]:
    """A TOML file of this folder."""
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


_names = read("names.toml")
FEMALE: tuple[str, ...] = tuple(_names["female"])
MALE: tuple[str, ...] = tuple(_names["male"])
NAMES: tuple[str, ...] = FEMALE + MALE
LEXICON: dict[str, Any] = read("lexicon.toml")
FACTS: dict[str, Any] = read("facts.toml")["relation"]
