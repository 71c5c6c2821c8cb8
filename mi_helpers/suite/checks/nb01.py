"""Checks of notebook 01, the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    compare,
    distinct,
    exercise,
    expect_integer,
    refuse_if,
    run,
)

EPS = 1e-5


def _randn(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng)


def _rebuilt(
    embed: Tensor, pos: Tensor, z: Tensor, w_o: Tensor, b_o: Tensor, mlp_out: Tensor
) -> Tensor:
    return embed + pos + torch.einsum("lphe,lhed->pd", z, w_o) + b_o.sum(0) + mlp_out.sum(0)


@exercise
def rebuild_stream(answer: Any, rng: torch.Generator) -> None:
    """The final stream from what each component wrote."""
    layers, heads, pos, d_head, d_model = 3, 2, 5, 4, 7
    embed, position = _randn(rng, pos, d_model), _randn(rng, pos, d_model)
    z, w_o = _randn(rng, layers, pos, heads, d_head), _randn(rng, layers, heads, d_head, d_model)
    b_o, mlp_out = _randn(rng, layers, d_model), _randn(rng, layers, pos, d_model)
    want = _rebuilt(embed, position, z, w_o, b_o, mlp_out)
    attn = torch.einsum("lphe,lhed->pd", z, w_o)
    bias, mlps = b_o.sum(0), mlp_out.sum(0)
    mistakes = {
        "The attention's output bias b_O is missing.": want - bias,
        "b_O is added once per head. It belongs to the layer: add it once.": (
            want + (heads - 1) * bias
        ),
        "b_O is added once per position. It is the same at each: add it once.": (
            want + (pos - 1) * bias
        ),
        "The position embedding is missing.": want - position,
        "The token embedding is missing.": want - embed,
        "The embeddings are missing.": want - embed - position,
        "The MLPs are missing.": want - mlps,
        "The heads are missing.": want - attn,
        "Only the last layer is added. Every layer adds to the stream.": (
            embed + position + torch.einsum("phe,hed->pd", z[-1], w_o[-1]) + b_o[-1] + mlp_out[-1]
        ),
        "The last layer is missing.": (
            want - torch.einsum("phe,hed->pd", z[-1], w_o[-1]) - b_o[-1] - mlp_out[-1]
        ),
        "The heads of a layer are averaged. Their outputs are summed.": want - attn + attn / heads,
    }
    inputs = {
        "embed [pos d_model]": embed,
        "pos [pos d_model]": position,
        "z [layer pos head d_head]": z,
        "W_O [layer head d_head d_model]": w_o,
        "b_O [layer d_model]": b_o,
        "mlp_out [layer pos d_model]": mlp_out,
    }
    hint = "Sum over layers and heads; keep position and d_model."
    compare(answer, _rebuilt, inputs, mistakes, hint=hint, atol=1e-4)


@exercise
def answer_rank(answer: Any, rng: torch.Generator) -> None:
    """The rank of a token among the logits of every layer, 0 for the top."""
    layers, vocab = 5, 12
    for token in distinct(rng, 1, vocab):
        logits = _randn(rng, layers, vocab)
        logits[0, token], logits[1, token] = logits.max() + 1, logits.min() - 1
        want = (logits > logits[:, [token]]).sum(-1)
        order = logits.argsort(-1, descending=True)
        mistakes = {
            "You count from 1. The top token has rank 0.": want + 1,
            "You count from the bottom: the top token has rank 0, not d_vocab - 1.": (
                vocab - 1 - want
            ),
            "argsort gives the token at each rank. You read off which token is at rank `token`.": (
                order[:, token]
            ),
            "You return the top token, not the rank of the one asked for.": order[:, 0],
            "You return the answer's logit, not its rank.": logits[:, token],
            "You return the last layer's rank for every layer.": want[-1].expand(layers),
            "You return where the token is the top, not its rank.": (want == 0).long(),
        }
        compare(
            answer,
            lambda logits, token: (logits > logits[:, [token]]).sum(-1),
            {"logits [layer d_vocab]": logits, "token": token},
            mistakes,
            hint="One rank per layer.",
        )


def _shares(parts: Tensor, direction: Tensor) -> Tensor:
    centred = parts - parts.mean(-1, keepdim=True)
    return centred @ direction / (centred.sum(0).square().mean() + EPS).sqrt()


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
        "You subtracted the mean over the parts. LayerNorm centres over d_model.": (
            (parts - parts.mean(0)) @ direction / scale
        ),
    }


@exercise
def attribute_parts(answer: Any, rng: torch.Generator) -> None:
    """Direct logit attribution of each part at one position."""
    parts, direction = _randn(rng, 6, 8) + _randn(rng, 6, 1), _randn(rng, 8)
    compare(
        answer,
        _shares,
        {"parts [part d_model]": parts, "direction [d_model]": direction},
        _attribution_mistakes(parts, direction),
        hint="One number per part: do not sum over the parts.",
    )


def _ratio(write: Tensor, read: Tensor) -> Tensor:
    norm = torch.linalg.matrix_norm
    return norm(write @ read) / (norm(write) * norm(read))


@exercise
def virtual_ratio(answer: Any, rng: torch.Generator) -> None:
    """How much of what one matrix writes another reads."""
    write, read = _randn(rng, 10, 6), _randn(rng, 6, 10)
    norm = torch.linalg.matrix_norm
    sizes = norm(write) * norm(read)
    want = _ratio(write, read)
    spectral = [norm(m, 2) for m in (write @ read, write, read)]
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
        "You divided by one of the two norms. Divide by the other as well.": (
            norm(write @ read) / norm(write)
        ),
        "You divided by the second norm alone. Divide by the first as well.": (
            norm(write @ read) / norm(read)
        ),
        "The ratio is upside down.": 1 / want,
        "This is the square of the ratio.": want**2,
        "You summed the product's entries. They cancel: take its norm.": (
            (write @ read).sum() / sizes
        ),
    }
    inputs = {"write [neuron d_model]": write, "read [d_model neuron]": read}
    compare(answer, _ratio, inputs, mistakes, hint="Return one number, not a tensor of them.")


@exercise
def fold_layernorm(answer: Any, rng: torch.Generator) -> None:
    """Weights and bias that read the bare normalised stream, with gain and shift folded in."""
    d_model, width = 6, 9
    gain, shift = 1 + 0.5 * _randn(rng, d_model), _randn(rng, d_model)
    weight, bias = _randn(rng, d_model, width), _randn(rng, width)
    folded = gain[:, None] * weight
    weights = {
        "The weight is as it was: its rows are to be multiplied by the gain.": weight,
        "You divided by the gain. What LayerNorm multiplies, the weight must multiply.": (
            weight / gain[:, None]
        ),
        "The shift is in your weight. It goes into the bias.": folded + shift[:, None] * weight,
    }
    biases = {
        "The bias is as it was: the shift goes through the weight into it.": bias,
        "The old bias is lost: add to it.": shift @ weight,
        "The shift went through the folded weight. The gain never multiplies the shift.": (
            bias + shift @ folded
        ),
        "The shift is subtracted. LayerNorm adds it.": bias - shift @ weight,
    }
    inputs = {
        "gain [d_model]": gain,
        "shift [d_model]": shift,
        "W [d_model width]": weight,
        "b [width]": bias,
    }
    hints = (
        "The weight keeps its shape.",
        "The bias keeps its shape.",
        "Return the new weight and the new bias.",
    )
    compare(
        answer,
        lambda gain, shift, W, b: (gain[:, None] * W, b + shift @ W),
        inputs,
        (weights, biases),
        hint=hints,
    )


@exercise
def analogy(answer: Any, rng: torch.Generator) -> None:
    """The token nearest to b - a + c by cosine, leaving out a, b and c."""
    told: set[int] = set()
    while len(told) < 3:
        embedding = _analogy_embedding(rng)
        shuffled = torch.randperm(len(embedding), generator=rng)
        places = shuffled.argsort().tolist()
        a, b, c, target, long, reversed_, neighbour, step, move, *_ = places
        if target in told:
            continue
        told.add(target)
        got = expect_integer(run(answer, embedding[shuffled], a, b, c), "Return one token's id.")
        refuse_if(
            got in (a, b, c), "You return one of the three words of the question: leave them out."
        )
        refuse_if(got == long, "The largest dot product goes to a long vector. Compare cosines.")
        refuse_if(
            got == reversed_, "That is nearest to a - b + c: the offset points the wrong way."
        )
        refuse_if(
            got == neighbour,
            "That is nearest to c alone, or nearest by distance and not by cosine: take the whole "
            "of b - a + c, and its angle.",
        )
        refuse_if(got == step, "That is nearest to b - a alone: add c.")
        refuse_if(got == move, "That is nearest to c - a alone: add b.")
        refuse_if(
            got != target,
            f"With a = {a}, b = {b} and c = {c} the nearest token is {target}; you return {got}.",
        )


def _analogy_embedding(rng: torch.Generator) -> Tensor:
    """Rows: a, b, c, answer, a long vector, a - b + c, near c, near b - a and c - a, then noise.

    As with real embeddings, b itself is closer to b - a + c than the answer is; and the answer is
    long, so that c's neighbour is nearer by distance.
    """
    basis = torch.linalg.qr(_randn(rng, 24, 24)).Q
    a, step, move = basis[0], basis[1], 0.6 * basis[2]
    b, c = a + step, a + move
    target = b - a + c
    long = 30 * (target + 2 * basis[4])
    rows = [a, b, c, 2 * (target + 0.9 * basis[3]), long, a - b + c, 1.2 * c]
    rows += [step + 0.5 * basis[5], move + 0.3 * basis[6]]
    return torch.stack([*rows, *(0.5 * basis[7:17])])
