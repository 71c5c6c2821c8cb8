"""Reading units: where they fire, what they write, and whether an explanation holds."""

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
    return found if units is None else found[..., list(known_units(sae, units))]


@torch.no_grad()
def read_tokens(
    model: Any, hook: str, tokens: Int[Tensor, "text pos"], real: Bool[Tensor, "text pos"], *,
    rows_at_once: int = 32,
) -> Float[Tensor, "token d_in"]:  # fmt: skip
    """Activations of `hook` on the real tokens, in the order of `x[real]`.

    Texts are padded on the right and read a few at a time, texts of like length together and cut to
    the longest of them: later positions change nothing before them. ValueError when no token is
    real.
    """
    if real.shape != tokens.shape or not real.any():
        raise ValueError(f"real is {list(real.shape)} with {int(real.sum())} tokens; tokens are "
                         f"{list(tokens.shape)}")  # fmt: skip
    ends = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)
    order = ends.argsort(descending=True)
    parts = []
    for rows in order.split(rows_at_once):
        if end := int(ends[rows[0]]):
            found = read_site(model, hook, tokens[rows, :end])[real[rows, :end]]
            parts += found.split(real[rows].sum(1).tolist())
    parts += [parts[0][:0]] * (len(order) - len(parts))  # texts of which no token is real
    return torch.cat([parts[i] for i in order.argsort().tolist()])


def direct_logits(model: Any, sae: Sae, units: Sequence[int]) -> Float[Tensor, "unit d_vocab"]:
    """What one unit of activation adds to each logit directly, past all later layers.

    `W_dec @ W_U`, mean over the vocabulary taken out. The final LayerNorm divides by the stream's
    scale, so compare tokens, not units at different sites.
    """
    written = sae.W_dec[list(known_units(sae, units))].to(model.W_U)
    if written.shape[1] != model.W_U.shape[0]:
        raise ValueError(
            f"this SAE writes {written.shape[1]} dimensions at {sae.hook!r}, the unembedding reads "
            f"{model.W_U.shape[0]}: only sites of the residual stream have direct logits"
        )
    logits = written @ model.W_U
    return logits - logits.mean(-1, keepdim=True)


def on_texts(
    acts: Float[Tensor, " token"], real: Bool[Tensor, "text pos"]
) -> Float[Tensor, "text pos"]:
    """One unit's activations on the real tokens, put back to their texts; zero elsewhere."""
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
    strength: Float[Tensor, "text pos"], real: Bool[Tensor, "text pos"], *, top: int = 4,
    quantiles: Sequence[float] = (),
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


def units_towards(model: Any, sae: Sae, token: int, count: int = 10) -> list[tuple[int, float]]:
    """Units that point at `token`: its direct logit, in standard deviations over the vocabulary.

    Standardised for each unit, so that a unit that raises one word stands above one that raises
    half of the vocabulary a little more.
    """
    logits = direct_logits(model, sae, range(sae.d_sae))
    z = logits[:, token] / logits.std(-1).clamp_min(1e-12)
    best = z.topk(min(count, sae.d_sae))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def neighbour_consistency(
    acts: Float[Tensor, " token"], x: Float[Tensor, "token d_in"], *, k: int = 8,
    examples: Bool[Tensor, " token"] | None = None,
) -> Float[Tensor, " example"]:  # fmt: skip
    """For each token where a unit fires: the share of its `k` nearest tokens where it fires, too.

    Nearest by the cosine of the centred activations `x`, so by what the model itself finds alike,
    not by the unit. `examples` asks about other tokens than those on which it fires. ValueError
    when there are none, or too few tokens for `k` neighbours.
    """
    on = acts > 0
    asked = on if examples is None else examples
    if not asked.any() or len(acts) <= k:
        raise ValueError(f"{int(asked.sum())} examples among {len(acts)} tokens: none to compare")
    centred = x - x.mean(0)
    normal = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    where = asked.nonzero()[:, 0]
    alike = normal[where] @ normal.T
    alike[torch.arange(len(where)), where] = -torch.inf
    return on[alike.topk(k).indices].float().mean(-1)


def known_units(sae: Sae, units: Sequence[int]) -> Sequence[int]:
    """`units`, or an IndexError that names the first that is none."""
    if wrong := [unit for unit in units if not 0 <= unit < sae.d_sae]:
        raise IndexError(f"there is no unit {wrong[0]}: this SAE has {sae.d_sae}")
    return units
