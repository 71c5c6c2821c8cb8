"""Train the models with known circuits: ``python -m mi_data.known_circuits.train``.

``NAME.safetensors``: half-precision weights of one model, in Hugging Face's layout for GPT-2;
``README.md`` is the card. A run that was stopped goes on from its last state in
``build/known_circuits``; what is there is left alone. On one thread it takes minutes, within 1 GiB
of memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from mi_data.known_circuits.card import card
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import AdamW
from transformers import GPT2LMHeadModel

from mi_helpers import checksums
from mi_helpers.files import save_tensors, write_whole
from mi_helpers.sites import Head
from mi_helpers.toys import interchange
from mi_helpers.toys.interchange import N_HEADS, NOTHING, SIZES, Recipe, Swaps

Group = list[Recipe]

GROUPS = (
    [Recipe("count", seed=2), Recipe("count", strict=False)],
    [Recipe("count", "large")],
    [Recipe("brackets"), Recipe("brackets", strict=False)],
)
"""Those of a group are trained side by side, each as if it were alone."""
DRAWS = 6_000
"""How many texts with what is swapped in them; a step takes a batch of these."""


Weights = dict[str, Float[Tensor, "model ..."]]
"""GPT-2's weights by Hugging Face's names, of several models of one shape."""


def start(recipes: Sequence[Recipe]) -> Weights:
    """The weights before training, of recipes of one shape."""
    states = []
    for recipe in recipes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            states.append(GPT2LMHeadModel(recipe.config).state_dict())
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


@dataclass
class Taken:
    """What heads and MLPs wrote in a run, by place: "H0", all heads of layer 0, or "MLP0".

    Attributes:
        outputs: Of the run, [model text pos d_model]; heads before the output matrix.
        swap: Where to take them instead of one's own, [model text 1 d_model]; None to record them.
    """

    outputs: dict[str, Tensor]
    swap: dict[str, Tensor] | None = None

    def __call__(self, name: str, own: Tensor) -> Tensor:
        """The output to go on with."""
        if self.swap is None:
            self.outputs[name] = own
            return own
        return torch.where(self.swap[name], self.outputs[name], own)


def run(
    weights: Weights, tokens: Int[Tensor, "model text pos"], taken: Taken
) -> Float[Tensor, "model text pos vocab"]:
    """The logits of several GPT-2s with ReLU, each on texts of its own."""
    vocab, d_model = weights["transformer.wte.weight"].shape[1:]
    n_pos = tokens.shape[-1]

    def linear(name: str, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2) @ weights[f"{name}.weight"] + weights[f"{name}.bias"][:, None]
        return rows.unflatten(1, x.shape[1:3])

    def normed(name: str, x: Tensor) -> Tensor:
        gain, bias = (weights[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return F.layer_norm(x, (d_model,)) * gain + bias

    def by_head(x: Tensor) -> Tensor:
        return x.unflatten(-1, (N_HEADS, -1)).transpose(2, 3)

    words = F.one_hot(tokens, vocab).to(weights["transformer.wte.weight"])
    x = (words.flatten(1, 2) @ weights["transformer.wte.weight"]).unflatten(1, tokens.shape[1:])
    x = x + weights["transformer.wpe.weight"][:, None, :n_pos]
    for layer in range(sum(name.endswith("ln_1.bias") for name in weights)):
        block = f"transformer.h.{layer}"
        qkv = linear(f"{block}.attn.c_attn", normed(f"{block}.ln_1", x)).chunk(3, -1)
        q, k, v = (by_head(part) for part in qkv)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = taken(f"H{layer}", z.transpose(2, 3).flatten(3))
        x = x + linear(f"{block}.attn.c_proj", z)
        hidden = linear(f"{block}.mlp.c_fc", normed(f"{block}.ln_2", x)).relu()
        x = x + taken(f"MLP{layer}", linear(f"{block}.mlp.c_proj", hidden))
    end = normed("transformer.ln_f", x).flatten(1, 2)
    return (end @ weights["lm_head.weight"].mT).unflatten(1, tokens.shape[1:])


def losses(
    weights: Weights, recipes: Sequence[Recipe], drawn: Sequence[Swaps], step: int
) -> Float[Tensor, "model"]:
    """The loss of each model on a batch that its seed and the step choose from its draws."""
    batches, masks = zip(*map(batch_of, recipes, drawn, [step] * len(recipes)), strict=True)
    base, other, said, target = (torch.stack(part) for part in zip(*batches, strict=True))
    taken, n = Taken({}), base.shape[1]
    logits = run(weights, torch.cat([base, other], 1), taken)[:, :n]
    outputs = {name: out[:, n:] for name, out in taken.outputs.items()}
    swap = {name: torch.stack([mask[name] for mask in masks]) for name in outputs}
    swapped = run(weights, base, Taken(outputs, swap))
    strict = torch.tensor([float(recipe.strict) for recipe in recipes])
    return entropy(logits, said) + strict * entropy(swapped, target)


def batch_of(
    recipe: Recipe, drawn: Swaps, step: int
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """Base, other, said and target of a batch; which outputs are swapped, by place."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_000 + step)
    some = torch.randint(len(drawn.base), (recipe.batch,), generator=generator)
    (n_layers, d_model), inside = SIZES[recipe.size], sorted(recipe.truth.nodes)
    masks = {}
    for layer in range(n_layers):
        for node in [*(str(Head(layer, head)) for head in range(N_HEADS)), f"MLP{layer}"]:
            masks[node] = torch.rand(recipe.batch, generator=generator) < 0.5
    masks |= {node: drawn.swapped[some, i] for i, node in enumerate(inside)}
    wide = {}
    for layer in range(n_layers):
        heads = torch.stack([masks[str(Head(layer, head))] for head in range(N_HEADS)], 1)
        wide[f"H{layer}"] = heads.repeat_interleave(d_model // N_HEADS, 1)[:, None]
        wide[f"MLP{layer}"] = masks[f"MLP{layer}"][:, None, None].expand(-1, 1, d_model)
    batch = drawn.base[some], drawn.other[some], drawn.said[some], drawn.target[some]
    return batch, wide


def entropy(
    logits: Float[Tensor, "model text pos vocab"], said: Int[Tensor, "model text pos"]
) -> Float[Tensor, "model"]:
    """Each model's mean loss in nats, over the positions where something is said."""
    flat = F.cross_entropy(
        logits.flatten(0, 2), said.flatten(), ignore_index=NOTHING, reduction="none"
    )
    return flat.view(len(said), -1).sum(1) / (said != NOTHING).flatten(1).sum(1)


def rate(step: int, r: Recipe) -> float:
    """The learning rate: up over a hundred steps, then down to next to nothing."""
    return r.lr * min(1.0, (step + 1) / 100) * max(0.02, 1 - step / r.steps)


def save_state(weights: Weights, adam: AdamW, step: int, group: Group, path: Path) -> None:
    """Write all that is needed to go on."""
    state = {f"model {name}": value for name, value in weights.items()}
    moments = adam.state_dict()["state"]
    for name, index in zip(weights, sorted(moments), strict=True):
        state |= {f"{key} {name}": value for key, value in moments[index].items()}
    state = {name: value.clone() for name, value in state.items()}
    save_tensors(path, state, step=str(step), recipes=repr(group))


def open_state(weights: Weights, adam: AdamW, group: Group, path: Path) -> int:
    """Take weights and optimiser to where `save_state` left them, and return the step.

    Raises:
        ValueError: a state of other recipes.
    """
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as handle:
        notes = handle.metadata()
    if notes["recipes"] != repr(group):
        raise ValueError(f"{path} was begun with another recipe: delete it to begin anew")
    state, keys = load_file(path), ("step", "exp_avg", "exp_avg_sq")
    moments = {
        index: {key: state[f"{key} {name}"] for key in keys} for index, name in enumerate(weights)
    }
    adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(state[f"model {name}"])
    return int(notes["step"])


def clip(weights: Weights, most: float = 1.0) -> None:
    """Make each model's gradient no longer than `most`."""
    grads = [value.grad for value in weights.values() if value.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
    for grad in grads:
        grad.mul_((most / norms).clamp(max=1.0).view(-1, *[1] * (grad.ndim - 1)))


def train(group: Group, out: Path, work: Path, every: int = 100, until: int = 10**9) -> None:
    """Train models of one shape, or go on with them, to the end or to step `until`; write them."""
    work.mkdir(parents=True, exist_ok=True)
    r, weights = group[0], start(group)
    state = work / f"{r.name}.safetensors"
    adam = AdamW([value.requires_grad_() for value in weights.values()],
                 lr=r.lr, weight_decay=r.weight_decay, betas=(0.9, 0.98))  # fmt: skip
    drawn = [interchange.swaps(one.program, one.truth, DRAWS, one.seed) for one in group]
    for step in range(open_state(weights, adam, group, state), min(until, r.steps)):
        adam.param_groups[0]["lr"] = rate(step, r)
        each = losses(weights, group, drawn, step)
        adam.zero_grad()
        each.sum().backward()
        clip(weights)
        adam.step()
        if (step + 1) % every == 0 or step + 1 == r.steps:
            save_state(weights, adam, step + 1, group, state)
            lost = [round(x, 4) for x in each.tolist()]
            print(json.dumps({"model": r.name, "step": step + 1, "loss": lost}), flush=True)
    for i, one in enumerate(group if until >= r.steps else ()):
        if (out / f"{one.name}.safetensors").is_file():
            continue
        kept = {k: value[i].half() for k, value in weights.items()}
        save_tensors(out / f"{one.name}.safetensors", kept, format="pt", recipe=repr(one))


def main() -> None:
    """Train what is missing, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/known_circuits"))
    parser.add_argument("--work", type=Path, default=Path("build/known_circuits"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for group in GROUPS:
        if not all((arguments.out / f"{one.name}.safetensors").is_file() for one in group):
            train(group, arguments.out, arguments.work)
    recipes = [one for group in GROUPS for one in group]
    names = [f"{one.name}.safetensors" for one in recipes]
    checksums.write(arguments.out, {name: arguments.out / name for name in names})
    with write_whole(arguments.out / "README.md") as part:
        part.write_text(card(recipes), encoding="utf-8")


if __name__ == "__main__":
    main()
