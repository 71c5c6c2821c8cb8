"""Random checkpoints in Hugging Face format, for tests that need a model and no network."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mi_helpers.models.hub import GPT2_REPO, GPT2_REVISION

BOS = "<|endoftext|>"
WORDS = """When After John Mary Tom James Dan Sid Martin Amy Alice Bob Kate and went to the shops
park gave bag ball an apple a drink store The capital of France is Paris Spain Rome one two three
cat dog sat on mat keys cabinet are I think this movie was good bad very said that he she 17 32 year
"""


def save_tiny(folder: Path, *, n_layer: int = 2, seed: int = 1234) -> Path:
    """A two-layer model of GPT-2's architecture with a byte-level BPE of a few hundred tokens.

    Every word of WORDS is one token, with and without a space before it; biases and LayerNorm
    gains are random too, so that folding and centring have something to do.
    """
    tokenizer = _byte_level(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = WORDS.split()
    tokenizer.train_from_iterator([*words, *(f" {word}" for word in words)], trainer)
    _save(folder, tokenizer, n_layer=n_layer, n_embd=32, n_head=4, n_positions=64, seed=seed)
    return folder


def save_worded(folder: Path, *, seed: int = 1234) -> Path:
    """As `save_tiny`, with every word of the grammar one token and digits split in pairs."""
    from mi_data.pocket import generator, lexicon

    texts = [generator.sample(kind, i).text for kind in generator.KINDS for i in range(300)]
    words = {word for text in texts for word in re.findall(r" ?[A-Za-z]+| ?\d\d", text)}
    words |= {f" {name}" for name in lexicon.NAMES} | {f"{i:02d}" for i in range(100)}
    words |= {f" {answer}" for r in lexicon.FACTS.values() for _, answer in r["facts"]}
    tokenizer = _byte_level(Tokenizer(models.BPE()))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=20000,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(words), trainer)
    _save(folder, tokenizer, n_layer=1, n_embd=16, n_head=2, n_positions=128, seed=seed)
    return folder


def save_digits(folder: Path, *, seed: int = 1234) -> Path:
    """As `save_tiny`, with every digit a token of its own, as SmolLM2 and others have it."""
    tokenizer = _byte_level(Tokenizer(models.BPE()))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
    )
    words = [*WORDS.split(), *"war trip siege lasted from".split()]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*words, *(f" {word}" for word in words)], trainer)
    _save(folder, tokenizer, n_layer=1, n_embd=16, n_head=2, n_positions=64, seed=seed)
    return folder


def save_gpt2_tokenized(folder: Path, tokenizer_folder: Path, *, seed: int = 1234) -> Path:
    """As `save_tiny`, with GPT-2's own tokenizer."""
    _save(folder, _gpt2_bpe(tokenizer_folder), n_layer=1, n_embd=16, n_head=2, seed=seed)
    return folder


def save_gpt2_shaped_cache(hub: Path, tokenizer_folder: Path, *, seed: int = 1234) -> Path:
    """A cache folder (HF_HUB_CACHE) with random weights of GPT-2 small's shape; 0.5 GB."""
    repo = hub / f"models--{GPT2_REPO.replace('/', '--')}"
    _save(repo / "snapshots" / GPT2_REVISION, _gpt2_bpe(tokenizer_folder), seed=seed)
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(GPT2_REVISION)
    return hub


def gpt2_tokenizer_folder() -> Path | None:
    """GPT-2's vocab.json and merges.txt: MI_GPT2_TOKENIZER, or beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "gpt2_tokenizer"
    folder = Path(os.environ.get("MI_GPT2_TOKENIZER", beside))
    return folder if (folder / "vocab.json").is_file() else None


def _gpt2_bpe(folder: Path) -> Tokenizer:
    bpe = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return _byte_level(Tokenizer(bpe))


def _byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _save(folder: Path, tokenizer: Tokenizer, *, seed: int, **shape: int) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, unk_token=BOS
    )
    bos = fast.bos_token_id
    config = GPT2Config(vocab_size=len(fast), bos_token_id=bos, eos_token_id=bos, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(
                    parameter, mean=float("ln" in name and "weight" in name), std=0.1
                )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


if __name__ == "__main__":  # python -m tests.checkpoints FOLDER: a cache to point HF_HUB_CACHE at
    source = gpt2_tokenizer_folder()
    sys.exit("no GPT-2 tokenizer: set MI_GPT2_TOKENIZER") if source is None else None
    print(save_gpt2_shaped_cache(Path(sys.argv[1]), source))
