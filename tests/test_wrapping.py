"""Training wrappings: readable, disjoint from the attacks, and the same forms again under a seed."""

from __future__ import annotations

import re

import pytest

from sirl.attacks import ATTACKS, load_attack
from sirl.attacks.base import StaticAttack, goal_rng
from sirl.attacks.families import FAMILIES, family_of
from sirl.errors import UserError
from sirl.prompts import load_prompts
from sirl.records import Prompt
from sirl.wrapping import PLACEHOLDER, resolve_families, wrapped_forms, wrapping_families

GOAL = Prompt("goal", "zyxgoal")


def _windows(text: str, size: int = 6) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_there_are_enough_families_and_every_template_has_a_place_for_the_request() -> None:
    families = wrapping_families()
    assert len(families) >= 20
    for family in families.values():
        assert len(family.templates) >= 3, family.name
        for template in family.templates:
            assert any(PLACEHOLDER in turn["content"] for turn in template), family.name
            roles = [turn["role"] for turn in template]
            assert roles == (["user", "assistant"] * len(roles))[: len(roles)], family.name


def test_every_attack_has_a_family_and_none_is_a_training_family_but_where_that_is_said() -> None:
    assert set(FAMILIES) == set(ATTACKS)
    also = {name for family in wrapping_families().values() for name in family.also}
    assert also <= set(ATTACKS)
    shared = {family_of(name) for name in ATTACKS} & set(wrapping_families())
    assert shared == {"begun_answer", "slow_approach"}
    assert {name for name in ATTACKS if family_of(name) in shared} == also


def test_no_template_shares_words_with_an_attack() -> None:
    ours = {
        window: family.name
        for family in wrapping_families().values()
        for template in family.templates
        for turn in template
        for window in _windows(turn["content"].replace(PLACEHOLDER, " "))
    }
    for name in ATTACKS:
        attack = load_attack(name)
        if not isinstance(attack, StaticAttack):
            continue
        for turn in attack.build(GOAL, goal_rng(0, name, GOAL.id)):
            both = _windows(turn["content"].replace(GOAL.text, " ")) & set(ours)
            assert not both, (name, {ours[window] for window in both}, both)


def test_forms_are_the_same_again_keep_the_bare_request_and_depend_on_no_other_prompt() -> None:
    prompts = load_prompts("demo/retention")
    families = resolve_families("all")
    forms = wrapped_forms(prompts, families, 3, seed=4)
    assert forms == wrapped_forms(prompts, families, 3, seed=4)
    assert forms != wrapped_forms(prompts, families, 3, seed=5)
    assert forms[:3] == wrapped_forms(prompts[:1], families, 3, seed=4)
    singles = [p for p in prompts if not p.messages]
    assert len(forms) == 3 * len(singles)  # a conversation has no one place for the request
    for form in forms:
        assert form.clean == ({"role": "user", "content": form.text},)
        assert any(form.text in turn["content"] for turn in form.messages)
    assert len({form.id for form in forms}) == len(forms)


def test_families_are_named_left_out_and_refused_by_name() -> None:
    everything = [f.name for f in resolve_families("all")]
    assert [f.name for f in resolve_families("exam, letter_box".replace("letter_box", "debate"))] == ["exam", "debate"]
    assert [f.name for f in resolve_families("all,-exam")] == [name for name in everything if name != "exam"]
    assert [f.name for f in resolve_families("-exam")] == [name for name in everything if name != "exam"]
    with pytest.raises(UserError, match="--wrapping_families: 'examm' is unknown"):
        resolve_families("examm")
    with pytest.raises(UserError, match="selects no family"):
        resolve_families("exam,-exam")
