"""Measure SmolLM2 and fill its model card: ``python tools/smollm2_card.py [--dry | --draw]``.

Writes `measured.json` beside the card, and from that the pictures in `data/smollm2/pictures/` and
what stands between the card's markers; `--draw` measures nothing and does the second part alone.
Every number of the card comes from here; each comes with the same on an untrained model of its
shape, where that is a control. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from browser import save_pictures

import mi_helpers as mi

CARD = Path(__file__).parents[1] / "data" / "smollm2"
TEXTS = ("reference", "tasks", "mitigating", "head_detector")
STARTS = ("<|endoftext|>", "<|im_start|>", None)
KINDS = ("previous_token", "duplicate_token", "induction", "first_token")
HALF, STEP = 0.5, 0.2


@torch.no_grad()
def losses_by_start(model) -> dict[str, float]:
    """Nats per token on published texts, after each token they could begin with.

    The first token of a text is left out: without a start token nothing predicts it.
    """
    out = {}
    for start in STARTS:
        prefix = [] if start is None else [model.tokenizer.convert_tokens_to_ids(start)]
        parts = []
        for name in TEXTS:
            ids = model.to_tokens(mi.prompts.literature_text(name), prepend_bos=False)[0].tolist()
            tokens = torch.tensor([prefix + ids], device=model.cfg.device)
            parts.append(mi.metrics.loss(model(tokens), tokens)[0, len(prefix) :])
        out[start or "none"] = torch.cat(parts).mean().item()
    return out


@torch.no_grad()
def behaviour(model) -> dict[str, float]:
    """Indirect objects in the literature's and in drawn prompts; random tokens said twice."""
    pairs = mi.prompts.ioi_literature(model)
    logits = model(pairs.clean_tokens)
    out = {
        "ioi8_diff": mi.metrics.logit_diff(logits, pairs.answer_tokens).mean().item(),
        "ioi8_right": mi.metrics.accuracy(logits, pairs.answer_tokens).item(),
    }
    diffs, rights = [], []
    for seed in range(3):
        drawn = mi.prompts.ioi(model, 100, seed=seed, same_wording=True)
        logits = model(drawn.clean_tokens)[:, -1:]
        diffs.append(mi.metrics.logit_diff(logits, drawn.answer_tokens).mean().item())
        rights.append(mi.metrics.accuracy(logits, drawn.answer_tokens).item())
    out |= {"ioi_diff_draws": diffs, "ioi_right_draws": rights}
    tokens = mi.prompts.repeated_tokens(model, 8, 50, seed=0)
    loss = mi.metrics.loss(model(tokens), tokens)
    out |= {"repeat_first": loss[:, :50].mean().item(), "repeat_again": loss[:, 50:].mean().item()}
    return out


def heads(model) -> dict[str, dict[str, list]]:
    """Scores on random tokens said twice: each kind's three best heads, and the best by layer."""
    tokens = mi.prompts.repeated_tokens(model, 8, 50, seed=0)
    scores = mi.heads.attention_scores(model, tokens)
    best = {kind: mi.heads.top_heads(scores[kind], 3) for kind in KINDS}
    return {
        "best": {kind: [(str(head), s) for head, s in found] for kind, found in best.items()},
        "by_layer": {kind: scores[kind].amax(1).tolist() for kind in KINDS},
    }


def direct(model) -> list[list[float]]:
    """What each head adds to the logit difference of the literature's prompts, layer by layer."""
    pairs = mi.prompts.ioi_literature(model)
    shares = mi.lens.logit_attribution(model, pairs.clean_tokens, pairs.answer_tokens)
    return shares.heads.mean(0).tolist()


def patching(model) -> dict[str, list]:
    """Where the answer to the literature's prompts is carried, layer by layer and head by head."""
    pairs = mi.prompts.ioi_literature(model)
    metric = mi.patching.LogitDiff(pairs.answer_tokens)
    clean = mi.patching.OtherRun(pairs.clean_tokens)
    run = (model, pairs.corrupt_tokens, clean, metric)
    stream = mi.patching.patch_sweep(*run, progress=False).recovery()
    s2 = int(pairs.positions["S2"][0])
    head = mi.patching.patch_sweep(*run, site="z", over=("layer", "head"), progress=False)
    top = mi.heads.top_heads(head.recovery(), 3)
    low = mi.heads.top_heads(-head.recovery(), 2)
    return {
        "name": stream[:, s2].tolist(),
        "end": stream[:, -1].tolist(),
        "heads": [(f"L{a}H{b}", v) for (a, b), v in top],
        "against": [(f"L{a}H{b}", -v) for (a, b), v in low],
    }


def measure(model) -> dict[str, dict]:
    """Everything the card states, with the untrained control where there is one."""
    control = mi.untrained(model)
    return {
        "model": {"id": mi.model_id(model)},
        "loss_by_start": losses_by_start(model),
        "behaviour": behaviour(model),
        "behaviour_untrained": behaviour(control),
        "heads": heads(model),
        "heads_untrained": heads(control),
        "direct": direct(model),
        "direct_untrained": direct(control),
        "patching": patching(model),
    }


def rows(m: dict) -> list[tuple[str, str, str]]:
    """The table's rows: what was asked, how it was measured, the value (control)."""
    b, u, loss = m["behaviour"], m["behaviour_untrained"], m["loss_by_start"]
    best = m["heads"]["best"]
    names = {kind: ", ".join(f"{h} {s:.2f}" for h, s in best[kind]) for kind in best}
    p, control = m["patching"], m["heads_untrained"]["best"]
    spread = "{:.2f} to {:.2f}".format(*(f(b["ioi_diff_draws"]) for f in (min, max)))
    right = "{:.0%} to {:.0%}".format(*(f(b["ioi_right_draws"]) for f in (min, max)))
    early = next(i for i, v in enumerate(p["name"]) if v < 0.5)
    late = next(i for i, v in enumerate(p["end"]) if v > 0.5)
    table = [
        ("Indirect objects, the literature's eight prompts", "mean logit difference, right",
         f"{b['ioi8_diff']:.2f}, {b['ioi8_right']:.0%} ({u['ioi8_diff']:.2f})"),
        ("Indirect objects, three draws of 100 prompts", "mean logit difference, right",
         f"{spread}, {right}"),
        ("Random tokens said twice", "loss on the first and on the second copy, nats",
         f"{b['repeat_first']:.2f}, {b['repeat_again']:.2f} ({u['repeat_again']:.2f})"),
        ("Four published texts", "loss after <code>&lt;&#124;endoftext&#124;&gt;</code>, after "
         "<code>&lt;&#124;im_start&#124;&gt;</code>, after nothing",
         ", ".join(f"{loss[s or 'none']:.2f}" for s in STARTS)),
        *((f"{kind.replace('_', '-')} heads", "attention to the target",
           f"{names[kind]} ({control[kind][0][1]:.2f})") for kind in names),
        ("The answer leaves the second mention of the giver", "recovery below a half, before layer",
         f"{early}"),
        ("The answer is at the end", "recovery above a half, before layer", f"{late}"),
        ("Heads that carry the answer", "recovery of one head's output",
         ", ".join(f"{h} {v:.2f}" for h, v in p["heads"])),
        ("Heads that work against it", "recovery of one head's output",
         ", ".join(f"{h} {v:.2f}" for h, v in p["against"])),
    ]  # fmt: skip
    return [(a[0].upper() + a[1:], b, c) for a, b, c in table]


def listed(layers: list[int]) -> str:
    """Some layers in words."""
    *first, last = map(str, layers)
    return f"layers {', '.join(first)} and {last}" if first else f"layer {last}"


def findings(m: dict) -> dict[str, str]:
    """What each picture shows, in a sentence: its title, and its text where it is not seen."""
    by_layer = m["heads"]["by_layer"]
    place = {
        kind: listed([i for i, score in enumerate(scores) if score >= HALF])
        for kind, scores in by_layer.items()
    }
    shares = {f"L{i}H{j}": s for i, row in enumerate(m["direct"]) for j, s in enumerate(row)}
    lowest, low, *_, high = sorted(shares, key=lambda head: shares[head])
    end = m["patching"]["end"]
    steps = [i for i in range(len(end) - 1) if end[i + 1] - end[i] >= STEP]
    return {
        "kinds": f"Duplicate-token heads score above a half in {place['duplicate_token']}, "
        f"induction heads in {place['induction']}",
        "direct": f"{high} writes most for the right name, {lowest} and {low} most against it",
        "handover": f"The answer comes to the end in {listed(steps)}",
    }


def pictures(m: dict) -> dict[str, Any]:
    """The card's figures by name; each title says what was found."""
    said, by_layer, p = findings(m), m["heads"]["by_layer"], m["patching"]
    who = f"{m['model']['id']}: "
    layers = [f"L{i}" for i in range(len(m["direct"]))]
    most = max(max(scores) for scores in m["heads_untrained"]["by_layer"].values())
    chance = max(abs(s) for row in m["direct_untrained"] for s in row)
    return {
        "kinds": mi.figures.heatmap(
            list(by_layer.values()), title=said["kinds"], x=layers,
            y=[kind.replace("_", "-") for kind in by_layer], xlabel="layer",
            subtitle=f"{who}best head of each layer, random tokens; untrained at most {most:.2f}",
            colorbar="attention to the target", center=None, limit=1,
        ),
        "direct": mi.figures.heatmap(
            torch.tensor(m["direct"]).T, title=said["direct"], x=layers,
            y=[f"H{j}" for j in range(len(m["direct"][0]))], xlabel="layer", ylabel="head",
            subtitle=f"{who}direct effect on the logit difference, eight prompts; untrained at "
            f"most {chance:.1g}",
            colorbar="logits",
        ),
        "handover": mi.figures.lines(
            {"second mention of the giver": p["name"], "end": p["end"]}, title=said["handover"],
            subtitle=f"{who}residual stream before each layer, eight prompts",
            x=list(range(len(p["end"]))), xlabel="layer", ylabel="share of the answer that returns",
        ),
    }  # fmt: skip


def fill(card: Path, table: list[tuple[str, str, str]], said: dict[str, str]) -> None:
    """Replace what stands between the card's markers."""
    lines = ["| what | measure | value (an untrained model of this shape) |", "|---|---|---|"]
    lines += [f"| {a} | {b} | {c} |" for a, b, c in table]
    lines += [f"\n![{sentence}](pictures/{name}.png)" for name, sentence in said.items()]
    before, _, rest = card.read_text(encoding="utf-8").partition("<!-- measured -->")
    _, _, after = rest.partition("<!-- /measured -->")
    text = "\n".join(lines)
    card.write_text(
        f"{before}<!-- measured -->\n{text}\n<!-- /measured -->{after}", encoding="utf-8"
    )


def main() -> None:
    """Measure, draw, fill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    parser.add_argument("--draw", action="store_true", help="from measured.json, measure nothing")
    args = parser.parse_args()
    if not args.draw:
        measured = measure(mi.load_model("smollm2-q4", device="cpu"))
        print(*rows(measured), sep="\n")
        if args.dry:
            return
        text = json.dumps(measured, indent=1) + "\n"
        (CARD / "measured.json").write_text(text, encoding="utf-8")
    measured = json.loads((CARD / "measured.json").read_text(encoding="utf-8"))
    save_pictures(pictures(measured), CARD / "pictures")
    fill(CARD / "README.md", rows(measured), findings(measured))


if __name__ == "__main__":
    main()
