"""Rewards, with their arithmetic."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from sirl.errors import UserError
from sirl.training.config import REWARDS
from sirl.training.rewards import (
    _FUNCTIONS,
    entropy_reward,
    first_k_reward,
    neg_entropy_reward,
    neg_perplexity_reward,
    random_reward,
    reward_function,
)

ROWS: dict[str, Any] = {
    "prompts": ["p"] * 3,
    "completions": ["a", "b", "c"],
    "completion_ids": [[1], [2, 3], []],
    "mean_entropy": [0.5, 2.0, None],
    "first_entropy": [0.25, 3.0, None],
    "mean_logprob": [-math.log(4), -math.log(2), None],
    "reward_seed": [10, 11, None],
    "trainer_state": object(),
    "log_metric": print,
    "label": ["safe", "unsafe", "safe"],
}
"""What TRL hands to a reward function, and a label column that must make no difference."""


def test_entropy() -> None:
    assert entropy_reward(**ROWS) == [-0.5, -2.0, None]


def test_first_k() -> None:
    assert first_k_reward(**ROWS) == [-0.25, -3.0, None]


def test_neg_entropy() -> None:
    assert neg_entropy_reward(**ROWS) == [0.5, 2.0, None]


def test_neg_perplexity() -> None:
    # mean log p = -log 4, so the perplexity is exp(log 4) = 4
    assert neg_perplexity_reward(**ROWS) == [pytest.approx(-4), pytest.approx(-2), None]


def test_random() -> None:
    first = random_reward(**ROWS)
    assert len(first) == 3
    assert all(r is not None and 0 <= r < 1 for r in first[:2])
    assert first[0] != first[1]
    assert first[2] is None, "nothing was said"
    assert random_reward(**ROWS) == first
    assert random_reward(**{**ROWS, "reward_seed": [10, 99, None]})[::2] == first[::2]
    assert random_reward(**{**ROWS, "mean_entropy": [9.0, 9.0, 9.0]}) == first, "nothing of the response counts"


def test_random_is_uniform() -> None:
    drawn = random_reward(reward_seed=range(4000))
    mean = sum(r for r in drawn if r is not None) / len(drawn)
    assert abs(mean - 0.5) < 5 * math.sqrt(1 / 12 / len(drawn))


def test_below_the_floor_all_are_alike() -> None:
    rows = {**ROWS, "mean_entropy": [0.1, 0.5, 0.9, 2.0, None]}
    assert reward_function("entropy", 0.9)(**rows) == [-0.9, -0.9, -0.9, -2.0, None]
    assert reward_function("first_k", 0.3)(**ROWS) == [-0.3, -3.0, None]
    assert reward_function("entropy", 0.9).__name__ == "entropy_reward"


@pytest.mark.parametrize(("name", "floor"), [*((name, 0.0) for name in REWARDS), ("entropy", 0.9)])
def test_contract(name: str, floor: float) -> None:
    reward = reward_function(name, floor)
    got = reward(**ROWS)
    assert isinstance(got, list)
    assert len(got) == 3
    assert all(r is None or isinstance(r, float) for r in got)
    assert reward(**{**ROWS, "label": ["x"] * 3, "judge": [1, 2, 3]}) == got
    assert pickle.loads(pickle.dumps(reward))(**ROWS) == got
    assert reward(**{k: [] if isinstance(v, list) else v for k, v in ROWS.items()}) == []


@pytest.mark.parametrize("name", ["entropy", "first_k", "neg_entropy", "neg_perplexity"])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_model_is_seen(name: str, broken: float) -> None:
    """TRL would turn NaN into advantage 0 without a word."""
    columns = ("mean_entropy", "first_entropy", "mean_logprob")
    rows = {**ROWS, **{column: [0.5, broken, None] for column in columns}}
    with pytest.raises(FloatingPointError, match="not finite"):
        reward_function(name)(**rows)


def test_a_response_without_tokens_is_never_the_best() -> None:
    rows = {**ROWS, "mean_entropy": [None] * 3, "first_entropy": [None] * 3, "mean_logprob": [None] * 3}
    for name in ("entropy", "first_k", "neg_entropy", "neg_perplexity"):
        assert reward_function(name)(**rows) == [None] * 3


def test_names() -> None:
    assert set(REWARDS) == set(_FUNCTIONS)
    assert next(iter(REWARDS)) == "entropy"
    with pytest.raises(UserError, match="--reward refusals: unknown; choose from entropy, first_k, neg_entropy"):
        reward_function("refusals")
