"""Training: start, go on, save, resume. Interrupted or not, the end is the same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.adam import adam
from tqdm.auto import tqdm

from mi_helpers.sae.activations import Activations
from mi_helpers.sae.core import Sae
from mi_helpers.sae.recipe import Recipe
from mi_helpers.sae.step import Loss, Parameters, batch_loss


@dataclass
class Run:
    """A training on its way, with all that is needed to go on exactly where it stopped."""

    recipe: Recipe
    stream: Activations
    p: Parameters
    moments: dict[str, Tensor]
    """Adam's, as "W_enc.mean" and "W_enc.square"."""
    scale: float
    """What activations are multiplied with."""
    silent: Tensor
    """For how many inputs each unit has been silent."""
    step: int = 0
    place: tuple[int, int] = (0, 0)
    cut: float = 0.0
    """Of "batchtopk": running mean of the least activation that was kept."""
    log: list[dict[str, float]] = field(default_factory=list)
    """Rows of step, loss, l0, explained_variance, dead (shares of 1)."""

    def sae(self) -> Sae:
        """What the training has found so far, for activations as they are (not scaled)."""
        p = {name: value.detach().clone() for name, value in self.p.items()}
        threshold = None
        if self.recipe.kind == "jumprelu":
            threshold = p["log_threshold"].exp() / self.scale
        if self.recipe.kind == "batchtopk":
            threshold = torch.full_like(p["b_enc"], self.cut / self.scale)
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
            notes={"recipe": asdict(self.recipe), "steps_done": self.step, **self.stream.notes},
        )

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"p.{name}": value.detach().contiguous() for name, value in self.p.items()}
        tensors |= {f"moment.{name}": value.contiguous() for name, value in self.moments.items()}
        tensors["silent"] = self.silent
        state = {
            "recipe": asdict(self.recipe), "stream": self.stream.identity, "scale": self.scale,
            "step": self.step, "place": self.place, "cut": self.cut, "log": self.log,
        }  # fmt: skip
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, partial, {"run": json.dumps(state)})
        os.replace(partial, path)
        return path


def start(stream: Activations, recipe: Recipe | None = None) -> Run:
    """A run at step 0.

    Decoder rows are random unit vectors, the encoder starts as a part of the decoder's transpose,
    `b_dec` as the mean activation.
    """
    recipe = recipe or Recipe()
    first = stream.chunk(0)
    d_in, device = first.shape[1], first.device
    size = first.norm(dim=-1).square().mean().sqrt()
    if not size > 0:
        raise ValueError(f"all activations of {stream.hook} are zero: there is nothing to learn")
    scale = float(d_in**0.5 / size)
    generator = torch.Generator().manual_seed(recipe.seed)
    W_dec = torch.randn(recipe.d_sae, d_in, generator=generator).to(device)
    W_dec /= W_dec.norm(dim=-1, keepdim=True)
    p = {
        "W_enc": (recipe.encoder_scale * W_dec).T,
        "b_enc": torch.zeros(recipe.d_sae, device=device),
        "W_dec": W_dec,
        "b_dec": first.mean(0).float() * scale,
    }
    if recipe.kind == "jumprelu":
        p["log_threshold"] = torch.zeros(recipe.d_sae, device=device)
    moments = {
        f"{name}.{which}": torch.zeros_like(value)
        for name, value in p.items()
        for which in ("mean", "square")
    }
    silent = torch.zeros(recipe.d_sae, dtype=torch.long, device=device)
    return Run(recipe, stream, p, moments, scale, silent)


def resume(path: str | Path, stream: Activations) -> Run:
    """The run that `Run.save` wrote, on the same activations.

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
        raise ValueError(f"{path} holds tensors but no run: it was not written by Run.save")
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
    return Run(
        Recipe(**state["recipe"]), stream, groups["p"], groups["moment"], state["scale"],
        groups["silent"][""], state["step"], tuple(state["place"]), state["cut"], state["log"],
    )  # fmt: skip


def train(
    run: Run, steps: int | None = None, *, progress: bool = True,
    save_to: str | Path | None = None, save_every: int = 500,
) -> Run:  # fmt: skip
    """Train in place until `steps` steps are done in all, by default the recipe's.

    With `save_to` the run is saved there every `save_every` steps and at the end: see `resume`.
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


def one_step(run: Run) -> None:
    """One batch: loss, gradients, Adam, unit rows, bookkeeping."""
    recipe = run.recipe
    x, run.place = run.stream.batch(recipe.batch, run.place)
    x = x * run.scale
    p = {name: value.requires_grad_() for name, value in run.p.items()}
    loss = batch_loss(p, x, recipe, recipe.penalty_scale(run.step), run.silent > recipe.dead_after)
    grads = torch.autograd.grad(loss.total, list(p.values()), allow_unused=True)
    with torch.no_grad():
        _update(run, dict(zip(p, grads, strict=True)))
        run.silent = torch.where(loss.active > 0, 0, run.silent + len(x))
        least = float(loss.least)
        run.cut = least if run.step == 0 else 0.99 * run.cut + 0.01 * least
        run.step += 1
        if run.step % recipe.log_every == 0 or run.step == recipe.steps:
            run.log.append(_row(run, x, loss))
    for value in run.p.values():
        value.requires_grad_(False)


def _update(run: Run, grads: dict[str, Tensor | None]) -> None:
    """Adam, for a decoder whose rows keep length 1: the gradient along a row is left out."""
    found = {name: grad for name, grad in grads.items() if grad is not None}
    W_dec, to_dec = run.p["W_dec"], found["W_dec"]
    to_dec.addcmul_(torch.einsum("ui,ui->u", to_dec, W_dec)[:, None], W_dec, value=-1)
    device = W_dec.device
    adam(
        [_row_major(name, run.p[name]) for name in found],
        [_row_major(name, grad).contiguous() for name, grad in found.items()],
        [_row_major(name, run.moments[f"{name}.mean"]) for name in found],
        [_row_major(name, run.moments[f"{name}.square"]) for name in found],
        [],
        [torch.tensor(float(run.step), device=device) for _ in found],
        fused=device.type in ("cpu", "cuda"), foreach=False, amsgrad=False, maximize=False,
        beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, lr=run.recipe.rate(run.step),
    )  # fmt: skip
    W_dec /= W_dec.norm(dim=-1, keepdim=True)


def _row_major(name: str, value: Tensor) -> Tensor:
    """As it lies in memory: of `W_enc`, too, what belongs to a unit lies together."""
    return value.T if name == "W_enc" else value


def _row(run: Run, x: Tensor, loss: Loss) -> dict[str, float]:
    variance = (x - x.mean(0)).square().sum(-1).mean()
    return {
        "step": run.step,
        "loss": float(loss.total.detach()),
        "l0": float(loss.active.sum()) / len(x),
        "explained_variance": float(1 - loss.error / variance),
        "dead": float((run.silent > run.recipe.dead_after).float().mean()),
    }
