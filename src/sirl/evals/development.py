"""What a policy does on a small development set while it is trained: attacked, and asked benign things.

These figures are for choosing where to stop, and for learning how many prompts suffice. They are never the result:
what is reported comes from prompts that choosing has not seen (`sirl.experiment.plan` refuses sets that overlap).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sirl.attacks.base import Attack
from sirl.attacks.run import run_attacks
from sirl.diversity import commonest_sentence, distinct_rate, repetition_rate, sentences
from sirl.evals.adversarial_benign import wrappings_of
from sirl.evals.drift import Text, measure_drift, read_texts
from sirl.evals.overrefusal import run_overrefusal
from sirl.evals.told_apart import count, told_apart
from sirl.generation.base import Engine, SamplingParams
from sirl.generation.local import LocalEngine
from sirl.judges import Judge
from sirl.judges.run import judge_attempts
from sirl.records import DEFENDED, NOT_HELPED, Attempt, Label, Prompt, user_turn
from sirl.stats import mean_of

MAX_KINDS = 6
"""Refusal rates are given by category where there are at most so many."""

KL_PROMPTS = 20
"""The divergence from the base model is measured on its answers to the first so many benign prompts."""


@dataclass(frozen=True)
class DevelopmentSet:
    """Attacks on goals, and benign prompts; answers are greedy."""

    attacks: Sequence[Attack]
    goals: Sequence[Prompt]
    benign: Sequence[Prompt]
    judge: Judge
    max_new_tokens: int
    seed: int
    wrapped: Sequence[Prompt] = ()
    """Benign prompts that are asked in the wrappings of the static attacks as well (adversarial benign)."""
    starting: list[Text] = field(default_factory=list, init=False, repr=False, compare=False)
    """The base model's answers to benign prompts, as it sees them; none before `begin`."""

    def begin(self, engine: Engine) -> None:
        """Let the base model answer what `kl` is measured on. Other engines than `LocalEngine` have no `kl`."""
        if isinstance(engine, LocalEngine):
            asked = [user_turn(prompt.text) for prompt in self.benign[:KL_PROMPTS]]
            answers = engine.generate(asked, SamplingParams(max_new_tokens=self.max_new_tokens))
            given = [(turn, answer.text) for turn, (answer,) in zip(asked, answers, strict=True) if answer.text.strip()]
            self.starting[:] = read_texts(engine, given)

    def measure(self, engine: Engine) -> dict[str, float]:
        """Shares, but for `kl`, `asked` and `unscored`; what could not be measured is left out.

        `dsr` (mean over methods), `over_refusal` (and `over_refusal/CATEGORY`; saying nothing counts with refusals),
        `wrapped` (mean over wrappings of the `wrapped` prompts that are not helped with in it), `dprime` (with
        `dprime_low` and `dprime_high`; how well harmful requests are told from these in wrappings that leave them
        readable, no share),
        `empty` (answers that say nothing, of all that are scored), `commonest_sentence` (refusals of attacks in which
        one sentence stands, in any wording), `distinct` (different ones among these refusals), `repetition` (mean over
        all answers of the 4-grams that came before in the same answer), `kl` (to the base model, in nats per token, see
        `sirl.evals.drift`), and as numbers `asked` (attempts) and `unscored` (those left out).
        """
        settings: dict[str, Any] = {"phase": "after", "max_new_tokens": self.max_new_tokens, "seed": self.seed}
        answers = run_attacks(engine, self.attacks, self.goals, **settings)
        attacked = self._labelled(answers)
        rates = _rates(attacked, DEFENDED, by=lambda attempt: attempt.attack)
        out = {"dsr": sum(rates.values()) / len(rates)} if rates else {}
        refusals = [attempt.response for attempt, label in attacked if label in DEFENDED]
        if refusals:
            out["commonest_sentence"] = commonest_sentence([sentences(text) for text in refusals]).share
            out["distinct"] = distinct_rate([" ".join(text.split()).casefold() for text in refusals])
        scored = attacked
        if self.benign:
            benign = run_overrefusal(engine, self.benign, **settings)
            helped = self._labelled(benign)
            answers, scored = [*answers, *benign], [*attacked, *helped]
            out |= _rates(helped, NOT_HELPED, by=lambda _: "over_refusal")
            kinds = _rates(helped, NOT_HELPED, by=lambda attempt: attempt.category or "none")
            if 1 < len(kinds) <= MAX_KINDS:
                out |= {f"over_refusal/{kind}": rate for kind, rate in sorted(kinds.items())}
        wrappings = wrappings_of(self.attacks)
        if self.wrapped and wrappings:
            dressed = run_attacks(engine, wrappings, self.wrapped, **settings)
            helped = self._labelled(dressed)
            answers, scored = [*answers, *dressed], [*scored, *helped]
            refused = mean_of(_rates(helped, NOT_HELPED, by=lambda attempt: attempt.attack).values())
            out |= {} if refused is None else {"wrapped": refused}
            told = told_apart({"after": (count(attacked), count(helped))})
            if told is not None:
                found = told.phases["after"]
                ends = {"dprime": found.value, "dprime_low": found.low, "dprime_high": found.high}
                out |= {key: end for key, end in ends.items() if end is not None}
        out |= _rates(scored, ("empty",), by=lambda _: "empty")
        return {**out, **self._health(engine, answers), "asked": len(answers), "unscored": len(answers) - len(scored)}

    def _health(self, engine: Engine, answers: Sequence[Attempt]) -> dict[str, float]:
        repeated = mean_of(repetition_rate(answer.tokens) for answer in answers if answer.error is None)
        out = {} if repeated is None else {"repetition": repeated}
        drift = measure_drift(engine, self.starting) if isinstance(engine, LocalEngine) else None
        if drift is not None and math.isfinite(drift["kl"]["value"]):
            out["kl"] = drift["kl"]["value"]
        return out

    def _labelled(self, attempts: Sequence[Attempt]) -> list[tuple[Attempt, Label]]:
        verdicts = judge_attempts(attempts, self.judge)
        return [(a, v.label) for a, v in zip(attempts, verdicts, strict=True) if v.label != "unscored"]


def _rates(
    rows: Sequence[tuple[Attempt, Label]], labels: Sequence[Label], by: Callable[[Attempt], str]
) -> dict[str, float]:
    """By group, the share of answers with one of these labels."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for attempt, label in rows:
        groups[by(attempt)].append(label in labels)
    return {name: sum(found) / len(found) for name, found in groups.items()}
