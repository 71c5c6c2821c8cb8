"""The scoreboard where the truth is half known: heads of language models, against lists by hand.

Part of tools/scoreboard.py. The lists come from prompts of their own (`LISTED`), the methods run
on other draws. On each model it takes minutes, and on SmolLM2 3 GiB.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch

from mi_helpers import load_model, model_id, prompts, sae
from mi_helpers.circuits import EdgeGraph, by_hand, published
from mi_helpers.metrics import LogitDiff
from mi_helpers.models import by_size
from mi_helpers.patching import OtherRun
from mi_helpers.sites import Head
from mi_helpers.toys import scoreboard

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MODELS = ("pocket", "smollm2-q4")
DRAWS = {"smollm2-q4": 3}
"""Draws of prompts for a model; 5 for any other."""
LISTED, DEALT = 100, 20
"""The seed of the prompts that lists are made on; how many shuffled lists a method is held to."""
SLOW = ("each edge alone", "ACDC")
"""A run of the model for each edge: too many here."""
ABLATING = ("zero ablation", "mean ablation", "resample ablation", "noising", "denoising")
SLOWER = (*SLOW, "learned masks", *ABLATING)
"""On large models a run for each head, or with a gate for each edge, is too much, too."""
GRAPH, TRANSCODERS = "transcoder graph", ("pocket",)
"""The method that needs transcoders of a language model, and the models that have some here."""
Heads = dict[str, list[str]]
Measured = dict[str, Any]


def lists_of(model: TransformerBridge) -> dict[str, Heads]:
    """The lists of a model, each by its classes: by looks, by paths, and what was published."""
    pairs = prompts.ioi(model, by_size(model, 24, 12), LISTED, corruption="random")
    other, metric = OtherRun(pairs.corrupt_tokens), LogitDiff(pairs.answer_tokens)
    found = {
        "looks": by_hand.by_looks(model, pairs),
        "paths": by_hand.by_paths(model, pairs.clean_tokens, other, metric),
        "published": published(model_id(model)),
    }
    return {name: {kind: [str(head) for head in heads] for kind, heads in classes.items()}
            for name, classes in found.items() if any(classes.values())}  # fmt: skip


def left_out_of(model: TransformerBridge) -> list[str]:
    """The methods that are not asked about a model: too slow, or without transcoders of it."""
    slow: Sequence[str] = by_size(model, SLOW, SLOWER)
    return [*slow, *([] if model_id(model) in TRANSCODERS else [GRAPH])]


def methods_of(model: TransformerBridge) -> dict[str, scoreboard.Method]:
    """All methods; the transcoder graph goes through the model's committed transcoders."""
    methods = dict(scoreboard.ALL_METHODS)
    if model_id(model) in TRANSCODERS:
        folder = files("mi_data") / "transcoders"
        trained = [sae.load(folder / f"mlp_{i}") for i in range(model.cfg.n_layers)]
        methods[GRAPH] = partial(scoreboard.transcoder_graph, transcoders=trained)
    return methods


def missing(name: str, entry: Measured) -> dict[int, list[str]]:
    """For each draw the methods that were not run on it."""
    there = {(row["seed"], row["method"]) for row in entry["rows"]}
    asked = [method for method in scoreboard.ALL_METHODS if method not in entry["left_out"]]
    return {seed: [method for method in asked if (seed, method) not in there]
            for seed in range(DRAWS.get(name, 5))}  # fmt: skip


def measure(known: Mapping[str, Measured], asked: Sequence[str],
            save: Callable[[Mapping[str, Measured]], None]) -> dict[str, Measured]:  # fmt: skip
    """What is known, and what is missing of the models asked for; saved after each draw."""
    found, order = dict(known), list(scoreboard.ALL_METHODS)
    for name in asked:
        entry = found.setdefault(name, {"lists": {}, "left_out": [], "rows": []})
        if not any(missing(name, entry).values()):
            continue
        model = load_model(name)
        methods, entry["left_out"] = methods_of(model), left_out_of(model)
        entry["lists"] = entry["lists"] or lists_of(model)
        entry["heads"] = model.cfg.n_layers * model.cfg.n_heads
        for seed, some in missing(name, entry).items():
            new = rows_of(model, entry["lists"], {one: methods[one] for one in some}, seed)
            entry["rows"] = sorted(
                [*entry["rows"], *new], key=lambda row: (row["seed"], order.index(row["method"]))
            )
            print(name, seed, *some, sep=", ", flush=True)
            save(found)
    return found


def rows_of(
    model: TransformerBridge,
    lists: Mapping[str, Heads],
    methods: Mapping[str, scoreboard.Method],
    seed: int,
) -> list[Measured]:
    """A row for each method on one draw: AUROC and AP against each list, and one shuffled."""
    pairs = prompts.ioi(model, by_size(model, 12, 4), seed, corruption="random", same_wording=True)
    case, rows = scoreboard.asked_of("ioi", model, pairs), []
    listed = {name: [h for heads in one.values() for h in heads] for name, one in lists.items()}
    dealt = [by_hand.shuffled(EdgeGraph.of(model), map(Head.parse, listed["looks"]), i)
             for i in range(DEALT)]  # fmt: skip
    for method, score in methods.items():
        began = time.process_time()
        scores = score(case)
        row: Measured = {"seed": seed, "method": method}
        row["seconds"] = round(time.process_time() - began, 3)
        for name, heads in listed.items():
            found = scoreboard.score_heads(case, scores, map(Head.parse, heads))
            row |= {f"{name} {key}": round(value, 4) for key, value in found.items()}
        control = [scoreboard.score_heads(case, scores, one)["AP"] for one in dealt]
        rows.append(row | {"shuffled AP": round(sum(control) / DEALT, 4)})
    return rows


def page(found: Mapping[str, Measured]) -> list[str]:
    """The section of docs/scoreboard.md."""
    lines = [TEXT.format(dealt=DEALT), ""]
    for model, entry in found.items():
        listed = {name: sum(map(len, one.values())) for name, one in entry["lists"].items()}
        draws = len({row["seed"] for row in entry["rows"]})
        lines += [f"### {model}, {entry['heads']} heads, {draws} draws", ""]
        for name, classes in entry["lists"].items():
            named = [f"{kind} {', '.join(heads)}" for kind, heads in classes.items() if heads]
            lines += [f"- *{name}*, {listed[name]} heads: {'; '.join(named)}."]
        columns = [f"{name} {key}" for name in listed for key in ("AUROC", "AP")]
        columns += ["shuffled AP"]
        lines += ["", f"| method | {' | '.join(columns)} | seconds |"]
        lines += [f"|:--|{'--:|' * (len(columns) + 1)}"]
        for method in dict.fromkeys(row["method"] for row in entry["rows"]):
            rows = [row for row in entry["rows"] if row["method"] == method]
            cells = [_mean([row[key] for row in rows]) for key in columns]
            cells += [f"{statistics.median(row['seconds'] for row in rows):.1f}"]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines += [""]
    return lines


def _mean(values: Sequence[float]) -> str:
    low, high = scoreboard.interval(torch.tensor([values]))
    return f"{sum(values) / len(values):.2f} ({low:.2f} to {high:.2f})"


TEXT = """## Where the truth is half known

Nobody knows the circuit of a language model. For indirect objects there are lists of heads made by
hand, each by a rule (`mi_helpers/circuits/by_hand.py`), on prompts that no method was run on:

- *looks*: from the end a head gives a third of its attention to names, and a third of the names
  that it reads are among the five tokens that it raises, or lowers, most; or it gives a third to
  S2; or, from S2, a third to S1 and the token after it. Patterns and weights alone: nothing is
  changed in the model, and no metric is asked. The method that resembles it is *direct
  attribution*, which reads what a head writes.
- *paths*: a head moves the logit difference by a twentieth over its direct path to the logits, or
  into the queries, the keys or the values of the heads that do. Every method that measures or
  estimates what noising does resembles it (*noising*, *attribution patching*, *EAP*, *EAP-IG*) and
  is favoured: there read the other rows.
- *published*, for GPT-2 small alone: the heads of Wang et al. 2022, Fig. 2. They were found by path
  patching and patterns, too. (`python tools/scoreboard.py --models gpt2` adds the table.)

AUROC and average precision over heads, MLPs left out; mean over draws of prompts, with a
90% interval (bootstrap over the draws). *Shuffled*: against {dealt} lists with as many heads of
each layer as *looks* has, drawn anew: what a method gets for the layers alone. A list may be wrong
in both ways, so a low number need not be the method's fault; and a list of one or two heads is soon
ranked first, so a high number there says little. Each edge alone and ACDC take a run of
the model for each edge and were left out; so were, on large models, learned gates and the
ablations, which take a run for each head. The transcoder graph needs transcoders of the model's
MLPs, which here pocket alone has (data/transcoders): it goes through their units and skips, and
what they lack of an MLP, their error, passes nothing on. Its scores are of a prompt alone, without
a twin, and nothing goes through queries and keys."""
