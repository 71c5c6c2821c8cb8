"""Pocket's tokenizer: byte-level BPE in which the words that matter are single tokens.

The pre-tokenizer splits digits in pairs, so "1732" is " 17" + "32" as the greater-than prompts
need. Words that carry answers (names, facts' answers, sentiment words, nouns, two-digit numbers
…) are repeated in the training text until each becomes one token with its leading space.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from . import forms
from .facts import all_facts
from .generator import document
from .lexicon import LEXICON, NAMES

BOS = "<|endoftext|>"
PATTERN = r" ?\d{1,2}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BOOST = 4000


def single_words() -> list[str]:
    """Every word that must be one token, without its space."""
    words: set[str] = set(NAMES) | {answer for _, _, answer in all_facts()}
    for key in (
        "adjectives_good",
        "adjectives_bad",
        "feelings_good",
        "feelings_bad",
        "verbs_like",
        "verbs_dislike",
        "review_things",
        "professions",
        "animals",
        "foods",
    ):
        words |= set(LEXICON[key])
    words |= {form for pair in LEXICON["count_nouns"] for form in pair}
    words |= {phrase.split()[-1] for key in ("places", "objects") for phrase in LEXICON[key]}
    words |= set(forms.DAYS + forms.MONTHS + forms.LETTERS + forms.NUMBER_WORDS + forms.ORDINALS)
    words |= {
        "he",
        "she",
        "him",
        "her",
        "his",
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "Sorry",
        "Sure",
        "Yes",
        "No",
    }
    return sorted(w for w in words if " " not in w)


def required_tokens() -> list[str]:
    """What must be one token: words with a space, names also without, numbers both ways."""
    numbers = [f"{n:02d}" for n in range(100)] + [str(n) for n in range(10)]
    spaced = [" " + w for w in single_words() + numbers]
    return spaced + list(NAMES) + numbers


def _text(documents: int, seed: int) -> Iterable[str]:
    for index in range(documents):
        yield document(seed + index).text
    for token in required_tokens():
        yield "\n".join([token] * BOOST)


def build(vocab_size: int, documents: int = 60_000, seed: int = 10_000_000) -> Tokenizer:
    """Train the tokenizer.

    Raises:
        ValueError: some required word is not one token; a larger ``vocab_size`` is the remedy.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_text(documents, seed), trainer)
    split = [t for t in required_tokens() if len(tokenizer.encode(t).ids) != 1]
    if split:
        raise ValueError(
            f"{len(split)} required words are not single tokens at vocab_size={vocab_size}, "
            f"such as {split[:8]}: raise vocab_size"
        )
    return tokenizer
