#!/usr/bin/env python3
"""The tuned lens of notebook 16 beside the tuned-lens package's, at equal steps.

    python benchmarks/bench_lens.py            some minutes; fills the README here
    python benchmarks/bench_lens.py 1 10       one draw of documents, ten times the steps for the
                                               package; writes nothing

Our lens is trained by the notebook's own cells on pocket. The package's (in an environment of its
own, see peers.py) gets the same streams and the same tokens at each step: its lens, optimiser,
schedule, clipping and half-precision products, as its training script has them, by SGD as it does
by default and by Adam. All are judged on the same held-out tokens: KL from the model's prediction,
for each layer, mean over three draws of documents.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import REQUIREMENTS, ROOT, PeerError, make
from record import record
from safetensors.torch import save_file

import mi_helpers as mi

sys.path.insert(0, str(ROOT / "tools"))
from build_notebooks import read_source  # noqa: E402

SEEDS, LAST = 3, "distances |="
MODEL = ROOT / "data" / "pocket" / "model"
OPTIMISERS = ("sgd", "adam")
"""The package's; the first is its default."""


def notebook(seed: int) -> dict[str, Any]:
    """What notebook 16 has at hand where its lenses are first judged, from other documents."""
    source = read_source(ROOT / "notebooks" / "src" / "16_tuned_lens.py")
    space: dict[str, Any] = {"mi": mi, "torch": torch, "figures": mi.figures}
    space["model"] = mi.load_model("pocket", device="cpu")
    grad = torch.is_grad_enabled()
    for cell in source.cells:
        if cell.cell_type != "code" or {"exercise", "check"} & {*cell.metadata.get("tags", [])}:
            continue
        text = cell.source.replace("seed, by_size = 0,", f"seed, by_size = {seed},")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "notebook 16", "exec"), space)
        if LAST in text:
            break
    torch.set_grad_enabled(grad)
    return space


def by_package(
    space: dict[str, Any], seed: int, steps: int, python: Path
) -> dict[str, list[float]]:
    """KL of the package's lenses before each layer, by its optimiser."""
    draw = torch.Generator().manual_seed(seed)
    fit, batch = space["fit"], space["batch"]
    chosen = torch.randint(fit.shape[1], (steps, batch), generator=draw)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {"fit": fit, "test": space["test"], "final": space["final"], "chosen": chosen}
        save_file({n: x.detach().contiguous() for n, x in parts.items()}, folder / "in.safetensors")
        asked = {"model": str(MODEL), "optimisers": OPTIMISERS}
        (folder / "in.json").write_text(json.dumps(asked), encoding="utf-8")
        script = Path(__file__).with_name("tuned_lens_side.py")
        done = subprocess.run([python, script, folder], capture_output=True, text=True)
        if done.returncode:
            raise PeerError(done.stderr[-1000:])
        return json.loads((folder / "out.json").read_text())


def row(name: str, found: list[torch.Tensor], steps: int) -> dict[str, Any]:
    """A line of the table: for each layer the mean over draws, and the spread of their means."""
    each = torch.stack(found)
    line: dict[str, Any] = {"lens": name, "steps": steps}
    line |= {f"before layer {i}": f"{x:.3f}" for i, x in enumerate(each.mean(0).tolist())}
    low, high = each.mean(1).aminmax()
    return line | {"mean": f"{each.mean():.3f}", "over draws": f"{low:.3f} to {high:.3f}"}


def main(seeds: int = SEEDS, times: int = 1, write: bool = True) -> None:
    """Measure, print; write the table."""
    python = make("tuned-lens")
    torch.set_num_threads(1)
    found: dict[str, list[torch.Tensor]] = {}
    steps = batch = 0
    for seed in range(seeds):
        space = notebook(seed)
        steps, batch = space["steps"], space["batch"]
        mine = {f"ours: {name}": line for name, line in space["distances"].items()}
        theirs = by_package(space, seed, times * steps, python)
        theirs = {f"package: {name}": torch.tensor(line) for name, line in theirs.items()}
        for name, line in (mine | theirs).items():
            found.setdefault(name, []).append(line)
        print(seed, {name: round(float(lines[-1].mean()), 4) for name, lines in found.items()})
    took = {f"package: {name}": times * steps for name in OPTIMISERS}
    took |= {"ours: logit lens": 0, "ours: tuned lens": steps, "ours: least squares": 0}
    rows = [row(name, found[name], took[name]) for name in sorted(took)]
    if write:
        note = (
            f"{' '.join(REQUIREMENTS['tuned-lens'])}, torch {torch.__version__.split('+')[0]}; "
            f"batches of {batch} tokens; KL in nats on held-out text, mean over {seeds} draws of "
            "documents, and the means of the draws."
        )
        record("lens", rows, note.replace("==", " "))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]), write=not sys.argv[1:])
