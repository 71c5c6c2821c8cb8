"""Spans of years: what is right after a start, for tokenizers of pairs of digits and of digits."""

from __future__ import annotations

import checkpoints
import pytest
import torch

from mi_helpers.metrics import ProbDiff
from mi_helpers.models import load_model
from mi_helpers.prompts.years import TWIN, YearAnswers, year_answers, year_spans


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_model(
        str(checkpoints.save_digits(tmp_path_factory.mktemp("m") / "d")), device="cpu"
    )


def by_definition(answers: YearAnswers, start: int) -> list[float]:
    """Right where all years that begin so are later than the start, wrong where none is."""
    signs = []
    for text in answers.texts:
        later = [year > start for year in range(100) if f"{year:02d}".startswith(text)]
        signs.append(1.0 if all(later) else 0.0 if any(later) else -1.0)
    return signs


@pytest.mark.parametrize("n_digits", [1, 2])
def test_the_signs_say_which_years_an_answer_can_become(n_digits):
    texts = tuple(f"{i:0{n_digits}d}" for i in range(10**n_digits))
    answers = YearAnswers(n_digits, texts, torch.arange(len(texts)))
    starts = torch.arange(3, 99)
    assert answers.signs(starts).tolist() == [by_definition(answers, s) for s in range(3, 99)]
    sharp = answers.cutoff(torch.tensor([32]))[0]
    right, wrong = (answers.texts[int(sharp.argmax())], answers.texts[int(sharp.argmin())])
    assert (right, wrong) == (("33", "31") if n_digits == 2 else ("4", "2"))
    assert sharp.abs().sum() == 2


@pytest.mark.parametrize("name", ["pocket", "gpt2_tokenized", "digits"])
def test_prompts_are_aligned_and_their_roles_stand_where_they_say(name, request):
    model = request.getfixturevalue(name)
    spans = year_spans(model, 12, seed=3)
    pairs, pieces = spans.pairs, 3 - spans.answers.digits
    assert spans.answers.digits == (1 if name == "digits" else 2)
    assert len({*pairs.clean}) == 12 and len({*pairs.str_tokens[0]}) > 5
    for i, start in enumerate(spans.starts.tolist()):
        at = {role: int(where[i]) for role, where in pairs.positions.items()}
        tokens, twin = pairs.str_tokens[i], pairs.corrupt[i]
        assert twin == pairs.clean[i].replace(f"{start:02d} to", f"{TWIN} to")
        assert "".join(tokens[at["start"] - pieces + 1 : at["start"] + 1]) == f"{start:02d}"
        assert at["decade"] == at["start"] - pieces + 1 and tokens[at["to"]] == " to"
        assert tokens[at["event"]].strip() == pairs.clean[i].split()[1]
        changed = (pairs.clean_tokens[i] != pairs.corrupt_tokens[i]).nonzero().flatten().tolist()
        assert set(changed) <= {at["decade"], at["start"]} and changed
        assert int(pairs.answers[i]) * 10 ** (2 - spans.answers.digits) > start
    assert (spans.starts >= 10).all() or name != "digits"


def test_the_metrics_are_what_the_paper_defines(pocket):
    spans = year_spans(pocket, 8)
    with torch.no_grad():
        logits = pocket(spans.pairs.clean_tokens)
    probs = logits[:, -1].softmax(-1)[
        :, [pocket.tokenizer(f"{y:02d}").input_ids[-1] for y in range(100)]
    ]
    for i, start in enumerate(spans.starts.tolist()):
        later, earlier = probs[i, start + 1 :].sum(), probs[i, : start + 1].sum()
        assert spans.prob_diff(logits)[i] == pytest.approx(float(later - earlier), abs=1e-5)
        cutoff = probs[i, start + 1] - probs[i, start - 1]
        assert spans.cutoff_sharpness(logits)[i] == pytest.approx(float(cutoff), abs=1e-6)
    torch.testing.assert_close(spans.probabilities(logits), probs)
    assert spans.prob_diff(logits).mean() > 0.7


def test_a_start_a_tokenizer_or_a_metric_that_does_not_fit_is_refused(pocket, tiny_model, digits):
    with pytest.raises(ValueError, match="start 99: choose from 3 to 98"):
        year_spans(pocket, 4, starts=[99])
    with pytest.raises(ValueError, match="start 9: choose from 10 to 89"):
        year_spans(digits, 4, starts=[9])
    with pytest.raises(ValueError, match=r"splits the prompt into .*each pair or digit"):
        year_answers(tiny_model)
    assert year_answers(pocket).texts[33] == "33"
    assert {*year_spans(pocket, 5, starts=[41]).starts.tolist()} == {41}
    with pytest.raises(ValueError, match="one column for each"):
        ProbDiff(torch.arange(3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="example 1 has neither"):
        ProbDiff(torch.arange(2), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
