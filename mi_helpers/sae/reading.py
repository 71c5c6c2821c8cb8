"""Reading units: where they fire, what they write, and what they do to a prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.sae.activations import read_site
from mi_helpers.sae.core import Sae
from mi_helpers.sae.fidelity import require_same


@torch.no_grad()
def unit_activations(
    model: Any, sae: Sae, tokens: Int[Tensor, "text pos"], units: Sequence[int] | None = None
) -> Float[Tensor, "text pos unit"]:
    """Activations of all units, or of `units`, on tokens. IndexError for a unit that is none."""
    found = sae.encode(read_site(model, require_same(model, sae), tokens))
    return found if units is None else found[..., list(_known(sae, units))]


def direct_logits(model: Any, sae: Sae, units: Sequence[int]) -> Float[Tensor, "unit d_vocab"]:
    """What one unit of activation adds to each logit directly, past all later layers.

    `W_dec @ W_U`, mean over the vocabulary taken out. The final LayerNorm divides by the stream's
    scale, so compare tokens, not units at different sites.
    """
    written = sae.W_dec[list(_known(sae, units))].to(model.W_U)
    if written.shape[1] != model.W_U.shape[0]:
        raise ValueError(
            f"this SAE writes {written.shape[1]} dimensions at {sae.hook!r}, the unembedding reads "
            f"{model.W_U.shape[0]}: only sites of the residual stream have direct logits"
        )
    logits = written @ model.W_U
    return logits - logits.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Contexts:
    """Texts in which a unit fires, and how strongly: `values[i][pos]` belongs to `texts[i]`."""

    texts: list[int]
    values: list[Float[Tensor, " pos"]]
    peaks: list[float]


def contexts(
    strength: Float[Tensor, "text pos"], real: Bool[Tensor, "text pos"], *, top: int = 4,
    quantiles: Sequence[float] = (), seed: int = 0,
) -> Contexts:  # fmt: skip
    """The `top` texts of a unit, then one at each quantile of its positive peaks.

    Top texts alone mislead: a unit can be clean at the top and mixed in the middle: look at both.
    """
    peaks = strength.masked_fill(~real, 0).amax(1)
    order = peaks.argsort(descending=True)
    order = order[peaks[order] > 0]
    chosen = order[:top].tolist()
    if len(order):
        ranks = [round((1 - q) * (len(order) - 1)) for q in quantiles]
        chosen += [int(order[rank]) for rank in ranks]
    return Contexts(
        chosen, [strength[i][real[i]] for i in chosen], [float(peaks[i]) for i in chosen]
    )


@dataclass(frozen=True)
class Explanation:
    """How well a predicate says where a unit fires, over its whole range.

    `precision[b]`: of the tokens whose activation lies in the b-th band (weak to strong), the share
    that the predicate holds for. `recall`: of the tokens it holds for, the share on which the unit
    fires. `base`: the share of all tokens it holds for, which is what chance gives.
    """

    precision: Float[Tensor, " band"]
    recall: float
    base: float


def judge_explanation(
    acts: Float[Tensor, " token"], holds: Bool[Tensor, " token"], *, bands: int = 4
) -> Explanation:
    """Score "this unit fires where `holds`": precision by strength, and recall.

    Bands hold equally many active tokens. ValueError when the unit never fires, or the predicate
    never holds.
    """
    on = acts > 0
    if acts.shape != holds.shape or acts.ndim != 1:
        raise ValueError(f"acts {list(acts.shape)} and holds {list(holds.shape)} must be [token]")
    if int(on.sum()) < bands or not holds.any():
        raise ValueError(
            f"the unit fires on {int(on.sum())} tokens and the predicate holds for "
            f"{int(holds.sum())}: nothing to judge"
        )
    order = acts[on].argsort()
    parts = holds[on][order].float().tensor_split(bands)
    return Explanation(
        torch.stack([part.mean() for part in parts]),
        float((on & holds).sum() / holds.sum()), float(holds.float().mean()),
    )  # fmt: skip


def predicate(
    tokens: Int[Tensor, "text pos"], real: Bool[Tensor, "text pos"], words: Sequence[str],
    holds: Callable[[str, str], bool],
) -> Bool[Tensor, " token"]:  # fmt: skip
    """A hypothesis as code: `holds(before, token)` for every real token, in the order of `real`.

    `words[id]` is the text of a token; `before` is the text before it.
    """
    out = []
    for row, mask in zip(tokens.tolist(), real.tolist(), strict=True):
        before = ""
        for token, counts in zip(row, mask, strict=True):
            if counts:
                out.append(bool(holds(before, words[token])))
                before += words[token]
    return torch.tensor(out, dtype=torch.bool)


def separating_units(
    one: Float[Tensor, "text unit"], other: Float[Tensor, "text unit"], count: int = 10
) -> list[tuple[int, float]]:
    """Units that separate two sets of texts, by the difference of means over the pooled spread.

    Each row is a text's activations, such as the maximum over positions. Positive: more in `one`.
    """
    if not len(one) or not len(other) or one.shape[1] != other.shape[1]:
        raise ValueError(f"need texts by units twice, got {list(one.shape)}, {list(other.shape)}")
    spread = ((one.var(0, correction=0) + other.var(0, correction=0)) / 2).sqrt()
    apart = (one.mean(0) - other.mean(0)) / (spread + 1e-2 * spread.max().clamp_min(1e-6))
    best = apart.abs().topk(min(count, len(apart))).indices.tolist()
    return [(unit, float(apart[unit])) for unit in best]


@dataclass(frozen=True)
class UnitEffects:
    """What units do to a metric on one set of prompts, `[prompt pos unit]`.

    `direct` is the attribution: activation x gradient of the metric along the decoder row, which is
    what removing the unit would take away, to first order.
    """

    direct: Float[Tensor, "prompt pos unit"]
    acts: Float[Tensor, "prompt pos unit"]

    def total(self) -> Float[Tensor, " unit"]:
        """Sum over positions, mean over prompts."""
        return self.direct.sum(1).mean(0)


def attribute_to_units(
    model: Any, sae: Sae, tokens: Int[Tensor, "prompt pos"],
    metric: Callable[[Tensor], Float[Tensor, " prompt"]],
) -> UnitEffects:  # fmt: skip
    """Attribute `metric(logits)`, one number a prompt, to the units, by one backward pass.

    The reconstruction's error stays in the stream (as `splice(keep_error=True)`), so the metric is
    the model's own.
    """
    name = require_same(model, sae)
    caught: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: Any) -> Tensor:
        caught["act"] = act.detach().requires_grad_()
        return caught["act"] * 1.0

    with torch.enable_grad(), model.hooks(fwd_hooks=[(name, keep)]):
        value = metric(model(tokens))
        (slope,) = torch.autograd.grad(value.sum(), caught["act"])
    acts = sae.encode(caught["act"].detach().flatten(2))
    return UnitEffects(acts * (slope.flatten(2) @ sae.W_dec.T), acts)


def set_units(
    sae: Sae, values: dict[int, float], positions: Sequence[int] | None = None
) -> Callable[[Tensor, Any], Tensor]:
    """A hook that sets units to values (0 ablates) and leaves all else as it is, error included."""
    units = list(_known(sae, list(values)))
    wanted = torch.tensor([values[unit] for unit in units])

    def change(act: Tensor, hook: Any) -> Tensor:
        x = act.flatten(2)
        step = (wanted.to(x) - sae.encode(x)[..., units]) @ sae.W_dec[units]
        if positions is not None:
            mask = torch.zeros(x.shape[1], 1, device=x.device)
            mask[list(positions)] = 1
            step = step * mask
        return (x + step).view_as(act)

    return change


def _known(sae: Sae, units: Sequence[int]) -> Sequence[int]:
    if wrong := [unit for unit in units if not 0 <= unit < sae.d_sae]:
        raise IndexError(f"there is no unit {wrong[0]}: this SAE has {sae.d_sae}")
    return units
