"""Many patched forward passes as one, each resumed from the layer and the position of its patch.

The number of a cell (what one patched pass replaces) is the one that a plain forward pass with the
same replacements would give. To get it at a fraction of the work:

1. For each cell, find the first position that it changes. By causality, earlier positions are the
   base run's and only lend their keys and values; a cell that changes nothing is the base run.
2. Sort the cells by that position, then by the step of the block at which they change something
   first. Cut them into chunks that share the position and fit in memory.
3. Run a chunk through the steps of the blocks (`architecture`). Before its first change a cell
   equals the base run, so it enters the batch there, with the base run's activations of the sites
   that later steps read.
4. After each step, put the values of its replacements in place, and count them.
5. In the last layer, go on only with the positions that the metric reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.engine import runs
from mi_helpers.engine.architecture import FusedModel, Step
from mi_helpers.engine.runs import Cell, FirstChange, Replacement, Run
from mi_helpers.sites import site_of

_INSIDE = {"pattern": "z", "result": "attn_out"}
"""Sites that no step computes: the site of the step in which they are replaced."""


class FusedEngine:
    """Runs cells through a `FusedModel`."""

    def __init__(self, fused: FusedModel) -> None:
        self.fused = fused
        self.n_layers = fused.n_layers
        self.trace, self.logits = fused.trace, fused.logits
        self.linear = True

    def unembedding(self) -> tuple[Tensor, Tensor]:
        """W_U and b_U."""
        return self.fused.W_U, self.fused.b_U

    def final_normed(self, resid: Tensor) -> Tensor:
        """The final LayerNorm."""
        return self.fused.final_normed(resid)

    def run_cells(
        self, base: Run, cells: Sequence[Cell], reads: slice
    ) -> Iterator[tuple[list[int], Float[Tensor, "cell batch pos d_model"]]]:
        """The final residual stream of each cell at the positions `reads`, in chunks.

        Yields the indices of the cells of a chunk with their streams; cells that change nothing
        come first and carry the base run's.

        Args:
            base: The run that the cells change.
            cells: What they replace.
            reads: The positions that the metric reads, a slice to the end.
        """
        first_change, steps = FirstChange(base), self.fused.steps
        starts = [first_change(cell) for cell in cells]
        batch, n_pos = base.tokens.shape
        for index in (i for i, start in enumerate(starts) if start is None):
            yield [index], base.final[None, :, reads]
        moving = [i for i, start in enumerate(starts) if start is not None]
        entries = {i: _entry(cells[i], steps) for i in moving}
        moving.sort(key=lambda i: (starts[i], entries[i]))
        while moving:
            start = starts[moving[0]] or 0
            rows = batch * (n_pos - start)
            size = max(1, runs.MEMORY // (rows * self.fused.bytes_per_row))
            chunk = [i for i in moving[:size] if starts[i] == start]
            moving = moving[len(chunk) :]
            chosen = [cells[i] for i in chunk]
            entering = Counter(entries[i] for i in chunk)
            yield chunk, _Chunk(self.fused, base, chosen, entering, start, reads).run()


class _Chunk:
    """Cells that share their first changed position, sorted by where they enter."""

    def __init__(
        self,
        fused: FusedModel,
        base: Run,
        cells: Sequence[Cell],
        entering: Counter[tuple[int, int]],
        start: int,
        reads: slice,
    ) -> None:
        self.fused, self.base, self.start, self.reads = fused, base, start, reads
        self.entering = entering
        self.rows = slice(start, base.tokens.shape[1])
        self.due: dict[tuple[str, int], list[tuple[int, Replacement]]] = defaultdict(list)
        for index, cell in enumerate(cells):
            for one in cell:
                self.due[one.site, one.layer].append((index, one))

    def run(self) -> Float[Tensor, "cell batch pos d_model"]:
        """All layers from the first entry on; the stream at the positions the metric reads."""
        resid: Tensor | None = None
        for layer in range(min(self.entering)[0], self.fused.n_layers):
            resid = self._block(layer, resid)
        assert resid is not None
        if left := sum(map(len, self.due.values())):
            raise RuntimeError(f"{left} replacements never took place: the sweep would be wrong")
        missing = self.start - self.reads.start
        if missing <= 0:
            return resid
        before = self.base.final[:, self.reads.start : self.start]
        return torch.cat([before.expand(len(resid), -1, -1, -1), resid], dim=2)

    def _block(self, layer: int, resid: Tensor | None) -> Tensor | None:
        """One layer, step by step; `acts` holds what later steps read."""
        acts = {} if resid is None else {"resid_pre": resid}
        steps = self.fused.steps
        self._arrive(layer, 0, ("resid_pre",), {"resid_pre"}, acts)
        for number, step in enumerate(steps, start=1):
            if "z" in step.writes:
                self._before_attention(layer, acts)
            if acts:
                made = step.compute(layer, *(acts[site] for site in step.reads))
                acts |= zip(step.writes, made, strict=True)
                self._replace_inside(layer, step, acts)
            live = {site for later in steps[number:] for site in later.reads} | {"resid_post"}
            acts = {site: act for site, act in acts.items() if site in live}
            known = {"resid_pre"}.union(*(earlier.writes for earlier in steps[:number]))
            self._arrive(layer, number, step.writes, live & known, acts)
        return acts.get("resid_post")

    def _arrive(
        self,
        layer: int,
        number: int,
        sites: tuple[str, ...],
        live: set[str],
        acts: dict[str, Tensor],
    ) -> None:
        """Let the cells enter that begin at this step, then put the values of `sites` in place."""
        if new := self.entering[layer, number]:
            for site in live:
                fresh = self.base.get(site, layer)[:, self.rows]
                fresh = fresh.expand(new, *fresh.shape)
                acts[site] = torch.cat([acts[site], fresh]) if site in acts else fresh.clone()
        for site in sites:
            for index, one in self.due.pop((site, layer), ()):
                act = acts[site]
                mask = one.mask[self.rows].to(act.device)
                mask = mask[..., None] if site_of(site).per_head else mask
                act[index] = torch.where(mask, one.value[:, self.rows], act[index])

    def _before_attention(self, layer: int, acts: dict[str, Tensor]) -> None:
        """In the last layer, ask only at the positions that are read; look back at the base run."""
        if layer == self.fused.n_layers - 1:
            skip = max(0, self.reads.start - self.start)
            self.rows = slice(self.start + skip, self.rows.stop)
            acts |= {site: acts[site][:, :, skip:] for site in ("resid_pre", "q") if site in acts}
        if acts and self.start:
            for site in ("k", "v"):
                earlier = self.base.get(site, layer)[:, : self.start]
                earlier = earlier.expand(len(acts[site]), *earlier.shape)
                acts[site] = torch.cat([earlier, acts[site]], dim=2)

    def _replace_inside(self, layer: int, step: Step, acts: dict[str, Tensor]) -> None:
        """Replace patterns and single heads' results, which are parts of what a step computes."""
        for index, one in self.due.pop(("pattern", layer), ()) if "z" in step.writes else ():
            z = self.fused.mix(one.value[:, self.rows], acts["v"][index])
            mask = one.mask[self.rows, :, None].to(z.device)
            acts["z"][index] = torch.where(mask, z, acts["z"][index])
        for index, one in self.due.pop(("result", layer), ()) if "attn_out" in step.writes else ():
            own = self.fused.head_result(layer, acts["z"][index])
            mask = one.mask[self.rows, :, None].to(own.device)
            acts["attn_out"][index] += ((one.value[:, self.rows] - own) * mask).sum(dim=2)


def _entry(cell: Cell, steps: Sequence[Step]) -> tuple[int, int]:
    """Layer and step after which a cell enters; 0 is before the first step of the layer."""
    written = {site: number for number, step in enumerate(steps, 1) for site in step.writes}
    entry = written | {site: written[inside] - 1 for site, inside in _INSIDE.items()}
    return min((one.layer, entry.get(one.site, 0)) for one in cell)
