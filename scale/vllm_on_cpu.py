"""`sirl`, with TRL's own vLLM told not to compile: `python scale/vllm_on_cpu.py train --use_vllm true ...`.

TRL passes no `enforce_eager` on to the vLLM that it starts next to training, and compiling for a CPU takes longer than
a training of a tiny model. float32, so that what vLLM draws and what the trainer scores are the same policy. All else
of TRL, vLLM and sirl is as it is.
"""

from __future__ import annotations

import functools
import sys

import vllm

if __name__ == "__main__":
    vllm.LLM = functools.partial(vllm.LLM, enforce_eager=True, dtype="float32")
    from sirl.cli.main import entry

    sys.exit(entry())
