"""All there is to say about one unit, gathered for its dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.labels import Labelled
from mi_helpers.sae.units import (
    STREAM_SITES,
    contexts,
    direct_logits,
    known_units,
    nearest_units,
    on_texts,
)
from mi_helpers.sites import place_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Example:
    """A stretch of text around the token on which a unit fires most there."""

    group: str
    str_tokens: list[str]
    values: Float[Tensor, " pos"]


@dataclass(frozen=True)
class UnitReport:
    """What a dashboard shows of one unit; `mi.figures.unit_dashboard` draws it.

    Attributes:
        unit: Its number.
        frequency: The share of tokens on which it fires.
        peak: Its largest activation.
        active: All activations above zero.
        examples: The strongest texts, then some from each part of the range below.
        promoted: Tokens and what one unit of activation adds to their logits, largest first; empty
            outside the residual stream.
        suppressed: The same from the other end.
        labels: Label, share of the unit's firing that carries it, share of the label that it fires
            on, share of all tokens that carry the label; the best by F1.
        nearest: Unit, cosine of the decoder's rows, token on which that unit fires most.
    """

    unit: int
    frequency: float
    peak: float
    active: Float[Tensor, " token"]
    examples: list[Example]
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]
    labels: list[tuple[str, float, float, float]]
    nearest: list[tuple[int, float, str]]


@torch.no_grad()
def report(
    model: TransformerBridge,
    sae: Sae,
    labelled: Labelled,
    acts: Float[Tensor, "token unit"],
    unit: int,
    *,
    top: int = 5,
    below: int = 2,
    rows: int = 6,
    seed: int = 0,
) -> UnitReport:
    """Gather what `labelled` texts and the weights say about `unit`.

    `acts` are the SAE's activations on the real tokens. Examples: the `top` texts, then `below`
    drawn from each third of the other texts in which it fires. `rows` is the length of all lists.

    Raises:
        IndexError: a unit that is none.
        ValueError: one that never fires on these texts.
    """
    if sae.family not in ("SAE", "transcoder"):
        raise ValueError(f"a report is of an SAE's or a transcoder's unit, not of a {sae.family}'s")
    known_units(sae, [unit])
    mine = acts[:, unit]
    on = mine > 0
    if not on.any():
        raise ValueError(f"unit {unit} never fires on these {len(mine)} tokens: choose another")
    promoted, suppressed = _written(model, sae, unit, rows)
    return UnitReport(
        unit=unit,
        frequency=float(on.float().mean()),
        peak=float(mine.max()),
        active=mine[on].cpu(),
        examples=_examples(model, labelled, mine, top, below, seed),
        promoted=promoted,
        suppressed=suppressed,
        labels=_label_rows(labelled, on)[:rows],
        nearest=_nearest(model, sae, labelled, acts, unit, rows),
    )


def _examples(
    model: TransformerBridge, labelled: Labelled, mine: Tensor, top: int, below: int, seed: int
) -> list[Example]:
    strength = on_texts(mine, labelled.real)
    texts = contexts(strength, labelled.real, top=len(strength)).texts
    chosen = [("Strongest texts", i) for i in texts[:top]]
    rest, generator = texts[top:], torch.Generator().manual_seed(seed)
    for name, part in zip(("upper", "middle", "lowest"), _thirds(rest), strict=True):
        drawn = sorted(torch.randperm(len(part), generator=generator)[:below].tolist())
        chosen += [(f"From the {name} third of the others", part[i]) for i in drawn]
    return [_window(model, labelled, strength, group, i) for group, i in chosen]


def _thirds(texts: Sequence[int]) -> list[Sequence[int]]:
    cuts = [round(len(texts) * i / 3) for i in range(4)]
    return [texts[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


def _window(
    model: TransformerBridge, labelled: Labelled, strength: Tensor, group: str, text: int
) -> Example:
    before, after = 14, 8
    places = labelled.real[text].nonzero()[:, 0]
    values = strength[text][places]
    at = int(values.argmax())
    kept = slice(max(0, at - before), at + after + 1)
    names = [model.tokenizer.decode([i]) for i in labelled.tokens[text][places][kept].tolist()]
    return Example(group, names, values[kept].cpu())


def _written(
    model: TransformerBridge, sae: Sae, unit: int, rows: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    place = place_of(sae.writes)
    if place is None or place[0] not in STREAM_SITES:
        return [], []
    logits = direct_logits(model, sae, [unit])[0]
    up, down = logits.topk(rows), logits.topk(rows, largest=False)

    def named(ids: Tensor, values: Tensor) -> list[tuple[str, float]]:
        words = [model.tokenizer.decode([i]) for i in ids.tolist()]
        return list(zip(words, values.tolist(), strict=True))

    return named(up.indices, up.values), named(down.indices, down.values)


def _label_rows(labelled: Labelled, on: Tensor) -> list[tuple[str, float, float, float]]:
    rows = []
    for name in labelled.labels:
        label = labelled.flat(name).to(on.device)
        both = float((on & label).sum())
        precision, recall = both / float(on.sum()), both / float(label.sum())
        rows.append((name, precision, recall, float(label.float().mean())))
    rows = [row for row in rows if row[1] > 0]
    return sorted(rows, key=lambda row: -2 * row[1] * row[2] / (row[1] + row[2]))


def _nearest(
    model: TransformerBridge, sae: Sae, labelled: Labelled, acts: Tensor, unit: int, rows: int
) -> list[tuple[int, float, str]]:
    tokens = labelled.tokens[labelled.real]
    found = []
    for other, cosine in nearest_units(sae, unit, rows):
        where = int(acts[:, other].argmax())
        fires = bool(acts[where, other] > 0)
        says = model.tokenizer.decode([int(tokens[where])]) if fires else "nothing here"
        found.append((other, cosine, says))
    return found
