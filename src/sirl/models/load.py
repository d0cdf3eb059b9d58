"""Loading the model that is studied and trained, and writing it back in the format that everybody reads.

`demo` names the bundled model organism (see `sirl.weights.bundled`), `demo@0.5` the same with half of its adapter;
anything else is a folder or a hub id in transformers format, a PEFT adapter folder, whose base is then loaded first, or
what `sirl.weights` makes a folder of.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil
import torch

from sirl.chat.encoding import EncodingError, context_length
from sirl.chat.template_trial import written_for_hello
from sirl.demo import demo_scale
from sirl.errors import UserError
from sirl.models.adapters import adapter_file, base_of, base_revision, check_fits, has_tokenizer, of_adapter
from sirl.models.merging import merge_layers
from sirl.weights.export import settle_generation_config
from sirl.weights.model_files import (
    FLAG,
    UNREADABLE,
    cannot_load,
    check_name,
    check_vocabulary,
    choose_padding,
    first_line,
    read_config,
    read_tokenizer,
)
from sirl.weights.origin import located

log = logging.getLogger(__name__)

LONGEST_PROMPT = 1_000_000
"""Characters that a chat template may write for one short question."""


def load_model(
    model_name_or_path: str,
    *,
    dtype: torch.dtype | None = None,
    adapter: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    place: bool = True,
    quantization_config: Any = None,
) -> Any:
    """A causal LM in evaluation mode on the best device.

    Remote code is never run.

    Args:
        model_name_or_path: folder, hub id, GGUF file or known name. Adapters, of a folder or hub id, are merged.
        dtype: type of the weights; by default `default_dtype()`, which on a CPU measures which type is fast.
        adapter: folder or hub id of an adapter to be merged into the model.
        revision: commit, branch or tag of a hub id.
        attn_implementation: as in transformers, which chooses by default.
        place: whether it is moved to the device. Who shares it out over several GPUs says False.
        quantization_config: as in transformers, for a model in a folder or on a hub that is no adapter.

    Returns:
        A `transformers.PreTrainedModel`.

    Raises:
        UserError: there is no such model, or none that can be used.
    """
    keep_freed_memory()
    dtype = dtype or default_dtype()
    scale = demo_scale(model_name_or_path)
    given, (model_name_or_path, revision) = model_name_or_path, located(model_name_or_path, revision)
    if scale is not None:
        model = _load_demo_model(dtype, scale)
    elif found := adapter_file(model_name_or_path, revision):
        with of_adapter(model_name_or_path):
            base, version = base_of(model_name_or_path, found), base_revision(found)
            model = load_model(
                base, dtype=dtype, revision=version, attn_implementation=attn_implementation, place=place
            )
        model = merge_adapter(model, model_name_or_path, revision=revision)
    else:
        model = _from_pretrained(model_name_or_path, dtype, revision, attn_implementation, quantization_config)
        model.name_or_path = model.config._name_or_path = given  # what an adapter on it names as its base
    if adapter is not None:
        model = merge_adapter(model, adapter)
    return model.eval().to(default_device()) if place else model.eval()


def _load_demo_model(dtype: torch.dtype, scale: float) -> Any:
    """The organism: base and adapter, merged. `scale` multiplies what the adapter adds; 0 leaves the base."""
    from sirl.weights.bundled import ADAPTER, load_base_model

    if not (ADAPTER / "adapter_model.safetensors").is_file():
        raise UserError(f"{FLAG} demo: the adapter is missing; make it with: python -m sirl.organism.make")
    model = merge_adapter(load_base_model(torch.float32), ADAPTER, scale)
    cast_weights(model, dtype)
    return model


def _from_pretrained(
    name: str, dtype: torch.dtype, revision: str | None, attn_implementation: str | None, quantization_config: Any
) -> Any:
    """A model with all its weights from files, none of them made up, that can be saved again."""
    from transformers import AutoModelForCausalLM

    config = read_config(name, revision)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name and size
        )
    except UNREADABLE as error:
        raise cannot_load(name, error) from error
    except RuntimeError as error:
        if not re.search(r"can't allocate memory|out of memory", str(error)):
            raise
        raise UserError(f"{FLAG} {name}: does not fit into memory ({first_line(error)})") from error
    for key, saved, configured in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{FLAG} {name}: its weights do not fit its config.json ({key} is {tuple(saved)} in the weights, "
            f"{tuple(configured)} by config.json); correct config.json"
        )
    if found["missing_keys"]:  # transformers would go on with random numbers
        raise UserError(
            f"{FLAG} {name}: its files hold no weights for {sorted(found['missing_keys'])[0]}; give a whole causal "
            "language model"
        )
    if found["unexpected_keys"]:
        unused = sorted(found["unexpected_keys"])
        log.warning("%s: %d tensors in its files are not used (%s)", name, len(unused), unused[0])
    settle_generation_config(model)
    return model


def load_tokenizer(model_name_or_path: str, *, revision: str | None = None, chat: bool = True) -> Any:
    """The tokenizer of a model.

    One without a pad token, or with one that the model does not know, gets one of its own tokens for padding.

    Args:
        model_name_or_path: as for `load_model`.
        revision: commit, branch or tag of a hub id.
        chat: whether it must have a chat template.

    Returns:
        A `transformers.PreTrainedTokenizerBase` that ends its turns and fits the model.

    Raises:
        UserError: there is none, it has no chat template or end-of-turn token, or it does not fit the model.
    """
    if demo_scale(model_name_or_path) is not None:
        from sirl.weights.bundled import load_demo_tokenizer

        return load_demo_tokenizer()
    given, (model_name_or_path, revision) = model_name_or_path, located(model_name_or_path, revision)
    check_name(model_name_or_path)
    found = adapter_file(model_name_or_path, revision)
    base = base_of(model_name_or_path, found) if found else model_name_or_path
    if found and not has_tokenizer(model_name_or_path, revision):
        with of_adapter(model_name_or_path):
            return load_tokenizer(base, revision=base_revision(found), chat=chat)
    config = None
    if demo_scale(base) is None and adapter_file(base) is None:  # an adapter may stand on another
        with of_adapter(model_name_or_path if found else None):
            config = read_config(base, base_revision(found) if found else revision)
    tokenizer = read_tokenizer(model_name_or_path, revision, config if found else None)
    vocab_size = config and getattr(config.get_text_config(), "vocab_size", None)
    choose_padding(tokenizer, vocab_size)
    check_tokenizer(tokenizer, given, chat=chat)
    if vocab_size is not None:
        check_vocabulary(tokenizer, given, vocab_size)
    return tokenizer


def model_context(name_or_path: str, revision: str | None = None) -> int | None:
    """How many tokens a model takes (`sirl.chat.encoding.context_length`), from its configuration alone.

    None for the bundled model, whose context is longer than any prompt of its data.

    Raises:
        UserError: as `read_config`.
    """
    if demo_scale(name_or_path) is not None:
        return None
    name_or_path, revision = located(name_or_path, revision)
    found = adapter_file(name_or_path, revision)
    if found:
        return model_context(base_of(name_or_path, found), base_revision(found))
    return context_length(read_config(name_or_path, revision))


def check_tokenizer(tokenizer: Any, name: str, *, chat: bool = True) -> None:
    """Raise `UserError` for what would fail later, or silently go wrong."""
    if chat and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no chat template; SIRL hardens chat models: take the instruct model, "
            "or put a chat_template.jinja into the model folder"
        )
    if not tokenizer.encode("Hello", add_special_tokens=False):  # transformers makes one of a configuration alone
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no vocabulary; put the model's tokenizer.json (or vocab.json and "
            "merges.txt, or tokenizer.model) into the folder"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{FLAG} {name}: the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if chat:
        try:
            written = written_for_hello(tokenizer)
        except EncodingError as error:
            raise UserError(f"{FLAG} {name}: its chat template does not work ({error}); correct it") from error
        if not 0 < written <= LONGEST_PROMPT:
            raise UserError(
                f"{FLAG} {name}: its chat template does not work (it writes {written:,} characters for Hello); "
                "correct it"
            )


def merge_adapter(model: Any, adapter: str | Path, scale: float = 1.0, *, revision: str | None = None) -> Any:
    """`model` with a PEFT adapter's weights added in, `scale` times; the sum is formed in float32.

    Raises:
        UserError: the adapter cannot be read, or is of another model.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            with_adapter = PeftModel.from_pretrained(model, str(adapter), revision=revision)
        check_fits(with_adapter, str(adapter), revision)
    except (*UNREADABLE, RuntimeError, UnpicklingError) as error:
        raise UserError(f"adapter {adapter}: cannot be loaded on this base model ({first_line(error)})") from error
    for layer in with_adapter.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(scale)
    return merge_layers(with_adapter).requires_grad_(True)  # PEFT froze them, and full fine-tuning may come next


def cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Cast parameters alone: `.to(dtype)` would round the frequencies of rotary embeddings too, which stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder or hub id holds a PEFT adapter."""
    return adapter_file(name_or_path) is not None


def default_device() -> torch.device:
    """The first accelerator, or the CPU."""
    accelerator: torch.device | None = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def default_dtype() -> torch.dtype:
    """bfloat16 where there are instructions for products in it, which are two to eight times as fast; else float32.

    What the processor says decides, and no stopwatch: a run that is resumed, or its other phase, must come to the same
    answer on the same machine, and on a busy one a measurement comes to the other now and then.
    """
    if default_device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if default_device().type == "cpu" and multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Limits that the user can set to the instructions of oneDNN, below those for bfloat16, which it then imitates."""


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for matrix products in bfloat16, and oneDNN may use them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _WITHOUT_BFLOAT16:
        return False
    cpu: Any = torch.cpu
    known: dict[str, Any] = getattr(cpu, "get_capabilities", dict)()  # younger than the oldest torch that we take
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported() or known.get("bf16"))


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


def resident_bytes() -> int:
    """Memory that this process holds, without pages that are only mapped from files."""
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


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
