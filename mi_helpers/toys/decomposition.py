"""Decompose weight matrices into parts of low rank, of which each input needs few.

A matrix W [d_in d_out] becomes a sum of parts, v_c (a direction that is read) times u_c (what is
written). Which parts an input needs is had in one of two ways, everything else is shared.

- Stochastic (SPD): for every input a small network of its own gives each part an importance g from
  0 to 1: how much of it must stay. All parts are then cut back at random, to somewhere between g
  and 1, and the model with what is left must do as the whole one does; g costs. What the parts
  leave out of W is a part of any rank that must never matter: it is cut back to between 0 and 1.
- By attribution (APD), with `keep`: a part's attribution is the slope of the whole model's outputs
  along the part, in all matrices at once. The parts with the largest attributions of a batch are
  kept whole, the others are gone, and the model with what is kept must do as the whole one does. A
  part may have a higher `rank`; the singular values of what is kept cost.

Several decompositions, of models of their own, train side by side in one batched product.

Source: Braun et al. 2025, Attribution-based Parameter Decomposition (arXiv:2501.14926); Bushnaq,
Braun and Sharkey 2025, Stochastic Parameter Decomposition (arXiv:2506.20790), for losses, the
importance network and leaky hard sigmoids. The start and the schedules are our own. What the parts
leave out is treated as in the authors' later code (goodfire-ai/spd), and there is no layerwise loss
and none of hidden activations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mi_helpers.files import save_tensors
from mi_helpers.models.threads import one_thread
from mi_helpers.toys.masking import Forward, Masked, Matrices, Whole, largest, like, slopes
from mi_helpers.toys.runs import descend

_LEAK = 0.01
"""Slope of the hard sigmoids where the gradient would be gone, as in the paper."""


@dataclass(frozen=True)
class DecompositionConfig:
    """One training; two with equal fields give equal numbers on one machine."""

    parts: int = 20
    sparsity: float | tuple[float, ...] = 3e-3
    """The cost of importance, or of rank if parts are kept; one for each instance if several."""
    power: float = 1.0
    """Importance costs g ** power, the rank of a kept part its singular values ** power."""
    keep: float | None = None
    """Parts kept by attribution, mean over a batch; if None, importances are learned."""
    rank: int = 1
    """The most a part may have in each matrix; above 1 with `keep` alone."""
    faithful: float = 1.0
    """Weight of the squared difference between the sum of the parts and W."""
    neurons: int = 16
    """Hidden neurons of each part's importance network."""
    steps: int = 2000
    lr: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """ValueError for what cannot be trained, before anything is computed."""
        if min(self.parts, self.neurons, self.steps, self.rank) < 1:
            raise ValueError(f"parts, neurons, steps and rank must be at least 1, got {self}")
        if self.keep is None and self.rank > 1:
            raise ValueError(f"parts of higher rank are kept by attribution: give keep, got {self}")
        if self.keep is not None and not 0 < self.keep <= self.parts:
            raise ValueError(f"keep must be above 0 and at most the number of parts, got {self}")
        costs = self.sparsity if isinstance(self.sparsity, tuple) else (self.sparsity,)
        if min(costs) < 0 or self.power <= 0 or self.faithful <= 0 or self.lr <= 0:
            raise ValueError(f"sparsity must not be negative, other weights be above 0, got {self}")


@dataclass
class Decomposition:
    """Parts of several matrices, with all that is needed to go on training."""

    config: DecompositionConfig
    weights: dict[str, Float[Tensor, "instance d_in d_out"]]
    """What is decomposed."""
    leaves: dict[str, Tensor]
    """By matrix: `.V` [instance part*rank d_in], `.U` [instance part*rank d_out], networks."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, list[float]]] = field(default_factory=list)
    """Losses every 50 steps, one number an instance."""

    def parts(self, name: str) -> Float[Tensor, "instance part d_in d_out"]:
        """The parts as matrices."""
        shape = self.config.parts, self.config.rank
        V, U = (self.leaves[f"{name}.{x}"].detach().unflatten(1, shape) for x in "VU")
        return V.mT @ U

    def logits(self, name: str, a: Float[Tensor, "instance *batch d_in"]) -> Tensor:
        """Importances before the sigmoid, [instance *batch part], of what the matrix reads."""
        inner = a @ like(self.leaves[f"{name}.V"], a).mT
        w_in, b_in, w_out, b_out = (
            like(self.leaves[f"{name}.{x}"], inner[..., None])
            for x in ("w_in", "b_in", "w_out", "b_out")
        )
        hidden = F.gelu(inner[..., None] * w_in + b_in)
        return (hidden * w_out).sum(-1) + b_out[..., 0]

    @torch.no_grad()
    def importances(self, forward: Forward, x: Tensor) -> dict[str, Tensor]:
        """Importance of each part for each input, 0 to 1: [instance *batch part] by matrix.

        With `keep` it is 1 for parts that are kept in this batch, the same in all matrices.
        """
        whole = Whole(self.weights)
        forward(x, whole)
        if self.config.keep is not None:
            kept = largest(self.attributions(forward, x), self.config.keep)
            return dict.fromkeys(self.weights, kept)
        return {name: self.logits(name, a).clamp(0, 1) for name, a in whole.read.items()}

    @torch.enable_grad()
    def attributions(self, forward: Forward, x: Tensor) -> Float[Tensor, "instance *batch part"]:
        """Slope of the whole model's outputs along each part of all matrices, root mean square."""
        shape = len(x), *x.shape[1:-1], self.config.parts
        masks = torch.ones(shape, requires_grad=True)
        outputs = forward(x, self.masked(dict.fromkeys(self.weights, masks), 1.0))
        return slopes(outputs, masks)

    def rest(self, name: str) -> Float[Tensor, "instance d_in d_out"]:
        """What the parts leave out: W less their sum."""
        return self.weights[name] - self.leaves[f"{name}.V"].mT @ self.leaves[f"{name}.U"]

    def masked(self, masks: dict[str, Tensor], rest: dict[str, Tensor] | float = 0.0) -> Matrices:
        """The matrices as sums of their parts, each times its mask [instance *batch part].

        Args:
            masks: By matrix.
            rest: Masks of what the parts leave out, [instance *batch 1] by matrix, or one for all.
        """
        left_out = {name: self.rest(name) for name in masks}
        return Masked(self.leaves, masks, left_out, rest)


def start(
    weights: dict[str, Float[Tensor, "instance d_in d_out"]], config: DecompositionConfig
) -> Decomposition:
    """A decomposition at step 0: random directions to read, and what sums to W, or comes nearest.

    Raises:
        ValueError: no matrices, other shapes, or as many costs as there are not instances.
    """
    shapes = [tuple(W.shape) for W in weights.values()]
    if not shapes or any(len(s) != 3 or s[0] != shapes[0][0] for s in shapes):
        raise ValueError(f"matrices must be [instance d_in d_out], got {shapes}")
    n = shapes[0][0]
    if isinstance(config.sparsity, tuple) and len(config.sparsity) != n:
        raise ValueError(f"{len(config.sparsity)} costs of sparsity for {n} instances")
    generator = torch.Generator().manual_seed(config.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    leaves: dict[str, Tensor] = {}
    c, k = config.parts, config.neurons
    for name, W in weights.items():
        V = F.normalize(normal(c * config.rank, W.shape[1]), dim=-1)
        leaves |= {f"{name}.V": V, f"{name}.U": torch.linalg.pinv(V.mT) @ W}
        if config.keep is not None:
            continue
        leaves |= {f"{name}.w_in": normal(c, k), f"{name}.b_in": torch.zeros(n, c, k)}
        leaves |= {f"{name}.w_out": normal(c, k) / k**0.5, f"{name}.b_out": torch.ones(n, c, 1)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    optimizer = torch.optim.Adam(leaves.values(), lr=config.lr)
    weights = {name: W.detach().clone() for name, W in weights.items()}
    return Decomposition(config, weights, leaves, optimizer)


@one_thread()
def train(
    run: Decomposition,
    forward: Forward,
    draw: Callable[[torch.Generator], Tensor],
    *,
    until: int | None = None,
    divergence: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Decomposition:
    """Train to the configured number of steps, or until one; an interrupted run goes on the same.

    Args:
        run: From `start` or `load`. It is changed.
        forward: The model.
        draw: Inputs of a step, [instance batch ...], from a generator that the step alone decides.
        until: Stop at this step.
        divergence: Of outputs from those of the whole model, one number an instance; the mean
            squared difference if not given.
    """
    config, divergence = run.config, divergence or _squared
    last = min(config.steps, config.steps if until is None else until)
    cost = torch.tensor(config.sparsity)
    for step in range(run.step, last):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        x, whole = draw(generator), Whole(run.weights)
        with torch.no_grad():
            target = forward(x, whole)
        if config.keep is None:
            masked, paid = _cut_back(run, whole.read, generator)
        else:
            masked, paid = _kept(run, run.importances(forward, x))
        wrong = divergence(forward(x, masked), target)
        faithful = _unfaithful(run)
        loss = config.faithful * faithful + wrong + cost * paid
        rate = config.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / config.steps)))
        descend(run.optimizer, loss.sum(), float(rate))
        run.step = step + 1
        if run.step % 50 == 0 or run.step == config.steps:
            name = "importance" if config.keep is None else "singular values"
            found = {"faithful": faithful, "reconstruction": wrong, name: paid}
            run.log.append({k: v.detach().tolist() for k, v in found.items()})
    return run


def _cut_back(
    run: Decomposition, read: dict[str, Tensor], generator: torch.Generator
) -> tuple[Matrices, Float[Tensor, "*instance"]]:
    """The matrices with parts cut back at random, and what the parts' importances cost."""
    masks, rest, paid = {}, {}, torch.zeros(())
    for name, a in read.items():
        logits = run.logits(name, a)
        low = torch.where(logits < 0, _LEAK * logits, logits.clamp(max=1))
        high = torch.where(logits > 1, 1 + _LEAK * (logits - 1), logits.clamp(min=0))
        masks[name] = low + (1 - low) * torch.rand(low.shape, generator=generator)
        rest[name] = torch.rand((*low.shape[:-1], 1), generator=generator)
        power = run.config.power
        used = high if power == 1 else (high + 1e-8) ** power
        paid = paid + used.sum(-1).flatten(1).mean(1)
    return run.masked(masks, rest), paid


def _kept(
    run: Decomposition, masks: dict[str, Tensor]
) -> tuple[Matrices, Float[Tensor, "*instance"]]:
    """The matrices with parts that are kept alone, and what their singular values cost."""
    config, paid = run.config, torch.zeros(())
    for name, kept in masks.items():
        V, U = (run.leaves[f"{name}.{x}"] for x in "VU")
        squared = V.square().sum(-1) * U.square().sum(-1)
        values = ((squared + 1e-12) ** (config.power / 2)).unflatten(1, (config.parts, config.rank))
        paid = paid + (kept.flatten(1, -2).mean(1) * values.sum(-1)).sum(-1)
    return run.masked(masks), paid


def save(run: Decomposition, path: str | Path, *, half: bool = False) -> None:
    """Write a run to one safetensors file: in half precision to read, or whole, to go on from."""
    state = {f"leaf.{k}": v for k, v in run.leaves.items()}
    state = state if half else state | {f"weight.{k}": v for k, v in run.weights.items()}
    if not half:
        for name, leaf in run.leaves.items():
            kept = run.optimizer.state[leaf] if leaf in run.optimizer.state else {}
            state |= {f"adam.{name}.{k}": torch.as_tensor(v) for k, v in kept.items()}
    state = {k: v.half() if half else v for k, v in state.items()}
    about = {"config": asdict(run.config), "step": run.step, "log": run.log}
    about["marks"] = {name: _mark(W) for name, W in run.weights.items()}
    save_tensors(path, state, **{k: json.dumps(v) for k, v in about.items()})


def load(
    path: str | Path, weights: dict[str, Float[Tensor, "instance d_in d_out"]] | None = None
) -> Decomposition:
    """A saved run; one in half precision is told what it decomposes.

    Raises:
        ValueError: matrices that are missing, or are not those that were decomposed.
    """
    state = load_file(path)
    with safe_open(path, "pt") as handle:
        about = {k: json.loads(v) for k, v in handle.metadata().items()}
    costs = about["config"]["sparsity"]
    about["config"]["sparsity"] = tuple(costs) if isinstance(costs, list) else costs
    held = {k.removeprefix("weight."): v for k, v in state.items() if k.startswith("weight.")}
    weights = held or weights
    names = {k.split(".")[1] for k in state if k.startswith("leaf.")}
    if not weights or set(weights) != names:
        raise ValueError(f"{path} decomposes {sorted(names)}; give these matrices, no others")
    run = start(weights, DecompositionConfig(**about["config"]))
    for name, leaf in run.leaves.items():
        if leaf.shape != state[f"leaf.{name}"].shape:
            raise ValueError(f"{path} has {name} of another shape than the matrices that are given")
        leaf.data.copy_(state[f"leaf.{name}"])
        prefix = f"adam.{name}."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if kept:
            run.optimizer.state[leaf] = kept
    for name, W in weights.items():
        pairs = zip(_mark(W), about["marks"][name], strict=True)
        if any(abs(one - other) > 1e-3 for one, other in pairs):
            raise ValueError(f"{path} decomposes another matrix {name} than the one that is given")
    run.step, run.log = about["step"], about["log"]
    return run


def _mark(W: Float[Tensor, "instance d_in d_out"]) -> list[float]:
    """A number to know each instance by: its product with a fixed random matrix, over its norm.

    It is of the order of 1, another one for another matrix, and on every machine the same but for
    rounding, as a checksum of weights that were folded is not.
    """
    noise = torch.randn(W.shape[1:], generator=torch.Generator().manual_seed(0))
    unit = W.detach().cpu() / W.detach().cpu().norm(dim=(1, 2), keepdim=True)
    return (unit * noise).sum((1, 2)).tolist()


def _unfaithful(run: Decomposition) -> Float[Tensor, " instance"]:
    """Mean squared difference between the sums of the parts and the matrices."""
    total, count = torch.zeros(()), 0
    for name, W in run.weights.items():
        total, count = total + run.rest(name).square().sum((1, 2)), count + W[0].numel()
    return total / count


def _squared(found: Tensor, target: Tensor) -> Float[Tensor, " instance"]:
    return (found - target).square().flatten(1).mean(1)
