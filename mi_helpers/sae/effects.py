"""What units do to a prediction: attribution, setting, and how few carry an effect.

Setting units leaves all else as it is, what the dictionary cannot reconstruct included. Restoring
goes from a corrupt run to the clean one, unit after unit: what some of them give back of the clean
metric says how much they carry, whatever kind of unit they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.interventions import Edit, Firings, Positions, intervene
from mi_helpers.metrics import Metric, evaluate, positions_of, recovery, require_gap
from mi_helpers.patching.gradients import slopes
from mi_helpers.sae.core import Sae
from mi_helpers.sae.splice import require_fit, sparing
from mi_helpers.sae.stream import require_no_left_padding, special_tokens
from mi_helpers.sae.units import known_units
from mi_helpers.sites import Place

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

UNITS = ("features", "dimensions", "neurons", "heads")
"""What can be restored."""


@dataclass(frozen=True)
class UnitEffects:
    """What units do to a metric on one set of prompts, `[prompt pos unit]`.

    Attributes:
        direct: The attribution: activation x gradient of the metric along the decoder row, which is
            what removing the unit would take away, to first order.
        acts: The activations.
    """

    direct: Float[Tensor, "prompt pos unit"]
    acts: Float[Tensor, "prompt pos unit"]

    def total(self) -> Float[Tensor, " unit"]:
        """Sum over positions, mean over prompts."""
        return self.direct.sum(1).mean(0)


def attribute_to_units(
    model: TransformerBridge, sae: Sae, tokens: Int[Tensor, "prompt pos"], metric: Metric
) -> UnitEffects:
    """Attribute `metric` to the units, by one backward pass.

    The reconstruction's error stays in the stream, so the metric is the model's own. First and
    special tokens get nothing, since `set_units` spares them.

    Raises:
        ValueError: an SAE that does not fit the model, tokens padded on the left, a bad metric.
    """
    hook = require_fit(model, sae)
    x, slope = (part.flatten(2) for part in _slopes(model, tokens, metric, [hook])[hook])
    acts = sae.encode(x).masked_fill(_spared(model, tokens).to(x.device), 0)
    return UnitEffects(acts * (slope @ sae.W_dec.T), acts)


@contextmanager
def set_units(
    model: TransformerBridge,
    sae: Sae,
    values: Mapping[int, float | Float[Tensor, "prompt pos"]],
    positions: Positions = None,
) -> Iterator[Firings]:
    """Hold units at values inside the block, and leave all else as it is.

    First and special tokens are spared, as by `splice`: units mean nothing there.

    Args:
        model: The model that the SAE was made for.
        sae: The dictionary: an SAE or a transcoder.
        values: For each unit a number, which it gets everywhere: 0 ablates it, a large one clamps
            it. Or a tensor `[prompt pos]`, such as what it was in another run, which is patching.
        positions: As in `intervene`.

    Yields:
        The count of what fired.

    Raises:
        IndexError: a unit that is none.
        ValueError: no units, an SAE that does not fit the model.
        NothingHappened: on leaving, when no pass ran, or none with a token that is not spared.
    """
    units = list(known_units(sae, list(values)))
    if not units:
        raise ValueError("values names no unit: there is nothing to set")

    def change(x: Tensor, y: Tensor) -> Tensor:
        new = [torch.as_tensor(values[unit]).to(x).expand(x.shape[:2]) for unit in units]
        return y + (torch.stack(new, -1) - sae.encode(x)[..., units]) @ sae.W_dec[units]

    with sparing(model, sae, change, positions) as fired:
        yield fired


@dataclass(frozen=True)
class Restoration:
    """All units of one kind in a pair of runs; a unit is restored at every position at once.

    Attributes:
        scores: What restoring each unit is estimated to give, in the metric's unit: clean minus
            corrupt activation times the gradient, the mean of the gradients in both runs.
        names: What the units are called: "F12", "D5", "L3N40", "L2H4".
        corrupt: The prompts that are repaired.
        ends: The metric on the corrupt and on the clean run.
        clean_values: By place, `[prompt pos unit ...]`; for features, what each would add.
        sae: The dictionary, for features.
    """

    scores: Float[Tensor, " unit"]
    names: list[str]
    corrupt: Int[Tensor, "prompt pos"]
    ends: tuple[float, float]
    model: TransformerBridge = field(repr=False)
    metric: Metric = field(repr=False)
    clean_values: Mapping[Place | str, Tensor] = field(repr=False)
    sae: Sae | None = field(default=None, repr=False)

    def order(self) -> list[int]:
        """The units, from the largest score to the smallest."""
        return self.scores.argsort(descending=True).tolist()

    @torch.no_grad()
    def share(self, units: Sequence[int]) -> float:
        """The share of the gap between the runs that restoring `units` closes; 1 is all of it."""
        chosen = torch.zeros(len(self.scores), dtype=torch.bool, device=self.scores.device)
        chosen[list(units)] = True
        edits: dict[Place | str, Edit] = {}
        first = 0
        for place, values in self.clean_values.items():
            mask = chosen[first : first + values.shape[2]]
            first += values.shape[2]
            if mask.any():
                edits[place] = self._repair(values, mask)
        if not edits:
            return 0.0
        with intervene(self.model, edits):
            got = _mean(self.model, self.corrupt, self.metric)
        return float(recovery(got, self.ends[1], self.ends[0]))

    def needed(self, share: float = 0.8, order: Sequence[int] | None = None) -> int | None:
        """How many units, in `order` or best first, close `share` of the gap; None if all do not.

        Found by bisection, which takes for granted that more units restore more.
        """
        order = self.order() if order is None else list(order)
        low, high = 0, len(order)
        if self.share(order) < share:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.share(order[:middle]) >= share else (middle, high)
        return high

    def _repair(self, values: Tensor, mask: Tensor) -> Edit:
        if self.sae is not None:
            step = values[..., mask] @ self.sae.W_dec[mask]
            return lambda acts, where: acts + step.view_as(acts)
        at = mask.view(-1, *[1] * (values.ndim - 3))
        return lambda acts, where: torch.where(at, values, acts)


def restoration(
    model: TransformerBridge,
    kind: str,
    clean: Int[Tensor, "prompt pos"],
    corrupt: Int[Tensor, "prompt pos"],
    metric: Metric,
    *,
    sae: Sae,
) -> Restoration:
    """Everything needed to restore units of one kind in the run on `corrupt`.

    Args:
        model: The model that the SAE was made for.
        kind: "features" of `sae`; "dimensions" of the stream at its site, one coordinate each;
            "neurons" of all MLPs; or "heads". The features' error term stays as it is in the
            corrupt run, and so do features on first and special tokens, where they mean nothing.
        clean: The prompts whose values are put in.
        corrupt: The prompts that are repaired.
        metric: Logits to one number a prompt.
        sae: The dictionary.

    Raises:
        ValueError: an unknown kind, prompts of unequal shape or padded on the left, runs with the
            same metric.
    """
    if kind not in UNITS:
        raise ValueError(f"unknown kind {kind!r}; the kinds are {', '.join(UNITS)}")
    if clean.shape != corrupt.shape:
        raise ValueError(f"clean is {list(clean.shape)} and corrupt is {list(corrupt.shape)}")
    places = _places(model, kind, require_fit(model, sae))
    before, after = (_slopes(model, tokens, metric, places) for tokens in (corrupt, clean))
    start, end = (_mean(model, tokens, metric) for tokens in (corrupt, clean))
    require_gap(end, start)
    scores, values = [], {}
    for place in places:
        (x, slope_before), (y, slope_after) = before[place], after[place]
        step, slope, values[place] = y - x, (slope_before + slope_after) / 2, y
        if kind == "features":
            step = sae.encode(y.flatten(2)) - sae.encode(x.flatten(2))
            spared = _spared(model, corrupt) | _spared(model, clean)
            values[place] = step = step.masked_fill(spared.to(step.device), 0)
            slope = slope.flatten(2) @ sae.W_dec.T
        product = (step * slope).sum(1).mean(0)
        scores.append(product.flatten(1).sum(1) if product.ndim > 1 else product)
    return Restoration(
        torch.cat(scores),
        _names(kind, places, [len(part) for part in scores]),
        corrupt,
        (start, end),
        model,
        metric,
        values,
        sae if kind == "features" else None,
    )


def _places(model: TransformerBridge, kind: str, site: str) -> list[Place | str]:
    if kind in ("features", "dimensions"):
        return [site]
    name = {"neurons": "mlp_post", "heads": "z"}[kind]
    return [(name, layer) for layer in range(model.cfg.n_layers)]


def _names(kind: str, places: Sequence[Place | str], sizes: Sequence[int]) -> list[str]:
    letter = kind[0].upper()
    return [
        f"{letter}{i}" if isinstance(place, str) else f"L{place[1]}{letter}{i}"
        for place, size in zip(places, sizes, strict=True)
        for i in range(size)
    ]


def _spared(model: TransformerBridge, tokens: Int[Tensor, "prompt pos"]) -> Tensor:
    """First and special tokens [prompt pos 1], on which units mean nothing."""
    spared = special_tokens(model, tokens)
    spared[:, 0] = True
    return spared[..., None]


def _slopes(
    model: TransformerBridge, tokens: Tensor, metric: Metric, places: Sequence[Place | str]
) -> dict[Place | str, tuple[Tensor, Tensor]]:
    """Activations and gradients, of tokens that mean the same to the model and to the metric."""
    require_no_left_padding(model, tokens)
    return slopes(model, tokens, metric, places)


@torch.no_grad()
def _mean(model: TransformerBridge, tokens: Tensor, metric: Metric) -> float:
    logits = model(tokens)
    return float(evaluate(metric, logits[:, positions_of(metric, logits.shape[1])]).mean())
