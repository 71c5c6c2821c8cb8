"""Train the committed SAEs of pocket: ``python -m mi_data.sae.train`` (hours on a CPU, resumable).

Each goes to ``data/sae/<name>``: `cfg.json` and `sae_weights.safetensors` in SAELens's layout, and
`README.md`, its card. A run that was stopped goes on from its last checkpoint in ``build/sae``; an
SAE that is there already is left alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mi_data.pocket import corpus
from torch import Tensor

from mi_helpers import sae
from mi_helpers.models import load_model

ROWS, HELD_OUT = 24_000, 256
STEPS_A_CHECKPOINT = 500
BASE = sae.Recipe("batchtopk", d_sae=1536, k=24, steps=6000, batch=2048, log_every=100)


@dataclass(frozen=True)
class Plan:
    """One SAE: where it reads, and how it is trained."""

    name: str
    hook: str
    recipe: sae.Recipe


def plans(n_layers: int) -> list[Plan]:
    """Every layer's residual stream; at the middle one also MLP output, widths, a second seed."""
    middle = n_layers // 2
    stream = "blocks.{}.hook_resid_post".format
    found = [Plan(f"resid_post_{i}", stream(i), BASE) for i in range(n_layers)]
    for name, change in {
        "narrow": {"d_sae": 512}, "wide": {"d_sae": 3072}, "seed_1": {"seed": 1},
    }.items():  # fmt: skip
        plan = Plan(f"resid_post_{middle}_{name}", stream(middle), replace(BASE, **change))
        found.append(plan)
    return [*found, Plan(f"mlp_out_{middle}", f"blocks.{middle}.hook_mlp_out", BASE)]


def token_rows(model: object, count: int, seed: int) -> Tensor:
    """Rows of fresh text of pocket's corpus, BOS first; see `mi_data.pocket.corpus.rows`."""
    rows = corpus.rows(model.tokenizer.backend_tokenizer, count, seed, 0.1)
    return torch.from_numpy((rows & (corpus.NOISE - 1)).astype("int64"))


def make(plan: Plan, model: object, tokens: Tensor, held_out: Tensor, out: Path, work: Path) -> str:
    """Train one SAE, or go on with it; write it with its card, which is returned."""
    stream = sae.Activations(model, plan.hook, tokens, buffer=1 << 18)
    checkpoint = work / f"{plan.name}.safetensors"
    run = sae.resume(checkpoint, stream) if checkpoint.is_file() else sae.start(stream, plan.recipe)
    if run.recipe != plan.recipe:
        raise ValueError(f"{checkpoint} was begun with another recipe: delete it to begin anew")
    while run.step < plan.recipe.steps:
        sae.train(run, min(run.step + STEPS_A_CHECKPOINT, plan.recipe.steps))
        run.save(checkpoint)
    trained = run.sae()
    fresh = sae.Activations(model, plan.hook, held_out, buffer=1 << 18, seed=1)
    text = card(plan, trained, sae.fidelity(trained, fresh.sample(20_000)),
                sae.splice_losses(model, trained, held_out[:64]))  # fmt: skip
    folder = sae.save(trained, out / plan.name)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def card(plan: Plan, trained: sae.Sae, found: sae.Fidelity, losses: sae.SpliceLosses) -> str:
    """What a user needs to know, measured on held-out text."""
    r = plan.recipe
    lines = {
        "site": f"`{plan.hook}` of {trained.model_id}, in compatibility mode",
        "kind": f"{r.kind}, k = {r.k}; saved as jumprelu with one threshold",
        "units": f"{r.d_sae}",
        "training": f"{r.steps} steps of {r.batch} activations, rate {r.lr}, seed {r.seed}",
        "active units a token": f"{found.l0:.1f}",
        "explained variance": f"{found.explained_variance:.3f}",
        "dead / dense units": f"{found.dead:.1%} / {found.dense:.1%}",
        "loss: clean, spliced, mean-, zero-ablated": (
            f"{losses.clean:.3f}, {losses.spliced:.3f}, {losses.mean:.3f}, {losses.zero:.3f} nats"
        ),
        "loss recovered (zero, mean)": (
            f"{losses.recovered():.3f}, {losses.recovered('mean'):.3f}"
        ),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
    note = "Measured on held-out text; the first position is left alone."
    return f"# {plan.name}\n\n| | |\n|---|---|\n{table}\n\n{note}\n"


def main() -> None:
    """Train what is missing, or only what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which to train; all by default")
    parser.add_argument("--out", type=Path, default=Path("data/sae"))
    parser.add_argument("--work", type=Path, default=Path("build/sae"))
    arguments = parser.parse_args()
    model = load_model("pocket")
    known = {plan.name: plan for plan in plans(model.cfg.n_layers)}
    if unknown := set(arguments.names) - set(known):
        parser.error(f"unknown {', '.join(sorted(unknown))}; there is {', '.join(known)}")
    tokens = token_rows(model, ROWS, 777)
    held_out = token_rows(model, HELD_OUT, 778)
    for name in arguments.names or known:
        if (arguments.out / name / "README.md").is_file():
            print(f"{name} is there")
            continue
        print(make(known[name], model, tokens, held_out, arguments.out, arguments.work))


if __name__ == "__main__":
    main()
