"""What a run is given: prompts, or prompts whose embeddings are disturbed; both checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.engine.runs import Change, What

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Noised:
    """Prompts with Gaussian noise, N(0, scale^2), added to the embeddings of some tokens.

    The corrupt run of ROME's causal tracing: noise on the subject with three times the standard
    deviation of the token embeddings (Meng et al. 2022, section 2.1). Repeat a prompt to average
    over several draws.

    Attributes:
        mask: The tokens that are disturbed.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    scale: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.shape != self.tokens.shape:
            raise ValueError(
                f"mask must be boolean and of the tokens' shape {list(self.tokens.shape)}, got "
                f"{self.mask.dtype} {list(self.mask.shape)}"
            )
        if not self.mask.any() or not self.scale > 0:
            raise ValueError(f"no noise: scale {self.scale}, {int(self.mask.sum())} tokens")

    def disturb(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before the first block, with the noise: the same at every call."""
        noise = torch.randn(resid.shape, generator=torch.Generator().manual_seed(self.seed))
        return resid + self.scale * (noise * self.mask.cpu()[..., None]).to(resid)


Inputs = Int[Tensor, "batch pos"] | Noised


def tokens_of(inputs: Inputs) -> Int[Tensor, "batch pos"]:
    """The token ids of prompts, disturbed or not."""
    return inputs.tokens if isinstance(inputs, Noised) else torch.as_tensor(inputs)


def change_of(inputs: Inputs) -> Change | None:
    """What happens to the embeddings; None for plain prompts."""
    return inputs.disturb if isinstance(inputs, Noised) else None


def checked_inputs(model: TransformerBridge, base: Inputs, what: What | None = None) -> Inputs:
    """The inputs on the model's device, checked, together with those of another run, if any.

    Raises:
        ValueError: token ids that are no batch of this vocabulary; another run whose prompts are
            not aligned with these, or are these.
    """
    tokens = checked_tokens(model, tokens_of(base), "base")
    source = getattr(what, "paired_tokens", None)
    if source is not None:
        source = checked_tokens(model, source, "source")
        if tokens.shape != source.shape:
            raise ValueError(
                f"the two runs must have as many prompts of the same token length, got "
                f"{list(tokens.shape)} and {list(source.shape)}: align the pair token by token"
            )
        if not isinstance(base, Noised) and torch.equal(tokens, source):
            raise ValueError(
                "the two runs have the same tokens: no patch can change anything and recovery is "
                "0/0; give a corrupt prompt that differs"
            )
    return replace(base, tokens=tokens) if isinstance(base, Noised) else tokens


def checked_tokens(
    model: TransformerBridge, tokens: Tensor, name: str = "tokens"
) -> Int[Tensor, "batch pos"]:
    """`tokens` on the model's device; ValueError unless they are a batch of this vocabulary."""
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 2 or tokens.numel() == 0 or tokens.is_floating_point():
        raise ValueError(
            f"{name} must be integer token ids of shape [batch pos], not empty; got {tokens.dtype} "
            f"of shape {list(tokens.shape)}: a single prompt is tokens[None]"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= model.cfg.d_vocab:
        bad = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)][0]
        raise ValueError(f"{name}: id {int(bad)} is not in the vocabulary of {model.cfg.d_vocab}")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ValueError(
            f"{name} has {tokens.shape[1]} positions, the model reads {model.cfg.n_ctx}"
        )
    return tokens.to(model.cfg.device)
