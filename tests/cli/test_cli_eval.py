"""`sirl eval`: two models, one after the other, compared; goes on where it was."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

HARNESS = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra `eval` (lm-evaluation-harness)"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four questions, four open requests and four benign prompts of two categories."""
    folder = tmp_path / "data"
    folder.mkdir()
    questions = [{"id": f"q{i}", "prompt": f"Which is {i}?\nA. one\nB. two", "answer": "A"} for i in range(4)]
    requests = [{"id": f"c{i}", "prompt": f"How do I bake loaf {i}?", "category": "ab"[i % 2]} for i in range(4)]
    for name, rows in (("arc", questions), ("chat", requests)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def words(model_folder: Any, tmp_path: Path) -> list[object]:
    return [
        *("eval", "--model_name_or_path", model_folder("qwen2"), "--reference", model_folder("llama")),
        *("--output_dir", tmp_path / "out", "--json"),
    ]


def test_overrefusal_needs_no_extra(sirl: Any, words: list[object], data: Path, tmp_path: Path) -> None:
    found = sirl(*words, "--overrefusal", data / "chat.jsonl").json["overrefusal"]
    assert found["kinds"] == ["a", "b"]
    for phase in ("before", "after"):
        table = found["overall"]["greedy"][phase]
        assert (table["n"], table["attempts"]) == (4, 4)
        assert table["partial_rate"] is not None
        assert [found["rates"]["greedy"][phase][kind]["n"] for kind in "ab"] == [2, 2]
    assert json.loads((tmp_path / "out" / "benchmarks.json").read_text())["overrefusal"] == found
    assert "holds a finished eval" in sirl(*words, "--overrefusal", data / "chat.jsonl").error
    (tmp_path / "out" / "model").mkdir()  # as in the folder of a run
    shown = sirl(*[w for w in words if w != "--json"], "--overrefusal", data / "chat.jsonl", "--overwrite")
    assert (tmp_path / "out" / "model").is_dir()
    assert "Refusals of benign prompts" in shown.out
    assert "partly before" in shown.out


@HARNESS
def test_benchmarks(sirl: Any, words: list[object], data: Path, tmp_path: Path) -> None:
    found = sirl(*words, "--data_dir", data, "--tasks", "arc,chat").json
    assert set(found["benchmarks"]) == {"arc", "chat"}
    arc, chat = found["benchmarks"]["arc"], found["benchmarks"]["chat"]
    assert (arc["rows"], arc["chance"]) == (4, 0.5)
    assert set(arc["figures"]["acc"]["difference"]) == {"value", "low", "high"}
    assert arc["statement"]
    assert set(chat["figures"]) == {"refused", "partly_refused", "words", "repetition"}
    assert found["drift"]["answers"] >= 1
    assert found["drift"]["kl"]["value"] > 0
    rows = tmp_path / "out" / "benchmarks"
    assert {path.name for path in rows.glob("*.jsonl")} == {
        f"{name}.{phase}.jsonl" for name in ("arc", "chat") for phase in ("before", "after")
    }


@HARNESS
def test_it_goes_on_by_benchmark_and_model(
    sirl: Any, words: list[object], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sirl.evals import harness

    run, seen = harness.run_benchmark, []

    def breaking(benchmark: Any, *rest: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(benchmark.name)
        return run(benchmark, *rest)

    monkeypatch.setattr(harness, "run_benchmark", breaking)
    stopped = sirl(*words, "--data_dir", data, "--tasks", "arc,chat")
    assert stopped.code == 130
    assert "the same command continues from here" in stopped.err
    assert seen == ["arc", "chat", "arc"]
    seen.clear()
    went_on = sirl(*words, "--data_dir", data, "--tasks", "arc,chat").json
    assert seen == ["chat"]
    monkeypatch.undo()
    words[words.index("--output_dir") + 1] = tmp_path / "whole"
    whole = sirl(*words, "--data_dir", data, "--tasks", "arc,chat").json
    assert {k: went_on[k] for k in ("benchmarks", "drift")} == {k: whole[k] for k in ("benchmarks", "drift")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--tasks: nothing to measure; give --tasks, --overrefusal or both"),
        (["--tasks", "mbpp=x.jsonl"], "--tasks: no such file: x.jsonl"),
        (["--tasks", "gsm8k", "--data_dir", "."], "--tasks gsm8k: no gsm8k*.jsonl in --data_dir"),
        (["--overrefusal", "xstest"], "--overrefusal: xstest stands for walledai/XSTest on the hub"),
        (["--overrefusal", "none.jsonl"], "--overrefusal: no such file: none.jsonl"),
        (["--tasks", "arc", "--limit", "0"], "--limit: must be 1 or more"),
        (["--overrefusal", "x.txt", "--limit", "3"], "--max_rows: says something of --tasks, which is not given"),
        (["--overrefusal", "x.txt", "--max_rows", "3"], "--max_rows: says something of --tasks, which is not given"),
        (["--overrefusal", "x.txt", "--data_dir", "."], "--data_dir: says something of --tasks"),
        (["--tasks", "gsm8k", "--allow_unsandboxed_code"], "needs --allow_code_execution; give both or neither"),
        (["--overrefusal", "x.txt", "--allow_code_execution"], "--allow_code_execution: says something of --tasks"),
        (["--tasks", "arc_easy", "--max_prompts", "3"], "--max_prompts: says something of --overrefusal"),
    ],
)
def test_mistakes_are_one_line(sirl: Any, words: list[object], more: list[str], message: str, tmp_path: Path) -> None:
    assert message in sirl(*words, *more).error
    assert not (tmp_path / "out").exists()


@HARNESS
def test_names_are_looked_up_before_a_model_is_loaded(
    sirl: Any, words: list[object], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sirl.evals import harness

    class Index:
        """Stands in for the harness's index, which takes seconds."""

        all_tasks = ("arc_easy", "gsm8k_cot")

        def __init__(self, **_: Any) -> None: ...

    def loaded(*_: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(harness, "TaskManager", Index)
    monkeypatch.setattr("sirl.experiment.evaluate.load_local", loaded)
    words += ["--data_dir", data]
    said = sirl(*words, "--tasks", "arc,arc_easy,gms8k").error
    assert "--tasks gms8k: lm-evaluation-harness has no task of this name; did you mean gsm8k?" in said
    assert not (tmp_path / "out").exists()


def test_code_is_run_on_request_alone(sirl: Any, words: list[object], data: Path) -> None:
    (data / "mbpp.jsonl").write_text(json.dumps({"prompt": "p", "test_list": ["assert True"]}) + "\n")
    said = sirl(*words, "--tasks", "mbpp", "--data_dir", data).error
    assert "runs programs that the model writes; add --allow_code_execution" in said


def test_without_the_extra(sirl: Any, words: list[object], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sirl.experiment import evaluate

    monkeypatch.setattr(evaluate, "find_spec", lambda _: None)
    said = sirl(*words, "--tasks", "arc", "--data_dir", data).error
    assert "--tasks: needs the extra `eval` (pip install 'sirl[eval]')" in said


def test_without_isolation_code_is_run_on_a_second_request_alone(
    sirl: Any, words: list[object], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sirl.evals import sandbox

    monkeypatch.setattr(sandbox, "isolated_by", lambda: sandbox.NOTHING)
    monkeypatch.setattr("sirl.experiment.evaluate.find_spec", lambda _: None)  # as far as this goes
    (data / "mbpp.jsonl").write_text(json.dumps({"prompt": "p", "test_list": ["assert True"]}) + "\n")
    words += ["--tasks", "mbpp", "--data_dir", data, "--allow_code_execution"]
    assert "--tasks mbpp: this machine allows no namespaces" in sirl(*words).error
    assert "needs the extra `eval`" in sirl(*words, "--allow_unsandboxed_code").error
    sandbox.allow_unsandboxed(False)
