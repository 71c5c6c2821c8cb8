"""The dictionary itself: a few tensors, an activation function, and where it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ARCHITECTURES = ("relu", "topk", "batchtopk", "jumprelu", "gated")
"""What `kind` can be while training; a finished "batchtopk" or "gated" is a "jumprelu"."""
NORMALIZATIONS = ("none", "layer_norm")
SIDE_BY_SIDE = " + "
"""Between the names of several places that are read, or written, as one vector."""


@dataclass(frozen=True)
class Sae:
    """A trained dictionary: a sparse autoencoder, or one that writes elsewhere than it reads.

    An SAE reconstructs what it reads. A **transcoder** reads one place (`hook`) and predicts
    another (`target`), such as what an MLP makes of its input; a skip transcoder adds a linear map
    of the input, `W_skip` [Paulo et al. 2025]. A **crosscoder** reconstructs several places at
    once, of one model or of several, side by side; a cross-layer transcoder predicts several.
    `family` says which it is.

    ``f = act((x - b_dec) @ W_enc + b_enc)``, ``x_hat = f @ W_dec + b_dec``; with
    `subtract_b_dec` False the input is not centred first. `act` is, by `kind`:

    - "relu": the positive part;
    - "topk": the positive part of the `k` largest of each input [Gao et al. 2024];
    - "jumprelu": what exceeds the unit's `threshold`, unchanged [Rajamanoharan et al. 2024]. A
      "batchtopk" run [Bussmann et al. 2024] ends as this kind, with one threshold for all units,
      so that what a token activates does not depend on the others of its batch; and a "gated" run
      [Rajamanoharan et al. 2024, Gated], exactly: see `from_gated`.

    With `normalize` "layer_norm" each input is centred and divided by its standard deviation first,
    and the reconstruction is scaled back.

    With a `target`, the input is never centred by `b_dec`, and ``y_hat = f @ W_dec + b_dec + x @
    W_skip``.
    """

    kind: str
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int | None = None
    hook: str = ""
    """The site, as the bridge calls it: "blocks.3.hook_resid_post"; heads are flattened."""
    model_id: str = ""
    """As `mi.model_id`; empty where unknown."""
    normalize: str = "none"
    subtract_b_dec: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)
    """The rest of what its file says: how it was trained, on what, its scores."""
    target: str = ""
    """The place that it predicts; empty where it reconstructs what it reads. Names of several
    places, here and in `hook`, are joined by " + "."""
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    widths: tuple[int, ...] = ()
    """Of the places that it writes, where they are several."""

    def __post_init__(self) -> None:
        """ValueError for tensors that do not fit together, NaN, or a kind that lacks its part."""
        _require_fit(self)

    @property
    def d_in(self) -> int:
        """Width of what is read."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what is written."""
        return self.W_dec.shape[1]

    @property
    def writes(self) -> str:
        """The place that it writes."""
        return self.target or self.hook

    @property
    def family(self) -> str:
        """ "SAE", "transcoder", "crosscoder" or "cross-layer transcoder"."""
        several = len(self.widths) > 1
        if self.target:
            return "cross-layer transcoder" if several else "transcoder"
        return "crosscoder" if several else "SAE"

    @property
    def d_sae(self) -> int:
        """Number of units."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """How strongly each unit is active, never negative."""
        return self._encode(self._normalized(x)[0])

    def decode(self, f: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_out"]:
        """What the units write, in the scale of the normalised input; without the skip."""
        return f @ self.W_dec + self.b_dec

    def __call__(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The reconstruction of `x`, or what is predicted from it, in the unit of the target."""
        normal, mean, scale = self._normalized(x)
        return self._skipped(x, self.decode(self._encode(normal)) * scale + mean)

    def without_units(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """What is said of `x` where no unit is active: the bias and the skip."""
        _, mean, scale = self._normalized(x)
        bias = self.b_dec * scale + mean
        return self._skipped(x, bias.expand(*x.shape[:-1], self.d_out))

    def source_norms(self) -> Float[Tensor, "place d_sae"]:
        """The length of each unit's decoder row at each place that it writes.

        With several places, in the unit in which it was trained: each place has there a mean
        squared length that equals its width. ValueError where `notes` do not hold their scales.
        """
        widths = self.widths or (self.d_out,)
        norms = torch.stack([part.norm(dim=-1) for part in self.W_dec.split(list(widths), dim=1)])
        if len(widths) == 1:
            return norms
        scales = torch.tensor(self.notes.get("scales", [])[-len(widths) :]).to(norms)
        if len(scales) != len(widths):
            raise ValueError(f"notes['scales'] must have a scale for each of {len(widths)} places")
        return norms * (scales / scales.log().mean().exp())[:, None]

    def to(self, device: torch.device | str) -> Sae:
        """The same on another device."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")
        tensors = {n: t.to(device) for n in names if (t := getattr(self, n)) is not None}
        return replace(self, **tensors)

    def _encode(self, normal: Tensor) -> Tensor:
        centred = normal - self.b_dec if self.subtract_b_dec else normal
        return activate(centred @ self.W_enc + self.b_enc, self.kind, self.k, self.threshold)

    def _skipped(self, x: Tensor, out: Tensor) -> Tensor:
        return out if self.W_skip is None else out + x @ self.W_skip

    def _normalized(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        if x.shape[-1:] != (self.d_in,):
            raise ValueError(
                f"this {self.family} reads activations of width {self.d_in}"
                f"{f' ({self.hook})' if self.hook else ''}, not {x.shape[-1] if x.ndim else 0}"
            )
        if self.normalize == "none":
            return x, 0.0, 1.0
        mean = x.mean(-1, keepdim=True)
        scale = (x - mean).std(-1, keepdim=True)
        return (x - mean) / (scale + 1e-5), mean, scale


def from_gated(
    W_enc: Float[Tensor, "d_in d_sae"],
    b_gate: Float[Tensor, " d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
) -> dict[str, Tensor]:
    """The encoder of a jumprelu that equals a gated one, as `W_enc`, `b_enc` and `threshold`.

    A gated SAE's unit is on where ``x @ W_enc + b_gate > 0`` and has then the strength ``relu(x @
    W_enc * exp(r_mag) + b_mag)``. Both look along one direction, so the strength alone says
    whether the unit is on: where it exceeds ``b_mag - exp(r_mag) * b_gate`` [Rajamanoharan et al.
    2024, Gated, section 3.2 and appendix]. A threshold below zero does nothing.
    """
    factor = r_mag.exp()
    return {
        "W_enc": W_enc * factor,
        "b_enc": b_mag,
        "threshold": (b_mag - factor * b_gate).clamp_min(0.0),
    }


def activate(
    pre: Float[Tensor, "... d_sae"],
    kind: str,
    k: int | None = None,
    threshold: Float[Tensor, " d_sae"] | None = None,
) -> Float[Tensor, "... d_sae"]:
    """The activation function of a kind; "batchtopk" keeps `k` units a row, counted together."""
    if kind == "relu":
        return pre.relu()
    if kind == "topk":
        top = pre.topk(k or 0, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    if kind == "batchtopk":
        flat = pre.relu().flatten()
        top = flat.topk(min((k or 0) * (flat.numel() // pre.shape[-1]), flat.numel()), sorted=False)
        return torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(pre)
    if threshold is None:
        raise ValueError("jumprelu needs `threshold`, one for each unit")
    return pre.relu() * (pre > threshold)


def _require_fit(sae: Sae) -> None:
    if sae.kind not in ("relu", "topk", "jumprelu"):
        raise ValueError(f"kind is {sae.kind!r}; a finished SAE is relu, topk or jumprelu")
    if sae.W_enc.ndim != 2:
        raise ValueError(f"W_enc must be [d_in, d_sae], got {list(sae.W_enc.shape)}")
    d_in, d_sae = sae.W_enc.shape
    d_out = _require_written(sae)
    wanted: dict[str, tuple[int, ...]] = {
        "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)
    }  # fmt: skip
    if sae.W_skip is not None:
        wanted["W_skip"] = (d_in, d_out)
    if sae.kind == "jumprelu":
        if sae.threshold is None:
            raise ValueError("a jumprelu SAE needs `threshold`, one for each unit")
        wanted["threshold"] = (d_sae,)
    for name, shape in wanted.items():
        if tuple(getattr(sae, name).shape) != shape:
            raise ValueError(
                f"{name} has shape {list(getattr(sae, name).shape)}; with W_enc "
                f"[{d_in}, {d_sae}] it must be {list(shape)}"
            )
    for name in ("W_enc", *wanted):
        if not torch.isfinite(getattr(sae, name)).all():
            raise ValueError(f"{name} holds NaN or infinity: the file or the training is broken")
    if sae.kind == "topk" and not (sae.k and 1 <= sae.k <= d_sae):
        raise ValueError(f"a topk SAE needs k from 1 to d_sae = {d_sae}, got {sae.k}")
    if sae.normalize not in NORMALIZATIONS:
        raise ValueError(
            f"normalize is {sae.normalize!r}; only {' and '.join(NORMALIZATIONS)} can be read. "
            "A constant factor has to be folded into the weights first"
        )


def _require_written(sae: Sae) -> int:
    """The width of what is written, where that fits to what the dictionary says it is."""
    d_out = len(sae.b_dec) if sae.target else sae.d_in
    if sae.target and (sae.subtract_b_dec or sae.normalize != "none"):
        raise ValueError(
            f"it predicts {sae.target!r}, so its input can be neither centred by the bias of "
            "that place nor normalised: subtract_b_dec must be False and normalize 'none'"
        )
    if sae.W_skip is not None and not sae.target:
        raise ValueError("W_skip is for a transcoder: an SAE would copy its input. Set `target`")
    if sae.widths and sum(sae.widths) != d_out:
        raise ValueError(f"widths {list(sae.widths)} of the places written do not add to {d_out}")
    return d_out
