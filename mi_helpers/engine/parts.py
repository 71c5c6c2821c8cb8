"""What architectures do differently: how they normalise, and how they tell positions apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, or an RMSNorm, which does not centre.

    Attributes:
        weight: None where folding has made it 1.
        bias: None where it is 0 or there is none.
        eps: Added to the mean square.
        centred: False for RMSNorm.
    """

    weight: Float[Tensor, "d_model"] | None
    bias: Float[Tensor, "d_model"] | None
    eps: float
    centred: bool

    @classmethod
    def of(cls, ln: Any, cfg: Any) -> Norm:
        """The norm of a bridge's module."""
        weight, bias = ln.weight.detach(), getattr(ln, "bias", None)
        weight = weight + 1 if getattr(cfg, "rmsnorm_uses_offset", False) else weight
        return cls(
            None if (weight == 1).all() else weight,
            None if bias is None or (bias == 0).all() else bias.detach(),
            float(cfg.eps),
            centred="RMS" not in str(cfg.normalization_type),
        )

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Normalise the last axis."""
        if self.centred:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)

    def divided(
        self, x: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... d_model"], Float[Tensor, "... 1"]]:
        """What is divided, x less its mean if that is taken off, and by what."""
        x = x - x.mean(dim=-1, keepdim=True) if self.centred else x
        return x, (x.pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()

    def vjp(
        self,
        x: Float[Tensor, "batch pos d_model"],
        grad: Float[Tensor, "batch pos reader d_model"],
    ) -> Float[Tensor, "batch pos reader d_model"]:
        """Gradients after the norm taken back to its input."""
        grad = grad if self.weight is None else grad * self.weight
        x, scale = self.divided(x)
        normed, scale = (x / scale)[:, :, None], scale[:, :, None]
        along = (grad * normed).mean(dim=-1, keepdim=True)
        centre = grad.mean(dim=-1, keepdim=True) if self.centred else 0.0
        return (grad - centre - normed * along) / scale


class Embedded:
    """Positions as GPT-2 has them: embeddings added to those of the tokens."""

    def __init__(self, W_pos: Float[Tensor, "n_ctx d_model"]) -> None:
        self.W_pos = W_pos

    def added(self, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """The stream with its positions."""
        return resid + self.W_pos[: resid.shape[1]]

    def rotated(self, heads: Tensor, n_key: int) -> Tensor:
        """Queries or keys as they are."""
        return heads


class Rotary:
    """Rotary positions: queries and keys are turned by angles that grow with the position.

    The first `2n` of a head's dimensions are `n` pairs, (i, i + n), each of which turns at a speed
    of its own; the product of a query and a key then depends on their distance. Source: Su et al.
    2021, RoFormer, section 3.
    """

    def __init__(self, rotary: Any) -> None:
        self.rotary = rotary
        self._turns: dict[int, tuple[Tensor, Tensor]] = {}

    def added(self, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """The stream as it is."""
        return resid

    def rotated(
        self, heads: Float[Tensor, "*lead pos head d_head"], n_key: int
    ) -> Float[Tensor, "*lead pos head d_head"]:
        """Queries or keys of the last of `n_key` positions, turned."""
        if n_key not in self._turns:
            at = torch.arange(n_key, device=heads.device)[None]
            self._turns[n_key] = tuple(x[0, :, None] for x in self.rotary(heads, at))
        cos, sin = (x[-heads.shape[-3] :] for x in self._turns[n_key])
        turning, rest = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        first, second = turning.chunk(2, dim=-1)
        turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def positions_of(model: TransformerBridge) -> Embedded | Rotary:
    """How the model tells positions apart."""
    if model.cfg.positional_embedding_type == "rotary":
        return Rotary(model.rotary_emb.original_component)
    return Embedded(model.W_pos)
