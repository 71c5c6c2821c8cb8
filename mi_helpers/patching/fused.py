"""GPT-2's forward pass in plain torch functions, in pieces that can be entered anywhere.

The bridge runs the model module by module, with a hook at each step. To run one model thousands of
times it pays to leave the hooks out and to fuse what can be fused. The weights are the bridge's own
(folded and centred), and `engine.prepare` compares this pass with the bridge's before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.patching.inputs import Change
from mi_helpers.patching.linear import FixedLinear
from mi_helpers.patching.runs import Run

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class FusedGPT2:
    """The weights of a GPT-2 and the pieces of its forward pass; any leading axes."""

    def __init__(self, model: TransformerBridge) -> None:
        cfg = model.cfg
        self.n_layers, self.n_heads = cfg.n_layers, cfg.n_heads
        self.d_model, self.d_head, self.d_mlp = cfg.d_model, cfg.d_head, int(cfg.d_mlp or 0)
        self.W_E, self.W_pos, self.W_U, self.b_U = model.W_E, model.W_pos, model.W_U, model.b_U
        self.W_O = [block.attn.W_O.detach() for block in model.blocks]
        self.W_QKV = [(b.attn.W_Q, b.attn.W_K, b.attn.W_V) for b in model.blocks]
        self.b_QKV = [(b.attn.b_Q, b.attn.b_K, b.attn.b_V) for b in model.blocks]
        self.b_O = [block.attn.b_O for block in model.blocks]
        self._norms = [_norm(block.ln1) for block in model.blocks]
        self._mid_norms = [_norm(block.ln2) for block in model.blocks]
        self._final_norm = _norm(model.ln_final)
        self._eps = cfg.eps
        self._qkv = [_qkv_linear(block.attn) for block in model.blocks]
        self._o = [
            FixedLinear(block.attn.W_O.flatten(0, 1).T, block.attn.b_O) for block in model.blocks
        ]
        self._in = [
            FixedLinear(block.mlp.W_in.T, block.mlp.b_in, gelu=True) for block in model.blocks
        ]
        self._out = [FixedLinear(block.mlp.W_out.T, block.mlp.b_out) for block in model.blocks]

    @staticmethod
    def supports(model: TransformerBridge) -> bool:
        """Whether the model is a GPT-2 in single precision; others go through the bridge."""
        cfg = model.cfg
        return (
            cfg.architecture == "GPT2LMHeadModel"
            and cfg.act_fn == "gelu_new"
            and cfg.dtype == torch.float32
            and not cfg.scale_attn_by_inverse_layer_idx
        )

    @property
    def bytes_per_row(self) -> int:
        """A bound on the memory of one position of one prompt while a layer is computed."""
        return 4 * (14 * self.d_model + 2 * self.d_mlp)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before the first block."""
        return self.W_E[tokens] + self.W_pos[: tokens.shape[1]]

    def qkv(self, layer: int, resid: Float[Tensor, "... d_model"]) -> tuple[Tensor, ...]:
        """Queries, keys and values [... head d_head] from the residual stream."""
        x = self._qkv[layer](self._normed(resid, self._norms[layer]))
        return x.view(*resid.shape[:-1], 3, self.n_heads, self.d_head).unbind(-3)

    def attend(
        self,
        q: Float[Tensor, "*lead query head d_head"],
        k: Float[Tensor, "*lead key head d_head"],
        v: Float[Tensor, "*lead key head d_head"],
    ) -> Float[Tensor, "*lead query head d_head"]:
        """z: causal attention of the last positions' queries to all positions' keys."""
        shape, n_key = q.shape, k.shape[-3]
        seen = torch.ones(shape[-3], n_key, dtype=torch.bool, device=q.device)
        q, k, v = (x.flatten(0, -4).transpose(1, 2) for x in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.tril(n_key - shape[-3]))
        return z.transpose(1, 2).reshape(shape)

    def attn_out(self, layer: int, z: Float[Tensor, "... head d_head"]) -> Tensor:
        """What the attention layer writes, output bias included, [... d_model]."""
        return self._o[layer](z.flatten(-2))

    def head_result(self, layer: int, z: Float[Tensor, "... head d_head"]) -> Tensor:
        """What each head writes, [... head d_model]; the output bias belongs to none."""
        return torch.einsum("...hd,hdm->...hm", z, self.W_O[layer])

    def mlp(self, layer: int, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the MLP writes, from the residual stream in the middle of the block."""
        return self._out[layer](self._in[layer](self._normed(resid, self._mid_norms[layer])))

    def final_normed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final LayerNorm."""
        return self._normed(resid, self._final_norm)

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits from the residual stream after the last block."""
        return self.final_normed(resid) @ self.W_U + self.b_U

    def normed(self, layer: int, resid: Tensor, *, mid: bool = False) -> Tensor:
        """The LayerNorm before attention, or before the MLP with `mid`."""
        return self._normed(resid, (self._mid_norms if mid else self._norms)[layer])

    def norm_vjp(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        grad: Float[Tensor, "batch pos reader d_model"],
        *,
        mid: bool = False,
    ) -> Float[Tensor, "batch pos reader d_model"]:
        """Gradients after a LayerNorm taken back through it, for many readers of one stream."""
        weight = (self._mid_norms if mid else self._norms)[layer][0]
        grad = grad if weight is None else grad * weight
        centred = resid - resid.mean(dim=-1, keepdim=True)
        scale = (centred.pow(2).mean(dim=-1, keepdim=True) + self._eps).sqrt()
        normed, scale = (centred / scale)[:, :, None], scale[:, :, None]
        along = (grad * normed).mean(dim=-1, keepdim=True)
        return (grad - grad.mean(dim=-1, keepdim=True) - normed * along) / scale

    def _normed(self, x: Tensor, norm: tuple[Tensor | None, Tensor | None]) -> Tensor:
        return F.layer_norm(x, (self.d_model,), norm[0], norm[1], self._eps)

    def trace(self, tokens: Int[Tensor, "batch pos"], change: Change | None = None) -> Run:
        """One forward pass; every site can be asked for afterwards."""
        acts: dict[tuple[str, int], Tensor] = {}
        resid = self.embed(tokens) if change is None else change(self.embed(tokens))
        for layer in range(self.n_layers):
            q, k, v = self.qkv(layer, resid)
            z = self.attend(q, k, v)
            attn_out = self.attn_out(layer, z)
            mid = resid + attn_out
            mlp_out = self.mlp(layer, mid)
            here = dict(q=q, k=k, v=v, z=z, attn_out=attn_out)
            here |= dict(resid_pre=resid, resid_mid=mid, mlp_out=mlp_out, resid_post=mid + mlp_out)
            acts |= {(site, layer): value for site, value in here.items()}
            resid = here["resid_post"]
        return Run(tokens, acts, resid, self._derive, change)

    def _derive(self, run: Run, site: str, layer: int) -> Tensor:
        """The sites that a trace does not keep, because few ask for them."""
        if site == "pattern":
            return _pattern(run.get("q", layer), run.get("k", layer))
        if site == "result":
            return self.head_result(layer, run.get("z", layer))
        raise KeyError(f"this run has no {site} in layer {layer}")


def _pattern(q: Tensor, k: Tensor) -> Float[Tensor, "batch dest head src"]:
    scores = torch.einsum("bqhd,bkhd->bqhk", q, k) * q.shape[-1] ** -0.5
    future = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future[:, None], -torch.inf).softmax(dim=-1)


def _norm(ln: Any) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a LayerNorm, or None where folding has made them 1 and 0."""
    weight, bias = ln.weight.detach(), ln.bias.detach()
    return (None if (weight == 1).all() else weight), (None if (bias == 0).all() else bias)


def _qkv_linear(attn: Any) -> FixedLinear:
    """One product for queries, keys and values of all heads."""
    weights = [w.permute(0, 2, 1).flatten(0, 1) for w in (attn.W_Q, attn.W_K, attn.W_V)]
    biases = [b.flatten() for b in (attn.b_Q, attn.b_K, attn.b_V)]
    return FixedLinear(torch.cat(weights), torch.cat(biases))
