"""A whole training step: ours against TRL's GRPO with a reward function that measures entropy the obvious way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.workers import SIRL_ENV, Contender, Turns
from benchmarks.workload import Size, prompt_texts

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
MANY = 1_000


class _OverError(Exception):
    pass


class _TakeTurns(TrainerCallback):
    """An update a turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.turns.next():
            raise _OverError

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turns.done()


def _settings(folder: Path, size: Size, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder.parent / "out"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": size.rows // rows,
        "num_generations": size.group,
        "max_completion_length": size.tokens,
        "max_steps": MANY,
        "learning_rate": 1e-6,
        "beta": 0.001,
        "loss_type": "grpo",
        "temperature": 1.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
        "use_cpu": True,
    }


def sirl_step(turns: Turns, folder: Path, size: Size, rows: int) -> None:
    """`SIRLTrainer` with the settings of the demo, without retention, which plain TRL does not have.

    All responses are learnt from, `rows` at a time: fewer need less memory. (A quarter of the rows, a thousand
    tokens, is a size that oneDNN multiplies at half speed on the machine that this was written on.)
    """
    from peft import LoraConfig

    from sirl.models import load_model, load_tokenizer
    from sirl.training import SIRLConfig, SIRLTrainer

    trainer = SIRLTrainer(
        load_model(str(folder)),
        SIRLConfig(**_settings(folder, size, rows), retention_weight=0.0),
        _dataset(size),
        processing_class=load_tokenizer(str(folder)),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        callbacks=[_TakeTurns(turns)],
    )
    _until_over(trainer)


def plain_trl_step(turns: Turns, folder: Path, size: Size, rows: int, dtype: str, bf16: bool) -> None:
    """`GRPOTrainer`, whose reward function runs the model once more and takes entropies from full logits."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def entropy_reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rewards = []
        for start in range(0, len(prompts), rows):
            chats = [
                tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=True, return_dict=True)[
                    "input_ids"
                ]
                for p in prompts[start : start + rows]
            ]
            answers = completion_ids[start : start + rows]
            batch = tokenizer.pad(
                {"input_ids": [[*c, *a] for c, a in zip(chats, answers, strict=True)]},
                padding_side="left",
                return_tensors="pt",
            )
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = trainer.model(**batch).logits.float()
            logp = logits.log_softmax(-1)
            entropies = -(logp.exp() * logp).sum(-1)
            for row, answer in zip(entropies, answers, strict=True):
                rewards.append(-row[-len(answer) - 1 : -1].mean().item())
        return rewards

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
        reward_funcs=entropy_reward,
        args=GRPOConfig(**_settings(folder, size, rows), bf16=bf16),
        train_dataset=_dataset(size),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        callbacks=[_TakeTurns(turns)],
    )
    _until_over(trainer)


def _dataset(size: Size) -> Any:
    from datasets import Dataset

    chats = [[{"role": "user", "content": text}] for text in prompt_texts(20 * size.prompts)]
    return Dataset.from_dict({"prompt": chats})


def _until_over(trainer: Any) -> None:
    try:
        trainer.train()
    except _OverError:
        return
    raise RuntimeError("training ended before the benchmark")


def contenders(folder: Path, size: Size, every_setting: bool = False) -> tuple[list[Contender], list[Contender]]:
    """Ours, and plain TRL; in all the settings that were tried, or in the ones that the ratio is made of."""
    given = {"folder": folder, "size": size}
    third = size.group * max(1, size.prompts // 3)
    ours = [
        Contender(name, sirl_step, {**given, "rows": rows}, SIRL_ENV)
        for name, rows in (("sirl", third), ("sirl, all rows at once", size.rows))
    ]
    settings = {
        "plain TRL": (8, "bfloat16", False),  # TRL's own default, and the fastest that was found
        "plain TRL, all rows at once": (size.rows, "bfloat16", False),
        "plain TRL, bf16 autocast": (size.rows, "bfloat16", True),
        "plain TRL, fp32 weights": (size.rows, "float32", False),
    }
    plain = [
        Contender(name, plain_trl_step, {**given, "rows": rows, "dtype": dtype, "bf16": bf16})
        for name, (rows, dtype, bf16) in settings.items()
    ]
    return (ours, plain) if every_setting else (ours[:1], plain[:1])
