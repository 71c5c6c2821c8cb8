"""A circuit planted by hand: a small GPT-2 whose weights are set, so that the truth is known.

It reads "Mary John John :" and answers with the name that stands once, "Mary". Its parts are those
of the circuit for indirect objects in GPT-2 small (Wang et al. 2022), as few and as plain as can
be:

1. *duplicate token* heads, at a name that was there before, write that it is repeated;
2. an *S-inhibition* head brings the repeated name to the end;
3. *name movers* at the end look at names, the inhibited one aside, and write what they look at;
4. a *backup* looks for a name that is neither inhibited nor being said already. While the name
   movers work there is none, and it rests on BOS; without them it takes their place;
5. a *negative* head writes against the name that is being said.

The other heads have small random weights and no purpose; the MLPs are empty. Every feature is
written with its opposite, so that a LayerNorm's centring changes nothing.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config

from mi_helpers.prompts import PromptPairs, from_texts
from mi_helpers.sites import Head
from mi_helpers.toys.opening import config_of_words, opened_with_words
from mi_helpers.toys.weights import HeadWeights, blank_state, set_head

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NAMES = ("Mary", "John", "Amy", "Tom", "Kate", "Dan", "Alice", "Bob", "Lucy", "Sam", "Eve", "Max")

PLANTED: dict[str, tuple[Head, ...]] = {
    "duplicate token": (Head(0, 0), Head(0, 1)),
    "S-inhibition": (Head(1, 0),),
    "name mover": (Head(2, 0), Head(2, 1)),
    "backup name mover": (Head(3, 0),),
    "negative name mover": (Head(3, 1),),
}
"""The planted heads by what they do; every other head is idle."""

_LAYERS, _HEADS, _D_HEAD, _ENDING = 4, 4, 28, ":"
_TYPICAL = 3.3
"""How strong a feature of strength one is after a LayerNorm, among one or two others."""
_IDLE = 0.03
"""How loud idle heads are."""


def planted_edges() -> set[tuple[str, str]]:
    """The wires over which names travel, (writer, reader): the true circuit.

    Wires that carry the same in every prompt, such as "this is the end", are not among them.
    """
    dup, (inhibit,), movers, (backup,), (negative,) = PLANTED.values()
    edges = {("embed", f"{head}.{part}") for head in dup for part in "qkv"}
    edges |= {(str(head), f"{inhibit}.{part}") for head in dup for part in "kv"}
    edges |= {(str(inhibit), f"{head}.q") for head in (*movers, backup)}
    late = (*movers, backup, negative)
    edges |= {("embed", f"{head}.{part}") for head in late for part in "kv"}
    edges |= {(str(mover), f"{head}.q") for mover in movers for head in (backup, negative)}
    return edges | {(str(head), "logits") for head in late}


def planted_circuit(seed: int = 0, *, sharp: float = 16.0) -> TransformerBridge:
    """The model, loaded like any other.

    Args:
        seed: Draws the weights of its idle heads.
        sharp: A planted head's score for what it looks for, in nats; BOS, its place of rest, gets
            a part of it. At 4 the softmaxes are soft and the model still answers right.
    """
    words, shape = (*NAMES, _ENDING), (_LAYERS, _HEADS)
    config = config_of_words(len(words), 5, shape, d_model=_HEADS * _D_HEAD, n_inner=4)
    return opened_with_words("planted", words, config, _weights(config, seed, sharp))


def planted_prompts(model: TransformerBridge, n: int = 24, seed: int = 0) -> PromptPairs:
    """Prompts of the planted circuit, each with a twin in which three strangers stand.

    Args:
        model: The planted circuit.
        n: How many; the single name stands first in every other one.
        seed: Of the draw.

    Returns:
        The pairs; the right answer is the single name, the wrong one the repeated name. Positions
        are named IO1, S1, S2 and end.
    """
    rng = random.Random(seed)
    clean, corrupt, right, wrong, spans = [], [], [], [], []
    for i in range(n):
        single, repeated, *strangers = rng.sample(NAMES, 5)
        first = [single, repeated] if i % 2 == 0 else [repeated, single]
        clean.append(" ".join([*first, repeated, _ENDING]))
        corrupt.append(" ".join([*strangers, _ENDING]))
        right.append(f" {single}")
        wrong.append(f" {repeated}")
        starts = [0, len(first[0]) + 1, len(" ".join(first)) + 1]
        places = [(start, start + 1) for start in starts]
        roles = dict(zip(("IO1", "S1") if i % 2 == 0 else ("S1", "IO1"), places[:2], strict=True))
        end = len(clean[-1])
        spans.append(roles | {"S2": places[2], "end": (end - 1, end)})
    return from_texts(model, clean, corrupt, right, wrong, spans=spans)


class _Features:
    """Which direction of the residual stream means what; each is written with its opposite.

    The place is written twice as strongly as the rest: it is there in every run, and so steadies
    the LayerNorms.
    """

    def __init__(self) -> None:
        n, n_names = 0, len(NAMES)
        sizes = {"name": n_names, "bos": 1, "place": 5}
        sizes |= {"repeated": n_names, "inhibited": n_names, "said": n_names}
        self.half = _HEADS * _D_HEAD // 2
        self.at: dict[str, list[int]] = {}
        for feature, size in sizes.items():
            self.at[feature] = list(range(n, n + size))
            n += size

    def write(self, feature: str) -> Float[Tensor, "value d_model"]:
        """Rows that put a feature into the stream, one row for each of its values."""
        where = self.at[feature]
        rows = torch.zeros(len(where), 2 * self.half)
        rows[range(len(where)), where] = 2.0 if feature == "place" else 1.0
        rows[range(len(where)), [i + self.half for i in where]] = -rows.amax()
        return rows

    def read(self, feature: str) -> Float[Tensor, "d_model value"]:
        """Columns that give the strength of a feature's values, as a head's inputs read them."""
        rows = self.write(feature)
        return rows.T / rows.square().sum(1)


def _weights(config: GPT2Config, seed: int, sharp: float) -> dict[str, Tensor]:
    """All weights: of the LayerNorms, the embeddings and the heads; the MLPs are empty."""
    features = _Features()
    state = blank_state(config, 1.0)
    state["transformer.wte.weight"][:1] = features.write("bos")
    state["transformer.wte.weight"][1:-1] = features.write("name")
    state["transformer.wpe.weight"] += features.write("place")
    state["lm_head.weight"][1:-1] = 4 * features.read("said").T
    generator = torch.Generator().manual_seed(seed)
    planted = _planted(features, sharp)
    for layer in range(_LAYERS):
        for head in range(_HEADS):
            weights = planted.get(Head(layer, head)) or _idle(features, generator)
            set_head(state, Head(layer, head), weights, _D_HEAD)
    return state


def _looks(features: _Features, *terms: tuple[str, str, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Q, b_Q and K from terms (what the query holds, what the key holds, nats for both).

    A query also knows "always" and "end", a key "any name": the sum over a feature's values.
    """
    Q, b_Q, K = [], [], []
    end = features.read("place")[:, -1:]
    for query, key, nats in terms:
        keys = features.read(key.removeprefix("any "))
        keys = keys.sum(1, keepdim=True) if key.startswith("any ") else keys
        if query == "always":
            queries = torch.zeros_like(keys)
        else:
            queries = (end if query == "end" else features.read(query)) * nats / _TYPICAL**2
        Q.append(queries)
        b_Q.append(torch.full((keys.shape[1],), nats / _TYPICAL if query == "always" else 0.0))
        K.append(keys)
    return torch.cat(Q, 1), torch.cat(b_Q), torch.cat(K, 1)


def _planted(features: _Features, sharp: float) -> dict[Head, HeadWeights]:
    """The heads with a purpose."""

    def head(
        source: str, target: str, strength: float, *terms: tuple[str, str, float]
    ) -> HeadWeights:
        moved = features.read(source) / _TYPICAL, strength * features.write(target)
        return HeadWeights(*_looks(features, *terms), *moved)

    look = ("end", "any name", sharp)
    spare = ("inhibited", "name", -2 * sharp)
    same = ("name", "name", sharp), ("place", "place", -2 * sharp), ("always", "bos", sharp / 2)
    flagged = ("end", "any repeated", sharp), ("always", "bos", sharp / 2)
    move = look, spare, ("always", "bos", sharp / 2)
    unsaid = look, spare, ("said", "name", -1.5 * sharp), ("always", "bos", sharp / 4)
    already = ("said", "name", 1.5 * sharp), ("always", "bos", sharp / 4)
    return {
        Head(0, 0): head("name", "repeated", 0.5, *same),
        Head(0, 1): head("name", "repeated", 0.5, *same),
        Head(1, 0): head("repeated", "inhibited", 1.2, *flagged),
        Head(2, 0): head("name", "said", 1.0, *move),
        Head(2, 1): head("name", "said", 0.5, *move),
        Head(3, 0): head("name", "said", 0.8, *unsaid),
        Head(3, 1): head("name", "said", -0.4, *already),
    }


def _idle(features: _Features, generator: torch.Generator) -> HeadWeights:
    """Small random weights: the head looks nearly everywhere alike, and writes little."""
    d_model = 2 * features.half

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / d_model**0.5

    n = len(NAMES)
    return HeadWeights(
        draw(d_model, n),
        torch.zeros(n),
        draw(d_model, n),
        draw(d_model, n),
        _IDLE * draw(n, d_model),
    )
