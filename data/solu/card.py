"""Gather the logs of finished runs into ``losses.json`` and write the card.

``python -m mi_data.solu.card --runs build/solu`` takes each ``run.json`` that ``--export`` left
below that folder; without ``--runs`` the card alone is written, from what is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mi_helpers.files import write_whole

HERE = Path(__file__).resolve().parent
TEXT = """# Language models that differ in their MLPs

Transformers of GPT-2's shape, trained on [pocket's](../pocket/README.md) text. They differ in what
an MLP does between its two matrices, and in nothing else: those of one seed began with the same
weights and read the same rows in the same order. For notebook 22, after Elhage et al. 2022,
[Softmax Linear Units](https://transformer-circuits.pub/2022/solu/index.html).

```python
from mi_helpers.toys import solu

model = solu.load("solu_ln", seed=0)  # a TransformerBridge, checksums verified
```

| name | between the matrices |
|---|---|
| `gelu` | GELU, as in GPT-2 |
| `relu` | ReLU |
| `solu` | x · softmax(x) over the neurons of the layer |
| `solu_ln` | the same, then a LayerNorm (1) |
| `sparse` | GELU, with {kept:.0%} of the weights (2) |

1. Its gain and bias are folded into the committed weights of the second matrix.
2. Of each matrix of the blocks all but the largest weights are set to zero after every step; the
   share that stays falls from one, by equal factors a step, over the first half of training.

Size: {n_layers} layers, d_model {d_model}, {n_heads} heads, d_mlp {d_mlp}, context 128, pocket's
tokenizer. {tokens:.1f} million tokens in {steps} steps of {batch} rows; otherwise pocket's recipe,
which was settled for GELU. Nobody tuned a rate for SoLU.

## Runs

Loss in nats a token on 256 rows that none was trained on, repeated spans among them, by step. Runs
without weights are in `losses.json` only.

| model | weights | {heads} |
|---|:-:|{line}
{rows}

The loss falls late and suddenly in some runs and not in others: whether spans said again are
copied yet is chance, and decides the second digit. On text without them the runs of one kind lie
close together (notebook 22).

## Making them

`python -m mi_data.solu.train --activation solu_ln --seed 0 --out build/solu/solu_ln_0`, then the
same with `--export FOLDER`. The committed ones were trained side by side on one H200, about three
minutes each. On one thread of a CPU a run takes about twenty minutes, within 1.5 GiB of memory. It
resumes from its last checkpoint and then ends as if it had not stopped (tested on a CPU). A GPU and
a CPU sum in another order, and their weights differ.

## Limits

Three seeds of each kind at most, one of `sparse`; one size, one learning rate. Pocket's text has
few words and knows its own labels; nothing here is a finding about models of English.
"""


def gather(runs: Path) -> list[dict[str, Any]]:
    """One row for each exported run."""
    found = []
    for path in sorted(runs.glob("*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        kept = [{key: row[key] for key in ("step", "train", "held_out")} for row in run["log"]]
        found.append({"recipe": run["recipe"], "log": kept})
    return found


def row_of(run: dict[str, Any], steps: list[int]) -> str:
    """A row of the table of runs."""
    name = f"{run['recipe']['activation']}_{run['recipe']['seed']}"
    there = "yes" if (HERE / name / "model.safetensors").is_file() else ""
    losses = {row["step"]: f"{row['held_out']:.2f}" for row in run["log"]}
    return " | ".join([f"| `{name}`", there, *(losses.get(s, "") for s in steps)]) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path)
    runs = parser.parse_args().runs
    if runs:
        lines = ",\n".join(json.dumps(run) for run in gather(runs))
        with write_whole(HERE / "losses.json") as part:
            part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    found = json.loads((HERE / "losses.json").read_text(encoding="utf-8"))
    recipe, steps = found[0]["recipe"], [500, 1000, 1500, 2000, 2500, 3000]
    text = TEXT.format(
        **{key: recipe[key] for key in ("kept", "n_layers", "d_model", "n_heads")},
        d_mlp=4 * recipe["d_model"],
        tokens=recipe["tokens"] / 1e6,
        steps=recipe["tokens"] // (recipe["batch_rows"] * 128),
        batch=recipe["batch_rows"],
        heads=" | ".join(map(str, steps)),
        line="--:|" * len(steps),
        rows="\n".join(row_of(run, steps) for run in found),
    )
    (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
