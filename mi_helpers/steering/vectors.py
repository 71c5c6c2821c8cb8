"""A steering vector is data: what was found, where, how, from what, and for which model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mi_helpers.files import save_tensors
from mi_helpers.models import ModelSource, model_id, model_source
from mi_helpers.sites import SITES, Place, hook_name, require_layer, site_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PROCESSING = "LayerNorm folded, writes centred"
"""How `load_model` processes weights; a vector found in other coordinates does not fit."""

_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector to add to one site of one layer, with its origin.

    Attributes:
        vector: [d_model] for every position it is applied to; or [pos d_model], one vector for each
            of the first positions after BOS (an activation addition).
        site: Where it belongs, a name of `patching.SITES` without heads ("resid_post" …).
        layer: Counted from 0.
        method: How it was made.
        prompts: What it was made from; empty when from weights.
        model: The model's id.
        weights: Fingerprint of the model's weights.
        processing: How these weights were processed.
        details: Anything else that is JSON: a seed, a feature's number, a probe's accuracy.
    """

    vector: Float[Tensor, "*pos d_model"]
    site: str
    layer: int
    method: str
    prompts: tuple[str, ...]
    model: str
    weights: str
    processing: str = PROCESSING
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be a vector of the stream."""
        require_vector(self.vector, "vector")
        require_site(self.site)
        if self.layer < 0:
            raise ValueError(f"layer must be counted from 0, got {self.layer}")

    @property
    def norm(self) -> float:
        """Euclidean length, of all positions together; in the units of the stream."""
        return float(self.vector.norm())

    @property
    def hook(self) -> str:
        """The bridge's name of that place."""
        return hook_name(self.place)

    @property
    def place(self) -> Place:
        """The site and layer that it is added at."""
        return self.site, self.layer

    def check_fits(self, model: TransformerBridge) -> None:
        """ValueError unless it was made on these weights, so processed, and has their width."""
        require_layer(model, self.layer)
        d_model = model.cfg.d_model
        if self.vector.shape[-1] != d_model:
            raise ValueError(
                f"the vector has {self.vector.shape[-1]} dimensions and {model_id(model)} has "
                f"d_model = {d_model}: make one on this model"
            )
        ours = (model_id(model), fingerprint(model), PROCESSING)
        theirs = (self.model, self.weights, self.processing)
        if ours != theirs:
            raise ValueError(
                f"the vector was made on {theirs[0]} (weights {theirs[1]}, {theirs[2]}), this is "
                f"{ours[0]} (weights {ours[1]}, {ours[2]}): make one on this model"
            )


def new_vector(
    model: TransformerBridge,
    vector: Float[Tensor, "*pos d_model"],
    layer: int,
    *,
    method: str,
    site: str = "resid_post",
    prompts: tuple[str, ...] = (),
    **details: Any,
) -> SteeringVector:
    """Put your own direction into the form that this package applies.

    Args:
        model: The model that it was found in.
        vector: One direction, or one for each position after the start token.
        layer: Where it belongs.
        method: How it was found.
        site: One of width d_model.
        prompts: What it was found from.
        details: Anything else to remember, as JSON can hold it.

    Raises:
        ValueError: No vector of this model's stream, or a place that is not there.
    """
    require_vector(vector, "vector")
    made = SteeringVector(
        vector=vector.detach().float().cpu().clone(),
        site=site,
        layer=layer,
        method=method,
        prompts=tuple(prompts),
        model=model_id(model),
        weights=fingerprint(model),
        details=details,
    )
    made.check_fits(model)
    return made


def save(vector: SteeringVector, path: str | Path) -> None:
    """Write one safetensors file, whole or not at all: the vector, all the rest as metadata."""
    about = {name: value for name, value in asdict(vector).items() if name != "vector"}
    about["norm"] = vector.norm
    save_tensors(path, {"vector": vector.vector}, steering_vector=json.dumps(about))


def load(path: str | Path, model: TransformerBridge) -> SteeringVector:
    """Read a vector, and refuse it if it was made on another model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file that is no steering vector, was altered, or is for another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no steering vector at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["steering_vector"])
            vector = file.get_tensor("vector")
        norm, about["prompts"] = about.pop("norm"), tuple(about["prompts"])
        made = SteeringVector(vector=vector, **about)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no steering vector: write one with steering.save") from error
    if not math.isclose(made.norm, norm, rel_tol=1e-5):
        raise ValueError(f"{path} was altered: its norm is {made.norm:.4g}, not {norm:.4g}")
    made.check_fits(model)
    return made


def fingerprint(model: TransformerBridge) -> str:
    """Twelve hexadecimal digits that tell apart weights of one name, from the files they are in.

    Of every byte of every file, so that the same files give the same digits on every machine and
    device; for weights drawn by `mi.untrained`, of their seed. Read once for each loaded model, so
    edits of the weights in memory (`rank_one`, `orthogonalised`) are not noticed.
    """
    known = getattr(model, "mi_fingerprint", None)
    if known is None:
        known = model.mi_fingerprint = _fingerprint(model_source(model))
    return known


def _fingerprint(source: ModelSource) -> str:
    digest = hashlib.sha256(source.model_id.encode())
    if source.model_id.startswith("untrained "):
        digest.update(source.where.encode())
        return digest.hexdigest()[:12]
    for path in sorted(source.directory.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def require_vector(vector: Tensor, name: str) -> None:
    """Raise ValueError unless it is one vector or one for each position, finite and not zero."""
    if not isinstance(vector, Tensor) or not vector.is_floating_point():
        raise ValueError(f"{name} must be a tensor of floats, not {type(vector).__name__}")
    if vector.ndim not in (1, 2) or vector.numel() == 0:
        raise ValueError(f"{name} must be [d_model] or [pos d_model], got {list(vector.shape)}")
    if not torch.isfinite(vector).all():
        raise ValueError(f"{name} holds NaN or infinity: look at the activations it was made from")
    if not vector.any():
        raise ValueError(f"{name} is zero: the two sets of prompts do not differ at this place")


def require_site(site: str) -> None:
    """Raise KeyError for an unknown site, ValueError for one that is not of width d_model."""
    if site_of(site).per_head:
        flat = [name for name, one in SITES.items() if not one.per_head]
        raise ValueError(f"site {site!r} belongs to heads; choose one of {', '.join(flat)}")
