"""A small language for programs on sequences, after RASP, and its interpreter.

A program is a graph of variables. Each has a value at every position of a text, or none, and is
computed from other variables as a transformer could do it:

- `Tokens` and `Indices` are given, as embeddings are;
- `Gather` copies the value of another position, as a head does that looks at one place;
- `Mean` averages numbers over positions, as a head does that looks at many;
- `Map` computes a value from values at the same position, and `Cut` one from a number, as MLPs do.

A `Select` says at which positions, none later than its own, a `Gather` or a `Mean` looks.
`Program.run` runs a program in plain Python; `toys.compiled` writes the same program down as
weights.

Sources: Weiss et al. 2021, "Thinking like transformers" (RASP); Lindner et al. 2023, "Tracr".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

Value = Hashable
"""A value of a variable; None stands for "none"."""


@dataclass(frozen=True, eq=False)
class Var:
    """A variable: `name`, and in `values` what it can be at a position, none aside."""

    name: str

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The values, in order; empty for a number."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[Var, ...]:
        """The variables that it is computed from."""
        return ()

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """Its value at a position, from the values of its inputs at all positions."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Tokens(Var):
    """The token at a position; `vocabulary` lists those that texts are made of."""

    vocabulary: tuple[str, ...]

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The vocabulary."""
        return self.vocabulary


@dataclass(frozen=True, eq=False)
class Indices(Var):
    """The position itself, from 0 to `length` - 1; the start token is not counted."""

    length: int

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """0 to length - 1."""
        return tuple(range(self.length))

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """The position."""
        return position


@dataclass(frozen=True, eq=False)
class Select:
    """Which positions a position looks at: none that is later than itself.

    Attributes:
        query: The variable that decides at the position that looks.
        key: The variable that decides at the one looked at. Where either has no value, no match.
        matches: From a query's and a key's value to whether they match.
        but: Those that match any of these are left out again.
    """

    query: Var
    key: Var
    matches: Callable[[Value, Value], bool]
    but: tuple[Select, ...] = ()

    @property
    def inputs(self) -> tuple[Var, ...]:
        """The variables that decide."""
        return self.query, self.key, *(var for one in self.but for var in one.inputs)

    def terms(self) -> Iterator[tuple[Select, int]]:
        """Itself with 1, and what is left out again with -1."""
        yield self, 1
        for one in self.but:
            yield one, -1

    def found(self, position: int, known: Mapping[Var, Sequence[Value]]) -> list[int]:
        """The positions selected from one position."""
        asks, keys = known[self.query][position], known[self.key]
        found = [
            there
            for there in range(position + 1)
            if asks is not None and keys[there] is not None and self.matches(asks, keys[there])
        ]
        out = {there for one in self.but for there in one.found(position, known)}
        return [there for there in found if there not in out]


@dataclass(frozen=True, eq=False)
class Gather(Var):
    """The value of a variable where `where` looks; none where it finds nothing or that has none."""

    where: Select
    of: Var

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """Those of the variable that is copied."""
        return self.of.values

    @property
    def inputs(self) -> tuple[Var, ...]:
        """What decides, and what is copied."""
        return (*self.where.inputs, self.of)

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """The value; ValueError where there are several."""
        found = {known[self.of][there] for there in self.where.found(position, known)}
        if len(found) > 1:
            raise ValueError(
                f"{self.name!r} gathers {sorted(map(str, found))} at position {position}: a Gather "
                "copies one value; select fewer positions, or take a Mean"
            )
        return found.pop() if found else None


@dataclass(frozen=True, eq=False)
class Mean(Var):
    """The mean of numbers over the selected positions and the start token, which counts as zero.

    Attributes:
        where: The positions.
        of: The variable that is averaged.
        number: What each of its values counts; none, and what is not named, counts zero.
    """

    where: Select
    of: Var
    number: Mapping[Value, float]

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """Empty: it is a number."""
        return ()

    @property
    def inputs(self) -> tuple[Var, ...]:
        """What decides, and what is averaged."""
        return (*self.where.inputs, self.of)

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """The sum over the selected positions, divided by one more than their number."""
        found = self.where.found(position, known)
        return sum(self.number.get(known[self.of][there], 0.0) for there in found) / (
            1 + len(found)
        )


@dataclass(frozen=True, eq=False)
class Map(Var):
    """A function of values at the same position; it may return None for none."""

    of: tuple[Var, ...]
    function: Callable[..., Value]

    @cached_property
    def table(self) -> dict[tuple[Value, ...], Value]:
        """Every combination of inputs with a value, and that value; all none gives none."""
        choices = [(*var.values, None) for var in self.of]
        filled = {one: self.function(*one) for one in product(*choices) if any_value(one)}
        return {one: value for one, value in filled.items() if value is not None}

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The function's values."""
        return tuple(dict.fromkeys(self.table.values()))

    @property
    def inputs(self) -> tuple[Var, ...]:
        """The function's arguments."""
        return self.of

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """The function's value."""
        return self.table.get(tuple(known[var][position] for var in self.of))


@dataclass(frozen=True, eq=False)
class Cut(Var):
    """Names the piece of the number line in which a Mean lies.

    Attributes:
        of: The number.
        edges: Where the line is cut, rising.
        names: One for each piece, one more than there are edges; None for none.
        margin: How near to an edge the number can come; steps are as steep as this demands.
    """

    of: Mean
    edges: tuple[float, ...]
    names: tuple[Value, ...]
    margin: float

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The names."""
        return tuple(dict.fromkeys(name for name in self.names if name is not None))

    @property
    def inputs(self) -> tuple[Var, ...]:
        """The number."""
        return (self.of,)

    def at(self, position: int, known: Mapping[Var, Sequence[Value]]) -> Value:
        """The piece's name; ValueError for a number nearer to an edge than the margin."""
        number = float(known[self.of][position])  # type: ignore[arg-type]
        if any(abs(number - edge) < self.margin for edge in self.edges):
            raise ValueError(
                f"{self.name!r}: {number:g} is nearer than {self.margin:g} to one of {self.edges}"
            )
        return self.names[sum(number > edge for edge in self.edges)]


@dataclass(frozen=True, eq=False)
class Program:
    """A program: after each position it says a token.

    Attributes:
        tokens: The given tokens.
        indices: The given positions.
        output: Variables whose values are tokens, each with the strength with which it is said.
        spoken: Tokens that are said and never read, such as "yes".
    """

    tokens: Tokens
    indices: Indices
    output: Mapping[Var, float]
    spoken: tuple[str, ...] = ()
    variables: tuple[Var, ...] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[Var, None] = {self.tokens: None, self.indices: None}

        def visit(var: Var) -> None:
            for one in var.inputs:
                visit(one)
            found.setdefault(var)

        for var in self.output:
            visit(var)
        object.__setattr__(self, "variables", tuple(found))
        _check(self)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All tokens, read or said."""
        return tuple(dict.fromkeys((*self.tokens.vocabulary, *self.spoken)))

    def run(
        self, text: Sequence[str], given: Mapping[Var, Sequence[Value]] | None = None
    ) -> dict[Var, list[Value]]:
        """Every variable at every position; ValueError for a text that the program cannot read.

        Variables in `given` are not computed: they have the values that stand there, from another
        text of this length, say. That is an interchange intervention on the program.
        """
        if unknown := [token for token in text if token not in self.tokens.vocabulary]:
            raise ValueError(f"{unknown} are not in the vocabulary {self.tokens.vocabulary}")
        if not 0 < len(text) <= self.indices.length:
            raise ValueError(f"{len(text)} tokens; the program reads 1 to {self.indices.length}")
        known: dict[Var, list[Value]] = {self.tokens: list(text)}
        for var in self.variables[1:]:
            fixed = (given or {}).get(var)
            known[var] = [
                var.at(position, known) if fixed is None else fixed[position]
                for position in range(len(text))
            ]
        return known

    def says(
        self, text: Sequence[str], given: Mapping[Var, Sequence[Value]] | None = None
    ) -> list[str | None]:
        """The token said after each position; None where nothing is, or two are equally strong.

        `given` as in `run`.
        """
        known, said = self.run(text, given), []
        for position in range(len(text)):
            strength: dict[str, float] = {}
            for var, weight in self.output.items():
                token = known[var][position]
                if token is not None:
                    strength[str(token)] = strength.get(str(token), 0.0) + weight
            best = sorted(strength.items(), key=lambda item: -item[1])[:2]
            unique = best and best[0][1] > 0 and (len(best) < 2 or best[0][1] > best[1][1])
            said.append(best[0][0] if unique else None)
        return said


def any_value(values: Sequence[Value]) -> bool:
    """Whether any of some values is there."""
    return any(value is not None for value in values)


def varies(var: Var) -> bool:
    """Whether a variable depends on the text, and not on the position alone."""
    return isinstance(var, Tokens) or any(map(varies, var.inputs))


def _check(program: Program) -> None:
    """ValueError, with the variable's name, for a program that no weights could be set for."""
    names = [var.name for var in program.variables]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two variables are called {sorted(twice)}: give each a name of its own")
    for var in program.variables:
        if var not in (program.tokens, program.indices) and isinstance(var, Tokens | Indices):
            raise ValueError(f"{var.name!r}: a program has one Tokens and one Indices")
        for one in var.inputs:
            if not one.values and not isinstance(var, Cut):
                raise ValueError(f"{var.name!r} reads {one.name!r}, which is a number: Cut it")
        if isinstance(var, Map) and not var.values:
            raise ValueError(f"{var.name!r} has no value for any input")
        if isinstance(var, Cut) and (
            list(var.edges) != sorted(set(var.edges)) or len(var.names) != len(var.edges) + 1
        ):
            raise ValueError(
                f"{var.name!r} needs rising edges and one name more than there are, got "
                f"{var.edges} and {var.names}"
            )
    for var in program.output:
        if not var.values or not set(var.values) <= set(program.vocabulary):
            raise ValueError(
                f"{var.name!r} is said, so its values must be tokens: {var.values or 'a number'} "
                f"is not in {program.vocabulary}"
            )
