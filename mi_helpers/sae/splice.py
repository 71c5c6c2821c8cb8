"""Splicing: run the model on what a dictionary makes of its activations, and see what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.interventions import Firings, NothingHappened, Positions, intervene, replace
from mi_helpers.metrics import loss, recovery
from mi_helpers.models import model_id
from mi_helpers.sae.core import Sae
from mi_helpers.sae.stream import special_tokens, untrained_seed
from mi_helpers.sites import padding, place_of, require_hook

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from mi_helpers.interventions import Edit


@contextmanager
def splice(
    model: TransformerBridge,
    sae: Sae,
    *,
    positions: Positions = None,
    error: Float[Tensor, "row pos d_out"] | None = None,
) -> Iterator[Firings]:
    """Run the model on the SAE's reconstruction instead of the activation, inside the block.

    A transcoder stands in for what lies between its two places, such as an MLP: it predicts the
    second from the first, as it is in the run.

    The first token of each text and special tokens are left alone: no SAE here is trained on BOS,
    whose activation is far longer than all others.

    Args:
        model: The model that the SAE was made for.
        sae: The dictionary: an SAE or a transcoder.
        positions: As in `intervene`.
        error: Is added to the reconstruction, such as what it lacks in some run.

    Yields:
        The count of what fired.

    Raises:
        ValueError: a dictionary that does not fit the model, or one of several places.
        NothingHappened: on leaving, when no pass ran, or none with a token that is not spared.
    """

    def change(x: Tensor, y: Tensor) -> Tensor:
        return sae(x) if error is None else sae(x) + error

    with sparing(model, sae, change, positions) as fired:
        yield fired


@contextmanager
def sparing(
    model: TransformerBridge,
    sae: Sae,
    change: Callable[[Tensor, Tensor], Float[Tensor, "row pos d_out"]],
    positions: Positions = None,
) -> Iterator[Firings]:
    """`intervene` where the SAE writes, by `change`, on all but first and special tokens.

    `change` gets what the SAE reads, `[row pos d_in]`, and what stands where it writes, `[row pos
    d_out]`, heads flattened; for an SAE they are the same. Errors as for `splice`.
    """
    reads = require_fit(model, sae, also=("transcoder",))
    hook = require_hook(model, sae.writes)
    if isinstance(positions, Sequence) and set(positions) == {0}:
        raise ValueError("positions name the first token alone, which is always spared")
    seen: dict[str, Tensor | None] = {}
    reading: dict[str, Tensor] = {}
    changed = 0

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen["ids"] = kwargs.get("input_ids", args[0] if args else None)

    def edit(act: Tensor, where: Tensor) -> Tensor:
        nonlocal changed
        spared, ids = where <= 0, seen.get("ids")
        if ids is not None and ids.shape == spared.shape:
            spared = spared | special_tokens(model, ids).to(spared.device)
        reached = ~spared
        if isinstance(positions, Sequence) and min(positions) >= 0:
            reached &= torch.isin(where, torch.tensor([*positions], device=where.device))
        changed += int(reached.sum())
        y = act.flatten(2)
        x = y if hook == reads else reading.pop("x")  # of this pass, not of one before
        return torch.where(spared[..., None], y, change(x, y)).view_as(act)

    def keep(act: Tensor, where: Tensor) -> Tensor:
        reading["x"] = act.flatten(2)
        return act

    handle = model.original_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with intervene(model, {reads: keep} | {hook: edit}, positions=positions) as fired:
            yield fired
    finally:
        handle.remove()
    if not changed:
        raise NothingHappened(f"all tokens that ran through {hook} are first or special: spared")


def require_fit(model: TransformerBridge, sae: Sae, *, also: Sequence[str] = ()) -> str:
    """The hook that `sae` reads; ValueError when it was made for another model or width.

    It must be an SAE, or of a family named in `also`.
    """
    if sae.family not in ("SAE", *also):
        raise ValueError(
            f"this dictionary is a {sae.family} (it reads {sae.hook or 'vectors'} and writes "
            f"{sae.writes or 'the same'}); here only {' or '.join(('an SAE', *also))} can be used"
        )
    if not sae.hook:
        raise ValueError(
            f"this {sae.family} does not say which site it reads: set `hook` with replace()"
        )
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
    for verb, site, has in (("reads", hook, sae.d_in), ("writes", sae.writes, sae.d_out)):
        width = _width(model, require_hook(model, site))
        if width not in (None, has):
            raise ValueError(
                f"this {sae.family} {verb} width {has}, but {site} of the model has {width}"
            )
    kwargs = sae.notes.get("model_from_pretrained_kwargs") or {}
    if kwargs.get("center_writing_weights") is False and sae.normalize == "none":
        raise ValueError(
            "this SAE was trained on a model whose writing weights are not centred; mi.load_model "
            "centres them, so its activations differ"
        )
    return hook


def _width(model: TransformerBridge, hook: str) -> int | None:
    """Width of a site's activations, heads flattened; None where only a run would tell."""
    cfg, place = model.cfg, place_of(hook)
    site = place[0] if place else hook
    if site in ("q", "z"):
        return cfg.n_heads * cfg.d_head
    if site in (
        "resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_in",
        "mlp_out",
        "hook_embed",
    ):
        return cfg.d_model
    return cfg.d_mlp if site == "mlp_post" else None


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
        """1 - added / what "zero" or "mean" ablation costs; 1 is perfect, 0 is no better.

        Raises:
            ValueError: another ablation, or one that costs nothing: then there is no scale.
        """
        if against not in ("zero", "mean"):
            raise ValueError(f"against must be 'zero' or 'mean', got {against!r}")
        return float(recovery(self.spliced, self.clean, getattr(self, against)))


@torch.no_grad()
def splice_losses(
    model: TransformerBridge, sae: Sae, tokens: Int[Tensor, "row pos"]
) -> SpliceLosses:
    """Losses on `tokens` with the site as it is, reconstructed, zeroed, averaged.

    Of a transcoder, the site is the one that it predicts.

    First and special tokens are left alone by all four; the mean is that of the rest. Padding, on
    either side, is masked and its predictions do not count.

    Raises:
        ValueError: an SAE that does not fit the model, or tokens of which none is left.
    """
    reads = require_fit(model, sae, also=("transcoder",))
    hook = require_hook(model, sae.writes)
    before, behind = (n[:, None] for n in padding(model, tokens))
    column, n_pos = torch.arange(tokens.shape[1], device=tokens.device), tokens.shape[1]
    real = (column >= before) & (column < n_pos - behind)
    spare = special_tokens(model, tokens) | ~real | (column == before)
    if spare.all():
        raise ValueError("no token is left to reconstruct: all are special or the first of a row")
    judged = real[:, :-1] & real[:, 1:]
    mask = {} if real.all() else {"attention_mask": real.long().to(model.cfg.device)}
    acts: list[Tensor] = []

    def loss_with(edits: dict[str, Edit]) -> float:
        with intervene(model, edits, positions=~spare):
            losses = loss(model(tokens, **mask), tokens)
        return float(losses[judged.to(losses.device)].mean())

    def as_it_is(act: Tensor, where: Tensor) -> Tensor:
        acts.append(act[~spare.to(act.device)])
        return act

    clean = loss_with({hook: as_it_is})
    average = acts[0].mean(0)
    reading: dict[str, Tensor] = {}

    def keep(act: Tensor, where: Tensor) -> Tensor:
        reading["x"] = act.flatten(2)
        return act

    def put(act: Tensor, where: Tensor) -> Tensor:
        return sae(act.flatten(2) if hook == reads else reading.pop("x")).view_as(act)

    spliced = loss_with({reads: keep, hook: put})
    return SpliceLosses(
        clean, spliced, loss_with({hook: replace(0.0)}), loss_with({hook: replace(average)})
    )
