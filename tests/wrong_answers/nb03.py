"""Plausible wrong answers to the exercises of notebook 03."""

from __future__ import annotations

import torch


def _losses(logits, tokens):
    return -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].mean(0)


def not_shifted(logits, tokens):
    half = tokens.shape[1] // 2
    losses = -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].mean(0)
    return torch.stack([losses[:half].mean(), losses[half:].mean()])


def first_token_of_the_second_copy(logits, tokens):
    half, losses = tokens.shape[1] // 2, _losses(logits, tokens)
    return torch.stack([losses[: half - 1].mean(), losses[half - 1 :].mean()])


def copies_exchanged(logits, tokens):
    half, losses = tokens.shape[1] // 2, _losses(logits, tokens)
    return torch.stack([losses[half:].mean(), losses[: half - 1].mean()])


def without_minus(logits, tokens):
    half, losses = tokens.shape[1] // 2, -_losses(logits, tokens)
    return torch.stack([losses[: half - 1].mean(), losses[half:].mean()])


def from_logits(logits, tokens):
    half = tokens.shape[1] // 2
    losses = -logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].mean(0)
    return torch.stack([losses[: half - 1].mean(), losses[half:].mean()])


def one_number(logits, tokens):
    return _losses(logits, tokens).mean()


def _equal(tokens):
    return tokens[:, :, None] == tokens[:, None, :]


def duplicates(tokens):
    return _equal(tokens) & torch.ones_like(_equal(tokens)[0]).tril(-1)


def with_the_future(tokens):
    return torch.nn.functional.pad(_equal(tokens), (1, 0))[..., :-1]


def with_the_query(tokens):
    return with_the_future(tokens) & torch.ones_like(_equal(tokens)[0]).tril()


def one_too_early(tokens):
    before = torch.nn.functional.pad(_equal(tokens), (0, 1))[..., 1:]
    return before & torch.ones_like(before[0]).tril(-1)


def wrapped_around(tokens):
    return _equal(tokens).roll(1, 2) & torch.ones_like(_equal(tokens)[0]).tril(-1)


def keys_as_rows(tokens):
    return (with_the_future(tokens) & torch.ones_like(_equal(tokens)[0]).tril(-1)).mT


def first_occurrence(tokens):
    row, guesses = tokens.tolist(), []
    for i, token in enumerate(row):
        guesses.append(row[row.index(token) + 1] if token in row[:i] else -1)
    return torch.tensor(guesses)


def looks_ahead(tokens):
    row = [*tokens.tolist()]
    guesses = []
    for i, token in enumerate(row):
        found = [j for j in range(i + 1) if row[j] == token and j + 1 < len(row)]
        guesses.append(row[found[-1] + 1] if found else -1)
    return torch.tensor(guesses)


def _right_guess(tokens):
    row, followed, guesses = tokens.tolist(), {}, []
    for i, token in enumerate(row):
        if i:
            followed[row[i - 1]] = token
        guesses.append(followed.get(token, -1))
    return torch.tensor(guesses)


def zero_for_none(tokens):
    return _right_guess(tokens).clamp(min=0)


def the_token_itself(tokens):
    return torch.where(_right_guess(tokens) >= 0, tokens, -1)


def one_late(tokens):
    return torch.cat([torch.tensor([-1]), _right_guess(tokens)[:-1]])


def zero_ablation(z, reference, head):
    ablated = z.clone()
    ablated[:, :, head] = 0
    return ablated


def own_mean(z, reference, head):
    ablated = z.clone()
    ablated[:, :, head] = z[:, :, head].mean((0, 1))
    return ablated


def every_head(z, reference, head):
    return reference.mean((0, 1)).expand_as(z)


def one_mean_for_all_dimensions(z, reference, head):
    ablated = z.clone()
    ablated[:, :, head] = reference[:, :, head].mean()
    return ablated


def in_place(z, reference, head):
    z[:, :, head] = reference[:, :, head].mean((0, 1))
    return z


def only_the_head(z, reference, head):
    return reference[:, :, head].mean((0, 1))


def by_duplicates(tokens, pattern):
    return int((pattern * duplicates(tokens)[:, None]).sum((0, 2, 3)).argmax())


def by_previous_token(tokens, pattern):
    return int(pattern.diagonal(-1, dim1=2, dim2=3).mean((0, 2)).argmax())


def by_half_the_length(tokens, pattern):
    return int(pattern.diagonal(1 - tokens.shape[1] // 2, dim1=2, dim2=3).mean((0, 2)).argmax())


def all_scores(tokens, pattern):
    targets = with_the_query(tokens) & ~torch.eye(tokens.shape[1]).bool()
    return (pattern * targets[:, None]).sum((0, 2, 3))


WRONG = {
    "loss_by_copy": [
        not_shifted,
        first_token_of_the_second_copy,
        copies_exchanged,
        without_minus,
        from_logits,
        one_number,
    ],
    "induction_targets": [
        duplicates,
        with_the_future,
        with_the_query,
        one_too_early,
        wrapped_around,
        keys_as_rows,
    ],
    "induction_guess": [
        first_occurrence,
        looks_ahead,
        zero_for_none,
        the_token_itself,
        one_late,
    ],
    "mean_ablate": [
        zero_ablation,
        own_mean,
        every_head,
        one_mean_for_all_dimensions,
        in_place,
        only_the_head,
    ],
    "find_induction_head": [by_duplicates, by_previous_token, by_half_the_length, all_scores],
}
