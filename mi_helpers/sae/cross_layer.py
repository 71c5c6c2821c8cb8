"""Cross-layer transcoders: their parts by layer, the model run on them, and their files.

A cross-layer transcoder is one dictionary of all MLPs: units of a layer read that MLP's input and
write to its output and to those of all later layers [Ameisen et al. 2025]. `Recipe(causal=True)`
trains one. A list of transcoders, one for each layer, is the case in which units write at home
alone; what is said here of one holds of the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mi_helpers.files import save_tensors, write_whole
from mi_helpers.interventions import Firings
from mi_helpers.sae.core import SIDE_BY_SIDE, Sae
from mi_helpers.sae.splice import sparing

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

FAMILY = "cross-layer transcoder"
CONFIG = "cfg.json"

Earlier = tuple[Float[Tensor, "d_sae d_model"], ...]
"""What units of each earlier layer write to one MLP's output; empty where they write at home."""


def by_layer(transcoders: Sequence[Sae]) -> tuple[list[Sae], list[Earlier]]:
    """Transcoders of one layer each, and what units of the layers below write to each besides.

    A cross-layer transcoder, alone in its list, is taken apart: the i-th part has the units of the
    i-th place that is read, and what they write to the i-th target. Others are returned as given.

    Raises:
        ValueError: a cross-layer transcoder beside others, one whose units choose among all layers
            ("topk": the activation of one would depend on later layers), one that is not causal.
    """
    if not any(one.family == FAMILY for one in transcoders):
        return list(transcoders), [() for _ in transcoders]
    if len(transcoders) != 1:
        raise ValueError(f"a {FAMILY} stands for all MLPs: give it alone, not one of several")
    clt, n = transcoders[0], len(transcoders[0].widths)
    reads, writes = clt.hook.split(SIDE_BY_SIDE), clt.target.split(SIDE_BY_SIDE)
    if clt.kind == "topk":
        raise ValueError(f"units of this {FAMILY} compete across layers (topk): train batchtopk")
    if len(reads) != n or clt.d_in != clt.d_out or clt.d_sae % n:
        raise ValueError(f"this {FAMILY} does not read one place for each of {n} that it writes")
    w, u = list(clt.widths), [clt.d_sae // n] * n
    W_enc = [part.split(u, dim=1) for part in clt.W_enc.split(w)]
    W_dec = [part.split(w, dim=1) for part in clt.W_dec.split(u)]
    W_skip = None if clt.W_skip is None else [x.split(w, dim=1) for x in clt.W_skip.split(w)]
    others = [(i, j) for i in range(n) for j in range(n) if i != j]
    wrong = [grid[i][j] for grid in (W_enc, W_skip) if grid for i, j in others]
    wrong += [W_dec[i][j] for i, j in others if j < i]
    if any(bool(part.any()) for part in wrong):
        raise ValueError(f"units of this {FAMILY} read other layers or write to earlier ones")
    b_enc, b_dec = clt.b_enc.split(u), clt.b_dec.split(w)
    threshold = [None] * n if clt.threshold is None else clt.threshold.split(u)
    own = [
        replace(
            clt, W_enc=W_enc[i][i], b_enc=b_enc[i], W_dec=W_dec[i][i], b_dec=b_dec[i],
            threshold=threshold[i], hook=reads[i], target=writes[i], widths=(),
            W_skip=None if W_skip is None else W_skip[i][i],
        )
        for i in range(n)
    ]  # fmt: skip
    return own, [tuple(W_dec[j][i] for j in range(i)) for i in range(n)]


@contextmanager
def splice_all(model: TransformerBridge, transcoders: Sequence[Sae]) -> Iterator[Firings]:
    """Inside the block every MLP is replaced at once, by what its transcoder or theirs predict.

    Units read the stream of the run itself, which earlier replacements have changed. The first
    token and special tokens are left alone, as in `splice`.

    Args:
        model: The model that they were made for.
        transcoders: One for each MLP that is to be replaced, or one cross-layer transcoder.

    Yields:
        The count of what fired.

    Raises:
        ValueError: as `splice` and `by_layer`.
        NothingHappened: as `splice`.
    """
    own, earlier = by_layer(transcoders)
    active: dict[int, Tensor] = {}

    def put(i: int) -> Callable[[Tensor, Tensor], Tensor]:
        def change(x: Tensor, y: Tensor) -> Tensor:
            active[i] = own[i].encode(x)
            return own[i](x) + sum(active[j] @ W_dec for j, W_dec in enumerate(earlier[i]))

        return change

    fired = Firings()
    with ExitStack() as stack:
        parts = [stack.enter_context(sparing(model, one, put(i))) for i, one in enumerate(own)]
        yield fired
        for part in parts:
            fired.by_hook |= part.by_hook
            fired.positions += part.positions


def save_layers(clt: Sae, folder: str | Path, *, half: bool = False) -> Path:
    """Write a cross-layer transcoder as circuit-tracer does, with `cfg.json` beside.

    For each layer `W_enc_<i>.safetensors` (encoder [unit d_model], biases, threshold) and
    `W_dec_<i>.safetensors` ([unit, layers from i on, d_model]): what circuit-tracer's `load_clt`
    opens. It has no place for a linear skip, which goes to `W_skip.safetensors` [layer d_in d_out]
    and has to be set there by hand.

    Raises:
        ValueError: as `by_layer`; widths that differ.
        TypeError: a note that JSON cannot hold.
    """
    folder, (own, earlier) = Path(folder), by_layer([clt])
    if len(set(clt.widths)) > 1:
        raise ValueError(f"layers must be of one width, got {list(clt.widths)}")
    config = {
        "architecture": "cross_layer_transcoder", "kind": clt.kind, "hook_name": clt.hook,
        "hook_name_out": clt.target, "model_name": clt.model_id, "metadata": {**clt.notes},
    }  # fmt: skip
    text, files = json.dumps(config, indent=1) + "\n", {}
    for i, one in enumerate(own):
        here = {"W_enc": one.W_enc.T, "b_enc": one.b_enc, "b_dec": one.b_dec}
        if one.threshold is not None:
            here["threshold"] = one.threshold
        files[f"W_enc_{i}"] = {f"{name}_{i}": x for name, x in here.items()}
        later = [earlier[j][i] for j in range(i + 1, len(own))]
        files[f"W_dec_{i}"] = {f"W_dec_{i}": torch.stack([one.W_dec, *later], dim=1)}
    if clt.W_skip is not None:
        skips = [one.W_skip for one in own if one.W_skip is not None]
        files["W_skip"] = {"W_skip": torch.stack(skips)}
    folder.mkdir(parents=True, exist_ok=True)
    with write_whole(folder / CONFIG) as said:
        said.write_text(text, encoding="utf-8")
        for name, tensors in files.items():
            cast = {key: (x.half() if half else x.float()) for key, x in tensors.items()}
            save_tensors(
                folder / f"{name}.safetensors", {k: x.clone().contiguous() for k, x in cast.items()}
            )
    return folder


def load_layers(folder: str | Path, *, device: torch.device | str = "cpu") -> Sae:
    """Open what `save_layers` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one cannot be read, or is none of a cross-layer transcoder.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        reads = config["hook_name"].split(SIDE_BY_SIDE)
        names = [f"{side}_{i}" for side in ("W_enc", "W_dec") for i in range(len(reads))]
        names += ["W_skip"] * (folder / "W_skip.safetensors").is_file()
        parts: dict[str, Tensor] = {}
        for name in names:
            with safe_open(folder / f"{name}.safetensors", "pt", device=str(device)) as file:
                parts |= {key: file.get_tensor(key).float() for key in file.keys()}
        return _joined(config, parts, len(reads))
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is no {FAMILY}, or broken ({error!r}): fetch it again"
        ) from error


def _joined(config: dict, parts: dict[str, Tensor], n: int) -> Sae:
    """One dictionary of all layers' parts."""

    def each(name: str) -> list[Tensor]:
        return [parts[f"{name}_{i}"] for i in range(n)]

    width = parts["b_dec_0"].shape[0]
    before = [x.new_zeros(len(x), i, width) for i, x in enumerate(each("W_dec"))]
    rows = [torch.cat(pair, dim=1) for pair in zip(before, each("W_dec"), strict=True)]
    return Sae(
        kind=config["kind"],
        W_enc=torch.block_diag(*(x.T for x in each("W_enc"))),
        b_enc=torch.cat(each("b_enc")),
        W_dec=torch.cat(rows).flatten(1),
        b_dec=torch.cat(each("b_dec")),
        threshold=torch.cat(each("threshold")) if "threshold_0" in parts else None,
        hook=config["hook_name"],
        target=config["hook_name_out"],
        model_id=config["model_name"],
        subtract_b_dec=False,
        W_skip=torch.block_diag(*parts["W_skip"]) if "W_skip" in parts else None,
        widths=(width,) * n,
        notes=config["metadata"],
    )
