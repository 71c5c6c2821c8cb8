"""A cross-layer transcoder of pocket, and its control.

    python -m mi_data.transcoders.train_joint

About two minutes of one CPU core for each of six trainings, and 1.5 GiB. A cross-layer transcoder
[Ameisen et al. 2025] is one dictionary of all MLPs, trained jointly: units of a layer read its
MLP's normalised input and write to its output and to those of all later layers. The control,
"home", is the same but that units write to their own layer alone. Both have a linear skip for each
layer, as the transcoders of `train` have. Of three seeds, the first goes to
``data/transcoders/joint`` in half precision: ``across`` in circuit-tracer's layout, ``home`` in
SAELens's. All are measured on held-out text into ``measured.json``, which ``README.md`` tells;
``SHA256SUMS`` lists the files. A run that was stopped goes on from its last checkpoint in
``build/transcoders``; what is measured already is left alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mi_data.sae.train import token_rows
from mi_data.transcoders.train import HELD_OUT, ROWS, make, some
from torch import Tensor

from mi_helpers import checksums, sae
from mi_helpers.files import write_whole
from mi_helpers.metrics import loss
from mi_helpers.models import load_model
from mi_helpers.sae.cross_layer import by_layer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ACROSS = sae.Recipe(
    "batchtopk", d_sae=6 * 320, k=91, steps=400, batch=1024, lr=1e-2, skip=True, causal=True,
    log_every=100,
)  # fmt: skip
RECIPES = {"across": ACROSS, "home": replace(ACROSS, reach=0)}
SEEDS = 3
SEPARATE = "separate"
"""The committed transcoders of one layer each, which were trained apart."""
LINEAR = "linear"
"""Their linear parts, as they start: least-squares maps."""

TOLD = """# A cross-layer transcoder of pocket, and its control

One dictionary of all six MLPs, for the appendix of notebook 17: units of a layer read what its MLP
reads (`mlp_in`) and write to its output and to those of all later layers. `across` is that; in
`home`, the control, units write to their own layer's output alone: transcoders of one layer each,
trained together. Both: {units} units a layer, the {k} most active a token over all layers
(batchtopk, saved as jumprelu with one threshold), a linear map for each layer, {steps} steps of
{batch} tokens of pocket's corpus, the same that the transcoders in the folder above were trained
on; seed 0 is stored, in half precision.

```python
from importlib.resources import files

from mi_helpers import sae

joint = files("mi_data") / "transcoders" / "joint"
across = [sae.load(joint / "across")]
home = [sae.load(joint / "home" / f"mlp_{{layer}}") for layer in range(6)]
graph = sae.attribution_graph(model, across, tokens)
```

`across` is in circuit-tracer's layout for a cross-layer transcoder, which its `load_clt` reads; it
knows no linear map in files, so that `W_skip.safetensors` has to be set there by hand. (SAELens has
no format for one.) `home` is in SAELens's layout. `python -m mi_data.transcoders.train_joint` makes
what is missing, this page included.

| which | seed | explained, by layer | mean | active, by layer | in all | dead | nats added |
|---|--:|---|--:|---|--:|--:|--:|
"""
LEGEND = """
*Explained*: share of the variance of each MLP's output on held-out text, special tokens left alone,
where all units read the model's own stream; *dead*: units that never fire there; *nats added*: to
the next-token loss, when the predictions stand in for all MLPs at once, each reading what the
others have left. *Separate*: the {apart} transcoders of the folder above, with 768 units a layer
and 16 active; *linear*: the best linear maps alone.
"""


def of_all_layers(model: TransformerBridge, tokens: Tensor) -> sae.Activations:
    """What every MLP reads, side by side, and what every MLP writes."""
    layers = range(model.cfg.n_layers)
    reads, writes = ([(site, layer) for layer in layers] for site in ("mlp_in", "mlp_out"))
    return sae.Activations(model, reads, tokens, target=writes, buffer=tokens.numel())


@torch.no_grad()
def measure(
    model: TransformerBridge, transcoders: Sequence[sae.Sae], held_out: Tensor
) -> dict[str, Any]:
    """Scores on held-out rows: one cross-layer transcoder, or one of each layer."""
    own, earlier = by_layer(transcoders)
    stream = of_all_layers(model, held_out)
    n, widths = len(own), [one.d_in for one in own] + [one.d_out for one in own]
    parts = stream.chunk(0).split(widths, dim=1)
    acts = [one.encode(x) for one, x in zip(own, parts[:n], strict=True)]
    explained, active = [], []
    for i, (one, x, y) in enumerate(zip(own, parts[:n], parts[n:], strict=True)):
        left = y - one(x) - sum(acts[j] @ W_dec for j, W_dec in enumerate(earlier[i]))
        explained.append(float(1 - left.square().sum() / (y - y.mean(0)).square().sum()))
        active.append(float((acts[i] > 0).sum(1).float().mean()))
    rows, found = some(held_out), []
    for run in (nullcontext(), sae.splice_all(model, transcoders)):
        with run:
            found.append(float(loss(model(rows), rows).mean()))
    fires = torch.cat([(some_acts > 0).any(0) for some_acts in acts])
    return {
        "explained": [round(x, 4) for x in explained],
        "active": [round(x, 2) for x in active],
        "dead": round(float(1 - fires.float().mean()), 4),
        "loss": round(found[0], 4),
        "loss_replaced": round(found[1], 4),
    }


def stored(one: sae.Sae, folder: Path) -> list[sae.Sae]:
    """Written in half precision and opened again; one that crosses no layer as one of each."""
    if one.notes["recipe"]["reach"] is None:
        return [sae.load(sae.save(one, folder, half=True))]
    own, _ = by_layer([one])
    return [sae.load(sae.save(x, folder / f"mlp_{i}", half=True)) for i, x in enumerate(own)]


def linear_maps(stream: sae.Activations, separate: Sequence[sae.Sae]) -> list[sae.Sae]:
    """The least-squares map of every layer alone, as a transcoder without a unit that fires."""
    recipe = sae.Recipe("topk", d_sae=len(separate), k=1, skip=True, causal=True)
    start = sae.start(stream, recipe).sae()
    silent = replace(start, W_dec=torch.zeros_like(start.W_dec), kind="relu", k=None)
    silent = replace(silent, W_enc=torch.zeros_like(start.W_enc), b_enc=start.b_enc * 0 - 1)
    return by_layer([silent])[0]


def page(rows: Sequence[dict[str, Any]], recipe: sae.Recipe, layers: int) -> str:
    """The card, from what was measured."""
    lines = []
    for row in rows:
        explained, active = row["explained"], row["active"]
        cells = (
            row["which"],
            "-" if row["seed"] is None else str(row["seed"]),
            " ".join(f"{x:.3f}" for x in explained),
            f"{sum(explained) / len(explained):.3f}",
            " ".join(f"{x:.1f}" for x in active),
            f"{sum(active):.1f}",
            "-" if row["which"] == LINEAR else f"{row['dead']:.1%}",
            f"{row['loss_replaced'] - row['loss']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    facts = {"units": recipe.d_sae // layers, "apart": layers}
    facts |= {name: getattr(recipe, name) for name in ("k", "steps", "batch")}
    return TOLD.format(**facts) + "".join(lines) + LEGEND.format(**facts)


def finish(out: Path, rows: Sequence[dict[str, Any]], recipe: sae.Recipe, layers: int) -> None:
    """What was measured, the card, the checksums."""
    order = [*RECIPES, SEPARATE, LINEAR]
    rows = sorted(rows, key=lambda row: (order.index(row["which"]), row["seed"] or 0))
    with write_whole(out / "measured.json") as part:
        part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with write_whole(out / "README.md") as part:
        part.write_text(page(rows, recipe, layers), encoding="utf-8")
    there = sorted([*out.glob("*/**/*.safetensors"), *out.glob("*/**/cfg.json")])
    checksums.write(out, {path.relative_to(out).as_posix(): path for path in there})


def train_all(
    model: TransformerBridge,
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
    work: Path,
    separate: Sequence[sae.Sae],
    recipes: dict[str, sae.Recipe] | None = None,
    seeds: int = SEEDS,
) -> None:
    """Train and measure what is missing, seed after seed; the first seed's files are kept."""
    recipes, stream = recipes or RECIPES, of_all_layers(model, tokens)
    out.mkdir(parents=True, exist_ok=True)
    known, layers = out / "measured.json", model.cfg.n_layers
    rows = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else []

    def note(which: str, seed: int | None, get: Callable[[], Sequence[sae.Sae]]) -> None:
        if any((row["which"], row["seed"]) == (which, seed) for row in rows):
            return
        rows.append({"which": which, "seed": seed, **measure(model, get(), held_out)})
        print(rows[-1], flush=True)
        finish(out, rows, next(iter(recipes.values())), layers)

    note(SEPARATE, None, lambda: separate)
    note(LINEAR, None, lambda: linear_maps(stream, separate))
    for seed in range(seeds):
        for which, recipe in recipes.items():
            folder, path = (work if seed else out) / which, work / f"{which}_{seed}.safetensors"
            wanted = replace(recipe, seed=seed)
            note(which, seed, lambda w=wanted, f=folder, p=path: stored(make(stream, w, p), f))
    finish(out, rows, next(iter(recipes.values())), layers)


def main() -> None:
    """Train what is missing, and tell all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/transcoders/joint"))
    parser.add_argument("--work", type=Path, default=Path("build/transcoders"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    model = load_model("pocket")
    tokens, held_out = token_rows(model, ROWS, 781), token_rows(model, HELD_OUT, 782)
    folder = Path(__file__).parent
    separate = [sae.load(folder / f"mlp_{layer}") for layer in range(model.cfg.n_layers)]
    train_all(
        model, tokens, held_out, arguments.out, arguments.work, separate, seeds=arguments.seeds
    )


if __name__ == "__main__":
    main()
