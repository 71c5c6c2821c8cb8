"""Greedy pruning of edges, from the logits back to the embeddings: ACDC.

Each edge is taken away in turn and stays away when that costs less than a threshold. Edges of one
reader are tried together, first one gone, then two, and so on, in one batch: as long as each step
costs less than the threshold, that is what trying them one after another would have found; from the
first that costs more, the search starts a new batch. So the result is that of the plain search.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from mi_helpers.patching.edge_runs import EdgeRunner
from mi_helpers.patching.edges import Circuit

Loss = Callable[[Float[Tensor, "circuit batch pos d_model"]], Float[Tensor, "circuit batch"]]


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
        part = path.with_name(path.name + ".part")
        numbers = torch.tensor([self.loss, self.next_reader, self.n_tried], dtype=torch.float64)
        save_file({"kept": self.kept, "numbers": numbers}, part, metadata={"search": identity})
        os.replace(part, path)

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
    label: str | None = "pruning",
) -> Circuit:
    """Take away every edge of `start` whose loss costs less than `threshold`, in ACDC's order.

    Args:
        runner: Runs circuits on the prompts.
        start: The edges to begin with.
        loss: What a circuit loses, from its last residual stream; smaller is better.
        threshold: In the unit of the loss; > 0. Larger keeps fewer edges.
        checkpoint: A file to go on from, written whole after each reader.
        label: What the progress bar says; None shows no bar.

    Raises:
        ValueError: a threshold that is not positive, or a checkpoint of another search.
    """
    if not threshold > 0:
        raise ValueError(f"the threshold must be positive, got {threshold}")
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
    """Whether no kept edge leaves the head or MLP that this reader belongs to."""
    node = runner.graph.readers[reader].split(".")[0]
    return node != "logits" and not kept[:, runner.graph.writers.index(node)].any()


def _identity(runner: EdgeRunner, start: Tensor, threshold: float, loss: float) -> str:
    """What a checkpoint belongs to: prompts, first edges, threshold, and the loss to begin with."""
    digest = hashlib.sha256(repr((threshold, f"{loss:.4e}")).encode())
    for tensor in (runner.base.tokens, start):
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
