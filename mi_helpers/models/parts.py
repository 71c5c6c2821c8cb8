"""What differs between architectures and is easily forgotten: asked here, in one place.

Some have no biases, some multiply the embeddings, some normalise what a sub-layer writes before it
is added. A helper that reads weights asks here, and is right on such a model or refuses it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


def bias(model: TransformerBridge, layer: int, name: str) -> Float[Tensor, "*shape"]:
    """A bias of one layer; zeros where the architecture has none.

    Args:
        model: Any bridge.
        layer: Counted from 0.
        name: "b_Q" (`[head d_head]`), "b_K" or "b_V" (`[key head, d_head]`, of which there may be
            fewer), "b_O" or "b_out" (`[d_model]`).
    """
    block = model.blocks[layer]
    found = getattr(block.mlp if name == "b_out" else block.attn, name, None)
    if found is not None:
        return found
    if name in ("b_O", "b_out"):
        return model.W_E.new_zeros(model.cfg.d_model)
    weight = getattr(block.attn, name.replace("b_", "W_"))
    return weight.new_zeros(len(weight), model.cfg.d_head)


def embedding(
    model: TransformerBridge, tokens: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape d_model"]:
    """What tokens put into the residual stream: rows of W_E, times the model's factor if any."""
    return model.embed(tokens)


def adds_positions(model: TransformerBridge) -> bool:
    """Whether a position embedding is added to the stream; rotary models have none."""
    return model.cfg.positional_embedding_type == "standard"


def require_plain_writes(model: TransformerBridge) -> None:
    """Raise ValueError where a sub-layer's output is normalised before it is added to the stream.

    What `W_O` and `W_out` write is then not what arrives (Gemma 2 and 3, OLMo 2).
    """
    extra = [name for name in ("ln1_post", "ln2_post") if hasattr(model.blocks[0], name)]
    if extra:
        raise ValueError(
            f"{model.cfg.model_name} normalises what heads and MLPs write before it is added "
            f"({', '.join(extra)}): its weights do not say what arrives in the stream"
        )


def key_head(model: TransformerBridge, layer: int, head: int) -> int:
    """The key-value head that a query head reads: its own, unless several share one."""
    return head * len(model.blocks[layer].attn.W_K) // model.cfg.n_heads


def stacked_bias(model: TransformerBridge, name: str) -> Float[Tensor, "layer *shape"]:
    """The biases of every layer, as `bias` gives them."""
    return torch.stack([bias(model, layer, name) for layer in range(model.cfg.n_layers)])
