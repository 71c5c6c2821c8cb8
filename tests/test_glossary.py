"""The glossary holds every term once, and everything it and the notebooks cite resolves."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mi_helpers.suite import library as reading

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
PLANNED = {
    "19_parameter_decomposition",
    "00_start_here",
    "01_residual_stream",
    "02_attention_heads",
    "03_induction_heads",
    "04_logit_difference",
    "05_activation_patching",
    "06_attribution_patching",
    "07_paths_and_circuits",
    "08_ablation_and_pruning",
    "09_superposition",
    "10_sparse_autoencoders",
    "11_reading_features",
    "12_steering",
    "13_behaviour_directions",
    "14_universality",
    "15_mlp_memories",
    "16_tuned_lens",
    "17_attribution_graphs",
    "18_crosscoders",
    "20_grokking",
    "21_groups",
    "23_known_circuits",
    "24_judging_dictionaries",
    "22_solu",
    "25_greater_than",
}
REQUIRED = """
    mechanistic interpretability; feature; circuit; neuron; direction; decomposability;
    linear representation hypothesis; superposition; bottleneck superposition;
    neuron superposition; polysemantic neuron; monosemantic neuron; privileged basis;
    interpretable basis; bottleneck activation; interference; universality; intervention; editing;
    activation patching; causal tracing; attribution patching; path patching; edge patching;
    ablation; zero ablation; mean ablation; resample ablation; logit difference; logit lens;
    direct logit attribution; residual stream; virtual weights; attention head; QK circuit;
    OV circuit; composition; induction head; name mover; sparse autoencoder; dictionary learning;
    feature splitting; crosscoder; transcoder; attribution graph; steering;
    contrastive activation addition; refusal direction; grokking; phase change; microscope AI;
    progress measure; Fourier basis;
    token; logit; softmax; nats; hook; IOI; ABBA/BABA; d_model; recovery; LayerNorm
"""


def _required() -> list[str]:
    return [term.strip() for term in " ".join(REQUIRED.split()).split(";")]


@pytest.mark.parametrize("term", _required())
def test_every_required_term_is_there_once(term: str) -> None:
    assert [entry.term for entry in reading.glossary()].count(term) == 1


def test_no_term_or_alias_names_two_entries() -> None:
    names = Counter(
        name.lower() for entry in reading.glossary() for name in (entry.term, *entry.aliases)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_definitions_are_one_to_four_sentences_and_unlike_one_another() -> None:
    entries = reading.glossary()
    assert len({entry.definition for entry in entries}) == len(entries)
    for entry in entries:
        sentences = re.findall(r"[.?!](?=\s|$)", entry.definition)
        assert 1 <= len(sentences) <= 4, entry.term
        assert entry.definition.endswith("."), entry.term


def test_every_source_resolves() -> None:
    works = reading.literature()
    assert all(entry.sources for entry in reading.glossary())
    unknown = {(e.term, key) for e in reading.glossary() for key in e.sources if key not in works}
    assert unknown == set()


def test_every_notebook_named_is_of_the_suite() -> None:
    assert {entry.notebook for entry in reading.glossary()} <= {*PLANNED, ""}


def test_terms_are_linked_to_just_the_notebooks_that_exist() -> None:
    linked = set(re.findall(r'href="([^":]+)\.ipynb"', reading.glossary_html().data))
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert linked == {entry.notebook for entry in reading.glossary()} & there


def test_works_are_whole_and_unlike_one_another() -> None:
    works = reading.literature().values()
    for field in ("title", "url"):
        values = Counter(getattr(work, field) for work in works)
        assert [value for value, count in values.items() if count > 1] == []
    for work in works:
        assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", work.key), work.key
        assert str(work.year) in work.key
        assert re.match(r"https://\S+$", work.url), work.key
        assert work.topics, work.key


def test_an_arxiv_number_is_of_the_year_that_is_cited() -> None:
    for work in reading.literature().values():
        if match := re.fullmatch(r"https://arxiv\.org/abs/(\d\d)(\d\d)\.\d{4,5}", work.url):
            assert 2000 + int(match[1]) == work.year, work.key
            assert 1 <= int(match[2]) <= 12, work.key


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_citation_in_a_notebook_resolves(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    cited = reading.cite_markdown(text)  # KeyError for an unknown key
    assert "[@" not in cited, "a citation is written [@key] or [@one; @two]"
