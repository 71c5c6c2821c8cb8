"""The card of the models that grok: measured on the committed files, in half precision."""

from __future__ import annotations

import json
from pathlib import Path

from mi_helpers.toys import modular

TEXT = """# Models that grok

A transformer of one layer that learns addition modulo 113 on {share:.0%} of all pairs: the model
of Nanda et al. 2023 ([arXiv:2301.05217](https://arxiv.org/abs/2301.05217)) in their sizes (width
{d_model}, {n_heads} heads, {d_mlp} neurons, ReLU, no LayerNorm, all training pairs in every step,
AdamW with weight decay {weight_decay:g}), with a learning rate of {lr:g} in place of theirs, 0.001.
For notebook 20.

```python
from importlib.resources import files

from mi_helpers.toys import modular

path = files("mi_data") / "grokking" / "addition_113" / "step_{last:05d}.safetensors"
model, config = modular.load(path)
```

`python -m mi_data.grokking.train` makes what is missing; its docstring states minutes and memory.
Runs with equal seeds are equal to the bit on one machine, also after an interruption.

## Checkpoints

As committed, in half precision. `addition_113/curves.safetensors` has the same measures
every {log_every} steps, of the weights in single precision.

| step | trained loss | held-out loss | trained right | held out right | weight norm |
|--:|--:|--:|--:|--:|--:|
{rows}

## The sweep

`sweep.json`: a model of {small_p} hours (width {small_width}, {small_mlp} neurons, learning rate
{small_lr:g}, weight decay {small_decay:g}, {small_share:.0%} of the pairs); one setting is varied,
{seeds} seeds each. `train` and `test` are accuracies at the steps of `step`. In this table: the
accuracy on held-out pairs at the end, mean of the seeds.

| varied | value | held out right |
|---|--:|--:|
{sweep}

## Limits

One run of one seed at 113 hours. Which frequencies it uses is chance. Held out are the pairs of
which neither (a, b) nor (b, a) was trained on: of the mirror images of trained pairs a model gets
some right that has only memorised. The papers count those among the held-out pairs.
"""


def card(folder: Path, name: str, small: modular.ModularConfig) -> str:
    """The card of what is in a folder.

    Args:
        folder: With the checkpoints and the sweep.
        name: The folder of the checkpoints in it.
        small: The configuration that the sweep varies.
    """
    rows, paths = [], sorted((folder / name).glob("step_*.safetensors"))
    _, config = modular.load(paths[-1])
    for path in paths:
        model, _ = modular.load(path)
        m = {key: value.item() for key, value in modular.measure(model, config).items()}
        losses = f"{m['train_loss']:.2g} | {m['test_loss']:.3g}"
        right = f"{m['train_accuracy']:.1%} | {m['test_accuracy']:.1%}"
        rows.append(f"| {int(path.stem[5:])} | {losses} | {right} | {m['weight_norm']:.1f} |")
    runs = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    ends: dict[tuple[str, float], list[float]] = {}
    for run in runs:
        ends.setdefault((run["varied"], run["value"]), []).append(run["test"][-1])
    words = {"weight_decay": "weight decay", "share": "share of the pairs"}
    lines = [
        f"| {words[k]} | {v:g} | {sum(x) / len(x):.1%} |" for (k, v), x in sorted(ends.items())
    ]
    return TEXT.format(
        share=config.share, d_model=config.d_model, n_heads=config.n_heads, d_mlp=config.d_mlp,
        weight_decay=config.weight_decay, lr=config.lr, log_every=config.log_every,
        last=int(paths[-1].stem[5:]), rows="\n".join(rows), sweep="\n".join(lines),
        small_p=small.p, small_width=small.d_model, small_mlp=small.d_mlp, small_share=small.share,
        small_lr=small.lr, small_decay=small.weight_decay, seeds=len({r["seed"] for r in runs}),
    )  # fmt: skip
