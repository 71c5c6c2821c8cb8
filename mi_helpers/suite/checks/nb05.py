"""Checks of notebook 05: gates, recovery, patching heads, noise on a subject."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    close,
    compare,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
    show,
    smallest,
)

_GATES = {  # denoised A, denoised B, noised A, noised B
    "AND": (0, 0, 1, 1),
    "OR": (1, 1, 0, 0),
    "A": (1, 0, 1, 0),
    "B": (0, 1, 0, 1),
    "neither": (0, 0, 0, 0),
}


def _names(answer: Any, measured: dict[str, Tensor]) -> dict[str, str]:
    """What an answer says to each gate's four numbers."""
    got = {}
    for gate, numbers in measured.items():
        said = run(answer, numbers[:2], numbers[2:])
        hint = 'Return "AND", "OR", "A", "B" or "neither".'
        expect_type(said, str, hint)
        refuse_if(said not in _GATES, f"{str(said)!r} is none of the five words. {hint}")
        got[gate] = str(said)
    return got


@exercise
def which_gate(answer: Any, rng: torch.Generator) -> None:
    """How two parts are joined, from denoising and noising each."""
    measured = {}
    for gate in [list(_GATES)[i] for i in torch.randperm(len(_GATES), generator=rng).tolist()]:
        noise = 0.02 + 0.35 * torch.rand(4, generator=rng)
        measured[gate] = torch.tensor(_GATES[gate]) * (1 - 2 * noise) + noise
    got = _names(answer, measured)
    if all(said == gate for gate, said in got.items()):
        return
    exact = _names(answer, {gate: torch.tensor(cells).float() for gate, cells in _GATES.items()})
    refuse_if(
        all(said == gate for gate, said in exact.items()),
        "You are right where the numbers are exactly 0 and 1. Measured ones never are: ask on "
        "which side of one half they lie, not whether they equal 1.",
    )
    messages = {
        ("AND", "OR"): "AND and OR are exchanged. Behind an AND no single part is enough.",
        ("A", "B"): "A and B are exchanged: the first number is of A.",
    }
    for (one, other), message in messages.items():
        if got[one] == other and got[other] == one:
            raise Refused(message)
    said_of = set(got.values())
    refuse_if(len(said_of) == 1, f"You always say {said_of.pop()!r}, whatever the numbers are.")
    refuse_if(
        not said_of & {"AND", "OR", "neither"},
        "You always name a single part. Where both numbers are alike, the parts are joined.",
    )
    refuse_if(
        not said_of & {"A", "B"},
        "You never name a single part. If A does it all, B has no effect either way.",
    )
    refuse_if(
        got["AND"] == got["neither"] or got["OR"] == got["neither"],
        'You do not tell "neither" from a gate: where all four numbers are small, none of the two '
        "parts is enough and none is needed. You have to look at both experiments.",
    )
    wrong = next(gate for gate in _GATES if got[gate] != gate)
    numbers = measured[wrong]
    raise Refused(
        f"denoised = {show(numbers[:2])} and noised = {show(numbers[2:])} mean {wrong!r}; you say "
        f"{got[wrong]!r}. Which of the four numbers are near 0?"
    )


def _recovery(patched: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return (patched - corrupt).mean(-1) / (clean - corrupt).mean()


@exercise
def mean_recovery(answer: Any, rng: torch.Generator) -> None:
    """(patched - corrupt) / (clean - corrupt), averaged over prompts first."""
    clean = 3 + torch.randn(6, generator=rng)
    corrupt = -2 + torch.randn(6, generator=rng)
    weak = int(torch.randint(6, (), generator=rng))
    clean[weak] = corrupt[weak] + 0.01  # this prompt does not tell the runs apart
    share = torch.rand(4, 1, generator=rng)
    patched = corrupt + share * (clean - corrupt) + 0.3 * torch.randn(4, 6, generator=rng)
    got = run(answer, patched, clean, corrupt)
    got = expect_shape(got, (4,), hint="One number for each cell: average over the prompts.")
    change, gaps = patched - corrupt, clean - corrupt
    gained, gap = change.mean(-1), gaps.mean()
    mistakes = {
        "You took a ratio for each prompt and averaged these. Average first, then divide.": (
            (change / gaps).mean(-1)
        ),
        "You took the median of a ratio for each prompt. That keeps one prompt's number and throws "
        "the others away: average over all prompts first, then divide once.": (
            (change / gaps).median(-1).values
        ),
        "You took medians over the prompts. Take means: every prompt counts.": (
            change.median(-1).values / gaps.median()
        ),
        "0 and 1 are exchanged: the corrupt run is 0.": 1 - gained / gap,
        "The sign is reversed. Where is the clean run on your scale?": -gained / gap,
        "You divided by the clean run. Divide by the distance between the runs.": (
            gained / clean.mean()
        ),
        "You divided the patched value without subtracting the corrupt run.": (
            patched.mean(-1) / gap
        ),
        "You did not divide. 1 should be the clean run.": gained,
        "You clamped the values. Below 0 and above 1 exist, and mean something.": (
            (gained / gap).clamp(0, 1)
        ),
        "You summed above the line and averaged below it.": 6 * gained / gap,
        "You made the denominator of a single prompt larger so that it does not explode. Average "
        "over all prompts first, then divide once.": (
            (change / torch.where(gaps.abs() < 0.1, 1.0, gaps)).mean(-1)
        ),
    }
    by_size = gaps.abs().argsort(descending=True)
    for count in range(1, 6):  # the prompts with the largest gaps, the others dropped
        kept = by_size[:count]
        left = (
            f"You dropped {6 - count} of the 6 prompts. Keep them all: a prompt that hardly tells "
            "the runs apart adds little to either mean, and so does no harm once you "
        )
        mistakes[f"{left}average first and divide once."] = (change[:, kept] / gaps[kept]).sum(
            -1
        ) / count
        mistakes[f"{left}divide the means, as you do."] = (
            change[:, kept].mean(-1) / gaps[kept].mean()
        )
    inputs = {
        "patched [cell prompt]": patched,
        "clean [prompt]": clean,
        "corrupt [prompt]": corrupt,
    }
    example = functools.partial(smallest, answer, _recovery, inputs)
    expect_close(got, gained / gap, mistakes, example=example)


def _patched(z: Tensor, other: Tensor, positions: list[int], heads: list[int]) -> Tensor:
    patched = z.clone()
    for position in positions:
        patched[:, position, heads] = other[:, position, heads]
    return patched


@exercise
def patch_heads(answer: Any, rng: torch.Generator) -> None:
    """Some heads at some positions from another run."""
    for n_positions, n_heads in ((2, 2), (3, 1), (1, 3)):
        z, other = torch.randn(2, 3, 6, 5, 4, generator=rng)
        positions = torch.randperm(6, generator=rng)[:n_positions].tolist()
        heads = torch.randperm(5, generator=rng)[:n_heads].tolist()
        mistakes = _patching_mistakes(z, other, positions, heads)
        inputs = {
            "z [batch pos head d_head]": z,
            "other [batch pos head d_head]": other,
            "positions": positions,
            "heads": heads,
        }
        hint = "All of z comes back, with some of it replaced."
        compare(answer, _patched, inputs, mistakes, hint=hint)


def _patching_mistakes(
    z: Tensor, other: Tensor, positions: list[int], heads: list[int]
) -> dict[str, Tensor]:
    def patched(base: Tensor, source: Tensor, where: Tensor) -> Tensor:
        return torch.where(where[:, :, None], source, base)

    at_position, of_head = torch.zeros(6, 1).bool(), torch.zeros(1, 5).bool()
    at_position[positions], of_head[:, heads] = True, True
    both = at_position & of_head
    mistakes = {
        "You patched these heads at every position.": patched(z, other, of_head),
        "You patched all heads at these positions.": patched(z, other, at_position),
        "You patched whatever is in one list or the other. It must be in both.": (
            patched(z, other, at_position | of_head)
        ),
        "You patched everything but these. They alone come from the other run.": (
            patched(other, z, both)
        ),
        "You returned the other run as a whole.": other,
        "You returned z as it was: the patch never took place.": z,
        "You added the other run to z. Put it in the place of z.": patched(z, z + other, both),
        "The first prompt alone is patched. Patch all of them.": (
            torch.cat([patched(z, other, both)[:1], z[1:]])
        ),
    }
    if len(positions) == len(heads):
        paired = torch.zeros(6, 5).bool()
        paired[positions, heads] = True
        mistakes[
            "Two lists as indices pair up, first with first. Each head goes with each position."
        ] = patched(z, other, paired)
    return mistakes


@exercise
def corrupt_subject(answer: Any, rng: torch.Generator) -> None:
    """Gaussian noise on the subject's embeddings, as strong as asked for."""
    for low in (2.0, 3.2):
        W_E = torch.randn(300, 256, generator=rng) * (
            0.05 * low + 0.1 * torch.rand(1, generator=rng)
        )
        mask = torch.zeros(8, 12).bool()
        for row, start in enumerate(torch.randint(1, 9, (8,), generator=rng).tolist()):
            mask[row, start : start + 3] = True
        embeddings = W_E[torch.randint(300, (8, 12), generator=rng)]
        times = low + 0.8 * float(torch.rand(1, generator=rng))
        seed, other = (
            int(s) for s in torch.randint(2**31, (2,), generator=rng)
        )  # a generator of the answer's own would not know them
        _judge_noise(answer, (embeddings, mask, W_E, times), (seed, other))


def _judge_noise(
    answer: Any, given: tuple[Tensor, Tensor, Tensor, float], seeds: tuple[int, int]
) -> None:
    """Refuse noise of the wrong kind, place, strength or origin."""
    embeddings, mask, W_E, times = given
    got = _noised(answer, given, seeds[0])
    noise = got - embeddings
    refuse_if(bool((noise == 0).all()), "Nothing is noised.")
    refuse_if(
        not close(noise[~mask], torch.zeros_like(noise[~mask])),
        "There is noise outside of the subject. All other tokens stay as they are.",
    )
    subject = noise[mask]  # [token d_model]
    refuse_if(
        close(got[mask], torch.zeros_like(subject)),
        "You set the subject's embeddings to zero. Add noise to them.",
    )
    refuse_if(
        close(subject, subject[:1].expand_as(subject)),
        "Every token got the same noise. Draw it for each token.",
    )
    refuse_if(
        close(subject, subject[:, :1].expand_as(subject)),
        "You drew one number for each token. Draw one for each coordinate.",
    )
    _judge_strength(got[mask], embeddings[mask], W_E.std(), times)
    scaled = subject / subject.std()
    tails = float((scaled.abs() > 2).float().mean())
    refuse_if(
        not 0.03 < tails < 0.065 or abs(float((scaled**3).mean())) > 0.2,
        "The noise has the right strength, and is not Gaussian. Draw it with `torch.randn`.",
    )
    again, differently = (_noised(answer, given, seed) for seed in seeds)
    refuse_if(
        not close(again, got),
        "The same generator gave other noise. Draw from `generator`, so that a rerun is the same.",
    )
    refuse_if(
        close(differently, got),
        "Another generator gave the same noise. Draw from `generator`, not from one of your own.",
    )


def _judge_strength(new: Tensor, old: Tensor, std: Tensor, times: float) -> None:
    """Refuse noise on the subject that is too strong or too weak, with the reason if known."""
    subject, tolerance = new - old, 0.05
    replaced = new.std() / (times * std)
    refuse_if(
        abs(float(replaced) - 1) < tolerance and _unrelated(new, old),
        "You replaced the embeddings. Add the noise to them.",
    )
    strength = float(subject.std() / std)
    for factor, message in {
        1.0: "The noise has one standard deviation of the embeddings: multiply it by `times`.",
        times / float(std): "You forgot the standard deviation of the embedding matrix.",
        times * float(std): "You multiplied by the variance. Use the standard deviation.",
        times**0.5: "You multiplied by the root of `times`. It counts standard deviations.",
        times**2: "You multiplied by `times` twice.",
        1.0 / float(std): "The noise has a standard deviation of 1, whatever was asked for.",
    }.items():
        wrong = abs(strength / factor - 1) < tolerance and abs(factor / times - 1) > 2 * tolerance
        refuse_if(wrong, message)
    refuse_if(abs(float(subject.mean() / subject.std())) > 0.1, "The noise must average to zero.")
    refuse_if(
        abs(strength / times - 1) > tolerance,
        f"The noise is {strength / times:.2f} times as strong as it should be.",
    )


def _noised(answer: Any, given: tuple[Tensor, Tensor, Tensor, float], seed: int) -> Tensor:
    """What the answer returns with a generator seeded so."""
    generator = torch.Generator().manual_seed(seed)
    got = run(answer, *given, generator)
    hint = "The embeddings of all tokens come back."
    return expect_shape(got, tuple(given[0].shape), hint).float()


def _unrelated(a: Tensor, b: Tensor) -> bool:
    """Whether two samples are uncorrelated."""
    return abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.1
