"""The generator: its truth matches its text, its splits are apart, a seed gives one text."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mi_data.pocket import corpus, facts, forms, opinions, people, requests
from mi_data.pocket import generator as g
from mi_data.pocket.text import Writer, combination_split, split_pools

seeds = st.integers(0, 2**32)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, kind=st.sampled_from(g.KINDS), split=st.sampled_from(["train", "test"]))
def test_spans_stand_where_they_say(seed, kind, split):
    sample = g.sample(kind, seed, split)
    for span in sample.spans:
        assert sample.text[span.start : span.end].lower() == span.value.lower(), span
    assert g.sample(kind, seed, split) == sample
    assert "{" not in sample.text and "  " not in sample.text


@settings(max_examples=60, deadline=None)
@given(seed=seeds, kind=st.sampled_from(g.PROMPT_KINDS))
def test_a_prompt_is_the_sample_cut_before_its_answer(seed, kind):
    prompt, whole = (
        g.prompt(kind, seed),
        g.sample(kind, seed, "test", **({"tail": False} if kind == "ioi" else {})),
    )
    assert whole.text.startswith(prompt.text + prompt.answer)
    assert prompt.answer != prompt.wrong


@settings(max_examples=60, deadline=None)
@given(seed=seeds, order=st.sampled_from(["ABBA", "BABA"]))
def test_the_receiver_is_the_other_one(seed, order):
    prompt = g.prompt("ioi", seed, order=order)
    labels = prompt.labels
    assert {prompt.answer.strip(), prompt.wrong.strip()} == {labels["IO"], labels["S"]}
    first = {s.role: s.start for s in reversed(prompt.spans) if s.role in ("IO1", "S1")}
    assert (first["IO1"] < first["S1"]) == (order == "ABBA")
    assert people.pair_split(labels["IO"], labels["S"]) == "test"


def test_neither_order_nor_recency_nor_a_third_name_tells_the_receiver():
    rng = random.Random(0)
    prompts = [people.ioi_prompt(rng, "train") for _ in range(4000)]
    last_is_answer = named_first = 0
    for p in prompts:
        mentions = sorted(
            (s.start, s.value) for s in p.spans if s.value in people.NAMES and s.role != "S2"
        )
        last_is_answer += mentions[-1][1] == p.answer.strip()
        named_first += p.labels["order"] == "ABBA"
    assert 0.4 < named_first / len(prompts) < 0.6
    assert 0.35 < last_is_answer / len(prompts) < 0.6


def test_held_out_items_are_new_clauses_of_known_words():
    pools = {"a": [f"word{c} common{d}" for c in "abcdefghij" for d in "abcdefghij"]}
    split = split_pools(pools)["a"]
    assert set(split["train"]).isdisjoint(split["test"]) and split["test"]
    known = {w for item in split["train"] for w in re.findall("[A-Za-z]+", item)}
    assert all(set(re.findall("[A-Za-z]+", item)) <= known for item in split["test"])


def test_the_real_pools_hold_something_out():
    for name in (
        "times",
        "links",
        "meetings",
        "transfers",
        "others",
        "alone",
        "together",
        "causes",
    ):
        pool = people.POOLS[name]
        assert len(pool["test"]) >= 2 and set(pool["train"]).isdisjoint(pool["test"]), name


def test_every_fact_is_trained_in_most_phrasings_and_every_phrasing_with_most_facts():
    for relation, spec in facts.FACTS.items():
        count = len(spec["phrasings"])
        for subject, _ in spec["facts"]:
            assert len(facts.phrasings(relation, subject, "train")) >= count / 2, (
                relation,
                subject,
            )
        for i in range(count):
            trained = [facts.fact_split(relation, s, i) == "train" for s, _ in spec["facts"]]
            assert sum(trained) >= len(trained) / 2, (relation, i)


def test_a_fact_has_one_answer():
    for relation, spec in facts.FACTS.items():
        subjects = [s for s, _ in spec["facts"]]
        assert len(set(subjects)) == len(subjects), relation
    assert len(facts.all_facts()) >= 300


def test_harm_is_not_told_by_the_verb_or_the_object_alone():
    def heads(table):
        return {verb.split()[0] for verb, _ in table}

    shared_verbs = heads(requests.HARMFUL) & heads(requests.HARMLESS)
    shared_things = {o for _, o in requests.HARMFUL} & {o for _, o in requests.HARMLESS}
    assert len(shared_verbs) >= 10 and len(shared_things) >= 10
    assert not set(requests.HARMFUL) & set(requests.HARMLESS)
    tested = [
        r for r in requests.HARMFUL + requests.HARMLESS if requests.request_split(*r) == "test"
    ]
    assert len(tested) >= 20


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_years_end_after_they_start(seed):
    prompt = g.prompt("years", seed)
    assert int(prompt.answer) > prompt.labels["start"] >= int(prompt.wrong)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, number=st.sampled_from(["singular", "plural"]))
def test_the_verb_agrees_with_the_subject_not_the_distractor(seed, number):
    other = "plural" if number == "singular" else "singular"
    prompt = g.prompt("agreement", seed, number=number, distractor=other)
    assert (
        prompt.answer.strip() in forms.VERBS[number] and prompt.wrong.strip() in forms.VERBS[other]
    )


@settings(max_examples=40, deadline=None)
@given(seed=seeds, tone=st.sampled_from(["good", "bad"]))
def test_the_verdict_has_the_sentiment_of_the_evidence(seed, tone):
    prompt = g.prompt("opinion", seed, sentiment=tone)
    words = {t: set(opinions.ADJECTIVES[t]) | set(opinions.FEELINGS[t]) for t in ("good", "bad")}
    assert (
        prompt.answer.strip() in words[tone]
        and prompt.wrong.strip() in words[opinions.OPPOSITE[tone]]
    )
    assert not words["good"] & words["bad"]


def test_bad_input_is_named():
    with pytest.raises(KeyError, match="poems"):
        g.sample("poems", 0)
    with pytest.raises(ValueError, match="validation"):
        g.sample("ioi", 0, "validation")
    with pytest.raises(ValueError, match="99"):
        forms.years(random.Random(0), start=99)
    with pytest.raises(ValueError, match="marks no answer"):
        _ = Writer("no answer here").sample("x").answer_span


def test_a_repeated_span_repeats():
    span = corpus.repeated_span(random.Random(1), 100, length=7, copies=3)
    assert len(span.starts) == 3
    copies = {span.tokens[s : s + 7] for s in span.starts}
    assert len(copies) == 1 and 0 not in span.tokens


def test_only_what_the_span_determines_is_trained_on():
    span = corpus.RepeatedSpan((5, 6, 7, 9, 5, 6, 7), 3, (0, 4))
    flags = [token >= corpus.NOISE for token in corpus.flagged(span)]
    assert flags == [True] * 5 + [False] * 2
    assert [t & (corpus.NOISE - 1) for t in corpus.flagged(span)] == list(span.tokens)


def test_the_last_documents_are_drawn_from_their_own_mix():
    assert set(g.LATE_MIX) == set(g.MIX) == set(g.KINDS)
    rng = random.Random(0)
    kinds = [g.document(rng, mix=g.LATE_MIX).kind for _ in range(1000)]
    usual = [g.document(rng).kind for _ in range(1000)]
    assert kinds.count("agreement") > 1.3 * usual.count("agreement")
    assert {d.kind for d in (g.document(i, mix={"years": 1}) for i in range(5))} == {"years"}


def test_held_out_combinations_are_never_trained_on():
    def combination(split, seed):
        sample = g.sample("agreement", seed, split)
        subject = next(s.value for s in sample.spans if s.role.startswith("subject"))
        return subject, sample.text.split(subject, 1)[1].split(" the ")[0]

    trained = {combination("train", seed) for seed in range(1500)}
    tested = {combination("test", seed) for seed in range(300)}
    assert trained.isdisjoint(tested)
    assert {link for _, link in tested} & {link for _, link in trained}
    shares = [combination_split("a", str(i)) == "test" for i in range(2000)]
    assert 0.17 < sum(shares) / 2000 < 0.23
