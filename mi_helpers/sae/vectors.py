"""A stream of vectors that are at hand, of no model: a toy's, or what another program stored."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.sae.activations import Activations


class Vectors(Activations):
    """Shuffled batches of `values`, for `start` and `train`, as `Activations` are of a model.

    An SAE that is trained on it names no site and no model: `splice` refuses it until it is told.
    """

    def __init__(self, values: Float[Tensor, "token d_in"], *, seed: int = 0) -> None:
        """ValueError for values of another shape, for less than two, for NaN and infinity."""
        if values.ndim != 2 or len(values) < 2 or not values.is_floating_point():
            raise ValueError(
                f"values must be floats [token, d_in] with two rows or more, got {values.dtype} "
                f"{list(values.shape)}"
            )
        if not torch.isfinite(values).all():
            raise ValueError("values hold NaN or infinity: nothing can be learned from them")
        self.hook, self.model_id, self.notes = "", "", {}
        self.tokens = torch.arange(len(values))[:, None]  # a row for each vector
        self.keep = torch.ones_like(self.tokens, dtype=torch.bool)
        self.seed, self.rows_a_chunk = seed, len(values)
        self._values, self._order = (0, values.detach()), None

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.chunk(0).device

    @property
    def identity(self) -> str:
        """A digest of the vectors: resuming on others is refused."""
        content = self.chunk(0).cpu().float().contiguous().numpy().tobytes()
        return f"vectors|{self.seed}|{hashlib.sha256(content).hexdigest()[:16]}"
