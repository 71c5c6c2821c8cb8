"""Decomposition of the residual stream, and direct logit attribution.

Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "Virtual Weights and
the Residual Stream as a Communication Channel".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.lens.stream import require_sum, writes_to_stream
from mi_helpers.models import parts
from mi_helpers.sites import Head, Place, read, require_tokens, require_unpadded


@dataclass(frozen=True)
class Decomposition:
    """The final residual stream as a list of what was written to it."""

    labels: tuple[str, ...]
    """Names of the parts, in the order in which the model writes them (see `component_labels`)."""
    parts: Float[Tensor, "part batch pos d_model"]
    stream: Float[Tensor, "batch pos d_model"]
    """The model's own final stream: equal to `parts.sum(0)` up to rounding."""


@dataclass(frozen=True)
class LogitAttribution:
    """What each component adds to a logit, or to a difference of two logits, at one position.

    Positive: the component raises the right answer (against the wrong one, where there is one).
    All fields together sum to the model's logit, or logit difference. Unit: logits (nats).
    """

    embed: Float[Tensor, " batch"]
    pos: Float[Tensor, " batch"]
    heads: Float[Tensor, "batch layer head"]
    attn_bias: Float[Tensor, "batch layer"]
    mlps: Float[Tensor, "batch layer"]
    unembed_bias: Float[Tensor, " batch"]

    def stacked(self) -> Float[Tensor, "batch part"]:
        """Every part in the order of `component_labels`, the unembedding's bias last."""
        blocks = torch.cat([self.heads, self.attn_bias[..., None], self.mlps[..., None]], dim=-1)
        start = torch.stack([self.embed, self.pos], dim=1)
        return torch.cat([start, blocks.flatten(1), self.unembed_bias[:, None]], dim=1)

    def total(self) -> Float[Tensor, " batch"]:
        """The sum of all parts: the model's logit or logit difference."""
        return self.stacked().sum(1)

    def cumulative(self) -> Float[Tensor, "batch half_layer"]:
        """The running total before each half-layer and at the end, `2 * n_layers + 1` entries.

        In the order of `logit_lens(..., incl_mid=True)`: 0_pre, 0_mid, 1_pre, …, final_post. All
        have the unembedding's bias, and the *final* LayerNorm scale; the lens uses its own in each.
        Where attention and MLP run in parallel, what is between them never was in the stream.
        """
        steps = torch.stack([self.heads.sum(-1) + self.attn_bias, self.mlps], dim=-1).flatten(1)
        start = (self.embed + self.pos + self.unembed_bias)[:, None]
        return torch.cat([start, steps], dim=1).cumsum(1)


def component_labels(model: TransformerBridge) -> tuple[str, ...]:
    """Names of the parts of the final stream: "embed", "pos", then per layer heads, bias, MLP."""
    labels = ["embed", "pos"]
    for layer in range(model.cfg.n_layers):
        labels += [str(Head(layer, head)) for head in range(model.cfg.n_heads)]
        labels += [f"L{layer} attn bias", f"L{layer} MLP"]
    return tuple(labels)


@torch.no_grad()
def decompose(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], positions: Sequence[int] = (-1,)
) -> Decomposition:
    """Split the final residual stream at `positions` into everything that was written to it.

    Embedding, position, every head, the attention's output bias of every layer and every MLP; the
    parts add up to the stream exactly. What an architecture lacks, positions or biases, is zero.
    Heads are computed from `hook_z` and `W_O`, so `set_use_attn_result` is not needed. Memory:
    `parts`, and `hook_z` at the positions asked for.

    Args:
        model: Any model that `load_model` gives.
        tokens: The prompts.
        positions: Where the stream is read; negative ones count from the end.

    Returns:
        The parts and the model's own stream, in the units of the stream.

    Raises:
        ValueError: Tokens that are no `[batch, pos]` integers, or padded; a position outside them;
            a model whose stream is not the sum of these parts.
    """
    writes = writes_to_stream(model, tokens, positions)
    blocks = []
    for layer, z in enumerate(writes.z):
        heads = torch.einsum("bphe,hed->hbpd", z, model.W_O[layer])
        bias = parts.bias(model, layer, "b_O").expand_as(heads[0])
        blocks += [*heads, bias, writes.mlp_out[layer]]
    written = torch.stack([writes.embed, writes.pos, *blocks])
    require_sum(written.sum(0), writes.stream, model)
    return Decomposition(component_labels(model), written, writes.stream)


@torch.no_grad()
def logit_attribution(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    answer_tokens: Int[Tensor, " batch"] | Int[Tensor, "batch 2"],
    *,
    position: int = -1,
) -> LogitAttribution:
    """Direct logit attribution: what each component adds to the answer's logit at `position`.

    The final normalisation divides by a scale that depends on the whole stream. It is frozen at its
    value in this run, so that the parts sum to the logit exactly; what a component does to the
    scale is counted for nobody. This says what a component writes, not what would happen without
    it.

    Args:
        model: Any model that `load_model` gives.
        tokens: The prompts.
        answer_tokens: The answer of each prompt, or (right, wrong) for their logit difference.
        position: Where the answer is predicted.

    Returns:
        The shares, in logits; positive ones raise the (right) answer.

    Raises:
        ValueError: As `decompose`; answers that do not fit the tokens or the vocabulary; a model
            that caps its logits, which are then no sum.
    """
    direction, bias = _answer_direction(model, answer_tokens, tokens)
    writes = writes_to_stream(model, tokens, [position])
    reading = _reading(model, direction, writes.stream[:, 0])
    z = torch.stack([layer_z[:, 0] for layer_z in writes.z], dim=1)
    attribution = LogitAttribution(
        embed=_dot(writes.embed[:, 0], reading),
        pos=_dot(writes.pos[:, 0], reading),
        heads=torch.einsum("lhed,bd,blhe->blh", model.W_O, reading, z),
        attn_bias=torch.einsum("ld,bd->bl", parts.stacked_bias(model, "b_O"), reading),
        mlps=torch.stack([_dot(out[:, 0], reading) for out in writes.mlp_out], dim=1),
        unembed_bias=bias,
    )
    require_sum(attribution.total() - bias, _dot(writes.stream[:, 0], reading), model)
    return attribution


@torch.no_grad()
def head_source_attribution(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    answer_tokens: Int[Tensor, " batch"] | Int[Tensor, "batch 2"],
    *,
    position: int = -1,
) -> Float[Tensor, "batch layer head source"]:
    """Split each head's direct logit attribution by the position that the head read from.

    A head's output at `position` is a sum over source positions of attention times value, so its
    attribution splits the same way.

    Args:
        model: Any model that `load_model` gives.
        tokens: The prompts.
        answer_tokens: As in `logit_attribution`.
        position: As in `logit_attribution`.

    Returns:
        Shares as there; summed over `source` they are `logit_attribution(...).heads`.

    Raises:
        ValueError: As `logit_attribution`.
    """
    direction, _ = _answer_direction(model, answer_tokens, tokens)
    require_tokens(tokens, [position])
    require_unpadded(model, tokens)
    parts.require_plain_writes(model)
    layers, last = range(model.cfg.n_layers), ("resid_post", model.cfg.n_layers - 1)
    places: list[Place] = [last, *((site, i) for i in layers for site in ("v", "pattern"))]
    cache = read(model, tokens, places)
    reading = _reading(model, direction, cache[last][:, position])
    per_layer = []
    for i in layers:
        v = cache["v", i]
        v = v.repeat_interleave(model.cfg.n_heads // v.shape[2], dim=2)
        value = torch.einsum("hed,bd,bshe->bhs", model.W_O[i], reading, v)
        per_layer.append(cache["pattern", i][:, position] * value)
    return torch.stack(per_layer, dim=1)


def _answer_direction(
    model: TransformerBridge, answer_tokens: Tensor, tokens: Tensor
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """The direction of the unembedding that the answer is read along, and its share of b_U."""
    require_tokens(tokens)
    cap = getattr(model.cfg, "output_logits_soft_cap", None) or -1.0
    if cap > 0:
        raise ValueError(
            f"{model.cfg.model_name} caps its logits at {cap:g} by a tanh, so they are no sum of "
            "what components write: use decompose, or patching"
        )
    batch, d_vocab = tokens.shape[0], model.W_U.shape[1]
    if tuple(answer_tokens.shape) not in {(batch,), (batch, 2)}:
        raise ValueError(
            f"answer_tokens must have shape [{batch}] (the answer) or [{batch}, 2] (right, wrong) "
            f"for {batch} prompts, got {list(answer_tokens.shape)}"
        )
    if answer_tokens.min() < 0 or answer_tokens.max() >= d_vocab:
        raise ValueError(f"answer_tokens not in 0..{d_vocab - 1}: {answer_tokens.tolist()}")
    direction, bias = model.W_U.T[answer_tokens], model.b_U[answer_tokens]
    if answer_tokens.ndim == 1:
        return direction, bias
    return direction[:, 0] - direction[:, 1], bias[:, 0] - bias[:, 1]


def _reading(model: TransformerBridge, direction: Tensor, stream: Tensor) -> Tensor:
    """Turn a direction of the unembedding into one of the stream, the final LayerNorm frozen.

    Centring is linear and symmetric, so the direction may be centred in place of every part.
    """
    gain = getattr(model.ln_final, "weight", None)
    folded = 0.0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 1.0  # Gemma's is 1 + w
    if gain is not None and not torch.allclose(gain, torch.full_like(gain, folded)):
        raise ValueError("the final LayerNorm is not folded: load the model with mi.load_model")
    if model.cfg.normalization_type in ("LN", "LNPre"):
        stream = stream - stream.mean(-1, keepdim=True)
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / (stream.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
