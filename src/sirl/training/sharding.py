"""What to mind where processes hold shares of the weights: FSDP and DeepSpeed ZeRO-3.

There a forward pass, and with ZeRO-3 the loading of a model too, is something that all processes do together. What one
of them does alone, or another number of times, makes the others wait for ever. Rollouts end at another token on each
process, so those that are done go along with the rest (`in_step`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import deepspeed

from sirl.errors import UserError
from sirl.generation.cache import supports_decode_cache


def uses_fsdp(args: Any) -> bool:
    """Whether a trainer with these `TrainingArguments`, in this environment of accelerate's, will use FSDP."""
    return bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


def sharded(args: Any) -> bool:
    """As `uses_fsdp`, for FSDP or DeepSpeed of any stage."""
    return uses_fsdp(args) or bool(args.deepspeed) or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def holds_shares(trainer: Any) -> bool:
    """Whether a trainer's processes hold shares of the weights: FSDP and ZeRO-3; with ZeRO-1 and -2 they are whole."""
    return bool(trainer.is_fsdp_enabled or (trainer.is_deepspeed_enabled and loads_shares()))


def loads_shares() -> bool:
    """Whether transformers loads models in shares, by all processes together: ZeRO-3, once its arguments are made."""
    return bool(deepspeed.is_deepspeed_zero3_enabled())


def check_rollouts(args: Any) -> None:
    """Refuse rollouts by our engine for which weights in shares cannot be used.

    Raises:
        UserError: FSDP's first version, or ZeRO-3 that is told not to gather.
    """
    if args.use_vllm:
        return
    if uses_fsdp(args) and _fsdp_version(args) < 2:
        raise UserError(
            "--use_vllm: needed with FSDP 1; add --use_vllm true --vllm_mode colocate, or launch with fsdp_version 2 "
            "(configs/accelerate/fsdp2.yaml)"
        )
    if loads_shares() and not args.ds3_gather_for_generation:
        raise UserError(
            "--ds3_gather_for_generation false: not with DeepSpeed ZeRO-3 and without vLLM; leave it out, or add "
            "--use_vllm true"
        )


def _fsdp_version(args: Any) -> int:
    """1 or 2, as accelerate and transformers read it."""
    if args.fsdp:
        return int((getattr(args, "fsdp_config", None) or {}).get("version", 2))
    return int(os.environ.get("FSDP_VERSION", "1"))


@contextmanager
def in_step(model: Any) -> Iterator[None]:
    """Meanwhile, each forward pass of a model in shares is one of all processes. Any other model is left alone.

    Before a pass each process says that it makes one. Who leaves makes empty passes until nobody else makes any, so
    that processes may draw answers of other lengths, in other batches.

    Raises:
        UserError: `transformers.generate` would draw, which calls parts of a PEFT model that are not in step.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    if not supports_decode_cache(model.config):  # type: ignore[attr-defined]
        raise UserError(
            f"--use_vllm: needed with FSDP for {model.config.model_type} models, which are not of plain full "  # type: ignore[attr-defined]
            "attention; add --use_vllm true --vllm_mode colocate"
        )
    module: Any = model
    device = module.device

    def any_goes_on(own: bool) -> bool:
        going = torch.tensor(int(own), device=device)
        distributed.all_reduce(going, distributed.ReduceOp.MAX)
        return bool(going)

    def announce(*_: Any) -> None:
        any_goes_on(True)

    # before FSDP's own, which gathers: what all processes do together has to come in one order
    hook = module.register_forward_pre_hook(announce, prepend=True)
    try:
        yield
    finally:
        hook.remove()
    nothing = torch.zeros(1, 1, dtype=torch.long, device=device)
    while any_goes_on(False):
        module(input_ids=nothing, use_cache=False, logits_to_keep=1)


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Models that are loaded meanwhile are whole, and of this process alone, also under DeepSpeed ZeRO-3."""
    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept
