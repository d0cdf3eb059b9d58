"""What holds for every adaptive attack inside `run_attacks`: files, resuming, sampling, replay, errors, lock step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adaptive_models import ANSWER, GOALS, PARAMS, REFUSAL, Scripted, ScriptedScoring, without_time

from sirl.attacks import resolve_attacks
from sirl.attacks.adaptive.base import AdaptiveAttack, perform
from sirl.attacks.adaptive.best_of_n import BestOfN, BestOfNConfig
from sirl.attacks.adaptive.pair import PAIR, PAIRConfig
from sirl.attacks.adaptive.random_search import RandomSearch, RandomSearchConfig
from sirl.attacks.adaptive.search import Ask, GoalSearch, Models, SearchConfig, Steps
from sirl.attacks.base import AttackOptions, goal_rng
from sirl.attacks.run import run_attacks
from sirl.errors import UserError
from sirl.generation.local import LocalEngine
from sirl.judges import load_judge
from sirl.judges.run import judge_attempts
from sirl.records import Attempt, read_jsonl, user_turn
from tiny_models import tiny_model

SCORED = ["random_search", "prefill_search", "autodan", "best_of_n", "pair", "tap", "template_mutation", "crescendo"]


def engine(**more: Any) -> ScriptedScoring:
    return ScriptedScoring(lambda text, _: -len(text) / 100, writes=lambda *_: "no", **more)


class Counting(LocalEngine):
    """A tiny real model that notes what it was asked, for the attack that needs gradients."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tiny_model("llama"), tokenizer)
        self.calls: list[str] = []

    def generate(self, *arguments: Any, **more: Any) -> Any:
        self.calls.append("generate")
        return super().generate(*arguments, **more)

    def token_logprobs(self, *arguments: Any, **more: Any) -> Any:
        self.calls.append("token_logprobs")
        return super().token_logprobs(*arguments, **more)

    def one_hot_gradients(self, *arguments: Any, **more: Any) -> Any:
        self.calls.append("one_hot_gradients")
        return super().one_hot_gradients(*arguments, **more)


@pytest.mark.usefixtures("never_broken")
@pytest.mark.parametrize("name", [*SCORED, "gcg"])
@pytest.mark.parametrize("stop_after", [1, 2])
def test_interrupted_goes_on_and_asks_nothing_twice(name: str, stop_after: int, tmp_path: Path, tokenizer: Any) -> None:
    (attack,) = resolve_attacks(name)
    assert isinstance(attack, AdaptiveAttack)
    attack.config = replace(attack.config, goals_at_once=1, max_queries=20)
    path = tmp_path / "attempts.jsonl"

    def fresh() -> Any:
        return Counting(tokenizer) if name == "gcg" else engine()

    def run(target: Any, **more: Any) -> list[Attempt]:
        attempts = run_attacks(target, [attack], GOALS, phase="before", max_new_tokens=8, **more)
        return [without_time(a) for a in attempts]

    reference = fresh()
    whole = run(reference)

    def stop(done: int, _: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    broken = fresh()
    with pytest.raises(KeyboardInterrupt):
        run(broken, path=path, progress=stop)
    rest = fresh()
    assert run(rest, path=path) == whole
    assert broken.calls + rest.calls == reference.calls
    assert len(path.read_text().splitlines()) == len(GOALS)
    done = fresh()
    assert run(done, path=path) == whole
    assert done.calls == []


@pytest.mark.parametrize("name", SCORED)
def test_every_start_is_the_first_query_and_is_noted(name: str) -> None:
    (attack,) = resolve_attacks(name)
    for broken in (True, False):
        target = engine(breaks=lambda _, broken=broken: broken)
        (attempt,) = run_attacks(target, [attack], GOALS[:1], phase="before", max_new_tokens=9)
        assert attempt.search is not None
        assert attempt.search["start_broken"] is broken
        assert attempt.response == (ANSWER if broken else REFUSAL)
        if broken:
            assert (attempt.queries, attempt.search["broken_at"]) == (1, 1)
            assert attempt.messages == target.calls[0][0][0]
        assert target.calls[0][1].max_new_tokens == 9


def test_finished_goals_leave_the_lock_step() -> None:
    target = Scripted(breaks=lambda c: "bicycle" in c[-1]["content"].lower())
    results = run_attacks(target, [BestOfN(BestOfNConfig(per_round=2))], GOALS, phase="before")
    assert [len(c) for c, _ in target.calls][:2] == [3, 4]  # all goals' starts, then two spellings of two goals
    assert results[0].queries == 1


def test_sampled_answers_are_to_what_the_greedy_search_found(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    target = Scripted(writes=lambda *_: "no", breaks=lambda c: "novel" in c[-1]["content"])
    attack = PAIR(PAIRConfig(max_queries=60))
    attempts = run_attacks(target, [attack], GOALS, phase="before", decodings=("greedy", "sample"), path=path)
    greedy, sampled = attempts[:3], attempts[3:]
    assert [a.messages for a in greedy] == [a.messages for a in sampled]
    assert [a.queries + 1 for a in greedy] == [a.queries for a in sampled]
    assert len(target.calls[-1][0]) == 3
    assert target.calls[-1][1].temperature == 1.0
    assert sum(params.temperature == 1.0 and "<prompt>" not in c[0][-1]["content"] for c, params in target.calls) == 1
    # the same from the attack alone, where no greedy attempts are at hand
    alone = {a.goal_id: a for a in attack.run(target, GOALS, replace(PARAMS, temperature=1.0), 0)}
    assert {k: a.messages for k, a in alone.items()} == {a.goal_id: a.messages for a in greedy}
    assert target.calls[-1][1].temperature == 1.0


def test_sampling_with_a_budget_of_one_still_answers() -> None:
    target = Scripted(writes=lambda *_: "no")
    (result,) = PAIR(PAIRConfig(max_queries=1)).run(target, GOALS[:1], replace(PARAMS, temperature=1.0), 0)
    assert (result.error, result.queries, target.answered) == (None, 1, 1)
    assert target.calls[0][1].temperature == 1.0


class TestReplay:
    def before(self, path: Path) -> list[Attempt]:
        target = Scripted(breaks=lambda c: "X" in c[-1]["content"])
        return run_attacks(target, [BestOfN()], GOALS, phase="before", path=path)

    def test_what_was_found_before_is_put_to_the_model_after(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts.jsonl"
        before = self.before(path)
        target = Scripted()
        attacks = resolve_attacks("best_of_n@before")
        after = run_attacks(target, attacks, GOALS, phase="after", path=path, decodings=("greedy", "sample"))
        assert [a.messages for a in after] == [a.messages for a in before] * 2
        assert {(a.attack, a.phase, a.queries, a.response) for a in after} == {
            ("best_of_n@before", "after", 1, REFUSAL)
        }
        again = Scripted()
        assert run_attacks(again, attacks, GOALS, phase="after", path=path, decodings=("greedy", "sample")) == after
        assert again.calls == []

    def test_beside_its_search_in_phase_before(self) -> None:
        target = Scripted()
        attempts = run_attacks(target, resolve_attacks("best_of_n@before,best_of_n"), GOALS, phase="before")
        assert [a.messages for a in attempts[:3]] == [a.messages for a in attempts[3:]]

    def test_without_a_search_before_it_is_refused_at_once(self, tmp_path: Path) -> None:
        target = Scripted()
        with pytest.raises(UserError, match="attack best_of_n@before: no prompts of best_of_n here"):
            run_attacks(target, resolve_attacks("direct,best_of_n@before"), GOALS, phase="after", path=tmp_path / "a")
        assert target.calls == []

    def test_a_goal_without_a_prompt_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts.jsonl"
        self.before(path)
        goals = [*GOALS, replace(GOALS[0], id="new")]
        attempts = run_attacks(Scripted(), resolve_attacks("best_of_n@before"), goals, phase="after", path=path)
        assert [a.error is None for a in attempts] == [True, True, True, False]
        assert attempts[3].error == "best_of_n found no prompt for this goal in phase before"


class Fragile(AdaptiveAttack):
    """Breaks down on one goal in its second round."""

    name, source, description = "fragile", "test", "fails"

    def search(self, state: GoalSearch) -> Steps[None]:
        yield from state.start(user_turn(state.text))
        if "cinema" in state.text:
            raise ZeroDivisionError("oh")
        yield from state.try_all([user_turn(state.text + " please")])


def test_failed_search_is_an_error_and_never_safe(tmp_path: Path) -> None:
    attempts = run_attacks(Scripted(), [Fragile()], GOALS, phase="before", path=tmp_path / "a.jsonl")
    assert [a.error for a in attempts] == [None, "the search failed: ZeroDivisionError: oh", None]
    assert [a.queries for a in attempts] == [2, 1, 2]
    labels = [v.label for v in judge_attempts(attempts, load_judge("refusal"))]
    assert labels == ["full_refusal", "unscored", "full_refusal"]
    stored = {a.id: a for a in read_jsonl(tmp_path / "a.jsonl", Attempt)}  # in the order in which goals were done
    assert stored == {a.id: a for a in attempts}


def test_exception_of_the_engine_stops_the_run() -> None:
    class Gone(Scripted):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_attacks(Gone(), [Fragile()], GOALS, phase="before")


def test_steps_and_seconds_end_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = BestOfN(BestOfNConfig(max_steps=2, per_round=3)).run(Scripted(), GOALS[:1], PARAMS, 0)
    assert (result.queries, result.search["steps"]) == (7, 2)
    ticks = iter(range(0, 10**6, 2))
    monkeypatch.setattr("sirl.attacks.adaptive.base.clock", lambda: float(next(ticks)))
    (result,) = BestOfN(BestOfNConfig(max_seconds=5.0, per_round=1)).run(Scripted(), GOALS[:1], PARAMS, 0)
    assert (result.queries, result.search["seconds"]) == (3, 6.0)
    with pytest.raises(UserError, match="must be above 0"):
        SearchConfig(max_queries=0)


def test_two_searches_that_ask_the_same_share_the_answer_and_one_gets_two() -> None:
    class Numbered(Scripted):
        def _one(self, conversation: Any) -> Any:
            return replace(super()._one(conversation), text=f"answer {self.answered}")

    target = Numbered()
    states = [GoalSearch(goal, goal_rng(0, "a", goal.id), PARAMS, SearchConfig(), Models(target)) for goal in GOALS[:2]]
    same, other = user_turn("same"), user_turn("other")
    asks = [Ask([same, other, same], 4, 1.0), Ask([same, same], 4, 1.0)]
    found = perform(list(zip(states, asks, strict=True)), Models(target), 1)
    texts = [[c.text for c in row] for row in found]
    assert len(target.calls[0][0]) == 3
    assert texts[0][0] == texts[1][0]
    assert texts[0][2] == texts[1][1] != texts[0][0]


def test_random_search_at_the_same_prompt_reports_the_same_figures_twice() -> None:
    attack = RandomSearch(RandomSearchConfig(max_queries=30, suffix_pieces=4))
    runs = [[without_time(r) for r in attack.run(engine(), GOALS, PARAMS, 0)] for _ in range(2)]
    assert runs[0] == runs[1]


def test_files_without_the_new_fields_still_load(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    run_attacks(Scripted(), resolve_attacks("direct"), GOALS, phase="before", path=path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        assert row.pop("queries") is None
        assert row.pop("search") is None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [a.queries for a in read_jsonl(path, Attempt)] == [None] * 3


def test_second_model_is_shared_by_all_attacks_and_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sirl.attacks.attacker import check_attacker, with_attacker

    loaded: list[tuple[str, str]] = []
    writer = Scripted()

    def load(name: str, *, engine: str) -> Scripted:
        loaded.append((name, engine))
        return writer

    monkeypatch.setattr("sirl.generation.load_engine", load)
    attacks = resolve_attacks("direct,pair,tap")
    assert with_attacker(attacks, None, "local") == attacks
    configured = with_attacker(attacks, "big", "vllm")
    assert [getattr(a, "attacker", None) for a in configured] == [None, writer, writer]
    assert loaded == [("big", "vllm")]
    check_attacker(attacks, "big", "vllm", "--m", "--e")
    with pytest.raises(UserError, match="--m big: none of the chosen attacks"):
        check_attacker(attacks[:1], "big", "local", "--m", "--e")


@pytest.mark.usefixtures("never_broken")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_all_of_them_on_a_real_model(family: str, tokenizer: Any) -> None:
    """The target is its own attacker, samples included; goals alone or together, the search is the same."""
    model = LocalEngine(tiny_model(family), tokenizer)
    attacks = resolve_attacks("adaptive", options=AttackOptions(budget=14))

    def run(goals: Any, decodings: Any = ("greedy",)) -> dict[str, Attempt]:
        attempts = run_attacks(model, attacks, goals, phase="before", max_new_tokens=8, decodings=decodings)
        return {a.id: a for a in attempts}

    together = run(GOALS[:2], ("greedy", "sample"))
    assert len(together) == len(attacks) * 2 * 2
    for attempt in together.values():
        assert attempt.error is None, attempt.id
        facts = attempt.search
        assert facts is not None
        assert attempt.queries is not None
        assert attempt.queries <= 14 + (attempt.decoding == "sample")
        assert facts["flops"] == 2 * model.parameters * facts["tokens"] > 0
        assert len(attempt.entropies) == len(attempt.tokens) > 0
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    alone = run(GOALS[1:2])
    for key, attempt in alone.items():
        assert (attempt.messages, attempt.tokens) == (together[key].messages, together[key].tokens), key
