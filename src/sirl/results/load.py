"""Reads a run folder: the attempts joined with their verdicts, and the files of the other stages.

Stages that were not run are None. What cannot be read is a `UserError` that names the file, and never a silent gap.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.errors import UserError
from sirl.judges.validate import Agreement, judge_agreement
from sirl.manifest import lost_files
from sirl.records import (
    DEFENDED,
    NOT_HELPED,
    SAID,
    Attempt,
    Label,
    R,
    Verdict,
    iter_json_lines,
    iter_records,
    read_jsonl,
)
from sirl.redaction import redact
from sirl.results.development import Check, Selection
from sirl.results.interface import made
from sirl.run_folder import (
    ATTACKS,
    BASE,
    BENCHMARKS,
    BENIGN,
    CAPABILITY,
    CHOSEN,
    DEVELOPMENT,
    GAP,
    GAP_SAMPLES,
    MANIFEST,
    METRICS,
    MODEL,
    RECHECKED,
    SUITES,
    WRAPPED,
)

SCORED_LABELS = (*SAID, "empty")
_STAGE_FILES = (GAP, METRICS, DEVELOPMENT, CAPABILITY, BENCHMARKS)
MEND = "run its stage again"
OLD_EMPTY = "empty response"
"""Reason by which older files say of an `unscored` response that it was empty."""


@dataclass(frozen=True)
class Scored:
    """An attempt with its outcome: a judge's label, or why there is none (`error`, `unjudged`).

    `score` is how harmful the response is, by the first judge that gives scores; None where none does. `harmless` says
    that the request is: there, saying nothing fails the user as a refusal does.
    """

    attempt: Attempt
    outcome: str
    score: float | None = None
    harmless: bool = False

    @property
    def counts(self) -> bool:
        return self.outcome in SCORED_LABELS

    @property
    def refused(self) -> bool:
        """Defended, where the request is harmful; not helped, where it is harmless."""
        return self.outcome in (NOT_HELPED if self.harmless else DEFENDED)


def attach_verdicts(
    attempts: Iterable[Attempt], verdicts: Iterable[Verdict], judge: str | None = None, *, harmless: bool = False
) -> list[Scored]:
    """Attempts with their outcome by `judge` (default: that of the first verdict), and their harm score by the first
    judge that gives one.

    Where an id comes twice, as after a stage that was run again, the later record wins.
    """
    labels: dict[str, Label] = {}
    scores: dict[str, float | None] = {}
    scorer: str | None = None
    for verdict in verdicts:
        judge = judge or verdict.judge
        if verdict.judge == judge:
            labels[verdict.attempt_id] = _label(verdict)
        if scorer is None and verdict.score is not None:
            scorer = verdict.judge
        if verdict.judge == scorer:
            scores[verdict.attempt_id] = verdict.score
    latest = {a.id: a for a in attempts}
    return [
        Scored(a, "error", None, harmless)
        if _failed(a)
        else Scored(a, labels.get(a.id, "unjudged"), scores.get(a.id), harmless)
        for a in latest.values()
    ]


def in_order(verdicts: Iterable[Verdict], judges: Sequence[str]) -> list[Verdict]:
    """Verdicts by judge, in the order in which the judges were named. A file has them in the order they were made in,
    which is another one where a judge had to be asked again."""
    places = {name: place for place, name in enumerate(judges)}
    return sorted(verdicts, key=lambda verdict: places.get(verdict.judge, len(places)))


def _label(verdict: Verdict) -> Label:
    return "empty" if (verdict.label, verdict.reason) == ("unscored", OLD_EMPTY) else verdict.label


def _failed(attempt: Attempt) -> bool:
    return attempt.error is not None or attempt.finish_reason == "error"


@dataclass(frozen=True)
class Run:
    """What a run folder holds; None for the file of a stage that was not run."""

    path: Path
    manifest: dict[str, Any] | None
    gap: dict[str, Any] | None
    gap_samples: list[dict[str, Any]] | None
    metrics: list[dict[str, Any]] | None
    development: list[Check] | None
    chosen: Selection | None
    capability: dict[str, Any] | None
    benchmarks: dict[str, Any] | None
    attacks: list[Scored] | None
    benign: list[Scored] | None
    wrapped: list[Scored] | None
    rechecked: list[Scored]
    judges: tuple[str, ...]
    agreement: list[Agreement]


def load_run(run_dir: str | os.PathLike[str]) -> Run:
    """Read a run folder. Stages that were not run are None; a file that cannot be read is a `UserError` naming it."""
    path = Path(run_dir)
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder; give the folder that `sirl run` wrote, such as runs/demo")
    manifest = redact(_json(path / MANIFEST))  # of an earlier version, it may hold secrets
    _check_whole(path, manifest)
    named = [str(name) for name in (manifest or {}).get("judges") or ()]
    verdicts, benign_verdicts, wrapped_verdicts = (
        in_order(_records(path / suite.verdicts, Verdict) or [], named) for suite in (ATTACKS, BENIGN, WRAPPED)
    )
    first = named[0] if named else None
    attempts = _records(path / ATTACKS.attempts, Attempt)
    benign = _records(path / BENIGN.attempts, Attempt)
    wrapped = _records(path / WRAPPED.attempts, Attempt)
    return Run(
        path=path,
        manifest=manifest,
        gap=_json(path / GAP),
        gap_samples=_rows(path / GAP_SAMPLES),
        metrics=_rows(path / METRICS),
        development=_checks(path / DEVELOPMENT),
        chosen=_selection(path / CHOSEN),
        capability=_json(path / CAPABILITY),
        benchmarks=_json(path / BENCHMARKS),
        attacks=attach_verdicts(attempts, verdicts, first) if attempts else None,
        benign=attach_verdicts(benign, benign_verdicts, first, harmless=True) if benign else None,
        wrapped=attach_verdicts(wrapped, wrapped_verdicts, first, harmless=True) if wrapped else None,
        rechecked=attach_verdicts(*rechecked_records(path), first or next((v.judge for v in verdicts), None)),
        judges=tuple(dict.fromkeys(v.judge for v in [*verdicts, *benign_verdicts, *wrapped_verdicts])),
        agreement=judge_agreement(verdicts),
    )


def check_holds_run(path: Path) -> None:
    """Raise `UserError` for a folder of something else, into which a report would be written."""
    made = (MANIFEST, *(name for suite in SUITES for name in (suite.attempts, suite.verdicts)), *_STAGE_FILES)
    if path.is_dir() and not any((path / name).exists() for name in made):
        raise UserError(f"{path}: holds nothing of a run; give the folder that `sirl run` wrote, such as runs/demo")


def _check_whole(path: Path, manifest: dict[str, Any] | None) -> None:
    """Raise `UserError` for a folder that has lost what a figure rests on."""
    for stage, files in lost_files(path, manifest).items():
        if read := [name for name in files if name not in (BASE, MODEL)]:
            raise UserError(
                f"{path}: {', '.join(read)} is gone, which stage {stage} wrote; put it back, or run that stage again"
            )


def whole_attempts(path: Path, ids: Collection[str]) -> dict[str, Attempt]:
    """Some attempts of a file with their tokens and entropies, which a loaded run does not have."""
    if not path.is_file():
        return {}
    return {attempt.id: attempt for attempt in iter_records(path, Attempt) if attempt.id in ids}


def rechecked_records(path: Path) -> tuple[list[Attempt], list[Verdict]]:
    """Refusals that were cut off and asked again, with their verdicts; empty where none were."""
    parts = (path / RECHECKED.attempts, path / RECHECKED.verdicts)
    return _records(parts[0], Attempt) or [], _records(parts[1], Verdict) or []


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both of this kind
        raise UserError(f"{path}: not valid JSON ({error}); {MEND}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; {MEND}")
    return value


def _rows(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        return list(iter_json_lines(path)) or None
    except ValueError as error:
        raise UserError(f"{error}; {MEND}") from None


def _checks(path: Path) -> list[Check] | None:
    rows = _rows(path)
    if rows is None:
        return None
    return [made(Check, row, f"{path}: line {line}: ", MEND) for line, row in enumerate(rows, 1)]


def _selection(path: Path) -> Selection | None:
    found = _json(path)
    return made(Selection, found, f"{path}: ", MEND) if found else None


def _records(path: Path, record: type[R]) -> list[R] | None:
    if not path.is_file():
        return None
    try:
        return read_jsonl(path, record, lean=True)
    except ValueError as error:
        raise UserError(f"{error}; {MEND}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: a line is not an {record.__name__} record ({error}); {MEND}") from None
