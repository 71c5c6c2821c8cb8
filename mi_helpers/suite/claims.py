"""Claims: findings as assertions with an expected range, a source and a control.

A notebook's claims are declared in ``data/claims/<notebook>.toml``::

    [[claim]]
    id = "residual.sum_error"        # topic.name, unique over the suite
    statement = "Embedding, heads and MLPs sum to the final residual stream."
    unit = "largest absolute difference"
    control = "the same sum with one head left out"
    # control_unit = "..."           # only where the control is measured in another unit
    [claim.pocket]                   # and/or [claim.gpt2]; without, the claim is shown grey;
                                     # [claim.any] for what is asked of the notebook's own toys
    value = [0.0, 1e-4]              # inclusive range; inf is allowed on one side
    control = [1e-2, inf]            # may not overlap `value` in the same unit
    source = "measured on pocket"
    [claim.smollm2-q4]
    says = "..."                     # where a model shows it otherwise: the finding in its words
    # absent = "..."                 # where it is not in this model: why; ranges may then overlap,
    ...                              # and are left out where it cannot even be asked

``MI_STRICT=1`` turns a failed or forgotten claim into a :class:`ClaimError`; ``MI_CLAIMS_DIR``
names the folder in which :meth:`Claims.table` leaves the run's results as JSON.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import SupportsFloat

from mi_helpers.files import write_whole
from mi_helpers.suite.expectations import Declaration, claims_folder, load_claims, load_suite
from mi_helpers.suite.views import Line, Table, load_results, results_markdown

__all__ = ["ClaimError", "Claims", "load_claims", "load_results", "load_suite", "results_markdown"]

_PACKAGES = ("mi-helpers", "transformer-lens", "transformers", "torch", "numpy")


class ClaimError(AssertionError):
    """A claim failed, or was declared and never made, while ``MI_STRICT=1``."""


def _number(number: SupportsFloat, what: str) -> float:
    """A finite float from a number, a bool or a one-element tensor or array."""
    shape = tuple(getattr(number, "shape", ()))
    if math.prod(shape) != 1 or not hasattr(number, "__float__"):
        kind = f"{type(number).__name__}{f' of shape {shape}' if shape else ''}"
        raise TypeError(f"{what} must be a single number, got a {kind}; reduce it first")
    result = float(number.item() if hasattr(number, "item") else number)
    if not math.isfinite(result):
        raise ValueError(f"{what} is {result}: the computation before it went wrong")
    return result


class Claims:
    """The claims of one notebook, made and shown one by one.

    `claim = Claims("01_residual_stream", mi.model_id(model))`, then `claim(id, value, control=...)`
    after each finding and `claim.table()` at the end. `model` is what `mi.model_id` says of the
    weights.
    """

    def __init__(self, notebook: str, model: str, *, folder: str | Path | None = None) -> None:
        """Read the notebook's claims; raises as :func:`load_claims` does."""
        self.notebook = notebook
        self.declared = load_claims(Path(folder or claims_folder()) / f"{notebook}.toml")
        self.model = model
        self._made: dict[str, Line] = {}

    def __call__(
        self, claim_id: str, value: SupportsFloat, *, control: SupportsFloat | None = None
    ) -> None:
        """Show whether ``value`` and ``control`` lie in their expected ranges for this model.

        Raises KeyError for an id that is not declared, TypeError for anything but a single number,
        ValueError for NaN, infinity or a missing control, and ClaimError for a failed claim under
        ``MI_STRICT=1``.
        """
        from IPython.display import display

        line = self.judge(claim_id, value, control=control)
        self._made[claim_id] = line
        display(line)
        if line.status == "fails" and _strict():
            raise ClaimError(repr(line))

    def judge(
        self, claim_id: str, value: SupportsFloat, *, control: SupportsFloat | None = None
    ) -> Line:
        """The verdict on one claim, neither shown nor recorded; raises as calling does."""
        claim = self._declaration(claim_id)
        if control is None:
            raise ValueError(f"{claim_id} needs control=..., the value for: {claim.control}")
        number = _number(value, f"{claim_id}: value")
        control_number = _number(control, f"{claim_id}: control")
        expected = claim.of(self.model)
        allowed = expected.value if expected else None
        allowed_control = expected.control if expected else None
        holds = allowed is None or number in allowed
        holds &= allowed_control is None or control_number in allowed_control
        status = "no expectation" if expected is None else "holds" if holds else "fails"
        if expected and expected.absent and holds:
            status = "not here"
        return Line(
            id=claim_id,
            statement=(expected and expected.says) or claim.statement,
            unit=claim.unit,
            value=number,
            control_text=claim.control,
            control_unit=claim.control_unit,
            control_value=control_number,
            expected=allowed.bounds() if allowed else None,
            expected_control=allowed_control.bounds() if allowed_control else None,
            source=expected.source if expected else "",
            status=status,
            reason=expected.absent if expected else "",
            own=claim.own,
        )

    def not_here(self, claim_id: str, reason: str) -> None:
        """Show and record that a finding cannot be asked of this model, and why.

        The notebook decides it from the model's structure. Raises KeyError for an id that is not
        declared, and ClaimError under ``MI_STRICT=1`` where a number is expected of this model.
        """
        from IPython.display import display

        claim = self._declaration(claim_id)
        expected = claim.of(self.model)
        line = Line(
            id=claim_id,
            statement=claim.statement,
            unit=claim.unit,
            value=None,
            control_text=claim.control,
            control_unit=claim.control_unit,
            control_value=None,
            expected=None,
            expected_control=None,
            source="",
            status="not here",
            reason=reason,
        )
        self._made[claim_id] = line
        display(line)
        if expected and expected.value and _strict():
            raise ClaimError(f"{claim_id}: a number is expected of {self.model}; {line!r}")

    def _declaration(self, claim_id: str) -> Declaration:
        if claim_id not in self.declared:
            known = ", ".join(self.declared)
            raise KeyError(f"{claim_id!r} is not declared in {self.notebook}.toml; there: {known}")
        return self.declared[claim_id]

    def table(self) -> Table:
        """All claims of this run; writes them to ``$MI_CLAIMS_DIR/<notebook>.<model>.json``.

        Raises ClaimError under ``MI_STRICT=1`` if a declared claim was not made.
        """
        made = [self._made[claim_id] for claim_id in self.declared if claim_id in self._made]
        missing = [claim_id for claim_id in self.declared if claim_id not in self._made]
        table = Table(self.notebook, self.model, tuple(made), tuple(missing))
        if folder := os.environ.get("MI_CLAIMS_DIR"):
            _write(table, Path(folder))
        if missing and _strict():
            raise ClaimError(f"{self.notebook}: declared but never made: {', '.join(missing)}")
        return table


def _strict() -> bool:
    return os.environ.get("MI_STRICT") == "1"


def _write(table: Table, folder: Path) -> None:
    """Write one run's results as JSON, whole or not at all."""
    run = {
        "notebook": table.notebook,
        "model": table.model,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "rows": [asdict(line) for line in table.lines],
        "missing": list(table.missing),
    }
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{table.notebook}.{re.sub(r'[^A-Za-z0-9.-]+', '_', table.model)}.json"
    with write_whole(folder / name) as part:
        part.write_text(json.dumps(run, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
