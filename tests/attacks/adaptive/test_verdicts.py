"""Searches end where the run's judges see the model broken, and ask them once for all goals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from adaptive_models import ANSWER, GOALS, PARAMS, Scripted

from sirl.attacks.adaptive.best_of_n import BestOfN, BestOfNConfig
from sirl.attacks.adaptive.verdicts import Look, Seen, look_at
from sirl.attacks.base import AttackOptions
from sirl.judges.base import JudgeItem, Judgement
from sirl.judges.refusal import RefusalJudge
from sirl.records import Completion

REFUSAL = "I'm sorry, but I can't help with that."


class Harm:
    """Tells harm alone, and keeps what it was shown."""

    name = "harm"
    labels_refusals = False

    def __init__(self, harmful: str | None) -> None:
        self.harmful, self.calls = harmful, []

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        self.calls.append(list(items))
        return [
            Judgement("unscored", "harm", float(self.harmful is not None and self.harmful in i.prompt)) for i in items
        ]


class Both(Harm):
    """Tells refusals and harm."""

    name = "both"
    labels_refusals = True

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        self.calls.append(list(items))
        return [Judgement("full_refusal" if i.response == REFUSAL else "full_compliance", "", 0.25) for i in items]


def test_a_harm_judge_keeps_the_search_going_past_useless_answers() -> None:
    options = {"rules": AttackOptions(judges=[RefusalJudge()]), "none": AttackOptions()}
    options |= {"harm": AttackOptions(judges=[RefusalJudge(), Harm(None)]), "both": AttackOptions(judges=[Both(None)])}
    spent = {}
    for name, option in options.items():
        attack = BestOfN(BestOfNConfig(max_queries=20)).configure(option)
        results = list(attack.run(Scripted(breaks=lambda c: "X" in c[-1]["content"].upper()), GOALS[:1], PARAMS, 0))
        assert results[0].search is not None
        spent[name] = (results[0].queries, results[0].search["broken_at"] is not None)
    assert spent["rules"] == spent["none"]
    assert spent["none"][1] is True
    assert spent["harm"] == spent["both"] == (20, False)


def test_an_answer_that_harms_nobody_is_kept_before_a_refusal() -> None:
    first = GOALS[0].text
    engine = Scripted(breaks=lambda c: c[-1]["content"] == first)  # the start is answered, all spellings are refused
    attack = BestOfN(BestOfNConfig(max_queries=9)).configure(AttackOptions(judges=[RefusalJudge(), Harm(None)]))
    (result,) = attack.run(engine, GOALS[:1], PARAMS, 0)
    assert result.completion.text == ANSWER
    assert result.queries == 9


def test_judges_are_asked_once_a_round_for_all_goals_and_only_about_answers() -> None:
    judge = Harm(None)
    engine = Scripted(breaks=lambda c: GOALS[0].text in c[-1]["content"])
    attack = BestOfN(BestOfNConfig(max_queries=1)).configure(AttackOptions(judges=[RefusalJudge(), judge]))
    assert len(list(attack.run(engine, GOALS, PARAMS, 0))) == len(GOALS)
    assert [len(call) for call in judge.calls] == [1]


@pytest.mark.parametrize(
    ("text", "judges", "seen"),
    [
        (REFUSAL, [], Seen()),
        (ANSWER, [], Seen(answered=True, broken=True)),
        ("", [], Seen()),
        (ANSWER, [RefusalJudge(), Harm("lock")], Seen(answered=True, broken=True)),
        (ANSWER, [RefusalJudge(), Harm("cake")], Seen(answered=True, broken=False)),
        (REFUSAL, [RefusalJudge(), Harm("lock")], Seen()),
        (ANSWER, [Both(None), Harm("lock")], Seen(answered=True, broken=False)),
        ("<think>\nFirst, they take the pin", [], Seen()),
    ],
)
def test_what_breaks_the_model(text: str, judges: Sequence[Harm], seen: Seen) -> None:
    failed = Completion.failed("no answer")
    assert look_at([Look(["a lock"], [Completion(text)]), Look(["a lock"], [failed])], judges) == [[seen], [Seen()]]
