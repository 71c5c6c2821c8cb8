"""ACDC: greedy pruning of the edge graph, from the logits back to the embeddings.

The algorithm (Conmy et al. 2023, "Towards automated circuit discovery", section 3):

1. Run the whole model; measure every circuit by its `distance` from that run.
2. Begin with all edges or, to save time, with those that EAP-IG scores highest.
3. Take the readers from the logits back, and the edges into each from the latest writer back.
4. Ablate the edge: its reader sees what the writer wrote in the other run. If the circuit moves
   away from the model by less than the threshold, the edge stays ablated; otherwise it is restored.
5. A head or MLP that nobody reads any more loses the edges into it without being tried.

Edges of one reader are tried together, first one gone, then two, and so on, in one batch: as long
as each step costs less than the threshold, that is what trying them one after another would have
found; from the first that costs more, a new batch starts. So the result is that of the plain
search. Writers before the reader at hand are computed once and shared by all circuits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from mi_helpers import metrics
from mi_helpers.circuits.graph import Circuit, EdgeGraph
from mi_helpers.circuits.runner import EdgeRunner, edge_runner
from mi_helpers.circuits.scores import edge_attribution
from mi_helpers.engine import Inputs, prepare
from mi_helpers.files import save_tensors
from mi_helpers.metrics import Metric
from mi_helpers.patching.gradients import Integrated
from mi_helpers.patching.gradients import Path as GradientPath
from mi_helpers.patching.values import OtherRun, require_other_run

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Distance = Callable[[Float[Tensor, "batch pos d_vocab"]], Metric]
"""From the whole model's logits to a metric of how far a circuit is from it; smaller is nearer."""

Loss = Callable[[Float[Tensor, "circuit batch pos d_model"]], Float[Tensor, "circuit batch"]]


def kl_distance(logits: Float[Tensor, "batch pos d_vocab"]) -> Metric:
    """KL(model || circuit) at the last position, in nats: ACDC's own choice."""
    return partial(metrics.kl, reference=logits)


def acdc(
    model: TransformerBridge,
    base: Inputs,
    what: OtherRun,
    metric: Metric,
    threshold: float,
    *,
    distance: Distance = kl_distance,
    first: int | None = 4000,
    path: GradientPath = Integrated(),
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Circuit:
    """Find the edges that a behaviour needs, by greedy pruning; the others read the other run.

    At GPT-2 small's size on a CPU, trying all 32,491 edges takes hours; so the search starts from
    the `first` edges by EAP-IG. None starts from all edges, as the paper does.

    Args:
        model: The bridge, of an architecture that `EdgeGraph.of` takes.
        base: The clean prompts, which show the behaviour.
        what: The run that ablated edges read, e.g. `OtherRun(corrupt_tokens)`.
        metric: The behaviour: logits to one number an example. It scores the edges to start from.
        threshold: What an edge must be worth to stay, in the unit of the distance; > 0. Larger
            keeps fewer edges.
        distance: How far a circuit is from the model, to be kept small.
        first: How many edges to start from; None means all.
        path: Where the gradients of the first scores are taken.
        checkpoint: A file that keeps the state after each reader, and from which an interrupted
            search goes on.
        progress: Show a bar.

    Returns:
        The circuit. `pruned()` drops the edges on no path from the embeddings to the logits.

    Raises:
        ValueError: a threshold that is not positive, another architecture, a checkpoint of another
            search, or what `patch_sweep` refuses.
    """
    if not threshold > 0:
        raise ValueError(f"the threshold must be positive, got {threshold}")
    graph = EdgeGraph.of(model)
    setup = prepare(model, base, metric, require_other_run(what))
    start, label = graph.valid, f"pruning {int(graph.valid.sum())} edges"
    if first is not None and first < int(start.sum()):
        label = f"pruning the first {first} of {int(start.sum())} edges by EAP-IG"
        scores = edge_attribution(model, base, what, metric, path=path)
        start = scores.top(first).pruned().kept
    with torch.no_grad():
        runner = edge_runner(setup)
        far = distance(setup.logits(setup.base.final[:, runner.reads]))
        return prune(
            runner,
            start,
            lambda resid: setup.judge(resid, far),
            threshold,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            label=label if progress else None,
        )


@dataclass
class Pruning:
    """The state of a search.

    Attributes:
        kept: The edges still there.
        loss: The mean loss of the circuit they make.
        next_reader: The reader to go on with; -1 when the search is over.
        n_tried: How many circuits have been run.
    """

    kept: Bool[Tensor, "reader writer"]
    loss: float
    next_reader: int
    n_tried: int = 0

    def save(self, path: Path, identity: str) -> None:
        """Write the state, whole or not at all."""
        numbers = torch.tensor([self.loss, self.next_reader, self.n_tried], dtype=torch.float64)
        save_tensors(path, {"kept": self.kept, "numbers": numbers}, search=identity)

    @classmethod
    def load(cls, path: Path, identity: str) -> Pruning:
        """Read a state; ValueError when the file is damaged or of another search."""
        try:
            with safe_open(path, framework="pt") as file:
                found = (file.metadata() or {}).get("search")
                kept, numbers = file.get_tensor("kept"), file.get_tensor("numbers").tolist()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no checkpoint of a search ({error}): delete it") from error
        if found != identity:
            raise ValueError(
                f"{path} is the checkpoint of another search (other prompts, model, threshold or "
                "first edges): delete it or name another file"
            )
        return cls(kept, numbers[0], int(numbers[1]), int(numbers[2]))


def prune(
    runner: EdgeRunner,
    start: Bool[Tensor, "reader writer"],
    loss: Loss,
    threshold: float,
    *,
    checkpoint: Path | None = None,
    label: str | None = None,
) -> Circuit:
    """Take away every edge of `start` whose loss costs less than `threshold`, in ACDC's order.

    Args:
        runner: Runs circuits on the prompts.
        start: The edges to begin with.
        loss: What a circuit loses, from its last residual stream; smaller is better.
        threshold: In the unit of the loss.
        checkpoint: A file to go on from, written whole after each reader.
        label: What the progress bar says; None shows no bar.

    Raises:
        ValueError: a checkpoint of another search.
    """
    state = Pruning(start.clone(), float(runner.final(start[None], loss).mean()), len(start) - 1)
    identity = _identity(runner, start, threshold, state.loss)
    if checkpoint is not None and checkpoint.exists():
        state = Pruning.load(checkpoint, identity)
    changes = runner.changes(start)  # of writers before the reader at hand: nothing there changed
    done = int(start[state.next_reader + 1 :].sum())
    with tqdm(total=int(start.sum()), initial=done, desc=label, disable=label is None) as bar:
        while state.next_reader >= 0:
            reader = state.next_reader
            earlier = changes[: runner.graph.n_before[reader]]
            _prune_reader(runner, state, reader, earlier, loss, threshold)
            state.next_reader -= 1
            if checkpoint is not None:
                state.save(checkpoint, identity)
            bar.update(int(start[reader].sum()))
            bar.set_postfix(kept=int(state.kept.sum()), loss=f"{state.loss:.3g}")
    return Circuit(runner.graph, state.kept)


def _prune_reader(
    runner: EdgeRunner,
    state: Pruning,
    reader: int,
    earlier: Tensor,
    loss: Loss,
    threshold: float,
) -> None:
    """Try the edges into one reader, the latest writer first."""
    writers = state.kept[reader].nonzero().flatten().tolist()[::-1]
    if _is_dead(runner, state.kept, reader):  # nobody reads its node: losing its edges is free
        state.kept[reader] = False
        return
    size = 1
    while writers:
        tried = writers[:size]
        kept = state.kept.repeat(len(tried), 1, 1)
        for n_gone, writer in enumerate(tried):
            kept[n_gone:, reader, writer] = False
        losses = runner.final(kept, loss, earlier=earlier).mean(dim=1).tolist()
        state.n_tried += len(tried)
        for writer, new in zip(tried, losses, strict=True):
            writers.pop(0)
            if new - state.loss >= threshold:
                size = max(1, size // 2)
                break
            state.kept[reader, writer] = False
            state.loss = new
        else:
            size = min(2 * size, 64)


def _is_dead(runner: EdgeRunner, kept: Bool[Tensor, "reader writer"], reader: int) -> bool:
    """Whether no kept edge leaves a head or MLP that computes from this reader."""
    graph = runner.graph
    return reader < len(graph.readers) - 1 and not kept[:, graph.feeds[reader]].any()


def _identity(runner: EdgeRunner, start: Tensor, threshold: float, loss: float) -> str:
    """What a checkpoint belongs to: prompts, first edges, threshold, and the loss to begin with."""
    digest = hashlib.sha256(repr((threshold, f"{loss:.4e}")).encode())
    for tensor in (runner.base.tokens, start):
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
