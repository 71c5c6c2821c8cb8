"""Measure what a model predicts: one number a prompt, so that means and intervals stay yours.

Logits may cover every position, `[batch pos d_vocab]`, and then `position` says which is read (the
last unless told; one for all prompts or one each), or a single one, `[batch d_vocab]`. Logarithms
are natural: log-probabilities, losses and KL are in nats, and so are differences of logits.

A `Metric` is what a patched run is judged by: logits [batch pos d_vocab] to one number for each
example. It is given the logits of the positions it names in an attribute `positions` (None: all of
them), and without that attribute those of the last position only, as [batch 1 d_vocab]; so a
function that reads `logits[:, -1]` works as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "batch d_vocab"]
Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, "batch"]]


def logit_diff(
    logits: Logits,
    answer_tokens: Int[Tensor, "batch 2"],
    *,
    position: int | Int[Tensor, " batch"] = -1,
) -> Float[Tensor, " batch"]:
    """Logit of the right answer minus logit of the wrong one; positive when the model is right.

    Equal to log(p_right / p_wrong): a constant added to all logits cancels, and the difference is
    linear in the final residual stream once its LayerNorm scale is held fixed.
    Source: Wang et al. 2022, Interpretability in the Wild, section 3.

    Raises:
        ValueError: shapes that do not fit, an answer outside the vocabulary, a position outside
            the prompt, or NaN in the logits.
    """
    at = _at_position(logits, position)
    _check_answers(answer_tokens, at, columns=2)
    right, wrong = at.gather(-1, answer_tokens.to(at.device)).unbind(-1)
    return right - wrong


def log_prob(
    logits: Logits, tokens: Int[Tensor, " batch"], *, position: int | Int[Tensor, " batch"] = -1
) -> Float[Tensor, " batch"]:
    """Log-probability of one token a prompt, in nats; at most 0. Errors as in `logit_diff`."""
    at = _at_position(logits, position)
    _check_answers(tokens, at)
    return at.log_softmax(-1).gather(-1, tokens.to(at.device)[:, None])[:, 0]


def prob(
    logits: Logits, tokens: Int[Tensor, " batch"], *, position: int | Int[Tensor, " batch"] = -1
) -> Float[Tensor, " batch"]:
    """Probability of one token a prompt, from 0 to 1. Errors as in `logit_diff`."""
    return log_prob(logits, tokens, position=position).exp()


def rank(
    logits: Logits, tokens: Int[Tensor, " batch"], *, position: int | Int[Tensor, " batch"] = -1
) -> Int[Tensor, " batch"]:
    """How many tokens have a higher logit: 0 is the top prediction. Errors as in `logit_diff`."""
    at = _at_position(logits, position)
    _check_answers(tokens, at)
    own = at.gather(-1, tokens.to(at.device)[:, None])
    return (at > own).sum(-1)


def loss(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Next-token cross-entropy at every position, in nats: entry i judges tokens[:, i + 1]."""
    if logits.ndim != 3 or tuple(tokens.shape) != tuple(logits.shape[:2]):
        raise ValueError(
            f"loss needs logits [batch pos d_vocab] and tokens [batch pos], "
            f"not {tuple(logits.shape)} and {tuple(tokens.shape)}"
        )
    if tokens.shape[1] < 2:
        raise ValueError("loss needs at least two tokens: the first one predicts the second")
    _check_answers(tokens, logits)
    _check_nan(logits)
    log_probs = logits[:, :-1].log_softmax(-1)
    return -log_probs.gather(-1, tokens[:, 1:, None].to(logits.device))[..., 0]


def kl(
    logits: Logits, reference: Logits, *, position: int | Int[Tensor, " batch"] = -1
) -> Float[Tensor, " batch"]:
    """KL(reference || logits) in nats: how far a run moved from the reference run; 0 when equal.

    The reference distribution weighs the difference of log-probabilities, so it is never negative
    and not symmetric. Errors as in `logit_diff`.
    """
    ours, theirs = _at_position(logits, position), _at_position(reference, position)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the runs differ in shape: {tuple(logits.shape)} and {tuple(reference.shape)}"
        )
    log_q, log_p = ours.log_softmax(-1), theirs.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def accuracy(
    logits: Logits,
    answer_tokens: Int[Tensor, "batch answer"],
    *,
    position: int | Int[Tensor, " batch"] = -1,
) -> Float[Tensor, ""]:
    """Share of prompts whose right answer (column 0) beats every wrong one; a tie is not a win.

    Chance is 1 / number of columns. Errors as in `logit_diff`.
    """
    at = _at_position(logits, position)
    if answer_tokens.ndim != 2 or answer_tokens.shape[1] < 2:
        raise ValueError(
            f"answer_tokens must be [batch answer] with the right answer and at least one wrong "
            f"one, not {tuple(answer_tokens.shape)}"
        )
    _check_answers(answer_tokens, at, columns=answer_tokens.shape[1])
    values = at.gather(-1, answer_tokens.to(at.device))
    return (values[:, :1] > values[:, 1:]).all(-1).to(at.dtype).mean()


def recovery(
    value: Float[Tensor, "*any"] | float,
    clean: Float[Tensor, "*any"] | float,
    corrupt: Float[Tensor, "*any"] | float,
) -> Float[Tensor, "*any"]:
    """(value - corrupt) / (clean - corrupt): 0 is the corrupt run, 1 the clean run.

    Below 0 an intervention made things worse than corrupt; above 1 it overshot. Average a metric
    over prompts first, then normalise: a ratio for each prompt explodes where the runs agree.
    Source: Heimersheim and Nanda 2024, How to use and interpret activation patching, section 4.

    Raises:
        ValueError: the clean and the corrupt run agree, so that the scale is undefined; or NaN.
    """
    value, clean, corrupt = (torch.as_tensor(v).float() for v in (value, clean, corrupt))
    for name, tensor in (("value", value), ("clean", clean), ("corrupt", corrupt)):
        if torch.isnan(tensor).any():
            raise ValueError(f"{name} contains NaN")
    return (value - corrupt) / require_gap(clean, corrupt)


def require_gap(
    clean: Float[Tensor, "*any"] | float, corrupt: Float[Tensor, "*any"] | float
) -> Float[Tensor, "*any"]:
    """clean - corrupt; ValueError where that is zero up to rounding, since recovery divides by it.

    Zero is what rounding can make of it: a millionth of the metric's own size, which for a
    probability may be small.
    """
    clean, corrupt = torch.as_tensor(clean).float(), torch.as_tensor(corrupt).float()
    span = clean - corrupt
    if (span.abs() <= 1e-6 * torch.maximum(clean.abs(), corrupt.abs())).any():
        raise ValueError(
            f"the clean and the corrupt run agree (clean {_brief(clean)}, corrupt "
            f"{_brief(corrupt)}), so recovery is undefined: choose a corruption or a metric that "
            "tells them apart"
        )
    return span


def bootstrap_interval(
    values: Float[Tensor, " sample"],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, from `n_resamples` seeded resamples.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Raises:
        ValueError: fewer than two values, NaN among them, or a confidence outside (0, 1).
    """
    values = torch.as_tensor(values).detach().double().cpu()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"need a list of at least two values, not shape {tuple(values.shape)}")
    if torch.isnan(values).any():
        raise ValueError(f"values contain NaN at index {int(values.isnan().nonzero()[0])}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    tail = (1 - confidence) / 2
    low, high = values[picks].mean(-1).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return low, high


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


@dataclass(frozen=True, eq=False)
class ProbDiff:
    """Probability of some tokens minus that of others at the last position, from -1 to 1.

    Many answers may be right: all years later than the first. Probabilities are over the whole
    vocabulary, so what the model gives to other tokens counts neither way.
    Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?", section 2.

    Attributes:
        tokens: The answers that count.
        signs: For each example 1 where an answer is right, -1 where wrong, 0 where neither.
    """

    tokens: Int[Tensor, "answer"]
    signs: Float[Tensor, "batch answer"]

    def __post_init__(self) -> None:
        if self.signs.ndim != 2 or self.tokens.shape != self.signs.shape[1:]:
            raise ValueError(
                f"signs must be [batch answer] with one column for each of the tokens "
                f"{list(self.tokens.shape)}, got {list(self.signs.shape)}"
            )
        if not self.signs.any(dim=1).all():
            row = int((~self.signs.any(dim=1)).nonzero()[0])
            raise ValueError(f"example {row} has neither right nor wrong answers: all signs are 0")

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch"]:
        """The difference for each example."""
        probs = logits[:, -1].softmax(-1)[:, self.tokens.to(logits.device)]
        return (probs * self.signs.to(probs)).sum(-1)


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


def _at_position(
    logits: Logits, position: int | Int[Tensor, " batch"]
) -> Float[Tensor, "batch d_vocab"]:
    """The logits that are judged, after checking that they exist and are numbers."""
    if logits.ndim not in (2, 3) or logits.shape[0] == 0:
        raise ValueError(
            f"logits must be [batch pos d_vocab] or [batch d_vocab] with at least one prompt, "
            f"not {tuple(logits.shape)}"
        )
    if logits.ndim == 3:
        batch, n_pos = logits.shape[:2]
        index = torch.as_tensor(position, device=logits.device)
        if index.ndim > 1 or (index.ndim == 1 and len(index) != batch):
            raise ValueError(
                f"position must be one number or one for each of {batch} prompts, "
                f"not shape {tuple(index.shape)}"
            )
        if (index >= n_pos).any() or (index < -n_pos).any():
            raise ValueError(f"position {_brief(index)} is outside prompts of {n_pos} tokens")
        logits = logits[torch.arange(batch, device=logits.device), index]
    _check_nan(logits)
    return logits


def _check_nan(logits: Tensor) -> None:
    if torch.isnan(logits).any():
        prompt = int(torch.isnan(logits).flatten(1).any(-1).nonzero()[0])
        raise ValueError(f"the logits of prompt {prompt} contain NaN: look at what made them")


def _check_answers(tokens: Tensor, logits: Tensor, columns: int | None = None) -> None:
    """Answers must be whole numbers inside the vocabulary, one row a prompt."""
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"answers must be token ids (integers), not {tokens.dtype}")
    if logits.ndim == 2:
        wanted = (logits.shape[0],) if columns is None else (logits.shape[0], columns)
        if tuple(tokens.shape) != wanted:
            raise ValueError(f"answers must have shape {wanted}, not {tuple(tokens.shape)}")
    outside = (tokens < 0) | (tokens >= logits.shape[-1])
    if outside.any():
        raise ValueError(
            f"token {int(tokens[outside][0])} is outside the vocabulary of {logits.shape[-1]}"
        )


def _brief(tensor: Tensor) -> str:
    return f"{tensor.item():g}" if tensor.numel() == 1 else f"of shape {tuple(tensor.shape)}"
