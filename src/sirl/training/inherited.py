"""Flags that come with the dataclasses of TRL and transformers and do nothing in `sirl train`: refused, with a reason.

Who gives a flag expects it to act. What is not in `REFUSED` is read by TRL, transformers, PEFT or sirl; a test holds
every inherited field to one of the two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any

from sirl.errors import UserError

_NO_EVALUATION = (
    "nothing is evaluated while `sirl train` trains; `development` of sirl run measures the policy as it goes"
)
_ONE_REWARD = "there is one reward"
_OWN_ROLLOUTS = "responses are drawn by sirl's own engine or by vLLM (--use_vllm)"
_EIGHT_BITS = "adapters are trained on whole weights or on 4 bits (--load_in_4bit)"
_ORDER = "prompts come in an order of sirl's own, which a resumed run repeats"
_RESUMED = "the same command continues from the last checkpoint by itself"
_SCRIPTS = "it is for scripts of transformers; nothing reads it here"

REFUSED: dict[str, str] = {
    # how the model is loaded
    "model_init_kwargs": "sirl loads the model; give --dtype, --attn_implementation and --model_revision",
    "trust_remote_code": "code of a model is never run",
    "lora_task_type": "models here are causal language models",
    "load_in_8bit": _EIGHT_BITS,
    # how responses are drawn
    "cache_implementation": _OWN_ROLLOUTS,
    "use_transformers_continuous_batching": _OWN_ROLLOUTS,
    "transformers_continuous_batching_config": _OWN_ROLLOUTS,
    "use_transformers_paged": _OWN_ROLLOUTS,
    "vllm_structured_outputs_regex": "responses would come from another distribution than the one that is rewarded",
    "max_tool_calling_iterations": "there are no tools",
    "log_multimodal": "there are no images",
    # reward and loss
    "multi_objective_aggregation": _ONE_REWARD,
    "entropy_coef_min": "TRL's entropy bonus is off",
    "entropy_coef_max": "TRL's entropy bonus is off",
    "entropy_coef_delta": "TRL's entropy bonus is off",
    "entropy_target": "TRL's entropy bonus is off",
    "cast_lm_head_to_fp32": "rollouts and scoring would use another head than training",
    "label_smoothing_factor": "there are no labels",
    "label_names": "there are no labels",
    "neftune_noise_alpha": "with noise in the embeddings another policy would learn than the one that answered",
    # data
    "length_column_name": _ORDER,
    "train_sampling_strategy": _ORDER,
    "data_seed": f"{_ORDER}; its seed is --seed",
    # evaluation
    "do_eval": _NO_EVALUATION,
    "eval_strategy": _NO_EVALUATION,
    "eval_steps": _NO_EVALUATION,
    "eval_delay": _NO_EVALUATION,
    "eval_on_start": _NO_EVALUATION,
    "eval_accumulation_steps": _NO_EVALUATION,
    "eval_do_concat_batches": _NO_EVALUATION,
    "eval_use_gather_object": _NO_EVALUATION,
    "batch_eval_metrics": _NO_EVALUATION,
    "bf16_full_eval": _NO_EVALUATION,
    "fp16_full_eval": _NO_EVALUATION,
    "include_for_metrics": _NO_EVALUATION,
    "prediction_loss_only": _NO_EVALUATION,
    "per_device_eval_batch_size": _NO_EVALUATION,
    "num_generations_eval": _NO_EVALUATION,
    "load_best_model_at_end": _NO_EVALUATION,
    "metric_for_best_model": _NO_EVALUATION,
    "greater_is_better": _NO_EVALUATION,
    # scripts
    "do_train": _SCRIPTS,
    "do_predict": _SCRIPTS,
    "local_rank": _SCRIPTS,
    "resume_from_checkpoint": _RESUMED,
}

ONLY_WITH: dict[str, tuple[str, ...]] = {
    "use_peft": ("lora_", "use_rslora", "use_dora"),
    "use_vllm": ("vllm_",),
    "load_in_4bit": ("bnb_4bit_", "use_bnb_nested_quant"),
}
"""Switches, and how flags begin that do nothing without them."""


def refuse_ignored(given: Collection[str], values: dict[str, Any], classes: Collection[type]) -> None:
    """Raise `UserError` for the first flag among those given that would do nothing.

    Args:
        given: Names of the flags that the user gave, on the command line or in a file.
        values: All flags by name, as they were parsed.
        classes: The dataclasses that the flags come from. A flag that is given its default is let pass.
    """
    defaults = {f.name: f.default if f.default is not MISSING else None for cls in classes for f in fields(cls)}
    for name in given:
        if name in REFUSED and values.get(name) not in (defaults.get(name), None):
            raise UserError(f"--{name}: would do nothing here: {REFUSED[name]}")
        for switch, prefixes in ONLY_WITH.items():
            # a switch that is given as off is a variant of something that has it on
            if switch not in given and name.startswith(prefixes) and not values.get(switch):
                raise UserError(f"--{name}: does nothing without --{switch}; add --{switch}, or leave it out")
