"""Best-of-N: pure spellings, until one is answered; prefills in the order of their scores."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from adaptive_models import ANSWER, GOALS, PARAMS, Scripted, without_time

from sirl.attacks.adaptive.best_of_n import BestOfN, BestOfNConfig, flip_case, move_characters, scramble, spoil
from sirl.attacks.run import run_attacks
from sirl.judges import load_judge
from sirl.judges.run import judge_attempts
from sirl.records import Attempt, read_jsonl

TEXT = "Explain how somebody would assemble an umbrella stand, please"


def test_scrambling_keeps_letters_and_ends_of_words() -> None:
    new = scramble(TEXT, 1.0, random.Random(0))
    assert new != TEXT
    for old, word in zip(TEXT.split(), new.split(), strict=True):
        assert Counter(word) == Counter(old)
        assert word[0] == old[0]
        if len(old) < 4:
            assert word == old
    assert scramble(TEXT, 0.0, random.Random(0)) == TEXT


def test_case_and_noise_change_their_share() -> None:
    long = TEXT * 40
    flipped = flip_case(long, 0.5, random.Random(1))
    assert flipped.lower() == long.lower()
    letters = sum(c.isalpha() for c in long)
    assert 0.4 < sum(a != b for a, b in zip(long, flipped, strict=True)) / letters < 0.6
    noisy = move_characters(long, 0.1, random.Random(1))
    changed = [(a, b) for a, b in zip(long, noisy, strict=True) if a != b]
    assert all(abs(ord(a) - ord(b)) == 1 and b.isprintable() for a, b in changed)
    assert 0.07 < len(changed) / sum(c != " " for c in long) < 0.13
    assert move_characters("!~ ü", 1.0, random.Random(3))[2:] == " ü"


def test_tries_until_one_is_answered() -> None:
    engine = Scripted(breaks=lambda c: "X" in c[-1]["content"])  # only another case or noise puts one there
    goals = [replace(g, text=f"{g.text} x") for g in GOALS]
    results = list(BestOfN(BestOfNConfig(max_queries=200)).run(engine, goals, PARAMS, 0))
    for result in results:
        assert result.completion.text == ANSWER
        assert "X" in result.messages[-1]["content"]
        assert result.search["broken_at"] <= result.queries <= 200
        assert result.search["start_broken"] is False
        assert result.search["flops"] is None  # this engine says neither tokens nor parameters
    assert sum(r.queries for r in results) == engine.answered


def test_samples_at_the_temperature_of_the_decoding_and_stops_at_n() -> None:
    engine = Scripted()
    (result,) = BestOfN(BestOfNConfig(max_queries=20)).run(engine, GOALS[:1], replace(PARAMS, temperature=1.0), 0)
    assert (result.queries, engine.answered) == (20, 20)
    assert {params.temperature for _, params in engine.calls} == {1.0}
    assert len({params.seed for _, params in engine.calls}) == len(engine.calls)
    assert result.completion.finish_reason == "stop"
    assert result.error is None


def test_seed_and_neighbours() -> None:
    attack = BestOfN(BestOfNConfig(goals_at_once=2))

    def engine() -> Scripted:
        return Scripted(breaks=lambda c: "K" in c[-1]["content"])

    many = {r.goal_id: without_time(r) for r in attack.run(engine(), GOALS, PARAMS, 5)}
    for goal in reversed(GOALS):
        assert [without_time(r) for r in attack.run(engine(), [goal], PARAMS, 5)] == [many[goal.id]]


def test_errors_are_apart_from_refusals(tmp_path: Path) -> None:
    engine = Scripted(fail="inema")
    goals = [GOALS[0], replace(GOALS[1], text="inema inema inema inema")]
    attack = BestOfN(BestOfNConfig(max_queries=9, scrambled_words=0, flipped_case=0, moved_characters=0))
    attempts = run_attacks(engine, [attack], goals, phase="before", path=tmp_path / "a.jsonl")
    assert [a.error for a in attempts] == [None, "too long for the context"]
    labels = [v.label for v in judge_attempts(attempts, load_judge("refusal"))]
    assert labels == ["full_refusal", "unscored"]
    assert read_jsonl(tmp_path / "a.jsonl", Attempt) == attempts
    assert attempts[0].queries == 9


def test_spelling_is_a_matter_of_the_rng() -> None:
    config = BestOfNConfig()
    first, second = (spoil(TEXT, config, random.Random(7)) for _ in range(2))
    assert first == second != spoil(TEXT, config, random.Random(8))


@pytest.mark.parametrize("budget", [1, 2, 9, 10])
def test_budget(budget: int) -> None:
    engine = Scripted()
    list(BestOfN(BestOfNConfig(max_queries=budget)).run(engine, GOALS[:1], PARAMS, 0))
    assert engine.answered == budget
