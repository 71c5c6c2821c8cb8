"""Checks of notebook 03: loss by copy, induction targets, the rule, ablation, finding the head."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    compare,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_shape,
    refuse_if,
    run,
    smallest,
)


def _by_copy(logits: Tensor, tokens: Tensor) -> Tensor:
    half = tokens.shape[1] // 2
    losses = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].mean(0)
    return torch.stack([losses[: half - 1].mean(), losses[half:].mean()])


@exercise
def loss_by_copy(answer: Any, rng: torch.Generator) -> None:
    """Mean loss on the first and the second of two copies."""
    d_vocab = 11
    for half in distinct(rng, 4, 8):
        row = torch.rand(3, d_vocab, generator=rng).argsort(-1)[:, :half]
        tokens = torch.cat([row, row], dim=1)
        logits = 2 * torch.randn(3, 2 * half, d_vocab, generator=rng)
        compare(
            answer,
            _by_copy,
            {"logits [batch _ _]": logits, "tokens [batch _]": tokens},
            _loss_mistakes(logits, tokens, half),
            hint="Two numbers: the first and the second copy.",
        )


def _loss_mistakes(logits: Tensor, tokens: Tensor, half: int) -> dict[str, Tensor]:
    def copies(losses: Tensor, start: int = half) -> Tensor:
        losses = losses.mean(0)
        return torch.stack([losses[: half - 1].mean(), losses[start:].mean()])

    def of_targets(targets: Tensor, scores: Tensor) -> Tensor:
        return -scores.gather(-1, targets[..., None])[..., 0]

    log_probs = logits.log_softmax(-1)
    losses = of_targets(tokens[:, 1:], log_probs[:, :-1])
    want = copies(losses)
    same = of_targets(tokens, log_probs)
    return {
        "The logits at position i predict token i + 1. You compared them with token i.": (
            torch.stack([same[:, :half].mean(), same[:, half:].mean()])
        ),
        "The logits at position i predict token i + 1. You compared them with token i - 1.": (
            copies(of_targets(tokens[:, :-1], log_probs[:, 1:]))
        ),
        "The second copy's first token is in your second number. Nothing announces it.": (
            copies(losses, half - 1)
        ),
        "The second copy's first token is in your first number. It belongs to neither.": (
            torch.stack([losses[:, :half].mean(), want[1]])
        ),
        "The second copy's second token is missing. Leave out its first alone.": (
            copies(losses, half + 1)
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
        "These are bits: you took the logarithm to base 2. Nats have the natural one.": (
            want / torch.log(torch.tensor(2.0))
        ),
        "You used the first sequence alone. Take the mean over all of them.": copies(losses[:1]),
    }


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
    got = expect_shape(
        run(answer, tokens), (4, 9, 9), hint="For each sequence a row for each query."
    )
    refuse_if(
        not bool(((got == 0) | (got == 1)).all()),
        "Mark each pair as True or False, not with a weight.",
    )
    same, n = _same(tokens), tokens.shape[1]
    past, so_far = torch.ones(n, n).tril(-1).bool(), torch.ones(n, n).tril().bool()
    latest = _targets(tokens)
    latest = latest & (latest.cumsum(-1) == latest.sum(-1, keepdim=True))
    mistakes = {
        "You marked every pair of equal tokens: that compares all with all. The target of "
        "induction is one key to the right of an equal one, and earlier than the query.": same,
        "You marked every pair of equal tokens but each with itself. The target of induction is "
        "one key to the right of an equal one, and earlier than the query.": (
            same & ~torch.eye(n).bool()
        ),
        "You marked the earlier occurrences themselves. The target is the position after.": (
            same & past
        ),
        "You marked equal tokens up to the query, itself included. The target is the position "
        "after an earlier one.": same & so_far,
        "You marked the position *before* each earlier occurrence.": (
            torch.nn.functional.pad(same, (0, 1))[..., 1:] & past
        ),
        "You marked the future too. A query sees only earlier positions.": _after(same),
        "You marked the future alone. A query sees only earlier positions.": (
            _after(same) & ~so_far
        ),
        "You marked the query itself. After `A A`, the second A is no earlier position.": (
            _after(same) & so_far
        ),
        "Something wrapped around: nothing comes before position 0.": same.roll(1, 2) & past,
        "Something wrapped around, and the future is marked too.": same.roll(1, 2),
        "Rows and columns are exchanged: rows are queries.": _targets(tokens).mT,
        "You marked the latest occurrence only. All earlier ones count.": latest,
        "You marked everything that is earlier. Only what follows an equal token counts.": (
            past.expand_as(same)
        ),
        "Nothing is marked.": torch.zeros_like(same),
    }
    inputs = {"tokens [batch pos]": tokens}
    example = functools.partial(smallest, answer, _targets, inputs)
    expect_close(got, _targets(tokens), mistakes, example=example)


_RULE_MISTAKES = {
    "first": "You took the first earlier occurrence. Take the latest.",
    "current": (
        "You looked at the token to be guessed: position i itself is no earlier occurrence."
    ),
    "zero": "Where the token has not occurred, return -1 and not 0.",
    "itself": "You returned the token that was found again. Return the one that followed it.",
    "before": "You returned the token before the earlier occurrence. Return the one after it.",
    "places": "You returned positions. Return the tokens there.",
    "late": "Your guesses are one position late: the guess at i is about the token after i.",
    "never": "You returned -1 everywhere. Tokens do occur again.",
}


def _rule(row: list[int], wrong: tuple[str, ...] = ()) -> Tensor:
    """The rule, with some of the mistakes above."""
    none = 0 if "zero" in wrong else -1
    guesses = []
    for i, token in enumerate(row):
        earlier = [j for j in range(i) if row[j] == token]
        if "current" in wrong and i + 1 < len(row):
            earlier.append(i)
        place = (earlier[0] if "first" in wrong else earlier[-1]) if earlier else None
        if place is None or "never" in wrong:
            guesses.append(none)
        elif "places" in wrong:
            guesses.append(place + 1)
        elif "before" in wrong:
            guesses.append(row[place - 1] if place else none)
        else:
            guesses.append(row[place] if "itself" in wrong else row[place + 1])
    if "late" in wrong:
        guesses = [none, *guesses[:-1]]
    return torch.tensor(guesses)


@exercise
def induction_guess(answer: Any, rng: torch.Generator) -> None:
    """What followed the latest earlier occurrence of each token, or -1."""
    tail = torch.randint(4, (8,), generator=rng).tolist()
    row = [3, 1, 3, 2, 3, 0, 0, 1, *tail]  # 3 is followed by 1, then by 2; 0 follows itself
    renamed = torch.randperm(9, generator=rng)[:4]
    tokens = renamed[torch.tensor(row)]
    row = tokens.tolist()
    got = run(answer, tokens)
    got = expect_shape(got, (16,), hint="One guess for each position.")
    refuse_if(not bool((got.double() == got.double().round()).all()), "Token ids are integers.")
    mistakes = {message: _rule(row, (name,)) for name, message in _RULE_MISTAKES.items()}
    for one, other in itertools.combinations(_RULE_MISTAKES, 2):
        message = f"Two things at once. {_RULE_MISTAKES[one]} {_RULE_MISTAKES[other]}"
        mistakes[message] = _rule(row, (one, other))
    example = functools.partial(
        smallest, answer, lambda tokens: _rule(tokens.tolist()), {"tokens [pos]": tokens}
    )
    expect_close(got, _rule(row), mistakes, example=example)


def _ablated(z: Tensor, reference: Tensor, head: int) -> Tensor:
    changed = z.clone()
    changed[:, :, head] = reference[:, :, head].mean((0, 1))
    return changed


@exercise
def mean_ablate(answer: Any, rng: torch.Generator) -> None:
    """One head of z replaced by its mean over a reference."""
    for head in distinct(rng, 0, 4):
        z = torch.randn(2, 5, 4, 3, generator=rng)
        reference = 1 + torch.randn(3, 6, 4, 3, generator=rng)
        inputs = {
            "z [batch pos head d_head]": z,
            "reference [prompt place head d_head]": reference,
            "head": head,
        }
        mistakes = _ablation_mistakes(z, reference, head)
        hint = "All of z comes back, with one head changed."
        compare(answer, _ablated, inputs, mistakes, hint=hint)


def _ablation_mistakes(z: Tensor, reference: Tensor, head: int) -> dict[str, Tensor]:
    def with_head(value: Tensor | float) -> Tensor:
        changed = z.clone()
        changed[:, :, head] = value
        return changed

    own = reference[:, :, head]
    return {
        "You wrote zero. Mean-ablation writes the mean over the reference.": with_head(0.0),
        "You took the mean of z itself. Use the reference.": with_head(z[:, :, head].mean((0, 1))),
        "You ablated every head. Leave the others as they are.": (
            reference.mean((0, 1)).expand_as(z)
        ),
        "You ablated all heads but this one.": torch.where(
            (torch.arange(4) == head)[:, None], z, reference.mean((0, 1))
        ),
        "You averaged over the head's dimensions too. Each keeps its own mean.": (
            with_head(own.mean())
        ),
        "You averaged over all heads of the reference. Use this head's own mean.": (
            with_head(reference.mean((0, 1, 2)))
        ),
        "You averaged over positions alone and used the first prompt of the reference.": (
            with_head(own[0].mean(0))
        ),
        "You took the median. The mean is asked for.": (
            with_head(own.flatten(0, 1).median(0).values)
        ),
        "You returned z as it was.": z,
    }


_OTHER_HABITS = {
    "duplicate": (
        "You chose a duplicate-token head: it looks at the earlier A, not at what followed."
    ),
    "previous": "You chose a previous-token head. It looks one back, whatever the tokens are.",
    "offset": "You chose a head with a fixed distance. The blocks differ in length.",
    "even": "You chose a head that spreads its attention evenly over all it can see.",
    "elsewhere": (
        "You chose a head that looks as far back as an induction head would on *other* rows: the "
        "distance is right for a block of some length, and not for the row that it stands in. No "
        "diagonal of the patterns tells the two apart: look at the tokens."
    ),
}


def _heads(tokens: Tensor, others: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Patterns of an induction head, and of heads that a lazy score would take for one.

    The head "elsewhere" has the diagonals of the induction head, only stronger, and in other rows:
    it does induction on `others`, whose rows have the blocks of another row. On every diagonal that
    neither has, the head that looks everywhere has more than the others.
    """
    batch, n = tokens.shape
    past = torch.ones(n, n).tril(-1).bool()
    back = int(torch.randint(2, 12, (), generator=rng))
    fixed = {
        "previous": torch.diag(torch.ones(n - 1), -1).bool(),
        "offset": torch.diag(torch.ones(n - back), -back).bool(),
    }
    looks_at = {
        "induction": (6.0, _targets(tokens)),
        "duplicate": (9.0, _same(tokens) & past),
        "previous": (9.0, fixed["previous"].expand(batch, n, n)),
        "offset": (9.0, fixed["offset"].expand(batch, n, n)),
        "elsewhere": (9.0, _targets(others)),
        "even": (0.0, past),
    }
    patterns = {}
    for kind, (strength, target) in looks_at.items():
        scores = strength * target + torch.randn(batch, n, n, generator=rng)
        scores[:, :, 0] += 3.0 * (kind != "even")  # with no target, heads rest on the first token
        future = torch.ones(n, n).triu(1).bool()
        patterns[kind] = scores.masked_fill(future, -torch.inf).softmax(-1)
    return patterns


@exercise
def find_induction_head(answer: Any, rng: torch.Generator) -> None:
    """The number of the induction head among heads with other habits."""
    told: set[int] = set()
    while len(told) < 3:
        period = (torch.randperm(5, generator=rng)[:4] + 5)[:, None]  # another in each row
        block = torch.rand(4, 30, generator=rng).argsort(-1)
        tokens = block.gather(1, torch.arange(24) % period)
        others = block.gather(1, torch.arange(24) % period.roll(1, 0))
        heads = _heads(tokens, others, rng)
        order = [list(heads)[i] for i in torch.randperm(len(heads), generator=rng).tolist()]
        if order.index("induction") in told:
            continue  # so that no number is right each time
        told.add(order.index("induction"))
        pattern = torch.stack([heads[kind] for kind in order], dim=1)
        chosen = expect_integer(
            run(answer, tokens, pattern), "Return the head's number, not one score per head."
        )
        refuse_if(
            not 0 <= chosen < len(order),
            f"There is no head {chosen}: there are {len(order)}, from 0.",
        )
        if order[chosen] != "induction":
            raise Refused(_OTHER_HABITS[order[chosen]])
