"""Training: start, go on, save, resume. Interrupted or not, the end is the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim.adam import adam
from tqdm.auto import tqdm

from mi_helpers.files import save_tensors
from mi_helpers.sae.causal import causal_masks, first_skip
from mi_helpers.sae.core import Sae, from_gated
from mi_helpers.sae.recipe import Recipe
from mi_helpers.sae.step import Loss, Parameters, batch_loss
from mi_helpers.sae.stream import Activations


@dataclass
class Training:
    """A training on its way, with all that is needed to go on exactly where it stopped."""

    recipe: Recipe
    stream: Activations
    p: Parameters
    moments: dict[str, Tensor]
    """Adam's, as "W_enc.mean" and "W_enc.square"."""
    scales: tuple[float, ...]
    """What activations are multiplied with, for each place that is read, then the targets."""
    silent: Tensor
    """For how many inputs each unit has been silent."""
    step: int = 0
    place: tuple[int, int] = (0, 0)
    cut: float = 0.0
    """Of "batchtopk": running mean of the least activation that was kept."""
    log: list[dict[str, float]] = field(default_factory=list)
    """Rows of step, loss, l0, explained_variance, dead (shares of 1)."""

    @cached_property
    def scale(self) -> float | Float[Tensor, " column"]:
        """`scales` for each column of a row of the stream; one number where one place is read."""
        if len(self.scales) == 1:
            return self.scales[0]
        widths = torch.tensor([w for side in self.stream.widths for w in side])
        return torch.tensor(self.scales).repeat_interleave(widths).to(self.stream.device)

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """With `causal`, which entries of the matrices may differ from zero; rows are units."""
        return causal_masks(self.recipe, self.stream) if self.recipe.causal else {}

    def split(self, rows: Float[Tensor, "batch column"]) -> tuple[Tensor, Tensor]:
        """What is read and what is to be written, of scaled rows of the stream: one, or two."""
        n = sum(self.stream.widths[0])
        return (rows[:, :n], rows[:, n:]) if self.stream.widths[1] else (rows, rows)

    def sae(self) -> Sae:
        """What the training has found so far, for activations as they are (not scaled)."""
        if len(self.scales) > 1:
            return self._of_several()
        p = self._finished()
        threshold = p["threshold"] / self.scale if "threshold" in p else None
        return Sae(
            kind="jumprelu" if threshold is not None else self.recipe.kind,
            W_enc=p["W_enc"].contiguous(),
            b_enc=p["b_enc"] / self.scale,
            W_dec=p["W_dec"],
            b_dec=p["b_dec"] / self.scale,
            threshold=threshold,
            k=self.recipe.k if self.recipe.kind == "topk" else None,
            hook=self.stream.hook,
            model_id=self.stream.model_id,
            notes=self._notes,
        )

    def _finished(self) -> Parameters:
        """Copies of the tensors, with the threshold that a finished dictionary has."""
        p = {name: value.detach().clone() for name, value in self.p.items()}
        if self.recipe.kind == "jumprelu":
            p["threshold"] = p["log_threshold"].exp()
        if self.recipe.kind == "batchtopk":
            p["threshold"] = torch.full_like(p["b_enc"], self.cut)
        if self.recipe.kind == "gated":
            p |= from_gated(p["W_enc"], p["b_gate"], p["r_mag"], p["b_enc"])
        return p

    @property
    def _notes(self) -> dict[str, Any]:
        return {"recipe": asdict(self.recipe), "steps_done": self.step, **self.stream.notes}

    def _of_several(self) -> Sae:
        """Of several places, each with a scale of its own; units in the unit of what is written."""
        p = self._finished()
        (reads, writes), kind = self.stream.widths, self.recipe.kind
        assert isinstance(self.scale, Tensor)
        inward, outward = self.split(self.scale[None])
        outer = self.scales[len(reads) :] if writes else self.scales
        unit = float(torch.tensor(outer).log().mean().exp()) if len(outer) > 1 else outer[0]
        b_enc, b_dec = p["b_enc"], p["b_dec"]
        if writes:
            b_enc = b_enc - p["b_in"] @ p["W_enc"]
        if "W_skip" in p:
            b_dec = b_dec - p["b_in"] @ p["W_skip"]
        threshold = p["threshold"] / unit if "threshold" in p else None
        widths = writes or reads
        return Sae(
            kind="jumprelu" if threshold is not None else kind,
            W_enc=(p["W_enc"] * inward.T / unit).contiguous(),
            b_enc=b_enc / unit,
            W_dec=p["W_dec"] * (unit / outward),
            b_dec=b_dec / outward[0],
            threshold=threshold,
            k=self.recipe.k if kind == "topk" else None,
            hook=self.stream.hook,
            model_id=self.stream.model_id,
            subtract_b_dec=not writes,
            notes={**self._notes, "scales": list(self.scales)},
            target=self.stream.target,
            W_skip=p["W_skip"] * inward.T / outward if "W_skip" in p else None,
            widths=widths if len(widths) > 1 else (),
        )

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"p.{name}": value for name, value in self.p.items()}
        tensors |= {f"moment.{name}": value for name, value in self.moments.items()}
        tensors["silent"] = self.silent
        state = {
            "recipe": asdict(self.recipe),
            "stream": self.stream.identity,
            "scales": self.scales,
            "step": self.step,
            "place": self.place,
            "cut": self.cut,
            "log": self.log,
        }
        save_tensors(path, tensors, run=json.dumps(state))
        return path


def start(stream: Activations, recipe: Recipe | None = None) -> Training:
    """A run at step 0.

    Decoder rows are random unit vectors, the encoder starts as a part of the decoder's transpose,
    `b_dec` as the mean activation. Where the target is another place, the encoder starts as random
    vectors of its own, and the input is centred by a bias of its own, `b_in`.

    Raises:
        ValueError: a place where all activations are zero; `skip` or `causal` without a target;
            `by_source` with one place; `causal` where places do not belong to each other or units
            cannot be shared out.
    """
    recipe = recipe or Recipe()
    first = stream.chunk(0)
    reads, writes = stream.widths
    _require_possible(recipe, stream)
    device, scales = first.device, _scales(first, stream)
    W_enc, W_dec = _first_rows(recipe, stream, device)
    p = {
        "W_enc": (recipe.encoder_scale * W_enc).T,
        "b_enc": torch.zeros(recipe.d_sae, device=device),
        "W_dec": W_dec,
    }
    run = Training(recipe, stream, p, {}, scales, torch.zeros(()))
    p["b_dec"] = mean = first.mean(0).float() * run.scale
    if writes:
        p["b_in"], p["b_dec"] = (part[0].clone() for part in run.split(mean[None]))
    if recipe.skip:
        p["W_skip"] = first_skip(recipe, stream, *run.split(first.float() * run.scale))
    more = {"jumprelu": ("log_threshold",), "gated": ("b_gate", "r_mag")}.get(recipe.kind, ())
    p |= {name: torch.zeros(recipe.d_sae, device=device) for name in more}
    moments = {
        f"{name}.{which}": torch.zeros_like(value)
        for name, value in p.items()
        for which in ("mean", "square")
    }
    silent = torch.zeros(recipe.d_sae, dtype=torch.long, device=device)
    return replace(run, moments=moments, silent=silent)


def _scales(first: Tensor, stream: Activations) -> tuple[float, ...]:
    """For each place, what makes its mean squared length its width."""
    reads, writes = stream.widths
    scales = []
    for part in first.split([*reads, *writes], dim=1):
        size = part.norm(dim=-1).square().mean().sqrt()
        if not size > 0:
            raise ValueError(
                f"all activations of {stream.hook}{' or ' * bool(stream.target)}{stream.target} "
                "are zero: there is nothing to learn"
            )
        scales.append(float(part.shape[1] ** 0.5 / size))
    return tuple(scales)


def _first_rows(
    recipe: Recipe, stream: Activations, device: torch.device
) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_out"]]:
    """Unit vectors: the encoder's are the decoder's, where both belong to the same place."""
    reads, writes = stream.widths
    # Of the width as well: else the rows of a narrow SAE are the first of a wide one's.
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + recipe.d_sae)
    W_dec = torch.randn(recipe.d_sae, sum(writes or reads), generator=generator).to(device)
    W_enc = torch.randn(recipe.d_sae, sum(reads), generator=generator) if writes else W_dec
    W_enc, masks = W_enc.to(device), causal_masks(recipe, stream) if recipe.causal else {}
    if masks:
        W_enc, W_dec = W_enc * masks["W_enc"], W_dec * masks["W_dec"]
    W_dec = W_dec / W_dec.norm(dim=-1, keepdim=True)
    return (W_enc / W_enc.norm(dim=-1, keepdim=True) if writes else W_dec), W_dec


def _require_possible(recipe: Recipe, stream: Activations) -> None:
    reads, writes = stream.widths
    for name in ("skip", "causal"):
        if getattr(recipe, name) and not writes:
            raise ValueError(f"{name} is for a transcoder: give the stream a target")
    if recipe.by_source and len(writes or reads) < 2:
        raise ValueError("by_source weighs the places that are written, and there is only one")
    if recipe.causal and (len(reads) != len(writes) or recipe.d_sae % len(reads)):
        raise ValueError(
            f"causal needs as many targets as places read, and units for all of them alike; there "
            f"are {len(reads)} places, {len(writes)} targets and {recipe.d_sae} units"
        )


def resume(path: str | Path, stream: Activations) -> Training:
    """The run that `Training.save` wrote, on the same activations.

    Raises FileNotFoundError, or ValueError for a file that is no such run (pickles are never
    loaded) or a run on other activations.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no run at {path}: begin with start(...)")
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {}).get("run", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut short: {error}") from error
    if not state:
        raise ValueError(f"{path} holds tensors but no run: it was not written by Training.save")
    if state["stream"] != stream.identity:
        raise ValueError(
            f"{path} was trained on other activations ({state['stream']}) than these "
            f"({stream.identity}): same model, site, tokens, seed and buffer are needed"
        )
    groups: dict[str, dict[str, Tensor]] = {"p": {}, "moment": {}, "silent": {}}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        # a clone: aligned in memory as a fresh one, so that sums round alike
        own = rest.partition(".")[0]
        laid = _row_major(own, value.to(stream.device)).clone(memory_format=torch.contiguous_format)
        groups[group][rest] = _row_major(own, laid)
    return Training(
        recipe=Recipe(**state["recipe"]),
        stream=stream,
        p=groups["p"],
        moments=groups["moment"],
        scales=tuple(state.get("scales") or [state["scale"]]),  # the latter in older files
        silent=groups["silent"][""],
        step=state["step"],
        place=tuple(state["place"]),
        cut=state["cut"],
        log=state["log"],
    )


def train(
    run: Training,
    steps: int | None = None,
    *,
    progress: bool = True,
    save_to: str | Path | None = None,
    save_every: int = 500,
) -> Training:
    """Train in place until `steps` steps are done in all, by default the recipe's.

    With `save_to` the training is saved there every `save_every` steps and at the end: see
    `resume`.

    Raises:
        ValueError: more steps than the recipe has, or none.
    """
    steps = run.recipe.steps if steps is None else steps
    if not 1 <= steps <= run.recipe.steps:
        raise ValueError(f"steps must be from 1 to the recipe's {run.recipe.steps}, got {steps}")
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    bar = tqdm(total=run.recipe.steps, initial=run.step, disable=not progress, unit="step")
    while run.step < steps:
        one_step(run)
        bar.update()
        if run.log and run.log[-1]["step"] == run.step:
            bar.set_postfix({k: f"{v:.3g}" for k, v in run.log[-1].items() if k != "step"})
        if save_to is not None and (run.step % save_every == 0 or run.step == steps):
            run.save(save_to)
    bar.close()
    return run


def one_step(run: Training) -> None:
    """One batch: loss, gradients, Adam, unit rows, bookkeeping."""
    recipe = run.recipe
    x, run.place = run.stream.batch(recipe.batch, run.place)
    x, y = run.split(x * run.scale)
    p = {name: value.requires_grad_() for name, value in run.p.items()}
    widths = run.stream.widths[1] or run.stream.widths[0]
    dead, weight = run.silent > recipe.dead_after, recipe.penalty_scale(run.step)
    loss = batch_loss(p, x, recipe, weight, dead, target=y, widths=widths)
    grads = torch.autograd.grad(loss.total, list(p.values()), allow_unused=True)
    with torch.no_grad():
        _update(run, dict(zip(p, grads, strict=True)))
        run.silent = torch.where(loss.active > 0, 0, run.silent + len(x))
        least = float(loss.least)
        run.cut = least if run.step == 0 else 0.99 * run.cut + 0.01 * least
        run.step += 1
        if run.step % recipe.log_every == 0 or run.step == recipe.steps:
            run.log.append(_row(run, y, loss))
    for value in run.p.values():
        value.requires_grad_(False)


def _update(run: Training, grads: dict[str, Tensor | None]) -> None:
    """Clip, then Adam, for a decoder whose rows keep length 1: along them no gradient counts."""
    found = {n: _row_major(n, grad).contiguous() for n, grad in grads.items() if grad is not None}
    for name in run.masks.keys() & found.keys():
        found[name] *= run.masks[name]
    W_dec, to_dec = run.p["W_dec"], found["W_dec"]
    to_dec.addcmul_(torch.einsum("ui,ui->u", to_dec, W_dec)[:, None], W_dec, value=-1)
    length = torch.stack([found[name].norm() for name in sorted(found)]).norm()
    if length > run.recipe.clip:
        for grad in found.values():
            grad *= run.recipe.clip / length
    device = W_dec.device
    adam(
        [_row_major(name, run.p[name]) for name in found],
        list(found.values()),
        [_row_major(name, run.moments[f"{name}.mean"]) for name in found],
        [_row_major(name, run.moments[f"{name}.square"]) for name in found],
        [],
        [torch.tensor(float(run.step), device=device) for _ in found],
        fused=device.type in ("cpu", "cuda"),
        foreach=False,
        amsgrad=False,
        maximize=False,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.0,
        lr=run.recipe.rate(run.step),
    )
    W_dec /= W_dec.norm(dim=-1, keepdim=True)


def _row_major(name: str, value: Tensor) -> Tensor:
    """As it lies in memory: of `W_enc`, too, what belongs to a unit lies together."""
    return value.T if name == "W_enc" else value


def _row(run: Training, y: Tensor, loss: Loss) -> dict[str, float]:
    variance = (y - y.mean(0)).square().sum(-1).mean()
    return {
        "step": run.step,
        "loss": float(loss.total.detach()),
        "l0": float(loss.active.sum()) / len(y),
        "explained_variance": float(1 - loss.error / variance),
        "dead": float((run.silent > run.recipe.dead_after).float().mean()),
    }
