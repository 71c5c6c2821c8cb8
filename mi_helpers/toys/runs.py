"""Training a toy: one loop that can stop and go on, and one way to keep a run or its weights.

A toy brings a configuration, a model and a `Run`, which says what the loss is, what is measured and
which optimiser takes the steps. `train` does the rest. Chance is in the seeds of a configuration
alone, so a run that was interrupted, or written by `save_state` and opened again, ends as if it had
not been.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mi_helpers.files import save_tensors
from mi_helpers.models.threads import one_thread

_WARMUP = 10
"""Steps over which the learning rate rises, unless a run has another schedule."""


class Settings(Protocol):
    """What the loop asks of a configuration, which is a dataclass."""

    @property
    def lr(self) -> float:
        """The learning rate."""

    @property
    def log_every(self) -> int:
        """Steps from one entry of the log to the next."""


C = TypeVar("C", bound=Settings)
M = TypeVar("M", bound=nn.Module)


class Run(Generic[C, M]):
    """A model on its way, with all that is needed to go on exactly where it stopped."""

    def __init__(self, config: C, model: M) -> None:
        """A run at step 0."""
        self.config, self.model, self.step = config, model, 0
        self.optimizer = self.new_optimizer()
        self.log: list[dict[str, Tensor]] = []
        """What `measures` found, and the "step" it was at."""
        self.weights: list[dict[str, Tensor]] = []
        """The weights at each entry of the log."""

    def new_optimizer(self) -> torch.optim.Optimizer:
        """What takes the steps."""
        raise NotImplementedError

    def loss(self) -> Float[Tensor, ""]:
        """The loss of this step."""
        raise NotImplementedError

    def measures(self) -> dict[str, Tensor]:
        """What is logged."""
        raise NotImplementedError

    def rate(self) -> float:
        """The learning rate of this step: it rises for ten steps and then stays."""
        return self.config.lr * min(1.0, (self.step + 1) / _WARMUP)

    def curve(self, name: str) -> Float[Tensor, "logged *any"]:
        """One measure over training; KeyError when nothing of that name is logged."""
        return torch.stack([row[name] for row in self.log])

    def model_at(self, logged: int) -> M:
        """The model as it was at one entry of the log."""
        model = deepcopy(self.model)
        model.load_state_dict(self.weights[logged])
        return model


R = TypeVar("R", bound=Run[Any, Any])


@one_thread()
def train(run: R, steps: int) -> R:
    """Train until `steps` steps are done in all, measuring every `log_every` and at the end.

    Args:
        run: At its start, or from here. It is changed.
        steps: How many in all.

    Raises:
        ValueError: No step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for step in range(run.step, steps):
        if step % run.config.log_every == 0:
            _log(run)
        descend(run.optimizer, run.loss(), run.rate())
        run.step = step + 1
    _log(run)
    return run


def descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], rate: float) -> None:
    """One step down a loss at a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seeded(seed: int, stream: int) -> torch.Generator:
    """The random numbers of one stream of a seed, apart from its others and from the weights'."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + stream)


def adamw(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of the toys that grok."""
    return torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=weight_decay, fused=True
    )


def _log(run: Run[Any, Any]) -> None:
    """Measure this step and keep its weights, unless that is done."""
    if not run.log or run.log[-1]["step"] != run.step:
        run.log.append({"step": torch.tensor(run.step), **run.measures()})
        run.weights.append({k: v.detach().clone() for k, v in run.model.state_dict().items()})


def save_state(run: Run[Any, Any], path: Path) -> None:
    """All that is needed to go on: weights, the optimiser's moments, what was logged."""
    state = {f"model.{name}": weight.detach() for name, weight in run.model.named_parameters()}
    for index, entry in run.optimizer.state_dict()["state"].items():
        state |= {f"adam.{index}.{name}": value for name, value in entry.items()}
    state |= {f"log.{name}": run.curve(name) for name in run.log[0]}
    for name in run.weights[0]:
        state[f"weights.{name}"] = torch.stack([weights[name] for weights in run.weights])
    state = {name: value.clone() for name, value in state.items()}
    save_tensors(path, state, step=str(run.step), config=repr(run.config))


def open_state(run: R, path: Path) -> R:
    """Take a run at its start to where `save_state` left it, or leave it where there is no state.

    Raises:
        ValueError: A state of another configuration.
    """
    if not path.is_file():
        return run
    with safe_open(path, "pt") as handle:
        notes = handle.metadata()
    if notes["config"] != repr(run.config):
        raise ValueError(f"{path} was begun with another configuration: delete it to begin anew")
    state = load_file(path)

    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

    run.model.load_state_dict(below("model."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in below("adam.").items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": moments})
    run.step, log, weights = int(notes["step"]), below("log."), below("weights.")
    run.log = [{k: v[i] for k, v in log.items()} for i in range(len(log["step"]))]
    run.weights = [{k: v[i] for k, v in weights.items()} for i in range(len(log["step"]))]
    return run


def save(model: nn.Module, config: Any, path: str | Path) -> None:
    """Write the weights in half precision, with their configuration, as safetensors."""
    state = {name: weight.half() for name, weight in model.state_dict().items()}
    save_tensors(path, state, config=json.dumps(asdict(config)))


K = TypeVar("K")


def load(
    path: str | Path, config: Callable[..., K], model: Callable[[K], M], maker: str
) -> tuple[M, K]:
    """The model of a file written by `save`, in single precision, and its configuration.

    Args:
        path: The file.
        config: Makes a configuration of its fields.
        model: Makes a model of a configuration.
        maker: The module that makes such files, for whoever has none.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file has no configuration, so it is not one of these models.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights {path}; python -m {maker} makes them")
    with safe_open(path, "pt") as handle:
        notes = handle.metadata() or {}
    if "config" not in notes:
        raise ValueError(f"{path} has no configuration: it was not written by toys.runs.save")
    found = json.loads(notes["config"])
    made = config(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
    loaded = model(made)
    loaded.load_state_dict(load_file(path))
    return loaded, made
