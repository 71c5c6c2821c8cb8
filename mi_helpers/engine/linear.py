"""Matrix products with a fixed weight: packed once for the processor when the build of torch can.

oneDNN's packed weights are what `torch.compile` uses on a CPU. They change the speed and the order
of the additions, not the precision; without them, or with gradients, this is `F.linear`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Gelu = Literal["tanh", "none"]


class FixedLinear:
    """y = x @ weight.T + bias, and optionally GELU of that, for a frozen weight."""

    def __init__(
        self,
        weight: Float[Tensor, "d_out d_in"],
        bias: Float[Tensor, "d_out"] | None,
        *,
        gelu: Gelu | None = None,
    ) -> None:
        """Pack nothing yet: that is done at the first product without gradients.

        Args:
            weight: Rows are outputs.
            bias: None for none.
            gelu: Which form of GELU follows, "tanh" or exact ("none", as torch calls it), if any.
        """
        self.weight, self.bias, self.gelu = weight.detach(), bias, gelu
        self._packed: Tensor | None = None
        self._packs = _can_pack(self.weight)

    def __call__(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Apply to the last axis."""
        if x.numel() == 0 or not self._packs or torch.is_grad_enabled():
            y = F.linear(x, self.weight, self.bias)
            return F.gelu(y, approximate=self.gelu) if self.gelu else y
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), 512)
        after: tuple[str, list, str] = ("gelu", [], self.gelu) if self.gelu else ("none", [], "")
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch.ops.mkldnn._linear_pointwise(flat, self._packed, self.bias, *after)
        return y.view(*x.shape[:-1], -1)


def _can_pack(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
