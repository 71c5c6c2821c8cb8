"""Clean and corrupt prompts as aligned tensors, refused when they are not aligned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

BREAK = "\n"


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Prompts with a corrupt twin of the same length, and the right and a wrong next token each.

    `answers` and `wrong` belong to the clean prompts. All prompts have the same number of tokens,
    so position -1 is the last of each. `positions` says where things stand, by role ("S2", "end"
    …), counted from the start, with the start token at 0; `labels` is what the generator meant, one
    a prompt.
    """

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    clean_tokens: Int[Tensor, "batch pos"]
    corrupt_tokens: Int[Tensor, "batch pos"]
    answer_tokens: Int[Tensor, "batch 2"]
    str_tokens: tuple[tuple[str, ...], ...]
    labels: tuple[Mapping[str, Any], ...]
    positions: Mapping[str, Int[Tensor, " batch"]]

    def __len__(self) -> int:
        return len(self.clean)

    def select(self, prompts: Iterable[int]) -> PromptPairs:
        """The same pairs, only for `prompts`. IndexError for a number that is none of them."""
        chosen = list(prompts)
        if not chosen or not all(-len(self) <= i < len(self) for i in chosen):
            raise IndexError(f"prompts {chosen} cannot be chosen from {len(self)}")
        return PromptPairs(
            clean=tuple(self.clean[i] for i in chosen),
            corrupt=tuple(self.corrupt[i] for i in chosen),
            answers=tuple(self.answers[i] for i in chosen),
            wrong=tuple(self.wrong[i] for i in chosen),
            clean_tokens=self.clean_tokens[chosen],
            corrupt_tokens=self.corrupt_tokens[chosen],
            answer_tokens=self.answer_tokens[chosen],
            str_tokens=tuple(self.str_tokens[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            positions={role: where[chosen] for role, where in self.positions.items()},
        )


def from_texts(
    model: TransformerBridge,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    wrong: Sequence[str],
    *,
    labels: Sequence[Mapping[str, Any]] | None = None,
    spans: Sequence[Mapping[str, tuple[int, int]]] | None = None,
) -> PromptPairs:
    """Tokenise, as `model.to_tokens` does, and check.

    Args:
        model: Its tokenizer is used, and its device.
        clean: Prompts, cut right before the answer; no space at the end.
        corrupt: Their twins, of as many tokens.
        answers: The right next token of each clean prompt, with its leading space.
        wrong: A wrong one.
        labels: What is true of each prompt, carried along.
        spans: For each clean prompt, characters (start, end) by role, turned into the position
            of the span's last token. Only roles that every prompt has are kept.

    Raises:
        ValueError: No prompts; lists of different lengths; prompts of unequal token length; twins
            that are equal; an answer that is not one token, or equals the wrong one; prompts
            longer than the model's context. The message names the text and what to change.
    """
    labels = labels if labels is not None else [{} for _ in clean]
    spans = spans if spans is not None else [{} for _ in clean]
    counts = [len(x) for x in (clean, corrupt, answers, wrong, labels, spans)]
    if not counts[0] or len(set(counts)) > 1:
        raise ValueError(
            "need at least one prompt, and as many clean as corrupt prompts, answers, wrong "
            f"answers, labels and spans; got {counts}"
        )
    _check_lengths(model, clean, corrupt)
    wanted_ids = [
        [single_token(model, right), single_token(model, other)]
        for right, other in zip(answers, wrong, strict=True)
    ]
    for text, (right, other) in zip(clean, wanted_ids, strict=True):
        if right == other:
            raise ValueError(f"the right and the wrong answer to {text!r} are the same token")
    device = model.cfg.device
    clean_tokens = tokens_of(model, clean)
    return PromptPairs(
        clean=tuple(clean),
        corrupt=tuple(corrupt),
        answers=tuple(answers),
        wrong=tuple(wrong),
        clean_tokens=clean_tokens,
        corrupt_tokens=tokens_of(model, corrupt),
        answer_tokens=torch.tensor(wanted_ids, device=device),
        str_tokens=tuple(
            tuple(model.tokenizer.decode([token]) for token in row) for row in clean_tokens.tolist()
        ),
        labels=tuple(labels),
        positions=_positions(model, clean, spans, clean_tokens.shape[1]),
    )


def single_token(model: TransformerBridge, text: str) -> int:
    """The id of `text`, if it is one token for this model; ValueError says what it is otherwise."""
    ids = answer_ids(model, text)
    if len(ids) == 1:
        return ids[0]
    pieces = [model.tokenizer.decode([i]) for i in ids]
    spaced = not text.startswith(" ") and len(answer_ids(model, " " + text)) == 1
    remedy = f"write {' ' + text!r}, with a space" if spaced else "choose a word that is one token"
    raise ValueError(f"the answer {text!r} is {len(ids)} tokens for this model {pieces}: {remedy}")


def single_tokens(
    model: TransformerBridge, texts: Iterable[str], *, least: int = 1
) -> dict[str, int]:
    """Those of several possible answers that are one token for this model, with their ids.

    Args:
        model: Its tokenizer decides.
        texts: Answers that say the same, the best first, each with its leading space.
        least: How many are needed.

    Returns:
        Text to token id, in the order given.

    Raises:
        ValueError: Fewer than `least` are one token; the message names what the others are.
    """
    texts = list(texts)
    ids = {text: answer_ids(model, text) for text in texts}
    whole = {text: found[0] for text, found in ids.items() if len(found) == 1}
    if len(whole) < least:
        split = {text: len(found) for text, found in ids.items() if len(found) != 1}
        raise ValueError(
            f"only {len(whole)} of {texts} are one token for this model, not {least}; tokens of "
            f"the others: {split}"
        )
    return whole


def token_ids(model: TransformerBridge, text: str) -> list[int]:
    """The tokens of `text` alone, without a start token."""
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def answer_ids(model: TransformerBridge, text: str) -> list[int]:
    """The tokens of `text` where other text stands before it.

    Some tokenizers, Llama 2's for one, put a space in front of every text: alone, " Mary" would
    have two. So it is read after a line break, whose own tokens are taken off again.
    """
    before, both = token_ids(model, BREAK), token_ids(model, BREAK + text)
    return both[len(before) :] if both[: len(before)] == before else token_ids(model, text)


def tokens_of(model: TransformerBridge, texts: Sequence[str]) -> Int[Tensor, "batch pos"]:
    """Texts of equal length as the model takes them: with its start token, where it has one."""
    return model.to_tokens(list(texts), truncate=False)


def _check_lengths(model: TransformerBridge, clean: Sequence[str], corrupt: Sequence[str]) -> None:
    lengths = [len(token_ids(model, text)) for text in clean]
    for i, (one, other) in enumerate(zip(clean, corrupt, strict=True)):
        if one == other:
            raise ValueError(f"prompt {i}: clean and corrupt are the same text {one!r}")
        other_length = len(token_ids(model, other))
        if lengths[i] != other_length:
            raise ValueError(
                f"prompt {i}: {one!r} has {lengths[i]} tokens and its corrupt twin {other!r} has "
                f"{other_length}: replace words by words of as many tokens"
            )
        if lengths[i] != lengths[0]:
            raise ValueError(
                f"prompt {i}, {one!r}, has {lengths[i]} tokens and prompt 0 has {lengths[0]}: "
                "make one set for each length"
            )
        if one != one.rstrip(" "):
            raise ValueError(f"prompt {i} ends with a space: leave it to the answer, {one!r}")
    if lengths[0] + 1 > model.cfg.n_ctx:
        raise ValueError(
            f"prompts of {lengths[0]} tokens and a start token exceed the context of "
            f"{model.cfg.n_ctx}"
        )


def _positions(
    model: TransformerBridge,
    texts: Sequence[str],
    spans: Sequence[Mapping[str, tuple[int, int]]],
    n_pos: int,
) -> dict[str, Int[Tensor, " batch"]]:
    """Position of the last token of each span, for the roles that all prompts share; and "end"."""
    roles = set.intersection(*(set(span) for span in spans))
    found: dict[str, list[int]] = {role: [] for role in sorted(roles)}
    for text, span in zip(texts, spans, strict=True):
        if not roles:
            break
        offsets = token_offsets(model, text)
        for role in roles:  # several tokens may share one character: é, 解
            inside = [i for i, (start, _) in enumerate(offsets) if start < span[role][1]]
            found[role].append(inside[-1] + n_pos - len(offsets))
    found["end"] = [n_pos - 1] * len(texts)
    return {role: torch.tensor(where, device=model.cfg.device) for role, where in found.items()}


def token_offsets(model: TransformerBridge, text: str) -> list[tuple[int, int]]:
    """Characters (start, end) of each token of `text` alone; needs a fast tokenizer."""
    encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [tuple(pair) for pair in encoded["offset_mapping"]]
