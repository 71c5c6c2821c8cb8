"""Train the models that differ in their MLPs: ``python -m mi_data.solu.train``.

``--activation gelu --seed 0 --out build/solu/gelu_0`` trains one model on pocket's text, or goes on
with it from its last checkpoint; ``--export FOLDER`` beside the same ``--out`` writes its weights
in half precision, as Hugging Face keeps a GPT-2. ``--prepare`` makes the text alone, two minutes.
All models of a seed begin with the same weights and read the same rows in the same order. On one
thread a model takes about fifteen minutes, on a GPU less than one, within 1.5 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mi_data.pocket.corpus import NOISE, rows
from mi_data.pocket.export import config, hugging_face_state
from mi_data.pocket.generator import LATE_MIX
from mi_data.pocket.train import (
    GPT2,
    Block,
    Recipe,
    load_checkpoint,
    optimisers,
    prepare,
    rate,
    save_checkpoint,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from mi_helpers import checksums
from mi_helpers.files import save_tensors, write_whole

POCKET = Path(__file__).resolve().parents[1] / "pocket" / "model"


def solu(hidden: Tensor) -> Tensor:
    """Softmax linear units: every neuron times its share among the neurons of its layer."""
    return hidden * hidden.softmax(-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda hidden: F.gelu(hidden, approximate="tanh"),
    "relu": F.relu,
    "solu": solu,
    "solu_ln": solu,
    "sparse": lambda hidden: F.gelu(hidden, approximate="tanh"),
}
"""``solu_ln`` has a LayerNorm behind it; ``sparse`` is ``gelu`` with few weights that are not 0."""

NAMES = {
    "gelu": "gelu_new",
    "relu": "relu",
    "solu": "softmax_linear",
    "solu_ln": "softmax_linear_norm",
    "sparse": "gelu_new",
}
"""In ``config.json``, as ``mi_helpers.toys.solu`` makes them known to ``transformers``."""


@dataclass(frozen=True)
class SoluRecipe(Recipe):
    """Pocket's recipe at half its width and depth. The text is that of seed 0 for all."""

    n_layers: int = 3
    d_model: int = 96
    n_heads: int = 3
    tokens: int = 12_288_000
    activation: str = "gelu"
    kept: float = 0.1
    """The share of each matrix that a ``sparse`` model ends with."""


class AnyBlock(Block):
    """Pocket's block with another activation."""

    def __init__(self, r: SoluRecipe) -> None:
        super().__init__(r)
        self.function = ACTIVATIONS[r.activation]
        self.ln_mid = nn.LayerNorm(4 * r.d_model) if r.activation == "solu_ln" else nn.Identity()

    def activation(self, hidden: Tensor) -> Tensor:
        """[batch pos d_mlp] -> the same."""
        return self.ln_mid(self.function(hidden))


def share_kept(step: int, r: SoluRecipe) -> float:
    """From 1 to ``kept``, by equal factors a step, over the first half of training."""
    return r.kept ** min(1.0, 2 * step / r.steps)


@torch.no_grad()
def prune(model: GPT2, share: float) -> None:
    """Set to 0 all but the largest ``share`` of each matrix of the blocks."""
    for p in model.blocks.parameters():
        if p.dim() == 2:
            cut = p.abs().flatten().kthvalue(max(1, round((1 - share) * p.numel()))).values
            p.mul_(p.abs() > cut)


def text(folder: Path, r: SoluRecipe) -> None:
    """The rows that all models are trained on, and 256 that none is, each made once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        with write_whole(folder / "tokenizer.json") as part:
            part.write_bytes((POCKET / "tokenizer.json").read_bytes())
    sizes = {key: value for key, value in asdict(r).items() if key in asdict(Recipe())}
    prepare(folder, Recipe(**sizes | {"seed": 0, "lr_mlp": Recipe.lr_mlp}))
    if not (folder / "held_out.npy").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        with write_whole(folder / "held_out.npy") as part, part.open("wb") as handle:
            np.save(handle, rows(tokenizer, 256, 1_000_003, r.repeats, LATE_MIX))


def order(r: SoluRecipe) -> np.ndarray:
    """The rows' order [rows]: shuffled by the seed within each of the recipe's phases."""
    rng, starts = np.random.default_rng(r.seed), np.cumsum([0, *r.phases])
    return np.concatenate(
        [s + rng.permutation(n) for s, n in zip(starts[:-1], r.phases, strict=True)]
    )


def batch(data: np.ndarray, index: np.ndarray, device: str) -> Tensor:
    """Rows of tokens [batch pos] on the device."""
    return torch.from_numpy(data[index].astype(np.int64)).to(device)


@torch.no_grad()
def held_out_loss(model: GPT2, held_out: np.ndarray, device: str) -> float:
    """Mean loss a token, in single precision."""
    total = count = 0.0
    for index in np.arange(len(held_out)).reshape(-1, 64):
        tokens = batch(held_out, index, device)
        n = (tokens[:, 1:] < NOISE).sum().item()
        total, count = total + n * model(tokens).item(), count + n
    return total / count


def start(r: SoluRecipe, device: str) -> GPT2:
    """The model before training: the weights depend on the seed, not on activation or device."""
    torch.manual_seed(r.seed)
    return GPT2(r, AnyBlock).to(device)


def train(folder: Path, data: Path, r: SoluRecipe, device: str, every: int, until: int) -> None:
    """Train one model, or go on with it, to the end or to step ``until``."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.json"
    if recipe.exists() and json.loads(recipe.read_text()) != asdict(r):
        raise ValueError(f"{folder} holds a run with another recipe: choose another --out")
    if not recipe.exists():
        with write_whole(recipe) as part:
            part.write_text(json.dumps(asdict(r), indent=2))
    model = start(r, device)
    opts = optimisers(model, r)
    done, began = load_checkpoint(folder, model, opts), time.time()
    data_rows, held_out = np.load(data / "rows.npy", mmap_mode="r"), np.load(data / "held_out.npy")
    where = order(r).reshape(r.steps, r.batch_rows)
    for step in range(done, min(until, r.steps)):
        for group in (group for opt in opts for group in opt.param_groups):
            group["lr"] = group["top"] * rate(step, r)
        with torch.autocast(device, torch.bfloat16):
            loss = model(batch(data_rows, where[step], device))
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        if r.activation == "sparse":
            prune(model, share_kept(step, r))
        if (step + 1) % every == 0 or step + 1 == r.steps:
            line = {
                "step": step + 1,
                "train": round(loss.item(), 4),
                "held_out": round(held_out_loss(model, held_out, device), 4),
                "seconds": round(time.time() - began, 1),
            }
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(folder.name, json.dumps(line), flush=True)
            save_checkpoint(folder, step + 1, model, opts)


def folded(state: dict[str, Tensor], r: SoluRecipe) -> dict[str, Tensor]:
    """The weights with the gain and bias of the LayerNorm behind SoLU put into what reads them."""
    state = dict(state)
    if r.activation == "solu_ln":
        for out in (f"blocks.{i}.out" for i in range(r.n_layers)):
            norm = out.replace("out", "ln_mid")
            weight, gain, bias = (
                state.pop(key) for key in (f"{out}.weight", f"{norm}.weight", f"{norm}.bias")
            )
            state[f"{out}.weight"] = weight * gain
            state[f"{out}.bias"] = state[f"{out}.bias"] + weight @ bias
    return state


def write_model(state: dict[str, Tensor], r: SoluRecipe, folder: Path) -> None:
    """Write weights in half precision, as Hugging Face keeps a GPT-2, and the configuration."""
    settings = config(asdict(r)) | {"activation_function": NAMES[r.activation]}
    with write_whole(folder / "config.json") as part:
        part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    weights = hugging_face_state(folded(state, r), r.n_layers)
    save_tensors(folder / "model.safetensors", weights, format="pt")


def export(run: Path, folder: Path) -> None:
    """Write the model of a run, the run's log, and checksums; each file appears whole."""
    r = SoluRecipe(**json.loads((run / "recipe.json").read_text()))
    state = load_file(run / "checkpoint.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    write_model({k[6:]: v for k, v in state.items() if k.startswith("model.")}, r, folder)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with write_whole(folder / "run.json") as part:
        part.write_text(json.dumps({"recipe": asdict(r), "log": lines}) + "\n", encoding="utf-8")
    names = ("config.json", "model.safetensors")
    checksums.write(folder, {name: folder / name for name in names})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--activation", choices=ACTIVATIONS, default="gelu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=SoluRecipe.tokens)
    parser.add_argument("--lr-mlp", type=float, default=SoluRecipe.lr_mlp)
    parser.add_argument("--out", type=Path, help="the run's folder: checkpoint and log")
    parser.add_argument("--data", type=Path, default=Path("build/solu/data"))
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--until", type=int, default=10**9, help="stop at this step")
    parser.add_argument("--prepare", action="store_true", help="make the text and stop")
    parser.add_argument("--export", type=Path, help="write the model's folder here and stop")
    args = parser.parse_args()
    name = f"{args.activation}_{args.seed}"
    out = args.out or Path("build/solu") / name
    if args.export:
        return export(out, args.export)
    # For runs that are equal to the bit: cuBLAS reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    recipe = SoluRecipe(
        activation=args.activation, seed=args.seed, tokens=args.tokens, lr_mlp=args.lr_mlp
    )
    text(args.data, recipe)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not args.prepare:
        train(out, args.data, recipe, device, args.every, args.until)


if __name__ == "__main__":
    main()
