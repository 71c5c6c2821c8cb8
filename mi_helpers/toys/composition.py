"""Train networks of one hidden layer to compose the elements of a finite group, seeds side by side.

Each element has an embedding as the first factor and another as the second; a ReLU layer reads both
and an unembedding writes the logits of the product. Several seeds are trained as one: their weights
are stacked, nothing is shared, and one batched product serves all. `runs` trains them.

Source: Chughtai, Chan, Nanda 2023, A Toy Model of Universality (arXiv:2302.03025), for the task and
the model; Stander et al. 2024 (arXiv:2312.06581) train the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mi_helpers.toys import groups, runs

_KINDS = {"C": groups.cyclic, "D": groups.dihedral, "S": groups.symmetric, "A": groups.alternating}


@dataclass(frozen=True)
class CompositionConfig:
    """Training runs that differ by their seed alone; equal fields give equal numbers."""

    group: str = "S4"
    """A letter and a number: C cyclic, D dihedral, S symmetric, A alternating."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    d_embed: int = 32
    d_hidden: int = 128
    share: float = 0.6
    """Of all pairs, how many are trained on."""
    shuffled: bool = False
    """Deal the products out to the pairs at random: nothing is left but to memorise them."""
    lr: float = 1e-2
    weight_decay: float = 2.0
    log_every: int = 50

    def __post_init__(self) -> None:
        """ValueError for what cannot be trained, before anything is computed."""
        kind, number = self.group[:1], self.group[1:]
        if kind not in _KINDS or not number.isdigit() or int(number) < 3:
            raise ValueError(f"group must be like C7, D5, S4 or A5, got {self.group!r}")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds must be different numbers, got {self.seeds}")
        if not 1 <= self.n_trained < _group(self.group).order ** 2:
            raise ValueError(f"share must leave pairs on both sides, got {self.share}")

    @property
    def n_trained(self) -> int:
        """How many pairs each seed is trained on."""
        return int(self.share * _group(self.group).order ** 2)


def group_of(config: CompositionConfig) -> groups.Group:
    """The group that a configuration names."""
    return _group(config.group)


@lru_cache
def _group(name: str) -> groups.Group:
    return _KINDS[name[0]](int(name[1:]))


class Composers(nn.Module):
    """One network for each seed: two embeddings, a ReLU layer without bias, an unembedding."""

    def __init__(self, config: CompositionConfig) -> None:
        """Random weights; the global random state stays as it was."""
        super().__init__()
        g, d, h = group_of(config).order, config.d_embed, config.d_hidden
        generators = [torch.Generator().manual_seed(seed) for seed in config.seeds]

        def normal(*shape: int) -> nn.Parameter:
            rows = [shape[0] ** -0.5 * torch.randn(*shape, generator=g) for g in generators]
            return nn.Parameter(torch.stack(rows))

        self.embed_left, self.embed_right = normal(g, d), normal(g, d)
        self.in_left, self.in_right = normal(d, h), normal(d, h)
        self.unembed = normal(h, g)

    def tables(self) -> tuple[Float[Tensor, "seed g neuron"], Float[Tensor, "seed g neuron"]]:
        """What each neuron receives from each element as the first, and as the second factor."""
        return self.embed_left @ self.in_left, self.embed_right @ self.in_right

    def forward(self, pairs: Int[Tensor, "seed pair 2"]) -> Float[Tensor, "seed pair g"]:
        """The logits of the product."""
        rows = torch.arange(len(pairs))[:, None]
        left, right = self.tables()
        return (left[rows, pairs[..., 0]] + right[rows, pairs[..., 1]]).relu() @ self.unembed


class CompositionRun(runs.Run[CompositionConfig, Composers]):
    """Several seeds on their way; every measure has one number for each."""

    @cached_property
    def _split(self) -> tuple[Int[Tensor, "seed pair 2"], Int[Tensor, "seed pair"], int]:
        """All pairs of each seed, those that are trained on first; products; how many are."""
        config, g = self.config, group_of(self.config).order
        order = torch.stack([_order(seed, g, 0) for seed in config.seeds])
        pairs = torch.stack([order // g, order % g], dim=-1)
        return pairs, products(config).gather(1, order), config.n_trained

    def loss(self) -> Float[Tensor, ""]:
        """Of the trained pairs, in nats: mean over pairs, sum over seeds."""
        pairs, answers, n = self._split
        return cross_entropy(self.model(pairs[:, :n]), answers[:, :n]).sum()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, with the configuration's weight decay."""
        return runs.adamw(self.model, self.config.weight_decay)

    @torch.no_grad()
    def measures(self) -> dict[str, Tensor]:
        """Loss in nats and accuracy, on trained and on held-out pairs [seed]."""
        pairs, answers, n = self._split
        logits, result = self.model(pairs), {}
        for name, some in {"train": slice(n), "test": slice(n, None)}.items():
            result[f"{name}_loss"] = cross_entropy(logits[:, some], answers[:, some])
            right = logits[:, some].argmax(-1) == answers[:, some]
            result[f"{name}_accuracy"] = right.double().mean(-1)
        return result


def start(config: CompositionConfig) -> CompositionRun:
    """A run at step 0, for `runs.train`."""
    return CompositionRun(config, Composers(config))


def cross_entropy(
    logits: Float[Tensor, "seed pair g"], answers: Int[Tensor, "seed pair"]
) -> Float[Tensor, "seed"]:
    """Mean loss in nats for each seed."""
    return F.cross_entropy(logits.mT, answers, reduction="none").mean(-1)


def products(config: CompositionConfig) -> Int[Tensor, "seed pair"]:
    """The answer to each pair (a, b), number a * order + b: a b, unless shuffled."""
    g = group_of(config)
    answers = g.table.flatten().expand(len(config.seeds), -1)
    if config.shuffled:
        deal = torch.stack([_order(seed, g.order, 1) for seed in config.seeds])
        answers = answers.gather(1, deal)
    return answers


def held_out(config: CompositionConfig) -> Bool[Tensor, "seed pair"]:
    """Which pairs each seed was not trained on."""
    g = group_of(config).order
    result = torch.zeros(len(config.seeds), g * g, dtype=torch.bool)
    for row, seed in zip(result, config.seeds, strict=True):
        row[_order(seed, g, 0)[config.n_trained :]] = True
    return result


def load(path: str | Path) -> tuple[Composers, CompositionConfig]:
    """Committed networks, or others that `runs.save` wrote; errors as `runs.load`."""
    return runs.load(path, CompositionConfig, Composers, "mi_data.groups.train")


def _order(seed: int, g: int, stream: int) -> Int[Tensor, "pair"]:
    """A random order of all pairs."""
    return torch.randperm(g * g, generator=runs.seeded(seed, stream))
