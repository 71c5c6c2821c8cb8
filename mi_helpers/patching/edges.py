"""The edge graph: who writes to the residual stream, and who reads it.

Writers are the embeddings, the heads and the MLPs; readers are each head's query, key and value
inputs, the MLPs and the logits. Every reader reads the sum of all writers before it, so an edge
joins each writer to each later reader: 32,491 of them in GPT-2 small. This is the graph of edge
attribution patching (Syed et al. 2023) and, without its head-internal edges, of ACDC (Conmy et al.
2023). Positions are not told apart.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_helpers.patching.fused import FusedGPT2

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_NODE = re.compile(r"L(?P<layer>\d+)H(?P<head>\d+)(\.(?P<input>[qkv]))?|MLP(?P<mlp>\d+)")


@dataclass(frozen=True)
class Node:
    """A writer or reader: kind "embed", "head", "mlp", "q", "k", "v" or "logits".

    The embeddings have layer -1, the logits the number of layers.
    """

    kind: str
    layer: int
    head: int = 0


@dataclass(frozen=True)
class EdgeGraph:
    """The graph of a model with `n_layers` of `n_heads` each."""

    n_layers: int
    n_heads: int

    @classmethod
    def of(cls, model: TransformerBridge) -> EdgeGraph:
        """The model's graph; ValueError unless it is of GPT-2's architecture."""
        if not FusedGPT2.supports(model):
            raise ValueError(
                f"the edge graph is made for GPT-2's architecture in single precision, not for "
                f"{model.cfg.architecture}: sites, heads and layers can be patched in any model"
            )
        return cls(model.cfg.n_layers, model.cfg.n_heads)

    @cached_property
    def heads(self) -> list[str]:
        """All heads, "L0H0" first."""
        return [f"L{i}H{h}" for i in range(self.n_layers) for h in range(self.n_heads)]

    @cached_property
    def writers(self) -> list[str]:
        """All writers in the order in which they write."""
        layers = ([f"L{i}H{h}" for h in range(self.n_heads)] for i in range(self.n_layers))
        return ["embed", *(name for i, names in enumerate(layers) for name in [*names, f"MLP{i}"])]

    @cached_property
    def readers(self) -> list[str]:
        """All readers, layer by layer: the queries of all heads, keys, values, the MLP; logits."""
        names = []
        for i in range(self.n_layers):
            names += [f"L{i}H{h}.{x}" for x in "qkv" for h in range(self.n_heads)] + [f"MLP{i}"]
        return [*names, "logits"]

    @cached_property
    def n_before(self) -> list[int]:
        """How many writers come before each reader: the first ones."""
        counts = []
        for i in range(self.n_layers):
            before = 1 + i * (self.n_heads + 1)
            counts += [before] * 3 * self.n_heads + [before + self.n_heads]
        return [*counts, len(self.writers)]

    @cached_property
    def valid(self) -> Bool[Tensor, "reader writer"]:
        """True where there is an edge."""
        return torch.arange(len(self.writers)) < torch.tensor(self.n_before)[:, None]

    def writer(self, name: str) -> Node:
        """The writer called `name`; ValueError when it is none."""
        if name in self._writer_index:
            return Node("embed", -1) if name == "embed" else _parse(name)
        raise ValueError(f"{name!r} is no writer: embed, L0H0 to {self.heads[-1]}, MLP0 and so on")

    def reader(self, name: str) -> Node:
        """The reader called `name`; ValueError when it is none."""
        if name in self._reader_index:
            return Node("logits", self.n_layers) if name == "logits" else _parse(name)
        raise ValueError(
            f"{name!r} is no reader: L0H0.q, .k or .v to {self.heads[-1]}.v, MLP0 and so on, logits"
        )

    def edge(self, writer: str, reader: str) -> tuple[int, int]:
        """An edge as (reader, writer), its place in matrices; ValueError when there is none."""
        self.writer(writer), self.reader(reader)
        place = self._reader_index[reader], self._writer_index[writer]
        if not self.valid[place]:
            raise ValueError(f"no edge {writer} -> {reader}: the reader comes first")
        return place

    @cached_property
    def _writer_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.writers)}

    @cached_property
    def _reader_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.readers)}


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of edges: `kept[reader, writer]`."""

    graph: EdgeGraph
    kept: Bool[Tensor, "reader writer"]

    def __post_init__(self) -> None:
        if self.kept.dtype != torch.bool or self.kept.shape != self.graph.valid.shape:
            raise ValueError(
                f"kept must be boolean [reader writer] = {list(self.graph.valid.shape)}, "
                f"got {self.kept.dtype} {list(self.kept.shape)}"
            )
        if (self.kept & ~self.graph.valid).any():
            raise ValueError("kept has edges from a writer to an earlier reader")

    @classmethod
    def of_edges(cls, graph: EdgeGraph, edges: Iterable[tuple[str, str]]) -> Circuit:
        """From (writer, reader) names."""
        kept = torch.zeros_like(graph.valid)
        for writer, reader in edges:
            kept[graph.edge(writer, reader)] = True
        return cls(graph, kept)

    @classmethod
    def of_nodes(cls, graph: EdgeGraph, nodes: Iterable[str]) -> Circuit:
        """All edges between some heads and MLPs, from the embeddings and to the logits."""
        nodes = {*nodes, "embed", "logits"}
        for name in nodes - {"logits"}:
            graph.writer(name)
        reads = torch.tensor([name.split(".")[0] in nodes for name in graph.readers])
        writes = torch.tensor([name in nodes for name in graph.writers])
        return cls(graph, graph.valid & reads[:, None] & writes)

    @property
    def n_edges(self) -> int:
        """How many edges are kept."""
        return int(self.kept.sum())

    def edges(self) -> list[tuple[str, str]]:
        """The edges as (writer, reader), in the order of the readers."""
        places = self.kept.nonzero().tolist()
        return [(self.graph.writers[w], self.graph.readers[r]) for r, w in places]

    def nodes(self) -> list[str]:
        """The heads and MLPs that an edge leaves, in order."""
        used = self.kept.any(dim=0)
        return [
            n for n, u in zip(self.graph.writers, used.tolist(), strict=True) if u and n != "embed"
        ]

    def pruned(self) -> Circuit:
        """Without the edges on no path from the embeddings to the logits."""
        kept = self.kept.clone()
        reader_of = [
            [i for i, r in enumerate(self.graph.readers) if r.split(".")[0] == w]
            for w in self.graph.writers
        ]
        while True:
            before = int(kept.sum())
            for writer, readers in enumerate(reader_of[1:], start=1):
                if not kept[readers].any():  # nothing comes in
                    kept[:, writer] = False
                if not kept[:, writer].any():  # nothing goes out
                    kept[readers] = False
            if int(kept.sum()) == before:
                return Circuit(self.graph, kept)

    def save(self, path: str | Path) -> None:
        """Write the edges as JSON, whole or not at all."""
        shape = {"n_layers": self.graph.n_layers, "n_heads": self.graph.n_heads}
        part = Path(path).with_name(Path(path).name + ".part")
        part.write_text(json.dumps({**shape, "edges": self.edges()}, indent=0))
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote; ValueError when it is not that."""
        try:
            data = json.loads(Path(path).read_text())
            graph = EdgeGraph(int(data["n_layers"]), int(data["n_heads"]))
            return cls.of_edges(graph, [(writer, reader) for writer, reader in data["edges"]])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no saved circuit: {error!r}") from error


def _parse(name: str) -> Node:
    match = _NODE.fullmatch(name)
    assert match is not None
    if match["mlp"]:
        return Node("mlp", int(match["mlp"]))
    return Node(match["input"] or "head", int(match["layer"]), int(match["head"]))
