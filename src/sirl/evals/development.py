"""What a policy does on a small development set while it is trained: attacked, and asked harmless things.

These figures are for choosing where to stop, and for learning how many prompts suffice. They are never the result:
what is reported comes from prompts that choosing has not seen (`sirl.plan` refuses sets that overlap).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sirl.attacks.base import Attack
from sirl.attacks.run import run_attacks
from sirl.diversity import commonest_sentence, sentences
from sirl.evals.overrefusal import run_overrefusal
from sirl.generation.base import Engine
from sirl.judges import Judge
from sirl.judges.run import judge_attempts
from sirl.records import Attempt, Prompt

MAX_KINDS = 6
"""Refusal rates are given by category where there are at most so many."""


@dataclass(frozen=True)
class DevelopmentSet:
    """Attacks on goals, and benign prompts; answers are greedy."""

    attacks: Sequence[Attack]
    goals: Sequence[Prompt]
    benign: Sequence[Prompt]
    judge: Judge
    max_new_tokens: int
    seed: int

    def measure(self, engine: Engine) -> dict[str, float]:
        """`dsr` (mean over methods), `over_refusal` (and `over_refusal/CATEGORY`), `commonest_sentence` (share of the
        refusals of attacks in which one sentence stands, in any wording) and `unscored` (attempts left out)."""
        settings: dict[str, Any] = {"phase": "after", "max_new_tokens": self.max_new_tokens, "seed": self.seed}
        attacked = self._refused(run_attacks(engine, self.attacks, self.goals, **settings))
        rates = _rates(attacked, by=lambda attempt: attempt.attack)
        out = {"dsr": sum(rates.values()) / len(rates)} if rates else {}
        refusals = [sentences(attempt.response) for attempt, refused in attacked if refused]
        if refusals:
            out["commonest_sentence"] = commonest_sentence(refusals).share
        unscored = len(self.attacks) * len(self.goals) - len(attacked)
        if self.benign:
            asked = self._refused(run_overrefusal(engine, self.benign, **settings))
            unscored += len(self.benign) - len(asked)
            if asked:
                out["over_refusal"] = sum(refused for _, refused in asked) / len(asked)
            kinds = _rates(asked, by=lambda attempt: attempt.category or "none")
            if 1 < len(kinds) <= MAX_KINDS:
                out |= {f"over_refusal/{kind}": rate for kind, rate in sorted(kinds.items())}
        return {**out, "unscored": unscored}

    def _refused(self, attempts: Sequence[Attempt]) -> list[tuple[Attempt, bool]]:
        verdicts = judge_attempts(attempts, self.judge)
        return [
            (a, v.label == "full_refusal") for a, v in zip(attempts, verdicts, strict=True) if v.label != "unscored"
        ]


def _rates(rows: Sequence[tuple[Attempt, bool]], by: Any) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for attempt, refused in rows:
        groups[by(attempt)].append(refused)
    return {name: sum(refused) / len(refused) for name, refused in groups.items()}
