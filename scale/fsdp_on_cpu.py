"""`sirl`, with accelerate's FSDP let onto CPUs: `accelerate launch --config_file ... scale/fsdp_on_cpu.py train ...`.

accelerate offers FSDP on accelerators alone: without one it forgets that FSDP was asked for, and trains apart on every
process. Told that these are GPUs, and that their device is the CPU and their backend gloo, it takes the way that it
takes on GPUs; torch's FSDP2 and everything of sirl are as they are.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def _backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


def _device(state: Any) -> None:
    state.device = torch.device("cpu")


if __name__ == "__main__":
    PartialState._prepare_backend = _backend
    PartialState.set_device = _device
    from sirl.cli.main import entry

    sys.exit(entry())
