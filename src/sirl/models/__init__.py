"""Loading the model that is studied and trained, and writing it back in the format that everybody reads."""

from sirl.models.load import (
    attention,
    cast_weights,
    check_tokenizer,
    contiguous_head,
    default_device,
    default_dtype,
    give_back_memory,
    is_adapter,
    keep_freed_memory,
    load_model,
    load_tokenizer,
    merge_adapter,
    model_context,
    multiplies_bfloat16,
    resident_bytes,
)

__all__ = [
    "attention",
    "cast_weights",
    "check_tokenizer",
    "contiguous_head",
    "default_device",
    "default_dtype",
    "give_back_memory",
    "is_adapter",
    "keep_freed_memory",
    "load_model",
    "load_tokenizer",
    "merge_adapter",
    "model_context",
    "multiplies_bfloat16",
    "resident_bytes",
]
