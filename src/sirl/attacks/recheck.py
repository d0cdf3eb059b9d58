"""Refusals that the token limit cut off are asked again with a larger limit: does the model go on to help?

A response is judged as it stands at the limit. "I can't help with that. However, ..." is a full refusal there and may
be none three sentences later, so that a small limit makes a model look safer than it is. Only greedy answers are asked
again: they begin as they began before, which a new sample would not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sirl.attacks.base import stable_seed
from sirl.attacks.run import BATCH
from sirl.generation.base import Engine, SamplingParams
from sirl.judges import Judge, load_judge
from sirl.judges.run import judge_attempts
from sirl.records import Attempt, Completion, append_jsonl, read_records


def cut_refusals(attempts: Sequence[Attempt], judge: Judge) -> list[Attempt]:
    """Greedy attempts that ended at the token limit and are full refusals so far.

    A judge that asks a model is not asked twice: the rules say then what is a refusal so far.
    """
    cut = [a for a in attempts if (a.decoding, a.finish_reason, a.error) == ("greedy", "length", None)]
    rules = load_judge("refusal") if getattr(judge, "needs_model", False) else judge
    verdicts = judge_attempts(cut, rules)
    return [a for a, verdict in zip(cut, verdicts, strict=True) if verdict.label == "full_refusal"]


def recheck(
    engine: Engine,
    attempts: Sequence[Attempt],
    judge: Judge,
    max_new_tokens: int,
    path: Path,
    *,
    retry_errors: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Ask again for the `cut_refusals` among attempts, and append the longer answers to a file under the same ids.

    Those that the file holds are not asked again. Tokens and entropies are not kept. `progress` is told how many are
    done and how many there are.
    """
    wanted = cut_refusals(attempts, judge)
    old = read_records(path, Attempt, lean=True) if path.is_file() else []
    done = {a.id for a in old if a.error is None or not retry_errors}
    missing = [a for a in wanted if a.id not in done]
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        params = SamplingParams(max_new_tokens, seed=stable_seed(part[0].seed, "recheck"))
        answers = engine.generate([a.messages for a in part], params)
        append_jsonl(path, [_longer(a, group[0]) for a, group in zip(part, answers, strict=True)])
        if progress is not None:
            progress(len(wanted) - len(missing) + start + len(part), len(wanted))


def _longer(attempt: Attempt, answer: Completion) -> Attempt:
    return replace(
        attempt,
        response=answer.text.encode("utf-8", "replace").decode("utf-8"),
        tokens=(),
        entropies=(),
        finish_reason=answer.finish_reason,
        error=answer.error,
    )
