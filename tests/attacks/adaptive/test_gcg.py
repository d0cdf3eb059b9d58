"""GCG on tiny real models: candidates, the filter by re-tokenisation, a loss that falls, budgets, neighbours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from adaptive_models import GOALS, PARAMS, Scripted, ScriptedScoring

from sirl.attacks.adaptive.gcg import GCG, GCGConfig, best_tokens, draw_candidates, place_suffix, readable
from sirl.attacks.run import run_attacks
from sirl.chat.encoding import encode_chat
from sirl.errors import UserError
from sirl.generation.local import LocalEngine
from sirl.records import Attempt, read_jsonl, user_turn
from tiny_models import reference_scores, tiny_model

SMALL = GCGConfig(max_queries=60, suffix_tokens=6, width=8, top_k=16)


def test_best_tokens_are_those_that_lower_the_loss() -> None:
    gradient = torch.tensor([[3.0, -1.0, -9.0, -2.0], [-1.0, 2.0, -9.0, 0.0]])
    assert best_tokens(gradient, torch.tensor([0, 1, 3]), 2) == [[3, 1], [0, 3]]
    assert best_tokens(gradient, torch.tensor([1]), 5) == [[1], [1]]


def test_candidates_differ_in_one_place() -> None:
    ids, choices = (1, 2, 3, 4), [[9], [8, 7], [3], [6]]
    found = draw_candidates(ids, choices, 200, random.Random(0))
    assert set(found) == {(9, 2, 3, 4), (1, 8, 3, 4), (1, 7, 3, 4), (1, 2, 3, 6)}
    assert len(found) == 4  # each once, and never what there was


def test_suffix_is_found_in_the_prompt(tokenizer: Any) -> None:
    suffix = place_suffix(tokenizer, GOALS[0].text, " !" * 5)
    assert list(suffix.prompt) == encode_chat(tokenizer, user_turn(GOALS[0].text + " !" * 5))
    assert tokenizer.decode(suffix.prompt[slice(*suffix.span)]) == " !" * 5
    assert len(suffix.after) > 0


def test_filter_keeps_what_is_read_as_it_was_scored(tokenizer: Any) -> None:
    goal = GOALS[0].text
    suffix = place_suffix(tokenizer, goal, " !" * 4)
    space, t, h, e = (tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in (" ", "t", "h", "e"))
    joined = (suffix.ids[0], space, t, h, e)  # " the" is read as another token
    loose = (suffix.ids[0], e, suffix.ids[1], h)
    kept = readable(tokenizer, goal, suffix, [joined, loose, loose], 1)
    assert [k.ids for k in kept] == [loose]
    assert encode_chat(tokenizer, user_turn(goal + kept[0].text)) == list(kept[0].prompt)
    assert readable(tokenizer, goal, suffix, [joined], 5) == []


@pytest.mark.usefixtures("never_broken")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_loss_falls_and_is_that_of_the_prompt_that_is_sent(family: str, tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model(family), tokenizer)
    target = tokenizer(SMALL.target, add_special_tokens=False)["input_ids"]
    for result in GCG(SMALL).run(engine, GOALS[:2], PARAMS, 0):
        facts = result.search
        _, logprobs = reference_scores(engine.model, encode_chat(tokenizer, result.messages), target)
        assert float(logprobs.mean()) == pytest.approx(facts["best_score"], abs=2e-3)
        assert facts["best_score"] > facts["start_score"] + 0.3
        assert facts["steps"] > 3


@pytest.mark.usefixtures("never_broken")
def test_gradient_beats_chance(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)

    def gain() -> float:
        return sum(r.search["best_score"] - r.search["start_score"] for r in GCG(SMALL).run(engine, GOALS, PARAMS, 0))

    guided = gain()
    monkeypatch.setattr(engine, "one_hot_gradients", lambda p, s, t: [-g for g in _true_gradients(engine, p, s, t)])
    assert guided > gain() + 0.2  # the tokens that would raise the loss most


def _true_gradients(engine: LocalEngine, *arguments: Any) -> list[torch.Tensor]:
    return LocalEngine.one_hot_gradients(engine, *arguments)


@pytest.mark.usefixtures("never_broken")
def test_budget_is_kept_and_neighbours_change_nothing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny_model("qwen2"), tokenizer)
    calls = {"generate": 0, "token_logprobs": 0, "one_hot_gradients": 0}

    def counted(name: str) -> Any:
        inner = getattr(engine, name)

        def call(items: Any, *rest: Any) -> Any:
            calls[name] += len(items)
            return inner(items, *rest)

        return call

    for name in calls:
        monkeypatch.setattr(engine, name, counted(name))
    many = {r.goal_id: r for r in GCG(SMALL).run(engine, GOALS, PARAMS, 1)}
    assert sum(r.queries for r in many.values()) == sum(calls.values())
    assert all(40 < r.queries <= SMALL.max_queries for r in many.values())
    (alone,) = GCG(SMALL).run(engine, GOALS[1:2], PARAMS, 1)
    assert (alone.messages, alone.queries) == (many["snacks"].messages, many["snacks"].queries)
    other = {r.goal_id: r.messages for r in GCG(SMALL).run(engine, GOALS, PARAMS, 2)}
    assert other != {k: r.messages for k, r in many.items()}


@pytest.mark.usefixtures("never_broken")
def test_goes_on_after_an_interruption_with_the_same_prompts(tokenizer: Any, tmp_path: Path) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    config = GCGConfig(max_queries=24, suffix_tokens=4, width=6, top_k=8, goals_at_once=1)
    path = tmp_path / "attempts.jsonl"

    def attempts(**more: Any) -> list[Attempt]:
        return run_attacks(engine, [GCG(config)], GOALS, phase="before", max_new_tokens=8, path=path, **more)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempts(progress=stop)
    kept = path.read_text()
    assert len(read_jsonl(path, Attempt)) == 2
    resumed = attempts()
    assert path.read_text().startswith(kept)
    whole = run_attacks(engine, [GCG(config)], GOALS, phase="before", max_new_tokens=8)
    assert [(a.id, a.messages, a.response, a.queries) for a in resumed] == [
        (a.id, a.messages, a.response, a.queries) for a in whole
    ]


def test_engines_without_gradients_are_refused_before_any_work(tmp_path: Path) -> None:
    from sirl.attacks import resolve_attacks

    for engine in (Scripted(), ScriptedScoring(lambda *_: 0.0)):
        with pytest.raises(UserError, match=r"attack gcg needs a model in this process \(--engine local\)"):
            run_attacks(engine, resolve_attacks("direct,gcg"), GOALS, phase="before", path=tmp_path / "a.jsonl")
        assert engine.calls == []
    assert not (tmp_path / "a.jsonl").exists()


def test_goal_whose_search_fails_is_an_error_and_the_others_go_on(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sirl.attacks.adaptive.gcg as module

    real = module.place_suffix

    def fail(tokenizer: Any, goal: str, text: str) -> Any:
        if "cinema" in goal:
            raise RuntimeError("no place for it")
        return real(tokenizer, goal, text)

    monkeypatch.setattr(module, "place_suffix", fail)
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    attempts = run_attacks(engine, [GCG(SMALL)], GOALS, phase="before", max_new_tokens=4)
    assert [a.error for a in attempts] == [None, "the search failed: RuntimeError: no place for it", None]
    assert attempts[1].finish_reason == "error"
