"""What is said of the committed SAEs: measured once, kept in `cfg.json`, told from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mi_helpers import sae

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LISTED = """# Sparse autoencoders of pocket

Trained on fresh text of pocket's corpus, for notebooks 10, 11 and 24: the residual stream after
every layer; at the middle layer also a second seed (what is stable?), two more widths (what
splits?), three more kinds (TopK, Matryoshka and gated), the MLP's output, the heads' output (`z`),
and the residual stream of an untrained model (the control): the same architecture with weights
drawn anew, as `transformers` draws them. The three kinds and the heads' are in half precision.

```python
from importlib.resources import files

from mi_helpers import sae

opened = sae.load(files("mi_data") / "sae" / "resid_post_3")
```

The files are in SAELens's layout: `SAE.load_from_disk` opens them too. `python -m
mi_data.sae.train` makes what is missing, this table included; delete a folder to train it anew.
All is measured on held-out text, BOS left alone.

"""
COLUMNS = {
    "SAE": "",
    "units": "",
    "L0": "active units on a token",
    "explained variance": "",
    "dead": "share of units that never fire",
    "nats added": "by splicing the reconstruction in",
    "loss recovered": "against mean ablation",
}


def measure(model: TransformerBridge, trained: sae.Sae, held_out: Tensor) -> dict[str, float]:
    """Scores of an SAE on held-out rows of tokens, rounded as they are told."""
    rows = len(held_out)
    stream = sae.Activations(model, trained.hook, held_out, buffer=held_out.numel())
    found = sae.fidelity(trained, stream.chunk(0))
    losses = sae.splice_losses(model, trained, held_out[: max(1, rows // 4)])
    scores = {
        "l0": found.l0,
        "explained_variance": found.explained_variance,
        "dead": found.dead,
        "dense": found.dense,
        "norm_ratio": found.norm_ratio,
        "loss": losses.clean,
        "loss_spliced": losses.spliced,
        "loss_mean_ablated": losses.mean,
        "loss_zero_ablated": losses.zero,
    }
    return {name: round(value, 4) for name, value in scores.items()}


def recovered(m: dict[str, float], against: str) -> str:
    """The share of the loss recovered, or a dash where ablation costs (nearly) nothing."""
    cost = m[f"loss_{against}_ablated"] - m["loss"]
    return f"{1 - (m['loss_spliced'] - m['loss']) / cost:.3f}" if cost > 0.1 else "-"


def card(name: str, trained: sae.Sae) -> str:
    """What a user needs to know of one SAE."""
    r, m = trained.notes["recipe"], trained.notes["measured"]
    losses = (m[f"loss{which}"] for which in ("", "_spliced", "_mean_ablated", "_zero_ablated"))
    lines = {
        "site": f"`{trained.hook}` of {trained.model_id}, in compatibility mode",
        "kind": kind_of(r),
        "units": f"{trained.d_sae}",
        "training": f"{r['steps']} steps of {r['batch']}, rate {r['lr']}, seed {r['seed']}",
        "active units a token": f"{m['l0']:.1f}",
        "explained variance": f"{m['explained_variance']:.3f}",
        "length of the reconstruction": f"{m['norm_ratio']:.3f} of the input's",
        "dead / dense units": f"{m['dead']:.1%} / {m['dense']:.1%}",
        "loss: clean, spliced, mean-, zero-ablated": ", ".join(f"{x:.3f}" for x in losses)
        + " nats",
        "loss recovered (mean, zero)": f"{recovered(m, 'mean')}, {recovered(m, 'zero')}",
    }
    text = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
    note = "Measured on held-out text; BOS is left alone."
    return f"# {name}\n\n| | |\n|---|---|\n{text}\n\n{note}\n"


def kind_of(r: dict[str, Any]) -> str:
    """What a recipe trains, and as what it is saved."""
    if r["kind"] == "relu":
        return f"relu, l1 = {r['l1']}"
    if r["kind"] == "gated":
        return f"gated, l1 = {r['l1']}; saved as the jumprelu that it equals"
    said = f"{r['kind']}, k = {r['k']}"
    if r.get("prefixes"):
        said += f", Matryoshka with prefixes {', '.join(map(str, r['prefixes']))}"
    return said + "; saved as jumprelu with one threshold" * (r["kind"] == "batchtopk")


def table(folder: Path) -> str:
    """The list of all SAEs in `folder`, from their configs."""
    rows = [f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|"]
    for path in sorted(folder.glob("*/cfg.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        m, name = config["metadata"]["measured"], path.parent.name
        cells = (
            f"[{name}]({name}/README.md)",
            str(config["d_sae"]),
            f"{m['l0']:.1f}",
            f"{m['explained_variance']:.3f}",
            f"{m['dead']:.1%}",
            f"{m['loss_spliced'] - m['loss']:.3f}",
            recovered(m, "mean"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    legend = "; ".join(f"*{name}*: {said}" for name, said in COLUMNS.items() if said)
    return LISTED + "\n".join(rows) + f"\n\n{legend[0].upper()}{legend[1:]}.\n"
