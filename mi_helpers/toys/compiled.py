"""Programs as weights: a small GPT-2 that runs a program of `toys.rasp`, and its true circuit.

Every value of every variable gets a direction of the residual stream of its own, so a `Gather` or a
`Mean` is a head, a `Map` or a `Cut` is part of an MLP, and reading a variable is reading its
directions. A head that finds nothing to look at rests on the start token.

Two things make this exact in spite of LayerNorm. Each direction is written with its opposite, so
the mean of a stream is zero and centring changes nothing. And one direction carries a constant that
is large beside all else, so the standard deviation is nearly that constant's: LayerNorm divides by
the same number everywhere, which its gain undoes.

The heads and MLPs without a purpose get small random weights, and the seed decides which those are.

Source: Lindner et al. 2023, "Tracr", which compiles RASP to transformers without LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers import GPT2LMHeadModel

from mi_helpers.sites import Head
from mi_helpers.toys.opening import config_of_words, opened_with_words
from mi_helpers.toys.rasp import (
    Cut,
    Gather,
    Indices,
    Map,
    Mean,
    Program,
    Select,
    Tokens,
    Value,
    Var,
    varies,
)
from mi_helpers.toys.weights import Places, Stream, idle_parts, purposeful, state_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Edges = set[tuple[str, str]]
Run = Mapping[Var, Sequence[Value]]
"""Every variable at every position: `Program.run`."""


@dataclass(frozen=True, eq=False)
class Wire:
    """A variable on its way.

    Attributes:
        var: The variable.
        writer: Who computes it: a head, an MLP or "embed".
        reader: Who reads it, as in the edge graph.
        take: From a value to what the reader does with it; equal results make no difference.
    """

    var: Var
    writer: str
    reader: str
    take: Callable[[Value], Value]

    @property
    def steady(self) -> bool:
        """Whether it carries the same in all texts of a length, by the program."""
        given = isinstance(self.var, Tokens | Indices)
        return not varies(self.var) or (given and len(set(map(self.take, self.var.values))) == 1)

    def moves(self, run: Run, other: Run) -> bool:
        """Whether its reader is told something else in one run of the program than in another."""
        pairs = zip(run[self.var], other[self.var], strict=True)
        return any(self.take(one) != self.take(two) for one, two in pairs)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the program says about the compiled model.

    Attributes:
        place: Which head or MLP computes each variable, by the variable's name; "embed" for the
            given ones.
        wires: Every variable on its way to every reader.
    """

    place: Mapping[str, str]
    wires: tuple[Wire, ...]

    @property
    def nodes(self) -> set[str]:
        """The heads and MLPs that compute a variable."""
        return set(self.place.values()) - {"embed"}

    @property
    def edges(self) -> Edges:
        """The edges (writer, reader) that tell the reader something about the text."""
        return {(wire.writer, wire.reader) for wire in self.wires if not wire.steady}

    @property
    def steady(self) -> Edges:
        """The edges that the program needs and that carry the same in all texts of a length."""
        return {(wire.writer, wire.reader) for wire in self.wires} - self.edges

    def moving(self, runs: Sequence[tuple[Run, Run]]) -> Edges:
        """The edges that differ between the two runs of any pair: all that contrasts can see."""
        return {
            (wire.writer, wire.reader)
            for wire in self.wires
            if any(wire.moves(*pair) for pair in runs)
        }


def compiled(
    program: Program,
    seed: int = 0,
    *,
    sharp: float = 16.0,
    idle: float = 0.003,
    n_layers: int = 3,
    n_heads: int = 4,
    trained: bool = True,
) -> tuple[TransformerBridge, Truth]:
    """Write a program down as weights.

    Args:
        program: What the model shall do.
        seed: Draws which heads and layers are used, and the weights of the others.
        sharp: A head's score for what it selects, in nats; its place of rest gets half.
        idle: How loud heads and MLPs without a purpose are.
        n_layers: Layers, at least; more if the program needs more.
        n_heads: Heads a layer.
        trained: False gives the control: the same shape with weights as before training.

    Returns:
        The model, loaded like any other, and the truth about it. It is the program's model where
        both say the same: assert it on the texts you use.

    Raises:
        ValueError: more variables of a layer than it has heads.
    """
    generator = torch.Generator().manual_seed(seed)
    place = places_of(program, n_layers, n_heads, generator)
    shape = max([n_layers, *(layer + 1 for layer, _ in place.values())]), n_heads
    stream = Stream(program, n_heads)
    heads, mlps = purposeful(program, place, stream, sharp)
    for layer in range(shape[0]):
        for head in range(n_heads):
            spare = idle_parts(stream, idle, generator)
            heads.setdefault(Head(layer, head), spare[0])
        mlps.setdefault(layer, idle_parts(stream, idle, generator)[1])
    n_inner = max(len(mlp.b_in) for mlp in mlps.values())
    config = config_of_words(
        len(program.vocabulary), program.indices.length + 1, shape, 2 * stream.half, n_inner,
        activation_function="relu",
    )  # fmt: skip
    if trained:
        state = state_of(program, config, stream, (heads, mlps))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = GPT2LMHeadModel(config).state_dict()
        state = {name: weight.clone() for name, weight in fresh.items()}
    model = opened_with_words("compiled", program.vocabulary, config, state)
    return model, truth_of(program, place)


def places_of(program: Program, n_layers: int, n_heads: int, generator: torch.Generator) -> Places:
    """Layers as early as the inputs allow, spread over those there are; heads by chance."""
    when: dict[Var, int] = {}  # twice the layer, one more for its MLP
    for var in program.variables:
        ready = max([-1, *(when[one] for one in var.inputs)]) + 1
        parity = int(isinstance(var, Map | Cut))
        when[var] = ready + (ready % 2 != parity) if var.inputs else -1
    depth = max(when.values()) // 2 + 1
    layers = torch.randperm(max(depth, n_layers), generator=generator)[:depth].sort().values
    slots = {layer: torch.randperm(n_heads, generator=generator).tolist() for layer in range(depth)}
    place: Places = {}
    for var, time in when.items():
        if time >= 0:
            level, is_mlp = divmod(time, 2)
            if not is_mlp and not slots[level]:
                raise ValueError(f"no head is left for {var.name!r}: give n_heads={n_heads + 1}")
            place[var] = int(layers[level]), None if is_mlp else slots[level].pop()
    return place


def _name(place: tuple[int, int | None] | None) -> str:
    if place is None:
        return "embed"
    layer, head = place
    return f"MLP{layer}" if head is None else str(Head(layer, head))


def truth_of(program: Program, place: Places) -> Truth:
    """What is true of a model whose heads and MLPs compute a program's variables at `place`."""
    wires: list[Wire] = []

    def wire(var: Var, reader: str, take: Callable[[Value], Value]) -> None:
        wires.append(Wire(var, _name(place.get(var)), reader, take))

    for var in program.variables:
        node = _name(place.get(var))
        if isinstance(var, Gather | Mean):
            for term, _ in var.where.terms():
                wire(term.query, f"{node}.q", partial(_asked, term))
                wire(term.key, f"{node}.k", partial(_offered, term))
            number = var.number if isinstance(var, Mean) else None
            wire(var.of, f"{node}.v", partial(_counted, number))
        elif isinstance(var, Map | Cut):
            for one in var.inputs:
                wire(one, node, _as_it_is)
    for var in program.output:
        wire(var, "logits", _as_it_is)
    return Truth({var.name: _name(place.get(var)) for var in program.variables}, tuple(wires))


def _as_it_is(value: Value) -> Value:
    return value


def _counted(number: Mapping[Value, float] | None, value: Value) -> Value:
    return value if number is None else number.get(value, 0.0)


def _asked(term: Select, query: Value) -> Value:
    """The keys that a query's value matches."""
    return tuple(query is not None and term.matches(query, key) for key in term.key.values)


def _offered(term: Select, key: Value) -> Value:
    """The queries that a key's value matches."""
    return tuple(key is not None and term.matches(query, key) for query in term.query.values)
