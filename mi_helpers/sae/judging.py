"""Judging a dictionary by labels: sparse probing, perturbation of probes, absorption, swaps.

After SAEBench [Karvonen et al. 2025], with labels of single tokens where it pools over texts, and
with both classes weighed alike where it draws balanced sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """A linear probe: it says yes where ``x @ weights + bias > 0``."""

    weights: Float[Tensor, " d"]
    bias: float

    def __call__(self, x: Float[Tensor, "token d"]) -> Float[Tensor, " token"]:
        """The log-odds that it gives."""
        return x @ self.weights + self.bias


def fit_probe(
    x: Float[Tensor, "token d"], label: Bool[Tensor, " token"], *, strength: float = 1.0
) -> Probe:
    """Logistic regression on standardised columns, both classes weighed alike.

    `strength` is scikit-learn's C: smaller pulls the weights harder towards zero.

    Raises:
        ValueError: another number of labels than rows, or a label that is the same everywhere.
    """
    _require_two_classes(x, label)
    mean, spread = x.mean(0), x.std(0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    model = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cholesky")
    model.fit(((x - mean) / spread).cpu().numpy(), label.cpu().numpy())
    weights = torch.tensor(model.coef_[0]).to(x) / spread
    return Probe(weights, float(model.intercept_[0]) - float(mean @ weights))


def balanced_accuracy(said: Bool[Tensor, " token"], label: Bool[Tensor, " token"]) -> float:
    """The mean of the shares that are right where the label holds and where not; 0.5 is chance.

    Raises:
        ValueError: as `fit_probe`.
    """
    _require_two_classes(said, label)
    right = (said == label).float()
    return float((right[label].mean() + right[~label].mean()) / 2)


def mean_differences(
    acts: Float[Tensor, "token unit"], labels: Bool[Tensor, "token label"]
) -> Float[Tensor, "unit label"]:
    """Mean activation where a label holds, less that elsewhere; in the unit of `acts`.

    Raises:
        ValueError: as `fit_probe`, for any label.
    """
    for label in labels.T:
        _require_two_classes(acts, label)
    held = labels.to(acts)
    inside, many = acts.T @ held, held.sum(0)
    return inside / many - (acts.sum(0)[:, None] - inside) / (len(acts) - many)


def sparse_probing(
    acts: Float[Tensor, "token unit"],
    labels: Bool[Tensor, "token label"],
    train: Bool[Tensor, " token"],
    k: int,
) -> Float[Tensor, " label"]:
    """Balanced accuracy, on the other tokens, of a probe on the `k` best units of each label.

    The best are those of largest absolute difference of means on the tokens in `train`, where the
    probe is fitted too [Gurnee et al. 2023; Karvonen et al. 2025].
    `transformer_lens.tools.analysis.fit_sparse_probe` does the same for one label on a split that
    it draws itself; here one split serves all labels, dictionaries and measures. SAEBench chooses
    the same units, and fits its probe on them as they are, not standardised.

    Raises:
        ValueError: `k` below 1 or above the number of units; as `fit_probe` on either part.
    """
    if not 1 <= k <= acts.shape[1]:
        raise ValueError(f"k must be from 1 to the {acts.shape[1]} units, got {k}")
    far = mean_differences(acts[train], labels[train]).abs().topk(k, dim=0).indices
    scores = []
    for label, units in zip(labels.T, far.T, strict=True):
        few = acts[:, units]
        probe = fit_probe(few[train], label[train])
        scores.append(balanced_accuracy(probe(few[~train]) > 0, label[~train]))
    return torch.tensor(scores)


def _require_two_classes(x: Tensor, label: Tensor) -> None:
    if len(x) != len(label):
        raise ValueError(f"there are {len(x)} rows and {len(label)} labels")
    if label.dtype != torch.bool or label.all() or not label.any():
        raise ValueError(
            f"the label must be boolean and hold for some tokens and not for others; it is "
            f"{label.dtype} and holds for {int(label.sum())} of {len(label)}"
        )


def targeted_perturbation(
    acts: Float[Tensor, "token unit"],
    W_dec: Float[Tensor, "unit d"],
    x: Float[Tensor, "token d"],
    labels: Bool[Tensor, "token class"],
    train: Bool[Tensor, " token"],
    probes: Sequence[Probe],
    n: int,
) -> Float[Tensor, "removed probed"]:
    """What probes lose when the `n` units that most serve one class are set to zero.

    A unit serves a class by how much more active it is where the class holds, if it is, times its
    decoder row's product with the class's probe; chosen on the tokens in `train`. Entry [i, j] is
    how much balanced accuracy the probe of class j loses, on the other tokens, by the units of
    class i: positive for a loss. The rest of `x`, the dictionary's error included, stays [Karvonen
    et al. 2025, targeted probe perturbation; after Marks et al. 2024].

    Raises:
        ValueError: as `fit_probe`; another number of probes than classes; `n` below 1.
    """
    if len(probes) != labels.shape[1] or n < 1:
        raise ValueError(f"{len(probes)} probes for {labels.shape[1]} classes, n = {n}")
    weights = torch.stack([probe.weights for probe in probes], dim=1)
    through = W_dec @ weights  # [unit class]
    serves = mean_differences(acts[train], labels[train]).clamp_min(0) * through
    acts, labels = acts[~train], labels[~train]
    scores = torch.stack([probe(x[~train]) for probe in probes], dim=1)
    before = _accuracies(scores, labels)
    lost = []
    for i, chosen in enumerate(serves.topk(min(n, len(serves)), dim=0).indices.T):
        units = chosen[serves[chosen, i] > 0]
        lost.append(before - _accuracies(scores - acts[:, units] @ through[units], labels))
    return torch.stack(lost)


def targeted_score(lost: Float[Tensor, "removed probed"]) -> float:
    """Mean loss of the class that was meant, less the mean loss of the others (TPP)."""
    n = len(lost)
    return float(lost.diagonal().mean() - (lost.sum() - lost.trace()) / (n * (n - 1)))


def _accuracies(scores: Tensor, labels: Tensor) -> Float[Tensor, " class"]:
    return torch.tensor(
        [balanced_accuracy(s > 0, y) for s, y in zip(scores.T, labels.T, strict=True)]
    )


@dataclass(frozen=True)
class Absorption:
    """Held-out tokens that carry a label and of which a probe says so, in order.

    Attributes:
        own: The label's own units, the one that tells most first.
        hole: None of these fires.
        share: How much of what the probe sees the largest other unit writes: what this adds to the
            probe's score, over by how much that exceeds its mean where the label does not hold.
        unit: Which unit that is.
        precision: Of the tokens on which that unit fires, the share that carries the label.
    """

    own: Int[Tensor, " own"]
    hole: Bool[Tensor, " seen"]
    share: Float[Tensor, " seen"]
    unit: Int[Tensor, " seen"]
    precision: Float[Tensor, " seen"]

    def absorbed(self, share: float = 0.4, precision: float = 0.0) -> Bool[Tensor, " seen"]:
        """Holes in which one unit writes a `share` of what the probe sees, and more.

        The published rule asks no `precision`. But an absorber stands for a special case of the
        label: where it fires, the label holds.
        """
        return self.hole & (self.share > share) & (self.precision >= precision)


def absorption(
    acts: Float[Tensor, "token unit"],
    W_dec: Float[Tensor, "unit d"],
    x: Float[Tensor, "token d"],
    label: Bool[Tensor, " token"],
    train: Bool[Tensor, " token"],
    probe: Probe,
    *,
    gain: float = 0.03,
) -> Absorption:
    """Where a label's own units fall silent, does one other unit do their work?

    The label may have been split among several units: its own are those that, taken one after
    another, raise the F1 of "one of them fires" by `gain` or more, on the tokens in `train`. The
    rest is of the other tokens [Chanin et al. 2024; Karvonen et al. 2025, whose shares are of the
    projection itself, not of what it exceeds elsewhere, and who choose the label's units by sparse
    probes].

    Raises:
        ValueError: as `fit_probe`, on either part of the tokens; `gain` not positive.
    """
    _require_two_classes(acts, label)
    for part in (label[train], label[~train]):
        _require_two_classes(part, part)
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain}: else every unit is the label's own")
    own = _own_units(acts[train] > 0, label[train], gain)
    score = probe(x)
    seen = label & ~train & (score > 0)
    others = (acts[seen] * (W_dec @ probe.weights)).index_fill(1, own, -torch.inf)
    most, unit = others.max(1)
    chosen, which = unit.unique(return_inverse=True)
    fires = acts[:, chosen][~train] > 0
    precision = fires[label[~train]].sum(0) / fires.sum(0).clamp_min(1)
    return Absorption(
        own=own,
        hole=~(acts[seen][:, own] > 0).any(1),
        share=most / (score[seen] - score[train & ~label].mean()),
        unit=unit,
        precision=precision[which],
    )


def _own_units(
    fires: Bool[Tensor, "token unit"], label: Bool[Tensor, " token"], gain: float
) -> Int[Tensor, " own"]:
    """Units of which one fires where the label holds: each raises F1 by `gain`."""
    held = int(label.sum())
    # n hits more raise F1 by less than 2 n / held, whatever is said besides
    enough = (fires[label].sum(0) > gain * held / 2).nonzero()[:, 0]
    on, y = fires[:, enough].float(), label.float()
    own: list[int] = []
    some, best = torch.zeros_like(y), 0.0
    while len(own) < len(enough):
        before = torch.stack([some * y, some]).sum(1)
        hits, said = (on.T @ torch.stack([(1 - some) * y, 1 - some], 1) + before).T
        f1 = 2 * hits / (said + held)
        if f1.max() - best < gain:
            break
        best, unit = float(f1.max()), int(f1.argmax())
        own, some = [*own, unit], torch.maximum(some, on[:, unit])
    return enough[torch.tensor(own, dtype=torch.long, device=enough.device)]


def units_to_swap(
    effects: Float[Tensor, "pair unit"],
    margins: Float[Tensor, " pair"],
    cause: Bool[Tensor, " pair"],
    *,
    steps: int = 150,
    rate: float = 0.1,
) -> Bool[Tensor, " unit"]:
    """Units whose exchange brings an attribute of another subject, and no other attribute.

    A pair is a question about one subject, the base, and another subject, the source, with another
    answer. `margins` are the source's answer's logit less the base's, as the model has it; and
    `effects` what the exchange of each unit adds, to first order. Where `cause`, the attribute is
    asked that is to be brought over, and the margin shall become positive; elsewhere another, and
    it shall stay negative. The mask is learned, from all units half exchanged, by Adam on the mean
    logistic loss of both kinds, weighed alike, while the sigmoid gets a hundred times steeper:
    differential binary masking [Huang et al. 2024; Karvonen et al. 2025], but on the linear effect
    instead of runs of the model.

    Raises:
        ValueError: as `fit_probe`, for `cause`.
    """
    _require_two_classes(effects, cause)
    weight = torch.where(cause, 0.5 / cause.sum(), 0.5 / (~cause).sum())
    sign = torch.where(cause, -1.0, 1.0)
    mask = torch.zeros(effects.shape[1], device=effects.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=rate)
    with torch.enable_grad():
        for step in range(steps):
            soft = torch.sigmoid(mask * 10 ** (2 * step / steps))
            loss = (weight * torch.nn.functional.softplus(sign * (margins + effects @ soft))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return mask.detach() > 0
