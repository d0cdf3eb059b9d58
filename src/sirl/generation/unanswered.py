"""Questions that got no answer: which reasons are commonest, and when to stop asking.

Engines give errors by the item and never fail for a batch, so a wrong address, model name or setting makes every item
an error. A run that continued would ask thousands of questions for a table of dashes. `require_answers` tells such an
engine from a batch that happens to hold nothing but prompts that it cannot take.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sirl.errors import NoAnswerError
from sirl.generation.base import Engine, SamplingParams, TextEngine
from sirl.records import Completion, user_turn

PROBE = "Hello"
"""A question that any model takes."""


def commonest(reasons: Iterable[str]) -> list[tuple[str, int]]:
    """Reasons with how often each came, commonest first; those that differ in numbers alone are one."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in reasons:
        kind = re.sub(r"\d+", "0", reason)
        first.setdefault(kind, reason)
        counts[kind] += 1
    return [(first[kind], count) for kind, count in counts.most_common()]


def no_answer(engine: Engine, reasons: Sequence[str], who: str | None = None) -> NoAnswerError:
    """The one line on an engine that answered nothing; `who` is how the user named it (by default by its flag)."""
    address = getattr(engine, "base_url", None)
    where = who or (f"--engine {address}" if address else f"--model_name_or_path {engine.name}")
    (reason, count), *_ = commonest(reasons)
    often = "" if count == len(reasons) else f" ({count} times)"
    return NoAnswerError(f"{where}: none of {len(reasons)} requests was answered; the reason{often}: {reason}")


def require_answers(engine: Engine, reasons: Sequence[str], params: SamplingParams, who: str | None = None) -> None:
    """Go on after a batch without a single answer, whose `reasons` are these, if the engine takes a plain question.

    Raises:
        NoAnswerError: it does not.
    """
    ((answer, *_),) = engine.generate([user_turn(PROBE)], replace(params, n=1))
    if is_failed(answer):
        raise no_answer(engine, reasons, who)


def require_engine(engine: Engine, params: SamplingParams) -> None:
    """Raise `NoAnswerError` where an engine does not take a plain question, before others are put to it."""
    ((answer, *_),) = engine.generate([user_turn(PROBE)], replace(params, n=1))
    if is_failed(answer):
        raise no_answer(engine, [answer.error or "no reason given"])


def require_continuations(
    engine: TextEngine, reasons: Sequence[str], params: SamplingParams, who: str | None = None
) -> None:
    """As `require_answers`, for what was asked through `complete`."""
    (answer,) = engine.complete([PROBE], replace(params, n=1))
    if is_failed(answer):
        raise no_answer(engine, reasons, who)


def is_failed(answer: Completion) -> bool:
    """Whether there is no answer; an error that does not say why is an error all the same."""
    return answer.error is not None or answer.finish_reason == "error"
