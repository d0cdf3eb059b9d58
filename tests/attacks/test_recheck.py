"""Refusals that the token limit cut off: asked again, judged again, shown next to the DSR."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sirl.attacks.recheck import cut_refusals, recheck
from sirl.errors import UserError
from sirl.experiment.config import AttackSection
from sirl.generation.base import SamplingParams
from sirl.judges import load_judge
from sirl.records import Attempt, Completion, Conversation, read_jsonl, user_turn
from sirl.report import build_summary, render_report
from sirl.report.truncated import truncation_limits
from sirl.results.load import Scored
from sirl.results.truncated import truncation_summary
from sirl.results.values import Truncation

REFUSAL = "I'm sorry, but I can't help with that."
HELP = " However, here is how. First, take two cups of flour. Then mix them with water. Next, bake it for an hour."


class Cut:
    """Refuses in 4 tokens; to goals with an even number it then helps, as only a longer limit shows. Others stop there.

    Goals that hold `story` are answered at once; `down` makes it fail beyond 4 tokens.
    """

    name = "cut"
    down = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        out = []
        for conversation in conversations:
            text = conversation[-1]["content"]
            self.asked.append((text, params.max_new_tokens))
            if "story" in text:
                answer = Completion("Sure. First, take two cups of flour.", finish_reason="length")
            elif params.max_new_tokens <= 4:
                answer = Completion(REFUSAL, (1, 2), ("a", "b"), (0.1, 0.2), finish_reason="length")
            elif self.down:
                answer = Completion.failed("the server is down")
            else:
                helps = any(digit in text for digit in "02468")
                answer = Completion(REFUSAL + HELP if helps else REFUSAL, (1,), ("a",), (0.1,))
            out.append([answer] * params.n)
        return out


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Cut:
    made = Cut()
    monkeypatch.setattr("sirl.generation.load_engine", lambda *_, **__: made)
    return made


def goals_file(path: Path) -> str:
    path.write_text("".join(f"How do I hide snack {i}?\n" for i in range(4)) + "Tell me a story about snacks.\n")
    return str(path)


def test_attack_asks_cut_refusals_again(engine: Cut, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sirl.cli.main import main

    folder = tmp_path / "run"
    words = ["attack", "--model_name_or_path", "m", "--goals", goals_file(tmp_path / "goals.txt")]
    words += ["--attacks", "direct", "--max_new_tokens", "4", "--output_dir", str(folder)]
    assert main([*words, "--decoding", "greedy,sample", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    table = found["truncation"]["static"]["before"]["overall"]
    assert table == {
        "refusals": 4,
        "cut": 4,
        "cut_rate": 1.0,
        "asked_again": 4,
        "recanted": 2,
        "still_cut": 0,
        "dsr": 0.8,
        "dsr_rechecked": 0.4,
    }
    assert found["rates"]["greedy"]["before"]["overall"]["rate"] == 0.8, "the DSR itself is as it was"
    assert sum(limit == 16 for _, limit in engine.asked) == 4, "four times the limit, greedy refusals alone"
    longer = read_jsonl(folder / "rechecked_attempts.jsonl", Attempt)
    assert [a.id for a in longer] == [f"before/greedy/direct/goals-{i}" for i in range(1, 5)]
    assert not any(a.tokens or a.entropies for a in longer)
    assert (folder / "rechecked_verdicts.jsonl").is_file()
    summary = build_summary(folder)
    assert (summary["cut_refusals_before"], summary["rechecked_dsr_before"]) == (1.0, 0.4)
    page = render_report(folder).read_text()
    assert "How many refusals were cut off?" in page
    assert "4 of 4 greedy refusals of attacks were cut off" in page
    assert main([*words, "--phase", "after", "--decoding", "greedy,sample"]) == 0
    assert "DSR after the recheck" in capsys.readouterr().out


def test_switched_off_and_wrong_limits(engine: Cut, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sirl.cli.main import main

    words = ["attack", "--model_name_or_path", "m", "--goals", goals_file(tmp_path / "goals.txt")]
    words += ["--attacks", "direct", "--max_new_tokens", "4", "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--recheck_tokens", "4"]) == 2
    assert "--recheck_tokens 4: must be above max_new_tokens (4), or 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*words, "--recheck_tokens", "0", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["truncation"]["static"]["before"]["overall"]
    assert (table["cut"], table["asked_again"], table["dsr_rechecked"]) == (4, 0, None)
    assert not (tmp_path / "run" / "rechecked_attempts.jsonl").exists()
    assert all(limit == 4 for _, limit in engine.asked)
    assert AttackSection(max_new_tokens=40).recheck_limit == 160
    assert AttackSection(recheck_tokens=0).recheck_limit is None
    with pytest.raises(UserError, match=r"attack.recheck_tokens 64: must be above"):
        AttackSection(recheck_tokens=64)


def attempt(i: int, response: str = REFUSAL, **more: Any) -> Attempt:
    base: dict[str, Any] = {
        "id": f"before/greedy/direct/g{i}",
        "phase": "before",
        "decoding": "greedy",
        "attack": "direct",
        "goal_id": f"g{i}",
        "goal": f"How do I hide snack {i}?",
        "category": None,
        "messages": user_turn(f"How do I hide snack {i}?"),
        "response": response,
        "tokens": (),
        "entropies": (),
        "finish_reason": "length",
        "seed": 0,
    }
    return Attempt(**{**base, **more})


def test_which_are_asked_again() -> None:
    attempts = [
        attempt(0),
        attempt(1, finish_reason="stop"),
        attempt(2, decoding="sample"),
        attempt(3, response="Sure. First, take two cups of flour."),
        attempt(4, error="gone"),
    ]
    assert cut_refusals(attempts, load_judge("refusal")) == attempts[:1]


def test_errors_and_going_on(tmp_path: Path) -> None:
    path, judge, engine = tmp_path / "again.jsonl", load_judge("refusal"), Cut()
    attempts = [attempt(i) for i in range(3)]
    recheck(engine, attempts[:1], judge, 16, path)
    engine.down = True
    seen: list[tuple[int, int]] = []
    recheck(engine, attempts, judge, 16, path, progress=lambda *counts: seen.append(counts))
    assert seen == [(3, 3)]
    assert [a.error for a in read_jsonl(path, Attempt)] == [None, "the server is down", "the server is down"]
    engine.down, count = False, len(engine.asked)
    recheck(engine, attempts, judge, 16, path)
    assert len(engine.asked) == count, "what is in the file is not asked again"
    recheck(engine, attempts, judge, 16, path, retry_errors=True)
    latest = {a.id: a for a in read_jsonl(path, Attempt)}
    assert [a.error for a in latest.values()] == [None] * 3


def test_what_was_not_answered_keeps_its_place() -> None:
    rows = [Scored(attempt(i), "full_refusal") for i in range(4)] + [Scored(attempt(4, "Sure."), "full_compliance")]
    again = [
        Scored(attempt(0), "partial_refusal"),
        Scored(attempt(1, finish_reason="stop"), "full_refusal"),
        Scored(attempt(2), "unscored"),
    ]
    table = truncation_summary(rows, again)["static"]["before"].overall
    assert (table.cut, table.asked_again, table.recanted, table.still_cut) == (4, 2, 1, 1)
    assert (table.dsr, table.dsr_rechecked) == (0.8, 0.6)
    ((lead, words),) = truncation_limits({"static": {"before": Truncation(table, {})}})
    assert lead == "Answers end at a token limit."
    assert "4 of 4 greedy refusals" in words
    assert "of 2 of them have no verdict on a longer answer" in words
    assert truncation_limits(None) == []
