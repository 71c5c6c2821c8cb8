"""Decompose a matrix of pocket on prompts for facts: ``python -m mi_data.decomposition.train``.

The matrix is the one that the first MLP reads with: without it no fact is left, without that of
any later MLP most are. The prompts ask for four facts about countries.
``--out build/decomposition/seed_0 --seed 0`` trains, or goes on from the last checkpoint;
``--export FILE`` writes the parts in half precision. 80 seconds of one thread, within 1 GiB.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from mi_data.pocket import facts, lexicon
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import mi_helpers as mi
from mi_helpers.toys import decomposition as parts

RELATIONS = ("capital", "language", "continent", "currency")
HERE = Path(__file__).resolve().parent
LAYER = 0
RECIPE = parts.DecompositionConfig(
    parts=256, sparsity=3e-2, faithful=2e4, neurons=8, steps=500, lr=1e-2
)


@dataclass(frozen=True)
class Prompts:
    """Prompts that end before the answer, padded behind their ends."""

    tokens: Int[Tensor, "prompt pos"]
    last: Int[Tensor, " prompt"]
    answer: Int[Tensor, " prompt"]
    relation: Int[Tensor, " prompt"]
    subject: list[str]
    named: Bool[Tensor, "prompt pos"]
    """Where the subject's name stands."""


def pocket() -> TransformerBridge:
    """The model whose matrix it is, whichever one a notebook has loaded."""
    with redirect_stdout(StringIO()):
        return mi.load_model("pocket")


def prompts(model: TransformerBridge, split: str = "train", each: int = 12) -> Prompts:
    """Every fact of the four relations, in up to ``each`` phrasings of the split."""
    rows, found, named = [], [], []
    for number, relation in enumerate(RELATIONS):
        spec = lexicon.FACTS[relation]
        for subject, answer in spec["facts"]:
            for i in facts.phrasings(relation, subject, split)[:each]:
                text = spec["phrasings"][i].format(s=subject)
                text = text[0].upper() + text[1:]
                rows.append(model.to_tokens(text)[0])
                named.append(_stands(model, text, subject, len(rows[-1])))
                ids = model.to_tokens(" " + answer, prepend_bos=False)[0]
                found.append((len(rows[-1]) - 1, int(ids[0]), number, subject))
    last, answer, relation = torch.tensor([row[:3] for row in found]).unbind(1)
    subjects = [row[3] for row in found]
    tokens, where = (torch.nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (rows, named))
    return Prompts(tokens, last, answer, relation, subjects, where)


def _stands(model: TransformerBridge, text: str, name: str, n: int) -> Bool[Tensor, " pos"]:
    """The tokens of a name in a text of n tokens."""
    before = text.lower().index(name.lower())
    ends = [model.to_tokens(text[:end].rstrip()).shape[1] for end in (before, before + len(name))]
    place = torch.arange(n)
    return (place >= ends[0]) & (place < ends[1])


class Answers:
    """The model from one MLP on, as a function of the matrix that this MLP reads with."""

    def __init__(self, model: TransformerBridge, some: Prompts, layer: int = LAYER) -> None:
        """Runs the layers before it once, as nothing changes there."""
        self.model, self.layer, self.last = model, layer, some.last
        places = ("resid_pre", layer), f"blocks.{layer}.mlp.hook_in"
        with torch.no_grad():
            pieces = [mi.sites.read(model, rows, places) for rows in some.tokens.split(100)]
        self.stream, self.read = (torch.cat([piece[p] for piece in pieces]) for p in places)
        mlp = model.blocks[layer].mlp
        self.W, self.b = mlp.W_in.detach()[None], mlp.b_in.detach()

    def __call__(self, which: Int[Tensor, "1 prompt"], matrices: parts.Matrices) -> Tensor:
        """Log-probabilities of the next token [1 prompt token], behind the prompts' last tokens."""
        which, ends = which[0], self.last[which[0]]
        size = int(ends.max()) + 1
        neurons = matrices("W_in", self.read[which, :size][None])[0] + self.b
        edit = {f"blocks.{self.layer}.mlp.hook_pre": lambda acts, where: neurons}
        with mi.interventions.intervene(self.model, edit):
            logits = self.model(self.stream[which, :size], start_at_layer=self.layer)
        logits = logits[torch.arange(len(which)), ends]
        return logits.log_softmax(-1)[None]


def divergence(found: Tensor, target: Tensor) -> Float[Tensor, "1"]:
    """KL divergence of predictions from those of the whole model, in nats, mean over prompts."""
    return (target.exp() * (target - found)).sum(-1).mean(1)


def draw(some: Prompts, batch: int) -> Callable[[torch.Generator], Tensor]:
    """A function that draws prompts [1 batch] of nearly one length."""

    def drawn(generator: torch.Generator) -> Tensor:
        length = some.last[torch.randint(len(some.last), (1,), generator=generator)]
        near = ((some.last - length).abs() <= 1).nonzero()[:, 0]
        return near[torch.randint(len(near), (1, batch), generator=generator)]

    return drawn


def decompose(
    model: TransformerBridge, out: Path, config: parts.DecompositionConfig, every: int = 50
) -> parts.Decomposition:
    """Train, or go on from what lies in the folder, with a checkpoint every so many steps."""
    some = prompts(model)
    model.requires_grad_(False)
    answers, path = Answers(model, some), out / "checkpoint.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    run = parts.load(path) if path.exists() else parts.start({"W_in": answers.W}, config)
    if run.config != config:
        raise ValueError(f"{out} holds a run with {run.config}; choose another --out or delete it")
    while run.step < config.steps:
        parts.train(run, answers, draw(some, 16), until=run.step + every, divergence=divergence)
        parts.save(run, path)
        last = run.log[-1] if run.log else {}  # which is written every 50 steps
        print(run.step, {key: round(value[0], 4) for key, value in last.items()}, flush=True)
    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparsity", type=float, default=RECIPE.sparsity)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--export", type=Path)
    given = parser.parse_args()
    config = replace(RECIPE, seed=given.seed, sparsity=given.sparsity, steps=given.steps)
    run = decompose(pocket(), given.out, config)
    if given.export:
        parts.save(run, given.export, half=True)


if __name__ == "__main__":
    main()
