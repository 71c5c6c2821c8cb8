"""Train a one-layer transformer to add modulo a prime, on some of the pairs, and watch it grok.

Plain PyTorch, seconds to minutes on one thread. Every step takes all training pairs at once, so the
only chance is in the first weights and in which pairs are held out. The text is "a b =", and the
answer is read at "=": queries, MLP and unembedding are computed there alone, and keys and values
once for each token and place, which is exact for one layer and many times as fast.

Source: Power et al. 2022, Grokking (arXiv:2201.02177), for the phenomenon; Nanda et al. 2023,
Progress measures for grokking via mechanistic interpretability (arXiv:2301.05217), for the model
(ReLU, no LayerNorm, untied, full batch, AdamW) and its sizes at p = 113.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mi_helpers.toys import runs


@dataclass(frozen=True)
class ModularConfig:
    """One training run; two runs with equal fields give equal numbers on one machine."""

    p: int = 71
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    share: float = 0.33
    """Of all pairs, how many are trained on."""
    shuffled: bool = False
    """Deal the answers out to the pairs at random: nothing is left but to memorise them."""
    lr: float = 5e-3
    weight_decay: float = 3.0
    seed: int = 0
    log_every: int = 25

    def __post_init__(self) -> None:
        """ValueError for sizes that cannot work together, before anything is computed."""
        if self.p < 3 or any(self.p % n == 0 for n in range(2, int(self.p**0.5) + 1)):
            raise ValueError(f"p must be an odd prime, got {self.p}")
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ValueError(f"d_model = {self.d_model} must be a multiple of {self.n_heads} heads")
        if not 1 <= int(self.share * self.p**2) < self.p**2:
            raise ValueError(f"share must leave pairs on both sides, got {self.share}")


class ModularTransformer(nn.Module):
    """Embedding, one layer of attention, a ReLU MLP, unembedding; no LayerNorm; reads at "="."""

    def __init__(self, config: ModularConfig) -> None:
        """Random weights from `config.seed`; the global random state stays as it was."""
        super().__init__()
        self.p, d, heads = config.p, config.d_model, config.n_heads
        generator = torch.Generator().manual_seed(config.seed)

        def normal(*shape: int, fan_in: int = d) -> nn.Parameter:
            return nn.Parameter(fan_in**-0.5 * torch.randn(*shape, generator=generator))

        self.embed = normal(config.p + 1, d)
        """The numbers 0 to p - 1, and "="."""
        self.pos_embed = normal(3, d)
        self.q, self.k, self.v = (normal(heads, d, d // heads) for _ in range(3))
        self.out = normal(heads, d // heads, d)
        self.w_in, self.b_in = normal(d, config.d_mlp), nn.Parameter(torch.zeros(config.d_mlp))
        self.w_out = normal(config.d_mlp, d, fan_in=config.d_mlp)
        self.b_out = nn.Parameter(torch.zeros(d))
        self.unembed = normal(d, config.p)

    def stream(self, pairs: Int[Tensor, "pair 2"]) -> Float[Tensor, "pair d_model"]:
        """The residual stream at "=", between attention and MLP."""
        numbers, end = self.embed[: self.p], self.embed[self.p] + self.pos_embed[2]
        tables = [numbers + self.pos_embed[0], numbers + self.pos_embed[1], end[None]]
        rows = [pairs[:, 0], pairs[:, 1], torch.zeros_like(pairs[:, 0])]
        query = torch.einsum("d,hde->he", end, self.q) * self.q.shape[-1] ** -0.5
        reads = torch.einsum("he,hde->dh", query, self.k)
        scores = torch.stack([(x @ reads)[i] for x, i in zip(tables, rows, strict=True)])
        by_token = [torch.einsum("td,hde->the", x, self.v) for x in tables]
        values = [x[i] for x, i in zip(by_token, rows, strict=True)]
        pattern = scores.softmax(0)[..., None]
        z = pattern[0] * values[0] + pattern[1] * values[1] + pattern[2] * values[2]
        return end + z.flatten(1) @ self.out.flatten(0, 1)

    def neurons(self, pairs: Int[Tensor, "pair 2"]) -> Float[Tensor, "pair d_mlp"]:
        """The MLP's activations at "=", after the ReLU."""
        return (self.stream(pairs) @ self.w_in + self.b_in).relu()

    def forward(self, pairs: Int[Tensor, "pair 2"]) -> Float[Tensor, "pair p"]:
        """The logits of the answer."""
        stream = self.stream(pairs)
        neurons = (stream @ self.w_in + self.b_in).relu()
        return (stream + neurons @ self.w_out + self.b_out) @ self.unembed


class ModularRun(runs.Run[ModularConfig, ModularTransformer]):
    """Addition modulo a prime, on its way."""

    @cached_property
    def _batch(self) -> tuple[Int[Tensor, "pair 2"], Int[Tensor, "pair"]]:
        trained = training_pairs(self.config)
        return all_pairs(self.config.p)[trained], targets(self.config)[trained]

    def loss(self) -> Float[Tensor, ""]:
        """Of the trained pairs, in nats."""
        pairs, answers = self._batch
        return cross_entropy(self.model(pairs), answers)

    def new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, with the configuration's weight decay."""
        return runs.adamw(self.model, self.config.weight_decay)

    def measures(self) -> dict[str, Tensor]:
        """See `measure`."""
        return measure(self.model, self.config)


def start(config: ModularConfig | None = None) -> ModularRun:
    """A run at step 0, for `runs.train`."""
    config = config or ModularConfig()
    return ModularRun(config, ModularTransformer(config))


def cross_entropy(
    logits: Float[Tensor, "pair p"], answers: Int[Tensor, "pair"]
) -> Float[Tensor, ""]:
    """Mean loss in nats, in double precision: late in training it is below single's resolution."""
    return F.cross_entropy(logits.double(), answers)


def all_pairs(p: int) -> Int[Tensor, "pair 2"]:
    """Every (a, b); pair a * p + b, so that `x.view(p, p, ...)` is indexed by a and b."""
    return torch.cartesian_prod(torch.arange(p), torch.arange(p))


def targets(config: ModularConfig) -> Int[Tensor, "pair"]:
    """The answer that each pair is trained or tested on: a + b modulo p, unless shuffled."""
    answers = all_pairs(config.p).sum(-1) % config.p
    if not config.shuffled:
        return answers
    return answers[torch.randperm(len(answers), generator=runs.seeded(config.seed, 1))]


def training_pairs(config: ModularConfig) -> Bool[Tensor, "pair"]:
    """Which pairs are trained on."""
    order = torch.randperm(config.p**2, generator=runs.seeded(config.seed, 0))
    first = order[: int(config.share * config.p**2)]
    return torch.zeros(config.p**2, dtype=torch.bool).index_fill(0, first, True)


def held_out_pairs(config: ModularConfig) -> Bool[Tensor, "pair"]:
    """Which pairs are tested on: trained on neither as (a, b) nor as (b, a).

    A model that has only memorised gets some mirror images of trained pairs right, so they are left
    out of the test.

    Raises:
        ValueError: There are none.
    """
    trained = training_pairs(config)
    held_out = ~(trained | trained.view(config.p, config.p).T.flatten())
    if not held_out.any():
        raise ValueError(f"share = {config.share} leaves no pair out in both orders")
    return held_out


@torch.no_grad()
def measure(model: ModularTransformer, config: ModularConfig) -> dict[str, Tensor]:
    """Loss in nats and accuracy from 0 to 1 on trained and held-out pairs, and the weights' size.

    "train_loss", "test_loss", "train_accuracy", "test_accuracy", where the test is on
    `held_out_pairs`; "weight_norm": root of the sum of all squared weights.

    Args:
        model: In any state.
        config: Whose task.
    """
    logits, answers = model(all_pairs(config.p)), targets(config)
    result = {}
    for name, some in {"train": training_pairs(config), "test": held_out_pairs(config)}.items():
        result[f"{name}_loss"] = cross_entropy(logits[some], answers[some])
        result[f"{name}_accuracy"] = (logits[some].argmax(-1) == answers[some]).double().mean()
    squares = [weight.square().sum() for weight in model.parameters()]
    return result | {"weight_norm": torch.stack(squares).sum().sqrt()}


def load(path: str | Path) -> tuple[ModularTransformer, ModularConfig]:
    """A committed model, or another that `runs.save` wrote; errors as `runs.load`."""
    return runs.load(path, ModularConfig, ModularTransformer, "mi_data.grokking.train")
