"""Reading units: where they fire, what they write, and whether an explanation holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.splice import require_fit
from mi_helpers.sae.stream import read_flat, require_no_left_padding
from mi_helpers.sites import place_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@torch.no_grad()
def unit_activations(
    model: TransformerBridge,
    sae: Sae,
    tokens: Int[Tensor, "text pos"],
    units: Sequence[int] | None = None,
) -> Float[Tensor, "text pos unit"]:
    """Activations of all units, or of `units`, on tokens.

    Raises:
        IndexError: a unit that is none.
        ValueError: an SAE that does not fit the model, tokens padded on the left.
    """
    require_no_left_padding(model, tokens)
    hook = require_fit(model, sae, also=("transcoder",))
    found = sae.encode(read_flat(model, hook, tokens))
    return found if units is None else found[..., list(known_units(sae, units))]


STREAM_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
"""Where what a dictionary writes reaches the unembedding without another nonlinear step."""


def direct_logits(
    model: TransformerBridge, sae: Sae, units: Sequence[int]
) -> Float[Tensor, "unit d_vocab"]:
    """What one unit of activation adds to each logit directly, past all later layers.

    `W_dec @ W_U`, by way of `W_O` for a dictionary of heads ("z"); mean over the vocabulary taken
    out. The final LayerNorm divides by the stream's scale, so compare tokens, not units at
    different sites.

    Raises:
        IndexError: a unit that is none.
        ValueError: a dictionary of a site that does not write to the residual stream, or of
            another width.
    """
    if sae.family not in ("SAE", "transcoder"):
        raise ValueError(f"a {sae.family} writes to several places: there are no logits of all")
    place = place_of(sae.writes)
    if sae.writes and (place is None or place[0] not in STREAM_SITES):
        raise ValueError(
            f"a dictionary of {sae.writes!r} does not write to the residual stream, so it has no "
            f"direct logits: the sites that do are {', '.join(STREAM_SITES)}"
        )
    written = sae.W_dec[list(known_units(sae, units))].to(model.W_U)
    if place and place[0] == "z":
        written = written @ model.blocks[place[1]].attn.W_O.flatten(0, 1)
    if written.shape[1] != model.W_U.shape[0]:
        raise ValueError(
            f"this SAE writes {written.shape[1]} dimensions at {sae.writes!r}, the unembedding "
            f"reads {model.W_U.shape[0]}"
        )
    logits = written @ model.W_U
    return logits - logits.mean(-1, keepdim=True)


def on_texts(
    acts: Float[Tensor, " token"], real: Bool[Tensor, "text pos"]
) -> Float[Tensor, "text pos"]:
    """One unit's activations on the real tokens, put back to their texts; zero elsewhere.

    Raises:
        ValueError: as many activations as there are real tokens are needed.
    """
    if acts.ndim != 1 or len(acts) != int(real.sum()):
        raise ValueError(f"acts are {list(acts.shape)} and {int(real.sum())} tokens are real")
    out = torch.zeros(real.shape, dtype=acts.dtype, device=acts.device)
    out[real.to(acts.device)] = acts
    return out


@dataclass(frozen=True)
class Contexts:
    """Texts in which a unit fires, and how strongly: `values[i][pos]` belongs to `texts[i]`."""

    texts: list[int]
    values: list[Float[Tensor, " pos"]]
    peaks: list[float]


def contexts(
    strength: Float[Tensor, "text pos"],
    real: Bool[Tensor, "text pos"],
    *,
    top: int = 4,
    quantiles: Sequence[float] = (),
) -> Contexts:
    """The `top` texts of a unit, then one at each quantile of its positive peaks.

    Top texts alone mislead: a unit can be clean at the top and mixed in the middle: look at both.
    """
    peaks = strength.masked_fill(~real.to(strength.device), 0).amax(1)
    order = peaks.argsort(descending=True)
    order = order[peaks[order] > 0]
    chosen = order[:top].tolist()
    if len(order):
        ranks = [round((1 - q) * (len(order) - 1)) for q in quantiles]
        chosen += [int(order[rank]) for rank in ranks]
    values = [strength[i][real[i]] for i in chosen]
    return Contexts(chosen, values, [float(peaks[i]) for i in chosen])


@dataclass(frozen=True)
class Explanation:
    """How well a predicate says where a unit fires, over its whole range.

    Attributes:
        precision: Of the tokens whose activation lies in a band, from weak to strong, the share
            that the predicate holds for.
        recall: Of the tokens it holds for, the share on which the unit fires.
        base: The share of all tokens it holds for, which is what chance gives.
    """

    precision: Float[Tensor, " band"]
    recall: float
    base: float


def judge_explanation(
    acts: Float[Tensor, " token"], holds: Bool[Tensor, " token"], *, bands: int = 4
) -> Explanation:
    """Score "this unit fires where `holds`": precision by strength, and recall.

    Bands hold equally many active tokens.

    Raises:
        ValueError: shapes that differ, a unit that fires on fewer tokens than there are bands, a
            predicate that never holds.
    """
    on, holds = acts > 0, holds.to(acts.device)
    if acts.shape != holds.shape or acts.ndim != 1:
        raise ValueError(f"acts {list(acts.shape)} and holds {list(holds.shape)} must be [token]")
    if int(on.sum()) < bands or not holds.any():
        raise ValueError(
            f"the unit fires on {int(on.sum())} tokens and the predicate holds for "
            f"{int(holds.sum())}: nothing to judge"
        )
    parts = holds[on][acts[on].argsort()].float().tensor_split(bands)
    return Explanation(
        precision=torch.stack([part.mean() for part in parts]),
        recall=float((on & holds).sum() / holds.sum()),
        base=float(holds.float().mean()),
    )


def predicate(
    tokens: Int[Tensor, "text pos"],
    real: Bool[Tensor, "text pos"],
    words: Sequence[str],
    holds: Callable[[str, str], bool],
) -> Bool[Tensor, " token"]:
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

    Raises:
        ValueError: an empty set, or sets with different units.
    """
    if not len(one) or not len(other) or one.shape[1] != other.shape[1]:
        raise ValueError(f"need texts by units twice, got {list(one.shape)}, {list(other.shape)}")
    spread = ((one.var(0, correction=0) + other.var(0, correction=0)) / 2).sqrt()
    apart = (one.mean(0) - other.mean(0)) / (spread + 1e-2 * spread.max().clamp_min(1e-6))
    best = apart.abs().topk(min(count, len(apart))).indices.tolist()
    return [(unit, float(apart[unit])) for unit in best]


def nearest_units(sae: Sae, unit: int, count: int = 6) -> list[tuple[int, float]]:
    """The units whose decoder rows have the largest cosine with that of `unit`, and the cosines.

    Raises:
        IndexError: a unit that is none.
    """
    (unit,) = known_units(sae, [unit])
    normal = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosines = normal @ normal[unit]
    cosines[unit] = -torch.inf
    best = cosines.topk(min(count, sae.d_sae - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def known_units(sae: Sae, units: Sequence[int]) -> Sequence[int]:
    """`units`, or an IndexError that names the first that is none."""
    if wrong := [unit for unit in units if not 0 <= unit < sae.d_sae]:
        raise IndexError(f"there is no unit {wrong[0]}: this SAE has {sae.d_sae}")
    return units
