"""Forward passes of circuits: every reader reads kept edges live and the others ablated.

The algorithm, for many circuits at once:

1. Once: from the other run (or zero, a mean, ...) take what each writer writes there, and sum it up
   to the *ablated stream* before each reader: what a reader sees when every edge is ablated.
2. For a layer's readers, go through the writers before them and form "now - ablated", each
   writer's *change* in this circuit. The input of a reader is the ablated stream plus the changes
   along its kept edges: one matrix product of edges with changes gives all readers of the layer.
3. Compute the layer's heads, each with its own query, key and value inputs; subtract what takes
   their place: these are their changes. Then the same for the MLP.
4. At the end the logits are one more reader; a judge turns its input into a number an example.
5. Where circuits share the changes of the first writers, the pass resumes after those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.circuits.graph import EdgeGraph
from mi_helpers.engine import MEMORY, FusedModel, Run, Setup, Values

Judge = Callable[[Float[Tensor, "circuit batch pos d_model"]], Float[Tensor, "circuit batch"]]


def writer_outputs(
    graph: EdgeGraph, fused: FusedModel, values: Values
) -> Float[Tensor, "writer batch pos d_model"]:
    """What each writer adds to the residual stream, from activations of its site.

    The output bias of the attention belongs to no head.
    """
    written = [values("resid_pre", 0)]
    for layer in range(graph.n_layers):
        written += fused.head_result(layer, values("z", layer)).unbind(dim=2)
        written.append(values("mlp_out", layer))
    return torch.stack([x.expand_as(written[0]) for x in written])


@dataclass
class EdgeRunner:
    """Runs circuits on some prompts.

    Attributes:
        base: The run of the whole model on the prompts.
        ablated: What takes the place of each writer's output.
        reads: The positions of the last residual stream to return, a slice to the end.
    """

    graph: EdgeGraph
    fused: FusedModel
    base: Run
    ablated: Float[Tensor, "writer batch pos d_model"]
    reads: slice

    def __post_init__(self) -> None:
        self._shape = tuple(self.ablated.shape[1:])
        biases = [self.ablated.new_zeros(self._shape[-1])]
        for layer in range(self.graph.n_layers):  # the output bias is written with the last head
            heads = [biases[0]] * (self.graph.n_heads - 1)
            bias = self.fused.b_O[layer]
            biases += [*heads, biases[0] if bias is None else bias, biases[0]]
        written = self.ablated + torch.stack(biases)[:, None, None]
        self._stream = torch.cat([torch.zeros_like(written[:1]), written.cumsum(dim=0)])

    def changes(
        self, kept: Bool[Tensor, "reader writer"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """For each writer: what it writes in this circuit, minus what takes its place."""
        return self._run(kept[None], self._embed_change(), 1)[1][0]

    def final(
        self,
        kept: Bool[Tensor, "circuit *pos reader writer"],
        judge: Judge,
        *,
        earlier: Float[Tensor, "earlier batch pos d_model"] | None = None,
    ) -> Float[Tensor, "circuit batch"]:
        """Judge each circuit by the last residual stream at the positions `reads`.

        Args:
            kept: The edges of each circuit; with an axis of positions, where each is kept.
            judge: Residual streams to one number an example.
            earlier: The changes of the first writers, where all circuits share them: the pass
                resumes with the first reader that reads more than those.
        """
        start = self._embed_change() if earlier is None else earlier
        new = len(self.graph.writers) - len(start)
        rows = new + 3 * sum(self.graph.input_sizes)  # a layer's inputs, normed, summed
        bytes_each = 4 * self.ablated[0].numel() * max(1, rows)
        size = max(1, MEMORY // bytes_each)
        parts = [judge(self._run(part, start, len(start))[0]).cpu() for part in kept.split(size)]
        return torch.cat(parts)

    def _embed_change(self) -> Float[Tensor, "1 batch pos d_model"]:
        return (self.base.get("resid_pre", 0) - self.ablated[0])[None]

    def _run(
        self, kept: Tensor, earlier: Tensor, n_written: int
    ) -> tuple[Float[Tensor, "circuit batch pos d_model"], Tensor]:
        """The last stream at `reads`, and the changes of the writers from the first."""
        own = earlier.new_empty(len(kept), 0, *self._shape)
        reader, n_heads, inputs_each = 0, self.graph.n_heads, sum(self.graph.input_sizes)
        for layer in range(self.graph.n_layers):
            first_mlp = reader + inputs_each
            if self.graph.n_before[reader] >= n_written:
                inputs = self._inputs(kept, slice(reader, first_mlp), earlier, own)
                own = torch.cat([own, self._attention(layer, inputs)], dim=1)
            if self.graph.n_before[first_mlp] >= n_written:
                mid = self._inputs(kept, slice(first_mlp, first_mlp + 1), earlier, own)
                mlp_out = self.fused.mlp(layer, mid)
                writer = (layer + 1) * (n_heads + 1)
                own = torch.cat([own, mlp_out - self.ablated[writer]], dim=1)
            reader = first_mlp + 1
        final = self._inputs(kept, slice(reader, None), earlier, own, self.reads)[:, 0]
        return final, torch.cat([earlier.expand(len(kept), *earlier.shape), own], dim=1)

    def _inputs(
        self,
        kept: Tensor,
        readers: slice,
        earlier: Tensor,
        own: Tensor,
        rows: slice = slice(None),
    ) -> Float[Tensor, "circuit reader batch pos d_model"]:
        """What readers of one place read: the ablated stream, and the changes along kept edges."""
        n_before = self.graph.n_before[readers][0]
        edges = kept[..., readers, :n_before].to(earlier)
        earlier, own = earlier[:n_before, :, rows], own[:, : n_before - len(earlier), :, rows]
        stream = self._stream[n_before][:, rows]
        n_shared = len(earlier)
        if edges.ndim == 4:  # [circuit pos reader writer]
            edges = edges[:, rows]
            total = torch.einsum("cprw,wbpd->crbpd", edges[..., :n_shared], earlier)
            return total + torch.einsum("cprw,cwbpd->crbpd", edges[..., n_shared:], own) + stream
        total = edges[:, :, :n_shared] @ earlier.flatten(1)
        if own.shape[1]:
            total = torch.baddbmm(total, edges[:, :, n_shared:], own.flatten(2))
        return total.view(*edges.shape[:2], *stream.shape).add_(stream)

    def _attention(self, layer: int, inputs: Tensor) -> Float[Tensor, "circuit head batch pos d"]:
        """The changes of the heads of a layer, each with its own query, key and value inputs."""
        normed = self.fused.normed(layer, inputs).split(self.graph.input_sizes, dim=1)
        weights = zip(normed, self.fused.W_QKV[layer], self.fused.b_QKV[layer], strict=True)
        qkv = []
        for x, W, b in weights:
            flat = x.flatten(2, 3) @ W  # [circuit head batch*pos d_head]
            flat = flat if b is None else flat + b[:, None]
            qkv.append(flat.unflatten(2, x.shape[2:4]).permute(0, 2, 3, 1, 4))
        z = self.fused.attend(*qkv)
        written = self.fused.head_result(layer, z).permute(0, 3, 1, 2, 4)
        first = 1 + layer * (self.graph.n_heads + 1)
        return written - self.ablated[first : first + self.graph.n_heads]


def edge_runner(setup: Setup) -> EdgeRunner:
    """A runner of circuits on the base run's prompts, whose ablated edges read the setup's `what`.

    Raises:
        RuntimeError: keeping every edge does not give the model back.
    """
    fused = setup.fused
    graph = EdgeGraph.of(setup.model)
    ablated = writer_outputs(graph, fused, setup.source)
    runner = EdgeRunner(graph, fused, setup.base, ablated, setup.reads)
    for name, metric in setup.metrics.items():
        whole = runner.final(graph.valid[None], partial(setup.judge, metric=metric))
        worst = float((whole[0] - setup.values[name]).abs().max())
        if worst > 10 * setup.tolerance:
            raise RuntimeError(f"with every edge kept, {name!r} is {worst:.2g} off the model")
    return runner
