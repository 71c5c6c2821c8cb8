"""Models trained so that a program is their circuit: chosen parts compute its variables.

Strict interchange-intervention training. In every step a text and another one are drawn, and some
of the program's variables. The program is run on the text with these variables as they are in the
other one; the model likewise, with the outputs of the parts that stand for them. Both must say the
same. Parts that stand for nothing are swapped at random besides, and that must change nothing.

The committed models were trained by `mi_data.known_circuits.train`; their card
is data/known_circuits/README.md.

Sources: Geiger et al. 2021, "Inducing causal structure for interpretable neural networks";
Gupta et al. 2024, "InterpBench" (the strict form).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from mi_helpers import checksums, patching
from mi_helpers.sites import Head
from mi_helpers.toys.compiled import Truth, places_of, truth_of, with_tokenizer
from mi_helpers.toys.programs import PROGRAMS, Case, Text, case_of
from mi_helpers.toys.rasp import Program, Value, Var

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

N_HEADS = 4
SIZES = {"small": (3, 32), "large": (4, 64)}
"""Layers and d_model."""
NOTHING = -100
"""Where the program says nothing, and nothing is asked of the model."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        program: A name of `PROGRAMS`.
        size: One of `SIZES`.
        seed: Of the weights, the places of the variables and the draws.
        strict: Whether the parts are trained; False trains what the model says alone: the control.
    """

    program: str
    size: str = "small"
    seed: int = 0
    strict: bool = True
    steps: int = 800
    batch: int = 32
    lr: float = 5e-3
    weight_decay: float = 0.01

    @property
    def name(self) -> str:
        """Of the model's file."""
        kind = self.size if self.strict else f"{self.size}_free"
        return f"{self.program.replace(' ', '_')}_{kind}_{self.seed}"

    @property
    def config(self) -> GPT2Config:
        """The model's shape."""
        (n_layers, d_model), program = SIZES[self.size], PROGRAMS[self.program][0]
        return GPT2Config(
            architectures=["GPT2LMHeadModel"],
            vocab_size=len(program.vocabulary) + 1,
            n_positions=program.indices.length + 1,
            n_embd=d_model,
            n_layer=n_layers,
            n_head=N_HEADS,
            n_inner=2 * d_model,
            activation_function="relu",
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        )

    @cached_property
    def truth(self) -> Truth:
        """Which part stands for which variable."""
        generator = torch.Generator().manual_seed(self.seed)
        program = PROGRAMS[self.program][0]
        return truth_of(program, places_of(program, SIZES[self.size][0], N_HEADS, generator))


@dataclass(frozen=True)
class Swaps:
    """Texts, other texts, and what the program says with some variables from the other ones.

    Attributes:
        base: Texts as tokens, after the start token.
        other: Where the variables come from.
        swapped: Whether a node takes its output from the other text.
        said: What the program says at each position of `base`; NOTHING where it says nothing.
        target: What it says with the variables of the swapped nodes from `other`.
    """

    base: Int[Tensor, "text pos"]
    other: Int[Tensor, "text pos"]
    swapped: Bool[Tensor, "text node"]
    said: Int[Tensor, "text pos"]
    target: Int[Tensor, "text pos"]


def swaps(name: str, truth: Truth, n: int, seed: int = 0, *, single: bool = False) -> Swaps:
    """Draw texts of a program and sets of its nodes to swap.

    Args:
        name: Of the program.
        truth: Which node stands for which variable; nodes are in alphabetical order.
        n: How many.
        seed: Of the draw.
        single: One node each, and only draws in which swapping it changes what is said last;
            otherwise every second draw is one that does.
    """
    (program, draw), rng = PROGRAMS[name], random.Random(seed)
    vars_at = {node: [v for v in program.variables if truth.place[v.name] == node]
               for node in sorted(truth.nodes)}  # fmt: skip
    rows: list[tuple[Text, Text, list[bool], Sequence[str | None], Sequence[str | None]]] = []
    while len(rows) < n:
        text, other = draw(rng), draw(rng)
        only = rng.randrange(len(vars_at))
        chosen = [i == only if single else rng.random() < 0.5 for i in range(len(vars_at))]
        run = program.run(other)
        given = {v: run[v] for one, on in zip(vars_at.values(), chosen, strict=True) if on
                 for v in one}  # fmt: skip
        said, target = program.says(text), _says(program, text, given)
        if target is None or ((single or len(rows) % 2) and target[-1] in (None, said[-1])):
            continue
        rows.append((text, other, chosen, said, target))
    words = {word: i for i, word in enumerate(program.vocabulary, start=1)}

    def tokens(texts: Sequence[Sequence[str | None]], start: int) -> Tensor:
        return torch.tensor([[start, *(NOTHING if w is None else words[w] for w in t)]
                             for t in texts])  # fmt: skip

    base, others, chosen_all, said_all, targets = zip(*rows, strict=True)
    return Swaps(tokens(base, 0), tokens(others, 0), torch.tensor(chosen_all),
                 tokens(said_all, NOTHING), tokens(targets, NOTHING))  # fmt: skip


def _says(
    program: Program, text: Text, given: dict[Var, list[Value]]
) -> Sequence[str | None] | None:
    """What is said; None where the swapped variables leave a Gather with several values."""
    try:
        return program.says(text, given)
    except ValueError:
        return None


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
    batches, masks = zip(*map(_batch, recipes, drawn, [step] * len(recipes)), strict=True)
    base, other, said, target = (torch.stack(part) for part in zip(*batches, strict=True))
    taken, n = Taken({}), base.shape[1]
    logits = run(weights, torch.cat([base, other], 1), taken)[:, :n]
    outputs = {name: out[:, n:] for name, out in taken.outputs.items()}
    swap = {name: torch.stack([mask[name] for mask in masks]) for name in outputs}
    swapped = run(weights, base, Taken(outputs, swap))
    strict = torch.tensor([float(recipe.strict) for recipe in recipes])
    return _entropy(logits, said) + strict * _entropy(swapped, target)


def _batch(
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


def _entropy(logits: Tensor, said: Tensor) -> Float[Tensor, "model"]:
    flat = F.cross_entropy(
        logits.flatten(0, 2), said.flatten(), ignore_index=NOTHING, reduction="none"
    )
    return flat.view(len(said), -1).sum(1) / (said != NOTHING).flatten(1).sum(1)


def load(recipe: Recipe) -> TransformerBridge:
    """A committed model.

    Raises:
        FileNotFoundError: No such model.
        ValueError: An altered file.
    """
    folder = Path(str(files("mi_data"))) / "known_circuits"
    path = folder / f"{recipe.name}.safetensors"
    if not path.is_file():
        there = sorted(one.stem for one in folder.glob("*.safetensors"))
        raise FileNotFoundError(f"no model {path.stem}; there are: {', '.join(there)}")
    checksums.check_file(path, checksums.read(folder)[path.name],
                         "restore it with `git checkout -- data/known_circuits`")  # fmt: skip
    state = {name: weight.float() for name, weight in load_file(path).items()}
    return with_tokenizer(PROGRAMS[recipe.program][0], recipe.config, state)


def case(recipe: Recipe, draw: int = 0, *, n: int = 12) -> Case:
    """A committed model with prompts, drawn as for a compiled one, and the truth about it."""
    return case_of(recipe.program, load(recipe), recipe.truth, draw, n=n, of_parts=True)


def interchange_accuracy(
    recipe: Recipe, model: TransformerBridge, n: int = 400
) -> dict[str, float]:
    """By part: how often the model says what the program says, the part's output swapped.

    Of texts drawn anew, only those in which the swap changes what the program says last.
    """
    drawn = swaps(recipe.program, recipe.truth, n, seed=1_000_003, single=True)
    found = {}
    for i, node in enumerate(sorted(recipe.truth.nodes)):
        rows = drawn.swapped[:, i]
        swapped = patching.ablate(
            model, drawn.base[rows], patching.OtherRun(drawn.other[rows]), _said_last, [[node]]
        )
        found[node] = float((swapped.values[0] == drawn.target[rows, -1]).float().mean())
    return found


def _said_last(logits: Tensor) -> Float[Tensor, "text"]:
    """The number of the token that is said last."""
    return logits[:, -1].argmax(-1).float()
