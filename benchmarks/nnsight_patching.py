"""Activation patching by nnsight, a trace for each cell; bench_patching.py runs this beside ours.

    <python of an environment with nnsight> benchmarks/nnsight_patching.py FOLDER < job.safetensors

FOLDER holds a model of GPT-2's or of Llama's form in Hugging Face's format. The job: tokens `base`
and `source` [batch pos], `answers` [batch 2], `cells` [cell 3] (layer, position, head; -1 stands
for all), and `per_head`.
Answers with the mean logit difference of each cell and the seconds of all, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from nnsight import TransformersModel, save
from safetensors.torch import load
from torch import Tensor


def parts(model: Any) -> tuple[list[Any], list[Any]]:
    """The blocks of a model, and of each the projection that reads all its heads."""
    if hasattr(model, "transformer"):
        blocks = list(model.transformer.h)
        return blocks, [block.attn.c_proj for block in blocks]
    blocks = list(model.model.layers)
    return blocks, [block.self_attn.o_proj for block in blocks]


def main(folder: str, job: dict[str, Tensor]) -> dict[str, object]:
    """Patch every cell, one forward pass each."""
    torch.set_num_threads(int(job["threads"]))
    model = TransformersModel(folder, task="text-generation", dispatch=True, dtype=torch.float32)
    d_head = model.config.hidden_size // model.config.num_attention_heads
    base, source = (
        {"input_ids": job[name], "attention_mask": torch.ones_like(job[name])}
        for name in ("base", "source")
    )
    blocks, projections = parts(model)
    modules = projections if job["per_head"] else blocks
    right, wrong = job["answers"].unbind(1)
    row = torch.arange(len(right))

    def patched(values: list[Tensor], layer: int, position: int, head: int) -> float:
        where = slice(None) if position < 0 else slice(position, position + 1)
        part = slice(None) if head < 0 else slice(head * d_head, (head + 1) * d_head)
        with model.trace(base):
            act = modules[layer].input
            act[:, where, part] = values[layer][:, where, part]
            logits = save(model.lm_head.output[:, -1])
        return float((logits[row, right] - logits[row, wrong]).mean())

    began = time.perf_counter()
    with torch.no_grad():
        with model.trace(source):
            values = save([module.input.clone() for module in modules])
        found = [patched(values, *cell) for cell in job["cells"].tolist()]
    return {"values": found, "seconds": time.perf_counter() - began, "n_layers": len(blocks)}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps(main(sys.argv[1], load(sys.stdin.buffer.read()))), file=answers)
