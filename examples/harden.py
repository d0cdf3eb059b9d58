"""Harden a model folder from Python and save it: 20 updates with LoRA, held to the base model on benign prompts.

python examples/harden.py MODEL OUTPUT_DIR
"""

from __future__ import annotations

import sys
from typing import Any

from datasets import Dataset
from peft import LoraConfig

from sirl import SIRLConfig, SIRLTrainer, load_model, load_prompts, load_tokenizer


def harden(
    model: str, output_dir: str, prompts: str = "demo/train", benign: str = "demo/retention", **more: Any
) -> str:
    """Train on unlabeled prompts; returns the folder of the hardened model. `more` are fields of `SIRLConfig`."""
    settings = {"max_steps": 20, "max_completion_length": 48, "num_generations": 8, "report_to": [], **more}
    tokenizer = load_tokenizer(model)
    trainer = SIRLTrainer(
        load_model(model),
        SIRLConfig(output_dir=output_dir, **settings),
        Dataset.from_dict({"prompt": [prompt.text for prompt in load_prompts(prompts)]}),
        processing_class=tokenizer,
        retention_prompts=load_prompts(benign),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    folder = f"{output_dir}/model"
    trainer.model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(harden(*(sys.argv[1:] or ["demo", "runs/example"])))
