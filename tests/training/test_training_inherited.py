"""Every flag that comes with TRL's dataclasses is read by something, or refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from trl import GRPOConfig, ModelConfig

from sirl.errors import UserError
from sirl.training.arguments import parse_training
from sirl.training.inherited import ONLY_WITH, REFUSED

NEEDED = {"model_name_or_path": "m", "dataset_name": "d.jsonl", "output_dir": "out"}

BY_US = """
activation_checkpointing beta bf16 chat_template_kwargs disable_dropout entropy_coef fp16 generation_batch_size
generation_kwargs gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs hub_model_id
mask_truncated_completions max_completion_length max_steps min_p num_generations num_iterations output_dir
per_device_train_batch_size push_to_hub repetition_penalty save_on_each_node save_steps save_strategy seed
shuffle_dataset steps_per_generation temperature top_k top_p use_adaptive_entropy use_cpu use_vllm
"""
"""Read by `SIRLConfig`, `SIRLTrainer` or `sirl.training.run`, or refused by value there."""

BY_TRL = """
auto_find_batch_size delta ds3_gather_for_generation epsilon epsilon_high importance_sampling_level log_completions
log_completions_hub_repo log_unique_prompts loss_type num_completions_to_print off_policy_mask_threshold
pad_to_multiple_of ref_model_mixup_alpha ref_model_sync_steps reward_weights router_aux_loss_coef
sapo_temperature_neg sapo_temperature_pos scale_rewards sync_ref_model top_entropy_quantile use_bias_correction_kl
vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos vllm_enable_sleep_mode vllm_gpu_memory_utilization
vllm_group_port vllm_importance_sampling_cap vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_max_model_length vllm_mode vllm_model_impl
vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_tensor_parallel_size
"""
"""Read by `GRPOTrainer` in what we leave to it (loss, vLLM, logging of completions), or refused there."""

BY_TRANSFORMERS = """
accelerator_config activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices
dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm
enable_jit_checkpoint fsdp fsdp_config full_determinism hub_always_push hub_private_repo hub_revision hub_strategy
hub_token ignore_data_skip include_num_input_tokens_seen learning_rate liger_kernel_config log_level
log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy
lr_scheduler_kwargs lr_scheduler_type max_grad_norm num_train_epochs optim optim_args optim_target_modules
parallelism_config project remove_unused_columns report_to restore_callback_states_from_checkpoint run_name
save_only_model save_total_limit skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id use_cache use_liger_kernel
warmup_steps weight_decay
"""
"""Read by `transformers.Trainer` or a callback of its: optimizer, schedule, checkpoints, logging, sharding."""

OF_THE_MODEL = """
attn_implementation bnb_4bit_quant_storage bnb_4bit_quant_type dtype load_in_4bit lora_alpha lora_dropout
lora_modules_to_save lora_r lora_target_modules lora_target_parameters model_name_or_path model_revision
use_bnb_nested_quant use_dora use_peft use_rslora
"""
"""Of `ModelConfig`: read by `starting_model`, TRL's `get_peft_config` and `get_quantization_config`."""


def test_every_inherited_field_is_read_by_somebody_or_refused() -> None:
    """A field that a new TRL brings along fails here until it is looked at."""
    read = [name for group in (BY_US, BY_TRL, BY_TRANSFORMERS, OF_THE_MODEL) for name in group.split()]
    assert len(read) == len(set(read))
    assert not set(read) & set(REFUSED)
    inherited = {f.name for cls in (GRPOConfig, ModelConfig) for f in fields(cls) if f.init}
    assert set(read) | set(REFUSED) == inherited


VALUES: dict[str, Any] = {
    "model_init_kwargs": {"a": 1},
    "transformers_continuous_batching_config": {"a": 1},
    "lora_task_type": "SEQ_CLS",
    "cache_implementation": "static",
    "vllm_structured_outputs_regex": "a+",
    "multi_objective_aggregation": "normalize_then_sum",
    "label_smoothing_factor": 0.1,
    "label_names": ["a"],
    "neftune_noise_alpha": 5.0,
    "length_column_name": "tokens",
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "steps",
    "include_for_metrics": ["loss"],
    "metric_for_best_model": "loss",
    "resume_from_checkpoint": "here",
    "entropy_coef_min": 0.05,
    "entropy_coef_max": 0.5,
    "entropy_coef_delta": 0.5,
    "entropy_target": 0.9,
    "eval_do_concat_batches": False,
    "log_multimodal": False,
}


EARLIER = {"bf16_full_eval", "load_best_model_at_end", "use_transformers_paged"}
"""transformers or TRL refuses these values by itself, on some machines."""


@pytest.mark.parametrize("name", sorted(set(REFUSED) - EARLIER))
def test_what_would_do_nothing_is_refused(name: str) -> None:
    kinds = {f.name: str(f.type) for cls in (GRPOConfig, ModelConfig) for f in fields(cls)}
    value = VALUES.get(name, True if "bool" in kinds[name] else 3)
    extra = {"use_vllm": True} if name.startswith("vllm") else {}
    extra |= {"use_peft": True} if name.startswith("lora") else {}
    with pytest.raises(UserError, match=rf"^--{name}: would do nothing here: \w"):
        parse_training([], {**NEEDED, **extra, name: value})


def test_on_the_command_line_too() -> None:
    for argv in (["--cache_implementation", "static"], ["--eval-strategy=steps", "--eval_steps=3"]):
        with pytest.raises(UserError, match="would do nothing here"):
            parse_training(argv, NEEDED)


def test_a_flag_that_is_given_its_default_is_let_pass() -> None:
    options = {"eval_strategy": "no", "trust_remote_code": False, "load_in_4bit": False, "cache_implementation": None}
    assert parse_training(["--do_eval", "false"], {**NEEDED, **options}).config.eval_strategy == "no"


@pytest.mark.parametrize("flag", ["lora_r", "use_dora", "vllm_mode", "bnb_4bit_quant_type"])
def test_flags_that_need_a_switch(flag: str) -> None:
    switch = next(switch for switch, names in ONLY_WITH.items() if flag.startswith(names))
    value = {"lora_r": 8, "use_dora": True, "vllm_mode": "server", "bnb_4bit_quant_type": "fp4"}[flag]
    with pytest.raises(UserError, match=rf"^--{flag}: does nothing without --{switch}; add"):
        parse_training([], {**NEEDED, flag: value})
    assert parse_training([], {**NEEDED, flag: value, switch: False}), "switched off on purpose, as a variant does"


def test_both_names_of_checkpointing_act() -> None:
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        config = parse_training([f"--{name}", "true"], {**NEEDED, "use_cpu": True}).config
        assert (config.gradient_checkpointing, config.activation_checkpointing) == (True, True)
