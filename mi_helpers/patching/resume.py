"""Many patched forward passes as one, each resumed from the layer and the position of its patch.

A cell (the edits of one patched pass) enters the batch at the layer and stage of its first edit:
what lies before is the base run's. Positions before the first that the edits change are the base
run's too, by causality, and only lend their keys and values. In the last layer, queries, output and
MLP are computed only where the metric reads. So each number is the one that a plain forward pass
with the same edits would give, at a fraction of the work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_helpers.patching.fused import FusedGPT2
from mi_helpers.patching.runs import Cell, Edit, FirstChange, Run
from mi_helpers.patching.sites import site_of

# The stages at which a cell can enter a layer; sites of a stage between enter at the one before.
_ENTRIES = {"resid_pre": 0, "q": 1, "k": 1, "v": 1, "pattern": 1, "z": 3, "result": 3}
_ENTRIES |= {"attn_out": 5, "resid_mid": 6, "mlp_out": 7, "resid_post": 8}


class FusedEngine:
    """Runs cells on a GPT-2 through `FusedGPT2`."""

    def __init__(self, gpt2: FusedGPT2) -> None:
        self.gpt2 = gpt2
        self.n_layers = gpt2.n_layers
        self.trace, self.logits = gpt2.trace, gpt2.logits

    def unembedding(self) -> tuple[Tensor, Tensor]:
        """W_U and b_U."""
        return self.gpt2.W_U, self.gpt2.b_U

    def final_normed(self, resid: Tensor) -> Tensor:
        """The final LayerNorm."""
        return self.gpt2.final_normed(resid)

    def run_cells(
        self, base: Run, cells: Sequence[Cell], reads: slice, memory: int
    ) -> Iterator[tuple[list[int], Float[Tensor, "cell batch pos d_model"]]]:
        """The final residual stream of each cell at the positions `reads`, in chunks.

        Yields the indices of the cells of a chunk with their streams; cells that change nothing
        come first and carry the base run's.

        Args:
            base: The run that the cells edit.
            cells: Their edits.
            reads: The positions that the metric reads, a slice to the end.
            memory: Bound on the working memory of a chunk, in bytes.
        """
        first_change = FirstChange(base)
        starts = [first_change(cell) for cell in cells]
        batch, n_pos = base.tokens.shape
        for index in (i for i, start in enumerate(starts) if start is None):
            yield [index], base.final[None, :, reads]
        moving = [i for i, start in enumerate(starts) if start is not None]
        moving.sort(key=lambda i: (starts[i], _entry(cells[i])))
        while moving:
            start = starts[moving[0]] or 0
            rows = batch * (n_pos - start)
            size = max(1, memory // (rows * self.gpt2.bytes_per_row))
            chunk = [i for i in moving[:size] if starts[i] == start]
            moving = moving[len(chunk) :]
            chosen = [cells[i] for i in chunk]
            yield chunk, _Chunk(self.gpt2, base, chosen, start, reads).run()


class _Chunk:
    """Cells that share their first changed position, sorted by where they enter."""

    def __init__(
        self, gpt2: FusedGPT2, base: Run, cells: Sequence[Cell], start: int, reads: slice
    ) -> None:
        self.gpt2, self.base, self.start, self.reads = gpt2, base, start, reads
        self.rows = slice(start, base.tokens.shape[1])
        self.entering = Counter(_entry(cell) for cell in cells)
        self.edits: dict[tuple[str, int], list[tuple[int, Edit]]] = defaultdict(list)
        for index, cell in enumerate(cells):
            for edit in cell:
                self.edits[edit.site, edit.layer].append((index, edit))
        self.due = sum(len(cell) for cell in cells)

    def run(self) -> Float[Tensor, "cell batch pos d_model"]:
        """All layers from the first entry on; the stream at the positions the metric reads."""
        resid: Tensor | None = None
        for layer in range(min(self.entering)[0], self.gpt2.n_layers):
            resid = self._block(layer, resid)
        assert resid is not None
        if self.due:
            raise RuntimeError(f"{self.due} edits never took place: the sweep would be wrong")
        missing = self.start - self.reads.start
        if missing <= 0:
            return resid
        before = self.base.final[:, self.reads.start : self.start]
        return torch.cat([before.expand(len(resid), -1, -1, -1), resid], dim=2)

    def _block(self, layer: int, resid: Tensor | None) -> Tensor | None:
        (resid,) = self._enter(layer, 0, resid_pre=resid)
        self._edit("resid_pre", layer, resid)
        q = k = v = z = attn_out = mlp_out = None
        if resid is not None:
            q, k, v = self.gpt2.qkv(layer, resid)
        resid, q, k, v = self._enter(layer, 1, resid_pre=resid, q=q, k=k, v=v)
        for site, act in (("q", q), ("k", k), ("v", v)):
            self._edit(site, layer, act)
        if layer == self.gpt2.n_layers - 1:
            resid, q = self._narrow(resid), self._narrow(q)
            self.rows = slice(max(self.start, self.reads.start), self.rows.stop)
        if q is not None and k is not None and v is not None:
            z = self._attend(layer, q, k, v)
        resid, z = self._enter(layer, 3, resid_pre=resid, z=z)
        self._edit("z", layer, z)
        if z is not None:
            attn_out = self.gpt2.attn_out(layer, z)
            self._edit_result(layer, z, attn_out)
        resid, attn_out = self._enter(layer, 5, resid_pre=resid, attn_out=attn_out)
        self._edit("attn_out", layer, attn_out)
        mid = None
        if resid is not None and attn_out is not None:
            mid = resid + attn_out
        (mid,) = self._enter(layer, 6, resid_mid=mid)
        self._edit("resid_mid", layer, mid)
        if mid is not None:
            mlp_out = self.gpt2.mlp(layer, mid)
        mid, mlp_out = self._enter(layer, 7, resid_mid=mid, mlp_out=mlp_out)
        self._edit("mlp_out", layer, mlp_out)
        if mid is not None and mlp_out is not None:
            mid += mlp_out
        (post,) = self._enter(layer, 8, resid_post=mid)
        return self._edit("resid_post", layer, post)

    def _enter(self, layer: int, stage: int, **acts: Tensor | None) -> list[Tensor | None]:
        """Append the cells that enter here, with the base run's activations."""
        new = self.entering[layer, stage]
        grown = []
        for site, act in acts.items():
            if new:
                fresh = self.base.get(site, layer)[:, self.rows]
                fresh = fresh.expand(new, *fresh.shape)
                act = fresh.clone() if act is None else torch.cat([act, fresh])
            grown.append(act)
        return grown

    def _narrow(self, act: Tensor | None) -> Tensor | None:
        skip = max(0, self.reads.start - self.start)
        return act if act is None else act[:, :, skip:]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """z, with the keys and values of the positions before `start` from the base run."""
        if self.start:
            earlier = (self.base.get(site, layer)[:, : self.start] for site in ("k", "v"))
            k, v = (
                torch.cat([act.expand(len(q), *act.shape), mine], dim=2)
                for act, mine in zip(earlier, (k, v), strict=True)
            )
        z = self.gpt2.attend(q, k, v)
        for index, edit in self._taking_place("pattern", layer):
            patched = torch.einsum("bqhk,bkhd->bqhd", edit.value[:, self.rows], v[index])
            mask = edit.mask[self.rows, :, None].to(z.device)
            z[index] = torch.where(mask, patched, z[index])
        return z

    def _edit(self, site: str, layer: int, act: Tensor | None) -> Tensor | None:
        """Put the values of the edits in place, in `act` itself."""
        for index, edit in self._taking_place(site, layer):
            assert act is not None
            mask = edit.mask[self.rows].to(act.device)
            mask = mask[..., None] if site_of(site).per_head else mask
            act[index] = torch.where(mask, edit.value[:, self.rows], act[index])
        return act

    def _edit_result(self, layer: int, z: Tensor, attn_out: Tensor) -> None:
        """Replace what single heads write: take their own out of `attn_out`, put the value in."""
        for index, edit in self._taking_place("result", layer):
            mask = edit.mask[self.rows, :, None].to(z.device)
            own = self.gpt2.head_result(layer, z[index])
            attn_out[index] += ((edit.value[:, self.rows] - own) * mask).sum(dim=2)

    def _taking_place(self, site: str, layer: int) -> Iterator[tuple[int, Edit]]:
        """The edits of this site and layer, counted as done."""
        for index, edit in self.edits.get((site, layer), ()):
            self.due -= 1
            yield index, edit


def _entry(cell: Cell) -> tuple[int, int]:
    """Layer and stage at which a cell enters: those of its first edit."""
    return min((edit.layer, _ENTRIES[edit.site]) for edit in cell)
