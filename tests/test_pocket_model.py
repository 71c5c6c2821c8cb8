"""The committed weights: they load with the libraries alone and can do what the model card says.

Bars are the project's own; figures in the model card come from the same functions.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mi_data.pocket import evaluate as e
from mi_data.pocket.text import Prompt
from mi_data.pocket.tokenizer import required_tokens

N = 300


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    return e.load()


@pytest.fixture(scope="module")
def measured():
    """All abilities, measured once."""
    return e.measure(n=N)


def test_files_are_small_and_hold_no_pickle():
    files = [p for p in e.MODEL_DIR.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24e6
    assert {p.suffix for p in files} <= {".json", ".safetensors", ""}


def test_architecture_is_gpt2s(loaded):
    config = loaded[0].config
    assert config.model_type == "gpt2" and config.activation_function == "gelu_new"
    assert config.tie_word_embeddings and 4 <= config.n_layer <= 8 and config.n_positions >= 128


def test_answers_are_single_tokens(loaded):
    tokenizer = loaded[1]
    assert [t for t in required_tokens() if len(tokenizer(t)["input_ids"]) != 1] == []
    text = "When Mary and John went to the store, John gave a drink to"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == (
        "When ĠMary Ġand ĠJohn Ġwent Ġto Ġthe Ġstore , ĠJohn Ġgave Ġa Ġdrink Ġto".split()
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_indirect_objects(measured):
    out = measured["ioi"]
    for order in ("ABBA", "BABA"):
        assert out[order]["accuracy"] >= 0.97 and out[order]["logit_diff"] >= 3, out[order]
    assert out["held_out_clauses"]["accuracy"] >= 0.95, out["held_out_clauses"]


def test_indirect_objects_in_phrasings_written_apart(loaded):
    path = Path(__file__).parent / "data" / "ioi_phrasings.toml"
    texts = e.read_phrasings(path)
    assert len(texts) >= 20
    assert e.phrasings(*loaded, texts)["accuracy"] >= 0.90


def test_swapping_who_acts_swaps_the_answer(loaded):
    text = "When Mary and John went to the store, {} gave a drink to"
    prompts = [
        Prompt(text.format(s), " " + a, " " + s, "ioi", {})
        for s, a in (("John", "Mary"), ("Mary", "John"))
    ]
    assert (e.differences(*loaded, prompts) > 0).all()


def test_repeats(measured):
    out = measured["repeats"]
    assert out["second_accuracy"] >= 0.95
    assert out["first_loss"] > 7 > 1 > out["second_loss"]


def test_facts(measured):
    out = measured["facts"]
    assert out["top1"] >= 0.95 and out["n"] >= 300, out


@pytest.mark.parametrize("kind", ["pronouns", "agreement"])
def test_grammar(measured, kind):
    assert measured[kind]["accuracy"] >= 0.97


def test_sentiment_years_and_requests(measured):
    out = measured
    assert out["sentiment"]["accuracy"] >= 0.97, out["sentiment"]
    assert out["years"]["mass"] >= 0.85, out["years"]
    assert out["declines_harmful"]["accuracy"] >= 0.95, out["declines_harmful"]
    assert out["answers_harmless"]["accuracy"] >= 0.95, out["answers_harmless"]


def test_an_untrained_model_can_do_none_of_it(loaded):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    control = AutoModelForCausalLM.from_config(loaded[0].config).eval()
    out = e.ioi(control, loaded[1], 60)
    assert out["ABBA"]["accuracy"] < 0.8 and abs(out["ABBA"]["logit_diff"]) < 1
    assert e.repeats(control, batch=4)["second_accuracy"] < 0.05
