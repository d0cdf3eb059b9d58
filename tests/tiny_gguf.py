"""Tiny GGUF files as llama.cpp writes them, of the tiny models: weights, tokenizer and chat template in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch

from tiny_models import tiny_model, tiny_tokenizer

Change = Callable[[gguf.GGUFWriter], None]


def write_gguf(
    path: Path,
    family: str = "llama",
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    change: Change | None = None,
    tokenizer: bool = True,
    template: bool = True,
    arch: str | None = None,
    skip: str = "-",
    **overrides: Any,
) -> Any:
    """Write a tiny model of `family` as GGUF, and return it. `change` adds to the file, `skip` leaves out tensors."""
    model = tiny_model(family, **overrides)
    writer = gguf.GGUFWriter(path, arch or family)
    _write_shape(writer, model.config)
    if tokenizer:
        _write_tokenizer(writer, template)
    names = gguf.get_tensor_name_map({"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[family], 2)
    for name, weight in model.state_dict().items():
        stem, _, end = name.rpartition(".")
        if skip in name or (name == "lm_head.weight" and model.config.tie_word_embeddings):
            continue
        data = _as_llama_cpp(name, weight, model.config, family).numpy()
        packed = quantisation if data.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{names.get_name(stem)}.{end}", gguf.quantize(data, packed), raw_dtype=packed)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, template: bool) -> None:
    import json

    tokenizer = tiny_tokenizer()
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokenizer))]
    )
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template:
        writer.add_chat_template(tokenizer.chat_template)


def _as_llama_cpp(name: str, weight: torch.Tensor, config: Any, family: str) -> torch.Tensor:
    """llama.cpp keeps the halves of each head of query and key interleaved in the Llama family."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = next((part for part in heads if f"{part}.weight" in name), None)
    if family != "llama" or part is None:
        return weight.contiguous()
    rows, columns = weight.shape
    return (
        weight.reshape(heads[part], 2, rows // heads[part] // 2, columns)
        .transpose(1, 2)
        .reshape(rows, columns)
        .contiguous()
    )
