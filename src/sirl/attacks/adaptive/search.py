"""One goal's search: what it asks, what it has found, what it has spent.

A search is a generator: it yields requests to models and is sent the answers, so that the searches of many goals can be
advanced in lock step, one batch a round (`sirl.attacks.adaptive.base`). It ends by raising `Finished`, from wherever it
is: the model is broken or the budget is spent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sirl.attacks.adaptive.verdicts import Look, Seen
from sirl.attacks.base import AttackResult, require_goal
from sirl.chat.encoding import is_too_long
from sirl.errors import UserError
from sirl.generation.base import Engine, SamplingParams, ScoringEngine
from sirl.judges.base import Judge
from sirl.records import Completion, Conversation, Prompt, SearchFacts, user_turn

T = TypeVar("T")

AFFIRMATIVE = "Sure, here is"
"""What an answer that complies begins with, for attacks that search by its log-probability."""

WORST = float("-inf")


@dataclass(frozen=True)
class SearchConfig:
    """The budget of one goal. What is reached first ends the search.

    `max_queries` counts model calls: answers of the target and of the attacker, scored candidates, gradients.
    `max_steps` counts iterations, `max_seconds` the goal's share of the wall time (searches then depend on the
    machine). `goals_at_once` goals are searched in lock step: what an interruption can lose.
    """

    max_queries: int = 64
    max_steps: int | None = None
    max_seconds: float | None = None
    goals_at_once: int = 16

    def __post_init__(self) -> None:
        limits = (self.max_queries, self.goals_at_once, self.max_steps, self.max_seconds)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise UserError(f"the budget of a search must be above 0: {self}")


@dataclass(frozen=True)
class Ask:
    """Answers of the target, or of the attacker; sent a list of `Completion`."""

    conversations: Sequence[Conversation]
    max_new_tokens: int
    temperature: float = 0.0
    attacker: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class Score:
    """Log-probabilities of targets as answers; sent a list of floats."""

    conversations: Sequence[Conversation]
    targets: Sequence[str]


@dataclass(frozen=True)
class ScoreTokens:
    """The same on token ids, as means over the target's tokens; sent a list of floats."""

    prompts: Sequence[Sequence[int]]
    target: Sequence[int]


@dataclass(frozen=True)
class Gradient:
    """See `GradientEngine.one_hot_gradients`; sent one tensor."""

    prompt: Sequence[int]
    span: tuple[int, int]
    target: Sequence[int]


Request = Ask | Score | ScoreTokens | Gradient | Look
Steps = Generator[Request, Any, T]


class Finished(Exception):  # noqa: N818  # no error: how a search ends
    """The search is over: broken, or out of budget."""


class SearchError(Exception):
    """A search that cannot go on; becomes the `error` of its goal."""


@dataclass(frozen=True)
class Trial:
    """One answer of the target to a prompt of the search, and what the judges say of it.

    `broken` ends the search. What is `answered` and not broken is no refusal, but harms nobody: the search goes on.
    """

    messages: Conversation
    completion: Completion
    broken: bool
    score: float = WORST
    answered: bool = False

    @property
    def points(self) -> float:
        """0 for a refusal, 1 for an answer; what attackers are told, and what rewards are made of."""
        return float(self.broken)

    @property
    def rank(self) -> tuple[bool, float]:
        """How near an answer that broke nothing came: none that is no refusal gives way to a refusal."""
        return self.answered, self.score


@dataclass
class Models:
    """Who is asked: the target, whoever writes prompts (None: the target itself), and the run's judges."""

    target: Engine
    attacker: Engine | None = None
    judges: Sequence[Judge] = ()

    @property
    def writer(self) -> Engine:
        """The attacker."""
        return self.attacker or self.target

    @property
    def scoring(self) -> ScoringEngine | None:
        """The target, where it gives log-probabilities."""
        return self.target if isinstance(self.target, ScoringEngine) else None


class GoalSearch:
    """The state of one goal's search, with the moves that all methods share.

    `rng` is the goal's own. `params` decodes the answer that counts. Where `ends_unanswered`, the best prompt may be
    one that was only scored: one query is kept back for its answer.
    """

    def __init__(
        self,
        goal: Prompt,
        rng: random.Random,
        params: SamplingParams,
        config: SearchConfig,
        models: Models,
        *,
        temperature: float = 0.0,
        ends_unanswered: bool = False,
    ) -> None:
        self.goal, self.text = goal, require_goal(goal)
        self.rng, self.params, self.config, self.models = rng, params, config, models
        self.temperature = temperature
        self.answers_again = params.temperature != temperature
        self.reserve = int(ends_unanswered or self.answers_again)
        self.first: Conversation | None = None
        self.best: Trial | None = None
        self.candidate: tuple[Conversation, float] | None = None
        self.queries = self.asked = self.scored = self.written = self.errors = self.fallbacks = self.steps = 0
        self.start_broken: bool | None = None
        self.broken_at: int | None = None
        self.last_error: str | None = None
        self.seconds = 0.0
        self.tokens = 0
        self.flops: float | None = 0.0
        self.start_score: float | None = None
        self.best_score: float | None = None

    # What is left

    def room(self) -> int:
        """Queries that may still be made. Raises `Finished` where there are none."""
        left = self.config.max_queries - self.queries - self.reserve
        limit = self.config.max_seconds
        if left <= 0 or (limit is not None and self.seconds >= limit):
            raise Finished
        return left

    def step(self) -> None:
        """Begin an iteration."""
        if self.config.max_steps is not None and self.steps >= self.config.max_steps:
            raise Finished
        self.room()
        self.steps += 1

    # What can be asked

    def start(self, messages: Conversation) -> Steps[Trial]:
        """Ask the prompt that the search starts from; to be beaten."""
        self.first = messages
        self.candidate = (messages, WORST)
        (trial,) = yield from self.try_all([messages])
        return trial

    def try_all(self, conversations: Sequence[Conversation], scores: Sequence[float] = ()) -> Steps[list[Trial]]:
        """The target's answers to prompts (to as many as the budget allows); one that breaks it ends the search."""
        chosen = conversations[: self.room()]
        completions = yield Ask(chosen, self.params.max_new_tokens, self.temperature)
        trials = []
        seen: list[Seen] = yield Look([self.text] * len(completions), completions)
        for i, (messages, completion) in enumerate(zip(chosen, completions, strict=True)):
            trials.append(self._note(messages, completion, seen[i], scores[i] if i < len(scores) else WORST))
        if self.broken_at is not None:
            raise Finished
        return trials

    def peek(self, conversation: Conversation, max_new_tokens: int | None = None) -> Steps[Completion]:
        """The target's answer to what is no attempt yet, such as an early turn of a conversation; judged by nobody."""
        self.room()
        (completion,) = yield Ask([conversation], max_new_tokens or self.params.max_new_tokens)
        self.queries += 1
        self.asked += 1
        found: Completion = completion
        return found

    def refused(self, question: str, answer: Completion) -> Steps[bool]:
        """Whether an early turn got no answer that a conversation can build on."""
        (seen,) = yield Look([question], [answer])
        return not seen.answered

    def score(self, conversations: Sequence[Conversation], target: str | Sequence[str]) -> Steps[list[float]]:
        """Log-probabilities of a target (or of one each); fewer than asked for where the budget ends."""
        chosen = conversations[: self.room()]
        targets = [target] * len(chosen) if isinstance(target, str) else list(target)[: len(chosen)]
        scores: list[float] = yield Score(chosen, targets)
        self.queries += len(chosen)
        self.scored += len(chosen)
        return scores

    def score_tokens(self, prompts: Sequence[Sequence[int]], target: Sequence[int]) -> Steps[list[float]]:
        """As `score`, on token ids."""
        chosen = prompts[: self.room()]
        scores: list[float] = yield ScoreTokens(chosen, target)
        self.queries += len(chosen)
        self.scored += len(chosen)
        return scores

    def gradient(self, prompt: Sequence[int], span: tuple[int, int], target: Sequence[int]) -> Steps[Any]:
        """Gradient `(stop - start, V)` by the one-hot vectors of a span; one query."""
        self.room()
        found = yield Gradient(prompt, span, target)
        self.queries += 1
        self.scored += 1
        return found

    def rate(self, conversations: Sequence[Conversation]) -> Steps[list[float]]:
        """As `score` of an affirmative opening; 0 for each, at no cost, where the engine gives no log-probabilities."""
        if self.models.scoring is None:
            return [0.0] * len(conversations)
        return (yield from self.score(conversations, AFFIRMATIVE))

    def write(self, conversations: Sequence[Conversation], max_new_tokens: int) -> Steps[list[str]]:
        """Texts by the attacker, sampled at temperature 1; nothing for a request that is longer than it takes.

        Raises `SearchError` where it cannot be asked.
        """
        chosen = conversations[: self.room()]
        answers: list[Completion] = yield Ask(chosen, max_new_tokens, 1.0, attacker=True)
        self.queries += len(chosen)
        self.written += len(chosen)
        for answer in answers:
            if (answer.error is not None or answer.finish_reason == "error") and not is_too_long(answer.error):
                raise SearchError(f"the attacker model gave no answer: {answer.error or 'no reason given'}")
        return [answer.text for answer in answers]

    def settle(self, messages: Conversation, score: float) -> None:
        """Take a prompt that was only scored for the best one so far."""
        self.candidate = (messages, score)
        self.best_score = score

    def is_new(self) -> bool:
        """Whether the best prompt was only scored so far."""
        return self.candidate is not None and (self.best is None or self.candidate[1] > self.best.score)

    # What came of it

    def _note(self, messages: Conversation, completion: Completion, seen: Seen, score: float) -> Trial:
        self.queries += 1
        self.asked += 1
        failed = completion.error is not None or completion.finish_reason == "error"
        trial = Trial(messages, completion, seen.broken, score, seen.answered)
        if self.start_broken is None and messages == self.first and not failed:
            self.start_broken = trial.broken
        if failed:
            self.errors += 1
            self.last_error = completion.error
            return trial
        if trial.broken and self.broken_at is None:
            self.broken_at = self.queries
            self.best = trial
        elif self.best is None or (not self.best.broken and trial.rank > self.best.rank):
            self.best = trial
        return trial

    def last_answer(self) -> Steps[AttackResult]:
        """The result: the answer that broke the model, else that to the best prompt."""
        best, candidate = self.best, self.candidate
        if best is not None and not best.broken and self.is_new():
            best = None
        messages = best.messages if best is not None else (candidate or (user_turn(self.text), WORST))[0]
        if best is not None and not self.answers_again:
            return self._result(messages, best.completion)
        # the sampled answer to what a greedy search found, or the answer to what was only scored
        if self.queries < self.config.max_queries:
            (completion,) = yield Ask(
                [messages], self.params.max_new_tokens, self.params.temperature, seed=self.params.seed
            )
            (seen,) = yield Look([self.text], [completion])
            self._note(messages, completion, seen, candidate[1] if candidate else WORST)
        else:
            completion = Completion.failed(self.last_error or "the budget was spent before the prompt was answered")
        return self._result(messages, completion)

    def _result(self, messages: Conversation, completion: Completion) -> AttackResult:
        return AttackResult(self.goal.id, messages, completion, completion.error, self.queries, self.facts())

    def failed(self, error: BaseException) -> AttackResult:
        """The result of a search that broke down: neither safe nor broken."""
        reason = str(error) if isinstance(error, SearchError) else f"{type(error).__name__}: {error}"
        messages = self.candidate[0] if self.candidate else ()
        text = f"the search failed: {reason}"
        return AttackResult(self.goal.id, messages, Completion.failed(text), text, self.queries, self.facts())

    def facts(self) -> SearchFacts:
        """Figures for `Attempt.search`; `docs/attack.md` says what each is."""
        return {
            "budget": self.config.max_queries,
            "start_broken": self.start_broken,
            "broken_at": self.broken_at,
            "steps": self.steps,
            "asked": self.asked,
            "scored": self.scored,
            "written": self.written,
            "fallbacks": self.fallbacks,
            "errors": self.errors,
            "start_score": _finite(self.start_score),
            "best_score": _finite(self.best_score),
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
        }


def greedy(params: SamplingParams) -> SamplingParams:
    """The same without sampling."""
    return replace(params, temperature=0.0)


def clock() -> float:
    """Seconds of a clock that only goes on."""
    return time.monotonic()


def _finite(x: float | None) -> float | None:
    return round(x, 5) if x is not None and abs(x) < 1e30 else None
