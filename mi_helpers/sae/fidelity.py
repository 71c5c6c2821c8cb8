"""How faithful an SAE is: to the activations, and to what the model makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.metrics import loss
from mi_helpers.models import model_id
from mi_helpers.sae.activations import read_site, require_hook, site_width, untrained_seed
from mi_helpers.sae.core import Sae


@dataclass(frozen=True)
class Fidelity:
    """What a sample of activations says about an SAE.

    Attributes:
        l0: Active units on a token, mean.
        explained_variance: 1 - squared error / squared distance from the mean activation.
        norm_ratio: Length of the reconstruction over length of the input, mean; below 1 is
            shrinkage.
        dead: Share of units that never fire on the sample.
        dense: Share of units that fire on more than a tenth of the tokens.
        frequency: Share of tokens that each unit fires on.
    """

    l0: float
    explained_variance: float
    norm_ratio: float
    dead: float
    dense: float
    frequency: Float[Tensor, " d_sae"]


@torch.no_grad()
def fidelity(sae: Sae, acts: Float[Tensor, "token d_in"], *, batch: int = 4096) -> Fidelity:
    """Reconstruction and sparsity of `sae` on activations of its site."""
    if acts.ndim != 2 or len(acts) < 2:
        raise ValueError(f"acts must be [token, d_in] with two tokens or more, {list(acts.shape)}")
    fired = torch.zeros(sae.d_sae, dtype=torch.double, device=acts.device)
    wrong, ratio = 0.0, 0.0
    for x in acts.split(batch):
        fired += (sae.encode(x) > 0).sum(0)
        guess = sae(x)
        wrong += float((x - guess).square().sum())
        ratio += float((guess.norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-12)).sum())
    spread = float((acts - acts.mean(0)).square().sum())
    if not spread > 0:
        raise ValueError("all activations are equal: no variance to explain")
    share = (fired / len(acts)).float()
    return Fidelity(
        float(fired.sum()) / len(acts), 1 - wrong / spread, ratio / len(acts),
        float((fired == 0).float().mean()), float((share > 0.1).float().mean()), share,
    )  # fmt: skip


def require_same(model: Any, sae: Sae) -> str:
    """The hook of `sae` in `model`; ValueError when it was made for another model or width."""
    if not sae.hook:
        raise ValueError("this SAE does not say which site it reads: set `hook` with replace()")
    hook = require_hook(model, sae.hook)
    if sae.model_id and sae.model_id != model_id(model):
        raise ValueError(
            f"this SAE was made for {sae.model_id!r}, the model is {model_id(model)!r}: its "
            "directions mean nothing there"
        )
    weights = untrained_seed(model)
    if weights and sae.notes.get("weights", weights["weights"]) != weights["weights"]:
        raise ValueError(
            f"this SAE was made for a model of {sae.notes['weights']}, this one is of "
            f"{weights['weights']}: call mi.untrained with that seed"
        )
    width = site_width(model, hook)
    if width not in (None, sae.d_in):
        raise ValueError(f"this SAE reads width {sae.d_in}, but {hook} of the model has {width}")
    kwargs = sae.notes.get("model_from_pretrained_kwargs") or {}
    if kwargs.get("center_writing_weights") is False and sae.normalize == "none":
        raise ValueError(
            "this SAE was trained on a model whose writing weights are not centred; mi.load_model "
            "centres them, so its activations differ"
        )
    return hook


@contextmanager
def splice(
    model: Any, sae: Sae, *, keep_error: bool = False,
    spare: Bool[Tensor, "row pos"] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Run the model on the SAE's reconstruction instead of the activation, inside the block.

    `keep_error` adds back what the reconstruction leaves out, so that nothing changes until a unit
    is changed. `spare` marks the tokens that are left alone, by default the first position: no SAE
    here is trained on BOS, whose activation is far longer than all others. Where BOS also stands
    between documents, mark it. Raises ValueError when the SAE does not fit the model.
    """
    hook_name = require_same(model, sae)

    def replace_by_reconstruction(act: Tensor, hook: Any) -> Tensor:
        x = act.flatten(2)
        new = x if keep_error else sae(x)
        return torch.where(_spared(x, spare)[..., None], x, new).view_as(act)

    with model.hooks(fwd_hooks=[(hook_name, replace_by_reconstruction)]):
        yield


def _spared(x: Float[Tensor, "row pos d_in"], spare: Tensor | None) -> Bool[Tensor, "row pos"]:
    if spare is None:
        return (torch.arange(x.shape[1], device=x.device) == 0).expand(x.shape[:2])
    if spare.shape != x.shape[:2]:
        raise ValueError(f"spare is {list(spare.shape)}, the tokens are {list(x.shape[:2])}")
    return spare.to(x.device)


@dataclass(frozen=True)
class SpliceLosses:
    """Next-token losses in nats: as the model is, spliced, and with the site knocked out."""

    clean: float
    spliced: float
    zero: float
    mean: float

    @property
    def added(self) -> float:
        """Nats that the reconstruction costs."""
        return self.spliced - self.clean

    def recovered(self, against: str = "zero") -> float:
        """1 - added / what "zero" or "mean" ablation costs; 1 is perfect, 0 is no better."""
        if against not in ("zero", "mean"):
            raise ValueError(f"against must be 'zero' or 'mean', got {against!r}")
        return 1 - self.added / (getattr(self, against) - self.clean)


@torch.no_grad()
def splice_losses(model: Any, sae: Sae, tokens: Int[Tensor, "row pos"]) -> SpliceLosses:
    """Losses on `tokens` (BOS first) with the site as it is, reconstructed, zeroed, averaged.

    The first position and special tokens are left alone by all four; the mean is that of the rest.
    """
    hook = require_same(model, sae)
    spare = torch.isin(tokens, torch.tensor(model.tokenizer.all_special_ids, device=tokens.device))
    spare[:, 0] = True
    if spare.all():
        raise ValueError("no token is left to reconstruct: all are special or the first of a row")
    acts = read_site(model, hook, tokens)
    average = acts[~spare.to(acts.device)].mean(0)

    def fill(value: Tensor | float) -> float:
        def act_is_value(act: Tensor, hook: Any) -> Tensor:
            new = act.flatten(2).clone()
            new[~spare.to(new.device)] = value
            return new.view_as(act)

        with model.hooks(fwd_hooks=[(hook, act_is_value)]):
            return float(loss(model(tokens), tokens).mean())

    with splice(model, sae, spare=spare):
        spliced = float(loss(model(tokens), tokens).mean())
    clean = float(loss(model(tokens), tokens).mean())
    return SpliceLosses(clean, spliced, fill(0.0), fill(average))
