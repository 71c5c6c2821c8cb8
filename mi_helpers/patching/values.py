"""What is put in place of an activation: another run's, zero, a mean, a resampled one.

Each strategy is a small dataclass that, given the base run and a way to run other prompts, returns
the replacement values: a function of (site, layer) to [batch pos ...] in the layout of the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mi_helpers.engine import Run, Values, What

RunPrompts = Callable[[Int[Tensor, "batch pos"]], Run]


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


def require_other_run(what: What) -> OtherRun:
    """`what`; ValueError unless its values are another run's, as estimates by gradients need."""
    if isinstance(what, OtherRun):
        return what
    raise ValueError(
        f"gradients estimate what another run's activations would do, OtherRun(tokens), not "
        f"{type(what).__name__}: measure that one with patch_sweep or ablate"
    )


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
