"""Edits of the weights that are undone exactly: orthogonalisation, and one fact rewritten.

Conventions of the bridge: weights act on the right, so an MLP writes `key @ W_out + b_out`, with
the key `[d_mlp]` its activations after the nonlinearity, and every row of `W_out` is a vector of
the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.patching.sites import SITES
from mi_helpers.steering.applying import orthonormal
from mi_helpers.steering.vectors import require_layer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def written(model: TransformerBridge) -> dict[str, Float[Tensor, "*any d_model"]]:
    """Views of every weight whose last axis is written to the stream, biases too, by name."""
    found = {name: getattr(model, name) for name in ("W_E", "W_pos") if hasattr(model, name)}
    for i, block in enumerate(model.blocks):
        found |= {f"L{i} W_O": block.attn.W_O, f"L{i} b_O": block.attn.b_O}
        found |= {f"L{i} W_out": block.mlp.W_out, f"L{i} b_out": block.mlp.b_out}
    return found


@contextmanager
def orthogonalised(
    model: TransformerBridge, directions: Float[Tensor, "*k d_model"]
) -> Iterator[None]:
    """Take the directions out of every weight that writes to the stream; put back on leaving.

    The model then cannot write along them, as if `project_out` ran at every write: the outputs are
    equal up to rounding. Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.4, equation 5.
    """
    basis = orthonormal(directions).to(model.cfg.device)
    views = written(model)
    with _restored(list(views.values())):
        with torch.no_grad():
            for view in views.values():
                view.sub_((view @ basis.T) @ basis)
        yield


@contextmanager
def rank_one(
    model: TransformerBridge,
    layer: int,
    key: Float[Tensor, " d_mlp"],
    value: Float[Tensor, " d_model"],
) -> Iterator[None]:
    """Add the outer product `key[i] * value[j]` to `W_out` of a layer; put back on leaving.

    ValueError for a layer or for shapes that the model does not have.
    """
    require_layer(model, layer)
    view = model.blocks[layer].mlp.W_out
    shape = (len(key), len(value))
    if shape != tuple(view.shape):
        raise ValueError(f"the edit is {list(shape)} and W_out is {list(view.shape)}")
    with _restored([view]):
        with torch.no_grad():
            view.add_(torch.outer(key, value).to(view))
        yield


def rome_key(
    covariance: Float[Tensor, "d_mlp d_mlp"], key: Float[Tensor, " d_mlp"]
) -> Float[Tensor, " d_mlp"]:
    """The left factor of ROME's edit: C^-1 k / (k · C^-1 k).

    With the outer product of this and (v_new - v_old), the key k yields v_new exactly, and of all
    edits that do so this one changes least what other keys with second moments C yield. The inverse
    is of C plus a thousandth of its mean diagonal. Source: Meng et al. 2022 (arXiv:2202.05262),
    equation 2.
    """
    if covariance.shape != (len(key), len(key)):
        raise ValueError(f"covariance {list(covariance.shape)} for a key of {len(key)} neurons")
    ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(key), device=key.device)
    solved = torch.linalg.solve((covariance + ridge).double(), key.double())
    return (solved / (key.double() @ solved)).to(key)


@torch.no_grad()
def mlp_keys(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], layer: int
) -> Float[Tensor, "batch pos d_mlp"]:
    """The neurons' activations of one layer, after the nonlinearity."""
    require_layer(model, layer)
    name = f"blocks.{layer}.mlp.hook_post"
    return model.run_with_cache(tokens, names_filter=[name])[1][name]


@torch.no_grad()
def key_covariance(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    layers: Sequence[int],
    *,
    batch: int = 16,
) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
    """Second moments of the keys of several layers over texts, E[k kᵀ], not centred.

    One pass over the texts, `batch` of them at a time; BOS, in front of each, is left out.
    """
    for layer in layers:
        require_layer(model, layer)
    names = {layer: f"blocks.{layer}.mlp.hook_post" for layer in layers}
    sums: dict[int, Tensor] = {}
    for rows in tokens.split(batch):
        cache = model.run_with_cache(rows, names_filter=list(names.values()))[1]
        for layer, name in names.items():
            keys = cache[name][:, 1:].flatten(0, 1)
            sums[layer] = sums.get(layer, 0) + keys.T @ keys
    return {layer: total / tokens[:, 1:].numel() for layer, total in sums.items()}


def find_value(
    model: TransformerBridge,
    prompts: Sequence[Int[Tensor, " pos"]],
    positions: Sequence[int],
    answer: int,
    layer: int,
    *,
    steps: int = 40,
    rate: float = 0.1,
    decay: float = 0.1,
    enough: float = 0.1,
) -> Float[Tensor, " d_model"]:
    """What the MLP of a layer would have to write *more* at a position for the model to answer so.

    Minimises -log p(answer), the mean over prompts, plus `decay` times the squared length, with
    Adam from zero; one vector for all prompts, each with its own position. Lengths are counted in
    those of what the MLP writes there already, so `rate` (a step of a coordinate, in root mean
    squares) and `decay` mean the same in every model. It ends early once the mean is below
    `enough` nats: what goes beyond changes other prompts more and this one little. Source: as
    `rome_key`, section 3.1, without the term that keeps the subject's essence.

    Raises:
        ValueError: no prompts, not one position for each, or a position that is none of a prompt's.
    """
    require_layer(model, layer)
    rows, ends = _right_padded(prompts, positions)
    each, at = torch.arange(len(rows)), torch.tensor(positions)
    hook = SITES["mlp_out"].hook.format(layer=layer)
    with torch.no_grad():
        value = model.run_with_cache(rows, names_filter=[hook])[1][hook][each, at]
    size = value.square().mean(-1).sqrt().mean()
    change = torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=rate)
    here = torch.zeros(*rows.shape, 1, device=rows.device)
    here[each, at] = 1

    def write(acts: Tensor, hook: Any) -> Tensor:
        return acts + here * size * change

    for _ in range(steps):
        logits = model.run_with_hooks(rows, fwd_hooks=[(hook, write)])[each, ends]
        surprise = -logits.log_softmax(-1)[:, answer].mean()
        if surprise.item() < enough:
            break
        optimizer.zero_grad()
        (surprise + decay * change.square().mean()).backward()
        optimizer.step()
    return (size * change).detach()


def _right_padded(
    prompts: Sequence[Int[Tensor, " pos"]], positions: Sequence[int]
) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"]]:
    """Prompts side by side, checked, and where each ends; no token sees the padding behind it."""
    if not len(prompts) or len(prompts) != len(positions):
        raise ValueError(f"got {len(prompts)} prompts and {len(positions)} positions")
    for row, position in zip(prompts, positions, strict=True):
        if not 0 <= position < len(row):
            raise ValueError(f"position {position} is outside a prompt of {len(row)} tokens")
    rows = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    return rows, torch.tensor([len(row) - 1 for row in prompts], device=rows.device)


@contextmanager
def _restored(views: Sequence[Tensor]) -> Iterator[None]:
    """Copy the weights, and put back every bit on leaving, also by an error."""
    before = [view.detach().clone() for view in views]
    try:
        yield
    finally:
        with torch.no_grad():
            for view, old in zip(views, before, strict=True):
                view.copy_(old)
