"""What the code of ROME's and MEMIT's authors does in the tests, in its environment.

    build/bench/memit/bin/python tests/memit_side.py SOURCE FOLDER

SOURCE has their code, FOLDER the second moments of keys and what is to be added for each fact of
MEMIT, in.safetensors, and the requests, in.json. The updates of the weights, and what they need,
go to out.safetensors. The moments, which they make of Wikipedia, are put where they keep them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from on_the_cpu import OnTheCpu
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2LMHeadModel

POCKET = Path(__file__).resolve().parents[1] / "data" / "pocket" / "model"
COMMON = {
    "fact_token": "subject_last", "v_num_grad_steps": 6, "v_lr": 0.1, "v_loss_layer": 5,
    "v_weight_decay": 0.5, "clamp_norm_factor": 4, "kl_factor": 0.0625, "mom2_adjustment": True,
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj", "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp", "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
    "mom2_dataset": "given", "mom2_n_samples": 0, "mom2_dtype": "float32",
}  # fmt: skip
OUT = "transformer.h.{}.mlp.c_proj"


def rome(model: Any, tok: Any, job: dict, moments: dict[int, torch.Tensor]) -> dict[str, Any]:
    """The update of one fact, and what it makes the layer write more than before."""
    from rome import compute_u, compute_v, rome_main

    layer, request = job["layer"], job["requests"][0]
    hparams = rome_main.ROMEHyperParams(
        layers=[layer], context_template_length_params=[], **COMMON
    )  # fmt: skip
    inverse = torch.linalg.inv(moments[layer].double()).float()
    compute_u.inv_mom2_cache[model.config._name_or_path.replace("/", "_"), OUT.format(layer)] = (
        inverse
    )
    rome_main.CONTEXT_TEMPLATES_CACHE = ["{}"]
    deltas = rome_main.execute_rome(model, tok, request, hparams)
    left, right = deltas[f"{OUT.format(layer)}.weight"]
    key, _ = compute_v.get_module_input_output_at_word(
        model, tok, layer, request["prompt"], request["subject"], OUT, "subject_last"
    )
    # with this left vector the right one is what is to be written more, undivided
    request = request | {"target_new": {"str": " " + request["target_new"]["str"].strip()}}
    plain = key / (key @ key)
    change = compute_v.compute_v(model, tok, request, hparams, layer, plain, ["{}"])
    return {"rome": torch.outer(left, right), "rome.key": key, "rome.change": change}


def memit(
    model: Any, tok: Any, job: dict, moments: dict[int, torch.Tensor], added: torch.Tensor
) -> dict[str, Any]:
    """The updates of all facts in all layers, by the values that are given."""
    from memit import compute_z, memit_main

    requests, layers = job["requests"], job["layers"]
    hparams = memit_main.MEMITHyperParams(
        layers=layers, layer_selection="all", mom2_update_weight=job["weight"], **COMMON
    )
    _, now = compute_z.get_module_input_output_at_words(
        model, tok, layers[-1], [r["prompt"] for r in requests], [r["subject"] for r in requests],
        "transformer.h.{}", "subject_last",
    )  # fmt: skip
    for request, value in zip(requests, now + added, strict=True):
        np.savez(f"value_{layers[-1]}_4_{request['case_id']}.npz", v_star=value.numpy())
    name = model.config._name_or_path.replace("/", "_")
    for layer, moment in moments.items():
        memit_main.COV_CACHE[name, OUT.format(layer)] = moment
    memit_main.CONTEXT_TEMPLATES_CACHE = [["{}"]]
    deltas = memit_main.execute_memit(
        model, tok, requests, hparams, cache_template="value_{}_{}_{}.npz"
    )
    return {f"memit.{i}": torch.mm(*_both(deltas[f"{OUT.format(i)}.weight"])) for i in layers}


def _both(delta: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    keys, missing = delta
    return keys, missing.T


def main(source: Path, folder: Path) -> None:
    """Read, edit, write."""
    parts = load_file(folder / "in.safetensors")
    job = json.loads((folder / "in.json").read_text(encoding="utf-8"))
    moments = {i: parts[f"moments.{i}"] for i in job["layers"]}
    os.chdir(source)  # where they look for their settings
    sys.path.insert(0, str(source))
    # imported there, and not used by what is called here
    sys.modules["datasets"] = SimpleNamespace(load_dataset=None)  # type: ignore[assignment]
    sys.modules["matplotlib"] = SimpleNamespace()  # type: ignore[assignment]
    sys.modules["matplotlib.style"] = SimpleNamespace(context=None)  # type: ignore[assignment]
    model = GPT2LMHeadModel.from_pretrained(POCKET, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(POCKET)
    with OnTheCpu():
        os.chdir(source)
        out = memit(model, tok, job, moments, parts["added"])
        out |= rome(model, tok, job, moments)
    out = {name: x.detach().float().contiguous() for name, x in out.items()}
    save_file(out, folder / "out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
