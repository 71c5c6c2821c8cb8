"""Wrong answers to the exercises of notebook 00."""

from __future__ import annotations

# --- top_probabilities ---


def logits_not_probabilities(logits, k):
    return tuple(logits[-1].topk(k))


def softmax_after_topk(logits, k):
    values, ids = logits[-1].topk(k)
    return values.softmax(-1), ids


def softmax_over_positions(logits, k):
    return tuple(logits.softmax(0)[-1].topk(k))


def first_position(logits, k):
    return tuple(logits[0].softmax(-1).topk(k))


def mean_over_positions(logits, k):
    return tuple(logits.softmax(-1).mean(0).topk(k))


def every_position(logits, k):
    return tuple(logits.softmax(-1).topk(k))


def lowest_first(logits, k):
    values, ids = logits[-1].softmax(-1).topk(k)
    return values.flip(0), ids.flip(0)


def lowest(logits, k):
    return tuple(logits[-1].softmax(-1).topk(k, largest=False))


def ids_first(logits, k):
    values, ids = logits[-1].softmax(-1).topk(k)
    return ids, values


def ranks_for_ids(logits, k):
    values, ids = logits[-1].softmax(-1).topk(k)
    return values, ids.argsort()


def probabilities_alone(logits, k):
    return logits[-1].softmax(-1).topk(k).values


# --- verdict ---


def _inside(value, span):
    return span is None or span[0] <= value <= span[1]


def _colour(holds):
    return "green" if holds else "red"


def never_grey(value, expected, control, expected_control):
    return _colour(_inside(value, expected) and _inside(control, expected_control))


def control_ignored(value, expected, control, expected_control):
    return "grey" if expected is None else _colour(_inside(value, expected))


def ends_left_out(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    holds = expected[0] < value < expected[1]
    return _colour(holds and _inside(control, expected_control))


def no_upper_end(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    return _colour(value >= expected[0] and _inside(control, expected_control))


def no_lower_end(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    return _colour(value <= expected[1] and _inside(control, expected_control))


def grey_without_control(value, expected, control, expected_control):
    if expected is None or expected_control is None:
        return "grey"
    return _colour(_inside(value, expected) and _inside(control, expected_control))


def control_upwards_only(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    calm = expected_control is None or control <= expected_control[1]
    return _colour(_inside(value, expected) and calm)


def control_taken_for_granted(value, expected, control, expected_control):
    if expected is None:
        return "grey"
    calm = expected_control[0] <= control <= expected_control[1]
    return _colour(_inside(value, expected) and calm)


def truth_value(value, expected, control, expected_control):
    return expected is not None and _inside(value, expected)


def other_words(value, expected, control, expected_control):
    return "holds" if expected and _inside(value, expected) else "fails"


WRONG = {
    "top_probabilities": [
        logits_not_probabilities,
        softmax_after_topk,
        softmax_over_positions,
        first_position,
        mean_over_positions,
        every_position,
        lowest_first,
        lowest,
        ids_first,
        ranks_for_ids,
        probabilities_alone,
    ],
    "verdict": [
        never_grey,
        control_ignored,
        ends_left_out,
        no_upper_end,
        no_lower_end,
        grey_without_control,
        control_upwards_only,
        control_taken_for_granted,
        truth_value,
        other_words,
    ],
}
