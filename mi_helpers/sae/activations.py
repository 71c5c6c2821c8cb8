"""Activations of one site, streamed: shuffled batches whose memory is bounded and known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.models import model_id, model_source
from mi_helpers.patching.fused import FusedGPT2


class Activations:
    """An endless, shuffled stream of the activations of `hook` on `tokens`.

    Rows of tokens are read in an order drawn anew for every epoch, `buffer` activations at a time;
    these are handed out shuffled. What chunk n holds depends on the seed and on n alone, so a
    stream needs no state of its own: an interrupted training resumes exactly. A buffer that holds
    all tokens is filled once; every epoch then only shuffles it anew.

    Memory: `buffer` x d_in numbers with a place for each in the order, and what the model needs for
    `rows_at_once` rows; while a GPT-2 is read, also a copy of the weights of the layers used.
    """

    def __init__(
        self, model: Any, hook: str, tokens: Int[Tensor, "row pos"], *, buffer: int = 65_536,
        keep: Bool[Tensor, "row pos"] | None = None, seed: int = 0, rows_at_once: int = 32,
    ) -> None:  # fmt: skip
        """Refuse what cannot work before anything is computed.

        Args:
            model: The bridge.
            hook: The site by its full name; its last axes are flattened (heads of `hook_z`).
            tokens: Rows of equal length, BOS in front where the model wants one.
            buffer: How many activations are held and shuffled together, at most.
            keep: Which tokens count; by default all but special tokens, whose activations are far
                longer than all others.
            seed: Of the order.
            rows_at_once: Rows in one pass of the model.
        """
        hook = require_hook(model, hook)
        if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            raise ValueError(f"tokens must be integers [row, pos], got {list(tokens.shape)}")
        if keep is None:
            special = torch.tensor(model.tokenizer.all_special_ids, device=tokens.device)
            keep = ~torch.isin(tokens, special)
        if keep.shape != tokens.shape:
            raise ValueError(f"keep is {list(keep.shape)} and tokens are {list(tokens.shape)}")
        kept = int(keep.sum())
        if not kept:
            raise ValueError("no token is left: all are special, or `keep` is False everywhere")
        if buffer < tokens.shape[1]:
            raise ValueError(f"buffer must hold a row of {tokens.shape[1]} tokens, got {buffer}")
        self.model, self.hook, self.tokens, self.keep = model, hook, tokens, keep.to(tokens.device)
        self.seed, self.rows_at_once = seed, rows_at_once
        self.rows_a_chunk = min(len(tokens), buffer // tokens.shape[1])
        self.model_id = model_id(model)
        self.notes = untrained_seed(model)
        self._values: tuple[int, Tensor] | None = None
        self._order: tuple[int, Tensor] | None = None

    @property
    def chunks(self) -> int:
        """Chunks in one epoch; the last one may be shorter."""
        return -(-len(self.tokens) // self.rows_a_chunk)

    @property
    def device(self) -> torch.device:
        """Where activations are: with the model."""
        return torch.device(self.model.cfg.device)

    @property
    def identity(self) -> str:
        """What the stream is made of: resuming with another one is refused."""
        digest = hashlib.sha256(self.tokens.cpu().numpy().tobytes())
        digest.update(self.keep.cpu().numpy().tobytes())
        made_of = (self.model_id, *self.notes.values(), self.hook)
        read_by = (self.seed, self.rows_a_chunk, digest.hexdigest()[:16])
        return "|".join(map(str, made_of + read_by))

    def chunk(self, n: int) -> Float[Tensor, "token d_in"]:
        """The n-th chunk, in the order of reading. Raises ValueError for NaN or infinity."""
        which = 0 if self.chunks == 1 else n
        if self._values is None or self._values[0] != which:
            self._values = None  # before the next is made: never two in memory
            rows = torch.arange(len(self.tokens))
            if self.chunks > 1:
                epoch, part = divmod(n, self.chunks)
                order = torch.randperm(len(rows), generator=self._generator(2 * epoch))
                rows = order[part * self.rows_a_chunk : (part + 1) * self.rows_a_chunk]
            self._values = (which, self._read(rows.to(self.tokens.device)))
        return self._values[1]

    def order(self, n: int) -> Int[Tensor, " token"]:
        """The order in which the n-th chunk is handed out."""
        if self._order is None or self._order[0] != n:
            values = self.chunk(n)
            mixed = torch.randperm(len(values), generator=self._generator(2 * n + 1))
            self._order = (n, mixed.to(values.device))
        return self._order[1]

    def batch(self, size: int, place: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """`size` activations from (chunk, offset) on, and the place after them."""
        n, offset = place
        parts, missing = [], size
        while missing:
            parts.append(self.chunk(n)[self.order(n)[offset : offset + missing]])
            found = len(parts[-1])
            missing -= found
            n, offset = (n, offset + found) if not missing else (n + 1, 0)
        return torch.cat(parts).float(), (n, offset)

    def sample(self, count: int) -> Float[Tensor, "token d_in"]:
        """The first `count` activations of the stream."""
        return self.batch(count, (0, 0))[0]

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + stream)

    def _read(self, rows: Tensor) -> Tensor:
        """The kept activations of `rows`, written one after the other into one tensor."""
        out, filled = torch.empty(0), 0
        read = quick_reader(self.model, self.hook, self.tokens[rows[:1]]) or read_site
        for part in rows.split(self.rows_at_once):
            found = read(self.model, self.hook, self.tokens[part])[self.keep[part]]
            if not torch.isfinite(found).all():
                raise ValueError(f"{self.hook} holds NaN or infinity: the model is broken")
            if not filled:
                out = found.new_empty(int(self.keep[rows].sum()), found.shape[1])
            out[filled : filled + len(found)] = found
            filled += len(found)
        return out


@torch.no_grad()
def read_site(
    model: Any, hook: str, tokens: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pos d_in"]:
    """The activations of one site, heads flattened; later layers are not computed."""
    caught: list[Tensor] = []

    def catch(act: Tensor, hook: Any) -> None:
        caught.append(act.detach().flatten(2).clone())
        raise _Caught

    with model.hooks(fwd_hooks=[(hook, catch)]):
        try:
            model(tokens.to(model.cfg.device), return_type=None)
        except _Caught:
            pass
    if not caught:
        raise ValueError(f"{hook!r} is never computed by this model: choose another site")
    return caught[0]


def quick_reader(
    model: Any, hook: str, tokens: Int[Tensor, "row pos"]
) -> Callable[[Any, str, Tensor], Tensor] | None:
    """A faster `read_site` for a GPT-2, if on `tokens` it gives what the model does; else None.

    A model with hooks of your own attached gives something else.
    """
    known = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?hook_(\w+)", hook)
    if not known or known[2] not in _FUSED_SITES or not FusedGPT2.supports(model):
        return None
    gpt2, wanted = FusedGPT2(model), (int(known[1]), known[2])

    @torch.no_grad()
    def read(model: Any, hook: str, tokens: Tensor) -> Tensor:
        sites = _computed(gpt2, tokens.to(model.cfg.device))
        return next(value for at, value in sites if at == wanted).flatten(2)

    want = read_site(model, hook, tokens)
    gap = (read(model, hook, tokens) - want).norm(dim=-1) / want.norm(dim=-1)
    return read if bool((gap <= 1e-4).all()) else None


_FUSED_SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")


def _computed(gpt2: FusedGPT2, tokens: Tensor) -> Iterator[tuple[tuple[int, str], Tensor]]:
    """The sites of a forward pass, each as soon as it is known."""
    resid = gpt2.embed(tokens)
    for layer in range(gpt2.n_layers):
        yield (layer, "resid_pre"), resid
        z = gpt2.attend(*gpt2.qkv(layer, resid))
        yield (layer, "z"), z
        out = gpt2.attn_out(layer, z)
        yield (layer, "attn_out"), out
        mid = resid + out
        yield (layer, "resid_mid"), mid
        out = gpt2.mlp(layer, mid)
        yield (layer, "mlp_out"), out
        resid = mid + out
        yield (layer, "resid_post"), resid


def require_hook(model: Any, hook: str) -> str:
    """`hook`, or a KeyError that shows what the model has."""
    if hook not in model.hook_dict:
        layer = hook.split(".")[1] if hook.startswith("blocks.") else "0"
        near = [name for name in model.hook_dict if name.startswith(f"blocks.{layer}.hook_")]
        near = near or [name for name in model.hook_dict if name.startswith("blocks.0.hook_")]
        raise KeyError(f"the model has no {hook!r}; there is, for example: {', '.join(near)}")
    return hook


def site_width(model: Any, hook: str) -> int | None:
    """Width of a site's activations, heads flattened; None where only a run would tell."""
    cfg, last = model.cfg, hook.rsplit(".", 1)[-1]
    if last in ("hook_q", "hook_k", "hook_v", "hook_z"):
        return cfg.n_heads * cfg.d_head
    if last.startswith("hook_resid_") or last in ("hook_attn_out", "hook_mlp_out", "hook_embed"):
        return cfg.d_model
    return cfg.d_mlp if hook.endswith(("mlp.hook_pre", "mlp.hook_post")) else None


def untrained_seed(model: Any) -> dict[str, str]:
    """What tells models of `mi.untrained` apart, whose id is the same; nothing for others."""
    if not model_id(model).startswith("untrained "):
        return {}
    return {"weights": model_source(model).where}


class _Caught(Exception):
    """Leaves the model once the site is read."""
