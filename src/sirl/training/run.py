"""One training run on disk: prompts and model in, checkpoints, metrics and the hardened model out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import ModelConfig, get_peft_config

from sirl.chat.encoding import fitting_prompts, with_template_arguments
from sirl.chat.template import warn_of_thoughts
from sirl.disk import is_whole, sync_tree, unfinished, writing
from sirl.errors import UserError
from sirl.models import default_device, load_model, load_tokenizer, model_context
from sirl.models.merging import merge_layers
from sirl.prompts import load_prompts
from sirl.records import Prompt, ends_in_prefill
from sirl.run_folder import ADAPTER, CHECKPOINTS, METRICS, MODEL
from sirl.training.checkpoint_selection import CheckpointSelectionCallback
from sirl.training.config import SIRLConfig
from sirl.training.metrics import MetricsFile, Watch
from sirl.training.quantised import check_quantised, is_quantised, quantisation_config
from sirl.training.rewards import RewardFunction
from sirl.training.sharding import check_rollouts, holds_shares, loaded_whole, loads_shares, sharded
from sirl.weights.export import export_model, own_padding
from sirl.wrapping import resolve_families, wrapped_forms

if TYPE_CHECKING:
    from sirl.training.arguments import DataConfig

log = logging.getLogger(__name__)


def run_training(
    config: SIRLConfig,
    model_args: ModelConfig,
    data_args: DataConfig,
    *,
    callbacks: Sequence[Any] = (),
    reward: RewardFunction | None = None,
    watch: Watch | None = None,
) -> Path:
    """Train, or go on from the last checkpoint; returns the folder of the hardened model.

    `reward` takes the place of `config.reward`, `watch` gives further figures to log, see `SIRLTrainer`.
    `config.output_dir` gets `metrics.jsonl`, `checkpoints/` (as TRL writes them), `model/`, a full copy with merged
    adapters that `from_pretrained` loads, and with `--use_peft` also `adapter/`.
    """
    run_dir = Path(config.output_dir)
    config.output_dir = str(run_dir / CHECKPOINTS)
    if config.push_to_hub and not config.hub_model_id:
        config.hub_model_id = run_dir.resolve().name  # transformers would take `checkpoints`, for every run the same
    tokenizer = load_tokenizer(model_args.model_name_or_path, revision=model_args.model_revision)
    with_template_arguments(tokenizer, config.template_arguments)
    warn_of_thoughts(tokenizer, training=True)
    context = model_context(str(model_args.model_name_or_path), model_args.model_revision)
    prompts = training_prompts(config, data_args, tokenizer, context)
    retention = retention_prompts(data_args, config.max_prompt_tokens, tokenizer, context)
    pairs = pair_prompts(config, data_args, tokenizer, context)
    metrics = MetricsFile(run_dir / METRICS)
    watching = [metrics, *callbacks]
    trainer = build_trainer(config, model_args, tokenizer, prompts, retention, pairs, watching, reward, watch)
    if callbacks:
        trainer.remove_callback(PrinterCallback)  # prints every log line in full; the caller shows progress its own way
    return fit(
        trainer,
        tokenizer,
        run_dir,
        [callback for callback in callbacks if isinstance(callback, CheckpointSelectionCallback)],
    )


def fit(trainer: Any, tokenizer: Any, run_dir: Path, checks: Sequence[CheckpointSelectionCallback] = ()) -> Path:
    """Train, or go on from the last checkpoint, and write `model/` with the policy that the checks choose, or the last.

    The trainer is a `sirl.training.policy_mixin.PolicyMixin` that has the checks among its callbacks.

    Raises:
        UserError: the processes of this training see different folders.
    """
    checkpoint = last_checkpoint(trainer.args.output_dir)
    target = run_dir / MODEL
    found = gather_object([(checkpoint, target.exists())])
    if len(set(found)) > 1:
        raise UserError(
            f"--output_dir: the processes of this training find different checkpoints in {run_dir}; put it on a "
            "disk that all machines share"
        )
    if found[0][1]:  # exported, which comes last: a process was killed before it could say so
        for check in checks:
            check.trainer = trainer
            check.clean()
        return target
    for check in checks:
        check.prepare(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    for check in checks:
        check.finish()
    save_hardened(trainer, tokenizer, target)
    for check in checks:
        check.clean()  # not before: a run killed while it exports must find the chosen weights again
    return target


def last_checkpoint(folder: str | Path) -> str | None:
    """The checkpoint of the latest update that was written to its end; what comes last is the trainer's state."""
    states = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    found = [path.parent for path in states if is_whole(path.read_bytes())]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


def training_prompts(
    config: SIRLConfig, data_args: DataConfig, tokenizer: Any, context: int | None = None, what: str | None = "prompts"
) -> list[Prompt]:
    """Prompts of the data set that fit into `max_prompt_tokens`, and into the model where `context` is given.

    `what` is as for `fitting_prompts`.
    """
    prompts = load_prompts(
        data_args.dataset_name or "",
        column=data_args.prompt_column,
        split=data_args.dataset_train_split,
        limit=data_args.max_prompts,
        seed=config.seed,
    )
    kept = fitting_prompts(prompts, tokenizer, config.max_prompt_tokens, context, what)
    if config.use_vllm and any(ends_in_prefill(p.messages) for p in kept):
        raise UserError(
            f"--dataset_name {data_args.dataset_name}: a prompt ends with the beginning of an answer, which TRL does "
            "not pass on to vLLM; leave such prompts out or train without --use_vllm"
        )
    per_batch = config.generation_batch_size // config.num_generations
    if len(kept) < per_batch:
        raise UserError(
            f"--dataset_name {data_args.dataset_name}: {len(kept)} prompts, but one batch takes {per_batch} "
            "(generation_batch_size / num_generations); give more prompts or a smaller batch"
        )
    return kept


def retention_prompts(
    data_args: DataConfig,
    most: int | None = None,
    tokenizer: Any = None,
    context: int | None = None,
    what: str | None = "retention prompts",
) -> list[Prompt]:
    """Prompts of `--retention_dataset_name`, or none; with a tokenizer those that fit into `most` tokens and the model.

    Raises:
        UserError: none of them fits.
    """
    flag, source = "--retention_dataset_name", data_args.retention_dataset_name
    if not source:
        return []
    found = load_prompts(source, flag=flag)
    if tokenizer is None or most is None:
        return found
    kept = fitting_prompts(found, tokenizer, most, context, what)
    if not kept:
        raise UserError(
            f"{flag} {source}: none of {len(found)} prompts can be used: they cannot be encoded, or have more tokens "
            f"than the model takes or --max_prompt_tokens {most} allows"
        )
    return kept


def pair_prompts(
    config: SIRLConfig,
    data_args: DataConfig,
    tokenizer: Any,
    context: int | None,
    what: str | None = "wrapped prompts",
) -> list[Prompt]:
    """Wrapped forms of the prompts of `--wrap_prompts` that fit into `max_prompt_tokens` and the model, or none.

    Raises:
        UserError: none of them fits.
    """
    flag, source = "--wrap_prompts", data_args.wrap_prompts
    if not source:
        return []
    families = resolve_families(data_args.wrapping_families)
    forms = wrapped_forms(load_prompts(source, flag=flag), families, data_args.forms, config.seed)
    kept = fitting_prompts(forms, tokenizer, config.max_prompt_tokens, context, what)
    if not kept:
        raise UserError(
            f"{flag} {source}: none of {len(forms)} wrapped prompts can be used; give prompts of one turn each that "
            f"fit into --max_prompt_tokens {config.max_prompt_tokens}"
        )
    return kept


def build_trainer(
    config: SIRLConfig,
    model_args: ModelConfig,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    retention: Sequence[Prompt],
    pairs: Sequence[Prompt] = (),
    callbacks: Sequence[Any] = (),
    reward: RewardFunction | None = None,
    watch: Watch | None = None,
) -> Any:
    """The trainer of a run; `config.output_dir` is where checkpoints go."""
    from sirl.training.trainer import SIRLTrainer

    check_rollouts(config)
    check_quantised(config, model_args)
    model, peft_config = starting_model(model_args, place=not sharded(config))
    if peft_config is None and config.beta:
        # TRL loads the reference model by the policy's name, so there has to be a folder of that name.
        reference = Path(config.output_dir) / "reference"
        with config.main_process_first(local=config.save_on_each_node, desc="reference model"):
            if not reference.exists():
                _export_start(model, model_args, tokenizer, reference)
        model.config._name_or_path = str(reference)
        if sharded(config) and config.bf16:  # it is computed with in bfloat16, and needs no more to be kept
            config.model_init_kwargs = {"dtype": "bfloat16"}  # of the reference: the policy is made already
    return SIRLTrainer(
        model,
        config,
        Dataset.from_dict({"prompt": [[dict(turn) for turn in p.conversation] for p in prompts]}),
        processing_class=tokenizer,
        retention_prompts=retention,
        pair_prompts=pairs,
        peft_config=peft_config,
        callbacks=list(callbacks),
        reward=reward,
        watch=watch,
    )


def _export_start(model: Any, model_args: ModelConfig, tokenizer: Any, target: Path) -> None:
    """Write the model that a training starts from, by one process alone, which may hold but a share of it."""
    if loads_shares():
        with loaded_whole():
            model, _ = starting_model(model_args, place=False)
    export_model(model, tokenizer, target)


def starting_model(model_args: ModelConfig, place: bool = True) -> tuple[Any, Any]:
    """The model that is trained, and what PEFT is to add to it (None: all weights are trained).

    `place` is as for `load_model`.
    """
    dtype = None if model_args.dtype in (None, "auto") else model_dtype(model_args.dtype)
    peft_config = get_peft_config(model_args)
    if dtype is None and peft_config is None:
        dtype = torch.float32  # full fine-tuning: steps of 1e-6 are lost in bfloat16 weights
    model = load_model(
        model_args.model_name_or_path,
        dtype=dtype,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        place=place,
        quantization_config=quantisation_config(model_args, dtype),
    )
    if peft_config is not None and model_args.model_revision != "main":  # TRL's default
        peft_config.revision = model_args.model_revision  # of the base, which an export may load again
    return model, peft_config


def model_dtype(name: str) -> torch.dtype:
    """The torch type of that name."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise UserError(f"--dtype {name}: unknown; give bfloat16, float16 or float32")
    return found


def save_hardened(trainer: Any, tokenizer: Any, target: Path) -> None:
    """Write the trained policy as a full model, adapters merged in float32, and the adapter next to it.

    Adapters that were trained on 4 bits are merged into the weights as they were before: what is measured before and
    after then differs by the training alone.
    """
    trainer.accelerator.wait_for_everyone()
    model, first = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.is_main_process
    adapter = target.parent / ADAPTER if hasattr(model, "peft_config") else None
    gathered = unfinished(adapter or target) if holds_shares(trainer) else None
    if gathered is not None:
        with own_padding(model, tokenizer):
            trainer.save_model(str(gathered))  # what is trained, by all processes together
        trainer.accelerator.wait_for_everyone()
    if not first:
        return
    if target.exists():
        shutil.rmtree(target)
    if gathered is not None:
        (gathered / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        sync_tree(gathered)
        if adapter is not None and adapter.exists():
            shutil.rmtree(adapter)
        gathered.rename(adapter or target)
        if adapter is not None:
            with loaded_whole():
                model = load_model(str(adapter), dtype=model.dtype, place=False)
            export_model(_plain(model), tokenizer, target)
    else:
        if adapter is not None:
            with writing(adapter):
                model.save_pretrained(adapter)
                sync_tree(adapter)
            if is_quantised(model):
                model = load_model(str(adapter), dtype=model.dtype, place=False)
            else:
                model = merge_layers(model)
        export_model(_plain(model), tokenizer, target)
    log.info("hardened model on %s: %s", default_device(), target)


def _plain(model: Any) -> Any:
    model.config._name_or_path = ""
    return model
