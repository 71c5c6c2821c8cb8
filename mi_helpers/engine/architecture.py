"""The model's forward pass in plain torch functions, step by step, to be entered anywhere.

The bridge runs the model module by module, with a hook at each. To run one model thousands of times
it pays to leave the hooks out and to fuse what can be fused. A block is written down once, as a
list of steps; each reads some sites and writes others:

1. the stream is normalised and projected: q, k, v from resid_pre;
2. each head mixes the values of earlier positions by its pattern: z from q, k, v;
3. the heads' results are summed: attn_out from z;
4. they are added to the stream: resid_mid from resid_pre and attn_out;
5. the stream is normalised again: mlp_in from resid_mid;
6. the neurons: mlp_post from mlp_in;
7. what they write: mlp_out from mlp_post;
8. it is added to the stream: resid_post, the next block's resid_pre.

Where attention and MLP stand side by side (GPT-NeoX), there is no step 4: step 5 reads resid_pre,
and step 8 adds both.

`walk` takes these steps one after the other; so does the batched engine, which lets cells enter
between any two. The weights are the bridge's own (folded and centred), and `engine.prepare`
compares this pass with the bridge's before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.utilities.activation_functions import softcap_enabled

from mi_helpers.engine.linear import FixedLinear, Gelu
from mi_helpers.engine.parts import Norm, positions_of
from mi_helpers.engine.runs import Change, Run
from mi_helpers.sites import Place

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Step:
    """One step of a block.

    Attributes:
        writes: The sites that it computes.
        reads: The sites of the same layer that it computes them from.
        compute: From the layer and the activations of `reads` to those of `writes`.
    """

    writes: tuple[str, ...]
    reads: tuple[str, ...]
    compute: Callable[..., tuple[Tensor, ...]]


class FusedModel:
    """The weights of a model and the steps of its forward pass; any leading axes.

    What distinguishes architectures is read from the configuration and from the weights: the norm
    (LayerNorm or RMSNorm), position embeddings or rotary positions, keys and values that several
    heads share, gated MLPs, and attention and MLP side by side.
    """

    def __init__(self, model: TransformerBridge) -> None:
        cfg, blocks = model.cfg, model.blocks
        self.n_layers, self.n_heads = cfg.n_layers, cfg.n_heads
        self.d_model, self.d_head, self.d_mlp = cfg.d_model, cfg.d_head, int(cfg.d_mlp or 0)
        self.parallel, self.gated = bool(cfg.parallel_attn_mlp), bool(cfg.gated_mlp)
        self.W_E, self.W_U, self.b_U = model.W_E, model.W_U, model.b_U
        self._embed_scale = getattr(model.embed.original_component, "embed_scale", None)
        self._positions = positions_of(model)
        self.W_O = [block.attn.W_O.detach() for block in blocks]
        self.W_QKV = [(b.attn.W_Q, b.attn.W_K, b.attn.W_V) for b in blocks]
        self.b_QKV = [(b.attn.b_Q, b.attn.b_K, b.attn.b_V) for b in blocks]
        self.b_O = [block.attn.b_O for block in blocks]
        self._scale = getattr(blocks[0].attn.original_component, "scaling", self.d_head**-0.5)
        self._norms = [Norm.of(block.ln1, cfg) for block in blocks]
        self._mid_norms = [Norm.of(block.ln2, cfg) for block in blocks]
        self._final_norm = Norm.of(model.ln_final, cfg)
        self._qkv = [_qkv_linear(block.attn) for block in blocks]
        self._o = [FixedLinear(b.attn.W_O.flatten(0, 1).T, b.attn.b_O) for b in blocks]
        self._act, gelu = _ACTIVATIONS[cfg.act_fn]
        self._in = [_in_linear(b.mlp, self.gated, None if self.gated else gelu) for b in blocks]
        self._out = [FixedLinear(b.mlp.W_out.T, b.mlp.b_out) for b in blocks]

    @staticmethod
    def supports(model: TransformerBridge) -> bool:
        """Whether the model is of an architecture written down here, in single precision.

        Others go through the bridge, and so does one that the fused pass does not reproduce.
        """
        cfg = model.cfg
        caps = (
            getattr(cfg, f"{where}_soft_cap", None) for where in ("attn_scores", "output_logits")
        )
        return (
            cfg.architecture in ARCHITECTURES
            and cfg.act_fn in _ACTIVATIONS
            and cfg.dtype == torch.float32
            and not getattr(cfg, "scale_attn_by_inverse_layer_idx", False)
            and not any(map(softcap_enabled, caps))
        )

    @property
    def mlp_reads(self) -> str:
        """The site that the MLP reads: the stream in the middle of the block, or before it."""
        return "resid_pre" if self.parallel else "resid_mid"

    @property
    def steps(self) -> tuple[Step, ...]:
        """A block, in the order in which it is computed."""
        parts: tuple[str, ...] = ("resid_mid", "mlp_out")
        steps = [
            Step(("q", "k", "v"), ("resid_pre",), self.qkv),
            Step(("z",), ("q", "k", "v"), lambda layer, *qkv: (self.attend(*qkv),)),
            Step(("attn_out",), ("z",), lambda layer, z: (self.attn_out(layer, z),)),
        ]
        if self.parallel:  # the MLP reads what attention reads, and both are added at the end
            parts = ("resid_pre", "attn_out", "mlp_out")
        else:
            steps.append(Step(("resid_mid",), ("resid_pre", "attn_out"), _sum))
        return (
            *steps,
            Step(
                ("mlp_in",), (self.mlp_reads,), lambda layer, x: (self.normed(layer, x, mid=True),)
            ),
            Step(("mlp_post",), ("mlp_in",), lambda layer, x: (self.neurons(layer, x),)),
            Step(("mlp_out",), ("mlp_post",), lambda layer, x: (self._out[layer](x),)),
            Step(("resid_post",), parts, _sum),
        )

    def walk(
        self, tokens: Int[Tensor, "batch pos"], change: Change | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
        """The sites of one forward pass in their order, each as soon as it is known.

        Args:
            tokens: The prompts.
            change: What is done to their embeddings.
        """
        resid, steps = self.embed(tokens), self.steps
        resid = resid if change is None else change(resid)
        for layer in range(self.n_layers):
            acts = {"resid_pre": resid}
            yield ("resid_pre", layer), resid
            for step in steps:
                made = step.compute(layer, *(acts[site] for site in step.reads))
                for site, act in zip(step.writes, made, strict=True):
                    acts[site] = act
                    yield (site, layer), act
            resid = acts["resid_post"]

    def trace(self, tokens: Int[Tensor, "batch pos"], change: Change | None = None) -> Run:
        """One forward pass; every site can be asked for afterwards."""
        walked = self.walk(tokens, change)
        acts = {place: act for place, act in walked if place[0] not in ("mlp_in", "mlp_post")}
        return Run(tokens, acts, acts["resid_post", self.n_layers - 1], self._derive, change)

    def _derive(self, run: Run, site: str, layer: int) -> Tensor:
        """The sites that a trace does not keep, because they are large and few ask for them."""
        if site == "pattern":
            return self.pattern(run.get("q", layer), run.get("k", layer))
        if site == "result":
            return self.head_result(layer, run.get("z", layer))
        for step in self.steps:
            if site in step.writes and 0 <= layer < self.n_layers:
                made = step.compute(layer, *(run.get(read, layer) for read in step.reads))
                return made[step.writes.index(site)]
        raise KeyError(f"this model does not compute {site} in layer {layer}")

    @property
    def bytes_per_row(self) -> int:
        """A bound on the memory of one position of one prompt while a layer is computed."""
        return 4 * (14 * self.d_model + (4 if self.gated else 2) * self.d_mlp)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before the first block."""
        resid = self.W_E[tokens]
        if self._embed_scale is not None:
            resid = resid * self._embed_scale
        return self._positions.added(resid)

    def qkv(self, layer: int, resid: Float[Tensor, "... d_model"]) -> tuple[Tensor, ...]:
        """Queries, keys and values [... head d_head] from the residual stream, not yet rotated."""
        heads = self._qkv[layer](self.normed(layer, resid)).unflatten(-1, (-1, self.d_head))
        shared = (heads.shape[-2] - self.n_heads) // 2
        return heads.split((self.n_heads, shared, shared), dim=-2)

    def attend(
        self,
        q: Float[Tensor, "*lead query head d_head"],
        k: Float[Tensor, "*lead key shared d_head"],
        v: Float[Tensor, "*lead key shared d_head"],
    ) -> Float[Tensor, "*lead query head d_head"]:
        """z: causal attention of the last positions' queries to all positions' keys."""
        shape, n_key = q.shape, k.shape[-3]
        seen = torch.ones(shape[-3], n_key, dtype=torch.bool, device=q.device)
        q, k = self._positions.rotated(q, n_key), self._positions.rotated(k, n_key)
        q, k, v = (x.flatten(0, -4).transpose(1, 2) for x in (q, k, v))
        z = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=seen.tril(n_key - shape[-3]),
            scale=self._scale,
            enable_gqa=k.shape[1] < self.n_heads,
        )
        return z.transpose(1, 2).reshape(shape)

    def pattern(
        self, q: Float[Tensor, "batch pos head d_head"], k: Float[Tensor, "batch pos shared d_head"]
    ) -> Float[Tensor, "batch dest head src"]:
        """How much each head attends from each position to each other, from queries and keys."""
        n_pos = q.shape[1]
        q, k = self._positions.rotated(q, n_pos), self._positions.rotated(k, n_pos)
        scores = torch.einsum("bqhd,bkhd->bqhk", q, self._for_each_head(k)) * self._scale
        future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(future[:, None], -torch.inf).softmax(dim=-1)

    def mix(
        self,
        pattern: Float[Tensor, "... query head key"],
        v: Float[Tensor, "... key shared d_head"],
    ) -> Float[Tensor, "... query head d_head"]:
        """z, from a given pattern."""
        return torch.einsum("...qhk,...khd->...qhd", pattern, self._for_each_head(v))

    def _for_each_head(self, shared: Tensor) -> Float[Tensor, "... head d_head"]:
        """Keys or values, repeated for the heads that share them."""
        return shared.repeat_interleave(self.n_heads // shared.shape[-2], dim=-2)

    def attn_out(self, layer: int, z: Float[Tensor, "... head d_head"]) -> Tensor:
        """What the attention layer writes, output bias included, [... d_model]."""
        return self._o[layer](z.flatten(-2))

    def head_result(self, layer: int, z: Float[Tensor, "... head d_head"]) -> Tensor:
        """What each head writes, [... head d_model]; the output bias belongs to none."""
        return torch.einsum("...hd,hdm->...hm", z, self.W_O[layer])

    def mlp(self, layer: int, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the MLP writes, from the residual stream at the site `mlp_reads`."""
        return self._out[layer](self.neurons(layer, self.normed(layer, resid, mid=True)))

    def neurons(
        self, layer: int, mlp_in: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_mlp"]:
        """What the neurons are, from the normalised stream."""
        x = self._in[layer](mlp_in)
        if not self.gated:
            return x if self._in[layer].gelu else self._act(x)
        gate, linear = x.chunk(2, dim=-1)
        return self._act(gate) * linear

    def normed(self, layer: int, resid: Tensor, *, mid: bool = False) -> Tensor:
        """The norm before attention, or before the MLP with `mid`."""
        return (self._mid_norms if mid else self._norms)[layer](resid)

    def final_normed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final norm."""
        return self._final_norm(resid)

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits from the residual stream after the last block."""
        return self.final_normed(resid) @ self.W_U + self.b_U

    def norm_vjp(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        grad: Float[Tensor, "batch pos reader d_model"],
        *,
        mid: bool = False,
    ) -> Float[Tensor, "batch pos reader d_model"]:
        """Gradients after a norm taken back through it, for many readers of one stream."""
        return (self._mid_norms if mid else self._norms)[layer].vjp(resid, grad)


ARCHITECTURES = (
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "GemmaForCausalLM",
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
)
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Gelu | None]] = {
    "gelu": (F.gelu, "none"),
    "gelu_new": (partial(F.gelu, approximate="tanh"), "tanh"),
    "gelu_pytorch_tanh": (partial(F.gelu, approximate="tanh"), "tanh"),
    "silu": (F.silu, None),
    "relu": (F.relu, None),
}
"""Each as a function, and as what `FixedLinear` can append to a product."""


def _sum(layer: int, *parts: Tensor) -> tuple[Tensor]:
    """What several parts write to the stream together."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return (total,)


def _qkv_linear(attn: Any) -> FixedLinear:
    """One product for queries, keys and values of all heads."""
    weights = [w.permute(0, 2, 1).flatten(0, 1) for w in (attn.W_Q, attn.W_K, attn.W_V)]
    biases = [b.flatten() for b in (attn.b_Q, attn.b_K, attn.b_V) if b is not None]
    return FixedLinear(torch.cat(weights), torch.cat(biases) if biases else None)


def _in_linear(mlp: Any, gated: bool, gelu: Gelu | None) -> FixedLinear:
    """One product for what the neurons read: gate and linear part in one, where there is a gate."""
    if not gated:
        return FixedLinear(mlp.W_in.T, mlp.b_in, gelu=gelu)
    weight = torch.cat([mlp.W_gate.T, mlp.W_in.T])
    biases = [b for b in (mlp.b_gate, mlp.b_in) if b is not None]
    return FixedLinear(weight, torch.cat(biases) if biases else None)
