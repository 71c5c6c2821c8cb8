"""Train the committed models that grok: ``python -m mi_data.grokking.train``.

``addition_113`` is the model of Nanda et al. 2023 in their sizes, with a larger learning rate and
weight decay, so that it takes minutes: half-precision weights at the steps of `KEPT`, and
`curves.safetensors`, all that was logged. ``sweep.json``: how smaller models do, by weight decay
and by the share of the pairs that they are trained on. ``README.md`` is the card. The first, when
stopped, goes on from its last state in ``build/grokking``; what is there already is left alone. On
one thread the first takes about two minutes, the sweep four, within 1 GiB of memory.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mi_data.grokking.card import card

from mi_helpers.files import save_tensors, write_whole
from mi_helpers.toys import modular, runs

NAME = "addition_113"
LARGE = modular.ModularConfig(
    p=113, d_model=128, n_heads=4, d_mlp=512, share=0.3, lr=5e-3, weight_decay=2.0, log_every=50
)
STEPS = 1200
KEPT = (0, 100, 300, 450, 550, 1200)
"""Whose weights are committed."""

SMALL = modular.ModularConfig(log_every=50)
SWEEP_STEPS = 1000
DECAYS, SHARES, SEEDS = (0.0, 1.0, 2.0, 3.0), (0.2, 0.26, 0.33, 0.5), (0, 1)
"""One is varied while the other stays as it is in `SMALL`."""


def large(out: Path, work: Path, every: int = 100) -> None:
    """Train the model at p = 113, or go on with it, and write what is committed of it."""
    state = work / f"{NAME}.safetensors"
    run = runs.open_state(modular.start(LARGE), state)
    while run.step < STEPS:
        runs.train(run, min(run.step + every, STEPS))
        runs.save_state(run, state)
        last = {name: round(value.item(), 5) for name, value in run.log[-1].items()}
        print(json.dumps(last), flush=True)
    (out / NAME).mkdir(exist_ok=True)
    steps = run.curve("step").tolist()
    for step in KEPT:
        model = run.model_at(steps.index(step))
        runs.save(model, LARGE, out / NAME / f"step_{step:05d}.safetensors")
    save_tensors(out / NAME / "curves.safetensors", {name: run.curve(name) for name in run.log[0]})


def sweep_configs() -> Iterator[tuple[str, modular.ModularConfig]]:
    """What is varied, and the configuration."""
    for seed in SEEDS:
        for decay in DECAYS:
            yield "weight_decay", replace(SMALL, weight_decay=decay, seed=seed)
        for share in SHARES:
            yield "share", replace(SMALL, share=share, seed=seed)


@functools.lru_cache
def small(config: modular.ModularConfig, steps: int) -> modular.ModularRun:
    """One small model, trained once."""
    return runs.train(modular.start(config), steps)


def sweep_row(varied: str, config: modular.ModularConfig) -> dict[str, Any]:
    """What was varied in a small model, and its accuracies every `log_every` steps."""
    run = small(config, SWEEP_STEPS)
    curves = {name: run.curve(f"{name}_accuracy") for name in ("train", "test")}
    return {
        "varied": varied,
        "value": getattr(config, varied),
        "seed": config.seed,
        "step": run.curve("step").tolist(),
        **{name: [round(x, 4) for x in curve.tolist()] for name, curve in curves.items()},
    }


def sweep(out: Path) -> None:
    """Train what is missing of the sweep; it is written when whole."""
    rows = []
    for varied, config in sweep_configs():
        rows.append(sweep_row(varied, config))
        print(varied, rows[-1]["value"], rows[-1]["test"][-1], flush=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    with write_whole(out / "sweep.json") as part:
        part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    """Train what is missing, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/grokking"))
    parser.add_argument("--work", type=Path, default=Path("build/grokking"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not (arguments.out / NAME / "curves.safetensors").is_file():
        large(arguments.out, arguments.work)
    if not (arguments.out / "sweep.json").is_file():
        sweep(arguments.out)
    (arguments.out / "README.md").write_text(card(arguments.out, NAME, SMALL), encoding="utf-8")


if __name__ == "__main__":
    main()
