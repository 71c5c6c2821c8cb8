"""The same cells through the bridge's own blocks and hooks: slower, for any architecture.

1. Trace the base run: every site that fires is kept; a hook that exists and never fires is no site.
2. Ask whether each block, called alone on its input, gives what it gave in the whole model.
3. Sort the cells by their first layer and put as many as fit in memory side by side in one batch.
4. Start at that layer where blocks stand alone, else at the embeddings; at each hook put the values
   in place, and count.
5. A replacement that did not take place exactly once is an error.

What else the engine asks the bridge itself stands here too.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.engine import runs
from mi_helpers.engine.runs import Cell, Change, FirstChange, Replacement, Run
from mi_helpers.interventions import intervene, replace
from mi_helpers.sites import SITES, hook_name, place_of, site_layout, site_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class HookedEngine:
    """Runs cells by hooks on the bridge, batched, from the first patched block where it can."""

    def __init__(self, model: TransformerBridge) -> None:
        self.model = model
        self.n_layers = model.cfg.n_layers
        probe = torch.tensor([-1e3, -1.0, 1.0, 1e3])
        self.linear = torch.equal(self._transformed(probe), probe)
        self._resumes = False

    def trace(self, tokens: Int[Tensor, "batch pos"], change: Change | None = None) -> Run:
        """One forward pass that keeps every site that fires."""
        names = [
            hook_name(site, layer)
            for site in SITES
            for layer in range(self.n_layers)
            if site != "result" and hook_name(site, layer) in self.model.hook_dict
        ]
        with _changed(self.model, change), catching(self.model, names) as caught:
            self.model(tokens, return_type=None)
        acts = {place_of(name): site_layout(name, act) for name, act in caught.items()}
        kept = {place: act for place, act in acts.items() if place is not None}
        run = Run(tokens, kept, kept["resid_post", self.n_layers - 1], self._derive, change)
        self._resumes = self._blocks_stand_alone(run)
        return run

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits from the residual stream after the last block, soft cap included."""
        flat = resid.flatten(0, -3) if resid.ndim > 3 else resid
        logits = self._transformed(self.model.unembed(self.model.ln_final(flat)))
        return logits.view(*resid.shape[:-1], -1)

    def _transformed(self, logits: Tensor) -> Tensor:
        """What the architecture does to logits after the unembedding: mostly nothing."""
        return self.model.adapter.apply_output_logits_transform(logits)

    def unembedding(self) -> tuple[Tensor, Tensor]:
        """W_U and b_U."""
        return self.model.W_U, self.model.b_U

    def final_normed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final normalisation."""
        return self.model.ln_final(resid)

    def run_cells(
        self, base: Run, cells: Sequence[Cell], reads: slice
    ) -> Iterator[tuple[list[int], Float[Tensor, "cell batch pos d_model"]]]:
        """As `FusedEngine.run_cells`, with every position and every layer from the first on."""
        first_change = FirstChange(base)
        moving = []
        for index, cell in enumerate(cells):
            if first_change(cell) is None:
                yield [index], base.final[None, :, reads]
            else:
                moving.append(index)
        cfg = self.model.cfg
        row = 4 * (14 * cfg.d_model + 3 * (cfg.d_mlp or 4 * cfg.d_model))
        size = max(1, runs.MEMORY // (base.tokens.numel() * row))
        moving.sort(key=lambda i: cells[i][0].order)
        while moving:
            first = min(one.layer for one in cells[moving[0]])
            chunk = [i for i in moving[:size] if min(one.layer for one in cells[i]) == first]
            moving = [i for i in moving if i not in set(chunk)]
            yield chunk, self._run_chunk(base, [cells[i] for i in chunk], first)[:, :, reads]

    def _run_chunk(self, base: Run, cells: Sequence[Cell], first: int) -> Tensor:
        fired: Counter[Replacement] = Counter()
        due: dict[str, list[tuple[int, Replacement]]] = {}
        for index, one in ((i, one) for i, cell in enumerate(cells) for one in cell):
            due.setdefault(hook_name(one.site, one.layer), []).append((index, one))
        hooks = [
            (name, partial(_put, due=here, n_cells=len(cells), fired=fired))
            for name, here in due.items()
        ]
        start = nullcontext() if self._resumes else self._started(base, len(cells))
        with start, self._result_hooks(cells), self.model.hooks(fwd_hooks=hooks):
            final = self._forward(base, len(cells), first)
        for one in (one for cell in cells for one in cell):
            if fired[one] != 1:
                raise RuntimeError(
                    f"the replacement of {one.site} in layer {one.layer} took place {fired[one]} "
                    "times instead of once: this model does not compute that site"
                )
        return final.view(len(cells), *base.final.shape)

    def _forward(self, base: Run, n_cells: int, first: int) -> Tensor:
        if not self._resumes:
            return logits_and_final(self.model, base.tokens.repeat(n_cells, 1))[1]
        resid = base.get("resid_pre", first).repeat(n_cells, 1, 1)
        for block in self.model.blocks[first:]:
            resid = _block_output(block(resid))
        return resid

    def _started(self, base: Run, n_cells: int) -> AbstractContextManager[Any]:
        """Disturbed prompts start from the embeddings of the base run."""
        if base.change is None:
            return nullcontext()
        start = base.get("resid_pre", 0).repeat(n_cells, 1, 1)
        return intervene(self.model, {("resid_pre", 0): replace(start)})

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
        needed = any(one.site == "result" for cell in cells for one in cell)
        before = bool(self.model.cfg.use_attn_result)
        if needed and not before:
            self.model.set_use_attn_result(True)
        try:
            yield
        finally:
            if needed and not before:
                self.model.set_use_attn_result(False)


@contextmanager
def catching(model: TransformerBridge, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the hooks called `names` see within the block, those that fire, in the bridge's layout.

    Unlike `sites.read` it lets the run go on, so that its logits are there too.
    """
    caught: dict[str, Tensor] = {}

    def keep(act: Tensor, hook: Any, *, name: str) -> None:
        caught[name] = act.detach().clone()

    with model.hooks(fwd_hooks=[(name, partial(keep, name=name)) for name in names]):
        yield caught


def logits_and_final(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], change: Change | None = None
) -> tuple[Float[Tensor, "batch pos d_vocab"], Float[Tensor, "batch pos d_model"]]:
    """What the bridge itself gives: logits, and the residual stream after the last block."""
    last = hook_name("resid_post", model.cfg.n_layers - 1)
    with _changed(model, change), catching(model, [last]) as caught:
        logits = model(tokens)
    if last not in caught:
        raise RuntimeError(f"{model.cfg.model_name} never fires {last}: it cannot be patched")
    return logits, caught[last]


def _changed(model: TransformerBridge, change: Change | None) -> AbstractContextManager[Any]:
    """The model with its embeddings changed; the model as it is without a change."""
    if change is None:
        return nullcontext()
    return intervene(model, {("resid_pre", 0): lambda acts, where: change(acts)})


def _block_output(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _put(
    act: Tensor,
    hook: Any,
    *,
    due: Sequence[tuple[int, Replacement]],
    n_cells: int,
    fired: Counter[Replacement],
) -> Tensor:
    """Put values in place in the batch itself: the residual stream goes on from this tensor."""
    cells = act.view(n_cells, -1, *act.shape[1:])
    for index, one in due:
        mask = one.mask.to(act.device)
        mask = mask[..., None] if site_of(one.site).per_head else mask
        mine = site_layout((one.site, one.layer), cells[index])
        mine.copy_(torch.where(mask, one.value, mine))
        fired[one] += 1
    return act
