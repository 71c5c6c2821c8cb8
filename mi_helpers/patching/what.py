"""What is put in place of an activation: another run's, zero, a mean, a resampled one, noise.

Each strategy is a small dataclass that, given the base run and a way to run other prompts, returns
the replacement values: a function of (site, layer) to [batch pos ...] in the layout of the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.patching.runs import Run
from mi_helpers.patching.sites import site_of

Values = Callable[[str, int], Float[Tensor, "batch pos ..."]]
RunPrompts = Callable[[Int[Tensor, "batch pos"]], Run]


class What(Protocol):
    """A strategy for replacement values."""

    def values(self, base: Run, run: RunPrompts) -> Values:
        """The values for `base`; ValueError when the strategy does not fit its prompts."""
        ...


@dataclass(frozen=True, eq=False)
class OtherRun:
    """The activations of another run, prompt by prompt and position by position.

    With the clean prompts as base and the corrupt ones here it is noising (what is necessary);
    the other way round it is denoising (what is sufficient).
    """

    tokens: Int[Tensor, "batch pos"]

    @property
    def paired_tokens(self) -> Int[Tensor, "batch pos"]:
        """Prompts that must be aligned with the base's, and differ from them."""
        return self.tokens

    def values(self, base: Run, run: RunPrompts) -> Values:
        """The other run's activations."""
        _same_shape(base, self.tokens, "the other run", rows=True)
        return run(self.tokens).get


@dataclass(frozen=True)
class Zero:
    """Zero. Off-distribution, and dependent on how the weights were processed; see `Mean`."""

    def values(self, base: Run, run: RunPrompts) -> Values:
        """Zeros."""
        return lambda site, layer: torch.zeros_like(base.get(site, layer))


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over reference prompts, at each position, or over the positions too.

    Attributes:
        tokens: The reference prompts.
        per_position: One mean for each position (the prompts must be aligned with the base's),
            as the IOI paper does over prompts of one template; otherwise one for all of them,
            from prompts of any length. A pattern always has its own mean at each position.
    """

    tokens: Int[Tensor, "reference pos"]
    per_position: bool = True

    def values(self, base: Run, run: RunPrompts) -> Values:
        """The mean activations, repeated for each prompt."""
        _same_shape(base, self.tokens, "the reference set", rows=False, cols=self.per_position)
        reference = run(self.tokens)

        def mean(site: str, layer: int) -> Tensor:
            axes = (0,) if self.per_position or site == "pattern" else (0, 1)
            act = reference.get(site, layer).mean(dim=axes, keepdim=True)
            return act.expand_as(base.get(site, layer))

        return mean


@dataclass(frozen=True, eq=False)
class Resample:
    """The activations of one reference prompt for each base prompt, drawn with replacement."""

    tokens: Int[Tensor, "reference pos"]
    seed: int = 0

    def values(self, base: Run, run: RunPrompts) -> Values:
        """The drawn prompts' activations."""
        _same_shape(base, self.tokens, "the reference set", rows=False)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(len(self.tokens), (len(base.tokens),), generator=generator)
        return run(self.tokens[drawn.to(self.tokens.device)]).get


@dataclass(frozen=True)
class Noise:
    """The base run's own activation plus Gaussian noise, N(0, scale^2), drawn once.

    ROME's causal tracing corrupts a subject with `scale` three times the standard deviation of the
    token embeddings (Meng et al. 2022, section 2.1).
    """

    scale: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"the noise must have a positive scale, got {self.scale}")

    def values(self, base: Run, run: RunPrompts) -> Values:
        """The noised activations: the same for a site and layer whenever they are asked for."""

        def noised(site: str, layer: int) -> Tensor:
            act = base.get(site, layer)
            stage = site_of(site).stage
            generator = torch.Generator().manual_seed((self.seed * 1000 + layer) * 10 + stage)
            noise = torch.randn(act.shape, generator=generator)
            return act + self.scale * noise.to(act)

        return noised


def _same_shape(base: Run, tokens: Tensor, name: str, *, rows: bool, cols: bool = True) -> None:
    """ValueError unless prompts can stand in for the base run's, position by position."""
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 2 or len(tokens) == 0:
        raise ValueError(f"{name} must be token ids [prompt pos], got {list(tokens.shape)}")
    if (cols and tokens.shape[1] != base.tokens.shape[1]) or (
        rows and len(tokens) != len(base.tokens)
    ):
        raise ValueError(
            f"{name} has shape {list(tokens.shape)}, the prompts {list(base.tokens.shape)}: "
            "align them token by token"
        )
