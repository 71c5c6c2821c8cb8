"""The one way to change a run: `intervene`, which counts what it did and refuses to do nothing.

    with intervene(model, {("z", 3): lambda z, where: z * 0}, positions=[-1]) as fired:
        logits = model(tokens)

Inside the `with` the model is changed for everything that runs it: forward passes, caches,
`generate` with or without its key/value cache, patching sweeps. Interventions nest: the inner one
acts last at the same place. On leaving, also by an error, the model is as before. One that never
acted raises `NothingHappened`, for then whatever was measured is not its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.sites import Place, place_of, require_hook, require_unpadded, site_layout

Acts = Float[Tensor, "batch pos *rest"]
Edit = Callable[[Acts, Int[Tensor, "batch pos"]], Acts]
"""New activations from old ones, and where each stands in its text, counted from 0."""
Edits = Mapping[Place, Edit] | Mapping[str, Edit] | Mapping[Place | str, Edit]
Positions = Sequence[int] | slice | Bool[Tensor, "batch pos"] | None
"""Where to act.

None: everywhere, at generated tokens too. A slice: counted from the start of each text, generated
tokens continuing the count, `slice(5, None)` from the sixth token on. A list: places in the prompt,
negative ones counted from the end of each text, also while tokens are generated after it. A boolean
mask `[batch, pos]`: just there, in the prompt. Padding counts for nothing.
"""


class NothingHappened(RuntimeError):
    """An intervention was left without having changed a single activation."""


@dataclass
class Firings:
    """How often an intervention acted: forward passes by hook, and positions changed in all."""

    by_hook: dict[str, int] = field(default_factory=dict)
    positions: int = 0

    @property
    def count(self) -> int:
        """Number of times that a hook changed something."""
        return sum(self.by_hook.values())


@contextmanager
def intervene(
    model: TransformerBridge,
    edits: Edits,
    *,
    positions: Positions = None,
) -> Iterator[Firings]:
    """Change activations of every run inside the block.

    Args:
        model: The model.
        edits: By place, `("z", 3)`, or by the full name of a hook that is no site: a function of
            the activations in the site's layout (a copy, which it may change) and of where each
            stands in its text. It returns activations of the same shape.
        positions: Where the change is kept; elsewhere the activations stay as they are.

    Yields:
        The count of what fired.

    Raises:
        ValueError: No edit, a place that the model does not have, positions that are none, are
            outside a text, or cannot be told because the texts are padded without a mask; an edit
            that returns another shape; two edits of one hook.
        NothingHappened: On leaving, a hook that never acted. After a run that ended early, as
            `read` ends it, one hook that acted is enough.
    """
    if not edits:
        raise ValueError("no edit was given: there is nothing to do")
    _require_positions(positions)
    named = {require_hook(model, place): (place, edit) for place, edit in edits.items()}
    if len(named) < len(edits):
        raise ValueError(f"two edits of one hook in {list(edits)}: make them one, or nest them")
    fired, text = Firings(dict.fromkeys(named, 0)), _Text(model, positions)

    def hook_for(name: str, place: Place | str, edit: Edit) -> Callable[..., Tensor]:
        at_mid = (place_of(name) or ("", 0))[0] == "resid_mid"

        def act(raw: Tensor, hook: Any) -> Tensor:
            acts = site_layout(place, raw)
            where = text.where(name, acts)
            chosen = text.chosen(where)
            if not chosen.any():
                return raw
            new = edit(acts.clone(), where)
            if not isinstance(new, Tensor) or new.shape != acts.shape:
                got = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ValueError(f"the edit of {name} gave {got} in place of {list(acts.shape)}")
            fired.by_hook[name] += 1
            fired.positions += int(chosen.any(dim=0).sum())
            if not chosen.all():
                new = torch.where(chosen.view(*chosen.shape, *[1] * (acts.ndim - 2)), new, acts)
            new = site_layout(place, new)
            # The hook sits where the norm reads; the stream goes on from the very same tensor.
            return raw.copy_(new) if at_mid else new

        return act

    hooks = [(name, hook_for(name, *given)) for name, given in named.items()]
    with model.hooks(fwd_hooks=hooks), text.watching():
        yield fired
    silent = [name for name, count in fired.by_hook.items() if not count]
    if silent and not (fired.count and text.only_cut_short):
        raise NothingHappened(
            f"nothing was changed at {', '.join(silent)}: run the model inside the with, at the "
            f"positions {positions if positions is not None else 'given'}"
        )


def replace(value: Float[Tensor, "*any"] | float) -> Edit:
    """An edit that puts `value` in the activations' place, whatever they were."""
    return lambda acts, where: torch.as_tensor(value).to(acts).expand_as(acts).clone()


def write_hooks(model: TransformerBridge) -> list[Place | str]:
    """Every place at which something is written to the stream: embeddings, attention, MLPs."""
    layers = range(model.cfg.n_layers)
    blocks: list[Place] = [(site, i) for i in layers for site in ("attn_out", "mlp_out")]
    starts = ["hook_embed"]
    if model.cfg.positional_embedding_type == "standard":
        starts.append("hook_pos_embed")
    return [*starts, *blocks]


class _Text:
    """Where the tokens of a pass stand in their texts: behind a cache, behind padding."""

    def __init__(self, model: TransformerBridge, positions: Positions) -> None:
        self.model, self.positions = model, positions
        self.prompt_ends: Int[Tensor, " batch"] | None = None  # columns, set by the prompt's pass
        self._generating = self._seen_prompt = False
        self._completed = 0
        self._forget()

    def _forget(self) -> None:
        """Between passes nothing is known: a block may be called alone."""
        self.first = 0
        self.places: Int[Tensor, "batch pos"] | None = None

    @property
    def only_cut_short(self) -> bool:
        """Whether no pass ran to its end."""
        return not self._completed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the arguments of each forward pass, and know when tokens are generated."""
        model, inner = self.model, self.model.original_model
        before = inner.register_forward_pre_hook(self._before, with_kwargs=True)
        after = inner.register_forward_hook(self._after, always_call=True)
        own = {name: model.__dict__.get(name) for name in ("generate", "hf_generate")}
        for name in own:
            model.__dict__[name] = self._noticed(getattr(model, name))
        try:
            yield
        finally:
            before.remove()
            after.remove()
            for name, was in own.items():
                if was is None:
                    del model.__dict__[name]
                else:
                    model.__dict__[name] = was

    def _noticed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """`generate`, whose first pass is the prompt's and whose others go on from there."""

        def noticed(*args: Any, **kwargs: Any) -> Any:
            self._generating, self._seen_prompt = True, False
            try:
                return generate(*args, **kwargs)
            finally:
                self._generating = False

        return noticed

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        ids = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs_embeds"))
        self._forget()
        if not isinstance(ids, Tensor):
            return
        self.first = int(cache.get_seq_length()) if cache is not None else 0
        n_rows, n_new = ids.shape[:2]
        end = self.first + n_new
        masked = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= end
        real = torch.ones(n_rows, end, device=ids.device) != 0
        if isinstance(mask, Tensor) and masked:
            real = mask[:, :end] != 0
        places = torch.where(real, real.long().cumsum(1) - 1, -1)
        self.places = places[:, self.first :]
        going_on = self._generating and self._seen_prompt
        if not going_on and not (self.first and self.prompt_ends is not None):
            self._require_known(ids, masked)
            columns = torch.arange(1, end + 1, device=real.device)
            self.prompt_ends = (real * columns).max(1).values
            self._seen_prompt = True

    def _after(self, module: Any, args: Any, output: Any) -> None:
        self._completed += output is not None
        self._forget()

    def _require_known(self, ids: Tensor, masked: bool) -> None:
        """Single places cannot be told in texts that are padded without a mask."""
        if self.positions is not None and not masked and not ids.is_floating_point():
            require_unpadded(self.model, ids)

    def where(self, name: str, acts: Tensor) -> Int[Tensor, "batch pos"]:
        """The place of each token in its text; -1 in the padding."""
        if self.places is None:  # a block that was called alone
            return torch.arange(acts.shape[1], device=acts.device).expand(acts.shape[:2])
        places = self.places.to(acts.device)
        if places.shape != acts.shape[:2] and (places == places[:1]).all():
            places = places[:1].expand(len(acts), -1)
        if places.shape == acts.shape[:2]:
            return places
        if self.positions is not None:
            raise ValueError(
                f"{name} holds {list(acts.shape)}, not one row of positions for each text of "
                f"{list(places.shape)}: act at it with positions=None only"
            )
        return torch.zeros(acts.shape[:2], dtype=torch.long, device=acts.device)

    def chosen(self, where: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Which of the tokens are meant."""
        positions, real = self.positions, where >= 0
        if positions is None:
            return real
        if isinstance(positions, slice):
            low, high, step = positions.indices(int(where.max()) + 1)
            return real & (where >= low) & (where < high) & ((where - low) % step == 0)
        ends = torch.full((len(where),), self.first + where.shape[1], device=where.device)
        if self.prompt_ends is not None and self.places is not None:
            ends[:] = self.prompt_ends[: len(where)]
        columns = self.first + torch.arange(where.shape[1], device=where.device)
        real = real & (columns < ends[:, None])
        if isinstance(positions, Tensor):
            return _window(positions.to(where.device), columns, int(ends.max()), len(where)) & real
        if not self.first:
            shortest = int(real.sum(1).min())
            if outside := [p for p in positions if not -shortest <= p < shortest]:
                raise ValueError(f"positions {outside} are outside a prompt of {shortest} tokens")
        chosen = torch.zeros_like(real)
        for p in positions:
            chosen |= (where == p) if p >= 0 else (columns == ends[:, None] + p)
        return chosen & real


def _window(
    mask: Bool[Tensor, "batch pos"], columns: Int[Tensor, " now"], length: int, n_rows: int
) -> Bool[Tensor, "batch now"]:
    """The columns of a prompt's mask that this pass computes; none beyond the prompt."""
    if mask.shape != (n_rows, length):
        raise ValueError(
            f"the mask of positions is {list(mask.shape)}, the prompts are {[n_rows, length]}"
        )
    inside = columns < length
    return mask[:, columns.clamp(max=length - 1)] & inside


def _require_positions(positions: Positions) -> None:
    """ValueError for positions that mean nothing, or something else than was thought."""
    if positions is None:
        return
    if isinstance(positions, slice):
        start, stop, step = positions.start or 0, positions.stop, positions.step
        if start < 0 or (stop is not None and stop < 0) or (step is not None and step < 1):
            raise ValueError(f"a slice counts from the start of the text, not {positions}")
        if stop is not None and stop <= start:
            raise ValueError(f"{positions} holds no position")
    elif isinstance(positions, Tensor):
        if positions.dtype != torch.bool or positions.ndim != 2:
            raise ValueError(
                f"positions as a tensor must be a boolean mask [batch, pos], got {positions.dtype} "
                f"{list(positions.shape)}: for one position a prompt set that one in each row"
            )
        if not positions.any():
            raise ValueError("the mask of positions selects nothing")
    elif isinstance(positions, str) or not hasattr(positions, "__len__"):
        raise ValueError(f"positions must be a list, a slice or a mask, got {positions!r}")
    else:
        if not len(positions):
            raise ValueError("positions are empty: give at least one, or None for all")
        if bad := [p for p in positions if not _is_whole(p)]:
            raise ValueError(f"positions must be whole numbers, got {bad}")


def _is_whole(number: Any) -> bool:
    return not isinstance(number, bool) and isinstance(number, SupportsIndex)
