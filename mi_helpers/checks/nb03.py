"""Checks of notebook 03: loss by copy, induction targets, the rule, ablation, finding the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    Refused,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)


@exercise
def loss_by_copy(answer: Any, rng: torch.Generator) -> None:
    """Mean loss on the first and the second of two copies."""
    half, d_vocab = 6, 11
    row = torch.rand(3, d_vocab, generator=rng).argsort(-1)[:, :half]
    tokens = torch.cat([row, row], dim=1)
    logits = 2 * torch.randn(3, 2 * half, d_vocab, generator=rng)
    got = run(answer, logits, tokens)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        got = torch.stack([torch.as_tensor(item) for item in got])
    expect_shape(got, (2,), hint="Two numbers: the first and the second copy.")

    def copies(losses: Tensor, start: int = half) -> Tensor:
        losses = losses.mean(0)
        return torch.stack([losses[: half - 1].mean(), losses[start:].mean()])

    def of_targets(targets: Tensor, scores: Tensor) -> Tensor:
        return -scores.gather(-1, targets[..., None])[..., 0]

    log_probs = logits.log_softmax(-1)
    losses = of_targets(tokens[:, 1:], log_probs[:, :-1])
    want = copies(losses)
    same = of_targets(tokens, log_probs)
    mistakes = {
        "The logits at position i predict token i + 1. You compared them with token i.": (
            torch.stack([same[:, :half].mean(), same[:, half:].mean()])
        ),
        "The second copy's first token is in your second number. Nothing announces it.": (
            copies(losses, half - 1)
        ),
        "The second copy's first token is in your first number. It belongs to neither.": (
            torch.stack([losses[:, :half].mean(), want[1]])
        ),
        "The two copies are exchanged.": want.flip(0),
        "The sign is reversed: a loss is minus the log-probability.": -want,
        "You used the logits themselves. Take their log-softmax first.": (
            copies(of_targets(tokens[:, 1:], logits[:, :-1]))
        ),
        "You summed over positions. Take the mean.": (
            torch.stack([losses[:, : half - 1].mean(0).sum(), losses[:, half:].mean(0).sum()])
        ),
        "You used probabilities without the logarithm.": (
            copies(of_targets(tokens[:, 1:], log_probs[:, :-1].exp()))
        ),
    }
    expect_close(got, want, mistakes)


def _same(tokens: Tensor) -> Tensor:
    return tokens[:, :, None] == tokens[:, None, :]


def _after(same: Tensor) -> Tensor:
    """One key to the right of each mark, nothing wrapped around."""
    return torch.nn.functional.pad(same, (1, 0))[..., :-1]


def _targets(tokens: Tensor) -> Tensor:
    past = torch.ones(tokens.shape[1], tokens.shape[1]).tril(-1).bool()
    return _after(_same(tokens)) & past


@exercise
def induction_targets(answer: Any, rng: torch.Generator) -> None:
    """Earlier positions that come right after an earlier occurrence of the query's token."""
    tokens = torch.randint(3, (4, 9), generator=rng)
    tokens[0, :4] = torch.tensor([1, 1, 0, 1])  # a token right after itself
    tokens[1, [0, 8]] = 2  # the first token again at the end
    got = run(answer, tokens)
    expect_shape(got, (4, 9, 9), hint="For each sequence a row for each query.")
    refuse_if(
        got.is_floating_point() and not torch.isin(got, torch.tensor([0.0, 1.0])).all(),
        "Mark each pair as True or False, not with a weight.",
    )
    same, n = _same(tokens), tokens.shape[1]
    past, so_far = torch.ones(n, n).tril(-1).bool(), torch.ones(n, n).tril().bool()
    latest = _targets(tokens)
    latest = latest & (latest.cumsum(-1) == latest.sum(-1, keepdim=True))
    mistakes = {
        "You marked the earlier occurrences themselves. The target is the position after.": (
            same & past
        ),
        "You marked the position *before* each earlier occurrence.": (
            torch.nn.functional.pad(same, (0, 1))[..., 1:] & past
        ),
        "You marked the future too. A query sees only earlier positions.": _after(same),
        "You marked the query itself. After `A A`, the second A is no earlier position.": (
            _after(same) & so_far
        ),
        "Something wrapped around: nothing comes before position 0.": same.roll(1, 2) & past,
        "Rows and columns are exchanged: rows are queries.": _targets(tokens).mT,
        "You marked the latest occurrence only. All earlier ones count.": latest,
    }
    expect_close(got, _targets(tokens), mistakes)


def _guess(row: list[int], *, first: bool = False, current: bool = False) -> Tensor:
    """The rule; `first`: from the first occurrence; `current`: i may be its own match."""
    guesses = []
    for i, token in enumerate(row):
        earlier = [j for j in range(i) if row[j] == token]
        if current and i + 1 < len(row):
            earlier.append(i)
        place = (earlier[0] if first else earlier[-1]) if earlier else None
        guesses.append(-1 if place is None else row[place + 1])
    return torch.tensor(guesses)


@exercise
def induction_guess(answer: Any, rng: torch.Generator) -> None:
    """What followed the latest earlier occurrence of each token, or -1."""
    tail = torch.randint(4, (8,), generator=rng).tolist()
    row = [3, 1, 3, 2, 3, 0, 0, 1, *tail]  # 3 is followed by 1, then by 2; 0 follows itself
    tokens = torch.tensor(row)
    got = run(answer, tokens)
    if isinstance(got, list):
        got = torch.tensor(got)
    expect_shape(got, (16,), hint="One guess for each position.")
    refuse_if(got.is_floating_point(), "Token ids are integers.")
    want = _guess(row)
    mistakes = {
        "You took the first earlier occurrence. Take the latest.": _guess(row, first=True),
        "You looked at the token to be guessed: position i itself is no earlier occurrence.": (
            _guess(row, current=True)
        ),
        "Where the token has not occurred, return -1 and not 0.": want.clamp(min=0),
        "You returned the token that was found again. Return the one that followed it.": (
            torch.where(want >= 0, tokens, -1)
        ),
        "Your guesses are one position late: the guess at i is about the token after i.": (
            torch.cat([torch.tensor([-1]), want[:-1]])
        ),
        "You returned positions. Return the tokens there.": _places(row),
    }
    expect_close(got, want, mistakes)


def _places(row: list[int]) -> Tensor:
    """The position after the latest earlier occurrence of each token, or -1."""
    found = [[j + 1 for j in range(i) if row[j] == token] for i, token in enumerate(row)]
    return torch.tensor([places[-1] if places else -1 for places in found])


@exercise
def mean_ablate(answer: Any, rng: torch.Generator) -> None:
    """One head of z replaced by its mean over a reference."""
    z = torch.randn(2, 5, 4, 3, generator=rng)
    reference = 1 + torch.randn(3, 6, 4, 3, generator=rng)
    head = int(torch.randint(4, (), generator=rng))
    got = run(answer, z, reference, head)
    expect_shape(got, (2, 5, 4, 3), hint="All of z comes back, with one head changed.")

    def with_head(value: Tensor | float) -> Tensor:
        changed = z.clone()
        changed[:, :, head] = value
        return changed

    want = with_head(reference[:, :, head].mean((0, 1)))
    everywhere = reference.mean((0, 1)).expand_as(z)
    mistakes = {
        "You wrote zero. Mean-ablation writes the mean over the reference.": with_head(0.0),
        "You took the mean of z itself. Use the reference.": with_head(z[:, :, head].mean((0, 1))),
        "You ablated every head. Leave the others as they are.": everywhere,
        "You averaged over the head's dimensions too. Each keeps its own mean.": (
            with_head(reference[:, :, head].mean())
        ),
        "You averaged over all heads of the reference. Use this head's own mean.": (
            with_head(reference.mean((0, 1, 2)))
        ),
        "You returned z as it was.": z,
    }
    expect_close(got, want, mistakes)


def _decoys(tokens: Tensor, rng: torch.Generator) -> list[Tensor]:
    """Patterns of an induction head, and of heads that a lazy score would take for one."""
    batch, n = tokens.shape
    past = torch.ones(n, n).tril(-1).bool()
    duplicate = _same(tokens) & past
    previous, distant = (torch.diag(torch.ones(n - back), -back).bool() for back in (1, 6))
    patterns = []
    for strength, target in (
        (6.0, _targets(tokens)), (9.0, duplicate), (9.0, previous), (9.0, distant)
    ):  # fmt: skip
        scores = strength * target + torch.randn(batch, n, n, generator=rng)
        scores[:, :, 0] += 3.0  # with no target, heads rest on the first token
        future = torch.ones(n, n).triu(1).bool()
        patterns.append(scores.masked_fill(future, -torch.inf).softmax(-1))
    return patterns


@exercise
def find_induction_head(answer: Any, rng: torch.Generator) -> None:
    """The number of the induction head among heads with other habits."""
    for _ in range(3):
        period = torch.randint(5, 10, (4, 1), generator=rng)
        block = torch.rand(4, 30, generator=rng).argsort(-1)
        tokens = block.gather(1, torch.arange(24) % period)
        order = torch.randperm(4, generator=rng).tolist()
        heads = _decoys(tokens, rng)
        pattern = torch.stack([heads[kind] for kind in order], dim=1)
        got = run(answer, tokens, pattern)
        expect_type(got, (int, Tensor), "Return the head's number.")
        refuse_if(
            isinstance(got, Tensor) and got.numel() != 1, "Return one number, not one per head."
        )
        chosen = int(got)
        refuse_if(not 0 <= chosen < 4, f"There is no head {chosen}: there are four, from 0.")
        messages = {
            1: "You chose a duplicate-token head: it looks at the earlier A, not at what followed.",
            2: "You chose a previous-token head. It looks one back, whatever the tokens are.",
            3: "You chose a head with a fixed distance. The blocks differ in length.",
        }
        if order[chosen] in messages:
            raise Refused(messages[order[chosen]])
