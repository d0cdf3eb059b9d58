"""Small real training runs: trainers on tiny models that keep what they generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM

from sirl.models import load_model
from sirl.records import Prompt
from sirl.training import SIRLConfig, SIRLTrainer
from tiny_models import PROMPTS, reference_scores, tiny_tokenizer

HELD = ("How do I bake a loaf?", "What is the capital?", "A story.", "question about France", "The weather?")
"""Retention prompts. The tiny Llama answers them with 1, 6, 6, 4 and 6 tokens."""


@dataclass
class Step:
    """One generation batch as a reference sees it: recomputed by plain forward passes of the policy of that moment."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    mean_entropy: list[float | None]
    mean_logprob: list[float | None]
    reference_entropy: list[float]
    reference_logprob: list[float]
    exact_entropy: list[float]
    """As `reference_entropy`, by the policy in float64; NaN where the policy is in float32."""
    rewards: Tensor
    advantages: Tensor


@dataclass
class Record:
    """What a run generated, and the columns that its reward function was given."""

    steps: list[Step] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)


@torch.no_grad()
def in_float64(model: Any) -> Any:
    """A plain model with the weights of a PEFT model. (A copy would keep the layers that sirl puts in.)"""
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float64).eval()
    for name, parameter in plain.named_parameters():
        path, _, leaf = name.rpartition(".")
        layer = model.get_base_model().get_submodule(path)
        parameter.copy_(getattr(getattr(layer, "base_layer", layer), leaf))
        if leaf == "weight" and hasattr(layer, "lora_A"):
            a, b = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
            parameter += layer.scaling["default"] * (b @ a)
    return plain


class RecordingTrainer(SIRLTrainer):
    """`SIRLTrainer` that keeps every generation batch beside an independent reference."""

    record: Record

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self.rewards_seen = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.completions_seen = [list(ids) for ids in completion_ids_list]
        return self.rewards_seen

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        model = self.accelerator.unwrap_model(self.model)
        prompt_ids = [
            ids[mask.bool()].tolist() for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)
        ]
        scores = [
            reference_scores(model, p, c, self.temperature)
            for p, c in zip(prompt_ids, self.completions_seen, strict=True)
        ]
        exact_model = in_float64(model) if model.dtype == torch.bfloat16 else None
        exact = [
            float(reference_scores(exact_model, p, c, self.temperature)[0].mean()) if exact_model else math.nan
            for p, c in zip(prompt_ids, self.completions_seen, strict=True)
        ]
        self.record.steps.append(
            Step(
                prompt_ids,
                self.completions_seen,
                [row["mean_entropy"] for row in inputs],
                [row["mean_logprob"] for row in inputs],
                [float(h.mean()) for h, _ in scores],
                [float(lp.mean()) for _, lp in scores],
                exact,
                self.rewards_seen.squeeze(-1).clone(),
                output["advantages"].clone(),
            )
        )
        return output


def tiny_config(output_dir: Path, **settings: Any) -> SIRLConfig:
    """Two groups of four short responses an update."""
    options = {
        "output_dir": str(output_dir),
        "report_to": "none",
        "use_cpu": True,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "min_reward_spread": 0.0,
        "retention_batch_size": 2,
        "retention_tokens": 6,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return SIRLConfig(**{**options, **settings})


def tiny_trainer(
    output_dir: Path,
    model_folder: Path,
    *,
    lora: bool = True,
    prompts: Sequence[str] = PROMPTS,
    retention: Sequence[str] = (),
    pairs: Sequence[Prompt] = (),
    dtype: torch.dtype = torch.float32,
    kind: type[SIRLTrainer] = RecordingTrainer,
    callbacks: list[Any] | None = None,
    **settings: Any,
) -> Any:
    trainer = kind(
        load_model(str(model_folder), dtype=dtype),
        tiny_config(output_dir, **{"learning_rate": 1e-2 if lora else 1e-3, **settings}),
        Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=tiny_tokenizer(),
        retention_prompts=retention,
        pair_prompts=pairs,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear") if lora else None,
        callbacks=callbacks,
    )
    trainer.record = Record()  # type: ignore[attr-defined]
    return trainer


def trainable(trainer: Any) -> dict[str, Tensor]:
    """Copies of the trained weights by name."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def reference_advantages(rewards: Sequence[float], group: int) -> list[float]:
    """`(r - mean) / (std + 1e-4)` within each group, the standard deviation being the sample's."""
    out: list[float] = []
    for start in range(0, len(rewards), group):
        rows = rewards[start : start + group]
        mean = sum(rows) / group
        std = (sum((r - mean) ** 2 for r in rows) / (group - 1)) ** 0.5
        out += [(r - mean) / (std + 1e-4) for r in rows]
    return out
