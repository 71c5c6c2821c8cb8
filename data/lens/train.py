"""Train the committed lens of SmolLM2: ``python -m mi_data.lens.train``.

A tuned lens [Belrose et al. 2023] for the layers that notebook 16 reads, and its controls, as that
notebook trains them: least squares, then Adam on the KL from the final prediction, all lenses on
the same tokens. It goes to ``data/lens/<model>`` in half precision; what low rank would cost stands
in its card; ``SHA256SUMS`` lists the files. A run that was stopped goes on from its last
checkpoint in ``build/lens``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mi_data.lens.card import page
from mi_data.pocket import generator
from safetensors.torch import load_file
from torch import Tensor

from mi_helpers import checksums, sites
from mi_helpers.files import save_tensors, write_whole
from mi_helpers.lens import translators
from mi_helpers.models import load_model, model_id, untrained

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHUFFLED = "shuffled"
RANKS = (64, 128)
EVERY = 10
"""Steps between checkpoints."""
KEYS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam remembers of a parameter."""


@dataclass(frozen=True)
class Recipe:
    """What the lens is made with; texts are documents of pocket's generator."""

    documents: int = 1000
    held_out: int = 16
    steps: int = 200
    batch: int = 64
    rate: float = 5e-4
    seed: int = 0


def layers_of(model: TransformerBridge) -> list[int]:
    """The layers that notebook 16 reads: all, or about six of them."""
    return list(range(0, model.cfg.n_layers, max(1, model.cfg.n_layers // 6)))


def names_of(model: TransformerBridge) -> list[str]:
    """What the lenses are called: by the layer before which they read, then the controls."""
    layers = layers_of(model)
    controls = ["untrained, 0", f"untrained, {layers[len(layers) // 2]}", SHUFFLED]
    return [*map(str, layers), *controls]


def rows_of(model: TransformerBridge, split: str, count: int) -> Tensor:
    """Documents joined and cut into rows of tokens, [row 48], as in notebook 16."""
    texts = [generator.document(i, split=split).text for i in range(count)]
    joined = torch.cat([model.to_tokens(text)[0] for text in texts])
    body = joined[: len(joined) // 47 * 47].view(-1, 47)
    return torch.cat([joined[:1].expand(len(body), 1), body], dim=1)


def read(model: TransformerBridge, rows: Tensor, places: list[tuple[str, int]]) -> Tensor:
    """Streams of all tokens but start tokens and the last ones, [place token d_model]."""
    kept = rows != model.tokenizer.bos_token_id
    kept[:, 0], kept[:, -1] = False, False
    parts = []
    for part, keep in zip(rows.split(16), kept.split(16), strict=True):
        seen = sites.read(model, part, places)
        parts.append(torch.stack([seen[place][keep] for place in places]))
    return torch.cat(parts, dim=1)


def streams_of(model: TransformerBridge, split: str, count: int, seed: int) -> dict[str, Tensor]:
    """What each lens reads, by its name, and the end of the model, [token d_model] each."""
    layers, rows = layers_of(model), rows_of(model, split, count)
    half = layers[len(layers) // 2]
    ends = [*(("resid_pre", layer) for layer in layers), ("resid_post", model.cfg.n_layers - 1)]
    found = dict(zip([*map(str, layers), "end"], read(model, rows, ends), strict=True))
    control = read(untrained(model), rows, [("resid_pre", 0), ("resid_pre", half)])
    found |= dict(zip(["untrained, 0", f"untrained, {half}"], control, strict=True))
    order = torch.randperm(len(found["end"]), generator=torch.Generator().manual_seed(seed))
    return found | {SHUFFLED: found[str(half)][order] if split == "train" else found[str(half)]}


def least_squares(x: Tensor, y: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """A and b for which x @ A + b is nearest to y."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    small = ridge * covariance.diagonal().mean() * torch.eye(x.shape[1])
    A = torch.linalg.solve(covariance + small, centred.T @ (y - y.mean(0)) / len(x))
    return A, y.mean(0) - x.mean(0) @ A


def predict(model: TransformerBridge, streams: Tensor) -> Tensor:
    """Log-probabilities read from final streams, [token d_vocab]."""
    return model.unembed(model.ln_final(streams)).log_softmax(-1)


def probabilities(model: TransformerBridge, W: Tensor, streams: Tensor) -> Tensor:
    """What is predicted from final streams after the norm, by the unembedding `W` in bfloat16."""
    return ((streams.to(W) @ W).float() + model.b_U).softmax(-1)


def downhill(model: TransformerBridge, W: Tensor, final: Tensor, ends: Tensor) -> None:
    """Send the gradient of the mean KL from `final` into final streams that are on the graph.

    The products with the unembedding are in bfloat16, as in the authors' code.
    """
    normed = model.ln_final(ends)
    gap = probabilities(model, W, normed.detach()) - final
    normed.backward((gap.to(W) @ W.T).float() / len(final))


def tune(
    model: TransformerBridge, streams: dict[str, Tensor], work: Path, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Translators after some steps of Adam on the KL; goes on from the checkpoint in `work`."""
    names = names_of(model)
    start = [least_squares(streams[name], streams["end"]) for name in names]
    A, b = (torch.stack(parts).requires_grad_() for parts in zip(*start, strict=True))
    adam = torch.optim.Adam([A, b], recipe.rate)
    draw = torch.Generator().manual_seed(recipe.seed)
    draws = torch.randint(len(streams["end"]), (recipe.steps, recipe.batch), generator=draw)
    W = model.W_U.bfloat16()
    done = resume(work / "steps.safetensors", [A, b], adam)
    for step in range(done, recipe.steps):
        adam.param_groups[0]["lr"] = recipe.rate * (1 - step / recipe.steps)
        chosen = draws[step]
        final = probabilities(model, W, model.ln_final(streams["end"][chosen]))
        for i, name in enumerate(names):
            with torch.enable_grad():
                downhill(model, W, final, streams[name][chosen] @ A[i] + b[i])
        adam.step(), adam.zero_grad()
        if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
            keep(work / "steps.safetensors", [A, b], adam, step + 1)
            stamp(work)
            print(f"step {step + 1} of {recipe.steps}", flush=True)
    return A.detach(), b.detach()


def keep(path: Path, parts: list[Tensor], adam: torch.optim.Adam, step: int) -> None:
    """Write a checkpoint: the translators, and what Adam remembers of each."""
    moments = {f"{key}.{i}": adam.state[part][key] for i, part in enumerate(parts) for key in KEYS}
    save_tensors(
        path, {f"part.{i}": part for i, part in enumerate(parts)} | moments, step=str(step)
    )


def resume(path: Path, parts: list[Tensor], adam: torch.optim.Adam) -> int:
    """Put a checkpoint back, if there is one; the number of steps that were done."""
    if not path.is_file():
        return 0
    found = load_file(path)
    for i, part in enumerate(parts):
        part.copy_(found[f"part.{i}"])
        adam.state[part] = {key: found[f"{key}.{i}"] for key in KEYS}
    return int(found["step.0"])


def low_rank(A: Tensor, x: Tensor, rank: int, kept: float) -> tuple[Tensor, Tensor]:
    """Two narrow matrices whose product is nearest to A - kept * 1, on streams such as `x`.

    Reduced-rank regression: what is cut off is what moves these streams least.
    """
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh((centred.T @ centred / len(x)).double())
    root = values.clamp_min(values.max() * 1e-12).sqrt()
    rest = A.double() - kept * torch.eye(len(A))
    u, s, v = torch.linalg.svd((vectors * root).T @ rest)
    down, up = (vectors / root) @ u[:, :rank], s[:rank, None] * v[:rank]
    scale = (up.norm(dim=1) / down.norm(dim=0)).sqrt()  # both of one size, for half precision
    return (down * scale).float(), (up / scale[:, None]).float()


def shrunk(A: Tensor, names: list[str], streams: dict[str, Tensor], rank: int) -> Tensor:
    """Translators in low rank and half precision; those of the model's later streams keep the 1."""
    found = []
    for one, name in zip(A, names, strict=True):
        kept = float(name.isdigit() and name != "0")
        down, up = low_rank(one, streams[name], rank, kept)
        found.append(kept * torch.eye(len(one)) + down.half().float() @ up.half().float())
    return torch.stack(found)


def distances(
    model: TransformerBridge,
    streams: dict[str, Tensor],
    final: Tensor,
    lens: Callable[[str, Tensor], Tensor],
    names: list[str],
) -> dict[str, float]:
    """KL in nats from the final prediction to what a lens reads, by the stream's name."""
    found = {}
    for name in names:
        parts = zip(streams[name].split(128), final.split(128), strict=True)
        gaps = [(p.exp() * (p - predict(model, lens(name, x)))).sum(-1) for x, p in parts]
        found[name] = round(float(torch.cat(gaps).mean()), 4)
    return found


def lenses(
    A: Tensor, b: Tensor, names: list[str], streams: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is judged beside the logit lens: name, A and b."""
    start = [least_squares(streams[name], streams["end"]) for name in names]
    yield "least squares", *(torch.stack(parts) for parts in zip(*start, strict=True))
    yield "full", A, b
    for rank in RANKS:
        yield f"rank {rank}", shrunk(A, names, streams, rank), b


def judge(
    model: TransformerBridge,
    A: Tensor,
    b: Tensor,
    streams: dict[str, Tensor],
    recipe: Recipe,
) -> dict[str, dict[str, float]]:
    """KL of all lenses on held-out text, by lens and stream."""
    test = streams_of(model, "test", recipe.held_out, recipe.seed)
    final, names = predict(model, test["end"]), names_of(model)
    own = [name for name in names if name.isdigit()]
    table = {"logit lens": distances(model, test, final, lambda _, x: x, own)}
    for kind, maps, shifts in lenses(A, b, names, streams):
        at = dict(zip(names, zip(maps, shifts, strict=True), strict=True))
        table[kind] = distances(
            model, test, final, lambda n, x, at=at: x @ at[n][0] + at[n][1], names
        )
        print(kind, table[kind], flush=True)
    return table


def publish(
    model: TransformerBridge,
    A: Tensor,
    b: Tensor,
    measured: dict,
    out: Path,
) -> None:
    """Write the lens, what was measured, the card and the checksums."""
    out.mkdir(parents=True, exist_ok=True)
    translators.save_translators(out, model_id(model), names_of(model), A, b)
    with write_whole(out / "measured.json") as part:
        part.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    with write_whole(out / "README.md") as part:
        part.write_text(page(measured), encoding="utf-8")
    files = (translators.FILE, "measured.json")
    checksums.write(out, {name: out / name for name in files})


def make(model: TransformerBridge, out: Path, work: Path, recipe: Recipe) -> None:
    """Train, judge and publish a lens of a model; goes on with what is in `work`."""
    work = work / model_id(model)
    work.mkdir(parents=True, exist_ok=True)
    same_recipe(work / "recipe.json", recipe)
    if not (work / "streams.safetensors").is_file():
        found = streams_of(model, "train", recipe.documents, recipe.seed)
        save_tensors(work / "streams.safetensors", found)
        print(f"streams of {len(found['end'])} tokens, {stamp(work)[0]:.0f} s in all", flush=True)
    streams = load_file(work / "streams.safetensors")
    A, b = tune(model, streams, work, recipe)
    table = judge(model, A, b, streams, recipe)
    seconds, gib = stamp(work)
    measured = {
        "model": model_id(model),
        "recipe": vars(recipe),
        "tokens": len(streams["end"]),
        "minutes": round(seconds / 60, 1),
        "gib": round(gib, 1),
        "nats": table,
    }
    publish(model, A, b, measured, out / model_id(model))


def same_recipe(path: Path, recipe: Recipe) -> None:
    """Note what a run was begun with; ValueError when it was another recipe."""
    told = json.dumps(vars(recipe))
    if path.is_file() and path.read_text(encoding="utf-8") != told:
        raise ValueError(f"{path.parent} was begun with another recipe: delete it to begin anew")
    with write_whole(path) as part:
        part.write_text(told, encoding="utf-8")


def stamp(work: Path) -> tuple[float, float]:
    """Note this process's CPU seconds and peak GiB; the sum, and the peak, of all runs here."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = f"{time.process_time()} {peak}"
    with write_whole(work / f"spent-{os.getpid()}") as part:
        part.write_text(told, encoding="utf-8")
    runs = [path.read_text(encoding="utf-8").split() for path in work.glob("spent-*")]
    return sum(float(seconds) for seconds, _ in runs), max(float(gib) for _, gib in runs)


def main() -> None:
    """Train the lens of SmolLM2, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/lens"))
    parser.add_argument("--work", type=Path, default=Path("build/lens"))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    make(load_model("smollm2", device="cpu"), arguments.out, arguments.work, Recipe())


if __name__ == "__main__":
    main()
