"""Train pocket: ``python -m mi_data.pocket.train --out build/pocket``.

GPT-2's architecture in plain torch (so that two CPU cores are used well), bfloat16 autocast, Muon
on the matrices of the blocks and AdamW on the rest, constant rates that then decay linearly. Runs
on a GPU if there is one, else on ``--ranks`` CPU processes of one thread each. Checkpoints are
safetensors, written whole or not at all; the same command continues an interrupted run.
``--export`` writes the Hugging Face folder from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from mi_helpers.files import save_tensors, write_whole

from .corpus import NOISE, ROW, rows
from .generator import LATE_MIX
from .tokenizer import build


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights.

    The first rows (a share ``early`` of all) hold more repeated spans, ``repeats_early`` of their
    tokens against ``repeats``: induction heads form on them, and the rows after them need fewer.
    From the share ``late`` on, documents are drawn from `LATE_MIX`.
    """

    n_layers: int = 6
    d_model: int = 192
    n_heads: int = 6
    n_ctx: int = ROW
    vocab_size: int = 4096
    tokens: int = 26_000_000
    batch_rows: int = 32
    lr_attention: float = 0.01
    lr_mlp: float = 0.005
    lr_embedding: float = 1e-3
    lr_position: float = 1e-3
    lr_rest: float = 2e-3
    weight_decay: float = 0.2
    warmup: float = 0.01
    decay_from: float = 0.1346
    early: float = 0.13459
    late: float = 0.48842
    repeats_early: float = 0.4
    repeats: float = 0.12
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.tokens // (self.batch_rows * ROW)

    @property
    def phases(self) -> tuple[int, int, int]:
        """How many rows there are of each of the three mixes, in the order of training."""
        count = self.steps * self.batch_rows
        first, last = int(self.early * count), int(self.late * count)
        return first, last - first, count - last


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP, as GPT-2 has them."""

    def __init__(self, r: Recipe) -> None:
        super().__init__()
        self.heads = r.n_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(r.d_model), nn.LayerNorm(r.d_model)
        # Apart, not as one matrix: Muon evens out a matrix's singular values, and the values'
        # gradient would leave queries and keys almost nothing of a joint update.
        self.q, self.k, self.v, self.proj = (nn.Linear(r.d_model, r.d_model) for _ in range(4))
        self.fc, self.out = nn.Linear(r.d_model, 4 * r.d_model), nn.Linear(4 * r.d_model, r.d_model)
        # Written out: at this size the backward pass is six times as fast as the fused one's.
        mask = torch.full((r.n_ctx, r.n_ctx), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch pos d_model] -> the same."""
        b, t, d = x.shape
        y = self.ln_1(x)
        parts = (self.q, self.k, self.v)
        q, k, v = (f(y).view(b, t, self.heads, -1).transpose(1, 2) for f in parts)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + self.mask[:t, :t].to(q)
        z = scores.softmax(-1).to(v) @ v
        x = x + self.proj(z.transpose(1, 2).reshape(b, t, d))
        return x + self.out(self.activation(self.fc(self.ln_2(x))))

    def activation(self, hidden: Tensor) -> Tensor:
        """What the MLP does between its two matrices: ``gelu(tanh)``, GPT-2's ``gelu_new``."""
        return F.gelu(hidden, approximate="tanh")


def sinusoids(n_ctx: int, d_model: int) -> Tensor:
    """Where learned positions start [n_ctx d_model]: neighbours alike, an offset a rotation.

    Periods from 2.5 tokens to twice the context. From noise, or without the short periods, a head
    that looks one position back takes millions of tokens to appear.
    """
    position = torch.arange(n_ctx).float()[:, None]
    frequency = torch.logspace(0.4, -1.7, d_model // 2)[None]
    return torch.cat([(position * frequency).sin(), (position * frequency).cos()], dim=1)


class GPT2(nn.Module):
    """GPT-2 with tied embeddings, made of ``block``."""

    def __init__(self, r: Recipe, block: Callable[[Recipe], nn.Module] = Block) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(r.vocab_size, r.d_model), nn.Embedding(r.n_ctx, r.d_model)
        self.blocks = nn.ModuleList(block(r) for _ in range(r.n_layers))
        self.ln_f = nn.LayerNorm(r.d_model)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # GPT-2's 0.02 is for a width of 768; here it leaves attention even for too long.
                writes = name.endswith(("proj.weight", "out.weight"))
                scale = (2 * r.n_layers) ** -0.5 if writes else 1.0
                nn.init.normal_(p, std=scale * p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        nn.init.normal_(self.wte.weight, std=0.1)
        with torch.no_grad():
            self.wpe.weight.copy_(0.15 * sinusoids(r.n_ctx, r.d_model))

    def forward(self, rows: Tensor) -> Tensor:
        """Mean next-token loss of rows [batch pos], where a token is not flagged as `NOISE`."""
        tokens = rows & (NOISE - 1)
        targets = tokens.masked_fill(rows >= NOISE, -100)[:, 1:]
        logits = self.stream(tokens)[:, :-1] @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def stream(self, tokens: Tensor) -> Tensor:
        """What the unembedding reads [batch pos d_model]."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)


def optimisers(model: GPT2, r: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases.

    The MLPs and the token embedding are slower than the rest: at one rate for all, the first MLP
    drowns the stream that heads must still match tokens in.
    """
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, p in model.named_parameters():
        if p.dim() == 2 and name.startswith("blocks"):
            groups["mlp" if ".fc." in name or ".out." in name else "attention"].append(p)
        else:
            kinds = {"wte.weight": "embedding", "wpe.weight": "position"}
            groups[kinds.get(name, "rest")].append(p)

    def rates(*kinds: str) -> list[dict]:
        tops = {kind: getattr(r, f"lr_{kind}") for kind in kinds}
        return [{"params": groups[k], "lr": top, "top": top} for k, top in tops.items()]

    return [
        torch.optim.Muon(rates("attention", "mlp"), weight_decay=r.weight_decay, momentum=0.95),
        torch.optim.AdamW(
            rates("embedding", "position", "rest"), betas=(0.9, 0.98), weight_decay=0.0
        ),
    ]


def rate(step: int, r: Recipe) -> float:
    """The learning rate's factor: up, constant, down to nothing."""
    done = step / r.steps
    if done < r.warmup:
        return (step + 1) / (r.warmup * r.steps + 1)
    return 1.0 if done < r.decay_from else (1 - done) / (1 - r.decay_from)


def save_checkpoint(
    folder: Path, step: int, model: GPT2, opts: list[torch.optim.Optimizer]
) -> None:
    """Weights and optimiser states in one safetensors file; the step is in its name's metadata."""
    state = {f"model.{k}": v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    for i, opt in enumerate(opts):
        for index, entry in opt.state_dict()["state"].items():
            state |= {
                f"opt{i}.{index}.{k}": torch.as_tensor(v).contiguous().clone()
                for k, v in entry.items()
            }
    save_tensors(folder / "checkpoint.safetensors", state, step=str(step))


def load_checkpoint(folder: Path, model: GPT2, opts: list[torch.optim.Optimizer]) -> int:
    """Restore weights and optimisers; returns the step to go on from (0 without a checkpoint)."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    state = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("model.")})
    for i, opt in enumerate(opts):
        whole = opt.state_dict()
        for key, value in state.items():
            head, *tail = key.split(".")
            if head == f"opt{i}":
                whole["state"].setdefault(int(tail[0]), {})[tail[1]] = value
        opt.load_state_dict(whole)
    with safe_open(path, "pt") as handle:
        return int(handle.metadata()["step"])


def prepare(folder: Path, r: Recipe) -> None:
    """Recipe, tokenizer and token rows, each made once."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.json"
    if recipe.exists() and json.loads(recipe.read_text()) != asdict(r):
        raise ValueError(
            f"{folder} holds a run with another recipe; choose another --out or delete it"
        )
    if not recipe.exists():
        with write_whole(recipe) as part:
            part.write_text(json.dumps(asdict(r), indent=2))
    if not (folder / "tokenizer.json").exists():
        with write_whole(folder / "tokenizer.json") as part:
            build(r.vocab_size).save(str(part))
    if not (folder / "rows.npy").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        early, middle, late = r.phases
        phases = [
            rows(tokenizer, early, 3 * r.seed, r.repeats_early),
            rows(tokenizer, middle, 3 * r.seed + 1, r.repeats),
            rows(tokenizer, late, 3 * r.seed + 2, r.repeats, LATE_MIX),
        ]
        with write_whole(folder / "rows.npy") as part, part.open("wb") as handle:
            np.save(handle, np.concatenate(phases))


def _average_gradients(model: GPT2, ranks: int) -> None:
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    dist.all_reduce(flat)
    flat /= ranks
    for p, piece in zip(
        model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=False
    ):
        p.grad = piece.view_as(p)


def worker(rank: int, ranks: int, folder: Path, r: Recipe, every: int) -> None:
    """One rank of the training run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder.resolve()}/rendezvous", rank=rank, world_size=ranks
        )
    torch.manual_seed(r.seed)
    model = GPT2(r).to(device)
    opts = optimisers(model, r)
    start = load_checkpoint(folder, model, opts)
    data = np.load(folder / "rows.npy", mmap_mode="r")
    share, began = r.batch_rows // ranks, time.time()
    bar = tqdm(
        range(start, r.steps),
        initial=start,
        total=r.steps,
        disable=rank > 0,
        mininterval=10,
        desc="pocket",
    )
    for step in bar:
        first = step * r.batch_rows + rank * share
        tokens = torch.from_numpy(data[first : first + share].astype(np.int64)).to(device)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["top"] * rate(step, r)
        with torch.autocast(device, torch.bfloat16):
            loss = model(tokens)
        model.zero_grad(set_to_none=True)
        loss.backward()
        if ranks > 1:
            _average_gradients(model, ranks)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        if rank == 0 and step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            with open(folder / "log.jsonl", "a") as log:
                log.write(
                    json.dumps(
                        {
                            "step": step,
                            "tokens": step * r.batch_rows * ROW,
                            "loss": round(loss.item(), 4),
                            "seconds": round(time.time() - began),
                        }
                    )
                    + "\n"
                )
        if rank == 0 and ((step + 1) % every == 0 or step + 1 == r.steps):
            save_checkpoint(folder, step + 1, model, opts)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(folder: Path, r: Recipe, ranks: int, every: int) -> None:
    """Prepare the data and run all ranks to the end."""
    prepare(folder, r)
    (folder / "rendezvous").unlink(missing_ok=True)
    if torch.cuda.is_available() or ranks == 1:
        worker(0, 1, folder, r, every)
    else:
        torch.multiprocessing.spawn(worker, (ranks, folder, r, every), nprocs=ranks)


def main() -> None:
    """Command line."""
    from .export import export

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/pocket"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--export", type=Path, help="write the Hugging Face folder here and stop")
    args = parser.parse_args()
    recipe = Recipe(seed=args.seed, tokens=args.tokens)
    if args.export:
        export(args.out, args.export)
    else:
        train(args.out, recipe, args.ranks, args.every)


if __name__ == "__main__":
    main()
