"""Checks of notebook 07: readers, edges, what a circuit's reader reads, faithfulness, paths."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    compare,
    distinct,
    exercise,
    expect_close,
    expect_integer,
    expect_type,
    refuse_if,
    run,
)


def _normed(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def _seen(stream: Tensor, change: Tensor, W: Tensor, b: Tensor, eps: float) -> Tensor:
    return _normed(stream + change, eps) @ W + b


@exercise
def reader_sees(answer: Any, rng: torch.Generator) -> None:
    """A query, key or value computed from the stream with one part changed."""
    for eps in (1e-5, 0.5 + float(torch.rand((), generator=rng))):
        stream, change = torch.randn(2, 3, 5, 8, generator=rng).unbind(0)
        stream, change = 3 * stream + 1, change + 0.5
        W, b = torch.randn(8, 4, generator=rng), torch.randn(4, generator=rng)
        want = _seen(stream, change, W, b, eps)
        total = stream + change
        spread = (total.var(-1, keepdim=True) + eps).sqrt()
        size = (total.square().mean(-1, keepdim=True) + eps).sqrt()
        mean_free = total - total.mean(-1, keepdim=True)
        variance = total.var(-1, unbiased=False, keepdim=True)
        frozen = (stream.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        mistakes = {
            "You normalised stream and change apart. Add first: LayerNorm is not linear.": (
                (_normed(stream, eps) + _normed(change, eps)) @ W + b
            ),
            "You left the LayerNorm out.": total @ W + b,
            "You normalised the stream and then added the bare change. Add first.": (
                (_normed(stream, eps) + change) @ W + b
            ),
            "You subtracted the change. Add it.": _seen(stream, -change, W, b, eps),
            "You forgot the change.": _normed(stream, eps) @ W + b,
            "The reader sees the whole stream, not the change alone.": _normed(change, eps) @ W + b,
            "You forgot the bias.": want - b,
            "You did not subtract the mean before dividing.": total / (variance + eps).sqrt() @ W
            + b,
            "You neither subtracted the mean nor divided by the variance: that is RMSNorm.": (
                total / size @ W + b
            ),
            "You subtracted the mean, and did not divide.": mean_free @ W + b,
            "You divided by the variance. Take its square root.": (
                mean_free / (variance + eps) @ W + b
            ),
            "You divided by n - 1: LayerNorm's variance divides by d_model.": (
                mean_free / spread @ W + b
            ),
            "You froze the LayerNorm's scale at the clean stream's. Here it is recomputed.": (
                mean_free / frozen @ W + b
            ),
            "You did not use `eps`, which is added to the variance, under the root.": (
                mean_free / variance.sqrt() @ W + b
            ),
            "You used an `eps` of your own. It is an argument: here it is larger.": (
                _seen(stream, change, W, b, 1e-5)
            ),
            "You added `eps` to the root. It is added to the variance, under the root.": (
                mean_free / (variance.sqrt() + eps) @ W + b
            ),
        }
        inputs = {
            "stream [batch pos d_model]": stream,
            "change [batch pos d_model]": change,
            "W [d_model d_head]": W,
            "b [d_head]": b,
            "eps": eps,
        }
        hint = "One vector of the head for each prompt and position."
        compare(answer, _seen, inputs, mistakes, hint=hint)


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
    layers = heads = distinct(rng, 2, 9, 3)
    while any(map(int.__eq__, layers, heads)):  # else an exchange would not show
        heads = distinct(rng, 2, 9, 3)
    for n_layers, n_heads in zip(layers, heads, strict=True):
        got = expect_integer(run(answer, n_layers, n_heads), "Return the number of edges.")
        every = 1 + n_layers * (n_heads + 1)
        mistakes = {
            "A head has three readers: query, key and value.": _edges(n_layers, n_heads, 1),
            "The embeddings write too: every reader reads them.": _edges(n_layers, n_heads, 3, 0),
            "The MLP also reads the heads of its own layer.": (
                _edges(n_layers, n_heads, own=False)
            ),
            "The logits read everything too.": _edges(n_layers, n_heads) - every,
            "Layers and heads are exchanged: the layers come first.": _edges(n_heads, n_layers),
            "Only later readers count: you joined every writer to every reader.": (
                every * (n_layers * (3 * n_heads + 1) + 1)
            ),
            "You counted the writers. Count the edges between writer and reader.": every,
            "You left the MLPs out: they read, and they write.": (
                sum(3 * n_heads * (1 + layer * n_heads) for layer in range(n_layers))
                + 1
                + n_layers * n_heads
            ),
        }
        want = _edges(n_layers, n_heads)
        if got in mistakes.values() or got == want:
            expect_close(got, want, mistakes, atol=0.1, rtol=0)
        else:
            raise Refused(_smallest_count(answer, n_layers, n_heads, got))


def _smallest_count(answer: Any, n_layers: int, n_heads: int, got: int) -> str:
    """The smallest model whose edges are counted wrongly, and what there is to count."""
    for layers, heads in itertools.product((1, 2), (1, 2)):
        count = expect_integer(run(answer, layers, heads))
        if count != _edges(layers, heads):
            n_layers, n_heads, got = layers, heads, count
            break
    parts = (
        " There the embeddings are read by a query, a key, a value, the MLP and the logits, the "
        "head by the MLP and the logits, the MLP by the logits."
        if (n_layers, n_heads) == (1, 1)
        else ""
    )
    return (
        f"{n_layers} layer(s) of {n_heads} head(s) have {_edges(n_layers, n_heads)} edges; you "
        f"count {got}.{parts}"
    )


def _read(now: Tensor, corrupt: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept[:, None, None], now, corrupt).sum(0)


@exercise
def reader_input(answer: Any, rng: torch.Generator) -> None:
    """The sum over kept writers as they are, and ablated writers as they were."""
    for count in distinct(rng, 1, 6):
        now, corrupt = torch.randn(2, 6, 4, 5, generator=rng).unbind(0)
        kept = torch.randperm(6, generator=rng) < count
        mask = kept[:, None, None]
        want = _read(now, corrupt, kept)
        mistakes = {
            "Kept and ablated are exchanged: a kept edge reads what is written now.": (
                torch.where(mask, corrupt, now).sum(0)
            ),
            "You left the ablated writers out. That is ablation by zero; put the corrupt run's "
            "in.": (now * mask).sum(0),
            "You added the whole corrupt stream to the kept writers: these count twice.": (
                corrupt.sum(0) + (now * mask).sum(0)
            ),
            "You averaged over the writers. The stream is their sum.": want / 6,
            "That is the clean stream: the ablated edges still read what is written now.": (
                now.sum(0)
            ),
            "That is the corrupt stream: the kept edges must read what is written now.": (
                corrupt.sum(0)
            ),
            "You returned the change against the corrupt stream. Add the corrupt stream itself.": (
                ((now - corrupt) * mask).sum(0)
            ),
            "You kept the first writers, as many as are kept. `kept` says which.": (
                _read(now, corrupt, torch.arange(6) < count)
            ),
        }
        inputs = {
            "now [writer pos d_model]": now,
            "corrupt [writer pos d_model]": corrupt,
            "kept [writer]": kept,
        }
        hint = "A stream: sum over the writers, keep positions and d_model."
        compare(answer, _read, inputs, mistakes, hint=hint)


def _faithfulness(circuit: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    return (circuit.mean() - empty.mean()) / (full.mean() - empty.mean())


@exercise
def normalised_faithfulness(answer: Any, rng: torch.Generator) -> None:
    """(F(C) - F(nothing)) / (F(M) - F(nothing)) of the means."""
    circuit = 2 + torch.randn(6, generator=rng)
    full = 4 + torch.randn(6, generator=rng)
    empty = -1 + torch.randn(6, generator=rng)
    c, m, e = (values.mean() for values in (circuit, full, empty))
    ratios = (circuit - empty) / (full - empty)
    mistakes = {
        "You averaged a ratio for each prompt. Average the metrics first.": ratios.mean(),
        "You took the median of a ratio for each prompt. Average the metrics first.": (
            ratios.median()
        ),
        "You left out what is there with everything ablated: the scale starts at `empty`.": c / m,
        "You did not subtract `empty` below the line.": (c - e) / m,
        "You did not subtract `empty` above the line.": c / (m - e),
        "The fraction is upside down.": (m - e) / (c - e),
        "That is the share that is *lost*.": (m - c) / (m - e),
        "That is the difference to the model, in logits. Normalise it.": (m - c).abs(),
        "That is the gain over `empty`, in logits. Divide by what the model gains.": c - e,
    }
    inputs = {"circuit [batch]": circuit, "full [batch]": full, "empty [batch]": empty}
    hint = "Return one number: average over the prompts, first each metric and then the fraction."
    compare(answer, _faithfulness, inputs, mistakes, hint=hint)


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
    """A graph with paths, edges from nowhere, dead ends, and chains of all three."""
    long, dead, lost = torch.randint(2, 6, (3,), generator=rng).tolist()
    names = [f"n{i}" for i in torch.randperm(90, generator=rng)[: 4 + long + dead + lost].tolist()]
    a, b, c, d, *chains = names
    path = [a, *chains[:long], b]
    blind = [a, *chains[long : long + dead]]
    orphan = [d, *chains[long + dead :]]
    edges = {("embed", a), (b, "logits"), ("embed", b), (a, c), (c, "logits")}
    edges |= {(d, c), (orphan[-1], "logits")}
    return edges.union(*(zip(nodes, nodes[1:], strict=False) for nodes in (path, blind, orphan)))


@exercise
def on_a_path(answer: Any, rng: torch.Generator) -> None:
    """The edges between nodes that the embeddings reach and that reach the logits."""
    for _ in range(2):
        _judge_paths(answer, _random_edges(rng))


def _judge_paths(answer: Any, edges: Edges) -> None:
    """Refuse anything but the edges on a path, naming an edge that is wrong."""
    got = run(answer, set(edges))
    expect_type(got, (set, frozenset, list, tuple), "Return a set of (writer, reader).")
    refuse_if(
        not all(isinstance(edge, (tuple, list)) and len(edge) == 2 for edge in got),
        "Each element must be an edge, a pair (writer, reader).",
    )
    kept = {(edge[0], edge[1]) for edge in got}
    ahead, back = _reached(edges, "embed"), _reached(edges, "logits", backwards=True)
    from_embed = {(w, r) for w, r in edges if w in ahead}
    to_logits = {(w, r) for w, r in edges if r in back}
    want = from_embed & to_logits
    if kept == want:
        return
    nodes_on_a_path = (ahead & back) - {"embed", "logits"}
    mistakes: list[tuple[str, Edges]] = [
        ("You dropped nothing.", edges),
        ("You dropped every edge.", set()),
        ("You returned the edges that are on no path. Return the others.", edges - want),
        ("Your edges point backwards: (writer, reader) is asked for.", {(r, w) for w, r in want}),
        ("Some of your edges lead nowhere: check that their end reaches the logits.", from_embed),
        ("Some of your edges start nowhere: check that the embeddings reach them.", to_logits),
        ("Dropping an edge strands others: go on until nothing changes.", _one_pass(edges)),
        (
            "Dropping an edge strands others, more than once: go on until nothing changes.",
            _one_pass(_one_pass(edges)),
        ),
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
    made_up = kept - edges
    refuse_if(bool(made_up), f"You returned edges that were not given, such as {_any(made_up)}.")
    lost, extra = want - kept, kept - want
    said = f"{_any(lost)} lies on a path, and you dropped it. " if lost else ""
    if extra:
        said += f"{_any(extra)} lies on no path from embed to logits, and you kept it. "
    raise Refused(f"{said}The edges were: {', '.join(f'{w} > {r}' for w, r in sorted(edges))}.")


def _any(edges: Edges) -> str:
    writer, reader = min(edges, key=str)
    return f"({writer!r}, {reader!r})"
