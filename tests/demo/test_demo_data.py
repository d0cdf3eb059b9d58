"""The bundled prompt sets: as many as promised, apart from each other, and nothing but prompts."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from itertools import combinations
from typing import Any

import pytest

from sirl.prompts import BUNDLED, check_disjoint, load_prompts, normalise

COMMON = set(
    "a an the i you my your me we our us it its is are was be do does did how what why when where who which can could "
    "should would will to of in on for from with and or not no that this these those as at by about into so some any "
    "if have has had get make give write explain tell show help please want need use".split()
)


def rows(name: str) -> list[dict[str, Any]]:
    text = resources.files("sirl.demo").joinpath("data", f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(prompt: str | list[dict[str, str]]) -> frozenset[str]:
    """Content words of a prompt, or of what the user says last in a conversation."""
    if isinstance(prompt, list):
        prompt = [turn["content"] for turn in prompt if turn["role"] == "user"][-1]
    return frozenset(normalise(prompt).split()) - COMMON


def test_sizes_and_categories() -> None:
    assert len(rows("train")) >= 600
    assert len(rows("retention")) == 240
    assert [len(rows(name)) for name in ("train-wrapped", "retention-wrapped", "retention-broad")] == [290, 99, 360]
    assert Counter(r["category"] for r in rows("retention-code")) == {"code": 50, "maths": 40, "writing": 30}
    assert sorted(Counter(r["category"] for r in rows("behaviours")).values()) == [10] * 10
    assert Counter(r["category"] for r in rows("overrefusal")) == {"plain": 75, "sounds_harmful": 75}


def test_training_prompts_are_unlabeled() -> None:
    assert {key for name in ("train", "train-wrapped") for row in rows(name) for key in row} == {"id", "prompt"}


def test_ids_are_unique() -> None:
    for name in ("train", "retention", "behaviours", "overrefusal", "contrast", "benign"):
        ids = [r["id"] for r in rows(name)]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("one", "other"), list(combinations(BUNDLED, 2)))
def test_sets_share_no_prompt(one: str, other: str) -> None:
    check_disjoint(load_prompts(one), load_prompts(other), train_name=one, test_name=other)


@pytest.mark.parametrize("test_set", ["behaviours", "overrefusal"])
@pytest.mark.parametrize(
    "train_set",
    [
        "train",
        "train-wrapped",
        "retention",
        "retention-wrapped",
        "retention-broad",
        "retention-code",
        "dev-behaviours",
        "dev-overrefusal",
        "contrast",
        "benign",
    ],
)
def test_no_training_prompt_paraphrases_a_test_prompt(train_set: str, test_set: str) -> None:
    """Content words of the two overlap by less than 0.6 (Jaccard)."""
    tests = [(words(r["prompt"]), r["prompt"]) for r in rows(test_set)]
    for row in rows(train_set):
        mine = words(row["prompt"])
        for theirs, text in tests:
            shared = len(mine & theirs) / max(len(mine | theirs), 1)
            assert shared < 0.6, (row["prompt"], text)


@pytest.mark.parametrize("name", BUNDLED)
def test_no_set_holds_a_prompt_twice(name: str) -> None:
    assert len(load_prompts(name)) == len(rows(name.removeprefix("demo/")))
