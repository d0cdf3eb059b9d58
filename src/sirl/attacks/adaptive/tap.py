"""TAP: a tree of refined prompts, pruned twice.

Mehrotra, Zampetakis, Kassianik, Nelson, Anderson, Singer & Karbasi 2023, "Tree of Attacks: Jailbreaking Black-Box LLMs
Automatically", arXiv 2312.02119: each leaf is refined in several ways; what has left the subject is pruned before the
target is asked, and of what was answered the best `width` leaves stay.

Differences: whether a prompt has left the subject is told by the goal's words in it, not by a model; points come from
the refusal judge, and the probability of an affirmative answer orders the leaves where the engine gives it (else
chance does). A tree of which nothing is left starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sirl.attacks.adaptive.attacker_prompts import (
    by_rule,
    first_request,
    keeps_goal,
    next_request,
    parse_prompt,
    try_prompts,
)
from sirl.attacks.adaptive.base import AdaptiveAttack
from sirl.attacks.adaptive.pair import HINTS
from sirl.attacks.adaptive.search import GoalSearch, SearchConfig, Steps, Trial
from sirl.generation.base import Engine
from sirl.records import Conversation, user_turn


@dataclass(frozen=True)
class TAPConfig(SearchConfig):
    """Each of `width` leaves is refined `branching` times a level. The paper takes 10 leaves, 4 ways, 10 levels."""

    max_queries: int = 40
    width: int = 3
    branching: int = 2
    attacker_tokens: int = 96


class TAP(AdaptiveAttack):
    """Refines prompts as a tree and prunes what leaves the subject or does worst.

    Source: Mehrotra et al. 2023, arXiv 2312.02119.
    """

    name = "tap"
    source = "Mehrotra et al. 2023, arXiv 2312.02119 (TAP)"
    description = "a tree of prompts refined by a second model, pruned by subject and by result"
    uses_attacker = True
    goal_encoding = "reworded by the attacker model; lossy: the attempt's `goal` field has it"
    config: TAPConfig

    def __init__(self, config: TAPConfig | None = None, attacker: Engine | None = None) -> None:
        super().__init__(config or TAPConfig(), attacker)

    def search(self, state: GoalSearch) -> Steps[None]:
        """See the module."""
        leaves: list[Trial] = [(yield from state.start(user_turn(state.text)))]
        while True:
            state.step()
            prompts = yield from self._branch(state, leaves)
            trials = yield from try_prompts(state, prompts)
            leaves = best_leaves(trials, self.config.width, [state.rng.random() for _ in trials]) or leaves

    def _branch(self, state: GoalSearch, leaves: Sequence[Trial]) -> Steps[list[str]]:
        """Prompts of the next level that are still about the goal, each once; one by rule where there is none."""
        requests: list[Conversation] = []
        for leaf in leaves:
            hints = state.rng.sample(HINTS, min(self.config.branching, len(HINTS)))
            is_root = leaf.messages == state.first
            requests += [
                first_request(state.text, hint) if is_root else next_request(state.text, leaf, hint) for hint in hints
            ]
        answers = yield from state.write(requests, self.config.attacker_tokens)
        found = [prompt for prompt in map(parse_prompt, answers) if prompt is not None]
        kept = list(dict.fromkeys(prompt for prompt in found if keeps_goal(state.text, prompt)))
        state.fallbacks += len(answers) - len(kept)
        return kept or [by_rule(state.text, state.rng)]


def best_leaves(trials: Sequence[Trial], width: int, ties: Sequence[float]) -> list[Trial]:
    """The answered trials with most points, then the highest score, then by lot."""
    answered = [i for i, trial in enumerate(trials) if trial.completion.error is None]
    order = sorted(answered, key=lambda i: (-trials[i].points, -trials[i].score, ties[i]))
    return [trials[i] for i in order[:width]]
