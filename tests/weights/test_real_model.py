"""A real, aligned model from the gap to the report: Qwen2.5-Coder-0.5B-Instruct, in the least that is the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sirl.cli.main import main
from sirl.errors import UserError
from sirl.run_folder import ATTACKS, GAP, REPORT, SUMMARY
from sirl.weights.cache import cache_folder
from sirl.weights.fetch import fetch
from sirl.weights.known import known_models

NAME = "qwen2.5-coder-0.5b"
LEAST = """
name: real
model_name_or_path: qwen2.5-coder-0.5b
gap: {dataset_name: demo/behaviours, benign_dataset_name: demo/retention-code, max_prompts: 3, k: 2, max_new_tokens: 6}
train:
  dataset_name: demo/train
  max_prompts: 4
  use_peft: true
  lora_r: 4
  lora_target_modules: all-linear
  max_steps: 1
  num_generations: 2
  per_device_train_batch_size: 2
  max_completion_length: 6
  report_to: none
attack: {attacks: [direct, poem], goals: demo/behaviours, max_goals: 1, max_new_tokens: 6, recheck_tokens: 0}
evals: {overrefusal: demo/overrefusal, max_prompts: 2, max_new_tokens: 6, drift: false}
"""


@pytest.mark.slow
def test_from_the_gap_to_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        fetch(known_models()[NAME], cache_folder())
    except UserError as error:
        pytest.skip(f"{NAME} cannot be fetched here: {error}")
    config = tmp_path / "least.yaml"
    config.write_text(LEAST)
    run = tmp_path / "run"
    assert main(["run", "--config", str(config), "--output_dir", str(run)]) == 0, capsys.readouterr().err[-2000:]
    gap = json.loads((run / GAP).read_text())
    assert sum(gap["counts"].values()) > 0
    attempts = [json.loads(line) for line in (run / ATTACKS.attempts).read_text().splitlines()]
    assert {(a["attack"], a["phase"]) for a in attempts} == {
        (a, p) for a in ("direct", "poem") for p in ("before", "after")
    }
    assert all(a["error"] is None and a["response"] for a in attempts)
    summary = json.loads((run / SUMMARY).read_text())
    assert 0 <= summary["dsr_before"] <= 1
    assert 0 <= summary["dsr_after"] <= 1
    assert NAME in (run / REPORT).read_text()
    assert (run / "model" / "model.safetensors").stat().st_size > 800_000_000, "the whole model, in transformers format"
