"""Verdicts on attempts: errors stay unscored, a stopped judge goes on, stale verdicts go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sirl.errors import UserError
from sirl.judges.base import Judgement
from sirl.judges.run import judge_attempts
from sirl.records import Attempt, Verdict, append_jsonl, read_jsonl


def attempt(number: int, response: str, error: str | None = None) -> Attempt:
    return Attempt(
        id=f"before/greedy/direct/g{number}",
        phase="before",
        decoding="greedy",
        attack="direct",
        goal_id=f"g{number}",
        goal=f"goal {number}",
        category=None,
        messages=({"role": "user", "content": f"wrapped goal {number}"},),
        response=response,
        tokens=(),
        entropies=(),
        finish_reason="error" if error else "stop",
        seed=0,
        error=error,
    )


ATTEMPTS = [attempt(0, "no"), attempt(1, "sure"), attempt(2, "", "out of memory"), attempt(3, "no"), attempt(4, "hm")]


class FakeJudge:
    """Labels by the whole text; remembers what it was shown; can break at its n-th call."""

    def __init__(self, name: str = "fake", break_at: int | None = None) -> None:
        self.name, self.break_at, self.calls = name, break_at, []

    def judge(self, items):
        if self.break_at == len(self.calls):
            raise KeyboardInterrupt
        self.calls.append(list(items))
        labels = {"no": "full_refusal", "sure": "full_compliance", "hm": "unscored"}
        return [Judgement(labels[item.response], "by its word") for item in items]


def test_one_verdict_per_attempt_in_order() -> None:
    judge = FakeJudge()
    verdicts = judge_attempts(ATTEMPTS, judge)
    assert [v.attempt_id for v in verdicts] == [a.id for a in ATTEMPTS]
    labels = [v.label for v in verdicts]
    assert labels == ["full_refusal", "full_compliance", "unscored", "full_refusal", "unscored"]
    assert verdicts[2].reason == "error: out of memory"
    assert {v.judge for v in verdicts} == {"fake"}
    shown = [(item.prompt, item.response) for call in judge.calls for item in call]
    assert shown == [("goal 0", "no"), ("goal 1", "sure"), ("goal 3", "no"), ("goal 4", "hm")]


def test_an_answer_without_text_is_empty_whoever_judges() -> None:
    judge = FakeJudge()
    silent = [replace(attempt(i, text), tokens=("<eos>",)) for i, text in enumerate(("", " \n", "<|im_end|>"))]
    assert [v.label for v in judge_attempts(silent, judge)] == ["empty"] * 3
    assert judge.calls == []


def test_an_answer_that_was_cut_before_it_began_is_unscored() -> None:
    """As of a server that counts hidden thoughts; a policy that writes blanks up to the limit has said nothing."""
    cut = replace(attempt(0, ""), finish_reason="length", tokens=())
    (verdict,) = judge_attempts([cut], FakeJudge())
    assert (verdict.label, verdict.reason) == ("unscored", "the answer had not begun when it was cut")
    blanks = replace(cut, response=" \n", tokens=(" ", "\n"))
    assert [v.label for v in judge_attempts([blanks], FakeJudge())] == ["empty"]


def test_nothing_but_errors_asks_nothing() -> None:
    judge = FakeJudge()
    assert [v.label for v in judge_attempts([ATTEMPTS[2]], judge)] == ["unscored"]
    assert judge.calls == []
    assert judge_attempts([], judge) == []


def test_interrupted_judging_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        judge_attempts(ATTEMPTS, FakeJudge(break_at=1), path=path, batch=2)
    assert len(read_jsonl(path, Verdict)) == 2
    rest = FakeJudge()
    verdicts = judge_attempts(ATTEMPTS, rest, path=path, batch=2)
    assert verdicts == judge_attempts(ATTEMPTS, FakeJudge())
    assert read_jsonl(path, Verdict) == verdicts
    assert [item.prompt for call in rest.calls for item in call] == ["goal 3", "goal 4"]


def test_two_judges_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    first = judge_attempts(ATTEMPTS, FakeJudge("one"), path=path)
    second = judge_attempts(ATTEMPTS, FakeJudge("two"), path=path)
    assert read_jsonl(path, Verdict) == first + second


def test_error_verdict_of_an_attempt_made_again_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    judge_attempts(ATTEMPTS, FakeJudge(), path=path)
    healed = [*ATTEMPTS[:2], attempt(2, "sure"), *ATTEMPTS[3:]]
    judge = FakeJudge()
    verdicts = judge_attempts(healed, judge, path=path)
    assert verdicts[2].label == "full_compliance"
    assert [item.prompt for call in judge.calls for item in call] == ["goal 2"]
    stored = read_jsonl(path, Verdict)
    assert len(stored) == len({v.attempt_id for v in stored}) == 5


def test_judge_that_loses_items_is_a_bug() -> None:
    judge = FakeJudge()
    judge.judge = lambda items: [Judgement("full_refusal")]  # noqa: ARG005
    with pytest.raises(ValueError, match="returned 1 judgements for 4 items"):
        judge_attempts(ATTEMPTS, judge)


def test_attempts_file_given_as_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    append_jsonl(path, ATTEMPTS)
    with pytest.raises(UserError, match="not a file of verdicts"):
        judge_attempts(ATTEMPTS, FakeJudge(), path=path)
