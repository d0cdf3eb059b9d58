"""Rotary scaling that a GGUF file carries and transformers does not read from it.

Llama 3.1 and later turn low frequencies down (arXiv 2407.21783, section 3.2). llama.cpp keeps the divisors of all
frequencies as the tensor `rope_freqs.weight`; transformers computes them from a few numbers in the configuration.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

log = logging.getLogger(__name__)

TENSOR = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The numbers of all Llama 3.1, 3.2 and 3.3 models; `factor` is 8 or 32."""


def restore_rope(config: Any, reader: Any, name: str) -> None:
    """Put the scaling of a GGUF file into its configuration, where it is Llama 3's; warn of any other one."""
    divisors = next((np.array(t.data, dtype=np.float64).ravel() for t in reader.tensors if t.name == TENSOR), None)
    if divisors is not None and _is_llama3(config, divisors):
        config.rope_parameters = _llama3(config, divisors)
        return
    others = [key for key in reader.fields if key.endswith(".rope.scaling.type") and not key.startswith("gpt-oss")]
    kinds = {str(reader.fields[key].contents()) for key in others} - {"none"}
    if divisors is not None or kinds:
        log.warning(
            "%s: its rotary scaling (%s) is not read from GGUF; long prompts are answered worse than the original does",
            name,
            ", ".join(sorted(kinds)) or TENSOR,
        )


def _llama3(config: Any, divisors: Any) -> dict[str, Any]:
    return {**config.rope_parameters, **LLAMA3, "rope_type": "llama3", "factor": float(round(divisors.max(), 4))}


def _is_llama3(config: Any, divisors: Any) -> bool:
    """Whether Llama 3's formula gives these divisors."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = getattr(config, "rope_parameters", None)
    if not isinstance(plain, dict) or plain.get("rope_type", "default") != "default":
        return False
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    base = 1.0 / plain["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (dim / 2,)
    try:
        config.rope_parameters = _llama3(config, divisors)
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double()
    finally:
        config.rope_parameters = plain
    expected = (base / scaled).numpy()
    return expected.shape == divisors.shape and bool(np.allclose(expected, divisors, rtol=1e-3))
