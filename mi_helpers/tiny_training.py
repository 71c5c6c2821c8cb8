"""Train an attention-only transformer on repeated random tokens, and watch induction heads form.

Plain PyTorch, seconds on a laptop. Every sequence repeats a block of distinct random tokens whose
length differs from sequence to sequence, so a fixed offset does not help: after the first copy, the
next token follows from finding the current one earlier in the sequence and reading what came next.

Source: Olsson et al. 2022, In-context Learning and Induction Heads (arXiv:2209.11895), for the
phase change and the one-layer control; the task and the sizes here are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import trange

from mi_helpers.heads import token_targets
from mi_helpers.metrics import loss


@dataclass(frozen=True)
class TinyConfig:
    """One training run; two runs with equal fields give equal numbers on one machine."""

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
        n_pos, patterns = tokens.shape[1], []
        future = torch.ones(n_pos, n_pos, dtype=torch.bool).triu(1)
        stream = self.embed[tokens] + self.pos_embed[:n_pos]
        for qkv, out in zip(self.qkv, self.out, strict=True):
            normal = nn.functional.layer_norm(stream, stream.shape[-1:])
            by_head = (normal @ qkv).unflatten(-1, (3, self.n_heads, -1)).movedim(-2, 1)
            q, k, v = by_head.unbind(-2)
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
            patterns.append(scores.softmax(-1))
            stream = stream + (patterns[-1] @ v).movedim(1, -2).flatten(-2) @ out
        return nn.functional.layer_norm(stream, stream.shape[-1:]) @ self.unembed, torch.stack(
            patterns
        )


@dataclass
class TrainingRun:
    """A model on its way, with all that is needed to go on exactly where it stopped."""

    config: TinyConfig
    model: AttentionOnly
    optimizer: torch.optim.Adam
    step: int = 0
    log: list[dict[str, Tensor]] = field(default_factory=list)
    """What `measure` found, and the "step" it was at."""

    def curve(self, name: str) -> Float[Tensor, "logged *any"]:
        """One measure over training; KeyError when nothing of that name is logged."""
        return torch.stack([row[name] for row in self.log])


def start(config: TinyConfig | None = None) -> TrainingRun:
    """A run at step 0."""
    config = config or TinyConfig()
    model = AttentionOnly(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.98))
    return TrainingRun(config, model, optimizer)


def train(run: TrainingRun, steps: int, *, progress: bool = True) -> TrainingRun:
    """Train until `steps` steps are done in all, measuring every `log_every` and at the end.

    A run that was interrupted goes on where it stopped and ends as if it had not been: batch n
    depends on the seed and on n alone.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for step in trange(run.step, steps, initial=run.step, total=steps, disable=not progress):
        if step % run.config.log_every == 0:
            _log(run)
        tokens, _ = draw(run.config, run.config.batch, step)
        run.optimizer.zero_grad()
        loss(run.model(tokens)[0], tokens).mean().backward()
        run.optimizer.step()
        run.step = step + 1
    _log(run)
    return run


def draw(
    config: TinyConfig, batch: int, step: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """The sequences of one step and their periods; step -1 is the held-out batch."""
    generator = torch.Generator().manual_seed(1_000_003 * (config.seed + 1) + step)
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


def _log(run: TrainingRun) -> None:
    """Measure this step, unless that is done."""
    if not run.log or run.log[-1]["step"] != run.step:
        run.log.append({"step": torch.tensor(run.step), **measure(run.model, run.config)})
