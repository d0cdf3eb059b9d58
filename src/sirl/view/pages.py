"""The pages of `sirl view`, as HTML. Everything that runs hold is escaped by the templates (`sirl.report.render`)."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sirl import run_folder
from sirl.gate.metrics import METRICS, Reading
from sirl.report.conversations import FILTERS, KINDS, Pair, choices_of, pairs_of
from sirl.report.render import environment, legend
from sirl.report.samples import sample_of, visible
from sirl.report.sections import development_section, training_section
from sirl.report.training import reward_name
from sirl.results.load import Run
from sirl.results.values import Results
from sirl.view.folders import brief

HERE = Path(__file__).parent
EACH = 50
"""Pairs on a page."""
FRESH = 120.0
"""Seconds since the last line of `metrics.jsonl` in which a training counts as running."""
CSV_COLUMNS = (*FILTERS, "decoding", "goal", "prompt", "prompt_after", "answer_before", "answer_after")
Query = Mapping[str, str]


def render(template: str, **values: Any) -> str:
    """A page of this folder's templates."""
    made = environment(HERE)
    made.filters["query"] = lambda values: urlencode({k: v for k, v in values.items() if v})
    return made.get_template(template).render(**values).strip() + "\n"


def index(root: Path, runs: Mapping[str, Path]) -> str:
    """The table of runs, newest first."""
    rows = [(name, brief(path)) for name, path in runs.items()]
    rows.sort(key=lambda row: row[1].created, reverse=True)
    return render("index.html.j2", title=root.resolve().name or "runs", rows=rows)


def compare(names: Sequence[str], results: Sequence[Results]) -> str:
    """The metrics of `sirl gate` side by side, a column for each run; metrics that none has are left out."""
    rows = []
    for name, metric in METRICS.items():
        readings = [metric.read(one) for one in results]
        if any(readings):
            cells = [_cell(reading, metric.share) for reading in readings]
            rows.append({"name": name, "description": metric.description, "cells": cells})
    return render("compare.html.j2", title="compare", names=names, rows=rows)


def _cell(reading: Reading | None, share: bool) -> tuple[str, str]:
    """Value and interval as text."""
    if reading is None:
        return "–", ""
    value, low, high = (f"{100 * x:.1f}%" if share else f"{x:.2f}" for x in (reading.value, reading.low, reading.high))
    return value, "" if reading.exact else f"{low} to {high}"


def training(name: str, path: Path, run: Run) -> str:
    """Curves of the training; `live` where lines were written just now."""
    metrics = path / run_folder.METRICS
    live = metrics.is_file() and time.time() - metrics.stat().st_mtime < FRESH
    curves = training_section(run.metrics, reward_name(run.manifest))
    step = run.metrics[-1].get("step", len(run.metrics)) if run.metrics else None
    way = development_section(run.development, run.chosen)
    return render("training.html.j2", title=name, name=name, curves=curves, step=step, live=live, development=way)


def conversations(name: str, run: Run, query: Query) -> str:
    """A page of the pairs that a query asks for: values of the filters, `q` to search for, `page` from 1."""
    pairs = pairs_of(run)
    chosen = {key: query.get(key, "") for key in FILTERS}
    found = _found(pairs, query)
    pages = max(1, -(-len(found) // EACH))
    asked = query.get("page", "1")
    page = min(pages, max(1, int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 9 else 1))
    shown = found[(page - 1) * EACH : page * EACH]
    kept = {"run": name, **chosen, "q": query.get("q", "")}
    return render(
        "conversations_page.html.j2",
        title=name,
        name=name,
        samples=[(pair.facets, sample_of(pair.status, pair.rows, pair.kind != "attack")) for pair in shown],
        choices=choices_of(pairs),
        kinds=KINDS,
        chosen=chosen,
        kept=kept,
        found=len(found),
        total=len(pairs),
        page=page,
        pages=pages,
        legend=legend(),
    )


def conversations_csv(run: Run, query: Query) -> str:
    """All pairs that a query asks for, with their whole texts, as CSV: the columns of the report's own export."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(CSV_COLUMNS)
    for pair in _found(pairs_of(run), query):
        writer.writerow([_no_formula(visible(cell)) for cell in _csv_cells(pair)])
    return "\ufeff" + out.getvalue()


def _csv_cells(pair: Pair) -> list[str]:
    rows = {phase: row.attempt for phase, row in pair.rows.items()}
    asked = {phase: _turns(attempt.messages) for phase, attempt in rows.items()}
    first = next(iter(asked.values()))
    again = asked.get("after", first)
    said = [rows[phase].response if phase in rows else "" for phase in ("before", "after")]
    return [
        *(pair.facets[name] for name in FILTERS),
        pair.first.attempt.decoding,
        pair.first.attempt.goal,
        first,
        again if again != first else "",
        *said,
    ]


def _turns(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in messages)


def _no_formula(text: str) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _found(pairs: Sequence[Pair], query: Query) -> list[Pair]:
    """The pairs that have what a query asks for."""
    chosen = {key: query.get(key, "") for key in FILTERS}
    words = query.get("q", "").strip().casefold()
    return [pair for pair in pairs if _fits(pair, chosen) and (not words or words in _text(pair))]


def _fits(pair: Pair, chosen: Query) -> bool:
    """Whether a pair has the values of the filters, as a page shows them."""
    return all(not value or visible(pair.facets[key]) == value for key, value in chosen.items())


def _text(pair: Pair) -> str:
    """All that was asked and said, for the search."""
    attempts = [row.attempt for row in pair.rows.values()]
    said = [text for a in attempts for text in (a.goal, a.response, *(str(m.get("content", "")) for m in a.messages))]
    return "\n".join(said).casefold()


def problem(title: str, message: str) -> str:
    """A page that says what went wrong."""
    return render("problem.html.j2", title=title, message=message)
