"""Checks of notebook 07: readers, edges, what a circuit's reader reads, faithfulness, paths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.exercises import (
    Refused,
    exercise,
    expect_close,
    expect_shape,
    expect_type,
    refuse_if,
    run,
)


def _normed(x: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


@exercise
def reader_sees(answer: Any, rng: torch.Generator) -> None:
    """A query, key or value computed from the stream with one part changed."""
    stream, change = torch.randn(2, 3, 5, 8, generator=rng).unbind(0)
    stream, change = 3 * stream + 1, change + 0.5
    W, b = torch.randn(8, 4, generator=rng), torch.randn(4, generator=rng)
    got = run(answer, stream, change, W, b)
    expect_shape(got, (3, 5, 4), hint="One vector of the head for each prompt and position.")
    want = _normed(stream + change) @ W + b
    spread = (stream + change).std(-1, keepdim=True)
    centre = (stream + change).mean(-1, keepdim=True)
    frozen = (stream - stream.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    mistakes = {
        "You normalised stream and change apart. Add first: LayerNorm is not linear.": (
            (_normed(stream) + _normed(change)) @ W + b
        ),
        "You left the LayerNorm out.": (stream + change) @ W + b,
        "You normalised the stream and then added the bare change. Add first.": (
            (_normed(stream) + change) @ W + b
        ),
        "You subtracted the change. Add it.": _normed(stream - change) @ W + b,
        "You forgot the change.": _normed(stream) @ W + b,
        "The reader sees the whole stream, not the change alone.": _normed(change) @ W + b,
        "You forgot the bias.": want - b,
        "You did not subtract the mean before dividing.": (
            (stream + change) / (_var(stream + change) + 1e-5).sqrt() @ W + b
        ),
        "You divided by n - 1: LayerNorm's variance divides by d_model.": (
            (stream + change - centre) / spread @ W + b
        ),
        "You froze the LayerNorm's scale at the clean stream's. Here it is recomputed.": (
            (stream + change - centre) / frozen @ W + b
        ),
    }
    expect_close(got, want, mistakes)


def _var(x: Tensor) -> Tensor:
    return x.var(-1, unbiased=False, keepdim=True)


def _edges(n_layers: int, n_heads: int, inputs: int = 3, embed: int = 1, own: bool = True) -> int:
    """Edges by the rules, or with a rule changed; the logits read everything."""
    total = 0
    for layer in range(n_layers):
        before = embed + layer * (n_heads + 1)
        total += inputs * n_heads * before + before + (n_heads if own else 0)
    return total + embed + n_layers * (n_heads + 1)


@exercise
def count_edges(answer: Any, rng: torch.Generator) -> None:
    """How many edges a graph has."""
    for _ in range(3):
        n_layers = int(torch.randint(2, 9, (), generator=rng))
        n_heads = int(torch.randint(2, 9, (), generator=rng))
        got = run(answer, n_layers, n_heads)
        if isinstance(got, Tensor) and got.numel() == 1:
            got = got.item()
        expect_type(got, (int, float), "Return one number.")
        every = 1 + n_layers * (n_heads + 1)
        mistakes = {
            "A head has three readers: query, key and value.": _edges(n_layers, n_heads, 1),
            "The embeddings write too: every reader reads them.": _edges(n_layers, n_heads, 3, 0),
            "The MLP also reads the heads of its own layer.": (
                _edges(n_layers, n_heads, own=False)
            ),
            "The logits read everything too.": _edges(n_layers, n_heads) - every,
            "Only later readers count: you joined every writer to every reader.": (
                every * (n_layers * (3 * n_heads + 1) + 1)
            ),
        }
        expect_close(float(got), float(_edges(n_layers, n_heads)), mistakes, atol=0.1, rtol=0)


@exercise
def reader_input(answer: Any, rng: torch.Generator) -> None:
    """The sum over kept writers as they are, and ablated writers as they were."""
    now, corrupt = torch.randn(2, 6, 4, 5, generator=rng).unbind(0)
    kept = torch.tensor([True, True, False, False, False, True])
    kept = kept[torch.randperm(6, generator=rng)]
    got = run(answer, now, corrupt, kept)
    expect_shape(got, (4, 5), hint="A stream: sum over the writers, keep positions and d_model.")
    mask = kept[:, None, None]
    want = torch.where(mask, now, corrupt).sum(0)
    mistakes = {
        "Kept and ablated are exchanged: a kept edge reads what is written now.": (
            torch.where(mask, corrupt, now).sum(0)
        ),
        "You left the ablated writers out. That is ablation by zero; put the corrupt run's in.": (
            (now * mask).sum(0)
        ),
        "You added the whole corrupt stream to the kept writers: these count twice.": (
            corrupt.sum(0) + (now * mask).sum(0)
        ),
        "You averaged over the writers. The stream is their sum.": want / 6,
        "That is the clean stream: the ablated edges still read what is written now.": now.sum(0),
        "That is the corrupt stream: the kept edges must read what is written now.": corrupt.sum(0),
        "You returned the change against the corrupt stream. Add the corrupt stream itself.": (
            ((now - corrupt) * mask).sum(0)
        ),
    }
    expect_close(got, want, mistakes)


@exercise
def normalised_faithfulness(answer: Any, rng: torch.Generator) -> None:
    """(F(C) - F(nothing)) / (F(M) - F(nothing)) of the means."""
    circuit = 2 + torch.randn(6, generator=rng)
    full = 4 + torch.randn(6, generator=rng)
    empty = -1 + torch.randn(6, generator=rng)
    got = run(answer, circuit, full, empty)
    refuse_if(
        isinstance(got, Tensor) and got.numel() > 1,
        "Return one number: average over the prompts, first each metric and then the fraction.",
    )
    expect_type(got, (int, float, Tensor), "Return one number.")
    c, m, e = (values.mean() for values in (circuit, full, empty))
    mistakes = {
        "You averaged a ratio for each prompt. Average the metrics first.": (
            ((circuit - empty) / (full - empty)).mean()
        ),
        "You left out what is there with everything ablated: the scale starts at `empty`.": c / m,
        "You did not subtract `empty` below the line.": (c - e) / m,
        "You did not subtract `empty` above the line.": c / (m - e),
        "The fraction is upside down.": (m - e) / (c - e),
        "That is the share that is *lost*.": (m - c) / (m - e),
        "That is the difference to the model, in logits. Normalise it.": (m - c).abs(),
    }
    expect_close(torch.as_tensor(got).reshape(()), (c - e) / (m - e), mistakes)


Edges = set[tuple[str, str]]


def _reached(edges: Edges, start: str, *, backwards: bool = False) -> set[str]:
    """The nodes that can be reached from one, along the edges or against them."""
    found, new = {start}, {start}
    while new:
        step = {(r, w) for w, r in edges} if backwards else edges
        new = {r for w, r in step if w in new} - found
        found |= new
    return found


def _one_pass(edges: Edges) -> Edges:
    """Edges stranded at either end dropped, once."""
    writers, readers = {w for w, _ in edges}, {r for _, r in edges}
    return {
        (w, r)
        for w, r in edges
        if (w == "embed" or w in readers) and (r == "logits" or r in writers)
    }


def _random_edges(rng: torch.Generator) -> Edges:
    """A layered graph with a path, an edge from nowhere, a dead end, and chains of both."""
    names = [f"n{i}" for i in torch.randperm(90, generator=rng)[:9].tolist()]
    a, b, c, d, e, f, g, h, i = names
    path = {("embed", a), (a, b), (b, "logits"), ("embed", b), (a, c), (c, "logits")}
    dead_end = {(a, d), (d, e), (e, f)}
    from_nowhere = {(g, h), (h, i), (i, "logits"), (g, c)}
    return path | dead_end | from_nowhere


@exercise
def on_a_path(answer: Any, rng: torch.Generator) -> None:
    """The edges between nodes that the embeddings reach and that reach the logits."""
    edges = _random_edges(rng)
    given = set(edges)
    got = run(answer, given)
    refuse_if(given != edges, "Your function changes its input. Make a new set.")
    expect_type(got, (set, frozenset, list, tuple), "Return a set of (writer, reader).")
    refuse_if(
        not all(isinstance(edge, tuple) and len(edge) == 2 for edge in got),
        "Each element must be an edge, a pair (writer, reader).",
    )
    kept = set(got)
    ahead, back = _reached(edges, "embed"), _reached(edges, "logits", backwards=True)
    from_embed = {(w, r) for w, r in edges if w in ahead}
    to_logits = {(w, r) for w, r in edges if r in back}
    want = from_embed & to_logits
    if kept == want:
        return
    nodes_on_a_path = (ahead & back) - {"embed", "logits"}
    mistakes: list[tuple[str, Edges]] = [
        ("You dropped nothing.", edges),
        ("Some of your edges lead nowhere: check that their end reaches the logits.", from_embed),
        ("Some of your edges start nowhere: check that the embeddings reach them.", to_logits),
        ("Dropping an edge strands others: go on until nothing changes.", _one_pass(edges)),
        (
            "You dropped the edges of the embeddings or the logits themselves.",
            {(w, r) for w, r in want if {w, r} <= nodes_on_a_path},
        ),
        (
            "You kept direct edges to the logits only: a path may be longer.",
            {(w, r) for w, r in want if r == "logits"},
        ),
    ]
    for message, wrong in mistakes:
        if kept == wrong:
            raise Refused(message)
    refuse_if(not kept <= edges, "You returned edges that were not given.")
    lost, extra = len(want - kept), len(kept - want)
    raise Refused(f"{lost} edges on a path are missing and {extra} on no path are left.")
