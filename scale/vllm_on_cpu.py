"""`sirl`, with TRL's own vLLM told not to compile: `python scale/vllm_on_cpu.py train --use_vllm true ...`.

TRL passes no `enforce_eager` on to the vLLM that it starts next to training, and compiling for a CPU takes longer than
a training of a tiny model. float32, so that what vLLM draws and what the trainer scores are the same policy. On a CPU
vLLM lays weights out anew and drops them, so that TRL's updated ones find no place ("'Parameter' object has no
attribute 'weight_loader'"); here it multiplies by the weights as they are. All else of TRL, vLLM and sirl is as it is.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import vllm
from torch.nn import functional
from vllm.model_executor.layers import utils


def _plain(layer: Any, **_: Any) -> None:
    layer.cpu_linear = functional.linear


if __name__ == "__main__":
    vllm.LLM = functools.partial(vllm.LLM, enforce_eager=True, dtype="float32")
    utils.dispatch_cpu_unquantized_gemm = _plain
    from sirl.cli.main import entry

    sys.exit(entry())
