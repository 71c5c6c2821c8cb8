"""Checks of notebook 04: differences, intervals, copying, self-repair, finding the moving head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    compare,
    crossed,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_parts,
    expect_shape,
    refuse_if,
    run,
)


def _differences(logits: Tensor, answers: Tensor) -> Tensor:
    right, wrong = logits[:, -1].gather(-1, answers).unbind(-1)
    return right - wrong


@exercise
def logit_differences(answer: Any, rng: torch.Generator) -> None:
    """Right minus wrong logit at the last position, one number for each prompt."""
    logits = 3 * torch.randn(4, 5, 9, generator=rng)
    answers = torch.rand(4, 9, generator=rng).argsort(-1)[:, :2]

    def difference(values: Tensor) -> Tensor:
        right, wrong = values.gather(-1, answers).unbind(-1)
        return right - wrong

    last = logits[:, -1]
    log_probs = last.log_softmax(-1)
    mistakes = {
        "The sign is reversed: the right answer comes first in `answers`.": -difference(last),
        "You read the first position. The answer is due after the last.": difference(logits[:, 0]),
        "You read the position before the last. The answer is due after the last.": (
            difference(logits[:, -2])
        ),
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
        "You compared with the best of all other tokens. Subtract the wrong answer's logit.": (
            last.gather(1, answers)[:, 0]
            - last.scatter(1, answers[:, :1], -torch.inf).max(-1).values
        ),
    }
    compare(
        answer,
        _differences,
        {"logits [batch pos _]": logits, "answers [batch _]": answers},
        mistakes,
        hint="One number for each prompt: do not average over the batch.",
    )


def _ends(samples: Tensor, inside: float) -> Tensor:
    return samples.quantile(torch.tensor([(1 - inside) / 2, (1 + inside) / 2]))


@exercise
def interval_of_mean(answer: Any, rng: torch.Generator) -> None:
    """Both ends of the bootstrap interval of a mean, for given picks."""
    for low in (0.6, 0.8):
        values = torch.randn(30, generator=rng) + 2
        values[0] = 9  # mean and median differ
        picks = torch.randint(30, (400, 30), generator=rng)
        confidence = low + 0.1 * float(torch.rand((), generator=rng))
        means = values[picks].mean(1)
        want, middle = _ends(means, confidence), values.mean()
        half = 1.96 * values.std() / 30**0.5
        mistakes = {
            "The upper end comes second.": want.flip(0),
            "This is the spread of the values. Take the mean of each resample first.": (
                _ends(values, confidence)
            ),
            "You left 1 - confidence beyond *each* end. Half of it belongs to each.": (
                _ends(means, 2 * confidence - 1)
            ),
            "You averaged over the resamples. Average within each: over the sample.": (
                _ends(values[picks].mean(0), confidence)
            ),
            "These are medians of the resamples. Take means.": (
                _ends(values[picks].median(1).values, confidence)
            ),
            "You took 95%, whatever confidence was asked for.": _ends(means, 0.95),
            "This is a formula for the normal distribution. Use the resamples.": (
                torch.stack([middle - half, middle + half])
            ),
            "These are distances from the mean. Return the ends themselves.": want - middle,
            "Both ends are the mean.": middle.expand(2),
            "These are the lowest and the highest mean of all resamples.": (
                torch.stack([means.min(), means.max()])
            ),
        }
        compare(
            answer,
            lambda values, picks, confidence: _ends(values[picks].mean(1), confidence),
            {"values [_]": values, "picks [_ _]": picks, "confidence": confidence},
            mistakes,
            hint="The lower and the upper end.",
            atol=1e-4,
        )


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


def _copying_mistakes(
    logits: Tensor,
    bare: Tensor,
    unembed: Tensor,
    circuit: Tensor,
    read: Tensor,
    names: Tensor,
    k: int,
) -> dict[str, Tensor]:
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
        "You took one token too many: k of them, not k + 1.": among(logits, names, k + 1),
        "You took one token too few: k of them, not k - 1.": among(logits, names, k - 1),
        "You counted the names. Divide by how many there are.": among(logits, names) * len(names),
    }


def _copied(read: Tensor, circuit: Tensor, unembed: Tensor, names: Tensor, k: int) -> float:
    top = (read @ circuit @ unembed).topk(k).indices
    return round(float((top == names[:, None]).any(-1).float().mean()), 4)


def _copying_case(k: int, rng: torch.Generator) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Inputs on which each mistake gives another share, and what it gives."""
    while True:
        read, circuit, unembed, names = _copying_inputs(rng)
        inputs = read, circuit, unembed, names, k
        logits = read @ circuit @ unembed
        mistakes = _copying_mistakes(logits, read @ unembed, unembed, circuit, read, names, k)
        wrong = {message: round(float(value), 4) for message, value in mistakes.items()}
        apart = [value for message, value in wrong.items() if "one token too" not in message]
        if _copied(*inputs) not in wrong.values() and len(set(apart)) == len(apart):
            return inputs, mistakes


@exercise
def name_copying(answer: Any, rng: torch.Generator) -> None:
    """The share of names among the k tokens that reading them raises most."""
    few, more = sorted(distinct(rng, 2, 6))
    while True:
        first, second = _copying_case(few, rng), _copying_case(more, rng)
        if crossed(_copied, first[0], second[0]):
            break
    for inputs, mistakes in (first, second):
        hint = "Return one number from 0 to 1, not one for each name."
        share = expect_shape(run(answer, *inputs), (), hint)
        expect_close(share, _copied(*inputs), mistakes, atol=2e-4)


def _repaired(before: Tensor, after: Tensor, silenced: int) -> Tensor:
    change = after - before
    return (change.sum() - change[silenced]) / before[silenced]


@exercise
def self_repair(answer: Any, rng: torch.Generator) -> None:
    """How much the others made up for, as a share of what the silenced head had written."""
    for silenced, sign in zip(distinct(rng, 0, 12), (1, -1), strict=True):
        before = torch.randn(12, generator=rng)
        before[silenced] = sign * (2 + torch.rand((), generator=rng))
        after = before + 0.3 * torch.randn(12, generator=rng)
        after[silenced] = 0
        change = after - before
        others = change.sum() - change[silenced]
        size, whole = before[silenced], change.abs().sum() - change[silenced].abs()
        mistakes = {
            "The silenced head's own change is in your sum. It repairs nothing.": (
                change.sum() / size
            ),
            "This is the drop of the total. Repair is what the drop lacks.": -change.sum() / size,
            "The sign is reversed: an increase of the others is repair.": -others / size,
            "This is in logits. Divide by what the silenced head had written.": others,
            "You summed sizes. An increase and a decrease of the others cancel.": whole / size,
            "You divided by the whole logit difference. Divide by the silenced head's share.": (
                others / before.sum()
            ),
            "You divided by the size of the head's share. It has a sign.": others / size.abs(),
            "You averaged over the others. Their changes are summed.": others / 11 / size,
            "You counted the increases alone. Those who lost count, too.": (
                change.clamp(min=0).sum() / size
            ),
        }
        inputs = {"before [part]": before, "after [part]": after, "silenced": silenced}
        hint = "Return one number, not one for each part."
        compare(answer, _repaired, inputs, mistakes, hint=hint, atol=1e-4)


HABITS = {
    "constant": "That head always pushes the right word, on the twins too. It moves nothing.",
    "against": "That head always pushes the wrong word, on the twins too. It moves nothing.",
    "loud": "That head is loud on a single prompt. Average over prompts before you compare.",
    "noisy": "That head's sign changes from prompt to prompt. Average first, then take the size.",
    "helper": "That head moves the answer, but another one moves it more: look at both signs.",
}


@exercise
def moving_head(answer: Any, rng: torch.Generator) -> None:
    """The head whose share changes most from twin to prompt."""
    n_prompts, n_layers, n_heads = 12, 3, 5
    movers = distinct(rng, 0, n_layers * n_heads, 3)
    first = int(torch.randint(2, (), generator=rng))
    for turn, number in enumerate(movers):
        sign = (-1.0) ** (first + turn)  # the moving head pushes one way, then the other
        clean, twin = 0.1 * torch.randn(2, n_prompts, n_layers, n_heads, generator=rng)
        places = torch.randperm(n_layers * n_heads, generator=rng).tolist()
        places = [place for place in places if place != number][: len(HABITS)]
        mover, *others = [divmod(place, n_heads) for place in (number, *places)]
        owner = dict(zip(others, HABITS, strict=True))
        at = {habit: (slice(None), *place) for place, habit in owner.items()}
        moved = (slice(None), *mover)
        clean[moved] += sign
        twin[moved] -= sign
        for habit, size in (("constant", 4.0), ("against", -4.0)):
            clean[at[habit]] += size
            twin[at[habit]] += size
        clean[at["loud"]][int(torch.randint(n_prompts, (), generator=rng))] += 15.0
        often = torch.tensor([5.0] * 7 + [-7.0] * 5)  # mean zero, and a median that is not
        clean[at["noisy"]] += often[torch.randperm(n_prompts, generator=rng)]
        clean[at["helper"]] -= 0.7 * sign
        twin[at["helper"]] += 0.7 * sign
        _judge(run(answer, clean, twin), mover, owner, (n_layers, n_heads))


def _judge(
    got: Any, mover: tuple[int, int], owner: dict[tuple[int, int], str], size: tuple[int, int]
) -> None:
    """Refuse anything but the moving head, with what is wrong about the one chosen."""
    parts = expect_parts(got, 2, "Return (layer, head).")
    chosen = tuple(expect_integer(part, "Layer and head are whole numbers.") for part in parts)
    if chosen == mover:
        return
    refuse_if(chosen == mover[::-1], "Layer and head are exchanged: the layer comes first.")
    refuse_if(
        not (0 <= chosen[0] < size[0] and 0 <= chosen[1] < size[1]),
        f"There is no head {chosen}: layers go to {size[0] - 1}, heads to {size[1] - 1}.",
    )
    habit = HABITS.get(owner.get((chosen[0], chosen[1]), ""), f"{chosen} hardly changes at all.")
    raise Refused(f"{habit} You return {chosen}; the head that moves the answer is {mover}.")
