"""Checks of notebook 00, the start."""

from __future__ import annotations

from typing import Any

import torch

from mi_helpers.suite.exercises import (
    Refused,
    close,
    distinct,
    exercise,
    expect_close,
    expect_parts,
    expect_shape,
    expect_type,
    refuse_if,
    run,
    show,
)


@exercise
def top_probabilities(answer: Any, rng: torch.Generator) -> None:
    """The k highest probabilities after the last position, and their tokens."""
    for k in distinct(rng, 2, 7):
        logits = 2 * torch.randn(5, 50, generator=rng)
        got = run(answer, logits, k)
        values, ids = expect_parts(got, 2, "Return the probabilities and the token ids.")
        hint = f"Here k is {k}: one probability for each of so many tokens, at one position."
        values = expect_shape(values, (k,), hint)
        ids = expect_shape(ids, (k,), "One token id for each of the k probabilities.")
        probabilities = logits.softmax(-1)
        want, tokens = probabilities[-1].topk(k)
        refuse_if(close(values, tokens), "The order is probabilities first, then token ids.")
        mistakes = {
            "These are logits. The softmax makes probabilities of them.": logits[-1].topk(k).values,
            "The softmax ran over the k best tokens alone. Take it over the whole vocabulary.": (
                logits[-1].topk(k).values.softmax(-1)
            ),
            "The softmax ran over the positions. Each position has a distribution over tokens.": (
                logits.softmax(0)[-1].topk(k).values
            ),
            "This is the first position. The next token is predicted at the last.": (
                probabilities[0].topk(k).values
            ),
            "You averaged over the positions. The next token is predicted at the last alone.": (
                probabilities.mean(0).topk(k).values
            ),
            "This is the position before the last. The next token is predicted at the last.": (
                probabilities[-2].topk(k).values
            ),
            "These are log-probabilities.": want.log(),
            "The lowest comes first. Sort from the highest down.": want.flip(0),
            "These are the k lowest probabilities.": (
                probabilities[-1].topk(k, largest=False).values
            ),
            "These are the first k tokens of the vocabulary, not the likeliest.": (
                probabilities[-1, :k]
            ),
        }
        expect_close(values, want, mistakes)
        refuse_if(
            not close(ids, tokens),
            "The ids do not belong to the probabilities: the token with the highest has id "
            f"{int(tokens[0])}. Expected {show(tokens)}, got {show(ids)}.",
        )


@exercise
def verdict(answer: Any, rng: torch.Generator) -> None:
    """Green, red or grey for a claim's value and control."""
    low, width, gap = (torch.rand(3, generator=rng) + 0.1).tolist()
    expected, control = (low, low + width), (low - 2 * gap, low - gap)
    middle, calm = low + width / 2, low - 1.5 * gap
    # value, expected, control, expected_control, verdict, and what a wrong verdict means
    cases = [
        (middle, expected, calm, control, "green", "Value and control are in range: green."),
        (middle, None, calm, None, "grey", "Nothing is expected of this model: grey."),
        (low + 2 * width, expected, calm, control, "red", "The value is above its range: red."),
        (low - gap / 2, expected, calm, control, "red", "The value is below its range: red."),
        (middle, expected, middle, control, "red", "The control is above its range: red."),
        (middle, expected, low - 3 * gap, control, "red", "The control is below its range: red."),
        (low, expected, calm, control, "green", "The ends belong to the range."),
        (low + width, expected, control[1], control, "green", "The ends belong to the range."),
        (middle, expected, control[0], control, "green", "The ends belong to the control's range."),
        (middle, expected, middle, None, "green", "No control expected: the value decides alone."),
        (low - gap, expected, calm, None, "red", "No control expected, but the value is out: red."),
        (middle, None, middle, control, "grey", "Without a range for the value: grey, always."),
    ]
    for value, wanted, other, wanted_other, want, message in cases:
        shown = f"verdict({value:.2f}, {_pair(wanted)}, {other:.2f}, {_pair(wanted_other)})"
        try:
            got = run(answer, value, wanted, other, wanted_other)
        except Refused as refusal:
            raise Refused(f"{refusal}\nThe call was {shown}. {message}") from None
        expect_type(got, str, hint='Return one of the words "green", "red" and "grey".')
        refuse_if(got not in ("green", "red", "grey"), f'"{got}" is not green, red or grey.')
        refuse_if(got != want, f"{message} {shown} gives {str(got)!r}, not {want!r}.")


def _pair(span: tuple[float, float] | None) -> str:
    return "None" if span is None else f"({span[0]:.2f}, {span[1]:.2f})"
