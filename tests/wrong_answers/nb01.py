"""Wrong answers to the exercises of notebook 01."""

from __future__ import annotations

import torch

# --- rebuild_stream ---


def _rebuild(embed, pos, z, W_O, b_O, mlp_out, *, bias=1.0, average=False, layers=slice(None)):
    heads = torch.einsum("lphe,lhed->lhpd", z, W_O)[layers]
    heads = heads.mean(1) if average else heads.sum(1)
    return embed + pos + (heads + bias * b_O[layers, None] + mlp_out[layers]).sum(0)


def no_bias(*parts):
    return _rebuild(*parts, bias=0.0)


def bias_for_every_head(*parts):
    return _rebuild(*parts, bias=parts[2].shape[2])


def heads_averaged(*parts):
    return _rebuild(*parts, average=True)


def last_layer_only(*parts):
    return _rebuild(*parts, layers=slice(-1, None))


def no_position(embed, pos, *rest):
    return _rebuild(embed, 0 * pos, *rest)


def no_mlps(*parts):
    return _rebuild(*parts[:-1], 0 * parts[-1])


def one_stream_per_layer(embed, pos, z, W_O, b_O, mlp_out):
    return embed + pos + torch.einsum("lphe,lhed->lpd", z, W_O) + b_O[:, None] + mlp_out


# --- fold_layernorm ---


def bias_untouched(gain, shift, W, b):
    return gain[:, None] * W, b


def weight_untouched(gain, shift, W, b):
    return W, b + shift @ W


def shift_through_the_gain(gain, shift, W, b):
    folded = gain[:, None] * W
    return folded, b + shift @ folded


def bias_replaced(gain, shift, W, b):
    return gain[:, None] * W, shift @ W


def divided(gain, shift, W, b):
    return W / gain[:, None], b + shift @ W


def weight_alone(gain, shift, W, b):
    return gain[:, None] * W


# --- attribute_parts ---


def _centred(parts):
    return parts - parts.mean(-1, keepdim=True)


def own_scale(parts, direction):
    return torch.nn.functional.layer_norm(parts, parts.shape[-1:]) @ direction


def raw_dot_product(parts, direction):
    return parts @ direction


def no_scale(parts, direction):
    return _centred(parts) @ direction


def no_centring(parts, direction):
    return parts / (parts.sum(0).var(unbiased=False) + 1e-5).sqrt() @ direction


def variance(parts, direction):
    return _centred(parts) / (parts.sum(0).var(unbiased=False) + 1e-5) @ direction


def unbiased_variance(parts, direction):
    return _centred(parts) / (parts.sum(0).var() + 1e-5).sqrt() @ direction


def summed(parts, direction):
    return torch.nn.functional.layer_norm(parts.sum(0), parts.shape[-1:]) @ direction


# --- answer_rank ---


def from_one(logits, token):
    return (logits > logits[:, [token]]).sum(-1) + 1


def from_the_bottom(logits, token):
    return (logits < logits[:, [token]]).sum(-1)


def token_at_that_rank(logits, token):
    return logits.argsort(-1, descending=True)[:, token]


def top_token(logits, token):
    return logits.argmax(-1)


def last_layer_rank(logits, token):
    return (logits[-1] > logits[-1, token]).sum()


# --- virtual_ratio ---


_norm = torch.linalg.matrix_norm


def unnormalised(write, read):
    return _norm(write @ read)


def reversed_order(write, read):
    return _norm(read @ write) / (_norm(write) * _norm(read))


def spectral(write, read):
    return _norm(write @ read, 2) / (_norm(write, 2) * _norm(read, 2))


def squared(write, read):
    return (_norm(write @ read) / (_norm(write) * _norm(read))) ** 2


def over_the_sum(write, read):
    return _norm(write @ read) / (_norm(write) + _norm(read))


def the_product_itself(write, read):
    return write @ read


# --- analogy ---


def _nearest(W_E, query, exclude):
    cosine = torch.cosine_similarity(W_E, query, dim=-1)
    cosine[list(exclude)] = -1
    return int(cosine.argmax())


def inputs_allowed(W_E, a, b, c):
    return _nearest(W_E, W_E[b] - W_E[a] + W_E[c], [])


def largest_dot_product(W_E, a, b, c):
    products = W_E @ (W_E[b] - W_E[a] + W_E[c])
    products[[a, b, c]] = -torch.inf
    return int(products.argmax())


def wrong_way(W_E, a, b, c):
    return _nearest(W_E, W_E[a] - W_E[b] + W_E[c], [a, b, c])


def neighbour_of_c(W_E, a, b, c):
    return _nearest(W_E, W_E[c], [a, b, c])


def the_vector(W_E, a, b, c):
    return W_E[b] - W_E[a] + W_E[c]


WRONG = {
    "rebuild_stream": [
        no_bias,
        bias_for_every_head,
        heads_averaged,
        last_layer_only,
        no_position,
        no_mlps,
        one_stream_per_layer,
    ],
    "fold_layernorm": [
        bias_untouched,
        weight_untouched,
        shift_through_the_gain,
        bias_replaced,
        divided,
        weight_alone,
    ],
    "attribute_parts": [
        own_scale,
        raw_dot_product,
        no_scale,
        no_centring,
        variance,
        unbiased_variance,
        summed,
    ],
    "answer_rank": [from_one, from_the_bottom, token_at_that_rank, top_token, last_layer_rank],
    "virtual_ratio": [
        unnormalised,
        reversed_order,
        spectral,
        squared,
        over_the_sum,
        the_product_itself,
    ],
    "analogy": [inputs_allowed, largest_dot_product, wrong_way, neighbour_of_c, the_vector],
}
