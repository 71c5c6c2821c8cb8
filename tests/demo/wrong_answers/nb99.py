"""Wrong answers to the exercises of notebook 99."""

import torch


def averaged(logits, right, wrong):
    """Average over the batch."""
    rows = torch.arange(len(logits))
    return (logits[rows, right] - logits[rows, wrong]).mean()


def reversed_sign(logits, right, wrong):
    """Wrong answer minus right answer."""
    rows = torch.arange(len(logits))
    return logits[rows, wrong] - logits[rows, right]


def right_only(logits, right, wrong):
    """The right answer's logit alone."""
    return logits[torch.arange(len(logits)), right]


def all_pairs(logits, right, wrong):
    """Pair every row with every answer."""
    return logits[:, right] - logits[:, wrong]


WRONG = {"logit_difference": [averaged, reversed_sign, right_only, all_pairs, torch.zeros(4)]}
