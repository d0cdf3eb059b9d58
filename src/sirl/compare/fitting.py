"""What other trainings have in common with SIRL's: prompts, updates and rows an update; and how they are fitted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainingArguments

from sirl.experiment.pipeline import policy_checks
from sirl.experiment.plan import Plan
from sirl.progress import BarMaker
from sirl.records import Prompt
from sirl.run_folder import CHECKPOINTS, METRICS
from sirl.training import SIRLConfig
from sirl.training.batching import EpochSampler
from sirl.training.metrics import MetricsFile
from sirl.training.progress_callback import BarCallback
from sirl.training.run import fit, starting_model

Row = dict[str, Any]

MOST_ROWS = 32
"""Rows that go through the model at once in trainings by TRL's own trainers."""


def count_updates(config: SIRLConfig, prompts: int) -> int:
    """Updates that a training by this configuration makes on so many prompts."""
    if config.max_steps > 0:
        return int(config.max_steps)
    per_batch = config.generation_batch_size // config.num_generations
    rows = prompts // per_batch * per_batch * config.num_generations * config.num_iterations
    return math.ceil(config.num_train_epochs * math.ceil(rows / rows_per_update(config)))


def visited_prompts(config: SIRLConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that those updates come to, in their order, each once."""
    per_batch = config.generation_batch_size // config.num_generations
    rows = count_updates(config, len(prompts)) * rows_per_update(config)
    wanted = math.ceil(rows / (config.num_iterations * config.num_generations))
    sampler = EpochSampler(prompts, 1, per_batch, 1, shuffle=config.shuffle_dataset, seed=config.seed)
    order: list[int] = []
    while len(order) < wanted:
        order += sampler
        sampler.set_epoch(sampler.epoch + 1)
    return [prompts[i] for i in dict.fromkeys(order[:wanted])]


def rows_per_update(config: Any) -> int:
    """Rows of one update by any training's arguments, over all processes."""
    return int(config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size)


def rows_at_once(rows: int) -> int:
    """The largest equal part of an update's rows that goes through TRL's trainers at once.

    96 padded rows of a small model took more than 24 GB.
    """
    return max(size for size in range(1, MOST_ROWS + 1) if rows % size == 0)


def arguments_of(kind: type[Any], plan: Plan, updates: int, rows: int, **own: Any) -> Any:
    """SFTConfig or DPOConfig with everything of the configuration that is any training's: optimiser, rate, schedule."""
    config = plan.training.config
    shared = {f.name for f in fields(TrainingArguments) if f.init and not f.name.endswith("_token")}
    kept = {key: value for key, value in config.to_dict().items() if key in shared}
    kept |= {
        "output_dir": str(plan.config.run_dir / CHECKPOINTS),
        "max_steps": updates,
        "per_device_train_batch_size": rows_at_once(rows),
        "gradient_accumulation_steps": config.gradient_accumulation_steps * (rows // rows_at_once(rows)),
        "remove_unused_columns": True,
        "train_sampling_strategy": "sequential",  # `passes` has shuffled the rows
    }
    return kind(**kept, **own, max_length=None)  # prompts that are too long were left out as for SIRL


def rows_beside(config: SIRLConfig, *batches: int) -> int:
    """Rows of a micro-batch of SIRL's, with those that it is held to: `batches` rows an update (retention, pairs)."""
    held = sum(math.ceil(rows / config.gradient_accumulation_steps) for rows in batches)
    return int(config.per_device_train_batch_size) + held


def passes(pool: Sequence[Row], updates: int, per_update: int, seed: int) -> list[Row]:
    """The rows of every update: the pool again and again, shuffled anew each time, so that no update lacks any.

    Those of one update are sorted by length: parts of it that go through the model together are padded the least.
    """
    rng = random.Random(seed)
    drawn: list[Row] = []
    while len(drawn) < updates * per_update:
        drawn += rng.sample(pool, len(pool))
    starts = range(0, updates * per_update, per_update)
    return [row for start in starts for row in sorted(drawn[start : start + per_update], key=_length)]


def _length(row: Row) -> int:
    return sum(len(ids) for ids in row.values())


def fit_on(kind: Callable[..., Any], args: Any, plan: Plan, pool: Sequence[Row], tokenizer: Any, bar: BarMaker) -> None:
    """Train on the pool and write `model/`; checked, chosen and resumed as SIRL's own training is."""
    folder, rows = plan.config.run_dir, passes(pool, args.max_steps, rows_per_update(args), args.seed)
    model, peft_config = starting_model(plan.training.model)
    checks = policy_checks(plan)
    with bar("train") as progress:
        trainer = kind(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[MetricsFile(folder / METRICS), BarCallback(progress), *checks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.prepare()
        fit(trainer, tokenizer, folder, checks)
