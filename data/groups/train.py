"""Train the committed networks that compose group elements: ``python -m mi_data.groups.train``.

``NAME.safetensors``: half-precision weights of all seeds of one group; ``README.md`` is the card.
What was stopped goes on from its last state in ``build/groups``; what is there is left alone. On
one thread about six minutes in all, four of them for S5, within 1 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mi_data.groups.card import card

from mi_helpers.toys import composition, runs
from mi_helpers.toys.composition import CompositionConfig

STEPS = 2000
CONFIGS = (
    CompositionConfig("C31", seeds=tuple(range(8))),
    CompositionConfig("D15", seeds=tuple(range(8))),
    CompositionConfig("A5", seeds=tuple(range(8)), share=0.5),
    CompositionConfig("S5", seeds=tuple(range(4)), share=0.5),
)


def train(config: CompositionConfig, out: Path, work: Path, every: int = 100) -> None:
    """Train one group's networks, or go on with them, and write their weights."""
    state = work / f"{config.group}.safetensors"
    run = runs.open_state(composition.start(config), state)
    while run.step < STEPS:
        runs.train(run, min(run.step + every, STEPS))
        runs.save_state(run, state)
        right = [round(x, 3) for x in run.log[-1]["test_accuracy"].tolist()]
        print(json.dumps({"group": config.group, "step": run.step, "right": right}), flush=True)
    runs.save(run.model, config, out / state.name)


def main() -> None:
    """Train what is missing, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/groups"))
    parser.add_argument("--work", type=Path, default=Path("build/groups"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for config in CONFIGS:
        if not (arguments.out / f"{config.group}.safetensors").is_file():
            train(config, arguments.out, arguments.work)
    (arguments.out / "README.md").write_text(card(arguments.out, STEPS), encoding="utf-8")


if __name__ == "__main__":
    main()
