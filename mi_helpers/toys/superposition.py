"""Toy models of superposition: many small bottlenecks trained at once, each with its own world.

A world has `n` features, each present with some probability and then uniform between 0 and 1. A
model squeezes them through `d_hidden` numbers and tries to get them back:
`x_hat = relu(x @ W @ W.T + b)`. All instances train side by side in one batched product: a grid
of sparsities costs little more than one model.

Source: Elhage et al. 2022, Toy Models of Superposition (arXiv:2209.10652), for the models and the
measures; sizes and schedules here are our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.models.threads import one_thread
from mi_helpers.toys.runs import descend

_BATCH, _RATE = 256, 0.01
"""Inputs a step, and Adam's rate at first."""

PAIRINGS = ("independent", "correlated", "anticorrelated")


@dataclass(frozen=True)
class Bottleneck:
    """Trained bottlenecks, one an instance. Row j of `W[i]` is the direction of feature j."""

    W: Float[Tensor, "instance feature d_hidden"]
    b: Float[Tensor, "instance feature"]
    loss: Float[Tensor, " instance"]
    """Weighted squared error of an input, mean over fresh inputs."""
    linear: bool

    def __call__(self, x: Float[Tensor, "instance batch feature"]) -> Tensor:
        """The reconstruction."""
        out = x @ self.W @ self.W.mT + self.b[:, None]
        return out if self.linear else out.relu()


def draw_features(
    density: Float[Tensor, "instance feature"],
    batch: int,
    generator: torch.Generator,
    pairing: str = "independent",
) -> Float[Tensor, "instance batch feature"]:
    """Inputs: feature j of instance i is there with probability `density[i, j]`.

    Args:
        density: The probabilities.
        batch: Inputs an instance.
        generator: Of the random numbers.
        pairing: Of features 2k and 2k + 1: "correlated" ones are there together, "anticorrelated"
            ones never (the second takes the first one's place half of the time); their values stay
            independent, the share of inputs on which each is there stays the same.

    Raises:
        ValueError: An unknown pairing, or an odd number of features to pair.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing is {pairing!r}; choose one of {', '.join(PAIRINGS)}")
    instances, n = density.shape
    if pairing != "independent" and n % 2:
        raise ValueError(f"{n} features cannot be paired: an even number is needed")
    chance = torch.rand(instances, batch, n, generator=generator)
    if pairing == "correlated":
        chance[..., 1::2] = chance[..., 0::2]
    if pairing == "anticorrelated":
        chance[..., 1::2] = 1 - chance[..., 0::2]  # both below density < 1/2 cannot be
    present = chance < density[:, None]
    return torch.rand(instances, batch, n, generator=generator) * present


@one_thread()
def train_bottleneck(
    density: Float[Tensor, "instance feature"],
    d_hidden: int,
    *,
    importance: Float[Tensor, "instance feature"] | None = None,
    linear: bool = False,
    pairing: str = "independent",
    tries: int = 1,
    steps: int = 1500,
    seed: int = 0,
) -> Bottleneck:
    """Train one bottleneck for each row of `density`, all at once.

    Args:
        density: Probability that a feature is there: 1 - sparsity.
        d_hidden: Width of the bottleneck.
        importance: Weight of each feature's squared error; equal by default.
        linear: Leave out the ReLU: the control, which does what PCA does.
        pairing: As `draw_features`.
        tries: Models trained for each row, of which the one with the lowest loss is kept.
        steps: Of Adam on fresh inputs; its rate falls linearly over the second half.
        seed: Of weights and inputs; the global random state is left alone.

    Raises:
        ValueError: Probabilities outside (0, 1], anti-correlated ones above 1/2, or shapes that
            do not fit.
    """
    importance = torch.ones_like(density) if importance is None else importance
    _require_world(density, importance, d_hidden, pairing, min(tries, steps))
    generator = torch.Generator().manual_seed(seed)
    p = density.repeat(tries, 1)
    weight = importance.repeat(tries, 1)[:, None]
    n = density.shape[1]
    W = (torch.randn(len(p), n, d_hidden, generator=generator) / d_hidden**0.5).requires_grad_()
    b = torch.zeros(len(p), n, requires_grad=True)
    model = Bottleneck(W, b, torch.zeros(len(p)), linear)

    def errors() -> Tensor:
        x = draw_features(p, _BATCH, generator, pairing)
        return (weight * (model(x) - x).square()).sum(-1).mean(-1)

    _minimise(lambda: errors().sum(), [W, b], steps)
    with torch.no_grad():
        final = torch.stack([errors() for _ in range(20)]).mean(0).view(tries, -1)
        best = final.argmin(0) * len(density) + torch.arange(len(density))
        return Bottleneck(W[best].clone(), b[best].clone(), final.min(0).values, linear)


@dataclass(frozen=True)
class AbsoluteValue:
    """Models that compute |x| of each feature with fewer neurons than features need.

    `neurons = relu(x @ W_in)`, `y = relu(neurons @ W_out + b)`; a feature alone needs two
    neurons, one for each sign.
    """

    W_in: Float[Tensor, "instance feature neuron"]
    W_out: Float[Tensor, "instance neuron feature"]
    b: Float[Tensor, "instance feature"]
    loss: Float[Tensor, " instance"]

    def neurons(self, x: Float[Tensor, "instance batch feature"]) -> Tensor:
        """Activations of the hidden layer, the only place with a non-linearity to compute with."""
        return (x @ self.W_in).relu()

    def __call__(self, x: Float[Tensor, "instance batch feature"]) -> Tensor:
        """The guesses of |x|."""
        return (self.neurons(x) @ self.W_out + self.b[:, None]).relu()


@one_thread()
def train_absolute_value(
    density: Float[Tensor, "instance feature"],
    n_neurons: int,
    *,
    steps: int = 1500,
) -> AbsoluteValue:
    """Train one model for each row of `density`; feature j has importance 0.9 ** j.

    Args:
        density: Probability that a feature is there.
        n_neurons: Width of the hidden layer.
        steps: As in `train_bottleneck`, and from its seed 0.

    Raises:
        ValueError: As `train_bottleneck`.
    """
    instances, n = density.shape
    weight = 0.9 ** torch.arange(n)
    _require_world(density, weight.expand_as(density), n_neurons, "independent", steps)
    generator = torch.Generator().manual_seed(0)
    W_in = torch.randn(instances, n, n_neurons, generator=generator) / n**0.5
    W_out = torch.randn(instances, n_neurons, n, generator=generator) / n_neurons**0.5
    b = torch.zeros(instances, n)
    leaves = [parameter.requires_grad_() for parameter in (W_in, W_out, b)]
    model = AbsoluteValue(leaves[0], leaves[1], leaves[2], torch.zeros(instances))

    def errors() -> Tensor:
        x = draw_features(density, _BATCH, generator)
        x = x * (1 - 2 * (torch.rand(x.shape, generator=generator) < 0.5).float())
        return (weight * (model(x) - x.abs()).square()).sum(-1).mean(-1)

    _minimise(lambda: errors().sum(), leaves, steps)
    with torch.no_grad():
        loss = torch.stack([errors() for _ in range(20)]).mean(0)
        W_in, W_out, b = (leaf.detach().clone() for leaf in leaves)
        return AbsoluteValue(W_in, W_out, b, loss)


def represented(
    W: Float[Tensor, "*instance feature d_hidden"], least: float = 0.5
) -> Bool[Tensor, "*instance feature"]:
    """Which features got a direction at all: one of length at least `least`."""
    return W.norm(dim=-1) > least


def interference(
    W: Float[Tensor, "*instance feature d_hidden"],
) -> Float[Tensor, "*instance feature"]:
    """For each feature, the sum of squared cosines of its direction with all other features.

    Zero for a feature with a dimension of its own; long directions of others count more:
    sum over j of (w_i / |w_i| . w_j)^2. Source: Elhage et al. 2022, "Superposition as a phase
    change".
    """
    unit = W / W.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    overlaps = (unit @ W.mT).square()
    return overlaps.sum(-1) - overlaps.diagonal(dim1=-2, dim2=-1)


def dimensionality(
    W: Float[Tensor, "*instance feature d_hidden"],
) -> Float[Tensor, "*instance feature"]:
    """The share of a dimension that a feature has for itself, from 0 to 1.

    |w_i|^2 / sum over j of (w_i / |w_i| . w_j)^2: 1 alone, 1/2 in an antipodal pair, 2/3 in a
    triangle, 2/5 in a pentagon, 0 if not represented. Source: Elhage et al. 2022, "The geometry
    of superposition".
    """
    length = W.square().sum(-1)
    return length / (length + interference(W)).clamp_min(1e-9)


def features_per_neuron(
    W_in: Float[Tensor, "*instance feature neuron"],
) -> Float[Tensor, "*instance neuron"]:
    """How many features a neuron reads, effectively: (sum of w^2)^2 / sum of w^4, at least 1."""
    square = W_in.square()
    return square.sum(-2).square() / square.square().sum(-2).clamp_min(1e-12)


def _minimise(loss: Callable[[], Tensor], leaves: list[Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(leaves)
    for step in range(steps):
        descend(optimizer, loss(), _RATE * min(1.0, 2 * (steps - step) / steps))


def _require_world(
    density: Tensor, importance: Tensor, d_hidden: int, pairing: str, least: int
) -> None:
    if density.ndim != 2 or importance.shape != density.shape:
        raise ValueError(
            f"density must be [instance, feature], got {list(density.shape)}, and importance the "
            f"same, got {list(importance.shape)}"
        )
    top = 0.5 if pairing == "anticorrelated" else 1.0
    if not (0 < float(density.min()) and float(density.max()) <= top):
        raise ValueError(f"density must be above 0 and at most {top}, got {density.tolist()}")
    if float(importance.min()) < 0:
        raise ValueError(f"importance must not be negative, got {importance.tolist()}")
    if d_hidden < 1 or least < 1:
        raise ValueError("d_hidden, tries and steps must be at least 1")
