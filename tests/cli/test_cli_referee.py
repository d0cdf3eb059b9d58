"""`sirl referee`: a tiny model before stand-ins of the programs, and before the real ones where they are installed.

Where they are in another environment, SIRL_TEST_GARAK and SIRL_TEST_INSPECT may name their executables.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from referee_programs import GARAK, INSPECT, program
from sirl.attacks import load_attack
from sirl.attacks.base import StaticAttack, goal_rng
from sirl.generation import SamplingParams
from sirl.prompts import load_prompts
from sirl.records import Completion, Conversation
from sirl.referees.inspect_referee import Inspect
from sirl.referees.server import EngineServer, serving
from sirl.stats import wilson_interval


@pytest.fixture
def referee(sirl: Any, model_folder: Any, tmp_path: Path) -> Any:
    def call(tool: str, *words: object) -> Any:
        common = ("--model_name_or_path", model_folder(), "--output_dir", tmp_path / "out", "--max_new_tokens", 4)
        return sirl("referee", "--with", tool, *common, *words)

    return call


def test_garak(referee: Any, tmp_path: Path) -> None:
    executable = program(tmp_path, GARAK)
    words = ("--executable", executable, "--probes", "a.One,probes.b.Two", "--max_goals", 3, "--seed", 5)
    found = referee("garak", *words, "--json").json
    saved = json.loads((tmp_path / "out" / "referee.json").read_text())
    assert found == {"output_dir": str(tmp_path / "out"), **saved}
    assert (saved["tool"], saved["version"], saved["seed"], saved["answered"]) == ("garak", "0.0.fake", 5, 6)
    assert saved["model_revision"] is saved["chat_template_kwargs"] is None
    assert set(saved["sources"]) == {"model"}
    assert saved["sources"]["model"]["kind"] == "folder"
    low, high = wilson_interval(1, 3)
    figures = {"passed": 1, "total": 3, "unscored": 2, "rate": 1 / 3, "low": low, "high": high}
    assert saved["findings"] == [{"probe": p, "test": "some.Detector", **figures} for p in ("a.One", "b.Two")]
    assert (tmp_path / "out" / "garak.log").read_text() == "done, all of it\n"
    again = referee("garak", *words)
    assert "of an earlier run; give another, or --overwrite" in again.error
    shown = referee("garak", *words, "--overwrite")
    assert "33.3%" in shown.out
    assert "b.Two" in shown.out


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        ((), "mitigation.MitigationBypass,mitigation.Prefixes"),
        (("--probes", "a.One"), "auto"),
        (("--probes", "a.One", "--detectors", "x.Y, detectors.x.Z"), "x.Y,x.Z"),
    ],
)
def test_garak_is_told_who_judges(referee: Any, tmp_path: Path, words: tuple[str, ...], spec: str) -> None:
    assert referee("garak", "--executable", program(tmp_path, GARAK), "--max_goals", 1, *words).code == 0
    assert json.loads((tmp_path / "out" / "garak.json").read_text())["plugins"]["detector_spec"] == spec


def test_a_probe_that_garak_left_out_is_told(referee: Any, tmp_path: Path) -> None:
    words = ("--executable", program(tmp_path, GARAK), "--max_goals", 1, "--probes", "left.Out,a.One,module")
    findings = {f["probe"]: f for f in referee("garak", *words, "--json").json["findings"]}
    assert set(findings) == {"left.Out", "a.One", "module"}
    assert findings["left.Out"]["rate"] is None
    assert findings["left.Out"]["test"] == "not run, see garak.log"


def test_inspect(referee: Any, tmp_path: Path, goals: str) -> None:
    executable = program(tmp_path, INSPECT)
    words = ("--executable", executable, "--goals", goals, "--max_goals", 2, "--probes", "direct,prefill,dan")
    thinking = ("--chat_template_kwargs", "enable_thinking=false")
    found = referee("inspect", *words, "--grader", "mock", *thinking, "--json").json
    assert found["answered"] == 6
    assert found["chat_template_kwargs"] == {"enable_thinking": False}
    assert found["sources"]["goals"]["kind"] == "file"
    by = {(f["probe"], f["test"]): (f["passed"], f["total"], f["unscored"]) for f in found["findings"]}
    assert by == {
        ("direct", "refused"): (1, 2, 0),
        ("prefill", "refused"): (1, 1, 1),  # one that was not scored
        ("dan", "refused"): (1, 1, 1),  # one that no scorer came to
        ("direct", "model_graded_qa"): (2, 2, 0),
        ("prefill", "model_graded_qa"): (2, 2, 0),
        ("dan", "model_graded_qa"): (1, 1, 1),
    }


def test_inspect_is_given_the_prompts_of_sirl_attack(goals: str) -> None:
    prompts = load_prompts(goals)
    rows = Inspect("many_shot_4,prefill", prompts, None).samples(seed=7)
    assert [row["id"] for row in rows] == [f"{a}/{p.id}" for a in ("many_shot_4", "prefill") for p in prompts]
    attack = load_attack("many_shot_4")
    assert isinstance(attack, StaticAttack)
    for row, goal in zip(rows, prompts, strict=False):
        assert tuple(row["input"]) == attack.build(goal, goal_rng(7, "many_shot_4", goal.id))
        assert row["metadata"] == {"attack": "many_shot_4", "goal": goal.text}
    assert rows[-1]["input"][-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("tool", "words", "says"),
    [
        ("garak", ("--goals", "demo/behaviours"), "--goals: garak brings its own prompts"),
        ("garak", ("--grader", "x"), "--grader: garak brings its own"),
        ("garak", ("--probes", ","), "--probes: none named"),
        ("garak", ("--detectors", " "), "--detectors: none named"),
        ("inspect", ("--detectors", "x"), "--detectors: only for garak"),
        ("garak", ("--executable", "/no/such"), "--executable /no/such: not a program that can be run"),
        ("inspect", ("--probes", "gcg"), "--probes: gcg ask the model while they search"),
        ("inspect", ("--probes", "nonsense"), "--probes: unknown attack 'nonsense'"),
        ("inspect", ("--goals", "nowhere.jsonl"), "--goals"),
    ],
)
def test_mistakes(referee: Any, tmp_path: Path, tool: str, words: tuple[str, ...], says: str) -> None:
    if "--executable" not in words:
        words = (*words, "--executable", program(tmp_path, "raise SystemExit(1)"))
    assert says in referee(tool, *words).error
    assert not (tmp_path / "out").exists()


def test_no_program(referee: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert "garak: not installed; install it in a separate environment (pipx install garak)" in referee("garak").error
    assert "inspect: not installed; pip install 'sirl[inspect]'" in referee("inspect").error


@pytest.mark.parametrize(
    ("tool", "text", "words", "says"),
    [
        ("garak", GARAK, ("--probes", "no.Such"), "garak came to no result: unknown probe"),
        ("garak", GARAK, ("--probes", "broken.Off"), "garak came to no result: done, all of it"),
        ("garak", "print('fine')", (), "garak came to no result: fine"),
        ("inspect", INSPECT, ("--grader", "dies"), "failed with exit code 3: no such grader"),
        ("inspect", INSPECT, ("--grader", "fails"), "Inspect came to no result (error): a b"),
        ("inspect", "print('fine')", (), "expected one log of Inspect's, found 0"),
    ],
)
def test_programs_that_fail(
    referee: Any, tmp_path: Path, tool: str, text: str, words: tuple[str, ...], says: str
) -> None:
    few = ("--max_goals", 1, *(("--probes", "direct") if tool == "inspect" else ()))
    assert says in referee(tool, *few, "--executable", program(tmp_path, text), *words).error
    assert not (tmp_path / "out" / "referee.json").exists()


def test_a_report_on_another_model_is_none(referee: Any, tmp_path: Path) -> None:
    """A program that never asks cannot have examined the model, whatever it reports."""
    asks_not = GARAK.replace("for i in range(run", "for i in []  # range(run").replace('["soft_probe_prompt_cap"])', "")
    error = referee("garak", "--executable", program(tmp_path, asks_not), "--probes", "a.One").error
    assert "garak asked no question" in error
    assert not (tmp_path / "out" / "referee.json").exists()


def _real(name: str) -> str:
    found = os.environ.get(f"SIRL_TEST_{name.upper()}")
    found = found or shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (docs/referee.md)")
    return found


def test_the_real_garak(referee: Any) -> None:
    words = ("--executable", _real("garak"), "--probes", "suffix.GCGCached", "--max_goals", 6)
    found = referee("garak", *words, "--json").json
    (finding,) = found["findings"]
    assert (finding["probe"], finding["test"]) == ("suffix.GCGCached", "mitigation.MitigationBypass")
    assert finding["total"] + finding["unscored"] == 6 == found["answered"]
    assert found["version"][0].isdigit()


class Grader:
    """Grades each answer as held back, or says nothing of use."""

    name = "grader"

    def generate(self, conversations: Sequence[Conversation], params: SamplingParams, progress: Any = None) -> Any:
        prompts = [conversation[-1]["content"] for conversation in conversations]
        assert all("--- what was asked for\nHow do I hide snack number" in prompt for prompt in prompts)
        return [[Completion("Let me see.\nGRADE: C" if "number 1?" in prompt else "Hm.")] for prompt in prompts]


def test_the_real_inspect(referee: Any, goals: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--executable", _real("inspect"), "--goals", goals, "--probes", "direct,prefill,system_override")
    with serving(EngineServer(Grader(), "strict")) as grader:
        monkeypatch.setenv("TEST_GRADER_API_KEY", grader.key)
        monkeypatch.setenv("TEST_GRADER_BASE_URL", grader.url)
        found = referee("inspect", *words, "--grader", "openai-api/test-grader/strict", "--json").json
    assert found["answered"] == grader.answered == 12
    figures = {(f["probe"], f["test"]): (f["passed"], f["total"], f["unscored"]) for f in found["findings"]}
    for attack in ("direct", "prefill", "system_override"):
        assert sum(figures[attack, "refused"][1:]) == 4
        assert figures[attack, "model_graded_qa"] == (1, 1, 3)
    assert len(figures) == 6
    assert found["version"][0].isdigit()
