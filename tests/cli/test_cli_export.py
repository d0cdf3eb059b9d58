"""`sirl export`: logs that Inspect reads, and files as lm-evaluation-harness writes them."""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from report_runs import attack_rows, benign_rows, wrapped_rows, write_run
from sirl.report import summarise_run

INSTALLED = importlib.util.find_spec("inspect_ai") is not None
NOTHING = dict.fromkeys(("metrics", "gap", "gap_samples"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = attack_rows(3, {"base64": (0.3, 0.7), "dan": (0.5, 0.9)})
    return write_run(tmp_path / "mine", attacks=rows, benign=benign_rows(2), wrapped=wrapped_rows(2), **NOTHING)


def test_bad_input_is_one_line(sirl: Any, run: Path) -> None:
    assert "no format given" in sirl("export", run).error
    assert "no such run folder" in sirl("export", "nowhere", "--inspect").error


@pytest.mark.skipif(INSTALLED, reason="Inspect is installed")
def test_without_inspect(sirl: Any, run: Path) -> None:
    assert "pip install 'sirl[inspect]'" in sirl("export", run, "--inspect").error
    assert not list(run.glob("*.eval"))


@pytest.mark.skipif(not INSTALLED, reason="needs the extra `inspect`")
def test_inspect_reads_the_logs(sirl: Any, run: Path, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    out = tmp_path / "logs"
    made = sirl("export", run, "--inspect", "--output_dir", out, "--json").json["logs"]
    assert [Path(path).name for path in made] == ["mine-before.eval", "mine-after.eval"]
    assert sorted(path.name for path in out.iterdir()) == ["mine-after.eval", "mine-before.eval"]
    summary = summarise_run(run)
    stage = json.loads((run / "manifest.json").read_text())["stages"]["attack_before"]
    for path, phase in zip(made, ("before", "after"), strict=True):
        log = read_eval_log(path)
        assert log.samples is not None
        taken = [datetime.fromisoformat(end) for end in (log.stats.started_at, log.stats.completed_at)]
        if phase == "before":
            assert (taken[1] - taken[0]).total_seconds() == pytest.approx(stage.get("seconds", 0))
        assert len(log.samples) == 2 * 3 * 2 + 2 * 2 * 2 + 3 * 2
        (score,) = log.results.scores
        rate = summary["attack"]["rates"]["greedy"][phase]["overall"]["rate"]
        assert score.metrics["dsr_static"].value == pytest.approx(rate)
        assert set(score.metrics) == {"dsr_static", "benign_refusal", "adversarial_benign"}
        refused = [s for s in log.samples if s.metadata["attack"] == "base64" and s.metadata["kind"] == "attack"]
        assert refused[0].metadata["atlas"] == ["AML.T0054", "AML.T0068"]
        assert {s.scores["verdict"].value for s in log.samples} <= {"full_refusal", "full_compliance"}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A run with one benchmark."""
    rows = [
        {"id": f"arc/{i}", "figures": {"acc": float(i < 3)}, "chance": 0.25, "prompt": f"question {i}", "response": ""}
        for i in range(4)
    ]
    run = tmp_path / "run"
    (run / "benchmarks").mkdir(parents=True)
    for phase in ("before", "after"):
        (run / "benchmarks" / f"arc.{phase}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"acc": {"n": 4, "before": {"value": 0.75, "low": 0.3, "high": 0.95}, "after": None}}
    models = {"before": "org/base", "after": str(run / "model")}
    (run / "benchmarks.json").write_text(json.dumps({"models": models, "benchmarks": {"arc": {"figures": figures}}}))
    return run


def test_benchmarks_as_files_of_the_harness(sirl: Any, measured: Path, tmp_path: Path) -> None:
    made = sirl("export", measured, "--lm_eval", "--output_dir", tmp_path / "out", "--json").json["lm_eval"]
    assert len(made) == 4
    (before,) = (tmp_path / "out" / "org__base").glob("results_*.json")
    found = json.loads(before.read_text())
    assert found["results"]["arc"] == {"alias": "arc", "acc,none": 0.75, "acc_stderr,none": "N/A"}
    assert found["n-samples"]["arc"]["effective"] == 4
    (samples,) = before.parent.glob("samples_arc_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [line["acc"] for line in lines] == [1.0, 1.0, 1.0, 0.0]
    assert samples.stem.partition("arc_")[2] == before.stem.partition("results_")[2]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra `eval`")
def test_the_harness_reads_its_files(sirl: Any, measured: Path, tmp_path: Path) -> None:
    from lm_eval import utils

    made = sirl("export", measured, "--lm_eval", "--output_dir", tmp_path / "out", "--json").json["lm_eval"]
    results, samples = utils.get_results_filenames(made), utils.get_sample_results_filenames(made)
    assert len(results) == len(samples) == 2
    latest = utils.get_latest_filename([path for path in samples if "org__base" in path])
    assert utils.get_file_datetime(latest) in "".join(results)
    found = json.loads(Path(next(path for path in results if "org__base" in path)).read_text())
    table = utils.make_table(found)
    assert "arc" in table
    assert "0.75" in table


def test_without_benchmarks_there_is_nothing_for_the_harness(sirl: Any, run: Path) -> None:
    assert "sirl eval --tasks" in sirl("export", run, "--lm_eval").error
