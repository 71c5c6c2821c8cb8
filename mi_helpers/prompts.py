"""Prompts with a known answer and an aligned corrupt twin.

Fixed prompts of the literature, one generator for each behaviour (they work with any tokenizer:
what it splits is left out), and random tokens that repeat. Every generator takes the model first,
because what is one token, and what has equal length, is a question to its tokenizer.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers._behaviours import (
    agreement,
    facts,
    greater_than,
    pronouns,
    refusal,
    sentiment,
    two_digit_tokens,
)
from mi_helpers._ioi import ioi
from mi_helpers._prompt_pairs import PromptPairs, from_texts, single_token

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

__all__ = [
    "PromptPairs",
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
    "two_digit_tokens",
]


def ioi_literature(model: TransformerBridge, name: str = "ioi8") -> PromptPairs:
    """Published prompts for indirect object identification, word for word.

    Args:
        model: A model whose tokenizer keeps the eight names whole.
        name: "ioi8" (eight prompts, 15 tokens in GPT-2 with BOS; prompts 2k and 2k + 1 are each
            other's corrupt twins) or "milk" (one such pair). Sources: data/prompts/ioi.toml.

    Roles in `positions`: IO1, S1 (first mentions), S2 (the giver, again), end.
    """
    table = _read("ioi.toml")
    if name not in table:
        raise KeyError(f"no published set {name!r}; there is {', '.join(table)}")
    texts, answers, wrong = zip(*table[name]["prompts"], strict=True)
    spans, labels = [], []
    for text, right, other in zip(texts, answers, wrong, strict=True):
        receiver, giver = right.strip(), other.strip()
        starts = {
            "IO1": text.index(receiver),
            "S1": text.index(giver),
            "S2": text.rindex(giver),
        }
        ends = {"IO1": len(receiver), "S1": len(giver), "S2": len(giver)}
        spans.append({role: (start, start + ends[role]) for role, start in starts.items()})
        order = "ABBA" if starts["IO1"] < starts["S1"] else "BABA"
        labels.append({"IO": receiver, "S": giver, "order": order})
    corrupt = [texts[i ^ 1] for i in range(len(texts))]
    return from_texts(model, texts, corrupt, answers, wrong, labels=labels, spans=spans)


def literature_text(name: str) -> str:
    """A text that published results were measured on; names and sources in data/prompts."""
    table = _read("texts.toml")
    if name not in table:
        raise KeyError(f"no published text {name!r}; there is {', '.join(table)}")
    return table[name]["text"]


def repeated_tokens(
    model: TransformerBridge,
    batch: int = 10,
    length: int = 50,
    seed: int = 0,
    *,
    bos: bool = True,
    low: int = 0,
    high: int | None = None,
) -> Int[Tensor, "batch pos"]:
    """Random tokens said twice: nothing but the first copy can predict the second.

    Args:
        model: Gives the vocabulary (special tokens are never drawn), the context and the device.
        batch: Number of sequences.
        length: Number of random tokens in one copy.
        seed: Of the draw; the global random state is left alone.
        bos: Put BOS in front. Row: [BOS] x_1 … x_length x_1 … x_length.
        low, high: Draw only from token ids low to high - 1.

    `repeated_tokens(gpt2, 2, 100, bos=False, low=100, high=20000)` gives the tokens behind the
    published head scores of GPT-2 small (torch.manual_seed(0); torch.randint(100, 20000, (2, 100));
    neelnanda-io/Easy-Transformer@db0f191f demos/Exploratory_Analysis_Demo.ipynb cell 98).

    Raises:
        ValueError: an empty draw, or sequences longer than the model's context.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"batch={batch} and length={length} must be at least 1")
    n_pos = 2 * length + bos
    if n_pos > model.cfg.n_ctx:
        raise ValueError(
            f"two copies of {length} tokens{' and BOS' if bos else ''} exceed the context of "
            f"{model.cfg.n_ctx}: length can be {(model.cfg.n_ctx - bos) // 2} at most"
        )
    d_vocab = len(model.tokenizer)
    high = d_vocab if high is None else high
    if not 0 <= low < high <= d_vocab:
        raise ValueError(f"need 0 <= low < high <= {d_vocab}, not low={low} and high={high}")
    special = set(model.tokenizer.all_special_ids)
    allowed = torch.tensor([i for i in range(low, high) if i not in special])
    if not len(allowed):
        raise ValueError(f"there are only special tokens from {low} to {high - 1}")
    generator = torch.Generator().manual_seed(seed)
    half = allowed[torch.randint(len(allowed), (batch, length), generator=generator)]
    first = torch.full((batch, int(bos)), model.tokenizer.bos_token_id if bos else 0)
    return torch.cat([first, half, half], dim=1).to(model.cfg.device)


@cache
def _read(file: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("mi_data") / "prompts" / file).read_text("utf-8"))
