"""Running attacks with scripted engines: batching, resuming, seeds, errors, settings that do not match."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from sirl.attacks import resolve_attacks
from sirl.attacks.base import Attack, AttackResult, StaticAttack
from sirl.attacks.run import run_attacks
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.records import Attempt, Completion, Prompt, read_jsonl, user_turn

GOALS = [Prompt(f"g{i}", f"How do I hide snack number {i}?", category="snacks" if i % 2 else None) for i in range(5)]
ATTACKS = resolve_attacks("direct,dan,base64")


class FakeEngine:
    """Answers with a digest of the prompt and of the seed, so that any mix-up shows. Can break at its n-th call."""

    name = "fake"

    def __init__(self, break_at: int | None = None, fail: str | None = None, tokens: int = 2) -> None:
        self.calls: list[tuple[list, object]] = []
        self.break_at, self.fail, self.tokens = break_at, fail, tokens

    @property
    def asked(self) -> list[str]:
        return [c[-1]["content"] for conversations, _ in self.calls for c in conversations]

    def generate(self, conversations, params, progress=None):
        if self.break_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append((list(conversations), params))
        out = []
        for conversation in conversations:
            text = conversation[-1]["content"]
            if self.fail is not None and self.fail in text:
                out.append([Completion("", finish_reason="error", error="too long for the context")])
            else:
                answer = f"answer to {text[-30:]!r}" + (f" ({params.seed})" if params.temperature else "")
                words = tuple("ab"[i % 2] for i in range(self.tokens))
                out.append([Completion(answer, (1,) * self.tokens, words, (0.5,) * self.tokens, "stop")])
            if progress:
                progress(1)
        return out


def test_one_call_per_decoding_and_chunk() -> None:
    engine = FakeEngine()
    attempts = run_attacks(engine, ATTACKS, GOALS, phase="before", decodings=("greedy", "sample"), max_new_tokens=9)
    assert [len(conversations) for conversations, _ in engine.calls] == [15, 15]
    assert [(p.temperature, p.n, p.max_new_tokens) for _, p in engine.calls] == [(0.0, 1, 9), (1.0, 1, 9)]
    assert [a.id for a in attempts] == [
        f"before/{decoding}/{attack}/g{i}"
        for decoding in ("greedy", "sample")
        for attack in ("direct", "dan", "base64")
        for i in range(5)
    ]
    first = attempts[1]
    assert (first.goal_id, first.goal, first.category, first.seed) == ("g1", GOALS[1].text, "snacks", 0)
    assert first.messages == ({"role": "user", "content": GOALS[1].text},)
    assert first.response == f"answer to {GOALS[1].text[-30:]!r}"
    assert (first.tokens, first.entropies, first.finish_reason, first.error) == (("a", "b"), (0.5, 0.5), "stop", None)
    chunked = FakeEngine()
    run_attacks(chunked, ATTACKS, GOALS, phase="before", batch=4)
    assert [len(conversations) for conversations, _ in chunked.calls] == [4, 4, 4, 3]


class EngineOfBoth(FakeEngine):
    """Gives greedy and sampled answers by one call, as a model in this process does."""

    def generate_both(self, conversations, params, progress=None):
        greedy = FakeEngine(fail=self.fail).generate(conversations, SamplingParams(params.max_new_tokens), progress)
        sampled = self.generate(conversations, params, progress)
        return [[*one, *more] for one, more in zip(greedy, sampled, strict=True)]


@pytest.mark.parametrize("fail", [None, "number 3"])
def test_an_engine_of_both_is_called_once_a_chunk(fail: str | None) -> None:
    arguments: dict[str, Any] = {"phase": "before", "decodings": ("greedy", "sample"), "batch": 4}
    engine, told = EngineOfBoth(fail=fail), []
    attempts = run_attacks(engine, ATTACKS, GOALS, **arguments, progress=lambda done, total: told.append((done, total)))
    assert attempts == run_attacks(FakeEngine(fail=fail), ATTACKS, GOALS, **arguments)
    assert [len(conversations) for conversations, _ in engine.calls] == [4, 4, 4, 3]
    assert told == sorted(told)
    assert told[-1] == (30, 30)
    engine = EngineOfBoth()
    run_attacks(engine, ATTACKS, GOALS, phase="before")
    assert [params.temperature for _, params in engine.calls] == [0.0], (
        "greedy answers alone, where no others are wanted"
    )


@pytest.mark.parametrize("cut", [40, 4_000, 6_000])
def test_a_chunk_of_both_that_was_torn_is_asked_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "attempts.jsonl"
    arguments: dict[str, Any] = {"phase": "before", "decodings": ("sample", "greedy"), "path": path}
    whole = run_attacks(EngineOfBoth(), ATTACKS, GOALS, **arguments)
    stored = path.read_bytes()
    path.write_bytes(stored[:-cut])
    engine = EngineOfBoth()
    assert run_attacks(engine, ATTACKS, GOALS, **arguments) == whole
    assert [len(conversations) for conversations, _ in engine.calls] == [15]
    assert path.read_bytes() == stored


def test_before_and_after_get_the_same_prompts_and_seeds() -> None:
    engines = [FakeEngine(), FakeEngine()]
    runs = [
        run_attacks(engine, ATTACKS, GOALS, phase=phase, decodings=("sample",), batch=4, seed=5)
        for engine, phase in zip(engines, ("before", "after"), strict=True)
    ]
    assert engines[0].calls == engines[1].calls
    assert [a.response for a in runs[0]] == [a.response for a in runs[1]]
    seeds = {params.seed for _, params in engines[0].calls}
    assert len(seeds) == 4  # no two chunks share their noise
    other = FakeEngine()
    run_attacks(other, ATTACKS, GOALS, phase="before", decodings=("sample",), batch=4, seed=6)
    assert not seeds & {params.seed for _, params in other.calls}


@pytest.mark.parametrize("break_at", [0, 1, 3, 7])
def test_interrupted_run_goes_on(tmp_path: Path, break_at: int) -> None:
    path = tmp_path / "attempts.jsonl"
    arguments = {"phase": "before", "decodings": ("greedy", "sample"), "batch": 4, "path": path}
    whole = run_attacks(FakeEngine(), ATTACKS, GOALS, **{**arguments, "path": None})
    broken = FakeEngine(break_at=break_at)
    with pytest.raises(KeyboardInterrupt):
        run_attacks(broken, ATTACKS, GOALS, **arguments)
    assert path.exists() == (break_at > 0)
    rest = FakeEngine()
    assert run_attacks(rest, ATTACKS, GOALS, **arguments) == whole
    assert len(broken.asked) + len(rest.asked) == len(whole)
    assert {a.id for a in read_jsonl(path, Attempt)} == {a.id for a in whole}
    assert len(path.read_text().splitlines()) == len(whole)
    nothing_left = FakeEngine()
    assert run_attacks(nothing_left, ATTACKS, GOALS, **arguments) == whole
    assert nothing_left.calls == []


def test_torn_last_line_is_made_again_with_the_same_noise(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    arguments = {"phase": "before", "decodings": ("sample",), "path": path}
    whole = run_attacks(FakeEngine(), ATTACKS, GOALS, **arguments)
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    engine = FakeEngine()
    assert run_attacks(engine, ATTACKS, GOALS, **arguments) == whole
    assert len(engine.asked) == len(whole), "all of the torn chunk: its draws and rounding depend on the others in it"
    assert read_jsonl(path, Attempt) == whole


def test_one_file_holds_both_phases_and_more_attacks_can_be_added(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    before = run_attacks(FakeEngine(), ATTACKS[:1], GOALS, phase="before", path=path)
    after = run_attacks(FakeEngine(), ATTACKS[:1], GOALS, phase="after", path=path)
    engine = FakeEngine()
    more = run_attacks(engine, ATTACKS, GOALS, phase="before", path=path)
    assert len(engine.asked) == 10
    assert more[:5] == before
    assert read_jsonl(path, Attempt) == before + after + more[5:]


def test_unicode_survives_the_file(tmp_path: Path) -> None:
    goals = [Prompt("ü", "Wie öffne ich 🔓 \u2028 die Tür?")]
    path = tmp_path / "attempts.jsonl"
    fresh = run_attacks(FakeEngine(), ATTACKS, goals, phase="before", path=path)
    assert run_attacks(FakeEngine(), ATTACKS, goals, phase="before", path=path) == fresh


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "made with seed 0, not 1"),
        ({"goals": [Prompt("g0", "How do I hide the cake?")]}, "made with another prompt"),
        ({"max_new_tokens": 1}, "2 tokens, over max_new_tokens 1"),
    ],
)
def test_attempts_of_other_settings_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "attempts.jsonl"
    run_attacks(FakeEngine(), ATTACKS, GOALS, phase="before", path=path)
    stored = path.read_bytes()
    arguments = {"goals": GOALS, "phase": "before", "path": path, **change}
    engine = FakeEngine()
    with pytest.raises(UserError, match=message) as caught:
        run_attacks(engine, ATTACKS, **arguments)
    assert str(path) in str(caught.value)
    assert engine.calls == []
    assert path.read_bytes() == stored


def test_changed_template_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    run_attacks(FakeEngine(), [Flaky("one")], GOALS[:1], phase="before", path=path)
    with pytest.raises(UserError, match="another prompt"):
        run_attacks(FakeEngine(), [Flaky("two")], GOALS[:1], phase="before", path=path)


@pytest.mark.parametrize("content", ['{"id": "x"}\n', "not json\nmore\n", '["a list"]\n', "\xff"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="not a file of attempts"):
        run_attacks(FakeEngine(), ATTACKS, GOALS, phase="before", path=path)


class Flaky(StaticAttack):
    """Builds with a word of its own; fails on goals that contain `bad`."""

    name, source, description = "flaky", "test", "fails on some goals"

    def __init__(self, word: str = "w", bad: str | None = None) -> None:
        self.word, self.bad = word, bad

    def render(self, goal: str, rng: random.Random):
        if self.bad is not None and self.bad in goal:
            raise ZeroDivisionError("no prompt for this one")
        return user_turn(f"{self.word} {rng.random()} {goal}")


def test_failed_build_is_an_attempt_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    engine = FakeEngine()
    attempts = run_attacks(engine, [Flaky(bad="number 3")], GOALS, phase="before", path=path)
    assert [a.error is None for a in attempts] == [True, True, True, False, True]
    failed = attempts[3]
    assert failed.error == "building the prompt failed: ZeroDivisionError: no prompt for this one"
    assert (failed.messages, failed.response, failed.tokens, failed.entropies) == ((), "", (), ())
    assert failed.finish_reason == "error"
    assert len(engine.asked) == 4
    again = FakeEngine()
    assert run_attacks(again, [Flaky(bad="number 3")], GOALS, phase="before", path=path) == attempts
    assert again.calls == []


def test_all_builds_failed_asks_nothing() -> None:
    engine = FakeEngine()
    attempts = run_attacks(engine, [Flaky(bad="snack")], GOALS, phase="before")
    assert engine.calls == []
    assert all(a.error for a in attempts)


def test_engine_error_is_an_attempt_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    attempts = run_attacks(FakeEngine(fail="number 2"), ATTACKS[:2], GOALS, phase="before", path=path)
    assert [a.id for a in attempts if a.error] == ["before/greedy/direct/g2", "before/greedy/dan/g2"]
    assert attempts[2].error == "too long for the context"
    assert attempts[2].finish_reason == "error"
    assert attempts[2].messages  # what was sent is kept
    kept = FakeEngine()
    assert run_attacks(kept, ATTACKS[:2], GOALS, phase="before", path=path) == attempts
    assert kept.calls == []
    retried = FakeEngine()
    healed = run_attacks(retried, ATTACKS[:2], GOALS, phase="before", path=path, retry_errors=True)
    assert len(retried.asked) == 2
    assert not any(a.error for a in healed)
    assert len(path.read_text().splitlines()) == len(healed)


def test_answer_with_half_a_surrogate_pair_can_be_stored(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.generate = lambda conversations, *_: [[Completion("a \ud83d b")] for _ in conversations]
    attempts = run_attacks(engine, ATTACKS, GOALS, phase="before", path=tmp_path / "attempts.jsonl")
    assert attempts[0].response == "a ? b"


def test_progress_counts_what_was_done_before(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_attacks(FakeEngine(break_at=1), ATTACKS, GOALS, phase="before", path=path, batch=5)
    seen: list[tuple[int, int]] = []
    run_attacks(
        FakeEngine(),
        ATTACKS,
        GOALS,
        phase="before",
        path=path,
        batch=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (5, 15)
    assert seen[-1] == (15, 15)
    assert (7, 15) in seen
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": []}, "attacks: none given"),
        ({"goals": []}, "goals: none given"),
        ({"decodings": ()}, "decodings: none given"),
        ({"decodings": ("beam",)}, "'beam' is not known; choose from greedy, sample"),
        ({"goals": [GOALS[0], GOALS[0]]}, "goals: 'g0' appears twice"),
        ({"attacks": [ATTACKS[0], ATTACKS[0]]}, "attacks: 'direct' appears twice"),
        ({"goals": [Prompt("void", " ")]}, "goal 'void' is empty"),
        ({"batch": 0}, "batch: must be 1 or more"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    engine = FakeEngine()
    with pytest.raises(UserError, match=message):
        run_attacks(engine, **{"attacks": ATTACKS, "goals": GOALS, "phase": "before", **arguments})
    assert engine.calls == []


class Search(Attack):
    """An adaptive attack: asks, then settles on a prompt. Skips goals that contain `skip`."""

    name, kind, source, description = "search", "adaptive", "test", "asks twice"

    def __init__(self, skip: str = "nothing", result_for: str | None = None) -> None:
        self.skip, self.result_for = skip, result_for

    def run(self, engine, goals, params, seed):
        for goal in goals:
            if self.skip in goal.text:
                continue
            best = ""
            for step in range(2):
                messages = user_turn(f"{goal.text} try {step} {seed}")
                completion = engine.generate([messages], params)[0][0]
                best = completion.text
            yield AttackResult(self.result_for or goal.id, messages, completion, None if best else "nothing found")


def test_adaptive_attack_is_stored_goal_by_goal_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    attacks = [*ATTACKS[:1], Search()]
    with pytest.raises(KeyboardInterrupt):
        run_attacks(FakeEngine(break_at=4), attacks, GOALS, phase="after", seed=8, path=path)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()][5:] == ["after/greedy/search/g0"]
    rest = FakeEngine()
    attempts = run_attacks(rest, attacks, GOALS, phase="after", seed=8, path=path)
    assert len(rest.asked) == 8
    assert attempts == run_attacks(FakeEngine(), attacks, GOALS, phase="after", seed=8)
    assert attempts[-1].messages[0]["content"] == f"{GOALS[4].text} try 1 8"


def test_adaptive_attack_without_a_result_is_an_error() -> None:
    attempts = run_attacks(FakeEngine(), [Search(skip="number 1")], GOALS[:2], phase="after")
    assert attempts[0].error is None
    assert attempts[1].error == "attack search gave no result for this goal"
    assert attempts[1].finish_reason == "error"


def test_adaptive_attack_that_answers_another_goal_is_a_bug() -> None:
    with pytest.raises(ValueError, match="'search' answered goal 'g9'"):
        run_attacks(FakeEngine(), [Search(result_for="g9")], GOALS[:2], phase="after")


class Twin(StaticAttack):
    """Sends what `direct` sends."""

    name, source, description = "twin", "test", "the request again"

    def render(self, goal: str, rng: random.Random):
        return user_turn(goal)


@pytest.mark.parametrize("kept", range(1, 8))
def test_a_chunk_torn_between_equal_prompts_is_drawn_as_it_would_have_been(
    tmp_path: Path, model_folder: Any, kept: int
) -> None:
    engine = load_engine(str(model_folder("llama")))
    attacks = [*resolve_attacks("direct"), Twin()]
    arguments: dict[str, Any] = {"phase": "before", "decodings": ("sample",), "max_new_tokens": 4}
    path = tmp_path / "attempts.jsonl"
    whole = run_attacks(engine, attacks, GOALS[:4], **arguments, path=path)
    assert len({a.response for a in whole}) > 4, "an equal prompt is drawn anew"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:kept]))
    assert run_attacks(engine, attacks, GOALS[:4], **arguments, path=path) == whole
    assert path.read_text().splitlines(keepends=True) == lines
