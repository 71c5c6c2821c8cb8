"""How an SAE is trained: one frozen record, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from mi_helpers.sae.core import ARCHITECTURES


@dataclass(frozen=True)
class Recipe:
    """One training run. Equal recipes on equal activations give equal weights on one machine.

    Activations are scaled by one constant, so that their mean squared length is `d_in`, before
    training, and the biases scaled back after it: `l1`, `l0` and `bandwidth` then mean the same at
    every site.

    - `kind` "relu": squared error + `l1` x sum of activations [Bricken et al. 2023].
    - "topk", "batchtopk": squared error with `k` units an input; dead units learn to reconstruct
      what is left over, weighted by `aux` [Gao et al. 2024].
    - "jumprelu": squared error + `l0` x number of active units, with the straight-through
      gradient of `bandwidth` for the thresholds [Rajamanoharan et al. 2024].
    - "gated": one direction of the encoder with two biases, for whether a unit is on and for how
      strong it is. Squared error + `l1` x sum of the positive part of the gate + the squared error
      of what the gate alone would reconstruct with the decoder held still [Rajamanoharan et al.
      2024, Gated].

    With `prefixes`, units of "topk" and "batchtopk" are nested: the squared error is the mean over
    what the first `prefixes` units, and all of them, reconstruct alone; so early units must do
    without later ones, a **Matryoshka** SAE [Bussmann et al. 2025]. The `k` active units are chosen
    among all, once. (The paper sums instead; the mean keeps `aux` at its weight.)

    The encoder starts as the decoder's transpose times `encoder_scale`: at 1 far too many units
    answer to each input at first, and all kinds learn more slowly.

    Several places that are read or written side by side are scaled each by its own constant. With
    `by_source`, the penalty of "relu" weighs a unit by the sum of its decoder's lengths at the
    places instead of the length of the whole row, which is 1: a crosscoder's unit then pays for
    each place it writes [Lindsey et al. 2024]. (The choice of "topk" and "batchtopk" knows the
    whole row alone.)

    Where the target is another place than what is read, `skip` adds a linear map from one to the
    other, which starts as the least-squares map [Paulo et al. 2025]. With `causal`, units belong to
    the places read in equal shares: those of the i-th read it alone and write to the i-th and later
    ones, as in a cross-layer transcoder [Ameisen et al. 2025]; `skip` is then a map of each place
    to its own target alone. With a `reach` they write to so many later ones at most: with 0 they
    are transcoders of one layer each, trained together.

    Gradients longer than `clip`, all tensors together, are cut to that length before Adam sees
    them: else its second moments remember the huge first ones, and steps stay small for long.

    Losses and gradients of a step are those of SAELens's trainers but in three points
    (`tests/test_saelens_step.py`): it sums Matryoshka's levels; there dead units may be negative
    where they explain what is left over, here their positive part counts; and what a gate alone
    reconstructs moves the decoder there.

    The penalties rise from zero over the first `warm_up` share of the steps, which keeps units of
    "relu" and "jumprelu" from dying early; the learning rate falls to zero over the last
    `cool_down` share. A unit is dead when it was silent for the last `dead_after` inputs.
    """

    kind: str = "batchtopk"
    d_sae: int = 1536
    k: int = 24
    l1: float = 0.5
    l0: float = 0.5
    bandwidth: float = 0.3
    steps: int = 1000
    batch: int = 1024
    lr: float = 1e-3
    clip: float = 1.0
    warm_up: float = 0.1
    cool_down: float = 0.3
    aux: float = 1 / 32
    dead_after: int = 100_000
    encoder_scale: float = 0.3
    by_source: bool = False
    skip: bool = False
    causal: bool = False
    prefixes: tuple[int, ...] = ()
    reach: int | None = None
    seed: int = 0
    log_every: int = 50
    mixed_precision: bool = False
    """bfloat16 products on a GPU; weights, sums and losses stay in single precision."""

    def __post_init__(self) -> None:
        """ValueError that names the field."""
        if self.kind not in ARCHITECTURES:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(ARCHITECTURES)}")
        for name in ("d_sae", "k", "steps", "batch", "dead_after", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if "topk" in self.kind and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} exceeds d_sae = {self.d_sae}")
        for name in ("l1", "l0", "aux"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "bandwidth", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.by_source and self.kind != "relu":
            raise ValueError(f'by_source is a penalty of "relu"; {self.kind!r} has none')
        object.__setattr__(self, "prefixes", tuple(self.prefixes))  # a list, from a file
        if list(self.prefixes) != sorted({n for n in self.prefixes if 0 < n < self.d_sae}):
            raise ValueError(
                f"prefixes must rise from 1 to below d_sae = {self.d_sae}, got {self.prefixes}"
            )
        if self.prefixes and "topk" not in self.kind:
            raise ValueError(f'prefixes are for "topk" and "batchtopk", not for {self.kind!r}')
        if self.reach is not None and (self.reach < 0 or not self.causal):
            raise ValueError(f"reach is for causal units, and not negative; got {self.reach}")
        if not 0 < self.encoder_scale <= 1:
            raise ValueError(f"encoder_scale must be in (0, 1], got {self.encoder_scale}")
        if not (0 <= self.warm_up < 1 and 0 <= self.cool_down <= 1):
            raise ValueError("warm_up and cool_down are shares of the steps, from 0 to 1")

    def penalty_scale(self, step: int) -> float:
        """From 0 to 1 over the warm-up."""
        return min(1.0, (step + 1) / max(1.0, self.warm_up * self.steps))

    def rate(self, step: int) -> float:
        """The learning rate of a step: a short rise, constant, then linear to zero."""
        left = (self.steps - step) / max(1.0, self.cool_down * self.steps)
        return self.lr * min(1.0, (step + 1) / min(50, self.steps), left)
