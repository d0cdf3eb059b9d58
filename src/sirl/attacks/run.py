"""Put attacks to a model; what is interrupted goes on where it was.

    goals = ...                                       # list[Prompt]
    attempts = run_attacks(engine, resolve_attacks("static"), goals, phase="before", path="attempts.jsonl")

Static attacks are pooled: the engine sees big batches of (attack, goal) pairs, one call per decoding and chunk. A model
in this process answers a chunk in both decodings by one call. Each chunk is appended to the file before the next one
starts. `docs/attack.md` describes files, resuming and errors.

An exception of the engine is not caught: engines answer what fails with error completions, so an exception means that
none of the rest can work (or Ctrl-C). What was finished by then is in the file. A batch without a single answer, which
is not stored, ends the run as well where the engine does not even take a plain question.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from sirl.attacks.base import Attack, AttackResult, StaticAttack, goal_rng, require_goal
from sirl.attacks.batches import TEMPERATURES, Job, Run, answers_both, error_of, run_chunk
from sirl.attacks.replay import Replay
from sirl.chat.encoding import EncodingError
from sirl.errors import UserError
from sirl.generation.base import Engine
from sirl.progress import Progress
from sirl.records import (
    Attempt,
    Completion,
    Conversation,
    Decoding,
    Phase,
    Prompt,
    read_records,
    write_jsonl,
)

BATCH = 256
"""Conversations per engine call: what an interruption can lose, at most."""


@dataclass(frozen=True)
class AttemptSettings:
    """How prompts are asked: everything that `run_attacks` is told besides engine, attacks, goals and files.

    Args:
        phase: "before" or "after" hardening.
        decodings: "greedy" (temperature 0) and/or "sample" (temperature 1).
        max_new_tokens: limit of an answer.
        seed: decides what attacks and sampling draw; the same in both phases.
        retry_errors: ask again where an earlier go met an error.
    """

    phase: Phase
    decodings: Sequence[Decoding] = ("greedy",)
    max_new_tokens: int = 64
    seed: int = 0
    retry_errors: bool = False


def run_attacks(
    engine: Engine,
    attacks: Sequence[Attack],
    goals: Sequence[Prompt],
    *,
    phase: Phase,
    decodings: Sequence[Decoding] = ("greedy",),
    max_new_tokens: int = 64,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    batch: int = BATCH,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> list[Attempt]:
    """Put every attack with every goal to the model, once per decoding.

    Args:
        decodings: "greedy" (temperature 0) and/or "sample" (temperature 1).
        seed: decides what attacks and sampling draw; the same for the same attacks and goals in both phases.
        path: JSONL file to append to. Attempts that it already holds are not made again.
        retry_errors: drop attempts with an error from the file first, so that they are made again.

    Returns:
        The attempts asked for, ordered by decoding, attack, goal. One that could not be made has `error` set.

    Raises:
        UserError: no attacks or goals, an empty goal, ids or names used twice, an unknown decoding, a file that is no
            attempts file or was made with another seed, other prompts or a larger token limit.
    """
    _check_input(attacks, goals, decodings, batch)
    for attack in attacks:
        attack.check(engine)
    jobs = plan_jobs(attacks, goals, phase, decodings, seed)
    done: dict[str, Attempt] = {}
    last = None
    if path is not None and Path(path).exists():
        if retry_errors:
            _drop_errors(path, {job.id for job in jobs})
        old = read_records(path, Attempt)
        done = _already_done(path, old, jobs, seed, max_new_tokens)
        last = old[-1].id if old and not retry_errors else None
    run = Run(engine, phase, seed, max_new_tokens, batch, path, done, len(jobs), progress, last)
    _check_replays(run, attacks, decodings)
    run.report()
    for together in (decodings,) if answers_both(engine) else [(decoding,) for decoding in decodings]:
        _run_static(run, jobs, together)
    for decoding in decodings:
        searches = [attack for attack in attacks if not isinstance(attack, StaticAttack)]
        for attack in sorted(searches, key=lambda attack: isinstance(attack, Replay)):  # what they replay comes first
            _run_adaptive(run, attack, [job for job in jobs if job.decoding == decoding and job.attack is attack])
    return [run.done[job.id] for job in jobs]


def _run_static(run: Run, jobs: Sequence[Job], decodings: Sequence[Decoding]) -> None:
    """What static attacks are to ask, in chunks that have the same places under each of the decodings."""
    pooled = [
        [job for job in jobs if job.decoding == decoding and isinstance(job.attack, StaticAttack)]
        for decoding in sorted(decodings)
    ]
    for start in range(0, len(pooled[0]), run.batch):
        chunk = [job for own in pooled for job in own[start : start + run.batch]]
        run_chunk(run, chunk, f"{chunk[0].attack.name}/{chunk[0].goal.id}")


def _check_input(attacks: Sequence[Attack], goals: Sequence[Prompt], decodings: Sequence[Decoding], batch: int) -> None:
    if batch < 1:
        raise UserError(f"batch: must be 1 or more, not {batch}")
    names = {
        "attacks": [attack.name for attack in attacks],
        "goals": [goal.id for goal in goals],
        "decodings": [str(decoding) for decoding in decodings],
    }
    for what, values in names.items():
        if not values:
            raise UserError(f"{what}: none given; give at least one")
        if len(set(values)) < len(values):
            twice, _ = Counter(values).most_common(1)[0]
            raise UserError(f"{what}: {twice!r} appears twice; each needs its own name or id")
    if unknown := [decoding for decoding in decodings if decoding not in TEMPERATURES]:
        raise UserError(f"decodings: {unknown[0]!r} is not known; choose from {', '.join(get_args(Decoding))}")
    for goal in goals:
        _unusable(goal)


def _check_replays(run: Run, attacks: Sequence[Attack], decodings: Sequence[Decoding]) -> None:
    names = {attack.name for attack in attacks} if run.phase == "before" and decodings[0] == "greedy" else set()
    for attack in attacks:
        if not isinstance(attack, Replay) or attack.inner.name in names:
            continue
        if not run.found("before", attack.inner.name):
            raise UserError(
                f"attack {attack.name}: no prompts of {attack.inner.name} here; run that with --phase before, greedy "
                "decoding and the same seed into the same folder first"
            )


def plan_jobs(
    attacks: Sequence[Attack], goals: Sequence[Prompt], phase: Phase, decodings: Sequence[Decoding], seed: int
) -> list[Job]:
    """Every attempt wanted, prompts built. A prompt does not depend on the decoding: it is built once for all."""
    built: list[tuple[Attack, Prompt, Conversation | None, str | None]] = []
    for attack in attacks:
        for goal in goals:
            messages: Conversation | None = None
            error = _unusable(goal)
            if error is not None:
                messages = ()
            elif isinstance(attack, StaticAttack):
                try:
                    messages = attack.build(goal, goal_rng(seed, attack.name, goal.id))
                except Exception as failure:  # an attack is a plug-in: its failure is recorded, and is no defence
                    messages, error = (), f"building the prompt failed: {type(failure).__name__}: {failure}"
            built.append((attack, goal, messages, error))
    return [
        Job(f"{phase}/{decoding}/{attack.name}/{goal.id}", decoding, attack, goal, messages, error)
        for decoding in decodings
        for attack, goal, messages, error in built
    ]


def _unusable(goal: Prompt) -> str | None:
    """Why no attempt on a goal can be made, if so. `UserError` for an empty goal: the whole set is in doubt then."""
    try:
        require_goal(goal)
    except EncodingError as error:
        return str(error)
    return None


def _run_adaptive(run: Run, attack: Attack, jobs: Sequence[Job]) -> None:
    """Let an adaptive attack search on the goals it has not finished, storing each result as it comes.

    A search that asks greedily is made once: its sampled attempts are answers to what the greedy ones settled on.
    """
    decoding = jobs[0].decoding
    if isinstance(attack, Replay):
        _run_replay(run, attack, jobs)
    elif decoding != "greedy" and getattr(attack, "samples", True) is False:
        _run_again(run, jobs, run.found(run.phase, attack.name))
    failed = Completion(text="", finish_reason="error")
    if unusable := [job for job in jobs if job.error and job.id not in run.done]:
        run.store([run.attempt(job, (), failed, job.error, search={}) for job in unusable])
    missing = {job.goal.id: job for job in jobs if job.id not in run.done}
    if not missing:
        return
    goals = [job.goal for job in missing.values()]
    results: Iterable[AttackResult] = attack.run(run.engine, goals, run.params(decoding, attack.name), run.seed)
    for result in results:
        job = missing.pop(result.goal_id, None)
        if job is None:
            raise ValueError(f"attack {attack.name!r} answered goal {result.goal_id!r} twice or was never given it")
        error = result.error or error_of(result.completion)
        search = result.search or {}  # empty where the attack tells nothing; None is for prompts that no search made
        run.store([run.attempt(job, result.messages, result.completion, error, result.queries, search)])
    if missing:
        error = f"attack {attack.name} gave no result for this goal"
        run.store([run.attempt(job, (), failed, error, search={}) for job in missing.values()])


def _run_replay(run: Run, attack: Replay, jobs: Sequence[Job]) -> None:
    """Put to the model what another attack found in phase `before`; where it found nothing is an error."""
    _run_again(run, jobs, run.found("before", attack.inner.name), replayed=True)
    missing = [job for job in jobs if job.id not in run.done]
    error = f"{attack.inner.name} found no prompt for this goal in phase before"
    run.store([run.attempt(job, (), Completion.failed(error), error, queries=0) for job in missing])


def _run_again(run: Run, jobs: Sequence[Job], found: dict[str, Attempt], replayed: bool = False) -> None:
    """Answers to prompts that a search has already settled on."""
    for start in range(0, len(jobs), run.batch):
        chunk = []
        for job in jobs[start : start + run.batch]:
            source = found.get(job.goal.id)
            if source is not None and source.error is None and source.goal == job.goal.text:
                queries = 1 if replayed else (source.queries or 0) + 1
                search = None if replayed else source.search
                chunk.append(replace(job, messages=source.messages, queries=queries, search=search))
        if chunk:
            run_chunk(run, chunk, chunk[0].attack.name)


def _already_done(
    path: str | os.PathLike[str], attempts: Sequence[Attempt], jobs: Sequence[Job], seed: int, max_new_tokens: int
) -> dict[str, Attempt]:
    """Attempts of the file that are wanted, after making sure that they are the ones this run would make."""
    wanted = {job.id: job for job in jobs}
    done: dict[str, Attempt] = {}
    for old in attempts:
        job = wanted.get(old.id)
        if job is None:
            continue
        difference = None
        if old.seed != seed:
            difference = f"seed {old.seed}, not {seed}"
        elif old.goal != job.goal.text or (job.messages is not None and old.messages != job.messages):
            difference = "another prompt"
        elif len(old.tokens) > max_new_tokens:
            difference = f"{len(old.tokens)} tokens, over max_new_tokens {max_new_tokens}"
        if difference:
            raise UserError(
                f"{path}: attempt {old.id!r} was made with {difference}; use the same settings or another file"
            )
        done[old.id] = old
    return done


def _drop_errors(path: str | os.PathLike[str], ids: set[str]) -> None:
    old = read_records(path, Attempt)
    kept = [attempt for attempt in old if attempt.error is None or attempt.id not in ids]
    if len(kept) < len(old):
        write_jsonl(path, kept)
