"""The claims files: what each notebook promises to find, read and validated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

MODELS = ("pocket", "smollm2", "smollm2-q4", "gpt2")
ANY = "any"
"""What is asked of the notebook's own toys, whatever language model is loaded."""
_REQUIRED = ("id", "statement", "unit", "control")
_WORDS = ("says", "absent")


@dataclass(frozen=True)
class Range:
    """An inclusive range of numbers, unbounded on at most one side."""

    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def overlaps(self, other: Range) -> bool:
        """Whether any number lies in both ranges."""
        return self.low <= other.high and other.low <= self.high

    def bounds(self) -> list[float | None]:
        """``[low, high]`` for JSON, where None stands for an infinite bound."""
        return [bound if math.isfinite(bound) else None for bound in (self.low, self.high)]


@dataclass(frozen=True)
class Expectation:
    """What one model should show.

    `control` is None where no control was published; `says` is the finding in words where this
    model shows it otherwise; `absent` says why the finding is not in this model. `value` is None
    where it cannot even be asked of this model.
    """

    value: Range | None
    control: Range | None
    source: str
    says: str = ""
    absent: str = ""


@dataclass(frozen=True)
class Declaration:
    """One ``[[claim]]`` of a claims file; ``expected`` maps model id, or "any", to expectation."""

    id: str
    statement: str
    unit: str
    control: str
    control_unit: str
    expected: Mapping[str, Expectation]

    @property
    def own(self) -> bool:
        """Whether it is asked of the notebook's own models, whatever is loaded."""
        return ANY in self.expected

    def of(self, model: str) -> Expectation | None:
        """What is expected of a model; None where nothing is."""
        return self.expected.get(model, self.expected.get(ANY))


def claims_folder() -> Path:
    """The folder of the committed claims files."""
    return Path(str(resources.files("mi_data"))) / "claims"


def load_claims(path: str | Path) -> dict[str, Declaration]:
    """Read and validate one claims file.

    Returns the declarations by id, in the order of the file.
    Raises FileNotFoundError if there is no such file, and ValueError, naming file, id and key, for
    a missing or unknown key, a repeated id, a malformed or all-embracing range, a range of the
    value that overlaps the range of the control, or an expectation of one model beside "any".
    """
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml"))) or "none"
        raise FileNotFoundError(f"no claims file {path.name}; claims files here: {known}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as err:
        raise ValueError(f"{path.name}: not valid TOML: {err}") from err
    if unknown := set(content) - {"claim"}:
        raise ValueError(f"{path.name}: unknown key {sorted(unknown)[0]!r}; expected [[claim]]")
    claims: dict[str, Declaration] = {}
    for number, entry in enumerate(content.get("claim", []), 1):
        claim = _declaration(entry, f"{path.name}: {entry.get('id', f'claim number {number}')}")
        if claim.id in claims:
            raise ValueError(f"{path.name}: {claim.id}: id is used twice")
        claims[claim.id] = claim
    return claims


def load_suite(folder: str | Path | None = None) -> dict[str, dict[str, Declaration]]:
    """Read every claims file of a folder: notebook name -> declarations by id.

    Raises ValueError as :func:`load_claims` does, and if two files declare one id.
    """
    suite: dict[str, dict[str, Declaration]] = {}
    owner: dict[str, str] = {}
    for path in sorted(Path(folder or claims_folder()).glob("*.toml")):
        suite[path.stem] = load_claims(path)
        for claim_id in suite[path.stem]:
            if claim_id in owner:
                raise ValueError(f"{path.name}: {claim_id}: id is taken by {owner[claim_id]}")
            owner[claim_id] = path.name
    return suite


def _declaration(entry: Mapping[str, Any], where: str) -> Declaration:
    for key in _REQUIRED:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f"{where}: {key} is missing or not a text")
    if unknown := set(entry) - {*_REQUIRED, *MODELS, ANY, "control_unit"}:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_.]+", entry["id"]):
        raise ValueError(f"{where}: id must read topic.name, in lower case")
    if ANY in entry and (named := [model for model in MODELS if model in entry]):
        raise ValueError(f"{where}: any holds whatever model is loaded; {named[0]} is one too many")
    same_unit = "control_unit" not in entry
    expected = {
        model: _expectation(entry[model], f"{where}: {model}", same_unit, model in ("pocket", ANY))
        for model in (*MODELS, ANY)
        if model in entry
    }
    texts = {key: entry[key] for key in _REQUIRED}
    texts["control_unit"] = entry.get("control_unit", entry["unit"])
    return Declaration(**texts, expected=expected)


def _expectation(
    entry: Mapping[str, Any], where: str, same_unit: bool, needs_control: bool
) -> Expectation:
    if unknown := set(entry) - {"value", "control", "source", *_WORDS}:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    words = {key: entry.get(key, "") for key in _WORDS}
    for key, text in words.items():
        if not isinstance(text, str) or (key in entry and not text.strip()):
            raise ValueError(f"{where}: {key} is not a text")
    if all(words.values()):
        raise ValueError(f"{where}: has both says and absent; a finding is there or it is not")
    if set(entry) == {"absent"}:
        return Expectation(None, None, "", absent=words["absent"])
    source = entry.get("source")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{where}: source is missing")
    value = _range(entry.get("value"), f"{where}: value")
    control = None
    if needs_control or "control" in entry:
        control = _range(entry.get("control"), f"{where}: control")
        if same_unit and value.overlaps(control) and not words["absent"]:
            raise ValueError(f"{where}: value and control overlap, so the control shows nothing")
    return Expectation(value, control, source, **words)


def _range(bounds: Any, where: str) -> Range:
    if not isinstance(bounds, list) or [type(b) in (int, float) for b in bounds] != [True, True]:
        raise ValueError(f"{where}: expected a range [low, high], got {bounds!r}")
    low, high = float(bounds[0]), float(bounds[1])
    if not low <= high or low == math.inf or high == -math.inf:
        raise ValueError(f"{where}: {bounds!r} is not a range from low to high")
    if low == -math.inf and high == math.inf:
        raise ValueError(f"{where}: a range from -inf to inf holds whatever comes")
    return Range(low, high)
