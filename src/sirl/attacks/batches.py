"""Asking a model in batches at fixed places of a plan, so that an interrupted run gives what a whole one would have.

A draw depends on how often the same prompt came before in its call, and rounding on what else is in the batch. So no
batch may be asked in part: what is missing of one is asked as a part of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sirl.attacks.base import Attack, stable_seed
from sirl.generation.base import Engine, SamplingParams
from sirl.generation.unanswered import require_answers
from sirl.progress import Progress
from sirl.records import (
    Attempt,
    Completion,
    Conversation,
    Decoding,
    Phase,
    Prompt,
    SearchFacts,
    append_jsonl,
    read_records,
)

TEMPERATURES: dict[Decoding, float] = {"greedy": 0.0, "sample": 1.0}

"""Called with (attempts done, attempts in all); those found in the file count as done."""


@dataclass(frozen=True)
class Job:
    """One attempt that is wanted. `messages` is None where the attack decides on them as it goes.

    `queries` and `search` are of the search that settled on the messages, if one did.
    """

    id: str
    decoding: Decoding
    attack: Attack
    goal: Prompt
    messages: Conversation | None
    error: str | None = None
    queries: int | None = None
    search: SearchFacts | None = None


@dataclass
class Run:
    """The settings of a call, what is done so far, and where it is written."""

    engine: Engine
    phase: Phase
    seed: int
    max_new_tokens: int
    batch: int
    path: str | os.PathLike[str] | None
    done: dict[str, Attempt]
    total: int
    progress: Progress | None
    last: str | None
    """The attempt that a crash may have stopped behind: the last one of the file, of whatever call."""
    stored: list[Attempt] | None = None
    """What searches found by themselves according to the file, once it was looked at."""

    def params(self, decoding: Decoding, key: str) -> SamplingParams:
        """Decoding settings of one chunk. The seed leaves out the phase: before and after draw alike."""
        seed = stable_seed(self.seed, decoding, key)
        return SamplingParams(max_new_tokens=self.max_new_tokens, temperature=TEMPERATURES[decoding], n=1, seed=seed)

    def attempt(
        self,
        job: Job,
        messages: Conversation,
        completion: Completion,
        error: str | None,
        queries: int | None = None,
        search: SearchFacts | None = None,
    ) -> Attempt:
        return Attempt(
            id=job.id,
            phase=self.phase,
            decoding=job.decoding,
            attack=job.attack.name,
            goal_id=job.goal.id,
            goal=job.goal.text,
            category=job.goal.category,
            messages=messages,
            response=completion.text.encode("utf-8", "replace").decode("utf-8"),  # a lone surrogate cannot be stored
            tokens=completion.tokens,
            entropies=completion.entropies,
            finish_reason="error" if error else completion.finish_reason,
            seed=self.seed,
            error=error,
            queries=queries,
            search=search,
        )

    def found(self, phase: Phase, attack: str) -> dict[str, Attempt]:
        """What an attack settled on for each goal, under greedy decoding, in this call or in the file."""
        start = f"{phase}/greedy/{attack}/"
        if self.stored is None:  # read once: what comes later is among those done
            exists = self.path is not None and Path(self.path).exists()
            old = read_records(self.path, Attempt, lean=True) if self.path is not None and exists else []
            self.stored = [a for a in old if a.decoding == "greedy" and a.seed == self.seed]
        known = (*self.stored, *self.done.values())
        return {a.goal_id: a for a in known if a.id == start + a.goal_id and a.seed == self.seed}

    def store(self, attempts: Sequence[Attempt]) -> None:
        """Keep finished attempts, on disk first."""
        if self.path is not None and attempts:
            append_jsonl(self.path, attempts)
        self.done.update((attempt.id, attempt) for attempt in attempts)
        self.report()

    def report(self, extra: int = 0) -> None:
        if self.progress is not None:
            self.progress(min(len(self.done) + extra, self.total), self.total)


def run_chunk(run: Run, chunk: Sequence[Job], key: str) -> None:
    """Ask for what is missing of a chunk of jobs whose prompts are known; `key` decides what is drawn.

    Chunks lie at fixed places of the plan, so that a resumed run draws the samples that an uninterrupted one would have
    drawn. A chunk may hold its jobs twice, greedy ones and then sampled ones, where the engine `answers_both`.
    """
    missing = [job for job in chunk if job.id not in run.done]
    if not missing:
        return
    answers: dict[str, Attempt] = {}
    sound = [job for job in chunk if job.error is None]
    wanted = [i for i, job in enumerate(sound) if job.id not in run.done]
    if wanted:
        finished = 0

        def count(fresh: int) -> None:
            nonlocal finished
            finished += fresh
            run.report(finished)

        params = run.params(chunk[0].decoding, key)
        stream = getattr(type(run.engine), "generate_each", None)  # of the class, see `answers_both`
        if stream is not None:
            found = _streamed(run, stream(run.engine, [_messages(job) for job in sound], params, wanted), sound, count)
        else:
            found = _asked(run, sound if _is_torn(run, chunk, missing) else [sound[i] for i in wanted], key, count)
        answers = {job.id: _answered(run, job, found[job.id]) for job in sound if job.id in found}
        _check_answered(run, [a.error for a in answers.values()], params)
    failed = Completion(text="", finish_reason="error")
    run.store([answers.get(job.id) or run.attempt(job, (), failed, job.error) for job in missing])


def answers_both(engine: Engine) -> bool:
    """Whether an engine gives greedy and sampled answers in one call, which prefills each prompt once.

    That is asked of its class: a defence round an engine passes neither this nor `generate_each` through.
    """
    return hasattr(type(engine), "generate_both")


def _asked(run: Run, jobs: Sequence[Job], key: str, count: Callable[[int], None]) -> dict[str, Completion]:
    """The answers by their jobs' ids; greedy and sampled ones to the same prompts by one call."""
    by_decoding: dict[Decoding, list[Job]] = {}
    for job in jobs:
        by_decoding.setdefault(job.decoding, []).append(job)
    conversations = {decoding: [_messages(job) for job in own] for decoding, own in by_decoding.items()}
    if len(by_decoding) == 2 and conversations["greedy"] == conversations["sample"]:
        engine: Any = run.engine
        groups = engine.generate_both(conversations["sample"], run.params("sample", key), count)
        pairs = zip(by_decoding["greedy"], by_decoding["sample"], groups, strict=True)
        return {job.id: answer for *both, group in pairs for job, answer in zip(both, group, strict=True)}
    found: dict[str, Completion] = {}
    for decoding, own in by_decoding.items():
        outputs = run.engine.generate(conversations[decoding], run.params(decoding, key), count)
        found |= {job.id: answer for job, (answer, *_) in zip(own, outputs, strict=True)}
    return found


def _is_torn(run: Run, chunk: Sequence[Job], missing: Sequence[Job]) -> bool:
    """Whether a crash stopped the writing of a chunk in the middle: then all of it is asked again."""
    kept = len(chunk) - len(missing)
    return kept > 0 and list(missing) == list(chunk[kept:]) and chunk[kept - 1].id == run.last


def _streamed(
    run: Run, stream: Iterable[tuple[int, list[Completion]]], jobs: Sequence[Job], count: Callable[[int], None]
) -> dict[str, Completion]:
    """The answers by their jobs' ids. If the engine stops in the middle, what it had answered by then is stored."""
    found: dict[int, Completion] = {}
    try:
        for i, (answer, *_) in stream:
            found[i] = answer
            count(1)
    except BaseException:
        run.store([_answered(run, jobs[i], found[i]) for i in sorted(found) if error_of(found[i]) is None])
        raise
    return {jobs[i].id: answer for i, answer in found.items()}


def _messages(job: Job) -> Conversation:
    return job.messages or ()


def _answered(run: Run, job: Job, completion: Completion) -> Attempt:
    return run.attempt(job, _messages(job), completion, error_of(completion), job.queries, job.search)


def _check_answered(run: Run, errors: Sequence[str | None], params: SamplingParams) -> None:
    """Stop where nothing of a batch was answered and nothing will be: see `require_answers`."""
    reasons = [error for error in errors if error is not None]
    if reasons and len(reasons) == len(errors):
        require_answers(run.engine, reasons, params)


def error_of(completion: Completion) -> str | None:
    """Why there is no answer; an error that does not say why is an error all the same."""
    if completion.error is None and completion.finish_reason != "error":
        return None
    return completion.error or "the engine gave no answer and no reason"
