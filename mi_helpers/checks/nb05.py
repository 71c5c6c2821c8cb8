"""Checks of notebook 05: gates, recovery, patching heads, noise on a subject."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    Refused,
    close,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)

_GATES = {  # denoised A, denoised B, noised A, noised B
    "AND": (0, 0, 1, 1),
    "OR": (1, 1, 0, 0),
    "A": (1, 0, 1, 0),
    "B": (0, 1, 0, 1),
}


@exercise
def which_gate(answer: Any, rng: torch.Generator) -> None:
    """How two parts are joined, from denoising and noising each."""
    got = {}
    for gate, cells in _GATES.items():
        noise = 0.3 * torch.rand(4, generator=rng)
        measured = torch.tensor(cells) * (1 - 2 * noise) + noise
        got[gate] = run(answer, measured[:2], measured[2:])
        expect_type(got[gate], str, 'Return "AND", "OR", "A" or "B".')
        refuse_if(got[gate] not in _GATES, f'{got[gate]!r} is none of "AND", "OR", "A" and "B".')
    messages = {
        (("AND", "OR"), ("OR", "AND")): (
            "AND and OR are exchanged. Behind an AND no single part is enough."
        ),
        (("A", "B"), ("B", "A")): "A and B are exchanged: the first number is of A.",
        (("AND", "OR"), ("B", "A")): (
            "You always name a single part. Where both numbers are alike, the parts are joined."
        ),
    }
    for wrong, message in messages.items():
        if all(got[gate] == said for gate, said in zip(*wrong, strict=True)):
            raise Refused(message)
    joined = all(got[gate] in ("AND", "OR") for gate in _GATES)
    refuse_if(joined, "You never name a single part. If A does it all, B has no effect either way.")
    for gate, said in got.items():
        refuse_if(
            said != gate,
            f"With the parts joined as {gate!r} you say {said!r}. Which of the four numbers are 0?",
        )


@exercise
def mean_recovery(answer: Any, rng: torch.Generator) -> None:
    """(patched - corrupt) / (clean - corrupt), averaged over prompts first."""
    clean = 3 + torch.randn(6, generator=rng)
    corrupt = -2 + torch.randn(6, generator=rng)
    clean[0] = corrupt[0] + 0.01  # this prompt does not tell the runs apart
    share = torch.rand(4, 1, generator=rng)
    patched = corrupt + share * (clean - corrupt) + 0.3 * torch.randn(4, 6, generator=rng)
    got = run(answer, patched, clean, corrupt)
    expect_shape(got, (4,), hint="One number for each cell: average over the prompts.")
    gained, gap = (patched - corrupt).mean(-1), (clean - corrupt).mean()
    mistakes = {
        "You took a ratio for each prompt and averaged these. Average first, then divide.": (
            ((patched - corrupt) / (clean - corrupt)).mean(-1)
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
    }
    expect_close(got, gained / gap, mistakes)


@exercise
def patch_heads(answer: Any, rng: torch.Generator) -> None:
    """Some heads at some positions from another run."""
    z, other = torch.randn(2, 3, 6, 5, 4, generator=rng)
    positions = torch.randperm(6, generator=rng)[:2].tolist()
    heads = torch.randperm(5, generator=rng)[:2].tolist()

    def patched(base: Tensor, source: Tensor, where: Tensor) -> Tensor:
        return torch.where(where[:, :, None], source, base)

    at_position, of_head = torch.zeros(6, 1).bool(), torch.zeros(1, 5).bool()
    at_position[positions], of_head[:, heads] = True, True
    paired = torch.zeros(6, 5).bool()
    paired[positions, heads] = True
    both = at_position & of_head
    got = run(answer, z, other, positions, heads)
    expect_shape(got, (3, 6, 5, 4), hint="All of z comes back, with some of it replaced.")
    mistakes = {
        "Two lists as indices pair up, first with first. Each head goes with each position.": (
            patched(z, other, paired)
        ),
        "You patched these heads at every position.": patched(z, other, of_head),
        "You patched all heads at these positions.": patched(z, other, at_position),
        "You patched whatever is in one list or the other. It must be in both.": (
            patched(z, other, at_position | of_head)
        ),
        "The runs are exchanged: the result is the clean run with corrupt heads.": (
            patched(other, z, both)
        ),
        "You returned z as it was: the patch never took place.": z,
    }
    expect_close(got, patched(z, other, both), mistakes)


@exercise
def corrupt_subject(answer: Any, rng: torch.Generator) -> None:
    """Gaussian noise on the subject's embeddings, as strong as asked for."""
    W_E = torch.randn(300, 256, generator=rng) * (0.1 + 0.1 * torch.rand(1, generator=rng))
    mask = torch.zeros(8, 12).bool()
    for row, start in enumerate(torch.randint(1, 9, (8,), generator=rng).tolist()):
        mask[row, start : start + 3] = True
    embeddings = W_E[torch.randint(300, (8, 12), generator=rng)]
    times = 2 + 2 * float(torch.rand(1, generator=rng))
    got = _noised(answer, embeddings, mask, W_E, times)
    noise = got - embeddings
    refuse_if(bool((noise == 0).all()), "Nothing is noised.")
    refuse_if(
        not close(noise[~mask], torch.zeros_like(noise[~mask])),
        "There is noise outside of the subject. All other tokens stay as they are.",
    )
    subject = noise[mask]  # [token d_model]
    refuse_if(
        close(subject, subject[:1].expand_as(subject)),
        "Every token got the same noise. Draw it for each token.",
    )
    refuse_if(
        close(subject, subject[:, :1].expand_as(subject)),
        "You drew one number for each token. Draw one for each coordinate.",
    )
    std = W_E.std()
    tolerance = 0.05
    replaced = got[mask].std() / (times * std)
    refuse_if(
        abs(float(replaced) - 1) < tolerance and _unrelated(got[mask], embeddings[mask]),
        "You replaced the embeddings. Add the noise to them.",
    )
    strength = float(subject.std() / std)
    for factor, message in {
        1.0: "The noise has one standard deviation of the embeddings: multiply it by `times`.",
        times / float(std): "You forgot the standard deviation of the embedding matrix.",
        times * float(std): "You multiplied by the variance. Use the standard deviation.",
        times**0.5: "You multiplied by the root of `times`. It counts standard deviations.",
    }.items():
        wrong = abs(strength / factor - 1) < tolerance and abs(factor / times - 1) > 2 * tolerance
        refuse_if(wrong, message)
    refuse_if(abs(float(subject.mean() / subject.std())) > 0.1, "The noise must average to zero.")
    refuse_if(
        abs(strength / times - 1) > tolerance,
        f"The noise is {strength / times:.2f} times as strong as it should be.",
    )
    again = _noised(answer, embeddings, mask, W_E, times)
    refuse_if(
        not close(again, got),
        "The same generator gave other noise. Draw from `generator`, so that a rerun is the same.",
    )


def _noised(answer: Any, embeddings: Tensor, mask: Tensor, W_E: Tensor, times: float) -> Tensor:
    """What the answer returns with a generator seeded alike at each call."""
    generator = torch.Generator().manual_seed(7)
    got = run(answer, embeddings, mask, W_E, times, generator)
    expect_shape(got, tuple(embeddings.shape), hint="The embeddings of all tokens come back.")
    return got


def _unrelated(a: Tensor, b: Tensor) -> bool:
    """Whether two samples are uncorrelated."""
    return abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.1
