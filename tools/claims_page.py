"""All claims by model as one page, with filters: what was expected, and what the last run found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mi_helpers.suite.expectations import ANY, MODELS, Declaration, Expectation
from mi_helpers.suite.views import OWN, Line, span_text

NOT_RUN = "not run"
VERDICTS = ("holds", "fails", "not here", "no expectation", NOT_RUN)
FILTERS = {"model": "Model", "notebook": "Notebook", "status": "Verdict"}


@dataclass(frozen=True)
class Card:
    """One claim on one model: its verdict in a word, and the HTML that tells it."""

    id: str
    notebook: str
    model: str
    status: str
    html: str


def cards(
    suite: Mapping[str, Mapping[str, Declaration]], runs: Sequence[Mapping[str, Any]]
) -> Iterator[Card]:
    """Every claim on every model that has a run or an expectation for it.

    What is asked of the notebook's own models comes once, as a run that failed found it, else the
    first.

    Args:
        suite: the declared claims by notebook, as `load_suite` reads them.
        runs: recorded runs; of two of one notebook and model the later counts.
    """
    found = {
        (run["notebook"], run["model"], row["id"]): Line(**row)
        for run in runs
        for row in run["rows"]
    }
    others = dict.fromkeys(run["model"] for run in runs if run["model"] not in MODELS)
    for notebook, claims in suite.items():
        for claim in claims.values():
            if claim.own:
                made = [line for (n, _, i), line in found.items() if (n, i) == (notebook, claim.id)]
                made.sort(key=lambda line: line.status != "fails")
                status, html = NOT_RUN, _expected_html(claim, claim.expected[ANY])
                if made:
                    status, html = made[0].status, made[0]._repr_html_()
                yield Card(claim.id, notebook, OWN, status, html)
                continue
            for model in (*MODELS, *others):
                line, expected = found.get((notebook, model, claim.id)), claim.of(model)
                if line:
                    yield Card(claim.id, notebook, model, line.status, line._repr_html_())
                elif expected:
                    html = _expected_html(claim, expected)
                    yield Card(claim.id, notebook, model, NOT_RUN, html)


def page_body(made: Sequence[Card], pages: Mapping[str, str]) -> str:
    """The page's content below its heading; `pages` are the notebooks' addresses by name."""
    shown = "".join(
        f'<article class="mi-claim" data-model="{escape(card.model)}" '
        f'data-notebook="{escape(card.notebook)}" data-status="{escape(card.status)}" '
        f'data-claim="{escape(card.id)}">'
        f"<p><b>{escape(card.model)}</b> · {_notebook(card.notebook, pages)}</p>{card.html}"
        "</article>"
        for card in made
    )
    selects = "".join(
        f'<label>{title} <select data-filter="{key}"><option value="">all</option>'
        + "".join(
            f"<option>{escape(value)}</option>"
            for value in dict.fromkeys(getattr(card, key) for card in made)
        )
        + "</select></label>"
        for key, title in FILTERS.items()
    )
    claims = len({card.id for card in made})
    return (
        "<p>A claim is a sentence with a number, an expected range, a source and a "
        "control. It holds if its value lies in one range and its control in the other.</p>"
        f"<p>Shown here: {_said(claims, 'claim')}. Each has an entry for every model on which "
        f"there is an expectation or a run: {_said(len(made), 'entry')} in all. The results of a "
        f"model are its entries that have been run:</p>{_counts_html(made)}"
        f'<form class="mi-filters">{selects}<label>Words <input type="search"></label> '
        f'<output aria-live="polite">{_said(claims, "claim")}, {_said(len(made), "entry")}'
        f"</output></form>{shown}"
    )


def _said(count: int, what: str) -> str:
    """A count with its noun, as site.js says it after each choice."""
    return f"{count} {what if count == 1 else {'claim': 'claims', 'entry': 'entries'}[what]}"


def _counts_html(made: Sequence[Card]) -> str:
    """A table of the results by model: how many there are, and how many of each verdict."""
    verdicts = [one for one in VERDICTS if any(card.status == one for card in made)]
    rows = []
    for model in dict.fromkeys(card.model for card in made):
        tally = Counter(card.status for card in made if card.model == model)
        counts = {
            "results": tally.total() - tally[NOT_RUN],
            **{one: tally[one] for one in verdicts},
        }
        cells = "".join(
            f'<td data-head="{what}">{count or ""}</td>' for what, count in counts.items()
        )
        rows.append(f"<tr><th>{escape(model)}</th>{cells}</tr>")
    head = "".join(f"<th>{one}</th>" for one in ("model", "results", *verdicts))
    return (
        f'<table class="mi-counts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _notebook(name: str, pages: Mapping[str, str]) -> str:
    page = pages.get(name)
    return f'<a href="{escape(page)}">{escape(name)}</a>' if page else escape(name)


def _expected_html(claim: Declaration, expected: Expectation) -> str:
    """What is expected where no run has looked yet."""
    text = escape(expected.says or claim.statement)
    if expected.absent:
        text += f" <em>Not in this model: {escape(expected.absent)}</em>"
    value, control = (
        span_text(one.bounds()) if one else "" for one in (expected.value, expected.control)
    )
    numbers = f"<br>{escape(claim.unit)}: expected {value}" if value else ""
    if control:
        numbers += f" · control ({escape(claim.control)}): expected {control}"
    source = f" · {escape(expected.source)}" if expected.source else ""
    told = f"<b>{NOT_RUN}</b> {text}{numbers}{source} · <code>{escape(claim.id)}</code>"
    return f'<div class="mi-not-run">{told}</div>'
