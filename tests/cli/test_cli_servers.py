"""Commands against servers that answer nothing, not everything or not for long: what is said, how one continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openai_server import Reply, Server
from sirl.records import Attempt, read_jsonl

REFUSED = Reply({"error": {"message": "Unsupported value: 'temperature' does not support 0.0"}}, 400)
GONE = Reply({"error": {"message": "CUDA error"}}, 500)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.generation.server.FIRST_WAIT", 0.01)


def attack(goals: str, folder: Path, server: Server | str, *more: object) -> tuple[object, ...]:
    url = server if isinstance(server, str) else server.url
    words = ("attack", "--model_name_or_path", "served", "--engine", url, "--goals", goals, "--output_dir", folder)
    return (*words, "--attacks", "direct", *more)


def until(done: Callable[[], bool]) -> None:
    for _ in range(3000):
        if done():
            return
        time.sleep(0.02)
    raise TimeoutError


def stage(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())["stages"]["attack_before"]["status"]


def test_a_server_that_answers_nothing_stops_the_run(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    server.scripts = {"": (REFUSED,)}
    message = sirl(*attack(goals, folder, server)).error
    assert message.startswith(f"sirl: error: --engine {server.url}: none of 4 requests was answered; the reason: ")
    assert "does not take temperature 0" in message
    assert stage(folder) == "interrupted"
    assert not (folder / "attempts.jsonl").exists()
    server.scripts = {}
    found = sirl(*attack(goals, folder, server, "--json")).json
    assert found["rates"]["greedy"]["before"]["overall"]["n"] == 4
    assert stage(folder) == "done"


def test_the_commonest_reason_is_said(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    server.scripts = {
        "number 3": (Reply({"error": {"message": "another"}}, 400),),
        "": (Reply({"error": {"message": "model is loading"}}, 400),),
    }
    message = sirl(*attack(goals, tmp_path / "run", server)).error
    assert "none of 4 requests was answered; the reason (3 times): BadRequestError: model is loading" in message


def test_a_corrected_address_and_model_need_no_overwrite(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    folder, other = tmp_path / "run", f"http://localhost:{server.server_port}/v1"
    server.scripts = {"": (GONE,)}
    assert sirl(*attack(goals, folder, server)).code == 2
    server.scripts = {}
    server.models = Reply({"data": [{"id": "better"}]})
    words = attack(goals, folder, other, "--max_new_tokens", "32", "--model_name_or_path", "better", "--json")
    assert sirl(*words).code == 0
    config = json.loads((folder / "manifest.json").read_text())["config"]["attack_before"]
    assert (config["engine"], config["model_name_or_path"]) == (other, "better")


def test_errors_of_some_are_counted_and_asked_again_at_another_address(
    sirl: Any, goals: str, tmp_path: Path, server: Server
) -> None:
    folder, other = tmp_path / "run", f"http://localhost:{server.server_port}/v1"
    server.scripts = {"number 1": (GONE,), "number 2": (GONE,)}
    result = sirl(*attack(goals, folder, server, "--json")).json
    assert result["reasons"] == [{"reason": "error: InternalServerError: CUDA error (HTTP 500)", "count": 2}]
    assert stage(folder) == "done"
    server.scripts = {}
    assert "holds a finished attack_before" in sirl(*attack(goals, folder, other)).error
    again = sirl(*attack(goals, folder, other, "--retry_errors"))
    assert again.code == 0
    assert "Not scored" not in again.out
    assert all(a.error is None for a in read_jsonl(folder / "attempts.jsonl", Attempt))
    assert json.loads((folder / "manifest.json").read_text())["config"]["attack_before"]["engine"] == other
    server.models = Reply({"data": [{"id": "served"}, {"id": "other"}]})
    clash = sirl(*attack(goals, folder, other, "--retry_errors", "--model_name_or_path", "other")).error
    assert "model_name_or_path differ" in clash, "answers of two models are never mixed"


def test_reasons_stand_under_the_table(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    server.scripts = {"number 1": (GONE,)}
    shown = sirl(*attack(goals, tmp_path / "run", server)).out
    assert "Not scored, by reason" in shown
    assert "InternalServerError: CUDA error" in shown


def test_one_kind_of_prompt_that_is_never_taken_stops_nothing(
    sirl: Any, goals: str, tmp_path: Path, server: Server
) -> None:
    server.scripts = {"number": (Reply({"error": {"message": "no snacks, please"}}, 400),)}
    folder = tmp_path / "run"
    message = sirl(*attack(goals, folder, server)).error
    assert "none of 4 requests was answered" in message, "nothing at all was measured"
    assert len(read_jsonl(folder / "attempts.jsonl", Attempt)) == 4, "but the server takes other questions"
    server.scripts = {}
    assert sirl(*attack(goals, folder, server)).code == 0, "where there are only errors, they are asked again"


def test_a_search_stops_in_its_first_round(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    server.scripts = {"": (REFUSED,)}
    message = sirl(*attack(goals, tmp_path / "run", server, "--attacks", "best_of_n,pair")).error
    assert "does not take temperature 0" in message
    assert len(server.requests) < 10


def test_a_judge_that_answers_nothing_stops(sirl: Any, goals: str, tmp_path: Path, server: Server) -> None:
    server.scripts = {"carry the code": (GONE,), "Hello": (GONE,)}
    judge = f"rubric@{server.url}#served"
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps({"prompt": "p", "response": f"Answer {i}"}) + "\n" for i in range(3)))
    out = tmp_path / "out.jsonl"
    message = sirl("judge", file, "--judge", judge, "--output_file", out).error
    assert "--judge rubric@served: none of 3 requests was answered; the reason: InternalServerError: CUDA" in message
    assert not out.exists()
    folder = tmp_path / "run"
    assert "--judge rubric@served: none of" in sirl(*attack(goals, folder, server, "--judge", judge)).error
    assert stage(folder) == "interrupted"
    asked = len(server.requests)
    assert sirl(*attack(goals, folder, server, "--judge", "refusal")).code == 0
    assert len(server.requests) == asked, "the answers were kept"


def test_a_judge_that_takes_none_of_the_responses(sirl: Any, tmp_path: Path, server: Server) -> None:
    server.scripts = {"carry the code": (GONE,)}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"prompt": "p", "response": "Answer"}) + "\n")
    message = sirl("judge", file, "--judge", f"rubric@{server.url}#served").error
    assert (
        "no verdict on any of 1 responses; the reason: the judge model gave no answer (InternalServerError)" in message
    )


def test_what_a_judge_leaves_out_is_said(sirl: Any, tmp_path: Path, server: Server) -> None:
    server.scripts = {"Answer 1": (GONE,)}
    server.answer = lambda _: "no idea"
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps({"prompt": "p", "response": f"Answer {i}"}) + "\n" for i in range(3)))
    result = sirl("judge", file, "--judge", f"rubric@{server.url}#served", "--json").json
    assert sorted(one["count"] for one in result["reasons"]) == [1, 2]


def test_ctrl_c_keeps_what_was_answered(sirl: Any, tmp_path: Path, server: Server) -> None:
    goals, folder = tmp_path / "goals.txt", tmp_path / "run"
    goals.write_text("\n".join(["hang on", *(f"question {i}" for i in range(8))]))
    words = [str(word) for word in attack(str(goals), folder, server)]
    child = subprocess.Popen([sys.executable, "-m", "sirl.cli.main", *words], stderr=subprocess.PIPE, text=True)
    until(lambda: len(server.requests) == 9 or child.poll() is not None)
    assert child.poll() is None, child.communicate()
    time.sleep(0.5)  # the last answers are on their way
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert time.monotonic() - start < 10, "2 s on a machine that does nothing else; the server hangs for 30"
    assert "the same command continues from here" in said
    server.released.set()
    assert len(read_jsonl(folder / "attempts.jsonl", Attempt)) == 8
    assert sirl(*words).code == 0
    assert len(server.requests) == 10


def test_a_referee_is_not_started_in_front_of_a_server_that_answers_nothing(
    sirl: Any, tmp_path: Path, server: Server
) -> None:
    folder = tmp_path / "run"
    words = ("referee", "--with", "garak", "--executable", sys.executable, "--model_name_or_path", "served")
    server.scripts = {"": (GONE,)}
    message = sirl(*words, "--engine", server.url, "--output_dir", folder).error
    assert "none of 1 requests was answered; the reason: InternalServerError: CUDA error" in message
    assert not folder.exists(), "the corrected command needs no --overwrite"
