"""Checks of notebook 24: nested errors, telling units, the targeted score, cause and isolation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _errors(x: Tensor, f: Tensor, W_dec: Tensor, b_dec: Tensor, prefixes: list[int]) -> Tensor:
    said = [f[:, :m] @ W_dec[:m] + b_dec for m in prefixes]
    return torch.stack([(one - x).square().sum(1) for one in said])  # [prefix token]


def _nested(x: Tensor, f: Tensor, W_dec: Tensor, b_dec: Tensor, prefixes: list[int]) -> Tensor:
    return _errors(x, f, W_dec, b_dec, prefixes).mean()


@exercise
def nested_error(answer: Any, rng: torch.Generator) -> None:
    """The mean over prefixes of the mean squared error of what the first units say."""
    for first, n_tokens in zip(distinct(rng, 1, 4), distinct(rng, 4, 8), strict=True):
        x, b_dec = torch.randn(n_tokens, 5, generator=rng), torch.randn(5, generator=rng)
        f, W_dec = torch.rand(n_tokens, 9, generator=rng), torch.randn(9, 5, generator=rng)
        prefixes = [first, first + 2, 8]
        errors = _errors(x, f, W_dec, b_dec, prefixes)
        bare = _errors(x, f, W_dec, 0 * b_dec, prefixes)
        blocks = [0, *prefixes]
        alone = torch.stack([
            (f[:, a:b] @ W_dec[a:b] + b_dec - x).square().sum(1)
            for a, b in zip(blocks, blocks[1:], strict=False)
        ])  # fmt: skip
        mistakes = {
            "You took the sum over prefixes. Take the mean.": errors.mean(1).sum(),
            "You left the decoder's bias out.": bare.mean(),
            "You took the error of the last prefix alone. Every prefix counts.": errors[-1].mean(),
            "You added all units to the prefixes. Use those that are given.": (
                _nested(x, f, W_dec, b_dec, [*prefixes, 9])
            ),
            "Each of your blocks stands alone. A prefix holds all units before its end.": (
                alone.mean()
            ),
            "You averaged over dimensions. Sum over them.": errors.mean() / 5,
            "You summed over inputs. Take the mean.": errors.sum(1).mean(),
        }
        inputs = {"x [token d]": x, "f [token unit]": f, "W_dec [unit d]": W_dec,
                  "b_dec [d]": b_dec, "prefixes": prefixes}  # fmt: skip
        compare(answer, _nested, inputs, mistakes, hint="One number.")


def _telling(acts: Tensor, label: Tensor, k: int) -> Tensor:
    return (acts[label].mean(0) - acts[~label].mean(0)).abs().topk(k).indices


@exercise
def telling_units(answer: Any, rng: torch.Generator) -> None:
    """The units of largest absolute difference of means, largest first."""
    for k in distinct(rng, 2, 5):
        label = torch.rand(40, generator=rng) < 0.3
        label[:2] = torch.tensor([True, False])
        # some units fire with the label, some without it, and some are loud everywhere
        rise = torch.linspace(-4, 4, 16)[torch.randperm(16, generator=rng)]
        acts = 4.5 + label[:, None] * rise + 0.3 * torch.rand(40, 16, generator=rng)
        acts[:, rise.abs().argmin()] += 9
        gap = acts[label].mean(0) - acts[~label].mean(0)
        mistakes = {
            "You took the largest differences. A unit that falls silent tells as much: take their "
            "size.": gap.topk(k).indices,
            "You took the most active units where the label holds. Compare with the rest.": (
                acts[label].mean(0).topk(k).indices
            ),
            "The order is reversed: the largest difference first.": (
                gap.abs().topk(k).indices.flip(0)
            ),
            "These are the units that tell least.": (-gap.abs()).topk(k).indices,
            "You returned the differences. Return the numbers of the units.": (
                gap.abs().topk(k).values
            ),
        }
        inputs = {"acts [token unit]": acts, "label [token]": label, "k": k}
        compare(answer, _telling, inputs, mistakes, hint="k whole numbers.")


def _targeted(lost: Tensor) -> Tensor:
    n = len(lost)
    return lost.diagonal().mean() - (lost.sum() - lost.trace()) / (n * n - n)


@exercise
def targeted(answer: Any, rng: torch.Generator) -> None:
    """The mean of the diagonal less the mean of the rest."""
    for n in distinct(rng, 3, 6):
        lost = torch.randn(n, n, generator=rng)
        on, off = lost.diagonal(), lost[~torch.eye(n, dtype=torch.bool)]
        mistakes = {
            "You subtracted the mean of all entries. The diagonal is no damage: leave it out.": (
                on.mean() - lost.mean()
            ),
            "You took the diagonal alone. Subtract what the others lose.": on.mean(),
            "The sign is reversed: what was meant less the damage.": off.mean() - on.mean(),
            "You subtracted the sum of the others. Take their mean.": on.mean() - off.sum(),
            "You took sums. Take means.": on.sum() - off.sum(),
            "You divided the others by n squared. There are n squared less n of them.": (
                on.mean() - off.sum() / n**2
            ),
        }
        compare(answer, _targeted, {"lost [class class]": lost}, mistakes, hint="One number.")


def _disentangled(answers: Tensor, base: Tensor, source: Tensor, cause: Tensor) -> Tensor:
    brought = (answers == source)[cause].double().mean()
    kept = (answers == base)[~cause].double().mean()
    return torch.stack([brought, kept, (brought + kept) / 2])


@exercise
def disentangled(answer: Any, rng: torch.Generator) -> None:
    """Cause, isolation and their mean."""
    for n in distinct(rng, 20, 30):
        base = torch.randint(5, (n,), generator=rng)
        source = base + 5
        is_cause = torch.arange(n) < n // 3
        draw = torch.rand(n, generator=rng)
        answers = torch.where(draw < 0.4, base, torch.where(draw < 0.7, source, base + 10))
        answers[:2], answers[-3:] = source[:2], base[-3:]
        right = torch.where(is_cause, answers == source, answers == base).double()
        brought = (answers == source).double()
        c, i, _ = _disentangled(answers, base, source, is_cause)
        mistakes = {
            "The order is cause, isolation, mean.": torch.stack([i, c, (c + i) / 2]),
            "Your third number weighs pairs alike. Weigh cause and isolation alike.": (
                torch.stack([c, i, right.mean()])
            ),
            "Your isolation counts what the source's answer did not become. It must be the base's "
            "answer.": torch.stack([c, 1 - brought[~is_cause].mean(),
                                    (c + 1 - brought[~is_cause].mean()) / 2]),
            "You took the base's answer for right where the attribute is asked.": (
                _disentangled(answers, source, base, is_cause)
            ),
            "You counted over all pairs, whatever they ask.": torch.stack([
                brought.mean(), (answers == base).double().mean(),
                (brought.mean() + (answers == base).double().mean()) / 2,
            ]),
        }  # fmt: skip
        inputs = {"answers [pair]": answers, "base_answers [pair]": base,
                  "source_answers [pair]": source, "is_cause [pair]": is_cause}  # fmt: skip
        compare(answer, _disentangled, inputs, mistakes, hint="Three numbers in one tensor.")
