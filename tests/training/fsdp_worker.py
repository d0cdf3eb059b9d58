"""Rollouts and packed scoring of a model whose parameters are sharded (FSDP2); `ranks.py` starts it.

accelerate shards on accelerators only, so this shards by itself, on CPUs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# what is imported below is found by way of these paths
# ruff: noqa: E402
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(Path(__file__).parents[1])]

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sirl.generation import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.models import load_model
from sirl.training.cpu_layers import use_cpu_layers
from sirl.training.packed import add_packed_forward, pack, packed_scores
from sirl.training.sharding import in_step
from tiny_models import PROMPTS, chat_ids, tiny_tokenizer

ANSWERS = [[5, 9, 40], [77], [100, 101, 102, 103], [30, 31], [8, 8, 9], [60, 61], [90, 14, 15, 16], [3]]


def draw(model: Any, texts: Sequence[str]) -> list[Any]:
    """Token ids and entropies of answers to some of the prompts: another process has more or fewer of them."""
    tokenizer = tiny_tokenizer()
    with in_step(model):
        engine = LocalEngine(model.eval(), tokenizer, max_rows=4)
        groups = engine.rollout(chat_ids(tokenizer, texts), SamplingParams(12, 1.0, n=2, seed=1))
    return [(r.token_ids, r.entropies) for group in groups for r in group]


def main() -> None:
    """Answers, then gradients of a loss over all rows: each process has its share of them, and of the parameters."""
    torch.set_num_threads(1)
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    model = load_model(sys.argv[1], dtype=torch.float32)
    add_packed_forward(model)
    use_cpu_layers(model)
    if processes > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
    answers = draw(model, PROMPTS[::2] if processes == 1 else (PROMPTS[:6:2], PROMPTS[6::2])[rank])
    rows = [*zip(chat_ids(tiny_tokenizer(), PROMPTS[:4]), ANSWERS[::2], strict=True)]
    rows += zip(chat_ids(tiny_tokenizer(), PROMPTS[:4]), ANSWERS[1::2], strict=True)
    share = len(rows) // processes
    mine = rows[rank * share : (rank + 1) * share]
    packed = pack([p for p, _ in mine], [a for _, a in mine], torch.float32)
    assert packed is not None
    logps, entropies = packed_scores(model, packed, 1.0, True)
    (logps.square().sum() / len(rows) * processes).backward()  # gradients are averaged over processes
    whole = {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad) for name, p in model.named_parameters()
    }
    out = Path(sys.argv[2])
    out.mkdir(exist_ok=True)
    torch.save(
        {"answers": answers, "logps": logps.detach(), "entropies": entropies, "grads": whole}, out / f"{rank}.pt"
    )
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
