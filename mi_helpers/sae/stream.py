"""Streams of activations: of a model's site, or of vectors at hand; memory is bounded and known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.engine import quick_readers
from mi_helpers.models import model_id, model_source
from mi_helpers.sae.core import SIDE_BY_SIDE
from mi_helpers.sites import Place, padding, read, require_hook, require_tokens

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Activations:
    """An endless, shuffled stream of the activations at `place` on `tokens`.

    Rows of tokens are read in an order drawn anew for every epoch, `buffer` activations at a time;
    these are handed out shuffled. What chunk n holds depends on the seed and on n alone, so a
    stream needs no state of its own: an interrupted training resumes exactly. A buffer that holds
    all tokens is filled once; every epoch then only shuffles it anew.

    With a `target`, each activation comes with that of the place which a transcoder is to predict,
    behind it in the same row and from the same pass of the model. `widths` says which columns are
    whose.

    Memory: `buffer` x d_in numbers with a place for each in the order, and what the model needs for
    `rows_at_once` rows; while a GPT-2 is read, also a copy of the weights of the layers used.
    """

    def __init__(
        self,
        model: TransformerBridge,
        place: Place | str | list[Place | str],
        tokens: Int[Tensor, "row pos"],
        *,
        target: Place | str | list[Place | str] | None = None,
        buffer: int = 65_536,
        keep: Bool[Tensor, "row pos"] | None = None,
        seed: int = 0,
        rows_at_once: int = 32,
    ) -> None:
        """Refuse what cannot work before anything is computed.

        Args:
            model: The bridge.
            place: `("resid_post", 3)`, or a hook by its full name; the last axes are flattened
                (heads of "z"). A list of places is read side by side: a crosscoder's.
            tokens: Rows of equal length, BOS in front where the model wants one; shorter texts
                padded on the right.
            target: The place to predict, or a list of them; by default the one that is read.
            buffer: How many activations are held and shuffled together, at most.
            keep: Which tokens count; by default all but special tokens, whose activations are far
                longer than all others.
            seed: Of the order.
            rows_at_once: Rows in one pass of the model.

        Raises:
            ValueError: a place that the model does not have, tokens that are no rows or are padded
                on the left, a mask that does not fit or leaves nothing, a buffer below one row.
        """
        reads, writes = (
            [require_hook(model, one) for one in (some if isinstance(some, list) else [some])]
            for some in (place, [] if target is None else target)
        )
        if not reads or target == []:
            raise ValueError("no place was given: name at least one, such as ('resid_post', 3)")
        require_no_left_padding(model, tokens)
        if keep is None:
            keep = ~special_tokens(model, tokens)
        if keep.shape != tokens.shape:
            raise ValueError(f"keep is {list(keep.shape)} and tokens are {list(tokens.shape)}")
        if not keep.any():
            raise ValueError("no token is left: all are special, or `keep` is False everywhere")
        if buffer < tokens.shape[1]:
            raise ValueError(f"buffer must hold a row of {tokens.shape[1]} tokens, got {buffer}")
        self.model, self.tokens, self.keep = model, tokens, keep.to(tokens.device)
        self.hook, self.target = SIDE_BY_SIDE.join(reads), SIDE_BY_SIDE.join(writes)
        self._reads, self._writes = reads, writes
        self._widths: list[int] = []
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
    def widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of the places that are read, and of the target's; none where that is the same."""
        if not self._widths:
            self.chunk(0)
        n = len(self._reads)
        return tuple(self._widths[:n]), tuple(self._widths[n:])

    @property
    def device(self) -> torch.device:
        """Where activations are: with the model."""
        return torch.device(self.model.cfg.device)

    @property
    def identity(self) -> str:
        """What the stream is made of: resuming with another one is refused."""
        digest = hashlib.sha256(self.tokens.cpu().numpy().tobytes())
        digest.update(self.keep.cpu().numpy().tobytes())
        made_of = (self.model_id, *self.notes.values(), self.hook, *filter(None, [self.target]))
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
            parts.append(self.chunk(n).index_select(0, self.order(n)[offset : offset + missing]))
            found = len(parts[-1])
            missing -= found
            n, offset = (n, offset + found) if not missing else (n + 1, 0)
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).float(), (n, offset)

    def sample(self, count: int) -> Float[Tensor, "token d_in"]:
        """The first `count` activations of the stream."""
        return self.batch(count, (0, 0))[0]

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + stream)

    def _read(self, rows: Tensor) -> Tensor:
        """The kept activations of `rows`, written one after the other into one tensor."""
        out, filled = torch.empty(0), 0
        hooks = self._reads + self._writes
        quick = quick_readers(self.model, hooks, self.tokens[rows[:1]])
        for part in rows.split(self.rows_at_once):
            found = [acts.flatten(2)[self.keep[part]] for acts in quick(self.tokens[part])]
            for hook, acts in zip(hooks, found, strict=True):
                if not torch.isfinite(acts).all():
                    raise ValueError(f"{hook} holds NaN or infinity: the model is broken")
            if not filled:
                self._widths = [acts.shape[1] for acts in found]
                out = found[0].new_empty(int(self.keep[rows].sum()), sum(self._widths))
            columns = out[filled : filled + len(found[0])].split(self._widths, dim=1)
            for into, acts in zip(columns, found, strict=True):
                into.copy_(acts)
            filled += len(found[0])
        return out


class SideBySide(Activations):
    """Several streams of the same tokens as one, such as of two models: for a crosscoder.

    Every row holds what all of them read of one token, side by side.
    """

    def __init__(self, streams: Sequence[Activations]) -> None:
        """Raises ValueError for less than two, other tokens or orders, and one with a target."""
        streams = list(streams)
        if len(streams) < 2:
            raise ValueError(f"two streams or more can stand side by side, got {len(streams)}")
        first = streams[0]
        for i, other in enumerate(streams):
            for name in ("tokens", "keep", "seed", "rows_a_chunk"):
                if not torch.equal(*(torch.as_tensor(getattr(s, name)) for s in (first, other))):
                    raise ValueError(f"streams 0 and {i} differ in {name}")
            if other.target or isinstance(other, Vectors | SideBySide):
                raise ValueError(f"stream {i} is no plain stream of a model's places: {other.hook}")
        self._streams = streams
        self.tokens, self.keep, self.seed = first.tokens, first.keep, first.seed
        self.rows_a_chunk, self.model, self.target = first.rows_a_chunk, first.model, ""
        self.hook = SIDE_BY_SIDE.join(stream.hook for stream in streams)
        self.model_id = SIDE_BY_SIDE.join(stream.model_id for stream in streams)
        self.notes = {
            f"{key} {i}": value
            for i, stream in enumerate(streams)
            for key, value in stream.notes.items()
        }
        self._values, self._order = None, None

    @property
    def widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of all places, in their order."""
        if not self._streams[-1]._widths:
            self.chunk(0)  # with it every stream learns its own
        return tuple(w for stream in self._streams for w in stream.widths[0]), ()

    @property
    def identity(self) -> str:
        """What all of them are made of."""
        return SIDE_BY_SIDE.join(stream.identity for stream in self._streams)

    def _read(self, rows: Tensor) -> Tensor:
        return torch.cat([stream._read(rows) for stream in self._streams], dim=1)


class Vectors(Activations):
    """Shuffled batches of `values`, of no model: a toy's, or what another program stored.

    An SAE that is trained on it names no site and no model: `splice` refuses it until it is told.
    """

    def __init__(
        self,
        values: Float[Tensor, "token d_in"],
        targets: Float[Tensor, "token d_out"] | None = None,
        *,
        widths: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        """Vectors alone, or with what is to be predicted from each; `widths` where several places
        lie side by side in `values`.

        Raises ValueError for another shape, less than two rows, NaN and infinity.
        """
        if values.ndim != 2 or len(values) < 2 or not values.is_floating_point():
            raise ValueError(
                f"values must be floats [token, d_in] with two rows or more, got {values.dtype} "
                f"{list(values.shape)}"
            )
        if not torch.isfinite(values).all():
            raise ValueError("values hold NaN or infinity: nothing can be learned from them")
        self._widths_read = tuple(widths or (values.shape[1],))
        if sum(self._widths_read) != values.shape[1]:
            raise ValueError(f"widths {list(widths or ())} do not add to {values.shape[1]} columns")
        if targets is not None:
            if targets.ndim != 2 or len(targets) != len(values):
                raise ValueError(
                    f"targets must be [token, d_out], one for each of {len(values)} values, got "
                    f"{list(targets.shape)}"
                )
            Vectors(targets)  # the same is asked of them
            values = torch.cat([values, targets], dim=1)
        self._widths_written = () if targets is None else (targets.shape[1],)
        self.hook, self.model_id, self.notes = "", "", {}
        self.target = "" if targets is None else "targets"
        self.tokens = torch.arange(len(values))[:, None]  # a row for each vector
        self.keep = torch.ones_like(self.tokens, dtype=torch.bool)
        self.seed, self.rows_a_chunk = seed, len(values)
        self._values, self._order = (0, values.detach()), None

    @property
    def widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the parts of a vector, and of its target."""
        return self._widths_read, self._widths_written

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.chunk(0).device

    @property
    def identity(self) -> str:
        """A digest of the vectors: resuming on others is refused."""
        content = self.chunk(0).cpu().float().contiguous().numpy().tobytes()
        parts = [] if len(self._widths_read) == 1 and not self.target else [str(self.widths)]
        made_of = (str(self.seed), hashlib.sha256(content).hexdigest()[:16], *parts)
        return "|".join(("vectors", *made_of))


def read_flat(
    model: TransformerBridge, place: Place | str, tokens: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pos d_in"]:
    """`sites.read` of one place, as a dictionary reads it: heads side by side on the last axis."""
    return read(model, tokens, [place])[place].flatten(2)


def read_tokens(
    model: TransformerBridge,
    place: Place | str,
    tokens: Int[Tensor, "text pos"],
    real: Bool[Tensor, "text pos"],
    *,
    rows_at_once: int = 32,
) -> Float[Tensor, "token d_in"]:
    """Activations at `place` on the real tokens, in the order of `x[real]`.

    Texts are padded on the right and read a few at a time, texts of like length together and cut to
    the longest of them: later positions change nothing before them.

    Raises:
        ValueError: a mask of another shape or without any token, padding on the left.
    """
    if real.shape != tokens.shape or not real.any():
        raise ValueError(
            f"real is {list(real.shape)} with {int(real.sum())} tokens; tokens are "
            f"{list(tokens.shape)}"
        )
    require_no_left_padding(model, tokens)
    ends = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)
    order = ends.argsort(descending=True)
    parts: list[Tensor] = []
    for rows in order.split(rows_at_once):
        if end := int(ends[rows[0]]):
            found = read_flat(model, place, tokens[rows, :end])[real[rows, :end]]
            parts += found.split(real[rows].sum(1).tolist())
    parts += [parts[0][:0]] * (len(order) - len(parts))  # texts of which no token is real
    return torch.cat([parts[i] for i in order.argsort().tolist()])


def special_tokens(
    model: TransformerBridge, tokens: Int[Tensor, "row pos"]
) -> Bool[Tensor, "row pos"]:
    """Where tokens are special: BOS, between documents too, padding, marks of turns in a chat."""
    ids = getattr(model.tokenizer, "all_special_ids", [])
    return torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype, device=tokens.device))


def require_no_left_padding(model: TransformerBridge, tokens: Int[Tensor, "row pos"]) -> None:
    """Raise ValueError for tokens that are no rows, or rows padded on the left.

    The bridge attends to such padding unless it is told of it, and then everything behind is wrong.
    Where BOS is the padding token, two of them in front pass: an empty document may stand there.
    """
    require_tokens(tokens)
    before, _ = padding(model, tokens)
    tokenizer = model.tokenizer
    allowed = int(tokenizer is not None and tokenizer.pad_token_id == tokenizer.bos_token_id)
    if (before > allowed).any():
        raise ValueError(
            f"row {int(before.argmax())} is padded on the left by {int(before.max())} tokens, "
            'which the model would read as text: use model.to_tokens(texts, padding_side="right")'
        )


def untrained_seed(model: TransformerBridge) -> dict[str, str]:
    """What tells models of `mi.untrained` apart, whose id is the same; nothing for others."""
    if not model_id(model).startswith("untrained "):
        return {}
    return {"weights": model_source(model).where}
