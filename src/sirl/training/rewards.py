"""Rewards of a completion, from what its own policy thought while writing it.

All are TRL reward functions: they get per-completion lists by keyword and return one float each, or None where there is
nothing to score, which TRL leaves out of the group's baseline. A completion that says nothing has nothing to score: its
end-of-turn token alone can be as sure as anything, and would be the best there is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sirl.errors import UserError
from sirl.training.config import REWARDS

RewardFunction = Callable[..., list[float | None]]


def entropy_reward(mean_entropy: Sequence[float | None], **_: Any) -> list[float | None]:
    """`r = -mean_t H_t` in nats: SIRL's reward (arXiv 2510.01088)."""
    return [None if h is None else -_finite(h) for h in mean_entropy]


def first_k_reward(first_entropy: Sequence[float | None], **_: Any) -> list[float | None]:
    """`r = -mean_t H_t` over the first `--reward_tokens` tokens, where it is decided whether to refuse."""
    return entropy_reward(first_entropy)


def neg_entropy_reward(mean_entropy: Sequence[float | None], **_: Any) -> list[float | None]:
    """`r = +mean_t H_t`: the paper's reversed control."""
    return [None if h is None else _finite(h) for h in mean_entropy]


def neg_perplexity_reward(mean_logprob: Sequence[float | None], **_: Any) -> list[float | None]:
    """`r = -exp(-mean_t log p(y_t))`: minus the perplexity of the sampled tokens under the policy that drew them."""
    return [None if lp is None else -math.exp(-_finite(lp)) for lp in mean_logprob]


def random_reward(reward_seed: Sequence[int | None], **_: Any) -> list[float | None]:
    """Uniform noise in [0, 1), the same for the same run, step and position."""
    return [None if seed is None else random.Random(seed).random() for seed in reward_seed]


_FUNCTIONS: dict[str, RewardFunction] = {
    "entropy": entropy_reward,
    "first_k": first_k_reward,
    "neg_entropy": neg_entropy_reward,
    "neg_perplexity": neg_perplexity_reward,
    "random": random_reward,
}


@dataclass(frozen=True)
class Floored:
    """A reward of minus an entropy, the same for all responses below `floor` nats.

    The plain reward goes on preferring the surest of several refusals, until one sentence is left of them (the collapse
    that the paper shows). With a floor, responses that are sure enough are all as good; only those that are not lose.
    """

    reward: RewardFunction
    floor: float

    @property
    def __name__(self) -> str:  # TRL logs a reward by its function's name
        return str(self.reward.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
        return [None if r is None else min(r, -self.floor) for r in self.reward(*args, **kwargs)]


def reward_function(name: str, floor: float = 0.0) -> RewardFunction:
    """The reward of that name; `floor` (nats) is for those in `FLOORED`."""
    if name not in _FUNCTIONS:
        raise UserError(f"--reward {name}: unknown; choose from {', '.join(REWARDS)}")
    return Floored(_FUNCTIONS[name], floor) if floor else _FUNCTIONS[name]


def _finite(value: float) -> float:
    # TRL turns a NaN reward into advantage 0 without a word; a NaN here is a broken model and must be seen.
    if not math.isfinite(value):
        raise FloatingPointError("the policy's entropy is not finite: its logits hold NaN or only -inf")
    return value
