"""A dictionary against the truth: which unit is a detector of what the generator meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Labelled:
    """Texts as tokens, and which tokens carry which label.

    Attributes:
        tokens: BOS first, padded on the right with BOS.
        real: Which tokens are text: neither BOS nor padding.
        labels: One boolean mask for each label, named as the generator's spans.
    """

    tokens: Int[Tensor, "text pos"]
    real: Bool[Tensor, "text pos"]
    labels: dict[str, Bool[Tensor, "text pos"]]

    def flat(self, name: str) -> Bool[Tensor, " token"]:
        """One label on the real tokens alone, in the order of `acts[real]`."""
        return self.labels[name][self.real]


def label_tokens(
    model: TransformerBridge, samples: Sequence[Any], *, least: int = 20, texts: bool = True
) -> Labelled:
    """Tokenise the generator's samples and mark the tokens of every labelled span.

    A token carries a span's role when it overlaps the span. With `texts`, a label of the whole
    text that is a truth value or one of few words ("sentiment", "gender", "number", "harmful")
    marks all tokens after its first evidence, as "sentiment=good". Labels with fewer than `least`
    tokens are left out.

    Raises:
        ValueError: no samples, no label with enough tokens, a tokenizer without offsets.
    """
    if not samples:
        raise ValueError("samples are empty: draw some with mi_data.pocket.generator")
    if not model.tokenizer.is_fast:
        raise ValueError("labels need a fast tokenizer, which says where each token begins")
    encoded = model.tokenizer(
        [s.text for s in samples], return_offsets_mapping=True, add_special_tokens=False
    )
    rows = [ids[: model.cfg.n_ctx - 1] for ids in encoded["input_ids"]]
    shape = (len(rows), 1 + max(map(len, rows)))
    bos = model.tokenizer.bos_token_id
    tokens, real = torch.full(shape, bos), torch.zeros(shape, dtype=torch.bool)
    labels: dict[str, Tensor] = {}
    for i, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        tokens[i, 1 : len(row) + 1] = torch.tensor(row)
        real[i, 1 : len(row) + 1] = True
        for name, start, end in _marks(sample, texts):
            mask = labels.setdefault(name, torch.zeros(shape, dtype=torch.bool))
            for j, (a, b) in enumerate(encoded["offset_mapping"][i][: len(row)]):
                mask[i, j + 1] |= a < end and b > start
    kept = {name: mask for name, mask in sorted(labels.items()) if int(mask.sum()) >= least}
    if not kept:
        raise ValueError(f"no label has {least} tokens in {len(samples)} samples: draw more")
    return Labelled(tokens.to(model.cfg.device), real, kept)


def _marks(sample: Any, texts: bool) -> list[tuple[str, int, int]]:
    marks = [(span.role, span.start, span.end) for span in sample.spans]
    if texts and sample.spans:
        seen = min(span.end for span in sample.spans)
        for name in ("sentiment", "gender", "number", "harmful"):
            if name in sample.labels:
                marks.append((f"{name}={sample.labels[name]}", seen, len(sample.text)))
    return marks


@dataclass(frozen=True)
class Detection:
    """How well units detect one label, each at its own best threshold.

    `precision`, `recall`, `f1` and `auroc` are `[unit]`, from 0 to 1; `threshold` is in the unit
    of the activation, and a unit says yes when it is above it.
    """

    precision: Float[Tensor, " unit"]
    recall: Float[Tensor, " unit"]
    f1: Float[Tensor, " unit"]
    auroc: Float[Tensor, " unit"]
    threshold: Float[Tensor, " unit"]

    def best(self) -> int:
        """The unit with the highest F1."""
        return int(self.f1.argmax())


def detection(
    acts: Float[Tensor, "token unit"],
    label: Bool[Tensor, " token"],
    *,
    block: int = 256,
    threshold: Float[Tensor, " unit"] | None = None,
) -> Detection:
    """Score every unit as a detector of `label`; ties count half in the AUROC.

    With `threshold` (from other tokens) precision, recall and F1 are those at it; without, each
    unit's best is taken.

    Raises:
        ValueError: shapes that differ, a label that is the same everywhere.
    """
    n, positive = len(label), int(label.sum())
    if acts.ndim != 2 or len(acts) != n:
        raise ValueError(f"acts are {list(acts.shape)} and there are {n} labels")
    if not 0 < positive < n:
        raise ValueError(f"the label marks {positive} of {n} tokens: some and not all are needed")
    parts, label = [], label.to(acts.device)
    for start in range(0, acts.shape[1], block):
        given = None if threshold is None else threshold[start : start + block]
        parts.append(_detect(acts[:, start : start + block], label, given))
    return Detection(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _detect(acts: Tensor, label: Tensor, threshold: Tensor | None) -> tuple[Tensor, ...]:
    value, order = acts.sort(dim=0, descending=True)
    hit = label[order].float()
    hits = hit.cumsum(0)
    said = torch.arange(1, len(label) + 1, device=acts.device)[:, None]
    positive = hits[-1]
    # Units say yes to whole groups of equal values: only the last of a group is a choice.
    last = torch.ones_like(value, dtype=torch.bool)
    last[:-1] = value[:-1] > value[1:]
    area = _area(hit, hits, last, positive, len(label))
    if threshold is None:
        f1 = (2 * hits / (said + positive)).masked_fill(~last, -1.0)
        place = f1[:-1].argmax(0) if len(label) > 1 else f1.argmax(0)
        below = value.gather(0, (place + 1).clamp_max(len(label) - 1)[None])[0]
        threshold = (value.gather(0, place[None])[0] + below) / 2
    yes = acts > threshold
    true = (yes & label[:, None]).sum(0).float()
    precision, recall = true / yes.sum(0).clamp_min(1), true / positive
    f1 = 2 * true / (yes.sum(0) + positive)
    return precision, recall, f1, area, threshold


def _area(hit: Tensor, hits: Tensor, last: Tensor, positive: Tensor, n: int) -> Tensor:
    """Area under the ROC curve by trapezoids over groups of equal values."""
    negatives = torch.arange(1, n + 1, device=hit.device)[:, None] - hits
    total = n - positive
    # At the end of each group: what was counted at the end of the group before it.
    index = torch.where(last, torch.arange(n, device=hit.device)[:, None], -1)
    before = torch.cat([torch.full_like(index[:1], -1), index.cummax(0).values[:-1]])
    known = before >= 0
    hits_before = hits.gather(0, before.clamp_min(0)) * known
    negatives_before = negatives.gather(0, before.clamp_min(0)) * known
    step = (negatives - negatives_before) * (hits + hits_before) / 2
    return (step * last).sum(0) / (positive * total)


def best_units(
    acts: Float[Tensor, "token unit"],
    labelled: Labelled,
    *,
    held_out: float = 0.5,
    candidates: int = 50,
) -> list[dict[str, Any]]:
    """For each label the unit that detects it best, chosen on the first texts, judged on the rest.

    `acts` are those of the real tokens, `[token, unit]`. Only the `candidates` units that correlate
    most with a label are scored in full. Rows: label, unit, precision, recall, f1, auroc (all on
    held-out texts), and the share of tokens that carry the label ("base").

    Raises:
        ValueError: acts of other tokens, or no label that is in both parts.
    """
    if acts.ndim != 2 or len(acts) != int(labelled.real.sum()):
        raise ValueError(
            f"acts are {list(acts.shape)}; there are {int(labelled.real.sum())} tokens"
        )
    text = labelled.real.nonzero()[:, 0].to(acts.device)
    first = text < len(labelled.real) * (1 - held_out)
    labels = {name: labelled.flat(name).to(acts.device) for name in labelled.labels}
    labels = {n: y for n, y in labels.items() if min(y[first].sum(), y[~first].sum()) > 0}
    if not labels:
        raise ValueError("no label is in both parts of the texts: draw more, in mixed order")
    seen, unseen = acts[first], acts[~first]
    near = _correlations(seen, torch.stack([y[first] for y in labels.values()], -1))
    near = near.topk(min(candidates, acts.shape[1]), dim=0).indices
    rows = []
    for (name, label), units in zip(labels.items(), near.T, strict=True):
        found = detection(seen[:, units], label[first])
        unit, threshold = units[found.best()], found.threshold[found.best()]
        judged = detection(unseen[:, unit, None], label[~first], threshold=threshold[None])
        scores = {k: float(getattr(judged, k)) for k in ("precision", "recall", "f1", "auroc")}
        base = float(label.float().mean())
        rows.append({"label": name, "unit": int(unit), **scores, "base": base})
    return rows


def _correlations(acts: Tensor, labels: Tensor) -> Float[Tensor, "unit label"]:
    """Pearson's r of every unit with every label; 0 for a unit that never changes."""
    a = acts - acts.mean(0)
    y = labels.float() - labels.float().mean(0)
    size = a.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(size > 0, a.T @ y / size.clamp_min(1e-12), 0.0)
