"""Path patching: let a part's change reach some of its readers, and no other.

Sources: Wang et al. 2022 (IOI), section 3 and appendix B, where MLPs on the way respond;
Goldowsky-Dill et al. 2023, "Localizing model behavior with path patching", for the edge alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_helpers.circuits.graph import EdgeGraph, Node, NodeName
from mi_helpers.engine import MEMORY, Cell, Inputs, Replacement, Setup, What, prepare, rows_mask
from mi_helpers.metrics import Metric
from mi_helpers.patching.sweep import Sweep
from mi_helpers.sites import checked_indices

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def path_patch(
    model: TransformerBridge,
    base: Inputs,
    what: What,
    metric: Metric,
    *,
    receivers: str | Sequence[str] = "logits",
    senders: Sequence[NodeName] | None = None,
    positions: Sequence[int] | None = None,
    through: Sequence[str] = (),
    progress: bool = False,
) -> Sweep:
    """Replace what each sender writes, as seen by the receivers alone.

    Between sender and receivers everything else keeps the base run's activations, so only the
    direct path through the residual stream carries the change. What comes after the receivers
    responds freely. LayerNorms are recomputed, not frozen.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The prompts of the run that is patched.
        what: What the senders write instead, e.g. `OtherRun(corrupt_tokens)`.
        metric: Logits to one number an example.
        receivers: "logits", or a list of readers such as "L9H9.q", "L5H5.k", "L8H6.v", "MLP9",
            all patched together.
        senders: Writers, `Head(8, 6)` or "L8H6", "MLP0", "embed", one at a time; None means every
            head.
        positions: Where the senders' change is seen; None means everywhere.
        through: ("mlp",) lets the MLPs on the way respond, as the IOI paper does; () is the edge.

    Returns:
        A `Sweep` with axes ("layer", "head"), or ("sender",) where senders were named. A sender
        with no path to any receiver leaves the metric as it was.

    Raises:
        ValueError: names that are none, the logits mixed with other receivers, another
            architecture, hooks of your own on the model, or what `patch_sweep` refuses.
    """
    graph = EdgeGraph.of(model)
    names = [str(sender) for sender in (graph.heads if senders is None else senders)]
    readers = _checked_receivers(graph, receivers)
    _checked_senders(graph, names, through)
    setup = prepare(model, base, metric, what)
    n_pos = setup.base.tokens.shape[1]
    seen = None if positions is None else checked_indices(positions, n_pos, "position")
    began = time.perf_counter()
    with torch.no_grad():
        sent = _Sent(setup, rows_mask(n_pos, seen), "mlp" in through)
        if readers[0].kind == "logits":
            patched = sent.to_logits([graph.writer(name) for name in names])
        else:
            patched = _to_readers(sent, [graph.writer(n) for n in names], readers, progress)
    index: dict[str, Sequence] = {"sender": names}
    if senders is None:
        index = {"layer": range(graph.n_layers), "head": range(graph.n_heads)}
    shaped = patched.view(*map(len, index.values()), -1)
    seconds = time.perf_counter() - began
    return Sweep(
        shaped, tuple(index), index, setup.values["metric"], setup.targets.get("metric"), seconds
    )


def _checked_receivers(graph: EdgeGraph, receivers: str | Sequence[str]) -> list[Node]:
    names = [receivers] if isinstance(receivers, str) else list(receivers)
    readers = [graph.reader(name) for name in names]
    if not readers:
        raise ValueError('name at least one receiver, e.g. "logits" or ["L9H9.q"]')
    if len(readers) > 1 and "logits" in names:
        raise ValueError("patch the path to the logits alone: the other receivers lead there too")
    return readers


def _checked_senders(graph: EdgeGraph, names: Sequence[str], through: Sequence[str]) -> None:
    for name in names:
        graph.writer(name)
    if not names:
        raise ValueError("name at least one sender, or None for every head")
    if isinstance(through, str) or set(through) - {"mlp"}:
        raise ValueError(f'through={through!r}: give () or ("mlp",); nothing else can respond')


@dataclass
class _Sent:
    """What senders change in the residual stream, and how the change travels."""

    setup: Setup
    seen: Bool[Tensor, "pos 1"]
    through_mlps: bool

    def change(self, sender: Node) -> Float[Tensor, "batch pos d_model"]:
        """The other value minus the base run's of what the sender writes, where it is seen."""
        site = {"embed": "resid_pre", "mlp": "mlp_out", "head": "z"}[sender.kind]
        layer = max(0, sender.layer)
        change = self.setup.source(site, layer) - self.setup.base.get(site, layer)
        if sender.kind == "head":
            change = change[:, :, sender.head] @ self.setup.fused.W_O[layer][sender.head]
        return change * self.seen.to(change.device)

    def travel(self, sender: Node, rows: slice) -> Iterator[tuple[int, str, Tensor]]:
        """The change in the stream before each later block, "pre", and MLP, "mid"; at last "end".

        Only the positions `rows` are followed.
        """
        change, fused, base = self.change(sender)[:, rows], self.setup.fused, self.setup.base
        for layer in range(max(0, sender.layer), fused.n_layers):
            if layer > sender.layer:
                yield layer, "pre", change
            if layer > sender.layer or (sender.kind == "head" and not fused.parallel):
                yield layer, "mid", change
                if self.through_mlps:
                    mid = base.get(fused.mlp_reads, layer)[:, rows] + change
                    change = change + fused.mlp(layer, mid) - base.get("mlp_out", layer)[:, rows]
        yield fused.n_layers, "end", change

    def to_logits(self, senders: Sequence[Node]) -> Float[Tensor, "sender batch"]:
        """The metric with each sender's change added to the last stream, and only there."""
        setup, patched = self.setup, []
        for sender in senders:
            *_, (_, _, change) = self.travel(sender, setup.reads)
            final = setup.base.final[:, setup.reads] + change
            patched.append(setup.judge(final[None], setup.metrics["metric"])[0].cpu())
        return torch.stack(patched)

    def cell(self, sender: Node, readers: Sequence[Node]) -> Cell:
        """The edits that give the readers what they compute from the sender's change."""
        return tuple(
            edit
            for layer, place, change in self.travel(sender, slice(0, None))
            for edit in self._edits(layer, place, change, readers)
        )

    def _edits(
        self, layer: int, place: str, change: Tensor, readers: Sequence[Node]
    ) -> Iterator[Replacement]:
        """The edits of the readers of the stream at one place."""
        here = [node for node in readers if node.layer == layer]
        fused, base, n_pos = self.setup.fused, self.setup.base, change.shape[1]
        if place == "mid" and any(node.kind == "mlp" for node in here):
            patched = fused.mlp(layer, base.get(fused.mlp_reads, layer) + change)
            yield Replacement("mlp_out", layer, rows_mask(n_pos), patched)
        inputs = [node for node in here if node.kind in ("q", "k", "v")]
        if place == "pre" and inputs:
            qkv = fused.qkv(layer, base.get("resid_pre", layer) + change)
            for site, value in zip("qkv", qkv, strict=True):
                heads = [node.head for node in inputs if node.kind == site]
                if heads:
                    mask = torch.zeros(n_pos, value.shape[-2], dtype=torch.bool)
                    mask[:, heads] = True
                    yield Replacement(site, layer, mask, value)


def _to_readers(
    sent: _Sent, senders: Sequence[Node], readers: Sequence[Node], progress: bool
) -> Float[Tensor, "sender batch"]:
    """The metric with the readers patched, for some senders at a time: each has its own values."""
    setup = sent.setup
    n_places = len({node.layer for node in readers})
    held = 3 * n_places * setup.base.final.numel() * setup.base.final.element_size()
    size = max(1, MEMORY // held)
    parts = []
    for first in range(0, len(senders), size):
        cells = [sent.cell(sender, readers) for sender in senders[first : first + size]]
        ran = setup.run_cells(cells, progress=progress, label="path patching")
        parts.append(ran["metric"])
    return torch.cat(parts)
