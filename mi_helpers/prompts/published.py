"""Prompts of the literature, word for word, and random tokens that repeat."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.prompts.pairs import PromptPairs, answer_ids, from_texts, token_ids

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


def ioi_literature(model: TransformerBridge, name: str = "ioi8") -> PromptPairs:
    """Published prompts for indirect object identification, word for word.

    Args:
        model: Gives the tokenizer. Twins whose names it splits, or whose length it makes another
            than most twins', are left out with a warning that names them.
        name: "ioi8" (eight prompts, 15 tokens in GPT-2 with BOS; prompts 2k and 2k + 1 are each
            other's corrupt twins) or "milk" (one such pair). Sources: data/prompts/ioi.toml.

    Roles in `positions`: IO1, S1 (first mentions), S2 (the giver, again), end.

    Raises:
        KeyError: No such set.
        ValueError: A tokenizer with which fewer than half of the prompts remain.
    """
    table = _read("ioi.toml")
    if name not in table:
        raise KeyError(f"no published set {name!r}; there is {', '.join(table)}")
    texts, answers, wrong = zip(*_fitting_twins(model, table[name]["prompts"]), strict=True)
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


def _fitting_twins(model: TransformerBridge, rows: Sequence[list[str]]) -> list[list[str]]:
    """Those pairs of rows (prompt, answer, wrong) with whole names that most agree in length."""
    twins = [list(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    sizes = []
    for pair in twins:
        names = {len(answer_ids(model, name)) for _, *both in pair for name in both}
        lengths = {len(token_ids(model, text)) for text, *_ in pair}
        sizes.append(lengths.pop() if names == {1} == {len(lengths)} else None)
    usual = Counter(size for size in sizes if size).most_common(1)
    kept = [pair for pair, size in zip(twins, sizes, strict=True) if usual and size == usual[0][0]]
    left_out = [pair[0][0] for pair in twins if pair not in kept]
    message = f"this model's tokenizer splits names or changes lengths in {left_out} and twins"
    if 2 * len(kept) < len(twins) or not kept:
        raise ValueError(f"{message}: too few published prompts are left. Take mi.prompts.ioi.")
    if left_out:
        warnings.warn(f"{message}: left out of the published prompts", stacklevel=3)
    return [row for pair in kept for row in pair]


def literature_text(name: str) -> str:
    """A text that published results were measured on; names and sources in data/prompts.

    Raises:
        KeyError: No such text.
    """
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
        bos: Put the start token in front. Row: [BOS] x_1 … x_length x_1 … x_length.
        low: Draw only from token ids from here on.
        high: And below this one; None for the whole vocabulary.

    `repeated_tokens(gpt2, 2, 100, bos=False, low=100, high=20000)` gives the tokens behind the
    published head scores of GPT-2 small (torch.manual_seed(0); torch.randint(100, 20000, (2, 100));
    neelnanda-io/Easy-Transformer@db0f191f demos/Exploratory_Analysis_Demo.ipynb cell 98).

    Raises:
        ValueError: An empty draw, sequences longer than the model's context, or a model without a
            start token when one is asked for.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"batch={batch} and length={length} must be at least 1")
    start = model.tokenizer.bos_token_id
    if bos and start is None:
        raise ValueError(f"{model.cfg.model_name} has no start token: say bos=False")
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
    first = torch.full((batch, int(bos)), start if bos else 0)
    return torch.cat([first, half, half], dim=1).to(model.cfg.device)


@cache
def _read(file: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("mi_data") / "prompts" / file).read_text("utf-8"))
