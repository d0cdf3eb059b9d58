"""How adaptive attacks are run: the searches of several goals in lock step, one batch for each kind of request a round.

A goal's search depends on its own randomness and on the answers alone, so it does not matter which other goals are
searched beside it (up to rounding, where a batch changes the order of sums). A goal that is done leaves at once.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from sirl.attacks.adaptive.search import (
    Ask,
    Finished,
    GoalSearch,
    Gradient,
    Models,
    Request,
    Score,
    ScoreTokens,
    SearchConfig,
    Steps,
    clock,
)
from sirl.attacks.adaptive.verdicts import Look, look_at
from sirl.attacks.base import Attack, AttackOptions, AttackResult, goal_rng, stable_seed
from sirl.errors import UserError
from sirl.generation.base import Engine, GradientEngine, SamplingParams, ScoringEngine
from sirl.generation.unanswered import require_answers
from sirl.judges.base import Judge
from sirl.records import Completion, Conversation, Prompt

BACKWARD = 2
"""A gradient by the inputs costs a forward pass more than a forward pass."""


class AdaptiveAttack(Attack):
    """An attack that is a search for each goal, in `search`.

    `needs` is the protocol that the engine must have beyond `Engine`. Searches ask greedily whatever the decoding,
    unless `samples`; what they settle on is then decoded as wanted.
    """

    kind = "adaptive"
    needs: ClassVar[type[ScoringEngine] | type[GradientEngine] | None] = None
    samples: ClassVar[bool] = False
    ends_unanswered: ClassVar[bool] = False
    config: SearchConfig

    judges: Sequence[Judge] = ()

    def __init__(self, config: SearchConfig | None = None, attacker: Engine | None = None) -> None:
        self.config = config or SearchConfig()
        self.attacker = attacker

    def configure(self, options: AttackOptions) -> Self:
        """This attack with another budget, another model to write prompts, or the run's judges to stop by."""
        budget = self.config.max_queries if options.budget is None else options.budget
        seconds = self.config.max_seconds if options.seconds is None else options.seconds
        config = replace(self.config, max_queries=budget, max_seconds=seconds)
        new = type(self)(config, options.attacker or self.attacker)
        new.judges = options.judges or self.judges
        return new

    def check(self, engine: Engine) -> None:
        """Raise `UserError` where the engine cannot give what the search needs."""
        if self.needs is not None and not isinstance(engine, self.needs):
            raise UserError(f"attack {self.name} needs a model in this process (--engine local)")

    @abstractmethod
    def search(self, state: GoalSearch) -> Steps[None]:
        """The search for one goal. It first calls `state.start`; to return ends it as `Finished` does."""
        ...

    def prepare(self, models: Models) -> None:
        """What is made once for all goals."""
        return

    def run(self, engine: Engine, goals: Sequence[Prompt], params: SamplingParams, seed: int) -> Iterator[AttackResult]:
        """See `Attack.run`. Some goals at a time, so that an interruption loses no more than those."""
        self.check(engine)
        models = Models(engine, self.attacker, self.judges)
        self.prepare(models)
        params = replace(params, n=1)
        for start in range(0, len(goals), self.config.goals_at_once):
            part = goals[start : start + self.config.goals_at_once]
            states = [self._state(goal, models, params, seed) for goal in part]
            yield from self._lock_step(states, models, params.seed)

    def _state(self, goal: Prompt, models: Models, params: SamplingParams, seed: int) -> GoalSearch:
        return GoalSearch(
            goal,
            goal_rng(seed, self.name, goal.id),
            params,
            self.config,
            models,
            temperature=params.temperature if self.samples else 0.0,
            ends_unanswered=self.ends_unanswered,
        )

    def _whole(self, state: GoalSearch) -> Steps[AttackResult]:
        with suppress(Finished):
            yield from self.search(state)
        return (yield from state.last_answer())

    def _lock_step(self, states: Sequence[GoalSearch], models: Models, seed: int) -> Iterator[AttackResult]:
        running: list[_Sent] = [(state, self._whole(state), None) for state in states]
        for round_ in range(_FOREVER):
            start = clock()
            done, waiting = _advance(running, models)
            yield from done
            if not waiting:
                return
            answers = perform([(state, request) for state, _, request in waiting], models, stable_seed(seed, round_))
            share = (clock() - start) / len(waiting)
            running = []
            for (state, steps, _), answer in zip(waiting, answers, strict=True):
                state.seconds += share
                running.append((state, steps, answer))


_Sent = tuple[GoalSearch, Steps[AttackResult], Any]
"""A search with the answer that it waits for; or, once it has been sent that, with its next request."""


def _advance(running: Sequence[_Sent], models: Models) -> tuple[list[AttackResult], list[_Sent]]:
    """Send the answers to the searches; returns the results of those that are done, and the others' next requests.

    What a search asks the judges is answered here, for all searches in one call: it is no round of its own.
    """
    done: dict[int, AttackResult] = {}
    waiting: dict[int, _Sent] = {}
    todo = dict(enumerate(running))
    while todo:
        looks: dict[int, Look] = {}
        for place, (state, steps, answer) in todo.items():
            try:
                request = steps.send(answer)
            except StopIteration as stop:
                done[place] = stop.value
            except UserError:
                raise
            except Exception as error:  # one goal's search, from whatever the model wrote: its failure is recorded
                done[place] = state.failed(error)
            else:
                if isinstance(request, Look):
                    looks[place] = request
                else:
                    waiting[place] = (state, steps, request)
        found = look_at(list(looks.values()), models.judges) if looks else []
        todo = {place: (*running[place][:2], seen) for place, seen in zip(looks, found, strict=True)}
    return [done[place] for place in sorted(done)], [waiting[place] for place in sorted(waiting)]


_FOREVER = 1 << 30


def perform(requests: Sequence[tuple[GoalSearch, Request]], models: Models, seed: int) -> list[Any]:
    """Answer the requests of one round, those of a kind in one call; `seed` is the round's."""
    answers: list[Any] = [None] * len(requests)
    groups: dict[Any, list[int]] = {}
    for i, (_, request) in enumerate(requests):
        key: Any = type(request)
        if isinstance(request, Ask):
            key = (request.attacker, request.max_new_tokens, request.temperature, request.seed)
        groups.setdefault(key, []).append(i)
    for members in groups.values():
        part = [requests[i] for i in members]
        first = part[0][1]
        if isinstance(first, Ask):
            found: Sequence[Any] = _ask(part, first, models, seed)
        elif isinstance(first, Score):
            found = _score(part, models)
        else:
            found = _by_tokens(part, models)
        for i, answer in zip(members, found, strict=True):
            answers[i] = answer
    return answers


@dataclass(frozen=True)
class _Places:
    """Conversations of several searches without repeats, and where each search finds its own.

    Engines draw by prompt and by how often it came before. So that a search does not depend on its neighbours, two that
    ask the same share the answer; one that asks the same twice gets two.
    """

    conversations: list[Conversation]
    rows: list[list[int]]

    @classmethod
    def of(cls, parts: Sequence[Sequence[Conversation]]) -> _Places:
        places: dict[tuple[str, int], int] = {}
        conversations: list[Conversation] = []
        rows: list[list[int]] = []
        for part in parts:
            seen: Counter[str] = Counter()
            rows.append([])
            for conversation in part:
                text = json.dumps([dict(m) for m in conversation])
                key = (text, seen[text])
                seen[text] += 1
                if key not in places:
                    places[key] = len(conversations)
                    conversations.append(conversation)
                rows[-1].append(places[key])
        return cls(conversations, rows)


def _ask(part: Sequence[tuple[GoalSearch, Any]], first: Ask, models: Models, seed: int) -> list[list[Completion]]:
    engine = models.writer if first.attacker else models.target
    places = _Places.of([request.conversations for _, request in part])
    params = SamplingParams(
        max_new_tokens=first.max_new_tokens,
        temperature=first.temperature,
        seed=seed if first.seed is None else first.seed,
    )
    answers = engine.generate(places.conversations, params)
    errors = [answer.error or "no reason given" for answer, *_ in answers if answer.finish_reason == "error"]
    if errors and len(errors) == len(answers):
        require_answers(engine, errors, params)
    lengths = engine.count_tokens(places.conversations) if isinstance(engine, ScoringEngine) else None
    out = []
    for (state, _), rows in zip(part, places.rows, strict=True):
        out.append([answers[row][0] for row in rows])
        tokens = None if lengths is None else sum(lengths[row] + len(answers[row][0].token_ids) for row in rows)
        _account(state, engine, tokens)
    return out


def _score(part: Sequence[tuple[GoalSearch, Any]], models: Models) -> list[list[float]]:
    engine = models.scoring
    assert engine is not None  # an attack that scores has checked
    conversations = [c for _, request in part for c in request.conversations]
    targets = [t for _, request in part for t in request.targets]
    scores = engine.target_logprobs(conversations, targets, mean=True)
    lengths = engine.count_tokens(conversations)
    out, start = [], 0
    for state, request in part:
        stop = start + len(request.conversations)
        out.append(scores[start:stop])
        _account(state, engine, sum(lengths[start:stop]))
        start = stop
    return out


def _by_tokens(part: Sequence[tuple[GoalSearch, Any]], models: Models) -> list[Any]:
    engine = models.target
    assert isinstance(engine, GradientEngine)
    if isinstance(part[0][1], Gradient):
        gradients = engine.one_hot_gradients(
            [r.prompt for _, r in part], [r.span for _, r in part], [r.target for _, r in part]
        )
        for state, request in part:
            _account(state, engine, BACKWARD * (len(request.prompt) + len(request.target)))
        return gradients
    prompts = [p for _, request in part for p in request.prompts]
    targets = [request.target for _, request in part for _ in request.prompts]
    scores = [sum(row) / len(row) for row in engine.token_logprobs(prompts, targets)]
    out: list[Any] = []
    start = 0
    for state, request in part:
        assert isinstance(request, ScoreTokens)
        stop = start + len(request.prompts)
        out.append(scores[start:stop])
        _account(state, engine, sum(len(p) + len(request.target) for p in request.prompts))
        start = stop
    return out


def _account(state: GoalSearch, engine: Engine, tokens: int | None) -> None:
    """Tokens and arithmetic of one request: 2 operations a parameter and token (Kaplan et al. 2020, arXiv 2001.08361).

    An estimate, as if nothing were shared between prompts and attention were free. Unknown (None) once an engine that
    was asked shows neither tokens nor parameters.
    """
    if tokens is None or not isinstance(engine, ScoringEngine):
        state.flops = None
        return
    state.tokens += tokens
    if state.flops is not None:
        state.flops += 2.0 * engine.parameters * tokens
