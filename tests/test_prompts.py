"""Prompts: aligned, true, what the literature used, and refused when they are not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import checkpoints
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mi_data.pocket import facts, lexicon, opinions, requests
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mi_helpers import prompts
from mi_helpers.models import load_model
from mi_helpers.prompts import behaviours

BEHAVIOURS = ["ioi", "facts", "agreement", "pronouns", "sentiment", "greater_than", "refusal"]


def _changed(pairs: prompts.PromptPairs, i: int) -> list[tuple[str, str]]:
    """The words that differ between a clean prompt and its twin."""
    words = [re.findall(r"\w+", texts[i]) for texts in (pairs.clean, pairs.corrupt)]
    return [(a, b) for a, b in zip(*words, strict=True) if a != b]


def _check_aligned(model, pairs: prompts.PromptPairs) -> None:
    """What every set of pairs promises, recomputed from the texts."""
    encoded = model.tokenizer([*pairs.clean, *pairs.corrupt], add_special_tokens=False)
    ids = [[model.tokenizer.bos_token_id, *ids] for ids in encoded["input_ids"]]
    assert torch.cat([pairs.clean_tokens, pairs.corrupt_tokens]).tolist() == ids
    assert (pairs.clean_tokens != pairs.corrupt_tokens).any(-1).all()
    assert pairs.answer_tokens.shape == (len(pairs), 2)
    for i, right_wrong in enumerate(pairs.answer_tokens.tolist()):
        assert [model.tokenizer.decode([t]) for t in right_wrong] == [
            pairs.answers[i],
            pairs.wrong[i],
        ]
    assert len(set(pairs.clean)) == len(pairs)
    assert "".join(pairs.str_tokens[0]) == model.tokenizer.bos_token + pairs.clean[0]
    assert (pairs.positions["end"] == pairs.clean_tokens.shape[1] - 1).all()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("tokenizer", ["worded_model", "gpt2_tokenized", "pocket"])
def test_every_behaviour_is_aligned_seeded_and_true(behaviour, tokenizer, request) -> None:
    model = request.getfixturevalue(tokenizer)
    make = getattr(prompts, behaviour)
    pairs = make(model, 24, seed=3)
    assert len(pairs) == 24
    _check_aligned(model, pairs)
    assert make(model, 24, seed=3).clean == pairs.clean
    assert make(model, 24, seed=4).clean != pairs.clean
    for i in range(24):
        TRUTHS[behaviour](pairs, i)


def _ioi_truth(pairs, i: int) -> None:
    receiver, giver = pairs.labels[i]["IO"], pairs.labels[i]["S"]
    assert (pairs.answers[i], pairs.wrong[i]) == (f" {receiver}", f" {giver}")
    assert (pairs.clean[i].count(receiver), pairs.clean[i].count(giver)) == (1, 2)
    assert (pairs.corrupt[i].count(receiver), pairs.corrupt[i].count(giver)) == (2, 1)
    read = {role: pairs.str_tokens[i][where[i]] for role, where in pairs.positions.items()}
    assert (read["IO1"], read["S1"], read["S2"]) == (f" {receiver}", f" {giver}", f" {giver}")
    first = pairs.positions["IO1"][i] < pairs.positions["S1"][i] < pairs.positions["S2"][i]
    assert pairs.labels[i]["order"] == ("ABBA" if first else "BABA")
    changed = (pairs.clean_tokens[i] != pairs.corrupt_tokens[i]).nonzero().flatten()
    assert changed.tolist() == [pairs.positions["S2"][i]]


def _fact_truth(pairs, i: int) -> None:
    label = pairs.labels[i]
    known = [tuple(fact) for fact in lexicon.FACTS[label["relation"]]["facts"]]
    assert (label["subject"], pairs.answers[i].strip()) in known
    assert (label["subject"], pairs.wrong[i].strip()) not in known
    others = [s for s, answer in known if answer == pairs.wrong[i].strip()]
    assert any(s.lower() in pairs.corrupt[i].lower() for s in others)


def _agreement_truth(pairs, i: int) -> None:
    singular = pairs.labels[i]["number"] == "singular"
    assert (pairs.answers[i] in (" is", " was", " has")) == singular
    assert (pairs.wrong[i] in (" are", " were", " have")) == singular
    nouns = [tuple(x) for x in lexicon.LEXICON["count_nouns"]]
    ((one, other),) = _changed(pairs, i)
    assert ((one, other) if singular else (other, one)) in nouns
    assert pairs.labels[i]["distractor"] != pairs.labels[i]["number"]


def _pronoun_truth(pairs, i: int) -> None:
    female = pairs.labels[i]["gender"] == "female"
    assert (pairs.answers[i], pairs.wrong[i]) == ((" she", " he") if female else (" he", " she"))
    assert (pairs.labels[i]["name"] in lexicon.FEMALE) == female
    assert not set(lexicon.FEMALE) & set(lexicon.MALE)
    ((_, other),) = _changed(pairs, i)
    assert (other in lexicon.MALE) == female


def _sentiment_truth(pairs, i: int) -> None:
    tone = pairs.labels[i]["sentiment"]
    opposite = opinions.OPPOSITE[tone]
    tables = (opinions.ADJECTIVES, opinions.FEELINGS, opinions.VERBS)
    loaded = {t: {w for table in tables for w in table[t]} for t in ("good", "bad")}
    assert pairs.answers[i].strip() in loaded[tone]
    assert pairs.wrong[i].strip() in loaded[opposite]
    assert pairs.str_tokens[i][pairs.positions["evidence"][i]].strip() in loaded[tone]
    assert all((a in loaded["good"]) != (b in loaded["good"]) for a, b in _changed(pairs, i))


def _year_truth(pairs, i: int) -> None:
    start = pairs.labels[i]["start"]
    assert 2 < int(pairs.wrong[i]) <= start < int(pairs.answers[i])
    assert pairs.str_tokens[i][pairs.positions["start"][i]] == f"{start:02d}"
    century = str(pairs.labels[i]["century"])
    assert pairs.clean[i].endswith(f" {century}")
    assert pairs.corrupt[i] == pairs.clean[i].replace(f"{century}{start:02d}", f"{century}02")


def _refusal_truth(pairs, i: int) -> None:
    assert pairs.labels[i]["harmful"]
    assert (pairs.answers[i], pairs.wrong[i]) == (" Sorry", " Sure")
    harmful = [f"{verb} {thing}" for verb, thing in lexicon.LEXICON["harmful"]]
    harmless = [f"{verb} {thing}" for verb, thing in lexicon.LEXICON["harmless"]]
    assert any(request in pairs.clean[i] for request in harmful)
    assert not any(request in pairs.corrupt[i] for request in harmful)
    assert any(request in pairs.corrupt[i] for request in harmless)


TRUTHS = {
    "ioi": _ioi_truth,
    "facts": _fact_truth,
    "agreement": _agreement_truth,
    "pronouns": _pronoun_truth,
    "sentiment": _sentiment_truth,
    "greater_than": _year_truth,
    "refusal": _refusal_truth,
}


# ------------------------------------------------------------------------------------------ IOI


@pytest.mark.parametrize("tokenizer", ["tiny_model", "gpt2_tokenized", "pocket"])
def test_the_eight_prompts_of_the_literature(tokenizer, request) -> None:
    model = request.getfixturevalue(tokenizer)
    pairs = prompts.ioi_literature(model)
    _check_aligned(model, pairs)
    assert pairs.clean_tokens.shape == (8, 15)
    assert pairs.clean[0] == "When John and Mary went to the shops, John gave the bag to"
    assert pairs.positions["S2"].tolist() == [10] * 8
    givers = [label["S"] for label in pairs.labels]
    assert givers == ["John", "Mary", "James", "Tom", "Sid", "Dan", "Amy", "Martin"]
    for i in range(8):
        assert pairs.corrupt[i] == pairs.clean[i ^ 1]
        _ioi_truth(pairs, i)


def test_the_names_are_the_published_tokens(gpt2_tokenized) -> None:
    pairs = prompts.ioi_literature(gpt2_tokenized)
    assert pairs.answer_tokens[[0, 2, 4, 6]].tolist() == [  # reference tok.names
        [5335, 1757],
        [4186, 3700],
        [6035, 15686],
        [5780, 14235],
    ]


def test_published_prompts_that_a_tokenizer_splits_are_left_out_aloud(
    tmp_path, monkeypatch
) -> None:
    for without, left in (("Sid", 6), ("Sid James", 4), ("Sid James Amy", 0)):
        words = " ".join(w for w in checkpoints.WORDS.split() if w not in without.split())
        monkeypatch.setattr(checkpoints, "WORDS", words)
        model = load_model(str(checkpoints.save_tiny(tmp_path / without)), device="cpu")
        if not left:
            with pytest.raises(ValueError, match="too few published prompts are left"):
                prompts.ioi_literature(model)
            continue
        with pytest.warns(UserWarning, match="When Dan and Sid went"):
            pairs = prompts.ioi_literature(model)
        _check_aligned(model, pairs)
        assert [pairs.clean[i ^ 1] for i in range(left)] == list(pairs.corrupt)
        assert not any(name in text for name in without.split() for text in pairs.clean)


@pytest.mark.parametrize(("order", "share"), [("ABBA", 1.0), ("BABA", 0.0), ("both", 0.5)])
def test_ioi_orders(worded_model, order: str, share: float) -> None:
    pairs = prompts.ioi(worded_model, 30, order=order)
    abba = [label["order"] == "ABBA" for label in pairs.labels]
    assert sum(abba) / 30 == share
    if order == "both":
        assert [pairs.clean[i ^ 1] for i in range(30)] == list(pairs.corrupt)


def test_ioi_with_other_names_keeps_the_pattern_of_who_is_repeated(worded_model) -> None:
    pairs = prompts.ioi(worded_model, 30, corruption="names")
    for i in range(30):
        own = pairs.corrupt_tokens[i]
        at = {role: int(where[i]) for role, where in pairs.positions.items()}
        assert own[at["S1"]] == own[at["S2"]] != own[at["IO1"]]
        assert not set(own.tolist()) & set(pairs.answer_tokens[i].tolist())


def test_ioi_with_random_names_repeats_nobody(worded_model) -> None:
    pairs = prompts.ioi(worded_model, 30, corruption="random")
    for i in range(30):
        at = [int(pairs.positions[role][i]) for role in ("IO1", "S1", "S2")]
        assert len(set(pairs.corrupt_tokens[i, at].tolist())) == 3
        assert not set(pairs.corrupt_tokens[i].tolist()) & set(pairs.answer_tokens[i].tolist())
        kept = torch.ones(pairs.clean_tokens.shape[1], dtype=torch.bool)
        kept[at] = False
        assert torch.equal(pairs.clean_tokens[i, kept], pairs.corrupt_tokens[i, kept])


def test_ioi_in_one_wording_has_one_place_for_each_role(worded_model) -> None:
    pairs = prompts.ioi(worded_model, 30, same_wording=True, order="ABBA")
    assert all(where.unique().numel() == 1 for where in pairs.positions.values())
    assert prompts.ioi(worded_model, 30, order="ABBA").positions["S2"].unique().numel() > 1


def test_ioi_pairs_of_names_are_held_out(worded_model) -> None:
    from mi_data.pocket import people

    for split in ("train", "test"):
        pairs = prompts.ioi(worded_model, 20, split=split)
        assert {people.pair_split(x["IO"], x["S"]) for x in pairs.labels} == {split}


# ---------------------------------------------------------------------------------- the pairs


def test_answers_are_read_as_what_follows_a_text() -> None:
    """Llama 2's tokenizer puts a space in front of every text, and then before answers too."""
    words = ["<unk>", "\u2581", "\u2581\n", "\u2581Mary", "\u2581the"]
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    put, space = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
    plain.normalizer = normalizers.Sequence([put, space])
    plain.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    model = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=plain))
    assert len(model.tokenizer(" Mary").input_ids) == 2  # what would be two tokens alone
    assert prompts.single_token(model, " Mary") == 3
    assert prompts.single_tokens(model, [" the", " Mary"]) == {" the": 4, " Mary": 3}


def test_select_keeps_everything_in_step(worded_model) -> None:
    pairs = prompts.ioi(worded_model, 10)
    some = pairs.select([7, 2])
    assert some.clean == (pairs.clean[7], pairs.clean[2])
    assert torch.equal(some.corrupt_tokens, pairs.corrupt_tokens[[7, 2]])
    assert torch.equal(some.positions["S2"], pairs.positions["S2"][[7, 2]])
    for i in range(2):
        _ioi_truth(some, i)
    for bad in ([], [10], [-11]):
        with pytest.raises(IndexError, match="cannot be chosen from 10"):
            pairs.select(bad)


A, B = "When John and Mary went to the shops", "When Mary and John went to the shops"
BAD = [
    (([], [], [], []), "at least one prompt"),
    (([A, A], [B], [" Mary"], [" John"]), r"got \[2, 1, 1, 1, 2, 2\]"),
    (([A], [B + ","], [" Mary"], [" John"]), r"has 8 tokens and its corrupt twin .* has 9"),
    (([A, A + ","], [B, B + ","], [" Mary"] * 2, [" John"] * 2), "prompt 1.*9 tokens and prompt 0"),
    (([A], [A], [" Mary"], [" John"]), "clean and corrupt are the same text"),
    (([A], [B], [" Maryland"], [" John"]), r"answer ' Maryland' is \d+ tokens .*\[' Mary', 'l'"),
    (([A], [B], [" Mary"], [" Mary"]), "are the same token"),
    (([A + " "], [B + " "], [" Mary"], [" John"]), "ends with a space"),
    (([" the" * 64], [" to" * 64], [" Mary"], [" John"]), "exceed the context of 64"),
]


@pytest.mark.parametrize(("lists", "message"), BAD, ids=[message for _, message in BAD])
def test_misaligned_pairs_are_refused(tiny_model, lists, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts.from_texts(tiny_model, *lists)


def test_an_answer_without_its_space_is_told_so(worded_model) -> None:
    with pytest.raises(ValueError, match="write ' lonely', with a space"):
        prompts.single_token(worded_model, "lonely")


def test_too_few_prompts_name_the_reasons(tiny_model, worded_model) -> None:
    with pytest.raises(
        ValueError, match=r"found only \d+ different facts .* not 20; left out: \d+"
    ):
        prompts.facts(tiny_model, 20)
    with pytest.raises(ValueError, match="n=0"):
        prompts.ioi(worded_model, 0)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (prompts.ioi, {"order": "AABB"}),
        (prompts.ioi, {"corruption": "noise"}),
        (prompts.facts, {"relation": "price"}),
        (prompts.agreement, {"distractor": "near"}),
    ],
)
def test_unknown_options_name_the_choices(worded_model, make, options) -> None:
    (value,) = options.values()
    with pytest.raises(ValueError, match=f"'{value}' is unknown: choose '"):
        make(worded_model, 5, **options)


def test_literature_texts_are_found_or_named(gpt2_tokenized) -> None:
    tokens = gpt2_tokenized.to_tokens(prompts.literature_text("reference"))
    expected = [50256, 40, 716, 281, 4998, 1960, 382, 19741, 11, 875, 12342]  # tok.reference_text
    assert tokens[0, :11].tolist() == expected
    with pytest.raises(KeyError, match="no published text 'moby'; there is reference"):
        prompts.literature_text("moby")
    with pytest.raises(KeyError, match="no published set 'ioi9'; there is ioi8, milk"):
        prompts.ioi_literature(gpt2_tokenized, "ioi9")


# ------------------------------------------------------------------------- splits and tokenizers


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("harmful", [True, False])
def test_requests_and_their_twins_belong_to_one_split(pocket, split, harmful) -> None:
    found = prompts.refusal(pocket, 20, seed=1, harmful=harmful, split=split)
    ours, theirs = requests.HARMFUL, requests.HARMLESS
    if not harmful:
        ours, theirs = theirs, ours
    for texts, table in ((found.clean, ours), (found.corrupt, theirs)):
        for text in texts:
            (asked,) = {r for r in table if re.search(rf"\b{r[0]} {r[1]}\b", text)}
            assert requests.request_split(*asked) == split, text


@pytest.mark.parametrize("split", ["train", "test"])
def test_facts_and_their_twins_belong_to_one_split(pocket, split) -> None:
    found = prompts.facts(pocket, 12, seed=1, split=split)
    for i, label in enumerate(found.labels):
        known = lexicon.FACTS[label["relation"]]
        frame = known["phrasings"][label["phrasing"]]
        for text, answer in (
            (found.clean[i], found.answers[i]),
            (found.corrupt[i], found.wrong[i]),
        ):
            (about,) = {s for s, _ in known["facts"] if _same(frame.format(s=s), text)}
            assert [about, answer.strip()] in [list(fact) for fact in known["facts"]]
            assert facts.fact_split(label["relation"], about, label["phrasing"]) == split


def _same(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()


@pytest.mark.parametrize("behaviour", ["refusal", "facts", "greater_than"])
def test_no_prompt_stands_in_both_splits(pocket, behaviour) -> None:
    n = {"refusal": 30, "facts": 12, "greater_than": 100}[behaviour]
    sides = []
    for split in ("train", "test"):
        drawn = [getattr(prompts, behaviour)(pocket, n, seed, split=split) for seed in range(3)]
        sides.append({text for pairs in drawn for text in (*pairs.clean, *pairs.corrupt)})
        assert len(sides[-1]) > n
    assert not sides[0] & sides[1]


def test_an_unknown_split_is_named(pocket) -> None:
    for behaviour in ("refusal", "greater_than", "facts"):
        with pytest.raises(ValueError, match="'dev'"):
            getattr(prompts, behaviour)(pocket, 4, split="dev")


def test_prompts_begin_as_the_models_own_tokens_do(tiny_model, monkeypatch) -> None:
    texts = [A], [B], [" Mary"], [" John"]
    for habit in (True, False):
        monkeypatch.setattr(tiny_model.cfg, "default_prepend_bos", habit)
        pairs = prompts.from_texts(tiny_model, *texts, spans=[{"name": (0, 4)}])
        assert torch.equal(pairs.clean_tokens, tiny_model.to_tokens(A))
        assert torch.equal(pairs.corrupt_tokens, tiny_model.to_tokens(B))
        assert pairs.positions["name"].tolist() == [int(habit)]
        assert "".join(pairs.str_tokens[0]).endswith(A)


@pytest.mark.parametrize(
    ("subject", "twin"), [("café", "cafè"), ("解釈", "釈解"), ("🎉", "🎊"), ("Mary", "John")]
)
@pytest.mark.parametrize("before", ["", "The ", "Der "])
def test_a_role_is_the_last_token_of_its_span(pocket, subject, twin, before) -> None:
    text = f"{before}{subject} of Mary"
    pairs = prompts.from_texts(
        pocket,
        [text],
        [text.replace(subject, twin, 1)],
        [" Mary"],
        [" John"],
        spans=[{"subject": (len(before), len(before) + len(subject))}],
    )
    at = int(pairs.positions["subject"])
    read = pocket.tokenizer.decode(pairs.clean_tokens[0, 1 : at + 1].tolist())
    assert read == before + subject


def test_answers_are_chosen_by_tokenizer(worded_model) -> None:
    found = prompts.single_tokens(worded_model, [" Maryland", " Mary", " Johnlike", " John"])
    assert list(found) == [" Mary", " John"]
    assert found[" Mary"] == prompts.single_token(worded_model, " Mary")
    with pytest.raises(ValueError, match=r"only 1 of .* not 2; tokens of the others: .*Maryland"):
        prompts.single_tokens(worded_model, [" Maryland", " Mary"], least=2)


def test_refusals_use_the_words_that_are_one_token(worded_model, monkeypatch) -> None:
    monkeypatch.setattr(behaviours, "DECLINE", (" Sorrowfully", " No"))
    found = prompts.refusal(worded_model, 4)
    assert set(found.answers) == {" No"} and set(found.wrong) == {" Sure"}
    swapped = prompts.refusal(worded_model, 4, harmful=False)
    assert set(swapped.answers) == {" Sure"} and set(swapped.wrong) == {" No"}


# ------------------------------------------------------------------------------ repeated tokens


@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    batch=st.integers(1, 5), length=st.integers(1, 31), seed=st.integers(0, 99), bos=st.booleans()
)
def test_repeated_tokens_say_everything_twice(tiny_model, batch, length, seed, bos) -> None:
    tokens = prompts.repeated_tokens(tiny_model, batch, length, seed, bos=bos)
    assert tokens.shape == (batch, 2 * length + bos)
    body = tokens[:, int(bos) :]
    assert torch.equal(body[:, :length], body[:, length:])
    assert not torch.isin(body, torch.tensor(tiny_model.tokenizer.all_special_ids)).any()
    if bos:
        assert (tokens[:, 0] == tiny_model.tokenizer.bos_token_id).all()
    again = prompts.repeated_tokens(tiny_model, batch, length, seed, bos=bos)
    assert torch.equal(tokens, again)


def test_repeated_tokens_of_the_published_scores(gpt2_tokenized) -> None:
    state = torch.random.get_rng_state()
    tokens = prompts.repeated_tokens(gpt2_tokenized, 2, 100, bos=False, low=100, high=20000)
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        half = torch.randint(100, 20000, (2, 100))
    assert torch.equal(tokens, torch.cat([half, half], dim=1))
    assert tokens[0, :5].tolist() == [1044, 3539, 10733, 15360, 18263]


def test_repeated_tokens_cover_the_vocabulary_and_differ_by_seed(tiny_model) -> None:
    tokens = prompts.repeated_tokens(tiny_model, 200, 30)
    n_ordinary = len(tiny_model.tokenizer) - len(tiny_model.tokenizer.all_special_ids)
    assert tokens[:, 1:].unique().numel() == n_ordinary
    assert not torch.equal(tokens, prompts.repeated_tokens(tiny_model, 200, 30, seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0"),
        ({"length": 32}, "context of 64: length can be 31 at most"),
        ({"low": 5, "high": 5}, "low=5 and high=5"),
        ({"high": 10**6}, "high=1000000"),
        ({"low": 0, "high": 1}, "only special tokens from 0 to 0"),
    ],
)
def test_impossible_draws_are_refused(tiny_model, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts.repeated_tokens(tiny_model, **{"length": 10, **options})


def test_a_model_without_a_start_token_says_so(tiny_model) -> None:
    class NoStart:
        bos_token_id, all_special_ids = None, [0]
        __len__ = tiny_model.tokenizer.__len__

    model = SimpleNamespace(tokenizer=NoStart(), cfg=tiny_model.cfg)
    with pytest.raises(ValueError, match="has no start token: say bos=False"):
        prompts.repeated_tokens(model, 2, 5)
    assert prompts.repeated_tokens(model, 2, 5, bos=False).shape == (2, 10)
