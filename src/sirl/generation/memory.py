"""How much memory the keys and values of a batch may take."""

from __future__ import annotations

import torch

CACHE_BYTES = 2 << 30
"""On a CPU, and where the device does not say what it has."""

SHARE = 0.5
"""Of an accelerator's free memory. The rest is for the prompts' own pass, logits, and rows that are copied."""


def cache_bytes(device: torch.device, most_gb: float | None = None) -> int:
    """The bound in bytes: `most_gb` GiB where it is given, else what goes with the device."""
    if most_gb is not None:
        return int(most_gb * (1 << 30))
    free = free_bytes(device)
    return CACHE_BYTES if free is None else int(SHARE * free)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a CUDA device that is free, or that torch holds and does not use; None for any other device."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
