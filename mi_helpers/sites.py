"""Where in a model: sites, layers, heads and positions; and reading what is there.

A *site* names an activation of every layer, a *place* is a site of one layer: `("z", 3)`. Hook
names are written nowhere else. Activations are handled in one layout, the site's:
`[batch, pos, d]` for the residual stream, the sub-layers and the neurons, `[batch, pos, head, ...]`
for what belongs to heads. The attention pattern is `[batch, query, head, key]`, so that its
"position" is the query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Head(NamedTuple):
    """One attention head; as text it is what the literature writes, "L9H6"."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, name: str) -> Head:
        """The head called `name`; ValueError when that is no head's name."""
        match = re.fullmatch(r"L(\d+)H(\d+)", name)
        if match is None:
            raise ValueError(f"{name!r} is no head: write L9H6 for head 6 of layer 9")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Site:
    """One kind of activation.

    Attributes:
        name: What the field calls it: "resid_pre", "z", ...
        hook: Its hook in the bridge, with a place for the layer.
        stage: When in a layer it is computed; sites of one stage can be edited together.
        per_head: Whether its third axis is the head.
    """

    name: str
    hook: str
    stage: int
    per_head: bool


_ATTN, _MLP = "blocks.{layer}.attn.hook_", "blocks.{layer}.mlp.hook_"
SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("resid_pre", "blocks.{layer}.hook_resid_pre", 0, False),
        Site("q", _ATTN + "q", 1, True),
        Site("k", _ATTN + "k", 1, True),
        Site("v", _ATTN + "v", 1, True),
        Site("pattern", _ATTN + "pattern", 2, True),
        Site("z", _ATTN + "z", 3, True),
        Site("result", _ATTN + "result", 4, True),
        Site("attn_out", "blocks.{layer}.hook_attn_out", 5, False),
        Site("resid_mid", "blocks.{layer}.hook_resid_mid", 6, False),
        Site("mlp_in", _MLP + "in", 7, False),
        Site("mlp_post", _MLP + "post", 8, False),
        Site("mlp_out", "blocks.{layer}.hook_mlp_out", 9, False),
        Site("resid_post", "blocks.{layer}.hook_resid_post", 10, False),
    )
}

Place = tuple[str, int]
"""A site of one layer: ("resid_post", 3)."""


def site_of(name: str) -> Site:
    """The site called `name`; KeyError with the names there are."""
    if name not in SITES:
        raise KeyError(f"unknown site {name!r}; the sites are: {', '.join(SITES)}")
    return SITES[name]


def hook_name(place: Place | str, layer: int | None = None) -> str:
    """The bridge's hook for a place, `hook_name("z", 3)` or `hook_name(("z", 3))`.

    The full name of a hook that is no site, such as "hook_embed", passes as it is.
    """
    if isinstance(place, str):
        if layer is None:
            return place
        place = (place, layer)
    return site_of(place[0]).hook.format(layer=int(place[1]))


def place_of(hook: str) -> Place | None:
    """The place that a hook belongs to, by its full name; None when it is no site."""
    for site in SITES.values():
        match = re.fullmatch(re.escape(site.hook).replace(r"\{layer\}", r"(\d+)"), hook)
        if match:
            return site.name, int(match[1])
    return None


def norm_hooks(layer: int) -> tuple[str, str]:
    """The hooks of the normalisation before a layer's attention: its scale, and its output."""
    return f"blocks.{layer}.ln1.hook_scale", f"blocks.{layer}.ln1.hook_normalized"


def norm_ends(layer: int | None, norm: str = "ln1") -> tuple[str, str]:
    """The hooks before and behind a layer's norm, "ln1" or "ln2"; of the last norm for None."""
    stem = "ln_final" if layer is None else f"blocks.{layer}.{norm}"
    return f"{stem}.hook_in", f"{stem}.hook_out"


_HEAD_FIRST = ("hook_pattern", "hook_attn_scores")


def site_layout(place: Place | str, act: Tensor) -> Tensor:
    """The bridge's layout to the site's, and back: only patterns and scores differ (head first)."""
    return act.transpose(1, 2) if hook_name(place).endswith(_HEAD_FIRST) else act


def n_heads_of(cfg: Any, site: str) -> int:
    """How many heads a site has: 1 when it has no head axis; k and v may have fewer than q."""
    if not site_of(site).per_head:
        return 1
    return (site in ("k", "v") and getattr(cfg, "n_key_value_heads", None)) or cfg.n_heads


@torch.no_grad()
def read(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    places: Iterable[Place | str],
    *,
    positions: Sequence[int] | None = None,
    reduce: Callable[[Place | str, Tensor], Any] | None = None,
) -> dict[Place | str, Any]:
    """The activations at some places in one run, in the layout of the site, copied.

    The run ends as soon as the last of them is known, so the unembedding is never paid for.
    Interventions that are in force when it starts are seen.

    Args:
        model: Any bridge.
        tokens: The prompts.
        places: `("resid_post", 3)`, or full names of hooks that are no site.
        positions: Keep only these of each row; None keeps all.
        reduce: What to keep instead of a copy: a function of the place and its activation, called
            where it is seen, so that no more than one activation is held at a time.

    Returns:
        What was read, by place, in the order asked for.

    Raises:
        ValueError: Tokens or positions that do not fit, no place, a layer, hook or site that the
            model does not have or does not compute, a model in training mode, or single positions
            of texts that are padded.
    """
    kept = slice(None) if positions is None else list(positions)
    require_tokens(tokens, () if positions is None else list(positions))
    _require_eval(model)
    if positions is not None:
        if not kept:
            raise ValueError("positions are empty: give at least one, or None for all")
        require_unpadded(model, tokens)
    wanted = list(dict.fromkeys(places))
    if not wanted:
        raise ValueError('no place was given: name at least one, such as ("resid_post", 3)')
    found: dict[Place | str, Any] = {}

    def keeper(place: Place | str) -> Any:
        def keep(act: Tensor, hook: Any) -> None:
            act = site_layout(place, act)
            act = act[:, kept]
            found[place] = act.clone() if reduce is None else reduce(place, act)
            if len(found) == len(wanted):
                raise _Read

        return keep

    hooks = [(require_hook(model, place), keeper(place)) for place in wanted]
    try:
        with model.hooks(fwd_hooks=hooks):
            model(tokens.to(model.cfg.device), return_type=None)
    except _Read:
        pass
    if missing := [place for place in wanted if place not in found]:
        raise ValueError(
            f"{model.cfg.model_name} never computes {missing}: its blocks are built otherwise"
        )
    return {place: found[place] for place in wanted}


class _Read(Exception):
    """Leaves the model once everything is read."""


def require_hook(model: TransformerBridge, place: Place | str) -> str:
    """The hook of a place in `model`; ValueError, with what there is, when it has none."""
    hook = hook_name(place)
    if not isinstance(place, str):
        require_layer(model, place[1])
    if hook not in model.hook_dict:
        layer = hook.split(".")[1] if hook.startswith("blocks.") else "0"
        near = [name for name in model.hook_dict if name.startswith(f"blocks.{layer}.hook_")]
        near = near or [name for name in model.hook_dict if name.startswith("blocks.0.hook_")]
        raise ValueError(
            f"{model.cfg.model_name} has no {hook!r}; there is, for example: {', '.join(near)}"
        )
    return hook


def require_layer(model: TransformerBridge, layer: int) -> None:
    """Raise ValueError for a layer that the model does not have."""
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"layer {layer} is not in 0..{model.cfg.n_layers - 1}")


def require_head(model: TransformerBridge, head: Head | tuple[int, int] | str) -> Head:
    """The head as a `Head`, from a pair or a name; ValueError when the model has no such head."""
    head = Head.parse(head) if isinstance(head, str) else Head(*(int(part) for part in head))
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (0 <= head.layer < n_layers and 0 <= head.head < n_heads):
        raise ValueError(
            f"there is no head {head} in {model.cfg.model_name}: it has layers 0..{n_layers - 1} "
            f"of heads 0..{n_heads - 1}"
        )
    return head


def require_tokens(tokens: Tensor, positions: Sequence[int] = ()) -> None:
    """Raise ValueError unless tokens are integers `[batch, pos]` that hold all the positions."""
    length = _n_pos(tokens)
    for position in positions:
        if not -length <= position < length:
            raise ValueError(f"position {position} is outside the prompt of {length} tokens")


def _n_pos(tokens: Tensor) -> int:
    """The number of positions of tokens, which are checked."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        got = f"{list(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens must be integers [batch, pos], got {got}; see model.to_tokens")
    if tokens.numel() == 0:
        raise ValueError(f"tokens are empty (shape {list(tokens.shape)}): give at least one prompt")
    return tokens.shape[1]


def padding(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"]
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """How many tokens of each row were filled in before its text, and behind it.

    Rows are filled up to the length of the longest, so where every row begins (or ends) with the
    pad token alike, it belongs to the texts. One of several at the start of a row is the start
    token, where that is the same one.
    """
    none = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    pad = getattr(model.tokenizer, "pad_token_id", None)
    if pad is None or len(tokens) < 2:
        return none, none
    filled = (tokens == pad).long()
    before, behind = filled.cumprod(1).sum(1), filled.flip(1).cumprod(1).sum(1)
    if pad == model.tokenizer.bos_token_id:
        before = (before - 1).clamp(min=0)
    alike = [bool((n == n[0]).all()) for n in (before, behind)]
    return none if alike[0] else before, none if alike[1] else behind


def require_unpadded(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ValueError for texts of unequal length that were filled up to one length.

    A model that is given tokens alone cannot know which of them are padding: on the left it moves
    every position, on the right -1 is no longer the text's last token.
    """
    for rows, side in zip(padding(model, tokens), ("left", "right"), strict=True):
        if rows.any():
            raise ValueError(
                f"texts of unequal length are padded on the {side} (row {int(rows.argmax())} by "
                f"{int(rows.max())} tokens): give texts of one length at a time"
            )


def _require_eval(model: TransformerBridge) -> None:
    """Raise ValueError for a model in training mode, whose dropout changes each run."""
    if model.training:
        raise ValueError("the model is in training mode, so dropout may act: call model.eval()")


def checked_indices(indices: Iterable[int], size: int, name: str) -> list[int]:
    """`indices` made non-negative; ValueError that names the first one out of range."""
    checked = []
    for index in indices:
        if isinstance(index, bool) or int(index) != index or not -size <= index < size:
            raise ValueError(f"{name} {index} is out of range: there are {size}, counted from 0")
        checked.append(int(index) % size)
    if not checked:
        raise ValueError(f"no {name} was given; leave it out to mean all")
    return checked
