"""Checks of notebook 16: the bias of a lens, prediction depth, AUROC, removing a direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _bias(lens: Tensor, final: Tensor) -> Tensor:
    mean_final, mean_lens = (log_probs.exp().mean(0).log() for log_probs in (final, lens))
    return _kl(mean_final, mean_lens)


@exercise
def lens_bias(answer: Any, rng: torch.Generator) -> None:
    """How far a lens is off on average: KL of the two mean distributions."""
    for d_vocab in distinct(rng, 3, 8):
        lens, final = (2 * torch.randn(2, 6, d_vocab, generator=rng)).log_softmax(-1)
        mean_logs = [log_probs.mean(0).log_softmax(-1) for log_probs in (final, lens)]
        mistakes = {
            "You took the mean of the distances. Take the distance of the means: "
            "what cancels between tokens is no bias.": _kl(final, lens).mean(),
            "The two are exchanged: the final distribution weighs the logarithms.": (
                _bias(final, lens)
            ),
            "You averaged log-probabilities. Average the probabilities.": _kl(*mean_logs),
            "You averaged log-probabilities. Average the probabilities, then take the logarithm.": (
                _kl(final.mean(0), lens.mean(0))
            ),
            "That is one number for each token. Average over the tokens first.": _kl(final, lens),
        }
        inputs = {"lens [token d_vocab]": lens, "final [token d_vocab]": final}
        compare(answer, _bias, inputs, mistakes, hint="One number, in nats.")


def _depth(guesses: Tensor) -> Tensor:
    stays = (guesses == guesses[-1]).flip(0).long().cumprod(0)
    return len(guesses) - stays.sum(0)


@exercise
def prediction_depth(answer: Any, rng: torch.Generator) -> None:
    """The first layer from which the best guess stays what it is at the end."""
    for layers in distinct(rng, 5, 9):
        guesses = torch.randint(2, (layers, 12), generator=rng)
        guesses[:, 0] = torch.arange(layers)  # changes until the end
        guesses[:, 1] = 1  # never changes
        guesses[:, 2] = torch.tensor([1, *[0] * (layers - 2), 1])  # right, lost, and found again
        same = (guesses == guesses[-1]).long()
        mistakes = {
            "You took the first layer with the final guess. It may be lost again: count from "
            "where it stays.": same.argmax(0),
            "You counted the layers that agree. Return the index of the first of those at the "
            "end.": same.flip(0).cumprod(0).sum(0),
            "You counted the layers that differ from the end, wherever they are.": (
                layers - same.sum(0)
            ),
            "One too small: that is the last layer whose guess still differs.": _depth(guesses) - 1,
            "You looked for the first layer that stays as it is to the next.": (
                (guesses[1:] == guesses[:-1]).long().argmax(0)
            ),
        }
        compare(
            answer,
            _depth,
            {"guesses [_ token]": guesses},
            mistakes,
            hint="One whole number for each token: 0 if the first row has the final guess already.",
        )


def _auroc(usual: Tensor, odd: Tensor) -> Tensor:
    gap = odd[:, None] - usual[None]
    return (gap > 0).double().mean() + (gap == 0).double().mean() / 2


@exercise
def auroc(answer: Any, rng: torch.Generator) -> None:
    """The share of pairs of an odd and a usual input in which the odd one scores higher."""
    for n_odd in distinct(rng, 5, 12):
        usual = torch.randint(6, (9,), generator=rng).double()
        odd = torch.randint(1, 8, (n_odd,), generator=rng).double()
        odd[0], usual[0] = 3.0, 3.0  # one tie at least
        both = torch.cat([usual, odd])
        is_odd = torch.arange(len(both)) >= len(usual)
        called = both > both.median()
        mistakes = {
            "The sign is reversed: the odd ones should score higher.": 1 - _auroc(usual, odd),
            "A tie counts one half. You counted it as nothing.": (
                (odd[:, None] > usual[None]).double().mean()
            ),
            "A tie counts one half. You counted it as a win.": (
                (odd[:, None] >= usual[None]).double().mean()
            ),
            "You compared with the mean of the usual ones. Compare all pairs.": (
                (odd > usual.mean()).double().mean()
            ),
            "That is the accuracy of one threshold. Compare all pairs.": (
                (called == is_odd).double().mean()
            ),
        }
        inputs = {"usual [_]": usual, "odd [_]": odd}
        compare(answer, _auroc, inputs, mistakes, hint="One number between 0 and 1.")


def _without(streams: Tensor, mean: Tensor, direction: Tensor) -> Tensor:
    unit = direction / direction.norm()
    return streams - ((streams - mean) @ unit)[:, None] * unit


@exercise
def ablate_direction(answer: Any, rng: torch.Generator) -> None:
    """Streams whose part along a direction is the mean's."""
    for d_model in distinct(rng, 3, 8):
        streams = 3 * torch.randn(5, d_model, generator=rng)
        mean, direction = torch.randn(2, d_model, generator=rng)
        direction = 2.5 * direction / direction.norm()
        unit = direction / direction.norm()
        right = _without(streams, mean, direction)
        mistakes = {
            "The direction has another length than 1: divide by it.": (
                streams - ((streams - mean) @ direction)[:, None] * direction
            ),
            "You set the part along the direction to zero. Set it to the mean's.": (
                streams - (streams @ unit)[:, None] * unit
            ),
            "You returned what was removed.": streams - right,
            "You kept the direction alone, and set all others to the mean.": (
                mean + ((streams - mean) @ unit)[:, None] * unit
            ),
            "You replaced the whole stream by its mean.": mean.expand_as(streams),
            "You subtracted the mean and did not put it back.": right - mean,
        }
        inputs = {
            "streams [token d_model]": streams,
            "mean [d_model]": mean,
            "direction [d_model]": direction,
        }
        compare(answer, _without, inputs, mistakes, hint="The same shape as the streams.")
