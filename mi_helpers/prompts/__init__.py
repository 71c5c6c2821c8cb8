"""Prompts with a known answer and an aligned corrupt twin.

Fixed prompts of the literature, one generator for each behaviour (they work with any tokenizer:
what it splits is left out), and random tokens that repeat. Every generator takes the model first,
because what is one token, and what has equal length, is a question to its tokenizer.
"""

from mi_helpers.prompts.behaviours import (
    agreement,
    facts,
    greater_than,
    pronouns,
    refusal,
    sentiment,
)
from mi_helpers.prompts.ioi import ioi
from mi_helpers.prompts.pairs import PromptPairs, from_texts, single_token, single_tokens
from mi_helpers.prompts.published import ioi_literature, literature_text, repeated_tokens
from mi_helpers.prompts.years import YearSpans, year_spans

__all__ = [
    "PromptPairs",
    "YearSpans",
    "agreement",
    "facts",
    "from_texts",
    "greater_than",
    "ioi",
    "ioi_literature",
    "literature_text",
    "pronouns",
    "refusal",
    "repeated_tokens",
    "sentiment",
    "single_token",
    "single_tokens",
    "year_spans",
]
