"""The half of bench_lens.py that the tuned-lens package does, in an environment of its own.

    build/bench/tuned-lens/bin/python benchmarks/tuned_lens_side.py FOLDER

FOLDER has streams before each layer and at the end, tokens of each step, held-out streams and what
the model predicts there (in.safetensors); the model and the optimisers asked for (in.json). The KL
of each one's lens before each layer goes to out.json. A step is as in the package's
`scripts/train_loop.py`, whose data loader reads text and is not used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel
from tuned_lens import TunedLens
from tuned_lens.scripts.ingredients import Optimizer, OptimizerOption


def trained(model, streams, chosen, optimizer: str):
    """A lens after a step for each row of `chosen`, the tokens of `streams` that it sees."""
    lens = TunedLens.from_model(model)
    how = Optimizer(optimizer=OptimizerOption(optimizer))
    opt = how.create_optim([p for p in lens.parameters() if p.requires_grad])
    schedule = how.create_scheduler(opt, len(chosen))
    for tokens in chosen:
        with torch.no_grad():
            labels = lens.unembed(streams[-1, tokens]).float().log_softmax(-1)
        for i, h in enumerate(streams[:-1, tokens]):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = lens(h, idx=i)
                gap = labels.exp() * (labels - logits.log_softmax(-1))
                loss = torch.sum(gap, dim=-1).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=False)
        schedule.step()
    return lens


@torch.no_grad()
def judged(lens, streams, final) -> list[float]:
    """KL(final || lens) in nats before each layer, in single precision."""
    found = []
    for i, h in enumerate(streams[:-1]):
        said = lens(h, idx=i).float().log_softmax(-1)
        found.append(float((final.exp() * (final - said)).sum(-1).mean()))
    return found


def main(folder: Path) -> None:
    """Read, train, judge, write."""
    torch.set_num_threads(1)
    asked = json.loads((folder / "in.json").read_text(encoding="utf-8"))
    parts = load_file(folder / "in.safetensors")
    model = GPT2LMHeadModel.from_pretrained(asked["model"], dtype=torch.float32)
    end = TunedLens.from_model(model).unembed(parts["test"][-1]).log_softmax(-1)
    gap = (parts["final"].exp() * (parts["final"] - end)).sum(-1).mean()
    assert gap.abs() < 1e-4, f"the streams are not this model's: {gap}"
    out = {}
    for optimizer in asked["optimisers"]:
        lens = trained(model, parts["fit"], parts["chosen"], optimizer)
        out[optimizer] = judged(lens, parts["test"], parts["final"])
    (folder / "out.json").write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
