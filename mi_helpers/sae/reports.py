"""All there is to say about one unit, gathered for its dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.reading import contexts, direct_logits, known_units, on_texts
from mi_helpers.sae.truth import Labelled


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
    model: Any, sae: Sae, labelled: Labelled, acts: Float[Tensor, "token unit"], unit: int, *,
    top: int = 5, below: int = 2, rows: int = 6, seed: int = 0,
) -> UnitReport:  # fmt: skip
    """Gather what `labelled` texts and the weights say about `unit`.

    `acts` are the SAE's activations on the real tokens. Examples: the `top` texts, then `below`
    drawn from each third of the other texts in which it fires. `rows` is the length of all lists.
    Raises IndexError for a unit that is none, ValueError for one that never fires on these texts.
    """
    known_units(sae, [unit])
    mine = acts[:, unit]
    on = mine > 0
    if not on.any():
        raise ValueError(f"unit {unit} never fires on these {len(mine)} tokens: choose another")
    promoted, suppressed = _written(model, sae, unit, rows)
    return UnitReport(
        unit, float(on.float().mean()), float(mine.max()), mine[on].cpu(),
        _examples(model, labelled, mine, top, below, seed), promoted, suppressed,
        _label_rows(labelled, on)[:rows], _nearest(model, sae, labelled, acts, unit, rows),
    )  # fmt: skip


def nearest_units(sae: Sae, unit: int, count: int = 6) -> list[tuple[int, float]]:
    """The units whose decoder rows have the largest cosine with that of `unit`, and the cosines."""
    (unit,) = known_units(sae, [unit])
    normal = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosines = normal @ normal[unit]
    cosines[unit] = -torch.inf
    best = cosines.topk(min(count, sae.d_sae - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _examples(
    model: Any, labelled: Labelled, mine: Tensor, top: int, below: int, seed: int
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
    model: Any, labelled: Labelled, strength: Tensor, group: str, text: int,
    before: int = 14, after: int = 8,
) -> Example:  # fmt: skip
    places = labelled.real[text].nonzero()[:, 0]
    values = strength[text][places]
    at = int(values.argmax())
    kept = slice(max(0, at - before), at + after + 1)
    names = [model.tokenizer.decode([i]) for i in labelled.tokens[text][places][kept].tolist()]
    return Example(group, names, values[kept].cpu())


def _written(model: Any, sae: Sae, unit: int, rows: int) -> tuple[list, list]:
    if sae.d_in != model.cfg.d_model or "resid" not in sae.hook and "_out" not in sae.hook:
        return [], []
    logits = direct_logits(model, sae, [unit])[0]
    ends = [logits.topk(rows), logits.topk(rows, largest=False)]
    up, down = (
        [(model.tokenizer.decode([i]), v)
         for i, v in zip(end.indices.tolist(), end.values.tolist(), strict=True)]
        for end in ends
    )  # fmt: skip
    return up, down


def _label_rows(labelled: Labelled, on: Tensor) -> list[tuple[str, float, float, float]]:
    rows = []
    for name in labelled.labels:
        label = labelled.flat(name).to(on.device)
        both = float((on & label).sum())
        rows.append((name, both / float(on.sum()), both / float(label.sum()),
                     float(label.float().mean())))  # fmt: skip
    rows = [row for row in rows if row[1] > 0]
    return sorted(rows, key=lambda row: -2 * row[1] * row[2] / (row[1] + row[2]))


def _nearest(
    model: Any, sae: Sae, labelled: Labelled, acts: Tensor, unit: int, rows: int
) -> list[tuple[int, float, str]]:
    tokens: Int[Tensor, " token"] = labelled.tokens[labelled.real]
    found = []
    for other, cosine in nearest_units(sae, unit, rows):
        where = int(acts[:, other].argmax())
        fires = bool(acts[where, other] > 0)
        says = model.tokenizer.decode([int(tokens[where])]) if fires else "nothing here"
        found.append((other, cosine, says))
    return found
