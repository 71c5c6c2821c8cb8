"""Text with its truth: templates are filled slot by slot, and every slot's place is kept.

A template is a plain string with ``{slot}`` fields. `Writer` fills templates one after the other
and records a `Span` for each slot that carries meaning, so that a probe, a feature or a circuit
can later be scored against what the generator meant rather than against a guess.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SPLITS = ("train", "test")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a text, and what they are."""

    start: int
    end: int
    role: str
    value: str

    def shifted(self, by: int) -> Span:
        """The same span ``by`` characters later."""
        return Span(self.start + by, self.end + by, self.role, self.value)


@dataclass(frozen=True)
class Sample:
    """A generated text with its ground truth.

    ``labels`` speak of the whole text (who is the subject, which sentiment, which fact),
    ``spans`` of parts of it. ``answer`` is a span index: the last one whose role is ``answer``,
    if there is one.
    """

    text: str
    kind: str
    labels: Mapping[str, object]
    spans: tuple[Span, ...] = ()

    @property
    def answer_span(self) -> Span:
        """The span that a reader who understood the text could have predicted."""
        for span in reversed(self.spans):
            if span.role == "answer" or span.role.endswith(":answer"):
                return span
        raise ValueError(
            f"a sample of kind {self.kind!r} marks no answer; use sample(), not prompt()"
        )


@dataclass(frozen=True)
class Prompt:
    """A text cut right before its answer. ``answer`` and ``wrong`` carry the leading space."""

    text: str
    answer: str
    wrong: str
    kind: str
    labels: Mapping[str, object]
    spans: tuple[Span, ...] = ()


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` alone, on every machine and in every run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def combination_split(*parts: str) -> str:
    """``test`` for a fifth of the combinations of parts: each is trained on, never together."""
    return "test" if share("combination", *parts) < 0.2 else "train"


def words_of(text: str) -> set[str]:
    """The words of a template, slots left out."""
    return set(re.findall(r"[A-Za-z]+", _FIELD.sub(" ", text)))


def split_pools(
    pools: Mapping[str, Sequence[str]], held_out: float = 0.25
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Keep a share of every pool for the test split, of items that use no word of their own.

    An item is held out when its hash says so and each of its words also stands in an item that is
    trained on; so a held-out clause is new as a clause, not as vocabulary. A pool whose test part
    would be empty gives its least hashed admissible item.
    """
    key = {
        (name, item): share("pool", name, item) for name, items in pools.items() for item in items
    }
    known: set[str] = set()
    for (_, item), value in key.items():
        if value >= held_out:
            known |= words_of(item)
    out = {}
    for name, items in pools.items():
        test = [i for i in items if key[name, i] < held_out and words_of(i) <= known]
        out[name] = {
            "test": tuple(test) or tuple(items),
            "train": tuple(i for i in items if i not in set(test)),
        }
    return out


@dataclass
class Writer:
    """Builds one text sentence by sentence and keeps the spans."""

    text: str = ""
    spans: list[Span] = field(default_factory=list)

    def add(
        self,
        template: str,
        slots: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
        *,
        glue: str = " ",
        capital: bool = False,
    ) -> Writer:
        """Append ``template``: fields from ``slots``, spans for those in ``roles``."""
        slots, roles = slots or {}, roles or {}
        start = self.text + (glue if self.text else "")
        parts, spans, cursor, length = [], [], 0, len(start)
        for match in _FIELD.finditer(template):
            literal = template[cursor : match.start()]
            value = slots[match.group(1)]
            parts += [literal, value]
            length += len(literal)
            if match.group(1) in roles:
                spans.append(Span(length, length + len(value), roles[match.group(1)], value))
            length += len(value)
            cursor = match.end()
        body = "".join(parts) + template[cursor:]
        if capital and body:
            body = body[0].upper() + body[1:]
        self.text = start + body
        self.spans += spans
        return self

    def sentence(
        self,
        template: str,
        slots: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> Writer:
        """Append a sentence: capital first letter, full stop unless it ends with its own mark."""
        self.add(template, slots, roles, capital=True)
        if self.text[-1] not in ".!?:\n":
            self.text += "."
        return self

    def end(
        self,
        template: str,
        slots: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> Writer:
        """Continue the open sentence and close it."""
        self.add(template, slots, roles)
        if self.text[-1] not in ".!?":
            self.text += "."
        return self

    def sample(self, kind: str, **labels: object) -> Sample:
        """The finished text."""
        return Sample(self.text, kind, labels, tuple(self.spans))


def cut(sample: Sample, wrong: str) -> Prompt:
    """The text before the answer of ``sample``, with the answer and a wrong one, spaces leading."""
    span = sample.answer_span
    if span.start == 0 or sample.text[span.start - 1] != " ":
        raise ValueError(f"the answer {span.value!r} of {sample.text!r} is not preceded by a space")
    kept = tuple(s for s in sample.spans if s.end < span.start)
    return Prompt(
        sample.text[: span.start - 1],
        " " + span.value,
        " " + wrong,
        sample.kind,
        sample.labels,
        kept,
    )


def with_article(noun: str) -> str:
    """``a`` or ``an`` before the noun, by its first letter."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def lines(block: str) -> list[str]:
    """The items of a list written one a line."""
    return [item.strip() for item in block.splitlines() if item.strip()]
