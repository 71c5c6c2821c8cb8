"""Random models of other architectures than GPT-2's, each with something that is easily forgotten.

Biases and gains are random too, so that folding, centring and forgetting them make a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from checkpoints import save_tiny
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

POCKET = Path(__file__).resolve().parents[1] / "data" / "pocket" / "model"
SIZE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    vocab_size=451,
)
SHARED = dict(num_key_value_heads=2)
MAKE: dict[str, Callable[[], PreTrainedModel]] = {
    # parallel attention and MLP; a quarter of a head's dimensions turn
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZE)),
    # rotary, RMSNorm, no biases, shared keys and values, gated MLPs
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, **SHARED)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=True)),
    # as Llama, with biases of queries, keys and values alone
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE, **SHARED)),
    # embeddings times √d_model, gains counted from 1, one key for all heads
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZE, head_dim=8, num_key_value_heads=1)),
    # as Gemma, with norms after each sub-layer, another scale of scores, scores and logits capped
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZE, **SHARED, head_dim=8, final_logit_softcapping=3.0)
    ),
}
PLAIN = [kind for kind in MAKE if kind != "gemma2"]
"""Those whose heads and MLPs add what they write."""


def save_other(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A random checkpoint of one kind, with the tokenizer of `save_tiny`."""
    save_tiny(folder)
    _save(folder, MAKE[kind], kind, seed)
    return folder


def save_reading(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A random checkpoint of one kind with pocket's tokenizer and context, to run notebooks on."""
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    tokenizer.save_pretrained(folder)

    def make() -> PreTrainedModel:
        model = MAKE[kind]()
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.max_position_embeddings = 128
        return model

    _save(folder, make, kind, seed)
    return folder


def _save(folder: Path, make: Callable[[], PreTrainedModel], kind: str, seed: int) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        weights = make()
        for name, parameter in weights.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
            else:
                gain = "norm" in name and "weight" in name and not kind.startswith("gemma")
                torch.nn.init.normal_(parameter, mean=float(gain), std=0.2)
    weights.save_pretrained(folder)


def plain(folder: Path) -> PreTrainedModel:
    """The same weights as transformers runs them, unprocessed."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
