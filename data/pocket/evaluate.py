"""Measure what pocket can do, on what it was not trained on: ``python -m mi_data.pocket.evaluate``.

Every figure of the model card comes from here, and the test of the committed weights asks for the
same numbers. Only ``transformers`` is used, so the weights are judged without our own analysis
code.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import facts, generator, opinions, people
from .corpus import BOS_ID, repeated_span
from .lexicon import tomllib
from .text import Prompt

MODEL_DIR = Path(str(files(__package__) / "model"))


def load(folder: Path = MODEL_DIR) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights in single precision and the tokenizer of a Hugging Face folder, else pocket's own."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    own = folder if (folder / "tokenizer.json").is_file() else MODEL_DIR
    return model.eval(), AutoTokenizer.from_pretrained(own, local_files_only=True)


@torch.no_grad()
def last_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> np.ndarray:
    """Logits after the last token of each text, BOS first: [text d_vocab]."""
    encoded = [[BOS_ID, *tokenizer(t)["input_ids"]] for t in texts]
    groups = defaultdict(list)
    for index, ids in enumerate(encoded):
        groups[len(ids)].append(index)
    out = np.empty((len(texts), model.config.vocab_size), dtype=np.float32)
    for indices in groups.values():
        tokens = torch.tensor([encoded[i] for i in indices])
        hidden = model.transformer(tokens).last_hidden_state[:, -1]
        out[indices] = model.lm_head(hidden).numpy()
    return out


def ids_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> np.ndarray:
    """Token ids of words that must each be one token."""
    out = [tokenizer(w)["input_ids"] for w in words]
    long = [w for w, ids in zip(words, out, strict=False) if len(ids) != 1]
    if long:
        raise ValueError(
            f"not single tokens: {long[:5]}; give words of the generator with their leading space"
        )
    return np.array([ids[0] for ids in out])


def differences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> np.ndarray:
    """Logit of the right answer minus logit of the wrong one, for each prompt (nats)."""
    logits = last_logits(model, tokenizer, [p.text for p in prompts])
    rows = np.arange(len(prompts))
    right, wrong = (
        ids_of(tokenizer, [getattr(p, k) for p in prompts]) for k in ("answer", "wrong")
    )
    return logits[rows, right] - logits[rows, wrong]


def _mass(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted[:, ids].sum(-1) / shifted.sum(-1)


def _summary(diff: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((diff > 0).mean()), "logit_diff": float(diff.mean()), "n": len(diff)}


# What no row held, in any combination, before the last third of the training of the committed
# weights (the card tells why): what is asked about it is new to the model.
NEWEST = {"agreement": {"link": "behind"}}


def _prompts(kind: str, n: int, **options) -> list[Prompt]:
    options = NEWEST.get(kind, {}) | options
    return [generator.prompt(kind, seed, **options) for seed in range(n)]


def _reviews(n: int) -> list[Prompt]:
    drawn = (generator.prompt("opinion", seed) for seed in itertools.count())
    return list(itertools.islice((p for p in drawn if p.kind == "review"), n))


def ioi(model, tokenizer, n: int = 500) -> dict[str, dict[str, float]]:
    """Unseen name pairs in trained clauses, by order; and unseen pairs in held-out clauses."""
    out = {
        order: _summary(
            differences(
                model, tokenizer, _prompts("ioi", n, order=order, clauses="train", transfer=True)
            )
        )
        for order in ("ABBA", "BABA")
    }
    out["held_out_clauses"] = _summary(differences(model, tokenizer, _prompts("ioi", n)))
    for third in (False, True):
        out[f"third_{third}".lower()] = _summary(
            differences(model, tokenizer, _prompts("ioi", n, third=third, joined=False))
        )
    return out


def phrasings(model, tokenizer, texts: Sequence[str], per_text: int = 20) -> dict[str, float]:
    """Accuracy over given phrasings with slots {A} {B} {C} {S}, both givers, random names."""
    rng = random.Random(0)
    means = []
    for text in texts:
        prompts = []
        for i in range(per_text):
            one, other = people.name_pair(rng, "test")
            giver = (one, other)[i % 2]
            names = {"A": one, "B": other, "C": people.third_name(rng, one, other), "S": giver}
            prompts.append(
                Prompt(
                    text.format(**names),
                    " " + (other if giver == one else one),
                    " " + giver,
                    "ioi",
                    {},
                )
            )
        means.append(float((differences(model, tokenizer, prompts) > 0).mean()))
    return {
        "accuracy": float(np.mean(means)),
        "worst": min(means),
        "n_phrasings": len(means),
        "above_90": int(sum(m >= 0.9 for m in means)),
    }


def read_phrasings(path: Path) -> list[str]:
    """The texts of a file of phrasings (``[[phrasing]]`` tables with ``text``)."""
    return [entry["text"] for entry in tomllib.loads(path.read_text(encoding="utf-8"))["phrasing"]]


def fact_recall(model, tokenizer) -> dict[str, float]:
    """Top-1 over the whole vocabulary, for every held-out (fact, phrasing)."""
    cases = [
        (spec["phrasings"][i].format(s=s), " " + a, name)
        for name, spec in facts.FACTS.items()
        for s, a in spec["facts"]
        for i in facts.phrasings(name, s, "test")
    ]
    texts = [t[0].upper() + t[1:] for t, _, _ in cases]
    right = last_logits(model, tokenizer, texts).argmax(-1) == ids_of(
        tokenizer, [a for _, a, _ in cases]
    )
    by = {
        name: float(np.mean([r for r, (_, _, n) in zip(right, cases, strict=False) if n == name]))
        for name in facts.FACTS
    }
    return {
        "top1": float(right.mean()),
        "n": len(cases),
        "worst_relation": min(by, key=by.__getitem__),
        "worst": min(by.values()),
    }


def groups(
    model,
    tokenizer,
    kind: str,
    right: Callable[[Prompt], Sequence[str]],
    wrong: Callable[[Prompt], Sequence[str]],
    n: int = 500,
) -> dict[str, float]:
    """How often the right words together get more probability than the wrong ones."""
    prompts = _reviews(n) if kind == "review" else _prompts(kind, n)
    logits = last_logits(model, tokenizer, [p.text for p in prompts])
    good = np.array(
        [
            _mass(row[None], ids_of(tokenizer, right(p)))[0]
            for row, p in zip(logits, prompts, strict=False)
        ]
    )
    bad = np.array(
        [
            _mass(row[None], ids_of(tokenizer, wrong(p)))[0]
            for row, p in zip(logits, prompts, strict=False)
        ]
    )
    return {
        "accuracy": float((good > bad).mean()),
        "mass": float((good / (good + bad)).mean()),
        "n": n,
    }


@torch.no_grad()
def repeats(model, length: int = 50, batch: int = 40) -> dict[str, float]:
    """Accuracy and loss (nats) on the second copy of random spans, and the first copy's loss."""
    rng = random.Random(0)
    rows = [
        [BOS_ID, *repeated_span_twice(rng, model.config.vocab_size, length)] for _ in range(batch)
    ]
    tokens = torch.tensor(rows)
    logits = model(tokens).logits.log_softmax(-1)
    loss = -logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    right = (logits[:, :-1].argmax(-1) == tokens[:, 1:]).float()
    return {
        "second_accuracy": float(right[:, length + 1 :].mean()),
        "second_loss": float(loss[:, length + 1 :].mean()),
        "first_loss": float(loss[:, :length].mean()),
    }


def repeated_span_twice(rng: random.Random, vocab_size: int, length: int) -> tuple[int, ...]:
    """A random span followed at once by itself."""
    span = repeated_span(rng, vocab_size, length=length, copies=2).tokens[:length]
    return span + span


def _words(table, tone) -> list[str]:
    return [" " + w for w in table[tone]]


def measure(folder: Path = MODEL_DIR, n: int = 500) -> dict[str, dict]:
    """All abilities of a model folder."""
    model, tokenizer = load(folder)

    def table(p: Prompt) -> dict:
        return opinions.FEELINGS if p.labels["words"] == "feelings" else opinions.ADJECTIVES

    out = {
        "ioi": ioi(model, tokenizer, n),
        "facts": fact_recall(model, tokenizer),
        "repeats": repeats(model),
    }
    out["sentiment"] = groups(
        model,
        tokenizer,
        "review",
        lambda p: _words(table(p), p.labels["sentiment"]),
        lambda p: _words(table(p), opinions.OPPOSITE[p.labels["sentiment"]]),
        n,
    )
    out["years"] = groups(
        model,
        tokenizer,
        "years",
        lambda p: [f"{y:02d}" for y in range(p.labels["start"] + 1, 100)],
        lambda p: [f"{y:02d}" for y in range(p.labels["start"] + 1)],
        n,
    )
    for kind in ("pronouns", "agreement"):
        out[kind] = _summary(differences(model, tokenizer, _prompts(kind, n)))
    for harmful in (True, False):
        decline, comply = [" Sorry", " No"], [" Sure", " Yes"]
        prompts = _prompts("request", n, harmful=harmful)
        logits = last_logits(model, tokenizer, [p.text for p in prompts])
        declined = _mass(logits, ids_of(tokenizer, decline)) > _mass(
            logits, ids_of(tokenizer, comply)
        )
        out["declines_harmful" if harmful else "answers_harmless"] = {
            "accuracy": float((declined == harmful).mean()),
            "n": n,
        }
    return out


def samples(folder: Path = MODEL_DIR, count: int = 8, seed: int = 0) -> list[str]:
    """Texts the model writes from BOS alone, drawn at temperature 1 until its next BOS."""
    model, tokenizer = load(folder)
    torch.manual_seed(seed)
    tokens = model.generate(
        torch.full((count, 1), BOS_ID),
        do_sample=True,
        max_new_tokens=90,
        pad_token_id=BOS_ID,
        eos_token_id=BOS_ID,
    )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in tokens]


def main() -> None:
    """Command line: print the abilities as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL_DIR)
    parser.add_argument("-n", type=int, default=500, help="prompts a behaviour")
    parser.add_argument("--samples", action="store_true", help="print sampled texts instead")
    args = parser.parse_args()
    print(
        "\n\n".join(samples(args.folder))
        if args.samples
        else json.dumps(measure(args.folder, args.n), indent=1)
    )


if __name__ == "__main__":
    main()
