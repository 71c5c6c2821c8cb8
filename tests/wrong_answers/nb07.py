"""Plausible wrong answers to the exercises of notebook 07."""

from __future__ import annotations

import torch


def _norm(x, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def normalised_apart(stream, change, W, b, eps=1e-5):
    return (_norm(stream) + _norm(change)) @ W + b


def without_layernorm(stream, change, W, b, eps=1e-5):
    return (stream + change) @ W + b


def added_after_layernorm(stream, change, W, b, eps=1e-5):
    return (_norm(stream) + change) @ W + b


def frozen_scale(stream, change, W, b, eps=1e-5):
    scale = stream.var(-1, unbiased=False, keepdim=True).sqrt()
    changed = stream + change
    return (changed - changed.mean(-1, keepdim=True)) / scale @ W + b


def change_subtracted(stream, change, W, b, eps=1e-5):
    return _norm(stream - change) @ W + b


def change_alone(stream, change, W, b, eps=1e-5):
    return _norm(change) @ W + b


def without_bias(stream, change, W, b, eps=1e-5):
    return _norm(stream + change) @ W


def _count(n_layers, n_heads, inputs, embed, own):
    total = embed + n_layers * (n_heads + 1)
    for layer in range(n_layers):
        before = embed + layer * (n_heads + 1)
        total += inputs * n_heads * before + before + own * n_heads
    return total


def one_input_a_head(n_layers, n_heads):
    return _count(n_layers, n_heads, 1, 1, 1)


def without_embeddings(n_layers, n_heads):
    return _count(n_layers, n_heads, 3, 0, 1)


def mlp_after_the_layer_before(n_layers, n_heads):
    return _count(n_layers, n_heads, 3, 1, 0)


def without_logits(n_layers, n_heads):
    return _count(n_layers, n_heads, 3, 1, 1) - 1 - n_layers * (n_heads + 1)


def every_pair(n_layers, n_heads):
    return (1 + n_layers * (n_heads + 1)) * (n_layers * (3 * n_heads + 1) + 1)


def exchanged_mask(now, corrupt, kept):
    return torch.where(kept[:, None, None], corrupt, now).sum(0)


def kept_alone(now, corrupt, kept):
    return now[kept].sum(0)


def counted_twice(now, corrupt, kept):
    return corrupt.sum(0) + now[kept].sum(0)


def change_without_stream(now, corrupt, kept):
    return (now - corrupt)[kept].sum(0)


def averaged(now, corrupt, kept):
    return torch.where(kept[:, None, None], now, corrupt).mean(0)


def in_place(now, corrupt, kept):
    now[~kept] = corrupt[~kept]
    return now.sum(0)


def mean_of_ratios(circuit, full, empty):
    return ((circuit - empty) / (full - empty)).mean()


def without_empty(circuit, full, empty):
    return circuit.mean() / full.mean()


def half_normalised(circuit, full, empty):
    return (circuit.mean() - empty.mean()) / full.mean()


def share_lost(circuit, full, empty):
    return (full.mean() - circuit.mean()) / (full.mean() - empty.mean())


def one_each(circuit, full, empty):
    return (circuit - empty) / (full - empty)


def difference(circuit, full, empty):
    return (full.mean() - circuit.mean()).abs()


def nothing_dropped(edges):
    return set(edges)


def forwards_only(edges):
    reached = {"embed"}
    for _ in edges:
        reached |= {r for w, r in edges if w in reached}
    return {(w, r) for w, r in edges if w in reached}


def backwards_only(edges):
    reached = {"logits"}
    for _ in edges:
        reached |= {w for w, r in edges if r in reached}
    return {(w, r) for w, r in edges if r in reached}


def a_single_pass(edges):
    writers, readers = {w for w, _ in edges}, {r for _, r in edges}
    return {
        (w, r)
        for w, r in edges
        if (w == "embed" or w in readers) and (r == "logits" or r in writers)
    }


def without_the_ends(edges):
    kept = forwards_only(edges) & backwards_only(edges)
    return {(w, r) for w, r in kept if w != "embed" and r != "logits"}


def nodes_instead(edges):
    kept = forwards_only(edges) & backwards_only(edges)
    return {name for edge in kept for name in edge}


WRONG = {
    "reader_sees": [
        normalised_apart,
        without_layernorm,
        added_after_layernorm,
        frozen_scale,
        change_subtracted,
        change_alone,
        without_bias,
    ],
    "count_edges": [
        one_input_a_head,
        without_embeddings,
        mlp_after_the_layer_before,
        without_logits,
        every_pair,
    ],
    "reader_input": [
        exchanged_mask,
        kept_alone,
        counted_twice,
        change_without_stream,
        averaged,
        in_place,
    ],
    "normalised_faithfulness": [
        mean_of_ratios,
        without_empty,
        half_normalised,
        share_lost,
        one_each,
        difference,
    ],
    "on_a_path": [
        nothing_dropped,
        forwards_only,
        backwards_only,
        a_single_pass,
        without_the_ends,
        nodes_instead,
    ],
}
