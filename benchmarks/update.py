"""Arithmetic that an update needs, a second, over what the machine's matrix unit reaches in the same run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import LORA
from benchmarks.workers import SIRL_ENV, Contender, Turns
from benchmarks.workload import Size, prompt_ids

PEAK_SHAPES = ((2048, 4096, 4096), (4096, 2048, 8192), (4096, 576, 1536), (4096, 1536, 576))


def flops_of_update(config: Any, prompts: list[int], completions: list[list[int]], rank: int) -> float:
    """Multiplications and additions of reference pass, policy pass and gradients with LoRA of `rank`.

    `prompts` are lengths, `completions` the lengths of each prompt's responses. Counted is what the task needs: every
    prompt once, no padding, logits where a completion token is predicted, attention where it is causal; no
    recomputation. A product of an activation with a frozen weight costs once forwards, once for the gradient of the
    activation, a product with an adapter once more for the gradient of the adapter.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    weights = sum(i * o for i, o in shapes)
    adapters = sum(rank * (i + o) for i, o in shapes)
    predicted = sum(map(sum, completions))
    # a prompt's last token opens each of its branches, a completion's last token predicts nothing
    tokens = sum(p - 1 for p in prompts) + predicted
    pairs = 0.0
    for prompt, lengths in zip(prompts, completions, strict=True):
        stem = prompt - 1
        pairs += stem * (stem + 1) / 2
        pairs += sum(n * stem + n * (n + 1) / 2 for n in lengths)
    attention = 2 * 2 * pairs * q  # scores, and the sum of values
    head = 2 * predicted * hidden * config.vocab_size
    layers = config.num_hidden_layers
    reference = layers * (2 * tokens * weights + attention) + head
    policy = layers * (2 * tokens * (weights + adapters) + attention) + head
    backward = layers * (2 * tokens * (weights + 2 * adapters) + 2 * attention) + head
    return reference + policy + backward


def matmul_peak(seconds: float = 2.0) -> float:
    """Best bf16 matrix-product rate, FLOP/s, over some shapes."""
    best = 0.0
    for n, k, m in PEAK_SHAPES:
        a, b = torch.randn(n, k).bfloat16(), torch.randn(k, m).bfloat16()
        out = torch.empty(n, m, dtype=torch.bfloat16)
        end = time.perf_counter() + seconds / len(PEAK_SHAPES)
        while time.perf_counter() < end:
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * n * k * m / (time.perf_counter() - started))
    return best


def sirl_update(turns: Turns, folder: Path, size: Size) -> None:
    """Reference pass, policy pass, backward pass and optimizer step on the packed batch of one step."""
    from peft import LoraConfig, get_peft_model

    from sirl.models import load_model
    from sirl.training.cpu_layers import use_cpu_layers
    from sirl.training.lora import forget_formed, materialise_lora
    from sirl.training.packed import add_packed_forward, pack, packed_scores

    base = load_model(str(folder))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **LORA))
    materialise_lora(model)
    add_packed_forward(model.get_base_model())
    use_cpu_layers(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    generator = torch.Generator().manual_seed(0)
    prompts = prompt_ids(folder, size.prompts)
    answers = [
        torch.randint(10, model.config.vocab_size, (size.group, size.tokens), generator=generator).tolist()
        for _ in prompts
    ]
    packed = pack([p for p in prompts for _ in range(size.group)], [a for group in answers for a in group], model.dtype)
    assert packed is not None
    lengths = [[size.tokens] * size.group for _ in prompts]
    flops = flops_of_update(model.config, [len(p) for p in prompts], lengths, LORA["r"])
    while turns.next():
        peak = matmul_peak()
        started = time.perf_counter()
        with torch.no_grad(), model.disable_adapter():
            reference, _ = packed_scores(model, packed, 1.0, False)
        logps, _ = packed_scores(model, packed, 1.0, True)
        distance = reference - logps
        loss = (distance.exp() - distance - 1).mean() - logps.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        forget_formed(model)
        seconds = time.perf_counter() - started
        turns.done(seconds=seconds, flops=flops, peak=peak, fraction=flops / seconds / peak)


def contenders(folder: Path, size: Size) -> list[Contender]:
    """Our update alone: there is nobody to compare with but the machine."""
    return [Contender("update", sirl_update, {"folder": folder, "size": size}, SIRL_ENV)]
