"""Train pocket a little further: ``python -m mi_data.pocket.tuned.train``.

``--out build/tuned`` starts from the committed pocket, or goes on from its last checkpoint, writes
what was measured to ``measured.json`` and, at the end, with ``--export data/pocket/tuned/model``
the folder that ``transformers`` opens. All weights are trained, with AdamW, on rows of
`text.mixed`; half of its texts are drawn to show a change. ``--unchanged`` trains the control, on
the same texts as they were before. On one thread 70 seconds within 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mi_data.pocket.corpus import ROW
from mi_data.pocket.export import export, torch_state
from mi_data.pocket.generator import LATE_MIX, document
from mi_data.pocket.text import Sample
from mi_data.pocket.train import GPT2, Recipe, load_checkpoint, save_checkpoint
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from mi_helpers import checksums
from mi_helpers.files import write_whole

from .text import CHANGES, bad_words, change, changed_by, draw, mixed

POCKET = Path(__file__).resolve().parents[1] / "model"


@dataclass(frozen=True)
class Tuning:
    """All that decides the weights."""

    steps: int = 150
    batch_rows: int = 16
    lr: float = 2e-4
    often: float = 0.5
    seed: int = 0
    changed: bool = True


def pocket() -> GPT2:
    """The committed pocket, to be trained."""
    model = GPT2(Recipe())
    model.load_state_dict(torch_state(load_file(POCKET / "model.safetensors"), Recipe().n_layers))
    return model


def rows(tokenizer: Tokenizer, count: int, r: Tuning) -> np.ndarray:
    """``count`` rows of `ROW` tokens, documents behind BOS, the last one cut [count ROW]."""
    rng, flat, out = random.Random(r.seed), [], []
    while len(out) < count:
        if len(flat) >= ROW:
            out.append(flat[:ROW])
            flat = []
        flat += [0, *tokenizer.encode(mixed(rng, r.often, changed=r.changed).text).ids]
    return np.array(out, dtype=np.int64)


def _prepare(folder: Path, r: Tuning) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "tuning.json"
    if told.exists() and json.loads(told.read_text()) != asdict(r):
        raise ValueError(f"{folder} holds a run with another recipe; choose another --out")
    for name, text in (
        ("tuning.json", json.dumps(asdict(r), indent=2)),
        ("recipe.json", json.dumps(asdict(Recipe()), indent=2)),
        ("tokenizer.json", (POCKET / "tokenizer.json").read_text(encoding="utf-8")),
    ):
        with write_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(POCKET / "tokenizer.json"))
    return rows(tokenizer, r.steps * r.batch_rows, r)


def train(folder: Path, r: Tuning, stop: int | None = None) -> GPT2:
    """Train to the end, or until ``stop`` steps are done; a checkpoint every 50 steps."""
    data, model = _prepare(folder, r), pocket()
    opt = torch.optim.AdamW(model.parameters(), r.lr, betas=(0.9, 0.98), weight_decay=0.0)
    last = min(r.steps, stop or r.steps)
    for step in range(load_checkpoint(folder, model, [opt]), last):
        for group in opt.param_groups:
            group["lr"] = r.lr * min(1.0, (step + 1) / 20) * (1 - step / r.steps)
        batch = torch.from_numpy(data[step * r.batch_rows : (step + 1) * r.batch_rows])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if (step + 1) % 50 == 0 or step + 1 == last:
            print(step + 1, round(loss.item(), 3), flush=True)
            save_checkpoint(folder, step + 1, model, [opt])
    return model


@torch.no_grad()
def log_probs(model: GPT2, tokens: Tensor) -> Tensor:
    """Log probabilities of the next token, in single precision [pos d_vocab]."""
    return F.log_softmax(model.stream(tokens[None])[0] @ model.wte.weight.T, -1)


def new_words(model: GPT2, tokenizer: Tokenizer, text: Sample) -> tuple[float, bool]:
    """Loss of a changed text's first new word, and whether it is the best guess.

    For "brother" any bad word counts as right, as none is determined.
    """
    span = next(s for s in text.spans if s.role in CHANGES)
    cut = text.text.index(" ", span.start)
    found = tokenizer.encode(text.text)
    at = next(i for i, (start, end) in enumerate(found.offsets) if end > cut)
    logp = log_probs(model, torch.tensor([0, *found.ids]))[at]
    right = {found.ids[at]}
    if span.role == "brother":
        right = {tokenizer.encode(f" {word}").ids[0] for word in bad_words(text)}
    return -float(logp[found.ids[at]]), int(logp.argmax()) in right


def measure(models: dict[str, GPT2], count: int = 200) -> dict[str, dict[str, float]]:
    """By model: how often each change is shown on texts not trained on, loss on unchanged ones."""
    tokenizer = Tokenizer.from_file(str(POCKET / "tokenizer.json"))
    rng, kept, texts = random.Random(987_654), [], {}
    while len(kept) < count:
        text = document(rng, "test", mix=LATE_MIX)
        if not changed_by(change(text)):
            kept.append(torch.tensor([0, *tokenizer.encode(text.text).ids]))
    texts = {kind: [draw(kind, rng, "test") for _ in range(count // 2)] for kind in CHANGES}
    out = {}
    for name, model in models.items():
        parts = [-log_probs(model, t)[:-1].gather(1, t[1:, None])[:, 0] for t in kept]
        out[name] = {"loss": round(float(torch.cat(parts).mean()), 4)}
        for kind, some in texts.items():
            shown = [new_words(model, tokenizer, text)[1] for text in some]
            out[name][kind] = round(sum(shown) / len(shown), 4)
    return out


def export_beside(run: Path, folder: Path) -> None:
    """Write the Hugging Face folder, but for the tokenizer: that is pocket's, and checked there."""
    export(run, folder)
    tokenizer = ("tokenizer.json", "tokenizer_config.json")
    checksums.write(
        folder,
        {
            f"../../model/{name}" if name in tokenizer else name: folder / name
            for name in checksums.read(folder)
        },
    )
    for name in tokenizer:
        (folder / name).unlink()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/tuned"))
    parser.add_argument("--steps", type=int, default=Tuning.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unchanged", action="store_true", help="train the control")
    parser.add_argument("--export", type=Path, help="write the Hugging Face folder here")
    args = parser.parse_args()
    tuning = Tuning(steps=args.steps, seed=args.seed, changed=not args.unchanged)
    model, name = train(args.out, tuning), "pocket-control" if args.unchanged else "pocket-tuned"
    measured = measure({"pocket": pocket(), name: model})
    with write_whole(args.out / "measured.json") as part:
        part.write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured))
    if args.export:
        export_beside(args.out, args.export)


if __name__ == "__main__":
    main()
