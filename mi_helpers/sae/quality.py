"""How faithful a dictionary is to the activations, and how much of it comes back elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.sae.core import Sae


@dataclass(frozen=True)
class Fidelity:
    """What a sample of activations says about an SAE.

    Attributes:
        l0: Active units on a token, mean.
        explained_variance: 1 - squared error / squared distance from the mean activation.
        norm_ratio: Length of the reconstruction over length of the input, mean. It is below 1 for
            whatever leaves something out.
        rescale: The one factor for all activations that makes the squared error smallest. Above 1
            is shrinkage: the units that are found are too weak.
        dead: Share of units that never fire on the sample.
        dense: Share of units that fire on more than a tenth of the tokens.
        frequency: Share of tokens that each unit fires on.
    """

    l0: float
    explained_variance: float
    norm_ratio: float
    rescale: float
    dead: float
    dense: float
    frequency: Float[Tensor, " d_sae"]


@torch.no_grad()
def fidelity(
    sae: Sae,
    acts: Float[Tensor, "token d_in"],
    targets: Float[Tensor, "token d_out"] | None = None,
    *,
    batch: int = 4096,
) -> Fidelity:
    """Reconstruction and sparsity of `sae` on activations of its site.

    A transcoder is judged by `targets`, what stood where it writes on the same tokens; the "input"
    of lengths and errors is then the target.

    Raises:
        ValueError: activations of another shape, or all equal, so that nothing is to be explained.
    """
    if acts.ndim != 2 or len(acts) < 2:
        raise ValueError(f"acts must be [token, d_in] with two tokens or more, {list(acts.shape)}")
    if (targets is None) != (not sae.target) or (targets is not None and len(targets) != len(acts)):
        raise ValueError(
            f"this dictionary is a {sae.family}: targets, one for each of {len(acts)} activations, "
            f"are {'needed' if sae.target else 'not used'}"
        )
    targets = acts if targets is None else targets
    fired = torch.zeros(sae.d_sae, dtype=torch.double, device=acts.device)
    wrong, ratio, along, size = 0.0, 0.0, 0.0, 0.0
    for x, y in zip(acts.split(batch), targets.split(batch), strict=True):
        fired += (sae.encode(x) > 0).sum(0)
        guess, nothing = sae(x), sae.without_units(x)
        along += float(((y - nothing) * (guess - nothing)).sum())
        size += float((guess - nothing).square().sum())
        wrong += float((y - guess).square().sum())
        ratio += float((guess.norm(dim=-1) / y.norm(dim=-1).clamp_min(1e-12)).sum())
    spread = float((targets - targets.mean(0)).square().sum())
    if not spread > 0:
        raise ValueError("all activations are equal: no variance to explain")
    share = (fired / len(acts)).float()
    return Fidelity(
        l0=float(fired.sum()) / len(acts),
        explained_variance=1 - wrong / spread,
        norm_ratio=ratio / len(acts),
        rescale=along / size if size > 0 else float("nan"),
        dead=float((fired == 0).float().mean()),
        dense=float((share > 0.1).float().mean()),
        frequency=share,
    )


def matched_cosine(
    one: Float[Tensor, "unit d_in"], other: Float[Tensor, "unit2 d_in"]
) -> Float[Tensor, " unit"]:
    """For each direction of `one`, the cosine with the nearest direction of `other`.

    Raises:
        ValueError: directions of different width.
    """
    if one.shape[-1] != other.shape[-1]:
        raise ValueError(f"directions have {one.shape[-1]} and {other.shape[-1]} dimensions")
    normal = [w / w.norm(dim=-1, keepdim=True).clamp_min(1e-12) for w in (one, other)]
    return (normal[0] @ normal[1].T).max(-1).values
