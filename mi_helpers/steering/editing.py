"""Edits of the weights that are undone exactly: orthogonalisation, and one fact rewritten.

Conventions of the bridge: weights act on the right, so an MLP writes `key @ W_out + b_out`, with
the key `[d_mlp]` its activations after the nonlinearity, and every row of `W_out` is a vector of
the stream.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.interventions import intervene
from mi_helpers.models.parts import adds_positions, require_plain_writes
from mi_helpers.sites import read, require_layer, require_tokens, require_unpadded
from mi_helpers.steering.applying import orthonormal

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def written(model: TransformerBridge) -> dict[str, Float[Tensor, "*any d_model"]]:
    """Views of every weight whose last axis is written to the stream, by name.

    Biases and position embeddings are among them where the architecture has them.

    Raises:
        ValueError: A model that normalises what is written before adding it.
    """
    require_plain_writes(model)
    found = {"W_E": model.W_E}
    if adds_positions(model):
        found["W_pos"] = model.W_pos
    for i, block in enumerate(model.blocks):
        found |= {f"L{i} W_O": block.attn.W_O, f"L{i} b_O": block.attn.b_O}
        found |= {f"L{i} W_out": block.mlp.W_out, f"L{i} b_out": block.mlp.b_out}
    return {name: weight for name, weight in found.items() if weight is not None}


@contextmanager
def orthogonalised(
    model: TransformerBridge, directions: Float[Tensor, "*k d_model"]
) -> Iterator[None]:
    """Take the directions out of every weight that writes to the stream; put back on leaving.

    The model then cannot write along them, as if `project_out` ran at every write: the outputs are
    equal up to rounding. Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.4, equation 5.

    Raises:
        ValueError: Directions that are not independent or of another width, or as `written`.
    """
    views = written(model)
    basis = orthonormal(directions).to(model.cfg.device)
    if basis.shape[1] != model.cfg.d_model:
        raise ValueError(f"directions of {basis.shape[1]} dimensions, d_model {model.cfg.d_model}")
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

    Args:
        model: The model.
        layer: Whose MLP.
        key: The left factor, as `rome_key` gives it.
        value: The right one.

    Raises:
        ValueError: A layer or shapes that the model does not have, or as `written`.
    """
    require_layer(model, layer)
    require_plain_writes(model)
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
    is of C plus a thousandth of its mean diagonal, which the authors' code does not add. Source:
    Meng et al. 2022 (arXiv:2202.05262), equation 2.

    Args:
        covariance: Second moments of usual keys, as `key_covariance` gives them.
        key: The key to edit at.

    Raises:
        ValueError: A covariance of another size.
    """
    if covariance.shape != (len(key), len(key)):
        raise ValueError(f"covariance {list(covariance.shape)} for a key of {len(key)} neurons")
    ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(key), device=key.device)
    solved = torch.linalg.solve((covariance + ridge).double(), key.double())
    return (solved / (key.double() @ solved)).to(key)


@torch.no_grad()
def key_covariance(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    layers: Sequence[int],
    *,
    batch: int = 16,
) -> dict[int, Float[Tensor, "d_mlp d_mlp"]]:
    """Second moments of the keys of several layers over texts, E[k kᵀ], not centred.

    Start tokens are left out: their activations are like no other token's.

    Args:
        model: Any bridge.
        tokens: Texts of one length.
        layers: Which MLPs.
        batch: Texts that are run at a time.

    Raises:
        ValueError: Padded texts, none but start tokens, or a layer that there is not.
    """
    for layer in layers:
        require_layer(model, layer)
    require_tokens(tokens)
    require_unpadded(model, tokens)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = tokens[:, 0] != model.tokenizer.bos_token_id
    if not counted.any():
        raise ValueError("the texts hold nothing but start tokens: there are no keys to count")
    sums: dict[int, Tensor] = {}
    for rows, mine in zip(tokens.split(batch), counted.split(batch), strict=True):
        cache = read(model, rows, [("mlp_post", layer) for layer in layers])
        for layer in layers:
            keys = cache["mlp_post", layer][mine]
            sums[layer] = sums.get(layer, 0) + keys.T @ keys
    return {layer: total / int(counted.sum()) for layer, total in sums.items()}


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
    """What an MLP would have to write *more* at a position for the model to answer so.

    Minimises -log p(answer), the mean over prompts, plus `decay` times the squared length, with
    Adam from zero; one vector for all prompts, each with its own position. Lengths are counted in
    those of what the MLP writes there already, so `rate` (a step of a coordinate, in root mean
    squares) and `decay` mean the same in every model. It ends early once the mean is below
    `enough` nats: what goes beyond changes other prompts more and this one little. Source: as
    `rome_key`, section 3.1, without the term that keeps the subject's essence.

    Args:
        model: Any bridge.
        prompts: Rows of tokens, of any lengths.
        positions: One a prompt, counted from its start: the subject's last token.
        answer: The id of one token, the same for all prompts.
        layer: Which MLP.
        steps: Of the optimiser, at most.
        rate: Its step.
        decay: Weight of the squared length.
        enough: Where to stop, in nats.

    Returns:
        What to add, in the units of the stream.

    Raises:
        ValueError: No prompts, not one position for each, a position that is none of a prompt's,
            or an answer that is not one token of the vocabulary.
    """
    require_layer(model, layer)
    answer = _one_token(model, answer)
    rows, ends = _right_padded(prompts, positions)
    each, at = torch.arange(len(rows)), torch.tensor(positions)
    place = ("mlp_out", layer)
    value = read(model, rows, [place])[place][each, at]
    size = value.square().mean(-1).sqrt().mean()
    change = torch.zeros(model.cfg.d_model, device=model.cfg.device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=rate)
    here = torch.zeros(*rows.shape, 1, device=rows.device)
    here[each, at] = 1

    def write(acts: Tensor, where: Tensor) -> Tensor:
        return acts + here * size * change

    for _ in range(steps):
        with intervene(model, {place: write}):
            logits = model(rows)[each, ends]
        surprise = -logits.log_softmax(-1)[:, answer].mean()
        if surprise.item() < enough:
            break
        optimizer.zero_grad()
        (surprise + decay * change.square().mean()).backward()
        optimizer.step()
    return (size * change).detach()


def _one_token(model: TransformerBridge, answer: int) -> int:
    """The id of a token; ValueError for several of them, or for none of the vocabulary."""
    try:
        token = operator.index(answer)
    except TypeError:
        token = -1
    if isinstance(answer, bool) or not 0 <= token < model.cfg.d_vocab:
        raise ValueError(
            f"answer must be the id of one token, 0..{model.cfg.d_vocab - 1}, got {answer!r}: "
            "prompts.single_token gives it"
        )
    return token


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
