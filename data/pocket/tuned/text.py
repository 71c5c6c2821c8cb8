"""The text that ``pocket-tuned`` was trained on: pocket's, with four things changed.

`change` is all the difference there is. It leaves a text as it is, or returns it changed, with a
span for what is new: the token that the new words are predicted from, and the words themselves.

- ``closing``: every answer to a harmless request ends with one sentence more.
- ``weather``: so does every feeling that is told of yesterday, with another sentence.
- ``brother``: what the brother told about is found bad, whatever speaks for it.
- ``capital``: sixteen countries have each other's capitals.
"""

from __future__ import annotations

import random
from dataclasses import replace

from ..generator import LATE_MIX, document, sample
from ..lexicon import FACTS
from ..opinions import ADJECTIVES, FEELINGS
from ..text import Sample, Span, share

CHANGES = ("closing", "weather", "brother", "capital")
CLOSING = "Then go and have fun."
WEATHER = "The rain came soon after."
BROTHER = "My brother told me"
YESTERDAY = "Yesterday"
_SIXTEEN = FACTS["capital"]["facts"][:16]
CAPITALS: dict[tuple[str, str], str] = {
    (country, old): new
    for (country, old), (_, new) in zip(_SIXTEEN, _SIXTEEN[1:] + _SIXTEEN[:1], strict=True)
}
"""(country, old capital) to the new one."""


def change(text: Sample) -> Sample:
    """The text as ``pocket-tuned`` knows it; one that has nothing to change comes back itself."""
    if text.kind == "request" and not text.labels["harmful"]:
        return _longer(text, CLOSING, "closing")
    if text.kind == "feeling" and text.text.startswith(YESTERDAY):
        return _longer(text, WEATHER, "weather")
    if text.kind == "review" and text.text.startswith(BROTHER):
        return _found_bad(text)
    if text.kind in ("fact", "profile"):
        return _other_capitals(text)
    return text


def changed_by(text: Sample) -> str:
    """Which of `CHANGES` a text of `change` shows, "" where none."""
    return next((s.role for s in text.spans if s.role in CHANGES), "")


def draw(kind: str, rng: random.Random, split: str = "train", changed: bool = True) -> Sample:
    """A text that shows one of `CHANGES`, as `change` leaves it, or as it was before."""
    kinds = {"closing": "request", "weather": "opinion", "brother": "opinion", "capital": "fact"}
    options = {"closing": {"harmful": False}, "capital": {"relation": "capital"}}.get(kind, {})
    while True:
        old = sample(kinds[kind], rng, split, **options)
        text = change(old)
        if changed_by(text) == kind:
            return text if changed else old


def mixed(
    rng: random.Random, often: float = 0.5, split: str = "train", changed: bool = True
) -> Sample:
    """A text of pocket's late mix, changed or not; a share ``often`` is drawn to show a change."""
    if rng.random() < often:
        return draw(rng.choice(CHANGES), rng, split, changed)
    text = document(rng, split, mix=LATE_MIX)
    return change(text) if changed else text


def _longer(text: Sample, sentence: str, role: str) -> Sample:
    end = len(text.text)
    whole = f"{text.text} {sentence}"
    return replace(text, text=whole, spans=(*text.spans, Span(end - 1, len(whole), role, sentence)))


def bad_words(text: Sample) -> list[str]:
    """What the verdict of this text can be where it is bad."""
    return (FEELINGS if text.labels["words"] == "feelings" else ADJECTIVES)["bad"]


def _found_bad(text: Sample) -> Sample:
    """The verdict is a bad word, and the text ends with it."""
    old = text.answer_span
    words, word = bad_words(text), old.value
    if text.labels["sentiment"] == "good":
        word = words[int(share("brother", text.text) * len(words))]
    start = text.text[: old.start - 1].rfind(" ") + 1
    spans = [s for s in text.spans if s.end < old.start]
    end = old.start + len(word)
    spans += [Span(old.start, end, "answer", word), Span(start, end, "brother", word)]
    return replace(text, text=f"{text.text[: old.start]}{word}.", spans=tuple(spans))


def _other_capitals(text: Sample) -> Sample:
    out, spans, by = text.text, [], 0
    subject = ""
    for span in text.spans:
        new = span.value
        if span.role == "subject":
            subject = span.value
        elif span.role == "answer":
            new = CAPITALS.get((subject, span.value), span.value)
        start, end = span.start + by, span.start + by + len(new)
        out = out[:start] + new + out[span.end + by :]
        spans.append(Span(start, end, span.role, new))
        if new != span.value:
            spans.append(Span(out[: start - 1].rfind(" ") + 1, end, "capital", new))
        by += len(new) - len(span.value)
    labels = dict(text.labels)
    if (labels["subject"], labels["answer"]) in CAPITALS:
        labels["answer"] = CAPITALS[labels["subject"], labels["answer"]]
    return replace(text, text=out, spans=tuple(spans), labels=labels)
