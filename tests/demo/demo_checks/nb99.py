"""Checks of notebook 99."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, exercise


def _difference(logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    rows = torch.arange(len(logits))
    return logits[rows, right] - logits[rows, wrong]


@exercise
def logit_difference(answer: Any, rng: torch.Generator) -> None:
    """Right minus wrong logit, for each row of a batch."""
    logits = torch.randn(4, 9, generator=rng)
    right, wrong = torch.rand(2, 4, 9, generator=rng).argsort(-1)[..., 0]
    rows = torch.arange(4)
    mistakes = {
        "The sign is reversed: right answer minus wrong answer.": (
            _difference(logits, wrong, right)
        ),
        "You took the right answer's logit alone. Subtract the wrong one's.": logits[rows, right],
        "You took a log-probability, which depends on all logits.": (
            logits.log_softmax(-1)[rows, right]
        ),
        "You subtracted probabilities. Take the logits themselves.": (
            _difference(logits.softmax(-1), right, wrong)
        ),
    }
    inputs = {"logits [batch d_vocab]": logits, "right [batch]": right, "wrong [batch]": wrong}
    hint = "One number for each row: do not average over the batch."
    compare(answer, _difference, inputs, mistakes, hint=hint)
