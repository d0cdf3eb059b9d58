"""How long a run will take on this machine: the tokens of each stage over a speed that is measured at its start.

    speed = measure_speed(engine, conversations)                # some seconds
    seconds = {name: work.seconds(speed) for name, work in works(plan, engine).items()}

It is an estimate. Prompts are counted exactly, what neighbours share once; answers are taken to be as long as those of
the demo. What adaptive attacks will ask nobody knows, so they are left out, and so is the time that models take to
load.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sirl.attacks.base import Attack, StaticAttack
from sirl.attacks.run import BATCH, plan_jobs
from sirl.chat.encoding import EncodingError
from sirl.evals.overrefusal import Benign
from sirl.experiment.plan import Plan
from sirl.generation.base import SamplingParams
from sirl.generation.decode import plan_batches, prefill_chunks
from sirl.generation.local import LocalEngine, bytes_per_token
from sirl.generation.memory import cache_bytes
from sirl.manifest import Manifest
from sirl.progress import BarMaker, Progress, say
from sirl.prompts import load_prompts
from sirl.records import Conversation, Prompt, user_turn
from sirl.training.memory import WRAPPING, prompt_lengths

ANSWER = 0.87
"""Share of the token limit that an answer takes: 34.7 of 40 tokens over the demo's attacks."""

ASKED_AGAIN = 0.12
"""Share of the greedy answers that are refusals cut off by the limit: 98 of 800 in the demo before training."""

LEARN = 2.2
"""Tokens that are read in the time of one that is learnt from: forward, backward to the activations, the head again."""

SETTLED = 120.0
"""Seconds of finished stages whose pace counts as much as the forecast: a short first stage says little of the rest."""

PROBE_PROMPTS, PROBE_TOKENS = 24, 8
"""What the speed is measured on: a batch of twice as many rows, and tokens of each."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second: of prompts that are read, and of answers that are written, in batches."""

    read: float
    written: float


@dataclass(frozen=True)
class Work:
    """Tokens of a stage: of prompts that are read, of answers that are written, and of updates."""

    read: float = 0.0
    written: float = 0.0
    learnt: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.read + other.read, self.written + other.written, self.learnt + other.learnt)

    def __mul__(self, times: float) -> Work:
        return Work(times * self.read, times * self.written, times * self.learnt)

    def seconds(self, speed: Speed) -> float:
        """How long it takes at this speed."""
        return (self.read + LEARN * self.learnt) / speed.read + self.written / speed.written


def measure_speed(engine: LocalEngine, conversations: Sequence[Conversation]) -> Speed:
    """The speed of an engine on some conversations: one short call to warm up, then two that differ in length."""
    found = [ids for ids in engine.encode(conversations) if not isinstance(ids, EncodingError)]
    engine.rollout(found[:4], SamplingParams(2, 1.0))
    begun = time.perf_counter()
    engine.rollout(found, SamplingParams(1, 1.0, n=2))
    middle = time.perf_counter()
    answers = engine.rollout(found, SamplingParams(1 + PROBE_TOKENS, 1.0, n=2))
    reading = middle - begun
    writing = max(time.perf_counter() - middle - reading, 0.1 * reading)  # on a busy machine the first may be slower
    written = sum(len(rollout.token_ids) - 1 for group in answers for rollout in group)
    return Speed(read_tokens(engine, found) / reading, max(written, 1) / writing)


def read_tokens(engine: LocalEngine, prompts: Sequence[list[int]], each: int = 1) -> int:
    """Tokens that a prefill computes, padding included, for `each` answers to these prompts."""
    cells = cache_bytes(engine.model.device, engine.max_cache_gb) // bytes_per_token(engine.model)
    tokens = 0
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        for batch in plan_batches(part, each, 0, engine.max_rows, cells):
            chosen = [part[i] for i in batch]
            for chunk, shared in prefill_chunks(chosen):
                width = max(len(chosen[i]) for i in chunk)
                tokens += shared + len(chunk) * (width - shared)
    return tokens


def works(plan: Plan, engine: LocalEngine) -> dict[str, Work]:
    """What each stage of a run has to do, by name. Those that ask no model are left out."""
    attacked = _attacking(plan, engine)
    return {
        "gap": _asked(engine, [p.conversation for _, p in plan.gap], plan.config.gap.max_new_tokens, plan.config.gap.k),
        "attack_before": attacked,
        "train": _training(plan, engine),
        "attack_after": attacked,
        "capability": _capability(plan, engine),
    }


def _asked(engine: LocalEngine, conversations: Sequence[Conversation], limit: int, each: int = 1) -> Work:
    found = [ids for ids in engine.encode(conversations) if not isinstance(ids, EncodingError)]
    return Work(read_tokens(engine, found, each), ANSWER * limit * each * len(found))


def _built(attacks: Sequence[Attack], goals: Sequence[Prompt], seed: int) -> list[Conversation]:
    """The prompts of static attacks, as far as they can be built."""
    static = [attack for attack in attacks if isinstance(attack, StaticAttack)]
    jobs = plan_jobs(static, goals, "before", ("greedy",), seed)
    return [job.messages for job in jobs if job.messages and job.error is None]


def _attacking(plan: Plan, engine: LocalEngine) -> Work:
    own, evals, seed = plan.config.attack, plan.config.evals, plan.config.seed
    each = len(own.decoding)
    prompts = _built(plan.attacks, plan.goals, seed)
    work = _asked(engine, prompts, own.max_new_tokens, each)
    if own.recheck_limit is not None and "greedy" in own.decoding:
        work += _asked(engine, prompts, own.recheck_limit) * ASKED_AGAIN
    work += _asked(engine, _built([Benign()], plan.benign, seed), evals.max_new_tokens, each)
    return work + _asked(engine, _built(plan.wrappings, plan.wrapped, seed), evals.max_new_tokens)


def _training(plan: Plan, engine: LocalEngine) -> Work:
    """Updates, the base model's answers that are held, and checks of the policy."""
    config: Any = plan.training.config
    data = plan.training.data
    lengths = prompt_lengths(plan.training)
    prompt = sum(lengths) / max(len(lengths), 1)
    rows = config.generation_batch_size
    prompts = rows / config.num_generations
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * len(lengths) / prompts)
    tokens = ANSWER * config.max_completion_length
    drawn = prompts * (config.num_rollouts or config.num_generations)
    update = Work(prompts * prompt, drawn * tokens, prompts * prompt + rows * tokens)
    start = Work()
    if data.retention_dataset_name and config.retention_weight:
        answer = ANSWER * config.retention_tokens
        update += Work(learnt=config.retention_batch_size * (prompt + answer))
        dealt = steps * config.retention_batch_size
        start += Work(prompt, answer) * min(dealt, len(load_prompts(data.retention_dataset_name)))
    if data.wrap_prompts and config.pair_weight:
        answer = ANSWER * config.pair_tokens
        rows = max(steps - config.pair_start, 0) * config.pair_batch_size
        start += Work(prompt, answer, prompt + WRAPPING + answer) * rows
    return update * steps + start + _checks(plan, engine, steps)


def _checks(plan: Plan, engine: LocalEngine, steps: int) -> Work:
    own, measured = plan.config.development, plan.development
    if own is None or measured is None:
        return Work()
    wrappings = [attack for attack in measured.attacks if attack.name != "direct"] if measured.wrapped else []
    asked = [
        *_built(measured.attacks, measured.goals, measured.seed),
        *_built(wrappings, measured.wrapped, measured.seed),
        *_built([Benign()], measured.benign, measured.seed),
    ]
    return _asked(engine, asked, own.max_new_tokens) * (1 + math.ceil(steps / own.every))


def _capability(plan: Plan, engine: LocalEngine) -> Work:
    work = _asked(engine, [user_turn(question.text) for question in plan.questions], 0) * 2
    if plan.config.evals.drift:
        answers = _asked(engine, _built([Benign()], plan.benign, plan.config.seed), plan.config.evals.max_new_tokens)
        work += Work(answers.read + answers.written) * 2
    return work


class Clock:
    """What the stages of a run are expected to take, and how much of it is left. Kept in the manifest for who resumes.

    Until `forecast` was called nothing is known and nothing is said.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._began: dict[str, float] = {}

    @property
    def expected(self) -> dict[str, float]:
        """Seconds by stage."""
        seconds: dict[str, float] = self.manifest.data.get("expected_seconds", {})
        return seconds

    def forecast(self, plan: Plan, engine: object) -> None:
        """Measure the speed of an engine of this process, and say what the run will take; others cannot be measured."""
        if self.expected or not isinstance(engine, LocalEngine):
            return
        asked = _built(plan.attacks, plan.goals, plan.config.seed) or [goal.conversation for goal in plan.goals]
        speed = measure_speed(engine, asked[:: -(-len(asked) // PROBE_PROMPTS)])
        seconds = {name: round(work.seconds(speed), 1) for name, work in works(plan, engine).items()}
        self.manifest.data["expected_seconds"] = seconds
        parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        say(
            f"about {minutes(sum(seconds.values()))} on this machine, which reads {speed.read:,.0f} and writes "
            f"{speed.written:,.0f} tokens per second (in seconds: {parts})"
        )

    def left(self) -> float | None:
        """Seconds that all stages which are not done will take, by forecast and the pace of those that are; None: not
        known."""
        if not self.expected:
            return None
        done = {name: self.manifest.stages[name]["seconds"] for name in self.expected if self.manifest.done(name)}
        planned = sum(self.expected[name] for name in done)
        pace = (sum(done.values()) + SETTLED) / (planned + SETTLED)
        left = 0.0
        for name, seconds in self.expected.items():
            if name in done:
                continue
            running = self.manifest.stages.get(name, {}).get("status") == "running"
            spent = time.monotonic() - self._began.setdefault(name, time.monotonic()) if running else 0.0
            left += max(seconds * pace - spent, 0.0)
        return left

    def bar(self, bar: BarMaker) -> BarMaker:
        """Bars that say, when they begin, what is left of the whole run."""

        def make(label: str) -> AbstractContextManager[Progress]:
            left = self.left()
            return bar(label if left is None else f"{label}, {minutes(left)} left in all")

        return make


def minutes(seconds: float) -> str:
    """A time as one would say it."""
    if seconds < 100:
        return f"{max(10 * round(seconds / 10), 10)} seconds"
    return f"{round(seconds / 60)} minutes"
