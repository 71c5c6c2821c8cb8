"""The half of the comparison that circuit-tracer does, in the environment of the benchmarks.

    build/bench/circuit-tracer/bin/python tests/circuit_tracer_side.py FOLDER

FOLDER has the weights of a GPT-2 (norms folded), a transcoder for each layer, a prompt and the
tokens to explain, in.safetensors, and its shape, in.json. The graph that circuit-tracer makes of
them goes to out.safetensors.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig


def top_k(k: int):
    """The positive part of the k largest."""

    def act(pre: torch.Tensor) -> torch.Tensor:
        top = pre.topk(k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())

    return act


def main(folder: Path) -> None:
    """Read, attribute, write."""
    shape = json.loads((folder / "in.json").read_text(encoding="utf-8"))
    parts = load_file(folder / "in.safetensors")
    transcoders = {}
    for layer in range(shape["n_layers"]):
        own = {name: parts[f"transcoders.{layer}.{name}"].t().contiguous()
               for name in ("W_enc", "b_enc", "W_skip")}  # fmt: skip
        one = SingleLayerTranscoder(
            shape["d_model"], shape["d_sae"], top_k(shape["k"]), layer,
            skip_connection=True, dtype=torch.float32, device=torch.device("cpu"),
        )  # fmt: skip
        own |= {name: parts[f"transcoders.{layer}.{name}"] for name in ("W_dec", "b_dec")}
        one.load_state_dict(own)
        transcoders[layer] = one
    config = HookedTransformerConfig(
        n_layers=shape["n_layers"], d_model=shape["d_model"], n_ctx=shape["n_ctx"],
        d_head=shape["d_head"], n_heads=shape["n_heads"], d_mlp=shape["d_mlp"],
        d_vocab=shape["d_vocab"], act_fn="gelu_new", normalization_type="LNPre",
        eps=shape["eps"], model_name="gpt2-like", device="cpu",
    )  # fmt: skip
    chosen = TranscoderSet(transcoders, "mlp.hook_in", "hook_mlp_out")
    model = TransformerLensReplacementModel.from_config(config, chosen)
    names = {name for name, _ in model.named_parameters() if not name.startswith("transcoders.")}
    ours = {}
    for name, x in parts.items():
        if name.startswith(("blocks.", "embed.", "pos_embed.", "unembed.")):
            inner = name.replace(".mlp.", ".mlp.old_mlp.")
            ours[inner.replace("unembed.", "unembed.old_unembed.")] = x
    assert names == set(ours), names ^ set(ours)
    model.load_state_dict(ours, strict=False)
    bos = int(parts["tokens"][0])
    model.tokenizer = SimpleNamespace(
        decode=lambda tokens, **_: "",
        all_special_ids=[bos],
        bos_token_id=bos,
        pad_token_id=bos,
        padding_side="right",
        vocab_size=shape["d_vocab"],
    )
    began = time.process_time()
    graph = attribute(parts["tokens"], model, attribution_targets=parts["logits"])
    seconds = time.process_time() - began
    out = {
        "features": graph.active_features, "values": graph.activation_values,
        "weights": graph.adjacency_matrix, "seconds": torch.tensor(seconds),
    }  # fmt: skip
    save_file({name: x.contiguous() for name, x in out.items()}, folder / "out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
