"""Decompose weight matrices into parts of rank one, of which each input needs few.

A matrix W [d_in d_out] becomes a sum of parts, v_c (a direction that is read) times u_c (what is
written). For every input a small network of its own gives each part an importance g from 0 to 1:
how much of it must stay. All parts are then cut back at random, to somewhere between g and 1, and
the model with what is left must do as the whole one does; g costs. What the parts leave out of W is
a part of any rank that must never matter: it is cut back to between 0 and 1. Several
decompositions, of models of their own, train side by side in one batched product.

Source: Bushnaq, Braun and Sharkey 2025, Stochastic Parameter Decomposition (arXiv:2506.20790), for
losses, the importance network and leaky hard sigmoids. The start and the schedules are our own.
What the parts leave out is treated as in the authors' later code (goodfire-ai/spd), and there is no
layerwise loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mi_helpers.files import save_tensors
from mi_helpers.models.threads import one_thread
from mi_helpers.toys.runs import descend

_LEAK = 0.01
"""Slope of the hard sigmoids where the gradient would be gone, as in the paper."""


class Matrices(Protocol):
    """What a forward pass multiplies with, by name: whole matrices, or their parts under masks."""

    def __call__(self, name: str, a: Tensor) -> Tensor:
        """a [instance ... d_in] -> a @ W [instance ... d_out]."""

    def back(self, name: str, b: Tensor) -> Tensor:
        """b [instance ... d_out] -> b @ W.mT [instance ... d_in]."""


Forward = Callable[[Tensor, Matrices], Tensor]
"""A model: inputs [instance batch ...] and its matrices to outputs [instance batch ... output]."""


class Whole:
    """The matrices as they are; remembers what each was given to read."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """weights: [instance d_in d_out] each."""
        self.weights = weights
        self.read: dict[str, Tensor] = {}

    def __call__(self, name: str, a: Tensor) -> Tensor:
        """a @ W."""
        self.read[name] = a.detach()
        return a @ _like(self.weights[name], a)

    def back(self, name: str, b: Tensor) -> Tensor:
        """b @ W.mT."""
        return b @ _like(self.weights[name], b).mT


@dataclass(frozen=True)
class DecompositionConfig:
    """One training; two with equal fields give equal numbers on one machine."""

    parts: int = 20
    sparsity: float | tuple[float, ...] = 3e-3
    """The cost of importance; one for each instance if several."""
    power: float = 1.0
    """Importance costs g ** power."""
    faithful: float = 1.0
    """Weight of the squared difference between the sum of the parts and W."""
    neurons: int = 16
    """Hidden neurons of each part's importance network."""
    steps: int = 2000
    lr: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """ValueError for what cannot be trained, before anything is computed."""
        if min(self.parts, self.neurons, self.steps) < 1:
            raise ValueError(f"parts, neurons and steps must be at least 1, got {self}")
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
    """By matrix: `.V` [instance part d_in], `.U` [instance part d_out], importance networks."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, list[float]]] = field(default_factory=list)
    """Losses every 50 steps, one number an instance."""

    def parts(self, name: str) -> Float[Tensor, "instance part d_in d_out"]:
        """The parts as matrices."""
        V, U = (self.leaves[f"{name}.{x}"].detach() for x in "VU")
        return V[..., :, None] * U[..., None, :]

    def logits(self, name: str, a: Float[Tensor, "instance *batch d_in"]) -> Tensor:
        """Importances before the sigmoid, [instance *batch part], of what the matrix reads."""
        inner = a @ _like(self.leaves[f"{name}.V"], a).mT
        w_in, b_in, w_out, b_out = (
            _like(self.leaves[f"{name}.{x}"], inner[..., None])
            for x in ("w_in", "b_in", "w_out", "b_out")
        )
        hidden = F.gelu(inner[..., None] * w_in + b_in)
        return (hidden * w_out).sum(-1) + b_out[..., 0]

    @torch.no_grad()
    def importances(self, forward: Forward, x: Tensor) -> dict[str, Tensor]:
        """Importance of each part for each input, 0 to 1: [instance *batch part] by matrix."""
        whole = Whole(self.weights)
        forward(x, whole)
        return {name: self.logits(name, a).clamp(0, 1) for name, a in whole.read.items()}

    def rest(self, name: str) -> Float[Tensor, "instance d_in d_out"]:
        """What the parts leave out: W less their sum."""
        return self.weights[name] - self.leaves[f"{name}.V"].mT @ self.leaves[f"{name}.U"]

    def masked(self, masks: dict[str, Tensor], rest: dict[str, Tensor] | float = 0.0) -> Matrices:
        """The matrices as sums of their parts, each times its mask [instance *batch part].

        Args:
            masks: By matrix.
            rest: Masks of what the parts leave out, [instance *batch 1] by matrix, or one for all.
        """
        return _Masked(self, masks, rest)


class _Masked:
    def __init__(
        self, run: Decomposition, masks: dict[str, Tensor], rest: dict[str, Tensor] | float
    ) -> None:
        self.leaves, self.masks = run.leaves, masks
        self.rest = {name: run.rest(name) for name in masks}
        self.share = rest if isinstance(rest, dict) else dict.fromkeys(masks, rest)

    def __call__(self, name: str, a: Tensor) -> Tensor:
        V, U = (_like(self.leaves[f"{name}.{x}"], a) for x in "VU")
        rest = self.share[name] * (a @ _like(self.rest[name], a))
        return ((a @ V.mT) * self.masks[name]) @ U + rest

    def back(self, name: str, b: Tensor) -> Tensor:
        V, U = (_like(self.leaves[f"{name}.{x}"], b) for x in "VU")
        rest = self.share[name] * (b @ _like(self.rest[name], b).mT)
        return ((b @ U.mT) * self.masks[name]) @ V + rest


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
        V = F.normalize(normal(c, W.shape[1]), dim=-1)
        leaves |= {f"{name}.V": V, f"{name}.U": torch.linalg.pinv(V.mT) @ W}
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
        masks, rest, minimal = {}, {}, torch.zeros(())
        for name, a in whole.read.items():
            logits = run.logits(name, a)
            low = torch.where(logits < 0, _LEAK * logits, logits.clamp(max=1))
            high = torch.where(logits > 1, 1 + _LEAK * (logits - 1), logits.clamp(min=0))
            left = torch.rand(low.shape, generator=generator)
            masks[name] = low + (1 - low) * left
            rest[name] = torch.rand((*low.shape[:-1], 1), generator=generator)
            used = high if config.power == 1 else (high + 1e-8) ** config.power
            minimal = minimal + used.sum(-1).flatten(1).mean(1)
        wrong = divergence(forward(x, run.masked(masks, rest)), target)
        faithful = _unfaithful(run)
        loss = config.faithful * faithful + wrong + cost * minimal
        rate = config.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / config.steps)))
        descend(run.optimizer, loss.sum(), float(rate))
        run.step = step + 1
        if run.step % 50 == 0 or run.step == config.steps:
            found = {"faithful": faithful, "reconstruction": wrong, "importance": minimal}
            run.log.append({k: v.detach().tolist() for k, v in found.items()})
    return run


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


def _like(matrix: Tensor, a: Tensor) -> Tensor:
    """A matrix of each instance [instance x y], with axes of length 1 for those of a batch."""
    return matrix.view(len(matrix), *[1] * (a.ndim - matrix.ndim), *matrix.shape[1:])
