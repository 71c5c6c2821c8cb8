"""Train the models with known circuits: ``python -m mi_data.known_circuits.train``.

``NAME.safetensors``: half-precision weights of one model, in Hugging Face's layout for GPT-2;
``README.md`` is the card. A run that was stopped goes on from its last state in
``build/known_circuits``; what is there is left alone. On one thread it takes minutes, within 1 GiB
of memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from mi_data.known_circuits.card import card
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from mi_helpers import checksums
from mi_helpers.files import write_whole
from mi_helpers.toys import interchange
from mi_helpers.toys.interchange import Recipe, Weights

Group = list[Recipe]

GROUPS = (
    [Recipe("count", seed=2), Recipe("count", strict=False)],
    [Recipe("count", "large")],
)
"""Those of a group are trained side by side, each as if it were alone."""
DRAWS = 6_000
"""How many texts with what is swapped in them; a step takes a batch of these."""


def rate(step: int, r: Recipe) -> float:
    """The learning rate: up over a hundred steps, then down to next to nothing."""
    return r.lr * min(1.0, (step + 1) / 100) * max(0.02, 1 - step / r.steps)


def save_state(weights: Weights, adam: AdamW, step: int, group: Group, path: Path) -> None:
    """Write all that is needed to go on."""
    state = {f"model {name}": value for name, value in weights.items()}
    moments = adam.state_dict()["state"]
    for name, index in zip(weights, sorted(moments), strict=True):
        state |= {f"{key} {name}": value for key, value in moments[index].items()}
    state = {name: value.detach().contiguous().clone() for name, value in state.items()}
    with write_whole(path) as part:
        save_file(state, part, metadata={"step": str(step), "recipes": repr(group)})


def open_state(weights: Weights, adam: AdamW, group: Group, path: Path) -> int:
    """Take weights and optimiser to where `save_state` left them, and return the step.

    Raises:
        ValueError: a state of other recipes.
    """
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as handle:
        notes = handle.metadata()
    if notes["recipes"] != repr(group):
        raise ValueError(f"{path} was begun with another recipe: delete it to begin anew")
    state, keys = load_file(path), ("step", "exp_avg", "exp_avg_sq")
    moments = {
        index: {key: state[f"{key} {name}"] for key in keys} for index, name in enumerate(weights)
    }
    adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(state[f"model {name}"])
    return int(notes["step"])


def clip(weights: Weights, most: float = 1.0) -> None:
    """Make each model's gradient no longer than `most`."""
    grads = [value.grad for value in weights.values() if value.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
    for grad in grads:
        grad.mul_((most / norms).clamp(max=1.0).view(-1, *[1] * (grad.ndim - 1)))


def train(group: Group, out: Path, work: Path, every: int = 100, until: int = 10**9) -> None:
    """Train models of one shape, or go on with them, to the end or to step `until`; write them."""
    work.mkdir(parents=True, exist_ok=True)
    r, weights = group[0], interchange.start(group)
    state = work / f"{r.name}.safetensors"
    adam = AdamW([value.requires_grad_() for value in weights.values()],
                 lr=r.lr, weight_decay=r.weight_decay, betas=(0.9, 0.98))  # fmt: skip
    drawn = [interchange.swaps(one.program, one.truth, DRAWS, one.seed) for one in group]
    for step in range(open_state(weights, adam, group, state), min(until, r.steps)):
        adam.param_groups[0]["lr"] = rate(step, r)
        each = interchange.losses(weights, group, drawn, step)
        adam.zero_grad()
        each.sum().backward()
        clip(weights)
        adam.step()
        if (step + 1) % every == 0 or step + 1 == r.steps:
            save_state(weights, adam, step + 1, group, state)
            lost = [round(x, 4) for x in each.tolist()]
            print(json.dumps({"model": r.name, "step": step + 1, "loss": lost}), flush=True)
    for i, one in enumerate(group if until >= r.steps else ()):
        if (out / f"{one.name}.safetensors").is_file():
            continue
        kept = {k: value[i].detach().half().contiguous() for k, value in weights.items()}
        with write_whole(out / f"{one.name}.safetensors") as part:
            save_file(kept, part, metadata={"format": "pt", "recipe": repr(one)})
            part.chmod(0o644)


def main() -> None:
    """Train what is missing, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/known_circuits"))
    parser.add_argument("--work", type=Path, default=Path("build/known_circuits"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for group in GROUPS:
        if not all((arguments.out / f"{one.name}.safetensors").is_file() for one in group):
            train(group, arguments.out, arguments.work)
    recipes = [one for group in GROUPS for one in group]
    names = [f"{one.name}.safetensors" for one in recipes]
    checksums.write(arguments.out, {name: arguments.out / name for name in names})
    with write_whole(arguments.out / "README.md") as part:
        part.write_text(card(recipes), encoding="utf-8")


if __name__ == "__main__":
    main()
