"""What an attribution graph says about heads and MLPs: scores of the edges between them.

The graph of `attribution_graph` has no heads: with patterns held, what a head moves from one place
to another is part of an edge. Here the same run, held still, is split the other way: over all
writers and readers of the edge graph (`circuits.EdgeGraph`), units of an MLP taken together.

effect(writer -> reader) = what the writer writes . d metric / d what the reader reads,

with attention patterns, scales of norms and the set of active units as they were. Nothing goes
through queries and keys, since the patterns are held: their edges get zero.

Source: Ameisen et al. 2025, "Circuit tracing" (the linear effects; "missing attention circuits").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.circuits.graph import EdgeGraph
from mi_helpers.circuits.scores import EdgeScores
from mi_helpers.models import model_id
from mi_helpers.sae.core import Sae
from mi_helpers.sae.frozen import FrozenLayer, FrozenRun, frozen_run
from mi_helpers.sites import hook_name

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def own_neurons(model: TransformerBridge) -> list[Sae]:
    """The model's MLPs as transcoders: their neurons are units, and nothing is lacking.

    Raises:
        ValueError: neurons that are no ReLUs: those are not linear where they are active.
    """
    if model.cfg.act_fn != "relu" or model.cfg.gated_mlp:
        raise ValueError(
            f"the neurons of {model.cfg.model_name} are {model.cfg.act_fn!r}: only ReLUs are "
            "units of a transcoder. Give transcoders that were trained for it"
        )
    return [
        Sae(
            "relu",
            W_enc=block.mlp.W_in.detach().float(),
            b_enc=block.mlp.b_in.detach().float(),
            W_dec=block.mlp.W_out.detach().float(),
            b_dec=block.mlp.b_out.detach().float(),
            hook=hook_name("mlp_in", layer),
            target=hook_name("mlp_out", layer),
            model_id=model_id(model),
            subtract_b_dec=False,
        )
        for layer, block in enumerate(model.blocks)
    ]


@torch.no_grad()
def graph_attribution(
    model: TransformerBridge,
    transcoders: Sequence[Sae],
    tokens: Int[Tensor, "prompt pos"],
    answers: Int[Tensor, "prompt 2"],
) -> EdgeScores:
    """Score every edge by its effect on a logit difference in the runs that are held still.

    Of each prompt alone: there is no other run. "embed" writes what tokens do and not what
    positions do, an MLP what its units do and not its bias, skip or error, a head all that it
    writes. So the sum over an MLP's edges is the sum over its units of their total effect in
    `attribution_graph`, and the sum over those of "embed" is that of the tokens.

    Args:
        model: The bridge.
        transcoders: One for each layer's MLP; `own_neurons` where these are ReLUs.
        tokens: The prompts.
        answers: The right and the wrong answer: logit of the first minus that of the second.

    Returns:
        Mean over prompts, in logits; above zero where the edge speaks for the right answer.

    Raises:
        ValueError: as `attribution_graph`; transcoders that cross layers; answers that do not fit.
    """
    graph = EdgeGraph.of(model)
    if answers.shape != (len(tokens), 2):
        raise ValueError(f"{len(tokens)} prompts need answers [{len(tokens)}, 2]: the right and "
                         f"the wrong one; got {list(answers.shape)}")  # fmt: skip
    total = torch.zeros(graph.valid.shape)
    for prompt, (right, wrong) in zip(tokens, answers.tolist(), strict=True):
        run = frozen_run(model, transcoders, prompt[None])
        if any(layer.earlier for layer in run.layers):
            raise ValueError("a cross-layer transcoder has units that belong to no single MLP")
        total += _edges(graph, run, run.W_U[:, right] - run.W_U[:, wrong]).cpu()
    return EdgeScores(graph, total / len(tokens))


def _edges(
    graph: EdgeGraph, run: FrozenRun, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "reader writer"]:
    """The effect of each edge in one run, from the logits back."""
    written = _written(run)
    scores = torch.zeros(graph.valid.shape).to(written)
    grad = torch.zeros_like(run.embedded)
    grad[-1] = direction
    grad = run.final.back(grad)
    scores[-1] = torch.einsum("wpd,pd->w", written, grad)
    reader = len(graph.readers) - 1
    for layer in reversed(run.layers):
        reader -= 1
        to_mlp = _through_mlp(layer, grad)
        scores[reader] = torch.einsum("wpd,pd->w", written, to_mlp)
        grad = grad + to_mlp
        values = _through_heads(layer, grad)
        shared = values.unflatten(0, (graph.input_sizes[2], -1)).sum(1)
        scores[reader - len(shared) : reader] = torch.einsum("wpd,hpd->hw", written, shared)
        grad = grad + values.sum(0)
        reader -= sum(graph.input_sizes)  # queries and keys: the patterns are held
    return scores * graph.valid.to(scores)


def _written(run: FrozenRun) -> Float[Tensor, "writer pos d_model"]:
    """What each writer adds to the stream."""
    found, stream = [run.embedded], run.embedded + run.positions
    for layer in run.layers:
        values = torch.einsum("pd,hde->hpe", layer.before_attention(stream), layer.W_V)
        z = torch.einsum("qhk,hke->hqe", layer.pattern, values + layer.b_V[:, None])
        heads = z @ layer.W_O
        units = layer.acts @ layer.transcoder.W_dec
        mid = stream + heads.sum(0) + layer.b_O
        rest = layer.transcoder.without_units(layer.before_mlp(mid)) * layer.on[:, None]
        stream = mid + units + rest + layer.error
        found += [*heads, units]
    return torch.stack(found)


def _through_mlp(
    layer: FrozenLayer, grad: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos d_model"]:
    """A gradient behind an MLP taken to its input: through active units, and the skip."""
    there, transcoder = grad * layer.on[:, None], layer.transcoder
    units = (there @ transcoder.W_dec.T) * (layer.acts > 0)
    normed = units @ transcoder.W_enc.T
    if transcoder.W_skip is not None:
        normed = normed + there @ transcoder.W_skip.T
    return layer.before_mlp.back(normed)


def _through_heads(
    layer: FrozenLayer, grad: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "head pos d_model"]:
    """A gradient behind the heads taken to what each reads as values."""
    z = torch.einsum("pd,hed->hpe", grad, layer.W_O)
    values = torch.einsum("qhk,hqe->hke", layer.pattern, z)
    return layer.before_attention.back(torch.einsum("hpe,hde->hpd", values, layer.W_V))
