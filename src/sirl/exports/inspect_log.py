"""Runs as logs of Inspect (https://inspect.aisi.org.uk), which `inspect view` opens and its data frames read.

One log for each phase: a sample for each attempt, scored by the label of the run's first judge. Only this module and
`sirl.referees.inspect_task` import Inspect (extra `inspect`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sirl.attacks.taxonomy import hazard_of, tags_of
from sirl.disk import temporary, writing
from sirl.errors import UserError
from sirl.report.sections import model_name
from sirl.results.load import Run, Scored
from sirl.results.rates import PHASES
from sirl.results.summary import results_of

SCORER = "verdict"
STOPS = {"stop": "stop", "length": "max_tokens", "error": "unknown"}
WANTED = {"attack": "full_refusal", "benign": "full_compliance", "wrapped": "full_compliance"}
"""The label that a sample hopes for: its `target`."""


def write_logs(run: Run, folder: Path) -> list[Path]:
    """Write `NAME-before.eval` and `NAME-after.eval` into a folder, for the phases that there are; returns their paths.

    Raises:
        UserError: Inspect is not installed, or the run has no attempts.
    """
    if importlib.util.find_spec("inspect_ai") is None:
        raise UserError("--inspect: Inspect is not installed; pip install 'sirl[inspect]'")
    from inspect_ai.log import write_eval_log

    parts = {"attack": run.attacks or [], "benign": run.benign or [], "wrapped": run.wrapped or []}
    made = []
    for phase in PHASES:
        rows = [(kind, row) for kind, found in parts.items() for row in found if row.attempt.phase == phase]
        if rows:
            target = folder / f"{run.path.resolve().name}-{phase}.eval"
            draft = temporary(target).with_suffix(".eval")
            try:
                with writing(target):
                    write_eval_log(_log(run, phase, rows), draft, format="eval")
                    draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
            made.append(target)
    if not made:
        raise UserError(f"{run.path}: no attempts to export; run sirl attack first")
    return made


def _log(run: Run, phase: str, rows: list[tuple[str, Scored]]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec

    manifest = run.manifest or {}
    model = f"{model_name(run.manifest)} ({phase})"
    samples = [_sample(model, kind, row) for kind, row in rows]
    spec = EvalSpec(
        created=str(manifest.get("created") or "1970-01-01T00:00:00+00:00"),
        task=f"sirl/{run.path.resolve().name}",
        task_id=f"{run.path.resolve().name}-{phase}",
        dataset=EvalDataset(name="sirl", samples=len(samples), sample_ids=[sample.id for sample in samples]),
        model=model,
        config=EvalConfig(),
        packages={"sirl": str((manifest.get("versions") or {}).get("sirl", ""))},
        metadata={"phase": phase, "judges": list(run.judges)},
    )
    stats, results = _stats(manifest, phase, spec.created), _results(run, phase, len(samples))
    return EvalLog(status="success", eval=spec, stats=stats, results=results, samples=samples)


def _stats(manifest: Mapping[str, Any], phase: str, created: str) -> Any:
    """When the attacks of a phase ran: `inspect view` shows how long a log took. Not known: no time at all."""
    from inspect_ai.log import EvalStats

    stage = (manifest.get("stages") or {}).get(f"attack_{phase}") or {}
    try:
        started = datetime.fromisoformat(stage.get("started") or created)
        ended = started + timedelta(seconds=float(stage.get("seconds") or 0))
    except ValueError:  # a date that nothing of ours has written
        return EvalStats(started_at=created, completed_at=created)
    return EvalStats(started_at=started.isoformat(), completed_at=ended.isoformat())


def _results(run: Run, phase: str, total: int) -> Any:
    """The greedy figures of the report."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    results = results_of(run)
    figures: dict[str, float | None] = {}
    if results.attack:
        for kind, tables in results.attack.kinds.items():
            found = tables.rates.get("greedy", {}).get(phase)
            figures[f"dsr_{kind}"] = found.overall.rate if found else None
    benign = results.benign.overall.get("greedy", {}).get(phase) if results.benign else None
    wrapped = results.wrapped.rates.get(phase) if results.wrapped else None
    figures["benign_refusal"] = benign.rate if benign else None
    figures["adversarial_benign"] = wrapped.overall.rate if wrapped else None
    metrics = {key: EvalMetric(name=key, value=value) for key, value in figures.items() if value is not None}
    score = EvalScore(name=SCORER, scorer=SCORER, metrics=metrics)
    return EvalResults(total_samples=total, completed_samples=total, scores=[score])


def _sample(model: str, kind: str, row: Scored) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    attempt = row.attempt
    messages = [_message(turn["role"], turn["content"]) for turn in attempt.messages]
    stop: Any = STOPS[attempt.finish_reason]
    output = ModelOutput.from_content(model, attempt.response, stop_reason=stop, error=attempt.error)
    about = {
        "kind": kind,
        "attack": attempt.attack,
        "goal_id": attempt.goal_id,
        "goal": attempt.goal,
        "category": attempt.category,
        "ailuminate": hazard_of(attempt.category),
        "decoding": attempt.decoding,
        **(asdict(tags_of(attempt.attack)) if kind == "attack" else {}),
    }
    return EvalSample(
        id=attempt.id,
        epoch=1,
        input=messages,
        target=WANTED[kind],
        messages=[*messages, output.message],
        output=output,
        scores={SCORER: Score(value=row.outcome, answer=row.outcome)},
        metadata=about,
    )


def _message(role: str, content: str) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "assistant": ChatMessageAssistant}
    return kinds.get(role, ChatMessageUser)(content=content)
