"""A model, prompts and settings that a CPU trains in seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from sirl.models import load_model, load_tokenizer

MODEL, WIDE = "tiny", "wide"
"""Two layers of 32 units; and one with heads as wide as vLLM's kernels want them."""

HELD = ("How do I bake a loaf?", "What is the capital?", "A story.", "question about France", "The weather?")

TRAINING: dict[str, Any] = {
    "dtype": "float32",
    "num_generations": 4,
    "max_completion_length": 10,
    "max_steps": 3,
    "save_steps": 2,
    "learning_rate": 0.002,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 1e9,
    "beta": 0.02,
    "min_reward_spread": 0.0,
    "retention_tokens": 6,
    "report_to": "none",
    "log_completions": "true",
    "logging_steps": 1,
    "bf16": "false",
}
"""SGD without a limit on gradients: of a gradient that is rounding alone, Adam makes a step of full size."""

ROWS, RETAINED = 8, 2
"""Responses and retention rows of an update, all processes together."""


def write_inputs(work: Path, model: str | None = None) -> None:
    """Models and prompts, in a folder. `model`, as `--model_name_or_path` takes it, stands in for both tiny ones."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from tiny_models import PROMPTS, tiny_model, tiny_tokenizer

    work.mkdir(parents=True, exist_ok=True)
    for name, shape in ((MODEL, {}), (WIDE, {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256})):
        made = load_model(model, dtype=torch.float32) if model else tiny_model("llama", **shape)
        made.save_pretrained(work / name)
        (load_tokenizer(model) if model else tiny_tokenizer()).save_pretrained(work / name)
    (work / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    (work / "held.txt").write_text("\n".join(HELD) + "\n", encoding="utf-8")
