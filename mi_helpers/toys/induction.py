"""Train an attention-only transformer on repeated random tokens, and watch induction heads form.

Plain PyTorch, seconds on a laptop. Every sequence repeats a block of distinct random tokens whose
length differs from sequence to sequence, so a fixed offset does not help: after the first copy, the
next token follows from finding the current one earlier in the sequence and reading what came next.

Source: Olsson et al. 2022, In-context Learning and Induction Heads (arXiv:2209.11895), for the
phase change and the one-layer control; the task and the sizes here are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_helpers.heads import token_targets
from mi_helpers.metrics import loss
from mi_helpers.toys import runs


@dataclass(frozen=True)
class TinyConfig:
    """One training run; two runs with equal fields give equal numbers on one machine.

    With `previous_token_given` the heads of the first layer need not learn where to look: from the
    first step on all of them attend to the token before. Such clamping during training is how Singh
    et al. 2024 (arXiv:2404.07129) ask which part of the circuit the sudden change waits for.
    """

    n_layers: int = 2
    n_heads: int = 2
    d_model: int = 64
    d_vocab: int = 64
    n_ctx: int = 48
    periods: tuple[int, int] = (8, 20)
    batch: int = 32
    lr: float = 2e-3
    seed: int = 0
    log_every: int = 20
    previous_token_given: bool = False

    def __post_init__(self) -> None:
        """ValueError for sizes that cannot work together, before anything is computed."""
        low, high = self.periods
        if not 1 <= low <= high <= min(self.d_vocab, self.n_ctx // 2):
            raise ValueError(
                f"periods {self.periods} must hold 1 <= low <= high, with high at most d_vocab = "
                f"{self.d_vocab} (tokens of a block differ) and n_ctx / 2 = {self.n_ctx // 2}"
            )
        if self.n_layers < 1 or self.n_heads < 1 or self.d_model % self.n_heads:
            raise ValueError(
                f"{self.n_layers} layers of {self.n_heads} heads do not fit d_model = "
                f"{self.d_model}: one of each at least, and d_model divisible by n_heads"
            )


class AttentionOnly(nn.Module):
    """Embedding, learned positions, layers of attention heads, unembedding; LayerNorm, no MLP."""

    def __init__(self, config: TinyConfig) -> None:
        """Random weights from `config.seed`; the global random state stays as it was."""
        super().__init__()
        self.n_heads, d, layers = config.n_heads, config.d_model, config.n_layers
        self.previous_token_given = config.previous_token_given
        generator = torch.Generator().manual_seed(config.seed)

        def normal(*shape: int, std: float = 1.0) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(*shape, generator=generator))

        self.embed = normal(config.d_vocab, d)
        self.pos_embed = normal(config.n_ctx, d)
        self.qkv = nn.ParameterList(normal(d, 3 * d, std=d**-0.5) for _ in range(layers))
        self.out = nn.ParameterList(
            normal(d, d, std=(2 * layers * d) ** -0.5) for _ in range(layers)
        )
        self.unembed = normal(d, config.d_vocab, std=d**-0.5)

    def forward(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], Float[Tensor, "layer batch head query key"]]:
        """Logits, and every layer's attention pattern."""
        n_pos = tokens.shape[1]
        patterns: list[Tensor] = []
        future = torch.ones(n_pos, n_pos, dtype=torch.bool).triu(1)
        stream = self.embed[tokens] + self.pos_embed[:n_pos]
        for qkv, out in zip(self.qkv, self.out, strict=True):
            normal = nn.functional.layer_norm(stream, stream.shape[-1:])
            by_head = (normal @ qkv).unflatten(-1, (3, self.n_heads, -1)).movedim(-2, 1)
            q, k, v = by_head.unbind(-2)
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
            pattern = scores.softmax(-1)
            if self.previous_token_given and not patterns:
                pattern = _looks_back(n_pos).expand_as(pattern)
            patterns.append(pattern)
            stream = stream + (patterns[-1] @ v).movedim(1, -2).flatten(-2) @ out
        return nn.functional.layer_norm(stream, stream.shape[-1:]) @ self.unembed, torch.stack(
            patterns
        )


def _looks_back(n_pos: int) -> Float[Tensor, "query key"]:
    """All attention on the token before; the first position has only itself."""
    pattern = torch.ones(n_pos - 1).diag(-1)
    pattern[0, 0] = 1
    return pattern


class InductionRun(runs.Run[TinyConfig, AttentionOnly]):
    """A model on its way; batch n depends on the seed and on n alone."""

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.98))

    def rate(self) -> float:
        """The same for all steps."""
        return self.config.lr

    def loss(self) -> Float[Tensor, ""]:
        """Of the next token, in nats."""
        tokens, _ = draw(self.config, self.config.batch, self.step)
        return loss(self.model(tokens)[0], tokens).mean()

    def measures(self) -> dict[str, Tensor]:
        """See `measure`."""
        return measure(self.model, self.config)


def start(config: TinyConfig | None = None) -> InductionRun:
    """A run at step 0, for `runs.train`."""
    config = config or TinyConfig()
    return InductionRun(config, AttentionOnly(config))


def draw(
    config: TinyConfig, batch: int, step: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """The sequences of one step and their periods.

    Args:
        config: Whose task.
        batch: How many sequences.
        step: Of the training; -1 is the held-out batch.
    """
    generator = runs.seeded(config.seed, step)
    low, high = config.periods
    period = torch.randint(low, high + 1, (batch,), generator=generator)
    block = torch.rand(batch, config.d_vocab, generator=generator).argsort(-1)
    place = torch.arange(config.n_ctx) % period[:, None]
    return block.gather(1, place), period


@torch.no_grad()
def measure(model: AttentionOnly, config: TinyConfig, batch: int = 64) -> dict[str, Tensor]:
    """Held-out measures: losses in nats, scores of every head from 0 to 1.

    "first_copy" and "repeats": mean loss on tokens that the sequence does not, and does, determine.
    "in_context": loss of the last eight positions minus that of the first eight; negative when
    context helps. "induction", "previous_token": `[layer, head]`, as `heads.attention_scores`.

    Args:
        model: In any state.
        config: Whose task.
        batch: How many held-out sequences.
    """
    tokens, period = draw(config, batch, -1)
    logits, patterns = model(tokens)
    losses = loss(logits, tokens)
    known = torch.arange(1, config.n_ctx) > period[:, None]
    result = {
        "loss": losses.mean(),
        "first_copy": losses[~known].mean(),
        "repeats": losses[known].mean(),
        "in_context": losses[:, -8:].mean() - losses[:, :8].mean(),
    }
    for kind in ("induction", "previous_token"):
        target = token_targets(tokens, kind)
        attended = torch.einsum("lbhqk,bqk->lh", patterns, target.float())
        result[kind] = attended / target.any(-1).sum()
    return result
