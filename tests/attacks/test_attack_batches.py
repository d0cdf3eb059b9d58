"""Batches of an engine that answers one by one and stops in the middle: the file is that of an uninterrupted run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sirl.attacks import resolve_attacks
from sirl.attacks.base import Attack, AttackResult, StaticAttack
from sirl.attacks.replay import Replay
from sirl.attacks.run import run_attacks
from sirl.generation.base import request_seeds
from sirl.records import Attempt, Completion, Prompt, read_jsonl, user_turn

GOALS = [Prompt(f"g{i}", f"How do I hide snack number {i % 3}?") for i in range(5)]


class Streaming:
    """Answers a server's way: in an order of its own, drawn by each request's seed; gone after so many answers."""

    name = "streaming"

    def __init__(self, order: int = 0, gone_after: int | None = None, broken: Sequence[int] = ()) -> None:
        self.rng, self.left, self.broken, self.asked = random.Random(order), gone_after, broken, 0

    def generate(self, conversations: Any, params: Any, progress: Any = None) -> list[list[Completion]]:
        found = dict(self.generate_each(conversations, params))
        return [found[i] for i in range(len(conversations))]

    def generate_each(self, conversations: Any, params: Any, wanted: Sequence[int] | None = None) -> Any:
        seeds = request_seeds(conversations, params)
        places = list(range(len(conversations)) if wanted is None else wanted)
        self.rng.shuffle(places)
        for i in sorted(places) if self.rng.random() < 0.5 else places:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            self.asked += 1
            if i in self.broken:
                yield i, [Completion.failed("out of order")]
            else:
                yield i, [Completion(f"drawn {seeds[i]}", finish_reason="stop")]


class Twin(StaticAttack):
    """Sends what `direct` sends."""

    name, source, description = "twin", "test", "the request again"

    def render(self, goal: str, rng: random.Random) -> Any:
        return user_turn(goal)


class Search(Attack):
    """Finds the same prompt for every goal."""

    name, source, kind, description, samples = "same", "test", "adaptive", "finds one prompt", False

    def run(self, engine: Any, goals: Sequence[Prompt], params: Any, seed: int) -> Any:
        for goal in goals:
            (answer,) = engine.generate([user_turn("found")], params)[0]
            yield AttackResult(goal.id, user_turn("found"), answer, queries=2)


def attempts(path: Path) -> list[Attempt]:
    return sorted(read_jsonl(path, Attempt), key=lambda attempt: attempt.id)


@pytest.mark.parametrize("seed", range(12))
def test_interrupted_again_and_again(tmp_path: Path, seed: int) -> None:
    attacks = [*resolve_attacks("direct"), Twin(), Search(), Replay(Search())]
    arguments: dict[str, Any] = {"phase": "before", "decodings": ("greedy", "sample"), "batch": 7}
    whole = run_attacks(Streaming(), attacks, GOALS, **arguments)
    assert len({a.response for a in whole if a.decoding == "sample" and a.messages == whole[0].messages}) == 4, "twins"
    path, rng, asked = tmp_path / "attempts.jsonl", random.Random(seed), 0
    for _ in range(6):
        engine = Streaming(rng.random(), gone_after=rng.randint(1, 6))
        with pytest.raises(KeyboardInterrupt):
            run_attacks(engine, attacks, GOALS, path=path, **arguments)
        asked += engine.asked
    engine = Streaming(rng.random())
    assert run_attacks(engine, attacks, GOALS, path=path, **arguments) == whole
    assert attempts(path) == sorted(whole, key=lambda attempt: attempt.id), "none twice, none with another draw"
    assert asked + engine.asked == len(whole), "nothing is asked twice"


def test_a_retried_error_is_drawn_as_it_would_have_been(tmp_path: Path) -> None:
    attacks = [*resolve_attacks("direct"), Twin()]
    arguments: dict[str, Any] = {"phase": "before", "decodings": ("sample",), "path": tmp_path / "attempts.jsonl"}
    first = run_attacks(Streaming(broken=[5, 6, 9]), attacks, GOALS, **arguments)
    assert [i for i, a in enumerate(first) if a.error] == [5, 6, 9]
    engine = Streaming()
    again = run_attacks(engine, attacks, GOALS, retry_errors=True, **arguments)
    assert again == run_attacks(Streaming(), attacks, GOALS, **{**arguments, "path": None})
    assert engine.asked == 3
