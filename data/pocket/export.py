"""From a training checkpoint to a folder that ``transformers`` opens, in half precision."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mi_helpers import checksums
from mi_helpers.files import save_tensors, write_whole

from .tokenizer import BOS


def hugging_face_state(state: dict[str, torch.Tensor], n_layers: int) -> dict[str, torch.Tensor]:
    """GPT-2's own names; its Conv1D keeps matrices as [in, out]."""
    out = {
        "transformer.wte.weight": state["wte.weight"],
        "transformer.wpe.weight": state["wpe.weight"],
        "transformer.ln_f.weight": state["ln_f.weight"],
        "transformer.ln_f.bias": state["ln_f.bias"],
    }
    names = {"proj": "attn.c_proj", "fc": "mlp.c_fc", "out": "mlp.c_proj"}
    for i in range(n_layers):
        for norm in ("ln_1", "ln_2"):
            for part in ("weight", "bias"):
                out[f"transformer.h.{i}.{norm}.{part}"] = state[f"blocks.{i}.{norm}.{part}"]
        qkv = [state[f"blocks.{i}.{part}.weight"].T for part in "qkv"]
        out[f"transformer.h.{i}.attn.c_attn.weight"] = torch.cat(qkv, dim=1)
        bias = [state[f"blocks.{i}.{part}.bias"] for part in "qkv"]
        out[f"transformer.h.{i}.attn.c_attn.bias"] = torch.cat(bias)
        for ours, theirs in names.items():
            out[f"transformer.h.{i}.{theirs}.weight"] = state[f"blocks.{i}.{ours}.weight"].T
            out[f"transformer.h.{i}.{theirs}.bias"] = state[f"blocks.{i}.{ours}.bias"]
    return {k: v.to(torch.float16).contiguous() for k, v in out.items()}


def torch_state(state: dict[str, torch.Tensor], n_layers: int) -> dict[str, torch.Tensor]:
    """Weights by the names of `GPT2`, in single precision: undoes `hugging_face_state`."""
    state = {k.removeprefix("transformer."): v.float() for k, v in state.items()}
    out = {k: state[k] for k in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")}
    names = {"attn.c_proj": "proj", "mlp.c_fc": "fc", "mlp.c_proj": "out"}
    for i in range(n_layers):
        for part in ("weight", "bias"):
            for norm in ("ln_1", "ln_2"):
                out[f"blocks.{i}.{norm}.{part}"] = state[f"h.{i}.{norm}.{part}"]
            three = state[f"h.{i}.attn.c_attn.{part}"].chunk(3, dim=-1)
            for name, value in zip("qkv", three, strict=True):
                out[f"blocks.{i}.{name}.{part}"] = value.T if part == "weight" else value
            for theirs, ours in names.items():
                value = state[f"h.{i}.{theirs}.{part}"]
                out[f"blocks.{i}.{ours}.{part}"] = value.T if part == "weight" else value
    return {k: v.contiguous() for k, v in out.items()}


def config(recipe: dict) -> dict:
    """The ``config.json`` of a GPT-2 of this size."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": recipe["n_layers"],
        "n_head": recipe["n_heads"],
        "n_embd": recipe["d_model"],
        "n_positions": recipe["n_ctx"],
        "n_ctx": recipe["n_ctx"],
        "n_inner": None,
        "vocab_size": recipe["vocab_size"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "dtype": "float16",
    }


def export(run: Path, folder: Path) -> None:
    """Write config, tokenizer, weights and their checksums; each file appears whole."""
    recipe = json.loads((run / "recipe.json").read_text())
    state = {
        k[6:]: v
        for k, v in load_file(run / "checkpoint.safetensors").items()
        if k.startswith("model.")
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": json.dumps(config(recipe), indent=2) + "\n",
        "tokenizer.json": (run / "tokenizer.json").read_text(encoding="utf-8"),
        "tokenizer_config.json": json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": BOS,
                "eos_token": BOS,
                "unk_token": BOS,
                "pad_token": BOS,
                "model_max_length": recipe["n_ctx"],
                "clean_up_tokenization_spaces": False,
            },
            indent=2,
        )
        + "\n",
        "generation_config.json": json.dumps(
            {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}, indent=2
        )
        + "\n",
    }
    for name, text in texts.items():
        with write_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    weights = hugging_face_state(state, recipe["n_layers"])
    save_tensors(folder / "model.safetensors", weights, format="pt")
    names = sorted([*texts, "model.safetensors"])
    checksums.write(folder, {name: folder / name for name in names})
