"""What a patched run is judged by.

A metric maps logits [batch pos d_vocab] to one number for each example, [batch]. It is given the
logits of the positions it names in an attribute `positions` (None: all of them), and without that
attribute those of the last position only, as [batch 1 d_vocab]; so a function that reads
``logits[:, -1]`` works as it is. The unembedding is computed nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, "batch"]]


@runtime_checkable
class LinearMetric(Protocol):
    """A metric linear in the logits of one position: it needs no unembedding, only a direction."""

    def direction(
        self, W_U: Float[Tensor, "d_model d_vocab"], b_U: Float[Tensor, "d_vocab"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch"]]:
        """Direction and offset: metric = normalised residual . direction + offset."""
        ...


@dataclass(frozen=True, eq=False)
class LogitDiff:
    """logit(right) - logit(wrong) at the last position, in logits; positive favours the right.

    Attributes:
        answer_tokens: The right and the wrong token of each example.
    """

    answer_tokens: Int[Tensor, "batch 2"]

    def __post_init__(self) -> None:
        shape = list(self.answer_tokens.shape)
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"answer_tokens must be [batch 2] = (right, wrong), got {shape}")
        same = self.answer_tokens[:, 0] == self.answer_tokens[:, 1]
        if same.any():
            row = int(same.nonzero()[0])
            raise ValueError(f"answer_tokens[{row}]: the right and the wrong answer are the same")

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch"]:
        """The difference for each example."""
        right, wrong = logits[:, -1].gather(1, self.answer_tokens.to(logits.device)).unbind(1)
        return right - wrong

    def direction(self, W_U: Tensor, b_U: Tensor) -> tuple[Tensor, Tensor]:
        """W_U[:, right] - W_U[:, wrong] for each example, and the same of b_U."""
        right, wrong = self.answer_tokens.to(W_U.device).unbind(1)
        return (W_U[:, right] - W_U[:, wrong]).T, b_U[right] - b_U[wrong]


def positions_of(metric: Metric, n_pos: int) -> slice:
    """The stretch of positions whose logits `metric` is given, as a slice to the end."""
    positions = getattr(metric, "positions", (-1,))
    if positions is None:
        return slice(0, n_pos)
    for position in positions:
        if not -n_pos <= position < n_pos:
            raise ValueError(f"the metric reads position {position}, the prompts have {n_pos}")
    return slice(min(position % n_pos for position in positions), n_pos)


def evaluate(metric: Metric, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch"]:
    """The metric, checked; ValueError when it is not one finite number for each example."""
    batch = logits.shape[0]
    values = metric(logits)
    if not isinstance(values, Tensor) or tuple(values.shape) != (batch,):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the metric must return one number for each example, shape [{batch}], got {got}: "
            "do not average over the batch"
        )
    if not torch.isfinite(values).all():
        raise ValueError(f"the metric is not finite: {values.tolist()}")
    return values.float()


def named(metric: Metric | Mapping[str, Metric]) -> dict[str, Metric]:
    """One or many metrics, by name."""
    metrics: dict[str, Any] = dict(metric) if isinstance(metric, Mapping) else {"metric": metric}
    for name, one in metrics.items():
        if not callable(one):
            raise ValueError(f"metric {name!r} must be a function of the logits, got {one!r}")
    if not metrics:
        raise ValueError("no metric was given")
    return metrics
