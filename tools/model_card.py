"""Measure pocket and fill its model card: ``python tools/model_card.py [FOLDER] [--dry]``.

Writes `measured.json` beside the card, the pictures in `data/pocket/pictures/`, and the table
between the card's markers. Everything the card states as a number comes from here.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from mi_data.pocket import evaluate

import mi_helpers as mi

sys.path.insert(0, str(Path(__file__).parent))
from browser import save_pictures  # noqa: E402

POCKET = Path(__file__).parents[1] / "data" / "pocket"
PHRASINGS = Path(__file__).parents[1] / "tests" / "data" / "ioi_phrasings.toml"


def head_scores(model) -> dict[str, torch.Tensor]:
    """Previous-token and induction scores on repeated random tokens."""
    tokens = mi.prompts.repeated_tokens(model, 8, 50, seed=0)
    scores = mi.heads.attention_scores(model, tokens)
    return {k: scores[k] for k in ("previous_token", "induction")}


def patching(model) -> tuple[torch.Tensor, list[str]]:
    """Recovery of the indirect-object answer, residual stream by layer and position."""
    pairs = mi.prompts.ioi(model, 40, seed=0, same_wording=True)
    metric = mi.patching.LogitDiff(pairs.answer_tokens)
    what = mi.patching.OtherRun(pairs.clean_tokens)
    sweep = mi.patching.patch_sweep(model, pairs.corrupt_tokens, what, metric)
    names = [f"{i} {t}" for i, t in enumerate(pairs.str_tokens[0])]
    return sweep.recovery(), names


@torch.no_grad()
def facts_by_layer(model, n: int = 300) -> list[float]:
    """Share of held-out facts whose answer leads the logit lens, by layer and at the end."""
    right = torch.zeros(model.cfg.n_layers + 1)
    for seed in range(n):
        prompt = evaluate.generator.prompt("fact", seed)
        answer = mi.prompts.single_token(model, prompt.answer)
        _, cache = model.run_with_cache(
            prompt.text, names_filter=lambda name: name.endswith(("resid_pre", "resid_post"))
        )
        last = model.cfg.n_layers - 1
        stream = [cache["resid_pre", layer][:, -1:] for layer in range(last + 1)] + [
            cache["resid_post", last][:, -1:]
        ]
        logits = model.unembed(model.ln_final(torch.cat(stream)))
        right += (logits[:, 0].argmax(-1) == answer).float()
    return (right / n).tolist()


def rows(m: dict) -> list[tuple[str, str, str]]:
    """The card's table: behaviour, measure, value."""
    ioi, spread = m["ioi"], m["phrasings"]
    new = ioi["held_out_clauses"]
    out = [
        (
            f"Indirect objects, unseen name pairs, {o}",
            "accuracy, mean logit difference",
            f"{ioi[o]['accuracy']:.1%}, {ioi[o]['logit_diff']:.1f}",
        )
        for o in ("ABBA", "BABA")
    ]
    out.append(
        (
            "… in held-out clauses",
            "accuracy, mean logit difference",
            f"{new['accuracy']:.1%}, {new['logit_diff']:.1f}",
        )
    )
    out.append(
        (
            f"… in {spread['n_phrasings']} phrasings written apart",
            "accuracy, phrasings above 90%",
            f"{spread['accuracy']:.1%}, {spread['above_90']}",
        )
    )
    out.append(
        (
            "Facts, held-out phrasing of the fact",
            "top-1 of the whole vocabulary",
            f"{m['facts']['top1']:.1%} of {m['facts']['n']}",
        )
    )
    out.append(
        (
            "… the worst relation",
            "top-1",
            f"{m['facts']['worst']:.1%} ({m['facts']['worst_relation']})",
        )
    )
    out.append(
        (
            "Repeated random tokens",
            "accuracy on the second copy",
            f"{m['repeats']['second_accuracy']:.1%}",
        )
    )
    out.append(
        (
            "… loss, first and second copy",
            "nats",
            f"{m['repeats']['first_loss']:.2f}, {m['repeats']['second_loss']:.2f}",
        )
    )
    for kind, what in (
        ("sentiment", "Sentiment of the verdict"),
        ("pronouns", "Pronouns"),
        ("agreement", "Number agreement"),
        ("declines_harmful", "Declines harmful requests"),
        ("answers_harmless", "Answers harmless requests"),
    ):
        out.append((what, "accuracy", f"{m[kind]['accuracy']:.1%}"))
    out.append(
        ("Years: later than the start", "share of the probability", f"{m['years']['mass']:.1%}")
    )
    out.append(("Previous-token head, best", "score", m["anatomy"]["previous"]))
    out.append(("Induction heads above 0.6", "count, best", m["anatomy"]["induction"]))
    out.append(
        (
            "Facts the logit lens reads before each layer, and at the end",
            "share",
            m["anatomy"]["facts_by_layer"],
        )
    )
    return out


def fill(card: Path, table: list[tuple[str, str, str]], samples: list[str]) -> None:
    """Replace what stands between the card's markers."""
    lines = [
        "| on what it was not trained on | measure | value |",
        "|---|---|---|",
        *(f"| {a} | {b} | {c} |" for a, b, c in table),
    ]
    lines += [
        "",
        "Texts that it wrote from BOS alone (temperature 1, seed 0, not chosen):",
        "",
        *("> {}\n>".format(s.strip().replace("\n", "  \n> ")) for s in samples),
    ]
    before, _, rest = card.read_text(encoding="utf-8").partition("<!-- measured -->")
    _, _, after = rest.partition("<!-- /measured -->")
    card.write_text(
        f"{before}<!-- measured -->\n"
        + "\n".join(lines).replace("\n\n>", "\n>")
        + f"\n<!-- /measured -->{after}",
        encoding="utf-8",
    )


def main() -> None:
    """Measure, draw, fill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=evaluate.MODEL_DIR)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    args = parser.parse_args()
    measured = evaluate.measure(args.folder)
    model, tokenizer = evaluate.load(args.folder)
    texts = evaluate.read_phrasings(PHRASINGS)
    measured["phrasings"] = evaluate.phrasings(model, tokenizer, texts)
    bridge = mi.load_model(
        "pocket" if args.folder == evaluate.MODEL_DIR else str(args.folder), device="cpu"
    )
    scores, (recovery, names), by_layer = (
        head_scores(bridge),
        patching(bridge),
        facts_by_layer(bridge),
    )
    strong = [
        f"L{i}H{j} {scores['induction'][i, j]:.2f}"
        for i, j in (scores["induction"] >= 0.6).nonzero().tolist()
    ]
    best, score = mi.heads.top_heads(scores["previous_token"], 1)[0]
    measured["anatomy"] = {
        "previous": f"L{best[0]}H{best[1]} {score:.2f}",
        "induction": f"{len(strong)}: {', '.join(strong)}",
        "facts_by_layer": ", ".join(f"{v:.2f}" for v in by_layer),
    }
    print(json.dumps(measured, indent=1))
    torch.set_printoptions(precision=2, linewidth=200, sci_mode=False)
    print(scores, names, recovery, sep="\n")
    if args.dry:
        print("\n".join(evaluate.samples(args.folder)))
        return
    (POCKET / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    layers = [f"L{i}" for i in range(bridge.cfg.n_layers)]
    heads = [f"H{i}" for i in range(bridge.cfg.n_heads)]
    save_pictures(
        {
            "heads": mi.figures.heatmap(
                torch.stack(list(scores.values())),
                title="Previous-token and induction heads",
                x=heads,
                y=layers,
                facets=list(scores),
                center=None,
                text=".2f",
                subtitle="pocket",
                colorbar="score",
            ),
            "ioi_patching": mi.figures.heatmap(
                recovery,
                title="The subject moves from its second mention to the end of the prompt",
                x=names,
                y=layers,
                subtitle="pocket: residual stream before each layer, logit difference restored",
                colorbar="recovery",
            ),
        },
        POCKET / "pictures",
    )
    fill(POCKET / "README.md", rows(measured), evaluate.samples(args.folder))


if __name__ == "__main__":
    main()
