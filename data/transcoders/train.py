"""Train the committed transcoders of pocket: ``python -m mi_data.transcoders.train``.

A skip transcoder [Dunefsky et al. 2024, Paulo et al. 2025] for every layer: it reads the normalised
input of the MLP and predicts the MLP's output, by a linear map and `k` of its units. Each goes to
``data/transcoders/mlp_<layer>`` in SAELens's layout and half precision, with what was measured on
held-out text in its `cfg.json`; ``README.md`` tells it and ``SHA256SUMS`` lists the files. A run
that was stopped goes on from its last checkpoint in ``build/transcoders``; what is there already is
left alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mi_data.sae.train import token_rows
from torch import Tensor

from mi_helpers import checksums, sae
from mi_helpers.files import write_whole
from mi_helpers.models import load_model
from mi_helpers.sites import place_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ROWS, HELD_OUT = 500, 64
RECIPE = sae.Recipe(
    "topk", d_sae=768, k=16, steps=400, batch=1024, lr=1e-2, skip=True, log_every=100
)
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

TOLD = """# Transcoders of pocket

A skip transcoder for the MLP of every layer, for notebook 17: it reads what the MLP reads (the
stream after LayerNorm, `mlp_in`) and predicts what the MLP writes (`mlp_out`), by a linear map and
the {k} most active of its {d_sae} units. Trained on fresh text of pocket's corpus, {steps} steps of
{batch} tokens, seed {seed}; stored in half precision.

```python
from importlib.resources import files

from mi_helpers import sae

opened = sae.load(files("mi_data") / "transcoders" / "mlp_3")
```

The files are in SAELens's layout (it has no skip transcoder of the kind "topk"; the name that its
names imply is used). `python -m mi_data.transcoders.train` makes what is missing, this page
included; delete a folder to train it anew.

| layer | explained | linear map | SAE | active units | dead | nats added | nats added, SAE |
|--:|--:|--:|--:|--:|--:|--:|--:|
"""
LEGEND = """
*Explained*: share of the variance of the MLP's output on held-out text, special tokens left alone;
*linear map*: of the least-squares map that the skip started as; *SAE*: of an SAE of the same width
and number of active units, trained the same, which reads the very output that it explains; *dead*:
units that never fire on the held-out text; *nats added*: to the next-token loss, when the
prediction stands in for the MLP's output. Mean-ablating the output costs {costs} nats, from the
first layer to the last.
"""


def pairs(model: TransformerBridge, layer: int, tokens: Tensor) -> sae.Activations:
    """What the MLP of a layer reads and what it writes, on `tokens`, held at once."""
    return sae.Activations(
        model, ("mlp_in", layer), tokens, target=("mlp_out", layer), buffer=tokens.numel()
    )


def make(stream: sae.Activations, recipe: sae.Recipe, checkpoint: Path) -> sae.Sae:
    """Train a transcoder, or go on with one."""
    run = sae.resume(checkpoint, stream) if checkpoint.is_file() else sae.start(stream, recipe)
    if run.recipe != recipe:
        raise ValueError(f"{checkpoint} was begun with another recipe: delete it to begin anew")
    return sae.train(run, save_to=checkpoint).sae()


def measure(
    model: TransformerBridge, trained: sae.Sae, stream: sae.Activations, held_out: Tensor
) -> dict[str, float]:
    """Scores on held-out rows of tokens, beside the least-squares map of the stream's."""
    x, y = (
        pairs(model, layer_of(trained), held_out).chunk(0).split([trained.d_in, trained.d_out], 1)
    )
    started = sae.start(stream, sae.Recipe("topk", d_sae=1, k=1, skip=True)).sae()
    linear = replace(started, W_dec=torch.zeros_like(started.W_dec))
    found = sae.fidelity(trained, x, y)
    losses = sae.splice_losses(model, trained, some(held_out))
    scores = {
        "explained_variance": found.explained_variance,
        "explained_by_linear_map": sae.fidelity(linear, x, y).explained_variance,
        "l0": found.l0,
        "dead": found.dead,
        "loss": losses.clean,
        "loss_spliced": losses.spliced,
        "loss_mean_ablated": losses.mean,
    }
    return {name: round(value, 4) for name, value in scores.items()}


def compare(
    model: TransformerBridge,
    trained: sae.Sae,
    stream: sae.Activations,
    held_out: Tensor,
    checkpoint: Path,
) -> dict[str, float]:
    """The same of an SAE of the output, with as many units and as many of them active."""
    recipe = replace(sae.Recipe(**trained.notes["recipe"]), skip=False)
    other = make(sae.Vectors(stream.chunk(0)[:, trained.d_in :]), recipe, checkpoint)
    other = replace(other, hook=trained.target, model_id=trained.model_id)
    y = pairs(model, layer_of(trained), held_out).chunk(0)[:, trained.d_in :]
    scores = {
        "explained_by_sae": sae.fidelity(other, y).explained_variance,
        "loss_spliced_sae": sae.splice_losses(model, other, some(held_out)).spliced,
    }
    return {name: round(value, 4) for name, value in scores.items()}


def layer_of(trained: sae.Sae) -> int:
    """The layer whose MLP a transcoder stands in for."""
    place = place_of(trained.target)
    assert place is not None
    return place[1]


def some(rows: Tensor) -> Tensor:
    """The rows on which whole passes of the model are judged."""
    return rows[: max(1, len(rows) // 2)]


def publish(trained: sae.Sae, scores: dict[str, float], out: Path) -> sae.Sae:
    """Write a transcoder with its scores, and what tells of all of them; as its file gives it."""
    notes = {**trained.notes, "measured": {**trained.notes.get("measured", {}), **scores}}
    folder = out / f"mlp_{layer_of(trained)}"
    sae.save(replace(trained, notes=notes), folder, half=True)
    finish(out)
    print(f"{folder.name}: {scores}", flush=True)
    return sae.load(folder)


def page(out: Path) -> str:
    """The card of all transcoders in `out`, from their configs."""
    lines, recipe, costs = [], {}, []
    for path in sorted(out.glob(f"mlp_*/{CONFIG}"), key=lambda p: int(p.parent.name[4:])):
        notes = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        m, recipe = notes["measured"], notes["recipe"]
        costs.append(f"{m['loss_mean_ablated'] - m['loss']:.3f}")
        compared = "explained_by_sae" in m
        cells = (
            path.parent.name[4:],
            *(f"{m[f'explained_{name}']:.3f}" for name in ("variance", "by_linear_map")),
            f"{m['explained_by_sae']:.3f}" if compared else "-",
            f"{m['l0']:.1f}",
            f"{m['dead']:.1%}",
            f"{m['loss_spliced'] - m['loss']:.3f}",
            f"{m['loss_spliced_sae'] - m['loss']:.3f}" if compared else "-",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return TOLD.format(**recipe) + "".join(lines) + LEGEND.format(costs=", ".join(costs))


def finish(out: Path) -> None:
    """The card, and the checksums of all files of weights and settings."""
    names = sorted(path for name in (WEIGHTS, CONFIG) for path in out.glob(f"mlp_*/{name}"))
    with write_whole(out / "README.md") as part:
        part.write_text(page(out), encoding="utf-8")
    checksums.write(out, {path.relative_to(out).as_posix(): path for path in names})


def train_all(
    model: TransformerBridge,
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
    work: Path,
    recipe: sae.Recipe = RECIPE,
) -> None:
    """Train what is missing, layer after layer; then the SAEs that they are compared with.

    Each is measured as its file in half precision gives it, and published at once.
    """
    layers = range(model.cfg.n_layers)
    for layer in layers:
        if (out / f"mlp_{layer}" / WEIGHTS).is_file():
            print(f"mlp_{layer} is there")
            continue
        stream = pairs(model, layer, tokens)
        name = f"mlp_{layer}"
        trained = make(stream, recipe, work / f"{name}.safetensors")
        trained = sae.load(sae.save(trained, work / name, half=True))
        publish(trained, measure(model, trained, stream, held_out), out)
    for layer in layers:
        trained = sae.load(out / f"mlp_{layer}")
        if "explained_by_sae" in trained.notes["measured"]:
            continue
        stream, checkpoint = pairs(model, layer, tokens), work / f"sae_{layer}.safetensors"
        publish(trained, compare(model, trained, stream, held_out, checkpoint), out)
    finish(out)


def main() -> None:
    """Train what is missing, and tell all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/transcoders"))
    parser.add_argument("--work", type=Path, default=Path("build/transcoders"))
    arguments = parser.parse_args()
    model = load_model("pocket")
    tokens, held_out = token_rows(model, ROWS, 781), token_rows(model, HELD_OUT, 782)
    train_all(model, tokens, held_out, arguments.out, arguments.work)


if __name__ == "__main__":
    main()
