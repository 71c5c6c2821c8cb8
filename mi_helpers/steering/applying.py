"""Steering a run: add a vector, take a direction out, hold a feature. All are `intervene`s."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.interventions import Edit, Firings, Positions, intervene, write_hooks
from mi_helpers.sites import Place
from mi_helpers.steering.vectors import SteeringVector, require_vector

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Stream = Float[Tensor, "batch pos d_model"]


@contextmanager
def add(
    model: TransformerBridge,
    vector: SteeringVector,
    strength: float = 1.0,
    *,
    positions: Positions = None,
) -> Iterator[Firings]:
    """Add `strength` times a steering vector to the stream.

    Args:
        model: The model that the vector was made on.
        vector: What to add. With one vector for each position, those go to positions 1, 2, … of the
            prompt (after BOS), and `positions` must be left alone.
        strength: In lengths of the vector; negative steers away.
        positions: None for all, generated tokens too; a slice counted from the start of each text,
            generated tokens continuing the count (`slice(5, None)`: from the sixth token on); a
            list, in which negative numbers count from the end of each prompt; or a boolean mask of
            the prompts' tokens.

    Raises:
        ValueError: A vector for another model or place, a strength that is not finite or so large
            that the stream overflows, positions that are none of the prompt's.
        NothingHappened: On leaving, when nothing was run, or never at these positions.
    """
    vector.check_fits(model)
    if not torch.isfinite(torch.tensor(float(strength))):
        raise ValueError(f"strength must be a finite number, got {strength}")
    delta = (vector.vector * strength).to(model.cfg.device)
    if not torch.isfinite(delta * delta * model.cfg.d_model).all():
        raise ValueError(f"strength {strength} overflows: the vector's norm is {vector.norm:.3g}")
    if delta.ndim == 2:
        if positions is not None:
            raise ValueError("this vector brings its own positions: leave positions out")
        positions = slice(1, 1 + len(delta))
    with intervene(model, {vector.place: _adder(delta)}, positions=positions) as fired:
        yield fired


def _adder(delta: Tensor) -> Edit:
    if delta.ndim == 1:
        return lambda acts, where: acts + delta
    return lambda acts, where: acts + delta[(where - 1).clamp(0, len(delta) - 1)]


@contextmanager
def project_out(
    model: TransformerBridge,
    directions: Float[Tensor, "*k d_model"],
    *,
    places: Sequence[Place | str] | None = None,
    positions: Positions = None,
) -> Iterator[Firings]:
    """Remove a direction, or the span of several, from the stream: directional ablation.

    Args:
        model: Any model of this width.
        directions: [d_model] or [k d_model], of any length, not necessarily orthogonal.
        places: Where; by default everywhere that something is written to the stream, so that it
            never has a component along them. `[("resid_post", 3)]` names a single one.
        positions: As in `add`.

    Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.4.

    Raises:
        ValueError: Directions that are not independent or of another width, or positions as in
            `add`.
        NothingHappened: As `add`.
    """
    basis = orthonormal(directions).to(model.cfg.device)
    if basis.shape[1] != model.cfg.d_model:
        raise ValueError(f"directions of {basis.shape[1]} dimensions, d_model {model.cfg.d_model}")

    def remove(acts: Stream, where: Tensor) -> Stream:
        return acts - (acts @ basis.T) @ basis

    chosen = write_hooks(model) if places is None else list(places)
    with intervene(model, {place: remove for place in chosen}, positions=positions) as fired:
        yield fired


@contextmanager
def clamp(
    model: TransformerBridge,
    place: Place,
    encode: Callable[[Stream], Float[Tensor, "batch pos"]],
    decoder: Float[Tensor, " d_model"],
    value: float,
    *,
    positions: Positions = None,
) -> Iterator[Firings]:
    """Hold a feature at `value` whatever the text: add (value - its activation) * decoder row.

    Args:
        model: The model.
        place: Where the feature is read and written, such as `("resid_post", 3)`.
        encode: Gives the feature's activation from the stream, such as an SAE's encoder for one
            feature, or `lambda acts: acts @ unit` for a direction.
        decoder: The feature's decoder row.
        value: The activation to hold it at; 0 switches it off. The part of the stream that the SAE
            does not explain stays as it is.
        positions: As in `add`.

    Source: Templeton et al. 2024, Scaling Monosemanticity, "Methodological details".

    Raises:
        ValueError: A decoder row or a value that is no number, or positions as in `add`.
        NothingHappened: As `add`.
    """
    require_vector(decoder, "decoder")
    if not torch.isfinite(torch.tensor(float(value))):
        raise ValueError(f"value must be a finite number, got {value}")
    row = decoder.to(model.cfg.device)

    def hold(acts: Stream, where: Tensor) -> Stream:
        return acts + (value - encode(acts))[..., None] * row

    with intervene(model, {place: hold}, positions=positions) as fired:
        yield fired


def orthonormal(directions: Float[Tensor, "*k d_model"]) -> Float[Tensor, "rank d_model"]:
    """Orthonormal rows with the span of `directions`; ValueError when one of them adds nothing."""
    rows = directions[None] if directions.ndim == 1 else directions
    for row in rows:
        require_vector(row, "direction")
    unit = rows / rows.norm(dim=1, keepdim=True)
    _, sizes, basis = torch.linalg.svd(unit, full_matrices=False)
    if len(rows) > rows.shape[1] or sizes[-1] < 1e-4 * sizes[0]:
        raise ValueError(f"the {len(rows)} directions are not independent: leave some out")
    return basis
