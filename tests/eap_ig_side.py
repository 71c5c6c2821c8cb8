"""What EAP-IG's authors' library does in the tests, in the environment of the benchmarks.

    build/bench/eap-ig/bin/python tests/eap_ig_side.py FOLDER

Scores the edges of the embedded model between the prompts of in.json, by each method and number of
steps that it names, and writes the scores and the tokens to out.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import eap.attribute
import torch
from eap.graph import Graph
from on_the_cpu import OnTheCpu
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from sae_trainers import hooked_pocket  # noqa: E402


def main(folder: Path) -> None:
    """Read, score, write."""
    job = json.loads((folder / "in.json").read_text(encoding="utf-8"))
    model = hooked_pocket()
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    answers = torch.tensor(job["answers"])

    def metric(logits: torch.Tensor, *_: Any) -> torch.Tensor:
        right, wrong = logits[:, -1].gather(1, answers).unbind(1)
        return (right - wrong).sum()

    batch = (job["clean"], job["corrupt"], None)
    out = {"clean": model.to_tokens(job["clean"]), "corrupt": model.to_tokens(job["corrupt"])}
    for name, (method, steps) in job["methods"].items():
        graph = Graph.from_model(model)
        with OnTheCpu():
            eap.attribute.attribute(
                model, graph, [batch], metric, method=method, ig_steps=steps, quiet=True
            )
        out[name] = graph.scores.clone()
        out["edges"] = graph.real_edge_mask
    save_file({name: x.contiguous() for name, x in out.items()}, folder / "out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
