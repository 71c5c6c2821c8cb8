"""Train the committed SAEs of pocket: ``python -m mi_data.sae.train`` (two hours on one CPU core).

Each goes to ``data/sae/<name>``: `cfg.json` and `sae_weights.safetensors` in SAELens's layout, and
`README.md`, its card; ``data/sae/README.md`` lists them. A run that was stopped goes on from its
last checkpoint in ``build/sae``; an SAE that is there already is left alone. With ``--jobs 2`` two
sites are trained on at a time, each in a process of its own, and the files are the same to the bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mi_data.pocket import corpus
from mi_data.sae.cards import card, measure, table
from torch import Tensor

from mi_helpers import sae
from mi_helpers.models import load_model, untrained
from mi_helpers.sites import Place
from mi_helpers.spread import spread

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ROWS, HELD_OUT = 8_000, 256
BASE = sae.Recipe(
    "batchtopk", d_sae=1536, k=32, steps=4000, batch=2048, lr=8e-3, encoder_scale=1.0, log_every=100
)
KINDS = {
    "topk": replace(BASE, kind="topk"),
    "matryoshka": replace(BASE, prefixes=(48, 144, 336, 720)),
    "gated": replace(BASE, kind="gated", l1=1.15),
}


@dataclass(frozen=True)
class Plan:
    """One SAE: where it reads, and how it is trained."""

    name: str
    place: Place
    recipe: sae.Recipe = BASE
    untrained: bool = False
    """Read the same architecture with weights drawn anew: the control."""
    half: bool = False
    """Write numbers in half precision."""


def plans(n_layers: int) -> list[Plan]:
    """Every layer's residual stream; at the middle one also a second seed, widths, MLP output.

    Last come other kinds at the middle, with about as many active units, and its heads' output. The
    prefixes are the shares of Bussmann et al. 2025: 1/32, 3/32, 7/32 and 15/32 of the units.

    What reads the same site stands together, because the activations are read once.
    """
    middle = n_layers // 2
    here, name = ("resid_post", middle), f"resid_post_{middle}"
    return [
        Plan(name, here),
        Plan(f"{name}_seed_1", here, replace(BASE, seed=1)),
        Plan(f"{name}_narrow", here, replace(BASE, d_sae=512)),
        Plan(f"{name}_wide", here, replace(BASE, d_sae=3072)),
        Plan(f"mlp_out_{middle}", ("mlp_out", middle)),
        Plan(f"{name}_untrained", here, untrained=True),
        *(Plan(f"resid_post_{i}", ("resid_post", i)) for i in range(n_layers) if i != middle),
        *(Plan(f"{name}_{kind}", here, recipe, half=True) for kind, recipe in KINDS.items()),
        Plan(f"z_{middle}", ("z", middle), replace(BASE, d_sae=768), half=True),
    ]


def token_rows(model: TransformerBridge, count: int, seed: int) -> Tensor:
    """Rows of fresh text of pocket's corpus, BOS first; see `mi_data.pocket.corpus.rows`."""
    rows = corpus.rows(model.tokenizer.backend_tokenizer, count, seed, 0.1)
    return torch.from_numpy((rows & (corpus.NOISE - 1)).astype("int64"))


def make_all(
    model: TransformerBridge,
    wanted: Sequence[Plan],
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
    work: Path,
    jobs: int = 1,
) -> list[str]:
    """Train SAEs, or go on with them, and write them; their cards.

    Neighbours that read the same activations are one task, of which `jobs` are done at a time.
    """
    tasks = [list(group) for _, group in groupby(wanted, lambda plan: (plan.place, plan.untrained))]
    given = {"tokens": tokens, "held_out": held_out, "out": out, "work": work}
    alone = jobs == 1  # then each training's own bar is shown
    task = partial(make_some, **given, progress=alone)
    cards = spread(task, tasks, model=model, jobs=jobs, progress=not alone)
    return [text for some in cards for text in some]


def make_some(
    model: TransformerBridge,
    plans: Sequence[Plan],
    tokens: Tensor,
    held_out: Tensor,
    out: Path,
    work: Path,
    progress: bool,
) -> list[str]:
    """`make` for plans that read the same activations, which are computed once."""
    model = untrained(model) if plans[0].untrained else model
    stream = sae.Activations(model, plans[0].place, tokens, buffer=tokens.numel())
    return [make(plan, stream, held_out, out, work, progress) for plan in plans]


def make(
    plan: Plan,
    stream: sae.Activations,
    held_out: Tensor,
    out: Path,
    work: Path,
    progress: bool = True,
) -> str:
    """Train one SAE, or go on with it; write it with its card, which is returned."""
    checkpoint = work / f"{plan.name}.safetensors"
    run = sae.resume(checkpoint, stream) if checkpoint.is_file() else sae.start(stream, plan.recipe)
    if run.recipe != plan.recipe:
        raise ValueError(f"{checkpoint} was begun with another recipe: delete it to begin anew")
    trained = sae.train(run, progress=progress, save_to=checkpoint).sae()
    return judge(plan.name, trained, stream.model, held_out, out, half=plan.half)


def judge(
    name: str,
    trained: sae.Sae,
    model: TransformerBridge,
    held_out: Tensor,
    out: Path,
    *,
    half: bool = False,
) -> str:
    """Measure an SAE and write it with its card, which is returned."""
    notes = {**trained.notes, "measured": measure(model, trained, held_out)}
    trained = replace(trained, notes=notes)
    text = card(name, trained)
    folder = sae.save(trained, out / name, half=half)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Train what is missing, or only what is named, and list all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which to train; all by default")
    parser.add_argument("--judge", action="store_true", help="measure again what is there")
    parser.add_argument("--jobs", type=int, default=1, help="sites at a time; 1 by default")
    parser.add_argument("--out", type=Path, default=Path("data/sae"))
    parser.add_argument("--work", type=Path, default=Path("build/sae"))
    arguments = parser.parse_args()
    model = load_model("pocket")
    known = {plan.name: plan for plan in plans(model.cfg.n_layers)}
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown {', '.join(sorted(unknown))}; there is {', '.join(known)}")
    tokens, held_out = token_rows(model, ROWS, 777), token_rows(model, HELD_OUT, 778)
    missing = []
    for name in arguments.names or known:
        plan = known[name]
        if not (arguments.out / name / "README.md").is_file():
            missing.append(plan)
        elif arguments.judge:
            opened = sae.load(arguments.out / name)
            read = untrained(model) if plan.untrained else model
            print(judge(name, opened, read, held_out, arguments.out, half=plan.half))
        else:
            print(f"{name} is there")
    given = (tokens, held_out, arguments.out, arguments.work)
    for text in make_all(model, missing, *given, jobs=arguments.jobs):
        print(text)
    (arguments.out / "README.md").write_text(table(arguments.out), encoding="utf-8")


if __name__ == "__main__":
    main()
