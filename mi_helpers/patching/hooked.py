"""The same cells through the bridge's own blocks and hooks: slower, for any architecture."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.patching.inputs import Change
from mi_helpers.patching.runs import Cell, Edit, FirstChange, Run
from mi_helpers.patching.sites import SITES, site_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class HookedEngine:
    """Runs cells by hooks on the bridge, batched, from the first patched block where it can."""

    def __init__(self, model: TransformerBridge) -> None:
        self.model = model
        self.n_layers = model.cfg.n_layers
        self._resumes = False

    def trace(self, tokens: Int[Tensor, "batch pos"], change: Change | None = None) -> Run:
        """One forward pass that keeps every site that the model has."""
        hooks = {
            site.hook.format(layer=layer): (site.name, layer)
            for site in SITES.values()
            for layer in range(self.n_layers)
            if site.name != "result"
        }
        present = [name for name in hooks if name in self.model.hook_dict]
        with self.model.hooks(fwd_hooks=change_hook(change)):
            _, cache = self.model.run_with_cache(tokens, names_filter=present)
        acts = {hooks[name]: to_site_layout(hooks[name][0], cache[name]) for name in present}
        final = acts["resid_post", self.n_layers - 1]
        run = Run(tokens, acts, final, self._derive, change)
        self._resumes = self._blocks_stand_alone(run)
        return run

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits from the residual stream after the last block."""
        flat = resid.flatten(0, -3) if resid.ndim > 3 else resid
        logits = self.model.unembed(self.model.ln_final(flat))
        return logits.view(*resid.shape[:-1], -1)

    def unembedding(self) -> tuple[Tensor, Tensor]:
        """W_U and b_U."""
        return self.model.W_U, self.model.b_U

    def final_normed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final normalisation."""
        return self.model.ln_final(resid)

    def run_cells(
        self, base: Run, cells: Sequence[Cell], reads: slice, memory: int
    ) -> Iterator[tuple[list[int], Float[Tensor, "cell batch pos d_model"]]]:
        """As `FusedEngine.run_cells`, with every position and every layer from the first edit."""
        first_change = FirstChange(base)
        moving = []
        for index, cell in enumerate(cells):
            if first_change(cell) is None:
                yield [index], base.final[None, :, reads]
            else:
                moving.append(index)
        cfg = self.model.cfg
        row = 4 * (14 * cfg.d_model + 3 * (cfg.d_mlp or 4 * cfg.d_model))
        size = max(1, memory // (base.tokens.numel() * row))
        moving.sort(key=lambda i: cells[i][0].order)
        while moving:
            first = min(edit.layer for edit in cells[moving[0]])
            chunk = [i for i in moving[:size] if min(e.layer for e in cells[i]) == first]
            moving = [i for i in moving if i not in set(chunk)]
            yield chunk, self._run_chunk(base, [cells[i] for i in chunk], first)[:, :, reads]

    def _run_chunk(self, base: Run, cells: Sequence[Cell], first: int) -> Tensor:
        fired: Counter[Edit] = Counter()
        edits: dict[str, list[tuple[int, Edit]]] = {}
        for index, edit in ((i, edit) for i, cell in enumerate(cells) for edit in cell):
            name = site_of(edit.site).hook.format(layer=edit.layer)
            edits.setdefault(name, []).append((index, edit))
        start = base.change and (lambda act: base.get("resid_pre", 0).repeat(len(cells), 1, 1))
        hooks = change_hook(start) if not self._resumes else []
        hooks += [(name, _edit_hook(here, len(cells), fired)) for name, here in edits.items()]
        with self._result_hooks(cells), self.model.hooks(fwd_hooks=hooks):
            final = self._forward(base, len(cells), first)
        for edit in (edit for cell in cells for edit in cell):
            if fired[edit] != 1:
                raise RuntimeError(
                    f"the edit of {edit.site} in layer {edit.layer} took place {fired[edit]} times "
                    "instead of once: this model does not compute that site"
                )
        return final.view(len(cells), *base.final.shape)

    def _forward(self, base: Run, n_cells: int, first: int) -> Tensor:
        if not self._resumes:
            caught: list[Tensor] = []
            name = SITES["resid_post"].hook.format(layer=self.n_layers - 1)
            hook = (name, lambda act, hook: caught.append(act.clone()))
            with self.model.hooks(fwd_hooks=[hook]):
                self.model(base.tokens.repeat(n_cells, 1))
            return caught[0]
        resid = base.get("resid_pre", first)
        resid = resid.repeat(n_cells, 1, 1)
        for block in self.model.blocks[first:]:
            resid = _block_output(block(resid))
        return resid

    def _blocks_stand_alone(self, run: Run) -> bool:
        """Whether each block, called on its input alone, gives what it gave in the whole model."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # rotary blocks warn that they got no positions
                outputs = [
                    _block_output(block(run.get("resid_pre", layer).clone()))
                    for layer, block in enumerate(self.model.blocks)
                ]
        except Exception:  # a block that needs more than its input; what it raises is its own
            return False
        wanted = (run.get("resid_post", layer) for layer in range(self.n_layers))
        return all(
            torch.allclose(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
            for got, want in zip(outputs, wanted, strict=True)
        )

    def _derive(self, run: Run, site: str, layer: int) -> Tensor:
        if site == "result":
            W_O = self.model.blocks[layer].attn.W_O
            return torch.einsum("bphd,hdm->bphm", run.get("z", layer), W_O)
        raise KeyError(f"this model does not compute {site} in layer {layer}")

    @contextmanager
    def _result_hooks(self, cells: Sequence[Cell]) -> Iterator[None]:
        """hook_result exists only while the model is told to split its attention output."""
        needed = any(edit.site == "result" for cell in cells for edit in cell)
        before = bool(self.model.cfg.use_attn_result)
        if needed and not before:
            self.model.set_use_attn_result(True)
        try:
            yield
        finally:
            if needed and not before:
                self.model.set_use_attn_result(False)


def change_hook(change: Change | None) -> list[tuple[str, Callable[..., Any]]]:
    """The hook that changes the residual stream before the first block; none without a change."""
    if change is None:
        return []
    return [(SITES["resid_pre"].hook.format(layer=0), lambda act, hook: change(act))]


def to_site_layout(site: str, act: Tensor) -> Tensor:
    """The bridge's layout to ours, and back: only the pattern differs (head before position)."""
    return act.transpose(1, 2) if site == "pattern" else act


def _block_output(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _edit_hook(
    edits: Sequence[tuple[int, Edit]], n_cells: int, fired: Counter[Edit]
) -> Callable[..., Tensor]:
    """A hook that edits the batch in place: the residual stream goes on from the same tensor."""
    return partial(_apply_edits, edits=edits, n_cells=n_cells, fired=fired)


def _apply_edits(
    act: Tensor,
    hook: Any,
    *,
    edits: Sequence[tuple[int, Edit]],
    n_cells: int,
    fired: Counter[Edit],
) -> Tensor:
    cells = act.view(n_cells, -1, *act.shape[1:])
    for index, edit in edits:
        mask = edit.mask.to(act.device)
        mask = mask[..., None] if site_of(edit.site).per_head else mask
        mine = to_site_layout(edit.site, cells[index])
        mine.copy_(torch.where(mask, edit.value, mine))
        fired[edit] += 1
    return act
