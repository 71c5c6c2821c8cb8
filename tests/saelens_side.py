"""What real SAELens does in the tests, in the environment of the benchmarks.

    build/bench/sae-lens/bin/python tests/saelens_side.py write tests/data/saelens
    build/bench/sae-lens/bin/python tests/saelens_side.py read FOLDER ...
    build/bench/sae-lens/bin/python tests/saelens_side.py step FOLDER ...

`write` made the files in tests/data/saelens: small SAEs and transcoders with random weights, of
each architecture that this package reads, each with inputs and what SAELens makes of them. `read`
opens a folder with SAELens, takes "x" from its io.safetensors and writes what comes out to
theirs.safetensors. `step` takes weights, a batch "x" and which units are "dead" from a folder's
in.safetensors, and writes the losses of one training step, and the gradients, to out.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sae_lens as lens
import torch
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file

D_IN, D_SAE, D_OUT = 6, 20, 5
MADE = {
    "standard": (lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig, {}),
    "standard_uncentred": (
        lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig, {"apply_b_dec_to_input": False}
    ),
    "standard_layer_norm": (
        lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig,
        {"normalize_activations": "layer_norm"},
    ),
    "topk": (lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig, {"k": 3}),
    "topk_unfolded": (lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig, {"k": 3}),
    "batchtopk": (lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig, {"k": 3}),
    "jumprelu": (
        lens.JumpReLUTrainingSAE, lens.JumpReLUTrainingSAEConfig, {"jumprelu_init_threshold": 0.4}
    ),
}  # fmt: skip
# It reads and writes these, but trains none.
TRANSCODERS = {
    "transcoder": (lens.Transcoder, lens.TranscoderConfig),
    "skip_transcoder": (lens.SkipTranscoder, lens.SkipTranscoderConfig),
    "jumprelu_transcoder": (lens.JumpReLUTranscoder, lens.JumpReLUTranscoderConfig),
    "jumprelu_skip_transcoder": (lens.JumpReLUSkipTranscoder, lens.JumpReLUSkipTranscoderConfig),
}


@torch.no_grad()
def outputs(sae: lens.SAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What it makes of `x`."""
    parts = {"x": x, "features": sae.encode(x), "reconstruction": sae(x)}
    return {name: value.contiguous() for name, value in parts.items()}


@torch.no_grad()
def write(folder: Path) -> None:
    """One of each architecture, SAEs as SAELens saves them after training; "unfolded": before."""
    for number, (name, (make, config, own)) in enumerate(MADE.items()):
        torch.manual_seed(number)
        sae = make(config(d_in=D_IN, d_sae=D_SAE, **own))
        for parameter in sae.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        if name == "batchtopk":
            sae.topk_threshold.fill_(0.5)
        sae.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
        here = folder / name
        (sae.save_model if name.endswith("unfolded") else sae.save_inference_model)(here)
        opened = lens.SAE.load_from_disk(here)
        save_file(outputs(opened, 2 * torch.randn(12, D_IN) + 0.5), here / "io.safetensors")
    for number, (name, (make, config)) in enumerate(TRANSCODERS.items()):
        torch.manual_seed(100 + number)
        made = make(config(d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False))
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        made.cfg.metadata.hook_name = "blocks.1.ln2.hook_normalized"
        made.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
        made.save_model(folder / name)
        opened = lens.SAE.load_from_disk(folder / name)
        save_file(outputs(opened, 2 * torch.randn(12, D_IN)), folder / name / "io.safetensors")


def read(folder: Path) -> None:
    """Open what another program wrote, also in half precision, and compute in single."""
    x = load_file(folder / "io.safetensors")["x"]
    opened = lens.SAE.load_from_disk(folder, dtype="float32")
    save_file(outputs(opened, x), folder / "theirs.safetensors")


TRAINERS = {
    "relu": (lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig),
    "batchtopk": (lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig),
    "matryoshka": (
        lens.MatryoshkaBatchTopKTrainingSAE, lens.MatryoshkaBatchTopKTrainingSAEConfig
    ),
    "jumprelu": (lens.JumpReLUTrainingSAE, lens.JumpReLUTrainingSAEConfig),
    "gated": (lens.GatedTrainingSAE, lens.GatedTrainingSAEConfig),
}  # fmt: skip


def step(folder: Path) -> None:
    """One forward and backward pass of the trainer that in.json names, with its settings."""
    parts = load_file(folder / "in.safetensors")
    job = json.loads((folder / "in.json").read_text(encoding="utf-8"))
    x, dead = parts.pop("x"), parts.pop("dead").bool()
    make, config = TRAINERS[job["kind"]]
    d_in, d_sae = parts["W_enc"].shape
    sae = make(config(d_in=d_in, d_sae=d_sae, **job["settings"]))
    kept = {name for name, _ in sae.named_parameters()}
    assert kept == set(parts), kept ^ set(parts)
    sae.load_state_dict(parts, strict=False)
    out = sae.training_forward_pass(TrainStepInput(x, job["coefficients"], dead, 0, False))
    out.loss.backward()
    found = {f"loss.{name}": value.detach() for name, value in out.losses.items()}
    found |= {f"grad.{name}": p.grad for name, p in sae.named_parameters()}
    found |= {"loss": out.loss.detach(), "features": out.feature_acts.detach()}
    save_file({n: t.contiguous() for n, t in found.items()}, folder / "out.safetensors")


if __name__ == "__main__":
    for path in map(Path, sys.argv[2:]):
        {"write": write, "read": read, "step": step}[sys.argv[1]](path)
