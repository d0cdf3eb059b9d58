"""Judge what attacks brought; what is interrupted goes on where it was.

verdicts = judge_attempts(attempts, load_judge("refusal"), path="verdicts.jsonl")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sirl.errors import NoAnswerError
from sirl.generation.unanswered import commonest
from sirl.judges.base import FAILED, Judge, JudgeItem, Judgement, judge_items
from sirl.records import Attempt, Verdict, append_jsonl, read_records, write_jsonl

BATCH = 256
"""Responses between two writes, for judges that do not ask for another number."""

_ERROR = "error: "
"""How the reason of a verdict on a failed attempt begins."""

_NOT_BEGUN = "the answer had not begun when it was cut"


def judge_attempts(
    attempts: Sequence[Attempt],
    judge: Judge,
    path: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    required: bool = True,
) -> list[Verdict]:
    """One verdict per attempt, in order; attempts with an error are `unscored` and never shown to the judge.

    Neither is a response with nothing to read, which is `empty`; but `unscored` where it was cut before any token that
    we see, as by a server that keeps thoughts back.

    With `path`, verdicts of this judge that the file already holds are kept (except "error" verdicts of attempts that
    have since succeeded, and those for which a judge model had failed) and new ones are appended after each `batch`,
    by default as many as the judge itself asks for. With `required` a judge has to give a verdict on some response.

    Raises:
        UserError: the file is not a verdicts file.
        NoAnswerError: a judge model gave no verdict on any response, and one is `required`.
        ValueError: the judge returned another number of judgements than it was given items.
    """
    done = _old_verdicts(path, attempts, judge.name)
    missing = [attempt for attempt in attempts if attempt.id not in done]
    count = len(attempts) - len(missing)
    size = batch or int(getattr(judge, "batch", BATCH))
    for chunk in (missing[start : start + size] for start in range(0, len(missing), size)):
        if progress is not None:
            progress(count, len(attempts))
        count += len(chunk)
        missed = {attempt.id: reason for attempt in chunk if (reason := _no_answer(attempt)) is not None}
        scored = [attempt for attempt in chunk if attempt.id not in missed]
        judgements = judge_items(judge, [JudgeItem(attempt.goal, attempt.response) for attempt in scored])
        fresh = {
            a.id: Verdict(a.id, judge.name, j.label, j.reason, j.score) for a, j in zip(scored, judgements, strict=True)
        }
        fresh |= {name: Verdict(name, judge.name, "unscored", reason) for name, reason in missed.items()}
        if path is not None:
            append_jsonl(path, [fresh[attempt.id] for attempt in chunk])
        done.update(fresh)
    if progress is not None:
        progress(len(attempts), len(attempts))
    if required:
        check_judged(judge.name, [done[attempt.id] for attempt in attempts if attempt.error is None])
    return [done[attempt.id] for attempt in attempts]


def _no_answer(attempt: Attempt) -> str | None:
    """Why there is nothing to judge; None where there is."""
    if attempt.error is not None:
        return f"{_ERROR}{attempt.error}"
    return _NOT_BEGUN if attempt.finish_reason == "length" and not attempt.response and not attempt.tokens else None


def check_judged(judge: str, judged: Sequence[Verdict | Judgement]) -> None:
    """Raise `NoAnswerError` where the judge model failed on every response that says something."""
    reasons = [one.reason for one in judged if one.label != "empty"]
    if reasons and all(reason.startswith(FAILED) for reason in reasons):
        (reason, _), *_ = commonest(reasons)
        raise NoAnswerError(f"--judge {judge}: no verdict on any of {len(reasons)} responses; the reason: {reason}")


@dataclass(frozen=True)
class Reason:
    """Why `count` verdicts say nothing."""

    reason: str
    count: int


def why_unscored(verdicts: Sequence[Verdict], first: str) -> list[Reason]:
    """Of the verdicts that say nothing, commonest reason first; failed attempts are counted once."""
    silent = (v for v in verdicts if v.label == "unscored" and v.score is None)
    reasons = (v.reason for v in silent if v.judge == first or not v.reason.startswith(_ERROR))
    return [Reason(reason or "no reason given", count) for reason, count in commonest(reasons)]


def _old_verdicts(path: str | os.PathLike[str] | None, attempts: Sequence[Attempt], judge: str) -> dict[str, Verdict]:
    """This judge's verdicts in a file, by attempt; those that are worth asking for again are taken out of the file."""
    if path is None or not Path(path).exists():
        return {}
    answered = {attempt.id for attempt in attempts if attempt.error is None}

    def is_stale(verdict: Verdict) -> bool:
        return (
            verdict.judge == judge
            and verdict.attempt_id in answered
            and verdict.label == "unscored"
            and verdict.reason.startswith((_ERROR, FAILED))
        )

    old = read_records(path, Verdict)
    kept = [verdict for verdict in old if not is_stale(verdict)]
    if len(kept) < len(old):
        write_jsonl(path, kept)
    return {verdict.attempt_id: verdict for verdict in kept if verdict.judge == judge}
