"""One run held still: what is linear in it, once patterns, scales and active units are fixed.

An MLP is replaced by its transcoder plus what that lacks in this run. With attention patterns, the
scales of the norms and the set of active units as they were, every logit and every unit's
pre-activation is then a linear function of the token embeddings, the units' activations and the
errors: the local replacement model [Ameisen et al. 2025]. `FrozenRun` holds the parts of one
prompt, and takes gradients back through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.activation_functions import softcap_enabled

from mi_helpers.engine import Norm
from mi_helpers.sae.core import Sae
from mi_helpers.sae.cross_layer import Earlier, by_layer
from mi_helpers.sae.splice import require_fit
from mi_helpers.sae.stream import require_no_left_padding, special_tokens
from mi_helpers.sites import hook_name, place_of, read

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class FrozenNorm:
    """A norm whose scale is a constant, so that it is linear."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    scale: Float[Tensor, "pos 1"]
    centred: bool

    @classmethod
    def of(cls, ln: Any, cfg: Any, x: Float[Tensor, "pos d_model"]) -> FrozenNorm:
        """The norm of a bridge's module, with the scale that it has on `x`."""
        norm = Norm.of(ln, cfg)
        weight = x.new_ones(x.shape[-1]) if norm.weight is None else norm.weight
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias
        return cls(weight, bias, norm.divided(x)[1], norm.centred)

    def __call__(self, x: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_model"]:
        """The norm of other inputs, divided by the same scale."""
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x / self.scale * self.weight + self.bias

    def back(self, grad: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_model"]:
        """Gradients after the norm taken to its input."""
        grad = grad * self.weight / self.scale
        return grad - grad.mean(-1, keepdim=True) if self.centred else grad


@dataclass(frozen=True)
class FrozenLayer:
    """One block of one run.

    Attributes:
        transcoder: What stands in for the MLP.
        earlier: What units of the layers below write to its output, where they cross layers.
        pattern: The attention.
        W_V, b_V, W_O, b_O: What heads move; those that share values have them repeated.
        before_attention, before_mlp: The norms.
        acts: The transcoder's activations, 0 at the positions that are spared.
        error: What the transcoder lacks of the MLP's output; at spared positions, all of it.
        on: Where the transcoder stands in: all positions but the first and special tokens.
    """

    transcoder: Sae
    earlier: Earlier
    pattern: Float[Tensor, "query head key"]
    W_V: Float[Tensor, "head d_model d_head"]
    b_V: Float[Tensor, "head d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"]
    before_attention: FrozenNorm
    before_mlp: FrozenNorm
    acts: Float[Tensor, "pos d_sae"]
    error: Float[Tensor, "pos d_model"]
    on: Bool[Tensor, " pos"]

    def attention_back(
        self, grad: Float[Tensor, "target pos d_model"]
    ) -> tuple[Float[Tensor, "target pos d_model"], Float[Tensor, " target"]]:
        """Gradients behind the attention taken before it, and what its constants give."""
        n, pos, d = grad.shape
        heads, d_head = self.W_O.shape[:2]
        z = (grad.reshape(n * pos, d) @ self.W_O.flatten(0, 1).T).view(n, pos, heads, d_head)
        const = (grad @ self.b_O).sum(1) + torch.einsum("tqhd,hd->t", z, self.b_V)
        z = z.permute(2, 1, 0, 3).reshape(heads, pos, n * d_head)
        v = torch.bmm(self.pattern.permute(1, 2, 0), z).view(heads, pos, n, d_head)
        v = v.permute(2, 1, 0, 3).reshape(n * pos, heads * d_head)
        normed = (v @ self.W_V.permute(0, 2, 1).flatten(0, 1)).view(n, pos, d)
        const = const + (normed @ self.before_attention.bias).sum(1)
        return grad + self.before_attention.back(normed), const

    def mlp_back(
        self, grad: Float[Tensor, "target pos d_model"]
    ) -> tuple[Float[Tensor, "target pos d_model"], Float[Tensor, " target"]]:
        """The same for the MLP: through the transcoder's linear part, and its bias."""
        there = grad * self.on[:, None]
        const = (there @ self.transcoder.b_dec).sum(1)
        if self.transcoder.W_skip is None:
            return grad, const
        normed = there @ self.transcoder.W_skip.T
        const = const + (normed @ self.before_mlp.bias).sum(1)
        return grad + self.before_mlp.back(normed), const


@dataclass(frozen=True)
class FrozenRun:
    """A run on one prompt, held still.

    Attributes:
        tokens: The prompt.
        layers: Its blocks.
        embedded: What each token's embedding writes to the stream.
        positions: What positions write: constants, as is the first token's MLP output, for it sees
            nothing but itself.
        final: The last norm.
        logits: The model's, at the last position, centred over the vocabulary.
        W_U, b_U: The unembedding, centred likewise.
    """

    tokens: Int[Tensor, " pos"]
    layers: tuple[FrozenLayer, ...]
    embedded: Float[Tensor, "pos d_model"]
    positions: Float[Tensor, "pos d_model"]
    final: FrozenNorm
    logits: Float[Tensor, " vocab"]
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"]


@torch.no_grad()
def frozen_run(
    model: TransformerBridge, transcoders: Sequence[Sae], tokens: Int[Tensor, "1 pos"]
) -> FrozenRun:
    """Run the model on one prompt and hold still what it did. Errors as `attribution_graph`."""
    own, earlier = require_transcoders(model, transcoders)
    require_no_left_padding(model, tokens)
    if tokens.shape[0] != 1 or tokens.shape[1] < 2:
        raise ValueError(
            f"one prompt of two tokens or more is needed, [1, pos], got {list(tokens.shape)}"
        )
    cfg = model.cfg
    tokens = tokens.to(cfg.device)
    sites = ("resid_pre", "pattern", "resid_mid", "mlp_in", "mlp_out", "resid_post")
    places = [(site, layer) for layer in range(cfg.n_layers) for site in sites]
    acts = {p: act[0].float() for p, act in read(model, tokens, places).items()}
    on = ~special_tokens(model, tokens)[0]
    on[0] = False
    start = acts["resid_pre", 0]
    positions = torch.zeros_like(start)
    if cfg.positional_embedding_type == "standard":
        positions = model.W_pos[: len(start)].detach().float()
    logits, W_U = model(tokens)[0, -1].float(), model.W_U.detach().float()
    b_U = torch.zeros_like(logits) if model.b_U is None else model.b_U.detach().float()
    layers: list[FrozenLayer] = []
    for i, one in enumerate(own):
        before = [layer.acts for layer in layers]
        layers.append(_layer(model, one, earlier[i], before, acts, i, on))
    return FrozenRun(
        tokens[0],
        tuple(layers),
        start - positions,
        positions,
        FrozenNorm.of(model.ln_final, cfg, acts["resid_post", cfg.n_layers - 1]),
        logits - logits.mean(),
        W_U - W_U.mean(1, keepdim=True),
        b_U - b_U.mean(),
    )


def _layer(
    model: TransformerBridge,
    transcoder: Sae,
    earlier: Earlier,
    before: Sequence[Tensor],
    acts: dict[Any, Tensor],
    layer: int,
    on: Bool[Tensor, " pos"],
) -> FrozenLayer:
    block, cfg = model.blocks[layer], model.cfg
    attn = block.attn
    x, y = acts["mlp_in", layer], acts["mlp_out", layer]
    W_V, W_O = attn.W_V.detach().float(), attn.W_O.detach().float()
    b_V, b_O = attn.b_V, attn.b_O
    b_V = W_V.new_zeros(len(W_V), W_V.shape[-1]) if b_V is None else b_V.detach().float()
    times = cfg.n_heads // len(W_V)
    predicted = transcoder(x)
    for active, W_dec in zip(before[: len(earlier)], earlier, strict=True):
        predicted = predicted + active @ W_dec
    return FrozenLayer(
        transcoder,
        earlier,
        acts["pattern", layer],
        W_V.repeat_interleave(times, 0),
        b_V.view(len(W_V), -1).repeat_interleave(times, 0),
        W_O,
        W_O.new_zeros(W_O.shape[-1]) if b_O is None else b_O.detach().float(),
        FrozenNorm.of(block.ln1, cfg, acts["resid_pre", layer]),
        FrozenNorm.of(block.ln2, cfg, acts["resid_mid", layer]),
        transcoder.encode(x) * on[:, None],
        torch.where(on[:, None], y - predicted, y),
        on,
    )


def require_transcoders(
    model: TransformerBridge, transcoders: Sequence[Sae]
) -> tuple[list[Sae], list[Earlier]]:
    """One transcoder of each layer's MLP in the order of layers, and as `by_layer`, which see.

    Raises ValueError for blocks that are built otherwise and for transcoders that do not fit.
    """
    cfg = model.cfg
    if cfg.parallel_attn_mlp:
        raise ValueError(
            f"in {cfg.model_name} attention and MLP stand side by side, and no stream lies between "
            "them: an attribution graph needs one after the other, as in GPT-2"
        )
    caps = (getattr(cfg, f"{where}_soft_cap", None) for where in ("attn_scores", "output_logits"))
    if any(map(softcap_enabled, caps)):
        raise ValueError(f"{cfg.model_name} caps its scores or logits, which no graph can add up")
    found: dict[int, Sae] = {}
    parts, earlier = by_layer(transcoders)
    for one in parts:
        require_fit(model, one, also=("transcoder",))
        place = place_of(one.writes) or ("", -1)
        reads = ("mlp_in", place[1])
        if place[0] != "mlp_out" or one.hook != hook_name(reads):
            raise ValueError(
                f"a transcoder must read {reads} and write ('mlp_out', {place[1]}) of one layer; "
                f"this {one.family} reads {one.hook!r} and writes {one.writes!r}"
            )
        if place[1] in found:
            raise ValueError(f"two transcoders were given for the MLP of layer {place[1]}")
        found[place[1]] = one
    if missing := [i for i in range(cfg.n_layers) if i not in found]:
        raise ValueError(f"no transcoder was given for layers {missing}: each MLP needs one")
    own = [found[i] for i in range(cfg.n_layers)]
    if any(earlier) and any(a is not b for a, b in zip(own, parts, strict=True)):
        raise ValueError("places of a cross-layer transcoder must stand in the order of layers")
    return own, earlier
