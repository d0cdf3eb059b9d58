"""A comparison small enough for tests: mild prompts in files, a YAML file, judges for models that speak gibberish."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sirl.judges.base import JudgeItem, Judgement

PLAIN_TRAINING: dict[str, Any] = {
    "train_sampling_strategy": "sequential",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "max_length": None,
    "seed": 0,
}
"""Arguments of a trainer of TRL that only trains, its rows in their order."""
TASKS = [f"bread {i}?" for i in range(8)]


class ParityJudge:
    """Calls every response of an even number of characters a refusal: with random text, about half of them."""

    name = "parity"

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [Judgement("full_compliance" if len(item.response) % 2 else "full_refusal") for item in items]


class NeverJudge:
    """Sees no refusal anywhere."""

    name = "never"

    def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [Judgement("full_compliance") for _ in items]


def write_prompts(path: Path, texts: Sequence[str], categories: Sequence[str] = ("plain",)) -> str:
    rows = [
        {"id": f"{path.stem}{i}", "prompt": text, "category": categories[i % len(categories)]}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_config(folder: Path, model: str, **train: Any) -> Path:
    """A run of two updates of four completions, two prompts each."""
    config = {
        "name": "tiny",
        "model_name_or_path": model,
        "gap": {"max_prompts": 4, "k": 2, "max_new_tokens": 6, "judge": "compare_helpers:ParityJudge"},
        "train": {
            "dataset_name": write_prompts(folder / "train.jsonl", TASKS),
            "retention_dataset_name": write_prompts(folder / "held.jsonl", [f"lighthouse {i}?" for i in range(3)]),
            "use_peft": True,
            "lora_r": 4,
            "lora_target_modules": "all-linear",
            "learning_rate": 0.01,
            "max_steps": 2,
            "num_generations": 2,
            "num_rollouts": 4,
            "per_device_train_batch_size": 4,
            "max_completion_length": 6,
            "retention_batch_size": 2,
            "retention_tokens": 4,
            "wrap_prompts": write_prompts(folder / "wrapped.jsonl", [f"candle {i}?" for i in range(6)]),
            "pair_batch_size": 3,
            "pair_tokens": 3,
            "report_to": "none",
            "use_cpu": True,
            **train,
        },
        "attack": {
            "attacks": "direct,system_override",
            "goals": write_prompts(folder / "goals.jsonl", [f"goal {i}" for i in range(4)]),
            "max_new_tokens": 6,
            "decoding": ["greedy"],
            "judge": "compare_helpers:ParityJudge",
        },
        "evals": {
            "overrefusal": write_prompts(
                folder / "benign.jsonl", [f"tomato {i}?" for i in range(4)], ["plain", "sounds_harmful"]
            ),
            "max_new_tokens": 6,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
