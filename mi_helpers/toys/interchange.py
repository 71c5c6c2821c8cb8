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
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config

from mi_helpers import checksums, patching
from mi_helpers.toys.compiled import Truth, places_of, truth_of
from mi_helpers.toys.opening import config_of_words, opened_with_words
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
        return config_of_words(
            len(program.vocabulary), program.indices.length + 1, (n_layers, N_HEADS), d_model,
            2 * d_model, activation_function="relu",
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        )  # fmt: skip

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
    words = PROGRAMS[recipe.program][0].vocabulary
    return opened_with_words("compiled", words, recipe.config, state)


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
