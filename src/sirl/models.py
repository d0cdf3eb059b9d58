"""Loading the model that is studied and trained, and writing it back in the format that everybody reads.

`demo` names the bundled model organism (see `sirl.demo.model`), `demo@0.5` the same with half of its adapter; anything
else is a folder or a hub id in transformers format, or a PEFT adapter folder, whose base is then loaded first.
"""

from __future__ import annotations

import ctypes
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sirl.demo import DEMO, demo_scale
from sirl.errors import UserError

log = logging.getLogger(__name__)

FLAG = "--model_name_or_path"


def load_model(
    name_or_path: str, *, dtype: torch.dtype | None = None, adapter: str | None = None, revision: str | None = None
) -> Any:
    """A causal LM in evaluation mode on the best device. Adapters are merged.

    `dtype` defaults to `default_dtype()`. Remote code is never run.
    """
    from transformers import AutoModelForCausalLM

    keep_freed_memory()
    dtype = dtype or default_dtype()
    scale = demo_scale(name_or_path)
    if scale is not None:
        from sirl.demo.model import load_demo_model

        model = load_demo_model(dtype, scale)
    elif is_adapter(name_or_path):
        return load_model(_base_of(name_or_path), dtype=dtype, adapter=name_or_path)
    else:
        _check_name(name_or_path)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                name_or_path, dtype=dtype, revision=revision, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise _cannot_load(name_or_path, error) from error
    if adapter is not None:
        model = merge_adapter(model, adapter)
    return model.eval().to(default_device())


def load_tokenizer(name_or_path: str, *, revision: str | None = None, chat: bool = True) -> Any:
    """The tokenizer of a model, checked to have a token for the end and, for a `chat`, a template and padding."""
    from transformers import AutoTokenizer

    if demo_scale(name_or_path) is not None:
        from sirl.demo.model import load_demo_tokenizer

        return load_demo_tokenizer()
    if is_adapter(name_or_path) and not (Path(name_or_path) / "tokenizer_config.json").exists():
        return load_tokenizer(_base_of(name_or_path), chat=chat)
    _check_name(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _cannot_load(name_or_path, error) from error
    check_tokenizer(tokenizer, name_or_path, chat=chat)
    return tokenizer


def check_tokenizer(tokenizer: Any, name: str, *, chat: bool = True) -> None:
    """Raise `UserError` for what would fail later, or silently go wrong."""
    if chat and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no chat template; SIRL hardens chat models: take the instruct model, "
            "or put a chat_template.jinja into the model folder"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if chat and tokenizer.pad_token_id is None:
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no pad token; set pad_token in tokenizer_config.json to a reserved "
            "token (not the end-of-sequence token, unless the model was trained so)"
        )


def merge_adapter(model: Any, adapter: str | Path, scale: float = 1.0) -> Any:
    """`model` with a PEFT adapter's weights added in, `scale` times; the sum is formed in float32."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    dtype = next(model.parameters()).dtype
    try:
        with_adapter = PeftModel.from_pretrained(model.float(), str(adapter))
        for layer in with_adapter.modules():
            if isinstance(layer, LoraLayer):
                layer.scale_layer(scale)
        merged = with_adapter.merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"adapter {adapter}: cannot be loaded on this base model ({_first_line(error)})") from error
    cast_weights(merged, dtype)
    return merged.requires_grad_(True)  # PEFT froze them, and full fine-tuning may come next


def cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Cast parameters alone: `.to(dtype)` would round the frequencies of rotary embeddings too, which stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def export_model(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write a full transformers-format copy (safetensors, tokenizer, chat template) that `from_pretrained` loads."""
    target = Path(folder)
    partial = target.with_name(f".{target.name}.partial")
    model.save_pretrained(partial, safe_serialization=True)
    tokenizer.save_pretrained(partial)
    partial.rename(target)  # a folder of this name is complete
    return target


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (Path(name_or_path) / "adapter_config.json").is_file()


def default_device() -> torch.device:
    """The first accelerator, or the CPU."""
    accelerator: torch.device | None = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def default_dtype() -> torch.dtype:
    """bfloat16 where matrix products are faster in it, else float32."""
    if default_device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if default_device().type == "cpu" and bfloat16_speedup() > WORTH_BFLOAT16:
        return torch.bfloat16
    return torch.float32


WORTH_BFLOAT16 = 1.5
"""A processor that only imitates bfloat16 is slower in it, one with instructions for it two to eight times as fast."""


@cache
def bfloat16_speedup(size: int = 768, repeats: int = 4) -> float:
    """How many times as fast this CPU multiplies matrices in bfloat16 as in float32: a few milliseconds, once."""
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(repeats):  # the first builds the kernel
            started = time.perf_counter()
            torch.mm(a, a)
            seconds.append(time.perf_counter() - started)
        best[dtype] = min(seconds)
    return best[torch.float32] / best[torch.bfloat16]


def contiguous_head(model: Any) -> None:
    """Make the output embedding copy its input where that is not contiguous.

    A slice of the last positions, `hidden[:, -k:]`, is not, and torch then computes `hidden @ W^T` as a batched product
    with one copy of W (the whole vocabulary) for each row: on a CPU that takes longer than the rest of the model.
    """
    head = model.get_output_embeddings()
    if head is not None and not getattr(head, "takes_contiguous", False):
        head.takes_contiguous = True
        head.register_forward_pre_hook(_contiguous)


def _contiguous(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, torch.Tensor) else x for x in inputs)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """`model` with another of transformers' attention functions."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of giving them back to the system.

    Training on a CPU frees and takes tensors of tens of megabytes thousands of times a step. By default each goes back
    to the system and is faulted in anew, page by page; kept, a training step takes half the time.
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        log.debug("no glibc: memory settings are left as they are")


def give_back_memory() -> None:
    """Give blocks that `keep_freed_memory` kept back to the system.

    Blocks of many sizes leave gaps, so that what a long training holds grows by some per cent of its need an hour. Now
    and then is enough: what is needed again is faulted in anew.
    """
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            log.debug("no glibc: freed memory is kept")


def _base_of(adapter: str) -> str:
    """The model that an adapter folder names as its base."""
    path = Path(adapter) / "adapter_config.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UserError(f"{FLAG} {adapter}: {path.name} names no base model; set base_model_name_or_path in it")
    return base


def _check_name(name: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if Path(name).is_dir() and not any((Path(name) / f).exists() for f in ("config.json", "adapter_config.json")):
        raise UserError(f"{FLAG} {name}: the folder holds no config.json; give a transformers model folder or a hub id")
    if looks_local and not Path(name).expanduser().exists():
        raise UserError(f"{FLAG} {name}: no such folder; give a model folder, a hub id (org/name) or `{DEMO}`")


def _cannot_load(name: str, error: BaseException) -> UserError:
    return UserError(
        f"{FLAG} {name}: cannot be loaded; give a transformers model folder, a reachable hub id (org/name) or "
        f"`{DEMO}` ({_first_line(error)})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
