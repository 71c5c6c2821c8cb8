"""Checks of notebook 01, the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)

EPS = 1e-5


def _randn(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng)


@exercise
def rebuild_stream(answer: Any, rng: torch.Generator) -> None:
    """The final stream from what each component wrote."""
    layers, heads, pos, d_head, d_model = 3, 2, 5, 4, 7
    embed, position = _randn(rng, pos, d_model), _randn(rng, pos, d_model)
    z, w_o = _randn(rng, layers, pos, heads, d_head), _randn(rng, layers, heads, d_head, d_model)
    b_o, mlp_out = _randn(rng, layers, d_model), _randn(rng, layers, pos, d_model)
    got = run(answer, embed, position, z, w_o, b_o, mlp_out)
    expect_shape(got, (pos, d_model), hint="Sum over layers and heads; keep position and d_model.")
    attn = torch.einsum("lphe,lhed->pd", z, w_o)
    bias, mlps = b_o.sum(0), mlp_out.sum(0)
    mistakes = {
        "The attention's output bias b_O is missing.": embed + position + attn + mlps,
        "b_O is added once per head. It belongs to the layer: add it once.": (
            embed + position + attn + heads * bias + mlps
        ),
        "The position embedding is missing.": embed + attn + bias + mlps,
        "The token embedding is missing.": position + attn + bias + mlps,
        "The MLPs are missing.": embed + position + attn + bias,
        "The heads are missing.": embed + position + bias + mlps,
        "Only the last layer is added. Every layer adds to the stream.": (
            embed + position + torch.einsum("phe,hed->pd", z[-1], w_o[-1]) + b_o[-1] + mlp_out[-1]
        ),
        "The heads of a layer are averaged. Their outputs are summed.": (
            embed + position + attn / heads + bias + mlps
        ),
    }
    expect_close(got, embed + position + attn + bias + mlps, mistakes, atol=1e-4)


@exercise
def fold_layernorm(answer: Any, rng: torch.Generator) -> None:
    """Weights and bias that read the bare normalised stream, with gain and shift folded in."""
    d_model, width = 6, 9
    gain, shift = 1 + 0.5 * _randn(rng, d_model), _randn(rng, d_model)
    weight, bias = _randn(rng, d_model, width), _randn(rng, width)
    got = run(answer, gain, shift, weight, bias)
    expect_type(got, (tuple, list), hint="Return the new weight and the new bias.")
    refuse_if(len(got) != 2, f"Return two tensors, the weight and the bias; got {len(got)}.")
    new_weight, new_bias = got
    expect_shape(new_weight, (d_model, width), hint="The weight keeps its shape.")
    expect_shape(new_bias, (width,), hint="The bias keeps its shape.")
    folded = gain[:, None] * weight
    weights = {
        "The weight is as it was: its rows are to be multiplied by the gain.": weight,
        "You divided by the gain. What LayerNorm multiplies, the weight must multiply.": (
            weight / gain[:, None]
        ),
    }
    expect_close(new_weight, folded, weights)
    biases = {
        "The bias is as it was: the shift goes through the weight into it.": bias,
        "The old bias is lost: add to it.": shift @ weight,
        "The shift went through the folded weight. The gain never multiplies the shift.": (
            bias + shift @ folded
        ),
        "The shift is subtracted. LayerNorm adds it.": bias - shift @ weight,
    }
    expect_close(new_bias, bias + shift @ weight, biases)


def _attribution_mistakes(parts: Tensor, direction: Tensor) -> dict[str, Tensor]:
    centred = parts - parts.mean(-1, keepdim=True)
    stream = centred.sum(0)
    scale = (stream.square().mean() + EPS).sqrt()
    own = (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    unbiased = (stream.var() + EPS).sqrt()
    return {
        "Each part is divided by its own scale. Freeze the one scale of the whole stream.": (
            (centred / own) @ direction
        ),
        "The final LayerNorm is missing: these are dot products with the raw stream.": (
            parts @ direction
        ),
        "You centred, and did not divide by the scale.": centred @ direction,
        "You divided by the scale, and did not centre.": (parts / scale) @ direction,
        "You divided by the variance. Divide by its square root.": centred @ direction / scale**2,
        "The variance divides by n - 1. LayerNorm's divides by n (unbiased=False).": (
            centred @ direction / unbiased
        ),
        "The scale is that of the uncentred stream.": (
            centred @ direction / (parts.sum(0).square().mean() + EPS).sqrt()
        ),
    }


@exercise
def attribute_parts(answer: Any, rng: torch.Generator) -> None:
    """Direct logit attribution of each part at one position."""
    parts, direction = _randn(rng, 6, 8) + _randn(rng, 6, 1), _randn(rng, 8)
    got = run(answer, parts, direction)
    expect_shape(got, (6,), hint="One number per part: do not sum over the parts.")
    centred = parts - parts.mean(-1, keepdim=True)
    scale = (centred.sum(0).square().mean() + EPS).sqrt()
    expect_close(got, centred @ direction / scale, _attribution_mistakes(parts, direction))


@exercise
def answer_rank(answer: Any, rng: torch.Generator) -> None:
    """The rank of a token among the logits of every layer, 0 for the top."""
    layers, vocab = 5, 12
    logits = _randn(rng, layers, vocab)
    token = int(torch.randint(1, vocab, (1,), generator=rng))
    logits[0, token], logits[1, token] = logits.max() + 1, logits.min() - 1
    got = run(answer, logits, token)
    expect_shape(got, (layers,), hint="One rank per layer.")
    want = (logits > logits[:, [token]]).sum(-1)
    order = logits.argsort(-1, descending=True)
    mistakes = {
        "You count from 1. The top token has rank 0.": want + 1,
        "You count from the bottom: the top token has rank 0, not d_vocab - 1.": vocab - 1 - want,
        "argsort gives the token at each rank. You read off which token is at rank `token`.": (
            order[:, token]
        ),
        "You return the top token, not the rank of the one asked for.": order[:, 0],
        "You return the answer's logit, not its rank.": logits[:, token],
    }
    expect_close(got, want, mistakes)


@exercise
def virtual_ratio(answer: Any, rng: torch.Generator) -> None:
    """How much of what one matrix writes another reads."""
    write, read = _randn(rng, 10, 6), _randn(rng, 6, 10)
    got = run(answer, write, read)
    expect_type(got, (Tensor, float), hint="Return one number.")
    refuse_if(isinstance(got, Tensor) and got.ndim > 0, "Return one number, not a tensor of them.")
    norm = torch.linalg.matrix_norm
    sizes = norm(write) * norm(read)
    want = norm(write @ read) / sizes
    spectral = [torch.linalg.matrix_norm(m, 2) for m in (write @ read, write, read)]
    mistakes = {
        "The product is not divided by the two norms, so large weights look connected.": (
            norm(write @ read)
        ),
        "You multiplied in the wrong order: what is written must be read, write @ read.": (
            norm(read @ write) / sizes
        ),
        "You used the spectral norm. Take the Frobenius norm.": (
            spectral[0] / (spectral[1] * spectral[2])
        ),
        "You divided by the sum of the norms. Divide by their product.": (
            norm(write @ read) / (norm(write) + norm(read))
        ),
        "This is the square of the ratio.": want**2,
        "You summed the product's entries. They cancel: take its norm.": (
            (write @ read).sum() / sizes
        ),
    }
    expect_close(got, want, mistakes)


@exercise
def analogy(answer: Any, rng: torch.Generator) -> None:
    """The token nearest to b - a + c by cosine, leaving out a, b and c."""
    embedding = _analogy_embedding(rng)
    shuffled = torch.randperm(len(embedding), generator=rng)
    a, b, c, target, long, reversed_, neighbour, *_ = shuffled.argsort().tolist()
    got = run(answer, embedding[shuffled], a, b, c)
    got = got.item() if isinstance(got, Tensor) and got.ndim == 0 else got
    expect_type(got, int, hint="Return the id of one token.")
    refuse_if(
        got in (a, b, c), "You return one of the three words of the question: leave them out."
    )
    refuse_if(got == long, "The largest dot product goes to a long vector. Compare cosines.")
    refuse_if(got == reversed_, "That is nearest to a - b + c: the offset points the wrong way.")
    refuse_if(got == neighbour, "That is nearest to c alone: the step from a to b is missing.")
    refuse_if(got != target, f"Here the nearest token is {target}; you return {got}.")


def _analogy_embedding(rng: torch.Generator) -> Tensor:
    """Rows: a, b, c, the answer, a long vector, a - b + c, a neighbour of c, then noise.

    As with real embeddings, b itself is closer to b - a + c than the answer is.
    """
    basis = torch.linalg.qr(_randn(rng, 24, 24)).Q
    a, step, move = basis[0], basis[1], 0.6 * basis[2]
    b, c = a + step, a + move
    target = b - a + c
    rows = [a, b, c, target + 0.9 * basis[3], 30 * (target + 2 * basis[4]), a - b + c, 1.2 * c]
    return torch.stack([*rows, *(0.5 * basis[5:15])])
