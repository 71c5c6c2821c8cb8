"""Checks of notebook 04: differences, intervals, copying, self-repair, finding the moving head."""

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
def logit_differences(answer: Any, rng: torch.Generator) -> None:
    """Right minus wrong logit at the last position, one number for each prompt."""
    logits = 3 * torch.randn(4, 5, 9, generator=rng)
    answers = torch.rand(4, 9, generator=rng).argsort(-1)[:, :2]
    got = run(answer, logits, answers)
    hint = "One number for each prompt: do not average over the batch."
    expect_shape(got, (4,), hint=hint)

    def difference(values: Tensor) -> Tensor:
        right, wrong = values.gather(-1, answers).unbind(-1)
        return right - wrong

    last = logits[:, -1]
    want = difference(last)
    log_probs = last.log_softmax(-1)
    mistakes = {
        "The sign is reversed: the right answer comes first in `answers`.": -want,
        "You read the first position. The answer is due after the last.": difference(logits[:, 0]),
        "You averaged over positions. Only the last one predicts the answer.": (
            difference(logits.mean(1))
        ),
        "You subtracted probabilities, which saturate. Take the logits.": (
            difference(last.softmax(-1))
        ),
        "You return the right answer's logit. Subtract the wrong one's.": (
            last.gather(1, answers)[:, 0]
        ),
        "You return the right answer's log-probability, which depends on all logits.": (
            log_probs.gather(1, answers)[:, 0]
        ),
        "You used the first prompt's answers for every prompt.": (
            last[:, answers[0, 0]] - last[:, answers[0, 1]]
        ),
    }
    expect_close(got, want, mistakes)


@exercise
def interval_of_mean(answer: Any, rng: torch.Generator) -> None:
    """Both ends of the bootstrap interval of a mean, for given picks."""
    values = torch.randn(30, generator=rng) + 2
    values[0] = 9  # mean and median differ
    picks = torch.randint(30, (400, 30), generator=rng)
    confidence = 0.6 + 0.3 * float(torch.rand((), generator=rng))
    got = run(answer, values, picks, confidence)
    if isinstance(got, (tuple, list)) and len(got) == 2:
        got = torch.stack([torch.as_tensor(end, dtype=torch.float32) for end in got])
    expect_shape(got, (2,), hint="The lower and the upper end.")

    def ends(samples: Tensor, inside: float = confidence) -> Tensor:
        return samples.quantile(torch.tensor([(1 - inside) / 2, (1 + inside) / 2]))

    means = values[picks].mean(1)
    want, middle = ends(means), values.mean()
    half = 1.96 * values.std() / 30**0.5
    mistakes = {
        "The upper end comes second.": want.flip(0),
        "This is the spread of the values. Take the mean of each resample first.": ends(values),
        "You left 1 - confidence beyond *each* end. Half of it belongs to each.": (
            ends(means, 2 * confidence - 1)
        ),
        "You averaged over the resamples. Average within each: over the sample.": (
            ends(values[picks].mean(0))
        ),
        "These are medians of the resamples. Take means.": ends(values[picks].median(1).values),
        "You took 95%, whatever confidence was asked for.": ends(means, 0.95),
        "This is a formula for the normal distribution. Use the resamples.": (
            torch.stack([middle - half, middle + half])
        ),
        "These are distances from the mean. Return the ends themselves.": want - middle,
    }
    expect_close(got, want, mistakes, atol=1e-4)


def _copying_inputs(rng: torch.Generator) -> tuple[Tensor, ...]:
    """Names of which some are copied to the top, some to the top few, some are lowered."""
    strength = torch.tensor([9.0, 9, 9, 4, 4, 3, 3, 2, 1, 0, 0, -9, -9, -9])
    n_names, d_model, d_vocab = len(strength), 24, 40
    unembed = torch.linalg.qr(torch.randn(d_vocab, d_model, generator=rng)).Q.T
    names = torch.rand(d_vocab, generator=rng).argsort()[:n_names]
    read = torch.randn(n_names, d_model, generator=rng)
    wanted = torch.randn(n_names, d_vocab, generator=rng)
    wanted[torch.arange(n_names), names] += strength
    circuit = torch.linalg.lstsq(read, wanted @ unembed.T).solution
    return read, circuit, unembed, names


@exercise
def name_copying(answer: Any, rng: torch.Generator) -> None:
    """The share of names among the k tokens that reading them raises most."""
    k = int(torch.randint(3, 5, (), generator=rng))
    for _ in range(200):
        read, circuit, unembed, names = _copying_inputs(rng)
        logits = read @ circuit @ unembed
        mistakes = _copying_mistakes(logits, read @ unembed, unembed, circuit, read, names, k)
        want = (logits.topk(k).indices == names[:, None]).any(-1).float().mean()
        values = [float(want), *(float(wrong) for wrong in mistakes.values())]
        if len({round(value, 4) for value in values}) == len(values):
            break
    got = run(answer, read, circuit, unembed, names, k)
    expect_type(got, (Tensor, float), hint="Return one number from 0 to 1.")
    refuse_if(
        isinstance(got, Tensor) and got.numel() != 1, "Return one number, not one for each name."
    )
    expect_close(torch.as_tensor(got).reshape(()), want, mistakes)


def _copying_mistakes(
    logits: Tensor, bare: Tensor, unembed: Tensor, circuit: Tensor, read: Tensor, names: Tensor,
    k: int,
) -> dict[str, Tensor]:  # fmt: skip
    def among(values: Tensor, own: Tensor, k: int = k) -> Tensor:
        return (values.topk(k).indices == own[:, None]).any(-1).float().mean()

    own_row = torch.arange(len(names))
    return {
        "You compared names with names. The k come from the whole vocabulary.": (
            among(logits[:, names], own_row)
        ),
        "You took the tokens that are lowered most. That is the mirror image.": (
            among(-logits, names)
        ),
        "You took the top token alone. The name may be anywhere among the k.": (
            among(logits, names, 1)
        ),
        "You left out the head: what is read goes through W_OV first.": among(bare, names),
        "You applied W_OV transposed. What is read comes from the left: read @ W_OV.": (
            among(read @ circuit.T @ unembed, names)
        ),
        "You counted any name. Each row has to contain its own.": (
            torch.isin(logits.topk(k).indices, names).any(-1).float().mean()
        ),
        "You counted the names. Divide by how many there are.": among(logits, names) * len(names),
    }


@exercise
def self_repair(answer: Any, rng: torch.Generator) -> None:
    """How much the others made up for, as a share of what the silenced head had written."""
    before = torch.randn(12, generator=rng)
    silenced = int(torch.randint(12, (), generator=rng))
    before[silenced] = 2 + torch.rand((), generator=rng)
    after = before + 0.3 * torch.randn(12, generator=rng)
    after[silenced] = 0
    got = run(answer, before, after, silenced)
    expect_type(got, (Tensor, float), hint="Return one number.")
    refuse_if(
        isinstance(got, Tensor) and got.numel() != 1, "Return one number, not one for each part."
    )
    change = after - before
    others = change.sum() - change[silenced]
    size, whole = before[silenced], change.abs().sum() - change[silenced].abs()
    mistakes = {
        "The silenced head's own change is in your sum. It repairs nothing.": change.sum() / size,
        "This is the drop of the total. Repair is what the drop lacks.": -change.sum() / size,
        "The sign is reversed: an increase of the others is repair.": -others / size,
        "This is in logits. Divide by what the silenced head had written.": others,
        "You summed sizes. An increase and a decrease of the others cancel.": whole / size,
        "You divided by the whole logit difference. Divide by the silenced head's share.": (
            others / before.sum()
        ),
        "You counted the increases alone. Those who lost count, too.": (
            change.clamp(min=0).sum() / size
        ),
    }
    expect_close(torch.as_tensor(got).reshape(()), others / size, mistakes, atol=1e-4)


HABITS = {
    "constant": "That head always pushes the right word, on the twins too. It moves nothing.",
    "loud": "That head is loud on a single prompt. Average over prompts before you compare.",
    "noisy": "That head's sign changes from prompt to prompt. Average first, then take the size.",
    "helper": "That head moves the answer, but another one moves it more: look at both signs.",
}


@exercise
def moving_head(answer: Any, rng: torch.Generator) -> None:
    """The head whose share changes most from twin to prompt."""
    n_prompts, n_layers, n_heads = 12, 3, 5
    for _ in range(3):
        clean, twin = 0.1 * torch.randn(2, n_prompts, n_layers, n_heads, generator=rng)
        places = torch.randperm(n_layers * n_heads, generator=rng)[:5].tolist()
        mover, *others = [divmod(place, n_heads) for place in places]
        owner = dict(zip(others, HABITS, strict=True))
        at = {habit: (slice(None), *place) for place, habit in owner.items()}
        moved = (slice(None), *mover)
        clean[moved] -= 1.0  # against the answer, and the other way on the twin
        twin[moved] += 1.0
        clean[at["constant"]] += 4.0
        twin[at["constant"]] += 4.0
        clean[at["loud"]][int(torch.randint(n_prompts, (), generator=rng))] += 15.0
        signs = torch.tensor([1.0, -1.0]).repeat(n_prompts // 2)
        clean[at["noisy"]] += 5 * signs
        clean[at["helper"]] += 0.7
        twin[at["helper"]] -= 0.7
        _judge(run(answer, clean, twin), mover, owner, (n_layers, n_heads))


def _judge(
    got: Any, mover: tuple[int, int], owner: dict[tuple[int, int], str], size: tuple[int, int]
) -> None:
    """Refuse anything but the moving head, with what is wrong about the one chosen."""
    expect_type(got, (tuple, list, Tensor), hint="Return (layer, head).")
    refuse_if(len(got) != 2, f"Return two numbers, layer and head; got {len(got)}.")
    chosen = int(got[0]), int(got[1])
    if chosen == mover:
        return
    refuse_if(chosen == mover[::-1], "Layer and head are exchanged: the layer comes first.")
    refuse_if(
        not (0 <= chosen[0] < size[0] and 0 <= chosen[1] < size[1]),
        f"There is no head {chosen}: layers go to {size[0] - 1}, heads to {size[1] - 1}.",
    )
    raise Refused(HABITS.get(owner.get(chosen, ""), f"{chosen} hardly changes at all."))
