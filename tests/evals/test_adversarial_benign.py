"""Which attacks wrap benign requests, and which requests are wrapped."""

from __future__ import annotations

from collections import Counter

import pytest

from sirl.attacks import ATTACKS, load_attack
from sirl.errors import UserError
from sirl.evals.adversarial_benign import draw_evenly, prompts_each, resolve_wrappings
from sirl.records import Prompt


def test_a_group_stands_for_all_that_wrap() -> None:
    static = [name for name in ATTACKS if load_attack(name).kind == "static"]
    assert [attack.name for attack in resolve_wrappings("static")] == [name for name in static if name != "direct"]


@pytest.mark.parametrize("spec", ["aim, base64", ("aim", "base64"), ["aim", " ", "base64", "aim"]])
def test_names(spec: str | tuple[str, ...]) -> None:
    assert [attack.name for attack in resolve_wrappings(spec)] == ["aim", "base64"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "name at least one static attack"),
        ((), "name at least one static attack"),
        (" , ", "name at least one static attack"),
        ("direct", "direct has no wrapping"),
        ("gcg", "only static attacks .* leave out gcg$"),
        ("aim,pair,tap", "only static attacks .* leave out pair, tap$"),
        ("all", r"only static attacks .* \.\.\.$"),
        ("gcg@before", "only static attacks .* leave out gcg@before"),
        ("telepathy", "unknown attack 'telepathy'"),
        ("templates", "means the attacks of a template file; none was given"),
    ],
)
def test_what_cannot_wrap(spec: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"^evals\\.wrappings: .*{message}") as caught:
        resolve_wrappings(spec)
    assert "\n" not in str(caught.value)


def prompts(**categories: int) -> list[Prompt]:
    return [Prompt(f"{name}-{i}", f"{name} {i}?", name) for name, n in categories.items() for i in range(n)]


@pytest.mark.parametrize(("limit", "wrappings", "each"), [(None, 7, 29), (None, 48, 5), (None, 1, 200), (3, 7, 3)])
def test_as_many_as_make_two_hundred(limit: int | None, wrappings: int, each: int) -> None:
    assert prompts_each(limit, wrappings) == each


def test_drawn_evenly_in_their_order() -> None:
    asked = prompts(plain=60, sounds_harmful=20)
    drawn = draw_evenly(asked, 10, seed=0)
    assert Counter(p.category for p in drawn) == {"plain": 5, "sounds_harmful": 5}
    assert drawn == [p for p in asked if p in drawn]
    assert draw_evenly(asked, 10, seed=0) == drawn
    assert draw_evenly(asked, 10, seed=1) != drawn


def test_a_small_category_is_taken_whole_and_the_others_fill_up() -> None:
    drawn = draw_evenly(prompts(plain=9, rare=1, sounds_harmful=9), 8, seed=3)
    counts = Counter(p.category for p in drawn)
    assert counts["rare"] == 1
    assert {counts["plain"], counts["sounds_harmful"]} == {3, 4}


def test_fewer_than_wanted_are_all_taken() -> None:
    asked = prompts(plain=2, other=1)
    assert draw_evenly(asked, 5, seed=0) == asked


def test_more_categories_than_wanted_are_drawn_from_too() -> None:
    asked = prompts(a=2, b=2, c=2, d=2)
    taken = {p.category for seed in range(30) for p in draw_evenly(asked, 1, seed)}
    assert taken == {"a", "b", "c", "d"}
