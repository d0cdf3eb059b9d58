"""What to mind where processes hold shares of the weights: FSDP and DeepSpeed ZeRO-3.

There a forward pass, and with ZeRO-3 the loading of a model too, is something that all processes do together. What one
of them does alone, or another number of times, makes the others wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers.integrations import deepspeed

from sirl.errors import UserError


def uses_fsdp(args: Any) -> bool:
    """Whether a trainer with these `TrainingArguments`, in this environment of accelerate's, will use FSDP."""
    return bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


def sharded(args: Any) -> bool:
    """As `uses_fsdp`, for FSDP or DeepSpeed of any stage."""
    return uses_fsdp(args) or bool(args.deepspeed) or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def loads_shares() -> bool:
    """Whether transformers loads models in shares, by all processes together: ZeRO-3, once its arguments are made."""
    return bool(deepspeed.is_deepspeed_zero3_enabled())


def check_rollouts(args: Any) -> None:
    """Refuse rollouts by our engine whose forward passes all processes would have to make together.

    Raises:
        UserError: processes have different prompts, so one makes fewer passes than another, which then waits for ever.
    """
    if args.use_vllm:
        return
    if uses_fsdp(args):
        raise UserError(
            "--use_vllm: needed with FSDP, whose processes cannot draw responses by themselves; add --use_vllm true "
            "--vllm_mode colocate, or launch with configs/accelerate/ddp.yaml or zero3.yaml"
        )
    if loads_shares() and not args.ds3_gather_for_generation:
        raise UserError(
            "--ds3_gather_for_generation false: not with DeepSpeed ZeRO-3 and without vLLM; leave it out, or add "
            "--use_vllm true"
        )


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Models that are loaded meanwhile are whole, and of this process alone, also under DeepSpeed ZeRO-3."""
    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept
