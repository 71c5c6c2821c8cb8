"""Checks of notebook 17: a transcoder, connections in the weights, a frozen head, influence, and
how few nodes hold it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import compare, distinct, exercise


def _kept(pre: Tensor, k: int) -> Tensor:
    top = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def _transcode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, W_skip: Tensor, k: int
) -> Tensor:
    f = _kept((x @ W_enc + b_enc).relu(), k)
    return f @ W_dec + b_dec + x @ W_skip


@exercise
def transcode(answer: Any, rng: torch.Generator) -> None:
    """What a TopK skip transcoder predicts."""
    for k in distinct(rng, 2, 5):
        x, W_enc = 2 * torch.randn(5, 4, generator=rng), torch.randn(4, 16, generator=rng)
        b_enc, b_dec = torch.randn(16, generator=rng), torch.randn(4, generator=rng)
        W_dec, W_skip = torch.randn(16, 4, generator=rng), torch.randn(4, 4, generator=rng)
        b_enc[0], x[0] = 0.4, 0.0  # a token with fewer positive units than are kept
        b_enc[1:] = -b_enc[1:].abs() / 2 - 0.1
        pre, skip = x @ W_enc + b_enc, x @ W_skip
        f = _kept(pre.relu(), k)
        mistakes = {
            "You left the skip out: add the linear map of the input.": f @ W_dec + b_dec,
            "You kept all active units. Keep the k largest of each token.": (
                pre.relu() @ W_dec + b_dec + skip
            ),
            "The k largest may be negative: take the positive part too.": (
                _kept(pre, k) @ W_dec + b_dec + skip
            ),
            "You centred the input by b_dec, as an SAE does. It is the bias of what is written.": (
                _kept(((x - b_dec) @ W_enc + b_enc).relu(), k) @ W_dec + b_dec + skip
            ),
            "You left b_dec out.": f @ W_dec + skip,
            "You left b_enc out.": _kept((x @ W_enc).relu(), k) @ W_dec + b_dec + skip,
        }
        inputs = {
            "x [token 4]": x, "W_enc [4 unit]": W_enc, "b_enc [unit]": b_enc,
            "W_dec [unit 4]": W_dec, "b_dec [4]": b_dec, "W_skip [4 4]": W_skip, "k": k,
        }  # fmt: skip
        compare(answer, _transcode, inputs, mistakes, hint="One row for each token.")


def _strongest(W_dec: Tensor, W_enc: Tensor, unit: int, count: int) -> Tensor:
    return (W_dec @ W_enc[:, unit]).abs().topk(count).indices


@exercise
def strongest_inputs(answer: Any, rng: torch.Generator) -> None:
    """The earlier units whose writing a later unit reads most."""
    for unit, count in zip(distinct(rng, 0, 7), distinct(rng, 3, 6), strict=True):
        W_dec, W_enc = torch.randn(16, 5, generator=rng), torch.randn(5, 7, generator=rng)
        W_dec *= torch.linspace(0.3, 4, 16)[torch.randperm(16, generator=rng), None]
        strongest = int((W_dec @ W_enc[:, unit]).abs().argmax())
        W_dec[strongest] *= -(W_dec[strongest] @ W_enc[:, unit]).sign()
        weight = W_dec @ W_enc[:, unit]
        mistakes = {
            "You took the largest with their sign. A strong inhibition counts as well.": (
                weight.topk(count).indices
            ),
            "You took the smallest.": (-weight.abs()).topk(count).indices,
            "You took cosines. A long row reads and writes more: do not divide by lengths.": (
                (weight / W_dec.norm(dim=1)).abs().topk(count).indices
            ),
            "These are later units that read one early unit. Take the column of W_enc.": (
                (W_dec[unit] @ W_enc).abs().topk(count).indices
            ),
            "You sorted all. Return `count` of them.": weight.abs().argsort(descending=True),
            "You returned the weights. Return which units.": weight.abs().topk(count).values,
        }
        inputs = {"W_dec [16 5]": W_dec, "W_enc [5 7]": W_enc, "unit": unit, "count": count}
        hint = "Numbers of earlier units, strongest first."
        compare(answer, _strongest, inputs, mistakes, hint=hint)


def _through(
    pattern: Tensor, x: Tensor, W_V: Tensor, W_O: Tensor, direction: Tensor, query: int
) -> Tensor:
    return pattern[query] * (x @ W_V @ W_O @ direction)


@exercise
def through_head(answer: Any, rng: torch.Generator) -> None:
    """What each token adds along a direction at one place, through a head whose pattern stands."""
    for query in distinct(rng, 1, 5):
        pattern = torch.rand(5, 5, generator=rng).add(0.05).tril()
        pattern = pattern / pattern.sum(1, keepdim=True)
        x, direction = torch.randn(5, 6, generator=rng), torch.randn(6, generator=rng)
        W_V, W_O = torch.randn(6, 3, generator=rng), torch.randn(3, 6, generator=rng)
        along = x @ W_V @ W_O @ direction
        own = (pattern @ x @ W_V @ W_O @ direction)[query]
        mistakes = {
            "You summed over sources. One number for each of them.": own,
            "You took the column: who looks at this token. Take the row of the query.": (
                pattern[:, query] * along
            ),
            "You left the pattern out.": along,
            "You took what the head writes at every place. Take one query, each source.": (
                pattern @ along
            ),
            "All sources got the query's own value. Each token has its own.": (
                pattern[query] * along[query]
            ),
            "You left the direction's length out.": pattern[query] * along / direction.norm(),
        }
        inputs = {
            "pattern [query source]": pattern, "x [source 6]": x, "W_V [6 3]": W_V,
            "W_O [3 6]": W_O, "direction [6]": direction, "query": query,
        }  # fmt: skip
        hint = "One number for each source token."
        compare(answer, _through, inputs, mistakes, hint=hint)


def _shares(weights: Tensor, dim: int = 1) -> Tensor:
    size = weights.abs()
    return size / size.sum(dim, keepdim=True).clamp_min(1e-12)


def _paths(A: Tensor, target: int) -> Tensor:
    eye = torch.eye(len(A), dtype=A.dtype)
    return (torch.linalg.inv(eye - A) - eye)[target]


def _influence(weights: Tensor, target: int) -> Tensor:
    return _paths(_shares(weights), target)


@exercise
def influence(answer: Any, rng: torch.Generator) -> None:
    """The share of a target that comes from each node, over all paths."""
    for target in distinct(rng, 4, 7):
        weights = torch.randn(7, 7, generator=rng).tril(-1)
        signed = weights / weights.sum(1, keepdim=True).where(weights.any(1, keepdim=True), 1.0)
        eye = torch.eye(7)
        mistakes = {
            "You took direct inputs alone. Count paths of every length.": (
                _shares(weights)[target]
            ),
            "Take the size of each weight first: inputs of unlike signs must not cancel.": (
                _paths(signed, target)
            ),
            "The inputs of a node sum to one, not its outputs: divide rows.": (
                _paths(_shares(weights, 0), target)
            ),
            "You did not divide a node's inputs by their sum.": _paths(weights.abs(), target),
            "You counted the path of no steps: take the identity away.": (
                _influence(weights, target) + eye[target]
            ),
            "This is where the node's own influence goes. Take the row, not the column.": (
                _paths(_shares(weights).T, target)
            ),
            "You stopped after paths of two steps.": (
                (_shares(weights) + _shares(weights) @ _shares(weights))[target]
            ),
        }
        inputs = {"weights [target source]": weights, "target": target}
        hint = "One number for each node, none of them negative."
        compare(answer, _influence, inputs, mistakes, hint=hint)


def _fewest(influence: Tensor, share: float) -> int:
    held = influence.sort(descending=True).values.cumsum(0) / influence.sum()
    return int((held < share).sum()) + 1


@exercise
def fewest_nodes(answer: Any, rng: torch.Generator) -> None:
    """How few nodes hold a share of all influence."""
    for low in (0.25, 0.6):
        share = low + 0.25 * float(torch.rand((), generator=rng))
        influence = torch.rand(12, generator=rng) ** 3 + 0.01
        right = _fewest(influence, share)
        weakest = influence.sort().values.cumsum(0) / influence.sum()
        in_order = influence.cumsum(0) / influence.sum()
        mistakes = {
            "You counted the nodes below the share; the one that reaches it belongs to them.": (
                right - 1
            ),
            "You began with the weakest. Sort from the strongest down.": (
                int((weakest < share).sum()) + 1
            ),
            "You took the nodes as they stand. Sort them first.": (
                int((in_order < share).sum()) + 1
            ),
            "You compared each node with the share. Compare what they hold together.": (
                int((influence / influence.sum() > share).sum())
            ),
            "You took a share of the number of nodes. Take it of their influence.": (
                round(share * len(influence))
            ),
            "You compared the sum itself. Divide by the influence of all.": (
                int((influence.sort(descending=True).values.cumsum(0) < share).sum()) + 1
            ),
        }
        inputs = {"influence [node]": influence, "share": share}
        compare(answer, _fewest, inputs, mistakes, hint="One whole number.")
