"""What is logged, and the file it goes to."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sirl
from sirl.training.metrics import MetricsFile, rollout_metrics, tidy


def test_rollout_metrics() -> None:
    texts = ["I'm sorry, but I can't help with that.", "Bread needs flour, water, salt and yeast. Mix them.", "", ""]
    got = rollout_metrics(texts, [[1, 2, 3, 4], [5] * 8, [], [2]])
    assert set(got) == {"empty_rate", "repetition_rate", "distinct_response_rate"}
    assert got["empty_rate"] == 0.5
    assert got["distinct_response_rate"] == 0.75
    assert got["repetition_rate"] == pytest.approx((1 - 1 / 5) / 4)
    assert rollout_metrics([], []) == {
        "empty_rate": 0.0,
        "repetition_rate": 0.0,
        "distinct_response_rate": 1.0,
    }


def imported(path: Path, at_once: bool) -> set[str]:
    """Modules that a file imports, and what it imports from them: when it is imported itself, or ever."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_training_knows_no_judge() -> None:
    """Neither its own files, wherever in them, nor what these import to be imported."""
    package = Path(sirl.__file__).parent
    todo = sorted((package / "training").glob("*.py"))
    assert len(todo) > 10
    for path in todo:
        assert not [name for name in imported(path, False) if name.startswith("sirl.judges")], path
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        seen.add(path)
        assert "judges" not in path.parts, f"{path} is reached from training"
        places = [package.parent / name.replace(".", "/") for name in imported(path, True) if name.startswith("sirl")]
        files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
        todo += [file for file in files if file.exists() and file not in seen]
    assert package / "generation/decode.py" in seen, "the search works"


def test_tidy() -> None:
    logs = {
        "reward": -1.0,
        "rewards/entropy_reward/mean": -1.0,
        "completions/mean_length": 8.0,
        "completions/clipped_ratio": 0.5,
        "completions/max_length": 9.0,
        "frac_reward_zero_std": 0.25,
        "clip_ratio/low_mean": 0.0,
        "kl": 0.1,
    }
    assert tidy(logs) == {
        "reward": -1.0,
        "completion_length": 8.0,
        "truncated_rate": 0.5,
        "zero_spread_rate": 0.25,
        "kl": 0.1,
    }


def state(step: int, seen: int = 0, main: bool = True) -> Any:
    return SimpleNamespace(global_step=step, num_input_tokens_seen=seen, is_world_process_zero=main)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(path: Path, steps: range, seen: int = 0) -> None:
    metrics = MetricsFile(path)
    metrics.on_train_begin(None, state(steps.start, seen), None)
    for step in steps:
        logs = {"loss": 0.0, "reward": -float(step + 1), "num_tokens": seen + 100.0 * (step + 1 - steps.start)}
        metrics.on_log(None, state(step + 1), None, logs)


def test_one_line_an_update(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    run(path, range(3))
    assert [row["step"] for row in rows(path)] == [1, 2, 3]
    assert [row["reward"] for row in rows(path)] == [-1.0, -2.0, -3.0]
    assert all(row["tokens_per_second"] > 0 for row in rows(path))


def test_lines_after_the_checkpoint_are_cut_off_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    run(path, range(5))
    with path.open("a") as out:
        out.write('{"step": 6, "rew')  # killed while writing
    run(path, range(3, 6), seen=300)
    assert [row["step"] for row in rows(path)] == [1, 2, 3, 4, 5, 6]
    run(path, range(1))
    assert [row["step"] for row in rows(path)] == [1], "a run from the start begins a new file"


def test_only_the_main_process_writes_and_only_rollout_logs(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.on_train_begin(None, state(0, main=False), None)
    metrics.on_log(None, state(1, main=False), None, {"loss": 1.0})
    metrics.on_log(None, state(1), None, {"train_loss": 3.0})  # transformers' summary at the end
    metrics.on_log(None, state(1), None, None)
    assert not path.exists()


def test_what_is_not_finite_or_cannot_be_written_never_stops_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first overflow of a loss scaler logs an infinite norm, by design; and a disk may be full for a while."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.on_log(None, state(1), None, {"loss": float("nan"), "grad_norm": float("inf"), "reward": -1.0})
    assert rows(path)[0].items() >= {"step": 1, "loss": None, "grad_norm": None, "reward": -1.0}.items()
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr("sirl.disk.os.write", _no_space)
        for step in (2, 3):
            metrics.on_log(None, state(step), None, {"loss": 0.0})
    (told,) = caplog.records
    assert "No space left on device" in told.getMessage()
    assert "training continues without a line for update 2" in told.getMessage()
    metrics.on_log(None, state(4), None, {"loss": 0.0})
    assert [row["step"] for row in rows(path)] == [1, 4]


def _no_space(*_: object) -> int:
    raise OSError(28, "No space left on device")
