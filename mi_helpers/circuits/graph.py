"""The edge graph: who writes to the residual stream, and who reads it.

Writers are the embeddings, the heads and the MLPs; readers are each head's query, key and value
inputs, the MLPs and the logits. Every reader reads the sum of all writers before it, so an edge
joins each writer to each later reader: 32,491 of them in GPT-2 small. This is the graph of edge
attribution patching (Syed et al. 2023) and, without its head-internal edges, of ACDC (Conmy et al.
2023). Positions are not told apart; `positions` does that.

Architectures change the graph in two places:

- Where several query heads share a key and a value (grouped-query attention), the model has one key
  input and one value input for the group, and so has the graph: "L5KV1.k" and "L5KV1.v" are read by
  all heads of group 1. EAP-IG's own code (Hanna et al. 2024) ungroups such models first and scores
  one edge for each query head; those of a group add up to the score of the edge here.
- Where attention and MLP stand side by side (GPT-NeoX), no edge leads from a head to the MLP of its
  own layer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_helpers.engine import ARCHITECTURES, FusedModel
from mi_helpers.files import write_whole
from mi_helpers.sites import Head, n_heads_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NodeName = str | Head
"""What a writer is called: "embed", "MLP0", "L9H6", or the `Head` itself."""

_NODE = re.compile(r"L(?P<layer>\d+)(KV|H)(?P<head>\d+)(\.(?P<input>[qkv]))?|MLP(?P<mlp>\d+)")


@dataclass(frozen=True)
class Node:
    """A writer or reader: kind "embed", "head", "mlp", "q", "k", "v" or "logits".

    The embeddings have layer -1, the logits the number of layers. `head` counts key-value heads for
    the keys and values that heads share.
    """

    kind: str
    layer: int
    head: int = 0


@dataclass(frozen=True)
class EdgeGraph:
    """The graph of a model with `n_layers` of `n_heads` each.

    Attributes:
        n_shared: How many key-value heads a layer has, where heads share them; None where each head
            has keys and values of its own.
        parallel: Whether attention and MLP of a layer read the same stream.
    """

    n_layers: int
    n_heads: int
    n_shared: int | None = None
    parallel: bool = False

    @classmethod
    def of(cls, model: TransformerBridge) -> EdgeGraph:
        """The model's graph; ValueError unless the engine has its architecture written down."""
        if not FusedModel.supports(model):
            raise ValueError(
                f"the edge graph needs heads and MLPs that add to the stream what they write, in "
                f"an architecture that the engine knows ({', '.join(ARCHITECTURES)}), in single "
                f"precision and without soft caps; this is {model.cfg.architecture} in "
                f"{model.cfg.dtype}: sites, heads and layers can be patched in any model"
            )
        cfg = model.cfg
        shared = n_heads_of(cfg, "k")
        return cls(
            cfg.n_layers,
            cfg.n_heads,
            None if shared == cfg.n_heads else shared,
            bool(cfg.parallel_attn_mlp),
        )

    @cached_property
    def heads(self) -> list[Head]:
        """All heads, L0H0 first."""
        return [Head(i, h) for i in range(self.n_layers) for h in range(self.n_heads)]

    @cached_property
    def writers(self) -> list[str]:
        """The names of all writers in the order in which they write."""
        layers = ([f"L{i}H{h}" for h in range(self.n_heads)] for i in range(self.n_layers))
        return ["embed", *(name for i, names in enumerate(layers) for name in [*names, f"MLP{i}"])]

    @cached_property
    def readers(self) -> list[str]:
        """All readers, layer by layer: the queries of all heads, keys, values, the MLP; logits."""
        names: list[str] = []
        for i in range(self.n_layers):
            heads = self.heads[i * self.n_heads : (i + 1) * self.n_heads]
            names += dict.fromkeys(self.input_of(head, x) for x in "qkv" for head in heads)
            names.append(f"MLP{i}")
        return [*names, "logits"]

    @property
    def input_sizes(self) -> tuple[int, int, int]:
        """How many query, key and value inputs a layer has."""
        shared = self.n_shared or self.n_heads
        return self.n_heads, shared, shared

    def input_of(self, head: Head | tuple[int, int], kind: str) -> str:
        """The reader that is a head's query, key or value input ("q", "k" or "v").

        That is "L5H3.k" where each head has its own, and "L5KV1.k" where heads share it.
        """
        layer, index = head
        if kind == "q" or self.n_shared is None:
            return f"{Head(layer, index)}.{kind}"
        return f"L{layer}KV{index // (self.n_heads // self.n_shared)}.{kind}"

    def fed_by(self, reader: str) -> list[str]:
        """What computes from a reader: a head, the heads of a group, an MLP, or "logits" itself."""
        self.reader(reader)
        fed = self.feeds[self._reader_index[reader]].nonzero().flatten().tolist()
        return [self.writers[i] for i in fed] or ["logits"]

    @cached_property
    def n_before(self) -> list[int]:
        """How many writers come before each reader: the first ones."""
        counts = []
        for i in range(self.n_layers):
            before = 1 + i * (self.n_heads + 1)
            middle = before if self.parallel else before + self.n_heads
            counts += [before] * sum(self.input_sizes) + [middle]
        return [*counts, len(self.writers)]

    @cached_property
    def feeds(self) -> Bool[Tensor, "reader writer"]:
        """True where the writer computes what it writes from what the reader reads.

        A query belongs to one head, a shared key to all heads of its group, the logits to none.
        """
        feeds = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        for head in self.heads:
            for kind in "qkv":
                place = self._reader_index[self.input_of(head, kind)]
                feeds[place, self._writer_index[str(head)]] = True
        for name in (f"MLP{i}" for i in range(self.n_layers)):
            feeds[self._reader_index[name], self._writer_index[name]] = True
        return feeds

    @cached_property
    def valid(self) -> Bool[Tensor, "reader writer"]:
        """True where there is an edge."""
        return torch.arange(len(self.writers)) < torch.tensor(self.n_before)[:, None]

    def writer(self, writer: NodeName) -> Node:
        """The writer of that name; ValueError when there is none."""
        name = str(writer)
        if name in self._writer_index:
            return Node("embed", -1) if name == "embed" else _parse(name)
        raise ValueError(f"{name!r} is no writer: embed, L0H0 to {self.heads[-1]}, MLP0 and so on")

    def reader(self, name: str) -> Node:
        """The reader called `name`; ValueError when it is none."""
        if name in self._reader_index:
            return Node("logits", self.n_layers) if name == "logits" else _parse(name)
        first, last = (self.input_of(head, "v")[:-2] for head in (self.heads[0], self.heads[-1]))
        raise ValueError(
            f"{name!r} is no reader: L0H0.q to {self.heads[-1]}.q, {first}.k or .v to {last}.v, "
            "MLP0 and so on, logits"
        )

    def edge(self, writer: NodeName, reader: str) -> tuple[int, int]:
        """An edge as (reader, writer), its place in matrices; ValueError when there is none."""
        self.writer(writer), self.reader(reader)
        place = self._reader_index[reader], self._writer_index[str(writer)]
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
    def of_edges(cls, graph: EdgeGraph, edges: Iterable[tuple[NodeName, str]]) -> Circuit:
        """From pairs of (writer, reader)."""
        kept = torch.zeros_like(graph.valid)
        for writer, reader in edges:
            kept[graph.edge(writer, reader)] = True
        return cls(graph, kept)

    @classmethod
    def of_nodes(cls, graph: EdgeGraph, nodes: Iterable[NodeName]) -> Circuit:
        """All edges between some heads and MLPs, from the embeddings and to the logits."""
        names = {*map(str, nodes), "embed", "logits"}
        for name in names - {"logits"}:
            graph.writer(name)
        writes = torch.tensor([name in names for name in graph.writers])
        reads = (graph.feeds & writes).any(dim=1)
        reads[-1] = True
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

    def heads(self) -> list[Head]:
        """The heads that an edge leaves, in order."""
        names = set(self.nodes())
        return [head for head in self.graph.heads if str(head) in names]

    def pruned(self) -> Circuit:
        """Without the edges on no path from the embeddings to the logits."""
        kept, feeds = self.kept.clone(), self.graph.feeds
        while True:
            before = int(kept.sum())
            kept[:, 1:] &= (feeds & kept.any(dim=1)[:, None]).any(dim=0)[1:]  # something comes in
            kept[:-1] &= (feeds & kept.any(dim=0)).any(dim=1)[:-1, None]  # something goes out
            if int(kept.sum()) == before:
                return Circuit(self.graph, kept)

    def save(self, path: str | Path) -> None:
        """Write the edges as JSON, whole or not at all."""
        shape = asdict(self.graph)
        with write_whole(path) as part:
            part.write_text(json.dumps({**shape, "edges": self.edges()}, indent=0))

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what `save` wrote; ValueError when it is not that."""
        try:
            data = json.loads(Path(path).read_text())
            shared, parallel = data.get("n_shared"), bool(data.get("parallel", False))
            graph = EdgeGraph(int(data["n_layers"]), int(data["n_heads"]), shared, parallel)
            return cls.of_edges(graph, [(writer, reader) for writer, reader in data["edges"]])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no saved circuit: {error!r}") from error


def _parse(name: str) -> Node:
    match = _NODE.fullmatch(name)
    assert match is not None
    if match["mlp"]:
        return Node("mlp", int(match["mlp"]))
    return Node(match["input"] or "head", int(match["layer"]), int(match["head"]))
