"""The card of the models with known circuits, measured on the committed files."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mi_helpers import patching
from mi_helpers.toys import interchange, programs, scoreboard
from mi_helpers.toys.interchange import N_HEADS, SIZES, Recipe

TEXT = """# Models trained to have a known circuit

GPT-2s that were trained, from random weights, to do what a program of notebook 23 says *by the
parts that were chosen for it*: strict interchange-intervention training (Geiger et al. 2021; Gupta
et al. 2024, [InterpBench](https://arxiv.org/abs/2407.14494)). In every step the output of each part
that stands for variables of the program is, by chance, taken from another text, and the model must
then say what the program says with these variables from there. All parts that stand for nothing are
swapped at random as well, and that must change nothing.

```python
from mi_helpers.toys import interchange

case = interchange.case(interchange.Recipe("count", "small", seed=2))
case.model, case.truth.place  # a TransformerBridge, checksums verified; which part is what
```

{sizes}; {n_heads} heads a layer, MLPs of twice d_model, ReLU, the program's own words as tokens.
The seed draws the weights, and which heads and layers stand for what. `free` models are the
control: trained in the same steps to say the same, with no word about the parts. {steps} steps of
AdamW on {batch} texts, rate {lr:g} falling to next to nothing, weight decay {decay:g}.

`python -m mi_data.known_circuits.train` makes what is missing; its docstring states minutes and
memory. Runs with equal seeds are equal to the bit on one machine, also after an interruption.

As committed, in half precision. *Right*: texts of 1000 in which the model says what the program
says at every position. *Swapped*: how often it says what the program says when one part is swapped,
of 400 texts drawn anew in which that changes the last answer; the worst part. *Inside*: the
smallest effect that noising one part of the circuit has on the difference of two answers' logits,
as a share of that difference, on 60 prompts; *outside*: the largest of a part that stands for
nothing.

| model | d_model | right | swapped | inside | outside |
|:--|--:|--:|--:|--:|--:|
{rows}

## Limits

The training names parts, not their inputs: whether a head reads a variable by its queries or its
keys, and whether two parts of the circuit have a further edge between them, is the model's affair.
What is swapped comes from other texts; zeros are nothing that training ever put in a part's place.
Two programs, one of them in one size; not a finding about language models.

## Tried

`count` in two more small models, seeds 0 and 1: chosen parts did what they were taught (95.8% and
99.5%), but a part outside the circuit moved the difference of logits by 67.8% and 93.3%. Of
models taught by parts one is here only if no other part moves it by a fifth.

`indirect object` in the same steps, three seeds: all say what the program says, but the worst part
of each did so in only 86%, 44% and 29% of the swaps. Their circuit is not known, so they are
not here.

`brackets` in a second small model, seed 1: the head that stands for "broken" did nothing of what it
was taught, 0%. In two large ones, seeds 0 and 1: the worst part 50% and 0%, and parts outside moved
the difference by 52.8% and 76.5%. `reverse` in two small models: 42.2% and 82.8%. `induction` in
two small models, and without a word about parts: none learned to say what the program says in
these steps (a third of the texts or fewer).
"""


def row_of(recipe: Recipe) -> str:
    """What is measured on one model."""
    model, program = interchange.load(recipe), programs.PROGRAMS[recipe.program][0]
    texts = programs.texts(recipe.program, 1000, seed=1_000_003)
    right = 1 - programs.disagreements(model, program, texts) / len(texts)
    swapped = min(interchange.interchange_accuracy(recipe, model).values())
    pairs = programs.pairs_for(recipe.program, model, 60, seed=1_000_003)
    case = programs.Case(recipe.program, model, pairs, recipe.truth, set())
    nodes = scoreboard.nodes_of(case)
    swept = patching.ablate(
        model, pairs.clean_tokens, patching.OtherRun(pairs.corrupt_tokens),
        scoreboard.metric_of(case), [[node] for node in nodes],
    )  # fmt: skip
    sizes = dict(zip(nodes, (swept.effect() / swept.base.mean()).abs().tolist(), strict=True))
    inside = min(sizes[node] for node in recipe.truth.nodes)
    outside = max(size for node, size in sizes.items() if node not in recipe.truth.nodes)
    return (f"| {recipe.name} | {recipe.config.n_embd} | {right:.1%} | {swapped:.1%} "
            f"| {inside:.1%} | {outside:.1%} |")  # fmt: skip


@torch.no_grad()
def card(recipes: Iterable[Recipe]) -> str:
    """The card of what is committed."""
    recipes = list(recipes)
    one = recipes[0]
    sizes = "; ".join(f"*{name}*: {n} layers, d_model {d}" for name, (n, d) in SIZES.items())
    return TEXT.format(
        sizes=sizes, n_heads=N_HEADS, steps=one.steps, batch=one.batch, lr=one.lr,
        decay=one.weight_decay, rows="\n".join(map(row_of, recipes)),
    )  # fmt: skip
