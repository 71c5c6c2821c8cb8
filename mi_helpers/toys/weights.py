"""The weights of a compiled program: where a variable stands in the stream, and who reads it.

Every value of every variable has a direction of its own, a number has one. `Stream` says which;
each function below writes one kind of variable down, in the coordinates of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from mi_helpers.sites import Head
from mi_helpers.toys.rasp import Cut, Gather, Map, Mean, Program, Var

Places = dict[Var, tuple[int, int | None]]
"""The layer of each computed variable, and its head; None for the MLP."""

_STEADY = 300.0
"""The constant in every stream, where a value that is there counts one."""
_LOUD = 10.0
"""The logit of what is said with strength one."""
_IDLE_WIDTH, _IDLE_NEURONS = 8, 8


class Stream:
    """Which coordinates of the residual stream carry what; each has its opposite."""

    def __init__(self, program: Program, n_heads: int) -> None:
        self.first: dict[Var, int] = {}
        n = 2  # the constant, and "this is the start token"
        for var in program.variables:
            self.first[var] = n
            n += _width(var)
        heads = [var for var in program.variables if isinstance(var, Gather | Mean)]
        widths = [1 + sum(_width(term.key) for term, _ in var.where.terms()) for var in heads]
        widths += [_width(var.of) for var in heads]
        d_head = max([_IDLE_WIDTH, -(-2 * n // n_heads), *widths])
        self.d_head = d_head + d_head * n_heads % 2
        self.n_features, self.half = n, n_heads * self.d_head // 2
        self._n_given = 2 + _width(program.tokens) + _width(program.indices)

    def _directions(self, where: list[int]) -> Float[Tensor, "direction d_model"]:
        rows = torch.zeros(len(where), 2 * self.half)
        rows[range(len(where)), where] = 1.0
        rows[range(len(where)), [i + self.half for i in where]] = -1.0
        return rows

    def write(self, var: Var) -> Float[Tensor, "value d_model"]:
        """What puts each value of a variable into the stream; a number has one row."""
        first = self.first[var]
        return self._directions(list(range(first, first + _width(var))))

    def read(self, var: Var) -> Float[Tensor, "d_model value"]:
        """What gives the strength of each value."""
        return self.write(var).T / 2

    @property
    def steady(self) -> Float[Tensor, "1 d_model"]:
        """The constant, of size one."""
        return self._directions([0])

    @property
    def bos(self) -> Float[Tensor, "1 d_model"]:
        """What marks the start token."""
        return self._directions([1])

    @property
    def all(self) -> Float[Tensor, "feature d_model"]:
        """Everything but the constant."""
        return self._directions(list(range(1, self.n_features)))

    @property
    def computed(self) -> Float[Tensor, "feature d_model"]:
        """What the program computes: all but what it is given."""
        return self._directions(list(range(self._n_given, self.n_features)))


def _width(var: Var) -> int:
    return max(1, len(var.values))


@dataclass(frozen=True)
class HeadWeights:
    """One head: scores in nats are `(x @ Q + b_Q) @ (x @ K).T`, its output is `x @ V @ out`."""

    Q: Float[Tensor, "d_model match"]
    b_Q: Float[Tensor, "match"]
    K: Float[Tensor, "d_model match"]
    V: Float[Tensor, "d_model value"]
    out: Float[Tensor, "value d_model"]


@dataclass(frozen=True)
class Neurons:
    """Some neurons of an MLP: `relu(x @ W_in + b_in) @ W_out`."""

    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, "neuron"]
    W_out: Float[Tensor, "neuron d_model"]


def _head(stream: Stream, var: Gather | Mean, sharp: float) -> HeadWeights:
    """The head of a variable: one block of its scores for each term, and one for its rest."""
    sharp = sharp / 2 if isinstance(var, Mean) else sharp  # noise in it would bend the mean
    Q, K = [], []
    for term, sign in var.where.terms():
        strength = sharp if sign > 0 else -2 * sharp
        table = torch.tensor([[float(term.matches(query, key)) for key in term.key.values]
                              for query in term.query.values])  # fmt: skip
        Q.append(stream.read(term.query) @ table * strength)
        K.append(stream.read(term.key))
    rest = sharp if isinstance(var, Mean) else sharp / 2  # a Mean counts the start token in
    b_Q = torch.cat([torch.zeros(sum(one.shape[1] for one in Q)), torch.tensor([rest])])
    Q.append(torch.zeros(len(Q[0]), 1))
    K.append(stream.bos.T / 2)
    out = stream.write(var)
    if isinstance(var, Mean):
        numbers = torch.tensor([[float(var.number.get(value, 0.0))] for value in var.of.values])
        out = numbers @ out
    return HeadWeights(torch.cat(Q, 1), b_Q, torch.cat(K, 1), stream.read(var.of), out)


def _map(stream: Stream, var: Map) -> Neurons:
    """A neuron for each combination of inputs: it fires with one where all of them are there."""
    W_in, b_in, W_out = [], [], []
    rows = dict(zip(var.values, stream.write(var), strict=True))
    for values, result in var.table.items():
        reads = torch.zeros(2 * stream.half)
        for one, value in zip(var.of, values, strict=True):
            read = stream.read(one)
            reads += -read.sum(1) if value is None else read[:, one.values.index(value)]
        W_in.append(2 * reads)
        b_in.append(1.0 - 2 * sum(value is not None for value in values))
        W_out.append(rows[result])
    return Neurons(torch.stack(W_in, 1), torch.tensor(b_in), torch.stack(W_out))


def _cut(stream: Stream, var: Cut) -> Neurons:
    """Two neurons for each edge, whose difference is a step, and one that says "no start token"."""
    steep = 1 / var.margin
    read, no_bos = stream.read(var.of)[:, 0] * steep, -stream.bos[0] / 2
    W_in, b_in, W_out = [no_bos], [1.0], [_row(stream, var, 0)]
    for i, edge in enumerate(var.edges):
        change = _row(stream, var, i + 1) - _row(stream, var, i)
        for side in (0.5, -0.5):
            W_in.append(read + 10 * steep * no_bos)
            b_in.append(side - steep * edge)
            W_out.append(change if side > 0 else -change)
    return Neurons(torch.stack(W_in, 1), torch.tensor(b_in), torch.stack(W_out))


def _row(stream: Stream, var: Cut, piece: int) -> Float[Tensor, "d_model"]:
    rows, name = stream.write(var), var.names[piece]
    return torch.zeros_like(rows[0]) if name is None else rows[var.values.index(name)]


Parts = tuple[dict[Head, HeadWeights], dict[int, Neurons]]


def purposeful(program: Program, place: Places, stream: Stream, sharp: float) -> Parts:
    """The heads and the MLPs that have a purpose."""
    heads: dict[Head, HeadWeights] = {}
    mlps: dict[int, list[Neurons]] = {}
    for var, (layer, head) in place.items():
        if isinstance(var, Gather | Mean) and head is not None:
            heads[Head(layer, head)] = _head(stream, var, sharp)
        elif isinstance(var, Map):
            mlps.setdefault(layer, []).append(_map(stream, var))
        elif isinstance(var, Cut):
            mlps.setdefault(layer, []).append(_cut(stream, var))
    joined = {
        layer: Neurons(
            torch.cat([one.W_in for one in parts], 1),
            torch.cat([one.b_in for one in parts]),
            torch.cat([one.W_out for one in parts]),
        )
        for layer, parts in mlps.items()
    }
    return heads, joined


def idle_parts(
    stream: Stream, loud: float, generator: torch.Generator
) -> tuple[HeadWeights, Neurons]:
    """A head and some neurons with small random weights.

    They read every feature, and write into those of computed variables.
    """
    features, computed = stream.all, stream.computed

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / len(features) ** 0.5

    def read(n: int) -> Tensor:
        return features.T / 2 @ draw(len(features), n)

    n, m = _IDLE_WIDTH, _IDLE_NEURONS
    head = HeadWeights(
        read(n), torch.zeros(n), read(n), read(n), loud * draw(n, len(computed)) @ computed
    )
    return head, Neurons(read(m), torch.zeros(m), loud * draw(m, len(computed)) @ computed)


def state_of(
    program: Program, config: GPT2Config, stream: Stream, parts: Parts
) -> dict[str, Tensor]:
    """All weights, in GPT-2's layout."""
    undo = _STEADY * (2 / config.n_embd) ** 0.5  # what LayerNorm divides by
    state = blank_state(config, undo)
    read = [program.vocabulary.index(token) + 1 for token in program.tokens.vocabulary]
    state["transformer.wte.weight"][:1] = stream.bos
    state["transformer.wte.weight"][read] = stream.write(program.tokens)
    state["transformer.wpe.weight"] += _STEADY * stream.steady
    state["transformer.wpe.weight"][1:] += stream.write(program.indices)
    for var, strength in program.output.items():
        said = [program.vocabulary.index(str(token)) + 1 for token in var.values]
        state["lm_head.weight"][said] += _LOUD * strength * stream.read(var).T
    heads, mlps = parts
    for head, weights in heads.items():
        set_head(state, head, weights, stream.d_head)
    for layer, neurons in mlps.items():
        block, n = f"transformer.h.{layer}.mlp.", len(neurons.b_in)
        state[block + "c_fc.weight"][:, :n] = neurons.W_in
        state[block + "c_fc.bias"][:n] = neurons.b_in
        state[block + "c_proj.weight"][:n] = neurons.W_out
    return state


def blank_state(config: GPT2Config, gain: float) -> dict[str, Tensor]:
    """All weights by Hugging Face's names: zero but for the LayerNorms' gains."""
    return {
        name: torch.full(weight.shape, gain if "ln_" in name and name.endswith("weight") else 0.0)
        for name, weight in GPT2LMHeadModel(config).state_dict().items()
    }


def set_head(state: dict[str, Tensor], head: Head, weights: HeadWeights, d_head: int) -> None:
    """Put a head's matrices, narrower than d_head, where GPT-2 keeps them."""
    block, d_model = f"transformer.h.{head.layer}.attn.", len(weights.Q)
    first, scaled = head.head * d_head, d_head**0.5  # attention divides by the root of d_head
    for i, matrix in enumerate((weights.Q * scaled, weights.K, weights.V)):
        columns = slice(i * d_model + first, i * d_model + first + matrix.shape[1])
        state[block + "c_attn.weight"][:, columns] = matrix
    state[block + "c_attn.bias"][first : first + len(weights.b_Q)] = weights.b_Q * scaled
    state[block + "c_proj.weight"][first : first + len(weights.out)] = weights.out
