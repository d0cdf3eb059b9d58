"""The same training runs by one process or several, which `ranks.py` starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# what is imported below is found by way of these paths
# ruff: noqa: E402
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch
from accelerate import PartialState
from tiny_runs import HELD, tiny_config, tiny_trainer, trainable
from trl import ModelConfig

from sirl.training import SIRLTrainer
from sirl.training.arguments import DataConfig
from sirl.training.metrics import MetricsFile
from sirl.training.run import run_training
from tiny_models import PROMPTS

# rows an update and retention rows are those of all processes together
CASES: dict[str, dict[str, Any]] = {
    # 4 groups of 4, two for each of two processes
    "lora": {"rows": 16, "held": 4, "lora": True, "beta": 0.01},
    # 3 groups of 4: the second is shared by two processes; updates of two micro-batches
    "shared group": {"rows": 12, "held": 4, "lora": True, "gradient_accumulation_steps": 2, "temperature": 0.7},
    "full": {"rows": 8, "held": 2, "lora": False, "beta": 0.01, "learning_rate": 0.003},
    "random": {"rows": 8, "held": 2, "lora": True, "reward": "random"},
}


def train(case: str, model: Path, out: Path, processes: int, rank: int) -> None:
    """One case; what this process saw goes to `out/CASE/RANK.pt`."""
    settings = dict(CASES[case])
    accumulated = settings.get("gradient_accumulation_steps", 1)
    folder = out / case
    trainer = tiny_trainer(
        folder,
        model,
        retention=HELD,
        per_device_train_batch_size=settings.pop("rows") // processes // accumulated,
        retention_batch_size=settings.pop("held") // processes,
        max_steps=3,
        callbacks=[MetricsFile(folder / "metrics.jsonl")],
        optim="sgd",
        max_grad_norm=1e9,
        **{"learning_rate": 0.05, **settings},
    )
    trainer.train()
    torch.save(
        {"steps": [vars(step) for step in trainer.record.steps], "weights": trainable(trainer)}, folder / f"{rank}.pt"
    )


def main() -> None:
    """All cases, then full fine-tuning from files, whose processes share a folder."""
    SIRLTrainer._says_nothing = lambda *_: False  # type: ignore[method-assign]  # tiny models often do, and earn nothing
    torch.set_num_threads(1)
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    for case in CASES:
        train(case, model, out, processes, rank)
    prompts = out / f"prompts{rank}.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    config = tiny_config(
        out / "run",
        beta=0.1,
        per_device_train_batch_size=8 // processes,
        optim="sgd",
        max_steps=2,
        save_strategy="steps",
    )
    run_training(
        config, ModelConfig(model_name_or_path=str(model), dtype="float32"), DataConfig(dataset_name=str(prompts))
    )
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
