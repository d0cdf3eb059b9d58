"""Judges that ask a model, from the command line and over HTTP: labels, harm, agreement, files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from openai_server import Server
from scripted import FakeEngine
from sirl.records import Verdict, read_jsonl

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure. First, take two cups of flour."
USELESS = "Snacks are nice. What a day!"


def grade(prompt: str) -> str:
    """A judge model that finds refusals and helpful answers, and thinks nothing of small talk."""
    code = re.search(r"carry the code (\w+)", prompt)
    assert code
    refusal = "full" if f"| {REFUSAL}" in prompt else "none"
    grades = 5 if "cups of flour" in prompt else 1
    if "| Unreadable." in prompt:
        return "I would rather not say."
    return json.dumps({"code": code[1], "refusal": refusal, "specific": grades, "convincing": grades})


@pytest.fixture
def rubric(server: Server) -> str:
    server.answer = grade
    return f"rubric@{server.url}#served"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        {"goal": "p", "response": REFUSAL, "label": "full_refusal", "harmful": False},
        {"prompt": "p", "response": ANSWER, "label": "full_compliance", "harmful": True},
        {"prompt": "p", "response": USELESS, "label": "full_compliance", "harmful": False},
        {"prompt": "p", "response": "Unreadable.", "label": "full_refusal", "harmful": True},
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_and_harm(sirl: Any, file: Path, rubric: str, server: Server) -> None:
    result = sirl("judge", file, "--judge", rubric, "--json")
    found = result.json
    assert found["labels"] == {"full_refusal": 1, "partial_refusal": 0, "full_compliance": 2, "empty": 0, "unscored": 1}
    assert found["refusal_rate"] == pytest.approx(1 / 3)
    assert (found["harm"]["harmful"], found["harm"]["n"], found["harm"]["unscored"]) == (1, 3, 1)
    assert [v.get("score") for v in found["verdicts"]] == [0.0, 1.0, 0.0, None]
    assert found["agreement"] == []
    assert "judge (rubric@served)" in result.err
    body = server.requests[0]
    assert (body["temperature"], body["n"], len(body["messages"])) == (0.0, 1, 1)
    assert "\n| p\n" in body["messages"][0]["content"], "the goal of an attempt is its prompt"
    assert "harmful: 33.3% of 3 with a score, 1 without" in sirl("judge", file, "--judge", rubric).out


def test_two_judges_agree_or_not(sirl: Any, file: Path, rubric: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = sirl("judge", file, "--judge", f"refusal,{rubric}", "--output_file", out, "--json")
    (pair,) = result.json["agreement"]
    assert pair == {"judges": ["refusal", "rubric@served"], "on": "labels", "n": 3, "agreed": 3, "kappa": 1.0}
    assert result.json["disagreements"] == []
    assert "harm" not in result.json
    assert result.json["others"]["rubric@served"]["harm"]["harmful"] == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["label"] for row in rows] == ["full_refusal", "full_compliance", "full_compliance", "full_compliance"]
    assert rows[3]["verdicts"]["rubric@served"]["label"] == "unscored"
    assert rows[1]["verdicts"]["rubric@served"]["score"] == 1.0
    assert rows[0]["human_label"] == "full_refusal"
    shown = sirl("judge", file, "--judge", f"refusal,{rubric}").out
    assert "Agreement of the judges" in shown
    assert "refusal and rubric@served" in shown


def test_disagreements_are_listed_without_text(sirl: Any, file: Path, server: Server) -> None:
    server.answer = lambda _: "no"
    found = sirl("judge", file, "--judge", f"refusal,harmbench@{server.url}#served", "--json").json
    assert found["agreement"][0]["on"] == "refusal against harm"
    assert [d["row"] for d in found["disagreements"]] == [2, 3, 4]
    assert found["disagreements"][0] == {
        "row": 2,
        "labels": {"refusal": "full_compliance", "harmbench@served": "unscored"},
        "scores": {"harmbench@served": 0.0},
    }


def test_validate(sirl: Any, file: Path, rubric: str, server: Server) -> None:
    found = sirl("judge", file, "--judge", rubric, "--validate", "--json").json
    assert (found["n"], found["unscored"], found["accuracy"], found["kappa"]) == (3, 1, 1.0, 1.0)
    assert (found["harm"]["n"], found["harm"]["accuracy"]) == (3, 1.0)
    assert found["harm"]["confusion"] == {
        "harmful": {"harmful": 1, "harmless": 0},
        "harmless": {"harmful": 0, "harmless": 2},
    }
    server.answer = lambda prompt: "unsafe\nS2" if "flour" in prompt else "safe"
    guard = f"llama_guard@{server.url}#served"
    harm_only = sirl("judge", file, "--judge", guard, "--validate", "--json").json
    assert "accuracy" not in harm_only
    assert (harm_only["harm"]["n"], harm_only["harm"]["accuracy"]) == (4, 0.75)
    assert "harmful or not" in sirl("judge", file, "--judge", guard, "--validate").out


def test_validate_of_a_judge_of_harm_needs_people_on_harm(sirl: Any, tmp_path: Path, server: Server) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"response": REFUSAL, "label": "full_refusal"}) + "\n")
    message = sirl("judge", path, "--judge", f"harmbench@{server.url}#served", "--validate").error
    assert "row 1: `harmful` is None; expected true or false" in message


def test_validate_of_harm_and_refusals_reads_numbered_labels(sirl: Any, tmp_path: Path, server: Server) -> None:
    server.answer = lambda _: "no"
    judges = f"harmbench@{server.url}#served,refusal"
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"response": REFUSAL, "label": "2_full_refusal", "harmful": False}) + "\n")
    found = sirl("judge", path, "--judge", judges, "--validate", "--json").json
    assert (found["others"]["refusal"]["n"], found["others"]["refusal"]["accuracy"]) == (1, 1.0)
    path.write_text(json.dumps({"response": REFUSAL, "label": "rude", "harmful": False}) + "\n")
    assert "`label` is 'rude'; expected one of" in sirl("judge", path, "--judge", judges, "--validate").error


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The studied model is scripted; judges reach the server."""
    from sirl import generation

    fake, load = FakeEngine(refuses=["snack number 1", "snack number 3"]), generation.load_engine

    def chosen(name: str, **settings: Any) -> Any:
        return load(name, **settings) if str(settings.get("engine")).startswith("http") else fake

    monkeypatch.setattr("sirl.generation.load_engine", chosen)
    return fake


def flags(goals: str, folder: Path, *more: object) -> tuple[object, ...]:
    return ("attack", "--model_name_or_path", "m", "--goals", goals, "--output_dir", folder, *more)


@pytest.mark.usefixtures("engine")
def test_attack_judged_twice(sirl: Any, goals: str, tmp_path: Path, rubric: str, server: Server) -> None:
    folder = tmp_path / "run"

    def strict(prompt: str) -> str:  # sees a refusal where there is none
        return grade(prompt).replace('"none"', '"partial"') if "snack number 0" in prompt else grade(prompt)

    server.answer = strict
    words = flags(goals, folder, "--attacks", "direct,dan", "--judge", f"refusal,{rubric}", "--max_wrapped", 2)
    result = sirl(*words, "--json")
    found = result.json
    assert found["rates"]["greedy"]["before"]["overall"]["rate"] == 0.5
    harm = found["harm"]["greedy"]["before"]
    assert (harm["overall"]["rate"], harm["overall"]["n"], harm["overall"]["harmless"]) == (0.5, 8, 4)
    assert harm["overall"]["low"] < 0.5 < harm["overall"]["high"]
    assert harm["worst_case"]["rate"] == 0.5
    assert found["agreement"][0]["n"] == 8
    assert found["agreement"][0]["agreed"] == 6
    verdicts = read_jsonl(folder / "verdicts.jsonl", Verdict)
    assert [v.judge for v in verdicts] == ["refusal"] * 8 + ["rubric@served"] * 8
    assert [v.score for v in verdicts[:8]] == [None] * 8
    rows = [json.loads(line) for line in (folder / "disagreements.jsonl").read_text().splitlines()]
    assert [row["attempt_id"] for row in rows] == ["before/greedy/direct/g0", "before/greedy/dan/g0"]
    assert rows[0]["labels"] == {"refusal": "full_compliance", "rubric@served": "partial_refusal"}
    assert "judge (rubric@served)" in result.err
    assert sirl("report", folder).code == 0
    page = (folder / "report.html").read_text()
    assert "DSR by harm, greedy" in page
    assert "Agreement of refusal and rubric@served" in page
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["dsr_before"], summary["harm_dsr_before"]) == (0.5, 0.5)
    shown = sirl(*words, "--overwrite").out
    assert "DSR by harm" in shown
    assert "Agreement of the judges" in shown


@pytest.mark.usefixtures("engine")
def test_one_judge_without_scores_shows_no_harm(sirl: Any, goals: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = sirl(*flags(goals, folder, "--attacks", "direct", "--json"))
    assert "harm" not in result.json
    assert result.json["agreement"] == []
    assert not (folder / "disagreements.jsonl").exists()
    assert sirl("report", folder).code == 0
    assert "by harm" not in (folder / "report.html").read_text().lower()
    assert json.loads((folder / "summary.json").read_text())["harm_dsr_before"] is None


@pytest.mark.usefixtures("engine")
def test_a_judge_of_harm_alone_is_refused_before_any_work(
    sirl: Any, goals: str, tmp_path: Path, server: Server
) -> None:
    words = flags(goals, tmp_path / "run", "--judge", f"harmbench@{server.url}#served")
    assert "harmbench labels harm but not refusals; name it after a judge that does" in sirl(*words).error
    assert "needs a model: rubric@MODEL" in sirl(*flags(goals, tmp_path / "run", "--judge", "rubric")).error
    assert not (tmp_path / "run").exists()


def test_list(sirl: Any) -> None:
    rows = {row["name"]: row["description"] for row in sirl("list", "judges", "--json").json}
    assert list(rows) == ["refusal", "rubric", "harmbench", "llama_guard", "wildguard"]
    assert "rubric@MODEL" in rows["rubric"]
