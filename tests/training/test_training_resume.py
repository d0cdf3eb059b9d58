"""A run that was interrupted and resumed ends with the very bits of one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import HELD, tiny_trainer, trainable
from torch import Tensor
from transformers import TrainerCallback

from sirl.training.metrics import MetricsFile
from tiny_models import PROMPTS

TIMES = {"tokens_per_second", "step_time"}


class StopAt(TrainerCallback):  # type: ignore[misc]
    """The interruption: stop after so many updates, whatever is planned."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def run(
    folder: Path, model: Path, *, stop_at: int | None = None, resume_from: int | None = None, **settings: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]], Any]:
    """Train in `folder`; returns the trained weights, the rows of `metrics.jsonl` without times, and the trainer."""
    callbacks: list[Any] = [MetricsFile(folder / "metrics.jsonl")]
    if stop_at is not None:
        callbacks.append(StopAt(stop_at))
    options = {"save_strategy": "steps", "save_steps": 1, "retention": HELD, "beta": 0.01, "callbacks": callbacks}
    trainer = tiny_trainer(folder / "checkpoints", model, **{**options, **settings})
    torch.manual_seed(1234 if resume_from is None else 4321)  # what is drawn must come from the checkpoint
    checkpoint = None if resume_from is None else str(folder / "checkpoints" / f"checkpoint-{resume_from}")
    trainer.train(resume_from_checkpoint=checkpoint)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return trainable(trainer), [{k: v for k, v in row.items() if k not in TIMES} for row in rows], trainer


def check_resume(
    tmp_path: Path, model: Path, *, save_at: int, stop_at: int, expect_epoch: float, **settings: Any
) -> None:
    """Uninterrupted against: stopped after `stop_at`, taken up again at the checkpoint of `save_at`."""
    weights, rows, whole = run(tmp_path / "whole", model, **settings)
    run(tmp_path / "parts", model, stop_at=stop_at, **settings)
    state = json.loads((tmp_path / "parts/checkpoints" / f"checkpoint-{save_at}" / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(expect_epoch, abs=1e-3)
    resumed, resumed_rows, parts = run(tmp_path / "parts", model, resume_from=save_at, **settings)
    last = len(parts.record.steps)
    expected = [step.completion_ids for step in whole.record.steps[-last:]]
    assert [step.completion_ids for step in parts.record.steps] == expected, "the same responses are drawn"
    assert resumed.keys() == weights.keys()
    for name in weights:
        assert torch.equal(resumed[name], weights[name]), name
    assert resumed_rows == rows
    assert [row["step"] for row in rows] == list(range(1, settings["max_steps"] + 1))


# 8 prompts, 2 an update: 4 updates an epoch
@pytest.mark.parametrize(
    ("save_at", "stop_at", "epoch"),
    [(1, 1, 0.25), (3, 3, 0.75), (2, 3, 0.5), (4, 4, 1.0), (9, 10, 2.25)],
    ids=["epoch 0, first update", "epoch 0", "checkpoint before the end", "between epochs", "epoch 2"],
)
def test_lora(save_at: int, stop_at: int, epoch: float, tmp_path: Path, model_folder: Any) -> None:
    check_resume(
        tmp_path, model_folder("llama"), save_at=save_at, stop_at=stop_at, expect_epoch=epoch, max_steps=save_at + 3
    )


@pytest.mark.parametrize(("save_at", "epoch"), [(2, 0.5), (9, 2.25)])
def test_full_fine_tuning(save_at: int, epoch: float, tmp_path: Path, model_folder: Any) -> None:
    check_resume(
        tmp_path,
        model_folder("qwen2"),
        save_at=save_at,
        stop_at=save_at,
        expect_epoch=epoch,
        lora=False,
        max_steps=save_at + 2,
    )


def test_learning_rate_schedule_and_random_reward(tmp_path: Path, model_folder: Any) -> None:
    check_resume(
        tmp_path,
        model_folder("qwen3"),
        save_at=3,
        stop_at=4,
        expect_epoch=0.75,
        max_steps=6,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        reward="random",
    )


def test_bfloat16_base(tmp_path: Path, model_folder: Any) -> None:
    check_resume(
        tmp_path,
        model_folder("llama"),
        save_at=5,
        stop_at=5,
        expect_epoch=1.25,
        max_steps=7,
        dtype=torch.bfloat16,
    )


# micro-batches of one group: 8 an epoch
@pytest.mark.parametrize(
    ("settings", "save_at", "epoch"),
    [
        # one generation batch an update, in two micro-batches, over which its rows are shuffled
        ({"gradient_accumulation_steps": 2}, 5, 1.25),
        # one generation batch for two updates, made twice over: the checkpoint falls where it ends
        ({"steps_per_generation": 2, "num_iterations": 2, "save_steps": 4}, 4, 0.25),
        # two generation batches an update
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 1}, 6, 1.5),
        # the same, and the epoch ends in the middle of an update
        ({"gradient_accumulation_steps": 3, "steps_per_generation": 1}, 4, 1 + 1 * 3 / 8),
    ],
    ids=["accumulation", "several updates a batch", "several batches an update", "odd epochs"],
)
def test_batches_and_updates_of_different_size(
    settings: dict[str, Any], save_at: int, epoch: float, tmp_path: Path, model_folder: Any
) -> None:
    check_resume(
        tmp_path,
        model_folder("llama"),
        save_at=save_at,
        stop_at=save_at,
        expect_epoch=epoch,
        per_device_train_batch_size=4,
        max_steps=save_at + 4,
        **settings,
    )


def test_a_finished_run_is_not_trained_on(tmp_path: Path, model_folder: Any) -> None:
    weights, rows, _ = run(tmp_path, model_folder("llama"), max_steps=3)
    again, rows_again, trainer = run(tmp_path, model_folder("llama"), max_steps=3, resume_from=3)
    assert trainer.record.steps == []
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert rows_again == rows


def test_another_seed_draws_other_responses(tmp_path: Path, model_folder: Any) -> None:
    _, _, first = run(tmp_path / "a", model_folder("llama"), max_steps=1, seed=1)
    _, _, second = run(tmp_path / "b", model_folder("llama"), max_steps=1, seed=2)
    assert first.record.steps[0].completion_ids != second.record.steps[0].completion_ids


def test_every_epoch_has_its_own_order_and_responses(tmp_path: Path, model_folder: Any) -> None:
    _, _, trainer = run(tmp_path, model_folder("llama"), max_steps=12, learning_rate=0.0)
    prompts = [[tuple(p) for p in step.prompt_ids[::4]] for step in trainer.record.steps]
    epochs = [prompts[i : i + 4] for i in (0, 4, 8)]
    for epoch in epochs:
        assert len({p for step in epoch for p in step}) == len(PROMPTS), "every prompt once an epoch"
    assert epochs[0] != epochs[1] != epochs[2]
    drawn = {
        (tuple(p), tuple(c)) for s in trainer.record.steps for p, c in zip(s.prompt_ids, s.completion_ids, strict=True)
    }
    assert len(drawn) > 0.7 * 12 * 8, "with weights that never move, fresh responses all the same"
