"""QLoRA: adapters are trained on a base whose linear layers are kept in 4 bits (Dettmers et al., arXiv 2305.14314).

The layers are bitsandbytes'. Each dequantises its weight at each product, so everything of ours that reads a layer's
weight itself (`sirl.generation.cpu_decoder`, `sirl.training.lora`) passes such layers by, and all goes through modules.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from trl import ModelConfig, get_quantization_config

from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.models import default_dtype, is_adapter
from sirl.training.sharding import sharded


def check_quantised(config: Any, model_args: ModelConfig) -> None:
    """Refuse 4-bit weights where they cannot be trained on.

    Raises:
        UserError: without adapters, with vLLM or with weights in shares; or the library is missing.
    """
    if not model_args.load_in_4bit:
        return
    name = str(model_args.model_name_or_path)
    if not model_args.use_peft:
        raise UserError("--load_in_4bit: 4-bit weights cannot be trained; add --use_peft")
    if config.use_vllm:
        raise UserError("--load_in_4bit: does not work with --use_vllm yet; leave one of them out")
    if sharded(config):
        raise UserError("--load_in_4bit: does not work with FSDP or DeepSpeed; launch with configs/accelerate/ddp.yaml")
    if demo_scale(name) is not None or is_adapter(name):
        raise UserError(
            f"--load_in_4bit: does not work for {name}, which has an adapter; give the folder of a merged model"
        )
    if find_spec("bitsandbytes") is None:
        raise UserError("--load_in_4bit: needs the extra `qlora` (pip install 'sirl[qlora]')")


def quantisation_config(model_args: ModelConfig, dtype: torch.dtype | None) -> Any:
    """What transformers is told of the 4 bits, with products in `dtype`; None where weights are whole."""
    if not model_args.load_in_4bit:
        return None
    name = str(dtype or default_dtype()).removeprefix("torch.")  # TRL takes no `auto` here
    return get_quantization_config(replace(model_args, dtype=name))


def is_quantised(model: Any) -> bool:
    """Whether a model's linear layers are in 4 bits, as transformers notes it."""
    return bool(getattr(model, "is_loaded_in_4bit", False))
