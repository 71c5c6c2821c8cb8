"""One generator of clean and corrupt prompts for each behaviour whose truth is known.

Texts and their truth come from the grammar in `mi_data.pocket`; the corrupt twin replaces the words
that decide the answer and nothing else. What a tokenizer splits or misaligns is left out.

All take `n`, the number of prompts, and `seed`. `split` is "train" for what pocket was trained on,
or "test" for what was held out; a prompt and its twin belong to the same one, so nothing made from
one split has seen the other. All raise ValueError, with reasons, when too few fit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mi_data.pocket import generator, lexicon, opinions, requests
from mi_data.pocket.facts import fact_split
from mi_data.pocket.requests import request_split
from mi_data.pocket.text import Span, combination_split
from transformer_lens.model_bridge import TransformerBridge

from mi_helpers.prompts.drawing import (
    Pair,
    Unfit,
    check_choice,
    collect,
    pair_of,
    replace,
    same_length,
    token_counter,
)
from mi_helpers.prompts.pairs import PromptPairs, single_tokens, token_offsets


def facts(
    model: TransformerBridge,
    n: int = 200,
    seed: int = 0,
    *,
    relation: str | None = None,
    split: str = "train",
) -> PromptPairs:
    """True facts; the twin asks the same of another subject, whose answer is the wrong one.

    Role: subject. A fact is held out in some of its phrasings, and known from others.

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        relation: Keep to one, such as "capital".
        split: "train" or "test".
    """
    if relation is not None:
        check_choice("relation", relation, lexicon.FACTS)
    count = token_counter(model)

    def draw(rng: random.Random) -> Iterator[Pair]:
        prompt = generator.prompt("fact", rng, split, relation=relation)
        subject = prompt.labels["subject"]
        lead = " " if prompt.spans[0].start else ""
        asked, phrasing = prompt.labels["relation"], prompt.labels["phrasing"]
        known = lexicon.FACTS[asked]["facts"]
        own = {answer for name, answer in known if name == subject}
        answers = {
            name: answer
            for name, answer in known
            if answer not in own and fact_split(asked, name, phrasing) == split
        }
        other = rng.choice(same_length(count, subject, answers, lead=lead))
        corrupt, _ = replace(prompt, lambda s: other if s.role == "subject" else None)
        yield pair_of(prompt, corrupt, wrong=f" {answers[other]}")

    return collect(model, "facts", draw, n, seed)


def agreement(
    model: TransformerBridge,
    n: int = 200,
    seed: int = 0,
    *,
    distractor: str = "opposite",
    split: str = "train",
) -> PromptPairs:
    """A verb agrees with its subject across a nearer noun; the twin's subject has the other number.

    Roles: subject, distractor (the nearer noun).

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        distractor: The nearer noun's number, "opposite" or "same".
        split: "train" or "test".
    """
    check_choice("distractor", distractor, ("opposite", "same"))
    nouns = lexicon.LEXICON["count_nouns"]
    other_form = {one: many for one, many in nouns} | {many: one for one, many in nouns}

    def draw(rng: random.Random) -> Iterator[Pair]:
        number, other = rng.sample(["singular", "plural"], 2)
        near = number if distractor == "same" else other
        prompt = generator.prompt("agreement", rng, split, number=number, distractor=near)
        subject, nearer = f"subject_{number}", f"near_{near}"
        if nearer not in {span.role for span in prompt.spans}:
            raise Unfit("no nearer noun")
        corrupt, _ = replace(prompt, lambda s: other_form[s.value] if s.role == subject else None)
        yield pair_of(prompt, corrupt, rename={subject: "subject", nearer: "distractor"})

    return collect(model, "agreement", draw, n, seed)


def pronouns(
    model: TransformerBridge,
    n: int = 200,
    seed: int = 0,
    *,
    companion: bool | None = None,
    split: str = "train",
) -> PromptPairs:
    """A pronoun has the gender of its person; the twin has a name of the other gender.

    Role: name.

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        companion: Whether a second person, of the other gender, stands nearer; None for both.
        split: "train" or "test".
    """
    count = token_counter(model)

    def draw(rng: random.Random) -> Iterator[Pair]:
        prompt = generator.prompt("pronouns", rng, split, companion=companion)
        names = lexicon.MALE if prompt.labels["gender"] == "female" else lexicon.FEMALE
        other = rng.choice([name for name in names if name != prompt.labels["other"]])
        corrupt, twin = replace(prompt, lambda s: other if s.role == "name" else None)
        name = prompt.labels["name"]
        lead = " " if twin["name"].start else ""
        if (count(lead + name), count(lead + other)) != (1, 1):
            raise Unfit("a name of several tokens")
        yield pair_of(prompt, corrupt)

    return collect(model, "pronouns", draw, n, seed)


def sentiment(
    model: TransformerBridge, n: int = 200, seed: int = 0, *, split: str = "train"
) -> PromptPairs:
    """A review's verdict follows from what it said; the twin reverses every word of opinion.

    Right and wrong answer are one word of praise and one of blame, either way round. Role:
    evidence (the last word of opinion).

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        split: "train" or "test".
    """
    tables = (opinions.ADJECTIVES, opinions.VERBS)
    count = token_counter(model)
    home = {word: (table, tone) for table in tables for tone in table for word in table[tone]}

    def draw(rng: random.Random) -> Iterator[Pair]:
        prompt = generator.prompt("opinion", rng, split)
        evidence = f"evidence_{prompt.labels['sentiment']}"
        if evidence not in {span.role for span in prompt.spans}:
            raise Unfit("no word of opinion to reverse")

        def reverse(span: Span) -> str | None:
            if span.role not in (evidence, "opposite"):
                return None
            table, tone = home[span.value]
            return rng.choice(same_length(count, span.value, table[opinions.OPPOSITE[tone]]))

        corrupt, _ = replace(prompt, reverse)
        yield pair_of(prompt, corrupt, rename={evidence: "evidence"})

    return collect(model, "sentiment", draw, n, seed)


def greater_than(
    model: TransformerBridge, n: int = 200, seed: int = 0, *, split: str = "train"
) -> PromptPairs:
    """A span of years ends later than it starts; the twin starts in the year 02 of the century.

    Answers are two digits without a space. The right one is later than the start, the wrong one is
    not, though it would be in the twin. `labels[i]["start"]` has the two digits. Role: start.
    pocket was trained on years in every wording, so "train" and "test" only share no prompt.
    Source: Hanna et al. 2023 (arXiv:2305.00586), section 2.

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        split: "train" or "test".
    """

    def draw(rng: random.Random) -> Iterator[Pair]:
        prompt = generator.prompt("years", rng, "train", start=rng.randint(10, 90))
        start = next(span for span in prompt.spans if span.role == "start")
        corrupt, _ = replace(prompt, lambda s: "02" if s.role == "start" else None)
        if combination_split(corrupt) != split:  # what is the same for every start
            raise Unfit("a wording and century of the other split")
        if (start.start, start.end) not in token_offsets(model, prompt.text):
            raise Unfit("a year that is not split into two pairs of digits")
        wrong = f"{rng.randint(3, int(start.value)):02d}"
        yield pair_of(prompt, corrupt, wrong=wrong)

    check_choice("split", split, ("train", "test"))
    return collect(model, "greater_than", draw, n, seed)


DECLINE, COMPLY = (" Sorry", " No"), (" Sure", " Yes")
"""First words of a reply that declines, or does as asked; the better known first."""


def refusal(
    model: TransformerBridge,
    n: int = 100,
    seed: int = 0,
    *,
    harmful: bool = True,
    split: str = "train",
) -> PromptPairs:
    """A harmful request is declined, its harmless twin is answered.

    Answers: of DECLINE and of COMPLY, the first that is one token. The twin shares the frame and,
    where it can, a word of the request. Role: request.

    Args:
        model: Gives the tokenizer.
        n: Number of prompts.
        seed: Of the draw.
        harmful: Whether the clean prompt is the harmful one, or its twin.
        split: "train" or "test", of what is asked for, in request and twin.
    """
    count = token_counter(model)
    decline, comply = (next(iter(single_tokens(model, words))) for words in (DECLINE, COMPLY))
    table = requests.HARMLESS if harmful else requests.HARMFUL
    twins = [f"{verb} {thing}" for verb, thing in table if request_split(verb, thing) == split]

    def draw(rng: random.Random) -> Iterator[Pair]:
        prompt = generator.prompt("request", rng, split, harmful=harmful)
        do = f"{prompt.labels['verb']} {prompt.labels['object']}"
        others = same_length(count, do, twins)
        akin = [other for other in others if set(other.split()) & set(do.split()) - {"a", "the"}]
        other = rng.choice(akin or others)
        corrupt, _ = replace(prompt, lambda s: other if s.role.startswith("request_") else None)
        answer, wrong = (decline, comply) if harmful else (comply, decline)
        role = next(s.role for s in prompt.spans if s.role.startswith("request_"))
        yield pair_of(prompt, corrupt, answer=answer, wrong=wrong, rename={role: "request"})

    return collect(model, "refusal", draw, n, seed)
