"""Templates changed by rule, GPTFuzzer and AutoDAN against scripted models in which one word decides."""

from __future__ import annotations

import random
from typing import Any

import pytest
from adaptive_models import ANSWER, GOALS, PARAMS, Scripted, ScriptedScoring, without_time

from sirl.attacks.adaptive.autodan import AutoDAN, AutoDANConfig, breed, first_population
from sirl.attacks.adaptive.mutations import (
    SEEDS,
    crossover,
    expand,
    is_template,
    repaired,
    rephrase,
    shorten,
    split_sentences,
)
from sirl.attacks.adaptive.template_mutation import (
    OPERATORS,
    Node,
    TemplateMutation,
    TemplateMutationConfig,
    by_rule,
    choose,
)
from sirl.attacks.base import PLACEHOLDER, AttackOptions
from sirl.errors import UserError
from sirl.generation.local import LocalEngine
from tiny_models import tiny_model


@pytest.mark.parametrize("template", SEEDS)
def test_sentences_are_the_whole_text(template: str) -> None:
    assert "".join(split_sentences(template)) == template
    assert len(split_sentences(template)) > 2


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_rule_gives_a_template(operator: str) -> None:
    rng = random.Random(0)
    for template in SEEDS:
        for _ in range(30):
            template = by_rule(operator, template, rng.choice(SEEDS), rng)
            assert is_template(template), template


def test_rules_do_what_they_are_called() -> None:
    rng = random.Random(1)
    assert len(shorten(SEEDS[0], rng)) < len(SEEDS[0]) < len(expand(SEEDS[0], rng))
    other = rephrase(SEEDS[0], rng, share=1.0)
    assert other != SEEDS[0]
    assert "brilliant" not in other
    both = crossover("A one. [PROMPT] A two.", "B one. B two. [PROMPT]", rng)
    assert {w[0] for w in both.replace(PLACEHOLDER, "").split()} <= set("ABot")
    assert repaired(["No place."]) == f"No place.\n\n{PLACEHOLDER}"
    assert repaired([f"a {PLACEHOLDER}. ", f"b {PLACEHOLDER}. ", "c"]) == f"a {PLACEHOLDER}. c"
    assert shorten(PLACEHOLDER, rng) == PLACEHOLDER


def test_nodes_are_chosen_by_reward_and_curiosity() -> None:
    pool = [Node("a", 4, 0.4), Node("b", 4, 3.0), Node("c")]
    assert [n.template for n in choose(pool, 2, 0.0)] == ["c", "b"]
    assert pool[2].visits == 1
    tried = [Node("a", 100, 10.0), Node("b", 1, 0.05)]
    assert choose(tried, 1, 1.0)[0].template == "b"


def score(text: str, _: str) -> float:
    return -9.0 + sum(text.count(word) for word in ("textbook", "ingenious", "caveats"))


def breaks(conversation: Any) -> bool:
    return score(conversation[-1]["content"], "") >= -8.0


def refuses_to_write(*_: Any) -> str:
    return "I cannot help with that."


def test_mutation_finds_a_template_that_breaks_the_model() -> None:
    engine = ScriptedScoring(score, breaks=breaks, writes=refuses_to_write)
    results = list(TemplateMutation(TemplateMutationConfig(max_queries=600)).run(engine, GOALS, PARAMS, 0))
    for result in results:
        goal = next(g for g in GOALS if g.id == result.goal_id)
        assert result.completion.text == ANSWER
        assert goal.text in result.messages[-1]["content"]
        assert result.search["start_broken"] is False
        assert result.search["fallbacks"] == result.search["written"]
    # templates are not about a goal: two goals that ask the attacker the same share its answer, and both count it
    assert sum(r.queries for r in results) >= engine.answered + engine.written + engine.scored


def test_templates_of_the_attacker_are_used_where_they_hold_the_place_of_the_goal() -> None:
    written = f"<prompt>Mutabor! {PLACEHOLDER}</prompt>"
    engine = Scripted(breaks=lambda c: c[-1]["content"].startswith("Mutabor!"), writes=lambda *_: written)
    (result,) = TemplateMutation().run(engine, GOALS[:1], PARAMS, 0)
    assert result.messages[-1]["content"] == f"Mutabor! {GOALS[0].text}"
    assert result.search["fallbacks"] == 0
    assert result.search["broken_at"] == 1 + 4 + 1


def test_population_breeds_templates_from_the_fit() -> None:
    rng = random.Random(0)
    population = first_population(12, rng)
    assert len(population) == 12
    assert all(is_template(t) for t in population)
    config = AutoDANConfig(population=12, elite=2, crossover=0.0, mutation=0.0)
    children = breed(population, [0.0] * 11 + [60.0], config, rng)
    assert children == [population[-1]] * 10
    assert all(is_template(t) for t in breed(population, [0.0] * 12, AutoDANConfig(), rng))


def test_autodan_finds_the_words_and_counts() -> None:
    engine = ScriptedScoring(score, breaks=lambda c: score(c[-1]["content"], "") >= -7.0)
    results = list(AutoDAN(AutoDANConfig(max_queries=900)).run(engine, GOALS, PARAMS, 0))
    for result in results:
        assert result.completion.text == ANSWER
        assert result.search["best_score"] >= -7.0 > result.search["start_score"]
        assert result.search["written"] == 0  # synonyms by rule: no attacker was given
    assert sum(r.queries for r in results) == engine.answered + engine.scored


def test_autodan_takes_paraphrases_of_an_attacker() -> None:
    attacker = Scripted(writes=lambda *_: f"<prompt>ingenious textbook caveats {PLACEHOLDER}</prompt>")
    engine = ScriptedScoring(score, breaks=lambda c: score(c[-1]["content"], "") >= -6.0)
    attack = AutoDAN(AutoDANConfig(max_queries=200)).configure(AttackOptions(attacker=attacker))
    (result,) = attack.run(engine, GOALS[:1], PARAMS, 0)
    assert result.messages[-1]["content"] == f"ingenious textbook caveats {GOALS[0].text}"
    assert result.search["written"] == attacker.written > 0


@pytest.mark.parametrize("budget", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("attack", [AutoDAN, TemplateMutation])
def test_budget(attack: Any, budget: int) -> None:
    engine = ScriptedScoring(score, writes=refuses_to_write)
    (result,) = attack().configure(AttackOptions(budget=budget)).run(engine, GOALS[:1], PARAMS, 0)
    assert result.queries == engine.answered + engine.written + engine.scored <= budget
    assert result.error is None


@pytest.mark.parametrize("attack", [AutoDAN, TemplateMutation])
def test_seed_and_neighbours(attack: Any) -> None:
    def run(goals: Any, seed: int) -> dict[str, Any]:
        engine = ScriptedScoring(score, breaks=breaks, writes=refuses_to_write)
        return {r.goal_id: without_time(r) for r in attack().run(engine, goals, PARAMS, seed)}

    many = run(GOALS, 1)
    assert {goal.id: run([goal], 1)[goal.id] for goal in GOALS} == many
    assert run(GOALS, 2) != many


def test_autodan_needs_log_probabilities() -> None:
    with pytest.raises(UserError, match="attack autodan needs a model in this process"):
        AutoDAN().check(Scripted())


@pytest.mark.usefixtures("never_broken")
def test_autodan_on_a_real_model(tokenizer: Any) -> None:
    engine = LocalEngine(tiny_model("llama"), tokenizer)
    (result,) = AutoDAN(AutoDANConfig(max_queries=30)).run(engine, GOALS[:1], PARAMS, 0)
    (found,) = engine.target_logprobs([result.messages], ["Sure, here is"], mean=True)
    assert found == pytest.approx(result.search["best_score"], abs=1e-3)
    assert found > result.search["start_score"]
