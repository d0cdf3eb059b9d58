"""SFT and DPO over packed rows: TRL's own losses and gradients are the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compare_helpers import PLAIN_TRAINING
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, SFTConfig

from sirl.compare.baseline_trainers import AnswerTrainer, PairTrainer
from sirl.models import load_model

ANSWERS = [
    {"input_ids": [3, 4, 5, 6, 7, 8], "labels": [-100, -100, -100, 6, 7, 8]},
    {"input_ids": [3, 4, 9, 2], "labels": [-100, -100, 9, 2]},
    {"input_ids": [11, 12, 13, 14, 15, 16, 17, 2], "labels": [*[-100] * 5, 16, 17, 2]},
    {"input_ids": [3, 4, 5, 10], "labels": [-100, -100, -100, 10]},
]
PAIRS = [
    {"prompt_ids": [3, 4, 5], "chosen_ids": [6, 7, 2], "rejected_ids": [8, 9, 10, 11, 2]},
    {"prompt_ids": [12, 13], "chosen_ids": [14, 2], "rejected_ids": [15]},
]


def trained(kind: str, folder: Path, model: Path, tokenizer: Any, packs: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of an update and the weights after two, all rows in two parts."""
    trainer_type, config_type, rows = {
        "sft": (AnswerTrainer, SFTConfig, ANSWERS),
        "dpo": (PairTrainer, DPOConfig, PAIRS),
    }[kind]
    args = config_type(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=len(rows) // 2,
        gradient_accumulation_steps=2,
        learning_rate=0.05,
        **PLAIN_TRAINING,
    )
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    trainer = trainer_type(
        model=load_model(str(model), dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    if packs:
        trainer.prepare()
        assert trainer.packs
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return losses[0], weights


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_packed_rows_are_learnt_as_padded_ones(
    tmp_path: Path, model_folder: Any, tokenizer: Any, kind: str, architecture: str
) -> None:
    folder = model_folder(architecture)
    loss, weights = trained(kind, tmp_path / "padded", folder, tokenizer, packs=False)
    packed_loss, packed_weights = trained(kind, tmp_path / "packed", folder, tokenizer, packs=True)
    assert packed_loss == pytest.approx(loss, rel=1e-4)
    assert packed_weights.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(packed_weights[name], value, rtol=1e-3, atol=1e-4, msg=name)
