"""What a training of a size takes of memory and time, by arithmetic: `python -m scale.plan`.

Memory is that of `sirl.training.memory`. Time counts products alone, 2 FLOPs a parameter and token of a forward pass,
at a share of what a GPU can do at best.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from transformers import LlamaConfig

from sirl.training.memory import ModelSize, Shape, model_size, training_memory

GPU_BYTES = 80 * 10**9
PEAK = 990e12
"""FLOPs a second of an H100 in bfloat16, without sparsity."""

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


@dataclass(frozen=True)
class Work:
    """Prompts with `group` responses each, in tokens."""

    prompts: int = 15_000
    group: int = 4
    prompt: int = 100
    completion: int = 400

    @property
    def drawn(self) -> int:
        """Tokens that rollouts draw."""
        return self.prompts * self.group * self.completion

    @property
    def scored(self) -> int:
        """Tokens that go through the model in an update, the prompt once for each response."""
        return self.prompts * self.group * (self.prompt + self.completion)


@dataclass(frozen=True)
class Plan:
    """A training on `gpus` GPUs. `drawn_a_second` are tokens a second of all that draw; an assumption."""

    name: str
    size: ModelSize
    shape: Shape
    gpus: int
    used: float
    drawn_a_second: float

    def memory(self) -> dict[str, int]:
        """Bytes of each GPU that trains, by what they are for."""
        return training_memory(self.size, self.shape)

    def update_flops(self, work: Work) -> float:
        """Of updates: the reference's pass, the policy's, the same again where checkpointed, one or two backwards."""
        passes = [self.shape.reference, True, self.shape.checkpointing, True, not self.shape.lora]
        return 2.0 * self.size.parameters * work.scored * sum(passes)

    def minutes(self, work: Work) -> tuple[float, float]:
        """Of updates and of rollouts."""
        seconds = self.update_flops(work) / (self.gpus * PEAK * self.used)
        return seconds / 60, work.drawn / self.drawn_a_second / 60


def plans() -> list[Plan]:
    """The three of docs/scale.md."""
    from peft import LoraConfig

    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    small, large = LlamaConfig(**LLAMA_8B), LlamaConfig(**LLAMA_70B)
    adapted = Shape(
        weight=2,
        compute=2,
        lora=True,
        rows=4,
        group=4,
        prompt=1024,
        completion=3072,
        reference=True,
        checkpointing=True,
        vllm=24 * 10**9,
    )
    # in full: float32 weights, gradients and two moments, the reference in bfloat16
    full = replace(adapted, weight=4, lora=False, vllm=0, shards=8)
    return [
        Plan("8B, LoRA, DDP, 8 GPUs", model_size(small, lora), adapted, 8, 0.35, 8 * 10_000),
        Plan("8B in full, FSDP2, 8 GPUs", model_size(small), replace(full, vllm=24 * 10**9), 8, 0.35, 8 * 10_000),
        Plan("70B in full, FSDP2, 56 GPUs", model_size(large), replace(full, rows=1, shards=56), 56, 0.35, 6_000),
    ]


def rows() -> list[str]:
    """The table of docs/scale.md, which a test compares."""
    work = Work()
    lines = ["| plan | GB a GPU, of 80 | of which | updates | rollouts |", "| --- | --- | --- | --- | --- |"]
    for plan in plans():
        parts = plan.memory()
        updates, rollouts = plan.minutes(work)
        inside = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in parts.items())
        lines.append(
            f"| {plan.name} | {sum(parts.values()) / 1e9:.1f} | {inside} | {updates:.0f} min | {rollouts:.0f} min |"
        )
    return lines


def main() -> int:
    """Print it."""
    print("\n".join(rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
