"""GGUF files, dequantised once into a folder in transformers format that everything else reads.

transformers does the arithmetic (`gguf_file=`); what it leaves out is added: the token that ends a turn where that is
another one than the end of text, and the rotary scaling of Llama 3, which llama.cpp keeps as a tensor. Weights are
written as bfloat16, the type of most releases, unless the matrices of the file are float16 or float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, __version__

from sirl.errors import UserError
from sirl.lock import sole_writer
from sirl.weights.cache import check_cache
from sirl.weights.export import export_model, settle_generation_config
from sirl.weights.hashes import sha256
from sirl.weights.llama_rope import restore_rope
from sirl.weights.model_files import FLAG, LFS_POINTER, UNREADABLE, first_line

log = logging.getLogger(__name__)

_TYPES = {"F32": torch.float32, "F16": torch.float16}
_AGAIN = "get the file again"


def dequantised(path: Path, cache: Path, name: str) -> Path:
    """The folder below `cache` that holds the model of a GGUF file in transformers format; made where it is missing.

    It has the name of the file's SHA-256, so a file of another content gets another folder. `name` is what errors call
    the file.

    Raises:
        UserError: it is not a GGUF file, torn, or holds what transformers cannot read.
        CannotWriteError: the cache cannot be written.
    """
    digest = sha256(path)
    target = cache / f"gguf-{digest[:32]}"
    if not target.is_dir():
        reader = read_gguf(path, name)
        dtype = _check(reader, name)
        check_cache(cache)
        with sole_writer(cache, name=f".{target.name}.lock", wait=True):
            if not target.is_dir():
                log.info("%s: dequantised once, into %s", name, target)
                _convert(path, target, name, reader, dtype)
    return target


def _convert(path: Path, target: Path, name: str, reader: Any, dtype: torch.dtype) -> None:
    try:
        with read_once(reader):
            given: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(path.parent, **given)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **given)
            restore_rope(config, reader, name)
            model, found = AutoModelForCausalLM.from_pretrained(
                path.parent,
                config=config,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **given,
            )
    except (*UNREADABLE, RuntimeError) as error:
        raise _unreadable(name, error) from error
    if found["missing_keys"] or found["mismatched_keys"]:  # transformers would continue with random numbers
        raise UserError(
            f"{FLAG} {name}: transformers {__version__} finds no weights for "
            f"{sorted(map(str, [*found['missing_keys'], *found['mismatched_keys']]))[0]} in this GGUF file; give the "
            "transformers model that it was made from"
        )
    plain_weights(model)
    _end_of_turn(model, reader)
    settle_generation_config(model)
    export_model(model, tokenizer, target)


def plain_weights(model: Any) -> None:
    """Make a dequantised model one that can be saved: what is left of the quantised loading would forbid it."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False


def _end_of_turn(model: Any, reader: Any) -> None:
    """Let a chat end where its turn ends, too: Gemma and others have a token of their own for it."""
    settings = model.generation_config
    ends = [settings.eos_token_id, _value(reader, "tokenizer.ggml.eot_token_id")]
    known = list(dict.fromkeys(int(end) for end in ends if isinstance(end, int)))
    if len(known) > 1:
        settings.eos_token_id = known


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """A reader that takes a fifth of the time: slices of a memmap are slow to make, and a vocabulary is 300,000."""

    data: Any

    def _get(self, *args: Any, **more: Any) -> Any:
        if isinstance(self.data, np.memmap):
            self.data = self.data.view(np.ndarray)
        return super()._get(*args, **more)


def read_gguf(path: Path, name: str) -> Any:
    """A reader of a GGUF file; `name` is what errors call it.

    Raises:
        UserError: it is not a GGUF file, or a torn one.
    """
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise UserError(f"{FLAG} {name}: is a pointer of Git LFS, not the file; run git lfs pull there")
    if start[:4] != b"GGUF":
        raise UserError(f"{FLAG} {name}: is not a GGUF file, despite its name; {_AGAIN}")
    try:
        return _Reader(path)
    except (*UNREADABLE, MemoryError) as error:
        if "GGMLQuantizationType" in str(error):
            raise UserError(
                f"{FLAG} {name}: holds a quantisation type that gguf does not know ({first_line(error)}); a newer one "
                "may: pip install -U gguf transformers"
            ) from error
        raise UserError(f"{FLAG} {name}: is incomplete or damaged ({first_line(error)}); {_AGAIN}") from error


@contextmanager
def read_once(reader: Any) -> Iterator[None]:
    """Have transformers take this reader: it would parse the file anew for configuration, tokenizer and weights."""
    before = gguf.GGUFReader
    gguf.GGUFReader = lambda *_, **__: reader
    try:
        yield
    finally:
        gguf.GGUFReader = before


def _check(reader: Any, name: str) -> torch.dtype:
    """The type to write weights in, of a file that holds a whole model with its tokenizer in types that can be read."""
    kind, parts = _value(reader, "general.type") or "model", _value(reader, "split.count") or 1
    if parts > 1:
        raise UserError(
            f"{FLAG} {name}: is one of {parts} parts; join them: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf"
        )
    if kind != "model" or not reader.tensors:
        raise UserError(f"{FLAG} {name}: holds {kind if reader.tensors else 'no weights'}, not a whole model; give one")
    if not isinstance(_value(reader, "general.architecture"), str):
        raise UserError(f"{FLAG} {name}: names no architecture; {_AGAIN}")
    if "tokenizer.ggml.tokens" not in reader.fields or "tokenizer.ggml.model" not in reader.fields:
        raise UserError(f"{FLAG} {name}: holds no tokenizer; give a GGUF file of the whole model")
    for tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.values():
        try:
            gguf.dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{FLAG} {name}: holds weights of type {tensor.tensor_type.name} ({tensor.name}), which gguf cannot "
                "dequantise; give a file of another type, such as Q4_K_M or Q8_0"
            ) from None
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    return _TYPES.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _unreadable(name: str, error: BaseException) -> UserError:
    text = str(error)
    if "architecture" in text or "model_type" in text or "model type" in text:
        return UserError(
            f"{FLAG} {name}: transformers {__version__} reads no GGUF file of this architecture ({first_line(error)}); "
            "give the transformers model that it was made from, or try a newer one: pip install -U transformers"
        )
    return UserError(
        f"{FLAG} {name}: transformers {__version__} cannot read this GGUF file ({first_line(error)}); give the "
        "transformers model that it was made from"
    )
