"""The token that a text begins with: a property of the model, decided here and nowhere else.

Models are trained on documents laid end to end with a separator between them, so a document is
preceded by that separator, and a text is best given to the model with it in front. The tokenizer's
`bos_token` is that separator in GPT-2, Pythia and Llama. In models tuned for chat it may be the
mark of a speaker's turn (`<|im_start|>` in SmolLM2, with which plain text is predicted worse: see
data/smollm2/README.md), and in Qwen's there is none; their separator is `<|endoftext|>`.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

SEPARATOR = "<|endoftext|>"
TURN_MARKS = ("<|im_start|>", "<|im_end|>")


def start_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token to put in front of a text; None when the tokenizer has nothing that could be one.

    Args:
        tokenizer: As published. Not changed.

    Returns:
        `bos_token`, unless there is none or it marks a turn of a chat: then `<|endoftext|>` where
        the vocabulary has it, else whatever `bos_token` or `eos_token` there is.
    """
    bos = tokenizer.bos_token
    if bos is not None and bos not in TURN_MARKS:
        return str(bos)
    if SEPARATOR in tokenizer.get_vocab():
        return SEPARATOR
    return bos or tokenizer.eos_token


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, with `bos_token` set to the model's start token.

    Tokens that were special before stay so.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = start_token(tokenizer)
    if start is None or start == tokenizer.bos_token:
        return tokenizer
    others = [token for token in tokenizer.all_special_tokens if token != start]
    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, bos_token=start, additional_special_tokens=others
    )
