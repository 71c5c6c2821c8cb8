"""The card of the networks that compose group elements, measured on the committed files."""

from __future__ import annotations

from pathlib import Path

import torch

from mi_helpers.toys import composition

TEXT = """# Networks that compose

Two embeddings, one ReLU layer, an unembedding: the model of Chughtai et al. 2023
([arXiv:2302.03025](https://arxiv.org/abs/2302.03025)), which answers a pair of elements of a finite
group with their product. Several seeds a group; a seed decides the first weights and which pairs
are held out. For notebook 21, which trains those of S4 itself.

```python
from importlib.resources import files

from mi_helpers.toys import composition

networks, config = composition.load(files("mi_data") / "groups" / "A5.safetensors")
```

`python -m mi_data.groups.train` makes what is missing; its docstring states minutes and memory.
Runs with equal seeds are equal to the bit on one machine, also after an interruption. {steps} steps
on all training pairs at once, AdamW with learning rate {lr:g} and weight decay {decay:g};
embeddings of {d_embed}, {d_hidden} hidden units.

As committed, in half precision:

| group | elements | seeds | pairs trained on | held-out pairs right, worst seed | median |
|---|--:|--:|--:|--:|--:|
{rows}

## Tried

With learning rate 0.005 and weight decay 1, S4 from 60% of its pairs is not learned in 800 steps;
with half of the pairs it is not learned at all in that time.
"""


@torch.no_grad()
def card(folder: Path, steps: int) -> str:
    """The card of what is in a folder, trained for so many steps."""
    rows = []
    for path in sorted(folder.glob("*.safetensors")):
        model, config = composition.load(path)
        measured = composition.CompositionRun(config, model).measures()["test_accuracy"]
        n = composition.group_of(config).order
        rows.append(f"| {config.group} | {n} | {len(config.seeds)} | {config.share:.0%} "
                    f"| {measured.min():.1%} | {measured.median():.1%} |")  # fmt: skip
    return TEXT.format(
        steps=steps, lr=config.lr, decay=config.weight_decay, d_embed=config.d_embed,
        d_hidden=config.d_hidden, rows="\n".join(rows),
    )  # fmt: skip
