"""Toys of compressed computation, and their matrices in parts: a script and what a notebook reads.

Twenty features are written into a stream by fixed random directions and read out by the same ones.
An MLP of ten neurons adds to the stream; the toy should give ``x + relu(x)`` for each feature, so
there are twice as many functions as neurons. Braun et al. 2025 (arXiv:2501.14926, section 3.2) has
the toy in larger: 100 features, 50 neurons, a stream of 1000.

``python -m mi_data.decomposition.resid_mlp`` trains three toys and writes what is missing beside
this file: the toys, and decompositions of each from one or more starts (`RUNS`). Seeded; see
README.md for minutes and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from mi_helpers.files import save_tensors
from mi_helpers.models.threads import one_thread
from mi_helpers.toys import decomposition
from mi_helpers.toys.runs import descend, seeded

FEATURES, NEURONS, STREAM, TOYS = 20, 10, 100, 3
HERE = Path(__file__).resolve().parent
USUAL = decomposition.DecompositionConfig(parts=30, sparsity=5e-4, neurons=8, steps=3000, lr=5e-3)
RUNS = {
    "usual": (3, USUAL),
    "cheap": (1, replace(USUAL, sparsity=5e-6, steps=1500)),
    "twelve": (1, replace(USUAL, parts=12)),
}
"""By name: starts a toy, and how they train. Starts of one toy lie `TOYS` instances apart."""


@dataclass(frozen=True)
class Toys:
    """Trained toys, one an instance; row j of `E[i]` is the direction of feature j."""

    E: Float[Tensor, "instance feature d_stream"]
    W_in: Float[Tensor, "instance d_stream neuron"]
    W_out: Float[Tensor, "instance neuron d_stream"]

    def weights(self) -> dict[str, Tensor]:
        """The two matrices that are decomposed."""
        return {"W_in": self.W_in, "W_out": self.W_out}

    def repeated(self, starts: int) -> Toys:
        """The toys several times, for as many starts of each."""
        return Toys(*(w.repeat(starts, 1, 1) for w in (self.E, self.W_in, self.W_out)))

    def forward(
        self, x: Float[Tensor, "instance input feature"], matrices: decomposition.Matrices
    ) -> Tensor:
        """The toys' outputs, from whole or masked matrices."""
        stream = x @ self.E
        hidden = matrices("W_in", stream).relu()
        return (stream + matrices("W_out", hidden)) @ self.E.mT


def draw(
    generator: torch.Generator, batch: int = 256, instances: int = TOYS
) -> Float[Tensor, "instance input feature"]:
    """Inputs from -1 to 1, of which one feature in twenty is there."""
    shape = instances, batch, FEATURES
    values = 2 * torch.rand(shape, generator=generator) - 1
    return values * (torch.rand(shape, generator=generator) < 1 / FEATURES)


def wanted(x: Tensor) -> Tensor:
    """What a toy is trained to give."""
    return x + x.relu()


@one_thread()
def train(steps: int = 3000, lr: float = 3e-3) -> Toys:
    """Train the toys side by side.

    What the matrices do outside the features' directions is never seen; it is taken out at the end,
    which leaves the toys' outputs as they are.
    """
    start = seeded(0, 0)
    E = torch.randn(TOYS, FEATURES, STREAM, generator=start)
    E = E / E.norm(dim=-1, keepdim=True)
    W_in = torch.randn(TOYS, STREAM, NEURONS, generator=start) / STREAM**0.5
    W_out = torch.randn(TOYS, NEURONS, STREAM, generator=start) / NEURONS**0.5
    toys = Toys(E, W_in.requires_grad_(), W_out.requires_grad_())
    optimizer = torch.optim.AdamW([toys.W_in, toys.W_out], weight_decay=0.01)
    for step in range(steps):
        x = draw(seeded(0, step + 1), 1024)
        wrong = toys.forward(x, decomposition.Whole(toys.weights())) - wanted(x)
        rate = lr * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / steps))))
        descend(optimizer, wrong.square().mean((1, 2)).sum(), rate)
    seen = torch.linalg.pinv(E) @ E
    return Toys(E, (seen @ toys.W_in).detach(), (toys.W_out @ seen).detach())


def toys() -> Toys:
    """The committed toys."""
    return Toys(**{k: v.float() for k, v in load_file(HERE / "resid_mlp.safetensors").items()})


def parts(name: str) -> decomposition.Decomposition:
    """A committed decomposition of the toys: one of `RUNS`."""
    weights = toys().repeated(RUNS[name][0]).weights()
    return decomposition.load(HERE / f"resid_mlp_{name}.safetensors", weights)


def truth(some: Toys) -> Float[Tensor, "instance part feature neuron"]:
    """What the true parts of `W_in` do to features: part j passes on feature j, and no other."""
    rows = some.E @ some.W_in
    return torch.eye(FEATURES)[:, :, None] * rows[:, None]


def main(report: Callable[[str], None] = print) -> None:
    """Write what is missing."""
    if not (HERE / "resid_mlp.safetensors").exists():
        found = train()
        tensors = {"E": found.E, "W_in": found.W_in, "W_out": found.W_out}
        save_tensors(HERE / "resid_mlp.safetensors", {k: v.half() for k, v in tensors.items()})
    for name, (starts, config) in RUNS.items():
        path, some = HERE / f"resid_mlp_{name}.safetensors", toys().repeated(starts)
        if not path.exists():
            run = decomposition.start(some.weights(), config)
            decomposition.train(run, some.forward, partial(draw, instances=starts * TOYS))
            decomposition.save(run, path, half=True)
            report(f"{name}: {run.log[-1]}")


if __name__ == "__main__":
    main()
