"""How good scores of nodes or edges are: against the truth, and by the circuits they give.

Where the true circuit is known, scores are ranked and compared with it: the area under the ROC
curve and the average precision. Where it is not, circuits of growing size are judged by their
faithfulness: the two areas of MIB (Mueller et al. 2025, "MIB: a mechanistic interpretability
benchmark", section 3), CPR and CMD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all edges that MIB keeps."""


def auroc(scores: Float[Tensor, "item"], true: Bool[Tensor, "item"]) -> float:
    """The chance that a true item scores higher than another; equal scores count one half.

    0.5 is chance, 1 is perfect, whatever the share of true items.

    Raises:
        ValueError: no true item or no other one, scores that are no numbers, unequal lengths.
    """
    scores, true = _checked(scores, true)
    more = (scores[true][:, None] > scores[~true]).double()
    equal = (scores[true][:, None] == scores[~true]).double()
    return float((more + equal / 2).mean())


def average_precision(scores: Float[Tensor, "item"], true: Bool[Tensor, "item"]) -> float:
    """The mean, over true items, of the precision among all that score at least as high.

    Chance is the share of true items, 1 is perfect.

    Raises:
        ValueError: as `auroc`.
    """
    scores, true = _checked(scores, true)
    as_high = scores >= scores[true][:, None]
    return float(((as_high & true).sum(1) / as_high.sum(1)).double().mean())


def cpr_cmd(faithfulness: Sequence[float], shares: Sequence[float] = SHARES) -> tuple[float, float]:
    """MIB's areas under the normalised faithfulness f over the share of edges kept.

    CPR, the integrated circuit performance ratio, is the area under f: larger is better, and a
    circuit may exceed one. CMD, the integrated circuit-model distance, is the area under |1 - f|:
    0 is perfect. Both by the trapezoid rule between the shares, as in MIB's code.

    Args:
        faithfulness: Of the circuit at each share, 0 with everything ablated and 1 the model.
        shares: Shares of the edges, rising.

    Returns:
        (CPR, CMD).

    Raises:
        ValueError: as many numbers as shares are needed, at least two, and rising shares.
    """
    f = torch.as_tensor(faithfulness, dtype=torch.float64)
    x = torch.as_tensor(shares, dtype=torch.float64)
    if f.shape != x.shape or len(x) < 2 or not (x[1:] > x[:-1]).all():
        raise ValueError(f"need one faithfulness for each of some rising shares: {f}, {x}")
    return float(torch.trapezoid(f, x)), float(torch.trapezoid((1 - f).abs(), x))


def _checked(scores: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    scores, true = torch.as_tensor(scores).double(), torch.as_tensor(true)
    if scores.shape != true.shape or scores.ndim != 1 or true.dtype != torch.bool:
        raise ValueError(
            f"need scores [item] and true [item] of booleans, got {list(scores.shape)} and "
            f"{true.dtype} {list(true.shape)}"
        )
    if torch.isnan(scores).any():
        raise ValueError(f"score {int(torch.isnan(scores).nonzero()[0])} is no number")
    if true.all() or not true.any():
        raise ValueError(f"{int(true.sum())} of {len(true)} items are true: nothing to rank")
    return scores, true
