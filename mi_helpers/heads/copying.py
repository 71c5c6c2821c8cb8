"""Does a head write the token that it attends to? Three measures, from the weights alone.

Sources: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, for eigenvalues;
Wang et al. 2022, Interpretability in the Wild, for the share among the top k.
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.heads.weights import embedded, ov_factors, require_vocabulary


@torch.no_grad()
def copying_eigenvalues(model: TransformerBridge) -> Float[Tensor, "layer head"]:
    """Copying by eigenvalues, Σ Re λ / Σ |λ|: 1 raises what is read, -1 lowers it.

    λ are the eigenvalues of W_E W_OV W_U, tokens to logits. At most d_head of them are not zero,
    found as those of the small d_head × d_head product taken in the other order.
    Source: Elhage et al. 2021, "Summarizing OV/QK Matrices", for the measure.

    Raises:
        ValueError: A model whose weights do not say what heads write.
    """
    w_v, w_o = ov_factors(model)
    eigenvalues = torch.linalg.eigvals(w_o @ (model.W_U @ model.W_E) @ w_v)
    return eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)


@torch.no_grad()
def copying_percentiles(
    model: TransformerBridge, tokens: Int[Tensor, " n"], *, through_mlp0: bool = False
) -> Float[Tensor, "layer head"]:
    """Copying looked at directly: how high a head ranks the token that it attends to.

    For each token, the head's output when it reads that token's embedding is unembedded; the score
    is the share of the other `tokens` that get a lower logit than the token itself, averaged. 1:
    always first, 0.5: by chance, 0: always last. A few hundred random tokens stand in for the
    vocabulary.

    Args:
        model: Any model that `load_model` gives.
        tokens: Token ids, at least two.
        through_mlp0: Whether the head reads the embedding as the first layer's MLP extends it,
            which is what later heads of GPT-2 see.

    Raises:
        ValueError: Fewer than two tokens, tokens outside the vocabulary, or a model whose weights
            do not say what heads write.
    """
    require_vocabulary(model, tokens)
    if len(tokens) < 2:
        raise ValueError(f"one token ({tokens.tolist()}) has none to be compared with: give more")
    read = embedded(model, tokens, through_mlp0)
    (w_v, w_o), unembed = ov_factors(model), model.W_U[:, tokens]
    scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        logits = (read @ w_v[layer]) @ (w_o[layer] @ unembed)
        lower = logits < logits.diagonal(dim1=1, dim2=2)[:, :, None]
        scores[layer] = (lower.sum(-1) / (len(tokens) - 1)).mean(-1).cpu()
    return scores


@torch.no_grad()
def copying_top_k(
    model: TransformerBridge,
    tokens: Int[Tensor, " n"],
    k: int = 5,
    *,
    through_mlp0: bool = True,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """The share of tokens that a head, reading one, puts among the k first, and the k last, of all.

    The first says that the head copies what it attends to, the second that it writes against it;
    by chance both are k / d_vocab. The head's output is unembedded without the final LayerNorm's
    scale, which changes no order, and without the unembedding's bias.
    Source: Wang et al. 2022, Interpretability in the Wild, section 3.1 (copy score).

    Args:
        model: Any model that `load_model` gives.
        tokens: Token ids.
        k: How many of the vocabulary count as first and as last.
        through_mlp0: As in `copying_percentiles`.

    Returns:
        The share among the first, and the share among the last.

    Raises:
        ValueError: As `copying_percentiles`, no tokens, or a `k` larger than the vocabulary.
    """
    require_vocabulary(model, tokens)
    if not 1 <= k <= model.cfg.d_vocab:
        raise ValueError(f"k must be from 1 to {model.cfg.d_vocab}, the vocabulary, got {k}")
    read = embedded(model, tokens, through_mlp0)
    w_v, w_o = ov_factors(model)
    shares = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        logits = read @ w_v[layer, head] @ w_o[layer, head] @ model.W_U
        for i, largest in enumerate((True, False)):
            extreme = logits.topk(k, largest=largest).indices
            shares[i, layer, head] = (extreme == tokens[:, None]).any(-1).float().mean().cpu()
    return shares[0], shares[1]
