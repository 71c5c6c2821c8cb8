"""Models that are written to a folder for a moment, to come in as any other does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, PreTrainedTokenizerFast

from mi_helpers.models import load_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BOS = "<|endoftext|>"


def opened(folder: Path) -> TransformerBridge:
    """`load_model` on the CPU, without its line, which names a folder that is about to go."""
    with redirect_stdout(StringIO()):
        return load_model(str(folder), device="cpu")


def config_of_words(
    n_words: int, n_positions: int, shape: tuple[int, int], d_model: int, n_inner: int, **more: Any
) -> GPT2Config:
    """A GPT-2 of (layers, heads a layer) whose tokens are `BOS`, number 0, and some words."""
    n_layers, n_heads = shape
    return GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=n_words + 1,
        n_positions=n_positions,
        n_embd=d_model,
        n_layer=n_layers,
        n_head=n_heads,
        n_inner=n_inner,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
        **more,
    )


def opened_with_words(
    name: str, words: Iterable[str], config: GPT2Config, state: dict[str, Tensor]
) -> TransformerBridge:
    """Weights as a bridge whose tokens are `BOS` and `words`; `name` is the model's."""
    ids = {word: i for i, word in enumerate([BOS, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=BOS))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, unk_token=BOS
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        fast.save_pretrained(path)
        config.save_pretrained(path)
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        return opened(path)
