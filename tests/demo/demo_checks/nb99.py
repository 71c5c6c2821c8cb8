"""Checks of notebook 99."""

from __future__ import annotations

from typing import Any

import torch

from mi_helpers.exercises import exercise, expect_close, expect_shape, run


@exercise
def logit_difference(answer: Any, rng: torch.Generator) -> None:
    """Right minus wrong logit, for each row of a batch."""
    logits = torch.randn(4, 9, generator=rng)
    right, wrong = torch.rand(2, 4, 9, generator=rng).argsort(-1)[..., 0]
    got = run(answer, logits, right, wrong)
    expect_shape(got, (4,), hint="One number for each row: do not average over the batch.")
    rows = torch.arange(4)
    want = logits[rows, right] - logits[rows, wrong]
    log_probs = logits.log_softmax(-1)
    mistakes = {
        "The sign is reversed: right answer minus wrong answer.": -want,
        "You took the right answer's logit alone. Subtract the wrong one's.": logits[rows, right],
        "You took a log-probability, which depends on all logits.": log_probs[rows, right],
        "You subtracted probabilities. Take the logits themselves.": (
            logits.softmax(-1)[rows, right] - logits.softmax(-1)[rows, wrong]
        ),
    }
    expect_close(got, want, mistakes)
